"""Cases: checksums."""

import io

from boto3.s3.transfer import TransferConfig

from .copy import source
from .multipart import FIVE, Upload
from .objects import KIB64
from .tools import CHECKSUMS, MIB, answers, case, checksum, each, equal, pattern, refused, true

ALGORITHMS = list(CHECKSUMS)


@each("checksums", ALGORITHMS)
def checksum_in_header(t, algorithm):
    bucket, value = t.bucket(), checksum(algorithm, b"data")
    found = t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": value})
    equal(found.get(f"Checksum{algorithm}"), value, "PutObject")
    for call in (t.plain.head_object, t.plain.get_object):
        equal(call(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get(f"Checksum{algorithm}"), value, call.__name__)
        equal(call(Bucket=bucket, Key="key").get(f"Checksum{algorithm}"), None, call.__name__ + " without mode")


@each("checksums", ALGORITHMS)
def checksum_in_attributes(t, algorithm):
    bucket, value = t.bucket(), checksum(algorithm, b"data")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": value})
    found = t.plain.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["Checksum"])
    equal(found.get("Checksum", {}).get(f"Checksum{algorithm}"), value)


@each("checksums", ALGORITHMS)
def wrong_checksum_in_header(t, algorithm):
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **{f"Checksum{algorithm}": checksum(algorithm, b"other")}),
        "BadDigest", "InvalidRequest", status=400,
    )
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@each("checksums", [(algorithm, signed) for algorithm in ALGORITHMS for signed in (True, False)])
def checksum_in_trailer(t, algorithm, signed):
    bucket, value = t.bucket(), checksum(algorithm, b"data" * 1000)
    answers(t.chunked(bucket, "key", [b"data" * 1000], (f"x-amz-checksum-{algorithm.lower()}", value), signed), 200)
    equal(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get(f"Checksum{algorithm}"), value)
    equal(t.read(bucket, "key"), b"data" * 1000)


@each("checksums", [(algorithm, signed) for algorithm in ALGORITHMS for signed in (True, False)])
def wrong_checksum_in_trailer(t, algorithm, signed):
    bucket = t.bucket()
    trailer = (f"x-amz-checksum-{algorithm.lower()}", checksum(algorithm, b"other"))
    answers(t.chunked(bucket, "key", [b"data"], trailer, signed), 400, "BadDigest", "InvalidRequest")
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("checksums")
def wrong_signature_of_trailer(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"data"], ("x-amz-checksum-crc32", checksum("CRC32", b"data")),
                      corrupt=lambda body: body.replace(b"trailer-signature:", b"trailer-signature:0000", 1))
    true(found.status in (400, 403), "403 SignatureDoesNotMatch", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("checksums")
def trailer_that_is_missing(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"data"], ("x-amz-checksum-crc32", checksum("CRC32", b"data")), signed=False,
                      corrupt=lambda body: body[:body.index(b"x-amz-checksum")] + b"\r\n")
    true(found.status == 400, "400 MalformedTrailerError or IncompleteBody", found)


@each("checksums", ["", "zzzz", "AAAA", "not base64!", "AAAAAAA="])
def malformed_checksum(t, value):
    found = t.raw("PUT", f"/{t.bucket()}/key", headers={"x-amz-checksum-crc32": value}, body=b"data")
    answers(found, 400, "InvalidRequest", "BadDigest")


@case("checksums")
def two_checksums(t):
    headers = {"x-amz-checksum-crc32": checksum("CRC32", b"data"), "x-amz-checksum-sha1": checksum("SHA1", b"data")}
    answers(t.raw("PUT", f"/{t.bucket()}/key", headers=headers, body=b"data"), 400, "InvalidRequest")


@case("checksums")
def unknown_algorithm(t):
    answers(t.raw("PUT", f"/{t.bucket()}/key", headers={"x-amz-sdk-checksum-algorithm": "MD4"}, body=b"data"), 400, "InvalidRequest", "InvalidArgument")


@each("checksums", [0, 1, KIB64 + 1, 9 * MIB])
def default_of_boto3(t, size):
    bucket, body = t.bucket(), pattern(size, 9)
    t.s3.put_object(Bucket=bucket, Key="key", Body=io.BytesIO(body))
    true(t.read(bucket, "key") == body, "the same bytes", "others")
    equal(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get("ChecksumCRC32"), checksum("CRC32", body))


