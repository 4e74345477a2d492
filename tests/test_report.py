"""The report: its pages in two languages, as files and in a real browser."""

import base64
import re
import shutil
import warnings
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, Here, load_yaml
from reproduce.params import read_yaml
from reproduce.report.pages import STAGES
from reproduce.report.wording import TEXTS, Wording
from toy_results import RATES, SENTENCES, change_json, toy_results

PAGES = ["report.html", "report.pt-BR.html", "slides.html", "slides.pt-BR.html"]
CASES: dict[str, dict[str, Any]] = {
    "everything": {"runs": {model: [1, 2, 3, 4, 5] for model in ("distilbert", "bert", "minilm")}},
    "one run": {"runs": {"minilm": [1]}},
    "nothing": {"runs": {}, "speed": False},
    "held out": {
        "runs": {"distilbert": [1, 2], "bert": [1]},
        "params": lambda params: params["selection"].update(holdout=120),
    },
    "three classes": {"runs": {"distilbert": [1, 2], "minilm": [1]}, "dataset": "mnli"},
    "numbers": {"runs": {"distilbert": [1, 2], "minilm": [1]}, "dataset": "stsb"},
    "no error": {"runs": {"distilbert": [1]}, "wrong": 0.0},
    "one sentence": {"runs": {"distilbert": [1, 2], "bert": [1]}, "sentences": 1},
    "one number": {
        "runs": {"distilbert": [1, 2]},
        "dataset": "stsb",
        "sentences": 1,
        "device": lambda model, seed: ["cpu", "cuda"][seed - 1],
    },
}
Projects = dict[str, Here]
ASKED_FOR: set[str] = set()  # the names of all texts on the pages of CASES


@pytest.fixture(scope="session")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Projects:
    """A project for each of CASES in which `compare` and `report` ran, without a warning."""
    made = {}
    say = Wording.__call__

    def recorded(self: Wording, key: str, /, **values: Any) -> Any:
        ASKED_FOR.add(key)
        return say(self, key, **values)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(Wording, "__call__", recorded)
        warnings.simplefilter("error", RuntimeWarning)
        for name, options in CASES.items():
            made[name] = toy_results(tmp_path_factory.mktemp("project"), **options)
            made[name].stage("compare")
            made[name].stage("report")
    return made


@pytest.fixture
def copy(projects: Projects, tmp_path: Path) -> Here:
    """The project with one run, to change."""
    project = projects["one run"]
    return Here(shutil.copytree(project.path, tmp_path / "copy"), project.env)


def source_of(project: Here, name: str = "report.html") -> str:
    return (project.path / "report" / name).read_text(encoding="utf-8")


def text_of(project: Here, name: str = "report.html") -> str:
    body = re.sub(r"<(style|script|svg).*?</\1>", " ", source_of(project, name), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_complete_in_itself(projects: Projects, case: str, name: str) -> None:
    source = source_of(projects[case], name)
    assert f'<html lang="{"pt-BR" if "pt-BR" in name else "en"}">' in source
    ids = re.findall(r' id="([^"]*)"', source)
    assert len(set(ids)) == len(ids)
    for address in re.findall(r' (?:href|src|data)="([^"]*)"', source):
        here = address == "data:," or (address.startswith("#") and address[1:] in ids)
        assert here or (projects[case].path / "report" / address).is_file(), address
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", source)
    assert not re.search(r"#0[1-5]0[1-5]0\d", source), "a colour that the page does not set"
    other_language = "not run" if "pt-BR" in name else "não executad"
    assert other_language not in text_of(projects[case], name)


@pytest.mark.parametrize("case", CASES)
def test_figures_are_numbered_and_say_their_n(projects: Projects, case: str) -> None:
    captions = re.findall(r'<svg [^>]*aria-label="([^"]*)"', source_of(projects[case]))
    numbers = [int(number) for number in re.findall(r"Figure (\d+)\.", text_of(projects[case]))]
    assert numbers == [*range(1, len(captions) + 1)]
    assert all(re.search(r"n = [\d,]+|n: sentences", caption) for caption in captions)


def test_no_text_is_unused(projects: Projects) -> None:
    rare = {"other recipe", "other data set", "other sentences", "damaged", "no_sentences",
            "no_error_rates", "reference_result"}  # fmt: skip
    assert projects and set(read_yaml(TEXTS)) - ASKED_FOR - rare == set()


def test_a_page_is_a_function_of_its_inputs(copy: Here) -> None:
    """Byte for byte: elsewhere, and whatever a person's matplotlibrc says."""
    import matplotlib as mpl

    pages = [copy.path / "report" / name for name in PAGES]
    before = [page.read_bytes() for page in pages]
    shutil.rmtree(copy.path / "report")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "pink", "lines.linewidth": 9}):
        copy.stage("report")
    assert [page.read_bytes() for page in pages] == before


