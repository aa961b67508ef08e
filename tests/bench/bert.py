"""The speed of a BERT encoder's shape in every engine, by the program's command line.

    python tests/bench/bert.py --output_dir=DIR         BERT-base: 12 layers of 768, 128 tokens
    python tests/bench/bert.py --layers=2 --width=48 --batch_size=1,4 --engine=onnxruntime

Random weights: the speed is real, the answers mean nothing. The encoder is that of
tests/families.py (three int32 inputs, a mask, exact GELU, layer norms), with 12 heads and a
vocabulary of 30,522 as in Devlin et al., BERT, 2018. For each batch size native, and --precisions
(FP32 and FP16) in TensorRT, XLA and ONNX Runtime; what does not run here says why in its row. The
last line is the fastest case of the largest batch. Other flags go to tensorrt.py.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))
import families

HEADS = 12
VOCABULARY = 30522


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768, help="divisible by 12, as the heads are")
    parser.add_argument("--length", type=int, default=128, help="tokens")
    parser.add_argument("--batch_size", default="1,8,32,128")
    parser.add_argument("--engine", default="tensorrt,xla,onnxruntime")
    parser.add_argument("--precisions", default="fp32,fp16")
    parser.add_argument("--output_dir", default="/tmp/bert")
    return parser.parse_known_args()


def write_encoder(given, folder):
    """The encoder with random weights as a SavedModel, once; its path."""
    path = folder / f"bert_{given.layers}x{given.width}"
    if not (path / "saved_model.pb").exists():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # which this process would hold to its end
        model, _ = families.bert(
            length=given.length,
            layers=given.layers,
            width=given.width,
            heads=HEADS,
            vocabulary=VOCABULARY,
            fitted=False,
        )
        families.export(model, path)
    return path


def command(given, path, flags):
    """The program's words: native, and each precision in each engine."""
    shapes = ",".join(f"{name}:{given.length}" for name in ("ids", "mask", "types"))
    return [
        *(sys.executable, str(ROOT / "tensorrt.py"), f"--savedmodel_dir={path}"),
        *(f"--input_shape={shapes}", f"--input_range=ids:0:{VOCABULARY - 1},mask:1:1"),
        *("--native", f"--engine={given.engine}"),
        *(f"--{precision}" for precision in given.precisions.split(",")),
        *("--output_node=answer", f"--batch_size={given.batch_size}"),
        *(f"--output_dir={given.output_dir}", *flags),
    ]


def fastest(records, batch_size):
    """The sentence on the fastest case of a batch size, in times native."""
    speeds = {}
    for record in records:
        rated = (record.get("times_native") or {}).get("device")
        if record["batch_size"] == batch_size and rated:
            speeds[rated["value"]] = f"{record['precision'].upper()} in {record['engine']}"
    if not speeds:
        return f"nothing was faster or slower than native at batch {batch_size}: nothing ran"
    best = max(speeds)
    return f"fastest at batch {batch_size}: {speeds[best]}, {best:.2f} times native"


def main():
    given, flags = parsed()
    folder = Path(given.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.jsonl"
    before = len(results.read_text().splitlines()) if results.exists() else 0
    status = subprocess.run(command(given, write_encoder(given, folder), flags)).returncode
    records = [json.loads(line) for line in results.read_text().splitlines()[before:]]
    print(fastest(records, max(map(int, given.batch_size.split(",")))))
    return status


if __name__ == "__main__":
    sys.exit(main())
