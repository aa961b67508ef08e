"""The house itself: the tools' settings, one list of requirements, and the scripts under uv and
pipx.
"""

import ast
import bisect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

PROGRAMS = ("tensorrt.py", "precision.py", "report.py", "fleet.py")


def requirements(name):
    """The lines of a requirements file that name a package."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def inline_metadata(program):
    """The dependencies in a script's own head, as PEP 723 has them read, and the Python that it
    wants.
    """
    # the regular expression of PEP 723
    pattern = r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    (found,) = re.finditer(pattern, (ROOT / program).read_text())
    text = "".join(
        line.removeprefix("# ").removeprefix("#")
        for line in found["content"].splitlines(keepends=True)
    )
    return re.findall(r'^  "(.*)",$', text, re.M), re.findall(
        r'^requires-python = "(.*)"$', text, re.M
    )


@pytest.mark.parametrize("program", ["tensorrt.py", "fleet.py"])
def test_a_script_asks_for_what_requirements_txt_has(program):
    packages, python = inline_metadata(program)
    assert packages == requirements("requirements.txt")
    assert python == [">=3.10,<3.14"]


def test_report_asks_for_its_share_of_it():
    packages, _ = inline_metadata("report.py")
    assert packages
    assert set(packages) <= set(requirements("requirements.txt"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_function_has_over_seven_paths(program):
    """Ruff refuses such a function, unless it is marked; tests may have marks, the programs have
    none.
    """
    assert not re.findall(r".*noqa: C901.*", (ROOT / program).read_text())
    assert re.search(r"^max-complexity = 7$", (ROOT / "pyproject.toml").read_text(), re.M)


def test_the_workflow_runs_what_is_run_here():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert "run: .ci/run" in text
    script = (ROOT / ".ci" / "run").read_text()
    for tool in ("ruff format --check", "ruff check", "mypy"):
        assert f".venv/bin/{tool}" in script


def with_a_tensorrt(folder):
    """The environment of a process that finds a package tensorrt, of a version that there never
    was.
    """
    package = folder / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "10.99.7"\n')
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def runs_as_a_script(words, graph, folder, version):
    """Runs the copied program by those words: two cases are measured, and `tensorrt` is not the
    script itself.

    The script's folder is first on sys.path there too, and must not be when the package is looked
    for.
    """
    for name in PROGRAMS:
        shutil.copy(ROOT / name, folder)
    environment = with_a_tensorrt(folder)
    environment["PIPX_HOME"] = str(folder / "pipx")

    def run(*args):
        return subprocess.run(
            [*words, "./tensorrt.py", *args],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1500,
        )

    doctor = run("--doctor")
    assert doctor.returncode == 0, doctor.stderr
    assert re.search(rf"^tensorrt +{re.escape(version)} ", doctor.stdout, re.M), doctor.stdout
    flags = [
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--batch_size=2",
        "--num_loops=5",
        "--num_warmup=1",
    ]
    done = run(f"--frozen_graph={graph}", *flags, "--preprocessing=none", "--output_dir=out")
    assert done.returncode == 0, done.stderr
    records = [
        json.loads(line) for line in (folder / "out" / "results.jsonl").read_text().splitlines()
    ]
    assert [record["engine"] for record in records] == ["native", "onnxruntime"]
    assert not any(record["error"] for record in records)


def tool(name):
    """The words that start a tool: beside this Python, or wherever the shell finds it."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"no {name}: pip install {name}")
    return found


@pytest.mark.slow
def test_uv_runs_the_script(forms, tmp_path):
    """In an environment that uv makes from the script's head."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    runs_as_a_script(
        [tool("uv"), "run", "--python", python], forms["frozen_graph"], tmp_path, "tensorrt 10.99.7"
    )


@pytest.mark.slow
def test_pipx_runs_the_script(forms, tmp_path):
    """The same by pipx, which passes no PYTHONPATH on: no package tensorrt is there, and none may
    be found.
    """
    tool("uv")  # which pipx takes where it is: a minute less
    runs_as_a_script(
        [tool("pipx"), "run", "--python", sys.executable],
        forms["frozen_graph"],
        tmp_path,
        "missing",
    )


def test_one_version(bench):
    written = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert written == [bench.VERSION]
    assert f"\n## {bench.VERSION}\n" in (ROOT / "CHANGELOG.md").read_text()


def defined_names(node):
    """The names that a statement of a module defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return {each.id for each in ast.walk(node) if is_stored(each)}
    return set()


def is_stored(node):
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def own_names(node):
    """Parameters and variables of a function and of the functions in it."""
    inner = list(ast.walk(node))
    return {each.arg for each in inner if isinstance(each, ast.arg)} | {
        each.id for each in inner if is_stored(each)
    }


def read_names(node):
    """Names that a statement reads when it runs: annotations are not evaluated."""
    if isinstance(node, ast.AnnAssign):
        return read_names(node.value) if node.value else set()
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    if isinstance(node, ast.arguments):
        parts = [*node.defaults, *filter(None, node.kw_defaults)]
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parts = [*node.decorator_list, node.args, *node.body]
    else:
        parts = list(ast.iter_child_nodes(node))
    return set().union(*map(read_names, parts))


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_section_uses_only_those_above(program):
    """Sections in the order of the data: a reader never needs what comes later."""
    text = (ROOT / program).read_text()
    rulers = [at for at, line in enumerate(text.splitlines(), 1) if line.startswith("# -----")]
    statements = ast.parse(text).body
    home = {}
    for node in statements:
        for name in defined_names(node):
            home.setdefault(name, bisect.bisect(rulers, node.lineno))
    later = {
        (name, getattr(node, "name", node.lineno))
        for node in statements
        for name in read_names(node) - own_names(node)
        if home.get(name, 0) > bisect.bisect(rulers, node.lineno)
    }
    assert not later
