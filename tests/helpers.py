"""What tests share beside fixtures: modules by their file, records, this machine's processes, a
server.
"""

import contextlib
import functools
import importlib.util
import json
import os
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name="bench", file="tensorrt.py"):
    spec = importlib.util.spec_from_file_location(name, ROOT / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def tries(count):
    """How often a slow test tries: `count`, or the share of it that the environment's
    TRIES says.
    """
    return max(1, round(count * float(os.environ.get("TRIES", "1"))))


@functools.cache
def schema(name):
    """The validator of a schema, which is checked itself once: that takes longer than a record."""
    import jsonschema

    text = json.loads((ROOT / "tests" / name).read_text())
    kind = jsonschema.validators.validator_for(text)
    kind.check_schema(text)
    return kind(text)


def validate(record):
    """Checks a record against the written schema of its version."""
    import jsonschema

    name = "schema_1.json" if record["record"] == 1 else "schema.json"
    if error := jsonschema.exceptions.best_match(schema(name).iter_errors(record)):
        raise error


def agreement(record):
    """A record's agreement of its only output."""
    (found,) = record["agreement"]["outputs"].values()
    return found


def zeros_around_a_pool(side=8):
    """What builds a graph whose MaxPool meets a border of zeros, more than all that is inside.

    ResNet-50 v2 has such a pool.
    """

    def build(tf, v1):
        images = v1.placeholder("float32", [None, side, side, 3], name="images")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)) / 100
        negative = tf.nn.conv2d(images, kernel.astype("float32"), 1, "SAME") - 8
        bordered = tf.pad(negative, [[0, 0], [1, 1], [1, 1], [0, 0]])
        pooled = tf.nn.max_pool2d(bordered, 3, 2, "VALID")
        tf.reduce_mean(pooled, [1, 2], name="y")

    return build


def image_graph(bench, *shape, dtype="float32", layout="NHWC"):
    """A graph of images [batch, *shape], as far as samples for it are wanted."""
    source = bench.Tensor("x:0", (None, *shape), dtype)
    return bench.Graph("", "net.pb", (source,), (bench.Tensor("y:0"),), layout, "")


def images_of(bench, pixels, names=None, **facts):
    """Pixels as samples of an input x:0."""
    names = names or [f"image {index}" for index in range(len(pixels))]
    return bench.Images({"x:0": pixels}, names, **facts)


def pixels_of(images):
    """The pixels of samples that are images."""
    (pixels,) = images.arrays.values()
    return pixels


def run_case(bench, job):
    """A case's result after one round in this process; the job's flags hold --noisolate."""
    session = bench.Session(job)
    session.take_turn([])
    session.finish()
    (result,) = session.results()
    assert not result.error, result.error
    return result


@contextlib.contextmanager
def serving(handler):
    """A server of this machine while the block lasts; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # shutdown() waits for its next look at whether to end: by default half a second
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


def table_of_processes():
    """Parent and command line of every process by its id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rsplit(")", 1)[1].split()[1])
            found[int(entry.parent.name)] = parent, (entry.parent / "cmdline").read_bytes()
        except OSError:
            continue
    return found


def alive(pid):
    """Whether a process still runs; one that ended and that nobody asked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, process=None, seconds=90):
    """Polls until the condition holds and gives what it found; fails if the process ends before,
    or time runs out.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        if process and process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()}")
        time.sleep(0.02)  # looking on takes a core, too
    return found


def wait_for_end_of(processes):
    """Waits until none of these process ids lives; fails where one lives on."""
    wait_for(lambda: not any(map(alive, processes)), seconds=30)


def children_of(process):
    """Process ids of the program's own processes, which load, write ONNX or run a case: what its
    fork server forked.
    """
    table = table_of_processes()
    servers = {
        pid
        for pid, (parent, words) in table.items()
        if parent == process.pid and b"forkserver" in words
    }
    return [pid for pid, (parent, _) in table.items() if parent in servers]
