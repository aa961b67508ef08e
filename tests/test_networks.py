"""Networks and pictures that once failed, and what is said of flags that do not fit them."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import types
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from helpers import ROOT, load, serving

onnxruntime = pytest.importorskip("onnxruntime")
PRECISIONS = ("--native", "--fp32", "--fp16", "--int8", "--engine=onnxruntime")


@pytest.fixture
def keras_file(tmp_path):
    """Saves a Keras model: `save(inputs, outputs)` gives its path."""
    import tensorflow as tf

    def save(inputs, outputs, name="model.keras"):
        tf.keras.Model(inputs, outputs).save(tmp_path / name)
        return tmp_path / name

    tf.keras.utils.set_random_seed(0)
    return save


@pytest.fixture
def layers():
    import tensorflow as tf

    yield tf.keras.layers
    tf.keras.mixed_precision.set_global_policy("float32")


def by_case(ran):
    return {(record["engine"], record["precision"]): record for record in ran.records}


def check_all_run(ran, decibels=(60, 25, 12)):
    """Every precision ran, and its output is native's within so many dB."""
    assert ran.status == 0, ran.out + ran.err
    cases = by_case(ran)
    for precision, limit in zip(("fp32", "fp16", "int8"), decibels):
        (output,) = cases["onnxruntime", precision]["agreement"]["outputs"].values()
        snr = output["snr_db"]
        assert snr is None or snr > limit, (precision, output)
        if precision != "fp32":
            proof = cases["onnxruntime", precision]["artifact"]["proof"]
            assert proof["share_of_nodes"] == 1


# ------------------------------------------------------------------------------------------- export


def test_exact_gelu(main, layers, keras_file):
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="gelu")(inputs)
    x = layers.Flatten()(layers.LayerNormalization()(x))
    check_all_run(
        main(
            f"--keras_model={keras_file(inputs, layers.Dense(10)(x))}",
            "--batch_size=4",
            *PRECISIONS,
        )
    )


def convnext_block(layers):
    inputs = layers.Input((16, 16, 3))
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 4, 4)(inputs))
    y = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 3, padding="same", groups=8)(x))
    y = layers.Dense(8)(layers.Dense(16, activation="gelu")(y))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return inputs, layers.Dense(10)(x)


def test_a_layer_norm_is_no_batch_norm_and_no_residual(main, layers, keras_file, tmp_path):
    """Of ConvNeXt: gamma is one constant a channel, what it multiplies is one number a place."""
    import onnx

    pytest.importorskip("tensorrt_rtx")
    path = keras_file(*convnext_block(layers))
    ran = main(
        f"--keras_model={path}", "--int8", "--engine=tensorrt", "--build_only", "--batch_size=2"
    )
    assert ran.status == 0, ran.out
    (file,) = tmp_path.glob("tensorrt_int8_*.onnx")
    graph = onnx.load(file).graph
    assert not [node for node in graph.node if node.op_type == "BatchNormalization"]
    quantised = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    made = {name: node.op_type for node in graph.node for name in node.output}
    assert "Reciprocal" not in {made.get(name) for name in quantised}
    adds = [node for node in graph.node if node.op_type == "Add"]
    residual = [
        node for node in adds if "DequantizeLinear" in {made.get(name) for name in node.input}
    ]
    assert len(residual) == 1


def test_grouped_convolutions_are_inlined(main, layers, keras_file):
    """Keras calls them in a function that XLA compiles; ONNX knows no call."""
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, groups=4, activation="relu")(layers.Conv2D(4, 1)(inputs))
    x = layers.Conv2D(8, 3, groups=8)(x)
    path = keras_file(inputs, layers.Dense(10)(layers.Flatten()(x)))
    check_all_run(main(f"--keras_model={path}", "--batch_size=4", *PRECISIONS))


def test_an_optimiser_of_tf2onnx_that_fails_is_gone_without(
    main, layers, keras_file, precision, monkeypatch
):
    """MobileNetV3's squeeze and excitation: `max() arg is an empty sequence` in the fast export."""
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(8, 3)(inputs)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(8, 1)(layers.Conv2D(4, 1, activation="relu")(y))
    y = layers.ReLU(6.0)(y + 3.0) * (1 / 6)
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, y]))
    path = keras_file(inputs, layers.Dense(10)(x))
    fast, real = [], precision.converted

    def export(*args, catch_errors):
        fast.append(not catch_errors)
        return real(*args, catch_errors=catch_errors)

    monkeypatch.setattr(precision, "converted", export)
    check_all_run(main(f"--keras_model={path}", "--batch_size=2", *PRECISIONS))
    assert fast == [True, False]


