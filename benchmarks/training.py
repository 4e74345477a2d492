"""Examples a second of fine-tuning full-size DistilBERT at batch size 32, against run_glue.py's way and a bare PyTorch loop.

fixed     the stock Trainer as run_glue.py uses it by default: fp32, random batches, every sentence padded to 128 tokens
dynamic   the same with run_glue.py's --pad_to_max_length False: padded to the longest sentence of the batch
bare      no Trainer: a loop over our batches with our model, autocast, clipping and AdamW; what the framework could let through
ours      `stages.finetune.train`
matmul    the matrix products of a step alone, at the model's shapes and our batches' tokens: what the processor could do

Each is a process of its own that halts in its collator between turns; they take turns, A B A B ..., on real SST-2 sentences and
random weights (speed does not depend on their values). `ours`, `bare` and `matmul` see the same batches: every k-th by length of
a real epoch, so that few stand for all. The first step of a turn is not counted: the system may have put away an idle process's
memory. Useful operations: 6 x non-embedding parameters x real tokens (Kaplan et al., arXiv:2001.08361, section 2.1).
Then a profile of the bare loop by part of the model.

Run as: python -m benchmarks.training
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from benchmarks.common import RESULTS, report, spread, sst2_train, take_turns, tokenizer_directory
from benchmarks.inference import prepare
from reproduce import batches
from reproduce.command import go_offline
from reproduce.files import write_text
from reproduce.machine import peak_memory
from reproduce.training.batches import collate, length_grouped_order
from reproduce.training.devices import choose_precision, deterministic
from stages import finetune

if TYPE_CHECKING:
    import torch

MODEL = "distilbert"
BATCH, PADDED = 32, 128
STEPS = {
    "fixed": 2,
    "dynamic": 6,
    "bare": 20,
    "ours": 20,
    "matmul": 20,
    "profile": 20,
}  # counted steps a turn
TURNS = 5
WARMUP = (
    3  # steps before the first turn; of ours the first is the longest batch, for the peak of memory
)
TARGETS = {"fixed": 15.0, "dynamic": 4.0, "bare": 0.9}  # ours over each


def main() -> None:
    """Measure all in turn; with arguments (who, folder), be one of them."""
    if len(sys.argv) > 1:
        go_offline()
        CONTENDERS[sys.argv[1]](Path(sys.argv[2]))
        return
    device, precision, reason = choose_precision("auto")
    print(f"{precision} on {device}, because {reason}")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = sst2_train()
        go_offline()
        prepare(MODEL, folder, *data)
        (folder / "sample.json").write_text(json.dumps(sample(folder)))
        with contenders([name for name in STEPS if name != "profile"], folder) as turn:
            turns = take_turns(
                {name: partial(turn, name) for name in STEPS if name != "profile"}, TURNS
            )
        with contenders(["profile"], folder) as turn:
            profile = [turn("profile") for _ in range(TURNS)]
    measured = {name: summary(values) for name, values in turns.items()}
    rate = {name: one["examples_per_second"]["median"] for name, one in measured.items()}
    ratio = {
        f"ours/{peer}": turn_ratio(measured["ours"], measured[peer], "examples_per_second")
        for peer in TARGETS
    }
    share = turn_ratio(measured["ours"], measured["matmul"], "useful_gflops")
    gigabytes = {
        name: max(one["peak_gb"] for one in turns[name])
        for name in ("ours", "bare", "dynamic", "fixed")
    }
    parts = profile_table(profile)
    line = (f"ours {ratio['ours/fixed']} x fixed, {ratio['ours/dynamic']} x dynamic, {ratio['ours/bare']} of the bare loop; "
            f"{share:.0%} of what the matrix products alone reach; peak memory {gigabytes['ours']:.2f} GB, "
            f"fixed {gigabytes['fixed']:.2f} GB")  # fmt: skip
    target = ", ".join(f"ours >= {value} x {peer}" for peer, value in TARGETS.items())
    met = all(ratio[f"ours/{peer}"] >= value for peer, value in TARGETS.items())
    write_text(RESULTS / "training.svg", draw(rate, gigabytes, parts))
    report("training", target, met, line, {
        "model": MODEL, "batch_size": BATCH, "steps_a_turn": STEPS, "turns": TURNS, "device": device,
        "precision": {"ours": precision, "bare": precision, "matmul": precision, "fixed": "fp32", "dynamic": "fp32"},
        "ratio": ratio, "useful_share_of_matmul": share, "peak_memory_gb": gigabytes,
        "profile_share_of_a_step": parts, **measured,
    })  # fmt: skip


@contextmanager
def contenders(
    names: Sequence[str],
    folder: Path,
    module: str = "benchmarks.training",
    env: Mapping[str, str] | None = None,
) -> Iterator[Callable[[str], dict[str, float]]]:
    """Start each as a process that halts before its first turn; yields a function that lets one do a turn.

    Args:
        env: for the last of them, on top of this process's.
    """
    running = {}
    for name in names:
        command = [sys.executable, "-m", module, name, str(folder)]
        log = (folder / f"{name}.log").open("w")
        extra = dict(env or {}) if name == names[-1] else {}
        running[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **extra},
        )

    def turn(name: str) -> dict[str, float]:
        process = running[name]
        assert process.stdin and process.stdout
        process.stdin.write("go\n")
        process.stdin.flush()
        for text in process.stdout:
            if text.startswith('{"'):
                return json.loads(text)  # type: ignore[no-any-return]
        raise RuntimeError(f"{name} ended: {(folder / f'{name}.log').read_text()[-2000:]}")

    try:
        for name in names:  # loading and warming up, one after the other
            turn(name)
        yield turn
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


class Turns:
    """Halts the process that calls `batch` between turns: answers with what was done, and waits to be told to go on.

    A trainer asks for batch k + 1 before it computes batch k, so between two calls there is always one step's work.
    """

    def __init__(self, name: str) -> None:
        self.steps, self.seen, self.counted, self.start = (
            STEPS.get(name, STEPS["bare"]),
            -WARMUP - 1,
            [0, 0],
            0.0,
        )
        sys.stdin.readline()

    def batch(self, sentences: int, tokens: int) -> None:
        """One more batch is about to be computed."""
        self.seen += 1
        if self.seen == 0:  # warmed up
            self.answer(0.0)
        elif self.seen == 1:  # the first step of a turn is done
            synchronize()
            self.start, self.counted = time.perf_counter(), [0, 0]
        elif self.seen == 1 + self.steps:
            synchronize()
            self.answer(time.perf_counter() - self.start)
            self.seen = 0
        self.counted[0] += sentences
        self.counted[1] += tokens

    def answer(self, seconds: float) -> None:
        """Say what the turn was, and halt."""
        facts = {
            "seconds": round(seconds, 4),
            "sentences": self.counted[0],
            "tokens": self.counted[1],
            "peak_gb": peak_gb(),
        }
        print(json.dumps({**facts, **EXTRA}), flush=True)
        if not sys.stdin.readline():
            os._exit(0)


EXTRA: dict[str, float] = {}  # what a contender adds to its next answer


def synchronize() -> None:
    """Wait for a GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gb() -> float:
    """The greatest memory so far, of the GPU or else of the process, in GB (10^9 bytes)."""
    import torch

    return round(
        (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) / 1e9, 3
    )


