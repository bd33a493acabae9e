@_exported import Foundation

/// As much of UIKit as the adapters use, declared as Apple documents it, so that they are compiled and run where there is no
/// UIKit. The tests are built against it there; no package has it.
@MainActor
public protocol UIAdaptivePresentationControllerDelegate: NSObjectProtocol {
    func presentationControllerShouldDismiss(_ presentationController: UIPresentationController) -> Bool
    func presentationControllerDidAttemptToDismiss(_ presentationController: UIPresentationController)
    func presentationControllerDidDismiss(_ presentationController: UIPresentationController)
}

/// Shows a sheet.
@MainActor
open class UIPresentationController: NSObject {
    public weak var delegate: (any UIAdaptivePresentationControllerDelegate)?
    public private(set) var isDismissed = false

    /// What a person does: UIKit asks its delegate first, and tells it what came of it.
    public func swipeDown() {
        guard delegate?.presentationControllerShouldDismiss(self) ?? true else {
            delegate?.presentationControllerDidAttemptToDismiss(self)
            return
        }
        isDismissed = true
        delegate?.presentationControllerDidDismiss(self)
    }
}
