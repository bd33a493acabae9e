import Foundation
import Selvedge

private let paywall = "main_paywall"
private let product = "pro.annual"
/// The full price, in cents.
private let fullPrice: Int64 = 2_999
/// What comes with the app, until the server has been reached.
private let bundled = #"{"features": {"main_paywall": {"defaultValue": {"offering": "annual"}}}}"#

/// Why the story ends with an error.
struct Wrong: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }
}

func check(_ holds: Bool, _ otherwise: @autoclosure () -> String) throws {
    if !holds { throw Wrong(otherwise()) }
}

/// Placements that come with the app, and then from a server whose key is given as `ID=HEX`.
func placements(trustedKey: String?) -> ExperimentsConfig {
    let parts = trustedKey?.split(separator: "=", maxSplits: 1).map(String.init) ?? []
    return ExperimentsConfig(
        bundledJson: bundled, trustedKeys: parts.count == 2 ? [TrustedKey(id: parts[0], publicKey: parts[1])] : [])
}

/// What came of the shoppers, as the phone has it.
struct Account: Encodable {
    /// Those who saw what the server configured.
    let shoppers: Int
    /// Events written down on the phone, by name.
    let events: [String: Int]
    /// What the shoppers paid, in cents.
    let paid: Int64
}

extension Account {
    /// Shoppers come to the paywall, and some who leave are made an offer. Their events go over the link; the server's report is
    /// read from the server, and has to tell of the same people and the same money.
    static func of(
        _ shoppers: Int, on engine: Engine, over link: any HTTPTransport, judgedBy server: any HTTPTransport
    ) async throws -> Account {
        // Offline, right after the first launch: what came with the app is shown, and nobody is in an experiment.
        let first = try await engine.assign(paywall, to: "early bird")
        try check(first.shown?.offering == "annual" && first.experiment == nil, "offline the paywall shows \(first)")
        try await fetch(engine, link)

        var (experiments, paid) = (Set<String>(), Int64(0))
        for number in 0..<shoppers {
            let (experiment, cents) = try await Shopper(number).visit(engine)
            if let experiment { experiments.insert(experiment) }
            paid += cents
        }
        // A phone flushes whenever it has a network; each time, what the link lost before is sent again.
        while try await engine.flush(link).attempts > 0 {}
        let account = Account(shoppers: shoppers, events: try await written(engine), paid: paid)
        account.tell()
        try check(experiments.count == 1, "the paywall is decided by \(experiments)")
        for experiment in experiments { try account.compare(with: try await report(server, experiment)) }
        return account
    }

    private func tell() {
        let counts = events.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
        print("\(shoppers) shoppers and one before the network was there; events written down: \(counts)")
    }

    /// Prints the report. It has to have everybody who came, and every cent they paid.
    private func compare(with report: Report) throws {
        for arm in report.variations {
            print("\(arm.name): \(arm.n) users, $\(String(format: "%.2f", arm.revenuePerUser / 100)) each")
        }
        print("decision: \(report.decision.action), \(report.decision.reason)")
        try check(report.users == shoppers, "the report is about \(report.users) of \(shoppers) shoppers")
        let earned = report.variations.reduce(0) { $0 + $1.revenue }
        try check(earned == Double(paid), "shoppers paid \(paid) cents, and the report has \(earned)")
    }
}

/// Fetches the configuration, however often the link drops it.
private func fetch(_ engine: Engine, _ link: any HTTPTransport) async throws {
    while true {
        do {
            try await engine.refreshConfig(link)
            break
        } catch let lost as SelvedgeError where lost.kind == .unavailable {
            continue
        }
    }
    let health = try engine.configHealth()
    try check(health.source == .server && !health.stale, "the phone does not go by the server's configuration: \(health)")
}

/// Somebody who comes to the paywall. What they are like does not depend on what they see.
private struct Shopper {
    let name: String
    /// What it is worth to them, in cents: nothing to some, and to some the full price.
    let worth: Int64
    /// The store may refuse to sell at a discount: they had one before.
    let eligibility: Eligibility

    init(_ number: Int) {
        name = "shopper-\(number)"
        worth = 500 * Int64(number % 7)
        eligibility = number % 8 == 7 ? .ineligible : .eligible
    }

