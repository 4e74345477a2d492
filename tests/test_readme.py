"""README.md and README.pt-BR.md: numbers come from files, commands work, messages exist, and the two are in step."""

import ast
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import ROOT, Repository, in_place_of_venv
from hub import COMMIT, ONLY_LOOPBACK, serving
from reproduce.readme import BLOCK, BLOCKS, FILES, Language, filled

pytestmark = pytest.mark.usefixtures("warm")

ENGLISH, PORTUGUESE = ((ROOT / path).read_text(encoding="utf-8") for path in FILES.values())


@dataclass(frozen=True)
class Run:
    """A test of this file runs the command and looks for `expect` in what it prints."""

    expect: str


@dataclass(frozen=True)
class Elsewhere:
    """Another file runs it: `snippet` stands in the source of that function of it ("": of the whole)."""

    file: str
    function: str
    snippet: str


# Every command of the README, without its comment. One that is not here fails a test.
COMMANDS: dict[str, Run | Elsewhere] = {
    "make demo": Elsewhere("benchmarks/demo.py", "main", '"make", "-o", f"{venv}/.installed", f"VENV={venv}", "demo"'),  # two minutes; the result is in the README
    "make test": Elsewhere(".ci/run", "", "make test"),
    "make repro": Run("are up to date"),
    "dvc repro finetune@distilbert-1": Run("are up to date"),
    "dvc repro benchmark": Run("are up to date"),
    "dvc repro -s compare": Run("are up to date"),
    "make parallel JOBS=2": Elsewhere("tests/test_parallel.py", "test_make_parallel_trains_side_by_side_with_the_cores_divided", '"parallel", "JOBS=2"'),
    "LAUNCHER='srun --gres=gpu:1' dvc --wait-for-lock repro": Elsewhere(
        "tests/test_parallel.py", "test_a_launcher_runs_the_stages_and_leaves_no_trace_in_the_lock", '"dvc", "repro", LAUNCHER='
    ),
    "make verify STAGE=finetune@minilm-1": Run("identical: "),
    "dvc exp run --temp --name slower -S finetune.learning_rate=3e-5 -S 'models=[minilm]' -S 'seeds=[1,2]'": Run("Ran experiment"),
    "make table": Run(r"slower +\w+ +.*toy +2"),
    "dvc metrics diff main slower --targets metrics/accuracy.json --md": Run(r"retention.student +\| tiny +\| other"),
    "dvc params diff main slower": Run("compare.student"),
    "make remote URL=/mnt/share/sst2": Run("verify = true"),
    "make remote URL=s3://bucket/folder": Elsewhere("tests/test_remotes.py", "serving", "s3://bucket/folder"),
    "make remote URL=ssh://me@host:22/absolute/path": Elsewhere("tests/test_remotes.py", "serving", "ssh://{getpass.getuser()}@127.0.0.1:{port}{folder}"),
    "make remote URL=https://host/folder": Elsewhere("tests/test_remotes.py", "serving", "http://127.0.0.1"),
    "make push": Run("0 damaged"),
    "dvc pull finetune@minilm-1 evaluate@minilm-1": Run("up to date"),
    'python -m reproduce.predict "a gripping film"': Run(r"a gripping film,(POSITIVE|NEGATIVE),0\."),
    "python -m reproduce.predict --file sentences.txt --output predictions.csv": Elsewhere("tests/test_predict.py", "test_the_progress_bar_is_for_terminals", '"--file", str(tmp_path / "s.txt"), "--output"'),
    "gto register minilm --version v1.0.0": Elsewhere("tests/test_artifacts.py", "test_register_push_and_download_by_version", '"gto", "register", "tiny", "--version", "v1.0.0"'),
    "gto assign minilm --version v1.0.0 --stage prod": Elsewhere("tests/test_artifacts.py", "test_register_push_and_download_by_version", '"gto", "assign", "tiny", "--version", "v1.0.0", "--stage", "prod"'),
    "make push && git push --tags": Elsewhere("tests/test_artifacts.py", "test_register_push_and_download_by_version", '"git", "push", "-q", "--tags"'),
    "gto show": Elsewhere("tests/test_artifacts.py", "test_register_push_and_download_by_version", '"gto", "show"'),
    "dvc artifacts get . minilm --rev v1.0.0 -o minilm": Elsewhere("tests/test_artifacts.py", "test_register_push_and_download_by_version", '"dvc", "artifacts", "get", ".", "tiny"'),
    "make submission MODEL=minilm": Elsewhere("tests/test_submission.py", "submit", '"reproduce.submission", "--model"'),
    "dvc repro --pull": Elsewhere("notebooks/colab.ipynb", "", "repro --pull"),
    "dvc repro --pull --allow-missing": Elsewhere("tests/test_remotes.py", "test_one_model_then_what_is_needed_then_everything", '"--pull", "--allow-missing"'),
    "dvc pull && dvc status": Run("Data and pipelines are up to date"),
    "rm dvc.lock && dvc repro --pull": Elsewhere("tests/test_remotes.py", "test_everything_without_a_lock_file", 'repro("--pull")'),
    "dvc exp push origin NAME": Elsewhere("tests/test_remotes.py", "push_to", '"exp", "push", "origin", "student"'),
    "dvc exp pull origin NAME && dvc exp apply NAME": Elsewhere("tests/test_remotes.py", "test_an_experiment_through_git_and_the_remote", '"exp", "apply", "student"'),
    "make fsck": Run("0 damaged"),
    "make fsck DELETE=1": Run("0 damaged"),
    "dvc pull": Run("up to date"),
    "make fsck REMOTE=1": Run("0 damaged"),
    "make fsck REMOTE=1 DELETE=1": Run("0 damaged"),
    "make pin MODEL=small": Run("models.small pinned"),
    "make check": Run("are fine"),
    "make pin DATASET=rte": Elsewhere("tests/test_glue.py", "test_make_pin_again_agrees_and_writes_nothing", '"make", "pin", "DATASET=rte"'),
    "dvc exp run --temp -S dataset=rte": Elsewhere("tests/test_glue.py", "test_an_experiment_on_pairs_goes_from_the_hub_to_its_verdict", '"-S", "dataset=rte"'),
    "dvc repro": Run("finetune@small-1"),
}  # fmt: skip
NEW_MODEL = ("make pin MODEL=small", "make check", "dvc repro")  # run where the model has been added

