"""TF-TRT as far as it goes without libnvinfer and a GPU: guards, messages, arguments, the graph
around it.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from tensorflow.core.framework import graph_pb2  # isort: skip


@pytest.fixture
def engine_graph():
    """A GraphDef as TF-TRT writes it: a segment of three nodes behind one TRTEngineOp, and three
    nodes around it.
    """

    def make(engines=1, parts=("conv", "bias", "relu")):
        graph_def = graph_pb2.GraphDef()
        graph_def.node.add(name="input_tensor", op="Placeholder")
        for index in range(engines):
            name = f"TRTEngineOp_000_{index:03d}"
            node = graph_def.node.add(name=name, op="TRTEngineOp", input=["input_tensor"])
            node.attr["segment_func"].func.name = f"{name}_native_segment"
            function = graph_def.library.function.add()
            function.signature.name = f"{name}_native_segment"
            for part in parts:
                function.node_def.add(name=part, op="Identity")
        graph_def.node.add(name="weights", op="Const")
        graph_def.node.add(name="softmax_tensor", op="Softmax", input=["TRTEngineOp_000_000"])
        return graph_def

    return make


@pytest.fixture
def converter(engine_graph):
    """A stand-in for TrtGraphConverter that keeps what it is told and converts to
    `engine_graph`.
    """

    class Converter:
        told = {}
        fed = []
        result = engine_graph()

        def __init__(self, *args, **kwargs):
            self.told["__init__"] = (args, kwargs)
            self._test_only_disable_non_trt_optimizers = False

        def convert(self, *args, **kwargs):
            assert not self._test_only_disable_non_trt_optimizers, "it needs them"
            self.told["convert"] = (args, kwargs)
            return self.result

        def calibrate(self, *args, **kwargs):
            self.told["calibrate"] = (args, kwargs)
            self.told["apart"] = self._test_only_disable_non_trt_optimizers
            self.fed.extend(kwargs["feed_dict_fn"]() for _ in range(args[1]))
            return self.result

    Converter.told, Converter.fed = {}, []
    return Converter


@pytest.fixture
def job(bench, forms, digits, tmp_path):
    """A case of the digits network, calibrated on twenty of the digits."""

    def make(precision, *flags):
        flags = [
            f"--output_dir={tmp_path}",
            f"--frozen_graph={forms['frozen_graph']}",
            "--preprocessing=none",
            *flags,
        ]
        config = bench.parse_flags(
            ["tensorrt.py", "--workspace_size=512", "--num_calibration_images=20", *flags]
        )
        graph = bench.load_graph(config)
        case = bench.Case("tftrt", precision, 8)
        return bench.Job(
            case, config, graph, bench.images_of(config, graph, digits.pixels[:8], ["digit"] * 8)
        )

    return make


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_the_converter_is_told(bench, job, converter, digits, precision):
    import tensorflow as tf

    given = job(precision, f"--calibration_dir={digits.folder}")
    graph_def, facts = bench.convert_by_tftrt(tf, converter, given)
    told = converter.told["__init__"][1]
    assert told["precision_mode"] == precision.upper()
    assert told["max_workspace_size_bytes"] == 512 << 20
    assert told["is_dynamic_op"], (
        "engines that are built before they run are two to three times slower"
    )
    assert told["nodes_denylist"] == [name.split(":")[0] for name in given.graph.output_names]
    assert graph_def == converter.result
    if precision == "int8":
        # 20 images, filled up
        assert [array.shape for feed in converter.fed for array in feed.values()] == [
            (8, 8, 8, 1)
        ] * 3
        assert converter.told["apart"], "it calibrates a graph that TensorFlow has fused"
        assert facts["calibration"]["images"] == 20
        assert facts["calibration"]["source"] == "calibration_dir"
        assert (given.path().parent / "tftrt_int8_calib_net.pb").exists()
    else:
        assert "calibrate" not in converter.told
        assert facts == {}


@pytest.mark.parametrize("flag", ["--isolate", "--noisolate"])
def test_engines_are_built_at_every_opening(bench, job, monkeypatch, flag):
    """Their seconds count as building, once however often the case is opened.

    Meanwhile TensorFlow fuses no batch norms, of which TF-TRT would build nothing; in a process of
    its own not in what it times either.
    """
    import tensorflow as tf

    options = tf.config.optimizer
    apart = []
    package = type(sys)("tensorrt")
    package.trt_convert = None
    monkeypatch.setitem(sys.modules, "tensorflow.python.compiler.tensorrt", package)
    runner = type(sys)("runner")

    def infer(feed):
        apart.append(options.get_experimental_options().get("remapping") is False)
        os.write(2, b"2026-11-29: W tensorflow/compiler/tf2tensorrt/x.cc:9] Failed to time it\n")

    runner.facts, runner.infer = {}, infer
    monkeypatch.setattr(bench, "TensorFlowRunner", lambda *_, **__: runner)
    monkeypatch.setattr(bench.OpenCase, "run_first", lambda self, inputs: 0.0)
    opened = bench.OpenCase(job("fp16", flag))
    opened.batch = {}
    opened.artifact = bench.Artifact("x", "0", 140.0, facts={"log": ["TF-TRT cannot convert it"]})
    try:
        for _ in range(2):
            opened.run_opened(bench.TfTrt())
            facts = opened.artifact.facts
            assert facts["engine_build_seconds"] > 0
            assert opened.artifact.seconds == pytest.approx(140.0 + facts["engine_build_seconds"])
            assert facts["log"] == ["TF-TRT cannot convert it", "Failed to time it"]
        fuses = options.get_experimental_options().get("remapping") is not False
    finally:
        options.set_experimental_options({"remapping": True})
    assert apart == [True] * 2
    assert fuses == (flag == "--noisolate")


def test_a_segment_that_tensorflow_ran_is_no_engine(bench):
    """TF-TRT's words, of TensorFlow 2.14.1, where it does not ask whether that is allowed."""
    place = "2026-11-29 11:40:00.1: W tensorflow/compiler/tf2tensorrt/kernels/trt_engine_op.cc:1] "
    line = "TF-TRT Warning: Running native segment for x due to failure in verifying input shapes"
    bench.refuse_native_segments([place + "TF-TRT Warning: The time of kernels is inexact"])
    with pytest.raises(bench.UserError, match="a TF-TRT engine did not run .*verifying input"):
        bench.refuse_native_segments([place + line])


