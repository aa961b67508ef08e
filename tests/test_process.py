"""The process model: what the parent imports, what a forked process finds, how it ends, and how
near the loop is.
"""

import concurrent.futures
import json
import os
import platform
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest
from helpers import ROOT

LIBRARY = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("tensorrt_py", {str(ROOT / "tensorrt.py")!r})
bench = sys.modules["tensorrt_py"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
"""


def run_script(folder, text, *args, env=None, cwd=None):
    """Runs a script that has tensorrt.py as its library, as processes load it too.

    Returns the JSON that it prints last, and its stderr.
    """
    path = folder / "script.py"
    path.write_text(LIBRARY + text)
    words, env = [sys.executable, str(path), *args], {**os.environ, **(env or {})}
    ran = subprocess.run(
        words, capture_output=True, text=True, timeout=170, cwd=cwd or folder, env=env
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


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


PROBED = """
import beside, contextlib, os, signal

class Probe:
    def facts(self):
        found = {"preloaded": "tensorflow" in sys.modules, "cwd": os.getcwd()}
        from tensorflow.python.eager import context
        found["started"] = context._context is not None and context._context._initialized
        package = importlib.util.find_spec("tensorrt")
        found["tensorrt"] = package and package.origin
        found["ctrl-c"] = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        found["imported beside"] = beside.PROCESS == os.getpid()
        return found

class Answers:
    def user(self):
        raise bench.UserError("mend it")
    def library(self):
        raise ValueError("odd\\nsecond line")
    def memory(self):
        raise RuntimeError("OOM when allocating tensor")
    def die(self):
        print("last words", file=sys.stderr, flush=True)
        os.abort()
    def after(self):
        return "still there"

def answers_of(worker):
    for name in ("user", "library", "memory", "after", "die", "after"):
        try:
            yield worker.ask(name)
        except bench.CASE_ENDS as error:
            yield [type(error).__name__, str(error)]

if __name__ == "__main__":
    with contextlib.closing(bench.Worker(Probe)) as worker:
        facts = worker.ask("facts")
    facts["parent"], facts["path"] = "tensorflow" in sys.modules, os.environ["PYTHONPATH"]
    with contextlib.closing(bench.Worker(Answers)) as worker:
        answers = list(answers_of(worker))
    print(json.dumps({"facts": facts, "answers": answers}))
"""


def probe(folder, where):
    """What processes of a script found and answered: it lies in `folder`, with a module beside it,
    and runs in `where`.
    """
    package = folder / "site" / "tensorrt" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    (folder / "beside.py").write_text("import os\nPROCESS = os.getpid()\n")
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    found, _ = run_script(folder, PROBED, env={"PYTHONPATH": path}, cwd=where)
    return types.SimpleNamespace(**found, package=package, where=where, path=path)


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """The script's runs in its own folder and where tensorrt.py lies, both at the same time: most
    of each is TensorFlow's import.
    """
    folders = [tmp_path_factory.mktemp("probed") for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found = threads.map(probe, folders, (folders[0], ROOT))
        return dict(zip(("elsewhere", "here"), found))


@pytest.fixture(params=["elsewhere", "here"])
def probed(request, probes):
    return probes[request.param]


def test_a_process_has_tensorflow_imported_but_not_started(probed):
    """And it finds the package tensorrt, not the script of that name, wherever it runs."""
    expected = {
        "preloaded": True,
        "cwd": str(probed.where),
        "started": False,
        "tensorrt": str(probed.package),
        "ctrl-c": False,
        "parent": False,
    }
    assert {name: probed.facts[name] for name in expected} == expected


def test_a_main_module_with_others_beside_it_is_preloaded_too(probed):
    """As the bench's scripts are: without its folder on the path the fork server dies, and all
    would be spawned.
    """
    assert not probed.facts["imported beside"], "the module was imported in the server"
    assert probed.facts["path"] == probed.path, "the path is as it was"


def test_errors_cross_the_pipe_as_what_they_are(probed):
    user, library, memory, after, die, gone = probed.answers
    assert user == ["UserError", "mend it"]
    assert library == ["CaseError", "ValueError: odd"]
    assert memory[0] == "CaseError"
    assert memory[1].startswith("out of memory: pass a smaller --batch_size")
    assert after == "still there"
    assert die == ["ProcessDied", "process died of SIGABRT: last words"]
    assert gone == die


WATCHED = """
import inspect, os, pathlib

def frames():
    return [f.function for f in inspect.stack()[2:] if f.filename == bench.__file__][::-1]

real_steps, real_receive = bench.time_steps, bench.Worker.receive

def time_steps(step, count, *args):
    if count == 5:
        text = json.dumps([*frames(), "time_steps"])
        pathlib.Path(os.environ["NOTES"]).write_text(text)
    return real_steps(step, count, *args)

asked = []

def receive(self):
    asked.append(frames())
    return real_receive(self)

bench.time_steps, bench.Worker.receive = time_steps, receive

if __name__ == "__main__":
    status = bench.main(sys.argv)
    heavy = {"tensorflow", "onnx", "onnxruntime", "tf2onnx", "keras", "PIL"} & set(sys.modules)
    child = json.loads(pathlib.Path(os.environ["NOTES"]).read_text())
    parent = [found for found in asked if "take_turn" in found][-1]
    print(json.dumps({"status": status, "heavy": sorted(heavy), "parent": parent, "child": child}))
"""


@pytest.fixture(scope="module")
def watched(forms, digits, tmp_path_factory):
    """One run of the whole program: what its parent imported, the frames of a round, and stderr.

    The frames are those of the parent up to its question, and of the process from its answer.
    """
    folder = tmp_path_factory.mktemp("watched")
    photos = folder / "photos"
    photos.mkdir()
    (photos / "good.png").write_bytes(next(digits.folder.glob("*/*.png")).read_bytes())
    (photos / "bad.png").write_bytes(b"no image")
    more = ["--native", "--fp32", "--fp16", "--int8", f"--image_dir={photos}"]
    env = {"NOTES": str(folder / "notes")}
    found, err = run_script(folder, WATCHED, *flags(forms, folder, *more), env=env)
    return types.SimpleNamespace(**found, err=err, photos=photos)


def test_the_parent_imports_nothing_heavy(watched):
    assert (watched.status, watched.heavy) == (0, [])


def test_few_frames_lie_between_main_and_the_timed_loop(watched):
    way = watched.parent[: watched.parent.index("ask") + 1] + watched.child
    assert way[:2] == ["main", "measure"]
    assert way[-2:] == ["measure_round", "time_steps"]
    assert len(way) <= 8, way


def test_what_a_process_says_comes_out_at_the_parent(watched):
    assert f"tensorrt.py: {watched.photos / 'bad.png'} is not a complete JPEG" in watched.err
    assert watched.err.count("skipped") == 1


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


def test_no_source_that_autograph_wrote_is_left(command, forms, tmp_path):
    # a socket's name would be too long in tmp_path
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--keras_model={forms['keras']}", "--build_only", f"--output_dir={tmp_path}"]
        ran = command(*flags, env={"TMPDIR": folder})
        assert ran.returncode == 0, ran.stderr
        assert not list(Path(folder).glob("__autograph_generated_file*"))


def resident():
    """MB of this process that lie in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has no malloc_trim"
)
def test_freed_memory_goes_back_to_the_system(bench):
    """What lies between blocks that are still in use too, which free() alone keeps."""
    blocks = [bytearray(b"x" * 100_000) for _ in range(2000)]
    kept = blocks[::100]
    full = resident()
    del blocks
    bench.return_memory()
    assert full - resident() > 100
    assert all(kept)
