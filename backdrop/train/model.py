"""The forward pass of joint training: Algorithm 1 of the journal version, with all its losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from backdrop.networks import encoder, spatial
from backdrop.networks.detector import Detector, Proposals, select
from backdrop.networks.encoder import Features, feature_distance
from backdrop.networks.inpainter import Inpainter
from backdrop.networks.synthesis import SynthesisNetwork
from backdrop.train import losses
from backdrop.train.parameters import LossParams, SamplingParams
from backdrop.train.sampling import Draw, draw_cells, expectation


class JointNetworks(NamedTuple):
    """The networks of joint training: D, S, the inpainters of images and of flow images, phi."""

    detector: Detector
    synthesis: SynthesisNetwork
    inpainter: Inpainter
    inpainter_flow: Inpainter | None
    features: Features


class StepImages(NamedTuple):
    """What a step sees. image, flow: (B, 3, H, W), normalized; flow_valid: (B,), which flow images count.

    known: normalized backgrounds B, (B, 3, H, W), and where they are known, (B, 1, H, W); None: nowhere.
    """

    image: Tensor
    flow: Tensor | None
    flow_valid: Tensor | None
    known: tuple[Tensor, Tensor] | None


class Behind(NamedTuple):
    """What is behind the subject for every drawn cell. background: Ibar, (K, B, 3, H, W).

    motion: what moves, (I_f - its Ibar)^2, averaged over channels, (K, B, 1, H, W), 0 where flow does not count.
    """

    background: Tensor
    motion: Tensor | None


class Schedule(NamedTuple):
    """What a start-up phase changes in a step. The papers have no such phases."""

    synthesis: bool = True  # False: only p learns, S is not run
    offsets_learn: bool = True
    sizes_learn: bool = True
    window_mask: bool = False  # the focal window stands for the mask


class Step(NamedTuple):
    """A joint step's outcome.

    image: I as the networks saw it, normalized and augmented.
    terms: scalar losses by name, unweighted, for `losses.objective`.
    proposals, cell, box: what D proposed, the drawn cell and its box.
    mask: pasted mask T^-1(S), 1 = foreground; None while S is not run.
    background: Ibar of the drawn cell; composed: F(I), None while S is not run.
    """

    image: Tensor
    terms: dict[str, Tensor]
    proposals: Proposals
    cell: Tensor
    box: Tensor
    mask: Tensor | None
    background: Tensor
    composed: Tensor | None


def without_gradient_to(loss: Float[Tensor, ""], tensor: Tensor) -> Float[Tensor, ""]:
    """`loss` with its value unchanged, and no gradient of it reaching `tensor` (others learn as before)."""
    if not (tensor.requires_grad and loss.requires_grad):
        return loss
    (gradient,) = torch.autograd.grad(loss, tensor, retain_graph=True, allow_unused=True)
    if gradient is None:
        return loss
    linear = (gradient.detach() * tensor).sum()
    return loss - (linear - linear.detach())


class Model(nn.Module):
    """D, S, the frozen inpainters and phi, with the rule who learns from what.

    Who learns (disentangled training): L_bg only p; L_fg and L_phi only b and S; the mask prior only S; the
    prior on p only p. `loss.disentangled: false` lets every loss reach everything (2022, Fig. 11b). With
    `loss.p_learns: reconstruction` (001, section 3.1, for a known B) p learns from L_fg and L_phi, and not from L_bg.

    Args:
        inpaint_unknown: inpaint where no background is known; False takes the image itself there, which says nothing
            about the subject and saves the inpainter.
        hole_only: an inpainter's output is Ibar inside the hole, and the image itself outside; False: everywhere.
    """

    def __init__(
        self,
        networks: JointNetworks,
        loss: LossParams,
        sampling: SamplingParams,
        lambda_: float,
        *,
        inpaint_unknown: bool = True,
        hole_only: bool = True,
    ) -> None:
        super().__init__()
        self.detector = networks.detector
        self.synthesis = networks.synthesis
        self.inpainter = networks.inpainter.freeze()
        self.inpainter_flow = networks.inpainter_flow.freeze() if networks.inpainter_flow is not None else None
        self.features = networks.features
        self.loss, self.sampling, self.lambda_ = loss, sampling, lambda_
        self.inpaint_unknown, self.hole_only = inpaint_unknown, hole_only

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"],
        flow: Float[Tensor, "B 3 H W"] | None = None,
        flow_valid: Bool[Tensor, "B"] | None = None,
        schedule: Schedule = Schedule(),  # noqa: B008 - immutable
        *,
        generator: torch.Generator | None = None,
        known: tuple[Float[Tensor, "B 3 H W"], Bool[Tensor, "B 1 H W"]] | None = None,
    ) -> Step:
        """One training step's losses.

        Args:
            image: normalized images I.
            flow: normalized flow images I_f.
            flow_valid: which of them count; None: all.
            generator: draws the cells.
            known: normalized backgrounds B, and where they are known; None: nowhere.
        """
        proposals = self.detector(image)
        drawn = draw_cells(proposals.p, self.detector.live, self.sampling, generator)
        proposals = _learning(proposals, schedule)
        terms, behind = self._background_terms(StepImages(image, flow, flow_valid, known), proposals, drawn)
        cell = drawn.cell[0]
        box = select(proposals.box, cell)
        terms["p"] = losses.probability_prior(
            proposals.p, self.loss.p_prior, select(proposals.p[..., None], cell)[:, 0]
        ).mean()
        if not schedule.synthesis:
            return Step(image, terms, proposals, cell, box, None, behind.background[0], None)
        behind = behind._replace(background=self._where_known(behind.background, known))
        learned, mask, composed = self._foreground_terms(image, proposals, drawn, behind, schedule)
        terms |= learned
        terms["scale"], terms["offset"] = losses.box_priors(
            select(proposals.scale, cell), select(proposals.offset, cell), self.loss.scale_target
        )
        return Step(image, terms, proposals, cell, box, mask, behind.background[0], composed)

    def autoencode(self, image: Float[Tensor, "B 3 H W"], box: Float[Tensor, "B 4"]) -> Float[Tensor, ""]:
        """Loss of S as an auto-encoder on given boxes: L2 inside the focal window (start-up schedule)."""
        crop = spatial.crop(image, box, self.synthesis.params.crop)
        return reconstruction(self.synthesis(crop).foreground, crop, self.synthesis.window)

    def _background_terms(
        self, pictures: StepImages, proposals: Proposals, drawn: Draw
    ) -> tuple[dict[str, Tensor], Behind]:
        """L_bg on images and on flow images, and what is behind the subject."""
        image, flow, flow_valid, known = pictures
        entangled = not self.loss.disentangled
        count, batch = drawn.cell.shape
        size = (image.shape[2], image.shape[3])
        box = torch.cat([select(proposals.box, cell) for cell in drawn.cell])
        if not entangled:
            box = box.detach()  # L_bg must not move boxes towards high error density
        hole = spatial.hole(spatial.expand(box, self.loss.hole_margin), size, learn=entangled)
        area = losses.area(box, self.loss.hole_margin if self.loss.area == "hole" else 0.0, self.loss.area_outside)
        if self.loss.p_learns == "reconstruction":
            drawn = drawn._replace(weight=drawn.weight.detach())
        repeated = image.repeat(count, 1, 1, 1)
        learns = entangled and torch.is_grad_enabled()  # through the hole, to the boxes
        with torch.set_grad_enabled(learns):
            background = self._fill(repeated, hole, known)
            distance = encoder.square_distance(background, repeated)
            if self.loss.bg_perceptual:
                seen = tuple(level.repeat(count, 1, 1, 1) for level in self.features(image))
                distance = distance + 2 * feature_distance(self.features(background), seen)
        value = losses.background_loss(distance, area).view(count, batch)
        terms = {"bg": expectation(drawn, value).mean()}
        motion = None
        if flow is not None and self.inpainter_flow is not None:
            repeated = flow.repeat(count, 1, 1, 1)
            with torch.set_grad_enabled(learns):
                predicted = self._inpaint(self.inpainter_flow, repeated, hole)
                distance = encoder.square_distance(predicted, repeated)
            value = losses.background_loss(distance, area).view(count, batch)
            counts = torch.ones(batch, device=image.device) if flow_valid is None else flow_valid.float()
            terms["bg_flow"] = (expectation(drawn, value) * counts).mean()
            motion = (predicted - repeated).square().mean(dim=1, keepdim=True).unflatten(0, (count, batch))
            motion = motion * counts[:, None, None, None]
        return terms, Behind(background.unflatten(0, (count, batch)), motion)

    def _inpaint(self, inpainter: Inpainter, image: Tensor, hole: Tensor) -> Tensor:
        """Ibar by an inpainter. Algorithm 1 takes its whole output."""
        return inpainter.background(image, hole) if self.hole_only else inpainter(image, hole)

    def _fill(self, image: Tensor, hole: Tensor, known: tuple[Tensor, Tensor] | None) -> Tensor:
        """Ibar: inside the hole the known background, or the inpainter's; outside it the image itself (`hole_only`).

        A known background counts inside the hole only, or L_bg could not tell one cell from another.
        """
        background = image
        if known is None or self.inpaint_unknown:
            background = self._inpaint(self.inpainter, image, hole)
        if known is None:
            return background
        count = len(image) // len(known[0])
        behind, seen = (part.repeat(count, 1, 1, 1) for part in known)
        shown = hole * seen
        return shown * behind + (1 - shown) * background

    def _where_known(
        self, background: Float[Tensor, "K B 3 H W"], known: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "K B 3 H W"]:
        """Ibar for L_fg: the known background wherever it is known, as in Algorithm 1's exists(B).

        What a box leaves out of the subject then costs. Otherwise the image explains itself outside the hole, and
        nothing hinders a box from sliding off the subject or shrinking.
        """
        if known is None or not self.loss.whole_background:
            return background
        behind, seen = known
        return torch.where(seen, behind, background)

    def _foreground_terms(
        self,
        image: Tensor,
        proposals: Proposals,
        drawn: Draw,
        behind: Behind,
        schedule: Schedule,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """L_fg, L_phi and the mask prior; the pasted mask and F(I) of the first drawn cell.

        Drawn cells after the first are for L_bg alone (S is the expensive part); where all cells are listed
        (sampling exact), all of them count here too.
        """
        terms: dict[str, Tensor] = {}
        entangled = not self.loss.disentangled
        exact = self.sampling.kind == "exact"
        count = len(drawn.cell) if exact else 1
        weight = drawn.weight[:count] * (1 if exact else len(drawn.weight))
        if not entangled and self.loss.p_learns == "background":
            weight = weight.detach()  # L_fg must not pull p towards the background, where it is trivial
        box = torch.cat([select(proposals.box, cell) for cell in drawn.cell[:count]])
        images = image.repeat(count, 1, 1, 1)
        size = (image.shape[2], image.shape[3])
        crop = spatial.crop(images, box, self.synthesis.params.crop)
        foreground, mask = self.synthesis(crop)
        if self.loss.autoencoder:
            # Free colors would let a faint mask with glaring colors explain the image: they stay those of the crop.
            distance = reconstruction(foreground, crop.detach(), self.synthesis.window)
            terms["auto"] = distance if entangled else without_gradient_to(distance, crop)
        if schedule.window_mask:
            mask = self.synthesis.window.expand_as(mask)
        pasted = spatial.paste(torch.cat([foreground * mask, mask], dim=1), box, size)
        composed = losses.compose(pasted[:, :3], pasted[:, 3:], behind.background[:count].flatten(0, 1))
        terms["fg"] = (weight.flatten() * losses.foreground_loss(composed, images)).sum() / len(image)
        if behind.motion is not None and self.loss.beta_flow:
            unexplained = losses.flow_foreground_loss(pasted[:, 3:], behind.motion[:count].flatten(0, 1))
            terms["fg_flow"] = (weight.flatten() * unexplained).sum() / len(image)
        if self.loss.gamma:
            with torch.no_grad():
                seen = tuple(level.repeat(count, 1, 1, 1) for level in self.features(image))
            distance = feature_distance(self.features(composed), seen)
            terms["phi"] = (weight.flatten() * distance).sum() / len(image)
        if schedule.window_mask:
            return terms, pasted[: len(image), 3:], composed[: len(image)]
        laid = pasted[:, 3:] if entangled else spatial.paste(mask, box.detach(), size)
        prior = losses.mask_prior(laid, self.loss.mask_prior, self.lambda_)
        prior = (weight.flatten() * prior).sum() / len(image) if exact else prior.mean()
        # The prior must shape the mask, not move the box to where masks are small.
        terms["mask"] = prior if entangled else without_gradient_to(prior, crop)
        return terms, pasted[: len(image), 3:], composed[: len(image)]


def _learning(proposals: Proposals, schedule: Schedule) -> Proposals:
    """The proposals whose offsets and sizes are constants where they do not learn."""
    center, side, scale, offset = proposals.box[..., :2], proposals.box[..., 2:], proposals.scale, proposals.offset
    if not (schedule.offsets_learn and schedule.synthesis):
        center, offset = center.detach(), offset.detach()
    if not (schedule.sizes_learn and schedule.synthesis):
        side, scale = side.detach(), scale.detach()
    return proposals._replace(box=torch.cat([center, side], dim=-1), scale=scale, offset=offset)


def reconstruction(
    foreground: Float[Tensor, "B 3 K K"], crop: Float[Tensor, "B 3 K K"], window: Float[Tensor, "1 1 K K"]
) -> Float[Tensor, ""]:
    """Mean square difference of S's colors from the crop, weighted by the focal window."""
    return ((foreground - crop).square() * window).mean() / window.mean()
