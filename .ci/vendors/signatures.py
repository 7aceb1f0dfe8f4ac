"""Differences between the vendors: host names, error codes, and signatures."""

import calendar
import re
import threading
import time
from datetime import datetime

import oss2
import requests
from qcloud_cos import CosConfig, cos_auth

from store import Refusal

# Maximum clock difference and maximum lifetime of a signature, in seconds.
SKEW = 900
VALIDITY = 3 * 3600


class Clock(threading.local):
    """The time as an SDK sees it: that of the client's signature, per thread."""

    now = None

    def time(self):
        return self.now

    def utcnow(self):
        return self.now


class Keys:
    """The accepted keys: secrets by key id, with tokens for temporary keys."""

    def __init__(self, lasting, temporary):
        self.known = {lasting[0]: (lasting[1], None), temporary[0]: (temporary[1], temporary[2])}

    def secret(self, key_id, token):
        secret, wanted = self.known.get(key_id, (None, None))
        if secret is None or (wanted and token is None):
            raise Refusal(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records.")
        if token != wanted:
            raise Refusal(403, "InvalidSecurityToken", "The security token you provided is invalid.")
        return secret


def denied(message):
    return Refusal(403, "AccessDenied", message)


def mismatch():
    return Refusal(403, "SignatureDoesNotMatch", "The signature we calculated does not match the one you provided.")


def fresh(seconds):
    if abs(time.time() - seconds) > SKEW:
        raise Refusal(403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large.")


class Cos:
    SERVER, PREFIX = "tencent-cos", "x-cos-"
    BAD_MD5 = "BadDigest"
    QUOTE = "&quot;"
    MADE_AGAIN = 409, "BucketAlreadyOwnedByYou", "The bucket you tried to create already exists, and you own it."
    clock = cos_auth.time = Clock()

    def __init__(self, keys, appid, region):
        self.keys, self.ending = keys, f"-{appid}.cos.{region}.myqcloud.com"
        self.region = region

    def bucket_of(self, host):
        return host.removesuffix(self.ending) if host.endswith(self.ending) else None

    def full_name(self, bucket):
        return bucket + self.ending.partition(".")[0]

    @staticmethod
    def tag_of(digest):
        return digest

    def check(self, request, bucket):
        said = dict(field.partition("=")[::2] for field in request.headers.get("Authorization", "").split("&"))
        times = re.fullmatch(r"(\d+);(\d+)", said.get("q-sign-time", ""))
        if said.get("q-sign-algorithm") != "sha1" or not times:
            raise denied("There is no signature.")
        secret = self.keys.secret(said.get("q-ak"), request.headers.get("x-cos-security-token"))
        start, end = int(times[1]), int(times[2])
        fresh(start)
        if not time.time() < end <= start + VALIDITY:
            raise denied("Request has expired.")
        headers = said.get("q-header-list", "").split(";")
        # Without the host, a signature would be valid for every bucket.
        if "host" not in headers:
            raise mismatch()
        config = CosConfig(Region=self.region, SecretId=said["q-ak"], SecretKey=secret)
        self.clock.now = start + 60
        signed = {name: value for name, value in request.headers.items() if name.lower() in headers}
        copy = requests.Request(request.command, request.url, headers=signed)
        sign = cos_auth.CosS3Auth(config, request.url_path, request.parameters, end - start - 60)
        # The SDK signs all parameters. Comparing the whole header also compares the lists of what was signed.
        if sign(copy).headers["Authorization"] != request.headers["Authorization"]:
            raise mismatch()

    @staticmethod
    def whole_instead(_headers):
        return False


class Oss:
    SERVER, PREFIX = "AliyunOSS", "x-oss-"
    BAD_MD5 = "InvalidDigest"
    QUOTE = '"'
    MADE_AGAIN = None
    clock = oss2.auth.datetime = Clock()

    def __init__(self, keys, region):
        self.keys, self.ending, self.region = keys, f".oss-{region}.aliyuncs.com", region

    def bucket_of(self, host):
        return host.removesuffix(self.ending) if host.endswith(self.ending) else None

    @staticmethod
    def full_name(bucket):
        return bucket

    @staticmethod
    def tag_of(digest):
        return digest.upper()

    def check(self, request, bucket):
        said = request.headers.get("Authorization", "")
        algorithm, _, rest = said.partition(" ")
        said = dict(field.strip().partition("=")[::2] for field in rest.split(","))
        date = request.headers.get("x-oss-date", "")
        if algorithm != "OSS4-HMAC-SHA256" or not re.fullmatch(r"\d{8}T\d{6}Z", date):
            raise denied("There is no signature.")
        key_id = said.get("Credential", "").partition("/")[0]
        secret = self.keys.secret(key_id, request.headers.get("x-oss-security-token"))
        when = datetime.strptime(date, "%Y%m%dT%H%M%SZ")
        fresh(calendar.timegm(when.timetuple()))
        self.clock.now = when
        copy = oss2.http.Request(request.command, request.url, params=dict(request.parameters),
                                 headers=dict(request.headers), region=self.region, product="oss")
        del copy.headers["Authorization"]
        additional = said.get("AdditionalHeaders", "")
        sign = oss2.AuthV4(key_id, secret)
        sign._sign_request(copy, bucket, request.name, additional.split(";") if additional else None)
        again = dict(field.strip().partition("=")[::2] for field in copy.headers["Authorization"].partition(" ")[2].split(","))
        if again != said:
            raise mismatch()

    @staticmethod
    def whole_instead(headers):
        """For a range beyond the end, OSS sends the whole object, unless the standard behaviour is requested."""
        return headers.get("x-oss-range-behavior") != "standard"