def test_an_opened_graph_of_which_tensorflow_ran_a_part_is_refused(bench, job, monkeypatch):
    """Whatever it computed: it would be native's speed under TF-TRT's name."""
    package = type(sys)("tensorrt")
    package.trt_convert = None
    monkeypatch.setitem(sys.modules, "tensorflow.python.compiler.tensorrt", package)
    runner = type(sys)("runner")
    runner.infer = lambda feed: os.write(2, b"W: Running native segment for x due to failure\n")
    monkeypatch.setattr(bench, "TensorFlowRunner", lambda *_, **__: runner)
    artifact = bench.Artifact("x", "0", facts={"log": []})
    with pytest.raises(bench.UserError, match="a TF-TRT engine did not run"):
        bench.TfTrt().open(job("fp16", "--noisolate"), artifact, {})


@pytest.mark.parametrize(("given", "taken"), [("", "1"), ("3", "1"), ("0", "0")])
def test_warnings_of_tensorflow_are_heard(given, taken):
    """TF-TRT says in them why an engine did not run."""
    code = "import runpy, os, sys; runpy.run_path(sys.argv[1]); print(os.environ[sys.argv[2]])"
    words = [sys.executable, "-c", code, str(ROOT / "tensorrt.py"), "TF_CPP_MIN_LOG_LEVEL"]
    env = {name: value for name, value in os.environ.items() if name != words[-1]}
    env |= {words[-1]: given} if given else {}
    assert subprocess.run(words, env=env, capture_output=True, text=True).stdout.strip() == taken


def test_a_graph_of_before_has_engines_of_now(bench):
    facts = {"built_before": 4.1, "engine_build_seconds": 67.3}
    assert bench.coverage_notes("fp16", facts) == [
        "an earlier run converted this in 4 s: its engines were built now, as always"
    ]


def test_a_graph_that_tensorflow_runs_most_of_gets_a_sentence(bench):
    facts = {"trt_engines": 1, "share_of_nodes": 0.12}
    (note,) = bench.coverage_notes("fp16", facts)
    assert note.startswith("TensorRT has 12% of the graph's nodes, TensorFlow runs the rest")
    assert not bench.coverage_notes("fp16", {**facts, "share_of_nodes": 0.9})


