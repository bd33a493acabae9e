"""procrastinate: jobs deferred by its own batches, and worked off by one of its workers, 20 at once."""

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import time

import procrastinate

BATCH = 1_000
CONCURRENCY = 20
WARM_UP = 1.0

logging.basicConfig(level=logging.WARNING)


def report(case, unit, value):
    print(json.dumps({"case": case, "unit": unit, "value": value}), flush=True)


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--case", required=True)
    parser.add_argument("--role", default="main")
    for name, kind, default in [("jobs", int, 1_000), ("backlog", int, 1_000), ("seconds", float, 60.0)]:
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--producers", type=int, default=16)
    return parser.parse_args()


class Queue:
    def __init__(self, url, size):
        self.done = 0
        self.starts = []
        connector = procrastinate.PsycopgConnector(conninfo=url, min_size=4, max_size=size)
        self.app = procrastinate.App(connector=connector)

        @self.app.task(name="bench")
        async def bench(at=None):
            if at is not None:
                self.starts.append((at, time.monotonic()))
            self.done += 1

        self.task = bench

    async def fill(self, count):
        for left in range(count, 0, -BATCH):
            await self.task.batch_defer_async(*[{} for _ in range(min(left, BATCH))])

    def worker(self, **how):
        return self.app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False, **how)


async def burn_down(queue, asked):
    await queue.fill(asked.jobs)
    began = time.perf_counter()
    await queue.worker(wait=False)
    elapsed = time.perf_counter() - began
    assert queue.done == asked.jobs, queue.done
    report("burn-down", "jobs/s", asked.jobs / elapsed)


async def continuous(queue, asked):
    await queue.fill(asked.backlog)
    enqueued = asked.backlog

    async def produce():
        nonlocal enqueued
        while True:
            missing = max(asked.backlog - (enqueued - queue.done), 0)
            await queue.fill(missing)
            enqueued += missing
            await asyncio.sleep(0.25)

    began = time.perf_counter()
    tasks = [asyncio.create_task(queue.worker()), asyncio.create_task(produce())]
    await asyncio.wait(tasks, timeout=asked.seconds, return_when=asyncio.FIRST_COMPLETED)
    report("continuous load", "jobs/s", queue.done / (time.perf_counter() - began))
    await stop(tasks)


async def latency(queue, asked):
    worker = asyncio.create_task(queue.worker())
    await asyncio.sleep(0.5)
    producer = [sys.executable, *sys.argv, "--role", "producer"]
    process = await asyncio.create_subprocess_exec(*producer, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0, process.returncode
    produced = json.loads(said)
    patience = time.monotonic()
    while len(queue.starts) < produced["total"]:
        assert not worker.done() and time.monotonic() - patience < 120, "not every job was started"
        await asyncio.sleep(0.02)
    await stop([worker])
    waits = sorted((started - at) * 1e3 for at, started in queue.starts if at >= produced["begun"] + WARM_UP)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        report(name, "ms", waits[int((len(waits) - 1) * share)])
    report("rate", "jobs/s", produced["total"] / produced["seconds"])


async def produce(queue, asked):
    """One job a commit, evenly spaced, from a process of their own."""
    window = WARM_UP + asked.seconds
    total, enqueued = int(window * asked.rate), 0
    began = time.monotonic()

    async def producer(first):
        nonlocal enqueued
        for job in range(first, total, asked.producers):
            # Whoever cannot keep up ends in time, with less.
            if time.monotonic() - began > window:
                break
            await asyncio.sleep(max(began + job / asked.rate - time.monotonic(), 0))
            await queue.task.defer_async(at=time.monotonic())
            enqueued += 1

    await asyncio.gather(*(producer(first) for first in range(asked.producers)))
    print(json.dumps({"total": enqueued, "begun": began, "seconds": time.monotonic() - began}))


async def stop(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=20)


async def main():
    asked = options()
    queue = Queue(asked.url, max(asked.producers, CONCURRENCY) + 4)
    async with queue.app.open_async():
        if asked.role == "producer":
            return await produce(queue, asked)
        await queue.app.schema_manager.apply_schema_async()
        cases = {"burn-down": burn_down, "continuous": continuous, "latency": latency}
        await cases[asked.case](queue, asked)


if __name__ == "__main__":
    asyncio.run(main())
