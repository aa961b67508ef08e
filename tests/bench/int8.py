"""ONNX Runtime's INT8 against its FP32 on this CPU, and how long the graphs take to make.

    python tests/bench/int8.py [flags of tensorrt.py]

ResNet-50 v2, batch 8, calibrated on 16 images, the two sessions timed in turn; then tensorrt-rtx's
three plans.
"""

import os
import statistics
import sys
import tempfile
import time

from overhead import load

ROUNDS = 12


def main():
    bench = load()
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--noisolate",
            "--preprocessing=inception",
            "--batch_size=16",
            f"--output_dir={folder}",
        ]
        config = bench.parse_flags([sys.argv[0], *flags, *sys.argv[1:]])
        graph = bench.load_graph(config)
        images = bench.load_images(config, graph, 16)
        onnx = bench.Onnx(config, graph, images)
        seconds, runners = {}, {}
        for precision in ("fp32", "int8"):
            case = bench.Case("onnxruntime", precision, 8)
            start = time.perf_counter()
            artifact = onnx.write(case)
            seconds[precision] = time.perf_counter() - start
            job = bench.Job(case, config, graph, images, artifact)
            runners[precision] = bench.ENGINES["onnxruntime"].open(job, artifact, job.batch())
            numbers = {n: v for n, v in artifact.facts.items() if isinstance(v, float)}
            print(precision, {name: round(value, 3) for name, value in numbers.items()})
        ratios = []
        for _ in range(ROUNDS):
            step = {
                name: statistics.median(bench.time_steps(runner.enqueue, 5))
                for name, runner in runners.items()
            }
            ratios.append(step["fp32"] / step["int8"])
        print(
            f"INT8 runs at {statistics.median(ratios):.2f} times FP32 ({min(ratios):.2f} to "
            f"{max(ratios):.2f}, {ROUNDS} rounds in turn)"
        )
        print(
            f"export {seconds['fp32']:.1f} s; folding, calibration on 16, quantisation "
            f"{seconds['int8']:.1f} s"
        )
        build_plans(bench, config, graph, images, onnx)
    print(f"{bench.device_name(config)}, load {os.getloadavg()[0]:.1f}")


def build_plans(bench, config, graph, images, onnx):
    engine, total = bench.ENGINES["tensorrt"], 0.0
    if engine.why_not_build("fp32"):
        print(f"tensorrt: {engine.why_not_build('fp32')}")
        return
    for precision in ("fp32", "fp16", "int8"):
        case = bench.Case("tensorrt", precision, 8)
        job = bench.Job(case, config, graph, images, onnx.write(case))
        start = time.perf_counter()
        plan = engine.build(job)
        total += time.perf_counter() - start
        print(f"{engine.version()} {precision}: {os.path.getsize(plan.path) / 1e6:.1f} MB")
    print(f"three plans from ONNX in {total:.1f} s")


if __name__ == "__main__":
    main()
