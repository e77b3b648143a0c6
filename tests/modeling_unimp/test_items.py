"""Item code rows, ranking and selection."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from unimp.modeling_unimp.items_unimp import UniMPItemContent

from .tiny import (
    END,
    FIRST_ITEM,
    ITEM,
    NUM_ITEMS,
    VOCAB,
    item_embeddings,
    item_texts,
    pictures,
    prompt,
    single,
    tiny_model,
)

KEYS = ("input_ids", "attention_mask")  # of a prompt without pictures


def _unit(row):
    return row / row.norm().clamp(min=1e-12)


def _naive_row(model, position):
    """Learned part plus projected content of one item, step by step."""
    content = model.model.item_content
    embeddings = model.get_input_embeddings().weight
    tokens = [token for token in content.text_ids[position].tolist() if token >= 0]
    text = sum((embeddings[token] for token in tokens), torch.zeros(embeddings.shape[1]))
    image = content.image_embeddings[position]
    if image.any():
        image = (image - content.image_mean) * content.image_scale
    parts = [_unit(text), _unit(image), _unit(content.features[position])]
    rows = model.model.item_rows
    return rows.learned[position] + rows.projection.weight @ torch.cat(parts)


@torch.no_grad()
def test_a_row_is_its_learned_part_plus_its_projected_content():
    model = tiny_model(item_feature_size=7)
    rows, output_rows = model.compute_item_rows()
    assert rows is output_rows
    expected = torch.stack([_naive_row(model, position) for position in range(NUM_ITEMS)])
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)
    model.model.item_content.features[2] += 1
    changed = (model.compute_item_rows()[0] - rows).abs().amax(-1) > 1e-4
    assert changed.tolist() == [position == 2 for position in range(NUM_ITEMS)]


def test_features_are_needed_where_the_config_has_them():
    with pytest.raises(ValueError, match="`features` of width 7"):
        tiny_model(items=0, item_feature_size=7).add_items(item_texts(3))


def test_the_first_items_are_learned_and_later_ones_known_by_content():
    model = tiny_model(items=0)
    model.add_items(item_texts(4), item_embeddings(model, 4))
    assert (model.model.item_rows.learned.std(-1) > 0.1).all()
    model.add_items(item_texts(3, seed=8, length=9))  # longer than `item_text_length`
    assert model.config.num_items == 7
    assert (model.model.item_rows.learned[4:] == 0).all()
    assert model.model.item_content.text_ids.shape == (7, 6)
    assert model(**prompt(ITEM)).logits.shape[-1] == model.config.vocab_size == FIRST_ITEM + 7


@pytest.mark.parametrize("config", [{}, {"item_feature_size": 3}])
def test_a_picture_alone_has_the_row_of_a_new_item_of_which_no_more_is_known(config):
    model = tiny_model(**config)
    pictures = item_embeddings(model, 2)
    no_features = torch.zeros(2, config["item_feature_size"]) if config else None
    model.add_items(torch.full((2, 1), -1), pictures, no_features)
    torch.testing.assert_close(model.picture_rows(pictures), model.compute_item_rows()[0][-2:])


def test_with_semantic_codes_a_picture_is_itself():
    model = tiny_model(items=0, code_sizes=[4, 4])
    pictures = torch.randn(3, model.config.vision_hidden_size)
    model.model.item_codes.image_mean.fill_(0.5)
    model.model.item_codes.image_scale.fill_(3.0)
    torch.testing.assert_close(model.picture_rows(pictures), (pictures - 0.5) * 3)


def test_items_added_later_start_with_the_bias_that_the_config_gives_them():
    model = tiny_model(items=0, new_item_bias=1.5)
    model.add_items(item_texts(4))
    model.add_items(item_texts(2, seed=8))
    assert model.model.item_rows.bias.tolist() == [0.0] * 4 + [1.5] * 2
    plain = tiny_model(items=0)
    plain.add_items(item_texts(4))
    plain.add_items(item_texts(2, seed=8))
    plain.load_state_dict(model.state_dict() | {"model.item_rows.bias": torch.zeros(6)})
    with pytest.raises(ValueError, match="`new_item_bias` must be a finite number, got nan"):
        plain.set_new_item_bias(float("nan"))
    boosted, unboosted = (m.item_logits(torch.ones(1, 32), m.compute_item_rows()[1]) for m in (model, plain))
    torch.testing.assert_close(boosted[0] - unboosted[0], torch.tensor([0.0] * 5 + [1.5] * 2))
    model.set_new_item_bias(-2.0)
    model.add_items(item_texts(1, seed=9))
    assert model.model.item_rows.bias.tolist() == [0.0] * 4 + [-2.0] * 3
    assert model.config.new_item_bias == -2.0


def test_semantic_codes_have_no_bias_of_new_items():
    with pytest.raises(ValueError, match=r"`new_item_bias` 1\.0 has no use"):
        tiny_model(items=0, code_sizes=[4, 4]).set_new_item_bias(1.0)


def changes_of_rows():
    def learn(model):
        model.model.item_rows.learned[0] += 1

    def step(model):
        with torch.enable_grad():
            batch = prompt(ITEM, FIRST_ITEM + 1)
            labels = torch.full_like(batch["input_ids"], -100)
            labels[:, -1] = batch["input_ids"][:, -1]
            model(**batch, labels=labels).loss.backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()

    def load(model):
        model.load_state_dict({name: tensor + 0.1 for name, tensor in model.state_dict().items()}, strict=False)

    return {
        "learned": learn,
        "projection": lambda model: model.model.item_rows.projection.weight.mul_(2),
        "token embeddings": lambda model: model.get_input_embeddings().weight.mul_(2).add_(1),
        "pictures": lambda model: model.model.item_content.image_embeddings.add_(torch.rand(NUM_ITEMS, 1)),
        "texts": lambda model: model.model.item_content.text_ids[:, 0].fill_(3),
        "items added": lambda model: model.add_items(item_texts(2, seed=8)),
        "items replaced": lambda model: model.replace_items([1], item_texts(1, seed=9)),
        "a step": step,
        "weights loaded": load,
        "another table": lambda model: setattr(
            model.model.item_rows, "learned", torch.nn.Parameter(torch.ones(NUM_ITEMS, 32))
        ),
        "another precision": lambda model: model.double(),
    }


@pytest.mark.parametrize("change", changes_of_rows())
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_rows_are_computed_once_until_what_they_are_made_of_changes(change, tied):
    model = tiny_model(tie_item_embeddings=tied)
    rows = model.compute_item_rows()
    assert all(kept is row for kept, row in zip(model.compute_item_rows(), rows, strict=True))
    changes_of_rows()[change](model)
    now = model.compute_item_rows()
    assert not torch.equal(now[0].to(rows[0]), rows[0]) or change == "another precision"
    model.train()
    for row, fresh in zip(now, model.compute_item_rows(), strict=True):
        torch.testing.assert_close(row, fresh)


def test_rows_are_not_those_from_before_a_training_of_fused_steps(model):
    with torch.no_grad():
        before = model.compute_item_rows()[0].clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.train()
    model.compute_item_rows()[0].square().sum().backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        after = model.compute_item_rows()[0]
    assert (after - before).abs().max() > 0.05


def test_rows_are_not_those_from_before_a_fused_step_in_evaluation_mode(model):
    with torch.no_grad():
        before = model.compute_item_rows()[0].clone()
    model.compute_item_rows()[0].square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1, fused=True).step()
    with torch.no_grad():
        assert (model.compute_item_rows()[0] - before).abs().max() > 0.05


@pytest.mark.parametrize(("target", "kept_whole"), [("projection", None), ("q_proj", ["item_rows"])])
@torch.no_grad()
def test_rows_follow_adapters_that_are_switched(model, target, kept_whole):
    plain = model.compute_item_rows()[0]
    settings = LoraConfig(r=2, target_modules=[target], modules_to_save=kept_whole, init_lora_weights=False)
    adapted = get_peft_model(model, settings).eval()
    for name, parameter in adapted.named_parameters():
        if "modules_to_save" in name:
            parameter.add_(1)
    rows = model.compute_item_rows()[0]
    assert (rows - plain).abs().max() > 0.01
    with adapted.disable_adapter():
        torch.testing.assert_close(model.compute_item_rows()[0], plain)
    torch.testing.assert_close(model.compute_item_rows()[0], rows)


def test_rows_that_train_are_never_kept(model):
    with torch.no_grad():
        model.compute_item_rows()
    assert model.compute_item_rows()[0].requires_grad


def test_added_rows_keep_whether_they_train():
    model = tiny_model(items=2)
    model.model.item_rows.requires_grad_(False)
    model.add_items(item_texts(1))
    assert not model.model.item_rows.learned.requires_grad
    assert not model.model.item_rows.bias.requires_grad


@torch.no_grad()
def test_an_item_added_later_is_the_same_item_never_seen():
    picture, text = pictures(1, seed=7), torch.tensor([[9, 8, 7, -1]])
    stranger = tiny_model()
    member = copy.deepcopy(stranger)
    member.add_items(text, member.get_image_features(picture).mean(1))
    ids = torch.tensor([[5, ITEM, FIRST_ITEM + NUM_ITEMS, END, FIRST_ITEM + 1]])
    assert ids[0, 2] == stranger.config.vocab_size
    for index in (None, torch.zeros(1, 0, dtype=torch.long)):
        new = {"new_item_text_ids": text, "new_item_image_index": torch.tensor([0])}
        given = stranger.get_image_features(picture)
        index = torch.full((1, 1), -1) if index is None else index
        logits = stranger(input_ids=ids, image_features=given, image_index=index, **new).logits
        torch.testing.assert_close(logits, member(input_ids=ids).logits[..., :-1])
    without_picture = stranger(input_ids=ids, new_item_text_ids=text).logits
    assert not torch.allclose(without_picture, logits, atol=1e-3)


def test_a_channel_that_never_varied_does_not_drown_the_others(model):
    content = UniMPItemContent(tiny_model(items=0).config)
    embeddings = torch.randn(5, model.config.vision_hidden_size)
    embeddings[:, 3] = 0.25
    content.add(torch.full((5, 6), -1), embeddings, torch.zeros(5, 0))
    new = torch.randn(1, model.config.vision_hidden_size)
    new[0, 3] = 0.26
    no_text, no_features = torch.full((1, 6), -1), torch.zeros(1, 0)
    row = content.encode(model.get_input_embeddings(), no_text, new, no_features)[0, -new.shape[1] :]
    assert row[3] == 0
    assert row.abs().median() > 0.1


@pytest.mark.parametrize("tied_items", [True, False])
@pytest.mark.parametrize("tied_text", [True, False])
def test_frozen_vocabulary_and_item_rows_that_train_on_both_sides(tied_items, tied_text):
    model = tiny_model(tied=tied_text, tie_item_embeddings=tied_items)
    model.set_trainable("new")
    inputs = prompt(ITEM, FIRST_ITEM + 4)  # item 4 is in the labels only; items 0 to 3 and 5 in the history only
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -1] = FIRST_ITEM + 4
    model(**inputs, labels=labels).loss.backward()
    assert model.lm_head.weight.grad is None
    assert model.get_input_embeddings().weight.grad is None
    in_history = torch.tensor([True, True, True, True, False, True])
    on_input = model.model.item_rows.learned.grad.abs().sum(-1)
    on_output = (model.model.item_rows if tied_items else model.item_head).learned.grad.abs().sum(-1)
    assert (on_output > 0).all()  # a softmax reaches every row
    if tied_items:
        assert model.item_head is None
    else:
        assert ((on_input > 0) == (in_history & (torch.arange(6) != 4))).all()
        assert model.item_head.bias.grad.abs().sum() > 0
        assert model.model.item_rows.bias is None
        rows, output_rows = model.compute_item_rows()
        assert not torch.allclose(rows, output_rows)


def test_dropped_items_are_their_content_alone():
    model = tiny_model(item_dropout=0.5)
    full = model.compute_item_rows()[0]
    content = full - model.model.item_rows.learned
    model.train()
    dropped = torch.zeros(NUM_ITEMS)
    for _ in range(100):
        rows = model.compute_item_rows()[0]
        is_dropped = torch.isclose(rows, content, atol=1e-5).all(-1)
        assert (is_dropped | torch.isclose(rows, full, atol=1e-5).all(-1)).all()
        dropped += is_dropped
    assert ((dropped > 25) & (dropped < 75)).all()


def test_behaviors_change_the_output_and_row_0_is_none(model):
    inputs = prompt(ITEM)
    behaviors = torch.zeros(*inputs["input_ids"].shape, 3, dtype=torch.long)
    without = model(**inputs).logits
    assert torch.equal(model(**inputs, behavior_ids=behaviors).logits, without)
    behaviors[2, -3, 1] = 7  # on an item code
    changed = (model(**inputs, behavior_ids=behaviors).logits - without).abs().amax((-1, -2)) > 1e-4
    assert changed.tolist() == [False, False, True]


def test_rank_items(model):
    inputs = prompt(ITEM)
    scores, items = model.rank_items(top_k=NUM_ITEMS, **inputs)
    assert (scores.diff() <= 0).all()
    assert (items.sort().values == torch.arange(NUM_ITEMS)).all()
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(3))
    # The same as the model's logits, normalised over the catalogue.
    logits = model(**inputs).logits[:, -1, FIRST_ITEM:]
    torch.testing.assert_close(model.score_items(**inputs), logits.log_softmax(-1))
    torch.testing.assert_close(scores, logits.log_softmax(-1).gather(1, items))
    best_scores, best_items = model.rank_items(top_k=2, **inputs)
    assert torch.equal(best_items, items[:, :2])
    assert torch.equal(best_scores, scores[:, :2])


def test_rank_items_excludes(model):
    inputs = prompt(ITEM)
    exclude = torch.tensor([[0, 1, 2, 3], [-1, -1, -1, -1], [-1, 5, -1, -1]])
    scores, items = model.rank_items(top_k=100, exclude=exclude, **inputs)
    assert items.shape == (3, NUM_ITEMS)  # more than the catalogue has were asked for
    for row in range(3):
        kept = set(items[row][scores[row] > -torch.inf].tolist())
        assert kept == set(range(NUM_ITEMS)) - set(exclude[row].tolist())
    # Scores are those of the whole catalogue, whatever is excluded.
    torch.testing.assert_close(scores[1], model.rank_items(top_k=100, **inputs)[0][1])


def test_rank_items_refuses_top_k_below_1(model):
    with pytest.raises(ValueError, match="`top_k`"):
        model.rank_items(top_k=0, **prompt(ITEM))


def test_a_left_padded_batch_ranks_as_one_by_one(decoder):
    model = tiny_model(decoder)
    inputs = prompt(ITEM)
    scores, items = model.rank_items(top_k=NUM_ITEMS, **inputs)
    for row in range(3):
        alone_scores, alone_items = model.rank_items(top_k=NUM_ITEMS, **single(inputs, row))
        assert torch.equal(alone_items[0], items[row])
        torch.testing.assert_close(alone_scores[0], scores[row], rtol=1e-4, atol=1e-4)


def test_select_items_chooses_candidates_none_twice(model):
    inputs = prompt(ITEM)
    lengths = set()
    for seed in range(10):
        torch.manual_seed(seed)
        nn.init.normal_(model.model.item_rows.learned)
        nn.init.normal_(model.model.markers.weight)
        candidates = [torch.randperm(NUM_ITEMS)[:size].tolist() for size in (3, 1, 5)]
        for chosen, offered in zip(model.select_items(candidates, **inputs), candidates, strict=True):
            assert 1 <= len(chosen) == len(set(chosen))
            assert set(chosen) <= set(offered)
            lengths.add(len(chosen))
        alone = model.select_items([candidates[2]], **{key: value[2:] for key, value in inputs.items() if key in KEYS})
        assert alone[0] == chosen
    assert len(lengths) > 2


@torch.no_grad()
def test_select_items_is_greedy(model):
    """The first choice is the best candidate; the answer stops when the end of the chunk beats those left."""
    inputs = {key: value[2:] for key, value in prompt(ITEM).items() if key in KEYS}
    candidates = [0, 2, 4]
    chosen, ids = [], inputs["input_ids"]
    while True:
        logits = model(input_ids=ids[:, ids[0].ne(0)]).logits[0, -1]
        options = [FIRST_ITEM + item for item in candidates if item not in chosen] + ([END] if chosen else [])
        best = max(options, key=lambda token: logits[token].item())
        if best == END:
            break
        chosen.append(best - FIRST_ITEM)
        ids = torch.cat([ids, torch.tensor([[best]])], dim=1)
    assert model.select_items([candidates], **inputs) == [chosen]


def test_select_items_ignores_the_settings_for_text(model):
    inputs = prompt(ITEM)
    expected = model.select_items([[0, 1, 3]] * 3, **inputs)
    model.generation_config.update(repetition_penalty=1e6, num_beams=4, temperature=0.1, min_new_tokens=4)
    assert model.select_items([[0, 1, 3]] * 3, **inputs) == expected


def test_select_items_refuses_a_sample_without_candidates(model):
    with pytest.raises(ValueError, match="`candidates`"):
        model.select_items([[1], [], [2]], **prompt(ITEM))


def test_a_catalogue_of_nothing():
    model = tiny_model(items=0)
    assert model(**prompt(ITEM, samples=([5, 6],))).logits.shape[-1] == FIRST_ITEM
    assert VOCAB + 4 == model.config.first_item_id == model.config.vocab_size
