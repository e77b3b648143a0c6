"""How answers are read out of the network: item answers over the catalogue, text answers through `generate`."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import ModelOutput

# Inputs of the prompt alone; cached decoding has them in `prefill`.
PROMPT_INPUTS = (
    "pixel_values",
    "image_features",
    "image_index",
    "behavior_ids",
    "new_item_text_ids",
    "new_item_image_index",
)
# Of these, the ones with a row a picture or a new item instead of a row a sample.
BATCH_WIDE_INPUTS = ("pixel_values", "image_features", "new_item_text_ids", "new_item_image_index")


class ItemDecodingMixin:
    """Answers of [`UniMPForConditionalGeneration`]."""

    @torch.no_grad()
    def rank_items(
        self,
        top_k: int = 10,
        exclude: torch.BoolTensor | None = None,
        **inputs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The most probable next items: one forward and a top-k.

        Args:
            top_k (`int`): how many; fewer are returned where the catalogue has fewer.
            exclude (`torch.BoolTensor` of shape `(batch, num_items)`, *optional*): items that must not be returned.
            inputs: a left-padded prompt that an item follows, see [`UniMPForConditionalGeneration.forward`].

        Returns:
            `(scores, items)`, each of shape `(batch, top_k)`, best first: log-probabilities over the whole catalogue
            and positions in it. Where all that is left is excluded, the score is `-inf`.
        """
        if top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
        scores = self.score_items(**inputs)
        if exclude is not None:
            scores = scores.masked_fill(exclude, -torch.inf)
        return scores.topk(min(top_k, scores.shape[-1]), dim=-1)

    @torch.no_grad()
    def score_items(self, **inputs: Any) -> torch.Tensor:
        """Log-probability of every item of the catalogue after a left-padded prompt, `[batch, num_items]`."""
        rows = self.compute_item_rows()
        hidden_states = self.model(**inputs, item_rows=rows, use_cache=False).last_hidden_state[:, -1]
        return self.item_logits(hidden_states, rows[1])[:, 1:].float().log_softmax(-1)

    @torch.no_grad()
    def select_items(self, candidates: list[list[int]], **inputs: Any) -> list[list[int]]:
        """
        Choose among candidates: one after the other, until the end of the chunk is more probable than another one.

        Args:
            candidates (`list[list[int]]`): per sample, positions in the catalogue.
            inputs: a left-padded prompt that an item follows.

        Returns:
            `list[list[int]]`: per sample at least one of its candidates, none twice.
        """
        input_ids = inputs["input_ids"]
        if len(candidates) != len(input_ids) or not all(candidates):
            raise ValueError(f"`candidates` must hold at least one item for each of {len(input_ids)} samples.")
        end, first = self.config.marker_id("<|endofchunk|>"), self.config.first_item_id
        allowed = torch.zeros(len(input_ids), self.config.vocab_size, dtype=torch.bool, device=input_ids.device)
        for row, positions in zip(allowed, candidates, strict=True):
            row[[first + position for position in positions]] = True
        mask = inputs.pop("attention_mask", torch.ones_like(input_ids))
        answers = [[] for _ in candidates]
        # Not `generate`: its settings (a repetition penalty, say) are for text.
        for _ in range(max(map(len, candidates))):
            outputs = self(**inputs, attention_mask=mask, use_cache=True, logits_to_keep=1)
            tokens = outputs.logits[:, -1].masked_fill(~allowed, -torch.inf).argmax(-1, keepdim=True)
            for answer, token in zip(answers, tokens[:, 0].tolist(), strict=True):
                answer += [token - first] if token != end else []
            allowed = allowed.scatter(1, tokens, False).masked_fill(tokens == end, False)
            allowed[:, end] = True
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            inputs = {"input_ids": tokens, "past_key_values": outputs.past_key_values, "prefill": outputs.prefill}
        return answers

    @torch.no_grad()
    def score_texts(self, texts: list[list[int]], **inputs: Any) -> torch.Tensor:
        """
        Log-probability of each of some given answers after a prompt that text follows: the prompt is read once.

        Args:
            texts (`list[list[int]]`): text tokens of the answers, the same for all samples.
            inputs: a left-padded prompt, see [`UniMPForConditionalGeneration.forward`].

        Returns:
            `torch.Tensor` of shape `(batch, answers)`.
        """
        outputs = self(**inputs, use_cache=True, logits_to_keep=1)
        length, batch = max(map(len, texts)), len(inputs["input_ids"])
        tokens = torch.full((len(texts), length), -100, device=self.device)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.tensor(text)
        first = outputs.logits[:, -1].float().log_softmax(-1)[:, tokens[:, 0]]
        if length == 1:
            return first
        # The rest of every answer after every prompt: `answers` rows a sample, sharing nothing but the prompt's cache.
        outputs.past_key_values.batch_repeat_interleave(len(texts))
        prefill = outputs.prefill.repeat_interleave(len(texts))
        rest = tokens.repeat(batch, 1)
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
        mask = torch.cat([mask.repeat_interleave(len(texts), dim=0), (rest[:, :-1] >= 0).long()], dim=1)
        logits = self(
            input_ids=rest[:, :-1].clamp(min=0),
            attention_mask=mask,
            past_key_values=outputs.past_key_values,
            prefill=prefill,
        ).logits
        picked = -torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), rest[:, 1:], ignore_index=-100, reduction="none"
        )
        return first + picked.sum(-1).view(batch, len(texts))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """Hand the prompt's pictures, behaviours and new items over once, with the prompt."""
        model_inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if model_inputs.get("prefill") is not None:
            for key in PROMPT_INPUTS:
                model_inputs.pop(key, None)
        elif (behavior_ids := model_inputs.get("behavior_ids")) is not None:
            # Without a cache the prompt is read again with its answer so far, which has no behaviours.
            missing = input_ids.shape[1] - behavior_ids.shape[1]
            model_inputs["behavior_ids"] = torch.nn.functional.pad(behavior_ids, (0, 0, 0, missing))
        return model_inputs

    def _update_model_kwargs_for_generation(
        self, outputs: "ModelOutput", model_kwargs: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, **kwargs)
        if model_kwargs.get("use_cache", True):
            model_kwargs["prefill"] = outputs.prefill
        return model_kwargs

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """One row a beam, but never one picture a beam: samples point at the batch's distinct pictures."""
        pictures = model_kwargs.get("image_features")
        pictures = model_kwargs.get("pixel_values") if pictures is None else pictures
        if pictures is not None and model_kwargs.get("image_index") is None:
            # The default order of appearance counts samples, not beams.
            model_kwargs["image_index"] = self.model.pictures_in_order(input_ids, len(pictures))
        shared = {key: model_kwargs.pop(key) for key in BATCH_WIDE_INPUTS if key in model_kwargs}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | shared