def sample(folder: Path) -> list[list[int]]:
    """Batches (indices of sentences) that stand for an epoch: every k-th by length, in random order, the longest first."""
    import pyarrow.parquet
    import torch

    table = pyarrow.parquet.read_table(folder / "train.parquet")
    lengths = torch.tensor([len(ids) for ids in table["input_ids"].to_pylist()])
    order = length_grouped_order(lengths, BATCH, seed=1, epoch=0)
    epoch = sorted(
        (order[i : i + BATCH] for i in range(0, len(order) - BATCH, BATCH)),
        key=lambda b: int(lengths[b].max()),
    )
    count = (STEPS["ours"] + 1) * TURNS
    chosen = [epoch[int((k + 0.5) * len(epoch) / count)] for k in range(count)]
    mixed = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return [epoch[-1], *(chosen[k] for k in mixed[:WARMUP]), *(chosen[k] for k in mixed)]


def train_ours(folder: Path) -> None:
    """`stages.finetune.train`, changed in two places: the batches are the sample, and the collator halts between turns."""
    order = [i for batch in json.loads((folder / "sample.json").read_text()) for i in batch]
    turns = Turns("ours")

    def halting(examples: Sequence[dict[str, Any]], pad_id: int) -> "dict[str, torch.Tensor]":
        turns.batch(len(examples), sum(len(example["input_ids"]) for example in examples))
        return collate(examples, pad_id)

    params = finetune.read_finetune(MODEL).model_copy(update={"batch_size": BATCH})
    machine = finetune.Machine(checkpoint_every=10**6, loader_workers=0)
    inputs = {
        "tokenize": folder / "train.parquet",
        "download_weights": folder / "weights/model.safetensors",
        "download_tokenizer": folder / "tokenizer/config.json",
    }
    with (
        TemporaryDirectory(dir=folder) as scratch,
        patch.object(batches, "length_grouped_order", lambda *_: order),
        patch.object(finetune, "collate", halting),
    ):
        (Path(scratch) / "out").mkdir()
        finetune.train(
            params,
            machine,
            1,
            choose_precision("auto")[1],
            inputs,
            Path(scratch),
            Path(scratch) / "out",
        )


