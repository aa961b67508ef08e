"""Fixtures: the program as a module and as a command, and a small network that is really
trained.
"""

import inspect
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, load, validate

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
# On a GPU TensorFlow would take all memory in the tests' own process.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
# or tensorrt.py hides tensorrt
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
# a shell's background jobs, and what they start, ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
HELD_OUT = 300  # digits that the network is not trained on
# seconds a slow test may take: a hundred random tries, on a machine that others use too
SLOW_TIMEOUT = 7200


@pytest.fixture(scope="session")
def bench():
    """tensorrt.py as a module of another name."""
    module = sys.modules.get("bench") or load()
    module.REST_MOST = 0  # other tests' threads may spin, here nobody times
    return module


@pytest.fixture(scope="session")
def fleet():
    """fleet.py as a module, with tensorrt.py as its library."""
    return sys.modules.get("fleet") or load("fleet", "fleet.py")


@pytest.fixture(scope="session")
def precision(bench):
    """precision.py as tensorrt.py loads it."""
    return bench.precision_py()


def pytest_collection_modifyitems(config, items):
    """Skips what this machine cannot run, and slow tests unless they are asked for."""
    bench = load()
    old = (bench.version_of("tensorflow") or "9").split(".")[:2] < ["2", "18"]
    asked = config.getoption("-m")
    missing = {
        "gpu": not bench.gpus(),
        "legacy": not old,
        "slow": "slow" not in asked,
        "cluster": "cluster" not in asked,
        "bindings": "bindings" not in asked,
    }
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
        for marker, absent in missing.items():
            if absent and item.get_closest_marker(marker):
                item.add_marker(
                    pytest.mark.skip(reason=f"{marker}: not on this machine, or not asked for")
                )


@pytest.fixture
def command(tmp_path):
    """Runs a program as a user does, in a folder of its own."""

    def run(*args, cwd=tmp_path, env=None, program="tensorrt.py"):
        words = [sys.executable, str(ROOT / program), *args]
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=170,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )

    return run


@pytest.fixture
def main(bench, tmp_path, capsys):
    """Runs the program in this process, one TensorFlow for all tests; gives status, stdout, stderr
    and the records.
    """

    def run(*args):
        results = tmp_path / "results.jsonl"
        before = len(results.read_text().splitlines()) if results.exists() else 0
        status = bench.main(
            [
                "tensorrt.py",
                f"--output_dir={tmp_path}",
                "--noisolate",
                "--num_loops=6",
                "--num_warmup=1",
                *args,
            ]
        )
        out, err = capsys.readouterr()
        lines = results.read_text().splitlines()[before:] if results.exists() else []
        records = [json.loads(line) for line in lines]
        for record in records:
            validate(record)
        log = (tmp_path / "log.txt").read_text() if records else ""
        return types.SimpleNamespace(status=status, out=out, err=err, records=records, log=log)

    return run


@pytest.fixture
def no_proxy(monkeypatch):
    """Connects directly, to servers of this machine or nowhere, where others go through a proxy."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="session")
def shared():
    """The folder of trained networks and photographs beside the checkout, where there is one."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("no ../shared/models")
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """scikit-learn's digits: pixels 0 to 240, and the held-out ones as images in class folders.

    The files are 9x9, the digit in the upper left: the program scales the shorter side to 9 and
    takes the central 8.
    """
    import tensorflow as tf
    from sklearn.datasets import load_digits

    data = load_digits()
    mixed = np.random.default_rng(0).permutation(len(data.target))  # the file is ordered by writer
    pixels, labels = (data.images * 15).astype(np.uint8)[mixed][..., None], data.target[mixed]
    folder = tmp_path_factory.mktemp("digits")
    for index in range(len(pixels) - HELD_OUT, len(pixels)):
        place = folder / str(labels[index])
        place.mkdir(exist_ok=True)
        padded = np.pad(pixels[index], ((0, 1), (0, 1), (0, 0)), mode="edge")
        (place / f"{index}.png").write_bytes(tf.io.encode_png(padded).numpy())
    return types.SimpleNamespace(pixels=pixels, labels=labels, folder=folder)


@pytest.fixture(scope="session")
def network(digits):
    """A residual network trained in seconds on the digits; over 95 % right on the held-out ones."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    # the same weights everywhere, and no need of cuDNN's training kernels
    with tf.device("/CPU:0"):
        model = make_network(tf)
        images = digits.pixels[:-HELD_OUT].astype("float32")
        model.fit(images, digits.labels[:-HELD_OUT], epochs=15, batch_size=32, verbose=0)
    return model


def make_network(tf):
    """The network, untrained."""
    layers = tf.keras.layers
    inputs = layers.Input((8, 8, 1), name="input_tensor")
    x = layers.Rescaling(1 / 240)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(x)))
    y = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.ReLU()(layers.Add()([x, layers.Conv2D(16, 3, padding="same")(y)]))
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    model = tf.keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="session")
def forms(network, tmp_path_factory):
    """The network in every form that the program takes: flag and path by name."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    folder = tmp_path_factory.mktemp("forms")
    # Keras 3
    quiet = {"verbose": False} if "verbose" in inspect.signature(network.export).parameters else {}
    network.export(str(folder / "tf2"), **quiet)
    network.save(folder / "net.keras")
    network.save(folder / "net.h5")
    spec = tf.TensorSpec([None, 8, 8, 1], tf.float32, name="input_tensor")
    function = tf.function(lambda images: network(images, training=False)).get_concrete_function(
        spec
    )
    frozen = convert_variables_to_constants_v2(function)
    graph_def = frozen.graph.as_graph_def()
    (folder / "net.pb").write_bytes(graph_def.SerializeToString())
    save_as_tensorflow_1(tf, graph_def, frozen.outputs[0].name, folder / "tf1")
    return {
        "frozen_graph": folder / "net.pb",
        "tf2": folder / "tf2",
        "tf1": folder / "tf1",
        "keras": folder / "net.keras",
        "h5": folder / "net.h5",
    }


@pytest.fixture
def net(forms):
    """The flags that name the network as a frozen graph."""
    return [f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none"]


def save_as_tensorflow_1(tf, graph_def, output, folder):
    """A SavedModel as TensorFlow 1 wrote them: a session's graph with reference variables, SERVING
    tag, signature.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        images = v1.placeholder(tf.float32, [None, 8, 8, 1], name="input_tensor")
        weights = {}
        for node in graph_def.node:
            if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum:
                value = tf.make_ndarray(node.attr["value"].tensor)
                if value.ndim > 1:  # by value: a reference variable in place of each constant
                    variable = v1.get_variable(
                        node.name.replace("/", "_"), initializer=value, use_resource=False
                    )
                    weights[f"{node.name}:0"] = tf.identity(variable)
        (result,) = tf.graph_util.import_graph_def(
            graph_def, {"input_tensor:0": images, **weights}, [output], name="net"
        )
        result = tf.identity(result, name="softmax_tensor")
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def(
            {"input": images}, {"probabilities": result}
        )
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()


@pytest.fixture(scope="session")
def graph_file(tmp_path_factory):
    """Writes a small TF1 graph as a frozen .pb: `make(build, name)`, where build adds its nodes."""
    import tensorflow as tf

    def make(build, name="graph.pb"):
        folder = tmp_path_factory.mktemp("graph")
        with tf.Graph().as_default() as graph:
            build(tf, tf.compat.v1)
        (folder / name).write_bytes(graph.as_graph_def().SerializeToString())
        return folder / name

    return make
