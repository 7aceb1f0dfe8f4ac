"""Cases: post."""

import base64
import hashlib
import hmac
import json
from urllib.parse import parse_qsl, urlsplit

from .tagging import tags_of
from .tools import MIB, answers, case, each, equal, keys_of, md5_hex, pattern, refused, true


def form(fields, file, name="file.txt", mime="text/plain", boundary="boundary-of-the-suite", last=()):
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()]
    if file is not None:
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {mime}\r\n\r\n'.encode() + file + b"\r\n")
    parts += [f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in last]
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def post(t, bucket, key="key", file=b"data", fields=None, conditions=None, expires=60, change=None, signer="main", **options):
    made = t.client(signer, "when_required").generate_presigned_post(bucket, key, Fields=dict(fields or {}), Conditions=list(conditions or []), ExpiresIn=expires)
    values = dict(made["fields"])
    if change:
        change(values)
    body, headers = form(values, file, **options)
    return t.send("POST", "/" + bucket, headers, body)


@each("post", [0, 1, 1000, MIB, 5 * MIB + 1])
def post_file(t, size):
    bucket, body = t.bucket(), pattern(size, 8)
    found = post(t, bucket, file=body)
    equal((found.status, found.code), (204, None))
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@case("post")
def post_answers_etag(t):
    bucket = t.bucket()
    equal(post(t, bucket).headers.get("etag"), f'"{md5_hex(b"data")}"')


@case("post")
def post_bytes_that_look_like_the_boundary(t):
    bucket, body = t.bucket(), b"a\r\n--boundary-of-the-suit\r\n--\r\n\r\n--boundary-of-the-suitX"
    equal(post(t, bucket, file=body).status, 204)
    equal(t.read(bucket, "key"), body)


@each("post", [b"\r", b"\r\n", b"\r\n--", b"\n"])
def post_large_file_of_line_breaks(t, unit):
    # Parsers look for the boundary after every line break, also where the network splits the body.
    bucket, body = t.bucket(), unit * (3 * MIB // len(unit))
    found = post(t, bucket, file=body)
    equal((found.status, found.code), (204, None))
    true(t.read(bucket, "key") == body, "the same bytes", "others")


@each("post", [("200", 200), ("201", 201), ("204", 204), ("999", 204)])
def post_status(t, value, status):
    bucket = t.bucket()
    found = post(t, bucket, fields={"success_action_status": value}, conditions=[{"success_action_status": value}])
    equal(found.status, status)
    if status == 201:
        equal((found.texts("Bucket"), found.texts("Key"), found.texts("ETag")), ([bucket], ["key"], [f'"{md5_hex(b"data")}"']))


@case("post")
def post_redirect(t):
    bucket, url = t.bucket(), "http://127.0.0.1:1/done?x=1"
    found = post(t, bucket, fields={"success_action_redirect": url}, conditions=[{"success_action_redirect": url}])
    equal(found.status, 303)
    true(found.headers["location"].startswith(url + "&bucket=" + bucket), url + "&bucket=...&key=...&etag=...", found.headers["location"])


@case("post")
def post_filename(t):
    bucket = t.bucket()
    equal(post(t, bucket, "folder/${filename}", name="photo 1.jpg").status, 204)
    equal(t.read(bucket, "folder/photo 1.jpg"), b"data")


@each("post", ["C:\\photos\\1.jpg", "/home/me/1.jpg", "1.jpg"])
def post_path_of_file(t, name):
    # Only what follows the last slash or backslash counts.
    bucket = t.bucket()
    equal(post(t, bucket, "a/${filename}-${filename}", name=name).status, 204)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["a/1.jpg-1.jpg"])


