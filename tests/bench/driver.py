"""What the program itself costs a case: cases of an engine that does nothing, through processes and
through Ray.

    python tests/bench/driver.py [cases, default 1000]

A copy of the program with that engine in native's place runs by the command line, once with few
cases and once with all; the difference over the number of cases is what one costs: its process, its
record, its row.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEW = 2
NO_OP = """
class NoOpRunner:
    def __init__(self, output):
        self.output = output

    def infer(self, feed):
        (batch,) = feed.values()
        values = np.arange(10 * len(batch), dtype=np.float32).reshape(len(batch), 10)
        return {self.output: values}

    def enqueue(self):
        pass

    sync = enqueue


class NoOp(Engine):
    name, precisions = "native", ("native",)

    def open(self, job, artifact, feed):
        return NoOpRunner(job.graph.output_names[0])


ENGINES["native"] = NoOp()
"""


def make_program(folder):
    """The programs with the no-op engine, and a graph of a few nodes."""
    root, main = Path(__file__).resolve().parents[2], '\nif __name__ == "__main__":'
    before, end = (root / "tensorrt.py").read_text().rsplit(main, 1)
    for path in root.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tensorrt.py").write_text(before + NO_OP + main + end)
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 1], name="input_tensor")
        tf.nn.softmax(tf.reshape(images, [-1, 64]), name="softmax_tensor")
    (folder / "graph.pb").write_bytes(graph.as_graph_def().SerializeToString())


def seconds(folder, cases, program, *flags):
    """How long a run with so many cases takes."""
    sizes = ",".join(str(1 + index % 8) for index in range(cases))
    out = folder / "out"
    words = [
        sys.executable,
        str(folder / program),
        f"--frozen_graph={folder / 'graph.pb'}",
        "--preprocessing=none",
        "--num_loops=2",
        "--num_warmup=0",
        f"--batch_size={sizes}",
        f"--output_dir={out}",
        *flags,
    ]
    results = out / "results.jsonl"
    before = len(results.read_text().splitlines()) if results.exists() else 0
    start = time.perf_counter()
    ran = subprocess.run(words, capture_output=True, text=True)
    took = time.perf_counter() - start
    assert ran.returncode == 0, ran.stderr
    assert len(results.read_text().splitlines()) == before + cases
    return took


def main():
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_program(folder)
        for what, flags in {
            "processes": ["tensorrt.py"],
            "Ray": ["fleet.py", "--ray_address=local"],
        }.items():
            few, many = (seconds(folder, count, *flags) for count in (FEW, cases))
            each = (many - few) / (cases - FEW)
            print(
                f"{what}: {each:.3f} s a case ({cases} cases in {many:.1f} s, {FEW} in {few:.1f} "
                f"s; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
