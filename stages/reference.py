"""Check how we evaluate: the authors' own fine-tuned checkpoint, with their count beside ours.

Run as: dvc repro reference/dvc.yaml    (or: python -m stages.reference)

It needs no GPU and no training, but the Hub (or HUB_MIRROR): without it nothing is kept. Its stage
has a file of its own, so that `dvc repro` neither runs it nor stops at it.
"""

import tempfile
from pathlib import Path

from reproduce.command import clean_environment, command_line, run_command
from reproduce.files import UserError, write_json
from reproduce.inputs.canonical import download_split
from reproduce.inputs.catalog import read_model
from reproduce.inputs.fetch import fetch
from reproduce.inputs.tokenizer import load_tokenizer
from reproduce.models.logits import predict
from reproduce.models.metrics import measure
from reproduce.verdict.published import PUBLISHED, Reference, read_published

RESULT = Path("reference/result.json")
BATCH_SIZE = 32


def main() -> None:
    """Write reference/result.json."""
    command_line(__doc__).parse_args()
    clean_environment()
    reference = read_published().reference
    texts, labels = download_split(reference.dataset, "validation")
    with tempfile.TemporaryDirectory() as scratch:
        correct = count_correct(reference, Path(scratch), texts, labels)
    apart = abs(correct - reference.correct)
    write_json(RESULT, {
        "checkpoint": str(reference.sources[0]), "dataset": reference.dataset,
        "sentences": len(texts), "correct": correct, "published": reference.correct,
        "apart": apart, "source": reference.source,
    })  # fmt: skip
    verdict = "equal" if not apart else f"{apart} sentence(s) apart"
    print(f"{RESULT}: right on {correct} of {len(texts)}, published {reference.correct}: {verdict}")


def count_correct(reference: Reference, folder: Path, texts: list[str], labels: list[float]) -> int:
    """Download the checkpoint to `folder` and count what it has right.

    Raises:
        UserError: no source has the files, bytes differ from their pin, or its vocabulary is not
            that of the tokenizer.
    """
    import numpy as np

    fetch("model", reference.sources, reference.files, folder)
    entry = read_model(reference.tokenizer)
    fetch("model", entry.sources, {"tokenizer.json": entry.tokenizer["tokenizer.json"]}, folder)
    tokenizer = load_tokenizer(folder)
    vocabulary = tokenizer.get_vocab()
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    if sorted(vocabulary, key=vocabulary.__getitem__) != words:
        raise UserError(
            f"{PUBLISHED}: reference.tokenizer: the vocabulary of {reference.tokenizer} is not the "
            "checkpoint's. Name the model of catalog.yaml whose vocab.txt is the same."
        )
    ids = tokenizer(texts, truncation=True, max_length=reference.max_length)["input_ids"]
    logits, names = predict(folder, ids, BATCH_SIZE, setting="")
    return int(measure(logits.numpy(), np.array(labels), names, ["accuracy"])["correct"])


if __name__ == "__main__":
    run_command(main)
