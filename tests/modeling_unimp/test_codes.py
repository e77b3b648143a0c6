"""Semantic item codes: tokens by level, codes of new items, and what is saved of them."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unimp import UniMPConfig, UniMPForConditionalGeneration
from unimp.modeling_unimp import codes_unimp
from unimp.modeling_unimp.codes_unimp import UniMPItemCodes

from .test_checkpoints import _in_a_fresh_process
from .tiny import END, FIRST_ITEM, ITEM, VOCAB, item_texts, left_pad, pictures, prompt, text_config, tiny_model

SIZES = [3, 2, 2]
NUM_ITEMS = 6
STARTS = [0, 3, 5]


def tokens(*codes: int) -> list[int]:
    """The tokens of an item with these codes."""
    return [FIRST_ITEM + start + code for start, code in zip(STARTS, codes, strict=True)]


def semantic_model(decoder: str = "llama", **config) -> UniMPForConditionalGeneration:
    """Six items with the codes (0, 0, 0), (0, 0, 1), (0, 1, 0), ... and codebooks that texts and pictures reach."""
    model = tiny_model(decoder, items=0, num_items=NUM_ITEMS, code_sizes=SIZES, **config)
    codes = model.model.item_codes
    embeddings = model.get_image_features(pictures(8, seed=9)).mean(1)
    texts, features = item_texts(8, seed=10), torch.randn(8, model.config.item_feature_size)
    codes.start(model.get_input_embeddings(), texts, embeddings)
    embedded = codes.code_embeddings(texts, embeddings, features)
    centroids = torch.zeros_like(codes.centroids)
    centroids[0, :3], centroids[1, :2] = embedded[:3], embedded[3:5] - embedded[:2]
    codes.set_centroids(centroids, embedded)
    return model


@pytest.fixture
def model() -> UniMPForConditionalGeneration:
    return semantic_model()


# Config


def test_sizes_and_token_ids():
    config = UniMPConfig(text_config=text_config(), num_items=5, code_sizes=[4, 3, 2])
    assert (config.code_levels, config.num_code_rows, config.level_sizes) == (3, 9, [4, 3, 2])
    assert config.level_starts == [0, 4, 7]
    assert config.vocab_size == config.first_item_id + 9
    atomic = UniMPConfig(text_config=text_config(), num_items=5)
    assert (atomic.code_levels, atomic.num_code_rows, atomic.level_sizes, atomic.level_starts) == (1, 5, [5], [0])


@pytest.mark.parametrize("sizes", [[4], [], [4, 0], [-1, 3]])
def test_sizes_that_make_no_code_are_refused(sizes):
    with pytest.raises(Exception, match="`code_sizes` must be at least two"):
        UniMPConfig(code_sizes=sizes)


def test_more_items_than_codes_are_refused():
    with pytest.raises(Exception, match=r"`code_sizes` \[2, 2\] make 4 codes, too few for 5"):
        UniMPConfig(num_items=5, code_sizes=[2, 2])


def test_items_have_no_rows_of_their_own(model):
    assert model.model.item_content is None
    assert model.model.item_codes.codes.tolist()[:3] == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    rows, output_rows = model.compute_item_rows()
    assert rows.shape == (7, 32)
    assert rows is output_rows is model.model.item_rows.learned


# Tokens and probabilities


def test_what_follows_a_token_is_the_next_level(model):
    new = model.config.vocab_size  # the first token of a never-seen item; it has three
    ids = torch.tensor([[7, END, ITEM, *tokens(2, 1, 0), new, new + 1, new + 2, new + 3, 8]])
    assert model._next_levels(ids).tolist() == [[-1, 0, 0, 1, 2, 0, 1, 2, 0, 1, -1]]


def _naive_log_probs(model, state, level, with_end):
    """Of a level's codes, after the end of the chunk if it may follow."""
    state, start = model.item_norm(state), STARTS[level]
    head = model.model.item_rows if model.item_head is None else model.item_head
    rows, bias = head.learned[start : start + SIZES[level]], head.bias[start : start + SIZES[level]]
    if with_end:
        rows, bias = torch.cat([model.model.markers.weight[1:2], rows]), torch.cat([torch.zeros(1), bias])
    return (rows @ state + bias).log_softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("tied_items", [True, False])
