"""The scripts in tests/bench that decide: what they count, plant and note, without a run of
minutes.
"""

import json
import os
import subprocess
import sys
import types

import msgspec
import numpy as np
import pytest
from helpers import ROOT, image_graph, load, pixels_of, validate

BENCH = ROOT / "tests" / "bench"


@pytest.fixture
def script(monkeypatch):
    """Loads a script of tests/bench, whose folder it finds `overhead` in."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load_script(name, **environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        # the script loads its own
        monkeypatch.setitem(sys.modules, "bench", sys.modules.get("bench"))
        return load(f"bench_{name}", f"tests/bench/{name}.py")

    return load_script


def run_of(aa, bench, medians):
    """The records of a run of one case, in rounds of these medians, as aa.py reads them."""
    record = json.loads((ROOT / "tests" / "data" / "records_1.jsonl").read_text().splitlines()[2])
    timing = record["timings"]["device"]
    rounds = [[0.999 * median, median, 1.001 * median] for median in medians]
    timing["seconds"] = [second for seconds in rounds for second in seconds]
    timing["statistics"] = {
        **bench.summarise(timing["seconds"], 4),
        **bench.round_statistics(rounds, 4),
    }
    validate(record)
    return msgspec.convert([record], list[aa.report.Record])


def test_verdicts_are_counted_over_all_pairs(script, bench, capsys):
    aa = script("aa")
    runs = [run_of(aa, bench, [0.1 * factor] * 5) for factor in (1, 1.001, 1.002, 1.2)]
    pairs = [(new, old) for index, old in enumerate(runs) for new in runs[index + 1 :]]
    counts = aa.count(pairs)
    assert sorted(counts["FP16 onnxruntime 4"]) == ["same"] * 3 + ["slower"] * 3
    assert "of 6 pairs" in capsys.readouterr().out


def test_the_smallest_slowdown_that_is_found(script, bench):
    """Runs 1 % apart with narrow intervals, where the new one was the faster: on a GPU 4 % is found
    and 3 % lost; on cores whose runs are 5.5 % apart 8 % is found and 6 % lost.
    """
    aa = script("aa")
    fast, slow = (run_of(aa, bench, [seconds] * 5) for seconds in (0.1, 0.101))
    assert aa.smallest_found([(fast, slow), (slow, fast)]) == {"FP16 onnxruntime 4": 8}
    for record in (*fast, *slow):
        record.gpu = {"driver": "580", "compute_capability": "9.0"}
    assert aa.smallest_found([(fast, slow), (slow, fast)]) == {"FP16 onnxruntime 4": 4}


def test_a_run_that_makes_the_plans_is_not_counted(script, monkeypatch, tmp_path):
    aa = script("aa")
    made = []
    monkeypatch.setattr(aa, "run", lambda folder, name, plant, flags: made.append((name, plant)))
    words = ["aa.py", "--runs=2", "--plant=10", "--warm_up", f"--keep={tmp_path}", "--native"]
    options, flags = aa.parse(words)
    aa.measure(options, flags)
    assert made == [("warm-up", 0), ("plain-000", 0), ("planted-001", 10)] and flags == ["--native"]


def test_planted_engines_take_longer_in_every_step(script, monkeypatch):
    """A clock that only work moves: a step of 10 ticks takes 12.5, a burst of three 37.5."""
    planted = script("planted", PLANT="25")
    now = [0.0]

    def tick():
        now[0] += 0.125
        return now[0]

    monkeypatch.setattr(planted.time, "perf_counter", tick)
    runner = types.SimpleNamespace(
        enqueue=lambda: None,
        sync=lambda: now.__setitem__(0, now[0] + 10),
        infer=lambda batch: now.__setitem__(0, now[0] + 10),
        prefetch=lambda batch, steps: lambda: now.__setitem__(0, now[0] + 10 * steps),
    )
    slower = planted.Planted(runner)

    def ticks(work):
        begun = now[0]
        work()
        return now[0] - begun

    assert ticks(lambda: (slower.enqueue(), slower.sync())) == pytest.approx(12.5, abs=0.6)
    assert ticks(lambda: slower.infer(None)) == pytest.approx(12.5, abs=0.6)
    assert ticks(slower.prefetch(None, 3)) == pytest.approx(37.5, abs=0.9)


def test_planted_engines_are_what_the_program_opens(script, monkeypatch, tmp_path, net):
    """A run of one case of 4 steps: the first run, 4 waited steps, a burst, and what reads outputs
    work longer.
    """
    planted = script("planted", PLANT="10")
    worked = []
    monkeypatch.setattr(planted, "work_on", worked.append)
    flags = [
        *net,
        "--batch_size=2",
        "--num_loops=4",
        "--num_warmup=0",
        "--rounds=1",
        f"--output_dir={tmp_path}",
        "--noisolate",
    ]
    assert planted.bench.main(["tensorrt.py", *flags]) == 0
    assert len(worked) >= 6


def test_a_moment_belongs_to_what_began_last(script):
    answer = script("answer")
    spans = [
        {"what": "load", "begun": 0.0, "ended": 10.0},
        {"what": "import", "begun": 1.0, "ended": 4.0},
        {"what": "rounds", "begun": 12.0, "ended": 13.5},
        {"what": "rounds", "begun": 13.0, "ended": 14.0},
    ]
    seconds = answer.shares(spans)
    assert (seconds["load"], seconds["import"], seconds["rounds"]) == pytest.approx((7, 3, 2))
    assert sum(seconds.values()) == pytest.approx(12)


def test_notes_come_from_every_process(net, tmp_path):
    """Loading, opening and the rounds are done by processes of their own."""
    flags = [
        *net,
        "--batch_size=1",
        "--num_loops=4",
        "--num_warmup=1",
        f"--output_dir={tmp_path}",
        "--native",
        "--fp32",
        "--engine=onnxruntime",
    ]
    notes = tmp_path / "spans.jsonl"
    env = {**os.environ, "SPANS": str(notes)}
    ran = subprocess.run(
        [sys.executable, str(BENCH / "spans.py"), *flags], capture_output=True, text=True, env=env
    )
    assert ran.returncode == 0, ran.stderr
    spans = [json.loads(line) for line in notes.read_text().splitlines()]
    done = {span["what"] for span in spans}
    assert {
        "import",
        "load",
        "export",
        "build",
        "open",
        "first run",
        "warm-up",
        "rounds",
        "outputs",
    } <= done
    assert len({span["process"] for span in spans}) >= 4


def test_coverage_of_an_interval_that_holds_everything_and_of_one_that_holds_nothing(script):
    coverage = script("coverage")
    values = np.linspace(1, 2, 11)
    wide = [coverage.bench.Estimate(value, 0, 3) for value in values]
    narrow = [coverage.bench.Estimate(value, value, value) for value in values]
    assert coverage.held(wide, True) == 1 and coverage.held(narrow, True) <= 1 / 11
    assert coverage.cell(wide, True) == "100 (150.0)"


def test_synthetic_series_are_the_same_every_time(script):
    coverage = script("coverage")
    for series in coverage.SERIES.values():
        first, again = (next(coverage.synthetic(series, 5, 1)) for _ in range(2))
        assert np.array_equal(first[0], again[0]) and first[0].shape == (5, coverage.STEPS)


def test_shapes_can_be_told_apart_and_read(script, bench, tmp_path):
    """Every class is drawn, at random places, and comes back as the program reads it."""
    contact = script("first_contact")
    images, labels = contact.pictures(60, 2)
    assert set(labels) == set(range(len(contact.CLASSES))) and images.shape[1:] == (37, 37, 3)
    assert np.array_equal(images, contact.pictures(60, 2)[0])
    folder = contact.write_pictures(tmp_path / "shown", 60, 2)
    graph, config = image_graph(bench, 32, 32, 3), bench.parse_flags(["tensorrt.py"])
    read, unreadable = bench.read_folder(config, graph, str(folder), 60, "--image_dir")
    centres = images[:, 2:34, 2:34]
    ours = {centre.tobytes() for centre in centres}
    assert (
        unreadable == 0
        and {image.tobytes() for image in pixels_of(read)} == ours
        and read.labels is not None
    )


@pytest.mark.slow
def test_first_contact_in_one_file(tmp_path):
    words = [
        sys.executable,
        str(BENCH / "first_contact.py"),
        "--engine=onnxruntime",
        "--num_loops=5",
        "--num_warmup=1",
    ]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "first_contact.json").read_text())
    assert "onnxruntime" in found["runs"][0]["printed"] and found["runs"][1]["status"] == 0
    assert "tensorrt.py: [8/8] INT8 onnxruntime" in found["runs"][1]["printed"], "of stderr"
    assert [record["status"] for record in found["records"]] == ["ok"] * 8
    assert all(record["accuracy"]["top1"] > 0.9 for record in found["records"])
    assert list(found["layers"]) == ["calibration_shapes.json"]


def test_first_contact_sends_layers_and_calibration(script, tmp_path):
    """And not what says of what an artifact was made, which lies beside them."""
    kept = ["calibration_shapes.json", "tensorrt_fp16_shapes_batch1.json"]
    for name in (*kept, "tensorrt_fp16_shapes_batch1.built.json", "shapes.onnx.built.json"):
        (tmp_path / name).write_text(f"{name}'s")
    listings = script("first_contact").listings(tmp_path)
    assert listings == {name: f"{name}'s" for name in kept}


def test_the_bench_of_many_records_writes_real_ones(script, tmp_path):
    """A fleet's: every record is one, and each case ran several times on each device."""
    many = script("many_records")
    records = list(many.fleet(70, 2, 10))
    for record in records:
        validate(record)
    cases = {(r["device"], r["precision"], r["batch_size"]) for r in records}
    assert len(records) == 70 and len(cases) == 48
    words = [sys.executable, BENCH / "many_records.py", "--records=70", f"--keep={tmp_path}"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0 and ran.stdout.count("status 0") == 4, ran
    assert (tmp_path / "many.html").exists()


def test_the_encoder_s_speed_is_asked_for_by_the_command_line(script, bench):
    """Every word is a flag of the program's; the fastest case of a batch size is told."""
    bert = script("bert")
    given = types.SimpleNamespace(
        length=128,
        engine="xla,onnxruntime",
        precisions="fp16,int8",
        batch_size="1,8",
        output_dir="out",
    )
    words = bert.command(given, "encoder", ["--num_loops=5"])
    config = bench.parse_flags(words[1:])
    assert config.fp16 and config.int8 and not config.fp32
    assert config.batch_sizes == [1, 8] and config.engine == ["xla", "onnxruntime"]
    assert config.input_shape == ["ids:128", "mask:128", "types:128"]
    rated = [("fp32", 8, 1.5), ("fp16", 8, 3.25), ("fp16", 1, 9.0)]
    records = [
        {
            "precision": precision,
            "engine": "xla",
            "batch_size": size,
            "times_native": {"device": {"value": value}},
        }
        for precision, size, value in rated
    ]
    assert bert.fastest(records, 8) == "fastest at batch 8: FP16 in xla, 3.25 times native"
    assert "nothing ran" in bert.fastest([], 8)


@pytest.mark.slow
def test_a_small_encoder_goes_through_the_script(tmp_path):
    words = ["--layers=1", "--width=24", "--length=8", "--batch_size=1,2", "--engine=onnxruntime"]
    steps = ["--num_loops=6", "--num_warmup=1", f"--output_dir={tmp_path}"]
    ran = subprocess.run(
        [sys.executable, str(BENCH / "bert.py"), *words, *steps], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("fastest at batch 2: FP")
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert len(records) == 6 and all(record["unit"] == "samples" for record in records)


def test_plans_can_have_no_batch_norms_at_any_precision(script, bench):
    from onnx import TensorProto, helper, numpy_helper

    norm = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], "norm")
    edges = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in "xy"]
    sides = [numpy_helper.from_array(np.ones(8, np.float32), name) for name in "sbmv"]
    model = helper.make_model(helper.make_graph([norm], "g", edges[:1], edges[1:], sides))
    onnx = types.SimpleNamespace(precisions=types.SimpleNamespace(folded=model, exported=model))
    script("plans").rewrite_norms(bench, onnx)
    for made in (onnx.precisions.folded, onnx.precisions.exported):
        assert [node.op_type for node in made.graph.node] == ["Conv"]


