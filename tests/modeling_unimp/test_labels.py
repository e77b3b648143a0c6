"""`log_probs` and `loss` against a full computation."""

import pytest
import torch

from .tiny import ANSWER, END, FIRST_ITEM, IMAGE, ITEM, NUM_ITEMS, prompt, tiny_model


def _labelled(*ending):
    inputs = prompt(ITEM, FIRST_ITEM + 4, FIRST_ITEM, END, FIRST_ITEM + 1, ANSWER, 7, 8, 2)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -8:-5] = inputs["input_ids"][0, -8:-5]  # two items and the end of the chunk
    labels[0, -3:] = inputs["input_ids"][0, -3:]  # text
    labels[1, -3:] = torch.tensor([30, 31, 32])  # text that is not what stands there
    labels[2, -5] = FIRST_ITEM + 1
    return inputs, labels


@torch.no_grad()
@pytest.mark.parametrize("tied_items", [True, False])
def test_log_probs_equal_a_full_computation(decoder, tied_items):
    model = tiny_model(decoder, tie_item_embeddings=tied_items)
    inputs, labels = _labelled()
    output = model(**inputs, labels=labels)
    states = model.model(**inputs).last_hidden_state
    head = model.model.item_rows if tied_items else model.item_head
    rows = torch.cat([model.model.markers.weight[1:2], model.compute_item_rows()[1]])
    bias = torch.cat([torch.zeros(1), head.bias])
    expected = torch.zeros(labels.shape)
    for row, position in (labels != -100).nonzero().tolist():
        state, label = states[row, position - 1], labels[row, position].item()
        if label == END or label >= FIRST_ITEM:
            log_probs = (rows @ model.item_norm(state) + bias).log_softmax(-1)
            expected[row, position] = log_probs[0 if label == END else 1 + label - FIRST_ITEM]
        else:
            expected[row, position] = model.text_logits(state).log_softmax(-1)[label]
    torch.testing.assert_close(output.log_probs, expected, rtol=1e-4, atol=1e-5)
    assert (output.log_probs[labels == -100] == 0).all()
    assert output.logits is None
    # And the same as the joint logits that `generate` sees.
    joint = model(**inputs).logits[:, :-1].log_softmax(-1)
    joint = joint.gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0].masked_fill(labels[:, 1:] == -100, 0)
    torch.testing.assert_close(output.log_probs[:, 1:], joint, rtol=1e-4, atol=1e-4)


def _with_later():
    """The labels above and, beside the item labels, one or two that come after them."""
    inputs, labels = _labelled()
    later = torch.full((*labels.shape, 2), -100)
    later[0, -8] = torch.tensor([FIRST_ITEM, FIRST_ITEM + 1])
    later[0, -7, 0] = FIRST_ITEM + NUM_ITEMS - 1
    later[2, -5, 1] = FIRST_ITEM + 3  # the first of two may be the one that is not there
    return inputs, labels, later


@torch.no_grad()
@pytest.mark.parametrize("tied_items", [True, False])
def test_later_log_probs_are_those_of_the_items_at_the_same_position(decoder, tied_items):
    model = tiny_model(decoder, tie_item_embeddings=tied_items)
    inputs, labels, later = _with_later()
    output = model(**inputs, labels=labels, later_labels=later)
    states = model.model(**inputs).last_hidden_state
    rows = model.compute_item_rows()[1]
    expected = torch.zeros(later.shape)
    for row, position, place in (later != -100).nonzero().tolist():
        log_probs = model.item_logits(states[row, position - 1], rows).log_softmax(-1)
        expected[row, position, place] = log_probs[1 + later[row, position, place] - FIRST_ITEM]
    assert (expected != 0).sum() == 4
    torch.testing.assert_close(output.later_log_probs, expected, rtol=1e-4, atol=1e-5)
    # What is asked beside it changes nothing else.
    plain = model(**inputs, labels=labels)
    assert plain.later_log_probs is None
    assert torch.equal(plain.log_probs, output.log_probs)
    assert torch.equal(plain.loss, output.loss)