def test_each_label_is_compared_with_the_codes_of_its_level(decoder, tied_items):
    model = semantic_model(decoder, tie_item_embeddings=tied_items)
    rows = ([5, ITEM, *tokens(2, 1, 0), *tokens(0, 1, 1), END], [9, 8, 7, 6, END, *tokens(1, 0, 1), 4])
    inputs = left_pad(*rows)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] < VOCAB, -100)
    labels[0, 1] = labels[1, -5] = -100  # the markers that something follows
    output = model(**inputs, labels=labels)
    states = model.model(**inputs).last_hidden_state
    expected = torch.zeros(labels.shape)
    for row, first, codes in ((0, 2, (2, 1, 0)), (0, 5, (0, 1, 1)), (1, 5, (1, 0, 1))):
        for level, code in enumerate(codes):
            state = states[row, first + level - 1]
            expected[row, first + level] = _naive_log_probs(model, state, level, level == 0)[code + (level == 0)]
            without_end = _naive_log_probs(model, state, level, False)
            torch.testing.assert_close(model.level_log_probs(state, level, model.compute_item_rows()[1]), without_end)
    expected[0, -1] = _naive_log_probs(model, states[0, -2], 0, True)[0]
    assert (expected != 0).sum() == 10
    torch.testing.assert_close(output.log_probs, expected, rtol=1e-4, atol=1e-5)
    # And the same as the joint logits, which rule out every other level.
    joint = model(**inputs).logits
    picked = joint[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
    torch.testing.assert_close(
        output.log_probs[:, 1:], picked.masked_fill(labels[:, 1:] == -100, 0), rtol=1e-4, atol=1e-4
    )
    possible = (joint[0, 2] > torch.finfo(joint.dtype).min).nonzero()[:, 0]
    assert possible.tolist() == [FIRST_ITEM + 3, FIRST_ITEM + 4]


@torch.no_grad()
def test_later_labels_stand_beside_first_codes(model):
    inputs = left_pad([5, ITEM, *tokens(2, 1, 0), *tokens(0, 1, 1)])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] < FIRST_ITEM, -100)
    later = torch.full((*labels.shape, 2), -100)
    later[0, 2] = torch.tensor([tokens(0, 1, 1)[0], tokens(1, 0, 0)[0]])
    found = model(**inputs, labels=labels, later_labels=later).later_log_probs
    log_probs = _naive_log_probs(model, model.model(**inputs).last_hidden_state[0, 1], 0, True)
    torch.testing.assert_close(found[0, 2], log_probs[[1, 2]])
    assert found.count_nonzero() == 2


def test_a_catalogue_can_be_learned_by_heart(model):
    model.set_trainable("new")
    wanted = model.model.item_codes.codes[[4, 0, 3]].long() + torch.tensor(STARTS) + FIRST_ITEM
    inputs = prompt(ITEM, samples=([11, 12], [21, FIRST_ITEM, 22], [31, 32, 33]))
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    batch = {
        "input_ids": torch.cat([inputs["input_ids"], wanted], dim=1),
        "attention_mask": nn.functional.pad(inputs["attention_mask"], (0, 3), value=1),
    }
    labels = batch["input_ids"].clone()
    labels[:, :-3] = -100
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(80):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    scores, items = model.rank_items(top_k=1, **inputs)
    assert items[:, 0].tolist() == [4, 0, 3]
    assert (scores.exp() > 0.7).all()


# Codes of new items


def codebooks(sizes: list[int], centroids: list[list[list[float]]]) -> UniMPItemCodes:
    """With pictures of two channels and nothing else; those that there are already have no items."""
    config = UniMPConfig(text_config=text_config(), vision_hidden_size=2, code_sizes=sizes)
    codes = UniMPItemCodes(config, row_size=0)
    codes.centroids = torch.zeros_like(codes.centroids)
    for level, rows in enumerate(centroids):
        codes.centroids[level, : len(rows)] = torch.tensor(rows)
    return codes


TWO_LEVELS = [[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 1.0], [0.0, 3.0]]]


def test_codes_by_hand():
    """(9, 3) is nearest to (10, 0), which leaves (-1, 3): nearest to (0, 3)."""
    codes = codebooks([2, 3, 2], TWO_LEVELS)
    embeddings = torch.tensor([[9.0, 3.0], [0.0, 0.8], [10.0, 0.0], [9.5, 2.9]])
    assert codes.nearest(embeddings).tolist() == [[1, 2], [0, 1], [1, 0], [1, 2]]
    assert codes.assign(embeddings).tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0], [1, 2, 1]]


def test_the_blocks_of_a_large_catalogue_make_no_difference(monkeypatch):
    embeddings = torch.randn(50, 2) * 5
    codes = codebooks([2, 3, 60], TWO_LEVELS)
    whole = codes.assign(embeddings)
    monkeypatch.setattr(codes_unimp, "BLOCK_SIZE", 7)
    assert torch.equal(codes.assign(embeddings), whole)
    assert len(whole.unique(dim=0)) == 50


