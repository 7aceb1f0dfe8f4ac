"""Cases: multipart."""

import concurrent.futures
import hashlib
from urllib.parse import quote

from botocore.exceptions import ClientError

from .conditional import WRONG
from .copy import source
from .tagging import tags_of
from .tools import MIB, answers, case, each, equal, md5_base64, md5_hex, pattern, refused, true


class Upload:
    """A multipart upload of a case."""

    def __init__(self, t, bucket=None, key="key", **options):
        self.t, self.bucket, self.key = t, bucket or t.bucket(), key
        self.id = t.plain.create_multipart_upload(Bucket=self.bucket, Key=key, **options)["UploadId"]
        self.etags = {}

    def names(self):
        return {"Bucket": self.bucket, "Key": self.key, "UploadId": self.id}

    def part(self, number, body, **options):
        self.etags[number] = self.t.plain.upload_part(**self.names(), PartNumber=number, Body=body, **options)["ETag"]
        return self.etags[number]

    def complete(self, parts=None, **options):
        if parts is None:
            parts = sorted(self.etags.items())
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in parts]
        return self.t.plain.complete_multipart_upload(**self.names(), MultipartUpload={"Parts": parts}, **options)

    def abort(self):
        return self.t.s3.abort_multipart_upload(**self.names())


FIVE = pattern(5 * MIB, 55)


@each("multipart", [1, 2, 3])
def multipart(t, count):
    upload = Upload(t, Metadata={"a": "1"}, ContentType="text/a", Tagging="t=1")
    bodies = [pattern(5 * MIB, number) for number in range(count - 1)] + [b"last"]
    for number, body in enumerate(bodies, 1):
        equal(upload.part(number, body), f'"{md5_hex(body)}"', "ETag of the part")
    refused(lambda: t.s3.head_object(Bucket=upload.bucket, Key="key"), "404")
    found = upload.complete()
    etag = f'"{hashlib.md5(b"".join(hashlib.md5(body).digest() for body in bodies)).hexdigest()}-{count}"'
    equal((found["ETag"], found["Bucket"], found["Key"]), (etag, upload.bucket, "key"))
    true(found.get("Location"), "a Location", found)
    head = t.s3.head_object(Bucket=upload.bucket, Key="key")
    equal((head["ETag"], head["Metadata"], head["ContentType"]), (etag, {"a": "1"}, "text/a"))
    equal(tags_of(t, upload.bucket), {"t": "1"})
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the bytes of the parts", "others")
    equal(t.s3.list_objects_v2(Bucket=upload.bucket)["Contents"][0]["ETag"], etag)


@case("multipart")
def parts_in_any_order(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, 1), pattern(5 * MIB + 1, 2), pattern(5 * MIB + 2, 3), b"end"]
    for number in (3, 1, 4, 2):
        upload.part(number, bodies[number - 1])
    upload.complete()
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the parts in order", "other bytes")


@case("multipart")
def parts_at_once(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, seed) for seed in range(5)]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda number: upload.part(number, bodies[number - 1]), range(1, 6)))
    upload.complete()
    true(t.read(upload.bucket, "key") == b"".join(bodies), "the parts in order", "other bytes")


@case("multipart")
def part_is_sent_again(t):
    upload = Upload(t)
    upload.part(1, pattern(5 * MIB, 1))
    upload.part(2, b"first")
    upload.part(1, FIVE)
    upload.part(2, b"second and longer")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE + b"second and longer", "the parts that were sent last", "other bytes")


@case("multipart")
def old_etag_of_part_that_is_sent_again(t):
    upload = Upload(t)
    old = upload.part(1, b"first")
    upload.part(1, b"second")
    refused(lambda: upload.complete([(1, old)]), "InvalidPart", status=400)


@case("multipart")
def same_part_twice_at_once(t):
    upload, bodies = Upload(t), [pattern(5 * MIB, seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda body: t.plain.upload_part(**upload.names(), PartNumber=1, Body=body), bodies))
    parts = t.s3.list_parts(**upload.names())["Parts"]
    equal(len(parts), 1)
    upload.complete([(1, parts[0]["ETag"])])
    equal(f'"{md5_hex(t.read(upload.bucket, "key"))}"', parts[0]["ETag"])


