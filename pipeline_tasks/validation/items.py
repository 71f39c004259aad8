"""The items check: what each item's bytes say and whether the recipe decodes them, a chunk of the batch at a time."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from data_checks.chunks import ChunkedRun, Quarantined
from data_checks.overrides import project_rules
from data_checks.result import CheckResult
from data_checks.rules import Suite, extend
from data_checks.suites import items_suite
from pipeline_tasks.catalog.datasets import Columns
from pipeline_tasks.catalog.set_aside import ITEM_STAGE, BadRow, SetAsideRepository
from pipeline_tasks.contracts import UNDECODABLE
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import printable
from pipeline_tasks.project.schema import LoadedProject, Modality
from pipeline_tasks.validation import categories
from pipeline_tasks.validation.check_reports import CheckContext, publish_check
from pipeline_tasks.validation.decoder import WHAT_TO_DO, Decoder, decoder_of
from pipeline_tasks.validation.item_facts import item_facts
from pipeline_tasks.validation.leakage import looked_at, places_of

_log = logging.getLogger(__name__)
CHUNK_ROWS = 16_384  # two packs of small items
SECONDS_PER_LINE = 5.0
FACT_COLUMNS: dict[Modality, tuple[str, ...]] = {
    "image": ("width", "height", "num_pixels", "pixel_mean", "pixel_spread"),
    "text": ("characters",),
    "tabular": ("num_fields", "num_empty_fields", "num_unmatched"),
}
KNOWN_COLUMNS = ("item_id", "media_type", "size_bytes", "group_key", "source", "key")
Problems = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ItemsCheck:
    """The items suite of a project, and the recipe that its items are decoded with."""

    project: LoadedProject
    suite: Suite
    decoder: Decoder

    @property
    def suite_id(self) -> str:
        return self.suite.suite_id(self.context)

    @property
    def context(self) -> dict[str, str]:
        return {"decoding": self.decoder.decoding}

    def run(
        self, batch_id: str, *, context: CheckContext, monotonic: Callable[[], float] = time.monotonic
    ) -> tuple[CheckResult, str]:
        """Check a batch in chunks, quarantine as it goes, publish; return the answer and the report's key."""
        run, said = ChunkedRun(self.suite), monotonic()
        unmatched = categories.Unmatched()
        for chunk in context.datasets.batch(self.project.name, batch_id, size=CHUNK_ROWS):
            frame, problems = self._frame(chunk, store=context.store, unmatched=unmatched)
            self._put_aside(run.add(frame), chunk, problems=problems, context=context)
            if monotonic() - said >= SECONDS_PER_LINE:
                said = monotonic()
                _log.info("%s: %d items checked, %d put aside", batch_id, run.num_rows, run.num_quarantined)
        statistics = {"unmatched_categories": unmatched.commonest()} if unmatched.commonest() else {}
        result, late = run.finish(subject=batch_id, context=self.context, statistics=statistics)
        result = categories.naming_values(result, unmatched.commonest())
        for chunk in context.datasets.batch(self.project.name, batch_id, size=CHUNK_ROWS) if late else ():
            here = {item_id: late[item_id] for item_id in chunk["item_id"] if item_id in late}
            self._put_aside(here, chunk, problems={}, context=context)
        return result, publish_check(result, context)

    def put_aside_undecodable(self, columns: Columns, item_ids: Mapping[str, str], *, context: CheckContext) -> None:
        """Quarantine items of which it turned out later that the recipe cannot decode them: item id -> problem."""
        self._put_aside(dict.fromkeys(item_ids, (UNDECODABLE,)), columns, problems=item_ids, context=context)

    def problems_of(self, columns: Columns, *, store: ObjectStore) -> dict[str, str]:
        """Return which of the items the recipe cannot decode, and why."""

        def look(item_id: str, data: bytes) -> tuple[str, str | None]:
            problem = self.decoder.problem(data)
            return item_id, None if problem is None else self.project.config.deny_list.hide(problem)

        looked = looked_at(store, places_of(columns), look)
        return {item_id: problem for item_id, problem in looked if problem is not None}

    def _frame(
        self, chunk: Columns, *, store: ObjectStore, unmatched: categories.Unmatched
    ) -> tuple[pd.DataFrame, Problems]:
        """Return the chunk with what its bytes say, one row per item, and what is wrong with those that are bad."""
        config, places = self.project.config, places_of(chunk)
        known = categories.preprocessing_for(config)

        def look(item_id: str, data: bytes) -> dict[str, Any]:
            content, limit = places[item_id].content_id, config.checks.max_pixels
            facts = item_facts(data, item_id=item_id, content_id=content, modality=config.modality, max_pixels=limit)
            facts |= categories.category_facts(data, known)
            if not facts["readable"] or facts.get("num_pixels", 0) > limit:
                return facts | {"decoded": None}
            problem = self.decoder.problem(data)
            return facts | {"decoded": problem is None, "problem": problem}

        facts = list(looked_at(store, places, look))
        unmatched.add(facts)
        rows = pd.DataFrame({name: chunk[name] for name in KNOWN_COLUMNS})
        columns = ["item_id", "digest_matches", "readable", "decoded", *FACT_COLUMNS[config.modality]]
        frame = rows.merge(pd.DataFrame(facts).reindex(columns=columns), on="item_id", how="left")
        hide = config.deny_list.hide
        return frame, {fact["item_id"]: hide(fact["problem"]) for fact in facts if fact.get("problem")}

    def _put_aside(
        self, quarantined: Quarantined, columns: Columns, *, problems: Problems, context: CheckContext
    ) -> None:
        expected = {rule.name: rule.expected for rule in self.suite.rules}

        def reason(item_id: str, rule: str) -> str:
            if rule == UNDECODABLE and item_id in problems:
                return f"{problems[item_id]} {WHAT_TO_DO} (suite {self.suite_id})"
            problem = f": {problems[item_id]}" if rule == "READABLE" and item_id in problems else ""
            return f"{expected.get(rule, rule)}{problem} (suite {self.suite_id})"

        rows = bad_rows(quarantined, columns, reason=reason)
        context.datasets.put_aside(self.project.name, ITEM_STAGE, rows, at=context.now)


