"""report.py: what it reads, draws, writes and compares, by main() and the picture's objects."""

import copy
import json
import math
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import pytest
from helpers import ROOT, load, validate

DATA = Path(__file__).parent / "data"
KEPT = DATA / "records_1.jsonl"


@pytest.fixture(scope="module")
def report():
    return load("report", "report.py")


@pytest.fixture
def run(report, tmp_path, monkeypatch, capsys):
    """Runs the program in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        try:
            status = report.main(["report.py", *map(str, args)])
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return types.SimpleNamespace(returncode=status, stdout=out, stderr=err)

    return run


@pytest.fixture
def read(report):
    """The models of records as they stand in a file."""
    return lambda records: report.arrange(msgspec.convert(records, list[report.Record]))


@pytest.fixture
def draw(report, read):
    """The picture of records as they stand in a file."""
    return lambda records: report.draw(read(records))[0]


@pytest.fixture
def answers(report, read):
    """The answers on records as they stand in a file."""

    def answers(records):
        groups = [group for model in read(records) for group in model.groups]
        return [line for group in groups for line in report.answer_lines(group)]

    return answers


@pytest.fixture
def kept():
    return [json.loads(line) for line in KEPT.read_text().splitlines()]


@pytest.fixture
def written(tmp_path):
    """Writes records to a file."""

    def write(records, name="results.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return tmp_path / name

    return write


def scaled(record, factor, **changes):
    """The record `factor` times as fast."""
    record = copy.deepcopy({**record, **changes})
    for timing in record["timings"].values():
        timing["seconds"] = [second / factor for second in timing["seconds"]]
        timing["throughput"] *= factor
        for name in timing["statistics"]:
            timing["statistics"][name] *= factor if name.startswith("fps") else 1 / factor
    return record


def many(kept, count):
    """`count` records of three devices and many batch sizes."""
    records = []
    for index in range(count):
        device, size = f"Device {index * 3 // count}", 1 << index // 4
        records.append(scaled(kept[index % 4], 1 + index / 7, batch_size=size, device=device))
    return records


def test_records_of_version_1_stay_readable(run, kept):
    for record in kept:
        validate(record)
    ran = run(KEPT, "--output=page.html")
    assert ran.returncode == 0, ran.stderr
    text = " ".join(ran.stdout.split())
    assert "34.6* 1.5 34.8 2.48x ±0.19 115.48 148.66 100.0% 25.8 5.2" in text


def test_picture_beside_the_first_file(run, written, kept):
    path = written(kept)
    ran = run(path)
    assert ran.returncode == 0, ran.stderr
    assert (path.parent / "report.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_heavy_is_imported():
    words = [sys.executable, "-X", "importtime", str(ROOT / "report.py"), "--version"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert "argparse" in ran.stderr
    assert "tensorflow" not in ran.stderr
    assert "matplotlib" not in ran.stderr


def overlaps(figure):  # noqa: C901
    """The axes' visible texts that overlap or leave the picture, and how many texts there are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes, found = [], []
    for axes in figure.axes:
        for text in texts_of(axes):
            box = text.get_window_extent(renderer)
            if text.get_text() and text.get_visible() and box.width:
                boxes.append((text.get_text(), box))
    for index, (text, box) in enumerate(boxes):
        if box.x0 < 0 or box.x1 > figure.bbox.width:
            found.append(f"{text!r} leaves the picture")
        for other, near in boxes[:index]:
            if box.overlaps(near):
                found.append(f"{text!r} overlaps {other!r}")
    return found, len(boxes)


def texts_of(axes):
    texts = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        texts += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high]
    return texts + (axes.get_legend().get_texts() if axes.get_legend() else [])


@pytest.mark.parametrize("count", [1, 4, 30])
def test_labels_do_not_overlap(draw, kept, count):
    found, texts = overlaps(draw(many(kept, count) if count > 4 else kept[:count]))
    assert not found and texts > 2 * min(count, 12)


@pytest.mark.parametrize("factor", [5_000, 400_000])
def test_a_bars_text_stays_in_its_panel_and_ticks_of_millions_apart(draw, kept, factor):
    """INT8 also has a long text: 11 times native, and by how much."""
    figure = draw([kept[0], *[scaled(record, factor) for record in kept[1:]]])
    found, _ = overlaps(figure)
    assert not found
    speed = figure.axes[0]
    edge = speed.get_window_extent().x1
    assert all(text.get_window_extent().x1 <= edge for text in speed.texts)


def test_labels_of_curves_do_not_overlap(report):
    figure, _ = report.draw(report.arrange(report.merged([str(DATA / "h200.jsonl")])))
    found, _ = overlaps(figure)
    assert not found


def test_the_picture_shows_the_records_numbers(draw, kept):
    speed, latency, quality = draw(kept).axes
    medians = [record["timings"]["device"]["statistics"]["fps_median"] for record in kept]
    assert [bar.get_width() for bar in speed.patches] == medians
    numbers = [record["timings"]["device"]["statistics"] for record in kept]
    bars = speed.containers[-1].errorbar.lines[2][0].get_segments()
    ends = [(line[0][0], line[1][0]) for line in bars]
    expected = [(each["fps_low"], each["fps_high"]) for each in numbers]
    assert [end for pair in ends for end in pair] == pytest.approx(sum(expected, ()))
    times = ["(1.00x)", "(1.42x ±0.11)", "(1.37x ±0.08)", "(2.48x ±0.19)"]
    texts = [f"{median:.1f}  {ratio}" for median, ratio in zip(medians, times)]
    assert [text.get_text() for text in speed.texts] == texts
    steps = [line for line in latency.lines if line.get_marker() == "."]
    for line, record in zip(steps, kept, strict=True):
        seconds = record["timings"]["device"]["seconds"]
        assert list(line.get_xdata()) == pytest.approx([1e3 * second for second in seconds])
    points = [line.get_xdata()[0] for line in quality.lines]
    assert points == medians[1:], "native is not compared with itself"
    looks = {(line.get_marker(), line.get_markerfacecolor()) for line in quality.lines}
    assert len(looks) == 3, "told apart without colour"


def test_many_steps_are_drawn_as_a_band(report, draw, kept):
    """From the lowest to the highest of consecutive steps, so that nothing is left out."""
    seconds = [0.1 + 0.001 * (step % 97) for step in range(30_000)]
    seconds[15_000] = 0.5
    kept[0]["timings"]["device"]["seconds"] = seconds
    _, latency, _ = draw(kept[:1]).axes
    assert "band" in latency.get_xlabel()
    assert [line.get_marker() for line in latency.lines] == ["None"]
    (band,) = [part for part in latency.collections if hasattr(part, "set_data")]
    (corners,) = [path.vertices for path in band.get_paths()]
    assert corners[:, 0].max() == pytest.approx(500) and corners[:, 0].min() == pytest.approx(100)
    assert len(corners) < 5 * report.BANDS


def judged(
    record, kind, same=0, decided=0, undecided=0, snr=30.0, same_model=True, images=8, **more
):
    """The record as version 2 has it, with that agreement."""
    record = copy.deepcopy(record if record["record"] == 2 else version_2(record))
    (name,) = record["kinds"]
    record["kinds"][name] = kind
    found = {"kind": kind, "cosine": 0.99, "difference": 0.5, "snr_db": snr, **more}
    if kind != "values":
        found |= {"same": same, "decided": decided, "undecided": undecided}
    if kind in ("probabilities", "logits"):
        found |= {"top1": same / decided if decided else None, "top5": 0.9}
    record["agreement"] = {"images": images, "same_model": same_model, "outputs": {name: found}}
    del record["flags"]["weights"]
    validate(record)
    return record


