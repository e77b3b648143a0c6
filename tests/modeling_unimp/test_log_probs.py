"""Log-probabilities in chunks are those of the plain formula, and so are their gradients."""

import pytest
import torch
from torch import nn

from unimp.modeling_unimp import log_probs_unimp
from unimp.modeling_unimp.log_probs_unimp import linear_log_probs


def plain(hidden_states, rows, bias, targets):
    return nn.functional.linear(hidden_states, rows, bias).float().log_softmax(-1).gather(-1, targets)


def with_gradients(function, dtype=torch.float32, positions=7, autocast=False):
    generator = torch.Generator().manual_seed(0)
    shapes = ((positions, 4), (5, 4), (5,))
    leaves = [(3 * torch.randn(shape, generator=generator)).to(dtype).requires_grad_() for shape in shapes]
    targets = torch.randint(0, 5, (positions, 3), generator=generator)
    targets[:, 1] = targets[:, 0]  # one row may be wanted twice
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = function(*leaves, targets)
    (result * torch.randn(result.shape, generator=generator)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("chunk", [1, 10, 1000])  # one position at a time, two with one left over, all at once
def test_values_and_gradients_are_those_of_the_formula(monkeypatch, chunk):
    monkeypatch.setitem(log_probs_unimp.CHUNK, "cpu", chunk)
    for got, expected in zip(with_gradients(linear_log_probs), with_gradients(plain), strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected)


def test_columns_without_gradients_count_all_the_same():
    got, expected = with_gradients(lambda *inputs: linear_log_probs(*inputs, trained_size=3)), with_gradients(plain)
    torch.testing.assert_close(got[0], expected[0])
    for one, other in zip(got[1:3], expected[1:3], strict=True):
        torch.testing.assert_close(one[:, :3], other[:, :3])
        assert not one[:, 3:].any()
        assert other[:, 3:].any()
    torch.testing.assert_close(got[3], expected[3])


def test_a_hand_computed_value():
    log_probs = linear_log_probs(
        torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -1.0]), torch.tensor([[1]])
    )
    assert log_probs.item() == pytest.approx(-0.693147)  # two equal logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_keeps_the_dtypes_and_is_close(monkeypatch, dtype):
    monkeypatch.setitem(log_probs_unimp.CHUNK, "cpu", 10)
    autocast = dtype == torch.float32
    got, expected = (with_gradients(function, dtype, autocast=autocast) for function in (linear_log_probs, plain))
    assert [tensor.dtype for tensor in got] == [torch.float32, dtype, dtype, dtype]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0.02, atol=0.05)


def test_large_logits_do_not_overflow():
    log_probs = linear_log_probs(
        torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]]), torch.zeros(2), torch.tensor([[0, 1]])
    )
    assert log_probs.tolist() == [[0.0, -2e4]]


def test_without_positions_the_gradient_is_zero_and_not_missing():
    for gradient in with_gradients(linear_log_probs, positions=0)[1:]:
        assert not gradient.any()