def test_further_items_take_the_next_free_numbers():
    codes = codebooks([2, 3, 3], TWO_LEVELS)
    codes.add(torch.tensor([[9.0, 3.0], [0.0, 0.0]]))
    codes.add(torch.tensor([[9.0, 3.0], [0.0, 0.0], [10.0, 3.0]]))
    assert codes.codes.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [0, 0, 1], [1, 2, 2]]
    assert codes.codes.dtype == torch.int32


def test_where_a_cell_is_full_the_next_nearest_with_room_is_taken():
    """Around (0, 0.6) the codes of the second level come in the order 1, 0, 2."""
    codes = codebooks([2, 3, 1], TWO_LEVELS)
    codes.add(torch.tensor([[0.0, 0.6]]))
    codes.add(torch.tensor([[0.0, 0.6], [0.0, 0.6]]))
    assert codes.codes.tolist() == [[0, 1, 0], [0, 0, 0], [0, 2, 0]]
    # Below the first level's nearest all is full: of (-10, 0.6), which the other one leaves, 1 is the nearest again.
    codes.add(torch.tensor([[0.0, 0.6]]))
    codes.add(torch.tensor([[10.0, 0.6], [0.0, 0.6]]))
    assert codes.codes.tolist()[3:] == [[1, 1, 0], [1, 0, 0], [1, 2, 0]]


def test_as_many_items_as_there_are_codes_fit_and_not_one_more():
    codes = codebooks([2, 3, 2], TWO_LEVELS)
    codes.add(torch.tensor([[0.0, 0.6]]).repeat(12, 1))
    assert len(codes.codes.unique(dim=0)) == 12
    with pytest.raises(ValueError, match=r"`code_sizes` \[2, 3, 2\] make 12 codes, too few for 13 items"):
        codes.add(torch.tensor([[0.0, 0.6]]))
    assert len(codes.codes) == 12


def test_many_spilled_items_all_differ():
    codes = codebooks([2, 3, 4], TWO_LEVELS)
    codes.add(torch.tensor([[0.0, 0.6]]).repeat(7, 1))
    codes.add(torch.tensor([[0.0, 0.6], [0.0, 2.9]] * 2))
    assert len(codes.codes.unique(dim=0)) == 11
    assert (codes.codes < torch.tensor([2, 3, 4])).all()


def test_codebooks_of_another_shape_are_refused():
    codes = codebooks([2, 3, 2], TWO_LEVELS)
    with pytest.raises(ValueError, match=r"`centroids` must be of shape \(2, 3, 2\), got \(2, 2, 2\)"):
        codes.set_centroids(torch.zeros(2, 2, 2), torch.zeros(1, 2))


def test_kept_variance_by_hand():
    """Around their mean (2, 0) the points vary by 4 + 4; the centroids leave 1 of each: 1 - 2 / 8."""
    codes = codebooks([2, 1, 2], TWO_LEVELS[:1])
    codes.set_centroids(torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 0.0]] * 2]), torch.tensor([[0.0, 0], [4.0, 0]]))
    assert codes.kept_variance == pytest.approx(0.75)


@torch.no_grad()
def test_what_codes_are_made_of_stays_while_the_decoder_trains(model):
    codes, texts, features = model.model.item_codes, item_texts(5), torch.zeros(5, 0)
    images = model.get_image_features(pictures(5)).mean(1)
    before = codes.code_embeddings(texts, images, features)
    model.get_input_embeddings().weight.add_(torch.randn_like(model.get_input_embeddings().weight))
    assert torch.equal(codes.code_embeddings(texts, images, features), before)
    assert before.shape == (5, 32 + 24)
    torch.testing.assert_close(before[:4, :32].norm(dim=-1), torch.ones(4))
    assert not before[4, :32].any()  # no text
    torch.testing.assert_close(before[:, 32:].norm(dim=-1), torch.ones(5))


def test_what_every_text_says_does_not_count():
    """Of three items all have token 3, two of them token 4 (one twice) and one token 5."""
    config = UniMPConfig(text_config=text_config(), vision_hidden_size=2, code_sizes=[2, 2])
    codes, embedding = UniMPItemCodes(config, row_size=8), nn.Embedding(VOCAB, 8)
    codes.start(embedding, torch.tensor([[3, 4, 4], [4, 3, -1], [5, 3, -1]]), torch.zeros(3, 2))
    weights = codes.token_vectors[:, 0] / embedding.weight[:, 0].detach()
    torch.testing.assert_close(weights[[3, 4, 5, 6]].exp(), torch.tensor([1.0, 4 / 3, 2.0, 4.0]))
    embedded = codes.code_embeddings(torch.tensor([[3, 5], [5, -1]]), torch.zeros(2, 2), torch.zeros(2, 0))
    torch.testing.assert_close(embedded[0], embedded[1])


