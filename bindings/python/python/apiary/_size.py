"""Sizes as users write them."""

from __future__ import annotations

from .exceptions import InvalidInputError

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS[_letter] = _UNITS[_letter + "ib"] = 1024**_power
    _UNITS[_letter + "b"] = 1000**_power


def bytes_of(size: int | str) -> int:
    """``"512MiB"`` in bytes."""
    if isinstance(size, int):
        return size
    text = size.strip().lower()
    number = text.rstrip("bikmgt ")
    unit = _UNITS.get(text[len(number) :].strip())
    try:
        if unit is None:
            raise ValueError
        return int(float(number) * unit)
    except ValueError:
        raise InvalidInputError(f"{size!r} is not a size: write 536870912 or '512MiB'") from None
