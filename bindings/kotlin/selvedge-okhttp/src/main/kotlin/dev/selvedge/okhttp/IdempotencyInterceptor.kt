package dev.selvedge.okhttp

import okhttp3.Interceptor
import okhttp3.Request
import okhttp3.Response
import java.io.IOException
import java.util.UUID
import kotlin.random.Random
import kotlin.time.Duration
import kotlin.time.Duration.Companion.milliseconds
import kotlin.time.Duration.Companion.seconds

/**
 * Makes a repeated request harmless: a request that changes something is given an `Idempotency-Key`
 * (draft-ietf-httpapi-idempotency-key-header), and is repeated with the same key while it fails in a way that may pass.
 *
 * Repeated are: no connection, and status 408, 409 with `Retry-After` (the first attempt still runs), 425, 429, 500, 502, 503
 * and 504. It forgets the request with the process; what must survive that is `Engine.submit`'s.
 *
 * ```
 * val client = OkHttpClient.Builder().addInterceptor(IdempotencyInterceptor()).build()
 * ```
 *
 * @property attempts how often a request is sent at most
 * @property backoff the longest pause before the second attempt; it doubles each time, each pause is random up to that, and
 *   `Retry-After` goes before it
 * @property methods the methods that are given a key; others are repeated by nobody
 * @property newKey makes a key
 */
public class IdempotencyInterceptor(
    private val attempts: Int = 4,
    private val backoff: Duration = 500.milliseconds,
    private val methods: Set<String> = setOf("POST", "PATCH"),
    private val newKey: () -> String = { UUID.randomUUID().toString() },
) : Interceptor {
    override fun intercept(chain: Interceptor.Chain): Response {
        val request = chain.request()
        if (request.method !in methods) return chain.proceed(request)
        val keyed = if (request.header(KEY) == null) request.newBuilder().header(KEY, "\"${newKey()}\"").build() else request
        for (attempt in 1..<attempts.coerceAtLeast(1)) {
            val pause =
                try {
                    val response = chain.proceed(keyed)
                    if (!passes(response) || !repeatable(keyed)) return response
                    response.use { it.header("Retry-After")?.toLongOrNull()?.seconds }
                } catch (error: IOException) {
                    if (chain.call().isCanceled() || !repeatable(keyed)) throw error
                    null
                }
            Thread.sleep((pause ?: random(attempt)).coerceAtMost(MOST).inWholeMilliseconds)
            if (chain.call().isCanceled()) throw IOException("Canceled")
        }
        return chain.proceed(keyed)
    }

    private fun random(attempt: Int): Duration = backoff * (1 shl (attempt - 1).coerceAtMost(16)) * Random.nextDouble()

    private fun repeatable(request: Request) = request.body?.isOneShot() != true

    private fun passes(response: Response) =
        response.code in PASSING || (response.code == 409 && response.header("Retry-After") != null)

    private companion object {
        const val KEY = "Idempotency-Key"
        val PASSING = setOf(408, 425, 429, 500, 502, 503, 504)
        val MOST = 60.seconds
    }
}
