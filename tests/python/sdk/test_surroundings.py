"""What is around the node: errors, logs, progress, settings, the command line, documentation."""

import doctest
import importlib
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import apiary
import pytest
from apiary import _apiary, _progress, _size
from conftest import until


def test_errors_have_classes_by_remedy_and_keep_their_cause(ap, meadow):
    frame = ap.create_hive("h").create_box("b").create_frame("f", {"n": "int64"})
    frame.write({"n": [1]})
    with pytest.raises(apiary.AlreadyExistsError, match="already exists"):
        ap.sql("CREATE TABLE h.b.f (n INT)")
    with pytest.raises(apiary.NotSupportedError, match="DELETE"):
        ap.sql("DELETE FROM h.b.f")
    with pytest.raises(apiary.OutOfMemoryError):
        with apiary.Apiary("small", "memory://small", bees=1, memory="64MiB") as small:
            small.sql(
                "SELECT array_agg(value), array_agg(value || 'x') FROM generate_series(1, 20000000)"
            ).to_arrow()
    with pytest.raises(apiary.InvalidInputError) as raised:
        ap.sql("SELECT nonsense FROM h.b.f")
    assert raised.value.__cause__ is not None
    assert str(raised.value).startswith("SQL error: ")
    log = f"{meadow}/h/b/f/_delta_log/00000000000000000001.json"
    with open(log, "r+b") as file:
        file.seek(30)
        file.write(b"\0\0\0")
    with apiary.Apiary("fresh", meadow) as fresh, pytest.raises(apiary.CorruptError, match="00001.json"):
        fresh.sql("SELECT * FROM h.b.f").to_arrow()


def test_a_storage_that_does_not_answer_is_a_storage_error():
    node = apiary.Apiary(
        "far",
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9&region=x",
        storage_deadline_ms=1000,
    )
    with pytest.raises(apiary.ApiaryError, match="Failed to start node") as raised:
        node.start()
    assert isinstance(raised.value, (apiary.StorageError, apiary.OperationalError))


def test_a_node_that_has_too_much_to_do_says_when_to_come_again():
    endless = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11"
    with apiary.Apiary("busy", "memory://busy", bees=1) as node:
        # One works at it, and so many wait for a bee.
        results = [node.sql(endless) for _ in range(1 + 256)]
        until(lambda: node._facts()["queued_tasks"] == 256)
        with pytest.raises(apiary.BusyError, match="256 tasks wait") as raised:
            node.sql("SELECT 1").scalar()
        assert raised.value.retry_after == 2.0
        for result in results:
            result.close()
        until(lambda: node._facts()["queued_tasks"] == 0)
        assert node.sql("SELECT 1").scalar() == 1


def test_settings_are_checked():
    for settings, named in [
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"bees": 0}, "bees"),
        ({"bees": "many"}, "settings"),
        ({"codec": object()}, "settings"),
    ]:
        node = apiary.Apiary("wrong", "memory://wrong", **settings)
        with pytest.raises(apiary.InvalidInputError, match=named):
            node.start()
    with pytest.raises(apiary.InvalidInputError, match="size"):
        apiary.Apiary("wrong", memory="much")
    assert _size.bytes_of("1.5 GiB") == 3 << 29
    assert (_size.bytes_of("10kb"), _size.bytes_of("7"), _size.bytes_of(9)) == (10_000, 7, 9)


class Handler(logging.Handler):
    """Keeps records."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def handler():
    handler = Handler()
    logger = logging.getLogger("apiary")
    before = logger.level
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)
    apiary._logging.listen()


def test_what_the_node_logs_goes_to_logging(handler):
    logging.getLogger("apiary").setLevel(logging.INFO)
    with apiary.Apiary("logs", "memory://logs", bees=1) as node:
        until(lambda: any("the node is ready" in record.getMessage() for record in handler.records))
        (ready,) = [r for r in handler.records if "the node is ready" in r.getMessage()]
        assert ready.name.startswith("apiary.actors")
        assert ready.levelno == logging.INFO
        assert "bees=1" in ready.getMessage()
        logging.getLogger("apiary").setLevel(logging.WARNING)
        node.sql("SELECT 1").scalar()
        handler.records.clear()
        for _ in range(20):
            node.sql("SELECT 1").scalar()
        assert [r for r in handler.records if r.levelno < logging.WARNING] == []


def test_a_wait_that_takes_long_shows_a_line_where_it_is_wanted(monkeypatch, shared):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    slow = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11"
    for wanted, variable, is_shown in [
        (None, "", True),
        (None, "0", False),
        (False, "", False),
        (True, "0", True),
    ]:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("APIARY_PROGRESS", variable)
        with pytest.raises(apiary.TimeoutError):
            shared.sql(slow, timeout=1.5, progress=wanted).to_arrow()
        monkeypatch.undo()
        assert ("1 s" in terminal.getvalue()) == is_shown, (wanted, variable)
        # The line is cleared in the end.
        assert not is_shown or terminal.getvalue().endswith("\r")
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert _progress.meter(None) is None


def command(*arguments, **options):
    """The command line, as a process."""
    words = [sys.executable, "-m", "apiary", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)


def test_python_m_apiary_is_the_command_line(tmp_path):
    meadow = str(tmp_path / "meadow")
    with apiary.Apiary("first", meadow) as node:
        node.sql("CREATE TABLE hens AS SELECT 'Berta' AS name, 5 AS eggs")
    done = command("--storage", meadow, "sql", "--format", "csv", "SELECT * FROM hens")
    assert (done.returncode, done.stdout) == (0, "name,eggs\nBerta,5\n"), done.stderr
    done = command("--storage", meadow, "sql", "SELECT * FROM nowhere")
    assert done.returncode == 1 and "nowhere not found" in done.stderr
    done = command("--help")
    assert done.returncode == 0 and "Usage: python -m apiary" in done.stdout
    assert command("no-such-command").returncode == 2
    status = json.loads(command("--storage", meadow, "status", "--json").stdout)
    assert status["storage"]["frames"][0]["frame"] == "default.default.hens"


def test_the_version_is_the_packages():
    import importlib.metadata

    assert apiary.__version__ == importlib.metadata.version("apiary-data") == _apiary.__version__


MODULES = ["apiary", "apiary._names", "apiary._node", "apiary._result", "apiary.dbapi"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_do_what_they_show(name, ap):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, extraglobs={"ap": ap})
    assert failed == 0
    assert tried > 0


def test_everything_public_is_described():
    import inspect

    for name in MODULES:
        module = importlib.import_module(name)
        for class_name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ != name or class_name.startswith("_"):
                continue
            assert kind.__doc__, f"{name}.{class_name}"
            for method, value in vars(kind).items():
                if not method.startswith("_") and callable(value):
                    assert value.__doc__, f"{name}.{class_name}.{method}"


@pytest.mark.parametrize("part", ["imports", "latencies", "memory"])
def test_the_benchmark_measures(part):
    """That it runs; its figures are for a quiet machine and a release build."""
    script = Path(__file__).parent.parent / "bench_sdk.py"
    words = [sys.executable, str(script), "--size-mb", "8", "--only", part]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "at most" in done.stdout


def test_import_takes_nothing_large_along():
    code = "import sys, apiary; print([m for m in ('pyarrow', 'pandas', 'polars', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
