"""The benchmark of the CRF's terms: its rows, what it learns from, its table, and its distance from the dense CRF."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, rmtree

import cv2
import numpy as np
import pytest

from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from benchmarks import structured
from benchmarks.structured import GIVEN, PAIRWISE, ROWS, ablate, cases, choices, disturbed, lines, nearness, with_terms
from tests.handmade_run import make_run, scene
from tests.small_pipeline import small_params


@pytest.fixture
def crf() -> CRFParams:
    return small_params({"crf.enabled": True, "crf.iterations": 2}).crf


@pytest.fixture
def runs(tmp_path: Path) -> dict[Path, list[structured.Case]]:
    found = {}
    for name in ("a", "b"):
        data = tmp_path / name / "data"
        make_run(data, {name: "all"}, frames=3)
        copytree(data / "masks", data / "pseudo_masks")
        found[tmp_path / name] = list(cases(tmp_path / name, 2))
    return found


def test_a_row_has_its_terms_and_no_other(crf: CRFParams) -> None:
    for row, terms in ROWS.items():
        values = with_terms(crf, terms)
        on = {key for key in (*PAIRWISE, *GIVEN) if getattr(values, key)}
        assert on == set(terms), row
        assert values.kind == "higher_order"
    kinds = {row: values.kind for row, (values, _) in choices(crf).items()}
    assert [row for row, kind in kinds.items() if kind == "dense"] == ["pydensecrf2 (ships)"]


def test_rows_are_scored_and_learned(runs: dict[Path, list[structured.Case]], crf: CRFParams) -> None:
    assert [len(found) for found in runs.values()] == [2, 2]
    result = ablate(runs, crf, steps=2, taught=2)
    assert result["rows"]["unary"]["a"]["J"] == 1  # the masks of the run are perfect
    rows = {f"{row}, learned from {teacher}" for row in structured.LEARNED for teacher in structured.TEACHERS}
    assert set(result["weights"]) == rows
    table = lines(result)
    assert table[0] == "| terms | J | F | ms | a | b |"
    assert len(table) == 2 + len(choices(crf)) + len(rows)


def test_truth_teaches_the_other_runs_alone(
    runs: dict[Path, list[structured.Case]], crf: CRFParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[structured.Case] = []
    monkeypatch.setattr(structured, "as_example", lambda case, *_: seen.append(case))
    for run, own in runs.items():
        seen.clear()
        structured.by_truth(run, crf, runs, 2)
        assert len(seen) == 2
        assert not any(other is case for other in seen for case in own)


def test_no_row_is_learned_from_pseudo_masks_that_a_run_did_not_keep(
    runs: dict[Path, list[structured.Case]], crf: CRFParams
) -> None:
    rmtree(next(iter(runs)) / structured.PSEUDO)
    result = ablate(runs, crf, steps=1, taught=1)
    assert set(result["weights"]) == {f"{row}, learned from the others' truth" for row in structured.LEARNED}


def test_a_soft_mask_made_from_truth_is_disturbed_and_still_one() -> None:
    truth = np.zeros((90, 160), bool)
    truth[30:70, 40:100] = True
    soft = disturbed(truth, np.random.default_rng(0))
    assert soft.min() >= 0
    assert soft.max() <= 1
    wrong = ((soft > 0.5) != truth).mean()
    assert 0.01 < wrong < 0.15


def test_distance_and_times_stand_side_by_side(tmp_path: Path, crf: CRFParams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "NEAR_SIZE", (128, 80))
    monkeypatch.setattr(structured, "NEAR_TIMES", 1)
    images, masks = scene(1)
    for kind, content in (("JPEGImages", images[0]), ("Annotations", masks[0].astype(np.uint8) * 255)):
        folder = tmp_path / kind / "480p" / "square"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / ("00000.jpg" if kind == "JPEGImages" else "00000.png")), content)
    mean = nearness(tmp_path, crf)["mean"]
    assert mean["iou"] > 0.9
    assert 0 < mean["q_difference"] < mean["q_difference_unsure"] < 0.1
    assert min(mean[key] for key in ("ms_dense", "ms_pairwise", "ms_all")) > 0
    (tmp_path / "Annotations" / "480p" / "square" / "00000.png").unlink()
    with pytest.raises(BackdropError, match="cannot be read"):
        nearness(tmp_path, crf)


def test_unfinished_runs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["structured", str(tmp_path), "--out", str(tmp_path / "out.json")])
    with pytest.raises(BackdropError, match="result.json"):
        structured.main()
    assert not (tmp_path / "out.json").exists()
