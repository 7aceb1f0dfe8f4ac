#!/usr/bin/env python3
"""Conformance suite for the S3 API of osproxy.

    suite.py ENDPOINT KEYS_JSON [--groups GROUPS] [--case TEXT] [--known FILE] [--list]

Needs boto3. Prints a line for each failed case and a summary; exits with 1 if a case failed that is not known to fail, or a case passed that is. KEYS_JSON is a file with
{"main": {...}, "read_only": {...}, "limited": {..., "buckets": [...]}, "other_tenant": {...}}, each with
access_key_id and secret_access_key. "main", "read_only" and "limited" belong to one tenant. The expected behaviour is
that of AWS; where osproxy differs on purpose, the case expects its documented error.
"""

import argparse
import base64
import concurrent.futures
import datetime
import hashlib
import hmac
import http.client
import io
import json
import os
import random
import re
import sys
import time
import traceback
import uuid
import zlib
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "us-east-1"
MIB = 1024 * 1024
CASES = []


class Failure(Exception):
    """What AWS answers, and what was found instead."""

    def __init__(self, expected, found):
        super().__init__(f"expected {expected}; found {found}")


def short(value):
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "..."


def equal(found, expected, what=""):
    if found != expected:
        prefix = what + " " if what else ""
        raise Failure(prefix + short(expected), short(found))


def true(condition, expected, found):
    if not condition:
        raise Failure(expected, short(found))


def case(group):
    """Register a case: a function that gets a Tools."""

    def register(function):
        CASES.append((group, function.__name__, lambda tools: function(tools)))
        return function

    return register


def each(group, values):
    """Register a case for each value; a value can be a tuple of arguments."""

    def register(function):
        for value in values:
            arguments = value if isinstance(value, tuple) else (value,)
            label = ",".join(str(argument) if len(str(argument)) < 40 else str(argument)[:40] + "..." for argument in arguments)
            CASES.append((group, f"{function.__name__}[{label!a}]", lambda tools, arguments=arguments: function(tools, *arguments)))
        return function

    return register


def sha256_hex(data):
    return hashlib.sha256(data).hexdigest()


def md5_hex(data):
    return hashlib.md5(data).hexdigest()


def md5_base64(data):
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def pattern(size, seed=1):
    return random.Random(seed).randbytes(size)


def reflected_crc(polynomial, bits):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ polynomial if byte & 1 else byte >> 1
        table.append(byte)
    mask = (1 << bits) - 1

    def crc(data):
        value = mask
        for byte in data:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        return (value ^ mask).to_bytes(bits // 8, "big")

    return crc


CRC32C = reflected_crc(0x82F63B78, 32)
CRC64NVME = reflected_crc(0x9A6C9329AC4BC9B5, 64)
CHECKSUMS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": CRC32C,
    "CRC64NVME": CRC64NVME,
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(algorithm, data):
    return base64.b64encode(CHECKSUMS[algorithm](data)).decode()


def tag(element):
    return element.tag.rsplit("}", 1)[-1]


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def xml(self):
        return ElementTree.fromstring(self.body)

    def texts(self, name):
        return [element.text or "" for element in self.xml().iter() if tag(element) == name]

    @property
    def code(self):
        """Code of the error document."""
        try:
            root = self.xml()
        except ElementTree.ParseError:
            return None
        found = [element.text for element in root if tag(element) == "Code"]
        return found[0] if tag(root) == "Error" and found else None

    def __repr__(self):
        return f"{self.status} {self.code or self.body[:150]}"


class Signer:
    """Signature Version 4 by hand, for requests that boto3 does not send."""

    def __init__(self, key, when=None, region=REGION, service="s3"):
        self.id, self.secret = key["access_key_id"], key["secret_access_key"]
        now = when or datetime.datetime.now(datetime.timezone.utc)
        self.time, self.day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        self.scope = f"{self.day}/{region}/{service}/aws4_request"
        key = ("AWS4" + self.secret).encode()
        for part in (self.day, region, service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        self.key = key

    def sign(self, text):
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def authorize(self, method, path, query, headers, signed=None):
        """Return the Authorization header. `headers` have lower-case names and include x-amz-content-sha256."""
        names = sorted(headers if signed is None else signed)
        parameters = sorted((item if "=" in item else item + "=").split("=", 1) for item in query.split("&") if item)
        canonical = "\n".join(
            [method, path, "&".join("=".join(item) for item in parameters)]
            + [f"{name}:{' '.join(headers[name].split())}" for name in names]
            + ["", ";".join(names), headers["x-amz-content-sha256"]]
        )
        self.signature = self.sign(f"AWS4-HMAC-SHA256\n{self.time}\n{self.scope}\n{sha256_hex(canonical.encode())}")
        return (
            f"AWS4-HMAC-SHA256 Credential={self.id}/{self.scope}, SignedHeaders={';'.join(names)}, "
            f"Signature={self.signature}"
        )

    def chunk(self, data):
        empty = sha256_hex(b"")
        self.signature = self.sign(
            f"AWS4-HMAC-SHA256-PAYLOAD\n{self.time}\n{self.scope}\n{self.signature}\n{empty}\n{sha256_hex(data)}"
        )
        return b"%x;chunk-signature=%s\r\n%s\r\n" % (len(data), self.signature.encode(), data)

    def trailer(self, text):
        self.signature = self.sign(
            f"AWS4-HMAC-SHA256-TRAILER\n{self.time}\n{self.scope}\n{self.signature}\n{sha256_hex(text.encode())}"
        )
        return self.signature


class Tools:
    """What a case gets: clients, fresh buckets, and raw requests. Buckets are removed after the case."""

    def __init__(self, endpoint, keys):
        self.endpoint, self.keys = endpoint, keys
        self.host = urlsplit(endpoint).netloc
        self.buckets = []
        self.clients = {}
        self.s3 = self.client()
        self.plain = self.client(checksums="when_required")

    def client(self, key="main", checksums="when_supported", **options):
        name = (key, checksums, tuple(sorted(options.items())))
        if name not in self.clients:
            self.clients[name] = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=REGION,
                aws_access_key_id=self.keys[key]["access_key_id"],
                aws_secret_access_key=self.keys[key]["secret_access_key"],
                config=Config(
                    signature_version=options.get("signature", "s3v4"),
                    s3={"addressing_style": "path"},
                    retries={"total_max_attempts": 1},
                    read_timeout=30,
                    request_checksum_calculation=checksums,
                    response_checksum_validation=checksums,
                    max_pool_connections=20,
                ),
            )
        return self.clients[name]

    def bucket(self, name=None, key="main"):
        name = name or f"suite-{uuid.uuid4().hex[:20]}"
        self.buckets.append((name, key))
        self.client(key).create_bucket(Bucket=name)
        return name

    def name(self):
        """Name of a bucket that the case may create itself."""
        name = f"suite-{uuid.uuid4().hex[:20]}"
        self.buckets.append((name, "main"))
        return name

    def put(self, bucket, *keys, body=b"data"):
        for key in keys:
            self.plain.put_object(Bucket=bucket, Key=key, Body=body)

    def read(self, bucket, key, **options):
        return self.s3.get_object(Bucket=bucket, Key=key, **options)["Body"].read()

    def clean(self):
        for bucket, key in self.buckets:
            s3 = self.client(key)
            try:
                for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                    s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            except ClientError:
                pass
            try:
                for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                    for item in page.get("Contents", []):
                        try:
                            s3.delete_object(Bucket=bucket, Key=item["Key"])
                        except ClientError:
                            pass
                s3.delete_bucket(Bucket=bucket)
            except ClientError:
                pass
        self.buckets = []

    def send(self, method, target, headers=None, body=b""):
        """Send a request as it is; `body` may be None to send no Content-Length."""
        parts = urlsplit(self.endpoint)
        connection = (http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection)(
            parts.netloc, timeout=60
        )
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            headers = {name.lower(): value for name, value in (headers or {}).items()}
            headers.setdefault("host", self.host)
            if body is not None and "content-length" not in headers and "transfer-encoding" not in headers:
                headers["content-length"] = str(len(body))
            for name, value in headers.items():
                connection.putheader(name, value.encode() if isinstance(value, str) else value)
            connection.endheaders()
            try:
                if body:
                    connection.send(body)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = connection.getresponse()
            data = answer.read()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
        finally:
            connection.close()

    def raw(self, method, path, query="", headers=None, body=b"", key="main", when=None, region=REGION, service="s3",
            payload=None, change=None):
        """Sign and send a request. `path` and `query` are sent as they are; `change` edits the signed headers."""
        signer = Signer(self.keys[key] if isinstance(key, str) else key, when, region, service)
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        headers["host"] = self.host
        headers["x-amz-date"] = signer.time
        headers["x-amz-content-sha256"] = payload or sha256_hex(body)
        headers["authorization"] = signer.authorize(method, path, query, headers)
        if change:
            change(headers)
        return self.send(method, path + ("?" + query if query else ""), headers, body)

    def chunked(self, bucket, key, chunks, trailer=None, signed=True, headers=None, corrupt=None, decoded=None):
        """PutObject with aws-chunked. `trailer` is (name, value); `corrupt` edits the encoded body."""
        path = f"/{bucket}/{quote(key)}"
        payload = "STREAMING-" + ("AWS4-HMAC-SHA256-PAYLOAD" if signed else "UNSIGNED-PAYLOAD")
        signer = Signer(self.keys["main"])
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        headers.update({
            "host": self.host,
            "x-amz-date": signer.time,
            "x-amz-content-sha256": payload + ("-TRAILER" if trailer else ""),
            "content-encoding": headers.get("content-encoding", "aws-chunked"),
            "x-amz-decoded-content-length": str(sum(map(len, chunks)) if decoded is None else decoded),
        })
        if trailer:
            headers["x-amz-trailer"] = trailer[0]
        headers["authorization"] = signer.authorize("PUT", path, "", headers)
        body = b""
        for data in chunks:
            body += signer.chunk(data) if signed else b"%x\r\n%s\r\n" % (len(data), data)
        if signed:
            last = signer.chunk(b"")
            body += last[:-2] if trailer else last
        else:
            body += b"0\r\n"
        if trailer:
            body += f"{trailer[0]}:{trailer[1]}\r\n".encode()
            if signed:
                body += f"x-amz-trailer-signature:{signer.trailer(f'{trailer[0]}:{trailer[1]}' + chr(10))}\r\n".encode()
            body += b"\r\n"
        elif not signed:
            body += b"\r\n"
        if corrupt:
            body = corrupt(body)
        return self.send("PUT", path, headers, body)


def refused(call, *codes, status=None):
    """Expect an error with one of the codes from boto3. HEAD has no code, so give its status as a text."""
    expected = " or ".join(codes) + (f" with {status}" if status else "")
    try:
        answer = call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        found = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code not in codes or (status and found != status):
            raise Failure(expected, f"{found} {code}: {error.response['Error'].get('Message')}") from None
        return error.response
    if isinstance(answer, dict):
        answer = {name: value for name, value in answer.items() if name != "ResponseMetadata"}
    raise Failure(expected, f"success: {short(answer)}")


def answers(response, status, *codes):
    """Expect the status, and one of the codes if there are any, from a raw request."""
    if response.status != status or (codes and response.code not in codes):
        raise Failure(f"{status} {' or '.join(codes)}".strip(), repr(response))
    return response


def keys_of(page):
    return [item["Key"] for item in page.get("Contents", [])]


def prefixes_of(page):
    return [item["Prefix"] for item in page.get("CommonPrefixes", [])]


# --- buckets ---


@case("buckets")
def bucket_appears_in_list(t):
    bucket = t.bucket()
    found = {item["Name"]: item for item in t.s3.list_buckets()["Buckets"]}
    true(bucket in found, f"{bucket} in ListBuckets", sorted(found)[:5])
    age = datetime.datetime.now(datetime.timezone.utc) - found[bucket]["CreationDate"]
    true(abs(age.total_seconds()) < 300, "a recent CreationDate", age)


@case("buckets")
def list_buckets_has_owner(t):
    true(t.s3.list_buckets().get("Owner", {}).get("ID"), "an Owner with an ID", "none")


@case("buckets")
def list_buckets_is_sorted(t):
    for _ in range(3):
        t.bucket()
    names = [item["Name"] for item in t.s3.list_buckets()["Buckets"]]
    equal(names, sorted(names))


@case("buckets")
def list_buckets_with_prefix(t):
    bucket = t.bucket()
    equal([item["Name"] for item in t.s3.list_buckets(Prefix=bucket)["Buckets"]], [bucket])


@case("buckets")
def list_buckets_in_pages(t):
    prefix = f"suite-{uuid.uuid4().hex[:12]}"
    names = [t.bucket(f"{prefix}-{index}") for index in range(5)]
    pages = list(t.s3.get_paginator("list_buckets").paginate(Prefix=prefix, PaginationConfig={"PageSize": 2}))
    equal([item["Name"] for page in pages for item in page["Buckets"]], names)
    equal(len(pages), 3, "pages")


@case("buckets")
def head_bucket(t):
    bucket = t.bucket()
    answer = t.s3.head_bucket(Bucket=bucket)["ResponseMetadata"]
    equal(answer["HTTPStatusCode"], 200)
    true("x-amz-bucket-region" in answer["HTTPHeaders"], "x-amz-bucket-region", answer["HTTPHeaders"])


@case("buckets")
def head_missing_bucket(t):
    refused(lambda: t.s3.head_bucket(Bucket="suite-missing-bucket"), "404", status=404)


@case("buckets")
def create_answers_location(t):
    equal(t.s3.create_bucket(Bucket=(name := t.name()))["Location"], "/" + name)


@case("buckets")
def create_again_in_us_east_1(t):
    # AWS answers 200 in us-east-1 and 409 elsewhere.
    bucket = t.bucket()
    t.put(bucket, "key")
    try:
        t.s3.create_bucket(Bucket=bucket)
    except ClientError as error:
        equal(error.response["Error"]["Code"], "BucketAlreadyOwnedByYou")
    equal(t.read(bucket, "key"), b"data")


@case("buckets")
def create_bucket_of_other_tenant(t):
    bucket = t.bucket()
    other = t.client("other_tenant")
    refused(lambda: other.create_bucket(Bucket=bucket), "BucketAlreadyExists", status=409)


@case("buckets")
def create_with_location(t):
    t.s3.create_bucket(Bucket=t.name(), CreateBucketConfiguration={"LocationConstraint": "us-east-1"})


@case("buckets")
def create_with_malformed_xml(t):
    answers(t.raw("PUT", "/" + t.name(), body=b"<CreateBucketConfiguration><"), 400, "MalformedXML")


@case("buckets")
def create_with_object_lock(t):
    refused(lambda: t.s3.create_bucket(Bucket=t.name(), ObjectLockEnabledForBucket=True), "NotImplemented", status=501)


@case("buckets")
def delete_bucket(t):
    bucket = t.bucket()
    equal(t.s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(lambda: t.s3.head_bucket(Bucket=bucket), "404")
    true(bucket not in [item["Name"] for item in t.s3.list_buckets()["Buckets"]], "no deleted bucket in list", bucket)


@case("buckets")
def delete_bucket_with_objects(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.delete_bucket(Bucket=bucket), "BucketNotEmpty", status=409)
    equal(t.read(bucket, "key"), b"data")


@case("buckets")
def delete_bucket_after_its_objects(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    t.s3.delete_object(Bucket=bucket, Key="key")
    t.s3.delete_bucket(Bucket=bucket)


@case("buckets")
def delete_missing_bucket(t):
    refused(lambda: t.s3.delete_bucket(Bucket="suite-missing-bucket"), "NoSuchBucket", status=404)


@case("buckets")
def delete_bucket_with_upload(t):
    # AWS deletes a bucket that has only unfinished uploads.
    bucket = t.bucket()
    t.s3.create_multipart_upload(Bucket=bucket, Key="key")
    t.s3.delete_bucket(Bucket=bucket)
    t.s3.create_bucket(Bucket=bucket)
    equal(t.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []), [])


@case("buckets")
def create_after_delete_is_empty(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    t.s3.delete_object(Bucket=bucket, Key="key")
    t.s3.delete_bucket(Bucket=bucket)
    t.s3.create_bucket(Bucket=bucket)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("buckets")
def bucket_location(t):
    true(
        t.s3.get_bucket_location(Bucket=t.bucket()).get("LocationConstraint") in (None, "us-east-1"),
        "no LocationConstraint or us-east-1", "another",
    )


@case("buckets")
def bucket_location_of_missing(t):
    refused(lambda: t.s3.get_bucket_location(Bucket="suite-missing-bucket"), "NoSuchBucket", status=404)


@case("buckets")
def path_with_slash_at_end(t):
    answers(t.raw("GET", f"/{t.bucket()}/", "list-type=2"), 200)


@each("buckets", [
    "ab", "a" * 64, "Upper", "under_score", "-start", "end-", ".start", "end.", "two..dots", "192.168.1.1",
    "xn--name", "sthree-name", "amzn-s3-demo-name", "name-s3alias", "name--ol-s3", "name--x-s3", "name.mrap",
    "sp%20ace", "per%25cent", "plus+", "%C3%A4%C3%B6%C3%BC", "a%00b", "a%2Fb", "a:b", "a,b", "a@b", "a~b", "%2e%2e", "...",
    "name--table-s3", "a%0Ab",
])
def forbidden_name(t, name):
    found = t.raw("PUT", "/" + name)
    if found.status == 200:
        t.raw("DELETE", "/" + name)
    answers(found, 400, "InvalidBucketName")


@each("buckets", ["abc", "a" * 63, "1ab", "a.b.c", "a-b-c", "123", "a1.2b", "1.2.3", "256.1.1.1a", "a--b"])
def allowed_name(t, name):
    t.buckets.append((name, "main"))
    t.s3.create_bucket(Bucket=name)
    t.put(name, "key")
    equal(t.read(name, "key"), b"data")


@each("buckets", [
    "list_objects", "list_objects_v2", "list_multipart_uploads",
])
def missing_bucket(t, call):
    refused(lambda: getattr(t.s3, call)(Bucket="suite-missing-bucket"), "NoSuchBucket", status=404)


@each("buckets", ["get_object", "put_object", "delete_object", "create_multipart_upload", "get_object_tagging"])
def missing_bucket_of_object(t, call):
    refused(lambda: getattr(t.s3, call)(Bucket="suite-missing-bucket", Key="key"), "NoSuchBucket", status=404)


@case("buckets")
def missing_bucket_of_delete_objects(t):
    refused(
        lambda: t.s3.delete_objects(Bucket="suite-missing-bucket", Delete={"Objects": [{"Key": "a"}]}), "NoSuchBucket"
    )


@case("buckets")
def versioning_is_off(t):
    # Clients such as rclone and the Terraform provider ask; AWS answers an empty document.
    bucket = t.bucket()
    try:
        equal(t.s3.get_bucket_versioning(Bucket=bucket).get("Status"), None)
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NotImplemented")


# --- headers ---


@case("headers")
def answers_have_request_id(t):
    for found in (t.raw("GET", "/"), t.raw("GET", "/suite-missing-bucket"), t.send("GET", "/")):
        true(found.headers.get("x-amz-request-id"), "x-amz-request-id", found.headers)


@case("headers")
def error_document(t):
    bucket = t.bucket()
    found = answers(t.raw("GET", f"/{bucket}/missing"), 404, "NoSuchKey")
    equal(found.headers.get("content-type"), "application/xml")
    names = [tag(element) for element in found.xml()]
    for name in ("Code", "Message", "RequestId"):
        true(name in names, name, names)
    equal(found.texts("RequestId"), [found.headers["x-amz-request-id"]])


@case("headers")
def error_names_the_key(t):
    equal(t.raw("GET", f"/{t.bucket()}/missing").texts("Key"), ["missing"])


@case("headers")
def error_of_head_has_no_body(t):
    found = t.raw("HEAD", f"/{t.bucket()}/missing")
    equal((found.status, found.body), (404, b""))


@case("headers")
def list_is_xml_in_the_namespace(t):
    found = t.raw("GET", "/" + t.bucket(), "list-type=2")
    equal(found.headers["content-type"].split(";")[0], "application/xml")
    equal(found.xml().tag, "{http://s3.amazonaws.com/doc/2006-03-01/}ListBucketResult")


@case("headers")
def date_header(t):
    true("date" in t.raw("GET", "/").headers, "a Date header", "none")


@case("headers")
def last_modified_is_an_http_date(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.raw("HEAD", f"/{bucket}/key").headers["last-modified"]
    true(re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", found), "an HTTP date", found)


@case("headers")
def last_modified_agrees(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    head = t.s3.head_object(Bucket=bucket, Key="key")["LastModified"]
    listed = t.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"]
    equal(listed.replace(microsecond=0), head)


@case("headers")
def wrong_secret(t):
    key = dict(t.keys["main"], secret_access_key="wrong")
    answers(t.raw("GET", "/", key=key), 403, "SignatureDoesNotMatch")


@case("headers")
def unknown_key(t):
    key = {"access_key_id": "OSPAAAAAAAAAAAAAAAAA", "secret_access_key": "wrong"}
    answers(t.raw("GET", "/", key=key), 403, "InvalidAccessKeyId")


@each("headers", [-16 * 60, 16 * 60, -86400])
def skewed_clock(t, seconds):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    answers(t.raw("GET", "/", when=when), 403, "RequestTimeTooSkewed")


@each("headers", [-10 * 60, 10 * 60])
def clock_within_limits(t, seconds):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    answers(t.raw("GET", "/", when=when), 200)


@case("headers")
def wrong_service_in_scope(t):
    answers(t.raw("GET", "/", service="ec2"), 400, "AuthorizationHeaderMalformed")


@case("headers")
def signature_version_2(t):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT")
    key = t.keys["main"]
    digest = hmac.new(key["secret_access_key"].encode(), f"GET\n\n\n{date}\n/".encode(), hashlib.sha1).digest()
    headers = {"date": date, "authorization": f"AWS {key['access_key_id']}:{base64.b64encode(digest).decode()}"}
    found = t.send("GET", "/", headers)
    true(found.status in (400, 403) and found.code, "a refusal of Signature Version 2", found)


@each("headers", [
    "", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=a", "Basic YTpi", "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=",
    "Bearer token", "AWS4-HMAC-SHA256 Credential=/, SignedHeaders=;, Signature=x",
])
def malformed_authorization(t, value):
    def change(headers):
        headers["authorization"] = value

    found = t.raw("GET", "/", change=change)
    true(found.status in (400, 403) and found.code, "400 or 403 with a code", found)


@case("headers")
def header_changed_after_signing(t):
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/key", headers={"x-amz-meta-a": "1"}, body=b"x",
                  change=lambda headers: headers.update({"x-amz-meta-a": "2"}))
    answers(found, 403, "SignatureDoesNotMatch")


@case("headers")
def amz_header_that_is_not_signed(t):
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/key", body=b"x", change=lambda headers: headers.update({"x-amz-meta-a": "2"}))
    answers(found, 403, "AccessDenied")


@case("headers")
def host_that_is_not_signed(t):
    signer = Signer(t.keys["main"])
    headers = {"host": t.host, "x-amz-date": signer.time, "x-amz-content-sha256": sha256_hex(b"")}
    headers["authorization"] = signer.authorize("GET", "/", "", headers, ["x-amz-date", "x-amz-content-sha256"])
    found = t.send("GET", "/", headers)
    true(found.status in (400, 403), "403", found)


@case("headers")
def date_header_instead_of_amz_date(t):
    date = datetime.datetime.now(datetime.timezone.utc)
    signer = Signer(t.keys["main"], date)
    headers = {"host": t.host, "date": date.strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-amz-content-sha256": sha256_hex(b"")}
    headers["authorization"] = signer.authorize("GET", "/", "", headers)
    answers(t.send("GET", "/", headers), 200)


@case("headers")
def payload_hash_is_missing(t):
    found = t.raw("GET", "/", change=lambda headers: headers.pop("x-amz-content-sha256"))
    true(found.status in (400, 403), "400 or 403", found)


@case("headers")
def payload_hash_is_wrong(t):
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/key", body=b"data", payload=sha256_hex(b"other"))
    answers(found, 400, "XAmzContentSHA256Mismatch")
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("headers")
def payload_hash_is_no_hash(t):
    answers(t.raw("PUT", f"/{t.bucket()}/key", body=b"data", payload="zzz"), 400, "InvalidArgument", "InvalidRequest")


@case("headers")
def unsigned_payload(t):
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/key", body=b"data", payload="UNSIGNED-PAYLOAD"), 200)
    equal(t.read(bucket, "key"), b"data")


@case("headers")
def any_region_signs(t):
    answers(t.raw("GET", "/", region="eu-west-3"), 200)


@case("headers")
def missing_content_length(t):
    found = t.raw("PUT", f"/{t.bucket()}/key", body=None, payload="UNSIGNED-PAYLOAD")
    true(found.status == 411 and found.code == "MissingContentLength", "411 MissingContentLength", found)


@case("headers")
def expect_100_continue(t):
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/key", headers={"expect": "100-continue"}, body=b"y" * 100), 200)
    equal(t.read(bucket, "key"), b"y" * 100)


@case("headers")
def response_overrides(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object(
        Bucket=bucket, Key="key", ResponseContentType="text/x-a", ResponseContentDisposition='attachment; filename="b"',
        ResponseContentLanguage="de", ResponseCacheControl="no-store", ResponseContentEncoding="gzip",
        ResponseExpires=datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc),
    )
    equal(
        [found.get(name) for name in ("ContentType", "ContentDisposition", "ContentLanguage", "CacheControl", "ContentEncoding")],
        ["text/x-a", 'attachment; filename="b"', "de", "no-store", "gzip"],
    )
    true("2030" in found["ResponseMetadata"]["HTTPHeaders"].get("expires", ""), "Expires", found["ResponseMetadata"]["HTTPHeaders"])


@case("headers")
def response_overrides_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(t.s3.head_object(Bucket=bucket, Key="key", ResponseContentType="text/x-a")["ContentType"], "text/x-a")


@case("headers")
def response_override_with_line_break(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.raw("GET", f"/{bucket}/key", "response-content-type=a%0D%0Ax-evil%3A%201")
    true("x-evil" not in found.headers, "no header injection", found.headers)
    true(found.status in (200, 400), "200 or 400", found)


# --- objects ---

KIB64 = 64 * 1024


@each("objects", [0, 1, 2, 255, 4096, KIB64 - 1, KIB64, KIB64 + 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 20 * MIB])
def byte_for_byte(t, size):
    bucket, body = t.bucket(), pattern(size, size)
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=body)["ETag"]
    equal(etag, f'"{md5_hex(body)}"', "ETag")
    found = t.plain.get_object(Bucket=bucket, Key="key")
    equal(found["ContentLength"], size)
    equal(found["ETag"], etag)
    true(found["Body"].read() == body, "the same bytes", "others")
    head = t.plain.head_object(Bucket=bucket, Key="key")
    equal((head["ContentLength"], head["ETag"]), (size, etag))
    listed = t.plain.list_objects_v2(Bucket=bucket)["Contents"][0]
    equal((listed["Size"], listed["ETag"]), (size, etag))


@each("objects", [0, 1, KIB64 - 1, KIB64, KIB64 + 1, 5 * MIB, 20 * MIB])
def signed_chunks(t, size):
    bucket, body = t.bucket(), pattern(size, size + 1)
    answers(t.chunked(bucket, "key", [body[at:at + KIB64] for at in range(0, size, KIB64)]), 200)
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@each("objects", [0, 1, KIB64 + 1, 5 * MIB + 1])
def unsigned_chunks_with_trailer(t, size):
    bucket, body = t.bucket(), pattern(size, size + 2)
    trailer = ("x-amz-checksum-crc32", checksum("CRC32", body))
    chunks = [body[at:at + KIB64] for at in range(0, size, KIB64)]
    answers(t.chunked(bucket, "key", chunks, trailer, signed=False), 200)
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@case("objects")
def uneven_chunks(t):
    bucket = t.bucket()
    chunks = [pattern(size, size) for size in (1, 70000, 8192, 3, 200000)]
    found = t.chunked(bucket, "key", chunks, ("x-amz-checksum-crc32", checksum("CRC32", b"".join(chunks))), signed=False)
    answers(found, 200)
    equal(md5_hex(t.read(bucket, "key")), md5_hex(b"".join(chunks)))


@case("objects")
def signed_chunk_is_corrupt(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * KIB64, b"b" * 100], corrupt=lambda body: body.replace(b"bbbb", b"bbcb", 1))
    answers(found, 403, "SignatureDoesNotMatch")
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def signed_chunks_without_end(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * KIB64], corrupt=lambda body: body[:body.rindex(b"0;chunk")])
    true(found.status in (400, 403), "400 or 403", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@each("objects", [99, 101])
def wrong_decoded_length(t, length):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * 100], decoded=length)
    true(found.status == 400, "400 IncompleteBody or InvalidRequest", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def aws_chunked_is_not_kept(t):
    bucket = t.bucket()
    answers(t.chunked(bucket, "key", [b"data"]), 200)
    true(t.s3.head_object(Bucket=bucket, Key="key").get("ContentEncoding") in (None, ""), "no Content-Encoding", "aws-chunked")


@case("objects")
def aws_chunked_with_gzip(t):
    bucket = t.bucket()
    answers(t.chunked(bucket, "key", [b"data"], headers={"content-encoding": "aws-chunked,gzip"}), 200)
    equal(t.s3.head_object(Bucket=bucket, Key="key").get("ContentEncoding"), "gzip")


@case("objects")
def replace(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"one")
    t.put(bucket, "key", body=b"two and more")
    equal(t.read(bucket, "key"), b"two and more")
    equal(len(t.s3.list_objects_v2(Bucket=bucket)["Contents"]), 1)


@case("objects")
def replace_with_same_content(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"same", Metadata={"a": "1"}, ContentType="text/a")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"same", Metadata={"b": "2"}, ContentType="text/b")
    head = t.s3.head_object(Bucket=bucket, Key="key")
    equal((head["Metadata"], head["ContentType"]), ({"b": "2"}, "text/b"))


@case("objects")
def same_content_under_two_keys(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", body=b"shared")
    t.s3.delete_object(Bucket=bucket, Key="a")
    equal(t.read(bucket, "b"), b"shared")


@case("objects")
def same_key_in_two_buckets(t):
    first, second = t.bucket(), t.bucket()
    t.put(first, "key", body=b"1")
    t.put(second, "key", body=b"2")
    t.s3.delete_object(Bucket=first, Key="key")
    equal(t.read(second, "key"), b"2")


@case("objects")
def replace_many_times_at_once(t):
    bucket = t.bucket()
    bodies = [pattern(1000, seed) for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda body: t.plain.put_object(Bucket=bucket, Key="key", Body=body), bodies))
    true(t.read(bucket, "key") in bodies, "one of the bodies", "another")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["key"])


@case("objects")
def read_after_write_at_once(t):
    bucket = t.bucket()

    def one(index):
        t.plain.put_object(Bucket=bucket, Key=f"k{index}", Body=str(index).encode())
        return t.read(bucket, f"k{index}") == str(index).encode()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        true(all(pool.map(one, range(40))), "each object is read as written", "not all")


@case("objects")
def body_is_cut(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    signer = Signer(t.keys["main"])
    headers = {"host": t.host, "x-amz-date": signer.time, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    headers["authorization"] = signer.authorize("PUT", f"/{bucket}/key", "", headers)
    connection = http.client.HTTPConnection(t.host, timeout=5)
    connection.putrequest("PUT", f"/{bucket}/key", skip_host=True, skip_accept_encoding=True)
    for name, value in dict(headers, **{"content-length": "1000"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"x" * 500)
    connection.close()
    time.sleep(0.5)
    equal(t.read(bucket, "key"), b"old")


@case("objects")
def missing_key(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_object(Bucket=bucket, Key="missing"), "NoSuchKey", status=404)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="missing"), "404", status=404)


@case("objects")
def content_md5(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"data"))
    equal(t.read(bucket, "key"), b"data")


@case("objects")
def content_md5_is_wrong(t):
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"other")), "BadDigest",
        status=400,
    )
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def content_md5_is_wrong_for_existing_key(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"x")), "BadDigest")
    equal(t.read(bucket, "key"), b"old")


