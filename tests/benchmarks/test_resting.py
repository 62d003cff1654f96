"""The benchmark of a subject that rests: its phases and its table (the stages themselves: test_pipeline)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from backdrop.render.clip import Clip
from benchmarks.resting import FRAMES, STANDS_FROM, phases, table
from benchmarks.sequences import RESULTS


def test_each_phase_counts_its_own_frames() -> None:
    shown = np.array([False] * 10 + [True] * 90)
    rows = [
        {"result": result, "frame": t, "J": {True: 0.8, False: 0.4}[t >= 27] if t >= 10 else 1.0}
        for result in RESULTS
        for t in range(1, 99)  # the first and the last frame are not scored
    ]
    found = phases(pd.DataFrame(rows), shown)
    assert set(found) == set(RESULTS)
    assert found["mog2"]["walks"] == pytest.approx(0.4)
    assert found["mog2"]["stands"] == pytest.approx(0.8)
    assert found["mog2"]["not there"] == pytest.approx(1)
    assert found["mog2"]["subject shows"] == pytest.approx((17 * 0.4 + 72 * 0.8) / 89)
    lines = table([{"seed": 0, "cpu_minutes": 20.0, "J": found}] * 2).splitlines()
    assert lines[0] == "| J | subject shows | walks | stands | not there |"
    assert "| mog2 | 0.72 | 0.40 | 0.80 | 1.00 |" in lines
    assert lines[-1] == "2 clips, 20 CPU minutes each."


def test_the_subject_walks_in_and_stands_for_three_quarters() -> None:
    clip = Clip(0, "static", (160, 96), FRAMES, subject=0, rests=True)
    assert not clip.mask(0).any()
    stands = [clip.box(t)[0] for t in range(int(FRAMES * STANDS_FROM), FRAMES, 40)]
    assert np.ptp(stands) < 0.03, "limbs stir, the body stays"
    walks = [clip.box(t)[0] for t in range(80, 100, 5)]
    assert np.abs(np.diff(walks)).min() > 0.05
