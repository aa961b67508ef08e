#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "msgspec>=0.18.6,<0.23",
#   "rich>=13.7,<16",
#   "matplotlib>=3.8,<4",
# ]
# ///
"""Reads the records that tensorrt.py wrote: a table, a picture, a page, a comparison.

    python report.py results.jsonl [more.jsonl ...]      table, and report.png beside the first file
    python report.py results.jsonl --output=report.html  table, and one self-contained page
    python report.py --history node-a node-b             every results.jsonl below these folders
    python report.py new.jsonl --compare=old.jsonl --fail_slower=5
                                                         for CI: exit 3 where a case lost over 5 %

Nothing here imports TensorFlow or tensorrt.py, which prints its own run with `print_records`.
Only records of one graph (by its hash) on one device are set against one another.

A case has one row, from its newest record. The older ones are its *trend*: by how much the newest
is faster than their median, and how many they are. A picture shows the newest 60 rows; the table
and the page have all, and a long page has a filter.

Comparison. The newest records of each case are compared by the ratio of their undisturbed
images/s, new to old, which repeats from run to run where the median does not, with an interval
from both runs (docs/statistics.md). A case is faster or slower when the whole interval says so and
the ratio is over 2.5 % from one. Records of one loop, as older versions wrote them, are compared by
their medians, and the verdict says that a loop knows little of itself. On a GPU it also says where
the hypervisor took cores of the slower run alone: all of that run may have been slow.

Exit status: 0; 2 a file cannot be read, or a line of it is no record, or with --fail_slower no case
could be compared; 3 with --fail_slower: a case lost more than that beyond its interval, or fails
now. Environment: NO_COLOR (plain table), COLUMNS (where a terminal ends, and lines of tables are
cut).
"""

from __future__ import annotations

import argparse
import array
import collections
import functools
import html
import io
import itertools
import json
import math
import os
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from rich.text import Text

VERSION = "2.0"
MOST_ROWS = 60  # in a picture, and sentences of one kind in the terminal
SAME = 0.025  # speeds nearer than that are the same: tensorrt.py's limit for a steady case


class UserError(Exception):
    """Something the user can fix: one line that says what is wrong and what to do."""


# ----------------------------------------------------------------------------------------- speeds


class Estimate(NamedTuple):
    """A number with the ends of its interval of about 95 %."""

    value: float
    low: float
    high: float

    @property
    def reach(self) -> tuple[float, float]:
        """How far the interval's ends are from the number."""
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)


def ratio_of_estimates(new: Estimate, old: Estimate) -> Estimate:
    """The ratio of two numbers that were found independently, with its interval from theirs.

    In logarithms the difference of two estimates is as uncertain as the root of the sum of their
    squared distances to the ends that count (MOVER; Zou and Donner, Stat. in Medicine 27, 2008).
    """
    (value, low, high), (was, was_low, was_high) = new, old
    below = math.hypot(math.log(value / low), math.log(was_high / was))
    above = math.hypot(math.log(high / value), math.log(was / was_low))
    ratio = value / was
    return Estimate(ratio, ratio * math.exp(-below), ratio * math.exp(above))


# What two whole runs of one program are apart on CPU cores that other guests share, beyond what
# the rounds of either tell: 1.96 * sqrt(2) * 2 %, the standard deviation of a run's quiet end on
# such machines (docs/statistics.md).
RUNS_APART = 0.055


def widened(ratio: Estimate, share: float) -> Estimate:
    """A ratio whose interval also holds what runs are apart by `share`, in 95 of 100."""
    return ratio_of_estimates(ratio, Estimate(1.0, math.exp(-share), math.exp(share)))


def ratio_of(new: Timing, old: Timing) -> Estimate:
    """New to old images/s: of the undisturbed speeds, or of medians where one has no rounds."""
    name = "fps_undisturbed" if new.rounds and old.rounds else "fps_median"
    return ratio_of_estimates(new.estimate(name), old.estimate(name))


# ---------------------------------------------------------------------------------------- records

RECORD_VERSION = 2  # the newest that this program reads
SAME_BEFORE = 0.99  # top-1 and cosine from which records of version 1 are of the same model
NUMBERS = ("fps_median", "fps_low", "fps_high", "latency_median", "latency_99th")
NUMBERS_OF_ROUNDS = (
    *("rounds", "fps_typical", "fps_typical_low", "fps_typical_high"),
    *("fps_undisturbed", "fps_undisturbed_low", "fps_undisturbed_high"),
)

SETTINGS = ("tf32", "workspace_size", "preprocessing")  # flags that make another case

Positive = Annotated[float, msgspec.Meta(gt=0, lt=1e15)]  # can be divided by, and drawn
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class Timing(msgspec.Struct):
    """Steps of a case from one place of its input: their seconds, and the numbers made of them."""

    seconds: Annotated[Sequence[Positive], msgspec.Meta(min_length=1)]  # of each waited step
    throughput: Positive  # images/s of the enqueued steps
    statistics: dict[str, float]  # images/s (`fps_...`) and seconds (`latency_...`)

    def __post_init__(self) -> None:
        """Checks what is shown, and keeps the seconds in a quarter of a list's memory."""
        for name in NUMBERS + NUMBERS_OF_ROUNDS if self.rounds else NUMBERS:
            if not 0 < self.statistics.get(name, 0) < 1e15:
                raise ValueError(f"`{name}` is missing, or no positive number")
        self.seconds = array.array("d", self.seconds)

    @property
    def rounds(self) -> int:
        """How many rounds it was measured in; 0 for the one loop of older versions."""
        return int(self.statistics.get("rounds", 0))

    @property
    def stolen_cores(self) -> float:
        """Cores that the hypervisor took in the median round; NaN where nothing counted them."""
        return self.statistics.get("stolen_cores", math.nan)

    @property
    def is_p99_open(self) -> bool:
        """Whether steps were too few for an upper bound of p99, which one loop did not look for."""
        return self.rounds > 0 and "latency_99th_high" not in self.statistics

    @property
    def speed(self) -> Estimate:
        """The images/s that are shown: typical of the rounds, or the median of one loop."""
        return self.estimate("fps_typical" if self.rounds else "fps_median")

    def estimate(self, name: str) -> Estimate:
        """fps_median, fps_typical or fps_undisturbed, in images/s."""
        ends = "fps" if name == "fps_median" else name
        return Estimate(*(self.statistics[key] for key in (name, f"{ends}_low", f"{ends}_high")))


class Tensor(msgspec.Struct):
    """An input or output of a graph; None in its shape, or for it, is what was left open."""

    name: str
    shape: list[int | None] | None = None
    dtype: str = ""
    key: str = ""

    @property
    def sides(self) -> str:
        """`224x224x3`, without an open batch; with `None` where more is open, "" of a scalar."""
        sides = [None, None] if self.shape is None else self.shape
        return "x".join(map(str, sides[1:] if sides[:1] == [None] else sides))


class GraphFacts(msgspec.Struct):
    """The graph as it came."""

    name: str = ""
    sha256: str = ""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    layout: str = ""
    scaling: str = ""
    half_share: float = 0.0
    input: str = ""  # this and the next two: version 1's only tensors
    output: str = ""
    shape: list[int | None] = []

    def __post_init__(self) -> None:
        """Gives version 1's tensors the names of version 2."""
        if self.input:
            self.inputs, self.outputs = [Tensor(self.input, self.shape)], [Tensor(self.output)]
            self.input = self.output = ""
            self.shape = []

    @property
    def key(self) -> dict[str, str]:
        """What tells one graph from another: its hash, and the names of its tensors."""
        return {
            "graph sha256": self.sha256,
            "graph input": ", ".join(tensor.name for tensor in self.inputs),
            "graph output": ", ".join(tensor.name for tensor in self.outputs),
        }

    @property
    def input_shape(self) -> str:
        """`128`, or `32x32x3,16`: what was fed; empty where a record of before leaves it open."""
        sides = [tensor.sides for tensor in self.inputs if tensor.sides]
        if "None" in "".join(sides):
            return ""
        return ",".join(sides if len(set(sides)) > 1 else sides[:1])


class ChangedImage(msgspec.Struct):
    """An image's name, its first class in native, and the one now."""

    image: str
    native: str
    now: str


class OutputAgreement(msgspec.Struct):
    """How far one output is native's; in version 1 without kind, noise and counts."""

    kind: str = ""  # probabilities, logits, scores, class_map, ids or values
    snr_db: float | None = None  # None where nothing differs
    same: Count | None = None  # images, or what DECIDED says, as in native
    decided: Count | None = None
    undecided: Count | None = None
    changed: list[ChangedImage] | None = None
    top1: float | None = None
    cosine: float = 1.0

    def __post_init__(self) -> None:
        """Drops counts that are not all there."""
        if None in (self.same, self.decided, self.undecided):
            self.same = self.decided = self.undecided = self.changed = None

    @property
    def counts(self) -> str:
        """`7 of 8`; empty where nothing was counted."""
        return "" if self.decided is None else f"{self.same} of {self.decided}"

    @property
    def share(self) -> float | None:
        """Of images, or decisions, as in native; None where nothing was decided."""
        if self.same is not None and self.decided:
            return self.same / self.decided
        return self.top1 if self.decided is None else None


