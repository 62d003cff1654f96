"""Self-supervised detection and segmentation of the moving subject in unlabelled video.

Notation (the papers'): I image, p_c and b_c probability and box of cell c from the detector D, q_c the sampling
distribution, T and T^-1 the spatial transformer and its inverse, S the synthesis network, Ibar the inpainted
background, F(I) the composed image, I_f the flow image.

Data flow: frames -> homographies -> flow -> inpainters -> joint training -> self-training -> segmentation -> refinement
-> scores -> report. Each stage has a file in `stages/` and a package here, beside the packages that stages share.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Idle OpenMP threads spin by default. With another process on the same two cores a training step took 3 s so, against
# 0.3 s with threads that sleep. Some microseconds of spinning save a tenth of a step where no other process wants the
# core. OpenMP reads this when torch is loaded, so it is set before.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

_PUBLIC = {"BackdropError": "errors", "Prediction": "networks.predictor", "Segmenter": "app.segmenter"}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that no stage imports (and depends on) what it does not use."""
    if name in _PUBLIC:
        return getattr(import_module(f"backdrop.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'backdrop' has no attribute {name!r}")
