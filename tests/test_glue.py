"""The nine tasks of the article's Table 1, each from a Hub to its metrics: small stand-ins in the real files' schema (tests/hub.py)."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score
from transformers import AutoTokenizer

from conftest import (
    ROOT,
    Repository,
    in_place_of_venv,
    load_yaml,
    make_repository,
    pin,
    pocket_lines,
)
from hub import ONLY_LOOPBACK, Changed, Hub, contents, forever, serving
from reproduce import pin as pinning
from reproduce.files import UserError
from reproduce.params import read_yaml, validate
from reproduce.verdict.published import Published
from stages import download_dataset, finetune, tokenize

pytestmark = pytest.mark.usefixtures("warm")

# Text columns and classes as the Hub's dataset card states them; no classes: the label is a float32.
SCHEMAS = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "stsb": (["sentence1", "sentence2"], []),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"]),
}  # fmt: skip
SIZES = {"train": 40, "validation": 20, "test": 6}
FILES = {split: split for split in SIZES}
MNLI_FILES = {"train": "train", "validation": "validation_matched", "test": "test_matched",
              "validation_mismatched": "validation_mismatched", "test_mismatched": "test_mismatched"}  # fmt: skip
HUB = "datasets/nyu-mll/glue"


def splits_of(task: str) -> dict[str, str]:
    """By split, what its file is called."""
    return MNLI_FILES if task == "mnli" else FILES


def stand_in(task: str, split: str) -> dict[str, list[Any]]:
    """The columns of a small split: sentences of the pocket corpus, labels in turn."""
    columns, classes = SCHEMAS[task]
    n = SIZES[split.removesuffix("_mismatched")]
    lines = [
        line.split("\t")[0]
        for line in pocket_lines("validation" if "mismatched" in split else "train", 2 * n)
    ]
    data: dict[str, list[Any]] = {name: lines[i::2] for i, name in enumerate(columns)}
    if (
        split.startswith("test") and task != "mrpc"
    ):  # MRPC's labels are there; the others' are hidden
        data["label"] = [-1 if classes else -1.0] * n
    else:
        data["label"] = [
            i % len(classes) if classes else [0.0, 2.923, 3.8, 5.0][i % 4] for i in range(n)
        ]
    if task == "qqp" and split == "train":  # as in the real one
        data["question1"][0], data["question2"][1] = "a tab\there, a line\nbreak there\r", ""
    return {**data, "idx": list(range(n))}


def as_raw(task: str, split: str) -> bytes:
    """What data/raw must hold of a stand-in, put together here by hand."""
    columns, classes = SCHEMAS[task]
    data = stand_in(task, split)
    hidden = split.startswith("test")
    lines = ["\t".join(["index", *columns] if hidden else [*columns, "label"])]
    for i, label in enumerate(data["label"]):
        texts = [
            data[name][i].replace("\t", " ").replace("\n", " ").replace("\r", " ")
            for name in columns
        ]
        lines.append(
            "\t".join(
                [str(i), *texts] if hidden else [*texts, str(label) if classes else f"{label:.3f}"]
            )
        )
    return ("\n".join(lines) + "\n").encode()


def write_stand_ins(folder: Path) -> None:
    for task, (columns, classes) in SCHEMAS.items():
        label = ClassLabel(names=classes) if classes else Value("float32")
        features = Features(
            {**{name: Value("string") for name in columns}, "label": label, "idx": Value("int32")}
        )
        for split, file in splits_of(task).items():
            path = folder / task / f"{file}-00000-of-00001.parquet"
            path.parent.mkdir(exist_ok=True)
            Dataset.from_dict(stand_in(task, split), features).to_parquet(str(path))


@contextmanager
def inside(repository: Repository, hub: Hub) -> Iterator[pytest.MonkeyPatch]:
    """This process in the repository, its Hub client facing `hub` with a cache of the repository's."""
    from huggingface_hub import close_session, constants

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository.path)
        patch.setattr(
            os,
            "environ",
            {
                k: v
                for k, v in os.environ.items()
                if k != "HUB_MIRROR" and not k.lower().endswith("_proxy")
            },
        )
        for name, value in {
            "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(repository.path.parent / "cache"), "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():  # fmt: skip
            patch.setattr(constants, name, value)
        close_session()
        yield patch
        close_session()


def run(patch: pytest.MonkeyPatch, module: Any, *arguments: str) -> None:
    patch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("glue")
    write_stand_ins(folder)
    with serving() as server:
        server.any_commit = True  # the catalog's own revision
        server.add(HUB, folder)
        yield server


@pytest.fixture(scope="module")
def unpinned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, hub: Hub) -> Repository:
    """A repository with the catalog's nine tasks as they are, but for the real files' sizes; `distilbert` is the tiny model."""
    path = tmp_path_factory.mktemp("nine") / "repository"
    made = make_repository(path, tiny_model, commit=False)

    def catalog(data: Any) -> None:
        data["models"]["distilbert"] = data["models"]["tiny"]
        for task in SCHEMAS:
            for split in splits_of(task):
                for key in ("bytes", "sha256", "rows", "tsv_md5"):
                    data["datasets"][task][split].pop(key, None)

    made.edit("catalog.yaml", catalog)
    made.edit("params.yaml", lambda data: data.update(models=["distilbert"]))
    made.edit(
        "params.yaml", lambda data: data["compare"].update(teacher="bert", student="distilbert")
    )
    (path.parent / "site").mkdir()
    (path.parent / "site/sitecustomize.py").write_text(ONLY_LOOPBACK)
    env = {key: value for key, value in made.env.items() if not key.lower().endswith("_proxy")}
    env |= {"PYTHONPATH": str(path.parent / "site"), "HF_HOME": str(path.parent / "hf"), "HF_ENDPOINT": hub.url,
            "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    return Repository(path, env)


@dataclass
class Pinning:
    """What happened when a task was pinned."""

    refused: str  # by the download stage, before
    before: list[str]  # lines of catalog.yaml
    after: list[str]


@pytest.fixture(scope="module")
def pinned(unpinned: Repository, hub: Hub) -> tuple[Repository, dict[str, Pinning]]:
    """The repository once all nine are pinned, and how that went."""
    done = {}
    with inside(unpinned, hub) as patch:
        for task in SCHEMAS:
            unpinned.edit("params.yaml", lambda data, task=task: data.update(dataset=task))  # type: ignore[misc]
            with pytest.raises(UserError) as error:
                run(patch, download_dataset)
            before = Path("catalog.yaml").read_text(encoding="utf-8")
            run(patch, pinning, "--dataset", task)
            done[task] = Pinning(
                str(error.value),
                before.split("\n"),
                Path("catalog.yaml").read_text(encoding="utf-8").split("\n"),
            )
    unpinned.run("git", "add", "-A")
    unpinned.run("git", "commit", "-qm", "pins")
    return unpinned, done


# --- the entries ------------------------------------------------------------------------------------------------------


def test_the_catalog_has_the_cards_columns_classes_and_files() -> None:
    catalog = read_yaml(ROOT / "catalog.yaml")["datasets"]
    for task, (columns, classes) in SCHEMAS.items():
        entry = catalog[task]
        assert entry["columns"] == columns
        assert [name.lower() for name in entry["labels"]] == classes
        assert (
            entry["sources"][0] == catalog["sst2"]["sources"][0]
        )  # one revision of one repository
        files = {split: entry[split]["file"] for split in entry if isinstance(entry[split], dict)}
        assert files == {
            split: f"{task}/{file}-00000-of-00001.parquet"
            for split, file in splits_of(task).items()
        }


def test_the_entry_in_the_readme_is_that_of_the_catalog() -> None:
    (shown,) = re.findall(
        r"^```yaml\n(  rte:\n.*?)^```$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert f"\n{shown}\n" in (ROOT / "catalog.yaml").read_text(encoding="utf-8")


def test_every_dataset_has_a_recipe_and_every_published_row_a_dataset_with_its_metric() -> None:
    catalog = read_yaml(ROOT / "catalog.yaml")["datasets"]
    assert set(read_yaml(ROOT / "params.yaml")["tasks"]) == set(catalog)
    rows = [
        row
        for row in validate(
            Published, read_yaml(ROOT / "published.yaml"), "published.yaml:"
        ).results
        if row.model
    ]
    assert {row.dataset for row in rows} == set(SCHEMAS)
    for row in rows:
        assert row.metric in (catalog[row.dataset]["metrics"][0], "not named"), row


# --- pinning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", SCHEMAS)
def test_an_unpinned_task_is_refused_and_pinning_changes_its_lines_alone(
    pinned: tuple[Repository, dict[str, Pinning]], hub: Hub, task: str
) -> None:
    done = pinned[1][task]
    assert done.refused == (
        f"catalog.yaml: datasets.{task}.train has no bytes and sha256: its files were never pinned. Run `make pin DATASET={task}`, "
        "which downloads them once and writes what they are into catalog.yaml."
    )
    after, added = list(done.after), []
    for i, line in enumerate(done.before):
        while after[i] != line:
            added.append((i, after.pop(i)))
    assert after == done.before, "a line was changed or removed"
    top = done.before.index(f"  {task}:")
    end = next(i for i, line in enumerate(done.before) if i > top and re.match(r" {0,2}\S", line))
    assert all(top < i <= end for i, _ in added)
    expected = []
    for split, file in splits_of(task).items():
        path = hub.files[HUB, f"{task}/{file}-00000-of-00001.parquet"]
        about = {**pin(path), "rows": SIZES[split.removesuffix("_mismatched")]}
        expected += [f"      {key}: {value}" for key, value in about.items()]
    assert sorted(line for _, line in added) == sorted(expected)
    validate_places(done.after, task)


def validate_places(lines: list[str], task: str) -> None:
    """Each split's pins stand right below its file."""
    for i, line in enumerate(lines):
        if line.startswith(f"      file: {task}/"):
            assert [below.split(":")[0].strip() for below in lines[i + 1 : i + 4]] == [
                "bytes",
                "sha256",
                "rows",
            ]


def test_the_real_catalog_keeps_every_line_and_comment() -> None:
    text = (ROOT / "catalog.yaml").read_text(encoding="utf-8")
    rows = read_yaml(ROOT / "catalog.yaml")["datasets"]["mnli"]
    found: dict[str, Any] = {
        split: {"bytes": 7, "sha256": "b" * 64, "rows": rows[split]["rows"]} for split in MNLI_FILES
    }
    after = pinning.insert(text, "dataset", "mnli", found)
    added = ["      bytes: 7", f"      sha256: {'b' * 64}"]
    assert [line for line in after.split("\n") if line not in added] == text.split("\n")
    assert after.count("\n") == text.count("\n") + 10
    assert pinning.insert(after, "dataset", "mnli", found) == after


def test_make_pin_again_agrees_and_writes_nothing(
    pinned: tuple[Repository, dict[str, Pinning]], tmp_path: Path
) -> None:
    repository, _ = pinned
    done = repository.run("make", "pin", "DATASET=rte", ok=True, **in_place_of_venv(tmp_path))
    assert done.stdout.splitlines() == [
        "pins by what the Hub states of nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        "source Hub nyu-mll/glue@bcdcba79: 3 file(s), sha256 verified",
        "catalog.yaml: datasets.rte was pinned already, and all of it agrees: nothing to write",
    ]
    assert repository.run("git", "status", "--porcelain", "catalog.yaml").stdout == ""


@pytest.fixture
def one(tmp_path: Path, hub: Hub) -> Iterator[tuple[Repository, pytest.MonkeyPatch]]:
    """A folder with nothing but the real catalog, in which `rte` is to be pinned. Its rows are not those of the stand-in."""
    folder = Repository(tmp_path / "repository", {})
    folder.path.mkdir()
    (folder.path / "catalog.yaml").write_bytes((ROOT / "catalog.yaml").read_bytes())
    with inside(folder, hub) as patch:
        yield folder, patch


def refused(one: tuple[Repository, pytest.MonkeyPatch], *arguments: str) -> str:
    folder, patch = one
    before = contents(folder.path)
    with pytest.raises(UserError) as error:
        run(patch, pinning, *(arguments or ("--dataset", "rte")))
    assert contents(folder.path) == before
    return str(error.value)


def smaller(rte: Any) -> None:
    """The rows of the stand-in."""
    rte["train"]["rows"], rte["validation"]["rows"], rte["test"]["rows"] = SIZES.values()


TRAIN = "rte/train-00000-of-00001.parquet"
ENTRIES: dict[str, tuple[Any, str]] = {
    "other rows": (lambda rte: None, f"{TRAIN}: expected 2490 rows (catalog.yaml), found 40."),
    "another column": (lambda rte: rte.update(columns=["premise", "hypothesis"]),
                       f"{TRAIN}: column premise is missing, expected premise, hypothesis and label, found sentence1, sentence2, label, idx."),
    "classes in another order": (lambda rte: rte.update(labels=["not_entailment", "entailment"]),
                                 f"{TRAIN}: its classes are entailment, not_entailment, in catalog.yaml not_entailment, entailment."),
    "another number of classes": (lambda rte: rte.update(labels=["a", "b", "c"]), f"{TRAIN}: its classes are entailment, not_entailment, "
                                  "in catalog.yaml a, b, c."),
    "numbers": (lambda rte: rte.update(labels=[], scale=[0, 1], metrics=["pearson"]),
                f"{TRAIN}: its classes are entailment, not_entailment, in catalog.yaml none."),
    "a file that is not there": (lambda rte: rte["test"].update(file="rte/exam.parquet"), "Hub nyu-mll/glue@bcdcba79: 404 Not Found: "
                                 "rte/exam.parquet in dataset nyu-mll/glue at revision "),
    "a source that is a folder": (lambda rte: rte.update(sources=[{"folder": "data/rte"}]), f"folder data/rte: has no data/rte/{TRAIN}. "
                                  "Nothing was written. "),
    "other pins": (lambda rte: rte["train"].update(bytes=1, sha256="a" * 64), f"catalog.yaml: datasets.rte: {TRAIN} is pinned to bytes 1, "
                   f"sha256 {'a' * 64}; by what the Hub states of nyu-mll/glue@bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c it has bytes "),
    "half a pin": (lambda rte: rte["train"].update(bytes=1), "catalog.yaml: datasets.rte.train: bytes, sha256 and rows go together: "),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ENTRIES.values(), ids=ENTRIES)
def test_what_does_not_fit_is_refused_and_the_catalog_kept(
    one: tuple[Repository, pytest.MonkeyPatch], change: Any, message: str
) -> None:
    def edit(data: Any) -> None:
        if "rows (" not in message:
            smaller(data["datasets"]["rte"])
        change(data["datasets"]["rte"])

    one[0].edit("catalog.yaml", edit)
    assert refused(one).startswith(message)


def test_an_unknown_dataset_and_an_entry_in_braces_are_refused(
    one: tuple[Repository, pytest.MonkeyPatch],
) -> None:
    assert refused(one, "--dataset", "imdb").startswith(
        "unknown dataset 'imdb': catalog.yaml knows cola, mnli, "
    )
    one[0].edit("catalog.yaml", lambda data: smaller(data["datasets"]["rte"]))
    one[0].edit(
        "catalog.yaml", lambda data: data["datasets"]["rte"]["validation"].fa.set_flow_style()
    )
    assert refused(one) == (
        "catalog.yaml: write datasets.rte without braces, a line a key, as the other entries are."
    )


def test_rows_that_are_known_are_kept_in_their_place(
    one: tuple[Repository, pytest.MonkeyPatch],
) -> None:
    folder, patch = one
    text = (folder.path / "catalog.yaml").read_text(encoding="utf-8")
    for known, small in zip(("2490", "277", "3000"), SIZES.values(), strict=True):
        text = text.replace(f"rows: {known}\n", f"rows: {small}  # by the card\n")
    (folder.path / "catalog.yaml").write_text(text, encoding="utf-8")
    run(patch, pinning, "--dataset", "rte")
    after = (folder.path / "catalog.yaml").read_text(encoding="utf-8")
    assert (
        len(
            re.findall(
                r"\n      bytes: \d+\n      sha256: \w{64}\n      rows: \d+  # by the card\n", after
            )
        )
        == 3
    )
    assert re.sub(r"      (bytes|sha256): \w+\n", "", after) == re.sub(
        r"      (bytes|sha256): \w+\n", "", text
    )


def test_bytes_that_are_not_what_the_hub_states_are_not_pinned(
    one: tuple[Repository, pytest.MonkeyPatch], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    one[0].edit("catalog.yaml", lambda data: smaller(data["datasets"]["rte"]))
    hub.inject("GET", TRAIN, forever(Changed(100)))
    try:
        assert refused(one).startswith(f"Hub nyu-mll/glue@bcdcba79: {TRAIN}: sha256 expected ")
    finally:
        hub.inject("GET", TRAIN, [])
    assert "downloading once more" in capsys.readouterr().out


def test_a_file_outside_git_lfs_must_have_the_blob_id_that_the_hub_states(
    one: tuple[Repository, pytest.MonkeyPatch], hub: Hub
) -> None:
    folder, patch = one
    folder.edit("catalog.yaml", lambda data: smaller(data["datasets"]["rte"]))
    path = hub.files[HUB, TRAIN]
    right = hub.etag(path)
    try:
        hub.etags[path] = "0" * 40
        assert refused(one).startswith(
            f"Hub nyu-mll/glue@bcdcba79: {TRAIN} is not what the Hub states: expected {'0' * 40}, found "
        )
        # `git hash-object` of the file
        asked = subprocess.run(
            ["git", "hash-object", "--no-filters", path], capture_output=True, text=True, check=True
        )
        hub.etags[path] = asked.stdout.strip()
        run(patch, pinning, "--dataset", "rte")
    finally:
        hub.etags[path] = right
    assert load_yaml(folder.path / "catalog.yaml")["datasets"]["rte"]["train"] == {
        "file": TRAIN,
        **pin(path),
        "rows": 40,
    }


def test_a_hub_that_states_no_checksum_is_not_believed_but_a_mirror_folder_is(
    one: tuple[Repository, pytest.MonkeyPatch],
    hub: Hub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, patch = one
    folder.edit("catalog.yaml", lambda data: smaller(data["datasets"]["rte"]))
    path = hub.files[HUB, TRAIN]
    right = hub.etag(path)
    hub.etags[path] = "0" * 20
    try:
        silence = f"it states no checksum of {TRAIN}"
        assert refused(one).startswith(
            f"Hub nyu-mll/glue@bcdcba79: {silence}; HUB_MIRROR is not set. Nothing was written. "
        )
        mirror = tmp_path / "mirror" / HUB
        os.environ["HUB_MIRROR"] = str(tmp_path / "mirror")
        assert refused(one).startswith(
            f"Hub nyu-mll/glue@bcdcba79: {silence}; HUB_MIRROR has no {mirror / TRAIN}. "
        )
        for name in FILES:
            file = f"rte/{name}-00000-of-00001.parquet"
            (mirror / file).parent.mkdir(parents=True, exist_ok=True)
            (mirror / file).write_bytes(hub.files[HUB, file].read_bytes())
        run(patch, pinning, "--dataset", "rte")
    finally:
        hub.etags[path] = right
    assert capsys.readouterr().out.splitlines()[0] == (
        f"pins by what HUB_MIRROR {mirror} holds, since the Hub could not be asked ({silence})"
    )
    assert load_yaml(folder.path / "catalog.yaml")["datasets"]["rte"]["train"] == {
        "file": TRAIN,
        **pin(path),
        "rows": 40,
    }


def test_the_module_says_what_it_does_and_ends_with_one_message(unpinned: Repository) -> None:
    module = (sys.executable, "-m", "tools.pin")
    for arguments, message in (
        (("--dataset", "imdb"), "error: unknown dataset 'imdb'"),
        (("--model", "imdb"), "error: catalog.yaml: models.imdb has no sources."),
    ):
        done = unpinned.run(*module, *arguments, ok=False)
        assert (
            done.returncode == 1
            and done.stderr.startswith(message)
            and "Traceback" not in done.stderr
        )
    done = unpinned.run(*module, "--dataset", "pocket")
    assert (
        "pins by what folder data/pocket holds" in done.stdout
        and "datasets.pocket was pinned already" in done.stdout
    )
    assert (
        "make pin DATASET=rte" in unpinned.run(sys.executable, "-m", "tools.pin", "--help").stdout
    )


# --- from the Hub to tokens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", SCHEMAS)
def test_a_pinned_task_is_downloaded_and_tokenised(
    pinned: tuple[Repository, dict[str, Pinning]], hub: Hub, tiny_model: Path, task: str
) -> None:
    repository, _ = pinned
    columns, classes = SCHEMAS[task]
    repository.edit("params.yaml", lambda data: data.update(dataset=task))
    tokenizer_dir = repository.path / "models/tokenizers/distilbert"
    if not tokenizer_dir.exists():
        repository.stage("download_tokenizer", "--model", "distilbert")
    with inside(repository, hub) as patch:
        run(patch, download_dataset)
        run(patch, tokenize, "--model", "distilbert")
    expected = {f"{split}.tsv": as_raw(task, split) for split in splits_of(task)}
    assert contents(repository.path / "data/raw") == expected
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir))
    for split in splits_of(task):
        table = pyarrow.parquet.read_table(
            repository.path / f"data/tokenized/distilbert/{split}.parquet"
        )
        texts = [line.split("\t")[-len(columns) :] if split.startswith("test") else line.split("\t")[:-1]
                 for line in expected[f"{split}.tsv"].decode().split("\n")[1:-1]]  # fmt: skip
        # One at a time; in lists, because a bare "" for the second text would count as none.
        directly = [
            tokenizer(*([text] for text in example), truncation=True, max_length=128)
            for example in texts
        ]
        assert table["input_ids"].to_pylist() == [one["input_ids"][0] for one in directly]
        if len(columns) == 2:
            assert table["token_type_ids"].to_pylist() == [
                one["token_type_ids"][0] for one in directly
            ]
            assert {t for row in table["token_type_ids"].to_pylist() for t in row} == {0, 1}
        else:
            assert "token_type_ids" not in table.column_names
        label = Features.from_arrow_schema(table.schema)["label"]
        if classes:
            assert [name.lower() for name in label.names] == classes
        else:
            assert label == Value("float32")
        found, source = table["label"].to_pylist(), stand_in(task, split)["label"]
        assert found == ([-1] * len(source) if split.startswith("test") else pytest.approx(source))


def test_sentences_held_out_of_train_take_the_place_of_both_validation_sets(
    pinned: tuple[Repository, dict[str, Pinning]], hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    repository, _ = pinned
    start = (repository.path / "params.yaml").read_bytes()
    repository.edit("params.yaml", lambda data: data.update(dataset="mnli"))
    repository.edit("params.yaml", lambda data: data["selection"].update(holdout=10))
    with inside(repository, hub) as patch:
        run(patch, download_dataset)
    (repository.path / "params.yaml").write_bytes(start)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "data/raw: mnli, train 30, validation 10, test 6, test_mismatched 6 sentences, "
        "validation held out of train (selection.holdout)"
    )
    assert {path.stem for path in (repository.path / "data/raw").iterdir()} == {
        "train",
        "validation",
        "test",
        "test_mismatched",
    }
    lines = [
        (repository.path / f"data/raw/{split}.tsv").read_bytes().splitlines()[1:]
        for split in ("train", "validation")
    ]
    assert sorted([*lines[0], *lines[1]]) == sorted(as_raw("mnli", "train").splitlines()[1:])


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_on_numbers_lowers_the_squared_error_and_token_types_reach_the_model(
    pinned: tuple[Repository, dict[str, Pinning]], hub: Hub
) -> None:
    """Labels from 0 to 5 have a mean of 2.93: a head that starts near 0 is 12 off on average, squared, and learns that at least."""
    repository, _ = pinned
    start = (repository.path / "params.yaml").read_bytes()
    fast = {"learning_rate": 1e-2, "warmup_steps": 2, "epochs": 6}
    repository.edit("params.yaml", lambda data: data.update(dataset="stsb"))
    repository.edit("params.yaml", lambda data: data["overrides"]["distilbert"].update(fast))
    for part in ("tokenizer", "weights"):
        repository.stage(f"download_{part}", "--model", "distilbert")
    path = repository.path / "data/tokenized/distilbert/train.parquet"
    curve = repository.path / "plots/curves/distilbert-1/plots/metrics/loss.tsv"
    losses = []
    with inside(repository, hub) as patch:
        run(patch, download_dataset)
        run(patch, tokenize, "--model", "distilbert")
        for table in (
            pyarrow.parquet.read_table(path),
            pyarrow.parquet.read_table(path).drop_columns("token_type_ids"),
        ):
            pyarrow.parquet.write_table(table, path)
            run(patch, finetune, "--model", "distilbert", "--seed", "1")
            losses.append(
                [float(line.split("\t")[1]) for line in curve.read_text().splitlines()[1:]]
            )
    (repository.path / "params.yaml").write_bytes(start)
    shutil.rmtree(repository.path / "environment")  # the next test wants git to see nothing
    told, untold = losses
    variance = 3.4  # of 0, 2.923, 3.8 and 5, with room for what 40 pairs and dropout add
    assert told[0] > 8 and sum(told[-3:]) / 3 < 1.5 * variance
    assert len(told) == len(untold) == 15 and told != pytest.approx(untold, rel=1e-3)
    config = repository.json("models/finetuned/distilbert-1/config.json")
    assert config["problem_type"] == "regression"


# --- the whole pipeline -----------------------------------------------------------------------------------------------


def learning_rates(text: str) -> list[float]:
    return [float(line.split("\t")[1]) for line in text.splitlines()[1:]]


def test_an_experiment_on_pairs_goes_from_the_hub_to_its_verdict(
    pinned: tuple[Repository, dict[str, Pinning]],
) -> None:
    """As README says it, beside the workspace, which stays as it is."""
    repository, _ = pinned
    repository.run("git", "checkout", "-q", "--", ".")
    repository.run("git", "clean", "-qfd")
    done = repository.run("dvc", "exp", "run", "--temp", "-S", "dataset=rte", "-n", "rte")
    assert "compare" in re.findall(r"Running stage '([^']+)'", done.stdout)
    assert repository.run("git", "status", "--porcelain").stdout == ""
    ref = repository.run(
        "git", "for-each-ref", "refs/exps/*/*/rte", "--format=%(refname)"
    ).stdout.strip()
    run_metrics, accuracy, claims = (
        json.loads(repository.run("git", "show", f"{ref}:metrics/{name}.json").stdout)
        for name in ("runs/distilbert-1", "accuracy", "claims")
    )
    assert (run_metrics["dataset"], run_metrics["metric"], run_metrics["n"]) == (
        "rte",
        "accuracy",
        20,
    )
    assert run_metrics["score"] == run_metrics["accuracy"] == run_metrics["correct"] / 20
    assert set(run_metrics["confusion"]) == set(SCHEMAS["rte"][1])
    assert accuracy["models"]["distilbert"]["median"] == round(100 * run_metrics["score"], 2)
    assert accuracy["models"]["distilbert"]["published"]["score"] == 59.9
    claim = claims["claims"]["distilbert_accuracy"]
    assert claim["published"] == 59.9 and claim["verdict"] != "not run"


@pytest.mark.parametrize("task", ["stsb", "mnli"])
def test_numbers_and_three_classes_go_through_the_whole_pipeline(
    pinned: tuple[Repository, dict[str, Pinning]], task: str
) -> None:
    repository, _ = pinned
    repository.edit("params.yaml", lambda data: data.update(dataset=task))
    assert "compare" in repository.repro()
    metrics = repository.json("metrics/runs/distilbert-1.json")
    frame = pd.read_csv(repository.path / "predictions/distilbert-1.csv", keep_default_na=False)
    source = stand_in(task, "validation")
    columns, classes = SCHEMAS[task]
    assert list(frame.columns) == [*columns, "label", "predicted", *["probability"][: len(classes)]]
    assert frame[columns].to_dict("list") == {name: source[name] for name in columns}
    assert frame["label"].tolist() == source["label"]  # 2.923, not the float32 next to it
    if task == "stsb":
        assert (
            metrics["pearson"]
            == metrics["score"]
            == pytest.approx(pearsonr(frame["label"], frame["predicted"])[0], abs=1e-4)
        )
        assert metrics["spearman"] == pytest.approx(
            spearmanr(frame["label"], frame["predicted"])[0], abs=1e-4
        )
        assert metrics["loss"] == pytest.approx(
            ((frame["label"] - frame["predicted"]) ** 2).mean(), abs=1e-4
        )
        assert (
            "correct" not in metrics and "confusion" not in metrics and "mismatched" not in metrics
        )
    else:
        assert (
            metrics["accuracy"]
            == metrics["score"]
            == accuracy_score(frame["label"], frame["predicted"])
        )
        assert set(metrics["confusion"]) == set(classes)
        assert metrics["mismatched"]["n"] == 20 and metrics["mismatched"]["loss"] != metrics["loss"]
        assert 0 <= metrics["mismatched"]["accuracy"] <= 1
    config = repository.json("models/finetuned/distilbert-1/config.json")
    assert list(config["id2label"].values()) == (classes or ["LABEL_0"])
    accuracy = repository.json("metrics/accuracy.json")
    assert (accuracy["dataset"], accuracy["metric"]) == (task, metrics["metric"])
    assert accuracy["models"]["distilbert"]["median"] == round(100 * metrics["score"], 2)
    assert (
        accuracy["models"]["distilbert"]["published"]["score"] == {"stsb": 86.9, "mnli": 82.2}[task]
    )
    assert task in (repository.path / "report/comparison.md").read_text(encoding="utf-8")
    # The recipe is that of `tasks`: no warm-up, from 2e-5 down to 0, whatever `finetune` says.
    curve = (
        repository.path / "plots/curves/distilbert-1/plots/metrics/learning_rate.tsv"
    ).read_text()
    rates = learning_rates(curve)
    assert rates == sorted(rates, reverse=True) and 1e-5 < rates[0] <= 2e-5


def test_nothing_of_another_task_is_left_behind(
    pinned: tuple[Repository, dict[str, Pinning]],
) -> None:
    """MNLI has files that RTE has not."""
    repository, _ = pinned
    repository.edit("params.yaml", lambda data: data.update(dataset="rte"))
    repository.repro()  # the experiment ran it all: it comes from the run cache
    assert repository.json("metrics/accuracy.json")["dataset"] == "rte"
    assert {path.stem for path in (repository.path / "data/tokenized/distilbert").iterdir()} == {
        "train", "validation", "test", "summary",
    }  # fmt: skip
    assert "mismatched" not in repository.json("metrics/runs/distilbert-1.json")
