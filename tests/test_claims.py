"""The verdicts: all four for each kind of claim, by rules that params.yaml fixes, on predictions that are made to fit."""

import json
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from reproduce.files import UserError
from reproduce.params import Compare, read_yaml, validate
from reproduce.verdict.claims import (
    Evidence,
    judge,
    paired,
    parameters_claim,
    size_claim,
    speed_claim,
    verdict_at_least,
    verdict_by_intervals,
)
from reproduce.verdict.published import Published
from reproduce.verdict.statistics import wilson

PUBLISHED = validate(Published, read_yaml(ROOT / "published.yaml"), "published.yaml:")
SETTINGS = read_yaml(ROOT / "params.yaml")["compare"]
PARAMS = validate(Compare, SETTINGS, "params.yaml: compare")
FEW = validate(
    Compare, {**SETTINGS, "bootstrap": {"resamples": 500, "seed": 0}}, "params.yaml: compare"
)
SEEDS = (1, 2, 3, 4, 5)
TEACHER = [806, 808, 809, 810, 807]  # of 872; the median, 808, is 92.66 %


def runs(correct: list[int], n: int = 872, shift: int = 0) -> dict[int, Any]:
    """Of each seed which sentences are right: the wrong ones are the last, but for `shift`."""
    return {
        seed: np.roll(np.arange(n) < count, shift)
        for seed, count in zip(SEEDS, correct, strict=False)
    }


def evidence(
    metric: str = "accuracy",
    dataset: str = "sst2",
    speed: Any = None,
    split: str = "validation",
    n: int = 872,
    **right: Any,
) -> Evidence:
    labels = (np.arange(n) % 2).astype(float)
    return Evidence(
        dataset, split, metric, ("distilbert", "bert"), SEEDS,
        {model: {seed: 100 * float(row.mean()) for seed, row in rows.items()} for model, rows in right.items()},
        {model: {seed: np.where(row, labels, 1 - labels) for seed, row in rows.items()} for model, rows in right.items()},
        labels if right else None, speed,
    )  # fmt: skip


def distilbert(correct: list[int], params: Compare = PARAMS) -> dict[str, Any]:
    claim: dict[str, Any] = judge(evidence(distilbert=runs(correct)), PUBLISHED, params)["claims"][
        "distilbert_accuracy"
    ]
    return claim


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over_seeds", "over_sentences", "verdict"),
    [
        ((-0.7, 0.6), (-2.7, 2.6), "reproduced"),
        ((-1.0, 1.0), (-2.7, 2.6), "reproduced"),
        (
            (-0.9, -0.8),
            (-1.2, -0.5),
            "inconclusive",
        ),  # within the margin, but more than the sentences explain
        ((-1.1, 0.6), (-2.7, 2.6), "inconclusive"),
        ((-3.1, 3.0), (-2.7, 2.6), "inconclusive"),
        ((-2.0, -1.1), (-4.0, 1.2), "inconclusive"),  # the seeds say no, the sentences cannot tell
        ((-4.0, -3.1), (-6.4, -0.8), "not reproduced"),
        ((3.1, 4.0), (0.8, 6.4), "not reproduced"),
        ((-4.0, -0.9), (-6.4, -0.8), "inconclusive"),
        (None, (-2.7, 2.6), "inconclusive"),
        ((-0.7, 0.6), None, "inconclusive"),
    ],
)
def test_two_intervals_and_a_margin_make_a_verdict(
    over_seeds: Any, over_sentences: Any, verdict: str
) -> None:
    assert verdict_by_intervals(over_seeds, over_sentences, 1.0) == verdict


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [([2.0, 1.99, 2.02], "reproduced"), ([1.54, 1.53], "reproduced"), ([1.52, 1.54], "inconclusive"), ([1.2, 1.5], "not reproduced"),
     ([2.0], "inconclusive"), ([1.0], "inconclusive"), ([], "not run")],
)  # fmt: skip
def test_an_advantage_is_reproduced_if_every_pass_reaches_it(
    ratios: list[float], verdict: str
) -> None:
    assert verdict_at_least(ratios, 1.63, 0.1) == verdict


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 95}, "compare.confidence: input should be less than 1 (found 95)."),
        ({"margins": {**SETTINGS["margins"], "score": 0}}, "compare.margins.score: input should be greater than 0 (found 0)."),
        ({"bootstrap": {"resamples": 10, "seed": 0}}, "compare.bootstrap.resamples: input should be greater than or equal to 100 (found 10)."),
    ],
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        validate(Compare, {**SETTINGS, **change}, "params.yaml: compare")
    assert str(error.value) == f"params.yaml: {message}"


