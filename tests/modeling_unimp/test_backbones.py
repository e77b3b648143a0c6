"""Pretrained parts: gates at 0 leave the decoder as it was, and what cannot work is refused by name."""

import re

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    MobileNetV2Config,
    ViTConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from unimp import UniMPConfig, UniMPForConditionalGeneration

from .tiny import IMAGE, VOCAB, open_gates, pictures, text_config, text_model, tiny_model, vision_model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}
PLAIN = torch.tensor([[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]])
WITH_PICTURES = torch.tensor([[5, IMAGE, 7, IMAGE, 9], [15, 16, IMAGE, 18, 19]])


def _bare_logits(text, model, input_ids):
    """What the bare backbone says when it reads the same tokens, with the `<image>` rows written in by hand."""
    embeddings = text.get_input_embeddings()
    states = embeddings(input_ids.clamp(max=VOCAB - 1))
    row = model.model.markers.weight[0] * model.model.embedding_scale
    states = torch.where((input_ids == IMAGE)[..., None], row, states)
    return text(inputs_embeds=states, attention_mask=torch.ones_like(input_ids)).logits


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_closed_gates_leave_the_decoder_as_it_was(decoder, tied):
    text = text_model(decoder, tied)
    model = UniMPForConditionalGeneration.from_backbones(vision_model(), text)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    logits = model(input_ids=PLAIN).logits[..., :VOCAB]
    torch.testing.assert_close(logits, text(input_ids=PLAIN).logits, rtol=0, atol=1e-5)
    expected = _bare_logits(text, model, WITH_PICTURES)
    logits = model(input_ids=WITH_PICTURES, pixel_values=pictures(3)).logits[..., :VOCAB]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    open_gates(model)
    opened = model(input_ids=WITH_PICTURES, pixel_values=pictures(3)).logits[..., :VOCAB]
    assert not torch.allclose(opened, expected, atol=1e-2)


def test_from_saved_folders(tmp_path):
    text, vision = text_model("qwen3"), vision_model()
    text.save_pretrained(tmp_path / "text")
    vision.save_pretrained(tmp_path / "vision")
    model = UniMPForConditionalGeneration.from_backbones(str(tmp_path / "vision"), str(tmp_path / "text"))
    torch.testing.assert_close(model(input_ids=PLAIN).logits[..., :VOCAB], text(input_ids=PLAIN).logits)
    features = vision(pixel_values=pictures(1)).last_hidden_state.flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.get_image_features(pictures(1)), features)


def test_the_given_decoder_stays_apart():
    text = text_model()
    before = text(input_ids=PLAIN).logits
    model = UniMPForConditionalGeneration.from_backbones(vision_model(), text)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(text(input_ids=PLAIN).logits, before)


def test_half_precision_backbone_gives_a_half_precision_model(tmp_path):
    text_model().bfloat16().save_pretrained(tmp_path)
    text = AutoModelForCausalLM.from_pretrained(tmp_path)
    model = UniMPForConditionalGeneration.from_backbones(vision_model(), str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    ids = torch.arange(60)[None]  # rounded frequencies would show at late positions
    assert torch.equal(model(input_ids=ids).logits[..., :VOCAB], text(input_ids=ids).logits)


def test_sampling_settings_of_a_chat_do_not_carry_over():
    text = text_model()
    text.generation_config.update(repetition_penalty=3.0, do_sample=True, temperature=0.3, eos_token_id=[2, 7])
    generation = UniMPForConditionalGeneration.from_backbones(vision_model(), text).generation_config
    assert generation.eos_token_id == [2, 7]
    assert generation.repetition_penalty in (None, 1.0)
    assert not generation.do_sample


@pytest.mark.parametrize(
    ("vision", "width", "positions"),
    [
        (lambda: AutoModel.from_config(MobileNetV2Config(image_size=64, depth_multiplier=0.35)), 1280, 16),
        (lambda: AutoModel.from_config(ViTConfig(**SIZES)), 32, 5),
        (lambda: CLIPVisionModel(CLIPVisionConfig(**SIZES)), 32, 5),
    ],
    ids=["mobilenet_v2", "vit", "clip_vision"],
)
def test_vision_encoders(vision, width, positions):
    torch.manual_seed(0)
    vision = vision()
    for parameter in vision.parameters():
        if parameter.ndim > 1:  # random weights that do not fade out over many layers
            torch.nn.init.kaiming_normal_(parameter)
    size = vision.config.image_size
    model = UniMPForConditionalGeneration.from_backbones(vision, text_model(), initializer_range=0.2)
    assert model.config.vision_hidden_size == width
    images = torch.randn(2, 3, size, size)
    assert model.get_image_features(images).shape == (2, positions, width)
    open_gates(model)
    image = torch.tensor([[IMAGE]])
    first, second = (model(input_ids=image, pixel_values=picture[None]).logits for picture in images)
    assert not torch.allclose(first, second, atol=1e-4)


def test_two_tower_folder_gives_its_vision_tower(tmp_path):
    text_sizes = {key: SIZES[key] for key in list(SIZES)[:4]}
    clip = CLIPModel(CLIPConfig(text_config={**text_sizes, "vocab_size": 64}, vision_config=SIZES, projection_dim=16))
    clip.eval().save_pretrained(tmp_path)
    model = UniMPForConditionalGeneration.from_backbones(str(tmp_path), text_model())
    expected = clip.vision_model(pixel_values=pictures(2)).last_hidden_state
    torch.testing.assert_close(model.get_image_features(pictures(2)), expected)


# Decoders that drop keyword arguments (some refuse them in `forward`, some swallow them).
DROPPING = {
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_neo": {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
}


@pytest.mark.parametrize("name", DROPPING)
def test_a_decoder_that_would_ignore_pictures_is_refused_by_name(name):
    config = CONFIG_MAPPING[name](vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **DROPPING[name])

    def build_and_look():
        model = UniMPForConditionalGeneration(UniMPConfig(text_config=config))
        model(input_ids=WITH_PICTURES, pixel_values=pictures(3))

    with pytest.raises(ValueError, match=f"`text_config`: a '{name}' decoder"):
        build_and_look()


@pytest.mark.parametrize("name", ["mpt", "bloom", "gpt_neo", "falcon"])
def test_from_backbones_refuses_a_decoder_that_would_ignore_pictures(name):
    config = CONFIG_MAPPING[name](vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, **DROPPING[name])
    with pytest.raises(ValueError, match=f"`text_config`: a '{name}' decoder"):
        UniMPForConditionalGeneration.from_backbones(vision_model(), AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("visual_scop", "`visual_scop` is not a setting of `UniMPConfig`: did you mean `visual_scope`?"),
        ("num_latent", "`num_latent` is not a setting of `UniMPConfig`: did you mean `num_latents`?"),
        ("zzz", "`zzz` is not a setting of `UniMPConfig`, see its documentation"),
    ],
)
def test_from_backbones_refuses_unknown_settings(key, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        UniMPForConditionalGeneration.from_backbones("not/read", "not/read", **{key: "all"})
    UniMPConfig(**{key: "all"})  # which takes anything, as configurations of transformers do


def test_a_decoder_whose_logits_we_cannot_reproduce_is_refused_by_name():
    with pytest.raises(ValueError, match="'granite' scales its logits"):
        tiny_model(text_config=text_config("granite", logits_scaling=2.0))
    biased = AutoModelForCausalLM.from_config(text_config("phi", tied=False))
    with pytest.raises(ValueError, match="'phi' adds a bias"):
        UniMPForConditionalGeneration.from_backbones(vision_model(), biased)
