"""The choice of bursts: spread over all videos and over each, without still, blurred and repeated ones, and of
neighbors the one in which more travels."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from backdrop.frames.budget.watch import BURST, MOVED, MOVING, SHORTEST, Offer, differences, travel

BLURRED = 0.4
"""A burst is blurred if it has less than this share of the sharpness that is usual in its video."""


class Burst(NamedTuple):
    """Frames `start` to `start` + `length` - 1 of a video."""

    start: int
    length: int


def choose_bursts(offers: Mapping[str, Sequence[Offer]], budget: int) -> dict[str, list[Burst]]:
    """At most `budget` frames in bursts: each video gives at least one where the budget allows it, long ones more.

    A video in which every burst is still or blurred gives the one in which most moves. Bursts are shorter than `BURST`
    where there are too many videos for whole ones; where there are too many even so, some videos give none.

    Args:
        offers: video -> its bursts, in order.

    Returns:
        Video -> what was drawn of it, in order; without videos that give nothing.
    """
    good = {name: _worth_it(found) for name, found in offers.items() if found}
    length = int(np.clip(budget // max(1, len(good)), SHORTEST, BURST))
    total = budget // length
    if len(good) > total:
        names = list(good)
        good = {names[k]: good[names[k]] for k in np.linspace(0, len(names) - 1, total).round().astype(int)}
    drawn = {}
    for name, count in _shares({name: len(found) for name, found in good.items()}, total).items():
        chosen = _liveliest(good[name], count)
        drawn[name] = [Burst(offer.start, min(offer.length, length)) for offer in chosen]
    return drawn


def _worth_it(offers: Sequence[Offer]) -> list[Offer]:
    """Without those that are still, blurred, or nearly what an earlier one is."""
    usual = float(np.median([offer.sharp for offer in offers]))
    moving = [offer for offer in offers if offer.moving >= MOVING]
    found = [offer for offer in moving if offer.sharp >= BLURRED * usual]
    if not found:
        return [max(offers, key=lambda offer: (offer.moving, offer.sharp))]
    kept = [found[0]]
    looks = found[0].looks
    for offer in found[1:]:
        if not all((differences(looks, look) <= MOVED).any() for look in offer.looks):
            kept.append(offer)
            looks = np.concatenate([looks, offer.looks])
    return kept


def _shares(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """How many bursts each video gives: one, and the rest where there are most for each that was given."""
    given = dict.fromkeys(sizes, 1)
    waiting = [(-size / 2, name) for name, size in sizes.items() if size > 1]
    heapq.heapify(waiting)
    for _ in range(total - len(given)):
        if not waiting:
            break
        _, name = heapq.heappop(waiting)
        given[name] += 1
        if given[name] < sizes[name]:
            heapq.heappush(waiting, (-sizes[name] / (given[name] + 1), name))
    return given


def _liveliest(offers: Sequence[Offer], count: int) -> list[Offer]:
    """The one in which most travels of each of `count` equal parts; of equal ones that nearest to the middle.

    A subject that stays where it is hides its background in every frame of the burst, and is taken for it.
    """
    parts = [range(k * len(offers) // count, (k + 1) * len(offers) // count) for k in range(count)]
    return [offers[max(part, key=lambda k: (travel(offers[k]), -abs(2 * k - part[0] - part[-1])))] for part in parts]
