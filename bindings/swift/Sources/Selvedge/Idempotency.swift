import Foundation

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

extension URLRequest {
    /// The key that makes a repeated request harmless, of the header `Idempotency-Key`
    /// (draft-ietf-httpapi-idempotency-key-header, a quoted string). `nil` takes the header away.
    public var idempotencyKey: String? {
        get {
            value(forHTTPHeaderField: "Idempotency-Key").map { $0.trimmingCharacters(in: CharacterSet(charactersIn: "\"")) }
        }
        set { setValue(newValue.map { "\"\($0)\"" }, forHTTPHeaderField: "Idempotency-Key") }
    }
}

extension URLSession {
    /// Sends a request that changes something, and repeats it with the same key while it fails in a way that may pass: no
    /// connection, or status 408, 409 with `Retry-After` (the first attempt still runs), 425, 429, 500, 502, 503, 504. A
    /// request without a key is given a random one.
    ///
    /// It forgets the request with the process. What must survive that is ``Engine/submit(_:call:)``'s.
    ///
    /// - Parameters:
    ///   - attempts: how often it is sent at most.
    ///   - backoff: the longest pause before the second attempt, in seconds; it doubles each time, and each pause is random
    ///     up to that. `Retry-After` goes before it.
    /// - Throws: ``SelvedgeError`` of kind `unavailable` when the last attempt was not answered.
    public func idempotentData(
        for request: URLRequest,
        attempts: Int = 4,
        backoff: TimeInterval = 0.5
    ) async throws -> (Data, HTTPURLResponse) {
        var request = request
        if request.idempotencyKey == nil { request.idempotencyKey = UUID().uuidString }
        for attempt in 1... {
            var pause = TimeInterval.random(in: 0...backoff * pow(2, Double(attempt - 1)))
            do {
                let (body, response) = try await exchange(request)
                let after = response.value(forHTTPHeaderField: "Retry-After").flatMap(TimeInterval.init)
                let passes =
                    [408, 425, 429, 500, 502, 503, 504].contains(response.statusCode)
                    || (response.statusCode == 409 && after != nil)
                if !passes || attempt >= attempts { return (body, response) }
                pause = after ?? pause
            } catch let error as SelvedgeError {
                if attempt >= attempts || Task.isCancelled { throw error }
            }
            try await Task.sleep(nanoseconds: milliseconds(min(pause, 60)) * 1_000_000)
        }
        fatalError("the range has no end")
    }
}
