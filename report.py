#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = [
#   "matplotlib>=3.8,<4",
# ]
# ///
"""Reads the records that tensorrt.py wrote: a table, a picture, a page, a comparison.

    python report.py results.jsonl [more.jsonl ...]                 table, and report.png beside the first file
    python report.py results.jsonl --output=report.html             table, and one self-contained page
    python report.py --history node-a node-b                        every results.jsonl below these folders as one
    python report.py new.jsonl --compare=old.jsonl --fail_slower=5  for CI: exit 3 where a case lost over 5 %

Nothing here imports TensorFlow or tensorrt.py, which prints its own run with `print_records`. Several files are one.
Records belong together by graph (its hash) and device: only those are set against one another.

Comparison. Of each case the newest records that ran are compared: the ratio of the undisturbed images/s, new to old,
which repeats from run to run where the median does not, with an interval from those of both runs (docs/statistics.md).
A case is faster or slower when the whole interval says so and the ratio is over 2.5 % from one. Records of one loop,
as older versions wrote them, are compared by their medians, and the verdict says that a loop knows little of itself.

Exit status: 0; 2 a file cannot be read, or a line of it is no record; 3 with --fail_slower: a case lost more than that
beyond its interval, or fails now. Environment: NO_COLOR (plain table), COLUMNS (its width where stdout is a terminal).
"""

from __future__ import annotations

import argparse
import collections
import html
import io
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]
VERSION = "2.0"
RECORD_VERSION = 2  # the newest that this program reads
SAME = 0.025  # speeds nearer than that are the same: tensorrt.py's limit for a steady case
P99_STEPS = 299  # from which p99 has an upper bound: tensorrt.py's
FEWEST_ROUNDS = 5  # under which a case knows too little of itself: tensorrt.py's LEAST_ROUNDS
TITLES = ["precision", "engine", "batch", "images/s\nmedian", "95 %\n±", "images/s\nburst", "vs\nnative", "p50\nms",
          "p99\nms", "as\nnative", "SNR\ndB", "size\nMB", "build\ns"]  # fmt: skip
NEEDED = {"time": str, "device": str, "status": str, "engine": str, "precision": str, "batch_size": int,
          "timings": dict, "notes": list}  # fmt: skip
NUMBER = (int, float)
OPTIONAL: dict[str, dict[str, Any]]
OPTIONAL = {"accuracy": {"top1": NUMBER, "top5": NUMBER}, "artifact": {"bytes": int},
            "gpu": {"driver": str, "compute_capability": str}, "graph": {}, "flags": {}, "versions": {},
            "calibration": {"method": str, "images": int, "source": str, "sha256": str},
            "together": {"devices": list, "throughput": dict}}  # fmt: skip
SAME_SIZE = 0.02  # artifacts whose sizes differ by less are not told apart
SAME_BEFORE = 0.99  # top-1 and cosine from which records of version 1 are of the same model
STATISTICS = ("fps_median", "fps_low", "fps_high", "latency_median", "latency_99th")
ROUND_STATISTICS = (
    *("rounds", "fps_typical", "fps_typical_low", "fps_typical_high"),
    *("fps_undisturbed", "fps_undisturbed_low", "fps_undisturbed_high"),
)


class UserError(Exception):
    """Something the user can fix: one line that says what is wrong and what to do."""


# ------------------------------------------------------------------------------------------------------------ reading


def read_records(path: str) -> list[Record]:
    """The records of a results.jsonl, of older versions too; a UserError names the line that is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): pass a results.jsonl") from error
    if not (records := [read_line(path, at, line) for at, line in enumerate(lines, start=1) if line.strip()]):
        raise UserError(f"{path} holds no records: run tensorrt.py first")
    return records


def read_line(path: str, number: int, line: str) -> Record:
    try:
        record = json.loads(line)
        version = record["record"]
        if isinstance(version, int) and version > RECORD_VERSION:
            raise UserError(f"{path}, line {number}: version {version} is newer than this report.py: update it")
        check(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}, line {number}: no record of tensorrt.py ({error!r}): remove the line") from error
    return record


def check(record: Record) -> None:
    """Raises ValueError, KeyError, TypeError or AttributeError where a record lacks what is read below."""
    check_kinds(record, NEEDED)
    for name, kinds in OPTIONAL.items():
        if record.get(name):
            check_kinds(record[name], kinds)
    if record["precision"] not in LOOKS or not all(isinstance(note, str) for note in record["notes"]):
        raise ValueError("precision or notes")
    for label, share in record.get("predictions", ()):
        label.split, share / 1
    check_speeds(record)
    check_agreement(agreement_of(record) or {})


def check_kinds(part: Record, kinds: dict[str, Any]) -> None:
    """check for what must be there, and of a type."""
    for name, kind in kinds.items():
        if not isinstance(part[name], kind):
            raise TypeError(name)


def check_speeds(record: Record) -> None:
    """check for numbers that are divided by or drawn."""
    numbers = list((record.get("together") or {"throughput": {}})["throughput"].values())
    for rated in (record.get("times_native") or {}).values():
        numbers += [rated[name] for name in ("value", "low", "high")]
    for timing in record["timings"].values():
        if not timing["seconds"]:
            raise ValueError("seconds")
        numbers += [*timing["seconds"], timing["throughput"]]
        over_rounds = ROUND_STATISTICS if "rounds" in timing["statistics"] else ()
        numbers += [timing["statistics"][name] for name in (*STATISTICS, *over_rounds)]
    if not all(0 < number < 1e15 for number in numbers):
        raise ValueError("timings")


def check_agreement(found: Record) -> None:
    """check for what is read of an output's agreement, in either version."""
    for name in ("top1", "cosine", "snr_db"):
        if not isinstance(found.get(name), (*NUMBER, type(None))):
            raise TypeError(name)
    for name in ("same", "decided", "undecided", "images"):
        if not isinstance(found.get(name, 0), int):
            raise TypeError(name)
    for change in found.get("changed", ()):
        check_kinds(change, {"image": str, "native": str, "now": str})


