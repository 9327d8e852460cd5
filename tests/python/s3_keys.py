"""All keys below a prefix of a bucket, without the prefix, one a line.

s3_keys.py ENDPOINT BUCKET PREFIX
"""

import sys

import boto3

endpoint, bucket, prefix = sys.argv[1:]
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
    for found in page.get("Contents", []):
        print(found["Key"].removeprefix(prefix))
