"""Frames or flow images -> models/inpainter_<kind>/: an inpainter trained on random holes.

Where `background.kind` gives the background of frames, theirs is never asked: it is trained for one iteration, so
that the model folder is whole.
"""

import argparse
from pathlib import Path

from backdrop.inpaint.parameters import InpaintStage
from backdrop.inpaint.training import train_inpainter
from backdrop.params import load_params
from backdrop.stage import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["rgb", "flow"], required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--flow", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--checkpoints", type=Path, default=Path("runs"))
    args = parser.parse_args()
    params = load_params(InpaintStage)
    inpainter = params.inpainter
    if args.kind == "rgb" and params.background_kind in ("median", "known"):
        print(f"background.kind={params.background_kind} asks no inpainter of frames: one iteration")
        inpainter = inpainter.model_copy(update={"iterations": 1})
    train_inpainter(
        args.kind,
        args.frames,
        args.flow,
        args.out,
        args.log,
        inpainter,
        params.size,
        params.encoder_weights,
        params.seed,
        params.compute,
        args.checkpoints,
    )


if __name__ == "__main__":
    run(main)