@pytest.mark.parametrize("how", ["bilinear", "nearest"])
def test_resize_to_a_size_that_is_computed(main, graph_file, how):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, None, None, 3], name="x")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32) / 100
        features = tf.nn.relu(tf.nn.conv2d(images, kernel, 2, "SAME"))
        larger = tf.image.resize(features, 2 * tf.shape(features)[1:3], how)
        weights = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
        tf.matmul(tf.reduce_mean(larger, [1, 2]), weights, name="y")

    flags = [f"--frozen_graph={graph_file(build)}", "--preprocessing=none", "--batch_size=2"]
    check_all_run(main(*flags, *PRECISIONS))


def test_a_plan_of_a_graph_that_leaves_its_sides_open(main, graph_file):
    pytest.importorskip("tensorrt_rtx")

    def build(tf, v1):
        images = v1.placeholder("float32", [None, None, None, 3], name="x")
        features = tf.nn.relu(tf.nn.conv2d(images, np.ones((3, 3, 3, 8), np.float32), 2, "SAME"))
        tf.reduce_mean(features, [1, 2], name="y")

    ran = main(
        f"--frozen_graph={graph_file(build)}",
        "--fp32",
        "--engine=tensorrt",
        "--build_only",
        "--batch_size=2",
    )
    assert ran.status == 0, ran.out


def test_what_cannot_be_exported_names_each_op_once(main, graph_file):
    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        values = tf.reshape(images, [-1, 48]) + 200
        for name in ("first", "second", "third"):
            values = tf.math.lgamma(values, name=name)
        tf.nn.softmax(tf.math.digamma(values, name="other"), name="y")

    ran = main(
        f"--frozen_graph={graph_file(build)}", "--fp32", "--engine=onnxruntime", "--batch_size=2"
    )
    assert (
        "no counterpart for Lgamma (first and 2 more), Digamma (other): --engine=xla"
        in ran.records[0]["error"]
    )


@pytest.mark.parametrize("side, of", [(8, "asymmetric"), (12, "asymmetric"), (6, "tf_half_pixel")])
def test_whole_factors_of_nearest_neighbours(main, graph_file, tmp_path, side, of):
    """TensorRT 8.5 has no nearest neighbour of half pixels; for whole factors it needs none."""
    import onnx

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        values = tf.raw_ops.ResizeNearestNeighbor(
            images=tf.nn.relu(images), size=[side, side], half_pixel_centers=True
        )
        weights = np.random.default_rng(0).normal(size=(side * side * 3, 5)).astype(np.float32)
        tf.matmul(tf.reshape(values, [-1, side * side * 3]), weights, name="y")

    flags = [f"--frozen_graph={graph_file(build)}", "--preprocessing=none", "--batch_size=2"]
    check_all_run(main(*flags, *PRECISIONS), (100, 60, 30))
    graph = onnx.load(tmp_path / "onnxruntime_fp32_graph.onnx").graph
    (resize,) = [node for node in graph.node if node.op_type == "Resize"]
    words = {attribute.name: attribute.s.decode() for attribute in resize.attribute}
    assert words["coordinate_transformation_mode"].startswith(of)


def test_hard_sigmoids_keep_their_factor_in_float16(main, graph_file, tmp_path):
    """A sixth is too small in float16: twenty gates that are wide open lost half a per cent."""
    import onnx

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        values = tf.reshape(images / 255, [-1, 48]) + 4
        for _ in range(20):
            values = values * (tf.nn.relu6(values + 3) * (1 / 6))
        weights = np.random.default_rng(0).normal(size=(48, 5)).astype(np.float32)
        tf.matmul(values, weights, name="y")

    flags = [f"--frozen_graph={graph_file(build)}", "--preprocessing=none", "--batch_size=2"]
    check_all_run(main(*flags, *PRECISIONS), (100, 60, 30))
    graph = onnx.load(tmp_path / "onnxruntime_fp16_graph.onnx").graph
    assert sum(node.op_type == "HardSigmoid" for node in graph.node) == 20
    assert not [node for node in graph.node if node.op_type == "Clip"]


