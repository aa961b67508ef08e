"""What feeding an engine from the host costs: bursts from the host against bursts on the resident batch, in turn.

python tests/bench/feeding.py --fp16 --engine=xla --batch_size=128 [--host_dtype=uint8]
"""

import os
import statistics
import sys

from overhead import load

ROUNDS = 6


def main():
    bench = load()
    config = bench.parse_flags([sys.argv[0], "--noisolate", "--preprocessing=inception", *sys.argv[1:]])
    os.makedirs(config.output_dir, exist_ok=True)
    graph = bench.load_graph(config)
    size = config.batch_sizes[0]
    images = bench.load_images(config, graph, size)
    case = bench.choose_cases(config, [size])[0]
    job = bench.make_job(case, config, graph, images, bench.Onnx(config, graph, images))
    engine, batch = bench.ENGINES[case.engine], job.batch()
    runner = engine.open(job, engine.build(job), batch)
    ratios = []
    for _ in range(ROUNDS):
        resident = bench.time_resident(runner, job).throughput
        host = bench.time_host(runner, job, batch).throughput
        ratios.append(host / resident)
    print(f"{case}, {job.dtype} from the host: {statistics.median(ratios):.3f} of the resident burst "
          f"({min(ratios):.3f} to {max(ratios):.3f}, {ROUNDS} rounds in turn; {resident:,.0f} images/s resident; "
          f"load {os.getloadavg()[0]:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