@pytest.mark.parametrize(
    ("agreements", "heights", "label", "counts"),
    [
        ([("logits", 7, 8), ("logits", 8, 8)], [87.5, 100], "first class", {"7 of 8", "8 of 8"}),
        ([("scores", 60, 80), ("scores", 60, 80)], [75, 75], "decisions", {"60 of 80"}),
        ([("values",), ("values",)], [30, 30], "dB", {"8 images"}),
        ([("logits", 0, 0, 8), ("logits", 0, 0, 8)], [30, 30], "dB", {"8 images"}),
    ],
)
def test_the_third_panel_shows_agreement_with_its_n(draw, kept, agreements, heights, label, counts):
    """Not accuracy, whose n nobody sees; where no class was decided, signal to noise."""
    records = [judged(record, *row) for record, row in zip(kept[1:], agreements)]
    for record in records:
        record["accuracy"] = {"top1": 0.1, "top5": 0.2, "images": 8}
    quality = draw([kept[0], *records]).axes[2]
    assert [line.get_ydata()[0] for line in quality.lines] == pytest.approx(heights)
    assert label in quality.get_ylabel()
    assert {text.get_text() for text in quality.texts} == counts


def test_three_batch_sizes_are_curves(report):
    """Not thirty bars: images/s and latency against batch size, and one against the other."""
    records = report.merged([str(DATA / "h200.jsonl")])
    speed, latency, trade, quality = report.draw(report.arrange(records))[0].axes
    assert not speed.patches
    native = [record for record in records if record.precision == "native"]
    numbers = [record.timings["device"].statistics for record in native]
    speeds, milliseconds = (
        [s["fps_median"] for s in numbers],
        [1e3 * s["latency_median"] for s in numbers],
    )
    curves = {line.get_label(): line for line in latency.lines}
    assert list(curves) == [
        "native",
        "native (host)",
        "FP32 xla",
        "FP32 xla (host)",
        "FP16 xla",
        "FP16 xla (host)",
    ]
    assert list(curves["native"].get_xdata()) == [1, 8, 32, 128, 256, 512]
    assert list(curves["native"].get_ydata()) == milliseconds
    assert (
        list(trade.lines[0].get_xdata()) == speeds
        and list(trade.lines[0].get_ydata()) == milliseconds
    )
    assert list(speed.containers[0].lines[0].get_ydata()) == speeds
    assert (
        len({(line.get_linestyle(), line.get_marker(), line.get_color()) for line in latency.lines})
        == 6
    )
    assert len(quality.lines) == 2


def test_a_case_that_was_stopped_before_it_was_compared_leaves_its_agreement_at_other_sizes(report):
    """At 256 the runs were cut off before: all points are of batch 128."""
    records = report.merged([str(DATA / "h200_tensorrt.jsonl")])
    quality = report.draw(report.arrange(records))[0].axes[3]
    shown = {round(line.get_xdata()[0]): line.get_label() for line in quality.lines}
    assert shown[33363] == "FP16 tensorrt" and shown[46973] == "INT8 tensorrt"
    assert len(shown) == 4


def test_two_batch_sizes_are_bars(draw, kept):
    records = [scaled(record, 1, batch_size=size) for record in kept[:2] for size in (4, 8)]
    assert len(draw(records).axes[0].patches) == 4


def test_a_picture_of_many_bars_has_an_end(run, report, draw, written, kept):
    """The newest fit; how many they are is said, and the table has all."""
    records = [scaled(kept[index % 4], 1, device=f"Device {index // 4:02}") for index in range(100)]
    (speed, *_) = draw(records).axes
    assert len(speed.patches) == report.MOST_ROWS
    names = [text.get_text().strip() for text in speed.texts]
    assert "Device 24" in names and "Device 09" not in names
    ran = run(written(records))
    assert "report.png written with the newest 60 of 100 rows" in ran.stdout
    assert "Device 00" in ran.stdout


def test_a_picture_of_many_curves_has_an_end(report, draw, kept):
    devices = [f"Device {device:02}" for device in range(20)]
    sizes = (1, 2, 4)
    records = [scaled(kept[0], 1, device=on, batch_size=size) for on in devices for size in sizes]
    drawn = [part.get_suptitle()[-9:] for part in draw(records).subfigs]
    assert drawn == devices[-len(drawn) :]
    assert report.MOST_ROWS / report.CURVES_HEIGHT <= len(drawn) < 10


def rows_in(text, precision):
    """A table's rows of a precision."""
    return [line for line in text.splitlines() if line.startswith(f"{precision}  ")]


def runs_of(record, factors):
    """A case that ran once a day, each time so many times as fast."""
    days = enumerate(factors, start=1)
    return [scaled(record, by, time=f"2026-01-{day:02}T00:00:00+00:00") for day, by in days]


def test_a_case_has_one_row_and_older_records_are_its_trend(run, read, draw, written, kept):
    """The newest record's numbers; how much faster it is than the median of the older ones."""
    records = runs_of(kept[0], (1, 1.1, 0.9, 1.2)) + runs_of(kept[3], (1,))
    ran = run(written(records[::-1]))
    (native,) = rows_in(ran.stdout, "native")
    assert " 16.7 " in native and native.rstrip().endswith("+20.0% (3)")
    assert len(rows_in(ran.stdout, "INT8")) == 1
    speed = draw(records).axes[0]
    (trend,) = speed.lines[-1:]
    medians = [13.95 * factor for factor in (1, 1.1, 0.9, 1.2)]
    assert list(trend.get_xdata()) == pytest.approx(medians, rel=1e-3)
    assert list(trend.get_ydata()) == sorted(trend.get_ydata()), "the newest is the lowest"
    (model,) = read(records)
    assert len(model.records) == 2


def test_older_records_are_dots_beside_a_curve(draw, kept):
    sizes = [runs_of(scaled(kept[0], 1, batch_size=size), (1, 1.1)) for size in (1, 2, 4)]
    speed, *_ = draw([record for records in sizes for record in records]).axes
    older = [line for line in speed.lines if line.get_marker() == "."]
    assert [line.get_xdata()[0] for line in older] == [1, 2, 4]
    assert {round(line.get_ydata()[0], 1) for line in older} == {14.0}


def test_a_case_without_older_records_has_no_trend(run, written, kept):
    assert "trend" not in run(written(kept), "--output=page.html").stdout


def test_other_settings_are_another_case(run, written, kept):
    """Two rows: with TF32 and without is a question, not a trend."""
    other = copy.deepcopy(kept[1])
    other["flags"]["tf32"] = False
    ran = run(written([kept[1], other, {**kept[1], "input_dtype": "uint8"}]), "--output=page.html")
    assert len(rows_in(ran.stdout, "FP32")) == 3 and "trend" not in ran.stdout
    for words in (
        "onnxruntime, float32, tf32=True ",
        ", float32, tf32=False ",
        ", uint8, tf32=True ",
    ):
        assert ran.stdout.count(words) == 1, ran.stdout


def with_flags(record, **flags):
    """The record as of other settings."""
    return {**record, "flags": {**record["flags"], **flags}}


def test_rows_of_several_settings_say_theirs_and_are_curves_of_their_own(draw, run, written, kept):
    sizes = [scaled(kept[0], 1 + size / 9, batch_size=size) for size in (1, 2, 4)]
    records = [with_flags(each, preprocessing=name) for each in sizes for name in ("vgg", "caffe")]
    speed = draw(records).axes[0]
    assert [line.get_label() for line in speed.containers] == ["native, vgg", "native, caffe"]
    assert [text.get_text() for text in draw(records[:2]).axes[0].get_yticklabels()] == [
        "native 1, vgg",
        "native 1, caffe",
    ]
    assert "native, vgg" in run(written(records), "--output=page.html").stdout
    assert "<td>native, caffe<td>1<td>" in Path("page.html").read_text()
    assert ", vgg" not in run(written(records[::2]), "--output=page.html").stdout


