"""Upload segments of the prediction log to the object store, in a process of its own.

In the gateway's own this would hold the interpreter's lock again and again, and with it all answers: each write to a
socket gives the lock away, and it comes back 5 ms later (docs/adr/0017).

`python -m bento_services.gateway.prediction_log.uploader HOME` reads paths of segments from its input and answers
each with what became of it, a line of JSON each. It ends with its input, so also with a gateway that is killed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bento_services.gateway.prediction_log.records import LogRecord, read_records, to_parts
from bento_services.gateway.prediction_log.store_config import StoreConfig, store_config_reader
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.guards.endpoint import proxies_to

Put = Callable[[str, bytes], None]

CONNECT_SECONDS = 2
READ_SECONDS = 20
ANSWER_SECONDS = 120.0  # for a segment; it has a part per project and day
END_SECONDS = 5.0
NICENESS = 10  # answers come first

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Uploaded:
    """The end of a segment.

    `damage` says why what follows its whole records cannot be read; `failure` why the segment is not in the store, and
    `is_store_away` whether it would be the same with every other.
    """

    num_records: int = 0
    num_parts: int = 0
    damage: str | None = None
    failure: str | None = None
    is_store_away: bool = False


def upload(segment: Path, *, put: Put) -> Uploaded:
    """Write the parts of a segment's whole records to the store; a damaged rest does not block them.

    Where another gateway on the same folder has done it, there is nothing to do.
    """
    try:
        data = segment.read_bytes()
    except FileNotFoundError:
        return Uploaded()
    except OSError as error:
        return Uploaded(failure=f"segment {segment.name} cannot be read ({error.strerror})")
    records, damage = _whole_records(data)
    try:
        parts = to_parts(records)
    except Exception as error:  # noqa: BLE001  a defect of ours must not end the shipping of the rest
        return Uploaded(failure=f"segment {segment.name} cannot be packed ({type(error).__name__}: {error})")
    try:
        for key, part in parts.items():
            put(key, part)
    except ConfigError as error:
        return Uploaded(failure=str(error), is_store_away=True)
    except Exception as error:  # noqa: BLE001  whatever the store's client raises: it is tried again
        return Uploaded(failure=f"the store does not take it ({type(error).__name__})", is_store_away=True)
    return Uploaded(len(records), len(parts), damage)


def _whole_records(data: bytes) -> tuple[list[LogRecord], str | None]:
    records: list[LogRecord] = []
    end = 0
    try:
        for record, behind in read_records(data):
            records.append(record)
            end = behind
    except (ValueError, TypeError, KeyError) as error:
        return records, f"a record of another format behind byte {end} ({error})"
    return records, None if end == len(data) else f"it cannot be read behind byte {end}"


class Uploader:
    """Has segments uploaded by the process; for one thread at a time.

    Where the process cannot be had it is done here; not with a segment that the process was killed over, or hangs over:
    that one waits for another process.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._put = s3_put(store_config_reader(home))
        self._process: Any = None  # a Popen with pipes

    def start(self) -> None:
        """Begin the process, so that the first segment does not wait for it."""
        try:
            self._begin()
        except OSError as error:
            logger.warning("no process can upload the prediction log yet: %s", error)

    def upload(self, segment: Path) -> Uploaded:
        """Upload one segment, as `upload` does."""
        try:
            return self._ask(segment)
        except TimeoutError as error:
            self.close()
            return Uploaded(failure=f"the process that uploads {segment.name} gives {error}")
        except (OSError, ValueError, TypeError) as error:
            if self.close() < 0:
                return Uploaded(failure=f"the process that uploads {segment.name} was killed")
            logger.warning("no process uploads the prediction log (%s): the gateway does it itself", error)
            return upload(segment, put=self._put)

    def close(self) -> int:
        """End the process, if there is one; return how it ended, below 0 by which signal."""
        process, self._process = self._process, None
        if process is None:
            return 0
        try:
            process.communicate(timeout=END_SECONDS)
        except (subprocess.TimeoutExpired, OSError, ValueError):
            process.kill()
        returncode: int = process.wait()
        return returncode

    def _begin(self) -> Any:
        self._process = subprocess.Popen(  # noqa: S603  (this module)
            [sys.executable, "-m", __name__, str(self._home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Arrow's own memory pool keeps 40 MB more of what a segment took.
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "ARROW_DEFAULT_MEMORY_POOL": "system"},
        )
        return self._process

    def _ask(self, segment: Path) -> Uploaded:
        process = self._process or self._begin()
        process.stdin.write(json.dumps(str(segment)) + "\n")
        process.stdin.flush()
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(1000 * ANSWER_SECONDS):
            raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
        return Uploaded(**json.loads(process.stdout.readline()))


def s3_put(read_config: Callable[[], StoreConfig]) -> Put:
    """Return a function that writes an object unless it exists; address and keys are read at its first use."""
    clients: list[tuple[Any, str]] = []

    def put(key: str, data: bytes) -> None:
        from botocore.exceptions import ClientError

        if not clients:
            config = read_config()
            clients.append((_s3_client(config), config.bucket))
        client, bucket = clients[0]
        try:
            client.put_object(
                Bucket=bucket, Key=key, Body=data, ContentType="application/vnd.apache.parquet", IfNoneMatch="*"
            )
        except ClientError as error:
            if (
                error.response["ResponseMetadata"]["HTTPStatusCode"] != 412
            ):  # it lies there already: same key, same bytes
                clients.clear()
                raise

    return put


def _s3_client(config: StoreConfig) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"max_attempts": 1, "mode": "standard"},
            proxies=proxies_to(config.endpoint),
        ),
    )


def main() -> None:
    """Upload what is asked for until nobody asks any more.

    Signals are for the gateway: the stack's supervisor sends its own to the whole process group, and the last segment
    comes after that.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    put = s3_put(store_config_reader(Path(sys.argv[1])))
    for line in sys.stdin:
        answers.write(json.dumps(dataclasses.asdict(upload(Path(json.loads(line)), put=put))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
