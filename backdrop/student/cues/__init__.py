"""Label-free cues of the moving subject: what one frame owes to its stabilized neighbors.

Four kinds of evidence, each weak alone, wrong in different places, and computed without any label: flow, median, mog2
and mosaic (the baseline `motion.mog2.Mog2`: a longer window in the order of time, which never sees a mask). A new cue
is a file here and a line in `CUES`.
"""

from __future__ import annotations

import numpy as np

from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.neighbors import StabilizedSequence, median_background, views
from backdrop.student.cues.cue import Cue
from backdrop.student.cues.flow import flow_cues
from backdrop.student.cues.median import median_cue
from backdrop.student.cues.mog2 import mog2_cue
from backdrop.student.parameters import StudentParams


def frame_cues(
    footage: StabilizedSequence, t: int, params: StudentParams, stored: FlowArchive | None = None
) -> dict[str, Cue]:
    """All cues of frame t that `params.cues` names and that its neighbors allow: flow<gap>, median, mog2, mosaic."""
    cues: dict[str, Cue] = {}
    if "flow" in params.cues:
        cues |= flow_cues(footage, t, params.gaps, stored)
    if "median" in params.cues or "mog2" in params.cues:
        found = views(footage, t, params.neighbors, params.spacing, params.parallax)
        behind = median_background(found)
        if behind is not None and "median" in params.cues:
            cues["median"] = median_cue(footage.image(t), behind)
        if behind is not None and "mog2" in params.cues:
            cues["mog2"] = mog2_cue(footage.image(t), found, behind)
    if "mosaic" in params.cues and cues:  # without cues no neighbor could be laid over the frame
        value = footage.mosaic(t)
        cues["mosaic"] = Cue(value, np.ones(value.shape, bool))
    return cues


def cue_names(params: StudentParams) -> list[str]:
    """The names that `frame_cues` may give."""
    flows = [f"flow{gap}" for gap in params.gaps] if "flow" in params.cues else []
    return flows + [name for name in ("median", "mog2", "mosaic") if name in params.cues]
