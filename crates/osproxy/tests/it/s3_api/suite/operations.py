"""Cases: operations."""

import datetime

from botocore.exceptions import ClientError

from .copy import source
from .multipart import Upload
from .tools import answers, case, each, equal, md5_base64, refused, true

BUCKET_QUERIES = {
    "acl": "BucketAcl", "policy": "BucketPolicy",
    "website": "BucketWebsite", "encryption": "BucketEncryption", "notification": "BucketNotificationConfiguration",
    "replication": "BucketReplication", "logging": "BucketLogging", "requestPayment": "BucketRequestPayment", "tagging": "BucketTagging",
    "accelerate": "BucketAccelerateConfiguration", "object-lock": "ObjectLockConfiguration", "ownershipControls": "BucketOwnershipControls",
    "publicAccessBlock": "PublicAccessBlock",
}


@each("operations", list(BUCKET_QUERIES.items()))
def get_of_bucket(t, query, name):
    found = answers(t.raw("GET", "/" + t.bucket(), query + "="), 501, "NotImplemented")
    true("Get" + name in found.body.decode(), f"Get{name} in the message", found.body.decode())


@each("operations", [item for item in BUCKET_QUERIES.items()] + [("versioning", "BucketVersioning")])
def put_of_bucket(t, query, name):
    bodies = {
        "acl": "", "versioning": "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
        "policy": "{}", "website": "<WebsiteConfiguration></WebsiteConfiguration>",
        "encryption": "<ServerSideEncryptionConfiguration><Rule></Rule></ServerSideEncryptionConfiguration>",
        "notification": "<NotificationConfiguration></NotificationConfiguration>",
        "replication": "<ReplicationConfiguration><Role>a</Role><Rule><Status>Enabled</Status><Destination><Bucket>b</Bucket></Destination></Rule></ReplicationConfiguration>",
        "logging": "<BucketLoggingStatus></BucketLoggingStatus>",
        "requestPayment": "<RequestPaymentConfiguration><Payer>Requester</Payer></RequestPaymentConfiguration>",
        "tagging": "<Tagging><TagSet></TagSet></Tagging>", "accelerate": "<AccelerateConfiguration></AccelerateConfiguration>",
        "object-lock": "<ObjectLockConfiguration></ObjectLockConfiguration>",
        "ownershipControls": "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>",
        "publicAccessBlock": "<PublicAccessBlockConfiguration></PublicAccessBlockConfiguration>",
    }
    body = bodies[query].encode()
    found = answers(t.raw("PUT", "/" + t.bucket(), query + "=", {"content-md5": md5_base64(body)}, body), 501, "NotImplemented")
    true("Put" + name in found.body.decode(), f"Put{name} in the message", found.body.decode())


@each("operations", ["policy", "website", "encryption", "replication", "tagging", "ownershipControls", "publicAccessBlock"])
def delete_of_bucket(t, query):
    # A DELETE that takes an unknown query for DeleteBucket would remove the bucket.
    bucket = t.bucket()
    answers(t.raw("DELETE", "/" + bucket, query + "="), 501, "NotImplemented")
    t.s3.head_bucket(Bucket=bucket)


@each("operations", ["analytics", "inventory", "metrics", "intelligent-tiering"])
def configurations_of_bucket(t, query):
    bucket = t.bucket()
    answers(t.raw("GET", "/" + bucket, query + "="), 501, "NotImplemented")
    answers(t.raw("DELETE", "/" + bucket, query + "=&id=a"), 501, "NotImplemented")
    t.s3.head_bucket(Bucket=bucket)


@each("operations", [("acl", "GetObjectAcl"), ("legal-hold", "GetObjectLegalHold"), ("retention", "GetObjectRetention"), ("torrent", "GetObjectTorrent")])
def get_of_object(t, query, name):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = answers(t.raw("GET", f"/{bucket}/key", query + "="), 501, "NotImplemented")
    true(name in found.body.decode(), f"{name} in the message", found.body.decode())


@each("operations", [("acl", ""), ("legal-hold", "<LegalHold><Status>ON</Status></LegalHold>"), ("retention", "<Retention></Retention>")])
def put_of_object(t, query, document):
    # A PUT that takes an unknown query for PutObject would replace the object by XML.
    bucket, body = t.bucket(), document.encode()
    t.put(bucket, "key")
    answers(t.raw("PUT", f"/{bucket}/key", query + "=", {"content-md5": md5_base64(body)}, body), 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"data")


