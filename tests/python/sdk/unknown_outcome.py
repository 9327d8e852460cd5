"""A write whose commit the storage has and does not tell of. `unknown_outcome.py STORAGE`

Says what it has done and waits for a line before it goes on: the storage fails in between.
"""

import sys

import apiary

with apiary.Apiary("unknown", sys.argv[1], storage_deadline_ms=3000) as node:
    frame = node.create_hive("h").create_box("b").create_frame("f", {"n": "int64"})
    print("made", flush=True)
    sys.stdin.readline()
    try:
        frame.write({"n": [1, 2, 3]})
    except apiary.OutcomeUnknownError as error:
        assert isinstance(error, apiary.OperationalError)
        assert "00000000000000000001.json" in str(error), error
    else:
        sys.exit("it was acknowledged")
    print("unknown", flush=True)
    sys.stdin.readline()
    print(len(frame), "rows", flush=True)
