"""The typed, validated `project.yaml`: what a user writes to put a model into the loop."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline_tasks.guards.cells import Column, columns_of
from pipeline_tasks.guards.personal import DenyList, deny_list
from pipeline_tasks.models.stock import OWN_RECIPE, STOCK, StockRecipe
from pipeline_tasks.project.columns_schema import ColumnConfig
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.project.privacy_schema import Privacy
from pipeline_tasks.project.section import NAME_PATTERN, Section
from pipeline_tasks.project.serving_schema import Serving
from pipeline_tasks.project.source_schema import Source

Modality = Literal["image", "text", "tabular"]
SCHEMA_VERSION = 1


class Labels(Section):
    """The classes, who gives labels, and how many people look at each item."""

    classes: list[str] = Field(min_length=2)
    imported: Literal["accept", "ignore"] = Field(
        "accept", description="What to do with labels that come with the source."
    )
    annotators: int = Field(1, ge=1, le=10, description="People per training item.")
    imported_in_exam: bool = Field(
        default=False,
        description="Let labels that come with the source decide exam items too, which nobody looks at then; every "
        "verdict says so. Without it, people are asked.",
    )
    exam_annotators: int = Field(
        2, ge=1, le=10, description="People per exam item and per audit of production; they see no model suggestion."
    )
    min_agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of annotators behind the winning label, more than this, or the item is disputed.",
    )
    further_people: int = Field(
        1,
        ge=0,
        le=10,
        description="People who are asked of a disputed item, one after the other, until its answers decide; then it "
        "stays disputed, and out of training and exam.",
    )
    suggestions: bool = Field(default=True, description="Show the champion's answer to labelers of training items.")
    trusted: list[str] = Field(
        default_factory=list,
        description="Labelers, by the address of their account, who are not compared with the others: their answers "
        "count although a check named them.",
    )
    excluded: list[str] = Field(
        default_factory=list,
        description="Labelers whose answers are left out of training sets and new exams; nothing is deleted.",
    )


class SplitConfig(Section):
    """The division of items between training and the exam."""

    exam_share: float = Field(0.1, gt=0, lt=1, description="Share of group keys that go to the exam.")


class Checks(Section):
    """Overrides of the modality's data checks; see docs/checks.md."""

    min_rows: int = Field(50, ge=1)
    min_per_class: int = Field(2, ge=1)
    max_class_share: float = Field(0.9, gt=0, le=1)
    max_item_bytes: int = Field(20_000_000, ge=1)
    max_pixels: int = Field(25_000_000, ge=1)
    min_side_pixels: int = Field(1, ge=1)
    max_text_characters: int = Field(100_000, ge=1)
    max_drift: float = Field(
        0.5,
        gt=0,
        description="Largest Jensen-Shannon distance of the label distribution to the last snapshot (0 to 1), beyond "
        "what two samples of one law differ by.",
    )
    drift_policy: Literal["warn", "stop"] = "warn"
    labelers: Literal["hold", "warn", "stop", "off"] = Field(
        "hold",
        description="What becomes of the answers of a labeler who is shown to be worse than the others: hold = left "
        "out of training sets and new exams until labels.trusted or labels.excluded names the labeler; warn = told; "
        "stop = no training; off = labelers are not compared.",
    )
    max_quarantine_share: float = Field(
        0.5, gt=0, le=1, description="A batch with a greater share of bad items stops the run."
    )


class Tune(Section):
    """Automated choice of hyper-parameters with Optuna, by gate.metric on the validation part."""

    trials: int = Field(0, ge=0, le=1000, description="0 = no search.")
    epochs: int = Field(2, ge=1, description="Of each trial; what is chosen is trained with recipe.params.epochs.")


