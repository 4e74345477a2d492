"""Fine-tuning: the order of batches, precision, golden losses, NaN, disk. Crashes: test_crash.py."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import Here, Repository
from reproduce import checkpoints, devices
from reproduce.files import UserError
from reproduce.training.batches import Batches, collate, length_grouped_order, padding_share
from stages import finetune

MODEL, CURVE = Path("models/finetuned/tiny-1"), Path("plots/curves/tiny-1")


# Mean loss of steps 1-2, 3-4, ... with the tiny model, seed 1, batch 8, learning rate 1e-2 (conftest.py), fp32.
GOLDEN = {
    2: 0.6891,
    4: 0.6998,
    6: 0.6866,
    8: 0.6949,
    10: 0.6816,
    12: 0.7124,
    14: 0.6875,
    16: 0.6839,
    18: 0.6825,
    20: 0.6598,
    22: 0.6883,
    24: 0.6490,
}


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder`."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_every_epoch_is_a_new_permutation_with_an_incomplete_batch_last() -> None:
    lengths = torch.randint(3, 60, (1001,), generator=torch.Generator().manual_seed(0))
    first, again = (
        length_grouped_order(lengths, 8, seed=1, epoch=0),
        length_grouped_order(lengths, 8, seed=1, epoch=0),
    )
    assert sorted(first) == list(range(1001))
    assert first == again
    for other in (
        length_grouped_order(lengths, 8, seed=1, epoch=1),
        length_grouped_order(lengths, 8, seed=2, epoch=0),
    ):
        assert sorted(other) == list(range(1001)) and other != first
    # 1001 = 125 batches of 8 and one sentence: within each full batch lengths are near, and the single one is at the end.
    spread = [int(b.max() - b.min()) for b in lengths[torch.tensor(first)].split(8)]
    assert len(spread) == 126 and sorted(spread)[63] <= 3


def test_batches_come_in_no_order_of_length() -> None:
    lengths = torch.randint(3, 60, (4000,), generator=torch.Generator().manual_seed(0))
    means = torch.stack(
        [
            b.float().mean()
            for b in lengths[torch.tensor(length_grouped_order(lengths, 8, 1, 0))].split(8)
        ]
    )
    position = torch.arange(len(means)).float()
    assert abs(torch.corrcoef(torch.stack([means, position]))[0, 1]) < 0.1
    assert (
        abs(torch.corrcoef(torch.stack([means[1:], means[:-1]]))[0, 1]) < 0.1
    )  # nor do neighbours look alike


def test_padding_share_counts_computed_tokens() -> None:
    lengths = torch.tensor([2, 4, 3, 3])
    assert padding_share(lengths, [0, 1, 2, 3], 2) == pytest.approx(
        1 - 12 / 14
    )  # 2 x 4 + 2 x 3 computed, 12 real
    assert padding_share(lengths, [0, 1, 2, 3], 1) == 0


def test_collate_pads_to_the_longest_of_the_batch() -> None:
    batch = collate(
        [
            {"input_ids": torch.tensor([5, 6, 7]), "labels": 1},
            {"input_ids": torch.tensor([8]), "labels": 0},
        ],
        pad_id=9,
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize(
    ("capability", "features", "expected"),
    [((9, 0), {}, "bf16"), ((8, 0), {}, "bf16"), ((7, 5), {}, "fp16"),  # H100, A100, T4
     (None, {"avx512_bf16": True}, "bf16"), (None, {"amx_bf16": True}, "bf16"), (None, {"avx512_f": True}, "fp32")],
)  # fmt: skip
def test_auto_precision_follows_the_hardware(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int] | None,
    features: dict[str, bool],
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some GPU")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    device, precision, reason = devices.choose_precision("auto")
    assert (device, precision) == ("cuda" if capability else "cpu", expected)
    assert "bf16" in reason
    assert devices.choose_precision("fp32")[1] == "fp32"
    if capability is None:
        with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
            devices.choose_precision("fp16")


def test_golden_losses_of_a_tiny_run(finished: Repository) -> None:
    """Two epochs of 12 steps. Tolerance: the sums' order differs between processors, the training does not."""
    rows = (finished.path / CURVE / "plots/metrics/loss.tsv").read_text().split("\n")
    assert rows[0] == "step\tloss"
    losses = {int(step): float(loss) for step, loss in (row.split("\t") for row in rows[1:] if row)}
    assert list(losses) == list(range(2, 25, 2))
    assert losses == pytest.approx(GOLDEN, abs=2e-3)
    rates = [
        float(row.split("\t")[1])
        for row in (finished.path / CURVE / "plots/metrics/learning_rate.tsv")
        .read_text()
        .splitlines()[1:]
    ]
    # The rate of step s (from 1): warm-up over 2 steps to 1e-2, then linear to 0 at step 24.
    assert rates == pytest.approx(
        [1e-2 * (s - 1) / 2 if s <= 3 else 1e-2 * (25 - s) / 22 for s in range(2, 25, 2)]
    )


