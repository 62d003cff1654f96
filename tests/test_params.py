from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.app.reference import DESCRIPTIONS
from backdrop.config.sections import Key, StageParams
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError
from backdrop.frames.parameters import DataParams
from backdrop.io.index import read_index
from backdrop.params import Params, compose_params, load_params, read, validate
from backdrop.refine.parameters import RefineStage
from backdrop.video.encode import encode_video
from tests.handmade_run import scene
from tests.small_pipeline import run_stage, small_values

ROOT = Path(__file__).parent.parent


def composed(tmp_path: Path, *overrides: str) -> Path:
    out = tmp_path / "params.yaml"
    compose_params(list(overrides), out, ROOT / "conf")
    return out


def test_params_yaml_is_what_conf_composes(tmp_path: Path) -> None:
    assert yaml.safe_load(composed(tmp_path).read_text()) == yaml.safe_load((ROOT / "params.yaml").read_text())


GROUPS = {group: sorted(p.stem for p in (ROOT / "conf" / group).glob("*.yaml")) for group in ("data", "scale", "paper")}


@pytest.mark.parametrize("choice", list(itertools.product(*GROUPS.values())), ids="-".join)
def test_every_shipped_combination_is_valid(choice: tuple[str, ...], tmp_path: Path) -> None:
    read(composed(tmp_path, *(f"{group}='{name}'" for group, name in zip(GROUPS, choice, strict=True))))


