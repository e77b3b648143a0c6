"""Perceiver resampler and gated cross-attention (UniMP, section "Network"; the blocks are Flamingo's)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_unimp import UniMPConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention; `attention_mask` is boolean, `True` where a query may look."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class UniMPFeedForward(nn.Sequential):
    """Norm, widen, GELU, narrow."""

    def __init__(self, config: UniMPConfig) -> None:
        hidden_size = config.text_config.hidden_size
        inner_size = config.feed_forward_multiplier * hidden_size
        super().__init__(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, inner_size, bias=False),
            nn.GELU(),
            nn.Linear(inner_size, hidden_size, bias=False),
        )


def _split_heads(states: torch.Tensor, head_dim: int) -> torch.Tensor:
    return states.unflatten(-1, (-1, head_dim)).transpose(1, 2)  # [batch, heads, length, head_dim]


class UniMPKeyValues(nn.Module):
    """
    The key and value side of [`UniMPCrossAttention`]. It is a module apart, called once a picture, so that its result
    can be kept, and so that a sharded (FSDP) block is only ever used through its own `forward`.
    """

    def __init__(self, config: UniMPConfig, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.k_proj = nn.Linear(config.text_config.hidden_size, num_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(config.text_config.hidden_size, num_heads * head_dim, bias=False)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each `[batch, heads, length, head_dim]`, of `[batch, length, hidden_size]` states."""
        return _split_heads(self.k_proj(states), self.head_dim), _split_heads(self.v_proj(states), self.head_dim)