@case("multipart")
def complete_with_wrong_etag(t):
    upload = Upload(t)
    upload.part(1, b"data")
    refused(lambda: upload.complete([(1, WRONG)]), "InvalidPart", status=400)
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_with_bare_etags(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete([(1, upload.etags[1].strip('"'))])
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_with_missing_part(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    refused(lambda: upload.complete([(1, upload.etags[1]), (2, WRONG)]), "InvalidPart", status=400)


@case("multipart")
def complete_with_small_part(t):
    upload = Upload(t)
    upload.part(1, pattern(5 * MIB - 1))
    upload.part(2, b"data")
    refused(upload.complete, "EntityTooSmall", status=400)


@case("multipart")
def complete_in_wrong_order(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, FIVE)
    refused(lambda: upload.complete([(2, upload.etags[2]), (1, upload.etags[1])]), "InvalidPartOrder", status=400)


@case("multipart")
def complete_with_same_part_twice(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    refused(lambda: upload.complete([(1, upload.etags[1])] * 2), "InvalidPartOrder", status=400)


@case("multipart")
def complete_with_gap(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(3, b"end")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE + b"end", "the parts in order", "other bytes")


@case("multipart")
def complete_without_first_part(t):
    upload = Upload(t)
    upload.part(2, b"data")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_with_fewer_parts(t):
    # Parts that the request does not name are dropped.
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"dropped")
    upload.complete([(1, upload.etags[1])])
    true(t.read(upload.bucket, "key") == FIVE, "the first part", "other bytes")


@each("multipart", ["", "<CompleteMultipartUpload></CompleteMultipartUpload>", "<CompleteMultipartUpload>", "<Wrong/>",
                    "<CompleteMultipartUpload><Part><PartNumber>a</PartNumber><ETag>b</ETag></Part></CompleteMultipartUpload>",
                    "<CompleteMultipartUpload><Part><ETag>b</ETag></Part></CompleteMultipartUpload>",
                    "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>"])
def complete_with_malformed_xml(t, document):
    upload = Upload(t)
    upload.part(1, b"data")
    found = t.raw("POST", f"/{upload.bucket}/key", f"uploadId={quote(upload.id, safe='')}", body=document.encode())
    answers(found, 400, "MalformedXML", "InvalidRequest", "MissingRequestBodyError", "InvalidArgument", "InvalidPart")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_twice(t):
    # AWS answers the same for a while, so that a client can repeat.
    upload = Upload(t)
    upload.part(1, b"data")
    first = upload.complete()
    equal(upload.complete()["ETag"], first["ETag"])
    equal(t.read(upload.bucket, "key"), b"data")


@case("multipart")
def complete_again_does_not_undo_a_newer_put(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    t.put(upload.bucket, "key", body=b"newer")
    try:
        upload.complete()
    except ClientError:
        pass
    equal(t.read(upload.bucket, "key"), b"newer")


@case("multipart")
def complete_at_once(t):
    upload = Upload(t)
    upload.part(1, FIVE)

    def one(_):
        try:
            return upload.complete()["ETag"]
        except ClientError as error:
            code = error.response["Error"]["Code"]
            true(code in ("NoSuchUpload", "OperationAborted", "ConditionalRequestConflict"), "an ETag or NoSuchUpload", code)
            return None

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        true(any(pool.map(one, range(4))), "a completion that succeeds", "none")
    true(t.read(upload.bucket, "key") == FIVE, "the bytes of the part", "others")


@case("multipart")
def complete_replaces_object(t):
    upload = Upload(t)
    t.put(upload.bucket, "key", body=b"old")
    upload.part(1, b"new")
    equal(t.read(upload.bucket, "key"), b"old")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"new")


@case("multipart")
def complete_ends_the_upload(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    refused(lambda: upload.part(2, b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**upload.names()), "NoSuchUpload", status=404)
    equal(t.s3.list_multipart_uploads(Bucket=upload.bucket).get("Uploads", []), [])


@case("multipart")
def two_uploads_of_one_key(t):
    first = Upload(t)
    second = Upload(t, first.bucket)
    true(first.id != second.id, "two ids", first.id)
    first.part(1, b"first")
    second.part(1, b"second")
    second.complete()
    first.complete()
    equal(t.read(first.bucket, "key"), b"first")


@case("multipart")
def abort(t):
    upload = Upload(t)
    upload.part(1, b"data")
    equal(upload.abort()["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(upload.complete, "NoSuchUpload", status=404)
    refused(lambda: upload.part(1, b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**upload.names()), "NoSuchUpload", status=404)
    equal(t.s3.list_multipart_uploads(Bucket=upload.bucket).get("Uploads", []), [])


@case("multipart")
def abort_twice(t):
    # AWS answers 204 or NoSuchUpload.
    upload = Upload(t)
    upload.abort()
    try:
        upload.abort()
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NoSuchUpload")


@case("multipart")
def abort_of_completed_upload_keeps_object(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    try:
        upload.abort()
    except ClientError as error:
        equal(error.response["Error"]["Code"], "NoSuchUpload")
    equal(t.read(upload.bucket, "key"), b"data")


@each("multipart", ["wrong", "a/b", "%", "ä", "x" * 2000, "../../etc"])
def unknown_upload(t, upload_id):
    bucket = t.bucket()
    names = {"Bucket": bucket, "Key": "key", "UploadId": upload_id}
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.list_parts(**names), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)


@case("multipart")
def upload_of_other_key(t):
    upload = Upload(t)
    names = dict(upload.names(), Key="other")
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)
    upload.part(1, b"data")
    upload.complete()


@case("multipart")
def upload_of_other_bucket(t):
    upload, bucket = Upload(t), t.bucket()
    names = dict(upload.names(), Bucket=bucket)
    refused(lambda: t.plain.upload_part(**names, PartNumber=1, Body=b"x"), "NoSuchUpload", status=404)
    refused(lambda: t.s3.abort_multipart_upload(**names), "NoSuchUpload", status=404)


@each("multipart", [0, 10001, -1, 2147483647])
def part_number_outside(t, number):
    upload = Upload(t)
    refused(lambda: upload.part(number, b"x"), "InvalidArgument", status=400)


@case("multipart")
def part_number_10000(t):
    upload = Upload(t)
    upload.part(10000, b"x")
    equal([part["PartNumber"] for part in t.s3.list_parts(**upload.names())["Parts"]], [10000])


@case("multipart")
def part_number_is_no_number(t):
    upload = Upload(t)
    found = t.raw("PUT", f"/{upload.bucket}/key", f"partNumber=a&uploadId={quote(upload.id, safe='')}", body=b"x")
    answers(found, 400, "InvalidArgument")


@case("multipart")
def part_with_wrong_md5(t):
    upload = Upload(t)
    refused(lambda: upload.part(1, b"data", ContentMD5=md5_base64(b"other")), "BadDigest", status=400)
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])
    upload.part(1, b"good")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"good")


@case("multipart")
def part_with_wrong_md5_keeps_the_old_part(t):
    upload = Upload(t)
    upload.part(1, b"good")
    refused(lambda: upload.part(1, b"data", ContentMD5=md5_base64(b"other")), "BadDigest", status=400)
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"good")


