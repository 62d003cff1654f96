"""A skeleton through a video, from joints that were detected in single frames: bundle adjustment of pose.

The form is that of Arnab, Doersch and Zisserman (see `energy`), with a plain body in place of SMPL, whose license does
not let it be shipped: bones of constant length beta, a direction theta in 3D for each bone and frame, and a scaled
orthographic camera Omega = (s, u) for each frame.

    X = sum of beta * theta along the chain of bones,   x = s X_xy + u
    E_R = sum_t min(min_p sum_i w_i rho(x_i - detection_i,p) + (1 - w_i) limit, J limit)
    E_T = sum_t joint rho(dX) + point rho(dx) + camera rho(dOmega)
    E_P = sum_t pose (-log of a Gaussian mixture of theta) + near rho(X - X at the start) + length rho(beta - start)

The start is no network's (HMR, licensed, too) but the detections themselves: a running median of their joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import median_filter
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from backdrop.adjust.energy import best_truncated, changes, minimize_energy, robust
from backdrop.errors import BackdropError


class SkeletonWeights(NamedTuple):
    """Weights of the energy's terms. Lengths are shares of the skeleton's size, the mean length of its bones.

    spread: a residual of so much is one unit of Huber's function.
    limit: the most that a frame's E_R costs, per joint.
    order: 1: E_T is of motions, as in the paper. 2: of their changes, so that even motion costs nothing.
    joint, point, camera: of E_T. pose, near, length: of E_P.
    window: the start is the running median of so many frames.
    """

    spread: float = 0.1
    limit: float = 25.0
    order: int = 2
    joint: float = 0.5
    point: float = 0.5
    camera: float = 0.5
    pose: float = 0.05
    near: float = 0.001
    length: float = 1.0
    window: int = 5


class Skeleton(NamedTuple):
    """An adjusted skeleton.

    points: (T, J, 2), joints in the image, in pixels. joints: (T, J, 3), around the root, in pixels at scale 1.
    lengths: (J,) of the bone that ends at a joint, constant in the video, in pixels at scale 1; 0 for the root.
    scale: (T,) and shift: (T, 2) in pixels, the cameras: points = scale * joints[..., :2] + shift.
    """

    points: Float[np.ndarray, "T J 2"]
    joints: Float[np.ndarray, "T J 3"]
    lengths: Float[np.ndarray, "J"]
    scale: Float[np.ndarray, "T"]
    shift: Float[np.ndarray, "T 2"]


class PosePrior(NamedTuple):
    """A Gaussian mixture of poses: K components of the bones' directions in the image, 2 (J - 1) numbers."""

    shares: Float[np.ndarray, "K"]
    means: Float[np.ndarray, "K D"]
    covariances: Float[np.ndarray, "K D D"]


def fit_pose_prior(
    kinds: Sequence[Float[np.ndarray, "_ J 2"]], parents: Sequence[int], ridge: float = 0.05
) -> PosePrior:
    """A component per kind of motion (walking, dancing) from examples of its joints.

    Args:
        kinds: of each kind examples of a skeleton's joints, in any unit.
        ridge: variance that is added to each direction, which has length 1.
    """
    poses = [_directions(kind, parents).reshape(len(kind), -1) for kind in kinds]
    shares = np.array([len(pose) for pose in poses], np.float64)
    covariances = [np.cov(pose.T) + ridge * np.eye(pose.shape[1]) for pose in poses]
    return PosePrior(shares / shares.sum(), np.stack([pose.mean(axis=0) for pose in poses]), np.stack(covariances))


def _directions(joints: np.ndarray, parents: Sequence[int]) -> np.ndarray:
    """(T, J - 1, 2): unit vectors from the parent to each joint but the root."""
    bones = joints[:, 1:] - joints[:, list(parents[1:])]
    return bones / np.maximum(np.linalg.norm(bones, axis=2, keepdims=True), 1e-9)


def adjust_skeleton(
    detections: Float[np.ndarray, "T P J 2"],
    confidences: Float[np.ndarray, "T P J"],
    parents: Sequence[int],
    prior: PosePrior | None = None,
    weights: SkeletonWeights = SkeletonWeights(),  # noqa: B008 - a tuple of numbers
) -> Skeleton:
    """The skeleton that explains the detections of all frames.

    Args:
        detections: joints in pixels, of P skeletons found in each frame.
        confidences: of each joint, in [0, 1]. 0: it was not found. Frames in which nothing was found are bridged.
        parents: of each joint the one that it hangs on, which stands before it; -1 for the root, joint 0.
        prior: what poses are usual. None: that term is left out.

    Raises:
        BackdropError: the bones make no tree, or a joint was found in no frame.
    """
    if not parents or parents[0] != -1 or any(not 0 <= parent < j for j, parent in enumerate(parents[1:], 1)):
        raise BackdropError(f"skeleton: parents {list(parents)} make no tree; give the root first, as -1")
    found = (confidences > 0).any(axis=1)
    if not found.any(axis=0).all():
        missing = [int(j) for j in np.flatnonzero(~found.any(axis=0))]
        raise BackdropError(f"skeleton: joints {missing} were found in no frame; leave them and their bones out")
    start = _start(detections, confidences, weights.window)
    lengths = np.median(np.linalg.norm(start[:, 1:] - start[:, list(parents[1:])], axis=2), axis=0)
    size = max(float(lengths.mean()), 1e-9)
    body = _Body(detections / size, confidences, parents, prior, weights)
    unknown = body.parameters(start / size, np.maximum(lengths / size, 1e-3))
    body.begin(*unknown)
    unknown = minimize_energy(body.energy, unknown)
    joints, points = body.forward(*unknown)
    beta, _, scale, shift = unknown
    return Skeleton(
        points.numpy() * size,
        joints.numpy() * size,
        np.concatenate([[0.0], beta.exp().numpy()]) * size,
        scale.exp().numpy(),
        shift.numpy() * size,
    )


