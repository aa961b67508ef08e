#!/usr/bin/env python3
"""Reads the records that tensorrt.py wrote: a table, a picture, a page, a comparison.

    python report.py results.jsonl [more.jsonl ...]                 table, and report.png beside the first file
    python report.py results.jsonl --output=report.html             table, and one self-contained page
    python report.py --history node-a node-b                        every results.jsonl below these folders as one
    python report.py new.jsonl --compare=old.jsonl --fail_slower=5  for CI: exit 3 where a case lost over 5 %

Nothing here imports TensorFlow or tensorrt.py, which prints its own run with `print_records`. Several files are one.

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
from typing import Any

Record = dict[str, Any]
VERSION = "1.0"
RECORD_VERSION = 2  # the newest that this program reads
SAME = 0.025  # speeds nearer than that are the same: tensorrt.py's limit for a steady case
FEWEST_ROUNDS = 5  # under which a case knows too little of itself: tensorrt.py's LEAST_ROUNDS
TITLES = ["precision", "engine", "batch", "images/s\nmedian", "95 %\n±", "images/s\nburst", "vs\nnative", "p50\nms",
          "p99\nms", "top-1\nas native", "size\nMB", "build\ns"]  # fmt: skip
NEEDED = {"time": str, "device": str, "status": str, "engine": str, "precision": str, "batch_size": int,
          "timings": dict, "notes": list}  # fmt: skip
NUMBER = (int, float)
OPTIONAL = {"accuracy": {"top1": NUMBER, "top5": NUMBER}, "artifact": {"bytes": int},
            "gpu": {"driver": str, "compute_capability": str}, "graph": {}, "flags": {}, "versions": {},
            "calibration": {"method": str, "images": int, "source": str, "sha256": str},
            "together": {"devices": list, "throughput": dict}}  # fmt: skip
STATISTICS = ("fps_median", "fps_low", "fps_high", "latency_median", "latency_99th")


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do."""


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
    parts = [(record, NEEDED), *((record[name], kinds) for name, kinds in OPTIONAL.items() if record.get(name))]
    for part, kinds in parts:
        if wrong := [name for name, kind in kinds.items() if not isinstance(part[name], kind)]:
            raise TypeError(", ".join(wrong))
    check_agreement(record)
    if record["precision"] not in LOOKS or not all(isinstance(note, str) for note in record["notes"]):
        raise ValueError("precision or notes")
    for timing in record["timings"].values():
        numbers = [*timing["seconds"], timing["throughput"], *(timing["statistics"][name] for name in STATISTICS)]
        if not timing["seconds"] or not all(0 < number < 1e15 for number in numbers):
            raise ValueError("timings")
    for label, share in record.get("predictions", ()):
        label.split, share / 1
    if not all(0 < speed < 1e15 for speed in (record.get("together") or {"throughput": {}})["throughput"].values()):
        raise ValueError("together")


def check_agreement(record: Record) -> None:
    """check for what is read of the agreement, in either version."""
    found = agreement_of(record)
    if found is None:
        return
    if not isinstance(found["cosine"], NUMBER) or not isinstance(found.get("top1"), (*NUMBER, type(None))):
        raise TypeError("agreement")


def agreement_of(record: Record) -> Record | None:
    """The agreement of a record's first output with native, in either version."""
    agreement = record.get("agreement")
    if not agreement:
        return None
    return agreement if record["record"] == 1 else next(iter(agreement["outputs"].values()))


def merged(paths: list[str]) -> list[Record]:
    """All records: device by device, the newest run of all last."""
    records = sorted((record for path in paths for record in read_records(path)), key=lambda record: record["time"])
    newest = {record["device"]: index for index, record in enumerate(records)}
    return sorted(records, key=lambda record: newest[record["device"]])


def devices_of(records: list[Record]) -> dict[str, list[Record]]:
    """The records of each device, in order."""
    devices = dict.fromkeys(record["device"] for record in records)
    return {device: [record for record in records if record["device"] == device] for device in devices}


# -------------------------------------------------------------------------------------------------------------- table