@case("multipart")
def empty_part(t):
    upload = Upload(t)
    upload.part(1, b"")
    upload.complete()
    equal(t.read(upload.bucket, "key"), b"")


@case("multipart")
def empty_last_part(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE, "the first part", "other bytes")


@case("multipart")
def list_parts(t):
    upload = Upload(t)
    upload.part(2, b"two!")
    upload.part(1, b"one")
    found = t.s3.list_parts(**upload.names())
    equal([(part["PartNumber"], part["Size"], part["ETag"]) for part in found["Parts"]],
          [(1, 3, upload.etags[1]), (2, 4, upload.etags[2])])
    equal((found["Bucket"], found["Key"], found["UploadId"], found["IsTruncated"]), (upload.bucket, "key", upload.id, False))
    true("LastModified" in found["Parts"][0], "LastModified", found["Parts"][0])


@each("multipart", [1, 2, 3, 5, 6])
def list_parts_in_pages(t, size):
    upload = Upload(t)
    for number in (1, 2, 5, 7, 11):
        upload.part(number, b"x")
    found, marker = [], 0
    for _ in range(10):
        page = t.s3.list_parts(**upload.names(), MaxParts=size, PartNumberMarker=marker)
        numbers = [part["PartNumber"] for part in page.get("Parts", [])]
        found += numbers
        true(len(numbers) <= size, f"at most {size} parts", numbers)
        if not page["IsTruncated"]:
            break
        equal(page["NextPartNumberMarker"], numbers[-1])
        marker = page["NextPartNumberMarker"]
    equal(found, [1, 2, 5, 7, 11])


