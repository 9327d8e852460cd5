"""A small server of our own that speaks the part of Google Cloud Storage's XML API which Apiary uses.

gcs_server.py BUCKET [--careless]

Serves one empty bucket on a free loopback port, prints its address, and ends with its input; then it
prints what it was asked for, as JSON: each kind of request with how often it was answered how.

Written from the public reference of the XML API, because none of the emulators that can be installed
as a package takes an upload through it. As there, `x-goog-if-generation-match: 0` creates, writes of
one key come at most once a second, listings come in pages, and all parts of an upload but the last
have at least 5 MiB. With --careless it ignores the condition of a write, which no meadow may.
"""

import collections
import email.utils
import hashlib
import http.server
import itertools
import json
import re
import sys
import threading
import time
import urllib.parse
from xml.sax.saxutils import escape

BUCKET = sys.argv[1]
IS_CARELESS = "--careless" in sys.argv[2:]
PAGE_KEYS = 7
PART_BYTES_MIN = 5 << 20
KEY_PAUSE_SECONDS = 1.0

Stored = collections.namedtuple("Stored", "body generation modified")

lock = threading.Lock()
objects = {}
uploads = {}
generations = itertools.count(1_700_000_000_000_000)
answered = collections.Counter()


def etag(body):
    return f'"{hashlib.md5(body).hexdigest()}"'


def rfc3339(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


class Refusal(Exception):
    def __init__(self, status, code):
        self.status, self.code = status, code


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, kind, status, body=b"", headers=None):
        with lock:
            answered[f"{kind} {status}"] += 1
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        bucket, _, key = url.path[1:].partition("/")
        key = urllib.parse.unquote(key)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.kind(key, query)
        try:
            if urllib.parse.unquote(bucket) != BUCKET:
                raise Refusal(404, "NoSuchBucket")
            self.answer(kind, *getattr(self, kind)(key, query, body))
        except Refusal as refusal:
            text = f"<?xml version='1.0'?><Error><Code>{refusal.code}</Code></Error>"
            self.answer(kind, refusal.status, text.encode())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def kind(self, key, query):
        verb = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "start", "DELETE": "delete"}
        if not key:
            return "list" if self.command == "GET" else "unknown"
        if "uploadId" in query:
            return {"PUT": "part", "POST": "complete", "DELETE": "abort"}.get(self.command, "unknown")
        return verb[self.command]

    def unknown(self, _key, _query, _body):
        raise Refusal(501, "NotImplemented")

    def store(self, key, body):
        """With the lock held."""
        found, now = objects.get(key), time.time()
        condition = self.headers.get("x-goog-if-generation-match")
        if condition is not None and not IS_CARELESS:
            if int(condition) != (found.generation if found else 0):
                raise Refusal(412, "PreconditionFailed")
        if found and now - found.modified < KEY_PAUSE_SECONDS and not IS_CARELESS:
            raise Refusal(429, "SlowDown")
        objects[key] = Stored(body, next(generations), now)
        return {"etag": etag(body), "x-goog-generation": str(objects[key].generation)}

    def write(self, key, _query, body):
        with lock:
            return 200, b"", self.store(key, body)

    def read(self, key, query, _body):
        with lock:
            found = objects.get(key)
        if found is None:
            raise Refusal(404, "NoSuchKey")
        size = len(found.body)
        headers = {
            "etag": etag(found.body),
            "last-modified": email.utils.formatdate(found.modified, usegmt=True),
            "x-goog-generation": str(found.generation),
        }
        expected = self.headers.get("if-match")
        if expected is not None and expected != headers["etag"]:
            raise Refusal(412, "PreconditionFailed")
        if self.command == "HEAD":
            return 200, b"", headers | {"content-length": str(size)}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range") or "")
        if wanted is None:
            return 200, found.body, headers
        first, last = wanted.groups()
        if first:
            start, end = int(first), min(int(last or size), size - 1)
        else:
            start, end = max(size - int(last), 0), size - 1
        if start > end:
            raise Refusal(416, "InvalidRange")
        headers["content-range"] = f"bytes {start}-{end}/{size}"
        return 206, found.body[start : end + 1], headers

    def delete(self, key, _query, _body):
        with lock:
            if objects.pop(key, None) is None:
                raise Refusal(404, "NoSuchKey")
        return 204, b""

    def list(self, _key, query, _body):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = query.get("continuation-token") or query.get("start-after") or ""
        with lock:
            found = sorted((key, stored) for key, stored in objects.items() if key.startswith(prefix))
        entries, seen = [], set()
        for key, stored in found:
            rest = key[len(prefix) :]
            name = key
            if delimiter and delimiter in rest:
                name = prefix + rest[: rest.index(delimiter) + len(delimiter)]
            if name > after and name not in seen:
                seen.add(name)
                entries.append((name, None if name != key else stored))
        page, more = entries[:PAGE_KEYS], len(entries) > PAGE_KEYS
        text = ["<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>"]
        for name, stored in page:
            if stored is None:
                text.append(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>")
                continue
            text.append(
                f"<Contents><Key>{escape(name)}</Key><Generation>{stored.generation}</Generation>"
                f"<LastModified>{rfc3339(stored.modified)}</LastModified>"
                f"<ETag>{escape(etag(stored.body))}</ETag><Size>{len(stored.body)}</Size></Contents>"
            )
        if more:
            text.append(f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>")
        text.append(f"<IsTruncated>{str(more).lower()}</IsTruncated></ListBucketResult>")
        return 200, "".join(text).encode()

    def start(self, key, query, _body):
        if "uploads" not in query:
            raise Refusal(501, "NotImplemented")
        with lock:
            upload = f"upload-{next(generations)}"
            uploads[upload] = (key, {})
        text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        return 200, text.encode()

    def parts(self, key, query):
        """With the lock held."""
        started, parts = uploads.get(query["uploadId"], (None, None))
        if started != key:
            raise Refusal(404, "NoSuchUpload")
        return parts

    def part(self, key, query, body):
        with lock:
            self.parts(key, query)[int(query["partNumber"])] = body
        return 200, b"", {"etag": etag(body)}

    def complete(self, key, query, body):
        named = re.findall(r"<Part>(.*?)</Part>", body.decode(), re.S)
        with lock:
            parts, whole = self.parts(key, query), []
            for index, text in enumerate(named):
                number = int(re.search(r"<PartNumber>(\d+)</PartNumber>", text).group(1))
                expected = re.search(r"<ETag>(.*?)</ETag>", text).group(1)
                part = parts.get(number)
                if part is None or etag(part) != expected.replace("&quot;", '"'):
                    raise Refusal(400, "InvalidPart")
                if index + 1 < len(named) and len(part) < PART_BYTES_MIN:
                    raise Refusal(400, "EntityTooSmall")
                whole.append(part)
            headers = self.store(key, b"".join(whole))
            del uploads[query["uploadId"]]
        text = f"<CompleteMultipartUploadResult><ETag>{escape(headers['etag'])}</ETag></CompleteMultipartUploadResult>"
        return 200, text.encode(), headers

    def abort(self, key, query, _body):
        with lock:
            self.parts(key, query)
            del uploads[query["uploadId"]]
        return 204, b""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


server = Server(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
sys.stdin.read()
with lock:
    print(json.dumps(dict(answered) | {"objects": sorted(objects), "uploads": len(uploads)}), flush=True)
