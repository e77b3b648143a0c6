"""Ways to run the same network: attention kernels, checkpointing, compilation, precision, copies."""

import copy
import pickle

import pytest
import torch

from .test_decoding import make
from .test_sessions import PROMPT, stretch
from .tiny import ANSWER, FIRST_ITEM, ITEM, NUM_ITEMS, prompt, tiny_model

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def _training_batch():
    inputs = prompt(ITEM, FIRST_ITEM + 4, ANSWER, 7, 8)
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -4] = FIRST_ITEM + 4
    labels[:, -2:] = inputs["input_ids"][:, -2:]
    matches = torch.rand(len(labels), NUM_ITEMS, generator=torch.Generator().manual_seed(0))
    return {**inputs, "labels": labels, "query_matches": matches}


def _gradients(model):
    model.zero_grad()
    loss = model(**_training_batch()).loss
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_eager_attention_equals_sdpa(decoder):
    model = tiny_model(decoder)
    outputs = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation({"": implementation, "text_config": implementation})
        assert model.model.language_model.config._attn_implementation == implementation
        assert model.model.cross_attention[0].attention.config._attn_implementation == implementation
        outputs.append(model(**prompt(ITEM)).logits)
    keep = prompt(ITEM)["attention_mask"].bool()
    torch.testing.assert_close(outputs[0][keep], outputs[1][keep], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(decoder, reentrant):
    model = tiny_model(decoder).train()
    model.set_trainable("all")
    expected = _gradients(model)
    calls = []
    model.model.cross_attention[0].feed_forward.register_forward_pre_hook(lambda *_: calls.append("cross_attention"))
    model.model.resampler.layers[0].feed_forward.register_forward_pre_hook(lambda *_: calls.append("resampler"))
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    gradients = _gradients(model)
    assert sorted(calls) == ["cross_attention"] * 2 + ["resampler"] * 2  # computed again in the backward pass
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
@pytest.mark.parametrize("with_pictures", [True, False])
def test_compiles_into_one_graph(decoder, with_pictures):
    model = tiny_model(decoder)
    inputs = prompt(ITEM)
    if not with_pictures:
        inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs, use_cache=False)
        torch.testing.assert_close(compiled.logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_bfloat16():
    model = tiny_model()
    expected = model.score_items(**prompt(ITEM))
    model = model.to(torch.bfloat16)
    assert model(**prompt(ITEM)).logits.dtype == torch.bfloat16
    scores = model.score_items(**prompt(ITEM))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected, rtol=0.1, atol=0.15)
    tokens = model.generate(**prompt(ANSWER), **GREEDY)
    assert (tokens[:, -6:] < model.config.text_config.vocab_size).all()
    gradients = _gradients(model)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("levels", [1, 3], ids=["atomic", "semantic"])
@pytest.mark.parametrize("how", ["bfloat16", "float16", "autocast"])
def test_answers_in_short_formats_are_finite_and_near(how, levels):
    model = make(levels)
    number, whole = model.config.num_items, stretch(model, 0, len(PROMPT))
    expected = model.score_items(**whole)
    if how != "autocast":
        model = model.to(getattr(torch, how))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        session = model.start_session(**stretch(model, 0, 15))
        session.read(**stretch(model, 15, len(PROMPT)))
        for scores, items in (
            model.rank_items(number, beam_width=number, **whole),
            session.rank(number, beam_width=number),
        ):
            assert scores.dtype == torch.float32
            torch.testing.assert_close(scores, expected.gather(1, items), rtol=0.1, atol=0.4)
            assert sorted(items[0].tolist()) == list(range(number))
        chosen = model.select_items([[4, 2, 0]], **whole)[0]
    assert chosen
    assert set(chosen) <= {0, 2, 4}


def test_autocast_training_step():
    model = tiny_model().train()
    trained = model.set_trainable("new")
    expected = _gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = _gradients(model)
    assert set(gradients) == set(expected) == set(trained) - {"model.behaviors.weight"}
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.97, name


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_independent(model, copied):
    before = model(**prompt(ITEM)).logits
    other = copied(model)
    assert torch.equal(other(**prompt(ITEM)).logits, before)
    torch.nn.init.normal_(other.model.cross_attention[0].attention.o_proj.weight)
    assert not torch.allclose(other(**prompt(ITEM)).logits, before, atol=1e-3)
    assert torch.equal(model(**prompt(ITEM)).logits, before)


def test_a_forward_leaves_no_state_behind(model):
    def state():
        return {
            (name, key): dict(value) if isinstance(value, dict) else value
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if key != "_kept_rows"  # which are kept while no one asks for gradients, and nothing else
        }

    before = state()
    model(**prompt(ITEM))
    model.generate(**prompt(ANSWER), **GREEDY)
    after = state()
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] is not after[key] and before[key] != after[key]] == []


def test_hidden_states_and_attentions_are_the_decoders(model):
    model.set_attn_implementation("eager")
    output = model(**prompt(ITEM), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 4
    assert len(output.attentions) == 3
    as_tuple = model(**prompt(ITEM), return_dict=False)
    assert torch.equal(as_tuple[0], output.logits)