class UniMPCrossAttention(nn.Module):
    """Multi-head attention of hidden states to the keys and values that [`UniMPKeyValues`] made of something else."""

    def __init__(self, config: UniMPConfig, num_heads: int, head_dim: int) -> None:
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.config = config
        self.head_dim = head_dim
        self.scaling = head_dim**-0.5
        self.is_causal = False
        self.num_key_value_groups = 1
        self.query_norm = nn.LayerNorm(hidden_size)
        self.q_proj = nn.Linear(hidden_size, num_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_heads * head_dim, hidden_size, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`mask` is boolean, broadcast to `[batch, heads, tokens, keys]`, `True` where a token may look."""
        query = _split_heads(self.q_proj(self.query_norm(hidden_states)), self.head_dim)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, _ = attention(self, query, key, value, mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(output.flatten(2))


class UniMPResamplerLayer(GradientCheckpointingLayer):
    """Latents attend to a picture's features and to themselves, then a feed-forward layer."""

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__()
        self.feature_norm = nn.LayerNorm(config.text_config.hidden_size)
        self.attention = UniMPCrossAttention(config, config.resampler_heads, config.resampler_head_dim)
        self.context_projection = UniMPKeyValues(config, config.resampler_heads, config.resampler_head_dim)
        self.feed_forward = UniMPFeedForward(config)

    def forward(self, latents: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        context = torch.cat([self.feature_norm(features), self.attention.query_norm(latents)], dim=1)
        latents = latents + self.attention(latents, *self.context_projection(context))
        return latents + self.feed_forward(latents)


class UniMPPerceiverResampler(nn.Module):
    """
    Turns a picture's features, however many, into `config.num_latents` latents (UniMP, section "Network").

    The features are projected to the decoder's width first (the paper leaves the width open), so that a small decoder
    does not pay for a wide vision encoder.
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__()
        hidden_size = config.text_config.hidden_size
        self.input_norm = nn.LayerNorm(config.vision_hidden_size)
        self.input_projection = nn.Linear(config.vision_hidden_size, hidden_size)
        self.latents = nn.Parameter(torch.zeros(config.num_latents, hidden_size))
        self.layers = nn.ModuleList(UniMPResamplerLayer(config) for _ in range(config.resampler_depth))
        self.output_norm = nn.LayerNorm(hidden_size)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """`[pictures, positions, vision_hidden_size]` to `[pictures, num_latents, hidden_size]`."""
        features = self.input_projection(self.input_norm(image_features))
        latents = self.latents.expand(features.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.output_norm(latents)


class UniMPGatedCrossAttention(GradientCheckpointingLayer):
    """
    `x = x + tanh(a) * attention(x, latents)`, then `x = x + tanh(f) * feed_forward(x)`; both gates start at 0.

    A token that sees no picture passes unchanged through both branches. Flamingo masks the attention branch only; with
    the feed-forward branch masked too, a sample without pictures gives the same result alone (where the blocks are
    skipped) and beside samples that have some.
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__()
        self.attention = UniMPCrossAttention(config, config.cross_attention_heads, config.cross_attention_head_dim)
        self.feed_forward = UniMPFeedForward(config)
        self.attention_gate = nn.Parameter(torch.zeros(1))  # FSDP takes no 0-dimensional parameters
        self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden_states: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """`mask` is boolean, `[batch, 1, tokens, keys]`, `True` where a token may look."""
        sees = mask.any(dim=-1).transpose(1, 2)  # [batch, tokens, 1]
        attended = self.attention(hidden_states, key, value, mask | ~mask.any(dim=-1, keepdim=True))
        hidden_states = hidden_states + sees * self.attention_gate.tanh() * attended
        return hidden_states + sees * self.feed_forward_gate.tanh() * self.feed_forward(hidden_states)


@dataclass
class VisualContext:
    """
    What the decoder layers need to look at the pictures, handed down as one keyword argument.

    Attributes:
        blocks: the gated cross-attention blocks.
        key_values: per block, keys and values of the batch's distinct pictures, each
            `[pictures, heads, latents, head_dim]`.
        image_index: `[batch, images]`, which picture a sample's n-th `<image>` is; -1 for padding.
        mask: boolean `[batch, 1, tokens, images * latents]`.
        used: the blocks that ran, to notice a backbone that drops the keyword argument.
    """

    blocks: nn.ModuleList
    key_values: list[tuple[torch.Tensor, torch.Tensor]]
    image_index: torch.Tensor
    mask: torch.Tensor
    used: list[int] = field(default_factory=list)

    def look(self, block: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run gated cross-attention block number `block` over `[batch, tokens, hidden_size]`."""
        self.used.append(block)
        key, value = (self._per_sample(states) for states in self.key_values[block])
        return self.blocks[block](hidden_states, key, value, self.mask)

    def _per_sample(self, states: torch.Tensor) -> torch.Tensor:
        states = states[self.image_index.clamp(min=0)]  # [batch, images, heads, latents, head_dim]
        return states.transpose(1, 2).flatten(2, 3)


def _look_at_pictures(_layer: nn.Module, args: tuple, kwargs: dict, block: int | None) -> tuple[tuple, dict]:
    visual = kwargs.pop("visual_context", None)
    if visual is None or block is None:
        return args, kwargs
    return (visual.look(block, args[0]), *args[1:]), kwargs


def attach_cross_attention(layers: nn.ModuleList, every: int) -> int:
    """
    Let a gated cross-attention block run before every `every`-th decoder layer (0: before none); returns how many
    blocks that takes.

    The layers stay the backbone's own, with their own parameter names: a forward pre-hook takes the
    [`VisualContext`] off the keyword arguments. Neither layer nor hook keeps any state, so copying, pickling,
    activation checkpointing and compilation see nothing unusual. Hooks run outside a checkpointed layer: the blocks
    are checkpointed as layers of their own.
    """
    if every == 0:
        return 0
    for index, layer in enumerate(layers):
        block = index // every if index % every == 0 else None
        layer.register_forward_pre_hook(partial(_look_at_pictures, block=block), with_kwargs=True)
    return (len(layers) - 1) // every + 1


def ignores_pictures(text_config: PreTrainedConfig) -> str:
    """The error for a decoder that swallows what the blocks need."""
    return (
        f"`text_config`: a {text_config.model_type!r} decoder does not hand keyword arguments to its layers, so it "
        "would silently ignore every picture. Choose a decoder that does, such as llama, qwen3, gemma3_text, gpt2, "
        "gpt_neox or opt."
    )


def visibility(text_time: torch.Tensor, num_images: int, scope: str) -> torch.Tensor:
    """
    Mask M (UniMP, section "Network"): which of its sample's pictures a token sees.

    Args:
        text_time (`torch.LongTensor` of shape `(batch, tokens)`): number of `<image>` tokens up to and with this one.
        num_images (`int`): pictures per sample.
        scope (`"last"` or `"all"`): the most recent preceding picture, or all of them.

    Returns:
        `torch.BoolTensor` of shape `(batch, tokens, num_images)`.
    """
    number = torch.arange(1, num_images + 1, device=text_time.device)
    return text_time[..., None] == number if scope == "last" else text_time[..., None] >= number


def decoder_layers(language_model: nn.Module, text_config: PreTrainedConfig) -> nn.ModuleList:
    """The decoder's list of layers, whatever its backbone calls it."""
    for module in language_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == text_config.num_hidden_layers:
            return module
    raise ValueError(
        f"`text_config` of type {text_config.model_type!r} has no list of {text_config.num_hidden_layers} decoder "
        "layers to put cross-attention before: choose another decoder."
    )
