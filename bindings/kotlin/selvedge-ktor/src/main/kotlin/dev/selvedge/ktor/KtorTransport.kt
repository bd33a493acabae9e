package dev.selvedge.ktor

import dev.selvedge.Header
import dev.selvedge.HttpTransport
import dev.selvedge.SelvedgeException
import io.ktor.client.HttpClient
import io.ktor.client.request.request
import io.ktor.client.request.setBody
import io.ktor.client.statement.readRawBytes
import io.ktor.http.ContentType
import io.ktor.http.HttpHeaders
import io.ktor.http.HttpMethod
import io.ktor.http.content.ByteArrayContent
import io.ktor.util.flattenEntries
import kotlin.coroutines.cancellation.CancellationException
import dev.selvedge.HttpRequest as Request
import dev.selvedge.HttpResponse as Response

/**
 * Sends the outbox's requests by Ktor, below one address. The engine and its timeouts are the client's; redirects are not
 * followed.
 *
 * ```
 * engine.flush(KtorTransport("https://api.example.com", HttpClient()))
 * ```
 *
 * @param server the address, with a path if the API lies below one
 * @param client the app's client; it must not repeat requests by itself
 */
public class KtorTransport(
    server: String,
    client: HttpClient,
) : HttpTransport {
    private val server = server.removeSuffix("/")
    private val client =
        client.config {
            followRedirects = false
            expectSuccess = false
        }

    override suspend fun send(request: Request): Response =
        try {
            val type = request.headers.firstOrNull { it.name == "content-type" }?.let { ContentType.parse(it.value) }
            val response =
                client.request(server + request.path) {
                    method = HttpMethod(request.method)
                    // Ktor writes these two itself, from the body.
                    request.headers.filterNot { it.name in BODY }.forEach { headers.append(it.name, it.value) }
                    setBody(ByteArrayContent(request.body, type))
                }
            val headers = response.headers.flattenEntries().map { (name, value) -> Header(name, value) }
            Response(response.status.value.toUShort(), headers, response.readRawBytes())
        } catch (cancelled: CancellationException) {
            throw cancelled
        } catch (error: Exception) {
            throw SelvedgeException.Unavailable("$server${request.path} was not reached: $error")
        }

    private companion object {
        val BODY = setOf(HttpHeaders.ContentType.lowercase(), HttpHeaders.ContentLength.lowercase())
    }
}
