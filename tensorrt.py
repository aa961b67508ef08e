#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "tensorflow>=2.14.1,<2.22",
#   "numpy>=1.26,<3",
#   "absl-py>=2.1,<3",
#   "msgspec>=0.18.6,<0.23",
#   "requests>=2.31,<3",
#   "rich>=13.7,<16",
#   "tf2onnx>=1.17,<1.18",
#   "onnx>=1.17,<1.24",
#   "onnxruntime>=1.20,<1.33",
#   "nvidia-ml-py>=12.560,<14",
#   "matplotlib>=3.8,<4",
#   "pillow>=10,<14",
# ]
# ///
"""What does TensorRT buy this TensorFlow model, at which precision, and is it still the same?

    python tensorrt.py --native --fp32 --fp16 --int8 --image_file=image.jpg --batch_size=8
    python tensorrt.py --frozen_graph=net.pb --fp16 --engine=tensorrt,xla   two engines side by side
    python tensorrt.py --savedmodel_dir=export/ --int8 --calibration_dir=photos/
    python tensorrt.py --doctor                                what can run here, what is missing

The program takes a SavedModel, a Keras file or a frozen graph (without one: ResNet-50 v2 with
random weights), freezes it, builds each precision asked for, times each against the native graph,
compares their predictions, and appends one block a case to OUTPUT_DIR/log.txt and one line a case
to OUTPUT_DIR/results.jsonl.

    precision   native (the graph as it came, in TensorFlow), fp32, fp16, int8
    engine      native, tensorrt, tftrt, xla, onnxruntime; --engine=auto takes the first that can
                run the precision here
    case        one engine, precision and batch size: one process, one measurement, one record

What is measured. Every case runs once for tracing and compiling (`first run`), then untimed until
its speed has stopped rising, or --num_warmup steps. The cases of a batch size are then measured in
rounds, in turn, until speed and times native are known, or --num_loops steps: steps that are each
waited for (latency, and fps = batch / seconds of a step), then as many that are enqueued and waited
for once (throughput). --inputs=device: the batch lies where the engine computes before the clock
starts. --inputs=host: NumPy in, NumPy out; the throughput loop copies the next batch while a step
runs. Agreement and accuracy are judged afterwards, on all images.

Traps. TensorFlow's dispatch is asynchronous: a loop that never waits measures nothing. The first
run compiles. Random weights and random images have a speed but no meaning. INT8 calibrated on
random images is as fast as any, and wrong. A precision is what the engine really ran: the record
holds the proof, and a precision that had no effect is an error.

Exit status: 0 all cases ran; 1 a case failed; 2 the command line, or a file that it names, cannot
be used; 130 Ctrl-C, 143 SIGTERM (both keep what was measured). Environment: CUDA_VISIBLE_DEVICES
(which GPUs), XDG_CACHE_HOME (where downloads are kept, else ~/.cache), NO_COLOR.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports: no traceback

import collections
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import datetime
import difflib
import errno
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import math
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import socket
import sys
import tarfile
import tempfile
import threading
import time
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, Protocol

HERE = Path(__file__).resolve().parent
# A script named tensorrt.py hides NVIDIA's package tensorrt from itself and from all that it
# imports.
if Path(__file__).name == "tensorrt.py":
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
# Read when TensorFlow is imported, never after. TF-TRT warns where an engine did not run.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL") not in ("0", "1"):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"
# As NVML counts, and so --gpus and the records.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
# Before CUDA starts: thousands of kernels are never run.
os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")

import msgspec
import numpy as np
from absl import flags

VERSION = "2.0"
RECORD_VERSION: Literal[2] = 2
PRECISIONS = ("native", "fp32", "fp16", "int8")


# -------------------------------------------------------------------------------------------- types


class UserError(Exception):
    """Something the user can fix: one line that says what is wrong and what to do."""


class Config(types.SimpleNamespace):
    """The flags' values by their names; picklable, so that a case's process has them too."""

    def but(self, **changes: Any) -> Config:
        """The same flags, with other values of some."""
        return Config(**{**vars(self), **changes})


Feed = dict[str, np.ndarray]  # arrays by the names of a graph's tensors: a step's inputs or outputs


@dataclasses.dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    `name` carries its index; `shape` has None where it is open, and is None where even the rank is;
    `op` computes it (behind Identity and the like); `key` is its name in the signature or model,
    where that is known.
    """

    name: str
    shape: tuple[int | None, ...] | None = None
    dtype: str = "float32"
    op: str = ""
    key: str = ""

    @property
    def title(self) -> str:
        """What a user calls it: its key, or its name without the index."""
        return self.key or self.name.removesuffix(":0")

    def __str__(self) -> str:
        sides = "?"
        if self.shape is not None:
            sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.title} [{sides}] {self.dtype}"


OPEN_SIDE = 224  # pixels: height and width where a graph leaves them open


@dataclasses.dataclass(frozen=True)
class Graph:
    """A frozen GraphDef on disk; `name` is X in log.txt and in the artifacts' names.

    `layout` of a graph whose only input is a batch of images, `NHWC` or `NCHW`; of others "".
    `scaling`: the ops by which it brings pixels of 0 to 255 to its range, where it does;
    `half_share`: the share of its convolutions and matrix products that compute in float16 as it
    came. `origin`: the hash of the graph as it came, where another input was written in front.
    """

    path: str
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layout: str
    sha256: str
    scaling: str = ""
    half_share: float = 0.0
    origin: str = ""

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, each with its index (`x:0`), in the order in which they are fed."""
        return [tensor.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, each with its index (`y:0`)."""
        return [tensor.name for tensor in self.outputs]

    @property
    def dtype(self) -> str:
        """The inputs' types, as a record tells them: `float32`, or `int32, float32`."""
        return ", ".join(dict.fromkeys(tensor.dtype for tensor in self.inputs))

    @property
    def batched(self) -> tuple[str, ...]:
        """Names of the inputs whose first axis is the batch, as far as shapes tell.

        See batched_of.
        """
        return batched_of(self.inputs)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size that the graph is fixed to; 1 where it has no batch, None where open."""
        shapes = [tensor.shape for tensor in self.inputs if tensor.name in self.batched]
        if any(map(is_open, shapes)):
            return None
        return next((shape[0] for shape in shapes if shape), 1)

    def has_rows(self, output: Tensor) -> bool:
        """Whether an output's first axis may be the batch, as far as shapes tell."""
        if not self.batched:
            return False
        return is_open(output.shape) or (output.shape or ())[:1] == (self.fixed_batch,)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels in pixels, whatever the layout."""
        shape = self.inputs[0].shape or ()
        axes = (1, 2, 3) if self.layout == "NHWC" else (2, 3, 1)
        height, width, channels = (shape[axis] for axis in axes)
        return height or OPEN_SIDE, width or OPEN_SIDE, channels or 3


def batched_of(inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Names of the inputs whose first axis is the batch.

    Where some are open there, those; else all, if all have the same number there and more axes
    behind it. What has neither has no batch.
    """
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    open_ones = [name for name, shape in shapes.items() if is_open(shape)]
    if open_ones:
        return tuple(open_ones)
    first = {shape[0] if shape and len(shape) > 1 else None for shape in shapes.values()}
    return () if None in first or len(first) > 1 else tuple(shapes)


def is_open(shape: tuple[int | None, ...] | None) -> bool:
    """Whether a shape leaves its first axis open."""
    return shape is None or shape[:1] == (None,)


def precision_name(precision: str) -> str:
    """A precision as people read it, and as the 2018 script printed it."""
    return precision if precision == "native" else precision.upper()


@dataclasses.dataclass(frozen=True)
class Case:
    """One engine, precision and batch size: one measurement, one record.

    `batch_size` is None while the largest that fits is still to be found.
    """

    engine: str
    precision: str
    batch_size: int | None
    why: str = ""

    def __str__(self) -> str:
        return self.named(self.precision)

    @property
    def title(self) -> str:
        """As report.py's sentences name it: `FP16 xla 8`."""
        return self.named(precision_name(self.precision))

    def named(self, precision: str) -> str:
        """The case by its precision as that is written, engine and batch size."""
        return " ".join(dict.fromkeys((precision, self.engine, str(self.batch_size or "max"))))

    @property
    def size(self) -> int:
        """The batch size of a case that runs: the largest that fits has been found by then."""
        assert self.batch_size is not None
        return self.batch_size

    def file_name(self, graph: Graph, suffix: str | None = None) -> str:
        """The case's name in log.txt and its artifact's: `native_X` or `xla_fp16_X`."""
        name = graph.name if suffix is None else Path(graph.name).stem + suffix
        if self.precision == "native":
            return f"native_{name}"
        return f"{self.engine}_{self.precision}_{name}"


@dataclasses.dataclass
class Artifact:
    """A file that an engine runs, how long it took to build, and what is known of it.

    `facts` has the coverage of its precision, and what its building and opening depended on.
    """

    path: str
    sha256: str
    seconds: float = 0.0
    bytes: int = 0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Timing:
    """Seconds of each waited step and of the first run, images/s of the throughput loop, clocks."""

    seconds: list[float]
    throughput: float
    first_run: float
    clocks: dict[str, Any] = dataclasses.field(default_factory=dict)


Round = dict[str, Timing]  # by where the input lay: device, host


class Found(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What may be found out about a case, as its record tells it."""

    kinds: dict[str, str] | None = None
    predictions: list[tuple[str, float]] | None = None
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    times_native: dict[str, TimesNative] | None = None
    calibration: dict[str, Any] | None = None
    together: Together | None = None
    batch_sizes_tried: dict[int, str] | None = None


def joined(rounds: list[Round]) -> Round:
    """The steps of all rounds together, and the median of their throughputs."""
    whole = {}
    for inputs in rounds[0] if rounds else ():
        every = [timings[inputs] for timings in rounds]
        seconds = [second for timing in every for second in timing.seconds]
        throughput = float(np.median([timing.throughput for timing in every]))
        whole[inputs] = dataclasses.replace(every[0], seconds=seconds, throughput=throughput)
    return whole


class Result(Found, eq=False):
    """All that is known of a case; its outputs, and native's for the same images as `reference`.

    `native_rounds` has native's rounds of the same turns.
    """

    status: Literal["ok", "built", "failed"] = "ok"
    error: str = ""
    artifact: Artifact | None = None
    outputs: Feed | None = None
    reference: Feed | None = None
    rounds: list[Round] = []
    native_rounds: list[Round] = []
    notes: list[str] = []
    machine: dict[str, Any] = {}

    @property
    def timings(self) -> Round:
        """All rounds together, by where the input lay; empty where nothing was timed."""
        return joined(self.rounds)


# -------------------------------------------------------------------------------------------- flags

# Its own, so that the file can be loaded under another name beside other absl programs.
FLAGS = flags.FlagValues()
DEFINE_string, DEFINE_boolean, DEFINE_integer, DEFINE_enum, DEFINE_list = (
    functools.partial(getattr(flags, f"DEFINE_{kind}"), flag_values=FLAGS)
    for kind in ("string", "boolean", "integer", "enum", "list")
)


class StepsParser(flags.IntegerParser):
    """A number of steps, or auto, which is None."""

    def parse(self, argument: str | int) -> Any:
        """The number, or None for auto.

        Raises:
          ValueError: it is neither, or too small; absl makes its own error of it.
        """
        return None if argument == "auto" else super().parse(argument)

    def convert(self, argument: str | int) -> int:
        """absl's own, whose error tells of int() and of no auto."""
        try:
            return super().convert(argument)
        except ValueError:
            raise ValueError("pass a whole number, or auto") from None


def DEFINE_steps(name: str, help: str, least: int) -> None:
    """Defines a flag that takes a number of steps, at least `least`, or auto."""
    flags.DEFINE(StepsParser(lower_bound=least), name, "auto", help, flag_values=FLAGS)


DEFINE_string(
    "frozen_graph",
    None,
    "Path or http(s) URL of a frozen GraphDef (.pb); wins over --savedmodel_dir.",
)
DEFINE_string("savedmodel_dir", None, "Folder of a SavedModel, or http(s) URL of a .tar.gz of one.")
DEFINE_string("keras_model", None, "Path of a .keras or .h5 file.")
DEFINE_enum(
    "weights",
    None,
    ["random", "imagenet"],
    "Weights of the built-in ResNet-50 v2; default: imagenet (Keras "
    "downloads 98 MB once) where photographs are given, else random.",
)
DEFINE_string(
    "input_node", None, "Names of the graph's inputs, comma-separated; default: found by itself."
)
DEFINE_string(
    "output_node", None, "Names of the graph's outputs, comma-separated; default: all of them."
)
DEFINE_string(
    "samples",
    None,
    "A .npz file, or a folder of .npy files: an array for each input by its name, first axis the "
    "samples; one called `labels` has their class ids.",
)
DEFINE_list(
    "input_shape",
    [],
    "Open dimensions of inputs without the batch, for random data: ids:128,image:224x224x3.",
)
DEFINE_list(
    "input_range",
    [],
    "Lowest and highest random value of inputs, as ids:0:30521; default: 0:1 for integers.",
)
DEFINE_string(
    "image_file", None, "A JPEG, PNG, GIF or BMP, copied batch_size times; default: random data."
)
DEFINE_string(
    "image_dir", None, "A folder of images, or of class folders (named by class id or synset id)."
)
DEFINE_integer(
    "num_images",
    512,
    "Images of --image_dir, or --samples, to read at most: the batch takes the first, agreement "
    "and accuracy are judged on all.",
    lower_bound=1,
)
DEFINE_enum(
    "preprocessing",
    "vgg",
    ["vgg", "inception", "torch", "caffe", "none"],
    "What is done to pixels: vgg (minus RGB means), inception ([-1, 1]), torch (ImageNet mean "
    "and deviation), caffe (BGR minus means), none ([0, 255]). Not passed: none where the model "
    "scales pixels itself, inception for the built-in model.",
)
DEFINE_boolean(
    "native",
    False,
    "Time the graph as it came, in TensorFlow; the default if no precision is named.",
)
DEFINE_boolean("fp32", False, "Time the graph in float32 in another engine.")
DEFINE_boolean("fp16", False, "Time the graph in float16.")
DEFINE_boolean("int8", False, "Time the graph in int8, calibrated.")
DEFINE_list(
    "engine",
    "auto",
    "Engines for fp32, fp16 and int8, comma-separated: tensorrt, tftrt, xla, onnxruntime, or "
    "auto, which takes the first that can run the precision here.",
)
DEFINE_list(
    "batch_size",
    "128",
    "Images a step; a comma-separated list makes a case of each; max: the largest that fits.",
)
DEFINE_steps(
    "num_loops",
    "Timed steps of each loop, over all rounds; auto: until the speed is known to 2 %.",
    2,
)
DEFINE_steps(
    "num_warmup", "Untimed steps before them; auto: until the speed has stopped rising.", 0
)
DEFINE_integer(
    "rounds",
    None,
    "Rounds that the cases of a batch size are measured in, in turn; default: at least 5.",
    lower_bound=1,
)
DEFINE_enum(
    "inputs",
    "device",
    ["device", "host", "both"],
    "Where a step's batch lies when its clock starts.",
)
DEFINE_enum(
    "host_dtype",
    "float32",
    ["float32", "uint8"],
    "What goes to the engine: float32 as the graph takes it, or "
    "raw uint8 pixels with the preprocessing's arithmetic done on the device.",
)
DEFINE_string("output_dir", "/tmp", "Folder for log.txt, results.jsonl and the artifacts.")
DEFINE_string(
    "calibration_dir",
    None,
    "Folder of images for INT8 calibration; default: the input batch itself.",
)
DEFINE_string(
    "calibration_samples", None, "The same as --samples, for INT8 calibration; default: --samples."
)
DEFINE_integer("num_calibration_images", 64, "Samples to calibrate on at most.", lower_bound=1)
DEFINE_enum(
    "calibration_method",
    "percentile",
    ["minmax", "entropy", "percentile"],
    "How ranges are chosen for INT8.",
)
DEFINE_boolean(
    "ids_are_one_indexed",
    False,
    "Shift class ids by one: the output has no background class at 0. A "
    "1000-class output is shifted by itself.",
)
DEFINE_integer(
    "label",
    None,
    "Class id of the images: gives accuracy. --label and class folders count as "
    "labellist.json does: 0 is the background, 1 the tench.",
    lower_bound=0,
)
DEFINE_boolean(
    "labels_are_zero_indexed",
    False,
    "--label and class folders count as Keras and PyTorch do: 0 is the first class.",
)
DEFINE_string(
    "labels", None, "File with the classes' names, one a line or JSON; default: ImageNet's."
)
DEFINE_integer("predictions_to_print", 5, "Classes on each predictions line.", lower_bound=1)
DEFINE_integer(
    "workspace_size",
    None,
    "Memory in MB that TensorRT may use while it builds; default: all that there "
    "is (TF-TRT: 2048).",
    lower_bound=1,
)
DEFINE_boolean(
    "tf32", True, "Let float32 convolutions use TF32 on NVIDIA GPUs, as TensorFlow does by default."
)
DEFINE_integer(
    "threads",
    0,
    "CPU threads of TensorFlow and ONNX Runtime; 0: all that it may use.",
    lower_bound=0,
)
DEFINE_boolean("pin_threads", False, "Pin ONNX Runtime's threads to cores, one each.")
DEFINE_integer("seed", 0, "Seed of random data and random weights.", lower_bound=0)
DEFINE_integer(
    "max_download_mb", 8192, "Largest download in MB, and largest archive unpacked.", lower_bound=1
)
DEFINE_boolean(
    "unsafe_model",
    False,
    "Load a model although it holds Python code (Lambda layers) or ops that read or write files.",
)
DEFINE_boolean("build_only", False, "Build and write every artifact, time nothing.")
DEFINE_boolean(
    "isolate", True, "Run each case in a process of its own; --noisolate is for debugging."
)
DEFINE_boolean(
    "doctor", False, "Print which engine can run which precision here, and what the others miss."
)
DEFINE_boolean("version", False, "Print the version.")
DEFINE_boolean("help", False, "Print this help.")


# The 2018 script's short flags, which argparse took with their value behind a space or an equals
# sign.
SHORT_FLAGS = {
    "-fg": "frozen_graph",
    "-sd": "savedmodel_dir",
    "-od": "output_dir",
    "-on": "output_node",
    "-in": "input_node",
    "-bs": "batch_size",
    "-if": "image_file",
    "-nl": "num_loops",
    "-ws": "workspace_size",
    "-pp": "predictions_to_print",
}


def long_flag(word: str) -> str:
    """A word of the command line, with the 2018 script's short flags spelled out."""
    name, equals, value = word.partition("=")
    return f"--{SHORT_FLAGS[name]}{equals}{value}" if name in SHORT_FLAGS else word


def parse_flags(argv: list[str]) -> Config:
    """The command line as a Config; `given` has the names of the flags that were typed.

    Raises:
      UserError: an unknown flag, a value that does not fit, or a stray argument.
    """
    refuse_fleet_flags(argv)
    FLAGS.unparse_flags()
    try:
        stray = FLAGS([long_flag(word) for word in argv])[1:]
    except flags.Error as error:
        raise UserError(f"{what_absl_says(error)} (--help lists the flags)") from error
    if stray:
        raise UserError(f"{stray[0]!r} is not a flag: flags begin with -- (--help lists them)")
    config = Config(**FLAGS.flag_values_dict())
    config.given = {name for name in FLAGS if FLAGS[name].present}
    config.precisions = [name for name in PRECISIONS if getattr(config, name)] or ["native"]
    config.imagenet = not config.labels  # class ids and names are ImageNet's; load_model settles it
    config.guessed = False  # preprocessing; load_model may have to
    # What is named twice would be measured twice.
    config.engine = list(dict.fromkeys(config.engine))
    config.batch_sizes = list(dict.fromkeys(map(batch_size_of, config.batch_size or [""])))
    refuse_empty(config)
    refuse_pairs(config)
    return config


def what_absl_says(error: flags.Error) -> str:
    """absl's error on one line, in words for a user where absl's are Python's."""
    if getattr(error, "flagname", "") == "precision":
        return "--precision is not a flag: pass --native, --fp32, --fp16 or --int8"
    text = " ".join(str(error).split())
    text = re.sub(r"\('Non-boolean .*\)", "pass true or false", text)
    return re.sub(r"invalid literal for int\(\) .*", "pass a whole number", text)


def batch_size_of(text: str) -> int | None:
    """A batch size of --batch_size's list; None for max."""
    if text == "max":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"--batch_size={text}: pass a number of images from 1 up, several with commas, or max"
        )
    return int(text)


def refuse_empty(config: Config) -> None:
    """Refuses flags with nothing behind their equals sign."""
    for name in FLAGS:
        value = getattr(config, name)
        words = value if isinstance(value, list) else [value]
        if name in config.given and "" in (words or [""]):
            raise UserError(
                f"--{name}= is empty (an unset variable?): pass a value, or leave the flag out"
            )


def refuse_pairs(config: Config) -> None:
    """Refuses flags that do not go together."""
    if config.image_file and config.image_dir:
        raise UserError("--image_file and --image_dir exclude each other: pass one of them")
    if config.samples and (config.image_file or config.image_dir):
        raise UserError("--samples and images exclude each other: pass one of them")
    if None in config.batch_sizes and not config.isolate:
        raise UserError("--batch_size=max needs a process for each try: no --noisolate")
    if None in config.batch_sizes and config.build_only:
        raise UserError(
            "--batch_size=max is found by running, which --build_only does not: pass a number of "
            "images"
        )


FLEET_FLAGS = ("gpus", "spread", "ray_address")  # the program for many devices has them


def refuse_fleet_flags(argv: list[str]) -> None:
    """Refuses flags of fleet.py with the command to type instead."""
    for word in argv[1:]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in FLEET_FLAGS and name not in FLAGS:
            raise UserError(f"--{name} is for many devices: python fleet.py {shlex.join(argv[1:])}")


def built_in(config: Config) -> bool:
    """Whether the built-in model is used: no flag names another."""
    return not (config.frozen_graph or config.savedmodel_dir or config.keras_model)


# --------------------------------------------------------------------------------- telling the user

REDRAW = 0.5  # seconds between two drawings of a bar, and between two messages about progress
PARENT: Any = None  # in a process of its own: the connection to the parent, which says and draws


@functools.cache
def terminal() -> Any:
    """The console for progress; nothing is drawn where stderr is no terminal."""
    from rich.console import Console

    return Console(stderr=True)


class Display:
    """The line at the bottom of the terminal that says what is under way.

    It is drawn without a thread of its own, which would take a core from what is being timed.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.what = ""

    def show(self, what: str, done: float = 0, total: float | None = None, unit: str = "") -> None:
        """Draws a bar of how much of `total` is done, in `unit`; without `total` the time gone.

        Another `what` takes the place of the bar before it. Nothing is drawn where stderr is no
        terminal.
        """
        if not terminal().is_terminal:
            return
        if self.bar is None or self.what != what:
            self.clear()
            self.begin(what, total)
        count = (
            f"{done:,.0f}/{total:,.0f} {unit}" if total else f"{done:,.0f} {unit}" if done else ""
        )
        self.bar.update(self.task, completed=done, total=total, count=count, refresh=True)

    def begin(self, what: str, total: float | None) -> None:
        """Starts an empty bar: with the time left where `total` is known, else the time gone."""
        from rich import progress as bars

        columns: list[Any] = ["{task.description}", bars.BarColumn(), "{task.fields[count]}"]
        columns.append(bars.TimeRemainingColumn() if total else bars.TimeElapsedColumn())
        self.bar = bars.Progress(*columns, console=terminal(), auto_refresh=False, transient=True)
        self.what = what
        self.task = self.bar.add_task(what, total=total, count="")
        self.bar.start()

    def refresh(self) -> None:
        """Draws again what is shown: the time that has gone."""
        if self.bar is not None:
            self.bar.refresh()

    def clear(self) -> None:
        """Takes the bar off the terminal, if there is one."""
        if self.bar is not None:
            self.bar.stop()
        self.bar = None


def print_sentence(sentence: str) -> None:
    """Prints one line on stderr, with the name of the program in front."""
    print(f"tensorrt.py: {sentence}", file=sys.stderr, flush=True)


DISPLAY = Display()
TELLERS: dict[str, Callable[..., None]] = {
    "say": print_sentence,
    "show": DISPLAY.show,
    "clear": DISPLAY.clear,
}


def tell(kind: str, *what: Any) -> None:
    """Says or draws something; in a case's process its parent does so before this returns."""
    if PARENT is None:
        TELLERS[kind](*what)
    else:
        PARENT.send((kind, what))
        PARENT.recv()


def say(sentence: str) -> None:
    """Prints one line for the user on stderr: it is not part of the results."""
    tell("say", sentence)


def say_in_lines(sentence: str) -> None:
    """Prints as a line what a progress bar shows where stderr is a terminal."""
    if not terminal().is_terminal:
        say(sentence)


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal what is taking so long."""
    tell("show", what)
    try:
        yield
    finally:
        tell("clear")


@contextlib.contextmanager
def progress(what: str, total: int | None, unit: str = "steps") -> Iterator[Callable[..., None]]:
    """A progress bar on stderr and the function that advances it.

    Its caller waits while it is drawn, at most twice a second: between two steps, so that drawing
    is never part of one.
    """
    done = 0
    shown = time.monotonic()
    drawn = False

    def advance(count: int = 1) -> None:
        """Counts what is done, and draws where the last drawing is REDRAW seconds ago."""
        nonlocal shown, done, drawn
        done += count
        if time.monotonic() - shown > REDRAW:
            tell("show", what, done, total, unit)
            shown = time.monotonic()
            drawn = True

    try:
        yield advance
    finally:
        if drawn:
            tell("clear")


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """The first line of an error that says something, for use in a sentence."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", reason_of(str(error)))  # TensorFlow's names of nodes
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    line = lines[0]
    if len(line) > limit:  # half a number would be another one
        line = (line[:limit].rpartition(" ")[0] or line[:limit]) + " …"
    return line.rstrip(".:")


def reason_of(text: str) -> str:
    """What TensorFlow or ONNX Runtime found, without the trace that they put around it."""
    text = text.rpartition("Fallback to flat signature also failed due to: ")[2]
    if text.startswith("Graph execution error:"):  # the call stack, the reason, [[{{the node
        text = re.split(CALL_STACK, text.partition("[[{{")[0])[-1].strip()
    text = re.sub(r"^\d+ root error\(s\) found\.\s*\(0\)\s*(\w+:)\s*", r"\1 ", text)
    return re.sub(ONNX_RUNTIME_TRACE, r"\1: ", text)


CALL_STACK = (
    r"(?m)^(?:Graph execution error:|Detected at node .*|<stack traces unavailable>|Node: .*"
    r'|  File ".*(?:\n    .*)?)$'
)
# Of "… while running Gather node. Name:'a/long/path' Status Message: /its/source.h:42 the reason"
ONNX_RUNTIME_TRACE = (
    r"^.*Non-zero status code returned while running (\w+ node)\. Name:'.*?' "
    r"Status Message: (?:/\S+:\d+ )?"
)


@contextlib.contextmanager
def redirected(file: Any, *descriptors: int) -> Iterator[None]:
    """Sends to a file what libraries write to stdout or stderr."""
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in descriptors}
    for descriptor in saved:
        os.dup2(file.fileno(), descriptor)
    try:
        yield
    finally:
        for descriptor, kept in saved.items():
            os.dup2(kept, descriptor)
            os.close(kept)


@contextlib.contextmanager
def quiet(*descriptors: int) -> Iterator[None]:
    """Keeps off the terminal what libraries write while they start; stderr unless told."""
    with open(os.devnull, "w") as nowhere, redirected(nowhere, *(descriptors or (2,))):
        yield


# -------------------------------------------------------------------------------------------- files

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def disk_error(error: OSError, path: str | Path) -> UserError:
    """What to say where a file cannot be written."""
    what = f"{path} cannot be written ({error.strerror or error}):"
    if error.errno in NO_SPACE:
        what = f"the disk is full ({path}): free some space, or"
    return UserError(f"{what} pass another --output_dir")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes the whole file or nothing: beside it first, then renamed.

    Raises:
      UserError: it cannot be written; a full disk is called one.
    """
    try:
        # A GPU's own folder, or one that was removed since.
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(part, 0o644)
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise disk_error(error, path) from error


def write_artifact(path: Path, data: bytes, start: float, facts: dict[str, Any]) -> Artifact:
    """Writes what an engine runs, built since `start`."""
    write_atomically(path, data)
    return Artifact(str(path), sha256_of(data), time.perf_counter() - start, facts=facts)


def read_unchanged(path: str, sha256: str) -> bytes:
    """A file's bytes, as this run wrote or loaded them.

    Raises:
      UserError: they are others: another run writes into the same folder.
    """
    data = Path(path).read_bytes()
    if sha256_of(data) != sha256:
        raise UserError(
            f"{path} was overwritten while this ran: give each run an --output_dir of its own"
        )
    return data


def sha256_of(data: bytes) -> str:
    """The SHA-256 of bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@functools.cache
def load_file(name: str, path: Path) -> Any:
    """A Python file as the module of that name, which is loaded once."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------- the machine


@functools.cache
def version_of(*packages: str) -> str | None:
    """The version of the first of these packages that is installed, without importing it.

    Looking through the metadata takes a millisecond, and a record asks for ten.
    """
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return None


def import_tensorflow(config: Config, hide_gpus: bool = False) -> Any:
    """TensorFlow, quiet, with memory growth, the asked number of threads and TF32 setting.

    Raises:
      UserError: TensorFlow is not installed or does not load.
    """
    try:
        with quiet():
            import tensorflow as tf
    except Exception as error:  # a broken install fails in many ways
        remedy = "pip install -r requirements.txt"
        raise UserError(f"TensorFlow cannot be imported ({one_line(error)}): {remedy}") from error
    tf.get_logger().setLevel("ERROR")
    # Already initialised, by an earlier case of --noisolate.
    with quiet(), contextlib.suppress(RuntimeError):
        if hide_gpus:
            tf.config.set_visible_devices([], "GPU")
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
        tf.config.threading.set_intra_op_parallelism_threads(config.threads)
        tf.config.list_logical_devices()
    tf.config.experimental.enable_tensor_float_32_execution(config.tf32)
    return tf


def cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def refuse_threads(config: Config, there: int) -> None:
    """Refuses more threads than cores, which wait for one another: no engine's speed.

    Args:
      there: how many cores a case has.
    """
    if config.threads > there:
        raise UserError(
            f"--threads={config.threads}: there {'are' if there > 1 else 'is'} {there} "
            f"core{'s' * (there > 1)}: pass as many or fewer, or 0 for all"
        )


@functools.cache
def cpu_info() -> str:
    """What the kernel says of the CPU, or what Python knows where there is no /proc."""
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return f"model name : {platform.processor() or platform.machine()}"


def device_name(config: Config) -> str:
    """What computes: the GPU's name, or the CPU's and the number of threads."""
    named = re.search(r"model name\s*: (.*)", cpu_info())
    cpu = named.group(1) if named else platform.machine()
    threads = config.threads or len(cores())
    return gpus()[0]["name"] if gpus() else f"{cpu}, {threads} thread{'s' * (threads > 1)}"


@functools.cache
def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that this process may use, by NVML."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
        found = []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if visible is not None and not {str(index), nvml.nvmlDeviceGetUUID(handle)} & set(
                visible.split(",")
            ):
                continue
            capability = ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(handle)))
            found.append(
                {
                    "index": index,
                    "name": nvml.nvmlDeviceGetName(handle),
                    "compute_capability": capability,
                    "memory_mb": nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
                    "driver": nvml.nvmlSystemGetDriverVersion(),
                }
            )
        return found
    except Exception:  # no package, no driver, no GPU: NVML has a class of its own for each
        return []


def free_memory() -> int:
    """Bytes of RAM that a process can still allocate, by the kernel's own estimate."""
    with contextlib.suppress(OSError):
        available = re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())
        if available:
            return 1024 * int(available.group(1))
    return memory_size() // 2


def memory_size() -> int:
    """Bytes of RAM that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ---------------------------------------------------------------------------- processes that answer

PRELOADED = ["__main__", "tensorflow"]  # the program first: it takes its folder off sys.path
NO_MEMORY = (
    r"out.?of.?memory|\bOOM\b|resource.?exhausted|bad_alloc|MemoryError|[Ff]ailed to allocate"
)

CUDNN_RNN = "CudnnRNN"
CUDNN_RNN_REMEDY = (
    "an LSTM or GRU that Keras saved on a GPU is cuDNN's own op, which only native on a GPU runs: "
    "build the layer with use_cudnn=False (Keras 2: RNN(LSTMCell(units))) and save it again"
)


class CaseError(Exception):
    """What a library raised, in one line: the case has failed, the run goes on."""


class ProcessDied(Exception):
    """A process ended without answering: the signal's name, and the last that it wrote."""


CASE_ENDS = (UserError, CaseError, ProcessDied)


def why_it_ended(error: Exception) -> str:
    """One of CASE_ENDS as a record tells it."""
    return f"the case's {error}" if isinstance(error, ProcessDied) else str(error)


@contextlib.contextmanager
def failures_in_one_line() -> Iterator[None]:
    """Turns every error but a UserError into a CaseError, with the remedy where it is known."""
    try:
        yield
    except (UserError, CaseError):
        raise
    except Exception as error:
        text = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            text = str(disk_error(error, error.filename or tempfile.gettempdir()))
        if re.search(NO_MEMORY, f"{text} {error}", re.I):
            text = f"out of memory: pass a smaller --batch_size ({text})"
        if CUDNN_RNN in str(error):
            text = f"{CUDNN_RNN_REMEDY} ({text})"
        raise CaseError(text) from error