def plan_layer(name, reads, gives, kind="CaskConvolution"):
    """As the inspector lists one: each tensor a name and a type."""
    inputs, outputs = (
        [{"Name": tensor, "Format/Datatype": f"Row major {words}"}]
        for tensor, words in (reads, gives)
    )
    return {"Name": name, "LayerType": kind, "Inputs": inputs, "Outputs": outputs}


@pytest.mark.parametrize(
    ("gives", "precision", "found"),
    [
        ("Int8 format", "int8", {}),
        ("FP16 format", "int8", {}),
        ("linear FP32", "int8", {"a + relu: gives Row major linear FP32": 1}),
        ("linear FP32", "fp16", {"a + relu: reads Row major Int8 format": 1}),
        ("linear FP32", "fp32", {"a + relu: reads Row major Int8 format": 1}),
    ],
)
def test_a_heavy_layer_of_another_type_is_listed(script, bench, gives, precision, found):
    plans = script("plans")
    layers = [
        plan_layer("a + relu", ("x", "Int8 format"), ("a:0", gives)),
        plan_layer("scale", ("a:0", gives), ("b:0", "linear FP32"), "Scale"),
    ]
    assert plans.other_types(bench, layers, precision, set(), {"b:0"}) == found
    assert plans.other_types(bench, layers, precision, {"a"}, {"b:0"}) == {}, "on purpose"
    layers[0] |= {"Name": "fused", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: relu]"}
    assert plans.other_types(bench, layers, precision, {"relu"}, {"b:0"}) == {}, "on purpose"


