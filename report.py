#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
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
their medians, and the verdict says that a loop knows little of itself.

Exit status: 0; 2 a file cannot be read, or a line of it is no record; 3 with --fail_slower: a case
lost more than that beyond its interval, or fails now. Environment: NO_COLOR (plain table), COLUMNS
(the table's width where stdout is a terminal).
"""

from __future__ import annotations

import argparse
import array
import collections
import functools
import html
import io
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from rich.console import Console
    from rich.table import Table

VERSION = "2.0"
MOST_ROWS = 60  # in a picture, and sentences of one kind in the terminal
SAME = 0.025  # speeds nearer than that are the same: tensorrt.py's limit for a steady case

Record = dict[str, Any]  # a line of results.jsonl: tests/schema.json
Timing = dict[str, Any]  # a record has one for each place of its input


class UserError(Exception):
    """Something the user can fix: one line that says what is wrong and what to do."""


# ---------------------------------------------------------------------------------------- reading

RECORD_VERSION = 2  # the newest that this program reads
SAME_BEFORE = 0.99  # top-1 and cosine from which records of version 1 are of the same model
TOO_LARGE = 1e15  # for a speed, a time or a size


class Maybe(NamedTuple):
    """The shape of a field that may be missing, null or empty."""

    shape: Any


class Each(NamedTuple):
    """The shape of an object whose fields all have one shape, whatever their names."""

    shape: Any


def positive(value: Any) -> float:
    """A number that can be divided by, and drawn on a logarithmic axis."""
    if not 0 < value < TOO_LARGE:
        raise ValueError("not a positive number")
    return value


def precision(value: Any) -> str:
    """One that the picture has a look for."""
    if value not in LOOKS:
        raise ValueError(f"none of {', '.join(LOOKS)}")
    return value


def step_seconds(value: Any) -> array.array[float]:
    """A list of positive seconds, in a quarter of its memory."""
    seconds = array.array("d", value)
    if not seconds or min(seconds) <= 0 or not sum(seconds) < TOO_LARGE:
        raise ValueError("not a list of positive numbers")
    return seconds


def timing_statistics(value: Any) -> Record:
    """A timing's numbers; those over rounds have to be there where there were rounds."""
    return read_fields(STATISTICS | OVER_ROUNDS if "rounds" in value else STATISTICS, value)


def output_agreement(value: Any) -> Record:
    """An output's agreement; the counts have to be there where images could be decided."""
    return read_fields(AGREEMENT | COUNTS if "decided" in value else AGREEMENT, value)


STATISTICS: dict[str, Any] = {
    **dict.fromkeys(("fps_median", "fps_low", "fps_high"), positive),
    **dict.fromkeys(("latency_median", "latency_99th"), positive),
    "latency_99th_high": Maybe(positive),
}
OVER_ROUNDS: dict[str, Any] = {
    "rounds": positive,
    **dict.fromkeys(("fps_typical", "fps_typical_low", "fps_typical_high"), positive),
    **dict.fromkeys(("fps_undisturbed", "fps_undisturbed_low", "fps_undisturbed_high"), positive),
}
TENSORS = [{"name": str, "shape": Maybe(list), "dtype": Maybe(str)}]
GRAPH = {
    "name": Maybe(str),
    "sha256": Maybe(str),
    "inputs": Maybe(TENSORS),
    "outputs": Maybe(TENSORS),
    "layout": Maybe(str),
    "scaling": Maybe(str),
    "half_share": Maybe(float),
}
AGREEMENT = {"kind": str, "snr_db": Maybe(float), "top1": Maybe(float)}
COUNTS = {
    "same": int,
    "decided": int,
    "undecided": int,
    "changed": Maybe([{"image": str, "native": str, "now": str}]),
}
# What is read of a record of version 2: the names of its fields, and their shapes (`read_as`).
RECORD = {
    "record": int,
    "time": str,
    "network": str,
    "status": str,
    "error": Maybe(str),
    "engine": str,
    "engine_version": Maybe(str),
    "precision": precision,
    "batch_size": positive,
    "input_dtype": Maybe(str),
    "timings": Each(
        {"seconds": step_seconds, "throughput": positive, "statistics": timing_statistics}
    ),
    "graph": Maybe(GRAPH),
    "images": Maybe(object),
    "artifact": Maybe({"bytes": positive, "build_seconds": Maybe(float)}),
    "device": str,
    "device_kind": Maybe(str),
    "node": Maybe(str),
    "together": Maybe({"devices": list, "throughput": Each(positive)}),
    "gpu": Maybe({"driver": str, "compute_capability": str}),
    "versions": Maybe(dict),
    "flags": Maybe(dict),
    "notes": [str],
    "agreement": Maybe(
        {"images": Maybe(int), "same_model": bool, "outputs": Each(output_agreement)}
    ),
    "times_native": Maybe(Each({"value": positive, "low": positive, "high": positive})),
    "accuracy": Maybe({"top1": float, "top5": float, "images": Maybe(int)}),
    "calibration": Maybe({"method": str, "images": int, "source": str, "sha256": str}),
}


def read_as(shape: Any, value: Any) -> Any:
    """The parts of a JSON value that a shape names; raises ValueError or TypeError for others.

    Args:
      shape: a dict of shapes by field, `Each`, `Maybe`, a list with the shape of its items, a
        type, or a function that returns the value or raises.
    """
    if isinstance(shape, Maybe):
        return None if value in (None, {}) else read_as(shape.shape, value)
    if isinstance(shape, Each):
        return read_fields(dict.fromkeys(read_as(dict, value), shape.shape), value)
    if isinstance(shape, dict):
        return read_fields(shape, read_as(dict, value))
    if isinstance(shape, list):
        return [read_as(shape[0], item) for item in read_as(list, value)]
    if not isinstance(shape, type):
        return shape(value)
    if not isinstance(value, (float, int) if shape is float else shape):
        raise TypeError(f"{type(value).__name__} instead of {shape.__name__}")
    return value


def read_fields(shapes: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """An object's fields that have a shape; an error begins with the field's name."""
    found, name = {}, ""
    try:
        for name, shape in shapes.items():
            if name in value or not isinstance(shape, Maybe):
                found[sys.intern(name)] = read_as(shape, value[name])
    except KeyError:
        raise ValueError(f"{name}: missing") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: {error}") from None
    return found


def read_record(record: Any) -> Record:
    """What is read of a record, as version 2 has it; raises ValueError and the like."""
    record = dict(record)
    if record["record"] == 1:
        graph, agreement = record.get("graph"), record.get("agreement")
        if graph:
            source = {"name": graph["input"], "shape": graph.get("shape")}
            record["graph"] = {**graph, "inputs": [source], "outputs": [{"name": graph["output"]}]}
        if agreement:
            same = min(agreement["top1"], agreement.get("cosine", 1)) >= SAME_BEFORE
            outputs = {"": {**agreement, "kind": ""}}
            record["agreement"] = {"same_model": same, "outputs": outputs}
    return read_fields(RECORD, record)


def read_line(line: str, place: str) -> Record:
    """The record of a line; a UserError names the place of a line that is none."""
    try:
        record = json.loads(line)
        version = read_fields({"record": int}, record)["record"]
        if version > RECORD_VERSION:
            raise UserError(f"{place}: version {version} is newer than this report.py: update it")
        return read_record(record)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{place}: no record of tensorrt.py ({why}): remove the line") from error


def read_records(path: str) -> list[Record]:
    """The records of a results.jsonl in its order; raises UserError."""
    records = []
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    records.append(read_line(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): pass a results.jsonl") from error
    if not records:
        raise UserError(f"{path} holds no records: run tensorrt.py first")
    return records


def merged(paths: list[str]) -> list[Record]:
    """The records of several files as one, the newest last."""
    records = [record for path in paths for record in read_records(path)]
    return sorted(records, key=lambda record: record["time"])


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


def speed_of(timing: Timing, name: str) -> Estimate:
    """A timing's fps_median, fps_typical or fps_undisturbed, in images/s."""
    numbers = timing["statistics"]
    ends = "fps" if name == "fps_median" else name
    return Estimate(numbers[name], numbers[f"{ends}_low"], numbers[f"{ends}_high"])


def typical_speed(timing: Timing) -> Estimate:
    """The images/s that are shown: typical of the rounds, or the median where there were none."""
    return speed_of(timing, "fps_typical" if rounds_in(timing) else "fps_median")


def rounds_in(timing: Timing) -> int:
    """How many rounds a timing's numbers come from; 0 for the one loop of older versions."""
    return int(timing["statistics"].get("rounds", 0))


def ratio_of_estimates(new: Estimate, old: Estimate) -> Estimate:
    """The ratio of two numbers that were found independently, with its interval from theirs.

    In logarithms the difference of two estimates is as uncertain as the root of the sum of their
    squared distances to the ends that count (MOVER; Zou and Donner, Statistics in Medicine 27,
    2008).
    """
    (value, low, high), (was, was_low, was_high) = new, old
    below = math.hypot(math.log(value / low), math.log(was_high / was))
    above = math.hypot(math.log(high / value), math.log(was / was_low))
    ratio = value / was
    return Estimate(ratio, ratio * math.exp(-below), ratio * math.exp(above))


def ratio_of(new: Timing, old: Timing) -> Estimate:
    """New to old images/s: of the undisturbed speeds, or of medians where one has no rounds."""
    name = "fps_undisturbed" if rounds_in(new) and rounds_in(old) else "fps_median"
    return ratio_of_estimates(speed_of(new, name), speed_of(old, name))


# ------------------------------------------------------------------------------------------- rows

SETTINGS = ("tf32", "workspace_size", "preprocessing")  # flags that make another case


class Row(NamedTuple):
    """A case with one place of its input: what a table, a page and a picture show in a row."""

    record: Record  # the case's newest
    inputs: str  # `device` or `host`, where a step's batch lay; empty if nothing was timed
    times_native: Estimate | None  # None where native was not timed so
    older: list[Timing]  # of the case's records before, the newest last

    @property
    def timing(self) -> Timing:
        return self.record["timings"][self.inputs]

    @property
    def speed(self) -> Estimate:
        return typical_speed(self.timing)

    @property
    def is_first(self) -> bool:
        """Whether it is the first of its case's rows."""
        return self.inputs == next(iter(self.record["timings"]), "")

    @property
    def label(self) -> str:
        """`FP16 xla (host)`: its name without the batch size."""
        return engine_name(self.record) + from_host(self.inputs)

    @property
    def name(self) -> str:
        return case_of(self.record) + from_host(self.inputs)


class Group(NamedTuple):
    """The rows of one graph on one device."""

    title: str
    rows: list[Row]


class Graph(NamedTuple):
    """One graph's groups, a device each."""

    name: str
    groups: list[Group]

    @property
    def records(self) -> list[Record]:
        """What the rows show, each record once."""
        return [row.record for group in self.groups for row in group.rows if row.is_first]


def precision_name(record: Record) -> str:
    return record["precision"] if record["precision"] == "native" else record["precision"].upper()


def engine_name(record: Record) -> str:
    """`FP16 xla`, or `native`."""
    engine = "" if record["engine"] == "native" else f" {record['engine']}"
    return precision_name(record) + engine


def case_of(record: Record) -> str:
    """`FP16 xla 8`, with the batch size."""
    return f"{engine_name(record)} {record['batch_size']}"


def from_host(inputs: str) -> str:
    return " (host)" if inputs == "host" else ""


def part_of(record: Record, name: str) -> Record:
    """A record's part; empty where it has none."""
    return record.get(name) or {}


def graph_facts(record: Record) -> dict[str, str]:
    """What tells one graph from another: its hash, and the names of its tensors."""
    graph = part_of(record, "graph")
    facts = {"graph sha256": str(graph.get("sha256"))}
    for role in ("input", "output"):
        tensors = graph.get(f"{role}s") or ()
        facts[f"graph {role}"] = ", ".join(tensor["name"] for tensor in tensors)
    return facts


def graph_key(record: Record) -> str:
    return " ".join(graph_facts(record).values())


def device_of(record: Record) -> str:
    return record["device"]


def case_key(record: Record) -> str:
    """What tells one case from another of the same graph and device."""
    flags = part_of(record, "flags")
    settings = [record.get("input_dtype"), *(flags.get(name) for name in SETTINGS)]
    return f"{case_of(record)} {settings}"


def grouped(records: list[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    """Records by a key, in their order; the key of the last record is the last."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        members = groups.pop(key(record), [])
        members.append(record)
        groups[key(record)] = members
    return groups


def arrange(records: list[Record]) -> list[Graph]:
    """The rows of all records, by graph and by device.

    Args:
      records: in order of time; what has the newest record comes last in the result too.
    """
    by_graph = grouped(records, graph_key)
    names = {key: graph_name(members[-1]) for key, members in by_graph.items()}
    count = collections.Counter(names.values())
    graphs = []
    for key, members in by_graph.items():
        name = names[key] if count[names[key]] == 1 else f"{names[key]} {key[:8]}"
        by_device = grouped(members, device_of).items()
        groups = [Group(f"{name} on {device}", rows_of(some)) for device, some in by_device]
        graphs.append(Graph(name, groups))
    return graphs


def graph_name(record: Record) -> str:
    return part_of(record, "graph").get("name") or record["network"]


def rows_of(records: list[Record]) -> list[Row]:
    """A group's rows: each case's newest record that was timed, and a newer one that was not."""
    natives = natives_of(records)
    rows = []
    for members in grouped(records, case_key).values():
        timed = [record for record in members if record["timings"]]
        for inputs in timed[-1]["timings"] if timed else ():
            older = [r["timings"][inputs] for r in timed[:-1] if inputs in r["timings"]]
            rows.append(Row(timed[-1], inputs, times_native(timed[-1], natives, inputs), older))
        if not members[-1]["timings"]:
            rows.append(Row(members[-1], "", None, []))
    return rows


Natives = dict[tuple[int, str], Record]


def natives_of(records: list[Record]) -> Natives:
    """Native's newest record by batch size and where the input lay."""
    natives = [record for record in records if record["precision"] == "native"]
    return {(r["batch_size"], inputs): r for r in natives for inputs in r["timings"]}


def times_native(record: Record, natives: Natives, inputs: str) -> Estimate | None:
    """How many times as fast as native a case is; None where native did not run so.

    As tensorrt.py found it from pairs of rounds; of records without it, from both medians.
    """
    native = natives.get((record["batch_size"], inputs))
    if native is None:
        return None
    if record["precision"] == "native":
        return Estimate(1.0, 1.0, 1.0)
    if rated := part_of(record, "times_native").get(inputs):
        return Estimate(rated["value"], rated["low"], rated["high"])
    return ratio_of_estimates(*(typical_speed(r["timings"][inputs]) for r in (record, native)))


def agreement_of(record: Record) -> Record:
    """How far a record's first output is native's, and of how many images; empty if unknown."""
    agreement = part_of(record, "agreement")
    if not agreement.get("outputs"):
        return {}
    return {"images": agreement.get("images"), **next(iter(agreement["outputs"].values()))}


# ------------------------------------------------------------------------------------------ table

TITLES = (
    *("precision", "engine", "batch", "images/s\nmedian", "95 %\n±", "images/s\nburst"),
    *("vs\nnative", "p50\nms", "p99\nms", "as\nnative", "SNR\ndB", "size\nMB", "build\ns"),
)
TREND = "trend\n(older)"


def table_of(group: Group) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of a group's table; the best images/s has a star."""
    best = max((row.speed.value for row in group.rows if row.inputs), default=0.0)
    titles, cells = [*TITLES], [cells_of(row, best) for row in group.rows]
    if any(row.older for row in group.rows):
        titles.append(TREND)
        for row, line in zip(group.rows, cells):
            line.append(trend_text(row))
    return titles, cells


def cells_of(row: Row, best: float) -> list[str]:
    """A row's cells; what is said once for a case stands in its first row."""
    record = row.record
    timing = timing_cells(row, best) if row.inputs else [record["status"], *[""] * 5]
    if not row.is_first:
        return ["", " from host", "", *timing, *[""] * 4]
    head = [precision_name(record), record["engine"] + from_host(row.inputs)]
    agreement = agreement_cells(agreement_of(record))
    return [*head, str(record["batch_size"]), *timing, *agreement, *artifact_cells(record)]


def timing_cells(row: Row, best: float) -> list[str]:
    """Images/s, times native and milliseconds."""
    speed, numbers = row.speed, row.timing["statistics"]
    return [
        f"{speed.value:,.1f}{'*' if speed.value == best else ' '}",
        f"{max(speed.reach):,.1f}",
        f"{row.timing['throughput']:,.1f}",
        times_text(row),
        f"{1e3 * numbers['latency_median']:.2f}",
        f"{1e3 * numbers['latency_99th']:.2f}{'?' if is_p99_open(row.timing) else ''}",
    ]


def times_text(row: Row) -> str:
    """`2.36x ±0.04`, by the longer side of the interval; native itself has none."""
    if row.times_native is None:
        return ""
    half = max(row.times_native.reach)
    return f"{row.times_native.value:.2f}x" + (f" ±{half:.2f}" if half else "")


def is_p99_open(timing: Timing) -> bool:
    """Whether steps were too few for an upper bound of p99, which one loop did not look for."""
    return rounds_in(timing) > 0 and "latency_99th_high" not in timing["statistics"]


def agreement_cells(found: Record) -> list[str]:
    """On how many images, or decisions, the same as native; signal to noise in dB."""
    noise = found.get("snr_db", math.nan)
    decibels = "equal" if noise is None else "" if math.isnan(noise) else f"{noise:.0f}"
    if "decided" in found:
        return [f"{found['same']}/{found['decided']}", decibels]
    share = found.get("top1")
    return ["" if share is None else f"{share:.1%}", decibels]


def artifact_cells(record: Record) -> list[str]:
    """Megabytes, and seconds to build where there was something to build."""
    artifact = part_of(record, "artifact")
    seconds = artifact.get("build_seconds")
    size = f"{artifact['bytes'] / 1e6:.1f}" if artifact else ""
    return [size, f"{seconds:.1f}" if seconds else ""]


def trend_text(row: Row) -> str:
    """`+2.1% (4)`: how much faster than the median of four older records."""
    if not row.older:
        return ""
    ratio = statistics.median(ratio_of(row.timing, timing).value for timing in row.older)
    return f"{ratio - 1:+.1%} ({len(row.older)})"


def grid(
    heads: list[str], rows: list[list[str]], left: int, gap: int = 2, title: str = ""
) -> Table:
    """A table without lines; its first `left` columns are flush left, the others flush right.

    A column's cells are lines of one cell, which rich lays out many times as fast as cells.
    """
    from rich.table import Table

    style: dict[str, Any] = {"header_style": "bold", "title_style": "bold", "title_justify": "left"}
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), title=title or None, **style)
    for index, head in enumerate(heads):
        justify: Literal["left", "right"] = "left" if index < left else "right"
        table.add_column(head, justify=justify, no_wrap=True, max_width=40, vertical="bottom")
    table.add_row(*("\n".join(column) for column in zip(*rows)))
    return table


def predictions_table(records: list[Record]) -> Table:
    """The first image's five best classes with their probabilities, by precision and engine."""
    shown = {
        (precision_name(record), record["engine"]): record["predictions"][:5]
        for record in records
        if "predictions" in record
    }
    engines = collections.Counter(name for name, _ in shown)
    heads = [name if engines[name] == 1 else f"{name} {engine}" for name, engine in shown]
    rows = []
    for rank in zip(*shown.values(), strict=True):
        rows.append([f"{share:.3f} {first_name(label)}" for label, share in rank])
    return grid(heads, rows, len(heads))


# -------------------------------------------------------------------------------------- sentences

P99_STEPS = 299  # from which p99 has an upper bound: tensorrt.py's
NAMED = 5  # images that are named where their first class changed


def about_cases(say: Callable[[Record], list[str]]) -> Callable[[list[Record]], list[str]]:
    """Makes sentences on one record sentences on many: each once, behind the names of its cases."""

    @functools.wraps(say)
    def lines(records: list[Record]) -> list[str]:
        cases: dict[str, list[str]] = collections.defaultdict(list)
        for record in records:
            for sentence in say(record):
                cases[sentence].append(case_of(record))
        return [f"{some_cases(names)}: {sentence}" for sentence, names in cases.items()]

    return lines


def some_cases(names: list[str]) -> str:
    """Up to three names, or how many they are."""
    different = list(dict.fromkeys(names))
    return ", ".join(different) if len(different) < 4 else f"{len(names)} cases"


@about_cases
def together_lines(record: Record) -> list[str]:
    """What several devices did at the same time: the sum of their bursts."""
    together = record.get("together") or {"devices": (), "throughput": {}}
    devices = f"{len(together['devices'])} devices together"
    node = f" of {record['node']}" if record.get("node") else ""
    speeds = together["throughput"].items()
    return [f"{speed:,.1f} images/s burst{from_host(i)} on {devices}{node}" for i, speed in speeds]


def slowest_lines(records: list[Record]) -> list[str]:
    """Of each case the slowest device of its kind, where that is beyond the noise."""
    kinds: dict[tuple[str, ...], list[tuple[Estimate, str]]] = collections.defaultdict(list)
    for record in records:
        for inputs, timing in record["timings"].items():
            kind = (case_of(record), str(record.get("device_kind")), case_key(record), inputs)
            kinds[kind].append((typical_speed(timing), record["device"]))
    lines = (slowest_line(case, kind, devices) for (case, kind, *_), devices in kinds.items())
    return [line for line in lines if line]


def slowest_line(case: str, kind: str, devices: list[tuple[Estimate, str]]) -> str:
    """Names a device that is 2.5 % under the others' median; empty if none is."""
    (speed, device), *others = sorted(devices)
    if not others:
        return ""
    usual = statistics.median(other.value for other, _ in others)
    low = statistics.median(other.low for other, _ in others)
    if speed.value >= (1 - SAME) * usual or speed.high >= low:
        return ""
    share = f"{speed.value / usual:.3f} of the others' median, {usual:,.1f} images/s"
    return f"{case}: {device} is the slowest of {len(devices)} {kind}: {share}"


@about_cases
def accuracy_lines(record: Record) -> list[str]:
    """Top-1 and top-5 accuracy where the images' classes are known, and of how many images."""
    found = record.get("accuracy")
    if not found:
        return []
    images = found.get("images")
    count = f" of {images:,} image{'s' * (images != 1)}" if images else ""
    return [f"accuracy top-1 {found['top1']:.1%}, top-5 {found['top5']:.1%}{count}"]


@about_cases
def agreement_lines(record: Record) -> list[str]:
    """Which images changed their first class, and how many are undecided."""
    found, lines = agreement_of(record), []
    if changed := found.get("changed"):
        head = f"the first class changed on {len(changed)} of {found['decided']} images"
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        lines.append(f"{head}: {', '.join(map(changed_text, changed[:NAMED]))}{more}")
    if undecided := found.get("undecided"):
        what, why = "images", "native's own first two classes are as good as equal"
        if found["kind"] == "scores":
            what, why = "decisions", "native's own scores are as good as at the limit"
        lines.append(f"{undecided} undecided of {found['decided'] + undecided} {what}: {why}")
    return lines


def changed_text(change: Record) -> str:
    return f"{change['image']} ({first_name(change['native'])}, now {first_name(change['now'])})"


def first_name(label: str) -> str:
    """The first of a class's names."""
    return label.split(",")[0]


def p99_lines(records: list[Record]) -> list[str]:
    """Why some p99 have a question mark."""
    timings = [timing for record in records for timing in record["timings"].values()]
    few = [len(timing["seconds"]) for timing in timings if is_p99_open(timing)]
    if not few:
        return []
    remedy = f"that takes {P99_STEPS} (--num_loops={P99_STEPS}, or auto)"
    return [f"p99?: {min(few)} steps give it no upper bound: {remedy}"]


@about_cases
def note_lines(record: Record) -> list[str]:
    """Notes and errors."""
    return [*record["notes"], record["error"]] if record.get("error") else record["notes"]


@about_cases
def calibration_lines(record: Record) -> list[str]:
    """Where an INT8 case's ranges came from."""
    found = record.get("calibration")
    text = "{method}, {images} images from {source}, SHA-256 {sha256}"
    return [text.format_map(found)] if found else []


def environment_lines(records: list[Record]) -> list[str]:
    """Devices, versions, settings and graphs, each combination once."""
    return list(dict.fromkeys(line for record in records for line in environment_of(record)))


def environment_of(record: Record) -> list[str]:
    gpu, device = record.get("gpu"), record["device"]
    if gpu:
        device += f", driver {gpu['driver']}, compute capability {gpu['compute_capability']}"
    versions, flags, graph = (
        ", ".join(f"{name} {fact_text(fact)}" for name, fact in part_of(record, part).items())
        for part in ("versions", "flags", "graph")
    )
    engine = f"{record['engine']} {record.get('engine_version') or ''}"
    return [f"{device}; {versions}", f"{engine}; {flags}", f"graph {graph}"]


def fact_text(fact: Any) -> str:
    """A setting's value; tensors as their names, shapes and types."""
    if not (isinstance(fact, list) and fact and isinstance(fact[0], dict)):
        return str(fact)
    return "; ".join(" ".join(map(str, tensor.values())) for tensor in fact)


SENTENCES = {
    "Together": together_lines,
    "Slowest": slowest_lines,
    "Accuracy": accuracy_lines,
    "Agreement": agreement_lines,
    "99th percentile": p99_lines,
    "Notes": note_lines,
}
ORIGINS = {"Calibration": calibration_lines, "Environment": environment_lines}  # in the page only


# ----------------------------------------------------------------------------------------- answer

SAME_SIZE = 0.02  # artifacts whose sizes differ by less are not told apart


class Rating(NamedTuple):
    """A case beside native of the same batch size."""

    times: Estimate  # times native's images/s
    record: Record

    @property
    def text(self) -> str:
        """`FP16 in xla, 2.36x native (2.28 to 2.44)`."""
        engine = f"{precision_name(self.record)} in {self.record['engine']}"
        times = f"{self.times.value:.2f}x native ({self.times.low:.2f} to {self.times.high:.2f})"
        return f"{engine}, {times}"


def answer_lines(group: Group) -> list[str]:
    """What TensorRT buys: the fastest case that is still the same model, for each batch size."""
    ratings: dict[int, list[Rating]] = collections.defaultdict(list)
    natives = {}
    for row in group.rows:
        size = row.record["batch_size"]
        if row.record["precision"] == "native":
            natives[size] = row.record
        elif row.is_first and row.times_native:  # where the input lay first
            ratings[size].append(Rating(row.times_native, row.record))
    return [answer(ratings[size], natives[size]) for size in sorted(ratings)]


def answer(ratings: list[Rating], native: Record) -> str:
    """One sentence on the cases of one batch size."""
    ratings = sorted(ratings, key=lambda rating: -rating.times.value)
    size = f"batch {native['batch_size']}"
    faster = [rating for rating in ratings if rating.times.low > 1]
    if not faster:
        noise = " beyond the noise" if ratings[0].times.value > 1 else ""
        return f"Nothing is faster than native at {size}{noise}: {ratings[0].text}."
    fastest = faster[0]
    if part_of(fastest.record, "flags").get("weights") == "random":
        unknown = "random weights cannot tell whether it is still the same model"
        return f"Fastest at {size}: {fastest.text}{size_text(fastest.record, native)}; {unknown}."
    for rating in faster:
        if part_of(rating.record, "agreement").get("same_model"):
            found = agreement_text(rating.record) + size_text(rating.record, native)
            return f"Fastest that is still the same model at {size}: {rating.text}, {found}."
    nothing = f"Nothing that is faster at {size} is still the same model"
    return f"{nothing}: {fastest.text}, has {agreement_text(fastest.record, with_noise=True)}."


def agreement_text(record: Record, with_noise: bool = False) -> str:
    """How far a case's outputs are native's, with the number of images that says so."""
    found = agreement_of(record)
    if not found:
        return "no outputs to compare"
    if not found["kind"]:  # as in version 1
        return f"top-1 as native on {found['top1']:.1%} of the images"
    decibels = found.get("snr_db")
    noise = "no difference" if decibels is None else f"{decibels:.0f} dB signal to noise"
    images = "random images" if record.get("images") == "random" else "images"
    if not found.get("decided"):
        undecided = ", of which none is decided" if "decided" in found else ""
        return f"{noise} on {found['images']} {images}{undecided}"
    text = f"top-1 as native on {decided_text(found)} {images}"
    if found["kind"] == "scores":
        text = f"{decided_text(found)} decisions as native on {found['images']} {images}"
    return f"{text}, {noise}" if with_noise else text


def decided_text(found: Record) -> str:
    return f"{found['same']} of {found['decided']}" if "decided" in found else ""


def size_text(record: Record, native: Record) -> str:
    """The artifact's size beside native's, where both are known and differ."""
    ours, theirs = (part_of(each, "artifact").get("bytes") for each in (record, native))
    if not ours or not theirs or abs(ours / theirs - 1) < SAME_SIZE:
        return ""
    return f", {megabytes(ours)} MB instead of {megabytes(theirs)}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


# --------------------------------------------------------------------------------------- printing


def console() -> Console:
    """rich's console on stdout; plain and 110 columns wide where that is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110, highlight=False)


def print_records(records: list[Record]) -> None:
    """Prints a run of tensorrt.py's: the first image's classes, and what print_graphs does.

    Args:
      records: as tensorrt.py makes them, of version 2; a case's newest is the last.
    """
    if any("predictions" in record for record in records):
        console().print("", predictions_table(records), sep="\n")
    print_graphs(arrange(records))


def print_graphs(graphs: list[Graph]) -> None:
    """Prints each graph's tables with their answers, then its sentences."""
    out = console()
    for graph in graphs:
        for group in graph.groups:
            print()
            out.print(grid(*table_of(group), 2, 1, group.title))
            print_lines(answer_lines(group))
        for lines_of in SENTENCES.values():
            print_lines(lines_of(graph.records))


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
CURVES_HEIGHT = 9  # rows of bars that curves are as high as
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
        return 1.9 + 0.34 * self.height

    @property
    def devices(self) -> set[str]:
        return {row.record["device"] for row in self.rows}


def strips_of(graph: Graph) -> list[Strip]:
    """A graph's strips."""
    strips, bars = [], []
    for group in graph.groups:
        rows = [row for row in group.rows if row.inputs]
        if len({row.record["batch_size"] for row in rows}) >= CURVES:
            strips.append(Strip(group.title, rows, True))
        elif rows:
            bars.append(Strip(group.title, rows, False))
    if bars:
        title = bars[0].title if len(bars) == 1 else graph.name
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


def draw(graphs: list[Graph]) -> tuple[Figure, str]:
    """The picture of the newest rows, and how many they are where that is not all."""
    from matplotlib.figure import Figure

    every = [strip for graph in graphs for strip in strips_of(graph)]
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
        device = row.record["device"]
        if len(strip.devices) > 1 and device not in list(headings.values())[-1:]:
            headings[len(places) + len(headings) + 0.05] = device
        places.append(len(places) + len(headings))
    return places, headings


def draw_speeds(axes: Axes, rows: list[Row], places: list[float]) -> None:
    """Bars of images/s, with older records' from the bar's top down to the newest."""
    import numpy as np

    speeds = [row.speed for row in rows]
    looks = [LOOKS[row.record["precision"]] for row in rows]
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
    axes.bar_label(bars, [bar_text(row) for row in rows], padding=4, fontsize=9)
    for row, place in zip(rows, places):
        if row.older:
            trend = [typical_speed(timing).value for timing in (*row.older, row.timing)]
            heights = place + np.linspace(-0.3, 0.3, len(trend))
            axes.plot(trend, heights, ".-", color="black", linewidth=0.8, markersize=4)
    axes.set(title="Speed", xlabel="images/s, median with 95 % interval (times native)")
    axes.set_xlim(0, 1.4 * max(speed.high for speed in speeds))
    axes.xaxis.set_major_formatter("{x:,.10g}")


def bar_text(row: Row) -> str:
    times = times_text(row)
    return f"{row.speed.value:,.1f}" + (f"  ({times})" if times else "")


def draw_latencies(axes: Axes, rows: list[Row], places: list[float]) -> None:
    """Every waited step, from a row's top to its bottom, and the median as a stroke."""
    label = "ms a step; first step on top, stroke: median"
    for row, place in zip(rows, places):
        draw_steps(axes, row.timing["seconds"], place)
        if len(row.timing["seconds"]) > FEW_STEPS:
            label = "ms a step; first step on top, stroke: median, band: lowest to highest"
    low, high = axes.dataLim.intervalx
    if high > 10 * low:
        set_logarithmic(axes, "x")
    else:
        axes.set_xlim(0, 1.05 * high)
    axes.set(title="Latency of every step", xlabel=label)
    axes.grid(axis="x", alpha=0.4)


def draw_steps(axes: Axes, seconds: Iterable[float], place: float) -> None:
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

    record: Record
    height: float  # per cent, or dB
    images: str  # or decisions that say so: `7 of 8`

    @property
    def speed(self) -> float:
        """images/s where the input lay first."""
        return typical_speed(next(iter(self.record["timings"].values()))).value


def draw_quality(axes: Axes, rows: list[Row]) -> None:
    """Agreement with native against speed, with the images or decisions that it comes from."""
    points, label = quality_points([row.record for row in rows if row.is_first])
    axes.set(title="Is it still the same model?", xlabel="images/s", ylabel=label)
    if not points:
        nothing = "no outputs to compare with native"
        axes.text(0.5, 0.5, nothing, ha="center", transform=axes.transAxes)
        axes.set(xlabel="", ylabel="", xticks=[], yticks=[])
        return
    axes.grid(alpha=0.4)
    counts: dict[tuple[float, str], Point] = {}
    for point in points:
        name, look = engine_name(point.record), marker_of(point.record)
        axes.plot(point.speed, point.height, label=name, linestyle="none", markersize=8, **look)
        counts.setdefault((round(point.height, 3), point.images), point)
    for point in counts.values():
        place = (point.speed, point.height)
        axes.annotate(
            point.images, place, (0, -14), textcoords="offset points", ha="center", fontsize=8
        )
    set_quality_limits(axes, 100 if label.endswith("%") else None)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 5}
    axes.legend(handles.values(), handles.keys(), ncols=2, fontsize=8, **below)


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


def quality_points(records: list[Record]) -> tuple[list[Point], str]:
    """The cases that were compared with native, and by what: classes or decisions, else dB."""
    shares, noises, label = [], [], "images with native's first class, %"
    for record in records:
        found = agreement_of(record)
        share = share_of(found)
        if share is not None:
            shares.append(Point(record, 100 * share, decided_text(found)))
        if found.get("snr_db") is not None:
            noises.append(Point(record, found["snr_db"], f"{found['images']} images"))
        if found.get("kind") == "scores":
            label = "decisions as in native, %"
    return (shares, label) if shares else (noises, "signal to noise, dB")


def share_of(found: Record) -> float | None:
    """The share of images, or decisions, as in native; None where nothing was decided."""
    if "decided" not in found:
        return found.get("top1")
    return found["same"] / found["decided"] if found["decided"] else None


def marker_of(record: Record) -> dict[str, Any]:
    """A case's marker: its shape by precision, its fill by engine."""
    fill = FILLS.get(record["engine"], "white")
    shape = LOOKS[record["precision"]].marker
    return {"marker": shape, "markerfacecolor": fill, "markeredgecolor": "black"}


def draw_curves(part: SubFigure, rows: list[Row]) -> None:
    """images/s and latency by batch size, one against the other, and agreement."""
    speed, latency, trade, quality = part.subplots(1, 4, width_ratios=(4, 4, 4, 3.4))
    for curve in curves_of(rows):
        draw_curve((speed, latency, trade), curve)
    sizes = sorted({row.record["batch_size"] for row in rows})
    speed.set(title="Speed", xlabel="batch size", ylabel="images/s, median with 95 % interval")
    latency.set(title="Latency", xlabel="batch size", ylabel="ms a step, median")
    over = f"images/s, at batch {sizes[0]:,} to {sizes[-1]:,}"
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
    first = sorted((row for row in rows if row.is_first), key=lambda row: row.speed)
    draw_quality(quality, list({row.label: row for row in first}.values()))  # each at its fastest
    if legend := quality.get_legend():
        legend.remove()
    part.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)


def curves_of(rows: list[Row]) -> list[list[Row]]:
    """The rows of each precision, engine and place of the input, by batch size; native first."""
    order = list(LOOKS)
    curves = collections.defaultdict(list)
    for row in sorted(rows, key=lambda row: row.record["batch_size"]):
        curves[row.label].append(row)
    return sorted(curves.values(), key=lambda curve: order.index(curve[0].record["precision"]))


def size_ticks(sizes: list[int]) -> list[int]:
    """The batch sizes that are far enough from the one before to be written at the axis."""
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
    stroke = LOOKS[rows[0].record["precision"]].stroke
    look = marker_of(rows[0].record) | {"markeredgecolor": shade, "markersize": 6}
    look |= {"label": rows[0].label, "color": shade, "linestyle": stroke, "linewidth": 1}
    sizes = [row.record["batch_size"] for row in rows]
    speeds = [row.speed.value for row in rows]
    milliseconds = [1e3 * row.timing["statistics"]["latency_median"] for row in rows]
    reach = [list(ends) for ends in zip(*(row.speed.reach for row in rows))]
    speed.errorbar(sizes, speeds, reach, capsize=2, **look)
    latency.plot(sizes, milliseconds, **look)
    trade.plot(speeds, milliseconds, **look)
    for row in rows:
        for timing in row.older:
            size = row.record["batch_size"]
            speed.plot(size, typical_speed(timing).value, ".", color="0.6", markersize=3)


# ------------------------------------------------------------------------------------------- page

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#111}
table{border-collapse:collapse;margin:1em 0}
th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}
th{vertical-align:bottom;white-space:pre-line}
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


