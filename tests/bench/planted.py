"""tensorrt.py with engines that do more work in every step: aa.py's planted slowdown.

    PLANT=10 python tests/bench/planted.py [flags of tensorrt.py]

Every step, waited for or in a burst, goes on computing until it has taken PLANT per cent longer.
"""

import functools
import os
import sys
import time

from overhead import load

SHARE = float(os.environ["PLANT"]) / 100
bench = load()  # at the top: the cases' processes load this file too


class Planted:
    """A runner whose work takes longer; all else is the runner's own."""

    def __init__(self, runner):
        self.runner, self.begun = runner, None

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def enqueue(self):
        self.begun = self.begun or time.perf_counter()
        self.runner.enqueue()

    def sync(self):
        self.runner.sync()
        if self.begun is not None:
            work_on(self.begun)
        self.begun = None

    def infer(self, feed):
        begun = time.perf_counter()
        outputs = self.runner.infer(feed)
        work_on(begun)
        return outputs

    def prefetch(self, feed, steps):
        burst = self.runner.prefetch(feed, steps)

        def longer():
            begun = time.perf_counter()
            burst()
            work_on(begun)

        return longer


def work_on(begun):
    """Computes on until SHARE more time has gone than since `begun`."""
    now = time.perf_counter()
    end = now + SHARE * (now - begun)
    while time.perf_counter() < end:
        pass


def open_planted(opened, *args):
    return Planted(opened(*args))


for engine in bench.ENGINES.values():
    engine.open = functools.partial(open_planted, engine.open)

if __name__ == "__main__":
    sys.exit(bench.main(sys.argv))
