"""Material made to do harm: nothing of it runs, nothing is written outside of its folder, memory stays bounded.

Beside these: `test_flow.test_a_checkpoint_cannot_run_code`, `test_video.test_any_file_name_is_only_a_name`,
`test_frames.test_odd_file_names_make_unique_archives_inside_the_folder`, and for uploads
`test_page.test_uploads_above_the_limit_are_refused`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin

from backdrop.app.segmenter import Segmenter
from backdrop.errors import BackdropError
from backdrop.frames.stage import extract_all
from backdrop.io.archives import ArchiveWriter
from backdrop.io.frame_archive import FrameArchive, frames_table
from backdrop.io.images import encode_png
from backdrop.io.index import read_index
from backdrop.io.masks import MaskArchive, Predictions
from backdrop.learn.checkpoints import Checkpoints
from backdrop.motion.homography import load_homographies
from backdrop.networks.detector import Detector
from backdrop.networks.encoder import resnet
from backdrop.networks.inpainter import Inpainter, load_inpainter
from backdrop.networks.model_folders import save_network
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.params import compose_params, read, validate
from backdrop.video.encode import encode_video
from tests.backdrop_command import call
from tests.handmade_run import make_run, scene, write_frames, write_index
from tests.small_pipeline import ROOT, environment, run_stage, small_params, small_values, stage

pytestmark = pytest.mark.usefixtures("one_thread")

CANARY = "canary"
NAMES = [
    "a b",
    "quo'te\"d",
    "new\nline",
    f"semi;touch {CANARY}",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"|touch {CANARY}&",
    "-rf",
    "--out=elsewhere",
    "%s%n{0}",
    "видео",
    "視頻",
    "..up",
    "a*b[1]?",
    "http:host",
    "<script>alert(1)<",
    "x" * 180,
]
VIDEOS = {"data.layout": "videos", "data.protocol": "self"}


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Exploit:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_the_exploit_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Exploit(tmp_path / CANARY)))
    assert (tmp_path / CANARY).is_dir()


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize("kind", ["video", "images"])
def test_names_of_footage_are_only_names(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through frames, stabilize and flow: files appear in data/ alone, under names that every shell takes."""
    project = tmp_path / "project"
    clips = project / "clips"
    clips.mkdir(parents=True)
    names = [name for name in NAMES if not name.startswith(".")]  # hidden files are other programs'
    for name in names:
        if kind == "video":
            encode_video(clips / f"{name}.avi", scene(3)[0], codec="mjpeg")
        else:
            (clips / name).mkdir()
            for t, image in enumerate(scene(3)[0]):
                Image.fromarray(image).save(clips / name / f"{t} {names[t]}.png")
    given = below(tmp_path)
    (project / "params.yaml").write_text(yaml.safe_dump(small_values(VIDEOS | {"data.root": "clips"})))
    for name in ("frames", "stabilize", "flow"):
        run_stage(name, project, monkeypatch)
    index = read_index(project / "data" / "frames")
    assert len(index) == len(names)
    assert set(index.status) == {"ok"}
    assert index.sequence.str.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*").all()
    made = below(tmp_path) - given - {"project/params.yaml"}
    folders = {"frames": ".zip", "homographies": ".npz", "flow": ".zip"}
    expected = {f"project/data/{kind}/{name}{end}" for kind, end in folders.items() for name in index.sequence}
    assert made == expected | {f"project/data/{kind}/index.csv" for kind in ("frames", "homographies")}
    for sequence in index.sequence:
        for name in FrameArchive(project / "data" / "frames" / f"{sequence}.zip").names:
            assert re.fullmatch(r"[0-9][A-Za-z0-9._-]*", name)


@pytest.mark.parametrize("name", [n for n in NAMES if "\n" not in n])
def test_a_name_in_the_parameters_is_only_a_name(name: str, tmp_path: Path) -> None:
    """A root that is there is read, files that are not are named; nothing is made of either."""
    (tmp_path / name).mkdir()
    encode_video(tmp_path / name / "x.avi", scene(3)[0], codec="mjpeg")
    params = validate(small_values(VIDEOS | {"data.root": name}))
    assert params.data.path == name
    before = below(tmp_path)
    done = extract_all(params.data.model_copy(update={"root": str(tmp_path / name)}), tmp_path / "out")
    assert list(done.sequence) == ["x"]
    with pytest.raises(BackdropError, match="encoder.weights"):
        resnet("resnet18", str(tmp_path / name))
    with pytest.raises(BackdropError, match="no model folder"):
        Segmenter.load(tmp_path / name, "cpu")
    assert below(tmp_path) - before == {"out/x.zip", "out/index.csv"}