def test_a_calibration_that_comes_to_nothing_is_told_with_what_was_logged(bench):
    """The error is TF-TRT's on an H200, the line is made up; other errors stay as they are."""
    line = b"2026-11-29: E tensorflow/compiler/tf2tensorrt/x.cc:10] Calibration failed: no engine\n"

    def fail(words):
        with bench.tftrt_errors(bench.NO_CALIBRATION, "the calibration came to nothing"):
            os.write(2, line)
            raise ValueError(words)

    with pytest.raises(bench.UserError) as told:
        fail("UNKNOWN: Calibration table is empty")
    assert str(told.value) == (
        "the calibration came to nothing (Calibration failed: no engine): try --engine=tensorrt"
    )
    with pytest.raises(ValueError, match="something else"):
        fail("something else")


@pytest.mark.legacy
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorflows_converter_takes_what_it_is_told(bench, job, converter, precision):
    import tensorflow as tf
    from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverter, TrtPrecisionMode

    bench.convert_by_tftrt(tf, converter, job(precision))
    if converter.told.pop("apart", False):
        told = inspect.getsource(TrtGraphConverter.calibrate)
        assert "self._test_only_disable_non_trt_optimizers" in told
    for method, (args, kwargs) in converter.told.items():
        inspect.signature(getattr(TrtGraphConverter, method)).bind(None, *args, **kwargs)
    assert (
        converter.told["__init__"][1]["precision_mode"]
        in TrtPrecisionMode.supported_precision_modes()
    )


@pytest.mark.legacy
def test_the_real_converter_says_no_without_libnvinfer(bench, job):
    import tensorflow as tf
    from tensorflow.python.compiler.tensorrt.trt_convert import TrtGraphConverter

    if not bench.missing_nvinfer():
        pytest.skip("libnvinfer is here")
    with pytest.raises(RuntimeError, match="has not been built with TensorRT"):
        bench.convert_by_tftrt(tf, TrtGraphConverter, job("fp32"))


def test_share_of_nodes(bench, engine_graph):
    assert bench.tftrt_share(engine_graph()) == {"trt_engines": 1, "share_of_nodes": 3 / 6}
    assert bench.tftrt_share(engine_graph(2)) == {"trt_engines": 2, "share_of_nodes": 6 / 9}
    assert bench.tftrt_share(graph_pb2.GraphDef()) == {"trt_engines": 0, "share_of_nodes": 0}


@pytest.mark.parametrize("engines", [0, 1])
def test_an_unconverted_graph_is_an_error(
    bench, job, converter, engine_graph, monkeypatch, engines
):
    converter.result = engine_graph(engines)
    real = bench.convert_by_tftrt
    monkeypatch.setattr(bench, "convert_by_tftrt", lambda tf, _, given: real(tf, converter, given))
    monkeypatch.setitem(
        sys.modules, "tensorflow.python.compiler.tensorrt.trt_convert", type(sys)("trt_convert")
    )
    sys.modules["tensorflow.python.compiler.tensorrt.trt_convert"].TrtGraphConverter = converter
    given = job("fp16")
    if not engines:
        with pytest.raises(bench.UserError, match="converted nothing"):
            bench.TfTrt().build(given)
        assert not given.path().exists()
        return
    artifact = bench.TfTrt().build(given)
    assert artifact.path.endswith("tftrt_fp16_net.pb")
    assert artifact.facts == {"trt_engines": 1, "share_of_nodes": 0.5, "log": []}
    written = bench.parse_graph_def(Path(artifact.path).read_bytes())
    (engine,) = [node for node in written.node if node.op == "TRTEngineOp"]
    (segment,) = written.library.function
    # native's functions have the names of before, in the same process with --noisolate
    assert engine.attr["segment_func"].func.name == segment.signature.name
    assert segment.signature.name == "TRTEngineOp_000_000_native_segment_tftrt_fp16_8"


