"""The way of a newcomer from `dethrone init` to a served champion, a drift that is seen and labelled, and a contender.

    python benchmarks/newcomer/walk.py --data reviews --folder /tmp/newcomer/reviews   (5 to 15 minutes, two idle cores)

Template defaults, but for the classes and what the edits below say; the columns are those that are proposed. Everything
is a command of `dethrone` as a shell has it, but for three things: requests come from threads over HTTP, labels from
scripted accounts of Label Studio over its own API (without errors), and exam labels from as many of them as the
template asks for. Each command, its exit code, its seconds and its output go to FOLDER/walk.log; FOLDER/figures.json
holds the figures that are printed at the end. A command that fails is noted, and the way goes on.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import data as newcomer_data
import httpx

ROOT = Path(__file__).resolve().parents[2]
DETHRONE = ROOT / ".venv" / "bin" / "dethrone"
SETTLE_SECONDS = 20
WAIT_SECONDS = 900  # for Airflow, which may be at the same work
BETWEEN_MONITORS = 500  # predictions: an alarm of drift asks that two readings of the log in a row are far


class Walk:
    """One project on its way, with what was typed and what came of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.material = newcomer_data.MATERIALS[name]()
        self.projects = folder / "projects"
        self.environment = {
            **os.environ,
            "DETHRONE_HOME": str(folder / "home"),
            "DETHRONE_PROJECTS": str(self.projects),
            "WANDB_MODE": "offline",
        }
        os.environ.update(self.environment)
        self.began = time.monotonic()
        self.figures: dict[str, Any] = {"data": name, "machine": f"{os.cpu_count()} cores"}
        self.commands: list[tuple[str, int, float]] = []
        self.alarmed = False
        self.champion_at_alarm: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.log = (folder / "walk.log").open("a", encoding="utf-8")

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:7.1f} s  {text}"
        print(line, flush=True)
        print(line, file=self.log, flush=True)

    def type(self, *arguments: str, timeout: float = 1800) -> tuple[int, str]:
        """Run one command of `dethrone` as typed in a shell; return its exit code and output."""
        began = time.monotonic()
        done = subprocess.run(
            [DETHRONE, *arguments], env=self.environment, capture_output=True, text=True, cwd=ROOT, timeout=timeout,
            check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
        self.commands.append((" ".join(arguments), done.returncode, round(seconds, 1)))
        self.say(f"dethrone {' '.join(arguments)}: exit {done.returncode}, {seconds:.1f} s")
        for stream in (done.stdout, done.stderr):
            print("\n".join(f"    {line}" for line in stream.splitlines()[-60:]), file=self.log, flush=True)
        if done.returncode:
            self.say("  " + "\n  ".join((done.stderr or done.stdout).strip().splitlines()[-4:]))
        return done.returncode, done.stdout

    def again(self, *arguments: str) -> tuple[int, str]:
        """Run a command until it ends with 0 or 3 and Airflow is not at the same work meanwhile."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            code, text = self.type(*arguments)
            is_busy = "just now, and not done" in text or "is at work" in text
            if (code in (0, 3) and not is_busy) or time.monotonic() > deadline:
                break
            time.sleep(SETTLE_SECONDS)
        return code, text

    def fact(self, name: str, value: object) -> None:
        self.figures[name] = value
        self.say(f"{name}: {value}")

    # The project

    def init(self) -> None:
        template, classes = self.material.template, ",".join(self.material.classes)
        sizes = ["--labels", str(self.material.labels)] if self.material.labels else []
        self.type("init", self.name, "--template", template, "--classes", classes, *sizes)
        newcomer_data.write_arrivals(self.material, self.projects / self.name / "incoming")
        if any(example.group for example in self.material.labeled):
            line = "# group_column: customer    # all rows"
            self.edit("project.yaml", line, f"group_column: {newcomer_data.GROUP_COLUMN}    # all rows")
        if self.material.modality == "tabular":
            self.type("project", "columns", self.name)
            self.type("project", "columns", self.name, "--write")
        if self.name == "cells":  # 1,074 photos: a tenth of them is about as many as gate.exam.min_items asks for
            self.edit("project.yaml", "exam_share: 0.1", "exam_share: 0.15")
        self.type("project", "validate", self.name)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.projects / self.name / file
        text = path.read_text()
        if old not in text:
            self.say(f"NOT THERE in {file}: {old!r}")
            return
        path.write_text(text.replace(old, new, 1))
        self.figures["edited lines"] = int(self.figures.get("edited lines", 0)) + new.count("\n") + 1
        self.say(f"{file}: {' '.join(new.split())[:200]}")

    # Labels

    def label(self) -> None:
        """Answer every open task as its truth says; return when the answers are collected."""
        from pipeline_tasks.annotation.label_studio_projects import QUEUES, labeling_config
        from pipeline_tasks.catalog.labels import LabelRepository
        from pipeline_tasks.demo.scripted_annotators import Annotator, answer_all
        from pipeline_tasks.orchestration.resources import build_resources

        parts = build_resources()
        loaded = parts.project(self.name)
        registered = LabelRepository(parts.database).registration(self.name)
        if registered is None:
            self.say("no labeling project yet")
            return
        truth = self.truth_by_item(parts)
        team = [Annotator(f"{name}@newcomer.local", 0.0) for name in ("ada", "ben", "cleo")]
        for queue in QUEUES:
            people = loaded.config.labels.exam_annotators if queue == "exam" else loaded.config.labels.annotators
            report = answer_all(
                parts.labeling,
                url=parts.settings.label_studio_url,
                admin_token=parts.settings.label_studio_token,
                password_secret=parts.settings.webhook_secret,
                project_id=registered[2][queue],
                annotators=team,
                people_per_item=people,
                config=labeling_config(loaded),
                truth=truth,
                similar={},
            )
            self.say(f"labeled, queue {queue}: {report.num_answers} answers")
            self.figures[f"answers, {queue}"] = int(self.figures.get(f"answers, {queue}", 0)) + report.num_answers
        self.again("collect", self.name)

    def truth_by_item(self, parts) -> dict[str, str]:
        """Return item id -> label, by what the items hold: rows and texts may be stored in another form than sent."""
        from pipeline_tasks.catalog.items import ItemRepository
        from pipeline_tasks.ingest.item_reader import read_items

        known = {self.signature(example.body): example.label for example in self.material.everything()}
        labels = {}
        for item, body in read_items(parts.store, ItemRepository(parts.database).iterate(self.name)):
            label = known.get(self.signature(body))
            if label is not None:
                labels[item.item_id] = label
        return labels

    def signature(self, body: bytes) -> object:
        if self.material.modality == "image":
            return body
        if self.material.modality == "text":
            return "".join(body.decode().split())
        row = json.loads(body)
        return tuple(_spelled(row.get(name)) for name in self.material.columns)

    # Traffic

    def send(self, name: str, examples) -> None:
        """Ask the gateway for each of these once, four at a time; the client knows the truth."""
        from pipeline_tasks.core.settings import load_settings

        key = (self.folder / "home" / "secrets" / "gateway_api_key").read_text().strip()
        url = f"{load_settings().gateway_url}/v1/projects/{self.name}/predict"
        headers = {"Authorization": f"Bearer {key}", "Content-Type": self.material.media_type}
        numbers, lock, answers = iter(examples), threading.Lock(), collections.Counter[Any]()

        def work() -> None:
            with httpx.Client(timeout=30, trust_env=False) as client:
                while True:
                    with lock:
                        example = next(numbers, None)
                    if example is None:
                        return
                    try:
                        user = {"X-User-Key": example.group} if example.group else {}
                        answer = client.post(url, content=example.body, headers={**headers, **user})
                        label = answer.json().get("label") if answer.status_code == 200 else None
                        kind = ("right" if label == example.label else "wrong") if label else f"{answer.status_code}"
                    except httpx.HTTPError as error:
                        kind = type(error).__name__
                    answers[kind] += 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answered = answers["right"] + answers["wrong"]
        self.fact(f"live accuracy, {name}", f"{answers['right'] / max(answered, 1):.3f} of {answered}")
        if answered < len(examples):
            self.fact(f"not answered, {name}", {key: n for key, n in answers.items() if key not in ("right", "wrong")})
        time.sleep(SETTLE_SECONDS)  # the gateway ships its log every few seconds

    def monitor(self, when: str) -> None:
        _, text = self.again("monitor", self.name, "--json")
        try:
            report = json.loads(text)
        except ValueError:
            self.fact(f"monitor, {when}", text.strip()[-300:])
            return
        self.fact(f"monitor, {when}", {key: report.get(key) for key in ("state", "quality", "alarms")})
        if report.get("alarms") and not self.alarmed:
            self.alarmed, self.champion_at_alarm = True, self.champions()[-1]
            self.fact("first alarm", when)
        self.fact(f"overview, {when}", self.overview())

    def overview(self) -> str:
        """Return what the overview page says of the project's monitoring."""
        from pipeline_tasks.orchestration.overview import overview_lines
        from pipeline_tasks.orchestration.resources import build_resources

        line = next(
            overview_line for overview_line in overview_lines(build_resources()) if overview_line.name == self.name
        )
        return "; ".join([line.live_quality, *line.alarms])

    # The verdict

    def verdict(self, when: str) -> None:
        from pipeline_tasks.catalog.verdicts import VerdictRepository
        from pipeline_tasks.orchestration.resources import build_resources

        parts = build_resources()
        verdicts = VerdictRepository(parts.database).history(self.name)
        if verdicts:
            last = verdicts[-1].ref
            self.fact(f"verdict, {when}", {"answer": last.answer, "reasons": list(last.reasons)})
        self.fact(f"champion, {when}", self.champions()[-1])

    def training(self, when: str) -> None:
        from pipeline_tasks.catalog.model_versions import ModelRepository
        from pipeline_tasks.orchestration.resources import build_resources

        history = ModelRepository(build_resources().database).history(self.name)
        if history:
            metrics = history[-1].metrics
            kept = {key: metrics["validation"][key] for key in ("accuracy", "macro_f1", "num_items")}
            self.fact(f"training, {when}", {"num_train": metrics["num_train"], **kept, "inputs": metrics.get("inputs")})

    def go(self) -> None:
        self.init()
        self.type("up")
        self.fact("minutes to the stack", round((time.monotonic() - self.began) / 60, 1))
        self.again("ingest", self.name)
        self.type("quarantine", self.name)
        self.again("annotate", self.name)
        self.label()
        self.again("train", self.name)
        self.training("first")
        self.verdict("first")
        self.fact("minutes to the first champion", round((time.monotonic() - self.began) / 60, 1))
        for name, examples in self.material.traffic.items():
            for first in range(0, len(examples), BETWEEN_MONITORS):
                part = examples[first : first + BETWEEN_MONITORS]
                self.send(f"{name} {first + 1:,} to {first + len(part):,}", part)
                self.monitor(f"after {name} {first + len(part):,}")
                self.again("annotate", self.name)
                self.label()
                self.monitor(f"{name} {first + len(part):,}, labelled")
                if self.alarmed and self.name == "flights" and "values" not in self.figures:
                    self.again("train", self.name)  # it tells which values `columns` does not declare
                    self.edit("project.yaml", '"very late"]', '"very late", "E", "L", "T", "V"]')
                    self.fact("values", "declared")
                if self.alarmed and self.judged(f"after {name} {first + len(part):,}"):
                    self.send(
                        f"{name} {first + len(part) + 1:,} to the end, at most 500", examples[first + len(part) :][:500]
                    )
                    self.type("verify")
                    return
        self.judged("after the drift")
        self.type("verify")

    def judged(self, when: str) -> bool:
        """Train, and return whether a contender with the newest labels was promoted since the first alarm."""
        self.again("train", self.name)
        self.training(when)
        self.verdict(when)
        return self.alarmed and self.champions()[-1] != self.champion_at_alarm

    def champions(self) -> list[str | None]:
        from pipeline_tasks.catalog.routes import ServingRepository
        from pipeline_tasks.orchestration.resources import build_resources

        routes = ServingRepository(build_resources().database).history(self.name)
        return [route.champion_version for route in routes] or [None]

    def close(self) -> None:
        self.figures["minutes"] = round((time.monotonic() - self.began) / 60, 1)
        typed = [command for command in self.commands if "--help" not in command[0]]
        self.figures["commands"] = len(typed)
        self.figures["commands that failed"] = [command for command in typed if command[1]]
        (self.folder / "figures.json").write_text(json.dumps(self.figures, indent=2, ensure_ascii=False))
        print("\n| figure | value |\n|---|---|")
        for name, value in self.figures.items():
            print(f"| {name} | {value} |")


def _spelled(value: object) -> str:
    """Return a cell's spelling that does not depend on how it is stored: numbers as numbers, nothing as nothing."""
    if value is None or value == "":
        return ""
    try:
        return repr(float(str(value)))
    except ValueError:
        return str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(newcomer_data.MATERIALS), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="state, projects and logs; must be new")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        print(f"--folder must be new (got {options.folder}). Remove it, or name another.", file=sys.stderr)
        return 2
    walk = Walk(options.data, options.folder.absolute())
    try:
        walk.go()
    finally:
        if not options.keep:
            walk.type("down")
        walk.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
