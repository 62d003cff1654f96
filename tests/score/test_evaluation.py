"""The table of scores: what counts, what is wrong, what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backdrop.errors import BackdropError
from backdrop.io.masks import box_from_mask, write_threshold
from backdrop.report.scores import result_of
from backdrop.score.frame_scores import BOXED, VARIANCES, Chunk, mog2_grid
from backdrop.score.table import RESULTS, SUMMARY, Evaluation, score_all
from tests.handmade_run import make_run, scene, score_folders, write_frames, write_index, write_masks, write_predictions


def evaluate(root: Path, layout: str = "videos", workers: int = 1) -> Evaluation:
    return score_all(score_folders(root), layout, workers)


def find(summary: dict, result: str) -> dict:
    for key in RESULTS[result]:
        summary = summary[key]
    return summary


def test_perfect_predictions_score_one(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "test", "b": "all", "c": "train"}, frames=8)
    evaluation = evaluate(tmp_path)
    summary = evaluation.summary
    assert {key: summary[key] for key in ("protocol", "sequences", "frames_scored", "frames_without_truth")} == {
        "protocol": "all_frames",
        "sequences": 2,
        "frames_scored": 16,
        "frames_without_truth": 0,
    }
    for result in RESULTS:
        assert set(SUMMARY) <= set(find(summary, result)), result
    ours = [f"{result}{kind}" for result in BOXED for kind in ("", "_raw", "_best_threshold")]
    for result in ours:
        values = find(summary, result)
        assert [values[key] for key in ("J_mean", "F_mean", "J_recall", "precision", "recall")] == [1] * 5
        assert values["J_decay"] == 0
    for result in RESULTS:
        assert ("mAP50" in find(summary, result)) == ("centre_hit" in find(summary, result)) == (result in BOXED)
    for result in BOXED:
        assert summary[result]["mAP50"] == pytest.approx(1)
        assert summary[result]["centre_hit"] == 1
    assert summary["baselines"]["flow_threshold"]["J_mean"] > 0.95
    assert summary["baselines"]["flow_threshold"]["threshold_chosen_on"] == "otsu"
    assert 0 < summary["baselines"]["mog2"]["J_mean"] < 1
    assert set(evaluation.per_frame["sequence"]) == {"a", "b"}
    json.dumps(summary, allow_nan=False)


def test_davis_drops_the_first_and_last_frame(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"a": "all"}, frames=6)["a"]
    nothing = np.zeros_like(truth[0])
    write_masks(tmp_path / "masks", "a", {t: nothing if t in (0, 5) else mask for t, mask in enumerate(truth)})
    assert evaluate(tmp_path).summary["method"]["J_mean"] == pytest.approx(4 / 6)
    davis = evaluate(tmp_path, "davis")
    assert davis.summary["method"]["J_mean"] == 1
    assert davis.summary["protocol"] == "drop_first_last"
    assert sorted(set(davis.per_frame["frame"])) == [1, 2, 3, 4]


def test_a_missing_prediction_is_wrong_not_absent(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"a": "all", "b": "all"}, frames=4)
    box = [box_from_mask(mask) for mask in truth["a"]]
    write_masks(tmp_path / "masks", "a", {t: truth["a"][t] for t in (0, 1, 2)})
    write_predictions(tmp_path / "predictions", "a", {t: truth["a"][t] * 1.0 for t in (0, 1)}, box[:2])
    for folder in ("masks", "predictions", "masks_paper", "predictions_paper"):
        (tmp_path / folder / "b.zip").unlink()
    evaluation = evaluate(tmp_path)
    table = evaluation.per_sequence.set_index(["sequence", "result"])
    assert table.loc[("a", "method"), "J_mean"] == 0.75
    assert table.loc[("a", "method_raw"), "J_mean"] == 0.5
    assert table.loc[("a", "method_best_threshold"), "F_mean"] == 0.5
    assert table.loc[("a", "method"), "centre_hit"] == 0.5
    assert table.loc[("b", "method"), "J_mean"] == 0
    assert evaluation.summary["method"]["J_mean"] == 0.375
    assert evaluation.summary["method"]["centre_hit"] == evaluation.summary["method"]["box_hit50"] == 0.25
    assert evaluation.summary["frames_without_prediction"] == 5
    for result in ("d_and_s", "d_and_s_raw"):
        assert evaluation.summary[result]["J_mean"] == evaluation.summary[result]["F_mean"] == 0.5
    assert evaluation.summary["d_and_s"]["centre_hit"] == 0.5


def test_the_papers_method_is_scored_by_its_own_files(tmp_path: Path) -> None:
    """Masks before and after the CRF, boxes and threshold: each from predictions_paper and masks_paper."""
    truth = make_run(tmp_path, {"a": "all"}, frames=4)["a"]
    around = np.array([0.0, 0.0, 2.0, 2.0])  # the whole image: holds the subject's center, overlaps it little
    soft = {t: np.where(mask, 0.4, 0.28) for t, mask in enumerate(truth)}
    write_predictions(tmp_path / "predictions_paper", "a", soft, [around] * 4)
    write_masks(tmp_path / "masks_paper", "a", {t: mask & (t < 3) for t, mask in enumerate(truth)})
    write_threshold(tmp_path / "predictions_paper", 0.3, "validation")
    write_threshold(tmp_path / "masks_paper", 0.2, "validation")
    evaluation = evaluate(tmp_path)
    paper, raw = (evaluation.summary[result] for result in ("d_and_s", "d_and_s_raw"))
    assert (paper["J_mean"], raw["J_mean"]) == (0.75, 1)
    assert (paper["threshold"], raw["threshold"]) == (0.2, 0.3)
    assert paper["threshold_chosen_on"] == raw["threshold_chosen_on"] == "validation"
    assert (paper["mAP50"], paper["box_hit50"], paper["centre_hit"]) == (0, 0, 1)
    for result in ("method", "method_raw"):
        assert evaluation.summary[result]["J_mean"] == 1
        assert evaluation.summary[result]["threshold"] == 0.5
    assert evaluation.summary["method"]["mAP50"] == pytest.approx(1)
    table = evaluation.per_sequence.set_index("result")
    assert (table.loc["d_and_s", "J_mean"], table.loc["d_and_s", "centre_hit"]) == (0.75, 1)
    frames = evaluation.per_frame
    assert frames[frames["result"] == "d_and_s"]["box_iou"].max() < 0.5
    assert frames[frames["result"] == "d_and_s_raw"]["box_iou"].isna().all()


def test_frames_without_truth_are_counted_and_not_scored(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=5)
    images, masks = scene(5)
    write_frames(tmp_path / "frames", "a", images, {2: masks[2].astype(np.uint8) * 255})
    summary = evaluate(tmp_path).summary
    assert (summary["frames_scored"], summary["frames_without_truth"]) == (1, 4)
    assert summary["method"]["J_mean"] == 1


def test_no_truth_at_all_gives_counts_alone(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=3)
    write_frames(tmp_path / "frames", "a", scene(3)[0], {})
    evaluation = evaluate(tmp_path)
    assert evaluation.summary["frames_scored"] == 0
    assert evaluation.summary["frames_without_truth"] == 3
    assert "method" not in evaluation.summary
    assert not len(evaluation.per_frame)
    assert not len(evaluation.per_sequence)


def test_an_empty_truth_is_a_truth(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=3)
    images, masks = scene(3)
    stored = {t: mask.astype(np.uint8) * 255 for t, mask in enumerate(masks)}
    stored[1][:] = 0
    write_frames(tmp_path / "frames", "a", images, stored)
    evaluation = evaluate(tmp_path)
    assert evaluation.summary["method"]["J_mean"] == pytest.approx(2 / 3)
    assert evaluation.summary["method"]["mAP50"] == pytest.approx(1)  # over frames with a subject
    assert evaluation.summary["method"]["centre_hit"] == 1


def test_truth_of_another_size_and_void_pixels(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=3)
    images, masks = scene(3)
    stored = {}
    for t, mask in enumerate(masks):
        large = np.kron(mask, np.ones((3, 3), np.uint8)).astype(np.uint8) * 255
        large[150:] = 128  # void, whatever is predicted there
        stored[t] = large
    write_frames(tmp_path / "frames", "a", images, stored)
    spoiled = {t: mask.copy() for t, mask in enumerate(masks)}
    for mask in spoiled.values():
        mask[52:] = True
    write_masks(tmp_path / "masks", "a", spoiled)
    summary = evaluate(tmp_path).summary
    assert summary["method"]["J_mean"] > 0.98
    assert summary["method"]["F_mean"] == 1
    assert summary["method"]["mAP50"] == pytest.approx(1)


def test_statistics_are_taken_by_sequence_then_averaged(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"long": "all", "short": "all"}, frames=8)
    write_index(
        tmp_path / "frames",
        [{"sequence": "long", "split": "all", "frames": 8}, {"sequence": "short", "split": "all", "frames": 2}],
    )
    images, masks = scene(2, 1)
    write_frames(tmp_path / "frames", "short", images, {t: m.astype(np.uint8) * 255 for t, m in enumerate(masks)})
    write_masks(tmp_path / "masks", "short", {t: np.zeros_like(m) for t, m in enumerate(truth["short"])})
    evaluation = evaluate(tmp_path)
    assert evaluation.summary["method"]["J_mean"] == 0.5  # not 8 frames of 10
    frames = evaluation.per_frame
    assert frames[frames["result"] == "method"]["J"].sum() == 8


def test_validation_truth_sets_the_threshold_of_flow_and_is_not_scored(tmp_path: Path) -> None:
    make_run(tmp_path, {"v": "val", "a": "test"}, frames=4)
    evaluation = evaluate(tmp_path)
    assert evaluation.summary["baselines"]["flow_threshold"]["threshold_chosen_on"] == "validation"
    assert evaluation.summary["baselines"]["flow_threshold"]["threshold"] == 0.5  # all do alike
    assert set(evaluation.per_frame["sequence"]) == {"a"}


def test_the_oracle_threshold_is_the_best_and_is_called_so(tmp_path: Path) -> None:
    truth = make_run(tmp_path, {"a": "all"}, frames=3)["a"]
    soft = {t: np.where(mask, 0.4, 0.28) for t, mask in enumerate(truth)}
    write_predictions(tmp_path / "predictions", "a", soft, [box_from_mask(mask) for mask in truth])
    summary = evaluate(tmp_path).summary
    assert summary["method_raw"]["J_mean"] == 0
    assert summary["method_best_threshold"]["J_mean"] == 1
    assert 0.28 < summary["method_best_threshold"]["threshold"] < 0.4
    assert summary["method_best_threshold"]["threshold_chosen_on"].startswith("oracle")


def test_every_method_has_a_row_at_its_own_best_threshold(tmp_path: Path) -> None:
    """The papers' protocol holds for all methods of their tables."""
    truth = make_run(tmp_path, {"a": "all"}, frames=6)["a"]
    soft = {t: np.where(mask, 0.3, 0.12) for t, mask in enumerate(truth)}
    write_predictions(tmp_path / "predictions_paper", "a", soft, [box_from_mask(mask) for mask in truth])
    summary = evaluate(tmp_path).summary
    assert (summary["d_and_s_raw"]["J_mean"], summary["d_and_s_best_threshold"]["J_mean"]) == (0, 1)
    assert 0.12 < summary["d_and_s_best_threshold"]["threshold"] < 0.3
    assert summary["method_best_threshold"]["threshold"] == 0.5
    baselines = summary["baselines"]
    for plain, best in (("flow_threshold", "flow_best_threshold"), ("mog2", "mog2_best_threshold")):
        assert baselines[best]["J_mean"] >= baselines[plain]["J_mean"], best
        assert baselines[best]["threshold_chosen_on"].startswith("oracle")
    assert baselines["mog2_best_threshold"]["threshold"] in VARIANCES
    found = [float(np.mean(mog2_grid(Chunk("a", tuple(range(6))), score_folders(tmp_path))[:, k])) for k in range(7)]
    assert baselines["mog2_best_threshold"]["J_mean"] == pytest.approx(max(found))
    assert baselines["mog2"]["J_mean"] == pytest.approx(found[list(VARIANCES).index(16)]), "what is learned is the same"
    assert len(set(found)) > 1


