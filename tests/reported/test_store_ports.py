"""The object store as a stranger on the same machine sees it."""

import contextlib
import itertools
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from botocore.exceptions import ClientError

from pipeline_tasks.stack import processes, programs, s3_setup
from pipeline_tasks.stack.addresses import read_stack
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.lifecycle import make_folders
from pipeline_tasks.stack.local_s3 import running_s3
from pipeline_tasks.stack.store_identity import identity_settings, new_identity

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NOBODY = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
OBJECT = b"an object that needs a key"
# Reads and orders of the master, the volume server, the filer and the admin; `/` lists or shows where there is a page.
PATHS = (
    "/", "/dir/assign", "/dir/lookup?volumeId=1", "/dir/status", "/vol/status", "/vol/vacuum", "/vol/grow?count=1",
    "/col/delete?collection=dethrone", "/cluster/status", "/submit", "/stats/health", "/metrics", "/debug/pprof/",
    "/status", "/1,01637037d6", "/buckets/?pretty=y", "/buckets/dethrone/kept", "/ui/index.html",
    "/api/config", "/login",
)  # fmt: skip
METHODS = (
    "/master_pb.Seaweed/CollectionList", "/master_pb.Seaweed/CollectionDelete", "/master_pb.Seaweed/Assign",
    "/filer_pb.SeaweedFiler/GetFilerConfiguration", "/filer_pb.SeaweedFiler/ListEntries",
    "/volume_server_pb.VolumeServer/VolumeServerStatus", "/volume_server_pb.VolumeServer/DeleteCollection",
)  # fmt: skip


@contextlib.contextmanager
def store(layout):
    """Run the store of a home, and give its S3 client, its ports by name and every port on which it listens."""
    run = running_s3(layout, projects_dir=layout.home / "projects", environment=dict(os.environ), bin_dir=BIN)
    with run:
        ports = read_stack(layout.stack_file)["ports"]
        client = s3_setup.make_client(ports["s3"], secrets=make_folders(layout))
        pids = {process.pid for process in processes.stack_processes(layout.home)}
        yield client, ports, processes.listeners(pids)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    layout = StackLayout(home=tmp_path_factory.mktemp("store"), root=ROOT)
    with store(layout) as (client, ports, listening):
        client.put_object(Bucket="dethrone", Key="kept", Body=OBJECT)
        yield layout, ports, sorted(set(listening) - {ports["s3"]})
        assert client.get_object(Bucket="dethrone", Key="kept")["Body"].read() == OBJECT


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """A certificate like the store's own that someone else made."""
    path = tmp_path_factory.mktemp("stranger") / "identity"
    path.write_text(new_identity())
    return path


def test_h3_the_ports_of_the_store_are_those_that_are_tried(running):
    _layout, ports, closed = running
    assert {port for name, port in ports.items() if name.startswith("s3_")} <= set(closed)
    assert len(closed) == 9  # HTTP and gRPC of master, volume, filer and admin, and gRPC of S3


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_h3_no_port_but_s3_answers_plain_http(running, method):
    """`GET /dir/assign` handed out a signed permit, `/col/delete` deleted a bucket's objects."""
    _layout, _ports, closed = running
    with httpx.Client(timeout=5, trust_env=False) as client:
        for port, path in itertools.product(closed, PATHS):
            try:
                answer = client.request(method, f"http://127.0.0.1:{port}{path}")
            except httpx.RemoteProtocolError:
                continue  # gRPC: the connection ends
            assert (answer.status_code, answer.text) == (400, "Client sent an HTTP request to an HTTPS server.\n"), path


@pytest.mark.parametrize("shown", ["no certificate", "another's certificate"])
def test_h3_no_port_but_s3_goes_on_without_the_stores_certificate(running, stranger, shown):
    _layout, _ports, closed = running
    for port in closed:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if shown == "another's certificate":
            context.load_cert_chain(stranger)
        with pytest.raises((ssl.SSLError, ConnectionResetError)), socket.create_connection(("127.0.0.1", port)) as raw:  # noqa: PT012
            raw.settimeout(5)
            with context.wrap_socket(raw) as secured:
                secured.sendall(b"GET /dir/assign HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert secured.recv(1000) == b""
                raise ConnectionResetError


@pytest.mark.parametrize("method", METHODS)
def test_h3_no_grpc_call_is_taken_without_the_stores_certificate(running, stranger, method):
    """ListEntries, CollectionDelete and the like were open to every local user."""
    import grpc

    layout, _ports, closed = running
    certificate = layout.s3_identity_file.read_bytes()[layout.s3_identity_file.read_bytes().index(b"-----BEGIN CERT") :]
    for port in closed:
        for credentials in (
            None,
            grpc.ssl_channel_credentials(certificate),
            grpc.ssl_channel_credentials(certificate, stranger.read_bytes(), stranger.read_bytes()),
        ):
            where = f"127.0.0.1:{port}"
            channel = grpc.secure_channel(where, credentials) if credentials else grpc.insecure_channel(where)
            with channel, pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"", timeout=5)
            assert refused.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}, port


