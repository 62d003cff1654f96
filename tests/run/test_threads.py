"""Threads of one process: order, faults, and that they run beside the caller."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import pytest
import torch

from backdrop.run.threads import ahead, in_threads


@pytest.mark.parametrize("count", [1, 4])
def test_threads_give_what_map_gives(count: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert in_threads(lambda a, b: a - b, range(50), range(0, 100, 2)) == [-i for i in range(50)]
        assert in_threads(str, []) == []
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda a: 1 / a, [1, 0])
    finally:
        torch.set_num_threads(before)


def test_the_next_item_is_made_while_the_caller_works() -> None:
    begun = Event()

    def items() -> Iterator[int]:
        yield 1
        begun.set()
        yield 2

    found = []
    for item in ahead(items()):
        found.append(item)
        assert begun.wait(10)
    assert found == [1, 2]


def test_a_fault_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the cable")

    given = ahead(items())
    assert next(given) == 1
    with pytest.raises(OSError, match="the cable"):
        next(given)


def test_who_stops_early_makes_no_more_than_one_item_in_vain() -> None:
    made = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    for _ in ahead(items()):
        break
    assert made == [0, 1]
