"""What a stage waits for before and after its work, importing and leaving PyTorch and transformers, with the settings of
stages/__init__.py, against the same with Python's own settings.

Target: less time than with Python's settings in the median round.

Run as: python -m benchmarks.startup
"""

import statistics
import sys
from functools import partial

from benchmarks.common import report, spread_seconds, take_turns, time_command

ROUNDS = 9
IMPORTS = "import torch, datasets, evaluate; from transformers import AutoModelForSequenceClassification, BertModel, Trainer"


def main() -> None:
    """Time both in turn."""
    commands = {"ours": f"import stages; {IMPORTS}", "peer": IMPORTS}
    seconds = take_turns({name: partial(time_command, [sys.executable, "-c", code]) for name, code in commands.items()}, ROUNDS)
    results = {name: spread_seconds(values) for name, values in seconds.items()}
    ours, theirs = (results[name]["wall"]["values"] for name in ("ours", "peer"))
    ratio = round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)
    line = (f"{statistics.median(ours):.1f} s, {ratio} x Python's own settings ({statistics.median(theirs):.1f} s), "
            f"medians of {ROUNDS} rounds")  # fmt: skip
    report("startup", "ours < theirs", ratio < 1, line, {"unit": "seconds", "ratio": ratio, "code": commands, **results})


if __name__ == "__main__":
    main()
