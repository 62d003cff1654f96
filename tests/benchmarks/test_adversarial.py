"""Attacks on a student: they stay within epsilon, hurt more than chance does, and each says what it aims at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backdrop.crf.parameters import CRFParams
from backdrop.networks.student import Student, StudentNetwork
from backdrop.params import read
from benchmarks.adversarial import ROOT, Case, attacks, gradient_of, measure, steps, table, wide

SIZE = (64, 48)


class Brightness(StudentNetwork):
    """Foreground is what is bright: a student whose answer is known."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 4 * image.mean(dim=1, keepdim=True)


@pytest.fixture
def student() -> Student:
    return Student(Brightness([4, 8]), SIZE, 0, torch.device("cpu"), threshold=0.5)


@pytest.fixture
def case() -> Case:
    truth = np.zeros((SIZE[1], SIZE[0]), bool)
    truth[12:36, 16:48] = True
    image = np.where(truth, 128, 104).astype(np.uint8)
    return Case(np.repeat(image[:, :, None], 3, axis=2), truth)


@pytest.fixture
def crf() -> CRFParams:
    return read(ROOT / "params.yaml").crf


def test_no_attack_goes_farther_than_epsilon(student: Student, case: Case) -> None:
    for epsilon in (1.0, 4.0, 16.0):
        for name, image in attacks(student, case, epsilon, np.random.default_rng(0)):
            apart = np.abs(image.astype(int) - case.image).max()
            assert apart == epsilon, name


def test_an_attack_of_epsilon_0_changes_nothing(student: Student, case: Case) -> None:
    for _, image in attacks(student, case, 0.0, np.random.default_rng(0)):
        np.testing.assert_array_equal(image, case.image)


def test_the_loss_rises_along_the_gradient(student: Student, case: Case) -> None:
    """The subject must become darker and the rest brighter."""
    colors = torch.from_numpy(case.image).permute(2, 0, 1)[None].float()
    sign = gradient_of(student, case.truth)(colors)[0].sign().permute(1, 2, 0).numpy()
    assert (sign[case.truth] == -1).all()
    assert (sign[~case.truth] == 1).all()


def test_a_targeted_attack_empties_the_mask_and_no_more(student: Student, case: Case) -> None:
    images = dict(attacks(student, case, 16.0, np.random.default_rng(0)))
    assert images["targeted"].max() < case.image.max()
    assert (images["targeted"][~case.truth] <= case.image[~case.truth]).all()


def test_attacks_hurt_and_noise_hurts_less(student: Student, case: Case, crf: CRFParams) -> None:
    rows = measure({"itself": student}, [case], crf, (0.0, 16.0))
    found = {(row["attack"], row["epsilon"]): row["J"] for row in rows}
    assert {found[attack, 0.0] for attack in ("fgsm", "iterated", "targeted", "noise")} == {found["fgsm", 0.0]}
    assert found["fgsm", 0.0] > 0.9
    assert found["fgsm", 16.0] < 0.2
    assert found["noise", 16.0] > found["fgsm", 16.0] + 0.2


def test_each_student_has_its_rows(student: Student, case: Case, crf: CRFParams) -> None:
    rows = measure({"itself": student, "another": student}, [case], crf, (0.0, 2.0))
    lines = table(rows).splitlines()
    assert len(lines) == 2 + 2 * 4
    assert [line.count("|") for line in lines[2:]] == [5] * 8
    assert [len(row) for row in wide(rows)] == [1 + 2 * 2 * 4] * 2
    assert {"fgsm", "fgsm, CRF", "fgsm, on another"} < set(wide(rows)[0])


def test_iterated_attacks_take_the_published_number_of_steps() -> None:
    assert [steps(e) for e in (0, 1, 2, 4, 8, 16)] == [0, 2, 3, 5, 10, 20]
