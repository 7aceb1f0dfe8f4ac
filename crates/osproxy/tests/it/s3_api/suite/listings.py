"""Cases: listings."""

import concurrent.futures
import random
import re
from urllib.parse import quote

from botocore.exceptions import ClientError

from .tools import Failure, answers, case, each, equal, keys_of, md5_hex, prefixes_of, true

KEYS = ["a", "asdf", "boo/bar", "boo/baz/xyzzy", "cquux/thud", "cquux/bla", "foo/", "foo/1", "foo//2", "z"]
SPECIAL = [
    " ", " lead", "trail ", "a b", "a+b", "a%2Fb", "a%b", "a&b", "a<b>", 'a"b', "a'b", "a\\b", "a?b", "a#b", "a=b", "a;b", "a:b",
    "a@b", "a$b", "a,b", "a*b", "a|b", "a^b", "a~b", "a`b", "a{b}", "a[b]", "ä", "日本語", "😀", "\uffee", "e\u0301", "\u00e9", "//", "/a", "a//b", "a/",
    "-", "_", ".hidden", "a\tb", "\x7f", "%", "%%", "%41", "&amp;", "]]>",
]


def model(keys, prefix="", delimiter="", after=""):
    """What a listing has after a marker: (item, is a prefix) in order."""
    seen = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        item = (key[: at + len(delimiter)], True) if at >= 0 else (key, False)
        if key.encode() <= after.encode() or (item[1] and after.encode() >= item[0].encode() and not after.startswith(item[0])):
            continue
        if item not in seen:
            seen.append(item)
    return seen


def items(page):
    return sorted([(key, False) for key in keys_of(page)] + [(prefix, True) for prefix in prefixes_of(page)], key=lambda item: item[0].encode())


def list_in_pages(t, version, bucket, size, **options):
    """All items of a listing, page by page, with checks of each page."""
    found, next_page = [], {}
    for _ in range(1000):
        if version == 2:
            page = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=size, **{**options, **next_page})
            equal(page["KeyCount"], len(items(page)), "KeyCount")
        else:
            page = t.s3.list_objects(Bucket=bucket, MaxKeys=size, **{**options, **next_page})
        equal(page["MaxKeys"], size, "MaxKeys")
        true(len(items(page)) <= size, f"at most {size} items", len(items(page)))
        found += items(page)
        if not page["IsTruncated"]:
            true("NextContinuationToken" not in page and "NextMarker" not in page, "no next marker at the end", page)
            return found
        equal(len(items(page)), size, "items of a page that is truncated")
        if version == 2:
            next_page = {"ContinuationToken": page["NextContinuationToken"]}
        elif "Delimiter" in options:
            next_page = {"Marker": page["NextMarker"]}
        else:
            next_page = {"Marker": keys_of(page)[-1]}
    raise Failure("a last page", "1000 pages")


def list_once(t, version, bucket, **options):
    return (t.s3.list_objects_v2 if version == 2 else t.s3.list_objects)(Bucket=bucket, **options)


