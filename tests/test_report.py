"""The report: its numbers on toy data worked out by hand, its pages in two languages, and how they look to a real browser."""

import base64
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import report
from conftest import ROOT, Repository
from reproduce.files import UserError
from reproduce.params import read_yaml
from reproduce.report.analysis import (
    Point,
    agreement,
    by_kind,
    by_length,
    calibration,
    kinds,
    pareto_front,
    read_predictions,
    worst_errors,
)
from reproduce.report.wording import LANGUAGES, Wording
from reproduce.verdict.statistics import wilson
from stages.compare import compare
from toy_results import toy_results

PAGES = ["report.html", "report.pt-BR.html", "slides.html", "slides.pt-BR.html"]
TEXTS = read_yaml(ROOT / "reproduce/report/templates/texts.yaml")


def table(**columns: list[Any]) -> Any:
    import pandas as pd

    return pd.DataFrame(columns)


# --- analysis -----------------------------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    """Five bins. (0.4, 0.6]: 0.6 and 0.5, one of two right, |0.5 - 0.55|; (0.8, 1]: 0.9 and 1.0 right, 0.9 wrong, |2/3 - 2.8/3|."""
    predictions = table(
        probability=[0.6, 0.5, 0.9, 1.0, 0.9], label=[0, 1, 1, 0, 0], predicted=[0, 0, 1, 0, 1]
    )
    found = calibration(predictions, bins=5)
    assert [b["n"] for b in found["bins"]] == [2, 3]
    assert [b["accuracy"] for b in found["bins"]] == pytest.approx([0.5, 2 / 3])
    assert [b["confidence"] for b in found["bins"]] == pytest.approx([0.55, 2.8 / 3])
    assert found["ece"] == pytest.approx((2 * 0.05 + 3 * 0.8 / 3) / 5)
    assert (found["accuracy"], found["confidence"]) == (pytest.approx(0.6), pytest.approx(0.78))


def test_a_perfectly_calibrated_model_has_no_calibration_error() -> None:
    predictions = table(
        probability=[0.75] * 4 + [0.0], label=[1, 1, 1, 0, 0], predicted=[1, 1, 1, 1, 1]
    )
    assert calibration(predictions)["ece"] == 0


def test_accuracy_by_length_is_the_mean_over_seeds_with_the_interval_of_one_run() -> None:
    words = [1, 10, 11, 30, 31, 99]
    right = table(words=words, label=[0] * 6, predicted=[0] * 6)
    half = table(words=words, label=[0] * 6, predicted=[0, 1] * 3)
    found = by_length([right, half], 0.95)
    assert [(b["at_least"], b["at_most"], b["n"], b["share"]) for b in found] == [
        (1, 10, 2, 0.75), (11, 20, 1, 1.0), (21, 30, 1, 0.5), (31, None, 2, 0.75),
    ]  # fmt: skip
    assert (found[0]["low"], found[0]["high"]) == wilson(
        2, 2, 0.95
    )  # 1.5 of 2, to a whole sentence
    nothing = by_length([right[right["words"] > 10]], 0.95)[0]
    assert nothing == {
        "at_least": 1,
        "at_most": 10,
        "n": 0,
        "share": None,
        "low": None,
        "high": None,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it does n't work", ["negation"]),
        ("It doesn't work", ["negation"]),
        ("Not bad, but long", ["negation", "contrast"]),
        ("although slow , it holds", ["contrast"]),
        ("another notable butler in the nave", ["neither"]),  # words, not pieces of words
        ("", ["neither"]),
    ],
)
def test_kinds_of_sentences(text: str, expected: list[str]) -> None:
    assert kinds(text) == expected


def test_accuracy_by_kind_counts_a_sentence_in_each_of_its_kinds() -> None:
    predictions = table(
        text=["not good", "not bad but long", "fine"], label=[0, 0, 1], predicted=[0, 1, 1]
    )
    assert [(k["kind"], k["n"], k["share"]) for k in by_kind([predictions], 0.95)] == [
        ("negation", 2, 0.5), ("contrast", 1, 0.0), ("neither", 1, 1.0),
    ]  # fmt: skip


