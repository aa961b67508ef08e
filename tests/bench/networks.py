"""Runs every network of tf.keras.applications, and shapes that used to fail, at every precision.

    python tests/bench/networks.py photos/ --results=networks.jsonl    all that is not recorded yet
    python tests/bench/networks.py photos/ --results=networks.jsonl MobileNetV2  these
    python tests/bench/networks.py photos/ --break-scales MobileNetV2  a planted fault is caught
    python tests/bench/networks.py --table --results=networks.jsonl    docs/networks.md's table

Each network is made without weights, saved as a .keras file, and given to tensorrt.py: native, and
FP32, FP16 and INT8 in ONNX Runtime and as TensorRT plans (built, where there is no GPU). One
network at a time, each in a process of its own.

Agreement is judged on the tensor in front of the softmax, which is flat with random weights and
agrees whatever breaks, on photographs, by the signal-to-noise ratio in dB against native:

    10 log10( sum native^2 / sum (native - precision)^2 )

Batch norm's scales are first taken from the photographs, and layer scales set to 0.5: a network as
Keras initialises it lets its values fade to 1e-11, and ConvNeXt's branches count for a millionth.
Random weights carry noise on more than trained ones do: the limits are low, and still far over what
a fault leaves. Exit status 1: a network failed, or is below a limit.
"""

import argparse
import contextlib
import gc
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from overhead import load

PHOTOGRAPHS = 8
LIMITS = {"fp32": 60.0, "fp16": 25.0, "int8": 3.0}  # dB; broken scales leave about 1
BROKEN = 8  # by which --break-scales divides the scale of every activation
LAYER_SCALE = 0.5
SIDE = 128  # pixels: enough for every network, and a third of the time that 224 take
CASES = [("native", "native")]
CASES += [(engine, precision) for engine in ("onnxruntime", "tensorrt") for precision in LIMITS]


# ----------------------------------------------------------------------------------------- networks


def application(name, side=SIDE):
    """One of tf.keras.applications without weights and without its softmax."""
    import tensorflow as tf

    make = getattr(tf.keras.applications, name)
    return make(weights=None, input_shape=(side, side, 3), classifier_activation=None)


