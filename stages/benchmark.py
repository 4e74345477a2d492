"""Size and speed of the models: the article's Table 3 (parameters; CPU, batch size 1).

Run as: python -m stages.benchmark

Neither depends on the values of the weights, so models are built from their configs with random
ones, and nothing large is downloaded. They take turns over the validation sentences.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.command import command_line, go_offline, run_command
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
    command_line(__doc__).parse_args()
    params, teacher = read_section("benchmark", Benchmark), read_section("compare", Compare).teacher
    max_length = read_section("tokenize", Tokenize).max_length
    go_offline()
    import torch

    if params.threads:
        torch.set_num_threads(params.threads)
    environment = describe()
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
        inputs[name] = [{"input_ids": torch.tensor([ids])} for ids in coded]
    print(f"benchmark: {', '.join(models)} take turns over {len(sentences)} of {len(texts)} "
          f"sentences, {params.passes} pass(es), batch size 1, fp32, "
          f"{torch.get_num_threads()} CPU thread(s)", flush=True)  # fmt: skip
    timed = take_turns(models, inputs, params.passes, params.warmup)
    seconds = {name: [sum(one_pass) for one_pass in passes] for name, passes in timed.items()}
    for name in models:
        results[name] |= summarize(seconds[name], seconds.get(teacher), len(sentences))
    facts = {"sentences": len(sentences), "teacher": teacher, "environment": environment}
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
    parts = {"parameters": model, "parameters_encoder": model.base_model}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        return {**sizes, "bytes": (Path(scratch) / "model.safetensors").stat().st_size}


def take_turns(
    models: Mapping[str, Callable[..., object]],
    inputs: Mapping[str, Sequence[Mapping[str, "torch.Tensor"]]],
    passes: int,
    warmup: int,
    pause: float = 0.0,
) -> dict[str, list[list[float]]]:
    """Seconds of a forward pass by model, pass and input (of each model, the keywords of a call).

    All models meet an input within the same second, so that whatever else the machine does falls
    on all alike. The one that goes first changes with every input. `pause`, in seconds, comes
    before each turn.
    """
    import torch
    from tqdm import tqdm

    names, count = list(models), len(next(iter(inputs.values())))
    seconds: dict[str, list[list[float]]] = {name: [[] for _ in range(passes)] for name in names}
    with torch.inference_mode():
        for name in names:
            for batch in inputs[name][:warmup]:
                models[name](**batch)
        for step in tqdm(range(passes * count), desc="benchmark", unit="input"):
            number, i = divmod(step, count)
            for j in range(len(names)):
                name = names[(i + j) % len(names)]
                if pause:
                    time.sleep(pause)
                start = time.perf_counter()
                models[name](**inputs[name][i])
                seconds[name][number].append(time.perf_counter() - start)
    return seconds


def summarize(own: list[float], teacher: list[float] | None, sentences: int) -> dict[str, Any]:
    """Median seconds a pass, sentences/s, and the median over passes of teacher's / own seconds.

    `speedup` is "not run" without the teacher's: of an empty list DVC would warn in its plots.
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