def test_the_worst_errors_are_the_most_frequent_then_the_surest() -> None:
    text = ["a", "b", "c", "d"]
    first = table(
        text=text, label=[0, 0, 0, 1], predicted=[1, 1, 0, 1], probability=[0.9, 0.6, 0.99, 0.8]
    )
    second = table(
        text=text, label=[0, 0, 0, 1], predicted=[0, 1, 1, 1], probability=[0.5, 0.8, 0.95, 0.8]
    )
    found = worst_errors([first, second])
    assert [(e["text"], e["wrong"], e["predicted"], round(e["probability"], 6)) for e in found] == [
        ("b", 2, 1, 0.7), ("c", 1, 1, 0.95), ("a", 1, 1, 0.9),
    ]  # fmt: skip
    assert [e["text"] for e in worst_errors([first, second], 1)] == ["b"]
    assert worst_errors([first[first["label"] == first["predicted"]]]) == []


def test_agreement_by_hand() -> None:
    """Same in 3 of 4; by chance 1/2 * 3/4 + 1/2 * 1/4 = 1/2: kappa (3/4 - 1/2) / (1 - 1/2)."""
    one, other = table(predicted=[0, 0, 1, 1]), table(predicted=[0, 0, 0, 1])
    assert agreement(one, other) == pytest.approx((0.75, 0.5))
    assert agreement(table(predicted=[1, 1]), table(predicted=[1, 1])) == (1.0, 1.0)


def test_the_pareto_front() -> None:
    def point(name: str, accuracy: float | None, milliseconds: float) -> Point:
        return Point(name, accuracy, milliseconds, megabytes=1)

    slow, beaten, fast = point("slow", 93, 80), point("beaten", 90, 50), point("fast", 91, 40)
    assert pareto_front([slow, beaten, fast, point("unknown", None, 1)]) == [fast, slow]
    twin = point("twin", 91, 40)
    assert pareto_front([fast, twin, point("as fast, worse", 90, 40)]) == [fast, twin]
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "sentence,label\na,1\n",
            "columns are sentence, label; expected text, label, predicted[, probability]",
        ),
        ("label,predicted\n1,1\n", "columns are label, predicted; expected text"),
        (
            "sentence,label,predicted,probability\na,1,x,0.5\n",
            "predicted is not a number everywhere",
        ),
        ("sentence,label,predicted,probability\na,1,1,1.5\n", "a probability outside 0 .. 1"),
        ("sentence,label,predicted\n", "no rows"),
        ('sentence,label\n"a,1\n', "EOF inside string"),
        ("", "No columns to parse"),
        (None, "No such file"),
    ],
)
def test_wrong_predictions_are_named_with_the_remedy(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "bert-1.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as error:
        read_predictions(path, "Run `dvc pull`.")
    assert (
        message in str(error.value)
        and str(path) in str(error.value)
        and str(error.value).endswith(" Run `dvc pull`.")
    )


def test_pairs_and_splits_of_predictions(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        'premise,hypothesis,split,label,predicted\n"a, b",None,validation,2,1\nc,d,validation_mismatched,0,0\n'
    )
    found = read_predictions(path, "")
    assert found.to_dict("records") == [
        {"text": "a, b | None", "words": 3, "label": 2, "predicted": 1}
    ]


# --- words and numbers --------------------------------------------------------------------------------------------------


def test_both_languages_say_everything_with_the_same_places() -> None:
    for key, texts in TEXTS.items():
        assert set(texts) == set(LANGUAGES), key
        assert set(re.findall(r"{(\w+)}", texts["en"])) == set(
            re.findall(r"{(\w+)}", texts["pt"])
        ), key
        assert all(text.strip() for text in texts.values()), key


def test_numbers_are_written_as_the_language_writes_them() -> None:
    english, portuguese = (Wording(TEXTS, language) for language in ("en", "pt"))
    assert (english.number(1234.567), portuguese.number(1234.567)) == ("1,234.57", "1.234,57")
    assert (english.number(-0.5, 1, sign=True), portuguese.number(0.25, sign=True)) == (
        "−0.5",
        "+0,25",
    )
    assert (english.number("not run"), portuguese.number(None)) == ("not run", "não executado")
    assert (english.short(1e-05), portuguese.short(0.1), english.short(1e-4)) == (
        "1e-5",
        "0,1",
        "0.0001",
    )
    assert (english.interval(1, 2.5), portuguese.interval(None, 2.5)) == ("1.00 to 2.50", "–")
    assert (english.span([1, 1.04], 1), english.span([1, 2])) == ("1.0", "1 to 2")
    assert (english.seeds([3]), portuguese.seeds([1, 2])) == ("seed 3", "sementes 1, 2")
    assert (english.p_value(0.0004), portuguese.p_value(0.0514)) == ("< 0.001", "0,051")
    assert english("published_value", value="<b>") == "published &lt;b&gt;"
    assert english.plain("published_value", value="<b>") == "published <b>"


# --- the pages ----------------------------------------------------------------------------------------------------------

ALL_RUNS = {model: [1, 2, 3, 4, 5] for model in ("distilbert", "bert", "minilm")}


def few(params: Any) -> None:
    params.update(models=["distilbert", "minilm"], seeds=[1, 2])


def held_out(params: Any) -> None:
    params["selection"].update(holdout=4000)


CASES: dict[str, tuple[dict[str, list[int]], dict[str, Any]]] = {
    "everything": (ALL_RUNS, {}),
    "one run": ({"minilm": [1]}, {}),
    "nothing": ({}, {"speed": False}),
    "held out of train": ({"distilbert": [1, 2], "bert": [1]}, {"params": held_out}),
    "pairs in three classes": (
        {"distilbert": [1, 2], "minilm": [1]},
        {"params": few, "pairs": True, "classes": 3},
    ),
    "numbers": (
        {"distilbert": [1, 2], "minilm": [1]},
        {"params": few, "pairs": True, "metric": "pearson"},
    ),
    "no error": ({"distilbert": [1]}, {"params": few, "wrong": 0.0}),
}


def run_stages(folder: Path, *stages: Any) -> None:
    """Run stages in this process, in `folder`."""
    here, arguments = Path.cwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["stage"]
    try:
        for stage in stages:
            stage.main()
    finally:
        os.chdir(here)
        sys.argv = arguments


@pytest.fixture(scope="session")
def used() -> set[str]:
    """The names of all texts that the pages below asked for."""
    return set()


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory, used: set[str]) -> dict[str, Path]:
    """A folder for each of CASES in which `compare` and `report` have run."""
    folders = {}
    say = Wording.__call__

    def recorded(self: Wording, key: str, /, **values: Any) -> Any:
        used.add(key)
        return say(self, key, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wording, "__call__", recorded)
        for name, (runs, options) in CASES.items():
            folders[name] = toy_results(
                tmp_path_factory.mktemp("project") / "results", runs, **options
            )
            run_stages(folders[name], compare, report)
    return folders


