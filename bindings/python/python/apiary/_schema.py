"""Schemas as users write them, and as `get_frame` shows them again."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .exceptions import InvalidInputError

if TYPE_CHECKING:
    import pyarrow


def of_arrow(columns: Any) -> pyarrow.Schema:
    """The pyarrow schema of what has the Arrow schema interface."""
    import pyarrow

    schema: pyarrow.Schema = pyarrow.schema(columns)
    return schema


def given(schema: Any) -> Any:
    """What the node takes: (name, type, nullable, as written) of each column, or an Arrow schema."""
    if hasattr(schema, "__arrow_c_schema__"):
        return schema
    if not isinstance(schema, Mapping):
        raise InvalidInputError(
            f"Invalid schema: a {type(schema).__name__} is none; give a dictionary of columns and "
            "types, or a pyarrow schema"
        )
    fields = schema.get("fields")
    if isinstance(fields, (list, tuple)):
        return [_field(field) for field in fields]
    if schema and all(hasattr(kind, "__arrow_c_schema__") for kind in schema.values()):
        import pyarrow

        return pyarrow.schema(list(schema.items()))
    return [_column(name, kind) for name, kind in schema.items()]


def _column(name: Any, kind: Any) -> tuple[str, str, bool, str]:
    if not isinstance(name, str) or not isinstance(kind, str):
        raise InvalidInputError(
            f"Invalid schema: column {name!r} has the type {kind!r}; both are texts, as in "
            '{"id": "int64"}'
        )
    return name, kind, True, json.dumps(kind)


def _field(field: Any) -> tuple[str, str, bool, str]:
    name = field.get("name") if isinstance(field, Mapping) else None
    kind = field.get("type") if isinstance(field, Mapping) else None
    if not isinstance(name, str) or not isinstance(kind, str):
        raise InvalidInputError(
            f"Invalid schema: the field {field!r} has no name and type, as in "
            '{"name": "id", "type": "int64", "nullable": True}'
        )
    return name, kind, bool(field.get("nullable", True)), json.dumps(dict(field))


def described(info: dict[str, Any]) -> dict[str, Any]:
    """Facts about a frame, with its schema as it was given, where it was given in words."""
    columns = info.pop("columns")
    written = [column["declared"] for column in columns]
    schema: dict[str, Any]
    if all(isinstance(column, dict) for column in written):
        schema = {"fields": written}
    else:
        schema = {column["name"]: column["declared"] or column["type"] for column in columns}
    created = info.pop("created_at_ms")
    committed = info.pop("committed_at_ms")
    return {
        "schema": schema,
        **info,
        "created_at": None if created is None else _moment(created),
        "committed_at": _moment(committed),
    }


def _moment(milliseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
