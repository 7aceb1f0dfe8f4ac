"""What the cases use: checks, signatures and clients."""

import base64
import datetime
import hashlib
import hmac
import http.client
import random
import uuid
import zlib
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import boto3
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
