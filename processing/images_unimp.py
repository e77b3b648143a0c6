"""Opening pictures from anywhere: one function, one picture out, one kind of error."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

# Checked against the size in the file's header, before a pixel is decoded: 8,000 x 8,000.
MAX_IMAGE_PIXELS = 64_000_000

# Only raster formats with decoders inside Pillow. In particular no EPS, which would start Ghostscript.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class ImageError(ValueError):
    """A picture that cannot be used. The message says what was got and what to do."""


def unpack(source: Any) -> Any:
    """
    Of a dictionary `{"bytes": ..., "path": ...}` what it holds: its bytes, or its path where they are missing or
    empty, or `None`. Anything else as it is.
    """
    if not isinstance(source, Mapping):
        return source
    return source.get("bytes") or source.get("path") or None


def load_image(source: Any, root: str | Path | None = None) -> Image.Image:
    """Opens a picture as 8-bit RGB.

    The first frame is taken from an animation, the EXIF orientation is applied, transparent parts become white and
    16-bit gray is scaled to 8 bits.

    Args:
        source (`PIL.Image.Image`, `bytes`, `str`, `Path` or `Mapping`):
            The picture, an encoded file, the path of one, or the dictionary `{"bytes": ..., "path": ...}` of
            `datasets.Image`, of which `bytes` is used when both are there (not missing and not empty).
        root (`str` or `Path`, *optional*):
            Folder that paths are relative to and may not leave. Without it a path is opened as it is.

    Returns:
        `PIL.Image.Image`: a new picture of mode `"RGB"`, between 1 and `MAX_IMAGE_PIXELS` pixels.

    Raises:
        ImageError: if the picture is missing, empty, damaged, too large, of a format outside `IMAGE_FORMATS` or
            outside `root`.
    """
    source = unpack(source)
    if isinstance(source, Image.Image):
        return _read(source, "the picture")
    if isinstance(source, bytes | bytearray | memoryview):
        return _read(io.BytesIO(source), f"the {len(source)} bytes")
    if isinstance(source, str | Path):
        path = resolve_path(source, root)
        with path.open("rb") as file:
            return _read(file, f"the file {str(path)!r}")
    raise ImageError(
        f"`source` must be a picture, bytes, a path or a dictionary with one of `bytes` and `path`, "
        f"but got {type(source).__name__}; leave the picture out of the item if there is none."
    )


def resolve_path(path: str | Path, root: str | Path | None = None) -> Path:
    """Finds an existing file, inside `root` when there is one.

    Raises:
        ImageError: if there is no such file, or if it is reached by an absolute path, `..` or a link out of `root`.
    """
    if root is None:
        found = os.fspath(path)
    elif os.path.isabs(path) or ".." in Path(path).parts:
        raise ImageError(f"`path` must be relative and stay inside {str(root)!r}, but got {_short(path)}; {_MOVE}")
    else:
        found = os.path.join(root, path)
    # A plain file and nothing else: a folder, a pipe or a device could block or never end.
    if not os.path.isfile(found):
        raise ImageError(f"`path` names no file: {_short(found)}; correct it or leave the picture out.")
    if root is not None and not Path(os.path.realpath(found)).is_relative_to(os.path.realpath(root)):
        raise ImageError(f"`path` is a link that leaves {str(root)!r}: {_short(path)}; {_MOVE}")
    return Path(found)


_MOVE = "move the file there and give its path relative to it."


def _short(path: str | Path) -> str:
    text = repr(os.fspath(path))
    return text if len(text) <= 200 else text[:200] + "..."


def _read(source: Image.Image | BinaryIO, name: str) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source, name)
        if not source.read(1):
            raise ImageError(f"{name} cannot be a picture: it is empty; replace it or leave the picture out.")
        source.seek(0)
        # Reads the header only; the first frame of an animation is the current one.
        with Image.open(source, formats=IMAGE_FORMATS) as image:
            return _to_rgb(image, name)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large(name, str(error))) from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture of a known format ({', '.join(IMAGE_FORMATS)}); convert it or leave it out."
        ) from error
    except Exception as error:  # on damaged data Pillow's decoders raise whatever they trip over
        raise ImageError(f"{name} is damaged or cut off: {error}; replace it or leave the picture out.") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(_too_large(name, f"{width} x {height}"))
    if not width * height:
        raise ImageError(f"{name} is {width} x {height} and has no pixel; leave it out.")
    return _flatten(ImageOps.exif_transpose(image))


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16 bits at 255, which turns nearly everything white; the high byte is the 8-bit value.
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _too_large(name: str, size: str) -> str:
    return f"{name} has too many pixels ({size}; at most {MAX_IMAGE_PIXELS:,}); make the picture smaller."
