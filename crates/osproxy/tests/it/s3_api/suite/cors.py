"""Cases: cors."""

from .tools import answers, case, each, equal, refused, true

PAGE = "https://shop.example.org"


def cors_rule(**more):
    return {"AllowedOrigins": [PAGE], "AllowedMethods": ["GET", "PUT"], **more}


def bucket_with_cors(t, *rules):
    bucket = t.bucket()
    t.s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": list(rules) or [cors_rule()]})
    return bucket


def preflight(t, bucket, origin=PAGE, method="GET", headers=None, key="key"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return t.send("OPTIONS", f"/{bucket}/{key}", asked)


@case("cors")
def cors_rules_are_kept(t):
    rules = [
        cors_rule(ID="first", AllowedHeaders=["x-amz-*", "content-type"], ExposeHeaders=["ETag", "x-amz-meta-a"], MaxAgeSeconds=3000),
        cors_rule(AllowedOrigins=["*"], AllowedMethods=["GET", "HEAD", "PUT", "POST", "DELETE"]),
    ]
    bucket = bucket_with_cors(t, *rules)
    equal(t.s3.get_bucket_cors(Bucket=bucket)["CORSRules"], rules)


@case("cors")
def cors_is_replaced_and_deleted(t):
    bucket = bucket_with_cors(t)
    rules = [cors_rule(AllowedMethods=["DELETE"])]
    t.s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
    equal(t.s3.get_bucket_cors(Bucket=bucket)["CORSRules"], rules)
    for _ in range(2):
        equal(t.s3.delete_bucket_cors(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"], 204)
    refused(lambda: t.s3.get_bucket_cors(Bucket=bucket), "NoSuchCORSConfiguration", status=404)


@case("cors")
def bucket_without_cors(t):
    bucket = t.bucket()
    refused(lambda: t.s3.get_bucket_cors(Bucket=bucket), "NoSuchCORSConfiguration", status=404)
    answers(preflight(t, bucket), 403, "AccessForbidden")


@case("cors")
def cors_of_missing_bucket(t):
    refused(lambda: t.s3.get_bucket_cors(Bucket=t.name()), "NoSuchBucket", status=404)
    answers(preflight(t, t.name()), 403, "AccessForbidden")


@each("cors", [
    {"AllowedMethods": ["PATCH"]}, {"AllowedMethods": ["get"]}, {"AllowedOrigins": ["http://*.*"]},
    {"AllowedHeaders": ["x-*-*"]}, {"ExposeHeaders": ["*"]},
])
def cors_rule_is_invalid(t, more):
    bucket = t.bucket()
    configuration = {"CORSRules": [cors_rule(**more)]}
    refused(lambda: t.s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=configuration), "InvalidRequest", status=400)
    refused(lambda: t.s3.get_bucket_cors(Bucket=bucket), "NoSuchCORSConfiguration", status=404)


@each("cors", [0, 101])
def cors_has_a_wrong_number_of_rules(t, count):
    configuration = {"CORSRules": [cors_rule()] * count}
    bucket = t.bucket()
    refused(lambda: t.s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=configuration), "MalformedXML", status=400)


@each("cors", [("PUT", PAGE), ("GET", PAGE)])
def preflight_is_allowed(t, method, origin):
    found = preflight(t, bucket_with_cors(t, cors_rule(MaxAgeSeconds=60)), origin, method)
    answers(found, 200)
    equal(found.headers["access-control-allow-origin"], origin)
    equal(found.headers["access-control-allow-methods"], "GET, PUT")
    equal(found.headers["access-control-allow-credentials"], "true")
    equal(found.headers["access-control-max-age"], "60")
    true("Origin" in found.headers["vary"], "Vary: Origin", found.headers)


@case("cors")
def preflight_of_any_origin(t):
    found = preflight(t, bucket_with_cors(t, cors_rule(AllowedOrigins=["*"])), "http://unknown.example")
    equal(found.headers["access-control-allow-origin"], "*")
    true("access-control-allow-credentials" not in found.headers, "no credentials", found.headers)


@each("cors", [
    ("https://shop.example.org.evil", "GET"), ("http://shop.example.org", "GET"), ("https://example.org", "GET"),
    (PAGE, "DELETE"), (PAGE, "HEAD"), ("null", "GET"),
])
def preflight_is_refused(t, origin, method):
    found = answers(preflight(t, bucket_with_cors(t), origin, method), 403, "AccessForbidden")
    true("access-control-allow-origin" not in found.headers, "no allowed origin", found.headers)


@each("cors", [("https://*.example.org", PAGE, 200), ("https://*", PAGE, 200), ("*.example.org", PAGE, 200), ("http://*", PAGE, 403)])
def wildcard_in_origin(t, pattern, origin, status):
    found = preflight(t, bucket_with_cors(t, cors_rule(AllowedOrigins=[pattern])), origin)
    equal(found.status, status)


@each("cors", [
    (["*"], "authorization, x-amz-date", 200), (["x-amz-*"], "X-Amz-Date,x-amz-meta-b", 200), (["Content-Type"], "content-type", 200),
    (["x-amz-*"], "x-amz-date, authorization", 403), ([], "range", 403),
])
def headers_of_preflight(t, allowed, asked, status):
    found = preflight(t, bucket_with_cors(t, cors_rule(AllowedHeaders=allowed) if allowed else cors_rule()), headers=asked)
    equal(found.status, status)
    if status == 200:
        equal(sorted(name.strip() for name in found.headers["access-control-allow-headers"].split(",")),
              sorted(name.strip().lower() for name in asked.split(",")))


@case("cors")
def the_first_rule_that_matches_counts(t):
    bucket = bucket_with_cors(t, cors_rule(MaxAgeSeconds=1, AllowedMethods=["PUT"]), cors_rule(MaxAgeSeconds=2), cors_rule(MaxAgeSeconds=3))
    equal(preflight(t, bucket).headers["access-control-max-age"], "2")


@each("cors", [{"Origin": PAGE}, {"Access-Control-Request-Method": "GET"}, {"Origin": PAGE, "Access-Control-Request-Method": "LINK"}])
def preflight_is_incomplete(t, headers):
    answers(t.send("OPTIONS", f"/{bucket_with_cors(t)}/key", headers), 400, "BadRequest", "InvalidRequest")


@each("cors", [("key", 200), ("missing", 404)])
def responses_tell_the_origin(t, key, status):
    bucket = bucket_with_cors(t, cors_rule(ExposeHeaders=["ETag"]))
    t.put(bucket, "key")
    found = t.raw("GET", f"/{bucket}/{key}", headers={"origin": PAGE})
    equal(found.status, status)
    equal(found.headers["access-control-allow-origin"], PAGE)
    equal(found.headers["access-control-expose-headers"], "ETag")
    other = t.raw("GET", f"/{bucket}/{key}", headers={"origin": "https://other.example"})
    true("access-control-allow-origin" not in other.headers, "no allowed origin", other.headers)
