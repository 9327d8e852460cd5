"""DuckDB as a worker of `apiary-node bench tpch --peer`: orders on standard input, a JSON line each.

    {"register": {"table": NAME, "files": [PATH, ...]}}   a view over Parquet files
    {"run": {"sql": TEXT, "to": PATH or null}}            runs a query to its end; rows to an Arrow file
    "report"                                              memory of this process

Answers are JSON lines too: {"ms": ...}, {"peak_bytes": ...} or {"error": ...}.
"""

import json
import resource
import sys
import time

import duckdb
import pyarrow as pa

connection = duckdb.connect()
connection.execute("SET enable_progress_bar = false")


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def register(table, files):
    names = ", ".join(quoted(file) for file in files)
    connection.execute(f'CREATE VIEW "{table}" AS SELECT * FROM read_parquet([{names}])')
    return {}


def run(sql, to):
    started = time.monotonic()
    batches = connection.sql(sql).to_arrow_reader()
    rows = 0
    if to:
        with pa.OSFile(to, "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
            for batch in batches:
                rows += batch.num_rows
                writer.write_batch(batch)
    else:
        rows = sum(batch.num_rows for batch in batches)
    return {"ms": (time.monotonic() - started) * 1e3, "rows": rows}


def report():
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def obey(order):
    if order == "report":
        return report()
    ((kind, options),) = order.items()
    return {"register": register, "run": run}[kind](**options)


print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    try:
        answer = obey(json.loads(line))
    except (duckdb.Error, KeyError, TypeError, ValueError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
