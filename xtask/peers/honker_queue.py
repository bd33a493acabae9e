"""honker, driven through its batch calls: many enqueues in one transaction, claim_batch, ack_batch."""

import argparse
import json
import os
import tempfile
import time

import honker

PAYLOAD = {"to": "ada@example.org", "template": "welcome", "locale": "en"}
SYNCHRONOUS = {"durable": ("FULL", 2), "fast": ("NORMAL", 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--durability", choices=SYNCHRONOUS, default="durable")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    options = parser.parse_args()
    name, number = SYNCHRONOUS[options.durability]
    scale = 1 if options.quick else 4
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        for batch, total in ((1, 512), (100, 10_000), (1000, 20_000)):
            enqueue, complete = measure(os.path.join(folder, f"{batch}.db"), name, number, batch, total * scale)
            # honker has no way to share a flush between callers, so one caller and many are the same.
            for case in ("1", "1, one caller") if batch == 1 else (str(batch),):
                for what, value in (("enqueue", enqueue), ("lease+complete", complete)):
                    print(json.dumps({"case": f"{what} batch {case}", "unit": "jobs/s", "value": round(value, 1)}))


def measure(path, name, number, batch, total):
    database = honker.open(path)
    with database.transaction() as tx:
        wanted = tx.query("PRAGMA synchronous")[0]["synchronous"]
    if wanted != number:
        # The level belongs to the writing connection and cannot change inside a transaction; say so instead of comparing unlike things.
        raise SystemExit(f"honker writes with synchronous={wanted}, not {name}: this durability cannot be compared")
    queue = database.queue("bench")
    began = time.perf_counter()
    for _ in range(total // batch):
        if batch == 1:
            queue.enqueue(PAYLOAD)
        else:
            with database.transaction() as tx:
                for _ in range(batch):
                    queue.enqueue(PAYLOAD, tx=tx)
    enqueue = total / (time.perf_counter() - began)
    began, done = time.perf_counter(), 0
    while jobs := queue.claim_batch("bench", batch):
        done += queue.ack_batch([job.id for job in jobs], "bench")
    assert done == total, (done, total)
    return enqueue, total / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
