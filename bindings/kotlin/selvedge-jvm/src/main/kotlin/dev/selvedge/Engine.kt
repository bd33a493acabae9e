package dev.selvedge

import dev.selvedge.ffi.Bulk
import dev.selvedge.ffi.EngineConfig
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.withContext
import java.nio.ByteBuffer
import java.util.concurrent.atomic.AtomicBoolean
import kotlin.time.Duration
import kotlin.time.Duration.Companion.seconds
import dev.selvedge.ffi.Engine as NativeEngine
import dev.selvedge.ffi.HttpTransport as NativeTransport
import dev.selvedge.ffi.JobHandler as NativeHandler

/** Sends requests to the app's server. It must not retry and follow no redirect by itself. */
public fun interface HttpTransport {
    /** Sends a request and waits for the whole response. Any exception is a failed attempt: the outbox tries again. */
    public suspend fun send(request: HttpRequest): HttpResponse
}

/** Works on jobs. */
public fun interface JobHandler {
    /**
     * Works on one job; it may be called again for the same job after a crash. Any exception is a failed attempt;
     * [SelvedgeException.InvalidInput] makes the job a dead letter at once.
     */
    public suspend fun handle(job: LeasedJob): JobOutcome
}

/**
 * An engine: one database, its models, and threads of its own. All of its calls may be made from any coroutine, at once.
 *
 * ```
 * Engine.open("shop.db").use { engine ->
 *     val order = engine.submit("orders.create", """{"item":"tea","cents":500}""")
 *     println(order.key)
 * }
 * ```
 */
public class Engine private constructor(private val native: NativeEngine) : AutoCloseable {
    private val closed = AtomicBoolean()

    /**
     * Writes an intent down before anything is sent. Once this returns it survives the end of the process, and every
     * attempt carries the same key.
     */
    public suspend fun submit(
        intent: NewIntent,
        call: Call = Call(),
    ): Submitted = calling { native.submit(intent, call, null) }

    /** Submits an operation with its JSON. */
    public suspend fun submit(
        operation: String,
        json: String,
    ): Submitted = submit(NewIntent(operation, json.encodeToByteArray()))

    /** One page of intents, in the order in which they were submitted. */
    public suspend fun intents(filter: IntentFilter = IntentFilter()): IntentPage = calling { native.intents(filter) }

    /** One intent, if it is still kept. */
    public suspend fun intent(id: String): IntentView? = calling { native.intent(id) }

    /** Sends every pending intent once. A request that fails is counted and tried again later. */
    public suspend fun flush(
        transport: HttpTransport,
        call: Call = Call(),
    ): Flushed = calling { native.flush(HostedTransport(transport), call, null) }

    /** Sends intents as they come, until the coroutine is cancelled. */
    public suspend fun relay(
        transport: HttpTransport,
        call: Call = Call(),
    ): Unit = calling { native.relay(HostedTransport(transport), call, null) }

    /** Writes jobs down, all or none. */
    public suspend fun enqueue(
        vararg jobs: NewJob,
        call: Call = Call(),
    ): List<EnqueuedJob> = calling { native.enqueue(jobs.toList(), call, null) }

    /** One page of jobs, by number. */
    public suspend fun jobs(filter: JobFilter = JobFilter()): JobPage = calling { native.jobs(filter) }

    /** Depth and age of every queue. */
    public suspend fun queues(): List<QueueStats> = calling { native.queues() }

    /** Cancels a job. */
    public suspend fun cancelJob(id: Long): Unit = calling { native.cancelJob(id) }

    /** Makes a dead or cancelled job ready again. */
    public suspend fun reviveJob(id: Long): Unit = calling { native.reviveJob(id) }

    /** Gives jobs to [handler] until the coroutine is cancelled. */
    public suspend fun work(
        options: WorkOptions,
        handler: JobHandler,
    ): Unit = calling { native.work(HostedHandler(handler), options, null) }

    /** Publishes a message and returns its cursor. */
    public suspend fun publish(
        topic: String,
        payload: ByteArray,
        call: Call = Call(),
    ): Long =
        calling {
            if (payload.size < BULK) {
                native.publish(topic, payload, call, null)
            } else {
                // The library reads a direct buffer in place: faster than an argument that is copied through.
                Bulk(ByteBuffer.allocateDirect(payload.size).put(payload).flip() as ByteBuffer).use {
                    native.publishBulk(topic, it, call, null)
                }
            }
        }

    /** The messages of a topic. The subscription begins when the flow is collected and ends with the collector. */
    public fun subscribe(
        topic: String,
        from: Start = dev.selvedge.ffi.Start.Now,
        buffer: UInt? = null,
    ): Flow<Notice> =
        flow {
            calling { native.subscribe(topic, from, buffer) }.use { stream ->
                while (true) {
                    val batch = calling { stream.nextBatch(BATCH) }
                    if (batch.isEmpty()) break
                    batch.forEach { emit(it) }
                }
            }
        }