@case("multipart")
def list_uploads(t):
    upload = Upload(t, key="a b/ä")
    found = t.s3.list_multipart_uploads(Bucket=upload.bucket)
    equal([(item["Key"], item["UploadId"]) for item in found["Uploads"]], [("a b/ä", upload.id)])
    true("Initiated" in found["Uploads"][0], "Initiated", found["Uploads"][0])
    equal((found["Bucket"], found["IsTruncated"]), (upload.bucket, False))


@each("multipart", [1, 2, 3, 4, 7, 8])
def list_uploads_in_pages(t, size):
    bucket = t.bucket()
    ids = {(key, Upload(t, bucket, key).id) for key in ("a", "b", "b", "b", "c/d", "c/e", "z")}
    found, markers = [], {}
    for _ in range(20):
        page = t.s3.list_multipart_uploads(Bucket=bucket, MaxUploads=size, **markers)
        uploads = [(item["Key"], item["UploadId"]) for item in page.get("Uploads", [])]
        true(len(uploads) <= size, f"at most {size} uploads", uploads)
        found += uploads
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    equal([key for key, _ in found], ["a", "b", "b", "b", "c/d", "c/e", "z"])
    equal(set(found), ids)


@case("multipart")
def list_uploads_after_a_key(t):
    bucket = t.bucket()
    for key in ("a", "b", "b", "c"):
        Upload(t, bucket, key)
    found = t.s3.list_multipart_uploads(Bucket=bucket, KeyMarker="b")
    equal([item["Key"] for item in found["Uploads"]], ["c"])


@case("multipart")
def list_uploads_with_prefix(t):
    bucket = t.bucket()
    for key in ("a", "b/1", "b/2", "b%", "B/1"):
        Upload(t, bucket, key)
    for prefix, expected in (("b/", ["b/1", "b/2"]), ("b%", ["b%"]), ("none", [])):
        found = t.s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        equal([item["Key"] for item in found.get("Uploads", [])], expected)


@case("multipart")
def list_uploads_with_delimiter(t):
    bucket = t.bucket()
    refused(lambda: t.s3.list_multipart_uploads(Bucket=bucket, Delimiter="/"), "NotImplemented", status=501)


@case("multipart")
def list_uploads_max_uploads_0(t):
    # AWS answers InvalidArgument or an empty page.
    upload = Upload(t)
    try:
        equal(t.s3.list_multipart_uploads(Bucket=upload.bucket, MaxUploads=0).get("Uploads", []), [])
    except ClientError as error:
        equal(error.response["Error"]["Code"], "InvalidArgument")


@case("multipart")
def upload_with_key_too_long(t):
    bucket = t.bucket()
    refused(lambda: t.plain.create_multipart_upload(Bucket=bucket, Key="k" * 1025), "KeyTooLongError", status=400)


def copy_part(t, upload, number, bucket, key, **options):
    found = t.plain.upload_part_copy(**upload.names(), PartNumber=number, CopySource=source(bucket, key), **options)
    upload.etags[number] = found["CopyPartResult"]["ETag"]
    return found["CopyPartResult"]


@case("multipart")
def copy_parts(t):
    upload = Upload(t)
    t.put(upload.bucket, "source", body=FIVE)
    t.put(upload.bucket, "end ä", body=b"the end")
    result = copy_part(t, upload, 1, upload.bucket, "source")
    equal(result["ETag"], f'"{md5_hex(FIVE)}"')
    true("LastModified" in result, "LastModified", result)
    copy_part(t, upload, 2, upload.bucket, "end ä")
    upload.complete()
    true(t.read(upload.bucket, "key") == FIVE + b"the end", "the parts", "other bytes")


@case("multipart")
def copy_parts_with_ranges(t):
    upload, body = Upload(t), pattern(11 * MIB, 4)
    t.put(upload.bucket, "source", body=body)
    copy_part(t, upload, 1, upload.bucket, "source", CopySourceRange=f"bytes=0-{5 * MIB - 1}")
    copy_part(t, upload, 2, upload.bucket, "source", CopySourceRange=f"bytes={5 * MIB}-{10 * MIB + 99}")
    copy_part(t, upload, 3, upload.bucket, "source", CopySourceRange=f"bytes={10 * MIB + 100}-{11 * MIB - 1}")
    upload.complete()
    true(t.read(upload.bucket, "key") == body, "the source", "other bytes")