    /// Comes to the paywall, and does what they want and the phone says. The experiment that decided what they saw, and what
    /// they paid in cents.
    func visit(_ engine: Engine) async throws -> (String?, Int64) {
        let assignment = try await engine.assign(paywall, to: name)
        guard let shown = assignment.shown else { throw Wrong("the paywall shows nothing") }
        let exit = ExitOffer(.ios)
        try exit.configure(shown.exitOffer)
        let seen = ExitInput.paywallShown(
            placement: paywall, offering: shown.offering, experiment: assignment.experiment, variant: assignment.variation)
        // While the paywall is read, the offer is got ready.
        for action in try exit.on(seen) {
            if let known = try await ready(engine, action) { _ = try exit.on(known) }
        }
        if let paid = try await buy(engine, exit, paywall, shown) { return (assignment.experiment, paid) }
        return (assignment.experiment, try await leave(engine, exit) ?? 0)
    }

    private func ready(_ engine: Engine, _ action: ExitAction) async throws -> ExitInput? {
        switch action {
        case .loadOffer(let placement, let revision):
            let offer = try await engine.assign(AssignRequest(subject: name, placement: placement, peek: true)).shown
            return .offerLoaded(revision: revision, offering: offer?.offering)
        case .checkEligibility(_, let revision):
            return .eligibilityKnown(revision: revision, eligibility: eligibility)
        default:
            return nil
        }
    }

    /// Swipes the sheet away. What they paid for the offer that was made to them, if one was.
    private func leave(_ engine: Engine, _ exit: ExitOffer) async throws -> Int64? {
        var offer: String?
        for action in try exit.on(.swipe) {
            switch action {
            case .showOffer(let placement, _, _): offer = placement
            case .record(let event): try await engine.track(event, of: name)
            default: break
            }
        }
        guard let placement = offer else { return nil }
        let request = AssignRequest(subject: name, placement: placement, exitOffer: true)
        guard let shown = try await engine.assign(request).shown else { throw Wrong("the exit offer shows nothing") }
        return try await buy(engine, exit, placement, shown)
    }

    /// They buy what is worth its price to them. What they paid; `nil` when they did not.
    private func buy(_ engine: Engine, _ exit: ExitOffer, _ placement: String, _ shown: Shown) async throws -> Int64? {
        let discount = shown.discountPct
        let price = fullPrice * (100 - Int64(discount)) / 100
        if worth < price { return nil }
        _ = try exit.on(.purchaseStarted)
        let initiated = PaywallEvent.purchaseInitiated(
            productId: product, offerType: discount == 0 ? "none" : "promotional", discountPct: discount, placementId: placement)
        try await engine.track(initiated, of: name)
        let completed = PaywallEvent.purchaseCompleted(
            productId: product, revenue: price, currency: "USD", isTrial: false, discountPct: discount, isRefund: false,
            placementId: placement, transactionId: nil)
        try await engine.track(completed, of: name)
        _ = try exit.on(.purchaseFinished)
        return price
    }
}

/// The events of the outbox, by name; each has been taken by the server.
private func written(_ engine: Engine) async throws -> [String: Int] {
    struct Event: Decodable { let name: String }

    var (names, after) = ([String: Int](), Int64?.none)
    repeat {
        let page = try await engine.intents(IntentFilter(after: after))
        for intent in page.items where intent.operation == "events.track" {
            try check(intent.state == .done, "the server did not take an event: \(intent)")
            names[try JSONDecoder().decode(Event.self, from: intent.payload).name, default: 0] += 1
        }
        after = page.next
    } while after != nil
    return names
}

/// What the server says of an experiment: a part of its JSON.
private struct Report: Decodable {
    struct Variation: Decodable {
        let name: String
        let n: Int
        let revenue: Double
        let revenuePerUser: Double
    }

    struct Decision: Decodable {
        let action: String
        let reason: String
    }

    let users: Int
    let variations: [Variation]
    let decision: Decision
}

private func report(_ server: any HTTPTransport, _ experiment: String) async throws -> Report {
    let path = "/v1/experiments/\(experiment)/report"
    let answer = try await server.send(HTTPRequest(method: "GET", path: path, headers: [], body: Data()))
    try check(answer.status == 200, "the server gives no report: \(String(decoding: answer.body, as: UTF8.self))")
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(Report.self, from: answer.body)
}
