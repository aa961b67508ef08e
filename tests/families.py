"""Small models of the kinds that people bring, with samples and, where there is one, the answer.

python tests/families.py FOLDER     writes each as FOLDER/NAME (a SavedModel) and FOLDER/NAME.npz

The bodies are random; the last layer is fitted to generated data by least squares, in a moment, so
that a right answer can be known without minutes of training.
"""

import os
import sys
import types
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
SAMPLES = 96  # that are kept to judge by


def keras():
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    ops = getattr(tf.keras, "ops", None)
    if ops is None:  # Keras 2, whose symbolic tensors TensorFlow's own functions take
        names = ("cast", "cumsum", "ones_like", "expand_dims")
        ops = types.SimpleNamespace(erf=tf.math.erf, **{name: getattr(tf, name) for name in names})
    return tf, tf.keras.layers, ops


def fit(layer, inputs, wanted):
    """Sets a Dense or 1x1 Conv layer's weights to the least squares solution.

    Args:
      inputs: what the layer takes [..., features]; `wanted`: what it should give [..., outputs].
    """
    rows = np.asarray(inputs, np.float64).reshape(-1, np.shape(inputs)[-1])
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    target = np.asarray(wanted, np.float64).reshape(len(rows), -1)
    ridge = 1e-3 * len(rows) * np.eye(rows.shape[1])
    weights = np.linalg.solve(rows.T @ rows + ridge, rows.T @ target)
    layer.set_weights([weights[:-1].reshape(layer.kernel.shape), weights[-1]])


def wanted_logits(labels, classes):
    """What a classifier's logits should be: 4 for the right class, -4 for the others."""
    return 8.0 * np.eye(classes)[labels] - 4.0


def split(arrays, labels=None):
    """The samples to judge by; labels with them where there are classes."""
    kept = {name: array[-SAMPLES:] for name, array in arrays.items()}
    return kept if labels is None else {**kept, "labels": labels[-SAMPLES:]}


