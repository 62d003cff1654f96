"""The least cut through the superpixels of a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from backdrop.motion.regions.superpixels import Regions

COLOR_CONTRAST = 20.0
"""Difference of mean colors, of 255, at which a border costs a third."""

UNIT = 1000
"""Costs are integers, in this part of one."""


class Joints:
    """What a cut through the superpixels of all frames costs: pairs of superpixels, and their costs.

    Args:
        frames: the superpixels of each frame. All are numbered through in the order of the frames.
    """

    def __init__(self, frames: Sequence[Regions]) -> None:
        self.starts = np.concatenate([[0], np.cumsum([one.parts for one in frames])])
        self.pairs: list[np.ndarray] = []
        self.costs: list[np.ndarray] = []

    def neighbors(
        self,
        t: int,
        pairs: Int[np.ndarray, "E 2"],
        lengths: Float[np.ndarray, " E"],
        colors: Float[np.ndarray, "n 3"],
        cost: float,
    ) -> None:
        """Superpixels of frame t that touch: dear where border is long and colors are alike."""
        apart = np.linalg.norm(colors[pairs[:, 0]] - colors[pairs[:, 1]], axis=1)
        self.pairs.append(pairs + self.starts[t])
        self.costs.append(cost * np.exp(-apart / COLOR_CONTRAST) * lengths / max(float(lengths.mean()), 1))

    def following(self, t: int, pairs: Int[np.ndarray, "E 2"], shared: Float[np.ndarray, " E"], cost: float) -> None:
        """Superpixels of frames t and t + 1 that share pixels along the flow: dear where these are many."""
        whole = np.bincount(pairs[:, 0], shared)
        self.pairs.append(pairs + self.starts[[t, t + 1]])
        self.costs.append(cost * shared / whole[pairs[:, 0]])


def min_cut(joints: Joints, unary: Sequence[Float[np.ndarray, " _"]]) -> list[Bool[np.ndarray, " _"]]:
    """The superpixels of each frame on the subject's side of the least cut.

    Args:
        unary: evidence for foreground of each frame's superpixels, above zero where it is likelier than background.
    """
    evidence = np.rint(np.concatenate(unary) * UNIT).astype(np.int64)
    count = len(evidence)
    source, sink = count, count + 1
    for_it, against = np.flatnonzero(evidence > 0), np.flatnonzero(evidence < 0)
    ends = [np.concatenate(joints.pairs)] if joints.pairs else []
    costs = [np.rint(np.concatenate(joints.costs) * UNIT).astype(np.int64)] if joints.costs else []
    ends += [ends[0][:, ::-1]] if ends else []  # what joins two acts both ways
    costs += costs[:1]
    ends += [np.stack([np.full(len(for_it), source), for_it], 1), np.stack([against, np.full(len(against), sink)], 1)]
    costs += [evidence[for_it], -evidence[against]]
    edges, capacity = np.concatenate(ends), np.concatenate(costs).astype(np.int32)
    graph = coo_matrix((capacity, (edges[:, 0], edges[:, 1])), shape=(count + 2, count + 2)).tocsr()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    chosen = np.zeros(count + 2, bool)
    chosen[breadth_first_order(left, source, return_predecessors=False)] = True
    starts = joints.starts
    return [chosen[starts[t] : starts[t + 1]] for t in range(len(unary))]