@pytest.mark.parametrize(
    ("command", "root", "path"),
    [
        ("dvc exp run", "footage/skiers", "footage/skiers"),
        ("dvc exp run", "/films/skiers", "/films/skiers"),
        ("dvc exp run", "a/../../films", "a/../../films"),
        ("dvc exp run", "~/films", os.path.expanduser("~/films")),
        ("dvc exp run --temp", "a/../../films", str(ROOT.parent / "films")),
        ("dvc exp run --que -S seed=1", "../films", str(ROOT.parent / "films")),
        ("dvc exp run --temp", "footage/skiers", "footage/skiers"),
        ("dvc exp run --temp", "~/films", os.path.expanduser("~/films")),
    ],
)
def test_a_root_outside_of_the_repository_is_composed_absolute_for_a_checkout_elsewhere_alone(
    command: str, root: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", command.split())
    params = read(composed(tmp_path, "data=videos", f"data.root={root}"))
    assert (params.data.root, params.data.path) == (root, path)


@pytest.mark.parametrize("checkout", ["", ".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp2"])
def test_a_moved_project_reads_the_footage_that_moved_with_it_or_names_the_key(checkout: str, tmp_path: Path) -> None:
    (tmp_path / "new" / "project" / checkout).mkdir(parents=True)
    project = tmp_path / "new" / "project" / checkout

    def data(root: str, path: str) -> DataParams:
        changed = values()
        changed["data"] |= {"root": root, "path": path}
        return validate(changed).data

    relative = data("../vids", "../vids")
    assert relative.place(project) == "../vids"
    right = data("../vids", str(tmp_path / "new" / "vids"))
    assert right.place(project) == right.path
    assert data("/films", "/films").place(project) == "/films"
    with pytest.raises(BackdropError, match=r"data\.path is .*old/vids, but data\.root=\.\./vids leads to .*new/vids"):
        data("../vids", str(tmp_path / "old" / "vids")).place(project)


def test_the_stage_frames_does_not_read_the_old_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("old", "new"):
        encode_video(tmp_path / place / "vids" / f"{place}.mp4", scene(3)[0])
    project = tmp_path / "new" / "project"
    project.mkdir()
    given = small_values({"data.layout": "videos", "data.protocol": "self", "data.root": "../vids"})
    (project / "params.yaml").write_text(yaml.safe_dump(given))
    run_stage("frames", project, monkeypatch)
    assert list(read_index(project / "data" / "frames").sequence) == ["new"]
    given["data"]["path"] = str(tmp_path / "old" / "vids")
    (project / "params.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(SystemExit):
        run_stage("frames", project, monkeypatch)
    assert "error: data.path is" in capsys.readouterr().err


ODD = [
    "~/films",
    "run (1)",
    "it's",
    "a,b",
    "a:b",
    "x=y",
    "back\\slash",
    "end\\",
    'q"uote',
    "a b",
    "[x",
    "(",
    "'",
    "\\'",
    "{a}",
    "a ",
]


@pytest.mark.parametrize("root", ["/films/" + name if name[0] != "~" else name for name in ODD])
def test_a_path_needs_no_quotes_of_hydra(root: str, tmp_path: Path) -> None:
    params = read(composed(tmp_path, "data=videos", f"data.root={root}", "seed=3", "data.size=[64,32]"))
    assert (params.data.root, params.data.path) == (root, os.path.expanduser(root))
    assert (params.seed, params.data.size) == (3, (64, 32))


@pytest.mark.parametrize("root", ["other", "/films", "../films", "~/films"])
def test_a_root_edited_by_hand_must_agree_with_its_path(root: str) -> None:
    wrong = values()
    wrong["data"]["root"] = root
    with pytest.raises(BackdropError, match=r"data\.path is data/footage, which is not where data\.root="):
        validate(wrong)


def test_presets_hold_the_numbers_in_which_the_papers_differ(tmp_path: Path) -> None:
    seen = {year: read(composed(tmp_path, f"paper=p{year}")) for year in (2020, 2021, 2022)}
    assert [p.loss.hole_margin for p in seen.values()] == [0.2, 0.1, 0.15]
    assert [p.synthesis.hidden for p in seen.values()] == [(600, 128), (600, 256), (600, 256)]
    assert [p.synthesis.linears for p in seen.values()] == [2, 1, 1]
    assert [p.synthesis.decoder for p in seen.values()] == [[32, 64, 128, 256], *[[64, 128, 256, 512]] * 2]
    assert [p.loss.p_prior for p in seen.values()] == ["margin", "margin", "l1"]
    assert [p.loss.alpha_flow > 0 for p in seen.values()] == [False, True, True]
    assert [p.crf.enabled for p in seen.values()] == [False, True, True]
    assert [p.crf.reference_diagonal for p in seen.values()] == [None] * 3
    assert [p.loss.bg_perceptual for p in seen.values()] == [True, True, False]
    assert [p.detector.offset_unit for p in seen.values()] == ["cell", "box", "box"]
    assert [p.detector.grid for p in seen.values()] == [8, 8, 8]
    assert [(p.student.rounds, p.inpainter.rate) for p in seen.values()] == [(0, 0.001)] * 3
    assert not any(p.loss.beta_flow or p.background.tolerance for p in seen.values())
    for p in seen.values():
        assert (p.sampling.cells, p.sampling.baseline, p.sampling.epsilon) == (1, "none", 0.001)
        assert (p.train.detector_iterations, p.train.synthesis_iterations, p.train.box_fixed) == (0, 0, 0)
        assert (p.train.offset_fixed, p.train.box_start, p.train.augment, p.train.box_rate) == (0, 0, False, 0.001)
        assert (p.train.rate, p.train.decoder_rate, p.train.batch, p.detector.scale) == (0.001, 0.0001, 16, (0.2, 0.8))
        assert (p.loss.scale_prior, p.loss.offset_prior, p.loss.autoencoder, p.train.decay) == (0, 0, 0, False)
        assert (p.background.kind, p.synthesis.skip, p.synthesis.window) == ("inpaint", False, 4)
        assert (p.loss.alpha, p.loss.beta, p.loss.gamma, p.loss.eta, p.loss.zeta) == (0.1, 1, 2, 0.25, 0.1)


def values() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_all_problems_are_named_at_once() -> None:
    wrong = values()
    wrong["loss"]["alpah"] = 1
    wrong["crf"]["iterations"] = 0
    del wrong["seed"]
    wrong["flow"]["model"] = "flownet2"
    with pytest.raises(BackdropError) as caught:
        validate(wrong)
    for key in ("loss.alpah: unknown key", "crf.iterations", "seed: missing", "flow.checkpoint"):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        ("sampling", "cells", 1, "leave_one_out"),
        ("detector", "scale", [0.8, 0.2], "detector.scale"),
        ("detector", "grid", 4, "detector.grid"),
        ("detector", "grid", 1, None),
        ("synthesis", "decoder", [64], "synthesis.decoder"),
        ("data", "protocol", "self", None),
        ("compute", "device", "gpu", "compute.device"),
        ("data", "layout", "davs", "data.layout"),
        ("train", "rate", float("nan"), "train.rate"),
    ],
)
def test_bad_values_and_combinations(section: str, key: str, value: object, named: str | None) -> None:
    wrong = values()
    wrong[section][key] = value
    if named is None:
        validate(wrong)
        return
    with pytest.raises(BackdropError, match=named):
        validate(wrong)


