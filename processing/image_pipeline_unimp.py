"""`UniMPImagePipeline`: a picture for a person, in their taste and true to what they asked for (UniMP and PMG)."""

import inspect
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from .catalog_unimp import flatten_value, shown
from .columns_unimp import Columns
from .editing_unimp import change_pictures
from .imagine_unimp import (
    Candidate,
    PictureSimilarity,
    Scorer,
    UniMPImageOutput,
    check_alpha,
    score_pictures,
    to_pixels,
)
from .keywords_unimp import NUM_PREFERENCE_KEYWORDS, NUM_TARGET_KEYWORDS
from .pipelines_unimp import UniMPSearchPipeline, whole_number
from .tasks_unimp import is_list
from .taste_unimp import TasteMixin, as_mapping

try:
    from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise ImportError("Making pictures needs `diffusers`: `pip install diffusers`.") from error

# How strictly the denoiser follows the taste at a weighting of 1. With 6, pictures were hardly nearer to the history
# (own words, 45 people of validation, weighting 0.75: x .921, here x .925) and had 2 points fewer attributes right.
TASTE_GUIDANCE = 4.0
# The largest weighting of a candidate by default: with one of 1, alpha 0.5 cost 2 points more of what was asked.
MOST_TASTE = 0.75


def mixing(weighting: float, guidance_scale: float) -> list[float]:
    """
    Factors of the denoiser's three predictions, conditioned on nothing, on the target, and on target and preference:
    `nothing + guidance_scale * (target - nothing) + weighting * TASTE_GUIDANCE * (both - target)`.

    PMG weighs the two against each other; here the target counts in full whatever the `weighting`, which says how
    strictly what the preference changes about it is followed (as classifier-free guidance of two conditions).
    """
    taste = weighting * TASTE_GUIDANCE
    return [1 - guidance_scale, guidance_scale - taste, taste]