def test_a_root_with_a_command_in_it_runs_nothing_as_a_stage(tmp_path: Path) -> None:
    name = f"$(touch {CANARY}); touch {CANARY} `touch {CANARY}`"
    (tmp_path / name).mkdir()
    encode_video(tmp_path / name / "x.avi", scene(3)[0], codec="mjpeg")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_values(VIDEOS | {"data.root": name})))
    done = stage("s1_frames", tmp_path, "--out", "data/frames")
    assert done.returncode == 0, done.stderr
    assert below(tmp_path) == {"params.yaml", f"{name}/x.avi", "data/frames/x.zip", "data/frames/index.csv"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "segmenter"
    params = small_params()
    networks = {"detector": Detector(params.detector, "none"), "synthesis": SynthesisNetwork(params.synthesis, "none")}
    sections = {name: getattr(params, name).model_dump(mode="json") for name in networks}
    save_network(folder, networks, {"size": list(params.train.size), **sections})
    return folder


def test_names_given_to_predict_are_only_names(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files given one by one, hidden ones and those that begin with a dash too: outputs lie where their kind's do."""
    monkeypatch.chdir(tmp_path)
    given = [f"{name}.png" for name in NAMES] + ["..png", "...avi", "....avi"]
    for name in given:
        if name.endswith(".avi"):
            encode_video(tmp_path / name, scene(2)[0], codec="mjpeg")
        else:
            Image.fromarray(scene(1)[0][0]).save(tmp_path / name, "PNG")
    before = below(tmp_path)
    options = ["-o", "out", "--model", model, "--device", "cpu", "--refine", "none", "--quiet"]
    formats = [word for kind in ("masks", "overlay", "coco", "davis", "yolo", "labelstudio") for word in ("-f", kind)]
    status, text = call("predict", *options, *formats, "--", *given)
    assert status == 0, text
    made = below(tmp_path) - before
    assert all(path.startswith("out/") for path in made)
    top = {path.split("/")[1] for path in made}
    assert top == {
        ".lock",
        "records",
        "masks",
        "overlay",
        "coco.json",
        "davis",
        "yolo",
        "labelstudio.json",
        "labelstudio.xml",
    }
    for kind, count in (("records", 20), ("masks", 22), ("overlay", 22)):  # the two videos have two frames each
        assert len([path for path in made if path.startswith(f"out/{kind}/")]) == count
    assert not [path for path in made if path.startswith("out/davis/") and "/Annotations/" not in path]


# --------------------------------------------------------------------------------------------- archives


def test_entries_that_climb_out_of_an_archive_are_passed_over(tmp_path: Path) -> None:
    """No archive is ever unpacked: entries are read one by one, by the names that we give them."""
    root = tmp_path / "footage"
    (root / "truth").mkdir(parents=True)
    encode_video(root / "videos" / "train" / "x.avi", scene(3)[0], codec="mjpeg")
    mask = encode_png(scene(3)[1][0].astype(np.uint8) * 255)
    climbing = ["../../../evil.png", "/tmp/evil.png", "masks/../../evil.png", "masks/000000.png/../../evil.png"]
    with zipfile.ZipFile(root / "truth" / "x.zip", "w") as archive:
        for name in [*climbing, "masks/000001.png"]:
            archive.writestr(name, mask)
    before = below(tmp_path)
    data = validate(small_values({"data.layout": "synthetic", "data.protocol": "self", "data.root": str(root)})).data
    extract_all(data, tmp_path / "out")
    assert below(tmp_path) - before == {"out/x.zip", "out/index.csv"}
    stored = FrameArchive(tmp_path / "out" / "x.zip")
    assert [t for t in range(3) if stored.has_mask(t)] == [1]
    with zipfile.ZipFile(tmp_path / "out" / "x.zip") as archive:
        assert not [name for name in archive.namelist() if "evil" in name]
    assert not MaskArchive(root / "truth" / "x.zip").has(0)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..", "a/b", ""])
def test_tables_that_lead_elsewhere_are_not_ours(name: str, tmp_path: Path) -> None:
    """Sequences' and frames' names become file names of masks."""
    write_index(tmp_path, [{"sequence": name, "split": "all", "frames": 2}])
    with pytest.raises(BackdropError, match=r"index\.csv is not an index"):
        read_index(tmp_path)
    with ArchiveWriter(tmp_path / "x.zip") as archive:
        archive.add("frames.csv", frames_table([name, "b"], [0, 1], [False, False]))
    with pytest.raises(BackdropError, match=r"frames\.csv is not ours"):
        FrameArchive(tmp_path / "x.zip")


# ---------------------------------------------------------------------------------------------- pickles


def test_no_pickle_runs(model: Path, tmp_path: Path) -> None:
    """Wherever weights, arrays or states are read, a pickle is refused before it is loaded."""
    trace = tmp_path / CANARY
    bomb = io.BytesIO()
    torch.save({"conv1.weight": Exploit(trace)}, bomb)
    plain = pickle.dumps(Exploit(trace))
    objects = io.BytesIO()
    np.savez(objects, **dict.fromkeys(("H", "box", "p", "cell"), np.array([Exploit(trace)], object)))  # type: ignore[arg-type]

    shutil.copytree(model, tmp_path / "segmenter")
    save_network(tmp_path / "inpainter", Inpainter([4, 8]), {"channels": [4, 8]})
    (tmp_path / "encoder").mkdir()
    checkpoints = Checkpoints(tmp_path, "key")
    for data in (bomb.getvalue(), plain):
        (tmp_path / "segmenter" / "model.safetensors").write_bytes(data)
        with pytest.raises(BackdropError, match=r"segmenter/model\.safetensors cannot be read"):
            Segmenter.load(tmp_path / "segmenter", "cpu")
        (tmp_path / "inpainter" / "model.safetensors").write_bytes(data)
        with pytest.raises(BackdropError, match="inpainter"):
            load_inpainter(tmp_path / "inpainter")
        for suffix in ("pth", "safetensors"):
            path = tmp_path / "encoder" / f"resnet18.{suffix}"
            path.write_bytes(data)
            with pytest.raises(BackdropError, match=rf"resnet18\.{suffix} does not hold"):
                resnet("resnet18", str(tmp_path / "encoder"))
            path.unlink()
        checkpoints.path.write_bytes(data)
        assert checkpoints.load() is None
        assert checkpoints.path.with_suffix(".damaged").read_bytes() == data
    for data in (objects.getvalue(), plain):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(BackdropError, match=r"x\.npz"):
            load_homographies(tmp_path / "x.npz")
        with ArchiveWriter(tmp_path / "x.zip") as archive:
            archive.add("predictions.npz", data)
        with pytest.raises(BackdropError, match=r"x\.zip: predictions\.npz"):
            Predictions(tmp_path / "x.zip")
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------- YAML

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10))
PARAMS = (ROOT / "params.yaml").read_text()
TAG = f"!!python/object/apply:os.system ['touch {CANARY}']"
YAMLS = {
    "tag": (PARAMS.replace("seed: 0", f"seed: {TAG}"), "could not determine a constructor"),
    "name": (PARAMS.replace("seed: 0", "seed: !!python/name:os.system"), "could not determine a constructor"),
    "unknown": (PARAMS + LAUGHS, "aliases"),
    "laughs": (LAUGHS + PARAMS.replace("seed: 0", "seed: *a9"), "aliases"),
    "merges": (MERGES + PARAMS, "aliases"),
    "itself": (PARAMS.replace("seed: 0", "seed: &s [*s]"), "aliases"),
    "deep": ("seed: " + "[" * 3000, "recursion"),
    "date": (PARAMS.replace("seed: 0", "seed: 2001-99-99"), "month"),
    "digits": (PARAMS.replace("seed: 0", f"seed: {'9' * 5000}"), "digits"),
}