@each("objects", ["", "x", "YWJj", "not base64!", "YWJjCg==", "d41d8cd98f00b204e9800998ecf8427e"])
def content_md5_is_malformed(t, value):
    found = t.raw("PUT", f"/{t.bucket()}/key", headers={"content-md5": value}, body=b"data")
    answers(found, 400, "InvalidDigest")


@each("objects", ["STANDARD", None])
def storage_class(t, value):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **({"StorageClass": value} if value else {}))
    equal(t.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["StorageClass"], "STANDARD")
    equal(t.s3.head_object(Bucket=bucket, Key="key").get("StorageClass"), None)


@case("objects")
def storage_class_is_unknown(t):
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"", StorageClass="WRONG"), "InvalidStorageClass",
        status=400,
    )


@case("objects")
def object_attributes(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ETag", "ObjectSize", "StorageClass"])
    equal((found.get("ETag"), found.get("ObjectSize"), found.get("StorageClass")), (md5_hex(b"data"), 4, "STANDARD"))
    true("LastModified" in found, "LastModified", found)


@case("objects")
def object_attributes_that_were_asked(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ObjectSize"])
    equal((found["ObjectSize"], "ETag" in found, "StorageClass" in found), (4, False, False))


@case("objects")
def object_attributes_of_missing(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ETag"]), "NoSuchKey")


@case("objects")
def object_attributes_that_are_unknown(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.raw("GET", f"/{bucket}/key", "attributes=", {"x-amz-object-attributes": "Wrong"}), 400, "InvalidArgument")


@case("objects")
def object_attributes_without_names(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.raw("GET", f"/{bucket}/key", "attributes="), 400, "InvalidArgument", "InvalidRequest")


@case("objects")
def transfer_of_40_mib(t):
    bucket, body = t.bucket(), pattern(40 * MIB + 17, 7)
    t.s3.upload_fileobj(io.BytesIO(body), bucket, "key", Config=TransferConfig(multipart_chunksize=8 * MIB))
    target = io.BytesIO()
    t.s3.download_fileobj(bucket, "key", target)
    true(target.getvalue() == body, "the same bytes", f"{len(target.getvalue())} other bytes")


# --- metadata ---


@case("metadata")
def user_metadata(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"one": "1", "two-b": "x y"})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {"one": "1", "two-b": "x y"})
    equal(t.s3.get_object(Bucket=bucket, Key="key")["Metadata"], {"one": "1", "two-b": "x y"})


@case("metadata")
def names_are_lower_case(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"CamelCase": "Value"})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {"camelcase": "Value"})


@case("metadata")
def replacing_ends_metadata(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"a": "1"})
    t.put(bucket, "key")
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {})


@case("metadata")
def empty_value(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"a": ""})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {"a": ""})


@each("metadata", ["a,b", "a=b;c", '"quoted"', "=?UTF-8?B?w6Q=?=", "%41", "a  b", "<x>&", "\\", "a:b"])
def special_value(t, value):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"a": value})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"]["a"], value)


@each("metadata", ["x_y", "x.y", "x!y", "0", "x'y"])
def special_name(t, name):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={name: "v"})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {name: "v"})


@case("metadata")
def utf8_value(t):
    # AWS stores the bytes and answers them encoded by RFC 2047.
    bucket = t.bucket()
    signer = Signer(t.keys["main"])
    value = "grün"
    headers = {"host": t.host, "x-amz-date": signer.time, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-meta-a": value}
    headers["authorization"] = signer.authorize("PUT", f"/{bucket}/key", "", headers)
    answers(t.send("PUT", f"/{bucket}/key", headers, b"x"), 200)
    found = t.raw("HEAD", f"/{bucket}/key").headers.get("x-amz-meta-a", "")
    true(found.upper() in ("=?UTF-8?B?Z3LDVG4=?=", "=?UTF-8?Q?GR=C3=BCN?=") or found.encode("latin-1", "replace").decode("utf-8", "replace") == value,
         "grün, encoded by RFC 2047", found)


@case("metadata")
def two_kib(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"a": "v" * 2047})
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"]["a"], "v" * 2047)


@case("metadata")
def more_than_permitted(t):
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={"a": "v" * 2048}),
        "MetadataTooLarge", status=400,
    )
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("metadata")
def sixty_four_entries(t):
    bucket, values = t.bucket(), {f"name-{index}": str(index) for index in range(64)}
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata=values)
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], values)


@case("metadata")
def more_than_64_entries(t):
    # AWS has no limit of entries; osproxy documents 64.
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"", Metadata={f"n{index}": "v" for index in range(65)}),
        "MetadataTooLarge", status=400,
    )


@case("metadata")
def system_headers(t):
    bucket = t.bucket()
    values = {
        "ContentType": "text/html; charset=utf-8", "ContentDisposition": 'attachment; filename="a.txt"',
        "ContentEncoding": "gzip", "ContentLanguage": "de-AT", "CacheControl": "max-age=60",
    }
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"x", **values)
    for found in (t.s3.head_object(Bucket=bucket, Key="key"), t.s3.get_object(Bucket=bucket, Key="key")):
        equal({name: found.get(name) for name in values}, values)


@case("metadata")
def expires(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"x", Expires=datetime.datetime(2031, 2, 3, tzinfo=datetime.timezone.utc))
    equal(t.raw("HEAD", f"/{bucket}/key").headers.get("expires"), "Mon, 03 Feb 2031 00:00:00 GMT")


@case("metadata")
def default_content_type(t):
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/key.html", body=b"x"), 200)
    equal(t.raw("HEAD", f"/{bucket}/key.html").headers["content-type"], "binary/octet-stream")


@case("metadata")
def content_type_without_slash(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"x", ContentType="strange")
    equal(t.s3.head_object(Bucket=bucket, Key="key")["ContentType"], "strange")


@case("metadata")
def website_redirect(t):
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"x", WebsiteRedirectLocation="/a"), "NotImplemented",
        status=501,
    )


@each("metadata", ["AES256", "aws:kms"])
def encryption(t, value):
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"x", ServerSideEncryption=value), "NotImplemented",
        status=501,
    )


@case("metadata")
def encryption_with_key_of_customer(t):
    headers = {
        "x-amz-server-side-encryption-customer-algorithm": "AES256",
        "x-amz-server-side-encryption-customer-key": base64.b64encode(b"k" * 32).decode(),
        "x-amz-server-side-encryption-customer-key-md5": md5_base64(b"k" * 32),
    }
    answers(t.raw("PUT", f"/{t.bucket()}/key", headers=headers, body=b"x"), 501, "NotImplemented")


@each("metadata", ["public-read", "public-read-write", "authenticated-read", "bucket-owner-read"])
def acl(t, value):
    refused(lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"x", ACL=value), "NotImplemented", status=501)


@each("metadata", ["private", "bucket-owner-full-control"])
def acl_that_changes_nothing(t, value):
    # AWS accepts these in buckets without ACLs. An error would break clients that always send them.
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"x", ACL=value)
    equal(t.read(bucket, "key"), b"x")


@case("metadata")
def object_lock(t):
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"x", ObjectLockMode="GOVERNANCE",
                                   ObjectLockRetainUntilDate=until, ContentMD5=md5_base64(b"x")),
        "NotImplemented", status=501,
    )


@case("metadata")
def legal_hold(t):
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"x", ObjectLockLegalHoldStatus="ON",
                                   ContentMD5=md5_base64(b"x")),
        "NotImplemented", status=501,
    )


