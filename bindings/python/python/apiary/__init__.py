"""Apiary: a lakehouse for small computers.

Data lies as open Delta Lake tables in a directory or a bucket; this package writes them and asks them
with SQL. There is no service to set up: the storage is all there is.

>>> import apiary
>>> with apiary.Apiary("farm", "memory://tour") as farm:
...     hens = farm.create_hive("farm").create_box("east").create_frame("hens", {"name": "string", "eggs": "int64"})
...     _ = hens.write([{"name": "Berta", "eggs": 5}, {"name": "Frieda", "eggs": 7}])
...     farm.sql("SELECT name FROM farm.east.hens WHERE eggs > ?", (5,)).fetchall()
[('Frieda',)]
"""

from . import exceptions
from ._apiary import __version__
from ._names import Box, Frame, Hive
from ._node import Apiary
from ._result import Result
from .dbapi import apilevel, connect, paramstyle, threadsafety
from .exceptions import *  # noqa: F403
from .exceptions import __all__ as _exceptions

__all__ = [
    "Apiary",
    "Box",
    "Frame",
    "Hive",
    "Result",
    "__version__",
    "apilevel",
    "connect",
    "exceptions",
    "paramstyle",
    "threadsafety",
    *_exceptions,
]
