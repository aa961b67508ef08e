"""Writes a precision into an ONNX graph, and proves what of the graph has it.

    graph = Precisions(graph_def, ["input:0"], ["softmax:0"], opset=17)
    model, coverage = graph.fp16(samples)

Export, folding, calibration, FP16, INT8, coverage. In: the bytes of a frozen GraphDef, the names of
its inputs and outputs, samples (dicts of arrays by input name), settings, and a function that shows
progress. Out: an ONNX model, and which share of it really has the precision. What cannot be done is
a PrecisionError of one line.

This module knows nothing of flags, engines, records or terminals. TensorFlow, ONNX and ONNX Runtime
are imported inside the functions that need them.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import dataclasses
import functools
import io
import json
import logging
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Sample = dict[str, np.ndarray]  # one step's arrays by the names of the inputs
Ranges = dict[str, tuple[float, float]]  # lowest and highest value of a tensor, by its name
Progress = Callable[[str, int], contextlib.AbstractContextManager[Callable[[], Any]]]

# ONNX Runtime's that change what a graph computes: up to 1.31 this one takes a MaxPool behind zeros
# for a MaxPool that has pads, in which padding counts for less than any number. What it does right
# spell_pads does.
WRONG_OPTIMIZERS = ["Pad_Fusion"]
# Where the arithmetic is; they judge a precision.
HEAVY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
RECURRENT = ("LSTM", "GRU", "RNN")  # matrix products step by step, which nothing here quantises
# A HardSigmoid is none: quantised in front of it, MobileNetV3 is 1.7 dB nearer to native.
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu", "PRelu")
INT8_KERNELS = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "MatMulInteger",
)
FP16_MAX = 65504.0  # largest finite float16 (IEEE 754 binary16)
PERCENTILE = 99.999  # of a tensor's absolute values, as in ONNX Runtime
HISTOGRAM_BINS = 4096  # at least 2048 of them, as TensorRT has, over the values that there are
SMALLEST_TOP = 1e-30  # of a histogram; smaller values are nothing to int8, and their bins to NumPy
ENTROPY_BINS = 512  # ONNX Runtime's 128 can choose nothing; TensorRT's 2048 take minutes in Python


class PrecisionError(Exception):
    """A graph cannot be written at a precision; one line says why."""


class ExportError(PrecisionError):
    """A graph cannot be exported to ONNX; one line says why."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How INT8 is written.

    unsigned: INT8 with uint8 activations, quantised on both sides of a node, as ONNX Runtime's CPU
      kernels want them; else int8 with zero point 0 in front of a node, as TensorRT wants them.
    weight_bits: 7 where a CPU adds products of uint8 and int8 in 16 bits, else 8.
    half: INT8 with float16 instead of float32 for all that is not quantised.
    """

    unsigned: bool = False
    weight_bits: int = 8
    half: bool = False


@contextlib.contextmanager
def no_progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows no progress: for callers who do not want any."""
    yield lambda: None


FULL = 1 << 20  # bytes that are left on a disk which is full


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for files that are needed once.

    Raises:
      PrecisionError: the disk is full; ONNX Runtime says only that it cannot serialise a model.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        except Exception as error:
            if shutil.disk_usage(folder).free > FULL:
                raise
            where = tempfile.gettempdir()
            remedy = "free some space, or set TMPDIR to another folder"
            raise PrecisionError(f"the disk is full ({where}): {remedy}") from error


def consumers(graph: Any) -> dict[str, list[Any]]:
    """The nodes that read each tensor."""
    found = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def nested_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of an ONNX graph and of the graphs inside its loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nested_nodes(attribute.g)


def replace_nodes(graph: Any, nodes: tuple[Any, ...], new: Any) -> None:
    """Takes nodes out of a graph, and puts another in the place of the first."""
    index = list(graph.node).index(nodes[0])
    for node in nodes:
        graph.node.remove(node)
    graph.node.insert(index, new)


def read_inside(graph: Any) -> set[str]:
    """Names that the graphs inside loops and branches read, of tensors outside as well."""
    inner = [given.g for node in graph.node for given in node.attribute if given.HasField("g")]
    return {name for one in inner for node in nested_nodes(one) for name in node.input}


def chains(graph: Any, ops: tuple[str, ...]) -> list[list[Any]]:
    """Nodes of these ops, each of which alone reads what the one before gives."""
    readers = consumers(graph)
    elsewhere = {value.name for value in graph.output} | read_inside(graph)
    found = []
    for node in graph.node:
        chain = [node]
        while len(chain) < len(ops):
            name = chain[-1].output[0]
            if len(readers[name]) != 1 or name in elsewhere:
                break
            chain += readers[name]
        if tuple(one.op_type for one in chain) == ops:
            found.append(chain)
    return found


# ----------------------------------------------------------------------------------------- export


def export(graph_def: bytes, inputs: list[str], outputs: list[str], opset: int) -> Any:
    """A frozen graph as an ONNX model in float32, with the graph's own input and output names.

    Raises:
      ExportError: an op that ONNX has no counterpart for, named with its node.
    """
    import onnx

    logging.disable(logging.ERROR)  # tf2onnx reports to a logger what is said below in one line
    try:
        with contextlib.redirect_stdout(io.StringIO()), fresh_protos():
            model = convert(graph_def, inputs, outputs, opset)
        refuse_unknown(model)
        name_open_axes(model.graph)
        spell_upsampling(model.graph)
        spell_pads(model)
        onnx.checker.check_model(model)
        return model
    except ExportError:
        raise
    except Exception as error:  # tf2onnx raises what its handlers happen to raise
        raise ExportError(f"no ONNX export of this graph ({first_line(error)})") from error
    finally:
        logging.disable(logging.NOTSET)


def open_axis(name: str, axis: int) -> str:
    """What an open axis of an input is called in the ONNX model."""
    return f"{name}[{axis}]"


def name_open_axes(graph: Any) -> None:
    """Names each open axis of an input, by which a session can be told its size."""
    for value in graph.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if not size.HasField("dim_value"):
                size.dim_param = open_axis(value.name, axis)