@functools.cache
def process_context() -> Any:
    """Starts processes that have TensorFlow imported already, by multiprocessing's fork server.

    The server imports TensorFlow but never starts its runtime nor touches a GPU, so that what it
    forks is clean. Processes are spawned where Python has no fork server.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with without_ctrl_c(), main_passed_on(), away_from_here(), quiet(1, 2):
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def main_passed_on() -> Iterator[None]:
    """Tells the fork server which main module to import: Python < 3.12.8 forgets (gh-126631)."""
    from multiprocessing import spawn

    real = spawn.get_preparation_data
    before = os.environ.get("PYTHONPATH")

    def with_main_path(name: str) -> dict[str, Any]:
        """multiprocessing's own, with the path also by the name that the fork server reads."""
        data = real(name)
        return {**data, "main_path": data.get("init_main_from_path")}

    spawn.get_preparation_data = with_main_path
    os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    try:
        yield
    finally:
        spawn.get_preparation_data = real
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def away_from_here() -> Iterator[None]:
    """Starts the fork server in the root folder: it would import what lies in the current one."""
    before = os.getcwd()
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Keeps Ctrl-C, which a terminal sends to all, from a process that starts here."""
    from multiprocessing import resource_tracker

    # Its own start would let Ctrl-C in again (Python 3.10 to 3.12).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


STOPS = (signal.SIGINT, signal.SIGTERM)
TERMINATED = False  # whether it was SIGTERM that ended the run


def terminate(*_: Any) -> NoReturn:
    """SIGTERM's handler: timeout, Slurm and docker stop end a run as Ctrl-C does.

    The first is enough; timeout sends a second.
    """
    global TERMINATED
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    TERMINATED = True
    raise KeyboardInterrupt


def heed_signals() -> None:
    """Has Ctrl-C and SIGTERM end a run with what was measured, unless they are ignored."""
    for number, handler in zip(STOPS, (signal.default_int_handler, terminate)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the end of the block."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # they never come to another
        yield
        return
    # None: a handler that a library installed in C, and Python could not put back.
    held = [number for number in STOPS if signal.getsignal(number) is not None]
    before = {number: signal.signal(number, lambda sent, _: came.append(sent)) for number in held}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def start_process(*args: Any) -> Any:
    """A process that does answer_requests(*args)."""
    process = process_context().Process(target=answer_requests, args=args, daemon=True)
    try:
        process.start()
    # The server died of what it imports: spawned, the process says of what.
    except (EOFError, OSError):
        process = multiprocessing.get_context("spawn").Process(
            target=answer_requests, args=args, daemon=True
        )
        process.start()
    return process


class Worker:
    """A process of its own that makes an object and calls its methods, one request at a time."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        handle, self.words = tempfile.mkstemp(prefix="tensorrt_py_")  # what it writes to stderr
        os.close(handle)
        self.busy = False
        self.connection, theirs = multiprocessing.Pipe()
        with without_ctrl_c():
            self.process = start_process(make, args, theirs, self.words)
        theirs.close()

    def ask(self, name: str, *given: Any) -> Any:
        """The object's method of that name, called there after what was requested before.

        Raises:
          UserError, CaseError: the method did.
          ProcessDied: no answer came.
        """
        if self.busy:
            self.answer()
        self.request(name, *given)
        return self.answer()

    def request(self, name: str, *given: Any) -> None:
        """Sends a request and returns at once; what comes of it, `answer` gives or raises."""
        self.busy = True
        with contextlib.suppress(OSError):  # it has died; told when the answer is waited for
            self.connection.send((name, given))

    def answer(self) -> Any:
        """Waits for the answer to a request; meanwhile says and draws what the process asks for."""
        while True:
            kind, what = self.receive()
            if kind == "answer":
                return what
            if kind == "error":
                raise what
            TELLERS[kind](*what)
            self.connection.send(None)

    def receive(self) -> Any:
        """The next message: `answer` or `error` with what came of a request, or one of TELLERS.

        Raises:
          ProcessDied: it ended before it answered.
        """
        try:
            while terminal().is_terminal and not self.connection.poll(REDRAW):
                DISPLAY.refresh()
            kind, what = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            DISPLAY.clear()
            words = Path(self.words).read_text(errors="replace")
            raise ProcessDied(last_words(self.process.exitcode, words)) from None
        self.busy = kind not in ("answer", "error")
        return kind, what

    def close(self) -> None:
        """Ends the process: nothing that it holds is still needed."""
        if not self.busy:
            with contextlib.suppress(OSError):
                self.connection.send(("", ()))
            self.process.join(LEAVING)
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()
        Path(self.words).unlink(missing_ok=True)


LEAVING = 5  # seconds that a process may take to end by itself


class Here:
    """The same requests answered in this process, for debugging."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self.make = functools.cache(lambda: make(*args))

    def ask(self, name: str, *given: Any) -> Any:
        """What the method returns; every error but a UserError comes as a CaseError."""
        with failures_in_one_line():
            return getattr(self.make(), name)(*given)

    def close(self) -> None:
        """Lets the object go; the next request makes another."""
        self.make.cache_clear()


def start(config: Config, make: Callable[..., Any], *args: Any) -> Worker | Here:
    """make(*args) in a process of its own, or in this one with --noisolate, ready to be asked."""
    return (Worker if config.isolate else Here)(make, *args)


def answer_requests(make: Callable[..., Any], args: Any, connection: Any, words: str) -> None:
    """The loop of such a process: answers requests until it is told to end or its parent dies."""
    global PARENT
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    with open(words, "w") as file:
        os.dup2(file.fileno(), 2)
    PARENT = connection
    answers = None
    while True:
        name, given = connection.recv()
        if not name:
            remove_autograph_files()
            # TensorFlow would take 1.5 s to clean up what the kernel takes back at once
            os._exit(0)
        try:
            with failures_in_one_line():
                answers = answers or make(*args)
                reply = "answer", getattr(answers, name)(*given)
        except (UserError, CaseError) as error:
            reply = "error", error
        connection.send(reply)


def remove_autograph_files() -> None:
    """Removes the sources that AutoGraph wrote: it would at exit, which os._exit skips."""
    for name, module in list(sys.modules.items()):
        if name.startswith("__autograph_generated_file"):
            with contextlib.suppress(OSError):
                Path(str(module.__file__)).unlink()


def die_with_parent() -> None:
    """Ends this process as soon as its parent has ended, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def last_words(exit_code: int, stderr: str) -> str:
    """Why a process died: the signal's name, and the end of what it wrote."""
    how = f"ended with status {exit_code}"
    if exit_code < 0:
        how = f"died of {signal.Signals(-exit_code).name}"
    hint = " (out of memory? pass a smaller --batch_size)" if exit_code == -signal.SIGKILL else ""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"@ +0x|\*\*\* ", line)]  # a stack's frames
    return f"process {how}{hint}" + (f": {' | '.join(lines[-3:])[-300:]}" if lines else "")


# ---------------------------------------------------------------------------------------- downloads

DOWNLOAD_TRIES = 3
DOWNLOAD_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces


def is_url(text: str) -> bool:
    """Whether a flag names an address instead of a path."""
    return "://" in text


def cache_folder() -> Path:
    """Where downloads and chosen kernels are kept from run to run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tensorrt-benchmark"


def fetch(url: str, limit_mb: int) -> Path:
    """A file in the cache folder, downloaded once; resumes partial downloads.

    Raises:
      UserError: not http(s), no answer, an error status, a web page, a wrong length or too much.
    """
    import requests

    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http:// and https:// are downloaded")
    folder = cache_folder()
    name = Path(url.split("?")[0]).name or "download"
    final = folder / f"{sha256_of(url.encode())[:16]}-{name}"
    part = final.with_name(final.name + ".part")
    folder.mkdir(parents=True, exist_ok=True)
    for tries_left in reversed(range(DOWNLOAD_TRIES)):
        if final.exists():
            break
        try:
            fetch_rest(url, part, name, limit_mb)
            os.replace(part, final)
        except requests.RequestException as error:  # these are OSErrors too
            if not tries_left:
                raise UserError(
                    f"{url}: the download failed ({type(error).__name__}): check the address, or "
                    "try again to resume it"
                ) from error
        except OSError as error:
            what = "the disk is full" if error.errno in NO_SPACE else error.strerror
            raise UserError(
                f"{url} cannot be kept in {folder} ({what}): set XDG_CACHE_HOME to another folder"
            ) from error
    return final


def fetch_rest(url: str, part: Path, name: str, limit_mb: int) -> None:
    """Appends to `part` what it still lacks; starts over if the server cannot resume."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=DOWNLOAD_TIMEOUT) as answer:
        if answer.status_code == 416:  # there is no rest: the part is of another file
            part.unlink()
            raise requests.ConnectionError("cannot resume")
        if not answer.ok:
            raise UserError(
                f"{url}: the server answered {answer.status_code} {answer.reason}: check the "
                "address"
            )
        if "text/html" in answer.headers.get("Content-Type", ""):
            raise UserError(
                f"{url} is a web page, not a model: pass the address of the file itself"
            )
        have = have if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        refuse_over(limit_mb, total or 0, url)
        with (
            open(part, "ab" if have else "wb") as file,
            progress(f"Downloading {name}", total, "bytes") as advance,
        ):
            advance(have)
            for piece in answer.iter_content(1 << 18):
                file.write(piece)
                refuse_over(limit_mb, file.tell(), url)
                advance(len(piece))
    size = part.stat().st_size
    if total is not None and size > total:
        part.unlink()
        raise UserError(f"{url}: the server sent {size} bytes and had announced {total}: refused")
    if total is not None and size < total:
        raise requests.ConnectionError(f"{size} of {total} bytes")


def refuse_over(limit_mb: int, size: int, url: str) -> None:
    """Refuses a download or archive of a `size` in bytes over the limit in MB."""
    if size > limit_mb << 20:
        raise UserError(
            f"{url} is over {limit_mb} MB: pass a larger --max_download_mb if you trust it"
        )


def fetch_savedmodel(url: str, limit_mb: int) -> Path:
    """The folder with saved_model.pb in a .tar.gz, which is downloaded and unpacked once."""
    archive = fetch(url, limit_mb)
    folder = archive.with_name(archive.name + ".unpacked")
    if not folder.exists():
        unpack(archive, folder, url, limit_mb)
    found = sorted(folder.rglob("saved_model.pb"))
    if not found:
        raise UserError(
            f"{url}: no saved_model.pb in the archive: pass the .tar.gz of a SavedModel's folder"
        )
    return found[0].parent


def unpack(archive: Path, folder: Path, url: str, limit_mb: int) -> None:
    """Unpacks the whole archive into a new folder, or nothing."""
    if not hasattr(tarfile, "data_filter"):
        raise UserError("this Python cannot unpack archives safely: take 3.10.12, 3.11.4 or newer")
    part = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        with tarfile.open(archive) as tar:
            unpacked = 0
            for member in tar:  # one by one: a bomb is refused before it is unpacked
                unpacked += member.size
                refuse_over(limit_mb, unpacked, f"{url}, unpacked,")
                tar.extract(member, part, filter="data")
        os.replace(part, folder)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise UserError(
                f"{url} cannot be unpacked: the disk is full ({folder.parent}): set "
                "XDG_CACHE_HOME to another folder"
            ) from error
        archive.unlink()
        raise UserError(
            f"{url} cannot be unpacked safely as a .tar.gz ({one_line(error)})"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


# ------------------------------------------------------------------------------------------ samples

# name: (channels reversed to BGR, factor, offset) of pixels in [0, 255]
PREPROCESSING: dict[str, tuple[bool, Any, Any]] = {
    "vgg": (False, 1.0, (-123.68, -116.78, -103.94)),  # tensorflow/models, vgg_preprocessing
    "inception": (False, 1 / 127.5, -1.0),
    # torchvision: the mean and deviation of ImageNet.
    "torch": (False, (1 / 58.395, 1 / 57.12, 1 / 57.375), (-2.117904, -2.035714, -1.804444)),
    "caffe": (True, 1.0, (-103.939, -116.779, -123.68)),
    "none": (False, 1.0, 0.0),
}


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".gif", ".bmp"}
CENTRAL = 256 / 224  # the official ResNets resize the shorter side to 256 and keep the central 224
LARGEST_IMAGE = 1 << 26  # values; a network's input is nowhere near


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is fed: arrays by the inputs' names, a sample a row; the rows' names and class ids.

    `whole` has the inputs without an axis of samples, the same in every step. `alone`: the graph
    has no batch, so that a step takes one row, without its axis.
    """

    arrays: Feed
    names: list[str]
    labels: list[int] | None = None
    random: bool = False
    whole: Feed = dataclasses.field(default_factory=dict)
    alone: bool = False

    unit: ClassVar[Literal["images", "samples"]] = "samples"  # what is counted

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, size: int, first: int = 0) -> Feed:
        """A step's inputs: `size` samples from `first` on, repeated as needed; the caller's own."""
        rows = np.arange(first, first + size) % len(self)
        feed = {name: array[rows] for name, array in self.arrays.items()}
        if self.alone:
            feed = {name: array[0, ...] for name, array in feed.items()}
        return {**feed, **{name: array.copy() for name, array in self.whole.items()}}

    def head(self, count: int) -> Samples:
        """The first `count` samples."""
        return dataclasses.replace(
            self,
            arrays={name: array[:count] for name, array in self.arrays.items()},
            names=self.names[:count],
            labels=self.labels and self.labels[:count],
        )

    def shapes(self) -> dict[str, list[int]]:
        """The shape of a sample of each input, and of those that have no samples."""
        rows = {name: list(array.shape[1:]) for name, array in self.arrays.items()}
        return rows | {name: list(array.shape) for name, array in self.whole.items()}

    def digests(self) -> list[str]:
        """A hash of each sample's values."""
        rows = zip(*self.arrays.values())
        return [sha256_of(b"".join(array.tobytes() for array in row)) for row in rows]

    def digest(self) -> str:
        """The hash of all values."""
        parts = [array.tobytes() for array in (*self.arrays.values(), *self.whole.values())]
        return sha256_of(b"".join(parts))


@dataclasses.dataclass(frozen=True)
class Images(Samples):
    """Samples of one input: uint8 pixels [n, height, width, channels].

    Its batches have the graph's layout and are preprocessed, unless its input is uint8.
    """

    preprocessing: str = "none"
    layout: str = "NHWC"
    dtype: str = "float32"

    unit = "images"

    def batch(self, size: int, first: int = 0) -> Feed:
        """A step's inputs as the graph takes them, preprocessed and in its layout."""
        different = min(size, len(self))  # thousands of images are preprocessed once each
        ((name, batch),) = super().batch(different, first).items()
        if self.dtype != "uint8":
            reverse, factor, offset = PREPROCESSING[self.preprocessing]
            batch = (batch[..., ::-1] if reverse else batch).astype(np.float32)
            batch *= np.float32(factor)
            batch += np.float32(offset)
        if self.layout == "NCHW":
            batch = batch.transpose(0, 3, 1, 2)
        repeated = batch if size == different else batch[np.arange(size) % different]
        return {name: np.ascontiguousarray(repeated)}


def samples_of(found: dict[str, Any]) -> Samples:
    """Samples from plain data."""
    return Images(**found) if "layout" in found else Samples(**found)


def load_samples(config: Config, graph: Graph, count: int) -> Samples:
    """At most `count` different samples for a graph: those of the flags, or random ones.

    Raises:
      UserError: a file that does not have them, or an input whose shape nothing tells.
    """
    if "int8" in config.precisions:  # what is wrong there is found out before the measuring
        if config.calibration_samples:
            read_samples(config.calibration_samples, graph, 1, "--calibration_samples")
        if config.calibration_dir:
            image_paths(config.calibration_dir, "--calibration_dir")
    if config.samples:
        if config.input_range:
            say("--input_range has no effect beside --samples: it is for random data")
        return read_samples(config.samples, graph, config.num_images, "--samples")
    if graph.layout:
        return load_images(config, graph, count)
    return random_samples(config, graph, count)


def load_images(config: Config, graph: Graph, count: int) -> Images:
    """The same for a graph of images."""
    shape = graph.image_shape
    refuse_too_large(graph, count)
    refuse_channels(config, graph)
    if config.image_dir:
        return read_folder(config, graph, config.image_dir, config.num_images, "--image_dir")[0]
    if config.image_file:
        if os.path.isdir(config.image_file):
            raise UserError(f"{config.image_file} is a folder: pass it with --image_dir")
        if not os.path.isfile(config.image_file):
            raise UserError(f"{config.image_file}: no such file: pass an image with --image_file")
        pixels = read_image(config.image_file, shape)[None]
        return images_of(config, graph, pixels, [Path(config.image_file).name])
    say("no --image_file or --image_dir: random pixels are fed, and predictions mean nothing")
    pixels = np.random.default_rng(config.seed).integers(0, 256, (count, *shape), np.uint8)
    names = [f"random {index}" for index in range(count)]
    return images_of(config, graph, pixels, names, random=True)


def images_of(
    config: Config, graph: Graph, pixels: np.ndarray, names: list[str], **facts: Any
) -> Images:
    """Pixels [n, height, width, channels] as the graph takes them."""
    (source,) = graph.inputs
    return Images(
        {source.name: pixels},
        names,
        preprocessing=config.preprocessing,
        layout=graph.layout,
        dtype=source.dtype,
        **facts,
    )


def refuse_channels(config: Config, graph: Graph) -> None:
    """Refuses a preprocessing for three colours of a graph that takes another number of them."""
    channels = graph.image_shape[2]
    for_colours = np.ndim(PREPROCESSING[config.preprocessing][2]) > 0
    if for_colours and channels != 3:
        raise UserError(
            f"--preprocessing={config.preprocessing} is for 3 colours and the graph takes "
            f"{channels}: pass --preprocessing=none or inception, or another --input_node"
        )


def refuse_too_large(graph: Graph, count: int) -> None:
    """Refuses images that no network takes and batches that no memory holds (uint8 and float32)."""
    shape = graph.image_shape
    needed = 5 * math.prod(shape) * count
    if math.prod(shape) > LARGEST_IMAGE or needed > memory_size() / 2:
        raise UserError(
            f"{graph.inputs[0].name} takes images of {' x '.join(map(str, shape))} values: "
            f"{count} of them need {needed / 1e9:,.1f} GB; pass a smaller --batch_size or another "
            "--input_node"
        )


def read_image(path: str | Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image as uint8 [height, width, channels]: its shorter side resized, the middle cut out.

    As the official TensorFlow ResNets are evaluated: bilinear, no antialiasing.
    """
    import tensorflow as tf

    height, width, channels = shape
    image = decode_image(path, channels)
    scale = max(round(height * CENTRAL) / image.shape[0], round(width * CENTRAL) / image.shape[1])
    rows, columns = (
        max(round(side * scale), crop) for side, crop in zip(image.shape[:2], (height, width))
    )
    resized = tf.image.resize(image, (rows, columns)).numpy()
    top = (rows - height) // 2
    left = (columns - width) // 2
    return np.rint(resized[top : top + height, left : left + width]).astype(np.uint8)


ORIENTATION = 0x0112  # EXIF's tag


def decode_image(path: str | Path, channels: int) -> np.ndarray:
    """An image as uint8 [height, width, channels], turned as its EXIF data say."""
    import tensorflow as tf
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with quiet(), Image.open(path) as header:  # reads no pixels yet; libjpeg writes to stderr
            if math.prod(header.size) > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise ValueError(f"{header.size[0]} x {header.size[1]} pixels are too many")
            # Of BMPs TensorFlow takes the channels that there are.
            wanted = 0 if header.format == "BMP" else channels
            turn = header.getexif().get(ORIENTATION, 1)
            pixels = tf.io.decode_image(
                tf.io.read_file(str(path)), channels=wanted, expand_animations=False
            ).numpy()
    except (
        tf.errors.OpError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        why = one_line(error, 80)
        if isinstance(error, UnidentifiedImageError):
            why = "no image's header"
        raise UserError(
            f"{path} is not a complete JPEG, PNG, GIF or BMP ({why}): pass another"
        ) from error
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image = image.convert("L" if channels == 1 else "RGB")
    image.getexif()[ORIENTATION] = turn
    turned = ImageOps.exif_transpose(image)
    return np.asarray(turned).reshape(turned.height, turned.width, channels)


def image_paths(folder: str, flag: str) -> list[Path]:
    """The images below a folder, one of each class folder in turn: a few show many classes."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder: pass a folder of images with {flag}")
    groups = collections.defaultdict(list)
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            groups[path.parent].append(path)
    in_turn = [path for row in itertools.zip_longest(*groups.values()) for path in row if path]
    if not in_turn:
        raise UserError(
            f"{folder} holds no JPEG, PNG, GIF or BMP: pass a folder of images with {flag}"
        )
    return in_turn


def read_folder(
    config: Config, graph: Graph, folder: str, count: int, flag: str
) -> tuple[Images, int]:
    """Up to `count` images below a folder, and how many files could not be read.

    Of --image_dir, images in folders named by class id or synset id have that class; with one
    elsewhere none has.
    """
    root = Path(folder)
    in_turn = image_paths(folder, flag)
    if flag == "--image_dir" and len(in_turn) > count:
        say(
            f"{folder}: {count} of its {len(in_turn)} images are read; a larger --num_images "
            "takes more"
        )
    found, unreadable = read_images(in_turn, graph.image_shape, count, root.name)
    if not found:
        raise UserError(
            f"{folder}: none of its {unreadable} images can be read: pass another folder with "
            f"{flag}"
        )
    labels = None
    # What is calibrated on needs none, and --label goes before the folders' names.
    if flag == "--image_dir" and config.label is None:
        labels = folder_labels(root, [*found], config.labels_are_zero_indexed)
    names = [str(path.relative_to(root)) for path in found]
    pixels = np.stack([*found.values()])
    return images_of(config, graph, pixels, names, labels=labels), unreadable


def read_images(
    in_turn: list[Path], shape: tuple[int, int, int], count: int, name: str
) -> tuple[dict[Path, np.ndarray], int]:
    """The pixels of the first `count` readable files, and how many were unreadable."""
    found: dict[Path, np.ndarray] = {}
    unreadable = 0
    with progress(f"Reading {name}", min(count, len(in_turn)), "images") as advance:
        for path in in_turn:
            if len(found) == count:
                break
            try:
                found[path] = read_image(path, shape)
                advance()
            except UserError as error:
                unreadable += 1
                say(f"{error}: skipped")
    return found, unreadable


def folder_labels(root: Path, paths: list[Path], zero_indexed: bool) -> list[int] | None:
    """The class ids of images by their folders, or None where one tells none, which is said."""
    labels = [
        class_id(path.parent.name, zero_indexed) if path.parent != root else None for path in paths
    ]
    known = [label for label in labels if label is not None]
    strange = {path.parent.name for path, label in zip(paths, labels) if label is None}
    if strange - {root.name} or (strange and known):
        say(f"no accuracy: {', '.join(sorted(strange))} in {root} is not a class id or synset id")
    return known if len(known) == len(paths) else None


def class_id(folder: str, zero_indexed: bool = False) -> int | None:
    """The class id that names a folder: `282` as it stands, or a synset such as `n02123045`."""
    if folder.isdecimal():
        return int(folder)
    synsets = (HERE / "synsets.txt").read_text().split() if re.fullmatch(r"n\d{8}", folder) else []
    return synsets.index(folder) + (not zero_indexed) if folder in synsets else None


def read_samples(given: str, graph: Graph, count: int, flag: str) -> Samples:
    """The first `count` samples in a .npz file or a folder of .npy files.

    Raises:
      UserError: no such file, or not the arrays that the graph takes.
    """
    found = read_arrays(given, flag)
    samples = Samples({}, [], alone=not graph.batched)
    for tensor in graph.inputs:
        array = array_of(tensor, found)
        if array is None:
            has = ", ".join(found) or "no array"
            raise not_wanted(given, graph, f"no array {tensor.title} (it has {has})")
        add_array(samples, tensor, array, graph, given)
    if flag == "--samples":  # once: they are read for calibration too
        say_what_is_not_fed(found, graph, given)
    fed = [tensor for tensor in graph.inputs if tensor.name in samples.arrays]
    counts = {tensor.title: len(samples.arrays[tensor.name]) for tensor in fed}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        told = ", ".join(f"{title} {rows}" for title, rows in counts.items())
        raise not_wanted(given, graph, f"as many samples of each are wanted, at least one ({told})")
    (rows,) = set(counts.values())
    if rows > count and flag == "--samples":
        say(f"{given}: {count} of its {rows} samples are read; a larger --num_images takes more")
    names = [f"sample {row}" for row in range(rows)]
    whole = dataclasses.replace(samples, names=names, labels=labels_in(found, graph, rows, given))
    return whole.head(count)


def add_array(
    samples: Samples, tensor: Tensor, array: np.ndarray, graph: Graph, given: str
) -> None:
    """Puts an input's array among those with rows, or among those without."""
    shape = sample_shape(graph, tensor)
    array = as_type(array, tensor, graph, given)
    has_rows = samples.alone or tensor.name in graph.batched
    if tensor.name not in graph.batched and fits(array.shape, shape):
        if samples.alone:
            samples.arrays[tensor.name] = array[None]
        else:
            samples.whole[tensor.name] = array
    elif has_rows and array.ndim and fits(array.shape[1:], shape):
        samples.arrays[tensor.name] = array
    else:
        raise not_wanted(given, graph, f"{tensor.title} has shape {list(array.shape)}")


def read_arrays(given: str, flag: str) -> Feed:
    """The arrays of a .npz file, or of the .npy files in a folder, by their names."""
    path = Path(given)
    if not path.exists():
        raise UserError(f"{given}: no such file: pass a .npz, or a folder of .npy, with {flag}")
    try:  # by default NumPy loads no objects, which could run code
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            return {file.stem: np.load(file) for file in files}
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz")  # NumPy would take it for objects
        with np.load(path) as arrays:
            return dict(arrays)
    # NumPy raises what zipfile, zlib and its own parser happen to raise.
    except Exception as error:
        raise UserError(
            f"{given} cannot be read as arrays of numbers ({one_line(error, 80)}): write it by "
            "numpy.savez, an array for each input"
        ) from error


def array_of(tensor: Tensor, found: Feed) -> np.ndarray | None:
    """An input's array, by its key, its name, or its name without the index."""
    for name in (tensor.title, tensor.name, tensor.name.removesuffix(":0")):
        if name in found:
            return found[name]
    return None


def sample_shape(graph: Graph, tensor: Tensor) -> tuple[int | None, ...] | None:
    """The shape of one sample of an input, None where even the rank is open."""
    if tensor.shape is None:
        return None
    return tensor.shape[1:] if tensor.name in graph.batched else tensor.shape


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    """Whether an input takes arrays of a shape."""
    if wanted is None:
        return True
    sides = zip(shape, wanted)
    return len(shape) == len(wanted) and all(side in (None, mine) for mine, side in sides)


def as_type(array: np.ndarray, tensor: Tensor, graph: Graph, given: str) -> np.ndarray:
    """An array in an input's type, where no value changes but by its rounding."""
    kind = np.dtype(tensor.dtype)
    if array.dtype == kind:
        return array
    if not np.can_cast(array.dtype, kind, "same_kind"):
        raise not_wanted(given, graph, f"{tensor.title} has type {array.dtype}")
    with np.errstate(over="ignore"):  # it is looked at here
        cast = array.astype(kind)
    changed = cast != array if kind.kind in "iu" else np.isinf(cast) & ~np.isinf(array)
    if changed.any():
        raise not_wanted(given, graph, f"{tensor.title} has values that {kind} cannot hold")
    return cast


def say_what_is_not_fed(found: Feed, graph: Graph, given: str) -> None:
    """A sentence on arrays that are no input's: one may be `labels` with a slip of the pen."""
    taken = [id(array_of(tensor, found)) for tensor in graph.inputs]
    rest = [name for name, array in found.items() if id(array) not in taken]
    if left := ", ".join(name for name in rest if name != "labels"):
        say(f"{given}: {left} is not fed: no input has that name")


def labels_in(found: Feed, graph: Graph, rows: int, given: str) -> list[int] | None:
    """The class ids in the array `labels`, unless an input has that name."""
    labels = found.get("labels")
    if labels is None or any(array_of(tensor, found) is labels for tensor in graph.inputs):
        return None
    if labels.shape != (rows,) or labels.dtype.kind not in "iu":
        raise UserError(
            f"{given}: labels is {list(labels.shape)} {labels.dtype}: pass one integer for each of "
            f"the {rows} samples, or leave it out"
        )
    return labels.tolist()


def not_wanted(given: str, graph: Graph, what: str) -> UserError:
    """An error on arrays, with what the graph takes."""
    return UserError(f"{given}: {what}: {graph.name} takes {inputs_text(graph.inputs)}")


def inputs_text(tensors: Sequence[Tensor]) -> str:
    """Inputs with their shapes and types, as an error lists them."""
    return ", ".join(map(str, tensors))


def by_input(words: list[str], flag: str, tensors: Sequence[Tensor]) -> dict[str, str]:
    """What a flag such as --input_shape=ids:128,mask:128 says, by the tensors' names."""
    named = {tensor.title: tensor.name for tensor in tensors}
    named |= {tensor.name.removesuffix(":0"): tensor.name for tensor in tensors}
    found = {}
    for word in words:
        title, colon, value = word.partition(":")
        if not colon or title not in named:
            raise UserError(
                f"{flag}={word}: pass NAME:VALUE with an input's name (there are: "
                f"{inputs_text(tensors)})"
            )
        found[named[title]] = value
    return found


def random_samples(config: Config, graph: Graph, count: int) -> Samples:
    """`count` random samples: integers from 0 to 1 and normal floats, or of --input_range."""
    shapes = closed_shapes(graph)
    refuse_too_many(graph, shapes, count)
    ranges = by_input(config.input_range, "--input_range", graph.inputs)
    generator = np.random.default_rng(config.seed)
    names = [f"random {index}" for index in range(count)]
    samples = Samples({}, names, random=True, alone=not graph.batched)
    told = []
    for tensor in graph.inputs:
        has_rows = samples.alone or tensor.name in graph.batched
        shape = (count, *shapes[tensor.name]) if has_rows else shapes[tensor.name]
        place = samples.arrays if has_rows else samples.whole
        place[tensor.name], what = random_array(generator, tensor, shape, ranges.get(tensor.name))
        told.append(f"{tensor.title} {what}")
    remedy = "--input_range=NAME:LOW:HIGH sets others"
    say(f"no --samples: random data is fed, {', '.join(told)} ({remedy})")
    return samples


def random_array(
    generator: np.random.Generator, tensor: Tensor, shape: tuple[int, ...], limits: str | None
) -> tuple[np.ndarray, str]:
    """Random values of an input's type, from `LOW:HIGH`, both inclusive; and what they are."""
    kind = np.dtype(tensor.dtype)
    if kind.kind == "f" and limits is None:
        return generator.standard_normal(shape, np.float32).astype(kind), "standard normal"
    drawn = np.dtype(np.uint8) if kind.kind == "b" else kind
    limits = limits or "0:1"
    low, high = random_range(tensor, drawn, limits)
    if kind.kind == "f":
        values = generator.uniform(low, high, shape)
    else:
        values = generator.integers(low, high, shape, drawn, endpoint=True)
    return values.astype(kind), limits.replace(":", " to ")


def random_range(tensor: Tensor, drawn: np.dtype, text: str) -> tuple[Any, Any]:
    """The lowest and highest random value of an input, from `LOW:HIGH`."""
    number, limits = (float, np.finfo) if drawn.kind == "f" else (int, np.iinfo)
    with contextlib.suppress(ValueError):
        low, high = map(number, text.split(":"))
        if limits(drawn).min <= low <= high <= limits(drawn).max:
            return low, high
    raise UserError(
        f"--input_range={tensor.title}:{text}: pass NAME:LOW:HIGH with two numbers of type "
        f"{tensor.dtype}"
    )


def closed_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shape of a sample of each input by its name.

    Raises:
      UserError: a dimension is open; the error lists the inputs and the flag to pass.
    """
    shapes = {}
    asked = []
    for tensor in graph.inputs:
        shape = sample_shape(graph, tensor)
        shapes[tensor.name] = tuple(side for side in shape or () if side is not None)
        if shape != shapes[tensor.name]:
            sides = "N" if shape is None else "x".join(str(side or "N") for side in shape)
            asked.append(f"{tensor.title}:{sides}")
    if asked:
        raise UserError(
            f"{graph.name} takes {inputs_text(graph.inputs)}: pass --samples=FILE.npz, or "
            f"--input_shape={','.join(asked)} with numbers for N, for random data"
        )
    return shapes


def refuse_too_many(graph: Graph, shapes: dict[str, tuple[int, ...]], count: int) -> None:
    """Refuses random samples that no memory holds."""
    sizes = (
        math.prod(shapes[tensor.name]) * np.dtype(tensor.dtype).itemsize for tensor in graph.inputs
    )
    needed = 2 * count * sum(sizes)
    if needed > memory_size() / 2:
        raise UserError(
            f"{count} samples of {graph.name} ({inputs_text(graph.inputs)}) need "
            f"{needed / 1e9:,.1f} GB: pass a smaller --batch_size"
        )


# -------------------------------------------------------------------------------- loading the graph

FOREIGN = {
    b"PK\x03\x04": "a zip archive or .keras file (--keras_model takes that)",
    b"\x89HDF": "an HDF5 file (--keras_model takes it)",
    b"\x1f\x8b": "a gzip archive",
    b"<": "a web page",
    b"node {": "in text format",
    b"\x1c\x00\x00\x00TFL3": "a TensorFlow Lite model",
    b"\x08\x08\x12\x07pytorch": "an ONNX model",
}


class Signature(NamedTuple):
    """Names of a model's input and output tensors by their keys, where it has some."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def load_graph(config: Config) -> Graph:
    """The model that the flags name, as a frozen graph on disk.

    A frozen graph stays where it is; everything else is frozen into OUTPUT_DIR.

    Raises:
      UserError: nothing there, not what it should be, or its inputs or outputs cannot be told.
    """
    tf = import_tensorflow(config, hide_gpus=config.isolate)
    signature = Signature({}, {})
    if given := config.frozen_graph:
        path = fetch(given, config.max_download_mb) if is_url(given) else Path(given)
        data = read_graph(path)
        name = Path(given.split("?")[0]).name
        graph_def = parse_graph_def(data, path)
        refuse_risky(graph_def, path, config)
    else:
        with waiting("Freezing the graph"):
            graph_def, signature = freeze(tf, config)
        name = frozen_name(config)
        data = graph_def.SerializeToString(deterministic=True)
        refuse_over_protobuf(data, "the frozen model")
    sha256 = sha256_of(data)
    name = free_name(Path(config.output_dir), name, sha256)
    if not given:
        path = Path(config.output_dir) / name
        write_atomically(path, data)
    loaded = import_graph(without_large_constants(graph_def))
    inputs, outputs = describe_graph(config, loaded, signature)
    layout = layout_of(inputs) if not config.samples else ""
    scaling = scaling_ops(tf, graph_def, loaded, inputs[0]) if layout else ""
    half = half_share(graph_def)["share_of_nodes"]
    return Graph(str(path), name, inputs, outputs, layout, sha256, scaling, half)


def frozen_name(config: Config) -> str:
    """The file name of what is frozen here: as in 2018 for a SavedModel, else the model's own."""
    if config.savedmodel_dir:
        return "frozen_graph.pb"
    return Path(config.keras_model).stem + ".pb" if config.keras_model else "resnet50_v2.pb"


def free_name(folder: Path, name: str, sha256: str) -> str:
    """The graph's name, with eight digits of its hash if the folder knows another of that name.

    Which it knows is told by the graph that lies there, and by the records.
    """
    holders = set()
    with contextlib.suppress(OSError):
        holders.add(sha256_of((folder / name).read_bytes()))
    with contextlib.suppress(OSError):
        holders |= recorded_graphs(folder / "results.jsonl", name)
    if not holders - {sha256}:
        return name
    return f"{Path(name).stem}_{sha256[:8]}{Path(name).suffix}"


def recorded_graphs(path: Path, name: str) -> set[str]:
    """The hashes of graphs of that name in a results.jsonl."""
    found = set()
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if json.dumps(name) not in line:
                continue  # most lines of a long history need no parsing
            with contextlib.suppress(ValueError, KeyError, TypeError):
                graph = json.loads(line)["graph"]
                if graph["name"] == name:
                    found.add(str(graph["sha256"]))
    return found


def every_node(graph_def: Any) -> Iterator[Any]:
    """A GraphDef's nodes, and those of its functions, which are loops' bodies and the like."""
    bodies = (function.node_def for function in graph_def.library.function)
    return itertools.chain(graph_def.node, *bodies)


