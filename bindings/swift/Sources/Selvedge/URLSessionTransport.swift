import Foundation
import SelvedgeGenerated

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

/// Sends the outbox's requests by `URLSession`, below one address.
///
/// ```swift
/// let transport = URLSessionTransport(server: URL(string: "https://api.example.com")!)
/// let flushed = try await engine.flush(transport)
/// ```
public final class URLSessionTransport: HTTPTransport {
    private let server: URL
    private let session: URLSession

    /// A transport to one server.
    ///
    /// - Parameters:
    ///   - server: `https://api.example.com`, with a path if the API lies below one.
    ///   - configuration: the session's; cookies, proxies, certificates and timeouts are its own.
    public init(server: URL, configuration: URLSessionConfiguration = .ephemeral) {
        self.server = server
        session = URLSession(configuration: configuration, delegate: NoRedirects(), delegateQueue: nil)
    }

    deinit { session.finishTasksAndInvalidate() }

    public func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        guard let url = URL(string: server.absoluteString.trimmingSuffix("/") + request.path) else {
            throw SelvedgeError(.invalidInput, "\(server)\(request.path) is no URL", operation: "transport.send")
        }
        var sent = URLRequest(url: url)
        sent.httpMethod = request.method
        sent.httpBody = request.body
        for header in request.headers { sent.setValue(header.value, forHTTPHeaderField: header.name) }
        let (body, response) = try await session.exchange(sent)
        let headers = response.allHeaderFields.map { Header(name: "\($0.key)", value: "\($0.value)") }
        return HTTPResponse(status: UInt16(clamping: response.statusCode), headers: headers, body: body)
    }
}

extension URLSession {
    /// Sends a request and waits for the whole response; a cancelled task ends it.
    func exchange(_ request: URLRequest) async throws -> (Data, HTTPURLResponse) {
        let running = Running()
        let url = request.url?.absoluteString ?? "the server"
        @Sendable func unreached(_ why: String) -> SelvedgeError {
            SelvedgeError(.unavailable, "\(url) was not reached: \(why)", operation: "transport.send", isRetryable: true)
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let answer = Answer(continuation)
                let task = dataTask(with: request) { body, response, error in
                    if let response = response as? HTTPURLResponse, error == nil {
                        answer.give(.success((body ?? Data(), response)))
                    } else {
                        answer.give(.failure(unreached(error?.localizedDescription ?? "no response")))
                    }
                }
                running.start(task) { answer.give(.failure(unreached("it was cancelled"))) }
            }
        } onCancel: {
            running.cancel()
        }
    }
}

/// Whoever waits for an answer, told once.
private final class Answer: @unchecked Sendable {
    private let lock = NSLock()
    private var waiting: CheckedContinuation<(Data, HTTPURLResponse), any Error>?

    init(_ waiting: CheckedContinuation<(Data, HTTPURLResponse), any Error>) {
        self.waiting = waiting
    }

    func give(_ result: Result<(Data, HTTPURLResponse), any Error>) {
        let waiting = lock.withLock {
            defer { self.waiting = nil }
            return self.waiting
        }
        waiting?.resume(with: result)
    }
}

/// A task that may be cancelled before it is started.
private final class Running: @unchecked Sendable {
    private let lock = NSLock()
    private var stop: (@Sendable () -> Void)?
    private var cancelled = false

    func start(_ task: URLSessionTask, giveUp: @escaping @Sendable () -> Void) {
        task.resume()
        #if canImport(FoundationNetworking)
            // On Linux, Foundation ends the process when a task is cancelled at the moment it completes. The request is left to
            // end by itself, and nobody waits for it.
            let stop = giveUp
        #else
            let stop: @Sendable () -> Void = { task.cancel() }
        #endif
        let late = lock.withLock {
            self.stop = stop
            return cancelled
        }
        if late { stop() }
    }

    func cancel() {
        let stop = lock.withLock {
            cancelled = true
            return self.stop
        }
        stop?()
    }
}

/// A redirect is an answer: following it could send an order somewhere else, or turn it into a `GET`.
private final class NoRedirects: NSObject, URLSessionTaskDelegate, Sendable {
    func urlSession(
        _: URLSession, task _: URLSessionTask, willPerformHTTPRedirection _: HTTPURLResponse, newRequest _: URLRequest,
        completionHandler: @escaping (URLRequest?) -> Void
    ) {
        completionHandler(nil)
    }
}

extension String {
    fileprivate func trimmingSuffix(_ suffix: String) -> String {
        hasSuffix(suffix) ? String(dropLast(suffix.count)) : self
    }
}