def test_a_case_that_fails_now_keeps_its_measured_row(run, written, kept):
    """What was measured is shown, and that the newest try failed; a failure of before is not."""
    failed = {**kept[2], "status": "failed", "error": "out of memory", "timings": {}}
    times = [f"2026-12-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    before = [{**kept[2], "time": times[0]}, {**failed, "time": times[1]}]
    ran = run(written(before), "--output=page.html")
    assert [" failed " in row for row in rows_in(ran.stdout, "FP16")] == [False, True]
    assert "FP16 onnxruntime 4: out of memory" in ran.stdout
    ran = run(written([*before, {**kept[2], "time": times[2]}]), "--output=page.html")
    assert len(rows_in(ran.stdout, "FP16")) == 1 and "out of memory" not in ran.stdout


def test_native_stands_before_what_failed_sooner(read, kept):
    """Of its batch size and setting; the others keep the order of time."""
    failed = {**kept[3], "status": "failed", "timings": {}}
    native, fp32 = kept[0], kept[1]
    (model,) = read(
        [
            with_flags({**record, "batch_size": size}, preprocessing=name)
            for size, name, record in (
                (4, "vgg", failed),
                (4, "caffe", failed),
                (1, "vgg", failed),
                (4, "vgg", fp32),
                (1, "vgg", native),
                (4, "vgg", native),
            )
        ]
    )
    assert [row.name for row in model.groups[0].rows] == [
        "native 4, vgg",
        "INT8 onnxruntime 4, vgg",
        "INT8 onnxruntime 4, caffe",
        "native 1, vgg",
        "INT8 onnxruntime 1, vgg",
        "FP32 onnxruntime 4, vgg",
    ]


def test_many_sentences_have_an_end(run, report, written, kept):
    """The last ones in the terminal; all of them in the page."""
    records = [{**kept[0], "device": f"D{index}", "notes": [f"{index} C"]} for index in range(80)]
    ran = run(written(records), "--output=page.html")
    notes = re.findall(r"native 4 on D\d+: (\d+) C", ran.stdout)
    assert notes == [str(index) for index in range(20, 80)]
    assert "and 20 more: --output=report.html has all" in ran.stdout
    assert len(re.findall(r"native 4 on D\d+: \d+ C", Path("page.html").read_text())) == 80


def test_a_sentence_names_the_setting_and_the_device_of_its_case(run, written, kept):
    """No device where the sentence is of all of them; a device alone is not named either."""
    devices = "AMD EPYC, 1 thread (cpu0of2)", "AMD EPYC, 1 thread (cpu1of2)", "GPU"
    records = [
        {**with_flags(kept[0], preprocessing=name), "device": device, "notes": notes}
        for name, device, notes in (
            ("vgg", devices[0], ["hot", "old", "new"]),
            ("vgg", devices[1], ["cold", "old", "new"]),
            ("vgg", devices[2], ["old"]),
            ("caffe", devices[0], ["cold", "new"]),
        )
    ]
    ran = run(written(records), "--output=page.html")
    said = [
        f"native 4, vgg on {devices[0]}: hot",
        "native 4, vgg: old",
        "native 4, vgg on 2 of 3 devices; native 4, caffe: new",
        f"native 4, caffe; native 4, vgg on {devices[1]}: cold",
    ]
    assert ran.stdout.split("\n\n")[-2].splitlines() == said
    assert all(f"<li>{line}" in Path("page.html").read_text() for line in said)


def noisy(bench, record, size, speeds, cause):
    """The record of a batch size whose rounds moved between these speeds, with its sentence."""
    rounds = [[size / speed] * 4 for speed in speeds] * 3
    verdict, sentence = bench.verdict(rounds, size, cause)
    assert verdict == "noisy"
    return {**record, "batch_size": size, "notes": ["cold", f"device input: {sentence}"]}


@pytest.mark.parametrize(
    ("num_loops", "remedy"),
    [
        (24, "pass --num_loops=auto"),
        (None, "measure that one alone with --num_loops=96, four times its steps"),
    ],
)
def test_many_noisy_rows_are_one_line(run, written, kept, bench, num_loops, remedy):
    """Their number, the largest movement, the commonest cause and a flag; all of it in the page."""
    causes = {1: "other programs used 0.1 cores", 2: "it rained"}

    def records_of(causes):
        return [
            noisy(
                bench,
                with_flags(kept[0], num_loops=num_loops),
                size,
                (1000, 2400) if size == 2 else (50, 70 - size),
                causes.get(size, f"cores were waited for {size}0% of the time"),
            )
            for size in (1, 2, 3, 4)
        ]

    records = records_of(causes)
    ran = run(written(records[:3]), "--output=page.html")
    assert ran.stdout.count("the speed moved between") == 3 and "rows are noisy" not in ran.stdout
    ran = run(written(records), "--output=page.html")
    assert ran.stdout.split("\n\n")[-2].splitlines() == [
        "4 cases: cold",
        "4 rows are noisy (each in results.jsonl): native 2 moved most, 1,000.0 to 2,400.0 "
        "images/s; often cores were waited for 30% of the time: quiet the machine, or " + remedy,
    ]
    for other in (dict.fromkeys((1, 2, 3, 4), "nothing else was seen"), {3: "snow", **causes}):
        assert "images/s: quiet" in run(written(records_of(other))).stdout, "no cause to name"
    mixed = [with_flags(records[0], num_loops=None if num_loops else 24), *records[1:]]
    assert run(written(mixed)).stdout.count("pass --num_loops=auto") == 1
    assert Path("page.html").read_text().count("the speed moved between") == 4


def other_model(records, factor=1.0, name="other.pb"):
    """The records as of another graph."""
    found = []
    for record in records:
        record = scaled(record, factor)
        record["graph"] |= {"sha256": "f" * 64, "name": name}
        record["network"] = record["network"].replace("frozen_graph.pb", name)
        found.append(record)
    return found


def test_two_models_in_one_folder_are_two_tables(run, report, written, kept):
    """Each is divided by its own native, has its own star, and says its name."""
    written([*kept, *other_model(kept[:2], 3)])
    ran = run("results.jsonl", "--output=page.html")
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.split("other.pb on ")
    assert "frozen_graph.pb on " in first and "2.48x" in first
    assert "1.42x" in second and first.count("*") == second.count("*") == 1
    page = (written([]).parent / "page.html").read_text()
    assert "<h2>other.pb on " in page and "<h2>frozen_graph.pb on " in page
    assert run("--history", ".", "--output=page.html").returncode == 2, (
        "an empty file is passed over"
    )


def test_history_groups_by_model_too(run, written, kept, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    written(kept[:2], "a/results.jsonl")
    written(other_model(kept[:2], 3, "frozen_graph.pb"), "b/results.jsonl")
    ran = run("--history", "a", "b")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("1.42x native (") == 2 and ran.stdout.count("*") == 2
    titles = [line.strip() for line in ran.stdout.splitlines() if " on AMD" in line]
    digits = kept[0]["graph"]["sha256"][:8]
    assert [title.split(" on ")[0] for title in titles] == [
        f"frozen_graph.pb {digits}",
        "frozen_graph.pb ffffffff",
    ]


def test_models_of_one_graph_are_told_apart_by_their_tensors(read, kept):
    pixels = copy.deepcopy(kept[0])
    pixels["graph"]["input"] = "uint8_pixels:0"
    names = [model.name for model in read([kept[0], pixels])]
    own = kept[0]["graph"]["input"]
    assert names == [f"frozen_graph.pb input {own}", "frozen_graph.pb input uint8_pixels:0"]


def test_each_model_is_a_strip_of_the_picture(draw, kept):
    figure = draw([*kept, *other_model(kept[:2], 3)])
    assert [part.get_suptitle().split(" on ")[0] for part in figure.subfigs] == [
        "frozen_graph.pb",
        "other.pb",
    ]
    assert [text.get_text() for text in figure.axes[3].texts] == [
        "41.9  (1.00x)",
        "59.3  (1.42x ±0.11)",
    ]


def test_times_native_are_those_of_the_pairs_of_rounds(report, read, draw, answers, kept):
    """Where the record has them, in table, picture and answer; else they come from the medians."""
    native, int8 = without_weights(kept[0]), judged(kept[3], "logits", 8, 8)
    int8["times_native"] = {"device": {"value": 2.36, "low": 2.28, "high": 2.44}}
    validate(int8)
    (model,) = read([native, int8])
    _, cells = report.table_of(model.groups[0])
    assert cells[1][6] == "2.36x ±0.08"
    assert "2.36x native (2.28 to 2.44)" in answers([native, int8])[0]
    assert draw([native, int8]).axes[0].texts[1].get_text() == "34.6  (2.36x ±0.08)"


def without_weights(record, **changes):
    record = copy.deepcopy({**record, **changes})
    record["flags"].pop("weights", None)
    return record


def test_the_answer(answers, kept):
    native, fp32 = without_weights(kept[0]), judged(kept[1], "logits", 8, 8)
    int8 = judged(kept[3], "logits", 8, 8)
    assert answers([native, fp32, int8]) == [
        "Fastest that is still the same model at batch 4: INT8 in onnxruntime, 2.48x native "
        "(2.41 to 2.67), top-1 as native on 8 of 8 images, 26 MB instead of 103."
    ]
    random = {**int8, "images": "random"}
    assert "on 8 of 8 random images" in answers([native, random])[0]


def test_the_fastest_of_several_runs_has_most_images_a_second(answers):
    """As where FP16's run had a slower native than INT8's: more times native, fewer images/s."""
    records = map(json.loads, (DATA / "h200_tensorrt.jsonl").read_text().splitlines())
    at_one = [record for record in records if record["batch_size"] == 1]
    (fp16,) = (r for r in at_one if (r["engine"], r["precision"]) == ("tensorrt", "fp16"))
    fp16["times_native"]["device"] = {"value": 12.0, "low": 11.9, "high": 12.1}
    (line, *_) = answers(at_one)
    assert line.startswith("Fastest that is still the same model at batch 1: INT8 in tensorrt")


@pytest.mark.parametrize(
    ("top1", "cosine", "same"), [(1.0, 0.999, True), (0.98, 0.999, False), (1.0, 0.98, False)]
)
def test_the_answer_on_records_of_version_1(answers, kept, top1, cosine, same):
    """They have no verdict of their own: it is made of top-1 and cosine."""
    int8 = without_weights(kept[3])
    int8["agreement"] |= {"top1": top1, "cosine": cosine}
    (line,) = answers([without_weights(kept[0]), int8])
    assert line.startswith("Fastest that is still" if same else "Nothing that is faster")
    assert f"top-1 as native on {top1:.1%} of the images" in line


def test_the_answer_passes_over_what_is_another_model(answers, kept):
    native, fp32 = without_weights(kept[0]), judged(kept[1], "logits", 8, 8)
    int8 = judged(kept[3], "logits", 5, 8, snr=7.0, same_model=False)
    (line,) = answers([native, fp32, int8])
    assert line.startswith(
        "Fastest that is still the same model at batch 4: FP32 in onnxruntime, 1.42x native ("
    )
    assert answers([native, int8]) == [
        "Nothing that is faster at batch 4 is still the same model: INT8 in onnxruntime, 2.48x "
        "native (2.41 to 2.67), has top-1 as native on 5 of 8 images, 7 dB signal to noise."
    ]


def test_the_answer_where_nothing_is_faster_or_nobody_knows(answers, kept):
    native, int8 = without_weights(kept[0]), judged(kept[3], "logits", 8, 8)
    slow = scaled(int8, 0.3)
    nothing = "Nothing is faster than native at batch 4"
    ratio = "0.74x native (0.72 to 0.80)"
    assert answers([native, slow]) == [f"{nothing}: INT8 in onnxruntime, {ratio}."]
    noisy = {**int8, "times_native": {"device": {"value": 1.08, "low": 0.9, "high": 1.2}}}
    ratio = "1.08x native (0.90 to 1.20)"
    assert answers([native, noisy]) == [
        f"{nothing} beyond the noise: INT8 in onnxruntime, {ratio}."
    ]
    assert answers(kept) == [
        "Fastest at batch 4: INT8 in onnxruntime, 2.48x native (2.41 to 2.67), 26 MB instead of "
        "103; random weights cannot tell whether it is still the same model."
    ]
    assert answers([native]) == []


def test_why_there_are_no_times_native(answers, kept):
    """Native was not run at all, not at this batch size, or on another device by --spread."""
    native, fp32 = without_weights(kept[0]), judged(kept[1], "logits", 8, 8)
    not_measured = "Times native: not measured; --native measures it too."
    assert answers([fp32]) == [not_measured]
    single = scaled(fp32, 1, batch_size=1)
    assert answers([native, fp32, single])[1:] == [not_measured.replace(":", " at batch 1:")]
    failed = {**native, "status": "failed", "timings": {}}
    assert answers([failed, fp32]) == answers([{**fp32, "timings": {}}]) == []
    elsewhere = {**native, "device": "GPU 1"}
    assert answers([elsewhere, fp32]) == [not_measured]
    spread = with_flags(elsewhere, spread=True)
    assert answers([spread, with_flags(fp32, spread=True)]) == [
        "Times native: not measured, as --spread ran native on another device; without it every "
        "device runs native."
    ]
    assert answers([spread, with_flags(single, spread=True)]) == [not_measured]
    assert answers([with_flags(fp32, spread=True)]) == [not_measured]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("scores", 79, 80), "79 of 80 decisions as native on 8 images"),
        (("values",), "30 dB signal to noise on 8 images"),
        (("values", 0, 0, 0, None), "no difference on 8 images"),
        (("logits", 0, 0, 8), "30 dB signal to noise on 8 images, of which none is decided"),
    ],
)
def test_the_answer_by_kind_of_output(answers, kept, row, words):
    (line,) = answers([without_weights(kept[0]), judged(kept[3], *row)])
    assert f", {words}, 26 MB instead of 103." in line


