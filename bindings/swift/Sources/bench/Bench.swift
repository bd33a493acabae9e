import Foundation
import Selvedge
import SelvedgeGenerated
import selvedge_ffiFFI

/// What a call costs: the façade beside the generated code alone, and that beside a bare call of C. One JSON object a line.
///
/// `cargo xtask bench ffi` runs it; `--quick` shortens it.
@main
struct Bench {
    let quick: Bool

    static func main() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("bench-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try await Bench(quick: CommandLine.arguments.contains("--quick")).measure(in: folder)
    }

    func measure(in folder: URL) async throws {
        let facade = try await Selvedge.Engine(database: folder.appendingPathComponent("app.db").path, durability: .fast)
        // One engine for both: a second has threads of its own, which the system may treat otherwise.
        let uniffi = facade.native
        let call = Call()
        let handle = CancelHandle()
        let small = Data("{\"item\":\"\(String(repeating: "tea", count: 330))\"}".utf8)
        let text = Data("{\"item\":\"\(String(repeating: "t", count: 1 << 20))\"}".utf8)
        let large = Data(repeating: 7, count: 1 << 20)
        let order = NewIntent(operation: "orders.create", payload: small)
        let bad = NewIntent(operation: "", payload: small)
        let kept = try await facade.submit(order).id
        let keptLarge = try await facade.submit(NewIntent(operation: "orders.create", payload: text)).id
        try await facade.publish("news", small)
        let answering = Answering()

        try await compare(
            "smallest call",
            ("uniffi", { _ = try handle.isCancelled() }),
            ("bare", { _ = ffi_selvedge_ffi_uniffi_contract_version() }))
        try await compare("resume", ("facade", { try facade.resume() }), ("uniffi", { try uniffi.resume() }))
        try await compare(
            "queues",
            ("facade", { _ = try await facade.queues() }),
            ("uniffi", { _ = try await uniffi.queues() }))
        try await compare(
            "intent, 1 KB out",
            ("facade", { _ = try await facade.intent(id: kept) }),
            ("uniffi", { _ = try await uniffi.intent(id: kept) }))
        try await compare(
            "intent, 1 MB out",
            ("facade", { _ = try await facade.intent(id: keptLarge) }),
            ("uniffi", { _ = try await uniffi.intent(id: keptLarge) }))
        try await compare(
            "submit, 1 KB in",
            ("facade", { _ = try await facade.submit(order) }),
            ("uniffi", { _ = try await uniffi.submit(intent: order, call: call, cancel: nil) }))
        try await compare(
            "publish, 1 MB in",
            ("facade", { try await facade.publish("large", large) }),
            ("uniffi", { _ = try await uniffi.publish(topic: "large", payload: large, call: call, cancel: nil) }))
        try await compare(
            "typed error",
            ("facade", { _ = try? await facade.submit(bad) }),
            ("uniffi", { _ = try? await uniffi.submit(intent: bad, call: call, cancel: nil) }))
        try await compare(
            "subscribe, first message",
            ("facade", { for try await _ in facade.subscribe("news", from: .earliest) { break } }),
            (
                "uniffi",
                {
                    let stream = try uniffi.subscribe(topic: "news", from: .earliest, buffer: nil)
                    _ = try await stream.nextBatch(max: 64)
                }
            ))
        _ = try await facade.flush(answering)
        try await compare(
            "submit and flush, one callback",
            (
                "facade",
                {
                    _ = try await facade.submit(order)
                    _ = try await facade.flush(answering)
                }
            ),
            (
                "uniffi",
                {
                    _ = try await uniffi.submit(intent: order, call: call, cancel: nil)
                    _ = try await uniffi.flush(transport: answering, call: call, cancel: nil)
                }
            ))
        try facade.close()
    }

    /// Lets the layers take turns, block by block, and prints each one's median.
    private func compare(_ name: String, _ layers: (name: String, call: () async throws -> Void)...) async throws {
        var slowest = 0.0
        for layer in layers {
            _ = try await time(5, layer.call)
            slowest = max(slowest, try await time(5, layer.call))
        }
        let calls = min(max(Int(2e7 / slowest), 1), 1_000_000)
        var times = layers.map { _ in [Double]() }
        for block in 0..<(quick ? 9 : 25) {
            let order = Array(layers.indices)
            for index in block % 2 == 0 ? order : order.reversed() {
                times[index].append(try await time(calls, layers[index].call))
            }
        }
        for (layer, times) in zip(layers, times) {
            let median = times.sorted()[times.count / 2]
            print("{\"layer\":\"\(layer.name)\",\"case\":\"Swift: \(name)\",\"unit\":\"ns/call\",\"value\":\(median)}")
        }
    }

    /// Nanoseconds a call, over so many.
    private func time(_ calls: Int, _ call: () async throws -> Void) async throws -> Double {
        let start = DispatchTime.now().uptimeNanoseconds
        for _ in 0..<calls { try await call() }
        return Double(DispatchTime.now().uptimeNanoseconds - start) / Double(calls)
    }
}

/// Answers at once, in the façade's words and in the generator's.
private final class Answering: HTTPTransport, HttpTransport {
    func send(_: HTTPRequest) async throws -> HTTPResponse {
        HTTPResponse(status: 201, headers: [], body: Data("{}".utf8))
    }

    func send(request: HTTPRequest) async throws -> HTTPResponse { try await send(request) }
}