def test_what_only_looks_like_a_hard_sigmoid_stays(precision):
    """Another height, a second reader, or an output of the graph in between."""
    from onnx import TensorProto, helper, numpy_helper

    def hard_sigmoids(factor=1 / 6, readers=1, outputs=("y",)):
        numbers = {"three": 3.0, "zero": 0.0, "six": 6.0, "factor": factor}
        constants = [
            numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()
        ]
        nodes = [
            helper.make_node("Add", ["three", "x"], ["sum"], "sum"),
            helper.make_node("Clip", ["sum", "zero", "six"], ["clipped"], "clip"),
            helper.make_node("Mul", ["clipped", "factor"], ["gate"], "gate"),
            *(
                helper.make_node("Neg", ["clipped"], [f"no{i}"], f"no{i}")
                for i in range(1, readers)
            ),
            helper.make_node("Mul", ["x", "gate"], ["y"], "y"),
        ]
        edge = functools.partial(helper.make_tensor_value_info, shape=[4])
        graph = helper.make_graph(
            nodes,
            "g",
            [edge("x", TensorProto.FLOAT)],
            [edge(name, TensorProto.FLOAT) for name in outputs],
            constants,
        )
        precision.spell_hard_sigmoids(graph)
        return [node for node in graph.node if node.op_type == "HardSigmoid"]

    (gate,) = hard_sigmoids()
    values = {attribute.name: attribute.f for attribute in gate.attribute}
    assert values == pytest.approx({"alpha": 1 / 6, "beta": 0.5})
    assert list(gate.input) == ["x"] and list(gate.output) == ["gate"]
    assert not hard_sigmoids(factor=0.2)
    assert not hard_sigmoids(readers=2)
    assert not hard_sigmoids(outputs=("y", "clipped"))


# ---------------------------------------------------------------------------------- mixed precision


def test_mixed_precision_is_told_and_fp32_is_float32(main, layers, keras_file):
    import tensorflow as tf

    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    inputs = layers.Input((16, 16, 3))
    x = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(inputs))
    path = keras_file(inputs, layers.Dense(10, dtype="float32")(x))
    flags = ["--preprocessing=inception", "--batch_size=4", "--engine=onnxruntime,xla"]
    ran = main(f"--keras_model={path}", "--native", "--fp32", *flags)
    cases = by_case(ran)
    share = cases["native", "native"]["graph"]["half_share"]
    assert share == 0.5
    notes = {case: " ".join(record["notes"]) for case, record in cases.items()}
    assert (
        "computes 50% of its convolutions and matrix products in float16"
        in notes["native", "native"]
    )
    assert "and so does this FP32" in notes["xla", "fp32"]
    assert "this FP32 computes all in float32" in notes["onnxruntime", "fp32"]
    check_all_run(main(f"--keras_model={path}", *flags[:2], *PRECISIONS), (25, 25, 12))


def test_fp32_of_mixed_precision_has_no_float16(precision, layers, keras_file, bench, tmp_path):
    import tensorflow as tf

    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    inputs = layers.Input((8, 8, 3))
    path = keras_file(
        inputs, layers.Dense(4, dtype="float32")(layers.Flatten()(layers.Conv2D(8, 3)(inputs)))
    )
    config = bench.parse_flags(
        ["tensorrt.py", f"--keras_model={path}", f"--output_dir={tmp_path}", "--noisolate"]
    )
    graph = bench.load_graph(config)
    model = bench.Onnx(config, graph, bench.load_images(config, graph, 2)).fp32
    assert precision.coverage(model, "fp32")["share_of_nodes"] == 1
    assert precision.coverage(model, "fp16")["share_of_weights"] == 0


# -------------------------------------------------------------------------------------- percentiles


def percentile_of(precision, *samples):
    collector = precision.Percentiles()
    for values in samples:
        collector.collect({"x": [np.asarray(values, np.float32)]})
    return collector.ranges()["x"]


def test_percentiles_of_constant_and_nearly_constant_tensors(precision):
    assert percentile_of(precision, np.zeros(100)) == (0, 0)
    low, high = percentile_of(precision, np.full(100, 7.0))
    assert low == high == pytest.approx(7)
    nearly = np.full(1000, 1.0, np.float32)
    nearly[0] += np.finfo(np.float32).eps
    low, high = percentile_of(precision, nearly, nearly)
    assert low == 1 and high == pytest.approx(1, abs=1e-3)
    assert percentile_of(precision, np.zeros(10), [np.nan, np.inf, 2.0])[1] == 2


