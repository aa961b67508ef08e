"""Every form of a model loads, finds its input and output, and classifies what it was
trained on.
"""

import functools
import hashlib
import json
import re

import numpy as np
import pytest
from helpers import ROOT, image_graph, pixels_of

FLAGS = {
    "frozen_graph": "frozen_graph",
    "tf2": "savedmodel_dir",
    "tf1": "savedmodel_dir",
    "keras": "keras_model",
    "h5": "keras_model",
}


@pytest.mark.parametrize("form", FLAGS)
def test_each_form_classifies_digits(main, forms, digits, form):
    flags = [
        f"--{FLAGS[form]}={forms[form]}",
        "--preprocessing=none",
        f"--image_dir={digits.folder}",
        "--batch_size=300",
    ]
    ran = main("--native", *flags)
    assert ran.status == 0, ran.err
    assert ran.records[0]["accuracy"]["top1"] > 0.95
    assert ran.records[0]["network"] == (
        "native_frozen_graph.pb" if form in ("tf1", "tf2") else "native_net.pb"
    )


def test_the_frozen_file_gives_the_same_predictions(main, forms, digits, tmp_path):
    common = ["--native", "--preprocessing=none", f"--image_dir={digits.folder}", "--batch_size=8"]
    first = main(f"--savedmodel_dir={forms['tf2']}", *common)
    again = main(f"--frozen_graph={tmp_path / 'frozen_graph.pb'}", *common)
    assert first.records[0]["predictions"] == again.records[0]["predictions"]


def test_a_keras_file_is_frozen_under_its_own_name(main, forms, tmp_path):
    ran = main(
        "--fp32",
        "--engine=onnxruntime",
        f"--keras_model={forms['keras']}",
        "--preprocessing=none",
        "--batch_size=2",
    )
    assert (
        ran.records[0]["network"] == "onnxruntime_fp32_net.pb"
        and ran.records[0]["graph"]["name"] == "net.pb"
    )
    assert (tmp_path / "net.pb").exists() and (tmp_path / "onnxruntime_fp32_net.onnx").exists()


def test_the_built_in_network_has_a_name(bench):
    assert bench.frozen_name(bench.parse_flags(["tensorrt.py"])) == "resnet50_v2.pb"


def test_no_model_overwrites_another_s_files(main, graph_file, tmp_path):
    """Two graphs of one file name; each keeps its name when it is run again."""
    paths = [graph_file(softmax_graph(classes=classes), "net.pb") for classes in (10, 11)]
    flags = ["--fp32", "--engine=onnxruntime", "--batch_size=2"]
    names, files = [], []
    for path in (*paths, *paths):
        ran = main(f"--frozen_graph={path}", *flags)
        assert ran.status == 0, ran.err
        names.append(ran.records[0]["graph"]["name"])
        files.append((tmp_path / ran.records[0]["artifact"]["name"]).read_bytes())
    first, second = names[:2]
    assert first == "net.pb" and names[2:] == [first, second]
    digits = hashlib.sha256(paths[1].read_bytes()).hexdigest()[:8]
    assert (
        second == f"net_{digits}.pb"
        and ran.records[0]["network"] == f"onnxruntime_fp32_net_{digits}.pb"
    )
    assert (tmp_path / "onnxruntime_fp32_net.onnx").read_bytes() == files[2] != files[3]


def test_two_savedmodels_in_one_folder(main, forms, tmp_path):
    for form in ("tf2", "tf1"):
        ran = main(f"--savedmodel_dir={forms[form]}", "--preprocessing=none", "--batch_size=2")
        assert ran.status == 0, ran.err
    name = ran.records[0]["graph"]["name"]
    assert (
        re.fullmatch(r"frozen_graph_[0-9a-f]{8}\.pb", name)
        and ran.records[0]["network"] == f"native_{name}"
    )
    assert sorted(path.name for path in tmp_path.glob("frozen*.pb")) == ["frozen_graph.pb", name]


def test_frozen_graph_wins_over_savedmodel(main, forms):
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--savedmodel_dir=/nowhere",
        "--preprocessing=none",
        "--batch_size=2",
    )
    assert ran.status == 0 and ran.records[0]["network"] == "native_net.pb"


def softmax_graph(shape=(None, 8, 8, 3), kind="float32", classes=10, names=("x", "y")):
    def build(tf, v1):
        images = v1.placeholder(kind, shape, name=names[0])
        flat = tf.reshape(tf.cast(images, tf.float32), [-1 if shape[0] is None else shape[0], 192])
        weights = np.random.default_rng(0).normal(size=(192, classes)).astype(np.float32) / 2000
        tf.nn.softmax(tf.matmul(flat, weights), name=names[1])

    return build


