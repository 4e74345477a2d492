"""The report: its numbers worked out by hand, its pages in two languages and in a real browser."""

import base64
import hashlib
import json
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT, load_yaml
from reproduce.files import UserError
from reproduce.params import read_yaml
from reproduce.report.analysis import by_length, calibration, kinds, share, worst_errors
from reproduce.report.pages import STAGES
from reproduce.report.wording import LANGUAGES, TEXTS, Wording
from reproduce.verdict.statistics import wilson
from stages import compare, report
from toy_results import inside, toy_results

PAGES = ["report.html", "report.pt-BR.html", "slides.html", "slides.pt-BR.html"]
WORDS = read_yaml(TEXTS)


# --- analysis -------------------------------------------------------------------------------------


def test_calibration_by_hand() -> None:
    """Five bins. (0.4, 0.6]: 0.6 wrong, 0.5 right; (0.8, 1]: 0.9 and 1.0 right, 0.9 wrong."""
    probability, correct = np.array([[0.6, 0.5, 0.9, 1.0, 0.9]]), np.array([[0, 1, 1, 1, 0]]) == 1
    bins, ece = calibration(probability, correct, bins=5)
    assert np.array(bins) == pytest.approx(np.array([[2, 55, 50], [3, 280 / 3, 200 / 3]]))
    assert ece == pytest.approx((2 * 5 + 3 * 80 / 3) / 5)


def test_accuracy_is_the_mean_over_seeds_with_the_interval_of_one_run() -> None:
    found = share(np.array([[1, 1, 1, 1], [1, 1, 0, 0]]) == 1, 0.95)
    low, high = wilson(3, 4, 0.95)
    assert found == (75.0, (100 * low, 100 * high))


def test_groups_by_length() -> None:
    texts = ["word " * count for count in (1, 10, 11, 30, 31, 99)]
    groups = [(low, high, inside.tolist()) for low, high, inside in by_length(texts)]
    assert [(low, high) for low, high, _ in groups] == [(1, 10), (11, 20), (21, 30), (31, None)]
    assert [sum(inside) for *_, inside in groups] == [2, 1, 1, 2]


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


def test_the_worst_errors_are_the_most_frequent_then_the_surest() -> None:
    predicted = np.array([[1, 1, 0, 1], [0, 1, 1, 1]])
    probability = np.array([[0.9, 0.6, 0.99, 0.8], [0.5, 0.8, 0.95, 0.8]])
    found = worst_errors(np.array([0, 0, 0, 1]), predicted, probability)
    assert found == [(1, pytest.approx(0.7), 1), (2, 0.95, 1), (0, 0.9, 1)]


# --- words and numbers ----------------------------------------------------------------------------


def test_a_text_has_the_same_places_in_both_languages() -> None:
    for key, texts in WORDS.items():
        assert set(texts) == set(LANGUAGES) and all(texts.values()), key
        places = [set(re.findall(r"{(\w+)}", text)) for text in texts.values()]
        assert places[0] == places[1], key


@pytest.mark.parametrize(
    ("language", "call", "expected"),
    [
        ("en", lambda say: say.number(1234.567), "1,234.57"),
        ("pt", lambda say: say.number(1234.567), "1.234,57"),
        ("en", lambda say: say.number(-0.5, 1, sign=True), "−0.5"),
        ("pt", lambda say: say.number(None), "sem resultado"),
        ("en", lambda say: say.short(1e-05), "1e-5"),
        ("en", lambda say: say.short(0.0001), "1e-4"),
        ("pt", lambda say: say.short(0.1), "0,1"),
        ("en", lambda say: say.interval((1, 2.5)), "1.00 to 2.50"),
        ("en", lambda say: say.interval((1, 1.001)), "1.00"),
        ("pt", lambda say: say.interval(None), "–"),
        ("en", lambda say: say.seeds([3]), "seed 3"),
        ("pt", lambda say: say.seeds([1, 2]), "sementes 1, 2"),
        ("pt", lambda say: say("threads", n=1), "1 thread"),
        ("pt", lambda say: say("threads", n=2), "2 threads"),
        ("en", lambda say: say("published_value", value="<b>"), "published &lt;b&gt;"),
        (
            "pt",
            lambda say: say.statement({"pt": "97 % do BERT, `dvc repro`, de -1"}),
            "97% do BERT, <code>dvc repro</code>, de −1",
        ),
    ],
)
def test_numbers_and_texts_are_written_as_the_language_writes_them(
    language: str, call: Any, expected: str
) -> None:
    assert call(Wording(WORDS, language)) == expected


