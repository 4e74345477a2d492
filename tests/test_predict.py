"""tools.predict: the model's own answers, in order; what cannot be answered is named."""

import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import pipeline

from conftest import ROOT, environment, pocket_lines, run_here
from reproduce.inputs.tokenizer import load_tokenizer
from reproduce.models.load import load_finetuned
from test_export import BERT, NAMES, made, make_source
from tools import lines, predict

SENTENCES = [line.split("\t")[0] for line in pocket_lines("train", 60)]
Answers = list[tuple[str, float]]  # label and probability


@pytest.fixture(scope="module")
def fine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `finetune` leaves; half of the answers are one class."""
    folder = tmp_path_factory.mktemp("fine") / "tiny-1"
    make_source(folder, tiny_model, "bert", id2label=dict(enumerate(NAMES)), **BERT)
    model: Any = load_finetuned(folder)
    tokens = load_tokenizer(folder)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        model.classifier.weight *= 20  # answers that are far apart
        model.classifier.bias -= model(**tokens).logits.median(dim=0).values
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(fine, tmp_path_factory.mktemp("exported") / "tiny-1")


def run(*arguments: object, stdin: bytes = b"") -> tuple[int, list[list[str]], str]:
    """Run the command in this process: exit code, rows on standard output, standard error."""
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))):
        done = run_here(Path(), dict(os.environ), "tools.predict", *map(str, arguments))
    return done.returncode, list(csv.reader(io.StringIO(done.stdout, newline=""))), done.stderr


def refused(*arguments: object, stdin: bytes = b"") -> str:
    """Run a command that must be refused before anything is printed; its one message."""
    code, rows, err = run(*arguments, stdin=stdin)
    assert (code, rows, err.count("error: ")) == (1, [], 1), (code, rows, err)
    return err.split("error: ")[1].strip()


def answers_of_pipeline(folder: Path, inputs: list[Any]) -> Answers:
    pipe = pipeline("text-classification", model=str(folder), device="cpu")
    answers = pipe(inputs, truncation=True, max_length=128)
    return [(answer["label"], answer["score"]) for answer in answers]


def close(rows: list[list[str]], answers: Answers) -> bool:
    """Whether these are the answers (batches of another shape are summed in another order)."""
    pairs = zip(rows, answers, strict=True)
    return all(row[-2] == label and abs(float(row[-1]) - p) < 2e-4 for row, (label, p) in pairs)


# --- the answers ---


@pytest.mark.parametrize(("kind", "batch_size"), [("fine", 7), ("exported", 1), ("exported", 64)])
def test_the_answers_are_those_of_transformers_own_pipeline_in_order(
    fine: Path, exported: Path, tmp_path: Path, kind: str, batch_size: int
) -> None:
    """Over several windows, with empty lines, other scripts, an unknown word and a cut sentence."""
    given = [*SENTENCES, "", "ÜBER – 電影", "x" * 400, "funny " * 300, " \t "]
    (tmp_path / "s.txt").write_text("\n".join(given), encoding="utf-8-sig")
    options = ("--model", {"fine": fine, "exported": exported}[kind], "--batch-size", batch_size)
    with mock.patch.object(lines, "WINDOW_LINES", 16):
        code, rows, err = run("--file", tmp_path / "s.txt", *options)
    assert code == 0, err
    assert rows[0] == ["sentence", "label", "probability"]
    assert [row[0] for row in rows[1:]] == given
    assert rows[61][1:] == rows[65][1:] == ["", ""]
    assert "empty: line(s) 61, 65\ncut: line(s) 64\n65 sentences (2 empty, 1 cut); " in err
    truth = answers_of_pipeline(fine, [sentence for sentence in given if sentence.strip()])
    assert {label for label, _ in truth} == set(NAMES)  # or it would prove nothing
    assert close([row for row in rows[1:] if row[1]], truth)


def test_a_model_of_numbers_gives_scores(tiny_model: Path, tmp_path: Path) -> None:
    folder = make_source(tmp_path / "number", tiny_model, "bert", num_labels=1, **BERT)
    tokens = load_tokenizer(folder)(SENTENCES[0], return_tensors="pt")
    _, rows, _ = run("--model", folder, SENTENCES[0], "")
    assert rows[0] == ["sentence", "score"] and rows[2] == ["", ""]
    score = load_finetuned(folder)(**tokens).logits.item()
    assert float(rows[1][1]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", ["fine", "exported"])
def test_pairs_get_their_token_types(fine: Path, exported: Path, tmp_path: Path, kind: str) -> None:
    pairs = [("A gripping film.", "Not funny."), ("One", "two three four, " * 60)]
    assert sum(load_tokenizer(fine)(*pairs[0])["token_type_ids"]) > 0
    truth = answers_of_pipeline(fine, [{"text": one, "text_pair": two} for one, two in pairs])
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs) + "\n")
    place = {"fine": fine, "exported": exported}[kind]
    _, rows, err = run("--pairs", "--file", tmp_path / "pairs.tsv", "--model", place)
    assert rows[0] == ["sentence1", "sentence2", "label", "probability"]
    assert [tuple(row[:2]) for row in rows[1:3]] == pairs and close(rows[1:3], truth)
    assert rows[3] == ["", "", "", ""]
    assert "empty: line(s) 3\ncut: line(s) 2\n3 sentences (1 empty, 1 cut); " in err


def test_over_long_lines_are_cut_and_named(exported: Path) -> None:
    # 126 words and two special tokens fit.
    given = ["good", "funny " * 20_000, "funny " * 126, "funny " * 127, *["funny " * 200] * 5]
    _, rows, err = run("--file", "-", "--model", exported, stdin="\n".join(given).encode())
    assert [row[0] for row in rows[1:]] == given
    assert "cut: line(s) 2, 4, 5, 6, 7 and 2 more\n" in err
    assert rows[2][1:] == rows[3][1:] == rows[4][1:]
    _, rows, err = run("--model", exported, "--max-length", 3, "good fine", "good film")
    assert rows[1][1:] == rows[2][1:] and "(0 empty, 2 cut)" in err
    message = refused("--model", exported, "--max-length", 129, "good")
    assert message == "--max-length 129: expected 3 to 128."


def test_the_model_that_is_taken_by_default(
    fine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "dvc pull finetune@minilm-1" in refused("fine")
    for name in ("b-2", "a-1"):
        shutil.copytree(fine, tmp_path / "models/finetuned" / name)
    code, _, err = run("fine")
    assert code == 0 and "model models/finetuned/a-1: the first that there is" in err


# --- streams ---


def test_standard_input_ends_at_a_bad_line(exported: Path, tmp_path: Path) -> None:
    command = ("--file", "-", "--model", exported)
    code, rows, err = run(*command, stdin=b"good\nfine\nna\xefve\nnever\n")
    assert code == 1 and [row[0] for row in rows[1:]] == ["good", "fine"]
    assert "error: standard input, line 3: not UTF-8" in err
    refused(*command, "--output", tmp_path / "o.csv", stdin=b"good\n\xff\n")
    assert list(tmp_path.iterdir()) == []


def test_a_named_pipe_is_read_once(exported: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write = (tmp_path / "pipe").write_text
    threading.Thread(target=write, args=("good\nfilm\n",), daemon=True).start()
    code, rows, err = run("--file", tmp_path / "pipe", "--model", exported)
    assert code == 0, err
    assert [row[0] for row in rows[1:]] == ["good", "film"]


def command(model: Path) -> list[str]:
    return [sys.executable, "-m", "tools.predict", "--model", str(model)]


def in_a_shell(script: str, model: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of bash; in it `predict` is the command."""
    bash = ["bash", "-c", f'predict() {{ {shlex.join(command(model))} "$@"; }}; {script}']
    return subprocess.run(bash, cwd=ROOT, env=environment(home), capture_output=True, text=True)


