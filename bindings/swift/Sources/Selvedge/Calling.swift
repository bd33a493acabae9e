import SelvedgeGenerated

/// Runs a call of the library and gives its error as a ``SelvedgeError``.
func calling<T>(_ call: () throws -> T) throws -> T {
    do { return try call() } catch { throw SelvedgeError.of(error) }
}

/// Runs a call of the library that is not to be cancelled and gives its error as a ``SelvedgeError``.
func calling<T: Sendable>(_ call: @Sendable () async throws -> T) async throws -> T {
    do { return try await call() } catch { throw SelvedgeError.of(error) }
}

/// Runs a call that ends when its task is cancelled. A task does not reach the library by itself: a handle does.
func cancellable<T: Sendable>(_ call: @Sendable (CancelHandle) async throws -> T) async throws -> T {
    let handle = CancelHandle()
    return try await cancelling({ try handle.cancel() }) { try await call(handle) }
}

/// Runs a call that `cancel` ends; when its task was cancelled it throws `CancellationError`, as Swift's own calls do.
func cancelling<T: Sendable>(
    _ cancel: @escaping @Sendable () throws -> Void,
    _ call: @Sendable () async throws -> T
) async throws -> T {
    try await withTaskCancellationHandler {
        do {
            return try await calling(call)
        } catch let error as SelvedgeError where error.kind == .cancelled && Task.isCancelled {
            throw CancellationError()
        }
    } onCancel: {
        try? cancel()
    }
}
