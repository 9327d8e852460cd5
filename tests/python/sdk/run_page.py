"""Runs the Python of a page of documentation as one program.

run_page.py PAGE.md

``python`` blocks are executed; ``pycon`` blocks are what a prompt shows, and must show the same.
"""

import doctest
import sys
from pathlib import Path

page = Path(sys.argv[1])
names = {"__name__": "page"}
runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
parser = doctest.DocTestParser()


def blocks():
    """(language, number of the first line, text) of each block."""
    language, first, lines = None, 0, []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if language is None and line.startswith("```"):
            language, first, lines = line[3:].strip(), number + 1, []
        elif language is not None and line == "```":
            yield language, first, "\n".join(lines) + "\n"
            language = None
        else:
            lines.append(line)


ran = 0
for language, first, text in blocks():
    if language == "python":
        # Padded, so that a traceback names the page's lines.
        exec(compile("\n" * (first - 1) + text, str(page), "exec"), names)
        ran += 1
    elif language == "pycon":
        example = parser.get_doctest(text, names, page.name, str(page), first - 1)
        runner.run(example, clear_globs=False)
        names = example.globs
        ran += 1
failed, tried = runner.summarize()
if failed or not ran:
    sys.exit(f"{page.name}: {failed} of {tried} examples failed, {ran} blocks were run")