def agreement_of(record: Record) -> Record | None:
    """The agreement of a record's first output with native, of how many images, in either version."""
    agreement = record.get("agreement")
    if not agreement:
        return None
    if record["record"] == 1:
        return agreement
    return {"images": agreement["images"], **next(iter(agreement["outputs"].values()))}


def merged(paths: list[str]) -> list[Record]:
    """All records: graph by graph, in each device by device, the newest run of all last."""
    records = sorted((r for path in paths for r in read_records(path)), key=lambda r: r["time"])
    groups = {group_of(record): index for index, record in enumerate(records)}
    graphs = {group_of(record).graph: index for index, record in enumerate(records)}
    return sorted(records, key=lambda r: (graphs[group_of(r).graph], groups[group_of(r)]))


class Group(NamedTuple):
    """What may be set against one another: records of one graph, by its hash and tensors, on one device."""

    graph: str
    device: str


def group_of(record: Record) -> Group:
    graph = part_of(record, "graph")
    return Group(" ".join(str(graph.get(name)) for name in ("sha256", "input", "output")), record["device"])


def groups_of(records: list[Record]) -> dict[Group, list[Record]]:
    """The records of each group, in order."""
    groups = collections.defaultdict(list)
    for record in records:
        groups[group_of(record)].append(record)
    return dict(groups)


def graphs_of(records: list[Record]) -> list[list[Record]]:
    """The records of each graph, in order."""
    graphs = collections.defaultdict(list)
    for record in records:
        graphs[group_of(record).graph].append(record)
    return list(graphs.values())


def model_names(records: list[Record]) -> dict[str, str]:
    """Each graph's name; digits of its hash behind it where two have the same."""
    names = {group_of(r).graph: str(part_of(r, "graph").get("name", r.get("network"))) for r in records}
    count = collections.Counter(names.values())
    return {graph: name if count[name] == 1 else f"{name} {graph[:8]}" for graph, name in names.items()}


# -------------------------------------------------------------------------------------------------------------- table


def name_of(record: Record) -> str:
    return record["precision"] if record["precision"] == "native" else record["precision"].upper()


def case_of(record: Record) -> str:
    engine = "" if record["engine"] == "native" else f" {record['engine']}"
    return f"{name_of(record)}{engine} {record['batch_size']}"


Ends = tuple[float, float, float]  # a number, and the low and the high end of its interval
Natives = dict[tuple[Group, int, str], Record]


def natives_of(records: list[Record]) -> Natives:
    """Native's newest record by group, batch size and where the input lay."""
    return {
        (group_of(record), record["batch_size"], inputs): record
        for record in records
        if record["precision"] == "native"
        for inputs in record["timings"]
    }


def times_native(record: Record, natives: Natives, inputs: str) -> Ends | None:
    """How many times as fast as native a case is, with its interval; None where native did not run so.

    As tensorrt.py found it from pairs of rounds; of records without it, from both medians.
    """
    native = natives.get((group_of(record), record["batch_size"], inputs))
    if native is None:
        return None
    if record is native or record["precision"] == "native":
        return 1.0, 1.0, 1.0
    if rated := (record.get("times_native") or {}).get(inputs):
        return rated["value"], rated["low"], rated["high"]
    ours, theirs = (shown(each["timings"][inputs]) for each in (record, native))
    return ratio_of_estimates(ours, theirs)


def times_text(times: Ends | None) -> str:
    """`2.36x ±0.04`, by the longer side of the interval; native itself has none."""
    if times is None:
        return ""
    ratio, low, high = times
    half = max(ratio - low, high - ratio)
    return f"{ratio:.2f}x" + (f" ±{half:.2f}" if half else "")


def rows_of(records: list[Record], natives: Natives) -> list[list[str]]:
    """A group's cells, a row for each case and place of its input; the best images/s has a star."""
    speeds = [shown(t)[0] for record in records for t in record["timings"].values()]
    rows = []
    for record in records:
        head, ends = [name_of(record), record["engine"], str(record["batch_size"])], end_cells(record)
        for inputs, timing in record["timings"].items():
            if inputs == "host":
                head[1] += " from host" if not head[0] else " (host)"
            times = times_text(times_native(record, natives, inputs))
            rows.append([*head, *timing_cells(timing, times, max(speeds)), *ends])
            head, ends = ["", "", ""], [""] * len(ends)
        if not record["timings"]:
            rows.append([*head, record["status"], *[""] * 5, *ends])
    return rows


def end_cells(record: Record) -> list[str]:
    """What a row says once: agreement with native, the artifact's size and build time."""
    artifact = record.get("artifact") or {}
    size = f"{artifact['bytes'] / 1e6:.1f}" if artifact else ""
    build = f"{artifact['build_seconds']:.1f}" if artifact.get("build_seconds") else ""
    return [*agreement_cells(agreement_of(record)), size, build]


def agreement_cells(found: Record | None) -> list[str]:
    """Of how many images (or decisions) the same as in native's, and the signal-to-noise ratio."""
    if found is None:
        return ["", ""]
    noise = found.get("snr_db", math.nan)
    decibels = "equal" if noise is None else "" if math.isnan(noise) else f"{noise:.0f}"
    if "decided" in found:
        return [f"{found['same']}/{found['decided']}", decibels]
    return [f"{found['top1']:.1%}" if "top1" in found else "", decibels]


def timing_cells(timing: dict[str, Any], times: str, best: float) -> list[str]:
    s, (speed, low, high) = timing["statistics"], shown(timing)
    half = max(high - speed, speed - low)
    return [f"{speed:,.1f}{'*' if speed == best else ' '}", f"{half:,.1f}", f"{timing['throughput']:,.1f}", times,
            f"{1e3 * s['latency_median']:.2f}", f"{1e3 * s['latency_99th']:.2f}{p99_mark(s)}"]  # fmt: skip