def bert(length=12, classes=2, layers=2, width=32, heads=2, vocabulary=24, fitted=True):
    """A BERT-like encoder: ids, mask and types; is the first word's id in the upper half?"""
    tf, nn, ops = keras()
    names = ("ids", "mask", "types")
    ids, mask, types = inputs = [nn.Input((None,), dtype="int32", name=name) for name in names]
    allowed = ops.cast(mask, "bool")[:, None, :]
    places = nn.Embedding(max(512, length), width)(ops.cumsum(ops.ones_like(ids), axis=1) - 1)
    x = nn.Embedding(vocabulary, width)(ids) + nn.Embedding(2, width)(types) + places
    x = nn.LayerNormalization(epsilon=1e-12)(x)
    for _ in range(layers):
        attention = nn.MultiHeadAttention(heads, width // heads)
        x = nn.LayerNormalization(epsilon=1e-12)(x + attention(x, x, attention_mask=allowed))
        hidden = nn.Dense(4 * width)(x)
        hidden = 0.5 * hidden * (1.0 + ops.erf(hidden / np.sqrt(2.0).astype(np.float32)))
        x = nn.LayerNormalization(epsilon=1e-12)(x + nn.Dense(width)(hidden))
    pooled = nn.Dense(width, activation="tanh")(x[:, 0])
    last = nn.Dense(classes)
    outputs = {"answer": nn.Softmax()(last(pooled)), "states": x}
    model = tf.keras.Model(inputs, outputs)
    if not fitted:
        return model, {}
    rng = np.random.default_rng(0)
    count = 6 * SAMPLES
    arrays = {"ids": rng.integers(1, vocabulary, (count, length)).astype(np.int32)}
    lengths = rng.integers(length // 2, length + 1, count)
    arrays["mask"] = (np.arange(length) < lengths[:, None]).astype(np.int32)
    arrays["types"] = (np.arange(length) >= length // 2).astype(np.int32) * arrays["mask"]
    labels = (arrays["ids"][:, 0] >= vocabulary // 2).astype(np.int64)
    body = tf.keras.Model(inputs, pooled)
    fit(last, body(list(arrays.values())), wanted_logits(labels, classes))
    return model, split(arrays, labels)


def text(kind, length=12, letters=15):
    """A recurrent classifier of generated text: which of three alphabets is it mostly of?"""
    tf, nn, _ = keras()
    tokens = nn.Input((None,), dtype="int32", name="tokens")
    x = nn.Embedding(letters, 16)(tokens)
    recurrent = nn.LSTM if kind == "lstm" else nn.GRU
    # Keras 3 writes cuDNN's own op on a GPU, which no other engine takes.
    portable = {"use_cudnn": False} if hasattr(tf.keras, "ops") else {}
    x = recurrent(64, **portable)(x)
    last = nn.Dense(3)
    model = tf.keras.Model(tokens, nn.Softmax()(last(x)))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 8 * SAMPLES)
    own = rng.integers(0, letters // 3, (len(labels), length)) + labels[:, None] * (letters // 3)
    foreign = rng.integers(0, letters, own.shape)
    words = np.where(rng.random(own.shape) < 0.9, own, foreign).astype(np.int32)
    fit(last, tf.keras.Model(tokens, x)(words), wanted_logits(labels, 3))
    return model, split({"tokens": words}, labels)


def towers(users=40, items=30):
    """Two towers: a user's category and numbers, an item's category and price; does it match?"""
    tf, nn, ops = keras()
    user = nn.Input((1,), dtype="int64", name="user")
    numbers = nn.Input((4,), name="numbers")
    item = nn.Input((1,), dtype="int32", name="item")
    price = nn.Input((), name="price")
    left = nn.Concatenate()([nn.Flatten()(nn.Embedding(users, 8)(user)), numbers])
    right = nn.Flatten()(nn.Embedding(items, 8)(item))
    right = nn.Concatenate()([right, ops.expand_dims(price, 1)])
    x = nn.Concatenate()(
        [nn.Dense(64, activation="relu")(left), nn.Dense(64, activation="relu")(right)]
    )
    x = nn.Dense(96, activation="relu")(x)
    last = nn.Dense(2)
    inputs = [user, numbers, item, price]
    model = tf.keras.Model(inputs, nn.Softmax()(last(x)))
    rng = np.random.default_rng(0)
    count = 6 * SAMPLES
    arrays = {
        "user": rng.integers(0, users, (count, 1)),
        "numbers": rng.normal(size=(count, 4)).astype(np.float32),
        "item": rng.integers(0, items, (count, 1)).astype(np.int32),
        "price": rng.normal(size=count).astype(np.float32),
    }
    labels = (arrays["numbers"][:, 0] > arrays["price"]).astype(np.int64)
    fit(last, tf.keras.Model(inputs, x)(list(arrays.values())), wanted_logits(labels, 2))
    return model, split(arrays, labels)


def discs(count, side, rng):
    """Noise with one bright disc each: images [count, side, side, 1], centres, radii, masks."""
    centres = rng.uniform(0.25 * side, 0.75 * side, (count, 2))
    radii = rng.uniform(0.1 * side, 0.2 * side, count)
    rows, columns = np.mgrid[:side, :side] + 0.5
    distances = np.hypot(rows[None] - centres[:, :1, None], columns[None] - centres[:, 1:, None])
    masks = distances < radii[:, None, None]
    images = 0.2 * rng.normal(size=masks.shape) + masks
    return images[..., None].astype(np.float32), centres / side, radii / side, masks


def detector(side=32, cells=8):
    """A small SSD: a box and a score for each cell of a grid; four bands in, so no photograph."""
    tf, nn, ops = keras()
    images = nn.Input((side, side, 4), name="bands")
    x = nn.Conv2D(24, 3, strides=2, padding="same", activation="relu")(images)
    x = nn.Conv2D(48, 3, strides=2, padding="same", activation="relu")(x)
    x = nn.Conv2D(96, 5, padding="same", activation="relu")(x)
    last = nn.Conv2D(5, 1)
    found = last(x)
    boxes = nn.Reshape((cells * cells, 4))(found[..., :4])
    scores = nn.Activation("sigmoid")(nn.Reshape((cells * cells,))(found[..., 4]))
    model = tf.keras.Model(images, {"boxes": boxes, "scores": scores})
    rng = np.random.default_rng(0)
    pixels, centres, radii, _ = discs(2 * SAMPLES, side, rng)
    bands = np.concatenate([pixels, 1 - pixels, pixels**2, 0.1 * pixels], axis=-1)
    rows, columns = (np.mgrid[:cells, :cells] + 0.5) / cells
    grid = np.stack([rows, columns], axis=-1)[None]
    offsets = centres[:, None, None] - grid
    sizes = np.broadcast_to(radii[:, None, None, None], (*offsets.shape[:3], 2))
    near = np.hypot(offsets[..., 0], offsets[..., 1]) < radii[:, None, None]
    wanted = np.concatenate([offsets, sizes, np.where(near, 4.0, -4.0)[..., None]], axis=-1)
    fit(last, tf.keras.Model(images, x)(bands), wanted)
    return model, split({"bands": bands})


def u_net(side=32):
    """A U-Net: which pixels belong to the disc? Two classes for each pixel."""
    tf, nn, ops = keras()
    images = nn.Input((side, side, 1), name="scan")
    first = nn.Conv2D(16, 5, padding="same", activation="relu")(images)
    x = nn.Conv2D(32, 3, padding="same", activation="relu")(nn.MaxPooling2D()(first))
    x = nn.UpSampling2D()(x)
    x = nn.Conv2D(48, 3, padding="same", activation="relu")(nn.Concatenate()([x, first]))
    last = nn.Conv2D(2, 1)
    model = tf.keras.Model(images, {"mask": nn.Softmax()(last(x))})
    pixels, _, _, masks = discs(SAMPLES, side, np.random.default_rng(0))
    fit(last, tf.keras.Model(images, x)(pixels), wanted_logits(masks.astype(int), 2))
    return model, {"scan": pixels[-32:]}


def waves(length=400):
    """A 1-D convolution over waveforms: which of four tones is it?"""
    tf, nn, _ = keras()
    waveform = nn.Input((None,), name="waveform")
    x = nn.Reshape((-1, 1))(waveform)
    x = nn.Conv1D(48, 33, strides=4, activation="relu")(x)
    x = nn.GlobalAveragePooling1D()(x)
    last = nn.Dense(4)
    model = tf.keras.Model(waveform, nn.Softmax()(last(x)))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 3 * SAMPLES)
    tones = np.array([0.02, 0.05, 0.1, 0.2])[labels][:, None]
    phases = rng.uniform(0, 2 * np.pi, (len(labels), 1))
    arrays = np.sin(2 * np.pi * tones * np.arange(length) + phases)
    arrays = (arrays + 0.3 * rng.normal(size=arrays.shape)).astype(np.float32)
    fit(last, tf.keras.Model(waveform, x)(arrays), wanted_logits(labels, 4))
    return model, split({"waveform": arrays}, labels)


def scalar(width=12):
    """One number for each sample: the mean of its absolute values."""
    tf, nn, _ = keras()
    features = nn.Input((width,), name="features")
    x = nn.Dense(128, activation="relu")(features)
    last = nn.Dense(1)
    model = tf.keras.Model(features, nn.Flatten()(last(x))[:, 0])
    arrays = np.random.default_rng(0).normal(size=(4 * SAMPLES, width)).astype(np.float32)
    fit(last, tf.keras.Model(features, x)(arrays), np.abs(arrays).mean(axis=1))
    return model, split({"features": arrays})


def state(width=16):
    """A filter with a state that has no batch axis: the same for all samples of a step."""
    import tensorflow as tf

    class Filter(tf.Module):
        def __init__(self):
            super().__init__()
            weights = np.random.default_rng(0).normal(size=(width, width)) / np.sqrt(width)
            self.weights = tf.Variable(weights.astype(np.float32))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, width], name="signal"),
                tf.TensorSpec([width], name="state"),
            ]
        )
        def __call__(self, signal, state):
            filtered = tf.tanh(tf.matmul(signal + state, self.weights))
            return {"filtered": filtered, "next": 0.9 * state + tf.reduce_mean(filtered, axis=0)}

    rng = np.random.default_rng(0)
    arrays = {"signal": rng.normal(size=(SAMPLES, width)).astype(np.float32)}
    return Filter(), {**arrays, "state": rng.normal(size=width).astype(np.float32)}


