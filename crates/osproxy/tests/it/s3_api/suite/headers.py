"""Cases: headers."""

import base64
import datetime
import hashlib
import hmac
import re

from .tools import Signer, answers, case, each, equal, refused, sha256_hex, tag, true


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