LEAVES = [(section, key) for section, keys in values().items() if isinstance(keys, dict) for key in keys]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LEAVES), st.one_of(st.none(), st.text(max_size=5), st.floats(), st.integers(-5, 5)))
def test_any_value_is_taken_or_named(leaf: tuple[str, str], value: object) -> None:
    wrong = values()
    wrong[leaf[0]][leaf[1]] = value
    message = ""
    try:
        validate(wrong)
    except BackdropError as error:
        message = str(error)
    assert not message or leaf[0] in message


@pytest.mark.parametrize("key", [None, 7, True, 1.5])
def test_a_key_that_is_no_name_is_named(key: object) -> None:
    with pytest.raises(BackdropError, match=f"{key}"):
        validate(values() | {key: 0})


def test_a_stage_gets_the_keys_it_names_and_no_others() -> None:
    class Reads(StageParams):
        crf: CRFParams
        layout: str = Key("data.layout")
        lambda_: float = Key("lambda")

    chosen = load_params(Reads, ROOT / "params.yaml")
    assert Reads.keys() == ["crf", "data.layout", "lambda"]
    assert chosen.crf == read(ROOT / "params.yaml").crf
    assert (chosen.layout, chosen.lambda_) == ("synthetic", 0.005)
    assert not hasattr(chosen, "data")


def test_a_stage_that_reads_one_section_checks_the_whole_file(tmp_path: Path) -> None:
    wrong = values()
    wrong["detector"]["grid"] = 7
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(BackdropError, match=r"detector: .*grid"):
        load_params(RefineStage, tmp_path / "params.yaml")


def test_every_key_has_a_description_and_every_description_a_key() -> None:
    described = yaml.safe_load(DESCRIPTIONS.read_text())
    fields = {name: field for name, field in Params.model_fields.items() if name not in ("seed", "lambda_", "preset")}
    for section, field in fields.items():
        keys = set(field.annotation.model_fields)  # type: ignore[union-attr]
        assert set(described[section]) - {"about"} == keys, section
    assert set(described) - {"general"} == set(fields)
    assert set(described["general"]) == {"seed", "lambda", "preset"}