def p99_mark(numbers: dict[str, float]) -> str:
    """`?` where steps were too few for an upper bound of p99; records of one loop did not look for one."""
    return "?" if "rounds" in numbers and "latency_99th_high" not in numbers else ""


def p99_lines(records: list[Record]) -> list[str]:
    """Why some p99 have a mark."""
    timings = [timing for record in records for timing in record["timings"].values()]
    fewest = [len(timing["seconds"]) for timing in timings if p99_mark(timing["statistics"])]
    if not fewest:
        return []
    remedy = f"that takes {P99_STEPS} (--num_loops={P99_STEPS}, or auto)"
    return [f"p99?: {min(fewest)} steps give it no upper bound: {remedy}"]


def grid(heads: list[str], rows: list[list[str]], left: int, gap: int = 2, title: str = "") -> Any:
    """A rich table without lines, its first `left` columns to the left and the others to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold", title=title or None,
                  title_justify="left", title_style="bold")  # fmt: skip
    for index, head in enumerate(heads):
        table.add_column(
            head, justify="left" if index < left else "right", no_wrap=True, max_width=40, vertical="bottom"
        )
    for row in rows:
        table.add_row(*row)
    return table


def predictions_table(records: list[Record]) -> Any:
    """The first image's classes with their probabilities, a column for each precision and engine."""
    shown = {(name_of(r), r["engine"]): r["predictions"][:5] for r in records if "predictions" in r}
    engines = collections.Counter(name for name, _ in shown)
    heads = [name if engines[name] == 1 else f"{name} {engine}" for name, engine in shown]
    rows = [[f"{share:.3f} {label.split(',')[0]}" for label, share in row] for row in zip(*shown.values(), strict=True)]
    return grid(heads, rows, len(heads))


def accuracy_lines(records: list[Record]) -> list[str]:
    """Top-1 and top-5 accuracy of each case whose images have a known class, and of how many images."""
    lines = []
    for record in records:
        if found := record.get("accuracy"):
            count = f" of {images_text(found['images'])}" if "images" in found else ""
            shares = f"top-1 {found['top1']:.1%}, top-5 {found['top5']:.1%}"
            lines.append(f"{case_of(record)}: accuracy {shares}{count}")
    return lines


