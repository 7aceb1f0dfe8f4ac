#!/usr/bin/env python3
"""Stands in for Tencent COS and Aliyun OSS in tests, each on its own port of 127.0.0.1.

Signatures are checked with the vendors' own SDKs, so that a mistake of ours cannot be on both sides. The rest follows the
vendors' documentation, and covers only the calls that osproxy makes.

Buckets are part of host names, which cannot be resolved here: clients use this server as a proxy, and request
`http://<bucket>-<appid>.cos.<region>.myqcloud.com/...` or `http://<bucket>.oss-<region>.aliyuncs.com/...`.

Names, tags and uploads are in memory, content is in files of the folder; nothing survives the process.
"""

import argparse
import os
import sys
import threading
from http.server import ThreadingHTTPServer

from protocol import Handler
from signatures import Cos, Keys, Oss
from store import Store


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, port, vendor, folder):
        super().__init__(("127.0.0.1", port), Handler)
        self.vendor, self.store = vendor, Store(folder)

    def handle_error(self, request, client_address):
        # Some tests disconnect on purpose.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    arguments = argparse.ArgumentParser(description="Stands in for Tencent COS and Aliyun OSS in tests.")
    arguments.add_argument("--cos", type=int, required=True, metavar="PORT")
    arguments.add_argument("--oss", type=int, required=True, metavar="PORT")
    arguments.add_argument("--folder", required=True)
    arguments.add_argument("--key", nargs=2, required=True, metavar=("ID", "SECRET"))
    arguments.add_argument("--temporary-key", nargs=3, required=True, metavar=("ID", "SECRET", "TOKEN"))
    arguments.add_argument("--appid", required=True)
    arguments.add_argument("--cos-region", required=True)
    arguments.add_argument("--oss-region", required=True)
    given = arguments.parse_args()
    keys = Keys(given.key, given.temporary_key)
    servers = [
        Server(given.cos, Cos(keys, given.appid, given.cos_region), os.path.join(given.folder, "cos")),
        Server(given.oss, Oss(keys, given.oss_region), os.path.join(given.folder, "oss")),
    ]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
