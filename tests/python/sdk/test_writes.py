"""What can be written: tables of every library, streams, bytes, files."""

import datetime
import json
import threading

import apiary
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

TABLE = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "name": ["a", None, "ç"]})
ROWS = TABLE.to_pylist()


@pytest.fixture
def frame(ap):
    box = ap.create_hive("h").create_box("b")
    return box.create_frame("f", {"id": "int64", "name": "string"})


def batches():
    yield from TABLE.to_batches(max_chunksize=1)


class Stream:
    """An object of nobody's library."""

    def __arrow_c_stream__(self, requested_schema=None):
        return TABLE.__arrow_c_stream__(requested_schema)


class Array:
    """One that only has the array interface."""

    def __arrow_c_array__(self, requested_schema=None):
        return TABLE.to_batches()[0].__arrow_c_array__(requested_schema)


def ipc(options=None):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    return sink.getvalue().to_pybytes()


def ipc_file():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return sink.getvalue().to_pybytes()


SOURCES = {
    "a table": lambda: TABLE,
    "a batch": lambda: TABLE.to_batches()[0],
    "a reader": lambda: TABLE.to_reader(),
    "a Polars frame": lambda: pl.from_arrow(TABLE),
    "a pandas frame": lambda: TABLE.to_pandas(),
    "a DuckDB relation": lambda: duckdb.from_arrow(TABLE),
    "an object with a stream": Stream,
    "an object with an array": Array,
    "a generator of batches": batches,
    "a list of batches": lambda: list(batches()),
    "an iterator of tables": lambda: iter([TABLE.slice(0, 1), pl.from_arrow(TABLE.slice(1))]),
    "dictionaries": lambda: ROWS,
    "dictionaries that lack a key": lambda: [{"id": 1, "name": "a"}, {"id": 2}, {"name": "ç", "id": 3}],
    "a dictionary of columns": lambda: {"id": [1, 2, 3], "name": ["a", None, "ç"]},
    "a dictionary of arrays": lambda: {"id": np.array([1, 2, 3]), "name": pd.Series(["a", None, "ç"])},
    "IPC bytes": ipc,
    "compressed IPC bytes": lambda: ipc(pa.ipc.IpcWriteOptions(compression="zstd")),
    "a bytearray": lambda: bytearray(ipc()),
    "a memoryview": lambda: memoryview(ipc()),
    "the bytes of an IPC file": ipc_file,
}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_rows_are_taken_from(frame, source):
    report = frame.write(SOURCES[source]())
    assert report["rows_written"] == 3
    assert report["warnings"] == []
    assert frame.read().to_pylist() == ROWS


def test_rows_are_taken_from_a_result(ap, frame):
    frame.write(TABLE)
    assert frame.write(ap.sql("SELECT id + 10 AS id, name FROM h.b.f"))["rows_written"] == 3
    assert len(frame) == 6


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "arrow"])
def test_rows_are_taken_from_files(frame, tmp_path, kind):
    path = tmp_path / f"rows.{kind}"
    match kind:
        case "parquet":
            pq.write_table(TABLE, path)
        case "csv":
            pa.csv.write_csv(TABLE, path)
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case "arrow":
            pa.feather.write_feather(TABLE, str(path))
    frame.write(path)
    frame.write(str(path))
    assert frame.overwrite([path, str(path)])["rows_written"] == 6
    assert frame.version == 3
    assert frame.read().to_arrow().slice(0, 3).to_pylist() == ROWS


def test_a_file_that_is_missing_or_of_no_kind_is_named(frame, tmp_path):
    with pytest.raises(apiary.NotFoundError, match="nowhere.csv"):
        frame.write(tmp_path / "nowhere.csv")
    odd = tmp_path / "rows.docx"
    odd.write_text("x")
    with pytest.raises(apiary.InvalidInputError, match="rows.docx"):
        frame.write(odd)


def test_columns_go_by_name_and_what_is_too_much_is_told(frame):
    report = frame.write(pa.table({"extra": [1], "name": ["x"], "id": pa.array([7], pa.int8())}))
    assert any("extra" in warning for warning in report["warnings"])
    assert frame.read().to_pylist() == [{"id": 7, "name": "x"}]


def test_an_empty_source_writes_nothing_and_is_judged_by_its_columns(frame):
    for source in [TABLE.slice(0, 0), TABLE.schema.empty_table().to_reader(), iter([]), []]:
        report = frame.write(source)
        assert (report["rows_written"], report["version"]) == (0, 0)
    with pytest.raises(apiary.InvalidInputError, match='"id"'):
        frame.write(pa.table({"id": pa.array([], pa.list_(pa.int8()))}))
    frame.write(TABLE)
    assert frame.overwrite(TABLE.slice(0, 0))["version"] == 2
    assert len(frame) == 0


@pytest.mark.parametrize("source", [7, object(), [1, 2], iter([TABLE, 3])], ids=str)
def test_what_holds_no_rows_is_refused_by_its_type(frame, source):
    with pytest.raises(apiary.InvalidInputError, match="int holds no rows|object holds no rows"):
        frame.write(source)
    assert frame.version == 0


def test_what_a_generator_raises_comes_out_as_it_is_and_nothing_is_written(frame):
    class Odd(Exception):
        pass

    def broken():
        yield from batches()
        raise Odd("in the middle")

    with pytest.raises(Odd, match="in the middle"):
        frame.write(broken())
    assert frame.version == 0
    frame.write(TABLE)
    assert len(frame) == 3


