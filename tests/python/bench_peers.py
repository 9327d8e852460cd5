"""Runs a benchmark of apiary-node and the same work with a Python client, and prints the ratio.

bench_peers.py load|commits NODE_BINARY STORAGE_DIRECTORY [RUNS]

load     TPC-H SF1 from the same Parquet files, deltalake's streaming writer (rows a second)
commits  1,000 awaited appends of 100 rows without sync (appends a second)

A figure is the median of RUNS (5). The last line is JSON.
"""

import glob
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

import deltalake
import pyarrow as pa
import pyarrow.dataset

kind, node, storage = sys.argv[1:4]
runs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
os.makedirs(storage, exist_ok=True)


def apiary(*arguments):
    out = os.path.join(storage, "figures.json")
    command = [node, "--storage", storage, "bench", kind, "--runs", str(runs), "-o", out, *arguments]
    subprocess.run(command, check=True)
    with open(out) as figures:
        return json.load(figures)


def fresh(name):
    path = os.path.join(storage, name)
    shutil.rmtree(path, ignore_errors=True)
    return path


def load_with_deltalake(files):
    rows, started = 0, time.monotonic()
    for file in files:
        data = pyarrow.dataset.dataset(file)
        rows += data.count_rows()
        target = fresh("peer")
        deltalake.write_deltalake(target, data.scanner().to_reader())
    return rows / (time.monotonic() - started)


def append_with_deltalake(count):
    target = fresh("peer")
    rows = pa.table({"a": pa.array(range(100), pa.int64()), "b": pa.array(["x" * 20] * 100)})
    deltalake.write_deltalake(target, rows)
    started = time.monotonic()
    for _ in range(count):
        deltalake.write_deltalake(target, rows, mode="append")
    return count / (time.monotonic() - started)


ours = apiary(*(["--scale", "1"] if kind == "load" else []))
if kind == "load":
    files = sorted(glob.glob(os.path.join(storage, "input", "*-1.parquet")))
    theirs = statistics.median(load_with_deltalake(files) for _ in range(runs))
    mine = ours["rows_per_second"]
else:
    theirs = statistics.median(append_with_deltalake(1000) for _ in range(runs))
    mine = ours["unsynced_appends_per_second"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
result = {"benchmark": kind, "apiary": ours, "deltalake_per_second": round(theirs, 1), "deltalake_peak_mib": round(peak)}
if mine:
    result["ratio"] = round(mine / theirs, 3)
    print(f"{kind}: apiary {mine:.0f}, deltalake {theirs:.0f} a second, ratio {mine / theirs:.2f}")
print(json.dumps(result))
