"""The stored data: names, tags and uploads in memory, content in files."""

import hashlib
import itertools
import os
import threading
import time
import uuid
from collections import namedtuple

# Buffer size, in bytes.
CHUNK = 256 * 1024
# osproxy uses the minimum part size of S3; both vendors would accept smaller parts.
MIN_PART = 5 << 20
MAX_PART = 5 << 30
MAX_DOCUMENT = 2 << 20


class Refusal(Exception):
    """An error of the store."""

    def __init__(self, status, code, message):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message


class Broken(Exception):
    """The client disconnected in the middle of a body."""


Blob = namedtuple("Blob", "path size tag time")


class Upload:
    def __init__(self, name):
        self.name, self.parts, self.time = name, {}, time.time()


class Bucket:
    def __init__(self):
        self.objects, self.uploads = {}, {}


class Store:
    """Each blob is a file that never changes, so that readers can continue when it is replaced."""

    def __init__(self, folder):
        self.folder, self.buckets, self.lock = folder, {}, threading.Lock()
        self.numbers = itertools.count()
        os.makedirs(folder, exist_ok=True)

    def new_path(self):
        return os.path.join(self.folder, str(next(self.numbers)))

    def bucket(self, name):
        if name not in self.buckets:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
        return self.buckets[name]

    def upload(self, bucket, name, upload_id):
        upload = self.bucket(bucket).uploads.get(upload_id)
        if upload is None or upload.name != name:
            raise Refusal(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload

    def get(self, bucket, name):
        with self.lock:
            blob = self.bucket(bucket).objects.get(name)
            if blob is None:
                raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
            return blob, open(blob.path, "rb")

    def put(self, bucket, name, blob):
        with self.lock:
            self.replace(self.bucket(bucket).objects, name, blob)

    def put_part(self, bucket, name, upload_id, number, blob):
        with self.lock:
            self.replace(self.upload(bucket, name, upload_id).parts, number, blob)

    @staticmethod
    def replace(blobs, name, blob):
        old, blobs[name] = blobs.get(name), blob
        if old:
            os.unlink(old.path)

    def delete(self, bucket, name):
        with self.lock:
            blob = self.bucket(bucket).objects.pop(name, None)
            if blob:
                os.unlink(blob.path)

    def begin(self, bucket, name):
        with self.lock:
            upload_id = uuid.uuid4().hex.upper()
            self.bucket(bucket).uploads[upload_id] = Upload(name)
            return upload_id

    def abort(self, bucket, name, upload_id):
        with self.lock:
            upload = self.upload(bucket, name, upload_id)
            self.drop(bucket, upload_id, upload)

    def drop(self, bucket, upload_id, upload):
        del self.bucket(bucket).uploads[upload_id]
        for part in upload.parts.values():
            os.unlink(part.path)

    def choose(self, bucket, name, upload_id, asked):
        """Opens the parts of an upload to complete; `asked` has their numbers and tags."""
        with self.lock:
            upload = self.upload(bucket, name, upload_id)
            numbers = [number for number, _ in asked]
            if numbers != sorted(set(numbers)):
                raise Refusal(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
            for number, tag in asked:
                if number not in upload.parts or upload.parts[number].tag != tag:
                    raise Refusal(400, "InvalidPart", "One or more of the specified parts could not be found.")
            chosen = [upload.parts[number] for number in numbers]
            if any(part.size < MIN_PART for part in chosen[:-1]):
                raise Refusal(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size.")
            return [(part, open(part.path, "rb")) for part in chosen]

    def complete(self, bucket, name, upload_id, chosen, tag_of):
        path, size = self.new_path(), 0
        with open(path, "wb") as whole:
            for part, file in chosen:
                with file:
                    while chunk := file.read(CHUNK):
                        whole.write(chunk)
                size += part.size
        digests = hashlib.md5(b"".join(bytes.fromhex(part.tag) for part, _ in chosen)).hexdigest()
        blob = Blob(path, size, f"{tag_of(digests)}-{len(chosen)}", time.time())
        with self.lock:
            try:
                upload = self.upload(bucket, name, upload_id)
            except Refusal:
                os.unlink(path)
                raise
            self.replace(self.bucket(bucket).objects, name, blob)
            self.drop(bucket, upload_id, upload)
        return blob