def test_a_closed_stream_that_is_needed_is_named(tmp_path: Path) -> None:
    for name, use in (("stdout", "good >&-"), ("stdin", f"--file - --output {tmp_path}/o <&-")):
        done = in_a_shell(f"predict {use}", tmp_path, tmp_path / "home")
        assert done.returncode == 1 and f"error: {name} is closed. Open it" in done.stderr


@pytest.mark.slow
def test_head_may_close_the_pipe(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("a gripping film\n" * 20_000)
    script = f"predict --file {tmp_path}/s.txt | head -2; echo ${{PIPESTATUS[0]}}"
    done = in_a_shell(script, exported, tmp_path / "home")
    header, first, code = done.stdout.splitlines()
    assert (header, code) == ("sentence,label,probability", "141")
    assert first.startswith("a gripping film,")
    assert not any(word in done.stderr for word in ("Traceback", "Exception", "Broken"))


@pytest.mark.slow
def test_a_stream_is_answered_while_it_comes_and_ctrl_c_leaves_no_file(
    exported: Path, tmp_path: Path
) -> None:
    env, work = environment(tmp_path / "home"), tmp_path / "work"
    work.mkdir()
    with subprocess.Popen(
        [*command(exported), "--file", "-", "--output", str(work / "out.csv")],
        cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stderr
        process.stdin.write("good\n" * lines.WINDOW_LINES)
        process.stdin.flush()  # and left open: rows must come before the end of the input
        while not any(path.stat().st_size for path in work.iterdir()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and "interrupted; " in process.stderr.read()
    assert list(work.iterdir()) == []


# --- what is refused ---


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_code_of_a_model_s_folder_is_never_run(fine: Path, tmp_path: Path, model_type: str) -> None:
    """Not even if a person says yes to what a library asks."""
    folder, ran = Path(shutil.copytree(fine, tmp_path / "model")), tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nclass Evil: pass\n"
    (folder / "evil.py").write_text(code)
    classes = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "evil.Evil")
    change(folder / "config.json", model_type=model_type, auto_map=classes)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil"] * 2})
    exit_code, _, err = run("good", "--model", folder, stdin=b"y\ny\ny\n")
    assert exit_code == (model_type != "bert")  # of a type that is known, our own code is run
    assert str(folder) in err and not ran.exists()


def rename(graph: Path, old: bytes, new: bytes) -> None:
    graph.write_bytes(graph.read_bytes().replace(old, new))


THREE = {"0": "a", "1": "b", "2": "c"}
GAP = {"0": "a", "2": "b"}
GRAPH = "model_optimized.onnx"
SEVERAL = "multi_label_classification"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another tokenizer": (lambda d: change(d / "config.json", vocab_size=20), "embeddings for 20"),
    "gap": (lambda d: change(d / "config.json", id2label=GAP), "expected one class of id2label"),
    "several": (lambda d: change(d / "config.json", problem_type=SEVERAL), "expected one class"),
    "labels": (lambda d: change(d / "config.json", id2label=THREE), "the 3 labels in config"),
    "cut off": (lambda d: os.truncate(d / GRAPH, 5000), "cannot load it: "),
    "no classifier": (lambda d: rename(d / GRAPH, b"logits", b"hidden"), "hidden': 2}; expected"),
    "input": (lambda d: rename(d / GRAPH, b"input_ids", b"pixel_ids"), "pixel_ids, token_type_ids"),
    "pickle": (lambda d: (d / GRAPH).rename(d / "pytorch_model.bin"), "a pickle can run code"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_folder_that_is_not_whole_is_refused(
    exported: Path, tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    others = shutil.ignore_patterns("model.onnx", "model_quantized.onnx")
    folder = shutil.copytree(exported, tmp_path / "damaged", ignore=others)
    damage(folder)
    message = refused("--model", folder, "good")
    assert words in message and str(folder) in message


def test_a_gpu_is_claimed_offline_and_what_that_says_is_no_row(fine: Path) -> None:
    @contextlib.contextmanager
    def claim_gpu() -> Iterator[None]:
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        print("waiting for a free GPU")
        yield None

    online = mock.patch.dict(os.environ, HF_HUB_OFFLINE="0")
    with online, mock.patch.object(predict, "claim_gpu", claim_gpu):
        code, rows, err = run("--model", fine, "good")
    assert (code, len(rows)) == (0, 2) and "waiting for a free GPU\n" in err


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "at a time. Set --batch-size to 16."),
        ([torch.full((1, 2), torch.nan)], "logits are not finite"),
    ],
    ids=["memory", "not finite"],
)
def test_what_fails_while_it_predicts_is_one_message(fine: Path, result: Any, words: str) -> None:
    with mock.patch.object(predict, "predict_padded", side_effect=result):
        code, _, err = run("--model", fine, "good")
    assert code == 1 and words in err