def spell_upsampling(graph: Any) -> None:
    """Writes the nearest neighbour of a whole factor k as floor(x / k), which TensorRT 8.5 takes.

    tf2onnx writes floor((x + 0.5) / k), which for whole k is the same number.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) != 3 or node.input[2] not in constants:
            continue
        given = {attribute.name: attribute for attribute in node.attribute}
        words = {name: attribute.s for name, attribute in given.items()}
        factors = numpy_helper.to_array(constants[node.input[2]])
        if words.items() >= NEAREST_OF_HALVES.items() and np.all(factors % 1 == 0):
            given["coordinate_transformation_mode"].s = b"asymmetric"


# Resize's attributes, where tf2onnx writes TensorFlow's ResizeNearestNeighbor.
NEAREST_OF_HALVES = {
    "mode": b"nearest",
    "coordinate_transformation_mode": b"tf_half_pixel_for_nn",
    "nearest_mode": b"floor",
}


def spell_pads(model: Any) -> None:
    """Writes the zeros that a Pad puts around an image as pads of what alone reads them.

    A convolution's own are zeros. A MaxPool's count for nothing, but zeros for more than all that
    is negative: where a window meets the border, its maximum is one with 0. ONNX Runtime up to 1.31
    takes the one for the other (WRONG_OPTIMIZERS), and so ResNet-50 v2 for another network;
    TensorRT 8.6 writes the zeros in a layer of their own, for which it reformats.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for pad, convolution in chains(model.graph, ("Pad", "Conv")):
        pads = zeros_around(pad, constants)
        plain = attributes_of(convolution).get("auto_pad", b"VALID") in UNPADDED
        if pads and plain and convolution.input[0] == pad.output[0]:  # and not its weights
            widen_pads(convolution, pad, pads)
            model.graph.node.remove(pad)
    for pad, pool in chains(model.graph, ("Pad", "AveragePool")):
        pads = zeros_around(pad, constants)
        if pads and takes_pads(pool, pads):
            widen_pads(pool, pad, pads, count_include_pad=1)
            model.graph.node.remove(pad)
    found = []
    for pad, pool in chains(model.graph, ("Pad", "MaxPool")):
        pads = zeros_around(pad, constants)
        if pads and takes_pads(pool, pads):
            found.append((pad, pool, pads))
    pad_pools(model, found)


def pad_pools(model: Any, found: list[tuple[Any, Any, list[int]]]) -> None:
    """Gives MaxPools the pads of the Pads before them, where the border of zeros can be written."""
    sizes = sizes_of(model) if found else {}
    positive = {name for one in model.graph.node if one.op_type == "Relu" for name in one.output}
    for pad, pool, pads in found:
        size = sizes.get(pad.input[0], [])[2:]
        if pad.input[0] in positive:  # and the maximum is one with 0 already
            move_pads(model.graph, pad, pool, pads, [])
        elif size and all(size):
            move_pads(model.graph, pad, pool, pads, size)


def widen_pads(node: Any, pad: Any, pads: list[int], **words: int) -> None:
    """Has a node read what a Pad reads, with these zeros around it and its own."""
    from onnx import helper

    given = attributes_of(node)
    given.pop("auto_pad", None)
    own = given.get("pads", [0] * len(pads))
    given |= {"pads": [one + other for one, other in zip(own, pads)], **words}
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(*item) for item in given.items())
    node.input[0] = pad.input[0]


def zeros_around(pad: Any, constants: dict[str, Any]) -> list[int]:
    """How many zeros a Pad puts before each axis but the first two, then behind; else []."""
    from onnx import numpy_helper

    names = [name for name in pad.input[1:] if name]
    mode = attributes_of(pad).get("mode", b"constant")
    if mode != b"constant" or len(pad.input) > 3 or not constants.keys() >= set(names):
        return []
    pads, *value = [numpy_helper.to_array(constants[name]) for name in names]
    before, behind = np.split(pads, 2)
    if np.any(value) or before[:2].any() or behind[:2].any() or pads.min() < 0:
        return []
    return [*before[2:].tolist(), *behind[2:].tolist()]


def takes_pads(pool: Any, pads: list[int]) -> bool:
    """Whether a MaxPool has none of its own and can have these: ONNX wants them under its sides."""
    given = attributes_of(pool)
    plain = not any(given.get("pads", [])) and given.get("auto_pad", b"VALID") in UNPADDED
    dense = set(given.get("dilations", [1])) == {1} and not given.get("ceil_mode")
    fits = all(pad < side for pad, side in zip(pads, 2 * given["kernel_shape"]))
    return plain and dense and fits and len(pool.output) == 1


UNPADDED = (b"NOTSET", b"VALID")  # values of auto_pad


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by their names."""
    from onnx import helper

    return {given.name: helper.get_attribute_value(given) for given in node.attribute}


def sizes_of(model: Any) -> dict[str, list[int]]:
    """The shape of each tensor of float32, as far as it can be told, with 0 for an open axis."""
    from onnx import TensorProto, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    return {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def move_pads(graph: Any, pad: Any, pool: Any, pads: list[int], size: list[int]) -> None:
    """Gives a MaxPool the pads of the Pad before it, and writes the maximum with 0 behind it.

    Args:
      size: the height and width that are pooled; [] for no maximum.
    """
    from onnx import helper, numpy_helper

    given = attributes_of(pool)
    kernel = given["kernel_shape"]
    strides = given.get("strides", [1] * len(kernel))
    name = pool.output[0]
    inner = f"{name}/inner" if size else name
    sides = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    padded = helper.make_node("MaxPool", [pad.input[0]], [inner], pool.name, **sides)
    replace_nodes(graph, (pad, pool), padded)
    if size:
        border = border_of(size, pads, kernel, strides)
        graph.initializer.append(numpy_helper.from_array(border, f"{name}/border"))
        highest = helper.make_node("Max", [inner, f"{name}/border"], [name], f"{pool.name}/border")
        graph.node.insert(list(graph.node).index(padded) + 1, highest)


def border_of(
    size: list[int], pads: list[int], kernel: list[int], strides: list[int]
) -> np.ndarray:
    """What a MaxPool makes of zeros around the lowest of numbers: float32 [1, 1, outputs...]."""
    around = list(zip(pads[: len(size)], pads[len(size) :]))
    bordered = np.pad(np.full(size, -np.inf, np.float32), around)
    windows = np.lib.stride_tricks.sliding_window_view(bordered, kernel)
    windows = windows[tuple(slice(None, None, step) for step in strides)]
    return windows.max(axis=tuple(range(-len(size), 0)))[None, None]


def borders_of(graph: Any) -> dict[str, str]:
    """What maxima with a border of zeros (spell_pads) give, and which MaxPool they read."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    pooled = {node.output[0] for node in graph.node if node.op_type == "MaxPool"}
    found = {}
    for node in graph.node:
        if node.op_type != "Max" or len(node.input) != 2 or node.input[0] not in pooled:
            continue
        border = constants.get(node.input[1])
        if not border or list(border.dims[:2]) != [1, 1]:
            continue
        if np.isin(numpy_helper.to_array(border), (0, -np.inf)).all():
            found[node.output[0]] = node.input[0]
    return found


