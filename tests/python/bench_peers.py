"""Runs a benchmark of apiary-node and the same work with Python `deltalake`, in turn.

    bench_peers.py load|commits NODE_BINARY [--runs N] [--scale S] [--appends N] [--output FILE]

load     TPC-H from the same Parquet files; rows a second, peak memory
commits  awaited appends of 100 rows without sync, by one process and by four on one table

Every run of the peer is a process of its own. A figure is the median of the runs. The working
directory is a temporary one under --directory, by default the current one.
"""

import argparse
import glob
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import tempfile
import time

import deltalake
import pyarrow as pa
import pyarrow.dataset

ROWS = 100


def append_rows(first):
    ids = range(first, first + ROWS)
    return pa.table({"id": pa.array(ids, pa.int64()), "text": [f"row {id} of an append" for id in ids]})


def load(target, files):
    started, rows = time.monotonic(), 0
    for index, file in enumerate(files):
        data = pyarrow.dataset.dataset(file)
        rows += data.count_rows()
        deltalake.write_deltalake(os.path.join(target, str(index)), data.scanner().to_reader())
    return {"rate": rows / (time.monotonic() - started)}


def append(target, first, count):
    started, refused = time.monotonic(), 0
    for index in range(count):
        try:
            deltalake.write_deltalake(target, append_rows(first + index * ROWS), mode="append")
        except deltalake.exceptions.DeltaError:
            refused += 1
    return {"rate": count / (time.monotonic() - started), "refused": refused}


def reporting(pipe, work, arguments):
    figures = work(*arguments)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send(figures)


def in_processes(work, all_arguments):
    """The figures of each process, and the seconds that all of them took."""
    spawn = multiprocessing.get_context("spawn")
    children = []
    started = time.monotonic()
    for arguments in all_arguments:
        ours, theirs = spawn.Pipe()
        child = spawn.Process(target=reporting, args=(theirs, work, arguments))
        child.start()
        theirs.close()
        children.append((child, ours))
    figures = [pipe.recv() for _, pipe in children]
    for child, _ in children:
        child.join()
    return figures, time.monotonic() - started


def apiary(options, directory, *arguments):
    out = os.path.join(directory, "figures.json")
    storage = os.path.join(directory, "apiary")
    command = [options.node, "--storage", storage, "bench", options.benchmark, "--runs", "1", "-o", out, *arguments]
    subprocess.run(command, check=True, cwd=directory, stdout=subprocess.DEVNULL)
    with open(out) as figures:
        return json.load(figures)


def run_load(options, directory, peer):
    ours = apiary(options, directory, "--scale", options.scale)
    files = sorted(glob.glob(os.path.join(ours["input"], f"*-{options.scale}.parquet")))
    ((theirs,), _) = in_processes(load, [(peer, files)])
    return {
        "apiary_rows_per_second": ours["rows_per_second"],
        "deltalake_rows_per_second": theirs["rate"],
        "ratio": ours["rows_per_second"] / theirs["rate"],
        "apiary_peak_mib": ours["peak_mib"],
        "deltalake_peak_mib": theirs["peak_mib"],
    }


def run_commits(options, directory, peer):
    ours = apiary(options, directory, "--appends", str(options.appends))
    single, shared = os.path.join(peer, "single"), os.path.join(peer, "shared")
    for table in (single, shared):
        deltalake.write_deltalake(table, append_rows(0).slice(0, 0))
    ((theirs,), _) = in_processes(append, [(single, 0, options.appends)])
    share = options.appends // ours["processes"]
    work = [(shared, index * share * ROWS, share) for index in range(ours["processes"])]
    together, seconds = in_processes(append, work)
    rows = deltalake.DeltaTable(shared).to_pyarrow_table()
    committed = share * ours["processes"] - sum(one["refused"] for one in together)
    return {
        "durable_ratio_to_bare_loop": ours["ratio"],
        "apiary_appends_per_second": ours["unsynced_appends_per_second"],
        "deltalake_appends_per_second": theirs["rate"],
        "ratio": ours["unsynced_appends_per_second"] / theirs["rate"],
        "apiary_shared_appends_per_second": ours["shared_appends_per_second"],
        "deltalake_shared_appends_per_second": committed / seconds,
        "shared_ratio": ours["shared_appends_per_second"] / (committed / seconds),
        "apiary_failures": len(ours["failures"]),
        "deltalake_refused": sum(one["refused"] for one in together),
        "deltalake_rows_missing": committed * ROWS - rows.num_rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["load", "commits"])
    parser.add_argument("node", type=os.path.abspath)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scale", default="1")
    parser.add_argument("--appends", type=int, default=1000)
    parser.add_argument("--directory", default=".", help="where the temporary directory is made")
    parser.add_argument("--output", type=os.path.abspath)
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory(prefix="apiary-peers-", dir=options.directory) as directory:
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory(dir=directory) as peer:
                work = run_load if options.benchmark == "load" else run_commits
                runs.append(work(options, os.path.abspath(directory), peer))
            print(json.dumps(runs[-1]), flush=True)
    figures = {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]}
    print(json.dumps(figures, indent=2))
    if options.output:
        with open(options.output, "w") as file:
            json.dump({"benchmark": options.benchmark, "medians": figures, "runs": runs}, file, indent=2)


if __name__ == "__main__":
    main()