def vision_transformer():
    """Patches, four blocks of attention and exact GELU, layer norm."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input((SIDE, SIDE, 3))
    x = layers.Reshape(((SIDE // 16) ** 2, 192))(layers.Conv2D(192, 16, 16)(inputs))
    for _ in range(4):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = layers.Add()([x, layers.MultiHeadAttention(3, 64)(y, y)])
        y = layers.Dense(768, activation="gelu")(layers.LayerNormalization(epsilon=1e-6)(x))
        x = layers.Add()([x, layers.Dense(192)(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(x))
    return tf.keras.Model(inputs, layers.Dense(1000)(x))


def u_net():
    """Resize, transposed convolution and concatenation; gives a map of classes."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input((128, 128, 3))

    def block(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    wide = block(inputs, 16)
    middle = block(layers.MaxPooling2D()(wide), 32)
    deep = block(layers.MaxPooling2D()(middle), 64)
    up = layers.UpSampling2D(2, interpolation="bilinear")(deep)
    up = block(layers.Concatenate()([up, middle]), 32)
    up = layers.Conv2DTranspose(16, 2, 2)(up)
    up = block(layers.Concatenate()([up, wide]), 16)
    return tf.keras.Model(inputs, layers.Conv2D(8, 1)(up))


def dynamic_resize():
    """tf.image.resize to a size that is computed: a Resize with `sizes`."""
    import tensorflow as tf

    layers, ops = tf.keras.layers, tf.keras.ops
    inputs = layers.Input((None, None, 3))
    x = layers.Conv2D(16, 3, 2, activation="relu")(inputs)
    x = layers.UpSampling2D(2)(x)
    x = layers.Conv2D(16, 3, activation="relu")(x)
    return tf.keras.Model(inputs, layers.Dense(10)(ops.mean(x, axis=(1, 2))))


def grouped():
    """Grouped convolutions, which Keras compiles by XLA in a function of their own."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(32, 7, 4, activation="relu")(inputs)
    for stride in (1, 2, 1):
        y = layers.Conv2D(32, 3, stride, padding="same", groups=8)(x)
        x = layers.ReLU()(layers.BatchNormalization()(y))
    x = layers.Conv2D(32, 3, padding="same", groups=32, dilation_rate=2)(x)
    return tf.keras.Model(inputs, layers.Dense(100)(layers.GlobalAveragePooling2D()(x)))


def mixed_float16():
    """ResNet-50 under Keras's policy mixed_float16."""
    import tensorflow as tf

    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    body = tf.keras.applications.ResNet50(
        weights=None, input_shape=(SIDE, SIDE, 3), include_top=False, pooling="avg"
    )
    tf.keras.mixed_precision.set_global_policy("float32")
    return tf.keras.Model(body.input, tf.keras.layers.Dense(1000)(body.output))


def one_channel():
    """A grey image in."""
    import tensorflow as tf

    layers = tf.keras.layers
    inputs = layers.Input((64, 64, 1))
    x = layers.Conv2D(16, 5, 2, activation="relu")(inputs)
    x = layers.DepthwiseConv2D(3, activation="relu")(x)
    return tf.keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


SHAPES = {
    "vision_transformer": vision_transformer,
    "u_net": u_net,
    "dynamic_resize": dynamic_resize,
    "grouped": grouped,
    "mixed_float16": mixed_float16,
    "one_channel": one_channel,
}
FIRST = (
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "ConvNeXtTiny",
    "ResNet50V2",
    "ResNet50",
)
FIRST += ("DenseNet121", "InceptionV3", "NASNetMobile", "Xception", "EfficientNetV2B0", "MobileNet")
LAST = (
    "EfficientNetB7",
    "NASNetLarge",
    "ConvNeXtBase",
    "EfficientNetV2L",
    "ConvNeXtLarge",
    "ConvNeXtXLarge",
)


def every_network():
    """Names: the shapes, one application of each family, and the others with the largest at the
    end.
    """
    import tensorflow as tf

    applications = tf.keras.applications
    known = [name for name in dir(applications) if inspect.isfunction(getattr(applications, name))]
    others = [name for name in known if name not in (*FIRST, *LAST)]
    return [*SHAPES, *FIRST, *others, *LAST]


def make_alive(model, batch):
    """Gives batch norm a scale from these images, and layer scales a value that counts.

    A batch norm divides by the root mean square and takes no mean: one that centres what random
    weights made almost the same for all images blows up every difference, and with it all noise.
    """
    import tensorflow as tf

    def moments(values, _):
        axes = list(range(len(values.shape) - 1))
        square = tf.reduce_mean(tf.cast(values, tf.float32) ** 2, axes)
        return tf.zeros_like(square), square

    norms = [layer for layer in model.layers if hasattr(layer, "moving_variance")]
    for layer in norms:
        layer.momentum = 0.0
        layer._moments = moments
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, LAYER_SCALE))
    if norms:
        model(batch, training=True)
    for layer in norms:
        del layer._moments


def scales_itself(model):
    """Whether the model begins with layers that take pixels of 0 to 255."""
    return any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in model.layers[:4])


# -------------------------------------------------------------------------------------- one network


def examine(name, photographs, break_scales):
    """Everything that is known of a network, as a record; runs in a process of its own."""
    import tensorflow as tf

    start = time.perf_counter()
    bench = load()
    tf.keras.utils.set_random_seed(0)
    model = SHAPES[name]() if name in SHAPES else application(name)
    with tempfile.TemporaryDirectory(prefix="networks_") as folder:
        record = {"network": name, "millions": round(model.count_params() / 1e6, 1)}
        path = Path(folder) / f"{name}.keras"
        preprocessing = "none" if scales_itself(model) else "inception"
        shape = tuple(side or SIDE for side in model.input_shape[1:])
        images = [bench.read_image(file, shape) for file in sorted(photographs)[:PHOTOGRAPHS]]
        pixels = np.stack(images)
        make_alive(model, fed(bench, pixels, len(images), preprocessing, "NHWC"))
        model.save(path)
        del model
        tf.keras.backend.clear_session()
        gc.collect()
        record |= run_program(bench, path, photographs, preprocessing)
        if break_scales:
            break_file(Path(folder) / f"onnxruntime_int8_{record['graph']}.onnx")
        record["snr"] = agreement(bench, Path(folder), record, pixels, preprocessing)
    record["seconds"] = round(time.perf_counter() - start)
    return record