def test_what_the_node_refuses_ends_a_generator_that_never_ends(frame):
    def endless():
        yield TABLE.to_batches()[0]
        while True:
            yield pa.record_batch({"id": pa.array(["not a number"]), "name": ["x"]})

    with pytest.raises(apiary.InvalidInputError, match="other columns"):
        frame.write(endless())
    assert frame.version == 0


def test_a_generator_runs_on_the_thread_that_writes_and_may_use_the_node(ap, frame):
    threads = set()

    def rows():
        for number in range(5):
            threads.add(threading.get_ident())
            assert ap.sql("SELECT ?", (number,)).scalar() == number
            yield pa.record_batch({"id": [number], "name": [str(number)]})

    assert frame.write(rows())["rows_written"] == 5
    assert threads == {threading.get_ident()}


def test_a_source_is_not_read_ahead_of_the_node_without_bound(ap, frame):
    given = 0
    rows = pa.record_batch({"id": pa.array(range(65536), pa.int64()), "name": ["x" * 16] * 65536})

    def many():
        nonlocal given
        for _ in range(200):
            given += 1
            yield rows

    with pytest.raises(apiary.InvalidInputError):
        frame.write(iter([*([rows] * 2), pa.record_batch({"id": ["x"]}), *many()]))
    assert given <= 200
    report = frame.write(many())
    assert report["rows_written"] == 200 * 65536


def test_one_batch_of_many_rows_is_written_in_parts(ap, frame):
    count = 300_001
    table = pa.table({"id": pa.array(range(count), pa.int64()), "name": pa.array(["x"] * count)})
    assert frame.write(table.combine_chunks())["rows_written"] == count
    assert ap.sql("SELECT sum(id) FROM h.b.f").scalar() == count * (count - 1) // 2


def test_many_partitions_come_back_by_their_values(ap):
    box = ap.create_hive("h").create_box("b")
    schema = pa.schema([("day", pa.date32()), ("n", pa.int64()), ("k", pa.int32())])
    frame = box.create_frame("days", schema, partition_by=["day", "k"])
    days = [datetime.date(2025, 1, 1) + datetime.timedelta(days=day) for day in range(30)]
    frame.write({"day": days * 2, "n": list(range(60)), "k": [1] * 30 + [2] * 30})
    assert frame.info()["cell_count"] == 60
    read = frame.read({"day": days[3], "k": 2})
    assert read.to_pylist() == [{"day": days[3], "n": 33, "k": 2}]
    # Two cells, read side by side: in which order they arrive is nobody's promise.
    of_the_day = frame.read({"day": "2025-01-04"}, columns=["n"]).to_pydict()["n"]
    assert sorted(of_the_day) == [3, 33]
    with pytest.raises(apiary.InvalidInputError, match='"nope"'):
        frame.read({"nope": "1"})


def test_a_filter_of_null_and_of_text_with_quotes(frame):
    frame.write([{"id": 1, "name": None}, {"id": 2, "name": "it's"}])
    assert frame.read({"name": None}).to_pydict()["id"] == [1]
    assert frame.read({"name": "it's"}).to_pydict()["id"] == [2]
    assert frame.read({"name": "none"}).schema == frame.schema


def test_a_read_that_takes_too_long_is_ended(ap, frame):
    frame.write(TABLE)
    for read in [
        lambda: frame.read(timeout=0),
        lambda: frame.read({"name": "a"}, ["id"], timeout=0),
        lambda: ap.read_from_frame("h", "b", "f", timeout=0),
    ]:
        with pytest.raises(apiary.TimeoutError):
            read().to_arrow()
    assert frame.read(timeout=600).to_pylist() == ROWS


def test_wrong_options_are_refused(frame):
    with pytest.raises(apiary.InvalidInputError, match="backpressure"):
        frame.write(TABLE, backpressure="later")
    for use in [lambda: frame.write(TABLE, timeout=-1), lambda: frame.read(timeout=float("nan"))]:
        with pytest.raises(apiary.InvalidInputError, match="timeout"):
            use()
    assert frame.version == 0


def test_objects_know_their_names_and_go_away(ap, frame):
    hive, box = ap.hive("h"), ap.box("h", "b")
    assert (repr(hive), repr(box), repr(frame)) == (
        "<apiary.Hive h>",
        "<apiary.Box h.b>",
        "<apiary.Frame h.b.f>",
    )
    assert hive in ap.hives() and box in hive.boxes() and box.frames() == [frame]
    assert box.frame("f") == ap.frame("h", "b", "f") == frame
    assert frame.full_name == '"h"."b"."f"'
    assert bool(frame) and len(frame) == 0
    with pytest.raises(apiary.ProgrammingError):
        hive.drop()
    assert frame.drop(purge=True) and not frame.drop()
    assert box.drop() and hive.drop(cascade=True) and not hive.drop()
    with pytest.raises(apiary.NotFoundError):
        ap.hive("h")


def test_a_delta_table_is_attached_as_a_frame(ap, meadow):
    import deltalake

    deltalake.write_deltalake(f"{meadow}/foreign/t", TABLE)
    frame = ap.box("default", "default").attach_frame("t", "foreign/t")
    assert frame.read().to_pylist() == ROWS
    assert frame.info()["attached"] is True


def test_deltalake_and_polars_read_what_was_written(ap, frame, meadow):
    import deltalake

    frame.write(TABLE)
    path = f"{meadow}/h/b/f"
    assert pl.read_delta(path).rows() == [(1, "a"), (2, None), (3, "ç")]
    assert deltalake.DeltaTable(path).to_pyarrow_table().num_rows == 3
