package dev.selvedge.android

import android.content.Context
import android.os.Build
import android.os.PowerManager
import dev.selvedge.SelvedgeException
import dev.selvedge.ThermalReading
import dev.selvedge.ThermalSensor
import dev.selvedge.ThermalStatus

/**
 * The heat as `PowerManager` knows it: its status from Android 10 (API 29), and its forecast of headroom from Android 11
 * (API 30). Before, every device is cool.
 *
 * @param context any context
 * @property forecastSeconds how far ahead the headroom is asked for, 0 to 60 s
 */
public class PowerManagerThermalSensor(
    context: Context,
    private val forecastSeconds: Int = 10,
) : ThermalSensor {
    private val power = context.applicationContext.getSystemService(Context.POWER_SERVICE) as PowerManager

    override fun read(): ThermalReading {
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.Q) return ThermalReading(ThermalStatus.NONE)
        val status = power.currentThermalStatus
        val step =
            ThermalStatus.entries.getOrNull(status) ?: throw SelvedgeException.Unavailable("thermal status $status is unknown")
        return ThermalReading(step, headroom())
    }

    /** NaN is the platform's word for "not known", and for being asked more than about once a second. */
    private fun headroom(): Float? =
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.R) {
            null
        } else {
            power.getThermalHeadroom(forecastSeconds).takeUnless { it.isNaN() || it < 0 }
        }
}
