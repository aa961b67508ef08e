"""Wall seconds from a command to its answer, and where they went.

    python tests/bench/answer.py                     README's first command, random weights
    python tests/bench/answer.py --import            how many bare imports of TensorFlow that is
    python tests/bench/answer.py [flags of tensorrt.py]

At every moment the whole program does what the process that began something last does; `the rest`
is what no process noted: starting, sending, waiting. The figures are of this machine and its load,
which is printed behind them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIRST = ("--native", "--fp32", "--int8", "--image_file=image.jpg", "--batch_size=1")
ORDER = ("import", "load", "export", "build", "open", "first run", "warm-up", "rounds", "outputs")


def timed(words, **environment):
    """Wall seconds of a command that succeeds, run in the repository's folder."""
    begun = time.perf_counter()
    env = {**os.environ, **environment}
    ran = subprocess.run(words, env=env, cwd=HERE.parents[1], capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"answer.py: {' '.join(words)} ended with {ran.returncode}: {ran.stderr}")
    return time.perf_counter() - begun


def shares(spans):
    """Seconds by what was done; a moment belongs to the last begun of the spans that hold it."""
    moments = sorted({moment for span in spans for moment in (span["begun"], span["ended"])})
    seconds = dict.fromkeys(ORDER, 0.0)
    for begun, ended in zip(moments, moments[1:]):
        holding = [span for span in spans if span["begun"] <= begun and span["ended"] >= ended]
        if holding:
            innermost = max(holding, key=lambda span: span["begun"])
            seconds[innermost["what"]] += ended - begun
    return seconds


def main():
    bare = "--import" in sys.argv
    flags = [word for word in sys.argv[1:] if word != "--import"] or [*FIRST, "--num_loops=20"]
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "spans.jsonl"
        words = [sys.executable, str(HERE / "spans.py"), f"--output_dir={folder}", *flags]
        whole = timed(words, SPANS=str(notes))
        seconds = shares([json.loads(line) for line in notes.read_text().splitlines()])
    seconds["the rest"] = whole - sum(seconds.values())
    print(f"{whole:.1f} s: " + ", ".join(f"{what} {spent:.1f}" for what, spent in seconds.items()))
    if bare:
        once = timed([sys.executable, "-c", "import tensorflow"], TF_CPP_MIN_LOG_LEVEL="2")
        print(f"{whole / once:.1f} bare imports of TensorFlow, each {once:.1f} s")
    print(f"{os.cpu_count()} CPU threads, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
