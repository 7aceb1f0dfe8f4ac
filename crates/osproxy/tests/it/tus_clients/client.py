"""Uploads files with tuspy.

    client.py SCENARIO FILE [ARGUMENT...]

The environment has TUS_URL, the URL of the service, and TUS_KEY, an API key. Prints one line of
JSON: the URL of the upload, and the requests that were sent.
"""

import asyncio
import json
import os
import sys

import requests
from tusclient.client import TusClient
from tusclient.storage.filestorage import FileStorage

URL, KEY = os.environ["TUS_URL"], os.environ["TUS_KEY"]

sent = []


def record(send):
    """Wraps a function that sends a request. Without an answer, the status stays `None`."""

    def wrapped(session, method, url, **arguments):
        offset = (arguments.get("headers") or {}).get("upload-offset")
        entry = {"method": method.upper(), "offset": offset and int(offset), "status": None}
        sent.append(entry)
        answer = send(session, method, url, **arguments)
        entry["status"] = answer.status_code
        return answer

    return wrapped


requests.Session.request = record(requests.Session.request)


def client():
    return TusClient(f"{URL}/tus", headers={"Authorization": f"Bearer {KEY}"})


def options(path, **more):
    return {"metadata": {"filename": os.path.basename(path)}, "retries": 5, "retry_delay": 1, **more}


def send(path, chunk):
    """FILE CHUNK: sends a file in chunks of this size."""
    uploader = client().uploader(path, **options(path, chunk_size=int(chunk)))
    uploader.upload()
    return uploader


def send_async(path, chunk):
    """FILE CHUNK: the same with aiohttp, whose requests are not listed."""
    uploader = client().async_uploader(path, **options(path, chunk_size=int(chunk)))
    asyncio.run(uploader.upload())
    return uploader


def stored(path, storage, chunk):
    """An uploader that keeps the URL of the upload in the file `storage`."""
    return client().uploader(
        path, **options(path, chunk_size=int(chunk), store_url=True, url_storage=FileStorage(storage))
    )


def stop(path, storage, end, chunk):
    """FILE STORAGE END CHUNK: stops at this offset."""
    uploader = stored(path, storage, chunk)
    uploader.upload(stop_at=int(end))
    return uploader


def resume(path, storage, chunk):
    """FILE STORAGE CHUNK: continues the upload that another process has stopped."""
    uploader = stored(path, storage, chunk)
    uploader.upload()
    return uploader


def checked(path, chunk):
    """FILE CHUNK: sends the SHA-1 of each chunk with the chunk."""
    uploader = client().uploader(path, **options(path, chunk_size=int(chunk), upload_checksum=True))
    uploader.upload()
    return uploader


def main():
    scenarios = {
        scenario.__name__: scenario for scenario in [send, send_async, stop, resume, checked]
    }
    uploader = scenarios[sys.argv[1]](*sys.argv[2:])
    print(json.dumps({"url": uploader.url, "requests": sent}))


main()
