"""What the node logs goes to Python's `logging`, under the logger ``apiary``.

A thread takes records out of a queue, so that no thread of a node ever waits for Python.
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading

from . import _apiary

LOGGER = logging.getLogger("apiary")
# A library does not print: who wants to see it, configures `logging`.
LOGGER.addHandler(logging.NullHandler())

_thread: threading.Thread | None = None
_starting = threading.Lock()


def listen() -> None:
    """Follows the level of the logger; starts the thread at the first call."""
    global _thread
    _apiary.set_log_level(max(1, min(LOGGER.getEffectiveLevel(), 255)))
    with _starting:
        # A fork copies no thread.
        if _thread is not None and _thread.is_alive():
            return
        _thread = threading.Thread(target=_pass_on, name="apiary-logging", daemon=True)
        _thread.start()


def _pass_on() -> None:
    while (record := _apiary.next_record()) is not None:
        level, target, text = record
        # Handlers deal with their own errors (`Handler.handleError`); a filter that raises must not
        # end the thread.
        try:
            _logger(target).log(level, "%s", text)
        except Exception:
            sys.excepthook(*sys.exc_info())


def _logger(target: str) -> logging.Logger:
    """``apiary_engine.sql`` is ``apiary.engine.sql``; other crates are below ``apiary.crates``."""
    if target == "apiary" or target.startswith("apiary."):
        return logging.getLogger(target)
    if target.startswith("apiary_"):
        return logging.getLogger("apiary." + target.removeprefix("apiary_"))
    return logging.getLogger("apiary.crates." + target)


def _close() -> None:
    """At exit: the thread must not meet an interpreter that is gone."""
    _apiary.close_log()
    if _thread is not None and _thread.is_alive():
        _thread.join(timeout=5)


atexit.register(_close)