@each("multipart", ["bytes=0-100", "bytes=4-4", "bytes=4-3", "bytes=a-b", "0-2", "bytes=-2", "bytes=2-", "bytes=0-1,2-3", "bytes=10-20"])
def copy_part_with_wrong_range(t, value):
    # A range must have both ends and lie within the source.
    upload = Upload(t)
    t.put(upload.bucket, "source", body=b"data")
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source", CopySourceRange=value), "InvalidArgument", "InvalidRange")
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])


@case("multipart")
def copy_part_of_missing_source(t):
    upload = Upload(t)
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "missing"), "NoSuchKey", status=404)
    refused(lambda: copy_part(t, upload, 1, "suite-missing-bucket", "missing"), "NoSuchBucket", status=404)


@case("multipart")
def copy_part_with_condition(t):
    upload = Upload(t)
    t.put(upload.bucket, "source", body=b"data")
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source", CopySourceIfMatch=WRONG), "PreconditionFailed", status=412)
    copy_part(t, upload, 1, upload.bucket, "source", CopySourceIfMatch=f'"{md5_hex(b"data")}"')


@case("multipart")
def copy_part_to_unknown_upload(t):
    upload = Upload(t)
    t.put(upload.bucket, "source")
    upload.abort()
    refused(lambda: copy_part(t, upload, 1, upload.bucket, "source"), "NoSuchUpload", status=404)


@case("multipart")
def multipart_source_of_copies(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"end")
    upload.complete()
    t.s3.copy_object(Bucket=upload.bucket, Key="copy", CopySource=source(upload.bucket))
    true(t.read(upload.bucket, "copy") == FIVE + b"end", "the same bytes", "others")
    # AWS answers the MD5 of the whole content, because the copy is no multipart upload.
    equal(t.s3.head_object(Bucket=upload.bucket, Key="copy")["ETag"], f'"{md5_hex(FIVE + b"end")}"')


def three_parts(t, **options):
    """Complete an upload of three parts, and return it and the parts."""
    upload, bodies = Upload(t, **options), [FIVE, pattern(5 * MIB, 56), b"end"]
    for number, body in enumerate(bodies, 1):
        upload.part(number, body)
    upload.complete()
    return upload, bodies


@case("multipart")
def object_attributes_of_multipart(t):
    upload, bodies = three_parts(t)
    found = t.s3.get_object_attributes(Bucket=upload.bucket, Key="key", ObjectAttributes=["ObjectParts", "ObjectSize"])
    parts = found["ObjectParts"]
    equal((found["ObjectSize"], parts["TotalPartsCount"], parts.get("IsTruncated", False)), (10 * MIB + 3, 3, False))
    equal([(part["PartNumber"], part["Size"]) for part in parts["Parts"]], [(1, 5 * MIB), (2, 5 * MIB), (3, 3)])
    found = t.s3.get_object_attributes(Bucket=upload.bucket, Key="key", ObjectAttributes=["ETag"])
    true("ObjectParts" not in found, "no ObjectParts", found)


@case("multipart")
def object_attributes_in_pages(t):
    upload, bodies = three_parts(t)
    found, marker = [], 0
    for _ in range(3):
        page = t.s3.get_object_attributes(
            Bucket=upload.bucket, Key="key", ObjectAttributes=["ObjectParts"], MaxParts=2, PartNumberMarker=marker)["ObjectParts"]
        found += [part["PartNumber"] for part in page["Parts"]]
        if not page["IsTruncated"]:
            break
        marker = page["NextPartNumberMarker"]
    equal(found, [1, 2, 3])


