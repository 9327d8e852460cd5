"""A node, as users hold it."""

from __future__ import annotations

import atexit
import contextlib
import json
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from . import _apiary, _colony, _logging
from ._names import Backpressure, Box, Frame, Hive, readable
from ._progress import meter
from ._result import Result
from ._schema import described, given
from ._size import bytes_of
from .exceptions import (
    ApiaryError,
    InterfaceError,
    InvalidInputError,
    NotStartedError,
    NotSupportedError,
)

Parameters = Sequence[Any] | Mapping[str, Any]
_Place = tuple[str, str, str]

_END_SECONDS = 5.0
"""How long the interpreter's end waits for threads that are in a call."""


class Apiary:
    """A node on some storage: makes frames, writes them, asks them.

    `storage` is a directory (``"path"``, ``"local://path"``, ``"file:///path"``), a bucket
    (``"s3://bucket/prefix"``, ``"gs://…"``, ``"az://…"``) or ``"memory://name"``; without one it is
    ``~/.apiary/data/<name>``. Nothing is touched before `start`, which a ``with`` block does, too.

    `memory` is in bytes, or a text like ``"512MiB"``; `bees` is the number of tasks that run at once.
    Other keywords are the settings of ``docs/cli.md``. `progress` says whether waits show a line on
    the terminal; when left out, they do when somebody looks at one.

    Several threads may use one object, and one process may have several.

    >>> from apiary import Apiary
    >>> with Apiary("farm", "memory://readme") as apiary:
    ...     apiary.sql("SELECT 6 * 7 AS answer")
    answer
    ------
    42
    (1 row)
    """

    def __init__(
        self,
        name: str,
        storage: str | None = None,
        *,
        bees: int | None = None,
        memory: int | str | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> None:
        self.name = name
        self.storage = storage if storage is not None else f"local://~/.apiary/data/{name}"
        self._settings = {"name": name, **settings}
        if bees is not None:
            self._settings["bees"] = bees
        if memory is not None:
            self._settings["memory_bytes"] = bytes_of(memory)
        self._progress = progress
        self._lock = threading.Lock()
        self._running: _apiary.Node | None = None
        self._stop: weakref.finalize[Any, Any] | None = None
        self._results: weakref.WeakSet[Result] = weakref.WeakSet()

    # Life

    def start(self) -> None:
        """Opens the storage and starts the node. A second call does nothing."""
        with self._lock:
            if self._running is not None:
                return
            _logging.listen()
            try:
                settings = json.dumps(self._settings)
            except TypeError as error:
                raise InvalidInputError(f"Failed to start node: wrong settings: {error}") from error
            with _saying("Failed to start node"):
                node = _apiary.Node(str(self.storage), settings)
            self._running = node
            # Also when the object is forgotten.
            self._stop = weakref.finalize(self, _stop_at_once, node, self._results)
            self._stop.atexit = False
            _started.add(self)

    def shutdown(self) -> None:
        """Refuses new work, finishes what runs, stops. A second call does nothing."""
        with self._lock:
            node, self._running = self._running, None
            if self._stop is not None:
                self._stop.detach()
                self._stop = None
        if node is not None:
            node.shutdown(False)

    close = shutdown

    def __enter__(self) -> Apiary:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "not started" if self._running is None else "started"
        return f"<apiary.Apiary {self.name} on {self.storage}, {state}>"

    def _node(self) -> _apiary.Node:
        node = self._running
        if node is None:
            raise NotStartedError("the node is not started: call start(), or use it in a with block")
        return node

    # SQL

    def sql(
        self,
        query: str,
        parameters: Parameters | None = None,
        *,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> Result | None:
        """Runs one or more statements, separated by semicolons; gives the rows of the last one.

        ``None`` for a statement without rows: CREATE, DROP, INSERT. `parameters` are a sequence for
        ``?`` or a mapping for ``$name``. ``USE`` is remembered by this object. `timeout` is in seconds.

        >>> ap.sql("SELECT ? + $2 AS sum", (1, 2)).scalar()
        3
        >>> ap.sql("SELECT upper($word) AS loud", {"word": "buzz"}).to_pylist()
        [{'loud': 'BUZZ'}]
        """
        return self._execute(query, parameters, timeout, progress)[0]

    def explain(
        self, query: str, parameters: Parameters | None = None, *, analyze: bool = False
    ) -> str:
        """The plan of a query; with `analyze` it is run, and the plan says what every part did.

        >>> "Projection" in ap.explain("SELECT 1 + 1")
        True
        """
        words = "EXPLAIN ANALYZE " if analyze else "EXPLAIN "
        rows = self._rows(words + query, parameters).fetchall()
        return "\n".join(f"{name}:\n{text.rstrip()}" for name, text in rows)

    def _execute(
        self,
        query: str,
        parameters: Parameters | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> tuple[Result | None, dict[str, Any] | None]:
        node = self._node()
        _logging.listen()
        line = self._meter(progress)
        with _saying("SQL error"), contextlib.closing(line) if line else contextlib.nullcontext():
            rows, report = node.sql(query, parameters, timeout, line)
        if rows is None:
            return None, report
        return self._given(rows, line), report

    def _rows(
        self, query: str, parameters: Parameters | None = None, timeout: float | None = None
    ) -> Result:
        result = self.sql(query, parameters, timeout=timeout)
        if result is None:
            raise InterfaceError("the statement has no rows")
        return result

    def _meter(self, progress: bool | None) -> Any:
        return meter(self._progress if progress is None else progress)

    # Names

    def create_hive(self, name: str) -> Hive:
        """Makes a hive (database); one that exists is given as it is."""
        with _saying("Failed to create hive"):
            self._node().create_hive(name)
        return Hive(self, name)

    def hive(self, name: str) -> Hive:
        """A hive that exists."""
        self._node().boxes(name)
        return Hive(self, name)

    def hives(self) -> list[Hive]:
        """All hives, by name."""
        return [Hive(self, name) for name in self.list_hives()]

    def create_box(self, hive: str, name: str) -> Box:
        """Makes a box (schema) in a hive; one that exists is given as it is."""
        with _saying("Failed to create box"):
            self._node().create_box(hive, name)
        return Box(self, hive, name)

    def box(self, hive: str, name: str) -> Box:
        """A box that exists."""
        self._node().frames(hive, name)
        return Box(self, hive, name)

    def create_frame(
        self,
        hive: str,
        box_name: str,
        name: str,
        schema: Any,
        partition_by: str | Sequence[str] | None = None,
    ) -> Frame:
        """Makes a frame (table); one that exists under the name is given as it is.

        `schema` is a dictionary of columns and types (``{"id": "int64", "day": "date"}``), a dictionary
        ``{"fields": [{"name": …, "type": …, "nullable": …}]}``, or a pyarrow schema. Types are ``int8``
        to ``int64``, ``uint8`` to ``uint64``, ``float32``, ``float64``, ``string``, ``bool``, ``date``,
        ``timestamp``, ``timestamptz``, ``binary`` and ``decimal(p,s)``. The values of the columns of
        `partition_by` become directories.
        """
        columns = given(schema)
        parts = [partition_by] if isinstance(partition_by, str) else list(partition_by or ())
        try:
            self._node().create_frame((hive, box_name, name), columns, parts)
        except NotStartedError:
            raise
        except (InvalidInputError, NotSupportedError) as error:
            _prefix(error, "Invalid schema")
            raise
        return Frame(self, hive, box_name, name)

    def frame(self, hive: str, box_name: str, name: str) -> Frame:
        """A frame that exists."""
        self._node().frame_schema((hive, box_name, name))
        return Frame(self, hive, box_name, name)

    def attach_frame(self, hive: str, box_name: str, name: str, location: str) -> Frame:
        """Makes a frame of a Delta table that lies in the storage already, at `location` below its
        root. Its data is never purged.
        """
        self._node().attach_frame((hive, box_name, name), location)
        return Frame(self, hive, box_name, name)

    def drop_hive(self, name: str, *, cascade: bool = False, purge: bool = False) -> bool:
        """Drops a hive; says whether it was there. Refused while it has frames, unless `cascade`. With
        `purge` the data is deleted, too.
        """
        return self._node().drop_hive(name, cascade, purge)

    def drop_box(
        self, hive: str, name: str, *, cascade: bool = False, purge: bool = False
    ) -> bool:
        """Drops a box; says whether it was there. See `drop_hive`."""
        return self._node().drop_box(hive, name, cascade, purge)

    def drop_frame(self, hive: str, box_name: str, name: str, *, purge: bool = False) -> bool:
        """Drops a frame; says whether it was there. With `purge` its data is deleted, too."""
        return self._node().drop_frame((hive, box_name, name), purge)

    def list_hives(self) -> list[str]:
        """The names of all hives, in order."""
        return sorted(self._node().hives())

    def list_boxes(self, hive: str) -> list[str]:
        """The names of a hive's boxes, in order."""
        return sorted(self._node().boxes(hive))

    def list_frames(self, hive: str, box_name: str) -> list[str]:
        """The names of a box's frames, in order."""
        return sorted(self._node().frames(hive, box_name))

    def get_frame(self, hive: str, box_name: str, name: str) -> dict[str, Any]:
        """Facts about a frame: ``schema`` as it was given, ``partition_by``, ``max_partitions``,
        ``created_at`` (RFC 3339), ``cell_count``, ``row_count``, ``total_bytes``, ``version``, ``id``,
        ``location``, ``attached``.
        """
        return described(json.loads(self._node().frame_info((hive, box_name, name))))

    create_database = create_hive
    create_schema = create_box
    create_table = create_frame
    list_databases = list_hives
    list_schemas = list_boxes
    list_tables = list_frames
    get_table = get_frame

    # Rows

    def write_to_frame(
        self, hive: str, box_name: str, frame_name: str, data: Any
    ) -> dict[str, Any]:
        """Appends rows in one commit; see `Frame.write`. Gives ``version``, ``cells_written``,
        ``rows_written``, ``bytes_written``, ``duration_ms``, ``temperature`` and ``warnings``.
        """
        return self._write((hive, box_name, frame_name), data, False)

    def overwrite_frame(
        self, hive: str, box_name: str, frame_name: str, data: Any
    ) -> dict[str, Any]:
        """Replaces all rows of a frame, in one commit. See `write_to_frame`."""
        return self._write((hive, box_name, frame_name), data, True)

    def read_from_frame(
        self,
        hive: str,
        box_name: str,
        frame_name: str,
        partition_filter: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> Result | None:
        """The rows of a frame, of those partitions whose columns have these values; ``None`` for a
        frame without cells. `timeout` is in seconds.
        """
        return self._read((hive, box_name, frame_name), partition_filter, None, timeout)

    write_to_table = write_to_frame
    overwrite_table = overwrite_frame
    read_from_table = read_from_frame

    def _write(
        self,
        place: _Place,
        rows: Any,
        overwrite: bool,
        backpressure: Backpressure | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> dict[str, Any]:
        node = self._node()
        _logging.listen()
        rows, are_files = readable(rows)
        line = self._meter(progress)
        write = node.write_files if are_files else node.write
        with contextlib.closing(line) if line else contextlib.nullcontext():
            return write(place, rows, overwrite, backpressure, timeout, line)

    def _read(
        self,
        place: _Place,
        filter: Mapping[str, Any] | None,
        columns: Sequence[str] | None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> Result | None:
        node = self._node()
        _logging.listen()
        values = [(name, _text(value)) for name, value in (filter or {}).items()]
        line = self._meter(progress)
        wanted = None if columns is None else list(columns)
        with contextlib.closing(line) if line else contextlib.nullcontext():
            rows = node.read(place, wanted, values, timeout, line)
        return None if rows is None else self._given(rows, line)

    def _given(self, rows: _apiary.Rows, line: Any) -> Result:
        result = Result(rows, self, line)
        self._results.add(result)
        return result

    # The colony

    def status(self) -> dict[str, Any]:
        """Facts about this node."""
        return _colony.status(self._facts(), str(self.storage))

    def bee_status(self) -> list[dict[str, Any]]:
        """What each bee does, and how much of its memory it uses, in bytes."""
        return _colony.bees(self._facts())

    def swarm_status(self) -> dict[str, Any]:
        """This node and the others on the storage, as it sees them. A node that was just met counts as
        suspect until its heartbeat was seen to change.
        """
        return _colony.swarm(self._facts(), json.loads(self._node().swarm()))

    def colony_status(self) -> dict[str, Any]:
        """How busy this node is: ``temperature`` from 0 to 1, what follows from it (``regulation``: cold,
        ideal, warm, hot, critical), the ``setpoint``, and the number of ``abandoned_tasks``.
        """
        return _colony.colony(self._facts())

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self._node().status())
        return facts


_started: weakref.WeakSet[Apiary] = weakref.WeakSet()


@atexit.register
def _end() -> None:
    """At the end of the interpreter: nodes stop, and before it is gone, whoever waits for one is back."""
    for apiary in list(_started):
        # Not through its finalizer: those are done with by now.
        if apiary._running is not None:
            _stop_at_once(apiary._running, apiary._results)
    _apiary.wait_for_calls(_END_SECONDS)


def _stop_at_once(node: _apiary.Node, results: weakref.WeakSet[Result]) -> None:
    # In a fork nothing of it is ours; at the end nobody listens to how it went.
    for result in list(results):
        with contextlib.suppress(ApiaryError):
            result.close()
    with contextlib.suppress(ApiaryError):
        node.shutdown(True)


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    """Puts what failed in front of an error's message."""
    try:
        yield
    except NotStartedError:
        raise
    except ApiaryError as error:
        _prefix(error, what)
        raise


def _prefix(error: ApiaryError, what: str) -> None:
    text = str(error)
    if what not in text:
        error.args = (f"{what}: {text}",)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)
