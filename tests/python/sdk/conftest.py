"""Nodes for tests."""

import time

import apiary
import pytest


@pytest.fixture
def meadow(tmp_path):
    """A directory to be a storage."""
    return str(tmp_path / "meadow")


@pytest.fixture
def ap(meadow):
    """A started node on a directory, without syncs: no test cuts the power."""
    with apiary.Apiary("test", meadow, bees=2, memory="1GiB", sync=False) as node:
        yield node


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One started node for the tests of a module."""
    meadow = str(tmp_path_factory.mktemp("shared"))
    with apiary.Apiary("shared", meadow, bees=2, memory="1GiB", sync=False) as node:
        node.create_hive("h").create_box("b")
        yield node


def until(condition):
    """Waits for what comes from another thread."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