@pytest.mark.parametrize("text", ["{", "- 1", "\x00", ""])
def test_a_file_that_is_no_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(BackdropError, match="params.yaml"):
        read(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lamda=1", "lamda: unknown key; did you mean lambda?"),
        ("student.rouds=2", "student.rouds: unknown key; did you mean student.rounds?"),
        ("zzzzqq=1", "zzzzqq: unknown key; see docs/parameters.md"),
        ("+zzzzqq=1", "zzzzqq: unknown key"),
        ("data=nope", "data=nope: data is one of bms26, cdnet2014"),
        ("paper=2022", "paper=2022: paper is one of none, p2020, p2021, p2022"),
        ("scale=", "scale=: scale is one of ablation, ablation_papers, d_and_s, demo"),
        ("", "'' is no KEY=VALUE"),
        ("data root=it's", '"data root=it\'s" is no KEY=VALUE'),
        ("lambda", "'lambda' is no KEY=VALUE"),
        ("lambda=1,2", "lambda: Input should be a valid number"),
        ("data.root=${nope}", "data.root=${nope}: ${...} stands for another key"),
        ("data.root=a${b", "data.root=a${b: ${...} stands for another key"),
        ("lambda=abc", "lambda: Input should be a valid number"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_it_and_params_stay(override: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("as it was")
    with pytest.raises(BackdropError) as caught:
        composed(tmp_path, override)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 + str(caught.value).startswith(
        f"{tmp_path}/params.yaml has 1 problem"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert (tmp_path / "params.yaml").read_text() == "as it was"


def test_what_is_advised_in_conf_and_docs_is_taken(tmp_path: Path) -> None:
    pages = [ROOT / "README.md", ROOT / "conf" / "config.yaml", *(ROOT / "docs").glob("*.md")]
    lines = [
        line for page in pages for line in page.read_text().splitlines() if "dvc exp run" in line and " -S " in line
    ]
    assert len(lines) > 8
    for line in lines:
        command = re.search(r"dvc exp run( -S ([\w.+]+=[\w./-]+))+", line)
        if command and "key=value" not in line:
            composed(tmp_path, *re.findall(r"-S (\S+=[^\s`]+)", command[0]))


def test_no_name_of_a_group_is_a_number() -> None:
    """`-S paper=2022` is refused by Hydra."""
    names = [path.stem for path in (ROOT / "conf").rglob("*.yaml")]
    assert [name for name in names if not isinstance(yaml.safe_load(name), str)] == []


def test_no_conf(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match=r"config\.yaml does not exist: run in the folder"):
        compose_params([], tmp_path / "params.yaml", tmp_path / "conf")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BackdropError, match="does not exist"):
        read(tmp_path / "params.yaml")


def test_dvc_watches_the_folder_in_which_labels_lie(tmp_path: Path) -> None:
    """The footage's own folder, of a single video the folder `labels` beside it, or what the key names."""
    videos = tmp_path / "my videos"
    videos.mkdir()
    (videos / "a.mp4").touch()
    for root in (videos, videos / "a.mp4"):
        assert read(composed(tmp_path, "data=videos", f"data.root='{root}'")).data.labels == str(root)
    (videos / "labels").mkdir()
    assert read(composed(tmp_path, "data=videos", f"data.root='{videos}'")).data.labels == str(videos)
    beside = read(composed(tmp_path, "data=videos", f"data.root='{videos / 'a.mp4'}'"))
    assert beside.data.labels == str(videos / "labels")
    assert read(composed(tmp_path, "data.labels=/elsewhere")).data.labels == "/elsewhere"
    with pytest.raises(BackdropError, match=r"data\.labels is ~/x: write the path out"):
        composed(tmp_path, "data.labels='~/x'")
    student = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["student"]
    assert "${data.labels}" in student["deps"]
    assert "data.labels" in student["params"]


def test_dvc_watches_the_region_of_interest(tmp_path: Path) -> None:
    """Where there is none, a file that is always there, and no path of the stage's twice."""
    plain = read(composed(tmp_path, "data=videos")).data
    assert plain.roi is None
    assert (ROOT / plain.roi_path).is_file()
    given = read(composed(tmp_path, "data=videos", "data.roi=/elsewhere/roi.png")).data
    assert (given.roi, given.roi_path) == ("/elsewhere/roi.png", "/elsewhere/roi.png")
    assert read(composed(tmp_path, "data.roi='~/roi'")).data.roi_path == str(Path.home() / "roi")
    with pytest.raises(BackdropError, match=r"data\.roi_path is .*is not where data\.roi=roi\.png lies"):
        validate(small_values({"data.roi": "roi.png"}))
    with pytest.raises(BackdropError, match=r"data\.roi"):
        composed(tmp_path, "data.roi=''")
    frames = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["frames"]
    assert "${data.roi_path}" in frames["deps"]
    assert plain.roi_path not in frames["deps"]
