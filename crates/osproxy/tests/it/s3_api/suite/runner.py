"""Runs the cases."""

import argparse
import concurrent.futures
import json
import pathlib
import traceback

from botocore.exceptions import ClientError

from . import (  # noqa: F401 - registers the cases, in this order
    buckets,
    headers,
    objects,
    metadata,
    ranges,
    conditional,
    listings,
    copy,
    delete,
    tagging,
    multipart,
    presigned,
    post,
    checksums,
    keys,
    access,
    cors,
    lifecycle,
    operations,
    xml,
    races,
)
from .tools import CASES, Failure, Tools, short

HERE = pathlib.Path(__file__).parent


def run_case(endpoint, keys, item):
    tools = Tools(endpoint, keys)
    try:
        item[2](tools)
        return None
    except Failure as failure:
        return str(failure)
    except ClientError as error:
        answer = error.response
        return (
            f"expected success; found {answer['ResponseMetadata'].get('HTTPStatusCode')} {answer['Error'].get('Code')} "
            f"from {error.operation_name}: {answer['Error'].get('Message')}"
        )
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        frames = [(pathlib.Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        places = [f"{file.name}:{number}" for file, number in frames if file.parent == HERE]
        return f"expected no exception; found {type(error).__name__}: {short(str(error))} at {places or line}"
    finally:
        tools.clean()


def main():
    parser = argparse.ArgumentParser(description="Conformance suite for the S3 API of osproxy")
    parser.add_argument("endpoint")
    parser.add_argument("keys")
    parser.add_argument("--groups", help="run the cases of these groups, separated by commas")
    parser.add_argument("--known", help="file with the names of cases that are known to fail")
    parser.add_argument("--case", help="run the cases whose name contains this text")
    parser.add_argument("--jobs", type=int, default=4, help="cases to run at the same time")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    options = parser.parse_args()
    selected = [
        item for item in CASES
        if (not options.groups or item[0] in options.groups.split(",")) and (not options.case or options.case in item[1])
    ]
    if options.list:
        for group, name, _ in selected:
            print(group, name)
        return 0
    if not selected:
        print("no case matches")
        return 1
    with open(options.keys, encoding="utf-8") as file:
        keys = json.load(file)
    known = set()
    if options.known:
        with open(options.known, encoding="utf-8") as file:
            known = {line.rstrip("\n") for line in file if not line.startswith("#")}
    failed, wrong_known = 0, 0
    groups = {}
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for item, problem in zip(selected, pool.map(lambda item: run_case(options.endpoint, keys, item), selected)):
            count = groups.setdefault(item[0], [0, 0])
            count[0] += 1
            is_known = f"{item[0]} {item[1]}" in known
            if problem:
                count[1] += 1
                failed += 1
                if not is_known:
                    print(f"FAILED {item[0]} {item[1]}: {problem}", flush=True)
            elif is_known:
                print(f"PASSED, although it is known to fail: {item[0]} {item[1]}", flush=True)
            wrong_known += bool(problem) != is_known
    for group, (total, wrong) in groups.items():
        print(f"{group}: {total - wrong} of {total}")
    print(f"{len(selected) - failed} of {len(selected)} cases passed")
    return 1 if wrong_known else 0
