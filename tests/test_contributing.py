"""CONTRIBUTING.md holds: the functions and files that it names, and the engine that it tells how to
add.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT, agreement, load, validate

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PROGRAMS = {
    name: (ROOT / name).read_text()
    for name in ("tensorrt.py", "precision.py", "report.py", "fleet.py")
}


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M)[1]


def test_every_function_that_the_text_names_is_there():
    code = "\n".join(PROGRAMS.values())
    named = re.findall(r"`([A-Za-z_.]+)`", section("The map") + section("One case's way"))
    for name in named:
        last = name.rpartition(".")[2]
        assert name in PROGRAMS or re.search(rf"\b(def|class) {last}\b|\b{last}\b *[:=]", code), (
            name
        )
    assert len(named) > 20


def test_the_way_is_at_most_eight_functions_long():
    assert 5 < len(re.findall(r"^\| `", section("One case's way"), re.M)) <= 8


def test_a_case_goes_that_way(bench, net, tmp_path, monkeypatch):
    """The frames above the timed loop, in one process: those of the text but for the pipe between
    two processes.
    """
    seen = []
    real = bench.time_steps

    def noting(step, count, *given):
        frame = sys._getframe(1)
        names = []
        while frame:
            if frame.f_code.co_filename == bench.__file__:
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        seen.append(names[::-1])
        return real(step, count, *given)

    monkeypatch.setattr(bench, "time_steps", noting)
    words = [*net, f"--output_dir={tmp_path}"]
    assert not bench.main(
        ["tensorrt.py", *words, "--noisolate", "--batch_size=2", "--num_loops=4", "--num_warmup=1"]
    )
    way = [
        name.rpartition(".")[2]
        for name in re.findall(r"^\| `(\S+)`", section("One case's way"), re.M)
    ]
    assert way[-1] == "time_steps"
    wanted = [name for name in way[:-1] if name != "answer_requests"]
    assert wanted in seen


@pytest.fixture
def with_numpy(tmp_path):
    """A copy of the program with the engine that the text adds, in the way that it says."""
    code = re.search(r"```python\n(.*?)```", section("Adding an engine"), re.S)[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "labellist.json", tmp_path)
    line = re.search(r"^ALL_ENGINES: .*?OnnxRuntime\(\)", PROGRAMS["tensorrt.py"], re.M)[0]
    text = PROGRAMS["tensorrt.py"].replace(line, f"{code}\n\n{line}, NumPy()")
    (tmp_path / "tensorrt.py").write_text(text)
    return tmp_path


def test_an_engine_is_added_by_the_text(with_numpy, net, capsys):
    """The trained network runs in NumPy, keeps native's answers, and never as a precision that the
    engine has not.
    """
    out = with_numpy / "out"
    out.mkdir()
    words = ["tensorrt.py", *net, "--noisolate", f"--output_dir={out}"]
    words += ["--batch_size=4", "--num_loops=10", "--num_warmup=1"]
    words += ["--native", "--fp32", "--int8", "--engine=numpy"]
    status = load("with_numpy", with_numpy / "tensorrt.py").main(words)
    printed = capsys.readouterr()
    assert status == 1, printed.err
    lines = (out / "results.jsonl").read_text().splitlines()
    records = {record["precision"]: record for record in map(json.loads, lines)}
    found = {precision: (each["engine"], each["status"]) for precision, each in records.items()}
    assert found == {
        "native": ("native", "ok"),
        "fp32": ("numpy", "ok"),
        "int8": ("numpy", "failed"),
    }
    assert "numpy has no INT8" in records["int8"]["error"]
    numpy = records["fp32"]
    validate(numpy)
    assert agreement(numpy)["snr_db"] is None or agreement(numpy)["snr_db"] > 90
    assert re.search(r"^FP32 +numpy +4 ", printed.out, re.M), printed.out
    assert "numpy has no INT8" in printed.out


def test_the_doctor_knows_it(with_numpy):
    done = subprocess.run(
        [sys.executable, "tensorrt.py", "--doctor"], cwd=with_numpy, capture_output=True, text=True
    )
    assert re.search(r"^numpy +\S+ +- +runs +- +- *$", done.stdout, re.M), done.stdout + done.stderr
