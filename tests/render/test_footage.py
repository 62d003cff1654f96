"""The renderer's truth is exact: homographies, flow, masks and boxes describe the pictures it draws."""

from __future__ import annotations

import zipfile
from io import BytesIO

import cv2
import numpy as np
import pytest

from backdrop.errors import BackdropError
from backdrop.render.clip import MODES, Clip, mask_box
from backdrop.render.parameters import FootageParams
from backdrop.render.stage import make_clip, plan_clips, render_all
from backdrop.render.street import paint_flat, paint_world
from backdrop.video.decode import decode_video

SIZE = (240, 144)


def clean(mode: str, seed: int = 3, **options: object) -> Clip:
    """A clip without noise, blur and anything in the background that moves by itself."""
    settings: dict = {"size": SIZE, "frames": 60, "noise": False, "blur": False, "distractors": False}
    return Clip(seed, mode, **(settings | options))


def settings(**changes: object) -> FootageParams:
    base: dict = {
        "size": (160, 96),
        "fps": 24.0,
        "frames": 5,
        "train": 6,
        "val": 2,
        "test": 3,
        "modes": list(MODES),
        "places": None,
        "seed": 0,
    }
    return FootageParams.model_validate(base | changes)


def sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image at p + flow for every pixel p."""
    ys, xs = np.mgrid[0 : image.shape[0], 0 : image.shape[1]].astype(np.float32)
    return cv2.remap(image, xs + flow[..., 0], ys + flow[..., 1], cv2.INTER_LINEAR).astype(np.float32)


def difference(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float32) - b)[where].mean())


@pytest.mark.parametrize("mode", MODES)
def test_homographies_form_a_group(mode: str) -> None:
    clip = clean(mode)
    for a, b, c in ((0, 7, 31), (50, 2, 20)):
        chained = clip.homography(b, c) @ clip.homography(a, b)
        np.testing.assert_allclose(chained / chained[2, 2], clip.homography(a, c), atol=1e-8)
        inverse = np.linalg.inv(clip.homography(a, b))
        np.testing.assert_allclose(inverse / inverse[2, 2], clip.homography(b, a), atol=1e-8)
        through_scene = np.linalg.inv(clip.scene(b)) @ clip.scene(a)
        np.testing.assert_allclose(through_scene / through_scene[2, 2], clip.homography(a, b), atol=1e-7)
    np.testing.assert_allclose(clip.homography(4, 4), np.eye(3), atol=1e-10)


def test_only_the_static_camera_rests() -> None:
    moved = {mode: np.abs(clean(mode).homography(0, 12) - np.eye(3)).max() for mode in MODES}
    assert moved["static"] < 1e-9
    assert min(moved["ptz"], moved["handheld"]) > 1.0


@pytest.mark.parametrize("pair", [(10, 11), (10, 22), (40, 30)])
def test_exact_homography_reproduces_the_background(pair: tuple[int, int]) -> None:
    clip = clean("ptz")
    source, target = (clip.background(t) for t in pair)
    matrix = clip.homography(*pair)
    warped = cv2.warpPerspective(source, matrix, SIZE)
    inside = cv2.warpPerspective(np.full(SIZE[::-1], 255, np.uint8), matrix, SIZE) == 255
    inside &= cv2.erode(inside.astype(np.uint8), np.ones((5, 5))) > 0
    assert inside.mean() > 0.6
    assert difference(warped, target, inside) < 4.0
    wrong = cv2.warpPerspective(source, np.array([[1, 0, 1.5], [0, 1, 0], [0, 0, 1.0]]) @ matrix, SIZE)
    assert difference(wrong, target, inside) > 2 * difference(warped, target, inside)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("subject", [0, 1, 2])
def test_flow_leads_to_the_same_point(mode: str, subject: int) -> None:
    clip = clean(mode, subject=subject)
    a, b = clip.frame(20), clip.frame(22)
    flow, occluded = clip.flow(20, 22)
    found, mask = sample(b, flow), clip.mask(20)
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
    seen = inner & ~occluded
    assert seen.sum() > 0.5 * inner.sum()
    assert difference(found, a, seen) < 8.0
    assert difference(b, a, seen) > 2.5 * difference(found, a, seen)
    rest = ~cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))).astype(bool) & ~occluded
    assert difference(found, a, rest) < 5.0


def test_flow_agrees_with_homography_and_vanishes_at_home() -> None:
    clip = clean("ptz")
    flow, _ = clip.flow(5, 9)
    y, x = next((y, x) for y in range(6) for x in range(6) if clip.labels(5)[y, x] == 0)
    u, v, w = clip.homography(5, 9) @ np.array([x, y, 1.0])
    np.testing.assert_allclose(flow[y, x], [u / w - x, v / w - y], atol=1e-4)
    at_home, occluded = clip.flow(5, 5)
    assert np.abs(at_home).max() < 1e-4
    assert not occluded.any()


def test_handheld_has_parallax_and_the_others_have_none() -> None:
    spread = {}
    for mode in ("ptz", "handheld"):
        clip = clean(mode)
        flow, _ = clip.flow(10, 16)
        ys, xs = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float64)
        points = np.stack([xs, ys], axis=-1).reshape(1, -1, 2)
        plane = (cv2.perspectiveTransform(points, clip.homography(10, 16)) - points).reshape(flow.shape)
        spread[mode] = np.abs(flow - plane)[~clip.mask(10)].max()
    assert spread["ptz"] < 1e-3
    assert spread["handheld"] > 1.5


@pytest.mark.parametrize("mode", MODES)
def test_subject_is_large_enough_in_view_and_moves(mode: str) -> None:
    plans = [plan for plan in plan_clips(settings()) if plan.mode == mode]
    for plan in plans[:3]:
        clip = Clip(plan.seed, mode, (320, 192), 100, subject=plan.subject)
        every = range(0, 100, 6)
        areas = np.array([clip.mask(t).mean() for t in every])
        boxes = np.array([clip.box(t) for t in every])
        assert 0.04 <= areas.mean() <= 0.15
        assert areas.min() > 0.025
        assert 0.35 <= np.median(boxes[:, 3]) / 2 <= 0.62
        assert (np.abs(boxes[:, :2]) + boxes[:, 2:] / 2).max() < 1.0 - 1e-9
        width = boxes[:, 2] * 160
        home = np.array(
            [
                clip.homography(t, 0) @ [(x + 1) * 160 - 0.5, (y + 1) * 96 - 0.5, 1]
                for t, (x, y) in zip(every, boxes[:, :2], strict=True)
            ]
        )
        assert np.ptp(home[:, 0] / home[:, 2]) > 1.5 * width.max()


@pytest.mark.parametrize("mode", MODES)
def test_subject_outruns_the_background(mode: str) -> None:
    clip = Clip(1, mode, (320, 192), 60, subject=1)
    relative = []
    for t in range(0, 58, 8):
        flow, _ = clip.flow(t, t + 1)
        ys, xs = np.nonzero(clip.mask(t))
        points = np.stack([xs, ys], axis=1).astype(np.float64)[None]
        rest = cv2.perspectiveTransform(points, clip.homography(t, t + 1))[0] - points[0]
        relative.append(np.median(np.hypot(*(flow[ys, xs] - rest).T)))
    assert 3.0 < np.median(relative) < 12.0


def test_box_bounds_the_mask() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 4:14] = True
    np.testing.assert_allclose(mask_box(mask), [-0.1, -0.3, 1.0, 0.6])
    np.testing.assert_allclose(mask_box(np.ones((10, 20), bool)), [0, 0, 2, 2])
    assert np.isnan(mask_box(np.zeros((4, 4), bool))).all()
    clip = clean("static")
    np.testing.assert_array_equal(clip.box(9), mask_box(clip.mask(9)))
    np.testing.assert_array_equal(clip.labels(9) >= 100, clip.mask(9))


def test_mask_is_where_the_subject_was_painted() -> None:
    clip = clean("handheld")
    changed = np.abs(clip.frame(12).astype(int) - clip.background(12)).max(axis=2) > 8
    mask = clip.mask(12)
    assert (changed & mask).sum() > 0.9 * mask.sum()
    # Beyond the mask only the soft shadow on the ground changes: nothing above the knees does.
    rows = np.flatnonzero(mask.any(axis=1))
    upper = slice(0, rows[0] + 2 * len(rows) // 3)
    around = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))).astype(bool)
    assert not (changed & ~around)[upper].any()


def test_any_order_and_thread_count_gives_the_same_bits() -> None:
    threads = cv2.getNumThreads()
    try:
        first = Clip(5, "handheld", SIZE, 20, subject=2)
        forward = [first.frame(t) for t in (0, 7, 8)]
        cv2.setNumThreads(1)
        paint_world.cache_clear()
        paint_flat.cache_clear()
        second = Clip(5, "handheld", SIZE, 20, subject=2)
        assert all(np.array_equal(second.frame(t), frame) for t, frame in zip((8, 7, 0), forward[::-1], strict=True))
        np.testing.assert_array_equal(first.mask(7), second.mask(7))
    finally:
        cv2.setNumThreads(threads)
    assert not np.array_equal(Clip(6, "handheld", SIZE, 20, subject=2).frame(7), forward[1])


def test_length_of_the_clip_does_not_change_its_frames() -> None:
    np.testing.assert_array_equal(Clip(5, "ptz", SIZE, 10).frame(4), Clip(5, "ptz", SIZE, 40).frame(4))


def test_noise_is_centered_small_and_new_in_each_frame() -> None:
    quiet, noisy = clean("static"), clean("static", noise=True)
    residual = [noisy.frame(t).astype(np.float32) - quiet.frame(t) for t in (3, 4)]
    assert 1.0 < residual[0].std() < 8.0
    assert abs(residual[0].mean()) < 8.0
    fine = [r - cv2.GaussianBlur(r, (0, 0), 3) for r in residual]
    assert abs(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1]) < 0.1


def test_blur_smears_the_moving_subject_only() -> None:
    sharp, smeared = clean("static"), clean("static", blur=True)
    difference_map = np.abs(sharp.frame(15).astype(int) - smeared.frame(15)).max(axis=2)
    near = cv2.dilate(sharp.mask(15).astype(np.uint8), np.ones((21, 21))).astype(bool)
    assert difference_map[near].max() > 20
    assert difference_map[~near].max() <= 1


def test_distractors_move_in_the_background_and_are_not_in_the_mask() -> None:
    calm, lively = clean("static"), clean("static", distractors=True)
    assert difference(calm.background(0), calm.background(20), np.ones(SIZE[::-1], bool)) == 0
    assert difference(lively.background(0), lively.background(20), np.ones(SIZE[::-1], bool)) > 0.3
    np.testing.assert_array_equal(calm.mask(8), lively.mask(8))
    bystander = lively.labels(8).max(where=lively.labels(8) < 100, initial=0)
    assert bystander == 3 + len(lively._scene.world.trees)


def test_presence_lets_the_subject_leave() -> None:
    for seed in range(4):
        clip = clean("ptz", seed, frames=80, presence=True)
        seen = np.array([clip.mask(t).any() for t in range(0, 80, 4)])
        assert 0.3 < seen.mean() < 0.95
        absent = int(np.flatnonzero(~seen)[0]) * 4
        assert np.isnan(clip.box(absent)).all()


def test_held_out_clips_share_nobody_and_no_place() -> None:
    plans = plan_clips(settings(train=9, val=3, test=5))
    for other in ("val", "test"):
        for field in ("subject", "stretch", "seed"):
            train = {getattr(plan, field) for plan in plans if plan.split == "train"}
            assert not train & {getattr(plan, field) for plan in plans if plan.split == other}
    assert len({plan.name for plan in plans}) == len(plans)
    assert {plan.mode for plan in plans if plan.split == "test"} == set(MODES)
    assert len({plan.subject for plan in plans}) == len({plan.stretch for plan in plans}) == len(plans)
    elsewhere = plan_clips(settings(seed=1))
    assert not {plan.subject for plan in plans} & {plan.subject for plan in elsewhere}


def test_places_are_shared_by_all_splits_and_subjects_are_not() -> None:
    plans = plan_clips(settings(train=7, val=2, test=4, places=2))
    train = {plan.stretch for plan in plans if plan.split == "train"}
    assert len(train) == 2
    for other in ("val", "test"):
        assert {plan.stretch for plan in plans if plan.split == other} == train
    assert len({plan.subject for plan in plans}) == len({plan.seed for plan in plans}) == len(plans)
    here, other = (make_clip(plan, settings(places=2)) for plan in plans[:3:2])
    # The cameras look at other parts of one street: laid over one another by the truth, the pictures agree.
    onto = np.linalg.inv(here.scene(0)) @ other.scene(0)
    view = cv2.warpPerspective(other.background(0), onto, here.size, flags=cv2.INTER_LINEAR)
    seen = cv2.warpPerspective(np.ones(other.size[::-1], np.uint8), onto, here.size) > 0
    assert seen.mean() > 0.3
    apart = np.abs(here.background(0).astype(float) - view)[seen].mean()
    elsewhere = make_clip(plans[1], settings(places=2)).background(0)
    assert apart < 0.5 * np.abs(here.background(0).astype(float) - elsewhere).mean()


def test_subjects_wear_different_clothes() -> None:
    def color(number: int) -> np.ndarray:
        clip = clean("static", subject=number)
        return clip.frame(5)[clip.mask(5)].mean(axis=0)

    colors = [color(plan.subject) for plan in plan_clips(settings()) if plan.split != "train"]
    apart = [np.abs(a - b).max() for i, a in enumerate(colors) for b in colors[:i]]
    assert min(apart) > 4.0


def test_keypoints_recover_the_exact_homography() -> None:
    clip = Clip(2, "ptz", (320, 192), 60)
    sift, matcher, errors = cv2.SIFT_create(1500), cv2.BFMatcher(), []
    corners = np.array([[[40.0, 30.0], [280, 30], [280, 160], [40, 160], [160, 96]]])
    for t in (4, 24, 44):
        points, features = zip(*(sift.detectAndCompute(clip.frame(i), None) for i in (t, t + 1)), strict=True)
        pairs = matcher.knnMatch(features[0], features[1], k=2)
        good = [best for best, second in pairs if best.distance < 0.75 * second.distance]
        assert len(good) > 150
        matrix, _ = cv2.findHomography(
            np.float32([points[0][m.queryIdx].pt for m in good]),
            np.float32([points[1][m.trainIdx].pt for m in good]),
            cv2.USAC_MAGSAC,
            1.0,
        )
        exact = cv2.perspectiveTransform(corners, clip.homography(t, t + 1))
        errors.append(np.abs(cv2.perspectiveTransform(corners, matrix) - exact).mean())
    assert np.median(errors) < 0.4


@pytest.mark.parametrize("arguments", [{"mode": "orbit"}, {"size": (40, 30)}, {"size": (96, 160)}, {"frames": 0}])
def test_bad_arguments_are_named(arguments: dict) -> None:
    with pytest.raises(BackdropError, match="footage"):
        Clip(0, **({"mode": "ptz", "size": (160, 96), "frames": 4} | arguments))


def test_render_all_writes_videos_and_their_truth(tmp_path) -> None:
    params = settings(train=1, val=1, test=1, modes=["ptz", "handheld"])
    plans = render_all(tmp_path / "one", params, workers=1)
    render_all(tmp_path / "two", params, workers=2)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 2 * len(plans) == 6
    for file in files:
        both = [tmp_path / run / file for run in ("one", "two")]
        assert both[0].read_bytes() == both[1].read_bytes()
    plan = plans[-1]
    clip = Clip(plan.seed, plan.mode, (160, 96), 5, subject=plan.subject, town=0, stretch=plan.stretch)
    decoded = [image for _, _, image in decode_video(tmp_path / "one" / "videos" / "test" / f"{plan.name}.mp4")]
    assert len(decoded) == 5
    assert difference(decoded[3], clip.frame(3), np.ones((96, 160), bool)) < 8.0
    with zipfile.ZipFile(tmp_path / "one" / "truth" / f"{plan.name}.zip") as archive:
        mask = cv2.imdecode(np.frombuffer(archive.read("masks/000003.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, clip.mask(3).astype(np.uint8) * 255)
        rows = archive.read("boxes.csv").decode().splitlines()
        assert rows[0] == "frame,cx,cy,w,h"
        np.testing.assert_allclose([float(v) for v in rows[4].split(",")], [3, *clip.box(3)], atol=1e-6)
        matrices = np.load(BytesIO(archive.read("homographies.npy")), allow_pickle=False)
        np.testing.assert_allclose(matrices, [clip.scene(t) for t in range(5)])
