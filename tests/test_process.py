"""The process model: what the parent imports, what a forked process finds, how it ends, and how
near the loop is.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

LIBRARY = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt_py", {str(ROOT / "tensorrt.py")!r})
bench = sys.modules["tensorrt_py"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
"""


@pytest.fixture
def script(tmp_path):
    """Runs a script that has tensorrt.py as its library, as processes load it too; gives the JSON
    that it prints.
    """

    def run(text, *args, env=None, cwd=tmp_path):
        path = tmp_path / "script.py"
        path.write_text(LIBRARY + text)
        words = [sys.executable, str(path), *args]
        ran = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=170,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout.splitlines()[-1]), ran.stderr

    return run


def flags(forms, folder, *more):
    return [
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--batch_size=4",
        "--num_loops=5",
        "--num_warmup=1",
        f"--output_dir={folder}",
        *more,
    ]


PROBE = """
class Probe:
    def facts(self):
        import os, signal
        found = {"preloaded": "tensorflow" in sys.modules, "cwd": os.getcwd()}
        from tensorflow.python.eager import context
        found["started"] = context._context is not None and context._context._initialized
        package = importlib.util.find_spec("tensorrt")
        found["tensorrt"] = package and package.origin
        found["ctrl-c"] = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        return found

if __name__ == "__main__":
    with bench.Worker(Probe) as worker:
        found = worker.ask("facts")
    found["parent"] = "tensorflow" in sys.modules
    print(json.dumps(found))
"""


@pytest.mark.parametrize("where", ["elsewhere", "here"])
def test_a_process_has_tensorflow_imported_but_not_started(script, tmp_path, where):
    """And it finds the package tensorrt, not the script of that name, wherever it runs."""
    package = tmp_path / "site" / "tensorrt" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    folder = ROOT if where == "here" else tmp_path
    path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    found, _ = script(PROBE, env={"PYTHONPATH": path}, cwd=folder)
    assert found == {
        "preloaded": True,
        "cwd": str(folder),
        "started": False,
        "tensorrt": str(package),
        "ctrl-c": False,
        "parent": False,
    }


def test_a_main_module_with_others_beside_it_is_preloaded_too(script, tmp_path):
    """As the bench's scripts are: without its folder on the path the fork server dies, and all
    would be spawned.
    """
    (tmp_path / "beside.py").write_text("import os\nPROCESS = os.getpid()\n")
    text = """
import beside
class Probe:
    def facts(self):
        import os
        here = beside.PROCESS == os.getpid()
        return ["tensorflow" in sys.modules, here, os.environ.get("PYTHONPATH")]

if __name__ == "__main__":
    import os
    with bench.Worker(Probe) as worker:
        print(json.dumps([*worker.ask("facts")[:2], os.environ.get("PYTHONPATH")]))
"""
    found, _ = script(text, env={"PYTHONPATH": str(tmp_path)})
    assert found == [True, False, str(tmp_path)], (
        "the module was imported in the server, the path is as it was"
    )


def test_the_parent_imports_nothing_heavy(script, forms, digits, tmp_path):
    text = """
if __name__ == "__main__":
    status = bench.main(sys.argv)
    heavy = {"tensorflow", "onnx", "onnxruntime", "tf2onnx", "keras", "PIL"}
    print(json.dumps([status, sorted(heavy & set(sys.modules))]))
"""
    precisions = ["--native", "--fp32", "--fp16", "--int8", f"--image_dir={digits.folder}"]
    found, _ = script(text, *flags(forms, tmp_path, *precisions))
    assert found == [0, []]


def test_few_frames_lie_between_main_and_the_timed_loop(script, forms, tmp_path):
    """Counted in the parent up to its question, and in the process from its answer."""
    text = """
import inspect, os, pathlib
def frames():
    return [f.function for f in inspect.stack()[2:] if f.filename == bench.__file__][::-1]
real_steps, real_receive = bench.time_steps, bench.Worker.receive
def time_steps(step, count, *args):
    if count == 5:
        pathlib.Path(sys.argv[-1], "child").write_text(json.dumps([*frames(), "time_steps"]))
    return real_steps(step, count, *args)
bench.time_steps = time_steps
asked = []
def receive(self):
    asked.append(frames())
    return real_receive(self)
bench.Worker.receive = receive
if __name__ == "__main__":
    folder = sys.argv.pop()
    sys.argv.append(folder)
    bench.main(sys.argv[:-1])
    child = json.loads(pathlib.Path(folder, "child").read_text())
    print(json.dumps([f for f in asked if "take_turn" in f][-2:] + [child]))
"""
    (*_, parent, child), _ = script(text, *flags(forms, tmp_path), str(tmp_path))
    way = parent[: parent.index("ask") + 1] + child
    assert way[:2] == ["main", "measure"]
    assert way[-2:] == ["measure_round", "time_steps"]
    assert len(way) <= 8, way


def test_what_a_process_says_comes_out_at_the_parent(command, forms, digits, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "good.png").write_bytes(next(digits.folder.glob("*/*.png")).read_bytes())
    (folder / "bad.png").write_bytes(b"no image")
    ran = command(*flags(forms, tmp_path, f"--image_dir={folder}"))
    assert ran.returncode == 0, ran.stderr
    assert f"tensorrt.py: {folder / 'bad.png'} is not a complete JPEG" in ran.stderr
    assert ran.stderr.count("skipped") == 1


@pytest.mark.parametrize(
    ("tensorflow", "words"),
    [
        (
            "raise RuntimeError('a wrong libcudart')",
            "TensorFlow cannot be imported (a wrong libcudart)",
        ),
        ("import os; os.abort()", "SIGABRT"),
        ("raise ImportError('no module')", "TensorFlow cannot be imported (no module)"),
    ],
)
def test_a_broken_tensorflow_is_one_line(command, forms, tmp_path, tensorflow, words):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "tensorflow.py").write_text(tensorflow)
    ran = command(*flags(forms, tmp_path), env={"PYTHONPATH": str(tmp_path / "site")})
    assert ran.returncode == 2
    assert words in ran.stderr
    assert ran.stderr.count("\n") == 1


ANSWERS = """
class Answers:
    def user(self):
        raise bench.UserError("mend it")
    def library(self):
        raise ValueError("odd\\nsecond line")
    def memory(self):
        raise RuntimeError("OOM when allocating tensor")
    def die(self):
        import os, sys
        print("last words", file=sys.stderr, flush=True)
        os.abort()
    def after(self):
        return "still there"

if __name__ == "__main__":
    found = []
    with bench.Worker(Answers) as worker:
        for name in ("user", "library", "memory", "after", "die", "after"):
            try:
                found.append(worker.ask(name))
            except bench.CASE_ENDS as error:
                found.append([type(error).__name__, str(error)])
    print(json.dumps(found))
"""


def test_errors_cross_the_pipe_as_what_they_are(script):
    (user, library, memory, after, die, gone), _ = script(ANSWERS)
    assert user == ["UserError", "mend it"]
    assert library == ["CaseError", "ValueError: odd"]
    assert memory[0] == "CaseError"
    assert memory[1].startswith("out of memory: pass a smaller --batch_size")
    assert after == "still there"
    assert die == ["ProcessDied", "process died of SIGABRT: last words"]
    assert gone == die
