"""Label-free cues of the moving subject: what one frame owes to its stabilized neighbors.

Each cue is weak alone, wrong in other places than the others, and computed without any label. A new cue is a file here,
a line in `CUES`, and its name in `StudentParams.cues`.
"""

from __future__ import annotations

from collections.abc import Callable

from backdrop.motion.flow_field import FlowArchive
from backdrop.motion.neighbors import StabilizedSequence
from backdrop.student.cues.cue import Cue, CueFrame
from backdrop.student.cues.flow import flow_cues
from backdrop.student.cues.layers import layers_cue
from backdrop.student.cues.median import median_cue
from backdrop.student.cues.mog2 import mog2_cue
from backdrop.student.cues.mosaic import mosaic_cue
from backdrop.student.cues.motion import motion_cue
from backdrop.student.cues.prior import prior_cue
from backdrop.student.parameters import StudentParams

CUES: dict[str, Callable[[CueFrame], dict[str, Cue]]] = {
    "motion": motion_cue,
    "layers": layers_cue,
    "flow": flow_cues,
    "median": median_cue,
    "mog2": mog2_cue,
    "mosaic": mosaic_cue,
    "prior": prior_cue,
}
"""Kind of cue, as `student.cues` names it -> what computes it: the cues of a frame by name, empty where there is
nothing to compare with. They are computed in this order."""


def frame_cues(
    sequence: StabilizedSequence, t: int, params: StudentParams, stored: FlowArchive | None = None
) -> dict[str, Cue]:
    """All cues of frame t that `params.cues` names and that its neighbors allow, by the names of `cue_names`.

    Args:
        stored: flow of the stage flow, where there is some.
    """
    frame = CueFrame(sequence, t, params, stored)
    for kind, compute in CUES.items():
        if kind in params.cues:
            frame.found |= compute(frame)
    return frame.found


def cue_names(params: StudentParams) -> list[str]:
    """The names that `frame_cues` may give, in its order: the kind, or for flow one for each gap (flow<gap>)."""
    names: list[str] = []
    for kind in CUES:
        if kind in params.cues:
            names += [f"flow{gap}" for gap in params.gaps] if kind == "flow" else [kind]
    return names
