"""Scripts for the older public package: what they call, what they get, what they catch."""

import io
import threading
from pathlib import Path

import apiary
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apiary import Apiary


def stream(table):
    """A table as the bytes of an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_of(result):
    """What such scripts do with a result."""
    return pa.ipc.open_stream(result).read_all()


@pytest.fixture
def frame(ap):
    ap.create_hive("analytics")
    ap.create_box("analytics", "sensors")
    ap.create_frame(
        "analytics",
        "sensors",
        "temperature",
        {"region": "string", "celsius": "float64", "n": "int32"},
        partition_by=["region"],
    )
    return "analytics", "sensors", "temperature"


ROWS = pa.table(
    {
        "region": ["north", "south", "north"],
        "celsius": [1.5, 2.5, 3.5],
        "n": pa.array([1, 2, 3], pa.int64()),
    }
)


def test_storage_is_named_in_many_ways_and_not_touched_before_start(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for storage in [
        f"local://{tmp_path}/a",
        f"{tmp_path}/b",
        "local://~/c",
        None,
        "s3://bucket/prefix?region=eu-central-1&endpoint=http://127.0.0.1:9",
    ]:
        Apiary("node", storage)
    assert list(tmp_path.iterdir()) == []
    for storage, path in [
        (f"local://{tmp_path}/a", "a"),
        (f"{tmp_path}/b", "b"),
        ("local://~/c", "c"),
        (None, ".apiary/data/node"),
    ]:
        node = Apiary("node", storage)
        node.start()
        assert (tmp_path / path).is_dir(), storage
        assert node.status()["storage"] == "local"
        node.shutdown()


def test_start_leaves_a_heartbeat_and_shutdown_takes_it_away(meadow):
    node = Apiary("node", meadow)
    assert node.start() is None
    nodes = Path(meadow) / "_swarm" / "nodes"
    assert len(list(nodes.iterdir())) == 1
    assert node.swarm_status()["alive"] == 1
    assert node.shutdown() is None
    assert list(nodes.glob("*")) == []
    assert node.shutdown() is None


def test_a_node_that_cannot_start_says_so(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a directory")
    with pytest.raises(RuntimeError, match="Failed to start node"):
        Apiary("node", str(file)).start()


CALLS = [
    lambda node: node.status(),
    lambda node: node.create_hive("h"),
    lambda node: node.create_database("h"),
    lambda node: node.create_box("h", "b"),
    lambda node: node.create_schema("h", "b"),
    lambda node: node.create_frame("h", "b", "f", {"a": "int64"}),
    lambda node: node.create_table("h", "b", "f", {"a": "int64"}),
    lambda node: node.list_hives(),
    lambda node: node.list_boxes("h"),
    lambda node: node.list_frames("h", "b"),
    lambda node: node.list_databases(),
    lambda node: node.list_schemas("h"),
    lambda node: node.list_tables("h", "b"),
    lambda node: node.get_frame("h", "b", "f"),
    lambda node: node.get_table("h", "b", "f"),
    lambda node: node.write_to_frame("h", "b", "f", ROWS),
    lambda node: node.overwrite_frame("h", "b", "f", ROWS),
    lambda node: node.read_from_frame("h", "b", "f"),
    lambda node: node.sql("SELECT 1"),
    lambda node: node.bee_status(),
    lambda node: node.swarm_status(),
    lambda node: node.colony_status(),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_method_says_when_the_node_is_not_started(call):
    node = Apiary("node", "memory://not-started")
    with pytest.raises(RuntimeError, match="not started"):
        call(node)
    node.start()
    node.shutdown()
    with pytest.raises(RuntimeError, match="not started"):
        call(node)


def test_status_tells_what_the_node_has(ap):
    status = ap.status()
    assert status["name"] == "test"
    assert len(status["node_id"]) >= 8
    assert status["cores"] == status["bees"] == 2
    assert status["memory_gb"] == 1.0
    assert status["storage"] == "local"
    assert status["memory_per_bee_mb"] > 0
    assert status["target_cell_size_mb"] > 0
    assert status["cache_size_mb"] >= 0


def test_names_are_made_once_and_listed_in_order(ap):
    for _ in range(2):
        ap.create_hive("zoo")
        ap.create_database("ants")
        ap.create_box("zoo", "b")
        ap.create_schema("zoo", "a")
        ap.create_frame("zoo", "a", "y", {"n": "int64"})
        ap.create_table("zoo", "a", "x", {"n": "int64"})
    assert ap.list_hives() == ap.list_databases() == ["ants", "default", "zoo"]
    assert {"a", "b"} <= set(ap.list_boxes("zoo"))
    assert ap.list_boxes("zoo") == ap.list_schemas("zoo") == sorted(ap.list_boxes("zoo"))
    assert ap.list_frames("zoo", "a") == ap.list_tables("zoo", "a") == ["x", "y"]


def test_what_is_missing_is_not_found(ap):
    ap.create_hive("h")
    for call in [
        lambda: ap.create_box("nowhere", "b"),
        lambda: ap.create_frame("nowhere", "b", "f", {"a": "int64"}),
        lambda: ap.create_frame("h", "nowhere", "f", {"a": "int64"}),
        lambda: ap.list_boxes("nowhere"),
        lambda: ap.list_frames("nowhere", "b"),
        lambda: ap.list_frames("h", "nowhere"),
        lambda: ap.get_frame("h", "default", "nowhere"),
        lambda: ap.write_to_frame("h", "default", "nowhere", ROWS),
        lambda: ap.overwrite_frame("h", "default", "nowhere", stream(ROWS)),
        lambda: ap.read_from_frame("h", "default", "nowhere"),
    ]:
        with pytest.raises(RuntimeError, match="not found"):
            call()


def test_a_hive_with_an_impossible_name_is_refused(ap):
    with pytest.raises(RuntimeError, match="Failed to create hive"):
        ap.create_hive("../escape")


TYPES = {
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "f": "float",
    "f32": "float32",
    "d": "double",
    "f64": "float64",
    "s": "string",
    "t": "utf8",
    "b": "bool",
    "bb": "boolean",
    "day": "date",
    "day32": "date32",
    "at": "timestamp",
    "at2": "datetime",
    "raw": "binary",
    "money": "decimal(12,2)",
}


def test_every_type_has_a_word_and_is_shown_as_it_was_given(ap, meadow):
    ap.create_hive("h")
    ap.create_box("h", "b")
    ap.create_frame("h", "b", "words", TYPES)
    fields = {
        "fields": [
            {"name": "id", "type": "int64", "nullable": False},
            {"name": "text", "type": "string", "nullable": True},
            {"name": "plain", "type": "int32"},
        ]
    }
    ap.create_frame("h", "b", "fields", fields)
    ap.create_frame("h", "b", "arrow", pa.schema([("a", pa.int64()), ("b", pa.list_(pa.string()))]))
    with Apiary("other", meadow) as other:
        for node in (ap, other):
            assert node.get_frame("h", "b", "words")["schema"] == TYPES
            assert node.get_frame("h", "b", "fields")["schema"] == fields
            assert node.get_frame("h", "b", "arrow")["schema"]["a"] == "int64"
    assert ap.frame("h", "b", "fields").schema.field("id").nullable is False


def test_a_frame_tells_its_facts(ap, frame):
    facts = ap.get_frame(*frame)
    assert facts == ap.get_table(*frame)
    assert facts["partition_by"] == ["region"]
    assert facts["max_partitions"] == 10000
    assert (facts["cell_count"], facts["row_count"], facts["total_bytes"]) == (0, 0, 0)
    assert facts["created_at"][10] == "T" and facts["created_at"].endswith("Z")
    ap.write_to_frame(*frame, stream(ROWS))
    facts = ap.get_frame(*frame)
    assert (facts["cell_count"], facts["row_count"]) == (2, 3)
    assert facts["total_bytes"] > 0


@pytest.mark.parametrize(
    "schema",
    [
        {"a": "int65"},
        {"a": 7},
        {},
        {"fields": [{"name": "a"}]},
        {"fields": []},
        ["a"],
        "int64",
        {"a": "decimal(99,2)"},
    ],
)
def test_a_wrong_schema_is_refused(ap, schema):
    ap.create_hive("h")
    ap.create_box("h", "b")
    with pytest.raises(RuntimeError, match="Invalid schema"):
        ap.create_frame("h", "b", "f", schema)
    assert ap.list_frames("h", "b") == []


def test_rows_come_as_ipc_bytes_and_go_as_something_open_stream_takes(ap, frame):
    report = ap.write_to_frame(*frame, stream(ROWS))
    assert report["version"] == 1
    assert report["cells_written"] == 2
    assert report["rows_written"] == 3
    assert report["bytes_written"] > 0
    assert report["duration_ms"] >= 0
    assert 0 <= report["temperature"] <= 1
    read = table_of(ap.read_from_frame(*frame))
    assert read.num_rows == 3
    assert read.schema.field("n").type == pa.int32()
    assert read.schema.field("region").type == pa.string()
    assert sorted(read.column("celsius").to_pylist()) == [1.5, 2.5, 3.5]
    south = table_of(ap.read_from_frame(*frame, partition_filter={"region": "south"}))
    assert south.to_pylist() == [{"region": "south", "celsius": 2.5, "n": 2}]
    nowhere = ap.read_from_frame(*frame, {"region": "nowhere"})
    assert table_of(nowhere).num_rows == 0


def test_a_result_is_bytes_to_whoever_wants_bytes(ap):
    result = ap.sql("SELECT 1 AS one")
    data = bytes(result)
    assert pa.ipc.open_stream(io.BytesIO(data)).read_all().to_pylist() == [{"one": 1}]
    assert pa.ipc.open_stream(pa.py_buffer(result)).read_all().num_rows == 1
    assert memoryview(result).readonly


def test_a_frame_without_cells_has_nothing_to_read(ap, frame):
    assert ap.read_from_frame(*frame) is None
    assert ap.read_from_frame(*frame, {"region": "north"}) is None


def test_overwriting_replaces_all_rows(ap, frame):
    ap.write_to_frame(*frame, stream(ROWS))
    report = ap.overwrite_frame(*frame, stream(ROWS.slice(0, 1)))
    assert (report["version"], report["rows_written"]) == (2, 1)
    assert table_of(ap.read_from_frame(*frame)).num_rows == 1


def test_cells_lie_in_partition_directories_as_parquet(ap, frame, meadow):
    ap.write_to_frame(*frame, ROWS)
    cells = sorted(Path(meadow, *frame).glob("region=*/*.parquet"))
    assert [cell.parent.name for cell in cells] == ["region=north", "region=south"]
    assert pq.read_table(cells[0], partitioning=None).column("celsius").to_pylist() == [1.5, 3.5]


def test_null_partition_values_and_broken_bytes_are_refused(ap, frame):
    nulls = pa.table({"region": pa.array([None], pa.string()), "celsius": [1.0], "n": [1]})
    with pytest.raises(RuntimeError, match="null"):
        ap.write_to_frame(*frame, stream(nulls))
    for broken in [b"", b"not arrow", stream(ROWS)[:100]]:
        with pytest.raises(RuntimeError, match="IPC"):
            ap.write_to_frame(*frame, broken)
    assert ap.get_frame(*frame)["row_count"] == 0


def test_sql_answers_with_its_columns_also_without_rows(ap, frame):
    ap.write_to_frame(*frame, ROWS)
    text = "SELECT region, sum(n) AS n FROM analytics.sensors.temperature {} GROUP BY region ORDER BY region"
    assert table_of(ap.sql(text.format(""))).to_pylist() == [
        {"region": "north", "n": 4},
        {"region": "south", "n": 2},
    ]
    empty = table_of(ap.sql(text.format("WHERE n > 100")))
    assert (empty.num_rows, empty.schema.names) == (0, ["region", "n"])
    assert ap.sql("CREATE HIVE quiet") is None
    assert ap.sql("INSERT INTO analytics.sensors.temperature VALUES ('east', 1.0, 9)") is None


def test_show_describe_and_use_have_their_columns(ap, frame):
    ap.write_to_frame(*frame, ROWS)

    def rows(text):
        return table_of(ap.sql(text)).to_pylist()

    assert rows("SHOW HIVES") == [{"hive": "analytics"}, {"hive": "default"}]
    assert {"box": "sensors"} in rows("SHOW BOXES IN analytics")
    assert rows("SHOW FRAMES IN analytics.sensors") == [{"frame": "temperature"}]
    described = {row["property"]: row["value"] for row in rows("DESCRIBE analytics.sensors.temperature")}
    assert {"schema", "partition_by", "cells", "total_rows", "total_bytes"} <= set(described)
    assert (described["cells"], described["total_rows"]) == ("2", "3")
    assert [list(row) for row in rows("USE HIVE analytics")] == [["message"]]
    assert [list(row) for row in rows("USE BOX sensors")] == [["message"]]
    assert rows("SHOW BOXES") == rows("SHOW BOXES IN analytics")
    assert rows("SELECT count(*) AS n FROM temperature") == [{"n": 3}]


def test_sql_errors_name_the_thing(ap):
    for text, named in [
        ("SELECT * FROM missing_frame", "missing_frame"),
        ("SELEC 1", "SELEC"),
        ("SELECT missing_column FROM (SELECT 1 AS a)", "missing_column"),
        ("USE HIVE missing_hive", "missing_hive"),
    ]:
        with pytest.raises(RuntimeError, match="SQL error") as raised:
            ap.sql(text)
        assert named in str(raised.value)
        assert len(str(raised.value)) > 10


def test_bees_swarm_and_colony_are_told(ap):
    bees = ap.bee_status()
    assert [bee["bee_id"] for bee in bees] == ["bee-0", "bee-1"]
    for bee in bees:
        assert bee["state"] == "idle"
        assert bee["memory_used"] == 0
        assert bee["memory_budget"] > 0
    swarm = ap.swarm_status()
    assert swarm["alive"] == len(swarm["nodes"]) == 1
    assert swarm["total_bees"] == swarm["total_idle_bees"] == 2
    (node,) = swarm["nodes"]
    assert node["node_id"] == ap.status()["node_id"]
    assert node["state"] == "alive"
    assert (node["bees"], node["idle_bees"]) == (2, 2)
    assert 0 <= node["memory_pressure"] <= 1
    assert 0 <= node["colony_temperature"] <= 1
    colony = ap.colony_status()
    assert 0 <= colony["temperature"] <= 1
    assert colony["regulation"] in ("cold", "ideal", "warm", "hot", "critical")
    assert colony["setpoint"] == 0.5
    assert colony["abandoned_tasks"] == 0


def test_wide_data_fits_narrow_columns_when_every_value_does(ap):
    ap.create_hive("h")
    ap.create_box("h", "b")
    ap.create_frame("h", "b", "f", {"i": "int32", "f": "float"})
    ap.write_to_frame("h", "b", "f", stream(pa.table({"i": [1, -2], "f": [0.5, 1.25]})))
    assert table_of(ap.read_from_frame("h", "b", "f")).to_pylist() == [
        {"i": 1, "f": 0.5},
        {"i": -2, "f": 1.25},
    ]
    with pytest.raises(RuntimeError, match='"i"'):
        ap.write_to_frame("h", "b", "f", stream(pa.table({"i": [2**40], "f": [0.0]})))


def test_two_objects_on_one_path_see_each_others_commits(ap, frame, meadow):
    with Apiary("second", meadow) as other:
        other.write_to_frame(*frame, stream(ROWS))
        assert ap.get_frame(*frame)["row_count"] == 3
        ap.write_to_frame(*frame, stream(ROWS))
        assert table_of(other.sql("SELECT count(*) AS n FROM analytics.sensors.temperature")).to_pylist() == [{"n": 6}]
        assert len(ap.swarm_status()["nodes"]) == 2


def test_calls_come_from_several_threads_at_once(ap, frame):
    errors = []

    def work(number):
        try:
            for _ in range(5):
                ap.write_to_frame(*frame, stream(ROWS))
                rows = table_of(ap.sql(f"SELECT {number} AS n")).to_pylist()
                assert rows == [{"n": number}]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ap.get_frame(*frame)["row_count"] == 8 * 5 * 3


def test_the_object_style_of_the_first_designs_works(ap):
    hive = ap.create_hive("analytics")
    box = hive.create_box("sensors")
    frame = box.create_frame(
        "temperature", schema={"region": "string", "celsius": "float64"}, partition_by=["region"]
    )
    for backpressure in ("block", "error", "ignore"):
        frame.write(ROWS.drop_columns(["n"]), backpressure=backpressure)
    assert table_of(frame.read(filter={"region": "south"})).num_rows == 3
    frame.overwrite(ROWS.drop_columns(["n"]))
    assert len(frame) == 3
    assert table_of(ap.sql("SELECT * FROM analytics.sensors.temperature")).num_rows == 3


def test_errors_are_runtime_errors():
    assert issubclass(apiary.ApiaryError, RuntimeError)
    for name in apiary.exceptions.__all__:
        if name != "Warning":
            assert issubclass(getattr(apiary, name), apiary.ApiaryError)
