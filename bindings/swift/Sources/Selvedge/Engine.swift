import Foundation
import SelvedgeGenerated

/// An engine: one database, its models, and threads of its own.
///
/// All of its calls may be made from any task, at once. A call whose task is cancelled stops its work and throws
/// `CancellationError`; every other error is a ``SelvedgeError``.
///
/// ```swift
/// let engine = try await Engine(database: "shop.db")
/// let order = try await engine.submit("orders.create", ["item": "tea"])
/// print(order.key)
/// ```
public final class Engine: Sendable {
    /// The generated engine; the benchmark measures the façade beside it.
    package let native: SelvedgeGenerated.Engine

    /// Opens a database, and models if there are any. Large models take seconds; no thread is blocked.
    ///
    /// - Parameters:
    ///   - database: the path of the file; it is made when it is not there.
    ///   - models: language models to open.
    ///   - durability: what a power cut may cost.
    ///   - hosts: what the app lends the engine.
    ///   - callbackTimeout: how long a callback of the app may take, in seconds.
    ///   - concurrency: how many calls to models run at once; each needs memory for a context of its own.
    ///   - experiments: where placements come from; without it there are none.
    /// - Throws: ``SelvedgeError`` of kind `damaged`, `newerVersion`, `permissionDenied`, `storageFull`, `busy`, `conflict`
    ///   (another program's file), `invalidInput` or `unsupported`.
    public init(
        database: String,
        models: [ModelConfig] = [],
        durability: Durability = .durable,
        hosts: Hosts = Hosts(),
        callbackTimeout: TimeInterval = 30,
        concurrency: UInt32 = 2,
        experiments: ExperimentsConfig? = nil
    ) async throws {
        let config = EngineConfig(
            database: database,
            durability: durability,
            models: models,
            concurrency: concurrency,
            experiments: experiments,
            callbackTimeoutMs: milliseconds(callbackTimeout)
        )
        native = try await calling { try await SelvedgeGenerated.Engine.open(config: config, hosts: hosts) }
    }

    // MARK: Intents

    /// Writes an intent down before anything is sent. Once this returns it survives the end of the process, and every
    /// attempt carries the same key.
    ///
    /// - Throws: `conflict` for another intent of the same id, `tooLarge`, `invalidInput`, `storageFull`.
    public func submit(_ intent: NewIntent, call: Call = Call()) async throws -> Submitted {
        try await cancellable { [native] in try await native.submit(intent: intent, call: call, cancel: $0) }
    }

    /// Submits an operation with a value, as JSON.
    public func submit(_ operation: String, _ payload: some Encodable & Sendable, call: Call = Call()) async throws -> Submitted {
        let json: Data
        do {
            json = try JSONEncoder().encode(payload)
        } catch {
            throw SelvedgeError(.invalidInput, "the payload cannot be written as JSON: \(error)", operation: "engine.submit")
        }
        return try await submit(NewIntent(operation: operation, payload: json), call: call)
    }

    /// One page of intents, in the order in which they were submitted.
    public func intents(_ filter: IntentFilter = IntentFilter()) async throws -> IntentPage {
        try await cancellable { [native] in try await native.intents(filter: filter, cancel: $0) }
    }

    /// One intent, if it is still kept.
    public func intent(id: String) async throws -> IntentView? {
        try await cancellable { [native] in try await native.intent(id: id, cancel: $0) }
    }

    /// Sends every pending intent once. A request that fails is counted and tried again later.
    ///
    /// - Throws: `unavailable` when the device is offline; no attempt is counted then.
    public func flush(_ transport: any HTTPTransport, call: Call = Call()) async throws -> Flushed {
        try await cancellable { [native] in
            try await native.flush(transport: HostedTransport(transport), call: call, cancel: $0)
        }
    }

    /// Sends intents as they come, until the task is cancelled.
    public func relay(_ transport: any HTTPTransport, call: Call = Call()) async throws {
        try await cancellable { [native] in
            try await native.relay(transport: HostedTransport(transport), call: call, cancel: $0)
        }
    }

