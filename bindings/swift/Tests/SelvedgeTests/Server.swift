import Foundation

#if canImport(Glibc)
    import Glibc
    private let stream = Int32(SOCK_STREAM.rawValue)
#else
    import Darwin
    private let stream = SOCK_STREAM
#endif

/// A real HTTP server on loopback that answers what a test tells it to and keeps what it was asked.
final class Server: @unchecked Sendable {
    struct Request: Sendable {
        let path: String
        let headers: [String: String]
        let body: String
    }

    private let socket: Int32
    let url: URL
    private let lock = NSLock()
    private var kept: [Request] = []
    private var statuses: [Int] = []

    var seen: [Request] { lock.withLock { kept } }

    init() throws {
        socket = Self.system("socket", systemSocket())
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listening = socket
        withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                _ = Self.system("bind", bind(listening, address, length))
                _ = Self.system("listen", listen(listening, 16))
                _ = Self.system("getsockname", getsockname(listening, address, &length))
            }
        }
        url = URL(string: "http://127.0.0.1:\(UInt16(bigEndian: address.sin_port))")!
        Thread.detachNewThread { [weak self] in
            while true {
                let connection = accept(listening, nil, nil)
                guard connection >= 0, let self else { return }
                Thread.detachNewThread { self.serve(connection) }
            }
        }
    }

    deinit { close() }

    /// The statuses of the next answers; after them it is 201.
    func answer(_ statuses: Int...) { lock.withLock { self.statuses = statuses } }

    func close() { shutdown(socket, Int32(SHUT_RDWR)) }

    private func serve(_ connection: Int32) {
        defer { systemClose(connection) }
        var data = Data()
        var buffer = [UInt8](repeating: 0, count: 65536)
        let end = Data("\r\n\r\n".utf8)
        func more() -> Bool {
            let count = read(connection, &buffer, buffer.count)
            if count > 0 { data.append(contentsOf: buffer[..<count]) }
            return count > 0
        }
        var head: Range<Data.Index>?
        while head == nil {
            guard more() else { return }
            head = data.range(of: end)
        }
        let lines = String(decoding: data[..<head!.lowerBound], as: UTF8.self).components(separatedBy: "\r\n")
        var headers: [String: String] = [:]
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            headers[parts[0].lowercased()] = parts.count > 1 ? parts[1].trimmingCharacters(in: .whitespaces) : ""
        }
        let length = Int(headers["content-length"] ?? "0") ?? 0
        while data.count - head!.upperBound < length { guard more() else { return } }
        let body = String(decoding: data[head!.upperBound...], as: UTF8.self)
        let path = lines[0].split(separator: " ")[1]
        let status = lock.withLock {
            kept.append(Request(path: String(path), headers: headers, body: body))
            return statuses.isEmpty ? 201 : statuses.removeFirst()
        }
        let location = status == 302 ? "Location: \(url)/elsewhere\r\n" : ""
        let answer =
            "HTTP/1.1 \(status) X\r\n\(location)Content-Type: application/json\r\nContent-Length: 11\r\nConnection: close\r\n\r\n{\"ok\":true}"
        _ = answer.withCString { write(connection, $0, strlen($0)) }
    }

    private static func system(_ name: String, _ result: Int32) -> Int32 {
        precondition(result >= 0, "\(name) failed: \(errno)")
        return result
    }
}

private func systemSocket() -> Int32 { socket(AF_INET, stream, 0) }
private func systemClose(_ file: Int32) { close(file) }
