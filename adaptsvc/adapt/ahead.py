"""The next item while this one is worked on; it knows nothing of what the items are."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each made in another thread while the one before is used.

    That thread computes on one core: a second team of threads on the same cores slows the first by more than
    it makes.

    Args:
        items: used by that thread alone, until this iterator is closed.

    Example:
        >>> list(one_ahead(iter("abc")))
        ['a', 'b', 'c']
    """
    end = object()
    with ThreadPoolExecutor(1, "ahead", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending = pool.submit(next, items, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, items, end)
            yield item  # type: ignore[misc]  # `end` is the only item that is not one