def train_bare(
    folder: Path,
    name: str = "bare",
    cut: bool = True,
    attention: str = "eager",
    compiled: bool = False,
    one_clip: bool = False,
) -> None:
    """Our batches, model, autocast, clipping, AdamW and determinism, and nothing else.

    Args:
        name: under which it takes turns; "profile" is timed by part of the model.
        cut, attention, compiled, one_clip: see benchmarks/training_options.py.
    """
    import pyarrow.parquet
    import torch

    from reproduce.training.vocabulary import cut_embedding, used_rows

    params = finetune.read_finetune(MODEL)
    device, precision, _ = choose_precision("auto")
    table = pyarrow.parquet.read_table(folder / "train.parquet")
    ids = [torch.tensor(row) for row in table["input_ids"].to_numpy()]
    rows = used_rows(ids, 0)
    labels = table["label"].to_pylist()
    examples = [
        {"input_ids": torch.searchsorted(rows, i) if cut else i, "labels": label}
        for i, label in zip(ids, labels, strict=True)
    ]
    model = finetune.load_pretrained(
        folder / "weights", folder / "tokenizer", ["0", "1"], attn_implementation=attention
    ).train()
    if cut:
        cut_embedding(model, rows)
    model.to(device)  # type: ignore[arg-type]
    forward = torch.compile(model, dynamic=True) if compiled else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=params.learning_rate, weight_decay=0.0, fused=True
    )
    autocast = torch.autocast(
        device,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float16,
        enabled=precision != "fp32",
    )
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")  # type: ignore[attr-defined]
    clock = Clock(model) if name == "profile" else None
    turns = Turns(name)
    with deterministic():
        for batch in json.loads((folder / "sample.json").read_text()):
            chosen = [examples[i] for i in batch]
            turns.batch(len(chosen), sum(len(example["input_ids"]) for example in chosen))
            with clock.part("data") if clock else nothing():
                inputs = {name: tensor.to(device) for name, tensor in collate(chosen, 0).items()}
            target = inputs.pop("labels")
            with autocast:
                logits = forward(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), target)
            scaler.scale(loss).backward()
            if clock:
                clock.backward_ended()
            scaler.unscale_(optimizer)
            with clock.part("clipping") if clock else nothing():
                if one_clip:  # the fused AdamW divides by grad_scale as it reads the gradient
                    norm = torch.nn.utils.get_total_norm(
                        [p.grad for p in model.parameters() if p.grad is not None]
                    )
                    optimizer.grad_scale = (norm / params.max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
                    optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
                else:
                    torch.nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm)
            with clock.part("optimizer") if clock else nothing():
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            if clock:
                EXTRA.update(clock.seconds)


