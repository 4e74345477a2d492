"""What was broken, how, how often and what happened: one record a fault, for the table that is made of them (fault_table.py)."""

import ast
import json
import os
from pathlib import Path


def record_fault(what: str, fault: str, times: int, outcome: str) -> None:
    """Append one JSON line to the file that FAULT_RECORD names; without that variable do nothing.

    `times` and `outcome` are what the test observed: how often the fault really struck, and how `what` (a stage, a command) ended.
    """
    path = os.environ.get("FAULT_RECORD")
    if not path:
        return
    test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" (", 1)[0]  # without the phase, "(call)"
    record = {"test": test, "what": what, "fault": fault, "times": times, "outcome": outcome}
    with Path(path).open("a", encoding="utf-8") as file:  # one write of one line: several processes may append
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def fault_tests(source: str) -> set[str]:
    """The test functions of a module that record a fault, themselves or through a function of that module."""
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    recording = {"record_fault"}
    for _ in functions:  # until nothing is added: helpers that call helpers
        recording |= {name for name, node in functions.items() if calls(node) & recording}
    return {name for name in recording if name.startswith("test_")}


def calls(node: ast.AST) -> set[str]:
    """The names of the functions that are called in `node`."""
    return {call.func.id for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