@contextlib.contextmanager
def fresh_protos() -> Iterator[None]:
    """Has tf2onnx write each node into a new message when it writes it anew, and no constant.

    It clears the old one, whose memory protobuf keeps, after each of two dozen optimisers: without
    this an export takes thirty times the size of the graph. What it makes a model of are constants'
    attributes, never their messages.
    """
    from onnx import NodeProto
    from tf2onnx.graph import Node

    write = Node.update_proto

    def write_anew(node: Any, *rest: Any) -> None:
        """Takes the place of update_proto; a constant's message is not needed."""
        if node.is_const():
            return
        old = node._op
        node._op = NodeProto(name=old.name, op_type=old.op_type, domain=old.domain)
        write(node, *rest)

    Node.update_proto = write_anew
    try:
        yield
    finally:
        Node.update_proto = write


def convert(graph_def: bytes, inputs: list[str], outputs: list[str], opset: int) -> Any:
    """tf2onnx's export of the graph with its function calls inlined and all its numbers in float32.

    The first try is a fast one, in which an optimiser of tf2onnx that fails fails the export. The
    second copies the whole model before each optimiser, and goes without those that fail.
    """
    from tf2onnx.tf_utils import compress_graph_def

    teach_erfc()
    graph = optimized(graph_def, inputs, outputs)
    constants = compress_graph_def(graph)  # tf2onnx's, for TensorFlow not to copy them
    try:
        return converted(graph, constants, inputs, outputs, opset, catch_errors=False)
    except Exception:  # whatever the optimiser raised; a handler's error is raised again below
        return converted(graph, constants, inputs, outputs, opset, catch_errors=True)


def optimized(graph_def: bytes, inputs: list[str], outputs: list[str]) -> Any:
    """The GraphDef in float32, its functions inlined and its constants folded by grappler."""
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2
    from tf2onnx import tf_loader

    graph = graph_pb2.GraphDef.FromString(graph_def)
    allow_inlining(graph)
    make_float32(graph)
    with tf.device("/cpu:0"), tf.Graph().as_default():
        return tf_loader.tf_optimize(inputs, outputs, graph)


def converted(
    graph: Any,
    constants: dict[str, bytes],
    inputs: list[str],
    outputs: list[str],
    opset: int,
    catch_errors: bool,
) -> Any:
    """tf2onnx's model of an optimised GraphDef.

    It is what tf2onnx.convert.from_graph_def does, but for TensorFlow's copies of the graph.
    """
    import tensorflow as tf
    from tf2onnx import utils
    from tf2onnx.optimizer import optimize_graph
    from tf2onnx.tfonnx import process_tf_graph

    utils.INTERNAL_NAME = 1  # from which it counts names: a kept calibration has some
    with tf.Graph().as_default() as whole:
        tf.graph_util.import_graph_def(graph, name="")
        made = process_tf_graph(
            whole,
            opset=opset,
            input_names=inputs,
            output_names=outputs,
            const_node_values=constants,
            continue_on_error=True,
        )
    made = optimize_graph(made, catch_errors)
    return made.make_model("converted by tensorrt.py")


def allow_inlining(graph: Any) -> None:
    """Removes from function calls what keeps grappler, which tf2onnx uses, from inlining them.

    Keras marks grouped convolutions to be compiled by XLA: TensorFlow has no CPU kernel for them.
    """
    for function in graph.library.function:
        for name in ("_XlaMustCompile", "_noinline"):
            function.attr.pop(name, None)
    for node in all_nodes(graph):
        node.attr.pop("_XlaMustCompile", None)


def make_float32(graph: Any) -> None:
    """Writes float32 for float16 and bfloat16 all over a GraphDef, as mixed precision has them.

    Before constants are folded, so that weights that are cast where they are used keep their bits.
    """
    from tensorflow.core.framework import types_pb2

    short = (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16)
    for node in all_nodes(graph):
        for attribute in node.attr.values():
            widen(attribute, short, types_pb2.DT_FLOAT)
    for function in graph.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type in short:
                argument.type = types_pb2.DT_FLOAT


def widen(attribute: Any, short: tuple[int, ...], wide: int) -> None:
    """Writes one type for others in an attribute of a node: its type, its types, its tensor."""
    import tensorflow as tf

    kind = attribute.WhichOneof("value")
    if kind == "type" and attribute.type in short:
        attribute.type = wide
    elif kind == "list":
        attribute.list.type[:] = [wide if each in short else each for each in attribute.list.type]
    elif kind == "tensor" and attribute.tensor.dtype in short:
        values = tf.make_ndarray(attribute.tensor).astype(np.float32)
        attribute.tensor.CopyFrom(tf.make_tensor_proto(values))


def all_nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a GraphDef and of its functions."""
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


@functools.cache
def teach_erfc() -> None:
    """Registers with tf2onnx how ONNX says Erfc, which exact GELU needs: 1 - Erf."""
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        """tf2onnx's handler: a class with a method for each opset from which it holds."""

        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            """Opset 9 is the first with Erf; the node's output keeps its name."""
            (output,) = node.output
            kind = ctx.get_dtype(output)
            shape = ctx.get_shape(output)
            one = np.array(1, utils.map_onnx_to_numpy_type(kind))
            constant = ctx.make_const(utils.make_name("erfc_one"), one)
            ctx.remove_node(node.name)
            erf = ctx.make_node("Erf", node.input, shapes=[shape], dtypes=[kind])
            terms = [constant.output[0], erf.output[0]]
            ctx.make_node("Sub", terms, outputs=[output], shapes=[shape], dtypes=[kind])


def refuse_unknown(model: Any) -> None:
    """Raises an ExportError that names, once each, the ops that tf2onnx left as they were."""
    import onnx

    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            found.setdefault(node.op_type, []).append(node.name)
    if found:
        ops = [named_once(op, names) for op, names in found.items()]
        raise ExportError(f"ONNX has no counterpart for {', '.join(ops)}")


def named_once(op: str, names: list[str]) -> str:
    """An op with its first node, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{op} ({names[0]}{more})"


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an error's text, or its class."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:limit].rstrip(" .:")


def fold(model: Any) -> Any:
    """ONNX Runtime's basic, still portable, optimisations: constants and batch norm folded."""
    import onnx
    import onnxruntime

    with scratch_folder() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(scratch / "folded.onnx")
        onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=WRONG_OPTIMIZERS,
        )
        folded = onnx.load(options.optimized_model_filepath)
    leave_out_empty(folded.graph)
    spell_hard_sigmoids(folded.graph)
    spell_pads(folded)  # those between Transposes that are gone now
    return onnx.shape_inference.infer_shapes(folded)