def test_node_names_may_carry_an_index(main, graph_file):
    path = graph_file(softmax_graph())
    ran = main(f"--frozen_graph={path}", "--input_node=x:0", "--output_node=y:0", "--batch_size=2")
    assert ran.status == 0, ran.err
    assert ran.records[0]["graph"]["inputs"][0]["name"] == "x:0"


def test_all_outputs_are_taken_and_said(main, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        for name in ("left", "right"):
            tf.nn.softmax(tf.reshape(images, [-1, 48]), name=name)

    path = graph_file(build)
    ran = main(f"--frozen_graph={path}", "--batch_size=2")
    assert ran.status == 0, ran.err
    assert "outputs: left, right (--output_node takes some of them)" in ran.err
    assert set(ran.records[0]["kinds"]) == {"left:0", "right:0"}
    ran = main(f"--frozen_graph={path}", "--batch_size=2", "--output_node=right")
    assert set(ran.records[0]["kinds"]) == {"right:0"}


def test_usual_names_are_taken_first(main, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="input_tensor")
        v1.placeholder("float32", [], name="other")
        flat = tf.reshape(images, [-1, 48])
        tf.nn.softmax(flat, name="softmax_tensor")
        tf.identity(flat, name="logits")

    ran = main(f"--frozen_graph={graph_file(build)}", "--batch_size=2")
    assert ran.status == 0, ran.err
    assert ran.records[0]["graph"]["outputs"][0]["name"] == "softmax_tensor:0"


def test_a_fixed_batch_is_taken_or_refused(main, graph_file):
    path = graph_file(softmax_graph((3, 8, 8, 3)))
    ran = main(f"--frozen_graph={path}")
    assert (
        ran.status == 0 and ran.records[0]["batch_size"] == 3 and "fixed to batches of 3" in ran.err
    )
    refused = main(f"--frozen_graph={path}", "--batch_size=8")
    assert refused.status == 2 and "--batch_size=3" in refused.err


def test_uint8_input_is_fed_pixels(main, graph_file):
    ran = main(f"--frozen_graph={graph_file(softmax_graph(kind='uint8'))}", "--batch_size=2")
    assert ran.status == 0, ran.err
    assert ran.records[0]["input_dtype"] == "uint8"


@pytest.fixture
def channels_first(bench, graph_file):
    """A graph that TensorFlow cannot compute here."""
    if bench.gpus():
        pytest.skip("a GPU can do it")

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 3, 8, 8], name="x")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
        features = tf.nn.conv2d(images, kernel, 1, "SAME", data_format="NCHW")
        tf.nn.softmax(tf.reduce_mean(features, [2, 3]) / 100, name="y")

    return graph_file(build)


def test_channels_first_is_refused_by_tensorflow_on_a_cpu_and_run_by_onnxruntime(
    main, channels_first
):
    ran = main(
        f"--frozen_graph={channels_first}",
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--batch_size=2",
    )
    native, onnxruntime = ran.records
    assert ran.status == 1
    assert native["status"] == "failed" and "--engine=onnxruntime" in native["error"]
    assert onnxruntime["status"] == "ok" and onnxruntime["graph"]["layout"] == "NCHW"
    assert "agreement" not in onnxruntime


def test_why_nothing_is_compared_is_said(main, channels_first):
    """Native is none of the cases, and what fails is its run for the comparison."""
    ran = main(
        f"--frozen_graph={channels_first}", "--fp32", "--engine=onnxruntime", "--batch_size=2"
    )
    assert ran.status == 0, ran.err
    assert "agreement" not in ran.records[0]
    (line,) = [line for line in ran.err.splitlines() if "compare" in line]
    assert "channels_first" in line


def test_spread_cases_without_a_native_that_ran_are_not_compared(channels_first, command, tmp_path):
    flags = [
        "--gpus=cpu:1",
        "--spread",
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--batch_size=2",
    ]
    ran = command(
        f"--frozen_graph={channels_first}",
        *flags,
        "--num_loops=2",
        "--num_warmup=0",
        f"--output_dir={tmp_path}",
        program="fleet.py",
    )
    assert ran.returncode == 1, ran.stderr
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {record["precision"]: record["status"] for record in records} == {
        "native": "failed",
        "fp32": "ok",
    }
    assert "Traceback" not in ran.stderr and not any("agreement" in record for record in records)


@pytest.mark.parametrize(
    ("classes", "flags", "index", "label"),
    [
        (1001, [], 1, "tench, Tinca tinca"),
        (1000, [], 0, "tench, Tinca tinca"),
        (10, [], 7, "class 7"),
        (10, ["--ids_are_one_indexed"], 7, "class 8"),
    ],
)
def test_labels(bench, classes, flags, index, label):
    config = bench.parse_flags(["tensorrt.py", *flags])
    outputs = np.zeros((1, classes), np.float32)
    outputs[0, index] = 1
    assert bench.predictions(outputs, "probabilities", config)[0] == (label, 1.0)


