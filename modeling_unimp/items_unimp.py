"""Item code rows: what an item is known by, beside a text vocabulary that can stay frozen."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from .codes_unimp import UniMPPictureStatistics
from .configuration_unimp import UniMPConfig
from .similarity_unimp import feature_directions, mean_features, whiten
from .trie_unimp import check_positions


class UniMPItemContent(UniMPPictureStatistics):
    """
    What the catalogue's items are: their text and picture, stored with the weights.

    Text is kept as token ids and read through the decoder's own token embeddings (their mean), so that it never goes
    stale while those train; a picture as the pooled output of the vision encoder, which is frozen. Given embeddings of
    any other encoder may join them (`config.item_feature_size`).
    """

    def __init__(self, config: UniMPConfig) -> None:
        super().__init__(config)
        text_ids = torch.full((config.num_items, config.item_text_length), -1, dtype=torch.int32)
        self.register_buffer("text_ids", text_ids)
        images = torch.zeros(config.num_items, config.vision_hidden_size, dtype=torch.float32)
        self.register_buffer("image_embeddings", images)
        self.register_buffer("features", torch.zeros(config.num_items, config.item_feature_size))
        self.register_buffer("feature_mean", torch.zeros(config.item_feature_size))

    def add(self, text_ids: torch.Tensor, image_embeddings: torch.Tensor, features: torch.Tensor) -> None:
        """Append items; the first ones decide how pictures are standardised, and what features deviate from."""
        if not len(self.text_ids):
            self.fit_image_statistics(image_embeddings)
            self.feature_mean = mean_features(features).to(self.feature_mean)
        self.text_ids = torch.cat([self.text_ids, text_ids.to(self.text_ids)])
        self.image_embeddings = torch.cat([self.image_embeddings, image_embeddings.to(self.image_embeddings)])
        self.features = torch.cat([self.features, features.to(self.features)])

    def replace(
        self, items: list[int], text_ids: torch.Tensor, image_embeddings: torch.Tensor, features: torch.Tensor
    ) -> None:
        """Change items; how pictures are standardised stays, and what features deviate from."""
        self.text_ids[items] = text_ids.to(self.text_ids)
        self.image_embeddings[items] = image_embeddings.to(self.image_embeddings)
        self.features[items] = features.to(self.features)

    def feature_directions(self, whitening: float) -> torch.Tensor:
        """See the function of this name, `[num_items, item_feature_size]`; of whitened features, if they are to be."""
        features, mean = self.features.float(), self.feature_mean.float()
        if whitening:
            features, mean = whiten(features, whitening), torch.zeros_like(mean)
        return feature_directions(features, mean)

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
        present, table = text_ids >= 0, _whole_table(token_embeddings)
        text = nn.functional.embedding_bag(
            text_ids.clamp(min=0), table, mode="sum", per_sample_weights=present.to(table)
        )
        image = self.standardised(image_embeddings)
        # Of length 1 each (0 where nothing is known): what a projection adds to a row then starts as large as the
        # row's learned part, and a training step moves it no faster, however wide the content is.
        parts = (nn.functional.normalize(part.float(), dim=-1).to(text) for part in (text, image, features))
        return torch.cat(list(parts), dim=-1)


def _whole_table(embeddings: nn.Embedding) -> torch.Tensor:
    """All rows; of a module whose rows lie spread over processes (FSDP2) its own `forward` alone can tell them."""
    if not hasattr(embeddings.weight, "full_tensor"):
        return embeddings.weight
    return embeddings(torch.arange(embeddings.num_embeddings, device=embeddings.weight.device))


class UniMPItemRows(nn.Module):
    """
    One row an item code. Atomic codes, one an item: a learned part plus a projection of the item's content, so that
    sparse items are known by what they are and an item never trained on is its content alone. Semantic codes, shared
    by items that are alike: the learned part alone.

    Args:
        config ([`UniMPConfig`]): the model's.
        row_size (`int`): width of a row, as of the decoder's token embeddings.
        is_output (`bool`): whether items are predicted with these rows, which takes a bias an item.
    """

    def __init__(self, config: UniMPConfig, row_size: int, *, is_output: bool) -> None:
        super().__init__()
        atomic = config.code_sizes is None
        content_size = row_size + config.vision_hidden_size + config.item_feature_size
        self.initializer_range = config.initializer_range
        self.dropout = config.item_dropout
        self.learned = nn.Parameter(torch.zeros(config.num_code_rows, row_size))
        self.bias = nn.Parameter(torch.zeros(config.num_code_rows)) if is_output else None
        self.projection = nn.Linear(content_size, row_size, bias=False) if atomic else None

    def add(self, num_items: int, *, trained: bool, bias: float = 0.0) -> None:
        """Append rows: random ones to be trained, or ones that are their content alone; and biases."""
        rows = self.learned.new_zeros(num_items, self.learned.shape[1])
        if trained:
            rows.normal_(std=self.initializer_range)
        trains = self.learned.requires_grad
        self.learned = nn.Parameter(torch.cat([self.learned.data, rows]), requires_grad=trains)
        if self.bias is not None:
            biases = rows.new_full((num_items,), bias)
            self.bias = nn.Parameter(torch.cat([self.bias.data, biases]), requires_grad=trains)

    def forward(self, content: torch.Tensor | None) -> torch.Tensor:
        """`[num_code_rows, row_size]`. In training the learned part of some items is dropped, as if they were new."""
        if content is None:
            return self.learned
        learned = self.learned
        if self.training and self.dropout > 0:
            learned = learned * (torch.rand_like(learned[:, :1]) >= self.dropout)
        return learned + self.projection(content)


# What item rows are made of, but for their token embeddings.
PARTS_OF_ROWS = (UniMPItemContent, UniMPItemRows, nn.Linear)


class CatalogRowsMixin:
    """Item rows of [`UniMPForConditionalGeneration`]."""

    _kept_rows: tuple[list, tuple[torch.Tensor, torch.Tensor]] | None = None

    @torch.no_grad()
    def add_items(
        self,
        text_ids: torch.Tensor,
        image_embeddings: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> None:
        """
        Append items to the catalogue. Atomic codes: each gets a row of its own, the first ones random learned rows, to
        be trained, and items added to a model that has some are known by their content alone. Semantic codes: they get
        those of items like them, see [`UniMPItemCodes`], whose codebooks come first.

        Args:
            text_ids (`torch.LongTensor` of shape `(items, tokens)`): the items' text, padded with -1.
            image_embeddings (`torch.Tensor` of shape `(items, vision_hidden_size)`, *optional*): pooled
                `get_image_features` of their pictures; zeros where there is none.
            features (`torch.Tensor` of shape `(items, item_feature_size)`, *optional*): given embeddings.
        """
        content = self._content_of(text_ids, image_embeddings, features)
        if self.model.item_codes is not None:
            self.model.item_codes.add(self.model.item_codes.code_embeddings(*content))
        else:
            self.model.item_content.add(*content)
            are_first = self.config.num_items == 0
            for rows in self.row_modules():
                rows.add(len(text_ids), trained=are_first, bias=0.0 if are_first else self.config.new_item_bias)
        self.config.num_items += len(text_ids)
        self.config.catalog_fingerprint = None  # of fewer items; whoever knows their ids sets it again

    @torch.no_grad()
    def make_codebooks(
        self,
        fit: Callable[[torch.Tensor], torch.Tensor],
        text_ids: torch.Tensor,
        image_embeddings: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> None:
        """
        Make the codebooks of semantic codes of a catalogue that is yet to be added.

        Args:
            fit (`Callable`): from [`UniMPItemCodes.code_embeddings`] to `UniMPItemCodes.centroids`.
            text_ids, image_embeddings, features: as in [`~UniMPForConditionalGeneration.add_items`].
        """
        content, codes = self._content_of(text_ids, image_embeddings, features), self.model.item_codes
        codes.start(self.get_input_embeddings(), *content[:2])
        embeddings = codes.code_embeddings(*content)
        codes.set_centroids(fit(embeddings), embeddings)

    @torch.no_grad()
    def replace_items(
        self,
        items: list[int],
        text_ids: torch.Tensor,
        image_embeddings: torch.Tensor | None = None,
        features: torch.Tensor | None = None,
    ) -> None:
        """
        Change what items of the catalogue are; what was learned of how people choose them stays, and so do semantic
        codes.

        Args:
            items (`list[int]`): their positions in the catalogue.
            text_ids, image_embeddings, features: as in [`~UniMPForConditionalGeneration.add_items`].
        """
        check_positions("items", torch.tensor(items, dtype=torch.long), self.config.num_items, lowest=0)
        content = self._content_of(text_ids, image_embeddings, features)
        if self.model.item_content is not None:
            self.model.item_content.replace(items, *content)

    def _content_of(
        self, text_ids: torch.Tensor, image_embeddings: torch.Tensor | None, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        length, feature_size = self.config.item_text_length, self.config.item_feature_size
        if features is None and feature_size:
            raise ValueError(f"`features` of width {feature_size} are needed (`item_feature_size`).")
        text_ids = nn.functional.pad(text_ids[:, :length], (0, max(0, length - text_ids.shape[1])), value=-1)
        if image_embeddings is None:
            image_embeddings = torch.zeros(len(text_ids), self.config.vision_hidden_size)
        return text_ids, image_embeddings, torch.zeros(len(text_ids), 0) if features is None else features

    @torch.no_grad()
    def set_new_item_bias(self, bias: float) -> None:
        """
        Let items that joined the trained model be seen more often or less, as long as they are known by their content
        alone: training goes on from the bias that they have then.

        Args:
            bias (`float`): added to their scores, and to those of items that are yet to join
                (`config.new_item_bias`).

        Raises:
            `ValueError`: `bias` is no finite number, or the model has semantic codes, which new and old items share.
        """
        if self.config.code_sizes is not None:
            raise ValueError(
                f"`new_item_bias` {bias} has no use: new items share the semantic codes of those that were trained on."
            )
        if not math.isfinite(bias):
            raise ValueError(f"`new_item_bias` must be a finite number, got {bias}.")
        self.config.new_item_bias = float(bias)
        for rows in self.row_modules():
            if rows.bias is not None:
                rows.bias[~rows.learned.any(dim=-1)] = bias

    @torch.no_grad()
    def picture_rows(self, image_embeddings: torch.Tensor) -> torch.Tensor:
        """
        Input rows of items of which nothing is known but the picture, `[pictures, row_size]`: what a picture tells the
        model of which items are chosen together. Semantic codes have no row that a picture alone makes: standardised
        pictures, `[pictures, vision_hidden_size]`.

        Args:
            image_embeddings (`torch.Tensor` of shape `(pictures, vision_hidden_size)`): pooled `get_image_features`.
        """
        content = self.model.item_content
        if content is None:
            return self.model.item_codes.standardised(image_embeddings)
        no_text = torch.full((len(image_embeddings), 1), -1, device=image_embeddings.device)
        no_features = image_embeddings.new_zeros(len(image_embeddings), self.config.item_feature_size)
        known = content.encode(self.get_input_embeddings(), no_text, image_embeddings, no_features)
        return self.model.item_rows.projection(known)

    def row_modules(self) -> Iterator[UniMPItemRows]:
        """The item rows: one table for input and output, or one for each."""
        yield self.model.item_rows
        if self.item_head is not None:
            yield self.item_head

    def compute_item_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Input and output rows of all item codes, each `[num_code_rows, row_size]`; one tensor twice when tied. With
        `config.feature_similarity` the items' directions stand beside the output rows.

        In evaluation mode they are computed once and kept until something they are made of changes, as projecting a
        whole catalogue costs more than reading a prompt. A change that torch does not count (in place, through
        `.data`) is not noticed before the next `model.train()` or `model.eval()`. With adapters on what rows are made
        of, they are never kept: those are switched without any change of weights.
        """
        if torch.compiler.is_compiling():
            return self._compute_item_rows()
        made_of = [self.model.item_content, *self.row_modules()]
        parts = [part for module in made_of if module is not None for part in module.modules()]
        if self.training or torch.is_grad_enabled() or any(type(part) not in PARTS_OF_ROWS for part in parts):
            self._kept_rows = None  # who asks for gradients may be about to take a step
            return self._compute_item_rows()
        sources = [self.get_input_embeddings().weight]
        for part in parts:
            sources += [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        state = [(id(tensor), tensor.data_ptr(), *_version(tensor)) for tensor in sources]
        state += [bool(self.config.feature_similarity), self.config.feature_whitening]
        state.append(torch.is_autocast_enabled(self.device.type) and torch.get_autocast_dtype(self.device.type))
        if self._kept_rows is None or self._kept_rows[0] != state:
            self._kept_rows = (state, self._compute_item_rows())
        return self._kept_rows[1]

    def train(self, mode: bool = True) -> "CatalogRowsMixin":
        """Training or evaluation mode; forgets the item rows, as fused optimizers change weights without a trace."""
        self._kept_rows = None
        return super().train(mode)

    def _compute_item_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        content = self.model._content()
        rows = self.model.item_rows(content)
        output_rows = rows if self.item_head is None else self.item_head(content)
        if self.config.feature_similarity and self.config.num_items:
            directions = self.model.item_content.feature_directions(self.config.feature_whitening)
            output_rows = torch.cat([output_rows, directions.to(output_rows)], dim=-1)
        return rows, output_rows


def _version(tensor: torch.Tensor) -> tuple[int, ...]:
    return () if tensor.is_inference() else (tensor._version,)
