"""What the timed loop adds to a bare loop over the same function, taken in turn in one process.

    python tests/bench/overhead.py [flags of tensorrt.py]

The first engine and precision that the flags name is measured (native without any), on the
device-resident batch. The bare loop calls TensorFlow's function, or session.run_with_iobinding,
with nothing around it but the clock.
"""

import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path

ROUNDS = 8


def load(name="bench", file="tensorrt.py"):
    path = Path(__file__).resolve().parents[2] / file
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def bare_step(bench, runner):
    """The engine's own call and wait, without the runner."""
    if isinstance(runner, bench.OnnxRuntimeRunner):
        run, resident, options = runner.session.run_with_iobinding, runner.resident, runner.options
        return lambda: (run(resident, options), resident.synchronize_outputs())
    step, resident, sync = runner.step, runner.resident, runner.tf.test.experimental.sync_devices
    return lambda: (step(*resident), sync())


def bare_loop(step, count):
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds


def first_job(bench, argv, *flags):
    """The job of the first case that the flags name."""
    config = bench.parse_flags([argv[0], "--preprocessing=inception", *flags, *argv[1:]])
    os.makedirs(config.output_dir, exist_ok=True)
    model = bench.load_model(config)
    return bench.make_jobs(config, bench.dataclasses.replace(model, cases=model.cases[:1]))[0]


def opened(argv):
    """The first case that the flags name, open in this process."""
    bench = load()
    case = bench.OpenCase(first_job(bench, argv, "--noisolate"))
    case.open()
    return bench, case


def main():
    bench, case = opened(sys.argv)
    bare, steps = bare_step(bench, case.runner), case.job.config.num_loops
    bare_loop(bare, 5)
    pairs = []
    for _ in range(ROUNDS):
        ours = case.measure_round(steps)["device"]
        theirs = bare_loop(bare, steps)
        pairs.append((statistics.median(ours.seconds), statistics.median(theirs)))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    spread = sorted(ours / theirs for ours, theirs in pairs)
    print(
        f"{case.job.case}: a timed step takes {ratio:.4f} of a bare step (median of {ROUNDS} "
        f"rounds in turn, {spread[0]:.3f} to {spread[-1]:.3f}; {1e3 * pairs[0][1]:.2f} ms a bare "
        f"step; load {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