def test_the_model_directory_loads_as_a_pipeline(finished: Repository) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(finished.path / MODEL), device="cpu")
    answer = classify("A gripping film.")[0]
    assert answer["label"] in ("NEGATIVE", "POSITIVE") and 0.5 <= answer["score"] <= 1
    assert classify.model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}


def test_what_it_ran_on_is_recorded(finished: Repository) -> None:
    facts = finished.json("environment/tiny-1.json")
    assert (
        facts["precision"] in ("fp32", "bf16", "fp16")
        and facts["steps"] == 24
        and facts["packages"]["torch"] == torch.__version__
    )
    assert str(Path.home()) not in json.dumps(facts)


def test_a_cut_checkpoint_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 8, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"x" * 100)
        if step != 12:  # killed before the marker
            checkpoints.mark_complete(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(b"x" * 99)
    assert checkpoints.newest_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert capsys.readouterr().out.count("passed over") == 2
    assert checkpoints.newest_checkpoint(tmp_path / "nothing") is None


def test_other_params_or_data_never_share_a_checkpoint(tmp_path: Path) -> None:
    base: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 1, "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0,
            "precision": "auto", "log_every": 1, "processes": 1, "accumulation": 1}  # fmt: skip
    data = tmp_path / "train.parquet"
    data.write_bytes(b"one")
    key = finetune.identity(finetune.Finetune(**base), 1, "fp32", [data])
    assert key == finetune.identity(finetune.Finetune(**base), 1, "fp32", [data])
    others = [finetune.identity(finetune.Finetune(**{**base, "epochs": 2}), 1, "fp32", [data]),
              finetune.identity(finetune.Finetune(**base), 2, "fp32", [data]),
              finetune.identity(finetune.Finetune(**base), 1, "bf16", [data])]  # fmt: skip
    data.write_bytes(b"two")
    others.append(finetune.identity(finetune.Finetune(**base), 1, "fp32", [data]))
    assert len({key, *others}) == 5


def test_a_loss_that_becomes_nan_stops_with_the_step(here: Here) -> None:
    """Weights that overflow: the first forward pass is already not finite, and the message says so."""
    from safetensors.torch import load_file, save_file

    weights = here.path / "models/weights/tiny/model.safetensors"
    tensors = load_file(weights)
    weights.chmod(0o644)
    weights.unlink()  # DVC links it to its cache
    save_file({name: tensor * float("inf") if "word_embeddings" in name else tensor for name, tensor in tensors.items()},
              weights, metadata={"format": "pt"})  # fmt: skip
    before = digest(here.path / MODEL)
    message = here.refused("finetune", "--model", "tiny", "--seed", "1")
    assert message.startswith("the loss is not a finite number at step 1 ")
    assert digest(here.path / MODEL) == before


def test_not_enough_disk_is_found_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = torch.nn.Linear(
        1000, 1000
    )  # 1,001,000 parameters: 12.0 MB a checkpoint, 36.0 MB for three
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=30_000_000))
    with pytest.raises(UserError, match=r"not enough disk: .* needs 0\.0 GB"):
        checkpoints.check_disk(model, tmp_path, tmp_path)  # type: ignore[arg-type]
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=37_000_000))
    checkpoints.check_disk(model, tmp_path, tmp_path)  # type: ignore[arg-type]


def test_a_pretrained_directory_without_weights(here: Here) -> None:
    (here.path / "models/weights/tiny/model.safetensors").unlink()
    message = here.refused("finetune", "--model", "tiny", "--seed", "1")
    assert message == ("models/weights/tiny/model.safetensors is missing. "
                       "Run `dvc repro download_weights@tiny`, which makes it.")  # fmt: skip


def test_warmup_longer_than_training(here: Here) -> None:
    here.edit("params.yaml", lambda p: p["finetune"].update(warmup_steps=24))
    assert "finetune.warmup_steps 24 is not less than the 24 steps" in here.refused(
        "finetune", "--model", "tiny", "--seed", "1"
    )


def curve(repository: Repository) -> list[float]:
    """The logged losses."""
    rows = (repository.path / CURVE / "plots/metrics/loss.tsv").read_text().splitlines()[1:]
    return [float(row.split("\t")[1]) for row in rows]


