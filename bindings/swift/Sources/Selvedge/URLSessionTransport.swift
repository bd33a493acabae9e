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
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let task = dataTask(with: request) { body, response, error in
                    if let response = response as? HTTPURLResponse, error == nil {
                        continuation.resume(returning: (body ?? Data(), response))
                    } else {
                        let why = error?.localizedDescription ?? "no response"
                        let error = SelvedgeError(
                            .unavailable, "\(request.url?.absoluteString ?? "the server") was not reached: \(why)",
                            operation: "transport.send", isRetryable: true)
                        continuation.resume(throwing: error)
                    }
                }
                running.start(task)
            }
        } onCancel: {
            running.cancel()
        }
    }
}

/// A task that may be cancelled before it is started.
private final class Running: @unchecked Sendable {
    private let lock = NSLock()
    private var task: URLSessionTask?
    private var cancelled = false

    func start(_ task: URLSessionTask) {
        let stop = lock.withLock {
            self.task = task
            return cancelled
        }
        task.resume()
        if stop { task.cancel() }
    }

    func cancel() {
        lock.withLock {
            cancelled = true
            return task
        }?.cancel()
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
