"""The typed, validated `project.yaml`: what a user writes to put a model into the loop."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline_tasks.guards.cells import Column, columns_of
from pipeline_tasks.guards.personal import DenyList, deny_list
from pipeline_tasks.project_columns import ColumnConfig
from pipeline_tasks.project_privacy import Privacy
from pipeline_tasks.project_section import Section
from pipeline_tasks.project_serving import Serving

Modality = Literal["image", "text", "tabular"]
NAME_PATTERN = r"^[a-z][a-z0-9_]{1,38}[a-z0-9]$"
SCHEMA_VERSION = 1
ABOVE_CONSTANT: Literal["above_constant"] = "above_constant"


class FolderSource(Section):
    """Files below a folder (relative paths start at the project's folder); each file is one item."""

    type: Literal["folder"]
    name: str = "folder"
    path: str
    pattern: str = Field("**/*", description="Glob of the files to read.")
    label_pattern: str | None = Field(
        None,
        description="Regular expression on the key (path below the folder) with a group `label`; no match = unlabeled.",
    )
    group_pattern: str | None = Field(
        None,
        description="Regular expression on the key with a group `group` (patient, user, session); no match = the key.",
    )


class S3Source(Section):
    """Objects below a prefix of any S3 bucket; each object is one item."""

    type: Literal["s3"]
    name: str = "s3"
    bucket: str
    prefix: str = Field("", description="Folder of the bucket, with or without a slash at its end; empty = all of it.")
    endpoint_url: str | None = Field(None, description="Empty = the stack's own S3.")
    credentials: str | None = Field(
        None,
        description="Prefix of the environment variables with the keys: <PREFIX>_ACCESS_KEY and <PREFIX>_SECRET_KEY.",
    )
    label_pattern: str | None = None
    group_pattern: str | None = None


class _Rows(Section):
    key_column: str
    content_columns: list[str] = Field(
        default_factory=list,
        description="The columns that make an item: one for text, the features for tabular; without it the names in "
        "`columns`.",
    )
    label_column: str | None = None
    group_column: str | None = None


class TableSource(_Rows):
    """CSV, Parquet or JSON-lines files; each row is one item."""

    type: Literal["table"]
    name: str = "table"
    path: str
    pattern: str = "**/*"


class SqlSource(_Rows):
    """The rows of a query on any SQLAlchemy URL; each row is one item."""

    type: Literal["sql"]
    name: str = "sql"
    url_variable: str = Field(
        description="Environment variable that holds the SQLAlchemy URL (it may hold a password)."
    )
    query: str
    watermark_column: str | None = Field(
        None,
        description="Column that grows: rows are read from a little before its greatest value on, daily all of them.",
    )


Source = Annotated[FolderSource | S3Source | TableSource | SqlSource, Field(discriminator="type")]


class Labels(Section):
    """The classes, who gives labels, and how many people look at each item."""

    classes: list[str] = Field(min_length=2)
    imported: Literal["accept", "ignore"] = Field(
        "accept", description="What to do with labels that come with the source."
    )
    annotators: int = Field(1, ge=1, le=10, description="People per training item.")
    exam_annotators: int = Field(2, ge=1, le=10, description="People per exam item; they see no model suggestion.")
    min_agreement: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of annotators behind the winning label, more than this, or the item is disputed.",
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
    """How items are divided between training and the exam."""

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
        description="Largest Jensen-Shannon distance of the label distribution to the last snapshot (0 to 1).",
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


class Recipe(Section):
    """What is trained, and how."""

    name: str = Field(description="A stock recipe (image_cnn, text_bow) or `recipe.py` in the project's folder.")
    params: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    tune: Tune = Tune()


def _word_or_number(value: Any) -> str:
    return "word" if isinstance(value, str) and not value.replace(".", "", 1).isdigit() else "number"


AccuracyFloor = Annotated[
    Annotated[Literal["above_constant"], Tag("word")] | Annotated[float, Field(ge=0, le=1), Tag("number")],
    Discriminator(_word_or_number),
]


EAGER_MODE = "eager"


class Floors(Section):
    """What the first champion has to reach, since there is nobody to beat."""

    accuracy: AccuracyFloor = Field(
        ABOVE_CONSTANT,
        description="above_constant: by gate.metric, and shown at gate.confidence, better than always answering the "
        "exam's commonest class; or the least accuracy, 0 to 1, as a point estimate.",
    )
    recall_per_class: float = Field(0.0, ge=0, le=1)


class Limits(Section):
    """Satisficing metrics: every one must hold."""

    latency_p50_ms: float | None = Field(None, gt=0, description="Median; one item at a time, in process.")
    latency_p99_ms: float = Field(250.0, gt=0, description="One item at a time, in process.")
    size_mb: float = Field(500.0, gt=0)
    recall_per_class: float = Field(
        0.0, ge=0, le=1, description="Floor on the exam, for classes with min_class_items or more."
    )
    min_class_items: int = Field(20, ge=1, description="Classes with fewer exam items are listed, not judged.")
    max_calibration_error: float = Field(1.0, gt=0, le=1)


class SliceFloors(Section):
    """What the contender has to reach on every value of a slice; a first model too."""

    accuracy: float = Field(0.0, ge=0, le=1, description="0 = no floor.")


class Slice(Section):
    """A way to divide the exam's items; without a floor and without `max_loss` it is shown and not judged."""

    name: str = Field(pattern=NAME_PATTERN, description="As the report and the reasons call it.")
    by: Literal["source", "origin", "media_type", "key_pattern"] = Field(
        description="What an item's slice is: the source it came from, its origin (source or production), its media "
        "type, or what `pattern` finds in its key."
    )
    pattern: str | None = Field(
        None,
        description="For key_pattern: a regular expression that is searched in the item's key (path, object key or row "
        "key), with a group `slice`, as in `^(?P<slice>[^/]+)/` for the first folder; no match = in no slice.",
    )
    min_items: int = Field(20, ge=1, description="Values with fewer items on the exam are listed, not judged.")
    floors: SliceFloors = SliceFloors()
    max_loss: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Non-inferiority margin: on every value of min_items or more it must be shown, at gate.confidence, "
        "that the contender's accuracy is worse than the champion's by no more than this.",
    )


