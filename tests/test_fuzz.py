"""Broken input of every kind ends in a result or in one error line: in this process often, by the
command line too.

A few of each always; with -m slow 2,000 in all, and 100 through the command line (TRIES=0.2: a
fifth of them).
"""

import os
import random
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import ROOT, load, tries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW = {
    "flags": 600,
    "graph": 700,
    "savedmodel": 200,
    "image": 200,
    "records": 200,
    "calibration": 100,
}
FAST = {"flags": 40, "graph": 15, "savedmodel": 3, "image": 5, "records": 15, "calibration": 3}
QUICK = ["--preprocessing=none", "--num_loops=2", "--num_warmup=0", "--batch_size=2"]
MEMORY = 2 << 30  # bytes that a process may come to

OPS = [
    "NoSuchOp",
    "Cast",
    "While",
    "Switch",
    "Merge",
    "Exit",
    "ReadFile",
    "Conv2D",
    "Identity",
    "Placeholder",
]
WORDS = [
    "",
    "0",
    "-1",
    "1,2",
    "x",
    "1e9",
    "999999999999",
    "../..",
    "/dev/null",
    "é",
    "none",
    "fp16",
    "True",
    ",",
    "\x00",
]


def examples(kind, slow):
    count = tries(SLOW[kind]) if slow else FAST[kind]
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def sizes(kind):
    """The test twice: a few examples always, all of them when slow tests are asked for."""
    marks = [pytest.param(False, id="few"), pytest.param(True, id="many", marks=pytest.mark.slow)]
    return pytest.mark.parametrize("slow", marks)


def flipped(data, pick):
    """Bytes with some bits turned, cut off, or with others put in."""
    data = bytearray(data)
    if not data or pick.random() < 0.2:
        return bytes(data[: pick.randint(0, max(0, len(data) - 1))])
    for _ in range(pick.choice([1, 1, 2, 8, 40])):
        data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    if pick.random() < 0.2:
        place = pick.randrange(len(data))
        data[place:place] = pick.randbytes(pick.randrange(30))
    return bytes(data)


def mutated_graph(data, pick):  # noqa: C901
    """A GraphDef with wrong ops, inputs, attributes, duplicates, cycles and sizes, or with bits
    turned.
    """
    from tensorflow.core.framework import graph_pb2

    if pick.random() < 0.4:
        return flipped(data, pick)
    graph_def = graph_pb2.GraphDef.FromString(data)
    names = [node.name for node in graph_def.node]
    for _ in range(pick.randint(1, 3)):
        node = graph_def.node[pick.randrange(len(graph_def.node))]
        what = pick.randrange(7)
        if what == 0:
            node.op = pick.choice([*OPS, *(other.op for other in graph_def.node)])
        elif what == 1 and node.input:  # a cycle where the other node comes later
            node.input[pick.randrange(len(node.input))] = pick.choice(
                [*names, "missing", "^x", ":5"]
            )
        elif what == 2:
            graph_def.node.add().CopyFrom(node)
        elif what == 3:
            node.input.append(pick.choice(names))
        elif what == 4 and node.attr:
            del node.attr[pick.choice(sorted(node.attr))]
        elif what == 5 and node.attr:
            spoil(node.attr[pick.choice(sorted(node.attr))], pick)
        else:
            node.name = pick.choice(["", "a/../b", "x" * 5000, node.name])
    return graph_def.SerializeToString()


def spoil(attribute, pick):
    what = pick.randrange(4)
    if what == 0:
        attribute.i = pick.choice([-1, 0, 1 << 62, 7])
    elif what == 1:
        attribute.type = pick.randint(0, 30)
    elif what == 2:
        for dim in attribute.tensor.tensor_shape.dim:  # a huge constant in few bytes
            dim.size = pick.choice([-1, 0, 1 << 40, 3])
    else:
        attribute.shape.dim.add().size = pick.choice([-5, 1 << 45, 20000, 0])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture
def ends_well(bench, place, capfd):
    """Runs the program in this process and asserts one of the allowed ends."""

    def run(*args):
        capfd.readouterr()
        status = bench.main(["tensorrt.py", "--noisolate", f"--output_dir={place / 'out'}", *args])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        assert status in (0, 1, 2)
        if status == 2:
            lines = [line for line in err.splitlines() if line.startswith("tensorrt.py: error: ")]
            assert len(lines) == 1, err
        parts = (
            [name for name in os.listdir(place / "out") if name.startswith(".")]
            if (place / "out").exists()
            else []
        )
        assert not parts, "a file that was not finished was left"

    return run


@sizes("flags")
def test_flags(bench, slow):
    names = [name for name in bench.FLAGS if name not in ("help", "version")]

    @examples("flags", slow)
    @given(
        st.lists(
            st.tuples(st.sampled_from([*names, "nosuchflag"]), st.sampled_from(WORDS)), max_size=5
        ),
        st.booleans(),
    )
    def check(pairs, stray):
        argv = [
            "tensorrt.py",
            *(f"--{name}={value}" for name, value in pairs),
            *(["stray"] if stray else []),
        ]
        try:
            config = bench.parse_flags(argv)
        except bench.UserError as error:
            assert "\n" not in str(error)
        else:
            assert all(size > 0 for size in config.batch_sizes)
            assert not stray

    check()


