"""Cases: conditional."""

import concurrent.futures
import datetime

from botocore.exceptions import ClientError

from .tools import Failure, answers, case, each, equal, refused, true

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
WRONG = '"00000000000000000000000000000000"'


def later():
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)


@each("conditional", [
    ({"IfMatch": "same"}, 200), ({"IfMatch": WRONG}, 412), ({"IfMatch": "*"}, 200), ({"IfMatch": "bare"}, 200),
    ({"IfNoneMatch": "same"}, 304), ({"IfNoneMatch": WRONG}, 200), ({"IfNoneMatch": "*"}, 304),
    ({"IfModifiedSince": "past"}, 200), ({"IfModifiedSince": "now"}, 304), ({"IfUnmodifiedSince": "past"}, 412),
    ({"IfUnmodifiedSince": "later"}, 200), ({"IfMatch": "same", "IfUnmodifiedSince": "past"}, 200),
    ({"IfNoneMatch": "same", "IfModifiedSince": "past"}, 304), ({"IfNoneMatch": WRONG, "IfModifiedSince": "now"}, 200),
    ({"IfMatch": WRONG, "IfUnmodifiedSince": "later"}, 412),
    ({"IfUnmodifiedSince": "now"}, 200),
])
def read_condition(t, conditions, status):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data")["ETag"]
    modified = t.s3.head_object(Bucket=bucket, Key="key")["LastModified"]
    names = {"same": etag, "past": PAST, "now": modified, "later": later(), "bare": etag.strip('"')}
    conditions = {name: names.get(value, value) for name, value in conditions.items()}
    for call in (t.s3.get_object, t.s3.head_object):
        try:
            found = call(Bucket=bucket, Key="key", **conditions)["ResponseMetadata"]["HTTPStatusCode"]
        except ClientError as error:
            found = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if call == t.s3.get_object and found == 412:
                equal(error.response["Error"]["Code"], "PreconditionFailed")
        equal(found, status, call.__name__)


@case("conditional")
def not_modified_has_etag(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", CacheControl="max-age=1")["ETag"]
    found = t.raw("GET", f"/{bucket}/key", headers={"if-none-match": etag})
    equal((found.status, found.body, found.headers.get("etag")), (304, b"", etag))
    true("last-modified" in found.headers, "Last-Modified", found.headers)


@case("conditional")
def malformed_date_is_ignored(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(t.raw("GET", f"/{bucket}/key", headers={"if-modified-since": "yesterday"}).status, 200)


@case("conditional")
def write_if_none_match_new(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", IfNoneMatch="*")
    equal(t.read(bucket, "key"), b"data")


@case("conditional")
def write_if_none_match_existing(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch="*"), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")


@case("conditional")
def write_if_none_match_after_delete(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    t.s3.delete_object(Bucket=bucket, Key="key")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch="*")
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def write_if_none_match_etag(t):
    bucket = t.bucket()
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfNoneMatch=WRONG), "NotImplemented", status=501)


@case("conditional")
def write_if_match(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"old")["ETag"]
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=etag)
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def write_if_match_other(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=WRONG), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")


@case("conditional")
def write_if_match_missing(t):
    bucket = t.bucket()
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"new", IfMatch=WRONG), "NoSuchKey", status=404)


@case("conditional")
def one_of_many_creators_wins(t):
    bucket = t.bucket()

    def create(index):
        try:
            t.plain.put_object(Bucket=bucket, Key="key", Body=str(index).encode(), IfNoneMatch="*")
            return index
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [index for index in pool.map(create, range(16)) if index is not None]
    equal(len(winners), 1, "winners")
    equal(t.read(bucket, "key"), str(winners[0]).encode())


@case("conditional")
def counter_with_if_match(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"0")

    def add(_):
        for _ in range(200):
            found = t.s3.get_object(Bucket=bucket, Key="key")
            value = int(found["Body"].read()) + 1
            try:
                t.plain.put_object(Bucket=bucket, Key="key", Body=str(value).encode(), IfMatch=found["ETag"])
                return
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                    raise
        raise Failure("an update that succeeds", "200 conflicts")

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(12)))
    equal(t.read(bucket, "key"), b"12")


@case("conditional")
def delete_if_match(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"keep")["ETag"]
    refused(lambda: t.s3.delete_object(Bucket=bucket, Key="key", IfMatch=WRONG), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"keep")
    t.s3.delete_object(Bucket=bucket, Key="key", IfMatch=etag)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("conditional")