def test_later_log_probs_have_the_gradient_of_a_naive_loss(model):
    model.set_trainable("all")
    inputs, labels, later = _with_later()

    def gradients(loss):
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    found = gradients(-model(**inputs, labels=labels, later_labels=later).later_log_probs.sum())
    states, rows = model.model(**inputs).last_hidden_state, model.compute_item_rows()[1]
    naive = 0
    for row, position, place in (later != -100).nonzero().tolist():
        target = 1 + later[row, position, place] - FIRST_ITEM
        naive = naive - model.item_logits(states[row, position - 1], rows).log_softmax(-1)[target]
    expected = gradients(naive)
    assert found["model.item_rows.learned"].abs().sum() > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert all(not found[name].any() for name in set(found) - set(expected))


def test_without_a_later_label_there_is_nothing_and_a_connected_graph(model):
    model.set_trainable("all")
    inputs, labels, later = _with_later()
    nothing = torch.full_like(later, -100)
    found = model(**inputs, labels=labels, later_labels=nothing).later_log_probs
    assert found.shape == later.shape
    assert not found.any()
    found = model(**inputs, labels=torch.full_like(labels, -100), later_labels=nothing).later_log_probs
    assert not found.any()
    found.sum().backward()
    assert not model.model.item_rows.bias.grad.any()


def test_loss_is_the_mean_over_labels_or_over_the_global_batch(model):
    inputs, labels = _labelled()
    output = model(**inputs, labels=labels)
    assert (labels != -100).sum() == 10
    torch.testing.assert_close(output.loss, -output.log_probs.sum() / 10)
    for count in (40, torch.tensor(40)):
        torch.testing.assert_close(
            model(**inputs, labels=labels, num_items_in_batch=count).loss, -output.log_probs.sum() / 40
        )


def test_only_labelled_positions_reach_a_vocabulary(model):
    inputs, labels = _labelled()
    projected = []
    model.lm_head.register_forward_hook(lambda module, args, output: projected.append(args[0].shape))
    model(**inputs, labels=labels)
    assert projected == [(6, 32)]


def test_no_labels_at_all_give_0_and_a_connected_graph():
    model = tiny_model(tied=False, tie_item_embeddings=False)
    names = model.set_trainable("all")
    inputs, labels = _labelled()
    inputs["behavior_ids"] = torch.ones(*labels.shape, 1, dtype=torch.long)
    loss = model(**inputs, labels=torch.full_like(labels, -100)).loss
    assert loss == 0
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name in names if gradients[name] is None] == []
    assert all((gradients[name] == 0).all() for name in names)


def test_losses_of_the_kinds_reach_what_they_should(model):
    inputs, labels = _labelled()
    labels[labels >= FIRST_ITEM] = -100
    labels[labels == END] = -100
    model.set_trainable("all")
    model(**inputs, labels=labels).loss.backward()
    assert (model.model.item_rows.bias.grad == 0).all()  # text labels alone: items are not compared
    assert model.lm_head.weight.grad.abs().sum() > 0


def test_a_catalogue_can_be_learned_by_heart(model):
    """A few steps make the labelled next items the best ranked ones."""
    model.set_trainable("new")
    inputs, wanted = prompt(ITEM), torch.tensor([4, 0, 2])
    batch = {**inputs, "input_ids": torch.cat([inputs["input_ids"], FIRST_ITEM + wanted[:, None]], dim=1)}
    batch["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -1] = batch["input_ids"][:, -1]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(80):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    scores, items = model.rank_items(top_k=1, **inputs)
    assert torch.equal(items[:, 0], wanted)
    assert (scores.exp() > 0.8).all()
    assert NUM_ITEMS > 1
    assert IMAGE in batch["input_ids"]
