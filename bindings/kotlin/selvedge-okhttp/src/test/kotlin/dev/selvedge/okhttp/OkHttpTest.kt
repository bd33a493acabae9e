package dev.selvedge.okhttp

import dev.selvedge.HttpRequest
import dev.selvedge.SelvedgeException
import kotlinx.coroutines.runBlocking
import mockwebserver3.MockResponse
import mockwebserver3.MockWebServer
import okhttp3.OkHttpClient
import okhttp3.Request
import okhttp3.RequestBody
import okhttp3.RequestBody.Companion.toRequestBody
import okio.BufferedSink
import java.io.IOException
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotEquals
import kotlin.test.assertNull
import kotlin.time.Duration.Companion.milliseconds

/** Against a real server on loopback that answers in a given order. */
class OkHttpTest {
    private val server = MockWebServer().apply { start() }
    private val client = OkHttpClient.Builder().addInterceptor(IdempotencyInterceptor(backoff = 1.milliseconds)).build()

    @AfterTest fun close() = server.close()

    private fun answer(vararg statuses: Int) = statuses.forEach { server.enqueue(MockResponse(code = it, body = "{}")) }

    private fun post(
        body: RequestBody = "{}".toRequestBody(),
        key: String? = null,
    ): Request {
        val builder = Request.Builder().url(server.url("/orders")).post(body)
        return key?.let { builder.header("Idempotency-Key", it) }?.build() ?: builder.build()
    }

    private fun keys() = List(server.requestCount) { server.takeRequest().headers["Idempotency-Key"] }

    @Test
    fun `a request is repeated with the same key`() {
        answer(503, 429, 201)
        client.newCall(post()).execute().use { assertEquals(201, it.code) }
        val keys = keys()
        assertEquals(3, keys.size)
        assertEquals(1, keys.toSet().size)
        assertEquals('"', keys[0]?.first())
    }

    @Test
    fun `two requests have two keys`() {
        answer(201, 201)
        repeat(2) { client.newCall(post()).execute().close() }
        val (one, other) = keys()
        assertNotEquals(one, other)
    }

    @Test
    fun `a key of the app is kept, and an answer is not repeated`() {
        answer(422)
        client.newCall(post(key = "\"cart-17\"")).execute().use { assertEquals(422, it.code) }
        assertEquals(listOf<String?>("\"cart-17\""), keys())
    }

    @Test
    fun `an attempt that still runs is waited for`() {
        server.enqueue(
            MockResponse
                .Builder()
                .code(409)
                .addHeader("Retry-After", "0")
                .build(),
        )
        answer(201)
        client.newCall(post()).execute().use { assertEquals(201, it.code) }
        answer(409)
        client.newCall(post()).execute().use { assertEquals(409, it.code) }
    }

    @Test
    fun `the last attempt's answer is given`() {
        answer(503, 503, 503, 503)
        client.newCall(post()).execute().use { assertEquals(503, it.code) }
        assertEquals(4, server.requestCount)
    }

    @Test
    fun `a body that can be read once is sent once`() {
        answer(503)
        val once =
            object : RequestBody() {
                override fun contentType() = null

                override fun isOneShot() = true

                override fun writeTo(sink: BufferedSink) {
                    sink.writeUtf8("{}")
                }
            }
        client.newCall(post(once)).execute().use { assertEquals(503, it.code) }
        assertEquals(1, server.requestCount)
    }

    @Test
    fun `reading has no key`() {
        answer(200)
        client.newCall(Request.Builder().url(server.url("/")).build()).execute().close()
        assertNull(keys().single())
    }

    @Test
    fun `a server that is not there is an error`() {
        val request = post()
        server.close()
        assertFailsWith<IOException> { client.newCall(request).execute() }
        val transport = OkHttpTransport(request.url.resolve("/").toString())
        assertFailsWith<SelvedgeException.Unavailable> {
            runBlocking { transport.send(HttpRequest("POST", "/v1/intents", emptyList(), ByteArray(0))) }
        }
    }

    @Test
    fun `a redirect is an answer`() {
        server.enqueue(
            MockResponse
                .Builder()
                .code(302)
                .addHeader("Location", "/elsewhere")
                .build(),
        )
        val transport = OkHttpTransport(server.url("/").toString())
        val response = runBlocking { transport.send(HttpRequest("POST", "/v1/intents", emptyList(), ByteArray(0))) }
        assertEquals(302u, response.status.toUInt())
        assertEquals(1, server.requestCount)
    }
}
