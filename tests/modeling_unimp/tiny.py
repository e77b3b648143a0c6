"""Tiny random models and prompts."""

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, ResNetConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from unimp import UniMPConfig, UniMPForConditionalGeneration

VOCAB = 96
IMAGE, END, ITEM, ANSWER = range(VOCAB, VOCAB + 4)
FIRST_ITEM = VOCAB + 4
NUM_ITEMS = 6

_SHARED = {
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
DECODERS = {
    "llama": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": {**_LLAMA, "final_logit_softcapping": 5.0, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "opt": {**_LLAMA, "ffn_dim": 48, "word_embed_proj_dim": 24, "dropout": 0.0, "init_std": 0.2},
    "gpt_neox": _LLAMA,
    "gpt2": {
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}


def text_config(decoder: str = "llama", tied: bool = True, **kwargs) -> PreTrainedConfig:
    sizes = {**_SHARED, **DECODERS.get(decoder, _LLAMA), "tie_word_embeddings": tied, **kwargs}
    if decoder not in ("llama", "qwen3", "gemma3_text"):
        sizes.pop("head_dim", None)
        sizes.pop("num_key_value_heads", None)
    return CONFIG_MAPPING[decoder](**sizes)


def text_model(decoder: str = "llama", tied: bool = True) -> PreTrainedModel:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(text_config(decoder, tied)).eval()


def vision_model() -> PreTrainedModel:
    torch.manual_seed(2)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 24], "depths": [1, 1], "layer_type": "basic"}
    return AutoModel.from_config(ResNetConfig(**sizes)).eval()


def open_gates(model: UniMPForConditionalGeneration) -> None:
    for block in model.model.cross_attention:
        block.attention_gate.data.fill_(0.8)
        block.feed_forward_gate.data.fill_(-0.6)


def pictures(number: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2


def item_texts(number: int, seed: int = 4, length: int = 5) -> torch.Tensor:
    """Random texts of different lengths, padded with -1; the last one is empty."""
    texts = torch.randint(3, VOCAB, (number, length), generator=torch.Generator().manual_seed(seed))
    lengths = torch.arange(number).flip(0).clamp(max=length)
    return texts.masked_fill(torch.arange(length) >= lengths[:, None], -1)


def item_embeddings(model: UniMPForConditionalGeneration, number: int, seed: int = 5) -> torch.Tensor:
    """Pooled features of random pictures; the second item has none."""
    embeddings = model.get_image_features(pictures(number, seed)).mean(1)
    embeddings[1] = 0
    return embeddings


def tiny_model(
    decoder: str = "llama", *, tied: bool = True, items: int = NUM_ITEMS, gates: bool = True, **config
) -> UniMPForConditionalGeneration:
    """A model whose every part, also the behaviours and biases, has weights that show."""
    torch.manual_seed(0)
    config = {"text_config": text_config(decoder, tied), "item_text_length": 6, "initializer_range": 0.2, **config}
    config.setdefault("vision_config", vision_model().config)
    model = UniMPForConditionalGeneration(UniMPConfig(**config)).eval()
    if items:
        features = torch.randn(items, model.config.item_feature_size) if model.config.item_feature_size else None
        model.add_items(item_texts(items), item_embeddings(model, items), features)
    for name, parameter in model.named_parameters():
        if name.endswith("item_rows.bias") or name.endswith("item_head.bias"):
            torch.nn.init.normal_(parameter)
    if gates:
        open_gates(model)
    return model


def left_pad(*samples: list[int]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of samples of different lengths."""
    length = max(map(len, samples))
    input_ids = torch.tensor([[0] * (length - len(sample)) + sample for sample in samples])
    mask = torch.tensor([[0] * (length - len(sample)) + [1] * len(sample) for sample in samples])
    return {"input_ids": input_ids, "attention_mask": mask}


# Three samples with two, one and no picture, of different lengths.
SAMPLES = (
    [11, 12, FIRST_ITEM + 1, IMAGE, 13, 14, END, FIRST_ITEM + 3, IMAGE, 15],
    [21, FIRST_ITEM, IMAGE, 22, 23],
    [31, 32, FIRST_ITEM + 2, END, FIRST_ITEM + 5, 33],
)


def prompt(*ending: int, samples: tuple[list[int], ...] = SAMPLES) -> dict[str, torch.Tensor]:
    """A left-padded batch whose samples share a picture: two distinct pictures for three `<image>` tokens."""
    batch = left_pad(*[[*sample, *ending] for sample in samples])
    index = torch.tensor([[0, 1], [1, -1], [-1, -1]])[: len(samples)]
    return {**batch, "pixel_values": pictures(2), "image_index": index}


def single(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One sample of a batch of `prompt`, without padding and without pictures that are not its own."""
    keep = batch["attention_mask"][row].bool()
    inputs = {"input_ids": batch["input_ids"][row : row + 1, keep]}
    index = batch["image_index"][row]
    if (index >= 0).any():
        inputs["pixel_values"] = batch["pixel_values"][index[index >= 0]]
    return inputs
