"""What the program uses of TensorRT, against the classes of the versions that it takes: real
bindings, no library.

NVIDIA's wheels of the Python bindings are on the index; libnvinfer is not. The bindings load over
empty libraries that define the C and C++ names which they import: classes, enums and signatures are
real, nothing runs.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from helpers import ROOT, load

uses_of = load("trt_uses", "tests/trt_uses.py").uses_of
SOURCE = ROOT / "tensorrt.py"

# (package, version, newest Python 3.x that it has a wheel for)
WHEELS = [
    ("tensorrt-bindings", "8.6.1", 11),
    ("tensorrt-cu12-bindings", "10.0.1", 12),
    ("tensorrt-cu12-bindings", "10.3.0", 12),
    ("tensorrt-cu12-bindings", "10.12.0.36", 13),
    ("tensorrt-cu13-bindings", "10.16.1.11", 13),
    ("tensorrt-cu13-bindings", "11.4.0.106", 13),
]


def rtx_only(version, rtx):
    return rtx


def until_10(version, rtx):
    return version < (11,) and not rtx


def from_10(version, rtx):
    return version >= (10,) or rtx


def from_10_12(version, rtx):
    return version >= (10, 12) or rtx


# What only some versions have, and the program asks for first or uses there alone; all else must be
# in every version.
ONLY_IN = {
    "ComputeCapability": rtx_only,
    "IBuilderConfig.set_compute_capability": rtx_only,
    "IBuilderConfig.num_compute_capabilities": rtx_only,
    "IExecutionContext.is_stream_capturable": rtx_only,
    "ICudaEngine.create_runtime_config": from_10_12,
    "IRuntimeConfig.create_runtime_cache": rtx_only,
    "IRuntimeConfig.set_runtime_cache": rtx_only,
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": from_10,
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": until_10,
    "BuilderFlag.FP16": until_10,
    "BuilderFlag.INT8": until_10,
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": until_10,
    "ILayer.precision": until_10,
    "ILayer.set_output_type": until_10,
}
# Calls that are made only with TensorRT-RTX, whose arguments need not fit the others.
RTX_CALLS = {"ICudaEngine.create_execution_context(config)"}


def check(found, rtx=False):
    """Every name is there exactly where it should be, and no call or assignment is wrong."""
    version = tuple(map(int, found["version"].split(".")[:2]))
    surprising = {
        name: there
        for name, there in found["used"].items()
        if there != ONLY_IN.get(name, lambda version, rtx: True)(version, rtx)
    }
    assert not surprising, (
        f"{found['version']}: there or not, against what is expected: {surprising}"
    )
    assert set(found["wrong"]) <= (set() if rtx else RTX_CALLS), found["version"]


# What the bindings look for in NVIDIA's libraries, C and C++.
NVIDIAS = r"_ZN\d+nv\w+|create\w+|get(?:Builder)?PluginRegistry|getNv\w+|initLibNv\w+"


def output_of(*words):
    ran = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def make_stubs(bindings, folder):
    """Empty libraries for a module of bindings, each with every name that it looks for."""
    listed = output_of("nm", "-D", "--undefined-only", bindings)
    names = re.findall(rf"\b({NVIDIAS})$", listed, re.M)
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in names))
    for library in re.findall(r"\[(libnv\w+\.so\.\d+)\]", output_of("readelf", "-d", bindings)):
        named = f"-Wl,-soname,{library}"
        output_of("gcc", "-shared", "-fPIC", named, source, "-o", folder / library)


def fetched(package, version, folder):
    """The wheel of a package, unpacked."""
    flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    target = f"--target={folder}"
    output_of(sys.executable, "-m", "pip", "install", *flags, target, f"{package}=={version}")
    return next(folder.glob("tensorrt*/tensorrt*.so"))


@pytest.mark.bindings
@pytest.mark.parametrize(
    ("package", "version", "newest"), WHEELS, ids=[wheel[1] for wheel in WHEELS]
)
def test_every_attribute_and_argument_is_in_the_bindings(package, version, newest, tmp_path):
    if sys.version_info[1] > newest:
        pytest.skip(f"{package} {version} has no wheel for Python 3.{sys.version_info[1]}")
    make_stubs(fetched(package, version, tmp_path), tmp_path)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    words = [sys.executable, str(ROOT / "tests" / "trt_uses.py"), "tensorrt_bindings", str(SOURCE)]
    ran = subprocess.run(words, capture_output=True, text=True, env=env, timeout=100)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["version"] == version
    check(found)


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip("tensorrt_rtx")


def test_every_attribute_and_argument_is_in_tensorrt_rtx(rtx):
    found = uses_of(rtx, SOURCE.read_text())
    check(found, rtx=True)
    asked = {
        "IRuntimeCache.deserialize",
        "IExecutionContext.execute_async_v3",
        "ParserError.desc",
        "ITensor.shape",
    }
    assert asked <= found["used"].keys() and len(found["used"]) > 60


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (
            "create_builder_config(",
            "create_builder_configuration(",
            "Builder.create_builder_configuration",
        ),
        (".execute_async_v3(", ".execute_async_v9(", "IExecutionContext.execute_async_v9"),
        (".get_error(0).desc()", ".get_error(0).text()", "ParserError.text"),
        ('"is_stream_capturable"', '"is_capturable"', "IExecutionContext.is_capturable"),
        ("ProfilingVerbosity.DETAILED", "ProfilingVerbosity.VERBOSE", "ProfilingVerbosity.VERBOSE"),
        (".get_engine_information(", ".get_engine_info(", "EngineInspector.get_engine_info"),
    ],
)
def test_a_misspelt_name_is_found(rtx, right, wrong, name):
    source = SOURCE.read_text()
    assert right in source
    assert uses_of(rtx, source.replace(right, wrong))["used"][name] is False


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("get_error(0)", "get_error(0, 1)", "OnnxParser.get_error"),
        ("get_error(0)", "get_error(number=0)", "OnnxParser.get_error"),
        ("get_error(0)", "get_error()", "OnnxParser.get_error"),
        ("source.shape = ", "source.is_network_input = ", "ITensor.is_network_input cannot be set"),
    ],
)
def test_a_wrong_argument_is_found(rtx, right, wrong, complaint):
    source = SOURCE.read_text()
    assert right in source
    assert any(complaint in text for text in uses_of(rtx, source.replace(right, wrong))["wrong"])
