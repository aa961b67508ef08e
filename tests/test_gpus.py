"""Several GPUs at once, cases spread over them, and the largest batch; the CPU's cores stand for GPUs."""

import functools
import json
import math
import sys
import threading
import types

import pytest

PLACES = ["cpu0of2", "cpu1of2"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gpus=cpu:99"], "cores: pass cpu:"),
        (["--gpus=0"], "NVML sees"),
        (["--gpus=zero"], "NVML sees"),
        (["--gpus=all", "--ray_address=auto"], "exclude each other"),
        (["--spread"], "pass --gpus=all or --ray_address"),
        (["--gpus=cpu:2", "--noisolate"], "no --noisolate"),
        (["--batch_size=max", "--noisolate"], "no --noisolate"),
        (["--batch_size=8,max", "--build_only"], "found by running"),
        (["--batch_size=most"], "or max"),
    ],
)
def test_flags_that_cannot_be(bench, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.setattr(bench, "gpus", list)
    assert bench.main(["tensorrt.py", f"--output_dir={tmp_path}", *flags]) == 2
    assert words in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_places_are_the_gpus_that_this_process_may_use(bench, monkeypatch):
    monkeypatch.setattr(bench, "gpus", lambda: [{"index": 2}, {"index": 5}])
    places = {asked: bench.choose_places(bench.Config(gpus=asked)) for asked in ("all", "5", "5,2", None)}
    assert places == {"all": ["gpu2", "gpu5"], "5": ["gpu5"], "5,2": ["gpu5", "gpu2"], None: [""]}
    for wrong in ("3", "2,2", "2,"):
        with pytest.raises(bench.UserError, match="NVML sees 2, 5"):
            bench.choose_places(bench.Config(gpus=wrong))


def test_a_gpu_is_taken_before_anything_asks(bench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    bench.take_place("gpu3")
    assert bench.os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_each_gpu_has_its_own_artifacts(bench, job):
    paths = {bench.dataclasses.replace(job, place=place).path() for place in ("", "gpu0", "gpu1")}
    for path in paths:
        bench.write_artifact(path, b"plan", 0.0, {})
    assert len(paths) == 3 and all(path.read_bytes() == b"plan" for path in paths)


def test_cores_are_shared_out_without_rest(bench, monkeypatch):
    taken = []
    monkeypatch.setattr(bench, "cores", lambda: [0, 1, 4, 5, 7])
    monkeypatch.setattr(bench.os, "sched_setaffinity", lambda _, cores: taken.append(cores))
    for place in PLACES:
        bench.take_place(place)
    assert taken == [[0, 1, 4], [5, 7]]


def test_a_gate_waits_for_all_but_those_that_left(bench):
    gate, order = bench.Gate(3), []

    def go(own):
        for turn in range(20):
            gate.meet(own)
            order.append(turn)

    threads = [threading.Thread(target=go, args=(own,)) for own in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(0.05)
    assert threads[0].is_alive() and not order  # the third is not there yet
    gate.leave(2)
    for thread in threads:
        thread.join(30)
    assert order == sorted(order) and len(order) == 40  # nobody began a turn before all had ended the one before


@pytest.fixture
def job(bench, tmp_path):
    """A job of a case whose batch size is to be found."""
    config = bench.parse_flags(["tensorrt.py", f"--output_dir={tmp_path}"])
    graph = bench.Graph(
        "graph.pb",
        "graph.pb",
        (bench.Tensor("x:0", (None, 8, 8, 1), "float32"),),
        (bench.Tensor("y:0"),),
        "NHWC",
        "0" * 64,
    )
    return bench.Job(bench.Case("native", "native", bench.MAX), config, graph, None)


def fitting(bench, monkeypatch, limit, why="out of memory: pass a smaller --batch_size", measured=math.inf):
    """Puts a machine in place on which batches up to `limit` fit; gives the batch sizes that were tried."""
    tried = []

    def run(job, work=bench.run_case):
        tried.append(job.case.batch_size)
        fits = job.case.batch_size <= (limit if work is bench.try_case else measured)
        return bench.Result(job.case, "ok" if fits else "failed", "" if fits else why)

    monkeypatch.setattr(bench, "run_isolated", run)
    return tried


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 300, 1000, 12345, 65535])
def test_the_largest_batch_is_found_to_a_64th(bench, job, monkeypatch, limit):
    tried = fitting(bench, monkeypatch, limit)
    found = bench.sized(job, "").case.batch_size
    assert limit * (1 - 1 / 64) - 1 <= found <= limit
    assert len(tried) == len(set(tried)) <= math.log2(limit + 128) + 8


def test_nothing_fits_or_something_else_is_wrong(bench, job, monkeypatch):
    fitting(bench, monkeypatch, 0)
    result = bench.sized(job, "")
    assert (result.status, result.case.batch_size) == ("failed", 1) and "out of memory" in result.error
    tried = fitting(bench, monkeypatch, 0, "no such op")
    result = bench.sized(job, "")
    assert (result.status, result.error, tried) == ("failed", "no such op", [bench.FIRST_TRY])
    fitting(bench, monkeypatch, math.inf)
    assert bench.sized(job, "").case.batch_size == bench.LAST_TRY


def result_at(bench, case, place, throughput):
    timing = bench.Timing([0.1] * 4, throughput, 0.1)
    machine = {"device": f"GPU ({place})", "device_kind": "GPU"}
    return bench.Result(case, timings={"device": timing}, machine=machine)


def test_the_sum_is_of_those_that_came_through(bench):
    case = bench.Case("native", "native", 8)
    results = [result_at(bench, case, place, speed) for place, speed in zip(PLACES, (70.0, 80.0))]
    bench.add_up(results)
    for result in results:
        together = {"devices": ["GPU (cpu0of2)", "GPU (cpu1of2)"], "throughput": {"device": 150.0}}
        assert result.facts["together"] == together and not result.notes
    results.append(bench.Result(case, "failed", "lost"))
    bench.add_up(results)
    assert "only 2 of 3" in results[0].notes[0] and "together" not in results[2].facts


def test_spread_cases_never_share_a_place(bench, job, monkeypatch):
    cases = [bench.Case("native", "native", size) for size in range(1, 13)]
    busy, most, lock, both = set(), [], threading.Lock(), threading.Barrier(2)

    def run(job, places):
        (place,) = places
        with lock:
            assert place not in busy
            busy.add(place)
            most.append(len(busy))
        if job.case.batch_size <= 2:
            both.wait(30)  # the first two are under way at the same time
        with lock:
            busy.remove(place)
        return [result_at(bench, job.case, place, 1.0)]

    monkeypatch.setattr(bench, "run_together", run)
    monkeypatch.setattr(bench, "choose_places", lambda config: PLACES)
    done = []
    config = bench.Config(rounds=3)

    def make(case):
        return bench.dataclasses.replace(job, case=case, config=config)

    bench.run_spread(config, cases, make, lambda job, rounds: done.append((job.case.batch_size, len(rounds))))
    assert sorted(done) == [(size, 3) for size in range(1, 13)] and max(most) == 2


def test_a_case_that_cannot_be_prepared_is_a_row(bench, forms, tmp_path, capsys, monkeypatch):
    """As where its ONNX export fails: no process of a case says on what machine."""
    monkeypatch.setattr(bench, "load_isolated", bench.load_graph)  # a process could not import this module's name
    monkeypatch.setattr(bench, "make_job", lambda case, *_: bench.Result(case, "failed", "no export"))
    words = [f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none", "--batch_size=2", "--gpus=cpu:1"]
    assert bench.main(["tensorrt.py", *words, f"--output_dir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    record = json.loads((tmp_path / "results.jsonl").read_text())
    assert record["error"] == "no export" and record["device"] in err and "failed" in out


def test_processes_that_share_a_cpu_share_its_memory(bench, job, monkeypatch):
    import resource

    limits = []
    monkeypatch.setattr(bench, "gpus", list)
    monkeypatch.setattr(bench, "free_memory", lambda: 8 << 30)
    monkeypatch.setattr(bench, "run_case", lambda job: bench.Result(job.case))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7 << 30, -1))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit[0] >> 30))
    for place in ("", "cpu1of2", "cpu0of3"):
        bench.try_case(bench.dataclasses.replace(job, place=place))
    assert limits == [6, 3, 2]


