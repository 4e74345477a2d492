"""tools.predict: the model's own answers, in order; what cannot be answered is named."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import onnx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, pipeline

from conftest import ROOT, environment, pocket_lines
from reproduce.command import run_command
from reproduce.files import UserError
from reproduce.inputs.tokenizer import load_tokenizer, tokenize_split
from reproduce.models.load import load_finetuned
from reproduce.models.onnx import export
from reproduce.params import Export
from tools import lines, predict

NAMES = ["NEGATIVE", "POSITIVE"]
SENTENCES = [line.split("\t")[0] for line in pocket_lines("train", 60)]
EXPORT = Export(opset=20, per_channel=True, reduce_range=False)


def classifier(tiny: Path, folder: Path, **names: Any) -> Path:
    """What `finetune` leaves; half of the answers are one class."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(str(tiny), **names)
    torch.nn.init.normal_(model.classifier.weight, std=3)
    tokens = load_tokenizer(tiny)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**tokens).logits
        scale = logits.std(dim=0).mean()
        model.classifier.weight /= scale
        model.classifier.bias -= logits.median(dim=0).values / scale
    model.save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def fine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fine") / "tiny-1"
    return classifier(tiny_model, folder, id2label=dict(enumerate(NAMES)))


@pytest.fixture(scope="module")
def exported(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(fine, folder, EXPORT)
    return folder


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported folder, with one graph, that a test may damage."""
    only = shutil.ignore_patterns("model.onnx", "model_quantized.onnx")
    return Path(shutil.copytree(exported, tmp_path / "broken", ignore=only))


Predict = Callable[..., tuple[int, list[list[str]], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Run the command in this process: exit code, rows on standard output, standard error."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, list[list[str]], str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = 0
        try:
            run_command(lambda: predict.main([str(argument) for argument in arguments]))
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, list(csv.reader(io.StringIO(out, newline=""))), err

    return run


def refused(run: Predict, *arguments: object, stdin: bytes = b"") -> str:
    """Run a command that must be refused before anything is printed; its one message."""
    code, rows, err = run(*arguments, stdin=stdin)
    assert (code, rows, err.count("error: ")) == (1, [], 1), (code, rows, err)
    return err.split("error: ")[1].strip()


def close(rows: list[list[str]], answers: list[tuple[str, float]]) -> bool:
    """Whether these are the answers (batches of another shape are summed in another order)."""
    pairs = zip(rows, answers, strict=True)
    return all(row[-2] == label and abs(float(row[-1]) - p) < 2e-4 for row, (label, p) in pairs)


# --------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize(("kind", "batch_size"), [("fine", 7), ("exported", 1), ("exported", 64)])
def test_the_answers_are_those_of_transformers_own_pipeline_in_order(
    run: Predict, fine: Path, exported: Path, tmp_path: Path, kind: str, batch_size: int
) -> None:
    (tmp_path / "s.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    model = {"fine": fine, "exported": exported}[kind]
    options = ("--model", model, "--batch-size", batch_size)
    code, rows, err = run("--file", tmp_path / "s.txt", *options)
    assert code == 0, err
    assert rows[0] == ["sentence", "label", "probability"]
    assert [row[0] for row in rows[1:]] == SENTENCES
    pipe = pipeline("text-classification", model=str(fine), device="cpu")
    truth = [(answer["label"], answer["score"]) for answer in pipe(SENTENCES)]
    assert {label for label, _ in truth} == set(NAMES)  # or it would prove nothing
    assert close(rows[1:], truth)


@pytest.mark.parametrize("text", [SENTENCES[0], "funny " * 300, "ÜBER – 電影", "x" * 400])
def test_token_ids_are_those_that_the_training_saw(
    fine: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    tokenizer, seen = load_tokenizer(fine), []
    trained = tokenize_split(tokenizer, [text], [0], ["a", "b"], 128)["input_ids"]

    def predict_padded(network: Any, ids: Any, batch_size: int, types: Any) -> torch.Tensor:
        seen.extend(ids)
        return torch.zeros(len(ids), 2)

    monkeypatch.setattr(predict, "predict_padded", predict_padded)
    network: Any = SimpleNamespace(config=SimpleNamespace(id2label={0: "a", 1: "b"}))
    predict.predict_window(network, tokenizer, [(text,)], 32)
    assert seen == list(trained)


def test_a_model_of_numbers_gives_scores(run: Predict, tiny_model: Path, tmp_path: Path) -> None:
    folder = classifier(tiny_model, tmp_path / "number", num_labels=1)
    tokens = load_tokenizer(folder)(SENTENCES[0], return_tensors="pt")
    _, rows, _ = run("--model", folder, SENTENCES[0], "")
    assert rows[0] == ["sentence", "score"] and rows[2] == ["", ""]
    score = load_finetuned(folder)(**tokens).logits.item()
    assert float(rows[1][1]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("kind", ["fine", "exported"])
def test_pairs_get_their_token_types(
    run: Predict, fine: Path, exported: Path, tmp_path: Path, kind: str
) -> None:
    pairs = [("A gripping film.", "Not funny."), ("One", "two three four, " * 60)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs) + "\n")
    model, columns = load_finetuned(fine), [list(side) for side in zip(*pairs, strict=True)]
    options = {"truncation": True, "max_length": 128, "padding": True, "return_tensors": "pt"}
    tokens = load_tokenizer(fine)(*columns, **options)
    assert tokens["token_type_ids"].sum() > 0
    with torch.inference_mode():
        best = model(**tokens).logits.softmax(1).max(1)
    truth = [(NAMES[int(i)], float(p)) for p, i in zip(*best, strict=True)]
    place = {"fine": fine, "exported": exported}[kind]
    _, rows, err = run("--pairs", "--file", tmp_path / "pairs.tsv", "--model", place)
    assert rows[0] == ["sentence1", "sentence2", "label", "probability"]
    assert [tuple(row[:2]) for row in rows[1:3]] == pairs and close(rows[1:3], truth)
    assert rows[3] == ["", "", "", ""]
    assert "empty: line(s) 3\ncut: line(s) 2\n3 sentences (1 empty, 1 cut); " in err


def test_the_model_that_is_taken_by_default(
    run: Predict, fine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "dvc pull finetune@minilm-1" in refused(run, "fine")
    for name in ("b-2", "a-1"):
        shutil.copytree(fine, tmp_path / "models/finetuned" / name)
    code, _, err = run("fine")
    assert code == 0 and "model models/finetuned/a-1: the first that there is" in err


# ----------------------------------------------------------------------------------- the lines

LINES = ["A gripping film.", "", '"quoted", and; a comma', " \t ", "nul \0 here", "lone \r return"]
LINES += ["tab\tin it", "電影 ü", "", "end"]


@pytest.mark.parametrize(
    ("start", "between", "end"), [("", "\n", "\n"), ("\ufeff", "\r\n", "")], ids=["unix", "windows"]
)
def test_what_lines_can_hold(
    run: Predict, exported: Path, tmp_path: Path, start: str, between: str, end: str
) -> None:
    (tmp_path / "s.txt").write_bytes((start + between.join(LINES) + end).encode())
    code, rows, err = run("--file", tmp_path / "s.txt", "--model", exported)
    assert code == 0 and [row[0] for row in rows[1:]] == LINES
    assert [i for i, row in enumerate(rows[1:]) if row[1:] == ["", ""]] == [1, 3, 8]
    assert "empty: line(s) 2, 4, 9\n10 sentences (3 empty, 0 cut); " in err


def test_over_long_lines_are_cut_and_named(run: Predict, exported: Path) -> None:
    # 126 words and two special tokens fit.
    given = ["good", "funny " * 20_000, "funny " * 126, "funny " * 127, *["funny " * 200] * 5]
    _, rows, err = run("--file", "-", "--model", exported, stdin="\n".join(given).encode())
    assert [row[0] for row in rows[1:]] == given
    assert "cut: line(s) 2, 4, 5, 6, 7 and 2 more\n" in err
    assert rows[2][1:] == rows[3][1:] == rows[4][1:]
    _, rows, err = run("--model", exported, "--max-length", 3, "good fine", "good film")
    assert rows[1][1:] == rows[2][1:] and "(0 empty, 2 cut)" in err
    message = refused(run, "--model", exported, "--max-length", 129, "good")
    assert message == "--max-length 129: expected 3 to 128."


def test_order_and_answers_hold_over_many_windows(
    run: Predict, exported: Path, tmp_path: Path
) -> None:
    given = [SENTENCES[i % 60] if i % 97 else "" for i in range(2 * lines.WINDOW_LINES + 5)]
    _, rows, _ = run("--file", "-", "--model", exported, stdin="\n".join(given).encode())
    assert [row[0] for row in rows[1:]] == given
    _, alone, _ = run("--model", exported, *SENTENCES)
    truth = {row[0]: (row[1], float(row[2])) for row in alone[1:]}
    assert close([row for row in rows[1:] if row[0]], [truth[line] for line in given if line])


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"good\nna\xefve film\n", "line 2: not UTF-8: byte 0xef at byte 3 of the line"),
        (b"good\n" * 5000 + b"cut \xc3", "line 5001: not UTF-8: byte 0xc3 at byte 5"),
        ("good".encode("utf-16"), "line 1: not UTF-8: byte 0xff at byte 1"),
        (b"good\n" + b"x" * (lines.WINDOW_BYTES + 1), "line 2: longer than 4,194,304 bytes"),
        (b"a\tb\n\na\tb\tc\n", "line 3: 2 tabs; with --pairs, expected one"),
    ],
    ids=["latin-1", "cut off", "utf-16", "endless", "no pair"],
)
def test_a_bad_line_of_a_file_is_found_before_any_work(
    run: Predict, tmp_path: Path, data: bytes, where: str
) -> None:
    (tmp_path / "s.txt").write_bytes(data)
    (tmp_path / "out.csv").write_text("older")
    options = ("--output", tmp_path / "out.csv", "--model", "none: the input is looked at first")
    pairs = ["--pairs"] if b"\t" in data else []
    message = refused(run, *pairs, "--file", tmp_path / "s.txt", *options)
    assert str(tmp_path / "s.txt") in message and where in message
    assert (tmp_path / "out.csv").read_text() == "older" and len(list(tmp_path.iterdir())) == 2


def test_standard_input_ends_at_a_bad_line(run: Predict, exported: Path, tmp_path: Path) -> None:
    command = ("--file", "-", "--model", exported)
    code, rows, err = run(*command, stdin=b"good\nfine\nna\xefve\nnever\n")
    assert code == 1 and [row[0] for row in rows[1:]] == ["good", "fine"]
    assert "error: standard input, line 3: not UTF-8" in err
    refused(run, *command, "--output", tmp_path / "o.csv", stdin=b"good\n\xff\n")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------- files and streams


def test_two_runs_to_one_output_write_whole_files(tmp_path: Path) -> None:
    target = tmp_path / "o.csv"
    (tmp_path / "o.csv.partial").write_text("mine")
    with lines.open_target(target) as first, lines.open_target(target) as second:
        first.write("first\n" * 100)
        second.write("second\n")
    assert target.read_text() == "first\n" * 100
    assert (tmp_path / "o.csv.partial").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_an_output_keeps_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real.csv").touch(mode=0o640)
    (tmp_path / "link.csv").symlink_to("real.csv")
    with lines.open_target(tmp_path / "link.csv") as out:
        out.write("new")
    assert (tmp_path / "link.csv").is_symlink() and (tmp_path / "real.csv").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real.csv").stat().st_mode) == 0o640


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """As root /dev/stdout could be replaced; where it leads to a file, that keeps what it has."""
    with (tmp_path / "log").open("w+") as log:
        log.write("older\n")
        log.flush()
        with lines.open_target(Path(f"/dev/fd/{log.fileno()}")) as out:
            out.write("new\n")
    assert (tmp_path / "log").read_text() == "older\nnew\n"


def test_a_named_pipe_is_read_once(run: Predict, exported: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = "good\nfilm\n"
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(text,), daemon=True)
    writer.start()
    code, rows, err = run("--file", tmp_path / "pipe", "--model", exported)
    assert code == 0, err
    assert [row[0] for row in rows[1:]] == ["good", "film"]


def test_files_that_cannot_be_read_or_written(run: Predict, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("good\n")
    source = ("--file", tmp_path / "s.txt")
    assert "s.tx: No such file" in refused(run, "--file", tmp_path / "s.tx")
    assert "Is a directory; expected a file of text" in refused(run, "--file", tmp_path)
    for place in (tmp_path / "no/o.csv", tmp_path):
        message = refused(run, "good", "--output", place)
        assert f"--output {place}: expected a file in a directory that you may write to" in message
    assert "is the input itself" in refused(run, *source, "--output", tmp_path / "s.txt")


# ------------------------------------------------------------------------ a process of its own


@pytest.mark.slow
def test_head_may_close_the_pipe(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("a gripping film\n" * 20_000)
    command = f"{sys.executable} -m tools.predict --model {exported} --file {tmp_path}/s.txt"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -2; echo ${{PIPESTATUS[0]}}"],
        cwd=ROOT, env=environment(tmp_path / "home"), capture_output=True, text=True,
    )  # fmt: skip
    header, first, code = done.stdout.splitlines()
    assert (header, code) == ("sentence,label,probability", "141")
    assert first.startswith("a gripping film,")
    assert not any(word in done.stderr for word in ("Traceback", "Exception", "Broken"))


@pytest.mark.slow
def test_a_stream_is_answered_while_it_comes_and_ctrl_c_leaves_no_file(
    exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    out = tmp_path / "work/out.csv"
    command = [sys.executable, "-m", "tools.predict", "--model", str(exported), "--file", "-"]
    with subprocess.Popen(
        [*command, "--output", str(out)], cwd=ROOT, env=environment(tmp_path / "home"), text=True,
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin and process.stderr
        process.stdin.write("good\n" * lines.WINDOW_LINES)
        process.stdin.flush()  # and left open: rows must come before the end of the input
        while not any(path.stat().st_size for path in out.parent.iterdir()):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130 and "interrupted: " in process.stderr.read()
    assert list(out.parent.iterdir()) == []


# ----------------------------------------------------------------------------------- bad input


def test_code_of_a_model_s_folder_is_never_run(run: Predict, fine: Path, tmp_path: Path) -> None:
    """Not even if a person says yes to what a library asks."""
    folder = tmp_path / "model"
    shutil.copytree(fine, folder)
    ran = tmp_path / "ran"
    for name in ("configuration_x", "modeling_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    modules = {"AutoConfig": "configuration_x.C"}
    modules["AutoModelForSequenceClassification"] = "modeling_x.M"
    change(folder / "config.json", model_type="x", architectures=["M"], auto_map=modules)
    tokenizer = {"AutoTokenizer": ["tokenization_x.T", "tokenization_x.T"]}
    change(folder / "tokenizer_config.json", tokenizer_class="T", auto_map=tokenizer)
    message = refused(run, "good", "--model", folder, stdin=b"y\ny\ny\n")
    assert str(folder) in message and not ran.exists()


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def hide_logits(path: Path) -> None:
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["hidden" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "hidden"
    onnx.save(model, path)


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
    "no classifier": (lambda d: hide_logits(d / GRAPH), "hidden': 2}; expected"),
    "pickle": (lambda d: (d / GRAPH).rename(d / "pytorch_model.bin"), "a pickle can run code"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_folder_that_is_not_whole_is_refused(run: Predict, broken: Path, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(broken)
    message = refused(run, "--model", broken, "good")
    assert words in message and str(broken) in message


def test_a_gpu_is_claimed_and_what_that_says_is_no_row(
    run: Predict, fine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def claim_gpu() -> Iterator[None]:
        print("waiting for a free GPU")
        yield None

    monkeypatch.setattr(predict, "claim_gpu", claim_gpu)
    code, rows, err = run("--model", fine, "good")
    assert (code, len(rows)) == (0, 2) and "waiting for a free GPU\n" in err


@pytest.mark.parametrize(
    ("arguments", "closed", "name"),
    [(["good"], "stdout", "--output"), (["--file", "-", "--output", "o"], "stdin", "--file")],
)
def test_a_closed_stream_that_is_needed_is_named(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], closed: str, name: str
) -> None:
    monkeypatch.setattr(predict, "CLOSED", [closed])
    with pytest.raises(UserError, match=rf"^{closed} is closed.*{name}\.$"):
        predict.main(arguments)


@pytest.mark.slow
def test_closed_streams_take_nothing_of_the_output(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    command = f"{sys.executable} -m tools.predict --model {exported} good --output {out}"
    shell = ["bash", "-c", f"{command} <&- >&- 2>&-"]
    done = subprocess.run(shell, cwd=ROOT, env=environment(tmp_path / "home"))
    assert done.returncode == 0
    header, row = out.read_text().splitlines()
    assert header == "sentence,label,probability" and row.startswith("good,")


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
FAILURES = {
    "error: out of memory with 32 sentence(s) at a time. Set --batch-size to 16.": FULL,
    "logits are not finite": [torch.full((1, 2), torch.nan)],
}


@pytest.mark.parametrize(("words", "result"), FAILURES.items(), ids=["memory", "not finite"])
def test_what_fails_while_it_predicts_is_one_message(
    run: Predict, fine: Path, monkeypatch: pytest.MonkeyPatch, words: str, result: Any
) -> None:
    monkeypatch.setattr(predict, "predict_padded", mock.Mock(side_effect=result))
    code, _, err = run("--model", fine, "good")
    assert code == 1 and words in err
