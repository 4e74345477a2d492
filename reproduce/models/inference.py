"""A fine-tuned or an exported model as one object: sentences in, logits out, in batches of near lengths.

Fine-tuned directories (model.safetensors) run in PyTorch, on CUDA where there is a GPU; exported ones (*.onnx) in ONNX Runtime
on the CPU. Both are computed in the precision of the file: fp32, or int8 of model_quantized.onnx. Nothing is downloaded, no
pickle is opened, no code of the model's directory is run.

    model = load(Path("models/finetuned/minilm-1"))
    logits, cut = model([("a gripping film",), ("not funny",)], batch_size=32)
"""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    Batch = dict[str, np.ndarray]
    Runtime = Callable[
        [Iterator[Batch]], np.ndarray
    ]  # logits of all batches, float32 of shape (sentences, labels)

Example = tuple[str, ...]  # one sentence, or the two of a pair
PREFERRED = (
    "model_optimized.onnx",
    "model.onnx",
    "model_quantized.onnx",
)  # equal results first, then speed
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# A longer sentence is cut here before it is tokenised, so that a line of a gigabyte does not become ten gigabytes of tokens.
# At 512 tokens these are 128 characters a token.
MOST_CHARACTERS = 2**16


@dataclass(frozen=True)
class Model:
    """A loaded model; call it with sentences."""

    labels: tuple[str, ...]  # names of the classes 0, 1, ...; none: the model gives a number
    max_length: int  # tokens, special ones included; longer sentences are cut
    description: str  # file, runtime, device, precision, threads
    tokenizer: "Tokenizer"
    inputs: frozenset[
        str
    ]  # of input_ids, attention_mask, token_type_ids: those that the network takes
    pad_id: int
    runtime: "Runtime"

    def __call__(
        self,
        examples: Sequence[Example],
        batch_size: int,
        tick: Callable[[int], object] = lambda sentences: None,
    ) -> "tuple[np.ndarray, list[bool]]":
        """Logits, in the order of `examples`, and which of them were cut.

        Args:
            examples: not empty.
            tick: is called with the number of sentences after each batch.

        Returns:
            float32 array of shape (sentences, classes), or (sentences, 1) where the model gives a number; and a list.

        Raises:
            UserError: a logit is not finite.
        """
        import numpy as np

        coded, cut = self.encode(examples)
        order = sorted(range(len(coded)), key=lambda i: len(coded[i][0]))

        def batches() -> "Iterator[Batch]":
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                yield self.collate([coded[i] for i in chosen])
                tick(len(chosen))

        logits = np.empty((len(coded), len(self.labels) or 1), np.float32)
        logits[order] = self.runtime(batches())
        if not np.isfinite(logits).all():
            raise UserError(
                f"the model gives numbers that are not finite ({self.description}). Train or export it again."
            )
        return logits, cut

    def encode(
        self, examples: Sequence[Example]
    ) -> tuple[list[tuple[list[int], list[int]]], list[bool]]:
        """Token ids and token types of each example, cut at `max_length` (of a pair, the longer sentence first)."""
        texts = [tuple(part[:MOST_CHARACTERS] for part in example) for example in examples]
        encodings = self.tokenizer.encode_batch_fast(
            [text if len(text) > 1 else text[0] for text in texts]
        )
        types = "token_type_ids" in self.inputs
        cut = [
            bool(encoding.overflowing) or any(len(part) > MOST_CHARACTERS for part in example)
            for encoding, example in zip(encodings, examples, strict=True)
        ]
        return [(encoding.ids, encoding.type_ids if types else []) for encoding in encodings], cut

    def collate(self, coded: Sequence[tuple[list[int], list[int]]]) -> "Batch":
        """Pad to the longest: int64 arrays of shape (sentences, longest), by the names that the network takes."""
        import numpy as np

        shape = len(coded), max(len(ids) for ids, _ in coded)
        batch = {name: np.zeros(shape, np.int64) for name in self.inputs}
        batch["input_ids"][:] = self.pad_id
        for row, (ids, types) in enumerate(coded):
            batch["input_ids"][row, : len(ids)] = ids
            batch["attention_mask"][row, : len(ids)] = 1
            if types:
                batch["token_type_ids"][row, : len(ids)] = types
        return batch


