import SelvedgeGenerated

/// Sends requests to the app's server. It must not retry and follow no redirect by itself.
///
/// ``URLSessionTransport`` is one.
public protocol HTTPTransport: Sendable {
    /// Sends a request and waits for the whole response. Any error is a failed attempt: the outbox tries again.
    func send(_ request: HTTPRequest) async throws -> HTTPResponse
}

/// Works on one job; it may be called again for the same job after a crash. Any error is a failed attempt;
/// ``SelvedgeError`` of kind `invalidInput` makes the job a dead letter at once.
public typealias JobHandler = @Sendable (LeasedJob) async throws -> JobOutcome

final class HostedTransport: SelvedgeGenerated.HttpTransport {
    private let app: any HTTPTransport

    init(_ app: any HTTPTransport) { self.app = app }

    func send(request: HttpRequest) async throws -> HttpResponse {
        do { return try await app.send(request) } catch { throw SelvedgeError.toEngine(error) }
    }
}

final class HostedHandler: SelvedgeGenerated.JobHandler {
    private let app: JobHandler

    init(_ app: @escaping JobHandler) { self.app = app }

    func handle(job: LeasedJob) async throws -> JobOutcome {
        do { return try await app(job) } catch { throw SelvedgeError.toEngine(error) }
    }
}
