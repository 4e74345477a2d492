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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import command_line, go_offline, run_command
from reproduce.files import UserError
from reproduce.inputs.tokenizer import count_positions, load_tokenizer, read_config, refuse_unfit
from reproduce.models.load import load_finetuned
from reproduce.models.logits import explain_memory, predict_padded
from reproduce.models.runtime import FILES, Session, warn_of_saturation
from reproduce.training.devices import claim_gpu, deterministic
from tools import lines
from tools.lines import STDIO, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Equal results first, then speed.
WEIGHTS = (FILES["optimized"], FILES["onnx"], FILES["int8"], "model.safetensors")
CLOSED = [name for name in ("stdin", "stdout") if getattr(sys, name) is None]


def main(argv: Sequence[str] | None = None) -> None:
    """Predict what the command line says."""
    arguments = parse(argv)
    for option, stream in (("file", "stdin"), ("output", "stdout")):
        if getattr(arguments, option) == STDIO and stream in CLOSED:
            raise UserError(f"{stream} is closed. Open it, or name a file with --{option}.")
    os.environ["TQDM_DISABLE"] = "1"  # the libraries' own bars; tqdm reads it when imported
    try:
        with contextlib.ExitStack() as stack, explain_memory(arguments.batch_size, "--batch-size"):
            predict_all(arguments, stack)
    except BrokenPipeError:  # `| head` has seen enough; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse's own message and exit code 2 for what it cannot mean."""
    parser = command_line(__doc__)
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
    if arguments.batch_size < 1 or not 0 <= arguments.threads <= 1024:
        parser.error("--batch-size must be at least 1, --threads from 0 to 1024")
    return arguments


def predict_all(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> None:
    """Read, predict and write window by window; at the end say what was empty or cut."""
    from tqdm import tqdm

    source, name, pairs = None, "sentence", arguments.pairs
    given: Any = [sentence.encode("utf-8", "surrogateescape") for sentence in arguments.sentences]
    if arguments.file:
        source = stack.enter_context(lines.open_source(arguments.file))
        name = f"{'standard input' if arguments.file == STDIO else arguments.file}, line"
        if arguments.file.is_file():  # all its lines are checked before any work
            for _ in lines.read_windows(lines.read_lines(source), name, pairs):
                pass
            source.seek(0)
        given = lines.read_lines(source)
    out = stack.enter_context(lines.open_target(arguments.output, source))
    network, tokenizer, place = load(arguments, stack)
    columns = ["sentence1", "sentence2"] if pairs else ["sentence"]
    columns += ["label", "probability"] if network.config.num_labels > 1 else ["score"]
    lines.write_row(out, columns)
    bar = stack.enter_context(tqdm(unit="sentence", disable=None))
    count = 0
    noted: dict[str, list[int]] = {"empty": [], "cut": []}
    for window in lines.read_windows(given, name, pairs):
        for row, note in predict_window(network, tokenizer, window, arguments.batch_size):
            count += 1
            lines.write_row(out, [*row, *[""] * (len(columns) - len(row))])
            if note:
                noted[note].append(count)
        out.flush()
        bar.update(len(window))
    bar.close()
    for note, numbers in noted.items():
        if numbers:
            more = f" and {len(numbers) - 5:,} more" if len(numbers) > 5 else ""
            print(f"{note}: line(s) {', '.join(map(str, numbers[:5]))}{more}", file=sys.stderr)
    counts = ", ".join(f"{len(numbers):,} {note}" for note, numbers in noted.items())
    print(f"{count:,} sentences ({counts}); {place}", file=sys.stderr)


def load(
    arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[Any, "PreTrainedTokenizerFast", str]:
    """The model; its tokenizer, which cuts to `model_max_length`; file, runtime, device in words.

    No code of the folder is run; `UserError` if it is not whole. PyTorch claims a GPU, if there is
    one, until `stack` is closed.
    """
    file = find_weights(arguments.model)
    folder, gpu = file.parent, None
    go_offline()
    if file.suffix != ".onnx":
        with contextlib.redirect_stdout(sys.stderr):  # what it says is no row of the CSV
            gpu = stack.enter_context(claim_gpu())
        stack.enter_context(deterministic())
    import torch

    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    refuse_unfit(tokenizer, folder, 1)
    named = all(i in config.id2label for i in range(config.num_labels))
    if not named or config.problem_type == "multi_label_classification":
        raise UserError(f"{folder}/config.json: expected one class of id2label a sentence.")
    longest = min(tokenizer.model_max_length, count_positions(config) or 512)
    if arguments.max_length is not None and not 3 <= arguments.max_length <= longest:
        raise UserError(f"--max-length {arguments.max_length}: expected 3 to {longest}.")
    tokenizer.model_max_length = arguments.max_length or longest
    network: Any
    if file.suffix == ".onnx":
        network = Session(file, config)
        runtime = network.description
    else:
        network = load_finetuned(folder).to("cuda" if gpu else "cpu")  # type: ignore[arg-type]
        runtime = f"PyTorch {torch.__version__}, fp32, {gpu.name if gpu else 'CPU'}"
    if file.name == FILES["int8"]:
        warn_of_saturation(folder)
    return network, tokenizer, f"{file}: {runtime}, {torch.get_num_threads()} CPU thread(s)"


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
    for file in (place, *(place / name for name in WEIGHTS)):
        if file.is_file() and (file.suffix == ".onnx" or file.name == WEIGHTS[-1]):
            return file
    raise UserError(
        f"{place}: found no .onnx file and no model.safetensors (a pickle can run code when it is "
        "opened, and is refused). Name a folder under models/ that has one."
    )


def predict_window(
    network: Any, tokenizer: "PreTrainedTokenizerFast", window: Sequence[Example], batch_size: int
) -> list[tuple[list[str], str]]:
    """A row for each example, in order: the texts and the answer; and "empty", "cut" or ""."""
    rows = [([*example], "" if "".join(example).strip() else "empty") for example in window]
    full = [i for i, (_, note) in enumerate(rows) if not note]
    if not full:
        return rows
    texts = [list(side) for side in zip(*(window[i] for i in full), strict=True)]
    typed = len(texts) > 1 and getattr(network.config, "type_vocab_size", 0) > 1
    coded = tokenizer(*texts, truncation=True, return_token_type_ids=typed)
    logits = predict_padded(network, coded["input_ids"], batch_size, coded.get("token_type_ids"))
    if not logits.isfinite().all():
        raise UserError(f"{network.config.name_or_path}: logits are not finite. Train it again.")
    best = logits.double().softmax(dim=1).max(dim=1)
    cells = [[f"{value:.6f}"] for value in logits[:, 0].tolist()]
    if logits.shape[1] > 1:
        chosen = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        cells = [[network.config.id2label[i], f"{probability:.6f}"] for i, probability in chosen]
    for i, answer, coding in zip(full, cells, coded.encodings, strict=True):
        rows[i] = ([*window[i], *answer], "cut" if coding.overflowing else "")
    return rows


if __name__ == "__main__":
    run_command(main)