@case("multipart")
def object_attributes_of_whole_object(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ObjectParts", "ObjectSize"])
    equal((found["ObjectSize"], "ObjectParts" in found), (4, False))


def read_part(t, bucket, number, key="key"):
    """Read a part, and compare GET with HEAD. Return the body and what the headers say."""
    got = t.plain.get_object(Bucket=bucket, Key=key, PartNumber=number)
    head = t.plain.head_object(Bucket=bucket, Key=key, PartNumber=number)
    names = ["ETag", "ContentLength", "ContentRange", "PartsCount"]
    said = [answer.get(name) for answer in (got, head) for name in names]
    equal(said[4:], said[:4], "headers of HEAD")
    equal([answer["ResponseMetadata"]["HTTPStatusCode"] for answer in (got, head)], [206, 206])
    return got["Body"].read(), said[1:4]


@case("multipart")
def read_by_part_number(t):
    upload, bodies = three_parts(t)
    start, size = 0, 10 * MIB + 3
    for number, body in enumerate(bodies, 1):
        found, said = read_part(t, upload.bucket, number)
        true(found == body, "the bytes of the part", f"{len(found)} others")
        equal(said, [len(body), f"bytes {start}-{start + len(body) - 1}/{size}", 3])
        start += len(body)


@case("multipart")
def read_parts_of_copy(t):
    # In AWS, a copy is no multipart upload; in osproxy, it keeps ETag and parts.
    upload, bodies = three_parts(t)
    t.s3.copy_object(Bucket=upload.bucket, Key="copy", CopySource=source(upload.bucket))
    t.s3.copy_object(Bucket=upload.bucket, Key="other", CopySource=source(upload.bucket), MetadataDirective="REPLACE")
    for key in ("copy", "other"):
        equal(read_part(t, upload.bucket, 3, key)[0], b"end")


@each("multipart", [4, 10000])
def read_part_that_is_missing(t, number):
    upload, _ = three_parts(t)
    refused(lambda: t.plain.get_object(Bucket=upload.bucket, Key="key", PartNumber=number), "InvalidPartNumber", status=416)
    refused(lambda: t.plain.head_object(Bucket=upload.bucket, Key="key", PartNumber=number), "416", status=416)


@each("multipart", [0, -1, 10001])
def read_part_number_outside(t, number):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.plain.get_object(Bucket=bucket, Key="key", PartNumber=number), "InvalidArgument", status=400)


@case("multipart")
def read_part_of_whole_object(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    equal(read_part(t, bucket, 1), (b"data", [4, "bytes 0-3/4", None]))
    refused(lambda: t.plain.get_object(Bucket=bucket, Key="key", PartNumber=2), "InvalidPartNumber", status=416)


@case("multipart")
def read_part_of_one(t):
    upload = Upload(t)
    upload.part(1, b"data")
    upload.complete()
    equal(read_part(t, upload.bucket, 1), (b"data", [4, "bytes 0-3/4", 1]))


@case("multipart")
def read_empty_part(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"")
    upload.complete()
    equal(t.plain.get_object(Bucket=upload.bucket, Key="key", PartNumber=2)["Body"].read(), b"")
    equal(t.plain.head_object(Bucket=upload.bucket, Key="key", PartNumber=2)["ContentLength"], 0)


@case("multipart")
def read_part_and_range(t):
    upload, _ = three_parts(t)
    refused(lambda: t.plain.get_object(Bucket=upload.bucket, Key="key", PartNumber=1, Range="bytes=0-1"), "InvalidRequest", status=400)


@case("multipart")
def read_part_with_condition(t):
    upload, _ = three_parts(t)
    refused(lambda: t.plain.get_object(Bucket=upload.bucket, Key="key", PartNumber=3, IfMatch=WRONG), "PreconditionFailed", status=412)


@case("multipart")
def read_part_after_dropping_others(t):
    # The parts of the object are those of the completion.
    upload = Upload(t)
    upload.part(1, pattern(6 * MIB, 57))
    upload.part(1, FIVE)
    upload.part(2, b"two")
    upload.part(3, b"dropped")
    upload.complete([(1, upload.etags[1]), (2, upload.etags[2])])
    equal(read_part(t, upload.bucket, 2), (b"two", [3, f"bytes {5 * MIB}-{5 * MIB + 2}/{5 * MIB + 3}", 2]))


@case("multipart")
def range_across_parts(t):
    upload = Upload(t)
    upload.part(1, FIVE)
    upload.part(2, b"end")
    upload.complete()
    equal(t.read(upload.bucket, "key", Range=f"bytes={5 * MIB - 2}-{5 * MIB + 1}"), FIVE[-2:] + b"en")


@case("multipart")
def one_hundred_small_parts_are_refused_as_a_whole(t):
    upload = Upload(t)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: upload.part(number, b"x" * number), range(1, 101)))
    equal(len(t.s3.list_parts(**upload.names())["Parts"]), 100)
    refused(upload.complete, "EntityTooSmall", status=400)
