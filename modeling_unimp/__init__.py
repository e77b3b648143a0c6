"""The network: config, resampler, gated cross-attention, model, item decoding. Tensors only."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from .configuration_unimp import UniMPConfig
from .modeling_unimp import UniMPForConditionalGeneration, UniMPModel, UniMPPreTrainedModel
from .preference_unimp import UniMPPreference  # diffusers loads classes only of modules that were imported

AutoConfig.register("unimp", UniMPConfig)
# `AutoModel` gives the model with its heads: the bare model would lose them when saved again.
for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
    auto_class.register(UniMPConfig, UniMPForConditionalGeneration)

__all__ = ["UniMPConfig", "UniMPForConditionalGeneration", "UniMPModel", "UniMPPreTrainedModel", "UniMPPreference"]