# --- scores -----------------------------------------------------------------------------------------------------------


def test_a_score_is_reproduced_and_every_number_can_be_followed() -> None:
    claim = distilbert([793, 797, 795, 796, 799])
    assert (claim["published"], claim["measured"], claim["difference"], claim["verdict"]) == (
        91.3,
        91.28,
        -0.02,
        "reproduced",
    )
    assert claim["by_seed"] == {"1": 90.94, "2": 91.4, "3": 91.17, "4": 91.28, "5": 91.63}
    assert (claim["seeds_run"], claim["seeds_requested"], claim["sentences"]) == (5, 5, 872)
    # Sentences: Wilson's interval of 796 of 872. Seeds: 796 +- 2.776 * sqrt(20 / 4 / 5), of 872.
    assert claim["interval_sentences"] == [
        round(100 * bound, 2) for bound in wilson(796, 872, 0.95)
    ]
    half = 100 * 2.776445 / 872
    mean = 100 * 796 / 872
    assert claim["interval_seeds"] == [round(mean - half, 2), round(mean + half, 2)]
    assert claim["difference_interval_seeds"] == [
        round(mean - 91.3 - 2**0.5 * half, 2),
        round(mean - 91.3 + 2**0.5 * half, 2),
    ]
    low, high = claim["difference_interval_sentences"]
    assert (
        low < -2.6 < 2.6 < high
        and claim["margin"] == 1.0
        and "±1 point" in claim["rule"]
        and "95 %" in claim["rule"]
    )
    assert (
        claim["statement"]["en"]
        == "DistilBERT reaches 91.3 on the development set of SST-2 (median of 5 seeds)"
    )
    assert "91,3" in claim["statement"]["pt"]
    assert claim["files"][:3] == [
        "published.yaml",
        "metrics/runs/distilbert-1.json",
        "predictions/distilbert-1.csv",
    ]
    assert len(claim["files"]) == 11 and "20 January 2020" in claim["note"]


@pytest.mark.parametrize(
    ("correct", "verdict"),
    [
        (
            [765, 766, 764, 765, 767],
            "not reproduced",
        ),  # 87.7 %: outside the margin, and more than 872 sentences explain
        (
            [780, 781, 779, 780, 782],
            "inconclusive",
        ),  # 89.5 %: outside the margin, but the sentences cannot tell
        (
            [770, 815, 790, 800, 805],
            "inconclusive",
        ),  # right in the middle, but the seeds are spread too far
        ([829, 830, 831, 830, 829], "not reproduced"),  # 95.2 %: too good is not the same either
        ([796, 796, 796, 796, 796], "reproduced"),
        ([], "not run"),
    ],
)
def test_all_four_verdicts_on_a_score(correct: list[int], verdict: str) -> None:
    claim = distilbert(correct)
    assert claim["verdict"] == verdict
    if not correct:
        assert (claim["measured"], claim["difference"], claim["interval_seeds"]) == (
            "not run",
            "not run",
            None,
        )
        assert claim["note"].startswith("No run of distilbert (seeds 1, 2, 3, 4, 5). ") and claim[
            "files"
        ] == ["published.yaml"]


