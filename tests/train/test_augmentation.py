"""What the pictures of a frame undergo together."""

from __future__ import annotations

import torch

from backdrop.train.augmentation import ColorChange, mirrored


def test_gray_stays_gray_but_for_brightness_and_tint() -> None:
    change = ColorChange(8, torch.Generator().manual_seed(0))
    gray = torch.full((8, 3, 2, 2), 0.5)
    spread = change(gray).amax(dim=1) - change(gray).amin(dim=1)
    assert spread.max() < 0.11
    assert not torch.equal(change(gray), gray)


def test_equal_colors_stay_equal_and_different_ones_differ() -> None:
    generator = torch.Generator().manual_seed(1)
    change = ColorChange(4, generator)
    image, behind = 0.3 + 0.4 * torch.rand(2, 4, 3, 6, 6, generator=generator)
    behind[:, :, :3] = image[:, :, :3]
    new, old = change(image), change(behind)
    assert torch.equal(new[:, :, :3], old[:, :, :3])
    ratio = (new - old)[:, :, 3:].abs().mean() / (image - behind)[:, :, 3:].abs().mean()
    assert 0.6 < ratio < 1.5
    assert new.min() >= 0
    assert new.max() <= 1


def test_pictures_of_an_image_are_mirrored_together() -> None:
    image = torch.rand(32, 3, 4, 6)
    first, second = mirrored((image, image[:, :1]), torch.Generator().manual_seed(2))
    assert torch.equal(first[:, :1], second)
    flipped = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(first, image, strict=True)])
    same = torch.tensor([torch.equal(a, b) for a, b in zip(first, image, strict=True)])
    assert (flipped ^ same).all()
    assert 4 < flipped.sum() < 28


def test_the_same_seed_gives_the_same_change() -> None:
    image = torch.rand(3, 3, 4, 4)
    once, again, other = (ColorChange(3, torch.Generator().manual_seed(s))(image) for s in (5, 5, 6))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
