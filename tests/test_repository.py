"""The repository itself: floors, sizes, pins, what dvc.yaml names, results, links of the docs."""

import ast
import re
import statistics
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from itertools import combinations
from pathlib import Path

import pytest
from scipy import stats

from conftest import ROOT, load_yaml
from reproduce.params import PARAMS, read_yaml
from reproduce.verdict import runs

# Each floor imports from itself and from those before it.
FLOORS = ["reproduce", "reproduce.inputs", "reproduce.training", "reproduce.models",
          "reproduce.verdict", "reproduce.report", "stages", "tools", "benchmarks"]  # fmt: skip
CODE = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("reproduce", "stages", "tools", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in CODE.items()}
STAGES = load_yaml(ROOT / "dvc.yaml")["stages"]
DOCS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def imported(tree: ast.AST) -> set[str]:
    """The dotted names that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


GRAPH = {name: imported(tree) & set(CODE) for name, tree in TREES.items()}


def needed(module: str) -> set[str]:
    """The module and all that it imports, directly or not."""
    todo, done = {module}, set[str]()
    while todo:
        done |= todo
        todo = set().union(*(GRAPH[name] for name in todo)) - done
    return done


@pytest.mark.parametrize("module", CODE)
def test_a_module_imports_only_downwards(module: str) -> None:
    own = FLOORS.index(module.rpartition(".")[0])
    above = {name for name in GRAPH[module] if FLOORS.index(name.rpartition(".")[0]) > own}
    assert not above
    if module.startswith("stages."):
        assert {name for name in GRAPH[module] if name.startswith("stages.")} <= {"stages.check"}
    assert not imported(TREES[module]) & {"importlib", "importlib.import_module", "runpy"}


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError


def test_modules_of_tests_are_short() -> None:
    for path in (ROOT / "tests").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path.name


@pytest.mark.parametrize("module", CODE)
def test_modules_and_functions_are_short(module: str) -> None:
    assert len(CODE[module].read_text(encoding="utf-8").splitlines()) <= 300
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(TREES[module]):
        if isinstance(node, functions):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


def test_no_line_is_too_long() -> None:
    """ruff holds the Python. Settings in YAML carry their sources in long comments."""
    limits = {".jinja": 100, ".css": 100, ".js": 100, "": 100, ".md": 110}
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for path in (ROOT / name for name in files if Path(name).suffix in limits):
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        long = [line for line in lines if len(line) > limits[path.suffix]]
        assert not [line for line in long if not line.startswith("|") and "://" not in line], path


def module_of(stage: str) -> str:
    return re.findall(r"python -m (\S+)", STAGES[stage]["cmd"])[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports(stage: str) -> None:
    """And on no other code. A folder of dvc.yaml stands for its modules."""
    used = {str(CODE[name].relative_to(ROOT)) for name in needed(module_of(stage))}
    code = [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in ("stages", "reproduce")]
    covered = {dep: {path for path in used if f"{path}/".startswith(f"{dep}/")} for dep in code}
    assert [dep for dep, paths in covered.items() if not paths] == []
    # They can refuse an input, they cannot change a result; see dvc.yaml.
    refusing = {path for path in used if re.fullmatch(r"reproduce/(inputs/catalog|\w+)\.py", path)}
    assert used - refusing - set().union(*covered.values()) == set()


def test_every_stage_says_how_to_run_it_and_imports_nothing_heavy_at_the_top() -> None:
    """So that `--help` and a refusal come at once."""
    heavy = {"torch", "transformers", "datasets", "evaluate", "pandas", "pyarrow", "numpy", "scipy"}
    heavy |= {"huggingface_hub", "dvclive", "matplotlib", "jinja2", "onnx", "onnxruntime"}
    stages = [module_of(stage) for stage in STAGES]
    for stage in stages:
        assert f"Run as: python -m {stage}" in (ast.get_docstring(TREES[stage]) or "")
    code = f"import sys, {', '.join(stages)}; print(*({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "\n"


def test_what_is_imported_is_required() -> None:
    """Packages that only come along with another one would vanish with it."""
    tests = {path.stem: path for path in ROOT.glob("tests/*.py")}
    trees = [*TREES.values(), *(ast.parse(path.read_text("utf-8")) for path in tests.values())]
    names = {name.split(".")[0] for tree in trees for name in imported(tree)}
    own = {"reproduce", "stages", "tools", "benchmarks", *tests}
    own |= {"ruamel", "configobj", "dvc_data"}  # the last two belong to DVC
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    required = {name.lower().replace("_", "-") for name in pinned}
    distributions = packages_distributions()
    for name in names - own - sys.stdlib_module_names:
        assert {dist.lower().replace("_", "-") for dist in distributions[name]} & required, name


def test_the_stages_that_compute_take_a_launcher() -> None:
    stages = {name for name, stage in STAGES.items() if stage["cmd"].startswith("${launcher} py")}
    assert stages == {"tokenize", "finetune", "evaluate", "export", "benchmark"}


def test_no_path_of_a_machine_in_results() -> None:
    places = ["metrics", "environment", "predictions", "benchmarks/results", "report"]
    places += ["docs/h200", "docs/rehearsal", "docs/rte"]
    for path in (path for place in places for path in (ROOT / place).rglob("*.*")):
        text = path.read_text(encoding="utf-8")
        for private in (f"{Path.home()}/", "/tmp/", str(ROOT)):
            assert private not in text, path


def test_the_pages_show_the_runs_on_a_gpu_that_are_in_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of the CPU beside them: all of today's recipe."""
    monkeypatch.chdir(ROOT)
    page = " ".join(Path("docs/gpu.md").read_text(encoding="utf-8").split())
    studies = []
    for device, folder in (("CPU", "."), ("H200", "docs/h200")):
        monkeypatch.setattr(runs, "PREDICTIONS", Path(folder, "predictions"))
        found = runs.read_runs(read_yaml(PARAMS))["minilm"].values()
        study = [run for run in found if isinstance(run, runs.Run)]
        scores = [run.score for run in study if run.score is not None]
        median = statistics.median(scores)
        cells = [*(str(run.measured["correct"]) for run in study)]
        cells += [f"{value:.2f} %" for value in (median, statistics.mean(scores))]
        assert re.search(rf"\| {device} \([^|]*\) \| {re.escape(' | '.join(cells))} \|", page)
        studies.append((scores, [run.validation.predicted for run in study]))
    assert f"median of {median:.2f}:" in Path("README.md").read_text(encoding="utf-8")
    (cpu, ours), (gpu, theirs) = studies
    differing = [int((a != b).sum()) for a, b in zip(ours, theirs, strict=True)]
    assert f"| {' | '.join(map(str, differing))} | | |" in page
    seeds = [int((a != b).sum()) for a, b in combinations(ours, 2)]
    assert f"differ in {min(seeds)} to {max(seeds)} answers, one seed on two devices in " in page
    assert f"devices in {min(differing)} to {max(differing)}." in page
    interval = stats.ttest_ind(gpu, cpu, equal_var=False).confidence_interval()
    less = statistics.mean(cpu) - statistics.mean(gpu)
    said = f"{less:.2f} points lower; over seeds the 95 % interval (Welch) is "
    assert f"{said}{interval.low:.2f} to {interval.high:+.2f}." in page


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in DOCS:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            assert "://" in link or (page.parent / link).exists(), (page.name, link)


def test_readmes_and_notebook_name_one_address() -> None:
    address = r"//(?:colab.research.google.com/)?github(?:\.com)?/([\w.-]+/[\w.-]+)"
    pages = [ROOT / name for name in ("README.md", "README.pt-BR.md", "notebooks/colab.ipynb")]
    named = [set(re.findall(address, page.read_text(encoding="utf-8"))) for page in pages]
    assert len(named[0]) == 1 and named == [named[0]] * 3


def test_every_fault_names_a_test_that_exists() -> None:
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    tests = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_*.py"))
    assert (named := set(re.findall(r"`(test_\w+)`", text)))
    assert {name for name in named if f"def {name}(" not in tests} == set()
