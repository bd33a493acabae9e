import Foundation
import Testing

@testable import Selvedge

@Suite struct ReadmeTests {
    @Test func theExampleOfTheReadmeIsTheCompiledOneAndKeepsItsOrder() async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        try await buy(folder)
        let kept = try await Engine(database: folder.appendingPathComponent("shop.db").path).intents().items.count
        #expect(kept == 1)

        let here = URL(fileURLWithPath: #filePath)
        var root = here
        for _ in 0..<5 { root.deleteLastPathComponent() }
        let readme = try String(contentsOf: root.appendingPathComponent("README.md"), encoding: .utf8)
        let after = try #require(readme.components(separatedBy: "```swift\n").dropFirst().first)
        let example = try #require(after.components(separatedBy: "```").first)
        #expect(try String(contentsOf: here, encoding: .utf8).contains(example))
    }
}

func buy(_ folder: URL) async throws {
    let engine = try await Engine(database: folder.appendingPathComponent("shop.db").path)
    let submitted = try await engine.submit("orders.create", ["item": "tea", "cents": "500"])
    print("will be sent once, as \(submitted.key)")
}