class Page(HTMLParser):
    """What a page holds: text, links, languages, images; and that every element is closed."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.html: dict[str, str | None] = {}
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self.addresses += [
            found[name] or ""
            for name in ("href", "src", "xlink:href", "action", "data")
            if name in found
        ]
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag == "svg":
            self.images.append(found)
        if tag == "html":
            self.html = found
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_in_itself(projects: dict[str, Path], case: str, name: str) -> None:
    path = projects[case] / "report" / name
    page = Page(path)
    assert page.html["lang"] == ("pt-BR" if "pt-BR" in name else "en")
    assert len(set(page.ids)) == len(page.ids)
    other = name.replace(".pt-BR", "") if "pt-BR" in name else name.replace(".html", ".pt-BR.html")
    assert other in page.addresses
    for address in page.addresses:
        inside = address == "data:," or (address.startswith("#") and address[1:] in page.ids)
        assert inside or (path.parent / address).is_file(), address
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", source)
    assert all(image.get("role") == "img" and image.get("aria-label") for image in page.images)
    assert not re.search(r"#0[1-5]0[1-5]0\d", source), "a colour that the page does not set"
    assert "not run" not in page.text if "pt-BR" in name else "não executad" not in page.text


def test_no_text_is_unused(projects: dict[str, Path], used: set[str]) -> None:
    assert projects and set(TEXTS) - used == set()


def test_a_page_is_a_function_of_its_inputs(projects: dict[str, Path], tmp_path: Path) -> None:
    """Byte for byte, elsewhere and in another process."""
    shutil.copytree(
        projects["one run"],
        tmp_path / "copy",
        symlinks=True,
        ignore=shutil.ignore_patterns("report"),
    )
    run_stages(tmp_path / "copy", report)
    for name in PAGES:
        assert (tmp_path / "copy/report" / name).read_bytes() == (
            projects["one run"] / "report" / name
        ).read_bytes()


def text_of(folder: Path, name: str = "report.html") -> str:
    return " ".join(Page(folder / "report" / name).text.replace("\xa0", " ").split())


def test_the_pages_say_what_the_files_say(projects: dict[str, Path]) -> None:
    folder = projects["everything"]
    claims = json.loads((folder / "metrics/claims.json").read_text())["claims"]
    english, portuguese = text_of(folder), text_of(folder, "report.pt-BR.html")
    measured = claims["distilbert_accuracy"]["measured"]
    assert f"{measured:.2f} %" in english and f"{measured:.2f} %".replace(".", ",") in portuguese
    verdicts = [claim["verdict"] for claim in claims.values()]
    assert f"Of {len(verdicts)} claims: {verdicts.count('reproduced')} reproduced" in english
    for model, seeds in ALL_RUNS.items():
        for seed in seeds:
            run = json.loads((folder / f"metrics/runs/{model}-{seed}.json").read_text())
            assert (
                f"{run['correct']} of 120" in english and f"{run['correct']} de 120" in portuguese
            )
    assert "15 of the 15" in english and "15 dos 15" in portuguese
    assert "<b>bold</b>" in english, "a sentence of the data was taken for markup"
    paired = json.loads((folder / "metrics/claims.json").read_text())["paired"]["mcnemar"]["1"]
    assert (
        " ".join(
            [
                "seed 1",
                *(str(paired[key]) for key in ("both", "only_student", "only_teacher", "neither")),
            ]
        )
        in english
    )


def test_what_was_not_run_says_so(projects: dict[str, Path]) -> None:
    one, nothing = text_of(projects["one run"]), text_of(projects["nothing"])
    assert (
        "distilbert, seeds 1, 2, 3, 4, 5 not run" in one
        and "minilm, seeds 2, 3, 4, 5 not run" in one
    )
    assert "Agreement needs two runs" in one and "The paired test needs distilbert and bert" in one
    assert "sentences that minilm gets wrong" in one, "the student was not run"
    assert "accuracy not run" in one, "the hollow points of the Pareto picture"
    assert (
        nothing.count("No training has run yet") == 8
        and "Size and speed have not been measured" in nothing
    )
    assert "minilm not run – – – –" in nothing and "minilm ONNX, int8 22.0 88.00 7 0.52" in one, (
        "exported forms"
    )
    assert "distilbert not run – – – –" in one
    assert "<svg" not in (projects["nothing"] / "report/report.html").read_text()
    assert "não executado" in text_of(projects["one run"], "report.pt-BR.html")


def test_held_out_sentences_stand_beside_nothing_published(projects: dict[str, Path]) -> None:
    english = text_of(projects["held out of train"])
    assert (
        "Measured on the sentences held out of train" in english
        and "nothing published to compare with" in english
    )
    assert "points from the published" not in english and "63,349 training examples" in english


def test_what_does_not_apply_to_a_dataset_is_left_out_with_a_sentence(
    projects: dict[str, Path],
) -> None:
    numbers, three = text_of(projects["numbers"]), text_of(projects["pairs in three classes"])
    assert numbers.count("Left out: this dataset's predictions are values") == 6
    assert "pearson by seed" in numbers and "accuracy by seed" not in numbers.lower()
    assert "Left out" not in three and "CLASS_2" in three and " | " in three
    assert "distilbert makes no error on these sentences" in text_of(projects["no error"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: (f / "metrics/claims.json").unlink(),
            "metrics/claims.json is missing. Run `dvc repro compare`.",
        ),
        (
            lambda f: (f / "metrics/claims.json").write_text("[]"),
            "metrics/claims.json: expected a JSON object, found list.",
        ),
        (
            lambda f: (f / "predictions/minilm-1.csv").unlink(),
            "predictions/minilm-1.csv: [Errno 2] No such file",
        ),
        (lambda f: cut(f / "predictions/minilm-1.csv"), "of 119 right, metrics/runs/minilm-1.json"),
        (
            lambda f: shutil.rmtree(f / "plots/curves"),
            "plots/curves/minilm-1/plots/metrics/loss.tsv: [Errno 2] No such file",
        ),
        (
            lambda f: (f / "environment/minilm-1.json").unlink(),
            "environment/minilm-1.json is missing. Run `dvc repro finetune@minilm-1`.",
        ),
        (
            lambda f: other_dataset(f / "metrics/export/minilm-1.json"),
            "metrics/export/minilm-1.json is of pocket; params.yaml asks for sst2. Run `dvc repro export@minilm`.",
        ),
        (
            lambda f: other_dataset(f / "metrics/accuracy.json"),
            "metrics/accuracy.json is of pocket, validation; params.yaml asks for sst2",
        ),
    ],
)
def test_a_file_that_is_missing_or_of_another_run_is_named(
    projects: dict[str, Path], tmp_path: Path, damage: Any, message: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(
        projects["one run"], folder, symlinks=True, ignore=shutil.ignore_patterns("report")
    )
    damage(folder)
    with pytest.raises(UserError) as error:
        run_stages(folder, report)
    assert message in str(error.value) and "Run `dvc " in str(error.value)
    assert not (folder / "report").exists()


def cut(path: Path) -> None:
    """Drop the last line."""
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def other_dataset(path: Path) -> None:
    path.write_text(path.read_text().replace("sst2", "pocket"))


def test_the_finished_pipeline_has_its_report(finished: Repository) -> None:
    run = finished.json("metrics/runs/tiny-1.json")
    english = text_of(finished.path)
    assert f"{run['correct']} of 24" in english and "1 of the 1" in english
    assert sorted(path.name for path in (finished.path / "report").iterdir()) == [
        "comparison.md",
        *PAGES,
    ]


def test_a_claim_without_a_text_of_ours_keeps_its_rule() -> None:
    claim = {"margin": None, "published": 97.0, "rule": "a rule of its own"}
    facts = {"confidence": 95.0, "claims": {"retention_glue": claim, "another": claim}}
    (_, ours), (number, theirs) = report.rules(facts, Wording(TEXTS, "en"))
    assert (number, theirs) == ("2", "a rule of its own") and "a mean over nine" in ours


# --- in a browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(
            "no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
        )
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "disable-dev-shm-usage", f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


# Elements that reach beyond the window or beyond what scrolls them, and words of a chart outside of it.
OVERFLOW = """
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest("svg, pre, .scroll"))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
const scrolled = innerWidth > 1000 ? [...document.querySelectorAll(".scroll, pre")].filter(e => e.scrollWidth > e.clientWidth + 1) : [];
const cut = [...document.querySelectorAll("svg.chart text")].filter(t => {
  const box = t.closest("svg").getBoundingClientRect(), r = t.getBoundingClientRect();
  return r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1; });