# --- ranges ---


@each("ranges", [
    ("bytes=0-0", 0, 1), ("bytes=0-9", 0, 10), ("bytes=5-", 5, 100), ("bytes=99-", 99, 100), ("bytes=-1", 99, 100),
    ("bytes=-100", 0, 100), ("bytes=-1000", 0, 100), ("bytes=90-1000", 90, 100), ("bytes=0-", 0, 100), ("bytes=0-99", 0, 100),
    ("bytes=50-50", 50, 51), ("bytes=0-99999999999999999999", 0, 100),
])
def range_of_100(t, header, start, end):
    bucket, body = t.bucket(), pattern(100)
    t.put(bucket, "key", body=body)
    found = t.raw("GET", f"/{bucket}/key", headers={"range": header})
    equal((found.status, found.body), (206, body[start:end]))
    equal(found.headers["content-range"], f"bytes {start}-{end - 1}/100")
    equal(found.headers["content-length"], str(end - start))


@each("ranges", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"])
def range_that_is_outside(t, header):
    bucket = t.bucket()
    t.put(bucket, "key", body=pattern(100))
    answers(t.raw("GET", f"/{bucket}/key", headers={"range": header}), 416, "InvalidRange")


@each("ranges", ["bytes=9-5", "bytes=a-b", "bytes=", "lines=0-5", "bytes 0-5", "bytes=-", "0-5", "bytes=0-1,5-6"])
def range_that_is_ignored(t, header):
    bucket, body = t.bucket(), pattern(100)
    t.put(bucket, "key", body=body)
    found = t.raw("GET", f"/{bucket}/key", headers={"range": header})
    true(found.status == 200 and found.body == body, "200 and the whole object", (found.status, len(found.body), found.code))


@each("ranges", ["bytes=0-0", "bytes=-1", "bytes=-100", "bytes=0-", "bytes=5-10"])
def range_of_empty_object(t, header):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    answers(t.raw("GET", f"/{bucket}/key", headers={"range": header}), 416, "InvalidRange")


@case("ranges")
def range_of_empty_object_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    equal(t.raw("HEAD", f"/{bucket}/key", headers={"range": "bytes=-1"}).status, 416)


@case("ranges")
def range_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=pattern(100))
    found = t.raw("HEAD", f"/{bucket}/key", headers={"range": "bytes=10-19"})
    equal((found.status, found.headers.get("content-length"), found.headers.get("content-range")), (206, "10", "bytes 10-19/100"))


@case("ranges")
def ranges_of_a_large_object(t):
    bucket, body = t.bucket(), pattern(3 * MIB + 5)
    t.put(bucket, "key", body=body)
    for start, end in ((0, 1), (65535, 65537), (MIB - 1, 2 * MIB + 3), (3 * MIB, 3 * MIB + 5), (1, 3 * MIB + 4)):
        true(t.read(bucket, "key", Range=f"bytes={start}-{end - 1}") == body[start:end], f"bytes {start} to {end}", "others")


@case("ranges")
def range_has_the_etag(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"0123456789")
    equal(t.s3.get_object(Bucket=bucket, Key="key", Range="bytes=1-2")["ETag"], f'"{md5_hex(b"0123456789")}"')


@each("ranges", [True, False])
def if_range(t, same):
    # RFC 9110: a resumed download must not mix two objects.
    bucket, body = t.bucket(), pattern(100)
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=body)["ETag"]
    found = t.raw("GET", f"/{bucket}/key", headers={"range": "bytes=0-9", "if-range": etag if same else '"other"'})
    equal(found.status, 206 if same else 200)


@case("ranges")
def part_number(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    # Of an object that was not uploaded in parts, part 1 is the whole.
    try:
        equal(t.s3.get_object(Bucket=bucket, Key="key", PartNumber=1)["Body"].read(), b"data")
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NotImplemented")
    refused(lambda: t.s3.get_object(Bucket=bucket, Key="key", PartNumber=2), "NotImplemented", "InvalidPartNumber", "InvalidRange")


@each("ranges", [1, 2])
def part_number_of_multipart(t, number):
    bucket = t.bucket()
    t.plain.upload_fileobj(
        io.BytesIO(pattern(6 * MIB)), bucket, "key", Config=TransferConfig(multipart_threshold=1, multipart_chunksize=5 * MIB)
    )
    refused(lambda: t.s3.get_object(Bucket=bucket, Key="key", PartNumber=number), "NotImplemented", status=501)


@case("ranges")
def part_number_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    true(t.raw("HEAD", f"/{bucket}/key", "partNumber=1").status in (200, 206, 501), "206 or 501", "another status")
    true(t.raw("HEAD", f"/{bucket}/key", "partNumber=2").status in (416, 501), "416 or 501", "another status")


# --- conditional ---

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
WRONG = '"00000000000000000000000000000000"'


def later():
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)


@each("conditional", [
    ({"IfMatch": "same"}, 200), ({"IfMatch": WRONG}, 412), ({"IfMatch": "*"}, 200), ({"IfMatch": "bare"}, 200),
    ({"IfNoneMatch": "same"}, 304), ({"IfNoneMatch": WRONG}, 200), ({"IfNoneMatch": "*"}, 304),
    ({"IfModifiedSince": "past"}, 200), ({"IfModifiedSince": "now"}, 304), ({"IfUnmodifiedSince": "past"}, 412),
    ({"IfUnmodifiedSince": "later"}, 200), ({"IfMatch": "same", "IfUnmodifiedSince": "past"}, 200),
    ({"IfNoneMatch": "same", "IfModifiedSince": "past"}, 304), ({"IfNoneMatch": WRONG, "IfModifiedSince": "now"}, 200),
    ({"IfMatch": WRONG, "IfUnmodifiedSince": "later"}, 412),
    ({"IfUnmodifiedSince": "now"}, 200),
])
def read_condition(t, conditions, status):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data")["ETag"]
    modified = t.s3.head_object(Bucket=bucket, Key="key")["LastModified"]
    names = {"same": etag, "past": PAST, "now": modified, "later": later(), "bare": etag.strip('"')}
    conditions = {name: names.get(value, value) for name, value in conditions.items()}
    for call in (t.s3.get_object, t.s3.head_object):
        try:
            found = call(Bucket=bucket, Key="key", **conditions)["ResponseMetadata"]["HTTPStatusCode"]
        except ClientError as error:
            found = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if call == t.s3.get_object and found == 412:
                equal(error.response["Error"]["Code"], "PreconditionFailed")
        equal(found, status, call.__name__)


@case("conditional")
def not_modified_has_etag(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", CacheControl="max-age=1")["ETag"]
    found = t.raw("GET", f"/{bucket}/key", headers={"if-none-match": etag})
    equal((found.status, found.body, found.headers.get("etag")), (304, b"", etag))
    true("last-modified" in found.headers, "Last-Modified", found.headers)


@case("conditional")
def malformed_date_is_ignored(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(t.raw("GET", f"/{bucket}/key", headers={"if-modified-since": "yesterday"}).status, 200)


@case("conditional")
def write_if_none_match_new(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", IfNoneMatch="*")
    equal(t.read(bucket, "key"), b"data")


@case("conditional")
def write_if_none_match_existing(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch="*"), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")


@case("conditional")
def write_if_none_match_after_delete(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    t.s3.delete_object(Bucket=bucket, Key="key")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch="*")
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def write_if_none_match_etag(t):
    bucket = t.bucket()
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch=WRONG), "NotImplemented", status=501)


@case("conditional")
def write_if_match(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"old")["ETag"]
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=etag)
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def write_if_match_other(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=WRONG), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")


@case("conditional")
def write_if_match_missing(t):
    bucket = t.bucket()
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=WRONG), "NoSuchKey", status=404)


@case("conditional")
def one_of_many_creators_wins(t):
    bucket = t.bucket()

    def create(index):
        try:
            t.plain.put_object(Bucket=bucket, Key="key", Body=str(index).encode(), IfNoneMatch="*")
            return index
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [index for index in pool.map(create, range(16)) if index is not None]
    equal(len(winners), 1, "winners")
    equal(t.read(bucket, "key"), str(winners[0]).encode())


@case("conditional")
def counter_with_if_match(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"0")

    def add(_):
        for _ in range(200):
            found = t.s3.get_object(Bucket=bucket, Key="key")
            value = int(found["Body"].read()) + 1
            try:
                t.plain.put_object(Bucket=bucket, Key="key", Body=str(value).encode(), IfMatch=found["ETag"])
                return
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
        raise Failure("an update that succeeds", "200 conflicts")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    equal(t.read(bucket, "key"), b"12")


@case("conditional")
def delete_if_match(t):
    # AWS has If-Match in DeleteObject since 2025. Ignoring it would delete what must stay.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    try:
        t.s3.delete_object(Bucket=bucket, Key="key", IfMatch=WRONG)
    except ClientError as error:
        true(error.response["Error"]["Code"] in ("PreconditionFailed", "NotImplemented"), "PreconditionFailed", error.response["Error"])
    equal(t.read(bucket, "key"), b"keep")


@case("conditional")
def complete_if_none_match(t):
    bucket = t.bucket()
    upload = t.plain.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    etag = t.plain.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=1, Body=b"new")["ETag"]
    t.put(bucket, "key", body=b"old")
    refused(
        lambda: t.plain.complete_multipart_upload(
            Bucket=bucket, Key="key", UploadId=upload, IfNoneMatch="*",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
        ),
        "PreconditionFailed", "NotImplemented",
    )
    equal(t.read(bucket, "key"), b"old")


# --- listings ---

KEYS = ["a", "asdf", "boo/bar", "boo/baz/xyzzy", "cquux/thud", "cquux/bla", "foo/", "foo/1", "foo//2", "z"]
SPECIAL = [
    " ", " lead", "trail ", "a b", "a+b", "a%2Fb", "a%b", "a&b", "a<b>", 'a"b', "a'b", "a\\b", "a?b", "a#b", "a=b", "a;b", "a:b",
    "a@b", "a$b", "a,b", "a*b", "a|b", "a^b", "a~b", "a`b", "a{b}", "a[b]", "ä", "日本語", "😀", "\uffee", "e\u0301", "\u00e9", "//", "/a", "a//b", "a/",
    "-", "_", ".hidden", "a\tb", "\x7f", "%", "%%", "%41", "&amp;", "]]>",
]


def model(keys, prefix="", delimiter="", after=""):
    """What a listing has after a marker: (item, is a prefix) in order."""
    seen = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        item = (key[: at + len(delimiter)], True) if at >= 0 else (key, False)
        if key.encode() <= after.encode() or (item[1] and after.encode() >= item[0].encode() and not after.startswith(item[0])):
            continue
        if item not in seen:
            seen.append(item)
    return seen


def items(page):
    return sorted([(key, False) for key in keys_of(page)] + [(prefix, True) for prefix in prefixes_of(page)], key=lambda item: item[0].encode())


def list_in_pages(t, version, bucket, size, **options):
    """All items of a listing, page by page, with checks of each page."""
    found, next_page = [], {}
    for _ in range(1000):
        if version == 2:
            page = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=size, **{**options, **next_page})
            equal(page["KeyCount"], len(items(page)), "KeyCount")
        else:
            page = t.s3.list_objects(Bucket=bucket, MaxKeys=size, **{**options, **next_page})
        equal(page["MaxKeys"], size, "MaxKeys")
        true(len(items(page)) <= size, f"at most {size} items", len(items(page)))
        found += items(page)
        if not page["IsTruncated"]:
            true("NextContinuationToken" not in page and "NextMarker" not in page, "no next marker at the end", page)
            return found
        equal(len(items(page)), size, "items of a page that is truncated")
        if version == 2:
            next_page = {"ContinuationToken": page["NextContinuationToken"]}
        elif "Delimiter" in options:
            next_page = {"Marker": page["NextMarker"]}
        else:
            next_page = {"Marker": keys_of(page)[-1]}
    raise Failure("a last page", "1000 pages")


def list_once(t, version, bucket, **options):
    return (t.s3.list_objects_v2 if version == 2 else t.s3.list_objects)(Bucket=bucket, **options)


for VERSION in (1, 2):
    GROUP = f"list-v{VERSION}"

    @each(GROUP, [(VERSION, prefix, delimiter) for prefix, delimiter in [
        ("", ""), ("", "/"), ("boo/", "/"), ("boo", "/"), ("boo/bar", "/"), ("boo/bar/", "/"), ("foo/", "/"), ("foo", ""), ("none", ""),
        ("c", "q"), ("", "oo"), ("", "uu"), ("", "oo/ba"), ("b", "o/b"), ("", "z"), ("foo//", "/"), ("", "//"), ("/", "/"), ("", "none"),
        ("a", "a"), ("", "%2F"),
    ]])
    def list_with(t, version, prefix, delimiter):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"Prefix": prefix} if prefix else {}
        if delimiter:
            options["Delimiter"] = delimiter
        page = list_once(t, version, bucket, **options)
        equal(items(page), sorted(model(KEYS, prefix, delimiter)))
        equal(page.get("Prefix", ""), prefix)
        equal(page.get("Delimiter", ""), delimiter)
        equal(page["Name"], bucket)
        equal(page["IsTruncated"], False)

    @each(GROUP, [(VERSION, delimiter) for delimiter in ("", "/", "oo", "//")])
    def pages_of_every_size(t, version, delimiter):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"Delimiter": delimiter} if delimiter else {}
        for size in range(1, len(KEYS) + 2):
            equal(list_in_pages(t, version, bucket, size, **options), sorted(model(KEYS, "", delimiter)), f"pages of {size}:")

    @each(GROUP, [(VERSION, prefix) for prefix in ("boo/", "cquux/", "foo/", "a")])
    def pages_with_prefix(t, version, prefix):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        for size in (1, 2, 3):
            found = list_in_pages(t, version, bucket, size, Delimiter="/", Prefix=prefix)
            equal(found, sorted(model(KEYS, prefix, "/")), f"pages of {size}:")

    @each(GROUP, [(VERSION, delimiter, marker) for delimiter in ("", "/") for marker in (
        "a", "b", "boo", "boo/", "boo/bar", "boo/baz", "boo/zzz", "boo0", "cquux/bla", "foo", "foo/", "foo/1", "foo//", "z", "zz", "A", " ",
    )])
    def list_after(t, version, delimiter, marker):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"StartAfter" if version == 2 else "Marker": marker}
        if delimiter:
            options["Delimiter"] = delimiter
        page = list_once(t, version, bucket, **options)
        # A marker inside a common prefix: AWS answers the prefix if a key after the marker has it, except that a
        # marker that is the whole prefix skips it in version 1, where it is the NextMarker of the page before.
        expected = []
        for item in model([key for key in KEYS if key.encode() > marker.encode()], "", delimiter):
            if not (item[1] and marker == item[0] and version == 1):
                expected.append(item)
        if version == 2:
            expected = [item for item in expected if not (item[1] and marker == item[0])]
        equal(items(page), expected)

    @case(GROUP)
    def max_keys_0(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "a", "b")
        page = list_once(t, version, bucket, MaxKeys=0)
        equal((items(page), page["IsTruncated"], page["MaxKeys"]), ([], False, 0))

    @each(GROUP, [(VERSION, "-1"), (VERSION, "a"), (VERSION, "99999999999")])
    def max_keys_wrong(t, version, value):
        query = f"max-keys={value}" + ("&list-type=2" if version == 2 else "")
        answers(t.raw("GET", "/" + t.bucket(), "&".join(sorted(query.split("&")))), 400, "InvalidArgument")

    @each(GROUP, [(VERSION, 1001), (VERSION, 2147483647)])
    def max_keys_large(t, version, value):
        bucket = t.bucket()
        t.put(bucket, "a")
        page = list_once(t, version, bucket, MaxKeys=value)
        equal(keys_of(page), ["a"])
        true(page["MaxKeys"] in (1000, value), "MaxKeys 1000", page["MaxKeys"])

    @case(GROUP)
    def empty_bucket(t, version=VERSION):
        page = list_once(t, version, t.bucket())
        equal((items(page), page["IsTruncated"], page["MaxKeys"]), ([], False, 1000))

    @case(GROUP)
    def empty_parameters(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "a/b", "c")
        query = "delimiter=&prefix=" + ("&list-type=2&start-after=" if version == 2 else "&marker=")
        found = answers(t.raw("GET", "/" + bucket, "&".join(sorted(query.split("&")))), 200)
        equal(found.texts("Key"), ["a/b", "c"])

    @case(GROUP)
    def special_keys_with_url_encoding(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        equal(keys_of(list_once(t, version, bucket)), sorted(SPECIAL, key=str.encode))
        query = "encoding-type=url" + ("&list-type=2" if version == 2 else "")
        found = t.raw("GET", "/" + bucket, query).texts("Key")
        true(all(re.fullmatch(r"[A-Za-z0-9_.~*/+%()!'-]+", key) for key in found), "encoded keys", found)

    @case(GROUP)
    def special_keys_without_encoding(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        found = t.raw("GET", "/" + bucket, "list-type=2" if version == 2 else "").texts("Key")
        equal(found, sorted(SPECIAL, key=str.encode))

    @case(GROUP)
    def special_keys_in_pages(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        expected = [(key, False) for key in sorted(SPECIAL, key=str.encode)]
        for size in (1, 7):
            equal(list_in_pages(t, version, bucket, size), expected, f"pages of {size}:")

    @each(GROUP, [(VERSION, character) for character in ("%", "ä", " ", "+", "&", "_", "\\", "*", "😀", "'", "?", "[")])
    def special_prefix_and_delimiter(t, version, character):
        bucket = t.bucket()
        keys = [f"a{character}b", f"a{character}{character}c", f"x{character}y", "axb", "a", "abc"]
        t.put(bucket, *keys)
        equal(items(list_once(t, version, bucket, Delimiter=character)), sorted(model(keys, "", character)))
        equal(items(list_once(t, version, bucket, Prefix="a" + character)), sorted(model(keys, "a" + character)))
        equal(list_in_pages(t, version, bucket, 1, Delimiter=character), sorted(model(keys, "", character)))

    @case(GROUP)
    def prefix_keeps_case(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "Abc", "abc", "ABC", "aBc")
        equal(keys_of(list_once(t, version, bucket)), ["ABC", "Abc", "aBc", "abc"])
        equal(keys_of(list_once(t, version, bucket, Prefix="a")), ["aBc", "abc"])

    @case(GROUP)
    def wrong_encoding_type(t, version=VERSION):
        query = "encoding-type=base64" + ("&list-type=2" if version == 2 else "")
        answers(t.raw("GET", "/" + t.bucket(), query), 400, "InvalidArgument")

    @case(GROUP)
    def order_is_of_bytes(t, version=VERSION):
        # U+FFEE sorts before U+1F600 in UTF-8, after it in UTF-16.
        bucket, keys = t.bucket(), ["\uffee", "😀", "a", "B", "é", "z"]
        t.put(bucket, *keys)
        equal(keys_of(list_once(t, version, bucket)), sorted(keys, key=str.encode))

    @case(GROUP)
    def fields_of_an_item(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "key")
        item = list_once(t, version, bucket)["Contents"][0]
        equal((item["Size"], item["ETag"], item["StorageClass"]), (4, f'"{md5_hex(b"data")}"', "STANDARD"))

    @case(GROUP)
    def random_buckets(t, version=VERSION):
        for seed in range(3):
            chance, bucket = random.Random(seed), t.bucket()
            keys = sorted({"".join(chance.choice("ab/") for _ in range(chance.randint(1, 6))) for _ in range(30)})
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda key: t.put(bucket, key), keys))
            for prefix, delimiter, size in [("", "/", 1), ("", "/", 3), ("a", "/", 2), ("", "b", 2), ("", "ab", 1), ("/", "/", 1), ("a", "a/", 2)]:
                found = list_in_pages(t, version, bucket, size, Prefix=prefix, Delimiter=delimiter)
                equal(found, sorted(model(keys, prefix, delimiter), key=lambda item: item[0].encode()),
                      f"seed {seed}, prefix {prefix!r}, delimiter {delimiter!r}, pages of {size}:")


@case("list-v1")
def owner_v1(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    true(t.s3.list_objects(Bucket=bucket)["Contents"][0].get("Owner", {}).get("ID"), "an Owner", "none")


@case("list-v1")
def no_next_marker_without_delimiter(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    found = t.raw("GET", "/" + bucket, "max-keys=1")
    equal((found.texts("NextMarker"), found.texts("IsTruncated")), ([], ["true"]))


@case("list-v1")
def next_marker_is_a_prefix(t):
    bucket = t.bucket()
    t.put(bucket, "a/1", "a/2", "b/1", "c")
    page = t.s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=1)
    equal((prefixes_of(page), page["NextMarker"]), (["a/"], "a/"))
    page = t.s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=1, Marker="a/")
    equal(prefixes_of(page), ["b/"])


@case("list-v1")
def marker_is_echoed(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    equal(t.s3.list_objects(Bucket=bucket, Marker="a")["Marker"], "a")


@case("list-v2")
def owner_v2(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    true("Owner" not in t.s3.list_objects_v2(Bucket=bucket)["Contents"][0], "no Owner", "an Owner")
    true(t.s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0].get("Owner", {}).get("ID"), "an Owner", "none")


@case("list-v2")
def start_after_is_echoed(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    equal(t.s3.list_objects_v2(Bucket=bucket, StartAfter="a")["StartAfter"], "a")


@case("list-v2")
def token_wins_over_start_after(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", "c", "d")
    token = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=2)["NextContinuationToken"]
    page = t.s3.list_objects_v2(Bucket=bucket, ContinuationToken=token, StartAfter="c")
    equal((keys_of(page), page["ContinuationToken"]), (["c", "d"], token))


@each("list-v2", ["wrong", "!!", "a" * 3000, "%00"])
def wrong_token(t, token):
    bucket = t.bucket()
    t.put(bucket, "a")
    query = "continuation-token=" + quote(token, safe="%") + "&list-type=2"
    answers(t.raw("GET", "/" + bucket, query), 400, "InvalidArgument")


@case("list-v2")
def list_type_3(t):
    answers(t.raw("GET", "/" + t.bucket(), "list-type=3"), 400, "InvalidArgument")


@case("list-v2")
def more_than_1000(t):
    bucket = t.bucket()
    keys = [f"d{index % 3}/{index:04}" for index in range(1003)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: t.put(bucket, key), keys))
    page = t.s3.list_objects_v2(Bucket=bucket)
    equal((len(page["Contents"]), page["KeyCount"], page["IsTruncated"]), (1000, 1000, True))
    pages = t.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    equal([key for page in pages for key in keys_of(page)], sorted(keys))
    equal(prefixes_of(t.s3.list_objects_v2(Bucket=bucket, Delimiter="/")), ["d0/", "d1/", "d2/"])
    page = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    equal(len(page["Contents"]), 1000)
    for start in (0, 1000):
        t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[start:start + 1000]], "Quiet": True})
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("list-v2")
def token_after_its_key_is_deleted(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", "c", "d")
    token = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=2)["NextContinuationToken"]
    t.s3.delete_object(Bucket=bucket, Key="b")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket, ContinuationToken=token)), ["c", "d"])