def test_percentiles_clip_what_is_rare_whatever_the_order(precision):
    draw = np.random.default_rng(0)
    usual, rare = draw.normal(size=1_000_000), np.full(3, 1000.0)
    for samples in ((usual, rare), (rare, usual), (np.full(10, 1e-12), usual, rare)):
        low, high = percentile_of(precision, *samples)
        assert 4 < high < 6 and -6 < low < -4
    _, high = percentile_of(precision, usual)
    exact = np.percentile(np.abs(usual), precision.PERCENTILE)
    assert high == pytest.approx(min(exact, usual.max()), rel=0.01)


def test_int8_of_a_network_with_a_constant_inside(main, graph_file):
    """EfficientNet's case: the default method could not bin a tensor whose values hardly differ."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 3], name="x")
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
        features = tf.nn.conv2d(images / 255, kernel, 1, "SAME")
        still = 1 + 1e-7 * tf.sigmoid(
            tf.nn.conv2d(features, np.ones((1, 1, 8, 8), np.float32), 1, "SAME")
        )
        flat = tf.reduce_mean(features * still, [1, 2])
        tf.matmul(flat, np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32), name="y")

    flags = [f"--frozen_graph={graph_file(build)}", "--preprocessing=none", "--batch_size=4"]
    check_all_run(main(*flags, *PRECISIONS))


# ------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("channels", [1, 3])
def test_bmp_and_colours_into_any_number_of_channels(bench, tmp_path, channels):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name in ("x.bmp", "x.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    bmp, png = (
        bench.read_image(tmp_path / name, (32, 32, channels)).astype(int)
        for name in ("x.bmp", "x.png")
    )
    assert bmp.shape == (32, 32, channels)
    assert np.abs(bmp - png).max() <= 2  # libpng's grey is rounded otherwise
    assert bench.read_image(tmp_path / "grey.png", (32, 32, channels)).shape == (32, 32, channels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_viewers_turn_it(bench, tmp_path, orientation):
    """Against Pillow's exif_transpose, for every orientation that EXIF knows."""
    from PIL import Image, ImageOps

    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    photograph, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    photograph.save(tmp_path / "x.png", exif=exif)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "x.png")))
    assert np.array_equal(bench.decode_image(tmp_path / "x.png", 3), turned)


# ------------------------------------------------------------------------------------ preprocessing


def scaled(layers, how):
    inputs = layers.Input((16, 16, 3))
    start = {
        "rescaling": lambda: layers.Rescaling(1 / 127.5, offset=-1)(inputs),
        "normalization": lambda: layers.Normalization(
            mean=[124.0, 117.0, 104.0], variance=[9.0, 9.0, 9.0]
        )(inputs),
        "mean": lambda: layers.Rescaling(1.0, offset=[-124.0, -117.0, -104.0])(inputs),
        "resized": lambda: layers.Rescaling(1 / 255)(layers.Resizing(12, 12)(inputs)),
        "other range": lambda: layers.Rescaling(2.0, offset=-1)(inputs),
        "nothing": lambda: inputs,
    }[how]()
    return inputs, layers.Dense(4, activation="softmax")(
        layers.Flatten()(layers.Conv2D(4, 3)(start))
    )


@pytest.fixture
def photograph(tmp_path):
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = tmp_path / "photograph.png"
    path.write_bytes(tf.io.encode_png(pixels).numpy())
    return path


@pytest.mark.parametrize(
    ("how", "taken", "why"),
    [
        ("rescaling", "none", "scales its pixels itself (Mul, AddV2)"),
        ("normalization", "none", "scales its pixels itself"),
        ("mean", "none", "scales its pixels itself"),
        ("resized", "none", "scales its pixels itself (Mul, AddV2)"),
        ("other range", "vgg", "nothing in model.pb tells"),
        ("nothing", "vgg", "nothing in model.pb tells"),
    ],
)
def test_the_preprocessing_that_fits_is_taken_and_said(
    main, layers, keras_file, photograph, how, taken, why
):
    path = keras_file(*scaled(layers, how))
    ran = main(f"--keras_model={path}", "--batch_size=1", f"--image_file={photograph}")
    assert ran.status == 0, ran.err
    assert ran.records[0]["flags"]["preprocessing"] == taken
    (line,) = [line for line in ran.err.splitlines() if "--preprocessing" in line]
    assert f"--preprocessing={taken} is taken" in line and why in line