def test_the_pages_say_what_the_files_say(projects: Projects) -> None:
    project = projects["everything"]
    claims = project.json("metrics/claims.json")["claims"]
    english, portuguese = text_of(project), text_of(project, "report.pt-BR.html")
    measured = f"{claims['distilbert_accuracy']['measured']:.2f}%"
    assert measured in english and measured.replace(".", ",") in portuguese
    assert "bert, first seed, as ONNX in int8 88.00" in english
    assert "<b>bold</b>" in english, "a sentence of the data was taken for markup"
    cell = project.json(RATES)["rules"]["score"][0]
    assert f"{cell['reproduced']:.0f}/{cell['not reproduced']:.0f}" in english


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one run", "Seeds that ran: distilbert 0 of 5, bert 0 of 5, minilm 1 of 5."),
        ("one run", "The sentences that minilm gets wrong with most seeds"),
        ("nothing", "“The worst errors”, “Environment”, because no run has a result of"),
        ("nothing", "Left out: “Size and speed”, because they were not measured."),
        ("held out", "67,229 examples to train on"),
        ("held out", "nothing published compares with it"),
        ("three classes", "contradiction"),
        ("numbers", "because this data set's labels are numbers."),
        ("no error", "because distilbert makes no error on these sentences."),
        ("one number", "pearson is not defined for seeds 1, 2"),
        ("one number", "device or precisions in one median (cpu fp32: seed 1; cuda fp32: "),
    ],
)
def test_what_is_not_there_or_not_comparable_is_said_in_a_sentence(
    projects: Projects, case: str, words: str
) -> None:
    assert words in text_of(projects[case])


@pytest.mark.parametrize("data", ["absent", "other"])
def test_without_the_sentences_the_report_says_what_to_run(copy: Here, data: str) -> None:
    (copy.path / SENTENCES).unlink()
    if data == "other":
        (copy.path / SENTENCES).write_text("sentence\tlabel\nx\t1\n")
    copy.stage("report")
    assert "dvc repro download_dataset" in text_of(copy)


def test_a_run_of_another_recipe_is_named_and_not_shown(copy: Here) -> None:
    """And the same of an export. The report judges what is there, whatever `compare` saw."""
    assert "as ONNX in int8" in text_of(copy)
    change_json(copy.path / "metrics/export/minilm-1.json", recipe="0" * 16)
    copy.stage("report")
    assert "as ONNX in int8" not in text_of(copy) and "minilm 1 of 5" in text_of(copy)
    change_json(copy.path / "predictions/minilm-1.json", recipe="0" * 16)
    copy.stage("report")
    assert "minilm-1: not run (other recipe)" in text_of(copy) and "minilm 0 of 5" in text_of(copy)


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
    copy: Here, file: str, content: str, message: str
) -> None:
    (copy.path / file).write_text(content)
    refusal = copy.refused("report")
    assert message in refusal and "Run `dvc " in refusal
    assert (copy.path / "report/report.html").is_file()


def test_the_strip_shows_all_stages() -> None:
    assert sorted(STAGES.replace(",", "").split()) == sorted(load_yaml(ROOT / "dvc.yaml")["stages"])


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-dev-shm-usage", "disable-component-update"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
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
def test_in_a_browser(browser: Any, projects: Projects, case: str, name: str) -> None:
    """No error, nothing too wide or too small at either width and theme; slides fit; it prints."""

    def look(width: int, height: int, **media: Any) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get((projects[case].path / "report" / name).as_uri())

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