@case("list-v2")
def token_of_other_bucket_is_harmless(t):
    first, second = t.bucket(), t.bucket()
    t.put(first, "a", "b", "c")
    t.put(second, "x")
    token = t.s3.list_objects_v2(Bucket=first, MaxKeys=1)["NextContinuationToken"]
    try:
        true(set(keys_of(t.s3.list_objects_v2(Bucket=second, ContinuationToken=token))) <= {"x"}, "only keys of the bucket", "others")
    except ClientError as error:
        equal(error.response["Error"]["Code"], "InvalidArgument")


# --- copy ---


def source(bucket, key="key"):
    return {"Bucket": bucket, "Key": key}


@case("copy")
def copy_to_other_key(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Metadata={"a": "1"}, ContentType="text/a", CacheControl="no-store")
    found = t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))["CopyObjectResult"]
    equal(found["ETag"], f'"{md5_hex(b"data")}"')
    true("LastModified" in found, "LastModified", found)
    head = t.s3.head_object(Bucket=bucket, Key="copy")
    equal((head["Metadata"], head["ContentType"], head.get("CacheControl")), ({"a": "1"}, "text/a", "no-store"))
    equal((t.read(bucket, "copy"), t.read(bucket, "key")), (b"data", b"data"))


@case("copy")
def copy_to_other_bucket(t):
    first, second = t.bucket(), t.bucket()
    t.put(first, "key")
    t.s3.copy_object(Bucket=second, Key="key", CopySource=source(first))
    t.s3.delete_object(Bucket=first, Key="key")
    equal(t.read(second, "key"), b"data")


@case("copy")
def copy_replaces_metadata(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Metadata={"a": "1"}, ContentType="text/a", CacheControl="no-store")
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), MetadataDirective="REPLACE", Metadata={"b": "2"}, ContentType="text/b")
    head = t.s3.head_object(Bucket=bucket, Key="copy")
    equal((head["Metadata"], head["ContentType"], head.get("CacheControl")), ({"b": "2"}, "text/b", None))


@case("copy")
def copy_ignores_metadata_without_replace(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Metadata={"a": "1"})
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), Metadata={"b": "2"})
    equal(t.s3.head_object(Bucket=bucket, Key="copy")["Metadata"], {"a": "1"})


@case("copy")
def copy_to_itself(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="key", CopySource=source(bucket)), "InvalidRequest", status=400)
    equal(t.read(bucket, "key"), b"data")


@case("copy")
def copy_to_itself_with_replace(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Metadata={"a": "1"})
    t.s3.copy_object(Bucket=bucket, Key="key", CopySource=source(bucket), MetadataDirective="REPLACE", Metadata={"b": "2"})
    equal((t.read(bucket, "key"), t.s3.head_object(Bucket=bucket, Key="key")["Metadata"]), (b"data", {"b": "2"}))


@case("copy")
def copy_over_existing(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"new")
    t.put(bucket, "copy", body=b"old and long")
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    equal(t.read(bucket, "copy"), b"new")


@case("copy")
def copy_of_missing_key(t):
    bucket = t.bucket()
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket)), "NoSuchKey", status=404)


@case("copy")
def copy_of_missing_bucket(t):
    bucket = t.bucket()
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source("suite-missing-bucket")), "NoSuchBucket", status=404)


@case("copy")
def copy_into_missing_bucket(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.copy_object(Bucket="suite-missing-bucket", Key="copy", CopySource=source(bucket)), "NoSuchBucket", status=404)


@each("copy", ["a b", "a+b", "a%2Fb", "ä/日本", "a?b", "a&b", "😀", "a//b", "/a", "a#b", "versionId=1", "a?versionId=2"])
def copy_of_special_key(t, key):
    bucket = t.bucket()
    t.put(bucket, key, body=key.encode())
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket, key))
    equal(t.read(bucket, "copy"), key.encode())


@case("copy")
def copy_source_with_slash_in_front(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.raw("PUT", f"/{bucket}/copy", headers={"x-amz-copy-source": f"/{bucket}/key"}), 200)
    equal(t.read(bucket, "copy"), b"data")


@case("copy")
def copy_source_with_encoded_slash(t):
    bucket = t.bucket()
    t.put(bucket, "a/key")
    answers(t.raw("PUT", f"/{bucket}/copy", headers={"x-amz-copy-source": f"{bucket}%2Fa%2Fkey"}), 200)
    equal(t.read(bucket, "copy"), b"data")


@each("copy", ["", "/", "bucket-only", "/bucket-only/", "%FF/key", "bucket-name/%ZZ"])
def copy_source_is_malformed(t, value):
    found = t.raw("PUT", f"/{t.bucket()}/copy", headers={"x-amz-copy-source": value})
    true(found.status in (400, 404) and found.code, "400 InvalidArgument", found)


@case("copy")
def copy_of_version(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="copy", CopySource={**source(bucket), "VersionId": "abc"}),
            "NotImplemented", "NoSuchVersion", "InvalidArgument")


@each("copy", [
    ({"CopySourceIfMatch": "same"}, 200), ({"CopySourceIfMatch": WRONG}, 412), ({"CopySourceIfNoneMatch": "same"}, 412),
    ({"CopySourceIfNoneMatch": WRONG}, 200), ({"CopySourceIfModifiedSince": "past"}, 200), ({"CopySourceIfModifiedSince": "now"}, 412),
    ({"CopySourceIfUnmodifiedSince": "past"}, 412), ({"CopySourceIfUnmodifiedSince": "later"}, 200),
    ({"CopySourceIfMatch": "same", "CopySourceIfUnmodifiedSince": "past"}, 200),
    ({"CopySourceIfNoneMatch": "same", "CopySourceIfModifiedSince": "past"}, 412),
])
def copy_condition(t, conditions, status):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data")["ETag"]
    modified = t.s3.head_object(Bucket=bucket, Key="key")["LastModified"]
    names = {"same": etag, "past": PAST, "now": modified, "later": later()}
    conditions = {name: names.get(value, value) for name, value in conditions.items()}
    def call():
        return t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), **conditions)
    if status == 200:
        call()
    else:
        refused(call, "PreconditionFailed", status=412)
        refused(lambda: t.s3.head_object(Bucket=bucket, Key="copy"), "404")


@case("copy")
def copy_if_none_match_of_target(t):
    # AWS has If-None-Match in CopyObject since 2025. Ignoring it would replace what must stay.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"new")
    t.put(bucket, "copy", body=b"old")
    found = t.raw("PUT", f"/{bucket}/copy", headers={"x-amz-copy-source": f"{bucket}/key", "if-none-match": "*"})
    true(found.status in (412, 501), "412 PreconditionFailed", found)
    equal(t.read(bucket, "copy"), b"old")


@case("copy")
def copy_keeps_tags(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1&b=2")
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    equal(tags_of(t, bucket, "copy"), {"a": "1", "b": "2"})


@case("copy")
def copy_replaces_tags(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1&b=2", Metadata={"m": "1"})
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), TaggingDirective="REPLACE", Tagging="c=3")
    equal(tags_of(t, bucket, "copy"), {"c": "3"})
    equal(t.s3.head_object(Bucket=bucket, Key="copy")["Metadata"], {"m": "1"})


@case("copy")
def copy_replacing_metadata_keeps_tags(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), MetadataDirective="REPLACE")
    equal(tags_of(t, bucket, "copy"), {"a": "1"})


@each("copy", ["metadata", "tagging"])
def copy_with_wrong_directive(t, name):
    bucket = t.bucket()
    t.put(bucket, "key")
    headers = {"x-amz-copy-source": f"{bucket}/key", f"x-amz-{name}-directive": "WRONG"}
    answers(t.raw("PUT", f"/{bucket}/copy", headers=headers), 400, "InvalidArgument")


@case("copy")
def copy_of_empty_object(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    equal(t.read(bucket, "copy"), b"")


@case("copy")
def copy_of_large_object(t):
    bucket, body = t.bucket(), pattern(20 * MIB, 3)
    t.put(bucket, "key", body=body)
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    t.s3.delete_object(Bucket=bucket, Key="key")
    true(t.read(bucket, "copy") == body, "the same bytes", "others")


@case("copy")
def copy_adds_checksum(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), ChecksumAlgorithm="SHA256")
    equal(found["CopyObjectResult"].get("ChecksumSHA256"), checksum("SHA256", b"data"))


@case("copy")
def copy_keeps_checksum(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ChecksumSHA1=checksum("SHA1", b"data"))
    t.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))
    equal(t.s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED").get("ChecksumSHA1"), checksum("SHA1", b"data"))


# --- delete ---


@case("delete")
def delete_object(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(t.s3.delete_object(Bucket=bucket, Key="key")["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(lambda: t.s3.get_object(Bucket=bucket, Key="key"), "NoSuchKey")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("delete")
def delete_missing_object(t):
    equal(t.s3.delete_object(Bucket=t.bucket(), Key="key")["ResponseMetadata"]["HTTPStatusCode"], 204)


@case("delete")
def delete_one_of_similar_keys(t):
    bucket = t.bucket()
    t.put(bucket, "a", "a/", "a/b", "A")
    t.s3.delete_object(Bucket=bucket, Key="a/")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["A", "a", "a/b"])


@case("delete")
def delete_version(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    try:
        t.s3.delete_object(Bucket=bucket, Key="key", VersionId="abc")
    except ClientError as error:
        true(error.response["Error"]["Code"] in ("NotImplemented", "NoSuchVersion", "InvalidArgument"), "NotImplemented", error.response["Error"])
    equal(t.read(bucket, "key"), b"keep")


@case("delete")
def delete_many(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", "c")
    found = t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "missing"}, {"Key": "c"}]})
    equal(sorted(item["Key"] for item in found["Deleted"]), ["a", "c", "missing"])
    equal(found.get("Errors", []), [])
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["b"])


@case("delete")
def delete_many_quietly(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    found = t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "b"}], "Quiet": True})
    equal((found.get("Deleted", []), found.get("Errors", [])), ([], []))
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@each("delete", [1000, 1001])
def delete_of_many_keys(t, count):
    bucket = t.bucket()
    t.put(bucket, "k0000", "k0999", "other")
    objects = [{"Key": f"k{index:04}"} for index in range(count)]
    if count > 1000:
        refused(lambda: t.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects}), "MalformedXML", status=400)
        equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["k0000", "k0999", "other"])
    else:
        equal(len(t.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})["Deleted"]), 1000)
        equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["other"])


@case("delete")
def delete_of_long_keys(t):
    # 1000 keys of 1024 bytes are more than 1 MiB of XML.
    bucket = t.bucket()
    keys = [f"{index:04}" + "x" * 1020 for index in range(1000)]
    t.put(bucket, keys[0], keys[999])
    equal(len(t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})["Deleted"]), 1000)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("delete")
def delete_of_same_key_twice(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}, {"Key": "a"}]})
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("delete")
def delete_of_special_keys(t):
    bucket = t.bucket()
    t.put(bucket, *SPECIAL)
    found = t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in SPECIAL]})
    equal(sorted(item["Key"] for item in found["Deleted"]), sorted(SPECIAL))
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("delete")
def delete_many_of_versions(t):
    bucket = t.bucket()
    t.put(bucket, "a", body=b"keep")
    try:
        t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a", "VersionId": "abc"}]})
    except ClientError:
        pass
    equal(t.read(bucket, "a"), b"keep")


@case("delete")
def delete_many_if_match(t):
    bucket = t.bucket()
    t.put(bucket, "a", body=b"keep")
    try:
        t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a", "ETag": WRONG}]})
    except ClientError:
        pass
    equal(t.read(bucket, "a"), b"keep")


DELETE = '<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a</Key></Object></Delete>'


@each("delete", [
    "", "<Delete>", "<Delete></Delete>", "<Other><Object><Key>a</Key></Object></Other>", "text", "<Delete><Object></Object></Delete>",
    DELETE[:-3], "<Delete><Object><Key></Key></Object></Delete>",
])
def delete_with_malformed_xml(t, document):
    bucket, body = t.bucket(), document.encode()
    t.put(bucket, "a")
    found = t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body)
    answers(found, 400, "MalformedXML", "MissingRequestBodyError", "UserKeyMustBeSpecified")
    equal(t.read(bucket, "a"), b"data")


@case("delete")
def delete_without_namespace(t):
    bucket, body = t.bucket(), b"<Delete><Object><Key>a</Key></Object></Delete>"
    t.put(bucket, "a")
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("delete")
def delete_with_spaces_in_key(t):
    bucket, body = t.bucket(), b"<Delete>\n <Object>\n  <Key> a </Key>\n </Object>\n</Delete>"
    t.put(bucket, "a", " a ")
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["a"])


@case("delete")
def delete_with_wrong_md5(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(b"other")}, DELETE.encode()), 400, "BadDigest")
    equal(t.read(bucket, "a"), b"data")


@case("delete")
def delete_with_wrong_checksum(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    headers = {"x-amz-checksum-crc32": checksum("CRC32", b"other"), "x-amz-sdk-checksum-algorithm": "CRC32"}
    answers(t.raw("POST", "/" + bucket, "delete=", headers, DELETE.encode()), 400, "BadDigest", "InvalidRequest")
    equal(t.read(bucket, "a"), b"data")


@case("delete")
def delete_without_md5(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    answers(t.raw("POST", "/" + bucket, "delete=", {}, DELETE.encode()), 400, "InvalidRequest")


@case("delete")
def delete_while_reading(t):
    bucket, body = t.bucket(), pattern(20 * MIB, 5)
    t.put(bucket, "key", body=body)
    stream = t.plain.get_object(Bucket=bucket, Key="key")["Body"]
    start = stream.read(1000)
    t.s3.delete_object(Bucket=bucket, Key="key")
    true(start + stream.read() == body, "the whole old object", "other bytes")


# --- tagging ---


def tags_of(t, bucket, key="key"):
    return {item["Key"]: item["Value"] for item in t.s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}


def put_tags(t, bucket, tags, key="key"):
    return t.s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in tags]})