for VERSION in (1, 2):
    GROUP = f"list-v{VERSION}"

    @each(GROUP, [(VERSION, prefix, delimiter) for prefix, delimiter in [
        ("", ""), ("", "/"), ("boo/", "/"), ("boo", "/"), ("boo/bar", "/"), ("boo/bar/", "/"), ("foo/", "/"), ("foo", ""), ("none", ""),
        ("c", "q"), ("", "oo"), ("", "uu"), ("", "oo/ba"), ("b", "o/b"), ("", "z"), ("foo//", "/"), ("", "//"), ("/", "/"), ("", "none"),
        ("a", "a"), ("", "%2F"),
    ]])
    def list_with(t, version, prefix, delimiter):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"Prefix": prefix} if prefix else {}
        if delimiter:
            options["Delimiter"] = delimiter
        page = list_once(t, version, bucket, **options)
        equal(items(page), sorted(model(KEYS, prefix, delimiter)))
        equal(page.get("Prefix", ""), prefix)
        equal(page.get("Delimiter", ""), delimiter)
        equal(page["Name"], bucket)
        equal(page["IsTruncated"], False)

    @each(GROUP, [(VERSION, delimiter) for delimiter in ("", "/", "oo", "//")])
    def pages_of_every_size(t, version, delimiter):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"Delimiter": delimiter} if delimiter else {}
        for size in range(1, len(KEYS) + 2):
            equal(list_in_pages(t, version, bucket, size, **options), sorted(model(KEYS, "", delimiter)), f"pages of {size}:")

    @each(GROUP, [(VERSION, prefix) for prefix in ("boo/", "cquux/", "foo/", "a")])
    def pages_with_prefix(t, version, prefix):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        for size in (1, 2, 3):
            found = list_in_pages(t, version, bucket, size, Delimiter="/", Prefix=prefix)
            equal(found, sorted(model(KEYS, prefix, "/")), f"pages of {size}:")

    @each(GROUP, [(VERSION, delimiter, marker) for delimiter in ("", "/") for marker in (
        "a", "b", "boo", "boo/", "boo/bar", "boo/baz", "boo/zzz", "boo0", "cquux/bla", "foo", "foo/", "foo/1", "foo//", "z", "zz", "A", " ",
    )])
    def list_after(t, version, delimiter, marker):
        bucket = t.bucket()
        t.put(bucket, *KEYS)
        options = {"StartAfter" if version == 2 else "Marker": marker}
        if delimiter:
            options["Delimiter"] = delimiter
        page = list_once(t, version, bucket, **options)
        # A marker inside a common prefix: AWS answers the prefix if a key after the marker has it, except that a
        # marker that is the whole prefix skips it in version 1, where it is the NextMarker of the page before.
        expected = []
        for item in model([key for key in KEYS if key.encode() > marker.encode()], "", delimiter):
            if not (item[1] and marker == item[0] and version == 1):
                expected.append(item)
        if version == 2:
            expected = [item for item in expected if not (item[1] and marker == item[0])]
        equal(items(page), expected)

    @case(GROUP)
    def max_keys_0(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "a", "b")
        page = list_once(t, version, bucket, MaxKeys=0)
        equal((items(page), page["IsTruncated"], page["MaxKeys"]), ([], False, 0))

    @each(GROUP, [(VERSION, "-1"), (VERSION, "a"), (VERSION, "99999999999")])
    def max_keys_wrong(t, version, value):
        query = f"max-keys={value}" + ("&list-type=2" if version == 2 else "")
        answers(t.raw("GET", "/" + t.bucket(), "&".join(sorted(query.split("&")))), 400, "InvalidArgument")

    @each(GROUP, [(VERSION, 1001), (VERSION, 2147483647)])
    def max_keys_large(t, version, value):
        bucket = t.bucket()
        t.put(bucket, "a")
        page = list_once(t, version, bucket, MaxKeys=value)
        equal(keys_of(page), ["a"])
        true(page["MaxKeys"] in (1000, value), "MaxKeys 1000", page["MaxKeys"])

    @case(GROUP)
    def empty_bucket(t, version=VERSION):
        page = list_once(t, version, t.bucket())
        equal((items(page), page["IsTruncated"], page["MaxKeys"]), ([], False, 1000))

    @case(GROUP)
    def empty_parameters(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "a/b", "c")
        query = "delimiter=&prefix=" + ("&list-type=2&start-after=" if version == 2 else "&marker=")
        found = answers(t.raw("GET", "/" + bucket, "&".join(sorted(query.split("&")))), 200)
        equal(found.texts("Key"), ["a/b", "c"])

    @case(GROUP)
    def special_keys_with_url_encoding(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        equal(keys_of(list_once(t, version, bucket)), sorted(SPECIAL, key=str.encode))
        query = "encoding-type=url" + ("&list-type=2" if version == 2 else "")
        found = t.raw("GET", "/" + bucket, query).texts("Key")
        true(all(re.fullmatch(r"[A-Za-z0-9_.~*/+%()!'-]+", key) for key in found), "encoded keys", found)

    @case(GROUP)
    def special_keys_without_encoding(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        found = t.raw("GET", "/" + bucket, "list-type=2" if version == 2 else "").texts("Key")
        equal(found, sorted(SPECIAL, key=str.encode))

    @case(GROUP)
    def special_keys_in_pages(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, *SPECIAL)
        expected = [(key, False) for key in sorted(SPECIAL, key=str.encode)]
        for size in (1, 7):
            equal(list_in_pages(t, version, bucket, size), expected, f"pages of {size}:")

    @each(GROUP, [(VERSION, character) for character in ("%", "ä", " ", "+", "&", "_", "\\", "*", "😀", "'", "?", "[")])
    def special_prefix_and_delimiter(t, version, character):
        bucket = t.bucket()
        keys = [f"a{character}b", f"a{character}{character}c", f"x{character}y", "axb", "a", "abc"]
        t.put(bucket, *keys)
        equal(items(list_once(t, version, bucket, Delimiter=character)), sorted(model(keys, "", character)))
        equal(items(list_once(t, version, bucket, Prefix="a" + character)), sorted(model(keys, "a" + character)))
        equal(list_in_pages(t, version, bucket, 1, Delimiter=character), sorted(model(keys, "", character)))

    @case(GROUP)
    def prefix_keeps_case(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "Abc", "abc", "ABC", "aBc")
        equal(keys_of(list_once(t, version, bucket)), ["ABC", "Abc", "aBc", "abc"])
        equal(keys_of(list_once(t, version, bucket, Prefix="a")), ["aBc", "abc"])

    @case(GROUP)
    def wrong_encoding_type(t, version=VERSION):
        query = "encoding-type=base64" + ("&list-type=2" if version == 2 else "")
        answers(t.raw("GET", "/" + t.bucket(), query), 400, "InvalidArgument")

    @case(GROUP)
    def order_is_of_bytes(t, version=VERSION):
        # U+FFEE sorts before U+1F600 in UTF-8, after it in UTF-16.
        bucket, keys = t.bucket(), ["\uffee", "😀", "a", "B", "é", "z"]
        t.put(bucket, *keys)
        equal(keys_of(list_once(t, version, bucket)), sorted(keys, key=str.encode))

    @case(GROUP)
    def fields_of_an_item(t, version=VERSION):
        bucket = t.bucket()
        t.put(bucket, "key")
        item = list_once(t, version, bucket)["Contents"][0]
        equal((item["Size"], item["ETag"], item["StorageClass"]), (4, f'"{md5_hex(b"data")}"', "STANDARD"))

    @case(GROUP)
    def random_buckets(t, version=VERSION):
        for seed in range(3):
            chance, bucket = random.Random(seed), t.bucket()
            keys = sorted({"".join(chance.choice("ab/") for _ in range(chance.randint(1, 6))) for _ in range(30)})
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda key: t.put(bucket, key), keys))
            for prefix, delimiter, size in [("", "/", 1), ("", "/", 3), ("a", "/", 2), ("", "b", 2), ("", "ab", 1), ("/", "/", 1), ("a", "a/", 2)]:
                found = list_in_pages(t, version, bucket, size, Prefix=prefix, Delimiter=delimiter)
                equal(found, sorted(model(keys, prefix, delimiter), key=lambda item: item[0].encode()),
                      f"seed {seed}, prefix {prefix!r}, delimiter {delimiter!r}, pages of {size}:")


