"""tensorrt.py with a note in the file SPANS of when which of its processes was doing what.

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

# What the program's functions and methods do; those that a version of it does not have are passed
# over.
DOING = {
    "load": ("Loader.load_graph", "Loader.load_samples"),
    "export": ("OnnxWriter.import_libraries", "OnnxWriter.write"),
    "warm-up": ("OpenCase.run_first",),
    "rounds": ("OpenCase.measure_round",),
    "outputs": ("OpenCase.judge_outputs",),
}
UNDER_WAY = []  # in this process, the innermost last


@contextlib.contextmanager
def span(what):
    """Notes when something began and ended: one clock for all processes, one write a line."""
    begun = time.clock_gettime(time.CLOCK_MONOTONIC)
    UNDER_WAY.append(what)
    try:
        yield
    finally:
        UNDER_WAY.pop()
        ended = time.clock_gettime(time.CLOCK_MONOTONIC)
        row = {"what": what, "begun": begun, "ended": ended, "process": os.getpid()}
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


def first_run_noted(time_steps):
    """Tells the one step that warming up begins with from the steps that follow it."""

    def with_note(step, count, *args, **kwargs):
        if count != 1 or UNDER_WAY[-1:] != ["warm-up"]:
            return time_steps(step, count, *args, **kwargs)
        UNDER_WAY[-1] = "warm-up after its first run"
        with span("first run"):
            return time_steps(step, count, *args, **kwargs)

    return with_note


def note(module, name, what):
    """Has a function of the module, or a method of a class in it, noted where there is one."""
    owner, _, name = name.rpartition(".")
    holder = getattr(module, owner, None) if owner else module
    if hasattr(holder, name):
        function = noted(getattr(holder, name), what)
        alone = isinstance(vars(holder)[name], staticmethod)
        setattr(holder, name, staticmethod(function) if alone else function)


sys.meta_path.insert(0, ImportNote())
bench = load()  # at the top: the cases' processes load this file too
for what, names in DOING.items():
    for name in names:
        note(bench, name, what)
for engine in bench.ENGINES.values():
    engine.build, engine.open = noted(engine.build, "build"), noted(engine.open, "open")
bench.time_steps = first_run_noted(bench.time_steps)

if __name__ == "__main__":
    sys.exit(bench.main(sys.argv))