def items_check(project: LoadedProject) -> ItemsCheck:
    """Return the items check of a project.

    Raises:
        ConfigError: the recipe, its parameters or checks.py are wrong.
    """
    suite = items_suite(project.config)
    return ItemsCheck(project, extend(suite, project_rules(project.folder, suite.stage)), decoder_of(project))


def release_decodable(project: LoadedProject, *, repository: SetAsideRepository, store: ObjectStore) -> int:
    """Take items out of the quarantine that another recipe or other parameters could not decode and these can."""
    name, num_released, after = project.name, 0, ""
    check = items_check(project)
    while rows := repository.undecodable(name, but_by=check.suite_id, limit=CHUNK_ROWS, after=after):
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        still = check.problems_of(columns, store=store)
        good = [item_id for item_id in columns["item_id"] if item_id not in still]
        repository.release(name, good)
        num_released, after = num_released + len(good), columns["item_id"][-1]
    if num_released:
        _log.info("%d items of %s decode now and are out of the quarantine", num_released, name)
    return num_released


def bad_rows(
    quarantined: Mapping[str, Iterable[str]], columns: Columns, *, reason: Callable[[str, str], str]
) -> list[BadRow]:
    """Return a row for each item and each rule that it failed."""
    if not quarantined:
        return []
    position = {item_id: index for index, item_id in enumerate(columns["item_id"])}
    return [
        BadRow(
            source=columns["source"][position[item_id]],
            key=columns["key"][position[item_id]],
            item_id=item_id,
            code=name,
            reason=printable(reason(item_id, name), limit=1000),
            object_key=columns["object_key"][position[item_id]],
        )
        for item_id, names in quarantined.items()
        for name in names
    ]
