"""Sends the same random operations to osproxy and to moto, and compares the answers field by field.

    differential.py SEED OPERATIONS PEER_ENDPOINT

The environment has the endpoint and the key of osproxy. Where moto differs from AWS, `PEER_DIFFERS` has the reason.
"""

import datetime
import os
import random
import sys
import uuid

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.response import StreamingBody

MIB = 1 << 20
KEYS = ["a", "a/", "a/b", "a/b/c", "a/b d", "a+b", "a%2Fb", "a//b", "b", "ü/🎞", "z/1", "z/2", "z/3"]
# Keys of multipart uploads. osproxy keeps their ETag in a copy, and moto does not, so these are not copied.
MULTIPART_KEYS = ["a/multipart", "z/multipart"]
PREFIXES = ["", "a", "a/", "a/b", "z/", "ü", "none"]
DELIMITERS = ["", "/", "b", "/b"]
RANGES = ["bytes=0-0", "bytes=1-4", "bytes=3-", "bytes=-5", "bytes=0-999999", "bytes=100000000-", "bytes=0-"]
SUMS = ["CRC32", "SHA1", "SHA256"]
MISSING_ETAG = '"00000000000000000000000000000000"'
# What differs between any two servers, such as ids, times and names of hosts, and what boto3 adds.
VOLATILE = {"RequestId", "HostId", "Owner", "Initiator", "Location", "HTTPHeaders", "RetryAttempts", "MaxAttemptsReached",
            "ContinuationToken"}
TOKENS = {"UploadId", "NextContinuationToken"}
# Fields that osproxy lacks.
NOT_THERE = {"ChecksumAlgorithm", "ChecksumType"}


def always(options, ours, peers):
    return True


def fails(options, ours, peers):
    return peers.get("status") == 500


def has_more_tags(options, ours, peers):
    count = [answer.get("TagCount") or len(answer.get("TagSet", [])) for answer in (ours, peers)]
    return count[0] < count[1]


# Operations, fields (all of them if it is empty), condition, and in what moto differs from AWS.
PEER_DIFFERS = [
    ("list_objects", {"Marker"}, always, "it does not repeat the marker"),
    ("list_objects", {"Prefix"}, always, "it does not encode the prefix"),
    ("list_objects", {"NextMarker"}, always, "its marker is not a key"),
    ("list_objects", {"CommonPrefixes", "Contents", "IsTruncated"}, lambda options, *_: options.get("Delimiter") and (options.get("Marker") or options.get("MaxKeys")),
     "marker and limit have no effect on prefixes"),
    ("list_objects", {"CommonPrefixes"}, lambda options, *_: options.get("EncodingType") or options.get("Delimiter") == "b",
     "it encodes no prefix, also not +"),
    ("list_objects_v2", {"CommonPrefixes", "KeyCount"}, lambda options, *_: options.get("StartAfter"),
     "a prefix of keys before and after StartAfter is left out"),
    ("list_objects list_objects_v2", {"CommonPrefixes", "IsTruncated"}, lambda options, *_: options.get("MaxKeys") == 0,
     "MaxKeys has no effect on prefixes"),
    ("list_objects_v2", {"StartAfter"}, always, "it does not encode the key"),
    ("delete_objects", {"Deleted"}, lambda options, *_: options["Delete"]["Quiet"], "it ignores Quiet"),
    ("list_parts", {"NextPartNumberMarker"}, lambda _, ours, __: not ours.get("IsTruncated"), "there is no next part"),
    ("list_multipart_uploads", {"Prefix"}, always, "it leaves out an empty prefix"),
    ("get_object", set(), lambda options, ours, _: ours.get("error") == "InvalidRange" and "=-" in options["Range"],
     "the last bytes of an empty object are no valid range"),
    ("get_object head_object get_object_tagging", {"TagCount", "TagSet"}, has_more_tags,
     "it keeps tags of an object that was replaced"),
    ("complete_multipart_upload", {"VersionId"}, always, "objects without versions have no VersionId"),
    ("get_object", {f"Checksum{name}" for name in SUMS}, lambda options, *_: options.get("Range"),
     "it sends the checksum of the whole object with a range"),
    ("complete_multipart_upload", {"error"}, lambda _, ours, peers: "InvalidPartOrder" in ours.values(),
     "it compares sizes before the order"),
    ("complete_multipart_upload", set(), fails, "it fails if the upload does not exist"),
    ("delete_object_tagging", set(), fails, "it fails if the object does not exist"),
]


