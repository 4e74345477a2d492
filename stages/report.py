"""The report and the slides: HTML pages that open from disk, in English and Portuguese.

Run as: python -m stages.report

Every number comes from a file that another stage wrote; what was not measured says "not run".
"""

from pathlib import Path

from reproduce.command import command_line, run_command
from reproduce.files import write_text
from reproduce.report.facts import read_facts
from reproduce.report.pages import render

OUT = Path("report")


def main() -> None:
    """Write report/report.html, report/slides.html and the same in Portuguese (.pt-BR.html)."""
    command_line(__doc__).parse_args()
    facts = read_facts()
    pages = render(facts)
    for name, html in pages.items():
        write_text(OUT / name, html)
    seeds = len(facts.params["seeds"])
    models = ", ".join(f"{model.name} {len(model.runs)} of {seeds}" for model in facts.models)
    print(f"{OUT}/: {', '.join(pages)}; seeds: {models}")


if __name__ == "__main__":
    run_command(main)
