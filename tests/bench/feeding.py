"""What feeding an engine from the host costs: bursts from the host against bursts on the resident batch, in turn.

python tests/bench/feeding.py --fp16 --engine=xla --batch_size=128 [--host_dtype=uint8]
"""

import os
import statistics
import sys

from overhead import opened

ROUNDS = 6


def main():
    bench, job, runner = opened(sys.argv)
    batch = job.batch()
    ratios = []
    for _ in range(ROUNDS):
        resident = bench.time_resident(runner, job).throughput
        host = bench.time_host(runner, job, batch).throughput
        ratios.append(host / resident)
    print(f"{job.case}, {job.dtype} from the host: {statistics.median(ratios):.3f} of the resident burst "
          f"({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} rounds in turn; {resident:,.0f} images/s resident; "
          f"load {os.getloadavg()[0]:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
