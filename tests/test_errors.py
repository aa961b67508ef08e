"""What a user can get wrong: one line that says what to do, no traceback, the right exit status."""

import io
import os
import re
import tarfile
import threading
import types
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def one_error(ran, status=2):
    lines = [line for line in ran.err.splitlines() if "error:" in line]
    assert ran.status == status, ran.err
    assert len(lines) == 1 and lines[0].startswith("tensorrt.py: error: "), ran.err
    assert "Traceback" not in ran.err + ran.out
    return lines[0]


@pytest.mark.parametrize(("flags", "words"), [
    (["--nonsense"], "nonsense"),
    (["--batch_size=0"], "--batch_size=0: pass a number"),
    (["--batch_size=1,x"], "--batch_size=x"),
    (["--num_loops=many"], "num_loops"),
    (["--engine=warp"], "--engine=warp: no such engine"),
    (["--inputs=disk"], "inputs"),
    (["stray"], "'stray' is no flag"),
    (["--image_file=a", "--image_dir=b"], "exclude each other"),
    (["--frozen_graph=/no/such.pb"], "No such file"),
    (["--frozen_graph=/"], "is a folder"),
    (["--frozen_graph=ftp://x/y.pb"], "only http:// and https://"),
    (["--savedmodel_dir=/no/such"], "saved_model.pb"),
    (["--keras_model=/no/such.keras"], "no such file"),
])  # fmt: skip
def test_flags_and_paths(main, flags, words):
    assert words in one_error(main(*flags))


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"),
    (b"\x89HDF\r\n\x1a\n....", "HDF5"),
    (b"PK\x03\x04....", ".keras"),
    (b"<html>", "web page"),
    (b"\x1c\x00\x00\x00TFL3...", "TensorFlow Lite"),
    (b"node {\n name: 'x'}", "text format"),
    (bytes(range(256)), "truncated or no GraphDef"),
])  # fmt: skip
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


def test_unknown_node_offers_the_closest(main, forms):
    line = one_error(main(f"--frozen_graph={forms['frozen_graph']}", "--input_node=input_tenso"))
    assert "input_tensor" in line and "--input_node" in line


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


def test_an_image_that_is_none(main, forms, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"not an image")
    line = one_error(main(f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none", f"--image_file={path}"))
    assert "no JPEG, PNG, GIF or BMP" in line


def test_a_preprocessing_for_colours_on_a_grey_network(main, forms):
    assert "--preprocessing=none" in one_error(main(f"--frozen_graph={forms['frozen_graph']}"))


def test_output_dir_is_found_out_before_the_measuring(bench, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    status = bench.main(["tensorrt.py", f"--output_dir={tmp_path / 'file' / 'inside'}"])
    ran = types.SimpleNamespace(status=status, err=capsys.readouterr().err, out="")
    assert "cannot be written" in one_error(ran)


def test_out_of_memory_suggests_a_smaller_batch(bench, monkeypatch):
    def fail(job, clock=None):
        raise RuntimeError("OOM when allocating tensor with shape[1024,64]")

    monkeypatch.setattr(bench, "run_case", fail)
    result = bench.attempt(types.SimpleNamespace(case=bench.Case("native", "native", 1024)))
    assert result.status == "failed" and "smaller --batch_size" in result.error


def test_no_engine_is_one_failed_row(main, forms, bench, monkeypatch):
    monkeypatch.setattr(bench, "AUTO", ("xla",))
    ran = main(
        f"--frozen_graph={forms['frozen_graph']}", "--preprocessing=none", "--native", "--int8", "--batch_size=2"
    )
    native, int8 = ran.records
    assert ran.status == 1 and native["status"] == "ok"
    assert int8["status"] == "failed" and "xla has no INT8" in int8["error"]


def test_unwritable_log_from_the_command_line(command, tmp_path):
    (tmp_path / "log.txt").mkdir()
    ran = command(f"--output_dir={tmp_path}")
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("tensorrt.py: error: --output_dir=")


# ------------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a local server with the handler and returns its address; downloads are cached below tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


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
    path = bench.fetch(url)
    assert path.read_bytes() == forms["frozen_graph"].read_bytes()
    assert (tmp_path / "cache" / "tensorrt-benchmark") in path.parents and bench.fetch(url) == path
    assert not list(path.parent.glob("*.part"))


def test_a_broken_download_is_gone_on_with(bench, serve):
    data, log = bytes(range(256)) * 4000, []
    url = serve(answering(data, sent=300_000, ranges=True, log=log)) + "/net.pb"
    assert bench.fetch(url).read_bytes() == data
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
    with pytest.raises(bench.UserError, match="broken off"):
        bench.fetch(url)
    cached = (Path(os.environ["XDG_CACHE_HOME"]) / "tensorrt-benchmark").iterdir()
    assert [path.suffix for path in cached] == [".part"]


def test_error_status_and_web_page_are_refused(bench, serve):
    with pytest.raises(bench.UserError, match="answered 404"):
        bench.fetch(serve(answering(b"no", status=404)) + "/net.pb")
    with pytest.raises(bench.UserError, match="is a web page"):
        bench.fetch(serve(answering(b"<html>", kind="text/html; charset=utf-8")) + "/net.pb")


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
    assert (bench.fetch_savedmodel(url) / "saved_model.pb").read_bytes() == b"pb"


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python unpacks nothing")
def test_an_archive_that_climbs_out_is_refused(bench, serve, tmp_path):
    url = serve(answering(archive({"../../evil": b"x", "saved_model.pb": b""}))) + "/model.tar.gz"
    with pytest.raises(bench.UserError, match="unpacked safely"):
        bench.fetch_savedmodel(url)
    assert not list(tmp_path.rglob("evil"))


# -------------------------------------------------------------------------------------------------------- the name


def test_the_script_does_not_hide_the_package(bench, command, tmp_path):
    """`import tensorrt` inside the script finds the package of that name, wherever the script is run from."""
    package = tmp_path / "site" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '10.99.0'\n")
    for folder in (Path(bench.__file__).parent, tmp_path):
        ran = command("--doctor", cwd=folder, env={"PYTHONPATH": str(tmp_path / "site")})
        assert ran.returncode == 0, ran.stderr
        assert "tensorrt 10.99.0" in ran.stdout


def test_help_needs_no_tensorflow(command, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    ran = command("--help", env={"PYTHONPATH": str(tmp_path)})
    assert ran.returncode == 0 and "--frozen_graph" in ran.stdout and "Exit status" in ran.stdout
