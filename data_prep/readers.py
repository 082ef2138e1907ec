"""Threads that read files, several at once, and stay until the process ends.

A thread that ends destroys its PROJ context after Python has joined it. A worker process forked at that
moment inherits SQLite's mutex locked, and hangs in its first read for ever: so these threads never end.
"""

import functools
import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait

from data_prep.runs import core_count


@functools.cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(core_count(), thread_name_prefix="reader")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=pool.cache_clear)


def in_order(function, items):
    """Yield function(item) of each item, in order; a few are read ahead, at once."""
    items, begun = iter(items), deque()
    try:
        while True:
            ahead = itertools.islice(items, 2 * core_count() - len(begun))
            begun.extend(pool().submit(function, item) for item in ahead)
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
        wait(begun)
