"""An independent gRPC client: grpcio, with code that its own compiler generates from our proto files.

usage: grpcio.py PROTO_FOLDER SCENARIO ADDRESS KEY [CA [CERTIFICATE KEY]]
"""

import concurrent.futures
import hashlib
import pathlib
import sys
import tempfile
import threading

import grpc
import grpc_tools.protoc

MIB = 1 << 20
PART = 16 * MIB
PARTS = 64
MESSAGE = 256 << 10
SERVICES = ["file_service", "task_service", "cluster_service"]


def compiled(protos):
    """Generates and imports the modules of our services."""
    folder = tempfile.mkdtemp()
    files = [f"osproxy/v1/{service}.proto" for service in SERVICES]
    well_known = str(pathlib.Path(grpc_tools.__file__).parent / "_proto")
    arguments = ["", f"-I{protos}", f"-I{well_known}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    assert grpc_tools.protoc.main(arguments + files) == 0
    sys.path.insert(0, folder)
    from osproxy.v1 import file_service_pb2, file_service_pb2_grpc

    return file_service_pb2, file_service_pb2_grpc


def channel(address, files):
    """Connects without TLS, or with TLS and these files: a CA, a certificate and its key."""
    if not files:
        return grpc.insecure_channel(address)
    ca, certificate, key = [pathlib.Path(file).read_bytes() for file in files] + [None] * (3 - len(files))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate))