class NearDuplicates(Section):
    """What is done with training items that all but are an exam item; docs/checks.md, "Exam and training set"."""

    policy: Literal["exclude", "stop", "off"] = Field(
        "exclude",
        description="exclude: leave them out of the snapshot, each with its reason; stop: end the run; off: compare by "
        "content only, here and at the gate.",
    )
    image_similarity: float = Field(
        0.995, ge=0.9, le=1, description="Least correlation of the 16 x 16 grey pixels of two copies of one photo."
    )
    image_moves: bool = Field(
        default=True,
        description="Photos that are one another mirrored, turned by quarters or moved by a tenth are copies, too. "
        "false where such a photo is another thing: letters, arrows, left and right.",
    )
    text_similarity: float = Field(
        0.9,
        ge=0.7,
        le=1,
        description="Least Jaccard index of the five-character shingles of two copies of one text, or least share of "
        "the shorter text's that the longer one has.",
    )
    significant_digits: int = Field(
        4,
        ge=2,
        le=12,
        description="Fractions of a row are compared rounded to so many digits; whole numbers as they are.",
    )


class ExamConfig(Section):
    """When new exam items open a new epoch, how many are judged together, and what may resemble them."""

    min_items: int = Field(
        100, ge=10, description="So many new exam items open an epoch; 30 groups at least, or as many, are judged."
    )
    window_items: int = Field(
        1000,
        ge=10,
        description="The newest epochs are judged together, as many of them as it takes to hold so many items.",
    )
    max_group_items: int = Field(
        10, ge=1, description="An epoch takes at most so many items of one group; the others wait for a later epoch."
    )
    near_duplicates: NearDuplicates = NearDuplicates()


class Gate(Section):
    """The rule by which a contender dethrones the champion."""

    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    min_gain: float = Field(0.0, ge=0, lt=1)
    mode: Literal["shown", "eager"] = Field(
        "shown",
        description="shown: a gain must be shown at an error level. eager: it must be likely, by a posterior "
        "probability of `confidence`; promotes sooner, and bounds no false promotions.",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    false_promotions_a_year: float = Field(
        0.5,
        gt=0,
        le=52,
        description="Budget of promotions of contenders that are no better: at most so many are to be expected a year, "
        "over all epochs and uses, and as many again in the first. An epoch spends a tenth of what is left of it, "
        "1 - confidence at most.",
    )
    previous_margin: float = Field(
        0.03,
        ge=0,
        lt=1,
        description="Non-inferiority margin on the epoch before the newest, where that one is large enough to show it: "
        "6.2 times the share of items on which the models differ, over the margin squared. Else it is only told.",
    )
    new_classes: Literal["keep", "judge"] = Field(
        "keep",
        description="Deprecated, without effect: the classes of a project stay as they were at its first labeling.",
        json_schema_extra={"deprecated": True},
    )
    floors: Floors = Floors()
    limits: Limits = Limits()
    slices: list[Slice] = Field(
        default_factory=list, description="Floors and margins on parts of the exam, however good the whole is."
    )
    exam: ExamConfig = ExamConfig()


class Approval(Section):
    """Whether a person has to say yes before a promotion."""

    when: Literal["never", "first", "always"] = "never"
    deadline_hours: float = Field(48.0, gt=0)
    four_eyes: bool = False


class Monitor(Section):
    """Which production predictions go to people, and when quality raises an alarm."""

    audit_share: float = Field(0.05, ge=0, le=1, description="Random share of predictions that people check.")
    max_audits: int = Field(200, ge=0, description="Per monitor run.")
    max_uncertain: int = Field(200, ge=0, description="Per monitor run; the least confident first.")
    max_share_per_client: float = Field(1.0, gt=0, le=1)
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
    """When training starts by itself."""

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
    recipe: Recipe
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


class LoadedProject(Section):
    """A validated project with its folder and labeling configuration."""

    config: Project
    folder: Path
    labeling_xml: str

    @property
    def name(self) -> str:
        return self.config.name
