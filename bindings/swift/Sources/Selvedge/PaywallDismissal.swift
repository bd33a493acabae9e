#if canImport(UIKit) && !os(watchOS)
    import SelvedgeGenerated
    import UIKit

    /// Tells an ``ExitOffer`` when the sheet of a paywall is swiped away, and hands on what is to be done.
    ///
    /// ```swift
    /// dismissal = PaywallDismissal(exit) { perform($0) }
    /// paywall.presentationController?.delegate = dismissal
    /// ```
    ///
    /// The presentation controller does not keep its delegate: the app has to, for as long as the paywall is shown.
    @MainActor
    public final class PaywallDismissal: NSObject, UIAdaptivePresentationControllerDelegate {
        private let offer: ExitOffer
        private let act: @MainActor (ExitAction) -> Void

        /// - Parameters:
        ///   - offer: decides.
        ///   - act: does what is to be done.
        public init(_ offer: ExitOffer, act: @escaping @MainActor (ExitAction) -> Void) {
            self.offer = offer
            self.act = act
        }

        /// The sheet stays when an offer is to be made.
        public func presentationControllerShouldDismiss(_: UIPresentationController) -> Bool {
            // `try?` would make one `nil` of an error and of nothing that keeps the offer from being made.
            do { return try offer.declined(.swipe) != nil } catch { return true }
        }

        public func presentationControllerDidAttemptToDismiss(_: UIPresentationController) {
            tell(.swipe)
        }

        public func presentationControllerDidDismiss(_: UIPresentationController) {
            tell(.swipe)
        }

        private func tell(_ input: ExitInput) {
            for action in (try? offer.on(input)) ?? [] { act(action) }
        }
    }
#endif
