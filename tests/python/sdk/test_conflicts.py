"""Commits that do not go together: one wins, and the other is told so.

Another writer commits while a generator of ours is asked for rows. By then the node has looked at the
frame: only two batches wait for it, so it has taken more than the first.
"""

import subprocess
import sys
import threading

import apiary
import deltalake
import pyarrow as pa
import pytest
from conftest import until

ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11"
BATCH = pa.record_batch({"n": pa.array([1, 2, 3], pa.int64())})


@pytest.fixture
def frame(ap):
    frame = ap.create_hive("h").create_box("b").create_frame("f", {"n": "int64"})
    frame.write(BATCH)
    return frame


@pytest.fixture
def other(meadow):
    """The frame as another node sees it."""
    with apiary.Apiary("other", meadow, sync=False) as node:
        yield node.frame("h", "b", "f")


def rows(meanwhile):
    yield from [BATCH] * 5
    meanwhile()
    yield BATCH


def command(meadow, text):
    words = [sys.executable, "-m", "apiary", "--storage", meadow, "sql", text]
    subprocess.run(words, check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("way", ["write", "overwrite"])
def test_a_frame_whose_columns_another_program_changed_is_a_conflict(frame, meadow, way):
    def change():
        table = deltalake.DeltaTable(f"{meadow}/h/b/f")
        table.alter.add_columns(deltalake.Field("more", "string"))

    with pytest.raises(apiary.ConflictError, match="version 2") as raised:
        getattr(frame, way)(rows(change))
    assert isinstance(raised.value, apiary.OperationalError)
    # Nothing of it is there, and read again and repeated it goes well.
    assert frame.read().to_pydict() == {"n": [1, 2, 3], "more": [None] * 3}
    assert frame.write(rows(lambda: None))["version"] == 3
    assert len(frame) == 21


def test_a_frame_that_another_process_dropped_is_a_conflict(frame, meadow):
    with pytest.raises(apiary.ConflictError, match="dropped"):
        frame.write(rows(lambda: command(meadow, "DROP TABLE h.b.f")))
    with pytest.raises(apiary.NotFoundError):
        frame.write(BATCH)


def test_a_statement_that_read_rows_which_are_gone_is_a_conflict(frame, other, meadow):
    """It was planned and waits for the only bee while another node replaces what it is to read."""
    raised = []

    def insert(node):
        try:
            node.sql("INSERT INTO h.b.f SELECT n + 10 FROM h.b.f")
        except apiary.ConflictError as error:
            raised.append(error)

    with apiary.Apiary("one", meadow, bees=1, sync=False) as node, node.sql(ENDLESS) as endless:
        until(lambda: node.bee_status()[0]["state"] != "idle")
        thread = threading.Thread(target=insert, args=(node,))
        thread.start()
        until(lambda: node._facts()["queued_tasks"] == 1)
        other.overwrite(BATCH)
        endless.close()
        thread.join()
    assert len(raised) == 1, raised
    assert "removed" in str(raised[0])
    assert frame.read().to_pydict() == {"n": [1, 2, 3]}


def test_overwrites_and_appends_of_others_follow_each_other(frame, other):
    assert frame.write(rows(lambda: other.write(BATCH)))["version"] == 3
    assert len(frame) == 3 + 3 + 18
    assert frame.write(rows(lambda: other.overwrite(BATCH)))["version"] == 5
    assert len(frame) == 3 + 18
    # The last one replaces what is there when it commits.
    assert frame.overwrite(rows(lambda: other.overwrite(BATCH)))["version"] == 7
    assert len(frame) == len(other) == 18
