package dev.selvedge.storefront

import dev.selvedge.AssignRequest
import dev.selvedge.ConfigOrigin
import dev.selvedge.Eligibility
import dev.selvedge.Engine
import dev.selvedge.ExitOffer
import dev.selvedge.ExperimentsConfig
import dev.selvedge.HttpRequest
import dev.selvedge.HttpTransport
import dev.selvedge.IntentFilter
import dev.selvedge.Platform
import dev.selvedge.SelvedgeException
import dev.selvedge.Shown
import dev.selvedge.TrustedKey
import dev.selvedge.ffi.ExitAction
import dev.selvedge.ffi.ExitInput
import dev.selvedge.ffi.IntentState
import dev.selvedge.ffi.PaywallEvent
import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonObject
import kotlinx.serialization.json.double
import kotlinx.serialization.json.int
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject
import kotlinx.serialization.json.jsonPrimitive
import java.util.Locale

private const val PAYWALL = "main_paywall"
private const val PRODUCT = "pro.annual"

/** The full price, in cents. */
private const val PRICE = 2_999L

/** What comes with the app, until the server has been reached. */
private const val BUNDLED = """{"features": {"main_paywall": {"defaultValue": {"offering": "annual"}}}}"""

/** Placements that come with the app, and then from a server whose key is given as `ID=HEX`. */
internal fun placements(trustedKey: String?): ExperimentsConfig {
    val keys = listOfNotNull(trustedKey).map { TrustedKey(it.substringBefore('='), it.substringAfter('=')) }
    return ExperimentsConfig(bundledJson = BUNDLED, trustedKeys = keys)
}

/** What came of the shoppers, as the phone has it. */
internal class Account(
    /** Those who saw what the server configured. */
    val shoppers: Int,
    /** Events written down on the phone, by name. */
    val events: Map<String, Int>,
    /** What the shoppers paid, in cents. */
    val paid: Long,
)

/**
 * Shoppers come to the paywall, and some who leave are made an offer. Their events go over the [link]; the server's report
 * is read from [server], and has to tell of the same people and the same money.
 */
internal suspend fun paywall(
    engine: Engine,
    link: HttpTransport,
    server: HttpTransport,
    shoppers: Int,
): Account {
    // Offline, right after the first launch: what came with the app is shown, and nobody is in an experiment.
    val first = engine.assign(PAYWALL, "early bird")
    check(first.shown?.offering == "annual" && first.experiment == null) { "offline the paywall shows $first" }
    fetch(engine, link)

    val visits = (0 until shoppers).map { Shopper(it).visit(engine) }
    // A phone flushes whenever it has a network; each time, what the link lost before is sent again.
    while (engine.flush(link).attempts > 0u) continue
    val account = Account(shoppers, written(engine), visits.sumOf { it.paid })
    val experiments = visits.mapNotNull { it.experiment }.toSet()
    tell(account)
    experiments.forEach { compare(account, report(server, it)) }
    check(experiments.size == 1) { "the paywall is decided by $experiments" }
    return account
}

/** Fetches the configuration, however often the link drops it. */
private suspend fun fetch(
    engine: Engine,
    link: HttpTransport,
) {
    while (true) {
        try {
            engine.refreshConfig(link)
            break
        } catch (lost: SelvedgeException.Unavailable) {
            continue
        }
    }
    val health = engine.configHealth()
    check(health.source == ConfigOrigin.SERVER && !health.stale) { "the phone goes by another configuration: $health" }
}

/** What somebody saw decided by which experiment, and what they paid in cents. */
private class Visit(
    val experiment: String?,
    val paid: Long,
)

/** Somebody who comes to the paywall. What they are like does not depend on what they see. */
private class Shopper(number: Int) {
    private val name = "shopper-$number"

    /** What it is worth to them, in cents: nothing to some, and to some the full price. */
    private val worth = 500L * (number % 7)

    /** The store may refuse to sell at a discount: they had one before. */
    private val eligibility = if (number % 8 == 7) Eligibility.INELIGIBLE else Eligibility.ELIGIBLE

    /** Comes to the paywall, and does what they want and the phone says. */
    suspend fun visit(engine: Engine): Visit {
        val assignment = engine.assign(PAYWALL, name)
        val shown = checkNotNull(assignment.shown) { "the paywall shows nothing" }
        val paid =
            ExitOffer(Platform.ANDROID).use { exit ->
                exit.configure(shown.exitOffer)
                val seen = ExitInput.PaywallShown(PAYWALL, shown.offering, assignment.experiment, assignment.variation)
                // While the paywall is read, the offer is got ready.
                exit.on(seen).mapNotNull { ready(engine, it) }.forEach { exit.on(it) }
                buy(engine, exit, PAYWALL, shown) ?: leave(engine, exit) ?: 0
            }
        return Visit(assignment.experiment, paid)
    }

