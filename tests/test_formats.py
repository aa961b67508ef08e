"""Formats to the letter, statistics against numbers worked out by hand, a clock that only ticks
when told to.
"""

import json
import types

import msgspec
import numpy as np
import pytest
from helpers import ROOT, image_graph, images_of

SECONDS = [0.10, 0.20, 0.10, 0.20, 0.10]


def record(bench, **changes):
    timing = {
        "seconds": SECONDS,
        "throughput": 81.25,
        "first_run": 1.5,
        "clocks": {},
        "verdict": "noisy",
        "statistics": bench.summarise(SECONDS, 8),
    }
    graph = {"name": "net.pb", "sha256": "0" * 64, "inputs": [], "outputs": [], "layout": "NHWC"}
    fields = {
        "record": 2,
        "time": "2026-11-24T12:00:00+00:00",
        "program": "2.0",
        "network": "native_net.pb",
        "batch_size": 8,
        "timings": {"device": timing},
        "input_dtype": "float32",
        "status": "ok",
        "error": "",
        "engine": "native",
        "engine_version": "2.21.0",
        "engine_why": "",
        "precision": "native",
        "graph": graph,
        "images": 1,
        "first_image": "a.jpg",
        "artifact": None,
        "device": "CPU X, 2 threads",
        "device_kind": "CPU X, 2 threads",
        "gpu": None,
        "versions": {},
        "flags": {},
        "notes": [],
    }
    return msgspec.convert({**fields, **changes}, bench.Record)


def agreement(images, found):
    return {"images": images, "same_model": True, "outputs": {"y:0": found}}


def test_the_schema_is_that_of_the_types(bench):
    """Written anew by tests/make_schema.py."""
    written = json.loads((ROOT / "tests" / "schema.json").read_text())
    assert written == msgspec.json.schema(bench.Record)


def test_log_block_keeps_the_old_lines_to_the_letter(bench):
    assert bench.log_block(record(bench)) == (
        "\n==========================\nnetwork: native_net.pb,\t batchsize 8, steps 5\n  fps "
        "\tmedian: 80.0, \tmean: 64.0, \tuncertainty: 9.8, \tjitter: 0.0\n  latency \tmedian: "
        "0.10000, \tmean: 0.14000, \t99th_p: 0.20000, \t99th_uncertainty: 0.10000\n  inputs "
        "\tdevice float32, \tthroughput: 81.2 images/s, \tfirst run: 1.500 s, \tnoisy\n  engine "
        "\tnative 2.21.0, \tdevice: CPU X, 2 threads\n"
    )


def test_log_block_tells_agreement_and_failure(bench):
    same = {
        "kind": "logits",
        "top1": 0.875,
        "top5": 1.0,
        "cosine": 0.99951,
        "difference": 0.25,
        "snr_db": 30.14,
    }
    counts = {"same": 7, "decided": 8, "undecided": 2, "changed": []}
    text = bench.log_block(record(bench, agreement=agreement(10, {**same, **counts})))
    assert text.endswith(
        "  agreement \ttop1: 0.8750, \ttop5: 1.0000, \tcosine: 0.9995, \tdifference: 0.2500, "
        "\tsnr: 30.1 dB, \tsame: 7 of 8, \tundecided: 2, \timages: 10\n"
    )
    numbers = {"kind": "values", "cosine": 1.0, "difference": 0.0, "snr_db": None}
    text = bench.log_block(record(bench, agreement=agreement(3, numbers)))
    assert text.endswith(
        "  agreement \tcosine: 1.0000, \tdifference: 0.0000, \tsnr: inf dB, \timages: 3\n"
    )
    failed = bench.log_block(record(bench, timings={}, status="failed", error="out of memory"))
    assert "network: native_net.pb,\t batchsize 8, steps 0\n  failed \tout of memory\n" in failed