@case("checksums")
def ranges_have_no_checksum_of_the_whole(t):
    # A client that verifies would find the range wrong.
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"0123456789", ChecksumCRC32=checksum("CRC32", b"0123456789"))
    equal(t.s3.get_object(Bucket=bucket, Key="key", Range="bytes=0-3", ChecksumMode="ENABLED")["Body"].read(), b"0123")


@case("checksums")
def checksum_ends_with_its_object(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"one", ChecksumSHA1=checksum("SHA1", b"one"))
    t.put(bucket, "key", body=b"two")
    true(t.plain.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED").get("ChecksumSHA1") in (None, checksum("SHA1", b"two")),
         "no checksum of the old object", "it")


@case("checksums")
def same_content_with_other_checksum(t):
    # Equal files share their content, but not what their clients sent.
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="a", Body=b"same", ChecksumSHA1=checksum("SHA1", b"same"))
    t.plain.put_object(Bucket=bucket, Key="b", Body=b"same", ChecksumCRC32C=checksum("CRC32C", b"same"))
    equal(t.plain.head_object(Bucket=bucket, Key="a", ChecksumMode="ENABLED").get("ChecksumSHA1"), checksum("SHA1", b"same"))
    equal(t.plain.head_object(Bucket=bucket, Key="b", ChecksumMode="ENABLED").get("ChecksumCRC32C"), checksum("CRC32C", b"same"))


@each("checksums", ALGORITHMS)
def checksum_of_part(t, algorithm):
    upload = Upload(t) if algorithm == "CRC64NVME" else Upload(t, ChecksumAlgorithm=algorithm)
    value = checksum(algorithm, b"data")
    found = t.plain.upload_part(**upload.names(), PartNumber=1, Body=b"data", **{f"Checksum{algorithm}": value})
    equal(found.get(f"Checksum{algorithm}"), value)
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload={"Parts": [
        {"PartNumber": 1, "ETag": found["ETag"], f"Checksum{algorithm}": value}]})
    equal(t.read(upload.bucket, "key"), b"data")


@each("checksums", ALGORITHMS)
def wrong_checksum_of_part(t, algorithm):
    upload = Upload(t)
    refused(
        lambda: t.plain.upload_part(**upload.names(), PartNumber=1, Body=b"data", **{f"Checksum{algorithm}": checksum(algorithm, b"other")}),
        "BadDigest", "InvalidRequest", status=400,
    )
    equal(t.s3.list_parts(**upload.names()).get("Parts", []), [])


@case("checksums")
def wrong_checksum_in_complete(t):
    upload = Upload(t, ChecksumAlgorithm="CRC32")
    etag = upload.part(1, b"data", ChecksumCRC32=checksum("CRC32", b"data"))
    refused(
        lambda: t.plain.complete_multipart_upload(**upload.names(), MultipartUpload={"Parts": [
            {"PartNumber": 1, "ETag": etag, "ChecksumCRC32": checksum("CRC32", b"other")}]}),
        "InvalidPart", "BadDigest", "InvalidRequest", status=400,
    )


@case("checksums")
def wrong_checksum_of_whole_in_complete(t):
    upload = Upload(t, ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    etag = upload.part(1, b"data", ChecksumCRC32=checksum("CRC32", b"data"))
    refused(
        lambda: t.plain.complete_multipart_upload(
            **upload.names(), ChecksumCRC32=checksum("CRC32", b"other"), ChecksumType="FULL_OBJECT",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}),
        "BadDigest", "InvalidRequest", "NotImplemented",
    )


@each("checksums", [3, 5])
def wrong_size_in_complete(t, size):
    upload = Upload(t)
    etag = upload.part(1, b"data")
    refused(
        lambda: t.plain.complete_multipart_upload(**upload.names(), MpuObjectSize=size, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]}),
        "InvalidRequest", "NotImplemented",
    )


@case("checksums")
def default_multipart_of_boto3(t):
    bucket, body = t.bucket(), pattern(11 * MIB, 10)
    t.s3.upload_fileobj(io.BytesIO(body), bucket, "key", Config=TransferConfig(multipart_threshold=MIB, multipart_chunksize=5 * MIB))
    true(t.read(bucket, "key", ChecksumMode="ENABLED") == body, "the same bytes", "others")


def composite(algorithm, bodies):
    """The checksum of checksums, as AWS makes it."""
    sums = b"".join(CHECKSUMS[algorithm](body) for body in bodies)
    return f"{checksum(algorithm, sums)}-{len(bodies)}"


