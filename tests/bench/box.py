"""What all GPUs of a machine do together, against the first of them alone, in turn.

    python tests/bench/box.py --fp16 --engine=xla --batch_size=128 --gpus=all
    python tests/bench/box.py --fp32 --engine=onnxruntime --batch_size=8 --gpus=cpu:2

The first engine and precision that the flags name, as the program runs it: a process for each GPU, which meet before
every loop. Prints the ratio of the sum of the bursts to the burst of the first GPU alone.
"""

import os
import statistics
import sys

from overhead import load

ROUNDS = 4
bench = load()  # at the top: the cases' processes load this file too


def main():
    config = bench.parse_flags([sys.argv[0], "--preprocessing=inception", *sys.argv[1:]])
    os.makedirs(config.output_dir, exist_ok=True)
    graph, places = bench.load_isolated(config), bench.choose_places(config)
    size = config.batch_sizes[0]
    images, case = bench.load_images(config, graph, size), bench.choose_cases(config, [size])[0]
    job = bench.make_job(case, config, graph, images, bench.Onnx(config, graph, images))
    ratios = []
    for _ in range(ROUNDS):
        alone, together = (
            [next(iter(result.timings.values())).throughput for result in bench.run_together(job, chosen)]
            for chosen in (places[:1], places)
        )
        ratios.append(sum(together) / alone[0])
        print(
            f"alone {alone[0]:,.0f}, together {' + '.join(f'{speed:,.0f}' for speed in together)} images/s", flush=True
        )
    print(f"{case}: {len(places)} together do {statistics.median(ratios):.3f} times one alone ({min(ratios):.3f} to "
          f"{max(ratios):.3f}, {ROUNDS} rounds in turn; load {os.getloadavg()[0]:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