def test_h3_the_stores_own_shell_does_nothing_for_another_user(running, tmp_path):
    layout, ports, _closed = running
    tmp_path.chmod(0o777)
    script = "lock\ncollection.list\nfs.ls /buckets\ncollection.delete -collection dethrone -force\nunlock\n"
    master = f"127.0.0.1:{ports['s3_master']}.{ports['s3_master_grpc']}"
    told = _weed("shell", f"-master={master}", text=script, folder="/tmp")
    assert "dethrone" not in told.replace(str(layout.home), "")


def _weed(*words, text, folder):
    command = [str((BIN / "weed").resolve()), *words]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=4, cwd=folder, env={"HOME": folder},
            check=False, **NOBODY,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:  # it asks for ever
        return (error.stdout or b"").decode()
    return done.stdout


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/dethrone"), ("GET", "/dethrone/kept"),
    ("PUT", "/dethrone/new"), ("DELETE", "/dethrone/kept"), ("GET", "/dethrone/kept?acl")])  # fmt: skip
def test_h3_s3_without_a_key_is_403(running, method, path):
    _layout, ports, _closed = running
    answer = httpx.request(method, f"http://127.0.0.1:{ports['s3']}{path}", trust_env=False)
    assert answer.status_code == 403
    assert OBJECT not in answer.content


@pytest.mark.parametrize("action", ["ListUsers", "CreateUser&UserName=x", "CreateAccessKey&UserName=dethrone",
    "GetCallerIdentity", "AssumeRole&RoleArn=arn:aws:iam::role/x&RoleSessionName=x",
    "AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::role/x&RoleSessionName=x&WebIdentityToken=x"])  # fmt: skip
def test_h3_the_s3_port_makes_no_user_and_no_key(running, action):
    _layout, ports, _closed = running
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"Action={action}&Version=2010-05-08"
    answer = httpx.post(f"http://127.0.0.1:{ports['s3']}/", content=body, headers=form, trust_env=False)
    assert answer.status_code in {400, 403, 405, 501}
    assert "<AccessKeyId>" not in answer.text


@pytest.fixture(scope="module")
def label_studios(running):
    """The store's client with Label Studio's key, in a bucket that holds an item, a model and a log."""
    layout, ports, _closed = running
    secrets = make_folders(layout)
    owner = s3_setup.make_client(ports["s3"], secrets=secrets)
    for key in (ITEM, *OTHERS):
        owner.put_object(Bucket="dethrone", Key=key, Body=OBJECT)
    theirs = {name: secrets[f"label_studio_{name}"] for name in ("s3_access_key", "s3_secret_key")}
    yield s3_setup.make_client(ports["s3"], secrets=theirs)
    for key in (ITEM, *OTHERS):
        assert owner.get_object(Bucket="dethrone", Key=key)["Body"].read() == OBJECT
    told = {entry["Key"] for entry in owner.list_objects_v2(Bucket="dethrone")["Contents"]}
    assert told - {"kept"} == {ITEM, *OTHERS}


ITEM = "items/fashion/ab/abcd"
OTHERS = ("packs/fashion/ab/abcd.pack", "models/m1/weights.safetensors", "predictions/fashion/1.parquet", "itemsx/1")
# What the key of Label Studio must not do; each order has the keys and the bucket filled in.
ORDERS = {
    "write an item": ("put_object", {"Key": ITEM, "Body": b"x"}),
    "write a model": ("put_object", {"Key": OTHERS[1], "Body": b"x"}),
    "write a new item": ("put_object", {"Key": "items/new", "Body": b"x"}),
    "delete an item": ("delete_object", {"Key": ITEM}),
    "delete a model": ("delete_object", {"Key": OTHERS[1]}),
    "copy a model to where it may read": ("copy_object", {"Key": "items/m", "CopySource": f"dethrone/{OTHERS[1]}"}),
    "begin a write in parts": ("create_multipart_upload", {"Key": "items/m"}),
    "copy a model as a part": (
        "upload_part_copy",
        {"Key": "items/m", "CopySource": f"dethrone/{OTHERS[1]}", "PartNumber": 1, "UploadId": "x"},
    ),
    "read a pack": ("get_object", {"Key": OTHERS[0]}),
    "read a model": ("get_object", {"Key": OTHERS[1]}),
    "read a log": ("get_object", {"Key": OTHERS[2]}),
    "read a key that begins alike": ("get_object", {"Key": OTHERS[3]}),
    "read a model's head": ("head_object", {"Key": OTHERS[1]}),
    "read a model's tags": ("get_object_tagging", {"Key": OTHERS[1]}),
    "read a model's attributes": ("get_object_attributes", {"Key": OTHERS[1], "ObjectAttributes": ["ETag"]}),
    "open an item to all": ("put_object_acl", {"Key": ITEM, "ACL": "public-read"}),
    "open the bucket to all": ("put_bucket_policy", {"Policy": "{}"}),
    "list the bucket": ("list_objects_v2", {}),
    "list models": ("list_objects_v2", {"Prefix": "models/"}),
    "list by a shorter prefix": ("list_objects_v2", {"Prefix": "item"}),
    "list versions": ("list_object_versions", {}),
    "list writes in parts": ("list_multipart_uploads", {}),
    "delete the bucket": ("delete_bucket", {}),
}


