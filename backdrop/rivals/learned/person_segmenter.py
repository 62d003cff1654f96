"""Rival person_segmenter: MediaPipe's selfie segmentation, 250 kB for persons before a camera. Supervised.

The file `selfie_segmentation.tflite` is part of the npm package @mediapipe/selfie_segmentation (Apache 2.0). OpenCV
reads it; TensorFlow is not needed. It learned from masks of persons that people drew, and knows nothing but persons.
Any other TFLite file that takes one image of 256 x 256 in [0, 1] and gives one map in [0, 1] will do. Nothing is
simplified.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from backdrop.errors import BackdropError
from backdrop.io.files import one_line, show
from backdrop.io.masks import Soft
from backdrop.rivals.material import Material

HOW = "`npm pack @mediapipe/selfie_segmentation`, unpack it, and name its selfie_segmentation.tflite as person_model"

PERSON_SIZE = (256, 256)
"""(W, H) of the network's image and map."""


def person_segmenter(material: Material) -> Iterator[Soft]:
    """Soft masks: the network's map.

    Raises:
        BackdropError: no model is named, or it is missing, damaged or another kind of model.
    """
    if material.settings.model is None:
        raise BackdropError(f"no person segmenter: {HOW} in rivals/params.yaml")
    path = Path(material.settings.model)
    if not path.is_file():
        raise BackdropError(f"{show(path)} does not exist: it should be the person_model of rivals/params.yaml")
    network = read_network(path)
    for t in range(len(material)):
        soft = _map(network, path, material.image(t))
        yield material.enlarged(soft)


def _map(network: cv2.dnn.Net, path: Path, image: np.ndarray) -> np.ndarray:
    network.setInput(cv2.dnn.blobFromImage(image, 1 / 255, PERSON_SIZE))  # RGB stays RGB
    try:
        soft = np.squeeze(network.forward())
    except cv2.error as fault:
        raise BackdropError(f"{show(path)} takes no image of {PERSON_SIZE}: {one_line(fault)}") from fault
    if soft.shape != PERSON_SIZE[::-1]:
        raise BackdropError(f"{show(path)} gives no map of its input's size, but an array {soft.shape}")
    return soft


def read_network(path: Path) -> cv2.dnn.Net:
    """A TFLite network.

    Raises:
        BackdropError: OpenCV cannot read it.
    """
    try:
        return cv2.dnn.readNetFromTFLite(str(path))
    except cv2.error as fault:
        raise BackdropError(f"OpenCV cannot read {show(path)} as TFLite: {one_line(fault)}") from fault
