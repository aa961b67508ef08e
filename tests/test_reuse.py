"""What an earlier run built or chose is taken again for the same question, and never sold as built
or chosen now.
"""

import os
import shutil
import types

import pytest

rtx = pytest.importorskip("tensorrt_rtx")


def flags_of(forms, folder, *more):
    return [
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--fp16",
        "--engine=tensorrt",
        "--build_only",
        "--batch_size=2",
        f"--output_dir={folder}",
        *more,
    ]


def test_a_plan_is_built_once_for_the_same_question(main, forms, tmp_path):
    flags = flags_of(forms, tmp_path)
    first, again = (record["artifact"] for _ in range(2) for record in main(*flags).records)
    assert first["build_seconds"] > 0
    assert "built_before" not in first["proof"]
    assert again["build_seconds"] == 0
    assert again["proof"]["built_before"] == first["build_seconds"]
    assert again["name"] == first["name"]
    kept = {name: value for name, value in again["proof"].items() if name != "built_before"}
    assert kept == first["proof"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_onnx_file_is_written_once_for_the_same_question(bench, forms, tmp_path, precision):
    """A new calibration method is another question."""
    flags = ["x", *flags_of(forms, tmp_path)]
    case = bench.Case("onnxruntime", precision, 2)

    def write(*more):
        config = bench.parse_flags([*flags, *more])
        graph = bench.load_graph(config)
        writer = bench.OnnxWriter()
        writer.take(config, graph, bench.load_images(config, graph, 4))
        return writer.write(case)

    first = write()
    assert is_new(first)
    again = write()
    assert again.facts["built_before"] == first.seconds
    assert again.sha256 == first.sha256
    if precision == "int8":
        assert again.facts["calibration"]["sha256"] == first.facts["calibration"]["sha256"]
    assert is_new(write("--calibration_method=minmax"))


@pytest.fixture(scope="module")
def first(bench, forms, tmp_path_factory):
    """The job of an FP16 plan that was built, and the folder in which it lies."""
    folder = tmp_path_factory.mktemp("first")
    config = bench.parse_flags(["tensorrt.py", *flags_of(forms, folder)])
    graph = bench.load_graph(config)
    images = bench.load_images(config, graph, 4)
    case = bench.Case("tensorrt", "fp16", 2)
    source = bench.Onnx(config, graph, images).write(case)
    job = bench.Job(case, config, graph, images, source)
    assert is_new(bench.build_once(bench.ENGINES["tensorrt"], job))
    return types.SimpleNamespace(job=job, folder=folder)


@pytest.fixture
def build(bench, first, tmp_path):
    """Asks for that plan where it lies or, by other flags or another case, for another one."""
    shutil.copytree(first.folder, tmp_path, dirs_exist_ok=True)

    def ask(case=first.job.case, **flags):
        config = bench.Config(**{**vars(first.job.config), "output_dir": str(tmp_path), **flags})
        job = bench.dataclasses.replace(first.job, case=case, config=config)
        return bench.build_once(bench.ENGINES["tensorrt"], job)

    return ask


def is_new(artifact):
    return artifact.seconds > 0 and "built_before" not in artifact.facts


@pytest.mark.parametrize(
    "other", ["batch", "tf32", "graph", "images", "writers", "driver", "version"]
)
def test_another_question_is_built_anew(bench, build, monkeypatch, other):
    assert not is_new(build())
    question, real = {}, bench.question_of

    def asked(engine, job):
        question.update(real(engine, job))
        changes = {
            "graph": ["x"],
            "images": ["x"],
            "writers": ["x"],
            "gpu": ["H100", "9.0", "590"],
            "package": ["tensorrt 11", "2.21"],
        }
        name = {"driver": "gpu", "version": "package"}.get(other, other)
        return {**question, **{name: changes[name] for name in [name] if name in changes}}

    monkeypatch.setattr(bench, "question_of", asked)
    if other == "batch":
        assert is_new(build(case=bench.Case("tensorrt", "fp16", 4)))
    elif other == "tf32":
        assert is_new(build(tf32=False))
    else:
        assert is_new(build())
    assert question["flags"]["tf32"] is (other != "tf32")


@pytest.mark.parametrize("damage", ["plan", "answer", "no answer", "foreign"])
def test_what_was_changed_since_is_built_anew(build, tmp_path, monkeypatch, damage):
    (plan,), (answer,) = tmp_path.glob("*.engine"), tmp_path.glob("*.built.json")
    if damage == "plan":
        plan.write_bytes(plan.read_bytes()[:-1] + b"x")
    elif damage == "answer":
        answer.write_text(answer.read_text()[:-20])
    elif damage == "no answer":
        answer.unlink()
    else:
        monkeypatch.setattr(os, "getuid", lambda: answer.stat().st_uid + 1)
    assert is_new(build())


def test_a_plan_that_cannot_be_loaded_is_built_anew(bench, build, first, tmp_path):
    """As where a driver came with libraries that refuse it: the case's process asks again."""
    again = build()
    config = bench.Config(output_dir=str(tmp_path))
    job = bench.dataclasses.replace(first.job, config=config)
    engine = bench.ENGINES["tensorrt"]
    assert bench.forget_built(again, engine, job)
    assert is_new(build())
    assert not bench.forget_built(bench.Artifact("x", "0"), engine, job)


def test_a_plan_for_which_memory_is_short_is_kept(bench, build, first, tmp_path, monkeypatch):
    """Other cases' processes are closed then, and it is opened again: a new one takes minutes."""
    build()
    tries = []

    def refuse(*given):
        tries.append(given)
        raise bench.trt_error("run the plan", ["Error Code 2: OutOfMemory"])

    monkeypatch.setattr(bench.TensorRt, "why_not", lambda self, precision: None)
    monkeypatch.setattr(bench.TensorRt, "open", refuse)
    config = dict(vars(first.job.config), output_dir=str(tmp_path), build_only=False)
    job = bench.dataclasses.replace(first.job, config=bench.Config(**config))
    with pytest.raises(bench.UserError, match="out of memory"):
        bench.OpenCase(job).open()
    assert len(tries) == 1
    assert not is_new(build())


def test_a_reused_plan_gets_a_sentence(bench):
    assert "77 s: nothing was built now" in bench.coverage_notes("fp16", {"built_before": 77.2})[0]
    assert bench.coverage_notes("fp16", {"built_before": 0.9}) == [], "0 s is nothing to be told"
    assert "earlier run chose" in bench.coverage_notes("fp16", {"kernels": bench.REUSED_KERNELS})[0]
    assert bench.coverage_notes("fp16", {"kernels": "by this run"}) == []


@pytest.fixture
def kernels(bench, monkeypatch, tmp_path):
    """Makes the context of a process that compiles with XLA on a GPU of this name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def make(given="", gpu="H100"):
        facts = {"name": gpu, "compute_capability": "9.0", "driver": "580"}
        monkeypatch.setattr(bench, "gpus", lambda: [facts])
        monkeypatch.setenv("XLA_FLAGS", given)
        return bench.Kernels(bench.Config(tf32=True))

    return make


def test_kernels_are_chosen_once_for_a_gpu(kernels):
    with kernels() as first:
        assert os.environ["XLA_FLAGS"] == f"--xla_gpu_dump_autotune_results_to={first.new}"
        first.new.write_text("version: 3")
    assert first.chosen == "by this run"
    with kernels("--xla_cpu_enable_fast_math=false") as second:
        words = os.environ["XLA_FLAGS"].split()
        assert words[0] == "--xla_cpu_enable_fast_math=false"
        assert words[2] == f"--xla_gpu_load_autotune_results_from={first.path}"
        assert first.path.read_text() == "version: 3"
    assert second.chosen == "by an earlier run"
    assert kernels(gpu="H200").chosen == "by this run"


def test_kernels_that_xla_fails_with_are_not_taken_again(kernels):
    with kernels() as first:
        first.new.write_text("not what XLA reads")
    with pytest.raises(RuntimeError, match="Failed to load"), kernels():
        raise RuntimeError("Failed to load autotune results")
    assert not first.path.exists()
    with pytest.raises(RuntimeError, match="out of memory"), kernels() as other:
        raise RuntimeError("out of memory")
    assert not other.path.exists()


def test_the_user_s_own_flags_stand(kernels):
    own = "--xla_gpu_load_autotune_results_from=mine.txt"
    with kernels(own) as made:
        assert os.environ["XLA_FLAGS"] == own
    assert made.chosen == "by XLA_FLAGS"
    assert not made.path.exists()
