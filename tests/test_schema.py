"""What report.py asks of a record is what tests/schema.json promises, and both refuse the same."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from conftest import load

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "schema.json").read_text())
REAL = [json.loads(line) for line in (HERE / "data" / "records_2.jsonl").read_text().splitlines()]
SAMPLES = {
    "string": ["text"],
    "integer": [0, 7],
    "number": [-0.5, 0.0, 7],
    "boolean": [True, False],
    "object": [{}, {"name": "value"}],
    "array": [[], ["text"]],
    "null": [None],
}


@pytest.fixture(scope="module")
def report():
    return load("report_of_schema", "report.py")


def resolved(schema, part):
    """A part of the schema with what it refers to."""
    while "$ref" in part:
        target = schema["$defs"][part["$ref"].rpartition("/")[2]]
        required = [*target.get("required", ()), *part.get("required", ())]
        properties = {**target.get("properties", {}), **part.get("properties", {})}
        own = {name: value for name, value in part.items() if name != "$ref"}
        part = {**target, **own, "required": required, "properties": properties}
    return part


def types_of(part):
    """The JSON types that a part of the schema allows."""
    if "anyOf" in part:
        return set().union(*map(types_of, part["anyOf"]))
    if "const" in part or "enum" in part:
        values = part.get("enum", [part.get("const")])
        return {name for name, some in SAMPLES.items() if type(values[0]) is type(some[0])}
    found = part["type"]
    return {found} if isinstance(found, str) else set(found)


def values_of(schema, part):
    """Values that a part of the schema allows: all of an enumeration, one or more of each type."""
    if "enum" in part or "const" in part:
        return part.get("enum", [part.get("const")])
    if "items" in part:
        return [[value] for value in values_of(schema, resolved(schema, part["items"]))]
    values = [value for name in types_of(part) for value in SAMPLES[name]]
    return [value for value in values if jsonschema.Draft202012Validator(part).is_valid(value)]


def shape_of(report, shape):
    """The fields of a shape; those of which report.py asks only together are optional."""

    def optional(shapes):
        return {name: report.Maybe(shape) for name, shape in shapes.items()}

    if shape is report.timing_statistics:
        return report.STATISTICS | optional(report.OVER_ROUNDS)
    if shape is report.output_agreement:
        return report.AGREEMENT | optional(report.COUNTS)
    return shape


def disagreements(report, schema, shape, part, path="record"):
    """Yields where a shape of report.py's asks for what a part of the schema does not promise."""
    part = resolved(schema, part)
    if isinstance(shape, report.Maybe):
        shape = shape.shape
        part = {**part, "type": sorted(types_of(part) - {"null"})}
    shape = shape_of(report, shape)
    if isinstance(shape, report.Each):
        inner = part.get("additionalProperties", {})
        yield from disagreements(report, schema, shape.shape, inner, f"{path}.*")
    elif isinstance(shape, dict):
        for name, inner in shape.items():
            yield from field_disagreements(report, schema, (name, inner), part, f"{path}.{name}")
    elif isinstance(shape, list):
        yield from disagreements(report, schema, shape[0], part["items"], f"{path}[]")
    elif shape is not object:
        yield from leaf_disagreements(report, schema, shape, part, path)


def field_disagreements(report, schema, field, part, path):
    name, shape = field
    if name not in part.get("properties", {}):
        yield f"{path} is not in the schema"
    elif not isinstance(shape, report.Maybe) and name not in part.get("required", ()):
        yield f"{path} may be missing"
    else:
        yield from disagreements(report, schema, shape, part["properties"][name], path)


def leaf_disagreements(report, schema, shape, part, path):
    for value in values_of(schema, part):
        if not accepts(report, shape, value):
            yield f"{path} may be {value!r}"
    for name in SAMPLES.keys() - types_of(part) - {"boolean"}:
        if name == "integer" and "number" in types_of(part):
            continue
        if accepts(report, shape, SAMPLES[name][0]):
            yield f"{path} is taken as {name}"


def accepts(report, shape, value):
    try:
        report.read_as(shape, value)
    except (ValueError, TypeError):
        return False
    return True


def test_report_asks_for_what_the_schema_promises(report):
    assert list(disagreements(report, SCHEMA, report.RECORD, SCHEMA)) == []


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        (("required",), ["record"], "record.device may be missing"),
        (("properties",), {}, "record.device is not in the schema"),
        (("properties", "device", "type"), ["string", "null"], "record.device may be None"),
        (("properties", "device", "type"), "integer", "record.device is taken as string"),
        (("properties", "precision", "enum"), ["bf16"], "record.precision may be 'bf16'"),
        (("$defs", "positive"), {"type": "number"}, "record.timings.*.throughput may be 0.0"),
        (("$defs", "agreement", "required"), [], "record.agreement.outputs.*.kind may be missing"),
    ],
)
def test_another_schema_is_noticed(report, path, change, why):
    schema = copy.deepcopy(SCHEMA)
    part = schema
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = change
    assert why in list(disagreements(report, schema, report.RECORD, schema))


def test_another_report_is_noticed(report):
    shape = {**report.RECORD, "wish": str, "batch_size": str, "first_image": str}
    assert set(disagreements(report, SCHEMA, shape, SCHEMA)) == {
        "record.wish is not in the schema",
        "record.batch_size may be 7",
        "record.batch_size is taken as string",
        "record.first_image may be missing",
    }


def places_in(value, path=()):
    """Yields the path of each field of a record."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, inner in pairs:
        yield (*path, name)
        if isinstance(inner, (dict, list)):
            yield from places_in(inner, (*path, name))


def changed(record, path, *value):
    """The record with another value at a path, or with nothing there."""
    record = copy.deepcopy(record)
    part = record
    for name in path[:-1]:
        part = part[name]
    if value:
        part[path[-1]] = value[0]
    else:
        del part[path[-1]]
    return record


@pytest.mark.parametrize("index", range(len(REAL)))
def test_real_records_with_anything_missing_or_null(report, index):
    """What the schema allows report.py reads; what it reads of a record is what it was."""
    record = REAL[index]
    record["timings"] = {name: short(timing) for name, timing in record["timings"].items()}
    record.pop("rounds", None)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid(record) and accepts(report, report.read_record, record)
    refused = 0
    for path in places_in(record):
        for other in (changed(record, path), changed(record, path, None)):
            allowed = validator.is_valid(other)
            read = accepts(report, report.read_record, other)
            assert read or not allowed, path
            refused += not read
    assert refused > 30


def short(timing):
    return {**timing, "seconds": timing["seconds"][:2]}
