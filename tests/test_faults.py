"""docs/faults.md has a row for every fault test that there is, and for no other; the tests themselves are not run for that."""

import json
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from fault_table import document, read
from faults import fault_tests


def rows(text: str) -> set[str]:
    """FILE::TEST of every row of docs/faults.md."""
    found, file = set(), ""
    for line in text.splitlines():
        if heading := re.match(r"Tests: \[(\w+)\.py\]", line):
            file = heading[1]
        elif row := re.search(r"\| `([^`]+)` \|$", line):
            found.add(f"{file}::{row[1]}".replace(r"\|", "|"))
    return found


def test_every_fault_test_has_its_row_and_every_row_its_test() -> None:
    expected = {path.stem: fault_tests(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").glob("test_*.py")}
    files = [f"tests/{stem}.py" for stem, tests in expected.items() if tests]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", "-o", "addopts=", *files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    collected = {f"{Path(file).stem}::{test}" for file, test in re.findall(r"(?m)^(tests/\w+\.py)::(.+)$", listed)}
    exist = {test for test in collected if test.split("::")[1].split("[")[0] in expected[test.split("::")[0]]}
    assert len(exist) > 50, listed
    documented = rows((ROOT / "docs/faults.md").read_text(encoding="utf-8"))
    assert exist - documented == set(), "without a row in docs/faults.md: run `make faults`"
    assert documented - exist == set(), "rows of docs/faults.md without a test: run `make faults`"


def test_a_fault_test_is_known_by_what_it_calls() -> None:
    source = """
def record(x): record_fault(x)
def again(): record(1)
def test_a(): again()
def test_b(): record_fault(2)
def test_c(): print(3)
"""
    assert fault_tests(source) == {"test_a", "test_b"}


def test_the_table_adds_up_what_was_recorded() -> None:
    records = [
        {"test": "tests/test_remotes.py::test_x[a b]", "what": "dvc pull", "fault": "a|b", "times": 1, "outcome": "named"},
        {"test": "tests/test_crash.py::test_y", "what": "finetune", "fault": "kill -9", "times": 1, "outcome": "same bytes"},
        {"test": "tests/test_crash.py::test_z", "what": "tokenize", "fault": "kill -9", "times": 2, "outcome": "same bytes"},
        {"test": "tests/test_crash.py::test_y", "what": "finetune", "fault": "kill -9", "times": 3, "outcome": "same bytes"},
    ]
    text = document(read(map(json.dumps, records)))
    assert [line for line in text.splitlines() if line.startswith("| ") and "---" not in line] == [
        "| what | was broken how | times | what happened | test |",
        "| tokenize | kill -9 | 2 | same bytes | `test_z` |",
        "| finetune | kill -9 | 4 | same bytes | `test_y` |",
        "| what | was broken how | times | what happened | test |",
        r"| dvc pull | a\|b | 1 | named | `test_x[a b]` |",
    ]
    assert rows(text) == {"test_crash::test_z", "test_crash::test_y", "test_remotes::test_x[a b]"}
