"""Cases as tasks of a real Ray cluster: two nodes of this machine, one of which is killed in
mid-run.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import ROOT, agreement, table_of_processes, wait_for

pytestmark = pytest.mark.cluster
PROGRAM = str(ROOT / "fleet.py")


@pytest.fixture
def cluster():
    """Two nodes with a CPU each; the second can be removed."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def flags(cluster, forms, tmp_path):
    return [
        f"--frozen_graph={forms['frozen_graph']}",
        "--preprocessing=none",
        "--num_loops=20",
        "--batch_size=16",
        f"--ray_address={cluster.address}",
        f"--output_dir={tmp_path}",
    ]


def left_over():
    """The folders of cases on nodes; a node that is killed leaves its own."""
    return set(Path(tempfile.gettempdir()).glob("tensorrt_py_*/fleet.py"))


def records_in(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def case_below(ancestor):
    """Whether a case's process, forked by the fork server of a worker, is a descendant of
    this one.
    """
    table = table_of_processes()
    for parent, words in table.values():
        forked = b"forkserver" in words and b"forkserver" in table.get(parent, (0, b""))[1]
        while forked and parent in table:
            if parent == ancestor:
                return True
            parent = table[parent][0]
    return False


def kill_second_in_mid_run(cluster, words):
    """Starts the program, kills the second node's raylet once a case runs below it, and gives the
    ended program.
    """
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    (raylet,) = cluster.second.all_processes["raylet"]
    wait_for(lambda: case_below(raylet.process.pid), process, seconds=120)
    cluster.remove_node(cluster.second, allow_graceful=False)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def test_every_case_on_every_node(cluster, flags, tmp_path, command):
    before = left_over()
    ran = command(
        *flags, "--native", "--fp32", "--engine=onnxruntime", "--rounds=2", program="fleet.py"
    )
    assert ran.returncode == 0, ran.stderr
    records = records_in(tmp_path)
    nodes = {record["node"] for record in records}
    assert len(nodes) == 2 and len(records) == 4
    assert {(record["precision"], record["node"]) for record in records} == {
        (p, n) for p in ("native", "fp32") for n in nodes
    }
    for record in records:
        assert record["node"] in record["device"] and record["device"].startswith(
            record["device_kind"]
        )
        assert {"python", "tensorflow", "numpy", "ray"} <= record["versions"].keys()
        assert len(record["timings"]["device"]["seconds"]) == 20
        assert record["precision"] == "native" or agreement(record)["top1"] == 1.0
    for node in nodes:
        assert f"({node})" in ran.stdout  # a table for each
    assert left_over() == before


def test_spread_takes_each_case_once(flags, tmp_path, command):
    ran = command(
        *flags,
        "--native",
        "--fp32",
        "--engine=onnxruntime",
        "--spread",
        "--batch_size=4,16",
        program="fleet.py",
    )
    assert ran.returncode == 0, ran.stderr
    records = records_in(tmp_path)
    cases = [(record["precision"], record["batch_size"]) for record in records]
    assert sorted(cases) == [("fp32", 4), ("fp32", 16), ("native", 4), ("native", 16)]
    assert all(record["flags"]["spread"] for record in records)


def test_a_node_that_dies_costs_its_cases_a_retry_and_a_failed_row(cluster, flags, tmp_path):
    ran = kill_second_in_mid_run(cluster, [*flags, "--native", "--batch_size=4,16"])
    assert ran.returncode == 1, ran.stderr
    records = records_in(tmp_path)
    good = [record for record in records if record["status"] == "ok"]
    bad = [record for record in records if record["status"] == "failed"]
    assert sorted(record["batch_size"] for record in good) == [4, 16]
    assert bad and all("gave no answer" in record["error"] for record in bad)
    assert ran.stderr.count("tried once more") >= len(bad)
    assert "Traceback" not in ran.stderr


def test_spread_cases_of_a_dead_node_run_on_the_other(cluster, flags, tmp_path):
    ran = kill_second_in_mid_run(cluster, [*flags, "--native", "--spread", "--batch_size=2,4,8,16"])
    assert ran.returncode == 0, ran.stderr
    assert "tried once more" in ran.stderr
    assert sorted(record["batch_size"] for record in records_in(tmp_path)) == [2, 4, 8, 16]


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "auto", "nowhere"])
def test_no_cluster_there(command, tmp_path, address):
    ran = command(f"--ray_address={address}", f"--output_dir={tmp_path}", program="fleet.py")
    assert ran.returncode == 2 and "ray start --head" in ran.stderr
    assert "Traceback" not in ran.stderr
