"""What only an NVIDIA GPU can show. The TensorRT runner's CUDA half runs here around a stand-in
engine that copies.
"""

import hashlib
import json
import types

import numpy as np
import pytest
from helpers import agreement, run_case, zeros_around_a_pool

pytestmark = pytest.mark.gpu


class CopyContext:
    """Stands for TensorRT's execution context: the step copies the input to the output on the
    stream it is given.
    """

    def __init__(self, batch):
        self.size, self.shape, self.addresses, self.steps = batch.nbytes, batch.shape, {}, 0

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        return True

    def execute_async_v3(self, stream):
        from cuda.bindings import driver

        self.steps += 1
        (error,) = driver.cuMemcpyDtoDAsync(
            self.addresses["y"], self.addresses["x"], self.size, stream
        )
        return error == driver.CUresult.CUDA_SUCCESS


def stand_in_trt(context):
    inspector = types.SimpleNamespace(
        get_engine_information=lambda form: json.dumps({"Layers": []})
    )
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        get_tensor_dtype=lambda name: types.SimpleNamespace(name="FLOAT"),
        create_execution_context=lambda: context,
        create_engine_inspector=lambda: inspector,
    )

    class Logger:
        ERROR, INTERNAL_ERROR = 1, 2

    return types.SimpleNamespace(
        ILogger=Logger,
        Runtime=lambda logger: types.SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        TensorIOMode=types.SimpleNamespace(INPUT="in", OUTPUT="out"),
        LayerInformationFormat=types.SimpleNamespace(JSON=0),
    )


@pytest.fixture
def runner(bench, tmp_path):
    batch = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    context = CopyContext(batch)
    config = bench.parse_flags(["tensorrt.py", f"--output_dir={tmp_path}"])
    job = bench.Job(bench.Case("tensorrt", "fp32", 4), config, None, None)
    plan = tmp_path / "x.engine"
    plan.write_bytes(b"plan")
    artifact = bench.Artifact(str(plan), hashlib.sha256(b"plan").hexdigest())
    made = bench.TensorRtRunner(stand_in_trt(context), job, artifact, {"x": batch})
    return types.SimpleNamespace(run=made, context=context, batch=batch, artifact=artifact)


def test_tensorrt_runner_copies_in_and_out(runner):
    other = runner.batch + 1
    assert np.array_equal(runner.run.infer({"x": runner.batch})["y"], runner.batch)
    assert np.array_equal(runner.run.infer({"x": other})["y"], other)


def test_tensorrt_runner_replays_its_cuda_graph(runner):
    assert runner.run.facts["cuda_graph"]
    steps = runner.context.steps
    runner.run.slots[0].host["y"][:] = 0
    for _ in range(5):
        runner.run.enqueue()
    runner.run.sync()
    assert runner.context.steps == steps, "the captured graph runs, not the context"
    runner.run.slots[0].copy_out(["y"], runner.run.stream)
    runner.run.sync()
    assert np.array_equal(runner.run.slots[0].host["y"], runner.batch)


def test_tensorrt_runner_feeds_both_slots(runner):
    other = runner.batch * 2
    runner.run.prefetch({"x": other}, 5)()
    for slot in runner.run.slots:
        assert np.array_equal(slot.host["y"], other)


@pytest.fixture(scope="module")
def resnet(bench, tmp_path_factory):
    """The built-in network's job maker, frozen once."""
    folder = tmp_path_factory.mktemp("gpu")

    def job(engine, precision, *flags):
        config = bench.parse_flags(
            [
                "tensorrt.py",
                f"--output_dir={folder}",
                "--preprocessing=inception",
                "--noisolate",
                "--num_loops=20",
                *flags,
            ]
        )
        made = bench.load_graph(config) if not graphs else graphs[0]
        graphs.append(made)
        if config.host_dtype == "uint8":
            made = bench.with_pixels_in_front(config, made)
        return bench.Job(
            bench.Case(engine, precision, 8), config, made, bench.load_images(config, made, 8)
        )

    graphs = []
    return job


