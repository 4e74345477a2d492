"""Size, speed, and the comparison with published numbers: exact counts, exact statistics, nothing filled in."""

import csv
import itertools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
)

from conftest import ROOT, Repository, dump_yaml, load_yaml
from reproduce.files import UserError
from reproduce.params import Compare, Experiment, read_yaml, validate
from reproduce.verdict.claims import Evidence, judge
from reproduce.verdict.published import Published, Row
from stages import benchmark
from stages.compare import compare

PUBLISHED = validate(Published, read_yaml(ROOT / "published.yaml"), "published.yaml:")
PARAMS = validate(Compare, read_yaml(ROOT / "params.yaml")["compare"], "params.yaml: compare")

# --- size -------------------------------------------------------------------------------------------------------------

MINILM = BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
)
COUNTS = {
    "distilbert": (DistilBertConfig(), 66_955_010, 66_362_880),
    "bert": (BertConfig(), 109_483_778, 109_482_240),
    "minilm": (MINILM, 22_713_986, 22_713_216),  # the head has 384 x 2 + 2
}


@pytest.mark.parametrize(("config", "with_head", "encoder"), COUNTS.values(), ids=COUNTS)
def test_parameters_of_full_size_models_are_exact(
    config: PreTrainedConfig, with_head: int, encoder: int
) -> None:
    with torch.device("meta"):  # shapes without memory
        model = AutoModelForSequenceClassification.from_config(config)
    # Without memory there is nothing to save; bytes on disk are the next test's.
    model.save_pretrained = lambda folder: (Path(folder) / "model.safetensors").write_bytes(
        b"12345"
    )
    assert benchmark.size(model) == {
        "parameters": with_head,
        "parameters_encoder": encoder,
        "bytes": 5,
    }


def test_bytes_on_disk_are_those_of_the_saved_file(tiny_model: Path, tmp_path: Path) -> None:
    model = benchmark.build(tiny_model)
    model.save_pretrained(tmp_path / "saved")
    size = benchmark.size(model)
    assert size["bytes"] == (tmp_path / "saved/model.safetensors").stat().st_size
    # 4 bytes a parameter and a header.
    assert 0 < size["bytes"] - 4 * size["parameters"] < 10_000
    assert size["parameters"] - size["parameters_encoder"] == 32 * 2 + 2


def test_models_are_built_in_fp32_for_inference_and_the_same_every_time(tiny_model: Path) -> None:
    first, second = benchmark.build(tiny_model), benchmark.build(tiny_model)
    assert {parameter.dtype for parameter in first.parameters()} == {torch.float32}
    assert not first.training and first.config.num_labels == 2
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


# --- speed ------------------------------------------------------------------------------------------------------------


def test_every_model_computes_every_sentence_and_they_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a clock that ticks once a reading, each of 3 sentences takes 1 second: 3 seconds a pass."""
    calls: list[tuple[str, int]] = []

    def model(name: str) -> Any:
        return lambda input_ids: calls.append((name, int(input_ids)))

    ids = [torch.tensor([i]) for i in range(3)]
    monkeypatch.setattr("time.perf_counter", itertools.count(100.0).__next__)
    seconds = benchmark.time_passes(
        {"a": model("a"), "b": model("b")}, {"a": ids, "b": ids}, passes=2, warmup=1
    )
    assert seconds == {"a": [3.0, 3.0], "b": [3.0, 3.0]}
    a_pass = [
        ("a", 0),
        ("b", 0),
        ("b", 1),
        ("a", 1),
        ("a", 2),
        ("b", 2),
    ]  # the first one changes with every sentence
    assert calls == [("a", 0), ("b", 0), *a_pass, *a_pass]  # warm-up first


def test_times_of_a_real_model_are_positive(tiny_model: Path) -> None:
    model = benchmark.build(tiny_model)
    seconds = benchmark.time_passes(
        {"a": model}, {"a": [torch.tensor([[2, 5, 3]])] * 4}, passes=3, warmup=0
    )
    assert list(seconds) == ["a"] and len(seconds["a"]) == 3 and min(seconds["a"]) > 0


def test_speed_is_summarised_by_medians() -> None:
    """The speed-up is the median of the passes' ratios (2, 3, 1.5), not the ratio of the medians (3)."""
    assert benchmark.summarize([1.0, 2.0, 4.0], [2.0, 6.0, 6.0], 100) == {
        "seconds": 2.0,
        "seconds_by_pass": [1.0, 2.0, 4.0],
        "sentences_per_second": 50.0,
        "speedup": 2.0,
        "speedup_by_pass": [2.0, 3.0, 1.5],
    }
    assert benchmark.summarize([0.12345], [0.12345], 872) == {
        "seconds": 0.123, "seconds_by_pass": [0.123], "sentences_per_second": 7063.6, "speedup": 1.0, "speedup_by_pass": [1.0],
    }  # fmt: skip


