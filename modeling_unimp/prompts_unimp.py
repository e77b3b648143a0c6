"""Pictures as tokens of the sequence itself (VIP5, section "Multi-modal prompts"), instead of cross-attention."""

import torch
from torch import nn

from .configuration_unimp import UniMPConfig

ROW_SPREAD = 0.02  # with which every new row begins, and pictures enter


class UniMPVisualPrompt(nn.Module):
    """
    VIP5's mapping network, `Linear -> Tanh -> Linear -> LayerNorm`: from a picture's features to
    `config.visual_prompt_tokens` tokens. The row of the `<image>` marker, which is added to each of them, takes the
    place of VIP5's category embedding.

    VIP5 reads one vector of CLIP's; here it is the mean of the features of any encoder, which are normalised first, as
    they may be of a size at which Tanh tells nothing apart.
    """

    def __init__(self, config: UniMPConfig, row_size: int) -> None:
        super().__init__()
        self.row_size = row_size
        self.input_norm = nn.LayerNorm(config.vision_hidden_size)
        self.input_projection = nn.Linear(config.vision_hidden_size, row_size)
        self.output_projection = nn.Linear(row_size, config.visual_prompt_tokens * row_size)
        self.output_norm = nn.LayerNorm(row_size)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """`[pictures, positions, vision_hidden_size]` to `[pictures, visual_prompt_tokens, row_size]`."""
        hidden = self.input_projection(self.input_norm(image_features.mean(1))).tanh()
        return ROW_SPREAD * self.output_norm(self.output_projection(hidden).unflatten(-1, (-1, self.row_size)))


def picture_tokens(
    states: torch.Tensor, image_index: torch.Tensor, is_image: torch.Tensor, text_time: torch.Tensor
) -> torch.Tensor:
    """
    What each token of a batch shows of a picture.

    Args:
        states (`torch.Tensor` of shape `(pictures, tokens_per_image, row_size)`): what [`UniMPVisualPrompt`] returns.
        image_index (`torch.LongTensor` of shape `(batch, images)`): which picture a sample's n-th `<image>` token is a
            part of; -1, or nothing any more, for none.
        is_image (`torch.BoolTensor` of shape `(batch, tokens)`): the `<image>` tokens.
        text_time (`torch.LongTensor` of shape `(batch, tokens)`): number of `<image>` tokens up to and with this one.

    Returns:
        `torch.Tensor` of shape `(batch, tokens, row_size)`; zeros where no picture is shown.
    """
    number = (text_time - 1).clamp(0, image_index.shape[1] - 1)
    picture = image_index.gather(1, number)
    shown = is_image & (text_time <= image_index.shape[1]) & (picture >= 0)
    return torch.where(shown[..., None], states[picture.clamp(min=0), number % states.shape[1]], 0.0)