def images_text(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


SHOWN = 5  # images that are named where their first class changed


def agreement_lines(records: list[Record]) -> list[str]:
    """Which images changed their first class and how many are undecided, after the names of the cases concerned."""
    about = collections.defaultdict(list)
    for record in records:
        found = agreement_of(record) or {}
        for sentence in (changed_images(found), undecided_images(found)):
            if sentence:
                about[sentence].append(case_of(record))
    return [f"{some_cases(cases)}: {sentence}" for sentence, cases in about.items()]


def changed_images(found: Record) -> str:
    """The images whose first class changed, by their names."""
    changed = found.get("changed")
    if not changed:
        return ""
    names = [f"{one['image']} ({short(one['native'])}, now {short(one['now'])})" for one in changed]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    head = f"the first class changed on {len(names)} of {found['decided']} images"
    return f"{head}: {', '.join(names[:SHOWN])}{more}"


def undecided_images(found: Record) -> str:
    """How many images any rounding could turn, so that they tell nothing."""
    if not found.get("undecided"):
        return ""
    whole = found["decided"] + found["undecided"]
    if found["kind"] == "scores":
        return f"{found['undecided']} undecided of {whole} decisions: native's own scores are as good as at the limit"
    return f"{found['undecided']} undecided of {whole} images: native's own first two classes are as good as equal"


def short(label: str) -> str:
    """The first of a class's names."""
    return label.split(",")[0]


def some_cases(cases: list[str]) -> str:
    """Up to three cases by their names, or how many."""
    names = list(dict.fromkeys(cases))
    return ", ".join(names) if len(cases) < 4 else f"{len(cases)} cases"


def together_lines(records: list[Record]) -> list[str]:
    """What several devices did at the same time, once for each case: the sum of their bursts."""
    return list(dict.fromkeys(
        f"{case_of(r)}{' (host)' * (inputs == 'host')}: {speed:,.1f} images/s burst on {len(r['together']['devices'])} "
        f"devices together{' of ' + r['node'] if 'node' in r else ''}"
        for r in records if r.get("together") for inputs, speed in r["together"]["throughput"].items()))  # fmt: skip


def slowest_lines(records: list[Record]) -> list[str]:
    """Of each case the slowest device of its kind, where it is 2.5 % under the others' median and beyond the noise."""
    kinds: dict[tuple[Any, ...], list[Any]] = collections.defaultdict(list)
    lines = []
    for (_, *case), record in newest(records).items():
        for inputs, timing in record["timings"].items():
            kind = (str(record.get("device_kind")), inputs, *case)
            kinds[kind].append((shown(timing), record))
    for (device, *_), rows in kinds.items():
        ((slow, _, high), record), *others = sorted(rows, key=lambda row: row[0][0])
        usual, low = (statistics.median(ends[at] for ends, _ in others or rows) for at in (0, 1))
        if slow < (1 - SAME) * usual and high < low:
            lines.append(f"{case_of(record)}: {record['device']} is the slowest of {len(rows)} {device}: "
                         f"{slow / usual:.3f} of the others' median, {usual:,.1f} images/s")  # fmt: skip
    return lines


def note_lines(records: list[Record]) -> list[str]:
    """Every note once, after the names of the cases that have it."""
    about = collections.defaultdict(list)
    for record in records:
        for note in [*record["notes"], *([record["error"]] if record.get("error") else [])]:
            about[note].append(case_of(record))
    return [f"{some_cases(cases)}: {note}" for note, cases in about.items()]


# ------------------------------------------------------------------------------------------------------------- answer


class Rating(NamedTuple):
    """A case beside native of the same batch size: how many times its images/s, and the interval's ends."""

    record: Record
    native: Record
    ratio: float
    low: float
    high: float

    @property
    def who(self) -> str:
        return f"{name_of(self.record)} in {self.record['engine']}"

    @property
    def times(self) -> str:
        return f"{self.ratio:.2f}x native ({self.low:.2f} to {self.high:.2f})"


def answer_lines(records: list[Record]) -> list[str]:
    """What TensorRT buys: of one group the fastest case that is still the same model, for each batch size."""
    sizes = sorted({record["batch_size"] for record in records})
    answers = (answer(ratings_of(records, size), size) for size in sizes)
    return [sentence for sentence in answers if sentence]


def ratings_of(records: list[Record], size: int) -> list[Rating]:
    """The newest record of each case of a batch size beside native's, fastest first; none without native."""
    cases = [r for r in newest(records).values() if r["batch_size"] == size and r["timings"]]
    natives, rated = natives_of(cases), []
    for record in cases:
        inputs = next(iter(record["timings"]))
        times = times_native(record, natives, inputs)
        if times and record["precision"] != "native":
            native = natives[(group_of(record), size, inputs)]
            rated.append(Rating(record, native, *times))
    return sorted(rated, key=lambda rating: -rating.ratio)


def answer(ratings: list[Rating], size: int) -> str:
    """One sentence on the cases of a batch size, fastest first."""
    if not ratings:
        return ""
    faster = [rating for rating in ratings if rating.low > 1]
    if not faster:
        noise = " beyond the noise" if ratings[0].ratio > 1 else ""
        return f"Nothing is faster than native at batch {size}{noise}: {ratings[0].who}, {ratings[0].times}."
    best = faster[0]
    if has_random_weights(best.record):
        return (f"Fastest at batch {size}: {best.who}, {best.times}{size_text(best)}; random weights cannot tell "
                f"whether it is still the same model.")  # fmt: skip
    same = [rating for rating in faster if is_same_model(rating.record)]
    if not same:
        return (f"Nothing that is faster at batch {size} is still the same model: {best.who}, {best.times}, has "
                f"{agreement_text(best.record, noise=True)}.")  # fmt: skip
    best = same[0]
    return (f"Fastest that is still the same model at batch {size}: {best.who}, {best.times}, "
            f"{agreement_text(best.record)}{size_text(best)}.")  # fmt: skip


def has_random_weights(record: Record) -> bool:
    return (record.get("flags") or {}).get("weights") == "random"


def is_same_model(record: Record) -> bool:
    """Whether a case's outputs are still native's: tensorrt.py's own verdict, which version 1 had no word for."""
    agreement = record.get("agreement")
    if not agreement:
        return False
    if record["record"] == 1:
        return min(agreement["top1"], agreement.get("cosine", 1)) >= SAME_BEFORE
    return agreement.get("same_model", False)


def agreement_text(record: Record, noise: bool = False) -> str:
    """How far a case's outputs are native's, with the number of images that says so."""
    found = agreement_of(record)
    if not found:
        return "no outputs to compare"
    if "kind" not in found:
        return f"top-1 as native on {found['top1']:.1%} of the images"
    images = f"{'random ' * (record['images'] == 'random')}images"
    decibels = noise_text(found["snr_db"])
    if not found.get("decided"):
        undecided = ", of which none is decided" if "decided" in found else ""
        return f"{decibels} on {found['images']} {images}{undecided}"
    share = f"{found['same']} of {found['decided']}"
    text = f"top-1 as native on {share} {images}"
    if found["kind"] == "scores":
        text = f"{share} decisions as native on {found['images']} {images}"
    return f"{text}, {decibels}" if noise else text


def noise_text(decibels: float | None) -> str:
    return "no difference" if decibels is None else f"{decibels:.0f} dB signal to noise"


def size_text(rating: Rating) -> str:
    """The artifact's size beside native's, where both are known and differ."""
    ours, theirs = ((record.get("artifact") or {}).get("bytes") for record in rating[:2])
    if not ours or not theirs or abs(ours / theirs - 1) < SAME_SIZE:
        return ""
    return f", {megabytes(ours)} MB instead of {megabytes(theirs)}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.2g}"


# ----------------------------------------------------------------------------------------------------------- printing


def console() -> Any:
    """rich's console on stdout; plain and 110 columns wide where that is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 110, highlight=False)


SENTENCES = (together_lines, slowest_lines, accuracy_lines, agreement_lines, p99_lines, note_lines)


def print_records(records: list[Record], predictions: bool = True) -> None:
    """The probabilities, then of each graph the tables, the answers and the sentences of some cases on stdout."""
    out, native, names = console(), natives_of(records), model_names(records)
    if predictions and any("predictions" in record for record in records):
        out.print("", predictions_table(records), sep="\n")
    for of_graph in graphs_of(records):
        for group, members in groups_of(of_graph).items():
            print()
            title = f"{names[group.graph]} on {group.device}"
            out.print(grid(TITLES, rows_of(members, native), 2, 1, title))
            print_lines(answer_lines(members))
        for find in SENTENCES:
            print_lines(find(of_graph))


def print_lines(lines: list[str]) -> None:
    """A paragraph, if there is one."""
    if lines:
        print("\n" + "\n".join(lines))


# ------------------------------------------------------------------------------------------------------------ picture

# by precision: face of the bar, hatch, and the marker of the third panel; told apart without colour
LOOKS = {"native": ("1.0", "", "o"), "fp32": ("0.85", "", "s"), "fp16": ("0.65", "///", "^"), "int8": ("0.35", "", "D")}
# of the markers, by engine
FILLS = {"native": "black", "tensorrt": "0.6", "tftrt": "0.3", "xla": "0.85", "onnxruntime": "white"}
CURVES = 3  # batch sizes from which a group is drawn as curves
MOST_ROWS = 60  # in a picture; the newest
CURVE_ROWS = 12  # that curves are as high as


def draw(records: list[Record]) -> Any:
    """The picture, a strip for each graph: bars as in the table, or curves where there are many batch sizes."""
    from matplotlib.figure import Figure

    timed = [record for record in records if record["timings"]]
    if not timed:
        raise UserError("no case of these files was timed: nothing to draw")
    strips = newest_strips(timed)
    heights = [height_of(members, curves) for _, members, curves in strips]
    figure = Figure(figsize=(16, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    native = natives_of(timed)
    for part, (title, members, curves), height in zip(parts, strips, heights):
        part.suptitle(title, fontweight="bold")
        if curves:
            draw_curves(part, members)
        else:
            draw_bars(part, members, native, height)
    return figure


def strips_of(records: list[Record]) -> list[tuple[str, list[Record], bool]]:
    """Title, records, and whether they are curves: a group with many batch sizes, or the others of one graph."""
    names, strips = model_names(records), []
    bars: dict[str, list[Record]] = collections.defaultdict(list)
    for group, members in groups_of(records).items():
        if len({record["batch_size"] for record in members}) >= CURVES:
            strips.append((f"{names[group.graph]} on {group.device}", members, True))
        else:
            bars[group.graph] += members
    for graph, members in bars.items():
        devices = {record["device"] for record in members}
        on = f" on {devices.pop()}" if len(devices) == 1 else ""
        strips.append((names[graph] + on, members, False))
    return strips


def newest_strips(records: list[Record]) -> list[tuple[str, list[Record], bool]]:
    """The last strips, and bars, that a picture has room for."""
    room, kept = MOST_ROWS, []
    for title, members, curves in reversed(strips_of(records)):
        if room <= 0:
            break
        shown = members if curves else members[-room:]
        kept.append((title, shown, curves))
        room -= CURVE_ROWS if curves else len(shown)
    return kept[::-1]


def drawn_text(records: list[Record]) -> str:
    """How many of the records are in the picture, where that is not all."""
    timed = [record for record in records if record["timings"]]
    drawn = sum(len(members) for _, members, _ in newest_strips(timed))
    return "" if drawn == len(timed) else f" with the newest {drawn:,} of {len(timed):,} records as bars or curves"


def height_of(records: list[Record], curves: bool) -> float:
    """Inches that a strip needs."""
    if curves:
        return 4.8
    rows = sum(len(record["timings"]) for record in records) + len({record["device"] for record in records})
    return max(3.9, 1.9 + 0.34 * rows)


def draw_bars(part: Any, records: list[Record], native: Natives, height: float) -> None:
    """Speed with intervals, latency of every step, and agreement against speed; rows as in the table."""
    speed, latency, quality = part.subplots(1, 3, width_ratios=(5, 4, 4))
    rows = [(record, inputs) for record in records for inputs in record["timings"]]
    places = draw_speeds(speed, rows, native)
    draw_latencies(latency, rows, places)
    latency.set_ylim(speed.get_ylim())
    draw_quality(quality, records)
    if height > 6:
        quality.set(box_aspect=0.8, anchor="N")


def draw_speeds(axes: Any, rows: list[tuple[Record, str]], native: Natives) -> list[float]:
    """Bars of images/s with intervals and speed-ups; returns the height of each row. A device's name heads its rows."""
    places, names, place, device = [], [], 0.0, ""
    several = len({record["device"] for record, _ in rows}) > 1
    for record, inputs in rows:
        if several and record["device"] != device:
            device, place = record["device"], place + 1
            axes.text(0, place - 0.95, f" {device}", va="center", fontweight="bold", fontsize=9)
        places.append(place)
        names.append(case_of(record) + (" (host)" if inputs == "host" else ""))
        place += 1
    most = max(shown(record["timings"][inputs])[2] for record, inputs in rows)
    for (record, inputs), place in zip(rows, places):
        value, low, high = shown(record["timings"][inputs])
        face, hatch, _ = LOOKS[record["precision"]]
        error = [[value - low], [high - value]]
        axes.barh(place, value, 0.7, color=face, hatch=hatch, edgecolor="black", xerr=error, capsize=3)
        times = times_text(times_native(record, native, inputs))
        text = f"{value:,.1f}" + (f"  ({times})" if times else "")
        axes.text(high + most / 60, place, text, va="center", fontsize=9)
    axes.set(yticks=places, yticklabels=names, xlim=(0, 1.4 * most), ylim=(max(2.3, max(places) + 0.7), -0.7),
             xlabel="images/s, median with 95 % interval (times native)", title="Speed")  # fmt: skip
    axes.xaxis.set_major_formatter("{x:,.10g}")
    return places


def draw_latencies(axes: Any, rows: list[tuple[Record, str]], places: list[float]) -> None:
    """Every waited step as a dot, in the order of time from the row's top to its bottom, and the median as a stroke."""
    import numpy as np
    from matplotlib import ticker

    for (record, inputs), place in zip(rows, places):
        milliseconds = 1e3 * np.asarray(record["timings"][inputs]["seconds"])
        heights = place + np.linspace(-0.33, 0.33, len(milliseconds))
        axes.plot(milliseconds, heights, ".", color="0.35", markersize=3, rasterized=len(milliseconds) > 2000)
        axes.vlines(np.median(milliseconds), place - 0.4, place + 0.4, color="black", linewidth=2)
    every = [second for record, inputs in rows for second in record["timings"][inputs]["seconds"]]
    if max(every) > 10 * min(every):
        axes.set_xscale("log", subs=[])
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if max(every) < 1e3 * min(every) else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(0, 1.05e3 * max(every))
    axes.set(yticks=places, yticklabels=[""] * len(places), title="Latency of every step",
             xlabel="ms a step; first step on top, stroke: median")  # fmt: skip
    axes.grid(axis="x", alpha=0.4)


class Point(NamedTuple):
    """A case in the third panel: its images/s, its agreement in per cent or dB, and of how many."""

    record: Record
    speed: float
    height: float
    images: str


def draw_quality(axes: Any, records: list[Record]) -> None:
    """Agreement with native against speed, with the number it comes from; markers by precision, fill by engine."""
    points, label = quality_points(records)
    axes.set(title="Is it still the same model?")
    if not points:
        axes.text(0.5, 0.5, "no outputs to compare with native", ha="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.set(xlabel="images/s", ylabel=label)
    axes.grid(alpha=0.4)
    for point in points:
        name = case_of(point.record).rsplit(" ", 1)[0]
        axes.plot(point.speed, point.height, label=name, linestyle="none", **marker_of(point.record))
    lowest, highest = (end(point.height for point in points) for end in (min, max))
    whole = 100 if label.endswith("%") else highest
    room = max(3.0, 0.15 * (whole - lowest))
    axes.set_ylim(lowest - room, whole + room)
    axes.set_yticks([tick for tick in axes.get_yticks() if lowest - room <= tick <= whole])
    axes.set_xlim(0, 1.15 * axes.dataLim.xmax)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    name_counts(axes, points)
    once = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(once.values(), once.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=2,
                fontsize=8)  # fmt: skip


def quality_points(records: list[Record]) -> tuple[list[Point], str]:
    """The cases that were compared with native and the axis they share: classes, decisions or, failing those, dB."""
    every = [(record, agreement_of(record)) for record in records]
    found = [(record, same) for record, same in every if same]
    decided = [(record, share, same) for record, same in found if (share := share_of(same)) is not None]
    if decided:
        scores = any(same.get("kind") == "scores" for _, _, same in decided)
        points = [Point(r, median_speed(r), 100 * share, count_of(same)) for r, share, same in decided]
        return points, "decisions as in native, %" if scores else "images with native's first class, %"
    noisy = [(record, same) for record, same in found if same.get("snr_db") is not None]
    points = [Point(r, median_speed(r), same["snr_db"], f"{same['images']} images") for r, same in noisy]
    return points, "signal to noise, dB"


def share_of(found: Record) -> float | None:
    """The share of images, or decisions, as in native; None where nothing was decided."""
    if "decided" not in found:
        return found.get("top1")
    return found["same"] / found["decided"] if found["decided"] else None


def count_of(found: Record) -> str:
    return f"{found['same']} of {found['decided']}" if "decided" in found else ""


def median_speed(record: Record) -> float:
    return shown(next(iter(record["timings"].values())))[0]


def marker_of(record: Record) -> dict[str, Any]:
    """The marker of a case: its shape by precision, its fill by engine."""
    return {"marker": LOOKS[record["precision"]][2], "markersize": 8, "markeredgecolor": "black",
            "markerfacecolor": FILLS.get(record["engine"], "white")}  # fmt: skip


def name_counts(axes: Any, points: list[Point]) -> None:
    """Writes n beside the points: at each where they differ, else once."""
    counts = {point.images for point in points}
    if len(counts) == 1:
        text = counts.pop()
        axes.text(0.03, 0.04, f"n: {text}" if text else "", fontsize=8, transform=axes.transAxes)
        return
    seen = set()
    for point in points:
        if (place := (round(point.height, 3), point.images)) not in seen:
            axes.annotate(point.images, (point.speed, point.height), (0, -14), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
        seen.add(place)


STROKES = {"native": "-", "fp32": "--", "fp16": "-.", "int8": ":"}  # of the curves, by precision


def draw_curves(part: Any, records: list[Record]) -> None:
    """images/s and latency against batch size, one against the other, and agreement: a curve for each case."""
    speed, latency, trade, quality = part.subplots(1, 4, width_ratios=(4, 4, 4, 3.4))
    sizes = sorted({record["batch_size"] for record in records})
    for curve in curves_of(records):
        draw_curve((speed, latency, trade), curve)
    speed.set(title="Speed", xlabel="batch size", ylabel="images/s, median with 95 % interval")
    latency.set(title="Latency", xlabel="batch size", ylabel="ms a step, median")
    trade.set(title="Trade-off", xlabel=f"images/s, at batch {sizes[0]:,} to {sizes[-1]:,}", ylabel="ms a step, median")
    for axes in (speed, latency):
        axes.set_xscale("log", base=2)
        axes.set_xticks(*size_ticks(sizes))
        axes.minorticks_off()
    for axis in (speed.yaxis, latency.yaxis, trade.yaxis, trade.xaxis):
        logarithmic(axis)
    for axes in (speed, latency, trade):
        axes.grid(alpha=0.4)
    draw_quality(quality, best_of_each(records))
    if quality.get_legend():
        quality.get_legend().remove()
    part.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)


def size_ticks(sizes: list[int]) -> tuple[list[int], list[str]]:
    """Batch sizes to write at the axis: those that are far enough from the one before, and their texts."""
    apart = math.log(sizes[-1] / sizes[0]) / 9
    ticks = sizes[:1]
    for size in sizes:
        if math.log(size / ticks[-1]) >= apart:
            ticks.append(size)
    return ticks, [f"{size:,}" for size in ticks]


class Curve(NamedTuple):
    """One case with one place of its input, by batch size."""

    name: str
    inputs: str
    records: list[Record]

    @property
    def statistics(self) -> list[dict[str, float]]:
        return [record["timings"][self.inputs]["statistics"] for record in self.records]


def curves_of(records: list[Record]) -> list[Curve]:
    """The newest record of each case with each place of its input, by batch size."""
    found = collections.defaultdict(list)
    order = list(LOOKS)
    for record in sorted(newest(records).values(), key=lambda r: (order.index(r["precision"]), r["batch_size"])):
        for inputs in record["timings"]:
            found[(case_of(record).rsplit(" ", 1)[0], inputs)].append(record)
    host = " (host)"
    return [Curve(name + host * (inputs == "host"), inputs, some) for (name, inputs), some in found.items()]


def draw_curve(panels: tuple[Any, Any, Any], curve: Curve) -> None:
    """One case in the panels of speed, latency and trade-off; grey where its input came from the host."""
    speed, latency, trade = panels
    first, numbers = curve.records[0], curve.statistics
    sizes = [record["batch_size"] for record in curve.records]
    ends = [shown({"statistics": s}) for s in numbers]
    speeds = [value for value, _, _ in ends]
    milliseconds = [1e3 * s["latency_median"] for s in numbers]
    error = [[value - low for value, low, _ in ends], [high - value for value, _, high in ends]]
    shade = "0.6" if curve.inputs == "host" else "black"
    look = {**marker_of(first), "color": shade, "markeredgecolor": shade, "markersize": 6, "linewidth": 1,
            "linestyle": STROKES[first["precision"]], "label": curve.name}  # fmt: skip
    speed.errorbar(sizes, speeds, error, capsize=2, **look)
    latency.plot(sizes, milliseconds, **look)
    trade.plot(speeds, milliseconds, **look)


def logarithmic(axis: Any) -> None:
    """A logarithmic axis with 1, 2 and 5 written out, or 1 and 3, or powers of ten where those are many."""
    from matplotlib import ticker

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_data_interval()
    tens = (1, 2, 5) if high < 30 * low else (1, 3) if high < 1e3 * low else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=tens))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(ticker.NullFormatter())