def test_a_preprocessing_that_scales_twice_is_doubted(main, layers, keras_file, photograph):
    path = keras_file(*scaled(layers, "rescaling"))
    flags = [f"--keras_model={path}", "--batch_size=1", f"--image_file={photograph}"]
    ran = main(*flags, "--preprocessing=inception")
    assert "--preprocessing=none may be meant" in ran.err
    assert ran.records[0]["flags"]["preprocessing"] == "inception", "what was asked for is done"
    assert "may be meant" not in main(*flags, "--preprocessing=none").err


def test_a_preprocessing_without_effect_on_uint8_is_said(main, graph_file):
    def build(tf, v1):
        pixels = v1.placeholder("uint8", [None, 4, 4, 3], name="x")
        tf.nn.softmax(tf.reshape(tf.cast(pixels, tf.float32), [-1, 48]) / 255, name="y")

    path = graph_file(build)
    ran = main(f"--frozen_graph={path}", "--batch_size=2", "--preprocessing=torch")
    assert (
        ran.status == 0
        and "--preprocessing=torch has no effect: graph.pb takes uint8 pixels" in ran.err
    )
    assert ran.records[0]["flags"]["preprocessing"] == "none"
    assert "has no effect" not in main(f"--frozen_graph={path}", "--batch_size=2").err


def test_photographs_that_native_does_not_know_get_a_sentence(main, shared):
    flags = [
        f"--frozen_graph={shared / 'models' / 'squeezenet_v1.1_frozen.pb'}",
        "--batch_size=1",
        "--num_loops=2",
        f"--image_file={shared / 'images' / 'chelsea.png'}",
    ]
    wrong, right = main(*flags, "--preprocessing=torch"), main(*flags, "--preprocessing=caffe")
    sentence = "was the network trained with --preprocessing=torch? Try vgg, inception, caffe, none"
    assert any(sentence in note for note in wrong.records[0]["notes"])
    assert not any("trained with" in note for note in right.records[0]["notes"])
    compared = main(*flags, "--preprocessing=torch", "--fp32", "--engine=onnxruntime")
    assert any(sentence in note for note in compared.records[0]["notes"]), (
        "native is no case, but is computed"
    )


def test_guessed_pixels_are_told_where_photographs_are_judged(main, keras_file, layers):
    """stderr names the guess, and the record keeps it: the verdict depends on it."""
    inputs = layers.Input((16, 16, 3))
    outputs = layers.Dense(3, activation="softmax")(layers.Flatten()(inputs))
    flag = f"--keras_model={keras_file(inputs, outputs)}"
    photograph = f"--image_file={ROOT / 'image.jpg'}"
    guessed = "--preprocessing=vgg was guessed: pass --preprocessing if"
    ran = main(flag, photograph, "--batch_size=1", "--num_loops=2")
    assert "nothing in model.pb tells: pass --preprocessing if" in ran.err
    assert any(note.startswith(guessed) for note in ran.records[0]["notes"]), ran.records[0]
    for flags in ([photograph, "--preprocessing=vgg"], []):
        (record,) = main(flag, *flags, "--batch_size=1", "--num_loops=2").records[-1:]
        assert not any("guessed" in note for note in record["notes"])


# ------------------------------------------------------------------------------- names of the model


def two_outputs(layers):
    inputs = layers.Input((16, 16, 3), name="pictures")
    x = layers.Flatten()(layers.Conv2D(4, 3)(inputs))
    probabilities = layers.Dense(10, activation="softmax", name="probabilities")(x)
    return inputs, probabilities, layers.Dense(6, name="features")(x)