@contextmanager
def nothing() -> Iterator[None]:
    """A block that is not timed."""
    yield


class Clock:
    """Seconds of a step by part of the model, forward and backward, by hooks on its modules (`seconds` adds up)."""

    def __init__(self, model: "torch.nn.Module") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.starts: dict[str, float] = {}
        encoder = model.distilbert  # type: ignore[union-attr]
        self.watch("embedding", encoder.embeddings)  # type: ignore[union-attr, arg-type]
        for layer in encoder.transformer.layer:  # type: ignore[union-attr]
            self.watch("attention", layer.attention)
            self.watch("feed-forward", layer.ffn)

    def watch(self, name: str, module: "torch.nn.Module") -> None:
        """Time `module` under `name`."""
        module.register_forward_pre_hook(lambda *_: self.begin(name))
        module.register_forward_hook(lambda *_: self.end(name))
        module.register_full_backward_pre_hook(lambda *_: self.begin(name))
        if name != "embedding":  # token ids have no gradient: its backward pass ends with the whole
            module.register_full_backward_hook(lambda *_: self.end(name))

    def begin(self, name: str) -> None:
        """The part `name` starts."""
        synchronize()
        self.starts[name] = time.perf_counter()

    def end(self, name: str) -> None:
        """It ends."""
        synchronize()
        self.seconds[name] += time.perf_counter() - self.starts[name]

    def backward_ended(self) -> None:
        """The backward pass is over, and with it the embedding's."""
        self.end("embedding")

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A block that is the part `name`."""
        self.begin(name)
        yield
        self.end(name)


def train_stock(folder: Path, padded: bool) -> None:
    """The Trainer as run_glue.py sets it up: fp32, random batches, its own AdamW, linear decay; no evaluation, no checkpoint."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    data = load_dataset(
        "parquet",
        data_files=str(folder / "train.parquet"),
        split="train",
        cache_dir=str(folder / "cache"),
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    pad = DataCollatorWithPadding(
        tokenizer, padding="max_length" if padded else True, max_length=PADDED
    )
    turns = Turns("fixed" if padded else "dynamic")

    def halting(examples: list[dict[str, Any]]) -> Any:
        turns.batch(len(examples), sum(len(example["input_ids"]) for example in examples))
        return pad(examples)

    with TemporaryDirectory(dir=folder) as scratch:
        arguments = TrainingArguments(
            output_dir=scratch, per_device_train_batch_size=BATCH, num_train_epochs=3, learning_rate=2e-5,
            save_strategy="no", report_to=[],
        )  # fmt: skip
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder / "weights"), num_labels=2
        )
        Trainer(model=model, args=arguments, train_dataset=data, data_collator=halting).train()


def products(folder: Path) -> None:
    """Of every batch of the sample: each linear layer's product forward, and the two backward, in the precision of ours."""
    import pyarrow.parquet
    import torch
    from transformers import AutoConfig

    device, precision, _ = choose_precision("auto")
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    config = AutoConfig.from_pretrained(str(folder / "tokenizer"))
    shapes = [(config.dim, config.dim)] * 4 + [
        (config.dim, config.hidden_dim),
        (config.hidden_dim, config.dim),
    ]
    layers = [
        (torch.randn(o, i, device=device, dtype=kind), i, o)
        for _ in range(config.n_layers)
        for i, o in shapes
    ]
    sizes = [
        len(ids)
        for ids in pyarrow.parquet.read_table(folder / "train.parquet")["input_ids"].to_pylist()
    ]
    turns = Turns("matmul")
    for batch in json.loads((folder / "sample.json").read_text()):
        lengths = [sizes[i] for i in batch]
        turns.batch(len(batch), sum(lengths))
        tokens = len(batch) * max(lengths)
        data = {
            n: torch.ones(tokens, n, device=device, dtype=kind)
            for n in (config.dim, config.hidden_dim)
        }
        for weight, inside, outside in layers:
            torch.mm(data[inside], weight.t())
            torch.mm(data[outside], weight)
            torch.mm(data[outside].t(), data[inside])


