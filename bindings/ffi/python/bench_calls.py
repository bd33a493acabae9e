"""What a call costs in Python, where the generated code is all there is, beside a bare call by ctypes. One JSON object a line.

`cargo xtask bench ffi` runs it beside the generated module; `--quick` shortens it.
"""

import asyncio
import ctypes
import json
import os
import statistics
import sys
import tempfile
import time

import selvedge_ffi as sv

QUICK = "--quick" in sys.argv


class Answering(sv.HttpTransport):
    async def send(self, request):
        return sv.HttpResponse(status=201, headers=[], body=b"{}")


async def cost(call):
    """Nanoseconds a call: the median of blocks."""
    await call()
    start = time.perf_counter_ns()
    for _ in range(5):
        await call()
    calls = min(max(int(2e7 * 5 / (time.perf_counter_ns() - start)), 1), 100_000)
    blocks = []
    for _ in range(9 if QUICK else 25):
        start = time.perf_counter_ns()
        for _ in range(calls):
            await call()
        blocks.append((time.perf_counter_ns() - start) / calls)
    return statistics.median(blocks)


def plain(call):
    async def wrapped():
        call()

    return wrapped


async def main(folder):
    sv.uniffi_set_event_loop(asyncio.get_running_loop())
    config = sv.EngineConfig(database=os.path.join(folder, "app.db"), durability=sv.Durability.FAST)
    engine = await sv.Engine.open(config, sv.Hosts())
    call, handle = sv.Call(), sv.CancelHandle()
    small = json.dumps({"item": "tea" * 330}).encode()
    text = json.dumps({"item": "t" * (1 << 20)}).encode()
    large = bytes(1 << 20)
    order = sv.NewIntent(operation="orders.create", payload=small)
    bad = sv.NewIntent(operation="", payload=small)
    kept = (await engine.submit(order, call, None)).id
    kept_large = (await engine.submit(sv.NewIntent(operation="orders.create", payload=text), call, None)).id
    await engine.publish("news", small, call, None)
    bare = ctypes.CDLL(os.environ["SELVEDGE_LIBRARY"]).ffi_selvedge_ffi_uniffi_contract_version
    bare.argtypes, bare.restype = (), ctypes.c_uint32

    async def fail():
        try:
            await engine.submit(bad, call, None)
        except sv.EngineError:
            pass

    async def subscribe():
        stream = engine.subscribe("news", sv.Start.EARLIEST(), None)
        await stream.next_batch(64)

    async def flush():
        await engine.submit(order, call, None)
        await engine.flush(Answering(), call, None)

    cases = {
        "smallest call": plain(handle.is_cancelled),
        "resume": plain(engine.resume),
        "queues": engine.queues,
        "intent, 1 KB out": lambda: engine.intent(kept),
        "intent, 1 MB out": lambda: engine.intent(kept_large),
        "submit, 1 KB in": lambda: engine.submit(order, call, None),
        "publish, 1 MB in": lambda: engine.publish("large", large, call, None),
        "typed error": fail,
        "subscribe, first message": subscribe,
        "submit and flush, one callback": flush,
    }
    for name, work in cases.items():
        if work is flush:
            await engine.flush(Answering(), call, None)
        line("uniffi", name, await cost(work))
    line("bare", "smallest call", await cost(plain(bare)))
    engine.shutdown()


def line(layer, case, value):
    print(json.dumps({"layer": layer, "case": f"Python: {case}", "unit": "ns/call", "value": value}), flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(folder))
