"""What `sql` gives: streams, tables, rows, texts."""

import gc

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from apiary import InterfaceError, InvalidInputError, NotFoundError, Result, TimeoutError

MANY = (
    "SELECT nullif(value, 0) AS n, nullif('row ' || value, '') AS text "
    "FROM generate_series(1, 100000) ORDER BY value"
)


def test_a_result_becomes_a_table_of_every_library(shared):
    result = shared.sql(MANY)
    assert isinstance(result, Result)
    assert len(result) == 100_000
    table = result.to_arrow()
    assert table.schema == result.schema == pa.schema([("n", pa.int64()), ("text", pa.string())])
    frame = result.to_pandas()
    assert frame["n"].sum() == 100_000 * 100_001 // 2
    assert frame["text"].iloc[-1] == "row 100000"
    polars = result.to_polars()
    assert polars["n"].sum() == 100_000 * 100_001 // 2
    assert polars.schema["text"] == pl.String
    assert pl.DataFrame(result).equals(polars)
    assert pa.table(result).equals(table)
    assert pd.DataFrame.from_arrow(result).equals(pd.DataFrame.from_arrow(table))
    assert duckdb.sql("SELECT sum(n) FROM result").fetchone() == (5000050000,)
    assert result.to_pydict()["n"][:2] == [1, 2]
    assert result.to_pylist()[2] == {"n": 3, "text": "row 3"}
    assert result.column_names == ["n", "text"]


def test_batches_stream_and_are_gone_when_they_were_taken(shared):
    result = shared.sql(MANY)
    assert not result.is_whole
    assert result.schema.names == ["n", "text"]
    batches = list(result)
    assert not result.is_whole
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)
    assert len(batches) > 1
    assert sum(batch.num_rows for batch in batches) == 100_000
    assert list(result) == []
    for use in (len, Result.to_arrow, pa.table, bytes):
        with pytest.raises((InterfaceError, pa.ArrowException), match="taken"):
            use(result)
    assert "taken" in repr(result) and "taken" in result._repr_html_()


@pytest.mark.parametrize("take", [list, tuple, lambda result: [*result]], ids=["list", "tuple", "star"])
def test_whoever_gathers_batches_has_them_and_the_result_has_not(shared, take):
    """They ask for a length, which would keep all rows in the result as well."""
    result = shared.sql(MANY)
    assert sum(batch.num_rows for batch in take(result)) == 100_000
    assert not result.is_whole
    with pytest.raises(InterfaceError, match="taken"):
        len(result)
    result = shared.sql(MANY)
    assert len(result) == 100_000
    assert sum(batch.num_rows for batch in take(result)) == 100_000 == len(result)


def test_a_reader_streams_and_a_whole_result_can_be_read_again(shared):
    reader = shared.sql(MANY).to_reader()
    assert sum(batch.num_rows for batch in reader) == 100_000
    result = shared.sql(MANY).collect()
    assert result.is_whole
    for _ in range(2):
        assert sum(batch.num_rows for batch in result) == 100_000
        assert pa.table(result).num_rows == 100_000


def test_the_bytes_of_a_large_result_hold_its_batches_too(shared):
    result = shared.sql("SELECT value AS a, -value AS b, value * 3 AS c FROM generate_series(1, 2000000)")
    buffer = pa.py_buffer(result)
    assert buffer.size > 48_000_000
    table = pa.ipc.open_stream(result).read_all()
    assert result.to_arrow().equals(table)
    end = buffer.address + buffer.size
    for column in [*table.columns, *result.to_arrow().columns]:
        for chunk in column.chunks:
            assert buffer.address <= chunk.buffers()[1].address < end
    # They stay as long as somebody has a part of them.
    del result, buffer, column, chunk
    gc.collect()
    count = 2_000_000
    assert pc.sum(table["a"]).as_py() == count * (count + 1) // 2 == -pc.sum(table["b"]).as_py()
    assert pc.sum(table["c"]).as_py() == 3 * count * (count + 1) // 2


def test_rows_are_fetched_one_after_the_other(shared):
    result = shared.sql("SELECT value AS n FROM generate_series(1, 5) ORDER BY 1")
    assert result.fetchone() == (1,)
    assert result.fetchmany(2) == [(2,), (3,)]
    assert result.fetchall() == [(4,), (5,)]
    assert result.fetchone() is None
    assert result.fetchmany(3) == result.fetchall() == []
    rows = shared.sql(MANY).fetchall()
    assert (len(rows), rows[0], rows[-1]) == (100_000, (1, "row 1"), (100_000, "row 100000"))


def test_fetching_moves_a_position_and_tables_are_whole(shared):
    result = shared.sql("SELECT value AS n FROM generate_series(1, 3) ORDER BY 1").collect()
    assert result.fetchone() == (1,)
    assert result.to_arrow().num_rows == 3
    assert result.fetchall() == [(2,), (3,)]


def test_a_scalar_is_one_row_of_one_column(shared):
    assert shared.sql("SELECT 6 * 7").scalar() == 42
    assert shared.sql("SELECT NULL").scalar() is None
    with pytest.raises(InterfaceError, match="2 rows and 1 columns"):
        shared.sql("VALUES (1), (2)").scalar()


