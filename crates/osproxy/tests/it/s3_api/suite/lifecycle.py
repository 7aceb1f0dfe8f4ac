"""Cases: lifecycle."""

import datetime

from .tools import case, each, equal, refused, true


def lifecycle_rule(**more):
    return {"ID": "rule", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 30}, **more}


def put_lifecycle(t, bucket, *rules):
    return t.s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


@case("lifecycle")
def lifecycle_rules_are_kept(t):
    bucket = t.bucket()
    rules = [
        lifecycle_rule(),
        lifecycle_rule(ID="off", Status="Disabled", Filter={"Prefix": ""}),
        lifecycle_rule(ID="sizes", Filter={"And": {"Prefix": "a", "ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 20}}),
        lifecycle_rule(ID="large", Filter={"ObjectSizeGreaterThan": 500}),
        {"ID": "abort", "Filter": {"Prefix": "up"}, "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
    ]
    put_lifecycle(t, bucket, *rules)
    equal(t.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"], rules)


@case("lifecycle")
def lifecycle_by_date(t):
    bucket, day = t.bucket(), datetime.datetime(2099, 12, 31, tzinfo=datetime.timezone.utc)
    put_lifecycle(t, bucket, lifecycle_rule(Expiration={"Date": day}))
    equal(t.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["Expiration"]["Date"], day)


@case("lifecycle")
def lifecycle_gets_an_id(t):
    bucket, rule = t.bucket(), lifecycle_rule()
    del rule["ID"]
    put_lifecycle(t, bucket, rule, rule)
    ids = [rule["ID"] for rule in t.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]]
    true(len(set(ids)) == 2 and all(ids), "two ids", ids)


@case("lifecycle")
def lifecycle_is_deleted(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_bucket_lifecycle_configuration(Bucket=bucket), "NoSuchLifecycleConfiguration", status=404)
    put_lifecycle(t, bucket, lifecycle_rule())
    for _ in range(2):
        equal(t.s3.delete_bucket_lifecycle(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(lambda: t.s3.get_bucket_lifecycle_configuration(Bucket=bucket), "NoSuchLifecycleConfiguration", status=404)


@each("lifecycle", [
    ({"Expiration": {"Days": 0}}, "InvalidArgument"), ({"Expiration": {"Days": -1}}, "InvalidArgument"),
    ({"Expiration": {"Date": datetime.datetime(2099, 1, 1, 12)}}, "InvalidArgument"), ({"Status": "On"}, "MalformedXML"),
    ({"ID": "x" * 256}, "InvalidArgument"), ({"Expiration": {}}, "MalformedXML"),
])
def lifecycle_rule_is_invalid(t, more, code):
    bucket = t.bucket()
    refused(lambda: put_lifecycle(t, bucket, lifecycle_rule(**more)), code, status=400)
    refused(lambda: t.s3.get_bucket_lifecycle_configuration(Bucket=bucket), "NoSuchLifecycleConfiguration", status=404)


@each("lifecycle", [
    {"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}, {"NoncurrentVersionExpiration": {"NoncurrentDays": 1}},
    {"Filter": {"Tag": {"Key": "a", "Value": "b"}}}, {"Expiration": {"ExpiredObjectDeleteMarker": True}},
])
def lifecycle_rule_is_not_implemented(t, more):
    bucket = t.bucket()
    refused(lambda: put_lifecycle(t, bucket, lifecycle_rule(**more)), "NotImplemented", status=501)


@case("lifecycle")
def lifecycle_without_action(t):
    bucket, rule = t.bucket(), lifecycle_rule()
    del rule["Expiration"]
    refused(lambda: put_lifecycle(t, bucket, rule), "InvalidRequest", status=400)


@case("lifecycle")
def lifecycle_ids_are_unique(t):
    bucket = t.bucket()
    refused(lambda: put_lifecycle(t, bucket, lifecycle_rule(), lifecycle_rule()), "InvalidArgument", status=400)


@case("lifecycle")
def expiration_in_headers(t):
    bucket = t.bucket()
    put_lifecycle(t, bucket, lifecycle_rule())
    stored = t.s3.put_object(Bucket=bucket, Key="logs/a", Body=b"data")
    for found in [stored, t.s3.head_object(Bucket=bucket, Key="logs/a"), t.s3.get_object(Bucket=bucket, Key="logs/a")]:
        true('rule-id="rule"' in found.get("Expiration", "") and "00:00:00 GMT" in found["Expiration"], "the expiration", found)
    t.put(bucket, "other")
    true("Expiration" not in t.s3.head_object(Bucket=bucket, Key="other"), "no expiration", "other")