def test_a_run_of_a_preset_names_its_rows_by_it(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=3)
    plain, named = evaluate(tmp_path), score_all(score_folders(tmp_path), "videos", 1, "p2022")
    rows = {"p2022", "p2022_raw", "p2022_best_threshold"}
    assert rows == set(named.summary) - set(plain.summary)
    assert named.summary["p2022"] == plain.summary["d_and_s"]
    for table in (named.per_frame, named.per_sequence):
        assert rows == {name for name in table["result"] if name[0] in "dp"}
        assert "method" in set(table["result"])
    assert result_of(named.summary, "d_and_s_raw") == named.summary["p2022_raw"]


def test_outlines_have_precision_and_recall(tmp_path: Path) -> None:
    """A mask that is right and a blob elsewhere: the outline of the truth is found, half of what is drawn is none."""
    truth = make_run(tmp_path, {"a": "all"}, frames=2)["a"]
    twice = {}
    for t, mask in enumerate(truth):
        twice[t] = mask | np.roll(mask, 50, axis=1)
    write_masks(tmp_path / "masks", "a", twice)
    values = evaluate(tmp_path).summary["method"]
    assert values["boundary_recall"] == 1
    assert values["boundary_precision"] == pytest.approx(0.5, abs=0.02)
    assert values["F_mean"] == pytest.approx(2 / 3, abs=0.02)


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all", "b": "all"}, frames=5)
    one, two = evaluate(tmp_path, workers=1), evaluate(tmp_path, workers=2)
    assert one.summary == two.summary
    pd.testing.assert_frame_equal(one.per_frame, two.per_frame)
    pd.testing.assert_frame_equal(one.per_sequence, two.per_sequence)


@pytest.mark.parametrize("folder", ["predictions", "predictions_paper", "masks", "masks_paper"])
def test_a_missing_threshold_is_named(folder: str, tmp_path: Path) -> None:
    make_run(tmp_path, {"a": "all"}, frames=2)
    (tmp_path / folder / "threshold.json").unlink()
    with pytest.raises(BackdropError, match=f"{folder}/threshold.json"):
        evaluate(tmp_path)
