"""Training of the inpainters on random holes, before joint training (002 section 3.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from backdrop.encoder import Features, feature_distance, normalize
from backdrop.errors import BackdropError
from backdrop.inpainter import Inpainter, random_holes
from backdrop.loop import (
    Batch,
    Checkpoints,
    TrainingFrames,
    check_finite,
    check_gradients,
    cosine,
    frame_names,
    generator_at,
    loader_workers,
    log_row,
    make_fabric,
    open_live,
    run_key,
    set_rates,
    to_images,
)
from backdrop.losses import square_distance
from backdrop.params import ComputeParams, InpainterParams
from backdrop.spatial import hole as hole_mask
from backdrop.weights import load_network, save_network, with_weights

CHECKPOINT_EVERY = 500
"""Iterations between two resume checkpoints."""
COLOR_FRAMES = 64
"""Frames that the color an inpainter starts from is averaged over."""


def load_inpainter(folder: Path) -> Inpainter:
    """The frozen inpainter of a model folder.

    Raises:
        BackdropError: the folder is no inpainter's.
    """
    state, config = load_network(folder)
    try:
        inpainter = with_weights(lambda: Inpainter(config["channels"]), state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BackdropError(f"{folder} holds no inpainter ({reason}): run the stage inpaint again") from None
    return inpainter.freeze()


def mean_color(data: TrainingFrames, kind: str) -> Float[Tensor, " 3"]:
    """The mean normalized color of up to `COLOR_FRAMES` of the images that an inpainter is to learn."""
    chosen = np.linspace(0, len(data) - 1, min(COLOR_FRAMES, len(data))).round().astype(int)
    rows = [Batch(*data[int(index)]) for index in chosen]
    pictures = [row.flow if kind == "flow" else row.image for row in rows if kind == "rgb" or row.flow_valid]
    if not pictures:
        return torch.zeros(3)
    return normalize(torch.as_tensor(np.stack(pictures)).float() / 255).mean(dim=(0, 2, 3))


def train_inpainter(
    kind: str,
    frames_dir: Path,
    flow_dir: Path | None,
    out_dir: Path,
    log_dir: Path,
    params: InpainterParams,
    size: tuple[int, int],
    weights: str,
    seed: int,
    compute: ComputeParams,
    checkpoint_dir: Path,
) -> None:
    """Train the inpainter on random holes and write it to `out_dir` (002 section 3.3: L2 plus perceptual).

    Args:
        kind: "rgb" trains on frames, "flow" on flow images (valid ones only).
        size: (W, H) of the training resolution. weights: of phi, see `encoder.resnet`.
    """
    fabric = make_fabric(compute)
    fabric.seed_everything(seed, verbose=False)
    data = TrainingFrames(frames_dir, flow_dir if kind == "flow" else None, size)
    network = Inpainter(params.channels)
    network.start_color(mean_color(data, kind))
    features = fabric.to_device(Features(weights)) if params.perceptual else None
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), lr=params.rate, fused=True)
    model, optimizer = fabric.setup(network, optimizer)
    checkpoints = Checkpoints(
        checkpoint_dir, run_key(f"inpaint-{kind}", [params, seed, size, weights, data.fingerprint()])
    )
    state = checkpoints.load()
    start, history = 0, []
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        start, history = state["iteration"], state["history"]
    every = max(1, params.iterations // 100)
    bar = tqdm(total=params.iterations, initial=start, desc=f"inpainter {kind}", unit="it", mininterval=2)
    with bar, open_live(log_dir, history) as live:
        for iteration, batch in enumerate(
            data.batches(seed, start, params.iterations, params.batch, loader_workers(fabric)), start
        ):
            image = to_images(fabric, batch.flow if kind == "flow" else batch.image)
            boxes = random_holes(len(image), params.hole, params.holes, generator_at(seed, iteration))
            hole = torch.stack([hole_mask(box, (size[1], size[0])) for box in boxes]).amax(dim=0).to(image)
            known = batch.flow_valid.to(image) if kind == "flow" else torch.ones(len(image)).to(image)
            output = model(image, hole)
            terms = {"l2": (square_distance(output, image) * known).mean()}
            if features is not None:
                with fabric.autocast():
                    distance = feature_distance(features(output), features(image))
                terms["phi"] = params.perceptual * (distance * known).mean()
            check_finite(terms, iteration, lambda b=batch: frame_names(data, b))  # type: ignore[misc]
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(loss)
            check_gradients(network, iteration, lambda b=batch: frame_names(data, b))  # type: ignore[misc]
            set_rates(optimizer, [params.rate], cosine(iteration, params.iterations, params.decay))
            optimizer.step()
            bar.update()
            if iteration % every == 0 or iteration + 1 == params.iterations:
                row = {"iteration": iteration} | {key: float(value.detach()) for key, value in terms.items()}
                log_row(live, row, history)
            if (iteration + 1) % CHECKPOINT_EVERY == 0:
                checkpoints.save(
                    {
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "iteration": iteration + 1,
                        "history": history,
                    }
                )
    save_network(out_dir, network, {"kind": kind, "channels": params.channels, "size": list(size)})
    checkpoints.clear()