class RecipeConfig(Section):
    """The recipe of the training and its parameters."""

    name: str = Field(description=f"A stock recipe ({', '.join(STOCK)}) or `{OWN_RECIPE}` in the project's folder.")
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    tune: Tune = Tune()

    @property
    def stock(self) -> StockRecipe | None:
        """The facts of the stock recipe; None: it is the project's own, or there is none of this name."""
        return STOCK.get(self.name)

    @property
    def reads_columns(self) -> bool:
        """Tell whether the parameters name columns, as those of a stock recipe for rows."""
        return self.stock is not None and self.stock.reads_columns


class Approval(Section):
    """A person's yes before a promotion."""

    when: Literal["never", "first", "always"] = "never"
    deadline_hours: float = Field(48.0, gt=0)
    four_eyes: bool = False


class Monitor(Section):
    """Audits of production predictions by people, and the alarm on their quality."""

    audit_share: float = Field(0.05, ge=0, le=1, description="Random share of predictions that people check.")
    max_audits: int = Field(200, ge=0, description="Per monitor run.")
    max_uncertain: int = Field(200, ge=0, description="Per monitor run; the least confident first.")
    max_share_per_client: float = Field(1.0, gt=0, le=1)
    alarm_exam_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of new group keys of production that go to the exam, instead of split.exam_share, while an "
        "alarm stands and the exam has not got gate.exam.min_items items from after it.",
    )
    min_audited: int = Field(30, ge=1, description="Below so many audited answers nothing is judged.")
    window_audits: int = Field(
        60, ge=1, description="Live quality is shown on this many newest audited answers of a model version."
    )
    max_quality_drop: float = Field(
        0.05,
        gt=0,
        le=1,
        description="WATCH: the newest audited answers lie by more than this, and than chance explains at one look, "
        "below the exam. It is shown and wakes nobody.",
    )
    false_alarms_a_year: float = Field(
        0.2,
        gt=0,
        le=12,
        description="The budget of the alarm of live quality: so many false ones are to be expected in a year at most "
        "while live quality is as the exam's lower bound. Fewer = later alarms.",
    )


class TrainTrigger(Section):
    """Conditions of a training that starts by itself."""

    min_new_labels: int = Field(200, ge=1)


class Schedules(Section):
    """Cron expressions (UTC) of the sweeps; null = only by hand or by event."""

    ingest: str | None = "*/15 * * * *"
    annotate: str | None = "*/15 * * * *"
    collect: str | None = "*/5 * * * *"
    train: str | None = "0 3 * * *"
    monitor: str | None = "*/30 * * * *"


class Project(Section):
    """One project of the loop."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    owner: str = "ml"
    modality: Modality
    columns: list[ColumnConfig] = Field(
        default_factory=list,
        description="The columns of a table's rows, each with its type; docs/tables.md. Without it types are guessed "
        "cell by cell. `dethrone project columns <name>` proposes it from the data.",
    )
    sources: list[Source] = Field(min_length=1)
    labels: Labels
    split: SplitConfig = SplitConfig()
    checks: Checks = Checks()
    privacy: Privacy = Privacy()
    recipe: RecipeConfig
    train: TrainTrigger = TrainTrigger()
    gate: Gate = Gate()
    approval: Approval = Approval()
    serving: Serving = Serving()
    monitor: Monitor = Monitor()
    schedules: Schedules = Schedules()

    @cached_property
    def row_columns(self) -> tuple[Column, ...]:
        """The declared columns as the reader of cells takes them; none: rows are read by reading version 1."""
        return columns_of(column.as_json() for column in self.columns)

    @cached_property
    def deny_list(self) -> DenyList:
        """The personal data that must not be kept."""
        return deny_list(self.privacy.deny.model_dump())

    def as_shown(self, data: bytes) -> bytes:
        """Return an item's bytes as a page, a log or a tracker may show them: without what the deny-list names."""
        media_type = {"image": "image/png", "tabular": "application/json"}.get(self.modality, "text/plain")
        return self.deny_list.shown(data, media_type=media_type)


class LoadedProject(Section):
    """A validated project with its folder and labeling configuration."""

    config: Project
    folder: Path
    labeling_xml: str

    @property
    def name(self) -> str:
        return self.config.name
