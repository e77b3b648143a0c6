"""Item code rows: what an item is known by, beside a text vocabulary that can stay frozen."""

import torch
from torch import nn

from .configuration_unimp import UniMPConfig


class UniMPItemContent(nn.Module):
    """
    What the catalogue's items are: their text and picture, stored with the weights.

    Text is kept as token ids and read through the decoder's own token embeddings (their mean), so that it never goes
    stale while those train; a picture as the pooled output of the vision encoder, which is frozen. Given embeddings of
    any other encoder may join them (`config.item_feature_size`).
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__()
        text_ids = torch.full((config.num_items, config.item_text_length), -1, dtype=torch.int32)
        self.register_buffer("text_ids", text_ids)
        self.register_buffer("image_embeddings", torch.zeros(config.num_items, config.vision_hidden_size))
        self.register_buffer("features", torch.zeros(config.num_items, config.item_feature_size))
        # Pooled pictures share a large common part; what tells items apart is the deviation from the catalogue's mean.
        self.register_buffer("image_mean", torch.zeros(config.vision_hidden_size))
        self.register_buffer("image_scale", torch.ones(config.vision_hidden_size))

    def add(self, text_ids: torch.Tensor, image_embeddings: torch.Tensor, features: torch.Tensor) -> None:
        """Append items; the first ones decide how pictures are standardised."""
        if not len(self.text_ids):
            self._fit_image_statistics(image_embeddings)
        self.text_ids = torch.cat([self.text_ids, text_ids.to(self.text_ids)])
        self.image_embeddings = torch.cat([self.image_embeddings, image_embeddings.to(self.image_embeddings)])
        self.features = torch.cat([self.features, features.to(self.features)])

    def replace(
        self, items: list[int], text_ids: torch.Tensor, image_embeddings: torch.Tensor, features: torch.Tensor
    ) -> None:
        """Change items; how pictures are standardised stays."""
        self.text_ids[items] = text_ids.to(self.text_ids)
        self.image_embeddings[items] = image_embeddings.to(self.image_embeddings)
        self.features[items] = features.to(self.features)

    def _fit_image_statistics(self, image_embeddings: torch.Tensor) -> None:
        present = image_embeddings[image_embeddings.any(dim=-1)].float()
        if len(present) > 1:
            self.image_mean = present.mean(0).to(self.image_mean)
            spread = present.std(0)
            # A channel that never varies tells no item from another; scaled up, it would drown a new one's others.
            self.image_scale = torch.where(spread > 1e-5, 1 / spread, 0.0).to(self.image_scale)

    def forward(self, token_embeddings: nn.Embedding) -> torch.Tensor:
        """Content of all items, `[num_items, content_size]`."""
        return self.encode(token_embeddings, self.text_ids, self.image_embeddings, self.features)

    def encode(
        self,
        token_embeddings: nn.Embedding,
        text_ids: torch.Tensor,
        image_embeddings: torch.Tensor,
        features: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            token_embeddings: the decoder's.
            text_ids: `[items, tokens]`, padded with -1.
            image_embeddings: `[items, vision_hidden_size]`, zeros where there is no picture.
            features: `[items, item_feature_size]`.
        """
        present = text_ids >= 0
        text = nn.functional.embedding_bag(
            text_ids.clamp(min=0),
            token_embeddings.weight,
            mode="sum",
            per_sample_weights=present.to(token_embeddings.weight),
        )
        has_image = image_embeddings.any(dim=-1, keepdim=True)
        image = (image_embeddings - self.image_mean) * self.image_scale * has_image
        # Of length 1 each (0 where nothing is known): what a projection adds to a row then starts as large as the
        # row's learned part, and a training step moves it no faster, however wide the content is.
        parts = (nn.functional.normalize(part.float(), dim=-1).to(text) for part in (text, image, features))
        return torch.cat(list(parts), dim=-1)


class UniMPItemRows(nn.Module):
    """
    One row an item code: a learned part plus a projection of the item's content, so that sparse items are known by
    what they are and an item never trained on is its content alone.

    Args:
        config ([`UniMPConfig`]): the model's.
        row_size (`int`): width of a row, as of the decoder's token embeddings.
        is_output (`bool`): whether items are predicted with these rows, which takes a bias an item.
    """

    def __init__(self, config: UniMPConfig, row_size: int, *, is_output: bool) -> None:
        super().__init__()
        content_size = row_size + config.vision_hidden_size + config.item_feature_size
        self.initializer_range = config.initializer_range
        self.dropout = config.item_dropout
        self.learned = nn.Parameter(torch.zeros(config.num_items, row_size))
        self.bias = nn.Parameter(torch.zeros(config.num_items)) if is_output else None
        self.projection = nn.Linear(content_size, row_size, bias=False)

    def add(self, num_items: int, *, trained: bool) -> None:
        """Append rows: random ones to be trained, or ones that are their content alone."""
        rows = self.learned.new_zeros(num_items, self.learned.shape[1])
        if trained:
            rows.normal_(std=self.initializer_range)
        trains = self.learned.requires_grad
        self.learned = nn.Parameter(torch.cat([self.learned.data, rows]), requires_grad=trains)
        if self.bias is not None:
            self.bias = nn.Parameter(torch.cat([self.bias.data, rows.new_zeros(num_items)]), requires_grad=trains)

    def forward(self, content: torch.Tensor) -> torch.Tensor:
        """`[num_items, row_size]`. In training the learned part of some items is dropped, as if they were new."""
        learned = self.learned
        if self.training and self.dropout > 0:
            learned = learned * (torch.rand_like(learned[:, :1]) >= self.dropout)
        return learned + self.projection(content)
