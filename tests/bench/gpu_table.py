"""The measurements behind README's table of a GPU: runs what is still missing, prints a table, and
writes README's own.

    python tests/bench/gpu_table.py --output_dir=DIR --seconds=520   runs cases until the time is up
    python tests/bench/gpu_table.py --only=tensorrt_int8 …           of one engine and precision
    python tests/bench/gpu_table.py --table=DIR/results.jsonl        a table of all its records
    python tests/bench/gpu_table.py --readme                         README's, of the kept records

Each case is `tensorrt.py`'s own, with native beside it in the same run. What DIR/results.jsonl
holds already for this TensorFlow and this version of the engine is not run again, so that a machine
that is lent for minutes can be used again and again. Ratios are the records' own: to the native of
the same run. The last record of a case is the one that a table has. --readme takes README_ROWS
from the files of KEPT, and has report.py draw README's picture of the first of them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from overhead import load

ROOT = Path(__file__).resolve().parents[2]
# engine, precision, batch sizes: what is worth most stands first
QUEUE = [
    ("tensorrt", "int8", "8,128"),
    ("tensorrt", "fp16", "8,128"),
    ("xla", "fp16", "8,128"),
    ("tftrt", "fp16", "8"),
    ("tensorrt", "fp16", "1,32,256"),
    ("tensorrt", "int8", "1,32,256"),
    ("tensorrt", "fp32", "8,128"),
    ("xla", "fp16", "1,32,256"),
    ("tftrt", "int8", "8"),
    ("tftrt", "fp32", "8"),
    ("tftrt", "fp16", "128"),
    ("tftrt", "int8", "128"),
    ("tensorrt", "fp32", "1,32,256"),
    ("xla", "fp32", "1,8,32,128,256"),
    ("onnxruntime", "fp16", "1,8,128"),
    ("tftrt", "fp32", "128"),
]
DATA = ROOT / "tests" / "data"
KEPT = (DATA / "h200_tensorrt.jsonl", DATA / "h200_tftrt.jsonl")
README, PICTURE = ROOT / "README.md", KEPT[0].with_suffix(".png")
FROM_HERE, TO_HERE = (f"<!-- the table of a GPU: {word} here -->\n" for word in ("from", "to"))
README_SIZE = 128  # images a step, which lie on the device
# By row_of: of TensorRT 8.6.0's runs, whatever else is kept; then of TF-TRT's, whose records do
# not tell TensorRT's version: TensorFlow 2.14.1 brings 8.5.3.
README_ROWS = {
    ("2.21.0", "native", "native", "2.21.0"): "native, TensorFlow 2.21.0",
    ("2.21.0", "xla", "fp16", "2.21.0"): "XLA FP16",
    ("2.21.0", "tensorrt", "fp32", "tensorrt 8.6.0"): "TensorRT 8.6.0 FP32",
    ("2.21.0", "tensorrt", "fp16", "tensorrt 8.6.0"): "TensorRT 8.6.0 FP16",
    ("2.21.0", "tensorrt", "int8", "tensorrt 8.6.0"): "TensorRT 8.6.0 INT8",
    ("2.14.1", "native", "native", "2.14.1"): "native, TensorFlow 2.14.1",
    ("2.14.1", "tftrt", "fp32", "2.14.1"): "[TF-TRT](docs/tftrt.md) FP32, TensorRT 8.5.3",
    ("2.14.1", "tftrt", "fp16", "2.14.1"): "TF-TRT FP16, TensorRT 8.5.3",
    ("2.14.1", "tftrt", "int8", "2.14.1"): "TF-TRT INT8, TensorRT 8.5.3",
}
README_HEAD = """\
| | images/s, each step waited for | enqueued | times its native | file | build |
|---|---|---|---|---|---|
"""
# a cell's native is often not the one that the table shows: each run has its own
HEADING = "images/s, waited / enqueued (times the native of its own run)"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", default="/tmp/gpu_table")
    parser.add_argument("--seconds", type=float, default=520)
    cases = list(dict.fromkeys(f"{engine}_{precision}" for engine, precision, _ in QUEUE))
    parser.add_argument("--only", choices=cases)
    parser.add_argument("--table")
    parser.add_argument("--readme", action="store_true")
    given, flags = parser.parse_known_args()
    if given.readme:
        write_readme()
    elif not given.table:
        measure(given, flags)
    elif Path(given.table).exists():
        print(table(read_records(Path(given.table))))
    else:
        parser.error(f"--table={given.table}: no such file")


def measure(given, flags):
    """Runs what is missing of QUEUE until the time is up."""
    bench = load()
    folder = Path(given.output_dir)
    until = time.monotonic() + given.seconds
    for engine, precision, sizes in QUEUE:
        if given.only not in (None, f"{engine}_{precision}"):
            continue
        reason = bench.ENGINES[engine].why_not(precision)
        versions = bench.version_of("tensorflow"), bench.ENGINES[engine].version()
        done = measured(read_records(folder / "results.jsonl"), engine, precision, *versions)
        missing = [size for size in sizes.split(",") if int(size) not in done]
        left = until - time.monotonic()
        if reason or not missing or left < 20:
            print(
                f"{engine} {precision} {sizes}: "
                f"{reason or ('no time left' if missing else 'kept')}",
                flush=True,
            )
            continue
        run(engine, precision, missing, folder, left, flags)


def read_records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measured(records, engine, precision, tensorflow, version):
    """The batch sizes at which this TensorFlow and this version of the engine ran the precision."""
    asked = tensorflow, engine, precision, version
    return {r["batch_size"] for r in records if r["status"] == "ok" and row_of(r) == asked}


def run(engine, precision, sizes, folder, seconds, flags):
    """One run of the program, ended when the time is up: what it measured until then is kept."""
    command = [
        sys.executable,
        str(ROOT / "tensorrt.py"),
        "--native",
        f"--{precision}",
        f"--engine={engine}",
    ]
    command += [f"--batch_size={','.join(sizes)}", f"--output_dir={folder}", *flags]
    graph = folder / "resnet50_v2.pb"
    if graph.exists() and not any("graph" in flag or "model" in flag for flag in flags):
        command += [f"--frozen_graph={graph}", "--preprocessing=inception"]
    print("$", *command[1:], flush=True)
    start = time.monotonic()
    try:
        subprocess.run(command, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print("the time is up", flush=True)
    print(f"[{time.monotonic() - start:.0f} s, load {os.getloadavg()[0]:.1f}]", flush=True)


def table(records):
    """A Markdown table: a row for each stack, engine and precision, a column for each
    batch size; the last record of a case is its cell.
    """
    newest = newest_of(records)
    sizes = sorted({key[-1] for key in newest})
    rows = list(dict.fromkeys(key[:-1] for key in newest))
    lines = [f"| {HEADING} | " + " | ".join(map(str, sizes)) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for row in sorted(rows, key=lambda row: (row[0], row[1] != "native")):
        cells = [cell(newest.get((*row, size))) for size in sizes]
        lines.append(f"| {name_of(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def newest_of(records):
    """The last record of each row and batch size whose input lay on the device."""
    return {
        (*row_of(r), r["batch_size"]): r
        for r in records
        if r["status"] == "ok" and "device" in r["timings"]
    }


def row_of(record):
    """TensorFlow's version, engine, precision and the engine's version."""
    tensorflow = record["versions"]["tensorflow"]
    return tensorflow, record["engine"], record["precision"], record["engine_version"]


def name_of(row):
    """As `TensorFlow 2.21.0: tensorrt 8.6.0 FP16`; engines of TensorFlow's have its version."""
    tensorflow, engine, precision, version = row
    if engine == "native":
        return f"TensorFlow {tensorflow}: native"
    if version.startswith(engine):
        engine = version
    elif version != tensorflow:
        engine += f" {version}"
    return f"TensorFlow {tensorflow}: {engine} {precision.upper()}"


