"""Exported graphs in ONNX Runtime, on the CPU.

session = Session(Path("models/exported/minilm-1/model_optimized.onnx"))
logits = session.predict([[101, 2143, 102]], batch_size=1)
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.files import UserError, read_json

if TYPE_CHECKING:
    import numpy as np

# By form; the names are those of `optimum`.
FILES = {"onnx": "model.onnx", "optimized": "model_optimized.onnx", "int8": "model_quantized.onnx"}
INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # sum bytes in 32 bits


class Session:
    """A text classifier in ONNX Runtime, with as many threads as PyTorch takes."""

    def __init__(self, file: Path, pad_id: int = 0) -> None:
        """Open `file`; `UserError` if it cannot be loaded, or is no text classifier."""
        import onnxruntime
        import torch

        options, version = onnxruntime.SessionOptions(), onnxruntime.__version__
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; they come back as exceptions as well
        # Its threads would else wait for the next sentence by spinning, on others' processors.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common class of their own
            words = re.sub(r"^.*?failed: ?(/onnxruntime_src/.*?\) )?", "", str(error).strip())
            raise UserError(
                f"{file}: ONNX Runtime {version} cannot load it: {words.splitlines()[0]} "
                "Export it again with the versions of requirements.txt, or pull it again."
            ) from error
        self.inputs = {node.name for node in self.session.get_inputs()}
        outputs = {node.name: node.shape for node in self.session.get_outputs()}
        if not self.inputs <= INPUTS or "logits" not in outputs:
            found = f"{', '.join(sorted(self.inputs))} -> {', '.join(outputs)}"
            raise UserError(
                f"{file} is no text classifier: it computes {found}; expected input_ids, "
                "attention_mask -> logits. Export it again."
            )
        self.pad_id, self.labels = pad_id, outputs["logits"][-1]
        precision = "int8" if file.name == FILES["int8"] else "fp32"
        self.description = f"ONNX Runtime {version}, {precision}, CPU"

    def predict(
        self,
        token_ids: Sequence[Sequence[int]],
        batch_size: int,
        token_types: Sequence[Sequence[int]] | None = None,
    ) -> "np.ndarray":
        """Logits of tokenised sentences, in their order; batches hold near lengths.

        int8 scales its activations by the batch, so its answers depend a little on `batch_size`.

        Args:
            token_ids: special tokens included, unpadded; not empty.
            token_types: of pairs, shaped like `token_ids`.

        Returns:
            float32 array of shape (sentences, labels).
        """
        import numpy as np

        order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        parts = []
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            types = [token_types[i] for i in chosen] if token_types else None
            parts.append(self.run(pad([token_ids[i] for i in chosen], types, self.pad_id)))
        return np.concatenate(parts)[np.argsort(order)]

    def run(self, batch: Mapping[str, "np.ndarray"]) -> "np.ndarray":
        """Logits, float32 of shape (sentences, labels), of a batch as `pad` gives it."""
        logits: np.ndarray = self.session.run(["logits"], {i: batch[i] for i in self.inputs})[0]
        return logits


def pad(
    token_ids: Sequence[Sequence[int]],
    token_types: Sequence[Sequence[int]] | None = None,
    pad_id: int = 0,
) -> dict[str, "np.ndarray"]:
    """The three inputs by name: int64 arrays of shape (sentences, longest), padded at the right."""
    import numpy as np

    batch = {name: np.zeros((len(token_ids), max(map(len, token_ids))), int) for name in INPUTS}
    batch["input_ids"] += pad_id
    for row, ids in enumerate(token_ids):
        batch["input_ids"][row, : len(ids)] = ids
        batch["attention_mask"][row, : len(ids)] = 1
        batch["token_type_ids"][row, : len(ids)] = token_types[row] if token_types else 0
    return batch


def warn_of_saturation(folder: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Say on stderr if the int8 form may answer otherwise on this processor than elsewhere.

    Without VNNI, AMX or Arm's dot product, two products are added in 16 bits, which can saturate
    (onnxruntime.ai, "Quantize ONNX models"), unless the weights have 7 bits.
    """
    settings = read_json(folder / "ort_config.json", "Export it again.")["quantization"]
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    if flags and not INT8_FLAGS & set(flags[1].split()) and not settings["reduce_range"]:
        print(
            f"warning: {folder / FILES['int8']}: this processor has no VNNI or AMX, so sums of "
            f"int8 products can saturate and answers differ from those elsewhere. Use "
            f"{FILES['optimized']}, or export with export.reduce_range: true.",
            file=sys.stderr,
        )