def _start(detections: np.ndarray, confidences: np.ndarray, window: int) -> np.ndarray:
    """(T, J, 2): joints of one skeleton per frame, filled in between frames, then a running median.

    It is the surest one, and in a second round the one nearest to what a longer median of the first says. Joints
    farther from it than half of the skeleton's extent are left out.
    """
    rows = np.arange(len(detections))
    best = confidences.sum(axis=2).argmax(axis=1)
    chosen, sure = detections[rows, best], confidences[rows, best] > 0
    rough = _running_median(_without_gaps(chosen, sure, detections, confidences), 2 * window - 1)
    reach = float(np.median(np.linalg.norm(np.ptp(rough, axis=1), axis=1))) / 2
    apart = np.linalg.norm(detections - rough[:, None], axis=3)
    apart[confidences <= 0] = np.inf
    best = np.median(apart, axis=2).argmin(axis=1)
    near = apart[rows, best] <= reach
    return _running_median(_without_gaps(detections[rows, best], near, detections, confidences), window)


def _without_gaps(chosen: np.ndarray, seen: np.ndarray, detections: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """(T, J, 2) without gaps: each joint moves evenly between the frames in which it is seen."""
    start = np.empty(chosen.shape)
    for j in range(chosen.shape[1]):
        at, points = np.flatnonzero(seen[:, j]), chosen[seen[:, j], j]
        if not len(at):  # only skeletons that were not chosen have it
            at = np.flatnonzero((confidences[:, :, j] > 0).any(axis=1))
            points = detections[at, confidences[at, :, j].argmax(axis=1), j]
        for k in range(2):
            start[:, j, k] = np.interp(np.arange(len(chosen)), at, points[:, k])
    return start


def _running_median(joints: np.ndarray, window: int) -> np.ndarray:
    return median_filter(joints, (min(window, len(joints)), 1, 1), mode="nearest")


class _Body:
    """E of a body: `parameters` are the logarithms of lengths, directions, logarithms of scales, and shifts."""

    def __init__(
        self,
        detections: np.ndarray,
        confidences: np.ndarray,
        parents: Sequence[int],
        prior: PosePrior | None,
        weights: SkeletonWeights,
    ) -> None:
        self.parents, self.weights = parents, weights
        self.seen = torch.from_numpy(confidences.astype(np.float64))
        self.detections = torch.from_numpy(np.where(confidences[..., None] > 0, detections, 0.0))
        self.there = (self.seen > 0).any(dim=2)
        self.chains = torch.zeros(len(parents), len(parents) - 1, dtype=torch.float64)
        for j, parent in enumerate(parents[1:], 1):
            self.chains[j] = self.chains[parent]
            self.chains[j, j - 1] = 1
        self.times = torch.arange(len(detections), dtype=torch.float64)
        self.prior = None if prior is None else _mixture(prior)

    def parameters(self, start: np.ndarray, lengths: np.ndarray) -> list[Tensor]:
        """Parameters whose points are near `start`; a bone seen too short points towards the camera."""
        bones = (start[:, 1:] - start[:, list(self.parents[1:])]) / lengths[:, None]
        depth = np.sqrt(np.maximum(1 - (bones**2).sum(axis=2), 1e-2))
        theta = np.concatenate([bones, depth[..., None]], axis=2)
        scale = np.zeros(len(start))
        return [torch.from_numpy(one) for one in (np.log(lengths), theta, scale, start[:, 0].copy())]

    def begin(self, beta: Tensor, theta: Tensor, scale: Tensor, shift: Tensor) -> None:
        """Keeps the start, which E_P stays near to."""
        self.first, self.beta = self.forward(beta, theta, scale, shift)[0], beta

    def forward(self, beta: Tensor, theta: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Joints X, (T, J, 3), and their projections x, (T, J, 2)."""
        joints = torch.einsum("jb,tbk->tjk", self.chains, beta.exp()[:, None] * _unit(theta))
        return joints, scale.exp()[:, None, None] * joints[..., :2] + shift[:, None]

    def energy(self, beta: Tensor, theta: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """E, as the module says."""
        w = self.weights
        joints, points = self.forward(beta, theta, scale, shift)
        camera = torch.cat([scale[:, None], shift], dim=1)
        apart = robust((points[:, None] - self.detections) / w.spread).sum(dim=3)
        # without the second term the least sure skeleton would be the cheapest one
        costs = (self.seen * apart + (1 - self.seen) * w.limit).sum(dim=2)
        reprojection = best_truncated(costs, self.there, w.limit * len(self.parents)).sum()
        moved = [
            weight * robust(changes(one, self.times, w.order) / w.spread).sum()
            for weight, one in ((w.joint, joints), (w.point, points), (w.camera, camera))
        ]
        near = w.near * robust((joints - self.first) / w.spread).sum()
        shape = w.length * robust((beta - self.beta) / w.spread).sum()
        total = reprojection + sum(moved) + near + shape
        if self.prior is not None:
            total = total - w.pose * self.prior.log_prob(_unit(theta)[..., :2].flatten(1)).sum()
        return total


def _unit(theta: Tensor) -> Tensor:
    return theta / theta.norm(dim=2, keepdim=True).clamp(min=1e-9)


def _mixture(prior: PosePrior) -> MixtureSameFamily:
    shares, means, covariances = (torch.from_numpy(one) for one in prior)
    return MixtureSameFamily(Categorical(shares), MultivariateNormal(means, covariances))
