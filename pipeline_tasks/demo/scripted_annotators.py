"""Scripted annotators: separate Label Studio accounts that answer over the server's own API, with stated error rates.

They stand in for people in the demo and in tests, and nowhere else. Each has an account made through the
administrator's invitation, its own session, and mistakes that are fixed by its seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from pipeline_tasks.adapters.label_studio_client import LabelStudioAccount, LabelStudioHttp, sdk
from pipeline_tasks.annotation.task_rendering import answer
from pipeline_tasks.core.ports import LabelingTool
from pipeline_tasks.errors import ConfigError, PermanentError, ServiceUnavailable
from pipeline_tasks.project.labeling_config import LabelingConfig

RETRY_SECONDS = 1.0
BUDGET_SECONDS = 120.0  # Label Studio needs up to 30 s to come back after a kill
MIN_LEAD_SECONDS, SPREAD_LEAD_SECONDS = 1.5, 4.0


@dataclasses.dataclass(frozen=True, slots=True)
class Annotator:
    """One scripted account; `error_rate` is the share of its answers that are wrong on purpose."""

    email: str
    error_rate: float


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """One task that one annotator is to answer, and with what."""

    annotator: Annotator
    task_id: int
    item_id: str
    label: str
    lead_time_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class AnswerReport:
    """Counts of what the scripted annotators did in one run."""

    num_answers: int
    num_wrong: int
    num_answered_before: int
    seconds: float


def chosen_label(
    annotator: Annotator, item_id: str, *, truth: str, similar: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> str:
    """Return what the annotator says of an item: the truth, or with its error rate a class that looks like it."""
    if _share(annotator.email, item_id, "wrong") >= annotator.error_rate:
        return truth
    others = [label for label in similar.get(truth, ()) if label in classes and label != truth]
    others = others or [label for label in classes if label != truth]
    return others[int(_share(annotator.email, item_id, "which") * len(others))]


def assign(
    tasks: Mapping[str, int],
    *,
    annotators: Sequence[Annotator],
    people_per_item: int,
    asked: Mapping[str, int],
    answered_by: Mapping[str, Iterable[str]],
    truth: Mapping[str, str],
    similar: Mapping[str, Sequence[str]],
    classes: Sequence[str],
) -> list[Assignment]:
    """Divide the tasks (item id -> task id) among the annotators, so that each gets as many people as it needs.

    `asked` are tasks that need another number of people than most: those that are asked of a further one. Whoever has
    answered a task does not get it again; items without a known true label are left to people.

    Raises:
        ConfigError: fewer annotators than people per item.
    """
    if people_per_item > len(annotators):
        raise ConfigError(
            f"annotators must be at least {people_per_item} accounts, as many as look at one item "
            f"(got {len(annotators)}). Add accounts."
        )
    assignments = []
    for number, item_id in enumerate(sorted(tasks)):
        before = set(answered_by.get(item_id, ()))
        turn = [annotators[(number + step) % len(annotators)] for step in range(len(annotators))]
        free = [person for person in turn if person.email not in before] if item_id in truth else []
        needed = max(people_per_item, asked.get(item_id, 0))
        for annotator in free[: max(needed - len(before), 0)]:
            label = chosen_label(annotator, item_id, truth=truth[item_id], similar=similar, classes=classes)
            lead = MIN_LEAD_SECONDS + SPREAD_LEAD_SECONDS * _share(annotator.email, item_id, "lead")
            assignments.append(Assignment(annotator, tasks[item_id], item_id, label, round(lead, 2)))
    return assignments


def answer_all(
    labeling: LabelingTool,
    *,
    url: str,
    admin_token: str,
    password_secret: str,
    project_id: int,
    annotators: Sequence[Annotator],
    people_per_item: int,
    config: LabelingConfig,
    truth: Mapping[str, str],
    similar: Mapping[str, Sequence[str]],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> AnswerReport:
    """Let the scripted annotators answer what is still open in one Label Studio project; again = nothing to do.

    Raises:
        ServiceUnavailable: Label Studio stayed away for longer than two minutes.
    """
    started = time.monotonic()
    tasks = {item_id: ids[0] for item_id, ids in labeling.task_ids(project_id).items() if item_id}
    answered_by: dict[str, set[str]] = {}
    for annotation in labeling.annotations(project_id):
        answered_by.setdefault(annotation.item_id, set()).add(annotation.annotator)
    assignments = assign(
        tasks,
        annotators=annotators,
        people_per_item=people_per_item,
        asked={task.item_id: task.num_people for task in labeling.annotated_tasks(project_id)},
        answered_by=answered_by,
        truth=truth,
        similar=similar,
        classes=config.choices,
    )
    administrator = LabelStudioAccount(url, admin_token, timeout_seconds=60).sdk
    invite = str(administrator.organizations.invites.get_invite_link().token)
    counter = _Counter(len(assignments), progress)
    busy = [annotator for annotator in annotators if any(job.annotator == annotator for job in assignments)]
    accounts = {
        annotator.email: AnnotatorAccount(url, annotator.email, password_for(annotator.email, password_secret))
        for annotator in busy
    }
    for account in accounts.values():
        account.enter(invite_token=invite)

    def work(annotator: Annotator) -> None:
        for job in assignments:
            if job.annotator == annotator:
                accounts[annotator.email].annotate(job, config)
                counter.add()

    with ThreadPoolExecutor(max(len(busy), 1), thread_name_prefix="annotator") as pool:
        list(pool.map(work, busy))
    wrong = sum(job.label != truth[job.item_id] for job in assignments)
    before = sum(len(people) for people in answered_by.values())
    return AnswerReport(len(assignments), wrong, before, time.monotonic() - started)


def password_for(email: str, secret: str) -> str:
    """Return an account's password: the same at each run, without being kept anywhere."""
    return hmac.new(secret.encode(), email.encode(), hashlib.sha256).hexdigest()[:32]


