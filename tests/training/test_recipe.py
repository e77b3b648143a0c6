"""From a store to a model and a processor that fit each other."""

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetModel,
    ViTImageProcessorPil,
)

from unimp.processing.catalog_unimp import flatten_attributes
from unimp.processing.store import make_store
from unimp.training.recipe import ModelArguments, build, encode_texts, load, store_texts, train_tokenizer

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
    together = processor.encode_pictures(model)
    torch.testing.assert_close(processor.encode_pictures(model, batch_size=1), together, rtol=1e-4, atol=1e-4)


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


def test_pretrained_backbones(store, tmp_path):
    tokenizer = train_tokenizer(store_texts(store), 400)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + 8, **sizes))
    text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    vision = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic"))
    vision.save_pretrained(tmp_path / "vision")
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vision")
    arguments = ModelArguments(vision=str(tmp_path / "vision"), text=str(tmp_path / "text"), num_latents=2)
    model, processor = build(store, arguments)
    assert model.config.num_items == len(store.items)
    assert processor.text_vocab_size == len(tokenizer) + 8
    kept = model.model.language_model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(kept, text.model.layers[0].self_attn.q_proj.weight)
    assert processor([{"history": [store.items["item_id"][0]]}])["pixel_values"].shape[-2:] == (32, 32)


def test_one_backbone_alone_is_refused(store):
    with pytest.raises(ValueError, match="`vision` and `text` go together"):
        build(store, ModelArguments(text="somewhere"))


def test_a_saved_model_is_continued(built, store, tmp_path):
    model, processor = built
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for continued, its_processor in (load(str(tmp_path)), build(store, ModelArguments(model=str(tmp_path)))):
        assert torch.equal(continued.model.item_rows.learned, model.model.item_rows.learned)
        assert its_processor.catalog.item_ids == processor.catalog.item_ids
        assert isinstance(its_processor.catalog.image(0), Image.Image)


def test_a_continued_model_gets_the_items_it_does_not_know(built, store, tmp_path):
    for part in built:
        part.save_pretrained(tmp_path)
    rows = [{"item_id": "brand-new", "title": "Harbour Coat", "category": "coat"}, dict(store.items[0])]
    items = Dataset.from_list([{key: row.get(key) for key in ("item_id", "title", "category")} for row in rows])
    events = [{"user_id": "u", "item_id": row["item_id"], "timestamp": time} for time, row in enumerate(rows)]
    model, processor = build(make_store(items, Dataset.from_list(events)), ModelArguments(model=str(tmp_path)))
    assert processor.catalog.item_ids == [*built[1].catalog.item_ids, "brand-new"]
    assert model.config.num_items == len(processor.catalog)
    assert not model.model.item_rows.learned[-1].any()  # known by its content alone


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
    model, processor = build_model(item_encoder=str(tmp_path))
    assert model.config.item_feature_size == 24
    text = flatten_attributes(processor.catalog.attributes(3))
    torch.testing.assert_close(model.model.item_content.features[3:4], encode_texts(str(tmp_path), [text]))
