"""How often the interval of each estimator over rounds holds what other runs say, and how wide it
is.

    python tests/bench/coverage.py [results.jsonl or rounds.jsonl ...]

Recorded series (tests/data/rounds.jsonl: one command again and again on two shared cores) and
synthetic ones. What is to be held is the median of the other runs' numbers, for synthetic series
that of many runs. A cell says how many of a hundred intervals held it, and half their median width
in per cent. The seed is fixed: the same table every time.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from overhead import load

bench = load()

RECORDED = Path(__file__).resolve().parents[1] / "data" / "rounds.jsonl"
# Rounds after which a run of 120 may stop
LOOKS = (*range(bench.LEAST_ROUNDS, 16), *range(16, 120, 8))
RUNS = 200  # of each synthetic series
STOPPED = 60  # of each, stopped as --num_loops=auto would
STEPS = 20  # of a synthetic round
# Student's t, 97.5 %, by degrees of freedom
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


# --------------------------------------------------------------------------------- synthetic series


def independent(rounds, random):
    """Each round is 3 % off by itself."""
    return random.normal(0, 0.03, rounds)


def disturbed(rounds, random):
    """Others slow each round down, by 8 % in the mean."""
    return random.exponential(0.08, rounds)


def drift(rounds, random):
    """The speed drifts over the run, 5 % up or down."""
    return random.normal(0, 0.05) * np.linspace(-0.5, 0.5, rounds) + random.normal(0, 0.01, rounds)


def wander(rounds, random):
    """An autoregressive walk: neighbours have 0.8 of their deviation of 4 % in common."""
    level = random.normal(0, 0.04)
    found = []
    for _ in range(rounds):
        level = 0.8 * level + random.normal(0, 0.04 * 0.6)
        found.append(level)
    return np.array(found)


def regimes(stay):
    """Two speeds, 35 % apart, the slow one a third of the time, for `stay` rounds in the mean."""

    def series(rounds, random):
        slow, found = random.random() < 1 / 3, []
        for _ in range(rounds):
            found.append(0.3 * slow)
            if random.random() < (1 / stay if slow else 0.5 / stay):
                slow = not slow
        return np.array(found) + random.normal(0, 0.005, rounds)

    return series


def run_apart(rounds, random):
    """Each run is 1 % off as a whole, which no run can see from within."""
    return random.normal(0, 0.01) + random.normal(0, 0.005, rounds)


SERIES = {
    "independent": independent,
    "disturbed": disturbed,
    "drift": drift,
    "wander": wander,
    "regimes, 2 rounds": regimes(2),
    "regimes, 10 rounds": regimes(10),
    "run apart": run_apart,
}


def steps_of(levels, random):
    """Seconds of the steps of rounds: a third of what slows a round spares its quiet steps."""
    shape = len(levels), STEPS
    disturbance = np.maximum(levels, 0)[:, None] * random.exponential(1 / 3, shape)
    return np.exp(levels[:, None] * 2 / 3 + disturbance + random.normal(0, 0.01, shape))


def synthetic(series, rounds, seed):
    """Runs of a case and of native in turn, half of whose deviation they have in common."""
    random = np.random.default_rng(seed)
    for _ in range(RUNS):
        common = series(rounds, random)
        yield [steps_of(common + random.normal(0, 0.005, rounds), random) for _ in range(2)]


# ---------------------------------------------------------------------------------- recorded series


def recorded(paths):
    """Runs by their series and case: each the rounds of the case, and native's of the same run."""
    runs = {}
    for line in itertools.chain.from_iterable(
        Path(path).read_text().splitlines() for path in paths
    ):
        row = json.loads(line)
        runs.setdefault((row["series"], row["run"]), {})[row["case"]] = row["rounds"]
    found = {}
    for (series, _), cases in runs.items():
        for case, rounds in cases.items():
            found.setdefault(f"{series}: {case}", []).append((rounds, cases["native native 4"]))
    return {name: regrouped(pairs) for name, pairs in found.items()}


def regrouped(pairs):
    """Runs of several rounds as they are; of runs of one loop, five at a time, every
    tenth choice.
    """
    if len(pairs[0][0]) > 1:
        return pairs
    chosen = itertools.islice(
        itertools.combinations(range(len(pairs)), bench.LEAST_ROUNDS), 0, None, 10
    )
    return [tuple([pairs[i][which][0] for i in group] for which in (0, 1)) for group in chosen]


# --------------------------------------------------------------------------------------- candidates


def student(values):
    """Student's t on rounds."""
    half = T[min(len(values) - 1, len(T)) - 1] * np.std(values, ddof=1) / np.sqrt(len(values))
    return bench.Estimate(np.median(values), np.median(values) - half, np.median(values) + half)


def order_statistics(values):
    """The median's interval by order statistics, as if rounds were independent."""
    return bench.Estimate(np.median(values), *bench.median_interval(values))


def bootstrap(values):
    """Percentiles of the medians of resampled rounds."""
    picks = np.random.default_rng(0).integers(0, len(values), (200, len(values)))
    ends = np.quantile(np.median(values[picks], axis=1), [0.025, 0.975])
    return bench.Estimate(np.median(values), *ends)


def fastest_three(values):
    """The fastest round, give or take what the three fastest lie apart."""
    low, _, high = np.sort(values)[:3]
    return bench.Estimate(low, 2 * low - high, high)


