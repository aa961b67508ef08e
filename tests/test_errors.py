"""What a user can get wrong: one line that says what to do, no traceback, the right exit status."""

import contextlib
import importlib.util
import io
import os
import re
import tarfile
import types
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from helpers import ROOT, serving


def one_error(ran, status=2):
    lines = [line for line in ran.err.splitlines() if "error:" in line]
    assert ran.status == status, ran.err
    assert len(lines) == 1 and lines[0].startswith("tensorrt.py: error: "), ran.err
    assert "Traceback" not in ran.err + ran.out
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--nonsense"], "nonsense"),
        (["--batch_size=0"], "--batch_size=0: pass a number"),
        (["--batch_size=1,x"], "--batch_size=x"),
        (["--num_loops=many"], "--num_loops=many: pass a whole number, or auto"),
        (["--num_warmup=few"], "--num_warmup=few: pass a whole number, or auto"),
        (["--seed=x"], "--seed=x: pass a whole number (--help"),
        (["--fp16=flase"], "--fp16=flase: pass true or false (--help"),
        (["--precision=fp16"], "pass --native, --fp32, --fp16 or --int8"),
        (["--engine=warp"], "--engine=warp: no such engine"),
        (["--inputs=disk"], "inputs"),
        (["stray"], "'stray' is not a flag"),
        (["--image_file=a", "--image_dir=b"], "exclude each other"),
        (["--frozen_graph=/no/such.pb"], "No such file"),
        (["--frozen_graph=/"], "is a folder"),
        (["--frozen_graph=ftp://x/y.pb"], "only http:// and https://"),
        (["--savedmodel_dir=/no/such"], "saved_model.pb"),
        (["--keras_model=/no/such.keras"], "no such file"),
    ],
)
def test_flags_and_paths(main, flags, words):
    assert words in one_error(main(*flags))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89HDF\r\n\x1a\n....", "HDF5"),
        (b"PK\x03\x04....", ".keras"),
        (b"<html>", "web page"),
        (b"\x1c\x00\x00\x00TFL3...", "TensorFlow Lite"),
        (b"node {\n name: 'x'}", "text format"),
        (bytes(range(256)), "truncated, or not a GraphDef"),
    ],
)
def test_foreign_graph_files(main, tmp_path, content, words):
    path = tmp_path / "x.pb"
    path.write_bytes(content)
    assert words in one_error(main(f"--frozen_graph={path}"))