def test_the_traffic_of_a_plan_is_of_its_layers_that_do_something(script):
    plans = script("plans")
    half = {"Dimensions": [2, 8], "Format/Datatype": "Row major linear FP16 format"}
    byte = {"Dimensions": [2, 8], "Format/Datatype": "Row major Int8 format"}
    reformat = {"LayerType": "Reformat", "Inputs": [half], "Outputs": [byte]}
    assert plans.traffic([reformat, {**reformat, "LayerType": "NoOp"}]) == 32 + 16


class Context:
    """Stands for TensorRT's execution context, which tells a profiler its layers' times."""

    def step(self, factor):
        self.profiler.report_layer_time("a", 2.0 * factor)
        self.profiler.report_layer_time("b", 3.0)


def test_the_layers_that_take_the_time_stand_first(script):
    plans = script("plans")
    context, factors = Context(), iter([9, 1, 1] * plans.PROFILED)  # a step that was disturbed
    runner = types.SimpleNamespace(
        context=context,
        slots=[None],
        stream=None,
        launch=lambda slot, stream: context.step(next(factors)),
        sync=lambda: None,
    )
    seconds = plans.layer_seconds(types.SimpleNamespace(IProfiler=object), runner)
    assert seconds == {"a": pytest.approx(0.002), "b": pytest.approx(0.003)}
    half = {"Dimensions": [1000, 1000], "Format/Datatype": "Row major linear FP16 format"}
    layers = [
        {"Name": name, "LayerType": kind, "Inputs": [half], "Outputs": [half]}
        for name, kind in (("a", "Scale"), ("b", "Pool"), ("c", "Scale"), ("d", "NoOp"))
    ]
    kinds = plans.kinds_of(layers, seconds)
    assert list(kinds) == ["Pool", "Scale", "NoOp"]
    assert kinds["Scale"] == {"layers": 2, "seconds": pytest.approx(0.002), "bytes": 8_000_000}
    row = {"kinds": kinds, "precision": "fp16", "other_types": {"d: reads FP32": 1}}
    first, *_, last = plans.details(row)
    assert first == "  1 Pool                   3.000 ms,      4 MB at 0.0 TB/s"
    assert last == "not fp16: d: reads FP32 (1)"