def best_of_each(records: list[Record]) -> list[Record]:
    """Of each precision and engine the newest record with the most images/s."""
    best: dict[tuple[str, str], Record] = {}
    for record in sorted(newest(records).values(), key=median_speed):
        best[(record["precision"], record["engine"])] = record
    return list(best.values())


# --------------------------------------------------------------------------------------------------------------- page

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#111}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}
th{vertical-align:bottom}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}svg{max-width:100%;height:auto}"""


def page(records: list[Record], figure: Any) -> str:
    """One self-contained HTML page: tables and answers, picture, sentences, environment, calibration."""
    figure.savefig(buffer := io.StringIO(), format="svg")
    svg = buffer.getvalue()
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>tensorrt.py</title>", f"<style>{STYLE}</style>"]
    parts.append("<h1>What does TensorRT buy this model, and is it still the same model?</h1>")
    native, names = natives_of(records), model_names(records)
    for of_graph in graphs_of(records):
        for group, members in groups_of(of_graph).items():
            parts.append(f"<h2>{html.escape(f'{names[group.graph]} on {group.device}')}</h2>")
            parts.append(html_table(members, native))
            parts += [f"<p><strong>{html.escape(line)}</strong>" for line in answer_lines(members)]
        parts += [html_list(title, find(of_graph)) for title, find in SECTIONS.items()]
    parts.append(svg[svg.index("<svg") :])
    return "\n".join(parts) + "</html>\n"


def html_list(title: str, lines: list[str]) -> str:
    """A heading and its sentences, if there are any."""
    items = "".join(f"<li>{html.escape(line)}" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if items else ""


def html_table(records: list[Record], native: Natives) -> str:
    """A group's table."""
    head = "".join(f"<th>{title.replace(chr(10), '<br>')}" for title in TITLES)
    rows = "".join("<tr><td>" + "<td>".join(map(html.escape, row)) for row in rows_of(records, native))
    return f"<table><tr>{head}{rows}</table>"


