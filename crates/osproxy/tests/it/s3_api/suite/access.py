"""Cases: access."""

from .conditional import WRONG
from .copy import source
from .multipart import Upload
from .presigned import follow
from .tools import answers, case, each, equal, keys_of, refused, true


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
