"""The gate's part of `project.yaml`: floors, limits, slices, exams, and what a gain must be shown by."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from pipeline_tasks.project.section import NAME_PATTERN, Section

ABOVE_CONSTANT: Literal["above_constant"] = "above_constant"
MIN_GROUPS = 30  # an exam of fewer decides nothing, unless exam.min_items is lower still


def _word_or_number(value: Any) -> str:
    return "word" if isinstance(value, str) and not value.replace(".", "", 1).isdigit() else "number"


AccuracyFloor = Annotated[
    Annotated[Literal["above_constant"], Tag("word")] | Annotated[float, Field(ge=0, le=1), Tag("number")],
    Discriminator(_word_or_number),
]


EAGER_MODE = "eager"
LEAVE_OUT: Literal["leave_out"] = "leave_out"


class Floors(Section):
    """Floors that the first champion has to reach, since there is nobody to beat."""

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
    """Floors that the contender has to reach on every value of a slice; a first model too."""

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
    """Treatment of training items that all but are an exam item; docs/checks.md, "Exam and training set"."""

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
    """Epochs of the exam: their opening by new items, the items judged together, and what may resemble them."""

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
    tell: Literal["ladder", "exact"] = Field(
        "ladder",
        description="What verdicts tell of the exam while its newest epoch is open. ladder: the difference in steps of "
        "1 over the root of its items, where it is a new best, and no item; exact figures and items only to whoever "
        "may approve. exact: everything to everybody.",
    )


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
    new_classes: Literal["judge", "leave_out", "keep"] = Field(
        "judge",
        description="Exam items of classes that the champion never learned, since they were added later. judge: its "
        "answers there count as wrong, and on the other classes the contender may be worse by previous_margin at most; "
        "leave_out: the two are compared on the other classes alone; keep: while the exam has such items, no contender "
        "is promoted.",
    )
    floors: Floors = Floors()
    limits: Limits = Limits()
    slices: list[Slice] = Field(
        default_factory=list, description="Floors and margins on parts of the exam, however good the whole is."
    )
    exam: ExamConfig = ExamConfig()
    after_alarm: Literal["wait", "judge"] = Field(
        "wait",
        description="While an alarm of live quality stands: wait = no model is trained or judged before the exam has "
        "exam.min_items items, and their groups, from after the alarm began; judge = judged on what there is, and the "
        "verdict says so.",
    )
