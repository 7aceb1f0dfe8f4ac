"""Cases: metadata."""

import base64
import datetime

from .tools import Signer, answers, case, each, equal, md5_base64, refused, true


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
