"""What trains: named policies, steps that move it alone, adapters, several processes."""

import copy

import peft
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.fsdp import fully_shard

from unimp import UniMPForConditionalGeneration

from .tiny import ANSWER, FIRST_ITEM, ITEM, NUM_ITEMS, prompt, tiny_model

NEW = [
    "model.resampler.",
    "model.cross_attention.",
    "model.key_values.",
    "model.markers.",
    "model.behaviors.",
    "model.item_rows.",
    "item_head.",
    "item_norm.",
    "query_weight.",
]
POLICIES = {"new": NEW, "all": ["model.language_model.", "lm_head.", *NEW]}
FROZEN = {"new": ["model.vision_encoder.", "model.language_model.", "lm_head."], "all": ["model.vision_encoder."]}


def _batch(seed: int = 0) -> dict[str, torch.Tensor]:
    inputs = prompt(ITEM, FIRST_ITEM + 4, ANSWER, 7, 8)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4] = FIRST_ITEM + 4
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    behaviors = torch.randint(1, 9, (*labels.shape, 2), generator=torch.Generator().manual_seed(seed))
    matches = torch.rand(len(labels), NUM_ITEMS, generator=torch.Generator().manual_seed(seed))
    return {**inputs, "labels": labels, "behavior_ids": behaviors, "query_matches": matches}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("policy", ["new", "all"])
def test_a_policy_trains_exactly_what_it_names(policy, tied):
    model = tiny_model(tied=tied, tie_item_embeddings=tied)
    names = model.set_trainable(policy)
    everything = [name for name, _ in model.named_parameters()]
    trains, frozen = tuple(POLICIES[policy]), tuple(FROZEN[policy])
    assert all(name.startswith(trains) != name.startswith(frozen) for name in everything)
    assert names == [name for name in everything if name.startswith(trains)]
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(names)
    used = {prefix for prefix in trains for name in names if name.startswith(prefix)}
    unused = {"item_head.", "lm_head."} if tied else set()
    assert used == set(trains) - unused


def test_an_unknown_policy_is_refused(model):
    with pytest.raises(ValueError, match=r"`policy`.*'some'"):
        model.set_trainable("some")


@pytest.mark.parametrize("policy", ["new", "all"])
def test_a_step_moves_what_trains_and_nothing_else(policy, decoder):
    model = tiny_model(decoder, tied=False, tie_item_embeddings=False)
    names = set(model.set_trainable(policy))
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model(**_batch()).loss.backward()
    optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == names  # buffers too stay as they were, the vision encoder's BatchNorm statistics among them
    assert any(name.endswith("running_mean") for name in before)


def test_the_vision_encoder_always_evaluates(model):
    new = UniMPForConditionalGeneration(model.config)  # never told to evaluate or to train
    assert not any(module.training for module in new.model.vision_encoder.modules())
    model.train()
    assert model.model.language_model.training
    assert not any(module.training for module in model.model.vision_encoder.modules())
    assert not model.get_image_features(_batch()["pixel_values"]).requires_grad


# The parts that UniMP adds; PEFT takes no module lists, so the blocks are named one by one.
def modules_to_save(model) -> list[str]:
    lists = ("cross_attention", "key_values")
    blocks = [f"{name}.{n}" for name in lists for n in range(len(model.model.cross_attention))]
    heads = [] if model.item_head is None else ["item_head"]
    return ["resampler", "markers", "behaviors", "item_rows", "item_norm", "query_weight", *heads, *blocks]


@pytest.mark.parametrize("tied", [True, False])
def test_adapters(tmp_path, tied):
    base = tiny_model(tied=tied, tie_item_embeddings=tied)
    pristine = copy.deepcopy(base)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        target_modules=r"model\.language_model\..*\.(q_proj|v_proj)",
        modules_to_save=modules_to_save(base),
    )
    expected = base(**prompt(ITEM)).logits
    adapted = peft.get_peft_model(base, config)
    torch.testing.assert_close(adapted(**prompt(ITEM)).logits, expected)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    new = {name.replace("base_model.model.", "").replace("modules_to_save.default.", "") for name in trained}
    lora = {name for name in new if "lora_" in name}
    assert new - lora == set(pristine.set_trainable("new"))
    assert len(lora) == 2 * 2 * 3
    assert all(".language_model.layers." in name for name in lora)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
    for _ in range(2):  # in the first step one half of each LoRA pair has no gradient
        adapted(**_batch()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in adapted.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == trained
    adapted.eval()
    logits = adapted(**prompt(ITEM)).logits
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = adapted.generate(**prompt(ANSWER), **settings)
    assert torch.equal(cached, adapted.generate(**prompt(ANSWER), **settings, use_cache=False))
    adapted.save_pretrained(tmp_path)
    assert not any("vision_encoder" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    loaded = peft.PeftModel.from_pretrained(pristine, tmp_path).eval()
    torch.testing.assert_close(loaded(**prompt(ITEM)).logits, logits)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(**prompt(ITEM)).logits, logits, rtol=1e-4, atol=1e-4)


def _gradients(model, batch):
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _two_processes(rank: int, folder: str, config: dict[str, int]) -> None:
    """Process 0 sees pictures and a query, process 1 does not: both must run the same modules."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = tiny_model(tie_item_embeddings=False, **config).train()
    model.set_trainable("all")
    batch = _batch(seed=rank)
    if rank == 1:
        batch = {key: batch[key] for key in ("input_ids", "attention_mask", "labels", "behavior_ids")}
    parallel = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model))  # not `find_unused_parameters`
    for _ in range(2):
        gradients = {name.removeprefix("module."): g for name, g in _gradients(parallel, batch).items()}
    torch.save(gradients, f"{folder}/gradients{rank}.pt")
    _sharded(model, batch, gradients)
    distributed.destroy_process_group()


def _sharded(model, batch, expected) -> None:
    """The same with FSDP. The frozen vision encoder, which process 1 does not run, is no unit of its own."""
    for module in (*model.model.language_model.layers, *model.model.cross_attention, model.model.picture_reader):
        fully_shard(module)
    fully_shard(model)
    for _ in range(2):
        gradients = _gradients(model, batch)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient.full_tensor(), expected[name], rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()


@pytest.mark.parametrize("config", [{}, {"cross_attention_every": 0}])
def test_what_is_never_split_is_in_the_model(config, decoder):
    """accelerate shards no model that lacks a class it is told of."""
    model = tiny_model(decoder, **config)
    own = {"UniMPGatedCrossAttention", "UniMPPerceiverResampler"}
    classes = {type(module).__name__ for module in model.modules()}
    assert model._no_split_modules <= classes
    assert own & model._no_split_modules == (set() if config else own)


@pytest.mark.parametrize("config", [{}, {"cross_attention_every": 0, "visual_prompt_tokens": 1}])
def test_two_processes_one_without_pictures_and_queries(tmp_path, config):
    mp.spawn(_two_processes, (str(tmp_path), config), nprocs=2)
    first, second = (torch.load(tmp_path / f"gradients{rank}.pt") for rank in range(2))
    model = tiny_model(tie_item_embeddings=False, **config).train()
    model.set_trainable("all")
    batches = _batch(seed=0), _batch(seed=1)
    left_out = ("pixel_values", "image_index", "query_matches")
    without = {key: value for key, value in batches[1].items() if key not in left_out}
    alone = [_gradients(model, batch) for batch in (batches[0], without)]
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name])
        expected = sum(gradients.get(name, torch.zeros_like(gradient)) for gradients in alone) / 2
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert set(first) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
