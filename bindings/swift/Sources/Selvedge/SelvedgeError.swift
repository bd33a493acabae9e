import Foundation
import SelvedgeGenerated

/// What failed, on what, and what to do next.
///
/// Throw one from a callback (``HTTPTransport``, a job handler) and its kind arrives at the engine.
public struct SelvedgeError: LocalizedError, Sendable, Equatable {
    /// What kind of thing went wrong; what an app decides by.
    public var kind: ErrorKind
    /// The operation that failed: `store.commit`.
    public var operation: String
    /// What failed, on what and why, as one sentence for people.
    public var message: String
    /// What to do next, if there is something.
    public var advice: String?
    /// What it failed on, by name.
    public var context: [String: String]
    /// The operation had no effect and the same call may succeed later.
    public var isRetryable: Bool
    /// How long to wait before the same call, in seconds, when that is known.
    public var retryAfter: TimeInterval?

    /// An error for a callback to throw.
    public init(
        _ kind: ErrorKind,
        _ message: String,
        operation: String = "app",
        advice: String? = nil,
        isRetryable: Bool = false,
        retryAfter: TimeInterval? = nil
    ) {
        self.kind = kind
        self.operation = operation
        self.message = message
        self.advice = advice
        self.context = [:]
        self.isRetryable = isRetryable
        self.retryAfter = retryAfter
    }

    /// The message, as `localizedDescription` shows it.
    public var errorDescription: String? { message }

    /// The advice, as Foundation calls it.
    public var recoverySuggestion: String? { advice }
}

extension SelvedgeError {
    init(_ failure: Failure) {
        self.init(failure.kind, failure.message, operation: failure.operation, advice: failure.advice)
        context = failure.context
        isRetryable = failure.retryable
        retryAfter = failure.retryAfterMs.map { TimeInterval($0) / 1000 }
    }

    /// An error of a call, for the app.
    static func of(_ error: any Error) -> any Error {
        switch error {
        case EngineError.Failed(let failure): SelvedgeError(failure)
        case is CancellationError, is SelvedgeError: error
        default: SelvedgeError(.internal, "the library failed: \(error)", operation: "engine")
        }
    }

    /// What a callback of the app threw, for the engine.
    static func toEngine(_ error: any Error) -> EngineError {
        let thrown: SelvedgeError =
            switch error {
            case let error as SelvedgeError: error
            case is CancellationError: SelvedgeError(.cancelled, "a callback of the app was cancelled")
            default: SelvedgeError(.internal, "a callback of the app threw: \(error)")
            }
        return .Failed(
            failure: Failure(
                kind: thrown.kind,
                operation: thrown.operation,
                message: thrown.message,
                advice: thrown.advice,
                context: thrown.context,
                retryable: thrown.isRetryable,
                retryAfterMs: thrown.retryAfter.map(milliseconds)
            ))
    }
}

/// Seconds as milliseconds; what is negative or too large is bounded.
func milliseconds(_ seconds: TimeInterval) -> UInt64 {
    UInt64(min(max(seconds * 1000, 0), 1e15))
}
