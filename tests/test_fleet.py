"""Several devices at once, cases spread over them, and the largest batch; the CPU's cores stand for
GPUs.
"""

import functools
import json
import math
import subprocess
import sys
import threading
import types

import pytest
from helpers import ROOT, images_of


@pytest.fixture(scope="session")
def bench(fleet):
    """tensorrt.py as fleet.py uses it."""
    return fleet.bench


@pytest.fixture
def halves(fleet):
    return [fleet.Placement(index=index, count=2) for index in range(2)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--gpus=cpu:99"], "cores: pass cpu:"),
        (["--gpus=0"], "NVML sees"),
        (["--gpus=zero"], "NVML sees"),
        (["--gpus=all", "--ray_address=auto"], "exclude each other"),
        (["--spread"], "pass --gpus=all or --ray_address"),
        (["--native"], "no device is named"),
        (["--gpus=cpu:2", "--noisolate"], "no --noisolate"),
        (["--batch_size=max", "--noisolate"], "no --noisolate"),
        (["--batch_size=8,max", "--build_only"], "found by running"),
        (["--batch_size=most"], "or max"),
        (["--gpus=cpu:1", "--threads=9999"], "or 0 for all"),
    ],
)
def test_flags_that_cannot_be(fleet, bench, tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.setattr(bench, "gpus", list)
    assert fleet.main(["fleet.py", f"--output_dir={tmp_path}", *flags]) == 2
    assert words in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--gpus=all", "--spread", "--ray_address=auto"])
def test_tensorrt_py_says_which_command_to_type(command, tmp_path, flag):
    ran = command(flag, "--native", "--image_file=my photo.jpg", f"--output_dir={tmp_path}")
    assert ran.returncode == 2
    wanted = (
        f"python fleet.py {flag} --native '--image_file=my photo.jpg' --output_dir={tmp_path}\n"
    )
    assert ran.stderr.endswith(wanted)
    assert ran.stderr.count("\n") == 1


def test_placements_are_the_gpus_that_this_process_may_use(fleet, bench, monkeypatch):
    monkeypatch.setattr(bench, "gpus", lambda: [{"index": 2}, {"index": 5}])
    chosen = {
        asked: [p.gpu for p in fleet.choose_placements(asked)] for asked in ("all", "5", "5,2")
    }
    assert chosen == {"all": [2, 5], "5": [5], "5,2": [5, 2]}
    for wrong in ("3", "2,2", "2,"):
        with pytest.raises(bench.UserError, match="NVML sees 2, 5"):
            fleet.choose_placements(wrong)


def test_a_gpu_is_taken_before_anything_asks(fleet, bench, job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    fleet.PlacedCase(job, fleet.Placement(gpu=3), None, 0)
    assert fleet.os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_each_device_has_its_own_artifacts(fleet, bench, job, monkeypatch):
    started = []
    monkeypatch.setattr(bench, "start", lambda config, make, job, *_: started.append(job))
    for gpu in (None, 0, 1):
        fleet.PlacedSession(job, fleet.Placement(gpu=gpu)).start(job)
    paths = {job.path() for job in started}
    for path in paths:
        bench.write_artifact(path, b"plan", 0.0, {})
    assert len(paths) == 3
    assert all(path.read_bytes() == b"plan" for path in paths)


def test_cores_are_shared_out_without_rest(fleet, bench, halves, monkeypatch):
    taken = []
    monkeypatch.setattr(bench, "cores", lambda: [0, 1, 4, 5, 7])
    monkeypatch.setattr(fleet.os, "sched_setaffinity", lambda _, cores: taken.append(cores))
    for placement in halves:
        placement.confine()
    assert taken == [[0, 1, 4], [5, 7]]


def test_a_barrier_waits_for_all_but_those_that_left(fleet):
    barrier, order = fleet.Barrier(3), []

    def go(own):
        for turn in range(20):
            barrier.meet(own)
            order.append(turn)

    threads = [threading.Thread(target=go, args=(own,), daemon=True) for own in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(0.05)
    assert threads[0].is_alive(), "the third is not there yet"
    assert not order
    barrier.leave(2)
    for thread in threads:
        thread.join(30)
    assert len(order) == 40
    assert order == sorted(order), "nobody began a turn before all had ended the one before"


@pytest.fixture
def job(bench, tmp_path):
    """A job of a case whose batch size is to be found."""
    config = bench.parse_flags(["tensorrt.py", f"--output_dir={tmp_path}"])
    tensors = (bench.Tensor("x:0", (None, 8, 8, 1)),), (bench.Tensor("y:0"),)
    graph = bench.Graph("graph.pb", "graph.pb", *tensors, "NHWC", "0" * 64)
    return bench.Job(bench.Case("native", "native", None), config, graph, None)


class Stub:
    """Stands for the process of a case: what it answers, and what it was asked."""

    def __init__(self, job, answers):
        self.job, self.answers, self.closed = job, answers, False

    def ask(self, name, *given):
        return self.answers[name](self.job, *given)

    def close(self):
        self.closed = True


@pytest.fixture
def fitting(bench, monkeypatch):
    """Puts a machine in place on which batches up to `limit` fit; gives the batch sizes that were
    tried.
    """

    def machine(limit, why="out of memory: pass a smaller --batch_size", measured=math.inf):
        tried = []

        def try_batch(job):
            tried.append(job.case.batch_size)
            if job.case.batch_size > limit:
                raise bench.CaseError(why)

        def measure(job, steps):
            if job.case.batch_size > measured:
                raise bench.CaseError(why)
            return {"device": bench.Timing([0.1] * (steps or 3), 1.0, 0.1)}

        answers = {
            "machine": lambda job: {"device": "GPU", "device_kind": "GPU"},
            "open": lambda job, built: (bench.Artifact("x", "0"), ""),
            "try_batch": try_batch,
            "measure_round": measure,
        }
        monkeypatch.setattr(bench, "start", lambda config, make, job, *_: Stub(job, answers))
        return tried

    return machine


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 300, 1000, 12345, 65535])
def test_the_largest_batch_is_found_to_a_64th(bench, job, fitting, limit):
    tried = fitting(limit)
    found = bench.Session(job).find_largest_batch().case.batch_size
    assert limit * (1 - 1 / 64) - 1 <= found <= limit
    assert len(tried) == len(set(tried)) <= math.log2(limit + 128) + 8


def test_nothing_fits_or_something_else_is_wrong(bench, job, fitting, capsys):
    fitting(0)
    session = bench.Session(job)
    session.take_turn([session])
    assert (session.result.status, session.job.case.batch_size) == ("failed", 1)
    assert "out of memory" in session.result.error
    tried = fitting(0, "no such op")
    session = bench.Session(job)
    session.take_turn([session])
    assert (session.result.status, session.result.error, tried) == (
        "failed",
        "no such op",
        [session.job.case.batch_size],
    )
    assert tried == [bench.FIRST_TRY]
    fitting(math.inf)
    assert bench.Session(job).find_largest_batch().case.batch_size == bench.LAST_TRY
    err = capsys.readouterr().err
    assert f"{bench.LAST_TRY}: fits (0 s)" in err and "no larger batch is tried" in err


def test_a_try_that_dies_on_a_cpu_tells_its_share_of_the_memory(bench, job, monkeypatch):
    """TensorFlow answers an allocation that the limit refuses with SIGSEGV."""

    def dies(*_):
        raise bench.ProcessDied("process died of SIGSEGV")

    answers = types.SimpleNamespace(ask=dies, close=lambda: None)
    monkeypatch.setattr(bench, "start", lambda *_: answers)
    for found, ends in ([], "(a try may take 75% of the memory that is free)"), ([1], "SIGSEGV"):
        monkeypatch.setattr(bench, "gpus", lambda found=found: found)
        assert bench.Session(job).try_batch(job).endswith(ends)


def test_a_try_feeds_the_batch_from_the_host_once(bench, job, monkeypatch):
    """At 2,656 images of 224x224 one feeding more took a second of eleven, on a CPU."""
    fed = []
    outputs = {"y:0": bench.np.zeros((8, 3), "float32")}

    def open_case(self):
        self.batch = {"x:0": bench.np.zeros((8, 2), "float32")}
        self.runner = types.SimpleNamespace(
            enqueue=lambda: None, sync=lambda: None, infer=lambda feed: fed.append(feed) or outputs
        )
        self.first_runs, self.step_seconds = {"device": 0.1}, {"device": 0.1}

    monkeypatch.setattr(bench.OpenCase, "open", open_case)
    monkeypatch.setattr(bench, "limit_memory", lambda _: None)  # it would be that of all tests
    eight = bench.dataclasses.replace(
        job, case=bench.Case("native", "native", 8), samples=[None] * 8
    )
    bench.OpenCase(eight).try_batch()
    assert len(fed) == 1


def test_the_first_step_decides_how_many_samples_are_judged(bench, job, monkeypatch):
    """Outputs whose shape depends on the data may be larger in a later step."""
    monkeypatch.setattr(bench, "MOST_OUTPUT_BYTES", 6 * 4 * 4)
    widths = iter((4, 64))
    eight = bench.dataclasses.replace(
        job, case=bench.Case("native", "native", 4), samples=[None] * 8
    )
    opened = bench.OpenCase(eight)
    opened.runner = types.SimpleNamespace(
        infer=lambda feed: {"y:0": bench.np.zeros((4, next(widths)), "float32")}
    )
    for _ in range(2):
        opened.outputs_for({})
        assert opened.judged == 6


def turns(session, sessions=None):
    """Lets a session take its turn until it has got through, and tells how often it was tried."""
    count, before = 0, len(session.rounds)
    while len(session.rounds) == before and not session.over:
        session.take_turn(sessions or [session])
        count += 1
    return count


def test_a_batch_that_fits_only_in_its_try_is_made_smaller(bench, job, fitting):
    fitting(1000, measured=950)
    session = bench.Session(job)
    turns(session)
    (result,) = session.results()
    assert result.status == "ok"
    assert 850 <= session.job.case.batch_size <= 950
    assert "not when measured" in result.batch_sizes_tried[1000]
    fitting(1000, measured=0)
    session = bench.Session(job)
    turns(session)
    (result,) = session.results()
    assert (result.status, session.job.case.batch_size) == ("failed", 1)
    assert "out of memory" in result.error


def test_a_smaller_batch_still_says_that_it_had_neighbours(fleet, bench, job, fitting):
    fitting(1000, measured=950)
    spread = bench.dataclasses.replace(job, config=job.config.but(spread=True))
    session = fleet.PlacedSession(spread, fleet.Placement(gpu=0))
    turns(session)
    (result,) = session.results()
    assert session.job.case.batch_size <= 950
    assert result.notes.count(f"{fleet.NEIGHBOURS}, and share power and PCIe") == 1


def test_shares_of_a_cpu_share_no_power_and_pcie(fleet, bench, job, halves):
    spread = bench.dataclasses.replace(job, config=job.config.but(spread=True))
    session = fleet.PlacedSession(spread, halves[0])
    assert session.result.notes == [f"{fleet.NEIGHBOURS}, and may share memory and caches"]


def test_what_does_not_fit_beside_the_others_is_tried_without_them(
    bench, job, fitting, monkeypatch
):
    """The others are closed, opened again at their next turn from what was built before, and the
    record says so.
    """
    fitting(1000)
    cases = [
        bench.Case("native", "native", 8),
        bench.Case("xla", "fp16", 8),
        bench.Case("xla", "fp32", 8),
    ]
    sessions = [bench.Session(bench.dataclasses.replace(job, case=case)) for case in cases]
    for session in sessions[:2]:
        assert turns(session, sessions) == 1
    built, first = sessions[0].result.artifact, [session.worker for session in sessions]

    def full(job, built):
        if any(session.worker for session in sessions[:2]):
            raise bench.CaseError("out of memory")
        return bench.Artifact("y", "1"), ""

    answers = {**first[0].answers, "open": full}
    monkeypatch.setattr(bench.Session, "start", lambda self, job: Stub(job, answers))
    assert turns(sessions[2], sessions) == 2
    assert first[0].closed and first[1].closed and sessions[2].worker
    reused = []
    answers["open"] = lambda job, built: (reused.append(built) or built, "")
    assert turns(sessions[0], sessions) == 1
    assert reused == [built]
    assert len(sessions[0].rounds) == 2
    assert any("opened 2 times" in note for note in sessions[0].results()[0].notes)
    assert not any("opened" in note for note in sessions[2].results()[0].notes)


class Meetings:
    """A barrier that only writes down who met at it."""

    def __init__(self):
        self.met = []

    def meet(self, own):
        self.met.append(own)


def test_a_process_meets_the_others_before_each_of_its_loops(fleet, bench, job):
    """Before the waited steps and before the burst, for each place of the input; and
    nowhere else.
    """
    barrier, nothing = Meetings(), lambda *_: None
    config = bench.parse_flags(["tensorrt.py", "--num_warmup=3"])
    case = bench.Case("native", "native", 2)
    placed = fleet.PlacedCase(
        bench.dataclasses.replace(job, case=case, config=config), fleet.Placement(), barrier, 7
    )
    placed.runner = types.SimpleNamespace(
        enqueue=nothing, sync=nothing, infer=nothing, prefetch=lambda *_: lambda: None
    )
    placed.batch, placed.same = None, [{}, {}]
    placed.first_runs = {inputs: placed.run_first(inputs) for inputs in ("device", "host")}
    assert barrier.met == []
    placed.measure_round(4)
    assert barrier.met == [7] * 4


@pytest.fixture
def team(fleet, bench, job, halves, monkeypatch):
    """Makes a case on two placements whose processes answer as told; gives it, and what each was
    started with: threads start them, so they come in any order.
    """

    def make(measure):
        started = {}

        def start(config, kind, job, placement, barrier, own):
            assert own not in started
            started[own] = kind, placement, barrier
            answers = {
                "machine": lambda job: {"device_kind": "CPU", "device": f"CPU {own}"},
                "open": lambda job, built: (bench.Artifact("x", "0"), ""),
                "judge_outputs": lambda job: ({}, []),
                "measure_round": functools.partial(measure, own),
            }
            return Stub(job, answers)

        monkeypatch.setattr(bench, "start", start)
        config = bench.parse_flags(["tensorrt.py", "--num_loops=8"])
        eight = bench.dataclasses.replace(
            job, case=bench.Case("native", "native", 8), config=config
        )
        return fleet.Team(eight, halves), started

    return make


def test_all_processes_of_a_case_get_the_same_barrier(fleet, bench, halves, team):
    made, started = team(
        lambda own, job, steps: {"device": bench.Timing([0.1] * steps, 10.0 * (own + 1), 0.1)}
    )
    made.take_turn([made])
    made.take_turn([made])
    barrier = started[0][2]
    assert started == {own: (fleet.PlacedCase, half, barrier) for own, half in enumerate(halves)}
    assert list(barrier.slots) == [0, 0]
    assert made.has_enough([made])
    made.finish()
    results = made.results()
    assert [result.machine["device"] for result in results] == ["CPU (cpu0of2)", "CPU (cpu1of2)"]
    assert [result.together.throughput for result in results] == [{"device": 30.0}] * 2
    assert [len(result.rounds) for result in results] == [2, 2]


def test_a_process_that_dies_leaves_the_barrier_and_the_others_go_on(bench, team):
    def measure(own, job, steps):
        if own == 1:
            raise bench.ProcessDied("process died of SIGSEGV")
        return {"device": bench.Timing([0.1] * steps, 10.0, 0.1)}

    made, started = team(measure)
    made.take_turn([made])
    assert list(started[0][2].slots) == [0, -1]
    assert not made.over
    made.take_turn([made])
    made.finish()
    whole, dead = made.results()
    assert (whole.status, len(whole.rounds), dead.status) == ("ok", 2, "failed")
    assert "SIGSEGV" in dead.error
    assert any("only 1 of 2 devices came through" in note for note in whole.notes)


def test_native_s_outputs_come_from_a_device_that_has_them(bench, team):
    """The first of two gives none after its rounds."""
    made, _ = team(lambda own, job, steps: {"device": bench.Timing([0.1] * steps, 10.0, 0.1)})
    made.take_turn([made])
    one, two = made.members
    one.worker.answers["judge_outputs"] = lambda job: (_ for _ in ()).throw(bench.CaseError("lost"))
    two.worker.answers["judge_outputs"] = lambda job: ({"y:0": [1.0]}, [])
    made.finish()
    assert made.result.outputs == {"y:0": [1.0]}
    assert bench.outputs_to_compare_with(made.results()) == {"y:0": [1.0]}


def test_the_reference_takes_a_small_step_where_the_largest_is_to_be_found(bench, job):
    """All of 512 photographs at once may not fit."""
    images = images_of(bench, bench.np.zeros((512, 1, 1, 3), "uint8"))
    unknown = bench.dataclasses.replace(job, samples=images)
    assert bench.reference_job([unknown]).case.batch_size == 32
    known = bench.dataclasses.replace(unknown, case=bench.Case("xla", "fp16", 64))
    assert bench.reference_job([unknown, known]).case.batch_size == 64


def result_at(bench, placement, throughput):
    timing = bench.Timing([0.1] * 4, throughput, 0.1)
    machine = {"device": f"GPU ({placement})", "device_kind": "GPU"}
    return bench.Result(rounds=[{"device": timing}], machine=machine)


def test_the_sum_is_of_those_that_came_through(fleet, bench, halves):
    results = [result_at(bench, place, speed) for place, speed in zip(halves, (70.0, 80.0))]
    fleet.add_up(results)
    for result in results:
        devices = ["GPU (cpu0of2)", "GPU (cpu1of2)"]
        assert result.together == bench.Together(devices, {"device": 150.0})
        assert not result.notes
    results.append(bench.Result("failed", "lost"))
    fleet.add_up(results)
    assert "only 2 of 3" in results[0].notes[0]
    assert results[2].together is None


def test_spread_cases_never_share_a_placement(fleet, bench, job, halves, monkeypatch):
    busy, most, lock, both = set(), [], threading.Lock(), threading.Barrier(2)

    def work(jobs, session, reference):
        (job,) = jobs
        placement = session(job).placement
        with lock:
            assert placement not in busy
            busy.add(placement)
            most.append(len(busy))
        if job.case.batch_size <= 2:
            both.wait(30)  # the first two are under way at the same time
        with lock:
            busy.remove(placement)
        yield job, [result_at(bench, placement, 1.0)]

    monkeypatch.setattr(bench, "schedule", work)
    monkeypatch.setattr(bench, "untimed_reference", lambda *_: None)
    cases = [bench.Case("native", "native", size) for size in range(1, 13)]
    config = bench.Config(**{**vars(job.config), "spread": True})
    jobs = [bench.dataclasses.replace(job, case=case, config=config) for case in cases]
    done = [job.case.batch_size for job, _ in fleet.schedule_spread(jobs, halves)]
    assert sorted(done) == list(range(1, 13))
    assert max(most) == 2


def done(bench, job, precision, outputs=None):
    case = bench.Case(precision, precision, 8)
    return bench.dataclasses.replace(job, case=case), [bench.Result(outputs=outputs)]


def references(measured):
    return [(job.case.precision, results[0].reference) for job, results in measured]


def test_cases_wait_for_native_s_outputs_which_need_no_process_of_their_own(fleet, bench, job):
    outputs = {"y:0": [1.0]}
    cases = [
        done(bench, job, "fp16"),
        done(bench, job, "native", outputs),
        done(bench, job, "int8"),
    ]
    found = fleet.compared_with_native(iter(cases), 1)
    assert references(found) == [("fp16", outputs), ("native", outputs), ("int8", outputs)]
    first_fails = [done(bench, job, "native"), done(bench, job, "fp16"), cases[1]]
    assert references(fleet.compared_with_native(iter(first_fails), 2))[1] == ("fp16", outputs)
    all_fail = fleet.compared_with_native(iter(first_fails[:2]), 1)
    assert references(all_fail) == [("native", None), ("fp16", None)]


def test_cases_that_wait_for_native_survive_ctrl_c(fleet, bench, job):
    def measured():
        yield done(bench, job, "fp16")
        raise KeyboardInterrupt

    found = fleet.compared_with_native(measured(), 1)
    assert next(found)[0].case.precision == "fp16"
    with pytest.raises(KeyboardInterrupt):
        next(found)


@pytest.mark.parametrize("natives", [0, 1])
def test_spread_runs_native_for_the_comparison_only_where_it_is_no_case(
    fleet, bench, job, halves, monkeypatch, natives
):
    asked = []
    monkeypatch.setattr(bench, "untimed_reference", lambda *_: asked.append(1) or {"y:0": [2.0]})
    cases = [done(bench, job, "fp16"), done(bench, job, "native", {"y:0": [1.0]})][: 1 + natives]
    monkeypatch.setattr(fleet, "measure_spread", lambda jobs, placements: iter(cases))
    found = references(fleet.schedule_spread([job for job, _ in cases], halves))
    assert asked == [1] * (1 - natives)
    assert found[0] == ("fp16", {"y:0": [1.0 if natives else 2.0]})


@pytest.mark.parametrize("spread", [False, True])
def test_a_case_that_cannot_be_prepared_is_a_row(
    fleet, bench, forms, tmp_path, capsys, monkeypatch, spread
):
    """As where its ONNX export fails: no process of a case says on what machine."""
    graph, error = bench.load_graph(bench.parse_flags(words_of(forms, tmp_path))), "no export"
    pixels = {graph.inputs[0].name: bench.np.zeros((2, 8, 8, 1), "uint8")}
    images = bench.Images(pixels, ["a", "b"])
    model = bench.Model(graph, images, [bench.Case("onnxruntime", "fp32", 2)])
    # a process could not import this module's name
    monkeypatch.setattr(bench, "load_model", lambda config, choose: model)
    monkeypatch.setattr(bench, "untimed_reference", lambda *_: None)
    monkeypatch.setattr(bench.OnnxSource, "write", lambda self, model, case: (None, error))
    flags = ["--gpus=cpu:1", *["--spread"] * spread, "--fp32"]
    assert fleet.main([*words_of(forms, tmp_path), *flags]) == 1
    out, _ = capsys.readouterr()
    record = json.loads((tmp_path / "results.jsonl").read_text())
    assert record["error"] == "no export"
    assert record["device"]
    assert "failed" in out


def words_of(forms, folder):
    return [
        "fleet.py",
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--batch_size=2",
        f"--output_dir={folder}",
    ]


def test_processes_that_share_a_cpu_share_its_memory(fleet, bench, job, monkeypatch):
    import resource

    limits = []
    monkeypatch.setattr(bench, "gpus", list)
    monkeypatch.setattr(bench, "free_memory", lambda: 8 << 30)
    monkeypatch.setattr(bench.OpenCase, "open", lambda self: None)
    monkeypatch.setattr(fleet.Placement, "confine", lambda self: None)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (7 << 30, -1))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit[0] >> 30))
    for count in (1, 2, 3):
        fleet.PlacedCase(job, fleet.Placement(count=count), None, 0).try_batch()
    assert limits == [5, 3, 2], "three quarters of 8 GB in equal shares, or of the user's own 7"


