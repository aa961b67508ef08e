"""ONNX export, FP16, INT8 and TensorRT plans on a trained network: right, where they should be, and
proved.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, agreement, image_graph, pixels_of, run_case, zeros_around_a_pool

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def onnx(bench, forms, digits, tmp_path_factory):
    """The digits network's ONNX maker, with held-out digits as its images."""
    folder = tmp_path_factory.mktemp("onnx")
    config = bench.parse_flags(
        [
            "tensorrt.py",
            f"--frozen_graph={forms['frozen_graph']}",
            "--preprocessing=none",
            f"--output_dir={folder}",
            f"--image_dir={digits.folder}",
            "--noisolate",
        ]
    )
    graph = bench.load_graph(config)
    return bench.Onnx(config, graph, bench.load_images(config, graph, 300))


def run(model, batch, **words):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], **words
    )
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def decibels(ours, right):
    """The signal to noise of outputs: infinite where they are the same."""
    noise = np.sum((ours - right) ** 2)
    return 10 * np.log10(np.sum(right**2) / noise) if noise else np.inf


def native(bench, maker, batch):
    job = bench.Job(
        bench.Case("native", "native", len(batch)), maker.config, maker.graph, maker.samples
    )
    artifact = bench.Artifact(maker.graph.path, maker.graph.sha256)
    feed = {maker.graph.input_names[0]: batch}
    (values,) = bench.TensorFlowRunner(job, artifact, feed, compiled=False).infer(feed).values()
    return values


def whole_batch(maker):
    return only(maker.samples.batch(len(maker.samples)))


def only(feed):
    """The array of a step's only input."""
    (array,) = feed.values()
    return array


def test_fp32_agrees_with_native(bench, onnx):
    batch = whole_batch(onnx)
    ours, theirs = run(onnx.fp32, batch), native(bench, onnx, batch)
    assert np.max(np.abs(ours - theirs)) <= 1e-4 * np.max(np.abs(theirs))


@pytest.mark.parametrize(
    ("name", "preprocessing"),
    [
        pytest.param("mobilenet_v1_0.25_224_frozen.pb", "inception", marks=pytest.mark.slow),
        pytest.param("squeezenet_v1.1_frozen.pb", "caffe", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2_1.0_224_frozen.pb", "inception", marks=pytest.mark.slow),
    ],
)
def test_precisions_on_trained_networks(bench, shared, tmp_path, name, preprocessing):
    """FP32 to 1e-4; FP16 keeps top-1 where native gives it over 0.5, INT8 where over 0.6, on CPUs
    and for TensorRT.
    """
    config = bench.parse_flags(
        [
            "tensorrt.py",
            f"--frozen_graph={shared / 'models' / name}",
            f"--output_dir={tmp_path}",
            f"--preprocessing={preprocessing}",
            f"--image_dir={shared / 'images'}",
            "--noisolate",
        ]
    )
    graph = bench.load_graph(config)
    maker = bench.Onnx(config, graph, bench.load_images(config, graph, 10))
    feeds = [only(feed) for feed in bench.feeds(graph, maker.samples.head(10))]
    reference = np.concatenate([native(bench, maker, feed) for feed in feeds]).reshape(10, -1)

    def outputs(engine, precision):
        return np.concatenate(
            [run(maker.model(engine, precision)[0], feed) for feed in feeds]
        ).reshape(10, -1)

    assert np.max(np.abs(outputs("onnxruntime", "fp32") - reference)) <= 1e-4 * reference.max()
    same_class = outputs("onnxruntime", "fp16").argmax(1) == reference.argmax(1)
    assert same_class[reference.max(1) > 0.5].all()
    int8 = outputs("onnxruntime", "int8")
    assert (int8.argmax(1) == reference.argmax(1))[reference.max(1) > 0.6].all()


@pytest.mark.parametrize("side", [8, None])
def test_zeros_around_a_maxpool_count(graph_file, main, side):
    """More than all that is negative; ONNX Runtime up to 1.31 takes them for a MaxPool's own pads.

    ResNet-50 v2 has such a pool.
    """

    ran = main(
        f"--frozen_graph={graph_file(zeros_around_a_pool(side))}",
        "--preprocessing=none",
        "--native",
        "--fp32",
        "--fp16",
        "--engine=onnxruntime",
        "--batch_size=4",
    )
    assert ran.status == 0, ran.err
    for record, least in zip(ran.records[1:], (90, 50)):
        (output,) = record["agreement"]["outputs"].values()
        assert output["snr_db"] > least, record["precision"]


SIDES = ((4, 4), (1, 1, 1, 1), (3, 3), (2, 2))  # what is pooled, zeros around it, windows, steps


def pool_of(given=SIDES, before="Neg", outputs=("y",), value=0.0, axes=(), around=(0, 0), **words):
    """An ONNX model of a MaxPool of what a Pad put zeros around.

    `around`: pads of the second axis; `axes`: the Pad's fourth input; `words`: attributes, the
    Pad's `mode` among them.
    """
    from onnx import TensorProto, helper, numpy_helper

    size, pads, kernel, strides = given
    mode = words.pop("mode", "constant")
    sides = {"kernel_shape": kernel, "strides": strides, **words}
    whole = [0, around[0], *pads[:2], 0, around[1], *pads[2:]]
    constants = {"pads": np.array(whole), "value": np.float32(value)}
    if axes:
        constants |= {"axes": np.array(axes), "pads": np.array(pads)}
    nodes = [
        helper.make_node(before, ["x"], ["a"]),
        helper.make_node("Pad", ["a", *constants], ["b"], "pad", mode=mode),
        helper.make_node("MaxPool", ["b"], outputs, "pool", **sides),
    ]
    graph = helper.make_graph(
        nodes,
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", 18 if axes else 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def ops_of(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    "given",
    [
        SIDES,
        ((5, 8), (0, 1, 2, 0), (3, 2), (2, 3)),
        ((7, 3), (2, 2, 2, 2), (3, 3), (1, 1)),
        ((6, 6), (0, 0, 1, 1), (2, 2), (2, 2)),
        ((3, 9), (1, 0, 0, 2), (2, 4), (4, 1)),
    ],
)
def test_a_border_of_zeros_becomes_pads_and_a_maximum(precision, given):
    from onnx.reference import ReferenceEvaluator

    model = pool_of(given)
    images = np.random.default_rng(0).normal(size=(3, 2, *given[0])).astype(np.float32) + 0.5
    (before,) = ReferenceEvaluator(model).run(None, {"x": images})
    precision.spell_pads(model)
    assert ops_of(model) == ["Neg", "MaxPool", "Max"]
    assert np.array_equal(run(model, images), before)
    assert np.array_equal(run(precision.fold(model), images), before)


@pytest.mark.parametrize("size", [(4, 4), (None, None)])
def test_behind_a_relu_pads_are_enough(precision, size):
    model = pool_of((size, *SIDES[1:]), "Relu")
    precision.spell_pads(model)
    assert ops_of(model) == ["Relu", "MaxPool"]
    images = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    assert run(model, images).min() >= 0


@pytest.mark.parametrize(
    "words",
    [
        {"given": ((None, 4), *SIDES[1:])},  # the border is not known
        {"given": ((4, 4), (3, 0, 0, 0), *SIDES[2:])},  # ONNX takes no pads as large as the window
        {"given": ((4, 4), (-1, 0, 0, 0), (2, 2), (1, 1))},
        {"around": (1, 0)},
        {"around": (0, 1)},
        {"value": -1.0},
        {"mode": "edge"},
        {"axes": (0, 1)},
        {"outputs": ("y", "indices")},
        {"pads": [1, 1, 1, 1]},
        {"auto_pad": "SAME_UPPER"},
        {"ceil_mode": 1},
        {"dilations": [2, 2]},
    ],
)
def test_what_cannot_be_pads_stays(precision, words):
    model = pool_of(**words)
    precision.spell_pads(model)
    assert ops_of(model) == ["Neg", "Pad", "MaxPool"]


def one_reader(op, value=(0, 0, 1, 2, 0, 0, 1, 2), kind="float32", **words):
    """An ONNX model of a Pad and the node that alone reads it; `value`: the pads."""
    from onnx import helper, numpy_helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constants = {"pads": np.array(value)}
    if op == "Conv":
        constants["w"] = np.random.default_rng(0).normal(size=(4, 2, 3, 3)).astype(kind)
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["b"], "pad"),
        helper.make_node(op, ["b", *constants.keys() - {"pads"}], ["y"], "node", **words),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", element, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("y", element, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


POOLED = {"kernel_shape": [3, 3]}


@pytest.mark.parametrize(
    ("op", "words", "left"),
    [
        ("Conv", {}, ["Conv"]),
        ("Conv", {"pads": [1, 0, 0, 2]}, ["Conv"]),
        ("Conv", {"auto_pad": "VALID"}, ["Conv"]),
        ("Conv", {"auto_pad": "SAME_UPPER"}, ["Pad", "Conv"]),
        ("Conv", {"value": (0, 1, 1, 1, 0, -1, 1, 1)}, ["Pad", "Conv"]),
        ("Conv", {"value": (1, 0, 1, 1, 0, 0, 1, 1)}, ["Pad", "Conv"]),
        ("Conv", {"value": (0, 0, 1, 1, 1, 0, 1, 1)}, ["Pad", "Conv"]),
        ("MaxPool", POOLED, ["MaxPool", "Max"]),
        ("MaxPool", {**POOLED, "kind": "float64"}, ["Pad", "MaxPool"]),
        ("AveragePool", POOLED, ["AveragePool"]),
        ("AveragePool", {**POOLED, "count_include_pad": 0}, ["AveragePool"]),
        ("AveragePool", {**POOLED, "pads": [1] * 4}, ["Pad", "AveragePool"]),
    ],
)
def test_what_alone_reads_zeros_has_them_as_pads(precision, op, words, left):
    model = one_reader(op, **words)
    images = np.random.default_rng(1).normal(size=(2, 2, 6, 6)) - 2
    images = images.astype(words.get("kind", "float32"))
    right = {"disabled_optimizers": precision.WRONG_OPTIMIZERS}
    before = run(model, images, **right)
    precision.spell_pads(model)
    assert ops_of(model) == left
    assert np.allclose(run(model, images, **right), before, atol=1e-5)


def test_a_pad_that_a_branch_reads_too_stays(precision, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 2], name="images")
        kernel = -np.eye(2, dtype=np.float32)[None, None]
        negative = tf.nn.conv2d(images, kernel, 1, "SAME")
        bordered = tf.pad(negative, [[0, 0], [1, 1], [1, 1], [0, 0]])
        positive = tf.reduce_sum(images) > 0
        total = tf.cond(positive, lambda: tf.reduce_sum(bordered), lambda: tf.constant(0.0))
        tf.identity(tf.nn.max_pool2d(bordered, 3, 2, "VALID") + total, name="y")

    graph = graph_file(build).read_bytes()
    model = precision.Precisions(graph, ["images:0"], ["y:0"], 17).fp32
    values = run(model, np.ones((1, 4, 4, 2), np.float32))
    assert values.ravel().tolist() == [-32] * 6 + [-33] * 2


@pytest.mark.parametrize("side", [6, None])
def test_zeros_before_a_depthwise_convolution_are_its_own(precision, graph_file, side):
    """As in MobileNet v2 and EfficientNet: tf2onnx leaves them as a layer that copies."""
    import tensorflow as tf

    def build(tf, v1):
        images = v1.placeholder("float32", [None, side, side, 2], name="images")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 1)).astype("float32")
        widened = tf.nn.relu6(tf.nn.conv2d(images, kernel[:1, :1, :, :].repeat(2, 3), 1, "SAME"))
        bordered = tf.pad(widened, [[0, 0], [0, 1], [0, 1], [0, 0]])
        steps = [1, 2, 2, 1]
        tf.nn.depthwise_conv2d(bordered, kernel, steps, "VALID", name="y")

    path = graph_file(build)
    model = precision.Precisions(path.read_bytes(), ["images:0"], ["y:0"], 17).fp32
    assert "Pad" not in ops_of(model)
    images = np.random.default_rng(1).normal(size=(2, 6, 6, 2)).astype(np.float32)
    graph_def = tf.compat.v1.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        right = session.run("y:0", {"images:0": images})
    assert np.allclose(run(model, images), right, atol=1e-5)


