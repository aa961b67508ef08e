#!/usr/bin/env python3
"""The table of the records that tensorrt.py wrote.

    python report.py results.jsonl [more.jsonl ...]

Records come in through results.jsonl alone; nothing here imports TensorFlow or tensorrt.py, which prints its own run
with `print_records`. Exit status: 0; 2 where a file cannot be read or a line of it is no record.
"""

from __future__ import annotations

import collections
import json
import sys
from pathlib import Path
from typing import Any

Record = dict[str, Any]
WIDTH = 100  # columns where stdout is no terminal
SHOWN_CLASSES = 5


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do."""


def console() -> Any:
    """rich's console on stdout; plain and 100 columns wide where that is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def name_of(record: Record) -> str:
    return record["precision"] if record["precision"] == "native" else record["precision"].upper()


def table_of(records: list[Record]) -> Any:
    """All cases side by side as a rich table, one unit a column, the best images/s marked with a star."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    titles = ("\nprecision", "\nengine", "\nbatch", "images/s\nmedian", "95 %\n±", "images/s\nburst", "vs\nnative",
              "p50\nms", "p99\nms", "top-1\nas native", "size\nMB", "build\ns")  # fmt: skip
    for title in titles:
        table.add_column(title, justify="left" if title in titles[:2] else "right", no_wrap=True)
    timed = [(record, inputs) for record in records for inputs in record["timings"]]
    speeds = {id(r["timings"][i]): r["timings"][i]["statistics"]["fps_median"] for r, i in timed}
    native = {
        (r["device"], r["batch_size"], i): speeds[id(r["timings"][i])] for r, i in timed if r["precision"] == "native"
    }
    for record in records:
        for row, inputs in enumerate(record["timings"] or [""]):
            timing = record["timings"].get(inputs)
            base = native.get((record["device"], record["batch_size"], inputs))
            cells = timing_cells(timing, base, max(speeds.values())) if timing else [record["status"], *[""] * 5]
            head = [name_of(record), record["engine"], str(record["batch_size"])] if not row else ["", "", ""]
            head[1] += " from host" if inputs == "host" and row else " (host)" if inputs == "host" else ""
            table.add_row(*head, *cells, *(artifact_cells(record) if not row else []))
    return table


def timing_cells(timing: dict[str, Any], native: float | None, best: float) -> list[str]:
    s = timing["statistics"]
    speed, half = s["fps_median"], max(s["fps_high"] - s["fps_median"], s["fps_median"] - s["fps_low"])
    return [f"{speed:,.1f}{'*' if speed == best else ' '}", f"{half:,.1f}", f"{timing['throughput']:,.1f}",
            f"{speed / native:.2f}x" if native else "", f"{1e3 * s['latency_median']:.2f}",
            f"{1e3 * s['latency_99th']:.2f}"]  # fmt: skip


def artifact_cells(record: Record) -> list[str]:
    artifact, same = record["artifact"] or {}, record.get("agreement")
    return [f"{same['top1']:.1%}" if same else "", f"{artifact['bytes'] / 1e6:.1f}" if artifact else "",
            f"{artifact['build_seconds']:.1f}" if artifact.get("build_seconds") else ""]  # fmt: skip


def predictions_table(records: list[Record]) -> Any:
    """The first image's classes with their probabilities, a column for each precision and engine."""
    from rich.table import Table

    shown = {(name_of(r), r["engine"]): r["predictions"][:SHOWN_CLASSES] for r in records if "predictions" in r}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    engines = collections.Counter(name for name, _ in shown)
    for name, engine in shown:
        table.add_column(name if engines[name] == 1 else f"{name} {engine}", no_wrap=True, max_width=40)
    for row in zip(*shown.values(), strict=True):
        table.add_row(*(f"{share:.3f} {label.split(',')[0]}" for label, share in row))
    return table


def accuracy_lines(records: list[Record]) -> list[str]:
    """Top-1 and top-5 accuracy of each case whose images have a known class."""
    return [f"{name_of(r)} {r['engine']} {r['batch_size']}: accuracy top-1 {r['accuracy']['top1']:.1%}, "
            f"top-5 {r['accuracy']['top5']:.1%}" for r in records if "accuracy" in r]  # fmt: skip


def note_lines(records: list[Record]) -> list[str]:
    """Every sentence once, behind the cases that it is about."""
    about = collections.defaultdict(list)
    for record in records:
        for note in [*record["notes"], *([record["error"]] if record["error"] else [])]:
            about[note].append(f"{name_of(record)} {record['engine']} {record['batch_size']}")
    return [f"{', '.join(dict.fromkeys(cases)) if len(cases) < 4 else f'{len(cases)} cases'}: {note}"
            for note, cases in about.items()]  # fmt: skip


def print_records(records: list[Record]) -> None:
    """The probabilities, the table and the sentences of some cases on stdout."""
    if not records:
        return
    out = console()
    if any("predictions" in record for record in records):
        print()
        out.print(predictions_table(records))
    print()
    out.print(table_of(records))
    for lines in (accuracy_lines(records), note_lines(records)):
        if lines:
            print("\n" + "\n".join(lines))


def read_records(path: str) -> list[Record]:
    """The records of a results.jsonl.

    Raises:
      UserError: the file cannot be read, or a line is no record; named with its number.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): pass a results.jsonl") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["timings"], record["precision"], record["notes"], record["device"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: no record of tensorrt.py: remove the line") from error
        records.append(record)
    return records


def main(argv: list[str]) -> int:
    """Prints the table of the files named and returns the exit status."""
    if len(argv) < 2 or argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0 if len(argv) > 1 else 2
    try:
        print_records([record for path in argv[1:] for record in read_records(path)])
    except UserError as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
