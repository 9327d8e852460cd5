"""The command line: ``python -m apiary``, or ``apiary``. See ``--help``."""

import sys

from . import _apiary


def main() -> int:
    """Runs the command of this process's arguments; gives the exit code."""
    words = [sys.executable, "-m", "apiary"]
    return _apiary.run_command("python -m apiary", words, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
