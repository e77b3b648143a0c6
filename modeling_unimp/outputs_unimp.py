"""What the models return."""

from dataclasses import dataclass, replace

import torch
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput


@dataclass
class UniMPPrefill:
    """
    What reading a prompt leaves for cached decoding, beside the decoder's own `past_key_values`: nothing of it is
    computed again for the tokens that follow.

    Attributes:
        item_rows: input and output rows of all item codes, see `compute_item_rows`.
        picture_states: of the batch's distinct pictures, per cross-attention block keys and values; with
            `visual_prompt_tokens` instead their tokens, `[pictures, visual_prompt_tokens, row_size]`, in a tuple of
            their own; `None` without any.
        image_index: `[batch, images]`, which picture a sample's n-th `<image>` is.
        image_count: `[batch]`, `<image>` tokens read so far.
    """

    item_rows: tuple[torch.Tensor, torch.Tensor]
    picture_states: list[tuple[torch.Tensor, ...]] | None
    image_index: torch.Tensor | None
    image_count: torch.Tensor

    def repeat_interleave(self, repeats: int) -> "UniMPPrefill":
        """For that many continuations of every sample; the pictures stay shared."""
        index = None if self.image_index is None else self.image_index.repeat_interleave(repeats, dim=0)
        return replace(self, image_index=index, image_count=self.image_count.repeat_interleave(repeats))


@dataclass
class UniMPPromptState:
    """
    A batch of prompts that were read, from which any number of answers can be decoded.

    Attributes:
        hidden_states: `[batch, hidden_size]`, of each prompt's last token; with `config.feature_similarity` what its
            history is like beside them, `[batch, hidden_size + item_feature_size]`.
        past_key_values: the decoder's cache of all tokens; `None` where it was not asked for.
        attention_mask: `[batch, tokens]`, 0 for padding.
        prefill: the [`UniMPPrefill`] of pictures and item rows.
        added_scores: `[batch, num_items]`, what is added to the items' logits; `None` for nothing.
    """

    hidden_states: torch.Tensor
    past_key_values: Cache | None
    attention_mask: torch.Tensor
    prefill: UniMPPrefill
    added_scores: torch.Tensor | None = None


@dataclass
class UniMPModelOutput(BaseModelOutputWithPast):
    """
    [`~transformers.modeling_outputs.BaseModelOutputWithPast`] and the [`UniMPPrefill`] for the tokens to come.
    `last_hidden_state` may be wider than the decoder's, see [`UniMPPromptState`].
    """

    prefill: UniMPPrefill | None = None


@dataclass
class UniMPCausalLMOutput(ModelOutput):
    """
    Attributes:
        loss: mean negative log-probability of the labels, when `labels` are given.
        log_probs: `[batch, tokens]`, log-probability of each label given all before it; 0 where there is none.
        later_log_probs: `[batch, tokens, later]`, of the `later_labels`, where they are given.
        logits: `[batch, kept tokens, config.vocab_size]`, when no `labels` are given.
        past_key_values, hidden_states, attentions: the decoder's.
        prefill: the [`UniMPPrefill`] for the tokens to come.
    """

    loss: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    later_log_probs: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    prefill: UniMPPrefill | None = None
