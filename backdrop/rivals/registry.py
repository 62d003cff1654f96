"""The rivals by name. A new one is a file with a function, and a line here and in `rivals/dvc.yaml`.

A rival's file is imported when the rival runs: one that lacks a package does not stop the others.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from backdrop.errors import BackdropError
from backdrop.rivals.material import Rival


class RivalEntry(NamedTuple):
    """Where a rival is found and what the table says of it.

    Attributes:
        module: below this package; its function bears the rival's name.
        title: in tables.
        supervised: "no", or what labels made by people went into it.
        works: where it is known to work, by a test on a scene rendered for it.
        model: the key of `rivals/params.yaml` that names its model's file; "": it needs none.
        trained_as: another rival, whose checkpoints it goes on from and adds to, as its training is the same; "": none.
    """

    module: str
    title: str
    supervised: str
    works: str
    trained_as: str = ""
    model: str = ""


RIVALS: dict[str, RivalEntry] = {
    "video_pca": RivalEntry("classical.video_pca", "VideoPCA", "no", "standing camera"),
    "fast_motion": RivalEntry("classical.regions", "Fast motion segmentation", "no", "any camera"),
    "grabcut": RivalEntry("classical.grabcut", "GrabCut from boxes", "no", "true boxes"),
    "plain_inpaint": RivalEntry("classical.plain_inpaint", "cv2.inpaint in a box", "no", "true boxes, plain ground"),
    "em_motion": RivalEntry("classical.em_motion", "EM motion segmentation", "no", "standing camera"),
    "nlc": RivalEntry("classical.regions", "NLC", "no", "any camera"),
    "arp": RivalEntry("classical.arp", "ARP", "no", "standing camera"),
    "dilate_unet": RivalEntry("learned.dilate_unet", "Unsup-DilateU-Net", "no", "standing camera"),
    "cis": RivalEntry("learned.cis", "CIS", "no", "any camera"),
    "cis_crf": RivalEntry("learned.cis", "CIS, CRF", "no", "any camera", trained_as="cis"),
    "copy_paste": RivalEntry("learned.copy_paste", "Copy-paste GAN", "no", "standing camera"),
    "perturbed_gan": RivalEntry("learned.perturbed_gan", "PerturbedGAN", "no", "standing camera"),
    "nsd": RivalEntry("learned.nsd", "NSD, single view", "no", "standing camera"),
    "u2netp": RivalEntry("learned.u2netp", "U2-Net, light", "saliency masks", "a bright thing before a plain ground"),
    "person_segmenter": RivalEntry(
        "learned.person_segmenter", "Person segmenter", "masks of persons", "stand-in", model="person_model"
    ),
    "instance_model": RivalEntry(
        "learned.instance_model", "Instance model", "as its makers say", "a made model", model="instance_model"
    ),
}


def load_rival(name: str) -> Rival:
    """The function of a rival.

    Raises:
        BackdropError: there is no such rival; names those there are.
    """
    return getattr(import_module(f"backdrop.rivals.{_entry(name).module}"), name)


def trained_as(name: str) -> str:
    """The rival by whose name its checkpoints lie: itself, or one whose training is the same."""
    return _entry(name).trained_as or name


def model_key(name: str) -> str:
    """The key of `rivals/params.yaml` that names a rival's model; "": it needs none."""
    return _entry(name).model


def rival_file(name: str) -> Path:
    """The file of a rival."""
    return Path(__file__).parent / f"{_entry(name).module.replace('.', '/')}.py"


def _entry(name: str) -> RivalEntry:
    if name not in RIVALS:
        raise BackdropError(f"there is no rival {name!r}; rivals are {', '.join(RIVALS)}")
    return RIVALS[name]