def test_no_answer_from_probabilities_that_are_all_alike(answers, kept):
    """As an untrained network's: they agree whatever breaks."""
    native = without_weights(kept[0])
    (line,) = answers([native, judged(kept[3], "probabilities", 0, 0, 8)])
    assert line.startswith("Fastest at batch 4: INT8 in onnxruntime, 2.48x native (")
    assert line.endswith(
        "26 MB instead of 103; probabilities that are all alike (none of 8 images is decided) "
        "cannot tell whether it is still the same model."
    )
    broken = judged(kept[3], "probabilities", 0, 0, 8, snr=6.0, same_model=False)
    assert answers([native, broken])[0].startswith("Nothing that is faster at batch 4 is still")


def test_no_answer_without_outputs_to_compare(answers, kept):
    """As where native's are not numbers: it may be the same model or not."""
    record = {key: part for key, part in kept[3].items() if key != "agreement"}
    (line,) = answers([without_weights(kept[0]), without_weights(record)])
    assert line.startswith("Fastest at batch 4: INT8 in onnxruntime, 2.48x native (")
    assert line.endswith(
        "outputs that were not compared cannot tell whether it is still the same model."
    )


def test_an_answer_for_each_batch_size(run, written, kept):
    records = [scaled(record, 1, batch_size=size) for size in (8, 4) for record in kept[:2]]
    ran = run(written(records))
    lines = [line for line in ran.stdout.splitlines() if line.startswith("Fastest")]
    assert [line.split(":")[0] for line in lines] == ["Fastest at batch 4", "Fastest at batch 8"]