    // MARK: Jobs

    /// Writes jobs down, all or none.
    ///
    /// - Throws: `tooLarge`, `invalidInput`, `storageFull`.
    public func enqueue(_ jobs: NewJob..., call: Call = Call()) async throws -> [EnqueuedJob] {
        try await enqueue(jobs, call: call)
    }

    /// Writes jobs down, all or none.
    public func enqueue(_ jobs: [NewJob], call: Call = Call()) async throws -> [EnqueuedJob] {
        try await cancellable { [native] in try await native.enqueue(jobs: jobs, call: call, cancel: $0) }
    }

    /// One page of jobs, by number.
    public func jobs(_ filter: JobFilter = JobFilter()) async throws -> JobPage {
        try await cancellable { [native] in try await native.jobs(filter: filter, cancel: $0) }
    }

    /// Depth and age of every queue.
    public func queues() async throws -> [QueueStats] {
        try await cancellable { [native] in try await native.queues(cancel: $0) }
    }

    /// Cancels a job. A job that has ended is no error.
    public func cancelJob(_ id: Int64) async throws {
        try await cancellable { [native] in try await native.cancelJob(id: id, cancel: $0) }
    }

    /// Makes a dead or cancelled job ready again, with all of its attempts.
    public func reviveJob(_ id: Int64) async throws {
        try await cancellable { [native] in try await native.reviveJob(id: id, cancel: $0) }
    }

    /// Gives jobs to `handler` until the task is cancelled: then it takes no more, waits for those that run and returns.
    ///
    /// - Parameters:
    ///   - queues: where to take jobs from.
    ///   - concurrency: how many jobs run at once.
    ///   - timeout: how long one job may take, in seconds.
    ///   - handler: works on one job; it may be called again for the same job after a crash.
    /// - Throws: `cancelled` when the engine is suspended or closed, `invalidInput` without a queue.
    public func work(
        on queues: [String],
        concurrency: UInt32 = 1,
        timeout: TimeInterval = 30,
        handler: @escaping JobHandler
    ) async throws {
        let options = WorkOptions(queues: queues, concurrency: concurrency, timeoutMs: milliseconds(timeout))
        try await cancellable { [native] in
            try await native.work(handler: HostedHandler(handler), options: options, cancel: $0)
        }
    }

    // MARK: Topics

    /// Publishes a message to whoever subscribes in any process on this database, and returns its cursor.
    @discardableResult
    public func publish(_ topic: String, _ payload: Data, call: Call = Call()) async throws -> Int64 {
        // The library reads a bulk in place: faster than an argument that is copied through.
        let bulk = payload.count < bulkBytes ? nil : try calling { try Bulk(bytes: payload) }
        return try await cancellable { [native] in
            guard let bulk else {
                return try await native.publish(topic: topic, payload: payload, call: call, cancel: $0)
            }
            return try await native.publishBulk(topic: topic, payload: bulk, call: call, cancel: $0)
        }
    }

    /// The messages of a topic. The subscription begins when the first is asked for, and ends with the loop or its task.
    ///
    /// - Parameters:
    ///   - topic: whose messages.
    ///   - start: where to begin.
    ///   - buffer: how many messages a slow subscriber may be behind before it skips the oldest; without it nothing that
    ///     is kept is skipped.
    public func subscribe(
        _ topic: String,
        from start: Start = .now,
        buffer: UInt32? = nil
    ) -> AsyncThrowingStream<Notice, any Error> {
        pulled { [native] in
            let stream = try native.subscribe(topic: topic, from: start, buffer: buffer)
            return Source(cancel: stream.cancel) { try await stream.nextBatch(max: 64) }
        }
    }

    // MARK: Placements

    /// What somebody sees at a placement: the same every time. Unless it peeks, what was assigned and its impression are kept
    /// before this returns, so call it when the placement is about to be shown.
    ///
    /// - Throws: `notFound` for a placement that is not configured; one that shows nothing has no `shown`.
    public func assign(_ request: AssignRequest, call: Call = Call()) async throws -> Assignment {
        try await cancellable { [native] in try await native.assign(request: request, call: call, cancel: $0) }
    }

