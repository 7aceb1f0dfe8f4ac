"""Starts another S3 server with objects, moves them to osproxy as the guide says, and compares both.

    migration.py SETUP COPY SWITCH

The arguments are the blocks of docs/guides/s3-migration.md.
"""

import logging
import os
import subprocess
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from moto.server import ThreadedMotoServer

setup, copy, switch = sys.argv[1:]
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
host, port = server.get_host_and_port()
old_endpoint = f"http://{host}:{port}"
keys = {"aws_access_key_id": "old-key", "aws_secret_access_key": "old-secret"}
old = boto3.client("s3", endpoint_url=old_endpoint, **keys)
new = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
large = os.urandom(12_000_000)


def put(key, body, **options):
    old.put_object(Bucket="photos", Key=key, Body=body, **options)


def run(block):
    script = setup.replace("http://minio.example.org:9000", old_endpoint) + block
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, stdin=subprocess.DEVNULL)


def objects(client):
    """What clients see of each object."""
    found = {}
    for bucket in client.list_buckets()["Buckets"]:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
            for item in page.get("Contents", []):
                got = client.get_object(Bucket=bucket["Name"], Key=item["Key"])
                metadata = {name: value for name, value in got["Metadata"].items() if name not in ("mtime", "btime")}
                attributes = got["ContentType"], got.get("CacheControl"), metadata
                found[bucket["Name"], item["Key"]] = got["Body"].read(), attributes
    return found


for bucket in ("photos", "logs"):
    old.create_bucket(Bucket=bucket)
for number in range(30):
    put(f"2026/{number}.txt", f"content {number}", ContentType="text/plain")
put("with space+%2F/🎞.txt", b"x", Metadata={"color": "blue"}, ContentType="image/png", CacheControl="max-age=60")
put("empty", b"")
parts = TransferConfig(multipart_threshold=6_000_000, multipart_chunksize=6_000_000)
with open("large.bin", "wb") as file:
    file.write(large)
old.upload_file("large.bin", "logs", "large.bin", Config=parts)

def compare():
    copied, expected = objects(new), objects(old)
    for key in copied.keys() | expected.keys():
        assert copied.get(key) == expected.get(key), f"{key}: {copied.get(key)} instead of {expected.get(key)}"


run(copy)
compare()
# Clients go on.
put("2026/1.txt", b"replaced", ContentType="text/plain")
put("new", b"new")
old.delete_object(Bucket="photos", Key="2026/2.txt")
run(switch)
compare()
server.stop()