@pytest.mark.parametrize("correct", [[796], [796, 796], [796, 795, 797, 796], [700]])
def test_fewer_seeds_than_the_article_s_five_are_inconclusive_whatever_they_say(
    correct: list[int],
) -> None:
    claim = distilbert(correct)
    assert claim["verdict"] == "inconclusive" and claim["note"].startswith(
        f"{len(correct)} seed(s) ran; what was published is a median of 5."
    )
    assert list(claim["by_seed"].values()).count("not run") == 5 - len(correct)
    assert (claim["interval_seeds"] is None) == (len(correct) == 1) and claim["interval_sentences"]


def test_the_margin_and_the_confidence_are_those_of_params() -> None:
    near = [793, 797, 795, 796, 799]
    margins = {**SETTINGS["margins"], "score": 0.3}
    strict = validate(Compare, {**SETTINGS, "margins": margins}, "params.yaml: compare")
    assert (
        distilbert(near, strict)["verdict"] == "inconclusive"
        and "±0.3 " in distilbert(near, strict)["rule"]
    )
    sure = validate(Compare, {**SETTINGS, "confidence": 0.999}, "params.yaml: compare")
    wide, usual = distilbert(near, sure), distilbert(near)
    for name in (
        "interval_seeds",
        "interval_sentences",
        "difference_interval_seeds",
        "difference_interval_sentences",
    ):
        assert wide[name][0] < usual[name][0] < usual[name][1] < wide[name][1]
    assert wide["verdict"] == "inconclusive" and "99.9 %" in wide["rule"]


def test_a_metric_that_the_article_does_not_name_decides_nothing() -> None:
    """QQP: accuracy or F1? 88.5 % right against 88.5."""
    claims = judge(
        evidence(
            dataset="qqp", n=1000, distilbert=runs([885] * 5, 1000), bert=runs([896] * 5, 1000)
        ),
        PUBLISHED,
        FEW,
    )["claims"]
    assert claims["distilbert_accuracy"]["difference"] == 0.0
    assert [
        claims[name]["verdict"] for name in ("distilbert_accuracy", "bert_accuracy", "retention")
    ] == ["inconclusive"] * 3
    assert claims["retention"]["note"].startswith(
        "Measured is accuracy; the published metric is not named."
    )


def test_bert_on_mnli_is_judged_by_the_corrected_number() -> None:
    claim = judge(evidence(dataset="mnli", n=1000, bert=runs([847] * 5, 1000)), PUBLISHED, FEW)[
        "claims"
    ]["bert_accuracy"]
    assert (claim["published"], claim["difference"], claim["verdict"]) == (84.7, 0.0, "reproduced")
    assert (
        "misprint" in claim["note"] and "on the development set of MNLI" in claim["statement"]["en"]
    )


def correlated(strength: float, seed: int, n: int = 400) -> tuple[Any, Any]:
    """Labels and predictions whose correlation is `strength` to the last digit."""
    x, noise = np.random.default_rng(seed).normal(size=(2, n))
    x = (x - x.mean()) / x.std()
    noise -= noise.mean() + x * (x * noise).mean()
    return x, strength * x + (1 - strength**2) ** 0.5 * noise / noise.std()


def test_a_correlation_has_its_interval_from_a_bootstrap_over_sentences() -> None:
    """STS-B: Pearson's r of 0.869. Fisher's z gives its interval for normal data, which these are."""
    labels, predicted = correlated(0.869, 0)
    found = Evidence("stsb", "validation", "pearson", ("distilbert", "bert"), SEEDS, {"distilbert": dict.fromkeys(SEEDS, 86.9)},
                     {"distilbert": dict.fromkeys(SEEDS, predicted)}, labels, None)  # fmt: skip
    judged = judge(found, PUBLISHED, PARAMS)
    claim = judged["claims"]["distilbert_accuracy"]
    fisher = [
        100 * np.tanh(np.arctanh(0.869) + sign * 1.959964 / (400 - 3) ** 0.5) for sign in (-1, 1)
    ]
    assert claim["interval_sentences"] == pytest.approx(fisher, abs=0.5)
    assert (claim["measured"], claim["difference"], claim["verdict"]) == (86.9, 0.0, "reproduced")
    low, high = claim["difference_interval_sentences"]
    assert low < 0 < high and high - low == pytest.approx(2**0.5 * (fisher[1] - fisher[0]), abs=1)
    assert (judged["metric"], judged["majority_class"], judged["paired"]["mcnemar"]) == (
        "pearson",
        None,
        {},
    )


