"""The weights of linear layers in bf16 or fp16, all cast at once.

Autocast casts each weight by a kernel of its own, and its gradient back by another: a fifth of a
step's kernels. Here it finds copies that are cast already. The bits are the same.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Casts:
    """Copies of what one linear layer alone uses: autocast casts that. The rest is left to it.

    Args:
        kind: bfloat16 or float16; None: the model computes in fp32, there is nothing to cast.
    """

    def __init__(self, model: nn.Module, kind: torch.dtype | None) -> None:
        self.model, self.kind = model, kind
        weights = dict(only_in_linear_layers(model)) if kind else {}
        self.copies = {name: w.detach().to(kind).requires_grad_() for name, w in weights.items()}
        self.pairs = [(weight, self.copies[name]) for name, weight in weights.items()]

    def refresh(self) -> None:
        """Cast the weights, as they are now."""
        if self.pairs:
            weights, copies = zip(*self.pairs, strict=True)
            with torch.no_grad():
                torch._foreach_copy_(copies, weights)

    def __call__(self, **inputs: Tensor) -> Any:
        """What the model gives, its matrix products computed in `kind`."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, self.kind, enabled=self.kind is not None):
            call = torch.func.functional_call
            return call(self.model, self.copies, kwargs=inputs, tie_weights=False)

    def add_gradients(self) -> None:
        """After a backward pass: the copies' gradients become the weights', in fp32."""
        first, again = [], []  # again: by the next pieces of a batch
        for weight, copy in self.pairs:
            if copy.grad is None:
                continue  # not used for these sentences
            if weight.grad is None:
                weight.grad = torch.empty_like(weight)
                first.append((weight.grad, copy.grad))
            else:
                again.append((weight.grad, copy.grad))
            copy.grad = None
        for pairs, put in ((first, torch._foreach_copy_), (again, torch._foreach_add_)):
            if pairs:
                put([into for into, _ in pairs], [gradient for _, gradient in pairs])


def only_in_linear_layers(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and trained parameters, weights and biases, that one linear layer has and no other."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            for own, parameter in module.named_parameters(name, recurse=False):
                if parameter.requires_grad and owners[id(parameter)] == 1:
                    yield own, parameter