@each("operations", [
    ("restore", "<RestoreRequest><Days>1</Days></RestoreRequest>"),
    ("select&select-type=2", "<SelectObjectContentRequest><Expression>a</Expression><ExpressionType>SQL</ExpressionType><InputSerialization/><OutputSerialization/></SelectObjectContentRequest>"),
])
def post_of_object(t, query, document):
    bucket = t.bucket()
    t.put(bucket, "key")
    query = "restore=" if query == "restore" else "select=&select-type=2"
    answers(t.raw("POST", f"/{bucket}/key", query, {}, document.encode()), 501, "NotImplemented")


@case("operations")
def list_versions(t):
    bucket = t.bucket()
    refused(lambda: t.s3.list_object_versions(Bucket=bucket), "NotImplemented", status=501)


@each("operations", ["get_object", "head_object"])
def read_of_version(t, call):
    bucket = t.bucket()
    t.put(bucket, "key")
    refused(lambda: getattr(t.s3, call)(Bucket=bucket, Key="key", VersionId="abc"), "NotImplemented", "NoSuchVersion", "InvalidArgument", "404", "501", "400")


@each("operations", ["PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def unknown_method(t, method):
    bucket = t.bucket()
    t.put(bucket, "key")
    found = t.raw(method, f"/{bucket}/key")
    true(400 <= found.status < 600 and found.status != 500, "405 MethodNotAllowed", found)
    equal(t.read(bucket, "key"), b"data")


@each("operations", [("POST", "/"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/BUCKET/key"), ("POST", "/BUCKET")])
def unknown_operation(t, method, path):
    found = t.raw(method, path.replace("BUCKET", t.bucket()), body=b"")
    true(found.status in (400, 405, 411, 412, 501) and found.code, "405 MethodNotAllowed or 501 NotImplemented", found)


@each("operations", ["unknown=", "versionId=null", "x-id=PutObject", "unknown"])
def put_with_more_query(t, query):
    # SDKs add x-id. AWS ignores what it does not know; versionId is refused.
    bucket = t.bucket()
    found = t.raw("PUT", f"/{bucket}/key", query, body=b"data")
    if query.startswith("versionId"):
        true(found.status in (200, 400, 501), "a refusal", found)
    else:
        answers(found, 200)


@case("operations")
def expected_bucket_owner(t):
    # The owner is not known to the client; a wrong one must not be ignored.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    try:
        t.plain.put_object(Bucket=bucket, Key="key", Body=b"evil", ExpectedBucketOwner="999999999999")
    except ClientError as error:
        true(error.response["Error"]["Code"] in ("AccessDenied", "NotImplemented"), "AccessDenied", error.response["Error"])
    equal(t.read(bucket, "key"), b"keep")


@each("operations", ["x-amz-write-offset-bytes", "x-amz-grant-read", "x-amz-grant-full-control"])
def header_that_changes_the_meaning(t, name):
    # Appends and grants must not become a plain PutObject.
    bucket = t.bucket()
    t.put(bucket, "key", body=b"keep")
    value = "4" if "offset" in name else 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'
    answers(t.raw("PUT", f"/{bucket}/key", headers={name: value}, body=b"evil"), 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"keep")


@case("operations")
def rename(t):
    bucket = t.bucket()
    t.put(bucket, "key", "other", body=b"keep")
    found = t.raw("PUT", f"/{bucket}/key", "renameObject=", {"x-amz-rename-source": f"/{bucket}/other"})
    answers(found, 501, "NotImplemented")
    equal(t.read(bucket, "key"), b"keep")


@each("operations", ["create_multipart_upload", "copy_object"])
def what_other_writers_do_not_have(t, call):
    bucket = t.bucket()
    t.put(bucket, "source")
    names = {"Bucket": bucket, "Key": "key", **({"CopySource": source(bucket, "source")} if call == "copy_object" else {})}
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    for values in (
        {"ACL": "public-read"}, {"ServerSideEncryption": "AES256"}, {"WebsiteRedirectLocation": "/a"},
        {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}, {"ObjectLockLegalHoldStatus": "ON"},
    ):
        refused(lambda values=values: getattr(t.s3, call)(**names, **values), "NotImplemented", status=501)


@each("operations", ["get_object", "list_objects_v2", "delete_object", "copy_object", "upload_part"])
def expected_bucket_owner_of(t, call):
    bucket = t.bucket()
    t.put(bucket, "key")
    values = {"list_objects_v2": {}, "copy_object": {"Key": "copy", "CopySource": source(bucket)}}.get(call, {"Key": "key"})
    if call == "upload_part":
        values = {**Upload(t, bucket).names(), "PartNumber": 1, "Body": b"x"}
    values["Bucket"] = bucket
    refused(lambda: getattr(t.plain, call)(**values, ExpectedBucketOwner="999999999999"), "AccessDenied", "NotImplemented")
