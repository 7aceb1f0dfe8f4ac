"""Cases: tagging."""

import time

from .tools import answers, case, each, equal, md5_base64, refused


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
