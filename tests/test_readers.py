"""readers: order, errors, an early end, forks; threads that stay, or a worker forked later may hang."""

import contextlib
import multiprocessing
import threading
import time

import pytest
import rasterio

from data_prep import readers


def test_results_come_in_order_and_errors_where_they_belong():
    def look(item):
        time.sleep(0.01 * (item % 3))
        if item == 7:
            raise ValueError("seven")
        return item**2

    found = readers.in_order(look, range(20))
    assert [next(found) for _ in range(7)] == [item**2 for item in range(7)]
    with pytest.raises(ValueError, match="seven"):
        next(found)
    assert list(readers.in_order(look, [])) == []


def test_closed_early_nothing_more_begins_and_nothing_is_read_far_ahead():
    begun = []
    with contextlib.closing(readers.in_order(begun.append, range(1000))) as found:
        next(found)
        time.sleep(0.1)
    assert len(begun) <= 1 + 2 * readers.core_count()
    before = len(begun)
    time.sleep(0.1)
    assert len(begun) == before


def test_no_thread_ends_and_a_forked_process_gets_threads_of_its_own():
    assert list(readers.in_order(str, range(9))) == [str(item) for item in range(9)]
    mine = {thread for thread in threading.enumerate() if thread.name.startswith("reader")}
    assert mine and list(readers.in_order(str, range(9)))
    assert mine <= set(threading.enumerate())
    with multiprocessing.get_context("fork").Pool(1) as forked:
        assert forked.apply_async(list_of, (5,)).get(timeout=30) == ["0", "1", "2", "3", "4"]


def list_of(count: int) -> list[str]:
    return list(readers.in_order(str, range(count)))


def test_a_process_forked_after_reading_can_read(world):
    """Where the threads ended instead, 27 of 400 such processes hung."""
    files = sorted(world.glob("*/s1/*.tif"))

    def look(path):
        with rasterio.open(path) as scene:
            return str(scene.crs)

    for _ in range(60):
        assert len(list(readers.in_order(look, files))) == len(files)
        child = multiprocessing.get_context("fork").Process(target=look, args=(files[0],))
        child.start()
        child.join(30)
        hung = child.is_alive()
        child.kill()
        assert not hung and child.exitcode == 0
