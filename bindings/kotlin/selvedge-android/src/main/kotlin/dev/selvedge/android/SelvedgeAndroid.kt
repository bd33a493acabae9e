package dev.selvedge.android

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import dev.selvedge.Durability
import dev.selvedge.Engine
import dev.selvedge.Hosts
import dev.selvedge.HttpTransport
import dev.selvedge.IntentFilter
import dev.selvedge.ModelConfig
import dev.selvedge.SelvedgeException
import dev.selvedge.ffi.IntentState
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.launch

/** What Android lends the engine: its network, its heat and its log. */
public fun androidHosts(context: Context): Hosts =
    Hosts(connectivity = AndroidConnectivity(context), thermal = PowerManagerThermalSensor(context), log = LogcatSink())

/**
 * Opens a database in the app's own storage, with Android's network, heat and log.
 *
 * It lies where no backup is made: a phone that is restored from one would send another phone's orders again.
 */
public suspend fun Engine.Companion.open(
    context: Context,
    name: String = "selvedge.db",
    models: List<ModelConfig> = emptyList(),
    durability: Durability = Durability.DURABLE,
    hosts: Hosts = androidHosts(context),
): Engine = open(context.noBackupFilesDir.resolve(name).path, models, durability, hosts)

/** What a background run did, in WorkManager's words. */
public enum class FlushResult {
    /** Nothing is left to send. */
    SUCCESS,

    /** Something is left: run again, with a backoff. */
    RETRY,
}

/**
 * Sends what is pending, for a `CoroutineWorker`:
 *
 * ```
 * override suspend fun doWork() = when (engine.flushInBackground(transport)) {
 *     FlushResult.SUCCESS -> Result.success()
 *     FlushResult.RETRY -> Result.retry()
 * }
 * ```
 */
public suspend fun Engine.flushInBackground(transport: HttpTransport): FlushResult {
    try {
        flush(transport)
    } catch (_: SelvedgeException.Unavailable) {
        return FlushResult.RETRY
    }
    val left = intents(IntentFilter(state = IntentState.PENDING, limit = 1u)).items
    return if (left.isEmpty()) FlushResult.SUCCESS else FlushResult.RETRY
}

/**
 * Gives the engine's memory back when the system is short of it: `context.registerComponentCallbacks(TrimMemory(engine, scope))`.
 *
 * @property engine whose memory
 * @property scope where the work runs; it must outlive the engine
 */
public class TrimMemory(
    private val engine: Engine,
    private val scope: CoroutineScope,
) : ComponentCallbacks2 {
    override fun onTrimMemory(level: Int) {
        scope.launch { runCatching { engine.trim() } }
    }

    @Deprecated("Android calls onTrimMemory instead", level = DeprecationLevel.HIDDEN)
    override fun onLowMemory(): Unit = onTrimMemory(0)

    override fun onConfigurationChanged(configuration: Configuration): Unit = Unit
}