def calibration_lines(records: list[Record]) -> list[str]:
    """Where each INT8 case's ranges came from."""
    text = "{method}, {images} images from {source}, SHA-256 {sha256}"
    return [f"{case_of(r)}: {text.format(**r['calibration'])}" for r in records if r.get("calibration")]


def environment_lines(records: list[Record]) -> list[str]:
    """Versions, networks and settings, each combination once."""
    lines = []
    for r in records:
        graph, gpu = r.get("graph") or {}, r.get("gpu") or {}
        driver = f", driver {gpu['driver']}, compute capability {gpu['compute_capability']}" if gpu else ""
        versions, settings = (", ".join(f"{key} {value}" for key, value in (r.get(name) or {}).items())
                              for name in ("versions", "flags"))  # fmt: skip
        lines += [f"{r['device']}{driver}; {versions}", f"{r['engine']} {r.get('engine_version', '')}; {settings}",
                  "graph " + ", ".join(f"{key} {tensor_text(value)}" for key, value in graph.items())]  # fmt: skip
    return list(dict.fromkeys(lines))


SECTIONS = {
    "Together": together_lines,
    "Slowest": slowest_lines,
    "Accuracy": accuracy_lines,
    "Agreement": agreement_lines,
    "99th percentile": p99_lines,
    "Notes": note_lines,
    "Calibration": calibration_lines,
    "Environment": environment_lines,
}