# --- the pages ------------------------------------------------------------------------------------

ALL = {model: [1, 2, 3, 4, 5] for model in ("distilbert", "bert", "minilm")}
NUMBERS = {"pairs": True, "metric": "pearson"}


def held_out(params: Any) -> None:
    params["selection"].update(holdout=4000)


def device(model: str, seed: int) -> str:
    return ["cpu", "cuda"][seed - 1]


CASES: dict[str, tuple[dict[str, list[int]], dict[str, Any]]] = {
    "everything": (ALL, {}),
    "one run": ({"minilm": [1]}, {}),
    "nothing": ({}, {"speed": False}),
    "held out": ({"distilbert": [1, 2], "bert": [1]}, {"params": held_out}),
    "three classes": ({"distilbert": [1, 2], "minilm": [1]}, {"pairs": True, "classes": 3}),
    "numbers": ({"distilbert": [1, 2], "minilm": [1]}, NUMBERS),
    "no error": ({"distilbert": [1]}, {"wrong": 0.0}),
    "one sentence": ({"distilbert": [1, 2], "bert": [1]}, {"sentences": 1}),
    "one number": ({"distilbert": [1, 2]}, {**NUMBERS, "sentences": 1, "device": device}),
}


@pytest.fixture(scope="session")
def used() -> set[str]:
    """The names of all texts that the pages below asked for."""
    return set()


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory, used: set[str]) -> dict[str, Path]:
    """A folder for each of CASES in which `compare` and `report` ran, without a warning."""
    folders = {}
    say = Wording.__call__

    def recorded(self: Wording, key: str, /, **values: Any) -> Any:
        used.add(key)
        return say(self, key, **values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Wording, "__call__", recorded)
        for name, (runs, options) in CASES.items():
            folder = toy_results(tmp_path_factory.mktemp("project") / "toy", runs, **options)
            name_the_sentences(folder)
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                run_stages(folder, compare, report)
            folders[name] = folder
    return folders


def name_the_sentences(folder: Path) -> None:
    """Let the predictions be of the sentences in data/raw."""
    digest = hashlib.sha256((folder / "data/raw/validation.tsv").read_bytes()).hexdigest()
    for path in (folder / "predictions").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sentences": digest}))
    rates = folder / "benchmarks/results/verdicts.json"
    rates.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "benchmarks/results/verdicts.json", rates)


def run_stages(folder: Path, *stages: Any) -> None:
    """Run stages in this process, in `folder`."""
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["stage"])
        for stage in stages:
            stage.main()


class Page:
    """What a page holds."""

    def __init__(self, path: Path) -> None:
        source = path.read_text(encoding="utf-8")
        self.addresses = re.findall(r' (?:href|src|data)="([^"]*)"', source)
        self.ids = re.findall(r' id="([^"]*)"', source)
        self.captions = re.findall(r'<svg [^>]*aria-label="([^"]*)"', source)
        body = re.sub(r"<(style|script|svg).*?</\1>", " ", source, flags=re.DOTALL)
        self.text = unescape(re.sub(r"<[^>]+>", " ", body))


