package dev.selvedge.android

import android.app.Activity
import android.app.Application
import android.content.Context
import android.net.ConnectivityManager
import android.net.NetworkCapabilities
import android.os.PowerManager
import android.os.Process
import dev.selvedge.Eligibility
import dev.selvedge.Engine
import dev.selvedge.ExitOffer
import dev.selvedge.ExitOfferSettings
import dev.selvedge.HttpResponse
import dev.selvedge.LogRecord
import dev.selvedge.NetworkStatus
import dev.selvedge.NewIntent
import dev.selvedge.Platform
import dev.selvedge.ThermalStatus
import dev.selvedge.Trigger
import dev.selvedge.ffi.ExitAction
import dev.selvedge.ffi.ExitInput
import dev.selvedge.ffi.Health
import dev.selvedge.ffi.LogLevel
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.job
import kotlinx.coroutines.runBlocking
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.Shadows.shadowOf
import org.robolectric.annotation.Config
import org.robolectric.annotation.Implementation
import org.robolectric.annotation.Implements
import org.robolectric.shadow.api.Shadow
import org.robolectric.shadows.ShadowLog
import org.robolectric.shadows.ShadowNetworkCapabilities
import org.robolectric.shadows.ShadowPowerManager
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue
import kotlin.time.Duration.Companion.milliseconds

/** A PowerManager whose forecast the test sets. */
@Implements(PowerManager::class)
class HotPowerManager : ShadowPowerManager() {
    @Implementation
    @Suppress("UNUSED_PARAMETER", "ktlint:standard:function-naming")
    fun getThermalHeadroom(seconds: Int): Float = headroom

    companion object {
        var headroom = Float.NaN
    }
}

/** On the real framework classes, by Robolectric; the library's own calls run too. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [35], manifest = Config.NONE, shadows = [HotPowerManager::class])
class AndroidTest {
    private val app: Application = RuntimeEnvironment.getApplication()

    private fun heat(
        status: Int,
        headroom: Float,
    ) {
        HotPowerManager.headroom = headroom
        Shadow.extract<HotPowerManager>(app.getSystemService(Context.POWER_SERVICE)).setCurrentThermalStatus(status)
    }

    private fun network(vararg capabilities: Int) {
        val manager = app.getSystemService(Context.CONNECTIVITY_SERVICE) as ConnectivityManager
        val able = ShadowNetworkCapabilities.newInstance()
        val shadow = shadowOf(able)
        // A new one has some capabilities already.
        able.capabilities.forEach(shadow::removeCapability)
        capabilities.forEach(shadow::addCapability)
        shadowOf(manager).setNetworkCapabilities(manager.activeNetwork, able)
    }

    @Test
    fun `whoever leaves a paywall is made one offer`() {
        val offer = ExitOffer(Platform.ANDROID)
        offer.configure(ExitOfferSettings(enabled = true, triggers = mapOf(Platform.ANDROID to Trigger.entries)))
        val told = mutableListOf<ExitAction>()
        var now = 0L
        val controller = Robolectric.buildActivity(Activity::class.java).setup()
        val exit = PaywallExit(controller.get(), offer, { now }, told::add)
        app.registerActivityLifecycleCallbacks(exit)
        exit.tell(ExitInput.PaywallShown("main_paywall", "annual", null, "control"))
        val revision = (told.first() as ExitAction.LoadOffer).revision
        exit.tell(ExitInput.OfferLoaded(revision, "half"))
        exit.tell(ExitInput.EligibilityKnown(revision, Eligibility.ELIGIBLE))
        told.clear()
        controller.pause()
        now += 1_000
        controller.resume()
        assertEquals(emptyList(), told, "a second away is nobody's leaving")
        var left = 0
        val back = PaywallBack(exit) { left += 1 }
        back.onBackInvoked()
        assertEquals(0, left)
        assertTrue(told.any { it is ExitAction.ShowOffer })
        back.onBackInvoked()
        assertEquals(1, left)
        assertTrue(told.last() is ExitAction.LetGo)
        app.unregisterActivityLifecycleCallbacks(exit)
        offer.close()
    }

    @Test
    fun `every thermal status is told`() {
        for (status in ThermalStatus.entries) {
            heat(status.ordinal, 0.5f)
            assertEquals(status, PowerManagerThermalSensor(app).read().status)
        }
    }

    @Test
    fun `headroom that is not known is not told`() {
        heat(PowerManager.THERMAL_STATUS_LIGHT, Float.NaN)
        assertNull(PowerManagerThermalSensor(app).read().headroom)
        heat(PowerManager.THERMAL_STATUS_LIGHT, 0.8f)
        assertEquals(0.8f, PowerManagerThermalSensor(app).read().headroom)
    }

    @Test
    @Config(sdk = [28])
    fun `a device without thermal status is cool`() {
        assertEquals(ThermalStatus.NONE, PowerManagerThermalSensor(app).read().status)
    }

    @Test
    fun `the network is told`() {
        val connectivity = AndroidConnectivity(app)
        network(NetworkCapabilities.NET_CAPABILITY_INTERNET, NetworkCapabilities.NET_CAPABILITY_NOT_METERED)
        assertEquals(NetworkStatus.UNMETERED, connectivity.status())
        network(NetworkCapabilities.NET_CAPABILITY_INTERNET)
        assertEquals(NetworkStatus.METERED, connectivity.status())
        network()
        assertEquals(NetworkStatus.OFFLINE, connectivity.status())
        val manager = app.getSystemService(Context.CONNECTIVITY_SERVICE) as ConnectivityManager
        shadowOf(manager).setActiveNetworkInfo(null)
        assertEquals(NetworkStatus.OFFLINE, connectivity.status())
    }

    @Test
    fun `log lines go to logcat`() {
        LogcatSink("Shop").log(LogRecord(LogLevel.WARN, "selvedge", "it is warm"))
        assertContains(ShadowLog.getLogsForTag("Shop").map { it.msg }, "selvedge: it is warm")
    }

    @Test
    fun `hints do no harm where there are none`() {
        PerformanceHints.open(app, intArrayOf(Process.myTid()), 16.milliseconds).use {
            it.target(8.milliseconds)
            it.report(20.milliseconds)
            it.report((-1).milliseconds)
        }
    }

    @Test
    fun `an engine lives in the app's storage, and knows the device's heat and network`() =
        runBlocking {
            heat(PowerManager.THERMAL_STATUS_SEVERE, 1.25f)
            network()
            Engine.open(app).use { engine ->
                val report = engine.doctor()
                assertEquals(Health.WARNING, report.health)
                assertContains(report.findings.single { it.check == "heat" }.found, "1.25")
                assertTrue(app.noBackupFilesDir.resolve("selvedge.db").exists())
                engine.submit(NewIntent("orders.create", "{}".encodeToByteArray()))
                // Offline: WorkManager tries again.
                assertEquals(FlushResult.RETRY, engine.flushInBackground { error("never sent") })
                network(NetworkCapabilities.NET_CAPABILITY_INTERNET)
                assertEquals(FlushResult.RETRY, engine.flushInBackground { error("a bad link") })
                assertEquals(FlushResult.SUCCESS, engine.flushInBackground { HttpResponse(201u) })
                val scope = CoroutineScope(Dispatchers.Default)
                TrimMemory(engine, scope).onTrimMemory(15)
                scope.coroutineContext.job.children
                    .forEach { it.join() }
                assertEquals(1, engine.intents().items.size)
            }
        }
}
