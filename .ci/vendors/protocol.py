"""The protocols of the stores, limited to the calls that osproxy makes."""

import base64
import binascii
import hashlib
import os
import re
import socket
import time
import traceback
import uuid
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from fastcrc import crc64

from signatures import Cos
from store import CHUNK, MAX_DOCUMENT, MAX_PART, Blob, Broken, Bucket, Refusal

# Maximum entries of a page, whatever the request: vendors may return fewer too, and tests must see several pages.
PAGE = 2


def iso(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def element(name, *inside):
    return f"<{name}>{''.join(inside)}</{name}>"


def text(name, value):
    return element(name, escape(str(value)))


def page_of(entries, asked):
    """The first page of the entries, and whether there are more."""
    size = min(PAGE, number_in(asked, 1, 1000))
    return entries[:size], len(entries) > size


def number_in(asked, low, high):
    if not re.fullmatch(r"\d{1,5}", asked) or not low <= int(asked) <= high:
        raise Refusal(400, "InvalidArgument", f"{asked} is not between {low} and {high}.")
    return int(asked)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    @property
    def vendor(self):
        return self.server.vendor

    @property
    def store(self):
        return self.server.store

    def do(self):
        self.request_id, self.answered = uuid.uuid4().hex.upper(), False
        self.unread = int(self.headers.get("Content-Length") or 0)
        try:
            self.handle_one()
        except Refusal as refusal:
            self.refuse(refusal)
        except (Broken, ConnectionError):
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.refuse(Refusal(500, "InternalError", "See the log."))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do

    def handle_one(self):
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        if self.command in ("PUT", "POST") and "Content-Length" not in self.headers:
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        url = urlsplit(self.path)
        host = self.headers.get("Host", "")
        if url.netloc and url.netloc != host:
            raise Refusal(400, "InvalidRequest", "The request is for one host, and its header names another.")
        try:
            self.url, self.url_path = f"http://{host}{url.path}", unquote(url.path, errors="strict")
        except UnicodeDecodeError:
            raise Refusal(400, "InvalidURI", "Couldn't parse the specified URI.") from None
        self.name = self.url_path[1:]
        pairs = parse_qsl(url.query, keep_blank_values=True)
        self.parameters = dict(pairs)
        if len(pairs) != len(self.parameters):
            raise Refusal(400, "InvalidArgument", "A parameter is given twice.")
        self.bucket = self.vendor.bucket_of(host)
        if not self.bucket:
            raise Refusal(404, "NoSuchBucket", "There is no bucket in the name of the host.")
        self.vendor.check(self, self.bucket)
        self.route()

    def route(self):
        given = self.parameters.keys()
        at = "object" if self.name else "bucket"
        for method, place, needed, possible, call in self.ROUTES:
            if (method, place) == (self.command, at) and needed <= given <= needed | possible:
                return call(self)
        raise Refusal(501, "NotImplemented", "No test has needed this yet.")

    # Answers.

    def answer(self, status, body=b"", headers=(), length=None):
        self.skip_body()
        self.answered = True
        self.send_response(status)
        self.send_header(f"{self.vendor.PREFIX}request-id", self.request_id)
        for name, value in headers:
            self.send_header(name, value)
        if length is None:
            length = len(body)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def document(self, body, status=200):
        body = f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode()
        self.answer(status, body, [("Content-Type", "application/xml")])

    def refuse(self, refusal):
        if self.answered:
            # The answer has begun already: only the connection can be closed.
            self.close_connection = True
            return
        # As the vendors do: a large body is rejected before it has arrived, and the connection is closed.
        early = self.unread > CHUNK
        self.close_connection |= early
        try:
            self.document(self.error(refusal), refusal.status)
            if early:
                self.linger()
        except (Broken, ConnectionError):
            self.close_connection = True

    def error(self, refusal):
        said = text("Code", refusal.code), text("Message", refusal.message), text("RequestId", self.request_id)
        return element("Error", *said, text("Resource", self.path))

    def linger(self):
        """Reads the rest of the body: closing a connection with unread bytes would lose the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        until = time.time() + 5
        try:
            while time.time() < until and self.connection.recv(CHUNK):
                pass
        except OSError:
            pass

    def version_string(self):
        return self.vendor.SERVER

    # Bodies.

    def read(self, size):
        chunk = self.rfile.read(min(size, self.unread))
        if not chunk and self.unread:
            raise Broken
        self.unread -= len(chunk)
        return chunk

    def skip_body(self):
        while self.unread and not self.close_connection:
            self.read(CHUNK)

    def read_document(self):
        if self.unread > MAX_DOCUMENT:
            raise Refusal(400, "EntityTooLarge", "The document is too large.")
        body = b""
        while self.unread:
            body += self.read(CHUNK)
        self.check_md5(hashlib.md5(body))
        try:
            return ElementTree.fromstring(body)
        except ElementTree.ParseError:
            raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.") from None

    def check_md5(self, digest):
        given = self.headers.get("Content-MD5")
        if given is None:
            return
        try:
            wanted = base64.b64decode(given, validate=True)
        except binascii.Error:
            wanted = b""
        if len(wanted) != 16:
            raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        if wanted != digest.digest():
            raise Refusal(400, self.vendor.BAD_MD5, "The Content-MD5 you specified did not match what we received.")

    def receive(self):
        """Writes the body into a new file, which is removed if the body is incomplete."""
        if self.unread > MAX_PART:
            raise Refusal(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size.")
        path, size, digest, crc = self.store.new_path(), self.unread, hashlib.md5(), 0
        try:
            with open(path, "xb") as file:
                while self.unread:
                    chunk = self.read(CHUNK)
                    digest.update(chunk)
                    crc = crc64.xz(chunk, crc)
                    file.write(chunk)
            self.check_md5(digest)
        except BaseException:
            os.unlink(path)
            raise
        return Blob(path, size, self.vendor.tag_of(digest.hexdigest()), time.time()), crc

    def keep(self, keep, *where):
        """Stores the body, unless its bucket or upload has disappeared meanwhile."""
        blob, crc = self.receive()
        try:
            keep(*where, blob)
        except Refusal:
            os.unlink(blob.path)
            raise
        crc_header = f"{self.vendor.PREFIX}hash-crc64ecma", str(crc)
        self.answer(200, headers=[("ETag", f'"{blob.tag}"'), crc_header])

    # Buckets.

    def head_bucket(self):
        with self.store.lock:
            self.store.bucket(self.bucket)
        self.answer(200)

    def put_bucket(self):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,48}[a-z0-9]", self.bucket):
            raise Refusal(400, "InvalidBucketName", "The specified bucket is not valid.")
        self.skip_body()
        with self.store.lock:
            if self.bucket in self.store.buckets and self.vendor.MADE_AGAIN:
                raise Refusal(*self.vendor.MADE_AGAIN)
            self.store.buckets.setdefault(self.bucket, Bucket())
        self.answer(200)

    def list_objects(self):
        marker = self.parameters.get("marker", "")
        with self.store.lock:
            objects = self.store.bucket(self.bucket).objects
            found = sorted((name, blob) for name, blob in objects.items() if name > marker)
        page, more = page_of(found, self.parameters.get("max-keys", "1000"))
        inside = [text("Name", self.vendor.full_name(self.bucket)), "<Prefix></Prefix>", text("Marker", marker),
                  text("MaxKeys", PAGE), text("IsTruncated", str(more).lower())]
        if more:
            inside.append(text("NextMarker", page[-1][0]))
        for name, blob in page:
            inside.append(element("Contents", text("Key", name), text("LastModified", iso(blob.time)), self.tag(blob),
                                  text("Size", blob.size), "<StorageClass>STANDARD</StorageClass>"))
        self.document(element("ListBucketResult", *inside))

    def tag(self, blob):
        return element("ETag", self.vendor.QUOTE, blob.tag, self.vendor.QUOTE)

    def list_uploads(self):
        key, upload_id = (self.parameters.get(name, "") for name in ("key-marker", "upload-id-marker"))
        prefix = self.parameters.get("prefix", "")
        with self.store.lock:
            uploads = self.store.bucket(self.bucket).uploads
            found = sorted((upload.name, number, upload.time) for number, upload in uploads.items())
        found = [one for one in found if one[0].startswith(prefix)]
        found = [one for one in found if one[0] > key or (upload_id and one[0] == key and one[1] > upload_id)]
        page, more = page_of(found, self.parameters.get("max-uploads", "1000"))
        inside = [text("Bucket", self.vendor.full_name(self.bucket)), text("KeyMarker", key), text("UploadIdMarker", upload_id),
                  text("MaxUploads", PAGE), text("IsTruncated", str(more).lower())]
        if more:
            inside += [text("NextKeyMarker", page[-1][0]), text("NextUploadIdMarker", page[-1][1])]
        for name, number, begun in page:
            inside.append(element("Upload", text("Key", name), text("UploadId", number), text("Initiated", iso(begun))))
        self.document(element("ListMultipartUploadsResult", *inside))

    # Objects.

    def put_object(self):
        with self.store.lock:
            self.store.bucket(self.bucket)
        self.keep(self.store.put, self.bucket, self.name)

    def get_object(self):
        blob, file = self.store.get(self.bucket, self.name)
        with file:
            headers = [("ETag", f'"{blob.tag}"'), ("Last-Modified", formatdate(blob.time, usegmt=True)),
                       ("Accept-Ranges", "bytes"), ("Content-Type", "application/octet-stream")]
            start, end, status = self.range_of(blob)
            if status == 206:
                headers.append(("Content-Range", f"bytes {start}-{end - 1}/{blob.size}"))
            self.answer(status, headers=headers, length=end - start)
            if self.command == "HEAD":
                return
            file.seek(start)
            left = end - start
            while left:
                chunk = file.read(min(CHUNK, left))
                self.wfile.write(chunk)
                left -= len(chunk)

    def range_of(self, blob):
        """The requested range of an object, and the status of the answer."""
        whole = 0, blob.size, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or asked[0] == "bytes=-":
            return whole
        first, last = asked.groups()
        if first:
            start, end = int(first), int(last) + 1 if last else blob.size
        else:
            start, end = blob.size - int(last), blob.size
        if (start < 0 or start >= blob.size or end > blob.size or start >= end) and self.vendor.whole_instead(self.headers):
            return whole
        if start >= blob.size:
            raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied.")
        return max(start, 0), min(end, blob.size), 206

    def delete_object(self):
        self.store.delete(self.bucket, self.name)
        self.answer(204)

    def delete_objects(self):
        if "Content-MD5" not in self.headers:
            raise Refusal(400, "MissingArgument", "Missing Some Required Arguments.")
        root = self.read_document()
        names = [found.findtext("Key") for found in root.findall("Object")]
        if root.tag != "Delete" or root.findtext("Quiet") != "false" or not 1 <= len(names) <= 1000 or not all(names):
            raise Refusal(400, "MalformedXML", "The XML you provided was not what we wanted.")
        for name in names:
            self.store.delete(self.bucket, name)
        self.document(element("DeleteResult", *(element("Deleted", text("Key", name)) for name in names)))

    # Multipart uploads.

    def begin_upload(self):
        upload_id = self.store.begin(self.bucket, self.name)
        inside = text("Bucket", self.vendor.full_name(self.bucket)), text("Key", self.name), text("UploadId", upload_id)
        self.document(element("InitiateMultipartUploadResult", *inside))

    def put_part(self):
        number = number_in(self.parameters["partNumber"], 1, 10_000)
        where = self.bucket, self.name, self.parameters["uploadId"]
        with self.store.lock:
            self.store.upload(*where)
        self.keep(self.store.put_part, *where, number)

    def list_parts(self):
        after = int(self.parameters.get("part-number-marker") or 0)
        where = self.bucket, self.name, self.parameters["uploadId"]
        with self.store.lock:
            parts = self.store.upload(*where).parts
            found = sorted((number, part) for number, part in parts.items() if number > after)
        page, more = page_of(found, self.parameters.get("max-parts", "1000"))
        inside = [text("Bucket", self.vendor.full_name(self.bucket)), text("Key", self.name), text("UploadId", where[2]),
                  text("PartNumberMarker", after), text("MaxParts", PAGE), text("IsTruncated", str(more).lower())]
        if more:
            inside.append(text("NextPartNumberMarker", page[-1][0]))
        for number, part in page:
            inside.append(element("Part", text("PartNumber", number), text("LastModified", iso(part.time)), self.tag(part),
                                  text("Size", part.size)))
        self.document(element("ListPartsResult", *inside))

    def complete_upload(self):
        root = self.read_document()
        try:
            asked = [(int(part.findtext("PartNumber")), part.findtext("ETag").strip('"')) for part in root.findall("Part")]
        except (TypeError, ValueError, AttributeError):
            asked = []
        if root.tag != "CompleteMultipartUpload" or not asked:
            raise Refusal(400, "MalformedXML", "The XML you provided was not what we wanted.")
        where = self.bucket, self.name, self.parameters["uploadId"]
        chosen = self.store.choose(*where, asked)
        if self.vendor.SERVER == Cos.SERVER:
            return self.complete_slowly(where, chosen)
        self.document(self.completed(self.store.complete(*where, chosen, self.vendor.tag_of)))

    def complete_slowly(self, where, chosen):
        """COS sends 200 before it starts, blanks while it works, and the result at the end."""
        self.answered = True
        self.send_response(200)
        self.send_header(f"{self.vendor.PREFIX}request-id", self.request_id)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"1\r\n \r\n")
        try:
            said = self.completed(self.store.complete(*where, chosen, self.vendor.tag_of))
        except Refusal as refusal:
            said = self.error(refusal)
        said = said.encode()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(said), said))

    def completed(self, blob):
        inside = text("Location", self.url), text("Bucket", self.vendor.full_name(self.bucket)), text("Key", self.name)
        return element("CompleteMultipartUploadResult", *inside, self.tag(blob))

    def abort_upload(self):
        self.store.abort(self.bucket, self.name, self.parameters["uploadId"])
        self.answer(204)

    # Method, target, required and optional parameters, handler.
    ROUTES = [
        ("HEAD", "bucket", set(), set(), head_bucket),
        ("PUT", "bucket", set(), set(), put_bucket),
        ("GET", "bucket", {"uploads"}, {"prefix", "key-marker", "upload-id-marker", "max-uploads"}, list_uploads),
        ("GET", "bucket", set(), {"marker", "max-keys"}, list_objects),
        ("PUT", "object", {"partNumber", "uploadId"}, set(), put_part),
        ("PUT", "object", set(), set(), put_object),
        ("GET", "object", {"uploadId"}, {"part-number-marker", "max-parts"}, list_parts),
        ("GET", "object", set(), set(), get_object),
        ("HEAD", "object", set(), set(), get_object),
        ("DELETE", "object", {"uploadId"}, set(), abort_upload),
        ("DELETE", "object", set(), set(), delete_object),
        ("POST", "bucket", {"delete"}, set(), delete_objects),
        ("POST", "object", {"uploads"}, set(), begin_upload),
        ("POST", "object", {"uploadId"}, set(), complete_upload),
    ]
