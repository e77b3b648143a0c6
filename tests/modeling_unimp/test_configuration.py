"""The config: defaults, derived values and refused ones."""

import pytest
from transformers import AutoConfig

from unimp import UniMPConfig, UniMPForConditionalGeneration
from unimp.modeling_unimp import configuration_unimp
from unimp.processing import chunks_unimp

from .tiny import text_config


def test_defaults_build_a_tiny_model():
    model = UniMPForConditionalGeneration(UniMPConfig())
    assert model.num_parameters() < 1_000_000
    assert model.config.vision_hidden_size == 32
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_token_ids_follow_the_text_vocabulary():
    config = UniMPConfig(text_config=text_config(), num_items=5)
    ids = [config.marker_id(marker) for marker in configuration_unimp.MARKERS]
    assert ids == [96, 97, 98, 99]
    assert config.image_token_id == 96
    assert (config.first_item_id, config.vocab_size) == (100, 105)


def test_markers_agree_with_the_processors():
    assert configuration_unimp.MARKERS == chunks_unimp.MARKERS


@pytest.mark.parametrize("tied", [True, False])
def test_tying_is_the_decoders_unless_said_otherwise(tied):
    assert UniMPConfig(text_config=text_config(tied=tied)).tie_word_embeddings is tied
    assert (
        UniMPConfig(text_config=text_config(tied=tied), tie_word_embeddings=not tied).tie_word_embeddings is not tied
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_latents", 0),
        ("resampler_depth", 0),
        ("cross_attention_every", -1),
        ("cross_attention_heads", -1),
        ("feed_forward_multiplier", 0),
        ("item_text_length", 0),
        ("num_behaviors", 0),
        ("num_items", -1),
        ("item_feature_size", -1),
        ("item_dropout", 1.5),
        ("item_dropout", -0.1),
        ("item_embedding_scale", 0.0),
        ("visual_scope", "first"),
        ("num_latents", "many"),
        ("tie_item_embeddings", "yes"),
    ],
)
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(Exception, match=name):
        UniMPConfig(**{name: value})


def test_a_vision_encoder_of_unknown_width_is_refused():
    vision = {"model_type": "mobilenet_v2"}
    with pytest.raises(ValueError, match="`vision_hidden_size`"):
        UniMPConfig(vision_config=vision)
    assert UniMPConfig(vision_config=vision, vision_hidden_size=1280).vision_hidden_size == 1280


def test_round_trip(tmp_path):
    config = UniMPConfig(text_config=text_config("gpt2"), visual_scope="all", num_items=3, item_dropout=0.3)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is UniMPConfig
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert loaded.auto_map["AutoModel"].endswith("UniMPForConditionalGeneration")
    assert set(loaded.custom_pipelines) == {f"unimp-{t}" for t in ("recommend", "search", "rate", "explain", "select")}
