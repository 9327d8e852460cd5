"""Round trips: what was written comes back, whichever library wrote it and whichever reads it."""

import datetime
import decimal
import itertools
import math

import duckdb
import hypothesis.strategies as st
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

UTC = datetime.timezone.utc
_numbers = itertools.count()

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30))
doubles = st.floats(allow_nan=False)
singles = st.floats(allow_nan=False, width=32)
decimals = st.decimals(-(10**9), 10**9, places=2)


def ints(bits, signed=True):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.integers(low, high)


STORED = {
    "int8": (pa.int8(), ints(8)),
    "int16": (pa.int16(), ints(16)),
    "int32": (pa.int32(), ints(32)),
    "int64": (pa.int64(), ints(64)),
    "uint8": (pa.uint8(), ints(8, False)),
    "uint16": (pa.uint16(), ints(16, False)),
    "uint32": (pa.uint32(), ints(32, False)),
    "uint64": (pa.uint64(), ints(64, False)),
    "float32": (pa.float32(), singles),
    "float64": (pa.float64(), doubles),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), text),
    "binary": (pa.binary(), st.binary(max_size=20)),
    "date": (pa.date32(), st.dates()),
    "timestamp": (pa.timestamp("us"), moments),
    "timestamptz": (pa.timestamp("us", "UTC"), moments.map(lambda at: at.replace(tzinfo=UTC))),
    "decimal": (pa.decimal128(12, 2), decimals),
    "list": (pa.list_(pa.int64()), st.lists(st.none() | ints(64), max_size=4)),
    "texts": (pa.list_(pa.string()), st.lists(st.none() | text, max_size=4)),
    "struct": (
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": st.none() | ints(32), "b": st.none() | text}),
    ),
    "nested": (
        pa.list_(pa.struct([("x", pa.list_(pa.string()))])),
        st.lists(st.fixed_dictionaries({"x": st.lists(text, max_size=2)}), max_size=2),
    ),
    "map": (
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(text, st.none() | ints(64), max_size=3).map(lambda pairs: list(pairs.items())),
    ),
}
"""Types that come back as they are."""

GIVEN = {
    "float16": (pa.float16(), pa.float32(), st.floats(width=16, allow_nan=False)),
    "large string": (pa.large_string(), pa.string(), text),
    "string view": (pa.string_view(), pa.string(), text),
    "large binary": (pa.large_binary(), pa.binary(), st.binary(max_size=20)),
    "binary view": (pa.binary_view(), pa.binary(), st.binary(max_size=20)),
    "fixed binary": (pa.binary(4), pa.binary(), st.binary(min_size=4, max_size=4)),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), pa.string(), st.sampled_from(["a", "b", "ü"])),
    "seconds": (pa.timestamp("s"), pa.timestamp("us"), moments.map(lambda at: at.replace(microsecond=0))),
    "milliseconds": (
        pa.timestamp("ms", "Europe/Berlin"),
        pa.timestamp("us", "UTC"),
        st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2100, 1, 1)).map(
            lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000, tzinfo=UTC)
        ),
    ),
    "large list": (pa.large_list(pa.int8()), pa.list_(pa.int8()), st.lists(ints(8), max_size=3)),
    "fixed list": (pa.list_(pa.int8(), 2), pa.list_(pa.int8()), st.lists(ints(8), min_size=2, max_size=2)),
    "decimal32": (pa.decimal32(9, 2), pa.decimal128(9, 2), st.decimals(-1000, 1000, places=2)),
    "decimal256": (pa.decimal256(30, 2), pa.decimal128(30, 2), decimals),
}
"""Types that are brought to the ones that frames have."""


def new_frame(node, schema):
    return node.box("h", "b").create_frame(f"f{next(_numbers)}", schema)


quick = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("kind", STORED)
@quick
@given(data=st.data())
def test_a_stored_type_comes_back_as_it_is(shared, kind, data):
    arrow, values = STORED[kind]
    rows = data.draw(st.lists(st.none() | values, max_size=8))
    table = pa.table({"id": pa.array(range(len(rows)), pa.int64()), "v": pa.array(rows, arrow)})
    frame = new_frame(shared, table.schema)
    frame.write(table)
    read = shared.sql(f"SELECT * FROM {frame.full_name} ORDER BY id").to_arrow()
    assert read.column("v").to_pylist() == table.column("v").to_pylist()
    assert read.schema.field("v").type.id == arrow.id
    assert read.column("v").type.equals(arrow) or pa.types.is_nested(arrow)
    frame.drop(purge=True)