def test_without_the_teacher_there_is_no_speed_up() -> None:
    result = benchmark.summarize([1.0, 3.0], None, 10)
    assert (result["speedup"], result["speedup_by_pass"]) == ("not run", [])
    assert (result["seconds"], result["sentences_per_second"]) == (2.0, 5.0)


def test_the_speed_file_names_sentences_teacher_and_machine(finished: Repository) -> None:
    """The teacher, `other`, is not among the models."""
    speed = finished.json("metrics/speed.json")
    assert (speed["sentences"], speed["teacher"], set(speed["models"])) == (24, "other", {"tiny"})
    assert (
        speed["models"]["tiny"]["speedup"] == "not run"
        and len(speed["models"]["tiny"]["seconds_by_pass"]) == 1
    )
    assert speed["environment"]["threads"] >= 1 and speed["environment"]["cpu"]
    assert (
        speed["models"]["tiny"]["parameters"]
        == benchmark.size(benchmark.build(finished.path / "models/tokenizers/tiny"))["parameters"]
    )


# --- statistics -------------------------------------------------------------------------------------------------------


def ran(correct: int, n: int = 872) -> dict[str, Any]:
    return {"metric": "accuracy", "score": round(correct / n, 6), "correct": correct, "n": n}


def row(score: float, **more: Any) -> Row:
    return Row(
        name="some",
        dataset="sst2",
        split="validation",
        score=score,
        protocol="five seeds",
        source="a paper",
        **more,
    )


def evidence(
    experiment: Experiment, runs: compare.Runs, split: str = "validation", speed: Any = None
) -> Evidence:
    """Predictions of which the first so many are right, as `runs` says."""
    done = {
        model: {seed: run for seed, run in by_seed.items() if run}
        for model, by_seed in runs.items()
    }
    n = next((run["n"] for by_seed in done.values() for run in by_seed.values()), 0)
    labels = np.arange(n) % 2.0
    return Evidence(
        experiment.dataset, split, "accuracy", experiment.models, experiment.seeds,
        {model: {seed: compare.percent(run) for seed, run in by_seed.items()} for model, by_seed in done.items()},
        {model: {seed: np.where(np.arange(n) < run["correct"], labels, 1 - labels) for seed, run in by_seed.items()}
         for model, by_seed in done.items()},
        labels if n else None, speed,
    )  # fmt: skip


CORRECT = {1: 790, 2: 801, 3: 794, 4: 797, 5: 796}


def test_five_seeds_by_hand_and_by_scipy() -> None:
    summary = compare.summarize(
        {seed: ran(correct) for seed, correct in CORRECT.items()}, row(91.3)
    )
    assert (
        summary
        == {
            "seeds_run": 5,
            "by_seed": {"1": 90.6, "2": 91.86, "3": 91.06, "4": 91.4, "5": 91.28},
            "correct_by_seed": {"1": 790, "2": 801, "3": 794, "4": 797, "5": 796},
            "median": 91.28,  # 796 of 872
            "mean": 91.24,  # 795.6 of 872
            "std": 0.46,  # squares of -5.6, 5.4, -1.6, 1.4, 0.4 sum to 65.2; sqrt(65.2 / 4) = 4.037 of 872
            "min": 90.6,
            "max": 91.86,
            "published": {
                "score": 91.3,
                "metric": "accuracy",
                "split": "validation",
                "protocol": "five seeds",
                "source": "a paper",
            },
            "difference": -0.02,
        }
    )
    percent = [100 * correct / 872 for correct in CORRECT.values()]
    assert (
        summary["std"]
        == round(float(stats.tstd(percent)), 2)
        != round(statistics.pstdev(percent), 2)
    )
    assert summary["median"] == round(float(stats.scoreatpercentile(percent, 50)), 2)


def test_an_even_number_of_seeds_has_the_mean_of_the_middle_two_as_median() -> None:
    summary = compare.summarize({1: ran(9, 10), 2: ran(5, 10), 3: ran(8, 10), 4: ran(6, 10)}, None)
    assert (summary["median"], summary["mean"], summary["std"]) == (
        70.0,
        70.0,
        18.26,
    )  # sqrt(1000 / 3)
    assert "published" not in summary and "difference" not in summary


def test_one_seed_has_no_deviation() -> None:
    summary = compare.summarize({7: ran(786)}, row(92.7))
    assert (summary["seeds_run"], summary["median"], summary["std"], summary["difference"]) == (
        1,
        90.14,
        None,
        -2.56,
    )


