"""Work in threads of one process: for OpenCV, PyAV and the like, which let go of Python's lock while they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def in_threads(function: Callable[..., T], *arguments: Iterable[Any]) -> list[T]:
    """What `map` gives, computed in as many threads as PyTorch uses: one in a worker process of a stage."""
    count = torch.get_num_threads()
    if count == 1:
        return list(map(function, *arguments))
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, *arguments))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order; the next one is made in a thread while the caller works on the last one.

    A fault of `items` reaches the caller where the item would have come.
    """
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]