def test_a_result_shows_itself_as_text_and_html(shared):
    result = shared.sql("SELECT 1 AS id, '<b>&' AS text, NULL AS nothing")
    assert repr(result) == "\n".join(
        [
            "id  text  nothing",
            "--  ----  -------",
            "1   <b>&  NULL",
            "(1 row)",
        ]
    )
    page = result._repr_html_()
    assert "<td>&lt;b&gt;&amp;</td>" in page and "<th>id</th>" in page
    assert repr(shared.sql(MANY)).splitlines()[-1] == "(100,000 rows, the first 10 shown)"
    assert repr(shared.sql("SELECT 1 AS a WHERE false")) == "a\n-\n(0 rows)"


def test_parameters_bind_by_position_and_by_name(shared):
    import datetime
    import decimal
    import uuid

    import numpy as np

    values = [
        (None, None),
        (True, True),
        (7, 7),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (0.1, 0.1),
        (-1e300, -1e300),
        (float("inf"), float("inf")),
        ("it's; -- ?", "it's; -- ?"),
        ("", ""),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (decimal.Decimal("-12.50"), decimal.Decimal("-12.50")),
        (decimal.Decimal("0.001"), decimal.Decimal("0.001")),
        (decimal.Decimal("1E+3"), decimal.Decimal("1000")),
        (datetime.date(2025, 5, 1), datetime.date(2025, 5, 1)),
        (datetime.time(8, 30, 0, 250), datetime.time(8, 30, 0, 250)),
        (datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)),
        ([1, 2, 3], [1, 2, 3]),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(False), False),
        (pd.NaT, None),
    ]
    for value, expected in values:
        assert shared.sql("SELECT ?", (value,)).scalar() == expected, value
        assert shared.sql("SELECT $v", {"v": value}).scalar() == expected, value
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2025, 5, 1, 12, tzinfo=zone)
    assert shared.sql("SELECT ?", [moment]).scalar() == moment
    assert shared.sql("SELECT $2 || $1 || $2", ("a", "b")).scalar() == "bab"


def test_wrong_parameters_are_refused_by_name(shared):
    for text, parameters, named in [
        ("SELECT ?", None, "?1"),
        ("SELECT ?", (), "?1"),
        ("SELECT ?", (1, 2), "value 2"),
        ("SELECT $a", {"b": 1}, "$a"),
        ("SELECT ?", (object(),), "parameter 1: a object"),
        ("SELECT ?", "text", "(value,)"),
        ("SELECT ?", (2**127 - 1,), "38"),
    ]:
        with pytest.raises(InvalidInputError) as raised:
            shared.sql(text, parameters)
        assert named in str(raised.value), (text, str(raised.value))


def test_values_never_become_syntax(shared):
    nasty = "'); DROP TABLE x; --"
    shared.sql("CREATE TABLE texts AS SELECT ? AS text", (nasty,))
    shared.sql("INSERT INTO texts VALUES (?)", (nasty,))
    assert shared.sql("SELECT text FROM texts WHERE text = ?", (nasty,)).fetchall() == [(nasty,)] * 2


def test_explain_shows_a_plan_and_what_its_run_did(shared):
    assert "Projection" in shared.explain("SELECT 1 + ?", (1,)) or "physical_plan" in shared.explain("SELECT 1 + ?", (1,))
    assert "metrics" in shared.explain("SELECT count(*) FROM generate_series(1, 10)", analyze=True)


def test_several_statements_run_in_order_and_share_their_parameters(shared):
    result = shared.sql("CREATE TABLE IF NOT EXISTS several (n INT); INSERT INTO several VALUES (?); SELECT n + ? FROM several", (1, 2))
    assert result.fetchall() == [(3,)]
    with pytest.raises(InvalidInputError, match="no SQL statement"):
        shared.sql(" ; ")


def test_a_result_outlives_its_node_object(meadow):
    import apiary

    node = apiary.Apiary("short", meadow, bees=1)
    node.start()
    result = node.sql(MANY)
    del node
    gc.collect()
    assert len(result) == 100_000


def test_a_query_on_one_bee_may_run_others_while_it_streams(meadow):
    import apiary

    with apiary.Apiary("one", meadow, bees=1) as node:
        seen = 0
        for batch in node.sql(MANY):
            assert node.sql("SELECT 1").scalar() == 1
            seen += batch.num_rows
        assert seen == 100_000


def test_a_timeout_ends_a_statement(shared):
    with pytest.raises(TimeoutError):
        result = shared.sql(
            "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11",
            timeout=0.2,
        )
        result.to_arrow()


def test_an_error_in_the_middle_of_a_stream_is_raised_where_it_is_read(shared):
    result = shared.sql("SELECT 1 / (50000 - value) AS n FROM generate_series(1, 100000)")
    with pytest.raises(InvalidInputError, match="(?i)divide by zero"):
        result.to_arrow()


def test_a_missing_frame_has_its_class(shared):
    with pytest.raises(NotFoundError, match="nowhere"):
        shared.sql("SELECT * FROM nowhere")
