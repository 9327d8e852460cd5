"""The DB-API 2.0 (PEP 249) over a node.

Every statement is a transaction of its own and is committed when it returns, so ``commit`` has
nothing to do and ``rollback`` is refused. Placeholders are ``?`` with a sequence, or ``$name`` with a
mapping.

>>> import apiary
>>> connection = apiary.connect("memory://dbapi")
>>> cursor = connection.cursor()
>>> _ = cursor.execute("CREATE TABLE hens (name VARCHAR, eggs INT)")
>>> _ = cursor.executemany("INSERT INTO hens VALUES (?, ?)", [("Berta", 5), ("Frieda", 7)])
>>> cursor.rowcount
2
>>> cursor.execute("SELECT name FROM hens WHERE eggs > ?", (5,)).fetchall()
[('Frieda',)]
>>> connection.close()
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from ._node import Apiary
from ._result import Result, Row
from .exceptions import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,
)

apilevel = "2.0"
threadsafety = 2
"""Threads may share the module and connections, and not cursors."""
paramstyle = "qmark"

Parameters = Sequence[Any] | Mapping[str, Any]

Date = datetime.date
Time = datetime.time
Timestamp = datetime.datetime
Binary = bytes


def DateFromTicks(ticks: float) -> datetime.date:
    """The local date of so many seconds since 1970."""
    return Date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> datetime.time:
    """The local time of day of so many seconds since 1970."""
    return Time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> datetime.datetime:
    """The local time of so many seconds since 1970."""
    return Timestamp(*time.localtime(ticks)[:6])


class _Kind:
    """Equal to the type names of a kind, as ``description`` has them."""

    def __init__(self, *prefixes: str) -> None:
        self._prefixes = prefixes

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Kind):
            return self._prefixes == other._prefixes
        return isinstance(other, str) and other.startswith(self._prefixes)

    def __hash__(self) -> int:
        return hash(self._prefixes)


STRING = _Kind("string", "large_string", "string_view")
BINARY = _Kind("binary", "large_binary", "binary_view", "fixed_size_binary")
NUMBER = _Kind("int", "uint", "float", "double", "halffloat", "decimal", "bool")
DATETIME = _Kind("date", "time", "duration")
ROWID = _Kind("row id")


def connect(storage: str | None = None, name: str = "apiary", **settings: Any) -> Connection:
    """Starts a node on storage, as `Apiary` takes both, and gives a connection that owns it."""
    apiary = Apiary(name, storage, **settings)
    apiary.start()
    return Connection(apiary)


class Connection:
    """A connection (PEP 249). Closing it stops its node."""

    Warning = Warning
    Error = Error
    InterfaceError = InterfaceError
    DatabaseError = DatabaseError
    DataError = DataError
    OperationalError = OperationalError
    IntegrityError = IntegrityError
    InternalError = InternalError
    ProgrammingError = ProgrammingError
    NotSupportedError = NotSupportedError

    def __init__(self, apiary: Apiary) -> None:
        self._apiary: Apiary | None = apiary

    @property
    def apiary(self) -> Apiary:
        """The node behind it."""
        if self._apiary is None:
            raise InterfaceError("the connection is closed")
        return self._apiary

    def cursor(self) -> Cursor:
        """A cursor of its own position."""
        _ = self.apiary
        return Cursor(self)

    def execute(self, operation: str, parameters: Parameters | None = None) -> Cursor:
        """Runs a statement in a new cursor."""
        return self.cursor().execute(operation, parameters)

    def commit(self) -> None:
        """Does nothing: every statement is committed when it returns."""
        _ = self.apiary

    def rollback(self) -> None:
        """Refused: what was written is committed."""
        _ = self.apiary
        raise NotSupportedError("every statement is committed when it returns: nothing to roll back")

    def close(self) -> None:
        """Stops the node. A second call is an error, as PEP 249 has it."""
        apiary = self.apiary
        self._apiary = None
        apiary.shutdown()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._apiary is not None:
            self.close()


Description = tuple[str, str, None, None, int | None, int | None, bool | None]


class Cursor:
    """A cursor (PEP 249): one statement and the position in its rows."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arraysize = 1
        self.rowcount = -1
        self.rownumber: int | None = None
        self.description: list[Description] | None = None
        self.lastrowid = None
        self._result: Result | None = None
        self._is_closed = False

    def execute(self, operation: str, parameters: Parameters | None = None) -> Cursor:
        """Runs a statement; the cursor is its own result, so ``fetch…`` may follow in one line."""
        apiary = self._open()
        self._forget()
        result, report = apiary._execute(operation, parameters)
        self._result = result
        if report is not None:
            self.rowcount = report["rows_written"]
        if result is not None:
            self.rownumber = 0
            self.description = [_described(field) for field in result.schema]
        return self

    def executemany(self, operation: str, seq_of_parameters: Sequence[Parameters]) -> Cursor:
        """Runs a statement once for each of several parameters, each in a commit of its own."""
        apiary = self._open()
        self._forget()
        written = 0
        for parameters in seq_of_parameters:
            result, report = apiary._execute(operation, parameters)
            if result is not None:
                result.close()
                raise ProgrammingError("executemany is for statements without rows")
            written += 0 if report is None else report["rows_written"]
        self.rowcount = written
        return self

    def fetchone(self) -> Row | None:
        """The next row; ``None`` behind the last one."""
        row = self._rows().fetchone()
        self._advance(0 if row is None else 1)
        return row

    def fetchmany(self, size: int | None = None) -> list[Row]:
        """The next rows, at most `size` or ``arraysize``."""
        rows = self._rows().fetchmany(self.arraysize if size is None else size)
        self._advance(len(rows))
        return rows

    def fetchall(self) -> list[Row]:
        """The rows that are left."""
        rows = self._rows().fetchall()
        self._advance(len(rows))
        return rows

    def __iter__(self) -> Iterator[Row]:
        while (row := self.fetchone()) is not None:
            yield row

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Does nothing: values have no sizes here."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Does nothing: values have no sizes here."""

    def close(self) -> None:
        """Forgets the rows; a running query is cancelled."""
        self._forget()
        self._is_closed = True

    def __enter__(self) -> Cursor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> Apiary:
        if self._is_closed:
            raise InterfaceError("the cursor is closed")
        return self.connection.apiary

    def _forget(self) -> None:
        if self._result is not None:
            self._result.close()
        self._result = None
        self.description = None
        self.rowcount = -1
        self.rownumber = None

    def _rows(self) -> Result:
        self._open()
        if self._result is None:
            raise ProgrammingError("there are no rows: execute a statement that has some first")
        return self._result

    def _advance(self, count: int) -> None:
        self.rownumber = (self.rownumber or 0) + count


def _described(field: Any) -> Description:
    precision = getattr(field.type, "precision", None)
    scale = getattr(field.type, "scale", None)
    return field.name, str(field.type), None, None, precision, scale, field.nullable