def limited() -> None:
    """In a child: two minutes of processor, and no more memory than a stage that trains nothing needs."""
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))


def child(code: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=limited,
    )


READ_ALL = """
import json, resource, sys
from pathlib import Path
from backdrop.errors import BackdropError
from backdrop.params import read
found, peak = {}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).glob("*.yaml")):
    try:
        found[path.stem] = repr(read(path))
    except BackdropError as fault:
        found[path.stem] = str(fault)
print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak]))
"""


def test_hostile_parameters_run_nothing_and_take_no_memory(tmp_path: Path) -> None:
    for name, (text, _) in YAMLS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    done = child(READ_ALL, tmp_path, tmp_path)
    assert done.returncode == 0, done.stderr
    found, growth = json.loads(done.stdout)
    assert set(found) == set(YAMLS)
    for name, (_, says) in YAMLS.items():
        assert "is no YAML" in found[name]
        assert says in found[name]
        assert len(found[name]) < 1000
    assert growth < 100_000, "kB"
    assert not (tmp_path / CANARY).exists()


def test_a_stage_answers_hostile_parameters_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(YAMLS["laughs"][0])
    done = stage("s1_frames", tmp_path, "--out", "data/frames", preexec_fn=limited)
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml is no YAML: aliases")
    assert below(tmp_path) == {"params.yaml"}