# --- retention --------------------------------------------------------------------------------------------------------


def retention(student: list[int], teacher: list[int], params: Compare = FEW) -> dict[str, Any]:
    found = judge(evidence(distilbert=runs(student), bert=runs(teacher)), PUBLISHED, params)[
        "claims"
    ]
    assert found["retention_glue"]["verdict"] == "not run", "one task is never nine"
    claim: dict[str, Any] = found["retention"]
    return claim


def test_retention_on_one_task_is_measured_against_the_article_s_ratio_for_this_task() -> None:
    claim = retention([793, 797, 795, 796, 799], TEACHER)
    assert (claim["published"], claim["measured"], claim["verdict"]) == (
        98.49,
        98.51,
        "reproduced",
    )  # 796 / 808
    assert claim["by_seed"]["1"] == 98.39  # 793 / 806
    low, high = claim["interval_sentences"]
    assert (
        low < 98.51 < high <= 100
        and claim["interval_seeds"][0] < 98.51 < claim["interval_seeds"][1]
    )
    assert len(claim["files"]) == 21 and "mean over all of GLUE" in claim["note"]


@pytest.mark.parametrize(
    ("student", "teacher", "verdict"),
    [
        ([750, 751, 749, 750, 752], TEACHER, "not reproduced"),  # 92.8 %
        ([780, 820, 790, 800, 805], TEACHER, "inconclusive"),
        ([796, 797], TEACHER, "inconclusive"),
        ([796] * 5, [808, 807], "inconclusive"),
        ([796] * 5, [], "not run"),
        ([], [], "not run"),
    ],
)
def test_all_four_verdicts_on_retention(
    student: list[int], teacher: list[int], verdict: str
) -> None:
    claim = retention(student, teacher)
    assert claim["verdict"] == verdict
    assert (claim["measured"] == "not run") == (verdict == "not run")
    assert claim["seeds_run"] == min(len(student), len(teacher))


def test_97_percent_is_not_run_even_where_97_percent_is_measured() -> None:
    student = [784, 784, 783, 784, 785]  # 97.0 % of 808
    claims = judge(evidence(distilbert=runs(student), bert=runs(TEACHER)), PUBLISHED, FEW)["claims"]
    assert claims["retention"]["measured"] == 97.03
    glue = claims["retention_glue"]
    assert (glue["published"], glue["measured"], glue["verdict"], glue["files"]) == (
        97.0,
        "not run",
        "not run",
        ["published.yaml"],
    )


def test_the_models_are_paired_on_the_sentences() -> None:
    """Same numbers of right sentences. Wrong on the same ones: the ratio hardly moves. On others: it moves as far as it can."""
    together = paired(evidence(distilbert=runs([796] * 5), bert=runs([808] * 5)), FEW)
    apart = paired(evidence(distilbert=runs([796] * 5, shift=300), bert=runs([808] * 5)), FEW)
    assert together["mcnemar"]["1"] == {
        "both": 796,
        "only_student": 0,
        "only_teacher": 12,
        "neither": 64,
        "p": float(f"{2 / 2**12:.4g}"),
    }
    counts = apart["mcnemar"]["1"]
    assert (counts["both"], counts["only_student"], counts["only_teacher"], counts["neither"]) == (
        732,
        64,
        76,
        0,
    )
    assert 0.3 < counts["p"] < 0.4
    assert together["retention"]["estimate"] == apart["retention"]["estimate"] == 98.51
    width = [
        pair["retention"]["interval"][1] - pair["retention"]["interval"][0]
        for pair in (together, apart)
    ]
    assert 3 * width[0] < width[1]
    assert (together["retention"]["resamples"], together["retention"]["seed"]) == (500, 0)