def tensor_text(value: Any) -> str:
    """A graph's fact; its inputs and outputs as name, shape and type."""
    if not (isinstance(value, (list, tuple)) and value and isinstance(value[0], dict)):
        return str(value)
    return "; ".join(f"{tensor['name']} {tensor['shape']} {tensor['dtype']}" for tensor in value)


# --------------------------------------------------------------------------------------------------------- comparison


def newest(records: list[Record]) -> dict[tuple[Any, ...], Record]:
    """The newest record of each case on each device."""
    names = ("device", "network", "engine", "precision", "batch_size")
    return {tuple(str(record.get(name)) for name in names): record for record in records}


def obstacles(key: tuple[Any, ...], new: Record, before: dict[tuple[Any, ...], Record]) -> list[str]:
    """The names of what differs too much to compare a case's new record with the one before."""
    old = before.get(key)
    if old is None:
        devices = sorted({device for device, *rest in before if rest == list(key[1:])})
        return [f"other device ({', '.join(devices)}, now {key[0]})" if devices else "no such case before"]
    found = []
    for part, names in (("", ("engine_version", "input_dtype")), ("graph", ("sha256", "input", "output")),
                        ("flags", ("tf32", "workspace_size", "preprocessing"))):  # fmt: skip
        then, now = (part_of(record, part) for record in (old, new))
        found += [f"other {part} {name} ({str(then.get(name))[:12]}, now {str(now.get(name))[:12]})".replace("  ", " ")
                  for name in names if then.get(name) != now.get(name)]  # fmt: skip
    return found


