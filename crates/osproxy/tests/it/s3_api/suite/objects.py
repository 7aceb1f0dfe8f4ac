"""Cases: objects."""

import concurrent.futures
import http.client
import io
import time

from boto3.s3.transfer import TransferConfig

from .tools import (
    MIB, Signer, answers, case, checksum, each, equal, keys_of, md5_base64, md5_hex, pattern,
    refused, true,
)

KIB64 = 64 * 1024


@each("objects", [0, 1, 2, 255, 4096, KIB64 - 1, KIB64, KIB64 + 1, MIB, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 20 * MIB])
def byte_for_byte(t, size):
    bucket, body = t.bucket(), pattern(size, size)
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=body)["ETag"]
    equal(etag, f'"{md5_hex(body)}"', "ETag")
    found = t.plain.get_object(Bucket=bucket, Key="key")
    equal(found["ContentLength"], size)
    equal(found["ETag"], etag)
    true(found["Body"].read() == body, "the same bytes", "others")
    head = t.plain.head_object(Bucket=bucket, Key="key")
    equal((head["ContentLength"], head["ETag"]), (size, etag))
    listed = t.plain.list_objects_v2(Bucket=bucket)["Contents"][0]
    equal((listed["Size"], listed["ETag"]), (size, etag))


@each("objects", [0, 1, KIB64 - 1, KIB64, KIB64 + 1, 5 * MIB, 20 * MIB])
def signed_chunks(t, size):
    bucket, body = t.bucket(), pattern(size, size + 1)
    answers(t.chunked(bucket, "key", [body[at:at + KIB64] for at in range(0, size, KIB64)]), 200)
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@each("objects", [0, 1, KIB64 + 1, 5 * MIB + 1])
def unsigned_chunks_with_trailer(t, size):
    bucket, body = t.bucket(), pattern(size, size + 2)
    trailer = ("x-amz-checksum-crc32", checksum("CRC32", body))
    chunks = [body[at:at + KIB64] for at in range(0, size, KIB64)]
    answers(t.chunked(bucket, "key", chunks, trailer, signed=False), 200)
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@case("objects")
def uneven_chunks(t):
    bucket = t.bucket()
    chunks = [pattern(size, size) for size in (1, 70000, 8192, 3, 200000)]
    found = t.chunked(bucket, "key", chunks, ("x-amz-checksum-crc32", checksum("CRC32", b"".join(chunks))), signed=False)
    answers(found, 200)
    equal(md5_hex(t.read(bucket, "key")), md5_hex(b"".join(chunks)))


@case("objects")
def signed_chunk_is_corrupt(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * KIB64, b"b" * 100], corrupt=lambda body: body.replace(b"bbbb", b"bbcb", 1))
    answers(found, 403, "SignatureDoesNotMatch")
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def signed_chunks_without_end(t):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * KIB64], corrupt=lambda body: body[:body.rindex(b"0;chunk")])
    true(found.status in (400, 403), "400 or 403", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@each("objects", [99, 101])
def wrong_decoded_length(t, length):
    bucket = t.bucket()
    found = t.chunked(bucket, "key", [b"a" * 100], decoded=length)
    true(found.status == 400, "400 IncompleteBody or InvalidRequest", found)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def aws_chunked_is_not_kept(t):
    bucket = t.bucket()
    answers(t.chunked(bucket, "key", [b"data"]), 200)
    true(t.s3.head_object(Bucket=bucket, Key="key").get("ContentEncoding") in (None, ""), "no Content-Encoding", "aws-chunked")


@case("objects")
def aws_chunked_with_gzip(t):
    bucket = t.bucket()
    answers(t.chunked(bucket, "key", [b"data"], headers={"content-encoding": "aws-chunked,gzip"}), 200)
    equal(t.s3.head_object(Bucket=bucket, Key="key").get("ContentEncoding"), "gzip")


@case("objects")
def replace(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"one")
    t.put(bucket, "key", body=b"two and more")
    equal(t.read(bucket, "key"), b"two and more")
    equal(len(t.s3.list_objects_v2(Bucket=bucket)["Contents"]), 1)


@case("objects")
def replace_with_same_content(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"same", Metadata={"a": "1"}, ContentType="text/a")
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"same", Metadata={"b": "2"}, ContentType="text/b")
    head = t.s3.head_object(Bucket=bucket, Key="key")
    equal((head["Metadata"], head["ContentType"]), ({"b": "2"}, "text/b"))


