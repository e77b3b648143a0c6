"""From a catalogue's pictures to what a model makes of them: the vision encoder's features and the latents."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import PreTrainedModel
from transformers.utils import logging

from .picture_store_unimp import PICTURE_FILES, NoPictures, PictureStore, weights_fingerprint
from .tasks_unimp import CANDIDATES, ITEM_TO_RATE, get_task

logger = logging.get_logger(__name__)

# Held by the process that writes the files of its folder; the others wait, and then read.
LOCK_FILE = "_pictures.lock"
# Of a configuration, what says nothing of how a picture is read.
NO_SETTINGS = ("transformers_version", "architectures", "dtype", "processor_class", "auto_map", "id2label", "label2id")


class PicturesMixin:
    """Pictures of [`UniMPProcessor`]."""

    picture_file: str | Path | None = None  # of latents, for the model that was saved with the processor

    def shows_pictures(self, tasks: Iterable[str]) -> bool:
        """Whether a request of any of these tasks shows pictures; a history of codes alone does not."""
        return self.full_chunks != 0 or any(
            task.full_history or task.asks in (ITEM_TO_RATE, CANDIDATES) for task in map(get_task, tasks)
        )

    def encode_pictures(
        self,
        model: PreTrainedModel,
        folder: str | Path | None = None,
        latents: bool = False,
        replace: bool = False,
        batch_size: int = 64,
    ) -> PictureStore | NoPictures:
        """
        What `model` makes of the catalogue's pictures, each of them encoded once, to be given as `catalog_features`.

        In a `folder`, it is kept in a safetensors file: next time only new and changed pictures are encoded, and an
        interrupted run is continued. Of several processes one writes, and the others wait. Latents are made of the
        features of the same folder where those are at hand.

        Args:
            model ([`UniMPForConditionalGeneration`]): the model.
            folder (`str` or `Path`, *optional*): where the file is, usually that of the catalogue; in memory without.
            latents (`bool`): latents, for a model that is trained, which a pipeline on `folder` then uses.
                Otherwise features of the vision encoder: it is frozen, and what it says of a picture now, it will say
                in every training step to come.
            replace (`bool`): make a file anew that other weights or settings made, which is an error otherwise.
            batch_size (`int`): pictures encoded at once.

        Returns:
            [`PictureStore`]; or [`NoPictures`], without opening any, for a model that looks at none.

        Raises:
            `ValueError`: the file was made with other weights or settings, or is damaged.
        """
        if not model.config.reads_pictures:
            return NoPictures()
        kind = "latents" if latents else "features"
        mark = self.picture_fingerprint(model, kind)
        catalog = self._require_catalog()
        wanted = {catalog.image_key(code): code for code in range(len(catalog)) if catalog.has_image(code)}
        if folder is None or not wanted:
            return self._complete(model, kind, mark, wanted, None, None, batch_size)
        path = Path(folder, PICTURE_FILES[kind])
        store = _open_fitting(path, mark, replace)
        if store is None or not all(key in store for key in wanted):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(LOCK_FILE)):
                store = _open_fitting(path, mark, replace)  # another process may have made it meanwhile
                if store is None or not all(key in store for key in wanted):
                    store = self._complete(model, kind, mark, wanted, path, store, batch_size)
        if latents:
            self.picture_file = path
        return store

    def open_pictures(self, model: PreTrainedModel) -> PictureStore | NoPictures | None:
        """
        The latents that were saved with the processor, to be given as `catalog_features`; `None` without any, and for
        a model in another precision than theirs. Raises `ValueError` where `model` has other weights.
        """
        if not model.config.reads_pictures:
            return NoPictures()
        if self.picture_file is None:
            return None
        dtype = model.model.picture_reader.input_projection.weight.dtype
        store = PictureStore.open(self.picture_file)
        if store.values.dtype != dtype:
            logger.warning(f"{self.picture_file} is of {store.values.dtype}, and `model` of {dtype}: it is not used.")
            return None
        store.check(self.picture_fingerprint(model, "latents"))
        return store

    def picture_fingerprint(self, model: PreTrainedModel, kind: str) -> str:
        """A hash of all that features or latents depend on beside the picture: weights and settings."""
        config, modules = model.config, [model.model.vision_encoder]
        settings = [_settings(self.image_processor), _settings(config.vision_config), config.feature_grid]
        if kind == "latents":
            modules.append(model.model.picture_reader)
            settings += [config.resampler_heads, config.resampler_head_dim]
        return weights_fingerprint(modules, settings)

    def pooled_pictures(
        self,
        model: PreTrainedModel,
        positions: Sequence[int],
        pictures: PictureStore | NoPictures | None = None,
        batch_size: int = 64,
    ) -> torch.Tensor:
        """
        Each item's picture as one vector, the mean of its features, `[positions, vision_hidden_size]`; zeros where
        there is none. `pictures` are features that are at hand.
        """
        pooled = torch.zeros(len(positions), model.config.vision_hidden_size)
        rows = {position: row for row, position in enumerate(positions) if self.catalog.has_image(position)}
        known = pictures if pictures is not None and pictures.kind == "features" else None
        for batch, features in self._features(model, list(rows), known, batch_size):
            pooled[[rows[position] for position in batch]] = features.mean(1).float()
        return pooled

    def _complete(
        self,
        model: PreTrainedModel,
        kind: str,
        mark: str,
        wanted: dict[bytes, int],
        path: Path | None,
        old: PictureStore | None,
        batch_size: int,
    ) -> PictureStore:
        """A store of all that is `wanted`, hashes and positions: rows of the `old` one, and what it does not have."""
        part, part_path = None, None
        if path is not None:
            part_path = path.with_suffix(".part")
            part = _open_part(part_path, mark, wanted)
        todo = {key: position for key, position in wanted.items() if part is None or key not in part}
        for batch, values in self._values(model, kind, todo, path, old, batch_size):
            if part is None:
                part = PictureStore.create(part_path, kind, mark, len(wanted), values)
            part.append([self.catalog.image_key(position) for position in batch], values)
        if part is None:  # no item has a picture
            return PictureStore(kind, mark, torch.zeros(0, 1, dtype=torch.uint8), torch.zeros(0, 1, 1))
        if path is None:
            return part
        part.finish(path)
        return PictureStore.open(path, mark)

    def _values(
        self,
        model: PreTrainedModel,
        kind: str,
        todo: dict[bytes, int],
        path: Path | None,
        old: PictureStore | None,
        batch_size: int,
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        known = [position for key, position in todo.items() if old is not None and key in old]
        for batch in _batches(known, batch_size):
            yield batch, old[[self.catalog.image_key(position) for position in batch]]
        rest = [position for key, position in todo.items() if old is None or key not in old]
        if kind == "features":
            yield from self._features(model, rest, None, batch_size)
            return
        beside = None if path is None else path.with_name(PICTURE_FILES["features"])
        features = None if beside is None else _open_fitting(beside, self.picture_fingerprint(model, "features"), True)
        reader = model.model.picture_reader
        weight = reader.input_projection.weight
        for batch, states in self._features(model, rest, features, batch_size):
            with torch.no_grad():
                yield batch, reader(states.to(weight)).cpu()

    def _features(
        self, model: PreTrainedModel, positions: Sequence[int], store: PictureStore | None, batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Features of the pictures of `positions`: first those that `store` has, then the encoder's."""
        keys = {position: self.catalog.image_key(position) for position in positions} if store is not None else {}
        known = [position for position in keys if keys[position] in store]
        for batch in _batches(known, batch_size):
            yield batch, store[[keys[position] for position in batch]]
        known = set(known)
        rest = [position for position in positions if position not in known]
        starts = _batches(rest, batch_size)
        for batch in logging.tqdm(starts, desc="Encoding pictures", disable=len(rest) <= 500):
            pixel_values = torch.cat([self._pixel_values(self.catalog.image(position)) for position in batch])
            yield batch, model.get_image_features(pixel_values.to(model.model.vision_encoder.device)).cpu()


def _batches(positions: Sequence[int], batch_size: int) -> list[list[int]]:
    return [list(positions[start : start + batch_size]) for start in range(0, len(positions), batch_size)]


def _settings(config: Any) -> dict[str, Any]:
    """What is set in a configuration, saved and loaded or not."""
    settings = config.to_dict()
    return {name: value for name, value in settings.items() if name not in NO_SETTINGS and not name.startswith("_")}


def _open_fitting(path: Path, mark: str, replace: bool) -> PictureStore | None:
    """A file's store; `None` where there is none, or one to be replaced."""
    if not path.is_file():
        return None
    try:
        return PictureStore.open(path, mark)
    except ValueError as error:
        if not replace:
            raise
        logger.info(f"{path.name} is not used: {error}")
        return None


def _open_part(path: Path, mark: str, wanted: dict[bytes, int]) -> PictureStore | None:
    """What an interrupted run left, if it was to become what is `wanted` now."""
    part = _open_fitting(path, mark, replace=True)
    if part is None or len(part.values) != len(wanted) or not all(key in wanted for key in part):
        return None
    return PictureStore.open(path, mark, writable=True)
