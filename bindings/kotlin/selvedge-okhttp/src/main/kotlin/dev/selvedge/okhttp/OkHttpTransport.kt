package dev.selvedge.okhttp

import dev.selvedge.Header
import dev.selvedge.HttpRequest
import dev.selvedge.HttpResponse
import dev.selvedge.HttpTransport
import dev.selvedge.SelvedgeException
import kotlinx.coroutines.suspendCancellableCoroutine
import okhttp3.Call
import okhttp3.Callback
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody.Companion.toRequestBody
import okhttp3.Response
import java.io.IOException
import kotlin.coroutines.resume
import kotlin.coroutines.resumeWithException

/**
 * Sends the outbox's requests by OkHttp, below one address. The client's pool, certificates and timeouts are used; its
 * redirects and repetitions are not, because the outbox repeats by itself.
 *
 * ```
 * engine.flush(OkHttpTransport("https://api.example.com", client))
 * ```
 *
 * @param server the address, with a path if the API lies below one
 * @param client the app's client; interceptors of its own are kept
 */
public class OkHttpTransport(
    server: String,
    client: OkHttpClient = OkHttpClient(),
) : HttpTransport {
    private val server = server.removeSuffix("/")
    private val client =
        client
            .newBuilder()
            .followRedirects(false)
            .followSslRedirects(false)
            .retryOnConnectionFailure(false)
            .build()

    override suspend fun send(request: HttpRequest): HttpResponse {
        val builder = Request.Builder().url(server + request.path)
        request.headers.forEach { builder.header(it.name, it.value) }
        // OkHttp refuses a body where a method has none.
        val body = if (request.method == "GET" || request.method == "HEAD") null else request.body.toRequestBody()
        return client.newCall(builder.method(request.method, body).build()).whole()
    }
}

/** Waits for the whole response; a cancelled coroutine ends the call. */
private suspend fun Call.whole(): HttpResponse =
    suspendCancellableCoroutine { waiting ->
        waiting.invokeOnCancellation { cancel() }
        enqueue(
            object : Callback {
                override fun onResponse(
                    call: Call,
                    response: Response,
                ) {
                    val whole =
                        runCatching {
                            response.use {
                                val headers = it.headers.map { (name, value) -> Header(name, value) }
                                HttpResponse(it.code.toUShort(), headers, it.body.bytes())
                            }
                        }
                    whole.fold({ waiting.resume(it) }, { waiting.resumeWithException(unreached(call, it)) })
                }

                override fun onFailure(
                    call: Call,
                    e: IOException,
                ) = waiting.resumeWithException(unreached(call, e))
            },
        )
    }

private fun unreached(
    call: Call,
    error: Throwable,
) = SelvedgeException.Unavailable("${call.request().url} was not reached: $error")