def name_of(record: Record) -> str:
    return record["precision"] if record["precision"] == "native" else record["precision"].upper()


def case_of(record: Record) -> str:
    engine = "" if record["engine"] == "native" else f" {record['engine']}"
    return f"{name_of(record)}{engine} {record['batch_size']}"


def native_speeds(records: list[Record]) -> dict[tuple[str, int, str], float]:
    """Native's newest median images/s by device, batch size and where the input lay."""
    return {(record["device"], record["batch_size"], inputs): timing["statistics"]["fps_median"]
            for record in records if record["precision"] == "native"
            for inputs, timing in record["timings"].items()}  # fmt: skip


def rows_of(records: list[Record], native: dict[tuple[str, int, str], float]) -> list[list[str]]:
    """The table's cells, a row for each case and place of its input; the best images/s has a star."""
    speeds = [t["statistics"]["fps_median"] for record in records for t in record["timings"].values()]
    rows = []
    for record in records:
        artifact, same = record.get("artifact") or {}, agreement_of(record)
        ends = [f"{same['top1']:.1%}" if (same or {}).get("top1") is not None else "",
                f"{artifact['bytes'] / 1e6:.1f}" if artifact else "",
                f"{artifact['build_seconds']:.1f}" if artifact.get("build_seconds") else ""]  # fmt: skip
        head = [name_of(record), record["engine"], str(record["batch_size"])]
        for inputs, timing in record["timings"].items():
            if inputs == "host":
                head[1] += " from host" if not head[0] else " (host)"
            base = native.get((record["device"], record["batch_size"], inputs))
            rows.append([*head, *timing_cells(timing, base, max(speeds)), *ends])
            head, ends = ["", "", ""], ["", "", ""]
        if not record["timings"]:
            rows.append([*head, record["status"], *[""] * 5, *ends])
    return rows


def timing_cells(timing: dict[str, Any], native: float | None, best: float) -> list[str]:
    s = timing["statistics"]
    speed, half = s["fps_median"], max(s["fps_high"] - s["fps_median"], s["fps_median"] - s["fps_low"])
    return [f"{speed:,.1f}{'*' if speed == best else ' '}", f"{half:,.1f}",
            f"{timing['throughput']:,.1f}", f"{speed / native:.2f}x" if native else "",
            f"{1e3 * s['latency_median']:.2f}", f"{1e3 * s['latency_99th']:.2f}"]  # fmt: skip


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
    """Top-1 and top-5 accuracy of each case whose images have a known class."""
    return [f"{case_of(r)}: accuracy top-1 {r['accuracy']['top1']:.1%}, top-5 {r['accuracy']['top5']:.1%}"
            for r in records if "accuracy" in r]  # fmt: skip


def together_lines(records: list[Record]) -> list[str]:
    """What several devices did at the same time, once for each case: the sum of their bursts."""
    return list(dict.fromkeys(
        f"{case_of(r)}{' (host)' * (inputs == 'host')}: {speed:,.1f} images/s burst on {len(r['together']['devices'])} "
        f"devices together{' of ' + r['node'] if 'node' in r else ''}"
        for r in records if r.get("together") for inputs, speed in r["together"]["throughput"].items()))  # fmt: skip


def slowest_lines(records: list[Record]) -> list[str]:
    """Of each case the slowest device of its kind, where it is 2.5 % under the others' median and beyond the noise."""
    kinds, lines = collections.defaultdict(list), []
    for (_, *case), record in newest(records).items():
        for inputs, timing in record["timings"].items():
            kinds[(str(record.get("device_kind")), inputs, *case)].append((timing["statistics"], record))
    for (kind, *_), rows in kinds.items():
        (slow, record), *others = sorted(rows, key=lambda row: row[0]["fps_median"])
        usual, low = (statistics.median(row[name] for row, _ in others or rows) for name in ("fps_median", "fps_low"))
        if slow["fps_median"] < (1 - SAME) * usual and slow["fps_high"] < low:
            lines.append(f"{case_of(record)}: {record['device']} is the slowest of {len(rows)} {kind}: "
                         f"{slow['fps_median'] / usual:.3f} of the others' median, {usual:,.1f} images/s")  # fmt: skip
    return lines