@pytest.mark.parametrize(("cause", "words"), [("InvalidAuthToken", "RAY_AUTH_MODE=token"), ("timeout", "ray start")])
def test_a_cluster_that_cannot_be_joined_says_what_to_do(bench, monkeypatch, cause, words):
    def init(*_, **__):
        raise ConnectionError("Failed to connect") from RuntimeError(f"RPC error: {cause}")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    with pytest.raises(bench.UserError, match=f"Failed to connect.*{words}"):
        bench.Cluster(bench.Config(ray_address="auto"))


def test_the_table_has_the_order_of_the_cases(bench):
    cases = [bench.Case(*case) for case in (("native", "native", 8), ("xla", "fp32", 8), ("xla", "fp32", bench.MAX))]
    batches = [("xla", "fp32", 300), ("xla", "fp32", 8), ("native", "native", 8), ("xla", "fp32", 8)]
    records = [dict(zip(("engine", "precision", "batch_size"), row)) for row in batches]
    assert [bench.turn_of(cases, record) for record in records] == [2, 1, 0, 1]


def test_rounds_end_with_the_first_that_fails(bench, job, monkeypatch):
    fail = functools.partial(bench.Result, job.case, "failed", "died")
    monkeypatch.setattr(bench, "run_together", lambda *_: [fail()])
    case = bench.Case("native", "native", 8)
    _, rounds = bench.run_rounds(bench.dataclasses.replace(job, case=case, config=bench.Config(rounds=5)), [""])
    assert len(rounds) == 1


