package dev.selvedge.ktor

import dev.selvedge.Header
import dev.selvedge.HttpRequest
import dev.selvedge.SelvedgeException
import io.ktor.client.HttpClient
import io.ktor.client.engine.cio.CIO
import io.ktor.client.request.get
import io.ktor.client.request.header
import io.ktor.client.request.post
import io.ktor.client.request.setBody
import kotlinx.coroutines.runBlocking
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull

/** Against a real server on loopback that answers in a given order. */
class KtorTest {
    private val server = MockWebServer().apply { start() }
    private val url = server.url("/orders").toString()
    private val client = HttpClient(CIO) { idempotent(backoffMs = 1) }

    @AfterTest
    fun close() {
        client.close()
        server.close()
    }

    private fun answer(vararg statuses: Int) = statuses.forEach { server.enqueue(MockResponse(code = it, body = "{}")) }

    private fun keys() = List(server.requestCount) { server.takeRequest().headers["Idempotency-Key"] }

    @Test
    fun `a request is repeated with the same key`() =
        runBlocking {
            answer(503, 429, 201)
            assertEquals(201, client.post(url) { setBody("{}") }.status.value)
            val keys = keys()
            assertEquals(3, keys.size)
            assertEquals(1, keys.toSet().size)
            assertEquals('"', keys[0]?.first())
        }

    @Test
    fun `a key of the app is kept, and an answer is not repeated`() =
        runBlocking {
            answer(422)
            val response = client.post(url) { header("Idempotency-Key", "\"cart-17\"") }
            assertEquals(422, response.status.value)
            assertEquals(listOf<String?>("\"cart-17\""), keys())
        }

    @Test
    fun `the last attempt's answer is given`() =
        runBlocking {
            answer(503, 503, 503, 503)
            assertEquals(503, client.post(url).status.value)
            assertEquals(4, server.requestCount)
        }

    @Test
    fun `reading has no key and is not repeated`() =
        runBlocking {
            answer(503)
            assertEquals(503, client.get(url).status.value)
            assertNull(keys().single())
        }

    @Test
    fun `a transport sends the outbox's headers and gives the whole answer`() =
        runBlocking {
            answer(201)
            val headers = listOf(Header("idempotency-key", "\"k\""), Header("content-type", "application/json"))
            val response = transport().send(HttpRequest("POST", "/v1/intents", headers, "{}".encodeToByteArray()))
            assertEquals("201 {}", "${response.status} ${response.body.decodeToString()}")
            val seen = server.takeRequest()
            assertEquals("\"k\" application/json", "${seen.headers["Idempotency-Key"]} ${seen.headers["Content-Type"]}")
            assertEquals("{}", seen.body?.utf8())
        }

    @Test
    fun `a redirect is an answer`() =
        runBlocking {
            server.enqueue(
                MockResponse
                    .Builder()
                    .code(302)
                    .addHeader("Location", "/elsewhere")
                    .build(),
            )
            assertEquals(302u, transport().send(HttpRequest("POST", "/", emptyList(), ByteArray(0))).status.toUInt())
            assertEquals(1, server.requestCount)
        }

    @Test
    fun `a server that is not there is unavailable`() {
        val transport = transport()
        server.close()
        assertFailsWith<SelvedgeException.Unavailable> {
            runBlocking { transport.send(HttpRequest("POST", "/", emptyList(), ByteArray(0))) }
        }
    }

    private fun transport() = KtorTransport(server.url("/").toString(), HttpClient(CIO))
}