@case("post")
def post_filename_in_answers(t):
    bucket, name = t.bucket(), "a&ä+1.jpg"
    found = post(t, bucket, "f/${filename}", name=name, fields={"success_action_status": "201"}, conditions=[{"success_action_status": "201"}])
    equal((found.status, found.texts("Key")), (201, ["f/" + name]))
    url = "http://127.0.0.1:1/done"
    found = post(t, bucket, "f/${filename}", name=name, fields={"success_action_redirect": url}, conditions=[{"success_action_redirect": url}])
    query = dict(parse_qsl(urlsplit(found.headers["location"]).query))
    equal((found.status, query["bucket"], query["key"]), (303, bucket, "f/" + name))
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["f/" + name])


@case("post")
def post_filename_cannot_leave_the_prefix(t):
    bucket = t.bucket()
    made = t.plain.generate_presigned_post(bucket, "user/${filename}", Conditions=[["starts-with", "$key", "user/"]])
    body, headers = form({**made["fields"], "key": "${filename}"}, b"data", name="user")
    true(t.send("POST", "/" + bucket, headers, body).status in (400, 403), "a refusal", "success")
    body, headers = form(made["fields"], b"data", name="../admin/x")
    equal(t.send("POST", "/" + bucket, headers, body).status, 204)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["user/x"])


@case("post")
def put_of_key_like_a_variable(t):
    bucket = t.bucket()
    t.put(bucket, "${filename}")
    equal(t.read(bucket, "${filename}"), b"data")


@case("post")
def post_content_type_and_metadata(t):
    bucket = t.bucket()
    fields = {"Content-Type": "text/a", "x-amz-meta-a": "1", "Cache-Control": "no-store"}
    equal(post(t, bucket, fields=fields, conditions=[{name: value} for name, value in fields.items()]).status, 204)
    head = t.s3.head_object(Bucket=bucket, Key="key")
    equal((head["ContentType"], head["Metadata"], head.get("CacheControl")), ("text/a", {"a": "1"}, "no-store"))


@case("post")
def post_tagging(t):
    bucket = t.bucket()
    xml = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    equal(post(t, bucket, fields={"tagging": xml}, conditions=[{"tagging": xml}]).status, 204)
    equal(tags_of(t, bucket), {"a": "1"})


@each("post", [
    "<Tagging><TagSet><Tag><Key>a</Key>", "a=1", "<Tagging><TagSet><Tag><Key></Key><Value>1</Value></Tag></TagSet></Tagging>",
    "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag><Tag><Key>a</Key><Value>2</Value></Tag></TagSet></Tagging>",
])
def post_wrong_tagging(t, xml):
    bucket = t.bucket()
    found = post(t, bucket, fields={"tagging": xml}, conditions=[{"tagging": xml}])
    answers(found, 400, "MalformedXML", "InvalidTag", "InvalidArgument")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_tagging_that_is_not_in_policy(t):
    xml = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>"
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"tagging": xml})), 403, "AccessDenied")


@each("post", [(0, 3, False), (4, 4, True), (5, 100, False), (0, 100, True)])
def post_length_range(t, low, high, permitted):
    bucket = t.bucket()
    found = post(t, bucket, conditions=[["content-length-range", low, high]])
    if permitted:
        equal(found.status, 204)
    else:
        answers(found, 400, "EntityTooLarge" if high < 4 else "EntityTooSmall")
        refused(lambda: t.s3.head_object(Bucket=bucket, Key="key"), "404")


@case("post")
def post_expired(t):
    answers(post(t, t.bucket(), expires=-10), 403, "AccessDenied")


@case("post")
def post_field_that_is_not_in_policy(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"x-amz-meta-a": "1"})), 403, "AccessDenied")


@case("post")
def post_ignored_field(t):
    equal(post(t, t.bucket(), change=lambda fields: fields.update({"x-ignore-a": "1"})).status, 204)


@case("post")
def post_other_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, change=lambda fields: fields.update({"key": "other"})), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_to_other_bucket(t):
    bucket, other = t.bucket(), t.bucket()
    made = t.plain.generate_presigned_post(bucket, "key")
    body, headers = form(made["fields"], b"data")
    answers(t.send("POST", "/" + other, headers, body), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=other)), [])