RISKY_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles"}


def refuse_risky(graph_def: Any, name: Path, config: Config) -> None:
    """Refuses ops that run Python or touch files: grappler may run them as it folds constants."""
    found = sorted({node.op for node in every_node(graph_def)} & RISKY_OPS)
    if found and not config.unsafe_model:
        raise UserError(
            f"{name} holds {', '.join(found)}, which can run code or touch files here: pass "
            "--unsafe_model if you trust it"
        )


def read_graph(path: Path) -> bytes:
    """The bytes of a file that should hold a GraphDef."""
    if os.path.isdir(path):
        raise UserError(
            f"{path} is a folder: --frozen_graph takes a file, --savedmodel_dir a SavedModel's "
            "folder"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}: pass the frozen graph's path with --frozen_graph"
        ) from error


def graph_def_of(graph: Graph) -> Any:
    """The GraphDef of a loaded graph."""
    return parse_graph_def(read_unchanged(graph.path, graph.sha256))


MOST_BYTES = (1 << 31) - 1  # of a message that protobuf reads


def refuse_over_protobuf(data: bytes, what: str | Path) -> None:
    """Refuses a GraphDef that nothing could read: protobuf writes larger messages all the same."""
    if len(data) > MOST_BYTES:
        raise UserError(
            f"{what} has {len(data) / 1e9:.1f} GB as one graph, and protobuf, which TensorFlow's "
            f"graphs are written in, reads {MOST_BYTES / 1e9:.1f}: pass a smaller model, or one "
            "with float16 weights"
        )


def parse_graph_def(data: bytes, path: str | Path = "") -> Any:
    """The GraphDef in a file's bytes.

    Raises:
      UserError: empty, truncated, or something else, by its name where that is known.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import graph_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    if not data:
        raise UserError(f"{path} is empty: pass a frozen GraphDef")
    refuse_over_protobuf(data, path)
    for magic, what in FOREIGN.items():
        if data.startswith(magic):
            raise UserError(f"{path} is {what}: --frozen_graph takes a binary GraphDef")
    with contextlib.suppress(DecodeError):
        graph_def = graph_pb2.GraphDef.FromString(data)
        if graph_def.node:
            return graph_def
    with contextlib.suppress(DecodeError):
        if saved_model_pb2.SavedModel.FromString(data).meta_graphs:
            folder = os.path.dirname(os.path.abspath(path))
            raise UserError(
                f"{path} is a SavedModel: pass its folder instead: --savedmodel_dir={folder}"
            )
    raise UserError(f"{path} is truncated, or not a GraphDef: export the frozen graph again")


def freeze(tf: Any, config: Config) -> tuple[Any, Signature]:
    """The SavedModel, Keras or built-in model as a GraphDef without variables, and its signature.

    Loops stay the functions that TensorFlow 2 makes of them: XLA and tf2onnx want them so.
    """
    function, owner = (
        savedmodel_function(tf, config) if config.savedmodel_dir else keras_function(tf, config)
    )
    try:
        graph_def, inputs = constants_for_variables(function)
    except Exception as error:  # TensorFlow raises many classes here
        raise UserError(
            f"the model cannot be frozen ({one_line(error)}): export it for inference first"
        ) from error
    del owner  # the variables lived as long as it did
    outputs = [tensor.name for tensor in function.outputs]
    # TensorFlow flattens a dict in the order of its keys, but for signatures of TensorFlow 1.
    keys = getattr(function, "_arg_keywords", None)
    if keys is None or len(keys) != len(inputs):
        keys = sorted(function.structured_input_signature[0][0])
    signature = Signature(
        dict(zip(keys, inputs, strict=True)),
        dict(zip(sorted(function.structured_outputs), outputs, strict=True)),
    )
    ends = [name.partition(":")[0] for name in (*inputs, *outputs)]
    return tf.compat.v1.graph_util.extract_sub_graph(graph_def, ends), signature


def constants_for_variables(function: Any) -> tuple[Any, list[str]]:
    """A concrete function's GraphDef with constants for its variables, and its inputs' names.

    convert_variables_to_constants_v2 would make a function of it once more, in twice the time and
    eight times the memory.
    """
    from tensorflow.python.framework import convert_to_constants

    data = convert_to_constants._FunctionConverterDataInEager(
        func=function, lower_control_flow=False, aggressive_inlining=False
    )
    graph_def, converted = convert_to_constants._replace_variables_by_constants(data)
    captures = function.graph.internal_captures
    constant = {captures[index].name for index in converted}
    inputs = [tensor.name for tensor in function.inputs if tensor.name not in constant]
    return graph_def, inputs


def savedmodel_function(tf: Any, config: Config) -> tuple[Any, Any]:
    """A SavedModel's serving signature, and the object that keeps its variables alive."""
    asked = config.savedmodel_dir
    folder = Path(fetch_savedmodel(asked, config.max_download_mb) if is_url(asked) else asked)
    meta = serving_graph(folder)
    refuse_risky(meta.graph_def, folder, config)
    key = signature_key(meta.signature_def, folder)
    try:
        loaded = tf.saved_model.load(str(folder), tags=["serve"])
        return loaded.signatures[key], loaded
    except Exception as error:
        raise UserError(
            f"{folder} cannot be loaded ({one_line(error)}): export it again"
        ) from error


KERAS_FILES = (".keras", ".h5", ".hdf5")


def serving_graph(folder: Path) -> Any:
    """The MetaGraphDef tagged `serve` in a SavedModel's folder."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    path = folder / "saved_model.pb"
    if folder.suffix in KERAS_FILES and not path.exists():
        raise UserError(f"{folder} is a Keras file: pass it with --keras_model={folder}")
    if not path.exists():
        wrote = "the folder that tf.saved_model.save or export wrote"
        raise UserError(f"{folder} has no saved_model.pb: pass {wrote}")
    try:
        saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is truncated or foreign: export it again") from error
    tags = [set(meta.meta_info_def.tags) for meta in saved.meta_graphs]
    if {"serve"} in tags:
        return saved.meta_graphs[tags.index({"serve"})]
    found = "; ".join("+".join(sorted(tag)) or "none" for tag in tags) or "none"
    raise UserError(
        f"{folder} has no graph tagged 'serve' (tags found: {found}): export it for serving"
    )


def signature_key(signatures: Any, folder: Path) -> str:
    """The signature to take of a SavedModel: the default one, else the first with outputs by name.

    protobuf's map gives them in another order in each process.
    """
    keys = sorted(key for key, signature in signatures.items() if signature.outputs)
    keys = [key for key in keys if not key.startswith("__")]  # TensorFlow's own
    if not keys:
        raise UserError(
            f"{folder} has no signature: save it with signatures=, or with model.export()"
        )
    if "serving_default" in keys:
        return "serving_default"
    if len(keys) > 1:
        say(
            f"{folder} has no signature serving_default: {keys[0]} is taken of {', '.join(keys)}; "
            "save another one as serving_default to measure it"
        )
    return keys[0]


def keras_function(tf: Any, config: Config) -> tuple[Any, Any]:
    """A Keras file's or the built-in model as a concrete function with named outputs."""
    tf.keras.utils.set_random_seed(config.seed)
    model = load_keras(tf, config) if config.keras_model else built_in_model(tf, config)
    specs = {}
    for index, (key, source) in enumerate(keras_inputs(model).items()):
        key = key if config.keras_model else "input_tensor"
        name = re.sub(r"[^A-Za-z0-9_]", "_", key).lstrip("_") or f"input_{index}"
        specs[key] = tf.TensorSpec(source.shape, source.dtype, name=name)

    def call(feed: dict[str, Any]) -> dict[str, Any]:
        """Inference: inputs by the names in `specs`, outputs by the model's."""
        given: Any = [feed[key] for key in specs]
        if isinstance(getattr(model, "_inputs_struct", None), dict):
            given = feed
        elif len(given) == 1:
            (given,) = given
        return outputs_by_name(tf, model, model(given, training=False))

    return tf.function(call).get_concrete_function(specs), model


def keras_inputs(model: Any) -> dict[str, Any]:
    """A Keras model's inputs by the keys of the dict that it takes, or the layers' names."""
    given = getattr(model, "_inputs_struct", None)  # in Keras 2 there is none, and no such keys
    if isinstance(given, dict):
        return given
    return {source.name.split(":")[0]: source for source in model.inputs}


def outputs_by_name(tf: Any, model: Any, outputs: Any) -> dict[str, Any]:
    """A Keras model's outputs by a dict's keys, or the names of the layers behind them."""
    if isinstance(outputs, dict):
        return outputs
    outputs = tf.nest.flatten(outputs)
    names = list(getattr(model, "output_names", None) or [])
    if len(set(names)) != len(outputs):
        names = [f"output_{index}" for index in range(len(outputs))]
    return dict(zip(names, outputs))


def load_keras(tf: Any, config: Config) -> Any:
    """The model in a Keras file."""
    path = config.keras_model
    if (Path(path) / "saved_model.pb").exists():
        raise UserError(f"{path} is a SavedModel's folder: pass it with --savedmodel_dir={path}")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file: pass a .keras or .h5 file with --keras_model")
    if Path(path).suffix not in KERAS_FILES:
        raise UserError(
            f"{path} is not a .keras or .h5 file: --frozen_graph takes a .pb, --savedmodel_dir a "
            "folder"
        )
    try:
        return tf.keras.models.load_model(path, compile=False, safe_mode=not config.unsafe_model)
    except Exception as error:  # Keras raises many classes here
        if "ambda" in str(error) and not config.unsafe_model:
            raise UserError(
                f"{path} holds Python code (a Lambda layer), which loading would run: pass "
                "--unsafe_model if you trust it"
            ) from error
        remedy = ""
        if path.endswith(".weights.h5"):
            remedy = ": it holds weights only: save the whole model with model.save"
        raise UserError(f"Keras cannot load {path}: {one_line(error)}{remedy}") from error


def built_in_model(tf: Any, config: Config) -> Any:
    """Keras's ResNet-50 v2; its weights are downloaded once, into Keras's own folder."""
    weights = "imagenet" if config.weights == "imagenet" else None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT[1])  # Keras sets none
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bar goes to stdout
            model = tf.keras.applications.ResNet50V2(weights=weights)
    except Exception as error:
        what = "--weights=imagenet (--weights=random needs no network)"
        raise UserError(f"Keras cannot load {what}: {one_line(error)}") from error
    finally:
        socket.setdefaulttimeout(before)
    if weights is None:
        spread_batch_norms(model, config.seed)
    return model


# Of what a batch norm holds: from and to.
NORM_RANGES = {
    "gamma": (0.5, 1.5),
    "beta": (-0.5, 0.5),
    "moving_mean": (-0.5, 0.5),
    "moving_variance": (0.5, 1.5),
}


def spread_batch_norms(model: Any, seed: int) -> None:
    """Gives a Keras model's batch norms random values, as training would.

    Keras begins with ones and zeros, which optimisers leave out: a network is faster then than it
    will be.
    """
    random = np.random.default_rng(seed)
    for variable in (variable for layer in model.layers for variable in layer.weights):
        limits = NORM_RANGES.get(variable.name.split("/")[-1].split(":")[0])
        if limits:
            variable.assign(random.uniform(*limits, variable.shape))


LARGE = 1 << 12  # numbers in a constant; shapes, which are inferred from constants, have a few
EMPTIED = "_emptied_constant"  # the attribute that has the name of such a constant


def without_large_constants(graph_def: Any) -> Any:
    """A copy of a GraphDef whose large constants have no values, which reads as zeros.

    Ops, names, types and shapes are as before. Constants inside its functions stay.
    """
    sketch = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.op != "Const" or size_of(node.attr["value"].tensor) < LARGE:
            sketch.node.append(node)
            continue
        empty = sketch.node.add(name=node.name, op=node.op, device=node.device, input=node.input)
        for key, value in node.attr.items():
            if key != "value":
                empty.attr[key].CopyFrom(value)
        tensor = node.attr["value"].tensor
        empty.attr["value"].tensor.dtype = tensor.dtype
        empty.attr["value"].tensor.tensor_shape.CopyFrom(tensor.tensor_shape)
        empty.attr[EMPTIED].s = node.name.encode()
    return sketch


def size_of(tensor: Any) -> int:
    """How many values a TensorProto has."""
    return math.prod(side.size for side in tensor.tensor_shape.dim)


def import_graph(graph_def: Any) -> Any:
    """A tf.Graph of the GraphDef, with shapes inferred."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        try:
            tf.graph_util.import_graph_def(graph_def, name="")
        # ValueError, OpError, KeyError, TypeError: whatever the file made of it
        except Exception as error:
            if any(node.op == "TRTEngineOp" for node in graph_def.node):
                raise UserError(
                    "the graph was converted by TF-TRT, for one GPU and TensorFlow: pass the "
                    "frozen graph that it was made of"
                ) from error
            raise UserError(f"the graph is damaged ({one_line(error)}): export it again") from error
    return graph


def describe_graph(
    config: Config, graph: Any, signature: Signature
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and outputs of a tf.Graph, open dimensions filled by --input_shape."""
    outputs = find_outputs(config, graph, signature.outputs)
    inputs = find_inputs(config, graph, signature.inputs, outputs)
    for tensor in inputs:
        refuse_unfeedable(tensor, outputs)
    keys = {name: key for part in signature for key, name in part.items()}
    described = [tensor_of(tensor, keys.get(tensor.name, "")) for tensor in inputs]
    sinks = [tensor_of(tensor, keys.get(tensor.name, "")) for tensor in outputs]
    return tuple(fill_shapes(config, described)), tuple(sinks)


USUAL_OUTPUT = "softmax_tensor"  # the official ResNets', beside the classes' ids


def find_outputs(config: Config, graph: Any, keys: dict[str, str]) -> list[Any]:
    """The tensors that --output_node names, else the signature's, the usual one, or the ends."""
    names = list(dict.fromkeys(keys.values()))
    if not names and any(op.name == USUAL_OUTPUT for op in graph.get_operations()):
        names = [f"{USUAL_OUTPUT}:0"]
    found = chosen_tensors(config, graph, "output", names, keys) or ends_of(graph)
    numbers = [tensor for tensor in found if is_number(tensor)]
    if not numbers:
        raise UserError(
            f"cannot tell the graph's output (candidates: {candidates_text(found, keys)}): pass "
            "--output_node"
        )
    if not (names or config.output_node) and len(numbers) > 1:
        all_of_them = ", ".join(tensor.op.name for tensor in numbers)
        say(f"outputs: {all_of_them} (--output_node takes some of them)")
    return numbers


def ends_of(graph: Any) -> list[Any]:
    """The tensors that are computed from an input and that nothing reads."""
    found = []
    for op in graph.get_operations():
        if any(tensor.consumers() for tensor in op.outputs) or op.type == "Placeholder":
            continue
        found += [tensor for tensor in op.outputs if depends_on_input(tensor)]
    return found


def find_inputs(config: Config, graph: Any, keys: dict[str, str], outputs: list[Any]) -> list[Any]:
    """The tensors that --input_node names, else the signature's or the placeholders.

    Those that no output depends on are left out.

    Raises:
      UserError: there is no such tensor, or the outputs depend on another placeholder too.
    """
    placeholders = [op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder"]
    names = list(keys.values()) or [tensor.name for tensor in placeholders]
    asked = chosen_tensors(config, graph, "input", names, keys)
    reached, missing = inputs_behind(outputs, asked)
    if missing:
        words = ",".join(tensor.op.name for tensor in [*asked, *missing])
        raise UserError(
            f"the outputs depend on {candidates_text(missing, keys)} too: pass --input_node={words}"
        )
    if not reached:
        told = candidates_text(outputs, {})
        raise UserError(
            f"cannot tell the graph's input (candidates: {candidates_text(asked, keys)}): no "
            f"output depends on one ({told}): pass --input_node or --output_node"
        )
    for tensor in asked:
        if tensor.name not in reached:
            say(f"{tensor.op.name} is not fed: no output depends on it")
    return [tensor for tensor in asked if tensor.name in reached]


def inputs_behind(outputs: list[Any], asked: list[Any]) -> tuple[set[str], list[Any]]:
    """Which of the tensors asked for outputs depend on, and on which other placeholders."""
    names = {tensor.name for tensor in asked}
    waiting = list(outputs)
    seen = set()
    missing = []
    while waiting:
        tensor = waiting.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.name in names:
            continue
        if tensor.op.type == "Placeholder":
            missing.append(tensor)
        waiting += tensor.op.inputs
    return names & seen, missing


def depends_on_input(tensor: Any) -> bool:
    """Whether a tensor is computed from a placeholder."""
    return bool(inputs_behind([tensor], [])[1])


def is_number(tensor: Any) -> bool:
    """Whether a tf.Tensor has numbers or booleans: no strings, resources or variants."""
    return tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool


def refuse_unfeedable(tensor: Any, outputs: list[Any]) -> None:
    """Refuses an input that NumPy has no type for; of strings with what their decoding gives."""
    kind = tensor.dtype
    if is_number(tensor) and kind.name != "bfloat16" and not kind.is_quantized:
        return
    remedy = "pass --input_node with another tensor"
    if kind.name == "string":
        behind = behind_decoding(tensor, outputs)
        remedy = f"pass --input_node={behind}, the tensor behind the decoding"
        if not behind:
            remedy = "pass --input_node with a tensor behind the decoding"
    feedable = "float16, float32, float64, bool or integers"
    raise UserError(f"input {tensor.op.name} takes {kind.name}, not {feedable}: {remedy}")


# Of strings: how many there are, not what they hold.
COUNTING = {"Shape", "ShapeN", "Size", "Rank"}


def behind_decoding(tensor: Any, outputs: list[Any]) -> str:
    """The first tensor of numbers that can be fed in place of one of strings: its name, or "".

    Fed with it, no output depends on the strings any more.
    """
    for found in computed_from(tensor):
        _, missing = inputs_behind(outputs, [found])
        if is_number(found) and tensor.name not in {left.name for left in missing}:
            return found.name.removesuffix(":0")
    return ""


def computed_from(tensor: Any) -> Iterator[Any]:
    """The tensors that are computed from one, nearest first; no scalars, none inside a loop."""
    waiting = collections.deque([tensor])
    seen = {tensor.name}
    while waiting:
        for op in waiting.popleft().consumers():
            results = [] if op.type in COUNTING else op.outputs
            for result in results:
                if result.name in seen:
                    continue
                seen.add(result.name)
                waiting.append(result)
                if "while/" not in result.name and result.shape.rank != 0:
                    yield result


def refuse_commas(words: list[str]) -> None:
    """Refuses image:64,64,3, and says how it is written."""
    text = ",".join(words)
    joined = re.sub(r"(?<=\d),(?=\d+(,|$))", "x", text)
    if joined != text and all(":" in word for word in joined.split(",")):
        raise UserError(f"--input_shape={text}: sides are joined by x: pass --input_shape={joined}")


def fill_shapes(config: Config, inputs: list[Tensor]) -> list[Tensor]:
    """The inputs with the dimensions of --input_shape; one of unknown rank is an image."""
    refuse_commas(config.input_shape)
    asked = by_input(config.input_shape, "--input_shape", inputs)
    if len(inputs) == 1 and inputs[0].shape is None and not (asked or config.samples):
        return [dataclasses.replace(inputs[0], shape=(None, None, None, 3))]
    batched = batched_of(inputs)
    filled = {tensor.name: tensor for tensor in inputs}
    for name, text in asked.items():
        filled[name] = with_sides(filled[name], text, name in batched)
    return list(filled.values())


def with_sides(tensor: Tensor, text: str, batched: bool) -> Tensor:
    """An input with the dimensions `128` or `224x224x3`, without the batch."""
    sides = tuple(int(word) for word in text.split("x") if word.isdecimal())
    first: tuple[int | None, ...] = ()
    rest = tensor.shape
    if batched:
        first = tensor.shape[:1] if tensor.shape else (None,)
        rest = tensor.shape and tensor.shape[1:]
    if "x".join(map(str, sides)) != text or 0 in sides or not fits(sides, rest):
        raise UserError(
            f"--input_shape={tensor.title}:{text}: the input is {tensor}, pass its dimensions "
            "without the batch, as 128 or 224x224x3"
        )
    return dataclasses.replace(tensor, shape=first + sides)


def layout_of(inputs: Sequence[Tensor]) -> str:
    """`NHWC` or `NCHW` where the only input is a batch of images, else "".

    Images are float32 or uint8 of rank 4 with one or three channels.
    """
    shape = inputs[0].shape or ()
    if len(inputs) > 1 or len(shape) != 4 or inputs[0].dtype not in ("float32", "uint8"):
        return ""
    if shape[1] in (1, 3) and shape[3] not in (1, 3):
        return "NCHW"
    return "NHWC" if shape[3] in (1, 3, None) else ""


# The values stay theirs.
PASSING_OPS = {"Identity", "Reshape", "Squeeze", "Cast", "StopGradient", "PreventGradient"}


def tensor_of(tensor: Any, key: str) -> Tensor:
    """A tf.Tensor's description; its op is the one that computed the values."""
    shape = tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else None
    op = tensor.op
    while op.type in PASSING_OPS and op.inputs:
        op = op.inputs[0].op
    return Tensor(tensor.name, shape, tensor.dtype.name, op.type, key)


def candidates_text(tensors: list[Any], keys: dict[str, str]) -> str:
    """The first eight tensors as an error lists them, by their keys where they have one."""
    titles = {name: key for key, name in keys.items()}
    some = (tensor_of(tensor, titles.get(tensor.name, tensor.name)) for tensor in tensors[:8])
    return ", ".join(map(str, some)) or "none"


def chosen_tensors(
    config: Config, graph: Any, role: str, names: list[str], keys: dict[str, str]
) -> list[Any]:
    """The tensors that --input_node or --output_node asks for; without it those of `names`.

    Args:
      keys: names of tensors by their keys in a signature or model.
    """
    asked = getattr(config, f"{role}_node")
    if not asked:
        return [graph.get_tensor_by_name(name) for name in names]
    titles = {name: key for key, name in keys.items()}
    known = [titles.get(name, name) for name in names]
    words = dict.fromkeys(word.strip() for word in asked.split(","))
    return [asked_tensor(graph, keys.get(word, word), role, known) for word in words]


def asked_tensor(graph: Any, asked: str, role: str, known: list[str]) -> Any:
    """The tensor of that name, with or without its index; a UserError names similar ones."""
    names = {op.name for op in graph.get_operations() if op.outputs}
    name, _, index = asked.partition(":")
    if name not in names:
        known = known or [tensor.op.name for tensor in ends_of(graph)[:8]]
        similar = dict.fromkeys([*known, *difflib.get_close_matches(name, names, n=3)])
        close = ", ".join(similar) or "none"
        raise UserError(f"no node {asked!r} in the graph (closest: {close}): pass --{role}_node")
    tensors = graph.get_operation_by_name(name).outputs
    if not (index or "0").isdecimal() or int(index or 0) >= len(tensors):
        raise UserError(
            f"node {name!r} has {len(tensors)} outputs, so no {asked!r}: pass --{role}_node={name}"
        )
    return tensors[int(index or 0)]


# What a scaling is made of.
ELEMENTWISE = {"Mul", "Sub", "Add", "AddV2", "RealDiv", "Div", "BiasAdd"}
CARRYING = {"Identity", "Cast", "Transpose", "StopGradient"}
RESIZING = {"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"}  # to a constant size
# An input whose values stay as far apart as pixels do is not scaled, though its mean may be taken.
PIXEL_RANGE = 200.0


def scaling_ops(tf: Any, graph_def: Any, graph: Any, source: Tensor) -> str:
    """The arithmetic that scales pixels of 0 to 255 at the start of a graph, or "".

    Followed from the input as long as one op after the other takes it alone, with constants; then
    black and white are sent through. What makes pixels small (Rescaling, Normalization) or takes a
    mean of pixels from them is a scaling; what would make them larger, as 2x - 1 does, expects
    another range.

    Args:
      graph: the tf.Graph of graph_def, for which no values of constants are needed.
    """
    tensor = graph.get_tensor_by_name(source.name)
    ops = []
    passed = ELEMENTWISE | CARRYING | RESIZING
    while len(tensor.consumers()) == 1 and tensor.consumers()[0].type in passed:
        op = tensor.consumers()[0]
        if any(depends_on_input(other) for other in op.inputs if other.name != tensor.name):
            break
        ops += [op.type] * (op.type in ELEMENTWISE)
        tensor = op.outputs[0]
    shape = [side or 1 for side in source.shape or (1, 1, 1, 3)]
    if not ops or math.prod(shape) > LARGEST_IMAGE:
        return ""
    black = np.zeros(shape, source.dtype)
    start = tf.compat.v1.graph_util.extract_sub_graph(graph_def, [tensor.op.name])
    try:
        with tf.compat.v1.Session(graph=import_graph(start)) as session:
            feeds = ({source.name: black + level} for level in (0, 255))
            low, high = (session.run(tensor.name, feed) for feed in feeds)
    # TensorFlow raises many classes; what is wrong with the graph is told when it runs
    except Exception:
        return ""
    spread = float(np.max(np.abs(np.subtract(high, low, dtype=np.float64))))
    centred = spread < 2 * PIXEL_RANGE and np.all(low < -PIXEL_RANGE / 4)
    return ", ".join(ops) if spread < PIXEL_RANGE or centred else ""


def half_share(graph_def: Any) -> dict[str, Any]:
    """How many convolutions and matrix products of a GraphDef are float16, and its casts."""
    from tensorflow.core.framework.types_pb2 import DT_HALF

    kinds = ("Conv2D", "DepthwiseConv2d", "MatMul", "BatchMatMul", "_Fused")
    nodes = list(every_node(graph_def))
    heavy = [node for node in nodes if node.op.startswith(kinds)]
    low = sum(node.attr["T"].type == DT_HALF for node in heavy)
    casts = sum(node.op == "Cast" for node in nodes)
    return {
        "nodes": len(heavy),
        "low_nodes": low,
        "share_of_nodes": low / max(len(heavy), 1),
        "casts": casts,
    }


PIXELS = "uint8_pixels"  # the input's name in a graph that takes them


def with_pixels_in_front(config: Config, graph: Graph) -> Graph:
    """The graph with uint8 pixels [batch, height, width, channels] as its input.

    The preprocessing's arithmetic, and the turn to channels_first, are its first ops then, for
    every engine alike.

    Raises:
      UserError: the preprocessing is for another number of channels.
    """
    import tensorflow as tf

    refuse_channels(config, graph)
    reverse, factor, offset = PREPROCESSING[config.preprocessing]
    shape = (graph.fixed_batch, *graph.image_shape)
    with tf.Graph().as_default() as whole:
        pixels = tf.compat.v1.placeholder(tf.uint8, shape, name=PIXELS)
        images = tf.cast(pixels, tf.float32)
        if reverse:
            images = tf.gather(images, [2, 1, 0], axis=-1)
        images = images * np.float32(factor) + np.float32(offset)
        if graph.layout == "NCHW":
            images = tf.transpose(images, [0, 3, 1, 2])
        given = {graph.inputs[0].name: images}
        tf.graph_util.import_graph_def(graph_def_of(graph), given, name="")
    ends = [tensor.name.partition(":")[0] for tensor in graph.outputs]
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(whole.as_graph_def(), ends)
    data = graph_def.SerializeToString(deterministic=True)
    path = Path(config.output_dir) / f"uint8_{graph.name}"
    write_atomically(path, data)
    source = Tensor(pixels.name, shape, "uint8", "Placeholder")
    return dataclasses.replace(
        graph,
        path=str(path),
        inputs=(source,),
        layout="NHWC",
        sha256=sha256_of(data),
        origin=graph.sha256,
    )


def fit_batch_sizes(config: Config, graph: Graph) -> list[int | None]:
    """The batch sizes to run: those asked for, or the one that the graph is fixed to.

    Raises:
      UserError: the graph is fixed to another than the one asked for.
    """
    fixed = graph.fixed_batch
    if fixed is None or config.batch_sizes == [fixed]:
        return config.batch_sizes
    if "batch_size" in config.given and config.batch_sizes != [None]:
        raise UserError(f"{graph.name} is fixed to batches of {fixed}: pass --batch_size={fixed}")
    say(f"{graph.name} is fixed to batches of {fixed}: --batch_size={fixed} is taken")
    return [fixed]


# ---------------------------------------------------------------------------------------- precision

FP16_SAMPLES = 4  # samples on which float16's overflow is looked for


def precision_py() -> Any:
    """precision.py, which lies beside this file, as a module of a name that hides none.

    Raises:
      UserError: it was not copied along.
    """
    if reason := missing_precision_py():
        raise UserError(reason)
    return load_file("tensorrt_precision", HERE / "precision.py")


def missing_precision_py() -> str | None:
    """What prevents this program from writing ONNX graphs, and the remedy."""
    if (HERE / "precision.py").exists():
        return None
    return (
        "precision.py is missing: copy it to where tensorrt.py lies (native, XLA and TF-TRT do "
        "without)"
    )


@contextlib.contextmanager
def precision_errors() -> Iterator[None]:
    """What precision.py cannot do as a UserError, with the engine that needs no ONNX graph."""
    try:
        yield
    except precision_py().ExportError as error:
        remedy = CUDNN_RNN_REMEDY if CUDNN_RNN in str(error) else "--engine=xla needs none"
        raise UserError(f"{error}: {remedy}") from error
    except precision_py().PrecisionError as error:
        raise UserError(str(error)) from error


def int8_saturates() -> bool:
    """Whether sums of two uint8 x int8 products overflow here, so that weights get 7 bits.

    Source: ONNX Runtime's documentation, "Quantize ONNX models", on VPMADDUBSW.
    """
    return " avx" in cpu_info() and "vnni" not in cpu_info()


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The range of every tensor, and where it came from, as the record tells it."""

    ranges: dict[str, tuple[float, float]]
    facts: dict[str, Any]


def feeds(graph: Graph, samples: Samples, size: int = 1) -> list[Feed]:
    """All samples as the graph takes them, `size` a step or its fixed batch; the last is filled."""
    size = graph.fixed_batch or size
    return [samples.batch(size, first) for first in range(0, len(samples), size)]


def as_onnx_takes(feed: Feed) -> Feed:
    """A step's inputs for an ONNX graph, which has float32 wherever the GraphDef has float16."""
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in feed.items()
    }


def calibration_samples(
    config: Config, graph: Graph, samples: Samples
) -> tuple[Samples, dict[str, Any]]:
    """What to calibrate on: that of --calibration_dir, --calibration_samples or the input batch.

    Returns:
      The samples, and where they came from, as the record tells it.
    """
    unreadable = 0
    source = "random" if samples.random else "input batch"
    count = config.num_calibration_images
    predicted = set(samples.digests())
    if config.calibration_samples:
        source = "calibration_samples"
        samples = read_samples(config.calibration_samples, graph, count, f"--{source}")
    elif config.calibration_dir:
        source = "calibration_dir"
        samples, unreadable = read_folder(
            config, graph, config.calibration_dir, count, f"--{source}"
        )
    taken = samples.head(count)
    return taken, {
        "source": source,
        "images": len(taken),
        "unreadable": unreadable,
        "predicted": sum(digest in predicted for digest in taken.digests()),
        "sha256": taken.digest(),
    }


def names_hash(model: Any) -> str:
    """A hash of the names that ranges are kept by: tf2onnx counts some in the order of a set."""
    names = sorted(name for node in model.graph.node for name in node.output)
    return sha256_of("\n".join(names).encode())


def calibrate(config: Config, graph: Graph, samples: Samples, model: Any) -> Calibration:
    """Ranges for INT8, kept in a file and reused for the same question."""
    taken, facts = calibration_samples(config, graph, samples)
    facts["method"] = config.calibration_method
    key = {
        **facts,
        "predicted": None,
        "graph": graph.sha256,
        "inputs": graph.input_names,
        "outputs": graph.output_names,
        "tensors": names_hash(model),
        "preprocessing": config.preprocessing,
        "onnxruntime": version_of("onnxruntime-gpu", "onnxruntime"),
        "precision.py": sha256_of((HERE / "precision.py").read_bytes()),
    }
    path = Path(config.output_dir) / f"calibration_{Path(graph.name).stem}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(path.read_text())
        if kept["key"] == key:
            ranges = {
                name: (float(low), float(high)) for name, (low, high) in kept["ranges"].items()
            }
            return Calibration(ranges, {**facts, "reused": True})
    fed = [as_onnx_takes(feed) for feed in feeds(graph, taken)]
    method = config.calibration_method
    with precision_errors():
        ranges = precision_py().tensor_ranges(model, fed, method, progress)
    write_atomically(path, json.dumps({"key": key, "ranges": ranges}).encode())
    return Calibration(ranges, {**facts, "reused": False})


def calibration_notes(facts: dict[str, Any], unit: str = "images") -> list[str]:
    """A sentence where the calibration had no samples of its own."""
    flag = "--calibration_dir" if unit == "images" else "--calibration_samples"
    if facts["source"] == "random":
        return [
            "INT8 was calibrated on random data: its speed is real, its predictions not; pass "
            f"{flag}"
        ]
    if not facts["predicted"]:
        return []
    what = f"{facts['predicted']} of the {unit}"
    if facts["images"] == 1:
        what = f"the one {unit.removesuffix('s')}"
    other = "" if facts["source"] == "input batch" else f"other {unit} with "
    return [
        f"INT8 was calibrated on {what} being predicted: pass {other}{flag} to judge its "
        "predictions"
    ]


# ------------------------------------------------------------------------------------------ engines


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything a case's process is told; `source` is the ONNX file, if its engine takes one.

    `error` says why the case cannot be run at all, `rounds` keeps each round on disk, `tried` says
    which batches fit.
    """

    case: Case
    config: Config
    graph: Graph
    samples: Samples
    source: Artifact | None = None
    error: str = ""
    rounds: RoundsOnDisk | None = None
    tried: dict[int, str] = dataclasses.field(default_factory=dict)

    def at(self, size: int, **changes: Any) -> Job:
        """The job at another batch size."""
        case = dataclasses.replace(self.case, batch_size=size)
        return dataclasses.replace(self, case=case, **changes)

    def batch(self, first: int = 0) -> Feed:
        """A step's inputs: the samples from `first` on, repeated to fill the batch."""
        return self.samples.batch(self.case.size, first)

    def path(self, suffix: str | None = None) -> Path:
        """Where the case's artifact belongs."""
        return Path(self.config.output_dir, self.case.file_name(self.graph, suffix))


class Runner(Protocol):
    """An artifact made ready for one batch that already lies where the engine computes.

    `facts` has what opening it found: the coverage that is really executed, and on what.
    """

    facts: dict[str, Any]

    def infer(self, feed: Feed) -> Feed:
        """One run from host to host: outputs by their names, for inputs by theirs."""

    def enqueue(self) -> None:
        """Starts one run on the resident batch; may return before it is done."""

    def sync(self) -> None:
        """Waits until all that was enqueued is done."""

    def prefetch(self, feed: Feed, steps: int) -> Callable[[], None]:
        """Prepares `steps` runs from host to host, each copied in while the one before it runs."""