def test_truncated_graph(main, forms, tmp_path):
    path = tmp_path / "cut.pb"
    whole = forms["frozen_graph"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert re.search("truncated|damaged|cannot tell", one_error(main(f"--frozen_graph={path}")))


def test_savedmodel_given_as_frozen_graph_is_named(main, forms):
    line = one_error(main(f"--frozen_graph={forms['tf2'] / 'saved_model.pb'}"))
    assert f"--savedmodel_dir={forms['tf2']}" in line


def test_a_keras_file_given_as_savedmodel_is_named(main, forms):
    for name in ("keras", "h5"):
        line = one_error(main(f"--savedmodel_dir={forms[name]}"))
        assert f"--keras_model={forms[name]}" in line


def test_weights_alone_are_named(main, network, tmp_path):
    path = tmp_path / "net.weights.h5"
    network.save_weights(path)
    line = one_error(main(f"--keras_model={path}"))
    assert line.endswith("it holds weights only: save the whole model with model.save")


def test_unknown_node_offers_the_closest(main, forms):
    line = one_error(main(f"--frozen_graph={forms['frozen_graph']}", "--input_node=input_tenso"))
    assert "input_tensor" in line and "--input_node" in line
    line = one_error(main(f"--frozen_graph={forms['frozen_graph']}", "--output_node=foo"))
    assert "closest: Identity" in line and "--output_node" in line


def test_a_range_for_no_input_is_refused(main, net):
    """Of images too, whose random pixels have no range to set."""
    said = "--input_range has no effect on images: random pixels are 0 to 255"
    assert said in main(*net, "--input_range=input_tensor:0:1", "--build_only").err
    line = one_error(main(*net, "--input_range=foo:0:1"))
    assert line.endswith("there are: input_tensor [?, 8, 8, 1] float32)")


def test_savedmodel_without_serving_tag_or_signature(main, tmp_path):
    import tensorflow as tf

    v1 = tf.compat.v1
    for name, tags, signatures in (("tag", ["train"], None), ("signature", ["serve"], {})):
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            v1.get_variable("v", initializer=1.0)
            session.run(v1.global_variables_initializer())
            builder = v1.saved_model.Builder(str(tmp_path / name))
            builder.add_meta_graph_and_variables(session, tags, signatures)
            builder.save()
    assert "tags found: train" in one_error(main(f"--savedmodel_dir={tmp_path / 'tag'}"))
    assert "no signature" in one_error(main(f"--savedmodel_dir={tmp_path / 'signature'}"))


def test_which_of_several_signatures_is_taken_is_said(main, tmp_path):
    import tensorflow as tf

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
        def double(self, values):
            return values * 2

    module = Module()
    flags = (f"--savedmodel_dir={tmp_path / 'export'}", "--build_only", "--batch_size=2")

    def said(*names):
        signatures = dict.fromkeys(names, module.double.get_concrete_function())
        tf.saved_model.save(module, str(tmp_path / "export"), signatures)
        ran = main(*flags)
        assert ran.status == 0, ran.err
        return [line for line in ran.err.splitlines() if "signature" in line]

    (line,) = said("score", "encode", "decode")  # else one by chance, another in each process
    assert "no signature serving_default: decode is taken of decode, encode, score;" in line
    assert said("encode", "serving_default") == said("encode") == []


def test_an_image_that_is_none(main, net, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"not an image")
    line = one_error(main(*net, f"--image_file={path}"))
    assert "is not a complete JPEG, PNG, GIF or BMP" in line


def test_a_preprocessing_for_colours_on_a_grey_network(main, forms):
    flags = [f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=vgg"]
    assert "pass --preprocessing=none" in one_error(main(*flags))


def test_an_unset_variable_is_no_model(main):
    assert "--frozen_graph= is empty" in one_error(main("--frozen_graph="))
    assert "--engine= is empty" in one_error(main("--fp16", "--engine="))
    assert "--engine= is empty" in one_error(main("--fp16", "--engine=xla,"))


def test_a_calibration_folder_is_looked_at_before_the_measuring(main, net, tmp_path):
    flags = [*net, "--native", "--int8", "--batch_size=2"]
    assert "no such folder" in one_error(main(*flags, "--calibration_dir=missing"))
    (tmp_path / "empty").mkdir()
    ran = main(*flags, f"--calibration_dir={tmp_path / 'empty'}")
    assert "holds no JPEG" in one_error(ran)
    assert not ran.records


def test_a_class_id_that_the_network_has_not_gets_a_sentence(main, net):
    ran = main(*net, "--batch_size=2", "--label=5000")
    assert "class id 5000 is none of the network's 10 classes" in ran.out


def test_output_dir_is_found_out_before_the_measuring(bench, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status = bench.main(["tensorrt.py", f"--output_dir={tmp_path / 'file' / 'inside'}"])
    ran = types.SimpleNamespace(status=status, err=capsys.readouterr().err, out="")
    assert "cannot be written" in one_error(ran)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Graph execution error:\n\nDetected at node x defined at (most recent call last):\n"
            "<stack traces unavailable>\nindices[0] = 851 is not in [[0, 100]]\n\t [[{{node x}}]]",
            "indices[0] = 851 is not in [[0, 100]]",
        ),
        (
            "Graph execution error:\n\nDetected at node 'x' defined at (most recent call last):\n"
            "  File \"a.py\", line 1, in f\n    g()\nNode: 'x'\nOut of memory.\n  Buffer 1:\n"
            "====\n\t [[{{node x}}]]",
            "Out of memory",
        ),
        (
            "2 root error(s) found.\n  (0) UNKNOWN:  No engine.\n\t [[{{node x}}]]\n  (1) No",
            "UNKNOWN: No engine",
        ),
    ],
)
def test_tensorflow_s_reason_is_told_without_its_call_stack(bench, text, words):
    assert bench.one_line(text) == words