class Server:
    """One of the two servers, with what it alone knows: ids of uploads and tokens of listings."""

    def __init__(self, endpoint, key, secret):
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def call(self, name, **options):
        try:
            return clean(getattr(self.client, name)(**options))
        except ClientError as error:
            answer = error.response
            status = answer["ResponseMetadata"]["HTTPStatusCode"]
            return {"error": answer["Error"]["Code"], "status": status}


def clean(value):
    """Removes what differs between servers, and reads bodies."""
    if isinstance(value, dict):
        if "CopyObjectResult" in value:
            # osproxy keeps the checksum of the source without repeating it here.
            copied = value["CopyObjectResult"]
            value = {**value, "CopyObjectResult": {name: copied[name] for name in ("ETag", "LastModified")}}
        kept = {name: field for name, field in value.items() if name not in VOLATILE | NOT_THERE}
        return {name: "a token" if name in TOKENS else clean(field) for name, field in kept.items()}
    if isinstance(value, list) and value and set(value[0]) == {"Key", "Value"}:
        # Tags have no order.
        return sorted(value, key=lambda tag: tag["Key"])
    if isinstance(value, list):
        return [clean(field) for field in value]
    if isinstance(value, StreamingBody):
        return value.read()
    if isinstance(value, datetime.datetime):
        return "a time"
    return value