def load(place: Path, max_length: int | None = None, threads: int = 0) -> Model:
    """Load a model directory, or one .onnx file of an exported directory.

    Args:
        max_length: tokens, special ones included; None: as many as the model has positions for.
        threads: of the CPU; 0: OMP_NUM_THREADS, else one a processor that this process may use.

    Raises:
        UserError: something is missing, damaged, refused or does not fit together.
    """
    file = weights_file(place)
    folder = file.parent
    config = read_json_here(folder / "config.json")
    names = label_names(config, folder / "config.json")
    tokenizer, longest = load_tokenizer(folder, config, max_length)
    asked = os.environ.get("OMP_NUM_THREADS", "")  # may be a list, of nested levels
    threads = threads or int(asked if asked.isdecimal() else 0) or usable_processors()
    runtime, inputs, about = (load_onnx if file.suffix == ".onnx" else load_torch)(file, threads)
    pad_id = config.get("pad_token_id") or 0
    model = Model(
        names if len(names) > 1 else (),
        longest,
        f"{file}: {about}",
        tokenizer,
        inputs,
        pad_id,
        runtime,
    )
    check_labels(model, names, file)
    return model


def weights_file(place: Path) -> Path:
    """The file of `place` (a directory or a file) that is loaded; on stderr why, if there was a choice."""
    if place.is_file():
        if place.suffix == ".onnx" or place.name == "model.safetensors":
            return place
        raise UserError(
            f"{place}: expected a model directory, an .onnx file or model.safetensors. A pickle can run code when it is opened "
            "and is refused; save the model as safetensors."
        )
    if not place.is_dir():
        found = sorted(
            str(path)
            for path in Path("models").glob("*/*")
            if path.parent.name in ("finetuned", "exported")
        )
        raise UserError(
            f"{place}: no such model directory. Under models/ there is: {', '.join(found) or 'none'}."
        )
    graphs = [place / name for name in PREFERRED if (place / name).is_file()]
    graphs += [path for path in sorted(place.glob("*.onnx")) if path not in graphs]
    if graphs:
        others = f"; of {len(graphs)} .onnx files, --model names another" if len(graphs) > 1 else ""
        why = (
            "fp32, graph optimised"
            if graphs[0].name == PREFERRED[0]
            else "the directory has no model_optimized.onnx"
        )
        print(f"{graphs[0]}: {why}{others}", file=sys.stderr)
        return graphs[0]
    if (place / "model.safetensors").is_file():
        return place / "model.safetensors"
    if pickles := sorted(path.name for pattern in PICKLES for path in place.glob(pattern)):
        raise UserError(
            f"{place} has its weights as a pickle only ({pickles[0]}), which can run code when it is opened: refused. "
            "Expected model.safetensors: load it where you trust it, and save_pretrained() it again."
        )
    raise UserError(
        f"{place} has no weights: neither model.safetensors nor an .onnx file. Run `dvc pull finetune@{place.name}`, "
        f"or `dvc repro finetune@{place.name}`."
    )


def read_json_here(path: Path) -> dict[str, Any]:
    """A JSON object beside the weights; `UserError` if it is missing or none."""
    remedy = "Pull or export the model again."
    try:
        found = read_json(path, remedy)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: {path.parent} is no whole model directory. {remedy}"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}. {remedy}")
    return found