def upload_with_checksums(t, algorithm, bodies, **options):
    """Send parts with their checksums, and return the upload and the list that completes it."""
    upload, parts = Upload(t, ChecksumAlgorithm=algorithm, **options), []
    for number, body in enumerate(bodies, 1):
        value = checksum(algorithm, body)
        etag = upload.part(number, body, **{f"Checksum{algorithm}": value})
        parts.append({"PartNumber": number, "ETag": etag, f"Checksum{algorithm}": value})
    return upload, {"Parts": parts}


@each("checksums", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def composite_checksum(t, algorithm):
    bodies, name = [FIVE, b"end"], f"Checksum{algorithm}"
    upload, parts = upload_with_checksums(t, algorithm, bodies)
    listed = t.plain.list_parts(**upload.names())
    equal((listed["ChecksumAlgorithm"], listed["ChecksumType"]), (algorithm, "COMPOSITE"))
    equal([part.get(name) for part in listed["Parts"]], [checksum(algorithm, body) for body in bodies])
    expected = (composite(algorithm, bodies), "COMPOSITE")
    done = t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    equal((done.get(name), done.get("ChecksumType")), expected)
    head = t.plain.head_object(Bucket=upload.bucket, Key="key", ChecksumMode="ENABLED")
    equal((head.get(name), head.get("ChecksumType")), expected)
    equal(t.plain.get_object_attributes(Bucket=upload.bucket, Key="key", ObjectAttributes=["Checksum"])["Checksum"]["ChecksumType"], "COMPOSITE")


@each("checksums", ["CRC32", "CRC32C", "CRC64NVME"])
def checksum_of_whole_from_parts(t, algorithm):
    bodies, name = [FIVE, FIVE[1:] + b"x", b"end"], f"Checksum{algorithm}"
    upload, parts = upload_with_checksums(t, algorithm, bodies, ChecksumType="FULL_OBJECT")
    value = checksum(algorithm, b"".join(bodies))
    done = t.plain.complete_multipart_upload(
        **upload.names(), MultipartUpload=parts, ChecksumType="FULL_OBJECT", **{name: value})
    equal((done.get(name), done.get("ChecksumType")), (value, "FULL_OBJECT"))
    head = t.plain.head_object(Bucket=upload.bucket, Key="key", ChecksumMode="ENABLED")
    equal((head.get(name), head.get("ChecksumType")), (value, "FULL_OBJECT"))


@each("checksums", [("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")])
def impossible_checksum_type(t, algorithm, kind):
    refused(lambda: Upload(t, ChecksumAlgorithm=algorithm, ChecksumType=kind), "InvalidRequest", status=400)


@case("checksums")
def wrong_composite_in_complete(t):
    upload, parts = upload_with_checksums(t, "CRC32", [b"data"])
    refused(
        lambda: t.plain.complete_multipart_upload(
            **upload.names(), MultipartUpload=parts, ChecksumCRC32=composite("CRC32", [b"other"]), ChecksumType="COMPOSITE"),
        "BadDigest", status=400,
    )
    equal(len(t.plain.list_parts(**upload.names())["Parts"]), 1)
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    equal(t.read(upload.bucket, "key"), b"data")


@case("checksums")
def checksum_of_copied_part(t):
    bucket = t.bucket()
    t.put(bucket, "source", body=FIVE)
    upload = Upload(t, bucket, ChecksumAlgorithm="SHA256")
    copied = t.plain.upload_part_copy(**upload.names(), PartNumber=1, CopySource=source(bucket, "source"))["CopyPartResult"]
    equal(copied.get("ChecksumSHA256"), checksum("SHA256", FIVE))
    upload.etags[1] = copied["ETag"]
    equal(upload.complete().get("ChecksumSHA256"), composite("SHA256", [FIVE]))


@each("checksums", ["COPY", "REPLACE"])
def copy_keeps_checksum_of_parts(t, directive):
    upload, parts = upload_with_checksums(t, "CRC32", [FIVE, b"end"])
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    t.plain.copy_object(Bucket=upload.bucket, Key="copy", CopySource=source(upload.bucket), MetadataDirective=directive)
    head = t.plain.head_object(Bucket=upload.bucket, Key="copy", ChecksumMode="ENABLED")
    equal((head.get("ChecksumCRC32"), head.get("ChecksumType")), (composite("CRC32", [FIVE, b"end"]), "COMPOSITE"))


@each("checksums", ["CRC32", "CRC32C", "SHA1", "SHA256"])
def checksums_of_parts_stay(t, algorithm):
    bodies, name = [FIVE, b"end"], f"Checksum{algorithm}"
    upload, parts = upload_with_checksums(t, algorithm, bodies)
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    found = t.plain.get_object_attributes(Bucket=upload.bucket, Key="key", ObjectAttributes=["ObjectParts"])["ObjectParts"]
    equal([part.get(name) for part in found["Parts"]], [checksum(algorithm, body) for body in bodies])
    for number, body in enumerate(bodies, 1):
        for call in (t.plain.head_object, t.plain.get_object):
            answer = call(Bucket=upload.bucket, Key="key", PartNumber=number, ChecksumMode="ENABLED")
            equal(answer.get(name), checksum(algorithm, body), call.__name__)
    # boto3 verifies the checksum.
    true(t.s3.get_object(Bucket=upload.bucket, Key="key", PartNumber=1)["Body"].read() == FIVE, "the part", "other bytes")


@case("checksums")
def parts_of_checksum_of_whole_have_none(t):
    bodies = [FIVE, b"end"]
    upload, parts = upload_with_checksums(t, "CRC32", bodies, ChecksumType="FULL_OBJECT")
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    for number in (1, 2):
        answer = t.plain.head_object(Bucket=upload.bucket, Key="key", PartNumber=number, ChecksumMode="ENABLED")
        equal(answer.get("ChecksumCRC32"), None)
    equal(t.s3.get_object(Bucket=upload.bucket, Key="key", PartNumber=2)["Body"].read(), b"end")


@case("checksums")
def part_one_of_whole_object_has_its_checksum(t):
    bucket, value = t.bucket(), checksum("CRC32", b"data")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ChecksumCRC32=value)
    equal(t.plain.head_object(Bucket=bucket, Key="key", PartNumber=1, ChecksumMode="ENABLED").get("ChecksumCRC32"), value)