@pytest.fixture
def bordered(precision, graph_file):
    """A convolution, a pooling with a border of zeros, a batch norm and a convolution; a sample."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 3], name="images")
        random = np.random.default_rng(0)
        first, second = random.normal(size=(2, 3, 3, 4, 4)).astype("float32")
        pooled = tf.nn.max_pool2d(
            tf.pad(
                tf.nn.conv2d(images, first[:, :, :3], 1, "SAME") - 20,
                [[0, 0], [1, 1], [1, 1], [0, 0]],
            ),
            3,
            2,
            "VALID",
        )
        normal = pooled * tf.constant([0.5, 2, 1, 3]) - tf.constant([1.0, -1, 0, 2])
        tf.nn.conv2d(tf.nn.relu(normal), second, 1, "SAME", name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    return made, {"images:0": np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)}


def test_a_border_of_zeros_is_float16_in_fp16(precision, bordered):
    """Not cast to float32 and back, which TensorRT does in layers of their own."""
    made, sample = bordered
    model, _ = made.fp16([sample])
    border = next(node for node in model.graph.node if node.op_type == "Max")
    types = precision.element_types(model.graph)
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert {types[name] for name in border.input} == {precision.onnx_type("fp16")}
    (images,) = sample.values()
    assert np.allclose(run(model, images), run(made.fp32, images), rtol=0.01, atol=0.05)


@pytest.mark.parametrize("half", [False, True])
def test_a_border_in_front_of_a_batch_norm_is_int8(precision, bordered, monkeypatch, half):
    """With the MaxPool's scale, so that no value changes."""
    from onnx import numpy_helper

    made, sample = bordered
    ranges = precision.tensor_ranges(made.folded, [sample], "minmax")
    model = precision.to_int8(made.folded, ranges, precision.Settings(half=half))
    readers = precision.consumers(model.graph)

    def behind(op):
        (node,) = (node for node in model.graph.node if node.op_type == op)
        return {reader.op_type for reader in readers[node.output[0]]}

    assert behind("MaxPool") == behind("Max") == {"QuantizeLinear"}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = [
        float(numpy_helper.to_array(constants[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and "MaxPool" in node.input[0]
    ]
    assert len(scales) == 2 and len(set(scales)) == 1
    monkeypatch.setattr(precision, "quantise_borders", lambda graph, borders: None)
    plain = precision.to_int8(made.folded, ranges, precision.Settings(half=half))
    (images,) = sample.values()
    right, ours = run(made.fp32, images), run(model, images)
    assert decibels(ours, run(plain, images)) > (40 if half else 100)  # float16 rounds in any order
    assert np.sqrt(np.mean((ours - right) ** 2) / np.mean(right**2)) < 0.06


@pytest.mark.parametrize("preprocessing", ["inception", "none"])
def test_uint8_pixels_give_the_float_path_s_outputs(bench, onnx, preprocessing):
    config = bench.Config(**{**vars(onnx.config), "preprocessing": preprocessing})
    graph = bench.with_pixels_in_front(config, onnx.graph)
    raw = bench.images_of(config, graph, pixels_of(onnx.samples), onnx.samples.names)
    model = bench.Onnx(config, graph, raw).fp32
    pixels = only(raw.batch(8))
    assert pixels.dtype == np.uint8
    floats = only(dataclasses.replace(onnx.samples, preprocessing=preprocessing).batch(8))
    assert np.allclose(run(model, pixels), run(onnx.fp32, floats), atol=1e-5)


def test_caffe_channels_are_reversed_on_the_device(bench, graph_file, tmp_path):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        tf.nn.softmax(tf.reshape(images, [-1, 48]) / 100, name="y")

    common = [
        "tensorrt.py",
        f"--frozen_graph={graph_file(build)}",
        "--preprocessing=caffe",
        f"--output_dir={tmp_path}",
        "--noisolate",
    ]
    results = []
    for dtype in ("float32", "uint8"):
        config = bench.parse_flags(
            [*common, f"--host_dtype={dtype}", "--num_loops=2", "--num_warmup=0"]
        )
        graph = bench.load_graph(config)
        if dtype == "uint8":
            graph = bench.with_pixels_in_front(config, graph)
        case = bench.Case("native", "native", 3)
        results.append(
            run_case(
                bench, bench.Job(case, config, graph, bench.load_images(config, graph, 3))
            ).outputs
        )
    assert np.allclose(*(values["y:0"] for values in results), atol=1e-6)


def test_fp16_is_half_inside_and_float_at_the_edges(onnx):
    model, proof = onnx.model("tensorrt", "fp16")
    assert proof["share_of_nodes"] == 1.0 and proof["share_of_weights"] > 0.99
    edges = [*model.graph.input, *model.graph.output]
    assert {edge.type.tensor_type.elem_type for edge in edges} == {1}, "1 is float32"


@pytest.fixture
def overflowing(precision):
    """A model [1, 4] of two matrix products, between which stands 240,000, and its ranges."""
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.full((4, 4), value, np.float32), name)
        for name, value in (("a", 3e4), ("b", 1e-5))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["big"], "large"),
        helper.make_node("MatMul", ["big", "b"], ["y"], "small"),
    ]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, precision.tensor_ranges(model, [{"x": TWOS}], "minmax")


TWOS = np.full((1, 4), 2.0, np.float32)


def test_fp16_keeps_float32_where_it_would_overflow(precision, overflowing):
    model, ranges = overflowing
    assert ranges["big"] == (240000.0, 240000.0)
    assert np.allclose(run(precision.to_fp16(model, ranges), TWOS), 9.6, rtol=1e-2)
    assert precision.coverage(precision.to_fp16(model, ranges), "fp16")["low_nodes"] == 0
    assert precision.coverage(precision.to_fp16(model, {}), "fp16")["low_nodes"] == 2, (
        "the ranges alone keep it in float32"
    )


def test_int8_stands_around_what_would_overflow_float16(precision, overflowing):
    """For a strongly typed TensorRT, where what is not quantised is float16."""
    model, ranges = overflowing
    quantised = precision.to_int8(model, ranges, precision.Settings(half=True))
    assert precision.coverage(quantised, "int8")["low_nodes"] == 2
    assert np.allclose(run(quantised, TWOS), 9.6, rtol=1e-2)


def test_fp16_of_which_nothing_is_left_is_refused(precision, overflowing, monkeypatch):
    """What ran would be float32 under the name of FP16."""
    model, _ = overflowing
    precisions = precision.Precisions(b"", ["x"], ["y"])
    monkeypatch.setattr(precision, "export", lambda *given: model)
    with pytest.raises(precision.PrecisionError, match="take --fp32"):
        precisions.fp16([{"x": TWOS}])


def test_fp16_leaves_a_cast_of_integers_in_front_of_what_stays_float32(precision):
    """As in Keras 2's layer norm, which divides a sum that overflows by a number of values."""
    from onnx import TensorProto, checker, helper

    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], "square"),
        helper.make_node("Size", ["x"], ["count"], "count"),
        helper.make_node("Cast", ["count"], ["number"], "number", to=TensorProto.FLOAT),
        helper.make_node("Div", ["square", "number"], ["y"], "mean"),
    ]
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.full((1, 4), 300.0, np.float32)
    half = precision.to_fp16(model, precision.tensor_ranges(model, [{"x": x}], "minmax"))
    checker.check_model(half, full_check=True)
    assert np.allclose(run(half, x), 22500.0, rtol=1e-2)


def quantised_inputs(model):
    made = {name: node for node in model.graph.node for name in node.output}
    heavy = [node for node in model.graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    return [
        all(made[name].op_type == "DequantizeLinear" for name in node.input[:2]) for node in heavy
    ]


def test_int8_for_tensorrt_is_symmetric_and_where_it_should_be(bench, onnx):
    model, proof = onnx.model("tensorrt", "int8")
    assert all(quantised_inputs(model)) and proof["share_of_nodes"] == 1.0
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    from onnx import numpy_helper

    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = numpy_helper.to_array(values[node.input[2]])
            assert zero.dtype == np.int8 and not zero.any()
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    (add,) = [n for n in model.graph.node if n.op_type == "Add" and not set(n.input) & set(values)]
    assert sorted(made[name] for name in add.input) == ["Conv", "DequantizeLinear"], (
        "the residual branch alone"
    )
    assert not [
        n
        for n in model.graph.node
        if n.op_type == "Softmax" and made[n.input[0]] == "DequantizeLinear"
    ]


def test_what_int8_leaves_is_float16_for_a_strongly_typed_network(precision, onnx):
    """An INT8 plan whose convolutions write float32 moves twice the bytes of one in which they
    write float16.
    """
    from onnx import TensorProto, checker

    ranges = onnx.calibration.ranges
    full, _ = onnx.precisions.int8(ranges, precision.Settings())
    half, share = onnx.precisions.int8(ranges, precision.Settings(half=True))
    checker.check_model(half)
    assert share["share_of_nodes"] == 1.0
    kinds = {tensor.data_type for tensor in half.graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert TensorProto.FLOAT not in kinds
    assert TensorProto.FLOAT in {tensor.data_type for tensor in full.graph.initializer}
    assert {
        edge.type.tensor_type.elem_type for edge in (*half.graph.input, *half.graph.output)
    } == {TensorProto.FLOAT}
    images = only(onnx.samples.batch(8))
    # float16 rounds to another step of int8 here and there, on each CPU to others
    given, wanted = run(half, images), run(full, images)
    assert np.sum((given - wanted) ** 2) < 0.01 * np.sum(wanted**2)
    assert (given.argmax(axis=1) == wanted.argmax(axis=1)).all()


def test_int8_says_what_must_not_become_float16(precision):
    """TensorRT 8 chooses types itself, within flags: the graph names the nodes that must stay."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((4, 4), 3e4, np.float32), "w")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["big"], "large"),
        helper.make_node("Relu", ["x"], ["y"], "small"),
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ranges = {"x": (-2.0, 2.0), "big": (-240000.0, 240000.0), "y": (0.0, 2.0)}
    quantised = precision.to_int8(model, ranges, precision.Settings())
    assert precision.kept_in_float32(quantised.SerializeToString()) == ["large"]
    assert precision.kept_in_float32(precision.to_fp16(model, ranges).SerializeToString()) == [
        "large"
    ]
    assert precision.kept_in_float32(model.SerializeToString()) == []


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_that_no_convolution_took_in_is_spelled_as_one(precision, bias):
    """TensorRT 8.6.0 cannot merge a Mul alone into the scales of Q/DQ around it."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    shape = [2, 3, 4, 4]
    names = ["scale", "bias"] if bias else ["scale"]
    weights = [
        numpy_helper.from_array(generator.normal(size=(1, 3, 1, 1)).astype(np.float32), name)
        for name in names
    ]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["scaled"], "mul")]
    if bias:
        nodes.append(helper.make_node("Add", ["bias", "scaled"], ["shifted"], "add"))
    nodes.append(helper.make_node("Relu", [nodes[-1].output[0]], ["y"], "relu"))
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = generator.normal(size=shape).astype(np.float32)
    before = run(model, x)
    precision.spell_batch_norms(model.graph)
    assert [node.op_type for node in model.graph.node] == ["BatchNormalization", "Relu"]
    assert np.allclose(run(model, x), before, atol=1e-5)


def test_no_quantisation_between_a_convolution_and_its_activation(onnx):
    for engine in ("tensorrt", "onnxruntime"):
        model, _ = onnx.model(engine, "int8")
        made = {name: node.op_type for node in model.graph.node for name in node.output}
        activations = [node for node in model.graph.node if node.op_type == "Relu"]
        assert activations and all(
            made[node.input[0]] != "DequantizeLinear" for node in activations
        )


def test_weights_are_quantised_per_channel(onnx):
    from onnx import numpy_helper

    model, _ = onnx.model("tensorrt", "int8")
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [
        n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in values
    ]
    assert weights and all(
        values[node.input[1]].size == values[node.input[0]].shape[0]
        for node in weights
        if values[node.input[0]].ndim == 4
    )


def test_int8_weights_as_floats_give_the_same_outputs(precision, onnx):
    """TensorRT 8.6 refuses int8 constants; what it quantises itself must be the same numbers."""
    from onnx import ModelProto, TensorProto, checker

    model, _ = onnx.precisions.int8(onnx.calibration.ranges, precision.Settings())
    floats = ModelProto.FromString(precision.weights_as_floats(model.SerializeToString()))
    checker.check_model(floats, full_check=True)
    kinds = {t.data_type for t in floats.graph.initializer if len(t.dims) > 1}
    assert kinds == {TensorProto.FLOAT}
    batch = whole_batch(onnx)
    assert np.array_equal(run(floats, batch), run(model, batch))