def run_program(bench, path, photographs, preprocessing):
    """tensorrt.py over all cases: the status, coverage and size of each."""
    words = [
        sys.executable,
        str(Path(bench.__file__)),
        f"--keras_model={path}",
        f"--output_dir={path.parent}",
        f"--image_dir={photographs[0].parent}",
        f"--calibration_dir={photographs[0].parent}",
        f"--num_calibration_images={PHOTOGRAPHS}",
        f"--preprocessing={preprocessing}",
        *("--native", "--fp32", "--fp16", "--int8", "--engine=onnxruntime,tensorrt"),
        *("--batch_size=2", "--num_loops=2", "--num_warmup=0", "--rounds=1"),
    ]
    # A process for each case: in one, the largest networks need 24 GB and more.
    subprocess.run(words, stdout=sys.stderr, check=False)
    results = (path.parent / "results.jsonl").read_text().splitlines()
    cases = {}
    for record in map(json.loads, results):
        artifact = record["artifact"] or {}
        proof = artifact.get("proof", {})
        cases[f"{record['engine']} {record['precision']}"] = {
            "status": record["status"],
            "error": record["error"],
            "bytes": artifact.get("bytes"),
            "coverage": proof.get("share_of_nodes"),
        }
        graph = record["graph"]
        found = {
            "graph": Path(graph["name"]).stem,
            "nodes": graph,
            "half_share": graph["half_share"],
        }
    return {**found, "cases": cases}


def fed(bench, pixels, size, preprocessing, layout):
    """The first `size` images [n, height, width, channels] as a graph takes them."""
    names = list(map(str, range(len(pixels))))
    images = bench.Images({"x": pixels}, names, preprocessing=preprocessing, layout=layout)
    return images.batch(size)["x"]


def agreement(bench, folder, record, pixels, preprocessing):
    """The signal-to-noise ratio in dB of every ONNX graph that tensorrt.py wrote."""
    config = bench.parse_flags(["tensorrt.py"])
    graph = record.pop("nodes")
    frozen = folder / f"{record['graph']}.pb"
    layout, size = graph["layout"], graph["inputs"][0]["shape"][0] or 1
    batches = [
        fed(bench, pixels[first:], size, preprocessing, layout)
        for first in range(0, len(pixels), size)
    ]
    bench.import_tensorflow(config)
    native = run_native(bench, frozen, graph, batches)
    found = {}
    for path in sorted(folder.glob("*.onnx")):
        engine, precision, _ = path.name.split("_", 2)
        if record["graph"] not in path.stem:
            continue
        # ONNX Runtime need not know what was written for TensorRT
        with contextlib.suppress(Exception):
            outputs = run_onnx(path, batches, exactly=engine == "tensorrt")
            found[f"{engine} {precision}"] = round(signal_to_noise(native, outputs), 1)
    return found


def run_native(bench, path, graph, batches):
    """The outputs of the frozen graph in TensorFlow, float32 [images, values]."""
    import tensorflow as tf

    graph_def = bench.parse_graph_def(path.read_bytes())
    wrapped = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph_def, name=""), []
    )
    step = wrapped.prune(graph["inputs"][0]["name"], graph["outputs"][0]["name"])
    outputs = [step(tf.constant(batch)).numpy().reshape(len(batch), -1) for batch in batches]
    return np.concatenate(outputs)