@pytest.mark.parametrize("name", ["tag", "laughs", "merges"])
def test_hostile_files_in_conf_run_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are bounded; conf/plugins holds Python, and is as trusted as the code."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    config = tmp_path / "conf" / "config.yaml"
    value = {"tag": f"seed: {TAG}\n", "laughs": f"{LAUGHS}seed: *a9\n", "merges": f"{MERGES}seed: 0\n"}[name]
    text = config.read_text()
    assert text.count("\nseed: 0\n") == 1
    config.write_text(text.replace("\nseed: 0\n", f"\n{value}"))
    with pytest.raises(BackdropError, match=r"config\.yaml is no YAML"):
        compose_params([], tmp_path / "params.yaml", tmp_path / "conf")
    assert not (tmp_path / "params.yaml").exists()
    assert not (tmp_path / CANARY).exists()


def test_parameters_that_people_write_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("# note\n" + PARAMS.replace("seed: 0", "seed: 0x10  # sixteen"))
    assert read(tmp_path / "params.yaml").seed == 16


# ----------------------------------------------------------------------------------------------- images


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def vast_png(side: int) -> bytes:
    """A whole PNG of side x side black pixels, in kilobytes."""
    packer, packed = zlib.compressobj(9), b""
    row = bytes(1 + side // 8)
    for _ in range(side // 1000):
        packed += packer.compress(row * 1000)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    packed += packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def vast_tiff(side: int) -> bytes:
    """A TIFF whose header says side x side."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "TIFF")
    data = bytearray(stream.getvalue())
    for tag in (256, 257):  # width and height, as 32 bits
        at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HHI", tag, kind, 1))) >= 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, side)
    return bytes(data)


def text_bomb() -> bytes:
    """A small PNG with 300 MB of text."""
    stream = io.BytesIO()
    Image.new("L", (16, 16)).save(stream, "PNG", pnginfo=PngImagePlugin.PngInfo())
    data = stream.getvalue()
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()
    return data[:33] + chunk(b"zTXt", b"note\0\0" + packed) + data[33:]


DECODE_ALL = """
import json, resource, sys
from pathlib import Path
from backdrop.io.mask_images import decode_mask
from backdrop.errors import BackdropError
from backdrop.io.images import decode_image
found, peak = {}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    for decode in (decode_image, decode_mask):
        try:
            decode(path)
            found[f"{decode.__name__} {path.name}"] = "read"
        except BackdropError as fault:
            found[f"{decode.__name__} {path.name}"] = str(fault)
print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak]))
"""


def test_images_of_gigapixels_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    made = {"vast.png": vast_png(32_000), "vast.tif": vast_tiff(60_000), "text.png": text_bomb()}
    for name, data in made.items():
        assert len(data) < 1_000_000
        (tmp_path / "in" / name).write_bytes(data)
    done = child(DECODE_ALL, tmp_path, tmp_path / "in")
    assert done.returncode == 0, done.stderr
    found, growth = json.loads(done.stdout)
    assert len(found) == 6
    for attempt, said in found.items():
        assert ("read" if "text.png" in attempt else "pixels; scale it down") in said, "text is passed over, packed"
    assert growth < 100_000, "kB"


def test_an_image_of_gigapixels_does_not_keep_other_footage_from_being_read(tmp_path: Path) -> None:
    for name in ("good", "vast"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for t, image in enumerate(scene(3)[0]):
            Image.fromarray(image).save(tmp_path / "in" / name / f"{t}.png")
    (tmp_path / "in" / "vast" / "1.png").write_bytes(vast_png(32_000))
    index = extract_all(validate(small_values(VIDEOS | {"data.root": str(tmp_path / "in")})).data, tmp_path / "out")
    assert dict(zip(index.sequence, index.status, strict=True)) == {"good": "ok", "vast": "skipped"}
    assert "pixels; scale it down" in index.set_index("sequence").loc["vast", "reason"]


# ---------------------------------------------------------------------------------------- model folders


def hostile_models(model: Path) -> dict[str, tuple[bytes, bytes]]:
    """config.json and model.safetensors, by what is wrong with them."""
    config = json.loads((model / "config.json").read_text())
    weights = (model / "model.safetensors").read_bytes()

    def changed(**values: Any) -> bytes:
        return json.dumps({**config, **values}).encode()

    def header(content: bytes, data: bytes = b"") -> bytes:
        return struct.pack("<Q", len(content)) + content + data

    synthesis, detector = config["synthesis"], config["detector"]
    good = changed()
    student = {"channels": [4, 8], "size": [48, 32], "guide": 0.0}
    sizes = {"nan": [float("nan")] * 2, "infinite": [float("inf")] * 2, "negative": [-1, -1], "nothing": [0, 0]}
    sizes |= {"vast": [10**9, 10**9], "digits": [10**400, 3], "text": "ab", "three": [48, 32, 3]}
    shape = b'{"a":{"dtype":"F32","shape":[1099511627776,1048576],"data_offsets":[0,4]}}'
    return {
        **{f"size {name}": (changed(size=size), weights) for name, size in sizes.items()},
        "deep": (b"[" * 10_000, weights),
        "deeper": (b'{"a":' * 1_000_000, weights),
        "a list": (b"[]", weights),
        "grid": (changed(detector={**detector, "grid": 10**9}), weights),
        "code": (changed(synthesis={**synthesis, "hidden": [10**6, 10**6]}), weights),
        "wide": (changed(synthesis={**synthesis, "decoder": [10**7, 10**7]}), weights),
        "student wide": (changed(student=student | {"channels": [10**5, 10**5]}), weights),
        "student long": (changed(student=student | {"channels": [8] * 100_000}), weights),
        "student nan": (changed(student=student | {"guide": float("nan")}), weights),
        "header vast": (good, struct.pack("<Q", 2**60) + weights[8:]),
        "header deep": (good, header(b"[" * 200_000)),
        "header wide": (good, header(b"{" + b" " * (40 << 20) + b"}")),
        "shape": (good, header(shape, bytes(4))),
        "cut": (good, weights[: len(weights) // 2]),
        "empty": (good, b""),
    }


LOAD_ALL = """
import json, resource, sys
from pathlib import Path
from backdrop.errors import BackdropError
from backdrop.app.segmenter import Segmenter
Segmenter.load(sys.argv[2], "cpu")
found, peak = {}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        Segmenter.load(path, "cpu")
        found[path.name] = "loaded"
    except BackdropError as fault:
        found[path.name] = str(fault)