def cell(record):
    """Images/s of a case, each step waited for and enqueued, and how many times native's
    that is.
    """
    if record is None:
        return ""
    text, times = " / ".join(speeds(record)), times_native(record)
    return f"{text} ({times})" if times else text


def speeds(record):
    """Images/s with the input on the device: of steps that are waited for, and enqueued."""
    timing = record["timings"]["device"]
    numbers = timing["statistics"]
    waited = numbers.get("fps_typical", numbers["fps_median"])
    return f"{waited:,.0f}", f"{timing['throughput']:,.0f}"


def times_native(record):
    """How many times the speed of native in the same run, or "" where none ran."""
    rated = record.get("times_native") or {}
    return f"{rated['device']['value']:.2f}" if "device" in rated else ""


def write_readme():
    """Puts README's table and picture of the kept records in their places."""
    README.write_text(with_table(README.read_text(), readme_table(kept_records())))
    words = [sys.executable, str(ROOT / "report.py"), str(KEPT[0]), f"--output={PICTURE}"]
    subprocess.run(words, check=True)


def kept_records():
    return [record for path in KEPT for record in read_records(path)]


def with_table(text, lines):
    """A text with these lines between its two marks."""
    before, rest = text.split(FROM_HERE)
    _, after = rest.split(TO_HERE)
    return before + FROM_HERE + lines + TO_HERE + after


def readme_table(records):
    """README's table: README_ROWS at README_SIZE."""
    newest = newest_of(records)
    lines = [README_HEAD]
    for row, name in README_ROWS.items():
        record = newest[(*row, README_SIZE)]
        size = f"{record['artifact']['bytes'] / 1e6:.0f} MB"
        cells = [name, *speeds(record), times_native(record), size, building(record)]
        lines.append(f"| {' | '.join(cells)} |\n".replace("|  |", "| |"))
    return "".join(lines)


def building(record):
    """How long a case took to build, and what else that depends on."""
    if record["engine"] == "native":
        return ""
    proof = record["artifact"]["proof"]
    text = f"{record['artifact']['build_seconds']:.0f} s"
    if record["engine"] == "xla":  # compiles in its first run
        text += f", then {record['timings']['device']['first_run']:.0f} s of compiling"
    if "timing_cache" in proof:
        text += f" (timing cache {proof['timing_cache']})"
    if "engine_build_seconds" in proof:
        text += f", of which {proof['engine_build_seconds']:.0f} at every opening"
    return text


if __name__ == "__main__":
    sys.exit(main())
