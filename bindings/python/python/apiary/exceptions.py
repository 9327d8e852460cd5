"""What can go wrong, by what you can do about it.

Every class derives from `ApiaryError`, which is a `RuntimeError`; between them stand the classes of
the DB-API (PEP 249), so that ``except apiary.DatabaseError`` means the same as everywhere. What
caused an error is its ``__cause__``.
"""

from __future__ import annotations


class Warning(Exception):
    """Something that should be known and is no error (PEP 249)."""


class ApiaryError(RuntimeError):
    """Anything that Apiary refuses or fails at."""


Error = ApiaryError
"""The name that PEP 249 has for it."""


class InterfaceError(ApiaryError):
    """An object is used in a way that it is not made for: change the program."""


class NotStartedError(InterfaceError):
    """The node was not started, was shut down, or belongs to the process that was forked."""


class DatabaseError(ApiaryError):
    """Anything about data and storage."""


class ProgrammingError(DatabaseError):
    """The call is wrong: change it."""


class NotFoundError(ProgrammingError):
    """A hive, box, frame, column or file of this name is not there."""


class AlreadyExistsError(ProgrammingError):
    """Something of this name is there already."""


class InvalidInputError(ProgrammingError):
    """Wrong SQL, a wrong name, a wrong schema, or data that does not fit."""


class NotSupportedError(DatabaseError):
    """What Apiary does not do: do it another way."""


class DataError(DatabaseError):
    """Wrong data (PEP 249). Apiary raises `InvalidInputError`."""


class IntegrityError(DatabaseError):
    """Data that contradicts itself (PEP 249)."""


class CorruptError(IntegrityError):
    """What lies in the storage is damaged: restore it."""


class OperationalError(DatabaseError):
    """The call is right and could not be done now."""


class ConflictError(OperationalError):
    """Another commit won, and the two do not go together: read again and repeat."""


class BusyError(OperationalError):
    """Not now: repeat it after `retry_after` seconds."""

    retry_after: float = 1.0


class OutOfMemoryError(OperationalError):
    """The query needs more than its memory budget: give more, or ask for less."""


class StorageError(OperationalError):
    """The storage cannot be reached or does not answer as it should: look there."""


class CancelledError(OperationalError):
    """Somebody took the call back."""


class TimeoutError(OperationalError):
    """It took longer than it was allowed to."""


class OutcomeUnknownError(OperationalError):
    """It may or may not have happened: read before you repeat it."""


class InternalError(DatabaseError):
    """A defect of Apiary: please report it."""


__all__ = [
    "AlreadyExistsError",
    "ApiaryError",
    "BusyError",
    "CancelledError",
    "ConflictError",
    "CorruptError",
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "InvalidInputError",
    "NotFoundError",
    "NotStartedError",
    "NotSupportedError",
    "OperationalError",
    "OutOfMemoryError",
    "OutcomeUnknownError",
    "ProgrammingError",
    "StorageError",
    "TimeoutError",
    "Warning",
]
