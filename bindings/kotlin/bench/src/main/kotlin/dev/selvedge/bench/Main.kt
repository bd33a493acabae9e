/**
 * What a call costs: the façade beside the generated code alone, and that beside a bare call by JNA. One JSON object a line.
 *
 * `cargo xtask bench ffi` runs it; `--quick` shortens it.
 */
package dev.selvedge.bench

import com.sun.jna.Native
import dev.selvedge.Engine
import dev.selvedge.HttpRequest
import dev.selvedge.HttpResponse
import dev.selvedge.HttpTransport
import dev.selvedge.NewIntent
import dev.selvedge.SelvedgeException
import dev.selvedge.ffi.Call
import dev.selvedge.ffi.CancelHandle
import dev.selvedge.ffi.Durability
import dev.selvedge.ffi.EngineException
import dev.selvedge.ffi.Start
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.runBlocking
import java.io.File
import java.nio.file.Files
import kotlin.system.exitProcess
import dev.selvedge.ffi.Engine as NativeEngine
import dev.selvedge.ffi.HttpTransport as NativeTransport

/** A function of the library that takes nothing and gives a number, bound directly: the least that JNA costs. */
private object Bare {
    init {
        Native.register(Bare::class.java, "selvedge_ffi")
    }

    @JvmStatic
    @Suppress("ktlint:standard:function-naming") // The library's name for it.
    external fun ffi_selvedge_ffi_uniffi_contract_version(): Int
}

/** What is done again and again. */
private class Layer(
    val name: String,
    val call: suspend () -> Unit,
) {
    val times = mutableListOf<Double>()

    /** Nanoseconds a call, over so many. */
    suspend fun time(calls: Int): Double {
        val start = System.nanoTime()
        repeat(calls) { call() }
        return (System.nanoTime() - start).toDouble() / calls
    }
}

private val ANSWER = HttpResponse(201u, emptyList(), "{}".encodeToByteArray())

fun main(arguments: Array<String>) {
    val quick = "--quick" in arguments
    val folder = Files.createTempDirectory("bench").toFile()
    try {
        runBlocking { measure(folder, quick) }
    } finally {
        folder.deleteRecursively()
    }
    exitProcess(0)
}

private suspend fun measure(
    folder: File,
    quick: Boolean,
) {
    val facade = Engine.open(folder.resolve("app.db").path, durability = Durability.FAST)
    // One engine for both: a second has threads of its own, which the system may treat otherwise.
    val native = Engine::class.java.getDeclaredField("native").apply { isAccessible = true }
    val uniffi = native.get(facade) as NativeEngine
    val call = Call()
    val handle = CancelHandle()
    val small = """{"item":"${"tea".repeat(330)}"}""".encodeToByteArray()
    val large = ByteArray(1 shl 20) { 7 }

    fun order(payload: ByteArray = small) = NewIntent("orders.create", payload)
    val kept = facade.submit(order()).id
    val text = """{"item":"${"t".repeat(1 shl 20)}"}""".encodeToByteArray()
    val keptLarge = facade.submit(order(text)).id
    facade.publish("news", small)
    val answering = HttpTransport { ANSWER }
    val nativeAnswering =
        object : NativeTransport {
            override suspend fun send(request: HttpRequest) = ANSWER
        }
    val bad = NewIntent("", small)

    compare(
        quick,
        "smallest call",
        Layer("uniffi") { handle.isCancelled() },
        Layer("bare") { Bare.ffi_selvedge_ffi_uniffi_contract_version() },
    )
    compare(quick, "resume", Layer("facade") { facade.resume() }, Layer("uniffi") { uniffi.resume() })
    compare(quick, "queues", Layer("facade") { facade.queues() }, Layer("uniffi") { uniffi.queues() })
    compare(
        quick,
        "intent, 1 KB out",
        Layer("facade") { facade.intent(kept) },
        Layer("uniffi") { uniffi.intent(kept) },
    )
    compare(
        quick,
        "intent, 1 MB out",
        Layer("facade") { facade.intent(keptLarge) },
        Layer("uniffi") { uniffi.intent(keptLarge) },
    )
    compare(
        quick,
        "submit, 1 KB in",
        Layer("facade") {
            facade.submit(order())
        },
        Layer("uniffi") { uniffi.submit(order(), call, null) },
    )
    compare(
        quick,
        "publish, 1 MB in",
        Layer("facade") { facade.publish("large", large) },
        Layer("uniffi") { uniffi.publish("large", large, call, null) },
    )
    compare(
        quick,
        "typed error",
        Layer("facade") {
            try {
                facade.submit(bad)
            } catch (_: SelvedgeException.InvalidInput) {
            }
        },
        Layer("uniffi") {
            try {
                uniffi.submit(bad, call, null)
            } catch (_: EngineException) {
            }
        },
    )
    compare(
        quick,
        "subscribe, first message",
        Layer("facade") { facade.subscribe("news", Start.Earliest).first() },
        Layer("uniffi") { uniffi.subscribe("news", Start.Earliest, null).use { it.nextBatch(64u) } },
    )
    facade.flush(answering)
    compare(
        quick,
        "submit and flush, one callback",
        Layer("facade") {
            facade.submit(order())
            facade.flush(answering)
        },
        Layer("uniffi") {
            uniffi.submit(order(), call, null)
            uniffi.flush(nativeAnswering, call, null)
        },
    )
    facade.close()
}

/** Lets the layers take turns, block by block, and prints each one's median. */
private suspend fun compare(
    quick: Boolean,
    case: String,
    vararg layers: Layer,
) {
    val budget = if (quick) 1e8 else 4e8
    // The JVM compiles what it has run often.
    for (layer in layers) {
        val end = System.nanoTime() + budget
        while (System.nanoTime() < end) layer.call()
    }
    val calls = (2e7 / layers.maxOf { it.time(5) }).toInt().coerceIn(1, 100_000)
    repeat(if (quick) 9 else 25) { block ->
        val order = if (block % 2 == 0) layers.asList() else layers.reversed()
        order.forEach { it.times += it.time(calls) }
    }
    for (layer in layers) {
        val median = layer.times.sorted()[layer.times.size / 2]
        println("""{"layer":"${layer.name}","case":"Kotlin: $case","unit":"ns/call","value":$median}""")
    }
}
