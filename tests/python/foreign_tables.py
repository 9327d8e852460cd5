"""Writes Delta tables with other clients: plain, partitioned, checkpointed, with deletion vectors.

foreign_tables.py DIRECTORY        one table in each sub-directory; prints their names
"""

import json
import os
import struct
import sys
import uuid
import zlib

import deltalake
import polars as pl
import pyarrow as pa
from pyroaring import BitMap

root = sys.argv[1]


def data(start, rows):
    numbers = range(start, start + rows)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int64()),
            "region": pa.array([["nord", "süd ost", None][i % 3] for i in numbers], pa.string()),
            "value": pa.array([i / 8 for i in numbers], pa.float64()),
            "at": pa.array([i * 1_000_001 for i in numbers], pa.timestamp("us", "UTC")),
        }
    )


def delta_rs_with_checkpoint(path):
    for i in range(12):
        deltalake.write_deltalake(path, data(i * 100, 100), mode="append", partition_by=["region"])
    table = deltalake.DeltaTable(path)
    table.create_checkpoint()
    table.delete("id % 10 = 3")
    table.optimize.compact()
    deltalake.write_deltalake(path, data(5000, 50), mode="append")


def polars_table(path):
    pl.from_arrow(data(0, 500)).write_delta(path)
    pl.from_arrow(data(500, 500)).write_delta(path, mode="append")


Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def z85(raw):
    assert len(raw) % 4 == 0
    text = ""
    for (word,) in struct.iter_unpack(">I", raw):
        digits = []
        for _ in range(5):
            word, digit = divmod(word, 85)
            digits.append(Z85[digit])
        text += "".join(reversed(digits))
    return text


def treemap(rows):
    """The protocol's 64-bit bitmap: magic, bucket count, then high word and a portable bitmap each."""
    body = BitMap(rows).serialize()
    return struct.pack("<IQI", 1681511377, 1, 0) + body


def inline_vector(rows):
    raw = treemap(rows)
    padded = raw + b"\0" * (-len(raw) % 4)
    return {
        "storageType": "i",
        "pathOrInlineDv": z85(padded),
        "sizeInBytes": len(raw),
        "cardinality": len(rows),
    }


def stored_vector(path, rows):
    raw, name = treemap(rows), uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF)
    with open(f"{path}/deletion_vector_{name}.bin", "wb") as out:
        out.write(b"\x01" + struct.pack(">I", len(raw)) + raw + struct.pack(">I", zlib.crc32(raw)))
    return {
        "storageType": "u",
        "pathOrInlineDv": z85(name.bytes),
        "offset": 1,
        "sizeInBytes": len(raw),
        "cardinality": len(rows),
    }


def with_deletion_vectors(path):
    for i in range(3):
        deltalake.write_deltalake(path, data(i * 1000, 1000), mode="append")
    adds = []
    for version in range(3):
        with open(f"{path}/_delta_log/{version:020}.json") as log:
            adds += [a["add"] for a in map(json.loads, log) if "add" in a]
    vectors = [
        inline_vector([0, 5, 999]),
        stored_vector(path, list(range(100, 900)) + [950]),
    ]
    actions = [
        {"commitInfo": {"timestamp": adds[0]["modificationTime"], "operation": "DELETE"}},
        {
            "protocol": {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            }
        },
    ]
    for add, vector in zip(adds, vectors):
        gone = {"path": add["path"], "dataChange": True, "deletionTimestamp": add["modificationTime"]}
        actions.append({"remove": gone})
        stats = json.loads(add["stats"]) | {"tightBounds": False}
        actions.append({"add": add | {"deletionVector": vector, "stats": json.dumps(stats)}})
    with open(f"{path}/_delta_log/{3:020}.json", "w") as log:
        log.writelines(json.dumps(action) + "\n" for action in actions)


for make in (delta_rs_with_checkpoint, polars_table, with_deletion_vectors):
    path = os.path.join(root, make.__name__)
    os.makedirs(path)
    make(path)
    print(make.__name__)