def note_lines(records: list[Record]) -> list[str]:
    """Every sentence once, behind the cases that it is about."""
    about = collections.defaultdict(list)
    for record in records:
        for note in [*record["notes"], *([record["error"]] if record.get("error") else [])]:
            about[note].append(case_of(record))
    return [f"{', '.join(dict.fromkeys(cases)) if len(cases) < 4 else f'{len(cases)} cases'}: {note}"
            for note, cases in about.items()]  # fmt: skip


def console() -> Any:
    """rich's console on stdout; plain and 100 columns wide where that is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def print_records(records: list[Record], predictions: bool = True) -> None:
    """The probabilities, the table of each device and the sentences of some cases on stdout."""
    out, native, groups = console(), native_speeds(records), devices_of(records)
    if predictions and any("predictions" in record for record in records):
        out.print("", predictions_table(records), sep="\n")
    for device, group in groups.items():
        print()
        out.print(grid(TITLES, rows_of(group, native), 2, 1, device if len(groups) > 1 else ""))
    for find in (together_lines, slowest_lines, accuracy_lines, note_lines):
        if lines := find(records):
            print("\n" + "\n".join(lines))


# ------------------------------------------------------------------------------------------------------------ picture

# by precision: face of the bar, hatch, and the marker of the third panel; told apart without colour
LOOKS = {"native": ("1.0", "", "o"), "fp32": ("0.85", "", "s"), "fp16": ("0.65", "///", "^"), "int8": ("0.35", "", "D")}
FILLS = ("black", "white", "0.6", "0.85", "0.3")  # of the markers, by engine


def draw(records: list[Record]) -> Any:
    """The picture: speed, latency of every step, and agreement or accuracy against speed; rows as in the table."""
    from matplotlib.figure import Figure

    if not (rows := [(record, inputs) for record in records for inputs in record["timings"]]):
        raise UserError("no case of these files was timed: nothing to draw")
    height = max(3.6, 1.6 + 0.34 * (len(rows) + len(devices_of(records))))
    figure = Figure(figsize=(15, height), layout="constrained")
    speed, latency, quality = figure.subplots(1, 3, width_ratios=(5, 4, 4))
    places = draw_speeds(speed, rows, native_speeds(records))
    draw_latencies(latency, rows, places)
    latency.set_ylim(speed.get_ylim())
    draw_quality(quality, records)
    if height > 6:
        quality.set(box_aspect=0.8, anchor="N")
    return figure


def draw_speeds(axes: Any, rows: list[tuple[Record, str]], native: dict[tuple[str, int, str], float]) -> list[float]:
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
    most = max(record["timings"][inputs]["statistics"]["fps_high"] for record, inputs in rows)
    for (record, inputs), place in zip(rows, places):
        s = record["timings"][inputs]["statistics"]
        face, hatch, _ = LOOKS[record["precision"]]
        error = [[s["fps_median"] - s["fps_low"]], [s["fps_high"] - s["fps_median"]]]
        axes.barh(place, s["fps_median"], 0.7, color=face, hatch=hatch, edgecolor="black", xerr=error, capsize=3)
        base = native.get((record["device"], record["batch_size"], inputs))
        text = f"{s['fps_median']:,.1f}" + (f"  ({s['fps_median'] / base:.2f}x)" if base else "")
        axes.text(s["fps_high"] + most / 60, place, text, va="center", fontsize=9)
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


def draw_quality(axes: Any, records: list[Record]) -> None:
    """Accuracy where it is known, else agreement with native, against speed; markers by precision, fill by engine."""
    known = any("accuracy" in record for record in records)
    points = [(r, r["accuracy"]["top1"] if known else (agreement_of(r) or {"top1": 1.0})["top1"])
              for r in records if r["timings"] and (("accuracy" in r) if known else "predictions" in r)
              and (known or (agreement_of(r) or {"top1": 1.0}).get("top1") is not None)]  # fmt: skip
    engines = list(dict.fromkeys(record["engine"] for record, _ in points))
    for record, share in points:
        speed = next(iter(record["timings"].values()))["statistics"]["fps_median"]
        axes.plot(speed, 100 * share, LOOKS[record["precision"]][2], markersize=8, markeredgecolor="black",
                  markerfacecolor=FILLS[engines.index(record["engine"]) % len(FILLS)], linestyle="none",
                  label=case_of(record).rsplit(" ", 1)[0])  # fmt: skip
    axes.set(xlabel="images/s", ylabel="top-1 accuracy, %" if known else "images with native's first class, %",
             title="Is it still the same model?")  # fmt: skip
    axes.grid(alpha=0.4)
    if not points:
        axes.text(0.5, 0.5, "no outputs", ha="center", transform=axes.transAxes)
        return
    lowest = min(100 * share for _, share in points)
    room = max(3.0, 0.1 * (100 - lowest))
    axes.set_ylim(lowest - room, 100 + room / 3)
    axes.set_yticks([tick for tick in axes.get_yticks() if lowest - room <= tick <= 100])
    axes.set_xlim(0, 1.15 * axes.dataLim.xmax)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.10g}")
    once = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(once.values(), once.keys(), loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=5, ncols=2,
                fontsize=8)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- page

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#111}
table{border-collapse:collapse;margin:1em 0}th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ccc}
th{vertical-align:bottom}th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}svg{max-width:100%;height:auto}"""


