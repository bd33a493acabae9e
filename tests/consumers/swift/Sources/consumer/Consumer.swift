import Foundation
import Selvedge

@main
struct Consumer {
    static func main() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let engine = try await Engine(database: folder.appendingPathComponent("app.db").path)
        let order = try await engine.submit("orders.create", ["item": "tea"])
        let kept = try await engine.intents().items.map(\.id)
        precondition(kept == [order.id])
        print("submitted \(order.key)")
    }
}
