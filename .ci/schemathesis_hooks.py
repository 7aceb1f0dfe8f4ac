"""Completes the generated cases with values that schemathesis cannot generate: signed links, and uids of files.

Invalid values of a case stay invalid: a link is only inserted if the case has all parameters of a link in valid form.
"""

import itertools
import os
import re
import urllib.parse

import requests
import schemathesis

V0 = "/api/storage/v0"
V1 = "/api/v1"
URL = os.environ["OSPROXY_URL"]
UID = r"[1-9][0-9]{0,18}"
WELL_FORMED = {
    "date": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*",
    "expire": r"[1-9][0-9]*",
    "signature": r".*",
}
# Small enough for the disk of a test machine.
LARGEST = 1 << 20
http = requests.Session()
http.headers["Authorization"] = f"Bearer {os.environ['OSPROXY_KEY']}"
turn = itertools.count()


def post(route, body):
    answer = http.post(URL + route, json=body)
    answer.raise_for_status()
    return answer.json()


def put(url, content):
    http.put(URL + url, data=content).raise_for_status()


def upload_link():
    return post(f"{V0}/link/upload", {"filePath": ["page.html"], "expire": 600})["data"][0]["url"]


def query_of(url):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))


def a_file():
    """Stores a file that all cases read; returns its uid and the parameters of a link."""
    link = upload_link()
    put(link["single"], b"<p>read me</p>")
    uid = query_of(link["single"])["uid"]
    return uid, query_of(post(f"{V0}/link/download", {"uid": [uid], "expire": 3600})["data"][0]["url"])


def some_parts():
    link = upload_link()
    put(link["multi"]["upload"] + "&chunkNum=2", b"second")
    return query_of(link["single"])


FILE, DOWNLOAD = a_file()
UPLOAD = some_parts()


def is_well_formed(values, patterns):
    return all(
        isinstance(values.get(name), str) and re.fullmatch(pattern, values[name], re.DOTALL)
        for name, pattern in patterns.items()
    )


def before_v0(route, case, fits):
    query = case.query
    if route in ("/checkpoint", "/proxy"):
        # Other cases keep uids that were never issued.
        if fits and not query.keys().isdisjoint(WELL_FORMED):
            query.update(UPLOAD)
        elif fits and next(turn) % 2:
            query["uid"] = UPLOAD["uid"]
    elif route == "/link/download":
        if fits and next(turn) % 2:
            case.body["uid"] = [FILE]
    elif not is_well_formed(query, {"uid": UID, **WELL_FORMED}):
        return
    elif route == "/download":
        query.update(DOWNLOAD)
    elif route in ("/upload", "/upload/multi", "/upload/merge"):
        link = upload_link()
        query.update(query_of(link["single"]))
        if fits:
            # Generated digests, part counts and sizes never match.
            query.pop("md5", None)
            if route == "/upload/merge":
                put(link["multi"]["upload"] + "&chunkNum=1", b"whole")
                query.update(num="1", size="5")


def before_upload(route, case, fits):
    """Gives each case about an upload its own upload, with a link."""
    if fits and case.method == "GET" and not is_well_formed(case.query, WELL_FORMED):
        # A schema cannot express all parameters of a link or none.
        for name in WELL_FORMED:
            case.query.pop(name, None)
    if not is_well_formed(case.query, WELL_FORMED) or not is_well_formed(case.path_parameters, {"uid": UID}):
        return
    upload = post(f"{V1}/uploads", {"name": "page.html"})
    case.path_parameters["uid"] = upload["uid"]
    case.query.update(query_of(upload["links"]["state"]))
    if not fits:
        return
    for header in ("content-md5", "content-digest", "repr-digest"):
        case.headers.pop(header, None)
    if route == "/uploads/{uid}/complete":
        put(upload["links"]["part"].replace("{number}", "1"), b"whole")
        if isinstance(case.body, dict):
            case.body = {name: value for name, value in {"parts": 1, "size": 5}.items() if name in case.body}