class Session:
    def __init__(self, seed, servers):
        self.random, self.servers = random.Random(seed), servers
        self.bucket = f"differential-{uuid.uuid4().hex[:12]}"
        # ETags of objects that are or were there.
        self.etags = []
        self.count = 0

    def both(self, name, **options):
        """Calls an operation on both servers. Values that are functions are called with the server."""
        answers = []
        for server in self.servers:
            given = {key: value(server) if callable(value) else value for key, value in options.items()}
            answers.append(server.call(name, **{key: value for key, value in given.items() if value is not None}))
        self.compare(name, options, *answers)
        return answers[0]

    def compare(self, name, options, ours, peers):
        ours, peers = allow(name, options, ours, peers)
        if ours != peers:
            shown = {key: short(value) for key, value in options.items()}
            fields = [
                f"    {field}: {short(ours.get(field))} but the peer {short(peers.get(field))}"
                for field in sorted(ours.keys() | peers.keys())
                if ours.get(field) != peers.get(field)
            ]
            raise SystemExit("\n".join([f"operation {self.count}, {name} {shown}:", *fields]))

    def key(self):
        return self.random.choice(KEYS + MULTIPART_KEYS)

    def body(self):
        size = self.random.choice([0, 1, 10, 1000, 70_000, 300_000])
        return self.random.randbytes(size)

    def maybe(self, share, value):
        return value() if self.random.random() < share else None

    def some_etag(self):
        return self.random.choice([*self.etags[-5:], MISSING_ETAG])

    def attributes(self):
        choose = self.random.choice
        return {
            "Metadata": self.maybe(0.4, lambda: {"color": choose(["red", "blue"]), "with-dash": "1 2"}),
            "ContentType": self.maybe(0.4, lambda: choose(["text/plain", "image/png"])),
            "CacheControl": self.maybe(0.2, lambda: "max-age=60"),
            "ContentDisposition": self.maybe(0.2, lambda: 'attachment; filename="a b"'),
            "ContentEncoding": self.maybe(0.1, lambda: "gzip"),
            "ContentLanguage": self.maybe(0.1, lambda: "de"),
            "Tagging": self.maybe(0.2, lambda: "kind=test&empty="),
        }

    def put(self):
        conditions = {
            "IfNoneMatch": self.maybe(0.1, lambda: "*"),
            "IfMatch": None,
        }
        if conditions["IfNoneMatch"] is None:
            conditions["IfMatch"] = self.maybe(0.1, self.some_etag)
        sums = {"ChecksumAlgorithm": self.maybe(0.3, lambda: self.random.choice(SUMS))}
        options = {**self.attributes(), **conditions, **sums}
        answer = self.both("put_object", Bucket=self.bucket, Key=self.key(), Body=self.body(), **options)
        self.etags += [answer["ETag"]] if "ETag" in answer else []

    def reading(self):
        return {
            "IfMatch": self.maybe(0.15, self.some_etag),
            "IfNoneMatch": self.maybe(0.15, self.some_etag),
            "Range": self.maybe(0.3, lambda: self.random.choice(RANGES)),
        }

    def get(self):
        overrides = {"ResponseContentType": self.maybe(0.1, lambda: "text/html")}
        options = {**self.reading(), **overrides, "ChecksumMode": self.maybe(0.3, lambda: "ENABLED")}
        self.both("get_object", Bucket=self.bucket, Key=self.key(), **options)

    def head(self):
        options = {**self.reading(), "Range": None}
        self.both("head_object", Bucket=self.bucket, Key=self.key(), **options)

    def copy(self):
        replace = self.random.random() < 0.5
        options = {"MetadataDirective": "REPLACE", **self.attributes(), "Tagging": None} if replace else {}
        source, key = self.random.choice(KEYS), self.key()
        if source != key:
            # moto adds the tags of the source to those of the object that is replaced.
            self.both("delete_object", Bucket=self.bucket, Key=key)
        # Without conditions, which moto ignores.
        source = {"Bucket": self.bucket, "Key": source}
        self.both("copy_object", Bucket=self.bucket, Key=key, CopySource=source, **options)

    def delete(self):
        self.both("delete_object", Bucket=self.bucket, Key=self.key())

    def delete_some(self):
        keys = self.random.sample(KEYS, self.random.randint(1, 3))
        delete = {"Objects": [{"Key": key} for key in keys], "Quiet": self.random.random() < 0.5}
        self.both("delete_objects", Bucket=self.bucket, Delete=delete)

    def listing(self):
        return {
            "Bucket": self.bucket,
            "Prefix": self.random.choice(PREFIXES),
            "Delimiter": self.maybe(0.6, lambda: self.random.choice(DELIMITERS)),
            "MaxKeys": self.maybe(0.5, lambda: self.random.choice([1, 2, 5, 1000, 0])),
            "EncodingType": self.maybe(0.2, lambda: "url"),
        }

    def list_v1(self):
        self.both("list_objects", **self.listing(), Marker=self.maybe(0.3, self.key))

    def list_v2(self):
        start = self.maybe(0.3, self.key)
        self.both("list_objects_v2", **self.listing(), StartAfter=start, FetchOwner=False)

    def list_all(self):
        """Reads all pages of a listing, each with the token of its server."""
        options = {**self.listing(), "MaxKeys": self.random.randint(1, 4)}
        for server in self.servers:
            server.pages = []
            paginator = server.client.get_paginator("list_objects_v2")
            given = {key: value for key, value in options.items() if value is not None and key != "MaxKeys"}
            for page in paginator.paginate(**given, PaginationConfig={"PageSize": options["MaxKeys"]}):
                server.pages.append(clean(page))
        ours, peers = ({"pages": server.pages} for server in self.servers)
        if options["Delimiter"]:
            # moto lists prefixes after keys.
            ours, peers = ({
                name: sorted(str(item) for page in answer["pages"] for item in page.get(name, []))
                for name in ("Contents", "CommonPrefixes")
            } for answer in (ours, peers))
        self.compare("list_all", options, ours, peers)

    def tags(self):
        choice = self.random.random()
        if choice < 0.4:
            tags = [{"Key": name, "Value": "x y"} for name in self.random.sample(["a", "b", "c"], 2)]
            self.both("put_object_tagging", Bucket=self.bucket, Key=self.key(), Tagging={"TagSet": tags})
        elif choice < 0.8:
            self.both("get_object_tagging", Bucket=self.bucket, Key=self.key())
        else:
            self.both("delete_object_tagging", Bucket=self.bucket, Key=self.key())

    def multipart(self):
        """An upload in parts, which is completed rightly, wrongly or not at all."""
        key, ids = self.random.choice(MULTIPART_KEYS), {}
        options = {name: value for name, value in self.attributes().items() if value is not None}
        for server in self.servers:
            ids[server] = server.client.create_multipart_upload(Bucket=self.bucket, Key=key, **options)["UploadId"]
        known = {"Bucket": self.bucket, "Key": key, "UploadId": ids.get}
        sizes = [5 * MIB] * self.random.randint(0, 1) + [self.random.choice([1, 1000, 300_000])]
        parts = []
        for number, size in enumerate(sizes, 1):
            body = self.random.randbytes(size)
            answer = self.both("upload_part", **known, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        if self.random.random() < 0.3:
            answer = self.both("upload_part", **known, PartNumber=1, Body=self.random.randbytes(sizes[0]))
            parts[0] = {"PartNumber": 1, "ETag": answer["ETag"]}
        self.both("list_parts", **known, MaxParts=self.maybe(0.5, lambda: 1))
        self.both("list_multipart_uploads", Bucket=self.bucket)
        match self.random.randint(0, 9):
            case 0:
                parts.reverse()
            case 1:
                parts[-1] = {**parts[-1], "ETag": MISSING_ETAG}
            case 2:
                self.both("abort_multipart_upload", **known)
            case 3 if len(parts) > 1:
                parts.pop()
        answer = self.both("complete_multipart_upload", **known, MultipartUpload={"Parts": parts})
        if "error" in answer:
            self.both("abort_multipart_upload", **known)
        else:
            self.etags.append(answer["ETag"])
        self.both("list_parts", **known)
        self.both("head_object", Bucket=self.bucket, Key=key)

    def missing(self):
        """Operations on what does not exist."""
        bucket, key = self.random.choice([(self.bucket, "missing"), (f"{self.bucket}-x", "a")])
        name = self.random.choice(["get_object", "head_object", "delete_object", "list_objects_v2", "head_bucket"])
        self.both(name, Bucket=bucket, **({} if "bucket" in name or "list" in name else {"Key": key}))

    def run(self, operations):
        weights = {self.put: 20, self.get: 20, self.head: 8, self.copy: 8, self.delete: 4, self.delete_some: 2,
                   self.list_v1: 8, self.list_v2: 10, self.list_all: 4, self.tags: 6, self.multipart: 4, self.missing: 3}
        self.both("create_bucket", Bucket=self.bucket)
        for self.count in range(operations):
            self.random.choices(list(weights), list(weights.values()))[0]()
        self.both("delete_bucket", Bucket=self.bucket)
        for key in KEYS + MULTIPART_KEYS:
            self.both("delete_object", Bucket=self.bucket, Key=key)
        self.both("delete_bucket", Bucket=self.bucket)


def short(value):
    text = repr(value)
    return text if len(text) < 400 else f"{text[:400]}..."


def allow(name, options, ours, peers):
    """Removes the fields in which the peer is known to differ."""
    ours, peers = dict(ours), dict(peers)
    for names, fields, condition, _ in PEER_DIFFERS:
        if name in names.split() and condition(options, ours, peers):
            for field in fields or ours.keys() | peers.keys():
                ours.pop(field, None)
                peers.pop(field, None)
    return ours, peers


def main():
    seed, operations, peer = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    key = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    servers = [Server(os.environ["S3_ENDPOINT"], *key), Server(peer, "testid", "testsecret")]
    Session(seed, servers).run(operations)
    print(f"{operations} operations with seed {seed}: no difference")


main()