@pytest.mark.parametrize("form", ["dict", "list", "savedmodel"])
def test_outputs_are_named_by_their_keys(main, layers, keras_file, tmp_path, form):
    import tensorflow as tf

    inputs, probabilities, features = two_outputs(layers)
    outputs = [probabilities, features]
    if form != "list":
        outputs = {"probabilities": probabilities, "features": features}
    flag = f"--keras_model={keras_file(inputs, outputs)}"
    if form == "savedmodel":
        tf.keras.Model(inputs, outputs).export(str(tmp_path / "export"))
        flag = f"--savedmodel_dir={tmp_path / 'export'}"
    both = main(flag, "--batch_size=2").records[0]["graph"]["outputs"]
    assert {output["key"]: output["shape"] for output in both} == {
        "features": [None, 6],
        "probabilities": [None, 10],
    }
    ran = main(flag, "--output_node=probabilities", "--batch_size=2")
    assert ran.status == 0, ran.err
    (output,) = ran.records[0]["graph"]["outputs"]
    assert output["key"] == "probabilities" and output["shape"] == [None, 10]
    assert "closest: features, probabilities" in main(flag, "--output_node=probabilites").err


def test_a_text_model_s_input_is_named_by_its_own_name(main, layers, keras_file):
    inputs = layers.Input((16,), dtype="int32", name="token_ids")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(100, 8)(inputs))
    ran = main(f"--keras_model={keras_file(inputs, layers.Dense(2)(x))}", "--batch_size=2")
    assert ran.status == 0 and "random data is fed, token_ids 0 to 1" in ran.err
    assert ran.records[0]["graph"]["inputs"][0]["name"] == "token_ids:0"


def test_flags_that_have_no_effect_are_said(main, forms):
    models = [
        f"--frozen_graph={forms['frozen_graph']}",
        f"--keras_model={forms['keras']}",
        "--savedmodel_dir=/no/such",
    ]
    flags = ("--weights=imagenet", "--calibration_dir=/no/such", "--engine=xla", "--batch_size=2")
    ran = main(*models, *flags)
    assert ran.status == 0, ran.err
    for sentence in (
        "--keras_model is not read: --frozen_graph goes before it",
        "--savedmodel_dir is not read: --frozen_graph goes before it",
        "--weights is of the built-in network",
        "--calibration_dir would be for --int8",
        "--engine would be for --fp32, --fp16 and --int8: none was passed",
    ):
        assert sentence in ran.err
    plain = main(f"--frozen_graph={forms['frozen_graph']}", "--batch_size=2")
    assert "is not read" not in plain.err and "would be for" not in plain.err


def test_a_savedmodel_s_folder_given_as_keras_model_names_the_flag(main, forms):
    ran = main(f"--keras_model={forms['tf2']}")
    assert ran.status == 2 and f"pass it with --savedmodel_dir={forms['tf2']}" in ran.err


def test_a_full_disk_is_called_a_full_disk(main, bench, forms, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bench.os, "replace", full)
    ran = main(f"--keras_model={forms['keras']}", "--batch_size=2")
    assert ran.status == 2 and "error: the disk is full" in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize("free", [0, 1 << 30])
