"""Kills at random moments, full, vanished and shared folders: what is on disk is whole, and nothing
lives on.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT, alive, children_of, needs_proc, tries, validate, wait_for, wait_for_end_of

KILLS = 100
LINES = {
    "network:",
    "  fps ",
    "  latency ",
    "  inputs ",
    "  engine ",
    "  agreement ",
    "  accuracy ",
    "  failed ",
}


def words_of(forms, folder, *flags):
    model, place = f"--frozen_graph={forms['frozen_graph']}", f"--output_dir={folder}"
    return [
        sys.executable,
        str(ROOT / "tensorrt.py"),
        model,
        place,
        "--preprocessing=none",
        "--batch_size=1,2,4",
        "--native",
        "--num_loops=20",
        "--num_warmup=2",
        *flags,
    ]


def check_whole(folder):
    """Every line of results.jsonl is a record, every block of log.txt complete; returns the
    records.
    """
    results = folder / "results.jsonl"
    text = results.read_text() if results.exists() else ""
    assert not text or text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        validate(record)
    log = (folder / "log.txt").read_text() if records else ""
    blocks = log.split("\n" + "=" * 26 + "\n")[1:]
    # the block is written before the line
    assert len(blocks) - len(records) in ((0, 1) if records else (0,))
    for block in blocks:
        assert block.startswith("network: ")
        assert block.splitlines()[-1].startswith(("  engine ", "  agreement ", "  accuracy "))
        assert all(line.startswith(tuple(LINES)) for line in block.splitlines())
    return records


@needs_proc
@pytest.mark.slow
def test_kills_at_random_moments(forms, tmp_path):
    pick, sent, ended = random.Random(5), 0, 0
    begun = time.monotonic()
    ran = subprocess.run(words_of(forms, tmp_path), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    whole, first = time.monotonic() - begun, len(check_whole(tmp_path))
    results, seen = tmp_path / "results.jsonl", first
    for number in range(tries(KILLS)):
        words = words_of(forms, tmp_path)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if number % 5 == 0:  # some have written a record, however busy the machine is
            wait_for(lambda known=seen: results.read_text().count("\n") > known, process)
        # Python starts before that
        end, children = time.monotonic() + pick.uniform(0.2, 1.2 * whole), set()
        while time.monotonic() < end and process.poll() is None:
            children |= set(children_of(process))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)  # looking on takes a core, too
        victims = [process.pid, *(pid for pid in children if alive(pid))]
        what = pick.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        target = pick.choice(victims)
        if alive(target):
            os.kill(target, what)
        # a case ignores SIGINT
        if (target == process.pid or what == signal.SIGINT) and process.poll() is None:
            process.send_signal(what)
            sent += 1
        _, err = process.communicate(timeout=120)
        ended += process.returncode in (-what, 130, 143)
        assert "Traceback" not in err, f"{number}: {err}"
        wait_for_end_of(children)
        seen = len(check_whole(tmp_path))
    assert seen - first >= tries(KILLS) / 5
    assert ended > sent / 2  # some had their last record written already
    ran = subprocess.run(words_of(forms, tmp_path), capture_output=True, text=True, timeout=170)
    assert ran.returncode == 0, ran.stderr
    assert len(check_whole(tmp_path)) >= seen + 3
    assert not list(tmp_path.glob("unfinished_*")), "what killed runs had measured is in records"


@pytest.mark.slow
def test_two_runs_into_one_folder(forms, tmp_path):
    """Records interleave by whole blocks; each run's own graph runs, or its case says that it was
    overwritten.
    """
    both = [
        subprocess.Popen(
            words_of(forms, tmp_path, "--fp32", "--engine=onnxruntime", f"--num_warmup={run}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for run in (1, 2)
    ]
    for process in both:
        _, err = process.communicate(timeout=170)
        assert "Traceback" not in err
    records = check_whole(tmp_path)
    assert len(records) == 12
    for record in records:
        assert record["status"] == "ok" or "was overwritten while this ran" in record["error"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_error_line_and_the_table_is_printed(
    bench, net, tmp_path, capsys, monkeypatch
):
    flags = [*net, "--batch_size=2", "--num_loops=5", "--num_warmup=1"]
    real = bench.OpenCase.measure_round

    def fill(self, steps):
        (tmp_path / "results.jsonl").unlink()
        (tmp_path / "results.jsonl").symlink_to("/dev/full")
        return real(self, steps)

    monkeypatch.setattr(bench.OpenCase, "measure_round", fill)
    status = bench.main(["tensorrt.py", *flags, "--noisolate", f"--output_dir={tmp_path}"])
    out, err = capsys.readouterr()
    assert status == 2
    assert "can no longer be written to (No space left on device)" in err
    assert err.count("tensorrt.py: error: ") == 1
    assert "images/s" in out, "what was measured is on the terminal at least"
    assert " appended to " not in out


def test_a_folder_removed_while_running_is_made_again(bench, main, net, tmp_path, monkeypatch):
    import shutil

    real = bench.OpenCase.judge_outputs

    def remove(self):
        found = real(self)
        shutil.rmtree(tmp_path)
        return found

    monkeypatch.setattr(bench.OpenCase, "judge_outputs", remove)
    ran = main(*net, "--batch_size=2")
    assert ran.status == 0, ran.err
    assert [record["status"] for record in ran.records] == ["ok"]


def test_a_symlinked_log_is_appended_to(main, net, tmp_path):
    kept = tmp_path / "elsewhere.txt"
    kept.write_text("before\n")
    (tmp_path / "log.txt").symlink_to(kept)
    ran = main(*net, "--batch_size=2")
    assert ran.status == 0, ran.err
    assert (tmp_path / "log.txt").is_symlink()
    assert kept.read_text().startswith("before\n\n====")