FAMILIES = {
    "bert": bert,
    "lstm": lambda: text("lstm"),
    "gru": lambda: text("gru"),
    "towers": towers,
    "detector": detector,
    "u_net": u_net,
    "waves": waves,
    "scalar": scalar,
    "state": state,
}


def export(model, path):
    """Writes a model as a SavedModel."""
    import tensorflow as tf

    if not isinstance(model, tf.keras.Model):
        tf.saved_model.save(model, str(path))
    elif hasattr(tf.keras, "ops"):
        model.export(str(path), verbose=False)
    else:
        tf.saved_model.save(model, str(path), signatures=signature_of(tf, model))


def signature_of(tf, model):
    """A signature with the names of a Keras 2 model's inputs and outputs."""
    specs = {
        source.name: tf.TensorSpec(source.shape, source.dtype, name=source.name)
        for source in model.inputs
    }

    @tf.function
    def serve(feed):
        given = [feed[name] for name in specs]
        found = model(given if len(given) > 1 else given[0], training=False)
        return found if isinstance(found, dict) else {"output_0": found}

    return serve.get_concrete_function(specs)


def write(name, folder):
    """Writes a family's SavedModel and its samples; gives their paths and the arrays."""
    model, arrays = FAMILIES[name]()
    path = Path(folder) / name
    export(model, path)
    np.savez(path.with_suffix(".npz"), **arrays)
    return path, path.with_suffix(".npz"), arrays


if __name__ == "__main__":
    for family in FAMILIES:
        print(*write(family, sys.argv[1])[:2])
