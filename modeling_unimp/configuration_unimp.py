"""UniMP model configuration."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from itertools import accumulate
from math import prod
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# Where a checkpoint's own code lives; written into `config.json`, so that a re-saved checkpoint keeps it.
AUTO_MAP = {
    "AutoConfig": "configuration_unimp.UniMPConfig",
    "AutoModel": "modeling_unimp.UniMPForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_unimp.UniMPForConditionalGeneration",
    "AutoModelForCausalLM": "modeling_unimp.UniMPForConditionalGeneration",
}
CUSTOM_PIPELINES = {
    f"unimp-{task}": {"impl": f"pipelines_unimp.UniMP{task.title()}Pipeline", "pt": ["AutoModelForImageTextToText"]}
    for task in ("recommend", "search", "rate", "explain", "select")
}

# Rows of the model's own, right after the text vocabulary, in this order; the item codes follow them.
MARKERS = ("<image>", "<|endofchunk|>", "<|item|>", "<|answer|>")

MINIMUM_SIZES = {
    0: ("num_items", "item_feature_size", "cross_attention_every", "visual_prompt_tokens"),
    1: (
        "item_text_length",
        "num_behaviors",
        "num_latents",
        "resampler_depth",
        "resampler_heads",
        "resampler_head_dim",
        "cross_attention_heads",
        "cross_attention_head_dim",
        "feed_forward_multiplier",
    ),
}


@strict
class UniMPConfig(PreTrainedConfig):
    r"""
    Configuration of a UniMP model: any Hugging Face vision encoder, any Hugging Face decoder, a perceiver resampler
    and gated cross-attention between them, and item code rows beside the text vocabulary. The defaults give a tiny
    model.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            The vision encoder's configuration; a tiny ResNet by default.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            The decoder's configuration; a tiny Llama by default.
        vision_hidden_size (`int`, *optional*):
            Channels of the vision encoder's last feature map. Read from `vision_config` where it says so.
        feature_grid (`int`, defaults to 4):
            A convolutional encoder's feature map is averaged to this many rows and columns.
        num_items (`int`, defaults to 0):
            Number of items of the catalogue. Grows with [`UniMPForConditionalGeneration.add_items`].
        code_sizes (`list[int]`, *optional*):
            How many codes each level of an item's semantic code has: an item is `len(code_sizes)` tokens, and items
            that are alike share the first ones. The last level only tells those apart that share all others. `None`:
            atomic codes, one token and one row of its own an item.
        catalog_fingerprint (`str`, *optional*):
            A short hash of the ids of the items that the codes stand for, in order; written by
            [`UniMPProcessor.index_catalog`], so that another catalogue is noticed. `None`: not known.
        item_text_length (`int`, defaults to 64):
            Text tokens of an item that enter its code's content, or that its semantic code is made of.
        item_feature_size (`int`, defaults to 0):
            Width of given item embeddings (of any encoder) that join the model's own there.
        item_embedding_scale (`float`, *optional*):
            Factor from a code's row to its input embedding; the square root of the row's width by default.
        item_dropout (`float`, defaults to 0.0):
            How often, in training, an item is known by its content alone, as a new one would be. Atomic codes only.
        new_item_bias (`float`, defaults to 0.0):
            What is added to the score of an item that joined a trained model, known by its content alone. 0: as
            probable as its content makes it beside items that were trained on, which is rarely enough for a first
            place; a shop that wants new items to be seen gives more
            ([`~UniMPForConditionalGeneration.set_new_item_bias`]). Atomic codes only.
        feature_similarity (`float`, defaults to 0.0):
            How much an item's likeness to the history adds to its score: this many times the cosines of its given
            features (`item_feature_size`, as deviations from the mean of the first items) with those of the items read
            so far, the most recent one's in full and each one's before it 0.6 times as much. In training, too, which
            then learns what likeness does not tell. Items outside the catalogue add nothing. For recommend and search:
            the candidates of a select prompt are items read, too, so that their order counts. Atomic codes only.
        feature_whitening (`float`, defaults to 0.0):
            How much the features are whitened before that, over all items that the catalogue has then: 0 not at all, 1
            so that each of their principal directions counts alike. To be set on a trained model whose catalogue is of
            a domain that it was not trained on, with a `feature_similarity` of some 16: what is common to that domain
            then counts no more than anything else. It takes many more items than the features are wide (with fewer all
            are equally unlike: 0.5 at most), and where items were trained on it costs a little.
        num_behaviors (`int`, defaults to 96):
            Rows of the table of event behaviours (rating, kind, time gap, period); row 0 means none.
        tie_item_embeddings (`bool`, defaults to `True`):
            Whether the input and output sides share the item rows.
        num_latents, resampler_depth, resampler_heads, resampler_head_dim (`int`):
            Size of the perceiver resampler (paper: 64, 6, 8, 64).
        cross_attention_every (`int`, defaults to 1):
            A gated cross-attention block stands before every n-th decoder layer. 0 for none: pictures are then known
            through the item codes alone, and cost nothing, but for `visual_prompt_tokens`.
        visual_prompt_tokens (`int`, defaults to 0):
            Instead of cross-attention: each picture is this many `<image>` tokens of the sequence itself, made by a
            small network (VIP5, section "Multi-modal prompts", has 2). It needs `cross_attention_every=0`.
        cross_attention_heads, cross_attention_head_dim (`int`):
            Size of the cross-attention (paper: 8, 64).
        feed_forward_multiplier (`int`, defaults to 4):
            Width of the resampler's and the gated blocks' feed-forward layers, in hidden sizes.
        visual_scope (`"last"` or `"all"`, defaults to `"last"`):
            Whether cross-attention shows a token its most recent preceding picture (the paper's mask M) or all
            preceding pictures.
        tie_word_embeddings (`bool`, *optional*):
            Whether the text head shares the text embeddings; as in `text_config` by default.
    """

    model_type = "unimp"
    keys_to_ignore_at_inference = ["past_key_values", "prefill"]
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            AutoConfig,
            model_type="resnet",
            init_kwargs={
                "embedding_size": 16,
                "hidden_sizes": [16, 32],
                "depths": [1, 1],
                "layer_type": "basic",
            },
        ),
        "text_config": SubConfigSpec(
            AutoConfig,
            model_type="llama",
            init_kwargs={
                "vocab_size": 512,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 2048,
                "tie_word_embeddings": True,
            },
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    vision_hidden_size: int | None = None
    feature_grid: int = 4
    num_items: int = 0
    code_sizes: list[int] | None = None
    catalog_fingerprint: str | None = None
    item_text_length: int = 64
    item_feature_size: int = 0
    item_embedding_scale: float | None = None
    item_dropout: float = 0.0
    new_item_bias: float = 0.0
    feature_similarity: float = 0.0
    feature_whitening: float = 0.0
    num_behaviors: int = 96
    tie_item_embeddings: bool = True
    num_latents: int = 8
    resampler_depth: int = 1
    resampler_heads: int = 4
    resampler_head_dim: int = 16
    cross_attention_every: int = 1
    visual_prompt_tokens: int = 0
    cross_attention_heads: int = 4
    cross_attention_head_dim: int = 16
    feed_forward_multiplier: int = 4
    visual_scope: Literal["last", "all"] = "last"
    tie_word_embeddings: bool | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.tie_word_embeddings is None:
            # Tying is decided by the top-level flag alone: copy the backbone's.
            self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        if self.vision_hidden_size is None:
            self.vision_hidden_size = self._vision_hidden_size()
        self.auto_map = dict(AUTO_MAP)
        self.custom_pipelines = {task: dict(entry) for task, entry in CUSTOM_PIPELINES.items()}

    def _vision_hidden_size(self) -> int:
        if isinstance(getattr(self.vision_config, "hidden_size", None), int):
            return self.vision_config.hidden_size
        if getattr(self.vision_config, "hidden_sizes", None):
            return self.vision_config.hidden_sizes[-1]
        raise ValueError(
            f"`vision_config` of type {self.vision_config.model_type!r} does not state its output width: "
            "give `vision_hidden_size`, or build the model with `from_backbones`, which measures it."
        )

    def validate_sizes(self) -> None:
        """Refuse sizes that cannot make a model."""
        for minimum, names in MINIMUM_SIZES.items():
            for name in names:
                if getattr(self, name) < minimum:
                    raise ValueError(f"`{name}` must be at least {minimum}, got {getattr(self, name)}.")
        check_one_way_to_show_pictures(self.cross_attention_every, self.visual_prompt_tokens)
        if not 0 <= self.item_dropout <= 1:
            raise ValueError(f"`item_dropout` must lie between 0 and 1, got {self.item_dropout}.")
        if not 0 <= self.feature_whitening <= 1:
            raise ValueError(f"`feature_whitening` must lie between 0 and 1, got {self.feature_whitening}.")
        if not 0 <= self.feature_similarity < float("inf"):
            raise ValueError(f"`feature_similarity` must be a number of at least 0, got {self.feature_similarity}.")
        if self.feature_similarity and (self.code_sizes is not None or not self.item_feature_size):
            raise ValueError(
                f"`feature_similarity` {self.feature_similarity} compares given features of items with codes of their "
                "own: it needs `item_feature_size` (an `item_encoder`), and no `code_sizes`."
            )
        if self.feature_whitening and not self.feature_similarity:
            raise ValueError(
                f"`feature_whitening` {self.feature_whitening} has no use without `feature_similarity`: give that too."
            )
        if self.code_sizes is not None and (len(self.code_sizes) < 2 or min(self.code_sizes) < 1):
            raise ValueError(f"`code_sizes` must be at least two sizes of at least 1, got {self.code_sizes}.")
        if self.code_sizes is not None and self.num_items > prod(self.code_sizes):
            raise ValueError(
                f"`code_sizes` {self.code_sizes} make {prod(self.code_sizes)} codes, too few for {self.num_items} "
                "items (`num_items`): choose larger ones."
            )
        if self.item_embedding_scale is not None and self.item_embedding_scale <= 0:
            raise ValueError(f"`item_embedding_scale` must be positive, got {self.item_embedding_scale}.")

    def marker_id(self, marker: str) -> int:
        """Token id of one of `MARKERS`: they come right after the text vocabulary."""
        return self.text_config.vocab_size + MARKERS.index(marker)

    @property
    def image_token_id(self) -> int:
        """Token id of `<image>`."""
        return self.marker_id("<image>")

    @property
    def tokens_per_image(self) -> int:
        """How many `<image>` tokens, one after the other, show a picture."""
        return max(1, self.visual_prompt_tokens)

    @property
    def reads_pictures(self) -> bool:
        """Whether pictures of a prompt are looked at; those of items act through their codes, too."""
        return bool(self.cross_attention_every or self.visual_prompt_tokens)

    @property
    def first_item_id(self) -> int:
        """Token id of the first item code."""
        return self.text_config.vocab_size + len(MARKERS)

    @property
    def vocab_size(self) -> int:
        """Text vocabulary, markers and item codes together: the width of `logits`."""
        return self.first_item_id + self.num_code_rows

    @property
    def level_sizes(self) -> list[int]:
        """Number of codes of each level of an item's code; with atomic codes one level of all items."""
        return [self.num_items] if self.code_sizes is None else list(self.code_sizes)

    @property
    def level_starts(self) -> list[int]:
        """Row of each level's first code; its token is `first_item_id` and that."""
        return [0, *accumulate(self.level_sizes)][:-1]

    @property
    def code_levels(self) -> int:
        """Tokens of an item."""
        return len(self.level_sizes)

    @property
    def num_code_rows(self) -> int:
        """Rows of all levels together."""
        return sum(self.level_sizes)


def check_one_way_to_show_pictures(cross_attention_every: int, visual_prompt_tokens: int) -> None:
    """Raises `ValueError` where pictures were to be shown in both ways."""
    if visual_prompt_tokens and cross_attention_every:
        raise ValueError(
            f"`visual_prompt_tokens` {visual_prompt_tokens} show pictures instead of cross-attention: set "
            f"`cross_attention_every` to 0, got {cross_attention_every}."
        )


def check_keys(keys: Iterable[str]) -> None:
    """
    Raises `ValueError` for a key that is no setting of [`UniMPConfig`], which itself accepts any, so that a typing
    error would be a setting that does nothing.
    """
    known = [field.name for field in fields(UniMPConfig)]
    for key in keys:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f": did you mean `{nearest[0]}`?" if nearest else ", see its documentation for those there are."
            raise ValueError(f"`{key}` is not a setting of `UniMPConfig`{hint}")


UniMPConfig.register_for_auto_class()