def test_a_seed_that_one_model_lacks_is_not_paired() -> None:
    result = paired(evidence(distilbert=runs([796, 797]), bert=runs([808])), FEW)
    assert list(result["mcnemar"]) == ["1", "2", "3", "4", "5"]
    assert [seed for seed, test in result["mcnemar"].items() if test == "not run"] == [
        "2",
        "3",
        "4",
        "5",
    ]
    assert isinstance(result["retention"], dict)
    assert paired(evidence(bert=runs([808])), FEW)["retention"] == "not run"


# --- size and speed ---------------------------------------------------------------------------------------------------


def speed(
    student: list[float] | None = None,
    teacher: list[float] | None = None,
    parameters: int = 66_362_880,
) -> dict[str, Any]:
    models = {
        "distilbert": {
            "parameters_encoder": parameters,
            "bytes": 267_832_560,
            "seconds_by_pass": student or [33.274, 33.953, 35.009],
        },
        "bert": {
            "parameters_encoder": 109_482_240,
            "bytes": 437_958_648,
            "seconds_by_pass": teacher or [67.044, 67.417, 70.059],
        },
    }
    return {"models": models, "sentences": 872}


@pytest.mark.parametrize(
    ("parameters", "measured", "verdict"),
    [(66_362_880, 39.38, "reproduced"), (64_000_000, 41.54, "not reproduced")],
)
def test_parameters_are_counted(parameters: int, measured: float, verdict: str) -> None:
    claim = parameters_claim(PUBLISHED.claims.parameters, speed(parameters=parameters), PARAMS)
    assert (claim["measured"], claim["verdict"], claim["interval_seeds"], claim["by_seed"]) == (
        measured,
        verdict,
        None,
        {},
    )
    assert claim["files"] == ["published.yaml", "metrics/speed.json"]


def test_speed_is_the_ratio_of_each_pass() -> None:
    claim = speed_claim(PUBLISHED.claims.speed, PUBLISHED.table3.seconds, speed(), PARAMS)
    assert (claim["published"], claim["measured"], claim["verdict"]) == (
        1.63,
        2.001,
        "reproduced",
    )  # 668 / 410
    assert (claim["by_pass"], claim["interval_passes"]) == ([2.015, 1.986, 2.001], [1.986, 2.015])
    assert "E5-2690" in claim["note"]
    slow = speed_claim(
        PUBLISHED.claims.speed, PUBLISHED.table3.seconds, speed([10.0, 10.0], [12.0, 14.0]), PARAMS
    )
    assert (slow["measured"], slow["verdict"]) == (1.3, "not reproduced")
    one = speed_claim(
        PUBLISHED.claims.speed, PUBLISHED.table3.seconds, speed([10.0], [20.0]), PARAMS
    )
    assert (one["measured"], one["verdict"]) == (2.0, "inconclusive")


@pytest.mark.parametrize(
    ("size", "verdict"), [(267_832_560, "not reproduced"), (207_900_000, "reproduced")]
)
def test_size_is_weighed(size: int, verdict: str) -> None:
    measured = speed()
    measured["models"]["distilbert"]["bytes"] = size
    claim = size_claim(PUBLISHED.claims.size, measured, PARAMS)
    assert (claim["published"], claim["measured"], claim["verdict"]) == (
        207,
        round(size / 1e6, 2),
        verdict,
    )
    assert "telephone" in claim["note"] and claim["margin"] == 1.0


