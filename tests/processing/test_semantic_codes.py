"""Items of several tokens: how the catalogue keeps their codes and the processor writes them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from unimp import Catalog, UniMPConfig, UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing.chunks_unimp import ITEM_ROLE, NO_BEHAVIOR, NO_ROLE, QUERY_ANSWER_ROLE
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline

from .conftest import draw_picture, make_catalog, make_processor

SIZES = [3, 4, 9]
CODES = np.array([[0, 1, 0], [0, 1, 1], [2, 3, 0], [1, 0, 0], [2, 0, 4], [1, 1, 0], [0, 0, 0], [2, 3, 1]])


def first_rows(embeddings: torch.Tensor) -> torch.Tensor:
    """Codebooks: the first items, then nothing more."""
    centroids = torch.zeros(2, 4, embeddings.shape[1])
    centroids[0, :3] = embeddings[:3]
    centroids[1, 1:] = torch.eye(3, embeddings.shape[1])
    return centroids


def semantic_model(processor, **config) -> UniMPForConditionalGeneration:
    torch.manual_seed(0)
    vision = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    text = {
        "model_type": "llama",
        "vocab_size": processor.text_vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    }
    config = UniMPConfig(
        vision_config={**vision, "layer_type": "basic"},
        text_config=text,
        num_behaviors=processor.num_behaviors,
        initializer_range=0.2,
        **{"code_sizes": SIZES} | config,
    )
    return UniMPForConditionalGeneration(config).eval()


@pytest.fixture
def processor() -> UniMPProcessor:
    """With codes set by hand."""
    processor = make_processor(code_sizes=SIZES)
    processor.catalog.set_codes(CODES)
    return processor


@pytest.fixture
def indexed() -> tuple[UniMPForConditionalGeneration, UniMPProcessor]:
    processor = make_processor()
    model = semantic_model(processor)
    processor.index_catalog(model, fit_codes=first_rows)
    return model, processor


def item_tokens(processor, *codes):
    first = processor.format.first_item_id
    return [first + start + code for start, code in zip((0, 3, 7), codes, strict=True)]


# The catalogue


def test_codes_are_kept_in_a_column_and_are_no_attribute(tmp_path):
    catalog = make_catalog()
    assert catalog.codes is None
    catalog.set_codes(CODES)
    catalog.save(tmp_path / "catalog.parquet")
    loaded = Catalog.load(tmp_path / "catalog.parquet")
    assert loaded.codes.tolist() == CODES.tolist()
    assert loaded.table["codes"].type == pa.list_(pa.int32())
    assert "codes" not in loaded.attribute_names
    assert "codes" not in loaded.item(0)
    loaded.set_codes(None)
    assert loaded.codes is None
    assert loaded.table.column_names == make_catalog().table.column_names


def test_changes_of_the_catalogue_leave_codes_alone():
    catalog = make_catalog()
    catalog.set_codes(CODES)
    catalog.replace([{"item_id": "hat", "title": "Felt hat", "codes": [7, 7, 7]}])
    catalog.remove(["belt"])
    assert catalog.codes.tolist() == CODES.tolist()
    catalog.add([{"item_id": "cap", "codes": [9, 9, 9]}, {"item_id": "tie"}])
    assert catalog.codes.tolist() == [*CODES.tolist(), [-1, -1, -1], [-1, -1, -1]]
    assert catalog.item(catalog.position("cap")) == {"item_id": "cap"}


@pytest.mark.parametrize(
    ("codes", "message"),
    [(["a", "b"], "must be lists of integers, got string"), ([[1, 2], [3]], r"must have one length, got \[2, 1\]")],
)
def test_a_column_that_holds_no_codes_is_refused(codes, message):
    with pytest.raises(ValueError, match=f"`codes` {message}"):
        Catalog(pa.table({"item_id": ["x", "y"], "codes": codes}))


# Chunks


def test_an_item_is_all_its_tokens(processor, order):
    processor.order, processor.full_chunks = order, 0
    [ids] = processor({"history": ["shoes", "coat"]})["input_ids"].tolist()
    written = [*item_tokens(processor, 2, 3, 0), *item_tokens(processor, 2, 0, 4)]
    assert [token for token in ids if token >= processor.format.first_item_id] == written


def test_the_last_token_alone_tells_what_the_person_did(processor, order):
    processor.order = order
    entry = {"item_id": "shoes", "rating": 5.0, "behavior": "view"}
    batch = processor({"history": ["hat", entry]})
    ids, behaviors = batch["input_ids"][0].tolist(), batch["behavior_ids"][0].tolist()
    assert ids.count(item_tokens(processor, 2, 3, 0)[0]) == 1
    place = ids.index(item_tokens(processor, 2, 3, 0)[0])
    assert ids[place : place + 3] == item_tokens(processor, 2, 3, 0)
    assert [tuple(own) == NO_BEHAVIOR for own in behaviors[place : place + 3]] == [True, True, False]
    assert sum(tuple(own) != NO_BEHAVIOR for own in behaviors) == 1


def test_all_tokens_of_an_item_are_labelled(processor):
    sample = {"history": ["shirt", "hat"], "answer": "gloves"}
    batch = processor(sample, task="recommend", training=True)
    items = [*item_tokens(processor, 0, 1, 0), *item_tokens(processor, 0, 1, 1), *item_tokens(processor, 2, 3, 1)]
    assert batch["labels"][batch["labels"] != -100].tolist() == items
    assert set(batch["roles"][0].tolist()) == {NO_ROLE, ITEM_ROLE}
    assert batch["input_ids"][0, -3:].tolist() == items[-3:]
    batch = processor(sample | {"query": "warm"}, task="search", training=True)
    labelled = batch["labels"] != -100
    assert batch["labels"][labelled].tolist() == items
    assert batch["roles"][labelled].tolist() == [ITEM_ROLE] * 6 + [QUERY_ANSWER_ROLE] * 3
    assert "query_matches" not in batch  # which items with a code of their own alone have


def test_a_selection_is_its_items_one_after_the_other(processor):
    sample = {"history": ["hat"], "candidates": ["coat", "scarf", "belt"], "answer": ["scarf", "coat"]}
    batch = processor(sample, task="select", training=True)
    end = processor.format.marker("<|endofchunk|>")
    expected = [*item_tokens(processor, 1, 0, 0), *item_tokens(processor, 2, 0, 4), *end]
    assert batch["labels"][0][batch["labels"][0] != -100].tolist() == expected


def test_items_never_seen_have_as_many_tokens(processor):
    first = processor.format.first_item_id + sum(SIZES)
    [ids] = processor({"history": [{"title": "Cap"}, "hat", {"title": "Tie"}]})["input_ids"].tolist()
    new = [token - first for token in ids if token >= first]
    # Looked up from the most recent one backwards, as ever.
    assert new == [3, 4, 5, 0, 1, 2]


def test_an_item_without_codes_is_refused(processor):
    processor.catalog.add([{"item_id": "cap"}])
    with pytest.raises(ValueError, match=r"`catalog` has no codes for item 'cap': call `processor.index_catalog"):
        processor({"history": ["cap"]})
    processor.catalog.set_codes(None)
    with pytest.raises(ValueError, match="`catalog` has no codes for item 'hat'"):
        processor({"history": ["hat"]})


def test_the_processor_is_saved_with_its_codes(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UniMPProcessor.from_pretrained(tmp_path)
    assert loaded.code_sizes == SIZES
    assert loaded.catalog.codes.tolist() == CODES.tolist()
    sample = {"history": ["shirt", {"title": "Cap"}, "hat"]}
    assert torch.equal(loaded(sample)["input_ids"], processor(sample)["input_ids"])


# The model's codes


def test_indexing_gives_model_and_catalogue_the_same_codes(indexed):
    model, processor = indexed
    assert model.config.num_items == 8
    assert processor.code_sizes == SIZES == processor.level_sizes
    assert processor.catalog.codes.tolist() == model.model.item_codes.codes.tolist()
    assert len(np.unique(processor.catalog.codes, axis=0)) == 8
    assert processor.catalog.codes[:3, 0].tolist() == [0, 1, 2]  # the items that the codebook is made of
    assert model.model.item_codes.image_scale.std() > 0


def test_codebooks_come_first():
    processor = make_processor()
    with pytest.raises(ValueError, match="`fit_codes` is needed"):
        processor.index_catalog(semantic_model(processor))


def test_items_added_later_get_codes_and_the_codebooks_stay(indexed):
    model, processor = indexed
    before, codes = model.model.item_codes.centroids.clone(), processor.catalog.codes
    hat = processor.catalog.position("hat")
    twin = {"title": "Straw hat 🎩", "image": processor.catalog.image(hat)}
    processor.catalog.add([{"item_id": "twin", **twin}, {"item_id": "cap", "image": draw_picture(77)}])
    logits = model(**processor({"history": ["hat"]})).logits
    processor.index_catalog(model, fit_codes=lambda embeddings: 1 / 0)  # not asked again
    assert torch.equal(model.model.item_codes.centroids, before)
    assert processor.catalog.codes[:8].tolist() == codes.tolist()
    assert processor.catalog.codes[8, :2].tolist() == codes[hat, :2].tolist()
    assert processor.catalog.codes[8, 2] > codes[hat, 2]
    assert len(np.unique(processor.catalog.codes, axis=0)) == 10
    assert torch.equal(model(**processor({"history": ["hat"]})).logits, logits)  # nothing else has changed


@pytest.mark.parametrize("loaded", [False, True])
def test_more_items_than_codes_are_refused_before_anything_changes(loaded, tmp_path):
    processor = make_processor()
    model = semantic_model(processor, code_sizes=[3, 3])
    processor.index_catalog(model, fit_codes=lambda embeddings: embeddings[None, :3])
    if loaded:
        processor.save_pretrained(tmp_path)
        processor = UniMPProcessor.from_pretrained(tmp_path)
    items = [{"item_id": name, "title": name.title()} for name in ("cap", "tie")]
    with pytest.raises(
        ValueError, match=r"`items` are 2, too many to join 8: .* \(`code_sizes`\) tell at most 9 items"
    ):
        processor.catalog.add(items)
    assert len(processor.catalog) == 8
    processor.catalog.add(items[:1])
    processor.index_catalog(model)
    assert len(np.unique(processor.catalog.codes, axis=0)) == model.config.num_items == 9


def test_a_catalogue_of_more_items_than_codes_changes_no_model(indexed):
    model, processor = indexed
    items = [{"item_id": f"new {number}", "title": "New"} for number in range(3 * 4 * 9)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    processor.catalog = Catalog(
        pa.concat_tables([processor.catalog.table, Catalog.from_items(items).table], promote_options="permissive")
    )
    with pytest.raises(ValueError, match=r"`code_sizes` \[3, 4, 9\] make 108 codes, too few for 116 items"):
        processor.index_catalog(model, [0])
    assert model.config.num_items == 8
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_new_item_is_read_as_the_first_of_its_kind(indexed):
    model, processor = indexed
    cap = {"item_id": "cap", "price": 5, "title": "Cap", "image": draw_picture(78)}
    before = model(**processor({"history": ["hat", cap]})).logits[0, -1]
    processor.catalog.add([cap])
    processor.index_catalog(model)
    codes = processor.catalog.codes.copy()
    codes[8, 2] = 0  # whatever number it got
    processor.catalog.set_codes(codes)
    after = model(**processor({"history": ["hat", "cap"]})).logits[0, -1]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_replaced_items_keep_their_codes(indexed):
    model, processor = indexed
    codes = processor.catalog.codes
    replaced = processor.catalog.replace([{"item_id": "hat", "title": "Something else"}])
    processor.index_catalog(model, replaced)
    assert processor.catalog.codes.tolist() == codes.tolist() == model.model.item_codes.codes.tolist()


def test_an_atomic_model_takes_the_codes_off(processor):
    model = semantic_model(processor, code_sizes=None)
    processor.index_catalog(model)
    assert processor.code_sizes is None
    assert processor.catalog.codes is None


def test_a_pipeline_refuses_other_codes(indexed):
    model, processor = indexed
    pipe = UniMPRecommendPipeline(model=model, processor=processor)
    answers = pipe({"history": ["hat"]}, top_k=100)
    assert sorted(answer["item_id"] for answer in answers) == sorted(set(processor.catalog.item_ids) - {"hat"})
    codes = processor.catalog.codes
    for other in (codes[::-1], None):
        processor.catalog.set_codes(other)
        with pytest.raises(ValueError, match=r"`processor.catalog` has other codes than `model`, or none"):
            UniMPRecommendPipeline(model=model, processor=processor)
    processor.catalog.set_codes(codes)
    processor.code_sizes = [8, 8, 8]
    with pytest.raises(ValueError, match=r"`model` has item codes of sizes \[3, 4, 9\] .* writes \[8, 8, 8\]"):
        UniMPRecommendPipeline(model=model, processor=processor)
