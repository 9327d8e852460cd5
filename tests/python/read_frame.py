"""Reads a frame with other clients and compares each with what we answered.

read_frame.py TABLE_DIRECTORY OURS.arrow [CLIENT,...]
"""

import decimal
import glob
import math
import os
import sys

import deltalake
import duckdb
import duckdb_extension_delta
import polars as pl
import pyarrow as pa

table, ours_path = sys.argv[1], sys.argv[2]
clients = (sys.argv[3] if len(sys.argv) > 3 else "duckdb,deltalake,polars").split(",")
ours = pa.ipc.open_stream(ours_path).read_all()


def plain(value):
    """One spelling for values that clients give in different classes."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else round(value, 9)
    if isinstance(value, decimal.Decimal):
        return str(value.normalize())
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if isinstance(value, list) and value and all(isinstance(x, tuple) and len(x) == 2 for x in value):
        return sorted((plain(k), plain(v)) for k, v in value)
    if isinstance(value, list) and value and all(isinstance(x, dict) and set(x) == {"key", "value"} for x in value):
        return sorted((plain(x["key"]), plain(x["value"])) for x in value)
    if isinstance(value, (list, tuple)):
        return [plain(x) for x in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if hasattr(value, "astimezone") and getattr(value, "tzinfo", None) is not None:
        import datetime

        return value.astimezone(datetime.timezone.utc).isoformat()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value


def rows(arrow_table):
    columns = sorted(arrow_table.column_names)
    lists = [arrow_table.column(c).to_pylist() for c in columns]
    result = [tuple(repr(plain(v)) for v in row) for row in zip(*lists)]
    return columns, sorted(result)


def compare(client, arrow_table):
    (ours_columns, ours_rows), (columns, theirs) = rows(ours), rows(arrow_table)
    assert columns == ours_columns, f"{client}: columns {columns} for {ours_columns}"
    assert len(theirs) == len(ours_rows), f"{client}: {len(theirs)} rows for {len(ours_rows)}"
    for mine, other in zip(ours_rows, theirs):
        if mine != other:
            named = [(c, a, b) for c, a, b in zip(columns, mine, other) if a != b]
            raise AssertionError(f"{client}: column, ours, theirs: {named[:3]}")
    print(f"{client}: {len(theirs)} rows the same")


def load_delta_extension(connection):
    folder = os.path.dirname(duckdb_extension_delta.__file__)
    (path,) = glob.glob(f"{folder}/**/delta.duckdb_extension", recursive=True)
    connection.execute(f"LOAD '{path}'")


def read_with_duckdb():
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    load_delta_extension(connection)
    connection.execute("SET TimeZone = 'UTC'")
    return connection.sql(f"SELECT * FROM delta_scan('{table}')").to_arrow_table()


read = {
    "duckdb": read_with_duckdb,
    "deltalake": lambda: deltalake.DeltaTable(table).to_pyarrow_table(),
    "polars": lambda: pl.read_delta(table).to_arrow(),
}
for client in clients:
    compare(client, read[client]())
