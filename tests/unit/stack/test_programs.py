import json
from pathlib import Path

import pytest

from pipeline_tasks.stack import addresses, programs
from pipeline_tasks.stack.layout import StackLayout
from pipeline_tasks.stack.secrets import GENERATORS
from pipeline_tasks.stack.supervisor_conf import render_program

LAYOUT = StackLayout(home=Path("/srv/dethrone"), root=Path("/opt/dethrone"))
SECRETS = {name: f"canary-{name}" for name in GENERATORS}


@pytest.fixture
def stack():
    listed = programs.stack_programs(LAYOUT, ports=addresses.DEFAULT_PORTS, secrets=SECRETS, bin_dir=Path("/v/bin"))
    return {program.name: program for program in listed}


def base(environment):
    return programs.base_environment(environment, layout=LAYOUT, projects_dir=Path("/p"), bin_dir=Path("/v/bin"))


def test_every_part_is_its_own_program(stack):
    assert list(stack) == [
        "s3", "label-studio", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer",
        "gateway", "watchdog",
    ]  # fmt: skip


def test_no_secret_stands_on_a_command_line(stack):
    words = " ".join(word for program in stack.values() for word in program.command)
    assert "canary-" not in words


def test_only_s3_and_label_studio_are_given_secrets_and_only_their_own(stack):
    given = {
        name: {value.removeprefix("canary-") for value in program.environment.values() if value.startswith("canary-")}
        for name, program in stack.items()
    }
    assert given == {
        "s3": {"s3_jwt_volume_write", "s3_jwt_volume_read", "s3_jwt_filer_write", "s3_jwt_filer_read"},
        "label-studio": {"label_studio_password", "label_studio_token", "label_studio_secret_key"},
        **{name: set() for name in list(stack)[2:]},
    }  # fmt: skip


def test_s3_listens_on_loopback_only_names_every_port_and_phones_nobody(stack):
    command = stack["s3"].command
    assert {"-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.autoCreateBucket=false"} <= {
        *command
    }
    assert "-admin.port.grpc=23646" in command
    for port in addresses.DEFAULT_PORTS.values():
        wanted = {"8080", "8081", "8000"}
        assert str(port) in wanted or any(word.endswith(f"={port}") for word in command), port
    assert stack["s3"].stop_wait_seconds == 40


def test_s3_lets_in_the_generated_identity_and_not_the_callers(stack):
    assert json.loads(programs.s3_identities(SECRETS)) == {
        "identities": [
            {
                "name": "dethrone",
                "credentials": [{"accessKey": "canary-s3_access_key", "secretKey": "canary-s3_secret_key"}],
                "actions": ["Admin", "Read", "List", "Tagging", "Write"],
            },
            {
                "name": "label-studio",
                "credentials": [
                    {"accessKey": "canary-label_studio_s3_access_key", "secretKey": "canary-label_studio_s3_secret_key"}
                ],
                "actions": ["Read:dethrone/items/*", "List:dethrone/items/*"],
            },
        ]
    }
    assert "-s3.config=/srv/dethrone/supervisor/s3.json" in stack["s3"].command
    assert stack["s3"].environment["AWS_ACCESS_KEY_ID"] == ""
    assert stack["s3"].environment["AWS_SECRET_ACCESS_KEY"] == ""


def test_label_studio_is_closed_to_strangers(stack):
    environment = stack["label-studio"].environment
    assert environment["DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert environment["LOCAL_FILES_SERVING_ENABLED"] == "false"
    assert environment["SSRF_PROTECTION_ENABLED"] == environment["USE_DEFAULT_BANNED_SUBNETS"] == "true"
    assert environment["DETHRONE_LABEL_STUDIO_REACHES"] == "http://127.0.0.1:8333 http://127.0.0.1:8080"
    assert environment["COLLECT_ANALYTICS"] == "false"
    command = stack["label-studio"].command
    assert command[command.index("--bind") + 1] == "127.0.0.1:8081"
    assert environment["LOG_LEVEL"] == "WARNING"


def test_the_module_that_label_studio_is_served_from_exists(stack):
    command = stack["label-studio"].command
    module, _, attribute = command[command.index("gunicorn") + 1].partition(":")
    source = Path(command[command.index("--pythonpath") + 1]) / f"{module}.py"
    assert f"\n{attribute} = " in source.read_text()


def test_the_log_servers_that_bind_to_all_interfaces_are_not_started(stack):
    assert stack["airflow-scheduler"].command == ("/v/bin/airflow", "scheduler", "--skip-serve-logs")
    assert stack["airflow-triggerer"].command == ("/v/bin/airflow", "triggerer", "--skip-serve-logs")
    assert stack["airflow-api-server"].command == ("/v/bin/airflow", "api-server")


def test_only_serving_comes_back_with_the_supervisor_itself(stack):
    assert [name for name, program in stack.items() if program.autostart] == ["gateway"]


def test_every_program_can_be_written(stack):
    for program in stack.values():
        assert render_program(program).startswith(f"[program:{program.name}]\n")


def test_settings_of_another_installation_do_not_reach_the_stack():
    environment = base(
        {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW_HOME": "/elsewhere",
            "LABEL_STUDIO_HOST": "http://other",
            "PYTHONPATH": "/elsewhere",
            "PYTHONDONTWRITEBYTECODE": "1",
            "WANDB_API_KEY": "kept",
            "PATH": "/usr/bin",
        }
    )
    assert "AIRFLOW__CORE__EXECUTOR" not in environment
    assert "LABEL_STUDIO_HOST" not in environment
    assert not {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE"} & set(environment)
    assert environment["AIRFLOW_HOME"] == "/srv/dethrone/airflow"
    assert environment["WANDB_API_KEY"] == "kept"
    assert environment["PATH"] == "/v/bin:/usr/bin"


def test_every_process_carries_the_marker_and_the_two_folders():
    environment = base({})
    assert environment["DETHRONE_STACK"] == "/srv/dethrone"
    assert environment["DETHRONE_HOME"] == "/srv/dethrone"
    assert environment["DETHRONE_PROJECTS"] == "/p"
    assert environment["SPT_NOENV"] == "1"


def test_a_proxy_is_not_asked_for_loopback():
    assert base({"no_proxy": "intern.example"})["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"
    assert base({})["no_proxy"] == "127.0.0.1,localhost,::1"


def test_another_port_of_airflow_restarts_all_of_its_parts_and_who_reports_to_it(stack):
    moved = {**addresses.DEFAULT_PORTS, "airflow": 9999}
    listed = programs.stack_programs(LAYOUT, ports=moved, secrets=SECRETS, bin_dir=Path("/v/bin"))
    changed = {program.name for program in listed if render_program(program) != render_program(stack[program.name])}
    airflow = {"airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"}
    assert changed == airflow | {"label-studio"}  # which may report to that port alone
