"""Warm-up, rounds, when they end, what is judged after them, and that a kill loses none."""

import itertools
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, agreement, children_of, wait_for, wait_for_end_of


class Warming:
    """A step whose seconds fall to a final value, on a clock of its own."""

    def __init__(self, final, extra, falling=0.9):
        self.now, self.final, self.extra, self.falling, self.steps = 0.0, final, extra, falling, 0

    def __call__(self):
        self.now += self.final + self.extra
        self.extra *= self.falling
        self.steps += 1

    def clock(self):
        return self.now


def test_a_warm_up_lasts_until_the_speed_has_stopped_rising(bench):
    step = Warming(0.04, 0.04, falling=0.98)
    assert 0.04 < bench.warm_up(step, step.clock) < 0.046
    assert bench.WARM_LEAST < step.now < bench.WARM_MOST
    steady = Warming(0.001, 0)
    bench.warm_up(steady, steady.clock)
    assert bench.WARM_LEAST <= steady.now < bench.WARM_LEAST + 2 * bench.WARM_WINDOW
    endless = Warming(0, 0.2, falling=0.99)
    bench.warm_up(endless, endless.clock)
    assert bench.WARM_MOST <= endless.now < bench.WARM_MOST + 2 * bench.WARM_WINDOW
    long = Warming(20.0, 0)
    bench.warm_up(long, long.clock)
    assert long.steps == 1


@pytest.mark.parametrize(
    ("loops", "rounds", "plan"),
    [
        (100, None, [20] * 5),
        (23, None, [5, 5, 5, 4, 4]),
        (7, None, [7]),
        (8, None, [4, 4]),
        (2, 5, [1, 1]),
        (7, 3, [3, 2, 2]),
    ],
)
def test_the_steps_asked_for_are_spread_over_the_rounds(bench, loops, rounds, plan):
    assert bench.plan_rounds(loops, rounds) == plan


@pytest.mark.parametrize("rounds", [[], ["--rounds=3"]])
def test_so_many_steps_means_so_many(main, net, rounds):
    ran = main(*net, "--batch_size=2", "--num_loops=23", *rounds)
    assert ran.status == 0, ran.err
    (record,) = ran.records
    each = [len(timings["device"]["seconds"]) for timings in record["rounds"]]
    assert each == ([8, 8, 7] if rounds else [5, 5, 5, 4, 4])
    assert len(record["timings"]["device"]["seconds"]) == 23
    assert "steps 23" in ran.log


@pytest.fixture
def session(bench, tmp_path):
    """Makes a session of a case with rounds of these medians of seconds, a step each hundredth of
    it.
    """

    def make(precision, *rounds, flags=(), took=1.0):
        config = bench.parse_flags(["tensorrt.py", f"--output_dir={tmp_path}", *flags])
        job = bench.Job(
            bench.Case("native" if precision == "native" else "xla", precision, 8),
            config,
            None,
            None,
        )
        made = bench.Session(job)
        made.result.rounds = [
            {"device": bench.Timing([seconds] * 3, 1.0, 1.0)} for seconds in rounds
        ]
        made.seconds = [took] * len(rounds)
        made.judged = True  # no process is started to ask for outputs
        return made

    return make


STEADY, UNSTEADY = [0.1] * 5, [0.1, 0.12, 0.1, 0.13, 0.1]


def test_rounds_end_when_the_speed_is_known_or_the_time_is_up(session):
    known, unknown = session("fp16", *STEADY), session("fp16", *UNSTEADY)
    assert known.has_enough([known])
    assert not unknown.has_enough([unknown])
    assert not session("fp16", *STEADY[:4]).has_enough([])
    late = session("fp16", *UNSTEADY, took=11.0)  # a sixth round would end after 66 s
    assert late.has_enough([late])
    slow = session("fp16", 0.1, took=40.0)
    slow.rounds[0]["device"].seconds[1:] = []
    assert not slow.has_enough([slow]), "a deviation needs two steps"


def test_times_native_has_to_be_known_too(session):
    """Both speeds are steady, but for the turns in which native had another; native goes on beside
    the case.
    """
    native, case = session("native", 0.2, 0.2, 0.2, 0.25, 0.2), session("fp16", *STEADY)
    assert not case.has_enough([native, case])
    native.result.rounds = session("native", *[0.2] * 5).rounds
    assert case.has_enough([native, case])
    assert not native.has_enough([native, case]), "the case is not over yet"
    case.over = True
    assert native.has_enough([native, case])


def test_native_ends_with_the_last_that_needs_it_beside_itself(bench, session):
    """Its own speed was known before: no turn of its own would come in which to notice."""
    native, case = session("native", *[0.2] * 5), session("fp16", *STEADY)
    with bench.Turns([native, case], None) as turns:
        assert [job.case.precision for job, _ in turns.finished()] == ["fp16", "native"]
        assert not list(itertools.islice(turns.next(), 1)), "all have enough"


def test_rounds_asked_for_are_made_and_no_more(session):
    case = session("fp16", *UNSTEADY[:2], flags=["--rounds=3"])
    assert not case.has_enough([case])
    case = session("fp16", *UNSTEADY[:3], flags=["--rounds=3"])
    assert case.has_enough([case])


