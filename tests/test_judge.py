"""Is it still the same model: kinds of outputs, agreement, undecided images, accuracy and how class
ids count.
"""

import dataclasses
import json
import shutil
import types

import msgspec
import numpy as np
import pytest
from helpers import agreement, image_graph, images_of

FP32 = ("--native", "--fp32", "--engine=onnxruntime", "--preprocessing=none")


def dense(width, end, scale=2000.0):
    """A graph of 8x8 colour images: one matrix product, then `end`."""

    def build(tf, v1):
        images = v1.placeholder("float32", [None, 8, 8, 3], name="input_tensor")
        weights = np.random.default_rng(0).normal(size=(192, width)).astype(np.float32) / scale
        tf.identity(end(tf, tf.matmul(tf.reshape(images, [-1, 192]), weights)), name="output")

    return build


KINDS = {
    "probabilities": dense(10, lambda tf, x: tf.nn.softmax(x)),
    "logits": dense(10, lambda tf, x: x),
    "scores": dense(10, lambda tf, x: tf.sigmoid(x), 20),
    "values": dense(64, lambda tf, x: tf.reshape(x, [-1, 4, 4, 4])),
    "class_map": dense(64, lambda tf, x: tf.nn.softmax(tf.reshape(x, [-1, 4, 4, 4]))),
    "ids": dense(64, lambda tf, x: tf.argmax(tf.reshape(x, [-1, 4, 16]), axis=2)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_outputs(main, graph_file, kind):
    """Each kind is judged by what it says: classes, decisions, or numbers alone."""
    ran = main(*FP32, f"--frozen_graph={graph_file(KINDS[kind])}", "--batch_size=8")
    assert ran.status == 0, ran.err
    record = ran.records[1]
    assert record["kinds"] == {"output:0": kind}
    found = agreement(record)
    assert found["snr_db"] is None or found["snr_db"] > 60
    assert record["agreement"]["images"] == 8 and record["agreement"]["same_model"]
    counted = {"probabilities": 8, "logits": 8, "scores": 80, "class_map": 128, "ids": 32}.get(kind)
    if counted is None:
        assert (
            "decided" not in found and "predictions" not in record and "Predictions:" not in ran.out
        )
    else:
        assert found["same"] == found["decided"] == counted - found["undecided"]
    assert ("top1" in found) == (kind in ("probabilities", "logits", "class_map"))


def two_heads(tf, v1):
    """A box of four numbers, and the shares of three classes."""
    images = v1.placeholder("float32", [None, 8, 8, 3], name="input_tensor")
    weights = np.random.default_rng(0).normal(size=(192, 7)).astype(np.float32) / 2000
    both = tf.matmul(tf.reshape(images, [-1, 192]), weights)
    tf.identity(both[:, :4], name="box")
    tf.identity(tf.nn.softmax(both[:, 4:]), name="class")


def test_a_box_beside_classes_has_none(main, graph_file):
    """Its numbers were taken as logits: `0.766 class 2`, and what changed them another model."""
    ran = main(*FP32, f"--frozen_graph={graph_file(two_heads)}", "--batch_size=2")
    assert ran.status == 0, ran.err
    native, fp32 = ran.records
    assert fp32["kinds"] == {"box:0": "values", "class:0": "probabilities"}
    assert len(fp32["predictions"]) == 3
    told = "the predictions are of output class: --output_node takes others"
    assert told in native["notes"] and told not in fp32["notes"]


@pytest.mark.parametrize(
    ("outputs", "named", "values"),
    [
        ("box logits shares", 0, "box"),
        ("box logits shares", 3, "box logits"),
        ("box logits shares", 5, "box"),
        ("box logits shares", 9, "box"),
        ("box logits", 0, ""),
        ("box logits", 5, "box"),
        ("box logits", 9, ""),
    ],
)
def test_which_outputs_have_classes(bench, outputs, named, values):
    """Of --labels' number that alone; beside probabilities not what may be a box."""
    widths = {"box": 4, "logits": 5, "shares": 3}
    found = dict.fromkeys(outputs.split(), "logits")
    if "shares" in found:
        found["shares"] = "probabilities"
    arrays = {name: np.ones((2, widths[name])) for name in found}
    wanted = found | dict.fromkeys(values.split(), "values")
    assert bench.beside_classes(found, arrays, named) == wanted
    if "shares" in found:
        assert bench.main_output(found) == "shares"


def test_independent_scores_are_shown_as_they_are(main, graph_file):
    ran = main(*FP32, f"--frozen_graph={graph_file(KINDS['scores'])}", "--batch_size=2")
    shares = [share for _, share in ran.records[0]["predictions"]]
    assert sum(shares) > 1.5 and all(0 <= share <= 1 for share in shares), (
        "no softmax on top of sigmoids"
    )


@pytest.mark.parametrize(
    ("end", "kind"), [(lambda tf, x: tf.sigmoid(x), "scores"), (lambda tf, x: x, "values")]
)
def test_one_number_has_no_class(main, graph_file, end, kind):
    """A network's only number always came out as `1.000 class 0`, and always agreed."""
    ran = main(
        *FP32,
        f"--frozen_graph={graph_file(dense(1, end, 20))}",
        "--output_node=output",
        "--batch_size=4",
    )
    assert ran.status == 0, ran.err
    assert ran.records[1]["kinds"] == {"output:0": kind}
    assert "class 0" not in ran.out
    assert "top1" not in agreement(ran.records[1])


@pytest.mark.parametrize(
    ("op", "shape", "values", "kind"),
    [
        ("Softmax", (2, 1, 1, 3), [0.2, 0.3, 0.5, 1, 0, 0], "probabilities"),
        ("Mul", (2, 3), [0.2, 0.3, 0.5, 1, 0, 0], "probabilities"),
        ("Sigmoid", (2, 3), [0.2, 0.3, 0.5, 1, 0, 0], "scores"),
        ("Mul", (2, 3), [0.9, 0.3, 0.5, 1, 0, 0], "scores"),
        ("BiasAdd", (2, 3), [0.9, 0.3, 5, -1, 0, 0], "logits"),
        ("Tanh", (2, 3), [0.9, 0.3, 0.5, -1, 0, 0], "values"),
        ("Softmax", (1, 2, 3), [0.2, 0.3, 0.5, 1, 0, 0], "class_map"),
        ("Transpose", (1, 3, 2), [0.2, 0.3, 0.5, 0.6, 0.3, 0.1], "class_map"),
        ("BiasAdd", (1, 2, 3), [0.9, 0.3, 5, -1, 0, 0], "values"),
        ("Sigmoid", (1, 2, 3), [0.9, 0.3, 0.5, 1, 0, 0], "scores"),
        ("BiasAdd", (6, 1), [0.9, 0.3, 5, -1, 0, 0], "values"),
        ("Sigmoid", (6, 1), [0.9, 0.3, 0.5, 1, 0, 0], "scores"),
        ("Mul", (2, 3), [0.6, -0.8, 0, 0, 0.28, 0.96], "values"),
        ("Mul", (2, 3), [0.6, 0.8, 0, 0, 0.28, 0.96], "values"),
        ("Mul", (2, 3), [0.6, -0.8, 0, 0, 0.28, 2], "logits"),
    ],
)
def test_kind_by_op_and_values(bench, op, shape, values, kind):
    assert bench.kind_of(op, np.array(values, np.float32).reshape(shape)) == kind


def test_signal_to_noise_sees_a_single_number(bench):
    """Cosine of one positive number is 1 whatever happens to it."""
    ours, theirs = np.full((4, 1), 0.5), np.full((4, 1), 1.0)
    found, _ = bench.output_agreement(ours, theirs, "values")
    assert found.cosine == 1 and found.snr_db == pytest.approx(20 * np.log10(2))
    assert not bench.is_same(found)
    note = "INT8 changed the outputs of 4 images: 6.0 dB signal to noise, lowest cosine 1.000"
    assert bench.agreement_note("int8", found, 4) == note
    assert bench.output_agreement(theirs, theirs, "values")[0].snr_db is None


def test_cosine_of_rows_that_are_zero(bench):
    """A saturated sigmoid: nothing differs, and no cosine of 0."""
    ours, theirs = np.array([[0.0], [0.5], [0.0]]), np.array([[0.0], [0.5], [1.0]])
    assert bench.cosines(ours, theirs).tolist() == [1, 1, 0]


def test_nothing_agrees_with_nan(bench):
    images = images_of(bench, np.zeros((1, 1, 1, 3), np.uint8))
    config = bench.parse_flags(["tensorrt.py", "--frozen_graph=net.pb"])
    graph = image_graph(bench, 1, 1, 3)
    nothing = {"y:0": np.full((1, 3), np.nan)}
    result = bench.Result(outputs={"y:0": np.ones((1, 3))}, reference=nothing)
    bench.judge(result, bench.Job(bench.Case("xla", "fp16", 1), config, graph, images))
    assert result.agreement is None
    assert any("nothing to agree with" in note for note in result.notes)


@pytest.mark.parametrize(("gap", "undecided"), [(1e-5, 3), (1e-1, 0)])
def test_images_that_rounding_may_turn_are_undecided(bench, gap, undecided):
    """Native's own first two outputs are nearer than two runs may differ: neither the same nor
    changed.
    """
    theirs = np.tile([[0.5, 0.5 - gap, 0.1]], (3, 1))
    ours = theirs[:, [1, 0, 2]]
    found, changed = bench.class_agreement(ours, theirs)
    assert (found["same"], found["decided"], found["undecided"]) == (0, 3 - undecided, undecided)
    assert found["top1"] == (None if undecided else 0.0)
    assert len(changed) == 3 - undecided
    found, _ = bench.output_agreement(ours, theirs, "probabilities")
    assert bench.keeps_decisions(found) == bool(undecided)


def test_undecided_images_are_said(main, graph_file):
    """A flat network on one photograph copied: 0.0 % for a difference of 2e-7."""
    flat = dense(10, lambda tf, x: tf.nn.softmax(x), 1e9)
    ran = main(*FP32, f"--frozen_graph={graph_file(flat)}", "--batch_size=8")
    found = agreement(ran.records[1])
    assert (found["decided"], found["undecided"], found.get("top1")) == (0, 8, None)
    assert "0/0" in ran.out and "8 undecided" in ran.out


def test_changed_images_are_named(bench):
    """All in the record, up to five in the terminal."""
    theirs, ours = np.eye(7, 8), np.roll(np.eye(7, 8), 1, axis=1)
    images = images_of(
        bench, np.zeros((7, 1, 1, 3), np.uint8), [f"{index}.jpg" for index in range(7)]
    )
    config = bench.parse_flags(["tensorrt.py", "--frozen_graph=net.pb"])
    graph = dataclasses.replace(
        image_graph(bench, 1, 1, 3), outputs=(bench.Tensor("y:0", op="Softmax"),)
    )
    case = bench.Case("xla", "fp16", 7)
    result = bench.Result(outputs={"y:0": ours}, reference={"y:0": theirs})
    bench.judge(result, bench.Job(case, config, graph, images))
    changed = result.agreement.outputs["y:0"].changed
    assert changed[6] == bench.ChangedImage(image="6.jpg", native="class 6", now="class 7")
    assert len(changed) == 7
    assert not result.agreement.same_model
    assert "FP16 changed the predictions: 0 of 7 images as in native" in result.notes
    report = bench.load_file("tensorrt_report", bench.HERE / "report.py")
    output = msgspec.to_builtins(result.agreement.outputs["y:0"])
    output = msgspec.convert(output, report.OutputAgreement)
    facts = {"case": "FP16 xla 7", "unit": "images", "device": "", "input_dtype": "", "flags": {}}
    record = types.SimpleNamespace(**facts, output=output, graph=report.GraphFacts())
    (line,) = report.agreement_lines([record])
    assert line.startswith(
        "FP16 xla 7: the first class changed on 7 of 7 images: 0.jpg (class 0, now class 1)"
    )
    assert "4.jpg" in line and "5.jpg" not in line and "2 more" in line


def test_any_number_of_images_is_judged(bench):
    """More rows than a batch has, as after all images of a folder."""
    random = np.random.default_rng(0)
    theirs = random.normal(size=(100, 10))
    images = images_of(bench, np.zeros((90, 1, 1, 3), np.uint8), labels=[3] * 90)
    config = bench.parse_flags(["tensorrt.py", "--frozen_graph=net.pb"])
    graph = image_graph(bench, 1, 1, 3)
    for engine, doubted in (("xla", False), ("tftrt", True)):  # whose INT8 is exact
        case = bench.Case(engine, "int8", 8)
        result = bench.Result(outputs={"y:0": theirs}, reference={"y:0": theirs})
        bench.judge(result, bench.Job(case, config, graph, images))
        assert result.agreement.images == result.accuracy.images == 90
        assert ("INT8 gave native's outputs exactly" in str(result.notes)) == doubted


@pytest.fixture(scope="session")
def classes(digits, tmp_path_factory):
    """Folders of digits by another naming: make(lambda digit: name)."""

    def make(name):
        folder = tmp_path_factory.mktemp("named")
        for digit in range(10):
            shutil.copytree(digits.folder / str(digit), folder / name(digit))
        return folder

    return make


def run_digits(main, net, folder, *flags):
    return main(*net, "--batch_size=50", f"--image_dir={folder}", *flags)


def test_accuracy_says_of_how_many_images(main, net, digits):
    ran = run_digits(main, net, digits.folder)
    assert ran.records[0]["accuracy"]["images"] == 300 and ran.records[0]["accuracy"]["top1"] > 0.9
    assert "of 300 images" in ran.out


def test_class_folders_all_badly_named_are_said(main, net, classes):
    ran = run_digits(main, net, classes(lambda digit: f"digit_{digit}"))
    assert "no accuracy: digit_0, digit_1" in ran.err and "accuracy" not in ran.records[0]


def test_folders_need_no_class_where_label_gives_it(main, net, classes):
    ran = run_digits(main, net, classes(lambda digit: f"digit_{digit}"), "--label=3")
    assert "no accuracy" not in ran.err and ran.records[0]["accuracy"]["top1"] < 0.5


def test_a_flat_folder_needs_no_class(main, net, digits):
    ran = run_digits(main, net, digits.folder / "3")
    assert ran.status == 0 and "no accuracy" not in ran.err


def test_ids_that_count_from_another_number_are_said(main, net, classes):
    """Shifted by one all are wrong: the sentence names the flag that counts so."""
    folder = classes(lambda digit: str(digit + 1))
    ran = run_digits(main, net, folder)
    (note,) = [note for note in ran.records[0]["notes"] if "accuracy" in note]
    assert note.startswith("no accuracy: class id 10 is none of the network's 10 classes")
    assert (
        run_digits(main, net, folder, "--ids_are_one_indexed").records[0]["accuracy"]["top1"] > 0.9
    )
    below = run_digits(main, net, folder, "--ids_are_one_indexed", "--labels_are_zero_indexed")
    assert "none of the network's 10 classes" in " ".join(below.records[0]["notes"])


@pytest.mark.parametrize(
    ("unit", "words"),
    [("images", "the names of the class folders"), ("samples", "`labels` in --samples")],
)
def test_ids_that_no_flag_moves_are_looked_for_where_they_come_from(bench, unit, words):
    config = bench.parse_flags(["tensorrt.py"])
    job = types.SimpleNamespace(config=config, samples=types.SimpleNamespace(unit=unit))
    (note,) = bench.counting_notes(0.0, np.eye(10)[1:], np.arange(9), job)
    assert note.endswith(f"begin at another number: check --label, or {words}")


@pytest.mark.parametrize(
    ("width", "flags", "label", "index"),
    [
        (1000, [], 282, 281),  # labellist.json's counting
        (1001, [], 282, 282),
        (1000, ["--labels_are_zero_indexed"], 281, 281),  # Keras's and PyTorch's
        (1001, ["--labels_are_zero_indexed"], 281, 282),
        (1001, ["--labels_are_zero_indexed", "--ids_are_one_indexed"], 281, 281),
        (10, [], 7, 7),
        (10, ["--labels_are_zero_indexed"], 7, 7),
        (10, ["--ids_are_one_indexed"], 7, 6),
    ],
)
def test_how_class_ids_count(bench, width, flags, label, index):
    config = bench.parse_flags(["tensorrt.py", *flags])
    assert bench.indices_of([label], width, config) == [index]


@pytest.mark.parametrize("flags", [[], ["--labels_are_zero_indexed"]])
@pytest.mark.parametrize("width", [1000, 1001])
def test_a_synset_is_the_same_class_in_both_countings(bench, width, flags):
    """n02123045 is the tabby: index 281 of 1000, 282 of 1001."""
    config = bench.parse_flags(["tensorrt.py", *flags])
    identity = bench.class_id("n02123045", config.labels_are_zero_indexed)
    assert bench.indices_of([identity], width, config) == [281 + width - 1000]


@pytest.mark.parametrize(
    ("flags", "label", "remedy"),
    [
        ([], 281, "pass --labels_are_zero_indexed"),
        (["--labels_are_zero_indexed"], 282, "leave out --labels_are"),
    ],
)
def test_accuracy_of_a_label_that_counts_otherwise(bench, flags, label, remedy):
    """A tabby predicted right, with its id as the other counting has it."""
    config = bench.parse_flags(["tensorrt.py", "--frozen_graph=x", f"--label={label}", *flags])
    values = np.eye(1000)[[281, 281]]
    result, images = (types.SimpleNamespace(notes=[]), images_of(bench, np.zeros((2, 1))))
    job = bench.Job(bench.Case("native", "native", 2), config, None, images)
    bench.judge_accuracy(result, values, "probabilities", job)
    assert result.accuracy.top1 == 0
    assert (
        len(result.notes) == 1
        and "0.0%, and 100.0%" in result.notes[0]
        and remedy in result.notes[0]
    )


@pytest.mark.parametrize(
    "flags", [["--label=2"], ["--label=10", "--image_dir"], ["--label=11", "--image_dir"]]
)
def test_no_accuracy_where_there_can_be_none(main, net, digits, flags):
    """Random data has no class, and a class id that the network lacks is none."""
    flags = [f"{flag}={digits.folder}" if flag == "--image_dir" else flag for flag in flags]
    ran = main(*net, "--batch_size=2", *flags)
    assert ran.status == 0, ran.err
    assert "accuracy" not in ran.records[0]
    assert [note for note in ran.records[0]["notes"] if note.startswith("no accuracy: ")]


def test_precisions_are_printed_as_in_2018(main, forms):
    ran = main(f"--frozen_graph={forms['frozen_graph']}", *FP32, "--fp16", "--batch_size=2")
    names = [line.split("[")[0] for line in ran.out.splitlines() if line.startswith("Precision: ")]
    assert names == ["Precision:  native ", "Precision:  FP32 ", "Precision:  FP16 "]


OLD_COMMANDS = [
    "-fg {frozen_graph} -if {image} --native -bs 4 -nl 3 -ws 100 -pp 2 -od {output}",
    "-sd {tf1} --native --fp32 -in input_tensor -on softmax_tensor -bs 4 -nl 3 -od {output}",
    "-sd={tf1} --native -bs=4 -nl=3 -od={output} --ids_are_one_indexed",
    "--frozen_graph {frozen_graph} --image_file {image} --native --batch_size 4 --num_loops 3 "
    "--output_dir {output}",
]


@pytest.mark.parametrize("line", OLD_COMMANDS)
def test_the_command_lines_of_2018(bench, forms, digits, tmp_path, capsys, line):
    """As they stand in people's shell loops: short flags, their value behind a space or an equals
    sign.
    """
    image = next(digits.folder.glob("3/*.png"))
    words = line.format(**forms, image=image, output=tmp_path).split()
    more = ["--noisolate", "--preprocessing=none", "--engine=onnxruntime", "--num_warmup=1"]
    assert bench.main(["tensorrt.py", *words, *more]) == 0
    out = capsys.readouterr().out
    first = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert first["batch_size"] == 4 and first["flags"]["num_loops"] == 3
    assert first["network"] == (
        "native_net.pb"
        if "net.pb" in line.format(**forms, image="", output="")
        else "native_frozen_graph.pb"
    )
    (native,) = [text for text in out.splitlines() if text.startswith("Precision:  native [")]
    assert native.count("'class ") == (2 if "-pp 2" in line else 5)
    assert ("-ws" not in line) or first["flags"]["workspace_size"] == 100


def test_short_flags_have_long_names(bench):
    assert set(bench.SHORT_FLAGS.values()) <= set(bench.FLAGS)
    assert len(bench.SHORT_FLAGS) == 10


def test_what_runs_each_precision_is_one_short_line(main, net):
    ran = main(*net, "--fp32", "--fp16", "--batch_size=2")
    lines = [line for line in ran.err.splitlines() if line.startswith("tensorrt.py: ")]
    assert [line for line in lines if " uses " in line] == [
        f"tensorrt.py: {record['precision'].upper()} uses {record['engine']}"
        for record in ran.records
    ]
    assert max(map(len, lines)) < 100 and sum("--doctor" in line for line in lines) == 1
    assert all("tensorrt: " in record["engine_why"] or record["gpu"] for record in ran.records)


def test_what_auto_passes_over_is_told_from_what_is_missing(main, bench, net, monkeypatch):
    monkeypatch.setattr(bench, "gpus", list)
    why = "auto takes it only where there is a GPU: --engine=xla"
    ran = main(*net, "--fp32", "--batch_size=2")
    assert f"tensorrt.py: passed over: xla ({why})\n" in ran.err
    assert "tensorrt.py: not available here: tensorrt, tftrt (--doctor says why)\n" in ran.err
    assert f"\nxla: passed over, {why} (fp32)\n" in main("--doctor").out


def test_times_native_are_in_the_record_and_the_answer(main, forms, digits):
    """For each batch size against the native of that size."""
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}",
        *FP32,
        "--batch_size=2,4",
        f"--image_dir={digits.folder}",
    )
    assert ran.status == 0, ran.err
    for native, fp32 in (ran.records[:2], ran.records[2:]):
        assert "times_native" not in native
        rated = fp32["times_native"]["device"]
        ours, theirs = (
            np.median(record["timings"]["device"]["seconds"]) for record in (fp32, native)
        )
        assert rated["low"] <= rated["value"] <= rated["high"]
        assert rated["low"] * 0.9 <= theirs / ours <= rated["high"] * 1.1
    answers = [line for line in ran.out.splitlines() if " at batch " in line and "native (" in line]
    assert [line.split(" at batch ")[1][0] for line in answers] == ["2", "4"]
    assert all("1 of 1" not in line for line in answers)
