"""Tokenising: the tokenizer's own ids, cut and unpadded; what cannot be padded or loaded."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing

from conftest import Here, Repository
from reproduce.files import UserError
from reproduce.inputs.tokenized import read_tokenized
from reproduce.inputs.tokenizer import (
    length_summary,
    load_tokenizer,
    read_config,
    refuse_unfit,
    tokenize_split,
)

NAMES = ["NEGATIVE", "POSITIVE"]
SENTENCES = ["A gripping film. ", "x" * 40, "Not funny, not once!", "ÜBER – 電影"]
FIRST = ["A gripping film. ", "x" * 12, "Not funny.", ""]
SECOND = ["The film grips.", "y" * 30, "", "Only this one"]
PAIRS = [f"{a}\t{b}" for a, b in zip(FIRST, SECOND, strict=True)]
LABELS = [1, 0, 1, 0]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


def test_ids_are_the_tokenizer_s_own_cut_at_max_length_and_unpadded(tokenizer: Any) -> None:
    """What is cut still ends in [SEP]."""
    tokenized = tokenize_split(tokenizer, SENTENCES, LABELS, NAMES, 20, token_types=True)
    assert tokenized.column_names == ["input_ids", "label"]
    whole = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES]
    cut = [ids if len(ids) <= 20 else [*ids[:19], tokenizer.sep_token_id] for ids in whole]
    assert list(tokenized["input_ids"]) == cut and whole[0] == cut[0] and whole[1] != cut[1]


@pytest.mark.parametrize("max_length", [128, 21])
def test_pairs_are_what_the_tokenizer_makes_of_two_texts(tokenizer: Any, max_length: int) -> None:
    directly = tokenizer(FIRST, SECOND, truncation=True, max_length=max_length)
    typed = tokenize_split(tokenizer, PAIRS, LABELS, NAMES, max_length, token_types=True)
    assert list(typed["input_ids"]) == directly["input_ids"]
    assert list(typed["token_type_ids"]) == directly["token_type_ids"]
    plain = tokenize_split(tokenizer, PAIRS, LABELS, NAMES, max_length)  # DistilBERT: no types
    assert plain.column_names == ["input_ids", "label"]


def test_a_sentence_without_a_token_is_refused(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.backend_tokenizer.post_processor = None  # as of a decoder: no [CLS], no [SEP]
    with pytest.raises(UserError, match=r"makes no token of '\\u200b'"):
        tokenize_split(tokenizer, ["fine", "\u200b"], [0, 1], NAMES, 128)


def test_length_summary_of_known_lengths() -> None:
    features = Features({"input_ids": List(Value("int32"))})
    rows = [list(range(n)) for n in (8, 3, 8, 5, 8)]
    assert length_summary(Dataset.from_dict({"input_ids": rows}, features), 8) == {
        "sentences": 5, "tokens": 32, "mean": 6.4, "median": 8.0, "p99": 8.0, "max": 8,
        "at_max_length": 3,
    }  # fmt: skip


# --- the stage ------------------------------------------------------------------------------------


@pytest.fixture
def here(repository: Repository) -> Here:
    """A repository with data and tokenizer, stages run in this process."""
    made = Here(repository.path, repository.env)
    made.stage("download_dataset")
    made.stage("download_model", "--model", "tiny", "--files", "tokenizer")
    return made


def test_what_is_read_is_what_was_written(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    here.stage("tokenize_text", "--model", "tiny")
    monkeypatch.chdir(here.path)
    split = read_tokenized("tiny", "train")
    assert len(split.input_ids) == len(split.labels) == 96 and split.token_type_ids is None
    assert split.label_names == NAMES and set(split.labels) == {0, 1}
    assert here.json("data/tokenized/tiny/summary.json")["train"]["sentences"] == 96
    schema = pyarrow.parquet.read_schema("data/tokenized/tiny/train.parquet")
    assert Features.from_arrow_schema(schema)["label"] == ClassLabel(names=NAMES)


def test_a_home_that_cannot_be_written_is_no_obstacle(here: Here) -> None:
    """Nor does it, another process or another time zone change a byte."""
    train = here.path / "data/tokenized/tiny/train.parquet"
    here.stage("tokenize_text", "--model", "tiny")
    first = train.read_bytes()
    command = (sys.executable, "-m", "stages.tokenize_text", "--model", "tiny")
    here.run(*command, HOME="/proc/none", HF_HOME="/proc/none/hf", TZ="Asia/Tokyo")
    assert train.read_bytes() == first


def test_a_missing_or_damaged_split_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"train\.parquet is missing\. Run `dvc repro tokenize@m`"):
        read_tokenized("m", "train")
    Path("data/tokenized/m").mkdir(parents=True)
    Path("data/tokenized/m/train.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"train\.parquet is damaged.*`dvc checkout "):
        read_tokenized("m", "train")


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "case, and a silent config": ({"lowercase": False}, {}),
    "case, and one that says so": ({}, {"do_lower_case": False}),
    "accents": ({"strip_accents": False}, {}),
    "Chinese": ({}, {"tokenize_chinese_chars": False}),
}


@pytest.mark.parametrize(("normalizer", "config"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_tokenizer_that_contradicts_its_config_is_refused(
    folder: Path, normalizer: dict[str, Any], config: dict[str, Any]
) -> None:
    edit(folder / "tokenizer.json", lambda data: data["normalizer"].update(normalizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="contradict each other: of"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_cannot_be_read_or_is_not_there_is_one_message(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^{folder} holds no fast tokenizer that"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=f"^{folder} has no tokenizer.json"):
        load_tokenizer(folder)


UNFIT: dict[str, tuple[str, dict[str, Any], str]] = {
    "architecture": ("config", {"model_type": "unheard-of"}, "transformers cannot read it"),
    "left": ("tokenizer_config", {"padding_side": "left"}, "its tokenizer pads on the left"),
    "no pad": ("tokenizer_config", {"pad_token": None}, "its tokenizer has no padding token"),
    "no id": ("config", {"pad_token_id": None}, "and config.json no pad_token_id"),
    "rows": ("config", {"vocab_size": 50}, r"its tokenizer has a token of id \d+, and the model"),
    "positions": ("config", {"max_position_embeddings": 64}, r"takes 64 tokens \(config\.json"),
    "length": ("tokenizer_config", {"model_max_length": 32}, r"takes 32 tokens \(tokenizer_config"),
}  # fmt: skip


@pytest.mark.parametrize(("file", "change", "message"), UNFIT.values(), ids=UNFIT)
def test_what_the_model_cannot_take_is_refused_by_name(
    folder: Path, file: str, change: dict[str, Any], message: str
) -> None:
    if file == "config":  # its own limits, not the tokenizer's
        edit(folder / "tokenizer_config.json", lambda data: data.pop("model_max_length"))
    edit(folder / f"{file}.json", lambda data: data.update(change))
    with pytest.raises(UserError, match=message) as error:
        refuse_unfit(load_tokenizer(folder), folder, 128)
    assert str(folder) in str(error.value)


def test_token_types_of_another_padding_are_refused(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer._pad_token_type_id = 3  # as XLNet's is
    with pytest.raises(UserError, match="its tokenizer pads with token type 3"):
        refuse_unfit(tokenizer, folder, 128)


def test_positions_may_begin_behind_the_padding_token(tmp_path: Path) -> None:
    """RoBERTa's: a tokenizer of bytes, with a post-processor of its own."""
    made = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special)
    made._tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "roberta", "vocab_size": 400, "pad_token_id": 1}
    config["max_position_embeddings"] = 129
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    refuse_unfit(tokenizer, tmp_path, 127)
    with pytest.raises(UserError, match="takes 127 tokens"):
        refuse_unfit(tokenizer, tmp_path, 128)


@pytest.mark.parametrize("load", [load_tokenizer, read_config])
@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_code_of_a_model_is_not_run_though_somebody_says_yes(
    folder: Path, load: Callable[[Path], Any], model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config.json may name classes in a Python file beside it (`auto_map`)."""
    mark = folder.parent / "code was run"
    config = {"model_type": model_type, "auto_map": {"AutoConfig": "evil.Evil"}}
    edit(folder / "config.json", lambda data: data.update(config))
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    try:
        load(folder)
    except UserError as error:
        assert str(folder) in str(error)
    assert not mark.exists()
