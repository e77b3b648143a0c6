"""A live session: one person's prompt stays read, and what is new at its end is read alone."""

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from .outputs_unimp import UniMPPrefill, UniMPPromptState
from .queries_unimp import check_item_scores

# Of one picture, its part of `UniMPPrefill.picture_states`.
Picture = list[tuple[torch.Tensor, ...]]


class GrowingLayer(DynamicLayer):
    """
    Keys and values of a decoder layer, in tensors with room for as many again: its parent copies all there are for
    every token that joins them. It never drops a token, so that any number can be taken off again, also where the
    layer's attention has a sliding window.
    """

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """See the parent."""
        super().lazy_initialization(key_states, value_states)
        self._rooms = [key_states[..., :0, :], value_states[..., :0, :]]
        self.keys, self.values = self._rooms

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append, and return all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append(0, self.keys, key_states)
        self.values = self._append(1, self.values, value_states)
        return self.keys, self.values

    def _append(self, number: int, held: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        length = held.shape[-2]
        end, room = length + states.shape[-2], self._rooms[number]
        if end > room.shape[-2] or held.data_ptr() != room.data_ptr():  # too small, or someone put others in `held`
            room = self._rooms[number] = states.new_empty(*states.shape[:-2], 2 * end, states.shape[-1])
            room[..., :length, :] = held
        room[..., length:end, :] = states
        return room[..., :end, :]


class _Image(NamedTuple):
    """An `<image>` token: where it stands, and the picture it shows, if it has one."""

    position: int
    key: Hashable
    picture: Picture | None


class UniMPSession:
    """
    A prompt of one person that stays read while its end changes: what is new costs its own tokens and pictures alone.
    Made by [`~UniMPForConditionalGeneration.start_session`]; the answers are those of the whole prompt read anew.

    A token costs the same at every length but for what it looks at: all tokens before it, all pictures with
    `visual_scope="all"`, and the directions of all items with `feature_similarity`. The model's weights and catalogue
    must stay as they are while a session lasts.

    Attributes:
        num_tokens (`int`): length of the prompt.
        state ([`UniMPPromptState`], *optional*): what [`~UniMPForConditionalGeneration.rank_from`] decodes from.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        with torch.no_grad():
            self._item_rows = model.compute_item_rows()
        self._cache = Cache(layer_class_to_replicate=GrowingLayer)
        self._images: list[_Image] = []
        self.num_tokens = 0
        self.state: UniMPPromptState | None = None

    @property
    def pictures(self) -> dict[Hashable, Picture]:
        """The pictures that the prompt shows and that were given with a key."""
        return {image.key: image.picture for image in self._images if image.key is not None}

    @torch.no_grad()
    def is_current(self) -> bool:
        """Whether the model's item rows are still those that the prompt was read with."""
        rows = zip(self._model.compute_item_rows(), self._item_rows, strict=True)
        return all(now is then or torch.equal(now, then) for now, then in rows)

    @torch.no_grad()
    def read(self, keep: int | None = None, image_keys: Sequence[Hashable] | None = None, **inputs: Any) -> None:
        """
        Keep the first tokens of the prompt, forget those after them, and read what comes instead.

        Args:
            keep (`int`, *optional*): how many tokens stay; all by default.
            image_keys (`Sequence[Hashable]`, *optional*): a key for each picture that `inputs` give, `None` for one
                without; then the keys of pictures that the prompt shows already (see `pictures`), which are not given
                again. `image_index` counts them all, in this order.
            inputs: the tokens to be read, with their pictures, behaviours and never-seen items, and the
                `history_scores` of the whole history, as arguments of [`UniMPForConditionalGeneration.forward`]:
                one sample without padding.

        Raises:
            `ValueError`: it is not one sample without padding, `keep` is not a number of tokens that were read, or a
                picture is neither given nor known.
        """
        model, input_ids = self._model.model, inputs["input_ids"]
        keep = self.num_tokens if keep is None else keep
        self._check(keep, input_ids, inputs.pop("attention_mask", None))
        history_scores = inputs.pop("history_scores", None)
        check_item_scores("history_scores", history_scores, self._model.config, 1)
        added_scores = self._model._add_up(None, history_scores)
        index, pixel_values = inputs.pop("image_index", None), inputs.pop("pixel_values", None)
        if pixel_values is not None:
            features = (inputs.get("image_features"), model.get_image_features(pixel_values))
            inputs["image_features"] = torch.cat([part for part in features if part is not None])
        given = self._read_pictures(input_ids, inputs.get("image_features"), inputs.get("image_latents"))
        kept = bisect_left(self._images, keep, key=lambda image: image.position)
        images = self._images[:kept] + self._new_images(keep, input_ids, index, given, image_keys)
        if keep:
            self._cache.crop(keep - self.num_tokens)
        else:
            self._cache = Cache(layer_class_to_replicate=GrowingLayer)
        self.num_tokens, self.state = 0, None  # should reading fail, nothing counts as read
        mask = input_ids.new_ones(1, keep + input_ids.shape[1])
        outputs = model(
            **inputs,
            attention_mask=mask,
            past_key_values=self._cache,
            prefill=self._prefill(images, kept),
            use_cache=True,
            return_dict=True,
        )
        self.num_tokens, self._images = mask.shape[1], images
        hidden_states = outputs.last_hidden_state[:, -1]
        self.state = UniMPPromptState(hidden_states, self._cache, mask, outputs.prefill, added_scores)

    def rank(
        self,
        top_k: int = 10,
        exclude: torch.LongTensor | None = None,
        candidates: torch.LongTensor | None = None,
        beam_width: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable next items, see [`~UniMPForConditionalGeneration.rank_from`]."""
        if self.state is None:
            raise ValueError("The session has read no prompt: `read` one first.")
        return self._model.rank_from(self.state, top_k, exclude, candidates, beam_width)

    def _check(self, keep: int, input_ids: torch.Tensor, mask: torch.Tensor | None) -> None:
        if len(input_ids) != 1 or not input_ids.numel() or (mask is not None and not mask.all()):
            raise ValueError(
                f"`input_ids` must be one sample without padding, got {len(input_ids)} of {input_ids.shape[-1]} "
                "tokens with their padding: start a session for each person."
            )
        if not 0 <= keep <= self.num_tokens:
            raise ValueError(f"`keep` must be from 0 to the {self.num_tokens} tokens that were read, got {keep}.")

    def _read_pictures(
        self, input_ids: torch.Tensor, image_features: torch.Tensor | None, image_latents: torch.Tensor | None
    ) -> list[Picture | None]:
        """The pictures given, latents first; `None` for each where the model has nothing to look at them with."""
        model = self._model.model
        number = sum(len(pictures) for pictures in (image_latents, image_features) if pictures is not None)
        if model.picture_reader is None or not number:
            return [None] * number
        # The index plays no part: which of them a token shows is settled later.
        prefill = model._read_pictures(
            input_ids, image_features, input_ids[:, :1], self._item_rows, image_latents=image_latents
        )
        blocks = [zip(*(states.split(1) for states in block), strict=True) for block in prefill.picture_states]
        return [list(picture) for picture in zip(*blocks, strict=True)]

    def _new_images(
        self,
        keep: int,
        input_ids: torch.Tensor,
        image_index: torch.Tensor | None,
        given: list[Picture | None],
        image_keys: Sequence[Hashable] | None,
    ) -> list[_Image]:
        """One for each `<image>` token of `input_ids`, which stand after `keep` other tokens."""
        known, keys = self.pictures, [None] * len(given) if image_keys is None else list(image_keys)
        if len(keys) < len(given) or not all(key in known for key in keys[len(given) :]):
            raise ValueError(
                f"`image_keys` must name the {len(given)} pictures given and then ones that the prompt shows, got "
                f"{keys}: see `session.pictures`."
            )
        pictures = given + [known[key] for key in keys[len(given) :]]
        positions = (input_ids[0] == self._model.config.image_token_id).nonzero()[:, 0].tolist()
        if image_index is None and pictures:
            image_index = self._model.model.pictures_in_order(input_ids, len(pictures))
        index = [] if image_index is None else image_index[0].tolist()
        index = (index + [-1] * len(positions))[: len(positions)]
        keys, pictures = [*keys, None], [*pictures, None]  # -1: an `<image>` without a picture
        return [
            _Image(keep + position, keys[number], pictures[number])
            for position, number in zip(positions, index, strict=True)
        ]

    def _prefill(self, images: list[_Image], kept: int) -> UniMPPrefill:
        """What the tokens after the first `kept` images need of what was read: no picture that none of them sees."""
        config = self._model.config
        if config.visual_prompt_tokens:
            first = kept - kept % config.visual_prompt_tokens  # a picture of which some tokens are still to be read
        else:
            first = 0 if config.visual_scope == "all" else max(kept - 1, 0)
        device, images = self._model.device, images[first:]
        image_count = torch.tensor([kept - first], device=device)
        shown = [image.picture for image in images if image.picture is not None]
        if not shown:
            return UniMPPrefill(self._item_rows, None, None, image_count)
        number = count()
        index = [-1 if image.picture is None else next(number) for image in images]
        blocks = (zip(*block, strict=True) for block in zip(*shown, strict=True))
        states = [tuple(map(torch.cat, block)) for block in blocks]
        return UniMPPrefill(self._item_rows, states, torch.tensor([index], device=device), image_count)


class SessionMixin:
    """Sessions of [`UniMPForConditionalGeneration`]."""

    def start_session(self, image_keys: Sequence[Hashable] | None = None, **inputs: Any) -> UniMPSession:
        """
        Read one person's prompt, to read on from there.

        Args:
            image_keys, inputs: see [`UniMPSession.read`].
        """
        session = UniMPSession(self)
        session.read(image_keys=image_keys, **inputs)
        return session