@case("objects")
def same_content_under_two_keys(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", body=b"shared")
    t.s3.delete_object(Bucket=bucket, Key="a")
    equal(t.read(bucket, "b"), b"shared")


@case("objects")
def same_key_in_two_buckets(t):
    first, second = t.bucket(), t.bucket()
    t.put(first, "key", body=b"1")
    t.put(second, "key", body=b"2")
    t.s3.delete_object(Bucket=first, Key="key")
    equal(t.read(second, "key"), b"2")


@case("objects")
def replace_many_times_at_once(t):
    bucket = t.bucket()
    bodies = [pattern(1000, seed) for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda body: t.plain.put_object(Bucket=bucket, Key="key", Body=body), bodies))
    true(t.read(bucket, "key") in bodies, "one of the bodies", "another")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["key"])


@case("objects")
def read_after_write_at_once(t):
    bucket = t.bucket()

    def one(index):
        t.plain.put_object(Bucket=bucket, Key=f"k{index}", Body=str(index).encode())
        return t.read(bucket, f"k{index}") == str(index).encode()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        true(all(pool.map(one, range(40))), "each object is read as written", "not all")


@case("objects")
def body_is_cut(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    signer = Signer(t.keys["main"])
    headers = {"host": t.host, "x-amz-date": signer.time, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    headers["authorization"] = signer.authorize("PUT", f"/{bucket}/key", "", headers)
    connection = http.client.HTTPConnection(t.host, timeout=5)
    connection.putrequest("PUT", f"/{bucket}/key", skip_host=True, skip_accept_encoding=True)
    for name, value in dict(headers, **{"content-length": "1000"}).items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"x" * 500)
    connection.close()
    time.sleep(0.5)
    equal(t.read(bucket, "key"), b"old")


@case("objects")
def missing_key(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_object(Bucket=bucket, Key="missing"), "NoSuchKey", status=404)
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="missing"), "404", status=404)


@case("objects")
def content_md5(t):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"data"))
    equal(t.read(bucket, "key"), b"data")


@case("objects")
def content_md5_is_wrong(t):
    bucket = t.bucket()
    refused(
        lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"other")), "BadDigest",
        status=400,
    )
    refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("objects")
def content_md5_is_wrong_for_existing_key(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"old")
    refused(lambda: t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", ContentMD5=md5_base64(b"x")), "BadDigest")
    equal(t.read(bucket, "key"), b"old")


@each("objects", ["", "x", "YWJj", "not base64!", "YWJjCg==", "d41d8cd98f00b204e9800998ecf8427e"])
def content_md5_is_malformed(t, value):
    found = t.raw("PUT", f"/{t.bucket()}/key", headers={"content-md5": value}, body=b"data")
    answers(found, 400, "InvalidDigest")


@each("objects", ["STANDARD", None])
def storage_class(t, value):
    bucket = t.bucket()
    t.plain.put_object(Bucket=bucket, Key="key", Body=b"data", **({"StorageClass": value} if value else {}))
    equal(t.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["StorageClass"], "STANDARD")
    equal(t.s3.head_object(Bucket=bucket, Key="key").get("StorageClass"), None)


@case("objects")
def storage_class_is_unknown(t):
    refused(
        lambda: t.plain.put_object(Bucket=t.bucket(), Key="key", Body=b"", StorageClass="WRONG"), "InvalidStorageClass",
        status=400,
    )


@case("objects")
def object_attributes(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ETag", "ObjectSize", "StorageClass"])
    equal((found.get("ETag"), found.get("ObjectSize"), found.get("StorageClass")), (md5_hex(b"data"), 4, "STANDARD"))
    true("LastModified" in found, "LastModified", found)


@case("objects")
def object_attributes_that_were_asked(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ObjectSize"])
    equal((found["ObjectSize"], "ETag" in found, "StorageClass" in found), (4, False, False))


@case("objects")
def object_attributes_of_missing(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ETag"]), "NoSuchKey")


@case("objects")
def object_attributes_that_are_unknown(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.raw("GET", f"/{bucket}/key", "attributes=", {"x-amz-object-attributes": "Wrong"}), 400, "InvalidArgument")


@case("objects")
def object_attributes_without_names(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    answers(t.raw("GET", f"/{bucket}/key", "attributes="), 400, "InvalidArgument", "InvalidRequest")


@case("objects")
def transfer_of_40_mib(t):
    bucket, body = t.bucket(), pattern(40 * MIB + 17, 7)
    t.s3.upload_fileobj(io.BytesIO(body), bucket, "key", Config=TransferConfig(multipart_chunksize=8 * MIB))
    target = io.BytesIO()
    t.s3.download_fileobj(bucket, "key", target)
    true(target.getvalue() == body, "the same bytes", f"{len(target.getvalue())} other bytes")