@each("checksums", ALGORITHMS)
def copy_with_chosen_checksum(t, algorithm):
    bucket, body, name = t.bucket(), pattern(MIB + 1, 11), f"Checksum{algorithm}"
    t.plain.put_object(Bucket=bucket, Key="key", Body=body, ChecksumCRC32=checksum("CRC32", body))
    value = checksum(algorithm, body)
    result = t.plain.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), ChecksumAlgorithm=algorithm)["CopyObjectResult"]
    equal((result.get(name), result.get("ChecksumType")), (value, "FULL_OBJECT"))
    head = t.plain.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    equal((head.get(name), head.get("ChecksumType")), (value, "FULL_OBJECT"))
    equal([other for other in ALGORITHMS if head.get(f"Checksum{other}")], [algorithm])
    true(t.read(bucket, "copy") == body, "the same bytes", "others")


@each("checksums", ["CRC32", "SHA256"])
def copy_of_parts_with_chosen_checksum(t, algorithm):
    bodies, name = [FIVE, b"end"], f"Checksum{algorithm}"
    upload, parts = upload_with_checksums(t, "CRC32", bodies)
    t.plain.complete_multipart_upload(**upload.names(), MultipartUpload=parts)
    result = t.plain.copy_object(
        Bucket=upload.bucket, Key="copy", CopySource=source(upload.bucket), ChecksumAlgorithm=algorithm)["CopyObjectResult"]
    equal((result.get(name), result.get("ChecksumType")), (checksum(algorithm, b"".join(bodies)), "FULL_OBJECT"))
    true(t.read(upload.bucket, "copy") == b"".join(bodies), "the same bytes", "others")
    head = t.plain.head_object(Bucket=upload.bucket, Key="copy", PartNumber=2, ChecksumMode="ENABLED")
    equal((head["ContentLength"], head.get("ChecksumCRC32")), (3, None))


@case("checksums")
def copy_answers_the_checksum_that_it_keeps(t):
    bucket, value = t.bucket(), checksum("SHA1", b"data")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ChecksumSHA1=value)
    result = t.plain.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))["CopyObjectResult"]
    equal((result.get("ChecksumSHA1"), result.get("ChecksumType")), (value, "FULL_OBJECT"))


@case("checksums")
def copy_with_checksum_of_empty_object(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    result = t.plain.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket), ChecksumAlgorithm="CRC32")["CopyObjectResult"]
    equal(result.get("ChecksumCRC32"), checksum("CRC32", b""))


@case("checksums")
def copy_with_unknown_checksum(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    headers = {"x-amz-copy-source": f"{bucket}/key", "x-amz-checksum-algorithm": "MD4"}
    answers(t.raw("PUT", f"/{bucket}/copy", headers=headers), 400, "InvalidRequest")
