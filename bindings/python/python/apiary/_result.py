"""The rows of a statement."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _apiary
from ._progress import Meter
from ._schema import of_arrow
from .exceptions import InterfaceError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_SHOWN_ROWS = 10
_SHOWN_WIDTH = 32

Row = tuple[Any, ...]


class _NoLengthError(InterfaceError, TypeError):
    """Whoever wants a length only to be faster takes a `TypeError` for none, and goes on."""


class Result(_apiary.Rows):
    """The rows of a statement: a stream while the query runs, a table for whoever asks for all of it.

    It has the Arrow C stream interface, so ``pyarrow.table(result)``, ``polars.DataFrame(result)``,
    ``duckdb.sql("FROM result")`` and ``frame.write(result)`` read it without a copy. It is also the
    bytes of an Arrow IPC stream to whoever takes bytes, as ``pyarrow.ipc.open_stream(result)`` does.

    Iterating gives record batches while the query runs; batches that were taken are gone. Whatever
    needs all rows (``len``, ``repr``, ``to_…``) keeps them, and then they can be read again and again.
    Once it is iterated over, its length is no longer known.

    >>> result = ap.sql("SELECT value AS n FROM generate_series(1, 3) ORDER BY 1")
    >>> result.to_pylist()
    [{'n': 1}, {'n': 2}, {'n': 3}]
    >>> len(result)
    3
    >>> result.fetchone()
    (1,)
    """

    _meter: Meter | None = None
    _waiting: list[Row]
    _is_iterated: bool = False
    _owner: object

    def __new__(
        cls, rows: _apiary.Rows, owner: object = None, meter: Meter | None = None
    ) -> Result:
        result: Result = super().__new__(cls, rows)  # type: ignore[assignment]
        # The node stays while there are rows to come.
        result._owner = owner
        result._meter = meter
        result._waiting = []
        return result

    def _done(self) -> None:
        if self._meter is not None:
            self._meter.close()

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns; known before any row is."""
        return of_arrow(self)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return list(self.schema.names)

    def collect(self) -> Result:
        """Waits for all rows and keeps them; gives the result itself."""
        try:
            self.make_whole()
        finally:
            self._done()
        return self

    def batches(self) -> Iterator[pyarrow.RecordBatch]:
        """Record batches, while the query runs. When all rows are kept, all of them, each time."""
        import pyarrow

        if self.is_whole:
            yield from map(pyarrow.record_batch, self.all_batches())
            return
        try:
            while (batch := self.next_batch()) is not None:
                yield pyarrow.record_batch(batch)
        finally:
            self._done()

    def __iter__(self) -> Iterator[pyarrow.RecordBatch]:
        self._is_iterated = True
        return self.batches()

    def __len__(self) -> int:
        # `list` asks for it behind `__iter__`, to have the room; to answer would be to keep all rows.
        if self._is_iterated and not self.is_whole:
            raise _NoLengthError(
                "the rows of this result were taken as a stream, so that nobody knows their number; ask "
                "for it first"
            )
        return super().__len__()

    def to_arrow(self) -> pyarrow.Table:
        """All rows as a pyarrow table."""
        import pyarrow

        return pyarrow.table(self.collect())

    def to_reader(self) -> pyarrow.RecordBatchReader:
        """The rows as a reader, while the query runs."""
        import pyarrow

        return pyarrow.RecordBatchReader.from_stream(self)

    def to_pandas(self, **options: Any) -> pandas.DataFrame:
        """All rows as a pandas data frame; `options` are those of ``pyarrow.Table.to_pandas``."""
        frame: pandas.DataFrame = self.to_arrow().to_pandas(**options)
        return frame

    def to_polars(self) -> polars.DataFrame:
        """All rows as a Polars data frame."""
        import polars

        return polars.DataFrame(self.collect())

    def to_pylist(self) -> list[dict[str, Any]]:
        """All rows as dictionaries."""
        rows: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return rows

    def to_pydict(self) -> dict[str, list[Any]]:
        """All rows as a dictionary of columns."""
        columns: dict[str, list[Any]] = self.to_arrow().to_pydict()
        return columns

    def fetchone(self) -> Row | None:
        """The next row as a tuple; ``None`` behind the last one."""
        return self._waiting.pop() if self._fill() else None

    def fetchmany(self, size: int = 1) -> list[Row]:
        """The next rows, at most `size`."""
        rows: list[Row] = []
        while len(rows) < size and self._fill():
            rows.append(self._waiting.pop())
        return rows

    def fetchall(self) -> list[Row]:
        """All rows that were not fetched yet."""
        rows: list[Row] = []
        while self._fill():
            rows.extend(reversed(self._waiting))
            self._waiting.clear()
        return rows

    def _fill(self) -> bool:
        """Whether a row waits; takes the next batch when none does. Rows wait with the first one last."""
        import pyarrow

        while not self._waiting:
            batch = self.next_batch()
            if batch is None:
                self._done()
                return False
            columns = [column.to_pylist() for column in pyarrow.record_batch(batch).columns]
            self._waiting.extend(zip(*columns, strict=True))
            self._waiting.reverse()
        return True

    def scalar(self) -> Any:
        """The only value of a result of one row and one column.

        >>> ap.sql("SELECT 6 * 7").scalar()
        42
        """
        table = self.to_arrow()
        if table.num_rows != 1 or table.num_columns != 1:
            raise InterfaceError(
                f"the result has {table.num_rows} rows and {table.num_columns} columns, "
                "and a scalar is one of each"
            )
        return table.column(0)[0].as_py()

    def __enter__(self) -> Result:
        return self

    def __exit__(self, *_: object) -> None:
        self._done()
        self.close()

    def __bool__(self) -> bool:
        # An answer is one, also without rows; and asking takes no row.
        return True

    def _head(self) -> tuple[list[str], list[list[str]], int]:
        """Names, the first rows as texts, and how many there are."""
        table = self.to_arrow()
        names = list(table.schema.names)
        head = table.slice(0, _SHOWN_ROWS)
        columns = [column.to_pylist() for column in head.columns]
        texts = [[_text(value) for value in row] for row in zip(*columns, strict=True)]
        return names, texts, table.num_rows

    def __repr__(self) -> str:
        try:
            names, rows, count = self._head()
        except InterfaceError:
            return "<apiary.Result whose rows were taken>"
        widths = [
            max(len(name), *(len(row[index]) for row in rows)) if rows else len(name)
            for index, name in enumerate(names)
        ]

        def line(cells: list[str]) -> str:
            return "  ".join(
                cell.ljust(width) for cell, width in zip(cells, widths, strict=True)
            ).rstrip()

        lines = [line(names), line(["-" * width for width in widths]), *map(line, rows)]
        return "\n".join([*lines, _count(len(rows), count)])

    def _repr_html_(self) -> str:
        try:
            names, rows, count = self._head()
        except InterfaceError:
            return "<i>the rows of this result were taken</i>"
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p>{_count(len(rows), count)}</p>"
        )


def _text(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= _SHOWN_WIDTH else text[: _SHOWN_WIDTH - 1] + "…"


def _count(shown: int, count: int) -> str:
    rows = "1 row" if count == 1 else f"{count:,} rows"
    return f"({rows})" if shown == count else f"({rows}, the first {shown} shown)"