def label_names(config: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The names of the outputs 0, 1, ... (a model that gives a number has one)."""
    names = config.get("id2label")
    if (
        not isinstance(names, dict)
        or set(names) != {str(i) for i in range(len(names))}
        or not names
    ):
        raise UserError(
            f'{path}: id2label is {names!r}; expected the names of the classes, as {{"0": "NEGATIVE", "1": "POSITIVE"}}. '
            "Write them into the file; without them an answer has no name."
        )
    if config.get("problem_type") == "multi_label_classification":
        raise UserError(
            f"{path}: a model that gives several labels at once; expected one label a sentence, or a number."
        )
    return tuple(str(names[str(i)]) for i in range(len(names)))


def load_tokenizer(
    folder: Path, config: dict[str, Any], max_length: int | None
) -> tuple["Tokenizer", int]:
    """The fast tokenizer, which cuts and does not pad, and where it cuts."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no tokenizer.json, so sentences cannot become tokens. Copy tokenizer.json and tokenizer_config.json "
            "from the model that it was fine-tuned or exported from, or pull it again."
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{path} is no tokenizer: {error}. Pull or copy it again.") from error
    words, rows = tokenizer.get_vocab_size(), config.get("vocab_size")
    if isinstance(rows, int) and words > rows:
        raise UserError(
            f"{path} has {words:,} tokens, the model knows {rows:,}: it is another model's. Copy the right one."
        )
    settings = folder / "tokenizer_config.json"
    limits = [config.get("max_position_embeddings"), config.get("n_positions")]
    limits.append(read_json_here(settings).get("model_max_length") if settings.is_file() else None)
    longest = min([int(limit) for limit in limits if limit], default=512)
    if max_length and not 3 <= max_length <= longest:
        raise UserError(
            f"--max-length {max_length}: expected 3 to {longest}, the positions that {folder} has."
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length or longest)
    return tokenizer, max_length or longest


def load_torch(file: Path, threads: int) -> "tuple[Runtime, frozenset[str], str]":
    """The forward pass in PyTorch, what it takes, and words about it."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(file.parent), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{file.parent} cannot be loaded: {reason} Pull it again; expected a sequence classifier."
        ) from error
    for name, found, expected in sorted(info["mismatched_keys"], key=str):
        raise UserError(
            f"{file} has {name} of shape {tuple(found)}, {file.with_name('config.json')} asks for {tuple(expected)}: they are of "
            "different models, for example with other labels. Pull the directory again."
        )
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{file} has no {missing[0]} (and {len(missing) - 1} more): it is not fine-tuned, or damaged, and would answer at "
            "random. Use a directory under models/finetuned."
        )
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()

    def run(batches: "Iterator[Batch]") -> "np.ndarray":
        with torch.inference_mode():
            arrays = (
                {name: torch.from_numpy(array).to(device) for name, array in batch.items()}
                for batch in batches
            )
            # One copy from the device at the end: a copy after every batch would make a GPU wait for the next.
            return torch.cat([model(**batch).logits for batch in arrays]).float().cpu().numpy()

    inputs = {"input_ids", "attention_mask"}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs.add("token_type_ids")
    where = (
        f"CUDA ({torch.cuda.get_device_name()})"
        if device == "cuda"
        else f"CPU (PyTorch sees no CUDA GPU), {threads} threads"
    )
    return run, frozenset(inputs), f"PyTorch {torch.__version__}, fp32, {where}"


def load_onnx(file: Path, threads: int) -> "tuple[Runtime, frozenset[str], str]":
    """The forward pass in ONNX Runtime, what it takes, and words about it."""
    import numpy as np

    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"{file} needs ONNX Runtime, which is not installed. Run `pip install -r requirements.txt`."
        ) from error
    int8 = "quantized" in file.name or "int8" in file.name
    if int8 and (
        warning := check_int8(
            file, platform.machine(), processor_flags(), has_reduced_range(file.parent)
        )
    ):
        print(f"warning: {warning}", file=sys.stderr)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; they come back as exceptions as well
    try:
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions have no common class of their own
        raise UserError(refusal(file, str(error), onnxruntime.__version__)) from error
    inputs = frozenset(node.name for node in session.get_inputs())
    known = {"input_ids", "attention_mask", "token_type_ids"}
    if not {"input_ids", "attention_mask"} <= inputs <= known or "logits" not in {
        node.name for node in session.get_outputs()
    }:
        found = f"{', '.join(sorted(inputs))} -> {', '.join(node.name for node in session.get_outputs())}"
        raise UserError(
            f"{file} is no text classifier: it computes {found}; expected input_ids, attention_mask -> logits."
        )

    def run(batches: "Iterator[Batch]") -> "np.ndarray":
        return np.concatenate([session.run(["logits"], batch)[0] for batch in batches])

    precision = "int8" if int8 else "fp32"
    return (
        run,
        inputs,
        f"ONNX Runtime {onnxruntime.__version__}, {precision}, CPU, {threads} threads",
    )


def refusal(file: Path, words: str, version: str) -> str:
    """What ONNX Runtime says about a graph that it does not load, with what to do."""
    words = words.strip().splitlines()[0]
    for what, found, known in (
        ("opset", r"Opset (\d+) is under development", r"till opset (\d+)"),
        ("format (IR version)", r"model IR version: (\d+)", r"max supported IR version: (\d+)"),
    ):
        if (it := re.search(found, words)) and (most := re.search(known, words)):
            return (
                f"{file} has {what} {it[1]}; ONNX Runtime {version} knows {most[1]} at most. Export the model again with the "
                "versions of requirements.txt, or install a newer onnxruntime."
            )
    words = re.sub(
        r"^.*?failed: ?(/onnxruntime_src/.*?\) )?", "", words
    )  # its own file and function
    return f"{file}: ONNX Runtime {version} cannot load it: {words} Export or pull it again."


def processor_flags() -> frozenset[str] | None:
    """The instruction sets that Linux names; None on other systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return None


def has_reduced_range(folder: Path) -> bool:
    """Whether the int8 weights of an exported directory have seven bits, as its ort_config.json says; then no sum saturates."""
    path = folder / "ort_config.json"
    quantization = read_json_here(path).get("quantization") if path.is_file() else None
    return isinstance(quantization, dict) and quantization.get("reduce_range") is True


def check_int8(
    file: Path, machine: str, flags: frozenset[str] | None, reduced_range: bool = False
) -> str:
    """A warning (or "") about int8 on this processor.

    ONNX Runtime multiplies bytes with AVX2 at least, best with VNNI or AMX, on Arm with the dot product. Without VNNI two
    products are added in 16 bits, which can saturate (onnxruntime.ai, "Quantize ONNX models": U8S8 on AVX2 and AVX512).

    Args:
        machine: as platform.machine() names it.
        flags: as Linux names them; None: unknown, nothing is said.
        reduced_range: the weights have seven bits, so that no sum saturates.

    Raises:
        UserError: the processor has no instructions for it.
    """
    if flags is None:
        return ""
    other = f"Use {file.with_name(PREFERRED[0])}, which is fp32."
    if machine.lower() in ("arm64", "aarch64"):
        if not flags & {"asimddp", "i8mm"}:
            raise UserError(
                f"{file} is int8, and this Arm processor has no dot product instructions (asimddp, i8mm). {other}"
            )
        return ""
    if not flags & {"avx2", "avx512f"}:
        raise UserError(
            f"{file} is int8, and this processor has no instructions for it (AVX2 at least, best VNNI). {other}"
        )
    if not flags & {"avx512_vnni", "avx_vnni", "amx_int8"} and not reduced_range:
        return (
            f"{file} is int8, and this processor has AVX2 but no VNNI or AMX: sums of products can saturate, so answers can "
            f"differ from those elsewhere, and int8 may be no faster. {other}"
        )
    return ""


def check_labels(model: Model, names: tuple[str, ...], file: Path) -> None:
    """Compute one sentence: `UserError` unless the network has as many outputs as config.json names."""
    (coded,), _ = model.encode([("film",)])
    outputs = model.runtime(iter([model.collate([coded])])).shape[1]
    if outputs != len(names):
        raise UserError(
            f"{file} has {outputs} outputs, {file.with_name('config.json')} names {len(names)} ({', '.join(names)}): they are of "
            "different models. Export the model again, or copy the config.json that belongs to it."
        )


def usable_processors() -> int:
    """Processors that this process may use (a container or `taskset` may leave fewer than there are)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
