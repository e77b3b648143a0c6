"""On a GPU everything answers as on a CPU, wherever its inputs lie."""

import copy
from itertools import pairwise

import pytest
import torch
from transformers import pipeline

from unimp import UniMPForConditionalGeneration
from unimp.modeling_unimp import trie_unimp
from unimp.processing.pipelines_unimp import UniMPRecommendPipeline

from .modeling_unimp.test_decoding import semantic_model
from .modeling_unimp.test_sessions import CUTS, PROMPT, stretch
from .modeling_unimp.tiny import ANSWER, END, FIRST_ITEM, ITEM, SAMPLES, prompt, tiny_model
from .processing import test_semantic_codes
from .processing.conftest import TASK_NAMES, draw_picture, make_model, make_processor, make_request
from .processing.test_pipelines import make_pipeline, same

DEVICE = "cuda:0"
HISTORY = ["shirt", "hat", {"title": "Cap", "image": draw_picture(60)}, "socks", "hat"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch.cuda.is_available() is false: no GPU")


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch) -> None:
    """Convolutions, too, in float32 and not in a shorter format that a GPU takes for it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)


@pytest.fixture(params=[1, 4], ids=["atomic", "semantic"])
def models(request) -> tuple[UniMPForConditionalGeneration, UniMPForConditionalGeneration]:
    """One model on the CPU, and again on the GPU."""
    model = tiny_model(items=24) if request.param == 1 else semantic_model(items=24, sizes=[2, 3, 2, 4])
    return model, there(model)


@pytest.fixture(params=["listed", "counted"])
def _kept(request, monkeypatch) -> None:
    """How the items that may be answered are kept."""
    monkeypatch.setattr(trie_unimp, "SORTED_SHARE", 0 if request.param == "listed" else 1000)


def there(values):
    """On the GPU."""
    if isinstance(values, torch.nn.Module):
        return copy.deepcopy(values).to(DEVICE)
    return {name: value.to(DEVICE) for name, value in values.items()}


def alike(actual, expected, tolerance=1e-3):
    assert actual.device == torch.device(DEVICE)
    torch.testing.assert_close(actual.cpu(), expected, rtol=tolerance, atol=tolerance)


def ranked_alike(actual, expected):
    assert actual[1].tolist() == expected[1].tolist()
    alike(actual[0], expected[0])


def training_batch(model):
    """Padded on the right, as the processor does: where a token sees nothing, gradients on a GPU are not numbers."""
    codes = model._item_codes(torch.tensor(4, device=model.device)).tolist()
    answer = [FIRST_ITEM + start + code for start, code in zip(model.config.level_starts, codes, strict=True)]
    rows = [[*sample, ITEM, *answer, ANSWER, 7, 8] for sample in SAMPLES]
    ids, labels = (torch.full((len(rows), max(map(len, rows))), value) for value in (0, -100))
    later = labels[..., None].clone()
    for number, row in enumerate(rows):
        end, first = len(row), len(row) - 3 - len(answer)
        ids[number, :end] = torch.tensor(row)
        labels[number, first:end] = ids[number, first:end]
        labels[number, end - 3] = -100  # the marker
        later[number, first] = FIRST_ITEM + 1
    return prompt() | {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels, "later_labels": later}


def gradients(model, batch):
    model.train().set_trainable("all")
    outputs = model(**batch)
    (outputs.loss - outputs.later_log_probs.sum()).backward()
    return outputs, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_loss_and_gradients(models):
    here, gpu = models
    batch = training_batch(here)
    expected, here_gradients = gradients(here, batch)
    outputs, gpu_gradients = gradients(gpu, there(batch))
    alike(outputs.loss.detach(), expected.loss.detach())
    alike(outputs.log_probs.detach(), expected.log_probs.detach())
    assert gpu_gradients.keys() == here_gradients.keys()
    for name, gradient in gpu_gradients.items():
        alike(gradient, here_gradients[name])


def test_a_step_in_autocast_is_finite(models):
    gpu = models[1]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        outputs, found = gradients(gpu, there(training_batch(gpu)))
    assert outputs.log_probs.dtype == torch.float32
    assert all(torch.isfinite(gradient).all() for gradient in found.values())


# Answers


@pytest.mark.usefixtures("_kept")
@pytest.mark.parametrize("limit", [None, "exclude", "candidates"])
def test_rankings(models, limit):
    here, gpu = models
    positions = torch.tensor([[0, 3, 3, 7, 9], [5, -1, -1, -1, -1], [-1, 5, 1, 23, 2]])
    wide = {"top_k": 24, "beam_width": 24, **there(prompt(ITEM))}
    limits = {} if limit is None else {limit: positions}
    expected = here.rank_items(24, beam_width=24, **limits, **prompt(ITEM))
    ranked_alike(gpu.rank_items(**wide, **there(limits)), expected)
    ranked_alike(gpu.rank_items(**wide, **limits), expected)  # positions may also come from the CPU
    assert gpu.trie.item_of_leaf.device == torch.device(DEVICE)


def test_scores_and_selections(models):
    here, gpu = models
    alike(gpu.score_items(**there(prompt(ITEM))), here.score_items(**prompt(ITEM)))
    candidates = [[0, 3, 7], [5], [9, 1, 1, 2, 11]]
    assert gpu.select_items(candidates, **there(prompt(ITEM))) == here.select_items(candidates, **prompt(ITEM))
    texts = [[5, 6, 2], [7, 2], [9]]
    alike(gpu.score_texts(texts, **there(prompt(ANSWER))), here.score_texts(texts, **prompt(ANSWER)))
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = gpu.generate(**there(prompt(ANSWER)), **settings)
    assert generated.tolist() == here.generate(**prompt(ANSWER), **settings).tolist()


def test_a_session(models):
    here, gpu = models
    ends = CUTS["anywhere"]
    session = gpu.start_session(**there(stretch(gpu, 0, ends[0])))
    for start, end in pairwise(ends):
        session.read(**there(stretch(gpu, start, end)))
    assert session.is_current()
    expected = here.rank_items(top_k=24, beam_width=24, **stretch(here, 0, len(PROMPT)))
    ranked_alike(session.rank(top_k=24, beam_width=24), expected)


def test_half_precision(models):
    gpu = models[1].to(torch.bfloat16)
    scores, items = gpu.rank_items(top_k=24, beam_width=24, **there(prompt(ITEM)))
    assert torch.isfinite(scores).all()
    assert items.sort().values.tolist() == [list(range(24))] * 3
    assert torch.isfinite(gpu.score_items(**there(prompt(END)))).all()
    session = gpu.start_session(**there(stretch(gpu, 0, len(PROMPT))))
    assert torch.isfinite(session.rank(top_k=3)[0]).all()


@pytest.fixture(scope="module")
def shop():
    processor = make_processor(full_chunks=None)
    return make_model(processor), processor


def requests(task):
    return [make_request(task, history) for history in (HISTORY, [], ["gloves", {"title": "Bag"}])]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_pipelines(shop, task):
    model, processor = shop
    expected = make_pipeline(task, model, processor)(requests(task), batch_size=2)
    pipe = make_pipeline(task, there(model), processor, device=0)
    assert pipe.device == torch.device(DEVICE)
    assert all(map(same, pipe(requests(task), batch_size=2), expected))


def test_a_live_session_follows_clicks_and_the_catalogue():
    answers = []
    for device in ("cpu", DEVICE):
        processor = make_processor()
        pipe = UniMPRecommendPipeline(model=make_model(processor), processor=processor, device=device)
        session = pipe.start_session(HISTORY[:2])
        for event in HISTORY[2:]:
            session.append(event)
        processor.catalog.add([{"item_id": "cap", "title": "Cap", "image": draw_picture(70)}])
        processor.index_catalog(pipe.model)
        answers.append([session.recommend(top_k=5), session.recommend(candidates=["cap", "belt"])])
    assert same(*answers)


def test_codes_of_items_old_and_new():
    codes, cap = [], {"item_id": "cap", "title": "Cap", "image": draw_picture(77)}
    for device in ("cpu", DEVICE):
        processor = make_processor()
        model = test_semantic_codes.semantic_model(processor).to(device)
        processor.index_catalog(model, fit_codes=test_semantic_codes.first_rows)
        processor.catalog.add([cap])
        replaced = processor.catalog.replace([{"item_id": "hat", "title": "Something else"}])
        processor.index_catalog(model, replaced)
        codes.append(processor.catalog.codes.tolist())
        answers = UniMPRecommendPipeline(model=model, processor=processor, device=device)({"history": ["shirt", cap]})
        assert len(answers) == 7  # all but what was seen
    assert codes[0] == codes[1]


def test_stored_latents_of_a_saved_model(shop, tmp_path):
    model, processor = there(shop[0]), copy.copy(shop[1])
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    store = processor.encode_pictures(model, tmp_path, latents=True)
    torch.testing.assert_close(
        store.values, shop[1].encode_pictures(shop[0], latents=True).values, rtol=1e-3, atol=1e-3
    )
    pipe = pipeline("unimp-recommend", model=str(tmp_path), trust_remote_code=True, device=0)
    assert len(pipe.pictures) == len(store)
    expected = make_pipeline("recommend", *shop)(requests("recommend"))
    assert all(map(same, pipe(requests("recommend")), expected))


def test_training_in_mixed_precision(tmp_path):
    from unimp.processing.demo_store import build_demo_store
    from unimp.processing.splits import leave_one_out
    from unimp.processing.store import make_store
    from unimp.training.evaluation import evaluate
    from unimp.training.pictures import training_pictures
    from unimp.training.recipe import ModelArguments, build, load
    from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig

    from .training.conftest import TINY, TINY_RUN

    store = make_store(*build_demo_store(num_items=40, num_users=30))
    split = leave_one_out(store.interactions)
    args = UniMPTrainingConfig(**(TINY_RUN | {"output_dir": str(tmp_path), "max_steps": 3, "bf16": True}))
    model, processor = build(store, ModelArguments(**TINY), split.train, args)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = UniMPTrainer(model, args, processor, split.train)
    trainer.train()
    assert model.device == torch.device(DEVICE)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len([loss for loss in losses if 0 < loss < float("inf")]) == 3
    moved = [name for name, weight in model.named_parameters() if (weight.detach().cpu() != before[name]).any()]
    assert "model.item_rows.learned" in moved
    assert not any(name.startswith("model.vision_encoder") for name in moved)
    trainer.save_model()
    pictures = training_pictures(model, processor, args, latents=True)
    figures = evaluate(model, processor, split.test.select(range(4)), split.train, ["recommend"], pictures)
    assert 0 <= figures["recommend"]["model"]["ndcg@10"] <= 1
    loaded, processor = load(str(tmp_path))
    assert torch.equal(loaded.model.item_rows.learned, model.model.item_rows.learned.cpu())