def leave_out_empty(graph: Any) -> None:
    """Leaves out the inputs of Resize that are empty constants, as ONNX lets one.

    tf2onnx writes one constant for `roi` and `scales`, of which only the first may be float16.
    """
    empty = {tensor.name for tensor in graph.initializer if math.prod(tensor.dims) == 0}
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = ["" if name in empty else name for name in node.input]


def spell_hard_sigmoids(graph: Any) -> None:
    """Writes relu6(x + 3) / 6, as TensorFlow has it, as ONNX's HardSigmoid.

    As a float16 constant 1/6 is 0.02 % too small, in every value alike. MobileNetV3 multiplies by
    it 28 times: such errors add up, where those of rounding average out. HardSigmoid's own factor
    stays float32.
    """
    from onnx import helper

    scalars = scalars_of(graph)
    for add, clip, scale in chains(graph, ("Add", "Clip", "Mul")):
        offset = scalar_in(add, scalars)
        slope = hard_sigmoid_slope(clip, scale, scalars)
        if offset is not None and slope is not None:
            tensor = [name for name in add.input if name not in scalars]
            gate = helper.make_node("HardSigmoid", tensor, scale.output, scale.name)
            factors = {"alpha": slope, "beta": slope * offset}  # max(0, min(1, alpha x + beta))
            gate.attribute.extend(helper.make_attribute(*factor) for factor in factors.items())
            replace_nodes(graph, (add, clip, scale), gate)


def hard_sigmoid_slope(clip: Any, scale: Any, scalars: dict[str, float]) -> float | None:
    """What a Mul multiplies by, if that brings a Clip between 0 and h to between 0 and 1."""
    if len(clip.input) < 3 or scalars.get(clip.input[1]) != 0:
        return None
    slope = scalar_in(scale, scalars)
    high = scalars.get(clip.input[2])
    if slope is None or high is None or not math.isclose(slope * high, 1, rel_tol=1e-6):
        return None
    return slope


def scalars_of(graph: Any) -> dict[str, float]:
    """The float constants of one number, by their names."""
    from onnx import TensorProto, numpy_helper

    floats = (tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT)
    single = (tensor for tensor in floats if math.prod(tensor.dims) == 1)
    return {tensor.name: numpy_helper.to_array(tensor).item() for tensor in single}


def scalar_in(node: Any, scalars: dict[str, float]) -> float | None:
    """The number that a node of two inputs adds or multiplies by, if one of them is a number."""
    found = [scalars[name] for name in node.input if name in scalars]
    return found[0] if len(found) == 1 else None


# ------------------------------------------------------------------------------------ calibration


class OneSample:
    """One sample as ONNX Runtime's CalibrationDataReader gives it: once, then None."""

    def __init__(self, sample: Sample) -> None:
        self.left = [sample]

    def get_next(self) -> Sample | None:
        """The sample, by the names of the inputs; None from the second call on."""
        return self.left.pop() if self.left else None


class Percentiles:
    """The percentile of each tensor's absolute values, from a histogram that widens as needed.

    Takes the place of ONNX Runtime's collector, whose first histogram spans the first sample's
    values alone: NumPy cannot make one for values that hardly differ, and a later sample that is
    much larger makes millions of bins.
    """

    def __init__(self) -> None:
        self.counts: dict[str, np.ndarray] = {}
        self.tops: dict[str, float] = {}
        self.ends: Ranges = {}

    def collect(self, tensors: dict[str, list[np.ndarray]]) -> None:
        """Adds the tensors of one sample, as ONNX Runtime's calibrators ask of a collector."""
        for name, arrays in tensors.items():
            for values in arrays:
                finite = values[np.isfinite(values)]
                if finite.size:
                    self.add(name, finite)

    def add(self, name: str, values: np.ndarray) -> None:
        """Counts a tensor's values, which are finite, in HISTOGRAM_BINS bins of their size.

        Larger values than before double the width of the bins until they fit.
        """
        low = float(values.min())
        high = float(values.max())
        before = self.ends.get(name, (low, high))
        self.ends[name] = min(low, before[0]), max(high, before[1])
        top = max(self.tops.get(name, 0.0), SMALLEST_TOP)
        counts = self.counts.get(name, np.zeros(HISTOGRAM_BINS, np.int64))
        if not counts.any():
            top = max(top, abs(low), abs(high))
        while top < max(abs(low), abs(high)):
            top *= 2
            pairs = counts.reshape(-1, 2).sum(axis=1)
            counts = np.concatenate([pairs, np.zeros_like(pairs)])
        self.counts[name] = counts + np.histogram(np.abs(values), HISTOGRAM_BINS, (0.0, top))[0]
        self.tops[name] = top

    def ranges(self) -> Ranges:
        """Lowest and highest value of each tensor, both within its percentile."""
        found = {}
        for name, (low, high) in self.ends.items():
            share = np.cumsum(self.counts[name]) / self.counts[name].sum()
            bins = 1 + int(np.searchsorted(share, PERCENTILE / 100))
            limit = self.tops[name] * bins / HISTOGRAM_BINS
            found[name] = max(low, -limit), min(high, limit)
        return found


def tensor_ranges(
    model: Any, samples: list[Sample], method: str, progress: Progress = no_progress
) -> Ranges:
    """Lowest and highest value of each tensor over the samples, or what the method clips them to.

    Args:
      method: minmax, entropy or percentile (of the absolute values).
    """
    with scratch_folder() as scratch, contextlib.redirect_stdout(io.StringIO()):
        calibrator = make_calibrator(model, method, scratch)
        percentiles = Percentiles()
        if method == "percentile":
            calibrator.collector = percentiles
        with (
            warnings.catch_warnings(),
            progress(f"Calibrating ({method})", len(samples)) as advance,
        ):
            # Of ranges that are not finite; told from the outputs.
            warnings.simplefilter("ignore", RuntimeWarning)
            # One by one: the collector keeps every tensor of a call in memory.
            for sample in samples:
                calibrator.collect_data(OneSample(sample))
                advance()
            if method == "percentile":
                return percentiles.ranges()
            data = calibrator.compute_data()
    return {name: range_of(data[name]) for name in list(data.keys())}


