#if canImport(UIKit)
    import Testing
    import UIKit

    @testable import Selvedge

    /// The sheet of a paywall, and an exit offer. Where the system has no UIKit these run against `Tests/StandIns`.
    @MainActor
    struct PaywallDismissalTests {
        private let offer = ExitOffer(.ios)
        private let sheet = UIPresentationController()

        /// Shows a paywall; the revision that what was loaded for its exit offer is of.
        private func show() throws -> UInt64 {
            try offer.configure(ExitOfferSettings(enabled: true, placement: "exit_offer", maxPerSession: 1))
            let shown = ExitInput.paywallShown(
                placement: "main_paywall", offering: "annual", experiment: nil, variant: "control")
            guard case .loadOffer(_, let revision) = try offer.on(shown).first else { throw Unexpected() }
            return revision
        }

        private func load(_ revision: UInt64) throws {
            _ = try offer.on(.offerLoaded(revision: revision, offering: "exit_annual"))
            _ = try offer.on(.eligibilityKnown(revision: revision, eligibility: .eligible))
        }

        @Test func aSheetStaysForAnOfferAndThenGoes() throws {
            try load(show())
            var done = [ExitAction]()
            let dismissal = PaywallDismissal(offer) { done.append($0) }
            sheet.delegate = dismissal
            sheet.swipeDown()
            #expect(!sheet.isDismissed)
            #expect(done.first == .showOffer(placement: "exit_offer", offering: "exit_annual", trigger: .swipe))
            done.removeAll()
            sheet.swipeDown()
            #expect(sheet.isDismissed)
            #expect(done == [.letGo(reason: .offerShown)])
        }

        @Test func aSheetGoesWhenNoOfferIsLoaded() throws {
            _ = try show()
            var done = [ExitAction]()
            let dismissal = PaywallDismissal(offer) { done.append($0) }
            sheet.delegate = dismissal
            sheet.swipeDown()
            #expect(sheet.isDismissed)
            #expect(done == [.letGo(reason: .notLoaded)])
        }
    }

    private struct Unexpected: Error {}
#endif
