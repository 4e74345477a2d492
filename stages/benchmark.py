"""Size and speed of the models: the article's Table 3 (parameters; CPU, batch size 1) on the validation sentences.

Run as: python -m stages.benchmark

Neither depends on the values of the weights, so models are built from their configs and nothing large is downloaded.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import UserError, write_json
from reproduce.inputs.sentences import read_about, read_tsv
from reproduce.machine import describe
from reproduce.params import PARAMS, Benchmark, read_experiment, read_section, read_yaml

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENIZERS = Path("models/tokenizers")


def main() -> None:
    """Write metrics/speed.json."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    params = read_section("benchmark", Benchmark)
    teacher = read_yaml(PARAMS)["compare"]["teacher"]
    names = read_experiment().models
    go_offline()
    import torch
    from transformers import AutoTokenizer

    if params.threads:
        torch.set_num_threads(params.threads)
    about = read_about()
    sentences, _ = read_tsv(Path("data/raw/validation.tsv"), about.label_values, about.columns)
    models, inputs, results = {}, {}, {}
    for name in names:
        directory = TOKENIZERS / name
        if not (directory / "config.json").is_file():
            raise UserError(
                f"{directory} has no config.json. Run `dvc repro download_tokenizer@{name}`."
            )
        models[name] = build(directory)
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        # Tokenised beforehand: the article's times are of the model.
        inputs[name] = [
            torch.tensor([tokenizer(*s.split("\t"), truncation=True, max_length=128)["input_ids"]])
            for s in sentences
        ]
        results[name] = size(models[name])
    print(f"benchmark: {', '.join(names)} take turns over {len(sentences)} sentences, {params.passes} pass(es), "
          f"batch size 1, fp32, {torch.get_num_threads()} CPU thread(s)", flush=True)  # fmt: skip
    seconds = time_passes(models, inputs, params.passes, params.warmup)
    for name in names:
        results[name] |= summarize(seconds[name], seconds.get(teacher), len(sentences))
    write_json(
        Path("metrics/speed.json"),
        {
            "sentences": len(sentences),
            "teacher": teacher,
            "models": results,
            "environment": describe(),
        },
    )
    parts = [f"{n} {r['parameters_encoder'] / 1e6:.1f} M, {r['sentences_per_second']} sentences/s, speed-up {r['speedup']}"
             for n, r in results.items()]  # fmt: skip
    print("metrics/speed.json: " + "; ".join(parts))


def build(directory: Path) -> "PreTrainedModel":
    """A 2-label classifier of this architecture with random weights, in fp32, ready for inference."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(str(directory), local_files_only=True, num_labels=2)
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()  # type: ignore[no-any-return]


def size(model: "PreTrainedModel") -> dict[str, int]:
    """Exact numbers of parameters (all; without the classification head, as the article counts) and bytes on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        saved = (Path(scratch) / "model.safetensors").stat().st_size
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_encoder": sum(p.numel() for p in model.base_model.parameters()),
        "bytes": saved,
    }


def time_passes(
    models: Mapping[str, "PreTrainedModel"],
    inputs: Mapping[str, list["torch.Tensor"]],
    passes: int,
    warmup: int,
) -> dict[str, list[float]]:
    """Time full passes at batch size 1, the models taking turns sentence by sentence.

    The models meet every sentence within the same second, so that whatever else the machine does falls on all alike, and the one
    that goes first changes with every sentence.

    Returns:
        for each model the seconds of each pass, forward passes only.
    """
    import torch
    from tqdm import tqdm

    names = list(models)
    count = len(inputs[names[0]])
    seconds = {name: [0.0] * passes for name in names}
    with torch.inference_mode():
        for name in names:
            for ids in inputs[name][:warmup]:
                models[name](input_ids=ids)
        with tqdm(total=passes * count, desc="benchmark", unit="sentence") as bar:
            for number in range(passes):
                for i in range(count):
                    for j in range(len(names)):
                        name = names[(i + j) % len(names)]
                        start = time.perf_counter()
                        models[name](input_ids=inputs[name][i])
                        seconds[name][number] += time.perf_counter() - start
                    bar.update()
    return seconds


def summarize(
    seconds: list[float], teacher_seconds: list[float] | None, sentences: int
) -> dict[str, Any]:
    """Median seconds a pass, sentences/s, and speed-up: the median over passes of teacher's seconds / own seconds.

    `speedup` is "not run" where the teacher is not among the models.
    """
    median = statistics.median(seconds)
    ratios = [theirs / ours for theirs, ours in zip(teacher_seconds or [], seconds, strict=False)]
    return {
        "seconds": round(median, 3),
        "seconds_by_pass": [round(s, 3) for s in seconds],
        "sentences_per_second": round(sentences / median, 1),
        "speedup": round(statistics.median(ratios), 3) if ratios else "not run",
        "speedup_by_pass": [round(r, 3) for r in ratios],
    }


if __name__ == "__main__":
    run_command(main)
