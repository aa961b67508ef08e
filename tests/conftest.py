"""Fixtures: the program as a module and as a command, and a small network that is really trained."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]  # or tensorrt.py hides tensorrt


@pytest.fixture(scope="session")
def bench():
    """tensorrt.py as a module of another name."""
    spec = importlib.util.spec_from_file_location("bench", ROOT / "tensorrt.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(config, items):
    """Leaves out what this machine cannot run, and slow tests unless they are asked for."""
    spec = importlib.util.spec_from_file_location("bench_gpus", ROOT / "tensorrt.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpus"] = module
    spec.loader.exec_module(module)
    old = (module.version_of("tensorflow") or "9") < "2.18"
    asked = config.getoption("-m")
    missing = {"gpu": not module.gpus(), "legacy": not old, "slow": "slow" not in asked}
    for item in items:
        for marker, absent in missing.items():
            if absent and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: not on this machine, or not asked for"))
