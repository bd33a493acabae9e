package dev.selvedge.android

import android.app.Activity
import android.app.Application
import android.os.Bundle
import android.window.OnBackInvokedCallback
import dev.selvedge.ExitOffer
import dev.selvedge.ffi.ExitAction
import dev.selvedge.ffi.ExitInput

/**
 * Tells an [ExitOffer] what happens to the [Activity] that shows a paywall, and hands on what is to be done.
 *
 * ```
 * val exit = PaywallExit(activity, offer) { action -> perform(action) }
 * activity.application.registerActivityLifecycleCallbacks(exit)
 * BackHandler { if (!exit.back()) navigateUp() } // Compose; or [PaywallBack] from Android 13 on
 * ```
 *
 * @property offer decides
 */
public class PaywallExit(
    private val activity: Activity,
    public val offer: ExitOffer,
    private val clock: () -> Long = System::currentTimeMillis,
    private val act: (ExitAction) -> Unit,
) : Application.ActivityLifecycleCallbacks {
    /** The person goes back. True: they are made an offer, so the paywall stays. */
    public fun back(): Boolean = tell(ExitInput.Back).any { it is ExitAction.ShowOffer }

    /** Tells what else happened, and does what is to be done about it. */
    public fun tell(input: ExitInput): List<ExitAction> = offer.on(input, clock()).onEach(act)

    override fun onActivityPaused(activity: Activity) {
        if (activity === this.activity) tell(ExitInput.Paused)
    }

    override fun onActivityResumed(activity: Activity) {
        if (activity === this.activity) tell(ExitInput.Resumed)
    }

    override fun onActivityDestroyed(activity: Activity) {
        // A rotation makes the same screen anew: nobody left.
        if (activity === this.activity && activity.isFinishing) tell(ExitInput.Dismissed)
    }

    override fun onActivityCreated(
        activity: Activity,
        savedInstanceState: Bundle?,
    ): Unit = Unit

    override fun onActivityStarted(activity: Activity): Unit = Unit

    override fun onActivityStopped(activity: Activity): Unit = Unit

    override fun onActivitySaveInstanceState(
        activity: Activity,
        outState: Bundle,
    ): Unit = Unit
}

/**
 * The back gesture from Android 13 (API 33) on:
 * `activity.onBackInvokedDispatcher.registerOnBackInvokedCallback(PRIORITY_DEFAULT, PaywallBack(exit) { activity.finish() })`.
 */
public class PaywallBack(
    private val exit: PaywallExit,
    private val leave: () -> Unit,
) : OnBackInvokedCallback {
    override fun onBackInvoked() {
        if (!exit.back()) leave()
    }
}