class NamedAgreement(OutputAgreement):
    """The same of an output that has a name, as from version 2 on."""

    difference: float = 0.0  # the largest


# What is counted of some kinds of outputs; of others images or samples.
DECIDED = {"scores": "decisions", "ids": "values", "class_map": "pixels"}


class Agreement(OutputAgreement):
    """Each output's agreement; version 1 has the only output's in its place."""

    images: Count | None = None
    same_model: bool | None = None
    outputs: dict[str, NamedAgreement] = {}

    @property
    def is_same_model(self) -> bool:
        """tensorrt.py's own verdict, which version 1 had no word for."""
        if self.same_model is None:
            return min(self.top1 or 0, self.cosine) >= SAME_BEFORE
        return self.same_model


class Accuracy(msgspec.Struct):
    """Shares (0 to 1) of the labelled images whose class is the first, or one of the first five."""

    top1: float
    top5: float
    images: Count | None = None


class Artifact(msgspec.Struct):
    """The file that an engine ran, and the seconds that it took to build."""

    bytes: Annotated[float, msgspec.Meta(ge=0, lt=1e15)]
    build_seconds: float | None = None


class Together(msgspec.Struct):
    """Devices that ran at the same time, and the sum of their bursts in images/s, by input."""

    devices: list[str]
    throughput: dict[str, Positive]


class TimesNative(msgspec.Struct):
    """images/s over native's, with the ends of its interval."""

    value: Positive
    low: Positive
    high: Positive


class Record(msgspec.Struct, kw_only=True):
    """What is read of a case's record, of version 1 or 2: tests/schema.json."""

    record: int
    time: str
    network: str
    status: str
    error: str = ""
    engine: str
    engine_version: str = ""
    precision: Literal["native", "fp32", "fp16", "int8"]
    batch_size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    input_dtype: str = ""
    timings: dict[str, Timing]  # by where the input lay, device or host; empty if nothing was timed
    graph: GraphFacts = msgspec.field(default_factory=GraphFacts)
    images: int | str | None = None
    unit: Literal["images", "samples"] = "images"  # what is counted and timed
    artifact: Artifact | None = None
    device: str
    device_kind: str = ""
    node: str | None = None
    gpu: dict[str, Any] | None = None
    versions: dict[str, Any] = {}
    flags: dict[str, Any] = {}
    notes: list[str]
    predictions: list[tuple[str, float]] | None = None
    kinds: dict[str, str] | None = None  # what the outputs say, by their names
    agreement: Agreement | None = None
    accuracy: Accuracy | None = None
    times_native: dict[str, TimesNative] | None = None
    calibration: dict[str, Any] | None = None
    together: Together | None = None

    @property
    def precision_name(self) -> str:
        """`native`, or `FP16`."""
        return self.precision if self.precision == "native" else self.precision.upper()

    @property
    def engine_name(self) -> str:
        """`FP16 xla`, or `native`."""
        engine = "" if self.engine == "native" else f" {self.engine}"
        return self.precision_name + engine

    @property
    def case(self) -> str:
        """`FP16 xla 8`, with the batch size."""
        return f"{self.engine_name} {self.batch_size}"

    @property
    def output(self) -> OutputAgreement:
        """How far its first output is native's; empty where that is not known."""
        agreement = self.agreement or Agreement()
        return next(iter(agreement.outputs.values()), agreement)

    @property
    def decided(self) -> str:
        """What of its first output is counted: images or samples, or parts of them."""
        return DECIDED.get(self.output.kind, self.unit)

    @property
    def classes(self) -> float:
        """Of how many classes accuracy tells; infinity where the output's shape is open."""
        kinds = self.kinds or {}
        for tensor in self.graph.outputs:
            if kinds.get(tensor.name) in ("probabilities", "logits"):
                return math.prod(side or math.inf for side in (tensor.shape or [None, None])[1:])
        return math.inf

    @property
    def comparable_facts(self) -> dict[str, str]:
        """What has to be equal to compare two records of a case, by its name in messages."""
        facts = {"engine_version": self.engine_version, "input_dtype": self.input_dtype}
        flags = {f"flags {name}": str(self.flags.get(name)) for name in SETTINGS}
        return facts | self.graph.key | {"input shape": self.graph.input_shape} | flags


class Version(msgspec.Struct):
    """What any version's record has, so that a newer one's is refused with the reason."""

    record: int


Shape = TypeVar("Shape")


def decode(line: bytes, shape: type[Shape]) -> Shape:
    """A line's JSON; also with NaN, which is none, but which older versions wrote."""
    try:
        return msgspec.json.decode(line, type=shape)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(line), shape)


def read_line(line: bytes, path: str, number: int) -> Record:
    """The record of a line; a UserError names the place of a line that is none."""
    place = f"{path}, line {number}"
    try:
        version = decode(line, Version).record
        if version > RECORD_VERSION:
            raise UserError(f"{place}: version {version} is newer than this report.py: update it")
        return decode(line, Record)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: no record of tensorrt.py ({error}): remove the line") from error


def read_lines(lines: Iterator[bytes], path: str) -> list[Record]:
    """The records of a file's lines; raises UserError, another one where no line looks like one."""
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                records.append(read_line(line, path, number))
        except UserError as error:
            rest = itertools.chain([line], lines)
            if records or any(other.startswith(b'{"record"') for other in rest):
                raise
            why = f"{path} is no results.jsonl: pass one that tensorrt.py wrote"
            raise UserError(why) from error
    return records