def test_statistics_by_hand(bench):
    numbers = bench.summarise([0.5, 0.25, 1.0, 0.5], 2)  # speeds 4, 8, 2, 4
    assert numbers["fps_median"] == 4 and numbers["fps_mean"] == 4.5
    assert numbers["fps_uncertainty"] == pytest.approx(
        np.sqrt((0.25 + 12.25 + 6.25 + 0.25) / 3) / 2
    )
    assert numbers["fps_jitter"] == pytest.approx(1.4826 * 1.0)
    assert numbers["latency_median"] == 0.5 and numbers["latency_mean"] == 0.5625
    even, odd = np.percentile([0.5, 1.0], 99), np.percentile([0.25, 0.5], 99)
    assert numbers["latency_99th_uncertainty"] == pytest.approx(even - odd)


@pytest.mark.parametrize(
    ("count", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)]
)
def test_median_interval_ranks(bench, count, low, high):
    """Ranks of the 95 % interval from the tables of order statistics (Conover, table A3)."""
    assert bench.median_interval(np.arange(1, count + 1)) == (low, high)


def test_median_interval_holds_the_median_as_often_as_it_says(bench):
    random, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = bench.median_interval(random.exponential(size=25))
        inside += low <= np.log(2) <= high
    assert inside / 2000 > 0.94


def test_verdict_on_literal_timings(bench):
    """One loop is told by its eight parts, five rounds by themselves."""
    assert bench.verdict([[0.100, 0.101] * 30], 8) == ("steady", "")
    assert bench.verdict([[0.100, 0.101] * 3] * 5, 8) == ("steady", "")
    drifting = [0.1] * 20 + [0.104] * 20 + [0.108] * 20
    kind, sentence = bench.verdict([drifting], 8)
    assert kind == "noisy" and "between 74.1 and 80.0 images/s in 60 steps:" in sentence
    kind, sentence = bench.verdict([[0.1] * 6] * 4 + [[0.2] * 6], 8, "load of others 1.2")
    assert kind == "noisy" and "between 40.0 and 80.0 images/s (load of others 1.2)" in sentence


def test_steps_are_timed_by_the_clock_alone(bench):
    """To its nanosecond: floats have more decimals, and nothing stands behind them."""
    ticks = iter([0.0, 1.0, 5.1, 7.000000001])
    calls = []
    seconds = bench.time_steps(
        lambda: calls.append("step"), 2, lambda: next(ticks), lambda: calls.append("after")
    )
    assert repr(seconds) == "[1.0, 1.900000001]" and calls == ["step", "after"] * 2


class SleepyRunner:
    """An engine whose step takes 3 ticks to enqueue and 4 to wait for, on a clock of its own."""

    def __init__(self):
        self.now = 0.0

    def enqueue(self):
        self.now += 3

    def sync(self):
        self.now += 4

    def infer(self, batch):
        return batch


def test_resident_loop_waits_for_each_step_and_once_for_the_burst(bench):
    runner = SleepyRunner()
    config = bench.parse_flags(["tensorrt.py", "--num_warmup=2"])
    case = bench.OpenCase(bench.Job(bench.Case("native", "native", 2), config, None, None))
    case.runner, case.batch, case.clock, case.same = (
        runner,
        np.zeros((2, 1)),
        lambda: runner.now,
        ["same"],
    )
    case.first_runs = {"device": case.run_first("device")}
    timing = case.measure_round(10)["device"]
    assert runner.now == 13 * 7 + 34
    assert case.step_seconds == {"device": 7.0}
    assert timing.seconds == [7.0] * 10 and timing.first_run == 7.0
    assert timing.throughput == pytest.approx(10 * 2 / (10 * 3 + 4))


def test_preprocessing_arithmetic(bench):
    pixels = np.full((1, 1, 1, 3), (255, 0, 128), np.uint8)

    def batch(how, layout="NHWC"):
        images = images_of(bench, pixels, preprocessing=how, layout=layout)
        return images.batch(2)["x:0"]

    assert np.allclose(batch("vgg")[1, 0, 0], [255 - 123.68, -116.78, 128 - 103.94])
    assert np.allclose(batch("inception")[0, 0, 0], [1, -1, 128 / 127.5 - 1], atol=1e-6)
    assert np.allclose(
        batch("torch")[0, 0, 0],
        [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225],
        atol=1e-5,
    )
    assert np.allclose(batch("caffe")[0, 0, 0], [128 - 103.939, -116.779, 255 - 123.68])
    assert np.allclose(batch("none", "NCHW")[0, :, 0, 0], [255, 0, 128]) and batch(
        "none", "NCHW"
    ).shape == (2, 3, 1, 1)