# SST-2 and its models in the README; a tiny model here, and an experiment that trains nothing.
TINY = {
    "STAGE=finetune@minilm-1": "STAGE=compare",
    "distilbert": "tiny",
    "minilm": "tiny",
    "finetune.learning_rate=3e-5": "compare.student=other",
    "seeds=[1,2]": "seeds=[1]",
}

# Numbers with a decimal point that nobody measured and published.yaml does not have, with what they follow from.
ARITHMETIC = {
    "0.11": 100 / 872,
    "0.95": 100 * (0.913 * 0.087 / 872) ** 0.5,
    "98.5": 100 * 91.3 / 92.7,
    "3.11": 3.11,  # Python
    "8.0": 8.0,
}  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [command for line in lines if (command := re.sub(r"(^|\s+)# .*$", "", line).strip())]


# ------------------------------------------------------------------------------------------------- the numbers


def test_the_measured_numbers_are_those_of_the_files() -> None:
    done = subprocess.run([sys.executable, "-m", "reproduce.readme", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stale_number_is_found_and_written_anew(tmp_path: Path) -> None:
    for name in ("metrics", "environment", "benchmarks/results", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "README.pt-BR.md", "published.yaml", "params.yaml", "catalog.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    speed = (tmp_path / "metrics/speed.json").read_text()
    (tmp_path / "metrics/speed.json").write_text(
        speed.replace('"parameters_encoder": 66362880', '"parameters_encoder": 12300000')
    )
    command = [sys.executable, "-m", "reproduce.readme"]
    stale = subprocess.run([*command, "--check"], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert stale.returncode == 1 and stale.stderr.startswith("error: README.md, README.pt-BR.md: not what"), stale.stderr
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)})
    assert "| distilbert | 12.3 |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| distilbert | 12,3 |" in (tmp_path / "README.pt-BR.md").read_text(encoding="utf-8")


def test_a_missing_block_is_an_error() -> None:
    from reproduce.stage import UserError

    with pytest.raises(UserError, match="generated blocks colab, demo, table, metrics, params, benchmarks; expected each of"):
        filled(ENGLISH.replace("generated: results", "results"), Path("README.md"), Language("en"), BLOCKS)


@pytest.mark.parametrize("text", [ENGLISH, PORTUGUESE], ids=["en", "pt-BR"])
def test_no_measured_number_is_typed(text: str) -> None:
    """Outside the generated blocks and code, a number with decimals is a published one or follows by arithmetic."""
    published = (ROOT / "published.yaml").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`|\([^)]*\.(?:org|md|ipynb)[^)]*\)", "", BLOCK.sub("", text), flags=re.DOTALL)
    for number in re.findall(r"(?<![\w.-])\d+[.,]\d+(?![\d\w-])", prose):
        point = number.replace(",", ".")
        if re.fullmatch(r"\d+[.,]\d{3}", number):
            continue  # thousands
        if point in ARITHMETIC:
            assert f"{ARITHMETIC[point]:.{len(point.split('.')[1])}f}" == point
        else:
            assert re.search(rf"(?<![\d.]){re.escape(point)}(?!\d)", published), (
                f"{number} is typed: generate it, or say whence it is"
            )


# ------------------------------------------------------------------------------------------------ the commands


def test_every_command_is_accounted_for() -> None:
    assert set(commands(ENGLISH)) == set(COMMANDS)


@pytest.mark.parametrize("command", [command for command, how in COMMANDS.items() if isinstance(how, Elsewhere)])
def test_what_runs_elsewhere_is_there(command: str) -> None:
    how = COMMANDS[command]
    assert isinstance(how, Elsewhere)
    source = (ROOT / how.file).read_text(encoding="utf-8")
    if how.function:
        (node,) = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == how.function]
        source = ast.get_source_segment(source, node) or ""
    assert how.snippet in source


def shell(repository: Repository, command: str) -> str:
    """Run a command as the README shows it, on tiny inputs, look for what it must print, and return that."""
    how = COMMANDS[command]
    assert isinstance(how, Run)
    here = command
    for written, instead in {**TINY, "/mnt/share": str(repository.path.parent)}.items():
        here = here.replace(written, instead)
    done = repository.run("bash", "-e", "-c", here)
    printed = done.stdout + done.stderr
    assert re.search(how.expect, printed), f"{here}\n{printed}"
    return printed


def test_the_commands_in_the_order_of_the_readme(copy: Repository, tmp_path: Path) -> None:
    copy.env.update(in_place_of_venv(tmp_path))
    ran = [c for c in dict.fromkeys(commands(ENGLISH)) if isinstance(COMMANDS[c], Run) and c not in NEW_MODEL]
    assert len(ran) > 10
    for command in ran:
        shell(copy, command)
    assert copy.run("git", "status", "--porcelain").stdout == ""
    *lines, last = blocks(ENGLISH, "python")[0].replace("minilm", "tiny").splitlines()
    done = copy.run(sys.executable, "-c", "\n".join([*lines, f"print({last})"]))
    assert re.search(r"'label': '(POSITIVE|NEGATIVE)', 'score': 0\.", done.stdout), done.stdout


def test_a_model_is_added_as_shown(copy: Repository, tiny_model: Path, tmp_path: Path) -> None:
    """The YAML of the README, line by line; the Hub is on the loopback address and has that model at that commit."""
    catalog, params = blocks(ENGLISH, "yaml")[:2]
    assert len((catalog + params).splitlines()) == 5
    assert COMMIT in catalog
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ONLY_LOOPBACK)
    for file, section, lines in (("catalog.yaml", "models", catalog), ("params.yaml", "overrides", params)):
        text = (copy.path / file).read_text(encoding="utf-8")
        assert text.count(f"\n{section}:\n") == 1
        (copy.path / file).write_text(text.replace(f"\n{section}:\n", f"\n{section}:\n{lines}"), encoding="utf-8")
    copy.edit("params.yaml", lambda p: p["models"].append("small"))
    with serving() as hub:
        hub.add("your-name/your-model", tiny_model)
        copy.env.update(in_place_of_venv(tmp_path) | {"PYTHONPATH": str(site), "HF_ENDPOINT": hub.url})
        for command in NEW_MODEL:
            ran = re.findall(r"Running stage '([^']+)'", shell(copy, command))
        again = copy.run(sys.executable, "-m", "reproduce.pin", "--model", "small").stdout
    assert set(ran) == {
        *(f"{stage}@small" for stage in ("download_tokenizer", "download_weights", "tokenize")),
        "finetune@small-1", "evaluate@small-1", "export@small", "benchmark", "compare", "report",
    }  # fmt: skip
    assert (copy.path / "models/weights/small/model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    assert copy.json("metrics/accuracy.json")["models"]["small"]["seeds_run"] == 1
    assert "models.small was pinned already, and all of it agrees" in again


def test_a_model_whose_bytes_are_not_what_the_hub_states_is_not_pinned(
    repository: Repository, tiny_model: Path, tmp_path: Path
) -> None:
    from hub import Changed, forever

    catalog = blocks(ENGLISH, "yaml")[0]
    text = (repository.path / "catalog.yaml").read_text(encoding="utf-8").replace("\nmodels:\n", f"\nmodels:\n{catalog}")
    (repository.path / "catalog.yaml").write_text(text, encoding="utf-8")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ONLY_LOOPBACK)
    with serving() as hub:
        hub.add("your-name/your-model", tiny_model)
        hub.inject("GET", "config.json", forever(Changed(at=5)))
        repository.env.update({"PYTHONPATH": str(site), "HF_ENDPOINT": hub.url})
        done = repository.run(sys.executable, "-m", "reproduce.pin", "--model", "small", ok=False)
    assert done.returncode == 1 and "config.json: sha256 expected" in done.stderr and "Traceback" not in done.stderr
    assert (repository.path / "catalog.yaml").read_text(encoding="utf-8") == text


# --------------------------------------------------------------------------------- messages, links, the two languages


def troubles(text: str) -> list[str]:
    """The messages of the table, in order."""
    table = text[text.index("3.11 or newer needed") :].split("\n\n")[0]
    return [message for row in ("| `" + table).splitlines() for message in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_each_message_of_the_troubleshooting_table_is_in_the_code() -> None:
    code = [ROOT / "Makefile", *(ROOT / "reproduce").glob("*.py"), *(ROOT / "stages").glob("*.py")]
    sources = [path.read_text(encoding="utf-8") for path in code]
    messages = troubles(ENGLISH)
    assert len(messages) >= 20
    assert [message for message in messages if not any(message in source for source in sources)] == []


@pytest.mark.parametrize("text", [ENGLISH, PORTUGUESE], ids=["en", "pt-BR"])
def test_links_lead_somewhere(text: str) -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for _, heading in headings(text)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def headings(text: str) -> list[tuple[int, str]]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose, re.MULTILINE)]


