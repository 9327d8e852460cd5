"""Hives, boxes and frames as objects: names and a handle, without a state of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ._result import Result
from ._schema import of_arrow

if TYPE_CHECKING:
    import pyarrow

    from ._node import Apiary

Backpressure = Literal["block", "error", "ignore"]
"""What a write does while the node is hot: wait up to 30 seconds, fail, or go on."""


class Hive:
    """A hive (database)."""

    def __init__(self, apiary: Apiary, name: str) -> None:
        self._apiary = apiary
        self.name = name

    def create_box(self, name: str) -> Box:
        """Makes a box; one that exists is given as it is."""
        return self._apiary.create_box(self.name, name)

    def box(self, name: str) -> Box:
        """A box that exists."""
        return self._apiary.box(self.name, name)

    def boxes(self) -> list[Box]:
        """All boxes, by name."""
        names = self._apiary.list_boxes(self.name)
        return [Box(self._apiary, self.name, name) for name in names]

    def drop(self, *, cascade: bool = False, purge: bool = False) -> bool:
        """Drops it; says whether it was there. See `Apiary.drop_hive`."""
        return self._apiary.drop_hive(self.name, cascade=cascade, purge=purge)

    create_schema = create_box

    def __repr__(self) -> str:
        return f"<apiary.Hive {self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hive) and self._apiary is other._apiary and self.name == other.name

    def __hash__(self) -> int:
        return hash((id(self._apiary), self.name))


class Box:
    """A box (schema) of a hive."""

    def __init__(self, apiary: Apiary, hive: str, name: str) -> None:
        self._apiary = apiary
        self.hive = hive
        self.name = name

    def create_frame(
        self,
        name: str,
        schema: Any,
        partition_by: str | Sequence[str] | None = None,
    ) -> Frame:
        """Makes a frame; one that exists is given as it is. See `Apiary.create_frame`."""
        return self._apiary.create_frame(self.hive, self.name, name, schema, partition_by)

    def attach_frame(self, name: str, location: str) -> Frame:
        """Makes a frame of a Delta table that lies in the storage already, at `location` below its
        root.
        """
        return self._apiary.attach_frame(self.hive, self.name, name, location)

    def frame(self, name: str) -> Frame:
        """A frame that exists."""
        return self._apiary.frame(self.hive, self.name, name)

    def frames(self) -> list[Frame]:
        """All frames, by name."""
        names = self._apiary.list_frames(self.hive, self.name)
        return [Frame(self._apiary, self.hive, self.name, name) for name in names]

    def drop(self, *, cascade: bool = False, purge: bool = False) -> bool:
        """Drops it; says whether it was there. See `Apiary.drop_hive`."""
        return self._apiary.drop_box(self.hive, self.name, cascade=cascade, purge=purge)

    create_table = create_frame

    def __repr__(self) -> str:
        return f"<apiary.Box {self.hive}.{self.name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Box) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, str, str]:
        return id(self._apiary), self.hive, self.name


class Frame:
    """A frame (table): a Delta Lake table. Every call sees the newest version.

    >>> frame = ap.create_hive("farm").create_box("east").create_frame("hens", {"name": "string"})
    >>> frame.write({"name": ["Berta", "Frieda"]})["rows_written"]
    2
    >>> frame.read().to_pylist()
    [{'name': 'Berta'}, {'name': 'Frieda'}]
    """

    def __init__(self, apiary: Apiary, hive: str, box: str, name: str) -> None:
        self._apiary = apiary
        self.hive = hive
        self.box = box
        self.name = name

    @property
    def full_name(self) -> str:
        """``hive.box.frame``, quoted as SQL wants it."""
        parts = (self.hive, self.box, self.name)
        return ".".join('"' + part.replace('"', '""') + '"' for part in parts)

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns."""
        return of_arrow(self._apiary._node().frame_schema(self._place()))

    def info(self) -> dict[str, Any]:
        """Facts about the newest version; see `Apiary.get_frame`."""
        return self._apiary.get_frame(self.hive, self.box, self.name)

    @property
    def version(self) -> int:
        """The newest version; 0 when it was made."""
        version: int = self.info()["version"]
        return version

    def __len__(self) -> int:
        count: int | None = self.info()["row_count"]
        if count is not None:
            return count
        number: int = self._apiary._rows(f"SELECT count(*) FROM {self.full_name}").scalar()
        return number

    def __bool__(self) -> bool:
        # An object, not a container: an empty frame is a frame.
        return True

    def write(
        self,
        rows: Any,
        *,
        backpressure: Backpressure | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> dict[str, Any]:
        """Appends rows in one commit; says what was done.

        `rows` is anything with the Arrow C stream or array interface (pyarrow, Polars, pandas, DuckDB,
        a `Result`), an iterable of such, a list of dictionaries, a dictionary of columns, Arrow IPC
        bytes, or the path of a Parquet, CSV, JSON-lines or Arrow file (or a list of paths). Columns go
        by name and are fitted to the frame's. `timeout` is in seconds.
        """
        return self._write(rows, False, backpressure, timeout, progress)

    def overwrite(
        self,
        rows: Any,
        *,
        backpressure: Backpressure | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> dict[str, Any]:
        """Replaces all rows, in one commit. See `write`."""
        return self._write(rows, True, backpressure, timeout, progress)

    def read(
        self,
        filter: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        *,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> Result:
        """The rows: those whose columns have the values of `filter`, and of those the `columns`.
        `timeout` is in seconds.
        """
        result = self._apiary._read(self._place(), filter, columns, timeout, progress)
        if result is not None:
            return result
        names = "*" if columns is None else ", ".join(map(_quoted, columns))
        nothing = f"SELECT {names} FROM {self.full_name} WHERE false"
        return self._apiary._rows(nothing, timeout=timeout)

    def drop(self, *, purge: bool = False) -> bool:
        """Drops it; says whether it was there. With `purge` its data is deleted too."""
        return self._apiary.drop_frame(self.hive, self.box, self.name, purge=purge)

    def _place(self) -> tuple[str, str, str]:
        return self.hive, self.box, self.name

    def _write(
        self,
        rows: Any,
        overwrite: bool,
        backpressure: Backpressure | None,
        timeout: float | None,
        progress: bool | None,
    ) -> dict[str, Any]:
        return self._apiary._write(
            self._place(), rows, overwrite, backpressure, timeout, progress
        )

    def __repr__(self) -> str:
        return f"<apiary.Frame {self.hive}.{self.box}.{self.name}>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Frame)
            and self._apiary is other._apiary
            and self._place() == other._place()
        )

    def __hash__(self) -> int:
        return hash((id(self._apiary), self._place()))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def readable(rows: Any) -> tuple[Any, bool]:
    """What the node can read of what a user gave, and whether it is a list of files."""
    if isinstance(rows, (str, os.PathLike)):
        return [rows], True
    if isinstance(rows, (bytearray, memoryview)):
        return bytes(rows), False
    if isinstance(rows, Mapping):
        import pyarrow

        return pyarrow.table(dict(rows)), False
    if isinstance(rows, (list, tuple)) and rows:
        if all(isinstance(item, (str, os.PathLike)) for item in rows):
            return list(rows), True
        if all(isinstance(item, Mapping) for item in rows):
            import pyarrow

            # The keys of all rows: pyarrow would go by those of the first.
            names = dict.fromkeys(name for row in rows for name in row)
            return pyarrow.table({name: [row.get(name) for row in rows] for name in names}), False
    return rows, False
