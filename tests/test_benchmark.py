"""Size and speed of the models: exact counts, every sentence by every model, medians."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from conftest import Here
from reproduce import machine
from stages import benchmark
from test_devices import fake_driver

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}


@pytest.mark.parametrize(
    ("kind", "sizes", "all_of_it", "encoder"),
    [
        ("distilbert", {}, 66_955_010, 66_362_880),
        ("bert", {}, 109_483_778, 109_482_240),
        ("bert", MINILM, 22_713_986, 22_713_216),
    ],
)
def test_parameters_of_full_size_models_are_exact(
    kind: str, sizes: dict[str, Any], all_of_it: int, encoder: int
) -> None:
    with torch.device("meta"):  # shapes without memory, of which there is nothing to save
        config = AutoConfig.for_model(kind, **sizes)
        model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained = lambda folder: Path(folder, "model.safetensors").write_text("12345")
    expected = {"parameters": all_of_it, "parameters_encoder": encoder, "bytes": 5}
    assert benchmark.size(model) == expected


def test_every_model_computes_every_sentence_and_they_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that ticks once a reading, each takes 1 second."""
    calls: list[tuple[str, int]] = []

    def model(name: str) -> Any:
        return lambda input_ids: calls.append((name, int(input_ids)))

    ids = [{"input_ids": torch.tensor([i])} for i in range(3)]
    monkeypatch.setattr("time.perf_counter", itertools.count(100.0).__next__)
    models, inputs = {"a": model("a"), "b": model("b")}, {"a": ids, "b": ids}
    seconds = benchmark.take_turns(models, inputs, passes=2, warmup=1)
    assert seconds == {"a": [[1.0] * 3] * 2, "b": [[1.0] * 3] * 2}
    # The one that goes first changes with every sentence.
    a_pass = [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert calls == [("a", 0), ("b", 0), *a_pass, *a_pass]  # warm-up first


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, "abcdefg"), (2, "ad"), (3, "ace"), (7, "abcdefg"), (99, "abcdefg")]
)
def test_sentences_are_chosen_evenly(count: int, chosen: str) -> None:
    assert benchmark.choose("abcdefg", count) == list(chosen)


def test_speed_is_summarised_by_medians() -> None:
    """The speed-up is the median of the ratios (2, 3, 1.5), not the ratio of the medians (3)."""
    own = {"seconds": 2.0, "seconds_by_pass": [1.0, 2.0, 4.0], "sentences_per_second": 50.0}
    assert benchmark.summarize([1.0, 2.0, 4.0], [2.0, 6.0, 6.0], 100) == {
        **own, "speedup": 2.0, "speedup_by_pass": [2.0, 3.0, 1.5],
    }  # fmt: skip
    assert benchmark.summarize([1.0, 2.0, 4.0], None, 100) == {**own, "speedup": "not run"}


def test_sentences_are_cut_where_the_training_cuts_them_and_a_lost_config_is_named(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.edit("params.yaml", lambda p: p["tokenize"].update(max_length=5))
    seen: list[int] = []

    def take_turns(models: Any, inputs: Any, passes: int, warmup: int) -> Any:
        seen.extend(batch["input_ids"].shape[1] for batch in inputs["tiny"])
        return {name: [[1.0]] for name in models}

    monkeypatch.setattr(benchmark, "take_turns", take_turns)
    here.stage("benchmark")
    assert seen == [5] * 8
    broken = fake_driver(here.path.with_name("driver"), answer="Failed to initialize NVML", code=18)
    path = {"PATH": f"{broken}:{here.env['PATH']}", "CUDA_VISIBLE_DEVICES": "0"}
    monkeypatch.setattr(benchmark, "build", None)  # it is refused before any work
    machine.list_gpus.cache_clear()
    assert "the NVIDIA driver does not work" in here.refused("benchmark", **path)
    machine.list_gpus.cache_clear()
    monkeypatch.undo()
    (here.path / "models/tokenizers/tiny/config.json").unlink()
    assert "models/tokenizers/tiny/config.json: " in here.refused("benchmark")
