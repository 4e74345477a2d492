"""The one loader of tokenizers, what we refuse of them, and a split tokenised."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

# These count positions from behind the padding token's id, so they have so many fewer.
POSITIONS_AFTER_PADDING = {
    "camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip

# Texts on which tokenizers differ: case, accents, Chinese, control characters, spaces, markers.
PROBES = (
    "The Film", "ÉLAN déjà", "電影好", "a\u200bb\u0007c", "  two  spaces ", "don't stop-it",
    "x" * 120, "[CLS] [MASK] <s> </s>", "1,234.5", "🎬 ﬁn", "…",
)  # fmt: skip


def load_tokenizer(directory: Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer in `directory`, from local files only, and no code of theirs is run.

    Raises:
        UserError: it has no fast tokenizer, or tokenizer.json and tokenizer_config.json
            contradict each other.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if not (directory / "tokenizer.json").is_file():
        raise UserError(f"{directory} has no tokenizer.json. Run `dvc repro download_tokenizer`.")
    with _explained(f"{directory} holds no fast tokenizer that transformers can read"):
        alone = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    _refuse_contradiction(directory, alone, tokenizer.backend_tokenizer)
    return tokenizer  # type: ignore[no-any-return]


def read_config(directory: Path) -> Any:
    """The model's config; `UserError` if transformers does not know it without code of its own."""
    from transformers import AutoConfig

    with _explained(f"{directory}/config.json: transformers cannot read it"):
        return AutoConfig.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )


@contextlib.contextmanager
def _explained(problem: str) -> Iterator[None]:
    """What a file of other people makes transformers raise (anything) becomes a `UserError`."""
    try:
        yield
    except Exception as error:
        words = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(
            f"{problem} ({type(error).__name__}: {words}). Choose another checkpoint: code that "
            "comes with one is never run here."
        ) from error


def _refuse_contradiction(directory: Path, alone: Any, together: Any) -> None:
    """tokenizer.json `alone` and `together` with tokenizer_config.json must give the same ids."""
    for each in (alone, together):  # set by each call
        each.no_truncation()
        each.no_padding()
    if alone.to_str() == together.to_str():
        return
    for texts in [(probe,) for probe in PROBES] + [(probe, probe) for probe in PROBES]:
        one, two = (each.encode(*texts) for each in (alone, together))
        if (one.ids, one.type_ids) != (two.ids, two.type_ids):
            raise UserError(
                f"{directory}: tokenizer.json and tokenizer_config.json contradict each other: of "
                f"{texts[0]!r} the first makes {' '.join(one.tokens)}, with the second it is "
                f"{' '.join(two.tokens)}. Write into tokenizer_config.json what tokenizer.json "
                "does (do_lower_case, strip_accents, ...), or choose another checkpoint."
            )


def refuse_unfit(tokenizer: "PreTrainedTokenizerFast", directory: Path, max_length: int) -> None:
    """Raise `UserError` if the model of `directory`/config.json cannot take what we make of texts.

    We pad on the right, with token type 0 and attention masked, up to `max_length` tokens.
    """
    config = read_config(directory)
    rows = getattr(config, "vocab_size", None)
    highest = max(tokenizer.get_vocab().values())
    limit, source = tokenizer.model_max_length, "tokenizer_config.json, model_max_length"
    if (positions := count_positions(config)) and positions < limit:
        limit, source = positions, "config.json, positions"
    problem = ""
    if tokenizer.padding_side != "right":
        problem = f"pads on the {tokenizer.padding_side}; batches here are padded on the right"
    elif tokenizer.pad_token_id is None:
        problem = "has no padding token, without which sentences cannot share a batch"
    elif getattr(config, "pad_token_id", None) is None:
        problem = "has a padding token, and config.json no pad_token_id"
    elif tokenizer.pad_token_type_id:
        problem = f"pads with token type {tokenizer.pad_token_type_id}; here it is 0"
    elif rows is not None and highest >= rows:
        problem = f"has a token of id {highest}, and the model embeddings for {rows} (vocab_size)"
    elif max_length > limit:
        raise UserError(
            f"params.yaml: tokenize.max_length is {max_length}, and {directory} takes {limit} "
            f"tokens ({source}). Set it to at most {limit}, or choose another checkpoint."
        )
    if problem:
        raise UserError(f"{directory}: its tokenizer {problem}. Choose another checkpoint.")


def count_positions(config: Any) -> int | None:
    """For how many tokens the model has positions; None where it counts none."""
    count = getattr(config, "max_position_embeddings", None)
    if not isinstance(count, int) or count <= 0:
        return None
    after = config.model_type in POSITIONS_AFTER_PADDING
    return count - (config.pad_token_id or 0) - 1 if after else count


def tokenize_split(
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[str],
    labels: Sequence[float],
    label_names: Sequence[str],
    max_length: int,
    token_types: bool = False,
) -> "Dataset":
    """Tokenise one split in order.

    Args:
        texts: sentences, or pairs of them joined by a tab; of a pair too long, the longer one is
            cut first.
        token_types: the model tells the texts of a pair apart by them.

    Returns:
        `input_ids` (lists of int32, special tokens included, cut at `max_length`, unpadded),
        `label` (a ClassLabel that carries the names, -1 where hidden; float32 without names), and
        of pairs with `token_types` also `token_type_ids` (lists of int32: 0, then 1).

    Raises:
        UserError: the tokenizer fails on a text, or makes no token of it.
    """
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()  # all of SST-2 takes seconds
    pairs = "\t" in texts[0]
    typed = pairs and token_types

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        parts = [[text.split("\t")[i] for text in batch["text"]] for i in range(1 + pairs)]
        with _explained("the tokenizer fails on these texts"):
            coded = tokenizer(
                *parts, truncation=True, max_length=max_length, return_attention_mask=False,
                return_token_type_ids=typed,
            )  # fmt: skip
        for text, ids in zip(batch["text"], coded["input_ids"], strict=True):
            if not ids:
                raise UserError(f"the tokenizer makes no token of {text!r}. Remove that sentence.")
        return dict(coded)

    features = Features({"input_ids": List(Value("int32"))})
    if typed:
        features["token_type_ids"] = List(Value("int32"))
    features["label"] = ClassLabel(names=list(label_names)) if label_names else Value("float32")
    raw = Dataset.from_dict({"text": texts, "label": labels})
    # A fingerprint of our own: else it is a hash of the tokenizer, as slow as tokenising.
    return raw.map(encode, batched=True, batch_size=10_000, remove_columns="text",
                   features=features, keep_in_memory=True, new_fingerprint="x")  # fmt: skip


def length_summary(dataset: "Dataset", max_length: int) -> dict[str, float]:
    """Tokens a sentence, special ones included: mean, median, 99th percentile, maximum.

    `at_max_length` counts sentences of exactly `max_length` tokens: those that were cut, and the
    rare one that just fits.
    """
    import numpy as np
    import pyarrow.compute

    lengths = pyarrow.compute.list_value_length(dataset.data.column("input_ids")).to_numpy()
    return {
        "sentences": len(lengths),
        "tokens": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "p99": round(float(np.percentile(lengths, 99)), 1),
        "max": int(lengths.max()),
        "at_max_length": int((lengths == max_length).sum()),
    }
