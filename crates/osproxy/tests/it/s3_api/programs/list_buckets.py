"""Lists buckets with boto3: client.py ENDPOINT ACCESS_KEY_ID SECRET_ACCESS_KEY OPTIONS"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, key, secret, options = sys.argv[1:]
config = Config(retries={"max_attempts": 1}, **json.loads(options))
client = boto3.client(
    "s3",
    endpoint_url=endpoint,
    aws_access_key_id=key,
    aws_secret_access_key=secret,
    region_name="us-east-1",
    config=config,
)
try:
    listed = client.list_buckets()
    print(json.dumps({"buckets": [one["Name"] for one in listed["Buckets"]], "owner": listed["Owner"]["ID"]}))
except ClientError as error:
    response = error.response
    print(json.dumps({"error": response["Error"]["Code"], "status": response["ResponseMetadata"]["HTTPStatusCode"]}))