def test_the_two_languages_are_in_step() -> None:
    assert [level for level, _ in headings(ENGLISH)] == [level for level, _ in headings(PORTUGUESE)]
    assert commands(ENGLISH) == commands(PORTUGUESE)
    for language in ("yaml", "python"):
        assert blocks(ENGLISH, language) == blocks(PORTUGUESE, language)
    assert re.findall(r"^ *\S+", blocks(ENGLISH, "text")[0], re.MULTILINE) == re.findall(
        r"^ *\S+", blocks(PORTUGUESE, "text")[0], re.MULTILINE
    )
    assert troubles(ENGLISH) == troubles(PORTUGUESE)
    assert [match[2] for match in BLOCK.finditer(ENGLISH)] == [match[2] for match in BLOCK.finditer(PORTUGUESE)]
    paragraphs = [len(re.findall(r"\n\n", BLOCK.sub("", text))) for text in (ENGLISH, PORTUGUESE)]
    assert paragraphs[0] == paragraphs[1], "a paragraph is missing in one of them"
    links = [sorted(re.findall(r"\]\(([^)#]+)\)", BLOCK.sub("", text))) for text in (ENGLISH, PORTUGUESE)]
    assert set(links[0]) ^ set(links[1]) == {"README.md", "README.pt-BR.md"}