def text_of(folder: Path, name: str = "report.html") -> str:
    return " ".join(Page(folder / "report" / name).text.split())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_in_itself(projects: dict[str, Path], case: str, name: str) -> None:
    path = projects[case] / "report" / name
    page, source = Page(path), path.read_text(encoding="utf-8")
    assert f'<html lang="{"pt-BR" if "pt-BR" in name else "en"}">' in source
    assert len(set(page.ids)) == len(page.ids)
    for address in page.addresses:
        here = address == "data:," or (address.startswith("#") and address[1:] in page.ids)
        assert here or (path.parent / address).is_file(), address
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", source)
    assert not re.search(r"#0[1-5]0[1-5]0\d", source), "a colour that the page does not set"
    assert "not run" not in page.text if "pt-BR" in name else "não executad" not in page.text


@pytest.mark.parametrize("case", CASES)
def test_figures_are_numbered_and_say_their_n(projects: dict[str, Path], case: str) -> None:
    page = Page(projects[case] / "report/report.html")
    numbers = [int(number) for number in re.findall(r"Figure (\d+)\.", page.text)]
    assert numbers == [*range(1, len(page.captions) + 1)]
    assert all(re.search(r"n = [\d,]+|n: sentences", caption) for caption in page.captions)


def test_no_text_is_unused(projects: dict[str, Path], used: set[str]) -> None:
    rare = {"other recipe", "other data set", "other sentences", "damaged", "no_sentences",
            "no_error_rates", "reference_result"}  # fmt: skip
    assert projects and set(WORDS) - used - rare == set()


def test_a_page_is_a_function_of_its_inputs(copy: Path) -> None:
    """Byte for byte: elsewhere, and whatever a person's matplotlibrc says."""
    import matplotlib as mpl

    before = {name: (copy / "report" / name).read_bytes() for name in PAGES}
    shutil.rmtree(copy / "report")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "pink", "lines.linewidth": 9}):
        run_stages(copy, report)
    assert {name: (copy / "report" / name).read_bytes() for name in PAGES} == before


def test_the_pages_say_what_the_files_say(projects: dict[str, Path]) -> None:
    folder = projects["everything"]
    claims = json.loads((folder / "metrics/claims.json").read_text())
    english, portuguese = text_of(folder), text_of(folder, "report.pt-BR.html")
    measured = f"{claims['claims']['distilbert_accuracy']['measured']:.2f}%"
    assert measured in english and measured.replace(".", ",") in portuguese
    assert "bert, first seed, as ONNX in int8 88.00" in english
    assert "<b>bold</b>" in english, "a sentence of the data was taken for markup"
    rates = json.loads((folder / "benchmarks/results/verdicts.json").read_text())
    cell = rates["rules"]["score"][0]
    assert f"{cell['reproduced']:.0f}/{cell['not reproduced']:.0f}" in english


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one run", "Seeds that ran: distilbert 0 of 5, bert 0 of 5, minilm 1 of 5."),
        ("one run", "The sentences that minilm gets wrong with most seeds"),
        ("one run", "14 of 15 runs are missing"),
        ("nothing", "“The worst errors”, “Environment”, because no run has a result of"),
        ("nothing", "Left out: “Size and speed”, because they were not measured."),
        ("held out", "its 4,000 examples are held out of train"),
        ("held out", "63,349 examples to train on"),
        ("held out", "nothing published compares with it"),
        ("three classes", "CLASS_2"),
        ("numbers", "because this data set's labels are numbers."),
        ("no error", "because distilbert makes no error on these sentences."),
        ("one number", "pearson is not defined for seeds 1, 2"),
        ("one number", "device or precisions in one median (cpu fp32: seed 1; cuda fp32: "),
    ],
)
def test_what_is_not_there_or_not_comparable_is_said_in_a_sentence(
    projects: dict[str, Path], case: str, words: str
) -> None:
    assert words in text_of(projects[case])


@pytest.fixture
def copy(projects: dict[str, Path], tmp_path: Path) -> Path:
    """The project with one run, to change."""
    return shutil.copytree(projects["one run"], tmp_path / "copy")


@pytest.mark.parametrize("data", ["absent", "other"])
def test_without_the_sentences_the_report_says_what_to_run(copy: Path, data: str) -> None:
    sentences = copy / "data/raw/validation.tsv"
    sentences.unlink() if data == "absent" else sentences.write_text("sentence\tlabel\nx\t1\n")
    run_stages(copy, report)
    assert "dvc repro download_dataset" in text_of(copy)


