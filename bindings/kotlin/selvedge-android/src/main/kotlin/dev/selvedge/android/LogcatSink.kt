package dev.selvedge.android

import android.util.Log
import dev.selvedge.LogRecord
import dev.selvedge.LogSink
import dev.selvedge.ffi.LogLevel

/**
 * Writes the engine's log lines to logcat.
 *
 * @property tag logcat's tag; 23 characters at most before Android 8
 */
public class LogcatSink(private val tag: String = "Selvedge") : LogSink {
    override fun log(record: LogRecord) {
        val priority =
            when (record.level) {
                LogLevel.ERROR -> Log.ERROR
                LogLevel.WARN -> Log.WARN
                LogLevel.INFO -> Log.INFO
                LogLevel.DEBUG -> Log.DEBUG
                LogLevel.TRACE -> Log.VERBOSE
            }
        Log.println(priority, tag, "${record.target}: ${record.message}")
    }
}
