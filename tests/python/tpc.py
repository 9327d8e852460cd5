"""TPC-H and TPC-DS by DuckDB: tables, queries and answers, and whether another engine's are the same.

tpc.py make tpch|tpcds SCALE DIRECTORY     tables/NAME.parquet, queries/NN.sql, answers/NN.parquet
tpc.py compare DIRECTORY OURS              OURS/NN.arrow with the answers; prints {"NN": difference, ...}

Rows are compared one by one. Floats may differ by a billionth. Engines round the quotients of decimals
differently: decimals of different scales may differ by one unit of the coarser one, and a decimal from
a float by a hundred-thousandth. Only rows that tie in the columns of ORDER BY may stand in any order.
"""

import decimal
import glob
import importlib
import json
import os
import re
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

GENERATE = {"tpch": "dbgen", "tpcds": "dsdgen"}


def make(suite, scale, directory):
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    module = importlib.import_module(f"duckdb_extension_{suite}")
    folder = os.path.dirname(module.__file__)
    (extension,) = glob.glob(f"{folder}/**/{suite}.duckdb_extension", recursive=True)
    connection.execute(f"LOAD '{extension}'")
    # As DataFusion has it.
    connection.execute("SET default_null_order = 'nulls_last_on_asc_first_on_desc'")
    connection.execute("SET integer_division = true")
    connection.execute(f"CALL {GENERATE[suite]}(sf = {float(scale)})")
    for part in ("tables", "queries", "answers"):
        os.makedirs(f"{directory}/{part}")
    for (table,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
        connection.execute(f"COPY {table} TO '{directory}/tables/{table}.parquet'")
    queries = connection.execute(f"SELECT query_nr, query FROM {suite}_queries()").fetchall()
    for number, text in queries:
        text = text.strip().rstrip(";")
        with open(f"{directory}/queries/{number:02}.sql", "w") as file:
            file.write(text)
        connection.execute(f"COPY ({text}) TO '{directory}/answers/{number:02}.parquet'")


def unit(value):
    """Of the last digit of a decimal."""
    return 10.0 ** value.as_tuple().exponent if isinstance(value, decimal.Decimal) else 0.0


def is_same(ours, theirs):
    numbers = (int, float, decimal.Decimal)
    if not (isinstance(ours, numbers) and isinstance(theirs, numbers)) or ours == theirs:
        return ours == theirs
    units = (unit(ours), unit(theirs))
    if units[0] == units[1] > 0:
        return False
    relative = 1e-9 if units == (0, 0) else 1e-5
    one, other = float(ours), float(theirs)
    return abs(one - other) <= max(relative * max(abs(one), abs(other)), *units)


def are_same(ours, theirs):
    return len(ours) == len(theirs) and all(map(is_same, ours, theirs))


def order_columns(text, columns):
    """Indexes of the answer's columns that the query orders by; other expressions are left out."""
    _, *orders = re.split(r"\border\s+by\b", text, flags=re.I)
    keys = re.sub(r"limit\s+\d+\s*$", "", orders[-1] if orders else "", flags=re.I)
    # The last one may be of a subquery or a window.
    if not orders or keys.count(")") > keys.count("("):
        return []
    names = [column.lower() for column in columns]
    indexes = []
    for key in keys.split(","):
        word = key.split()[0].split(".")[-1].lower()
        if word.isdigit():
            indexes.append(int(word) - 1)
        elif word in names:
            indexes.append(names.index(word))
    return indexes


def exact_first(row):
    """Two floats that are nearly the same must not decide the order."""
    about = [value for value in row if isinstance(value, (float, decimal.Decimal))]
    exact = [repr(value) for value in row if not isinstance(value, (float, decimal.Decimal))]
    return exact, [f"{float(value):.5e}" for value in about]


def sorted_ties(rows, keys):
    """Rows in an order of their own where `keys` leaves it open."""
    result, tie = [], []
    for row in rows:
        if tie and not are_same([tie[0][key] for key in keys], [row[key] for key in keys]):
            result += sorted(tie, key=exact_first)
            tie = []
        tie.append(row)
    return result + sorted(tie, key=exact_first)


def rows_of(table):
    columns = [column.to_pylist() for column in table.columns]
    return list(zip(*columns)) if table.num_rows else []


def difference(text, ours, theirs):
    if ours.num_columns != theirs.num_columns:
        return f"{ours.num_columns} columns instead of {theirs.num_columns}"
    if ours.num_rows != theirs.num_rows:
        return f"{ours.num_rows} rows instead of {theirs.num_rows}"
    mine, others = rows_of(ours), rows_of(theirs)
    if all(map(are_same, mine, others)):
        return None
    keys = order_columns(text, theirs.column_names)
    pairs = zip(sorted_ties(mine, keys), sorted_ties(others, keys))
    for index, (row, other) in enumerate(pairs):
        if not are_same(row, other):
            return f"row {index}: {row} instead of {other}"
    return None


def compare(directory, ours):
    differences = {}
    for path in sorted(glob.glob(f"{ours}/*.arrow")):
        name = os.path.basename(path).removesuffix(".arrow")
        with open(f"{directory}/queries/{name}.sql") as file:
            text = file.read()
        theirs = pq.read_table(f"{directory}/answers/{name}.parquet")
        found = difference(text, pa.ipc.open_file(path).read_all(), theirs)
        if found:
            differences[name] = found
    print(json.dumps(differences))


{"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
