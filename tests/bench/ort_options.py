"""What each option of ONNX Runtime's CUDA provider gains, one by one, on the same graph.

    python tests/bench/ort_options.py --batch_size=1,8,128 [--fp32] [flags of tensorrt.py]

Prints images/s waited for and enqueued, and how many times the program's own settings that is.
These are measured first and last, which shows how far the machine moved meanwhile. CUDA graphs need
outputs that stay where they are, so that row binds them once. We have not run it on a GPU yet.
"""

import os
import sys

import numpy as np
import plans
from overhead import load

OPTIONS = {
    "as it is": {},
    "prefer_nhwc": {"prefer_nhwc": "1"},
    "CUDA graph": {"enable_cuda_graph": "1"},
    "prefer_nhwc, CUDA graph": {"prefer_nhwc": "1", "enable_cuda_graph": "1"},
    "heuristic search": {"cudnn_conv_algo_search": "HEURISTIC"},
    "use_tf32=0": {"use_tf32": "0"},
    "as it is, again": {},
}
SETTLING = 10  # steps before the clock
bench = load()
asked = {}  # the options of the sessions that are opened now


def with_options(plain):
    """ONNX Runtime's session, with the options asked for beside the program's own."""

    def session(model, sess_options=None, providers=None, **more):
        pairs = providers and [
            pair if isinstance(pair, str) else (pair[0], {**pair[1], **asked}) for pair in providers
        ]
        return plain(model, sess_options, providers=pairs, **more)

    return session


class Bound(bench.OnnxRuntimeRunner):
    """The program's runner, whose outputs stay where they are if a CUDA graph is asked for."""

    def bind(self, feed):
        binding = super().bind(feed)
        if "enable_cuda_graph" not in asked:
            return binding
        size = len(next(iter(feed.values())))
        self.kept = []
        binding.clear_binding_outputs()
        for output in self.session.get_outputs():
            shape = [side if isinstance(side, int) else size for side in output.shape]
            make = self.runtime.OrtValue.ortvalue_from_shape_and_type
            self.kept.append(make(shape, np.float32, self.device, 0))
            binding.bind_ortvalue_output(output.name, self.kept[-1])
        return binding


def measured(job, artifact):
    """Images/s waited for and enqueued, or what ONNX Runtime says where it refuses."""
    try:
        provider = bench.ENGINES["onnxruntime"].provider()
        runner = Bound(job, artifact, job.batch(), provider)
        bench.repeat(runner.enqueue, SETTLING)  # the first searches for kernels, or captures
        runner.sync()
        return plans.speeds(bench, runner, job.case.batch_size)
    except Exception as error:
        return bench.one_line(error)


def compare(job):
    """Prints a row for each option of one case."""
    if not job.source:
        sys.exit(f"ort_options.py: {job.error}")
    artifact = bench.ENGINES["onnxruntime"].build(job)
    own = None
    for name, options in OPTIONS.items():
        asked.clear()
        asked.update(options)
        found = measured(job, artifact)
        own = own or found
        if isinstance(found, str) or isinstance(own, str):
            print(f"{job.case} {name}: {found}", flush=True)
            continue
        waited, enqueued = found
        print(
            f"{job.case} {name}: {waited:,.0f} images/s waited ({waited / own[0]:.2f}), "
            f"{enqueued:,.0f} enqueued ({enqueued / own[1]:.2f})",
            flush=True,
        )


def main():
    import onnxruntime

    provider = bench.ENGINES["onnxruntime"].provider()
    if not provider.startswith("CUDA"):
        sys.exit(f"ort_options.py: these are options of the CUDA provider, and this is {provider}")
    onnxruntime.InferenceSession = with_options(onnxruntime.InferenceSession)
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