def without_dropout(repository: Repository) -> None:
    """Dropout draws other numbers in another process; without it only the order of sums differs."""
    config = repository.path / "models/tokenizers/tiny/config.json"
    text = json.loads(config.read_text())
    config.chmod(0o644)
    config.unlink()  # DVC links it to its cache
    config.write_text(
        json.dumps({**text, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    )


def bare_loop(repository: Repository) -> list[float]:
    """The same training without the Trainer: AdamW, linear warm-up and decay, clipped gradients; mean loss of every 2 steps."""
    import pyarrow.parquet
    from transformers import set_seed

    table = pyarrow.parquet.read_table(repository.path / "data/tokenized/tiny/train.parquet")
    examples = [{"input_ids": torch.tensor(ids), "labels": label}
                for ids, label in zip(table["input_ids"].to_pylist(), table["label"].to_pylist(), strict=True)]  # fmt: skip
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    set_seed(1)
    folder = repository.path / "models"
    model = finetune.load_pretrained(
        folder / "weights/tiny", folder / "tokenizers/tiny", ["NEGATIVE", "POSITIVE"]
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    losses: list[float] = []
    for epoch in range(2):
        order = length_grouped_order(lengths, 8, seed=1, epoch=epoch)
        for start in range(0, len(order), 8):
            step = len(losses)
            optimizer.param_groups[0]["lr"] = 1e-2 * (step / 2 if step < 2 else (24 - step) / 22)
            loss = model(**collate([examples[i] for i in order[start : start + 8]], 0)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    return [(first + second) / 2 for first, second in zip(losses[::2], losses[1::2], strict=True)]


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 2)])
def test_who_computes_a_batch_does_not_change_it(
    copy: Repository, processes: int, accumulation: int
) -> None:
    """1 or 2 processes (gloo), whole or in pieces, a last batch of 5 sentences: the losses of a bare PyTorch loop."""
    import pyarrow.parquet

    without_dropout(copy)
    data = copy.path / "data/tokenized/tiny/train.parquet"
    table = pyarrow.parquet.read_table(data)
    data.unlink()
    pyarrow.parquet.write_table(table.slice(0, 93), data)  # 11 batches of 8 and one of 5
    copy.edit(
        "params.yaml",
        lambda p: p["finetune"].update(processes=processes, accumulation=accumulation),
    )
    runner = Here(copy.path, copy.env) if processes == 1 else copy
    runner.stage("finetune", "--model", "tiny", "--seed", "1", ALLOW_LOOPBACK="1")
    facts = copy.json("environment/tiny-1.json")
    assert (facts["steps"], facts["processes"]) == (24, processes)
    assert curve(copy) == pytest.approx(bare_loop(copy), rel=1e-4)


def test_a_batch_smaller_than_its_parts_is_refused(here: Here) -> None:
    here.edit("params.yaml", lambda p: p["finetune"].update(processes=3, accumulation=3))
    message = here.refused(
        "finetune", "--model", "tiny", "--seed", "1", LOCAL_RANK="0", RANK="0", WORLD_SIZE="3"
    )
    assert message.startswith(
        "params.yaml: finetune: 8 sentence(s) of a batch cannot be cut into 3 x 3"
    )


def test_the_parts_of_all_processes_are_the_batches_of_one() -> None:
    lengths = torch.randint(3, 60, (93,), generator=torch.Generator().manual_seed(0))
    whole = Batches(lengths, 8, seed=1)
    whole.set_epoch(3)
    parts = [
        Batches(lengths, 8, 1, accumulation=2, process=process, processes=2) for process in range(2)
    ]
    for part in parts:
        part.set_epoch(3)
        assert len(part) == len(list(part)) == 24
    first, second = list(parts[0]), list(parts[1])
    for k, batch in enumerate(whole):
        assert sorted(
            first[2 * k] + second[2 * k] + first[2 * k + 1] + second[2 * k + 1]
        ) == sorted(batch)


def test_memory_that_runs_out_names_what_to_change_and_keeps_the_batch() -> None:
    params = finetune.Finetune(learning_rate=1e-3, batch_size=32, epochs=1, warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
                               precision="auto", log_every=1, processes=1, accumulation=2)  # fmt: skip
    message = str(finetune.out_of_memory(params, sentences=67_349))
    assert (
        "out of memory with 16 sentences at a time. Set finetune.accumulation to 4: 8 at a time, and still 32 a step"
        in message
    )
    assert "cannot be cut into more parts" in str(
        finetune.out_of_memory(params, sentences=67_331)
    )  # the last batch: 3 sentences