def test_changed_and_undecided_images_are_said_with_their_number(run, written, kept):
    changed = [
        {"image": f"{index}.jpg", "native": "tabby, cat", "now": "lynx, catamount"}
        for index in range(7)
    ]
    records = [judged(kept[1], "logits", 1, 8, changed=changed), judged(kept[2], "logits", 0, 0, 8)]
    ran = run(written(records))
    names = ", ".join(f"{index}.jpg (tabby, now lynx)" for index in range(5))
    assert (
        f"FP32 onnxruntime 4: the first class changed on 7 of 8 images: {names} and 2 more"
        in ran.stdout
    )
    assert "FP16 onnxruntime 4: 8 undecided of 8 images" in ran.stdout
    assert " 1/8 " in ran.stdout and " 0/0 " in ran.stdout


def test_of_values_the_number_of_images_is_said(run, written, kept):
    """The table has no share beside their signal to noise, in whose place n would stand."""
    ran = run(written([kept[0], judged(kept[2], "values", images=8)]))
    assert "FP16 onnxruntime 4: no classes to compare: the SNR is of 8 images" in ran.stdout


def test_files_are_read_as_one_newest_last(report, written, kept):
    day = "2026-01-0{}T00:00:00+00:00".format
    old = written([scaled(kept[0], 1, device="A", time=day(1))], "old.jsonl")
    new = [scaled(kept[1], 1, device="A", time=day(3)), scaled(kept[0], 1, device="B", time=day(2))]
    (model,) = report.arrange(report.merged([str(written(new, "new.jsonl")), str(old)]))
    found = [(record.device, record.precision) for record in model.records]
    assert found == [("B", "native"), ("A", "native"), ("A", "fp32")]


def test_a_record_that_two_files_hold_counts_once(run, written, kept):
    copied = written(kept, "copy.jsonl")
    ran = run(written(kept), copied, KEPT, "--output=page.html")
    assert len(rows_in(ran.stdout, "FP16")) == 1 and "trend" not in ran.stdout


def test_page_is_self_contained(run, written, kept):
    kept[1]["notes"].append("a < b & c")
    path = written([*kept[:3], version_2(kept[3])])
    ran = run(path, "--output=page.html")
    assert ran.returncode == 0, ran.stderr
    text = (path.parent / "page.html").read_text()
    assert "<svg" in text
    assert "a &lt; b &amp; c" in text
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text), "nothing is fetched"
    assert kept[3]["calibration"]["sha256"] in text
    assert "tensorflow 2.21.0" in text
    assert "inputs input_tensor:0 [None, 224, 224, 3], outputs Identity:0, layout NHWC" in text
    assert "inputs input_tensor:0 [None, 224, 224, 3] float32, outputs" in text