def page(records: list[Record], figure: Any) -> str:
    """One self-contained HTML page: table, picture, sentences, environment, calibration."""
    figure.savefig(buffer := io.StringIO(), format="svg")
    svg = buffer.getvalue()
    native, head = native_speeds(records), "".join(f"<th>{title.replace(chr(10), '<br>')}" for title in TITLES)
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>tensorrt.py</title>", f"<style>{STYLE}</style>"]
    parts.append("<h1>What does TensorRT buy this model, and is it still the same model?</h1>")
    for device, group in devices_of(records).items():
        rows = "".join("<tr><td>" + "<td>".join(map(html.escape, row)) for row in rows_of(group, native))
        parts.append(f"<h2>{html.escape(device)}</h2><table><tr>{head}{rows}</table>")
    parts.append(svg[svg.index("<svg") :])
    sections = {"Together": together_lines, "Slowest": slowest_lines, "Accuracy": accuracy_lines, "Notes": note_lines,
                "Calibration": calibration_lines, "Environment": environment_lines}  # fmt: skip
    for title, find in sections.items():
        if items := "".join(f"<li>{html.escape(line)}" for line in find(records)):
            parts.append(f"<h2>{title}</h2><ul>{items}</ul>")
    return "\n".join(parts) + "</html>\n"


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
                  "graph " + ", ".join(f"{key} {value}" for key, value in graph.items())]  # fmt: skip
    return list(dict.fromkeys(lines))


# --------------------------------------------------------------------------------------------------------- comparison


def newest(records: list[Record]) -> dict[tuple[Any, ...], Record]:
    """The newest record of each case on each device."""
    names = ("device", "network", "engine", "precision", "batch_size")
    return {tuple(str(record.get(name)) for name in names): record for record in records}


def obstacles(key: tuple[Any, ...], new: Record, before: dict[tuple[Any, ...], Record]) -> list[str]:
    """What forbids the comparison of a case's new record with the one before, named."""
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


Ends = tuple[float, float, float]  # a number, and the low and the high end of its interval


def ratio_of(new: dict[str, Any], old: dict[str, Any]) -> Ends:
    """New to old images/s with its interval: of the undisturbed speeds, or of medians where one has none."""
    n, o = new["statistics"], old["statistics"]
    by = "fps_undisturbed" if "fps_undisturbed" in n.keys() & o.keys() else "fps_median"
    return ratio_of_estimates(speed_of(n, by), speed_of(o, by))


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
    print(f"\n{output} written")


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