def test_logits_may_be_float32_where_they_are_the_output(script, bench):
    """The last product of a real INT8 plan gives float32, reshaped by a NoOp for a softmax."""
    plans = script("plans")
    layers = bench.read_inspector((BENCH.parent / "data" / "inspector_8.5.3.json").read_text())
    (product,) = plans.other_types(bench, layers, "int8", set(), {"Identity:0"})
    assert product.startswith("resnet50v2/predictions/MatMul")
    assert product.endswith(": gives Row major linear FP32")
    for name in ("resnet50v2/predictions/MatMul:0", "resnet50v2/predictions/MatMul_out_tensor"):
        assert plans.other_types(bench, layers, "int8", set(), {name}) == {}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("h200_tensorrt", ["tensorrt 8.6.0 FP16 | 2,834 / 2,882 (7.95)", "46,973 / 47,180 (4.60)"]),
        ("h200_tftrt", ["2.14.1: tftrt INT8 | 6,976 / 8,487 (3.23) | 30,614 / 35,693 (5.40)"]),
        ("h200_tftrt_beforehand", ["tftrt FP16 | 2,647 / ", "6,896 / "]),
        (
            "h200_onnxruntime",
            ["onnxruntime 1.23.2 FP16 | 1,315 / 1,322 (3.44)", "17,350 / 17,393 (1.68)"],
        ),
        (
            "h200_mobilenet",
            ["tensorrt 8.5.3 INT8 | 30,500 / 31,306 (9.78)", "11,534 / 14,501 (3.59)"],
        ),
        ("h200", ["native | 479 / 508 | 2,548 / 2,889"]),
    ],
)
def test_the_table_of_kept_records(script, name, cells):
    """Of rounds, and of the one loop of older versions."""
    gpu_table = script("gpu_table")
    path = BENCH.parent / "data" / f"{name}.jsonl"
    made = gpu_table.table(gpu_table.read_records(path))
    assert made.startswith("| images/s, waited / enqueued (times the native of its own run) | ")
    assert all(cell in made for cell in cells), made


