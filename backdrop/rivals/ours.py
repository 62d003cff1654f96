"""What this library reaches on the same footage, from the records of its own benchmark, to stand beside the rivals.

These figures are not measured here: another command, other revisions (docs/results.md names them), and by DAVIS's
protocol, in which a sequence's first and last frames do not count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from backdrop.errors import BackdropError
from backdrop.io.files import one_line, show

RECORDS = {"davis": Path("benchmarks/sequences_davis2016_train.json")}
"""Footage -> what `python -m benchmarks.sequences` wrote of it."""


class OwnScores(NamedTuple):
    """Of one sequence. J, F in [0, 1]; CPU minutes of the whole pipeline, training included, None where not noted."""

    J: float
    F: float
    cpu_minutes: float | None


def own_scores(footage: str) -> dict[str, OwnScores]:
    """Sequence -> ours; none where there is no record of the footage.

    Raises:
        BackdropError: the record is damaged.
    """
    path = RECORDS.get(footage)
    if path is None or not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            row["sequence"]: OwnScores(
                row["scores"]["method"]["J_mean"], row["scores"]["method"]["F_mean"], row["cpu_minutes"]
            )
            for row in rows
            if not row["overrides"]
        }
    except (ValueError, TypeError, KeyError) as fault:
        raise BackdropError(
            f"{show(path)} is no record of benchmarks.sequences ({one_line(fault)}): take it from the repository again"
        ) from None
