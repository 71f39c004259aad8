"""A slice by a camera in the key, and the score of a value of it."""

from pipeline_tasks.core.proportions import wilson_interval
from pipeline_tasks.evaluation import slices as sl
from pipeline_tasks.project.gate_schema import Slice

BY_CAMERA = {"name": "camera", "by": "key_pattern", "pattern": "^(?P<slice>camera[0-9])/", "min_items": 20}


def declared(**changes):
    return Slice.model_validate({**BY_CAMERA, **changes})


def score(value="phone", *, share=0.9, champion=0.9, num_items=100, gain=None, shrunk=None, half=0.06):
    """Return a value's score with one-sided bounds `half` away; shrunk estimates are those that were seen."""
    old = None if champion is None else wilson_interval(round(champion * num_items), num_items)
    return sl.SliceScore(
        value,
        num_items,
        wilson_interval(round(share * num_items), num_items),
        old,
        gain,
        shrunk=share if shrunk is None else shrunk,
        share_low=share - half,
        share_high=share + half,
        shrunk_gain=gain.difference if gain is not None else None,
    )
