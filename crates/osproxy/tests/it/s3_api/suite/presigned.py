"""Cases: presigned."""

import datetime
import time
from urllib.parse import quote, urlsplit

from .multipart import Upload
from .tools import Signer, answers, case, each, equal, refused, sha256_hex, true


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