def test_a_run_that_is_absent_is_named_and_never_filled_in() -> None:
    summary = compare.summarize({1: ran(790), 2: None, 3: ran(796)}, row(91.3))
    assert summary["by_seed"] == {"1": 90.6, "2": "not run", "3": 91.28}
    assert summary["correct_by_seed"] == {"1": 790, "2": "not run", "3": 796}
    assert (summary["seeds_run"], summary["median"], summary["mean"]) == (2, 90.94, 90.94)


def test_a_model_of_which_nothing_ran_has_no_number() -> None:
    summary = compare.summarize({1: None, 2: None}, row(91.3))
    published = summary.pop("published")
    assert published["score"] == 91.3
    assert summary == {
        "seeds_run": 0,
        "by_seed": {"1": "not run", "2": "not run"},
        "correct_by_seed": {"1": "not run", "2": "not run"},
        **dict.fromkeys(("median", "mean", "min", "max", "difference"), "not run"),
        "std": None,
    }


def test_the_difference_is_that_of_the_unrounded_median() -> None:
    """796 of 872 is 91.2844: 0.0056 above 91.2788, which is 0.01, and not the 0.00 of 91.28 - 91.2788."""
    assert compare.summarize({1: ran(796)}, row(91.2788))["difference"] == 0.01


def test_retention_is_the_student_in_percent_of_the_teacher() -> None:
    def pair(student: Any, teacher: Any) -> dict[str, dict[str, Any]]:
        return {"distilbert": {"median": student, "published": {"score": 91.3}},
                "bert": {"median": teacher, "published": {"score": 92.7}}}  # fmt: skip

    assert compare.retention(pair(45.0, 90.0), PARAMS) == {
        "student": "distilbert", "teacher": "bert", "measured": 50.0, "published": 98.49,
    }  # fmt: skip
    assert compare.retention(pair(91.3, "not run"), PARAMS)["measured"] == "not run"
    assert compare.retention(pair("not run", 92.7), PARAMS)["measured"] == "not run"
    assert compare.retention({"distilbert": {"median": 91.3}}, PARAMS) == {
        "student": "distilbert", "teacher": "bert", "measured": "not run", "published": "not run",
    }  # fmt: skip


# --- all of it --------------------------------------------------------------------------------------------------------

