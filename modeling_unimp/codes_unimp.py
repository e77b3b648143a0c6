"""Semantic item codes: several tokens an item, of which items that are alike share the first ones."""

import math
from collections import Counter

import torch
from torch import nn

from .configuration_unimp import UniMPConfig

# Columns that a token's vector is projected to where the decoder's embeddings are wider.
MAX_TOKEN_VECTOR_SIZE = 64
# Items compared with all codes of a level at once.
BLOCK_SIZE = 8192


class UniMPPictureStatistics(nn.Module):
    """Mean and spread of a catalogue's pictures, each channel of the vision encoder's pooled output by itself."""

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__()
        # Pooled pictures share a large common part; what tells items apart is the deviation from the catalogue's mean.
        # In full precision whatever the model's: a channel of small spread has a scale that float16 cannot hold.
        self.register_buffer("image_mean", torch.zeros(config.vision_hidden_size, dtype=torch.float32))
        self.register_buffer("image_scale", torch.ones(config.vision_hidden_size, dtype=torch.float32))

    def fit_image_statistics(self, image_embeddings: torch.Tensor) -> None:
        """Take them from a catalogue, `[items, vision_hidden_size]`, rows of zeros for items without a picture."""
        present = image_embeddings[image_embeddings.any(dim=-1)].float()
        if len(present) > 1:
            self.image_mean = present.mean(0).to(self.image_mean)
            spread = present.std(0)
            # A channel that never varies tells no item from another; scaled up, it would drown a new one's others.
            self.image_scale = torch.where(spread > 1e-5, 1 / spread, 0.0).to(self.image_scale)

    def standardised(self, image_embeddings: torch.Tensor) -> torch.Tensor:
        """Pooled pictures with mean 0 and spread 1, still zeros where there is none."""
        has_image = image_embeddings.any(dim=-1, keepdim=True)
        return (image_embeddings - self.image_mean) * self.image_scale * has_image