def content(number):
    """The bytes of a part. The last part is shorter, and all messages differ."""
    size = PART if number < PARTS else PART - 12345
    seed = hashlib.sha256(str(number).encode()).digest()
    block = seed * (MESSAGE // len(seed))
    return b"".join(index.to_bytes(4, "big") + block[4:] for index in range(PART // MESSAGE))[:size]


class Client:
    def __init__(self, modules, connection, key):
        self.pb, grpc_module = modules
        self.files = grpc_module.FileServiceStub(connection)
        self.metadata = [("authorization", f"Bearer {key}")]

    def ask(self, method, request, **options):
        return getattr(self.files, method)(request, metadata=self.metadata, **options)

    def messages(self, uid, number, data, stop=None):
        """The messages that send a part; `stop` is called in the middle and ends them."""
        pb = self.pb
        digests = pb.Digests(md5=hashlib.md5(data).digest())
        header = pb.UploadPartHeader(uid=uid, number=number, size=len(data), digests=digests)
        yield pb.UploadPartRequest(header=header)
        for start in range(0, len(data), MESSAGE):
            if stop is not None and start >= len(data) // 2:
                stop()
                return
            yield pb.UploadPartRequest(data=data[start : start + MESSAGE])

    def send(self, uid, number):
        data = content(number)
        answer = self.ask("UploadPart", self.messages(uid, number, data))
        assert answer.size == len(data), answer

    def cut(self, uid, number):
        """Cancels a part in the middle."""
        halfway = threading.Event()
        waiting = threading.Event()

        def stop():
            halfway.set()
            waiting.wait()

        call = self.files.UploadPart.future(
            self.messages(uid, number, content(number), stop), metadata=self.metadata
        )
        assert halfway.wait(60)
        call.cancel()
        waiting.set()
        assert call.cancelled()


def transfer(client):
    """Uploads 1 GiB in concurrent parts, with a cancelled one, resumes, and reads it, whole and in a range."""
    pb = client.pb
    size = PARTS * PART - 12345
    created = client.ask("CreateUpload", pb.CreateUploadRequest(name="large.bin", size=size, part_size=PART))
    assert (created.state, created.part_size) == (pb.FILE_STATE_PENDING, PART), created
    uid = created.uid
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(client.send, uid, number) for number in range(2, PARTS // 2)]
        sent.append(pool.submit(client.cut, uid, PARTS // 2))
        for one in sent:
            one.result()
    # A resuming process would ask which parts are stored.
    there = client.ask("GetUpload", pb.GetUploadRequest(uid=uid))
    assert there.state == pb.FILE_STATE_RECEIVING, there
    assert list(there.parts) == list(range(2, PARTS // 2)), there.parts
    missing = set(range(1, PARTS + 1)) - set(there.parts)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: client.send(uid, number), missing))
    sha256 = hashlib.sha256()
    for number in range(1, PARTS + 1):
        sha256.update(content(number))
    client.ask("CompleteUpload", pb.CompleteUploadRequest(uid=uid, parts=PARTS, size=size))
    read, ends = hashlib.sha256(), []
    for message in client.ask("DownloadFile", pb.DownloadFileRequest(uid=uid)):
        if message.WhichOneof("part") == "file":
            assert not ends and message.file.size == size, message
        else:
            read.update(message.data)
            ends.append(len(message.data))
    assert sum(ends) == size and max(ends) <= 512 << 10, (sum(ends), max(ends))
    assert read.digest() == sha256.digest()
    offset, length = 3 * PART - 1000, 2000
    wanted = content(3)[-1000:] + content(4)[:1000]
    request = pb.DownloadFileRequest(uid=uid, offset=offset, length=length)
    assert b"".join(message.data for message in client.ask("DownloadFile", request)) == wanted
    # Cancels a download.
    reading = client.ask("DownloadFile", pb.DownloadFileRequest(uid=uid))
    next(reading)
    reading.cancel()
    client.ask("DeleteFile", pb.DeleteFileRequest(uid=uid))
    print("uid", uid)


def errors(client):
    """Errors have the standard details."""
    from google.rpc import error_details_pb2, status_pb2

    def details(refused):
        raw = dict(refused.trailing_metadata())["grpc-status-details-bin"]
        found = {}
        for detail in status_pb2.Status.FromString(raw).details:
            for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
                value = kind()
                if detail.Unpack(value):
                    found[kind.__name__] = value
        return found

    try:
        client.ask("GetFile", client.pb.GetFileRequest(uid="x"))
        raise AssertionError("the invalid uid was accepted")
    except grpc.RpcError as refused:
        assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT, refused
        told = details(refused)
        assert told["ErrorInfo"].reason == "INVALID_ARGUMENT" and told["ErrorInfo"].domain == "osproxy", told
        assert told["BadRequest"].field_violations[0].field == "uid", told
    try:
        client.ask("GetFile", client.pb.GetFileRequest(uid="7"), timeout=30)
        raise AssertionError("an unknown file was found")
    except grpc.RpcError as refused:
        assert refused.code() == grpc.StatusCode.NOT_FOUND, refused
        assert details(refused)["ErrorInfo"].reason == "FILE_NOT_FOUND"


def standards(connection):
    """Health and reflection with their own clients."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    from google.protobuf.descriptor_pool import DescriptorPool

    health = health_pb2_grpc.HealthStub(connection)
    answer = health.Check(health_pb2.HealthCheckRequest(service="osproxy.v1.FileService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer
    described = ProtoReflectionDescriptorDatabase(connection)
    expected = {f"osproxy.v1.{name}Service" for name in ("File", "Task", "Cluster")} | {"grpc.health.v1.Health"}
    assert expected <= set(described.get_services()), described.get_services()
    service = DescriptorPool(described).FindServiceByName("osproxy.v1.FileService")
    assert len(service.methods) == 15, [method.name for method in service.methods]


def refused(connection):
    """Asserts that no connection can be established."""
    try:
        grpc.channel_ready_future(connection).result(timeout=5)
    except grpc.FutureTimeoutError:
        return
    raise AssertionError("the connection was accepted")


def main():
    protos, scenario, address, key, *files = sys.argv[1:]
    with channel(address, files) as connection:
        if scenario == "refused":
            return refused(connection)
        client = Client(compiled(protos), connection, key)
        {
            "transfer": lambda: transfer(client),
            "errors": lambda: errors(client),
            "standards": lambda: standards(connection),
        }[scenario]()


main()