@case("tagging")
def no_tags(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(tags_of(t, bucket), {})


@case("tagging")
def put_and_replace_tags(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    put_tags(t, bucket, [("a", "1"), ("b", "2")])
    equal(tags_of(t, bucket), {"a": "1", "b": "2"})
    put_tags(t, bucket, [("c", "")])
    equal(tags_of(t, bucket), {"c": ""})
    equal(t.read(bucket, "key"), b"data")


@case("tagging")
def delete_tags(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    equal(t.s3.delete_object_tagging(Bucket=bucket, Key="key")["ResponseMetadata"]["HTTPStatusCode"], 204)
    equal(tags_of(t, bucket), {})


@case("tagging")
def tags_in_header(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a%20b=x%2By&c=%C3%A4&d=&e")
    equal(tags_of(t, bucket), {"a b": "x+y", "c": "ä", "d": "", "e": ""})


@case("tagging")
def replacing_ends_tags(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    t.put(bucket, "key")
    equal(tags_of(t, bucket), {})


@case("tagging")
def tag_count(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1&b=2")
    equal(t.s3.get_object(Bucket=bucket, Key="key").get("TagCount"), 2)
    equal(t.raw("HEAD", f"/{bucket}/key").headers.get("x-amz-tagging-count"), "2")


@case("tagging")
def tags_do_not_change_last_modified(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    before = t.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"]
    time.sleep(0.01)
    put_tags(t, bucket, [("a", "1")])
    equal(t.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"], before)


@each("tagging", [10, 11])
def number_of_tags(t, count):
    bucket = t.bucket()
    t.put(bucket, "key")
    tags = [(f"k{index}", "v") for index in range(count)]
    if count == 10:
        put_tags(t, bucket, tags)
        equal(tags_of(t, bucket), dict(tags))
        return
    refused(lambda: put_tags(t, bucket, tags), "BadRequest", "InvalidTag", status=400)
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="other", Body=b"", Tagging="&".join(f"{a}={b}" for a, b in tags)), "BadRequest", "InvalidTag", "InvalidArgument", status=400)
    equal(tags_of(t, bucket), {})


@each("tagging", [("k" * 128, "v" * 256, True), ("k" * 129, "v", False), ("k", "v" * 257, False), ("ä" * 128, "😀" * 128, True)])
def length_of_tags(t, key, value, permitted):
    bucket = t.bucket()
    t.put(bucket, "key")
    if permitted:
        put_tags(t, bucket, [(key, value)])
        equal(tags_of(t, bucket), {key: value})
    else:
        refused(lambda: put_tags(t, bucket, [(key, value)]), "InvalidTag", "MalformedXML", status=400)


@case("tagging")
def same_tag_twice(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: put_tags(t, bucket, [("a", "1"), ("a", "2")]), "InvalidTag", status=400)
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="b", Body=b"", Tagging="a=1&a=2"), "InvalidArgument", "InvalidTag", status=400)


@case("tagging")
def tag_with_aws_prefix(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: put_tags(t, bucket, [("aws:a", "1")]), "InvalidTag", status=400)


@case("tagging")
def special_characters_of_tags(t):
    bucket, value = t.bucket(), "a b+c-d=e.f_g:h/i@j"
    t.put(bucket, "key")
    put_tags(t, bucket, [(value, value)])
    equal(tags_of(t, bucket), {value: value})


@each("tagging", ["get_object_tagging", "delete_object_tagging"])
def tags_of_missing_object(t, call):
    bucket = t.bucket()
    refused(lambda: getattr(t.s3, call)(Bucket=bucket, Key="key"), "NoSuchKey", status=404)


@case("tagging")
def put_tags_of_missing_object(t):
    bucket = t.bucket()
    refused(lambda: put_tags(t, bucket, [("a", "1")]), "NoSuchKey", status=404)


@each("tagging", ["", "<Tagging>", "<Tagging></Tagging>", "<Tagging><TagSet><Tag><Key>a</Key></Tag></TagSet></Tagging>", "<Wrong/>", "<Tagging><TagSet><Tag><Key></Key><Value>v</Value></Tag></TagSet></Tagging>"])
def tags_with_malformed_xml(t, document):
    bucket, body = t.bucket(), document.encode()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    found = t.raw("PUT", f"/{bucket}/key", "tagging=", {"content-md5": md5_base64(body)}, body)
    answers(found, 400, "MalformedXML", "MissingRequestBodyError", "InvalidTag")
    equal(tags_of(t, bucket), {"a": "1"})


@case("tagging")
def empty_tag_set(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    put_tags(t, bucket, [])
    equal(tags_of(t, bucket), {})


@case("tagging")
def tags_of_bucket(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_bucket_tagging(Bucket=bucket), "NotImplemented", "NoSuchTagSet")


# --- multipart ---


class Upload:
    """A multipart upload of a case."""

    def __init__(self, t, bucket=None, key="key", **options):
        self.t, self.bucket, self.key = t, bucket or t.bucket(), key
        self.id = t.plain.create_multipart_upload(Bucket=self.bucket, Key=key, **options)["UploadId"]
        self.etags = {}

    def names(self):
        return {"Bucket": self.bucket, "Key": self.key, "UploadId": self.id}

    def part(self, number, body, **options):
        self.etags[number] = self.t.plain.upload_part(**self.names(), PartNumber=number, Body=body, **options)["ETag"]
        return self.etags[number]

    def complete(self, parts=None, **options):
        if parts is None:
            parts = sorted(self.etags.items())
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        return self.t.plain.complete_multipart_upload(**self.names(), MultipartUpload={"Parts": parts}, **options)

    def abort(self):
        return self.t.s3.abort_multipart_upload(**self.names())


FIVE = pattern(5 * MIB, 55)


@each("multipart", [1, 2, 3])
def multipart(t, count):
    upload = Upload(t, Metadata={"a": "1"}, ContentType="text/a", Tagging="t=1")
    bodies = [pattern(5 * MIB, number) for number in range(count - 1)] + [b"last"]
    for number, body in enumerate(bodies, 1):
        equal(upload.part(number, body), f'"{md5_hex(body)}"', "ETag of the part")
    refused(lambda: t.s3.head_object(Bucket=upload.bucket, Key="key"), "404")
    found = upload.complete()
    etag = f'"{hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()}-{count}"'
    equal((found["ETag"], found["Bucket"], found["Key"]), (etag, upload.bucket, "key"))
    true(found.get("Location"), "a Location", found)
    head = t.s3.head_object(Bucket=upload.bucket, Key="key")
    equal((head["ETag"], head["Metadata"], head["ContentType"]), (etag, {"a": "1"}, "text/a"))
    equal(tags_of(t, upload.bucket), {"t": "1"})
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the bytes of the parts", "others")
    equal(t.s3.list_objects_v2(Bucket=upload.bucket)["Contents"][0]["ETag"], etag)


@case("multipart")
def parts_in_any_order(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, 1), pattern(5 * MIB + 1, 2), pattern(5 * MIB + 2, 3), b"end"]
    for number in (3, 1, 4, 2):
        upload.part(number, bodies[number - 1])
    upload.complete()
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the parts in order", "other bytes")


@case("multipart")
def parts_at_once(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, seed) for seed in range(5)]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda number: upload.part(number, bodies[number - 1]), range(1, 6)))
    upload.complete()
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the parts in order", "other bytes")


@case("multipart")
def part_is_sent_again(t):
    upload = Upload(t)
    upload.part(1, pattern(5 * MIB, 1))
    upload.part(2, b"first")
    upload.part(1, FIVE)
    upload.part(2, b"second and longer")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE + b"second and longer", "the parts that were sent last", "other bytes")


@case("multipart")
def old_etag_of_part_that_is_sent_again(t):
    upload = Upload(t)
    old = upload.part(1, b"first")
    upload.part(1, b"second")
    refused(lambda: upload.complete([(1, old)]), "InvalidPart", status=400)


@case("multipart")
def same_part_twice_at_once(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda body: t.plain.upload_part(**upload.names(), PartNumber=1, Body=body), bodies))
    parts = t.s3.list_parts(**upload.names())["Parts"]
    equal(len(parts), 1)
    upload.complete([(1, parts[0]["ETag"])])
    equal(f'"{md5_hex(t.read(upload.bucket, "key"))}"', parts[0]["ETag"])


@case("multipart")
def complete_with_wrong_etag(t):
    upload = Upload(t)
    upload.part(1, b"data")
    refused(lambda: upload.complete([(1, WRONG)]), "InvalidPart", status=400)
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_with_bare_etags(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete([(1, upload.etags[1].strip('"'))])
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_with_missing_part(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    refused(lambda: upload.complete([(1, upload.etags[1]), (2, WRONG)]), "InvalidPart", status=400)


@case("multipart")
def complete_with_small_part(t):
    upload = Upload(t)
    upload.part(1, pattern(5 * MIB - 1))
    upload.part(2, b"data")
    refused(upload.complete, "EntityTooSmall", status=400)


@case("multipart")
def complete_in_wrong_order(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, FIVE)
    refused(lambda: upload.complete([(2, upload.etags[2]), (1, upload.etags[1])]), "InvalidPartOrder", status=400)


@case("multipart")
def complete_with_same_part_twice(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    refused(lambda: upload.complete([(1, upload.etags[1])] * 2), "InvalidPartOrder", status=400)


@case("multipart")
def complete_with_gap(t):
    # AWS permits gaps; osproxy documents InvalidPart.
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(3, b"end")
    refused(upload.complete, "InvalidPart", status=400)


@case("multipart")
def complete_without_first_part(t):
    upload = Upload(t)
    upload.part(2, b"data")
    refused(upload.complete, "InvalidPart", status=400)


@case("multipart")
def complete_with_fewer_parts(t):
    # Parts that the request does not name are dropped.
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"dropped")
    upload.complete([(1, upload.etags[1])])
    true(t.read(upload.bucket, "key") == FIVE, "the first part", "other bytes")


@each("multipart", ["", "<CompleteMultipartUpload></CompleteMultipartUpload>", "<CompleteMultipartUpload>", "<Wrong/>",
                    "<CompleteMultipartUpload><Part><PartNumber>a</PartNumber><ETag>b</ETag></Part></CompleteMultipartUpload>",
                    "<CompleteMultipartUpload><Part><ETag>b</ETag></Part></CompleteMultipartUpload>",
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>"])
def complete_with_malformed_xml(t, document):
    upload = Upload(t)
    upload.part(1, b"data")
    found = t.raw("POST", f"/{upload.bucket}/key", f"uploadId={quote(upload.id, safe='')}", body=document.encode())
    answers(found, 400, "MalformedXML", "InvalidRequest", "MissingRequestBodyError", "InvalidArgument", "InvalidPart")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_twice(t):
    # AWS answers the same for a while, so that a client can repeat.
    upload = Upload(t)
    upload.part(1, b"data")
    first = upload.complete()
    equal(upload.complete()["ETag"], first["ETag"])
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_again_does_not_undo_a_newer_put(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    t.put(upload.bucket, "key", body=b"newer")
    try:
        upload.complete()
    except ClientError:
        pass
    equal(t.read(upload.bucket, "key"), b"newer")


@case("multipart")
def complete_at_once(t):
    upload = Upload(t)
    upload.part(1, FIVE)

    def one(_):
        try:
            return upload.complete()["ETag"]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            true(code in ("NoSuchUpload", "OperationAborted", "ConditionalRequestConflict"), "an ETag or NoSuchUpload", code)
            return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        true(any(pool.map(one, range(4))), "a completion that succeeds", "none")
    true(t.read(upload.bucket, "key") == FIVE, "the bytes of the part", "others")


@case("multipart")
def complete_replaces_object(t):
    upload = Upload(t)
    t.put(upload.bucket, "key", body=b"old")
    upload.part(1, b"new")
    equal(t.read(upload.bucket, "key"), b"old")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"new")


@case("multipart")
def complete_ends_the_upload(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    refused(lambda: upload.part(2, b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**upload.names()), "NoSuchUpload", status=404)
    equal(t.s3.list_multipart_uploads(Bucket=upload.bucket).get("Uploads", []), [])


@case("multipart")
def two_uploads_of_one_key(t):
    first = Upload(t)
    second = Upload(t, first.bucket)
    true(first.id != second.id, "two ids", first.id)
    first.part(1, b"first")
    second.part(1, b"second")
    second.complete()
    first.complete()
    equal(t.read(first.bucket, "key"), b"first")


@case("multipart")
def abort(t):
    upload = Upload(t)
    upload.part(1, b"data")
    equal(upload.abort()["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(upload.complete, "NoSuchUpload", status=404)
    refused(lambda: upload.part(1, b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**upload.names()), "NoSuchUpload", status=404)
    equal(t.s3.list_multipart_uploads(Bucket=upload.bucket).get("Uploads", []), [])


@case("multipart")
def abort_twice(t):
    # AWS answers 204 or NoSuchUpload.
    upload = Upload(t)
    upload.abort()
    try:
        upload.abort()
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NoSuchUpload")


@case("multipart")
def abort_of_completed_upload_keeps_object(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    try:
        upload.abort()
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NoSuchUpload")
    equal(t.read(upload.bucket, "key"), b"data")


@each("multipart", ["wrong", "a/b", "%", "ä", "x" * 2000, "../../etc"])
def unknown_upload(t, upload_id):
    bucket = t.bucket()
    names = {"Bucket": bucket, "Key": "key", "UploadId": upload_id}
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**names), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)


@case("multipart")
def upload_of_other_key(t):
    upload = Upload(t)
    names = dict(upload.names(), Key="other")
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)
    upload.part(1, b"data")
    upload.complete()


@case("multipart")
def upload_of_other_bucket(t):
    upload, bucket = Upload(t), t.bucket()
    names = dict(upload.names(), Bucket=bucket)
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)


@each("multipart", [0, 10001, -1, 2147483647])
def part_number_outside(t, number):
    upload = Upload(t)
    refused(lambda: upload.part(number, b"x"), "InvalidArgument", status=400)


@case("multipart")
def part_number_10000(t):
    upload = Upload(t)
    upload.part(10000, b"x")
    equal([part["PartNumber"] for part in t.s3.list_parts(**upload.names())["Parts"]], [10000])


@case("multipart")
def part_number_is_no_number(t):
    upload = Upload(t)
    found = t.raw("PUT", f"/{upload.bucket}/key", f"partNumber=a&uploadId={quote(upload.id, safe='')}", body=b"x")
    answers(found, 400, "InvalidArgument")


@case("multipart")
def part_with_wrong_md5(t):
    upload = Upload(t)
    refused(lambda: upload.part(1, b"data", ContentMD5=md5_base64(b"other")), "BadDigest", status=400)
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])
    upload.part(1, b"good")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"good")


@case("multipart")
def part_with_wrong_md5_keeps_the_old_part(t):
    upload = Upload(t)
    upload.part(1, b"good")
    refused(lambda: upload.part(1, b"data", ContentMD5=md5_base64(b"other")), "BadDigest", status=400)
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"good")


@case("multipart")
def empty_part(t):
    upload = Upload(t)
    upload.part(1, b"")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"")


@case("multipart")
def empty_last_part(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE, "the first part", "other bytes")


@case("multipart")
def list_parts(t):
    upload = Upload(t)
    upload.part(2, b"two!")
    upload.part(1, b"one")
    found = t.s3.list_parts(**upload.names())
    equal([(part["PartNumber"], part["Size"], part["ETag"]) for part in found["Parts"]],
          [(1, 3, upload.etags[1]), (2, 4, upload.etags[2])])
    equal((found["Bucket"], found["Key"], found["UploadId"], found["IsTruncated"]), (upload.bucket, "key", upload.id, False))
    true("LastModified" in found["Parts"][0], "LastModified", found["Parts"][0])


@each("multipart", [1, 2, 3, 5, 6])
def list_parts_in_pages(t, size):
    upload = Upload(t)
    for number in (1, 2, 5, 7, 11):
        upload.part(number, b"x")
    found, marker = [], 0
    for _ in range(10):
        page = t.s3.list_parts(**upload.names(), MaxParts=size, PartNumberMarker=marker)
        numbers = [part["PartNumber"] for part in page.get("Parts", [])]
        found += numbers
        true(len(numbers) <= size, f"at most {size} parts", numbers)
        if not page["IsTruncated"]:
            break
        equal(page["NextPartNumberMarker"], numbers[-1])
        marker = page["NextPartNumberMarker"]
    equal(found, [1, 2, 5, 7, 11])


@case("multipart")
def list_uploads(t):
    upload = Upload(t, key="a b/ä")
    found = t.s3.list_multipart_uploads(Bucket=upload.bucket)
    equal([(item["Key"], item["UploadId"]) for item in found["Uploads"]], [("a b/ä", upload.id)])
    true("Initiated" in found["Uploads"][0], "Initiated", found["Uploads"][0])
    equal((found["Bucket"], found["IsTruncated"]), (upload.bucket, False))


@each("multipart", [1, 2, 3, 4, 7, 8])
def list_uploads_in_pages(t, size):
    bucket = t.bucket()
    ids = {(key, Upload(t, bucket, key).id) for key in ("a", "b", "b", "b", "c/d", "c/e", "z")}
    found, markers = [], {}
    for _ in range(20):
        page = t.s3.list_multipart_uploads(Bucket=bucket, MaxUploads=size, **markers)
        uploads = [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
        true(len(uploads) <= size, f"at most {size} uploads", uploads)
        found += uploads
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    equal([key for key, _ in found], ["a", "b", "b", "b", "c/d", "c/e", "z"])
    equal(set(found), ids)


@case("multipart")
def list_uploads_after_a_key(t):
    bucket = t.bucket()
    for key in ("a", "b", "b", "c"):
        Upload(t, bucket, key)
    found = t.s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b")
    equal([item["Key"] for item in found["Uploads"]], ["c"])


@case("multipart")
def list_uploads_with_prefix(t):
    bucket = t.bucket()
    for key in ("a", "b/1", "b/2", "b%", "B/1"):
        Upload(t, bucket, key)
    for prefix, expected in (("b/", ["b/1", "b/2"]), ("b%", ["b%"]), ("none", [])):
        found = t.s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        equal([item["Key"] for item in found.get("Uploads", [])], expected)


@case("multipart")
def list_uploads_with_delimiter(t):
    bucket = t.bucket()
    refused(lambda: t.s3.list_multipart_uploads(Bucket=bucket, Delimiter="/"), "NotImplemented", status=501)


@case("multipart")
def list_uploads_max_uploads_0(t):
    # AWS answers InvalidArgument or an empty page.
    upload = Upload(t)
    try:
        equal(t.s3.list_multipart_uploads(Bucket=upload.bucket, MaxUploads=0).get("Uploads", []), [])
    except ClientError as error:
        equal(error.response["Error"]["Code"], "InvalidArgument")


@case("multipart")
def upload_with_key_too_long(t):
    bucket = t.bucket()
    refused(lambda: t.plain.create_multipart_upload(Bucket=bucket, Key="k" * 1025), "KeyTooLongError", status=400)


def copy_part(t, upload, number, bucket, key, **options):
    found = t.plain.upload_part_copy(**upload.names(), PartNumber=number, CopySource=source(bucket, key), **options)
    upload.etags[number] = found["CopyPartResult"]["ETag"]
    return found["CopyPartResult"]


@case("multipart")
def copy_parts(t):
    upload = Upload(t)
    t.put(upload.bucket, "source", body=FIVE)
    t.put(upload.bucket, "end ä", body=b"the end")
    result = copy_part(t, upload, 1, upload.bucket, "source")
    equal(result["ETag"], f'"{md5_hex(FIVE)}"')
    true("LastModified" in result, "LastModified", result)
    copy_part(t, upload, 2, upload.bucket, "end ä")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE + b"the end", "the parts", "other bytes")


@case("multipart")
def copy_parts_with_ranges(t):
    upload, body = Upload(t), pattern(11 * MIB, 4)
    t.put(upload.bucket, "source", body=body)
    copy_part(t, upload, 1, upload.bucket, "source", CopySourceRange=f"bytes=0-{5 * MIB - 1}")
    copy_part(t, upload, 2, upload.bucket, "source", CopySourceRange=f"bytes={5 * MIB}-{10 * MIB + 99}")
    copy_part(t, upload, 3, upload.bucket, "source", CopySourceRange=f"bytes={10 * MIB + 100}-{11 * MIB - 1}")
    upload.complete()
    true(t.read(upload.bucket, "key") == body, "the source", "other bytes")


@each("multipart", ["bytes=0-100", "bytes=4-4", "bytes=4-3", "bytes=a-b", "0-2", "bytes=-2", "bytes=2-", "bytes=0-1,2-3", "bytes=10-20"])
def copy_part_with_wrong_range(t, value):
    # A range must have both ends and lie within the source.
    upload = Upload(t)
    t.put(upload.bucket, "source", body=b"data")
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source", CopySourceRange=value), "InvalidArgument", "InvalidRange")
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])


@case("multipart")
def copy_part_of_missing_source(t):
    upload = Upload(t)
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "missing"), "NoSuchKey", status=404)
    refused(lambda: copy_part(t, upload, 1, "suite-missing-bucket", "missing"), "NoSuchBucket", status=404)


@case("multipart")
def copy_part_with_condition(t):
    upload = Upload(t)
    t.put(upload.bucket, "source", body=b"data")
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source", CopySourceIfMatch=WRONG), "PreconditionFailed", status=412)
    copy_part(t, upload, 1, upload.bucket, "source", CopySourceIfMatch=f'"{md5_hex(b"data")}"')


@case("multipart")
def copy_part_to_unknown_upload(t):
    upload = Upload(t)
    t.put(upload.bucket, "source")
    upload.abort()
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source"), "NoSuchUpload", status=404)


@case("multipart")
def multipart_source_of_copies(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"end")
    upload.complete()
    t.s3.copy_object(Bucket=upload.bucket, Key="copy", CopySource=source(upload.bucket))
    true(t.read(upload.bucket, "copy") == FIVE + b"end", "the same bytes", "others")
    # AWS answers the MD5 of the whole content, because the copy is no multipart upload.
    equal(t.s3.head_object(Bucket=upload.bucket, Key="copy")["ETag"], f'"{md5_hex(FIVE + b"end")}"')


@case("multipart")
def object_attributes_of_multipart(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"end")
    upload.complete()
    found = t.s3.get_object_attributes(Bucket=upload.bucket, Key="key", ObjectAttributes=["ObjectParts", "ObjectSize"])
    equal((found.get("ObjectSize"), found.get("ObjectParts", {}).get("TotalPartsCount")), (5 * MIB + 3, 2))


