"""`python -m pipeline_tasks.stack.cluster_settings PROGRAM`: what a container does before it becomes the program."""

from __future__ import annotations

import sys

from pipeline_tasks.core.settings import home_from, process_environment
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.stack.cluster import PROGRAM_SECRETS, write_settings
from pipeline_tasks.stack.layout import source_root

USAGE = 2


def main() -> int:
    """Write the settings; exit code 2 names what is missing. Commands that serve nothing need the database only."""
    environment = process_environment()
    program = sys.argv[1] if sys.argv[1:] and sys.argv[1] in PROGRAM_SECRETS else "db"
    try:
        write_settings(
            home_from(environment),
            root=source_root(),
            executor=environment.get("DETHRONE_EXECUTOR", ""),
            base_url=environment.get("DETHRONE_AIRFLOW_URL", ""),
            programs=[program],
        )
    except ConfigError as error:
        print(f"error [{error.code}]: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