def read_records(path: str) -> list[Record]:
    """The records of a results.jsonl in its order; raises UserError."""
    try:
        with open(path, "rb") as lines:
            records = read_lines(lines, path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file: pass a results.jsonl") from error
    except OSError as error:
        why = f"{path} cannot be read ({error.strerror})"
        raise UserError(f"{why}: pass a results.jsonl") from error
    if not records:
        raise UserError(f"{path} holds no records: run tensorrt.py first")
    return records


def file_of(path: str) -> str:
    """A file as it is, or a folder's results.jsonl; raises UserError where that has none."""
    inside = os.path.join(path, "results.jsonl")
    if not os.path.isdir(path):  # False also of what cannot be looked at
        return path
    if os.path.isfile(inside):
        return inside
    why = f"{path} is a folder without a results.jsonl"
    raise UserError(f"{why}: pass a file, or --history={path} for all that lie deeper")


def merged(paths: list[str]) -> list[Record]:
    """The records of several files, the newest last; once where files hold the same."""
    records = [record for path in paths for record in read_records(path)]
    records.sort(key=lambda record: record.time)
    kept: dict[tuple[str, ...], list[Record]] = collections.defaultdict(list)
    for record in records:
        alike = kept[record.time, record.network, record.case, record.device]
        if record not in alike:
            alike.append(record)
    return [record for alike in kept.values() for record in alike]


# ------------------------------------------------------------------------------------------- rows


class Row(NamedTuple):
    """A case with one place of its input: a row of a table, a page or a picture."""

    record: Record  # the case's newest
    inputs: str  # `device` or `host`, where a step's batch lay; empty if nothing was timed
    native: Record | None = None  # of the same batch size and inputs, where there is one
    older: list[Timing] = []  # of the case's records before, the newest last
    setting: str = ""  # what follows its name where others of its group have other settings

    @property
    def timing(self) -> Timing:
        """Of the newest record; KeyError where nothing was timed."""
        return self.record.timings[self.inputs]

    @property
    def times_native(self) -> Estimate:
        """How many times as fast as native; from pairs of rounds, or from both speeds."""
        if self.native is None or self.record.precision == "native":
            return Estimate(1.0, 1.0, 1.0)
        if rated := (self.record.times_native or {}).get(self.inputs):
            return Estimate(rated.value, rated.low, rated.high)
        return ratio_of_estimates(self.timing.speed, self.native.timings[self.inputs].speed)

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its case's rows."""
        return self.inputs == next(iter(self.record.timings), "")

    @property
    def label(self) -> str:
        """`FP16 xla (host)`: its name without the batch size."""
        return self.record.engine_name + self.setting + from_host(self.inputs)

    @property
    def name(self) -> str:
        """`FP16 xla 8 (host)`: with the batch size."""
        return self.record.case + self.setting + from_host(self.inputs)


def from_host(inputs: str) -> str:
    """What follows a name where the batch lay in host memory; else ""."""
    return " (host)" if inputs == "host" else ""


def unit_of(rows: list[Row]) -> str:
    """What the rows of one model count: images or samples."""
    return rows[0].record.unit if rows else "images"


Workload = tuple[int, str]  # batch size and the inputs' shape


class Group(NamedTuple):
    """The rows of one model on one device."""

    title: str
    rows: list[Row]
    elsewhere: frozenset[Workload] = frozenset()  # of which --spread ran native, on any device


class Model(NamedTuple):
    """One graph's groups, a device each."""

    name: str
    groups: list[Group]

    @property
    def records(self) -> list[Record]:
        """What the rows show, each record once."""
        return [row.record for group in self.groups for row in group.rows if row.is_first]


def model_key(record: Record) -> str:
    """A graph by its file and by the tensors that were fed and read."""
    return " ".join(record.graph.key.values())


def case_key(record: Record, shape: str = "") -> str:
    """What tells one case from another of the same model and device; a setting makes another."""
    return f"{record.case} {list(settings_of(record, shape).values())}"


def settings_of(record: Record, shape: str = "") -> dict[str, Any]:
    """What makes another case of the same precision, engine and batch size, by its name.

    Args:
      shape: the inputs' where the record leaves it open.
    """
    flags = {name: record.flags.get(name) for name in SETTINGS}
    shape = record.graph.input_shape or shape
    return {"input_dtype": record.input_dtype, "input_shape": shape} | flags


def only_shape(records: list[Record]) -> str:
    """The inputs' shape where all records that tell it have the same, else empty."""
    shapes = {record.graph.input_shape for record in records} - {""}
    return shapes.pop() if len(shapes) == 1 else ""


def workload(record: Record, shape: str) -> Workload:
    """What is done in a step; `shape`: the inputs' where the record leaves it open."""
    return record.batch_size, record.graph.input_shape or shape


def differing(records: list[Record]) -> list[str]:
    """The names of the settings in which records differ."""
    values = collections.defaultdict(set)
    shape = only_shape(records)
    for record in records:
        for name, value in settings_of(record, shape).items():
            values[name].add(str(value))
    return [name for name, different in values.items() if len(different) > 1]


def setting_text(record: Record, names: list[str]) -> str:
    """`, vgg, tf32=False`: what follows a case's name where others have other settings."""
    settings = settings_of(record)
    texts = {name: str(settings[name]) for name in names if settings[name] not in (None, "")}
    plain = ("input_dtype", "preprocessing")  # whose values say what they are
    return "".join(
        f", {text if name in plain else f'{name}={text}'}" for name, text in texts.items()
    )


def grouped(records: list[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    """Records by a key, in their order; the key of the last record is the last."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        name = key(record)
        members = groups.pop(name, [])
        members.append(record)
        groups[name] = members
    return groups


def arrange(records: list[Record]) -> list[Model]:
    """The rows of all records, by model and by device; models of one name by what differs.

    Args:
      records: in order of time; what has the newest record comes last in the result too.
    """
    by_model = grouped(records, model_key)
    graphs = collections.defaultdict(list)
    for members in by_model.values():
        graphs[model_name(members[-1])].append(members[-1].graph)
    models = []
    for members in by_model.values():
        name = model_name(members[-1])
        name += graph_text(members[-1].graph, graphs[name])
        by_device = grouped(members, lambda record: record.device).items()
        shape = only_shape(members)
        elsewhere = frozenset(
            workload(record, shape)
            for record in members
            if record.precision == "native" and record.timings and record.flags.get("spread")
        )
        groups = [
            Group(f"{name} on {device}", rows_of(some), elsewhere) for device, some in by_device
        ]
        models.append(Model(name, groups))
    return models


def model_name(record: Record) -> str:
    """The graph's name, which other graphs may have too."""
    return record.graph.name or record.network


def graph_text(graph: GraphFacts, others: list[GraphFacts]) -> str:
    """` 0614506a, input uint8_pixels:0`: what tells a graph from others of its name; else ""."""
    texts = []
    for name, value in graph.key.items():
        if len({other.key[name] for other in others}) > 1:
            is_hash = name == "graph sha256"
            texts.append(value[:8] if is_hash else f"{name.removeprefix('graph ')} {value}")
    return " " + ", ".join(texts) if texts else ""


def rows_of(records: list[Record]) -> list[Row]:
    """A group's rows: each case's newest record that was timed, and a newer one that was not."""
    rows: list[Row] = []
    # The newest native, by batch size, inputs, shape, and settings or none.
    natives: dict[tuple[Any, ...], Record] = {}
    shape = only_shape(records)
    for record in records:
        if record.precision == "native":
            for inputs in record.timings:
                place = record.batch_size, inputs, record.graph.input_shape or shape
                natives[place] = record
                natives[(*place, str(settings_of(record, shape)))] = record
    for members in grouped(records, lambda record: case_key(record, shape)).values():
        timed = [record for record in members if record.timings]
        for inputs in timed[-1].timings if timed else ():
            place = timed[-1].batch_size, inputs, timed[-1].graph.input_shape or shape
            exact = (*place, str(settings_of(timed[-1], shape)))
            native = natives.get(exact, natives.get(place))
            older = [record.timings[inputs] for record in timed[:-1] if inputs in record.timings]
            rows.append(Row(timed[-1], inputs, native, older))
        if not members[-1].timings:
            rows.append(Row(members[-1], ""))
    names = differing(records)
    return natives_first([row._replace(setting=setting_text(row.record, names)) for row in rows])


def natives_first(rows: list[Row]) -> list[Row]:
    """Rows in their order, but native's before all others of its batch size and setting."""
    firsts: dict[tuple[int, str], int] = {}
    places = []
    for index, row in enumerate(rows):
        first = firsts.setdefault((row.record.batch_size, row.setting), index)
        is_native = row.record.precision == "native"
        places.append((first, 0, index) if is_native else (index, 1, index))
    return [rows[index] for *_, index in sorted(places)]


def first_name(label: str) -> str:
    """The first of a class's names."""
    return label.split(",")[0]


# ------------------------------------------------------------------------------------------ table

TITLES = (
    ("", "", "", "{unit}/s", "95 %", "{unit}/s", "vs", "p50", "p99", "as", "SNR", "size", "build"),
    ("precision", "engine", "batch", "median", "±", "burst", "native", "ms", "ms", "native")
    + ("dB", "MB", "s"),
)
TREND = ("trend", "(older)")
Cells = list[list[str]]


def table_of(group: Group) -> tuple[Cells, Cells]:
    """Two lines of titles and the cells of a group's table; the best images/s has a star."""
    best = max((row.timing.speed.value for row in group.rows if row.inputs), default=0.0)
    unit = unit_of(group.rows)
    titles = [[title.format(unit=unit) for title in line] for line in TITLES]
    cells = [cells_of(row, best) for row in group.rows]
    if any(row.older for row in group.rows):
        titles = [[*line, title] for line, title in zip(titles, TREND)]
        cells = [[*line, trend_text(row)] for line, row in zip(cells, group.rows)]
    return titles, cells


def cells_of(row: Row, best: float) -> list[str]:
    """A row's cells; what is said once for a case stands in its first row."""
    record = row.record
    timing = timing_cells(row, best) if row.inputs else [record.status, *[""] * 5]
    if not row.is_first:
        return ["", " from host", "", *timing, *[""] * 4]
    head = [record.precision_name, record.engine + row.setting + from_host(row.inputs)]
    agreement = agreement_cells(record.output)
    return [*head, str(record.batch_size), *timing, *agreement, *artifact_cells(record.artifact)]


def timing_cells(row: Row, best: float) -> list[str]:
    """Images/s, times native and milliseconds."""
    timing, speed, numbers = row.timing, row.timing.speed, row.timing.statistics
    return [
        f"{speed.value:,.1f}{'*' if speed.value == best else ' '}",
        f"{max(speed.reach):,.1f}",
        f"{timing.throughput:,.1f}",
        times_text(row),
        f"{1e3 * numbers['latency_median']:.2f}",
        f"{1e3 * numbers['latency_99th']:.2f}{'?' if timing.is_p99_open else ''}",
    ]


def times_text(row: Row) -> str:
    """`2.36x ±0.04`, by the longer side of the interval; native itself has none."""
    if row.native is None:
        return ""
    half = max(row.times_native.reach)
    return f"{row.times_native.value:.2f}x" + (f" ±{half:.2f}" if half else "")


def agreement_cells(output: OutputAgreement) -> list[str]:
    """On how many images, or decisions, the same as native; signal to noise in dB."""
    if not output.kind:
        return ["" if output.top1 is None else f"{output.top1:.1%}", ""]
    noise = "equal" if output.snr_db is None else f"{output.snr_db:.0f}"
    return [output.counts.replace(" of ", "/"), noise]


def artifact_cells(artifact: Artifact | None) -> list[str]:
    """Megabytes, and seconds to build where there was something to build."""
    if artifact is None:
        return ["", ""]
    seconds = f"{artifact.build_seconds:.1f}" if artifact.build_seconds else ""
    return [f"{artifact.bytes / 1e6:.1f}", seconds]


def trend_text(row: Row) -> str:
    """`+2.1% (4)`: how much faster than the median of four older records."""
    if not row.older:
        return ""
    ratio = statistics.median(ratio_of(row.timing, timing).value for timing in row.older)
    return f"{ratio - 1:+.1%} ({len(row.older)})"


def grid(titles: Cells, rows: Cells, left: int, gap: int = 2, name: str = "") -> Text:
    """Columns under bold titles: the first `left` flush left, the others flush right.

    These are lines, which print_table cuts: rich's own tables take half a millisecond a row.
    """
    from rich.cells import cell_len
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(*titles, *rows)]
    lines = []
    for cells in (*titles, *rows):
        spaces = [" " * (width - cell_len(cell)) for width, cell in zip(widths, cells)]
        parts = [cell + space for cell, space in zip(cells[:left], spaces)]
        parts += [space + cell for cell, space in zip(cells[left:], spaces[left:])]
        lines.append((" " * gap).join(parts).rstrip())
    head, body = lines[: len(titles)], lines[len(titles) :]
    above = [name, *head] if name else head
    return Text.assemble(("\n".join(above), "bold"), "\n".join(["", *body]))


def predictions_table(records: list[Record]) -> Text:
    """The first image's five best classes with their probabilities, by precision and engine."""
    shown = {
        (record.precision_name, record.engine): record.predictions[:5]
        for record in records
        if record.predictions
    }
    engines = collections.Counter(name for name, _ in shown)
    heads = [name if engines[name] == 1 else f"{name} {engine}" for name, engine in shown]
    ranks = zip(*shown.values(), strict=True)
    rows = [[f"{share:.3f} {first_name(label)}" for label, share in rank] for rank in ranks]
    return grid([heads], rows, len(heads))


# -------------------------------------------------------------------------------------- sentences

P99_STEPS = 299  # from which p99 has an upper bound: tensorrt.py's
NAMED = 5  # images that are named where their first class changed


def about_cases(say: Callable[[Record], list[str]]) -> Callable[[list[Record]], list[str]]:
    """Makes sentences on one record sentences on many: each once, behind the names of its cases."""

    @functools.wraps(say)
    def lines(records: list[Record]) -> list[str]:
        """Sentences in the order in which they first come up."""
        settings = differing(records)
        every = devices_by_case(records, settings)
        said = collections.defaultdict(list)
        for record in records:
            for sentence in say(record):
                said[sentence].append(record)
        found = []
        for sentence, some in said.items():
            cases = devices_by_case(some, settings).items()
            names = [case + devices_text(devices, every[case]) for case, devices in cases]
            found.append(f"{some_cases(names, len(some))}: {sentence}")
        return found

    return lines


def devices_by_case(records: list[Record], settings: list[str]) -> dict[str, set[str]]:
    """The devices of each case, by its name with those settings."""
    devices = collections.defaultdict(set)
    for record in records:
        devices[record.case + setting_text(record, settings)].add(record.device)
    return devices


def devices_text(devices: set[str], every: set[str]) -> str:
    """` on GPU 1`, ` on 2 of 3 devices`: what follows a name where its case ran on others too."""
    if devices == every:
        return ""
    if len(devices) > 1:
        return f" on {len(devices)} of {len(every)} devices"
    return f" on {next(iter(devices))}"


def some_cases(names: list[str], count: int) -> str:
    """Up to three names, or how many records they are of."""
    between = "; " if any("," in name for name in names) else ", "
    return between.join(names) if len(names) < 4 else f"{count} cases"


@about_cases
def together_lines(record: Record) -> list[str]:
    """What several devices did at the same time: the sum of their bursts."""
    together = record.together
    if together is None:
        return []
    devices = f"{len(together.devices)} devices together"
    node = f" of {record.node}" if record.node else ""
    speeds = together.throughput.items()
    unit = f"{record.unit}/s burst"
    return [f"{speed:,.1f} {unit}{from_host(i)} on {devices}{node}" for i, speed in speeds]


def slowest_lines(records: list[Record]) -> list[str]:
    """Of each case the slowest device of its kind, where that is beyond the noise."""
    kinds: dict[tuple[str, ...], list[tuple[Estimate, str]]] = collections.defaultdict(list)
    settings = differing(records)
    for record in records:
        name = record.case + setting_text(record, settings)
        for inputs, timing in record.timings.items():
            kind = (name, record.device_kind, record.unit, inputs)
            kinds[kind].append((timing.speed, record.device))
    lines = [
        slowest_line(case, device, unit, devices)
        for (case, device, unit, *_), devices in kinds.items()
    ]
    return [line for line in lines if line]


def slowest_line(case: str, kind: str, unit: str, devices: list[tuple[Estimate, str]]) -> str:
    """Names a device that is 2.5 % under the others' median; empty if none is."""
    (speed, device), *others = sorted(devices)
    if not others:
        return ""
    usual = statistics.median(other.value for other, _ in others)
    low = statistics.median(other.low for other, _ in others)
    if speed.value >= (1 - SAME) * usual or speed.high >= low:
        return ""
    share = f"{speed.value / usual:.3f} of the others' median, {usual:,.1f} {unit}/s"
    return f"{case}: {device} is the slowest of {len(devices)} {kind}: {share}"


@about_cases
def accuracy_lines(record: Record) -> list[str]:
    """Top-1 accuracy, and top-5 of over five classes, where those of the samples are known."""
    found = record.accuracy
    if found is None:
        return []
    count = f" of {counted(found.images, record.unit)}" if found.images else ""
    top5 = f", top-5 {found.top5:.1%}" if record.classes > 5 else ""
    return [f"accuracy top-1 {found.top1:.1%}{top5}{count}"]


@about_cases
def agreement_lines(record: Record) -> list[str]:
    """Which images changed their first class, and how many are undecided."""
    found, lines = record.output, []
    if changed := found.changed:
        head = f"the first class changed on {len(changed)} of {found.decided} {record.unit}"
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        lines.append(f"{head}: {', '.join(map(changed_text, changed[:NAMED]))}{more}")
    if found.undecided:
        what, why = record.decided, "native's own first two classes are too close to call"
        if found.kind == "scores":
            why = "native's own scores are too close to the limit to call"
        whole = (found.decided or 0) + found.undecided
        lines.append(f"{found.undecided} undecided of {whole} {what}: {why}")
    if found.kind == "values":
        count = (record.agreement or Agreement()).images
        lines.append(f"no classes to compare: the SNR is of {counted(count, record.unit)}")
    return lines


def counted(count: int | None, unit: str) -> str:
    """`1 image`, `96 samples`."""
    return f"{count or 0:,} {unit.removesuffix('s') if count == 1 else unit}"


@about_cases
def outputs_lines(record: Record) -> list[str]:
    """How near each of several outputs is to native's, by name."""
    outputs = (record.agreement or Agreement()).outputs
    if len(outputs) < 2:
        return []
    titles = {tensor.name: tensor.key or tensor.name for tensor in record.graph.outputs}
    parts = []
    for name, found in outputs.items():
        parts.append(f"{titles.get(name, name)} {near_native(found, record.unit)}")
    return [f"outputs as in native: {'; '.join(parts)}"]


def near_native(found: NamedAgreement, unit: str) -> str:
    """`64 dB, 7 of 8 samples, largest difference 0.0009`; of ids the counts alone."""
    same = f"{found.counts} {DECIDED.get(found.kind, unit)}" if found.counts else ""
    if found.kind == "ids":
        return same
    noise = "equal" if found.snr_db is None else f"{found.snr_db:.0f} dB"
    return ", ".join(filter(None, (noise, same, f"largest difference {found.difference:.2g}")))


def changed_text(change: ChangedImage) -> str:
    """`cat.jpg (tabby, now lynx)`."""
    return f"{change.image} ({first_name(change.native)}, now {first_name(change.now)})"


def p99_lines(records: list[Record]) -> list[str]:
    """Why some p99 have a question mark."""
    timings = [timing for record in records for timing in record.timings.values()]
    few = [len(timing.seconds) for timing in timings if timing.is_p99_open]
    if not few:
        return []
    remedy = f"that takes {P99_STEPS} (--num_loops={P99_STEPS}, or auto)"
    return [f"p99?: {min(few)} steps give it no upper bound: {remedy}"]


@about_cases
def note_lines(record: Record) -> list[str]:
    """Notes and errors."""
    return [*record.notes, record.error] if record.error else record.notes


MOST_NOISY = 3  # rows that have a line each in the terminal
NOTHING_SEEN = "nothing else was seen"  # a cause that is none, in tensorrt.py's words

# A line on a noisy row, by tensorrt.py's words.
NOISY = re.compile(
    r"(?P<case>.+): (?P<inputs>\w+) input: the speed moved between (?P<low>\d[\d,]{0,20}\.\d) and "
    r"(?P<high>\d[\d,]{0,20}\.\d) (?P<unit>\w+/s) \((?P<cause>.+)\) "
    r"in (?P<steps>\d[\d,]{0,20}) steps: .+"
)


class Noise(NamedTuple):
    """A noisy row: its name, between which speeds it moved, what was seen, its number of steps."""

    name: str
    speeds: str
    share: float  # the higher speed over the lower
    cause: str
    steps: int

    @property
    def kind(self) -> str:
        """Its cause without the numbers."""
        return re.sub(r"[\d.,]+", "", self.cause)


def noise_of(found: re.Match[str]) -> Noise:
    """What a line on a noisy row says."""
    low, high, steps = (found[name].replace(",", "") for name in ("low", "high", "steps"))
    name = found["case"] + from_host(found["inputs"])
    speeds = f"{found['low']} to {found['high']} {found['unit']}"
    return Noise(name, speeds, float(high) / max(float(low), 0.1), found["cause"], int(steps))


def brief_note_lines(records: list[Record]) -> list[str]:
    """Notes and errors; of many noisy rows one line."""
    lines = note_lines(records)
    noisy = {line: noise_of(found) for line in lines if (found := NOISY.fullmatch(line))}
    if len(noisy) <= MOST_NOISY:
        return lines
    is_auto = all(record.flags.get("num_loops") is None for record in records)
    rest = [line for line in lines if line not in noisy]
    return [*rest, noise_line([*noisy.values()], is_auto)]


def noise_line(noisy: list[Noise], is_auto: bool) -> str:
    """How many rows are noisy, the one that moved most, the commonest cause, and a remedy."""
    noisy = sorted(noisy, key=lambda row: -row.share)
    most = noisy[0]
    ((kind, count),) = collections.Counter(row.kind for row in noisy).most_common(1)
    cause = next(row.cause for row in noisy if row.kind == kind)
    often = f"; often {cause}"
    if count == 1 or cause == NOTHING_SEEN:
        often = ""
    longer = "pass --num_loops=auto"
    if is_auto:
        longer = f"measure that one alone with --num_loops={4 * most.steps}, four times its steps"
    return (
        f"{len(noisy)} rows are noisy (each in results.jsonl): {most.name} moved most, "
        f"{most.speeds}{often}: quiet the machine, or {longer}"
    )


@about_cases
def calibration_lines(record: Record) -> list[str]:
    """Where an INT8 case's ranges came from."""
    if not record.calibration:
        return []
    facts = collections.defaultdict(str, record.calibration)
    count = f"{facts['images']} {record.unit}"
    return [f"{facts['method']}, {count} from {facts['source']}, SHA-256 {facts['sha256']}"]


def environment_lines(records: list[Record]) -> list[str]:
    """Devices, versions, settings and graphs, each combination once."""
    return list(dict.fromkeys(line for record in records for line in environment_of(record)))


def environment_of(record: Record) -> list[str]:
    """A line each on device, engine and graph."""
    device = record.device
    if record.gpu:
        gpu = collections.defaultdict(str, record.gpu)
        device += f", driver {gpu['driver']}, compute capability {gpu['compute_capability']}"
    graph = {name: fact for name, fact in msgspec.to_builtins(record.graph).items() if fact}
    return [
        f"{device}; {facts_text(record.versions)}",
        f"{record.engine} {record.engine_version}; {facts_text(record.flags)}",
        f"graph {facts_text(graph)}",
    ]


def facts_text(facts: dict[str, Any]) -> str:
    """`name value, name value`; a tensor's value is its name, shape and type."""
    return ", ".join(f"{name} {fact_text(fact)}" for name, fact in facts.items())


def fact_text(fact: Any) -> str:
    """A tensor's parts without the empty ones, several tensors with semicolons."""
    if isinstance(fact, list) and dict in map(type, fact):
        return "; ".join(map(fact_text, fact))
    if isinstance(fact, dict):
        return " ".join(str(part) for part in fact.values() if part)
    return str(fact)


SENTENCES = {
    "Together": together_lines,
    "Slowest": slowest_lines,
    "Accuracy": accuracy_lines,
    "Agreement": agreement_lines,
    "Outputs": outputs_lines,
    "99th percentile": p99_lines,
    "Notes": note_lines,
}
BRIEF = SENTENCES | {"Notes": brief_note_lines}  # in the terminal
ORIGINS = {"Calibration": calibration_lines, "Environment": environment_lines}  # in the page only


# ----------------------------------------------------------------------------------------- answer

SAME_SIZE = 0.02  # artifacts whose sizes differ by less are not told apart


def answer_lines(group: Group) -> list[str]:
    """What TensorRT buys: the fastest case that is still the same model, for each workload."""
    rated = collections.defaultdict(list)
    shape = only_shape([row.record for row in group.rows])
    for row in group.rows:
        if row.is_first and row.native and row.record.precision != "native":
            rated[workload(row.record, shape)].append(row)
    answers = [answer(f"batch {workload_text(one, rated)}", rated[one]) for one in sorted(rated)]
    return answers + unrated_lines(group)


def workload_text(one: Workload, others: Iterable[Workload]) -> str:
    """`8`, or `8, input_shape=256` where others were fed other shapes."""
    size, shape = one
    return f"{size}, input_shape={shape}" if len({fed for _, fed in others}) > 1 else str(size)


def unrated_lines(group: Group) -> list[str]:
    """Why there is no times native where native was not tried, and the remedy."""
    shape = only_shape([row.record for row in group.rows])
    natives = [row.record for row in group.rows if row.record.precision == "native"]
    tried = {workload(record, shape) for record in natives}
    timed = {workload(row.record, shape) for row in group.rows if row.inputs}
    unrated = sorted(timed - tried)
    if not unrated:
        return []
    places = ", ".join(workload_text(one, timed | tried) for one in unrated)
    where = f" at batch {places}" if timed & tried else ""
    why = "; --native measures it too"
    if group.elsewhere.issuperset(unrated):
        why = ", as --spread ran native on another device; without it every device runs native"
    return [f"Times native{where}: not measured{why}."]


def answer(size: str, rows: list[Row]) -> str:
    """One sentence on the cases of one batch size that stand beside native."""
    rows = sorted(rows, key=lambda row: -row.timing.speed.value)
    faster = [row for row in rows if row.times_native.low > 1]
    if not faster:
        noise = " beyond the noise" if rows[0].times_native.value > 1 else ""
        return f"Nothing is faster than native at {size}{noise}: {rating_text(rows[0])}."
    fastest = faster[0]
    if reason := why_nothing_is_told(fastest.record):
        unknown = f"{reason} cannot tell whether it is still the same model"
        return f"Fastest at {size}: {rating_text(fastest)}{size_text(fastest)}; {unknown}."
    for row in faster:
        if row.record.agreement and row.record.agreement.is_same_model:
            found = f"{rating_text(row)}, {agreement_text(row.record)}{size_text(row)}"
            return f"Fastest that is still the same model at {size}: {found}."
    found = f"{rating_text(fastest)}, has {agreement_text(fastest.record, with_noise=True)}"
    return f"Nothing that is faster at {size} is still the same model: {found}."


def why_nothing_is_told(record: Record) -> str:
    """What says nothing whatever a precision breaks, or "" where agreement says something."""
    if record.flags.get("weights") == "random":
        return "random weights"
    if not record.output.kind and record.output.top1 is None:
        return "outputs that were not compared"
    if record.agreement is None or not record.agreement.is_same_model:
        return ""
    found, images = record.output, record.agreement.images
    if found.kind == "probabilities" and found.decided == 0:
        return f"probabilities that are all alike (none of {images} images is decided)"
    return ""


def rating_text(row: Row) -> str:
    """`FP16 in xla, 2.36x native (2.28 to 2.44)`."""
    value, low, high = row.times_native
    engine = f"{row.record.precision_name} in {row.record.engine}{row.setting}"
    return f"{engine}, {value:.2f}x native ({low:.2f} to {high:.2f})"


def size_text(row: Row) -> str:
    """The artifact's size beside native's, where both are known and differ."""
    ours, theirs = row.record.artifact, row.native and row.native.artifact
    if not ours or not theirs or abs(ours.bytes - theirs.bytes) < SAME_SIZE * theirs.bytes:
        return ""
    return f", {megabytes(ours.bytes)} MB instead of {megabytes(theirs.bytes)}"


def agreement_text(record: Record, with_noise: bool = False) -> str:
    """How far a case's outputs are native's, with the number of images that says so."""
    found, count = record.output, (record.agreement or Agreement()).images
    if not found.kind:
        if found.top1 is None:
            return "no outputs to compare"
        return f"top-1 as native on {found.top1:.1%} of the {record.unit}"
    noise = "no difference" if found.snr_db is None else f"{found.snr_db:.0f} dB signal to noise"
    images = f"random {record.unit}" if record.images == "random" else record.unit
    if not found.decided:
        undecided = ", of which none is decided" if found.counts else ""
        return f"{noise} on {count} {images}{undecided}"
    text = f"top-1 as native on {found.counts} {images}"
    if found.kind in DECIDED:
        text = f"{found.counts} {record.decided} as native on {count} {images}"
    return f"{text}, {noise}" if with_noise else text


def megabytes(count: float) -> str:
    """Bytes in MB, without the unit: whole ones from 10 on, else two digits."""
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


# --------------------------------------------------------------------------------------- printing


def print_table(table: Text) -> None:
    """Prints lines on stdout: cut where a terminal ends, whole and plain where there is none."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    console.print(table, no_wrap=True, overflow="ellipsis")


def print_records(records: list[dict[str, Any]]) -> None:
    """Prints a run of tensorrt.py's: the first image's classes, then what print_models does.

    Args:
      records: as they stand in results.jsonl, a case's newest last.
    """
    read = msgspec.convert(records, list[Record])
    if any(record.predictions for record in read):
        print()
        print_table(predictions_table(read))
    print_models(arrange(read))


def print_models(models: list[Model]) -> None:
    """Prints each model's tables with their answers, then its sentences."""
    for model in models:
        for group in model.groups:
            titles, cells = table_of(group)
            print()
            print_table(grid(titles, cells, left=2, gap=1, name=group.title))
            print_lines(answer_lines(group))
        for lines_of in BRIEF.values():
            print_lines(lines_of(model.records))


def print_lines(lines: list[str]) -> None:
    """Prints a paragraph, if there is one; of many lines the last."""
    shown = lines[-MOST_ROWS:]
    if len(shown) < len(lines):
        shown.append(f"and {len(lines) - MOST_ROWS:,} more: --output=report.html has all")
    if shown:
        print("", *shown, sep="\n")


# ---------------------------------------------------------------------------------------- picture


class Look(NamedTuple):
    """How a precision is drawn: told apart without colour."""

    face: str  # of a bar
    hatch: str  # of a bar
    marker: str
    stroke: str  # of a curve


LOOKS = {
    "native": Look("1.0", "", "o", "-"),
    "fp32": Look("0.85", "", "s", "--"),
    "fp16": Look("0.65", "///", "^", "-."),
    "int8": Look("0.35", "", "D", ":"),
}
FILLS = {"native": "black", "tensorrt": "0.6", "tftrt": "0.3", "xla": "0.85"}  # of the markers
CURVES = 3  # batch sizes from which a group is drawn as curves
CURVES_HEIGHT = 12  # rows of bars that curves are as high as
FEW_STEPS = 300  # up to which each step is a dot
BANDS = 50  # consecutive parts that more steps are summed up in


class Strip(NamedTuple):
    """A part of the picture: the curves of a group, or the bars of a graph's other groups."""

    title: str
    rows: list[Row]
    is_curves: bool

    @property
    def height(self) -> int:
        """In rows of bars, with a line for each device's name."""
        return CURVES_HEIGHT if self.is_curves else max(6, len(self.rows) + len(self.devices))

    @property
    def inches(self) -> float:
        """Its height in the picture, with titles and the labels of its axes."""
        return 1.9 + 0.34 * self.height

    @property
    def devices(self) -> set[str]:
        """Their names, each of which takes a line between the bars."""
        return {row.record.device for row in self.rows}


def strips_of(model: Model) -> list[Strip]:
    """A graph's strips."""
    strips, bars = [], []
    for group in model.groups:
        rows = [row for row in group.rows if row.inputs]
        if len({row.record.batch_size for row in rows}) >= CURVES:
            strips.append(Strip(group.title, rows, True))
        elif rows:
            bars.append(Strip(group.title, rows, False))
    if bars:
        title = bars[0].title if len(bars) == 1 else model.name
        strips.append(Strip(title, [row for strip in bars for row in strip.rows], False))
    return strips


def newest_strips(strips: list[Strip]) -> list[Strip]:
    """The strips, and bars of them, that a picture has room for."""
    room, kept = MOST_ROWS, []
    for strip in reversed(strips):
        if room <= 0:
            break
        if not strip.is_curves:
            strip = strip._replace(rows=strip.rows[-room:])
        kept.append(strip)
        room -= strip.height
    return kept[::-1]


def draw(models: list[Model]) -> tuple[Figure, str]:
    """The picture of the newest rows, and how many they are where that is not all."""
    from matplotlib.figure import Figure

    every = [strip for model in models for strip in strips_of(model)]
    strips = newest_strips(every)
    if not strips:
        raise UserError("no case of these files was timed: nothing to draw")
    heights = [strip.inches for strip in strips]
    figure = Figure(figsize=(16, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, strip in zip(parts, strips):
        part.suptitle(strip.title, fontweight="bold")
        if strip.is_curves:
            draw_curves(part, strip.rows)
        else:
            draw_bars(part, strip)
    drawn, count = (sum(len(strip.rows) for strip in some) for some in (strips, every))
    left_out = f" with the newest {drawn:,} of {count:,} rows as bars or curves"
    return figure, left_out if drawn < count else ""


def draw_bars(part: SubFigure, strip: Strip) -> None:
    """Speed with intervals, latency of every step, and agreement against speed."""
    speed, latency, quality = part.subplots(1, 3, width_ratios=(5, 4, 4))
    places, headings = places_of(strip)
    draw_speeds(speed, strip.rows, places)
    for place, device in headings.items():
        speed.text(0, place, f" {device}", va="center", fontweight="bold", fontsize=9)
    draw_latencies(latency, strip.rows, places)
    draw_quality(quality, strip.rows)
    for axes in (speed, latency):
        axes.set(yticks=places, yticklabels=[], ylim=(max(2.3, places[-1] + 0.7), -0.7))
    speed.set_yticklabels([row.name for row in strip.rows])
    if strip.height > 12:
        quality.set(box_aspect=0.8, anchor="N")


def places_of(strip: Strip) -> tuple[list[float], dict[float, str]]:
    """Where bars lie, from 0 at the top down, and where the names of several devices stand."""
    places: list[float] = []
    headings: dict[float, str] = {}
    for row in strip.rows:
        device = row.record.device
        if len(strip.devices) > 1 and device not in list(headings.values())[-1:]:
            headings[len(places) + len(headings) + 0.05] = device
        places.append(len(places) + len(headings))
    return places, headings


def draw_speeds(axes: Axes, rows: list[Row], places: list[float]) -> None:
    """Bars of images/s, with older records' from the bar's top down to the newest."""
    import numpy as np

    speeds = [row.timing.speed for row in rows]
    looks = [LOOKS[row.record.precision] for row in rows]
    label = f"{unit_of(rows)}/s, median with 95 % interval (times native)"
    bars = axes.barh(
        places,
        [speed.value for speed in speeds],
        height=0.7,
        color=[look.face for look in looks],
        hatch=[look.hatch for look in looks],
        edgecolor="black",
        xerr=np.transpose([speed.reach for speed in speeds]),
        capsize=3,
    )
    texts = [bar_text(row) for row in rows]
    axes.bar_label(bars, texts, padding=4, fontsize=9)
    for row, place in zip(rows, places):
        if row.older:
            trend = [timing.speed.value for timing in (*row.older, row.timing)]
            heights = place + np.linspace(-0.3, 0.3, len(trend))
            axes.plot(trend, heights, "ko-", linewidth=0.7, markersize=3.5, markerfacecolor="white")
    if any(row.older for row in rows):
        label += ", dots: older"
    axes.set(title="Speed", xlabel=label)
    ends = [speed.high / (1 - text_share(text)) for speed, text in zip(speeds, texts)]
    axes.set_xlim(0, max(ends))
    axes.locator_params(axis="x", nbins=4)  # millions are wide
    axes.xaxis.set_major_formatter("{x:,.10g}")


def bar_text(row: Row) -> str:
    """`34.6  (2.48x ±0.19)`, or the speed alone where there is no native."""
    times = f"  ({times_text(row)})" if row.native else ""
    return f"{row.timing.speed.value:,.1f}{times}"


def text_share(text: str) -> float:
    """The share of the panel of speeds that a bar's text takes, with the space before it."""
    return min(0.03 + 0.016 * len(text), 0.8)


def draw_latencies(axes: Axes, rows: list[Row], places: list[float]) -> None:
    """Every waited step, from a row's top to its bottom, and the median as a stroke."""
    label = "ms a step; first on top, stroke: median"
    for row, place in zip(rows, places):
        draw_steps(axes, row.timing.seconds, place)
    if any(len(row.timing.seconds) > FEW_STEPS for row in rows):
        label += ", band: range"
    low, high = axes.dataLim.intervalx
    if high > 10 * low:
        set_logarithmic(axes, "x")
    else:
        axes.set_xlim(0, 1.05 * high)
    axes.set(title="Latency of every step", xlabel=label)
    axes.grid(axis="x", alpha=0.4)


def draw_steps(axes: Axes, seconds: Sequence[float], place: float) -> None:
    """A row's steps: dots, or many as a band from the lowest to the highest of consecutive ones."""
    import numpy as np

    milliseconds = 1e3 * np.asarray(seconds)
    few = len(milliseconds) <= FEW_STEPS
    heights = place + np.linspace(-0.33, 0.33, len(milliseconds) if few else BANDS)
    if few:
        axes.plot(milliseconds, heights, ".", color="0.35", markersize=3)
    else:
        parts = np.array_split(milliseconds, BANDS)
        low, median, high = np.transpose([np.quantile(part, (0, 0.5, 1)) for part in parts])
        axes.fill_betweenx(heights, low, high, color="0.75", linewidth=0)
        axes.plot(median, heights, color="0.35", linewidth=1)
    axes.vlines(np.median(milliseconds), place - 0.4, place + 0.4, color="black", linewidth=2)


def set_logarithmic(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic axis with 1, 2 and 5 written out; 1 and 3, or powers of ten on a long one."""
    from matplotlib import ticker

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_data_interval()
    tens = (1, 2, 5) if high < 30 * low else (1, 3) if high < 1e3 * low else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=tens))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(ticker.NullFormatter())


class Point(NamedTuple):
    """A case in the panel of agreement."""

    row: Row
    height: float  # per cent, or dB
    images: str  # or decisions that say so: `7 of 8`


def draw_quality(axes: Axes, rows: list[Row]) -> None:
    """Agreement with native against speed, with the images or decisions that it comes from."""
    points, label = quality_points([row for row in rows if row.is_first])
    axes.set(title="Is it still the same model?", xlabel=f"{unit_of(rows)}/s", ylabel=label)
    if not points:
        nothing = "no outputs to compare with native"
        axes.text(0.5, 0.5, nothing, ha="center", transform=axes.transAxes)
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
        return
    axes.grid(alpha=0.4)
    counts: dict[tuple[str, str], tuple[float, float]] = {}
    for point in points:
        record, speed = point.row.record, point.row.timing.speed.value
        look = marker_of(record) | {
            "label": record.engine_name + point.row.setting,
            "markersize": 8,
        }
        axes.plot(speed, point.height, linestyle="none", **look)
        counts.setdefault((f"{point.height:.3f}", point.images), (speed, point.height))
    below: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
    for (_, images), place in counts.items():
        axes.annotate(images, place, (0, -14), **below)
    set_quality_limits(axes, 100 if label.endswith("%") else None)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 5, "fontsize": 8}
    axes.legend(handles.values(), handles.keys(), ncols=2, **below)


def set_quality_limits(axes: Axes, whole: float | None) -> None:
    """Limits with room around the points, and no tick over the whole (100 %, or the highest)."""
    lowest, highest = axes.dataLim.intervaly
    top = highest if whole is None else whole
    room = max(3.0, 0.15 * (top - lowest))
    axes.set_ylim(lowest - room, top + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if lowest - room <= tick <= top])
    axes.set_xlim(0, 1.15 * axes.dataLim.xmax)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.10g}")


def quality_points(rows: list[Row]) -> tuple[list[Point], str]:
    """The cases that were compared with native, and by what: classes or decisions, else dB."""
    unit = unit_of(rows)
    shares, noises, label = [], [], f"{unit} with native's first class, %"
    for row in rows:
        agreement, found = row.record.agreement, row.record.output
        if found.share is not None:
            shares.append(Point(row, 100 * found.share, found.counts))
        if agreement and found.snr_db is not None:
            noises.append(Point(row, found.snr_db, f"{agreement.images} {unit}"))
        if found.kind in DECIDED:
            label = f"{row.record.decided} as in native, %"
    points = shares or noises
    label = label if shares else "signal to noise, dB"
    return [point for point in points if math.isfinite(point.height)], label


def marker_of(record: Record) -> dict[str, Any]:
    """A case's marker: its shape by precision, its fill by engine."""
    fill = FILLS.get(record.engine, "white")
    shape = LOOKS[record.precision].marker
    return {"marker": shape, "markerfacecolor": fill, "markeredgecolor": "black"}


def draw_curves(part: SubFigure, rows: list[Row]) -> None:
    """images/s and latency by batch size, one against the other, and agreement."""
    speed, latency, trade, quality = part.subplots(1, 4, width_ratios=(4, 4, 4, 3.4))
    for curve in curves_of(rows):
        draw_curve((speed, latency, trade), curve)
    sizes = sorted({row.record.batch_size for row in rows})
    unit = unit_of(rows)
    speed.set(title="Speed", xlabel="batch size", ylabel=f"{unit}/s, median with 95 % interval")
    latency.set(title="Latency", xlabel="batch size", ylabel="ms a step, median")
    over = f"{unit}/s, at batch {sizes[0]:,} to {sizes[-1]:,}"
    trade.set(title="Trade-off", xlabel=over, ylabel="ms a step, median")
    for axes in (speed, latency, trade):
        set_logarithmic(axes, "y")
        axes.grid(alpha=0.4)
    for axes in (speed, latency):
        axes.set_xscale("log", base=2)
        ticks = size_ticks(sizes)
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
        axes.minorticks_off()
    set_logarithmic(trade, "x")
    compared = [row for row in rows if row.record.agreement]
    compared.sort(key=lambda row: row.timing.speed)
    draw_quality(quality, list({row.label: row for row in compared}.values()))
    if compared:
        quality.set_xlabel(f"{unit}/s, at the fastest batch compared")
    if legend := quality.get_legend():
        legend.remove()
    part.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)


def curves_of(rows: list[Row]) -> list[list[Row]]:
    """The rows of each precision, engine and place of the input, by batch size; native first."""
    order = list(LOOKS)
    curves = collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: row.record.batch_size):
        curves[row.label].append(row)
    return sorted(curves.values(), key=lambda curve: order.index(curve[0].record.precision))


def size_ticks(sizes: list[int]) -> list[int]:
    """The batch sizes that are far enough apart to be written at the axis."""
    apart = math.log(sizes[-1] / sizes[0]) / 9
    ticks = sizes[:1]
    for size in sizes:
        if math.log(size / ticks[-1]) >= apart:
            ticks.append(size)
    return ticks


def draw_curve(panels: tuple[Axes, Axes, Axes], rows: list[Row]) -> None:
    """One case's speed, latency and trade-off; grey where its input came from the host."""
    speed, latency, trade = panels
    shade = "0.6" if rows[0].inputs == "host" else "black"
    stroke = LOOKS[rows[0].record.precision].stroke
    look = marker_of(rows[0].record) | {"markeredgecolor": shade, "markersize": 6}
    look |= {"label": rows[0].label, "color": shade, "linestyle": stroke, "linewidth": 1}
    sizes = [row.record.batch_size for row in rows]
    speeds = [row.timing.speed.value for row in rows]
    milliseconds = [1e3 * row.timing.statistics["latency_median"] for row in rows]
    reach = [list(ends) for ends in zip(*(row.timing.speed.reach for row in rows))]
    speed.errorbar(sizes, speeds, reach, capsize=2, **look)
    latency.plot(sizes, milliseconds, **look)
    trade.plot(speeds, milliseconds, **look)
    for row in rows:
        for timing in row.older:
            size = row.record.batch_size
            speed.plot(size, timing.speed.value, ".", color="0.6", markersize=3)


# ------------------------------------------------------------------------------------------- page

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#111}
table{border-collapse:collapse;margin:1em 0}
th,td{padding:.2em .6em;text-align:right;white-space:pre;border-bottom:1px solid #ccc}
th{vertical-align:bottom}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
input{font:inherit;width:24em}
svg{max-width:100%;height:auto}"""

# Shows the cases and sentences that have all words of the filter; without words the newest.
SCRIPT = """\
const box = document.querySelector("input"), said = document.querySelector("output");
const sections = [...document.querySelectorAll("section")];
const cases = [...document.querySelectorAll("tbody")];
const lists = [...document.querySelectorAll("ul")].map(list => [...list.children]);
const texts = new Map([...cases, ...lists.flat()].map(part => {
  const title = part.closest("section")?.querySelector("h2").textContent ?? "";
  return [part, (title + " " + part.innerText).toLowerCase()];
}));
function filter() {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const parts of [cases, ...lists]) {
    let found = parts.filter(part => words.every(word => texts.get(part).includes(word)));
    if (!words.length) found = found.slice(-box.dataset.most);
    for (const part of parts) part.hidden = true;
    for (const part of found) part.hidden = false;
    if (parts === cases) said.textContent = `${found.length} of ${cases.length} cases`;
  }
  for (const section of sections)
    section.hidden = !section.querySelector("tbody:not([hidden])");
}
box.addEventListener("input", filter);
box.value = decodeURIComponent(location.hash.slice(1));
filter();"""


def page(models: list[Model], figure: Figure) -> str:
    """One self-contained HTML page: each graph's tables, answers and sentences, and the picture."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>tensorrt.py</title>",
        f"<style>{STYLE}</style>",
        "<h1>What does TensorRT buy this model, and is it still the same model?</h1>",
    ]
    is_long = sum(len(model.records) for model in models) > MOST_ROWS
    if is_long:
        box = f"<input type=search data-most={MOST_ROWS} placeholder='words, such as int8 node-7'>"
        parts.append(f"<p><label>Filter: {box}</label> <output></output>")
    for model in models:
        parts += [html_section(group) for group in model.groups]
        for title, lines_of in (SENTENCES | ORIGINS).items():
            items = [f"<li>{html.escape(line)}" for line in lines_of(model.records)]
            parts += [f"<h3>{title}</h3><ul>", *items, "</ul>"] if items else []
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    parts.append("<svg" + svg.getvalue().partition("<svg")[2])
    if is_long:
        parts.append(f"<script>{SCRIPT}</script>")
    return "\n".join(parts) + "</html>\n"


def html_section(group: Group) -> str:
    """A group's table, with a body for each case, and its answers."""
    titles, cells = table_of(group)
    lines = [f"<section><h2>{html.escape(group.title)}</h2>", "<table><thead><tr>"]
    lines += [f"<th>{above}<br>{title}" for above, title in zip(*titles)]
    for row, line in zip(group.rows, cells):
        start = "<tbody><tr><td>" if row.is_first else "<tr><td>"
        lines.append(start + "<td>".join(map(html.escape, line)))
    answers = [f"<p><strong>{html.escape(line)}</strong>" for line in answer_lines(group)]
    return "\n".join([*lines, "</table>", *answers, "</section>"])


# ------------------------------------------------------------------------------------- comparison

FEWEST_ROUNDS = 5  # under which a case knows too little of itself: tensorrt.py's LEAST_ROUNDS


CaseKey = tuple[str, str, str]


def place_key(record: Record) -> CaseKey:
    """What tells a case from others, whatever its settings: network, case and device."""
    return record.network, record.case, record.device


def setting_key(record: Record) -> CaseKey:
    """What tells a case from others, those of other settings too."""
    return record.network, case_key(record), record.device


def open_key(record: Record) -> CaseKey:
    """As setting_key, whatever was fed: records of before may not tell it."""
    settings = settings_of(record)
    del settings["input_shape"]
    return record.network, f"{record.case} {list(settings.values())}", record.device


def newest(records: list[Record], key: Callable[[Record], CaseKey]) -> dict[CaseKey, Record]:
    """Each key's newest record."""
    return {key(record): record for record in records}


def names_of(new: list[Record], old: list[Record]) -> Callable[[Record], str]:
    """Names cases: with network, settings and device where there are several of them."""
    networks = grouped(new + old, lambda record: record.graph.name)
    settings = {network: differing(members) for network, members in networks.items()}
    is_fleet = any(len({record.device for record in side}) > 1 for side in (new, old))

    def name_of(record: Record) -> str:
        """`FP16 xla 8`, or `net.pb FP16 xla 8, vgg on GPU 1`."""
        network = record.graph.name
        name = record.case + setting_text(record, settings[network])
        name += f" on {record.device}" if is_fleet else ""
        return f"{network} {name}".lstrip() if len(networks) > 1 else name

    return name_of


class Compared(NamedTuple):
    """A case of a run beside the run before."""

    case: str
    ratio: str = ""  # of images/s, new to old
    interval: str = ""
    verdict: str = ""
    high: float = math.inf  # the interval's upper end; -inf where the case fails now

    @property
    def is_judged(self) -> bool:
        """Whether it has a ratio, or fails now."""
        return self.high < math.inf


def compare(new: list[Record], old: list[Record]) -> list[Compared]:
    """Compares each case's newest record with the newest before that was timed.

    That is one of the same settings; where there is none, the row says what else differs.

    Args:
      new, old: records in order of time.
    """
    timed = [record for record in old if record.timings]
    now, before = newest(new, setting_key), newest(timed, setting_key)
    # Those that leave the shape open last, which wins.
    alike = newest(sorted(timed, key=lambda record: not record.graph.input_shape), open_key)
    near = newest(timed, place_key)
    anywhere = collections.defaultdict(list)  # keys of a case before, on whatever device
    for key, record in before.items():
        anywhere[record.network, record.case].append(key)
    name_of = names_of([*now.values()], [*before.values()])
    rows, told = [], set()  # told: keys before that a row tells of
    for key, record in now.items():
        then = before.get(key) or alike.get(open_key(record)) or near.get(place_key(record))
        if then:
            rows += compare_case(record, then, name_of(record))
            told.add(setting_key(then))
        else:
            found = anywhere[record.network, record.case]
            rows.append(Compared(name_of(record), verdict=why_not_comparable(record, found)))
            told.update(found)
    left = [record for key, record in before.items() if key not in told]
    return rows + [Compared(name_of(record), verdict="not run now") for record in left]


def why_not_comparable(record: Record, found: list[CaseKey]) -> str:
    """Why a case is not comparable that did not run on its device before."""
    others = ", ".join(sorted({device for _, _, device in found}))
    why = f"other device ({others}, now {record.device})" if others else "no such case before"
    return f"not comparable: {why}"


def compare_case(new: Record, old: Record, name: str) -> list[Compared]:
    """A case beside its older record that was timed, for each place of its input."""
    if found := obstacles(new, old):
        return [Compared(name, verdict=f"not comparable: {'; '.join(found)}")]
    if new.status == "failed":
        return [Compared(name, verdict=f"fails now: {new.error}", high=-math.inf)]
    rows = []
    for inputs in [inputs for inputs in new.timings if inputs in old.timings]:
        now, then = new.timings[inputs], old.timings[inputs]
        ratio, low, high = widened(ratio_of(now, then), 0.0 if new.gpu else RUNS_APART)
        known = verdict(ratio, low, high)
        known += doubt_text(max(1, min(now.rounds, then.rounds)))
        known += disturbance_text(known, now, then) if new.gpu else ""
        interval = f"{low:.3f} to {high:.3f}"
        rows.append(Compared(name + from_host(inputs), f"{ratio:.3f}", interval, known, high))
    return rows or [Compared(name, verdict=f"not comparable: {other_inputs(new, old)}")]


def other_inputs(new: Record, old: Record) -> str:
    """Where the inputs lay of two records that have no place in common."""
    then, now = (", ".join(record.timings) or "not timed" for record in (old, new))
    return f"other inputs ({then}, now {now})"


def obstacles(new: Record, old: Record) -> list[str]:
    """What differs too much to compare two records of a case."""
    then, now = old.comparable_facts, new.comparable_facts
    if not (then["input shape"] and now["input shape"]):  # records of before may not tell it
        del now["input shape"]
    ends = {"graph sha256": 12}
    return [
        f"other {name} ({then[name][: ends.get(name)]}, now {now[name][: ends.get(name)]})"
        for name in now
        if then[name] != now[name]
    ]


def verdict(ratio: float, low: float, high: float) -> str:
    """`same`, `faster` or `slower`, of a ratio of speeds and its interval."""
    if abs(ratio - 1) <= SAME or low <= 1 <= high:
        return "same"
    return "faster" if ratio > 1 else "slower"


def doubt_text(rounds: int) -> str:
    """What a verdict on fewer than FEWEST_ROUNDS rounds is followed by; else ""."""
    if rounds >= FEWEST_ROUNDS:
        return ""
    return f" (as far as {rounds} round{'s' * (rounds > 1)} can tell)"


# Cores: of runs of one program on a GPU those with more were up to 31 % slower, or not at all.
STOLEN = 0.02


def disturbance_text(word: str, now: Timing, then: Timing) -> str:
    """What a difference is followed by where the hypervisor took cores of the slower run alone."""
    when, slow, fast = ("now", now, then) if word.startswith("slower") else ("before", then, now)
    if word.startswith("same") or not slow.stolen_cores > STOLEN >= fast.stolen_cores:
        return ""
    return f" ({when} the hypervisor took {slow.stolen_cores:.2f} cores: measure again)"


# ------------------------------------------------------------------------------------------- main

SUFFIXES = (".png", ".svg", ".pdf", ".html")  # of what can be written


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with status 2 where it is wrong."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("report.py", None, __doc__, formatter_class=as_written)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("files", nargs="*", metavar="RESULTS.jsonl", help="what tensorrt.py wrote, or its folder")
    add("--history", nargs="+", metavar="FOLDER", help="every filled results.jsonl below")
    add("--output", help=".png, .svg, .pdf or .html; default: report.png beside the first file")
    add("--compare", metavar="OLD.jsonl", help="compare with these; draws nothing by itself")
    add("--fail_slower", type=float, metavar="PERCENT", help="exit 3 when a case lost more")
    add("--version", action="version", version=VERSION)
    given = parser.parse_args(argv[1:])
    if given.output and Path(given.output).suffix not in SUFFIXES:
        parser.error(f"--output={given.output}: pass a name that ends in {', '.join(SUFFIXES)}")
    for folder in given.history or ():
        if not Path(folder).is_dir():
            parser.error(f"--history: {folder} is no folder: pass one with a results.jsonl below")
    below = (path for folder in given.history or () for path in Path(folder).rglob("results.jsonl"))
    given.files += sorted(str(path) for path in below if path.stat().st_size)
    if not given.files:
        parser.error("no results.jsonl: pass one, or with --history a folder of some")
    if given.fail_slower is not None and not given.compare:
        parser.error("--fail_slower needs --compare=OLD.jsonl")
    return given


def write(models: list[Model], output: Path) -> None:
    """Writes the picture or the page; raises UserError where that cannot be."""
    figure, left_out = draw(models)
    try:
        if output.suffix == ".html":
            output.write_text(page(models, figure), encoding="utf-8")
        else:
            figure.savefig(output, dpi=120)
    except OSError as error:
        why = f"{output} cannot be written ({error.strerror})"
        raise UserError(f"{why}: pass another --output") from error
    print(f"\n{output} written{left_out}")


def run(options: argparse.Namespace) -> int:
    """Prints, draws and compares what the command line names; the exit status."""
    files = [file_of(path) for path in options.files]
    records = merged(files)
    models = arrange(records)
    print_models(models)
    is_timed = any(record.timings for record in records)
    if not options.compare or (options.output and is_timed):  # else the comparison says what failed
        write(models, Path(options.output or Path(files[0]).with_name("report.png")))
    if not options.compare:
        return 0
    rows = compare(records, merged([file_of(options.compare)]))
    print_comparison(rows)
    return 0 if options.fail_slower is None else exit_status(rows, options.fail_slower)


def print_comparison(rows: list[Compared]) -> None:
    """Prints the table of a comparison, and what its ratios are of."""
    cells = [[row.case, row.ratio, row.interval, row.verdict] for row in rows]
    print_table(grid([["case", "new/old", "interval", "verdict"]], cells, 4))
    print(
        "\nnew/old: of undisturbed speeds, which repeat from run to run; of medians where a record "
        "is one loop"
    )


def exit_status(rows: list[Compared], percent: float) -> int:
    """The exit status for CI; raises UserError where nothing was compared, which is no success."""
    if not any(row.is_judged for row in rows):
        why = f"no case could be compared: {rows[0].case} is {rows[0].verdict}"
        raise UserError(f"{why}; keep a new file to compare with")
    if all(row.high >= 1 - percent / 100 for row in rows):
        return 0
    print(f"\nreport.py: a case lost over {percent:g} % beyond its interval, or fails now")
    return 3


def main(argv: list[str]) -> int:
    """Does what the command line says; returns the exit status."""
    options = parse(argv)
    try:
        status = run(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
