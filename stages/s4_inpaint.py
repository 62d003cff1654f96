"""Frames or flow images -> models/inpainter_<kind>/: an inpainter trained on random holes.

Where `background.kind` gives the background of frames, the inpainter of frames is never asked. It is trained for one
iteration, so that the model folder is there.
"""

import argparse
from pathlib import Path

from backdrop.inpaint.parameters import InpaintFolders, InpaintStage
from backdrop.inpaint.training import InpainterTraining
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
    if args.kind == "rgb" and params.background_kind in ("median", "known"):
        print(f"background.kind={params.background_kind} asks no inpainter of frames: one iteration")
        once = params.inpainter.model_copy(update={"iterations": 1})
        params = params.model_copy(update={"inpainter": once})
    folders = InpaintFolders(args.frames, args.flow, args.log, args.checkpoints)
    InpainterTraining(args.kind, params, folders).run(args.out)


if __name__ == "__main__":
    run(main)
