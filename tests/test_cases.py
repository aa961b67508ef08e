"""The program as a command: cases in processes of their own, nothing lost, and what a
person reads.
"""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import ROOT, agreement, children_of, needs_proc, wait_for, wait_for_end_of

LOG_BLOCK = re.compile(r"""
==========================
network: (\w+)_net\.pb,\t batchsize 16, steps 5
  fps \tmedian: [\d.]+, \tmean: [\d.]+, \tuncertainty: [\d.]+, \tjitter: [\d.]+
  latency \tmedian: \d\.\d{5}, \tmean: \d\.\d{5}, \t99th_p: \d\.\d{5}, \t99th_uncertainty: \d\.\d{5}
""")


def test_the_whole_program(command, forms, net, digits, tmp_path):
    """All of it at once; and records hold no environment variables, no user name, no path."""
    home = tmp_path / "home-of-secretuser"
    home.mkdir()
    ran = command(
        *net,
        f"--image_dir={digits.folder}",
        "--native",
        "--fp32",
        "--fp16",
        "--int8",
        "--batch_size=16",
        "--num_loops=5",
        "--num_warmup=1",
        f"--output_dir={tmp_path}",
        "--inputs=both",
        env={"HOME": str(home), "USER": "secretuser", "API_TOKEN": "secrettoken"},
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    (start,) = (index for index, line in enumerate(lines) if line.startswith("Predictions"))
    told = re.fullmatch(r"Predictions of (\S+), the first of (\d+) images:", lines[start])
    record = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert told and told.groups() == (record["first_image"], str(record["images"]))
    for line, precision in zip(lines[start + 1 :], ("native", "FP32", "FP16", "INT8")):
        assert re.fullmatch(rf"Precision:  {precision} \['class \d'(, 'class \d'){{4}}\]", line)
    assert (
        max(map(len, lines[start + 5 :])) < 200 and "images/s" in ran.stdout and "vs" in ran.stdout
    )
    log = (tmp_path / "log.txt").read_text()
    assert LOG_BLOCK.findall(log)[:1] == ["native"] and len(re.findall("^=+$", log, re.M)) == 4
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [record["precision"] for record in records] == ["native", "fp32", "fp16", "int8"]
    assert all(
        set(record["timings"]) == {"device", "host"} and record["status"] == "ok"
        for record in records
    )
    assert (
        all("no NVIDIA GPU" in record["engine_why"] for record in records[1:]) or records[0]["gpu"]
    )
    assert "WARNING" not in ran.stderr and "Traceback" not in ran.stderr
    for text in (log, (tmp_path / "results.jsonl").read_text()):
        assert "secret" not in text
        assert str(tmp_path) not in text and str(forms["frozen_graph"].parent) not in text


def test_agreement_without_native_among_the_cases(main, net, digits):
    ran = main(
        *net, f"--image_dir={digits.folder}", "--fp32", "--engine=onnxruntime", "--batch_size=4,8"
    )
    assert ran.status == 0 and [record["batch_size"] for record in ran.records] == [4, 8]
    assert all(agreement(record)["top1"] == 1.0 for record in ran.records)


def test_what_is_named_twice_is_measured_once(main, net):
    flags = ("--fp32", "--engine=onnxruntime,onnxruntime", "--batch_size=2,2", "--build_only")
    assert len(main(*net, *flags).records) == 1


def test_rounds_interleave_and_are_pooled(main, net):
    ran = main(*net, "--native", "--fp32", "--engine=onnxruntime", "--batch_size=4", "--rounds=2")
    native = ran.records[0]
    assert [len(timings["device"]["seconds"]) for timings in native["rounds"]] == [3, 3]
    assert len(native["timings"]["device"]["seconds"]) == 6


def test_doctor(main):
    ran = main("--doctor")
    assert ran.status == 0
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines() if line}
    assert rows["native"][2] == "runs" and "onnxruntime" in rows and "tensorrt" in rows


