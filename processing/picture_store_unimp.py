"""Pictures once: what a model makes of pictures, a row each, in one safetensors file that is read where it lies."""

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

# Of each kind, its file. Latents are small, and of use to whoever gets the model: they travel with it. Features serve
# training; what begins with an underscore is not uploaded by trainers.
PICTURE_FILES = {"features": "_picture_features.safetensors", "latents": "picture_latents.safetensors"}
KEY_SIZE = 16
DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


class PictureStore:
    """
    Rows of pictures by the hash of each (see [`Catalog.image_key`]), in memory or mapped from a safetensors file, of
    which then only the rows asked for are read. The file's tensors are `keys`, `[pictures, 16]` bytes, and `values`,
    `[pictures, positions, width]`; rows are filled in order, and one without a key is yet to come.

    Attributes:
        kind (`str`): `"features"` of the vision encoder, or `"latents"` that the model makes of those.
        fingerprint (`str`): of the weights and settings that made the rows, see [`weights_fingerprint`].
        values (`torch.Tensor`): the rows.
        path (`Path`, *optional*): the file.
    """

    def __init__(
        self, kind: str, fingerprint: str, keys: torch.Tensor, values: torch.Tensor, path: Path | None = None
    ) -> None:
        self.kind, self.fingerprint, self.values, self.path = kind, fingerprint, values, path
        self._keys = keys
        filled = int(keys.any(dim=1).long().cumprod(0).sum())
        self._rows = {key.tobytes(): row for row, key in enumerate(keys[:filled].numpy())}

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None, writable: bool = False) -> "PictureStore":
        """
        Map a file, of which nothing but the keys is read.

        Args:
            path (`str` or `Path`): the file.
            fingerprint (`str`, *optional*): what the rows must have been made with; anything is fine without it.
            writable (`bool`): to [`~PictureStore.append`] what an interrupted run left out.

        Raises:
            `ValueError`: the file is damaged, or was made with other weights or settings.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="pt") as file:
                about, keys, values = file.metadata(), file.get_tensor("keys"), file.get_tensor("values")
            made_with, kind = about["fingerprint"], about["kind"]
        except (SafetensorError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged or no file of pictures ({error}): delete it.") from error
        if writable:
            keys, values = _map(path, len(keys), values)
        store = cls(kind, made_with, keys, values, path)
        if fingerprint is not None:
            store.check(fingerprint)
        return store

    @classmethod
    def create(
        cls, path: Path | None, kind: str, fingerprint: str, num_pictures: int, like: torch.Tensor
    ) -> "PictureStore":
        """A store of rows to come, each of the shape and type of those of `like`; in memory without a `path`."""
        if path is None:
            keys = torch.zeros(num_pictures, KEY_SIZE, dtype=torch.uint8)
            return cls(kind, fingerprint, keys, like.new_empty(num_pictures, *like.shape[1:]))
        about = {"kind": kind, "fingerprint": fingerprint}
        _write_header(path, about, num_pictures, like)
        return cls(kind, fingerprint, *_map(path, num_pictures, like), path)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the file itself.
        if self.path is not None:
            return PictureStore.open, (self.path,)
        return PictureStore, (self.kind, self.fingerprint, self._keys, self.values)

    def __len__(self) -> int:
        """Pictures that there is a row of."""
        return len(self._rows)

    def __contains__(self, key: bytes | None) -> bool:
        return key in self._rows

    def __getitem__(self, keys: Sequence[bytes]) -> torch.Tensor:
        """`[keys, positions, width]`."""
        return self.values[torch.tensor([self._rows[key] for key in keys], dtype=torch.long)]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._rows)

    def check(self, fingerprint: str) -> None:
        """Raises `ValueError` where the rows were made with other weights or settings than this fingerprint's."""
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"{self.path} was made with other weights or picture settings (fingerprint {self.fingerprint}) than "
                f"`model` and `processor` have ({fingerprint}): delete it, or make it again with "
                "`processor.encode_pictures(model, folder, ..., replace=True)`."
            )

    def append(self, keys: Sequence[bytes], values: torch.Tensor) -> None:
        """Fill the next rows. What was appended before an interruption stays."""
        first = len(self)
        self.values[first : first + len(keys)] = values
        self._sync()  # a key says that its row is there: it comes after it
        self._keys[first : first + len(keys)] = torch.tensor([list(key) for key in keys], dtype=torch.uint8)
        self._rows.update(zip(keys, range(first, first + len(keys)), strict=True))

    def finish(self, path: Path) -> None:
        """Give the file its name, under which it was never incomplete; whoever has mapped an older one keeps that."""
        self._sync()
        os.replace(self.path, path)
        self.path = path

    def _sync(self) -> None:
        if self.path is not None:
            with self.path.open("r+b") as file:
                os.fsync(file.fileno())


class NoPictures:
    """In place of a [`PictureStore`] for a model without cross-attention: what it never looks at is never opened."""

    kind = "latents"

    def __contains__(self, key: bytes | None) -> bool:
        return True

    def __getitem__(self, keys: Sequence[bytes]) -> torch.Tensor:
        return torch.zeros(len(keys), 1, 1)


def _write_header(path: Path, about: Mapping[str, str], num_pictures: int, like: torch.Tensor) -> None:
    """A safetensors file of zeros, of which a file system that can keeps nothing yet."""
    shape = [num_pictures, *like.shape[1:]]
    ends = [0, KEY_SIZE * num_pictures, KEY_SIZE * num_pictures + num_pictures * like[0].nbytes]
    tensors = {
        "keys": {"dtype": "U8", "shape": [num_pictures, KEY_SIZE], "data_offsets": ends[:2]},
        "values": {"dtype": DTYPE_NAMES[like.dtype], "shape": shape, "data_offsets": ends[1:]},
    }
    header = json.dumps({"__metadata__": dict(about)} | tensors).encode()
    header += b" " * (-len(header) % 8)
    free = shutil.disk_usage(path.parent).free
    if free < ends[2]:  # a mapped file that finds no room ends the process without a word
        raise OSError(f"{path} takes {ends[2] / 1e9:.1f} GB, but only {free / 1e9:.1f} are free: make room for it.")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + ends[2])


def _map(path: Path, num_pictures: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`keys` and `values` of a file, to be written to."""
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
    end = start + KEY_SIZE * num_pictures
    data = torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)
    values = data[end:].view(like.dtype).view(num_pictures, *like.shape[1:])
    return data[start:end].view(num_pictures, KEY_SIZE), values


def weights_fingerprint(modules: Sequence[torch.nn.Module], settings: Any) -> str:
    """
    A hash of all weights of some modules, bit by bit, and of the settings that weights say nothing of (as JSON).

    It takes about a second a gigabyte: less would not notice every change.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
