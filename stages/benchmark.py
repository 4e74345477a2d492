"""Size and speed of the models: the article's Table 3 (parameters; CPU, batch size 1).

Run as: python -m stages.benchmark

Neither depends on the values of the weights, so models are built from their configs with random
ones, and nothing large is downloaded. They take turns over the validation sentences.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import go_offline, run_command
from reproduce.files import write_json
from reproduce.inputs.sentences import read_raw_data, read_tsv
from reproduce.inputs.tokenizer import load_tokenizer, read_config, tokenize_split
from reproduce.machine import describe
from reproduce.params import Benchmark, Compare, Tokenize, read_section

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
    max_length = read_section("tokenize", Tokenize).max_length
    teacher = read_section("compare", Compare).teacher
    go_offline()
    import torch

    if params.threads:
        torch.set_num_threads(params.threads)
    data = read_raw_data()
    texts, _ = read_tsv(Path("data/raw/validation.tsv"), data.label_values, data.columns)
    sentences = choose(texts, params.sentences)
    models, inputs, results = {}, {}, {}
    for name in params.models:
        print(f"benchmark: building {name}", flush=True)
        models[name] = build(TOKENIZERS / name)
        results[name] = size(models[name])
        # Tokenised beforehand: the article's times are of the model.
        tokenizer, labels = load_tokenizer(TOKENIZERS / name), [0] * len(sentences)
        coded = tokenize_split(tokenizer, sentences, labels, [], max_length)["input_ids"]
        inputs[name] = [torch.tensor([ids]) for ids in coded]
    print(f"benchmark: {', '.join(models)} take turns over {len(sentences)} of {len(texts)} "
          f"sentences, {params.passes} pass(es), batch size 1, fp32, "
          f"{torch.get_num_threads()} CPU thread(s)", flush=True)  # fmt: skip
    seconds = time_passes(models, inputs, params.passes, params.warmup)
    for name in models:
        results[name] |= summarize(seconds[name], seconds.get(teacher), len(sentences))
    facts = {"sentences": len(sentences), "teacher": teacher, "environment": describe()}
    write_json(Path("metrics/speed.json"), {**facts, "models": results})
    rates = [f"{name} {r['sentences_per_second']}" for name, r in results.items()]
    print(f"metrics/speed.json: sentences/s of {', '.join(rates)}")


def choose(sentences: Sequence[Any], count: int) -> list[Any]:
    """`count` of them, spread evenly over all; 0, or more than there are: all."""
    count = min(count, len(sentences)) or len(sentences)
    return [sentences[i * len(sentences) // count] for i in range(count)]


def build(directory: Path) -> "PreTrainedModel":
    """A 2-label classifier of this architecture with random weights, in fp32, for inference."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config = read_config(directory)
    config.num_labels = 2
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )
    return model.eval()  # type: ignore[no-any-return]


def size(model: "PreTrainedModel") -> dict[str, int]:
    """Numbers of parameters, all and without the head (as the article counts); the file's bytes."""
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
    """Seconds of each pass by model: forward passes only, at batch size 1.

    All models meet a sentence within the same second, so that whatever else the machine does falls
    on all alike. The one that goes first changes with every sentence.
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


def summarize(own: list[float], teacher: list[float] | None, sentences: int) -> dict[str, Any]:
    """Median seconds a pass, sentences/s, and the median over passes of teacher's / own seconds.

    `speedup` is "not run" where the teacher is not among the models (None): no empty list, of which
    DVC would warn when it draws plots.
    """
    median = statistics.median(own)
    facts: dict[str, Any] = {
        "seconds": round(median, 3),
        "seconds_by_pass": [round(s, 3) for s in own],
        "sentences_per_second": round(sentences / median, 1),
    }
    if teacher is None:
        return {**facts, "speedup": "not run"}
    ratios = [t / o for t, o in zip(teacher, own, strict=True)]
    by_pass = [round(ratio, 3) for ratio in ratios]
    return {**facts, "speedup": round(statistics.median(ratios), 3), "speedup_by_pass": by_pass}


if __name__ == "__main__":
    run_command(main)
