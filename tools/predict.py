"""Label sentences with a fine-tuned or an exported model: CSV of sentence, label and probability, in the order of the input.

Run as: python -m tools.predict "a gripping film"
        python -m tools.predict --file sentences.txt --output predictions.csv
        zcat sentences.gz | python -m tools.predict --model models/exported/minilm-1 --file - | head

One sentence a line, in UTF-8 (with --pairs: two, separated by a tab, for a model fine-tuned on pairs; a model cannot say what it
was fine-tuned on). Memory does not grow with the number of lines. An empty line keeps its row, without an answer; a line with
more tokens than the model has positions is cut; both are counted and named at the end. A model of numbers gives a score in
place of label and probability. CSV goes to standard output or --output, everything else to standard error.
"""

import argparse
import codecs
import contextlib
import csv
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from reproduce.command import go_offline
from reproduce.files import UserError, out_of_space

if TYPE_CHECKING:
    import numpy as np

    from reproduce.models.inference import Example, Model

# What is read, sorted by length, computed and written at a time.
WINDOW_LINES = 4096
WINDOW_BYTES = 2**22


@dataclass
class Counts:
    """What happened to the lines: how many, and of empty and cut ones the first numbers."""

    lines: int = 0
    empty: int = 0
    cut: int = 0
    first_empty: list[int] = field(default_factory=list)
    first_cut: list[int] = field(default_factory=list)

    def add(self, empty: Iterable[int], cut: Iterable[int]) -> None:
        """Count these line numbers."""
        for number in empty:
            self.empty += 1
            self.first_empty += [number][: len(self.first_empty) < 5]
        for number in cut:
            self.cut += 1
            self.first_cut += [number][: len(self.first_cut) < 5]


def main(argv: Sequence[str] | None = None) -> None:
    """Predict what the command line says."""
    arguments = parse(argv)
    total = (
        check_source(arguments.file, arguments.pairs)
        if arguments.file
        else len(arguments.sentences)
    )
    if arguments.output:
        check_target(arguments.output, arguments.file)
    place = arguments.model or default_model()
    go_offline()
    from reproduce.models.inference import load

    model = load(place, arguments.max_length, arguments.threads)
    started = time.perf_counter()
    counts = answer_all(model, arguments, total)
    report(counts, model, time.perf_counter() - started, arguments.batch_size)


def answer_all(model: "Model", arguments: argparse.Namespace, total: int | None) -> Counts:
    """Read, predict and write everything, one window after the other.

    Args:
        arguments: of `parse`.
        total: lines, for the progress bar; None: unknown.
    """
    from tqdm import tqdm

    source, target, pairs = arguments.file, arguments.output, arguments.pairs
    counts = Counts()
    with contextlib.ExitStack() as stack:
        if source:
            windows = read_windows(stack.enter_context(opened(source)), name_of(source), pairs)
        else:
            windows = iter(
                [
                    [
                        split(text, pairs, "sentence", i)
                        for i, text in enumerate(arguments.sentences, 1)
                    ]
                ]
            )
        out = stack.enter_context(written(target))
        bar = stack.enter_context(
            tqdm(total=total, unit=" sentences", disable=None if source else True)
        )
        answer = ["label", "probability"] if model.labels else ["score"]
        write_rows(out, [[*(["sentence1", "sentence2"] if pairs else ["sentence"]), *answer]])
        try:
            for window in windows:
                write_rows(
                    out, predict_window(model, window, arguments.batch_size, counts, bar.update)
                )
        except UserError as error:
            if target:
                raise UserError(f"{error} {target} was not written.") from error
            raise UserError(
                f"{error} What was before it, {counts.lines:,} line(s), is written."
            ) from error
    return counts


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; argparse's own message and exit code 2 for what it cannot mean."""
    parser = argparse.ArgumentParser(
        "python -m tools.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sentences", nargs="*", metavar="SENTENCE", help="sentences, each an argument"
    )
    parser.add_argument(
        "--file", type=Path, help="a file with a sentence a line; -: standard input"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("-"),
        help="write here, when all is done; -: standard output (default)",
    )
    parser.add_argument("--model", type=Path, help="a fine-tuned or exported directory, or one .onnx file of the latter "
                        "(default: the first under models/finetuned, then models/exported)")  # fmt: skip
    parser.add_argument(
        "--pairs", action="store_true", help="each sentence is a pair, separated by a tab"
    )
    parser.add_argument(
        "--batch-size", type=int, default=32, help="sentences computed at a time (default: 32)"
    )
    parser.add_argument(
        "--max-length",
        type=int,
        help="cut at so many tokens (default: as many as the model has positions)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="CPU threads (default: OMP_NUM_THREADS, else all processors)",
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.sentences) == bool(arguments.file):
        parser.error("give sentences, or --file with a file of them (- is standard input)")
    if str(arguments.output) == "-":
        arguments.output = None
    if arguments.batch_size < 1 or arguments.threads < 0:
        parser.error("--batch-size must be at least 1, --threads at least 0")
    for number, sentence in enumerate(arguments.sentences, 1):
        if not sentence.isprintable() and any(
            "\ud800" <= character <= "\udfff" for character in sentence
        ):
            parser.error(f"sentence {number} is not UTF-8")
    return arguments


