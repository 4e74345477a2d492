"""`stages.tokenize.tokenize_split` on SST-2 train (67,349 sentences), against the bare fast tokenizer on the same strings.

The peer is `tokenizers.Tokenizer.encode_batch` with the same truncation, its ids taken out as Python lists: no `datasets`, no
Arrow. Both give the same ids, which is checked. Target: ratio of the medians <= 1.5.

Run as: python -m benchmarks.tokenize_speed
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.common import report, spread_seconds, sst2_train, take_turns, time_call, tokenizer_directory
from reproduce.stage import go_offline
from stages.tokenize import load_tokenizer, tokenize_split

MODEL = "distilbert"
MAX_LENGTH = 128
ROUNDS = 7
LIMIT = 1.5


def main() -> None:
    """Time both in turn, after one run of each that is not counted but compared."""
    from tokenizers import Tokenizer

    sentences, labels, names = sst2_train()
    go_offline()
    with TemporaryDirectory() as scratch:
        directory = tokenizer_directory(MODEL, Path(scratch))
        tokenizer = load_tokenizer(directory)
        bare = Tokenizer.from_file(str(directory / "tokenizer.json"))
    bare.no_padding()
    bare.enable_truncation(MAX_LENGTH)

    def ours() -> object:
        return tokenize_split(tokenizer, sentences, labels, names, MAX_LENGTH)

    def theirs() -> list[list[int]]:
        return [encoding.ids for encoding in bare.encode_batch(sentences)]

    if tokenize_split(tokenizer, sentences, labels, names, MAX_LENGTH).data.column("input_ids").to_pylist() != theirs():
        raise RuntimeError("the two do not give the same ids: there is nothing to compare")
    seconds = take_turns({"ours": lambda: time_call(ours), "peer": lambda: time_call(theirs)}, ROUNDS)
    results = {name: spread_seconds(values) for name, values in seconds.items()}
    ratio = {clock: round(results["ours"][clock]["median"] / results["peer"][clock]["median"], 3) for clock in ("wall", "cpu")}
    line = (f"{ratio['wall']} x the bare tokenizer ({ratio['cpu']} x its processor time), "
            f"median of {ROUNDS}, {len(sentences):,} sentences")  # fmt: skip
    report("tokenize_speed", f"ratio <= {LIMIT}", ratio["wall"] <= LIMIT, line,
           {"unit": "seconds", "sentences": len(sentences), "ratio": ratio, **results})  # fmt: skip


if __name__ == "__main__":
    main()