def test_a_constant_that_only_a_branch_reads_stays(precision):
    from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

    def branch(name, constant):
        node = helper.make_node("Add", ["x", constant], [name])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])]
        )

    choose = helper.make_node(
        "If", ["yes"], ["y"], then_branch=branch("a", "one"), else_branch=branch("b", "two")
    )
    sides = [
        helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
    ]
    constants = [
        numpy_helper.from_array(np.full(2, value, np.float32), name)
        for name, value in (("one", 1), ("two", 2), ("nobody's", 3))
    ]
    graph = helper.make_graph(
        [choose],
        "g",
        sides,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model = ModelProto.FromString(precision.weights_as_floats(model.SerializeToString()))
    checker.check_model(model, full_check=True)
    assert [tensor.name for tensor in model.graph.initializer] == ["one", "two"]


def opened(bench, onnx, precision):
    """ONNX Runtime's runner of a batch of eight."""
    case = bench.Case("onnxruntime", precision, 8)
    artifact = onnx.write(case)
    job = bench.Job(case, onnx.config, onnx.graph, onnx.samples, artifact)
    return bench.ENGINES["onnxruntime"].open(job, artifact, job.batch())


def test_onnxruntime_really_runs_int8(bench, onnx):
    assert opened(bench, onnx, "int8").facts["executed_share_of_nodes"] == 1.0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnxruntime_is_told_the_shapes_that_it_is_fed(bench, onnx, precision):
    """What computes shapes is folded then."""
    (source,) = opened(bench, onnx, precision).session.get_inputs()
    assert source.shape == [8, *onnx.samples.head(1).arrays[source.name].shape[1:]]


def test_outputs_of_a_cuda_graph_stay_where_they_are(bench, onnx, monkeypatch):
    """On a CPU nothing is captured, but outputs are bound in the same way."""
    runner = opened(bench, onnx, "fp32")
    bound = {}
    bind = runner.resident.bind_ortvalue_output

    def binds(name, value):
        bound[name] = value
        bind(name, value)

    monkeypatch.setattr(runner.resident, "bind_ortvalue_output", binds)
    feed = onnx.samples.batch(8)
    ((name, wanted),) = runner.infer(feed).items()
    runner.capture(feed)
    assert np.array_equal(bound[name].numpy(), wanted)
    bound[name].update_inplace(np.zeros_like(wanted))
    runner.enqueue()
    (output,) = runner.resident.get_outputs()
    assert output.data_ptr() == bound[name].data_ptr()
    assert np.array_equal(bound[name].numpy(), wanted)


@pytest.mark.parametrize("written", [np.zeros_like, lambda wanted: 2 * wanted])
def test_a_cuda_graph_that_computes_something_else_is_refused(bench, onnx, monkeypatch, written):
    runner = opened(bench, onnx, "fp32")
    bound = []
    bind = runner.resident.bind_ortvalue_output
    monkeypatch.setattr(
        runner.resident,
        "bind_ortvalue_output",
        lambda name, value: (bound.append(value), bind(name, value)),
    )
    feed = onnx.samples.batch(8)
    ((_, wanted),) = runner.infer(feed).items()
    monkeypatch.setattr(runner, "enqueue", lambda: bound[0].update_inplace(written(wanted)))
    with pytest.raises(RuntimeError, match="computes other outputs"):
        runner.capture(feed)


@pytest.mark.parametrize(
    ("replay", "same"), [([1, 0.001], True), ([1, np.nan], False), ([1.1, 0], False)]
)
def test_what_counts_as_replayed(bench, replay, same):
    assert bench.replayed(np.array(replay), np.array([1, 0.0])) is same
    assert bench.replayed(np.array([np.nan]), np.array([np.nan]))
    assert bench.replayed(np.array([True]), np.array([True]))


class RecordedOptions:
    """ONNX Runtime's options of a run, as words."""

    def __init__(self):
        self.entries = {}

    def add_run_config_entry(self, key, value):
        self.entries[key] = value


def test_only_a_step_on_the_device_replays(bench, onnx, monkeypatch):
    """Its addresses are those of the resident batch: all else runs apart."""
    monkeypatch.setattr(onnxruntime, "RunOptions", RecordedOptions)
    runner = bench.OnnxRuntimeRunner.__new__(bench.OnnxRuntimeRunner)
    ran = []
    binding = types.SimpleNamespace(
        bind_ortvalue_output=lambda *_: None,
        synchronize_outputs=lambda: None,
        copy_outputs_to_cpu=lambda: None,
    )
    outputs = np.ones((8, 10), np.float32)

    class Value:
        ortvalue_from_shape_and_type = staticmethod(lambda *_: Value())
        update_inplace = staticmethod(lambda _: None)
        numpy = staticmethod(lambda: outputs)

    def run(names, feed, options):
        ran.append(("infer", options.entries))
        return [outputs]

    runner.session = types.SimpleNamespace(
        run=run, run_with_iobinding=lambda _, options: ran.append(("step", options.entries))
    )
    runner.runtime, runner.device = types.SimpleNamespace(OrtValue=Value), "cuda"
    runner.outputs, runner.resident = ["y"], binding
    runner.apart = bench.run_options(bench.UNCAPTURED)
    monkeypatch.setattr(runner, "bind", lambda feed: binding)
    runner.capture({})
    runner.prefetch({}, 1)()
    apart = {"gpu_graph_id": "-1"}
    unsynced = {"disable_synchronize_execution_providers": "1"}
    assert ran == [
        ("infer", apart),
        ("step", unsynced),
        ("step", unsynced),
        ("step", {**apart, **unsynced}),
    ]


@pytest.mark.parametrize("flag", ["--tf32", "--notf32"])
def test_a_cuda_session_has_its_settings(bench, monkeypatch, flag):
    asked = {}

    def session(model, options, providers, **words):
        asked.update(words, providers=providers)
        return types.SimpleNamespace(get_providers=lambda: ["CUDAExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    config = bench.parse_flags(["tensorrt.py", flag])
    bench.create_session(b"", None, "CUDAExecutionProvider", config, {"prefer_nhwc": 1})
    settings = {"use_tf32": int(flag == "--tf32"), "prefer_nhwc": 1}
    assert asked["providers"] == [("CUDAExecutionProvider", settings)]
    assert not asked["enable_fallback"], "it would hide what is refused"
    assert asked["disabled_optimizers"] == ["Pad_Fusion"]


BOTH, NEITHER = ({"prefer_nhwc": on, "enable_cuda_graph": on} for on in (1, 0))


@pytest.mark.parametrize(
    ("refused", "ran"),
    [
        ((), BOTH),
        (("enable_cuda_graph",), {**BOTH, "enable_cuda_graph": 0}),
        (("prefer_nhwc",), {**BOTH, "prefer_nhwc": 0}),
        (("enable_cuda_graph", "prefer_nhwc"), NEITHER),
    ],
)
def test_a_cuda_session_gets_what_the_graph_allows(bench, monkeypatch, refused, ran):
    def opens(job, artifact, feed, provider, settings):
        for setting in refused:
            if settings.get(setting):
                raise RuntimeError(f"this session has no {setting}")
        return types.SimpleNamespace(facts={**settings})

    monkeypatch.setattr(bench, "OnnxRuntimeRunner", opens)
    engine = bench.ENGINES["onnxruntime"]
    monkeypatch.setattr(engine, "provider", lambda: "CUDAExecutionProvider")
    facts = engine.open(None, None, {}).facts
    notes = bench.coverage_notes("fp16", facts)
    if refused:
        assert facts.pop("refused") == f"this session has no {refused[0]}"
        named = {"enable_cuda_graph": "a CUDA graph", "prefer_nhwc": "NHWC"}
        assert notes == [
            f"ONNX Runtime refused {' and '.join(named[name] for name in refused)}, which makes "
            f"others faster (this session has no {refused[0]})"
        ]
    else:
        assert not notes
    assert facts == ran
    monkeypatch.setattr(engine, "provider", lambda: "CPUExecutionProvider")
    assert engine.open(None, None, {}).facts == {}


@pytest.mark.parametrize(
    ("words", "tries"), [("no kernel", 4), ("Failed to allocate memory for a buffer", 1)]
)
def test_what_a_cuda_session_refuses_in_any_case_is_raised(bench, monkeypatch, words, tries):
    """Where memory ends at once: then the parent makes room, and asks again."""
    tried = []

    def opens(job, artifact, feed, provider, settings):
        tried.append(settings)
        raise RuntimeError(words)

    monkeypatch.setattr(bench, "OnnxRuntimeRunner", opens)
    engine = bench.ENGINES["onnxruntime"]
    monkeypatch.setattr(engine, "provider", lambda: "CUDAExecutionProvider")
    with pytest.raises(RuntimeError, match=words):
        engine.open(None, None, {})
    assert len(tried) == tries


def test_a_cuda_session_without_cuda_is_told_at_once(bench, monkeypatch):
    tried = []

    def opens(job, artifact, feed, provider, settings):
        tried.append(settings)
        raise bench.UserError("ONNX Runtime has no CUDA here")

    monkeypatch.setattr(bench, "OnnxRuntimeRunner", opens)
    engine = bench.ENGINES["onnxruntime"]
    monkeypatch.setattr(engine, "provider", lambda: "CUDAExecutionProvider")
    with pytest.raises(bench.UserError, match="no CUDA"):
        engine.open(None, None, {})
    assert len(tried) == 1


def test_accuracy_stays(main, forms, digits):
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        f"--image_dir={digits.folder}",
        "--native",
        "--fp32",
        "--fp16",
        "--int8",
        "--engine=onnxruntime",
        "--batch_size=300",
        f"--calibration_dir={digits.folder}",
    )
    assert ran.status == 0, ran.err
    native, *others = (record["accuracy"]["top1"] for record in ran.records)
    assert native > 0.95
    for accuracy, points in zip(others, (0.005, 0.005, 0.015)):
        assert abs(accuracy - native) <= points
    facts = ran.records[3]["calibration"]
    assert (
        facts["images"] == 64
        and facts["source"] == "calibration_dir"
        and len(facts["sha256"]) == 64
    )


def test_xla_fp32_agrees_with_native(main, forms, digits):
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        f"--image_dir={digits.folder}",
        "--native",
        "--fp32",
        "--engine=xla",
        "--batch_size=32",
    )
    assert ran.status == 0, ran.err
    assert ran.records[1]["engine"] == "xla" and agreement(ran.records[1])["difference"] < 1e-4


def test_xla_refuses_an_fp16_that_changes_nothing(main, bench, forms, monkeypatch):
    if bench.gpus():
        pytest.skip("a GPU changes something")
    monkeypatch.setattr(bench.Xla, "why_not_build", lambda self, precision: None)
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--fp16",
        "--engine=xla",
        "--batch_size=2",
    )
    assert ran.status == 1 and "would time float32 as FP16" in ran.records[0]["error"]


