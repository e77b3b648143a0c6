"""Training of [`UniMPImagePipeline`]: soft tokens, projections and, if wanted, the denoiser, on the diffusion loss."""

import json
import logging
import math
import os
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, set_seed

from ..modeling_unimp import UniMPPreference
from ..processing import UniMPProcessor
from ..processing.image_pipeline_unimp import UniMPImagePipeline
from ..processing.keywords_unimp import NUM_TARGET_KEYWORDS
from .imagine_data import EndlessOrder, ImaginePairs, read_pictures
from .run import StopOnInterrupt

logger = logging.getLogger(__name__)

CHECKPOINT = "imagine_checkpoint.safetensors"
# What the denoiser is told, in the order of the columns that say whether it is.
DROPOUTS = ("target_dropout", "attribute_dropout", "keyword_dropout", "soft_dropout")
# Most that the error of a predicted picture counts.
MOST_WEIGHT = 5.0
# Of AdamW, what a parameter needs to go on.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
# Fields of the configuration that a resumed run may have otherwise.
NOT_SETTLED = ("output_dir", "logging_steps", "save_steps", "disable_tqdm")


@dataclass
class ImagineTrainingConfig:
    """How a [`UniMPImagePipeline`] is trained."""

    output_dir: str = field(metadata={"help": "Where the pipeline goes, and checkpoints on the way."})
    seed: int = field(default=0, metadata={"help": "Of the order of the pairs, the noise and what is left out."})
    max_steps: int = field(default=2700, metadata={"help": "Steps of the optimizer."})
    batch_size: int = field(default=16, metadata={"help": "Pairs a step and process."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate; cosine to 1% of it."})
    warmup_steps: int = field(default=50, metadata={"help": "Steps up to the peak."})
    weight_decay: float = field(default=0.01, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm."})
    train_denoiser: bool = field(
        default=True, metadata={"help": "Train the denoiser, too; otherwise soft tokens and projections alone."}
    )
    taste_after: float = field(
        default=0.4,
        metadata={
            "help": "Share of the steps before it is told of anyone's taste: first it learns to draw what was asked, "
            "of which nothing is left out. 0 for a denoiser that can draw."
        },
    )
    target_dropout: float = field(default=0.1, metadata={"help": "How often the denoiser is not told what was asked."})
    attribute_dropout: float = field(
        default=0.8,
        metadata={
            "help": "How often it is told the words of the request alone, where there are some, and not the item's."
        },
    )
    # Soft embeddings learn from what keywords leave untold, and more slowly: with 0.3 for both, keywords and soft
    # embeddings together were hardly nearer to a taste than keywords alone.
    keyword_dropout: float = field(
        default=0.5, metadata={"help": "How often it is not told the keywords of their taste."}
    )
    word_dropout: float = field(
        default=0.1,
        metadata={"help": "How often half of the words of what was asked, or so, are left to taste."},
    )
    soft_dropout: float = field(default=0.2, metadata={"help": "How often it is not given the soft embeddings."})
    nothing_rate: float = field(
        default=0.08, metadata={"help": "How often it is told nothing at all, for classifier-free guidance."}
    )
    mixed_precision: str = field(default="no", metadata={"help": "`no`, `bf16` or `fp16`."})
    logging_steps: int = field(default=50, metadata={"help": "Steps between two lines of the log."})
    save_steps: int = field(default=0, metadata={"help": "Steps between two checkpoints; 0 for none."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Show no progress bar."})

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 1), ("batch_size", 1), ("logging_steps", 1), ("save_steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be above 0, got {self.learning_rate}.")
        for name in (*DROPOUTS, "taste_after", "word_dropout", "nothing_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")


def build_tiny_denoiser(
    conditioning_size: int = 96, image_size: int | tuple[int, int] = 48
) -> tuple[UNet2DConditionModel, DDIMScheduler]:
    """
    A small denoiser of pixels, new, and its scheduler.

    What makes it learn in minutes on a CPU: it works on squares of 2 x 2 pixels laid out as channels, so on a quarter
    of the positions; all that it is conditioned on is also pooled and scales every layer beside the time step, as
    colour and pattern are the whole picture's; it begins at pure noise (zero terminal signal), so that a few steps
    are enough; and it predicts the picture. A network this small predicts noise badly for long: after 150 steps of
    training a velocity it drew noise, after 300 of training the picture one recognised garment and colour. It has no
    attention: the same CPU time draws patterns better where it goes to convolutions at the full size and to steps.

    Args:
        conditioning_size (`int`, defaults to 96): width of what it is conditioned on.
        image_size (`int` or `tuple[int, int]`, defaults to 48): pixels, or height and width; multiples of 8.

    Raises:
        `ValueError`: `image_size` is no multiple of 8, or `conditioning_size` none of 4.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 8 or width < 8 or height % 8 or width % 8:
        raise ValueError(f"`image_size` must be a multiple of 8, got {image_size}.")
    if conditioning_size < 4 or conditioning_size % 4:
        raise ValueError(f"`conditioning_size` must be a multiple of 4, got {conditioning_size}.")
    unet = UNet2DConditionModel(
        sample_size=(height // 2, width // 2),
        in_channels=12,
        out_channels=12,
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        up_block_types=("UpBlock2D",) * 3,
        cross_attention_dim=conditioning_size,  # the width of what is pooled
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    return unet, scheduler


def build_tiny_pipeline(
    model: PreTrainedModel,
    processor: UniMPProcessor,
    image_size: int | tuple[int, int] = 48,
    num_soft_tokens: int = 4,
    num_prefix_tokens: int = 0,
    seed: int = 0,
) -> UniMPImagePipeline:
    """
    An untrained pipeline on the small denoiser.

    Args:
        model ([`UniMPForConditionalGeneration`]), processor ([`UniMPProcessor`]): the trained recommender.
        image_size: see [`build_tiny_denoiser`].
        num_soft_tokens, num_prefix_tokens: see [`UniMPPreferenceConfig`].
        seed (`int`): of the new weights.
    """
    set_seed(seed)
    unet, scheduler = build_tiny_denoiser(image_size=image_size)
    preference = UniMPPreference.from_model(model, unet.config.cross_attention_dim, num_soft_tokens, num_prefix_tokens)
    return UniMPImagePipeline(model, processor, unet, scheduler, preference)


class _Network(nn.Module):
    """
    The parts that train, as one module with one `forward`, so that gradients are shared between processes. The
    pipeline is not part of it: the recommender, the text encoder and the VAE have no business in the optimizer.
    """

    def __init__(self, pipeline: UniMPImagePipeline, pictures: Any) -> None:
        super().__init__()
        self.unet, self.preference = pipeline.unet, pipeline.preference
        self._rest = [pipeline, pictures]  # in a list, where modules are not looked for

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, pairs: list[dict[str, Any]], told: torch.Tensor
    ) -> torch.Tensor:
        """
        The denoiser's prediction; `told`, `[pairs, 4 + target keywords]`, is what it may know of each pair, see
        `DROPOUTS`, and which of the target keywords.
        """
        pipeline, pictures = self._rest
        targets, preferences = [], []
        for pair, (target, attributes, taste, _, *words) in zip(pairs, told.tolist(), strict=True):
            items = [pair["item_id"]] if attributes or not pair["query"] else []
            asked = pipeline.keywords_of_request(pair["query"], items) if target else []
            targets.append(list(compress(asked, words)))
            preferences.append(pipeline.keywords_of_taste(pair["history"]) if taste else [])
        soft, has_soft = None, told[:, 3] & torch.tensor([bool(pair["history"]) for pair in pairs])
        if has_soft.any():  # nobody's history is read for nothing
            histories = [pair["history"] for pair, has in zip(pairs, has_soft.tolist(), strict=True) if has]
            read = pipeline.encode_preference(histories, catalog_features=pictures)
            soft = read.new_zeros(len(pairs), *read.shape[1:]).index_put((has_soft.to(read.device),), read)
        states, mask = pipeline.conditioning(targets, preferences, soft, has_soft)
        return self.unet(noisy, timesteps, encoder_hidden_states=states, encoder_attention_mask=mask).sample


class ImagineTrainer:
    """
    Trains a pipeline on (history, target picture) pairs.

    Soft tokens, prefixes and projections train, and the denoiser if the configuration says so; recommender, text
    encoder and VAE stay as they are, to the bit. Every random number is settled by the seed and the number of the
    step, so that a resumed run is the run that was interrupted, however many processes it has.

    Args:
        pipeline ([`UniMPImagePipeline`]): with a `preference`; trained in place.
        config ([`ImagineTrainingConfig`]): settings.
        pairs ([`ImaginePairs`]): what it is trained on.
        catalog_features (*optional*): [`~UniMPProcessor.encode_pictures`] of the catalogue, if they are at hand.
    """

    def __init__(
        self,
        pipeline: UniMPImagePipeline,
        config: ImagineTrainingConfig,
        pairs: ImaginePairs,
        catalog_features: Any = None,
    ) -> None:
        if pipeline.preference is None:
            raise ValueError("`pipeline` has no `preference` to train: make one with `UniMPPreference.from_model`.")
        self.pipeline, self.config, self.pairs = pipeline, config, pairs
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self._choose_what_trains()
        self.noise_scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        catalog = pipeline.processor.catalog
        self.pictures = read_pictures(catalog, pairs.item_ids, pipeline.picture_size)
        self.order = EndlessOrder(len(pairs), config.batch_size * self.accelerator.num_processes, config.seed)
        if catalog_features is None:
            catalog_features = pipeline.processor.encode_pictures(pipeline.model, latents=True)  # it stays as it is
        network = _Network(pipeline, catalog_features)
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.step = 0

    def _choose_what_trains(self) -> None:
        parts = self.pipeline.components
        for name in ("model", "vae", "text_encoder"):
            if parts[name] is not None:
                parts[name].requires_grad_(False).eval()
        self.pipeline.to(self.accelerator.device)
        self.pipeline.preference.requires_grad_(True)
        self.pipeline.unet.requires_grad_(self.config.train_denoiser)

    def train(self, resume: bool = False) -> bool:
        """
        Train, and save the pipeline in `config.output_dir`.

        Args:
            resume (`bool`): go on from the checkpoint in `config.output_dir`, exactly.

        Returns:
            `bool`: whether the training is done; `False` when it was interrupted, a checkpoint is then left.
        """
        if resume:
            self._load()
        trained = sum(parameter.numel() for parameter in self.parameters.values())
        logger.info("Learning to draw from %s pairs; %s parameters train.", f"{len(self.pairs):,}", f"{trained:,}")
        stop, main = StopOnInterrupt(), self.accelerator.is_main_process
        stop.on_train_begin(None, None, None)
        bar = tqdm(initial=self.step, total=self.config.max_steps, disable=self.config.disable_tqdm or not main)
        try:
            self._run(bar, stop)
        finally:
            stop.on_train_end(None, None, None)
            bar.close()
        if self.step < self.config.max_steps:
            logger.warning("Interrupted at step %d. Go on with `resume`.", self.step)
            return False
        if main:
            self.pipeline.save_pretrained(self.config.output_dir)
            self._checkpoint.unlink(missing_ok=True)
        return True

    def _run(self, bar: tqdm, stop: StopOnInterrupt) -> None:
        losses = []
        while self.step < self.config.max_steps:
            losses.append(self.training_step())
            bar.update()
            interrupted = self._any(stop.interrupted)
            if self.step % self.config.logging_steps == 0:
                mean = torch.stack(losses).mean().item()
                losses.clear()
                bar.set_postfix(loss=f"{mean:.4f}")
                logger.info("step %d: loss %.4f", self.step, mean)
            is_due = self.config.save_steps and self.step % self.config.save_steps == 0
            if (is_due or interrupted) and self.accelerator.is_main_process:
                self._save()
            if interrupted:
                return

    def _any(self, flag: bool) -> bool:
        """Whether any process says so: they stop after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(int(flag), device=self.accelerator.device)))

    def training_step(self) -> torch.Tensor:
        """One step of the optimizer; returns its loss, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        loss = self.loss(self.step)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss.detach()

    def _learning_rate(self) -> float:
        config = self.config
        if self.step < config.warmup_steps:
            return config.learning_rate * (self.step + 1) / config.warmup_steps
        progress = (self.step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
        return config.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def loss(self, step: int) -> torch.Tensor:
        """The diffusion loss of this process's share of a step's pairs."""
        numbers, rank = self.order.batch(step), self.accelerator.process_index
        share = slice(rank * self.config.batch_size, (rank + 1) * self.config.batch_size)
        pairs = [self.pairs[number] for number in numbers[share]]
        device = self.accelerator.device
        pixels = torch.stack([self.pictures[pair["item_id"]] for pair in pairs]).to(device)
        latents = self.pipeline.to_latents(pixels.float() / 127.5 - 1).float()
        noise, timesteps, told = (tensor[share] for tensor in self._draw(step, len(numbers), latents.shape[1:]))
        noise, timesteps = noise.to(device), timesteps.to(device)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        predicted = self.network(noisy, timesteps, pairs, told)
        errors = (predicted.float() - self._wanted(latents, noise, timesteps)).square().flatten(1).mean(1)
        return (self._weights(timesteps) * errors).mean()

    def _draw(self, step: int, number: int, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise, time steps and what the denoiser is told, for all processes: the same in each of them."""
        config, state = self.config, np.random.SeedSequence([self.config.seed, step]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        noise = torch.randn(number, *shape, generator=generator)
        number_of_times = self.noise_scheduler.config.num_train_timesteps
        timesteps = torch.randint(number_of_times, (number,), generator=generator)
        rates = torch.tensor([*(getattr(config, name) for name in DROPOUTS), *[0.5] * NUM_TARGET_KEYWORDS])
        told = torch.rand(number, len(rates), generator=generator) >= rates
        told[:, len(DROPOUTS) :] |= torch.rand(number, 1, generator=generator) >= config.word_dropout
        if step < config.taste_after * config.max_steps:
            told[:, [DROPOUTS.index("keyword_dropout"), DROPOUTS.index("soft_dropout")]] = False
            told[:, DROPOUTS.index("target_dropout")] = True
            told[:, len(DROPOUTS) :] = True
        return noise, timesteps, told & (torch.rand(number, 1, generator=generator) >= config.nothing_rate)

    def _wanted(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        kind = self.noise_scheduler.config.prediction_type
        if kind == "v_prediction":
            return self.noise_scheduler.get_velocity(latents, noise, timesteps)
        return noise if kind == "epsilon" else latents

    def _weights(self, timesteps: torch.Tensor) -> torch.Tensor:
        """
        What the error at each time step counts. That of a picture counts as that of the velocity would, up to
        `MOST_WEIGHT`: where there is little noise left, patterns are drawn, and errors are small.
        """
        if self.noise_scheduler.config.prediction_type != "sample":
            return torch.ones(len(timesteps), device=timesteps.device)
        noise_share = 1 - self.noise_scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        return (1 / noise_share).clamp(max=MOST_WEIGHT)

    # Checkpoints

    @property
    def _checkpoint(self) -> Path:
        return Path(self.config.output_dir, CHECKPOINT)

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one."""
        settings = asdict(self.config) | {"pairs": len(self.pairs), "processes": self.accelerator.num_processes}
        return {name: value for name, value in settings.items() if name not in NOT_SETTLED}

    def _save(self) -> None:
        """Write all that a run needs to go on; a run that is killed meanwhile leaves the checkpoint before."""
        state = self.optimizer.state
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():  # one that has not had a gradient yet has no moments
            tensors |= {f"{moment}.{name}": state[parameter][moment] for moment in MOMENTS if parameter in state}
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._checkpoint.with_suffix(".unfinished")
        save_file(tensors, unfinished, metadata={"step": str(self.step), "settings": json.dumps(self._settings())})
        os.replace(unfinished, self._checkpoint)

    def _load(self) -> None:
        if not self._checkpoint.is_file():
            raise ValueError(f"`resume`: there is no checkpoint in `output_dir` {self.config.output_dir}.")
        with safe_open(self._checkpoint, "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        for name, value in json.loads(metadata["settings"]).items():
            if value != self._settings()[name]:
                raise ValueError(
                    f"`{name}` was {value} when the run was interrupted and is {self._settings()[name]} now: leave it "
                    "as it was to go on, or start anew."
                )
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[f"parameter.{name}"])
            moments = {moment: tensors.get(f"{moment}.{name}") for moment in MOMENTS}
            if moments["step"] is not None:
                device = {"step": "cpu"}  # where AdamW keeps it
                self.optimizer.state[parameter] = {
                    moment: tensor.to(device.get(moment, parameter.device)) for moment, tensor in moments.items()
                }
        self.step = int(metadata["step"])
