"""Laws of flow: known motion is found, files keep it, pictures show it, FlowNet2 is ptlflow's own."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.errors import BackdropError
from backdrop.flow import correlation
from backdrop.flow import ptlflow as flow_ptlflow
from backdrop.flow import stage as flow_stage
from backdrop.flow.correlation import row_correlation, use_row_correlation
from backdrop.flow.models import load_flow_model
from backdrop.flow.parameters import FlowParams
from backdrop.flow.ptlflow import PtlflowModel
from backdrop.flow.stage import FlowFolders, flow_all, flow_sequence, pair_flow
from backdrop.io.frame_archive import FrameArchive
from backdrop.io.index import STREAMED
from backdrop.motion.flow_field import (
    FlowArchive,
    decode_flow,
    dense_inverse_search,
    encode_flow,
    flow_image,
    halve_flow,
    magnitude,
)
from backdrop.motion.homography import load_homographies, save_homographies
from tests.frame_archives import ImageList, damage_frame, write_sequences

HEIGHT, WIDTH = 180, 320

DIS = FlowParams(model="dis", checkpoint=None)


def texture(seed: int = 0) -> np.ndarray:
    """Polygons in random colors with grain, larger than the view by 60 pixels on each side."""
    rng = np.random.default_rng(seed)
    image = np.full((HEIGHT + 120, WIDTH + 120, 3), 128, np.uint8)
    for _ in range(500):
        corners = rng.uniform(0, WIDTH + 120, 2) + rng.uniform(-25, 25, (rng.integers(3, 6), 2))
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.uniform(0, 255, 3).tolist(), cv2.LINE_AA)
    return np.clip(image + cv2.GaussianBlur(rng.normal(0, 20, image.shape), (0, 0), 1), 0, 255).astype(np.uint8)


def view(dx: float = 0, dy: float = 0, seed: int = 0) -> np.ndarray:
    """A view whose content has moved by (dx, dy) pixels."""
    shift = np.array([[1, 0, dx - 60], [0, 1, dy - 60]], np.float64)
    return cv2.warpAffine(texture(seed), shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)


def translation(dx: float, dy: float) -> np.ndarray:
    return np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1]], np.float64)


def homographies(H: list[np.ndarray], neighbor: list[int], valid: list[bool]) -> dict[str, np.ndarray]:
    count = len(H)
    return {
        "H": np.array(H, np.float64),
        "neighbor": np.array(neighbor),
        "valid": np.array(valid),
        "matches": np.full(count, 90),
        "inliers": np.full(count, 80),
        "reason": np.array(["" if ok else "flat" for ok in valid]),
    }


@pytest.mark.parametrize("motion", [(4, 0), (0, -3), (-6.5, 2.5), (12, 7)])
def test_dis_finds_a_translation(motion: tuple[float, float]) -> None:
    found = dense_inverse_search(view(), view(*motion))
    assert found.shape == (HEIGHT, WIDTH, 2)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - motion, axis=2)[20:-20, 20:-20]
    assert np.median(error) < 0.2
    assert error.mean() < 0.5


def test_a_point_is_found_where_the_flow_leads() -> None:
    target, source = view(), view(5, -4)
    u, v = np.median(dense_inverse_search(target, source)[60:120, 100:200], axis=(0, 1))
    back = translation(-u, -v)  # takes p + flow in the source to p in the target
    laid = cv2.warpPerspective(source, back, (WIDTH, HEIGHT))
    assert np.abs(laid.astype(float) - target)[20:-20, 20:-20].mean() < 6


def test_a_panning_camera_leaves_the_background_at_rest_and_the_subject_in_motion() -> None:
    target, source = view(), view(8, 0)
    subject = texture(5)[:70, :60]
    target[50:120, 100:160] = subject
    source[50:120, 112:172] = subject  # 12 pixels in the view, of which the camera's pan is 8
    flow, valid = pair_flow(target, source, translation(-8, 0), dense_inverse_search)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[60:110, 110:150] = True
    outside = ~cv2.dilate(inside.astype(np.uint8), np.ones((45, 45))).astype(bool)
    np.testing.assert_allclose(np.median(flow[inside], axis=0), (4, 0), atol=0.2)
    assert np.linalg.norm(flow[outside & valid], axis=1).mean() < 0.2
    assert (valid == (np.arange(WIDTH) < WIDTH - 8)[None]).all()
    assert (flow[~valid] == 0).all()


@pytest.mark.parametrize("mode", ["ptz", "static"])
def test_the_exact_flow_of_the_embedded_footage_is_found(mode: str) -> None:
    from backdrop.render.clip import Clip

    clip = Clip(7, mode, size=(320, 192), frames=12, subject=7)
    on_background, on_subject = [], []
    for t in (3, 9):
        target, source, H = clip.frame(t), clip.frame(t + 1), clip.homography(t + 1, t)
        flow, valid = pair_flow(target, source, H, dense_inverse_search)
        camera_and_all, occluded = clip.flow(t, t + 1)
        grid = np.stack(np.meshgrid(np.arange(320.0), np.arange(192.0)), 2)
        there = (grid + camera_and_all).reshape(1, -1, 2)  # in the neighbor; H takes it to the stabilized view
        truth = cv2.perspectiveTransform(there, H).reshape(grid.shape) - grid
        error, speed = np.linalg.norm(flow - truth, axis=2), np.linalg.norm(truth, axis=2)
        subject, seen = clip.mask(t), valid & ~occluded
        on_background.append(error[seen & ~subject].mean())
        on_subject.append(np.median(error[seen & subject]) / np.median(speed[seen & subject]))
    assert max(on_background) < 0.3
    assert max(on_subject) < 0.3


def test_a_model_sees_no_black_border() -> None:
    seen = []

    def model(target: np.ndarray, source: np.ndarray) -> np.ndarray:
        seen.append((target, source))
        return np.full((HEIGHT, WIDTH, 2), np.nan, np.float32)

    flow, valid = pair_flow(view(), view(30, 0), translation(-30, 0), model)
    target, source = seen[0]
    assert (source[:, -30:] == target[:, -30:]).all()
    assert not valid.any()
    assert (flow == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.floats(0.01, 511))
def test_files_keep_flow_to_a_128th_of_a_pixel(height: int, width: int, seed: int, largest: float) -> None:
    rng = np.random.default_rng(seed)
    flow = rng.uniform(-largest, largest, (height, width, 2)).astype(np.float32)
    valid = rng.random((height, width)) < 0.7
    decoded, where = decode_flow(encode_flow(flow, valid))
    assert (where == valid).all()
    assert decoded.dtype == np.float32
    assert decoded.shape == flow.shape
    assert np.abs(decoded - flow)[valid].max(initial=0) <= 1 / 128
    assert (decoded[~valid] == 0).all()
    again, _ = decode_flow(encode_flow(decoded, where))
    assert (again == decoded).all()


def test_half_the_size_keeps_the_pixels_of_the_full_one() -> None:
    across, down = np.meshgrid(np.arange(41, dtype=np.float32), np.arange(30, dtype=np.float32))
    flow = np.dstack([3 + across / 8, -down / 4])
    valid = np.ones((30, 41), bool)
    valid[10, 20] = False
    small, known = halve_flow(flow, valid)
    assert small.shape == (15, 20, 2)
    assert np.argwhere(~known).tolist() == [[5, 9], [5, 10]]  # 41 pixels make 20: a pixel in the middle is part of two
    decoded, where = decode_flow(encode_flow(small, known))
    large = cv2.resize(decoded, (41, 30), interpolation=cv2.INTER_LINEAR)
    inner = np.s_[2:-2, 2:16]  # beside the border and the unknown pixel
    assert (where == known).all()
    assert np.abs(large - flow)[inner].max() < 0.05
    assert halve_flow(flow[:1, :1], valid[:1, :1])[0].shape == (1, 1, 2)


def test_large_frames_that_a_budget_drew_get_flow_of_half_their_size(tmp_path: Path) -> None:
    views = {name: [view(4 * t, 0) for t in range(2)] for name in ("large", "small")}
    views["large"] = [cv2.resize(image, (640, 360), interpolation=cv2.INTER_CUBIC) for image in views["large"]]
    write_sequences(tmp_path / "frames", views)
    for name, step in (("large", 8), ("small", 4)):
        there, back = translation(-step, 0), translation(step, 0)
        save_homographies(tmp_path / "H" / f"{name}.npz", homographies([there, back], [1, 0], [True, True]))
    flow_all(FlowFolders(tmp_path / "frames", tmp_path / "H", tmp_path / "whole"), DIS, 1)
    (tmp_path / "frames" / STREAMED).write_bytes((tmp_path / "frames" / "index.csv").read_bytes())
    flow_all(FlowFolders(tmp_path / "frames", tmp_path / "H", tmp_path / "drawn"), DIS, 1)
    assert (tmp_path / "drawn" / "small.zip").read_bytes() == (tmp_path / "whole" / "small.zip").read_bytes()
    whole, drawn = (FlowArchive(tmp_path / out / "large.zip") for out in ("whole", "drawn"))
    assert whole.flow(0).shape == (360, 640, 2)
    assert drawn.flow(0).shape == (180, 320, 2)
    enlarged = cv2.resize(drawn.flow(0), (640, 360), interpolation=cv2.INTER_LINEAR)
    both = whole.valid(0) & (cv2.resize(drawn.valid(0).astype(np.uint8), (640, 360)) > 0)
    assert both.mean() > 0.9
    assert np.abs(enlarged - whole.flow(0))[both].mean() < 0.05
    assert 5 * drawn.path.stat().st_size < 2 * whole.path.stat().st_size


def test_files_follow_the_kitti_layout() -> None:
    flow = np.array([[[1.5, -2.25], [0, 0]]], np.float32)
    bgr = cv2.imdecode(np.frombuffer(encode_flow(flow, np.array([[True, False]])), np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgr[0, 0, ::-1].tolist() == [32768 + 96, 32768 - 144, 1]
    assert bgr[0, 1, ::-1].tolist() == [32768, 32768, 0]


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, 600, -512])
def test_flow_that_the_encoding_cannot_hold_is_invalid(wild: float) -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 1, 1] = wild
    decoded, valid = decode_flow(encode_flow(flow, np.ones((2, 2), bool)))
    assert valid.tolist() == [[True, False], [True, True]]
    assert (decoded == 0).all()


@pytest.mark.parametrize("data", [b"", b"no picture", cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()])
def test_bytes_that_are_no_flow_are_refused(data: bytes) -> None:
    with pytest.raises(BackdropError, match="no flow PNG"):
        decode_flow(data)


def test_a_sequence_is_written_and_a_failed_pair_is_invalid(tmp_path: Path) -> None:
    frames = ImageList([view(5 * t, 0) for t in range(3)])
    arrays = homographies([translation(-5, 0), np.eye(3), translation(5, 0)], [1, 2, 1], [True, False, True])
    path = tmp_path / "walk.zip"
    assert flow_sequence(frames, arrays, dense_inverse_search, path) == {"frames": 3, "valid": 2}
    archive = pickle.loads(pickle.dumps(FlowArchive(path)))
    assert len(archive) == 3
    for t in range(3):
        flow, valid = archive.read(t)
        assert flow.shape == (HEIGHT, WIDTH, 2)
        assert valid.shape == (HEIGHT, WIDTH)
        assert (archive.flow(t) == flow).all()
        assert (archive.valid(t) == valid).all()
        if t == 1:
            assert not valid.any()
            assert (flow == 0).all()
        else:
            assert valid.mean() > 0.9
            assert np.abs(flow[valid]).mean() < 0.2
    flow_sequence(frames, arrays, dense_inverse_search, tmp_path / "again.zip")
    assert path.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_nothing_is_left_of_an_interrupted_sequence(tmp_path: Path) -> None:
    arrays = homographies([np.eye(3)] * 2, [1, 0], [True, True])

    def broken(target: np.ndarray, source: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow_sequence(ImageList([view(), view()]), arrays, broken, tmp_path / "walk.zip")
    with pytest.raises(BackdropError, match="3 frames but 2 homographies"):
        flow_sequence(ImageList([view()] * 3), arrays, dense_inverse_search, tmp_path / "walk.zip")
    assert list(tmp_path.iterdir()) == []


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "walk.zip"
    with pytest.raises(BackdropError, match=r"walk\.zip does not exist"):
        FlowArchive(path)
    path.write_bytes(b"no zip")
    with pytest.raises(BackdropError, match=r"walk\.zip is no archive"):
        FlowArchive(path)
    flow_sequence(
        ImageList([view()] * 2), homographies([np.eye(3)] * 2, [1, 0], [True] * 2), dense_inverse_search, path
    )
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(bytes(data))
    with pytest.raises(BackdropError, match=r"walk\.zip, frame 0"):
        FlowArchive(path).flow(0)
    with pytest.raises(BackdropError, match="frame 2"):
        FlowArchive(path).flow(2)


def test_an_archive_that_is_encrypted_or_packed_by_unknown_means_is_named(tmp_path: Path) -> None:
    path = tmp_path / "walk.zip"
    flow_sequence(
        ImageList([view()] * 2), homographies([np.eye(3)] * 2, [1, 0], [True] * 2), dense_inverse_search, path
    )
    whole = path.read_bytes()
    for offset, value in ((8, 1), (10, 99)):  # of the central directory's first entry: flags, method
        data = bytearray(whole)
        data[whole.index(b"PK\x01\x02") + offset] = value
        path.write_bytes(bytes(data))
        with pytest.raises(BackdropError, match=r"walk\.zip, frame 0.*run the stage flow again"):
            FlowArchive(path).flow(0)


def test_all_sequences_with_any_number_of_workers(tmp_path: Path) -> None:
    write_sequences(
        tmp_path / "frames",
        {name: [view(4 * t, 0, seed) for t in range(3)] for seed, name in enumerate("ab")},
    )
    arrays = homographies([translation(-4, 0)] * 2 + [translation(4, 0)], [1, 2, 1], [True] * 3)
    for name in "ab":
        save_homographies(tmp_path / "H" / f"{name}.npz", arrays)
    for workers in (1, 2):
        flow_all(FlowFolders(tmp_path / "frames", tmp_path / "H", tmp_path / f"out{workers}"), DIS, workers)
    for name in ("a.zip", "b.zip"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    flow, valid = FlowArchive(tmp_path / "out1" / "a.zip").read(0)
    assert np.abs(flow[valid]).mean() < 0.2


@pytest.fixture
def walk(tmp_path: Path) -> Path:
    """Frames and homographies of a sequence of seven frames, one pair of which failed, and of one of two."""
    views = [view(4 * t, 0) for t in range(7)]
    write_sequences(tmp_path / "frames", {"walk": views, "short": views[:2]})
    for name, count in (("walk", 7), ("short", 2)):
        there, back = [translation(-4, 0)] * (count - 1), translation(4, 0)
        neighbors, valid = [*range(1, count), count - 2], [t != 3 for t in range(count)]
        save_homographies(tmp_path / "H" / f"{name}.npz", homographies([*there, back], neighbors, valid))
    return tmp_path


def test_a_sequence_longer_than_a_chunk_gives_the_same_bytes(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("walk", "short"):
        frames, arrays = FrameArchive(walk / "frames" / f"{name}.zip"), load_homographies(walk / "H" / f"{name}.npz")
        flow_sequence(frames, arrays, dense_inverse_search, walk / "whole" / f"{name}.zip")
    for number, (length, workers) in enumerate([(100, 1), (3, 1), (3, 2), (2, 2)]):
        monkeypatch.setattr(flow_stage, "FLOW_CHUNK", length)
        out = walk / f"out{number}"
        flow_all(FlowFolders(walk / "frames", walk / "H", out), DIS, workers)
        assert sorted(path.name for path in out.iterdir()) == ["short.zip", "walk.zip"]
        for path in out.iterdir():
            assert path.read_bytes() == (walk / "whole" / path.name).read_bytes(), (length, workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_in_a_middle_chunk_is_named_and_nothing_left(
    workers: int, walk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_stage, "FLOW_CHUNK", 2)
    damage_frame(walk / "frames" / "walk.zip", 3)
    with pytest.raises(BackdropError, match=r"walk\.zip: frame 3 is missing or damaged; run the stage frames again"):
        flow_all(FlowFolders(walk / "frames", walk / "H", walk / "out"), DIS, workers)
    assert not (walk / "out").exists()
    (walk / "H" / "walk.npz").write_bytes((walk / "H" / "short.npz").read_bytes())
    with pytest.raises(
        BackdropError, match=r"7 frames but 2 homographies for .*out/walk\.zip: run the stage stabilize"
    ):
        flow_all(FlowFolders(walk / "frames", walk / "H", walk / "out"), DIS, workers)
    assert not (walk / "out").exists()


def test_flow_images_show_direction_and_speed() -> None:
    flow = np.zeros((40, 60, 2), np.float32)
    everywhere = np.ones((40, 60), bool)
    still = flow_image(flow, everywhere)
    assert still.shape == (3, 40, 60)
    assert still.dtype == torch.float32
    assert (still == 1).all()
    flow[10:30, 10:30] = (6, 0)
    flow[10:30, 30:50] = (-3, 0)
    colors = flow_image(flow, everywhere)
    assert colors.min() >= 0
    assert colors.max() <= 1
    right, left = colors[:, 20, 20], colors[:, 20, 40]
    assert right[0] > right[2]
    assert left[2] > left[0]
    assert (1 - right).max() > (1 - left).max()  # the faster, the more saturated
    assert (colors[:, 0, 0] == 1).all()


def test_flow_images_do_not_depend_on_scale_or_wild_pixels_or_invalid_ones() -> None:
    rng = np.random.default_rng(0)
    flow = cv2.GaussianBlur(rng.normal(0, 100, (60, 80, 2)), (0, 0), 6).astype(np.float32)
    valid = np.ones((60, 80), bool)
    valid[:, :10] = False
    colors = flow_image(flow, valid)
    assert (colors[:, :, :10] == 1).all()
    assert (colors - flow_image(3 * flow, valid)).abs().max() <= 2 / 255
    wild = flow.copy()
    wild[30, 40] = 400
    wild[:, :10] = 300
    difference = (colors - flow_image(wild, valid)).abs()
    difference[:, 30, 40] = 0
    assert difference.max() < 0.02
    assert (flow_image(flow, np.zeros_like(valid)) == 1).all()


def test_flow_images_do_not_amplify_noise() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, (50, 50, 2)).astype(np.float32)
    assert flow_image(noise, np.ones((50, 50), bool)).min() > 0.85


def test_magnitude_is_the_speed_against_the_background() -> None:
    flow = np.full((30, 40, 2), (0.5, -0.25), np.float32)
    flow[10:20, 10:20] += (3, 4)
    valid = np.ones((30, 40), bool)
    valid[:, :5] = False
    speed = magnitude(flow, valid)
    expected = np.zeros((30, 40))
    expected[10:20, 10:20] = 5
    np.testing.assert_allclose(speed, expected, atol=1e-6)
    assert (magnitude(flow, np.zeros_like(valid)) == 0).all()


# ptlflow ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch", "dilation"), [((2, 16, 8, 9), 21, 2), ((1, 8, 20, 30), 9, 1), ((1, 4, 5, 40), 7, 3)]
)
def test_row_correlation_equals_ptlflow(shape: tuple[int, ...], patch: int, dilation: int) -> None:
    flow_ptlflow.import_ptlflow()
    from ptlflow.utils.correlation import iter_spatial_correlation_sample

    first, second = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    expected = iter_spatial_correlation_sample(first, second, 1, patch, 1, 0, 1, dilation)
    torch.testing.assert_close(row_correlation(first, second, patch, dilation), expected, atol=1e-9, rtol=0)


def random_network(name: str) -> Any:
    """A network of ptlflow with random weights that do not depend on the state of any generator."""
    ptlflow = flow_ptlflow.import_ptlflow()
    with torch.random.fork_rng(), correlation.quiet():
        torch.manual_seed(0)
        return ptlflow.get_model(name, ckpt_path=None).eval()


def run_as_is(network: Any, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The flow of a network without our correlation, fed as ptlflow's own reader feeds it."""
    from ptlflow.utils.io_adapter import IOAdapter

    pair = [target[..., ::-1].copy(), source[..., ::-1].copy()]  # it reads images with OpenCV, so BGR
    inputs = IOAdapter(network.output_stride, target.shape[:2]).prepare_inputs(pair)
    with torch.inference_mode():
        return network(inputs)["flows"][0, 0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def flownet2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """FlowNet2 with random weights, as ptlflow builds it, and its checkpoint file."""
    network = random_network("flownet2")
    path = tmp_path_factory.mktemp("weights") / "flownet2.ckpt"
    torch.save({"state_dict": network.state_dict()}, path)
    yield network, path
    path.unlink()  # 650 MB


def test_a_network_is_loaded_again_when_its_checkpoint_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(flow_stage, "load_flow_model", lambda *given: loaded.append(given) or dense_inverse_search)
    path = tmp_path / "own.ckpt"
    for weights in ("one", "one", "others"):
        if not path.exists() or path.read_text() != weights:
            path.write_text(weights)
        flow_stage._network("flownet2", str(path), "cpu")
    flow_stage._network("flownet2", "things", "cpu")
    assert [given[1] for given in loaded] == [str(path), str(path), "things"]
    flow_stage._loaded.cache_clear()


def small(dx: int, side: int = 60) -> np.ndarray:
    """A view for networks without trained weights, on which nothing but speed depends on the size."""
    return np.ascontiguousarray(view(dx, 0)[:side, : side + 4])


def test_flownet2_from_a_local_checkpoint_equals_ptlflow(flownet2: tuple[Any, Path]) -> None:
    network, path = flownet2
    model = load_flow_model("flownet2", str(path))
    frames = [small(3 * t) for t in range(4)]
    for target, source in pairwise(frames):
        found = model(target, source)
        assert found.shape == (60, 64, 2)
        assert found.dtype == np.float32
        assert np.abs(found - run_as_is(network, target, source)).max() < 1e-4
    assert np.ptp(found) > 0.01


def test_the_replaced_correlation_is_the_one_in_use_and_only_in_its_own_network() -> None:
    ours, theirs = random_network("flownetc"), random_network("flownetc")
    original = theirs.corr
    use_row_correlation(ours)
    assert ours.corr is not original
    assert theirs.corr is original
    target, source = small(0), small(9)
    expected = run_as_is(theirs, target, source)
    assert np.abs(PtlflowModel(ours, "flownetc")(target, source) - expected).max() < 1e-4
    ours.corr = lambda first, second: torch.zeros_like(original(first, second))
    blind = run_as_is(ours, target, source)
    assert np.abs(blind - expected).max() > 1e-3  # so the equality above says something of the correlation


def test_other_networks_keep_their_flow() -> None:
    ours, theirs = random_network("pwcnet"), random_network("pwcnet")
    target, source = small(0, 150), small(9, 150)
    expected = run_as_is(theirs, target, source)
    assert np.abs(PtlflowModel(ours, "pwcnet")(target, source) - expected).max() < 1e-4
    assert type(ours.corr) is not type(theirs.corr)


def test_nothing_is_printed_by_the_import(flownet2: tuple[Any, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load_flow_model("flownet2", str(flownet2[1]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "checkpoint", "message"),
    [
        ("flownet3", "x.ckpt", r"flow\.model flownet3 is not known: did you mean .*flownet2"),
        ("diss", None, r"did you mean dis"),
        ("flownet2", "gone/w.ckpt", r"flow\.checkpoint gone/w\.ckpt does not exist.*local file.*things"),
        ("flownet2", None, r"flownet2 needs flow\.checkpoint.*things"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(name: str, checkpoint: str | None, message: str) -> None:
    with pytest.raises(BackdropError, match=message):
        load_flow_model(name, checkpoint)


def test_no_network_is_answered_with_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(
        BackdropError, match=r"cannot download the weights of flownetc.*flow\.checkpoint to the local file"
    ):
        load_flow_model("flownetc", "things")


class Exploit:
    """What a hostile checkpoint does when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    torch.save({"state_dict": {}, "hyper_parameters": Exploit(trace)}, path)
    with pytest.raises(BackdropError, match="could run code"):
        load_flow_model("flownetc", str(path))
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"weights": 1}, {"state_dict": {"a": torch.zeros(1)}}, [1], None])
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(content, path) if content is not None else path.write_bytes(b"cut")
    with pytest.raises(BackdropError, match=r"other\.ckpt"):
        load_flow_model("flownetc", str(path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_named() -> None:
    with pytest.raises(BackdropError, match="cuda is not available"):
        PtlflowModel(torch.nn.Identity(), "any", "cuda")