class UniMPImagePipeline(TasteMixin, DiffusionPipeline):
    """
    Retrieves what fits a request, finds keywords and soft embeddings of what the person likes, generates candidates
    over several weightings of the two, and chooses among them.

    Args:
        model ([`UniMPForConditionalGeneration`]): the recommender.
        processor ([`UniMPProcessor`]): its processor, with the catalogue.
        unet ([`~diffusers.UNet2DConditionModel`]): the denoiser. Without a VAE it works on pixels: one of `3 * n * n`
            channels on squares of n x n pixels, laid out as channels.
        scheduler ([`~diffusers.SchedulerMixin`]): any of the denoiser's.
        preference ([`UniMPPreference`], *optional*): soft embeddings and, where there is no text encoder, keywords.
        vae ([`~diffusers.AutoencoderKL`], *optional*): of a latent denoiser.
        text_encoder, tokenizer (*optional*): of a denoiser that was trained with one, which then reads the keywords.

    Parts of a Stable-Diffusion-style pipeline fit in by name:
    `UniMPImagePipeline.from_pipe(sd, model=model, processor=processor, preference=preference)`.

    Raises:
        `ValueError`: parts do not fit together.
    """

    _optional_components = ["preference", "vae", "text_encoder", "tokenizer"]

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        preference: PreTrainedModel | None = None,
        vae: AutoencoderKL | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            model=model,
            processor=processor,
            unet=unet,
            scheduler=scheduler,
            preference=preference,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self._check_fit()
        self._pipeline(UniMPSearchPipeline)  # checks that model and processor belong together
        self._token_ids: dict[str, list[int]] = {}

    def _check_fit(self) -> None:
        """Refuse parts that do not fit together, here and not in the middle of a request."""
        width, preference = self.unet.config.cross_attention_dim, self.preference
        if preference is None and self.text_encoder is None:
            raise ValueError("`preference` is needed to embed keywords where there is no `text_encoder`.")
        if (self.text_encoder is None) != (self.tokenizer is None):
            raise ValueError("`text_encoder` and `tokenizer` belong together: give both or none.")
        if preference is not None and preference.config.conditioning_size != width:
            raise ValueError(
                f"`unet` is conditioned on embeddings of width {width} (`cross_attention_dim`), but `preference` "
                f"makes them {preference.config.conditioning_size} wide (`conditioning_size`): make it with "
                f"`UniMPPreference.from_model(model, conditioning_size={width})`."
            )
        if self.text_encoder is not None and self.text_encoder.config.hidden_size != width:
            raise ValueError(
                f"`unet` is conditioned on embeddings of width {width} (`cross_attention_dim`), but `text_encoder` "
                f"makes them {self.text_encoder.config.hidden_size} wide (`hidden_size`): take both from one "
                "checkpoint."
            )
        row_size = self.model.get_input_embeddings().embedding_dim
        if preference is not None and preference.config.hidden_size != row_size:
            raise ValueError(
                f"`preference` was made for a model of width {preference.config.hidden_size} (`hidden_size`), but "
                f"`model` has {row_size}: make it with `UniMPPreference.from_model`."
            )
        self._check_channels()

    def _check_channels(self) -> None:
        channels = self.unet.config.in_channels
        if self.vae is not None and self.vae.config.latent_channels != channels:
            raise ValueError(
                f"`unet` takes {channels} channels (`in_channels`), but `vae` has {self.vae.config.latent_channels} "
                "(`latent_channels`): take both from one checkpoint."
            )
        if self.unet.config.addition_embed_type not in (None, "text"):
            raise ValueError(
                f"`unet` wants more than keywords (`addition_embed_type` {self.unet.config.addition_embed_type!r}), "
                "which is not supported: take one that is conditioned on a text encoder's states alone."
            )
        if self.vae is None and channels != 3 * math.isqrt(channels // 3) ** 2:
            raise ValueError(
                f"`unet` takes {channels} channels (`in_channels`), which without a `vae` must be 3 * n * n for "
                "squares of n x n pixels: give the `vae` of the denoiser's checkpoint."
            )

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write all parts, each in a folder of its own, and what they are."""
        for part in (self.model, self.processor):
            if type(part).__module__.startswith("transformers_modules."):
                raise ValueError(
                    f"`{type(part).__name__}` was loaded with `trust_remote_code=True`, from code that another "
                    f"process would not find: load it with `unimp.{type(part).__name__}.from_pretrained` to save this."
                )
        super().save_pretrained(str(save_directory), *args, **kwargs)

    # A request

    @torch.no_grad()
    def __call__(
        self,
        history: Sequence[Any] | None = None,
        query: str | None = None,
        target: Any = None,
        alpha: float = 0.5,
        num_candidates: int = 4,
        weightings: Sequence[float] | None = None,
        guidance_scale: float = 1.5,
        num_inference_steps: int = 20,
        strength: float = 0.85,
        num_retrieved: int = 3,
        preference_keywords: Sequence[str] | None = None,
        target_keywords: Sequence[str] | None = None,
        use_answer: bool = True,
        use_soft: bool = True,
        scorer: Scorer | None = None,
        generator: torch.Generator | None = None,
    ) -> UniMPImageOutput:
        """
        Make a picture.

        Args:
            history (`Sequence`, *optional*): as in the requests of [`UniMPProcessor`]. Without one, the picture is
                what was asked, in nobody's taste.
            query (`str`, *optional*): what was asked. Without it (and without `target`), what they may like next.
            target (*optional*): an item of the catalogue, or a description of one, to be shown as they like it;
                nothing is then searched for.
            alpha (`float`, defaults to 0.5): from 0, true to what was asked, to 1, true to what they like.
            num_candidates (`int`, defaults to 4): pictures to choose from.
            weightings (`Sequence[float]`, *optional*): how much taste the candidates have, in turn, from 0, the
                request alone, to 1, see [`mixing`] and [`~UniMPImagePipeline.begin_with`]; by default evenly spaced up
                to 0.75. Candidates of the same turn are drawn with the same noise.
            guidance_scale (`float`, defaults to 1.5): how strictly the denoiser follows what was asked; the large ones
                want more, Stable Diffusion about 7.
            num_inference_steps (`int`, defaults to 20): steps of denoising.
            strength (`float`, defaults to 0.85): how freely the picture that a candidate begins with may be changed
                (UniMP conditions on what it retrieved): the share of the way to noise from which on changes are made,
                and so of the steps that are taken; 1 to draw from noise alone.
            num_retrieved (`int`, defaults to 3): items that stand for what was asked.
            preference_keywords, target_keywords (`Sequence[str]`, *optional*): instead of those found; none if empty.
            use_answer (`bool`, defaults to `True`): let the model say in words what the person likes about the item
                that fits best.
            use_soft (`bool`, defaults to `True`): use the soft preference embeddings.
            scorer (*optional*): how alike pictures are; [`PictureSimilarity`] by default, for `d_t` by position.
            generator (`torch.Generator`, *optional*): the same seed gives the same picture.

        Returns:
            [`UniMPImageOutput`].

        Raises:
            `ValueError`: there is neither a history nor a request, or a value is out of range.
        """
        history = _check_history(history)
        query = flatten_value(query) or None
        if not history and not query and target is None:
            raise ValueError("`history`, `query` and `target` are all missing: give at least one of them.")
        alpha, weightings = check_alpha(alpha), _weightings(num_candidates, weightings, bool(history))
        if not isinstance(strength, int | float) or not 0 < strength <= 1:
            raise ValueError(f"`strength` must be above 0 and at most 1, got {shown(strength)}.")
        for name, value in (("num_inference_steps", num_inference_steps), ("num_retrieved", num_retrieved)):
            whole_number(name, value)
        for name, words in (("preference_keywords", preference_keywords), ("target_keywords", target_keywords)):
            _check_keywords(name, words)
        # What they like is a matter of colours and fabrics; what was asked, one of shapes too.
        scorers = [scorer or PictureSimilarity(self.model, self.processor, by_position=n == 1) for n in range(2)]
        retrieved, wanted, fitting, starts = self._find(history, query, target, num_retrieved, weightings)
        answer = None
        if use_answer and preference_keywords is None and history and wanted:
            answer = self.ask(history, wanted[0])
        if preference_keywords is None:
            preference_keywords = self.keywords_of_taste(history, answer)
        if target_keywords is None:
            # The words of a request are what was asked; what was found for it may miss one of them.
            target_keywords = self.keywords_of_request(query, wanted if target is not None or query is None else [])
        references = [list(filter(None, map(self.picture_of, items))) for items in (self._liked(history), fitting)]
        states, mask = self.three_conditions(target_keywords, preference_keywords, history if use_soft else [])
        begun = [None if start is None else self.picture_of(start) for start in starts]
        if strength == 1 or not all(begun):
            begun = starts = [None] * len(weightings)
        pictures = self.generate(
            states, mask, weightings, guidance_scale, num_inference_steps, generator, begun, strength
        )
        d_p, d_t = (score_pictures(*of) for of in zip(scorers, [pictures] * 2, references, strict=True))
        starts = [None if start is None else as_mapping(start).get(Columns.ITEM_ID) for start in starts]
        candidates = [Candidate(*parts) for parts in zip(pictures, weightings, d_p, d_t, starts, strict=True)]
        return UniMPImageOutput(candidates, alpha, retrieved, list(preference_keywords), list(target_keywords), answer)

    # What the denoiser is told

    def encode_preference(self, histories: Sequence[Sequence[Any]], **kwargs: Any) -> torch.Tensor:
        """
        Soft preference embeddings of people, `[people, num_soft_tokens, conditioning_size]`.

        Args:
            histories: one a person.
            kwargs: further arguments of the processor, such as `catalog_features`.
        """
        samples = [{"history": history} for history in histories]
        inputs = self.processor(samples, task="recommend", **kwargs)
        inputs.pop("history_scores", None)  # of items, and none is answered here
        return self.preference(self.model, **inputs.to(self.model.device))

    def encode_keywords(
        self, targets: Sequence[Sequence[str]], preferences: Sequence[Sequence[str]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        What the denoiser reads of keywords: what its text encoder makes of them, or the recommender's embeddings.

        Args:
            targets, preferences: of each picture, its keywords; an empty list where there is nothing to tell.

        Returns:
            Embeddings, `[pictures, tokens, conditioning_size]`, and a mask of those that count, `[pictures, tokens]`.
        """
        if self.text_encoder is not None:
            return self._encode_text([", ".join([*t, *p]) for t, p in zip(targets, preferences, strict=True)])
        nothing = self.preference.nothing(len(targets))
        parts = [(nothing, nothing.new_ones(len(targets), 1))]
        for rows, kind, length in (
            (targets, "target", NUM_TARGET_KEYWORDS),
            (preferences, "preference", NUM_PREFERENCE_KEYWORDS),
        ):
            embeddings, mask = self._embed_words(rows, length)
            parts.append((self.preference.embed_keywords(embeddings, kind), mask))
        states, mask = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
        return states, mask

    def _encode_text(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        positions = getattr(self.text_encoder.config, "max_position_embeddings", self.tokenizer.model_max_length)
        length = min(self.tokenizer.model_max_length, positions)
        ids = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            states = self.text_encoder(ids.to(self.text_encoder.device))[0]
        return states, states.new_ones(states.shape[:2])  # such denoisers were trained to see the padding, too

    def _embed_words(self, rows: Sequence[Sequence[str]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean token embedding of each word, padded to `length` (or the longest row), and the mask."""
        table, length = self.model.get_input_embeddings().weight.detach(), max(length, *map(len, rows))
        mask = torch.tensor([[n < len(row) for n in range(length)] for row in rows], device=table.device)
        embeddings = table.new_zeros(*mask.shape, table.shape[1])
        if mask.any():
            ids = [self._word_ids(word) for row in rows for word in row]
            offsets = torch.tensor([0, *map(len, ids)], device=table.device).cumsum(0)[:-1]
            flat = torch.tensor([token for word in ids for token in word], device=table.device)
            embeddings[mask] = nn.functional.embedding_bag(flat, table, offsets, mode="mean")
        return embeddings, mask.float()

    def _word_ids(self, word: str) -> list[int]:
        if word not in self._token_ids:
            self._token_ids[word] = self.processor.format.text(f" {word}")  # as in the middle of a text
        return self._token_ids[word]

    def conditioning(
        self,
        targets: Sequence[Sequence[str]],
        preferences: Sequence[Sequence[str]],
        soft: torch.Tensor | None = None,
        has_soft: Sequence[bool] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        All that the denoiser is conditioned on, in training and inference alike.

        Args:
            targets, preferences: see [`~UniMPImagePipeline.encode_keywords`].
            soft (`torch.Tensor` of shape `(pictures, num_soft_tokens, conditioning_size)`, *optional*): of
                [`~UniMPImagePipeline.encode_preference`].
            has_soft (`Sequence[bool]`, *optional*): for which pictures they count; for all by default.

        Returns:
            Embeddings, `[pictures, tokens, conditioning_size]`, zero where they do not count, and their mask.
        """
        states, mask = self.encode_keywords(targets, preferences)
        if soft is None and self.preference is not None:  # as in training, where they are masked at times
            number = self.preference.config.num_soft_tokens
            soft, has_soft = states.new_zeros(len(states), number, states.shape[-1]), [False] * len(states)
        if soft is not None:
            counts = torch.as_tensor([True] * len(soft) if has_soft is None else has_soft, device=mask.device)
            states = torch.cat([states, soft.to(states)], dim=1)
            mask = torch.cat([mask, counts[:, None].to(mask).expand(-1, soft.shape[1])], dim=1)
        return states * mask[..., None], mask

    def three_conditions(
        self, target: Sequence[str], preference: Sequence[str], history: Sequence[Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        [`~UniMPImagePipeline.conditioning`] of nothing, the target, and target and preference, as `generate` wants it.

        Args:
            target, preference: keywords.
            history: of whom soft preference embeddings are read; of nobody if it is empty.
        """
        soft = None
        if history and self.preference is not None:
            soft = self.encode_preference([history]).expand(3, -1, -1)
        return self.conditioning([[], target, target], [[], [], preference], soft, [False, False, True])

    # The picture

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        size, scale = self.unet.config.sample_size, self._scale
        height, width = (size, size) if isinstance(size, int) else size
        return height * scale, width * scale

    @property
    def _scale(self) -> int:
        """Pixels along the side of one position of the denoiser."""
        if self.vae is not None:
            return 2 ** (len(self.vae.config.block_out_channels) - 1)
        return math.isqrt(self.unet.config.in_channels // 3)

    def to_latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures, `[pictures, 3, height, width]` in -1..1, as the denoiser works on them."""
        if self.vae is None:
            return nn.functional.pixel_unshuffle(pictures, self._scale)
        with torch.no_grad():
            return self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.mode() * self.vae.config.scaling_factor

    def to_pictures(self, latents: torch.Tensor) -> list[Image.Image]:
        """And back."""
        if self.vae is None:
            pixels = nn.functional.pixel_shuffle(latents, self._scale)
        else:
            pixels = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample
        if not pixels.isfinite().all():  # as bytes they would be a black picture
            raise ValueError(
                f"The denoiser's pictures have values that are no numbers, with a `scheduler` of type "
                f"`{type(self.scheduler).__name__}` in {self.unet.dtype}: try another one, or bfloat16 or float32."
            )
        pixels = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in pixels]

    @torch.no_grad()
    def generate(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        weightings: Sequence[float],
        guidance_scale: float,
        num_inference_steps: int,
        generator: torch.Generator | None = None,
        starts: Sequence[Image.Image | None] = (),
        strength: float = 1.0,
    ) -> list[Image.Image]:
        """
        Denoise a picture a weighting.

        Args:
            states, mask: [`~UniMPImagePipeline.three_conditions`].
            weightings, guidance_scale: see [`mixing`]. Where a weighting is met again, a new noise is begun.
            num_inference_steps, generator: see [`~UniMPImagePipeline.__call__`].
            starts: a picture a weighting that is changed; drawn from noise if there is none, or not for each.
            strength: see [`~UniMPImagePipeline.__call__`].
        """
        unet, scheduler = self.unet, self.scheduler
        factors = torch.tensor([mixing(weighting, guidance_scale) for weighting in weightings], device=unet.device)
        predict = partial(self._predict, states=states.to(unet.dtype), mask=mask)
        if strength < 1 and starts and all(starts):
            nothing = torch.eye(3, device=unet.device)[[0] * len(factors)]
            predict = partial(predict, factors=torch.cat([nothing, factors]))
            noises = self._noise(weightings, max(1, round(num_inference_steps * strength)), generator)
            pixels = torch.stack([to_pixels(picture, self.picture_size) for picture in starts]).to(unet.device)
            latents = self.to_latents(pixels.float() / 127.5 - 1).to(unet.dtype)
            return self.to_pictures(change_pictures(predict, scheduler, latents, noises, strength, self.progress_bar))
        scheduler.set_timesteps(num_inference_steps, device=unet.device)
        latents = self._noise(weightings, 1, generator)[0] * scheduler.init_noise_sigma
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        extra = {"generator": generator} if takes_generator else {}
        for timestep in self.progress_bar(scheduler.timesteps):
            predicted = predict(scheduler.scale_model_input(latents, timestep), timestep, factors=factors)
            latents = scheduler.step(predicted, timestep, latents, **extra).prev_sample
        return self.to_pictures(latents)

    def _predict(
        self, latents: torch.Tensor, timestep: Any, states: torch.Tensor, mask: torch.Tensor, factors: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's predictions under the three conditions, mixed by `factors`, `[pictures, 3]`."""
        rows, conditions = factors.nonzero(as_tuple=True)
        shares = factors[rows, conditions][:, None, None, None].to(latents.dtype)
        states, mask = states[conditions], mask[conditions]
        predicted = self.unet(
            latents[rows], timestep, encoder_hidden_states=states, encoder_attention_mask=mask
        ).sample
        return torch.zeros_like(latents).index_add(0, rows, shares * predicted)

    def _noise(self, weightings: Sequence[float], num_steps: int, generator: torch.Generator | None) -> torch.Tensor:
        """
        `[steps, pictures, ...]`. Candidates of a turn differ in what they are made of alone: their noise is the same.
        """
        turns = [list(weightings[:n]).count(weighting) for n, weighting in enumerate(weightings)]
        size, scale = self.picture_size, self._scale
        shape = (max(turns) + 1, num_steps, self.unet.config.in_channels, size[0] // scale, size[1] // scale)
        noise = randn_tensor(shape, generator=generator, device=self.unet.device, dtype=self.unet.dtype)
        return noise[turns].transpose(0, 1)


def _check_history(history: Sequence[Any] | None) -> list[Any]:
    if history is not None and not is_list(history):
        raise ValueError(f"`history` must be a list of items, got {shown(history)}.")
    return list(history if history is not None else ())


def _check_keywords(name: str, words: Any) -> None:
    if words is not None and not (is_list(words) and all(isinstance(word, str) and word for word in words)):
        raise ValueError(f"`{name}` must be a list of words, got {shown(words)}.")


def _weightings(num_candidates: int, weightings: Sequence[float] | None, has_history: bool) -> list[float]:
    """The weighting of every candidate."""
    num_candidates = whole_number("num_candidates", num_candidates)
    if weightings is None:
        weightings = np.linspace(0, MOST_TASTE, num_candidates).tolist() if num_candidates > 1 else [0.5]
    if not len(weightings) or not all(0 <= weighting <= 1 for weighting in weightings):
        raise ValueError(f"`weightings` must be numbers from 0 to 1, at least one, got {shown(weightings)}.")
    if not has_history:  # there is no taste to weigh
        weightings = [0.0]
    return [float(weightings[number % len(weightings)]) for number in range(num_candidates)]
