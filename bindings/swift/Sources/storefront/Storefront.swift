import Foundation
import Selvedge

private let usage = """
    usage: storefront --server URL [--orders N] [--drop-rate SHARE] [--shoppers N --trusted-key ID=HEX] [--model FILE] \
    [--database FILE]

    """

/// The phone's half of the storefront: orders, and then shoppers at a paywall.
///
/// Prints `submitted KEY TRACE_ID` for each order once it is written down, and at its end its counts as JSON. It ends with an
/// error when the server's report does not tell of the people and the money that it knows of.
@main
struct Storefront {
    static func main() async throws {
        let options = Options(CommandLine.arguments.dropFirst())
        guard let server = options["server"].flatMap(URL.init) else {
            FileHandle.standardError.write(Data(usage.utf8))
            exit(2)
        }
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("storefront-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }

        let models = options["model"].map { [ModelConfig(path: $0)] } ?? []
        let engine = try await Engine(
            database: options["database"] ?? folder.appendingPathComponent("phone.db").path, models: models,
            experiments: placements(trustedKey: options["trusted-key"]))
        if !models.isEmpty { try await ask(engine, "Which tea has less caffeine, green or black? Answer in one sentence.") }

        let orders = options["orders"].flatMap(Int.init) ?? 20
        let goods: [(String, UInt64)] = [("green tea", 450), ("black tea", 390), ("tea pot", 2900), ("cup", 850)]
        for number in 0..<orders {
            let (item, cents) = goods[number % goods.count]
            let trace = Self.trace()
            let order = NewIntent(
                operation: "orders.create",
                payload: try JSONEncoder().encode(Order(item: item, cents: cents)),
                businessKey: item, backoffBaseMs: 50, backoffMaxMs: 1000)
            let submitted = try await engine.submit(order, call: Call(traceparent: "00-\(trace)-00f067aa0ba902b7-01"))
            // At once: whoever reads it must know it even if this process is killed.
            FileHandle.standardOutput.write(Data("submitted \(submitted.key) \(trace)\n".utf8))
        }

        let network = URLSessionTransport(server: server)
        let link = BadLink(network, dropRate: options["drop-rate"].flatMap(Double.init) ?? 0.3)
        let relay = Task { try await engine.relay(link) }
        while try await !engine.intents(IntentFilter(state: .pending)).items.isEmpty {
            try await Task.sleep(nanoseconds: 20_000_000)
        }
        relay.cancel()
        _ = await relay.result
        let shoppers = options["shoppers"].flatMap(Int.init) ?? 0
        let account = shoppers > 0 ? try await Account.of(shoppers, on: engine, over: link, judgedBy: network) : nil
        let counts = await link.counts
        print(String(decoding: try JSONEncoder().encode(Counts(counts, account)), as: UTF8.self))
    }

    private static func ask(_ engine: Engine, _ question: String) async throws {
        var answer = ""
        for try await part in engine.chat(ChatRequest(question, maxTokens: 80)) { answer += part.text }
        print("shopper: \(question)\nphone: \(answer.split(separator: "\n").joined(separator: " "))")
    }

    private static func trace() -> String {
        UUID().uuidString.replacingOccurrences(of: "-", with: "").lowercased()
    }
}

/// What is printed at the end.
private struct Counts: Encodable {
    let attempts: Int
    let drops: Int
    let repeats: Int
    let paywall: Account?

    init(_ link: BadLink.Counts, _ paywall: Account?) {
        (attempts, drops, repeats, self.paywall) = (link.attempts, link.drops, link.repeats, paywall)
    }
}

private struct Order: Encodable {
    let item: String
    let cents: UInt64
}

/// A link as bad as a train ride: it drops, delays and repeats, and counts what it did.
private actor BadLink: HTTPTransport {
    struct Counts {
        var attempts = 0
        var drops = 0
        var repeats = 0
    }

    private let inner: any HTTPTransport
    private let dropRate: Double
    private(set) var counts = Counts()

    init(_ inner: any HTTPTransport, dropRate: Double) {
        self.inner = inner
        self.dropRate = dropRate
    }

    func send(_ request: HTTPRequest) async throws -> HTTPResponse {
        counts.attempts += 1
        try await Task.sleep(nanoseconds: .random(in: 0..<20_000_000))
        if happens() { throw lost("request") }
        if happens() {
            counts.repeats += 1
            _ = try await inner.send(request)
        }
        let response = try await inner.send(request)
        if happens() { throw lost("response") }
        return response
    }

    private func happens() -> Bool { .random(in: 0..<1) < dropRate }

    private func lost(_ what: String) -> SelvedgeError {
        counts.drops += 1
        return SelvedgeError(.unavailable, "the link dropped the \(what)", operation: "link.send", isRetryable: true)
    }
}

private struct Options {
    private var values: [String: String] = [:]

    init(_ arguments: some Sequence<String>) {
        var name: String?
        for argument in arguments {
            if argument.hasPrefix("--") {
                name = String(argument.dropFirst(2))
            } else if let key = name {
                values[key] = argument
                name = nil
            }
        }
    }

    subscript(_ name: String) -> String? { values[name] }
}
