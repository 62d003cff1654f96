from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.networks.spatial import crop, expand, focal_window, hole, paste

H, W, K = 60, 96, 32


def smooth_image(seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).random((H, W, 3)).astype(np.float32)
    return torch.from_numpy(cv2.GaussianBlur(noise, (0, 0), 4)).permute(2, 0, 1)[None].double()


boxes = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.4, 1.0), st.floats(0.4, 1.0))


@settings(max_examples=30, deadline=None)
@given(boxes)
def test_paste_of_crop_is_the_identity_inside_the_box(values: tuple[float, ...]) -> None:
    image, box = smooth_image(), torch.tensor([values], dtype=torch.float64)
    side = 128  # finer than the image, so that only interpolation is lost
    back = paste(crop(image, box, side), box, (H, W))
    seen = hole(torch.tensor([[0.0, 0, 1.9, 1.9]]).double(), (H, W))
    inner = ((hole(expand(box, -0.15), (H, W)) * seen) > 0).expand_as(image)
    assert (back - image)[inner].abs().max() < 5e-3
    assert (back[~(hole(expand(box, 0.1), (H, W)) > 0).expand_as(image)] == 0).all()


def affine(box: tuple[float, ...]) -> np.ndarray:
    """2 x 3 matrix in OpenCV pixel coordinates (centers at integers) from a crop's pixels to the image's."""
    cx, cy, w, h = box
    sx, sy = w / 2 * W / K, h / 2 * H / K
    left, top = (cx - w / 2 + 1) / 2 * W, (cy - h / 2 + 1) / 2 * H
    return np.array([[sx, 0, left + sx / 2 - 0.5], [0, sy, top + sy / 2 - 0.5]])


@pytest.mark.parametrize("box", [(0.1, -0.2, 0.8, 0.6), (-0.3, 0.25, 0.5, 0.9)])
def test_crop_and_paste_agree_with_opencv(box: tuple[float, ...]) -> None:
    image, theta = smooth_image(1), torch.tensor([box], dtype=torch.float64)
    array = image[0].permute(1, 2, 0).numpy()
    expected = cv2.warpAffine(array, affine(box), (K, K), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    ours = crop(image, theta, K)
    # OpenCV rounds coordinates to 1/32 pixel
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - expected).max() < 4e-3
    laid = paste(ours, theta, (H, W))[0].permute(1, 2, 0).numpy()
    patch = ours[0].permute(1, 2, 0).numpy().copy()
    expected = cv2.warpAffine(patch, affine(box), (W, H), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    assert np.abs(laid - expected).max() < 0.02
    assert np.abs(laid - expected).mean() < 1e-3


def test_boxes_receive_gradients_and_the_hole_gives_none() -> None:
    box = torch.tensor([[0.1, 0.0, 0.7, 0.7]], dtype=torch.float64, requires_grad=True)
    paste(crop(smooth_image(), box, K), box, (H, W)).square().sum().backward()
    assert (box.grad.abs() > 0).all()
    assert not hole(box, (H, W)).requires_grad


def test_a_hole_that_learns_has_the_same_values_and_pulls_at_its_edges() -> None:
    box = torch.tensor([[0.1, 0.0, 0.7, 0.7]], dtype=torch.float64, requires_grad=True)
    learns = hole(box, (H, W), learn=True)
    assert torch.equal(learns.detach(), hole(box, (H, W)))
    learns.mean().backward()
    share = box.detach()[0, 2:].prod() / 4
    # the mean is w h / 4: its derivative by w is h / 4, by the center 0
    assert torch.allclose(box.grad[0, 2:], share / box.detach()[0, 2:], rtol=0.1)
    assert box.grad[0, :2].abs().max() < 0.02


@settings(max_examples=30, deadline=None)
@given(boxes, st.floats(0.0, 0.3))
def test_hole_area_grows_with_the_margin(values: tuple[float, ...], margin: float) -> None:
    box = torch.tensor([values])
    wide = hole(expand(box, margin), (H, W))
    assert (wide >= hole(box, (H, W))).all()
    if all(abs(c) + (1 + margin) * s / 2 < 1 for c, s in zip(values[:2], values[2:], strict=True)):
        expected = values[2] * values[3] / 4 * (1 + margin) ** 2
        assert abs(wide.mean().item() - expected) < 0.06


@pytest.mark.parametrize("exponent", [4, 12])
def test_focal_window_is_one_at_the_center_and_zero_at_the_border(exponent: float) -> None:
    window = focal_window(65, exponent)[0, 0]
    assert window[32, 32] == 1
    assert window.max() <= 1
    assert window.min() >= 0
    assert window[0, 0] == 0
    assert torch.allclose(window, window.flip(0), atol=1e-6)
    assert torch.allclose(window, window.T, atol=1e-6)