def test_random_images_follow_the_seed(bench):
    graph = image_graph(bench, 8, 8, 3)
    config = [bench.parse_flags(["tensorrt.py", f"--seed={seed}"]) for seed in (1, 1, 2)]
    one, same, other = (pixels_of(bench.load_images(c, graph, 2)) for c in config)
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_random_images_are_said(main, forms):
    flags = (f"--frozen_graph={forms['frozen_graph']}", "--batch_size=2", "--build_only")
    said = "no --image_file or --image_dir: random pixels are fed"
    assert said in main(*flags).err
    assert said not in main(*flags, f"--image_file={ROOT}/image.jpg").err


MODELS = {
    "mobilenet_v1_0.25_224_frozen.pb": (
        "inception",
        {"coffee.png": "espresso", "parrot.jpg": "macaw", "bird.bmp": "chickadee"},
    ),
    "squeezenet_v1.1_frozen.pb": ("caffe", {"coffee.png": "espresso", "hot_dog.jpg": "hotdog"}),
    "mobilenet_v2_1.0_224_frozen.pb": (
        "inception",
        {"coffee.png": "espresso", "parrot.jpg": "macaw"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_trained_networks_name_the_photographs(main, shared, name):
    preprocessing, expected = MODELS[name]
    for photograph, label in expected.items():
        ran = main(
            f"--frozen_graph={shared / 'models' / name}",
            f"--preprocessing={preprocessing}",
            "--num_loops=2",
            f"--image_file={shared / 'images' / photograph}",
            "--batch_size=1",
        )
        assert ran.status == 0, ran.err
        assert re.search(rf"Precision:  native \[['\"]{label}", ran.out), ran.out


def test_a_graph_that_protobuf_could_not_read_is_one_line(main, bench, forms, monkeypatch):
    """The limit is 2 GB, which a test does not write."""
    monkeypatch.setattr(bench, "MOST_BYTES", 1000)
    for flag in ("savedmodel_dir", "frozen_graph"):
        form = {"savedmodel_dir": "tf2"}.get(flag, flag)
        ran = main("--native", "--noisolate", f"--{flag}={forms[form]}", "--batch_size=1")
        assert ran.status == 2
        assert "protobuf, which TensorFlow's graphs are written in, reads 0.0" in ran.err
        assert "Traceback" not in ran.err


def large_graph(tf):
    """y = relu(x w) + b, of which only b is small; a constant has the name of the argument."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(100, 100)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 100], name="X")
        product = tf.matmul(x, tf.constant(weights, name="x"))
        tf.add(tf.nn.relu(product), random.normal(size=100).astype(np.float32), name="y")
    return graph.as_graph_def()


def test_tensorflow_gets_large_constants_last_and_whole(bench):
    """The function that runs is, node by node, the one that TensorFlow makes of the whole graph."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    graph_def = large_graph(tf)
    names = ["X:0"], ["y:0"]
    load = functools.partial(tf.graph_util.import_graph_def, graph_def, name="")
    whole = tf.compat.v1.wrap_function(load, []).prune(*names)
    function = bench.graph_function(tf, graph_def, *names)
    assert function.function_def.ByteSize() < 5000
    bench.fill_constants(function, graph_def)
    filled = context.context().get_function_def(function.name)
    assert list(filled.node_def) == list(whole.function_def.node_def)
    x = tf.constant(np.ones((2, 100), np.float32))
    np.testing.assert_array_equal(function(x), whole(x))


def test_a_frozen_model_is_what_tensorflow_freezes(bench, forms):
    """The same nodes, but for those that neither an input nor an output needs."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    loaded = tf.saved_model.load(str(forms["tf2"]))
    function = loaded.signatures["serving_default"]
    graph_def, inputs = bench.constants_for_variables(function)
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    assert inputs == [tensor.name for tensor in frozen.inputs]
    found = {node.name: node for node in graph_def.node}
    for node in frozen.graph.as_graph_def().node:
        assert found[node.name].op == node.op
        assert list(found[node.name].input) == list(node.input)
        assert found[node.name].attr["value"] == node.attr["value"]


def test_pixels_are_scaled_by_a_constant_of_their_own(main, graph_file):
    """A mean image is a large constant, and its values tell whether a graph scales its input."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 64, 64, 3], name="x")
        small = images * np.full((64, 64, 3), 1 / 255, np.float32)
        tf.reduce_mean(small, [1, 2], name="y")

    ran = main("--native", f"--frozen_graph={graph_file(build)}", "--batch_size=2")
    assert ran.records[0]["graph"]["scaling"] == "Mul"