@pytest.mark.parametrize(
    ("cause", "words"), [("InvalidAuthToken", "RAY_AUTH_MODE=token"), ("timeout", "ray start")]
)
def test_a_cluster_that_cannot_be_joined_says_what_to_do(fleet, bench, monkeypatch, cause, words):
    def init(*_, **__):
        raise ConnectionError("Failed to connect") from RuntimeError(f"RPC error: {cause}")

    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(init=init))
    with pytest.raises(bench.UserError, match=f"Failed to connect.*{words}"):
        fleet.join_cluster("auto")


def test_the_table_has_the_order_of_the_cases(bench):
    cases = [
        bench.Case(*case)
        for case in (("native", "native", 8), ("xla", "fp32", 8), ("xla", "fp32", None))
    ]
    batches = [
        ("xla", "fp32", 300),
        ("xla", "fp32", 8),
        ("native", "native", 8),
        ("xla", "fp32", 8),
    ]
    names = ("engine", "precision", "batch_size")
    records = [types.SimpleNamespace(**dict(zip(names, row))) for row in batches]
    assert [bench.turn_of(cases, record) for record in records] == [2, 1, 0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("spread", [False, True])
def test_two_processes_with_half_of_the_cores_each(bench, forms, tmp_path, spread):
    if len(bench.cores()) < 2:
        pytest.skip("needs two cores")
    words = [
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--gpus=cpu:2",
        "--batch_size=16",
        "--num_loops=20",
        f"--output_dir={tmp_path}",
        *["--spread"] * spread,
    ]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "fleet.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = {(record["precision"], record["device"][-9:]) for record in records}
    if spread:
        assert {precision for precision, _ in found} == {"native", "fp32"}
        assert len(records) == 2
        assert all(
            "other devices ran other cases" in " ".join(record["notes"]) for record in records
        )
        return
    placements = ("(cpu0of2)", "(cpu1of2)")
    assert found == {(precision, place) for precision in ("native", "fp32") for place in placements}
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

    words = [
        sys.executable,
        str(ROOT / "tensorrt.py"),
        "--preprocessing=none",
        "--native",
        f"--frozen_graph={forms['frozen_graph']}",
        "--batch_size=max",
        "--num_loops=2",
        "--num_warmup=0",
        f"--output_dir={tmp_path}",
    ]
    limit = functools.partial(
        resource.setrlimit, resource.RLIMIT_DATA, (2 << 30, resource.RLIM_INFINITY)
    )
    ran = subprocess.run(words, capture_output=True, text=True, timeout=1200, preexec_fn=limit)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((tmp_path / "results.jsonl").read_text())
    tried = record["batch_sizes_tried"]
    assert tried[str(record["batch_size"])] == "fits"
    assert all((int(size) > record["batch_size"]) == (why != "fits") for size, why in tried.items())