def test_a_wide_decoder_is_projected_always_alike():
    config = UniMPConfig(text_config=text_config(), vision_hidden_size=2, code_sizes=[2, 2])
    embedding = nn.Embedding(VOCAB, 256)
    first, second = (UniMPItemCodes(config, row_size=256) for _ in range(2))
    for codes in (first, second):
        codes.start(embedding, torch.full((1, 3), -1), torch.zeros(1, 2))
    assert first.token_vectors.shape == (VOCAB, 64)
    assert torch.equal(first.token_vectors, second.token_vectors)
    wide, narrow = (
        nn.functional.normalize(rows) @ nn.functional.normalize(rows).T
        for rows in (embedding.weight, first.token_vectors)
    )
    assert torch.corrcoef(torch.stack([wide.flatten(), narrow.flatten()]))[0, 1] > 0.5  # who is like whom remains


@torch.no_grad()
def test_an_item_never_seen_reads_as_one_that_was_added():
    """As the first of its kind: with 0 as its last code."""
    stranger = semantic_model()
    stranger.model.item_codes.codes = stranger.model.item_codes.codes[:0]
    stranger.config.num_items = 0
    picture, text = pictures(1, seed=7), torch.tensor([[9, 8, 7, -1]])
    given = stranger.get_image_features(picture)
    member = copy.deepcopy(stranger)
    member.config.catalog_fingerprint = "0123"
    member.add_items(text, given.mean(1))
    assert member.config.num_items == 1
    assert member.config.catalog_fingerprint is None
    [codes] = member.model.item_codes.codes.tolist()
    assert codes[-1] == 0
    first = stranger.config.vocab_size
    assert first == member.config.vocab_size  # items take no rows
    ids = torch.tensor([[5, ITEM, first, first + 1, first + 2, END, *tokens(1, 0, 1)]])
    inputs = {"image_features": given, "image_index": torch.tensor([[-1]])}
    new = {"new_item_text_ids": text, "new_item_image_index": torch.tensor([0])}
    logits = stranger(input_ids=ids, **inputs, **new).logits
    ids[0, 2:5] = torch.tensor(tokens(*codes))
    assert torch.equal(logits, member(input_ids=ids, **inputs).logits)
    ids[0, 2:5] = torch.tensor(tokens(codes[0], 1 - codes[1], 0))
    assert not torch.allclose(logits, member(input_ids=ids, **inputs).logits, atol=1e-3)


def test_replaced_items_keep_their_codes(model):
    before = model.model.item_codes.codes.clone()
    model.replace_items([1, 4], item_texts(2), torch.randn(2, model.config.vision_hidden_size))
    assert torch.equal(model.model.item_codes.codes, before)


# Saving and loading


def _grown() -> UniMPForConditionalGeneration:
    model = semantic_model(item_feature_size=3)
    model.add_items(item_texts(2, seed=11), model.get_image_features(pictures(2, seed=12)).mean(1), torch.randn(2, 3))
    return model


def test_save_and_load_is_exact(tmp_path):
    model = _grown()
    model.save_pretrained(tmp_path)
    loaded = UniMPForConditionalGeneration.from_pretrained(tmp_path)
    expected, state = model.state_dict(), loaded.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert loaded.config.code_sizes == SIZES
    assert loaded.config.num_items == 8
    text, features = item_texts(3, seed=13), torch.randn(3, 3)
    model.add_items(text, features=features)
    loaded.add_items(text, features=features)
    assert torch.equal(loaded.model.item_codes.codes, model.model.item_codes.codes)


def test_a_copied_folder_works_without_our_package(tmp_path):
    model, folder, cache = semantic_model(), tmp_path / "copied", tmp_path / "cache"
    cache.mkdir()
    model.save_pretrained(folder)
    assert (folder / "codes_unimp.py").is_file()
    inputs = prompt(ITEM)
    with torch.no_grad():
        torch.save({**inputs, "expected": model(**inputs).logits}, folder / "inputs.pt")
    result = _in_a_fresh_process(folder, tmp_path / "again", cache)
    assert all(same for _, _, same in (result[name] for name in result if name != "ranked"))
    assert result["ranked"] == model.rank_items(top_k=3, **inputs)[1][0].tolist()


@pytest.mark.parametrize("part", ["codes", "centroids", "token_vectors", "image_mean", "image_scale"])
def test_a_part_missing_from_the_checkpoint_starts_anew(tmp_path, part):
    model = semantic_model()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[f"model.item_codes.{part}"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    codes = UniMPForConditionalGeneration.from_pretrained(tmp_path).model.item_codes
    if part == "codes":  # at least legal
        assert torch.equal(codes.codes, model.model.item_codes.codes)
    else:
        assert (getattr(codes, part) == (part == "image_scale")).all()
