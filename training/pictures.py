"""Pictures while a model trains: each is encoded once, and what that gives is read from `output_dir`."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from ..processing import UniMPProcessor
from ..processing.picture_store_unimp import PICTURE_FILES, NoPictures, PictureStore

if TYPE_CHECKING:
    from .trainer import UniMPTrainingConfig


def training_pictures(
    model: PreTrainedModel, processor: UniMPProcessor, training: "UniMPTrainingConfig", latents: bool = False
) -> PictureStore | NoPictures | None:
    """
    [`UniMPProcessor.encode_pictures`] in `training.output_dir`, on the device that will train; files there that other
    weights made are made anew. `None` where each batch is to encode its own (`training.cache_pictures`), and where
    nobody looks: no task of `training.task_rates` shows a picture.

    Args:
        latents (`bool`): of a trained model, for its evaluation and the pipelines, instead of the features that
            training itself needs.
    """
    tasks = [task for task, rate in training.task_rates.items() if rate]
    if model.config.reads_pictures and not (training.cache_pictures and processor.shows_pictures(tasks)):
        if latents:  # those of an earlier run here are not this model's
            Path(training.output_dir, PICTURE_FILES["latents"]).unlink(missing_ok=True)
        return None
    encoder = model.model.vision_encoder
    home = encoder.device
    encoder.to(training.device)
    pictures = processor.encode_pictures(model, training.output_dir, latents, replace=True)
    encoder.to(home)
    return pictures