@pytest.fixture
def shown(tmp_path):
    """A page's elements as Chromium has them after the page's script."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium")

    def shown(address):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-sync"]
        flags += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
        words = [chromium, *flags, "--dump-dom", f"file://{tmp_path}/{address}"]
        return subprocess.run(words, capture_output=True, text=True, timeout=100).stdout

    return shown


def test_a_long_page_has_a_filter(run, written, kept, shown):
    """The newest 60 cases, or all that have the words that are typed; the address can hold them."""
    records = [scaled(kept[index % 4], 1, device=f"Node {index // 4:02}") for index in range(100)]
    run(written(records), "--output=page.html")
    dom = shown("page.html")
    assert dom.count("<tbody>") == 60 and dom.count('<tbody hidden="">') == 40
    assert "60 of 100 cases" in dom and dom.count('<section hidden="">') == 10
    assert "</svg>" in dom
    dom = shown("page.html#INT8%20node%2007")
    assert re.findall(r"<tbody><tr><td>(\w+)", dom) == ["INT8"] and "1 of 100 cases" in dom
    (section,) = re.findall(r"<section>.*?</h2>", dom)
    assert "Node 07" in section


def test_a_short_page_has_no_filter(run, written, kept):
    run(written(many(kept, 30)), "--output=page.html")
    text = Path("page.html").read_text()
    assert text.count("<tr>") == 30 + 3 and "<script" not in text


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.3, "faster"), (0.7, "slower"), (1.02, "same"), (0.98, "same")]
)
def test_comparison(run, written, kept, factor, verdict):
    new = written([scaled(kept[2], factor, time="2027-01-01T00:00:00+00:00")])
    ran = run(new, f"--compare={KEPT}")
    assert ran.returncode == 0, ran.stderr
    assert re.search(rf"FP16 onnxruntime 4 +{factor:.3f} .*{verdict}", ran.stdout), ran.stdout


def test_records_of_one_loop_are_compared_by_medians(report):
    """In powers of two a ratio of 1; its ends are the root of 1^2 + 2^2 from it, both ways."""
    names = ("fps_low", "fps_median", "fps_high", "latency_median", "latency_99th")
    new, old = (
        report.Timing([0.1], 10.0, dict(zip(names, (*row, 1, 1))))
        for row in ((5, 10, 40), (2.5, 5, 20))
    )
    reach = 2 ** (5**0.5)
    assert report.ratio_of(new, old) == pytest.approx((2, 2 / reach, 2 * reach))


def with_rounds(bench, record, medians):
    """The record as of rounds of these medians, a fifth of whose steps are undisturbed."""
    record = copy.deepcopy(record)
    timing = record["timings"]["device"]
    rounds = [[0.1, 0.1, *[median] * 8] for median in medians]
    timing["seconds"] = [second for seconds in rounds for second in seconds]
    timing["statistics"] = {
        **bench.summarise(timing["seconds"], 4),
        **bench.round_statistics(rounds, 4),
    }
    validate(record)
    return record


def test_runs_of_rounds_are_compared_by_their_undisturbed_speeds(run, written, kept, bench):
    """Medians 20 % apart because others used the machine are the same; all steps slower are not."""
    old = with_rounds(bench, kept[2], [0.1] * 6)
    busy = with_rounds(bench, kept[2], [0.1, 0.1, 0.12, 0.12, 0.12, 0.12])
    assert busy["timings"]["device"]["statistics"]["fps_typical"] == pytest.approx(4 / 0.12)
    before = written([old], "before.jsonl")
    ran = run(written([busy]), f"--compare={before}")
    assert re.search(r"FP16 onnxruntime 4 +1\.000 +0\.946 to 1\.057 +same *$", ran.stdout, re.M), (
        ran.stdout
    )
    slower = copy.deepcopy(old)
    numbers = slower["timings"]["device"]["statistics"]
    numbers |= {
        name: 0.88 * value for name, value in numbers.items() if name.startswith("fps_undisturbed")
    }
    ran = run(written([slower]), f"--compare={before}", "--fail_slower=5")
    assert ran.returncode == 3 and re.search(r"0\.880 .*slower *$", ran.stdout, re.M), ran.stdout
    for record in (old, slower):
        record["gpu"] = {"driver": "580", "compute_capability": "9.0"}
    ran = run(written([slower]), f"--compare={written([old], 'before.jsonl')}")
    assert "0.880 to 0.880" in ran.stdout, "runs on a GPU are as far apart as their rounds"


def test_p99_has_a_mark_and_the_reason_where_steps_are_too_few(run, written, kept, bench):
    few = with_rounds(bench, kept[2], [0.1] * 6)
    ran = run(written([few]), "--output=page.html")
    assert re.search(r"100\.00 100\.00\? ", ran.stdout), ran.stdout
    assert (
        "p99?: 60 steps give it no upper bound: that takes 299 (--num_loops=299, or auto)"
        in ran.stdout
    )
    ran = run(written([with_rounds(bench, kept[2], [0.1] * 30)]), "--output=page.html")
    assert "?" not in ran.stdout


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fps_undisturbed_low", 0),
        ("fps_typical", None),
        ("rounds", "five"),
        ("fps_typical_high", ""),
    ],
)
def test_numbers_over_rounds_that_are_none(run, written, kept, bench, name, value):
    record = with_rounds(bench, kept[2], [0.1] * 5)
    before = written([record], "before.jsonl")
    if value is None:
        del record["timings"]["device"]["statistics"][name]
    else:
        record["timings"]["device"]["statistics"][name] = value
    ran = run(written([record]), f"--compare={before}")
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1 and "line 1" in ran.stderr


def test_the_table_shows_the_typical_speed_over_rounds(run, written, kept, bench):
    """A long fast round outvotes four slow ones over all steps, not over rounds."""
    record = with_rounds(bench, kept[2], [0.2] * 4)
    numbers = record["timings"]["device"]["statistics"]
    assert numbers["fps_median"] == pytest.approx(numbers["fps_typical"]) == pytest.approx(20)
    numbers |= {"fps_median": 40.0, "fps_typical_low": 15.0}
    ran = run(written([record]), "--output=page.html")
    assert re.search(r"FP16 +onnxruntime +4 +20\.0\* +5\.0 ", ran.stdout), ran.stdout


def test_a_comparison_says_how_little_few_rounds_know(run, written, kept, bench):
    before = written([with_rounds(bench, kept[2], [0.1] * 5)], "before.jsonl")
    ran = run(written([kept[2]]), f"--compare={before}")
    assert "(as far as 1 round can tell)" in ran.stdout
    ran = run(written([with_rounds(bench, kept[2], [0.1] * 3)]), f"--compare={before}")
    assert "same (as far as 3 rounds can tell)" in ran.stdout


@pytest.mark.parametrize(
    ("factor", "stolen", "doubt"),
    [
        (0.8, (0.0, 0.08), "slower (now the hypervisor took 0.08 cores: measure again)"),
        (1.2, (0.08, 0.0), "faster (before the hypervisor took 0.08 cores: measure again)"),
        (0.8, (0.05, 0.08), "slower "),
        (0.8, (0.08, 0.0), "slower "),
        (0.8, (None, 0.08), "slower "),
        (1.0, (0.0, 0.08), "same "),
    ],
)
def test_a_comparison_says_what_else_made_the_slower_run_slow(
    run, written, kept, bench, factor, stolen, doubt
):
    """The hypervisor took cores of one run; where it did so in both, in the faster, or perhaps in
    both, it is no excuse.
    """
    records = [with_rounds(bench, kept[2], [0.1] * 5) for _ in range(2)]
    for record, cores, times in zip(records, stolen, (1, factor)):
        numbers = record["timings"]["device"]["statistics"]
        numbers |= {n: times * v for n, v in numbers.items() if n.startswith("fps_undisturbed")}
        numbers |= {"stolen_cores": cores} if cores is not None else {}
        record["gpu"] = {"driver": "580", "compute_capability": "9.0"}
    before, now = written(records[:1], "before.jsonl"), written(records[1:])
    ran = run(now, f"--compare={before}", "--fail_slower=5")
    assert doubt in ran.stdout.replace("\n", " ") and ("hypervisor" in ran.stdout) == ("(" in doubt)
    assert ran.returncode == (3 if doubt.startswith("slower") else 0), "in doubt it fails too"


@pytest.mark.parametrize(("factor", "status"), [(0.7, 3), (0.96, 0), (1.3, 0)])
def test_fail_slower(run, written, kept, factor, status):
    new = written([scaled(kept[2], factor)])
    assert run(new, f"--compare={KEPT}", "--fail_slower=5").returncode == status


def test_a_case_that_fails_now_fails_ci(run, written, kept):
    new = written([{**kept[2], "status": "failed", "error": "out of memory", "timings": {}}])
    ran = run(new, f"--compare={KEPT}", "--fail_slower=5")
    assert ran.returncode == 3
    assert "fails now: out of memory" in ran.stdout
    ran = run(new, f"--compare={KEPT}")
    assert (ran.returncode, ran.stderr) == (0, "")


def version_2(record):
    """The record as version 2 has it: its graph's tensors and its agreement by output."""
    own = {"record": 2, "device_kind": record["device"], "first_image": "image.jpg"}
    record = copy.deepcopy({**own, **record, "record": 2})
    graph = record["graph"]
    shape, source, sink = (graph.pop(name) for name in ("shape", "input", "output"))
    tensor = {"dtype": "float32", "op": "", "key": ""}
    graph["inputs"] = [{**tensor, "name": source, "shape": shape}]
    graph["outputs"] = [{**tensor, "name": sink, "shape": [None, 1000], "op": "Softmax"}]
    record["kinds"] = {sink: "probabilities"}
    if "agreement" in record:
        same = {
            "kind": "probabilities",
            "snr_db": 30.0,
            "same": 1,
            "decided": 1,
            "undecided": 0,
            "changed": [],
        }
        record["agreement"] = {
            "images": 1,
            "same_model": True,
            "outputs": {sink: {**same, **record["agreement"]}},
        }
    validate(record)
    return record


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ([None, 1000], "top-1 50.0%, top-5 100.0% of 8 images"),
        ([None, 6], "top-1 50.0%, top-5 100.0% of 8 images"),
        ([None, 5], "top-1 50.0% of 8 images"),
        ([None, 1, 3], "top-1 50.0% of 8 images"),
        ([None, None], "top-1 50.0%, top-5 100.0% of 8 images"),
        (None, "top-1 50.0%, top-5 100.0% of 8 images"),
    ],
)
def test_the_first_five_of_five_classes_are_not_told(report, kept, shape, said):
    """They are all that there are; a box beside the classes has no say."""
    record = version_2(kept[0])
    record["accuracy"] = {"top1": 0.5, "top5": 1.0, "images": 8}
    (sink,) = record["graph"]["outputs"]
    box = {**sink, "name": "box:0", "shape": [None, 4]}
    record["graph"]["outputs"] = [box, {**sink, "shape": shape}]
    record["kinds"]["box:0"] = "values"
    validate(record)
    (line,) = report.accuracy_lines([msgspec.convert(record, report.Record)])
    assert line == f"native 4: accuracy {said}"


def test_the_two_versions_are_compared(run, written, kept):
    ran = run(written([version_2(record) for record in kept]), f"--compare={KEPT}")
    assert ran.returncode == 0, ran.stderr
    text = " ".join(ran.stdout.split())
    assert "34.6* 1.5 34.8 2.48x ±0.19 115.48 148.66 1/1 30 25.8 5.2" in text
    assert ran.stdout.count("1.000") == 4 and "not comparable" not in ran.stdout


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"device": "GPU Y"}, "other device"),
        ({"engine_version": "1.33.0"}, "other engine_version"),
        ({"input_dtype": "uint8"}, "other input_dtype"),
        ({"graph": {"sha256": "0" * 64}}, "other graph sha256"),
        ({"graph": {"shape": [None, 64, 64, 3]}}, "other input shape (224x224x3, now 64x64x3)"),
        ({"flags": {"tf32": False}}, "other flags tf32"),
        ({"batch_size": 5}, "no such case before"),
    ],
)
def test_not_comparable_is_named(run, written, kept, change, why):
    record = copy.deepcopy(kept[2])
    for name, value in change.items():
        record[name] = {**record[name], **value} if isinstance(value, dict) else value
    ran = run(written([record]), f"--compare={KEPT}", "--fail_slower=5")
    assert ran.returncode == 2, "CI is not green where nothing was compared"
    assert ran.stderr.count("\n") == 1 and "no case could be compared: FP16 onnx" in ran.stderr
    assert why in ran.stderr and "keep a new file" in ran.stderr
    assert "not comparable: " in ran.stdout
    assert why in " ".join(ran.stdout.split())
    assert run("results.jsonl", f"--compare={KEPT}").returncode == 0
    one = [record, kept[0]]
    assert run(written(one), f"--compare={KEPT}", "--fail_slower=5").returncode == 0


