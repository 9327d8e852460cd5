"""A session at the prompt of `apiary-node shell`, on a pseudo-terminal.

    shell_session.py NODE_BINARY STORAGE HISTORY_FILE

Fails when an answer does not come, or when an interrupt that came while nothing ran cancels the
statement after it.
"""

import os
import pty
import re
import signal
import sys

binary, storage, history = sys.argv[1:]
DEADLINE = 120

environment = {"PATH": os.environ["PATH"], "HOME": os.path.dirname(history), "TERM": "xterm"}
child, terminal = pty.fork()
if child == 0:
    os.execve(binary, [binary, "shell", "--storage", storage, "--history", history], environment)

# A session that hangs fails instead.
signal.alarm(DEADLINE)
seen = ""


def expect(pattern):
    """Reads until the pattern comes; what came before it is forgotten."""
    global seen
    while not (found := re.search(pattern, seen)):
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            piece = b""
        if not piece:
            sys.exit(f"the shell ended without {pattern!r}; last: {seen!r}")
        seen += piece.decode(errors="replace")
    seen = seen[found.end() :]


def ready():
    """Waits for the prompt to take input: what is typed before is lost."""
    expect(r"\x1b\[\?2004h")


def send(text):
    ready()
    os.write(terminal, text.encode())


def is_pending(number):
    with open(f"/proc/{child}/status") as status:
        masks = dict(line.split(":") for line in status if line.startswith(("SigPnd", "ShdPnd")))
    return any(int(mask, 16) & 1 << number - 1 for mask in masks.values())


send("SELECT 40 +\r")
ready()
expect(r"default\.default- ")
os.write(terminal, b"2 AS answer;\r")
expect(r"\| 42 ")
send("CREATE TABLE kept (i BIGINT);\r")

# An interrupt while nothing runs; the round trip after it says that it was taken.
ready()
os.kill(child, signal.SIGINT)
while is_pending(signal.SIGINT):
    pass
os.write(terminal, b"\\timing\r")
expect("timing is on")
send("SELECT 6 * 7 + 1 AS next;\r")
expect(r"\| 43 ")

# One that comes while a statement runs cancels it, and the shell stays. A bar says that it runs.
ENDLESS = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS i FROM n"
for statement in (ENDLESS, "CREATE TABLE made AS " + ENDLESS, "INSERT INTO kept " + ENDLESS):
    send(statement + ";\r")
    expect(r"\ds ")
    os.kill(child, signal.SIGINT)
    expect("cancelled")
send("SELECT 43 + 1 AS after;\r")
expect(r"\| 44 ")
send("\\q\r")
_, status = os.waitpid(child, 0)
if os.waitstatus_to_exitcode(status) != 0:
    sys.exit(f"the shell ended with {status}")