def run_onnx(path, batches, exactly):
    """The outputs of an ONNX file in ONNX Runtime; `exactly`: every Q and DQ computed as
    it stands.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if exactly:
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: batch})[0].reshape(len(batch), -1) for batch in batches]
    return np.concatenate(outputs)


def signal_to_noise(native, outputs):
    """dB over all outputs of all images."""
    native, outputs = native.astype(np.float64), outputs.astype(np.float64)
    noise = max(np.sum((native - outputs) ** 2), np.finfo(float).tiny)
    return float(10 * np.log10(np.sum(native**2) / noise))


def break_file(path):
    """Divides the scale of every activation in a Q/DQ graph, so that it clips."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) / BROKEN, tensor.name)
            )
    onnx.save(model, str(path))


# ----------------------------------------------------------------------------------------- verdicts


def faults(record):
    """What is wrong with a network, in short sentences."""
    found = [f"does not run: {record['error']}"] if "error" in record else []
    for case, facts in record.get("cases", {}).items():
        if facts["status"] == "failed":
            found.append(f"{case}: {facts['error']}")
    for case, decibels in record.get("snr", {}).items():
        precision = case.split()[1]
        if record.get("half_share") and precision == "fp32":
            precision = "fp16"  # native itself computes in float16
        limit = LIMITS[precision]
        if not decibels >= limit:
            found.append(f"{case}: {decibels} dB is under the limit of {limit:.0f}")
    return found


def table(records):
    """The Markdown table of docs/networks.md."""
    lines = [
        "| network | million weights | FP32 dB | FP16 dB | INT8 dB, CPU | INT8 dB, TensorRT's "
        "graph | INT8 coverage | plans, MB (FP32, FP16, INT8) | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        snr, cases = record.get("snr", {}), record.get("cases", {})
        keys = ("onnxruntime fp32", "onnxruntime fp16", "onnxruntime int8", "tensorrt int8")
        cells = [str(snr.get(key, "-")) for key in keys]
        coverage = cases.get("onnxruntime int8", {}).get("coverage")
        plans = [cases.get(f"tensorrt {precision}", {}).get("bytes") for precision in LIMITS]
        sizes = ", ".join(f"{size / 1e6:.0f}" if size else "-" for size in plans)
        share = "-" if coverage is None else f"{coverage:.0%}"
        verdict = "; ".join(faults(record)) or "all run"
        row = [record["network"], str(record.get("millions", "-")), *cells, share, sizes, verdict]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def read(path):
    """The records of a file by network, the newest of each."""
    if not path or not path.exists():
        return {}
    return {record["network"]: record for record in map(json.loads, path.read_text().splitlines())}


def run_apart(name, arguments):
    """A network's record from a process of its own; one that dies is a record too."""
    words = [sys.executable, __file__, str(arguments.photographs), "--one", name]
    words += ["--break-scales"] * arguments.break_scales
    ran = subprocess.run(words, capture_output=True, text=True)
    try:
        return json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (ran.stderr.strip().splitlines() or [""])[-1]
        return {
            "network": name,
            "error": f"process ended with status {ran.returncode}: {last[:300]}",
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", nargs="?", type=Path, help="a folder of photographs")
    parser.add_argument("networks", nargs="*", help="default: all")
    parser.add_argument(
        "--results", type=Path, help="file of records: what it holds is not run again"
    )
    parser.add_argument(
        "--break-scales", action="store_true", help="divide INT8's scales: must be caught"
    )
    parser.add_argument("--table", action="store_true", help="print the table of --results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.table:
        print(table(read(arguments.results).values()))
        return 0
    if arguments.one:
        files = [
            path
            for path in arguments.photographs.iterdir()
            if path.suffix in (".jpg", ".png", ".bmp")
        ]
        print(json.dumps(examine(arguments.one, sorted(files), arguments.break_scales)))
        return 0
    recorded, bad = read(arguments.results), 0
    for name in arguments.networks or every_network():
        record = recorded.get(name) or run_apart(name, arguments)
        if name not in recorded and arguments.results:
            with open(arguments.results, "a") as file:
                file.write(json.dumps(record) + "\n")
        wrong = faults(record)
        bad += bool(wrong)
        print(
            f"{name}: {'; '.join(wrong) or record['snr']}, {record.get('seconds', '-')} s",
            flush=True,
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