def test_out_of_memory_suggests_a_smaller_batch(bench):
    with pytest.raises(bench.CaseError, match="smaller --batch_size"), bench.failures_in_one_line():
        raise RuntimeError("OOM when allocating tensor with shape[1024,64]")


def test_no_engine_is_one_failed_row(main, net, bench, monkeypatch):
    monkeypatch.setattr(bench, "AUTO", ("xla",))
    ran = main(*net, "--native", "--int8", "--batch_size=2")
    native, int8 = ran.records
    assert ran.status == 1 and native["status"] == "ok"
    assert int8["status"] == "failed" and "xla has no INT8" in int8["error"]


def test_a_precision_that_an_engine_never_has_is_left_to_the_others(main, net):
    """It was a failed row, and exit status 1."""
    ran = main(*net, "--fp32", "--int8", "--engine=xla,onnxruntime", "--batch_size=2")
    assert ran.status == 0, ran.err
    cases = [(record["precision"], record["engine"]) for record in ran.records]
    assert cases == [("fp32", "xla"), ("fp32", "onnxruntime"), ("int8", "onnxruntime")]
    assert ran.err.count("xla has no INT8: it is left to onnxruntime") == 1
    alone = main(*net, "--int8", "--engine=xla", "--batch_size=2")
    assert alone.status == 1 and "xla has no INT8" in alone.records[-1]["error"]


def test_unwritable_log_from_the_command_line(command, tmp_path):
    (tmp_path / "log.txt").mkdir()
    ran = command(f"--output_dir={tmp_path}")
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("tensorrt.py: error: --output_dir=")


# ---------------------------------------------------------------------------------------- downloads


