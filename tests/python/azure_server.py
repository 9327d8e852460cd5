"""Azurite on a free loopback port with one empty container; prints its address, ends with its input.

azure_server.py AZURITE CONTAINER

At its end it prints what it was asked for, as JSON: each kind of request with how often it was
answered how.
"""

import base64
import collections
import email.utils
import hashlib
import hmac
import json
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

ACCOUNT = "devstoreaccount1"
# The account key that every Azurite has.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def make_container(endpoint, name):
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + signed + resource
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{endpoint}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


azurite, container = sys.argv[1:]
arguments = ["--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
server = subprocess.Popen(
    [azurite, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
)
for line in server.stdout:
    if found := re.search(r"listens on (http://\S+)", line):
        break
else:
    sys.exit("Azurite did not start")

answered = collections.Counter()


def count():
    for line in server.stdout:
        if found := re.search(r'"(\S+) (\S+) HTTP/1.1" (\d+)', line):
            verb, url, status = found.groups()
            query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
            answered[" ".join([verb, query.get("comp", "blob"), status])] += 1


counting = threading.Thread(target=count)
counting.start()
endpoint = f"{found.group(1)}/{ACCOUNT}"
make_container(endpoint, container)
print(endpoint, flush=True)
sys.stdin.read()
server.terminate()
server.wait()
counting.join()
print(json.dumps(answered), flush=True)