    /// What somebody sees at a placement.
    public func assign(_ placement: String, to subject: String, device: String? = nil) async throws -> Assignment {
        try await assign(AssignRequest(subject: subject, placement: placement, device: device))
    }

    /// Keeps an event and sends it to the server with the outbox. The same id again changes nothing.
    ///
    /// - Throws: `invalidInput`, naming the property that is wrong.
    public func track(_ event: NewEvent, call: Call = Call()) async throws {
        try await cancellable { [native] in try await native.track(event: event, call: call, cancel: $0) }
    }

    /// Keeps an event about somebody.
    public func track(_ event: PaywallEvent, of subject: String) async throws {
        try await track(NewEvent(subject: subject, event: event))
    }

    /// Fetches the configuration of placements if it has changed, and says whether it had. Whatever goes wrong, the one that
    /// holds stays. Call it when the app comes to the foreground.
    ///
    /// - Throws: `unavailable`, `damaged`, `permissionDenied` for a signature that is not trusted, `conflict` for an older one.
    @discardableResult
    public func refreshConfig(
        _ transport: any HTTPTransport,
        path: String = "/v1/config",
        call: Call = Call()
    ) async throws -> Bool {
        try await cancellable { [native] in
            try await native.refreshConfig(transport: HostedTransport(transport), path: path, call: call, cancel: $0)
        }
    }

    /// How the configuration of placements is doing.
    public func configHealth() throws -> ConfigHealth {
        try calling { try native.configHealth() }
    }

    // MARK: Models

    /// Asks a model to go on with a chat. The answer stops with the loop or its task.
    ///
    /// ```swift
    /// for try await part in engine.chat(ChatRequest("Name three teas.")) {
    ///     print(part.text, terminator: "")
    /// }
    /// ```
    public func chat(_ request: ChatRequest, call: Call = Call()) -> AsyncThrowingStream<ChatChunk, any Error> {
        pulled { [native] in
            let stream = try native.chat(request: request, call: call, cancel: nil)
            return Source(cancel: stream.cancel) { try await stream.nextBatch().map { [$0] } ?? [] }
        }
    }

    /// Vectors that stand for texts, each of length 1.
    public func embed(_ texts: [String], model: String? = nil, call: Call = Call()) async throws -> [[Float]] {
        try await cancellable { [native] in
            try await native.embed(texts: texts, model: model, call: call, cancel: $0)
        }
    }

    /// The models, by name.
    public func models() throws -> [ModelDescription] { try calling { try native.models() } }

    // MARK: The app's life

    /// Looks at the database, the models, the network and the heat.
    public func doctor() async throws -> DoctorReport {
        try await cancellable { [native] in try await native.doctor(cancel: $0) }
    }

    /// One tick of housekeeping. Call it at each start, and about once a second while jobs are worked on.
    public func maintain() async throws {
        try await cancellable { [native] in try await native.maintain(cancel: $0) }
    }

    /// Gets ready for the app to be frozen: what runs stops, running writes end, and no file lock is held afterwards.
    /// (iOS ends apps that hold one in a shared container.)
    public func suspend() async throws {
        try await calling { [native] in try await native.suspend() }
    }

    /// Goes on after ``suspend()``.
    public func resume() throws { try calling { try native.resume() } }

    /// Gives back the memory that can be had again: for `didReceiveMemoryWarning`.
    public func trim() async throws {
        try await cancellable { [native] in try await native.trim(cancel: $0) }
    }

    /// Closes the engine: calls that run end, later ones fail with kind `closed`. Nothing acknowledged is lost, and doing it
    /// twice changes nothing. Letting go of the last reference closes it too.
    public func close() throws { try calling { try native.shutdown() } }
}

/// From this many bytes on a payload is handed over as a ``Bulk``.
private let bulkBytes = 65_536