def page(graphs: list[Graph], figure: Figure) -> str:
    """One self-contained HTML page: each graph's tables, answers and sentences, and the picture."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>tensorrt.py</title>",
        f"<style>{STYLE}</style>",
        "<h1>What does TensorRT buy this model, and is it still the same model?</h1>",
    ]
    is_long = sum(len(graph.records) for graph in graphs) > MOST_ROWS
    if is_long:
        box = f"<input type=search data-most={MOST_ROWS} placeholder='words, such as int8 node-7'>"
        parts.append(f"<p><label>Filter: {box}</label> <output></output>")
    for graph in graphs:
        parts += [html_section(group) for group in graph.groups]
        for title, lines_of in (SENTENCES | ORIGINS).items():
            items = [f"<li>{html.escape(line)}" for line in lines_of(graph.records)]
            parts += [f"<h3>{title}</h3><ul>", *items, "</ul>"] if items else []
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    parts.append(svg.getvalue().partition("<svg")[2].join(("<svg", "")))
    if is_long:
        parts.append(f"<script>{SCRIPT}</script>")
    return "\n".join(parts) + "</html>\n"


def html_section(group: Group) -> str:
    """A group's table, with a body for each case, and its answers."""
    titles, cells = table_of(group)
    lines = [f"<section><h2>{html.escape(group.title)}</h2>", "<table><thead><tr>"]
    lines += [f"<th>{title}" for title in titles]
    for row, line in zip(group.rows, cells):
        start = "<tbody><tr><td>" if row.is_first else "<tr><td>"
        lines.append(start + "<td>".join(map(html.escape, line)))
    answers = [f"<p><strong>{html.escape(line)}</strong>" for line in answer_lines(group)]
    return "\n".join([*lines, "</table>", *answers, "</section>"])


