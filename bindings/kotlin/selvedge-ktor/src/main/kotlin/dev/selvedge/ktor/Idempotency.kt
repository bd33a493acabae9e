package dev.selvedge.ktor

import io.ktor.client.HttpClientConfig
import io.ktor.client.plugins.HttpRequestRetry
import io.ktor.client.plugins.api.ClientPlugin
import io.ktor.client.plugins.api.createClientPlugin
import io.ktor.http.HttpMethod
import java.util.UUID

/** How requests get their keys. */
public class IdempotencyConfig {
    /** The methods that are given a key. */
    public var methods: Set<HttpMethod> = setOf(HttpMethod.Post, HttpMethod.Patch)

    /** Makes a key. */
    public var newKey: () -> String = { UUID.randomUUID().toString() }
}

/**
 * Gives a request that changes something an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header). Whoever repeats it
 * (`HttpRequestRetry`, see [idempotent]) repeats the same key.
 *
 * ```
 * val client = HttpClient { install(Idempotency) }
 * ```
 */
public val Idempotency: ClientPlugin<IdempotencyConfig> =
    createClientPlugin("Idempotency", ::IdempotencyConfig) {
        val (methods, newKey) = pluginConfig.methods to pluginConfig.newKey
        onRequest { request, _ ->
            if (request.method in methods && KEY !in request.headers) request.headers.append(KEY, "\"${newKey()}\"")
        }
    }

/**
 * Installs [Idempotency] and Ktor's `HttpRequestRetry`: requests with a key are repeated while they fail in a way that may
 * pass: no connection, status 408, 409 with `Retry-After` (the first attempt still runs), 425, 429, 500, 502, 503, 504.
 *
 * It forgets a request with the process; what must survive that is `Engine.submit`'s.
 *
 * @param attempts how often a request is sent at most
 * @param backoffMs the base of the pauses, in ms; they double, and `Retry-After` goes before them
 */
public fun HttpClientConfig<*>.idempotent(
    attempts: Int = 4,
    backoffMs: Long = 500,
) {
    install(Idempotency)
    install(HttpRequestRetry) {
        retryIf(attempts - 1) { request, response ->
            val status = response.status.value
            KEY in request.headers && (status in PASSING || (status == 409 && "Retry-After" in response.headers))
        }
        retryOnExceptionIf(attempts - 1) { request, cause ->
            KEY in request.headers && cause !is kotlin.coroutines.cancellation.CancellationException
        }
        exponentialDelay(baseDelayMs = backoffMs, randomizationMs = backoffMs)
    }
}

private const val KEY = "Idempotency-Key"
private val PASSING = setOf(408, 425, 429, 500, 502, 503, 504)
