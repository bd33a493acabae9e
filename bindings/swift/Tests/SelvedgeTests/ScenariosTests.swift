import Foundation
import class SelvedgeGenerated.CancelHandle
import Testing

@testable import Selvedge

/// The scenarios of bindings/scenarios.md, on the real library, database, HTTP and model. One at a time: they count live
/// objects.
@Suite(.serialized, .timeLimit(.minutes(3)))
final class ScenariosTests: Sendable {
    private static let model = ProcessInfo.processInfo.environment["SELVEDGE_MODEL"]
    private let folder: URL
    private let server: Server
    private var path: String { folder.appendingPathComponent("app.db").path }

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        server = try Server()
    }

    deinit {
        server.close()
        try? FileManager.default.removeItem(at: folder)
    }

    private func open(hosts: Hosts = Hosts(), models: [ModelConfig] = [], timeout: TimeInterval = 30) async throws -> Engine {
        try await Engine(database: path, models: models, hosts: hosts, callbackTimeout: timeout)
    }

    private func talking() async throws -> Engine {
        let path = try #require(Self.model)
        return try await open(models: [ModelConfig(path: path, name: "smol", contextTokens: 2048, threads: 1)])
    }

    private var transport: URLSessionTransport { URLSessionTransport(server: server.url) }

    private func tea(id: String? = nil, businessKey: String? = nil) -> NewIntent {
        NewIntent(operation: "orders.create", payload: Data(#"{"item":"tea"}"#.utf8), businessKey: businessKey, id: id)
    }

    private func ask(_ text: String, _ tokens: UInt32) -> ChatRequest {
        ChatRequest(
            messages: [ChatMessage(role: "user", content: text)], maxTokens: tokens, batchWaitMs: 60_000)
    }

    private func until(_ what: String, _ holds: () async throws -> Bool) async throws {
        let end = Date().addingTimeInterval(20)
        while try await !holds() {
            try #require(Date() < end, "it never came about that \(what)")
            try await Task.sleep(nanoseconds: 10_000_000)
        }
    }

    private func fails(_ kind: ErrorKind, _ work: () async throws -> some Any, line: Int = #line) async throws -> SelvedgeError {
        do {
            let outcome = try await work()
            Issue.record("line \(line): expected \(kind), got \(outcome)")
        } catch let error as SelvedgeError {
            #expect(error.kind == kind, "line \(line): \(error)")
            return error
        }
        throw SelvedgeError(.internal, "no error")
    }

    @Test func aNewDatabaseIsFoundWell() async throws {
        let report = try await open().doctor()
        #expect(report.health == .ok)
        #expect(report.findings[0].found.contains("app.db"))
    }

    @Test func anIntentSurvivesReopening() async throws {
        let engine = try await open()
        let submitted = try await engine.submit(tea(businessKey: "cart-17"))
        #expect(submitted.key.hasPrefix("orders.create:cart-17:"))
        try engine.close()
        let again = try await open()
        #expect(try await again.intents().items.map(\.id) == [submitted.id])
        let view = try #require(try await again.intent(id: submitted.id))
        #expect(view.state == .pending)
        #expect(view.payload == tea().payload)
        #expect(try await again.intent(id: UUID().uuidString) == nil)
    }

    @Test func anIntentWithAKnownIdIsADuplicate() async throws {
        let engine = try await open()
        let id = UUID().uuidString
        #expect(try await !engine.submit(tea(id: id)).duplicate)
        #expect(try await engine.submit(tea(id: id)).duplicate)
        let other = NewIntent(operation: "orders.create", payload: Data(#"{"item":"gold"}"#.utf8), id: id)
        _ = try await fails(.conflict) { try await engine.submit(other) }
    }

    @Test func aFlushSendsTheKeyAndKeepsTheAnswer() async throws {
        let engine = try await open()
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        let submitted = try await engine.submit("orders.create", ["item": "tea"], call: Call(traceparent: trace))
        let flushed = try await engine.flush(transport)
        #expect([flushed.attempts, flushed.answered, flushed.failed] == [1, 1, 0])
        let seen = try #require(server.seen.first)
        #expect(seen.headers["idempotency-key"] == "\"\(submitted.key)\"")
        #expect(seen.headers["traceparent"]?.contains("4bf92f3577b34da6a3ce929d0e0e4736") == true)
        #expect(seen.body == #"{"operation":"orders.create","payload":{"item":"tea"}}"#)
        let view = try #require(try await engine.intent(id: submitted.id))
        #expect(view.state == .done)
        #expect(view.answerStatus == 201)
        #expect(view.answerBody == Data(#"{"ok":true}"#.utf8))
    }

    @Test func aRefusedIntentIsKeptAsRefused() async throws {
        let engine = try await open()
        let submitted = try await engine.submit(tea())
        server.answer(422)
        _ = try await engine.flush(transport)
        let view = try #require(try await engine.intent(id: submitted.id))
        #expect(view.state == .refused)
        #expect(view.answerStatus == 422)
    }

    @Test func aFailedRequestIsRepeatedWithTheSameKey() async throws {
        let engine = try await open()
        let submitted = try await engine.submit(tea())
        server.answer(503)
        #expect(try await engine.flush(transport).failed == 1)
        #expect(try await engine.flush(transport).answered == 1)
        #expect(server.seen.map { $0.headers["idempotency-key"] } == ["\"\(submitted.key)\"", "\"\(submitted.key)\""])
    }

    @Test func aRelaySendsIntentsAsTheyCome() async throws {
        let engine = try await open()
        let relay = Task { [transport] in try await engine.relay(transport) }
        for _ in 0..<3 { _ = try await engine.submit(tea()) }
        try await until("all are sent") { server.seen.count == 3 }
        relay.cancel()
        _ = await relay.result
    }

    @Test func offlineIsAnErrorAndCostsNoAttempt() async throws {
        let engine = try await open(hosts: Hosts(connectivity: Offline()))
        let submitted = try await engine.submit(tea())
        let error = try await fails(.unavailable) { try await engine.flush(self.transport) }
        #expect(error.message.contains("offline"))
        #expect(try await engine.intent(id: submitted.id)?.attempts == 0)
        #expect(server.seen.isEmpty)
    }

    @Test func aCallbackThatThrowsIsAFailedAttempt() async throws {
        let engine = try await open()
        let submitted = try await engine.submit(tea())
        #expect(try await engine.flush(Sending { _ in throw URLError(.badURL) }).failed == 1)
        #expect(try await engine.intent(id: submitted.id)?.lastError?.contains("a callback of the app threw") == true)
        #expect(try await engine.flush(Sending { _ in throw SelvedgeError(.unavailable, "no route") }).failed == 1)
        #expect(try await engine.intent(id: submitted.id)?.lastError?.contains("no route") == true)
        #expect(try await engine.flush(transport).answered == 1)
    }

    @Test func aCallbackThatHangsEndsByItsTimeout() async throws {
        let engine = try await open(timeout: 0.1)
        let submitted = try await engine.submit(tea())
        #expect(try await engine.flush(Sending(hang)).failed == 1)
        #expect(try await engine.intent(id: submitted.id)?.lastError?.contains("in time") == true)
    }

    @Test func aCallbackMayCallTheEngine() async throws {
        let engine = try await open()
        _ = try await engine.submit(tea())
        let sizes = Kept<Int>()
        let transport = transport
        let calling = Sending { request in
            sizes.add(try await engine.intents().items.count)
            return try await transport.send(request)
        }
        #expect(try await engine.flush(calling).answered == 1)
        #expect(sizes.all == [1])
    }

    @Test func messagesArriveInOrder() async throws {
        let engine = try await open()
        for number in 0..<100 { try await engine.publish("news", Data("\(number)".utf8)) }
        func read(_ count: Int, from start: Start) async throws -> [(Int64, Int)] {
            var read: [(Int64, Int)] = []
            for try await notice in engine.subscribe("news", from: start) {
                guard case .message(let cursor, let payload, _) = notice else { continue }
                read.append((cursor, Int(String(decoding: payload, as: UTF8.self))!))
                if read.count == count { break }
            }
            return read
        }
        let all = try await read(100, from: .earliest)
        #expect(all.map(\.1) == Array(0..<100))
        #expect(try await read(2, from: .after(cursor: all[97].0)).map(\.1) == [98, 99])
    }

    @Test func aLargeMessageArrivesWhole() async throws {
        let engine = try await open()
        let payloads = [65_535, 65_536, 1_000_000].map { size in Data((0..<size).map { _ in UInt8.random(in: 0...255) }) }
        for payload in payloads { try await engine.publish("news", payload) }
        var read: [Data] = []
        for try await case .message(_, let payload, _) in engine.subscribe("news", from: .earliest) {
            read.append(payload)
            if read.count == payloads.count { break }
        }
        #expect(read == payloads)
        _ = try await fails(.tooLarge) { try await engine.publish("news", Data(count: 100_000_000)) }
    }

    @Test func aCancelledSubscriptionEnds() async throws {
        let engine = try await open()
        let before = try liveObjects()
        let waiting = Task { for try await _ in engine.subscribe("news") {} }
        try await until("it waits") { try liveObjects().streams > before.streams }
        waiting.cancel()
        await #expect(throws: CancellationError.self) { try await waiting.value }
        try await until("it is gone") { try liveObjects() == before }
    }

    @Test func jobsAreWorkedOnAndRetried() async throws {
        let engine = try await open()
        let tried = Kept<String>()
        let jobs = ["good", "bad", "later"].map { NewJob(queue: "mail", payload: Data($0.utf8)) }
        #expect(try await engine.enqueue(jobs).count == 3)
        let work = Task {
            try await engine.work(on: ["mail"], concurrency: 2) { job in
                let payload = String(decoding: job.payload, as: UTF8.self)
                tried.add("\(payload) \(job.attempt)")
                if payload == "bad" { throw SelvedgeError(.invalidInput, "it can never work") }
                if payload == "later" && job.attempt == 1 { throw URLError(.timedOut) }
                return .done
            }
        }
        try await until("every job has ended") {
            let queue = try await engine.queues()[0]
            return queue.ready + queue.running + queue.scheduled == 0
        }
        work.cancel()
        // A worker that is cancelled ends in order, so that is no error.
        try await work.value
        #expect(tried.all.sorted() == ["bad 1", "good 1", "later 1", "later 2"])
        #expect(try await engine.jobs(JobFilter(state: .dead)).items.map(\.payload) == [Data("bad".utf8)])
    }

    @Test func aJobIsCancelledAndRevived() async throws {
        let engine = try await open()
        let job = NewJob(queue: "mail", payload: Data(), unique: "one")
        let first = try await engine.enqueue(job)[0]
        let twin = try await engine.enqueue(job)[0]
        #expect(twin.id == first.id && twin.duplicate)
        try await engine.cancelJob(first.id)
        #expect(try await engine.jobs().items.map(\.state) == [.cancelled])
        try await engine.reviveJob(first.id)
        #expect(try await engine.jobs().items.map(\.state) == [.ready])
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func aChatStreamsInBatches() async throws {
        let engine = try await talking()
        var texts: [String] = []
        for _ in 0..<2 {
            var parts: [ChatChunk] = []
            for try await part in engine.chat(ask("Name three teas.", 64)) { parts.append(part) }
            #expect(parts.last?.stop != nil)
            #expect(parts.count <= 6 + parts.map(\.tokens.count).reduce(0, +) / 32)
            texts.append(parts.map(\.text).joined())
        }
        #expect(!texts[0].isEmpty)
        #expect(texts[0] == texts[1])
        #expect(try engine.models().map(\.name) == ["smol"])
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func aThousandTokensCrossInFortyCalls() async throws {
        var (calls, tokens) = (1, 0)
        for try await part in try await talking().chat(ask("Write a very long story about tea, in twenty chapters.", 1000)) {
            calls += 1
            tokens += part.tokens.count
        }
        #expect(tokens == 1000)
        #expect(calls <= 40)
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func aCancelledChatStops() async throws {
        let engine = try await talking()
        let parts = Kept<String>()
        let story = Task {
            for try await part in engine.chat(ask("Write a long story.", 1500)) { parts.add(part.text) }
        }
        try await until("it speaks") { !parts.all.isEmpty }
        story.cancel()
        await #expect(throws: CancellationError.self) { try await story.value }
        // The place is free again: the next answer does not wait for 1,500 tokens.
        for try await _ in engine.chat(ask("Hi", 1), call: .timeout(60)) { break }
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func aShortChatDoesNotWaitForALongOne() async throws {
        let engine = try await talking()
        let (parts, stops) = (Kept<String>(), Kept<StopReason>())
        let patient = Task {
            for try await part in engine.chat(ask("Write a long story.", 1500), call: Call(class: .p2)) {
                parts.add(part.text)
                if let stop = part.stop { stops.add(stop) }
            }
        }
        try await until("the story begins") { !parts.all.isEmpty }
        var last: ChatChunk?
        for try await part in engine.chat(ask("Hi", 4), call: .timeout(60)) { last = part }
        #expect(last?.stop != nil)
        // The story is not over: it stood back.
        #expect(stops.all.isEmpty)
        patient.cancel()
        _ = await patient.result
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func anAnswerIsHeldToASchema() async throws {
        let engine = try await talking()
        var request = ask("Which tea?", 16)
        request.jsonSchema = #"{"enum": ["green", "black"]}"#
        var text = ""
        for try await part in engine.chat(request) { text += part.text }
        #expect(["\"green\"", "\"black\""].contains(text))
        request.jsonSchema = "{"
        let broken = request
        _ = try await fails(.invalidInput) { for try await _ in engine.chat(broken) {} }
    }

    @Test(.enabled(if: model != nil, "SELVEDGE_MODEL names no model"))
    func textsBecomeVectors() async throws {
        let vectors = try await talking().embed(["green tea", "a train"])
        #expect(vectors.count == 2)
        for vector in vectors { #expect(abs(vector.map { $0 * $0 }.reduce(0, +) - 1) < 1e-3) }
    }

    @Test func withoutAModelAChatIsUnsupported() async throws {
        let engine = try await open()
        _ = try await fails(.unsupported) { for try await _ in engine.chat(self.ask("Hi", 1)) {} }
    }

    private func shop(cache: String? = nil) async throws -> Engine {
        try await Engine(database: path, experiments: ExperimentsConfig(bundledJson: placements, cache: cache))
    }

    private func purchase(currency: String = "EUR", discount: UInt8 = 50, revenue: Int64 = 1499) -> PaywallEvent {
        .purchaseCompleted(
            productId: "pro.annual", revenue: revenue, currency: currency, isTrial: false, discountPct: discount,
            isRefund: false, placementId: "main_paywall", transactionId: nil)
    }

    @Test func aPlacementIsShownAndStays() async throws {
        let engine = try await shop()
        let seen = try await engine.assign(
            AssignRequest(
                subject: "ada", placement: "main_paywall", device: "phone", attributesJson: #"{"country":"DE"}"#))
        #expect(seen.experiment == "depth" && seen.variation == "half" && seen.enrolled)
        let shown = try #require(seen.shown)
        #expect(shown.offering == "annual_half" && shown.discountPct == 50)
        #expect(shown.copy == ["title": "Go pro"])
        #expect(shown.exitOffer?.enabled == true)
        try engine.close()
        let again = try await shop()
        #expect(try await again.assign("main_paywall", to: "ada", device: "phone") == seen)
        let elsewhere = try await again.assign(
            AssignRequest(subject: "bob", placement: "main_paywall", attributesJson: #"{"country":"FR"}"#))
        #expect(elsewhere.experiment == nil && elsewhere.shown?.offering == "annual")
    }

    @Test func aPeekEnrolsNobody() async throws {
        let engine = try await shop()
        let seen = try await engine.assign(AssignRequest(subject: "ada", placement: "main_paywall", peek: true))
        #expect(seen.variation == "half" && !seen.enrolled)
        #expect(try await engine.intents().items.isEmpty)
    }

    @Test func aPlacementThatIsNotConfiguredIsNotFound() async throws {
        let engine = try await shop()
        #expect(try await engine.assign("upgrade_nudge", to: "ada").shown == nil)
        _ = try await fails(.notFound) { try await engine.assign("elsewhere", to: "ada") }
        _ = try await fails(.invalidInput) {
            try await engine.assign(AssignRequest(subject: "ada", placement: "main_paywall", attributesJson: "[]"))
        }
        let bare = try await Engine(database: folder.appendingPathComponent("bare.db").path)
        _ = try await fails(.unsupported) { try await bare.assign("main_paywall", to: "ada") }
    }

    @Test func eventsGoToTheServerOnce() async throws {
        let engine = try await shop()
        for _ in 0..<2 { _ = try await engine.assign("main_paywall", to: "ada") }
        let bought = NewEvent(subject: "ada", event: purchase(), id: UUID().uuidString.lowercased())
        for _ in 0..<2 { try await engine.track(bought) }
        let flushed = try await engine.flush(transport)
        #expect(flushed.answered == 2 && flushed.failed == 0)
        let sent = server.seen.map(\.body)
        #expect(sent.allSatisfy { $0.contains("events.track") })
        #expect(sent[0].contains("paywall_impression") && sent[1].contains("purchase_completed"))
        #expect(sent[1].contains(try #require(bought.id)))
    }

    @Test func anEventThatIsWrongIsRefused() async throws {
        let engine = try await shop()
        for wrong in [purchase(currency: "euro"), purchase(discount: 101), purchase(revenue: -1)] {
            _ = try await fails(.invalidInput) { try await engine.track(wrong, of: "ada") }
        }
        _ = try await fails(.invalidInput) { try await engine.track(purchase(), of: "") }
        #expect(try await engine.intents().items.isEmpty)
    }

    @Test func aConfigurationIsFetchedAndKept() async throws {
        let cache = folder.appendingPathComponent("placements.json").path
        let configs = Configs()
        let engine = try await shop(cache: cache)
        #expect(try engine.configHealth().source == .bundled)
        #expect(try await engine.refreshConfig(configs))
        #expect(try await !engine.refreshConfig(configs))
        #expect(await configs.tags == ["none", #""1""#])
        #expect(try await engine.assign("main_paywall", to: "ada").shown?.offering == "from_the_server")
        await configs.serve(#"{"features": {"main_pay"#, tag: #""2""#)
        _ = try await fails(.damaged) { try await engine.refreshConfig(configs) }
        let health = try engine.configHealth()
        #expect(health.source == .server && health.features == 1 && !health.stale && health.lastError != nil)
        try engine.close()
        let again = try await shop(cache: cache)
        #expect(try again.configHealth().source == .cache)
        #expect(try await again.assign("main_paywall", to: "ada").shown?.offering == "from_the_server")
    }

    @Test func anExitOfferIsMadeOnce() async throws {
        let shown = try #require(try await shop().assign("main_paywall", to: "ada").shown)
        let first = ExitOffer(.android)
        try first.configure(shown.exitOffer)
        func at(_ ms: Double) -> Date { Date(timeIntervalSince1970: ms / 1_000) }
        let paywall = ExitInput.paywallShown(
            placement: "main_paywall", offering: shown.offering, experiment: "depth", variant: "half")
        let actions = try first.on(paywall, at: at(0))
        guard case .loadOffer(_, let revision) = actions[0], case .checkEligibility = actions[1] else {
            Issue.record("not what was expected: \(actions)")
            return
        }
        #expect(try first.declined(.back, at: at(1)) == .notLoaded)
        _ = try first.on(.offerLoaded(revision: revision, offering: "exit_annual"), at: at(1))
        _ = try first.on(.eligibilityKnown(revision: revision, eligibility: .eligible), at: at(2))
        let exit = try ExitOffer(restoring: first.save())
        #expect(try exit.declined(.back, at: at(3)) == nil)
        let made = try exit.on(.back, at: at(3))
        #expect(made[0] == .showOffer(placement: "exit_offer", offering: "exit_annual", trigger: .back))
        guard case .record(.exitOfferTriggered(.back, "half", _, _, _)) = made[1] else {
            Issue.record("not what was expected: \(made)")
            return
        }
        #expect(try exit.on(.back, at: at(4)) == [.letGo(reason: .offerShown)])
        _ = try await fails(.invalidInput) { try ExitOffer(restoring: "not a state") }
    }

    @Test func aUsedCancelHandleStopsACall() async throws {
        let engine = try await open()
        _ = try await engine.submit(tea())
        let sending = Kept<String>()
        let before = try liveObjects()
        let flush = Task {
            try await engine.flush(
                Sending {
                    sending.add($0.path)
                    return try await hang($0)
                })
        }
        try await until("it sends") { !sending.all.isEmpty }
        let cancelled = Date()
        flush.cancel()
        await #expect(throws: CancellationError.self) { try await flush.value }
        #expect(Date().timeIntervalSince(cancelled) < 5)
        try await until("its handle is gone") { try liveObjects() == before }
        // What was cancelled before it began changes nothing.
        let submit = Task { [self] in
            try? await Task.sleep(nanoseconds: 1_000_000_000)
            return try await engine.submit(tea())
        }
        submit.cancel()
        await #expect(throws: CancellationError.self) { try await submit.value }
        #expect(try await engine.intents().items.count == 1)
    }

    @Test func aTimeoutEndsACall() async throws {
        let engine = try await open()
        _ = try await engine.submit(tea())
        _ = try await fails(.deadlineExceeded) { try await engine.flush(Sending(hang), call: .timeout(0.1)) }
    }

    @Test func cancellingAtAnyMomentHarmsNothing() async throws {
        let engine = try await open()
        // The job that is cancelled and revived below.
        _ = try await engine.enqueue(NewJob(queue: "mail", payload: Data()))
        let before = try liveObjects()
        let transport = URLSessionTransport(server: server.url)
        let calls: [@Sendable () async throws -> Void] = [
            { _ = try await engine.submit("orders.create", ["item": "tea"]) },
            { _ = try await engine.intents() },
            { _ = try await engine.intent(id: UUID().uuidString) },
            { _ = try await engine.flush(transport) },
            { _ = try await engine.enqueue(NewJob(queue: "mail", payload: Data())) },
            { _ = try await engine.jobs() },
            { _ = try await engine.queues() },
            { try await engine.cancelJob(1) },
            { try await engine.reviveJob(1) },
            { try await engine.publish("news", Data("tea".utf8)) },
            { try await engine.publish("large", Data(count: 100_000)) },
            { for try await _ in engine.subscribe("news", from: .earliest) {} },
            { _ = try await engine.doctor() },
            { try await engine.maintain() },
            { try await engine.trim() },
        ]
        var (stopped, ended) = (0, 0)
        for round in 0..<40 {
            for call in calls {
                let running = Task { try await call() }
                try await Task.sleep(nanoseconds: UInt64(round) * 50_000)
                running.cancel()
                switch await running.result {
                case .success: ended += 1
                case .failure(let error):
                    #expect(error is CancellationError)
                    stopped += 1
                }
            }
        }
        #expect(stopped > 40 && ended > 40, "\(stopped) were stopped, \(ended) had ended")
        try await until("nothing is left") { try liveObjects() == before }
        #expect(try await !engine.submit("orders.create", ["item": "tea"]).duplicate)
    }

    @Test func aSuspendedEngineRefusesUntilItResumes() async throws {
        let engine = try await open()
        try await engine.suspend()
        _ = try await fails(.unavailable) { try await engine.submit(self.tea()) }
        try engine.resume()
        #expect(try await !engine.submit(tea()).duplicate)
    }

    @Test func trimAndMaintainLoseNothing() async throws {
        let engine = try await open()
        _ = try await engine.submit(tea())
        try await engine.trim()
        try await engine.maintain()
        #expect(try await engine.intents().items.count == 1)
    }

    @Test func aClosedEngineSaysSo() async throws {
        let engine = try await open()
        try engine.close()
        try engine.close()
        let error = try await fails(.closed) { try await engine.submit(self.tea()) }
        #expect(error.localizedDescription.contains("open a new one"))
        #expect(error.recoverySuggestion == "open a new one")
    }

    @Test func manyThreadsShareAnEngine() async throws {
        let engine = try await open()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask { for _ in 0..<25 { _ = try await engine.submit(self.tea()) } }
            }
            try await group.waitForAll()
        }
        #expect(try await engine.intents(IntentFilter(limit: 1000)).items.count == 200)
    }

    @Test func aHugePayloadIsRefused() async throws {
        let engine = try await open()
        let huge = Data(repeating: UInt8(ascii: "x"), count: 100_000_000)
        _ = try await fails(.tooLarge) { try await engine.submit(NewIntent(operation: "orders.create", payload: huge)) }
        _ = try await fails(.tooLarge) { try await engine.enqueue(NewJob(queue: "mail", payload: huge)) }
        #expect(try await engine.intents().items.isEmpty)
    }

    @Test func aPayloadThatIsNotTextIsRefused() async throws {
        let engine = try await open()
        let bytes = Data([0x22, 0xff, 0xfe, 0x22])
        _ = try await fails(.invalidInput) { try await engine.submit(NewIntent(operation: "orders.create", payload: bytes)) }
    }

    @Test func anUnwritablePathIsRefused() async throws {
        for bad in ["", "a\0b", folder.appendingPathComponent("no/such/folder/app.db").path] {
            do {
                _ = try await Engine(database: bad)
                Issue.record("\(bad) was opened")
            } catch let error as SelvedgeError {
                #expect(error.advice != nil, "\(error)")
            }
        }
    }

    @Test func twoEnginesShareOneFile() async throws {
        let one = try await open()
        let two = try await open()
        try await one.publish("news", Data("hello".utf8))
        for try await notice in two.subscribe("news", from: .earliest) {
            guard case .message(_, let payload, _) = notice else { continue }
            #expect(payload == Data("hello".utf8))
            break
        }
    }

    @Test func theAppsClockIsTheDatabases() async throws {
        let engine = try await open(hosts: Hosts(clock: Later()))
        let id = try await engine.submit(tea()).id
        let at = try #require(try await engine.intent(id: id)).submittedAtMs
        #expect((0...60_000).contains(at - Later.now))
    }

    @Test func heatShowsInTheReport() async throws {
        let report = try await open(hosts: Hosts(thermal: Hot())).doctor()
        #expect(report.health == .warning)
        #expect(report.findings.first { $0.check == "heat" }?.found.contains("1.25") == true)
    }

    @Test func logLinesReachTheApp() async throws {
        let sink = Sink()
        let engine = try await open(hosts: Hosts(connectivity: Unsure(), log: sink))
        _ = try await engine.submit(tea())
        #expect(try await engine.flush(transport).answered == 1)
        try await until("the warning arrives") { sink.lines.all.contains { $0.contains("nobody knows") } }
    }

    @Test func nothingLeaks() async throws {
        let engine = try await open()
        let before = try liveObjects()
        try await engine.publish("news", Data("tea".utf8))
        for _ in 0..<10_000 {
            try CancelHandle().cancel()
            for try await _ in engine.subscribe("news", from: .earliest) { break }
        }
        for number in 0..<200 { try await Engine(database: "\(path)-\(number)").close() }
        #expect(try liveObjects() == before)
    }
}

private func hang(_: HTTPRequest) async throws -> HTTPResponse {
    try await Task.sleep(nanoseconds: 3_600_000_000_000)
    throw SelvedgeError(.internal, "never")
}

private struct Sending: HTTPTransport {
    let sending: @Sendable (HTTPRequest) async throws -> HTTPResponse
    init(_ sending: @escaping @Sendable (HTTPRequest) async throws -> HTTPResponse) { self.sending = sending }
    func send(_ request: HTTPRequest) async throws -> HTTPResponse { try await sending(request) }
}

private final class Kept<Element: Sendable>: @unchecked Sendable {
    private let lock = NSLock()
    private var elements: [Element] = []
    var all: [Element] { lock.withLock { elements } }
    func add(_ element: Element) { lock.withLock { elements.append(element) } }
}

private final class Offline: Connectivity {
    func status() throws -> NetworkStatus { .offline }
}

private final class Unsure: Connectivity {
    func status() throws -> NetworkStatus { throw SelvedgeError(.unavailable, "nobody knows") }
}

private final class Hot: ThermalSensor {
    func read() throws -> ThermalReading { ThermalReading(status: .severe, headroom: 1.25) }
}

private final class Later: HostClock {
    static let now: Int64 = 4_000_000_000_000
    func nowMs() throws -> Int64 { Self.now }
}

private final class Sink: LogSink {
    let lines = Kept<String>()
    func log(record: LogRecord) throws {
        lines.add(record.message)
        throw SelvedgeError(.internal, "a sink that throws disturbs nobody")
    }
}

/// A server of configurations that knows what its client has already.
private actor Configs: HTTPTransport {
    private var body = #"{"features":{"main_paywall":{"defaultValue":{"offering":"from_the_server"}}}}"#
    private var tag = #""1""#
    private(set) var tags: [String] = []

    func serve(_ body: String, tag: String) {
        (self.body, self.tag) = (body, tag)
    }

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        let known = request.headers.first { $0.name == "if-none-match" }?.value
        tags.append(known ?? "none")
        let etag = [Header(name: "ETag", value: tag)]
        guard known != tag else { return HTTPResponse(status: 304, headers: etag) }
        return HTTPResponse(status: 200, headers: etag, body: Data(body.utf8))
    }
}

private let placements = #"""
    {"features": {
        "main_paywall": {"defaultValue": {"offering": "annual"}, "rules": [{
            "key": "depth", "hashVersion": 2, "weights": [0.0, 1.0], "condition": {"country": {"$ne": "FR"}},
            "variations": [{"offering": "annual"}, {
                "offering": "annual_half", "discount_pct": 50, "copy": {"title": "Go pro"},
                "exit_offer": {"enabled": true, "placement": "exit_offer"}
            }],
            "meta": [{"key": "control"}, {"key": "half"}]
        }]},
        "upgrade_nudge": {"defaultValue": null}
    }}
    """#
