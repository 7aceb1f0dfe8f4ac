"""

import argparse
import base64
import concurrent.futures
import datetime
import hashlib
import hmac
import http.client
import io
import json
import os
import random
import re
import sys
import time
import traceback
import uuid
import zlib
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

REGION = "us-east-1"
MIB = 1024 * 1024
CASES = []


class Failure(Exception):
    """

import pathlib
import sys

# Not the folder of the package: a module here has the name of one of Python.
sys.path[0] = str(pathlib.Path(__file__).parent.parent)

from suite.runner import main  # noqa: E402

sys.exit(main())
