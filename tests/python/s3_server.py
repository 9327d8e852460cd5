"""An S3 server on a free loopback port with one empty bucket; prints its address, ends with its input.

s3_server.py BUCKET
"""

import logging
import sys
import threading

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.server import ThreadedMotoServer

# It looks whether an object is there and then writes it: two creates at once may both be told that
# theirs is the first, unless one waits for the other.
writing = threading.Lock()
answer = DomainDispatcherApplication.__call__


def answer_in_turn(application, environ, start_response):
    if environ["REQUEST_METHOD"] != "PUT":
        return answer(application, environ, start_response)
    with writing:
        return answer(application, environ, start_response)


DomainDispatcherApplication.__call__ = answer_in_turn
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
server.stop()