def make_calibrator(model: Any, method: str, scratch: Path) -> Any:
    """ONNX Runtime's calibrator of that method, with its files in `scratch`."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    kinds = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    path = scratch / "model.onnx"
    path.write_bytes(model.SerializeToString())
    options = {"num_bins": ENTROPY_BINS} if method == "entropy" else {}
    augmented = str(scratch / "augmented.onnx")
    return create_calibrator(str(path), None, augmented, kinds[method], extra_options=options)


def range_of(found: Any) -> tuple[float, float]:
    """Lowest and highest value of what ONNX Runtime's calibration says of a tensor."""
    low, high = (float(np.min(end)) for end in found.range_value)
    return low, high


def sorted_nodes(model: Any) -> Any:
    """The model with every node behind those that it reads: the libraries append theirs."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    ONNXModel(model).topological_sort()
    return model


# ------------------------------------------------------------------------------------ batch norms


def spell_batch_norms(graph: Any) -> None:
    """Writes Mul and Add by a constant a channel, where no convolution took them, as batch norms.

    With random weights the Add is gone, and TensorRT 8.6.0 cannot merge a Mul alone into the scales
    around it (mergeScales, "Assertion equalOrZero"); a batch norm has both.
    """
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    channels = channels_of(graph)
    followers = {mul.output[0]: add for mul, add in chains(graph, ("Mul", "Add"))}
    for node in list(graph.node):
        if node.op_type != "Mul" or not per_channel(node, constants):
            continue
        tensor, scale = split_constant(node, constants)
        # Layer norm's gamma widens what one number an image was.
        if channels.get(tensor) != scale.size or scale.dtype != np.float32:
            continue
        add = followers.get(node.output[0])
        if add is not None and not per_channel(add, constants):
            add = None
        # What overflows between the two is kept in float32, where they are two.
        if add is not None and abs(split_constant(add, constants)[1]).max() > FP16_MAX / 2:
            continue
        write_batch_norm(graph, node, add, constants)


def channels_of(graph: Any) -> dict[str, int]:
    """The second axis of each tensor of known shape [batch, channels, height, width]."""
    found = {}
    for value in (*graph.value_info, *graph.input):
        sizes = value.type.tensor_type.shape.dim
        if len(sizes) == 4:
            found[value.name] = sizes[1].dim_value
    return found


def per_channel(node: Any, constants: dict[str, np.ndarray]) -> bool:
    """Whether a node takes one tensor and one constant of [1, channels, 1, 1]."""
    shapes = [constants[name].shape for name in node.input if name in constants]
    return (
        len(shapes) == 1
        and shapes[0][-2:] == (1, 1)
        and math.prod(shapes[0][:-3]) == 1
        and len(shapes[0]) >= 3
    )


BATCH_NORM_EPSILON = 1e-5  # ONNX's default; the variance is one less, so that nothing is added


def write_batch_norm(graph: Any, mul: Any, add: Any, constants: dict[str, np.ndarray]) -> None:
    """Puts a BatchNormalization in the place of a Mul and, if there is one, the Add behind it."""
    from onnx import helper, numpy_helper

    tensor, scale = split_constant(mul, constants)
    bias = np.zeros_like(scale)
    if add:
        bias = bias + split_constant(add, constants)[1]  # which may be one number for all
    values = {"scale": scale, "bias": bias, "mean": np.zeros_like(scale)}
    values["var"] = np.full_like(scale, 1 - BATCH_NORM_EPSILON)
    names = [f"{mul.name}_{what}" for what in values]
    for name, value in zip(names, values.values()):
        graph.initializer.append(numpy_helper.from_array(value, name))
    output = (add or mul).output[0]
    norm = helper.make_node(
        "BatchNormalization", [tensor, *names], [output], name=mul.name, epsilon=BATCH_NORM_EPSILON
    )
    replace_nodes(graph, (mul, add) if add else (mul,), norm)


def split_constant(node: Any, constants: dict[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """The tensor that a node of two inputs reads, and the values of its constant, one a channel."""
    (name,) = [name for name in node.input if name not in constants]
    (value,) = [constants[name] for name in node.input if name in constants]
    return name, value.reshape(-1)


def norms_as_convolutions(model: Any) -> Any:
    """A copy of the model with depthwise convolutions for the batch norms that none took in.

    The same numbers, of a weight and a bias a channel: a weight alone is exact in int8. What it
    gains in TensorRT 8.6 and in ONNX Runtime on a CPU: docs/measurements.md.
    """
    from onnx import ModelProto, helper, numpy_helper
    from onnxruntime.quantization.onnx_model import ONNXModel

    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    spell_batch_norms(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    channels = channels_of(graph)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        (tensor, *names), given = norm.input, attributes_of(norm)
        known = constants.keys() >= set(names) and tensor in channels
        if not known or given.get("training_mode"):
            continue
        scale, bias, mean, variance = (numpy_helper.to_array(constants[name]) for name in names)
        factors = scale / np.sqrt(variance + given.get("epsilon", BATCH_NORM_EPSILON))
        shifts = bias - mean * factors
        largest = max(abs(factors).max(), abs(shifts).max())
        # Its kernel takes eight channels at a time.
        if scale.dtype != np.float32 or factors.size % 8 or largest > FP16_MAX / 2:
            continue
        inputs = [tensor, f"{norm.output[0]}/weights", f"{norm.output[0]}/bias"]
        for name, values in zip(inputs[1:], (factors.reshape(-1, 1, 1, 1), shifts)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        words = {"name": norm.name, "group": factors.size, "kernel_shape": [1, 1]}
        replace_nodes(graph, (norm,), helper.make_node("Conv", inputs, norm.output[:1], **words))
    ONNXModel(made).clean_initializers()
    return made


# ------------------------------------------------------------------------------------------- FP16


def to_fp16(model: Any, ranges: Ranges) -> Any:
    """float16 inside, float32 at the edges and wherever a value would overflow float16."""
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    model = keep_in_float32(model, ranges)
    model = convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[op for op in DEFAULT_OP_BLOCK_LIST if op != "Max"],
        node_block_list=kept_nodes(model) + other_maxima(model.graph),
    )
    drop_round_trips(model)
    return sorted_nodes(model)


def other_maxima(graph: Any) -> list[str]:
    """Names of the Max nodes but those with a border of zeros: 1e-10 is no number in float16."""
    borders = borders_of(graph)
    maxima = [node for node in graph.node if node.op_type == "Max"]
    return [node.name for node in maxima if node.output[0] not in borders]


KEPT = "kept_in_float32"  # the key in the model's metadata


def keep_in_float32(model: Any, ranges: Ranges) -> Any:
    """A copy of the model whose metadata names the nodes whose values would overflow float16."""
    from onnx import ModelProto, helper

    names = [node.name for node in model.graph.node if overflows(node, ranges)]
    copy = ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, {KEPT: json.dumps(names)})
    return copy


def kept_in_float32(data: bytes) -> list[str]:
    """Names of the nodes of a serialised model that must not compute in float16."""
    from onnx import ModelProto

    return kept_nodes(ModelProto.FromString(data))


def computed_in_int8(data: bytes) -> dict[str, bool]:
    """The nodes of a serialised model that read int8, and whether what they give is int8 too.

    It is where all that read it quantise it, at once or behind an activation.
    """
    from onnx import ModelProto

    graph = ModelProto.FromString(data).graph
    readers = consumers(graph)
    outputs = {value.name for value in graph.output}

    def is_quantised(node: Any) -> bool:
        """Whether all that read a node quantise what it gives."""
        return outputs.isdisjoint(node.output) and all(
            reader.op_type == "QuantizeLinear"
            or (reader.op_type in ACTIVATIONS and is_quantised(reader))
            for name in node.output
            for reader in readers[name]
        )

    found = {}
    int8 = {
        name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
    }
    for node in graph.node:
        if node.op_type != "QuantizeLinear" and not int8.isdisjoint(node.input):
            found[node.name] = is_quantised(node)
            int8 |= set(node.output) if found[node.name] else set()
    return found


def kept_nodes(model: Any) -> list[str]:
    """Names of the nodes that a model's metadata keeps in float32."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    return json.loads(found.get(KEPT, "[]"))


