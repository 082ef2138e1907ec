"""Many reads at once from one place: threads that a signal ends soon, and lines of progress."""

import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

from data_prep import runs
from data_prep.remote import ServiceFailure


def in_threads(function, items: list, workers: int, connection, stop):
    """Yield (item, result or ServiceFailure) of function(item) as they end, at most `workers` at once.

    After a signal, or an error of another kind, no item more begins and the reads that run end soon.
    """
    queue, running = iter(items), {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < workers and (item := next(queue, None)) is not None:
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    item, error = running.pop(future), future.exception()
                    if error is not None and not isinstance(error, ServiceFailure):
                        raise error
                    yield item, error or future.result()
                if stop.requested:
                    raise runs.Interrupted()
        except BaseException:
            connection.stop.set()
            raise


class Progress:
    """Lines with files done, MB/s and the time to go; one line that is renewed on a terminal."""

    def __init__(self, total: int, connection):
        self.total, self.connection, self.done = total, connection, 0
        self.began = self.said = time.time()

    def step(self) -> None:
        self.done += 1
        now, on_terminal = time.time(), sys.stderr.isatty()
        if self.done < self.total and now - self.said < (1 if on_terminal else 15):
            return
        self.said, spent = now, now - self.began
        line = (
            f"{self.done}/{self.total} files, {self.connection.moved / 1e6 / max(spent, 1e-3):.1f} MB/s, "
            f"{spent:.0f} s, about {spent / self.done * (self.total - self.done):.0f} s to go"
        )
        if on_terminal and self.done < self.total:
            print(f"\r{line} ", end="", file=sys.stderr, flush=True)
        else:
            runs.say(("\r" if on_terminal else "") + line)