def test_image_is_scaled_and_cut_from_its_centre(bench, tmp_path):
    import tensorflow as tf

    wide = np.zeros((256, 512, 3), np.uint8)
    wide[:, 144:368] = 200  # exactly the central 224 columns
    path = tmp_path / "wide.png"
    path.write_bytes(tf.io.encode_png(wide).numpy())
    cut = bench.read_image(path, (224, 224, 3))
    assert cut.shape == (224, 224, 3) and (cut == 200).all()


def test_labellist():
    labels = json.loads((ROOT / "labellist.json").read_text())
    assert list(labels) == [str(number) for number in range(1001)]
    assert labels["0"] == "background" and labels["1"] == "tench, Tinca tinca"
    assert "breakwater, groin, groyne, mole, bulwark, seawall, jetty" in labels.values()
    assert "seashore, coast, seacoast, sea-coast" in labels.values()


def test_synsets_name_the_same_classes(bench):
    assert bench.class_id("n01440764") == 1 and bench.class_id("n15075141") == 1000
    assert bench.class_id("281") == 281 and bench.class_id("holiday") is None


def test_agreement_and_accuracy_by_hand(bench):
    ours = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)
    theirs = np.array([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1]], np.float32)
    same, changed = bench.output_agreement(ours, theirs, "probabilities")
    assert same.top1 == 0.5 and same.top5 == 1.0 and same.difference == pytest.approx(0.7)
    assert same.cosine == pytest.approx((0.08 + 0.08 + 0.01) / 0.66)
    assert same.snr_db == pytest.approx(10 * np.log10(1.12 / (0.02 + 0.98)))
    assert (same.same, same.decided, same.undecided, changed) == (1, 2, 0, [1])
    assert bench.accuracy(ours, np.array([0, 0])) == bench.Accuracy(top1=0.5, top5=1.0, images=2)


def test_clock_sentences(bench):
    calm = {"sm_mhz": [1900, 1950, 1980], "throttled": []}
    assert bench.clock_notes(calm) == [] and bench.clock_notes({}) == []
    assert "1500 and 1980 MHz" in bench.clock_notes({**calm, "sm_mhz": [1500, 1900, 1980]})[0]
    assert "power cap" in bench.clock_notes({**calm, "throttled": ["power cap"]})[0]


@pytest.fixture
def nvml(bench, monkeypatch):
    """A stand-in for NVML and a GPU that it watches."""
    import sys
    import types

    nvml = types.SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetPowerUsage=lambda handle: 500_000,
        nvmlDeviceGetTemperature=lambda handle, kind: 40,
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x4,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(bench, "gpus", lambda: [{"index": 0}])
    return nvml


def test_clocks_from_a_stand_in_nvml(bench, nvml):
    clocks = bench.Clocks()
    clocks.sample()
    clocks.seconds = 3.0  # a third of it waited for others
    facts = clocks.facts(1000, 2.0)
    assert (
        facts["sm_mhz"] == [1980.0] * 3
        and facts["power_w"] == [500.0] * 3
        and facts["celsius"] == [40.0] * 3
    )
    assert facts["throttled"] == ["power cap"] and facts["images_per_joule"] == pytest.approx(
        1000 / (500 * 2)
    )