ARTICLE = Experiment(dataset="sst2", models=("distilbert", "bert", "minilm"), seeds=(1, 2))
RUNS: dict[str, dict[int, dict[str, Any] | None]] = {
    "distilbert": {1: ran(790), 2: ran(796)},
    "bert": {1: ran(808), 2: None},
    "minilm": {1: None, 2: None},
}
SPEED = {
    "sentences": 872,
    "environment": {"cpu": "A Processor", "threads": 4},
    "models": {
        "distilbert": {"parameters_encoder": 66_362_880, "bytes": 267_832_560, "seconds": 20.04, "seconds_by_pass": [20.04], "sentences_per_second": 43.5, "speedup": 1.987},
        "bert": {"parameters_encoder": 109_482_240, "bytes": 437_958_648, "seconds": 39.8, "seconds_by_pass": [39.8], "sentences_per_second": 21.9, "speedup": 1.0},
        "minilm": {"parameters_encoder": 22_713_216, "bytes": 90_866_120, "seconds": 8.0, "seconds_by_pass": [8.0], "sentences_per_second": 109.0, "speedup": "not run"},
    },
}  # fmt: skip


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as rows of cells."""
    blocks = (
        "\n".join(line if line.startswith("|") else "" for line in markdown.splitlines())
    ).split("\n\n")
    return [
        [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in block.strip().splitlines()
        ]
        for block in blocks
        if block.strip()
    ]


@pytest.fixture
def accuracy() -> dict[str, Any]:
    return compare.compare(ARTICLE, PARAMS, "validation", RUNS, PUBLISHED)


@pytest.fixture(scope="module")
def report() -> str:
    accuracy = compare.compare(ARTICLE, PARAMS, "validation", RUNS, PUBLISHED)
    claims = judge(evidence(ARTICLE, RUNS, speed=SPEED), PUBLISHED, PARAMS)
    return compare.markdown(accuracy, SPEED, PUBLISHED, PARAMS, claims)


def test_every_requested_run_is_accounted_for(accuracy: dict[str, Any]) -> None:
    assert (accuracy["dataset"], accuracy["split"], accuracy["sentences"]) == (
        "sst2",
        "validation",
        872,
    )
    assert {model: summary["by_seed"] for model, summary in accuracy["models"].items()} == {
        "distilbert": {"1": 90.6, "2": 91.28},
        "bert": {"1": 92.66, "2": "not run"},
        "minilm": {"1": "not run", "2": "not run"},
    }
    assert accuracy["metric"] == "accuracy"
    assert accuracy["models"]["distilbert"]["published"]["score"] == 91.3
    assert accuracy["models"]["bert"]["published"]["score"] == 92.7
    assert "published" not in accuracy["models"]["minilm"]  # those weights are others
    assert accuracy["retention"]["measured"] == 98.14  # 90.94 of 92.66
    assert accuracy["retention"]["published"] == 98.49
    json.dumps(accuracy, allow_nan=False)


def test_runs_over_different_numbers_of_sentences_are_refused() -> None:
    mixed = {**RUNS, "minilm": {1: ran(300, 400), 2: None}}
    with pytest.raises(
        UserError,
        match="over different numbers of sentences \\(minilm-1 over 400, distilbert-1 over 872\\)",
    ):
        compare.compare(ARTICLE, PARAMS, "validation", mixed, PUBLISHED)


def test_runs_with_different_metrics_are_refused() -> None:
    mixed = {**RUNS, "minilm": {1: {**ran(790), "metric": "matthews"}, 2: None}}
    with pytest.raises(
        UserError, match="scores of different metrics \\(bert-1 accuracy, minilm-1 matthews\\)"
    ):
        compare.compare(ARTICLE, PARAMS, "validation", mixed, PUBLISHED)


def test_a_score_other_than_accuracy_is_times_100() -> None:
    summary = compare.summarize(
        {1: {"metric": "matthews", "score": 0.513321, "n": 1043}, 2: None},
        row(51.3, metric="matthews"),
    )
    assert (summary["median"], summary["difference"], summary["by_seed"]) == (
        51.33,
        0.03,
        {"1": 51.33, "2": "not run"},
    )
    assert (
        summary["correct_by_seed"] == {"1": None, "2": "not run"}
        and summary["published"]["metric"] == "matthews"
    )


def test_with_no_run_at_all_there_is_no_number() -> None:
    nothing: dict[str, dict[int, dict[str, Any] | None]] = {
        model: {1: None, 2: None} for model in ARTICLE.models
    }
    accuracy = compare.compare(ARTICLE, PARAMS, "validation", nothing, PUBLISHED)
    assert (accuracy["sentences"], accuracy["retention"]["measured"]) == ("not run", "not run")
    claims = judge(evidence(ARTICLE, nothing), PUBLISHED, PARAMS)
    report = compare.markdown(accuracy, None, PUBLISHED, PARAMS, claims)
    assert {cells[-1] for cells in tables(report)[0][2:]} == {"**not run**"}
    measured = [cells for cells in tables(report)[1] if cells[-1] == "this run"]
    assert measured == [
        [f"**{model}**", "not run", "seeds 1, 2", "this run"] for model in ARTICLE.models
    ]


def test_the_report_begins_with_a_verdict_for_each_claim(report: str) -> None:
    claims, *_ = tables(report)
    assert claims[0] == [
        "claim",
        "published",
        "measured",
        "difference",
        "over seeds",
        "over sentences",
        "seeds",
        "verdict",
    ]
    assert claims[2][1:4] == ["91.3", "90.94", "-0.36"] and claims[2][-2:] == [
        "2 of 2",
        "**inconclusive**",
    ]
    assert [cells[-1].strip("*") for cells in claims[2:]] == [
        "inconclusive", "inconclusive", "inconclusive", "not run", "reproduced", "inconclusive", "not reproduced",
    ]  # fmt: skip
    assert "- speed: with at least 2 passes; reproduced: each reaches 1.63 - 0.1; " in report


def test_the_report_pairs_the_models_seed_by_seed(report: str) -> None:
    """distilbert has the first 790 right, bert the first 808."""
    paired = tables(report)[2]
    assert paired[0] == [
        "seed",
        "both right",
        "only distilbert",
        "only bert",
        "neither",
        "p (McNemar, exact)",
    ]
    assert paired[2:] == [["1", "790", "0", "18", "64", f"{2 / 2**18:.4g}"]]
    assert "Always answering label 0: accuracy 50.0 % (436 of 872)." in report


def test_the_report_shows_every_seed_and_the_difference(report: str) -> None:
    first = tables(report)[1]
    assert first[0] == ["model", "accuracy, %", "how", "source"]
    assert first[2:5] == [
        ["**distilbert**", "**90.94** ± 0.49", "median of 2 seed(s) (1: 90.6, 2: 91.28); -0.36 points against the published 91.3", "this run"],
        ["**bert**", "**92.66**", "median of 1 seed(s) (1: 92.66, 2: not run); -0.04 points against the published 92.7", "this run"],
        ["**minilm**", "not run", "seeds 1, 2", "this run"],
    ]  # fmt: skip


def test_validation_and_test_set_never_share_a_table(report: str) -> None:
    assert len(tables(report)) == 5
    for split, table in (("validation", tables(report)[1]), ("test", tables(report)[3])):
        theirs = [
            (cells[0].split(" (")[0], cells[1], cells[3])
            for cells in table[2:]
            if cells[3] != "this run"
        ]
        wanted = [
            (r.name.split(" (")[0], f"{r.score}", r.source)
            for r in PUBLISHED.results
            if (r.dataset, r.split) == ("sst2", split)
        ]
        assert theirs == wanted, split
    validation, test = report.index("## Accuracy, validation"), report.index("## Accuracy, test")
    assert validation < report.index("| BERT-of-Theseus |") < test < report.index("| human |")
    assert "**" not in report[test : report.index("## Size and speed")], (
        "something measured stands beside the test set"
    )


def test_published_numbers_are_printed_as_they_were_published(report: str) -> None:
    assert "| 91.06 |" in report and "| 92.32 |" in report and "| 93.0 |" in report


def test_the_speed_table_stands_beside_the_article_s(accuracy: dict[str, Any], report: str) -> None:
    *_, speed = tables(report)
    assert speed[0][-2:] == ["speed-up over bert", "article"]
    assert speed[2:] == [
        ["distilbert", "66.4", "66", "267.8", "20.0", "43.5", "1.987", "1.63"],  # 668 / 410
        ["bert", "109.5", "110", "438.0", "39.8", "21.9", "1.0", "1.00"],
        ["minilm", "22.7", "-", "90.9", "8.0", "109.0", "not run", "-"],
    ]
    claims = judge(evidence(ARTICLE, RUNS), PUBLISHED, PARAMS)
    assert compare.markdown(accuracy, None, PUBLISHED, PARAMS, claims).endswith(
        "## Size and speed\n\nnot run\n"
    )


def test_another_dataset_has_nothing_published_beside_it() -> None:
    pocket = Experiment(dataset="pocket", models=("distilbert", "bert"), seeds=(1,))
    runs: compare.Runs = {"distilbert": {1: ran(200, 280)}, "bert": {1: ran(210, 280)}}
    accuracy = compare.compare(pocket, PARAMS, "validation", runs, PUBLISHED)
    assert all("published" not in summary for summary in accuracy["models"].values())
    assert (accuracy["retention"]["measured"], accuracy["retention"]["published"]) == (
        95.24,
        "not run",
    )  # 71.43 of 75
    claims = judge(evidence(pocket, runs), PUBLISHED, PARAMS)
    assert (
        list(claims["claims"]) == ["retention_glue", "parameters", "speed", "size"]
        and claims["context"] == []
    )
    report = compare.markdown(accuracy, None, PUBLISHED, PARAMS, claims)
    assert "No published numbers beside these: nobody published on pocket." in report
    assert len(tables(report)) == 3 and "91.3" not in report


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's own params.yaml and published.yaml and no results, in which the stage's main can run."""
    for name in ("params.yaml", "published.yaml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "metrics/runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare"])
    return tmp_path


def write_run(project: Path, model: str, seed: int, **more: Any) -> Path:
    """A run with so many right, and predictions of which the first so many are right."""
    path = project / "metrics/runs" / f"{model}-{seed}.json"
    about = {"dataset": "sst2", "split": "validation", "model": model, "seed": seed}
    correct, n = more.get("correct", 790), more.get("n", 872)
    path.write_text(json.dumps({**about, **ran(correct, n), **more}))
    rows = [
        [f"sentence, {i}", i % 2, i % 2 if i < correct else 1 - i % 2, "0.900000"] for i in range(n)
    ]
    (project / "predictions").mkdir(exist_ok=True)
    with (project / "predictions" / f"{model}-{seed}.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["sentence", "label", "predicted", "probability"], *rows]
        )
    return path


def test_the_stage_reads_the_runs_that_params_name_and_no_other(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(project, "distilbert", 1)
    write_run(project, "distilbert", 2, correct=796)
    write_run(project, "distilbert", 99, correct=872)  # not asked for
    compare.main()
    accuracy = json.loads((project / "metrics/accuracy.json").read_text())
    assert accuracy["models"]["distilbert"]["by_seed"] == {
        "1": 90.6, "2": 91.28, "3": "not run", "4": "not run", "5": "not run",
    }  # fmt: skip
    assert accuracy["models"]["distilbert"]["max"] == 91.28
    assert capsys.readouterr().out == (
        "metrics/accuracy.json: distilbert 90.94 % (2 of 5 seeds); bert not run; minilm not run. metrics/claims.json: "
        "distilbert_accuracy inconclusive, bert_accuracy not run, retention not run, retention_glue not run, parameters not run, "
        "speed not run, size not run\n"
    )
    claims = json.loads((project / "metrics/claims.json").read_text())
    assert (
        claims["claims"]["distilbert_accuracy"]["by_seed"]
        == accuracy["models"]["distilbert"]["by_seed"]
    )
    assert (project / "plots/accuracy_by_seed.csv").read_text() == (
        "model,seed,accuracy,low,high,published\ndistilbert,1,90.60,88.48,92.36,91.30\ndistilbert,2,91.28,89.23,92.98,91.30\n"
    )
    assert (project / "report/comparison.md").read_text().endswith("## Size and speed\n\nnot run\n")


def test_held_out_sentences_are_compared_with_nothing_published(project: Path) -> None:
    params = load_yaml(project / "params.yaml")
    params["selection"].update(holdout=4000)
    dump_yaml(project / "params.yaml", params)
    for model in ("distilbert", "bert"):
        write_run(project, model, 1, split="held out of train", n=4000, correct=3600)
    compare.main()
    accuracy = json.loads((project / "metrics/accuracy.json").read_text())
    assert (accuracy["split"], accuracy["sentences"]) == ("held out of train", 4000)
    assert all(
        "published" not in summary and "difference" not in summary
        for summary in accuracy["models"].values()
    )
    assert (accuracy["retention"]["measured"], accuracy["retention"]["published"]) == (
        100.0,
        "not run",
    )
    report = (project / "report/comparison.md").read_text()
    assert (
        "## Accuracy, held out of train (4000 sentences)" in report
        and "No published numbers beside these" in report
    )
    assert len(tables(report)) == 3 and "Table 1" not in report and "GLUE paper" not in report
    assert (
        "distilbert_accuracy"
        not in json.loads((project / "metrics/claims.json").read_text())["claims"]
    )


def test_a_run_on_held_out_sentences_never_passes_for_one_on_the_validation_set(
    project: Path,
) -> None:
    write_run(project, "bert", 3, split="held out of train")
    with pytest.raises(UserError) as error:
        compare.main()
    assert str(error.value) == (
        "metrics/runs/bert-3.json: split is 'held out of train', expected 'validation'. "
        "Delete it and run `dvc repro evaluate@bert-3`."
    )
    assert not any(
        (project / name).exists()
        for name in ("report", "plots", "metrics/claims.json", "metrics/accuracy.json")
    )


REMEDY = "Delete it and run `dvc repro evaluate@bert-1`."
BAD_RUNS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut short": (lambda text: text[:20], " is not JSON ("),
    "empty": (lambda text: "", " is not JSON ("),
    "a list": (lambda text: "[1]", ": expected a JSON object, found list."),
    "another dataset": (lambda text: text.replace("sst2", "pocket"), ": dataset is 'pocket', expected 'sst2'."),
    "another seed": (lambda text: text.replace('"seed": 1', '"seed": 2'), ": seed is 2, expected 1."),
    "a seed in quotes": (lambda text: text.replace('"seed": 1', '"seed": "1"'), ": seed is '1', expected 1."),
    "another model": (lambda text: text.replace("bert", "minilm"), ": model is 'minilm', expected 'bert'."),
    "no model": (lambda text: text.replace("model", "name"), ": model is None, expected 'bert'."),
    "more correct than there are": (lambda text: text.replace("790", "873"), ": correct 873 of n 872 is no count."),
    "fewer than none": (lambda text: text.replace("790", "-1"), ": correct -1 of n 872 is no count."),
    "half a sentence": (lambda text: text.replace("790", "789.5"), ": correct 789.5 of n 872 is no count."),
    "none of none": (lambda text: text.replace("790", "0").replace("872", "0"), ": n is 0, expected how many sentences were evaluated."),
    "no number of sentences": (lambda text: text.replace('"n"', '"m"'), ": n is None, expected how many sentences were evaluated."),
    "a metric of another kind": (lambda text: text.replace('"accuracy"', '"bleu"'), ": metric is 'bleu', expected one of accuracy, f1, matthews, pearson."),
    "no metric": (lambda text: text.replace("metric", "measure"), ": metric is None, expected one of accuracy, f1, matthews, pearson."),
    "no score": (lambda text: text.replace("score", "points"), ": score is None, expected a number from -1 to 1."),
    "percent": (lambda text: text.replace("0.905963", "90.6"), ": score is 90.6, expected a number from -1 to 1."),
    "no count": (lambda text: text.replace("correct", "right"), ": correct None of n 872 is no count."),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_wrong_run_file_is_named_with_the_remedy(
    project: Path, damage: Callable[[str], str], message: str
) -> None:
    path = write_run(project, "bert", 1)
    good = path.read_text()
    assert compare.read_run("bert", 1, "sst2", "validation") == json.loads(good)
    path.write_text(damage(good))
    with pytest.raises(UserError) as error:
        compare.read_run("bert", 1, "sst2", "validation")
    text = str(error.value)
    assert text.startswith(f"metrics/runs/bert-1.json{message}") and text.endswith(f" {REMEDY}"), (
        text
    )


def test_a_run_that_is_absent_is_none(project: Path) -> None:
    assert compare.read_run("bert", 1, "sst2", "validation") is None


def test_the_comparison_of_a_finished_pipeline_is_that_of_its_run(finished: Repository) -> None:
    run, accuracy = (
        finished.json("metrics/runs/tiny-1.json"),
        finished.json("metrics/accuracy.json"),
    )
    assert list(accuracy["models"]) == ["tiny"] and accuracy["sentences"] == 24
    assert accuracy["models"]["tiny"]["correct_by_seed"] == {"1": run["correct"]}
    assert accuracy["models"]["tiny"]["median"] == round(100 * run["correct"] / 24, 2)
    assert accuracy["retention"] == {
        "student": "tiny",
        "teacher": "other",
        "measured": "not run",
        "published": "not run",
    }


def test_predictions_of_a_finished_pipeline_are_what_the_claims_rest_on(
    finished: Repository,
) -> None:
    run, claims = finished.json("metrics/runs/tiny-1.json"), finished.json("metrics/claims.json")
    assert (
        claims["majority_class"]["n"] == claims["sentences"] == run["n"]
        and claims["majority_class"]["accuracy"] == 50.0
    )
    assert claims["paired"] == {
        "student": "tiny",
        "teacher": "other",
        "mcnemar": {"1": "not run"},
        "retention": "not run",
    }
    assert {claim["verdict"] for claim in claims["claims"].values()} == {"not run"}
    plot = list(csv.DictReader((finished.path / "plots/accuracy_by_seed.csv").open()))
    assert [(line["model"], line["seed"], line["accuracy"]) for line in plot] == [
        ("tiny", "1", f"{100 * run['correct'] / 24:.2f}")
    ]
    assert (
        float(plot[0]["low"]) < float(plot[0]["accuracy"]) < float(plot[0]["high"])
        and plot[0]["published"] == ""
    )


BAD_PREDICTIONS: dict[str, tuple[Callable[[str], str], str]] = {
    "cut in a line": (lambda text: text[: text.index("sentence, 400") + 15], "is no table with numbers for label and predicted"),
    "cut after a line": (lambda text: text[: text.index('"sentence, 400')], "1.000000 over 400, but metrics/runs/bert-1.json says accuracy 0.905963 over 872"),
    "another label": (lambda text: text.replace('"sentence, 0",0,0', '"sentence, 0",1,0'), "0.904817 over 872, but metrics/runs/bert-1.json says accuracy 0.905963 over 872"),
    "no label": (lambda text: text.replace("label", "etikett"), "is no table with numbers for label and predicted ('label')"),
    "a name for a label": (lambda text: text.replace('"sentence, 7",1', '"sentence, 7",POSITIVE'), "is no table with numbers for label and predicted"),
    "empty": (lambda text: "", "0.000000 over 0, but"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), BAD_PREDICTIONS.values(), ids=BAD_PREDICTIONS)
def test_predictions_that_are_not_those_of_the_run_are_refused(
    project: Path, damage: Callable[[str], str], message: str
) -> None:
    write_run(project, "bert", 1)
    path = project / "predictions/bert-1.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError) as error:
        compare.main()
    assert str(error.value).startswith("predictions/bert-1.csv") and message in str(error.value), (
        error.value
    )
    assert "dvc repro -f -s evaluate@bert-1" in str(error.value)


def test_absent_predictions_are_named_with_the_remedy(project: Path) -> None:
    write_run(project, "bert", 1)
    (project / "predictions/bert-1.csv").unlink()
    with pytest.raises(
        UserError,
        match=r"bert-1\.csv is missing, but metrics/runs/bert-1\.json is there\. Run `dvc checkout",
    ):
        compare.main()


def test_models_are_paired_on_the_same_sentences_only(project: Path) -> None:
    write_run(project, "distilbert", 1)
    write_run(project, "bert", 1)
    path = project / "predictions/bert-1.csv"
    path.write_text(path.read_text().replace("sentence, 800", "another, 800"))
    with pytest.raises(
        UserError, match=r"bert-1\.csv and distilbert-1\.csv are not over the same sentences"
    ):
        compare.main()


def test_predictions_of_pairs_and_of_two_validation_sets(project: Path) -> None:
    """MNLI: two texts, and the rows of the mismatched set do not count."""
    text = "premise,hypothesis,label,predicted,probability,split\na,b,0,0,0.9,validation\na,c,2,1,0.9,validation_mismatched\nd,e,1,2,0.9,validation\n"
    (project / "predictions").mkdir()
    (project / "predictions/bert-1.csv").write_text(text)
    found = compare.read_predictions("bert", 1, ran(1, 2))
    assert found.texts == [("a", "b"), ("d", "e")]
    assert (found.labels.tolist(), found.predicted.tolist()) == ([0.0, 1.0], [0.0, 2.0])


def test_predictions_of_a_regression(project: Path) -> None:
    (project / "predictions").mkdir()
    (project / "predictions/bert-1.csv").write_text(
        "sentence1,sentence2,label,predicted\na,b,0.0,1.5\nc,d,2.5,2.0\ne,f,5.0,4.0\n"
    )
    run = {
        "metric": "pearson",
        "score": round(float(np.corrcoef([0, 2.5, 5], [1.5, 2, 4])[0, 1]), 6),
        "n": 3,
    }
    assert compare.read_predictions("bert", 1, run).predicted.tolist() == [1.5, 2.0, 4.0]
    with pytest.raises(UserError, match=r"says pearson 0\.500000 over 3 sentences"):
        compare.read_predictions("bert", 1, {**run, "score": 0.5})


# --- published.yaml ---------------------------------------------------------------------------------------------------


def test_every_published_row_has_a_source_and_a_split() -> None:
    rows = load_yaml(ROOT / "published.yaml")["results"]
    assert len(rows) == len(PUBLISHED.results) >= 72
    for entry in rows:
        assert entry["split"] in ("validation", "test"), entry
        assert len(entry["source"].strip()) >= 5 and entry["protocol"].strip(), entry


# Table 1 of the article as it is printed (MNLI's misprint included), its average first.
TABLE_1 = {
    "bert": (79.5, {"cola": 56.3, "mnli": 86.7, "mrpc": 88.6, "qnli": 91.8, "qqp": 89.6, "rte": 69.3, "sst2": 92.7, "stsb": 89.0, "wnli": 53.5}),
    "distilbert": (77.0, {"cola": 51.3, "mnli": 82.2, "mrpc": 87.5, "qnli": 89.2, "qqp": 88.5, "rte": 59.9, "sst2": 91.3, "stsb": 86.9, "wnli": 56.3}),
    "ELMo (BiLSTM)": (68.7, {"cola": 44.1, "mnli": 68.6, "mrpc": 76.6, "qnli": 71.1, "qqp": 86.2, "rte": 53.4, "sst2": 91.5, "stsb": 70.4, "wnli": 56.3}),
}  # fmt: skip


@pytest.mark.parametrize("model", TABLE_1)
def test_the_article_s_numbers_are_there(model: str) -> None:
    average, printed = TABLE_1[model]
    rows = {
        r.dataset: r
        for r in PUBLISHED.results
        if model in (r.model, r.name) and "1910.01108), Table 1" in r.source
    }
    assert {name: r.printed or r.score for name, r in rows.items()} == printed
    assert {r.split for r in rows.values()} == {"validation"} and {
        r.seeds for r in rows.values()
    } == ({None} if "ELMo" in model else {5})
    assert statistics.mean(r.score for r in rows.values()) == pytest.approx(average, abs=0.051), (
        "what is corrected fits the average"
    )
    assert ((rows["cola"].metric, rows["stsb"].metric, rows["qqp"].metric)) == (
        "matthews",
        "pearson",
        "not named",
    )


def test_the_misprint_does_not_fit_the_article_s_own_average() -> None:
    average, printed = TABLE_1["bert"]
    assert statistics.mean(printed.values()) == pytest.approx(79.72, abs=0.005) and average == 79.5
    row = PUBLISHED.row("bert", "mnli", "validation")
    assert row and (row.score, row.printed) == (84.7, 86.7) and "misprint" in str(row.note)


def test_what_else_the_article_reports_is_there() -> None:
    assert {r.model for r in PUBLISHED.results} == {"distilbert", "bert", None}
    assert "20 January 2020" in str(PUBLISHED.row("distilbert", "sst2", "validation"))
    assert PUBLISHED.table3.parameters == {"bert": 110, "distilbert": 66}
    assert PUBLISHED.table3.seconds == {"bert": 668, "distilbert": 410}


def test_no_published_number_is_given_twice() -> None:
    keys = [(r.name, r.dataset, r.split, r.protocol) for r in PUBLISHED.results]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"split": "dev"},
            "results.0.split: input should be 'validation' or 'test' (found \"dev\").",
        ),
        ({"split": None}, "results.0.split: input should be 'validation' or 'test' (found null)."),
        (
            {"score": 913.0},
            "results.0.score: input should be less than or equal to 100 (found 913.0).",
        ),
        ({"score": "91.3"}, 'results.0.score: input should be a valid number (found "91.3").'),
        ({"acuracy": 91.3}, "results.0.acuracy: unknown key. Correct the spelling or remove it."),
    ],
)
def test_a_wrong_published_row_is_named_by_its_place(change: dict[str, Any], message: str) -> None:
    data = read_yaml(ROOT / "published.yaml")
    data["results"][0].update(change)
    with pytest.raises(UserError) as error:
        validate(Published, data, "published.yaml:")
    assert str(error.value) == f"published.yaml: {message}"