def _items_with(text_ids: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How many texts, `[items, tokens]` padded with -1, have each token."""
    text_ids = text_ids.sort(dim=-1).values
    first = torch.ones_like(text_ids, dtype=torch.bool)
    first[:, 1:] = text_ids[:, 1:] != text_ids[:, :-1]
    return text_ids[first & (text_ids >= 0)].long().bincount(minlength=vocab_size)


class UniMPItemCodes(UniMPPictureStatistics):
    """
    The semantic codes of a catalogue's items, and the codebooks that give new items theirs: the code of a level is the
    centroid nearest to what the levels before it left of the item's embedding (residual quantisation, as in TIGER,
    Rajput et al., 2023); the last level numbers the items that share all the others.

    An item's embedding is made of its text, its picture and the features it may come with. Its text is read through
    the decoder's token embeddings as they were when the codebooks were made: new items must find their like however
    far the decoder has been trained since. Tokens that few items have count more, by their inverse document frequency
    (Sparck Jones, 1972): what most texts say tells no item from another.

    Attributes:
        codes: `[num_items, code_levels]`, int32.
        centroids: `[code_levels - 1, largest of these levels, embedding size]`; a smaller level's are the first rows.
        token_vectors: `[text vocabulary, at most 64]`, the decoder's token embeddings of then, projected and weighted.
        kept_variance: share of the variance of the first items' embeddings that their centroids tell.
    """

    def __init__(self, config: UniMPConfig, row_size: int) -> None:
        super().__init__(config)
        self.code_sizes = list(config.code_sizes)
        token_vector_size = min(row_size, MAX_TOKEN_VECTOR_SIZE)
        size = token_vector_size + config.vision_hidden_size + config.item_feature_size
        self.register_buffer("codes", self.first_codes(config))
        self.register_buffer("centroids", torch.zeros(len(self.code_sizes) - 1, max(self.code_sizes[:-1]), size))
        self.register_buffer("token_vectors", torch.zeros(config.text_config.vocab_size, token_vector_size))
        self.register_buffer("kept_variance", torch.zeros(()))

    @staticmethod
    def first_codes(config: UniMPConfig) -> torch.Tensor:
        """Codes where nothing is known of the items: the first ones, counted up."""
        codes = torch.unravel_index(torch.arange(config.num_items), config.code_sizes)
        return torch.stack(codes, dim=-1).int()

    @torch.no_grad()
    def start(self, token_embeddings: nn.Embedding, text_ids: torch.Tensor, image_embeddings: torch.Tensor) -> None:
        """
        Settle how items are embedded, before there are codebooks.

        Args:
            token_embeddings: the decoder's.
            text_ids: `[items, tokens]`, padded with -1.
            image_embeddings: `[items, vision_hidden_size]`, zeros where there is no picture.
        """
        self.fit_image_statistics(image_embeddings)
        vectors, size = token_embeddings.weight.float(), self.token_vectors.shape[1]
        if vectors.shape[1] > size:
            projection = torch.randn(vectors.shape[1], size, generator=torch.Generator().manual_seed(0))
            vectors = vectors @ (projection / math.sqrt(size)).to(vectors.device)
        items_with = _items_with(text_ids.to(vectors.device), len(vectors))
        self.token_vectors = (vectors * ((len(text_ids) + 1) / (items_with + 1)).log()[:, None]).to(self.token_vectors)

    def code_embeddings(
        self, text_ids: torch.Tensor, image_embeddings: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """
        What codes are made of, `[items, embedding size]`: text, picture and features, each of length 1.

        Args:
            text_ids: `[items, tokens]`, padded with -1.
            image_embeddings: `[items, vision_hidden_size]`, zeros where there is no picture.
            features: `[items, item_feature_size]`.
        """
        device = self.token_vectors.device
        text_ids = text_ids.to(device)
        text = nn.functional.embedding_bag(
            text_ids.clamp(min=0),
            self.token_vectors.float(),
            mode="sum",
            per_sample_weights=(text_ids >= 0).float(),
        )
        image = self.standardised(image_embeddings.to(self.image_mean))
        parts = (text, image, features.to(device))
        return torch.cat([nn.functional.normalize(part.float(), dim=-1) for part in parts], dim=-1)

    def set_centroids(self, centroids: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Take `centroids` for a catalogue to come, whose `code_embeddings` these are."""
        if centroids.shape != self.centroids.shape:
            raise ValueError(
                f"`centroids` must be of shape {tuple(self.centroids.shape)}, got {tuple(centroids.shape)}."
            )
        self.centroids = centroids.to(self.centroids, copy=True)
        mean = embeddings.mean(0, keepdim=True)
        lost = sum(self._nearest(block)[1].square().sum() for block in embeddings.split(BLOCK_SIZE))
        total = sum((block - mean).square().sum() for block in embeddings.split(BLOCK_SIZE))
        self.kept_variance = (1 - lost.to(total) / total.clamp(min=1e-9)).to(self.kept_variance)

    def nearest(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Codes of all levels but the last, `[items, embedding size]` to `[items, code_levels - 1]`."""
        return torch.cat([self._nearest(block)[0] for block in embeddings.split(BLOCK_SIZE)])

    def _nearest(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes, and what they leave of the embeddings."""
        codes, residual = [], residual.to(self.centroids.device, torch.float32)
        for level in range(len(self.centroids)):
            codes.append(self._distances(residual, level).argmin(-1))
            residual = residual - self.centroids[level, codes[-1]].float()
        return torch.stack(codes, dim=-1), residual

    def _distances(self, residual: torch.Tensor, level: int) -> torch.Tensor:
        """Squared distances to a level's centroids, each but for a constant."""
        centroids = self.centroids[level, : self.code_sizes[level]].float()
        return centroids.square().sum(-1) - 2 * residual @ centroids.T

    def assign(self, embeddings: torch.Tensor) -> torch.Tensor:
        """
        Codes for items that join the catalogue, in order: nearest centroid by nearest centroid, then the next free
        number. An item whose cell is full goes, level by level, to the nearest centroid below which there is room.

        Args:
            embeddings (`torch.Tensor` of shape `(items, embedding size)`): their `code_embeddings`.

        Returns:
            `torch.Tensor` of shape `(items, code_levels)`, int32.

        Raises:
            `ValueError`: there are more items than codes.
        """
        num_items, num_codes = len(self.codes) + len(embeddings), math.prod(self.code_sizes)
        if num_items > num_codes:
            raise ValueError(
                f"`code_sizes` {self.code_sizes} make {num_codes} codes, too few for {num_items} items: train a new "
                "model with larger ones."
            )
        codes = self.nearest(embeddings)
        cells = self._cells(torch.cat([self.codes[:, :-1].long(), codes]))
        order = cells.argsort(stable=True)  # the catalogue's items before new ones
        starts = torch.searchsorted(cells[order], cells)
        numbers = torch.empty_like(cells)
        numbers[order] = torch.arange(len(cells), device=cells.device) - starts[order]
        numbers = numbers[len(self.codes) :]
        codes = torch.cat([codes, numbers[:, None]], dim=-1)
        if (numbers >= self.code_sizes[-1]).any():
            self._spill(codes, embeddings)
        return codes.int()

    def _cells(self, codes: torch.Tensor) -> torch.Tensor:
        """One number for the first codes of items, `[items, levels]` of however many levels."""
        cells = torch.zeros_like(codes[:, 0])
        for size, level in zip(self.code_sizes, codes.T, strict=False):
            cells = cells * size + level
        return cells

    def _spill(self, codes: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Find room for items whose number is past the last level."""
        outside = codes[:, -1] >= self.code_sizes[-1]
        known = torch.cat([self.codes.long(), codes[~outside]])
        taken = []  # per level of centroids, how many items lie below each beginning of codes
        for level in range(len(self.centroids)):
            cells, counts = self._cells(known[:, : level + 1]).unique(return_counts=True)
            taken.append(Counter(dict(zip(cells.tolist(), counts.tolist(), strict=True))))
        for item in outside.nonzero()[:, 0].tolist():
            codes[item] = codes.new_tensor(self._take_free_code(embeddings[item : item + 1], taken))

    def _take_free_code(self, residual: torch.Tensor, taken: list[Counter[int]]) -> list[int]:
        """Codes of one item, which is then counted in `taken`."""
        residual, cell, code = residual.to(self.centroids.device, torch.float32), 0, []
        for level, below in enumerate(taken):
            first, room = cell * self.code_sizes[level], math.prod(self.code_sizes[level + 1 :])
            nearest = self._distances(residual, level)[0].argsort().tolist()
            code.append(next(number for number in nearest if below[first + number] < room))
            cell = first + code[-1]
            below[cell] += 1
            residual = residual - self.centroids[level, code[-1]].float()
        return [*code, taken[-1][cell] - 1]

    def add(self, embeddings: torch.Tensor) -> None:
        """Give items of these `code_embeddings` their codes, and append them to the catalogue."""
        self.codes = torch.cat([self.codes, self.assign(embeddings).to(self.codes)])
