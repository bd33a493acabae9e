/// Where a stream's batches come from.
struct Source<Element: Sendable>: Sendable {
    /// Ends the work behind it.
    let cancel: @Sendable () throws -> Void
    /// Waits for the next batch; empty at the end.
    let next: @Sendable () async throws -> [Element]
}

/// A stream that opens its source when the first element is asked for, and asks for a batch only when the last one is used
/// up. The source ends with the stream: its last reference goes with it.
func pulled<Element: Sendable>(
    _ open: @escaping @Sendable () throws -> Source<Element>
) -> AsyncThrowingStream<Element, any Error> {
    let puller = Puller(open)
    return AsyncThrowingStream { try await puller.next() }
}

private actor Puller<Element: Sendable> {
    private let open: @Sendable () throws -> Source<Element>
    private var source: Source<Element>?
    private var batch: ArraySlice<Element> = []

    init(_ open: @escaping @Sendable () throws -> Source<Element>) { self.open = open }

    func next() async throws -> Element? {
        if let element = batch.popFirst() { return element }
        let source = try opened()
        batch = try await cancelling(source.cancel) { try await source.next() }[...]
        return batch.popFirst()
    }

    private func opened() throws -> Source<Element> {
        if let source { return source }
        let opened = try calling(open)
        source = opened
        return opened
    }
}