def test_an_op_without_counterpart_is_named(main, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        tf.nn.softmax(tf.math.lgamma(tf.reshape(images, [-1, 48]) + 200, name="strange"), name="y")

    ran = main(
        f"--frozen_graph={graph_file(build)}",
        "--fp32",
        "--int8",
        "--engine=onnxruntime",
        "--batch_size=2",
    )
    assert ran.status == 1
    assert all("Lgamma (strange)" in record["error"] for record in ran.records)


def test_cudnns_own_lstm_is_told_with_what_to_save_instead(main, graph_file):
    """Keras 3 writes it where there is a GPU; here not even native has a kernel for it."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        words = tf.reshape(images, [4, -1, 12])
        state = tf.zeros([1, tf.shape(words)[1], 5])
        weights = tf.zeros([12 * 20 + 5 * 20 + 40])
        ran = tf.raw_ops.CudnnRNNV3(
            input=words,
            input_h=state,
            input_c=state,
            params=weights,
            sequence_lengths=tf.fill([tf.shape(words)[1]], 4),
        )
        tf.nn.softmax(ran.output[-1], name="y")

    given = f"--frozen_graph={graph_file(build)}"
    ran = main(given, "--native", "--fp32", "--engine=onnxruntime,xla", "--batch_size=2")
    assert ran.status == 1 and len(ran.records) == 3
    assert all("build the layer with use_cudnn=False" in record["error"] for record in ran.records)


# -------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_each_method_finds_ranges_inside_minmax(bench, precision, onnx, method):
    samples = bench.feeds(onnx.graph, onnx.samples.head(8))
    widest = precision.tensor_ranges(onnx.folded, samples, "minmax")
    ranges = precision.tensor_ranges(onnx.folded, samples, method)
    assert ranges.keys() == widest.keys()
    assert any(high > 0 for _, high in ranges.values())
    limit = {name: 1.02 * max(abs(low), abs(high)) + 1e-3 for name, (low, high) in widest.items()}
    assert all(max(abs(low), abs(high)) <= limit[name] for name, (low, high) in ranges.items())


def test_a_calibration_is_reused_until_its_question_changes(
    bench, precision, onnx, digits, tmp_path, monkeypatch
):
    calls = []
    real = precision.tensor_ranges
    monkeypatch.setattr(
        precision, "tensor_ranges", lambda *args: calls.append(args[2]) or real(*args)
    )

    def calibrate(**changes):
        settings = {
            "output_dir": str(tmp_path),
            "calibration_dir": str(digits.folder),
            "num_calibration_images": 8,
        }
        config = bench.Config(**{**vars(onnx.config), **settings, **changes})
        return bench.calibrate(config, onnx.graph, onnx.samples, onnx.folded)

    first, again = calibrate(), calibrate()
    assert len(calls) == 1 and first.ranges == again.ranges
    assert not first.facts["reused"] and again.facts["reused"]
    calibrate(calibration_method="minmax")
    calibrate(num_calibration_images=9)
    assert len(calls) == 3
    (tmp_path / "calibration_net.json").write_text("{broken")
    calibrate()
    assert len(calls) == 4
    # Another precision.py names a graph's tensors otherwise.
    (tmp_path / "precision.py").write_text("")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "precision_py", lambda: precision)
    calibrate()
    assert len(calls) == 5
    other = precision.fold(onnx.fp32)
    for node in other.graph.node:
        node.output[:] = [f"{name}_1" for name in node.output]
    ranges = {"x": (0.0, 1.0)}
    monkeypatch.setattr(precision, "tensor_ranges", lambda *args: ranges)
    config = bench.Config(**{**vars(onnx.config), "output_dir": str(tmp_path)})
    assert not bench.calibrate(config, onnx.graph, onnx.samples, onnx.folded).facts["reused"]
    assert not bench.calibrate(config, onnx.graph, onnx.samples, other).facts["reused"]
    assert bench.calibrate(config, onnx.graph, onnx.samples, other).facts["reused"]


def test_a_calibration_folder_with_a_broken_file(bench, onnx, tmp_path, capsys):
    import tensorflow as tf

    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "good.png").write_bytes(tf.io.encode_png(np.zeros((9, 9, 1), np.uint8)).numpy())
    config, graph = onnx.config, image_graph(bench, 8, 8, 1)
    images, unreadable = bench.read_folder(config, graph, str(folder), 10, "--calibration_dir")
    assert (
        len(pixels_of(images)) == 1 and unreadable == 1 and "broken.png" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "words"), [({}, "holds no JPEG"), ({"x.png": b"no"}, "none of its 1 images")]
)
def test_a_calibration_folder_without_images(bench, tmp_path, content, words):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(bench.UserError, match=words):
        config, graph = bench.parse_flags(["tensorrt.py"]), image_graph(bench, 8, 8, 1)
        bench.read_folder(config, graph, str(tmp_path), 10, "--calibration_dir")


def test_calibrating_on_random_or_predicted_images_is_said(bench):
    def notes(source, images, predicted):
        return " ".join(
            bench.calibration_notes({"source": source, "images": images, "predicted": predicted})
        )

    assert "random data" in notes("random", 8, 8)
    assert "the one image being predicted" in notes("input batch", 1, 1)
    assert "8 of the images being predicted: pass --calibration_dir" in notes("input batch", 8, 8)
    assert "3 of the images being predicted: pass other images" in notes("calibration_dir", 8, 3)
    assert notes("calibration_dir", 8, 0) == ""


# ----------------------------------------------------------------------------------------- TensorRT


def test_tensorrt_builds_real_plans_without_a_gpu(main, forms, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--fp32",
        "--fp16",
        "--int8",
        "--engine=tensorrt",
        "--batch_size=4",
        "--build_only",
    )
    assert ran.status == 0, ran.out + ran.err
    for precision, record in zip(("fp32", "fp16", "int8"), ran.records):
        plan = tmp_path / f"tensorrt_{precision}_net_batch4.engine"
        assert (
            record["status"] == "built"
            and plan.stat().st_size == record["artifact"]["bytes"] > 10_000
        )
        assert (tmp_path / f"tensorrt_{precision}_net.onnx").exists()
        assert plan.read_bytes()[:4] != b"\x08\x08\x12\x07", "a plan, not the ONNX file"
        if record["artifact"]["proof"]["package"].startswith("tensorrt_rtx"):
            assert "timing_cache" not in record["artifact"]["proof"], "it has none"


@pytest.mark.parametrize(
    ("node", "reason", "place"),
    [
        (("Nope", ["x"]), "Plugin not found", r"node number 0 \[Nope"),
        (("MatMul", ["x", "w"]), "must match", "Invalid Node - here"),
    ],
)
def test_what_the_parser_refuses_is_told_with_its_place(bench, node, reason, place):
    """TensorRT-RTX's own words: the parser's lack the node or the reason, which its log has."""
    from onnx import TensorProto, helper, numpy_helper

    rtx = pytest.importorskip("tensorrt_rtx")
    if bench.gpus():
        pytest.skip("there is a GPU")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    kind, inputs = node
    nodes = [helper.make_node(kind, inputs, ["y"], "here")]
    weight = numpy_helper.from_array(np.ones((5, 4), np.float32), "w")
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(bench.UserError, match="TensorRT cannot parse the graph") as raised:
        bench.build_plan(rtx, None, model.SerializeToString())
    assert re.search(reason, str(raised.value))
    assert re.search(place, str(raised.value))


def test_tensorrt_without_a_gpu_is_built_and_not_run(main, bench, forms):
    pytest.importorskip("tensorrt_rtx")
    if bench.gpus():
        pytest.skip("there is a GPU")
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--fp16",
        "--engine=tensorrt",
        "--batch_size=4",
    )
    assert ran.status == 1 and ran.records[0]["error"] == "built, not run: no NVIDIA GPU"
    assert "built, not run: no NVIDIA GPU" in ran.out


def test_an_unsupported_gpu_is_told_in_words(bench, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(bench, "gpus", lambda: [{"compute_capability": "9.0"}])
    reason = bench.ENGINES["tensorrt"].why_not("fp16")
    assert (
        reason
        == "TensorRT-RTX does not support this GPU's compute capability 9.0: pip install tensorrt"
    )


@pytest.mark.parametrize(
    ("found", "told"),
    [([], "no NVIDIA GPU"), ([{"index": 0}], "missing: pip install tensorrt (tensorrt-rtx")],
)
def test_no_gpu_is_told_before_a_package_that_would_not_run_here(bench, monkeypatch, found, told):
    monkeypatch.setattr(bench.TensorRt, "package", "")
    monkeypatch.setattr(bench, "gpus", lambda: found)
    assert bench.ENGINES["tensorrt"].why_not("fp16").startswith(told)


def test_what_tensorrt_logs_first_is_told_with_a_remedy(bench):
    """pybind11 says `factory function returned nullptr`; the reason stands in the log before it."""
    told = bench.trt_error(
        "start", ["CUDA initialization failure with error: 35. Please check your CUDA installation"]
    )
    assert str(told).startswith("TensorRT cannot start (CUDA initialization failure with error: 35")
    assert "driver is older" in str(told)
    told = bench.trt_error("build the plan", ["skipping tactic", "Error Code 1: Cuda OutOfMemory"])
    assert "pass a smaller --batch_size" in str(told)
    assert re.search(bench.NO_MEMORY, str(told), re.I), "--batch_size=max knows it as memory"
    assert (
        str(bench.trt_error("build the plan", []))
        == "TensorRT cannot build the plan (no reason given): try --engine=xla"
    )


def refuse_to_start(logger):
    """What TensorRT's first objects do where CUDA does not start."""
    logger.errors.append("CUDA initialization failure with error: 100")
    raise TypeError("pybind11::init(): factory function returned nullptr")


@pytest.fixture
def logger(bench, monkeypatch):
    """The logger that TensorRT is given, whose errors are planted."""
    planted = types.SimpleNamespace(errors=[])
    monkeypatch.setattr(bench, "trt_logger", lambda trt: planted)
    return planted


def test_a_builder_that_is_a_null_pointer_is_one_line(bench, logger):
    with pytest.raises(bench.UserError, match="NVIDIA GPU that this process may use"):
        bench.build_plan(types.SimpleNamespace(Builder=refuse_to_start), None, b"")


def test_a_runtime_that_is_a_null_pointer_is_one_line(bench, logger):
    with pytest.raises(bench.UserError, match="NVIDIA GPU that this process may use"):
        bench.load_plan(types.SimpleNamespace(Runtime=refuse_to_start), logger, b"")


class NoMemory:
    """An engine, or with `config` one of TensorRT-RTX, for whose context memory is short."""

    def __init__(self, logger, config=None):
        self.logger = logger
        if config:
            self.create_runtime_config = lambda: config

    def create_execution_context(self, *config):
        self.logger.errors += [
            "[defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
            "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory",
        ]


@pytest.mark.parametrize("rtx", [False, True])
def test_a_context_that_does_not_fit_is_told_as_memory(bench, logger, tmp_path, rtx):
    """--batch_size=max then tries a smaller one."""
    cached = {"create_runtime_cache": lambda: None, "set_runtime_cache": lambda cache: None}
    engine = NoMemory(logger, types.SimpleNamespace(**cached) if rtx else None)
    with pytest.raises(bench.UserError, match="TensorRT cannot run the plan") as raised:
        bench.create_context(engine, logger, tmp_path / "kernels")
    assert re.search(bench.NO_MEMORY, str(raised.value))
    assert str(raised.value).endswith("out of memory: pass a smaller --batch_size")


@pytest.mark.parametrize("own", ["Invalid Node - dense", ""])
def test_a_lack_of_memory_in_the_parser_is_known_by_what_it_logs(bench, own):
    """A parser may also refuse a graph without a word of its own."""
    error = types.SimpleNamespace(desc=lambda: own) if own else None
    parser = types.SimpleNamespace(num_errors=int(bool(own)), get_error=lambda index: error)
    logged = ["While parsing node number 3", "Error Code 2: OutOfMemory"]
    told = str(bench.trt_error("parse the graph", bench.parser_errors(parser, logged)))
    assert told.endswith("out of memory: pass a smaller --batch_size")
    assert re.search(bench.NO_MEMORY, told)
    told = str(bench.trt_error("parse the graph", bench.parser_errors(parser, [])))
    assert f"({own or 'no reason given'})" in told


@pytest.fixture
def installed(bench, monkeypatch):
    """Pretends that these packages are installed, at these versions, and that there is this number
    of GPUs.
    """

    def pretend(gpus=0, **versions):
        found = importlib.util.find_spec
        absent = {"tensorrt", "tensorrt_rtx"} - versions.keys()
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: None if name in absent else name in versions or found(name),
        )
        for name in versions:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        afresh = functools.cache(bench.why_not_tensorrt.__wrapped__)
        monkeypatch.setattr(bench, "why_not_tensorrt", afresh)
        names = {name.replace("_", "-"): version for name, version in versions.items()}
        real = bench.version_of
        monkeypatch.setattr(bench, "version_of", lambda *asked: names.get(asked[0]) or real(*asked))
        monkeypatch.setattr(
            bench, "gpus", lambda: [{"name": "a GPU", "compute_capability": "8.9"}] * gpus
        )
        return bench.ENGINES["tensorrt"]

    return pretend


@pytest.mark.parametrize("version", ["8.5.3.1", "8.6.0", "10.0.1", "10.12.0.36", "11.4.0.106"])
def test_tensorrt_8_to_11_are_taken(installed, version):
    engine = installed(gpus=1, tensorrt=version)
    assert engine.why_not_build("int8") is None
    assert engine.version() == "tensorrt " + ".".join(version.split(".")[:3])
    assert engine.opset == (17 if version.startswith("8") else 18)
    assert engine.weakly_typed == version.startswith("8")


