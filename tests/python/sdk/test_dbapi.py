"""The DB-API 2.0: its reference checks, and what they leave out."""

import tempfile

import apiary
import apiary.dbapi
import dbapi20
import pytest


class TestReference(dbapi20.DatabaseAPI20Test):
    """The checks of PEP 249 that everybody's drivers are given."""

    driver = apiary.dbapi

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.connect_kw_args = {"storage": self.directory.name, "bees": 1, "sync": False}
        super().setUp()

    def tearDown(self):
        super().tearDown()
        self.directory.cleanup()

    def test_nextset(self):
        """Optional, and not there: a statement has one result."""
        connection = self._connect()
        try:
            assert not hasattr(connection.cursor(), "nextset")
        finally:
            connection.close()

    def test_setoutputsize(self):
        """Optional: it does nothing."""
        connection = self._connect()
        try:
            connection.cursor().setoutputsize(1000, 0)
        finally:
            connection.close()


@pytest.fixture
def connection(meadow):
    with apiary.connect(meadow, bees=1, sync=False) as connection:
        yield connection


def test_the_module_says_what_it_is():
    for module in (apiary, apiary.dbapi):
        assert (module.apilevel, module.threadsafety, module.paramstyle) == ("2.0", 2, "qmark")


def test_a_cursor_iterates_and_knows_its_place(connection):
    cursor = connection.execute("SELECT value AS n FROM generate_series(1, 4) ORDER BY 1")
    assert cursor.rownumber == 0
    assert cursor.fetchone() == (1,)
    assert cursor.fetchmany(2) == [(2,), (3,)]
    assert cursor.rownumber == 3
    assert list(cursor) == [(4,)]


def test_a_description_has_names_and_kinds(connection):
    cursor = connection.execute(
        "SELECT 1 AS n, 'x' AS s, X'00' AS b, DATE '2025-05-01' AS d, CAST('1.50' AS DECIMAL(9, 2)) AS m"
    )
    kinds = [column[1] for column in cursor.description]
    d = apiary.dbapi
    assert kinds == [d.NUMBER, d.STRING, d.BINARY, d.DATETIME, d.NUMBER]
    assert kinds[0] != d.STRING
    assert cursor.description[4][4:6] == (9, 2)
    assert [column[0] for column in cursor.description] == ["n", "s", "b", "d", "m"]
    connection.execute("CREATE TABLE t (n INT)")
    cursor.execute("INSERT INTO t VALUES (1), (2)")
    assert (cursor.description, cursor.rowcount) == (None, 2)


def test_what_was_written_cannot_be_rolled_back(connection):
    connection.commit()
    with pytest.raises(apiary.NotSupportedError):
        connection.rollback()


def test_a_closed_cursor_and_a_cursor_without_rows_are_refused(connection):
    cursor = connection.cursor()
    with pytest.raises(apiary.ProgrammingError, match="no rows"):
        cursor.fetchone()
    with pytest.raises(apiary.ProgrammingError, match="without rows"):
        cursor.executemany("SELECT ?", [(1,)])
    cursor.close()
    with pytest.raises(apiary.InterfaceError, match="closed"):
        cursor.execute("SELECT 1")


def test_pandas_reads_through_a_connection(connection):
    import pandas as pd

    with pytest.warns(UserWarning, match="DBAPI2"):
        frame = pd.read_sql("SELECT value AS n FROM generate_series(1, 3) ORDER BY 1", connection)
    assert frame["n"].tolist() == [1, 2, 3]