def repeat(step: Callable[[], Any], count: int) -> None:
    """Calls a step so many times."""
    for _ in range(count):
        step()


class Engine:
    """What executes a precision. Heavy imports belong inside the methods."""

    name = ""
    precisions: tuple[str, ...] = ()
    needs_onnx = False
    builds_slowly = False  # what it builds is kept from run to run

    def why_not_build(self, precision: str) -> str | None:
        """What keeps this engine from building a precision here, and the remedy; None if it can."""
        return None if precision in self.precisions else f"{self.name} has no {precision.upper()}"

    def why_not(self, precision: str) -> str | None:
        """The same for running it."""
        return self.why_not_build(precision)

    def why_not_by_itself(self) -> str | None:
        """Why --engine=auto does not take what could run."""
        return None

    def version(self) -> str:
        """What the record tells of it: a version, or `missing` where it is not installed."""
        return version_of("tensorflow", "tensorflow-cpu") or "missing"

    def without_norms(self, precision: str) -> bool:
        """Whether it is faster with convolutions for batch norms: docs/measurements.md."""
        return False

    def build(self, job: Job) -> Artifact:
        """Writes what `open` runs into the output directory."""
        return job.source or Artifact(job.graph.path, job.graph.sha256)

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """Makes an artifact ready to run, with a batch of the case's size where it computes.

        Raises:
          UserError: it cannot run here, or not at the precision asked for.
        """
        raise NotImplementedError


STEPS_AHEAD = 6  # steps whose outputs are still to come: on an H200 4 lost 5 %


class TensorFlowRunner:
    """A frozen GraphDef run by TensorFlow, as it is or compiled by XLA.

    On a GPU a call returns when its kernels are enqueued; `sync` waits for the device without
    fetching the output.
    """

    def __init__(self, job: Job, artifact: Artifact, feed: Feed, compiled: bool) -> None:
        self.tf = tf = import_tensorflow(job.config)
        self.device = "/GPU:0" if tf.config.get_visible_devices("GPU") else "/CPU:0"
        graph_def = parse_graph_def(read_unchanged(artifact.path, artifact.sha256))
        self.refuse_channels_first(graph_def, job.graph)
        self.inputs = job.graph.input_names
        self.outputs = job.graph.output_names
        specs = [tf.TensorSpec(feed[name].shape, feed[name].dtype) for name in self.inputs]
        inner = graph_function(tf, graph_def, self.inputs, self.outputs)
        outer = tf.function(inner, jit_compile=compiled or None, autograph=False)
        self.step = outer.get_concrete_function(*specs)
        fill_constants(inner, graph_def)
        with tf.device(self.device):
            self.resident = [tf.identity(tf.constant(feed[name])) for name in self.inputs]
        self.facts: dict[str, Any] = {}
        if "GPU" in self.device:
            capability = gpus()[0]["compute_capability"]
            if not has_machine_code(tf, capability):
                self.facts["compiled_by_driver"] = capability

    def refuse_channels_first(self, graph_def: Any, graph: Graph) -> None:
        """Refuses a channels_first graph on a CPU: TensorFlow's own message names no remedy."""
        first = any(n.attr["data_format"].s == b"NCHW" for n in graph_def.node if "Conv" in n.op)
        if first and "CPU" in self.device:
            raise UserError(
                f"{graph.name} is channels_first, which TensorFlow cannot compute on a CPU: "
                f"pass --fp32 --engine=onnxruntime, or export it channels_last"
            )

    def enqueue(self) -> None:
        """Starts a step; the results of the one before are let go unread."""
        self.results = self.step(*self.resident)

    def sync(self) -> None:
        """Waits for the device; fetching a result would be timed as well."""
        self.tf.test.experimental.sync_devices()

    def infer(self, feed: Feed) -> Feed:
        """NumPy in, NumPy out; returns when the outputs are fetched."""
        results = self.step(*(self.tf.constant(feed[name]) for name in self.inputs))
        return {name: result.numpy() for name, result in zip(self.outputs, results)}

    def prefetch(self, feed: Feed, steps: int) -> Callable[[], None]:
        """See Runner: on a GPU by tf.data, two batches ahead, from page-locked memory.

        On a CPU there is nothing to copy, and the steps follow one another.
        """
        if "CPU" in self.device:
            return lambda: repeat(lambda: self.infer(feed), steps)
        tf = self.tf
        with tf.device("/CPU:0"):
            # Filled once and reused, as a server's decoder would.
            pinned = [pinned_tensor(tf, feed[name]) for name in self.inputs]
            self.owners = [owner for _, owner in pinned]
            staging = tuple(tensor for tensor, _ in pinned)
            data = tf.data.Dataset.from_tensors(staging).repeat(steps + 2 * STEPS_AHEAD)
        pipeline = iter(
            data.apply(tf.data.experimental.prefetch_to_device(self.device, buffer_size=2))
        )
        # Building the pipeline and growing memory are no part of a step.
        self.drain(pipeline, 2 * STEPS_AHEAD)
        return lambda: self.drain(pipeline, steps)

    def drain(self, pipeline: Iterator[Any], steps: int) -> None:
        """Runs steps on the pipeline's batches in STEPS_AHEAD threads, which fetch the outputs.

        A fetch waits for all that was enqueued before it was asked for, so each is asked for right
        after its step.
        """
        left = itertools.islice(pipeline, steps)
        lock = threading.Lock()

        def serve(_: int) -> None:
            """What each thread does until no batch is left; the lock keeps the batches in order."""
            while True:
                with lock:
                    inputs = next(left, None)
                if inputs is None:
                    return
                for result in self.step(*inputs):
                    result.numpy()

        with concurrent.futures.ThreadPoolExecutor(STEPS_AHEAD) as threads:
            list(threads.map(serve, range(STEPS_AHEAD)))


def graph_function(tf: Any, graph_def: Any, inputs: list[str], outputs: list[str]) -> Any:
    """A graph as a function from its inputs to its outputs, whose large constants are empty yet.

    TensorFlow's Python takes every constant through a dozen copies on the way from a graph to a
    function that can be called: 438 MB of them took 11 s and 5 GB.
    """
    sketch = without_large_constants(graph_def)
    whole = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(sketch, name=""), [])
    return whole.prune(inputs, outputs)


def fill_constants(function: Any, graph_def: Any) -> None:
    """Gives the large constants of a `graph_function` their values, before it is first called."""
    from tensorflow.python.eager import context

    functions = context.context()
    # A copy of TensorFlow's own: `function.function_def` is kept as long as the function.
    definition = functions.get_function_def(function.name)
    nodes = {node.name: node for node in graph_def.node}
    for node in definition.node_def:
        if EMPTIED in node.attr:
            name = node.attr.pop(EMPTIED).s.decode()
            node.attr["value"].CopyFrom(nodes[name].attr["value"])
    functions.remove_function(function.name)
    functions.add_function_def(definition)


def has_machine_code(tf: Any, capability: str) -> bool:
    """Whether this TensorFlow has kernels for a GPU's compute capability, such as `9.0`.

    Where it was not, the driver compiles TensorFlow's kernels when they are first used.
    """
    major, minor = map(int, capability.split("."))
    for text in tf.sysconfig.get_build_info().get("cuda_compute_capabilities", []):
        built = re.fullmatch(r"(?:sm|compute)_(\d+)(\d)", text)
        if built and int(built.group(1)) == major and int(built.group(2)) <= minor:
            return True
    return False


def pinned_array(memory: Any, like: np.ndarray) -> np.ndarray:
    """A writable view of page-locked memory: np.from_dlpack's is read-only before NumPy 2.2."""
    raw = (ctypes.c_ubyte * like.nbytes).from_address(int(memory.handle))
    return np.ctypeslib.as_array(raw).view(like.dtype).reshape(like.shape)


def pinned_tensor(tf: Any, array: np.ndarray) -> tuple[Any, Any]:
    """An array as a tensor in page-locked memory, which a GPU reads faster, and its owner."""
    try:
        from cuda.core import Device, LegacyPinnedMemoryResource
    except ImportError:
        return tf.constant(array), None
    if array.dtype == bool:  # of which TensorFlow's DLPack has no idea
        return tf.constant(array), None
    Device(0).set_current()
    owner = LegacyPinnedMemoryResource().allocate(array.nbytes)
    # Not by DLPack: NumPy would tell TensorFlow that the memory is CUDA's, which TensorFlow takes
    # for no host memory.
    memory = pinned_array(owner, array)
    np.copyto(memory, array)
    return tf.experimental.dlpack.from_dlpack(memory.__dlpack__()), owner


class Native(Engine):
    """The graph as it came, in TensorFlow."""

    name = "native"
    precisions = ("native",)

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """As TensorFlow runs it by itself: not compiled."""
        return TensorFlowRunner(job, artifact, feed, compiled=False)


class Xla(Engine):
    """XLA: the graph as it is for fp32, rewritten by grappler's auto_mixed_precision for fp16."""

    name = "xla"
    precisions = ("fp32", "fp16")

    def why_not_build(self, precision: str) -> str | None:
        """See Engine; whether a GPU is new enough for fp16 is found out by `build`."""
        if precision == "fp16" and not gpus():
            return "no NVIDIA GPU: auto_mixed_precision changes nothing on a CPU"
        return super().why_not_build(precision)

    def why_not_by_itself(self) -> str | None:
        """Where there is no GPU: auto goes on to ONNX Runtime there."""
        return None if gpus() else "auto takes it only where there is a GPU: --engine=xla"

    def build(self, job: Job) -> Artifact:
        """The graph's own file for fp32, which is not copied; for fp16 one with casts.

        Raises:
          UserError: nothing of it became float16.
        """
        if job.case.precision == "fp32":
            return super().build(job)
        import_tensorflow(job.config)
        start = time.perf_counter()
        graph_def = auto_mixed_precision(job.graph)
        coverage = half_share(graph_def)
        if not coverage["low_nodes"]:
            raise UserError(
                "auto_mixed_precision made no convolution or matrix product float16 here: XLA "
                "would time float32 as FP16 (it needs a GPU of compute capability 7.0 or newer)"
            )
        return write_artifact(
            job.path(), graph_def.SerializeToString(deterministic=True), start, coverage
        )

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """Compiles nothing yet: the first run does, and is timed by itself."""
        return TensorFlowRunner(job, artifact, feed, compiled=True)


# They stay float32: a loop's body and its caller are rewritten apart, and need not agree on a list.
TENSOR_LIST_OPS = (
    "TensorListConcat,TensorListConcatLists,TensorListConcatV2,TensorListFromTensor,"
    "TensorListGather,TensorListGetItem,TensorListPopBack,TensorListPushBack,"
    "TensorListPushBackBatch,TensorListScatter,TensorListScatterIntoExistingList,"
    "TensorListScatterV2,TensorListSetItem,TensorListSplit,TensorListStack"
)


def auto_mixed_precision(graph: Graph) -> Any:
    """The graph after grappler's auto_mixed_precision: float16 where that is safe."""
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer

    meta = meta_graph_pb2.MetaGraphDef(graph_def=graph_def_of(graph))
    for node in meta.graph_def.node:
        node.device = ""
    # Where grappler looks for what to keep.
    meta.collection_def["train_op"].node_list.value.extend(graph.output_names)
    config = config_pb2.ConfigProto()
    options = config.graph_options.rewrite_options
    options.auto_mixed_precision = rewriter_config_pb2.RewriterConfig.ON
    options.min_graph_nodes = -1  # small graphs too
    options.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    os.environ["TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_CLEARLIST_REMOVE"] = TENSOR_LIST_OPS
    rewritten = tf_optimizer.OptimizeGraph(config, meta)
    rename_functions(rewritten, "_fp16")
    return rewritten


def rename_functions(graph_def: Any, suffix: str) -> None:
    """Gives the functions of a graph names of their own: a process has one function of a name."""
    names = {function.signature.name for function in graph_def.library.function}
    del graph_def.library.gradient[:]  # they name functions too, and nobody asks for them
    for function in graph_def.library.function:
        function.signature.name += suffix
    for node in every_node(graph_def):
        if node.op in names:
            node.op += suffix
        for attribute in node.attr.values():
            for called in (attribute.func, *attribute.list.func):
                if called.name in names:
                    called.name += suffix


NVINFER = (
    "pip install -r requirements-tftrt.txt (TensorFlow 2.14.1 on Python 3.10), or docs/tftrt.md"
)
TFTRT_WORKSPACE_MB = 2048  # its converter wants a number
MOST_NODES = 0.5  # a TF-TRT graph whose engines have fewer of its nodes gets a sentence


class TfTrt(Engine):
    """TF-TRT, TensorFlow's own converter up to 2.17: GraphDef in, GraphDef out."""

    name = "tftrt"
    precisions = ("fp32", "fp16", "int8")
    builds_slowly = True

    def why_not_build(self, precision: str) -> str | None:
        """See Engine; a TensorFlow that has no TF-TRT any more is told first."""
        version = version_of("tensorflow") or "0"
        if tuple(map(int, version.split(".")[:2])) >= (2, 18):
            remedy = "use --engine=tensorrt, or pip install -r requirements-tftrt.txt"
            return f"removed after TensorFlow 2.17: {remedy}"
        return (
            super().why_not_build(precision)
            or missing_nvinfer()
            or (None if gpus() else "no NVIDIA GPU")
        )

    def build(self, job: Job) -> Artifact:
        """Converts the graph; for int8 it runs the calibration samples through it as well.

        Raises:
          UserError: no part of the graph was converted, or there is nothing to calibrate.
        """
        tf = import_tensorflow(job.config)
        from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverter

        start = time.perf_counter()
        with tftrt_errors(NO_CALIBRATION, "TF-TRT's calibration came to nothing") as logged:
            graph_def, found = convert_by_tftrt(tf, TrtGraphConverter, job)
        rename_functions(graph_def, f"_tftrt_{job.case.precision}_{job.case.batch_size}")
        facts = {**tftrt_share(graph_def), "log": tftrt_complaints(logged), **found}
        if not facts["trt_engines"]:
            raise UserError(
                "TF-TRT converted nothing of this graph: TensorFlow would run all of it; try "
                "--engine=xla"
            )
        data = graph_def.SerializeToString(deterministic=True)
        return write_artifact(job.path(), data, start, facts)

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """The converted graph, each of whose engines was built and has run once.

        Raises:
          UserError: an engine cannot run; TF-TRT would have TensorFlow run its part of the graph,
            and only warn.
        """
        tf = import_tensorflow(job.config)
        # It registers TRTEngineOp.
        from tensorflow.python.compiler.tensorrt import trt_convert  # noqa: F401

        os.environ["TF_TRT_ALLOW_ENGINE_NATIVE_SEGMENT_EXECUTION"] = "False"
        start = time.perf_counter()
        unfused = left_apart(tf, job.config.isolate)
        with tftrt_errors("native segment", "a TF-TRT engine cannot run") as logged, unfused:
            runner = TensorFlowRunner(job, artifact, feed, compiled=False)
            runner.infer(feed)
        refuse_native_segments(logged)
        complaints = [*artifact.facts["log"], *tftrt_complaints(logged)]
        runner.facts["log"] = list(dict.fromkeys(complaints))
        runner.facts["engines_ran"] = True
        runner.facts["engine_build_seconds"] = time.perf_counter() - start
        return runner


@contextlib.contextmanager
def left_apart(tf: Any, for_good: bool) -> Iterator[None]:
    """Has TensorFlow leave batch norms and activations apart.

    On a GPU it fuses them before TF-TRT builds an engine at its first run, and TF-TRT has no
    converter for that (_FusedBatchNormEx).

    Args:
      for_good: the process has no other case. Else (--noisolate) all that is open is optimised
        again at its next step, with fusing; by then the engine is built.
    """
    options = tf.config.optimizer
    options.set_experimental_options({"remapping": False})
    try:
        yield
    finally:
        if not for_good:
            options.set_experimental_options({"remapping": True})


def refuse_native_segments(logged: list[str]) -> None:
    """Refuses what TF-TRT only logs: inputs whose batch sizes differ run natively whatever is set.

    Raises:
      UserError: TensorFlow ran an engine's part of the graph.
    """
    said = [one_line(line) for line in logged if "native segment" in line]
    if said:
        raise UserError(f"a TF-TRT engine did not run ({said[0]}): try --engine=tensorrt")


NO_CALIBRATION = "Calibration table is empty"


@contextlib.contextmanager
def tftrt_errors(symptom: str, what: str) -> Iterator[list[str]]:
    """Tells an error that has `symptom` with TF-TRT's complaints; gives the lines it logged.

    Raises:
      UserError: `what`, and why.
    """
    lines: list[str] = []
    try:
        with stderr_lines() as lines:
            yield lines
    except Exception as error:
        if symptom not in str(error):
            raise
        why = "; ".join(tftrt_complaints(lines)) or "TF-TRT does not say why"
        raise UserError(f"{what} ({why}): try --engine=tensorrt") from error


@contextlib.contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """Collects the lines that C++ writes to stderr; the list is filled when the context ends."""
    lines: list[str] = []
    with tempfile.TemporaryFile() as file:
        try:
            with redirected(file, 2):
                yield lines
        finally:
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def tftrt_complaints(lines: list[str]) -> list[str]:
    """At most five different complaints that TF-TRT or TensorRT logged, without time and place."""
    found = []
    for line in lines:
        speaks = re.search(r"TensorRT|TF-TRT|TRTEngine|tf2tensorrt", line)
        if speaks and re.search(r"fail|error|cannot", line, re.I):
            found.append(one_line(re.sub(r"^.*?\] ", "", line)))
    return list(dict.fromkeys(found))[:5]


def missing_nvinfer() -> str | None:
    """What TF-TRT lacks here; asked for more without libnvinfer, TensorFlow aborts the process."""
    with quiet():
        from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as linked

        if linked.is_tensorrt_enabled():  # it warns where it is not
            return None
    version = ".".join(map(str, linked.get_linked_tensorrt_version()))
    if version.startswith("0"):
        return f"this TensorFlow was not built with TensorRT: {NVINFER}"
    return f"libnvinfer.so.{version} was not found: {NVINFER}"


def convert_by_tftrt(tf: Any, converter_class: Any, job: Job) -> tuple[Any, dict[str, Any]]:
    """The graph after TF-TRT, whose engines are built when they run, and facts of calibration."""
    if job.case.precision == "int8":
        return calibrate_by_tftrt(tf, converter_class, job)
    with tf.Graph().as_default():  # this converter refuses eager mode
        return tftrt_converter(converter_class, job).convert(), {}


def tftrt_converter(converter_class: Any, job: Job) -> Any:
    """TF-TRT's converter of a job.

    It leaves the building of engines to their first run (is_dynamic_op): built before, they are two
    to three times slower (docs/tftrt.md), and nodes whose shapes are not known yet are left out.
    """
    precision = job.case.precision
    return converter_class(
        input_graph_def=graph_def_of(job.graph),
        nodes_denylist=[name.split(":")[0] for name in job.graph.output_names],
        max_batch_size=None,
        max_workspace_size_bytes=(job.config.workspace_size or TFTRT_WORKSPACE_MB) << 20,
        precision_mode=precision.upper(),
        is_dynamic_op=True,
        use_calibration=precision == "int8",
    )


def calibrate_by_tftrt(tf: Any, converter_class: Any, job: Job) -> tuple[Any, dict[str, Any]]:
    """As convert_by_tftrt, for INT8: keeps the uncalibrated graph in a file of its own, too."""
    taken, facts = calibration_samples(job.config, job.graph, job.samples)
    samples = feeds(job.graph, taken, job.case.size)
    with tf.Graph().as_default():
        converter = tftrt_converter(converter_class, job)
        data = converter.convert().SerializeToString(deterministic=True)
        kept = job.path().name.replace("tftrt_int8_", "tftrt_int8_calib_", 1)
        write_atomically(job.path().with_name(kept), data)
        # Else its session fuses, too (left_apart). It heeds no options of tf.config: this turns
        # all optimisers off, and convert has run those that TF-TRT wants.
        converter._test_only_disable_non_trt_optimizers = True
        feed = iter(samples).__next__
        graph_def = converter.calibrate(job.graph.output_names, len(samples), feed_dict_fn=feed)
    return graph_def, {"calibration": {**facts, "method": "TensorRT's own"}}


def tftrt_share(graph_def: Any) -> dict[str, Any]:
    """The number of TRTEngineOps and the share of the graph's nodes that are inside them."""
    segments = {
        function.signature.name: len(function.node_def) for function in graph_def.library.function
    }
    engines = [node for node in graph_def.node if node.op == "TRTEngineOp"]
    inside = sum(segments.get(node.attr["segment_func"].func.name, 0) for node in engines)
    total = inside + len(graph_def.node) - len(engines)
    return {"trt_engines": len(engines), "share_of_nodes": inside / max(total, 1)}


class OnnxRuntime(Engine):
    """The ONNX graphs in ONNX Runtime: its CUDA provider on a GPU, else its CPU kernels."""

    name = "onnxruntime"
    precisions = ("fp32", "fp16", "int8")
    needs_onnx = True

    def version(self) -> str:
        """The GPU package's where both are installed; `missing` where none is."""
        return version_of("onnxruntime-gpu", "onnxruntime") or "missing"

    def why_not_build(self, precision: str) -> str | None:
        """See Engine; it says nothing of GPUs, since what is built is the ONNX file."""
        if self.version() == "missing":
            return "missing: pip install onnxruntime"
        return missing_precision_py() or super().why_not_build(precision)

    def why_not(self, precision: str) -> str | None:
        """See Engine; INT8 can be written where there is a GPU, but not run."""
        reason = self.why_not_build(precision)
        if not reason and precision == "int8" and self.provider().startswith("CUDA"):
            return "ONNX Runtime has no INT8 convolution on GPUs: pip install tensorrt"
        return reason

    def without_norms(self, precision: str) -> bool:
        """See Engine; on GPUs, and of float16 in float32, it was not measured."""
        return precision != "fp16" and self.provider().startswith("CPU")

    def why_not_by_itself(self) -> str | None:
        """Where there is a GPU, but only the package for CPUs."""
        leaves = gpus() and self.provider().startswith("CPU")
        return "would leave the GPU: pip install onnxruntime-gpu" if leaves else None

    @staticmethod
    def provider() -> str:
        """CUDA's provider where it is installed and there is a GPU, else the CPU's."""
        import onnxruntime

        cuda = "CUDAExecutionProvider"
        if gpus() and cuda in onnxruntime.get_available_providers():
            return cuda
        return "CPUExecutionProvider"

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """A session on `provider`, with all of CUDA_SETTINGS that the graph allows.

        Raises:
          UserError: ONNX Runtime took another, or runs none of an INT8 file in int8.
        """
        provider = self.provider()
        tries = CUDA_SETTINGS if provider.startswith("CUDA") else ({},)
        return open_session(tries, job, artifact, feed, provider)


SessionSettings = dict[str, int | str]
# What each gains: docs/measurements.md, by tests/bench/ort_options.py.
CUDA_SETTINGS: tuple[SessionSettings, ...] = (
    {"prefer_nhwc": 1, "enable_cuda_graph": 1},
    {"prefer_nhwc": 1, "enable_cuda_graph": 0},
    {"prefer_nhwc": 0, "enable_cuda_graph": 1},
    {"prefer_nhwc": 0, "enable_cuda_graph": 0},
)


def open_session(
    tries: Sequence[SessionSettings], job: Job, artifact: Artifact, feed: Feed, provider: str
) -> OnnxRuntimeRunner:
    """A runner with the first of these settings that ONNX Runtime does not refuse.

    It captures no graph with loops, nor one of which nodes run on the CPU.

    Raises:
      UserError: as OnnxRuntime.open.
      Exception: ONNX Runtime's own, with the last of them, or where memory ends.
    """
    settings, *less = tries
    try:
        return OnnxRuntimeRunner(job, artifact, feed, provider, settings)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's have no class in common
        if not less or re.search(NO_MEMORY, str(error), re.I):
            raise
        refused = one_line(error)
    # Out of the except block, so that the session that was refused gives its memory back.
    runner = open_session(less, job, artifact, feed, provider)
    runner.facts["refused"] = refused
    return runner


class OnnxRuntimeRunner:
    """A session whose inputs and outputs are bound to the device: a step copies nothing."""

    def __init__(
        self, job: Job, artifact: Artifact, feed: Feed, provider: str, settings: SessionSettings
    ) -> None:
        import onnxruntime

        self.runtime = onnxruntime
        self.device = "cuda" if provider.startswith("CUDA") else "cpu"
        options = session_options(job.config)
        fix_session_shapes(options, feed)
        model = read_unchanged(artifact.path, artifact.sha256)
        with precision_errors(), precision_py().scratch_folder() as scratch:
            if job.case.precision != "fp32":  # nothing of it is proved
                options.optimized_model_filepath = str(scratch / "ran.onnx")
            self.session = create_session(model, options, provider, job.config, settings)
            ran = executed_coverage(options.optimized_model_filepath, job.case.precision)
        self.facts = {"provider": provider, **settings, **ran}
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.resident = self.bind(feed)
        self.apart = run_options(UNCAPTURED)
        self.options = run_options(UNCAPTURED, UNSYNCED)
        if settings.get("enable_cuda_graph"):
            self.capture(feed)

    def bind(self, feed: Feed) -> Any:
        """An IOBinding: the feed copied to the device, outputs that stay there."""
        binding = self.session.io_binding()
        for name, array in as_onnx_takes(feed).items():
            if self.device == "cpu":
                binding.bind_cpu_input(name, array)  # an OrtValue would not keep the array
                continue
            value = self.runtime.OrtValue.ortvalue_from_numpy(array, self.device, 0)
            binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.device, 0)
        return binding

    def capture(self, feed: Feed) -> None:
        """Has a step replay a CUDA graph, which needs outputs that stay where they are.

        Raises:
          RuntimeError: it computes other outputs.
        """
        wanted = self.infer(feed)
        empty = self.runtime.OrtValue.ortvalue_from_shape_and_type
        held = {name: empty(a.shape, a.dtype, self.device, 0) for name, a in wanted.items()}
        for name, value in held.items():
            self.resident.bind_ortvalue_output(name, value)
        self.options = run_options(UNSYNCED)
        self.enqueue()  # captures
        for name, value in held.items():
            value.update_inplace(np.zeros_like(wanted[name]))
        self.enqueue()
        self.sync()
        if not all(replayed(value.numpy(), wanted[name]) for name, value in held.items()):
            raise RuntimeError("a CUDA graph computes other outputs")

    def enqueue(self) -> None:
        """Starts a step on the resident batch.

        On a CPU it is done when this returns, and so is the replay of a CUDA graph.
        """
        self.session.run_with_iobinding(self.resident, self.options)

    def sync(self) -> None:
        """Waits for the GPU; after a replay, and on a CPU, there is nothing left to wait for."""
        self.resident.synchronize_outputs()

    def infer(self, feed: Feed) -> Feed:
        """NumPy in, NumPy out; copied by the session itself."""
        results = self.session.run(self.outputs, as_onnx_takes(feed), self.apart)
        return dict(zip(self.outputs, results))

    def prefetch(self, feed: Feed, steps: int) -> Callable[[], None]:
        """See Runner: the next inputs are bound while a step runs, its outputs fetched after it.

        On a CPU nothing is copied.
        """
        if self.device == "cpu":  # the inputs are read where they lie
            return lambda: repeat(lambda: self.infer(feed), steps)

        options = run_options(UNCAPTURED, UNSYNCED)

        def burst() -> None:
            """The steps; the copy of the first inputs is part of them."""
            following = self.bind(feed)
            for _ in range(steps):
                running = following
                self.session.run_with_iobinding(running, options)
                following = self.bind(feed)  # copies while the step runs
                running.synchronize_outputs()
                running.copy_outputs_to_cpu()

        return burst


# Of the largest output: two runs of the same kernels, whose sums may be added in another order.
REPLAY_NOISE = 0.01


def replayed(values: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether a replay computed what a plain run did, and not nothing."""
    largest = np.max(np.abs(wanted), initial=0)
    return np.allclose(values, wanted, rtol=0, atol=REPLAY_NOISE * largest, equal_nan=True)


# Options of a run: it ends before the GPU has; it neither captures nor replays a CUDA graph.
UNSYNCED = ("disable_synchronize_execution_providers", "1")
UNCAPTURED = ("gpu_graph_id", "-1")


def run_options(*entries: tuple[str, str]) -> Any:
    """ONNX Runtime's options of a run."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    for entry in entries:
        options.add_run_config_entry(*entry)
    return options


def create_session(
    model: bytes, options: Any, provider: str, config: Config, settings: SessionSettings
) -> Any:
    """A session that has the provider: ONNX Runtime silently takes the CPU where CUDA fails."""
    import onnxruntime

    if provider.startswith("CUDA"):
        settings = {"use_tf32": int(config.tf32), **settings}
        if hasattr(onnxruntime, "preload_dlls"):
            # Its CUDA and cuDNN may be others than TensorFlow's: from pip's packages.
            onnxruntime.preload_dlls()
    wrong = precision_py().WRONG_OPTIMIZERS
    # Its own fallback would hide what it refuses.
    session = onnxruntime.InferenceSession(
        model, options, [(provider, settings)], enable_fallback=0, disabled_optimizers=wrong
    )
    if session.get_providers()[0] != provider:
        raise UserError(
            f"ONNX Runtime has no {provider} here, it took {session.get_providers()[0]}: its CUDA "
            "is another than TensorFlow's, pip install 'onnxruntime-gpu[cuda,cudnn]' brings it"
        )
    return session


def session_options(config: Config) -> Any:
    """ONNX Runtime's options: the number of threads, each on its own core with --pin_threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = config.threads or len(cores())
    if config.pin_threads and hasattr(os, "sched_setaffinity"):
        mine = cores()[: options.intra_op_num_threads]
        options.intra_op_num_threads = len(mine)
        if len(mine) > 1:  # ONNX Runtime counts cores from 1
            pins = ";".join(str(core + 1) for core in mine[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", pins)
        os.sched_setaffinity(0, mine[:1])  # the calling thread computes too
    return options


def fix_session_shapes(options: Any, feed: Feed) -> None:
    """Tells a session the shapes that it will be fed, so that what computes shapes is folded.

    In a BERT encoder of two layers that is 150 of 395 nodes.
    """
    for name, array in feed.items():
        for axis, size in enumerate(array.shape):
            options.add_free_dimension_override_by_name(precision_py().open_axis(name, axis), size)


def executed_coverage(optimised: str, precision: str) -> dict[str, Any]:
    """The share that ONNX Runtime really runs at the precision, by the graph that it optimised.

    Raises:
      UserError: INT8 of which nothing runs in int8.
    """
    import onnx

    if not os.path.exists(optimised):
        return {}
    ran = precision_py().coverage(onnx.load(optimised), precision)
    facts = {"executed_share_of_nodes": ran["share_of_nodes"]}
    if precision == "int8":
        facts["weight_bits"] = 7 if int8_saturates() else 8
        if not ran["low_nodes"]:
            raise UserError(
                "ONNX Runtime runs none of this graph's convolutions in int8: try --engine=tensorrt"
            )
    return facts


# The first that the section below was run on, and the first that is not known.
TENSORRT_VERSIONS = (8, 5), (12,)
TENSORRT_WHEELS = {  # a module, and the distributions that bring it
    "tensorrt": (
        "tensorrt",
        "tensorrt-cu13",
        "tensorrt-cu12",
        "tensorrt-cu11",
        "tensorrt-bindings",
    ),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}


def load_tensorrt(package: str) -> Any:
    """The module of `tensorrt` or `tensorrt_rtx`.

    Raises:
      UserError: it does not load: half an installation, or libraries of another CUDA.
    """
    try:
        return importlib.import_module(package)
    except Exception as error:  # ImportError, OSError of a library, RuntimeError of a stub
        raise UserError(
            f"{package} is installed but does not load ({one_line(error)}): pip install "
            f"--force-reinstall {package.replace('_', '-')}"
        ) from error


def numbers_of(package: str) -> tuple[int, ...]:
    """A package's version, from the installed distribution: importing takes seconds."""
    version = version_of(*TENSORRT_WHEELS[package]) or load_tensorrt(package).__version__
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def wrong_version(numbers: tuple[int, ...]) -> str | None:
    """Why a version of `tensorrt` is not taken."""
    first, unknown = TENSORRT_VERSIONS
    if first <= numbers < unknown:
        return None
    number = ".".join(map(str, numbers))
    return f"TensorRT {number} is none of 8.5 to 11: pip install 'tensorrt>=10,<12'"


@functools.cache  # Python does not remember an import that failed
def why_not_tensorrt() -> str | None:
    """Why the `tensorrt` that is installed cannot be used: its version, or it does not load."""
    try:
        reason = wrong_version(numbers_of("tensorrt"))
        if not reason:
            load_tensorrt("tensorrt")
    except UserError as error:
        return str(error)
    return reason


class TensorRt(Engine):
    """TensorRT 8.5 to 11, or TensorRT-RTX 1.x: ONNX, a network, a plan for one batch size, CUDA."""

    name = "tensorrt"
    precisions = ("fp32", "fp16", "int8")
    needs_onnx = builds_slowly = True

    @property
    def choice(self) -> tuple[str, str]:
        """The package that is used, and why that one where both are installed; "" where none is."""
        found = [name for name in TENSORRT_WHEELS if importlib.util.find_spec(name)]
        if len(found) < 2:
            return (found or [""])[0], ""
        if not gpus():
            return (
                "tensorrt_rtx",
                "tensorrt builds only where there is an NVIDIA GPU, tensorrt-rtx anywhere",
            )
        if reason := why_not_tensorrt():
            return "tensorrt_rtx", reason
        return "tensorrt", "it takes every NVIDIA GPU, tensorrt-rtx those of GeForce and RTX"

    @property
    def package(self) -> str:
        """`tensorrt` or `tensorrt_rtx`, as they are imported; "" where none is installed."""
        return self.choice[0]

    def module(self) -> Any:
        """The TensorRT package; raises the UserError of load_tensorrt."""
        return load_tensorrt(self.package)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The package's version, as numbers."""
        return numbers_of(self.package)

    def version(self) -> str:
        """Package and version, as `tensorrt 10.12.0`; `missing` where none is installed."""
        return f"{self.package} {'.'.join(map(str, self.numbers))}" if self.package else "missing"

    @property
    def opset(self) -> int:
        """The ONNX operator set for its parser: TensorRT 8.5 and 8.6 know nothing newer than 17."""
        return 17 if self.weakly_typed else 18

    @property
    def weakly_typed(self) -> bool:
        """Whether TensorRT chooses types itself, within flags: 8.x ignores the ONNX graph's."""
        return self.package == "tensorrt" and self.numbers < (9,)

    @property
    def is_8_6(self) -> bool:
        """Whether it is TensorRT 8.6: for no other was it measured which graphs it runs faster."""
        return self.package == "tensorrt" and self.numbers[:2] == (8, 6)

    def without_norms(self, precision: str) -> bool:
        """See Engine; INT8 loses by it."""
        return self.is_8_6 and precision != "int8"

    def why_not_build(self, precision: str) -> str | None:
        """See Engine; tensorrt needs a GPU to build, tensorrt-rtx none."""
        if not self.package:
            if not gpus():
                return "no NVIDIA GPU (pip install tensorrt-rtx builds plans without one)"
            return "missing: pip install tensorrt (tensorrt-rtx for RTX GPUs)"
        if self.package == "tensorrt" and (reason := wrong_version(self.numbers)):
            return reason
        if self.package == "tensorrt" and not gpus():
            remedy = "pip install tensorrt-rtx, which builds anywhere"
            return f"tensorrt builds only where there is an NVIDIA GPU: {remedy}"
        return missing_precision_py() or super().why_not_build(precision)

    def why_not(self, precision: str) -> str | None:
        """See Engine; also where the first GPU is none that tensorrt-rtx supports."""
        if (reason := self.why_not_build(precision)) or not gpus():
            return reason or "no NVIDIA GPU"
        if self.package == "tensorrt_rtx" and (reason := rtx_refuses(self.module(), gpus()[0])):
            # Where tensorrt was passed over, what is wrong with it is what to mend.
            return self.choice[1] or reason
        if not version_of("cuda-core"):
            return "cuda.core is missing: pip install 'cuda-core>=1.0' cuda-bindings"
        return None

    def model_to_parse(self, job: Job) -> tuple[bytes, list[str]]:
        """The case's ONNX model as this version takes it; its inputs that lie channels last."""
        assert job.source
        model = read_unchanged(job.source.path, job.source.sha256)
        if not self.is_8_6:
            return model, []
        if job.case.precision == "int8":
            model = precision_py().weights_as_floats(model)
        return precision_py().without_input_transposes(model)

    def build(self, job: Job) -> Artifact:
        """A plan for the case's batch size; the seconds are with those of its ONNX file.

        Raises:
          UserError: TensorRT's parser or builder refuses it.
        """
        assert job.source
        start = time.perf_counter() - job.source.seconds
        plan, facts = build_plan(self.module(), job, *self.model_to_parse(job))
        package, why = self.choice
        facts |= {"package": f"{package}, {why}" if why else package}
        path = job.path(f"_batch{job.case.batch_size}.engine")
        of_source = {
            name: fact for name, fact in job.source.facts.items() if name != "built_before"
        }
        return write_artifact(path, plan, start, {**of_source, **facts})

    def open(self, job: Job, artifact: Artifact, feed: Feed) -> Runner:
        """Loads the plan and runs it once.

        Raises:
          UserError: it does not load, a shape depends on the data, or nothing of it has the
            precision.
        """
        return TensorRtRunner(self.module(), job, artifact, feed)


def rtx_refuses(rtx: Any, gpu: dict[str, Any]) -> str | None:
    """Why TensorRT-RTX, which lists what compute capabilities it supports, refuses a GPU."""
    capability = gpu["compute_capability"]
    if f"SM{capability.replace('.', '')}" in rtx.ComputeCapability.__members__:
        return None
    why = f"TensorRT-RTX does not support this GPU's compute capability {capability}"
    return f"{why}: pip install tensorrt"


def trt_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps the errors, to be told in one line."""

    class Logger(trt.ILogger):
        """What TensorRT is given to say things to; it keeps those of its two highest levels."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            """Called by TensorRT, whose threads may do so too."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(text)

    return Logger()


# What its log says, and what helps.
TENSORRT_REMEDIES = {
    r"error: 35\b": "the NVIDIA driver is older than this TensorRT's CUDA: update the driver",
    r"error: 100\b|no CUDA-capable device": "it needs an NVIDIA GPU that this process may use",
    r"[Oo]ut.?[Oo]f.?[Mm]emory": "out of memory: pass a smaller --batch_size",
    r"implementation for node": "leave --workspace_size out, or pass a larger one",
    r"Assertion": "a fault of this TensorRT's: try another version of it, or another precision",
    r"[Dd]eserializ|(magic|version) tag": "it was written by another TensorRT or GPU: remove it",
}


def trt_error(what: str, errors: list[str]) -> UserError:
    """TensorRT's logged errors as one line: the first with a known remedy, else the first."""
    for text in errors:
        for pattern, remedy in TENSORRT_REMEDIES.items():
            if re.search(pattern, text):
                return UserError(f"TensorRT cannot {what} ({one_line(text)}): {remedy}")
    why = one_line(errors[0]) if errors else "no reason given"
    return UserError(f"TensorRT cannot {what} ({why}): try --engine=xla")


@contextlib.contextmanager
def starting(logger: Any) -> Iterator[None]:
    """Around what makes a first object of TensorRT's.

    Raises:
      UserError: what its log says; pybind11's own TypeError says only that it got a null pointer.
    """
    try:
        yield
    except TypeError as error:
        raise trt_error("start", logger.errors) from error


def build_plan(
    trt: Any, job: Job, model: bytes, channels_last: Sequence[str] = ()
) -> tuple[bytes, dict[str, Any]]:
    """The serialised plan of an ONNX model for the case's batch size, and how it was built.

    Args:
      channels_last: names of the inputs that lie so in memory, though the model has them channels
        first.

    Raises:
      UserError: TensorRT's parser or builder refuses the model.
    """
    logger = trt_logger(trt)
    with starting(logger):
        builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise trt_error("parse the graph", parser_errors(parser, logger.errors))
    fix_inputs(trt, network, job.batch(), channels_last)
    config = builder_config(trt, builder, job)
    kept = allow_precision(trt, network, config, job.case.precision, model)
    cache = timing_cache_path(trt, job)
    facts = use_timing_cache(config, cache) if cache else {}
    plan = serialise(builder, network, config, logger)
    insisted = 0
    if chose_float32(trt, plan, job.case.precision):
        insisted = insist_on_float16(trt, network, config, kept)
    if insisted:
        plan = serialise(builder, network, config, logger)
    if cache:
        write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    facts |= build_facts(trt, config)
    facts |= {"channels_last": list(channels_last)} if channels_last else {}
    return plan, facts | ({"insisted_on_float16": insisted} if insisted else {})


def parser_errors(parser: Any, logged: list[str]) -> list[str]:
    """Why a parser refuses a graph, for trt_error: its own word and what was logged.

    The first text has both, since each may lack the reason: its own may be only the layer's name,
    what was logged first only the node's.
    """
    own = one_line(parser.get_error(0).desc()) if parser.num_errors else ""
    first = one_line(logged[0]) if logged else ""
    told = first if own in first else "; ".join(filter(None, (own, first)))
    return [told, *logged] if told else []


def serialise(builder: Any, network: Any, config: Any, logger: Any) -> bytes:
    """The plan that TensorRT builds; raises the UserError that its log gives."""
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise trt_error("build the plan", logger.errors)
    return bytes(plan)


def network_flags(trt: Any) -> int:
    """Strongly typed where TensorRT can be, else with an explicit batch, which 8.x asks for."""
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.EXPLICIT_BATCH if TENSORRT.weakly_typed else kinds.STRONGLY_TYPED)