@case("multipart")
def range_across_parts(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"end")
    upload.complete()
    equal(t.read(upload.bucket, "key", Range=f"bytes={5 * MIB - 2}-{5 * MIB + 1}"), FIVE[-2:] + b"en")


@case("multipart")
def one_hundred_small_parts_are_refused_as_a_whole(t):
    upload = Upload(t)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: upload.part(number, b"x" * number), range(1, 101)))
    equal(len(t.s3.list_parts(**upload.names())["Parts"]), 100)
    refused(upload.complete, "EntityTooSmall", status=400)


# --- presigned ---


def follow(t, url, method="GET", body=b"", headers=None):
    parts = urlsplit(url)
    return t.send(method, parts.path + ("?" + parts.query if parts.query else ""), headers, body)


def presign(t, call, key="main", expires=60, **params):
    return t.client(key, "when_required").generate_presigned_url(call, Params=params, ExpiresIn=expires)


def presign_by_hand(t, method, path, expires="60", when=None, query=(), drop=(), key="main"):
    signer = Signer(t.keys[key], when)
    values = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{signer.id}/{signer.scope}", "X-Amz-Date": signer.time,
        "X-Amz-Expires": expires, "X-Amz-SignedHeaders": "host",
    }
    values = {name: value for name, value in {**values, **dict(query)}.items() if name not in drop}
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(values.items()))
    canonical = f"{method}\n{path}\n{text}\nhost:{t.host}\n\nhost\nUNSIGNED-PAYLOAD"
    signature = signer.sign(f"AWS4-HMAC-SHA256\n{signer.time}\n{signer.scope}\n{sha256_hex(canonical.encode())}")
    return f"{path}?{text}" + ("" if "X-Amz-Signature" in drop else f"&X-Amz-Signature={signature}")


@each("presigned", ["key", "a b+c/ä😀", "a%2Fb", "//", "a?b&c=d#e", "/x"])
def presigned_get(t, key):
    bucket = t.bucket()
    t.put(bucket, key)
    found = follow(t, presign(t, "get_object", Bucket=bucket, Key=key))
    equal((found.status, found.body), (200, b"data"))


@case("presigned")
def presigned_put(t):
    bucket = t.bucket()
    answers(follow(t, presign(t, "put_object", Bucket=bucket, Key="key"), "PUT", b"body"), 200)
    equal(t.read(bucket, "key"), b"body")


@case("presigned")
def presigned_put_with_content_type(t):
    bucket = t.bucket()
    url = presign(t, "put_object", Bucket=bucket, Key="key", ContentType="text/a")
    answers(follow(t, url, "PUT", b"body", {"content-type": "text/a"}), 200)
    equal(t.s3.head_object(Bucket=bucket, Key="key")["ContentType"], "text/a")
    answers(follow(t, url, "PUT", b"evil", {"content-type": "text/b"}), 403, "SignatureDoesNotMatch")
    equal(t.read(bucket, "key"), b"body")


@case("presigned")
def presigned_put_with_default_checksums(t):
    # boto3 puts the name of the checksum into the URL; clients then send a body without one.
    bucket = t.bucket()
    url = t.s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "key"})
    answers(follow(t, url, "PUT", b"body"), 200)
    equal(t.read(bucket, "key"), b"body")


@case("presigned")
def presigned_put_with_metadata(t):
    bucket = t.bucket()
    url = presign(t, "put_object", Bucket=bucket, Key="key", Metadata={"a": "1"})
    answers(follow(t, url, "PUT", b"body", {"x-amz-meta-a": "1"}), 200)
    equal(t.s3.head_object(Bucket=bucket, Key="key")["Metadata"], {"a": "1"})


@case("presigned")
def presigned_head(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = follow(t, presign(t, "head_object", Bucket=bucket, Key="key"), "HEAD")
    equal((found.status, found.headers.get("content-length")), (200, "4"))


@case("presigned")
def presigned_delete(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(follow(t, presign(t, "delete_object", Bucket=bucket, Key="key"), "DELETE").status, 204)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("presigned")
def presigned_list(t):
    bucket = t.bucket()
    t.put(bucket, "a/b", "c")
    found = follow(t, presign(t, "list_objects_v2", Bucket=bucket, Prefix="a/"))
    equal((found.status, found.texts("Key")), (200, ["a/b"]))


@case("presigned")
def presigned_part(t):
    upload = Upload(t)
    found = follow(t, presign(t, "upload_part", **upload.names(), PartNumber=1), "PUT", b"body")
    answers(found, 200)
    upload.complete([(1, found.headers["etag"])])
    equal(t.read(upload.bucket, "key"), b"body")


@case("presigned")
def presigned_range(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = follow(t, presign(t, "get_object", Bucket=bucket, Key="key"), headers={"range": "bytes=1-2"})
    equal((found.status, found.body), (206, b"at"))


@case("presigned")
def presigned_overrides(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    url = presign(t, "get_object", Bucket=bucket, Key="key", ResponseContentDisposition='attachment; filename="ä b"', ResponseContentType="text/x-a")
    equal(follow(t, url).headers.get("content-type"), "text/x-a")


@case("presigned")
def presigned_get_serves_no_other_methods(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    url = presign(t, "get_object", Bucket=bucket, Key="key")
    for method in ("PUT", "DELETE", "HEAD"):
        equal(follow(t, url, method, b"evil" if method == "PUT" else b"").status, 403, method)
    equal(t.read(bucket, "key"), b"data")


@case("presigned")
def presigned_for_other_key(t):
    bucket = t.bucket()
    t.put(bucket, "key", "other")
    answers(follow(t, presign(t, "get_object", Bucket=bucket, Key="key").replace("/key?", "/other?")), 403, "SignatureDoesNotMatch")


@each("presigned", ["&versionId=1", "&response-content-type=text%2Fa", "&tagging", "&a=b"])
def presigned_with_more_query(t, more):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(follow(t, presign(t, "get_object", Bucket=bucket, Key="key") + more), 403, "SignatureDoesNotMatch")


@case("presigned")
def presigned_with_longer_expiry(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    url = presign(t, "get_object", Bucket=bucket, Key="key").replace("X-Amz-Expires=60", "X-Amz-Expires=600")
    answers(follow(t, url), 403, "SignatureDoesNotMatch")


@case("presigned")
def presigned_expires(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    url = presign(t, "get_object", Bucket=bucket, Key="key", expires=1)
    equal(follow(t, url).status, 200)
    time.sleep(2.5)
    answers(follow(t, url), 403, "AccessDenied")


@each("presigned", ["0", "-1", "604801", "a", "", "99999999999999999999"])
def presigned_with_wrong_expiry(t, expires):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key", expires)), 400, "AuthorizationQueryParametersError")


@case("presigned")
def presigned_for_a_week(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    when = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=6, hours=23)
    equal(t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key", "604800", when)).status, 200)
    when -= datetime.timedelta(hours=2)
    answers(t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key", "604800", when)), 403, "AccessDenied")


@case("presigned")
def presigned_in_future(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    equal(t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key", when=when)).status, 403)


@each("presigned", ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"])
def presigned_without(t, name):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key", drop=(name,)))
    true(found.status in (400, 403) and found.code, "400 AuthorizationQueryParametersError", found)


@case("presigned")
def presigned_and_header(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.send("GET", presign_by_hand(t, "GET", f"/{bucket}/key"), {"authorization": "AWS4-HMAC-SHA256 Credential=a"})
    true(found.status in (400, 403) and found.code, "400 InvalidArgument", found)


@case("presigned")
def presigned_version_2(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.send("GET", f"/{bucket}/key?AWSAccessKeyId={t.keys['main']['access_key_id']}&Expires=2000000000&Signature=abc%3D")
    true(found.status in (400, 403) and found.code, "a refusal of Signature Version 2", found)


@case("presigned")
def presigned_by_read_only_key(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(follow(t, presign(t, "get_object", "read_only", Bucket=bucket, Key="key")).body, b"data")
    answers(follow(t, presign(t, "put_object", "read_only", Bucket=bucket, Key="key"), "PUT", b"evil"), 403, "AccessDenied")
    equal(t.read(bucket, "key"), b"data")


# --- post ---


def form(fields, file, name="file.txt", mime="text/plain", boundary="boundary-of-the-suite", last=()):
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()]
    if file is not None:
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {mime}\r\n\r\n'.encode() + file + b"\r\n")
    parts += [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in last]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def post(t, bucket, key="key", file=b"data", fields=None, conditions=None, expires=60, change=None, signer="main", **options):
    made = t.client(signer, "when_required").generate_presigned_post(bucket, key, Fields=dict(fields or {}), Conditions=list(conditions or []), ExpiresIn=expires)
    values = dict(made["fields"])
    if change:
        change(values)
    body, headers = form(values, file, **options)
    return t.send("POST", "/" + bucket, headers, body)


@each("post", [0, 1, 1000, MIB, 5 * MIB + 1])
def post_file(t, size):
    bucket, body = t.bucket(), pattern(size, 8)
    found = post(t, bucket, file=body)
    equal((found.status, found.code), (204, None))
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@case("post")
def post_answers_etag(t):
    bucket = t.bucket()
    equal(post(t, bucket).headers.get("etag"), f'"{md5_hex(b"data")}"')


@case("post")
def post_bytes_that_look_like_the_boundary(t):
    bucket, body = t.bucket(), b"a\r\n--boundary-of-the-suit\r\n--\r\n\r\n--boundary-of-the-suitX"
    equal(post(t, bucket, file=body).status, 204)
    equal(t.read(bucket, "key"), body)


@each("post", [b"\r", b"\r\n", b"\r\n--", b"\n"])
def post_large_file_of_line_breaks(t, unit):
    # Parsers look for the boundary after every line break, also where the network splits the body.
    bucket, body = t.bucket(), unit * (3 * MIB // len(unit))
    found = post(t, bucket, file=body)
    equal((found.status, found.code), (204, None))
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@each("post", [("200", 200), ("201", 201), ("204", 204), ("999", 204)])
def post_status(t, value, status):
    bucket = t.bucket()
    found = post(t, bucket, fields={"success_action_status": value}, conditions=[{"success_action_status": value}])
    equal(found.status, status)
    if status == 201:
        equal((found.texts("Bucket"), found.texts("Key"), found.texts("ETag")), ([bucket], ["key"], [f'"{md5_hex(b"data")}"']))


@case("post")
def post_redirect(t):
    bucket, url = t.bucket(), "http://127.0.0.1:1/done?x=1"
    found = post(t, bucket, fields={"success_action_redirect": url}, conditions=[{"success_action_redirect": url}])
    equal(found.status, 303)
    true(found.headers["location"].startswith(url + "&bucket=" + bucket), url + "&bucket=...&key=...&etag=...", found.headers["location"])


@case("post")
def post_filename(t):
    bucket = t.bucket()
    equal(post(t, bucket, "folder/${filename}", name="photo 1.jpg").status, 204)
    equal(t.read(bucket, "folder/photo 1.jpg"), b"data")


@case("post")
def post_content_type_and_metadata(t):
    bucket = t.bucket()
    fields = {"Content-Type": "text/a", "x-amz-meta-a": "1", "Cache-Control": "no-store"}
    equal(post(t, bucket, fields=fields, conditions=[{name: value} for name, value in fields.items()]).status, 204)
    head = t.s3.head_object(Bucket=bucket, Key="key")
    equal((head["ContentType"], head["Metadata"], head.get("CacheControl")), ("text/a", {"a": "1"}, "no-store"))


@case("post")
def post_tagging(t):
    bucket = t.bucket()
    xml = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    equal(post(t, bucket, fields={"tagging": xml}, conditions=[{"tagging": xml}]).status, 204)
    equal(tags_of(t, bucket), {"a": "1"})


@each("post", [(0, 3, False), (4, 4, True), (5, 100, False), (0, 100, True)])
def post_length_range(t, low, high, permitted):
    bucket = t.bucket()
    found = post(t, bucket, conditions=[["content-length-range", low, high]])
    if permitted:
        equal(found.status, 204)
    else:
        answers(found, 400, "EntityTooLarge" if high < 4 else "EntityTooSmall")
        refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("post")
def post_expired(t):
    answers(post(t, t.bucket(), expires=-10), 403, "AccessDenied")


@case("post")
def post_field_that_is_not_in_policy(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"x-amz-meta-a": "1"})), 403, "AccessDenied")


@case("post")
def post_ignored_field(t):
    equal(post(t, t.bucket(), change=lambda fields: fields.update({"x-ignore-a": "1"})).status, 204)


@case("post")
def post_other_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, change=lambda fields: fields.update({"key": "other"})), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_to_other_bucket(t):
    bucket, other = t.bucket(), t.bucket()
    made = t.plain.generate_presigned_post(bucket, "key")
    body, headers = form(made["fields"], b"data")
    answers(t.send("POST", "/" + other, headers, body), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=other)), [])


@case("post")
def post_key_with_prefix(t):
    bucket = t.bucket()
    made = t.plain.generate_presigned_post(bucket, "user/${filename}", Conditions=[["starts-with", "$key", "user/"]])
    for key, status in (("user/a", 204), ("admin/a", 403)):
        body, headers = form({**made["fields"], "key": key}, b"data")
        equal(t.send("POST", "/" + bucket, headers, body).status, status, key)


@case("post")
def post_wrong_signature(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"x-amz-signature": "0" * 64})), 403, "SignatureDoesNotMatch")


@case("post")
def post_changed_policy(t):
    policy = base64.b64encode(b'{"expiration":"2099-01-01T00:00:00Z","conditions":[]}').decode()
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"policy": policy})), 403, "SignatureDoesNotMatch")


@case("post")
def post_without_signature(t):
    bucket = t.bucket()
    for drop in ("policy", "x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm"):
        found = post(t, bucket, change=lambda fields, drop=drop: fields.pop(drop))
        true(found.status in (400, 403), "400 or 403", (drop, found))
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_without_key(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.pop("key")), 400)


@case("post")
def post_without_file(t):
    answers(post(t, t.bucket(), file=None), 400)


@case("post")
def post_anonymously(t):
    bucket = t.bucket()
    body, headers = form({"key": "key"}, b"evil")
    answers(t.send("POST", "/" + bucket, headers, body), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_by_read_only_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, signer="read_only"), 403, "AccessDenied")


@case("post")
def post_by_other_tenant(t):
    bucket = t.bucket()
    found = post(t, bucket, signer="other_tenant")
    true(found.status in (403, 404), "403 AccessDenied", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_by_limited_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, signer="limited"), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_version_2(t):
    bucket, key = t.bucket(), t.keys["main"]
    policy = json.dumps({"expiration": "2099-01-01T00:00:00Z", "conditions": [{"bucket": bucket}, {"key": "key"}]})
    policy = base64.b64encode(policy.encode()).decode()
    digest = hmac.new(key["secret_access_key"].encode(), policy.encode(), hashlib.sha1).digest()
    fields = {"key": "key", "AWSAccessKeyId": key["access_key_id"], "policy": policy, "signature": base64.b64encode(digest).decode()}
    body, headers = form(fields, b"evil")
    found = t.send("POST", "/" + bucket, headers, body)
    true(found.status in (400, 403) and found.code, "a refusal of Signature Version 2", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_more_than_16_mib(t):
    # AWS permits 5 GiB; osproxy documents 16 MiB.
    bucket = t.bucket()
    found = post(t, bucket, file=b"x" * (17 * MIB))
    answers(found, 400, "EntityTooLarge")


@each("post", ["", "multipart/form-data", "multipart/form-data; boundary=", "text/plain"])
def post_without_boundary(t, value):
    body, _ = form({"key": "key"}, b"data")
    found = t.send("POST", "/" + t.bucket(), {"content-type": value}, body)
    true(400 <= found.status < 500 and found.code, "a 4xx with a code", found)


@case("post")
def post_that_is_cut(t):
    bucket = t.bucket()
    made = t.plain.generate_presigned_post(bucket, "key")
    body, headers = form(made["fields"], b"data" * 1000)
    found = t.send("POST", "/" + bucket, headers, body[:-1500])
    true(400 <= found.status < 500 and found.code, "400 MalformedPOSTRequest or IncompleteBody", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


# --- checksums ---

ALGORITHMS = list(CHECKSUMS)


@each("checksums", ALGORITHMS)
def checksum_in_header(t, algorithm):
    bucket, value = t.bucket(), checksum(algorithm, b"data")
    found = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": value})
    equal(found.get(f"Checksum{algorithm}"), value, "PutObject")
    for call in (t.plain.head_object, t.plain.get_object):
        equal(call(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get(f"Checksum{algorithm}"), value, call.__name__)
        equal(call(Bucket=bucket, Key="key").get(f"Checksum{algorithm}"), None, call.__name__ + " without mode")


@each("checksums", ALGORITHMS)
def checksum_in_attributes(t, algorithm):
    bucket, value = t.bucket(), checksum(algorithm, b"data")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": value})
    found = t.plain.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["Checksum"])
    equal(found.get("Checksum", {}).get(f"Checksum{algorithm}"), value)


@each("checksums", ALGORITHMS)
def wrong_checksum_in_header(t, algorithm):
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": checksum(algorithm, b"other")}),
        "BadDigest", "InvalidRequest", status=400,
    )
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@each("checksums", [(algorithm, signed) for algorithm in ALGORITHMS for signed in (True, False)])
def checksum_in_trailer(t, algorithm, signed):
    bucket, value = t.bucket(), checksum(algorithm, b"data" * 1000)
    answers(t.chunked(bucket, "key", [b"data" * 1000], (f"x-amz-checksum-{algorithm.lower()}", value), signed), 200)
    equal(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get(f"Checksum{algorithm}"), value)
    equal(t.read(bucket, "key"), b"data" * 1000)


@each("checksums", [(algorithm, signed) for algorithm in ALGORITHMS for signed in (True, False)])
def wrong_checksum_in_trailer(t, algorithm, signed):
    bucket = t.bucket()
    trailer = (f"x-amz-checksum-{algorithm.lower()}", checksum(algorithm, b"other"))
    answers(t.chunked(bucket, "key", [b"data"], trailer, signed), 400, "BadDigest", "InvalidRequest")
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("checksums")
def wrong_signature_of_trailer(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"data"], ("x-amz-checksum-crc32", checksum("CRC32", b"data")),
                      corrupt=lambda body: body.replace(b"trailer-signature:", b"trailer-signature:0000", 1))
    true(found.status in (400, 403), "403 SignatureDoesNotMatch", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("checksums")
def trailer_that_is_missing(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"data"], ("x-amz-checksum-crc32", checksum("CRC32", b"data")), signed=False,
                      corrupt=lambda body: body[:body.index(b"x-amz-checksum")] + b"\r\n")
    true(found.status == 400, "400 MalformedTrailerError or IncompleteBody", found)


@each("checksums", ["", "zzzz", "AAAA", "not base64!", "AAAAAAA="])
def malformed_checksum(t, value):
    found = t.raw("PUT", f"/{t.bucket()}/key", headers={"x-amz-checksum-crc32": value}, body=b"data")
    answers(found, 400, "InvalidRequest", "BadDigest")


@case("checksums")
def two_checksums(t):
    headers = {"x-amz-checksum-crc32": checksum("CRC32", b"data"), "x-amz-checksum-sha1": checksum("SHA1", b"data")}
    answers(t.raw("PUT", f"/{t.bucket()}/key", headers=headers, body=b"data"), 400, "InvalidRequest")


@case("checksums")
def unknown_algorithm(t):
    answers(t.raw("PUT", f"/{t.bucket()}/key", headers={"x-amz-sdk-checksum-algorithm": "MD4"}, body=b"data"), 400, "InvalidRequest", "InvalidArgument")


