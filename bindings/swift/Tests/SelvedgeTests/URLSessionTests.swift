import Foundation
import Testing

@testable import Selvedge

#if canImport(FoundationNetworking)
    import FoundationNetworking
#endif

@Suite struct URLSessionTests {
    private func order(_ server: Server) -> URLRequest {
        var request = URLRequest(url: server.url.appendingPathComponent("orders"))
        request.httpMethod = "POST"
        request.httpBody = Data("{}".utf8)
        return request
    }

    @Test func aRequestIsRepeatedWithTheSameKey() async throws {
        let server = try Server()
        server.answer(503, 429)
        let (body, response) = try await URLSession.shared.idempotentData(for: order(server), backoff: 0.01)
        #expect(response.statusCode == 201)
        #expect(body == Data(#"{"ok":true}"#.utf8))
        let keys = server.seen.map { $0.headers["idempotency-key"] }
        #expect(keys.count == 3 && Set(keys).count == 1 && keys[0]?.hasPrefix("\"") == true)
    }

    @Test func anAnswerIsNotRepeated() async throws {
        let server = try Server()
        server.answer(422)
        var request = order(server)
        request.idempotencyKey = "cart-17"
        #expect(request.idempotencyKey == "cart-17")
        let (_, response) = try await URLSession.shared.idempotentData(for: request)
        #expect(response.statusCode == 422)
        #expect(server.seen.map { $0.headers["idempotency-key"] } == ["\"cart-17\""])
    }

    @Test func theLastAttemptsAnswerIsGiven() async throws {
        let server = try Server()
        server.answer(503, 503, 503)
        let (_, response) = try await URLSession.shared.idempotentData(for: order(server), attempts: 2, backoff: 0.01)
        #expect(response.statusCode == 503)
        #expect(server.seen.count == 2)
    }

    @Test func aServerThatIsNotThereIsUnavailable() async throws {
        let server = try Server()
        let request = order(server)
        server.close()
        await #expect(throws: SelvedgeError.self) {
            _ = try await URLSession.shared.idempotentData(for: request, attempts: 2, backoff: 0.01)
        }
    }

    @Test func aRedirectIsAnAnswer() async throws {
        let server = try Server()
        server.answer(302)
        let transport = URLSessionTransport(server: server.url)
        let request = HTTPRequest(method: "POST", path: "/v1/intents", headers: [], body: Data())
        #expect(try await transport.send(request).status == 302)
        #expect(server.seen.map(\.path) == ["/v1/intents"])
    }
}
