"""What feeding an engine from the host costs: bursts from the host against bursts on the resident
batch, in turn.

python tests/bench/feeding.py --fp16 --engine=xla --batch_size=128 [--host_dtype=uint8]
"""

import os
import statistics
import sys

from overhead import opened

ROUNDS = 6


def main():
    _, case = opened([*sys.argv, "--inputs=both"])
    job, ratios = case.job, []
    for _ in range(ROUNDS):
        timings = case.measure_round(job.config.num_loops)
        resident, host = (timings[inputs].throughput for inputs in ("device", "host"))
        ratios.append(host / resident)
    print(
        f"{job.case}, {job.graph.dtype} from the host: {statistics.median(ratios):.3f} of the "
        f"burst ({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} rounds in turn; {resident:,.0f} "
        f"images/s resident; load {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