@each("checksums", [0, 1, KIB64 + 1, 9 * MIB])
def default_of_boto3(t, size):
    bucket, body = t.bucket(), pattern(size, 9)
    t.s3.put_object(Bucket=bucket, Key="key", Body=io.BytesIO(body))
    true(t.read(bucket, "key") == body, "the same bytes", "others")
    equal(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get("ChecksumCRC32"), checksum("CRC32", body))


@case("checksums")
def ranges_have_no_checksum_of_the_whole(t):
    # A client that verifies would find the range wrong.
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"0123456789", ChecksumCRC32=checksum("CRC32", b"0123456789"))
    equal(t.s3.get_object(Bucket=bucket, Key="key", Range="bytes=0-3", ChecksumMode="ENABLED")["Body"].read(), b"0123")


@case("checksums")
def checksum_ends_with_its_object(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"one", ChecksumSHA1=checksum("SHA1", b"one"))
    t.put(bucket, "key", body=b"two")
    true(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get("ChecksumSHA1") in (None, checksum("SHA1", b"two")),
         "no checksum of the old object", "it")


@case("checksums")
def same_content_with_other_checksum(t):
    # Equal files share their content, but not what their clients sent.
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="a", Body=b"same", ChecksumSHA1=checksum("SHA1", b"same"))
    t.plain.put_object(Bucket=bucket, Key="b", Body=b"same", ChecksumCRC32C=checksum("CRC32C", b"same"))
    equal(t.plain.head_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED").get("ChecksumSHA1"), checksum("SHA1", b"same"))
    equal(t.plain.head_object(Bucket=bucket, Key="b", ChecksumMode="ENABLED").get("ChecksumCRC32C"), checksum("CRC32C", b"same"))


@each("checksums", ALGORITHMS)
def checksum_of_part(t, algorithm):
    upload = Upload(t) if algorithm == "CRC64NVME" else Upload(t, ChecksumAlgorithm=algorithm)
    value = checksum(algorithm, b"data")
    found = t.plain.upload_part(**upload.names(), PartNumber=1, Body=b"data", **{f"Checksum{algorithm}": value})
    equal(found.get(f"Checksum{algorithm}"), value)
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload={"Parts": [
        {"PartNumber": 1, "ETag": found["ETag"], f"Checksum{algorithm}": value}]})
    equal(t.read(upload.bucket, "key"), b"data")


@each("checksums", ALGORITHMS)
def wrong_checksum_of_part(t, algorithm):
    upload = Upload(t)
    refused(
        lambda: t.plain.upload_part(**upload.names(), PartNumber=1, Body=b"data", **{f"Checksum{algorithm}": checksum(algorithm, b"other")}),
        "BadDigest", "InvalidRequest", status=400,
    )
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])


@case("checksums")
def wrong_checksum_in_complete(t):
    upload = Upload(t, ChecksumAlgorithm="CRC32")
    etag = upload.part(1, b"data", ChecksumCRC32=checksum("CRC32", b"data"))
    refused(
        lambda: t.plain.complete_multipart_upload(**upload.names(), MultipartUpload={"Parts": [
            {"PartNumber": 1, "ETag": etag, "ChecksumCRC32": checksum("CRC32", b"other")}]}),
        "InvalidPart", "BadDigest", "InvalidRequest", status=400,
    )


@case("checksums")
def wrong_checksum_of_whole_in_complete(t):
    upload = Upload(t, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    etag = upload.part(1, b"data", ChecksumCRC32=checksum("CRC32", b"data"))
    refused(
        lambda: t.plain.complete_multipart_upload(
            **upload.names(), ChecksumCRC32=checksum("CRC32", b"other"), ChecksumType="FULL_OBJECT",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}),
        "BadDigest", "InvalidRequest", "NotImplemented",
    )


@each("checksums", [3, 5])
def wrong_size_in_complete(t, size):
    upload = Upload(t)
    etag = upload.part(1, b"data")
    refused(
        lambda: t.plain.complete_multipart_upload(**upload.names(), MpuObjectSize=size, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}),
        "InvalidRequest", "NotImplemented",
    )


@case("checksums")
def default_multipart_of_boto3(t):
    bucket, body = t.bucket(), pattern(11 * MIB, 10)
    t.s3.upload_fileobj(io.BytesIO(body), bucket, "key", Config=TransferConfig(multipart_threshold=MIB, multipart_chunksize=5 * MIB))
    true(t.read(bucket, "key", ChecksumMode="ENABLED") == body, "the same bytes", "others")


# --- keys ---


def raw_path(bucket, key):
    return f"/{bucket}/" + quote(key, safe="/~")


@each("keys", SPECIAL + [
    "..", ".", "../a", "a/../b", "a/./b", "a/..", "./a", "../../etc/passwd", "///", "a///b/", "\x01", "a\nb", "a\rb", "a\x0bb",
    "\x1f", "a\r\nx: y", "\u2028", "\ufeff", "\ufffd", "\u202eabc", "con", "C:\\a", "%2e%2e", "%00", "%0A", "k" * 1024, "ä" * 512,
    "a/" * 512, "x" * 300, "😀" * 256,
])
def round_trip(t, key):
    bucket = t.bucket()
    path = raw_path(bucket, key)
    body = key.encode()
    answers(t.raw("PUT", path, body=body), 200)
    found = t.raw("GET", path)
    equal((found.status, found.body), (200, body), "GET")
    equal(t.raw("HEAD", path).status, 200, "HEAD")
    listed = t.raw("GET", "/" + bucket, "encoding-type=url&list-type=2").texts("Key")
    equal([unquote(item.replace("+", " ")) for item in listed], [key], "key in the listing")
    equal(t.raw("DELETE", path).status, 204)
    equal(t.raw("GET", path).status, 404)


@each("keys", ["k" * 1025, "ä" * 513, "a/" * 513, "k" * 5000])
def too_long(t, key):
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 400, "KeyTooLongError")
    equal(t.raw("DELETE", raw_path(bucket, key)).status // 100, 4)


@case("keys")
def too_long_for_get(t):
    answers(t.raw("GET", raw_path(t.bucket(), "k" * 1025)), 400, "KeyTooLongError")


@case("keys")
def too_long_for_copy(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="k" * 1025, CopySource=source(bucket)), "KeyTooLongError", status=400)


@each("keys", ["%00", "a%00b"])
def with_nul(t, path):
    # AWS stores NUL; a clear refusal is fine too, because databases cannot.
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/{path}", body=b"x")
    if found.status == 200:
        equal(t.raw("GET", f"/{bucket}/{path}").body, b"x")
    else:
        answers(found, 400)
        true(found.code in ("InvalidArgument", "InvalidRequest", "InvalidURI"), "a clear code", found)


@each("keys", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF"])
def that_is_no_utf8(t, path):
    found = t.raw("PUT", f"/{t.bucket()}/{path}", body=b"x")
    true(found.status == 400 and found.code, "400 InvalidURI", found)


@each("keys", ["%", "%zz", "a%2"])
def with_broken_escape(t, path):
    found = t.raw("PUT", f"/{t.bucket()}/{path}", body=b"x")
    true(400 <= found.status < 500 and found.code, "400 InvalidURI", found)


@case("keys")
def plus_in_path_is_a_plus(t):
    bucket = t.bucket()
    t.put(bucket, "a b", body=b"space")
    t.put(bucket, "a+b", body=b"plus")
    equal((t.read(bucket, "a b"), t.read(bucket, "a+b")), (b"space", b"plus"))
    # The path is sent as it is; clients sign it encoded.
    equal(t.raw("GET", f"/{bucket}/a%2Bb").body, b"plus")


@case("keys")
def encoded_and_plain_keys_differ(t):
    bucket = t.bucket()
    for key in ("a/b", "a%2Fb", "a%252Fb"):
        t.put(bucket, key, body=key.encode())
    for key in ("a/b", "a%2Fb", "a%252Fb"):
        equal(t.read(bucket, key), key.encode())


@case("keys")
def similar_keys_differ(t):
    bucket = t.bucket()
    keys = ["a", "A", "a ", " a", "a/", "/a", "a//", "//a", "a\u0301", "á", "ａ", "ß", "ss", "a.", "./a", "a\\"]
    for key in keys:
        t.put(bucket, key, body=key.encode())
    for key in keys:
        equal(t.read(bucket, key), key.encode(), repr(key))
    equal(len(keys_of(t.s3.list_objects_v2(Bucket=bucket))), len(keys))


@case("keys")
def key_is_also_a_folder(t):
    bucket = t.bucket()
    t.put(bucket, "a", "a/b", "a/b/c", "a/")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["a", "a/", "a/b", "a/b/c"])


@each("keys", ["\x01", "a\nb", "\x08", "a\rb", "\ufffe"])
def control_characters_in_listing(t, key):
    # XML 1.0 has no control characters: boto3 asks for encoded keys.
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [key])


@case("keys")
def control_characters_in_listing_without_encoding(t):
    # AWS answers references such as &#x1;, which XML parsers may refuse; the rest must stay readable.
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/a%01b", body=b"x"), 200)
    found = t.raw("GET", "/" + bucket, "list-type=2")
    equal(found.status, 200)
    true(b"&#x1;" in found.body or b"&#1;" in found.body, "&#x1;", found.body[-400:])


@case("keys")
def carriage_return_in_listing_without_encoding(t):
    # A bare carriage return in XML is read as a line feed.
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/a%0Db", body=b"x"), 200)
    equal(t.raw("GET", "/" + bucket, "list-type=2").texts("Key"), ["a\rb"])


@each("keys", ["a\nb", "a&b<c>", "a\tb", " a "])
def delete_objects_with(t, key):
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 200)
    text = key.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "&#10;").replace("\t", "&#9;")
    body = f"<Delete><Object><Key>{text}</Key></Object></Delete>".encode()
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("keys")
def upload_with_control_characters(t):
    bucket = t.bucket()
    found = answers(t.raw("POST", f"/{bucket}/a%01b", "uploads="), 200)
    upload_id = re.search(rb"<UploadId>(.*?)</UploadId>", found.body).group(1).decode()
    listed = answers(t.raw("GET", "/" + bucket, "encoding-type=url&uploads="), 200)
    true(b"<Key>a%01b</Key>" in listed.body, "an encoded key", listed.body)
    equal(t.raw("DELETE", f"/{bucket}/a%01b", f"uploadId={quote(upload_id, safe='')}").status, 204)


# --- access ---


@each("access", [
    ("GET", ""), ("GET", "/key"), ("HEAD", "/key"), ("PUT", "/key"), ("DELETE", "/key"), ("DELETE", ""), ("PUT", ""), ("POST", "/key"),
])
def anonymous(t, method, path):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.send(method, f"/{bucket}{path}" + ("?uploads" if method == "POST" else ""), body=b"evil" if method == "PUT" else b"")
    answers(found, 403, *([] if method == "HEAD" else ["AccessDenied"]))
    equal(t.read(bucket, "key"), b"data")


@case("access")
def anonymous_list_of_buckets(t):
    found = t.send("GET", "/")
    true(found.status in (403, 307) and b"Buckets" not in found.body, "403", found)


@case("access")
def anonymous_missing_bucket(t):
    # No one may learn which buckets exist.
    equal(t.send("GET", "/suite-missing-bucket").status, t.send("GET", f"/{t.bucket()}").status)


@case("access")
def read_only_reads(t):
    bucket, s3 = t.bucket(), t.client("read_only")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", Tagging="a=1")
    equal(s3.get_object(Bucket=bucket, Key="key")["Body"].read(), b"data")
    s3.head_object(Bucket=bucket, Key="key")
    s3.head_bucket(Bucket=bucket)
    equal(keys_of(s3.list_objects_v2(Bucket=bucket)), ["key"])
    equal(keys_of(s3.list_objects(Bucket=bucket)), ["key"])
    s3.get_object_tagging(Bucket=bucket, Key="key")
    s3.list_multipart_uploads(Bucket=bucket)
    s3.get_bucket_location(Bucket=bucket)
    true(bucket in [item["Name"] for item in s3.list_buckets()["Buckets"]], "the bucket", "not in list")
    s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ETag"])


WRITES = {
    "put_object": {"Body": b"evil"}, "delete_object": {}, "create_multipart_upload": {}, "put_object_tagging": {"Tagging": {"TagSet": []}},
    "delete_object_tagging": {}, "copy_object": {"CopySource": "BUCKET/key"},
    "upload_part": {"UploadId": "UPLOAD", "PartNumber": 1, "Body": b"evil"},
    "upload_part_copy": {"UploadId": "UPLOAD", "PartNumber": 1, "CopySource": "BUCKET/key"},
    "complete_multipart_upload": {"UploadId": "UPLOAD", "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": WRONG}]}},
    "abort_multipart_upload": {"UploadId": "UPLOAD"},
}


def with_names(values, bucket, upload):
    return {name: value.replace("BUCKET", bucket).replace("UPLOAD", upload) if isinstance(value, str) else value for name, value in values.items()}


@each("access", list(WRITES))
def read_only_writes(t, call):
    upload = Upload(t)
    t.put(upload.bucket, "key")
    s3 = t.client("read_only")
    refused(lambda: getattr(s3, call)(Bucket=upload.bucket, Key="key", **with_names(WRITES[call], upload.bucket, upload.id)), "AccessDenied", status=403)
    equal(t.read(upload.bucket, "key"), b"data")
    t.s3.list_parts(**upload.names())


