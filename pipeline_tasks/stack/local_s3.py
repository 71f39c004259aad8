"""The stack's own S3 alone, for as long as a restore needs it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline_tasks.errors import ConfigError, ServiceUnavailable
from pipeline_tasks.stack import addresses, health, processes, programs, s3_setup
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.lifecycle import exclusive, ignore_event, make_folders
from pipeline_tasks.stack.logs import log_tail
from pipeline_tasks.stack.secrets import write_private

START_SECONDS = 90.0
STOP_SECONDS = 60.0


@contextmanager
def running_s3(
    layout: StackLayout, *, projects_dir: Path, environment: Mapping[str, str], bin_dir: Path
) -> Iterator[None]:
    """Start S3 on the remembered port, or a free one, write `stack.json`, and stop it at the end.

    Raises:
        ConfigError: a process of this home runs.
        ServiceUnavailable: it did not become healthy; the message holds its last log lines.
    """
    with exclusive(layout, on_event=ignore_event):
        if processes.stack_processes(layout.home):
            raise ConfigError(f"nothing of {layout.home} may run (got a stack). Stop it first: `dethrone down`.")
        secrets = make_folders(layout)
        remembered = addresses.read_stack(layout.stack_file).get("ports", {})
        ports = addresses.choose_ports(remembered, held=()).ports
        document = addresses.stack_document(ports, projects_dir=projects_dir, home=layout.home)
        addresses.write_stack(layout.stack_file, document)
        write_private(layout.s3_identities_file, programs.s3_identities(secrets))
        program = programs.s3_program(layout, ports=ports, secrets=secrets, weed=bin_dir / "weed")
        base = programs.base_environment(environment, layout=layout, projects_dir=projects_dir, bin_dir=bin_dir)
        with os.fdopen(os.open(program.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the stack's own program
                program.command,
                env={**base, **program.environment},
                cwd=program.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
                umask=0o077,  # as under the supervisor
            )
        try:
            _wait(process, port=ports["s3"], log=program.log_file)
            s3_setup.check_s3(layout, port=ports["s3"], secrets=secrets)
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], *, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not health.probe("s3", ports={"s3": port}).ok:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log_tail(log, num_lines=15))
            raise ServiceUnavailable(f"s3 must become healthy (got no answer). Last lines of {log}:\n{tail}")
        time.sleep(0.2)