def test_a_full_disk_behind_onnxruntime_s_words(main, precision, forms, monkeypatch, free):
    """It says `Protobuf serialization failed` of a file that finds no room."""

    def fail(*_, **__):
        raise RuntimeError("Protobuf serialization failed")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    monkeypatch.setattr(
        precision.shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=free)
    )
    flags = [f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none", "--batch_size=2"]
    error = main(*flags, "--fp16", "--engine=onnxruntime").records[0]["error"]
    if free:
        assert "Protobuf serialization failed" in error
    else:
        assert error.startswith("the disk is full (") and "TMPDIR" in error


# ----------------------------------------------------------------------------- the built-in network


def narrow(patch):
    """Has Keras's ResNet-50 v2 be two blocks of a sixteenth of the channels in each stage: a
    hundredth of the work.
    """
    from keras.src.applications import resnet

    name = "stack_residual_blocks_v2"
    if not hasattr(resnet, name):
        name = "stack2"  # Keras 2's
    whole = getattr(resnet, name)

    def stack(x, filters, blocks, **more):
        return whole(x, filters // 16, 2, **more)

    patch.setattr(resnet, name, stack)


@pytest.fixture
def stages(request, monkeypatch):
    """The stages of Keras's ResNet-50 v2: "narrow" ones, or "whole" where a test asks for them."""
    kind = getattr(request, "param", "narrow")
    if kind == "narrow":
        narrow(monkeypatch)
    return kind


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory):
    """Gives the bytes of ResNet-50 v2's weights as Keras keeps them, but random, for those stages
    that are in place.
    """
    import tensorflow as tf

    @functools.cache
    def make(stages):
        tf.keras.utils.set_random_seed(7)
        path = tmp_path_factory.mktemp("weights") / f"{stages}.h5"
        tf.keras.applications.ResNet50V2(weights=None).save(path)
        return path.read_bytes()

    return make


@pytest.fixture
def small_network(bench, monkeypatch):
    """A network of one layer in the built-in one's place, for what is decided before it is made."""

    def make(tf, config):
        assert config.weights == "random"
        layers = tf.keras.layers
        inputs = layers.Input((32, 32, 3))
        outputs = layers.Dense(1000, activation="softmax")(layers.GlobalAveragePooling2D()(inputs))
        return tf.keras.Model(inputs, outputs)

    monkeypatch.setattr(bench, "built_in_model", make)


@pytest.fixture
def keras_server(bench, weights_of, stages, monkeypatch, no_proxy):
    """A local server in the place of Keras's, with weights of ResNet-50 v2 that are its own; counts
    what it gave.
    """
    import hashlib

    from keras.src.applications import resnet

    data = weights_of(stages)
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    hashes = {**resnet.WEIGHTS_HASHES, "resnet50v2": [hashlib.md5(data).hexdigest()] * 2}
    monkeypatch.setattr(resnet, "WEIGHTS_HASHES", hashes)
    with serving(Handler) as address:
        monkeypatch.setattr(resnet, "BASE_WEIGHTS_PATH", f"{address}/")
        monkeypatch.setattr(bench, "WEIGHTS_SERVER", f"{address}/")
        yield types.SimpleNamespace(asked=asked, address=f"{address}/")


@pytest.fixture
def keras_folder(tmp_path, monkeypatch):
    """Keras's folder, empty; where it cannot be written Keras takes one below /tmp, which outlives
    the test.
    """
    folder = tmp_path / ".keras"
    folder.mkdir()
    monkeypatch.setenv("KERAS_HOME", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))  # all that Keras 2 looks at for weights
    # Keras 3 looks for it once, Keras 2 each time
    with contextlib.suppress(ImportError, AttributeError):
        from keras.src.utils import file_utils

        monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(folder))
    return folder


@pytest.mark.parametrize(
    "stages", ["narrow", pytest.param("whole", marks=pytest.mark.slow)], indirect=True
)
def test_the_built_in_network_is_trained_where_photographs_are_given(
    main, photograph, keras_server, keras_folder
):
    ran = main(f"--image_file={photograph}", "--batch_size=1", "--num_loops=2")
    assert ran.status == 0, ran.err
    assert ran.records[0]["flags"]["weights"] == "imagenet" and len(keras_server.asked) == 1
    assert not any("random weights" in note for note in ran.records[0]["notes"])
    again = main(f"--image_file={photograph}", "--batch_size=1", "--num_loops=2")
    assert again.records[0]["flags"]["weights"] == "imagenet"
    assert len(keras_server.asked) == 1, "downloaded once"
    assert "Downloading" not in ran.out


def test_the_built_in_network_is_random_where_no_photographs_are(
    main, keras_server, keras_folder, small_network
):
    ran = main("--batch_size=1", "--num_loops=2")
    assert ran.records[0]["flags"]["weights"] == "random" and not keras_server.asked


def test_weights_force_it(main, photograph, keras_server, keras_folder, small_network):
    ran = main(f"--image_file={photograph}", "--batch_size=1", "--num_loops=2", "--weights=random")
    assert ran.records[0]["flags"]["weights"] == "random" and not keras_server.asked