def test_a_run_of_another_recipe_is_named_and_not_shown(copy: Path) -> None:
    path = copy / "predictions/minilm-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": "0" * 16}))
    run_stages(copy, report)  # which judges what is there, whatever `compare` saw
    english = text_of(copy)
    assert "minilm-1: not run (other recipe)" in english and "minilm 0 of 5" in english


def test_an_export_of_another_recipe_is_not_shown(copy: Path) -> None:
    run_stages(copy, compare, report)
    assert "as ONNX in int8" in text_of(copy)
    path = copy / "metrics/export/minilm-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": "0" * 16}))
    run_stages(copy, compare, report)
    assert "as ONNX in int8" not in text_of(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics/export/minilm-1.json", "[]", "minilm-1.json: expected a JSON object, found []"),
        ("metrics/speed.json", "{}", "metrics/speed.json: found no `models`"),
        ("curves/minilm-1.tsv", "step\n1\n", "curves/minilm-1.tsv: "),
        ("metrics/speed.json", "{", "metrics/speed.json is not JSON"),
    ],
)
def test_a_damaged_file_is_named_and_the_old_report_stays(
    copy: Path, file: str, content: str, message: str
) -> None:
    (copy / file).write_text(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        run_stages(copy, report)
    assert "Run `dvc " in str(error.value)
    assert (copy / "report/report.html").is_file()


def test_the_strip_shows_all_stages() -> None:
    assert sorted(STAGES.replace(",", "").split()) == sorted(load_yaml(ROOT / "dvc.yaml")["stages"])


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync",
                 "disable-dev-shm-usage", f"user-data-dir={profile}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


# What reaches beyond the window, words of a chart outside of it or lower than 12 px.
WRONG = """
const all = selector => [...document.querySelectorAll(selector)];
const wide = all("body *").filter(e => !e.closest("svg, pre"))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
const cut = all("svg.chart text").filter(t => {
  const box = t.closest("svg").getBoundingClientRect(), r = t.getBoundingClientRect();
  const m = t.getScreenCTM(), size = parseFloat(getComputedStyle(t).fontSize);
  return r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1
    || r.bottom > box.bottom + 1 || size * Math.hypot(m.a, m.b) < 12; });
return [...wide, ...cut].map(e => `${e.tagName}: ${e.textContent.trim().slice(0, 60)}`);
"""
# Slides whose content is higher than the window.
TOO_HIGH = """return [...document.querySelectorAll("header, section")]
  .filter(e => e.scrollHeight > innerHeight + 1).map(e => e.innerText.slice(0, 40))"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("case", ["everything", "one run"])
@pytest.mark.parametrize("name", PAGES)
def test_in_a_browser(browser: Any, projects: dict[str, Path], case: str, name: str) -> None:
    """No error, nothing too wide or too small at either width and theme; slides fit; it prints."""

    def look(width: int, height: int, **media: Any) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((projects[case] / "report" / name).as_uri())

    for theme in ("light", "dark"):
        for width in (1280, 390):
            look(width, 720, features=[{"name": "prefers-color-scheme", "value": theme}])
            # Charts on slides are as high as the screen lets them, so only a telephone has a size.
            wrong = browser.execute_script(WRONG)
            assert wrong == [] or (width == 1280 and "slides" in name), (theme, width, wrong)
            assert width == 390 or "slides" not in name or not browser.execute_script(TOO_HIGH)
    look(1280, 720, media="print")
    options = {"preferCSSPageSize": True, "printBackground": True}
    printed = browser.execute_cdp_cmd("Page.printToPDF", options)["data"]
    pages = len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed)))
    slides = browser.execute_script('return document.querySelectorAll("header, section").length')
    assert pages == slides if "slides" in name else 3 <= pages <= 12, pages
    levels = [entry["level"] for entry in browser.get_log("browser")]
    assert not {"SEVERE", "WARNING"} & set(levels)
