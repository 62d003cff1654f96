"""Label-free cues of the moving subject: what one frame owes to its stabilized neighbors.

Each cue is weak alone, wrong in other places than the others, and computed without any label. A new cue is a file here,
a line in `CUES`, and its name in `StudentParams.cues`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from backdrop.motion.neighbors import StabilizedSequence
from backdrop.networks.motion_network import MotionNetwork
from backdrop.student.cues.cue import Cue, CueFrame
from backdrop.student.cues.layers import layers_cue
from backdrop.student.cues.median import median_cue
from backdrop.student.cues.mog2 import mog2_cue
from backdrop.student.cues.motion import motion_cue
from backdrop.student.cues.prior import prior_cue
from backdrop.student.cues.regions import fast_motion_cue, nlc_cue
from backdrop.student.parameters import StudentParams

CUES: dict[str, Callable[[CueFrame], Cue | None]] = {
    "motion": motion_cue,
    "layers": layers_cue,
    "median": median_cue,
    "mog2": mog2_cue,
    "fast_motion": fast_motion_cue,
    "nlc": nlc_cue,
    "prior": prior_cue,
}
"""Name of a cue, as `student.cues` has it -> what computes it; None where there is nothing to compare with."""


def frame_cues(
    sequence: StabilizedSequence,
    t: int,
    params: StudentParams,
    network: MotionNetwork | None = None,
    regions: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Cue]:
    """All cues of frame t that `params.cues` names and that its neighbors allow, in the order of `cue_names`.

    Outside of the sequence's region of interest none of them knows anything.

    Args:
        network: of the cue motion, fitted to the sequence; None: as it comes.
        regions: of `cues.regions`, by name, the stored planes of all frames; None: those cues are left out.
    """
    frame = CueFrame(sequence, t, params, network, regions or {})
    found = {name: CUES[name](frame) for name in cue_names(params)}
    return {name: frame.in_region(cue) for name, cue in found.items() if cue is not None}


def cue_names(params: StudentParams) -> list[str]:
    """The cues that `params.cues` names, in the order of `CUES`."""
    return [name for name in CUES if name in params.cues]
