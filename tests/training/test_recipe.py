"""From a store to a model and a processor that fit each other."""

import copy
import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetModel,
    ViTImageProcessorPil,
)

from unimp.processing.catalog_unimp import flatten_attributes
from unimp.processing.splits import sequences, user_holdout
from unimp.processing.store import make_store
from unimp.training.item_encoder import encode_texts
from unimp.training.neighbours import find_neighbours
from unimp.training.recipe import ModelArguments, build, load, store_texts, train_tokenizer

from .conftest import TINY


def test_model_and_processor_fit(built, store):
    model, processor = built
    assert model.config.num_items == len(processor.catalog) == len(store.items)
    assert model.config.num_behaviors == processor.num_behaviors
    assert processor.text_vocab_size == model.config.text_config.vocab_size
    assert processor.rating_range == [1.0, 5.0]
    assert processor.behavior_kinds == ["click", "purchase", "view"]


def test_building_is_repeatable(build_model):
    first, second = (build_model()[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_picture_looks_the_same_whatever_it_is_encoded_with(built):
    model, processor = built
    together = processor.encode_pictures(model).values
    torch.testing.assert_close(processor.encode_pictures(model, batch_size=1).values, together, rtol=1e-4, atol=1e-4)


def test_any_text_can_be_written():
    tokenizer = train_tokenizer(["red shoes", "blue shoes"], 300)
    for text in ("red shoes", "Ünïcode ☃ 日本", " leading"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_sees_every_kind_of_text(store):
    texts = set(store_texts(store))
    assert f": {next(t for t in store.interactions['explanation'] if t)}" in texts
    assert "4.5" in texts
    assert any(text.startswith("title: ") for text in texts)


def bare_store():
    """No picture, no attribute, no rating, and a picture that cannot be read."""
    items = Dataset.from_list(
        [{"item_id": f"i{n}", "image": None} for n in range(4)] + [{"item_id": "bad", "image": b"?"}]
    )
    events = [{"user_id": "u", "item_id": f"i{n}", "timestamp": n} for n in range(4)]
    return make_store(Dataset.from_list(items), Dataset.from_list(events))


def test_a_store_with_nothing_but_ids(caplog):
    model, processor = build(bare_store(), ModelArguments(**TINY))
    assert model.config.num_items == 5
    assert processor.rating_range == [1.0, 5.0]
    assert processor.behavior_kinds == []
    assert "pictures could not be read" in caplog.text


def test_pretrained_backbones(store, tmp_path, caplog):
    tokenizer = train_tokenizer(store_texts(store), 400)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 8, **sizes))
    text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    vision = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic"))
    vision.save_pretrained(tmp_path / "vision")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vision")
    backbones = {"vision": str(tmp_path / "vision"), "text": str(tmp_path / "text"), "num_latents": 2}
    model, processor = build(store, ModelArguments(**backbones, full_chunks=1))
    assert not [record for record in caplog.records if "full_chunks" in record.message]
    assert model.config.num_items == len(store.items)
    assert processor.text_vocab_size == len(tokenizer) + 8
    kept = model.model.language_model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(kept, text.model.layers[0].self_attn.q_proj.weight)
    assert processor([{"history": [store.items["item_id"][0]]}])["pixel_values"].shape[-2:] == (32, 32)
    build(store, ModelArguments(**backbones))
    assert "beside `text` give it some" in caplog.text


def test_visual_prompts_of_codes_alone_are_warned_of(store, caplog):
    arguments = ModelArguments(**TINY | {"full_chunks": 0, "cross_attention_every": 0, "visual_prompt_tokens": 2})
    build(store, arguments)
    assert "beside `visual_prompt_tokens` give it some" in caplog.text


def test_a_decoder_without_a_vision_encoder_is_refused():
    with pytest.raises(ValueError, match="`text` needs `vision`"):
        ModelArguments(text="somewhere")


@pytest.fixture
def vision(tmp_path):
    """A vision encoder with weights of its own, and the folder it is in."""
    torch.manual_seed(5)
    encoder = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic"))
    encoder.save_pretrained(tmp_path / "vision")
    ViTImageProcessorPil(size={"height": 24, "width": 24}).save_pretrained(tmp_path / "vision")
    return encoder, str(tmp_path / "vision")


def test_a_vision_encoder_may_stand_beside_a_tiny_new_decoder(build_model, vision, store):
    encoder, folder = vision
    model, processor = build_model(vision=folder)
    kept = model.model.vision_encoder.state_dict()
    given = encoder.state_dict()
    assert kept.keys() == given.keys()
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert model.config.vision_config.hidden_sizes == [16]
    decoder, tiny = model.config.text_config, build_model()[0].config.text_config
    assert decoder.to_dict() | {"dtype": None} == tiny.to_dict() | {"dtype": None}
    assert processor([{"history": [store.items["item_id"][0]]}])["pixel_values"].shape[-2:] == (24, 24)
    assert model.config.item_embedding_scale == pytest.approx(TINY["hidden_size"] ** 0.5)


def test_a_tiny_decoder_beside_a_vision_encoder_trains(build_model, vision, make_trainer):
    built = build_model(vision=vision[1])
    before = {name: parameter.detach().clone() for name, parameter in built[0].named_parameters()}
    trainer = make_trainer(built, max_steps=15, learning_rate=3e-3, task_rates={"recommend": 1.0})
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    moved = {name for name, parameter in built[0].named_parameters() if not torch.equal(before[name], parameter)}
    assert {name for name in moved if "language_model" in name}
    assert not {name for name in moved if "vision_encoder" in name}
    assert {name for name in moved if "resampler" in name}


# The calendar


def periods_of(times_by_person: list[list[float]], held_out: float = 10.0**9) -> list[float]:
    """Periods of a processor for people with events at these times, and one more that nobody is trained on."""
    items = Dataset.from_list([{"item_id": f"i{n}"} for n in range(4)])
    rows = [
        {"user_id": f"u{n}", "item_id": [f"i{e % 4}" for e in range(len(times))], "timestamp": times}
        for n, times in enumerate(times_by_person)
    ]
    events = [
        {"user_id": row["user_id"], "item_id": item, "timestamp": time}
        for row in rows
        for item, time in zip(row["item_id"], row["timestamp"], strict=True)
    ]
    events.append({"user_id": "u0", "item_id": "i0", "timestamp": held_out})
    return build(make_store(items, Dataset.from_list(events)), ModelArguments(**TINY), Dataset.from_list(rows))[
        1
    ].periods


def test_periods_part_the_training_events_into_equally_many():
    times = [float(100 * n) for n in range(32 * 4)]
    periods = periods_of([times[::2], times[1::2]])
    assert len(periods) == 31
    starts = [0, *(sum(time < period for time in times) for period in periods), len(times)]
    sizes = [after - before for before, after in pairwise(starts)]
    assert sum(sizes) == len(times)
    assert min(sizes) >= 3
    assert max(sizes) <= 5
    assert max(periods) < max(times)  # nothing is learned from what is held out


def test_few_times_are_few_periods():
    assert periods_of([[5.0, 5.0], [5.0, 9.0]]) == [5.0]
    assert periods_of([[0.0, 1.0]]) == [0.0]


def test_without_training_events_there_are_no_periods(store, split):
    assert build(store, ModelArguments(**TINY))[1].periods == []
    model, processor = build(store, ModelArguments(**TINY), split.train)
    assert 1 < len(processor.periods) <= 31
    assert model.config.num_behaviors == processor.num_behaviors


# The tiny decoder


def test_dropout_is_active_in_training_and_not_in_use(build_model, store):
    request = {"history": store.items["item_id"][:4]}
    for dropout, noisy in ((0.3, True), (0.0, False)):
        model, processor = build_model(dropout=dropout)
        inputs = processor([request])
        with torch.no_grad():
            model.train()
            trained = [model.model(**inputs).last_hidden_state for _ in range(2)]
            model.eval()
            used = [model.model(**inputs).last_hidden_state for _ in range(2)]
        assert torch.equal(*trained) != noisy
        assert torch.equal(*used)


def test_dropout_is_in_every_place_that_the_decoder_has(build_model):
    decoder = build_model(dropout=0.25)[0].model.language_model
    rates = {name: module.p for name, module in decoder.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert len(rates) >= 1 + 2 * TINY["num_layers"]  # of the embeddings, and of what each layer adds twice
    assert set(rates.values()) == {0.25}
    assert decoder.config.attention_dropout == 0.25


def weights_of(neighbours):
    owners = np.repeat(np.arange(len(neighbours.starts) - 1), np.diff(neighbours.starts))
    pairs = zip(owners.tolist(), neighbours.positions.tolist(), strict=True)
    return dict(zip(pairs, neighbours.weights.tolist(), strict=True))


def test_what_training_shows_of_choices_is_kept(store, split, tmp_path):
    options = ModelArguments(**TINY, word_similarity=2.5, choice_similarity=7.0)
    model, processor = build(store, options, split.train)
    assert (processor.word_similarity, processor.choice_similarity) == (2.5, 7.0)
    known = weights_of(processor.catalog.neighbours)
    assert known == weights_of(find_neighbours(split.train, processor.catalog))
    assert known != weights_of(find_neighbours(sequences(store.interactions), processor.catalog))  # nothing held out
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    _, processor = build(store, ModelArguments(model=str(tmp_path)), split.train.select(range(1)))
    assert processor.word_similarity == 2.5
    again = weights_of(processor.catalog.neighbours)
    assert all(again[pair] >= weight for pair, weight in known.items())  # few events take nothing away
    _, processor = build(store, ModelArguments(**TINY | {"item_codes": "semantic"}), split.train)
    assert processor.catalog.neighbours is None


def test_a_saved_model_is_continued(built, store, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for continued, its_processor in (load(str(tmp_path)), build(store, ModelArguments(model=str(tmp_path)))):
        assert torch.equal(continued.model.item_rows.learned, model.model.item_rows.learned)
        assert its_processor.catalog.item_ids == processor.catalog.item_ids
        assert isinstance(its_processor.catalog.image(0), Image.Image)


@pytest.fixture
def saved(built, tmp_path):
    for part in built:
        part.save_pretrained(tmp_path / "saved")
    return str(tmp_path / "saved")


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def store_of(items: list[dict], events: list[dict] | None = None):
    events = events or [{"user_id": "u", "item_id": item["item_id"], "timestamp": n} for n, item in enumerate(items)]
    return make_store(Dataset.from_list(items), Dataset.from_list(events))


def test_new_pictures_are_read_from_their_files_and_a_damaged_one_is_counted(saved, tmp_path, caplog):
    (tmp_path / "new.png").write_bytes(picture("red"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    items = [{"item_id": name, "title": name, "image": str(tmp_path / f"{name}.png")} for name in ("new", "bad")]
    model, processor = build(store_of(items), ModelArguments(model=saved))
    catalog = processor.catalog
    assert catalog.item_ids[-2:] == ["new", "bad"]
    assert catalog.image(catalog.position("new")).getpixel((3, 3)) == (255, 0, 0)
    assert not catalog.has_image(catalog.position("bad"))
    assert "1 pictures could not be read" in caplog.text
    assert model.model.item_content.image_embeddings[-2].any()
    assert not model.model.item_content.image_embeddings[-1].any()


def test_items_that_changed_are_replaced_and_the_others_are_left_alone(saved, store):
    before, old = load(saved)
    items = [dict(item) for item in store.items]
    items[3]["title"] = "Something else entirely"
    items[5]["image"] = {"bytes": picture("blue"), "path": None}
    events = [dict(event) for event in store.interactions]
    model, processor = build(store_of(items, events), ModelArguments(model=saved))
    contents, olds = model.model.item_content, before.model.item_content
    changed = (contents.text_ids != olds.text_ids).any(-1).nonzero().flatten().tolist()
    assert changed == [3]
    assert (contents.image_embeddings != olds.image_embeddings).any(-1).nonzero().flatten().tolist() == [5]
    assert processor.catalog.attributes(3)["title"] == "Something else entirely"
    assert processor.catalog.image(5).getpixel((0, 0)) == (0, 0, 255)
    assert processor.catalog.item_ids == old.catalog.item_ids
    assert torch.equal(model.model.item_rows.learned, before.model.item_rows.learned)


def test_removed_items_stay_removed_unless_the_store_says_otherwise(built, store, tmp_path):
    built[1].catalog.remove([store.items[0]["item_id"], store.items[1]["item_id"]])
    for part in built:
        part.save_pretrained(tmp_path)
    items = [dict(item) for item in store.items]
    items[1]["title"] = "Renamed"
    catalog = build(store_of(items), ModelArguments(model=str(tmp_path)))[1].catalog
    assert catalog.available[:3] == [False, False, True]
    assert catalog.attributes(1)["title"] == "Renamed"
    items = [item | {"available": True} for item in items]
    assert all(build(store_of(items), ModelArguments(model=str(tmp_path)))[1].catalog.available)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"behavior": "returned"}, r"`behavior` must be one of \['click', 'purchase', 'view'\].* got 'returned'"),
        ({"rating": 7.5}, r"`rating` must lie within \[1.0, 5.0\].* got 7.5"),
    ],
)
def test_events_that_a_continued_model_cannot_read_are_refused_first(saved, store, column, message):
    events = [dict(event) for event in store.interactions]
    events[4] |= column
    with pytest.raises(ValueError, match=message):
        build(store_of([dict(item) for item in store.items], events), ModelArguments(model=saved))


@pytest.mark.parametrize("option", [{"hidden_size": 64}, {"text": "a"}, {"full_chunks": None}, {"order": "code_last"}])
def test_options_that_a_continued_model_settles_are_refused(option):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` cannot be given beside `model`"):
        ModelArguments(model="somewhere", **option)


@pytest.fixture
def encoder(built, tmp_path):
    """A folder with a text encoder of a given width, whose tokenizer has no padding token."""

    def save(width: int = 24) -> str:
        folder, tokenizer = str(tmp_path / f"encoder-{width}"), copy.deepcopy(built[1].tokenizer)
        tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
        torch.manual_seed(0)  # the same whenever it is asked for
        BertModel(config).save_pretrained(folder)
        return folder

    return save


def test_a_continued_model_with_item_features_needs_the_encoder_for_new_items(build_model, encoder, store, tmp_path):
    for part in build_model(item_encoder=encoder()):
        part.save_pretrained(tmp_path)
    known, new = [dict(item) for item in store.items], {"item_id": "new", "title": "Harbour Coat"}
    assert build(store_of(known), ModelArguments(model=str(tmp_path)))[0].config.num_items == len(known)
    grown = store_of([*known, new])
    with pytest.raises(ValueError, match=r"`item_encoder` is needed: .* 1 new and 0 changed items"):
        build(grown, ModelArguments(model=str(tmp_path)))
    with pytest.raises(ValueError, match=r"`item_encoder` .* width 32, but `model` has .* width 24"):
        build(grown, ModelArguments(model=str(tmp_path), item_encoder=encoder(32)))
    model, processor = build(grown, ModelArguments(model=str(tmp_path), item_encoder=encoder()))
    text = flatten_attributes(processor.catalog.attributes(len(known)))
    torch.testing.assert_close(model.model.item_content.features[-1:], encode_texts(encoder(), [text]))


def test_an_encoder_that_the_continued_model_has_no_use_for_is_refused(saved, store):
    with pytest.raises(ValueError, match="`item_encoder` 'x' has no use"):
        build(store, ModelArguments(model=saved, item_encoder="x"))


def test_texts_without_a_token_are_zeros(encoder):
    rows = encode_texts(encoder(), ["", "a hat", ""], batch_size=1)
    assert not rows[[0, 2]].any()
    assert rows[1].any()
    torch.testing.assert_close(encode_texts(encoder(), ["", "a hat"])[1], rows[1])
    assert not encode_texts(encoder(), ["", ""]).any()


def test_an_encoder_that_cannot_pad_is_refused(encoder):
    folder = encoder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"`item_encoder` .* neither a padding nor an end-of-sequence token"):
        encode_texts(folder, ["a"])


def test_the_tokenizer_learns_nothing_from_what_is_held_out(store):
    arguments = ModelArguments(**TINY | {"vocab_size": 1000})

    def vocabulary(change: str) -> dict[str, int]:
        events = [dict(event) for event in store.interactions]
        split = user_holdout(store.interactions)
        people = set(getattr(split, change)["user_id"]) if change else set()
        for event in events:
            if event["user_id"] in people:
                event["explanation"], event["query"] = "zyzzyva quixotry " * 3, "zyzzyva quixotry"
        changed = store_of([dict(item) for item in store.items], events)
        return build(changed, arguments, user_holdout(changed.interactions).train)[1].tokenizer.get_vocab()

    plain = vocabulary("")
    assert vocabulary("test") == vocabulary("validation") == plain
    assert vocabulary("train") != plain


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"visual_scope": "first"}, "`visual_scope` must be one of last, all, got 'first'"),
        ({"order": "last"}, "`order` must be one of code_first, code_last, got 'last'"),
        ({"num_heads": 3}, "`hidden_size` must be a multiple of twice `num_heads`, got 128 and 3"),
        ({"hidden_size": 12, "num_heads": 4}, "`hidden_size` must be a multiple of twice `num_heads`"),
        ({"hidden_size": 0}, "`hidden_size` must be at least 1, got 0"),
        ({"num_latents": -1}, "`num_latents` must be at least 1"),
        ({"full_chunks": -1}, "`full_chunks` must be at least 0"),
        ({"item_dropout": 1.5}, "`item_dropout` must lie between 0 and 1, got 1.5"),
        ({"feature_similarity": 2.0}, "`feature_similarity` needs an `item_encoder`"),
        ({"feature_similarity": -1.0, "item_encoder": "x"}, "`feature_similarity` must be a number"),
        ({"dropout": -0.1}, "`dropout` must lie between 0 and 1, got -0.1"),
    ],
)
def test_wrong_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**option)


def test_likeness_of_items_with_semantic_codes_is_refused(build_model, encoder):
    with pytest.raises(ValueError, match=r"`feature_similarity` 2\.0 compares items with a code each"):
        build_model(item_encoder=encoder(), feature_similarity=2.0, item_codes="semantic")


def test_a_long_prompt_has_room_for_its_answer(build_model):
    assert build_model(prompt_length=2040)[0].config.text_config.max_position_embeddings == 2104


def test_prompts_that_a_backbone_cannot_read_are_refused(store, tmp_path):
    LlamaConfig(max_position_embeddings=512).save_pretrained(tmp_path / "llama")
    GPT2Config(n_positions=512).save_pretrained(tmp_path / "gpt2")
    for name in ("llama", "gpt2"):
        arguments = ModelArguments(vision="x", text=str(tmp_path / name), prompt_length=449)
        with pytest.raises(ValueError, match=r"`prompt_length` is 449 .* 512 positions: .*448 at most"):
            build(store, arguments)


def test_a_continued_model_gets_the_items_it_does_not_know(built, store, tmp_path, caplog):
    for part in built:
        part.save_pretrained(tmp_path)
    rows = [{"item_id": "brand-new", "title": "Harbour Coat", "category": "coat"}, dict(store.items[0])]
    items = Dataset.from_list([{key: row.get(key) for key in ("item_id", "title", "category")} for row in rows])
    events = [{"user_id": "u", "item_id": row["item_id"], "timestamp": time} for time, row in enumerate(rows)]
    model, processor = build(make_store(items, Dataset.from_list(events)), ModelArguments(model=str(tmp_path)))
    assert processor.catalog.item_ids == [*built[1].catalog.item_ids, "brand-new"]
    assert model.config.num_items == len(processor.catalog)
    assert not model.model.item_rows.learned[-1].any()  # known by its content alone
    assert f"{len(store.items) - 1} items of the model are not in the store, such as" in caplog.text
    caplog.clear()
    build(store, ModelArguments(model=str(tmp_path)))
    assert "not in the store" not in caplog.text


def test_a_named_encoder_joins_the_content(build_model, built, tmp_path):
    tokenizer = built[1].tokenizer
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path)
    texts = ["a red hat", "a much longer text about a green coat", "a red hat"]
    rows = encode_texts(str(tmp_path), texts, batch_size=2)
    assert rows.shape == (3, 24)
    torch.testing.assert_close(rows[1:2], encode_texts(str(tmp_path), texts[1:2]))  # padding does not count
    torch.testing.assert_close(rows[0], rows[2])
    model, processor = build_model(item_encoder=str(tmp_path), feature_similarity=2.0)
    assert model.config.item_feature_size == 24
    assert model.config.feature_similarity == 2.0
    text = flatten_attributes(processor.catalog.attributes(3))
    torch.testing.assert_close(model.model.item_content.features[3:4], encode_texts(str(tmp_path), [text]))
