"""Cases: buckets."""

import datetime
import uuid

from botocore.exceptions import ClientError

from .tools import answers, case, each, equal, keys_of, refused, true


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
