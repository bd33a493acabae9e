#!/usr/bin/env python3
"""A second implementation of how users are shared out, written from the SDK specification alone.

It makes `second.json`, which the test `second` holds the engine against. Run it to write the file anew:

    python3 plugins/experiments/tests/second.py > plugins/experiments/tests/second.json
"""

import json
import struct

IDS = [
    "a", "123", "user-3436", "ada@example.com", "josé", "用户123", "😀", "👩‍👩‍👧‍👦", "e\u0301", "\u00e9", "İstanbul", "ß", "\u0000", " ",
    "מזהה", "ผู้ใช้", "𝔘𝔫𝔦", "\uffff", "x" * 400, "é" * 300, "550e8400-e29b-41d4-a716-446655440000",
]
SEEDS = ["", "paywall", "expérience", "テスト", "🧪", "exit_offer__3"]


def code_units(text):
    """What JavaScript's charCodeAt gives, one number after the other."""
    encoded = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(encoded) // 2}H", encoded)


def fnv32a(text):
    value = 0x811C9DC5
    for unit in code_units(text):
        value ^= unit
        value = (value + (value << 1) + (value << 4) + (value << 7) + (value << 8) + (value << 24)) & 0xFFFFFFFF
    return value


def place(seed, user, version):
    if version == 1:
        return fnv32a(user + seed) % 1000 / 1000
    return fnv32a(str(fnv32a(seed + user))) % 10000 / 10000


def bucket_ranges(count, coverage, weights):
    if weights is None or len(weights) != count or not 0.99 <= sum(weights) <= 1.01:
        weights = [1 / count] * count
    ranges, start = [], 0.0
    for weight in weights:
        ranges.append((start, start + min(max(coverage, 0), 1) * weight))
        start += weight
    return ranges


def run(experiment, user):
    """The variation's index, or None."""
    if "namespace" in experiment:
        name, start, end = experiment["namespace"]
        if not start <= place("__" + name, user, 1) < end:
            return None
    n = place(experiment.get("seed") or experiment["key"], user, experiment.get("hashVersion", 1))
    ranges = experiment.get("ranges") or bucket_ranges(
        len(experiment["variations"]), experiment.get("coverage", 1), experiment.get("weights")
    )
    for index, (start, end) in enumerate(ranges):
        if start <= n < end:
            return index
    return None


EXPERIMENTS = [
    {"key": "paywall", "variations": ["a", "b"]},
    {"key": "paywall", "variations": ["a", "b"], "hashVersion": 2},
    {"key": "テスト", "variations": [1, 2, 3], "hashVersion": 2, "weights": [0.2, 0.3, 0.5]},
    {"key": "exit", "seed": "🧪", "variations": [1, 2], "hashVersion": 2, "coverage": 0.3},
    {"key": "thirds", "variations": [1, 2, 3], "coverage": 0.5},
    {"key": "spaced", "variations": [1, 2], "namespace": ["prix", 0.25, 0.75], "hashVersion": 2},
    {"key": "ranged", "variations": [1, 2], "ranges": [[0.9, 1.0], [0.0, 0.4]], "hashVersion": 2},
    {"key": "bad weights", "variations": [1, 2, 3, 4], "weights": [0.5, 0.5], "hashVersion": 2},
    {"key": "many", "variations": list(range(25)), "hashVersion": 2},
]

if __name__ == "__main__":
    users = IDS + [f"user-{n}" for n in range(200)] + [f"用户-{n}" for n in range(50)]
    vectors = {
        "hash": [[seed, user, version, place(seed, user, version)] for seed in SEEDS for user in IDS for version in (1, 2)],
        "users": users,
        "runs": [{"experiment": one, "variations": [run(one, user) for user in users]} for one in EXPERIMENTS],
    }
    print(json.dumps(vectors, separators=(",", ":")).replace("],[", "],\n["))
