"""What each option of ONNX Runtime's CUDA provider gains, one by one, on the same graph.

    python tests/bench/ort_options.py --batch_size=1,8,128 [--fp32] [flags of tensorrt.py]

Prints images/s waited for and enqueued, and how many times the first row's that is. The first row
has none of them and is measured again at the end, which shows how far the machine moved meanwhile.
"""

import os
import sys

import plans
from overhead import load

OPTIONS = {
    "none": {},
    "prefer_nhwc": {"prefer_nhwc": 1},
    "CUDA graph": {"enable_cuda_graph": 1},
    "prefer_nhwc, CUDA graph": {"prefer_nhwc": 1, "enable_cuda_graph": 1},
    "heuristic search": {"cudnn_conv_algo_search": "HEURISTIC"},
    "use_tf32=0": {"use_tf32": 0},
    "none, again": {},
}
SETTLING = 10  # steps before the clock
bench = load()


def measured(job, artifact, settings):
    """Images/s waited for and enqueued, or what ONNX Runtime says where it refuses."""
    try:
        provider = bench.ENGINES["onnxruntime"].provider()
        runner = bench.OnnxRuntimeRunner(job, artifact, job.batch(), provider, settings)
        bench.repeat(runner.enqueue, SETTLING)  # the first searches for kernels
        runner.sync()
        return plans.speeds(bench, runner, job.case.batch_size)
    except Exception as error:
        return bench.one_line(error)


def compare(job):
    """Prints a row for each option of one case."""
    if not job.source:
        sys.exit(f"ort_options.py: {job.error}")
    artifact = bench.ENGINES["onnxruntime"].build(job)
    plain = None
    for name, settings in OPTIONS.items():
        found = measured(job, artifact, settings)
        plain = plain or found
        if isinstance(found, str) or isinstance(plain, str):
            print(f"{job.case} {name}: {found}", flush=True)
            continue
        waited, enqueued = found
        print(
            f"{job.case} {name}: {waited:,.0f} images/s waited ({waited / plain[0]:.2f}), "
            f"{enqueued:,.0f} enqueued ({enqueued / plain[1]:.2f})",
            flush=True,
        )


def main():
    provider = bench.ENGINES["onnxruntime"].provider()
    if not provider.startswith("CUDA"):
        sys.exit(f"ort_options.py: these are options of the CUDA provider, and this is {provider}")
    flags = [word for word in sys.argv[1:] if word != "--fp32"]
    precision = "fp32" if "--fp32" in sys.argv else "fp16"
    words = [sys.argv[0], "--preprocessing=inception", "--noisolate", *flags]
    config = bench.parse_flags([*words, f"--{precision}", "--engine=onnxruntime"])
    os.makedirs(config.output_dir, exist_ok=True)
    for job in bench.make_jobs(config, bench.load_model(config)):
        compare(job)
    print(f"{bench.device_name(config)}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
