"""Measures the Python package against the limits it is to keep, and beside DuckDB and deltalake.

bench_sdk.py [--rows-example PATH] [--wheel PATH] [--size-mb N] [--only WORD]

Wants a wheel of the release profile in this Python's environment, with duckdb, deltalake and pyarrow,
and a machine that does nothing else. `--rows-example` is the compiled example `rows` of the crate, to
compare with. Every figure is printed with its limit; nothing is judged by the exit code.

Memory is the peak of resident memory (`VmHWM`) of a process of its own, less what was resident before.
Times are medians; those that are compared are taken in turns.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MIB = 1 << 20
APPENDS = 60
STATEMENTS = 400


def said(what, value, limit=""):
    print(f"{what:<58} {value:>14}  {limit}", flush=True)


def resident(field):
    """`VmRSS` now or `VmHWM` at the peak, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in /proc/self/status")


class Peak:
    """How much resident memory rises above what is there at the beginning, in bytes."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident("VmRSS")
        return self

    def __exit__(self, *_):
        self.added = resident("VmHWM") - self.before


def table_of(megabytes):
    import numpy as np
    import pyarrow as pa

    rows = megabytes * MIB // 8 // 4
    random = np.random.default_rng(7)
    return pa.table({f"c{index}": random.integers(0, 1 << 40, rows) for index in range(4)})


def node_on(meadow, **settings):
    import apiary

    node = apiary.Apiary("bench", meadow, sync=False, progress=False, **settings)
    node.start()
    return node


def write_peak(meadow, megabytes):
    table = table_of(megabytes)
    node = node_on(meadow)
    frame = node.create_hive("h").create_box("b").create_frame("f", table.schema)
    frame.write(table.slice(0, 1000))
    with Peak() as peak:
        started = time.perf_counter()
        frame.write(table)
        seconds = time.perf_counter() - started
    said(f"write of {table.nbytes >> 20} MiB: memory added", f"{peak.added >> 20} MiB", "at most 256 MiB")
    said(f"write of {table.nbytes >> 20} MiB: time", f"{seconds:.2f} s")
    node.shutdown()


def read_peak(meadow, way):
    import pyarrow as pa

    node = node_on(meadow)
    node.sql("SELECT 1").to_arrow()
    frame = node.frame("h", "b", "f")
    with Peak() as peak:
        started = time.perf_counter()
        if way == "open_stream":
            table = pa.ipc.open_stream(frame.read()).read_all()
        else:
            table = frame.read().to_arrow()
        seconds = time.perf_counter() - started
    size = table.nbytes
    limit = f"at most {int(size * 1.05 + 64 * MIB) >> 20} MiB"
    said(f"read of {size >> 20} MiB by {way}: memory added", f"{peak.added >> 20} MiB", limit)
    said(f"read of {size >> 20} MiB by {way}: time", f"{seconds:.2f} s")
    node.shutdown()


ROWS = "SELECT value AS a, value * 2 AS b FROM generate_series(1, 10000000)"


def rows_of_sql(example):
    node = node_on("memory://bench-rows")
    ours, theirs = [], []
    for _ in range(21):
        # Of two in a row the second one counts, with memory that the first one had: on both sides.
        for _ in range(2):
            started = time.perf_counter()
            table = node.sql(ROWS).to_arrow()
            seconds = time.perf_counter() - started
            assert table.num_rows == 10_000_000
            del table
        ours.append(seconds)
        if example:
            output = subprocess.run(
                [example, "memory://bench-rows", ROWS, "2"], capture_output=True, text=True, check=True
            ).stdout
            theirs.append(int(output.splitlines()[-1].split()[-2]) / 1e6)
    said("sql() of 10 M rows to a table", f"{statistics.median(ours):.3f} s")
    if theirs:
        crate = statistics.median(theirs)
        said("the same by the crate", f"{crate:.3f} s")
        said("ratio to the crate", f"{statistics.median(ours) / crate:.2f}", "at most 1.1")
    node.shutdown()


def latencies(directory):
    import deltalake
    import duckdb
    import pyarrow as pa

    node = node_on(f"{directory}/latency")
    duck = duckdb.connect(f"{directory}/latency.duckdb")
    batch = pa.table({"id": list(range(100)), "name": [f"name {n}" for n in range(100)]})
    frame = node.create_hive("h").create_box("b").create_frame("f", batch.schema)
    duck.execute("CREATE TABLE f (id BIGINT, name VARCHAR)")
    delta = f"{directory}/delta"
    deltalake.write_deltalake(delta, batch)
    times = {}

    def timed(name, work):
        started = time.perf_counter()
        work()
        times.setdefault(name, []).append((time.perf_counter() - started) * 1000)

    for _ in range(STATEMENTS):
        timed("SELECT 1: apiary", lambda: node.sql("SELECT 1").scalar())
        timed("SELECT 1: duckdb", lambda: duck.sql("SELECT 1").fetchone())
        timed("SELECT 1, the call alone: apiary", lambda: node.sql("SELECT 1"))
    for _ in range(APPENDS):
        timed("append of 100 rows: apiary", lambda: frame.write(batch))
        timed("append of 100 rows: duckdb", lambda: duck.from_arrow(batch).insert_into("f"))
        timed(
            "append of 100 rows: deltalake",
            lambda: deltalake.write_deltalake(delta, batch, mode="append"),
        )
    limits = {"SELECT 1: apiary": "at most 0.5 ms", "append of 100 rows: apiary": "at most 3 ms"}
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        said(f"{name}: median", f"{median:.3f} ms", limits.get(name, ""))
    for peer in ("duckdb", "deltalake"):
        name = f"append of 100 rows: {peer}"
        ratio = medians["append of 100 rows: apiary"] / medians[name]
        said(f"append of 100 rows: ratio to {peer}", f"{ratio:.2f}")
    ratio = medians["SELECT 1: apiary"] / medians["SELECT 1: duckdb"]
    said("SELECT 1: ratio to duckdb", f"{ratio:.2f}")
    node.shutdown()


ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11"


def interrupts():
    node = node_on("memory://bench-interrupts")
    late = []
    for _ in range(10):
        sent = []

        def interrupt(sent=sent):
            time.sleep(0.3)
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            node.sql(ENDLESS).to_arrow()
        except KeyboardInterrupt:
            late.append((time.perf_counter() - sent[0]) * 1000)
        thread.join()
    said("Ctrl-C to the exception: longest of 10", f"{max(late):.0f} ms", "at most 100 ms")
    node.shutdown()


def imports():
    code = "import time; t = time.perf_counter(); import apiary; print(time.perf_counter() - t)"
    runs = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(11)
    ]
    said("import: median", f"{statistics.median(runs) * 1000:.1f} ms", "at most 50 ms")


def itself(*arguments):
    """A measurement in a process of its own."""
    subprocess.run([sys.executable, __file__, *arguments], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows-example", default="")
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--size-mb", type=int, default=1024)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", nargs="*")
    options = parser.parse_args()
    if options.child:
        work, *arguments = options.child
        return globals()[work](*[int(a) if a.isdigit() else a for a in arguments])
    with tempfile.TemporaryDirectory() as directory:
        meadow = f"{directory}/meadow"
        measures = {
            "imports": lambda: itself("--child", "imports"),
            "latencies": lambda: itself("--child", "latencies", directory),
            "interrupts": lambda: itself("--child", "interrupts"),
            "rows": lambda: itself("--child", "rows_of_sql", options.rows_example),
            "memory": lambda: [
                itself("--child", "write_peak", meadow, str(options.size_mb)),
                itself("--child", "read_peak", meadow, "to_arrow"),
                itself("--child", "read_peak", meadow, "open_stream"),
            ],
        }
        for name, measure in measures.items():
            if options.only in name:
                measure()
        if options.wheel:
            size = options.wheel.stat().st_size
            said("wheel", f"{size / 1e6:.1f} MB", "at most 40 MB")
    return None


if __name__ == "__main__":
    main()
