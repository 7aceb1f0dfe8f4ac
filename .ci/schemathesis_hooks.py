"""Gives the cases that schemathesis makes up what it cannot: links that the service has signed, and uids of files.

What a case got wrong on purpose stays wrong: a link is put in only where the case has all that a link has, each well formed.
"""

import itertools
import os
import re
import urllib.parse

import requests
import schemathesis

PREFIX = "/api/storage/v0"
URL = os.environ["OSPROXY_URL"]
WELL_FORMED = {
    "uid": r"[1-9][0-9]{0,18}",
    "date": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d.*",
    "expire": r"[1-9][0-9]*",
    "signature": r".*",
}
http = requests.Session()
turn = itertools.count()


def post(route, body):
    answer = http.post(f"{URL}{PREFIX}{route}", json=body)
    answer.raise_for_status()
    return answer.json()["data"][0]


def put(url, content):
    http.put(URL + url, data=content).raise_for_status()


def upload_link():
    return post("/link/upload", {"filePath": ["page.html"], "expire": 600})["url"]


def query_of(url):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))


def a_file():
    """A file for all to read, with the link to it."""
    link = upload_link()
    put(link["single"], b"<p>read me</p>")
    uid = query_of(link["single"])["uid"]
    return uid, query_of(post("/link/download", {"uid": [uid], "expire": 3600})["url"])


def some_parts():
    link = upload_link()
    put(link["multi"]["upload"] + "&chunkNum=2", b"second")
    return query_of(link["single"])["uid"]


FILE, DOWNLOAD = a_file()
UPLOAD = some_parts()


def is_well_formed(query):
    return all(
        isinstance(query.get(name), str) and re.fullmatch(pattern, query[name], re.DOTALL)
        for name, pattern in WELL_FORMED.items()
    )


@schemathesis.hook
def before_call(context, case, kwargs):
    route = case.operation.path.removeprefix(PREFIX)
    query = case.query
    fits = case.meta is not None and case.meta.generation.mode.is_positive
    if route in ("/checkpoint", "/proxy"):
        # The others are uids that were never issued.
        if fits and next(turn) % 2:
            query["uid"] = UPLOAD
    elif route == "/link/download":
        if fits and next(turn) % 2:
            case.body["uid"] = [FILE]
    elif route == "/download":
        if is_well_formed(query):
            query.update(DOWNLOAD)
    elif route in ("/upload", "/upload/multi", "/upload/merge") and is_well_formed(query):
        link = upload_link()
        query.update(query_of(link["single"]))
        if fits:
            # Chance never hits the digest, nor what the parts are together.
            query.pop("md5", None)
            if route == "/upload/merge":
                put(link["multi"]["upload"] + "&chunkNum=1", b"whole")
                query.update(num="1", size="5")