def test_why_not(bench, monkeypatch):
    """In each state that a machine can be in, with the remedy; nothing is imported from a
    TensorFlow without TF-TRT.
    """
    engine = bench.TfTrt()
    monkeypatch.setattr(bench, "gpus", list)
    monkeypatch.setattr(bench, "version_of", lambda *names: "2.21.0")
    assert "removed after TensorFlow 2.17" in engine.why_not("fp16")
    assert "--engine=tensorrt" in engine.why_not("fp16")
    monkeypatch.setattr(bench, "version_of", lambda *names: "2.17.1")
    pywrap = type(sys)("_pywrap_py_utils")
    package = type(sys)("tf2tensorrt")
    package._pywrap_py_utils = pywrap
    monkeypatch.setitem(sys.modules, "tensorflow.compiler.tf2tensorrt", package)
    pywrap.is_tensorrt_enabled = lambda: False
    pywrap.get_linked_tensorrt_version = lambda: (0, 0, 0)
    assert "was not built with TensorRT" in engine.why_not("fp32")
    pywrap.get_linked_tensorrt_version = lambda: (8, 6, 1)
    assert "libnvinfer.so.8.6.1 was not found" in engine.why_not("fp32")
    assert "pip install -r requirements-tftrt.txt" in engine.why_not("fp32")
    pywrap.is_tensorrt_enabled = lambda: True
    assert engine.why_not("int8") == "no NVIDIA GPU"
    monkeypatch.setattr(bench, "gpus", lambda: [{"name": "a GPU"}])
    assert engine.why_not("int8") is None
    assert engine.why_not("native") == "tftrt has no NATIVE"


def test_asking_never_aborts_the_process(command):
    """TensorFlow 2.17 without libnvinfer aborts when it is asked for its TensorRT version: a
    process of its own.
    """
    ran = command("--doctor")
    assert ran.returncode == 0, ran.stderr
    assert "tftrt:" in ran.stdout
    assert "Fatal" not in ran.stderr
    assert "nvinfer_stub" not in ran.stderr


def test_a_converted_graph_where_there_is_no_tftrt(main, engine_graph, tmp_path):
    path = tmp_path / "tftrt_fp16_net.pb"
    path.write_bytes(engine_graph().SerializeToString())
    ran = main(f"--frozen_graph={path}")
    assert ran.status == 2
    assert "converted by TF-TRT" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.legacy
def test_the_abort_that_is_guarded_against_is_real(bench):
    """If TensorFlow no longer aborts, the guard can go."""
    if not bench.missing_nvinfer():
        pytest.skip("libnvinfer is here")
    code = (
        "from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils as u; "
        "assert not u.is_tensorrt_enabled(); u.get_loaded_tensorrt_version()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode < 0
    assert "getInferLibVersion symbol not found" in ran.stderr


def test_tftrt_asked_for_is_a_failed_row_with_the_reason(main, net, bench):
    if not bench.TfTrt().why_not("fp16"):
        pytest.skip("TF-TRT runs here")
    ran = main(*net, "--fp16", "--engine=tftrt")
    assert ran.status == 1
    assert [record["status"] for record in ran.records] == ["failed"]
    assert "tftrt cannot run FP16: " in ran.records[0]["error"]


def test_what_tftrt_logs_is_told_once_without_time_and_place(bench):
    place = "2026-11-24 08:00:0{}: W tensorflow/x.cc:10]"
    warning = f"{place} TF-TRT Warning: Engine creation failed: no space"
    lines = [
        warning.format(1),
        warning.format(2),
        "2026-11-24 08:00:00.3: I tensorflow/compiler/tf2tensorrt/x.cc:10] Replaced segment 0",
        "an error of somebody else",
    ]
    assert bench.tftrt_complaints(lines) == ["TF-TRT Warning: Engine creation failed: no space"]


def test_what_cpp_writes_is_collected_and_stderr_comes_back(bench, capfd):
    with bench.stderr_lines() as lines:
        os.write(2, b"from below\n")
    os.write(2, b"as before\n")
    assert lines == ["from below"]
    assert capfd.readouterr().err == "as before\n"


@pytest.mark.parametrize(
    ("engine", "precision", "kind", "snr_db", "words"),
    [
        ("tftrt", "int8", "values", 107.8, "INT8 gave native's outputs to 108 dB, which int8 does"),
        ("tftrt", "int8", "values", None, "INT8 gave native's outputs exactly"),
        ("tftrt", "int8", "values", 45.0, ""),
        ("tftrt", "int8", "ids", None, ""),
        ("tftrt", "fp16", "values", 107.8, ""),  # float16 weights alone can give as much
        ("tensorrt", "int8", "values", 107.8, ""),
    ],
)
def test_what_is_too_near_for_int8_is_doubted(bench, engine, precision, kind, snr_db, words):
    """Seen with TF-TRT's INT8 of a tiny network, on a GPU; no inspector tells its layers."""
    found = {"y": bench.OutputAgreement(kind, 1.0, 0.0, snr_db)}
    notes = bench.too_exact(bench.Case(engine, precision, 16), found)
    assert words in "".join(notes) and bool(notes) == bool(words)
