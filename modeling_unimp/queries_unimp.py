"""What is added to the scores of items, beside what is learned of them: the words of a query that they have."""

import torch
from torch import nn

from .configuration_unimp import UniMPConfig

# What it counts at first that an item has all words of a query, as a logit.
FIRST_WEIGHT = 20.0


class UniMPQueryWeight(nn.Module):
    """How much it counts in a search that an item has words of the query; learned."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))  # weight decay leads to where it began

    def forward(self, query_matches: torch.Tensor) -> torch.Tensor:
        """What is added to the items' logits, like `query_matches`, in float32."""
        return FIRST_WEIGHT * self.log_scale.float().exp() * query_matches.float()


def check_item_scores(name: str, values: torch.Tensor | None, config: UniMPConfig, batch_size: int) -> None:
    """Raises `ValueError` where `values` are not one for each row and item, or items share codes."""
    if values is None:
        return
    if config.code_sizes is not None:
        raise ValueError(f"`{name}` are of items with a code of their own: leave them out with semantic codes.")
    expected = (batch_size, config.num_items)
    if values.shape != expected:
        raise ValueError(
            f"`{name}` must be {expected}, got {tuple(values.shape)}: rows by items. Where the catalogue has changed, "
            "call `processor.index_catalog(model)`."
        )


def answers_query(input_ids: torch.Tensor, config: UniMPConfig) -> torch.Tensor:
    """Where the answer to what a row asks is named, `[batch, tokens]`: at its last `<|item|>`."""
    asks = input_ids == config.marker_id("<|item|>")
    return asks & (asks.flip(-1).cumsum(-1).flip(-1) == 1)