CONTENDERS: dict[str, Callable[[Path], None]] = {
    "fixed": partial(train_stock, padded=True),
    "dynamic": partial(train_stock, padded=False),
    "bare": train_bare,
    "ours": train_ours,
    "matmul": products,
    "profile": partial(train_bare, name="profile"),
}


def non_embedding_parameters() -> int:
    """Of the model: all weights but its embeddings' and its head's."""
    import torch
    from transformers import AutoConfig, AutoModel

    with TemporaryDirectory() as scratch, torch.device("meta"):
        model = AutoModel.from_config(
            AutoConfig.from_pretrained(str(tokenizer_directory(MODEL, Path(scratch))))
        )
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith("embeddings.")
    )


def summary(turns: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Examples and useful operations a second over the turns of one contender."""
    operations = 6 * non_embedding_parameters()
    return {
        "examples_per_second": spread(
            [round(turn["sentences"] / turn["seconds"], 3) for turn in turns]
        ),
        "useful_gflops": spread(
            [round(operations * turn["tokens"] / turn["seconds"] / 1e9, 2) for turn in turns]
        ),
        "ms_a_step": spread(
            [round(1000 * turn["seconds"] * BATCH / turn["sentences"], 2) for turn in turns]
        ),
    }


def turn_ratio(first: dict[str, Any], second: dict[str, Any], what: str) -> float:
    """The median over turns of first / second: a turn that the machine disturbed is one of several."""
    return round(
        float(
            statistics.median(
                a / b for a, b in zip(first[what]["values"], second[what]["values"], strict=True)
            )
        ),
        3,
    )


def profile_table(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each part's share of a step's time (0 .. 1), over all turns but the first, largest first; the rest is `other`."""
    first, last = turns[0], turns[-1]
    known = {"seconds", "sentences", "tokens", "peak_gb"}
    steps = (STEPS["profile"] + 1) / STEPS[
        "profile"
    ]  # the parts were timed in the uncounted step of a turn too
    whole = sum(turn["seconds"] for turn in turns[1:]) * steps
    shares = {name: (last[name] - first[name]) / whole for name in last if name not in known}
    shares["other (layer norms, residuals, head, loss)"] = 1 - sum(shares.values())
    return {
        name: round(value, 4) for name, value in sorted(shares.items(), key=lambda item: -item[1])
    }


def draw(rate: dict[str, float], gigabytes: dict[str, float], parts: dict[str, float]) -> str:
    """Two panels as SVG: examples/s of each contender, and where a step's time goes."""
    import io

    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = {"fixed": "run_glue.py\n(fp32, padded to 128)", "dynamic": "run_glue.py\n(fp32, padded to the batch)",
             "bare": "bare PyTorch loop\non our batches", "ours": "this pipeline"}  # fmt: skip
    with mpl.rc_context({"svg.hashsalt": "training", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        bars = left.barh(
            list(names.values()),
            [rate[name] for name in names],
            color=["#999999"] * 3 + ["#0969da"],
        )
        left.bar_label(bars, [f" {rate[name]:.1f}/s, {gigabytes[name]:.1f} GB" for name in names])
        left.set_xlim(0, max(rate[name] for name in names) * 1.45)
        left.set_title(f"sentences/s and peak memory, {MODEL}, batch {BATCH}", fontsize=9)
        bars = right.barh(
            [name.split(" (")[0] for name in parts][::-1],
            [100 * share for share in parts.values()][::-1],
            color="#0969da",
        )
        right.bar_label(bars, [f" {share:.1%}" for share in reversed(parts.values())])
        right.set_xlim(0, 100 * max(parts.values()) * 1.2)
        right.set_title("where a step's time goes, percent", fontsize=9)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(text.rstrip() for text in out.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    main()
