"""The loss against formulas that can be followed by hand."""

import math

import pytest
import torch

from unimp.training.loss import token_weighted_loss
from unimp.training.mixture import UniMPCollator


def test_without_gamma_it_is_weighted_cross_entropy():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, -100, 3, 4], [-100, 0, 6, -100, 5]])
    weights = torch.tensor([2.0, 0.5])[:, None] * (labels != -100)
    picked = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    loss = token_weighted_loss(picked, weights, gamma=0.0, num_tokens=7)
    first = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum")
    second = torch.nn.functional.cross_entropy(logits[1], labels[1], reduction="sum")
    assert loss.item() == pytest.approx((2 * first + 0.5 * second).item() / 7)


def test_gamma_2_by_hand():
    # Weight 3 and p = 1/4, weight 1 and p = 1/2, over 2 tokens:
    #   loss = (3 * (3/4)^2 * ln 4 + 1 * (1/2)^2 * ln 2) / 2
    # With l = log p, d/dl [-(1 - e^l)^2 l] = 2 (1 - p) p l - (1 - p)^2:
    #   first  3 * (2 * 3/4 * 1/4 * -ln 4 - 9/16) / 2
    #   second 1 * (2 * 1/2 * 1/2 * -ln 2 - 1/4) / 2
    log_probs = torch.tensor([1 / 4, 1 / 2], dtype=torch.float64).log().requires_grad_()
    loss = token_weighted_loss(log_probs, torch.tensor([3.0, 1.0]), gamma=2.0, num_tokens=2)
    loss.backward()
    assert loss.item() == pytest.approx((3 * 9 / 16 * math.log(4) + 1 / 4 * math.log(2)) / 2)
    first = 3 * (-3 / 8 * math.log(4) - 9 / 16) / 2
    second = (-1 / 2 * math.log(2) - 1 / 4) / 2
    assert log_probs.grad.tolist() == pytest.approx([first, second])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_certain_tokens_have_no_loss_and_finite_gradients(gamma):
    log_probs = torch.tensor([0.0, -1e-9, -50.0], requires_grad=True)
    loss = token_weighted_loss(log_probs, torch.ones(3), gamma, num_tokens=3)
    loss.backward()
    assert loss.item() == pytest.approx(50 / 3, rel=1e-4)
    assert log_probs.grad.isfinite().all()


def test_unlabelled_tokens_do_not_count():
    log_probs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    token_weighted_loss(log_probs, torch.tensor([1.0, 0.0, 1.0]), 2.0, num_tokens=2).backward()
    assert log_probs.grad[1] == 0


def test_a_batch_without_labels_has_a_loss_of_0():
    assert token_weighted_loss(torch.zeros(2, 3), torch.zeros(2, 3), 2.0, num_tokens=0) == 0


def test_weights_are_the_tasks_times_the_roles(processor):
    item = processor.catalog.item_ids[0]
    collator = UniMPCollator(processor, {"recommend": 2.0, "explain": 0.5}, {"rating": 3.0, "explanation": 0.25})
    batch = collator(
        [
            {"task": "recommend", "sample": {"history": [], "answer": item}},
            {
                "task": "explain",
                "sample": {"history": [], "item": {"item_id": item, "rating": 4.0, "explanation": "so soft"}},
            },
        ]
    )
    expected = {("recommend", "item"): 2.0, ("explain", "rating"): 0.5 * 3.0, ("explain", "explanation"): 0.5 * 0.25}
    got = {
        (task, UniMPCollator.ROLES[role]): weight.item()
        for task, roles, weights in zip(("recommend", "explain"), batch["roles"], batch["loss_weights"], strict=True)
        for role, weight in zip(roles.tolist(), weights, strict=True)
        if role
    }
    assert got == expected
    assert ((batch["loss_weights"] > 0) == (batch["labels"] != -100)).all()
