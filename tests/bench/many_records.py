"""Seconds and memory that report.py takes for many records: table, picture, page, comparison.

    python tests/bench/many_records.py [--records=10000] [--runs=5] [--steps=100] [--keep=FOLDER]

The records are a fleet's: real ones of four precisions (tests/data/records_2.jsonl), at four batch
sizes, on so many devices that each case ran --runs times; --runs=1 gives every record a row of its
own. Each has --steps steps in each of two places of its input, in five rounds, with speeds,
times and notes of its own. A line a command: seconds, how many of them it had a core, and the
highest memory of its process.
"""

import argparse
import copy
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT / "tests" / "data" / "records_2.jsonl"
BATCH_SIZES = (1, 8, 32, 128)
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


def parse(argv):
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5, help="of each case on each device")
    parser.add_argument("--steps", type=int, default=100, help="of each timing")
    parser.add_argument("--keep", type=Path, help="folder for the records and what is drawn")
    return parser.parse_args(argv)


def fleet(count, runs, steps):
    """Yields the records, run by run, device by device."""
    real = [json.loads(line) for line in REAL.read_text().splitlines()]
    cases = len(real) * len(BATCH_SIZES)
    devices = -(-count // (cases * runs))
    pick = random.Random(0)
    for index in range(count):
        run, rest = divmod(index, cases * devices)
        device, case = divmod(rest, cases)
        size = BATCH_SIZES[case // len(real)]
        record = at_batch_size(real[case % len(real)], size, pick, steps)
        when = START + datetime.timedelta(hours=run, seconds=index)
        kind = record["device"]
        record |= {
            "time": when.isoformat(timespec="seconds"),
            "batch_size": size,
            "device": f"{kind} (node-{device // 8}, gpu{device % 8})",
            "device_kind": kind,
        }
        record["notes"].append(f"device input: the speed moved by {pick.random():.4%}")
        yield record


def at_batch_size(record, size, pick, steps):
    """The record as of another batch size and another run, with so many steps."""
    faster = size**0.3 * pick.lognormvariate(0, 0.05)
    longer = size / record["batch_size"] / faster
    record = copy.deepcopy(record)
    for timing in record["timings"].values():
        usual = timing["statistics"]["latency_median"] * longer
        timing["seconds"] = [usual * pick.lognormvariate(0, 0.03) for _ in range(steps)]
        timing["throughput"] *= faster
        for name in timing["statistics"]:
            if name.startswith("fps"):
                timing["statistics"][name] *= faster
            elif name.startswith("latency"):
                timing["statistics"][name] *= longer
    record["rounds"] = [rounds_of(record, part) for part in range(5)]
    return record


def rounds_of(record, part):
    """A fifth of the steps, as a round."""
    found = {}
    for inputs, timing in record["timings"].items():
        share = len(timing["seconds"]) // 5
        found[inputs] = {
            "seconds": timing["seconds"][part * share : (part + 1) * share],
            "throughput": timing["throughput"],
            "first_run": timing["first_run"],
            "clocks": timing["clocks"],
        }
    return found


def measure(name, words, out):
    """Runs a command, and prints its seconds and its memory."""
    command = [sys.executable, str(ROOT / "report.py"), *map(str, words)]
    start = time.perf_counter()
    with out.open("w") as stdout, subprocess.Popen(command, stdout=stdout) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    memory = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    load = os.getloadavg()[0]
    cpu = usage.ru_utime + usage.ru_stime
    ended = f"status {process.returncode}, load {load:.1f}"
    print(
        f"{name:10} {seconds:5.1f} s ({cpu:.1f} with a core)  {memory:4.0f} MB  {ended}", flush=True
    )


def main():
    options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        many, one = folder / "many.jsonl", folder / "one.jsonl"
        with many.open("w") as lines:
            for record in fleet(options.records, options.runs, options.steps):
                lines.write(json.dumps(record) + "\n")
        one.write_text(json.dumps(record) + "\n")
        megabytes = many.stat().st_size / 1e6
        print(
            f"{options.records:,} records, {megabytes:,.0f} MB; {os.cpu_count()} cores", flush=True
        )
        measure("table", [many, f"--compare={one}"], folder / "table.txt")
        measure("picture", [many, f"--output={folder / 'many.png'}"], folder / "picture.txt")
        measure("page", [many, f"--output={folder / 'many.html'}"], folder / "page.txt")
        measure("comparison", [many, f"--compare={many}"], folder / "comparison.txt")


if __name__ == "__main__":
    main()
