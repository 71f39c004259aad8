"""Callers that no one here wrote, themselves: Java, Go, curl, and all of them through nginx, to a real gateway."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import httpx
import pytest

from tests.service.conftest import png
from tests.service.servers import ROOT
from tests.service.test_gateway_served import TOKEN
from tests.services import answers, free_ports, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
FILES = ROOT / "tests" / "reported" / "serving"


@pytest.fixture(scope="module")
def gateway(stub_gateway, tmp_path_factory):
    """The gateway, and an item to send: a photo of 0.8 MB."""
    item = tmp_path_factory.mktemp("callers") / "item.png"
    item.write_bytes(png(side=900))
    return stub_gateway, item


def program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def lines_of(command: list[str], **environment: str) -> list[str]:
    shown = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"]} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()


def check_answers(lines: list[str], *, count: int) -> None:
    assert [line.split()[0] for line in lines] == ["200"] * count
    assert all('"label":"bag"' in line for line in lines)


def test_java_s_own_client_is_answered(gateway):
    """The default `HttpClient` of Java 11 and newer, and so Spring's RestClient."""
    served, item = gateway
    java = program("java")
    address = f"{served.url}/v1/projects/fashion/predict"
    check_answers(lines_of([java, str(FILES / "Post.java"), address, TOKEN, "image/png", str(item)]), count=3)


def test_go_s_own_client_is_answered(gateway, tmp_path):
    served, item = gateway
    go = program("go")
    address = f"{served.url}/v1/projects/fashion/predict"
    command = [go, "run", str(FILES / "post.go"), address, TOKEN, "image/png", str(item)]
    check_answers(lines_of(command, HOME=str(tmp_path), GO111MODULE="off", GOFLAGS="-p=1"), count=3)


CURL = {
    "plain": [],
    "http2": ["--http2"],
    "http1.0": ["--http1.0"],
    "expect": ["--header", "Expect: 100-continue"],
    "http2-expect": ["--http2", "--header", "Expect: 100-continue"],
    "chunked": ["--http2", "--header", "Transfer-Encoding: chunked"],
}


def curl(served_url: str, item, *options: str) -> list[str]:
    answers = ["--silent", "--show-error", "--write-out", "\n", "--noproxy", "*", "--data-binary", f"@{item}"]
    headers = ["--header", f"Authorization: Bearer {TOKEN}", "--header", "Content-Type: image/png", "--fail"]
    return [program("curl"), *answers, *headers, *options, f"{served_url}/v1/projects/fashion/predict"]


@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_curl_is_answered(gateway, options):
    (line,) = lines_of(curl(gateway[0].url, gateway[1], *options))
    assert json.loads(line)["label"] == "bag"


NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_max_body_size 20m; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream kept {{ server 127.0.0.1:{upstream}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location /default/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
    location /kept/ {{ proxy_pass http://kept/; proxy_http_version 1.1; proxy_set_header Connection ""; }}
    location /upgrading/ {{
      proxy_pass http://127.0.0.1:{upstream}/; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def proxy(gateway, tmp_path_factory):
    """nginx before the gateway: as `proxy_pass` alone sets it up, with kept connections, and as for web sockets."""
    folder = tmp_path_factory.mktemp("nginx")
    (port,) = free_ports(1)
    config = NGINX.format(folder=folder, upstream=gateway[0].port, port=port)
    (folder / "nginx.conf").write_text(config)
    nginx = subprocess.Popen([program("nginx"), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/default/livez"), timeout_seconds=20, what="nginx")
    yield f"http://127.0.0.1:{port}"
    nginx.terminate()
    nginx.wait(timeout=20)


@pytest.mark.parametrize("place", ["default", "kept", "upgrading"])
@pytest.mark.parametrize("options", CURL.values(), ids=CURL)
def test_behind_nginx_every_caller_is_answered(proxy, gateway, place, options):
    for _ in range(2):
        (line,) = lines_of(curl(f"{proxy}/{place}", gateway[1], *options))
        assert json.loads(line)["label"] == "bag"


def test_behind_nginx_java_is_answered_and_metrics_stay_closed(proxy, gateway):
    for place in ("default", "kept", "upgrading"):
        address = f"{proxy}/{place}/v1/projects/fashion/predict"
        command = [program("java"), str(FILES / "Post.java"), address, TOKEN, "image/png", str(gateway[1])]
        check_answers(lines_of(command), count=3)
        assert httpx.get(f"{proxy}/{place}/metrics", trust_env=False).status_code == 401
