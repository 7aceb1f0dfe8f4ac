"""Cases: delete."""

from botocore.exceptions import ClientError

from .conditional import WRONG
from .listings import SPECIAL
from .tools import (
    MIB, answers, case, checksum, each, equal, keys_of, md5_base64, pattern, refused, true,
)


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
    etags = {key: t.plain.put_object(Bucket=bucket, Key=key, Body=key.encode())["ETag"] for key in "abc"}
    found = t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [
        {"Key": "a", "ETag": WRONG}, {"Key": "b", "ETag": etags["b"]}, {"Key": "c", "ETag": "*"}, {"Key": "d", "ETag": "*"}]})
    equal(sorted(item["Key"] for item in found["Deleted"]), ["b", "c"])
    equal([(item["Key"], item["Code"]) for item in found["Errors"]], [("a", "PreconditionFailed"), ("d", "NoSuchKey")])
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["a"])


@case("delete")
def delete_many_with_other_condition(t):
    bucket = t.bucket()
    t.put(bucket, "a", body=b"keep")
    found = t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "a", "Size": 4}]})
    equal([(item["Key"], item["Code"]) for item in found["Errors"]], [("a", "NotImplemented")])
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