def test_an_onnx_file_for_another_tensorrt_is_written_anew(bench, onnx, installed):
    """8.5 gets batch norms, 8.6 convolutions in their place, 10 other types."""
    job = bench.Job(bench.Case("tensorrt", "fp16", 4), onnx.config, onnx.graph, onnx.samples)
    asked = []
    for version in ("8.5.3.1", "8.6.0", "10.12.0.36"):
        installed(gpus=1, tensorrt=version)
        asked.append(bench.question_of_onnx(job))
    assert all(one != other for one, other in itertools.combinations(asked, 2))


@pytest.mark.parametrize("version", ["7.2.3.4", "8.4.3.1", "12.0.0"])
def test_another_tensorrt_is_refused_with_the_command(installed, version):
    reason = installed(gpus=1, tensorrt=version).why_not_build("fp16")
    assert (
        reason == f"TensorRT {'.'.join(version.split('.')[:3])} is none of 8.5 to 11: pip install "
        "'tensorrt>=10,<12'"
    )


def test_of_two_packages_the_one_that_can_is_taken_and_that_is_said(installed, monkeypatch):
    assert installed(gpus=1, tensorrt="10.12.0", tensorrt_rtx="1.7.1").choice[0] == "tensorrt"
    engine = installed(gpus=0, tensorrt="10.12.0", tensorrt_rtx="1.7.1")
    package, why = engine.choice
    assert package == "tensorrt_rtx"
    assert "builds only where there is an NVIDIA GPU" in why
    engine = installed(gpus=1, tensorrt="10.12.0", tensorrt_rtx="1.7.1")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    package, why = engine.choice
    assert package == "tensorrt_rtx"
    assert why.startswith("tensorrt is installed but does not load (import of tensorrt halted")
    assert why.endswith("pip install --force-reinstall tensorrt")


@pytest.mark.parametrize("version", ["7.2.3", "12.0.0"])
def test_an_unusable_tensorrt_does_not_hide_tensorrt_rtx(installed, version):
    engine = installed(gpus=1, tensorrt=version, tensorrt_rtx="1.7.1")
    reason = f"TensorRT {version} is none of 8.5 to 11: pip install 'tensorrt>=10,<12'"
    assert engine.choice == ("tensorrt_rtx", reason)
    assert engine.version() == "tensorrt_rtx 1.7.1"
    assert engine.why_not_build("int8") is None
    capabilities = types.SimpleNamespace(__members__={})
    sys.modules["tensorrt_rtx"].ComputeCapability = capabilities
    assert engine.why_not("int8") == reason, "another GPU than RTX supports"


def test_data_centre_tensorrt_does_not_build_without_a_gpu(installed):
    assert "builds only where there is an NVIDIA GPU" in installed(
        gpus=0, tensorrt="8.6.0"
    ).why_not_build("fp32")


@pytest.mark.parametrize(
    ("key", "half", "full"),
    [
        (
            "Format/Datatype",
            "Channel major FP16 format where channel % 8 == 0",
            "Row major linear FP32",
        ),
        ("Datatype", "Half", "Float"),
        ("Datatype", "Half", "BFloat16"),
    ],
)
def test_plan_share_reads_every_inspector(bench, key, half, full):
    def layer(kind, words):
        return {"LayerType": kind, "Inputs": [{"Name": "x", key: words}], "Outputs": []}

    layers = [layer("CaskConvolution", half), layer("correlation", full), layer("Reformat", half)]
    share = bench.plan_share(layers, "fp16")
    assert share == {"executed_nodes": 2, "unknown_nodes": 0, "executed_share_of_nodes": 0.5}
    assert bench.plan_share(layers, "fp32")["executed_share_of_nodes"] == (
        0 if full == "BFloat16" else 0.5
    )


def test_a_type_that_is_not_told_is_not_another_type(bench):
    layers = [
        {
            "LayerType": "CaskConvolution",
            "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
        }
    ]
    assert bench.plan_share(layers, "int8") == {"executed_nodes": 0, "unknown_nodes": 1}
    assert (
        bench.plan_share([{"LayerType": "CaskConvolution", "Inputs": []}], "int8")["unknown_nodes"]
        == 1
    )
    uint8 = [{"LayerType": "gemm", "Inputs": [{"Datatype": "UInt8"}]}]
    assert bench.plan_share(uint8, "int8")["executed_share_of_nodes"] == 0


@pytest.mark.parametrize(
    ("kind", "name", "nodes"),
    [
        ("CaskConvolution", "3a/1x1 + 3a/relu_1x1 || 3a/reduce + 3a/relu || 3a/5x5", 3),
        ("CaskConvolution", "w:0_quantized + conv1/Conv2D + pool1/MaxPool", 1),
        ("gemm", "Gemm__416+Gemm__358+Gemm__300_myl0_3", 3),
        ("gemm", "dense_5_1/Tensordot/MatMul_myl0_21", 1),
        ("runtime_fusion", "__myl_FcDivCastErfCastAddMulMul_myl0_10", 1),
        ("kgen", "__myl_AddMeanSubMulMean_myl0_22", 0),
    ],
)
def test_what_tensorrt_merged_into_one_layer_counts_each(bench, kind, name, nodes):
    """Names of TensorRT 8 (that of an Inception from its log) and RTX."""
    layer = {"Name": name, "LayerType": kind, "Inputs": [{"Datatype": "Half"}]}
    assert bench.plan_share([layer], "fp16")["executed_nodes"] == nodes


def layer_of(kind, words):
    return {"LayerType": kind, "Inputs": [{"Format/Datatype": words}]}


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([], 0),
        ([layer_of("CaskConvolution", "Channel major FP16 format where channel % 8 == 0")], 1),
    ],
)
def test_what_tensorrt_fuses_into_a_block_is_said_to_be_unproved(bench, layers, told):
    """Myelin's blocks, as TensorRT 8.5.3 lists an encoder: int32 in, and nothing of its 98."""
    block = {
        "Name": "{ForeignNode[Cast...Softmax]}",
        **layer_of("Myelin", "Row major linear Int32"),
    }
    reformat = layer_of("Reformat", "Row major linear FP16 format")
    share = bench.plan_share([*layers, block, reformat], "fp16")
    assert (share["executed_nodes"], share["unknown_nodes"]) == (told, 0)
    assert bench.coverage_notes("fp16", {"nodes": 98, **share}) == [
        f"TensorRT tells the type of {told} of 98 convolutions and matrix products: the rest is "
        "fused into blocks that do not tell theirs, so not proved"
    ]


@pytest.mark.parametrize(
    "facts",
    [
        {"nodes": 54, "executed_nodes": 54, "unknown_nodes": 0, "executed_share_of_nodes": 1.0},
        {"executed_nodes": 54, "unknown_nodes": 0},  # FP32's: nothing was written into its graph
        {"nodes": 2, "executed_nodes": 14, "unknown_nodes": 0},  # a recurrent layer, unrolled
        {"nodes": 98, "executed_share_of_nodes": 1.0},  # ONNX Runtime's
        {"nodes": 98, "casts": 4},  # XLA's
        {"trt_engines": 1, "share_of_nodes": 0.99},
    ],
)
def test_where_every_type_is_told_nothing_is_said_of_blocks(bench, facts):
    assert not bench.coverage_notes("fp16", facts)


def test_which_of_two_packages_built_a_plan_is_said(bench):
    facts = {"package": "tensorrt_rtx, tensorrt builds only where there is an NVIDIA GPU"}
    assert bench.coverage_notes("fp16", facts) == [
        "of two packages tensorrt_rtx is used: tensorrt builds only where there is an NVIDIA GPU"
    ]
    assert not bench.coverage_notes("fp16", {"package": "tensorrt"})


def test_a_layer_without_a_type_is_not_said_to_be_in_a_block(bench):
    (note,) = bench.coverage_notes("fp16", {"nodes": 3, "executed_nodes": 2, "unknown_nodes": 1})
    assert note == "TensorRT does not tell the type of 1 of its heavy layers: not proved"


def test_the_inspectors_control_characters(bench):
    shuffle = '{"LayerType": "Shuffle", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"}'
    text = f'{{"Layers": [{shuffle}, "a name only"]}}'
    assert [layer["LayerType"] for layer in bench.read_inspector(text)] == ["Shuffle"]


