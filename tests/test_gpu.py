"""What only an NVIDIA GPU can show. The TensorRT runner's CUDA half runs here around a stand-in engine that copies."""

import hashlib
import json
import types

import numpy as np
import pytest

pytestmark = pytest.mark.gpu


class CopyContext:
    """Stands for TensorRT's execution context: the step copies the input to the output on the stream it is given."""

    def __init__(self, size):
        self.size, self.addresses, self.steps = size, {}, 0

    def set_input_shape(self, name, shape):
        self.shape = shape

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
        (error,) = driver.cuMemcpyDtoDAsync(self.addresses["y"], self.addresses["x"], self.size, stream)
        return error == driver.CUresult.CUDA_SUCCESS


def stand_in_trt(context):
    inspector = types.SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": []}))
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        get_tensor_dtype=lambda name: "float32",
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
        nptype=np.dtype,
    )


@pytest.fixture
def runner(bench, tmp_path):
    batch = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
    context = CopyContext(batch.nbytes)
    config = bench.parse_flags(["tensorrt.py", f"--output_dir={tmp_path}"])
    job = bench.Job(bench.Case("tensorrt", "fp32", 4), config, None, None)
    plan = tmp_path / "x.engine"
    plan.write_bytes(b"plan")
    artifact = bench.Artifact(str(plan), hashlib.sha256(b"plan").hexdigest())
    made = bench.TensorRtRunner(stand_in_trt(context), job, artifact, batch)
    return types.SimpleNamespace(run=made, context=context, batch=batch, artifact=artifact)


def test_tensorrt_runner_copies_in_and_out(runner):
    other = runner.batch + 1
    assert np.array_equal(runner.run.infer(runner.batch), runner.batch)
    assert np.array_equal(runner.run.infer(other), other)


def test_tensorrt_runner_replays_its_cuda_graph(runner):
    assert runner.artifact.proof["cuda_graph"]
    steps = runner.context.steps
    runner.run.slots[0].host_output[:] = 0
    for _ in range(5):
        runner.run.enqueue()
    runner.run.sync()
    assert runner.context.steps == steps, "the captured graph runs, not the context"
    runner.run.slots[0].output.copy_to(runner.run.slots[0].result, stream=runner.run.stream)
    runner.run.sync()
    assert np.array_equal(runner.run.slots[0].host_output, runner.batch)


def test_tensorrt_runner_feeds_both_slots(runner):
    other = runner.batch * 2
    runner.run.feeder(other, 5)()
    for slot in runner.run.slots:
        assert np.array_equal(slot.host_output, other)


@pytest.fixture(scope="module")
def network(bench, tmp_path_factory):
    """The built-in network's job maker, frozen once."""
    folder = tmp_path_factory.mktemp("gpu")

    def job(engine, precision, *flags):
        config = bench.parse_flags(["tensorrt.py", f"--output_dir={folder}", "--preprocessing=inception", "--noisolate",
                                    "--num_loops=20", *flags])  # fmt: skip
        made = bench.load_graph(config) if not graphs else graphs[0]
        graphs.append(made)
        return bench.Job(bench.Case(engine, precision, 8), config, made, bench.load_images(config, made, 8))

    graphs = []
    return job


def test_xla_fp16_is_half_and_agrees_with_native(bench, network):
    native = bench.run_case(network("native", "native"))
    half = bench.run_case(network("xla", "fp16"))
    assert half.artifact.proof["share_of_nodes"] > 0.9
    (ours,), (theirs,) = half.outputs.values(), native.outputs.values()
    assert bench.numeric_agreement(ours, theirs)["snr_db"] > 27
    assert ours.tobytes() != theirs.tobytes(), "float16 rounds"


def test_uint8_from_the_host_gives_the_float_path_s_outputs(bench, network):
    floats = bench.run_case(network("native", "native"))
    raw = bench.run_case(network("native", "native", "--host_dtype=uint8", "--inputs=both"))
    assert np.allclose(*raw.outputs.values(), *floats.outputs.values(), atol=1e-4)
    assert raw.timings["host"].throughput > 0


def test_clocks_are_sampled_at_little_cost(bench, network):
    clocks = bench.run_case(network("native", "native", "--num_loops=400")).timings["device"].clocks
    low, middle, high = clocks["sm_mhz"]
    assert 0 < low <= middle <= high
    assert clocks["images_per_joule"] > 0
    assert clocks["cost_share"] < 0.005