# ------------------------------------------------------------------------------------- comparison

FEWEST_ROUNDS = 5  # under which a case knows too little of itself: tensorrt.py's LEAST_ROUNDS


def newest(records: list[Record]) -> dict[tuple[str, str], Record]:
    """Each case's newest record, by case and device."""
    return {(f"{r['network']} {case_of(r)}", r["device"]): r for r in records}


def compare(
    new: list[Record], old: list[Record], fail_slower: float | None
) -> tuple[list[list[str]], bool]:
    """Compares each case's newest record with the newest before that was timed.

    Args:
      new, old: records in order of time.
      fail_slower: per cent that a case may lose beyond its interval; None: any.

    Returns:
      For each case its name, the ratio of images/s, the interval and the verdict; and whether one
      lost more, or fails now.
    """
    before = newest([record for record in old if record["timings"]])
    devices = collections.defaultdict(list)
    for case, device in before:
        devices[case].append(device)
    rows, is_lost = [], False
    for (case, device), record in newest(new).items():
        if (case, device) in before:
            compared, lost = compare_case(record, before[case, device], fail_slower)
            rows += compared
            is_lost |= lost
        else:
            others = ", ".join(sorted(devices[case]))
            why = f"other device ({others}, now {device})" if others else "no such case before"
            rows.append([case_of(record), "", "", f"not comparable: {why}"])
    return rows, is_lost