def test_last_words_name_the_signal(bench):
    assert "died of SIGSEGV" in bench.last_words(-signal.SIGSEGV, "")
    words = bench.last_words(-signal.SIGKILL, "one\n\ntwo\nthree\nfour\n")
    assert "SIGKILL (out of memory?" in words and words.endswith("two | three | four")
    assert "ended with status 3" in bench.last_words(3, "")


def test_last_words_are_no_frames_of_a_stack(bench):
    """As TensorFlow wrote when a batch had more values than 32 bits count."""
    frames = "".join(
        f"    @     0x7f2a86594ed{frame}  tsl::PThread::ThreadFn()\n" for frame in "789"
    )
    stderr = f"F0000 x.cc:9] Check failed: batch\n*** Check failure stack trace: ***\n{frames}"
    words = bench.last_words(-signal.SIGABRT, stderr)
    assert words == "process died of SIGABRT: F0000 x.cc:9] Check failed: batch"


def start(forms, folder, *flags, script=ROOT / "tensorrt.py"):
    words = [
        sys.executable,
        str(script),
        f"--output_dir={folder}",
        "--preprocessing=none",
        f"--frozen_graph={forms['frozen_graph']}",
        "--batch_size=64",
        "--num_warmup=1",
        *flags,
    ]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


CRASHING = """
import os, signal, sys
sys.path.append({tests!r})
from helpers import load

bench = load()  # the cases' processes load this file too


def crash(*given):
    os.kill(os.getpid(), signal.SIGSEGV)


bench.Native.open = crash
if __name__ == "__main__":
    sys.exit(bench.main(sys.argv))
"""


def test_a_killed_case_is_one_failed_row(forms, tmp_path):
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING.format(tests=str(ROOT / "tests")))
    flags = ("--native", "--fp32", "--engine=xla", "--num_loops=50")
    process = start(forms, tmp_path, *flags, script=script)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    native, fp32 = (
        json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()
    )
    assert native["status"] == "failed" and "SIGSEGV" in native["error"] and "SIGSEGV" in out
    assert fp32["status"] == "ok"


@needs_proc
def test_a_model_that_crashes_its_loading_is_one_error_line(forms, tmp_path):
    """Its file is a pipe that nobody writes into: it is still loading when it is killed.

    A pipe can be opened for writing, without waiting, once a reader has opened it.
    """
    pipe = tmp_path / "net.pb"
    os.mkfifo(pipe)
    process = start(forms, tmp_path, "--native", f"--frozen_graph={pipe}")

    def writer_of_what_is_read():
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return None

    writer = wait_for(writer_of_what_is_read, process)
    os.kill(children_of(process)[0], signal.SIGSEGV)
    _, err = process.communicate(timeout=120)
    os.close(writer)
    assert process.returncode == 2
    assert err.startswith("tensorrt.py: error: the model cannot be loaded") and "SIGSEGV" in err
    assert err.count("\n") == 1


@needs_proc
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_ends_the_case_and_keeps_what_was_measured(forms, tmp_path, sent, status):
    """Ctrl-C, and what timeout sends to all processes of the command."""
    process = start(
        forms, tmp_path, "--native", "--batch_size=1,2", "--num_loops=5", "--num_warmup=auto"
    )
    results = tmp_path / "results.jsonl"
    wait_for(lambda: results.exists() and results.read_text().count("\n") == 1, process)
    children = wait_for(lambda: children_of(process), process)
    os.killpg(process.pid, sent)
    if sent == signal.SIGTERM:
        process.send_signal(sent)  # as timeout does
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and "what was measured is kept" in err
    assert f"not measured: native 2\ntensorrt.py: 1 case of this run in {results}\n" in err
    wait_for_end_of(children)
    assert json.loads(results.read_text())["batch_size"] == 1 and "Precision:  native" in out


def test_more_threads_than_cores_are_refused(main, bench):
    """With 64 threads on two cores a network ran at 0.03 times native."""
    there = len(bench.cores())
    ran = main("--native", f"--threads={there + 1}")
    assert ran.status == 2 and not ran.records
    assert f"--threads={there + 1}: there " in ran.err and "or 0 for all" in ran.err


