"""What report.py asks of a record is what tests/schema.json promises, field by field."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
from conftest import load

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE / "schema.json").read_text())
REAL = [json.loads(line) for line in (HERE / "data" / "records_2.jsonl").read_text().splitlines()]
OUTPUT = ("kind", "snr_db", "same", "decided", "undecided", "changed", "top1", "cosine")
VERSION_1 = {  # fields that report.py reads of older records only
    *(f"record.graph.{name}" for name in ("input", "output", "shape")),
    *(f"record.agreement.{name}" for name in OUTPUT),
}


@pytest.fixture(scope="module")
def report():
    return load("report_of_schema", "report.py")


@pytest.fixture(scope="module")
def asked(report):
    """The JSON Schema of what report.py reads."""
    return msgspec.json.schema(report.Record)


def options(schema, part):
    """The alternatives of a part of a schema, each with what it refers to."""
    if "$ref" in part:
        return options(schema, schema["$defs"][part["$ref"].rpartition("/")[2]])
    if "anyOf" in part:
        return [option for inner in part["anyOf"] for option in options(schema, inner)]
    return [part]


def type_of(option):
    """The JSON type of an alternative; None where it may be anything."""
    if "enum" in option:
        return {str: "string", int: "integer"}[type(option["enum"][0])]
    return option.get("type")


def values_of(option):
    """The values that an alternative lists, by an enumeration or in a pattern; else none."""
    listed = re.fullmatch(r"\^\(([\w|]+)\)\$", option.get("pattern", ""))
    return set(listed[1].split("|") if listed else option.get("enum", ()))


def disagreements(asked, promised, ours=None, theirs=None, path="record"):
    """Yields where what report.py asks for is not what the schema of the records promises."""
    ours = {type_of(option): option for option in options(asked, ours or asked)}
    theirs = {type_of(option): option for option in options(promised, theirs or promised)}
    if None in ours or None in theirs:
        return
    fits = set(ours) | ({"integer"} if "number" in ours else set())
    yield from (f"{path} may be {name}" for name in theirs if name not in fits)
    if not fits & set(theirs):
        yield f"{path} is taken for {' or '.join(ours)}"
    for name in ours.keys() & theirs.keys():
        for check in (value_disagreements, field_disagreements, item_disagreements):
            yield from check(asked, promised, ours[name], theirs[name], path)


def value_disagreements(asked, promised, ours, theirs, path):
    known, given = values_of(ours), values_of(theirs)
    if known:
        yield from (f"{path} may be {value}" for value in given - known)
        yield from (f"{path} is never {value}" for value in known - given if given)


def field_disagreements(asked, promised, ours, theirs, path):
    for name, field in ours.get("properties", {}).items():
        place = f"{path}.{name}"
        if name in theirs.get("properties", {}):
            if name in ours.get("required", ()) and name not in theirs.get("required", ()):
                yield f"{place} may be missing"
            inner = theirs["properties"][name]
            yield from disagreements(asked, promised, field, inner, place)
        elif place not in VERSION_1:
            yield f"{place} is not in the schema"


def item_disagreements(asked, promised, ours, theirs, path):
    """Of lists, and of objects whose fields have any names."""
    for name in ("items", "additionalProperties"):
        inner, other = ours.get(name), theirs.get(name)
        if isinstance(inner, dict) and isinstance(other, dict):
            yield from disagreements(asked, promised, inner, other, f"{path}.*")


def test_report_asks_for_what_the_schema_promises(asked):
    assert list(disagreements(asked, SCHEMA)) == []


RECORD = ("$defs", "Record", "properties")


@pytest.mark.parametrize(
    ("path", "change", "why"),
    [
        (("$defs", "Record", "required"), ["record"], "record.device may be missing"),
        (RECORD, {}, "record.device is not in the schema"),
        ((*RECORD, "device"), {"type": "integer"}, "record.device is taken for string"),
        (
            (*RECORD, "device"),
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "record.device may be null",
        ),
        (
            (*RECORD, "precision"),
            {"type": "string", "pattern": "^(native|bf16)$"},
            "record.precision may be bf16",
        ),
        (
            ("$defs", "OutputAgreement", "properties", "decided"),
            {"type": "string"},
            "record.agreement.outputs.*.decided may be string",
        ),
    ],
)
def test_another_schema_is_noticed(asked, path, change, why):
    schema = copy.deepcopy(SCHEMA)
    part = schema
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = change
    assert why in list(disagreements(asked, schema))


def test_another_report_is_noticed(report):
    class Record(report.Record, kw_only=True):
        batch_size: str
        node: str
        wish: str = ""

    assert set(disagreements(msgspec.json.schema(Record), SCHEMA)) == {
        "record.batch_size may be integer",
        "record.batch_size is taken for string",
        "record.node may be missing",
        "record.node may be null",
        "record.wish is not in the schema",
    }


def test_every_number_that_report_needs_is_computed(bench, report):
    seconds = [0.1] * 300
    numbers = bench.summarise(seconds, 4) | bench.round_statistics([seconds] * 5, 4)
    names = {*report.NUMBERS, *report.NUMBERS_OF_ROUNDS, "latency_99th_high"}
    assert names <= numbers.keys()


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


def short(record):
    """The record with two steps a timing, and without its rounds."""
    record = copy.deepcopy({**record, "rounds": None})
    for timing in record["timings"].values():
        timing["seconds"] = timing["seconds"][:2]
    return record


@pytest.mark.parametrize("index", range(len(REAL)))
def test_real_records_with_anything_missing_or_null(report, index):
    """What the schema allows, report.py reads; most of what it refuses, so does report.py."""
    record = short(REAL[index])
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(record)
    refused = []
    for path in places_in(record):
        if "statistics" not in path:  # the schema does not name what is in there
            for other in (changed(record, path), changed(record, path, None)):
                read = reads(report, other)
                assert read or not validator.is_valid(other), path
                refused += [] if read else [path]
    assert ("timings", "device", "seconds") in refused and len(refused) > 20


def reads(report, record):
    try:
        report.read_line(json.dumps(record).encode(), "results.jsonl", 2)
    except report.UserError:
        return False
    return True