def test_a_batch_that_fits_only_in_its_try_is_made_smaller(bench, job, monkeypatch):
    fitting(bench, monkeypatch, 1000, measured=950)
    found, (result,) = bench.run_first(job, [""])
    assert result.status == "ok" and found.case == result.case and 850 <= result.case.batch_size <= 950
    assert "not when measured" in found.tried[1000]
    fitting(bench, monkeypatch, 1000, measured=0)
    found, (result,) = bench.run_first(job, [""])
    assert result.status == "failed" and "out of memory" in result.error and result.case.batch_size == 1


@pytest.mark.slow
@pytest.mark.parametrize("spread", [False, True])
def test_two_processes_with_half_of_the_cores_each(bench, command, forms, tmp_path, spread):
    if len(bench.cores()) < 2:
        pytest.skip("needs two cores")
    ran = command(
        f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none", "--native", "--fp32", "--engine=onnxruntime",
        "--gpus=cpu:2", "--batch_size=16", "--num_loops=20", f"--output_dir={tmp_path}", *["--spread"] * spread,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {(record["precision"], record["device"][-9:]) for record in records}
    if spread:
        assert {precision for precision, _ in found} == {"native", "fp32"} and len(records) == 2
        assert all("other devices ran other cases" in " ".join(record["notes"]) for record in records)
        return
    assert found == {(precision, f"({place})") for precision in ("native", "fp32") for place in PLACES}
    for precision in ("native", "fp32"):
        own = [record for record in records if record["precision"] == precision]
        total = sum(record["timings"]["device"]["throughput"] for record in own)
        assert all(record["together"]["throughput"]["device"] == total for record in own)
    assert ran.stdout.count(" devices together") == 2
    assert (tmp_path / "log.txt").read_text().count("together \t2 devices") == 4


@pytest.mark.slow
def test_the_largest_batch_within_a_limit_of_memory(forms, tmp_path):
    """The memory of the tries is held down as `ulimit -d` does it."""
    import resource
    import subprocess
    from pathlib import Path

    words = [sys.executable, str(Path(__file__).parent.parent / "tensorrt.py"), "--preprocessing=none", "--native",
             f"--frozen_graph={forms['frozen_graph']}", "--batch_size=max", "--num_loops=2", "--num_warmup=0",
             f"--output_dir={tmp_path}"]  # fmt: skip
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_DATA, (2 << 30, resource.RLIM_INFINITY))
    ran = subprocess.run(words, capture_output=True, text=True, timeout=1200, preexec_fn=limit)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "results.jsonl").read_text())
    tried = record["batch_sizes_tried"]
    assert tried[str(record["batch_size"])] == "fits"
    assert all((int(size) > record["batch_size"]) == (why != "fits") for size, why in tried.items())
