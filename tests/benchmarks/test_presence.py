"""The benchmark of presence: frames with and without the subject, and how they rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backdrop.render.parameters import FootageParams
from benchmarks.presence import average_precision, clips, measure

FOOTAGE = FootageParams(
    size=(128, 80), fps=24, frames=24, train=1, val=1, test=2, modes=["static", "ptz"], places=None, seed=3
)


class Oracle:
    """Knows which frames of which clip it is asked for, by their order."""

    def __init__(self, shares: list[float]) -> None:
        self.shares = iter(shares)

    def predict(self, image: np.ndarray) -> Any:
        assert image.shape == (80, 128, 3)
        share = next(self.shares)
        return SimpleNamespace(presence=0.5 + share, p=np.full((8, 8), 1 / 64))


def test_each_clip_has_frames_with_and_without_its_subject() -> None:
    found = clips(FOOTAGE, "test")
    assert len(found) == 2
    for _, clip in found:
        shares = [clip.mask(t).mean() for t in range(len(clip))]
        assert min(shares) == 0
        assert max(shares) > 0.01


def test_presence_that_knows_ranks_perfectly_and_one_that_does_not_by_chance() -> None:
    shares = [float(clip.mask(t).mean()) for _, clip in clips(FOOTAGE, "test") for t in range(0, len(clip), 2)]
    counted = [share for share in shares if not 0 < share < 0.002]
    rows = measure(Oracle(counted), FOOTAGE, "test", 2)  # type: ignore[arg-type]
    assert [row["share"] for row in rows] == counted
    assert average_precision(rows, "presence") == 1
    chance = sum(share > 0 for share in counted) / len(counted)
    assert average_precision(rows, "p") == pytest.approx(chance)
