"""Label sentences with a fine-tuned or an exported model: CSV of sentence, label, probability.

Run as: python -m tools.predict "a gripping film"
        python -m tools.predict --file sentences.txt --output predictions.csv
        zcat sentences.gz | python -m tools.predict --model models/exported/minilm-1 --file - | head

One sentence a line, in UTF-8; with --pairs two, separated by a tab, for a model fine-tuned on
pairs. Rows come in the order of the lines, some hundreds at a time, while they are read. An empty
line keeps its row, without an answer; a line with more tokens than the model has positions is cut;
both are counted and named at the end. A model of numbers gives a score in place of label and
probability. CSV goes to standard output or --output, all else to standard error.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import UserError
from tools.lines import (
    STDIO,
    Example,
    check_target,
    open_source,
    open_target,
    read_source,
    write_row,
)

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerFast

# Equal results first, then speed.
WEIGHTS = ("model_optimized.onnx", "model.onnx", "model_quantized.onnx", "model.safetensors")


def main(argv: Sequence[str] | None = None, closed: Collection[str] = ()) -> None:
    """Predict what the command line says; `closed` names standard streams that are not there."""
    arguments = parse(argv)
    for option, stream in (("file", "stdin"), ("output", "stdout")):
        if getattr(arguments, option) == STDIO and stream in closed:
            raise UserError(f"{stream} is closed. Open it, or name a file with --{option}.")
    try:
        predict_all(arguments)
    except BrokenPipeError:  # `| head` has seen enough; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse's own message and exit code 2 for what it cannot mean."""
    parser = argparse.ArgumentParser(
        "python -m tools.predict", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("sentences", nargs="*", metavar="SENTENCE", help="sentences, each an argument")
    add("--file", type=Path, help="a file with a sentence a line; -: standard input")
    add("--output", type=Path, default=STDIO, help="written when all is done (default: stdout)")
    add("--model", type=Path, help="a fine-tuned or exported folder, or an .onnx file of the latter"
        " (default: the first under models/finetuned, then models/exported)")  # fmt: skip
    add("--pairs", action="store_true", help="a sentence is a pair, separated by a tab")
    add("--batch-size", type=int, default=32, help="sentences computed at a time (default: 32)")
    add("--max-length", type=int, help="cut at so many tokens (default: the model's positions)")
    add("--threads", type=int, default=0, help="of the CPU (default: OMP_NUM_THREADS, else all)")
    arguments = parser.parse_args(argv)
    if bool(arguments.sentences) == bool(arguments.file):
        parser.error("give sentences, or --file with a file of them (- is standard input)")
    if arguments.batch_size < 1 or arguments.threads < 0:
        parser.error("--batch-size must be at least 1, --threads at least 0")
    return arguments


def predict_all(arguments: argparse.Namespace) -> None:
    """Read, predict and write window by window; at the end say what was empty or cut."""
    os.environ["TQDM_DISABLE"] = "1"  # the libraries' own bars; tqdm reads it when imported
    from tqdm import tqdm

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(arguments.file)) if arguments.file else None
        check_target(arguments.output, source)
        total, windows = read_source(source, arguments)
        model = load(arguments)
        out = stack.enter_context(open_target(arguments.output))
        bar = stack.enter_context(tqdm(total=total, unit="sentence", disable=None))
        columns = ["sentence1", "sentence2"] if arguments.pairs else ["sentence"]
        columns += ["label", "probability"] if model.labels else ["score"]
        write_row(out, columns)
        lines, started = 0, time.perf_counter()
        noted: dict[str, list[int]] = {"empty": [], "cut": []}
        try:
            for window in windows:
                for row, note in predict_window(model, window, arguments.batch_size):
                    lines += 1
                    write_row(out, [*row, *[""] * (len(columns) - len(row))])
                    if note:
                        noted[note].append(lines)
                out.flush()
                bar.update(len(window))
        except UserError as error:
            lost = f"{arguments.output} was not written."
            kept = f"What was before it, {lines:,} line(s), is written."
            raise UserError(f"{error} {kept if arguments.output == STDIO else lost}") from error
        seconds = time.perf_counter() - started
    for note, numbers in noted.items():
        if numbers:
            more = f" and {len(numbers) - 5:,} more" if len(numbers) > 5 else ""
            first = ", ".join(map(str, numbers[:5]))
            print(f"{len(numbers):,} {note}: line(s) {first}{more}", file=sys.stderr)
    rate = f"{lines / seconds:,.0f} sentences/s, batch size {arguments.batch_size}"
    print(f"{lines:,} sentences in {seconds:.2f} s, {rate}; {model.description}", file=sys.stderr)


@dataclass(frozen=True)
class Model:
    """A loaded model."""

    labels: list[str]  # names of the classes 0, 1, ...; none: the model gives a number
    max_length: int  # tokens, special ones included; longer sentences are cut
    tokenizer: "PreTrainedTokenizerFast"
    knows_types: bool  # tells the two sentences of a pair apart by token types
    logits: Callable[..., Any]  # of token ids, batch size, token types
    description: str  # file, runtime, precision, device


