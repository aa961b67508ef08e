"""Engines and graphs that lie: known times, unfinished work, outputs that mean nothing, files of
other runs.
"""

import time
import types
from contextlib import nullcontext

import numpy as np
import pytest
from helpers import agreement

STEP = 0.02  # seconds that a test engine's step takes


def spin(seconds):
    """Computes for a known time and returns it: a busy machine may make it longer."""
    start = time.perf_counter()
    while time.perf_counter() < start + seconds:
        pass
    return time.perf_counter() - start


def outputs_for(batch):
    return batch.reshape(len(batch), -1)[:, :10].astype(np.float32)


class KnownRunner:
    """A step takes STEP, waited for or enqueued, and is written down."""

    def __init__(self):
        self.known, self.facts = [], {}
        self.output = ""  # its name in the graph

    def infer(self, feed):
        self.sync()
        start = time.perf_counter()
        outputs = outputs_for(*feed.values())  # copies the batch, on a slow day for half a percent
        spin(STEP)
        self.known.append(time.perf_counter() - start)
        return {self.output: outputs}

    def enqueue(self):
        self.known.append(spin(STEP))

    def sync(self):
        pass

    def prefetch(self, feed, steps):
        return lambda: [self.infer(feed) for _ in range(steps)]


class HastyRunner(KnownRunner):
    """Enqueues in another thread and says that it is done at once; only a result waits for what was
    left, and takes no time itself: on a busy machine that could be as long.
    """

    def __init__(self):
        super().__init__()
        self.left = 0

    def enqueue(self):
        self.left += 1

    def infer(self, feed):
        spin(STEP * self.left)
        self.left = 0
        return {self.output: outputs_for(*feed.values())}


@pytest.fixture
def engine(bench, monkeypatch):
    """Puts a runner in native's place."""

    def make(runner):
        stand_in = bench.Engine()
        stand_in.name, stand_in.precisions = "native", ("native",)

        def open_runner(job, artifact, feed):
            (runner.output,) = job.graph.output_names
            return runner

        stand_in.open = open_runner
        monkeypatch.setitem(bench.ENGINES, "native", stand_in)

    return make


@pytest.mark.parametrize("inputs", ["device", "host"])
def test_a_known_time_is_measured_to_one_percent(bench, main, net, engine, monkeypatch, inputs):
    """In the best of three rounds: on a busy machine some are interrupted between the two looks at
    the clock, which only makes them longer.
    """
    runner, begun = KnownRunner(), []
    engine(runner)
    real = bench.OpenCase.measure_round
    monkeypatch.setattr(
        bench.OpenCase,
        "measure_round",
        lambda case, steps: begun.append(len(runner.known)) or real(case, steps),
    )
    flags = [*net, "--batch_size=4"]
    ran = main(*flags, f"--inputs={inputs}", "--rounds=3")
    assert ran.status == 0, ran.err
    steps, bursts = [], []
    for first, timings in zip(begun, ran.records[0]["rounds"], strict=True):
        timing, count = timings[inputs], len(timings[inputs]["seconds"])
        steps += [
            measured / known for measured, known in zip(timing["seconds"], runner.known[first:])
        ]
        bursts.append(
            4 * count / timing["throughput"] / sum(runner.known[first + count : first + 2 * count])
        )
    assert len(steps) == 6
    assert min(steps) == pytest.approx(1, rel=0.01)
    assert min(bursts) == pytest.approx(1, rel=0.01)


def test_unfinished_work_is_caught(main, net, engine):
    engine(HastyRunner())
    ran = main(*net, "--batch_size=4", "--num_loops=30")
    assert ran.status == 1
    assert "reported its steps done too early" in ran.records[0]["error"]
    assert ran.records[0]["timings"] == {}


@pytest.mark.parametrize(("late", "caught"), [(0.015, False), (0.5, True)])
def test_a_delay_of_a_busy_machine_is_no_unfinished_work(bench, monkeypatch, late, caught):
    """After steps of a tenth of a millisecond, ten times as late is still within a time slice."""
    monkeypatch.setattr(bench, "time_steps", lambda step, count: [step(), step()] and [late, 1e-4])
    runner = types.SimpleNamespace(enqueue=lambda: None, sync=lambda: None)
    timing = bench.Timing([1e-4] * 4, 1.0, 1.0)
    expected = pytest.raises(bench.UserError, match="too early") if caught else nullcontext()
    with expected:
        assert bench.run_again(runner, dict, timing) == [{}, {}]


def constant(tf, v1):
    images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="input_tensor")
    rows = tf.shape(images)[0]
    tf.identity(tf.tile([[0.1, 0.2, 0.7]], tf.stack([rows, 1])), name="softmax_tensor")


def nothing(tf, v1):
    images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="input_tensor")
    tf.identity(tf.reduce_mean(images, [1, 2]) * float("nan"), name="softmax_tensor")


def changing(tf, v1):
    images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="input_tensor")
    mean = tf.reduce_mean(images, [1, 2])
    tf.identity(mean + 100 * tf.random.uniform(tf.shape(mean)), name="softmax_tensor")


def honest(tf, v1):
    images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="input_tensor")
    tf.reduce_mean(images, [1, 2], name="softmax_tensor")


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (constant, "does not depend on the input"),
        (nothing, "NaN or infinity"),
        (changing, "changes from run to run"),
        (honest, None),
    ],
)
def test_outputs_that_mean_nothing_get_a_sentence(main, graph_file, build, sentence):
    ran = main(f"--frozen_graph={graph_file(build)}", "--batch_size=4")
    assert ran.status == 0, ran.err
    notes = [note for note in ran.records[0]["notes"] if "output" in note]
    assert (sentence is None and not notes) or any(sentence in note for note in notes)
    assert sentence is None or sentence in ran.out


def test_files_of_other_runs_are_never_taken(main, net, tmp_path):
    """Whatever lies in the output folder under an artifact's name is written anew."""
    flags = [*net, "--native", "--fp32", "--int8", "--engine=onnxruntime", "--batch_size=4"]
    names = ["onnxruntime_fp32_net.onnx", "onnxruntime_int8_net.onnx", "calibration_net.json"]
    for name in names:
        (tmp_path / name).write_bytes(b"of another model")
    ran = main(*flags)
    assert ran.status == 0, ran.err
    assert all(agreement(record)["top1"] == 1 for record in ran.records[1:])
    assert all((tmp_path / name).read_bytes() != b"of another model" for name in names)


def test_a_file_overwritten_by_another_run_is_refused(bench, main, forms, tmp_path, monkeypatch):
    real = bench.make_jobs

    def overwrite(*args):
        jobs = real(*args)
        (tmp_path / "onnxruntime_fp32_net.onnx").write_bytes(b"of another run")
        return jobs

    monkeypatch.setattr(bench, "make_jobs", overwrite)
    flags = ["--preprocessing=none", "--fp32", "--engine=onnxruntime", "--batch_size=4"]
    ran = main(f"--frozen_graph={forms['frozen_graph']}", *flags)
    assert ran.status == 1
    assert "was overwritten while this ran" in ran.records[0]["error"]


def test_a_full_disk_leaves_whole_blocks(bench, tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    bench.append(path, "first\n")
    real = open

    class Full:
        def __init__(self, *args, **kwargs):
            self.file = real(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def write(self, data):
            return self.file.write(data[:3])

    monkeypatch.setattr(bench, "open", Full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        bench.append(path, "second\n")
    assert path.read_text() == "first\n"
