"""Pictures are encoded once: in memory, in a file that is continued and refused, and as pipelines use it."""

import os
import pickle
import shutil
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from unimp import Catalog, UniMPConfig, UniMPForConditionalGeneration, UniMPProcessor
from unimp.processing import pictures_unimp
from unimp.processing.images_unimp import ImageError
from unimp.processing.picture_store_unimp import PICTURE_FILES, NoPictures, PictureStore

from .conftest import draw_picture, make_model, make_processor, make_request

PICTURED = [1, 2, 3, 5, 7]


@pytest.fixture
def processor():
    return make_processor(full_chunks=None)


@pytest.fixture
def model(processor):
    return make_model(processor)


class Encoder:
    """Counts the pictures that a model's vision encoder sees, and may stop before one."""

    def __init__(self, model, stop_at=None):
        self.seen, self.stop_at, self.encode = 0, stop_at, model.model.get_image_features
        model.model.get_image_features = self

    def __call__(self, pixel_values):
        if self.stop_at is not None and self.seen + len(pixel_values) > self.stop_at:
            raise KeyboardInterrupt
        self.seen += len(pixel_values)
        return self.encode(pixel_values)


def keys_of(processor, positions):
    return [processor.catalog.image_key(position) for position in positions]


@pytest.mark.parametrize("latents", [False, True])
def test_a_file_holds_a_row_a_picture(processor, model, tmp_path, latents):
    store = processor.encode_pictures(model, tmp_path, latents=latents)
    assert len(store) == len(PICTURED)  # none for items without a picture
    pictures = [processor._pixel_values(processor.catalog.image(position)) for position in PICTURED]
    expected = model.get_image_features(torch.cat(pictures))
    expected = model.model.resampler(expected) if latents else expected
    torch.testing.assert_close(store[keys_of(processor, PICTURED)], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(store[keys_of(processor, [7, 2])], expected[[4, 1]], rtol=1e-5, atol=1e-5)
    path = tmp_path / PICTURE_FILES["latents" if latents else "features"]
    assert load_file(path)["values"].shape == expected.shape  # whoever knows safetensors can read it
    in_memory = processor.encode_pictures(model, latents=latents)
    assert torch.equal(in_memory[keys_of(processor, PICTURED)], store[keys_of(processor, PICTURED)])


def test_the_same_picture_is_encoded_once(model, tmp_path):
    picture = draw_picture(5)
    processor = make_processor(Catalog.from_items([{"item_id": name, "image": picture} for name in "abc"]))
    encoder = Encoder(model)
    store = processor.encode_pictures(model, tmp_path)
    assert (encoder.seen, len(store)) == (1, 1)


def test_only_new_and_changed_pictures_are_encoded_again(processor, model, tmp_path):
    encoder = Encoder(model)
    first = processor.encode_pictures(model, tmp_path)[keys_of(processor, PICTURED)]
    assert encoder.seen == 5
    processor.encode_pictures(model, tmp_path)
    assert encoder.seen == 5
    processor.catalog.replace([{"item_id": "shoes", "image": draw_picture(70)}, {"item_id": "hat", "title": "Bare"}])
    processor.catalog.add([{"item_id": "cap", "image": draw_picture(71)}])
    store = processor.encode_pictures(model, tmp_path)
    assert encoder.seen == 7
    assert len(store) == 5  # of what nobody has any more no row is kept
    assert torch.equal(store[keys_of(processor, [3, 5, 7])], first[2:])
    assert not torch.allclose(store[keys_of(processor, [2])], first[1:2])


@pytest.mark.parametrize("latents", [False, True])
def test_an_interrupted_run_is_continued(processor, model, tmp_path, latents):
    path = tmp_path / PICTURE_FILES["latents" if latents else "features"]
    encoder = Encoder(model, stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        processor.encode_pictures(model, tmp_path, latents, batch_size=1)
    assert not path.exists()
    encoder.stop_at = None
    store = processor.encode_pictures(model, tmp_path, latents, batch_size=1)
    assert encoder.seen == 5
    assert [file.suffix for file in tmp_path.iterdir()].count(".part") == 0
    whole = processor.encode_pictures(model, latents=latents, batch_size=1)
    assert torch.equal(store[keys_of(processor, PICTURED)], whole[keys_of(processor, PICTURED)])


def test_an_interruption_loses_nothing_of_the_file_before(processor, model, tmp_path):
    processor.encode_pictures(model, tmp_path)
    before = (tmp_path / PICTURE_FILES["features"]).read_bytes()
    processor.catalog.add([{"item_id": f"new {seed}", "image": draw_picture(seed)} for seed in (80, 81)])
    encoder = Encoder(model, stop_at=1)
    with pytest.raises(KeyboardInterrupt):
        processor.encode_pictures(model, tmp_path, batch_size=1)
    assert (tmp_path / PICTURE_FILES["features"]).read_bytes() == before
    encoder.stop_at = None
    assert len(processor.encode_pictures(model, tmp_path, batch_size=1)) == 7
    assert encoder.seen == 2


def change_encoder(processor, model):
    next(model.model.vision_encoder.parameters()).data.view(-1)[0] += 1e-3


def change_resampler(processor, model):
    model.model.resampler.latents.data[0, 0] += 1e-3


def change_statistics(processor, model):
    """Of a normalisation layer: no parameter, but it counts."""
    next(buffer for name, buffer in model.model.vision_encoder.named_buffers() if "mean" in name)[0] += 1e-3


def change_size(processor, model):
    processor.image_processor.size = {"height": 24, "width": 24}


@pytest.mark.parametrize("change", [change_encoder, change_resampler, change_statistics, change_size])
def test_what_another_model_made_is_refused(processor, model, tmp_path, change):
    processor.encode_pictures(model, tmp_path)
    latents = processor.encode_pictures(model, tmp_path, latents=True)
    change(processor, model)
    mark = processor.picture_fingerprint(model, "latents")
    with pytest.raises(ValueError, match=f"{latents.fingerprint}.*{mark}"):
        processor.encode_pictures(model, tmp_path, latents=True)
    with pytest.raises(ValueError, match=f"{latents.fingerprint}.*{mark}"):
        processor.open_pictures(model)
    if change is change_resampler:  # features do not depend on it
        processor.encode_pictures(model, tmp_path)
    else:
        with pytest.raises(ValueError, match="delete it"):
            processor.encode_pictures(model, tmp_path)
    encoder = Encoder(model)
    assert processor.encode_pictures(model, tmp_path, latents=True, replace=True).fingerprint == mark
    assert encoder.seen == (0 if change is change_resampler else 5)
    processor.open_pictures(model)


def test_a_damaged_file_is_refused(processor, model, tmp_path):
    processor.encode_pictures(model, tmp_path)
    path = tmp_path / PICTURE_FILES["features"]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"damaged.*delete it"):
        processor.encode_pictures(model, tmp_path)


def test_a_file_that_finds_no_room_is_told_at_once(processor, model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"_picture_features\.part takes 0\.0 GB, but only 0\.0 are free: make room"):
        processor.encode_pictures(model, tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_latents_are_made_of_features_that_are_at_hand(processor, model, tmp_path):
    encoder = Encoder(model)
    processor.encode_pictures(model, tmp_path)
    processor.catalog.add([{"item_id": "cap", "image": draw_picture(71)}])
    store = processor.encode_pictures(model, tmp_path, latents=True)
    assert encoder.seen == 6  # each once
    fresh = processor.encode_pictures(model, latents=True)
    keys = keys_of(processor, [*PICTURED, 8])
    torch.testing.assert_close(store[keys], fresh[keys], rtol=1e-5, atol=1e-5)


def test_the_catalogue_is_indexed_with_features_that_are_at_hand(processor, model):
    bare = UniMPForConditionalGeneration(UniMPConfig(**_without_items(model.config.to_dict()))).eval()
    bare.model.vision_encoder.load_state_dict(model.model.vision_encoder.state_dict())
    pictures = processor.encode_pictures(bare)
    encoder = Encoder(bare)
    processor.index_catalog(bare, pictures=pictures)
    assert encoder.seen == 0
    expected = model.model.item_content.image_embeddings
    torch.testing.assert_close(bare.model.item_content.image_embeddings, expected, rtol=1e-5, atol=1e-5)


def _without_items(config):
    return config | {"num_items": 0, "catalog_fingerprint": None}


def test_rows_of_half_precision_keep_it(processor, model, tmp_path):
    model = model.to(torch.bfloat16)
    assert processor.encode_pictures(model, tmp_path).values.dtype == torch.bfloat16
    store = processor.encode_pictures(model, tmp_path, latents=True)
    assert store.values.dtype == torch.bfloat16
    assert processor.open_pictures(model).fingerprint == store.fingerprint
    assert processor.open_pictures(model.float()) is None  # of another precision: not used, and no error


def test_one_of_several_writes_and_the_others_read(processor, model, tmp_path, monkeypatch):
    stores, encode, both = [], pictures_unimp.FileLock.acquire, threading.Barrier(2)

    def meet(self, *args, **kwargs):
        both.wait(timeout=60)  # both have found nothing and want to write
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(pictures_unimp.FileLock, "acquire", meet)
    encoder = Encoder(model)
    threads = [
        threading.Thread(target=lambda: stores.append(processor.encode_pictures(model, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 2
    assert encoder.seen == 5


def test_a_store_goes_to_another_process_by_its_name(processor, model, tmp_path):
    keys = keys_of(processor, PICTURED)
    for folder in (tmp_path, None):
        store = processor.encode_pictures(model, folder)
        sent = pickle.dumps(store)
        assert torch.equal(pickle.loads(sent)[keys], store[keys])
        assert (len(sent) < 500) == (folder is not None)


def test_reading_rows_does_not_read_the_file(tmp_path):
    """300 MB on disk, of which the rows asked for enter memory."""
    row = torch.ones(64, 50, 768)
    path = tmp_path / "pictures.safetensors"
    store = PictureStore.create(path, "features", "", 2000, row)
    keys = [number.to_bytes(16, "big") for number in range(1, 65)]
    store.append(keys, row)
    del store
    before = _memory()
    store = PictureStore.open(path)
    assert store[keys[3:5]].sum() == 2 * 50 * 768
    assert _memory() - before < 50
    assert len(store) == 64


def _memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# Answers


MIXED = ["hat", "shirt", "socks", {"title": "Bag"}, {"title": "Cap", "image": draw_picture(60)}]


@pytest.mark.parametrize("latents", [False, True])
def test_stored_pictures_and_others_share_a_batch(processor, model, task, latents):
    """Pictures of never-seen items, and of items that came after the store, are encoded beside the stored ones."""
    store = processor.encode_pictures(model, latents=latents)
    processor.catalog.add([{"item_id": "cap", "title": "Cap", "image": draw_picture(71)}])
    processor.index_catalog(model)
    requests = [make_request(task, [*MIXED, "cap", "gloves"]), make_request(task, ["gloves", "hat"])]
    expected = model(**processor(requests, task=task)).logits
    batch = processor(requests, task=task, catalog_features=store)
    assert len(batch["pixel_values"]) == 2
    assert ("image_latents" if latents else "image_features") in batch
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_never_looks_still_knows_a_new_item_by_its_picture(processor):
    model = UniMPForConditionalGeneration(
        UniMPConfig(
            cross_attention_every=0,
            num_behaviors=processor.num_behaviors,
            text_config={"model_type": "llama", "vocab_size": processor.text_vocab_size, "hidden_size": 32},
        )
    ).eval()
    processor.index_catalog(model)
    batch, without = processor({"history": MIXED}), processor({"history": MIXED}, catalog_features=NoPictures())
    assert len(without["pixel_values"]) == 1
    torch.testing.assert_close(model(**without).logits, model(**batch).logits, rtol=1e-5, atol=1e-5)


@pytest.fixture
def folder(processor, model, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("task", ["recommend", "rate"])
def test_a_pipeline_reads_the_file_of_its_folder(processor, model, folder, task):
    without = pipeline(f"unimp-{task}", model=str(folder), trust_remote_code=True)
    assert without.pictures is None
    request = make_request(task, MIXED)
    expected = without(request)
    processor.encode_pictures(model, folder, latents=True)
    pipe = pipeline(f"unimp-{task}", model=str(folder), trust_remote_code=True)
    encoder = Encoder(pipe.model)
    _assert_alike(pipe(request), expected)
    assert encoder.seen == 1  # the never-seen item's


def _assert_alike(answers, expected):
    if isinstance(expected, dict):
        assert answers["rating"] == pytest.approx(expected["rating"], abs=1e-5)
        return
    assert [answer["item_id"] for answer in answers] == [answer["item_id"] for answer in expected]
    for answer, other in zip(answers, expected, strict=True):
        assert answer["score"] == pytest.approx(other["score"], abs=1e-5)


def test_a_pipeline_refuses_a_file_of_other_weights(processor, model, folder):
    processor.encode_pictures(model, folder, latents=True)
    change_resampler(processor, model)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="made with other weights"):
        pipeline("unimp-recommend", model=str(folder), trust_remote_code=True)


def test_latents_are_saved_with_the_processor(processor, model, folder, tmp_path):
    processor.encode_pictures(model, folder, latents=True)
    loaded = UniMPProcessor.from_pretrained(folder)
    loaded.save_pretrained(folder)  # onto itself
    loaded.save_pretrained(tmp_path / "elsewhere")
    elsewhere = UniMPProcessor.from_pretrained(tmp_path / "elsewhere")
    assert len(elsewhere.open_pictures(model)) == 5
    assert "picture_file" not in (folder / "processor_config.json").read_text()


def test_a_processor_whose_files_are_gone_writes_nothing(processor, model, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    processor.encode_pictures(model, source, latents=True)
    shutil.rmtree(source)
    with pytest.raises(
        FileNotFoundError, match=r"`processor.picture_file` .*latents.safetensors is gone.*encode_pict"
    ):
        processor.save_pretrained(target)
    assert not target.exists()
    processor.picture_file = None
    draw_picture(1).save(tmp_path / "one.png")
    table = pa.table({"item_id": ["one"], "image": pa.array([{"bytes": None, "path": "one.png"}])})
    processor.catalog = Catalog(table, root=tmp_path)
    (tmp_path / "one.png").unlink()
    with pytest.raises(ImageError, match=r"`image` of item 'one': .*The catalogue cannot be saved without it"):
        processor.save_pretrained(target)
    assert not target.exists()


def test_which_tasks_show_pictures():
    assert make_processor(full_chunks=1).shows_pictures(["recommend"])
    processor = make_processor(full_chunks=0)
    assert not processor.shows_pictures(["recommend", "search"])
    for task in ("rate", "explain", "select"):
        assert processor.shows_pictures(["recommend", task])
