"""Sentences a second of fine-tuning a full-size model, and its memory, against the stock Trainer.

fixed     transformers' Trainer as run_glue.py uses it by default: fp32, random batches, each
          sentence padded to 128 tokens
dynamic   the same with --pad_to_max_length False: padded to the longest sentence of the batch
bare      our batches, model, autocast, clipping and AdamW, launched one by one
ours      reproduce/training/loop.py, as the stage finetune runs it
replay    (on a GPU) the same recorded steps replayed with no data and no logging: the limit

Each is a process that halts between its turns (ways.py); they take turns, A B A B ..., on real
SST-2 sentences and random weights (speed does not depend on their values). ours, bare and replay
see the same batches: every k-th by length of a real epoch. Useful operations: 6 x non-embedding
parameters x real tokens (arXiv:2001.08361, section 2.1). What the hardware could do is the time
that a profile of `bare` gives the matrix products alone.

Run as: python -m benchmarks.training [--model distilbert] [--steps N] [--turns N]
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import fetch_tokenizer, report, spread, sst2, take_turns
from benchmarks.ways import BATCH, FACTS, PADDED, paths
from reproduce.command import go_offline, run_command
from reproduce.inputs.tokenizer import load_tokenizer, tokenize_split
from reproduce.params import PARAMS, read_yaml
from reproduce.training.devices import choose_precision, claim_gpu
from reproduce.training.recipe import read_recipe
from stages.benchmark import build

STEPS, TURNS = {"cpu": 20, "cuda": 400}, 5  # on a GPU a turn of ours then lasts a second
# The ways by device, each with its share of these steps: a slower way takes fewer.
WAYS = {
    "cpu": {"fixed": 0.1, "dynamic": 0.3, "bare": 1, "ours": 1},
    "cuda": {"fixed": 0.1, "dynamic": 0.2, "bare": 0.2, "ours": 1, "replay": 1},
}
# By device and model: at least so many times as fast as each way, and at most so many GB.
TARGETS: dict[tuple[str, str], dict[str, float]] = {
    ("cpu", "distilbert"): {"fixed": 15, "dynamic": 4, "bare": 0.95, "GB": 3.2},
    ("cpu", "minilm"): {"GB": 2.0},
    ("cuda", "distilbert"): {"fixed": 10, "dynamic": 5, "replay": 0.9, "GB": 6},
    ("cuda", "bert"): {"fixed": 5, "dynamic": 3, "replay": 0.9, "GB": 8},
    ("cuda", "minilm"): {"fixed": 10, "dynamic": 5, "replay": 0.9},
}


def main() -> None:
    """Measure all in turn."""
    parser = argparse.ArgumentParser(description="Training speed and memory against peers.")
    parser.add_argument("--model", default="distilbert", choices=("distilbert", "bert", "minilm"))
    parser.add_argument("--steps", type=int, help=f"of ours in a turn (default: {STEPS})")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each (default: {TURNS})")
    arguments = parser.parse_args()
    model, turns = arguments.model, arguments.turns
    with claim_gpu(), TemporaryDirectory() as scratch:
        device, precision, reason = choose_precision("auto")
        print(f"{model}: {precision} on {device}, because {reason}", flush=True)
        steps = arguments.steps or STEPS[device]
        counts = {name: max(1, round(steps * share)) for name, share in WAYS[device].items()}
        facts = {"device": device, "precision": precision, "run": {"model": model, "seed": 1}}
        prepare(Path(scratch), model, facts | {"steps": counts, "turns": turns})
        with processes([*counts], Path(scratch)) as (turn, warm):
            taken = take_turns({name: partial(turn, name) for name in counts}, turns)
    result = {
        **summarize(taken, warm["ours"]["parameters"], warm["bare"]["seconds_a_token"]),
        "model": model, "device": device, "precision": precision, "steps_a_turn": counts,
    }  # fmt: skip
    judge(result, full=steps >= STEPS[device] and turns >= TURNS)


def prepare(folder: Path, model: str, facts: dict[str, Any]) -> None:
    """Put what all ways read into `folder`: facts, tokens, config, tokenizer, random weights."""
    sentences, labels, names = sst2("train")
    recipe = read_recipe(model, read_yaml(PARAMS)).model_dump() | {"batch_size": BATCH}
    (folder / FACTS).write_text(json.dumps(facts | {"recipe": recipe}))
    files = {name: folder / path for name, path in paths(model).items()}
    tokenizer = files["download_tokenizer"].parent
    fetch_tokenizer(model, tokenizer)
    go_offline()
    tokens = tokenize_split(load_tokenizer(tokenizer), sentences, labels, names, PADDED)
    files["tokens"].parent.mkdir(parents=True)
    tokens.to_parquet(str(files["tokens"]))
    build(tokenizer).save_pretrained(str(files["download_weights"].parent))


Turn = Callable[[str], dict[str, Any]]


@contextmanager
def processes(
    names: Sequence[str], folder: Path
) -> Iterator[tuple[Turn, dict[str, dict[str, Any]]]]:
    """Start each way and let it warm up; gives a function for one turn, and the first answers."""
    running = {}
    for name in names:
        command = [sys.executable, "-m", "benchmarks.ways", name, str(folder)]
        with (folder / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def turn(name: str) -> dict[str, Any]:
        process = running[name]
        assert process.stdin and process.stdout
        print("go", file=process.stdin, flush=True)
        for text in process.stdout:
            if text.startswith('{"'):
                return json.loads(text)  # type: ignore[no-any-return]
        raise RuntimeError(f"{name} ended: {(folder / f'{name}.log').read_text()[-2000:]}")

    try:
        yield turn, {name: turn(name) for name in names}  # one after the other
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def summarize(
    turns: dict[str, list[dict[str, Any]]], parameters: int, computing: dict[str, float]
) -> dict[str, Any]:
    """Rates and memory of each way; ours over each: the median over the turns of their ratio.

    Of ours also the share of its time that each kind of computation takes in `bare`, by its profile
    `computing` (it casts in more kernels); where that was slower than ours, as on a CPU, the share
    of the profile's time.
    """

    def rates(name: str, what: str) -> list[float]:
        return [turn[what] / turn["seconds"] for turn in turns[name]]

    def ours_over(peer: str) -> float:
        pairs = zip(rates("ours", "sentences"), rates(peer, "sentences"), strict=True)
        return round(statistics.median(ours / other for ours, other in pairs), 3)

    gigaflops = 6 * parameters / 1e9
    ways = {
        name: {
            "sentences_per_second": spread([round(x, 2) for x in rates(name, "sentences")]),
            "ms_a_step": spread([round(1e3 * BATCH / x, 2) for x in rates(name, "sentences")]),
            "useful_gflops": spread([round(gigaflops * x, 1) for x in rates(name, "tokens")]),
            "peak_gb": max(turn["gb"] for turn in turns[name]),
        }
        for name in turns
    }
    a_token = max(1 / statistics.median(rates("ours", "tokens")), sum(computing.values()))
    shares = {part: round(seconds / a_token, 4) for part, seconds in computing.items()}
    ratio = {name: ours_over(name) for name in turns if name != "ours"}
    return {"ways": ways, "ours_over": ratio, "share_of_a_step": shares}


def judge(result: dict[str, Any], full: bool) -> None:
    """Print what came out against this device's targets; write it, if the run was a full one."""
    model, device, ways = result["model"], result["device"], result["ways"]
    ratio, targets = result["ours_over"], dict(TARGETS.get((device, model), {}))
    gb, stock = ways["ours"]["peak_gb"], ways["fixed"]["peak_gb"]
    most = min(targets.pop("GB", math.inf), stock)
    met = gb <= most and all(ratio[peer] >= least for peer, least in targets.items())
    wanted = [*(f">= {least:g} x {peer}" for peer, least in targets.items()), f"<= {most:g} GB"]
    line = (f"{model} on {device}, {ways['ours']['ms_a_step']['median']:g} ms a step: "
            f"{', '.join(f'{value:g} x {peer}' for peer, value in ratio.items())}; "
            f"{result['share_of_a_step']['matrix products']:.0%} of it matrix products; "
            f"{gb:g} GB, fixed {stock:g} GB")  # fmt: skip
    if full:
        report(f"training-{model}-{device}", ", ".join(wanted), met, line, result)
    else:
        print(f"{line}. Not judged and not written: fewer steps or turns than the default")


if __name__ == "__main__":
    run_command(main)
