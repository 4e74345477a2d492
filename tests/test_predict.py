"""tools.predict: the answers are the model's own, in order; what cannot be answered is named; nothing half-written is left."""

import contextlib
import csv
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import ROOT, environment, pocket_lines
from reproduce.files import UserError
from reproduce.models.inference import MOST_CHARACTERS, check_int8, has_reduced_range, load
from reproduce.models.logits import predict
from tools.predict import WINDOW_LINES, answers

SENTENCES = [line.split("\t")[0] for line in pocket_lines("train", 60)]


# ------------------------------------------------------------------------------------------------------- the models


def classifier(tiny: Path, folder: Path, labels: int) -> Path:
    """What `finetune` leaves: config with names, weights, tokenizer. Half of the answers are one class."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(3)
    names = {"id2label": {0: "NEGATIVE", 1: "POSITIVE"}} if labels == 2 else {"num_labels": labels}
    model = AutoModelForSequenceClassification.from_pretrained(str(tiny), **names)
    torch.nn.init.normal_(model.classifier.weight, std=3)
    tokens = AutoTokenizer.from_pretrained(str(tiny))(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**tokens).logits
        scale = logits.std(dim=0).mean()
        model.classifier.weight /= scale
        model.classifier.bias -= logits.median(dim=0).values / scale
    model.save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)
    return folder


def export(fine: Path, folder: Path) -> Path:
    """The same model as two ONNX files, by PyTorch's exporter and ONNX Runtime's dynamic quantisation."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModelForSequenceClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForSequenceClassification.from_pretrained(str(fine)).eval()

        def forward(
            self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
        ) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits  # type: ignore[no-any-return]

    folder.mkdir()
    some = torch.ones(2, 8, dtype=torch.int64)
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in inputs}
    torch.onnx.export(
        Logits(), (some, some, some * 0), str(folder / "model_optimized.onnx"), input_names=inputs, output_names=["logits"],
        dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    quantize_dynamic(
        folder / "model_optimized.onnx",
        folder / "model_quantized.onnx",
        weight_type=QuantType.QInt8,
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(fine / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def fine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tiny_model, tmp_path_factory.mktemp("fine") / "tiny-1", 2)


@pytest.fixture(scope="module")
def exported(fine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(fine, tmp_path_factory.mktemp("exported") / "tiny-1")


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported directory that a test may damage; its int8 file is left out."""
    return Path(
        shutil.copytree(exported, tmp_path / "broken", ignore=lambda *_: ["model_quantized.onnx"])
    )


Predict = Callable[..., tuple[int, list[list[str]], str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Predict:
    """Run the command in this process: exit code, the rows of CSV on standard output, standard error."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, list[list[str]], str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = predict.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, list(csv.reader(io.StringIO(out, newline=""))), err

    return run


def refused(run: Predict, *arguments: object, stdin: bytes = b"") -> str:
    """Run a command that must be refused before anything is printed; its one message."""
    code, rows, err = run(*arguments, stdin=stdin)
    assert (code, rows, err.count("error: ")) == (1, [], 1), (code, rows, err)
    return err.split("error: ")[1].strip()


def expected(fine: Path, sentences: list[str]) -> list[tuple[str, float]]:
    from transformers import pipeline

    pipe = pipeline("text-classification", model=str(fine), device="cpu")
    return [(answer["label"], answer["score"]) for answer in pipe(sentences)]


def close(rows: list[list[str]], answers: list[tuple[str, float]], tolerance: float = 2e-4) -> bool:
    """Whether label and probability of the rows are these (batches of another shape are summed in another order)."""
    assert len(rows) == len(answers)
    return all(
        row[1] == label and abs(float(row[2]) - p) < tolerance
        for row, (label, p) in zip(rows, answers, strict=True)
    )


# ----------------------------------------------------------------------------------------------------- the answers


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_answers_are_those_of_transformers_own_pipeline_in_order(
    run: Predict, fine: Path, tmp_path: Path, batch_size: int
) -> None:
    (tmp_path / "s.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    code, rows, err = run("--file", tmp_path / "s.txt", "--model", fine, "--batch-size", batch_size)
    assert code == 0, err
    assert rows[0] == ["sentence", "label", "probability"]
    assert [row[0] for row in rows[1:]] == SENTENCES
    truth = expected(fine, SENTENCES)
    assert {label for label, _ in truth} == {
        "NEGATIVE",
        "POSITIVE",
    }  # or equal labels would prove nothing
    assert close(rows[1:], truth)
    assert (
        "60 sentences (0 empty, 0 cut) in " in err
        and "sentences/s" in err
        and f"{fine}/model.safetensors: PyTorch" in err
    )


def test_an_exported_model_answers_likewise(run: Predict, fine: Path, exported: Path) -> None:
    truth = expected(fine, SENTENCES)
    code, rows, err = run("--model", exported, *SENTENCES)
    assert code == 0 and close(rows[1:], truth), err
    assert (
        f"{exported}/model_optimized.onnx: fp32, graph optimised; of 2 .onnx files, --model names another\n"
        in err
    )


def test_the_int8_file_answers_by_itself(run: Predict, fine: Path, exported: Path) -> None:
    """Sentence by sentence: the scale of dynamic quantisation is that of a batch."""
    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    session = InferenceSession(
        exported / "model_quantized.onnx", providers=["CPUExecutionProvider"]
    )
    tokenizer = AutoTokenizer.from_pretrained(str(fine))
    logits = np.concatenate(
        [
            session.run(["logits"], dict(tokenizer([text], return_tensors="np")))[0]
            for text in SENTENCES
        ]
    )
    code, rows, err = run(
        "--model", exported / "model_quantized.onnx", "--batch-size", 1, *SENTENCES
    )
    assert code == 0 and ", int8, " in err
    assert close(
        rows[1:], [(label, float(p)) for label, p in answers(logits, ["NEGATIVE", "POSITIVE"])]
    )
    assert not close(rows[1:], expected(fine, SENTENCES))


def test_token_ids_are_those_that_the_training_saw(fine: Path) -> None:
    from reproduce.inputs.tokenizer import load_tokenizer, tokenize_split

    texts = [*SENTENCES, "funny " * 300, "ÜBER – 電影", "x" * 400]
    trained = tokenize_split(load_tokenizer(fine), texts, [0] * len(texts), ["a", "b"], 128)[
        "input_ids"
    ]
    coded, cut = load(fine).encode([(text,) for text in texts])
    assert [ids for ids, _ in coded] == list(trained)
    assert [i for i, was in enumerate(cut) if was] == [len(SENTENCES)]


def test_probability_is_the_softmax_of_the_guess() -> None:
    logits = np.array([[0.0, 0.0], [-1000.0, 1000.0], [np.log(3), 0.0]], np.float32)
    assert answers(logits, ["no", "yes"]) == [
        ["no", "0.500000"],
        ["yes", "1.000000"],
        ["no", "0.750000"],
    ]
    assert answers(np.array([[1.5], [-2e-7]], np.float32), []) == [["1.500000"], ["-0.000000"]]


def test_a_model_of_numbers_gives_scores(run: Predict, tiny_model: Path, tmp_path: Path) -> None:
    model = classifier(tiny_model, tmp_path / "number", 1)
    code, rows, _ = run("--model", model, *SENTENCES[:3], "")
    logits, _ = load(model)([(text,) for text in SENTENCES[:3]], 32)
    assert code == 0
    assert rows == [
        ["sentence", "score"],
        *([text, f"{x:.6f}"] for text, x in zip(SENTENCES, logits[:, 0], strict=False)),
        ["", ""],
    ]


def test_pairs_get_their_token_types(
    run: Predict, fine: Path, exported: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = [("A gripping film.", "Not funny."), ("One", "two three four, " * 60), ("", "")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs[:2]) + "\n")
    model = AutoModelForSequenceClassification.from_pretrained(str(fine)).eval()
    tokens = AutoTokenizer.from_pretrained(str(fine))(
        *[list(side) for side in zip(*pairs[:2], strict=True)],
        truncation=True,
        max_length=128,
        padding=True,
        return_tensors="pt",
    )
    assert tokens["token_type_ids"].sum() > 0
    with torch.inference_mode():
        truth = model(**tokens).logits.numpy()
    for place in (fine, exported):
        code, rows, err = run("--pairs", "--file", tmp_path / "pairs.tsv", "--model", place)
        assert code == 0 and rows[0] == ["sentence1", "sentence2", "label", "probability"]
        assert [tuple(row[:2]) for row in rows[1:]] == pairs
        assert close(
            [row[1:] for row in rows[1:3]],
            [(a, float(b)) for a, b in answers(truth, ["NEGATIVE", "POSITIVE"])],
        )
        assert (
            rows[3] == ["", "", "", ""]
            and "1 empty, without an answer: line(s) 3\n1 cut to 128 tokens: line(s) 2\n" in err
        )


def test_the_model_that_is_taken_by_default(
    run: Predict, fine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "dvc pull finetune@minilm-1" in refused(run, "fine")
    for name in ("b-2", "a-1"):
        shutil.copytree(fine, tmp_path / "models/finetuned" / name)
    code, _, err = run("fine")
    assert (
        code == 0
        and "model models/finetuned/a-1: the first of 2 under models/finetuned; --model names another"
        in err
    )


# ------------------------------------------------------------------------------------------------------- the lines


def test_what_lines_can_hold(run: Predict, exported: Path, tmp_path: Path) -> None:
    lines = [
        "A gripping film.",
        "",
        '"quoted", and; a comma',
        " \t ",
        "nul \0 here",
        "lone \r return",
        "tab\tin it",
        "電影 ü",
        "",
        "end",
    ]
    for name, data in {
        "unix": "\n".join(lines), "newline at the end": "\n".join(lines) + "\n", "windows": "\r\n".join(lines) + "\r\n",
        "byte order mark": "\ufeff" + "\n".join(lines),
    }.items():  # fmt: skip
        (tmp_path / "s.txt").write_bytes(data.encode())
        code, rows, err = run("--file", tmp_path / "s.txt", "--model", exported)
        assert code == 0, name
        assert [row[0] for row in rows[1:]] == lines, name
        assert [i for i, row in enumerate(rows[1:]) if row[1:] == ["", ""]] == [1, 3, 8], name
        assert (
            "3 empty, without an answer: line(s) 2, 4, 9\n" in err
            and "10 sentences (3 empty, 0 cut)" in err
        ), name


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"\n", 1), (b"\n\n \n", 3)])
def test_nothing_to_answer(run: Predict, exported: Path, data: bytes, count: int) -> None:
    code, rows, err = run("--file", "-", "--model", exported, stdin=data)
    assert code == 0 and len(rows) == count + 1 and f"{count} sentences ({count} empty" in err


def test_over_long_lines_are_cut_and_named(run: Predict, exported: Path, tmp_path: Path) -> None:
    megabyte = "funny " * 170_000
    lines = [
        "good",
        megabyte,
        "funny " * 126,
        "funny " * 127,
        "x" * (MOST_CHARACTERS + 1),
        *["funny " * 200] * 4,
    ]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    code, rows, err = run(
        "--file", tmp_path / "s.txt", "--model", exported, "--output", tmp_path / "out.csv"
    )
    assert (code, rows) == (0, [])
    csv.field_size_limit(2**21)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == lines
    # 126 words and two special tokens fit.
    assert "7 cut to 128 tokens: line(s) 2, 4, 5, 6, 7 and 2 more\n" in err, err
    _, alone, _ = run("--model", exported, "good", "funny " * 126)
    assert [row[1:] for row in rows[:2]] == [row[1:] for row in alone[1:]]
    _, short, err = run("--model", exported, "--max-length", 3, "good fine", "good film")
    assert short[1][1:] == short[2][1:] and "2 cut to 3 tokens" in err


def test_order_and_answers_hold_over_many_windows(
    run: Predict, exported: Path, tmp_path: Path
) -> None:
    lines = [SENTENCES[i % 60] if i % 97 else "" for i in range(2 * WINDOW_LINES + 5)]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    code, _, err = run(
        "--file", tmp_path / "s.txt", "--model", exported, "--output", tmp_path / "out.csv"
    )
    assert code == 0 and f"{len(lines):,} sentences" in err
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[0] for row in rows] == lines
    _, alone, _ = run("--model", exported, *SENTENCES)
    truth = {row[0]: (row[1], float(row[2])) for row in alone[1:]}
    assert close([row for row in rows if row[0]], [truth[line] for line in lines if line])
    assert all(row[1:] == ["", ""] for row in rows if not row[0])


# ------------------------------------------------------------------------------------------------------ not UTF-8


def test_invalid_utf8_in_a_file_is_found_before_any_work(run: Predict, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    out.write_text("older")
    for data, where in (
        (b"good\nna\xefve film\n", "line 2: not UTF-8: byte 0xef at byte 3 of the line"),
        (b"good\n" * 5000 + b"cut \xc3", "line 5001: not UTF-8: byte 0xc3 at byte 5 of the line"),
        ("good".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
    ):
        (tmp_path / "s.txt").write_bytes(data)
        message = refused(
            run,
            "--file",
            tmp_path / "s.txt",
            "--output",
            out,
            "--model",
            "no such model: the input is looked at first",
        )
        assert str(tmp_path / "s.txt") in message and where in message
        assert out.read_text() == "older" and sorted(path.name for path in tmp_path.iterdir()) == [
            "out.csv",
            "s.txt",
        ]


def test_invalid_utf8_on_standard_input_ends_at_that_line(
    run: Predict, exported: Path, tmp_path: Path
) -> None:
    code, rows, err = run(
        "--file", "-", "--model", exported, stdin=b"good\nfine\nna\xefve\nnever\n"
    )
    assert code == 1 and [row[0] for row in rows[1:]] == ["good", "fine"]
    assert (
        "error: standard input, line 3: not UTF-8" in err
        and "What was before it, 2 line(s), is written." in err
    )
    message = refused(
        run,
        "--file",
        "-",
        "--model",
        exported,
        "--output",
        tmp_path / "o.csv",
        stdin=b"good\n\xff\n",
    )
    assert message.endswith("o.csv was not written.") and list(tmp_path.iterdir()) == []


def test_a_line_that_is_no_pair_is_named(run: Predict, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("a\tb\n\na\tb\tc\n")
    assert "s.txt, line 3: 2 tabs" in refused(
        run, "--pairs", "--file", tmp_path / "s.txt", "--model", exported
    )


# --------------------------------------------------------------------------------------------- a process of its own


@pytest.fixture
def command(exported: Path, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """The command as a user types it, and an environment in which asking for the network is fatal."""
    env = environment(tmp_path / "home")
    env["PYTHONPATH"] += f"{os.pathsep}{ROOT}"
    return [sys.executable, "-m", "tools.predict", "--model", str(exported)], env


def test_head_may_close_the_pipe(command: tuple[list[str], dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("a gripping film\n" * 20_000)
    line = f"{' '.join(command[0])} --file {tmp_path / 's.txt'} | head -2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=command[1], capture_output=True, text=True)
    header, first, code = done.stdout.splitlines()
    assert (
        header == "sentence,label,probability"
        and first.startswith("a gripping film,")
        and code == "141"
    )
    assert (
        "Traceback" not in done.stderr
        and "Exception" not in done.stderr
        and "Broken" not in done.stderr
    ), done.stderr


def test_a_stream_is_answered_while_it_comes_and_ctrl_c_leaves_no_file(
    command: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    words, env = command
    with subprocess.Popen(
        [*words, "--file", "-"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write("good\n" * WINDOW_LINES)
        process.stdin.flush()  # and is left open: the rows must come before the end of the input
        rows = [process.stdout.readline() for _ in range(WINDOW_LINES + 1)]
        assert rows[-1].startswith("good,")
        process.stdin.close()
        assert process.wait(60) == 0
    (tmp_path / "work").mkdir()
    out = tmp_path / "work/out.csv"
    with subprocess.Popen(
        [*words, "--file", "-", "--output", str(out)],
        env=env,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stderr
        process.stdin.write("good\n" * WINDOW_LINES)
        process.stdin.flush()
        partial = out.with_name("out.csv.partial")
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted: no file was written"
    assert list(out.parent.iterdir()) == []


def test_the_progress_bar_is_for_terminals(
    command: tuple[list[str], dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "s.txt").write_text("a gripping film\n" * 300)
    words = [*command[0], "--file", str(tmp_path / "s.txt"), "--output", str(tmp_path / "o.csv")]
    piped = subprocess.run(words, env=command[1], capture_output=True, text=True, check=True)
    assert "%|" not in piped.stderr and "300 sentences (0 empty" in piped.stderr
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    process = subprocess.Popen(words, env=command[1], stderr=terminal)
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that its other end is closed
        while data := os.read(main, 65536):
            shown += data
    os.close(main)
    assert process.wait() == 0 and b"100%|" in shown and b"300/300" in shown


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        "try: runpy.run_module('tools.predict', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "found = {'torch', 'transformers', 'onnxruntime', 'numpy', 'tokenizers', 'tqdm', 'pydantic'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m tools.predict" in done.stdout


def test_an_exported_model_needs_neither_pytorch_nor_transformers(exported: Path) -> None:
    code = (
        "import sys\nfrom reproduce import predict\n"
        f"assert predict.run(['--model', {str(exported)!r}, 'good']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


# ------------------------------------------------------------------------------------------------------- bad input


def damage_opset(folder: Path) -> None:
    model = onnx.load(folder / "model_optimized.onnx")
    model.opset_import[0].version = 99
    onnx.save(model, folder / "model_optimized.onnx")


def damage_ir(folder: Path) -> None:
    model = onnx.load(folder / "model_optimized.onnx")
    model.ir_version = 99
    onnx.save(model, folder / "model_optimized.onnx")


def damage_output(folder: Path) -> None:
    model = onnx.load(folder / "model_optimized.onnx")
    for node in model.graph.node:
        node.output[:] = ["hidden" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "hidden"
    onnx.save(model, folder / "model_optimized.onnx")


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


THREE = {"0": "a", "1": "b", "2": "c"}
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "has no tokenizer.json"),
    "damaged tokenizer": (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json is no tokenizer"),
    "another tokenizer": (lambda d: change_config(d, vocab_size=20), "it is another model's"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "damaged config": (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    "no names": (lambda d: change_config(d, id2label=None), "id2label is None; expected the names of the classes"),
    "names with a gap": (lambda d: change_config(d, id2label={"0": "a", "2": "b"}), "expected the names of the classes"),
    "several labels": (lambda d: change_config(d, problem_type="multi_label_classification"), "expected one label a sentence"),
    "other labels": (lambda d: change_config(d, id2label=THREE), "has 2 outputs, "),
    "opset": (damage_opset, "has opset 99; ONNX Runtime "),
    "format": (damage_ir, "has format (IR version) 99; ONNX Runtime "),
    "no graph": (lambda d: (d / "model_optimized.onnx").write_text("hello"), "cannot load it: "),
    "cut off": (lambda d: os.truncate(d / "model_optimized.onnx", 5000), "cannot load it: "),
    "no classifier": (damage_output, "-> hidden; expected input_ids, attention_mask -> logits"),
    "no weights": (lambda d: (d / "model_optimized.onnx").unlink(), "has no weights: neither model.safetensors nor"),
    "a pickle": (lambda d: (d / "model_optimized.onnx").rename(d / "pytorch_model.bin"), "as a pickle only (pytorch_model.bin)"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_directory_that_is_not_whole_is_refused(run: Predict, broken: Path, case: str) -> None:
    change, words = DAMAGE[case]
    change(broken)
    assert words in (message := refused(run, "--model", broken, "good")), message
    assert str(broken) in message


def test_weights_that_do_not_fit_are_refused(
    run: Predict, fine: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(fine, model)
    change_config(model, id2label=THREE, label2id={name: int(i) for i, name in THREE.items()})
    assert "has classifier.bias of shape (2,), " in refused(run, "--model", model, "good")
    shutil.copyfile(fine / "config.json", model / "config.json")
    save_file(
        {k: v for k, v in load_file(fine / "model.safetensors").items() if "classifier" not in k},
        model / "model.safetensors",
    )
    assert "has no classifier.bias (and 1 more): it is not fine-tuned" in refused(
        run, "--model", model, "good"
    )
    os.truncate(model / "model.safetensors", 1000)
    assert f"{model} cannot be loaded: " in refused(run, "--model", model, "good")
    weights = load_file(fine / "model.safetensors")
    save_file(
        {**weights, "classifier.bias": weights["classifier.bias"] * float("nan")},
        model / "model.safetensors",
        {"format": "pt"},
    )
    code, _, err = run("--model", model, "good")
    assert code == 1 and "numbers that are not finite" in err


def test_a_pickle_or_another_file_is_not_opened(run: Predict, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "A pickle can run code when it is opened" in refused(
        run, "--model", tmp_path / "pytorch_model.bin", "good"
    )
    assert "no such model directory" in refused(run, "--model", tmp_path / "nothing", "good")


def test_without_onnx_runtime(
    run: Predict, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "onnxruntime", None
    )  # what Python itself notes for a module that cannot be imported
    assert "needs ONNX Runtime, which is not installed" in refused(run, "--model", exported, "good")


def test_files_that_cannot_be_read_or_written(run: Predict, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("good\n")
    assert "s.tx: no such file" in refused(run, "--file", tmp_path / "s.tx")
    assert "a directory; expected a file of sentences" in refused(run, "--file", tmp_path)
    assert "there is no directory" in refused(
        run, "--file", tmp_path / "s.txt", "--output", tmp_path / "no/o.csv"
    )
    assert "a directory; expected the name of a file" in refused(run, "good", "--output", tmp_path)
    assert "is the input itself" in refused(
        run, "--file", tmp_path / "s.txt", "--output", tmp_path / "s.txt"
    )


def test_what_the_command_line_cannot_mean(
    run: Predict, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["good", "--file", "-"], ["good", "--batch-size", "0"], ["na\udcefve"]):
        with pytest.raises(SystemExit) as end:
            predict.run(arguments)
        assert end.value.code == 2 and "python -m tools.predict: error: " in capsys.readouterr().err
    assert "--max-length 129: expected 3 to 128" in refused(
        run, "good", "--model", exported, "--max-length", 129
    )


@pytest.mark.parametrize(
    ("machine", "flags", "words"),
    [
        ("x86_64", {"sse4_1", "avx2", "avx512f", "avx512_vnni"}, ""),
        ("x86_64", {"avx2", "avx_vnni"}, ""),
        ("AMD64", None, ""),
        ("x86_64", {"sse4_1", "avx2"}, "no VNNI or AMX: sums of products can saturate"),
        ("aarch64", {"asimd", "asimddp"}, ""),
        ("arm64", None, ""),
    ],
)
def test_processors_that_can_compute_int8(machine: str, flags: set[str] | None, words: str) -> None:
    file, known = Path("m/model_quantized.onnx"), None if flags is None else frozenset(flags)
    said = check_int8(file, machine, known)
    assert (words in said) if words else said == ""
    assert check_int8(file, machine, known, reduced_range=True) == ""


@pytest.mark.parametrize(
    ("machine", "flags", "words"),
    [
        ("x86_64", {"sse4_1"}, "no instructions for it (AVX2 at least"),
        ("aarch64", {"asimd"}, "no dot product instructions"),
    ],
)
def test_processors_that_cannot_compute_int8(machine: str, flags: set[str], words: str) -> None:
    with pytest.raises(UserError, match=r"Use m/model_optimized\.onnx, which is fp32") as error:
        check_int8(Path("m/model_quantized.onnx"), machine, frozenset(flags))
    assert words in str(error.value)


def test_an_exported_directory_says_how_many_bits_its_weights_have(tmp_path: Path) -> None:
    assert not has_reduced_range(tmp_path)
    for reduced in (True, False):
        (tmp_path / "ort_config.json").write_text(
            json.dumps({"quantization": {"reduce_range": reduced}})
        )
        assert has_reduced_range(tmp_path) is reduced
