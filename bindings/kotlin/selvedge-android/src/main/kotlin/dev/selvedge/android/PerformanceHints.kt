package dev.selvedge.android

import android.content.Context
import android.os.Build
import android.os.PerformanceHintManager
import kotlin.time.Duration

/**
 * A hint session of the Android Dynamic Performance Framework: tells the system how long periodic work took, so that it picks
 * clock speeds that meet the target and no higher. From Android 12 (API 31); before, and on devices without it, it does nothing.
 *
 * ```
 * PerformanceHints.open(context, intArrayOf(Process.myTid()), target = 16.milliseconds).use { hints ->
 *     hints.report(measureTime { draw() })
 * }
 * ```
 */
public class PerformanceHints private constructor(private val session: PerformanceHintManager.Session?) : AutoCloseable {
    /** Whether the device takes hints. */
    public val isSupported: Boolean get() = session != null

    /** How long one period should take. */
    public fun target(duration: Duration) {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S && duration.isPositive()) {
            session?.updateTargetWorkDuration(duration.inWholeNanoseconds)
        }
    }

    /** How long the last period took. */
    public fun report(duration: Duration) {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S && duration.isPositive()) {
            session?.reportActualWorkDuration(duration.inWholeNanoseconds)
        }
    }

    override fun close() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) session?.close()
    }

    /** Opens sessions. */
    public companion object {
        /** A session for these threads (kernel ids, as `Process.myTid()` gives them) of this process. */
        public fun open(
            context: Context,
            threads: IntArray,
            target: Duration,
        ): PerformanceHints {
            if (Build.VERSION.SDK_INT < Build.VERSION_CODES.S) return PerformanceHints(null)
            val manager = context.applicationContext.getSystemService(PerformanceHintManager::class.java)
            return PerformanceHints(manager?.createHintSession(threads, target.inWholeNanoseconds))
        }
    }
}
