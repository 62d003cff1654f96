"""Fast segmentation of moving things (Papazoglou and Ferrari, ICCV 2013: "Fast object segmentation
in unconstrained video").

Motion boundaries enclose the subject: a pixel from which a ray crosses them an odd number of times is inside, and eight
rays vote. The votes, carried along the flow, are the location prior of a graph cut over the superpixels of the whole
video, with color models of inside and outside. Simplified: the flow is stabilized first; the color models are
histograms of the whole sequence (the original has Gaussian mixtures that fade with distance in time); one round of
labeling. Changes of flow count in shares of the speed where that is high, and the location prior in shares of its 98th
percentile: DIS flow is rougher than the original's.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from backdrop.io.masks import Soft
from backdrop.motion.flow_field import lengths
from backdrop.motion.regions.cut import Joints, min_cut
from backdrop.motion.regions.stretch import ResidualFlow, Stretch, blurred, stretched
from backdrop.motion.regions.superpixels import BINS, borders, color_bins, links, superpixels

STRENGTH = 2.8
"""Of a change of flow per pixel: what share of a boundary it makes (the original's lambda_m, on other flow)."""

CALM = 1.5
"""Speed, pixels, up to which a change of flow counts in full. What moves faster has a rougher flow inside, in
proportion: there a change counts in shares of the speed, or boundaries would fill the subject and rays vote by chance.
"""

SPEED_REACH = 9
"""Side of the window, pixels, in which the fastest flow is the speed at a pixel: that of the faster side."""

STEEP = 0.5
"""A pixel whose boundary measure is above this is on a boundary."""

INSIDE_VOTES = 5
"""Rays of eight that must say inside."""

SUREST_PERCENTILE = 98
"""Percentile of the location priors of the sequence that counts as certain. Where things nearer than the ground cross
the subject few superpixels are inside by most rays; against a fixed one half all of them would be background."""

FADING = 0.7
"""What is left of a location prior from one frame to the next."""

REGIONS = 400

BORDER_COST, CHANGE_COST = 4.0, 2.0
"""Cost of a border between neighbors in a frame of one color, and of a change from one frame to the next."""


def fast_motion_masks(stretch: Stretch) -> Iterator[Soft]:
    """Soft masks: the cut's mask, its staircase blurred."""
    frames = [superpixels(stretch.image(t), REGIONS) for t in range(len(stretch))]
    inside, joints, counts = [], Joints(frames), np.full((2, BINS**3), 0.01)
    ways: list[tuple[np.ndarray, np.ndarray]] = []
    for t, regions in enumerate(frames):
        field, image = stretch.flow(t), stretch.image(t)
        votes = inside_votes(motion_boundaries(field)) >= INSIDE_VOTES
        inside.append(regions.mean(votes & field.valid))
        joints.neighbors(t, *borders(regions), regions.mean(image.astype(np.float32)), BORDER_COST)
        if t + 1 < len(frames):
            ways.append(links(regions, frames[t + 1], image_motion(stretch, t)))
            joints.following(t, *ways[-1], CHANGE_COST)
    prior = relative_priors(carried_votes(inside, ways))
    codes = [color_bins(stretch.image(t)) for t in range(len(frames))]
    for regions, location, code in zip(frames, prior, codes, strict=True):
        for which, weight in enumerate((1 - location, location)):
            counts[which] += np.bincount(code.ravel(), weight[regions.labels].ravel(), minlength=BINS**3)
    background, subject = counts / counts.sum(axis=1, keepdims=True)
    evidence = np.log(subject / (subject + background)) - np.log(background / (subject + background))
    unary = []
    for regions, location, code in zip(frames, prior, codes, strict=True):
        near = location.clip(0.02, 0.98)
        unary.append(regions.mean(evidence[code]).clip(-3, 3) + np.log(near / (1 - near)))
    for regions, chosen in zip(frames, min_cut(joints, unary), strict=True):
        yield blurred(chosen[regions.labels], 0.002).clip(0, 1)


def motion_boundaries(field: ResidualFlow) -> Bool[np.ndarray, "H W"]:
    """Where flow changes fast from pixel to pixel, or, changing less fast, turns against all around it."""
    flow = np.dstack([cv2.medianBlur(np.ascontiguousarray(field.flow[..., k]), 5) for k in (0, 1)])
    slopes = [cv2.Sobel(flow[..., k], cv2.CV_32F, dx, 1 - dx, ksize=3) / 8 for k in (0, 1) for dx in (1, 0)]
    speed = cv2.dilate(lengths(flow), np.ones((SPEED_REACH, SPEED_REACH), np.uint8))
    change = np.sqrt(np.sum(np.square(slopes), axis=0)) / np.maximum(1, speed / CALM)
    measure = 1 - np.exp(-STRENGTH * change)
    turned = 1 - np.exp(-STRENGTH * _turn(flow) ** 2)
    between = (measure > STEEP / 2) & (measure <= STEEP)
    return (np.where(between, np.maximum(measure, measure * 2 * turned), measure) > STEEP) & field.valid


def _turn(flow: Float32[np.ndarray, "H W 2"]) -> Float32[np.ndarray, "H W"]:
    """The largest angle between a pixel's flow and that of its four neighbors, radians."""
    angle = np.arctan2(flow[..., 1], flow[..., 0])
    turns = [np.abs(np.angle(np.exp(1j * (angle - np.roll(angle, by, axis))))) for axis in (0, 1) for by in (1, -1)]
    return np.maximum.reduce(turns).astype(np.float32)


def inside_votes(boundary: Bool[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """How many of eight rays, to the image's edge, cross the boundary an odd number of times.

    A run of boundary pixels is one crossing; a pixel on the boundary belongs to what is behind it.
    """
    votes = np.zeros(boundary.shape, np.int64)
    for turns in range(4):
        turned = np.rot90(boundary, turns)
        for slant in (0, 1):
            votes += np.rot90(_crossings(turned, slant) % 2, -turns)
    return votes


def _crossings(boundary: Bool[np.ndarray, "h w"], slant: int) -> Int[np.ndarray, "h w"]:
    """Crossings of the ray that goes up from each pixel, and `slant` columns to the left each row."""
    count = np.zeros(boundary.shape, np.int64)
    for row in range(1, len(boundary)):
        above, before = count[row - 1], boundary[row - 1]
        if slant:
            above, before = np.r_[0, above[:-1]], np.r_[False, before[:-1]]
        count[row] = above + (boundary[row] & ~before)
    return count


def image_motion(stretch: Stretch, t: int) -> Float32[np.ndarray, "H W 2"]:
    """Where each pixel of frame t lies in frame t + 1, less its own place: camera and subject together."""
    field, back = stretch.flow(t), stretch.onward(t)
    height, width = field.valid.shape
    if back is None:
        return np.zeros((height, width, 2), np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    here = np.dstack([x, y])
    moved = cv2.perspectiveTransform((here + field.flow).reshape(1, -1, 2), back)
    return moved.reshape(here.shape).astype(np.float32) - here


def carried_votes(
    inside: list[Float[np.ndarray, " _"]], ways: list[tuple[np.ndarray, np.ndarray]]
) -> list[Float[np.ndarray, " _"]]:
    """The votes of superpixels, kept along the flow forward and backward in time, fading.

    Args:
        inside: per frame, each superpixel's share of pixels inside. ways: from each frame to the next (see `links`).
    """
    found = [one.copy() for one in inside]
    for source, target in ((0, 1), (1, 0)):
        order = range(len(ways)) if target else reversed(range(len(ways)))
        for t in order:
            (pairs, shared), come = ways[t], found[t + target]
            mass = np.bincount(pairs[:, target], shared * found[t + source][pairs[:, source]], len(come))
            whole = np.bincount(pairs[:, target], shared, len(come))
            np.maximum(come, FADING * mass / np.maximum(whole, 1), out=come)
    return found


def relative_priors(priors: list[Float[np.ndarray, " _"]]) -> list[Float[np.ndarray, " _"]]:
    """Location priors of all frames in shares of their percentile `SUREST_PERCENTILE`, clipped to [0, 1]."""
    shares = stretched(np.concatenate(priors), SUREST_PERCENTILE)
    return np.split(shares, np.cumsum([len(one) for one in priors])[:-1])
