"""A line on the terminal while something takes long."""

from __future__ import annotations

import os
import sys
import time

_PAUSE = 0.1


class Meter:
    """Called again and again by a wait that takes long; clears its line when it is closed."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._width = 0

    def __call__(self, bytes_done: int, bytes_total: int, rows_done: int) -> None:
        now = time.monotonic()
        if now - self._shown_at < _PAUSE:
            return
        self._shown_at = now
        self._show(_text(now - self._started, bytes_done, bytes_total, rows_done))

    def close(self) -> None:
        """Clears the line."""
        if self._width:
            self._show("")

    def _show(self, text: str) -> None:
        stream = sys.stderr
        stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
        stream.flush()
        self._width = len(text)


def _text(seconds: float, bytes_done: int, bytes_total: int, rows_done: int) -> str:
    parts = [f"{seconds:.0f} s"]
    if bytes_total:
        share = min(bytes_done / bytes_total, 1)
        parts.append(f"{share:.0%} of {bytes_total / (1 << 20):.1f} MiB read")
    if rows_done:
        parts.append(f"{rows_done:,} rows")
    return ", ".join(parts)


def meter(wanted: bool | None) -> Meter | None:
    """One for a call, or none. `wanted` decides; when it is `None`, ``APIARY_PROGRESS`` does, and then
    whether somebody looks at a terminal.
    """
    if wanted is None:
        switch = os.environ.get("APIARY_PROGRESS", "").lower()
        if switch in ("0", "off", "false", "no"):
            return None
        wanted = switch in ("1", "on", "true", "yes") or (
            sys.stderr is not None and sys.stderr.isatty()
        )
    return Meter() if wanted else None