def default_model() -> Path:
    """The first model directory there is; on stderr, which."""
    for folder, files in (("finetuned", "model.safetensors"), ("exported", "*.onnx")):
        found = sorted({path.parent for path in (Path("models") / folder).glob(f"*/{files}")})
        if found:
            which = "the only one" if len(found) == 1 else f"the first of {len(found)}"
            print(
                f"model {found[0]}: {which} under models/{folder}; --model names another",
                file=sys.stderr,
            )
            return found[0]
    raise UserError(
        "no model under models/finetuned or models/exported. Name one with --model, or get one: `dvc pull finetune@minilm-1` "
        "(after `make remote URL=...`), or train one with `dvc repro finetune@minilm-1`."
    )


def name_of(source: Path) -> str:
    """What messages call the input."""
    return "standard input" if str(source) == "-" else str(source)


def opened(source: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    """The input as bytes; standard input is not closed."""
    return contextlib.nullcontext(sys.stdin.buffer) if str(source) == "-" else source.open("rb")


def check_source(source: Path, pairs: bool) -> int | None:
    """The number of lines, all of which can be read; None for a stream, which can be read once only.

    Raises:
        UserError: no such file, or a line that is not UTF-8 or no pair.
    """
    if str(source) == "-":
        return None
    if source.is_dir() or not source.exists():
        raise UserError(
            f"--file {source}: {'a directory' if source.is_dir() else 'no such file'}; expected a file of sentences."
        )
    try:
        with source.open("rb") as file:
            return (
                sum(len(window) for window in read_windows(file, str(source), pairs))
                if source.is_file()
                else None
            )
    except PermissionError as error:
        raise UserError(f"--file {source}: you may not read it.") from error


def check_target(target: Path, source: Path | None) -> None:
    """`UserError` if the output cannot be written, before any work."""
    if target.is_dir() or not target.parent.is_dir():
        what = "a directory" if target.is_dir() else f"there is no directory {target.parent}"
        raise UserError(
            f"--output {target}: {what}; expected the name of a file in a directory that exists."
        )
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"--output {target}: you may not write to {target.parent}.")
    if source and source.exists() and target.exists() and target.samefile(source):
        raise UserError(f"--output {target} is the input itself. Name another file.")