def part_of(record: Record, part: str) -> Record:
    """The record itself, or a part of it; a graph of either version has its tensors' names as `input` and `output`."""
    if not part:
        return record
    found = record.get(part) or {}
    if "inputs" not in found:
        return found
    names = {role: ", ".join(tensor["name"] for tensor in found[role + "s"]) for role in ("input", "output")}
    return {**found, **names}


def ratio_of(new: dict[str, Any], old: dict[str, Any]) -> Ends:
    """New to old images/s with its interval: of the undisturbed speeds, or of medians where one has none."""
    n, o = new["statistics"], old["statistics"]
    by = "fps_undisturbed" if "rounds" in n.keys() & o.keys() else "fps_median"
    return ratio_of_estimates(speed_of(n, by), speed_of(o, by))


def shown(timing: dict[str, Any]) -> Ends:
    """The typical speed, over rounds; where a record knows none, the median over all steps."""
    numbers = timing["statistics"]
    return speed_of(numbers, "fps_typical" if "rounds" in numbers else "fps_median")


def speed_of(numbers: dict[str, float], name: str) -> Ends:
    """A speed with the ends of its interval, which of the median stand under shorter names."""
    ends = "fps" if name == "fps_median" else name
    return numbers[name], numbers[f"{ends}_low"], numbers[f"{ends}_high"]


def ratio_of_estimates(new: Ends, old: Ends) -> Ends:
    """The ratio of two numbers that were found independently, and its interval, from theirs.

    In logarithms the difference of two estimates is as uncertain as the root of the sum of their squared distances to
    the ends that count (MOVER; Zou and Donner, Statistics in Medicine 27, 2008).
    """
    ratio = new[0] / old[0]
    below = math.hypot(math.log(new[0] / new[1]), math.log(old[2] / old[0]))
    above = math.hypot(math.log(new[2] / new[0]), math.log(old[0] / old[1]))
    return ratio, ratio * math.exp(-below), ratio * math.exp(above)


def rounds_in(timing: dict[str, Any]) -> int:
    """How many rounds a record's numbers come from; records of older versions were one loop."""
    return int(timing["statistics"].get("rounds", 1))


def verdict(ratio: float, low: float, high: float) -> str:
    return "same" if abs(ratio - 1) <= SAME or low <= 1 <= high else "faster" if ratio > 1 else "slower"


def compare(new: list[Record], old: list[Record], fail_slower: float | None) -> tuple[list[list[str]], bool]:
    """A row for each case of the new records (case, ratio, interval, verdict), and whether one lost too much."""
    rows, lost, before = [], False, newest([record for record in old if record["timings"]])
    for key, record in newest(new).items():
        if found := obstacles(key, record, before):
            rows.append([case_of(record), "", "", f"not comparable: {'; '.join(found)}"])
        elif record["status"] == "failed":
            lost = True
            rows.append([case_of(record), "", "", f"fails now: {record.get('error', '')}"])
        for inputs in () if found else record["timings"].keys() & before[key]["timings"].keys():
            ratio, low, high = ratio_of(record["timings"][inputs], before[key]["timings"][inputs])
            lost |= fail_slower is not None and high < 1 - fail_slower / 100
            name = case_of(record) + (" (host)" if inputs == "host" else "")
            fewest = min(rounds_in(each["timings"][inputs]) for each in (record, before[key]))
            known = "" if fewest >= FEWEST_ROUNDS else f" (as far as {fewest} round{'s' * (fewest > 1)} can tell)"
            rows.append([name, f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", verdict(ratio, low, high) + known])
    return rows, lost


# --------------------------------------------------------------------------------------------------------------- main


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("report.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("files", nargs="*", metavar="RESULTS.jsonl", help="what tensorrt.py wrote")
    parser.add_argument("--history", nargs="+", metavar="FOLDER", default=[], help="every filled results.jsonl below")
    parser.add_argument("--output", help=".png, .svg, .pdf or .html; default: report.png beside the first file")
    parser.add_argument("--compare", metavar="OLD.jsonl", help="compare with these records; draws nothing by itself")
    parser.add_argument("--fail_slower", type=float, metavar="PERCENT", help="exit 3 when a case lost more than that")
    parser.add_argument("--version", action="version", version=VERSION)
    given = parser.parse_args(argv[1:])
    given.files += sorted(str(p) for f in given.history for p in Path(f).rglob("results.jsonl") if p.stat().st_size)
    if not given.files:
        parser.error("no results.jsonl: pass one, or with --history a folder of some")
    if given.fail_slower is not None and not given.compare:
        parser.error("--fail_slower needs --compare=OLD.jsonl")
    return given


def write(records: list[Record], output: Path) -> None:
    """Writes the picture or the page; raises UserError where that cannot be."""
    if output.suffix not in (".png", ".svg", ".pdf", ".html"):
        raise UserError(f"--output={output}: pass a name that ends in .png, .svg, .pdf or .html")
    figure = draw(records)
    try:
        if output.suffix == ".html":
            output.write_text(page(records, figure))
        else:
            figure.savefig(output, dpi=120)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): pass another --output") from error
    print(f"\n{output} written{drawn_text(records)}")


def main(argv: list[str]) -> int:
    """Reads, prints, draws and compares what the command line names; returns the exit status."""
    options = parse(argv)
    try:
        records = merged(options.files)
        print_records(records, predictions=False)
        if options.output or not options.compare:
            write(records, Path(options.output or Path(options.files[0]).with_name("report.png")))
        if options.compare:
            rows, lost = compare(records, merged([options.compare]), options.fail_slower)
            console().print(grid(["case", "new/old", "interval", "verdict"], rows, 4))
            print(
                "\nnew/old: of undisturbed speeds, which repeat from run to run; of medians where a record is one loop"
            )
            if lost and options.fail_slower is not None:
                print(f"\nreport.py: a case lost over {options.fail_slower:g} % beyond its interval, or fails now")
                return 3
        sys.stdout.flush()
    except UserError as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