def test_a_plan_of_another_precision_is_an_error(bench, tmp_path):
    layer = {
        "LayerType": "CaskConvolution",
        "Inputs": [{"Format/Datatype": "Row major linear FP32"}],
    }
    text = json.dumps({"Layers": [layer]})
    inspector = types.SimpleNamespace(get_engine_information=lambda form: text)
    engine = types.SimpleNamespace(create_engine_inspector=lambda: inspector)
    trt = types.SimpleNamespace(LayerInformationFormat=types.SimpleNamespace(JSON=0))
    with pytest.raises(bench.UserError, match="another precision"):
        bench.inspect_plan(trt, engine, "int8", tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_text() == text


class FastestInFloat32:
    """Stands for TensorRT 8, with a network of one layer that is faster in float32: a plan is the
    inspector's listing of it.
    """

    __name__ = "stands_for_tensorrt"
    float16, float32 = "Half", "Float"
    num_inputs, num_layers, errors = 0, 1, ()
    NetworkDefinitionCreationFlag = types.SimpleNamespace(EXPLICIT_BATCH=0)
    LayerInformationFormat = types.SimpleNamespace(JSON=0)
    LayerType = types.SimpleNamespace(__members__={"CONVOLUTION": 1, "FULLY_CONNECTED": 2})
    ProfilingVerbosity = types.SimpleNamespace(DETAILED=1)
    BuilderFlag = types.SimpleNamespace(FP16="fp16", TF32="tf32", OBEY_PRECISION_CONSTRAINTS="obey")
    TacticSource = types.SimpleNamespace(__members__={})

    class ILogger:
        ERROR, INTERNAL_ERROR = 1, 2

    def __init__(self, kind=1):
        self.flags = []
        self.layer = types.SimpleNamespace(name="conv", type=kind, precision="", num_outputs=0)

    def itself(self, *given):
        return self

    Builder = OnnxParser = Runtime = create_network = create_builder_config = itself
    create_engine_inspector = itself

    def parse(self, model):
        return True

    def get_layer(self, index):
        return self.layer

    def set_flag(self, flag):
        self.flags.append(flag)

    def get_tactic_sources(self):
        return 0

    def build_serialized_network(self, network, config):
        kind = self.layer.precision if "obey" in self.flags else self.float32
        layer = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": kind}]}
        return json.dumps({"Layers": [layer]}).encode()

    def deserialize_cuda_engine(self, plan):
        text = plan.decode()
        inspector = types.SimpleNamespace(get_engine_information=lambda form: text)
        return types.SimpleNamespace(create_engine_inspector=lambda: inspector)


@pytest.mark.parametrize(("kind", "pinned"), [(1, 1), (2, 1), (3, None)])
def test_fp16_is_insisted_on_where_tensorrt_8_chose_float32(bench, onnx, installed, kind, pinned):
    """Seen on a tiny network: FP16 allowed, nothing in float16, and no FP16 to time."""
    installed(gpus=1, tensorrt="8.6.0")
    trt = FastestInFloat32(kind)
    job = bench.Job(bench.Case("tensorrt", "fp16", 4), onnx.config, onnx.graph, onnx.samples)
    plan, facts = bench.build_plan(trt, job, b"")
    assert facts.get("insisted_on_float16") == pinned
    assert ("Half" in plan.decode()) == bool(pinned)
    notes = bench.coverage_notes("fp16", facts)
    assert any("float16 was insisted on" in note for note in notes) == bool(pinned)


class WithTimingCache(FastestInFloat32):
    """Has the package's name and a timing cache, of which it takes what it wrote itself."""

    __name__, __version__ = "tensorrt", "10.12.0"
    taken, unreadable = None, b"unreadable"

    def create_timing_cache(self, timings):
        return None if timings == self.unreadable else timings

    def set_timing_cache(self, timings, ignore_mismatch):
        if timings not in (b"", b"its own"):
            return False
        self.taken = timings
        return True

    def get_timing_cache(self):
        return None if self.taken is None else types.SimpleNamespace(serialize=lambda: b"its own")


@pytest.mark.parametrize(
    ("earlier", "fact"),
    [(None, "cold"), (b"its own", "warm"), (b"another GPU's", "cold"), (b"unreadable", "cold")],
)
def test_a_timing_cache_is_warm_where_it_is_taken(bench, onnx, installed, tmp_path, earlier, fact):
    installed(gpus=1, tensorrt="8.6.0")
    config = bench.Config(**{**vars(onnx.config), "output_dir": str(tmp_path)})
    job = bench.Job(bench.Case("tensorrt", "fp32", 4), config, onnx.graph, onnx.samples)
    trt = WithTimingCache()
    cache = bench.timing_cache_path(trt, job)
    if earlier:
        cache.write_bytes(earlier)
    _plan, facts = bench.build_plan(trt, job, b"")
    assert facts["timing_cache"] == fact
    assert cache.read_bytes() == b"its own", "the next plan's"


@pytest.mark.parametrize("version", ["8.5.3", "8.6.0"])
def test_what_qdq_pairs_hold_is_not_pinned_for_tensorrt_8_5(bench, precision, installed, version):
    """It calls such a layer "incorrectly marked as an int8 node", and builds nothing."""
    from onnx import TensorProto, helper, numpy_helper

    installed(gpus=1, tensorrt=version)
    weight = numpy_helper.from_array(np.full((4, 4), 3e4, np.float32), "w")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["big"], "within"),
        helper.make_node("Relu", ["big"], ["bent"], "bent"),
        helper.make_node("MatMul", ["bent", "w"], ["bigger"], "last"),
        helper.make_node("Neg", ["bigger"], ["y"], "after"),
    ]
    graph = helper.make_graph(nodes, "g", edges[:1], edges[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = ("x", "big", "bent", "bigger", "y")
    ranges = {"x": (-2.0, 2.0)} | dict.fromkeys(names[1:], (-1e6, 1e6))
    data = precision.to_int8(model, ranges, precision.Settings()).SerializeToString()
    assert precision.computed_in_int8(data) == {"within": True, "bent": True, "last": False}
    model.graph.output.append(helper.make_tensor_value_info("big", TensorProto.FLOAT, [1, 4]))
    given = precision.to_int8(model, ranges, precision.Settings()).SerializeToString()
    assert precision.computed_in_int8(given) == {"within": False, "last": False}
    trt = types.SimpleNamespace(
        float32="Float",
        BuilderFlag=types.SimpleNamespace(FP16=1, INT8=2, OBEY_PRECISION_CONSTRAINTS=3),
    )
    layers = {name: PinnedLayer(name) for name in ("within", "bent", "last", "after")}
    network = types.SimpleNamespace(num_layers=4, get_layer=list(layers.values()).__getitem__)
    config = types.SimpleNamespace(set_flag=lambda flag: None)
    assert bench.allow_precision(trt, network, config, "int8", data) == set(layers)
    pinned = {layer.name for layer in layers.values() if layer.precision}
    typed = {layer.name for layer in layers.values() if layer.output}
    if version == "8.6.0":
        assert pinned == typed == set(layers)
    else:
        assert (pinned, typed) == ({"after"}, {"last", "after"})


class PinnedLayer:
    """A layer of a TensorRT network, and to what it was pinned."""

    num_outputs = 1
    precision = output = ""

    def __init__(self, name):
        self.name = name

    def set_output_type(self, index, kind):
        self.output = kind


def test_what_overflows_is_not_insisted_on(bench):
    trt = FastestInFloat32()
    assert bench.insist_on_float16(trt, trt, trt, frozenset({"conv"})) == 0
    assert trt.layer.precision != "Half"


@pytest.mark.parametrize(("version", "floats"), [("8.5.3.1", False), ("8.6.0", True)])
def test_tensorrt_8_6_gets_int8_weights_as_floats(bench, onnx, installed, version, floats):
    engine = installed(gpus=1, tensorrt=version)
    case = bench.Case("tensorrt", "int8", 4)
    source = onnx.write(case)
    model, _ = engine.model_to_parse(bench.Job(case, onnx.config, onnx.graph, onnx.samples, source))
    assert (b"_quantised" in model) == floats
    assert len(model) > Path(source.path).stat().st_size / 2


# -------------------------------------------------------------------------------- copied without it


def test_tensorrt_py_alone_does_what_the_2018_script_did(tmp_path, forms):
    """Copied without precision.py: native and XLA run, and what needs ONNX says in one line what is
    missing. XLA knows the flags that it gets on a GPU: it aborts on those that it does not know.
    """
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(ROOT / "tensorrt.py", alone)
    words = [
        sys.executable,
        str(alone / "tensorrt.py"),
        f"--frozen_graph={forms['frozen_graph']}",
        "--native",
        "--fp32",
        "--int8",
        "--engine=xla,onnxruntime,auto",
        "--preprocessing=none",
        "--batch_size=2",
        "--num_loops=2",
        "--num_warmup=1",
        f"--output_dir={tmp_path}",
    ]
    kernels = tmp_path / "kernels.textproto"
    flags = "--xla_gpu_dump_autotune_results_to={0} --xla_gpu_load_autotune_results_from={0}"
    env = {**os.environ, "XLA_FLAGS": flags.format(kernels)}
    ran = subprocess.run(words, capture_output=True, text=True, timeout=170, env=env)
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    by_case = {(record["precision"], record["engine"]): record for record in records}
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert by_case["native", "native"]["status"] == by_case["fp32", "xla"]["status"] == "ok"
    for case in (("fp32", "onnxruntime"), ("int8", "onnxruntime"), ("int8", "none")):
        assert "precision.py is missing: copy it" in by_case[case]["error"]


def test_precision_py_knows_nothing_of_its_users():
    """It loads without TensorFlow, ONNX and the program, and names none of what lies above it."""
    code = f"import runpy, sys; runpy.run_path({str(ROOT / 'precision.py')!r}); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"tensorflow", "onnx", "onnxruntime", "absl", "rich"} & set(loaded)


@pytest.mark.parametrize(
    ("capability", "there"),
    [("9.0", False), ("8.0", True), ("8.6", True), ("7.0", True), ("12.0", False)],
)
def test_a_gpu_without_machine_code_in_tensorflow_is_known(bench, capability, there):
    """TensorFlow 2.14.1's own list: its kernels for Hopper are compiled by the driver,
    for minutes.
    """
    built = ["sm_35", "sm_50", "sm_60", "sm_70", "sm_75", "compute_80"]
    info = types.SimpleNamespace(get_build_info=lambda: {"cuda_compute_capabilities": built})
    assert bench.has_machine_code(types.SimpleNamespace(sysconfig=info), capability) is there
    (note,) = bench.coverage_notes("native", {"compiled_by_driver": capability})
    assert note.startswith(
        f"this TensorFlow has no machine code for compute capability {capability}"
    )


def test_a_real_inspectors_listing_is_read(bench):
    """The first and last layers of ResNet-50 v2's INT8 plan, as TensorRT 8.5.3 on an H100 listed
    them.
    """
    layers = bench.read_inspector((ROOT / "tests" / "data" / "inspector_8.5.3.json").read_text())
    assert {layer["LayerType"] for layer in layers} >= {
        "CaskConvolution",
        "ConvActPool",
        "Scale",
        "Reformat",
    }
    share = bench.plan_share(layers, "int8")
    assert share == {"executed_nodes": 6, "unknown_nodes": 0, "executed_share_of_nodes": 1.0}
    assert bench.plan_share(layers, "fp16")["executed_share_of_nodes"] == 0


def test_a_listing_with_control_characters_is_read(bench):
    """The first and last layers of ResNet-50 v2's FP16 plan, as TensorRT 8.6.0 on an H200 listed
    them: 0x1e stands between the names of layers in one.
    """
    text = (ROOT / "tests" / "data" / "inspector_8.6.0.json").read_text()
    assert "\x1e" in text
    layers = bench.read_inspector(text)
    assert {layer["LayerType"] for layer in layers} >= {"NoOp", "Shuffle", "CaskGemmConvolution"}
    share = bench.plan_share(layers, "fp16")
    assert share == {"executed_nodes": 4, "unknown_nodes": 0, "executed_share_of_nodes": 1.0}


def test_a_listing_of_tensorrt_rtx_is_read(bench):
    """The INT8 plan of the digits network, as the builder of tensorrt-rtx 1.7.1 logs its layers:
    0x1f stands between names. Its inspector needs a GPU that it supports, so the JSON around the
    log's words is ours.
    """
    text = (ROOT / "tests" / "data" / "inspector_rtx_1.7.1.json").read_text()
    assert "\x1f" in text
    layers = bench.read_inspector(text)
    assert {layer["LayerType"] for layer in layers} == {"kgen", "correlation", "maxpool", "gemm"}
    assert {bench.input_type(layer) for layer in layers} == {"Float", "Int8", "Half"}
    share = bench.plan_share(layers, "int8")
    assert share == {"executed_nodes": 4, "unknown_nodes": 0, "executed_share_of_nodes": 1.0}
    assert bench.plan_share(layers, "fp16")["executed_share_of_nodes"] == 0
    assert not bench.coverage_notes("int8", {"nodes": 4, **share})


LISTED = re.compile(r"Name: (.*?), LayerType: (\w+), Inputs: \[(.*?)\], (?:Constants|Outputs): ")
TYPED = re.compile(r"Datatype: (\w+)")


def logged_layers(text):
    """The layers in a verbose log of tensorrt-rtx, as the inspector's JSON has them."""
    layers = []
    for name, kind, inputs in LISTED.findall(text):
        types = [{"Datatype": words} for words in TYPED.findall(inputs)]
        layers.append({"Name": name, "LayerType": kind, "Inputs": types})
    return layers


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_of_tensorrt_rtx_computes_in_its_precision(bench, onnx, monkeypatch, precision):
    """Its inspector needs a GPU; its verbose log lists the layers of a plan without one, in the
    inspector's words.
    """
    rtx = pytest.importorskip("tensorrt_rtx")
    if bench.gpus():
        pytest.skip("there is a GPU")
    said = []

    class Listening(rtx.ILogger):
        errors = ()

        def log(self, severity, text):
            said.append(text)

    monkeypatch.setattr(bench, "trt_logger", lambda trt: Listening())
    case = bench.Case("tensorrt", precision, 4)
    artifact = onnx.write(case)
    job = bench.Job(case, onnx.config, onnx.graph, onnx.samples, artifact)
    bench.build_plan(rtx, job, bench.read_unchanged(artifact.path, artifact.sha256))
    share = bench.plan_share(logged_layers("\n".join(said)), precision)
    assert share == {"executed_nodes": 4, "unknown_nodes": 0, "executed_share_of_nodes": 1.0}


def test_tf2onnx_writes_nodes_into_new_messages(precision):
    """Whose memory is given back; a message that is cleared keeps its own, optimiser after
    optimiser. Constants, of which the model gets the attributes, are not written at all.
    """
    from tf2onnx.graph import Graph, Node

    real = Node.update_proto
    graph = Graph([], opset=17)
    constant = graph.make_const("w", np.arange(6, dtype=np.float32))
    node = graph.make_node("Relu", ["w"], outputs=["y"])
    graph.update_proto()
    before = node.op
    graph.update_proto()
    assert node.op is before
    with precision.fresh_protos():
        kept = constant.op
        graph.update_proto()
        assert node.op is not before
        assert node.op.SerializeToString() == before.SerializeToString()
        assert constant.op is kept
    assert Node.update_proto is real


def test_a_graph_s_tensors_have_the_same_names_in_one_process(precision, forms, bench):
    """Ranges of a calibration that is kept are by name; from process to process they can differ."""
    graph = bench.load_graph(bench.parse_flags(["x", f"--frozen_graph={forms['frozen_graph']}"]))
    data = Path(graph.path).read_bytes()
    ends = graph.input_names, graph.output_names
    models = [precision.Precisions(data, *ends, 17).fp32 for _ in range(2)]
    first, second = ([name for node in m.graph.node for name in node.output] for m in models)
    assert any("__" in name for name in first), "tf2onnx counts some"
    assert first == second


def test_a_small_divisor_is_no_border_of_zeros(precision, graph_file):
    """l2_normalize takes the maximum of a sum and 1e-12: in int8 that would divide by nothing."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 6, 6, 3], name="images")
        random = np.random.default_rng(0)
        kernel = random.normal(size=(3, 3, 3, 8)).astype("float32")
        features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME")), [1, 2])
        product = features @ random.normal(size=(8, 8)).astype("float32")
        tf.nn.l2_normalize(product, 1, name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(8, 6, 6, 3)).astype(np.float32)
    images *= np.logspace(-2, 1, 8).astype(np.float32)[:, None, None, None]
    ranges = precision.tensor_ranges(made.folded, [{"images:0": images}], "minmax")
    ours = run(precision.to_int8(made.folded, ranges, precision.Settings()), images)
    assert np.linalg.norm(ours, axis=1).max() < 2


def test_zeros_around_a_convolutions_weights_are_not_its_images(precision):
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Pad", ["w", "pads"], ["padded"]),
        helper.make_node("Conv", ["x", "padded"], ["y"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, 4, 4]), ("w", [1, 1, 1, 1]), ("y", None))
    ]
    pads = numpy_helper.from_array(np.array([0, 0, 1, 1, 0, 0, 1, 1]), "pads")
    model = helper.make_model(helper.make_graph(nodes, "graph", tensors[:2], tensors[2:], [pads]))
    precision.spell_pads(model)
    assert ops_of(model) == ["Pad", "Conv"]


def network(nodes, constants, shape):
    """An ONNX model of nodes ("op", inputs, output, attributes) from x to the last one's output."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node(op, inputs.split(), [output], f"{op} {output}", **words)
            for op, inputs, output, words in nodes
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SAME = {"kernel_shape": [3, 3], "pads": [1] * 4}


@pytest.mark.parametrize(
    "least",
    [
        [("Max", "pooled small", "most", {})],
        [("MaxPool", "x", "others", SAME), ("Max", "pooled others", "most", {})],
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_a_maximum_behind_a_pool_is_not_always_a_border(precision, least, half):
    """Here it is what contrasts are divided by, which int8 would make nothing of."""
    random = np.random.default_rng(0)
    kernel = (random.normal(size=(4, 3, 3, 3)) / 5).astype(np.float32)
    nodes = [
        ("Abs", "x", "size", {}),
        ("MaxPool", "size", "pooled", SAME),
        *least,
        ("Div", "x most", "contrast", {}),
        ("Conv", "contrast kernel", "y", SAME),
    ]
    model = network(nodes, {"kernel": kernel, "small": np.float32(1e-3)}, [3, 16, 16])
    images = random.normal(size=(8, 3, 16, 16)) * np.logspace(-2.5, 0, 8)[:, None, None, None]
    images = images.astype(np.float32)
    folded = precision.fold(model)
    ranges = precision.tensor_ranges(folded, [{"x": images}], "minmax")
    ours = run(precision.to_int8(folded, ranges, precision.Settings(half=half)), images)
    assert decibels(ours, run(model, images)) > 40


def test_a_border_that_no_batch_norm_reads_is_not_quantised(precision):
    """Here a logarithm does."""
    random = np.random.default_rng(0)
    constants = {
        "kernel": (random.normal(size=(8, 3, 3, 3)) / 5).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "small": np.float32(1e-4),
    }
    nodes = [
        ("Conv", "x kernel", "features", {}),
        ("Exp", "features", "positive", {}),
        ("Neg", "positive", "negative", {}),
        ("Pad", "negative pads", "padded", {}),
        ("MaxPool", "padded", "pooled", {"kernel_shape": [3, 3], "strides": [2, 2]}),
        ("Neg", "pooled", "least", {}),
        ("Add", "least small", "shifted", {}),
        ("Log", "shifted", "y", {}),
    ]
    model = network(nodes, constants, [3, 18, 18])
    images = random.normal(size=(8, 3, 18, 18)).astype(np.float32) * 3
    precision.spell_pads(model)
    folded = precision.fold(model)
    assert "Max" in ops_of(folded)
    ranges = precision.tensor_ranges(folded, [{"x": images}], "minmax")
    ours = run(precision.to_int8(folded, ranges, precision.Settings()), images)
    assert decibels(ours, run(folded, images)) > 40


def test_a_small_number_in_a_maximum_is_none_in_float16(precision):
    """As in front of a logarithm: 1e-10 would be 6e-8."""
    random = np.random.default_rng(0)
    constants = {
        "first": random.normal(size=(16, 8)).astype(np.float32),
        "second": random.normal(size=(8, 4)).astype(np.float32),
        "small": np.float32(1e-10),
    }
    nodes = [
        ("MatMul", "x first", "product", {}),
        ("Relu", "product", "positive", {}),
        ("Max", "positive small", "most", {}),
        ("Log", "most", "logarithm", {}),
        ("MatMul", "logarithm second", "y", {}),
    ]
    model = network(nodes, constants, [16])
    samples = random.normal(size=(64, 16)).astype(np.float32)
    ranges = precision.tensor_ranges(precision.fold(model), [{"x": samples}], "minmax")
    half = precision.to_fp16(precision.fold(model), ranges)
    assert decibels(run(half, samples), run(model, samples)) > 50


def test_zeros_between_transposes_are_pads_too(precision):
    """As tf2onnx leaves them in MobileNet v3: ONNX Runtime takes the Transposes out."""
    kernel = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [
        ("Transpose", "x", "first", {"perm": [0, 3, 1, 2]}),
        ("Conv", "first kernel", "features", {}),
        ("Transpose", "features", "last", {"perm": [0, 2, 3, 1]}),
        ("Pad", "last pads", "padded", {}),
        ("Transpose", "padded", "again", {"perm": [0, 3, 1, 2]}),
        ("Conv", "again other", "y", {}),
    ]
    constants = {"kernel": kernel, "other": np.concatenate([kernel, kernel[:, :1]], axis=1)}
    constants["pads"] = np.array([0, 1, 0, 0, 0, 2, 1, 0])
    model = network(nodes, constants, [8, 8, 3])
    precision.spell_pads(model)
    assert "Pad" in ops_of(model)
    folded = precision.fold(model)
    assert ops_of(folded) == ["Transpose", "Conv", "Conv"]
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    assert np.allclose(run(folded, images), run(model, images), atol=1e-5)


def normed(channels, spelled):
    """A batch norm that no convolution takes in, as one node or as a factor and a summand."""
    random = np.random.default_rng(0)
    sides = {name: random.normal(size=channels).astype(np.float32) for name in ("b", "m")}
    sides |= {name: random.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "v")}
    sides["s"][::2] *= -1
    if spelled:
        sides = {name: sides[name].reshape(1, -1, 1, 1) for name in "sb"}
        nodes = [("Mul", "x s", "scaled", {}), ("Add", "scaled b", "normed", {})]
    else:
        nodes = [("BatchNormalization", "x s b m v", "normed", {"epsilon": 1e-3})]
    return network([*nodes, ("Relu", "normed", "y", {})], sides, [channels, 5, 5])


@pytest.mark.parametrize("spelled", [False, True])
def test_batch_norms_as_convolutions_compute_the_same(precision, spelled):
    model = normed(16, spelled)
    images = np.random.default_rng(1).normal(size=(3, 16, 5, 5)).astype(np.float32)
    before = model.SerializeToString()
    made = precision.norms_as_convolutions(model)
    assert ops_of(made) == ["Conv", "Relu"] and len(made.graph.initializer) == 2
    assert model.SerializeToString() == before
    assert np.allclose(run(made, images), run(model, images), atol=1e-5)


def test_the_norm_of_three_channels_stays(precision):
    """As of an image's pixels: kernels take eight at a time."""
    assert ops_of(precision.norms_as_convolutions(normed(3, False))) == [
        "BatchNormalization",
        "Relu",
    ]


def test_two_norms_without_names_keep_their_weights(precision):
    from onnx import shape_inference

    nodes = [
        ("BatchNormalization", "x s b m v", "first", {}),
        ("Relu", "first", "positive", {}),
        ("BatchNormalization", "positive b s m v", "y", {}),
    ]
    random = np.random.default_rng(0)
    sides = {name: random.uniform(0.5, 2, 16).astype(np.float32) for name in "sbmv"}
    model = shape_inference.infer_shapes(network(nodes, sides, [16, 5, 5]))
    for node in model.graph.node:
        node.name = ""
    images = np.random.default_rng(1).normal(size=(3, 16, 5, 5)).astype(np.float32)
    made = precision.norms_as_convolutions(model)
    assert ops_of(made) == ["Conv", "Relu", "Conv"]
    assert np.allclose(run(made, images), run(model, images), atol=1e-4)


FAR = np.full(16, 1e5, np.float32)  # beyond float16


@pytest.mark.parametrize(
    ("nodes", "sides"),
    [
        ([("BatchNormalization", "x s b m v", "y", {"training_mode": 1})], {}),
        ([("BatchNormalization", "x s b m v", "y", {})], {"b": FAR}),
        ([("BatchNormalization", "x s b m v", "y", {})], {"m": FAR}),
        (
            [("Mul", "x column", "scaled", {}), ("Add", "scaled far", "y", {})],
            {"column": np.ones((1, 16, 1, 1), np.float32), "far": FAR.reshape(1, 16, 1, 1)},
        ),
    ],
)
def test_norms_that_stay(precision, nodes, sides):
    """A shift that float16 does not hold stays a node of its own, which is kept in float32."""
    ones = dict.fromkeys("sbmv", np.ones(16, np.float32))
    model = network(nodes, {**ones, **sides}, [16, 5, 5])
    assert ops_of(precision.norms_as_convolutions(model)) == ops_of(model)


def test_a_factor_that_others_read_is_a_norm_without_the_summand(precision):
    from onnx import TensorProto, helper

    column = np.random.default_rng(0).normal(size=(1, 16, 1, 1)).astype(np.float32)
    nodes = [("Mul", "x column", "scaled", {}), ("Add", "scaled column", "y", {})]
    model = network(nodes, {"column": column}, [16, 5, 5])
    model.graph.output.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None))
    images = np.random.default_rng(1).normal(size=(3, 16, 5, 5)).astype(np.float32)
    made = precision.norms_as_convolutions(model)
    assert ops_of(made) == ["Conv", "Add"]
    assert np.allclose(run(made, images), run(model, images), atol=1e-5)


def test_a_cast_to_integers_is_no_way_back_from_float16(precision, graph_file):
    def build(tf, v1):
        places = v1.placeholder("float32", [None, 3], name="places")
        table = np.random.default_rng(0).normal(size=(9, 4)).astype("float32")
        tf.reduce_sum(tf.gather(table, tf.cast(places, "int32")), 1, name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["places:0"], ["y:0"], 17)
    places = np.array([[0, 1, 8], [2, 2, 5]], np.float32)
    model, _ = made.fp16([{"places:0": places}])
    assert decibels(run(model, places), run(made.fp32, places)) > 50


@pytest.mark.parametrize("without_norms", [False, True])
def test_fp16_that_would_be_float32_is_refused(precision, graph_file, without_norms):
    """A norm that is a convolution does not count: the network's only one overflows."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 8], name="images")
        column = np.linspace(1, 2, 8, dtype="float32")
        positive = tf.nn.relu(images * column + column)
        tf.nn.conv2d(positive, np.full((1, 1, 8, 8), 1e5, "float32"), 1, "SAME", name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 8)).astype(np.float32)
    with pytest.raises(precision.PrecisionError, match="FP16 would be float32 here"):
        made.fp16([{"images:0": images}], without_norms)


@pytest.mark.parametrize(
    ("provider", "version", "those"),
    [
        ("CUDA", "8.6.0", {("tensorrt", "fp32"), ("tensorrt", "fp16")}),
        ("CUDA", "8.5.3.1", set()),
        ("CUDA", "10.12.0.36", set()),
        ("CPU", "10.12.0.36", {("onnxruntime", "fp32"), ("onnxruntime", "int8")}),
    ],
)
def test_convolutions_stand_for_norms_where_they_are_faster(
    bench, installed, monkeypatch, provider, version, those
):
    """Where that was measured, and only there: a GPU may stand beside ONNX Runtime for CPUs."""
    installed(gpus=1, tensorrt=version)
    given = f"{provider}ExecutionProvider"
    monkeypatch.setattr(bench.OnnxRuntime, "provider", staticmethod(lambda: given))
    monkeypatch.setattr(bench, "feeds", lambda graph, samples: [])
    asked = {}
    maker = types.SimpleNamespace(
        graph=None,
        samples=types.SimpleNamespace(head=lambda count: None),
        precisions=types.SimpleNamespace(
            fp16=lambda samples, without_norms: (without_norms, {}),
            int8=lambda ranges, settings, without_norms: (without_norms, {}),
        ),
        calibration=types.SimpleNamespace(ranges={}),
        fp32=False,
        without_norms=True,
    )
    for engine in ("tensorrt", "onnxruntime"):
        for precision in ("fp32", "fp16", "int8"):
            asked[engine, precision] = bench.Onnx.model(maker, engine, precision)[0]
    assert {case for case, without_norms in asked.items() if without_norms} == those


def test_low_precision_without_norms_computes_them_by_convolutions(precision, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 3], name="images")
        random = np.random.default_rng(0)
        kernel = random.normal(size=(3, 3, 3, 8)).astype("float32")
        features = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"))
        factors, summands = random.normal(size=(2, 8)).astype("float32")
        tf.nn.relu(features * factors + summands, name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for without_norms, count in ((False, 1), (True, 2)):
        model, _ = made.fp16([{"images:0": images}], without_norms)
        assert ops_of(model).count("Conv") == count
        assert decibels(run(model, images), run(made.fp32, images)) > 50
        ranges = precision.tensor_ranges(made.folded, [{"images:0": images}], "minmax")
        unsigned = precision.Settings(unsigned=True, weight_bits=7)
        model, proof = made.int8(ranges, unsigned, without_norms)
        assert proof["nodes"] == proof["low_nodes"] == count
        assert decibels(run(model, images), run(made.fp32, images)) > 30


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_images_channels_first_give_the_same_outputs(precision, graph_file, kind):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 6, 3], name="images")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype("float32")
        tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"), name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(2, 8, 6, 3)).astype(np.float32)
    sample = {"images:0": images}
    if kind == "int8":
        ranges = precision.tensor_ranges(made.folded, [sample], "minmax")
        model, _ = made.int8(ranges, precision.Settings())
    else:
        model = made.fp32 if kind == "fp32" else made.fp16([sample])[0]
    data, names = precision.without_input_transposes(model.SerializeToString())
    first = type(model).FromString(data)
    assert names == ["images:0"]
    assert ops_of(first).count("Transpose") == ops_of(model).count("Transpose") - 1
    # In float16 ONNX Runtime's CPU rounds behind other nodes.
    assert decibels(run(first, images.transpose(0, 3, 1, 2)), run(model, images)) > 60


@pytest.mark.parametrize(
    "nodes",
    [
        [("Transpose", "x", "y", {"perm": [0, 2, 3, 1]})],
        [("Transpose", "x", "y", {})],
        [("Transpose", "x", "y", {"perm": [0, 3, 1, 2]})],
        [
            ("Transpose", "x", "turned", {"perm": [0, 3, 1, 2]}),
            ("Relu", "turned", "y", {}),
            ("Relu", "x", "z", {}),
        ],
        [
            ("Cast", "x", "short", {"to": 10}),
            ("Transpose", "short", "turned", {"perm": [0, 3, 1, 2]}),
            ("Cast", "turned", "y", {"to": 1}),
            ("Cast", "short", "z", {"to": 1}),
        ],
        [("Relu", "x", "r", {}), ("Transpose", "r", "y", {"perm": [0, 3, 1, 2]})],
    ],
    ids=["to channels last", "backwards", "an output", "read twice", "cast read twice", "Relu"],
)
def test_a_network_that_reads_its_images_otherwise_is_left_alone(precision, nodes):
    data = network(nodes, {}, [6, 5, 3]).SerializeToString()
    assert precision.without_input_transposes(data) == (data, [])


def test_images_of_bytes_and_what_a_branch_reads_are_left_alone(precision):
    from onnx import TensorProto, helper

    turn = ("Transpose", "x", "turned", {"perm": [0, 3, 1, 2]})
    bytes_in = network([turn, ("Cast", "turned", "y", {"to": 1})], {}, [6, 5, 3])
    bytes_in.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    branched = network([turn, ("Relu", "turned", "y", {})], {}, [6, 5, 3])
    inner = helper.make_graph(
        [helper.make_node("Identity", ["turned"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    always = helper.make_tensor("always", TensorProto.BOOL, [], [True])
    branched.graph.initializer.append(always)
    branches = {"then_branch": inner, "else_branch": inner}
    branched.graph.node.append(helper.make_node("If", ["always"], ["z"], **branches))
    for model in (bytes_in, branched):
        data = model.SerializeToString()
        assert precision.without_input_transposes(data) == (data, [])


def test_every_reader_of_every_image_reads_it_channels_first(precision):
    """Two images, one of them behind a Cast, that several nodes read, one of them twice."""
    from onnx import ModelProto, TensorProto, helper, shape_inference

    first = {"perm": [0, 3, 1, 2]}
    nodes = [
        ("Transpose", "x", "tx", first),
        ("Cast", "z", "short", {"to": TensorProto.FLOAT16}),
        ("Transpose", "short", "tz", first),
        ("Cast", "tz", "long", {"to": TensorProto.FLOAT}),
        ("Relu", "tx", "r", {}),
        ("Concat", "tx tx r long", "y", {"axis": 1}),
    ]
    model = network(nodes, {}, [6, 5, 3])
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 6, 5, 2]))
    model = shape_inference.infer_shapes(model)
    data, names = precision.without_input_transposes(model.SerializeToString())
    made = shape_inference.infer_shapes(ModelProto.FromString(data), strict_mode=True)
    random = np.random.default_rng(0)
    x, z = (random.normal(size=(2, 6, 5, depth)).astype(np.float32) for depth in (3, 2))
    turned = {"x": x.transpose(first["perm"]), "z": z.transpose(first["perm"])}
    assert names == ["x", "z"] and "Transpose" not in ops_of(made)
    assert np.array_equal(run_feed(made, turned), run_feed(model, {"x": x, "z": z}))


def run_feed(model, feed):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)[0]


def test_a_cast_that_is_an_output_too_keeps_its_shape(precision):
    from onnx import TensorProto, helper

    nodes = [
        ("Cast", "x", "short", {"to": TensorProto.FLOAT16}),
        ("Transpose", "short", "first", {"perm": [0, 3, 1, 2]}),
        ("Cast", "first", "y", {"to": TensorProto.FLOAT}),
    ]
    model = network(nodes, {}, [6, 5, 3])
    model.graph.output.append(helper.make_tensor_value_info("short", TensorProto.FLOAT16, None))
    data = model.SerializeToString()
    assert precision.without_input_transposes(data) == (data, [])


class OfImages(FastestInFloat32):
    """Has an input of images, float32."""

    num_inputs = 1
    TensorFormat = types.SimpleNamespace(HWC=8)

    def __init__(self):
        super().__init__()
        self.source = types.SimpleNamespace(name="x", shape=None, allowed_formats=1)

    def get_input(self, index):
        return self.source


@pytest.mark.parametrize("op", ["Transpose", "Identity"])
def test_tensorrt_8_6_reads_images_where_their_channels_lie_last(
    bench, onnx, installed, monkeypatch, tmp_path, op
):
    """What is fed lies as TensorFlow's do; the plan's shape is channels first."""
    engine = installed(gpus=1, tensorrt="8.6.0")
    trt = OfImages()
    monkeypatch.setattr(type(engine), "module", lambda self: trt)
    given = {"perm": [0, 3, 1, 2]} if op == "Transpose" else {}
    nodes = [(op, "x", "read", given), ("Relu", "read", "y", {})]
    data = network(nodes, {}, [6, 5, 3]).SerializeToString()
    (tmp_path / "x.onnx").write_bytes(data)
    job = types.SimpleNamespace(
        case=bench.Case("tensorrt", "fp32", 2),
        config=bench.Config(**{**vars(onnx.config), "output_dir": str(tmp_path)}),
        source=bench.Artifact(str(tmp_path / "x.onnx"), hashlib.sha256(data).hexdigest()),
        batch=lambda: {"x": np.zeros((2, 6, 5, 3), np.float32)},
        path=lambda suffix: tmp_path / f"x{suffix}",
    )
    facts = engine.build(job).facts
    read = (trt.source.shape, trt.source.allowed_formats, facts.get("channels_last"))
    if op == "Transpose":
        assert read == ((2, 3, 6, 5), 1 << trt.TensorFormat.HWC, ["x"])
    else:
        assert read == ((2, 6, 5, 3), 1, None)


@pytest.mark.parametrize("version", ["8.5.3.1", "10.12.0.36"])
def test_other_tensorrts_get_images_as_they_are_exported(bench, installed, tmp_path, version):
    """They were not tried."""
    engine = installed(gpus=1, tensorrt=version)
    nodes = [("Transpose", "x", "first", {"perm": [0, 3, 1, 2]}), ("Relu", "first", "y", {})]
    data = network(nodes, {}, [6, 5, 3]).SerializeToString()
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    source = bench.Artifact(str(path), hashlib.sha256(data).hexdigest())
    job = types.SimpleNamespace(source=source, case=bench.Case("tensorrt", "fp32", 2))
    assert engine.model_to_parse(job) == (data, [])


@pytest.mark.parametrize("op", ["Conv", "Relu"])
def test_fp32_without_norms_is_as_it_was_exported_where_it_is_not_folded(bench, op):
    """No convolution, no such norms; and ONNX Runtime's CPU lacks kernels for ops in float64."""
    random = np.random.default_rng(0)
    column, kernel = random.normal(size=(1, 16, 1, 1)), random.normal(size=(16, 16, 1, 1))
    sides = {"column": column.astype(np.float32), "kernel": kernel.astype(np.float32)}
    nodes = [
        (op, "x kernel" if op == "Conv" else "x", "features", {}),
        ("Relu", "features", "positive", {}),
        ("Mul", "positive column", "scaled", {}),
        ("Add", "scaled column", "y", {}),
    ]
    model = shape_inferred(network(nodes, sides, [16, 5, 5]))

    class Maker:
        fp32 = folded = model

    class Unfolded:
        fp32 = model

        @property
        def folded(self):
            raise bench.UserError("Could not find an implementation for Softplus(1) node")

    without_norms = bench.Onnx.without_norms.fget
    assert without_norms(Unfolded()) is model
    made = without_norms(Maker())
    if op == "Conv":
        assert ops_of(made) == ["Conv", "Relu", "Conv"]
    else:
        assert made is model


def shape_inferred(model):
    from onnx import shape_inference

    return shape_inference.infer_shapes(model)


def test_maxima_with_one_zero_stay_maxima_in_int8(precision, graph_file):
    """ONNX Runtime shares small constants: of two poolings' borders, and of any maximum's."""

    def build(tf, v1):
        features = v1.placeholder("float32", [None, 16, 16, 4], name="images")
        for _ in range(2):
            kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype("float32")
            features = tf.nn.conv2d(features, kernel / 4, 1, "SAME")
            features = tf.maximum(tf.nn.max_pool2d(features, 2, 2, "VALID"), 0.0)
        features = tf.nn.conv2d(features, kernel / 4, 1, "SAME")
        tf.reduce_mean(tf.maximum(features, 0.0), [1, 2], name="y")

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 4)).astype(np.float32)
    ranges = precision.tensor_ranges(made.folded, [{"images:0": images}], "minmax")
    model, _ = made.int8(ranges, precision.Settings())
    assert decibels(run(model, images), run(made.fp32, images)) > 25


def test_what_is_far_below_zero_inside_a_border_stays_so_in_int8(precision, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 3], name="images")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype("float32")
        negative = tf.nn.conv2d(images, kernel / 100, 1, "SAME") - 8
        bordered = tf.pad(negative, [[0, 0], [1, 1], [1, 1], [0, 0]])
        pooled = tf.nn.max_pool2d(bordered, 3, 2, "VALID")
        normal = pooled * tf.constant([0.5, 2, 1, 3]) + tf.constant([5.0, 20, 10, 30])
        tf.nn.conv2d(
            tf.nn.relu(normal), np.tile(kernel[:, :, :1], (1, 1, 4, 1)), 1, "SAME", name="y"
        )

    made = precision.Precisions(graph_file(build).read_bytes(), ["images:0"], ["y:0"], 17)
    images = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    ranges = precision.tensor_ranges(made.folded, [{"images:0": images}], "minmax")
    model, _ = made.int8(ranges, precision.Settings())
    assert decibels(run(model, images), run(made.fp32, images)) > 30
