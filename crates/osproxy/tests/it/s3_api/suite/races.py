"""Cases: races."""

import concurrent.futures
import time

from botocore.exceptions import ClientError

from .copy import source
from .multipart import Upload
from .tools import Failure, case, each, equal, keys_of, md5_hex, pattern, refused, true


def meanwhile(seconds, writers, readers):
    """Run functions again and again at the same time; return what readers raised."""
    end, problems = time.monotonic() + seconds, []

    def loop(function, is_reader):
        count = 0
        while time.monotonic() < end:
            count += 1
            try:
                function(count)
            except (ClientError, Failure) as error:
                text = f"{function.__name__}: {error}"
                # SlowDown and ServiceUnavailable ask the client to repeat, as AWS does.
                if "SlowDown" not in text and "ServiceUnavailable" not in text and "(503)" not in text:
                    problems.append(text)
                    if is_reader:
                        return

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for function in writers:
            pool.submit(loop, function, False)
        for function in readers:
            pool.submit(loop, function, True)
    return problems


def quiet(problems):
    true(not problems, "no error", sorted(set(problems))[:3])


@each("races", ["put", "copy", "multipart"])
def read_while_replaced(t, how):
    # AWS is strongly consistent: a key that is replaced is never missing.
    bucket = t.bucket()
    bodies = {f'"{md5_hex(body)}"': body for body in (pattern(10, 1), pattern(200000, 2))}
    t.put(bucket, "a", body=pattern(10, 1))
    t.put(bucket, "b", body=pattern(200000, 2))
    t.put(bucket, "key", body=pattern(10, 1))

    def write(count):
        body = list(bodies.values())[count % 2]
        if how == "put":
            t.plain.put_object(Bucket=bucket, Key="key", Body=body)
        elif how == "copy":
            t.plain.copy_object(Bucket=bucket, Key="key", CopySource=source(bucket, "ab"[count % 2]))
        else:
            upload = Upload(t, bucket)
            upload.part(1, body)
            upload.complete()

    def get(_):
        found = t.plain.get_object(Bucket=bucket, Key="key")
        body = found["Body"].read()
        if "-" in found["ETag"]:
            true(body in bodies.values(), "one of the bodies", len(body))
        else:
            true(bodies.get(found["ETag"]) == body, "the body of the ETag", (found["ETag"], len(body)))

    def head(_):
        t.plain.head_object(Bucket=bucket, Key="key")

    def copy(_):
        t.plain.copy_object(Bucket=bucket, Key="copy", CopySource=source(bucket))

    def list_it(_):
        equal(keys_of(t.plain.list_objects_v2(Bucket=bucket, Prefix="key")), ["key"])

    def tags(_):
        t.plain.get_object_tagging(Bucket=bucket, Key="key")

    quiet(meanwhile(4, [write], [get, head, copy, list_it, tags]))


@case("races")
def equal_content_while_deleted(t):
    # Equal files share their content. The last deletion must not take the content from a new object.
    bucket, body = t.bucket(), pattern(100000, 77)

    def worker(name):
        def put_get_delete(count):
            t.plain.put_object(Bucket=bucket, Key=name, Body=body)
            true(t.plain.get_object(Bucket=bucket, Key=name)["Body"].read() == body, "the body", "another")
            if count % 3 == 0:
                t.plain.copy_object(Bucket=bucket, Key=name + "-copy", CopySource=source(bucket, name))
            t.plain.delete_object(Bucket=bucket, Key=name)
            if count % 3 == 0:
                true(t.plain.get_object(Bucket=bucket, Key=name + "-copy")["Body"].read() == body, "the body", "another")
                t.plain.delete_object(Bucket=bucket, Key=name + "-copy")
        return put_get_delete

    quiet(meanwhile(5, [worker(name) for name in "abcdef"], []))


@case("races")
def list_while_others_change(t):
    # Keys that nobody touches are in every listing, once and in order.
    bucket = t.bucket()
    still = [f"k{index:03}" for index in range(0, 60, 2)]
    t.put(bucket, *still)

    def change(count):
        key = f"k{(count * 7) % 60 | 1:03}"
        t.plain.put_object(Bucket=bucket, Key=key, Body=b"x")
        t.plain.delete_object(Bucket=bucket, Key=key)

    def list_all(_):
        found = [item[0] for item in list_in_pages_quickly(t, bucket, 7)]
        equal(found, sorted(set(found)))
        equal([key for key in found if key in still], still)

    quiet(meanwhile(4, [change, change], [list_all, list_all]))


def list_in_pages_quickly(t, bucket, size):
    pages = t.plain.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": size})
    return [(key, False) for page in pages for key in keys_of(page)]


@case("races")
def put_while_bucket_is_deleted(t):
    # A PUT that was answered by 200 is in the bucket, so the bucket was not deleted.
    for _ in range(10):
        bucket = t.bucket()

        def put(_, bucket=bucket):
            try:
                t.plain.put_object(Bucket=bucket, Key="key", Body=b"x")
                return True
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("NoSuchBucket", "ServiceUnavailable", "OperationAborted"), "NoSuchBucket", error.response["Error"])
                return False

        def drop(_, bucket=bucket):
            try:
                t.plain.delete_bucket(Bucket=bucket)
                return True
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("BucketNotEmpty", "ServiceUnavailable", "OperationAborted"), "BucketNotEmpty", error.response["Error"])
                return False

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            stored, dropped = pool.submit(put, 0), pool.submit(drop, 0)
            stored, dropped = stored.result(), dropped.result()
        true(not (stored and dropped), "PUT or DELETE fails", "both succeed")
        if stored:
            equal(t.read(bucket, "key"), b"x")


@case("races")
def parts_while_aborted(t):
    for _ in range(5):
        upload = Upload(t)

        def put(number, upload=upload):
            try:
                t.plain.upload_part(**upload.names(), PartNumber=number, Body=b"x" * 100000)
            except ClientError as error:
                true(error.response["Error"]["Code"] in ("NoSuchUpload", "ServiceUnavailable"), "NoSuchUpload", error.response["Error"])

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            jobs = [pool.submit(put, number) for number in range(1, 5)] + [pool.submit(upload.abort)]
            for job in jobs:
                job.result()
        refused(lambda upload=upload: t.s3.list_parts(**upload.names()), "NoSuchUpload")


@case("races")
def same_bucket_created_at_once(t):
    name = t.name()

    def create(key):
        try:
            t.client(key).create_bucket(Bucket=name)
            return key
        except ClientError as error:
            true(error.response["Error"]["Code"] in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou", "OperationAborted"), "BucketAlreadyExists", error.response["Error"])
            return None

    t.buckets.append((name, "other_tenant"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        owners = {key for key in pool.map(create, ["main", "other_tenant"] * 2) if key}
    equal(len(owners), 1, "tenants that own the bucket")
