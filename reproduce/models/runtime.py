"""An exported graph in ONNX Runtime, on the CPU, in the place of a model of transformers.

    model = Session(Path("models/exported/minilm-1/model_optimized.onnx"), config)
    logits = predict_padded(model, [[101, 2143, 102]], batch_size=1)

int8 scales its activations by the batch, so its answers depend a little on the batch size.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from reproduce.files import UserError, read_json

if TYPE_CHECKING:
    import torch

# By form; the names are those of `optimum`.
FILES = {"onnx": "model.onnx", "optimized": "model_optimized.onnx", "int8": "model_quantized.onnx"}
RELOAD = " Export it again with the versions of requirements.txt, or pull it again."
INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
INT8_FLAGS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}  # sum bytes in 32 bits


class Session:
    """A text classifier in ONNX Runtime, with as many threads as PyTorch takes."""

    device = "cpu"

    def __init__(self, file: Path, config: Any) -> None:
        """Open `file`; `UserError` if it cannot be loaded, or is no classifier of `config`'s."""
        import onnxruntime
        import torch

        self.config, version = config, onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; they come back as exceptions as well
        # Its threads would else wait for the next sentence by spinning, on others' processors.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common class of their own
            words = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{file}: ONNX Runtime {version} cannot load it: {words}{RELOAD}"
            ) from error
        self.inputs = {node.name for node in self.session.get_inputs()}
        outputs = {node.name: node.shape[-1] for node in self.session.get_outputs()}
        if not self.inputs <= INPUTS or outputs.get("logits", 0) != config.num_labels:
            raise UserError(
                f"{file} computes {', '.join(sorted(self.inputs))} -> {outputs}; expected "
                "input_ids, attention_mask -> logits of the "
                f"{config.num_labels} labels in config.json.{RELOAD}"
            )
        precision = "int8" if file.name == FILES["int8"] else "fp32"
        self.description = f"ONNX Runtime {version}, {precision}, CPU"

    def __call__(self, **batch: "torch.Tensor") -> SimpleNamespace:
        """Logits, float32 of shape (sentences, labels), of inputs of shape (sentences, tokens)."""
        import torch

        batch.setdefault("token_type_ids", torch.zeros_like(batch["input_ids"]))
        inputs = {name: batch[name].numpy() for name in self.inputs}
        return SimpleNamespace(logits=torch.from_numpy(self.session.run(["logits"], inputs)[0]))


def warn_of_saturation(folder: Path, cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Say on stderr if the int8 form may answer otherwise on this processor than elsewhere.

    Without VNNI, AMX or Arm's dot product, two products are added in 16 bits, which can saturate
    (onnxruntime.ai, "Quantize ONNX models"), unless the weights have 7 bits.
    """
    path = folder / "ort_config.json"
    made = read_json(path, "Export it again.") if path.is_file() else {}
    reduced = made.get("quantization", {}).get("reduce_range")
    flags = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.is_file() else INT8_FLAGS
    if not INT8_FLAGS & flags and not reduced:
        words = "warning: this processor has no VNNI or AMX, so sums of int8 products can saturate"
        print(f"{words} and answers differ from those elsewhere; use fp32.", file=sys.stderr)