@pytest.mark.parametrize("measured", [None, {"models": {"minilm": {}}}])
def test_what_was_not_measured_is_not_run(measured: Any) -> None:
    claims = judge(evidence(speed=measured), PUBLISHED, FEW)["claims"]
    assert {
        name: claims[name]["verdict"] for name in ("parameters", "speed", "size")
    } == dict.fromkeys(("parameters", "speed", "size"), "not run")
    assert "No distilbert and no bert in metrics/speed.json." in claims["speed"]["note"]


# --- the whole file ---------------------------------------------------------------------------------------------------


def test_every_claim_is_always_there_with_the_same_keys() -> None:
    """With nothing run, and with everything: no claim disappears, and the file can be compared line by line."""
    nothing = judge(evidence(), PUBLISHED, FEW)
    everything = judge(
        evidence(speed=speed(), distilbert=runs([796] * 5), bert=runs([808] * 5)), PUBLISHED, FEW
    )
    assert set(nothing) == set(everything)
    assert (
        list(nothing["claims"])
        == list(everything["claims"])
        == list(type(PUBLISHED.claims).model_fields)
    )
    for name, claim in nothing["claims"].items():
        assert (
            claim["verdict"] == "not run" and claim["measured"] == claim["difference"] == "not run"
        ), name
        extra = {"by_pass", "interval_passes"} if name == "speed" else set()
        assert set(everything["claims"][name]) - extra <= set(claim) | {"note"}, name
    assert (nothing["sentences"], nothing["majority_class"], nothing["paired"]["retention"]) == (
        "not run",
        "not run",
        "not run",
    )
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything


def test_the_same_evidence_gives_the_same_file() -> None:
    found = evidence(speed=speed(), distilbert=runs([793, 797, 795, 796, 799]), bert=runs(TEACHER))
    assert judge(found, PUBLISHED, FEW) == judge(found, PUBLISHED, FEW)


def test_context_names_its_split_and_is_of_this_task_alone() -> None:
    context = judge(evidence(), PUBLISHED, FEW)["context"]
    assert {row["split"] for row in context} == {"validation", "test"}
    human = next(row for row in context if row["name"] == "human")
    assert (human["score"], human["split"]) == (97.8, "test")
    assert len(context) == sum(row.dataset == "sst2" for row in PUBLISHED.results)


def test_the_majority_class_is_counted_from_the_labels() -> None:
    found = evidence(distilbert=runs([796]))
    labels = np.array([0.0] * 428 + [1.0] * 444)
    found = Evidence(
        found.dataset,
        found.split,
        found.metric,
        found.models,
        found.seeds,
        found.scores,
        found.predicted,
        labels,
        None,
    )
    assert judge(found, PUBLISHED, FEW)["majority_class"] == {
        "split": "validation",
        "label": 1,
        "count": 444,
        "n": 872,
        "accuracy": 50.92,
    }


@pytest.mark.parametrize(
    ("dataset", "split"), [("pocket", "validation"), ("sst2", "held out of train")]
)
def test_a_claim_on_scores_that_were_not_published_does_not_apply(dataset: str, split: str) -> None:
    found = judge(
        evidence(dataset=dataset, split=split, distilbert=runs([796] * 5), bert=runs([808] * 5)),
        PUBLISHED,
        FEW,
    )
    assert list(found["claims"]) == ["retention_glue", "parameters", "speed", "size"]
    assert found["paired"]["retention"]["estimate"] == 98.51, "the models are compared all the same"


def test_a_model_that_is_not_asked_for_is_named() -> None:
    found = Evidence("sst2", "validation", "not run", ("minilm",), (1,), {}, {}, None, None)
    claims = judge(found, PUBLISHED, FEW)["claims"]
    assert claims["distilbert_accuracy"]["note"].startswith(
        "The models of this experiment leave out distilbert."
    )
    assert claims["retention"]["note"].startswith(
        "The models of this experiment leave out distilbert and bert."
    )