def overflows(node: Any, ranges: Ranges) -> bool:
    """Whether a value that a node reads or writes comes over half of what float16 can hold."""
    known = [ranges[name] for name in (*node.input, *node.output) if name in ranges]
    return any(max(abs(low), abs(high)) > FP16_MAX / 2 for low, high in known)


def drop_round_trips(model: Any) -> None:
    """Removes the casts to float16 and back that the converter leaves between float32 nodes."""
    from onnx import TensorProto, shape_inference

    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    types = element_types(shape_inference.infer_shapes(model).graph)
    for node in model.graph.node:
        if node.op_type == "Cast":
            continue
        for index, name in enumerate(node.input):
            there = casts.get(casts[name].input[0]) if name in casts else None
            if there is None or there.attribute[0].i != TensorProto.FLOAT16:
                continue
            # A cast of or to integers is the graph's own.
            back = casts[name].attribute[0].i
            if back == types.get(there.input[0]) == TensorProto.FLOAT:
                node.input[index] = there.input[0]


def element_types(graph: Any) -> dict[str, int]:
    """The known element types, by tensor name."""
    values = (*graph.input, *graph.output, *graph.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in values}


# ------------------------------------------------------------------------------------------- INT8


def to_int8(model: Any, ranges: Ranges, settings: Settings) -> Any:
    """Writes explicit Q/DQ where it pays: per-channel int8 weights, ranges of one calibration.

    Signed activations stand on the inputs of convolutions and matrix products and on residual
    branches. Unsigned ones also stand behind every convolution and its activation and around Add
    and MaxPool: ONNX Runtime's int8 kernels take int8 in and give int8 out.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel

    unsigned = settings.unsigned
    model = keep_in_float32(model, ranges)
    if not unsigned:
        spell_batch_norms(model.graph)
    if settings.half:
        model, ranges = around_int8(model, ranges)
    borders = {} if unsigned else borders_of(model.graph)
    quantizer = make_quantizer(model, with_borders(ranges, borders), settings)
    where = outputs_behind_activations if unsigned else residual_tensors
    for tensor in where(model.graph):
        if tensor in ranges:
            quantizer.quantize_activation_tensor(tensor)
    model = quantizer.quantize_model()
    quantise_borders(model.graph, borders)
    ONNXModel(model).clean_initializers()
    return sorted_nodes(model)


def around_int8(model: Any, ranges: Ranges) -> tuple[Any, Ranges]:
    """The model in float16, in which Q/DQ will stand, and the ranges with those of the new casts.

    QuantizeLinear takes float16 from operator set 19 on; what stands in 18 means the same there.
    """
    import onnx

    model = to_fp16(model, ranges)
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 19)
    ranges = dict(ranges)
    for node in model.graph.node:
        if node.op_type == "Cast":
            # either side may have the name of before
            for here, there in ((node.input[0], node.output[0]), (node.output[0], node.input[0])):
                if here in ranges:
                    ranges.setdefault(there, ranges[here])
    return onnx.shape_inference.infer_shapes(model), ranges


def weights_as_floats(data: bytes) -> bytes:
    """The model with each int8 weight as the float32 that a QuantizeLinear makes of it again.

    TensorRT 8.6 takes int8 weights in that form only ("weights.type() != DataType::kINT8").
    """
    from onnx import ModelProto, helper, numpy_helper
    from onnxruntime.quantization.onnx_model import ONNXModel

    model = ModelProto.FromString(data)
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        weights = constants.get(node.input[0])
        # A Q/DQ pair has a zero point, of int8; without one QuantizeLinear would give uint8.
        if weights is None or weights.dtype != np.int8 or len(node.input) < 3:
            continue
        scales = broadcastable(constants[node.input[1]], weights.ndim, axis_of(node))
        name = f"{node.output[0]}_float"
        quantised = f"{node.output[0]}_quantised"
        graph.initializer.append(numpy_helper.from_array(weights * scales, name))
        quantise = helper.make_node("QuantizeLinear", [name, *node.input[1:]], [quantised])
        quantise.name = quantised
        quantise.attribute.extend(node.attribute)
        graph.node.append(quantise)
        node.input[0] = quantised
    ONNXModel(model).clean_initializers()
    return sorted_nodes(model).SerializeToString()


CHANNELS_FIRST = [0, 3, 1, 2]  # axes of [batch, height, width, channels]


def without_input_transposes(data: bytes) -> tuple[bytes, list[str]]:
    """The model without its inputs' Transposes to channels first, and the names of these inputs.

    Their shapes are [batch, channels, height, width] then. What is fed may lie in memory as before
    if TensorRT is told so; it would copy an image to transpose it.
    """
    from onnx import ModelProto, TensorProto

    model = ModelProto.FromString(data)
    graph = model.graph
    readers = consumers(graph)
    elsewhere = {value.name for value in graph.output} | read_inside(graph)
    found = []
    for source in graph.input:
        node = transpose_of(source.name, readers, elsewhere)
        # TensorRT 8.x reads nothing but float32 where channels lie last.
        if node is None or source.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        given, made = node.input[0], node.output[0]
        for reader in readers[made]:
            reader.input[:] = [given if name == made else name for name in reader.input]
        graph.node.remove(node)
        sizes = source.type.tensor_type.shape.dim
        ordered = [copy.deepcopy(sizes[axis]) for axis in CHANNELS_FIRST]
        for size, other in zip(sizes, ordered):
            size.CopyFrom(other)
        found.append(source.name)
    if not found:
        return data, []
    del graph.value_info[:]  # the shapes of Casts in it are no longer right
    return model.SerializeToString(), found


def transpose_of(name: str, readers: dict[str, list[Any]], elsewhere: set[str]) -> Any | None:
    """The Transpose to channels first through which all goes that reads a tensor, or None."""
    while len(readers[name]) == 1 and name not in elsewhere:
        (node,) = readers[name]
        name = node.output[0]
        if node.op_type == "Transpose":
            first = list(attributes_of(node).get("perm", ())) == CHANNELS_FIRST
            return node if first and name not in elsewhere else None
        if node.op_type != "Cast":
            return None
    return None


def axis_of(node: Any) -> int:
    """The axis of a DequantizeLinear's scales: ONNX's default is 1."""
    return next((given.i for given in node.attribute if given.name == "axis"), 1)


def broadcastable(scales: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Scales [channels] or of no axis, float32, as an array that multiplies one of that rank."""
    if scales.size == 1:
        return scales.astype(np.float32).reshape(())
    shape = [1] * rank
    shape[axis] = scales.size
    return scales.astype(np.float32).reshape(shape)