def test_a_try_that_does_not_fit_gives_no_advice_on_other_batches(bench):
    told = bench.tried_in_short("out of memory: pass a smaller --batch_size (MemoryError: 1 GiB)")
    assert told == "does not fit: out of memory (MemoryError: 1 GiB)"
    died = "the case's process died of SIGABRT"
    limited = f"{died} ({bench.A_TRY_MAY_TAKE} 75% of the memory that is free)"
    assert bench.tried_in_short(limited) == f"does not fit: {limited}"
    assert bench.tried_in_short(died) == died, "on a GPU that may be anything"
    assert bench.tried_in_short("no such op: X") == "no such op: X"
    assert bench.tried_in_short(bench.FITS) == "fits"


def test_what_is_only_built_is_not_said_to_run(main, forms):
    graph = f"--frozen_graph={forms['frozen_graph']}"
    flags = (graph, "--fp32", "--engine=onnxruntime", "--preprocessing=none", "--batch_size=2")
    assert "FP32 onnxruntime 2: build\n" in main(*flags, "--build_only").err
    assert "FP32 onnxruntime 2: build, first run, warm-up\n" in main(*flags, "--num_loops=2").err


def test_the_first_sigterm_is_enough(bench, monkeypatch):
    """The second of timeout would cut off what the first had written."""
    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(bench, "TERMINATED", False)  # and so again behind this test
    with pytest.raises(KeyboardInterrupt):
        bench.terminate(signal.SIGTERM, None)
    assert handlers == {signal.SIGTERM: signal.SIG_IGN}


@pytest.mark.parametrize("broken", [None, 3])
def test_drain_fetches_every_step_and_tells_what_broke(bench, broken):
    fetched = []

    class Output:
        def __init__(self, number):
            self.number = number

        def numpy(self):
            if self.number == broken:
                raise RuntimeError("the device is gone")
            fetched.append(self.number)

    runner = bench.TensorFlowRunner.__new__(bench.TensorFlowRunner)
    runner.step = lambda number: [Output(number)]
    pipeline = ((number,) for number in range(100))
    if broken is None:
        runner.drain(pipeline, 50)
        assert sorted(fetched) == list(range(50))
        assert next(pipeline) == (50,)
    else:
        with pytest.raises(RuntimeError, match="the device is gone"):
            runner.drain(pipeline, 50)


@pytest.mark.parametrize(("rounds", "expected"), [(1, [0, 1, 2]), (2, [0, 0, 0, 0, 1, 2])])
def test_each_record_is_on_disk_before_the_next_case_begins(
    bench, main, net, tmp_path, monkeypatch, rounds, expected
):
    on_disk, real = [], bench.OpenCase.measure_round

    def watch(self, steps):
        text = (tmp_path / "results.jsonl").read_text()
        assert (tmp_path / "log.txt").read_text().count("=====\n") == text.count("\n")
        on_disk.append(text.count("\n"))
        return real(self, steps)

    monkeypatch.setattr(bench.OpenCase, "measure_round", watch)
    flags = [
        "--native",
        "--fp32",
        "--fp16",
        "--engine=onnxruntime",
        "--batch_size=2",
        f"--rounds={rounds}",
    ]
    ran = main(*net, *flags)
    assert ran.status == 0, ran.err
    assert on_disk == expected
    assert len(ran.records) == 3


def test_ctrl_c_between_rounds_keeps_the_rounds_that_there_are(bench, main, net, monkeypatch):
    real, calls = bench.OpenCase.measure_round, []

    def stop_at_the_third(self, steps):
        calls.append(self)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, steps)

    monkeypatch.setattr(bench.OpenCase, "measure_round", stop_at_the_third)
    flags = ["--native", "--fp32", "--engine=onnxruntime", "--batch_size=2", "--rounds=2"]
    ran = main(*net, *flags)
    assert ran.status == 130
    assert [
        (record["precision"], len(record["timings"]["device"]["seconds"])) for record in ran.records
    ] == [("native", 3), ("fp32", 3)]