def fix_inputs(trt: Any, network: Any, feed: Feed, channels_last: Sequence[str]) -> None:
    """Builds for what is fed, as it lies: only with static shapes the inspector names types."""
    for index in range(network.num_inputs):
        source = network.get_input(index)
        shape = feed[source.name].shape
        if source.name in channels_last:
            batch, *sides, channels = shape
            shape = (batch, channels, *sides)
            source.allowed_formats = 1 << int(trt.TensorFormat.HWC)
        source.shape = shape


TIMING_ITERATIONS = 8  # averaged for each kernel that the builder tries: trtexec's default


def builder_config(trt: Any, builder: Any, job: Job) -> Any:
    """The builder's configuration, but for what a precision needs: allow_precision."""
    config = builder.create_builder_config()
    if job.config.workspace_size:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.config.workspace_size << 20)
    # The inspector tells precisions only then.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.avg_timing_iterations = TIMING_ITERATIONS
    if job.config.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    # RTX builds for Ampere and newer unless told
    if gpus() and hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    return config


def allow_precision(
    trt: Any, network: Any, config: Any, precision: str, model: bytes
) -> frozenset[str]:
    """For a weakly typed TensorRT: allows it a precision, and pins what stays float32.

    A strongly typed network needs no word: there the ONNX graph's types are the plan's.

    Returns:
      The names of the layers that stay: pinned, or in 8.5 within Q/DQ pairs.
    """
    if not TENSORRT.weakly_typed or precision == "fp32":
        return frozenset()
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    kept = frozenset(precision_py().kept_in_float32(model))
    if not kept:
        return kept
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    int8 = precision_py().computed_in_int8(model) if TENSORRT.numbers < (8, 6) else {}
    for layer in layers_of(network):
        if layer.name in kept:
            pin_to_float32(trt, layer, int8.get(layer.name))
    return kept


def pin_to_float32(trt: Any, layer: Any, gives_int8: bool | None) -> None:
    """Has a layer of a weakly typed network compute in float32, and give it.

    Args:
      gives_int8: of a layer that reads int8, which TensorRT 8.5 refuses to build when it is pinned
        ("incorrectly marked as an int8 node"): it computes in int8, and only what it gives can be
        float32, where nothing quantises it. None: of all others.
    """
    if gives_int8 is None:
        layer.precision = trt.float32
    if not gives_int8:
        for index in range(layer.num_outputs):
            layer.set_output_type(index, trt.float32)


def layers_of(network: Any) -> Iterator[Any]:
    """The layers of a TensorRT network, in its order."""
    return (network.get_layer(index) for index in range(network.num_layers))


def chose_float32(trt: Any, plan: bytes, precision: str) -> bool:
    """Whether a weakly typed TensorRT found nothing faster in float16, as for tiny networks."""
    if not TENSORRT.weakly_typed or precision != "fp16":
        return False
    # The engine lives as long as its runtime.
    _runtime, engine = load_plan(trt, trt_logger(trt), plan)
    share = plan_share(read_inspector(inspected(trt, engine)), precision)
    return share.get("executed_share_of_nodes") == 0


# FULLY_CONNECTED until 9: what some parsers make of Gemm.
HEAVY_KINDS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")


def insist_on_float16(trt: Any, network: Any, config: Any, kept: frozenset[str]) -> int:
    """Pins convolutions and matrix products to float16: FP16 was asked for, faster or not.

    Returns:
      How many were pinned: what overflows float16 is `kept` as it is.
    """
    kinds = {trt.LayerType.__members__.get(name) for name in HEAVY_KINDS}
    heavy = [layer for layer in layers_of(network) if layer.type in kinds]
    free = [layer for layer in heavy if layer.name not in kept]
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for layer in free:
        layer.precision = trt.float16
    return len(free)


def timing_cache_path(trt: Any, job: Job) -> Path | None:
    """The file of kernel timings of one TensorRT version and GPU; RTX times at run time."""
    if trt.__name__ != "tensorrt":
        return None
    gpu = re.sub(r"\W+", "_", gpus()[0]["name"]) if gpus() else "none"
    return Path(job.config.output_dir, f"tensorrt_timing_{trt.__version__}_{gpu}.cache")


def use_timing_cache(config: Any, path: Path) -> dict[str, Any]:
    """Has the builder use earlier plans' timings, and keep its own; whether it took any.

    Where it refuses them it begins with none, and what it keeps replaces them.
    """
    if path.exists():
        earlier = config.create_timing_cache(path.read_bytes())
        if earlier is not None and config.set_timing_cache(earlier, False):
            return {"timing_cache": "warm"}
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return {"timing_cache": "cold"}


def build_facts(trt: Any, config: Any) -> dict[str, Any]:
    """What a plan's build time and kernels depended on, for the record."""
    facts: dict[str, Any] = {"cuda_module_loading": os.environ.get("CUDA_MODULE_LOADING", "")}
    sources = config.get_tactic_sources()
    facts["tactic_sources"] = [
        name for name, source in trt.TacticSource.__members__.items() if sources >> int(source) & 1
    ]
    if hasattr(config, "builder_optimization_level"):  # from 8.6 on
        facts["optimization_level"] = config.builder_optimization_level
    return facts


# By the names of TensorRT's DataType; its own nptype fails on NumPy 1.24 and later (8.5).
NUMPY_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class Slot:
    """Device memory, and page-locked host memory, for each input and output of a step."""

    def __init__(self, gpu: Any, stream: Any, arrays: Feed) -> None:
        from cuda.core import LegacyPinnedMemoryResource

        pinned = LegacyPinnedMemoryResource()
        self.device = {
            name: gpu.allocate(array.nbytes, stream=stream) for name, array in arrays.items()
        }
        self.staging = {name: pinned.allocate(array.nbytes) for name, array in arrays.items()}
        self.host = {
            name: pinned_array(self.staging[name], array) for name, array in arrays.items()
        }
        self.done: Any = None

    def copy_in(self, names: list[str], stream: Any) -> None:
        """Enqueues copies of these tensors to the device; they read `staging` later."""
        for name in names:
            self.staging[name].copy_to(self.device[name], stream=stream)

    def copy_out(self, names: list[str], stream: Any) -> None:
        """Enqueues copies of these tensors from the device; `host` has them after a sync."""
        for name in names:
            self.device[name].copy_to(self.staging[name], stream=stream)


class TensorRtRunner:
    """A plan with two slots and two streams: one stream copies in while the other computes."""

    def __init__(self, trt: Any, job: Job, artifact: Artifact, feed: Feed) -> None:
        from cuda.core import Device

        gpu = Device(0)
        gpu.set_current()
        self.stream = gpu.create_stream()
        self.copies = gpu.create_stream()  # non-blocking, both
        plan = read_unchanged(artifact.path, artifact.sha256)
        logger = trt_logger(trt)
        self.runtime, self.engine = load_plan(trt, logger, plan)
        cache = Path(job.config.output_dir) / "tensorrt_rtx_runtime.cache"
        self.context, kernels = create_context(self.engine, logger, cache)
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        # A plan lacks inputs that turned out to change nothing.
        self.inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        # Of an image whose channels lie last a plan's own shape has them first.
        shapes = {name: feed[name].shape for name in self.inputs}
        shapes |= {name: self.shape_of(name) for name in self.outputs}
        arrays = {name: np.empty(shape, self.type_of(name)) for name, shape in shapes.items()}
        self.slots = [Slot(gpu, self.stream, arrays) for _ in range(2)]
        self.infer(feed)  # allocates and, with RTX, compiles; a capture allows neither
        self.graph = self.capture()
        listing = Path(artifact.path).with_suffix(".json")
        self.facts = inspect_plan(trt, self.engine, job.case.precision, listing)
        self.facts["cuda_graph"] = self.graph is not None
        if kernels is not None:
            write_atomically(cache, bytes(kernels.serialize()))

    def type_of(self, name: str) -> np.dtype:
        """NumPy's type for an input or output."""
        return np.dtype(NUMPY_TYPES[self.engine.get_tensor_dtype(name).name])

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of an output.

        Raises:
          UserError: it depends on the data.
        """
        shape = tuple(self.context.get_tensor_shape(name))
        if any(side < 0 for side in shape):
            raise UserError(
                f"the shape of {name} depends on the data ({list(shape)}), which the tensorrt "
                "engine does not run: leave it out with --output_node"
            )
        return shape

    def launch(self, slot: Slot, stream: Any) -> None:
        """Enqueues a step on a slot's memory.

        Raises:
          RuntimeError: TensorRT refuses it.
        """
        for name, memory in slot.device.items():
            self.context.set_tensor_address(name, int(memory.handle))
        if not self.context.execute_async_v3(int(stream.handle)):
            raise RuntimeError("TensorRT refused to enqueue a step")

    def capture(self) -> Any:
        """One run on the first slot as a CUDA graph, or None where the plan does not allow it."""
        capturable = getattr(self.context, "is_stream_capturable", lambda stream: True)
        if not capturable(int(self.stream.handle)):
            return None
        try:
            builder = self.stream.create_graph_builder().begin_building("thread_local")
            self.launch(self.slots[0], builder.stream)
            return builder.end_building().complete()
        # CUDA says only at capture that a kernel cannot be captured; the record says that it was
        # not.
        except Exception:
            return None

    def enqueue(self) -> None:
        """Starts a step on the first slot: its CUDA graph where there is one."""
        if self.graph is not None:
            self.graph.launch(self.stream)
        else:
            self.launch(self.slots[0], self.stream)

    def sync(self) -> None:
        """Waits for the computing stream; the copying one is waited for by its steps."""
        self.stream.sync()

    def fill(self, slot: Slot, feed: Feed) -> None:
        """Writes a step's inputs where they are copied in from, in the plan's types."""
        for name in self.inputs:
            np.copyto(slot.host[name], feed[name], casting="same_kind")

    def infer(self, feed: Feed) -> Feed:
        """NumPy in, NumPy out, by the first slot; the arrays are copies."""
        slot = self.slots[0]
        self.fill(slot, feed)
        slot.copy_in(self.inputs, self.stream)
        self.launch(slot, self.stream)
        slot.copy_out(self.outputs, self.stream)
        self.stream.sync()
        return {name: slot.host[name].copy() for name in self.outputs}

    def prefetch(self, feed: Feed, steps: int) -> Callable[[], None]:
        """See Runner: all steps copy the same `feed`, which is written into both slots here."""
        for slot in self.slots:  # staging is filled once and reused, as a server's decoder would
            self.fill(slot, feed)
        return lambda: self.run_from_host(steps)

    def run_from_host(self, steps: int) -> None:
        """Runs steps in turn on both slots: one copies in while the other computes."""
        for step in range(steps):
            slot = self.slots[step % 2]
            if slot.done is not None:
                slot.done.sync()
            slot.copy_in(self.inputs, self.copies)
            self.stream.wait(self.copies.record())
            self.launch(slot, self.stream)
            slot.copy_out(self.outputs, self.stream)
            slot.done = self.stream.record()
        self.stream.sync()


def load_plan(trt: Any, logger: Any, plan: bytes) -> tuple[Any, Any]:
    """TensorRT's runtime, which must outlive it, and the engine of a plan.

    Raises:
      UserError: TensorRT does not start or cannot load it; its log says why.
    """
    with starting(logger):
        runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise trt_error("load the plan", logger.errors)
    return runtime, engine


def create_context(engine: Any, logger: Any, cache: Path) -> tuple[Any, Any]:
    """An execution context and, with TensorRT-RTX, its cache of compiled kernels.

    Raises:
      UserError: there is none, as where memory is short; TensorRT's log says why.
    """
    config = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
    kernels = None
    if config is None or not hasattr(config, "create_runtime_cache"):
        context = engine.create_execution_context()
    else:
        kernels = config.create_runtime_cache()
        if cache.exists():
            # Refuses by itself what another GPU or version wrote.
            kernels.deserialize(cache.read_bytes())
        config.set_runtime_cache(kernels)
        context = engine.create_execution_context(config)
    if context is None:
        raise trt_error("run the plan", logger.errors)
    return context, kernels


def inspect_plan(trt: Any, engine: Any, precision: str, listing: Path) -> dict[str, Any]:
    """The share of a plan's heavy layers that have the precision; its layers go to `listing`.

    Raises:
      UserError: the plan computes nothing at the precision asked for.
    """
    text = inspected(trt, engine)
    write_atomically(listing, text.encode())
    share = plan_share(read_inspector(text), precision)
    if precision in ("fp16", "int8") and share.get("executed_share_of_nodes") == 0:
        raise UserError(
            f"TensorRT computes nothing in {precision.upper()} here: it would time another "
            "precision"
        )
    return share


def inspected(trt: Any, engine: Any) -> str:
    """What TensorRT's inspector says of a plan's layers, as JSON."""
    inspector = engine.create_engine_inspector()
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def read_inspector(text: str) -> list[dict[str, Any]]:
    """The layers in the inspector's JSON, which from 8.6 on holds raw control characters."""
    layers = json.loads(text, strict=False).get("Layers", [])
    # Names only, where it was built without DETAILED.
    return [layer for layer in layers if isinstance(layer, dict)]


# RTX's runtime_fusion: in every plan that was looked at one of them, with what follows it.
HEAVY_LAYERS = re.compile("conv|correlation|gemm|matmul|matrix|runtime_fusion", re.I)
# Stands between the names of nodes that read the same and are one layer, as a query, key and value:
# in 8.x, and in RTX.
MERGED = re.compile(r" \|\| |\b\+\b")
TYPE_WORDS = {  # "float" stands also in bfloat16 and float16, "int8" in uint8
    "fp16": r"\bhalf\b|\bfp16\b|\bfloat16\b",
    "int8": r"\bint8\b",
    "fp32": r"\bfloat\b|\bfp32\b|\bfloat32\b",
}
ANY_TYPE = re.compile(r"\b(half|b?float(16|32)?|[bf]p?\d+|u?int\d+|bool)\b", re.I)


def plan_share(layers: list[dict[str, Any]], precision: str) -> dict[str, Any]:
    """The share of a plan's convolutions and matrix products whose input has the precision.

    TensorRT 8 and 10 tell a tensor's type in `Format/Datatype`, RTX and 11 in `Datatype`.
    `unknown_nodes` counts those that do not tell it. Blocks that TensorRT fuses tell nothing of
    what is inside: that is in neither count, which plan_notes says.
    """
    word = re.compile(TYPE_WORDS[precision], re.I)
    told: list[str] = []
    for layer in layers:
        if HEAVY_LAYERS.search(str(layer.get("LayerType"))):
            told += [input_type(layer)] * merged_nodes(layer)
    known = [kind for kind in told if ANY_TYPE.search(kind)]
    share: dict[str, Any] = {"executed_nodes": len(known), "unknown_nodes": len(told) - len(known)}
    if known:
        share["executed_share_of_nodes"] = sum(bool(word.search(kind)) for kind in known) / len(
            known
        )
    return share


def merged_nodes(layer: dict[str, Any]) -> int:
    """How many convolutions or matrix products are merged in a heavy layer, by its name."""
    return len(MERGED.findall(str(layer.get("Name")))) + 1


def input_type(layer: dict[str, Any]) -> str:
    """How a layer's listing words the type of its first input, or ""."""
    source = (layer.get("Inputs") or [{}])[0]
    if not isinstance(source, dict):
        return ""
    return str(source.get("Datatype") or source.get("Format/Datatype") or "")


TENSORRT = TensorRt()
ALL_ENGINES: tuple[Engine, ...] = (Native(), TENSORRT, TfTrt(), Xla(), OnnxRuntime())
ENGINES = {engine.name: engine for engine in ALL_ENGINES}
AUTO = ("tensorrt", "tftrt", "xla", "onnxruntime")  # the order in which auto looks


def refuse_engines(config: Config) -> None:
    """Refuses engines that do not exist."""
    engines = [name for name in ENGINES if name != "native"]
    for name in config.engine:
        if name not in ("auto", *engines):
            raise UserError(
                f"--engine={name}: no such engine; pass auto or some of {', '.join(engines)}"
            )


# --------------------------------------------------------------------------------------- ONNX files


def int8_settings(engine: str) -> Any:
    """How an engine wants its Q/DQ: ONNX Runtime's kernels for CPUs unsigned, TensorRT symmetric.

    A strongly typed network falls back to nothing by itself: what is not quantised is written as
    float16 for it.
    """
    module = precision_py()
    if engine != "onnxruntime":
        return module.Settings(half=not TENSORRT.weakly_typed)
    return module.Settings(unsigned=True, weight_bits=7 if int8_saturates() else 8)


class Onnx:
    """The graph as ONNX, and its calibration: each made once, when first needed, for all cases."""

    def __init__(self, config: Config, graph: Graph, samples: Samples) -> None:
        self.config = config
        self.graph = graph
        self.samples = samples

    @functools.cached_property
    def precisions(self) -> Any:
        """precision.py's view of the graph."""
        data = read_unchanged(self.graph.path, self.graph.sha256)
        names = self.graph.input_names, self.graph.output_names
        return precision_py().Precisions(data, *names, TENSORRT.opset, progress)

    @property
    def fp32(self) -> Any:
        """The exported model; raises the UserError of its export."""
        with precision_errors(), waiting("Exporting to ONNX"), quiet():
            return self.precisions.fp32

    @property
    def folded(self) -> Any:
        """The exported model with constants and batch norm folded, shapes inferred."""
        with precision_errors(), waiting("Exporting to ONNX"), quiet():
            return self.precisions.folded

    @property
    def without_norms(self) -> Any:
        """The folded model with convolutions for the batch norms that are left in it.

        Raises:
          UserError: of the export; a model that cannot be folded is as it was exported.
        """
        exported = self.fp32
        if all(node.op_type != "Conv" for node in exported.graph.node):
            return exported  # a text encoder, whose folding takes seconds and gigabytes
        try:
            folded = self.folded
        except Exception:  # it takes a CPU's kernels, which ONNX Runtime lacks for ops in float64
            return exported
        return precision_py().norms_as_convolutions(folded)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """The ranges for INT8; raises the UserErrors of `calibrate` and of the export."""
        return calibrate(self.config, self.graph, self.samples, self.folded)

    def model(self, engine: str, precision: str) -> tuple[Any, dict[str, Any]]:
        """The ONNX model for an engine and precision, and what of it has that precision."""
        without_norms = ENGINES[engine].without_norms(precision)
        if precision == "int8":
            ranges = self.calibration.ranges
            with precision_errors():
                return self.precisions.int8(ranges, int8_settings(engine), without_norms)
        if precision == "fp32":
            return self.without_norms if without_norms else self.fp32, {}
        some = feeds(self.graph, self.samples.head(FP16_SAMPLES))
        with precision_errors():
            return self.precisions.fp16(map(as_onnx_takes, some), without_norms)

    def write(self, case: Case) -> Artifact:
        """Writes the ONNX file of a case's engine and precision into the output directory."""
        start = time.perf_counter()
        path = Path(self.config.output_dir) / case.file_name(self.graph, ".onnx")
        with waiting(f"Writing {path.name}"):
            model, facts = self.model(case.engine, case.precision)
            if case.precision == "int8":
                facts = {**facts, "calibration": self.calibration.facts}
            return write_artifact(path, model.SerializeToString(), start, facts)


# ------------------------------------------------------------------------------------------- timing


NANOSECOND = 9  # decimals of a second


