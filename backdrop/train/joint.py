"""Joint training of the detector and the synthesis network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from backdrop.draw import draw_detection
from backdrop.io.files import writing
from backdrop.learn import ranks
from backdrop.learn.checkpoints import Checkpoints
from backdrop.learn.curves import log_row, open_live, progress
from backdrop.learn.fabric import loader_workers, make_fabric
from backdrop.learn.learner import Learner, cosine, generator_at
from backdrop.learn.source_files import run_key
from backdrop.learn.training_frames import Batch, TrainingFrames, frame_names
from backdrop.networks.detector import Detector
from backdrop.networks.encoder import Features, denormalize, normalize
from backdrop.networks.inpainter import Inpainter, load_inpainter
from backdrop.networks.model_folders import save_network
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.train.augmentation import ColorChange, mirrored
from backdrop.train.background import Backgrounds, mask_files
from backdrop.train.box_start import first_size
from backdrop.train.losses import objective
from backdrop.train.model import JointNetworks, Model, Schedule, Step
from backdrop.train.parameters import TrainFolders, TrainParams, TrainStage
from backdrop.train.pretraining import Pretraining, pretraining_checkpoints


def build_model(params: TrainStage, inpainter: Inpainter, inpainter_flow: Inpainter | None) -> Model:
    """D, S and the frozen inpainters with fresh or chosen encoder weights."""
    weights, backbone = params.encoder.weights, params.encoder.backbone
    networks = JointNetworks(
        Detector(params.detector, weights, backbone),
        SynthesisNetwork(params.synthesis, weights, backbone),
        inpainter,
        inpainter_flow if params.loss.alpha_flow else None,
        Features(params.encoder.perceptual, backbone),
    )
    return Model(
        networks,
        params.loss,
        params.sampling,
        params.lambda_,
        inpaint_unknown=params.background.kind in ("inpaint", "auto"),
        hole_only=params.background.hole_only,
    )


def phase(train: TrainParams, iteration: int) -> tuple[str, Schedule]:
    """The start-up phase an iteration belongs to: detector, synthesis, or joint (the papers know only joint)."""
    if iteration < train.detector_iterations:
        return "detector", Schedule(synthesis=False)
    if iteration < train.detector_iterations + train.synthesis_iterations:
        return "synthesis", Schedule()
    joint = iteration - train.detector_iterations - train.synthesis_iterations
    return "joint", Schedule(True, joint >= train.offset_fixed, joint >= train.box_fixed, joint < train.window_mask)


def make_learner(fabric: Fabric, network: Model, train: TrainParams, compiled: bool = False) -> Learner:
    """The optimizer of joint training; its groups: the rest, S's decoder, D's boxes.

    Args:
        compiled: all networks by `torch.compile`.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    groups = [network.synthesis.decoder_parameters(), list(network.detector.box_head.parameters())]
    chosen = {id(parameter) for group in groups for parameter in group}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    parameters = [{"params": group} for group in (rest, *groups)]
    optimizer = torch.optim.Adam(parameters, lr=train.rate, fused=True)
    parts = [network.detector, network.synthesis, network.inpainter, network.inpainter_flow, network.features]
    compiling = [part for part in parts if part is not None] if compiled else []
    return Learner(fabric, network, optimizer, compiling, methods=["autoencode"])


def _pixels(image: Tensor) -> np.ndarray:
    """(1, 3, H, W), normalized -> (H, W, 3) uint8 RGB."""
    rgb = denormalize(image.detach().float().cpu())[0].permute(1, 2, 0).numpy()
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8)