@case("access")
def read_only_buckets(t):
    bucket, s3 = t.bucket(), t.client("read_only")
    refused(lambda: s3.create_bucket(Bucket=t.name()), "AccessDenied", status=403)
    refused(lambda: s3.delete_bucket(Bucket=bucket), "AccessDenied", status=403)
    refused(lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a"}]}), "AccessDenied", status=403)
    t.s3.head_bucket(Bucket=bucket)


READS = {
    "get_object": {}, "head_object": {}, "get_object_tagging": {}, "list_parts": {"UploadId": "UPLOAD"},
    "get_object_attributes": {"ObjectAttributes": ["ETag"]},
}
BUCKET_CALLS = {
    "list_objects": {}, "list_objects_v2": {}, "list_multipart_uploads": {}, "head_bucket": {}, "get_bucket_location": {}, "delete_bucket": {},
    "delete_objects": {"Delete": {"Objects": [{"Key": "key"}]}}, "get_bucket_versioning": {},
}


@each("access", [(key, call) for key in ("limited", "other_tenant") for call in [*WRITES, *READS]])
def object_outside(t, key, call):
    upload = Upload(t)
    t.put(upload.bucket, "key")
    s3 = t.client(key)
    values = with_names({**WRITES, **READS}[call], upload.bucket, upload.id)
    refused(lambda: getattr(s3, call)(Bucket=upload.bucket, Key="key", **values), "AccessDenied", "403", *(("NoSuchBucket", "404") if key == "other_tenant" else ()))
    equal(t.read(upload.bucket, "key"), b"data")
    t.s3.list_parts(**upload.names())


@each("access", [(key, call) for key in ("limited", "other_tenant") for call in BUCKET_CALLS])
def bucket_outside(t, key, call):
    bucket = t.bucket()
    t.put(bucket, "key")
    s3 = t.client(key)
    refused(lambda: getattr(s3, call)(Bucket=bucket, **BUCKET_CALLS[call]), "AccessDenied", "403", *(("NoSuchBucket", "404") if key == "other_tenant" else ()))
    equal(t.read(bucket, "key"), b"data")


@case("access")
def other_tenant_lists_no_bucket(t):
    bucket = t.bucket()
    true(bucket not in [item["Name"] for item in t.client("other_tenant").list_buckets()["Buckets"]], "no bucket of another tenant", bucket)


@case("access")
def copy_from_other_tenant(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    own = t.bucket(key="other_tenant")
    refused(lambda: t.client("other_tenant").copy_object(Bucket=own, Key="stolen", CopySource=source(bucket)), "AccessDenied", "NoSuchBucket")


@case("access")
def copy_part_from_other_tenant(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    own, s3 = t.bucket(key="other_tenant"), t.client("other_tenant")
    upload = s3.create_multipart_upload(Bucket=own, Key="key")["UploadId"]
    refused(lambda: s3.upload_part_copy(Bucket=own, Key="key", UploadId=upload, PartNumber=1, CopySource=source(bucket)), "AccessDenied", "NoSuchBucket")


@case("access")
def upload_of_other_tenant(t):
    upload = Upload(t)
    own, s3 = t.bucket(key="other_tenant"), t.client("other_tenant")
    names = {"Bucket": own, "Key": "key", "UploadId": upload.id}
    refused(lambda: s3.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: s3.list_parts(**names), "NoSuchUpload", status=404)
    refused(lambda: s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)


def limited_bucket(t, index=0):
    name = t.keys["limited"]["buckets"][index]
    t.buckets.append((name, "main"))
    t.s3.create_bucket(Bucket=name)
    return name


@case("access")
def limited_key(t):
    # One case for all, because the names of the buckets are fixed.
    bucket, outside, s3 = limited_bucket(t), t.bucket(), t.client("limited")
    s3.put_object(Bucket=bucket, Key="key", Body=b"data")
    equal(s3.get_object(Bucket=bucket, Key="key")["Body"].read(), b"data")
    equal([item["Name"] for item in s3.list_buckets()["Buckets"]], [bucket], "buckets in the list")
    t.put(outside, "secret")
    refused(lambda: s3.copy_object(Bucket=bucket, Key="copy", CopySource=source(outside, "secret")), "AccessDenied", status=403)
    refused(lambda: s3.copy_object(Bucket=outside, Key="copy", CopySource=source(bucket)), "AccessDenied", status=403)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="up")["UploadId"]
    refused(lambda: s3.upload_part_copy(Bucket=bucket, Key="up", UploadId=upload, PartNumber=1, CopySource=source(outside, "secret")), "AccessDenied", status=403)
    refused(lambda: s3.create_bucket(Bucket=t.name()), "AccessDenied", status=403)
    # A bucket of a name that begins with a permitted name is another bucket.
    longer = t.bucket(bucket + "-longer")
    refused(lambda: s3.list_objects_v2(Bucket=longer), "AccessDenied", status=403)
    url = s3.generate_presigned_url("get_object", Params={"Bucket": outside, "Key": "secret"})
    equal(follow(t, url).status, 403)


@case("access")
def limited_key_creates_its_bucket(t):
    name = t.keys["limited"]["buckets"][1]
    t.buckets.append((name, "main"))
    t.client("limited").create_bucket(Bucket=name)
    t.client("limited").delete_bucket(Bucket=name)


@each("access", ["..", "%2e%2e", "."])
def path_does_not_leave_the_bucket(t, step):
    bucket, outside = t.bucket(), t.bucket()
    t.put(outside, "secret", body=b"secret")
    found = t.raw("GET", f"/{bucket}/{step}/{outside}/secret")
    true(found.body != b"secret" and found.status in (400, 403, 404), "404", found)


# --- operations ---

BUCKET_QUERIES = {
    "acl": "BucketAcl", "cors": "BucketCors", "lifecycle": "BucketLifecycleConfiguration", "policy": "BucketPolicy",
    "website": "BucketWebsite", "encryption": "BucketEncryption", "notification": "BucketNotificationConfiguration",
    "replication": "BucketReplication", "logging": "BucketLogging", "requestPayment": "BucketRequestPayment", "tagging": "BucketTagging",
    "accelerate": "BucketAccelerateConfiguration", "object-lock": "ObjectLockConfiguration", "ownershipControls": "BucketOwnershipControls",
    "publicAccessBlock": "PublicAccessBlock",
}


@each("operations", list(BUCKET_QUERIES.items()))
def get_of_bucket(t, query, name):
    found = answers(t.raw("GET", "/" + t.bucket(), query + "="), 501, "NotImplemented")
    true("Get" + name in found.body.decode(), f"Get{name} in the message", found.body.decode())


@each("operations", [item for item in BUCKET_QUERIES.items()] + [("versioning", "BucketVersioning")])
def put_of_bucket(t, query, name):
    bodies = {
        "acl": "", "versioning": "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
        "cors": "<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule></CORSConfiguration>",
        "lifecycle": "<LifecycleConfiguration><Rule><Status>Enabled</Status><Filter><Prefix>a</Prefix></Filter></Rule></LifecycleConfiguration>",
        "policy": "{}", "website": "<WebsiteConfiguration></WebsiteConfiguration>",
        "encryption": "<ServerSideEncryptionConfiguration><Rule></Rule></ServerSideEncryptionConfiguration>",
        "notification": "<NotificationConfiguration></NotificationConfiguration>",
        "replication": "<ReplicationConfiguration><Role>a</Role><Rule><Status>Enabled</Status><Destination><Bucket>b</Bucket></Destination></Rule></ReplicationConfiguration>",
        "logging": "<BucketLoggingStatus></BucketLoggingStatus>",
        "requestPayment": "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>",
        "tagging": "<Tagging><TagSet></TagSet></Tagging>", "accelerate": "<AccelerateConfiguration></AccelerateConfiguration>",
        "object-lock": "<ObjectLockConfiguration></ObjectLockConfiguration>",
        "ownershipControls": "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>",
        "publicAccessBlock": "<PublicAccessBlockConfiguration></PublicAccessBlockConfiguration>",
    }
    body = bodies[query].encode()
    found = answers(t.raw("PUT", "/" + t.bucket(), query + "=", {"content-md5": md5_base64(body)}, body), 501, "NotImplemented")
    true("Put" + name in found.body.decode(), f"Put{name} in the message", found.body.decode())


@each("operations", ["cors", "lifecycle", "policy", "website", "encryption", "replication", "tagging", "ownershipControls", "publicAccessBlock"])
def delete_of_bucket(t, query):
    # A DELETE that takes an unknown query for DeleteBucket would remove the bucket.
    bucket = t.bucket()
    answers(t.raw("DELETE", "/" + bucket, query + "="), 501, "NotImplemented")
    t.s3.head_bucket(Bucket=bucket)


@each("operations", ["analytics", "inventory", "metrics", "intelligent-tiering"])
def configurations_of_bucket(t, query):
    bucket = t.bucket()
    answers(t.raw("GET", "/" + bucket, query + "="), 501, "NotImplemented")
    answers(t.raw("DELETE", "/" + bucket, query + "=&id=a"), 501, "NotImplemented")
    t.s3.head_bucket(Bucket=bucket)


@each("operations", [("acl", "GetObjectAcl"), ("legal-hold", "GetObjectLegalHold"), ("retention", "GetObjectRetention"), ("torrent", "GetObjectTorrent")])
def get_of_object(t, query, name):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = answers(t.raw("GET", f"/{bucket}/key", query + "="), 501, "NotImplemented")
    true(name in found.body.decode(), f"{name} in the message", found.body.decode())


@each("operations", [("acl", ""), ("legal-hold", "<LegalHold><Status>ON</Status></LegalHold>"), ("retention", "<Retention></Retention>")])
def put_of_object(t, query, document):
    # A PUT that takes an unknown query for PutObject would replace the object by XML.
    bucket, body = t.bucket(), document.encode()
    t.put(bucket, "key")
    answers(t.raw("PUT", f"/{bucket}/key", query + "=", {"content-md5": md5_base64(body)}, body), 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"data")


@each("operations", [
    ("restore", "<RestoreRequest><Days>1</Days></RestoreRequest>"),
    ("select&select-type=2", "<SelectObjectContentRequest><Expression>a</Expression><ExpressionType>SQL</ExpressionType><InputSerialization/><OutputSerialization/></SelectObjectContentRequest>"),
])
def post_of_object(t, query, document):
    bucket = t.bucket()
    t.put(bucket, "key")
    query = "restore=" if query == "restore" else "select=&select-type=2"
    answers(t.raw("POST", f"/{bucket}/key", query, {}, document.encode()), 501, "NotImplemented")


@case("operations")
def list_versions(t):
    bucket = t.bucket()
    refused(lambda: t.s3.list_object_versions(Bucket=bucket), "NotImplemented", status=501)


@each("operations", ["get_object", "head_object"])
def read_of_version(t, call):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: getattr(t.s3, call)(Bucket=bucket, Key="key", VersionId="abc"), "NotImplemented", "NoSuchVersion", "InvalidArgument", "404", "501", "400")


@each("operations", ["PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def unknown_method(t, method):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.raw(method, f"/{bucket}/key")
    true(400 <= found.status < 600 and found.status != 500, "405 MethodNotAllowed", found)
    equal(t.read(bucket, "key"), b"data")


@each("operations", [("POST", "/"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/BUCKET/key"), ("POST", "/BUCKET")])
def unknown_operation(t, method, path):
    found = t.raw(method, path.replace("BUCKET", t.bucket()), body=b"")
    true(found.status in (400, 405, 411, 412, 501) and found.code, "405 MethodNotAllowed or 501 NotImplemented", found)


@each("operations", ["unknown=", "versionId=null", "x-id=PutObject", "unknown"])
def put_with_more_query(t, query):
    # SDKs add x-id. AWS ignores what it does not know; versionId is refused.
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/key", query, body=b"data")
    if query.startswith("versionId"):
        true(found.status in (200, 400, 501), "a refusal", found)
    else:
        answers(found, 200)


@case("operations")
def expected_bucket_owner(t):
    # The owner is not known to the client; a wrong one must not be ignored.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    try:
        t.plain.put_object(Bucket=bucket, Key="key", Body=b"evil", ExpectedBucketOwner="999999999999")
    except ClientError as error:
        true(error.response["Error"]["Code"] in ("AccessDenied", "NotImplemented"), "AccessDenied", error.response["Error"])
    equal(t.read(bucket, "key"), b"keep")


@each("operations", ["x-amz-write-offset-bytes", "x-amz-grant-read", "x-amz-grant-full-control"])
def header_that_changes_the_meaning(t, name):
    # Appends and grants must not become a plain PutObject.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    value = "4" if "offset" in name else 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'
    answers(t.raw("PUT", f"/{bucket}/key", headers={name: value}, body=b"evil"), 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"keep")


@case("operations")
def rename(t):
    bucket = t.bucket()
    t.put(bucket, "key", "other", body=b"keep")
    found = t.raw("PUT", f"/{bucket}/key", "renameObject=", {"x-amz-rename-source": f"/{bucket}/other"})
    answers(found, 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"keep")


@each("operations", ["create_multipart_upload", "copy_object"])
def what_other_writers_do_not_have(t, call):
    bucket = t.bucket()
    t.put(bucket, "source")
    names = {"Bucket": bucket, "Key": "key", **({"CopySource": source(bucket, "source")} if call == "copy_object" else {})}
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    for values in (
        {"ACL": "public-read"}, {"ServerSideEncryption": "AES256"}, {"WebsiteRedirectLocation": "/a"},
        {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}, {"ObjectLockLegalHoldStatus": "ON"},
    ):
        refused(lambda values=values: getattr(t.s3, call)(**names, **values), "NotImplemented", status=501)


@each("operations", ["get_object", "list_objects_v2", "delete_object", "copy_object", "upload_part"])
def expected_bucket_owner_of(t, call):
    bucket = t.bucket()
    t.put(bucket, "key")
    values = {"list_objects_v2": {}, "copy_object": {"Key": "copy", "CopySource": source(bucket)}}.get(call, {"Key": "key"})
    if call == "upload_part":
        values = {**Upload(t, bucket).names(), "PartNumber": 1, "Body": b"x"}
    values["Bucket"] = bucket
    refused(lambda: getattr(t.plain, call)(**values, ExpectedBucketOwner="999999999999"), "AccessDenied", "NotImplemented")


# --- xml ---

BOMB = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + index)} "{f"&{chr(97 + index)};" * 10}">' for index in range(9)
) + "]>"
TARGETS = {
    "delete": ("POST", "", "delete=", "<Delete><Object><Key>{}</Key></Object></Delete>"),
    "tagging": ("PUT", "/key", "tagging=", "<Tagging><TagSet><Tag><Key>a</Key><Value>{}</Value></Tag></TagSet></Tagging>"),
    "create": ("PUT", None, "", "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>"),
}


def send_xml(t, target, prologue, value):
    method, path, query, document = TARGETS[target]
    bucket = t.name() if path is None else t.bucket()
    if path is not None:
        t.put(bucket, "key")
    body = (prologue + document.format(value)).encode() if isinstance(value, str) else value
    return t.raw(method, f"/{bucket}{path or ''}", query, {"content-md5": md5_base64(body)}, body)


@each("xml", list(TARGETS))
def entity_bomb(t, target):
    start = time.monotonic()
    found = send_xml(t, target, BOMB, "&j;")
    true(time.monotonic() - start < 5, "an answer in 5 seconds", time.monotonic() - start)
    answers(found, 400, "MalformedXML")


@each("xml", list(TARGETS))
def external_entity(t, target):
    found = send_xml(t, target, '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;")
    true(found.status == 400 and b"root:" not in found.body, "400 MalformedXML", found)


@each("xml", [(target, size) for target in ("tagging", "create") for size in (MIB + 1, 3 * MIB)] + [("delete", 3 * MIB)])
def large_document(t, target, size):
    found = send_xml(t, target, "", "x" * size)
    true(found.status in (400, 413) and found.code, "400 MaxMessageLengthExceeded or MalformedXML", found)


@each("xml", list(TARGETS))
def deep_document(t, target):
    found = send_xml(t, target, "", b"<a>" * 100000)
    answers(found, 400, "MalformedXML")


@each("xml", [(target, body) for target in TARGETS for body in (b"\xff\xfe<", b"{}", b"<a", b"<a></b>", b"\x00\x00", b"<?xml?>")])
def malformed(t, target, body):
    answers(send_xml(t, target, "", body), 400, "MalformedXML")


@each("xml", ["&amp;&lt;&gt;&quot;&apos;", "&#65;&#x42;", "<![CDATA[a&b]]>", "&#128196;"])
def references(t, text):
    bucket = t.bucket()
    t.put(bucket, "key")
    body = TARGETS["tagging"][3].format(text).encode()
    answers(t.raw("PUT", f"/{bucket}/key", "tagging=", {"content-md5": md5_base64(body)}, body), 200)
    equal(tags_of(t, bucket)["a"], {"&amp;": "&<>\"'", "&#65;": "AB", "<![CD": "a&b", "&#128": "📄"}[text[:5]])


@case("xml")
def character_data_sections_in_keys(t):
    bucket = t.bucket()
    t.put(bucket, "a&b", "keep")
    body = b"<Delete><Object><Key><![CDATA[a&b]]></Key></Object></Delete>"
    found = t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body)
    true(found.status in (200, 400), "200, or 400 MalformedXML", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["keep"] if found.status == 200 else ["a&b", "keep"])


@case("xml")
def declaration_comment_and_unknown_elements(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    body = b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>\n<!-- a comment -->\n<Delete>\n<Object><Key>a</Key></Object><!-- b -->\n</Delete>\n'
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("xml")
def namespace_prefix(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    body = b'<s:Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Object><s:Key>a</s:Key></s:Object></s:Delete>'
    found = t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body)
    true(found.status in (200, 400), "200, or 400 MalformedXML", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [] if found.status == 200 else ["a"])


# --- races ---


def meanwhile(seconds, writers, readers):
    """Run functions again and again at the same time; return what readers raised."""
    end, problems = time.monotonic() + seconds, []

    def loop(function, is_reader):
        count = 0
        while time.monotonic() < end:
            count += 1
            try:
                function(count)
            except (ClientError, Failure) as error:
                text = f"{function.__name__}: {error}"
                # SlowDown and ServiceUnavailable ask the client to repeat, as AWS does.
                if "SlowDown" not in text and "ServiceUnavailable" not in text and "(503)" not in text:
                    problems.append(text)
                    if is_reader:
                        return

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for function in writers:
            pool.submit(loop, function, False)
        for function in readers:
            pool.submit(loop, function, True)
    return problems


def quiet(problems):
    true(not problems, "no error", sorted(set(problems))[:3])


@each("races", ["put", "copy", "multipart"])
def read_while_replaced(t, how):
    # AWS is strongly consistent: a key that is replaced is never missing.
    bucket = t.bucket()
    bodies = {f'"{md5_hex(body)}"': body for body in (pattern(10, 1), pattern(200000, 2))}
    t.put(bucket, "a", body=pattern(10, 1))
    t.put(bucket, "b", body=pattern(200000, 2))
    t.put(bucket, "key", body=pattern(10, 1))

    def write(count):
        body = list(bodies.values())[count % 2]
        if how == "put":
            t.plain.put_object(Bucket=bucket, Key="key", Body=body)
        elif how == "copy":
            t.plain.copy_object(Bucket=bucket, Key="key", CopySource=source(bucket, "ab"[count % 2]))
        else:
            upload = Upload(t, bucket)
            upload.part(1, body)
            upload.complete()

    def get(_):
        found = t.plain.get_object(Bucket=bucket, Key="key")
        body = found["Body"].read()
        if "-" in found["ETag"]:
            true(body in bodies.values(), "one of the bodies", len(body))
        else:
            true(bodies.get(found["ETag"]) == body, "the body of the ETag", (found["ETag"], len(body)))

    def head(_):
        t.plain.head_object(Bucket=bucket, Key="key")

    def copy(_):
        t.plain.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))

    def list_it(_):
        equal(keys_of(t.plain.list_objects_v2(Bucket=bucket, Prefix="key")), ["key"])

    def tags(_):
        t.plain.get_object_tagging(Bucket=bucket, Key="key")

    quiet(meanwhile(4, [write], [get, head, copy, list_it, tags]))


@case("races")
def equal_content_while_deleted(t):
    # Equal files share their content. The last deletion must not take the content from a new object.
    bucket, body = t.bucket(), pattern(100000, 77)

    def worker(name):
        def put_get_delete(count):
            t.plain.put_object(Bucket=bucket, Key=name, Body=body)
            true(t.plain.get_object(Bucket=bucket, Key=name)["Body"].read() == body, "the body", "another")
            if count % 3 == 0:
                t.plain.copy_object(Bucket=bucket, Key=name + "-copy", CopySource=source(bucket, name))
            t.plain.delete_object(Bucket=bucket, Key=name)
            if count % 3 == 0:
                true(t.plain.get_object(Bucket=bucket, Key=name + "-copy")["Body"].read() == body, "the body", "another")
                t.plain.delete_object(Bucket=bucket, Key=name + "-copy")
        return put_get_delete

    quiet(meanwhile(5, [worker(name) for name in "abcdef"], []))


@case("races")
def list_while_others_change(t):
    # Keys that nobody touches are in every listing, once and in order.
    bucket = t.bucket()
    still = [f"k{index:03}" for index in range(0, 60, 2)]
    t.put(bucket, *still)

    def change(count):
        key = f"k{(count * 7) % 60 | 1:03}"
        t.plain.put_object(Bucket=bucket, Key=key, Body=b"x")
        t.plain.delete_object(Bucket=bucket, Key=key)

    def list_all(_):
        found = [item[0] for item in list_in_pages_quickly(t, bucket, 7)]
        equal(found, sorted(set(found)))
        equal([key for key in found if key in still], still)

    quiet(meanwhile(4, [change, change], [list_all, list_all]))


def list_in_pages_quickly(t, bucket, size):
    pages = t.plain.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
    return [(key, False) for page in pages for key in keys_of(page)]


@case("races")
def put_while_bucket_is_deleted(t):
    # A PUT that was answered by 200 is in the bucket, so the bucket was not deleted.
    for _ in range(10):
        bucket = t.bucket()

        def put(_, bucket=bucket):
            try:
                t.plain.put_object(Bucket=bucket, Key="key", Body=b"x")
                return True
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("NoSuchBucket", "ServiceUnavailable", "OperationAborted"), "NoSuchBucket", error.response["Error"])
                return False

        def drop(_, bucket=bucket):
            try:
                t.plain.delete_bucket(Bucket=bucket)
                return True
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("BucketNotEmpty", "ServiceUnavailable", "OperationAborted"), "BucketNotEmpty", error.response["Error"])
                return False

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            stored, dropped = pool.submit(put, 0), pool.submit(drop, 0)
            stored, dropped = stored.result(), dropped.result()
        true(not (stored and dropped), "PUT or DELETE fails", "both succeed")
        if stored:
            equal(t.read(bucket, "key"), b"x")


@case("races")
def parts_while_aborted(t):
    for _ in range(5):
        upload = Upload(t)

        def put(number, upload=upload):
            try:
                t.plain.upload_part(**upload.names(), PartNumber=number, Body=b"x" * 100000)
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("NoSuchUpload", "ServiceUnavailable"), "NoSuchUpload", error.response["Error"])

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            jobs = [pool.submit(put, number) for number in range(1, 5)] + [pool.submit(upload.abort)]
            for job in jobs:
                job.result()
        refused(lambda upload=upload: t.s3.list_parts(**upload.names()), "NoSuchUpload")


@case("races")
def same_bucket_created_at_once(t):
    name = t.name()

    def create(key):
        try:
            t.client(key).create_bucket(Bucket=name)
            return key
        except ClientError as error:
            true(error.response["Error"]["Code"] in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou", "OperationAborted"), "BucketAlreadyExists", error.response["Error"])
            return None

    t.buckets.append((name, "other_tenant"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        owners = {key for key in pool.map(create, ["main", "other_tenant"] * 2) if key}
    equal(len(owners), 1, "tenants that own the bucket")


def run_case(endpoint, keys, item):
    tools = Tools(endpoint, keys)
    try:
        item[2](tools)
        return None
    except Failure as failure:
        return str(failure)
    except ClientError as error:
        answer = error.response
        return (
            f"expected success; found {answer['ResponseMetadata'].get('HTTPStatusCode')} {answer['Error'].get('Code')} "
            f"from {error.operation_name}: {answer['Error'].get('Message')}"
        )
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        places = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == __file__]
        return f"expected no exception; found {type(error).__name__}: {short(str(error))} at {places or line}"
    finally:
        tools.clean()


def main():
    parser = argparse.ArgumentParser(description="Conformance suite for the S3 API of osproxy")
    parser.add_argument("endpoint")
    parser.add_argument("keys")
    parser.add_argument("--groups", help="run the cases of these groups, separated by commas")
    parser.add_argument("--known", help="file with the names of cases that are known to fail")
    parser.add_argument("--case", help="run the cases whose name contains this text")
    parser.add_argument("--jobs", type=int, default=4, help="cases to run at the same time")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    options = parser.parse_args()
    selected = [
        item for item in CASES
        if (not options.groups or item[0] in options.groups.split(",")) and (not options.case or options.case in item[1])
    ]
    if options.list:
        for group, name, _ in selected:
            print(group, name)
        return 0
    if not selected:
        print("no case matches")
        return 1
    with open(options.keys, encoding="utf-8") as file:
        keys = json.load(file)
    known = set()
    if options.known:
        with open(options.known, encoding="utf-8") as file:
            known = {line.rstrip("\n") for line in file if not line.startswith("#")}
    failed, wrong_known = 0, 0
    groups = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for item, problem in zip(selected, pool.map(lambda item: run_case(options.endpoint, keys, item), selected)):
            count = groups.setdefault(item[0], [0, 0])
            count[0] += 1
            is_known = f"{item[0]} {item[1]}" in known
            if problem:
                count[1] += 1
                failed += 1
                if not is_known:
                    print(f"FAILED {item[0]} {item[1]}: {problem}", flush=True)
            elif is_known:
                print(f"PASSED, although it is known to fail: {item[0]} {item[1]}", flush=True)
            wrong_known += bool(problem) != is_known
    for group, (total, wrong) in groups.items():
        print(f"{group}: {total - wrong} of {total}")
    print(f"{len(selected) - failed} of {len(selected)} cases passed")
    return 1 if wrong_known else 0


if __name__ == "__main__":
    sys.exit(main())