return [...wide, ...scrolled, ...cut].map(e => `${e.tagName} ${e.className.baseVal ?? e.className}: ${e.textContent.trim().slice(0, 60)}`);
"""
# Slides whose content is higher than a window of this size.
TOO_HIGH = 'return [...document.querySelectorAll("section")].filter(e => e.offsetHeight > innerHeight + 1).map(e => e.innerText.slice(0, 40))'


@pytest.mark.browser
@pytest.mark.parametrize("case", ["everything", "one run"])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(browser: Any, projects: dict[str, Path], case: str, name: str) -> None:
    """No error, no request but for the file, nothing that overflows at either width and theme; it prints."""
    address = (projects[case] / "report" / name).as_uri()
    backgrounds = set()
    for theme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
        for width in (1280, 390):
            size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(address)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert browser.execute_script(OVERFLOW) == [], (theme, width)
        backgrounds.add(
            browser.execute_script(
                "return getComputedStyle(document.documentElement).backgroundColor"
            )
        )
    assert len(backgrounds) == 2, "light and dark look alike"
    printed = browser.execute_cdp_cmd(
        "Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True}
    )["data"]
    pages = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed)))
    slides = browser.execute_script('return document.querySelectorAll("section").length')
    assert pages == slides if "slides" in name else 3 <= pages <= 20, pages
    assert [
        entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {
        m["params"]["request"]["url"]
        for m in messages
        if m["method"] == "Network.requestWillBeSent"
    }
    assert {url for url in requested if not url.startswith(("chrome:", "data:"))} == {address}


@pytest.mark.browser
@pytest.mark.parametrize("case", ["everything", "one run"])
@pytest.mark.parametrize("name", PAGES[2:])
def test_slides_fit_and_turn_by_the_arrow_keys(
    browser: Any, projects: dict[str, Path], case: str, name: str
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get((projects[case] / "report" / name).as_uri())
    inside = 'return [...document.querySelectorAll("section")].filter(e => e.scrollHeight > e.clientHeight + 1).map(e => e.innerText.slice(0, 40))'
    assert browser.execute_script(inside) == [], "cut off on paper"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
    assert browser.execute_script(TOO_HIGH) == [], "higher than the screen"
    body = browser.find_element(By.TAG_NAME, "body")
    place = "return Math.round(scrollY / innerHeight)"
    for key, expected in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.PAGE_DOWN, 2),
        (Keys.ARROW_LEFT, 1),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_UP, 0),
    ):
        body.send_keys(key)
        assert browser.execute_script(place) == expected