class JointTraining:
    """Joint training of D and S; `run` trains to the end and writes the model folder.

    Args:
        folders: what is read, and where curves and resume states go.
    """

    def __init__(self, params: TrainStage, folders: TrainFolders) -> None:
        self.params, self.folders = params, folders
        self.fabric = make_fabric(params.compute, phases=True)
        self.fabric.seed_everything(params.seed, verbose=False)
        with_flow = params.loss.alpha_flow > 0
        background = None
        if params.background.kind != "inpaint":
            background = Backgrounds(params.background, folders.homographies, params.train.size)
        self.data = TrainingFrames(folders.frames, folders.flow if with_flow else None, params.train.size, background)
        flow = load_inpainter(folders.inpainter_flow) if with_flow else None
        self.network = build_model(params, load_inpainter(folders.inpainter_rgb), flow)
        if params.train.box_start:
            size = first_size(params, self.data)
            if size is not None:
                self.network.detector.start_boxes(size)
        self.fabric.launch()
        self.learner = make_learner(self.fabric, self.network, params.train, params.compute.compile)
        self.rates = [params.train.rate, params.train.decoder_rate, params.train.box_rate]
        self.checkpoints = Checkpoints(folders.checkpoints, self._key(background))
        self.pretrained = pretraining_checkpoints(params, folders, self.data)
        self.total = params.train.detector_iterations + params.train.synthesis_iterations + params.train.iterations

    def _key(self, background: Backgrounds | None) -> str:
        """The name of the run's checkpoint: all that the run depends on."""
        params, folders = self.params, self.folders
        sections: list[Any] = [params.seed, params.lambda_, params.encoder, params.detector, params.synthesis]
        sections += [params.sampling, params.loss, params.background, params.train, self.data.fingerprint()]
        files = [folder / "model.safetensors" for folder in (folders.inpainter_flow, folders.inpainter_rgb)]
        if background is not None:
            seen = background.image is not None
            files += [Path(str(params.background.file))] if seen else sorted(folders.homographies.glob("*.npz"))
            files += mask_files(params.background, self.data.frames)
        return run_key("train", sections, *files)

    def run(self, out_dir: Path) -> None:
        """Train from the last checkpoint (or the start) to the end and write `out_dir`."""
        train = self.params.train
        start, history = self._resume()
        if train.pretrain_iterations and not start:
            Pretraining(self.params, self.folders, self.data, self.fabric).run(self.network)
        bar = progress(self.total, start, "joint training")
        with bar, open_live(self.folders.log, history) as live:
            batches = self.data.batches(self.params.seed, start, self.total, train.batch, loader_workers(self.fabric))
            for iteration, batch in enumerate(batches, start):
                name, schedule = phase(train, iteration)
                bar.set_postfix_str(name, refresh=False)
                row, step = self._iterate(iteration, batch, name, schedule)
                bar.update()
                last = iteration + 1 == self.total
                if row and (iteration % train.log_every == 0 or last):
                    log_row(live, self._summary(iteration, row, step), history)
                if live and step and train.overlay_every and ((iteration + 1) % train.overlay_every == 0 or last):
                    with writing(self.folders.log):
                        live.log_image(f"iteration_{iteration + 1:06d}.png", self._overlays(step))
                if (iteration + 1) % train.checkpoint_every == 0 and not last:
                    self._save(iteration + 1, history)
        self.learner.check_pending()
        if ranks.rank() == 0:
            self._write(out_dir)

    def _write(self, out_dir: Path) -> None:
        """The model folder."""
        save_network(
            out_dir,
            {"detector": self.network.detector, "synthesis": self.network.synthesis},
            {
                "size": list(self.params.train.size),
                "backbone": self.params.encoder.backbone,
                "detector": self.params.detector.model_dump(mode="json"),
                "synthesis": self.params.synthesis.model_dump(mode="json"),
            },
        )
        self.pretrained.clear()
        self.checkpoints.clear()

    def _iterate(
        self, iteration: int, batch: Batch, name: str, schedule: Schedule
    ) -> tuple[dict[str, Tensor], Step | None]:
        """One optimizer step; what is logged of it."""
        image, flow, behind, seen = self._pictures(batch, iteration)
        generator = generator_at(self.params.seed, iteration, self.fabric.device)
        step = None
        if name == "synthesis":
            boxes = self._random_boxes(len(image), iteration).to(image, non_blocking=True)
            loss = self.learner.model.autoencode(image, boxes)
            terms = {"autoencoder": loss}
        else:
            known = (behind, seen > 0) if self.data.background is not None else None
            with_flow = flow if self.params.loss.alpha_flow else None
            valid = batch.flow_valid.to(self.fabric.device, non_blocking=True)
            step = self.learner.model(image, with_flow, valid, schedule, generator=generator, known=known)
            terms = step.terms
            loss = objective(terms, self.params.loss)
        rates = [rate * self._decay(iteration) for rate in self.rates]
        self.learner.learn(iteration, terms, loss, rates, partial(frame_names, self.data, batch))
        return terms, step

    def _pictures(self, batch: Batch, iteration: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normalized image, flow image and known background of a batch, and where that is known; augmented alike."""
        image, flow, behind = (
            picture.to(self.fabric.device, non_blocking=True).float() / 255
            for picture in (batch.image, batch.flow, batch.background)
        )
        seen = batch.known.to(self.fabric.device, non_blocking=True)
        if self.params.train.augment:
            # A stream of its own: the draws of cells stay those of a run without augmentation.
            generator = generator_at(self.params.seed + 1, iteration)
            change = ColorChange(len(image), generator)
            image, behind = change(image), change(behind)
            image, flow, behind, seen = mirrored((image, flow, behind, seen), generator)
        image, flow, behind = (
            normalize(picture).contiguous(memory_format=torch.channels_last) for picture in (image, flow, behind)
        )
        return image, flow, behind, seen

    def _decay(self, iteration: int) -> float:
        """The factor of the learning rates: each phase has its cosine."""
        train = self.params.train
        joint = train.detector_iterations + train.synthesis_iterations
        for begin, length in (
            (0, train.detector_iterations),
            (train.detector_iterations, train.synthesis_iterations),
            (joint, train.iterations),
        ):
            if begin <= iteration < begin + length:
                return max(0.02, cosine(iteration - begin, length, train.decay))
        return 1.0

    def _random_boxes(self, count: int, iteration: int) -> Tensor:
        """Boxes of the sizes D may propose, anywhere inside the image."""
        generator = generator_at(self.params.seed, iteration)
        low, high = self.params.detector.scale
        scale = low + (high - low) * ranks.rand(count, 2, generator=generator)
        center = (2 * ranks.rand(count, 2, generator=generator) - 1) * (1 - scale)
        return torch.cat([center, 2 * scale], dim=1)

    def _summary(self, iteration: int, terms: Mapping[str, Tensor], step: Step | None) -> dict[str, float]:
        """One point of the logged curves."""
        row = {"iteration": iteration} | {f"loss/{key}": float(value.detach()) for key, value in terms.items()}
        if step is not None:
            p = step.proposals.p.detach()
            row["p/entropy"] = float(-(p * p.clamp_min(1e-12).log()).sum(dim=1).mean())
            row["p/max"] = float(p.amax(dim=1).mean())
            row["box/width"] = float(step.box[:, 2].detach().mean() / 2)
            row["box/height"] = float(step.box[:, 3].detach().mean() / 2)
            if step.mask is not None:
                areas = step.mask.detach().mean(dim=(1, 2, 3))
                row["mask/area"] = float(areas.mean())
                row["mask/below"] = float((areas < self.params.lambda_).float().mean())
        return row

    def _overlays(self, step: Step) -> np.ndarray:
        """The first four images with their argmax detections, masks and backgrounds, (H, W, 3) uint8."""
        best, boxes = step.proposals.best()
        rows = []
        for i in range(min(4, len(step.image))):
            image = _pixels(step.image[i : i + 1])
            mask = step.mask[i, 0].detach().float().cpu().numpy() if step.mask is not None else None
            p = step.proposals.p[i].detach().float().cpu().numpy()
            side = round(math.sqrt(len(p)))
            drawn = draw_detection(
                image, boxes[i].detach().float().cpu().numpy(), int(best[i]), p.reshape(side, side), mask
            )
            others = [
                step.background[i : i + 1],
                step.composed[i : i + 1] if step.composed is not None else None,
            ]
            panels = [cv2.resize(drawn, (320, 320 * image.shape[0] // image.shape[1]))]
            for panel in others:
                if panel is not None:
                    panels.append(cv2.resize(_pixels(panel), panels[0].shape[1::-1]))
            rows.append(np.concatenate(panels, axis=1))
        return np.concatenate(rows, axis=0)

    def _save(self, iteration: int, history: list) -> None:
        state = self.learner.state(without=("features.",))
        self.checkpoints.save(state | {"iteration": iteration, "history": history})
        self.pretrained.clear()

    def _resume(self) -> tuple[int, list]:
        state = self.checkpoints.load()
        if state is None:
            return 0, []
        self.learner.restore(state, strict=False)
        return state["iteration"], state["history"]