@case("list-v1")
def owner_v1(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    true(t.s3.list_objects(Bucket=bucket)["Contents"][0].get("Owner", {}).get("ID"), "an Owner", "none")


@case("list-v1")
def no_next_marker_without_delimiter(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    found = t.raw("GET", "/" + bucket, "max-keys=1")
    equal((found.texts("NextMarker"), found.texts("IsTruncated")), ([], ["true"]))


@case("list-v1")
def next_marker_is_a_prefix(t):
    bucket = t.bucket()
    t.put(bucket, "a/1", "a/2", "b/1", "c")
    page = t.s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=1)
    equal((prefixes_of(page), page["NextMarker"]), (["a/"], "a/"))
    page = t.s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=1, Marker="a/")
    equal(prefixes_of(page), ["b/"])


@case("list-v1")
def marker_is_echoed(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    equal(t.s3.list_objects(Bucket=bucket, Marker="a")["Marker"], "a")


@case("list-v2")
def owner_v2(t):
    bucket = t.bucket()
    t.put(bucket, "key")
    true("Owner" not in t.s3.list_objects_v2(Bucket=bucket)["Contents"][0], "no Owner", "an Owner")
    true(t.s3.list_objects_v2(Bucket=bucket, FetchOwner=True)["Contents"][0].get("Owner", {}).get("ID"), "an Owner", "none")


@case("list-v2")
def start_after_is_echoed(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b")
    equal(t.s3.list_objects_v2(Bucket=bucket, StartAfter="a")["StartAfter"], "a")


@case("list-v2")
def token_wins_over_start_after(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", "c", "d")
    token = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=2)["NextContinuationToken"]
    page = t.s3.list_objects_v2(Bucket=bucket, ContinuationToken=token, StartAfter="c")
    equal((keys_of(page), page["ContinuationToken"]), (["c", "d"], token))


@each("list-v2", ["wrong", "!!", "a" * 3000, "%00"])
def wrong_token(t, token):
    bucket = t.bucket()
    t.put(bucket, "a")
    query = "continuation-token=" + quote(token, safe="%") + "&list-type=2"
    answers(t.raw("GET", "/" + bucket, query), 400, "InvalidArgument")


@case("list-v2")
def list_type_3(t):
    answers(t.raw("GET", "/" + t.bucket(), "list-type=3"), 400, "InvalidArgument")


@case("list-v2")
def more_than_1000(t):
    bucket = t.bucket()
    keys = [f"d{index % 3}/{index:04}" for index in range(1003)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: t.put(bucket, key), keys))
    page = t.s3.list_objects_v2(Bucket=bucket)
    equal((len(page["Contents"]), page["KeyCount"], page["IsTruncated"]), (1000, 1000, True))
    pages = t.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    equal([key for page in pages for key in keys_of(page)], sorted(keys))
    equal(prefixes_of(t.s3.list_objects_v2(Bucket=bucket, Delimiter="/")), ["d0/", "d1/", "d2/"])
    page = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    equal(len(page["Contents"]), 1000)
    for start in (0, 1000):
        t.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys[start:start + 1000]], "Quiet": True})
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("list-v2")
def token_after_its_key_is_deleted(t):
    bucket = t.bucket()
    t.put(bucket, "a", "b", "c", "d")
    token = t.s3.list_objects_v2(Bucket=bucket, MaxKeys=2)["NextContinuationToken"]
    t.s3.delete_object(Bucket=bucket, Key="b")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket, ContinuationToken=token)), ["c", "d"])


@case("list-v2")
def token_of_other_bucket_is_harmless(t):
    first, second = t.bucket(), t.bucket()
    t.put(first, "a", "b", "c")
    t.put(second, "x")
    token = t.s3.list_objects_v2(Bucket=first, MaxKeys=1)["NextContinuationToken"]
    try:
        true(set(keys_of(t.s3.list_objects_v2(Bucket=second, ContinuationToken=token))) <= {"x"}, "only keys of the bucket", "others")
    except ClientError as error:
        equal(error.response["Error"]["Code"], "InvalidArgument")
