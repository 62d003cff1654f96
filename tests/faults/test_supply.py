"""Where code and weights come from: what is declared is locked, what is imported is declared, downloads are checked."""

from __future__ import annotations

import ast
import hashlib
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
import torchvision

from backdrop.errors import BackdropError
from backdrop.flow.models import load_flow_model
from backdrop.flow.ptlflow import import_ptlflow
from backdrop.networks.encoder import resnet
from benchmarks.licenses import LOCK, OURS, PAGE, PROJECT, declared, locked, page, plain
from tests.small_pipeline import ROOT

FOLDERS = ("backdrop", "stages", "benchmarks", "tests", "conf/plugins")
NEEDED = declared(ROOT / PROJECT)
HELD = locked(ROOT / LOCK)


def test_every_dependency_is_locked_and_nothing_else_is_called_one() -> None:
    assert len(HELD) > 150
    assert set(NEEDED) == {name for name, held in HELD.items() if OURS in held.via}


def test_locked_versions_are_those_asked_for() -> None:
    requirements = pytest.importorskip("packaging.requirements")  # pytest needs it itself
    for name, word in NEEDED.items():
        wanted = requirements.Requirement(word)
        assert wanted.specifier.contains(HELD[name].version), f"{word}: locked is {HELD[name].version}"
    assert not requirements.Requirement(NEEDED["torch"]).specifier.contains("2.12.0")


def test_every_locked_package_has_hashes_and_someone_who_needs_it() -> None:
    for name, held in HELD.items():
        assert held.hashes, name
        assert held.via, name
        unknown = {plain(word) for word in held.via if word != OURS} - set(HELD)
        assert not unknown, f"{name} is locked for {unknown}, which is not"


def test_what_is_overridden_is_left_out() -> None:
    overrides = tomllib.loads((ROOT / PROJECT).read_text())["tool"]["uv"]["override-dependencies"]
    never = {plain(word.split(";")[0].strip()) for word in overrides if "sys_platform == 'never'" in word}
    assert never == {"opencv-python", "opencv-python-headless"}
    assert not never & set(HELD)
    assert "opencv-contrib-python" in HELD


def modules(path: Path) -> set[str]:
    """The outermost names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def undeclared(paths: list[Path]) -> dict[str, list[str]]:
    """Module -> files that import it though no declared distribution brings it."""
    brings = packages_distributions()
    ours = {"backdrop", "stages", "benchmarks", "tests"} | set(sys.stdlib_module_names)
    found: dict[str, list[str]] = {}
    for path in paths:
        for module in modules(path) - ours:
            if not {plain(name) for name in brings.get(module, ())} & set(NEEDED):
                found.setdefault(module, []).append(path.name)
    return found


def test_every_module_imported_is_declared() -> None:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 90
    assert undeclared(paths) == {}


def test_an_undeclared_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    import requests, os.path\n    from cv2 import imread\n")
    assert undeclared([tmp_path / "x.py"]) == {"requests": ["x.py"]}


def test_the_page_of_licenses_is_up_to_date() -> None:
    assert (ROOT / PAGE).read_text() == page(ROOT / PROJECT, ROOT / LOCK), "run `python -m benchmarks.licenses`"


def test_every_license_is_stated() -> None:
    rows = [line.split(" | ") for line in (ROOT / PAGE).read_text().splitlines() if line.startswith("| ")][1:]
    assert {row[0].strip("| ") for row in rows} == set(NEEDED)
    assert all(len(row) == 3 and "not stated" not in row[2] and len(row[2]) > 3 for row in rows)


# -------------------------------------------------------------------------------------- downloaded weights


def published(folder: Path, stem: str, content: object) -> tuple[Path, Path]:
    """A file named after its hash, as weights are published, and one of that name that holds something else."""
    (folder / "other").mkdir(parents=True)
    torch.save(content, folder / "plain")
    digest = hashlib.sha256((folder / "plain").read_bytes()).hexdigest()[:8]
    original = (folder / "plain").rename(folder / f"{stem}-{digest}.pth")
    torch.save({"planted": torch.ones(1)}, folder / "other" / original.name)
    return original, folder / "other" / original.name


def test_weights_of_another_hash_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.resnet18(weights=None)
    original, planted = published(tmp_path / "site", "resnet18", network.state_dict())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "url", planted.as_uri(), raising=False)
    with pytest.raises(BackdropError, match=r"encoder\.weights=imagenet.*invalid hash value"):
        resnet("resnet18", "imagenet")
    assert not list((tmp_path / "home").rglob("*.pth"))
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "url", original.as_uri(), raising=False)
    assert torch.equal(resnet("resnet18", "imagenet").conv1.weight, network.conv1.weight)


def test_flow_weights_of_another_hash_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, planted = published(tmp_path / "site", "flownetc", {"state_dict": {}})
    checkpoints = import_ptlflow().get_model_reference("flownetc").pretrained_checkpoints
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(checkpoints, "things", planted.as_uri())
    with pytest.raises(BackdropError, match="invalid hash value"):
        load_flow_model("flownetc", "things")
    assert not list((tmp_path / "home").rglob("*.pth"))
    monkeypatch.setitem(checkpoints, "things", original.as_uri())
    with pytest.raises(BackdropError, match=r"does not fit flownetc \(Error\(s\) in loading state_dict"):
        load_flow_model("flownetc", "things")  # it was downloaded, and read: only these weights are not the network's
    assert list((tmp_path / "home").rglob("*.pth"))
