"""Every attribute and argument that a program uses of TensorRT, looked up in its bindings.

    python tests/trt_uses.py tensorrt_bindings tensorrt.py

Prints a JSON object: `version`, `used` (by `Class.name` whether the bindings have it) and `wrong`
(calls whose arguments no signature takes, and properties that are set but cannot be). The program
is read, not run: objects are followed from `importlib.import_module(...)` through assignments,
calls and returned values; what a call of TensorRT's returns is told by the signature that pybind11
writes into each docstring.
"""

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

# C++ names that pybind11 wrote into a signature where the class was bound later, under another name
LATE = {"IParserError": "ParserError"}
PASSES = 8  # over the program, until nothing more is learnt: calls may stand before what they call
MISSING = object()
CALLED = ("class", "call", "unbound")
HELD = ("module", "class", "instance")


class Value(NamedTuple):
    """What an expression may be.

    `kind` is module, class, instance, call, unbound (a method taken from its class), items (a
    tuple's), each (an iterable's) or own (an instance of a class of the program).
    """

    kind: str
    of: Any
    name: str = ""


class Signature(NamedTuple):
    """One overload of a function as pybind11 documents it; without `self`."""

    parameters: list[str]
    required: int
    result: str


def signatures(doc):
    """The overloads in a docstring, as `create_network(self: Builder, flags: int = 0) ->
    Network`.
    """
    found = []
    for arguments, result in re.findall(r"^(?:\d+\. )?\w*\((.*)\) -> (.+)$", doc or "", re.M):
        words = filter(None, map(str.strip, re.split(r",(?![^\[(<]*[\])>])", arguments)))
        own = [word for word in words if word.partition(":")[0] not in ("self", "arg0")]
        required = sum("=" not in word for word in own)
        found.append(Signature([word.partition(":")[0] for word in own], required, result.strip()))
    return found


def by_name(nodes, kind):
    return {node.name: node for node in nodes if isinstance(node, kind)}


def is_self(node):
    return isinstance(node, ast.Name) and node.id == "self"