def time_steps(
    step: Callable[[], Any],
    count: int,
    clock: Callable[[], float] = time.perf_counter,
    after: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Seconds of each of `count` steps; `after` is called between them and not timed."""
    seconds = []
    for _ in range(count):
        start = clock()
        step()
        seconds.append(clock() - start)
        after()
    # A clock tells no more, and a step takes 13 bytes of a record instead of 22.
    return [round(second, NANOSECOND) for second in seconds]


def waited_step(runner: Runner, feed: Feed, inputs: str) -> Callable[[], Any]:
    """A step that is waited for: on the resident batch, or from NumPy to NumPy."""
    if inputs == "host":
        return functools.partial(runner.infer, feed)

    def step() -> None:
        """A step on the resident batch, to its end."""
        runner.enqueue()
        runner.sync()

    return step


def throughput_loop(runner: Runner, feed: Feed, inputs: str, steps: int) -> Callable[[], Any]:
    """A throughput loop: `steps` steps that are waited for once; from the host with prefetch."""
    if inputs == "host":
        return runner.prefetch(feed, steps)

    def burst() -> None:
        """The steps on the resident batch, waited for once."""
        repeat(runner.enqueue, steps)
        runner.sync()

    return burst


# Seconds of a warm-up that lasts until the speed has stopped rising.
WARM_LEAST = 1.0
WARM_MOST = 10.0
WARM_WINDOW = 0.25  # seconds of steps whose median is one speed in it
RISING = 0.02  # a speed that rises by less has stopped
ROUND_SECONDS = 0.5  # of waited steps in a round, where the flags leave their number open
LEAST_STEPS = 4  # in a round, where the flags say how many steps there are
# Seconds that an engine's idle threads may spin on before the next case is timed all the same.
REST_MOST = 1.0


def warm_up(step: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Runs a step until its speed has stopped rising; its seconds by then."""
    begun = clock()
    medians = list[float]()
    while is_rising(medians, clock() - begun):
        window = time_steps(step, 1, clock)
        while sum(window) < WARM_WINDOW:
            window += time_steps(step, 1, clock)
        medians.append(float(np.median(window)))
    return medians[-1]


def is_rising(medians: list[float], elapsed: float) -> bool:
    """Whether a warm-up goes on: the last two windows are still faster than the best before.

    Args:
      medians: seconds of a step in each window.
      elapsed: seconds since the warm-up began.
    """
    if not medians or elapsed < WARM_LEAST:
        return True
    if elapsed >= WARM_MOST:
        return False
    if len(medians) < 4:
        return medians[-1] < WARM_LEAST  # long steps need no second look
    return min(medians[-2:]) < (1 - RISING) * min(medians[:-2])


LEAST_ROUNDS = 5  # under which lowest and highest hold the median less than nine times in ten


def plan_rounds(loops: int, rounds: int | None) -> list[int]:
    """The steps of each round: `loops` in all, as evenly as possible."""
    rounds = min(loops, rounds or min(LEAST_ROUNDS, max(1, loops // LEAST_STEPS)))
    return [loops // rounds + (turn < loops % rounds) for turn in range(rounds)]


def return_memory() -> None:
    """Gives back to the system what was freed: other cases' processes live beside this one.

    Done before the warm-up, in which what is needed again is taken again.

    TensorFlow frees five times the graph's size when it has optimised it, of which glibc keeps all.
    """
    with contextlib.suppress(AttributeError, OSError):  # another C library has none
        ctypes.CDLL(None).malloc_trim(0)


def come_to_rest() -> None:
    """Waits until this process uses no core: engines let idle threads spin for a while."""
    end = time.monotonic() + REST_MOST
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return


# NVML's nvmlClocksEventReason bits that mean a GPU runs slower than it could; idle and user
# settings are none of them.
THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}


class Clocks(threading.Thread):
    """Samples a GPU's SM clock, power, temperature and throttling ten times a second: a context."""

    PERIOD = 0.1  # seconds

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[dict[str, int]] = []
        self.cost = 0.0
        self.over = threading.Event()
        self.waiting = False

    def __enter__(self) -> Clocks:
        if gpus():
            self.sample()  # NVML's first answers are slow: not in the loop
            self.samples.clear()
            self.start()
        self.begun = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.begun
        self.over.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """The thread: a sample each PERIOD, none while paused; `cost` sums up their seconds."""
        while not self.over.wait(self.PERIOD):
            if self.waiting:
                continue
            start = time.perf_counter()
            self.sample()
            self.cost += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Takes no samples while this GPU waits for its neighbours: it computes nothing then."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def sample(self) -> None:
        """Reads every sensor that this board has; each may be missing by itself."""
        import pynvml as nvml

        handle = nvml.nvmlDeviceGetHandleByIndex(gpus()[0]["index"])
        sensors = {
            "sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "celsius": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "reasons": lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
        }
        found = {}
        for name, read in sensors.items():
            with contextlib.suppress(nvml.NVMLError):
                found[name] = read()
        if found:
            self.samples.append(found)

    def column(self, name: str) -> list[float]:
        """A sensor's values in the order of the samples; those without it are left out."""
        return [sample[name] for sample in self.samples if name in sample]

    def facts(self, images: int, seconds: float) -> dict[str, Any]:
        """Lowest, median and highest clocks (MHz), power (W) and temperature (Celsius), and more.

        What the board has no sensor for is left out. images/J = images / (median W x seconds).

        Args:
          images: how many were computed in so many `seconds`; waiting for others is no part of
            them.
        """
        if not self.samples:
            return {}
        facts: dict[str, Any] = {}
        for name in ("sm_mhz", "power_w", "celsius"):
            if column := self.column(name):
                facts[name] = [float(end(column)) for end in (np.min, np.median, np.max)]
        if "power_w" in facts:
            facts["images_per_joule"] = images / (facts["power_w"][1] * seconds)
        if reasons := self.column("reasons"):
            slowed = functools.reduce(int.__or__, map(int, reasons))
            facts["throttled"] = [what for bit, what in THROTTLES.items() if slowed & bit]
        return {**facts, "samples": len(self.samples), "cost_share": self.cost / self.seconds}


COUNTABLE = 0.1  # seconds: the kernel counts hundredths, so that in 1 ms one looks like ten cores


def surroundings(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Cores that others used, or the hypervisor took; waiting for cores; programs on the GPU.

    `other_share` is of all cores, `waited_share` is the share of the time in which something waited
    for a core. What nothing tells here is left out.

    Args:
      before, after: two readings of `counters`, and nothing between them but what was measured.
    """
    gone = {name: after[name] - value for name, value in before.items()}
    seconds = gone.pop("seconds")
    facts = {}
    if "busy" in gone and seconds >= COUNTABLE:
        facts["other_cores"] = max(0.0, gone["busy"] - gone["own"]) / seconds
        facts["other_share"] = facts["other_cores"] / (os.cpu_count() or 1)
        facts["stolen_cores"] = gone["stolen"] / seconds
    if "waited" in gone:
        # The kernel's count is read after the clock, and may be ahead of it
        facts["waited_share"] = min(1.0, gone["waited"] / seconds)
    if gpus():
        facts["gpu_programs"] = gpu_neighbours()
    return facts


def counters() -> dict[str, float]:
    """Seconds until now by what they went into, of all cores: the kernel's own counts."""
    found = {"seconds": time.perf_counter()}
    with contextlib.suppress(OSError):  # Linux only
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        user, nice, system, _, _, irq, softirq, stolen = ticks[:8]
        per_second = os.sysconf("SC_CLK_TCK")
        found["busy"] = (user + nice + system + irq + softirq) / per_second
        found["stolen"] = stolen / per_second
        found["own"] = sum(os.times()[:2])
    with contextlib.suppress(OSError):  # from Linux 4.20 on, where it is not off
        if some := re.search(r"^some .*total=(\d+)", Path("/proc/pressure/cpu").read_text(), re.M):
            found["waited"] = int(some.group(1)) / 1e6
    return found


def gpu_neighbours() -> int:
    """Programs that compute on the GPU beside this one's cases; 0 where process ids do not tell."""
    import pynvml as nvml

    with contextlib.suppress(nvml.NVMLError, OSError):
        handle = nvml.nvmlDeviceGetHandleByIndex(gpus()[0]["index"])
        there = {process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        if os.getpid() in there:  # else it lists the ids of another namespace
            return sum(parent_of(pid) != os.getppid() for pid in there - {os.getpid()})
    return 0


def parent_of(pid: int) -> int:
    """The id of a process's parent, from /proc."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# What may have moved the speed: fact, from where on it is worth a word, and the word.
CAUSES = (
    ("gpu_programs", 0, "other programs on the GPU: {gpu_programs:.0f}"),
    ("stolen_cores", 0.02, "the hypervisor took {stolen_cores:.2f} cores"),
    ("other_share", 0.05, "other programs used {other_cores:.1f} cores"),
    ("waited_share", 0.1, "cores were waited for {waited_share:.0%} of the time"),
)


def likeliest_cause(rounds: list[dict[str, Any]]) -> str:
    """What may have moved the speed during the rounds, from what Clocks saw in each."""
    slowed = sorted({reason for clocks in rounds for reason in clocks.get("throttled", ())})
    if slowed:
        return f"the GPU slowed itself: {', '.join(slowed)}"
    around = [clocks.get("surroundings", {}) for clocks in rounds]
    for name, least, words in CAUSES:
        most: dict[str, float] = max(around, key=lambda facts: facts.get(name, 0), default={})
        if most.get(name, 0) > least:
            return words.format_map(most)
    return "nothing else was seen"


def stolen_cores(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The cores that the hypervisor took in the median round, where the kernel counts them.

    Two runs are compared with it in view: on a host that others use, all of a run may be slow.
    """
    found = [clocks.get("surroundings", {}).get("stolen_cores") for clocks in rounds]
    counted = [cores for cores in found if cores is not None]
    return {"stolen_cores": float(np.median(counted))} if counted else {}


# --------------------------------------------------------------------------------------- statistics


# A median known to 2.5 %, and drifting by no more, is steady: trtexec's limit of variation.
STEADY = 0.025
CLOCKS_MOVED = 0.05  # share by which the SM clock may move before the numbers need a word
CONFIDENCE = 0.95  # at least, of what order statistics tell


def summarise(seconds: list[float], batch_size: int) -> dict[str, float]:
    """The statistics of log.txt, images/s and seconds; formulas in docs/records.md.

    jitter is 1.4826 x the median absolute deviation, which estimates a normal distribution's
    standard deviation.
    """
    times = np.asarray(seconds)
    speeds = batch_size / times
    low, high = median_interval(speeds)
    return {
        "fps_median": float(np.median(speeds)),
        "fps_mean": float(np.mean(speeds)),
        "fps_uncertainty": float(np.std(speeds, ddof=1) / np.sqrt(len(speeds))),
        "fps_jitter": float(1.4826 * np.median(np.abs(speeds - np.median(speeds)))),
        "fps_low": low,
        "fps_high": high,
        "latency_median": float(np.median(times)),
        "latency_mean": float(np.mean(times)),
        "latency_99th": float(np.percentile(times, 99)),
        "latency_99th_uncertainty": float(
            abs(np.percentile(times[0::2], 99) - np.percentile(times[1::2], 99))
        ),
    }


def median_interval(values: Any) -> tuple[float, float]:
    """An interval that holds the median with at least CONFIDENCE, for any distribution.

    The k-th smallest and k-th largest value. Under 6 values no interval is that sure: lowest and
    highest then.
    """
    ordered = np.sort(values)
    k = max(1, sure_rank(len(ordered), 0.5, (1 - CONFIDENCE) / 2))
    return float(ordered[k - 1]), float(ordered[-k])


def sure_rank(n: int, share: float, doubt: float) -> int:
    """The largest k for which the k-th smallest of n values lies below a quantile; 0 if none does.

    It does with probability 1 - doubt, for the quantile of a share of all, by the binomial
    distribution (order statistics; David and Nagaraja, Order Statistics, 7.1).
    """
    fewer = 0.0
    for k in range(n):
        fewer += binomial(k, n, share)
        if fewer > doubt:
            return k
    return n


def binomial(k: int, n: int, share: float) -> float:
    """The probability that k of n values lie under the quantile of that share."""
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(share) + (n - k) * math.log1p(-share))


def clock_notes(clocks: dict[str, Any]) -> list[str]:
    """One sentence when the GPU throttled or its clocks moved."""
    low, middle, high = clocks.get("sm_mhz", (0, 0, 0))
    if clocks.get("throttled"):
        return [
            f"the GPU slowed itself ({', '.join(clocks['throttled'])}): let it cool, or compare "
            "at equal clocks"
        ]
    if high - low > CLOCKS_MOVED * middle:
        return [
            f"the SM clock moved between {low:.0f} and {high:.0f} MHz: raise --num_warmup, or "
            "lock the clocks"
        ]
    return []


# What follows estimates over rounds: a round is the seconds of its waited steps, in the order of
# time. What was chosen among several by simulation, and how often each interval held:
# docs/statistics.md, tests/bench/coverage.py.

BATCHES = 8  # of consecutive rounds: neighbours are alike, so that each says little that is new
QUIET = 0.1  # share of a round's steps, and of the rounds, that nothing disturbed
MANY_ROUNDS = 50  # from which on their own order tells how well the quiet end is known
ALIKE = 0.95  # at most, as which neighbouring rounds count
NORMAL_95 = 1.96  # standard deviations about the mean that hold 95 %
KNOWN = 0.02  # share to which --num_loops=auto wants the typical speed and the times native
MOST_SECONDS = 60.0  # of a case, after which --num_loops=auto stops all the same
P99 = 0.99

Loops = Sequence[Sequence[float]]


class Estimate(NamedTuple):
    """A number, and the ends of an interval that is to hold what other runs say, in 95 of 100."""

    value: float
    low: float
    high: float

    @property
    def uncertainty(self) -> float:
        """The longer side of the interval, as a share of the number."""
        return max(self.high - self.value, self.value - self.low) / self.value


def typical(rounds: Loops, batch_size: int) -> Estimate:
    """The median of the rounds' medians in images/s: the speed while others use the machine too."""
    return as_speed(middle(levels(rounds, 0.5)), batch_size)


def undisturbed(rounds: Loops, batch_size: int) -> Estimate:
    """The speed of the quiet steps of the quiet rounds in images/s: what the case can do.

    Other programs only ever slow a step down, so the fast end repeats from run to run where the
    median does not (timeit's manual argues the same way for the minimum): two runs are compared by
    this.
    """
    return as_speed(quiet_end(levels(rounds, QUIET)), batch_size)


def times_native(rounds: Loops, native: Loops) -> Estimate:
    """Times native: the median over the rounds, each paired with native's of the same turn.

    What slows both rounds of a pair cancels. Rounds that only one of them has are left out.
    """
    pairs = min(len(rounds), len(native))
    ours = levels(rounds[:pairs], 0.5)
    theirs = levels(native[:pairs], 0.5)
    both = min(len(ours), len(theirs))
    return Estimate(*np.exp(middle(theirs[:both] - ours[:both])).tolist())


def levels(rounds: Loops, share: float) -> np.ndarray:
    """The logarithm of a quantile of the seconds of each round, or of each part of few rounds."""
    return np.log([np.quantile(part, share) for part in in_parts(rounds)])


def in_parts(rounds: Loops) -> list[np.ndarray]:
    """The rounds; fewer than LEAST_ROUNDS are cut into BATCHES parts in all."""
    if len(rounds) >= LEAST_ROUNDS:
        return [np.asarray(seconds) for seconds in rounds]
    each = math.ceil(BATCHES / len(rounds))
    return [part for seconds in rounds for part in np.array_split(seconds, min(each, len(seconds)))]


def in_batches(values: np.ndarray) -> list[np.ndarray]:
    """At most BATCHES groups of neighbours (batch means: Law, Simulation Modeling and Analysis)."""
    return np.array_split(values, min(BATCHES, len(values)))


def middle(values: np.ndarray) -> Estimate:
    """The median of values in the order of time, between the ends of its batches' medians.

    Of five to eight independent batches lowest and highest hold the median with 93.8 to 99.2 %
    (`median_interval`); batches of consecutive rounds stay nearly independent where the machine
    drifts or switches between speeds.
    """
    low, high = median_interval([np.median(batch) for batch in in_batches(values)])
    return Estimate(float(np.median(values)), low, high)


def quiet_end(values: np.ndarray) -> Estimate:
    """The QUIET quantile of values in the order of time, and how well it is known.

    Of many rounds their order tells, of few how quiet batches differ.
    """
    if len(values) >= MANY_ROUNDS:
        return quantile_interval(values, QUIET)
    value = float(np.quantile(values, QUIET))
    apart = quiet_apart(values)
    return Estimate(value, value - apart, value + apart)


def quiet_apart(values: np.ndarray) -> float:
    """How far the quietest values of batches lie apart: the lower half of them and one more.

    Where these agree, the value is the machine's; where they do not, another run may find one as
    much lower, or none as low.
    """
    lowest = sorted(float(np.min(batch)) for batch in in_batches(values))
    return lowest[min((len(lowest) + 1) // 2, len(lowest) - 1)] - lowest[0]


def quantile_interval(values: np.ndarray, share: float) -> Estimate:
    """A quantile of values in the order of time, between order statistics at 95 %.

    The number of values under a quantile is binomial (David and Nagaraja, Order Statistics, 7.1;
    here by the normal approximation) if they are independent. Neighbours are not: n values count as
    n (1 - r) / (1 + r) independent ones, r being their correlation with the next (an autoregressive
    series of first order; Law, Simulation Modeling and Analysis, 4.4), or two standard errors more.
    """
    r = min(correlation_of_neighbours(values) + 2 / math.sqrt(len(values)), ALIKE)
    independent = len(values) * (1 - r) / (1 + r)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / independent)
    low, value, high = np.quantile(values, np.clip([share - half, share, share + half], 0, 1))
    return Estimate(float(value), float(low), float(high))


def correlation_of_neighbours(values: np.ndarray) -> float:
    """The correlation of values with the next, between 0 and 1."""
    away = values - np.mean(values)
    total = float(np.sum(away**2))
    return max(0.0, float(np.sum(away[1:] * away[:-1])) / total) if total else 0.0


def as_speed(level: Estimate, batch_size: int) -> Estimate:
    """Images/s for the logarithm of a step's seconds."""
    value, low, high = (batch_size / math.exp(end) for end in (level.value, level.high, level.low))
    return Estimate(value, low, high)


def known_well_enough(rounds: Loops, native: Loops | None = None) -> bool:
    """Whether --num_loops=auto may stop: typical speed and times native are known to KNOWN."""
    if len(rounds) < LEAST_ROUNDS or typical(rounds, 1).uncertainty > KNOWN:
        return False
    return native is None or times_native(rounds, native).uncertainty <= KNOWN


def p99_bound(seconds: Sequence[float]) -> float | None:
    """An upper bound of the 99th percentile with CONFIDENCE; None under 299 steps.

    The k-th largest, by `sure_rank` from above: 0.99 ** 299 < 0.05.
    """
    k = sure_rank(len(seconds), 1 - P99, 1 - CONFIDENCE)
    return float(np.sort(seconds)[-k]) if k else None


def loops_of(rounds: list[Round], inputs: str) -> Loops:
    """The seconds of the steps of each round."""
    return [timings[inputs].seconds for timings in rounds]


def round_statistics(rounds: Loops, batch_size: int) -> dict[str, float]:
    """What a record says of its rounds, in images/s and seconds; p99's bound where there is one.

    The interval of log.txt's median, which is over all steps, is the typical speed's: a loop's own
    says too little.
    """
    numbers: dict[str, float] = {"rounds": len(rounds)}
    for name, estimate in (("typical", typical), ("undisturbed", undisturbed)):
        found = estimate(rounds, batch_size)
        numbers[f"fps_{name}"] = found.value
        numbers |= {f"fps_{name}_low": found.low, f"fps_{name}_high": found.high}
    seconds = [second for each in rounds for second in each]
    median = batch_size / float(np.median(seconds))
    numbers["fps_low"] = min(numbers["fps_typical_low"], median)
    numbers["fps_high"] = max(numbers["fps_typical_high"], median)
    bound = p99_bound(seconds)
    return numbers if bound is None else {**numbers, "latency_99th_high": bound}


def verdict(
    rounds: Loops, batch_size: int, cause: str = "", unit: str = "images"
) -> tuple[Literal["steady", "noisy"], str]:
    """`steady` or `noisy`, and for a noisy case between which speeds it moved.

    Args:
      cause: what was seen meanwhile that may be why.
    """
    speed = typical(rounds, batch_size)
    if speed.uncertainty <= STEADY:
        return "steady", ""
    moved = f"the speed moved between {speed.low:,.1f} and {speed.high:,.1f} {unit}/s"
    seen = f" ({cause})" if cause else ""
    steps = sum(map(len, rounds))
    return "noisy", f"{moved}{seen} in {steps:,} steps: quiet the machine, or measure longer"


# ------------------------------------------------------------------------ predictions and agreement


# Share of the largest output by which two runs may differ: float16 sums in any order.
SAME_OUTPUT = 1e-3


# Share of the images that must keep native's first class, or of the decisions, to be the same model
SAME_TOP1 = 0.99
# An error of a hundredth of native's power, which turns outputs by a cosine of 0.995.
SAME_SNR_DB = 20.0
# int8 rounds a value at about 50 dB, which a mean over thousands of them makes 90.
NOT_INT8_DB = 100.0
DECISION = 0.5  # independent scores from here up say yes
SUMS_TO_ONE = 1e-2  # how far from one a row of probabilities may add up, in float16
OF_LENGTH_ONE = 1e-3  # how far from one the length of a row may be that was brought to it
CLASS_KINDS = ("probabilities", "logits")  # kinds of outputs whose largest value is the answer


@functools.cache
def class_names(path: str | Path) -> dict[str, str]:
    """Names of classes by class id: one a line, a JSON list, or JSON's names by ids.

    Raises:
      UserError: no such file, or no names in it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        found = json.loads(text) if text.lstrip()[:1] in ("{", "[") else text.split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as names of classes ({one_line(error, 80)}): pass a text file "
            "with one a line, or JSON, with --labels"
        ) from error
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    names = {str(key): str(name).strip() for key, name in pairs}
    return {key: name for key, name in names.items() if name}


def label_offset(classes: int, config: Config) -> int:
    """What turns an output's index into a class id: 1 if ImageNet's background is missing."""
    return int(config.ids_are_one_indexed or (config.imagenet and classes == 1000))


def label_of(index: int, classes: int, config: Config) -> str:
    """The name of an output's class: of --labels, or ImageNet's where it fits; else its number."""
    identity = index + label_offset(classes, config)
    path = config.labels
    if config.imagenet and classes in (1000, 1001):
        path = HERE / "labellist.json"
    names = class_names(path) if path and os.path.exists(path) else {}
    return names.get(str(identity), f"class {identity}")


def rows_of(values: np.ndarray) -> np.ndarray:
    """An output as float64 [samples, values]."""
    return values.reshape(len(values), -1).astype(np.float64)


def is_vector(values: np.ndarray) -> bool:
    """Whether each sample has several values along one axis."""
    return sum(side > 1 for side in values.shape[1:]) == 1


def kind_of(op: str, values: np.ndarray, named: int = 0) -> str:
    """What an output says, by the op that computes it and native's values [samples, ...].

    `probabilities` (a row sums to one), `logits` (a row's largest is its class), `scores` (each in
    [0, 1] by itself: several may be true), `class_map` (classes for each pixel or place), `ids`
    (integers) or `values` (one number, a map, an embedding: nothing that has classes).

    Args:
      named: how many classes --labels names; a map with so many channels is one of classes.
    """
    if values.dtype.kind in "iub":
        return "ids"
    within = bool(np.all((values >= 0) & (values <= 1)))
    if op == "Sigmoid" and within:
        return "scores"
    rows = rows_of(values)
    if not is_vector(values) and rows.shape[1] > 1:
        return "values" if class_axis(values, named) is None else "class_map"
    if rows.shape[1] == 1 or op == "Tanh":
        return "values"
    if within and sum_to_one(rows, 1):
        return "probabilities"
    if np.allclose(np.linalg.norm(rows, axis=1), 1, atol=OF_LENGTH_ONE):
        return "values"  # an embedding
    return "scores" if within else "logits"


def class_axis(values: np.ndarray, named: int = 0) -> int | None:
    """The axis of a map's classes: the last or the second, where it sums to one or has `named`."""
    for axis in (-1, 1):
        side = values.shape[axis]
        if side > 1 and (side == named or sum_to_one(values, axis)):
            return axis
    return None


def sum_to_one(values: np.ndarray, axis: int) -> bool:
    """Whether no value is negative and all add up to one along an axis."""
    sums = values.sum(axis=axis, dtype=np.float64)
    return bool(np.all(values >= 0) and np.allclose(sums, 1, atol=SUMS_TO_ONE))


def probabilities(rows: np.ndarray) -> np.ndarray:
    """Softmax of logits [images, classes], in float64."""
    powers = np.exp(rows - rows.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def top_k(outputs: np.ndarray, count: int) -> np.ndarray:
    """Indices [images, count] of the highest outputs, highest first; ties by index."""
    return np.argsort(-outputs, axis=1, kind="stable")[:, :count]


def predictions(values: np.ndarray, kind: str, config: Config) -> list[tuple[str, float]]:
    """Labels and probabilities (or scores) of the first image's best classes, if it has classes."""
    row = rows_of(values[:1])
    if kind not in (*CLASS_KINDS, "scores") or not is_vector(values):
        return []
    shown = probabilities(row) if kind == "logits" else row
    best = top_k(row, config.predictions_to_print)[0]
    return [(label_of(int(index), row.shape[1], config), float(shown[0, index])) for index in best]


def numeric_agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float | None]:
    """How far two outputs [images, values] are apart as numbers, as OutputAgreement tells it.

    The signal-to-noise ratio is 10 log10(sum theirs^2 / sum (theirs - ours)^2), over all images.
    """
    noise = float(np.sum((theirs - ours) ** 2))
    signal = float(np.sum(theirs**2))
    tiny = np.finfo(float).tiny
    return {
        "cosine": float(np.min(cosines(ours, theirs))),
        "difference": float(np.max(np.abs(ours - theirs))),
        "snr_db": 10 * math.log10(max(signal, tiny) / noise) if noise else None,
    }


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row; of rows that are all zero 1 where both are, else 0."""
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    same = np.all(ours == theirs, axis=1).astype(float)
    return np.divide(np.sum(ours * theirs, axis=1), norms, out=same, where=norms > 0)


def class_agreement(ours: np.ndarray, theirs: np.ndarray) -> tuple[dict[str, Any], list[int]]:
    """Agreement of two outputs [images or pixels, classes] on the first class; which rows changed.

    A row whose first two outputs in `theirs` are nearer than SAME_OUTPUT of its largest is
    undecided: rounding of any kind may turn it, so it is neither the same nor changed. top1: share
    of the decided rows with the same first class.
    """
    second, first = np.partition(theirs, -2, axis=1)[:, -2:].T
    decided = first - second >= SAME_OUTPUT * np.max(np.abs(theirs), axis=1)
    equal = ours.argmax(axis=1) == theirs.argmax(axis=1)
    counts = counts_of(equal, decided)
    top1 = counts["same"] / counts["decided"] if counts["decided"] else None
    return {**counts, "top1": top1}, np.flatnonzero(decided & ~equal).tolist()


def top5_agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The mean share of the five best classes that two outputs [images, classes] have in common."""
    count = min(5, ours.shape[1])
    both = zip(top_k(ours, count), top_k(theirs, count))
    return float(np.mean([len({*mine} & {*native}) / count for mine, native in both]))


def score_agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, int]:
    """Counts of equal decisions at DECISION; within SAME_OUTPUT of it `theirs` are undecided."""
    decided = np.abs(theirs - DECISION) >= SAME_OUTPUT
    return counts_of((ours >= DECISION) == (theirs >= DECISION), decided)


def counts_of(equal: np.ndarray, decided: np.ndarray) -> dict[str, int]:
    """How many are the same, decided and undecided, of two arrays of booleans."""
    same = int(np.sum(equal & decided))
    sure = int(np.sum(decided))
    return {"same": same, "decided": sure, "undecided": equal.size - sure}


class ChangedImage(msgspec.Struct, forbid_unknown_fields=True):
    """An image whose first class changed: its name, native's class, and the one now."""

    image: str
    native: str
    now: str


class OutputAgreement(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """How far one output is still native's, for all images.

    cosine: lowest cosine similarity of an image; difference: largest absolute difference; snr_db:
    signal-to-noise ratio in dB, None where nothing differs. Of the decided images, or decisions of
    scores, `same` are as in native; `undecided` ones are too close for rounding not to turn them.
    top1: same / decided; top5: mean share of the five best classes in common.
    """

    kind: str
    cosine: float
    difference: float
    snr_db: float | None
    same: int | None = None
    decided: int | None = None
    undecided: int | None = None
    top1: float | None = None
    top5: float | None = None
    changed: list[ChangedImage] | None = None


class Agreement(msgspec.Struct, forbid_unknown_fields=True):
    """Agreement with native on the same images, output by output."""

    images: int
    same_model: bool
    outputs: dict[str, OutputAgreement]


class Accuracy(msgspec.Struct, forbid_unknown_fields=True):
    """Shares of the images whose class is the first, or among the first five; how many images."""

    top1: float
    top5: float
    images: int


def output_agreement(
    ours: np.ndarray, theirs: np.ndarray, kind: str, named: int = 0
) -> tuple[OutputAgreement, list[int]]:
    """One output's agreement with native's for the same samples, and the samples that changed."""
    rows = rows_of(ours), rows_of(theirs)
    changed: list[int] = []
    found: dict[str, Any] = numeric_agreement(*rows)
    if kind in CLASS_KINDS:
        classes, changed = class_agreement(*rows)
        found |= {**classes, "top5": top5_agreement(*rows)}
    elif kind == "scores":
        found |= score_agreement(*rows)
    elif kind == "ids":
        equal = rows[0] == rows[1]
        found |= counts_of(equal, np.ones_like(equal))
    elif kind == "class_map":
        axis = class_axis(theirs, named) or -1
        pixels = (np.moveaxis(values, axis, -1) for values in (ours, theirs))
        found |= class_agreement(*(each.reshape(-1, each.shape[-1]) for each in pixels))[0]
    return OutputAgreement(kind, **found), changed


class TimesNative(msgspec.Struct, forbid_unknown_fields=True):
    """images/s over native's, paired by rounds, and the ends of a 95 % interval."""

    value: float
    low: float
    high: float


Natives = dict[tuple[int, str], list[Round]]


def rate(result: Result, case: Case, natives: Natives) -> None:
    """Adds times native to a result: from the same turns, else from native's on its device."""
    key = (case.size, result.machine["device"])
    if case.precision == "native":
        natives[key] = result.rounds
        return
    native = result.native_rounds or natives.get(key)
    if native and result.rounds:
        rated = {
            inputs: times_native(loops_of(result.rounds, inputs), loops_of(native, inputs))
            for inputs in result.rounds[0]
        }
        result.times_native = {inputs: TimesNative(*found) for inputs, found in rated.items()}


def indices_of(ids: list[int], classes: int, config: Config) -> np.ndarray:
    """Indices into an output of so many classes, for class ids as the user counts them."""
    if config.labels_are_zero_indexed:
        has_background = classes == 1001 and not config.ids_are_one_indexed
        return np.asarray(ids) + int(has_background)
    return np.asarray(ids) - label_offset(classes, config)


def accuracy(values: np.ndarray, indices: np.ndarray) -> Accuracy:
    """Accuracy of outputs [images, classes]."""
    hits = top_k(rows_of(values), 5) == indices[:, None]
    return Accuracy(float(hits[:, 0].mean()), float(hits.any(axis=1).mean()), len(indices))


def judge(result: Result, job: Job) -> None:
    """Adds kinds of outputs, predictions, agreement, accuracy and what is doubtful to a result.

    Its outputs hold any number of samples, the first rows those of the job; the rest are copies.
    """
    if not result.outputs:
        return
    config = job.config
    outputs = {name: values[: len(job.samples)] for name, values in result.outputs.items()}
    kinds = result.kinds = kinds_of(job.graph, result.reference or outputs, config)
    main = main_output(kinds)
    kind = kinds[main]
    result.predictions = predictions(outputs[main], kind, config) or None
    result.notes += meaning_notes(outputs[main], kind, config)
    if job.case.precision == "native" or "native" not in config.precisions:  # told once
        natives = (result.reference or {}).get(main)
        result.notes += pixel_notes(natives, kind, job.samples, config)
        result.notes += output_notes(result, main, job.graph)
    if not all_finite(outputs):
        said = f"the output holds NaN or infinity{as_the_samples(job)}"
        result.notes.append(f"{said}: its predictions mean nothing")
    elif result.reference is not None and job.case.precision != "native":
        judge_agreement(result, outputs, result.reference, job)
    judge_accuracy(result, outputs[main], kind, job)


def main_output(kinds: dict[str, str]) -> str:
    """The output whose classes are printed: probabilities, logits, scores, or else the first."""
    ranks = {"probabilities": 0, "logits": 1, "scores": 2}
    return min(kinds, key=lambda name: ranks.get(kinds[name], 3))


# Photographs whose best class is under it suggest that the network sees other pixels than in
# training.
UNSURE = 0.2
OTHER_PIXELS = "pass --preprocessing if the network was trained with other pixels (docs/images.md)"


def pixel_notes(
    values: np.ndarray | None, kind: str, samples: Samples, config: Config
) -> list[str]:
    """A sentence where native, with trained weights, may see other pixels than in training.

    It is sure of hardly any photograph then; or nothing told which pixels it was trained with.

    Args:
      values: native's output [images, classes]; None where there is nothing to tell of it.
    """
    untrained = built_in(config) and config.weights != "imagenet"
    photographs = isinstance(samples, Images) and not samples.random
    if values is None or kind not in CLASS_KINDS or not photographs or untrained:
        return []
    rows = rows_of(values)
    if kind == "logits":
        rows = probabilities(rows)
    best = float(np.median(rows.max(axis=1)))
    if not best < UNSURE:
        guess = f"--preprocessing={config.preprocessing} was guessed: {OTHER_PIXELS}"
        return [guess] * config.guessed
    others = ", ".join(name for name in PREPROCESSING if name != config.preprocessing)
    taken = f"was the network trained with --preprocessing={config.preprocessing}?"
    return [f"native's best class has only {best:.2f}: {taken} Try {others}"]


def output_notes(result: Result, main: str, graph: Graph) -> list[str]:
    """A sentence on whose predictions are printed, where several outputs may have some."""
    if len(graph.outputs) == 1 or not result.predictions:
        return []
    title = next(tensor.title for tensor in graph.outputs if tensor.name == main)
    return [f"the predictions are of output {title}: --output_node takes others"]


def meaning_notes(values: np.ndarray, kind: str, config: Config) -> list[str]:
    """Sentences on what the predictions mean."""
    notes = []
    if built_in(config) and config.weights == "random":
        notes.append(
            "random weights: the speed is real, the predictions mean nothing (--weights=imagenet)"
        )
    if kind in CLASS_KINDS:
        count = rows_of(values).shape[1]
        if label_offset(count, config) and not config.ids_are_one_indexed:
            notes.append("1000 classes: class ids are shifted by one, there is no background class")
        if (named := named_classes(config)) not in (0, count):
            notes.append(f"{config.labels} names {named} classes, and the output has {count}")
    return notes


def all_finite(outputs: Feed) -> bool:
    """Whether no output holds NaN or infinity."""
    return all(np.isfinite(values).all() for values in outputs.values())


def as_the_samples(job: Job) -> str:
    """Which inputs' samples hold NaN or infinity themselves, as the end of a sentence, or ""."""
    fed = {**job.samples.arrays, **job.samples.whole}
    held = [
        tensor.title
        for tensor in job.graph.inputs
        if not all_finite({tensor.name: fed[tensor.name]})
    ]
    return f", as the samples of {', '.join(held)} do" if held else ""


def named_classes(config: Config) -> int:
    """How many classes --labels names; 0 without it."""
    return len(class_names(config.labels)) if config.labels else 0


def kinds_of(graph: Graph, outputs: Feed, config: Config) -> dict[str, str]:
    """The kind of each output by its name; what has no rows of samples decides nothing."""
    kinds = {}
    for tensor in graph.outputs:
        if tensor.name in outputs:
            kind = kind_of(tensor.op, outputs[tensor.name], named_classes(config))
            kinds[tensor.name] = kind if graph.has_rows(tensor) or kind == "ids" else "values"
    return beside_classes(kinds, outputs, named_classes(config))


BOX = 4  # numbers of a box: its corners, or centre and sides


def beside_classes(kinds: dict[str, str], outputs: Feed, named: int) -> dict[str, str]:
    """Calls rows of numbers values where another output surely has the classes.

    Where one has as many as --labels names, all others of logits are; beside probabilities those
    that may be a box.
    """
    widths = {name: rows_of(outputs[name][:1]).shape[1] for name in kinds}
    logits = {name for name, kind in kinds.items() if kind == "logits"}
    classes = {name for name, kind in kinds.items() if kind in CLASS_KINDS}
    fitting = {name for name in classes if widths[name] == named}
    values = set()
    if fitting:
        values = logits - fitting
    elif "probabilities" in kinds.values():
        values = {name for name in logits if widths[name] <= BOX}
    return {name: "values" if name in values else kinds[name] for name in kinds}


def judge_agreement(result: Result, outputs: Feed, reference: Feed, job: Job) -> None:
    """Adds the agreement of each output with native's, and a sentence where it changed."""
    samples, graph, config = job.samples, job.graph, job.config
    if not all_finite(reference):
        said = f"native's output holds NaN or infinity{as_the_samples(job)}"
        result.notes.append(f"{said}: there is nothing to agree with")
        return
    by_output = {}
    kinds = result.kinds or {}
    main = main_output(kinds)
    for tensor in sorted(graph.outputs, key=lambda tensor: tensor.name != main):
        name = tensor.name
        of_which = f" ({tensor.title})" if len(graph.outputs) > 1 else ""
        pair = comparable(outputs.get(name), reference.get(name), graph.has_rows(tensor))
        if pair is None:
            result.notes.append(
                f"not compared, it is empty or has another shape or batch size in native{of_which}"
            )
            continue
        found, changed = output_agreement(*pair, kinds[name], named_classes(config))
        if kinds[name] in CLASS_KINDS:
            found.changed = changed_classes(*pair, changed, samples, config)
        if not is_same(found):
            note = agreement_note(job.case.precision, found, len(pair[0]), samples.unit)
            result.notes.append(note + of_which)
        by_output[name] = found
    if by_output:
        count = max(len(reference[name]) for name in by_output)
        same_model = all(map(is_same, by_output.values()))
        result.agreement = Agreement(min(count, len(samples)), same_model, by_output)
        result.notes += too_exact(job.case, by_output)


def too_exact(case: Case, by_output: dict[str, OutputAgreement]) -> list[str]:
    """A sentence where TF-TRT, which tells no layer's type, hardly computed in int8."""
    found = [output.snr_db for output in by_output.values() if output.kind != "ids"]
    if case.engine != "tftrt" or case.precision != "int8" or not found:
        return []
    least = min(math.inf if snr_db is None else snr_db for snr_db in found)
    if least <= NOT_INT8_DB:
        return []
    near = "exactly" if math.isinf(least) else f"to {least:.0f} dB"
    return [
        f"INT8 gave native's outputs {near}, which int8 does only where a softmax leaves no doubt: "
        "TF-TRT does not tell what its engines compute in; --engine=tensorrt does"
    ]


def comparable(
    ours: np.ndarray | None, theirs: np.ndarray | None, by_samples: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """As many rows as both outputs have; None where they differ in shape, or are empty.

    Args:
      by_samples: a row is a sample; else a step, which at another batch size has other samples.
    """
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return None
    if ours.size == 0 or (len(ours) != len(theirs) and not by_samples):
        return None
    count = min(len(ours), len(theirs))
    return ours[:count], theirs[:count]


def changed_classes(
    ours: np.ndarray, theirs: np.ndarray, changed: list[int], samples: Samples, config: Config
) -> list[ChangedImage]:
    """The samples at the positions in `changed`, with their first classes."""
    ours = rows_of(ours)
    theirs = rows_of(theirs)

    def named(rows: np.ndarray, row: int) -> str:
        """The label of a row's first class."""
        return label_of(int(np.argmax(rows[row])), rows.shape[1], config)

    return [ChangedImage(samples.names[at], named(theirs, at), named(ours, at)) for at in changed]


def is_same(found: OutputAgreement) -> bool:
    """Whether an output is the same model's: its decisions and, but for ids, its values."""
    if found.kind == "ids" or found.snr_db is None:
        return keeps_decisions(found)
    return keeps_decisions(found) and found.snr_db >= SAME_SNR_DB


def keeps_decisions(found: OutputAgreement) -> bool:
    """Whether SAME_TOP1 of the decisions are native's; true of an output that decides nothing."""
    return not found.decided or (found.same or 0) / found.decided >= SAME_TOP1


DECIDED = {"scores": "decisions", "ids": "values", "class_map": "pixels"}  # others: samples


def agreement_note(precision: str, found: OutputAgreement, count: int, unit: str = "images") -> str:
    """The sentence on an output that a precision changed, of so many images or samples."""
    if keeps_decisions(found):
        noise = f"{found.snr_db:.1f} dB signal to noise, lowest cosine {found.cosine:.3f}"
        counted = f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"
        return f"{precision.upper()} changed the outputs of {counted}: {noise}"
    what = DECIDED.get(found.kind, unit)
    share = f"{found.same} of {found.decided} {what} as in native"
    return f"{precision.upper()} changed the predictions: {share}"


# Under the one, and over the other with ids one off: counted otherwise.
NO_ACCURACY = 0.01
GOOD_ACCURACY = 0.5


# Where class ids come from, by what is counted.
LABELS_OF = {
    "images": "--label, or the names of the class folders",
    "samples": "--label, or `labels` in --samples",
}


def judge_accuracy(result: Result, values: np.ndarray, kind: str, job: Job) -> None:
    """Adds accuracy where the samples' classes are known, or a sentence on why there is none."""
    samples, config = job.samples, job.config
    count = rows_of(values).shape[1]
    ids = (samples.labels or [])[: len(values)]
    if config.label is not None:
        ids = [config.label] * len(values)
    if not ids:
        return
    indices = indices_of(ids, count, config)
    strange = [identity for identity, index in zip(ids, indices) if not 0 <= index < count]
    if kind not in CLASS_KINDS:
        result.notes.append("no accuracy: the output has no classes of which one is right")
    elif strange:
        result.notes.append(
            f"no accuracy: class id {strange[0]} is none of the network's {count} classes: check "
            f"{LABELS_OF[samples.unit]}"
        )
    elif samples.random:
        what = samples.unit.removesuffix("s")
        result.notes.append(f"no accuracy: --label can be the class of no random {what}")
    else:
        result.accuracy = accuracy(values, indices)
        result.notes += counting_notes(result.accuracy.top1, values, indices, job)


def counting_notes(share: float, values: np.ndarray, indices: np.ndarray, job: Job) -> list[str]:
    """A sentence where the images are right, but for class ids that begin at another number."""
    if share >= NO_ACCURACY:
        return []
    for step in (1, -1):
        other = accuracy(values, indices + step).top1
        if other >= GOOD_ACCURACY:
            remedy = counting_remedy(step, rows_of(values).shape[1], job.config)
            remedy = remedy or f"check {LABELS_OF[job.samples.unit]}"
            return [
                f"accuracy is {share:.1%}, and {other:.1%} where class ids begin at another "
                f"number: {remedy}"
            ]
    return []


def counting_remedy(step: int, classes: int, config: Config) -> str:
    """The flag that moves the indices of class ids by `step`; none where no flag does."""
    for name in ("labels_are_zero_indexed", "ids_are_one_indexed"):
        turned = config.but(**{name: not getattr(config, name)})
        if indices_of([0], classes, turned)[0] - indices_of([0], classes, config)[0] == step:
            return f"leave out --{name}" if getattr(config, name) else f"pass --{name}"
    return ""


# ----------------------------------------------------------------------------------- log and report


def machine(config: Config, engine: str) -> dict[str, Any]:
    """What a record says about the machine of the process that runs the case."""
    versions = {
        "python": platform.python_version(),
        "tensorflow": version_of("tensorflow", "tensorflow-cpu"),
    }
    kind = device_name(config)
    return {
        "device": kind,
        "device_kind": kind,
        "gpu": gpus()[0] if gpus() else None,
        "versions": versions
        | {name: version_of(name) for name in ("numpy", "tf2onnx", "onnx") if version_of(name)},
        "engine_version": ENGINES[engine].version() if engine in ENGINES else "",
    }


# Flags that a record keeps, where they were set or not.
RECORDED_FLAGS = (
    "num_loops",
    "num_warmup",
    "rounds",
    "preprocessing",
    "tf32",
    "seed",
    "workspace_size",
    "threads",
    "pin_threads",
    "host_dtype",
    "label",
    "gpus",
    "spread",
)
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class TimingRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A Timing with its statistics: images/s (`fps_...`) and seconds (`latency_...`)."""

    seconds: list[float]
    throughput: float
    first_run: float
    clocks: dict[str, Any]
    statistics: dict[str, float]
    verdict: Literal["steady", "noisy"]


class GraphRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A graph as it came: its file name, hash, inputs and outputs; see Graph.

    Of the inputs' dimensions only the batch is open: the others are those that were fed.
    """

    name: str
    sha256: Sha256
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layout: Literal["NHWC", "NCHW", ""]
    scaling: str = ""
    half_share: Share = 0.0


class ArtifactRecord(msgspec.Struct, forbid_unknown_fields=True):
    """What an engine ran: `proof` tells, by engine, what of it has the precision."""

    name: str
    bytes: Count
    build_seconds: float
    proof: dict[str, Any]


class Together(msgspec.Struct, forbid_unknown_fields=True):
    """Several devices at once: which, and the sum of their throughputs in images/s by input."""

    devices: list[str]
    throughput: dict[str, float]


class Record(Found, omit_defaults=True, forbid_unknown_fields=True):
    """One case, self-contained: a line of results.jsonl. What has a default may be left out.

    `network` is the case's name in log.txt, `engine_why` why this engine and not the ones before
    it, `images` the number of different images, `timings` all rounds together by where the input
    lay (device, host), `device` the GPU, or the CPU and its threads, with node and place in
    brackets where there are several, `first_image` the image that `predictions` are of, `unit` what
    is counted where a name says images.
    """

    record: Literal[2]
    time: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$")]
    program: str
    network: str
    status: Literal["ok", "built", "failed"]
    error: str
    engine: str
    engine_version: str
    engine_why: str
    precision: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(PRECISIONS)})$")]
    batch_size: Annotated[int, msgspec.Meta(ge=1)]
    input_dtype: str
    timings: dict[str, TimingRecord]
    graph: GraphRecord
    images: int | Literal["random"]
    first_image: str
    artifact: ArtifactRecord | None
    device: str
    device_kind: str
    gpu: dict[str, Any] | None
    versions: dict[str, str | None]
    flags: dict[str, Any]
    notes: list[str]
    unit: Literal["images", "samples"] = "images"
    node: str | None = None
    rounds: list[Round] | None = None


def with_rounds(record: Record, rounds: list[Round]) -> Record:
    """A record with the timings of its rounds, their statistics, and sentences on them."""
    timings = {}
    notes = [*record.notes]
    size = record.batch_size
    for inputs, timing in joined(rounds).items():
        seconds = loops_of(rounds, inputs)
        clocks = [each[inputs].clocks for each in rounds]
        steady, remedy = verdict(seconds, size, likeliest_cause(clocks), record.unit)
        numbers = summarise(timing.seconds, size) | round_statistics(seconds, size)
        numbers |= stolen_cores(clocks)
        timings[inputs] = TimingRecord(**vars(timing), statistics=numbers, verdict=steady)
        found = filter(None, [remedy, *clock_notes(timing.clocks)])
        notes += [f"{inputs} input: {note}" for note in found]
    several = rounds if len(rounds) > 1 else None  # of one its timings say all
    return msgspec.structs.replace(record, timings=timings, rounds=several, notes=notes)


def make_record(result: Result, job: Job) -> Record:
    """A case's record."""
    config = job.config
    case = job.case
    recorded = {*RECORDED_FLAGS, "weights"} if built_in(config) else {*RECORDED_FLAGS}
    now = datetime.datetime.now(datetime.timezone.utc)
    found = {name: getattr(result, name) for name in Found.__struct_fields__}
    record = Record(
        record=RECORD_VERSION,
        time=now.isoformat(timespec="seconds"),
        program=VERSION,
        network=case.file_name(job.graph),
        status=result.status,
        error=result.error,
        engine=case.engine,
        engine_why=case.why,
        precision=case.precision,
        batch_size=case.size,
        input_dtype=job.graph.dtype,
        timings={},
        graph=graph_record(job.graph, job.samples),
        images="random" if job.samples.random else len(job.samples),
        first_image=job.samples.names[0],
        unit=job.samples.unit,
        artifact=artifact_record(result.artifact),
        **result.machine,
        flags={name: value for name, value in vars(config).items() if name in recorded},
        notes=result.notes,
        **found,
    )
    return with_rounds(record, result.rounds)


def graph_record(graph: Graph, samples: Samples) -> GraphRecord:
    """A graph's record: with pixels written in front of it, it is still the graph that came."""
    facts = {name: getattr(graph, name) for name in GraphRecord.__struct_fields__}
    facts["sha256"] = graph.origin or graph.sha256
    step = samples.batch(1)
    facts["inputs"] = tuple(as_fed(graph, tensor, step[tensor.name]) for tensor in graph.inputs)
    return GraphRecord(**facts)


def as_fed(graph: Graph, tensor: Tensor, array: np.ndarray) -> Tensor:
    """An input with the dimensions of what it is fed; the batch stays as the graph has it."""
    shape: tuple[int | None, ...] = array.shape
    if tensor.name in graph.batched:
        shape = (tensor.shape[0] if tensor.shape else None, *shape[1:])
    return dataclasses.replace(tensor, shape=shape)


def artifact_record(artifact: Artifact | None) -> ArtifactRecord | None:
    """An artifact's record, where there is one."""
    if artifact is None:
        return None
    name = Path(artifact.path).name
    return ArtifactRecord(name, artifact.bytes, artifact.seconds, artifact.facts)


def as_json(record: Record) -> dict[str, Any]:
    """A record as results.jsonl has it."""
    return msgspec.to_builtins(record, str_keys=True)


def log_block(record: Record) -> str:
    """A case's block of log.txt: the lines of the 2018 script to the letter, then new ones."""
    lines = ["", "=" * 26]
    network = f"network: {record.network},\t batchsize {record.batch_size}"
    for inputs, timing in record.timings.items():
        s = timing.statistics
        lines += [
            f"{network}, steps {len(timing.seconds)}",
            f"  fps \tmedian: {s['fps_median']:.1f}, \tmean: {s['fps_mean']:.1f}, "
            f"\tuncertainty: {s['fps_uncertainty']:.1f}, \tjitter: {s['fps_jitter']:.1f}",
            f"  latency \tmedian: {s['latency_median']:.5f}, \tmean: {s['latency_mean']:.5f}, "
            f"\t99th_p: {s['latency_99th']:.5f}, "
            f"\t99th_uncertainty: {s['latency_99th_uncertainty']:.5f}",
            f"  inputs \t{inputs} {record.input_dtype}, "
            f"\tthroughput: {timing.throughput:.1f} {record.unit}/s, "
            f"\tfirst run: {timing.first_run:.3f} s, \t{timing.verdict}",
        ]
    if record.status != "ok":
        lines += [f"{network}, steps 0", f"  {record.status} \t{record.error}".rstrip()]
    version = f"{record.engine} {record.engine_version}"
    lines.append(f"  engine \t{version}, \tdevice: {record.device}")
    if record.together:
        sums = record.together.throughput.items()
        speeds = ", \t".join(f"{inputs} {speed:.1f} {record.unit}/s" for inputs, speed in sums)
        devices = len(record.together.devices)
        lines.append(f"  together \t{devices} devices, \tthroughput: {speeds}")
    return "\n".join([*lines, *judged_lines(record)]) + "\n"


def judged_lines(record: Record) -> list[str]:
    """The block's lines on agreement, one for each output, and accuracy."""
    lines = []
    if record.agreement:
        count = f"{record.unit}: {record.agreement.images}"
        titles = {tensor.name: f"output: {tensor.title}" for tensor in record.graph.outputs}
        several = len(record.agreement.outputs) > 1
        for name, found in record.agreement.outputs.items():
            which = [titles[name]] if several else []
            lines.append("  agreement \t" + ", \t".join([*agreement_parts(found), count, *which]))
    if record.accuracy:
        top1 = f"top1: {record.accuracy.top1:.4f}"
        top5 = f"top5: {record.accuracy.top5:.4f}"
        lines.append(f"  accuracy \t{top1}, \t{top5}, \t{record.unit}: {record.accuracy.images}")
    return lines


def agreement_parts(found: OutputAgreement) -> list[str]:
    """The numbers on a line of log.txt that tells one output's agreement."""
    numbers = {name: getattr(found, name) for name in ("top1", "top5", "cosine", "difference")}
    parts = [f"{name}: {value:.4f}" for name, value in numbers.items() if value is not None]
    parts.append(f"snr: {math.inf if found.snr_db is None else found.snr_db:.1f} dB")
    if found.decided is not None:
        parts.append(f"same: {found.same} of {found.decided}")
    if found.undecided:
        parts.append(f"undecided: {found.undecided}")
    return parts


def append(path: Path, text: str) -> None:
    """Appends a whole block or, where the disk is full, nothing; locked, and on disk at return.

    Raises:
      OSError: the folder cannot be made, or the file not written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)  # it may have been removed since
    data = text.encode()
    with open(path, "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = os.fstat(file.fileno()).st_size
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # a device has no length
                os.ftruncate(file.fileno(), before)
            raise


def write_record(record: Record, config: Config) -> None:
    """Writes a case's block and line."""
    try:
        append(Path(config.output_dir) / "log.txt", log_block(record))
        append(Path(config.output_dir) / "results.jsonl", json.dumps(as_json(record)) + "\n")
    except OSError as error:
        raise UserError(
            f"{config.output_dir} can no longer be written to ({error.strerror}): the results "
            "are printed above; pass another --output_dir"
        ) from error


def check_output_dir(folder: str) -> None:
    """Makes sure before measuring that the results can be written.

    Raises:
      UserError: the folder cannot be made or written.
    """
    try:
        for name in ("log.txt", "results.jsonl"):
            append(Path(folder) / name, "")
    except OSError as error:
        raise UserError(
            f"--output_dir={folder} cannot be written ({error.strerror}): pass another folder"
        ) from error


def whose_predictions(record: Record) -> str:
    """` of owl.jpg, the first of 10 images`, where there are several."""
    if record.images == "random" or record.images == 1:
        return ""
    return f" of {record.first_image}, the first of {record.images} {record.unit}"


def print_report(records: list[Record]) -> None:
    """Prints the 2018 script's predictions lines, then report.py's tables and sentences."""
    shown = {(r.precision, r.engine): r.predictions for r in records if r.predictions}
    engines = collections.Counter(precision for precision, _ in shown)
    if shown:
        print(f"Predictions{whose_predictions(records[0])}:")
    for (precision, engine), rows in shown.items():
        name = precision_name(precision) + (f" ({engine})" if engines[precision] > 1 else "")
        print("Precision: ", name, [label for label, _ in rows])
    if (path := HERE / "report.py").exists():
        load_file("tensorrt_report", path).print_records([as_json(record) for record in records])


class RoundsOnDisk:
    """Keeps the rounds of cases without a record yet, so that a kill loses none.

    A line for each round in a file of this run's own. The next run into the same folder makes
    records of what a killed one left.
    """

    PREFIX = "unfinished_"

    def __init__(self, folder: str | Path) -> None:
        handle, name = tempfile.mkstemp(prefix=self.PREFIX, suffix=".jsonl", dir=folder)
        self.path = Path(name)
        self.file = os.fdopen(handle, "ab")
        fcntl.flock(self.file, fcntl.LOCK_EX)  # a run that has died holds none
        self.unwritten: set[str] = set()  # cases whose record is still to come
        self.lock = threading.Lock()  # several devices' rounds may come at once

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a process of a case writes none

    def add(self, job: Job, result: Result) -> None:
        """Writes a result's last round, and before its first all else that a record needs.

        Raises:
          UserError: it cannot be written.
        """
        key = self.key(job, result)
        lines = [UnfinishedLine(key, round=result.rounds[-1])]
        if key not in self.unwritten:
            record = make_record(msgspec.structs.replace(result, rounds=[]), job)
            lines.insert(0, UnfinishedLine(key, record))
        self.unwritten.add(key)
        try:
            self.write(lines)
        except OSError as error:
            raise UserError(
                f"{self.path.parent} can no longer be written to ({error.strerror}): pass another "
                f"--output_dir"
            ) from error

    def forget(self, job: Job, result: Result) -> None:
        """Says that a case's record is written."""
        key = self.key(job, result)
        self.unwritten.discard(key)
        # The record is there: at worst the next run writes it again.
        with contextlib.suppress(OSError):
            self.write([UnfinishedLine(key, written=True)])

    def write(self, lines: list[UnfinishedLine]) -> None:
        """Appends JSON lines, which are on disk when this returns; raises OSError."""
        with self.lock:
            self.file.write(msgspec.json.Encoder().encode_lines(lines))
            self.file.flush()
            os.fsync(self.file.fileno())

    @staticmethod
    def key(job: Job, result: Result) -> str:
        """What tells a result from another of the same run: several devices run one case."""
        return f"{job.case} on {result.machine.get('device', '')}"

    def __enter__(self) -> RoundsOnDisk:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the file; one with rounds that found no room in a record stays for the next run."""
        if not self.unwritten:
            self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.file.close()


def recover_rounds(config: Config) -> None:
    """Makes records of the rounds that killed runs left in the output directory."""
    for path in sorted(Path(config.output_dir).glob(f"{RoundsOnDisk.PREFIX}*.jsonl")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: that run is alive
            if path.exists():
                found = records_of_rounds(file.read().split(b"\n"))
                for record in found:
                    write_record(record, config)
                path.unlink()
                say(
                    f"{len(found)} cases of a run that was killed: the rounds that there are were "
                    "appended"
                )


def records_of_rounds(lines: list[bytes]) -> list[Record]:
    """The records of cases that have rounds but no record yet; skips a truncated last line."""
    records: dict[str, Record] = {}
    rounds: dict[str, list[Round]] = collections.defaultdict(list)
    for line in lines:
        with contextlib.suppress(ValueError):  # also of half a character
            found = msgspec.json.decode(line, type=UnfinishedLine)
            if found.record:
                records[found.case] = found.record
            if found.round:
                rounds[found.case].append(found.round)
            if found.written:
                records.pop(found.case, None)
    whole = {case: record for case, record in records.items() if has_deviation(rounds[case])}
    for record in whole.values():
        record.notes.append("the run was killed: rounds without outputs")
    return [with_rounds(record, rounds[case]) for case, record in whole.items()]


class UnfinishedLine(msgspec.Struct, omit_defaults=True):
    """A line of such a file: a case's record without rounds, a round, or its end."""

    case: str
    record: Record | None = None
    round: Round | None = None
    written: bool = False


def has_deviation(rounds: list[Round]) -> bool:
    """Whether rounds have the two steps that statistics need."""
    whole = joined(rounds).values()
    return bool(whole) and all(len(timing.seconds) > 1 for timing in whole)


class Report:
    """Judges, records and prints what was measured, whoever scheduled it."""

    def __init__(self, config: Config, cases: list[Case], rounds: RoundsOnDisk) -> None:
        self.config = config
        self.cases = cases
        self.rounds = rounds
        self.records: list[Record] = []
        self.natives: Natives = {}

    def add(self, job: Job, results: list[Result]) -> None:
        """Takes one case's results, one for each device; they are on disk when this returns."""
        for result in results:
            take_calibration(result, job.samples.unit)
            judge(result, job)
            rate(result, job.case, self.natives)
            record = make_record(result, job)
            self.records.append(record)
            write_record(record, self.config)
            self.rounds.forget(job, result)
            number = min(turn_of(self.cases, record) + 1, len(self.cases))
            title = job.case.title
            if record.device != record.device_kind:  # one of several
                title += f" on {record.device}"
            say(f"[{number}/{len(self.cases)}] {title}: {in_short(record)}")

    def __enter__(self) -> Report:
        return self

    def __exit__(self, ended_by: type[BaseException] | None, *_: object) -> None:
        """Prints the records that there are, whatever ended the run."""
        DISPLAY.clear()
        print_report(sorted(self.records, key=functools.partial(turn_of, self.cases)))
        if ended_by is KeyboardInterrupt:
            self.say_what_is_missing()

    def say_what_is_missing(self) -> None:
        """Names the cases without a record, and where the others are."""
        done = {turn_of(self.cases, record) for record in self.records}
        missing = [case.title for turn, case in enumerate(self.cases) if turn not in done]
        if missing:
            say(f"not measured: {', '.join(missing)}")
        say(f"{self.count()} of this run in {self.config.output_dir}/results.jsonl")

    def count(self) -> str:
        """`1 case`, `2 cases`: those with a record, on each device."""
        count = len(self.records)
        return f"{count} case{'s' * (count != 1)}"

    def status(self) -> int:
        """Says where the records are; 1 where a case failed."""
        files = f"log.txt and results.jsonl in {self.config.output_dir}"
        print(f"\n{self.count()} appended to {files}", flush=True)
        return int(any(record.error for record in self.records))


def take_calibration(result: Result, unit: str) -> None:
    """Moves what is known of the calibration from the artifact to the result, with sentences."""
    if result.artifact and "calibration" in result.artifact.facts:
        facts = dict(result.artifact.facts)  # another case may have the same
        calibration = result.calibration = facts.pop("calibration")
        result.artifact = dataclasses.replace(result.artifact, facts=facts)
        result.notes += calibration_notes(calibration, unit)


def in_short(record: Record) -> str:
    """A case's speed and times native, or why there is none."""
    found = []
    for inputs, timing in record.timings.items():
        speed = f"{timing.statistics['fps_typical']:,.0f} {record.unit}/s"
        if inputs == "host":
            speed += " from host"
        rated = (record.times_native or {}).get(inputs)
        found.append(f"{speed}, {rated.value:.2f}x native" if rated else speed)
    return "; ".join(found) or record.error or record.status


def turn_of(cases: list[Case], record: Record) -> int:
    """Which of the cases a record is of: results of several devices come as they are done."""
    for turn, case in enumerate(cases):
        same = (case.engine, case.precision) == (record.engine, record.precision)
        if same and case.batch_size in (record.batch_size, None):
            return turn
    return len(cases)


# -------------------------------------------------------------------------------- running the cases

ASKED = "asked for"  # why an engine was chosen that --engine names
VARIED = 128  # different images where the batch size is still to be found


@dataclasses.dataclass(frozen=True)
class Model:
    """What is measured: a graph, the samples that are fed, and the cases."""

    graph: Graph
    samples: Samples
    cases: list[Case]


def swallowed_flags(config: Config) -> list[str]:
    """A sentence for each flag that was typed and has no effect beside the others."""
    flags = ("frozen_graph", "savedmodel_dir", "keras_model")
    models = [name for name in flags if getattr(config, name)]
    found = [f"--{name} is not read: --{models[0]} goes before it" for name in models[1:]]
    if models and "weights" in config.given:
        found.append(f"--weights is of the built-in network: --{models[0]} brings its own")
    if "engine" in config.given and config.precisions == ["native"]:
        found.append("--engine would be for --fp32, --fp16 and --int8: none was passed")
    calibrating = sorted(name for name in config.given if "calibration" in name)
    if calibrating and "int8" not in config.precisions:
        flags_of = " and ".join(f"--{name}" for name in calibrating)
        found.append(f"{flags_of} would be for --int8, which was not passed")
    return found


# Where Keras has them.
WEIGHTS_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
WEIGHTS_FILE = "resnet50v2_weights_tf_dim_ordering_tf_kernels.h5"
SECONDS_TO_REACH = 8  # after which there is no network


def load_with_weights(config: Config, loader: Worker | Here) -> Graph:
    """The graph; the built-in one has trained weights if there are photographs and a network."""
    if not built_in(config) or config.weights:
        return loader.ask("load_graph", config)
    if config.image_file or config.image_dir:
        config.weights = "imagenet"
        try:
            if reason := why_no_download():
                raise UserError(f"the trained weights cannot be downloaded ({reason})")
            return loader.ask("load_graph", config)
        except UserError as error:
            say(f"{error}: random ones are taken, whose predictions mean nothing")
    config.weights = "random"
    return loader.ask("load_graph", config)


def why_no_download() -> str | None:
    """Why Keras's trained weights cannot be downloaded; None if they can, or are there already."""
    import requests

    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models"
    if (folder / WEIGHTS_FILE).exists():
        return None
    found: list[str | None] = [f"no answer in {SECONDS_TO_REACH} s"]

    def ask() -> None:
        """Puts None into `found` when the server answers, be it with an error."""
        try:
            requests.head(WEIGHTS_SERVER, timeout=SECONDS_TO_REACH / 2)
            found[0] = None  # whatever it answered
        except requests.RequestException as error:
            found[0] = f"{type(error).__name__} from {WEIGHTS_SERVER.split('/')[2]}"

    # Looking a name up has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_TO_REACH)
    return found[0]


def choose_preprocessing(config: Config, graph: Graph) -> None:
    """Takes the preprocessing that fits where none was passed, and says which and why."""
    asked = config.preprocessing if "preprocessing" in config.given else None
    if graph.dtype == "uint8":
        if asked not in (None, "none"):
            say(
                f"--preprocessing={asked} has no effect: {graph.name} takes uint8 pixels as they "
                "are"
            )
        config.preprocessing = "none"
    elif asked is None:
        config.preprocessing, why = fitting_preprocessing(config, graph)
        config.guessed = not why
        why = why or f"the default, as nothing in {graph.name} tells: {OTHER_PIXELS}"
        if config.image_file or config.image_dir or config.calibration_dir:
            say(f"--preprocessing={config.preprocessing} is taken: {why}")
    elif graph.scaling and asked != "none":
        say(
            f"{graph.name} scales its pixels itself ({graph.scaling}): --preprocessing=none may "
            "be meant"
        )


def fitting_preprocessing(config: Config, graph: Graph) -> tuple[str, str]:
    """The preprocessing for a graph of float32 images, and why that one; "" where nothing tells."""
    if built_in(config):
        return "inception", "what ResNet-50 v2 was trained with"
    if graph.scaling:
        return "none", f"{graph.name} scales its pixels itself ({graph.scaling})"
    if graph.image_shape[2] == 1:
        return "none", f"{graph.name} takes one channel, and nothing in it tells which range"
    return config.preprocessing, ""


def say_sides_taken(graph: Graph) -> None:
    """Says which height and width are fed where the graph leaves them open."""
    (source,) = graph.inputs
    sides = (source.shape or ())[1:]
    if None in sides:
        height, width, channels = graph.image_shape
        fed = (height, width, channels) if graph.layout == "NHWC" else (channels, height, width)
        asked = "x".join(str(side or "N") for side in sides)
        say(
            f"{graph.name} takes {source}: {'x'.join(map(str, fed))} is fed "
            f"(--input_shape={source.title}:{asked} with numbers for N sets others)"
        )


def settle_images(config: Config, graph: Graph, loader: Worker | Here) -> Graph:
    """Settles what only images have: preprocessing, ImageNet's classes, pixels as the input."""
    config.imagenet = bool(graph.layout) and not config.labels
    if config.labels:
        class_names(config.labels)  # found out before the measuring
    if not graph.layout:
        refuse_image_flags(config, graph)
        return graph
    say_sides_taken(graph)
    choose_preprocessing(config, graph)
    if by_input(config.input_range, "--input_range", graph.inputs):
        say("--input_range has no effect on images: random pixels are 0 to 255")
    if config.host_dtype == "uint8" and graph.dtype != "uint8":
        return loader.ask("with_pixels_in_front", config, graph)
    return graph


def refuse_image_flags(config: Config, graph: Graph) -> None:
    """Refuses flags for images of a graph that is fed arrays; says which have no effect."""
    takes = f"{graph.name} takes {inputs_text(graph.inputs)}"
    for name in ("image_file", "image_dir", "calibration_dir"):
        if getattr(config, name):
            other = "calibration_samples" if name == "calibration_dir" else "samples"
            raise UserError(f"--{name} is for images, and {takes}: pass --{other}=FILE.npz")
    if config.host_dtype == "uint8":
        raise UserError(f"--host_dtype=uint8 is for pixels, and {takes}: leave it out")
    if "preprocessing" in config.given:
        say(f"--preprocessing={config.preprocessing} has no effect: arrays are fed as they are")


def load_model(config: Config, choose: Callable[..., list[Case]] | None = None) -> Model:
    """Graph, samples and cases that the flags name; settles open weights and preprocessing.

    Args:
      choose: chooses the cases where they run on other machines; else the loader does.

    Raises:
      UserError: one of them cannot be had.
    """
    for sentence in swallowed_flags(config):
        say(sentence)
    with contextlib.closing(start(config, Loader)) as loader:
        try:
            graph = load_with_weights(config, loader)
            graph = settle_images(config, graph, loader)
        except (CaseError, ProcessDied) as error:
            raise UserError(
                f"the model cannot be loaded, it is damaged or not what it says (its {error})"
            ) from None
        batch_sizes = fit_batch_sizes(config, graph)
        count = max(size or VARIED for size in batch_sizes)
        try:
            samples = loader.ask("load_samples", config, graph, count)
        except (CaseError, ProcessDied) as error:
            raise UserError(f"the samples cannot be read (their {error}): pass others") from None
        choose = choose or functools.partial(loader.ask, "choose_cases")
        return Model(graph, samples, choose(config, batch_sizes))


def with_precision(engines: list[str], precision: str) -> list[str]:
    """The engines asked for without those that never have a precision which another of them has."""
    able = [name for name in engines if name == "auto" or precision in ENGINES[name].precisions]
    return able or engines  # of which each case tells why it fails


def choose_cases(config: Config, batch_sizes: list[int | None]) -> list[Case]:
    """The cases to run, batch size by batch size."""
    chosen = []
    for precision in config.precisions:
        named = ["native"]
        if precision != "native":
            named = with_precision(config.engine, precision)
        for name in named:
            engine, why = name, ASKED
            if name == "auto":
                engine, why = choose_engine(precision, config.build_only)
            chosen.append(Case(engine, precision, None, why))
    return [dataclasses.replace(case, batch_size=size) for size in batch_sizes for case in chosen]


PASSED_OVER = "passed over, "  # in front of why auto does not take what could run


def why_passed_over(engine: Engine) -> str | None:
    """Why --engine=auto does not take an engine that can run, told apart from why one cannot."""
    reason = engine.why_not_by_itself()
    return reason and PASSED_OVER + reason


def choose_engine(precision: str, build_only: bool) -> tuple[str, str]:
    """The first engine that can run (or build) a precision without leaving the device, and why."""
    reasons: list[str] = []
    for name in AUTO:
        engine = ENGINES[name]
        reason = engine.why_not_build(precision) if build_only else engine.why_not(precision)
        reason = reason or why_passed_over(engine)
        if not reason:
            return name, "; ".join(reasons) or "first choice"
        reasons.append(f"{name}: {reason}")
    return "none", f"no engine for {precision.upper()}: {'; '.join(reasons)}"


class Loader:
    """In a process of its own, which a broken model may crash: loads models, samples, engines."""

    load_graph = staticmethod(load_graph)
    with_pixels_in_front = staticmethod(with_pixels_in_front)
    load_samples = staticmethod(load_samples)
    choose_cases = staticmethod(choose_cases)


def announce_left_out(cases: list[Case], config: Config) -> None:
    """Says which engine asked for has no case of a precision, because it never has that."""
    for precision in config.precisions:
        runs = list(dict.fromkeys(case.engine for case in cases if case.precision == precision))
        for name in config.engine:
            if precision != "native" and name not in ("auto", *runs):
                say(f"{name} has no {precision.upper()}: it is left to {', '.join(runs)}")


def announce(cases: list[Case], config: Config) -> None:
    """Says which engine runs each precision where the user left that open."""
    announce_left_out(cases, config)
    chosen = {(case.engine, case.precision): case.why for case in cases if case.why != ASKED}
    for engine, precision in chosen:
        if engine != "none":
            say(f"{precision_name(precision)} uses {engine}")
    reasons = [reason.partition(": ") for why in chosen.values() for reason in why.split("; ")]
    passed_over = {
        name: why.removeprefix(PASSED_OVER)
        for name, _, why in reasons
        if why.startswith(PASSED_OVER)
    }
    told = {name for name, *_ in reasons} - set(passed_over)
    if missing := [name for name in AUTO if name in told]:
        say(f"not available here: {', '.join(missing)} (--doctor says why)")
    for name, why in passed_over.items():
        say(f"passed over: {name} ({why})")


class OnnxWriter:
    """In a process of its own: writes all cases' ONNX files from one export and calibration."""

    def import_libraries(self) -> None:
        """Imports what writes ONNX, which takes seconds; what is missing is said elsewhere."""
        with contextlib.suppress(ImportError), quiet():
            import onnxruntime.quantization  # noqa: F401
            import tf2onnx  # noqa: F401

    def take(self, config: Config, graph: Graph, samples: Samples) -> None:
        """Takes what the files are made of."""
        self.onnx = Onnx(config, graph, samples)

    def write(self, case: Case) -> Artifact | None:
        """The ONNX file of a case; none where its engine would not build from it."""
        if ENGINES[case.engine].why_not_build(case.precision):
            return None
        job = Job(case, self.onnx.config, self.onnx.graph, self.onnx.samples)
        answer = job.path(".onnx.built.json")
        return built_once(answer, question_of_onnx(job), lambda: self.onnx.write(case))


class OnnxSource:
    """Has the ONNX files written in a process of its own.

    Started before there is a graph, the process imports its libraries meanwhile.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.writer: Worker | Here | None = None
        self.told = False  # what the files are made of

    def start_early(self) -> None:
        """Starts the process now if one of the flags' precisions may need it."""
        wants = set(self.config.precisions) - {"native"}
        engines = set(self.config.engine) - {"xla", "tftrt"}
        if wants and engines and self.config.isolate and not missing_precision_py():
            self.writer = Worker(OnnxWriter)
            self.writer.request("import_libraries")

    def write(self, model: Model, case: Case) -> tuple[Artifact | None, str]:
        """The file that a case's engine builds from, if it takes one, or why there is none."""
        if case.engine == "none":
            return None, case.why
        if not ENGINES[case.engine].needs_onnx:
            return None, ""
        self.writer = self.writer or start(self.config, OnnxWriter)
        try:
            if not self.told:
                self.writer.ask("take", self.config, model.graph, model.samples)
                self.told = True
            return self.writer.ask("write", case), ""
        except UserError as error:
            return None, str(error)
        except CaseError as error:
            return None, f"no ONNX graph of that precision ({error})"
        except ProcessDied as error:
            self.close()
            return None, f"no ONNX graph of that precision (its {error})"

    def close(self) -> None:
        """Ends the process."""
        if self.writer:
            self.writer.close()
        self.writer = None
        self.told = False


def make_jobs(
    config: Config,
    model: Model,
    rounds: RoundsOnDisk | None = None,
    source: OnnxSource | None = None,
) -> list[Job]:
    """A job for each case, with the ONNX file that its engine takes, or why there is none.

    Args:
      source: one whose process was started early; it is ended here.
    """
    jobs = []
    written: dict[tuple[str, str], tuple[Artifact | None, str]] = {}
    with contextlib.closing(source or OnnxSource(config)) as source:
        for case in model.cases:
            what = case.engine, case.precision
            if what not in written:
                written[what] = source.write(model, case)
            jobs.append(Job(case, config, model.graph, model.samples, *written[what], rounds))
    return jobs


class OpenCase:
    """A case in a process of its own, from its opening to its last round."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.runner: Any = None  # a Runner, once it is open
        self.memory_share = MEMORY_SHARE
        self.clock = time.perf_counter
        self.first_runs: dict[str, float] = {}
        self.step_seconds: dict[str, float] = {}
        self.turn = 0
        self.judged = 0  # samples whose outputs are judged
        self.same: list[Feed] = []  # outputs for the batch, run after run

    def machine(self) -> dict[str, Any]:
        """What a record says of the machine, as this process sees it."""
        return machine(self.job.config, self.job.case.engine)

    def meet(self) -> None:
        """Called before each loop: where several do the same at once, they begin together."""

    def open(self, built: Artifact | None = None) -> tuple[Artifact, str]:
        """Builds, opens, runs once and warms up; the artifact, and why it was built only, or "".

        Args:
          built: the artifact, where it was built before.

        Raises:
          UserError: the engine cannot do it.
        """
        case = self.job.case
        config = self.job.config
        engine = ENGINES[case.engine]
        if reason := engine.why_not_build(case.precision):
            raise UserError(f"{case.engine} cannot run {case.precision.upper()}: {reason}")
        kernels = Kernels(config) if case.engine == "xla" and gpus() else None
        self.artifact = built or self.build(engine)
        reason = engine.why_not(case.precision)
        if config.build_only or reason:
            return self.artifact, "" if config.build_only else f"built, not run: {reason}"
        self.batch = self.job.batch()
        with kernels or contextlib.nullcontext():
            try:
                self.run_opened(engine)
            except UserError as error:
                # Another plan would want the memory, too.
                short = re.search(NO_MEMORY, str(error))
                if short or not forget_built(self.artifact, engine, self.job):
                    raise
                self.artifact = self.build(engine)
                self.run_opened(engine)
        if kernels:
            self.artifact.facts["kernels"] = kernels.chosen
        come_to_rest()
        return self.artifact, ""

    def build(self, engine: Engine) -> Artifact:
        """The artifact, with its size in bytes; an earlier run's where the question is the same."""
        with waiting(f"Building {self.job.case.title}"):
            artifact = build_once(engine, self.job)
        artifact.bytes = os.path.getsize(artifact.path)
        return artifact

    def run_opened(self, engine: Engine) -> None:
        """Opens the artifact on the batch, runs it once and warms it up."""
        with waiting(f"Opening {self.job.case.title}"):
            self.runner = engine.open(self.job, self.artifact, self.batch)
        found = self.runner.facts
        before = self.artifact.facts.get("engine_build_seconds", 0.0)  # at the last opening
        seconds = self.artifact.seconds - before + found.get("engine_build_seconds", 0.0)
        facts = {**self.artifact.facts, **found}
        self.artifact = dataclasses.replace(self.artifact, seconds=seconds, facts=facts)
        asked = self.job.config.inputs
        for inputs in ("device", "host") if asked == "both" else (asked,):
            self.first_runs[inputs] = self.run_first(inputs)

    def run_first(self, inputs: str) -> float:
        """Seconds of the first run; then the untimed steps."""
        step = waited_step(self.runner, self.batch, inputs)
        warmup = self.job.config.num_warmup
        with waiting(f"First run of {self.job.case.title}"):
            (first_run,) = time_steps(step, 1, self.clock)
        return_memory()
        with waiting(f"Warming up {self.job.case.title}"):
            if warmup is None:
                self.step_seconds[inputs] = warm_up(step, self.clock)
            else:
                steps = time_steps(step, warmup, self.clock) or [first_run]
                self.step_seconds[inputs] = float(np.median(steps))
        return first_run

    def measure_round(self, steps: int | None) -> Round:
        """Timings of waited steps, and of as many in a throughput loop, by where the input lies.

        Args:
          steps: how many; None: as many as take ROUND_SECONDS.
        """
        timings = {}
        self.turn += 1
        for inputs, first_run in self.first_runs.items():
            count = steps or math.ceil(ROUND_SECONDS / self.step_seconds[inputs])
            step = waited_step(self.runner, self.batch, inputs)
            burst = throughput_loop(self.runner, self.batch, inputs, count)
            what = f"{self.job.case.title}{' from host' * (inputs == 'host')}, round {self.turn}"
            with progress(what, count) as advance:
                self.meet()
                before = counters()
                with Clocks() as clocks:
                    seconds = time_steps(step, count, self.clock, advance)
                    with clocks.paused():
                        self.meet()
                    (total,) = time_steps(burst, 1, self.clock)
                after = counters()
            images = count * self.job.case.size
            facts = clocks.facts(2 * images, sum(seconds) + total)
            facts["surroundings"] = surroundings(before, after)
            timings[inputs] = Timing(seconds, images / total, first_run, facts)
            self.step_seconds[inputs] = float(np.median(seconds))
        if not self.same:
            self.same = run_again(self.runner, self.compute, timings.get("device"))
        come_to_rest()
        return timings

    def compute(self) -> Feed:
        """The outputs for the batch."""
        return self.outputs_for(self.batch)

    def outputs_for(self, feed: Feed) -> Feed:
        """Outputs by name, for the samples of a batch that are judged.

        Those are all, unless the outputs of so many take over MOST_OUTPUT_BYTES; notes how many.
        """
        size = self.job.case.size
        graph = self.job.graph
        found = self.runner.infer(feed)
        outputs = {
            tensor.name: as_rows(np.asarray(found[tensor.name]), graph, tensor, size)
            for tensor in graph.outputs
        }
        # The first step decides: shapes may depend on the data.
        self.judged = self.judged or judged_samples(outputs, size, len(self.job.samples))
        return {name: values[: self.judged].copy() for name, values in outputs.items()}

    def judge_outputs(self) -> tuple[Feed, list[str]]:
        """The outputs for the samples, in steps of the batch, and sentences on what is doubtful."""
        case = self.job.case
        self.same = self.same or run_again(self.runner, self.compute, None)
        steps = [self.same[0]]
        with progress(f"Outputs of {case.title}", self.judged, self.job.samples.unit) as advance:
            for first in range(case.size, self.judged, case.size):
                advance(case.size)
                steps.append(self.outputs_for(self.job.batch(first)))
        outputs, notes = join_steps(steps, self.judged)
        notes += size_notes(steps[0], self.judged, self.job)
        notes += mixed_notes(self.job)
        notes += coverage_notes(case.precision, self.artifact.facts)
        notes += doubts(self.compute, self.batch, self.same)
        self.batch = self.job.batch()  # the doubts overwrote it
        return outputs, notes

    def try_batch(self) -> None:
        """Opens and runs once; on a CPU within its share of the memory that is free."""
        if not gpus():
            limit_memory(int(free_memory() * self.memory_share))
        self.open()
        if self.runner:
            # Once, not twice: the host takes seconds to copy thousands of images.
            self.same = [self.compute()]
            self.measure_round(1)


REUSED_KERNELS = "by an earlier run"


class Kernels:
    """The kernels that XLA chose, kept from run to run: as a context in which it compiles.

    Choosing takes most of its compiling, and the same kernels each time make runs comparable. It
    has to be entered and left in a process whose XLA has not read its flags yet.
    """

    def __init__(self, config: Config) -> None:
        gpu = gpus()[0]
        key = [
            gpu["name"],
            gpu["compute_capability"],
            gpu["driver"],
            version_of("tensorflow"),
            config.tf32,
        ]
        digest = sha256_of(json.dumps(key).encode())[:16]
        self.path = cache_folder() / f"xla-kernels-{digest}.textproto"
        self.new = self.path.with_suffix(f".{os.getpid()}.textproto")
        given = os.environ.get("XLA_FLAGS", "")
        if "autotune" in given:
            self.chosen = "by XLA_FLAGS"
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        words = [given, f"--xla_gpu_dump_autotune_results_to={self.new}"]
        if self.path.exists():
            words.append(f"--xla_gpu_load_autotune_results_from={self.path}")
        self.chosen = REUSED_KERNELS if self.path.exists() else "by this run"
        os.environ["XLA_FLAGS"] = " ".join(filter(None, words))

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Keeps what XLA wrote, and drops what it could not compile with."""
        with contextlib.suppress(OSError):
            if kind is None:
                os.replace(self.new, self.path)
            elif self.chosen == REUSED_KERNELS:
                self.path.unlink()


def build_once(engine: Engine, job: Job) -> Artifact:
    """What an engine runs; if its building is slow, from an earlier run with the same question."""
    if not engine.builds_slowly:
        return engine.build(job)
    return built_once(answer_path(job), question_of(engine, job), lambda: engine.build(job))


def built_once(answer: Path, question: dict[str, Any], build: Callable[[], Artifact]) -> Artifact:
    """The artifact that an earlier run built for the same question, or one that is built now.

    Args:
      answer: the file beside the artifact that keeps what it was built for.
    """
    if found := built_before(answer, question):
        return found
    artifact = build()
    kept = {"question": question, "artifact": dataclasses.asdict(artifact)}
    write_atomically(answer, json.dumps(kept).encode())
    return artifact


def answer_path(job: Job) -> Path:
    """The file beside a case's artifact that keeps what it was built for."""
    return job.path(f"_batch{job.case.batch_size}.built.json")


def forget_built(artifact: Artifact, engine: Engine, job: Job) -> bool:
    """Whether the artifact came from an earlier run; if it did, it is not reused again."""
    if "built_before" not in artifact.facts or not engine.builds_slowly:
        return False
    answer_path(job).unlink(missing_ok=True)
    return True


def question_of(engine: Engine, job: Job) -> dict[str, Any]:
    """Everything that an engine's artifact depends on.

    An ONNX file is identified by what it was made of: tf2onnx names the same model's tensors
    differently each time.
    """
    gpu = gpus()[0] if gpus() else {}
    return {
        **question_of_onnx(job),
        "batch_size": job.case.batch_size,
        "shapes": job.samples.shapes(),
        "package": [engine.version(), version_of("tensorflow", "tensorflow-cpu")],
        "gpu": [gpu.get(name) for name in ("name", "compute_capability", "driver")],
    }


def question_of_onnx(job: Job) -> dict[str, Any]:
    """Everything that the ONNX file of a case depends on."""
    case = job.case
    flags = ("workspace_size", "tf32", "host_dtype", "preprocessing", "calibration_method")
    writers = ("tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu")
    files = [HERE / "tensorrt.py", HERE / "precision.py"]
    return {
        "program": [VERSION, *(sha256_of(path.read_bytes()) for path in files if path.exists())],
        "graph": [job.graph.sha256, job.graph.input_names, job.graph.output_names],
        "samples": samples_in(job),
        "case": [case.engine, case.precision],
        "types": [TENSORRT.opset, TENSORRT.weakly_typed, int8_saturates()],
        "without_norms": ENGINES[case.engine].without_norms(case.precision),
        "writers": [version_of(name) for name in writers],
        "flags": {name: vars(job.config).get(name) for name in flags},
    }


def samples_in(job: Job) -> list[str]:
    """Hashes of the samples that a precision was fitted to, by calibration or to find overflow.

    Also where those of the calibration came from, since the artifact keeps what is said of that.
    """
    if job.case.precision == "fp32":
        return []
    overflow = job.samples.head(FP16_SAMPLES).digest()
    if job.case.precision != "int8":
        return [overflow]
    if job.source:
        facts = job.source.facts["calibration"]
    else:
        _, facts = calibration_samples(job.config, job.graph, job.samples)
    return [overflow, facts["sha256"], facts["source"], str(facts["predicted"])]


def built_before(answer: Path, question: dict[str, Any]) -> Artifact | None:
    """The artifact built for this question before, if its files are this user's and unchanged."""
    try:
        kept = json.loads(answer.read_bytes())
        artifact = Artifact(**kept["artifact"])
        path = answer.with_name(Path(artifact.path).name)
        owners = {answer.stat().st_uid, path.stat().st_uid}
        if kept["question"] != question or owners != {os.getuid()}:
            return None
        read_unchanged(str(path), artifact.sha256)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    facts = {**artifact.facts, "built_before": artifact.seconds}
    return dataclasses.replace(artifact, path=str(path), seconds=0.0, facts=facts)


# Of the free memory of a CPU, which the kernel would hand out twice rather than refuse.
MEMORY_SHARE = 0.75


def limit_memory(share: int) -> None:
    """Limits this process's data to `share` bytes, or to a share of the user's own limit.

    Measuring, under the same limit, takes more than a try.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = share
    if soft != resource.RLIM_INFINITY:
        limit = min(share, int(MEMORY_SHARE * soft))
    with contextlib.suppress(ValueError):  # not above the hard limit
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def once(config: Config, **changes: Any) -> Config:
    """The same flags for a run whose timings do not matter."""
    return config.but(num_loops=1, num_warmup=0, rounds=1, **changes)


def as_rows(values: np.ndarray, graph: Graph, tensor: Tensor, size: int) -> np.ndarray:
    """An output, floats as float32, with `size` samples along the first axis, or with the step."""
    if values.dtype.kind not in "iub":
        values = values.astype(np.float32)
    if graph.has_rows(tensor):
        if values.shape[:1] == (size,):
            return values
        if tensor.shape is None and values.size % size == 0:  # squeezed
            return values.reshape(size, -1)
    return values[None]


MOST_OUTPUT_BYTES = 64 << 20  # of the outputs that are judged, of all samples together


def judged_samples(outputs: Feed, size: int, count: int) -> int:
    """How many of `count` samples are judged, so that outputs take MOST_OUTPUT_BYTES at most.

    Args:
      outputs: those of one step of `size` samples.
    """
    each = sum(values.nbytes for values in outputs.values()) / size
    return min(count, max(1, int(MOST_OUTPUT_BYTES / max(each, 1))))


def size_notes(outputs: Feed, judged: int, job: Job) -> list[str]:
    """A sentence where only some samples are judged, because their outputs are so large."""
    count = len(job.samples)
    if judged == count:
        return []
    each = sum(values.nbytes for values in outputs.values()) / min(judged, job.case.size)
    return [
        f"agreement is judged on {judged} of {count} {job.samples.unit}: the outputs of one take "
        f"{each / 1e6:,.1f} MB"
    ]


def join_steps(steps: list[Feed], count: int) -> tuple[Feed, list[str]]:
    """The outputs of all steps, and sentences on those that differ in shape from step to step."""
    outputs = {}
    notes = []
    for name in steps[0]:
        if len({step[name].shape[1:] for step in steps}) == 1:
            outputs[name] = np.concatenate([step[name] for step in steps])[:count]
        else:
            notes.append(f"{name} is not compared: its shape depends on the data")
    return outputs, notes


# Of steps, by the engine's own word, behind which unfinished work is looked for.
UNFINISHED_SECONDS = 0.2


LATE = 10  # how much later than usual the first result after a loop may come
LEAST_LATE = 0.02  # seconds: by less a busy machine delays any result


def run_again(runner: Runner, compute: Callable[[], Feed], timing: Timing | None) -> list[Feed]:
    """The outputs of the same batch, computed twice right after a loop on the resident batch.

    It catches an engine that says it is done before it is: the first result then waits for all that
    was left.

    Raises:
      UserError: three times running, it took LATE times as long as the same again and a timed step
        together, and over LEAST_LATE.
    """
    outputs: list[Feed] = []
    median = float(np.median(timing.seconds)) if timing else 0.0
    for _ in range(3):  # a busy machine may be late once
        outputs.clear()
        if timing:
            repeat(runner.enqueue, min(3 * LATE, int(UNFINISHED_SECONDS / max(median, 1e-6))))
            runner.sync()
        late, usual = time_steps(lambda: outputs.append(compute()), 2)
        if timing is None or late < max(LEAST_LATE, LATE * (usual + median)):
            return outputs
    raise UserError(
        f"the engine reported its steps done too early: the next result took {late:.3f} s, "
        f"the one after {usual:.3f} s, so its timings are not real"
    )


def doubts(compute: Callable[[], Feed], feed: Feed, same: list[Feed]) -> list[str]:
    """Sentences on outputs that change from run to run, or ignore the input; overwrites the feed.

    Args:
      compute: gives the outputs for the feed.
      same: outputs of the same feed, run after run.
    """
    outputs, again = same
    if not all_finite(outputs):
        return []  # said elsewhere
    if not all(nearly_equal(again[name], values) for name, values in outputs.items()):
        return ["the output changes from run to run: is there a random op in the graph?"]
    if not turn_around(feed):
        return []
    other = compute()
    if all(np.array_equal(other[name], values) for name, values in outputs.items()):
        return ["the output does not depend on the input: check --input_node and --output_node"]
    return []


def turn_around(feed: Feed) -> bool:
    """Swaps high and low values of each input in place, as a negative does; whether any changed.

    They stay within their range, which only a float that is the same everywhere leaves, by one:
    integers may index something.
    """
    changed = False
    for array in feed.values():
        low, high = (array.min(), array.max()) if array.size else (0, 0)
        if array.dtype.kind == "b":
            np.logical_not(array, out=array)
        elif low != high:
            np.subtract(low, array, out=array)
            np.add(high, array, out=array)
        elif array.dtype.kind == "f":
            array += 1
        changed |= bool(low != high) or array.dtype.kind in "fb"
    return changed


def nearly_equal(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether no value differs by more than SAME_OUTPUT of the largest."""
    return np.allclose(values, others, rtol=0, atol=SAME_OUTPUT * np.max(np.abs(others), initial=0))


WORTH_A_WORD = 1.0  # seconds of building that a run was spared


def reuse_notes(facts: dict[str, Any]) -> list[str]:
    """Sentences where an earlier run did what this one would have had to do."""
    notes = []
    if facts.get("built_before", 0) >= WORTH_A_WORD:
        seconds = f"{facts['built_before']:.0f} s"
        notes.append(
            f"an earlier run converted this in {seconds}: its engines were built now, as always"
            if "engine_build_seconds" in facts
            else f"an earlier run built this in {seconds}: nothing was built now"
        )
    if facts.get("kernels") == REUSED_KERNELS:
        notes.append(
            "XLA took the kernels that an earlier run chose: without them a first run takes longer"
        )
    return notes


def mixed_notes(job: Job) -> list[str]:
    """A sentence where the graph as it came computes in float16 already (Keras mixed precision)."""
    share = job.graph.half_share
    case = job.case
    if not share:
        return []
    heavy = "convolutions and matrix products"
    has = f"the graph as it came computes {share:.0%} of its {heavy} in float16"
    if case.precision == "native":
        return [has]
    if case.precision != "fp32":
        return []
    same = "this FP32 computes all in float32"
    if case.engine in ("xla", "tftrt"):
        same = "and so does this FP32"
    return [f"{has}; {same}"]


def tensorflow_notes(facts: dict[str, Any]) -> list[str]:
    """Sentences where TensorFlow ran what TensorRT was asked for, or had to be compiled first."""
    notes = []
    if facts.get("trt_engines") and facts["share_of_nodes"] < MOST_NODES:
        notes.append(
            f"TensorRT has {facts['share_of_nodes']:.0%} of the graph's nodes, TensorFlow runs the "
            "rest: try --engine=tensorrt"
        )
    if capability := facts.get("compiled_by_driver"):
        notes.append(
            f"this TensorFlow has no machine code for compute capability {capability}: the driver "
            "compiled its kernels, which takes minutes the first time; a newer TensorFlow may "
            "have it"
        )
    return notes


def plan_notes(facts: dict[str, Any]) -> list[str]:
    """Sentences on a plan: of which TensorRT, what it would have chosen, what it does not tell."""
    notes = []
    package, _, why = facts.get("package", "").partition(", ")
    if why:
        notes.append(f"of two packages {package} is used: {why}")
    if layers := facts.get("insisted_on_float16"):
        notes.append(
            f"TensorRT found float32 faster in all {layers} convolutions and matrix products: "
            "float16 was insisted on, as FP16 was asked for"
        )
    unknown = facts.get("unknown_nodes", 0)
    if unknown:
        notes.append(
            f"TensorRT does not tell the type of {unknown} of its heavy layers: not proved"
        )
    nodes = facts.get("nodes", 0)
    told = facts.get("executed_nodes", nodes)
    if told + unknown < nodes:
        notes.append(
            f"TensorRT tells the type of {told} of {nodes} convolutions and matrix products: the "
            "rest is fused into blocks that do not tell theirs, so not proved"
        )
    return notes


def refusal_note(facts: dict[str, Any]) -> str:
    """What a CUDA session of ONNX Runtime does without, and why."""
    names = {"enable_cuda_graph": "a CUDA graph", "prefer_nhwc": "NHWC"}
    without = " and ".join(name for setting, name in names.items() if not facts[setting])
    return f"ONNX Runtime refused {without}, which makes others faster ({facts['refused']})"


def coverage_notes(precision: str, facts: dict[str, Any]) -> list[str]:
    """Sentences where something else ran than the graph says, or not by this run's building."""
    notes = reuse_notes(facts) + tensorflow_notes(facts) + plan_notes(facts)
    if precision == "int8" and (layers := facts.get("recurrent_nodes")):
        notes.append(f"INT8 leaves recurrent layers in float: {layers} of {facts['nodes']} layers")
    ran = facts.get("executed_share_of_nodes", 1)
    if precision == "fp16" and ran == 0:
        notes.append(
            "float16 weights, float32 arithmetic: ONNX Runtime has no float16 kernels for this "
            "CPU, so this is not FP16's speed"
        )
    elif ran < 0.5:
        notes.append(
            f"only {ran:.0%} of the convolutions and matrix products ran in {precision.upper()}"
        )
    if "refused" in facts:
        notes.append(refusal_note(facts))
    return notes


# Batch sizes between which the largest is looked for by doubling.
FIRST_TRY = 128
LAST_TRY = 1 << 16
FINE = 64  # the largest batch is found to 1/64 of itself
FITS = "fits"


A_TRY_MAY_TAKE = "a try may take"  # in front of the memory that it has on a CPU


def tried_in_short(found: str) -> str:
    """What came of a try: FITS, or why not, without advice on other batches."""
    no_memory = any(re.search(words, found) for words in (NO_MEMORY, "SIGKILL", A_TRY_MAY_TAKE))
    told = found.replace(": pass a smaller --batch_size", "")
    return f"does not fit: {told}" if no_memory else told


class Session:
    """A case as its parent sees it: its process while that lives, and what came of it so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.result = Result()
        self.worker: Worker | Here | None = None
        self.seconds: list[float] = []  # that each round took
        self.opened = 0
        self.over = self.judged = False
        config = job.config
        self.plan = plan_rounds(config.num_loops, config.rounds) if config.num_loops else None
        self.wanted = len(self.plan) if self.plan else config.rounds  # rounds; None: until known

    def start(self, job: Job) -> Worker | Here:
        """A process for a job: the case's own, or one at a batch size that is tried."""
        return start(job.config, OpenCase, job)

    @property
    def rounds(self) -> list[Round]:
        """Those so far, the oldest first; a smaller batch begins with none again."""
        return self.result.rounds

    @property
    def steps(self) -> int | None:
        """How many the next round has; None: the process decides."""
        return self.plan[len(self.rounds)] if self.plan else None

    def take_turn(self, others: list[Session]) -> None:
        """Measures one round."""
        try:
            self.open()
            begun = time.monotonic()
            if self.worker and not self.over:
                self.add_round(self.worker.ask("measure_round", self.steps))
                self.seconds.append(time.monotonic() - begun)
        except CASE_ENDS as error:
            self.close()
            if not self.makes_room(error, others):
                self.fail(error)

    def open(self) -> None:
        """Has a process build what it runs, or take what was built before, open it and warm up."""
        if self.worker:
            return
        if self.job.error:
            raise UserError(self.job.error)
        if self.job.case.batch_size is None:
            self.job = self.find_largest_batch()
        say_in_lines(f"{self.job.case.title}: {self.what_opening_is()}")
        self.worker = self.start(self.job)
        self.result.machine = self.machine()
        self.result.artifact, self.result.error = self.worker.ask("open", self.result.artifact)
        self.opened += 1
        if self.job.config.build_only or self.result.error:
            self.result.status = "built"
            self.over = True
            self.close()

    def what_opening_is(self) -> str:
        """What the next minutes do, in words."""
        if self.job.config.build_only:
            return "build"
        return "is opened again" if self.opened else "build, first run, warm-up"

    def is_open(self) -> bool:
        """Whether there is a process, which takes memory from others."""
        return self.worker is not None

    def makes_room(self, error: Exception, others: list[Session]) -> bool:
        """After running out of memory: closes other processes, or takes a smaller batch."""
        if not re.search(NO_MEMORY, str(error)):
            return False
        neighbours = [other for other in others if other.is_open()]
        for other in neighbours:
            other.close()
        if neighbours:
            return True
        if not self.job.tried or self.rounds or self.job.case.batch_size == 1:
            return False
        self.use(self.smaller(error))
        return True

    def use(self, job: Job) -> None:
        """Begins anew with a job, as at another batch size."""
        self.job = job
        self.result = Result()

    def find_largest_batch(self) -> Job:
        """The job at the largest batch that fits: by doubling, then bisection."""
        tried: dict[int, str] = {}

        def fits(size: int) -> bool:
            """Tries a batch size and says what came of it; `tried` keeps that."""
            job = self.job.at(size, config=once(self.job.config))
            begun = time.monotonic()
            tried[size] = self.try_batch(job)
            say(f"{job.case}: {tried_in_short(tried[size])} ({time.monotonic() - begun:.0f} s)")
            return tried[size] == FITS

        say(f"{self.job.case}: looks for the largest batch that fits, in about ten tries")
        good = 0
        bad = FIRST_TRY
        while bad <= LAST_TRY and fits(bad):
            good = bad
            bad = 2 * bad
        if not good and not re.search(NO_MEMORY, tried[bad]):
            self.job = self.job.at(bad, tried=tried)  # the record's batch size
            raise UserError(tried[bad])
        while bad <= LAST_TRY and bad - good > max(1, good // FINE):
            middle = (good + bad) // 2
            good, bad = (middle, bad) if fits(middle) else (good, middle)
        if not good:
            raise UserError(tried[1])
        if bad > LAST_TRY:
            say(f"{self.job.case}: no larger batch is tried; pass --batch_size to go on")
        return self.job.at(good, tried=tried)

    def try_batch(self, job: Job) -> str:
        """Whether a job runs, in a process of its own: FITS, or why not."""
        try:
            with contextlib.closing(self.start(job)) as worker:
                worker.ask("try_batch")
        except CASE_ENDS as error:
            limit = f" ({A_TRY_MAY_TAKE} {MEMORY_SHARE:.0%} of the memory that is free)"
            is_limited = isinstance(error, ProcessDied) and not gpus()
            return why_it_ended(error) + limit * is_limited
        return FITS

    def smaller(self, error: Exception) -> Job:
        """The job at a smaller batch, in doubling steps: measuring takes more than a try."""
        say(f"{self.job.case}: did not fit when measured")
        size, tried = self.job.case.size, self.job.tried
        largest = max(size for size, found in tried.items() if found == FITS)
        step = max(largest - size, max(1, size // FINE))
        tried = {**tried, size: f"fits in a try, not when measured: {error}"}
        return self.job.at(max(1, size - step), tried=tried)

    def add_round(self, timings: Round) -> None:
        """Takes a round, which is on disk when this returns."""
        self.rounds.append(timings)
        if self.job.rounds:
            self.job.rounds.add(self.job, self.result)

    def has_enough(self, sessions: list[Session]) -> bool:
        """Whether the case has the rounds asked for, is known well, or is out of time.

        Native goes on as long as another needs it beside its own rounds.
        """
        if self.over or not self.rounds:
            return self.over
        if self.wanted:
            return len(self.rounds) >= self.wanted
        if sum(self.seconds) + self.seconds[-1] > MOST_SECONDS and has_deviation(self.rounds):
            return True
        if self.job.case.precision == "native" and any(
            not other.over for other in sessions if other is not self
        ):
            return False
        return self.is_known(native_of(sessions))

    def is_known(self, native: Session | None) -> bool:
        """Whether the speed, and times native where native is measured beside it, are known."""
        beside = native.rounds if native and native is not self else []
        return all(
            known_well_enough(loops_of(self.rounds, i), loops_of(beside, i) or None)
            for i in self.rounds[0]
        )

    def fail(self, error: Exception) -> None:
        """Ends the case: failed, or with the rounds that there are."""
        self.over = True
        if self.job.case.batch_size is None:  # none was found
            self.job = self.job.at(1)
        if self.rounds:
            self.judged = True  # outputs are not asked of what has failed
            self.result.notes.append(f"round {len(self.rounds) + 1} failed: {why_it_ended(error)}")
        else:
            self.result.status = "failed"
            self.result.error = why_it_ended(error)

    def judge(self) -> None:
        """Asks for the outputs, once; opens the case again where it had made room for another."""
        if self.judged or not self.rounds:
            return
        self.judged = True
        try:
            self.open()
            assert self.worker
            self.result.outputs, notes = self.worker.ask("judge_outputs")
            self.result.notes += notes
        except CASE_ENDS as error:
            self.close()
            self.result.notes.append(f"no outputs: {error}")

    def finish(self) -> None:
        """Asks for the outputs and ends the process."""
        self.over = True
        self.judge()
        self.close()

    def results(self) -> list[Result]:
        """What was found, by device."""
        if self.job.tried:
            self.result.batch_sizes_tried = self.job.tried
        if self.opened > 1:
            self.result.notes.append(
                f"opened {self.opened} times: the cases do not fit into memory together"
            )
        if not self.result.machine:  # no process got as far as that
            self.result.machine = self.machine()
        return [self.result]

    def machine(self) -> dict[str, Any]:
        """What a record says of the machine: as its process sees it, or this one without it."""
        if self.worker:
            return self.worker.ask("machine")
        return machine(self.job.config, self.job.case.engine)

    def rounds_by_device(self) -> list[list[Round]]:
        """The rounds that belong to each of the results."""
        return [self.rounds]

    def close(self) -> None:
        """Ends the process, if there is one; what it measured stays."""
        if self.worker:
            self.worker.close()
        self.worker = None


def schedule(
    jobs: list[Job], session: Callable[[Job], Session] = Session, reference: Feed | None = None
) -> Iterator[tuple[Job, list[Result]]]:
    """Measures the cases of each batch size in turn, round by round; yields each when it is done.

    On Ctrl-C it gives what has rounds, then raises KeyboardInterrupt.

    Args:
      reference: native's outputs; where they are neither known nor a case's, they are computed.
    """
    if reference is None and not count_natives(jobs):
        reference = untimed_reference(jobs, session)
    # One group a batch size; a search for the largest is one by itself.
    groups = itertools.groupby(jobs, lambda job: job.case.batch_size or id(job))
    for _, group in groups:
        with Turns(list(map(session, group)), reference) as turns:
            try:
                for one in turns.next():
                    one.take_turn(turns.sessions)
                    yield from turns.finished()
            except KeyboardInterrupt:
                yield from turns.broken_off()
                raise
            reference = turns.reference


class Turns:
    """The cases of one batch size, round after round; as a context it ends their processes."""

    def __init__(self, sessions: list[Session], reference: Feed | None) -> None:
        self.sessions = sessions
        self.waiting = list(sessions)
        self.native = native_of(sessions)
        self.reference = reference

    def next(self) -> Iterator[Session]:
        """Whose turn it is, until all have enough; asked again where a turn only made room."""
        for turn in itertools.count(1):
            for one in list(self.waiting):
                while len(one.rounds) < turn and not one.has_enough(self.sessions):
                    yield one
            if not self.waiting:
                return
            if turn == 1:
                say_in_lines(expected_end(self.waiting))

    def finished(self) -> Iterator[tuple[Job, list[Result]]]:
        """Yields those that have enough, and ends their processes."""
        while one := self.first_with_enough():
            self.waiting.remove(one)
            self.ask_for_outputs(one)
            one.finish()
            if self.native:
                self.ask_for_outputs(self.native)
                self.reference = self.native.result.outputs or self.reference
            with uninterrupted():
                yield one.job, self.results(one)

    def ask_for_outputs(self, one: Session) -> None:
        """Has a case judged; one whose process had made room for another's gets the room back."""
        if one.rounds and not one.judged and not one.is_open():
            for other in self.sessions:
                other.close()
        one.judge()

    def first_with_enough(self) -> Session | None:
        """One that needs no more rounds; native may have enough only once the others are over."""
        enough = (one for one in self.waiting if one.has_enough(self.sessions))
        return next(enough, None)

    def broken_off(self) -> Iterator[tuple[Job, list[Result]]]:
        """Gives those that have rounds, though not enough."""
        for one in self.waiting:
            if one.rounds:
                with uninterrupted():
                    yield one.job, self.results(one)

    def results(self, one: Session) -> list[Result]:
        """A case's results, each with native's outputs and native's rounds of the same turns."""
        beside = self.native.rounds_by_device() if self.native else None
        return with_reference(one.results(), self.reference, beside)

    def __enter__(self) -> Turns:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.sessions:
            one.close()


def count_natives(jobs: list[Job]) -> int:
    """How many of the jobs are native's."""
    return sum(job.case.precision == "native" for job in jobs)


def expected_end(sessions: list[Session]) -> str:
    """How long the rounds of these cases will take, by the first."""
    turn = sum(one.seconds[-1] for one in sessions if one.seconds)
    count = "1 case" if len(sessions) == 1 else f"{len(sessions)} cases in turn"
    what = f"{count}, {turn:.1f} s a round"
    left = (sessions[0].wanted or 0) - 1
    if left > 0:
        return f"{what}: {left * turn:.0f} s to go"
    least = (LEAST_ROUNDS - 1) * turn
    most = len(sessions) * MOST_SECONDS
    return f"{what}: {min(least, most):.0f} to {most:.0f} s to go"


def native_of(sessions: list[Session]) -> Session | None:
    """Native's session among those of a batch size, if it is one of them."""
    return next((one for one in sessions if one.job.case.precision == "native"), None)


def with_reference(
    results: list[Result], reference: Feed | None, native_rounds: list[list[Round]] | None = None
) -> list[Result]:
    """Adds native's outputs, and its rounds of the same turns and device, to the results."""
    for result, rounds in zip(results, native_rounds or itertools.repeat([])):
        result.reference = reference or None  # {}: it is known that there are none
        result.native_rounds = rounds
    return results


REFERENCE_IMAGES = 32  # a step of native's, where no batch size is known to fit


def untimed_reference(jobs: list[Job], session: Callable[[Job], Session]) -> Feed | None:
    """Native's outputs, from a process that is not timed."""
    if not jobs or jobs[0].config.build_only:
        return None
    with contextlib.closing(session(reference_job(jobs))) as one:
        one.take_turn([])
        one.finish()
    return outputs_to_compare_with(one.results())


def outputs_to_compare_with(results: list[Result]) -> dict[str, np.ndarray] | None:
    """Native's outputs on the first device that has them; says why, where none has."""
    for result in results:
        if result.outputs is not None:
            return result.outputs
    why = results[0].error or "; ".join(results[0].notes)
    say(f"there is nothing to compare with, native does not run: {why}")
    return None


def reference_job(jobs: list[Job]) -> Job:
    """Native at the largest batch, or a small one where that is to be found; to be run once."""
    first = jobs[0]
    size = max(job.case.batch_size or 0 for job in jobs)
    case = Case("native", "native", size or min(REFERENCE_IMAGES, len(first.samples)))
    return Job(case, once(first.config, inputs="device"), first.graph, first.samples)


# --------------------------------------------------------------------------------------------- main


def doctor(config: Config) -> None:
    """Prints which engine runs which precision here, and how to install what is missing."""
    print(f"tensorrt.py {VERSION}, Python {platform.python_version()}, {device_name(config)}")
    for gpu in gpus():
        capability = f"compute capability {gpu['compute_capability']}"
        memory = f"{gpu['memory_mb']} MB"
        print(f"GPU {gpu['index']}: {gpu['name']}, {capability}, {memory}, driver {gpu['driver']}")
    print("" if gpus() else "no NVIDIA GPU found by NVML\n")
    print(f"{'engine':13}{'version':26}" + "".join(f"{name:8}" for name in PRECISIONS))
    reasons: dict[str, list[str]] = collections.defaultdict(list)
    for engine in ENGINES.values():
        cells = [state_of(engine, precision, reasons) for precision in PRECISIONS]
        print(f"{engine.name:13}{engine.version():26}" + "".join(f"{cell:8}" for cell in cells))
    print()
    for reason, precisions in reasons.items():
        print(f"{reason} ({', '.join(precisions)})")
    package, why = TENSORRT.choice
    if why:
        print(f"tensorrt: of two packages {package} is used: {why}")


def state_of(engine: Engine, precision: str, reasons: dict[str, list[str]]) -> str:
    """Whether an engine `runs`, only `builds` or is `missing` a precision.

    Collects reasons: why not, or why --engine=auto does not take what runs.
    """
    if precision not in engine.precisions:
        return "-"
    reason = engine.why_not(precision)
    if not reason:
        if why := why_passed_over(engine):
            reasons[f"{engine.name}: {why}"].append(precision)
        return "runs"
    reasons[f"{engine.name}: {reason}"].append(precision)
    return "missing" if engine.why_not_build(precision) else "builds"


def measure(config: Config) -> int:
    """From the flags to the report; the exit status."""
    refuse_threads(config, len(cores()))
    check_output_dir(config.output_dir)
    recover_rounds(config)
    onnx = contextlib.closing(OnnxSource(config))
    with onnx as source, RoundsOnDisk(config.output_dir) as rounds:
        source.start_early()
        model = load_model(config)
        announce(model.cases, config)
        with Report(config, model.cases, rounds) as report:
            for job, results in schedule(make_jobs(config, model, rounds, source)):
                report.add(job, results)
    return report.status()


def main(
    argv: list[str], work: Callable[[Config], int] = measure, manual: str | None = __doc__
) -> int:
    """Runs the program and returns its exit status.

    Args:
      work: what a program that uses this one as its library does instead; `manual` is its own.
    """
    name = Path(argv[0]).name
    try:
        config = parse_flags(argv)
        refuse_engines(config)
        if config.help or config.version:
            print(f"{manual}\n{FLAGS.get_help()}" if config.help else VERSION, flush=True)
        elif config.doctor:
            doctor(config)
        else:
            return work(config)
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped; what was measured is kept")
        return 143 if TERMINATED else 130
    except BrokenPipeError:  # as in `| head`: nobody reads on; the records are on disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    heed_signals()
    sys.exit(main(sys.argv))