def delete_if_there(t):
    bucket = t.bucket()
    refused(lambda: t.s3.delete_object(Bucket=bucket, Key="key", IfMatch="*"), "NoSuchKey", status=404)
    t.put(bucket, "key")
    t.s3.delete_object(Bucket=bucket, Key="key", IfMatch="*")
    refused(lambda: t.s3.delete_object(Bucket=bucket, Key="key", IfMatch=WRONG), "NoSuchKey", status=404)


@each("conditional", [("if-none-match", "*"), ("x-amz-if-match-size", "4"), ("x-amz-if-match-last-modified-time", "Wed, 21 Oct 2015 07:28:00 GMT")])
def delete_with_other_condition(t, name, value):
    # AWS has these for directory buckets only. Ignoring them would delete what must stay.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    answers(t.raw("DELETE", f"/{bucket}/key", headers={name: value}), 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"keep")


@case("conditional")
def one_of_many_deletions_wins(t):
    bucket = t.bucket()
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data")["ETag"]

    def delete(_):
        try:
            return t.s3.delete_object(Bucket=bucket, Key="key", IfMatch=etag)
        except ClientError as error:
            equal(error.response["Error"]["Code"], "NoSuchKey")
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        equal(len([found for found in pool.map(delete, range(16)) if found]), 1, "deletions")


def upload_of_one_part(t, bucket, body):
    """Return what completes a multipart upload of this body."""
    upload = t.plain.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    etag = t.plain.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=1, Body=body)["ETag"]
    return {"Bucket": bucket, "Key": "key", "UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": etag}]}}


@case("conditional")
def complete_if_none_match(t):
    bucket = t.bucket()
    upload = upload_of_one_part(t, bucket, b"new")
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.complete_multipart_upload(**upload, IfNoneMatch="*"), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")
    # The upload is as it was.
    equal(len(t.s3.list_parts(Bucket=bucket, Key="key", UploadId=upload["UploadId"])["Parts"]), 1)
    t.s3.delete_object(Bucket=bucket, Key="key")
    done = t.plain.complete_multipart_upload(**upload, IfNoneMatch="*")
    equal(t.read(bucket, "key"), b"new")
    # A client may repeat a request whose answer was lost.
    equal(t.plain.complete_multipart_upload(**upload, IfNoneMatch="*")["ETag"], done["ETag"])


@case("conditional")
def complete_if_match(t):
    bucket = t.bucket()
    upload = upload_of_one_part(t, bucket, b"new")
    refused(lambda: t.plain.complete_multipart_upload(**upload, IfMatch=WRONG), "NoSuchKey", status=404)
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=b"old")["ETag"]
    refused(lambda: t.plain.complete_multipart_upload(**upload, IfMatch=WRONG), "PreconditionFailed", status=412)
    equal(t.read(bucket, "key"), b"old")
    t.plain.complete_multipart_upload(**upload, IfMatch=etag)
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def complete_without_condition_after_a_refusal(t):
    bucket = t.bucket()
    upload = upload_of_one_part(t, bucket, b"new")
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.complete_multipart_upload(**upload, IfMatch=WRONG), "PreconditionFailed", status=412)
    t.plain.complete_multipart_upload(**upload)
    equal(t.read(bucket, "key"), b"new")


@case("conditional")
def abort_after_a_refusal(t):
    bucket = t.bucket()
    upload = upload_of_one_part(t, bucket, b"new")
    refused(lambda: t.plain.complete_multipart_upload(**upload, IfMatch="*"), "NoSuchKey", status=404)
    t.s3.abort_multipart_upload(Bucket=bucket, Key="key", UploadId=upload["UploadId"])
    refused(lambda: t.plain.complete_multipart_upload(**upload), "NoSuchUpload", status=404)


@case("conditional")
def one_of_many_completions_wins(t):
    bucket = t.bucket()
    uploads = [upload_of_one_part(t, bucket, str(index).encode()) for index in range(8)]

    def complete(index):
        try:
            t.plain.complete_multipart_upload(**uploads[index], IfNoneMatch="*")
            return index
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        winners = [index for index in pool.map(complete, range(8)) if index is not None]
    equal(len(winners), 1, "winners")
    equal(t.read(bucket, "key"), str(winners[0]).encode())
