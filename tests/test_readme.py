"""The README's commands: each is parsed, the ones that need no GPU and no setting up are run, in its order."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
SETTING_UP = [line for line in COMMANDS if "pip install" in line]
NEEDS_MORE = [
    line
    for line in COMMANDS
    if re.search("--engine=xla|--engine=tftrt|--gpus=all|=auto|^parallel|ray start|,max", line)
]


def programs(line):
    """The arguments of each call of tensorrt.py, fleet.py or report.py in a line, loops unrolled for their flags."""
    for part in re.split(r"&&|;", line.replace("--$precision", "--native --fp32 --fp16 --int8").split(" ::: ")[0]):
        words = shlex.split(part)
        for name in ("tensorrt.py", "fleet.py", "report.py"):
            if name in words:
                yield name, words[words.index(name) + 1 :]


def test_there_are_commands():
    assert len(COMMANDS) > 8
    assert len(SETTING_UP) == 5
    assert len(NEEDS_MORE) == 8


@pytest.mark.parametrize("line", COMMANDS)
def test_flags_exist(bench, fleet, line):
    for name, words in programs(line):
        words = [word.replace("{1}", "fp16").replace("{2}", "8") for word in words]
        if name == "tensorrt.py":
            bench.parse_flags([name, *words])
        elif name == "fleet.py":
            fleet.refuse_flags(fleet.bench.parse_flags([name, *words]))
        else:
            known = {"--output", "--compare", "--fail_slower", "--history"}
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_every_flag_is_in_the_readme(fleet):
    missing = [name for name in fleet.bench.FLAGS if f"--{name}" not in README]
    assert not missing


def test_ci_runs_the_test_command_to_the_letter():
    assert SETTING_UP[1] in (ROOT / ".ci" / "run").read_text().splitlines()
    for line in SETTING_UP:
        for name in re.findall(r"-r (\S+)", line):
            assert (ROOT / name).exists()


def test_links_lead_somewhere():
    headings = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                for title in re.findall(r"^#+ (.*)$", README, re.M)}  # fmt: skip
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", README):
        assert target[1:] in headings if target.startswith("#") else (ROOT / target).exists(), target


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the program and what the README's commands name: a small network in three forms and photographs."""
    import tensorflow as tf

    for name in ("tensorrt.py", "fleet.py", "precision.py", "report.py", "labellist.json", "synsets.txt", "image.jpg"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / "photos" / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((32, 32, 3), name="input_tensor"), layers.Conv2D(8, 3, activation="relu"),
                                 layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")])  # fmt: skip
    model.save(tmp_path / "net.keras")
    model.export(str(tmp_path / "export"))
    spec = tf.TensorSpec([None, 32, 32, 3], tf.float32, name="input_tensor")
    function = tf.function(lambda images: model(images, training=False)).get_concrete_function(spec)
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph_def = convert_variables_to_constants_v2(function).graph.as_graph_def()
    (tmp_path / "net.pb").write_bytes(graph_def.SerializeToString())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.slow
def test_the_commands_run(workplace):
    ran = [line for line in COMMANDS if line not in SETTING_UP and line not in NEEDS_MORE]
    for line in ran:
        if "tensorrt.py" in line and "--output_dir" not in line:  # it would be /tmp
            line += " --output_dir=elsewhere"
        done = subprocess.run(["bash", "-c", line], cwd=workplace, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    (array,) = re.findall(r"```bash\n(.*?)```", README, re.S)
    for task in ("0", "3"):
        done = subprocess.run(["bash", "-c", array], cwd=workplace, env={**os.environ, "SLURM_ARRAY_TASK_ID": task})
        assert done.returncode == 0
        assert (workplace / f"array-{task}" / "results.jsonl").exists()
    assert (workplace / "results" / "report.png").exists()
    assert (workplace / "report.html").exists()


@pytest.mark.slow
def test_the_main_job_runs(workplace):
    ((_, words),) = programs(SETTING_UP[0])
    command = [sys.executable, "tensorrt.py", *words, "--output_dir=elsewhere"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    for precision in ("native", "FP32", "FP16", "INT8"):
        assert f"Precision:  {precision} ['" in done.stdout
