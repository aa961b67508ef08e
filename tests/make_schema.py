"""Writes tests/schema.json, the JSON Schema of a record, from the types in tensorrt.py.

python tests/make_schema.py
"""

import json
from pathlib import Path

import msgspec
from helpers import load

PATH = Path(__file__).with_name("schema.json")


def schema(bench):
    """The JSON Schema of a line of results.jsonl."""
    return msgspec.json.schema(bench.Record)


if __name__ == "__main__":
    PATH.write_text(json.dumps(schema(load()), indent=2) + "\n")