print(json.dumps([found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak]))
"""


def test_hostile_model_folders_are_named_and_take_no_memory(model: Path, tmp_path: Path) -> None:
    models = hostile_models(model)
    for name, (config, weights) in models.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "config.json").write_bytes(config)
        (tmp_path / "in" / name / "model.safetensors").write_bytes(weights)
    done = child(LOAD_ALL, tmp_path, tmp_path / "in", model)
    assert done.returncode == 0, done.stderr
    found, growth = json.loads(done.stdout)
    assert set(found) == set(models)
    for name, said in found.items():
        assert f"in/{name}" in said
        assert "\n" not in said
    assert growth < 300_000, "kB"


def test_a_hostile_inpainter_is_named(tmp_path: Path) -> None:
    for channels in ([10**6, 10**6], [-4, 8], [float("nan")], "ab", [], None, [8] * 100_000):
        save_network(tmp_path / "inpainter", Inpainter([4, 8]), {"channels": channels})
        with pytest.raises(BackdropError, match="inpainter"):
            load_inpainter(tmp_path / "inpainter")


def test_masks_of_a_hostile_run_stay_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame's name becomes a file's name in data/davis."""
    project = tmp_path / "a" / "b"
    make_run(project / "data", {"one": "test"}, frames=2)
    (project / "params.yaml").write_text(yaml.safe_dump(small_values()))
    write_frames(project / "data" / "frames", "one", scene(2)[0], {})
    path = project / "data" / "frames" / "one.zip"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with ArchiveWriter(path) as archive:
        for name, data in entries.items():
            table = frames_table(["../../../../../evil", "b"], [0, 1], [False, False])
            archive.add(name, table if name == "frames.csv" else data)
    before = below(tmp_path)
    for folder in ("masks", "masks_paper"):
        shutil.rmtree(project / "data" / folder)
    with pytest.raises(SystemExit):
        run_stage("refine", project, monkeypatch)
    assert below(tmp_path) <= before
