"""Cases: xml."""

import time

from .tagging import tags_of
from .tools import MIB, answers, case, each, equal, keys_of, md5_base64, true

BOMB = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + index)} "{f"&{chr(97 + index)};" * 10}">' for index in range(9)
) + "]>"
TARGETS = {
    "delete": ("POST", "", "delete=", "<Delete><Object><Key>{}</Key></Object></Delete>"),
    "tagging": ("PUT", "/key", "tagging=", "<Tagging><TagSet><Tag><Key>a</Key><Value>{}</Value></Tag></TagSet></Tagging>"),
    "create": ("PUT", None, "", "<CreateBucketConfiguration><LocationConstraint>{}</LocationConstraint></CreateBucketConfiguration>"),
}


def send_xml(t, target, prologue, value):
    method, path, query, document = TARGETS[target]
    bucket = t.name() if path is None else t.bucket()
    if path is not None:
        t.put(bucket, "key")
    body = (prologue + document.format(value)).encode() if isinstance(value, str) else value
    return t.raw(method, f"/{bucket}{path or ''}", query, {"content-md5": md5_base64(body)}, body)


@each("xml", list(TARGETS))
def entity_bomb(t, target):
    start = time.monotonic()
    found = send_xml(t, target, BOMB, "&j;")
    true(time.monotonic() - start < 5, "an answer in 5 seconds", time.monotonic() - start)
    answers(found, 400, "MalformedXML")


@each("xml", list(TARGETS))
def external_entity(t, target):
    found = send_xml(t, target, '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;")
    true(found.status == 400 and b"root:" not in found.body, "400 MalformedXML", found)


@each("xml", [(target, size) for target in ("tagging", "create") for size in (MIB + 1, 3 * MIB)] + [("delete", 3 * MIB)])
def large_document(t, target, size):
    found = send_xml(t, target, "", "x" * size)
    true(found.status in (400, 413) and found.code, "400 MaxMessageLengthExceeded or MalformedXML", found)


@each("xml", list(TARGETS))
def deep_document(t, target):
    found = send_xml(t, target, "", b"<a>" * 100000)
    answers(found, 400, "MalformedXML")


@each("xml", [(target, body) for target in TARGETS for body in (b"\xff\xfe<", b"{}", b"<a", b"<a></b>", b"\x00\x00", b"<?xml?>")])
def malformed(t, target, body):
    answers(send_xml(t, target, "", body), 400, "MalformedXML")


@each("xml", ["&amp;&lt;&gt;&quot;&apos;", "&#65;&#x42;", "<![CDATA[a&b]]>", "&#128196;"])
def references(t, text):
    bucket = t.bucket()
    t.put(bucket, "key")
    body = TARGETS["tagging"][3].format(text).encode()
    answers(t.raw("PUT", f"/{bucket}/key", "tagging=", {"content-md5": md5_base64(body)}, body), 200)
    equal(tags_of(t, bucket)["a"], {"&amp;": "&<>\"'", "&#65;": "AB", "<![CD": "a&b", "&#128": "📄"}[text[:5]])


@case("xml")
def character_data_sections_in_keys(t):
    bucket = t.bucket()
    t.put(bucket, "a&b", "keep")
    body = b"<Delete><Object><Key><![CDATA[a&b]]></Key></Object></Delete>"
    found = t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body)
    true(found.status in (200, 400), "200, or 400 MalformedXML", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), ["keep"] if found.status == 200 else ["a&b", "keep"])


@case("xml")
def declaration_comment_and_unknown_elements(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    body = b'\xef\xbb\xbf<?xml version="1.0" encoding="UTF-8"?>\n<!-- a comment -->\n<Delete>\n<Object><Key>a</Key></Object><!-- b -->\n</Delete>\n'
    answers(t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body), 200)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [])


@case("xml")
def namespace_prefix(t):
    bucket = t.bucket()
    t.put(bucket, "a")
    body = b'<s:Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Object><s:Key>a</s:Key></s:Object></s:Delete>'
    found = t.raw("POST", "/" + bucket, "delete=", {"content-md5": md5_base64(body)}, body)
    true(found.status in (200, 400), "200, or 400 MalformedXML", found)
    equal(keys_of(t.s3.list_objects_v2(Bucket=bucket)), [] if found.status == 200 else ["a"])
