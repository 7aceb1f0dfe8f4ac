"""Cases: keys."""

import re
from urllib.parse import quote, unquote

from .copy import source
from .listings import SPECIAL
from .tools import answers, case, each, equal, keys_of, md5_base64, refused, true


def raw_path(bucket, key):
    return f"/{bucket}/" + quote(key, safe="/~")


@each("keys", SPECIAL + [
    "..", ".", "../a", "a/../b", "a/./b", "a/..", "./a", "../../etc/passwd", "///", "a///b/", "\x01", "a\nb", "a\rb", "a\x0bb",
    "\x1f", "a\r\nx: y", "\u2028", "\ufeff", "\ufffd", "\u202eabc", "con", "C:\\a", "%2e%2e", "%00", "%0A", "k" * 1024, "ä" * 512,
    "a/" * 512, "x" * 300, "😀" * 256,
])
def round_trip(t, key):
    bucket = t.bucket()
    path = raw_path(bucket, key)
    body = key.encode()
    answers(t.raw("PUT", path, body=body), 200)
    found = t.raw("GET", path)
    equal((found.status, found.body), (200, body), "GET")
    equal(t.raw("HEAD", path).status, 200, "HEAD")
    listed = t.raw("GET", "/" + bucket, "encoding-type=url&list-type=2").texts("Key")
    equal([unquote(item.replace("+", " ")) for item in listed], [key], "key in the listing")
    equal(t.raw("DELETE", path).status, 204)
    equal(t.raw("GET", path).status, 404)


@each("keys", ["k" * 1025, "ä" * 513, "a/" * 513, "k" * 5000])
def too_long(t, key):
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 400, "KeyTooLongError")
    equal(t.raw("DELETE", raw_path(bucket, key)).status // 100, 4)


@case("keys")
def too_long_for_get(t):
    answers(t.raw("GET", raw_path(t.bucket(), "k" * 1025)), 400, "KeyTooLongError")


@case("keys")
def too_long_for_copy(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: t.s3.copy_object(Bucket=bucket, Key="k" * 1025, CopySource=source(bucket)), "KeyTooLongError", status=400)


@each("keys", ["%00", "a%00b"])
def with_nul(t, path):
    # AWS stores NUL; a clear refusal is fine too, because databases cannot.
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/{path}", body=b"x")
    if found.status == 200:
        equal(t.raw("GET", f"/{bucket}/{path}").body, b"x")
    else:
        answers(found, 400)
        true(found.code in ("InvalidArgument", "InvalidRequest", "InvalidURI"), "a clear code", found)


@each("keys", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF"])
def that_is_no_utf8(t, path):
    found = t.raw("PUT", f"/{t.bucket()}/{path}", body=b"x")
    true(found.status == 400 and found.code, "400 InvalidURI", found)


@each("keys", ["%", "%zz", "a%2"])
def with_broken_escape(t, path):
    found = t.raw("PUT", f"/{t.bucket()}/{path}", body=b"x")
    true(400 <= found.status < 500 and found.code, "400 InvalidURI", found)


@case("keys")
def plus_in_path_is_a_plus(t):
    bucket = t.bucket()
    t.put(bucket, "a b", body=b"space")
    t.put(bucket, "a+b", body=b"plus")
    equal((t.read(bucket, "a b"), t.read(bucket, "a+b")), (b"space", b"plus"))
    # The path is sent as it is; clients sign it encoded.
    equal(t.raw("GET", f"/{bucket}/a%2Bb").body, b"plus")


@case("keys")
def encoded_and_plain_keys_differ(t):
    bucket = t.bucket()
    for key in ("a/b", "a%2Fb", "a%252Fb"):
        t.put(bucket, key, body=key.encode())
    for key in ("a/b", "a%2Fb", "a%252Fb"):
        equal(t.read(bucket, key), key.encode())


@case("keys")
def similar_keys_differ(t):
    bucket = t.bucket()
    keys = ["a", "A", "a ", " a", "a/", "/a", "a//", "//a", "a\u0301", "á", "ａ", "ß", "ss", "a.", "./a", "a\\"]
    for key in keys:
        t.put(bucket, key, body=key.encode())
    for key in keys:
        equal(t.read(bucket, key), key.encode(), repr(key))
    equal(len(keys_of(t.s3.list_objects_v2(Bucket=bucket))), len(keys))


@case("keys")
def key_is_also_a_folder(t):
    bucket = t.bucket()
    t.put(bucket, "a", "a/b", "a/b/c", "a/")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["a", "a/", "a/b", "a/b/c"])


@each("keys", ["\x01", "a\nb", "\x08", "a\rb", "\ufffe"])
def control_characters_in_listing(t, key):
    # XML 1.0 has no control characters: boto3 asks for encoded keys.
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [key])


@case("keys")
def control_characters_in_listing_without_encoding(t):
    # AWS answers references such as &#x1;, which XML parsers may refuse; the rest must stay readable.
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/a%01b", body=b"x"), 200)
    found = t.raw("GET", "/" + bucket, "list-type=2")
    equal(found.status, 200)
    true(b"&#x1;" in found.body or b"&#1;" in found.body, "&#x1;", found.body[-400:])


@case("keys")
def carriage_return_in_listing_without_encoding(t):
    # A bare carriage return in XML is read as a line feed.
    bucket = t.bucket()
    answers(t.raw("PUT", f"/{bucket}/a%0Db", body=b"x"), 200)
    equal(t.raw("GET", "/" + bucket, "list-type=2").texts("Key"), ["a\rb"])


@each("keys", ["a\nb", "a&b<c>", "a\tb", " a "])
def delete_objects_with(t, key):
    bucket = t.bucket()
    answers(t.raw("PUT", raw_path(bucket, key), body=b"x"), 200)
    text = key.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "&#10;").replace("\t", "&#9;")
    body = f"<Delete><Object><Key>{text}</Key></Object></Delete>".encode()
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("keys")
def upload_with_control_characters(t):
    bucket = t.bucket()
    found = answers(t.raw("POST", f"/{bucket}/a%01b", "uploads="), 200)
    upload_id = re.search(rb"<UploadId>(.*?)</UploadId>", found.body).group(1).decode()
    listed = answers(t.raw("GET", "/" + bucket, "encoding-type=url&uploads="), 200)
    true(b"<Key>a%01b</Key>" in listed.body, "an encoded key", listed.body)
    equal(t.raw("DELETE", f"/{bucket}/a%01b", f"uploadId={quote(upload_id, safe='')}").status, 204)
