"""What all GPUs of a machine do together, against the first of them alone, in turn.

    python tests/bench/box.py --fp16 --engine=xla --batch_size=128 --gpus=all
    python tests/bench/box.py --fp32 --engine=onnxruntime --batch_size=8 --gpus=cpu:2

The first engine and precision that the flags name, as the program runs it: a process for each GPU,
which meet before every loop. Prints the ratio of the sum of the bursts to the burst of the first
GPU alone.
"""

import os
import statistics
import sys

from overhead import first_job, load

ROUNDS = 4
fleet = load("fleet", "fleet.py")  # at the top: the cases' processes load this file too


def bursts(job, placements):
    """Images/s of the bursts of one round on each of these placements at once."""
    team = fleet.Team(job, placements)
    try:
        team.take_turn([])
        return [next(iter(result.timings.values())).throughput for result in team.results()]
    finally:
        team.close()


def main():
    job = first_job(fleet.bench, sys.argv)
    placements, ratios = fleet.choose_placements(job.config.gpus), []
    for _ in range(ROUNDS):
        alone, together = (bursts(job, chosen) for chosen in (placements[:1], placements))
        ratios.append(sum(together) / alone[0])
        sums = " + ".join(f"{speed:,.0f}" for speed in together)
        print(f"alone {alone[0]:,.0f}, together {sums} images/s", flush=True)
    load_now = os.getloadavg()[0]
    print(
        f"{job.case}: {len(placements)} together do {statistics.median(ratios):.3f} times one "
        f"alone ({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} rounds in turn; load "
        f"{load_now:.1f})"
    )


if __name__ == "__main__":
    main()