@pytest.mark.parametrize(
    ("reader", "lost"),
    [
        ("nvmlDeviceGetClockInfo", {"sm_mhz"}),
        ("nvmlDeviceGetPowerUsage", {"power_w", "images_per_joule"}),
        ("nvmlDeviceGetTemperature", {"celsius"}),
        ("nvmlDeviceGetCurrentClocksEventReasons", {"throttled"}),
    ],
)
def test_a_missing_sensor_takes_no_other_along(bench, nvml, reader, lost):
    def missing(*_):
        raise nvml.NVMLError("not supported")

    setattr(nvml, reader, missing)
    clocks = bench.Clocks()
    clocks.sample()
    clocks.seconds = 2.0
    every = {
        "sm_mhz",
        "power_w",
        "celsius",
        "throttled",
        "images_per_joule",
        "samples",
        "cost_share",
    }
    assert set(facts := clocks.facts(1000, 2.0)) == every - lost
    assert bench.clock_notes(facts) == (
        [] if lost == {"throttled"} else bench.clock_notes({"throttled": ["power cap"]})
    )


def test_no_sample_is_taken_while_a_gpu_waits_for_its_neighbours(bench, nvml):
    """It computes nothing then, and its power would be counted as if it did."""
    clocks = bench.Clocks()
    rests = iter([False, False, True])
    clocks.over = types.SimpleNamespace(wait=lambda period: next(rests))
    with clocks.paused():
        clocks.run()
    assert clocks.samples == []
    rests = iter([False, True])
    clocks.run()
    assert len(clocks.samples) == 1


def test_the_barrier_between_the_loops_is_outside_the_clocks(bench, monkeypatch):
    made, seen = [], []

    class Clocks(bench.Clocks):
        def __init__(self):
            super().__init__()
            made.append(self)

    class Case(bench.OpenCase):
        def meet(self):
            seen.append([clocks.waiting for clocks in made])

    monkeypatch.setattr(bench, "Clocks", Clocks)
    config = bench.parse_flags(["tensorrt.py", "--num_warmup=0"])
    runner = SleepyRunner()
    case = Case(bench.Job(bench.Case("native", "native", 2), config, None, None))
    case.runner, case.batch, case.clock, case.same = (
        runner,
        np.zeros((2, 1)),
        lambda: runner.now,
        ["same"],
    )
    case.first_runs = {"device": case.run_first("device")}
    case.measure_round(2)
    assert seen == [[], [True]], "before the clocks begin, and paused between the loops"


def test_no_nvml_no_fields(bench, monkeypatch):
    monkeypatch.setattr(bench, "gpus", list)
    with bench.Clocks() as clocks:
        pass
    assert clocks.facts(1, 1.0) == {}


def test_rounds_are_merged_and_kept_apart(bench):
    speeds = {10.0: [1.0, 2.0], 30.0: [3.0]}
    rounds = [{"device": bench.Timing(seconds, speed, 1.0)} for speed, seconds in speeds.items()]
    whole = bench.Result(rounds=rounds)
    assert (
        whole.timings["device"].seconds == [1.0, 2.0, 3.0]
        and whole.timings["device"].throughput == 20.0
    )
    assert [r["device"].seconds for r in whole.rounds] == [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_channels_first_graph_gets_its_layout(bench, dtype):
    graph = image_graph(bench, 3, 4, 5, dtype=dtype, layout="NCHW")
    pixels = np.arange(120, dtype=np.uint8).reshape(2, 4, 5, 3)
    config = bench.Config(preprocessing="none")
    images = bench.images_of(config, graph, pixels, ["a", "b"])
    (batch,) = bench.Job(bench.Case("native", "native", 2), config, graph, images).batch().values()
    assert (batch.shape, batch.dtype) == ((2, 3, 4, 5), dtype)
    assert np.array_equal(batch.transpose(0, 2, 3, 1), pixels)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("size", "first"), [(2, 0), (3, 2), (4, 1), (8, 2)])
def test_a_batch_is_the_images_one_after_the_other(bench, layout, size, first):
    """Three of them, from any on, again and again."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    images = bench.Images({"x": pixels}, list("abc"), preprocessing="caffe", layout=layout)
    (batch,) = images.batch(size, first).values()
    singles = [images.batch(1, (first + turn) % 3)["x"] for turn in range(size)]
    assert np.array_equal(batch, np.concatenate(singles)) and batch.flags.c_contiguous