def load(arguments: argparse.Namespace) -> Model:
    """Load the model; no code of its folder is run. `UserError` if it is not whole."""
    file = find_weights(arguments.model)
    folder = file.parent
    go_offline()
    import torch

    from reproduce.inputs.tokenizer import (
        count_positions,
        load_tokenizer,
        read_config,
        refuse_unfit,
    )
    from reproduce.models.load import load_finetuned
    from reproduce.models.logits import predict_padded
    from reproduce.models.runtime import FILES, Session, warn_of_saturation

    config, tokenizer = read_config(folder), load_tokenizer(folder)
    refuse_unfit(tokenizer, folder, 1)
    labels = [config.id2label.get(i) for i in range(config.num_labels)]
    if None in labels or config.problem_type == "multi_label_classification":
        raise UserError(f"{folder}/config.json: expected one class of id2label a sentence.")
    longest = min(tokenizer.model_max_length, count_positions(config) or 512)
    if arguments.max_length and not 3 <= arguments.max_length <= longest:
        raise UserError(f"--max-length {arguments.max_length}: expected 3 to {longest}.")
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    network: Any
    if file.suffix == ".onnx":
        if file.name == FILES["int8"]:
            warn_of_saturation(folder)
        network = Session(file, config)
        knows_types, runtime = "token_type_ids" in network.inputs, network.description
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = load_finetuned(folder).to(device)  # type: ignore[arg-type]
        knows_types = getattr(config, "type_vocab_size", 0) > 1
        runtime = f"PyTorch {torch.__version__}, fp32, {device.upper()}"
    return Model(
        labels if len(labels) > 1 else [], arguments.max_length or longest, tokenizer, knows_types,
        partial(predict_padded, network),
        f"{file}: {runtime}, {torch.get_num_threads()} CPU thread(s)",
    )  # fmt: skip


def find_weights(place: Path | None) -> Path:
    """The file that is loaded; on stderr which, if it was chosen."""
    if place is None:
        kinds = ("finetuned/*/model.safetensors", "exported/*/*.onnx")
        there = [path.parent for kind in kinds for path in sorted(Path("models").glob(kind))]
        if not there:
            raise UserError(
                "no model under models/. Name one with --model, pull one (`dvc pull "
                "finetune@minilm-1`) or train one (`dvc repro finetune@minilm-1`)."
            )
        place = there[0]
        print(f"model {place}: the first that there is; --model names another", file=sys.stderr)
    if place.is_file() and (place.suffix == ".onnx" or place.name == WEIGHTS[3]):
        return place
    files = [place / name for name in WEIGHTS if (place / name).is_file()]
    if not files:
        raise UserError(
            f"{place}: found no .onnx file and no model.safetensors (a pickle can run code when it "
            "is opened, and is refused); expected a folder under models/finetuned or "
            "models/exported, or an .onnx file."
        )
    if len(files) > 1:
        print(f"{files[0]}: of {len(files)} files; --model names another", file=sys.stderr)
    return files[0]


def predict_window(
    model: Model, window: Sequence[Example], batch_size: int
) -> Iterator[tuple[list[str], str]]:
    """A row for each example, in order: the texts and the answer; and "empty", "cut" or ""."""
    import numpy as np

    full = [example for example in window if any(map(str.strip, example))]
    answers: Iterator[tuple[list[str], str]] = iter(())
    if full:
        typed = model.knows_types and len(full[0]) > 1
        coded = model.tokenizer(
            *(list(texts) for texts in zip(*full, strict=True)),
            truncation=True,
            max_length=model.max_length,
            return_token_type_ids=typed,
        )
        types = coded["token_type_ids"] if typed else None
        logits = model.logits(coded["input_ids"], batch_size, types).numpy()
        if not np.isfinite(logits).all():
            raise UserError(f"{model.description}: numbers that are not finite. Train it again.")
        cut = ("cut" if coding.overflowing else "" for coding in coded.encodings)
        answers = zip(answer(logits, model.labels), cut, strict=True)
    for example in window:
        cells, what = next(answers) if any(map(str.strip, example)) else ([], "empty")
        yield [*example, *cells], what


def answer(logits: "np.ndarray", labels: Sequence[str]) -> list[list[str]]:
    """Label and its probability (softmax, 6 decimals) a row; without labels the number itself.

    Args:
        logits: float array of shape (sentences, labels), or (sentences, 1) without labels.
    """
    import numpy as np
    from scipy.special import softmax

    if not labels:
        return [[f"{value:.6f}"] for value in logits[:, 0]]
    best = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    return [[labels[i], f"{p:.6f}"] for i, p in zip(logits.argmax(axis=1), best, strict=True)]


if __name__ == "__main__":
    missing = {name for name in ("stdin", "stdout") if getattr(sys, name) is None}
    run_command(lambda: main(closed=missing))
