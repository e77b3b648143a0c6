"""Log-probabilities of labels over a table of rows, without ever holding all logits."""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

# Logits at a time. On a CPU they then stay in its cache, which is what makes this fast there.
CHUNK = {"cpu": 2**20}
CHUNK_ELSEWHERE = 2**26


def linear_log_probs(
    hidden_states: torch.Tensor,
    rows: torch.Tensor,
    bias: torch.Tensor,
    targets: torch.Tensor,
    trained_size: int | None = None,
) -> torch.Tensor:
    """
    `linear(hidden_states, rows, bias).float().log_softmax(-1).gather(-1, targets)` in memory that does not grow with
    positions times rows: a few positions at a time, and once more in the backward pass.

    Args:
        hidden_states (`torch.Tensor` of shape `(positions, hidden_size)`): what predicts.
        rows (`torch.Tensor` of shape `(rows, hidden_size)`): what can be predicted.
        bias (`torch.Tensor` of shape `(rows,)`): added to the logits.
        targets (`torch.LongTensor` of shape `(positions, targets)`): rows whose log-probability is wanted.
        trained_size (`int`, *optional*): how many first columns of states and rows get gradients, if not all do.

    Returns:
        `torch.Tensor` of shape `(positions, targets)`, in float32.
    """
    device, dtype = hidden_states.device.type, hidden_states.dtype
    if torch.is_autocast_enabled(device):  # which a backward pass written out here would not know of
        dtype = torch.get_autocast_dtype(device)
    return _LinearLogProbs.apply(hidden_states, rows, bias, targets, trained_size, dtype)


def _chunks(hidden_states: torch.Tensor, rows: torch.Tensor) -> list[slice]:
    step = max(1, CHUNK.get(hidden_states.device.type, CHUNK_ELSEWHERE) // len(rows))
    return [slice(start, start + step) for start in range(0, len(hidden_states), step)]


class _LinearLogProbs(torch.autograd.Function):
    """Products in `dtype`, everything else in float32; gradients in the dtypes of the inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        rows: torch.Tensor,
        bias: torch.Tensor,
        targets: torch.Tensor,
        trained_size: int | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        norms = hidden_states.new_empty(len(targets), 1, dtype=torch.float32)
        ctx.save_for_backward(hidden_states, rows, bias, targets, norms)
        ctx.trained_size, ctx.dtype = trained_size, dtype
        hidden_states, rows, bias = (tensor.to(dtype) for tensor in (hidden_states, rows, bias))
        picked = norms.new_empty(targets.shape)
        for chunk in _chunks(hidden_states, rows):
            logits = nn.functional.linear(hidden_states[chunk], rows, bias).float()
            picked[chunk] = logits.gather(-1, targets[chunk])
            highest = logits.amax(-1, keepdim=True)
            norms[chunk] = logits.sub_(highest).exp_().sum(-1, keepdim=True).log_().add_(highest)
        return picked.sub_(norms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *inputs, targets, norms = ctx.saved_tensors
        hidden_states, rows, bias = (tensor.to(ctx.dtype) for tensor in inputs)
        of_hidden_states, of_rows, of_bias = gradients = [torch.zeros_like(tensor).float() for tensor in inputs]
        trained = (slice(None), slice(ctx.trained_size))
        total = gradient.sum(-1, keepdim=True)
        for chunk in _chunks(hidden_states, rows):
            logits = nn.functional.linear(hidden_states[chunk], rows, bias).float()
            probabilities = logits.sub_(norms[chunk]).exp_()
            of_logits = probabilities.mul_(-total[chunk]).scatter_add_(-1, targets[chunk], gradient[chunk])
            of_bias += of_logits.sum(0)
            of_logits = of_logits.to(ctx.dtype)
            of_hidden_states[chunk][trained] = (of_logits @ rows[trained]).float()
            of_rows[trained] += of_logits.T @ hidden_states[chunk][trained]
        return *(of.to(tensor.dtype) for of, tensor in zip(gradients, inputs, strict=True)), None, None, None