def make_quantizer(model: Any, ranges: Ranges, settings: Settings) -> Any:
    """ONNX Runtime's quantizer of the model, told what stays in float32."""
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    data = typed_ranges(model, ranges)
    between = ("Add", "MaxPool", "Pad") if settings.unsigned else ()
    return QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=settings.weight_bits == 7,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if settings.unsigned else QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=biases(model.graph),
        op_types_to_quantize=[*HEAVY, *between],
        extra_options={
            "ActivationSymmetric": not settings.unsigned,
            "WeightSymmetric": True,
            "QuantizeBias": settings.unsigned,  # TensorRT takes the bias in float32
            "OpTypesToExcludeOutputQuantization": [*HEAVY, "Add"],
        },
    )


def typed_ranges(model: Any, ranges: Ranges) -> dict[str, tuple[Any, Any]]:
    """The ranges in each tensor's own type, which its scale then has."""
    from onnx import TensorProto

    types = element_types(model.graph)
    data = {}
    for name, (low, high) in ranges.items():
        kind = np.float16 if types.get(name) == TensorProto.FLOAT16 else np.float32
        most = float(np.finfo(kind).max)  # beyond it is what the type makes of a mask's -1e9
        data[name] = kind(max(low, -most)), kind(min(high, most))
    return data


def biases(graph: Any) -> list[str]:
    """Names of the Adds of a constant."""
    constants = {tensor.name for tensor in graph.initializer}
    adds = [node for node in graph.node if node.op_type == "Add"]
    return [node.name for node in adds if constants.intersection(node.input)]


def outputs_behind_activations(graph: Any) -> list[str]:
    """Outputs of convolutions and residual Adds, behind their activation if they have one.

    The input of the last Softmax is none of them.
    """
    readers = consumers(graph)
    last = {"Softmax", "Reshape", "Squeeze", "Flatten"}
    excluded = set(biases(graph))
    found = []
    for node in graph.node:
        if node.op_type not in ("Conv", "Add") or node.name in excluded:
            continue
        name = behind_activations(node.output[0], readers)
        if not last.issuperset(reader.op_type for reader in readers[name]):
            found.append(name)
    return found


def behind_activations(name: str, readers: dict[str, list[Any]]) -> str:
    """The tensor behind the activations that alone read this one."""
    while len(readers[name]) == 1 and readers[name][0].op_type in ACTIVATIONS:
        name = readers[name][0].output[0]
    return name


def residual_tensors(graph: Any) -> list[str]:
    """What TensorRT wants quantised in ResNets beside the inputs of convolutions.

    One branch of a residual Add, the one that the last convolution does not feed, so that Conv and
    Add fuse; the input of a batch norm that no convolution feeds; the input of a MaxPool on a
    shortcut. An Add that no convolution or matrix product feeds, as in a layer norm, is none. Where
    the maximum with a border of zeros (spell_pads) is quantised, so is the MaxPool before it.
    Source: NVIDIA tensorflow-quantization, custom Q/DQ insertion cases for ResNet v1 and v2.
    """
    constants = {tensor.name for tensor in graph.initializer}
    made: dict[str, tuple[bool, int]] = {}
    for index, node in enumerate(graph.node):
        made |= dict.fromkeys(node.output, (node.op_type == "Conv", index))
    borders = borders_of(graph)
    readers = consumers(graph)
    products = products_of(graph)
    found = []
    for node in graph.node:
        free = [name for name in node.input if name in made.keys() - constants]
        if node.op_type in (*HEAVY, "BatchNormalization"):
            found += [borders[name] for name in free if name in borders]
        if node.op_type == "Add" and len(free) == 2:
            fused = any(name in products for name in free)
            found += [min(free, key=made.__getitem__)] if fused else []
        elif node.op_type == "BatchNormalization" and len(free) == 1:
            found += free if not made[free[0]][0] else []
        elif node.op_type == "MaxPool" and feeds_add(node, readers):
            found.append(node.input[0])
    return list(dict.fromkeys(found))


def with_borders(ranges: Ranges, borders: dict[str, str]) -> Ranges:
    """The ranges, with one for a MaxPool and its maximum with a border of zeros: one scale."""
    made = dict(ranges)
    for highest, pooled in borders.items():
        if highest in ranges and pooled in ranges:
            lows, highs = zip(ranges[highest], ranges[pooled])
            made[highest] = made[pooled] = min(lows), max(highs)
    return made