@pytest.mark.parametrize("order", ORDERS)
def test_h2_the_key_that_label_studio_has_gives_no_order_and_reads_no_more_than_items(label_studios, order):
    """Label Studio had the key to the whole bucket, which its administrators and its database could use."""
    name, given = ORDERS[order]
    with pytest.raises(ClientError) as refused:
        getattr(label_studios, name)(Bucket="dethrone", **given)
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_h2_no_detour_leads_label_studios_key_out_of_the_items(label_studios):
    several = {"Objects": [{"Key": key} for key in (ITEM, OTHERS[1])]}
    told = label_studios.delete_objects(Bucket="dethrone", Delete=several)
    assert [error["Code"] for error in told["Errors"]] == ["AccessDenied"] * 2
    for prefix in ("items/../", "items/../models/"):
        assert "Contents" not in label_studios.list_objects_v2(Bucket="dethrone", Prefix=prefix)
    for key in (f"items/../{OTHERS[1]}", f"items//../{OTHERS[1]}", f"items/fashion/../../{OTHERS[1]}"):
        address = label_studios.generate_presigned_url("get_object", Params={"Bucket": "dethrone", "Key": key})
        for spelling in (address, address.replace("../", "%2e%2e/"), address.replace("../", "..%2f")):
            answer = httpx.get(spelling, trust_env=False)
            assert answer.status_code in {400, 403, 404}, spelling
            assert OBJECT not in answer.content


def test_h2_label_studios_key_reads_an_item_and_lists_items(label_studios):
    assert label_studios.get_object(Bucket="dethrone", Key=ITEM)["Body"].read() == OBJECT
    address = label_studios.generate_presigned_url("get_object", Params={"Bucket": "dethrone", "Key": ITEM})
    assert httpx.get(address, trust_env=False).content == OBJECT
    assert label_studios.list_objects_v2(Bucket="dethrone", Prefix="items/", MaxKeys=1)["KeyCount"] == 1


def test_h3_no_file_and_no_socket_of_the_store_is_for_others(running):
    """The files' own modes are the program's; what counts is that nobody else gets to them."""
    layout, _ports, closed = running
    sockets = [
        path for path in Path("/tmp").glob("seaweedfs-*.sock") if any(f"-{port}." in path.name for port in closed)
    ]
    files = [*layout.home.iterdir(), *layout.runtime_dir.glob("*"), *sockets]
    assert {str(path): oct(path.lstat().st_mode & 0o777) for path in files if path.lstat().st_mode & 0o077} == {}
    assert len(sockets) == 5  # gRPC of every part: the program names their folder itself
    assert {layout.s3_dir, layout.secrets_dir, layout.logs_dir, layout.stack_file} <= set(files)


def test_h3_a_store_of_before_goes_on_with_all_its_objects(tmp_path, monkeypatch):
    layout = StackLayout(home=tmp_path / "home", root=ROOT)
    layout.home.mkdir(mode=0o700)
    bodies = {f"item/{number}": os.urandom(number * 40_000 + 1) for number in range(30)}
    with monkeypatch.context() as before:
        before.setattr(programs, "identity_settings", lambda _path: {})
        with store(layout) as (client, ports, _listening):
            for key, body in bodies.items():
                client.put_object(Bucket="dethrone", Key=key, Body=body)
            order = httpx.get(f"http://127.0.0.1:{ports['s3_master']}/col/delete?collection=none", trust_env=False)
            assert "does not exist" in order.text  # it would have been carried out
    layout.s3_identity_file.unlink()
    with store(layout) as (client, _ports, _listening):
        assert {key: client.get_object(Bucket="dethrone", Key=key)["Body"].read() for key in bodies} == bodies
        client.put_object(Bucket="dethrone", Key="item/new", Body=b"1")
        client.delete_object(Bucket="dethrone", Key="item/0")
        assert client.list_objects_v2(Bucket="dethrone", Prefix="item/")["KeyCount"] == 30
    assert oct(layout.s3_identity_file.stat().st_mode & 0o777) == "0o600"


def test_h3_the_container_gives_the_same_settings():
    """docker-compose.yml's store starts by a script: it exports what the one-machine stack sets."""
    script = (ROOT / "deploy" / "docker" / "airflow" / "s3").read_text()
    identity = Path("/tmp/identity")
    loops = script[script.index("for part in GRPC_MASTER") : script.index("export AWS_ACCESS_KEY_ID")]
    told = subprocess.run(
        ["/bin/sh", "-euc", f"folder=/tmp\n{loops.replace('s3_identity', 'identity')}\nenv"],
        capture_output=True, text=True, check=True, env={},
    ).stdout  # fmt: skip
    exported = dict(line.split("=", 1) for line in told.splitlines() if line.startswith("WEED_"))
    assert exported == identity_settings(identity)