@pytest.mark.parametrize("kind", GIVEN)
@quick
@given(data=st.data())
def test_a_given_type_is_brought_to_one_that_frames_have(shared, kind, data):
    arrow, stored, values = GIVEN[kind]
    rows = data.draw(st.lists(st.none() | values, min_size=1, max_size=8))
    table = pa.table({"id": pa.array(range(len(rows)), pa.int64()), "v": pa.array(rows, arrow)})
    frame = new_frame(shared, table.schema)
    frame.write(table)
    read = shared.sql(f"SELECT * FROM {frame.full_name} ORDER BY id").to_arrow()
    assert read.column("v").to_pylist() == pa.array(rows, stored).to_pylist()
    frame.drop(purge=True)


LIBRARIES = ["string", "int64", "uint64", "float64", "bool", "date", "timestamp", "timestamptz", "binary", "decimal"]


@quick
@given(data=st.data())
def test_polars_pandas_and_duckdb_write_and_read_the_same(shared, data):
    count = data.draw(st.integers(0, 6))
    columns = {"id": pa.array(range(count), pa.int64())}
    for kind in LIBRARIES:
        arrow, values = STORED[kind]
        if kind in ("timestamp", "timestamptz"):
            # What nanoseconds can say, which pandas may turn to.
            low, high = datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)
            zone = UTC if kind == "timestamptz" else None
            values = st.datetimes(low, high).map(lambda at, zone=zone: at.replace(tzinfo=zone))
        if kind == "date":
            values = st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1))
        rows = data.draw(st.lists(st.none() | values, min_size=count, max_size=count))
        columns[kind] = pa.array(rows, arrow)
    table = pa.table(columns)
    duck = duckdb.from_arrow(table)
    for source in (pl.from_arrow(table), duck, table.to_pandas(types_mapper=_arrow_dtype)):
        frame = new_frame(shared, table.schema)
        frame.write(source)
        result = shared.sql(f"SELECT * FROM {frame.full_name} ORDER BY id").collect()
        assert result.to_pylist() == table.to_pylist()
        assert result.to_polars().rows() == pl.from_arrow(table).rows()
        assert duckdb.sql("SELECT * FROM result").fetchall() == duck.fetchall()
        again = result.to_pandas(types_mapper=_arrow_dtype)
        assert again.equals(table.to_pandas(types_mapper=_arrow_dtype))
        frame.drop(purge=True)


def _arrow_dtype(arrow):
    import pandas as pd

    return pd.ArrowDtype(arrow)


def test_not_a_number_and_zeros_of_both_signs_come_back(shared):
    frame = new_frame(shared, {"v": "float64"})
    frame.write({"v": [math.nan, -0.0, math.inf, -math.inf, 5e-324]})
    values = frame.read().to_pydict()["v"]
    assert math.isnan(values[0]) and math.copysign(1, values[1]) == -1
    assert values[2:] == [math.inf, -math.inf, 5e-324]


def test_pandas_own_types_are_taken(shared):
    import pandas as pd

    source = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int32"),
            "s": pd.array(["x", None], dtype="str"),
            "c": pd.Categorical(["a", "b"]),
            "at": pd.to_datetime(["2025-05-01", None]),
            "b": pd.array([True, None], dtype="boolean"),
        },
        index=["r", "s"],
    )
    frame = new_frame(shared, {"n": "int32", "s": "string", "c": "string", "at": "timestamp", "b": "bool"})
    frame.write(source)
    assert frame.read().to_pylist() == [
        {"n": 1, "s": "x", "c": "a", "at": datetime.datetime(2025, 5, 1), "b": True},
        {"n": None, "s": None, "c": "b", "at": None, "b": None},
    ]


def test_empty_tables_of_every_type(shared):
    schema = pa.schema([(name, arrow) for name, (arrow, _) in STORED.items()])
    frame = new_frame(shared, schema)
    assert frame.write(schema.empty_table())["rows_written"] == 0
    assert frame.read().to_arrow().num_rows == 0
    assert frame.schema.names == schema.names


@pytest.mark.parametrize(
    "arrow", [pa.null(), pa.time64("us"), pa.duration("s"), pa.month_day_nano_interval()], ids=str
)
def test_types_that_frames_lack_are_refused_by_name(shared, arrow):
    with pytest.raises(RuntimeError, match='Invalid schema.*"v"'):
        new_frame(shared, pa.schema([("id", pa.int64()), ("v", arrow)]))


def test_decimals_of_many_digits_come_back(shared):
    value = decimal.Decimal("-12345678901234567890123456789012345.678")
    frame = new_frame(shared, {"v": "decimal(38, 3)"})
    frame.write(pa.table({"v": pa.array([value], pa.decimal128(38, 3))}))
    assert frame.read().to_pydict()["v"] == [value]
