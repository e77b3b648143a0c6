"""Soft preference embeddings: what they are, what trains, and that the recommender stays as it is."""

import pytest
import torch

from unimp.modeling_unimp.preference_unimp import KINDS, UniMPPreference, UniMPPreferenceConfig

from .tiny import prompt, single, tiny_model

WORDS = [41, 7, 63]


def make(model, **sizes) -> UniMPPreference:
    return UniMPPreference.from_model(model, conditioning_size=12, **{"num_soft_tokens": 3, **sizes}).eval()


def as_words(preference, model) -> None:
    """Soft tokens that are the embeddings of words: what they should become is then known."""
    preference.config.embedding_scale = 1.0
    preference.soft_tokens.data = model.get_input_embeddings()(torch.tensor(WORDS)).detach()


def expected(preference, hidden_states):
    kind = preference.kinds.weight[KINDS.index("soft")]
    return preference.soft_projection(preference.soft_norm(hidden_states)) + kind


@pytest.mark.parametrize(
    "way",
    [{"visual_scope": "last"}, {"visual_scope": "all"}, {"cross_attention_every": 0, "visual_prompt_tokens": 1}],
    ids=["last", "all", "visual prompt"],
)
def test_soft_tokens_are_read_as_words_at_the_end_of_the_prompt_would_be(decoder, way):
    model = tiny_model(decoder, **way)
    preference = make(model)
    as_words(preference, model)
    inputs = prompt()
    longer = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([WORDS] * 3)], dim=1)}
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(3, 3, dtype=torch.long)], dim=1)
    with torch.no_grad():
        hidden_states = model.model(**longer).last_hidden_state[:, -3:]
        soft = preference(model, **inputs)
    assert soft.shape == (3, 3, 12)
    torch.testing.assert_close(soft, expected(preference, hidden_states), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_a_batch_equals_one_by_one(model, num_prefix_tokens):
    preference, inputs = make(model, num_prefix_tokens=num_prefix_tokens), prompt()
    with torch.no_grad():
        together = preference(model, **inputs)
        for row in range(3):
            torch.testing.assert_close(
                together[row : row + 1], preference(model, **single(inputs, row)), rtol=1e-4, atol=1e-5
            )
    assert (together[0] - together[1]).abs().max() > 0.01  # people differ


@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_what_should_train_moves_and_the_recommender_does_not(decoder, num_prefix_tokens):
    model = tiny_model(decoder).requires_grad_(False)
    preference = make(model, num_prefix_tokens=num_prefix_tokens)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start = {name: parameter.detach().clone() for name, parameter in preference.named_parameters()}
    optimizer = torch.optim.SGD(preference.parameters(), lr=0.1)
    (preference(model, **prompt()) * torch.randn(3, 3, 12)).sum().backward()
    optimizer.step()
    moved = {name.partition(".")[0] for name, p in preference.named_parameters() if not torch.equal(start[name], p)}
    prefix = {"prefix"} if num_prefix_tokens else set()
    assert moved == {"soft_tokens", "soft_norm", "soft_projection", "kinds"} | prefix
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_prefixes_no_gradient_runs_through_the_prompt(model):
    """Not even where the recommender could train: only the soft tokens' own way is kept."""
    preference = make(model)
    preference(model, **prompt()).sum().backward()
    assert model.model.resampler is not None
    assert all(parameter.grad is None for parameter in model.model.resampler.parameters())
    assert preference.soft_tokens.grad.abs().max() > 0


def test_prefixes_are_seen_by_the_prompt(model):
    preference, inputs = make(model, num_prefix_tokens=2), prompt()
    with torch.no_grad():
        before = preference(model, **inputs)
        preference.prefix.embedding.weight[:] += 1.0
        assert (preference(model, **inputs) - before).abs().max() > 1e-3


def test_keywords_keep_their_place_and_kind(model):
    preference = make(model)
    words = torch.randn(2, 4, preference.config.hidden_size)
    target, taste = (preference.embed_keywords(words, kind) for kind in ("target", "preference"))
    assert target.shape == (2, 4, 12)
    difference = preference.kinds.weight[KINDS.index("target")] - preference.kinds.weight[KINDS.index("preference")]
    torch.testing.assert_close(target - taste, difference.expand_as(target))
    torch.testing.assert_close(preference.embed_keywords(words[:, 2:3], "target"), target[:, 2:3])


@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_save_and_load_is_exact(tmp_path, model, num_prefix_tokens):
    preference = make(model, num_prefix_tokens=num_prefix_tokens)
    preference.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = UniMPPreference.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(model, **prompt()), preference(model, **prompt()))


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ({"num_soft_tokens": 0}, "num_soft_tokens"),
        ({"conditioning_size": 0}, "conditioning_size"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens"),
        ({"num_prefix_tokens": 2}, "prefix_shape"),
    ],
)
def test_sizes_that_make_nothing_are_refused(sizes, name):
    with pytest.raises(Exception, match=f"`{name}`"):
        UniMPPreferenceConfig(**sizes)