def compare_case(
    new: Record, old: Record, fail_slower: float | None
) -> tuple[list[list[str]], bool]:
    """compare for one case that was timed before; a row for each place of its input."""
    if found := obstacles(new, old):
        return [[case_of(new), "", "", f"not comparable: {'; '.join(found)}"]], False
    if new["status"] == "failed":
        return [[case_of(new), "", "", f"fails now: {new.get('error') or ''}"]], True
    rows, lost = [], False
    for inputs in new["timings"].keys() & old["timings"].keys():
        timings = new["timings"][inputs], old["timings"][inputs]
        ratio, low, high = ratio_of(*timings)
        lost |= fail_slower is not None and high < 1 - fail_slower / 100
        known = verdict(ratio, low, high) + doubt_text(max(1, min(map(rounds_in, timings))))
        name = case_of(new) + from_host(inputs)
        rows.append([name, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", known])
    return rows, lost


def obstacles(new: Record, old: Record) -> list[str]:
    """What differs too much to compare two records of a case."""
    then, now = comparable_facts(old), comparable_facts(new)
    differing = [name for name in now if then[name] != now[name]]
    return [f"other {name} ({then[name][:12]}, now {now[name][:12]})" for name in differing]


def comparable_facts(record: Record) -> dict[str, str]:
    """What has to be equal in two records of a case, by the name that a message gives it."""
    facts = {name: str(record.get(name)) for name in ("engine_version", "input_dtype")}
    flags = part_of(record, "flags")
    return (
        facts | graph_facts(record) | {f"flags {name}": str(flags.get(name)) for name in SETTINGS}
    )


def verdict(ratio: float, low: float, high: float) -> str:
    """`same`, `faster` or `slower`, of a ratio of speeds and its interval."""
    if abs(ratio - 1) <= SAME or low <= 1 <= high:
        return "same"
    return "faster" if ratio > 1 else "slower"


def doubt_text(rounds: int) -> str:
    if rounds >= FEWEST_ROUNDS:
        return ""
    return f" (as far as {rounds} round{'s' * (rounds > 1)} can tell)"


# ------------------------------------------------------------------------------------------- main


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with status 2 where it is wrong."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("report.py", None, __doc__, formatter_class=as_written)
    parser.allow_abbrev = False
    add = parser.add_argument
    add("files", nargs="*", metavar="RESULTS.jsonl", help="what tensorrt.py wrote")
    add("--history", nargs="+", metavar="FOLDER", help="every filled results.jsonl below")
    add("--output", help=".png, .svg, .pdf or .html; default: report.png beside the first file")
    add("--compare", metavar="OLD.jsonl", help="compare with these; draws nothing by itself")
    add("--fail_slower", type=float, metavar="PERCENT", help="exit 3 when a case lost more")
    add("--version", action="version", version=VERSION)
    given = parser.parse_args(argv[1:])
    below = (path for folder in given.history or () for path in Path(folder).rglob("results.jsonl"))
    given.files += sorted(str(path) for path in below if path.stat().st_size)
    if not given.files:
        parser.error("no results.jsonl: pass one, or with --history a folder of some")
    if given.fail_slower is not None and not given.compare:
        parser.error("--fail_slower needs --compare=OLD.jsonl")
    return given


def write(graphs: list[Graph], output: Path) -> None:
    """Writes the picture or the page; raises UserError where that cannot be."""
    if output.suffix not in (".png", ".svg", ".pdf", ".html"):
        raise UserError(f"--output={output}: pass a name that ends in .png, .svg, .pdf or .html")
    figure, left_out = draw(graphs)
    try:
        if output.suffix == ".html":
            output.write_text(page(graphs, figure), encoding="utf-8")
        else:
            figure.savefig(output, dpi=120)
    except OSError as error:
        why = f"{output} cannot be written ({error.strerror})"
        raise UserError(f"{why}: pass another --output") from error
    print(f"\n{output} written{left_out}")


def run(options: argparse.Namespace) -> int:
    """Prints, draws and compares what the command line names; the exit status."""
    records = merged(options.files)
    graphs = arrange(records)
    print_graphs(graphs)
    if options.output or not options.compare:
        write(graphs, Path(options.output or Path(options.files[0]).with_name("report.png")))
    if not options.compare:
        return 0
    rows, is_lost = compare(records, merged([options.compare]), options.fail_slower)
    console().print(grid(["case", "new/old", "interval", "verdict"], rows, 4))
    kinds = (
        "undisturbed speeds, which repeat from run to run; of medians where a record is one loop"
    )
    print(f"\nnew/old: of {kinds}")
    if not is_lost or options.fail_slower is None:
        return 0
    lost = f"a case lost over {options.fail_slower:g} % beyond its interval, or fails now"
    print(f"\nreport.py: {lost}")
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