@sizes("graph")
def test_frozen_graphs(ends_well, forms, place, slow):
    data = forms["frozen_graph"].read_bytes()

    @examples("graph", slow)
    @given(st.randoms(use_true_random=False))
    def check(pick):
        (place / "net.pb").write_bytes(mutated_graph(data, pick))
        more = ["--fp32", "--int8", "--engine=onnxruntime"] if pick.random() < 0.2 else []
        ends_well(f"--frozen_graph={place / 'net.pb'}", "--native", *QUICK, *more)

    check()


@sizes("savedmodel")
def test_savedmodels(ends_well, forms, place, slow):
    @examples("savedmodel", slow)
    @given(st.randoms(use_true_random=False))
    def check(pick):
        model = place / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(forms[pick.choice(["tf1", "tf2"])], model)
        files = sorted(path for path in model.rglob("*") if path.is_file() and path.stat().st_size)
        path = model / "saved_model.pb" if pick.random() < 0.6 else pick.choice(files)
        path.write_bytes(flipped(path.read_bytes(), pick))
        ends_well(f"--savedmodel_dir={model}", "--native", *QUICK)

    check()


@sizes("image")
def test_images(ends_well, forms, graph_file, place, slow):
    data = (ROOT / "image.jpg").read_bytes()

    def build(tf, v1):
        images = v1.placeholder(tf.float32, [None, 16, 16, 3], name="input_tensor")
        tf.reduce_mean(images, [1, 2], name="softmax_tensor")

    graph = graph_file(build)

    @examples("image", slow)
    @given(st.randoms(use_true_random=False))
    def check(pick):
        (place / "image.jpg").write_bytes(flipped(data, pick))
        ends_well(
            f"--frozen_graph={graph}", f"--image_file={place / 'image.jpg'}", "--native", *QUICK
        )

    check()


@sizes("calibration")
def test_calibration_caches(ends_well, forms, place, slow):
    flags = [f"--frozen_graph={forms['frozen_graph']}", "--int8", "--engine=onnxruntime", *QUICK]
    ends_well(*flags)
    # other tests leave other graphs of that name
    written = (place / "out").glob("calibration_net*.json")
    kept = max(written, key=lambda path: path.stat().st_mtime)
    data = kept.read_bytes()

    @examples("calibration", slow)
    @given(st.randoms(use_true_random=False))
    def check(pick):
        kept.write_bytes(flipped(data, pick))
        ends_well(*flags)

    check()


@sizes("records")
def test_records(place, capfd, slow):
    report, data = (
        load("report", "report.py"),
        (Path(__file__).parent / "data" / "records_1.jsonl").read_bytes(),
    )

    @examples("records", slow)
    @given(st.randoms(use_true_random=False))
    def check(pick):
        (place / "results.jsonl").write_bytes(flipped(data, pick))
        capfd.readouterr()
        other = pick.choice(
            [["--output=page.html"], [f"--compare={ROOT / 'tests/data/records_1.jsonl'}"]]
        )
        other = [word.replace("page.html", str(place / "page.html")) for word in other]
        status = report.main(["report.py", str(place / "results.jsonl"), *other])
        out, err = capfd.readouterr()
        assert status in (0, 2, 3)
        assert status != 2 or err.count("report.py: error: ") == 1

    check()


@pytest.mark.slow
def test_through_the_command_line(forms, tmp_path):
    """100 broken models of every kind, some of which crash HDF5: one error line, and never much
    memory.
    """
    kinds = {"frozen_graph": "net.pb", "h5": "net.h5", "keras": "net.keras"}

    def run(number):
        pick, folder = random.Random(number), tmp_path / str(number)
        folder.mkdir()
        kind = pick.choice(list(kinds))
        data, path = forms[kind].read_bytes(), folder / kinds[kind]
        path.write_bytes(
            mutated_graph(data, pick) if kind == "frozen_graph" else flipped(data, pick)
        )
        flag = "frozen_graph" if kind == "frozen_graph" else "keras_model"
        words = [
            sys.executable,
            str(ROOT / "tensorrt.py"),
            f"--{flag}={path}",
            f"--output_dir={folder}",
            *QUICK,
        ]
        return subprocess.run(words, capture_output=True, text=True, timeout=170)

    with ThreadPoolExecutor(2) as pool:
        for number, ran in enumerate(pool.map(run, range(tries(100)))):
            assert ran.returncode in (0, 1, 2), f"{number}: {ran}"
            assert "Traceback" not in ran.stderr, f"{number}: {ran.stderr}"
            assert ran.returncode != 2 or ran.stderr.count("tensorrt.py: error: ") == 1, (
                f"{number}: {ran.stderr}"
            )
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MEMORY