def verdicts(text):
    """The lines of a comparison, by case."""
    lines = text.split("verdict\n")[1].split("\n\n")[0].splitlines()
    return {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}


def test_cases_that_did_not_run_now_are_named(run, written, kept):
    """Which is no failure by itself; one that is named as of another device is not named again."""
    moved = {**kept[1], "device": "GPU Y"}
    ran = run(written([kept[0], moved]), f"--compare={KEPT}", "--fail_slower=5")
    assert ran.returncode == 0, ran.stderr
    there = " on AMD EPYC, 2 threads"
    assert {case: said for case, said in verdicts(ran.stdout).items() if "same" not in said} == {
        "FP32 onnxruntime 4 on GPU Y": f"not comparable: other device ({there[4:]}, now GPU Y)",
        "FP16 onnxruntime 4" + there: "not run now",
        "INT8 onnxruntime 4" + there: "not run now",
    }


def test_a_gate_says_that_all_fail_now_where_nothing_can_be_drawn(run, written, kept, tmp_path):
    broken = [{**record, "status": "failed", "error": "boom", "timings": {}} for record in kept]
    picture = f"--output={tmp_path / 'report.png'}"
    ran = run(written(broken), f"--compare={KEPT}", "--fail_slower=5", picture)
    assert ran.returncode == 3 and ran.stdout.count("fails now: boom") == len(kept)


def test_a_case_has_the_native_of_its_own_settings(report, kept):
    """Where the record itself does not say how many times native it is, as of separate runs."""
    native, other = ({**record, "times_native": None} for record in kept[:2])
    made = [
        with_flags(scaled(native, factor), tf32=tf32) for factor, tf32 in ((1, False), (3, True))
    ]
    made += [with_flags(other, tf32=False)]
    rows = report.rows_of([report.decode(json.dumps(one).encode(), report.Record) for one in made])
    (row,) = [row for row in rows if row.record.precision != "native"]
    assert row.native.flags["tf32"] is False
    assert "onnxruntime, tf32=False, " in report.rating_text(row)


def test_inputs_in_other_places_are_not_comparable(run, written, kept):
    new = {**kept[0], "timings": {"host": kept[0]["timings"]["device"]}}
    ran = run(written([new]), f"--compare={KEPT}")
    assert "native 4 " in ran.stdout and "other inputs (device, now host)" in ran.stdout


def test_cases_are_compared_with_those_of_their_settings(run, written, kept):
    """The newest of other settings is no partner where there is one of the same."""
    names = ("vgg", "caffe", "torch")
    vgg, caffe, torch = (with_flags(kept[0], preprocessing=name) for name in names)
    old = written([scaled(vgg, 0.5), caffe], "old.jsonl")
    ran = run(written([vgg, torch]), f"--compare={old}")
    why = "not comparable: other flags preprocessing (caffe, now torch)"
    assert verdicts(ran.stdout)["native 4, torch"] == why
    assert re.search(r"native 4, vgg +2\.000 ", ran.stdout), ran.stdout
    assert "native 4, caffe" not in verdicts(ran.stdout), "named in torch's row"


def fed(record, *shapes):
    """The record as of version 2, with inputs of these shapes."""
    record = version_2(record)
    (source,) = record["graph"]["inputs"]
    inputs = [{**source, "name": f"{index}:0", "shape": s} for index, s in enumerate(shapes)]
    record["graph"]["inputs"] = inputs
    validate(record)
    return record


def test_other_input_shapes_are_other_cases(run, written, kept):
    """A row each, named by the shape, beside the native that was fed the same."""
    short, long = (
        [fed(record, [None, n], [None, n], []) for record in kept[:2]] for n in (16, 256)
    )
    path = written([*short, *(scaled(record, 0.1) for record in long)])
    text = " ".join(run(path).stdout.split())
    for name in ("native", "onnxruntime"):
        assert f" {name}, input_shape=16 4 " in text, text
        assert f" {name}, input_shape=256 4 " in text, text
    assert "trend" not in text and text.count("1.42x") >= 2


def test_a_native_that_was_fed_other_shapes_is_none_of_a_case(run, written, kept):
    native, fp32 = fed(kept[0], [None, 16]), fed(kept[1], [None, 256])
    assert "1.42x" not in run(written([native, fp32])).stdout
    assert "1.42x" in run(written([native, fed(kept[1], [None, 16])])).stdout


def test_records_that_leave_shapes_open_stay_comparable(run, written, kept):
    """Version 2 told the shapes of samples and of open images later than others."""
    before, now = fed(kept[1], [None, None]), fed(kept[1], [None, 16])
    old = written([before], "old.jsonl")
    assert verdicts(run(written([now]), f"--compare={old}").stdout)["FP32 onnxruntime 4"] == (
        "same (as far as 1 round can tell)"
    )
    text = run(old, written([scaled(now, 2)])).stdout
    assert "+100.0% (1)" in text and "input_shape" not in text, "one row with its trend"
    several = run(written([now, fed(kept[1], [None, 256])]), old).stdout
    assert "(1)" not in several, "nobody knows which of them it was"


def test_each_input_shape_has_an_answer(answers, kept):
    """Of one answer the smallest would always be the fastest."""
    (native, fp32), (long_native, long) = (
        [fed(scaled(record, factor), [None, side]) for record in kept[:2]]
        for side, factor in ((16, 8), (256, 1))
    )
    lines = answers([native, fp32, long_native, long])
    assert [line.partition(":")[0] for line in lines] == [
        "Fastest at batch 4, input_shape=16",
        "Fastest at batch 4, input_shape=256",
    ]
    for others in ([native], [native, fp32]):
        *_, line = answers([*others, long])
        assert line.startswith("Times native at batch 4, input_shape=256: not measured; --native")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_record_of_before_is_compared_with_that_of_its_settings(run, written, kept, swapped):
    """It leaves the shape open; the newest of any settings was taken, and not comparable."""
    before, now = (
        [fed(with_flags(kept[1], preprocessing=each), shape) for each in ("vgg", "caffe")]
        for shape in ([None, None], [None, 16])
    )
    old, new = (now, before) if swapped else (before, now)
    ran = run(written(new, "new.jsonl"), f"--compare={written(old, 'old.jsonl')}")
    found = verdicts(ran.stdout)
    assert set(found) == {"FP32 onnxruntime 4, vgg", "FP32 onnxruntime 4, caffe"}
    assert set(found.values()) == {"same (as far as 1 round can tell)"}


def test_a_comparison_of_several_networks_names_them(run, written, kept):
    old = written([*kept, *other_model(kept[:1])], "old.jsonl")
    ran = run(written([kept[0], *other_model(kept[:1])]), f"--compare={old}")
    assert list(verdicts(ran.stdout))[:2] == ["frozen_graph.pb native 4", "other.pb native 4"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}\n", "is no results.jsonl"),
        ("not json\n", "is no results.jsonl"),
        ("\n=====\nnetwork: native_net.pb\n", "is no results.jsonl"),
        ("not json\n@kept\n", "line 1: no record of tensorrt.py"),
        ('{"record": 1}\n', "remove the line"),
        ("@kept\n[1, 2]\n", "line 5"),
        ('@kept\n{"record": 99}\n', "version 99"),
        ("", "no records"),
        ("\x00\x01", "is no results.jsonl"),
    ],
)
def test_a_broken_or_foreign_file(run, tmp_path, text, words):
    (tmp_path / "results.jsonl").write_text(text.replace("@kept\n", KEPT.read_text()))
    for args in (["results.jsonl"], [str(KEPT), "--compare=results.jsonl"]):
        ran = run(*args)
        assert ran.returncode == 2
        assert ran.stderr.startswith("report.py: error: ")
        assert ran.stderr.count("\n") == 1
        assert "results.jsonl" in ran.stderr
        assert words in ran.stderr


