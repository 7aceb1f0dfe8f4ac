#!/usr/bin/env python3
"""Stands in for Tencent COS and Aliyun OSS in tests, each on a port of its own on 127.0.0.1.

Signatures are computed again with the code of the vendors' own SDKs, so that both sides cannot share a mistake of ours.
The rest is what the vendors' documents say of the calls that osproxy makes, and no more of it.

Buckets stand in names of hosts, which nobody resolves here: a client comes as to a proxy, and asks for
`http://<bucket>-<appid>.cos.<region>.myqcloud.com/...` or `http://<bucket>.oss-<region>.aliyuncs.com/...`.

Names, tags and uploads are remembered in memory, content lies in files of the folder, and all is gone at the end.
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
        # Clients that go away are what some tests are about.
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