def test_xla_fp16_is_half_and_agrees_with_native(bench, resnet):
    native = run_case(bench, resnet("native", "native"))
    half = run_case(bench, resnet("xla", "fp16"))
    assert half.artifact.facts["share_of_nodes"] > 0.9
    (ours,), (theirs,) = half.outputs.values(), native.outputs.values()
    assert bench.numeric_agreement(ours, theirs)["snr_db"] > 27
    assert ours.tobytes() != theirs.tobytes(), "float16 rounds"


def test_uint8_from_the_host_gives_the_float_path_s_outputs(bench, resnet):
    floats = run_case(bench, resnet("native", "native"))
    raw = run_case(bench, resnet("native", "native", "--host_dtype=uint8", "--inputs=both"))
    assert np.allclose(*raw.outputs.values(), *floats.outputs.values(), atol=1e-4)
    assert raw.timings["host"].throughput > 0


def test_clocks_are_sampled_at_little_cost(bench, resnet):
    clocks = run_case(bench, resnet("native", "native", "--num_loops=400")).timings["device"].clocks
    low, middle, high = clocks["sm_mhz"]
    assert 0 < low <= middle <= high
    assert clocks["images_per_joule"] > 0
    assert clocks["cost_share"] < 0.005


# ---------------------------------------------------- TensorRT and TF-TRT, where they are installed


@pytest.fixture
def trained(bench, forms, digits, tmp_path):
    """Makes jobs of the digits network on held-out digits, with the ONNX file if the engine takes
    one.
    """

    def make(engine, precision, batch_size=8):
        if reason := bench.ENGINES[engine].why_not(precision):
            pytest.skip(reason)
        flags = [
            f"--output_dir={tmp_path}",
            f"--frozen_graph={forms['frozen_graph']}",
            "--preprocessing=none",
        ]
        flags += [
            f"--image_dir={digits.folder}",
            f"--calibration_dir={digits.folder}",
            "--noisolate",
        ]
        config = bench.parse_flags(["tensorrt.py", "--num_loops=20", *flags])
        graph = bench.load_graph(config)
        images = bench.load_images(config, graph, batch_size)
        case = bench.Case(engine, precision, batch_size)
        needs = bench.ENGINES[engine].needs_onnx
        source = bench.Onnx(config, graph, images).write(case) if needs else None
        return bench.Job(case, config, graph, images, source)

    return make


