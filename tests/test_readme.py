"""The commands of README, CONTRIBUTING and docs: each is parsed; those that need no GPU and no
setting up are run.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys

import families
import numpy as np
import pytest
from helpers import ROOT

README = (ROOT / "README.md").read_text()
MOST_LINES = 220  # of the README: a colleague reads it in one go
PAGES = {
    path.name: path.read_text()
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
}
PAGES["README.md"] = README


def commands_of(text):
    return [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()
    ]


COMMANDS = [line for text in PAGES.values() for line in commands_of(text)]
SETTING_UP = [line for line in COMMANDS if "pip install" in line]
MORE = (
    "--engine=xla|--engine=tftrt|--engine=tensorrt|--gpus=all|=auto|^parallel|ray start|,max|tests/"
    "|ruff"
)
NEEDS_MORE = [line for line in COMMANDS if line not in SETTING_UP and re.search(MORE, line)]


def programs(line):
    """The arguments of each call of tensorrt.py, fleet.py or report.py in a line, loops unrolled
    for their flags.
    """
    for part in re.split(
        r"&&|;", line.replace("--$precision", "--native --fp32 --fp16 --int8").split(" ::: ")[0]
    ):
        words = shlex.split(part)
        for name in ("tensorrt.py", "fleet.py", "report.py"):
            if name in words:
                yield name, words[words.index(name) + 1 :]


def test_there_are_commands():
    assert len(COMMANDS) - len(SETTING_UP) - len(NEEDS_MORE) >= 10
    assert len(commands_of(README)) > 10


def test_the_readme_is_read_in_one_go():
    assert len(README.splitlines()) <= MOST_LINES


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
    (command,) = {line for line in SETTING_UP if line.endswith("pytest tests")}
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
    for line in SETTING_UP:
        for name in re.findall(r"-r (\S+)", line):
            assert (ROOT / name).exists()


def headings_of(text):
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    folder = ROOT / "docs" if (ROOT / "docs" / page).exists() else ROOT
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", PAGES[page]):
        file, _, heading = target.partition("#")
        assert (folder / file).exists(), target
        if heading:
            text = (folder / file).read_text() if file else PAGES[page]
            assert heading in headings_of(text), target


def test_every_page_is_linked_from_the_readme():
    for path in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{path.name})" in README, path.name


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the program and what the README's commands name: a small network in three forms
    and photographs.
    """
    import tensorflow as tf

    for name in (
        "tensorrt.py",
        "fleet.py",
        "precision.py",
        "report.py",
        "labellist.json",
        "synsets.txt",
        "image.jpg",
    ):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 40, 3), np.uint8)
        (tmp_path / "photos" / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((32, 32, 3), name="input_tensor"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
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


def run_commands(page, folder):
    """Runs a page's commands in their order, those of them that need nothing more."""
    for line in commands_of(PAGES[page]):
        if line in SETTING_UP or line in NEEDS_MORE:
            continue
        # it would be /tmp
        if re.search("(tensorrt|fleet).py", line) and "--output_dir" not in line:
            line += " --output_dir=elsewhere"
        # auto takes up to a minute a case where other programs disturb it
        if "--num_loops" not in line:
            line = re.sub(
                r"\b(tensorrt|fleet)\.py --", r"\1.py --num_loops=30 --num_warmup=2 --", line
            )
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if set(commands_of(PAGES[page])) - {*SETTING_UP, *NEEDS_MORE}]
)
def test_the_commands_run(workplace, page):
    if page == "models.md":
        for name in families.FAMILIES:
            families.write(name, workplace)
    run_commands(page, workplace)
    if page == "README.md":
        assert (workplace / "report.html").exists()


@pytest.mark.slow
def test_a_slurm_task_runs(workplace):
    (array,) = re.findall(r"```bash\n(.*?)```", PAGES["fleet.md"], re.S)
    for task in ("0", "3"):
        done = subprocess.run(
            ["bash", "-c", array], cwd=workplace, env={**os.environ, "SLURM_ARRAY_TASK_ID": task}
        )
        assert done.returncode == 0
        assert (workplace / f"array-{task}" / "results.jsonl").exists()


@pytest.mark.slow
def test_the_main_job_runs(workplace):
    (first,) = (
        line
        for line in commands_of(README)
        if "requirements.txt && " in line and "tensorrt.py" in line
    )
    ((_, words),) = programs(first)
    command = [sys.executable, "tensorrt.py", *words, "--output_dir=elsewhere"]
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    for precision in ("native", "FP32", "INT8"):
        assert f"Precision:  {precision} ['" in done.stdout
