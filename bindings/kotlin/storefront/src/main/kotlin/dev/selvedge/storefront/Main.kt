/**
 * The phone's half of the storefront: orders, and then shoppers at a paywall. [USAGE] names its arguments.
 *
 * Prints `submitted KEY TRACE_ID` for each order once it is written down, and at its end its counts as JSON. It ends with an
 * error when the server's report does not tell of the people and the money that it knows of.
 */
package dev.selvedge.storefront

import dev.selvedge.Call
import dev.selvedge.ChatMessage
import dev.selvedge.ChatRequest
import dev.selvedge.Engine
import dev.selvedge.HttpRequest
import dev.selvedge.HttpResponse
import dev.selvedge.HttpTransport
import dev.selvedge.IntentFilter
import dev.selvedge.ModelConfig
import dev.selvedge.NewIntent
import dev.selvedge.SelvedgeException
import dev.selvedge.ffi.IntentState
import dev.selvedge.okhttp.OkHttpTransport
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.fold
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.serialization.json.buildJsonObject
import kotlinx.serialization.json.put
import kotlinx.serialization.json.putJsonObject
import java.io.File
import java.nio.file.Files
import java.util.UUID
import java.util.concurrent.atomic.AtomicInteger
import kotlin.random.Random
import kotlin.system.exitProcess

private val GOODS = listOf("green tea" to 450, "black tea" to 390, "tea pot" to 2900, "cup" to 850)
private const val USAGE =
    "usage: storefront --server URL [--orders N] [--drop-rate SHARE] [--shoppers N --trusted-key ID=HEX] [--model FILE] " +
        "[--database FILE]"
private const val QUESTION = "Which tea has less caffeine, green or black? Answer in one sentence."

fun main(arguments: Array<String>) {
    val pairs = arguments.toList().chunked(2).filter { it.size == 2 }
    val options = pairs.associate { (name, value) -> name.removePrefix("--") to value }
    val server =
        options["server"] ?: run {
            System.err.println(USAGE)
            exitProcess(2)
        }
    val folder = Files.createTempDirectory("storefront").toFile()
    val status =
        try {
            runBlocking(Dispatchers.Default) { story(server, options, folder) }
            0
        } catch (error: Exception) {
            System.err.println(error.stackTraceToString())
            1
        } finally {
            folder.deleteRecursively()
        }
    // OkHttp's threads would keep the process for a minute.
    exitProcess(status)
}

private suspend fun story(
    server: String,
    options: Map<String, String>,
    folder: File,
) = coroutineScope {
    val models = listOfNotNull(options["model"]?.let { ModelConfig(it) })
    val database = options["database"] ?: folder.resolve("phone.db").path
    Engine.open(database, models, experiments = placements(options["trusted-key"])).use { engine ->
        if (models.isNotEmpty()) ask(engine)
        repeat(options["orders"]?.toInt() ?: 20) { order(engine, it) }
        val network = OkHttpTransport(server)
        val link = BadLink(network, options["drop-rate"]?.toDouble() ?: 0.3)
        val relay = launch { engine.relay(link) }
        while (engine.intents(IntentFilter(state = IntentState.PENDING)).items.isNotEmpty()) delay(20)
        relay.cancelAndJoin()
        val shoppers = options["shoppers"]?.toInt() ?: 0
        val account = if (shoppers > 0) paywall(engine, link, network, shoppers) else null
        println(counts(link, account))
    }
}

private fun counts(
    link: BadLink,
    account: Account?,
) = buildJsonObject {
    put("attempts", link.attempts.get())
    put("drops", link.drops.get())
    put("repeats", link.repeats.get())
    if (account != null) {
        putJsonObject("paywall") {
            put("shoppers", account.shoppers)
            put("paid", account.paid)
            putJsonObject("events") { account.events.forEach { (name, count) -> put(name, count) } }
        }
    }
}

private suspend fun ask(engine: Engine) {
    val request = ChatRequest(listOf(ChatMessage("user", QUESTION)), maxTokens = 80u)
    val answer = engine.chat(request).fold("") { answer, part -> answer + part.text }
    println("shopper: $QUESTION\nphone: ${answer.replace('\n', ' ')}")
}

private suspend fun order(
    engine: Engine,
    number: Int,
) {
    val (item, cents) = GOODS[number % GOODS.size]
    val trace = UUID.randomUUID().toString().replace("-", "")
    val order =
        NewIntent(
            "orders.create",
            """{"item":"$item","cents":$cents}""".encodeToByteArray(),
            businessKey = item,
            backoffBaseMs = 50uL,
            backoffMaxMs = 1000uL,
        )
    val submitted = engine.submit(order, Call(traceparent = "00-$trace-00f067aa0ba902b7-01"))
    println("submitted ${submitted.key} $trace")
}

/** A link as bad as a train ride: it drops, delays and repeats, and counts what it did. */
private class BadLink(
    private val inner: HttpTransport,
    private val dropRate: Double,
) : HttpTransport {
    val attempts = AtomicInteger()
    val drops = AtomicInteger()
    val repeats = AtomicInteger()

    override suspend fun send(request: HttpRequest): HttpResponse {
        attempts.incrementAndGet()
        delay(Random.nextLong(20))
        if (happens()) throw lost("request")
        if (happens()) {
            repeats.incrementAndGet()
            inner.send(request)
        }
        val response = inner.send(request)
        if (happens()) throw lost("response")
        return response
    }

    private fun happens() = Random.nextDouble() < dropRate

    private fun lost(what: String): SelvedgeException {
        drops.incrementAndGet()
        return SelvedgeException.Unavailable("the link dropped the $what")
    }
}
