"""huey on SQLite, driven as its consumer does: enqueue a task's message, dequeue it, until the queue is empty."""

import argparse
import json
import os
import tempfile
import time

from huey.storage import SqliteStorage

PAYLOAD = b'{"to":"ada@example.org","template":"welcome","locale":"en"}'
SYNCHRONOUS = {"durable": ("FULL", 2), "fast": ("NORMAL", 1)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--durability", choices=SYNCHRONOUS, default="durable")
    parser.add_argument("--dir", default=tempfile.gettempdir())
    options = parser.parse_args()
    name, number = SYNCHRONOUS[options.durability]
    total = 512 * (1 if options.quick else 16)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        # `fsync=True` is huey's own switch for FULL; its other setting is OFF, so NORMAL is set by hand.
        storage = SqliteStorage("bench", filename=os.path.join(folder, "huey.db"), journal_mode="wal", fsync=True)
        storage.conn.execute(f"PRAGMA synchronous = {name}")
        assert storage.conn.execute("PRAGMA synchronous").fetchone()[0] == number
        began = time.perf_counter()
        for _ in range(total):
            storage.enqueue(PAYLOAD)
        enqueue = total / (time.perf_counter() - began)
        began, done = time.perf_counter(), 0
        while storage.dequeue() is not None:
            done += 1
        assert done == total
        complete = total / (time.perf_counter() - began)
    # huey has no batches: every case is what it does one by one.
    for case in ("1", "1, one caller", "100", "1000"):
        for what, value in (("enqueue", enqueue), ("lease+complete", complete)):
            print(json.dumps({"case": f"{what} batch {case}", "unit": "jobs/s", "value": round(value, 1)}))


if __name__ == "__main__":
    main()