@pytest.fixture
def serve(tmp_path, monkeypatch, no_proxy):
    """Starts a local server with the handler and returns its address; downloads are cached below
    tmp_path.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with contextlib.ExitStack() as servers:
        yield lambda handler: servers.enter_context(serving(handler))


def answering(data, sent=None, kind="application/octet-stream", ranges=False, status=200, log=None):
    """A handler that announces len(data) bytes and sends `sent` of them the first time."""
    first = [True]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            start = int(self.headers["Range"][6:-1]) if ranges and "Range" in self.headers else 0
            if log is not None:
                log.append(start)
            self.send_response(206 if start else status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:sent] if sent and first[0] else data[start:])
            first[0] = False

        def log_message(self, *args):
            pass

    return Handler


def test_a_graph_is_downloaded_once(bench, serve, tmp_path, forms):
    folder = forms["frozen_graph"].parent
    url = serve(partial(SimpleHTTPRequestHandler, directory=str(folder))) + "/net.pb"
    path = bench.fetch(url, 100)
    assert path.read_bytes() == forms["frozen_graph"].read_bytes()
    assert (tmp_path / "cache" / "tensorrt-benchmark") in path.parents and bench.fetch(
        url, 100
    ) == path
    assert not list(path.parent.glob("*.part"))


def test_a_broken_download_is_gone_on_with(bench, serve):
    data, log = bytes(range(256)) * 4000, []
    url = serve(answering(data, sent=300_000, ranges=True, log=log)) + "/net.pb"
    assert bench.fetch(url, 100).read_bytes() == data
    assert log[0] == 0 and 0 < log[1] <= 300_000


def test_a_download_that_stays_short_is_refused(bench, serve):
    class Short(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, *args):
            pass

    url = serve(Short) + "/net.pb"
    with pytest.raises(bench.UserError, match="the download failed"):
        bench.fetch(url, 100)
    cached = (Path(os.environ["XDG_CACHE_HOME"]) / "tensorrt-benchmark").iterdir()
    assert [path.suffix for path in cached] == [".part"]


def test_error_status_and_web_page_are_refused(bench, serve):
    with pytest.raises(bench.UserError, match="answered 404"):
        bench.fetch(serve(answering(b"no", status=404)) + "/net.pb", 100)
    with pytest.raises(bench.UserError, match="is a web page"):
        bench.fetch(serve(answering(b"<html>", kind="text/html; charset=utf-8")) + "/net.pb", 100)


def archive(members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def test_an_archive_is_unpacked_and_its_folder_found(bench, serve):
    url = serve(answering(archive({"model/1/saved_model.pb": b"pb"}))) + "/model.tar.gz"
    assert (bench.fetch_savedmodel(url, 100) / "saved_model.pb").read_bytes() == b"pb"


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python unpacks nothing")
def test_an_archive_that_climbs_out_is_refused(bench, serve, tmp_path):
    url = serve(answering(archive({"../../evil": b"x", "saved_model.pb": b""}))) + "/model.tar.gz"
    with pytest.raises(bench.UserError, match="unpacked safely"):
        bench.fetch_savedmodel(url, 100)
    assert not list(tmp_path.rglob("evil"))


def test_a_slow_download_comes_whole(bench, serve):
    """Piece by piece, each flushed; the reader gets them when they come."""

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "3000")
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b"x" * 10)
                self.wfile.flush()

        def log_message(self, *args):
            pass

    assert bench.fetch(serve(Slow) + "/net.pb", 100).read_bytes() == b"x" * 3000


def test_redirects_are_followed_but_only_to_http(bench, serve):
    def redirecting(target):
        class Redirect(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()

            def log_message(self, *args):
                pass

        return Redirect

    assert (
        bench.fetch(
            serve(redirecting(serve(answering(b"model")) + "/net.pb")) + "/a.pb", 100
        ).read_bytes()
        == b"model"
    )
    with pytest.raises(bench.UserError, match="the download failed"):
        bench.fetch(serve(redirecting("file:///etc/passwd")) + "/b.pb", 100)
    for url in ("ftp://localhost/net.pb", "file:///etc/passwd"):
        with pytest.raises(bench.UserError, match="only http:// and https://"):
            bench.fetch(url, 100)


def test_too_much_is_refused(bench, serve):
    with pytest.raises(bench.UserError, match="over 1 MB"):
        bench.fetch(serve(answering(bytes(2 << 20))) + "/net.pb", 1)
    bomb = archive({"saved_model.pb": b"", "variables": bytes(5 << 20)})
    assert len(bomb) < 1 << 20
    with pytest.raises(bench.UserError, match="unpacked, is over 1 MB"):
        bench.fetch_savedmodel(serve(answering(bomb)) + "/model.tar.gz", 1)
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "tensorrt-benchmark"
    assert not [path for path in cache.iterdir() if path.is_dir()], "nothing was left unpacked"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
def test_an_archive_with_links_out_is_refused(bench, serve, kind, target):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        info = tarfile.TarInfo("saved_model.pb")
        info.type, info.linkname = kind, target
        tar.addfile(info)
    with pytest.raises(bench.UserError, match="unpacked safely"):
        bench.fetch_savedmodel(serve(answering(data.getvalue())) + "/model.tar.gz", 100)


def test_absolute_paths_stay_in_the_cache(bench, serve, tmp_path):
    outside = tmp_path / "outside"
    url = serve(answering(archive({str(outside): b"x", "saved_model.pb": b""}))) + "/model.tar.gz"
    bench.fetch_savedmodel(url, 100)  # the data filter strips the leading slash
    assert not outside.exists()


@pytest.mark.parametrize("content", [b"\x1f\x8b" + bytes(range(200)), b"not gzip", b""])
def test_an_archive_that_is_none(bench, serve, content):
    with pytest.raises(bench.UserError, match="unpacked safely"):
        bench.fetch_savedmodel(serve(answering(content)) + "/model.tar.gz", 100)


def test_tls_is_verified_and_no_code_is_run_from_files():
    """Verification is never switched off, and neither pickle, eval nor a shell is in the
    programs.
    """
    for name in ("tensorrt.py", "fleet.py", "report.py"):
        text = (ROOT / name).read_text()
        assert not re.search(
            r"verify\s*=|pickle|\beval\(|\bexec\(|os\.system|subprocess|shell=", text
        )


def test_a_lambda_layer_is_refused_unless_allowed(main, tmp_path):
    import tensorflow as tf

    layers = tf.keras.layers
    doubled = layers.Lambda(lambda x: x * 2)
    model = tf.keras.Sequential(
        [layers.Input((8, 8, 3)), doubled, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )
    model.save(tmp_path / "lambda.keras")
    flags = [f"--keras_model={tmp_path / 'lambda.keras'}", "--preprocessing=none", "--batch_size=2"]
    ran = main(*flags)
    assert ran.status == 2
    assert "holds Python code" in ran.err
    assert "--unsafe_model" in ran.err
    assert main(*flags, "--unsafe_model").status == 0


def test_ops_that_touch_files_are_refused_unless_allowed(main, graph_file, tmp_path):
    """In a frozen graph and, inside a function, in a SavedModel; nothing is written before the
    refusal.
    """
    import tensorflow as tf

    victim = tmp_path / "victim.txt"

    def build(tf, v1):
        images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="input_tensor")
        with tf.control_dependencies([tf.io.write_file(str(victim), "written")]):
            tf.reduce_mean(images, [1, 2], name="softmax_tensor")

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
        def __call__(self, images):
            tf.io.write_file(str(victim), "written")
            return tf.reduce_mean(images, [1, 2])

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "export"), signatures=module.__call__)
    frozen = f"--frozen_graph={graph_file(build)}"
    for model in (frozen, f"--savedmodel_dir={tmp_path / 'export'}"):
        ran = main(model, "--preprocessing=none", "--batch_size=2")
        assert ran.status == 2
        assert "holds WriteFile" in ran.err
        assert "--unsafe_model" in ran.err
    assert not victim.exists()
    assert main(frozen, "--preprocessing=none", "--batch_size=2", "--unsafe_model").status == 0
    assert victim.exists()


# ----------------------------------------------------------------------------------------- the name


NVML_OF_ONE_GPU = """
import types
nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = int
nvmlDeviceGetUUID = str
nvmlDeviceGetCudaComputeCapability = lambda handle: (9, 0)
nvmlDeviceGetName = lambda handle: "a GPU"
nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=1 << 30)
nvmlSystemGetDriverVersion = lambda: "1"
"""


def test_the_script_does_not_hide_the_package(bench, command, tmp_path):
    """`import tensorrt` inside the script finds the package of that name, wherever the script is
    run from.
    """
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '10.99.0'\n")
    (tmp_path / "site" / "pynvml.py").write_text(NVML_OF_ONE_GPU)
    for folder in (Path(bench.__file__).parent, tmp_path):
        ran = command("--doctor", cwd=folder, env={"PYTHONPATH": str(tmp_path / "site")})
        assert ran.returncode == 0, ran.stderr
        assert "tensorrt 10.99.0" in ran.stdout
        if importlib.util.find_spec("tensorrt_rtx"):
            assert "of two packages tensorrt is used: it takes every NVIDIA GPU" in ran.stdout


def test_help_needs_no_tensorflow(command, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    ran = command("--help", env={"PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 0 and "--frozen_graph" in ran.stdout and "Exit status" in ran.stdout
