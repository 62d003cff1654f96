"""`crf.enabled: auto`: whether the CRF stays is told by the pseudo-masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from backdrop.app.project.models import crf_of, needed_crf
from backdrop.crf.dense import refine
from backdrop.errors import BackdropError
from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.images import encode_png
from backdrop.io.masks import VOID, MaskArchive, box_from_mask, entry, read_crf, write_threshold
from backdrop.refine.stage import RefineFolders
from backdrop.refine.worth import COMPARED, CRFWorth, crf_worth
from tests.handmade_run import make_run, write_masks, write_predictions
from tests.small_pipeline import run_stage, small_params, small_values, write_model

AUTO = {"crf.enabled": "auto", "crf.iterations": 3}


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """A run whose soft masks reach two pixels too far to the right; what the threshold makes of them, and the CRF."""
    truth = make_run(tmp_path / "data", {"a": "all"}, frames=4)["a"]
    soft = {t: np.where(mask, 0.9, np.roll(mask, 2, axis=1) * 0.6) for t, mask in enumerate(truth)}
    boxes = [box_from_mask(mask) for mask in truth]
    for kind in ("", "_paper"):
        write_predictions(tmp_path / "data" / f"predictions{kind}", "a", soft, boxes)
    images, crf = FrameArchive(tmp_path / "data" / "frames" / "a.zip"), small_params(AUTO).crf
    plain = [soft[t] > 0.5 for t in range(4)]
    refined = [refine(images.image(t), soft[t].astype(np.float32), 0.5, crf) for t in range(4)]
    assert any((one != other).any() for one, other in zip(plain, refined, strict=True))
    return tmp_path, plain, refined


def worth_of(folder: Path, workers: int = 1) -> CRFWorth | None:
    folders = RefineFolders(folder / "data" / "frames", folder / "data" / "predictions", folder / "data" / "masks")
    return crf_worth(folders, folder / "data" / "pseudo_masks", small_params(AUTO).crf, workers)


def learned(folder: Path, masks: list[np.ndarray]) -> None:
    write_masks(folder / "data" / "pseudo_masks", "a", dict(enumerate(masks)))


def test_the_crf_stays_where_it_comes_nearer_to_what_was_learned(run: tuple) -> None:
    folder, plain, refined = run
    learned(folder, refined)
    kept = worth_of(folder)
    assert kept is not None
    assert kept.pays
    assert kept.frames == 4
    assert kept.refined > 0.99
    again = worth_of(folder, 2)
    assert again is not None
    assert again[:3] == kept[:3]
    learned(folder, plain)
    left_out = worth_of(folder)
    assert left_out is not None
    assert not left_out.pays
    assert left_out.without == 1
    assert "left out" in left_out.words()
    assert "4 frames" in left_out.words()


def test_hours_of_the_crf_are_announced(run: tuple) -> None:
    folder, _, refined = run
    learned(folder, refined)
    found = worth_of(folder)
    assert found is not None
    assert 0 < found.seconds < 60
    slow = found._replace(seconds=0.25)
    assert slow.price(108_000) == (
        "it will take about 8 core hours for 108,000 frames; crf.enabled=false goes without it"
    )
    assert "40 core minutes" in str(slow.price(9_600))
    assert slow.price(1_000) is None
    assert slow._replace(refined=0.0).price(108_000) is None, "it is left out"


def test_what_nobody_knows_is_not_compared(run: tuple) -> None:
    folder, plain, refined = run
    with ArchiveWriter(folder / "data" / "pseudo_masks" / "a.zip") as archive:
        for t, (one, other) in enumerate(zip(plain, refined, strict=True)):
            archive.add(entry(t), encode_png(np.where(one != other, VOID, one * 255).astype(np.uint8)))
    alike = worth_of(folder)
    assert alike is not None
    assert alike.without == alike.refined == 1, "they differ only where nothing is known"
    assert not alike.pays
    write_masks(folder / "data" / "pseudo_masks", "a", {0: plain[0]})
    alone = worth_of(folder)
    assert alone is not None
    assert alone.frames == 1, "the other frames have no pseudo-mask"


def test_without_pseudo_masks_there_is_no_telling(run: tuple) -> None:
    folder, *_ = run
    assert worth_of(folder) is None
    learned(folder, [])
    assert worth_of(folder) is None
    (folder / "data" / "predictions" / "threshold.json").unlink()
    with pytest.raises(BackdropError, match="run the stage segment"):
        worth_of(folder)


@pytest.mark.parametrize("count", [40, 70])
def test_a_long_run_is_told_by_some_of_its_frames(count: int, tmp_path: Path) -> None:
    data = tmp_path / "data"
    truth = make_run(data, {f"s{number}": "all" for number in range(count)}, frames=3)
    for name, masks in truth.items():
        write_masks(data / "pseudo_masks", name, dict(enumerate(masks)))
    found = worth_of(tmp_path)
    assert found is not None
    assert found.frames == min(count, COMPARED)
    assert not found.pays, "perfect before it"


def test_the_stage_decides_and_the_model_says_so(run: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plain, refined = run
    (folder / "params.yaml").write_text(yaml.safe_dump(small_values(AUTO)))
    model = folder / "models" / "segmenter"
    write_model(model)
    undecided = crf_of(model, None)
    assert undecided is not None
    assert undecided.enabled == "auto", "the stage has not run"
    for masks, enabled in ((refined, True), (plain, False)):
        learned(folder, masks)
        shutil.rmtree(folder / "data" / "masks")
        run_stage("refine", folder, monkeypatch)
        assert read_crf(folder / "data" / "masks") is enabled
        found = MaskArchive(folder / "data" / "masks" / "a.zip")
        for t in range(4):
            np.testing.assert_array_equal(found.gray(t) > 0, masks[t])
        decided = crf_of(model, None)
        assert decided is not None
        assert decided.enabled is enabled
        assert (needed_crf(model, None) is not None) is enabled
        asked = needed_crf(model, None, asked=True)
        assert asked is not None
        assert asked.enabled is True


def test_masks_of_older_versions_say_nothing(tmp_path: Path) -> None:
    write_threshold(tmp_path, 0.5, "default")
    assert read_crf(tmp_path) is None
    write_threshold(tmp_path, 0.5, "default", crf=False)
    assert read_crf(tmp_path) is False


def test_only_the_final_crf_can_be_told_by_pseudo_masks() -> None:
    with pytest.raises(BackdropError, match=r"student\.crf\.enabled"):
        small_params({"student.crf.enabled": "auto"})
