"""An S3 server on a free loopback port with one empty bucket; prints its address, ends with its input.

s3_server.py BUCKET [LATENCY_MS]

Every answer waits so long. In the end it prints as JSON what it was asked: a list of method and path.
"""

import json
import logging
import os
import sys
import threading
import time
from contextlib import nullcontext

import boto3
from moto.moto_server import threaded_moto_server
from moto.server import ThreadedMotoServer

LATENCY_S = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0
requests = []
creating = threading.Lock()


class Handler(threaded_moto_server.MotoRequestHandler):
    def run_wsgi(self):
        requests.append([self.command, self.path])
        if LATENCY_S:
            time.sleep(LATENCY_S)
        # moto looks whether an object is there and then writes it: two at once would both be told that
        # theirs was the first.
        with creating if self.headers.get("If-None-Match") else nullcontext():
            super().run_wsgi()


threaded_moto_server.MotoRequestHandler = Handler
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
client.create_bucket(Bucket=sys.argv[1])
print(endpoint, flush=True)
sys.stdin.read()
print(json.dumps(requests), flush=True)
# Whoever holds a connection open would be waited for.
os._exit(0)