def fit_body(route, body):
    """Makes a body keep the rules that a schema cannot express."""
    if route == "/buckets/{bucket}":
        body.update(with_integers(body))
        fit_lifecycle(body.get("lifecycle") or [])
    constraints = body.get("constraints") or {}
    for terms in (body, constraints):
        if terms.get("networks"):
            terms["networks"] = ["10.0.0.0/8", "2001:db8::/32"][: len(terms["networks"])]
    if route == "/uploads/{uid}/links" and constraints.get("max_size") is not None:
        # At least the size of the upload.
        constraints["max_size"] = max(constraints["max_size"], LARGEST)
    if route == "/uploads":
        # A part size requires a size and is a power of two, and the size is within the constraints.
        body.pop("part_size", None)
        if body.get("size") is not None:
            body["size"] = min(body["size"], LARGEST)
            if constraints.get("max_size") is not None:
                constraints["max_size"] = max(constraints["max_size"], body["size"])


def with_integers(value):
    """Writes numbers such as 7.0, which JSON Schema counts as integers, as JSON integers."""
    if isinstance(value, dict):
        return {name: with_integers(member) for name, member in value.items()}
    if isinstance(value, list):
        return [with_integers(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fit_lifecycle(rules):
    """Makes the rules of a bucket keep what a schema cannot express."""
    for number, rule in enumerate(rules):
        rule["id"] = f"rule-{number}"
        if rule.get("expire_after_days") is None and rule.get("expire_on") is None:
            rule["expire_after_days"] = 7
        elif rule.get("expire_after_days") is not None:
            rule.pop("expire_on", None)
        # No object has a size between equal limits, and uploads that are not complete have no size.
        rule.pop("smaller_than", None)
        if rule.get("abort_uploads_after_days") is not None:
            rule.pop("larger_than", None)
        if len((rule.get("prefix") or "").encode()) > 1024:
            rule.pop("prefix")


def before_v1(route, case, fits):
    if route.startswith("/uploads/"):
        before_upload(route, case, fits)
    # Also for invalid cases: they must be rejected for their own fault, not for an unknown uid.
    names = case.path_parameters or {}
    if route.startswith("/files/{uid}") and is_well_formed(names, {"uid": UID}):
        names["uid"] = upload_of_its_own() if case.method == "DELETE" else FILE
    elif route.startswith("/tasks/{id}") and is_well_formed(names, {"id": UID}):
        names["id"] = a_task()
    if not fits:
        return
    if route == "/buckets/{bucket}/objects/{key}" and next(turn) % 2:
        # Other cases name files that do not exist.
        case.body["uid"] = FILE
    if route == "/uploads" and isinstance(case.body, list):
        # Rules that the schema does not express: 1 to 100 uploads with the same lifetime.
        case.body = case.body[:100] or [{"name": "page.html"}]
        for upload in case.body:
            upload.pop("expires_in", None)
    for body in case.body if isinstance(case.body, list) else [case.body]:
        if isinstance(body, dict):
            fit_body(route, body)
    if route == "/files" and case.method == "POST":
        # Generated digests never match, and a schema cannot express JSON within a parameter.
        for header in ("content-md5", "content-digest", "repr-digest"):
            case.headers.pop(header, None)
        if "metadata" in case.query:
            case.query["metadata"] = '{"case": "17"}'
    # Cursors are signed and cannot be generated.
    case.query.pop("cursor", None)
    # A key that is generated twice would belong to another request.
    case.headers.pop("idempotency-key", None)


def upload_of_its_own():
    return post(f"{V1}/uploads", {"name": "page.html"})["uid"]


def a_task():
    return http.get(f"{URL}{V1}/tasks?limit=1").json()["tasks"][0]["id"]


def before_download(case):
    names = case.path_parameters
    if not is_well_formed(case.query, WELL_FORMED) or not is_well_formed(names, {"uid": UID}):
        return
    disposition = case.query.get("disposition")
    if disposition in ("inline", "attachment"):
        # Other cases rename the file.
        wish = {"expires_in": 3600, "disposition": disposition, "filename": "page.html"}
        link = post(f"{V1}/files/{FILE}/links", wish)["url"]
        names.update(uid=FILE, filename=urllib.parse.unquote(urllib.parse.urlsplit(link).path.rsplit("/", 1)[1]))
        case.query.update(query_of(link))


@schemathesis.hook
def before_call(context, case, kwargs):
    path = case.operation.path
    fits = case.meta is not None and case.meta.generation.mode.is_positive
    if path.startswith(V0):
        before_v0(path.removeprefix(V0), case, fits)
    elif path.startswith(V1):
        before_v1(path.removeprefix(V1), case, fits)
    elif path.startswith("/f/"):
        before_download(case)
