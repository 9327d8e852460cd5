"""A node inside a Python process: threads, signals, forks, the end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import apiary
import pytest

ENDLESS = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 11"


def python(code, *arguments, **options):
    """Runs a script in a process of its own."""
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_other_threads_run_while_a_query_does(shared):
    """One that counts while another waits for an answer that does not come."""
    counted = 0
    failure = []

    def wait():
        try:
            shared.sql(ENDLESS, timeout=1).to_arrow()
        except apiary.TimeoutError as error:
            failure.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    while waiting.is_alive():
        counted += 1
    waiting.join()
    assert failure
    # With the GIL held there would be no round but the one in which the thread starts.
    assert counted > 1000


def test_several_nodes_live_in_one_process(tmp_path):
    nodes = [apiary.Apiary(f"n{number}", f"memory://several-{number}", bees=1) for number in range(3)]
    for node in nodes:
        node.start()
    for number, node in enumerate(nodes):
        node.sql(f"CREATE TABLE t AS SELECT {number} AS n")
    assert [node.sql("SELECT n FROM t").scalar() for node in nodes] == [0, 1, 2]
    for node in nodes:
        node.shutdown()


INTERRUPTED = """
    import os, signal, sys, threading, time
    import apiary
    import pyarrow as pa

    what = sys.argv[1]
    sent = None

    def interrupt(delay=0.5):
        global sent
        time.sleep(delay)
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    def rows():
        while True:
            time.sleep(0.001)
            yield pa.record_batch({"n": [1]})

    with apiary.Apiary("interrupted", "memory://interrupted", bees=1) as node:
        frame = node.create_hive("h").create_box("b").create_frame("f", {"n": "int64"})
        work = {
            "sql": lambda: node.sql(%r),
            "rows": lambda: node.sql(%r).to_arrow(),
            "insert": lambda: node.sql("INSERT INTO h.b.f " + %r),
            "generator": lambda: frame.write(rows()),
            "reader": lambda: pa.table(node.sql(%r)),
            "files": lambda: frame.write(sys.argv[2]),
        }[what]
        threading.Thread(target=interrupt).start()
        try:
            work()
        except (KeyboardInterrupt, pa.ArrowException) as error:
            # Somebody else's reader makes an error of its own of it.
            assert isinstance(error, KeyboardInterrupt) or "KeyboardInterrupt" in str(error), error
            print("late by", time.monotonic() - sent)
        else:
            sys.exit("it was not interrupted")
        assert frame.version == 0
        assert node.sql("SELECT 1").scalar() == 1
        while node.bee_status()[0]["state"] != "idle":
            time.sleep(0.01)
    print("gone on")
""" % (ENDLESS, ENDLESS, ENDLESS, ENDLESS)


@pytest.mark.parametrize("what", ["rows", "insert", "generator", "reader"])
def test_ctrl_c_ends_what_runs_and_the_node_goes_on(what):
    """How soon is a figure of the benchmark: a loaded machine says nothing about it."""
    done = python(INTERRUPTED, what)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "gone on"


@pytest.mark.parametrize("kind", ["csv", "jsonl", "arrow"])
def test_ctrl_c_ends_a_wait_for_a_file(kind, tmp_path):
    """Nobody writes to the pipe, so that looking for its columns takes for ever."""
    pipe = tmp_path / f"rows.{kind}"
    os.mkfifo(pipe)
    done = python(INTERRUPTED, "files", str(pipe))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "gone on"


def test_a_fork_of_a_started_node_is_refused_clearly_and_ends_well():
    done = python(
        """
        import os, sys
        import apiary

        node = apiary.Apiary("parent", "memory://parent", bees=1)
        node.start()
        rows = node.sql("SELECT 1 AS n")
        child = os.fork()
        if child == 0:
            for use in (lambda: node.sql("SELECT 1"), lambda: len(rows), node.status, lambda: list(rows)):
                try:
                    use()
                except apiary.NotStartedError as error:
                    assert "fork" in str(error), error
                else:
                    os._exit(3)
            # A node of its own works, and so does the end of the interpreter.
            with apiary.Apiary("child", "memory://child", bees=1) as own:
                assert own.sql("SELECT 2").scalar() == 2
            sys.exit(7)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert rows.fetchall() == [(1,)]
        node.shutdown()
        """
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr, done.stderr


ENDS = {
    "a node that runs": "",
    "a stream half read": "rows = node.sql(MANY); rows.next_batch()",
    "a stream that nobody has": "node.sql(MANY)",
    "an exception": "raise SystemExit(0)",
    "a daemon thread in a query": """
import threading, time
def wait():
    node.sql(ENDLESS).to_arrow()
threading.Thread(target=wait, daemon=True).start()
time.sleep(0.5)
""",
    "a daemon thread in a write": """
import threading, time
import pyarrow as pa
frame = node.create_hive("h").create_box("b").create_frame("f", {"n": "int64"})
def rows():
    while True:
        time.sleep(0.001)
        yield pa.record_batch({"n": [1]})
threading.Thread(target=frame.write, args=(rows(),), daemon=True).start()
time.sleep(0.5)
""",
    "an object in a cycle": "node.me = node; del node",
    "logging of everything": "import logging; logging.basicConfig(level=1, stream=open(os.devnull, 'w')); node.sql('SELECT 1').scalar()",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_interpreter_ends_well_with(end, tmp_path):
    code = f"""
import os
import apiary
MANY = "SELECT value AS n FROM generate_series(1, 10000000)"
ENDLESS = {ENDLESS!r}
node = apiary.Apiary("ends", {str(tmp_path / "meadow")!r}, bees=1)
node.start()
{ENDS[end]}
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr and "panicked" not in done.stderr, done.stderr
    # It was stopped, not killed.
    assert list((tmp_path / "meadow").glob("_swarm/nodes/*")) == []


def test_one_result_is_read_by_one_thread_at_a_time(shared):
    result = shared.sql(ENDLESS, timeout=2)
    raised = []

    def read():
        try:
            result.to_arrow()
        except apiary.ApiaryError as error:
            raised.append(type(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert sorted(kind.__name__ for kind in raised) == ["InterfaceError", "TimeoutError"]


def test_shutdown_waits_for_what_runs_in_other_threads(meadow):
    node = apiary.Apiary("busy", meadow, bees=1)
    node.start()
    node.sql("CREATE TABLE t (n BIGINT)")
    written = []

    def write():
        node.sql("INSERT INTO t SELECT value FROM generate_series(1, 2000000)")
        written.append(True)

    thread = threading.Thread(target=write)
    thread.start()
    while node.bee_status()[0]["state"] == "idle" and thread.is_alive():
        time.sleep(0.001)
    node.shutdown()
    thread.join()
    assert written == [True]
    with node:
        assert node.sql("SELECT count(*) FROM t").scalar() == 2_000_000


def test_a_node_starts_again_after_its_shutdown(meadow):
    node = apiary.Apiary("again", meadow)
    for _ in range(2):
        with node:
            node.start()
            assert node.sql("SELECT 1").scalar() == 1
        assert "not started" in repr(node)


def test_signals_of_others_do_not_disturb_a_query(shared):
    """A handler that raises nothing is called, and the answer comes."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(True))
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(apiary.TimeoutError):
            shared.sql(ENDLESS, timeout=0.6).to_arrow()
        assert seen == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)