def quantise_borders(graph: Any, borders: Iterable[str]) -> None:
    """Writes borders of zeros in int8 where their MaxPool gives it; no value changes by that.

    TensorRT 8.6 takes the maximum in float16 otherwise, row by row, and reformats around it.

    Args:
      borders: the outputs of the maxima.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node for node in graph.node}
    channels = channels_of(graph)
    for highest in [made[name] for name in borders]:
        dequantise = made[highest.input[0]]
        if dequantise.op_type != "DequantizeLinear":
            continue
        zeros = numpy_helper.to_array(constants[highest.input[1]]) == 0
        values = np.where(zeros, 0, np.iinfo(np.int8).min).astype(np.int8)
        pooled = made[dequantise.input[0]].input[0]
        if values.ndim == 4:
            values = np.repeat(values, channels.get(pooled) or 1, axis=1)
        border = f"{highest.output[0]}_border"  # its own: ONNX Runtime shares small constants
        graph.initializer.append(numpy_helper.from_array(values, f"{border}_int8"))
        inputs = [f"{border}_int8", *dequantise.input[1:]]  # with its scale and zero point
        highest.input[1] = f"{border}_float"
        graph.node.append(helper.make_node("DequantizeLinear", inputs, [f"{border}_float"]))


def products_of(graph: Any) -> set[str]:
    """Outputs of convolutions and matrix products, and of their bias if it is an Add of its own."""
    found: set[str] = set()
    with_bias = set(biases(graph))
    for node in graph.node:
        if node.op_type in HEAVY or (node.name in with_bias and found.intersection(node.input)):
            found.update(node.output)
    return found


def feeds_add(node: Any, readers: dict[str, list[Any]]) -> bool:
    """Whether an Add reads what a node gives."""
    return any(reader.op_type == "Add" for reader in readers[node.output[0]])


# --------------------------------------------------------------------------------------- coverage


def coverage(model: Any, precision: str) -> dict[str, Any]:
    """The share of convolutions and matrix products, and of weights, that have the precision.

    Works on Q/DQ graphs and on what ONNX Runtime made of them: its integer kernels count as int8,
    and a float16 weight behind a Cast to float32 does not count as float16.
    """
    heavy = heavy_nodes(model.graph)
    low = int8_nodes(model.graph) if precision == "int8" else nodes_of_type(model.graph, precision)
    return {
        "nodes": len(heavy),
        "low_nodes": low,
        "share_of_nodes": low / max(len(heavy), 1),
        "recurrent_nodes": sum(node.op_type in RECURRENT for node in heavy),
        "share_of_weights": share_of_weights(model.graph, precision),
    }


def onnx_type(precision: str) -> int:
    """ONNX's element type of a precision's weights."""
    from onnx import TensorProto

    types = {"fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
    return types.get(precision, TensorProto.FLOAT)


def heavy_nodes(graph: Any) -> list[Any]:
    """The convolutions and matrix products, ONNX Runtime's own fused ones among them.

    Those inside loops and branches count once, a recurrent layer as one.
    """

    parts = (*HEAVY, *RECURRENT)

    def heavy(node: Any) -> bool:
        """Whether a node is one: the name of a fused op has the name of an op of ONNX in it."""
        return node.op_type in INT8_KERNELS or any(part in node.op_type for part in parts)

    return [node for node in nested_nodes(graph) if heavy(node)]


def int8_nodes(graph: Any) -> int:
    """How many of the heavy nodes take two dequantised inputs or are integer kernels."""
    made = {name: node.op_type for node in graph.node for name in node.output}

    def low(node: Any) -> bool:
        """Whether it is an integer kernel, or one whose inputs are dequantised right in front."""
        pair = [made.get(name) for name in node.input[:2]]
        return node.op_type in INT8_KERNELS or pair == ["DequantizeLinear"] * 2

    return sum(low(node) for node in heavy_nodes(graph))


def nodes_of_type(graph: Any, precision: str) -> int:
    """How many of the heavy nodes have a second input, mostly a weight, of the precision's type."""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return sum(types.get(node.input[1]) == onnx_type(precision) for node in heavy_nodes(graph))


def share_of_weights(graph: Any, precision: str) -> float:
    """The share of the numbers in the graph's weights that have the precision's type."""
    sizes: collections.Counter[int] = collections.Counter()
    for tensor in graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    types = {onnx_type(name) for name in ("fp32", "fp16", "int8")}
    return sizes[onnx_type(precision)] / max(sum(sizes[kind] for kind in types), 1)


# ---------------------------------------------------------------------- the graph at each precision


class Precisions:
    """A graph in ONNX at each precision; export and folding are made once, when first needed.

    `opset`: the ONNX operator set; 17 is the newest that TensorRT 8 reads.
    """

    def __init__(
        self,
        graph_def: bytes,
        inputs: list[str],
        outputs: list[str],
        opset: int = 18,
        progress: Progress = no_progress,
    ) -> None:
        self.graph_def = graph_def
        self.inputs = inputs
        self.outputs = outputs
        self.opset = opset
        self.progress = progress

    @property
    def fp32(self) -> Any:
        """The graph as it was exported.

        Raises:
          ExportError: it cannot be; that too is found out only once.
        """
        if isinstance(self.exported, ExportError):
            raise self.exported
        return self.exported

    @functools.cached_property
    def exported(self) -> Any:
        """The exported graph, or the ExportError that says why there is none."""
        try:
            return export(self.graph_def, self.inputs, self.outputs, self.opset)
        except ExportError as error:
            return error

    @functools.cached_property
    def folded(self) -> Any:
        """The exported graph with constants and batch norm folded, shapes inferred."""
        return fold(self.fp32)

    def source(self, without_norms: bool) -> Any:
        """The folded graph, with convolutions for the batch norms that are left if asked to."""
        return norms_as_convolutions(self.folded) if without_norms else self.folded

    def fp16(
        self, samples: Iterable[Sample], without_norms: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The graph in float16 and its coverage; the samples show where float16 would overflow.

        Args:
          without_norms: whether batch norms are convolutions too (norms_as_convolutions).

        Raises:
          PrecisionError: it would everywhere.
        """
        ranges = tensor_ranges(self.folded, list(samples), "minmax", self.progress)
        model = to_fp16(self.source(without_norms), ranges)
        heavy = {node.name for node in heavy_nodes(self.folded.graph)}  # no norms
        if heavy and heavy <= set(kept_nodes(model)):
            raise PrecisionError(
                "every convolution and matrix product reads or writes over half of what float16 "
                "can hold: FP16 would be float32 here, take --fp32"
            )
        return model, coverage(model, "fp16")

    def int8(
        self, ranges: Ranges, settings: Settings, without_norms: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """The graph with explicit Q/DQ from the ranges, and its coverage.

        Args:
          without_norms: as of fp16.
        """
        model = to_int8(self.source(without_norms), ranges, settings)
        return model, coverage(model, "int8")