    /** Asks a model to go on with a chat. The answer stops when the collector does. */
    public fun chat(
        request: ChatRequest,
        call: Call = Call(),
    ): Flow<ChatChunk> =
        flow {
            calling { native.chat(request, call, null) }.use { stream ->
                while (true) emit(calling { stream.nextBatch() } ?: break)
            }
        }

    /** Vectors that stand for texts, each of length 1. */
    public suspend fun embed(
        texts: List<String>,
        model: String? = null,
        call: Call = Call(),
    ): List<List<Float>> = calling { native.embed(texts, model, call, null) }

    /**
     * What somebody sees at a placement: the same every time. Unless it peeks, what was assigned and its impression are kept
     * before this returns, so call it when the placement is about to be shown.
     *
     * A placement that is not configured is [SelvedgeException.NotFound]; one that shows nothing has no [Assignment.shown].
     */
    public suspend fun assign(
        request: AssignRequest,
        call: Call = Call(),
    ): Assignment = calling { native.assign(request, call, null) }

    /** What somebody sees at a placement. */
    public suspend fun assign(
        placement: String,
        subject: String,
        device: String? = null,
    ): Assignment = assign(AssignRequest(subject, placement, device = device))

    /** Keeps an event and sends it to the server with the outbox. The same id again changes nothing. */
    public suspend fun track(
        event: NewEvent,
        call: Call = Call(),
    ): Unit = calling { native.track(event, call, null) }

    /** Keeps an event about somebody. */
    public suspend fun track(
        subject: String,
        event: PaywallEvent,
    ): Unit = track(NewEvent(subject, event))

    /**
     * Fetches the configuration of placements if it has changed, and says whether it had. Whatever goes wrong, the one that
     * holds stays. Call it when the app comes to the foreground.
     */
    public suspend fun refreshConfig(
        transport: HttpTransport,
        path: String = "/v1/config",
        call: Call = Call(),
    ): Boolean = calling { native.refreshConfig(HostedTransport(transport), path, call, null) }

    /** How the configuration of placements is doing. */
    public fun configHealth(): ConfigHealth = calling { native.configHealth() }

    /** Looks at the database, the models, the network and the heat. */
    public suspend fun doctor(): DoctorReport = calling { native.doctor() }

    /** One tick of housekeeping. */
    public suspend fun maintain(): Unit = calling { native.maintain() }

    /** Gets ready for the app to be frozen: what runs stops, running writes end, and no file lock is held afterwards. */
    public suspend fun suspend(): Unit = calling { native.suspend() }

    /** Goes on after [suspend]. */
    public fun resume(): Unit = calling { native.resume() }

    /** Gives back the memory that can be had again. */
    public suspend fun trim(): Unit = calling { native.trim() }

    /** Closes the engine. Nothing acknowledged is lost; doing it twice changes nothing. */
    override fun close() {
        if (closed.compareAndSet(false, true)) {
            calling { native.shutdown() }
            native.close()
        }
    }

    /** Opens engines. */
    public companion object {
        private const val BATCH = 64u

        /** From this many bytes on a direct buffer is worth its making. */
        private const val BULK = 65_536

        /**
         * Opens a database, and models if there are any. Large models take seconds; no thread is blocked.
         *
         * [concurrency] is how many calls to models run at once; each needs memory for a context of its own.
         * [experiments] says where placements come from; without it there are none.
         */
        public suspend fun open(
            database: String,
            models: List<ModelConfig> = emptyList(),
            durability: Durability = Durability.DURABLE,
            hosts: Hosts = Hosts(),
            callbackTimeout: Duration = 30.seconds,
            concurrency: Int = 2,
            experiments: ExperimentsConfig? = null,
        ): Engine {
            val config =
                EngineConfig(
                    database,
                    durability = durability,
                    models = models,
                    concurrency = concurrency.toUInt(),
                    experiments = experiments,
                    callbackTimeoutMs = callbackTimeout.inWholeMilliseconds.toULong(),
                )
            // Not cancellable: the generated code would lose an engine that is ready when it is cancelled.
            return calling { withContext(NonCancellable) { Engine(NativeEngine.open(config, hosts)) } }
        }
    }
}

private class HostedTransport(private val app: HttpTransport) : NativeTransport {
    override suspend fun send(request: HttpRequest): HttpResponse = answering { app.send(request) }
}

private class HostedHandler(private val app: JobHandler) : NativeHandler {
    override suspend fun handle(job: LeasedJob): JobOutcome = answering { app.handle(job) }
}

/** Runs a callback of the app and gives what it throws to the engine. */
private suspend fun <T> answering(callback: suspend () -> T): T =
    try {
        callback()
    } catch (cancelled: kotlin.coroutines.cancellation.CancellationException) {
        throw cancelled
    } catch (error: Exception) {
        throw SelvedgeException.toEngine(error)
    }
