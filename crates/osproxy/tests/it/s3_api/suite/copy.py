"""Cases: copy."""

from .conditional import PAST, WRONG, later
from .tagging import tags_of
from .tools import MIB, answers, case, checksum, each, equal, md5_hex, pattern, refused, true


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
