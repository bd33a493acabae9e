package dev.selvedge

import dev.selvedge.ffi.ExitOffer as NativeExitOffer

/**
 * Decides whether somebody who leaves a paywall is made one more offer: tell it what happens, and do what it says.
 *
 * It does no I/O, so a decision takes no time and may be made on the main thread, in a back handler for instance.
 *
 * ```
 * val exit = ExitOffer(Platform.ANDROID)
 * exit.configure(assignment.shown?.exitOffer)
 * exit.on(ExitInput.PaywallShown("main_paywall", "annual", null, "control"))
 * val leaves = exit.on(ExitInput.Back).none { it is ExitAction.ShowOffer }
 * ```
 */
public class ExitOffer private constructor(private val native: NativeExitOffer) : AutoCloseable {
    /** Nothing has happened yet, and exit offers are off. */
    public constructor(platform: Platform) : this(NativeExitOffer(platform))

    /** Sets what a paywall's placement says about exit offers; null switches them off. Call it before `PaywallShown`. */
    public fun configure(settings: ExitOfferSettings?): Unit = calling { native.configure(settings) }

    /**
     * Takes in what happened at [atMillis], the wall clock, and says what to do, in order. `Back` and `Swipe` always come
     * to exactly one of `ShowOffer` and `LetGo`.
     */
    public fun on(
        input: ExitInput,
        atMillis: Long = System.currentTimeMillis(),
    ): List<ExitAction> = calling { native.on(input, atMillis) }

    /** What would keep an offer from being made for this trigger now; null when one would be. */
    public fun declined(
        trigger: Trigger,
        atMillis: Long = System.currentTimeMillis(),
    ): Declined? = calling { native.declined(trigger, atMillis) }

    /** All of its state, as text: for the moment the system ends the app's process. */
    public fun save(): String = calling { native.save() }

    override fun close(): Unit = native.close()

    /** Goes on where another process ended. */
    public companion object {
        /** Goes on from what [save] gave. */
        public fun restore(saved: String): ExitOffer = ExitOffer(calling { NativeExitOffer.restore(saved) })
    }
}