@pytest.mark.parametrize("engine", ["tensorrt", "tftrt", "xla", "onnxruntime"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_engine_and_precision_names_the_digits(bench, trained, engine, precision):
    if precision not in bench.ENGINES[engine].precisions:
        pytest.skip(f"{engine} has no {precision}")
    job = trained(engine, precision)
    result = run_case(bench, job)
    ((name, outputs),) = result.outputs.items()
    assert np.mean(outputs.argmax(axis=1) == job.samples.labels) >= 7 / 8
    assert result.timings["device"].throughput > 0
    print(engine, precision, result.artifact.facts)


def test_onnx_runtime_replays_a_cuda_graph(bench, trained):
    if not bench.ENGINES["onnxruntime"].provider().startswith("CUDA"):
        pytest.skip("onnxruntime for CPUs")
    proof = run_case(bench, trained("onnxruntime", "fp16")).artifact.facts
    assert proof["enable_cuda_graph"] and proof["prefer_nhwc"]
    assert proof["executed_share_of_nodes"] == 1


def test_a_plan_tells_the_type_of_every_layer(bench, trained, tmp_path):
    proof = run_case(bench, trained("tensorrt", "int8")).artifact.facts
    assert proof["unknown_nodes"] == 0
    assert proof["executed_share_of_nodes"] == 1
    assert proof["cuda_graph"]
    assert bench.read_inspector((tmp_path / "tensorrt_int8_net_batch8.json").read_text())


def test_plans_of_two_batch_sizes_lie_side_by_side(bench, trained, tmp_path):
    run_case(bench, trained("tensorrt", "fp16", 2))
    proof = run_case(bench, trained("tensorrt", "fp16", 4)).artifact.facts
    assert {path.name for path in tmp_path.glob("*.engine")} >= {
        "tensorrt_fp16_net_batch2.engine",
        "tensorrt_fp16_net_batch4.engine",
    }
    if bench.TENSORRT.package == "tensorrt":  # tensorrt_rtx keeps no timings
        assert proof["timing_cache"] == "warm"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_what_overflows_float16_stays_in_float32(bench, graph_file, tmp_path, precision):
    """Values of a million between two convolutions: float16 ends at 65,504."""
    if reason := bench.ENGINES["tensorrt"].why_not(precision):
        pytest.skip(reason)

    def build(tf, v1):
        generator = np.random.default_rng(0)
        images = v1.placeholder(tf.float32, [None, 32, 32, 3], name="input_tensor")
        x = images
        for deviation, shape in (
            (0.2, (3, 3, 3, 32)),
            (1e4, (3, 3, 32, 32)),
            (1e-6, (3, 3, 32, 10)),
        ):
            weights = tf.constant(generator.normal(0, deviation, shape), tf.float32)
            x = tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME"))
        x = tf.reduce_mean(x, [1, 2])
        tf.nn.softmax(x, name="softmax_tensor")

    path = graph_file(build)
    flags = [
        f"--output_dir={tmp_path}",
        f"--frozen_graph={path}",
        "--preprocessing=inception",
        "--noisolate",
    ]
    config = bench.parse_flags(["tensorrt.py", "--num_loops=5", *flags])
    graph = bench.load_graph(config)
    images = bench.load_images(config, graph, 4)
    outputs = {}
    for engine, kind in (("native", "native"), ("tensorrt", precision)):
        case = bench.Case(engine, kind, 4)
        needs = bench.ENGINES[engine].needs_onnx
        source = bench.Onnx(config, graph, images).write(case) if needs else None
        job = bench.Job(case, config, graph, images, source)
        if kind == "int8" and bench.TENSORRT.numbers[:2] == (8, 5):
            # On an H200 no implementation was left of a layer that has to stay float32.
            with pytest.raises(
                AssertionError, match="filterQDQFormats.*a fault of this TensorRT's"
            ):
                run_case(bench, job)
            return
        (outputs[engine],) = run_case(bench, job).outputs.values()
    assert np.isfinite(outputs["tensorrt"]).all()
    assert np.allclose(outputs["tensorrt"], outputs["native"], atol=0.02)


@pytest.mark.parametrize("engine", ["tensorrt", "tftrt", "onnxruntime"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_zeros_around_a_pool_count(bench, main, graph_file, engine, precision):
    """Without them the outputs would be at 2 dB of native's."""
    if reason := bench.ENGINES[engine].why_not(precision):
        pytest.skip(reason)
    ran = main(
        f"--frozen_graph={graph_file(zeros_around_a_pool())}",
        "--preprocessing=none",
        "--native",
        f"--{precision}",
        f"--engine={engine}",
        "--batch_size=4",
        "--num_loops=20",
    )
    assert ran.status == 0, ran.err
    assert agreement(ran.records[1])["snr_db"] > {"fp32": 50, "fp16": 45, "int8": 30}[precision]


def test_a_tftrt_engine_that_cannot_run_is_refused(bench, trained, monkeypatch):
    """Where an engine cannot be built, TF-TRT has TensorFlow run its part of the graph, and the
    graph's outputs do not show it.
    """
    job = trained("tftrt", "fp16")
    built = bench.TfTrt().build(job)
    monkeypatch.setenv("TF_TRT_ABORT_CUDA_ENGINE_BUILD", "True")  # TensorFlow's own tests have it
    with pytest.raises(bench.UserError, match="a TF-TRT engine cannot run") as told:
        bench.TfTrt().open(job, built, job.batch())
    assert "does not say why" not in str(told.value)


def test_a_tftrt_engine_that_runs_is_proved(bench, trained):
    result = run_case(bench, trained("tftrt", "fp16"))
    assert result.artifact.facts["engines_ran"] is True
    assert result.artifact.facts["trt_engines"] >= 1
