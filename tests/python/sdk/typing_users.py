"""A program that is right for type checkers, and says what it takes things for."""

import apiary
import pyarrow as pa
from typing_extensions import assert_type


def use() -> None:
    with apiary.Apiary("typed", "memory://typed", bees=1, memory="1GiB", sync=False) as node:
        assert_type(node, apiary.Apiary)
        hive = node.create_hive("h")
        assert_type(hive, apiary.Hive)
        box = hive.create_box("b")
        assert_type(box, apiary.Box)
        frame = box.create_frame("f", {"n": "int64"}, partition_by=["n"])
        assert_type(frame, apiary.Frame)
        report = frame.write([{"n": 1}], backpressure="error", timeout=1.5)
        print(report["rows_written"])
        assert_type(node.list_hives(), list[str])
        assert_type(node.sql("SELECT 1"), apiary.Result | None)
        result = frame.read(filter={"n": 1}, columns=["n"])
        assert_type(len(result), int)
        for batch in result:
            print(batch)
        assert_type(node.explain("SELECT ?", (1,), analyze=True), str)
    try:
        node.sql("SELECT 1")
    except apiary.NotStartedError as error:
        assert_type(error, apiary.NotStartedError)
    except apiary.BusyError as error:
        assert_type(error.retry_after, float)


def use_database() -> None:
    connection = apiary.connect("memory://typed")
    cursor = connection.cursor().execute("SELECT $n", {"n": 1})
    for row in cursor:
        print(row)
    connection.close()


if __name__ == "__main__":
    use()
    use_database()
    print(pa.__name__)