    private suspend fun ready(
        engine: Engine,
        action: ExitAction,
    ): ExitInput? =
        when (action) {
            is ExitAction.LoadOffer -> {
                val offer = engine.assign(AssignRequest(name, action.placement, peek = true)).shown
                ExitInput.OfferLoaded(action.revision, offer?.offering)
            }
            is ExitAction.CheckEligibility -> ExitInput.EligibilityKnown(action.revision, eligibility)
            else -> null
        }

    /** Presses back. What they paid for the offer that was made to them, if one was. */
    private suspend fun leave(
        engine: Engine,
        exit: ExitOffer,
    ): Long? {
        var offer: ExitAction.ShowOffer? = null
        for (action in exit.on(ExitInput.Back)) {
            when (action) {
                is ExitAction.ShowOffer -> offer = action
                is ExitAction.Record -> engine.track(name, action.event)
                else -> Unit
            }
        }
        val placement = offer?.placement ?: return null
        val shown = engine.assign(AssignRequest(name, placement, exitOffer = true)).shown
        return buy(engine, exit, placement, checkNotNull(shown) { "the exit offer shows nothing" })
    }

    /** They buy what is worth its price to them. What they paid; null when they did not. */
    private suspend fun buy(
        engine: Engine,
        exit: ExitOffer,
        placement: String,
        shown: Shown,
    ): Long? {
        val discount = shown.discountPct
        val price = PRICE * (100 - discount.toInt()) / 100
        if (worth < price) return null
        exit.on(ExitInput.PurchaseStarted)
        val kind = if (discount.toInt() == 0) "none" else "promotional"
        engine.track(name, PaywallEvent.PurchaseInitiated(PRODUCT, kind, discount, placement))
        val bought =
            PaywallEvent.PurchaseCompleted(
                productId = PRODUCT,
                revenue = price,
                currency = "USD",
                isTrial = false,
                discountPct = discount,
                isRefund = false,
                placementId = placement,
                transactionId = null,
            )
        engine.track(name, bought)
        exit.on(ExitInput.PurchaseFinished)
        return price
    }
}

/** The events of the outbox, by name; each has been taken by the server. */
private suspend fun written(engine: Engine): Map<String, Int> {
    val names = sortedMapOf<String, Int>()
    var after: Long? = null
    do {
        val page = engine.intents(IntentFilter(after = after))
        for (intent in page.items.filter { it.operation == "events.track" }) {
            check(intent.state == IntentState.DONE) { "the server did not take an event: $intent" }
            val event = Json.parseToJsonElement(intent.payload.decodeToString()).jsonObject
            names.merge(event.getValue("name").jsonPrimitive.content, 1, Int::plus)
        }
        after = page.next
    } while (after != null)
    return names
}

private suspend fun report(
    server: HttpTransport,
    experiment: String,
): JsonObject {
    val answer = server.send(HttpRequest("GET", "/v1/experiments/$experiment/report", emptyList(), ByteArray(0)))
    val text = answer.body.decodeToString()
    check(answer.status.toInt() == 200) { "the server gives no report: $text" }
    return Json.parseToJsonElement(text).jsonObject
}

private fun tell(account: Account) {
    val events = account.events.map { (name, count) -> "$count $name" }.joinToString()
    println("${account.shoppers} shoppers and one before the network was there; events written down: $events")
}

/** Prints the report. It has to have everybody who came, and every cent they paid. */
private fun compare(
    account: Account,
    report: JsonObject,
) {
    val arms = report.getValue("variations").jsonArray.map { it.jsonObject }

    fun JsonObject.number(name: String) = getValue(name).jsonPrimitive.double
    for (arm in arms) {
        val each = String.format(Locale.ROOT, "%.2f", arm.number("revenue_per_user") / 100)
        println("${arm.getValue("name").jsonPrimitive.content}: ${arm.getValue("n").jsonPrimitive.int} users, $$each each")
    }
    val decision = report.getValue("decision").jsonObject
    val (action, reason) = listOf("action", "reason").map { decision.getValue(it).jsonPrimitive.content }
    println("decision: $action, $reason")
    val users = report.getValue("users").jsonPrimitive.int
    check(users == account.shoppers) { "the report is about $users of ${account.shoppers} shoppers" }
    val earned = arms.sumOf { it.number("revenue") }
    check(earned == account.paid.toDouble()) { "shoppers paid ${account.paid} cents, and the report has $earned" }
}