def test_auto_measures_rounds_of_the_wanted_length(bench, main, net, monkeypatch):
    """With everything scaled down a hundred times; how many steps that is, the engine's
    speed says.
    """
    for name in ("WARM_LEAST", "WARM_MOST", "WARM_WINDOW", "ROUND_SECONDS"):
        monkeypatch.setattr(bench, name, getattr(bench, name) / 100)
    monkeypatch.setattr(bench, "MOST_SECONDS", 1.0)
    flags = [
        *net,
        "--batch_size=2",
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--num_loops=auto",
        "--num_warmup=auto",
    ]
    ran = main(*flags)
    assert ran.status == 0, ran.err
    for record in ran.records:
        assert len(record["rounds"]) >= bench.LEAST_ROUNDS
        lengths = [sum(timings["device"]["seconds"]) for timings in record["rounds"]]
        assert np.median(lengths) > bench.ROUND_SECONDS / 3
        assert record["flags"]["num_loops"] is None


def test_agreement_and_accuracy_are_of_all_images(main, net, digits):
    """At every batch size, with steps that the images do not fill."""
    flags = [*net, f"--image_dir={digits.folder}"]
    ran = main(
        *flags, "--native", "--fp16", "--engine=onnxruntime", "--batch_size=1,8", "--num_images=101"
    )
    assert ran.status == 0, ran.err
    assert "101 of its 300 images are read" in ran.err
    for record in ran.records:
        assert record["accuracy"]["images"] == 101
        if record["precision"] != "native":
            assert record["agreement"]["images"] == 101
            assert agreement(record)["difference"] < 0.05
    assert len({record["accuracy"]["top1"] for record in ran.records}) == 1


@pytest.mark.parametrize("native", [True, False])
def test_native_is_opened_once_for_all_that_is_compared_with_it(
    bench, main, net, monkeypatch, native
):
    opened, real = [], bench.OpenCase.open

    def count(self, built=None):
        opened.append(str(self.job.case))
        return real(self, built)

    monkeypatch.setattr(bench.OpenCase, "open", count)
    flags = [*net, "--fp32", "--int8", "--engine=onnxruntime", "--batch_size=2"]
    ran = main(*flags, *["--native"] * native)
    assert ran.status == 0, ran.err
    assert opened == ["native 2", "fp32 onnxruntime 2", "int8 onnxruntime 2"]
    assert all("agreement" in record for record in ran.records if record["precision"] != "native")


def test_cases_that_fit_into_memory_only_one_by_one_are_compared_too(bench, main, net, monkeypatch):
    """Each closes the other's process to make room: native's is not there after the last round."""
    there = set()

    class OneAtATime(bench.Here):
        def ask(self, name, *given):
            if name == "open" and there - {self}:
                raise bench.CaseError("out of memory")
            there.update([self] if name == "open" else [])
            return super().ask(name, *given)

        def close(self):
            there.discard(self)
            super().close()

    monkeypatch.setattr(bench, "Here", OneAtATime)
    flags = [*net, "--batch_size=2", "--native", "--fp32", "--engine=onnxruntime"]
    ran = main(*flags, "--num_loops=6", "--rounds=2")  # each round opens its case anew
    assert ran.status == 0, ran.err
    native, fp32 = ran.records if ran.records[0]["precision"] == "native" else ran.records[::-1]
    assert agreement(fp32)["top1"] == 1.0
    assert native["predictions"] and fp32["predictions"]
    assert any("do not fit into memory together" in note for note in native["notes"])


def test_lines_say_what_starts_and_ends(main, net):
    flags = [*net, "--native", "--fp32", "--batch_size=2"]
    ran = main(*flags, "--engine=onnxruntime", "--num_loops=8")
    assert ran.status == 0, ran.err
    fed, *lines = ran.err.splitlines()
    assert "random pixels are fed" in fed
    assert lines[0] == "tensorrt.py: native 2: build, first run, warm-up"
    assert "2 cases in turn" in lines[2]
    assert lines[2].endswith(" s to go")
    number = r"[\d,]+"
    assert re.fullmatch(rf"tensorrt.py: \[1/2\] native 2: {number} images/s", lines[3])
    assert re.fullmatch(
        rf"tensorrt.py: \[2/2\] FP32 onnxruntime 2: {number} images/s, [\d.]+x native", lines[4]
    )


def test_no_case_outlives_its_parent_and_rounds_of_a_killed_run_become_records(main, net, tmp_path):
    flags = [*net, "--batch_size=2"]
    words = [sys.executable, str(ROOT / "tensorrt.py"), f"--output_dir={tmp_path}", *flags]
    words += ["--num_warmup=1", "--num_loops=100000", "--rounds=20000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def rounds():
        return sum(
            path.read_text().count('"round"') for path in tmp_path.glob("unfinished_*.jsonl")
        )

    wait_for(lambda: rounds() >= 3, process)
    children = children_of(process)
    assert children or sys.platform != "linux"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for_end_of(children)
    (kept,) = tmp_path.glob("unfinished_*.jsonl")
    with open(kept, "ab") as file:
        file.write('{"case": "cut in half a character: é'.encode()[:-1])
    assert not (tmp_path / "results.jsonl").read_text()
    ran = main(*flags, "--num_loops=4")
    assert ran.status == 0, ran.err
    assert "1 cases of a run that was killed" in ran.err
    old, new = ran.records
    assert len(old["rounds"]) >= 3
    assert len(old["timings"]["device"]["seconds"]) == 5 * len(old["rounds"])
    assert any("was killed" in note for note in old["notes"])
    assert (tmp_path / "log.txt").read_text().count("network: ") == 2
    assert not list(tmp_path.glob("unfinished_*"))


def test_rounds_of_a_run_that_lives_are_left_alone(bench, session, tmp_path):
    config = session("native").job.config
    with bench.RoundsOnDisk(tmp_path) as rounds:
        bench.recover_rounds(config)
        assert rounds.path.exists()
    assert not rounds.path.exists()
