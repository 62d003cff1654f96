"""Rival dilate_unet: Unsup-DilateU-Net (Croitoru, Bogolin and Leordeanu, IJCV 2019: "Unsupervised learning of
foreground object segmentation").

VideoPCA teaches. The better half of its soft masks, by the mean of their values above zero, trains networks that
segment a single image; the mean of these teaches the next generation in the same way, and the mean of that one is the
result. Simplified: two students of unlike width a generation (the original: several architectures), small U-Nets
without dilated convolutions, at half the working size, taught by this one sequence instead of by hours of video; the
original also trains a network to select masks; masks are taught as 0 and 1, by Otsu's rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import nn

from backdrop.io.masks import Soft
from backdrop.networks.student import StudentNetwork
from backdrop.rivals.classical.video_pca import video_pca
from backdrop.rivals.learned.training import TrainingStep, as_batch, drawn, train_network
from backdrop.rivals.material import Material
from backdrop.rivals.scores import sequence_otsu
from backdrop.rivals.spent import Clock
from backdrop.student.targets import augment, student_loss, to_normal

WIDTHS = ([16, 24, 32, 48], [12, 24, 48, 64])
"""Channels of the levels of each student."""

GENERATIONS, ITERATIONS, STUDENT_BATCH, RATE = 2, 250, 8, 0.002

SHARE = 0.5
"""Of the soft masks that teach."""

STUDENT_WIDTH = 160
"""Of the students' images, pixels."""


def dilate_unet(material: Material) -> Iterator[Soft]:
    """Soft masks: the mean of the last generation."""
    size = (STUDENT_WIDTH, round(STUDENT_WIDTH * material.size[1] / material.size[0]))
    images = [cv2.resize(material.image(t), size, interpolation=cv2.INTER_AREA) for t in range(len(material))]
    softs = [cv2.resize(soft, size, interpolation=cv2.INTER_AREA) for soft in video_pca(material)]
    clock = Clock(material.settings.scratch)
    for generation in range(GENERATIONS):
        students: list[nn.Module] = []
        for number, channels in enumerate(WIDTHS):
            name = f"dilate_unet_{generation}_{number}"
            torch.manual_seed(material.settings.params.seed + number)
            step = taught(images, hard(softs), better(softs))
            students.append(
                train_network(
                    material, StudentNetwork(channels), step, name=name, total=ITERATIONS, rate=RATE, clock=clock
                )
            )
        softs = [together(students, image) for image in images]
    for soft in softs:
        yield material.enlarged(soft)


def better(softs: list[Soft]) -> list[int]:
    """The frames whose soft masks teach: those of the largest mean above zero."""
    worth = [float(soft[soft > 0.02].mean()) if (soft > 0.02).any() else 0.0 for soft in softs]
    return [int(t) for t in np.argsort(worth)[::-1][: max(1, round(SHARE * len(softs)))]]


def hard(softs: list[Soft]) -> list[Soft]:
    """The masks at Otsu's threshold over the sequence, 0 and 1."""
    level = sequence_otsu(softs)
    return [(soft > level).astype(np.float32) for soft in softs]


def taught(images: list[np.ndarray], masks: list[Soft], frames: list[int]) -> TrainingStep:
    """A step of binary cross-entropy against masks, on frames drawn with random changes."""

    def step(_: int, network: nn.Module, generator: torch.Generator) -> torch.Tensor:
        chosen = [frames[i] for i in drawn(generator, len(frames), STUDENT_BATCH)]
        label = torch.from_numpy(np.stack([[masks[t], np.ones_like(masks[t])] for t in chosen]))
        image, label = augment(as_batch([images[t] for t in chosen]), label, generator)
        return student_loss(network(to_normal(image)), label)

    return step


@torch.inference_mode()
def together(students: list[nn.Module], image: np.ndarray) -> Soft:
    """The students' mean soft mask of an image."""
    x = to_normal(as_batch([image]))
    return torch.stack([student(x).sigmoid()[0, 0] for student in students]).mean(dim=0).numpy()