def test_batch_norms_of_random_weights_are_as_after_training(bench, monkeypatch):
    """Ones and zeros would be left out: the network was faster than a trained one."""
    import tensorflow as tf

    layers = tf.keras.layers

    def untrained(weights):
        images = layers.Input((4, 4, 16))
        norms = layers.BatchNormalization(name="norm"), layers.BatchNormalization(scale=False)
        return tf.keras.Sequential([images, *norms])

    def norm(weights):
        config = bench.parse_flags(["tensorrt.py", f"--weights={weights}"])
        return bench.built_in_model(tf, config).get_layer("norm").get_weights()

    monkeypatch.setattr(tf.keras.applications, "ResNet50V2", untrained)
    gamma, beta, mean, variance = norm("random")
    assert gamma.min() > 0.4 and variance.min() > 0.4
    assert min(np.ptp(values) for values in (gamma, beta, mean, variance)) > 0.5
    assert all(map(np.array_equal, norm("random"), (gamma, beta, mean, variance)))
    assert norm("imagenet")[0].tolist() == [1] * 16, "as they were downloaded"


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/", "http://name.invalid/"])
def test_without_a_network_random_weights_are_taken_and_said(
    main, bench, photograph, keras_folder, small_network, monkeypatch, no_proxy, address
):
    """Nobody listens, or nobody knows the name, which here is said at once."""
    real = socket.getaddrinfo

    def look_up(host, *args, **more):
        if host == "name.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(bench, "WEIGHTS_SERVER", address)
    ran = main(f"--image_file={photograph}", "--batch_size=1", "--num_loops=2")
    assert ran.status == 0, ran.err
    assert ran.records[0]["flags"]["weights"] == "random"
    assert ran.err.count("the trained weights cannot be downloaded (ConnectionError") == 1
    assert bench.SECONDS_TO_REACH < 10


def test_a_server_that_never_answers_is_given_up(bench, monkeypatch, no_proxy):
    """It accepts, and says nothing: the wait is the program's own, here without its seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(bench, "WEIGHTS_SERVER", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        monkeypatch.setattr(bench, "SECONDS_TO_REACH", 0.2)
        monkeypatch.setenv("KERAS_HOME", "/nowhere")
        assert bench.why_no_download()


def test_a_download_that_breaks_falls_back_unless_it_was_asked_for(
    main, photograph, keras_server, keras_folder, monkeypatch
):
    from keras.src.applications import resnet

    monkeypatch.setattr(
        resnet, "WEIGHTS_HASHES", {**resnet.WEIGHTS_HASHES, "resnet50v2": ["0" * 32] * 2}
    )
    flags = [f"--image_file={photograph}", "--batch_size=1", "--num_loops=2"]
    ran = main(*flags)
    assert ran.status == 0 and "random ones are taken" in ran.err
    assert ran.records[0]["flags"]["weights"] == "random"
    forced = main(*flags, "--weights=imagenet")
    assert forced.status == 2 and "Keras cannot load --weights=imagenet" in forced.err


# ---------------------------------------------------------------------------------------- the bench


@pytest.fixture(scope="session")
def networks():
    """tests/bench/networks.py as a module."""
    sys.path.append(str(ROOT / "tests" / "bench"))
    return load("networks_py", "tests/bench/networks.py")


def test_the_bench_judges_by_decibels(networks):
    native = np.array([[3.0, 4.0], [0.0, 5.0]])
    assert networks.signal_to_noise(native, native + 0.5) == pytest.approx(10 * np.log10(50 / 1))
    record = {
        "cases": {
            "tensorrt int8": {"status": "failed", "error": "no"},
            "native native": {"status": "ok"},
        }
    }
    assert networks.faults(record) == ["tensorrt int8: no"]
    assert networks.faults(
        {"snr": {"onnxruntime int8": 2.9, "tensorrt fp16": 25.0, "tensorrt fp32": 61}}
    ) == ["onnxruntime int8: 2.9 dB is under the limit of 3"]
    assert networks.faults({"snr": {"onnxruntime int8": float("nan")}})
    assert not networks.faults({"snr": {"onnxruntime fp32": 26}, "half_share": 0.5})
    assert networks.faults({"snr": {"onnxruntime fp32": 26}, "half_share": 0.0})


@pytest.mark.slow
def test_the_bench_catches_scales_that_were_broken_on_purpose(shared, tmp_path):
    bench = str(ROOT / "tests" / "bench" / "networks.py")
    words = [
        sys.executable,
        bench,
        str(shared / "images"),
        "one_channel",
        f"--results={tmp_path / 'r.jsonl'}",
    ]
    whole = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    broken = subprocess.run(
        [*words[:-1], "--break-scales"], capture_output=True, text=True, timeout=500
    )
    assert (
        broken.returncode == 1
        and "onnxruntime int8" in broken.stdout
        and "under the limit" in broken.stdout
    )
    again = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert again.returncode == 0 and len((tmp_path / "r.jsonl").read_text().splitlines()) == 1, (
        "not run again"
    )
