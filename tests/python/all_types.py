"""Makes a Parquet file with a column of every type that a frame can hold.

all_types.py OUT.parquet ROWS
"""

import datetime
import decimal
import sys

import pyarrow as pa
import pyarrow.parquet as pq

out, rows = sys.argv[1], int(sys.argv[2])
utc = datetime.timezone.utc
day = datetime.date(1999, 12, 31)
moment = datetime.datetime(2001, 2, 3, 4, 5, 6, 123456)


def column(kind, make):
    return pa.array([None if i % 7 == 6 else make(i) for i in range(rows)], kind)


columns = {
    "id": pa.array(range(rows), pa.int64()),
    "part": pa.array([["north", "süd/west", "a b%c"][i % 3] for i in range(rows)], pa.string()),
    "i8": column(pa.int8(), lambda i: i % 200 - 100),
    "i16": column(pa.int16(), lambda i: i * 7 % 60000 - 30000),
    "i32": column(pa.int32(), lambda i: i * 1001 - 5),
    "i64": column(pa.int64(), lambda i: i * 10**12 - 3),
    "u8": column(pa.uint8(), lambda i: i % 256),
    "u16": column(pa.uint16(), lambda i: 65535 - i % 1000),
    "u32": column(pa.uint32(), lambda i: 2**32 - 1 - i),
    "f32": column(pa.float32(), lambda i: i / 4),
    "f64": column(pa.float64(), lambda i: i / 3),
    "dec": column(pa.decimal128(20, 3), lambda i: decimal.Decimal(i * 12345) / 1000),
    "text": column(pa.string(), lambda i: f"Zeile {i} 🐝" * (1 + i % 3)),
    "bytes": column(pa.binary(), lambda i: bytes([i % 256, 0, 255])),
    "flag": column(pa.bool_(), lambda i: i % 2 == 0),
    "day": column(pa.date32(), lambda i: day + datetime.timedelta(days=i)),
    "at": column(pa.timestamp("us", "UTC"), lambda i: moment.replace(tzinfo=utc) + datetime.timedelta(seconds=i)),
    "local": column(pa.timestamp("us"), lambda i: moment + datetime.timedelta(microseconds=i)),
    "pair": column(
        pa.struct([("a", pa.int32()), ("b", pa.string())]), lambda i: {"a": i, "b": f"b{i}"}
    ),
    "many": column(pa.list_(pa.int64()), lambda i: list(range(i % 4))),
    "lookup": column(pa.map_(pa.string(), pa.int64()), lambda i: [(f"k{i}", i)]),
}
pq.write_table(pa.table(columns), out)
