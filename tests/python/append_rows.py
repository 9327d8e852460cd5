"""Appends rows to a Delta table with delta-rs, a commit each.

append_rows.py TABLE_DIRECTORY COUNT
"""

import sys

import deltalake
import pyarrow as pa

path, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    rows = pa.table({"id": pa.array([i], pa.int64()), "who": pa.array(["delta-rs"], pa.string())})
    deltalake.write_deltalake(path, rows, mode="append")
