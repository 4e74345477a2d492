"""Weights cast all at once give the bits of PyTorch's autocast, gradients too."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from reproduce.training.casts import Casts, only_in_linear_layers

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "embedding_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}


class Odd(nn.Module):
    """A linear layer in two places, two of one weight, one on an embedding's, one often unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 16)
        self.one, self.two, self.tied, self.rare = (nn.Linear(16, 16) for _ in range(4))
        self.again = self.one
        self.two.weight, self.tied.weight = self.one.weight, self.embedding.weight
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.calls = 0

    def forward(self, input_ids: Tensor) -> Tensor:
        self.calls += 1
        hidden = self.two(self.again(self.one(self.embedding(input_ids % 16)).relu()))
        hidden = self.tied(hidden)
        if self.calls % 2 == 0:
            hidden = self.rare(hidden)
        out: Tensor = self.frozen(hidden).mean((1, 2))
        return out


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "odd":
        return Odd()
    options = SIZES | {"vocab_size": 50, "pad_token_id": 0, "attn_implementation": "eager"}
    config = AutoConfig.for_model(kind, **options)
    return AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-any-return]


def compute(model: nn.Module, kind: torch.dtype, ours: bool, device: str) -> dict[str, Tensor]:
    """Outputs and gradients of a batch in three pieces, twice, with weights changed between."""
    casts = Casts(model, kind if ours else None)
    torch.manual_seed(1)  # of the dropout
    seen: dict[str, Tensor] = {}
    for turn in range(2):
        casts.refresh()
        for piece in range(3):
            ids = torch.arange(1, 25, device=device).reshape(4, 6) + turn + piece
            with torch.autocast(device, kind, enabled=not ours):
                out: Any = (casts if ours else model)(input_ids=ids)
            out = getattr(out, "logits", out).float()
            out.square().sum().backward()
            casts.add_gradients()
            seen[f"output {turn} {piece}"] = out.detach()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    seen[f"{name} {turn}"] = parameter.grad.clone()
                    parameter.sub_(parameter.grad, alpha=0.1)
                    parameter.grad = None
    return seen


def check(kind: str, dtype: torch.dtype, device: str) -> None:
    """Casts against autocast: the same bits."""
    model = make_model(kind).to(device).train()
    expected = compute(copy.deepcopy(model), dtype, ours=False, device=device)
    found = compute(model, dtype, ours=True, device=device)
    assert found.keys() == expected.keys() and len(found) > 12
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["bert", "albert", "gpt2", "odd"])
def test_the_bits_are_those_of_autocast(kind: str, dtype: torch.dtype) -> None:
    check(kind, dtype, "cpu")


def test_only_what_linear_layers_alone_use_is_cast() -> None:
    names = [name for name, _ in only_in_linear_layers(make_model("odd"))]
    assert names == ["one.bias", "two.bias", "tied.bias", "rare.weight", "rare.bias"]
    cast = Casts(make_model("bert"), torch.bfloat16).copies
    assert len(cast) == 2 * (2 * 6 + 2) and "classifier.weight" in cast
