import Foundation
import SelvedgeGenerated

/// Decides whether somebody who leaves a paywall is made one more offer: tell it what happens, and do what it says.
///
/// It does no I/O, so a decision takes no time and may be made on the main actor, in a presentation delegate for instance.
///
/// ```swift
/// let exit = try ExitOffer(.ios)
/// try exit.configure(assignment.shown?.exitOffer)
/// _ = try exit.on(.paywallShown(placement: "main_paywall", offering: "annual", experiment: nil, variant: "control"))
/// let actions = try exit.on(.swipe)
/// ```
public final class ExitOffer: Sendable {
    private let native: SelvedgeGenerated.ExitOffer

    /// Nothing has happened yet, and exit offers are off.
    public init(_ platform: Platform) {
        native = SelvedgeGenerated.ExitOffer(platform: platform)
    }

    /// Goes on from what ``save()`` gave, after the system ended the app's process.
    ///
    /// - Throws: `invalidInput` when it is something else.
    public init(restoring saved: String) throws {
        native = try calling { try SelvedgeGenerated.ExitOffer.restore(saved: saved) }
    }

    /// Sets what a paywall's placement says about exit offers; `nil` switches them off. Call it before `paywallShown`.
    public func configure(_ settings: ExitOfferSettings?) throws {
        try calling { try native.configure(settings: settings) }
    }

    /// Takes in what happened at a moment, and says what to do, in order. `back` and `swipe` always come to exactly one of
    /// `showOffer` and `letGo`.
    public func on(_ input: ExitInput, at moment: Date = Date()) throws -> [ExitAction] {
        try calling { try native.on(input: input, atMs: moment.milliseconds) }
    }

    /// What would keep an offer from being made for this trigger now; `nil` when one would be.
    public func declined(_ trigger: Trigger, at moment: Date = Date()) throws -> Declined? {
        try calling { try native.declined(trigger: trigger, atMs: moment.milliseconds) }
    }

    /// All of its state, as text.
    public func save() throws -> String {
        try calling { try native.save() }
    }
}

extension Date {
    fileprivate var milliseconds: Int64 { Int64((timeIntervalSince1970 * 1_000).rounded(.down)) }
}