def test_a_folder_stands_for_its_results(run, written, kept, tmp_path):
    (tmp_path / "run").mkdir()
    written(kept, "run/results.jsonl")
    assert run("run", "--compare=run").stdout.count("1.000") == len(kept)
    assert run("run").returncode == 0 and (tmp_path / "run" / "report.png").exists()
    (tmp_path / "above").mkdir()
    for args in (["above"], ["run", "--compare=above"]):
        ran = run(*args)
        assert ran.returncode == 2 and ran.stderr.count("\n") == 1
        assert "above is a folder without a results.jsonl" in ran.stderr
        assert "--history=above" in ran.stderr


def test_other_user_errors(run, tmp_path):
    error = "report.py: error: missing.jsonl: no such file: pass a results.jsonl\n"
    assert run("missing.jsonl").stderr == run(KEPT, "--compare=missing.jsonl").stderr == error
    ran = run(KEPT, "--output=report.doc")
    assert ran.returncode == 2 and "ends in .png" in ran.stderr and not ran.stdout
    ran = run("--history", "nope", KEPT)
    assert ran.returncode == 2 and "nope is no folder" in ran.stderr
    assert "cannot be written" in run(KEPT, "--output=missing/report.png").stderr
    assert run(KEPT, "--fail_slower=5").returncode == 2
    assert run("--version").stdout == "2.0\n"


def test_failed_cases_alone_are_a_table_without_a_picture(run, written, kept):
    ran = run(written([{**kept[0], "status": "failed", "error": "why", "timings": {}}]))
    assert ran.returncode == 2
    assert "failed" in ran.stdout
    assert "nothing to draw" in ran.stderr


def fleet(kept, factors):
    """One case on devices of one kind, each so many times as fast, with narrow intervals."""
    records = []
    for index, factor in enumerate(factors):
        record = scaled(
            kept[0], factor, device=f"GPU (node-{index})", device_kind="GPU", node=f"node-{index}"
        )
        numbers = record["timings"]["device"]["statistics"]
        numbers |= {
            "fps_low": 0.99 * numbers["fps_median"],
            "fps_high": 1.01 * numbers["fps_median"],
        }
        records.append(record)
    return records


@pytest.fixture
def slowest_lines(report):
    return lambda records: report.slowest_lines(msgspec.convert(records, list[report.Record]))


@pytest.mark.parametrize(
    ("factors", "slowest"),
    [
        ((1, 1, 0.9, 1), "node-2"),
        ((0.9, 1), "node-0"),
        ((1, 1, 0.985, 1), None),
        ((1, 1.2), "node-0"),
        ((1,), None),
    ],
)
def test_the_slowest_device_of_a_fleet(slowest_lines, kept, factors, slowest):
    lines = slowest_lines(fleet(kept, factors))
    assert [re.search(r"node-\d", line).group() for line in lines] == ([slowest] if slowest else [])


def test_the_slowest_device_has_the_setting_in_its_case_s_name(slowest_lines, kept):
    names = "vgg", "caffe"
    records = [with_flags(one, preprocessing=name) for name in names for one in fleet(kept, (1, 9))]
    assert [line.split(":")[0] for line in slowest_lines(records)] == [
        "native 4, vgg",
        "native 4, caffe",
    ]


def test_a_noisy_device_is_not_called_slow(slowest_lines, kept):
    records = fleet(kept, (1, 1, 0.9))
    records[2]["timings"]["device"]["statistics"]["fps_high"] *= 1.2
    assert slowest_lines(records) == []


def test_other_kinds_and_other_cases_are_not_compared(slowest_lines, kept):
    records = fleet(kept, (1, 0.5, 0.5))
    records[1]["device_kind"], records[2]["batch_size"] = "other GPU", 64
    assert slowest_lines(records) == []


def test_what_ran_together_is_said_once(run, written, kept):
    records = fleet(kept, (1, 1))
    for record in records:
        record["together"] = {
            "devices": ["GPU (gpu0)", "GPU (gpu1)"],
            "throughput": {"device": 1234.5},
        }
        del record["node"]
        validate(record)
    ran = run(written(records))
    assert ran.stdout.count("native 4: 1,234.5 images/s burst on 2 devices together") == 1


def test_history_takes_the_files_of_several_folders(run, written, kept, tmp_path):
    for index, record in enumerate(fleet(kept, (1, 0.8))):
        (tmp_path / f"array-{index}" / "deeper").mkdir(parents=True)
        written([record], f"array-{index}/deeper/results.jsonl")
    (tmp_path / "array-1" / "results.jsonl").touch()  # of a run that ended before its first record
    ran = run("--history", "array-0", "array-1", "--output=all.html")
    assert ran.returncode == 0, ran.stderr
    assert (
        "GPU (node-0)" in ran.stdout and "GPU (node-1) is the slowest of 2 GPU: 0.800" in ran.stdout
    )
    (tmp_path / "empty").mkdir()
    assert "no results.jsonl" in run("--history", tmp_path / "empty").stderr
    assert run().returncode == 2


def test_a_reader_that_stops_is_no_error():
    words = f"{sys.executable} {ROOT / 'report.py'} {KEPT} --compare={KEPT} | head -1"
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], capture_output=True, text=True, timeout=100
    )
    assert ran.stderr == ""


@pytest.mark.parametrize("name", ["snr_db", "top1"])
def test_numbers_that_are_none_are_left_out(run, written, kept, name):
    """Older versions wrote NaN, which is no JSON, where a network's outputs were none."""
    record = judged(kept[3], "logits", 7, 8) if name == "snr_db" else kept[3]
    found = record["agreement"]
    found = found["outputs"]["Identity:0"] if name == "snr_db" else found
    found[name] = math.nan
    ran = run(written([kept[0], record]), "--output=page.html")
    assert ran.returncode == 0, ran.stderr
    assert "INT8 in onnxruntime" in ran.stdout


@pytest.mark.parametrize(
    "change",
    [
        {"timings": {"device": {"seconds": [math.nan]}}},
        {"timings": {"device": {"seconds": []}}},
        {"timings": []},
        {"batch_size": 0},
        {"batch_size": 10**400},
        {"precision": "fp5"},
        {"notes": [1]},
        {"agreement": {"top1": "all"}},
        {"together": {"devices": ["a"], "throughput": {"device": -1}}},
    ],
)
def test_a_record_of_wrong_numbers_or_types(run, written, kept, change):
    """One line that names the line and the field."""
    record = copy.deepcopy(kept[3])
    for name, value in change.items():
        if isinstance(value, dict) and "device" in value:
            value = {"device": {**record[name]["device"], **value["device"]}}
        record[name] = value
    ran = run(written([kept[0], record]), "--output=page.html")
    assert ran.returncode == 2, ran.stdout
    assert ran.stderr.count("\n") == 1 and "line 2: no record of tensorrt.py (" in ran.stderr


def test_a_table_is_cut_in_a_terminal_only(report, kept, monkeypatch, capsys):
    """Where stdout is no terminal every column is whole, whatever COLUMNS says."""
    monkeypatch.setenv("COLUMNS", "50")
    report.print_records(kept)
    whole = rows_in(capsys.readouterr().out, "INT8")
    monkeypatch.setattr(report.sys.stdout, "isatty", lambda: True, raising=False)
    report.print_records(kept)
    cut = rows_in(capsys.readouterr().out, "INT8")
    assert [len(row) for row in cut] == [50] and cut[0].endswith("…")
    assert whole[0].startswith(cut[0][:-1]) and whole[0].endswith(" 5.2")
