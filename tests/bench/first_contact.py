"""What this machine's TensorRT makes of the program, in one file to send to its authors.

    python tests/bench/first_contact.py [--engine=tensorrt] [more flags of tensorrt.py]

For people who have a TensorRT that the authors have not (10 and 11). About five minutes. It trains
a small network on shapes that it draws, runs --doctor, then native, FP32, FP16 and INT8 with
calibration, and collects into first_contact.json: what both printed, the records (speeds,
agreement, accuracy, versions, device), the plans' layers by TensorRT's engine inspector and the
ranges that calibration found. Nothing of yours is in it but the names of the GPU, the CPU and this
folder.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
ROOT = Path(__file__).resolve().parents[2]
SIDE = 32  # pixels of the network's input
DRAWN = 37  # that are drawn: the program scales to 256/224 and takes the centre
TRAINED_ON, CALIBRATED_ON, SHOWN = 4000, 64, 128
CLASSES = (
    *("rows", "columns", "diagonals", "chequers", "disc"),
    *("ring", "square", "frame", "cross", "saltire"),
)
PRECISIONS = ("--native", "--fp32", "--fp16", "--int8")
STEPS = "--num_loops=2000"  # auto measures steps so short for minutes, and writes 18 MB a case


def drawn(shape, random):
    """A picture of one of CLASSES: uint8 [DRAWN, DRAWN, 3]; place, size and colours at random."""
    y, x = np.mgrid[:DRAWN, :DRAWN] - random.uniform(15, 21, 2)[:, None, None]
    size, wide = random.uniform(7, 12), random.integers(3, 5)
    far, away = np.hypot(x, y), np.maximum(abs(x), abs(y))
    inked = {
        "rows": y % (2 * wide) < wide,
        "columns": x % (2 * wide) < wide,
        "diagonals": (x + y) % (2 * wide) < wide,
        "chequers": (x % (2 * wide) < wide) ^ (y % (2 * wide) < wide),
        "disc": far < size,
        "ring": abs(far - size) < 2,
        "square": away < size,
        "frame": abs(away - size) < 2,
        "cross": (np.minimum(abs(x), abs(y)) < 2) & (away < size),
        "saltire": (abs(abs(x) - abs(y)) < 3) & (away < size),
    }[shape]
    dark, light = random.uniform(0, 90, 3), random.uniform(150, 255, 3)
    picture = np.where(inked[..., None], light, dark) + random.normal(0, 25, (DRAWN, DRAWN, 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def pictures(count, seed):
    """So many pictures, and the index of each one's class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), count)
    return np.stack([drawn(CLASSES[label], random) for label in labels]), labels


def trained():
    """A residual network of a few convolutions that tells the shapes apart; images in [0, 255]."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # whose memory this process would hold to its end
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    inputs = layers.Input((SIDE, SIDE, 3), name="input_tensor")
    x = layers.Rescaling(1 / 127.5, -1)(inputs)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = layers.ReLU()(layers.Add()([x, layers.Conv2D(filters, 3, padding="same")(y)]))
    x = layers.Dense(len(CLASSES), activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = tf.keras.Model(inputs, x)
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = pictures(TRAINED_ON, 1)
    first = (DRAWN - SIDE) // 2
    centres = images[:, first : first + SIDE, first : first + SIDE].astype(np.float32)
    model.fit(centres, labels, epochs=6, batch_size=64, verbose=0)
    return model


def write_pictures(folder, count, seed):
    """Pictures as files in class folders, which give accuracy."""
    from PIL import Image

    for index, (picture, label) in enumerate(zip(*pictures(count, seed))):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{index}.png")
    return folder


def ran(*flags):
    """A run of the program, shown as it goes: command, exit status and all that it printed."""
    words = [sys.executable, str(ROOT / "tensorrt.py"), *flags]
    lines = []
    with subprocess.Popen(words, stdout=PIPE, stderr=STDOUT, errors="replace") as process:
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.kill()  # it would outlive its folder
            raise
    return {"command": words[1:], "status": process.returncode, "printed": "".join(lines)}


def collect(folder, flags):
    """Trains, runs and gathers everything in one object."""
    trained().save(folder / "shapes.keras")
    shown = write_pictures(folder / "shown", SHOWN, 2)
    calibration = write_pictures(folder / "calibration", CALIBRATED_ON, 3)
    runs = [ran("--doctor")]
    model = [f"--keras_model={folder / 'shapes.keras'}", "--preprocessing=none"]
    images = [f"--image_dir={shown}", f"--calibration_dir={calibration}"]
    rest = [f"--batch_size=1,{SHOWN}", f"--output_dir={folder}", *PRECISIONS, STEPS, *flags]
    runs.append(ran(*model, *images, *rest))
    results = folder / "results.jsonl"
    lines = results.read_text().splitlines() if results.exists() else []
    records = [json.loads(line) for line in lines]
    return {"runs": runs, "records": records, "layers": listings(folder)}


def listings(folder):
    """The text of each listing of a plan's layers, and of calibration, by its file's name."""
    files = sorted(folder.glob("*.json"))
    # a .built.json tells of what an artifact was made: of no use elsewhere
    return {path.name: path.read_text() for path in files if not path.match("*.built.json")}


def main():
    flags = sys.argv[1:]
    if not any(flag.startswith("--engine") for flag in flags):
        flags.append("--engine=tensorrt")
    with tempfile.TemporaryDirectory() as folder:
        found = collect(Path(folder), flags)
    path = Path("first_contact.json")
    path.write_text(json.dumps(found))
    failed = sum(record["status"] != "ok" for record in found["records"])
    count = f"{len(found['records'])} records ({failed} of cases that did not run)"
    print(f"{count}, {len(found['layers'])} listings of plans and calibration, in {path.resolve()}")
    print("please send it, also and just then if something failed")
    return int(bool(failed) or not found["records"])


if __name__ == "__main__":
    sys.exit(main())