class AnnotatorAccount:
    """One Label Studio account with its own session, as a browser has it, and the SDK on that session."""

    def __init__(self, url: str, email: str, password: str) -> None:
        self.email = email
        self._password = password
        self._url = url.rstrip("/")
        self._client = LabelStudioHttp(self._url, timeout_seconds=60, refusal=self._refusal, auth=self._by_session)
        self._sdk = sdk(self._url, "by session", self._client)

    def enter(self, *, invite_token: str) -> None:
        """Log in; the first time, sign up with the administrator's invitation.

        Raises:
            PermanentError: LS_AUTH: neither worked.
            ServiceUnavailable: no answer within the budget.
        """
        deadline = time.monotonic() + BUDGET_SECONDS
        while True:
            try:
                self._enter(invite_token)
            except ServiceUnavailable as error:  # it may have been carried out: the next try logs in first
                if time.monotonic() > deadline:
                    raise self._unavailable(f"let {self.email} in") from error
                time.sleep(RETRY_SECONDS)
            else:
                return

    def _enter(self, invite_token: str) -> None:
        form = {"email": self.email, "password": self._password}
        if self._submit("/user/login/", form):
            return
        signup = {**form, "allow_newsletters": "false", "how_find_us": "Other", "elaborate": "scripted annotator"}
        if not self._submit(f"/user/signup/?token={invite_token}", signup):
            raise PermanentError(
                f"Label Studio must let {self.email} in by password or invitation (got neither). "
                "Delete the account there, or keep the secret that its password is made of.",
                code="LS_AUTH",
            )

    def _submit(self, path: str, form: Mapping[str, str]) -> bool:
        self._client.cookies.clear()
        try:
            self._client.get(path)
            return self._client.post(path, data=dict(form)).status_code == httpx.codes.FOUND
        except PermanentError:
            return False

    def annotate(self, job: Assignment, config: LabelingConfig) -> None:
        """Answer one task once; after a lost response, look first whether the answer arrived.

        Raises:
            PermanentError: Label Studio refuses the answer.
            ServiceUnavailable: no answer within the budget.
        """
        deadline = time.monotonic() + BUDGET_SECONDS
        while True:
            try:
                self._sdk.annotations.create(
                    job.task_id, result=answer(config, job.label), lead_time=job.lead_time_seconds
                )
            except ServiceUnavailable as error:
                if time.monotonic() > deadline:
                    raise self._unavailable(f"take the answer of {self.email}") from error
            else:
                return
            time.sleep(RETRY_SECONDS)
            if self._has_answered(job.task_id):
                return

    def _has_answered(self, task_id: int) -> bool:
        with contextlib.suppress(ServiceUnavailable):
            annotations = self._sdk.annotations.list(task_id)
            return any(f" {self.email}," in str(annotation.created_username) for annotation in annotations)
        return False

    def _by_session(self, request: httpx.Request) -> httpx.Request:
        """Take the SDK's token off: cookies say who asks, and Django wants this beside them."""
        request.headers.pop("Authorization", None)
        request.headers["Referer"] = self._url
        if token := self._client.cookies.get("csrftoken"):
            request.headers["X-CSRFToken"] = token
        return request

    def _refusal(self, status: int, reason: str) -> str:
        return f"Label Studio must let {self.email} do it (got HTTP {status}: {reason})."

    def _unavailable(self, what: str) -> ServiceUnavailable:
        return ServiceUnavailable(f"Label Studio at {self._url} must {what} within {BUDGET_SECONDS:.0f} s (got none).")


class _Counter:
    """Counts answers of all threads and reports each."""

    def __init__(self, total: int, progress: Callable[[int, int], None]) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = threading.Lock()
        progress(0, total)

    def add(self) -> None:
        with self._lock:
            self._done += 1
            self._progress(self._done, self._total)


def _share(*parts: str) -> float:
    """Return a number from 0 to 1 (exclusive) that the parts fix."""
    return int.from_bytes(hashlib.sha256("\n".join(parts).encode()).digest()[:7]) / 2**56
