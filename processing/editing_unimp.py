"""Changing a picture with a denoiser, and nothing of it but what is wanted (FlowEdit)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


def change_pictures(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    latents: torch.Tensor,
    noises: torch.Tensor,
    strength: float,
    progress: Callable[[torch.Tensor], Iterable[torch.Tensor]],
) -> torch.Tensor:
    """
    Pictures changed into what is wanted (FlowEdit, Kulikov et al., 2025, algorithm 1, for any kind of prediction).

    From much noise to little, the denoiser predicts the picture that was begun with, told nothing, and what it has
    become, told what is wanted, under the same noise; the difference of the two is the change. What a denoiser cannot
    draw is in neither, and stays as it was.

    Args:
        predict: from noisy latents, `[2 * pictures, ...]`, and the time step to the denoiser's prediction: the first
            half told nothing, the other half told what is wanted.
        scheduler ([`~diffusers.SchedulerMixin`]): its levels of noise, and what kind a prediction is.
        latents (`torch.Tensor` of shape `(pictures, ...)`): what is changed.
        noises (`torch.Tensor` of shape `(steps, pictures, ...)`): one for each step.
        strength (`float`): share of the way to noise from which on changes are made, below 1.
        progress: goes through the time steps and shows how far it is.

    Raises:
        `ValueError`: the scheduler has no levels of noise.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"A `strength` below 1 needs a `scheduler` with levels of noise (`alphas_cumprod`), which "
            f"`{type(scheduler).__name__}` has not: give `strength=1`, or another scheduler such as DDIM."
        )
    most = strength * len(scheduler.alphas_cumprod)
    timesteps = torch.linspace(most, 0, len(noises) + 1, device=latents.device)[:-1].ceil().long() - 1
    shares = scheduler.alphas_cumprod.to(latents.device)[timesteps]  # of the picture's variance
    levels = [*((1 - shares) / shares).sqrt().tolist(), 0.0]  # of noise beside the picture
    change = torch.zeros_like(latents)
    for n, (timestep, share) in enumerate(zip(progress(timesteps), shares, strict=True)):
        pictures, noise = torch.cat([latents, latents + change]), torch.cat([noises[n], noises[n]])
        noisy = share.sqrt() * pictures + (1 - share).sqrt() * noise
        predicted = _denoised(predict(noisy, timestep), noisy, share, scheduler.config.prediction_type)
        before, after = predicted.chunk(2)
        change = change + (1 - levels[n + 1] / levels[n]) * (after - before - change)
    return latents + change


def _denoised(predicted: torch.Tensor, noisy: torch.Tensor, share: torch.Tensor, kind: str) -> torch.Tensor:
    """The picture in a prediction of the picture, the noise or the velocity."""
    if kind == "v_prediction":
        return share.sqrt() * noisy - (1 - share).sqrt() * predicted
    return predicted if kind == "sample" else (noisy - (1 - share).sqrt() * predicted) / share.sqrt()
