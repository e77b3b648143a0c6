"""Pictures that are several tokens of the prompt: written, read and asked about as any others."""

import subprocess
import sys

import pytest
import torch

from unimp.processing.chunks_unimp import IMAGE
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline

from .conftest import draw_picture, make_model, make_processor, make_request
from .test_live import check, clicks

MIXED = ["hat", {"image": draw_picture(93), "title": "Cap"}, "coat", "socks", "hat"]
EACH = 2


def make(**settings):
    processor = make_processor(full_chunks=None, **settings)
    return make_model(processor, cross_attention_every=0, visual_prompt_tokens=EACH), processor


def test_a_picture_is_written_as_so_many_tokens(order):
    _, processor = make(order=order)
    batch = processor({"history": MIXED})
    ids, image = batch["input_ids"][0].tolist(), processor.format.marker_ids[IMAGE]
    places = [place for place, token in enumerate(ids) if token == image]
    assert len(places) == 8
    assert all(second == first + 1 for first, second in zip(places[::2], places[1::2], strict=True))
    index = batch["image_index"][0].tolist()
    hat, cap, socks = index[0], index[2], index[4]
    assert {hat, cap, socks} == {0, 1, 2}
    assert index == [hat, hat, cap, cap, socks, socks, hat, hat]
    single = make_processor(full_chunks=None, order=order)  # what a chunk is beside that stays the same
    rest = [token for token in ids if token != image]
    assert rest == [token for token in single({"history": MIXED})["input_ids"][0].tolist() if token != image]


@torch.no_grad()
def test_a_batch_equals_its_samples_one_by_one(task):
    model, processor = make()
    requests = [make_request(task, history) for history in (MIXED, [], ["shirt", "gloves"])]
    together = model(**processor(requests, task=task)).logits[:, -1]
    alone = [model(**processor(request, task=task)).logits[:, -1] for request in requests]
    for row, logits in zip(together, alone, strict=True):
        known = min(len(row), logits.shape[-1])  # the batch's never-seen items come last
        torch.testing.assert_close(row[:known], logits[0, :known], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("latents", [False, True])
def test_kept_pictures_are_read_as_new_ones(latents, tmp_path):
    model, processor = make()
    store = processor.encode_pictures(model, tmp_path, latents=latents)
    expected = model(**processor({"history": MIXED})).logits
    batch = processor({"history": MIXED}, catalog_features=store)
    assert len(batch["pixel_values"]) == 1
    assert latents == ("image_latents" in batch)
    torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-5, atol=1e-5)
    model.model.visual_prompt.input_projection.weight.data += 1.0
    if latents:
        with pytest.raises(ValueError, match="made with other weights"):
            processor.encode_pictures(model, tmp_path, latents=True)
    else:
        assert torch.equal(processor.encode_pictures(model, tmp_path).values, store.values)


@pytest.mark.parametrize("full_chunks", [None, 1])
def test_every_click_of_a_session_is_answered_as_by_the_pipeline(full_chunks, order):
    model, processor = make(order=order)
    processor.full_chunks = full_chunks
    pipe, events = UniMPRecommendPipeline(model=model, processor=processor), clicks(20)
    session = pipe.start_session(events[:3])
    for number in range(3, 21):
        check(session.recommend(), pipe({"history": events[:number]}))
        if number < 20:
            session.append(events[number])


def test_a_saved_model_answers_the_same_in_another_process(tmp_path):
    model, processor = make()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    expected = UniMPRecommendPipeline(model=model, processor=processor)({"history": ["hat", "coat"]}, top_k=3)
    script = (
        "from transformers import pipeline\n"
        f"pipe = pipeline('unimp-recommend', model={str(tmp_path)!r}, trust_remote_code=True)\n"
        "assert pipe.processor.tokens_per_image == 2\n"
        "for entry in pipe({'history': ['hat', 'coat']}, top_k=3): print(entry['item_id'], entry['score'])\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    answers = [line.split() for line in output.splitlines()]
    assert [item_id for item_id, _ in answers] == [entry["item_id"] for entry in expected]
    assert [float(score) for _, score in answers] == pytest.approx([entry["score"] for entry in expected], abs=1e-5)


def test_a_processor_that_writes_other_tokens_is_refused():
    model, processor = make()
    processor.tokens_per_image = 1
    with pytest.raises(ValueError, match=r"as 2 tokens \(`visual_prompt_tokens`\), but the `processor` writes 1"):
        UniMPRecommendPipeline(model=model, processor=processor)({"history": ["hat"]})
    with pytest.raises(ValueError, match="`tokens_per_image` must be a whole number of at least 1, got 0"):
        make_processor(tokens_per_image=0)