@contextlib.contextmanager
def written(target: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file beside `target` that takes its name when the block ends without an error."""
    if target is None:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        sys.stdout.flush()
        return
    if (
        target.exists() and not target.is_file()
    ):  # a pipe or a device: there is nothing to put in its place
        with target.open("w", encoding="utf-8", newline="") as out:
            yield out
        return
    partial = target.with_name(target.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as out:
            yield out
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def read_windows(file: BinaryIO, name: str, pairs: bool) -> Iterator[list["Example"]]:
    r"""The lines of `file`, some thousands at a time, without their \n or \r\n and without a byte order mark.

    Raises:
        UserError: a line is not UTF-8, or no pair; after all lines before it were given.
    """
    window: list[Example] = []
    size = 0
    for number, line in enumerate(file, 1):
        raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            text = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            example = split(text, pairs, f"{name}, line", number)
        except (UnicodeDecodeError, UserError) as error:
            if window:
                yield window
            raise (
                not_utf8(name, number, error) if isinstance(error, UnicodeDecodeError) else error
            ) from None
        window.append(example)
        size += len(raw)
        if len(window) == WINDOW_LINES or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def not_utf8(name: str, number: int, error: UnicodeDecodeError) -> UserError:
    """Which byte of which line, and what to do."""
    bad = error.object[error.start]
    kind = (
        "UTF-16" if error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "ISO-8859-1"
    )
    return UserError(
        f"{name}, line {number}: not UTF-8: byte 0x{bad:02x} at byte {error.start + 1} of the line ({error.reason}). "
        f"Convert the input first; if it is {kind}: iconv -f {kind} -t UTF-8."
    )


def split(text: str, pairs: bool, where: str, number: int) -> "Example":
    """A sentence, or the two of a pair (an empty line: two empty ones)."""
    if not pairs:
        return (text,)
    parts = text.split("\t") if text else ["", ""]
    if len(parts) != 2:
        raise UserError(
            f"{where} {number}: {len(parts) - 1} tabs; with --pairs, expected two sentences separated by one tab."
        )
    return tuple(parts)


def predict_window(
    model: "Model",
    window: Sequence["Example"],
    batch_size: int,
    counts: Counts,
    tick: Callable[[int], object],
) -> list[list[str]]:
    """The rows of a window, in its order: the sentences, then what `answers` gives, or nothing where the line is empty."""
    full = [i for i, example in enumerate(window) if any(part.strip() for part in example)]
    rows = [[*example, *[""] * (2 if model.labels else 1)] for example in window]
    cut: list[bool] = []
    if full:
        logits, cut = model([window[i] for i in full], batch_size, tick)
        for i, answer in zip(full, answers(logits, model.labels), strict=True):
            rows[i] = [*window[i], *answer]
    tick(len(window) - len(full))
    first = counts.lines + 1
    counts.add(
        empty=(first + i for i in sorted(set(range(len(window))).difference(full))),
        cut=(first + i for i, was_cut in zip(full, cut, strict=True) if was_cut),
    )
    counts.lines += len(window)
    return rows


def answers(logits: "np.ndarray", labels: Sequence[str]) -> list[list[str]]:
    """Label and its probability (softmax, 6 decimals) of each row; of a model that gives a number, the score (6 decimals).

    Args:
        logits: float array of shape (sentences, labels), or (sentences, 1) where there are no labels.
    """
    import numpy as np

    if not labels:
        return [[f"{value:.6f}"] for value in logits[:, 0].tolist()]
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = shifted.max(axis=1) / shifted.sum(axis=1)
    guesses = logits.argmax(axis=1).tolist()
    return [
        [labels[guess], f"{p:.6f}"]
        for guess, p in zip(guesses, probabilities.tolist(), strict=True)
    ]


def write_rows(out: TextIO, rows: Sequence[Sequence[str]]) -> None:
    """Write CSV and flush it; quoted where it has to be."""
    minimal, everything = (
        csv.writer(out, lineterminator="\n", quoting=how)
        for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in rows:  # before Python 3.13 a lone carriage return is not quoted, and would end the row for a reader
        (everything if any("\r" in cell for cell in row) else minimal).writerow(row)
    out.flush()


def report(counts: Counts, model: "Model", seconds: float, batch_size: int) -> None:
    """What was left without an answer and what was cut, and one line of summary, on stderr."""

    def lines(first: Sequence[int], count: int) -> str:
        return f"line(s) {', '.join(map(str, first))}" + (
            f" and {count - len(first):,} more" if count > len(first) else ""
        )

    if counts.empty:
        print(
            f"{counts.empty:,} empty, without an answer: {lines(counts.first_empty, counts.empty)}",
            file=sys.stderr,
        )
    if counts.cut:
        print(
            f"{counts.cut:,} cut to {model.max_length} tokens: {lines(counts.first_cut, counts.cut)}",
            file=sys.stderr,
        )
    print(
        f"{counts.lines:,} sentences ({counts.empty:,} empty, {counts.cut:,} cut) in {seconds:.2f} s, "
        f"{counts.lines / max(seconds, 1e-9):,.0f} sentences/s, batch size {batch_size}; {model.description}",
        file=sys.stderr,
    )


def run(argv: Sequence[str] | None = None) -> int:
    """`main`, with one line for what a user did and the exit code that says so."""
    try:
        main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: no file was written", file=sys.stderr)
        return 128 + signal.SIGINT
    except (
        BrokenPipeError
    ):  # `| head` has seen enough; Python would complain once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if not (reason := out_of_space(error)):
            raise
        print(
            f"error: the disk is full ({reason}): no half-written output was left. Make room and run again.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
