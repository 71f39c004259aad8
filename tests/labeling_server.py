"""A real Label Studio that a test starts by itself, on a free port, in its own environment."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

from tests.services import answers, free_ports, wait_until

ADMIN = "admin@dethrone.test"


def label_studio_bin() -> Path | None:
    """Return the `label-studio` command: DETHRONE_TEST_LABEL_STUDIO_BIN, or the environment beside ours."""
    named = os.environ.get("DETHRONE_TEST_LABEL_STUDIO_BIN")
    beside = Path(sys.prefix).parent / ".venv-label-studio" / "bin" / "label-studio"
    return next((path for path in (Path(named) if named else None, beside) if path and path.exists()), None)


class Api:
    """The administrator's own calls: what people and a browser do beside the adapter."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Token {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def call(self, method, path, *, params=None, json=None):
        response = self._client.request(method, path, params=params, json=json)
        if response.status_code == httpx.codes.NOT_FOUND:
            raise KeyError(path)
        response.raise_for_status()
        return response.json() if response.content else None

    def get(self, path, params=None):
        return self.call("GET", path, params=params)

    def post(self, path, json):
        return self.call("POST", path, json=json)


class LabelStudioServer:
    """A throw-away Label Studio on SQLite; can be killed and started again on its data."""

    def __init__(self) -> None:
        self.command = label_studio_bin()
        self.folder = Path(tempfile.mkdtemp(prefix="dethrone-ls-"))
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = secrets.token_hex(20)
        self.password = secrets.token_hex(12)
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_USERNAME": ADMIN,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "USER_ADDITIONAL_BANNED_SUBNETS": "169.254.0.0/16",
        }

    def start(self) -> None:
        arguments = ["start", "--no-browser", "--port", str(self.port), "--internal-host", "127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self.command), *arguments, "--log-level", "WARNING"],
                env=self.environment(), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait_until(lambda: answers(f"{self.url}/health"), timeout_seconds=600, what="Label Studio")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the server as kill -9 does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)