def test_the_readmes_table_is_of_the_kept_records(script, monkeypatch, tmp_path):
    """To the letter: `gpu_table.py --readme` writes it, and the picture."""
    gpu_table = script("gpu_table")
    text = gpu_table.README.read_text()
    stale = tmp_path / "README.md"
    stale.write_text(gpu_table.with_table(text, "| stale |\n"))
    monkeypatch.setattr(gpu_table, "README", stale)
    monkeypatch.setattr(gpu_table, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(sys, "argv", ["gpu_table.py", "--readme"])
    gpu_table.main()
    assert stale.read_text() == text, "run gpu_table.py --readme"
    assert (tmp_path / "picture.png").stat().st_size > 50_000


def test_a_later_record_of_the_same_stack_is_the_readmes(script):
    gpu_table = script("gpu_table")
    records = gpu_table.kept_records()
    before = gpu_table.readme_table(records)
    int8 = ("2.21.0", "tensorrt", "int8", "tensorrt 8.6.0")
    last = gpu_table.newest_of(records)[(*int8, 128)]
    faster = {"device": {**last["timings"]["device"], "throughput": 98765.4}}
    for other in (
        {"engine_version": "tensorrt 10.12.0", "timings": faster},
        {"batch_size": 8, "timings": faster},
        {"status": "failed", "timings": faster},
        {"timings": {"host": faster["device"]}},
    ):
        assert gpu_table.readme_table([*records, {**last, **other}]) == before
    after = gpu_table.readme_table([*records, {**last, "timings": faster}])
    enqueued = f"{last['timings']['device']['throughput']:,.0f}"
    assert after == before.replace(enqueued, "98,765")


def test_what_another_tensorrt_measured_is_measured_again(script):
    gpu_table = script("gpu_table")
    records = gpu_table.read_records(BENCH.parent / "data" / "h200_tensorrt.jsonl")
    asked = records, "tensorrt", "int8", "2.21.0"
    assert gpu_table.measured(*asked, "tensorrt 8.6.0") == {1, 8, 32, 128, 256}
    assert gpu_table.measured(*asked, "tensorrt 10.12.0") == set()
    (newer,) = (r for r in records if (r["precision"], r["batch_size"]) == ("int8", 128))
    made = gpu_table.table([*records, {**newer, "engine_version": "tensorrt 10.12.0"}])
    assert "TensorFlow 2.21.0: tensorrt 8.6.0 INT8 | 3,235" in made
    assert "TensorFlow 2.21.0: tensorrt 10.12.0 INT8 |  |  |  | 46,973" in made


@pytest.mark.parametrize(
    ("verdict", "short"),
    [
        ("same (as far as 1 round can tell)", "same"),
        ("not comparable: other device", "not comparable"),
        ("slower (now the hypervisor took 0.04 cores: measure again)", "slower in doubt"),
    ],
)
def test_a_verdict_in_short(script, verdict, short):
    assert script("aa").in_short(verdict) == short
