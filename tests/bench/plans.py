"""How fast a real TensorRT runs this program's graphs, how many bytes they move, and what has
another type.

    python tests/bench/plans.py --networks=ResNet50V2,MobileNetV2 --batch_size=1,8,128 [--seconds=9]
    python tests/bench/plans.py --networks=ResNet50V2 --level=5 --norms

For each Keras network (random weights), precision and batch size: images/s waited for and enqueued,
the activations that the plan's layers read and write by the engine inspector, the kinds of layers
that take most of the time by TensorRT's profiler, and the convolutions and matrix products that do
not have the precision, or that have it and give float32; not those that precision.py keeps in
float32, and not the network's own outputs. What plans.jsonl in --output_dir holds already,
whichever TensorRT it is of, is not measured again; no plan is begun after --seconds.
What the program could do and does not: --level sets builder_optimization_level (8.6 and later),
--norms writes batch norms as depthwise convolutions for every TensorRT and precision, not in 8.6's
FP32 and FP16 alone. We have not run these two on a GPU, but --norms' graphs by another script.
"""

import argparse
import collections
import json
import math
import os
import re
import statistics
import sys
import time
from pathlib import Path

from overhead import load

BYTES = {
    "fp32": 4,
    "float": 4,
    "int32": 4,
    "fp16": 2,
    "half": 2,
    "bfloat16": 2,
    "int8": 1,
    "fp8": 1,
    "bool": 1,
}
LOOP_SECONDS = 1.5
PROFILED = 30  # steps
MOST_KINDS = 5  # that are printed


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="ResNet50,ResNet50V2,MobileNetV2,EfficientNetB0")
    parser.add_argument("--precisions", default="fp32,fp16,int8")
    parser.add_argument("--batch_size", default="1,8,128")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--level", type=int, choices=range(6))
    parser.add_argument("--norms", action="store_true")
    parser.add_argument("--output_dir", default="/tmp/plans")
    given, flags = parser.parse_known_args()
    bench = load()
    if given.level is not None:
        set_level(bench, given.level)
    folder = Path(given.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "plans.jsonl"
    done = {question(row) for row in read_rows(listing)}
    until = time.monotonic() + given.seconds
    sizes = [int(size) for size in given.batch_size.split(",")]
    for network in given.networks.split(","):
        kinds = given.precisions.split(",")
        asked = [(variant(network, given), kind, size) for size in sizes for kind in kinds]
        if set(asked) <= done or time.monotonic() > until:
            continue
        onnx = prepare(bench, network, folder, flags)
        if given.norms:
            rewrite_norms(bench, onnx)
        for name, precision, size in asked:
            if (name, precision, size) in done or time.monotonic() > until:
                continue
            row = measure(bench, onnx, bench.Case("tensorrt", precision, size))
            row |= {"network": name, "precision": precision, "batch_size": size}
            bench.append(listing, json.dumps(row) + "\n")
            print(sentence(row), flush=True)
    print(f"{bench.device_name(bench.parse_flags(['tensorrt.py']))}, load {os.getloadavg()[0]:.1f}")


def variant(network, given):
    """A network's name, with what was changed about its plans."""
    level = "" if given.level is None else f" L{given.level}"
    return network + level + " norms" * given.norms


def set_level(bench, level):
    """Has every builder's configuration this optimisation level."""
    plain = bench.builder_config

    def configured(*args):
        config = plain(*args)
        config.builder_optimization_level = level
        return config

    bench.builder_config = configured


def rewrite_norms(bench, onnx):
    """Puts the network without batch norms in the place of every precision's source."""
    from onnx import shape_inference

    model = bench.precision_py().norms_as_convolutions(onnx.precisions.folded)
    kept = onnx.precisions.__dict__  # of its cached properties
    kept["exported"] = kept["folded"] = shape_inference.infer_shapes(model)


def question(row):
    return row["network"], row["precision"], row["batch_size"]


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def prepare(bench, network, folder, flags):
    """The program's ONNX maker for a Keras network, frozen once."""
    import tensorflow as tf

    model = folder / f"{network}.keras"
    if not model.exists():
        tf.keras.utils.set_random_seed(0)
        untrained = getattr(tf.keras.applications, network)(weights=None)
        bench.spread_batch_norms(untrained, seed=0)
        untrained.save(model)
    given = [
        f"--keras_model={model}",
        "--preprocessing=inception",
        "--noisolate",
        f"--output_dir={folder}",
    ]
    config = bench.parse_flags(["tensorrt.py", *given, *flags])
    graph = bench.load_graph(config)
    return bench.Onnx(config, graph, bench.load_images(config, graph, 16))


def measure(bench, onnx, case):
    """One plan, built and timed; an error is a row too."""
    engine = bench.ENGINES["tensorrt"]
    try:
        job = bench.Job(case, onnx.config, onnx.graph, onnx.samples, onnx.write(case))
        start = time.perf_counter()
        artifact = engine.build(job)
        seconds = time.perf_counter() - start
        runner = engine.open(job, artifact, job.batch())
    except bench.UserError as error:
        return {"engine": engine.version(), "error": str(error)}
    layers = bench.read_inspector(Path(artifact.path).with_suffix(".json").read_text())
    waited, enqueued = speeds(bench, runner, case.batch_size)
    kept = bench.precision_py().kept_in_float32(Path(job.source.path).read_bytes())
    facts = {
        "engine": engine.version(),
        "build_seconds": seconds,
        "waited": waited,
        "enqueued": enqueued,
    }
    seconds_of = layer_seconds(engine.module(), runner)
    facts |= {
        "traffic_mb": traffic(layers) / 1e6,
        "layers": len(layers),
        "kinds": kinds_of(layers, seconds_of),
        "proof": artifact.facts | runner.facts,
    }
    others = other_types(bench, layers, case.precision, set(kept), set(onnx.graph.output_names))
    return facts | {"other_types": others}


def speeds(bench, runner, size):
    """Images/s of steps that are each waited for, and of steps that are enqueued and waited for
    once.
    """

    def waited():
        runner.enqueue()
        runner.sync()

    def enqueued(count):
        bench.repeat(runner.enqueue, count)
        runner.sync()

    (one,) = bench.time_steps(waited, 1)
    count = max(10, int(LOOP_SECONDS / max(one, 1e-4)))
    bench.repeat(waited, count // 4)
    each = sorted(bench.time_steps(waited, count))[count // 2]
    (total,) = bench.time_steps(lambda: enqueued(count), 1)
    return size / each, size * count / total


def layer_seconds(trt, runner):
    """Seconds of each layer of a plan by its name: the median of PROFILED steps."""
    times = collections.defaultdict(list)

    class Profiler(trt.IProfiler):
        def __init__(self):
            super().__init__()

        def report_layer_time(self, layer_name, ms):
            times[layer_name].append(ms / 1e3)

    profiler = Profiler()  # the context does not keep it
    runner.context.profiler = profiler
    for _ in range(PROFILED):
        runner.launch(runner.slots[0], runner.stream)  # not its CUDA graph, which tells nothing
        runner.sync()
    return {name: statistics.median(found) for name, found in times.items()}


def kinds_of(layers, seconds):
    """By kind of layer, the slowest first: how many there are, their seconds and their bytes.

    Args:
      seconds: of each layer by its name; one of which nothing is told takes none.
    """
    found = collections.defaultdict(lambda: {"layers": 0, "seconds": 0.0, "bytes": 0})
    for layer in layers:
        kind = found[str(layer.get("LayerType"))]
        kind["layers"] += 1
        kind["seconds"] += seconds.get(layer.get("Name"), 0.0)
        kind["bytes"] += traffic([layer])
    return dict(sorted(found.items(), key=lambda item: -item[1]["seconds"]))


def traffic(layers):
    """Bytes of activations that the layers read and write, by their dimensions and types.

    A NoOp, as TensorRT names a change of layout that is none, moves nothing.
    """
    total = 0
    for layer in layers:
        if layer.get("LayerType") == "NoOp":
            continue
        for tensor in (*layer.get("Inputs", []), *layer.get("Outputs", [])):
            words = type_of(tensor).lower()
            size = next((size for word, size in BYTES.items() if word in words), 4)
            total += size * math.prod(tensor.get("Dimensions", [0]))
    return total


def type_of(tensor):
    """How the inspector words a tensor's type, by its version in one of two places, or ""."""
    keys = ("Datatype", "Format/Datatype")
    return next((str(tensor[key]) for key in keys if tensor.get(key)), "")


def other_types(bench, layers, precision, kept, outputs):
    """How often a heavy layer reads which other type than the precision, or has it and gives
    float32.

    Args:
      kept: names of the nodes that stay in float32 on purpose: their layers are left out.
      outputs: names of the graph's outputs, which may be float32.
    """
    float32 = re.compile(bench.TYPE_WORDS["fp32"], re.I)
    own = outputs | renamed(layers, outputs)
    found = collections.Counter()
    for layer in layers:
        heavy = bench.HEAVY_LAYERS.search(str(layer.get("LayerType")))
        if not heavy or kept & nodes_of(layer):
            continue
        name = layer.get("Name", "")[:60]
        if bench.plan_share([layer], precision).get("executed_share_of_nodes") != 1:
            found[f"{name}: reads {bench.input_type(layer)}"] += 1
        elif precision != "fp32":
            given = [type_of(out) for out in layer.get("Outputs", []) if out.get("Name") not in own]
            found.update(f"{name}: gives {words}" for words in given if float32.search(words))
    return found


def renamed(layers, outputs):
    """Names of the tensors that a NoOp only gives another shape to make them an output."""
    found = set()
    for layer in reversed(layers):
        given = {tensor.get("Name") for tensor in layer.get("Outputs", [])}
        if layer.get("LayerType") == "NoOp" and given & (outputs | found):
            found |= {tensor.get("Name") for tensor in layer.get("Inputs", [])}
    return found


def nodes_of(layer):
    """Names of the ONNX nodes that TensorRT made a layer of."""
    names = re.split(r" \+ | \|\| ", layer.get("Name", ""))
    return {*names, *re.findall(r"ONNX Layer: ([^\]]+)\]", layer.get("Metadata", ""))}


def sentence(row):
    what = f"{row['network']:24}{row['precision']:5}{row['batch_size']:4}  {row['engine']}"
    if "error" in row:
        return f"{what}  {row['error']}"
    step = 1e3 * row["batch_size"] / row["waited"]
    return (
        f"{what}  {row['waited']:9,.0f} images/s waited ({step:.2f} ms), {row['enqueued']:9,.0f} "
        f"enqueued, {row['traffic_mb']:7,.0f} MB in {row['layers']} layers, built in "
        f"{row['build_seconds']:.0f} s" + "".join(f"\n    {line}" for line in details(row))
    )


def details(row):
    """What took most of the time, and what has another type, a line each."""
    for kind, told in list(row["kinds"].items())[:MOST_KINDS]:
        rate = told["bytes"] / 1e12 / max(told["seconds"], 1e-9)
        yield (
            f"{told['layers']:3} {kind:20} {1e3 * told['seconds']:7.3f} ms, "
            f"{told['bytes'] / 1e6:6,.0f} MB at {rate:.1f} TB/s"
        )
    for name, count in row["other_types"].items():
        yield f"not {row['precision']}: {name} ({count})"


if __name__ == "__main__":
    sys.exit(main())