@case("post")
def post_key_with_prefix(t):
    bucket = t.bucket()
    made = t.plain.generate_presigned_post(bucket, "user/${filename}", Conditions=[["starts-with", "$key", "user/"]])
    for key, status in (("user/a", 204), ("admin/a", 403)):
        body, headers = form({**made["fields"], "key": key}, b"data")
        equal(t.send("POST", "/" + bucket, headers, body).status, status, key)


@case("post")
def post_wrong_signature(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"x-amz-signature": "0" * 64})), 403, "SignatureDoesNotMatch")


@case("post")
def post_changed_policy(t):
    policy = base64.b64encode(b'{"expiration":"2099-01-01T00:00:00Z","conditions":[]}').decode()
    answers(post(t, t.bucket(), change=lambda fields: fields.update({"policy": policy})), 403, "SignatureDoesNotMatch")


@case("post")
def post_without_signature(t):
    bucket = t.bucket()
    for drop in ("policy", "x-amz-signature", "x-amz-credential", "x-amz-date", "x-amz-algorithm"):
        found = post(t, bucket, change=lambda fields, drop=drop: fields.pop(drop))
        true(found.status in (400, 403), "400 or 403", (drop, found))
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_without_key(t):
    answers(post(t, t.bucket(), change=lambda fields: fields.pop("key")), 400)


@case("post")
def post_without_file(t):
    answers(post(t, t.bucket(), file=None), 400)


@case("post")
def post_anonymously(t):
    bucket = t.bucket()
    body, headers = form({"key": "key"}, b"evil")
    answers(t.send("POST", "/" + bucket, headers, body), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_by_read_only_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, signer="read_only"), 403, "AccessDenied")


@case("post")
def post_by_other_tenant(t):
    bucket = t.bucket()
    found = post(t, bucket, signer="other_tenant")
    true(found.status in (403, 404), "403 AccessDenied", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_by_limited_key(t):
    bucket = t.bucket()
    answers(post(t, bucket, signer="limited"), 403, "AccessDenied")
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_version_2(t):
    bucket, key = t.bucket(), t.keys["main"]
    policy = json.dumps({"expiration": "2099-01-01T00:00:00Z", "conditions": [{"bucket": bucket}, {"key": "key"}]})
    policy = base64.b64encode(policy.encode()).decode()
    digest = hmac.new(key["secret_access_key"].encode(), policy.encode(), hashlib.sha1).digest()
    fields = {"key": "key", "AWSAccessKeyId": key["access_key_id"], "policy": policy, "signature": base64.b64encode(digest).decode()}
    body, headers = form(fields, b"evil")
    found = t.send("POST", "/" + bucket, headers, body)
    true(found.status in (400, 403) and found.code, "a refusal of Signature Version 2", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("post")
def post_more_than_16_mib(t):
    # AWS permits 5 GiB; osproxy documents 16 MiB.
    bucket = t.bucket()
    found = post(t, bucket, file=b"x" * (17 * MIB))
    answers(found, 400, "EntityTooLarge")


@each("post", ["", "multipart/form-data", "multipart/form-data; boundary=", "text/plain"])
def post_without_boundary(t, value):
    body, _ = form({"key": "key"}, b"data")
    found = t.send("POST", "/" + t.bucket(), {"content-type": value}, body)
    true(400 <= found.status < 500 and found.code, "a 4xx with a code", found)


@case("post")
def post_that_is_cut(t):
    bucket = t.bucket()
    made = t.plain.generate_presigned_post(bucket, "key")
    body, headers = form(made["fields"], b"data" * 1000)
    found = t.send("POST", "/" + bucket, headers, body[:-1500])
    true(400 <= found.status < 500 and found.code, "400 MalformedPOSTRequest or IncompleteBody", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])