def student_low(values):
    """The quiet quantile, give or take Student's t on rounds."""
    low, half = np.quantile(values, bench.QUIET), student(values)
    return bench.Estimate(low, low - half.high + half.value, low + half.high - half.value)


def always_batches(values):
    """The quiet quantile, give or take how quiet batches differ, of many rounds too."""
    value, apart = np.quantile(values, bench.QUIET), bench.quiet_apart(values)
    return bench.Estimate(value, value - apart, value + apart)


def all_steps(rounds, _):
    """As if all steps were independent: what one loop was given until now."""
    return order_statistics(np.log(np.concatenate([np.asarray(seconds) for seconds in rounds])))


def of_rounds(estimator, share):
    return lambda rounds, _: estimator(bench.levels(rounds, share))


def of_pairs(estimator, share=0.5):
    return lambda rounds, native: estimator(
        bench.levels(native, share) - bench.levels(rounds, share)
    )


def of_ratio(rounds, native):
    """The ratio of two undisturbed speeds, each with its interval."""
    ours, theirs = (bench.quiet_end(bench.levels(each, bench.QUIET)) for each in (rounds, native))
    return bench.Estimate(theirs.value - ours.value, theirs.low - ours.high, theirs.high - ours.low)


CANDIDATES = {
    "typical": {
        "all steps, order statistics": all_steps,
        "rounds, order statistics": of_rounds(order_statistics, 0.5),
        "rounds, bootstrap": of_rounds(bootstrap, 0.5),
        "rounds, Student's t": of_rounds(student, 0.5),
        "**batches of rounds**": of_rounds(bench.middle, 0.5),
    },
    "undisturbed": {
        "fastest three rounds": of_rounds(fastest_three, bench.QUIET),
        "quiet quantile, Student's t": of_rounds(student_low, bench.QUIET),
        "quiet quantile, always batches": of_rounds(always_batches, bench.QUIET),
        "**quiet quantile, batches or order**": of_rounds(bench.quiet_end, bench.QUIET),
    },
    "times native": {
        "pairs, Student's t": of_pairs(student),
        "pairs, order statistics": of_pairs(order_statistics),
        "undisturbed over undisturbed": of_ratio,
        "**pairs, batches**": of_pairs(bench.middle),
    },
}


# ------------------------------------------------------------------------------------------- tables


def auto(rounds, native):
    """The rounds after which --num_loops=auto would have stopped."""
    for count in LOOKS:
        if bench.known_well_enough(rounds[:count], native[:count]):
            return rounds[:count], native[:count]
    return rounds, native


def held(estimates, others):
    """The share of estimates whose interval holds the median of the others' values, or of all."""
    values = np.array([estimate.value for estimate in estimates])
    inside = 0
    for index, estimate in enumerate(estimates):
        truth = np.median(np.delete(values, index) if others else values)
        inside += estimate.low <= truth <= estimate.high
    return inside / len(estimates)


def cell(estimates, others):
    width = np.median([estimate.high - estimate.low for estimate in estimates])
    return f"{100 * held(estimates, others):.0f} ({50 * width:.1f})"


def table(title, columns, others):
    """Prints a Markdown table: a row for each candidate, a column for each series."""
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, candidate in CANDIDATES[title].items():
        cells = [cell([candidate(*run) for run in runs], others) for runs in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def verdicts(columns):
    """Of all pairs of runs of one program: how many are the same, and how many slower
    ones found.
    """
    report = load("report", "report.py")
    print("\n| pairs | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, estimate in (("typical", bench.typical), ("**undisturbed**", bench.undisturbed)):
        for slower in (0, 5, 10, 15, 25):
            cells = []
            for runs in columns.values():
                estimates = [estimate(rounds, 4) for rounds, _ in runs]
                cells.append(verdict_share(report, estimates, slower))
            what = f"{slower} % slower found" if slower else "same"
            print(f"| {name}, {what} | " + " | ".join(cells) + " |")


def verdict_share(report, estimates, slower):
    found = []
    for old, new in itertools.permutations(estimates, 2):
        new = bench.Estimate(*(end / (1 + slower / 100) for end in new))
        ratio = report.widened(report.ratio_of_estimates(new, old), report.RUNS_APART)
        found.append(report.verdict(*ratio))
    return f"{100 * found.count('slower' if slower else 'same') / len(found):.0f}"


def main():
    columns = recorded(sys.argv[1:] or [RECORDED])
    print("Recorded: two shared cores, SqueezeNet 1.1, batch 4")
    for title in CANDIDATES:
        own = "native native" if title == "times native" else "none"  # native over native is one
        table(title, {name: runs for name, runs in columns.items() if own not in name}, True)
    verdicts(columns)
    for rounds in (5, 8, 20, 60):
        print(f"\nSynthetic: {RUNS} runs of {rounds} rounds")
        made = {name: list(synthetic(series, rounds, 1)) for name, series in SERIES.items()}
        for title in CANDIDATES:
            table(title, made, False)
    print(f"\nSynthetic, as --num_loops=auto stops: between {bench.LEAST_ROUNDS} and 120 rounds")
    stopped = {}
    for name, series in SERIES.items():
        runs = itertools.islice(synthetic(series, 120, 1), STOPPED)
        stopped[name] = [auto(*run) for run in runs]
    for title in CANDIDATES:
        table(title, stopped, False)
    counts = {
        name: np.median([len(rounds) for rounds, _ in runs]) for name, runs in stopped.items()
    }
    print("\nrounds: " + ", ".join(f"{name} {count:.0f}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
