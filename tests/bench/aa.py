"""One command again and again, every pair of runs given to `report.py --compare`, verdicts counted.

    python tests/bench/aa.py --runs=10 [--keep=FOLDER] [--warm_up] [flags of tensorrt.py]
    python tests/bench/aa.py --runs=10 --plant=10 [flags of tensorrt.py]
    python tests/bench/aa.py --of=FOLDER

A program compared with itself should be `same`. With --plant=10 every other run has engines that do
10 % more work in every step (planted.py), and a run with them compared with one without should be
`slower`. With --warm_up a run comes first that is not counted: it builds the plans and chooses the
kernels that the others take. What runs wrote is kept in FOLDER (default: aa); --of counts the
verdicts of what is kept there and runs nothing. `in doubt` is where report.py says that the
hypervisor took cores of the slower run. Last come the smallest of some slowdowns (3 % and more)
that nine in ten pairs, in both orders, would find, by making the speeds of one run of each slower.
"""

import argparse
import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

from overhead import load

HERE = Path(__file__).resolve().parent
SLOWDOWNS = (3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50)  # per cent
FOUND = 0.9  # of the pairs in which a slowdown must be found
report = load("report", "report.py")


def run(folder, name, plant, flags):
    """One run, whose records become FOLDER/NAME.jsonl; plans stay in FOLDER/out for the next."""
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    script = HERE / "planted.py" if plant else HERE.parents[1] / "tensorrt.py"
    words = [sys.executable, str(script), *flags, f"--output_dir={out}"]
    env = {**os.environ, "PLANT": str(plant)}
    ran = subprocess.run(words, env=env, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"aa.py: {' '.join(words)} ended with {ran.returncode}: {ran.stderr}")
    (out / "results.jsonl").rename(folder / f"{name}.jsonl")


def verdicts(new, old):
    """By case what report.py --compare says: `same`, `faster`, `slower` or why not."""
    return {row.case: in_short(row.verdict) for row in report.compare(new, old)}


def in_short(verdict):
    """A verdict's first words, and whether it doubts itself."""
    doubted = " in doubt" * ("hypervisor" in verdict)
    return verdict.partition(" (")[0].partition(":")[0] + doubted


def count(pairs):
    """Prints how often each verdict was given, case by case; returns the counts."""
    counts = {}
    for new, old in pairs:
        for case, verdict in verdicts(new, old).items():
            counts.setdefault(case, []).append(verdict)
    for case, found in counts.items():
        kinds = sorted(set(found), key=found.count, reverse=True)
        text = ", ".join(f"{found.count(kind)} {kind}" for kind in kinds)
        print(f"  {case}: {text} of {len(found)} pairs")
    return counts


def slowed(records, percent):
    """The records as if every step had taken so much longer."""
    records = copy.deepcopy(records)
    for timing in itertools.chain.from_iterable(record.timings.values() for record in records):
        for name in timing.statistics:
            if name.startswith("fps"):
                timing.statistics[name] /= 1 + percent / 100
    return records


def smallest_found(pairs):
    """By case the smallest of SLOWDOWNS that is found in FOUND of the pairs, or none."""
    smallest = {}
    for percent in SLOWDOWNS:
        found = {}
        for new, old in pairs:
            for case, verdict in verdicts(slowed(new, percent), old).items():
                found.setdefault(case, []).append(verdict.startswith("slower"))
        for case, hits in found.items():
            if sum(hits) >= FOUND * len(hits):
                smallest.setdefault(case, percent)
    return smallest


def speeds(runs):
    """A line a case: what each run said."""
    lines = {}
    for records in runs:
        for record in records:
            for timing in record.timings.values():
                numbers = timing.statistics
                pair = [f"{numbers[f'fps_{name}']:,.0f}" for name in ("typical", "undisturbed")]
                lines.setdefault(record.case, []).append("/".join(pair))
    return [f"  {case}: {' '.join(found)}" for case, found in lines.items()]


def parse(argv):
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--warm_up", action="store_true")
    parser.add_argument("--plant", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--keep", type=Path, default=Path("aa"))
    parser.add_argument("--of", type=Path)
    return parser.parse_known_args(argv[1:])


def measure(options, flags):
    """Makes the runs, every other one planted where that is asked for."""
    if list(options.keep.glob("*.jsonl")):
        sys.exit(f"aa.py: {options.keep} has runs already: pass another --keep, or count with --of")
    if options.warm_up:
        run(options.keep, "warm-up", 0, flags)
    for turn in range(options.runs):
        planted = options.plant if turn % 2 else 0
        run(options.keep, f"{'planted' if planted else 'plain'}-{turn:03}", planted, flags)
        done = f"run {turn + 1} of {options.runs}{' (planted)' if planted else ''}"
        print(f"{done}, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)


def main():
    options, flags = parse(sys.argv)
    folder = options.of or options.keep
    if not options.of:
        measure(options, flags)
    plain, planted = (
        [report.merged([str(path)]) for path in sorted(folder.glob(f"{kind}-*.jsonl"))]
        for kind in ("plain", "planted")
    )
    device = plain[0][0].device
    print(f"{len(plain)} runs, typical/undisturbed images/s on {device}:", *speeds(plain), sep="\n")
    pairs = list(itertools.combinations(plain, 2))
    print("the same program:")
    count(pairs)
    if planted:
        print(f"{len(planted)} runs with slower engines:", *speeds(planted), sep="\n")
        count(list(itertools.product(planted, plain)))
    smallest = smallest_found(list(itertools.permutations(plain, 2)))
    print(f"smallest slowdown found in {FOUND:.0%} of the pairs, in both orders:")
    for case in (record.case for record in plain[0]):
        print(f"  {case}: {smallest.get(case, f'over {SLOWDOWNS[-1]}')} %")


if __name__ == "__main__":
    main()
