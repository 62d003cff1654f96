"""Each preset of conf/paper/, key by key, against the numbers of its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from backdrop.params import compose_params
from backdrop.report.scores import ALSO_CALLED
from backdrop.score.parameters import Preset

PAPER = Path(__file__).parent.parent / "conf" / "paper"
YEARS = ("2020", "2021", "2022")
NOBODY, ALL = "", "2020 2021 2022"

# key: (its value in 2020, 2021 and 2022), the papers that are silent about it: there the value is our reading
SPLIT: dict[str, tuple[tuple[Any, Any, Any], str]] = {
    "lambda": ((0.001, 0.005, 0.005), "2020"),  # 2020: best row of its table, no number of its own
    "detector.offset_unit": (("cell", "box", "box"), NOBODY),
    "synthesis.hidden": (([600, 128], [600, 256], [600, 256]), "2021"),
    "synthesis.linears": ((2, 1, 1), "2021"),
    "synthesis.decoder": (([32, 64, 128, 256], [64, 128, 256, 512], [64, 128, 256, 512]), "2021"),
    "loss.alpha_flow": ((0.0, 0.1, 0.1), "2021"),
    "loss.p_prior": (("margin", "margin", "l1"), "2020 2021"),  # both say L2, of which margin is our reading
    "loss.bg_perceptual": ((True, True, False), NOBODY),
    "loss.hole_margin": ((0.2, 0.1, 0.15), NOBODY),
    "crf.enabled": ((False, True, True), NOBODY),
}
ALIKE: dict[str, tuple[Any, str]] = {
    "detector.scale": ([0.2, 0.8], NOBODY),
    "detector.offset": (1.5, NOBODY),
    "detector.zero_start": (False, ALL),
    "synthesis.window": (4, ALL),
    "synthesis.skip": (False, NOBODY),
    "synthesis.divide_mask": (False, ALL),
    "synthesis.mask_start": (0.01, ALL),  # 2022, Fig. 10: below lambda
    "loss.alpha": (0.1, "2020 2021"),
    "loss.beta": (1.0, NOBODY),
    "loss.beta_flow": (0.0, NOBODY),
    "loss.gamma": (2.0, NOBODY),
    "loss.eta": (0.25, "2020"),
    "loss.zeta": (0.1, "2020"),
    "loss.mask_prior": ("v", NOBODY),
    "loss.disentangled": (True, NOBODY),
    "loss.area": ("box", NOBODY),
    "loss.area_outside": (False, "2020 2021"),  # 2022: the largest number of pixels that may differ
    "loss.p_learns": ("background", NOBODY),
    "loss.whole_background": (True, NOBODY),
    "loss.autoencoder": (0.0, NOBODY),
    "loss.scale_prior": (0.0, NOBODY),
    "loss.offset_prior": (0.0, NOBODY),
    "inpainter.rate": (0.001, NOBODY),
    "inpainter.decay": (False, ALL),
    "inpainter.start_color": (False, ALL),
    "inpainter.perceptual": (2.0, NOBODY),
    "sampling.kind": ("importance", NOBODY),
    "sampling.epsilon": (0.001, NOBODY),
    "sampling.cells": (1, NOBODY),
    "sampling.baseline": ("none", NOBODY),
    "background.kind": ("inpaint", NOBODY),
    "background.hole_only": (False, "2020 2021"),  # 2022, Algorithm 1: the whole output
    "background.tolerance": (0, NOBODY),
    "student.rounds": (0, NOBODY),
    "train.batch": (16, NOBODY),
    "train.rate": (0.001, NOBODY),
    "train.decoder_rate": (0.0001, NOBODY),
    "train.box_rate": (0.001, NOBODY),
    "train.decay": (False, ALL),
    "train.augment": (False, ALL),
    "train.detector_iterations": (0, NOBODY),
    "train.synthesis_iterations": (0, NOBODY),
    "train.box_start": (0.0, NOBODY),
    "train.offset_fixed": (0, NOBODY),
    "train.box_fixed": (0, NOBODY),
    "train.window_mask": (0, NOBODY),
    "crf.unary": ("thresholded", NOBODY),
    "crf.iterations": (5, ALL),  # these and the pairwise terms: pydensecrf2's own example
    "crf.reference_diagonal": (None, ALL),
    "crf.gaussian_sxy": (3, ALL),
    "crf.gaussian_compat": (3, ALL),
    "crf.bilateral_sxy": (80, ALL),
    "crf.bilateral_srgb": (13, ALL),
    "crf.bilateral_compat": (10, ALL),
}


def flat(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, keys in values.items():
        found |= {f"{section}.{key}": one for key, one in keys.items()} if isinstance(keys, dict) else {section: keys}
    return found


@pytest.mark.parametrize("year", YEARS)
def test_a_preset_holds_its_papers_numbers_key_by_key(year: str) -> None:
    expected = {key: three[YEARS.index(year)] for key, (three, _) in SPLIT.items()}
    expected |= {key: value for key, (value, _) in ALIKE.items()}
    held = flat(yaml.safe_load((PAPER / f"p{year}.yaml").read_text(encoding="utf-8")))
    assert held.pop("preset") == f"p{year}"
    assert held == expected


def test_what_the_presets_switch_off_is_on_by_default() -> None:
    held = flat(yaml.safe_load((PAPER.parent / "config.yaml").read_text(encoding="utf-8")))
    on = {
        "preset": "none",
        "detector.zero_start": True,
        "synthesis.mask_start": 0.05,
        "inpainter.start_color": True,
        "background.hole_only": True,
        "loss.area_outside": True,
        "loss.p_learns": "background",
        "encoder.perceptual": "none",
    }
    assert {key: held[key] for key in on} == on


def test_no_key_is_called_silent_in_a_paper_that_is_none() -> None:
    for _, silent in [*SPLIT.values(), *ALIKE.values()]:
        assert set(silent.split()) <= set(YEARS)


def test_presets_are_named_alike_everywhere() -> None:
    names = {path.stem for path in PAPER.glob("*.yaml")}
    assert set(get_args(Preset)) == names
    assert set(ALSO_CALLED) == names - {"none"} | {"method_paper"}


@pytest.mark.parametrize("year", YEARS)
def test_the_aids_of_a_start_change_their_own_keys_alone(year: str, tmp_path: Path) -> None:
    conf = PAPER.parent
    found = []
    for start in ("none", "aided"):
        compose_params([f"paper=p{year}", "scale=reduced", f"start={start}"], tmp_path / f"{start}.yaml", conf)
        found.append(flat(yaml.safe_load((tmp_path / f"{start}.yaml").read_text(encoding="utf-8"))))
    plain, aided = found
    own = flat(yaml.safe_load((conf / "start" / "aided.yaml").read_text(encoding="utf-8")))
    assert {key: value for key, value in aided.items() if value != plain[key]} == own