class Uses(ast.NodeVisitor):
    """Follows TensorRT's objects through a program; `visit` of an expression gives its Value."""

    def __init__(self, trt: Any, tree: ast.Module) -> None:
        self.trt, self.used, self.wrong = trt, {}, set()
        self.functions = by_name(tree.body, ast.FunctionDef)
        self.classes = by_name(tree.body, ast.ClassDef)
        self.parameters, self.results, self.fields = {}, {}, {}
        self.names, self.owner, self.current = {}, "", ""
        for _ in range(PASSES):
            before = repr((self.parameters, self.results, self.fields))
            self.go_through()
            if repr((self.parameters, self.results, self.fields)) == before:
                return

    def go_through(self):
        for name, function in self.functions.items():
            self.function(name, "", function)
        for owner, node in self.classes.items():
            for name, method in by_name(node.body, ast.FunctionDef).items():
                self.function(f"{owner}.{name}", owner, method)

    def function(self, name, owner, node):
        """Goes through a function with what is known of its parameters."""
        self.names, self.owner, self.current = dict(self.parameters.get(name, {})), owner, name
        for statement in node.body:
            self.visit(statement)

    # what TensorRT has

    def look_up(self, value, name):
        """An attribute of a module, class or instance of TensorRT's; notes whether it is there."""
        found = getattr(value.of, name, MISSING)
        owner = "" if value.kind == "module" else value.of.__name__ + "."
        self.used[f"{owner}{name}"] = found is not MISSING
        if found is MISSING:
            return None
        if isinstance(found, type):
            return Value("class", found)
        if isinstance(found, property):
            overloads = signatures(found.fget.__doc__)
            return self.named(overloads[0].result) if overloads else None
        if callable(found):
            return Value("unbound" if value.kind == "class" else "call", found, f"{owner}{name}")
        return self.instance(type(found))

    def instance(self, kind):
        """An instance of a class, if that is TensorRT's."""
        return Value("instance", kind) if kind.__module__.startswith("tensorrt") else None

    def named(self, text):
        """An instance of the class that a signature names, in Python's words or C++'s."""
        name = re.split(r"[.:]", text)[-1]
        found = getattr(self.trt, LATE.get(name, name), None)
        return self.instance(found) if isinstance(found, type) else None

    def call_of(self, value, node):
        """What a call of TensorRT's gives; notes arguments that no overload takes."""
        if value.kind == "class":
            return Value("instance", value.of)
        overloads = signatures(value.of.__doc__)
        keywords = [keyword.arg for keyword in node.keywords]
        given = len(node.args) + len(keywords) - (value.kind == "unbound")  # that takes its `self`
        if overloads and not any(self.takes(overload, given, keywords) for overload in overloads):
            arguments = ", ".join(map(ast.unparse, [*node.args, *node.keywords]))
            self.wrong.add(f"{value.name}({arguments})")
        return self.named(overloads[0].result) if overloads else None

    @staticmethod
    def takes(overload, given, keywords):
        enough = overload.required <= given <= len(overload.parameters)
        return enough and set(keywords) <= set(overload.parameters)

    # expressions

    def visit_Name(self, node):
        return self.names.get(node.id)

    def visit_Attribute(self, node):
        value = self.visit(node.value)
        if is_self(node.value):
            return self.fields.get((self.owner, node.attr))
        if value is None or value.kind not in HELD:
            return None
        return self.look_up(value, node.attr)

    def visit_Call(self, node):
        given = [self.visit(argument) for argument in node.args]
        for keyword in node.keywords:
            self.visit(keyword.value)
        if isinstance(node.func, ast.Name):
            return self.call_by_name(node, given)
        if isinstance(node.func, ast.Attribute):
            return self.call_by_attribute(node, given)
        self.visit(node.func)
        return None

    def call_by_name(self, node, given):
        name = node.func.id
        if name in ("getattr", "hasattr"):
            return self.asked(node, given)
        if name in self.functions:
            return self.enter(name, self.functions[name], given)
        if name in self.classes:
            self.enter_method(name, "__init__", given)
            return Value("own", name)
        value = self.names.get(name)
        return self.call_of(value, node) if value and value.kind in CALLED else None

    def call_by_attribute(self, node, given):
        if ast.unparse(node.func) == "importlib.import_module":
            return Value("module", self.trt)
        if is_self(node.func.value) and self.method(self.owner, node.func.attr):
            return self.enter_method(self.owner, node.func.attr, given)
        value = self.visit(node.func)
        return self.call_of(value, node) if value and value.kind in CALLED else None

    def asked(self, node, given):
        """getattr and hasattr with a name that is spelled out."""
        name = node.args[1]
        known = given[0] is not None and given[0].kind in HELD
        if not known or not isinstance(name, ast.Constant):
            return None
        return self.look_up(given[0], name.value)

    def method(self, owner, name):
        body = self.classes[owner].body if owner in self.classes else []
        return next((node for node in body if getattr(node, "name", "") == name), None)

    def enter_method(self, owner, name, given):
        method = self.method(owner, name)
        if method is None:
            return None
        return self.enter(f"{owner}.{name}", method, [Value("own", owner), *given])

    def enter(self, name, node, given):
        """Notes what a function is called with; gives what it is known to return."""
        known = self.parameters.setdefault(name, {})
        for argument, value in zip(node.args.args, given):
            if value is not None:
                known[argument.arg] = value
        return self.results.get(name)

    def visit_IfExp(self, node):
        self.visit(node.test)
        found = [self.visit(node.body), self.visit(node.orelse)]
        return next((value for value in found if value is not None), None)

    def visit_BoolOp(self, node):
        found = [self.visit(value) for value in node.values]
        return next((value for value in found if value is not None), None)

    def visit_Tuple(self, node):
        return Value("items", [self.visit(item) for item in node.elts])

    def comprehension(self, node):
        for generator in node.generators:
            self.assign(generator.target, self.element(self.visit(generator.iter)))
            for condition in generator.ifs:
                self.visit(condition)
        return Value("each", self.visit(node.elt))

    visit_GeneratorExp = visit_ListComp = visit_SetComp = comprehension

    @staticmethod
    def element(value):
        return value.of if value is not None and value.kind == "each" else None

    # statements

    def assign(self, target, value):
        if isinstance(target, ast.Name) and value is not None:
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple):
            known = value is not None and value.kind == "items"
            for part, found in zip(target.elts, value.of if known else [None] * len(target.elts)):
                self.assign(part, found)
        elif isinstance(target, ast.Attribute):
            self.assign_attribute(target, value)
        elif isinstance(target, ast.Subscript):
            self.visit(target.value)

    def assign_attribute(self, target, value):
        owner = self.visit(target.value)
        if is_self(target.value):
            if value is not None:
                self.fields[self.owner, target.attr] = value
        elif owner is not None and owner.kind == "instance":
            self.look_up(owner, target.attr)
            found = getattr(owner.of, target.attr, None)
            if isinstance(found, property) and found.fset is None:
                self.wrong.add(f"{owner.of.__name__}.{target.attr} cannot be set")

    def visit_Assign(self, node):
        value = self.visit(node.value)
        for target in node.targets:
            self.assign(target, value)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.assign(node.target, self.visit(node.value))

    def visit_NamedExpr(self, node):
        value = self.visit(node.value)
        self.assign(node.target, value)
        return value

    def visit_For(self, node):
        self.assign(node.target, self.element(self.visit(node.iter)))
        for statement in [*node.body, *node.orelse]:
            self.visit(statement)

    def visit_Return(self, node):
        value = self.visit(node.value) if node.value else None
        if value is not None:
            self.results[self.current] = self.merged(self.results.get(self.current), value)

    @staticmethod
    def merged(before, now):
        """Two returned values as one: of two tuples, part by part, what is known."""
        if before is None or before.kind != "items" or now.kind != "items":
            return now
        pairs = zip(before.of, now.of)
        return Value("items", [old if new is None else new for old, new in pairs])

    def visit_FunctionDef(self, node):
        """A function in another: it sees the names around it; what it returns is not the
        outer's.
        """
        current, self.current = self.current, f"{self.current}.{node.name}"
        self.generic_visit(node)
        self.current = current


def uses_of(trt, source):
    """What a program's source uses of a TensorRT module: see the module's docstring."""
    uses = Uses(trt, ast.parse(source))
    return {"version": trt.__version__, "used": uses.used, "wrong": sorted(uses.wrong)}


def main():
    package, path = sys.argv[1:]
    print(json.dumps(uses_of(importlib.import_module(package), Path(path).read_text())))


if __name__ == "__main__":
    main()
