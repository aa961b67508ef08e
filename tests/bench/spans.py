"""tensorrt.py with a note in the file SPANS of when it was doing what, in all of its processes; answer.py reads it.

SPANS=spans.jsonl python tests/bench/spans.py [flags of tensorrt.py]
"""

import contextlib
import functools
import importlib.abc
import importlib.util
import json
import os
import sys
import time

from overhead import load

# What the program's functions do; those that a version of the program does not have are passed over.
DOING = {
    "load": ("load_graph", "load_images"),
    "export": ("attempt_export", "export_onnx", "fold", "calibrate", "write_onnx", "write_model"),
    "first run": ("first_run",),
    "warm-up": ("warm_up",),
    "rounds": ("measure_round",),
    "outputs": ("outputs_of", "doubts"),
    "report": ("print_report",),
}


@contextlib.contextmanager
def span(what):
    """Notes when something began and ended: one clock for all processes, one write a line."""
    begun = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        yield
    finally:
        row = {"what": what, "begun": begun, "ended": time.clock_gettime(time.CLOCK_MONOTONIC), "process": os.getpid()}
        with open(os.environ["SPANS"], "a") as file:
            file.write(json.dumps(row) + "\n")


def noted(function, what):
    @functools.wraps(function)
    def with_note(*args, **kwargs):
        with span(what):
            return function(*args, **kwargs)

    return with_note


class ImportNote(importlib.abc.MetaPathFinder):
    """Notes how long TensorFlow's import takes, wherever it is done."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader.exec_module = noted(spec.loader.exec_module, "import")
        return spec


class StepNotes:
    """Tells the calls of time_steps in one process apart: the first run, the warm-up, the loops."""

    def __init__(self, time_steps):
        self.time_steps, self.calls = time_steps, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        with span({1: "first run", 2: "warm-up"}.get(self.calls, "rounds")):
            return self.time_steps(*args, **kwargs)


sys.meta_path.insert(0, ImportNote())
bench = load()  # at the top: the cases' processes load this file too
for what, names in DOING.items():
    for name in names:
        if hasattr(bench, name):
            setattr(bench, name, noted(getattr(bench, name), what))
for engine in bench.ENGINES.values():
    engine.build, engine.open = noted(engine.build, "build"), noted(engine.open, "open")
if not hasattr(bench, "measure_round"):
    bench.time_steps = StepNotes(bench.time_steps)

if __name__ == "__main__":
    sys.exit(bench.main(sys.argv))
