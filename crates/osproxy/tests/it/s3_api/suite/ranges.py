"""Cases: ranges."""

from .tools import MIB, answers, case, each, equal, md5_hex, pattern, refused, true


@each("ranges", [
    ("bytes=0-0", 0, 1), ("bytes=0-9", 0, 10), ("bytes=5-", 5, 100), ("bytes=99-", 99, 100), ("bytes=-1", 99, 100),
    ("bytes=-100", 0, 100), ("bytes=-1000", 0, 100), ("bytes=90-1000", 90, 100), ("bytes=0-", 0, 100), ("bytes=0-99", 0, 100),
    ("bytes=50-50", 50, 51), ("bytes=0-99999999999999999999", 0, 100),
])
def range_of_100(t, header, start, end):
    bucket, body = t.bucket(), pattern(100)
    t.put(bucket, "key", body=body)
    found = t.raw("GET", f"/{bucket}/key", headers={"range": header})
    equal((found.status, found.body), (206, body[start:end]))
    equal(found.headers["content-range"], f"bytes {start}-{end - 1}/100")
    equal(found.headers["content-length"], str(end - start))


@each("ranges", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"])
def range_that_is_outside(t, header):
    bucket = t.bucket()
    t.put(bucket, "key", body=pattern(100))
    answers(t.raw("GET", f"/{bucket}/key", headers={"range": header}), 416, "InvalidRange")


@each("ranges", ["bytes=9-5", "bytes=a-b", "bytes=", "lines=0-5", "bytes 0-5", "bytes=-", "0-5", "bytes=0-1,5-6"])
def range_that_is_ignored(t, header):
    bucket, body = t.bucket(), pattern(100)
    t.put(bucket, "key", body=body)
    found = t.raw("GET", f"/{bucket}/key", headers={"range": header})
    true(found.status == 200 and found.body == body, "200 and the whole object", (found.status, len(found.body), found.code))


@each("ranges", ["bytes=0-0", "bytes=-1", "bytes=-100", "bytes=0-", "bytes=5-10"])
def range_of_empty_object(t, header):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    answers(t.raw("GET", f"/{bucket}/key", headers={"range": header}), 416, "InvalidRange")


@case("ranges")
def range_of_empty_object_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"")
    equal(t.raw("HEAD", f"/{bucket}/key", headers={"range": "bytes=-1"}).status, 416)


@case("ranges")
def range_in_head(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=pattern(100))
    found = t.raw("HEAD", f"/{bucket}/key", headers={"range": "bytes=10-19"})
    equal((found.status, found.headers.get("content-length"), found.headers.get("content-range")), (206, "10", "bytes 10-19/100"))


@case("ranges")
def ranges_of_a_large_object(t):
    bucket, body = t.bucket(), pattern(3 * MIB + 5)
    t.put(bucket, "key", body=body)
    for start, end in ((0, 1), (65535, 65537), (MIB - 1, 2 * MIB + 3), (3 * MIB, 3 * MIB + 5), (1, 3 * MIB + 4)):
        true(t.read(bucket, "key", Range=f"bytes={start}-{end - 1}") == body[start:end], f"bytes {start} to {end}", "others")


@case("ranges")
def range_has_the_etag(t):
    bucket = t.bucket()
    t.put(bucket, "key", body=b"0123456789")
    equal(t.s3.get_object(Bucket=bucket, Key="key", Range="bytes=1-2")["ETag"], f'"{md5_hex(b"0123456789")}"')


@each("ranges", [True, False])
def if_range(t, same):
    # RFC 9110: a resumed download must not mix two objects.
    bucket, body = t.bucket(), pattern(100)
    etag = t.plain.put_object(Bucket=bucket, Key="key", Body=body)["ETag"]
    found = t.raw("GET", f"/{bucket}/key", headers={"range": "bytes=0-9", "if-range": etag if same else '"other"'})
    equal(found.status, 206 if same else 200)
