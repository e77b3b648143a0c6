"""Pictures as they come: odd ones open, bad ones are refused with a reason."""

import io
import os
import struct
import tracemalloc
import zlib
from types import MappingProxyType

import numpy as np
import pytest
from PIL import Image

from unimp.processing import images_unimp
from unimp.processing.images_unimp import ImageError, load_image

RED = (255, 0, 0)


def encode(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def solid(mode="RGB", color=RED, size=(4, 4)):
    return Image.new(mode, size, color)


def bomb_png(side=30_000):
    """A true 1-bit PNG of side x side black pixels, about 0.1 MB."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    row = bytes(1 + (side + 7) // 8)
    pixels = zlib.compress(row * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def animation(format):
    frames = [solid(color=color) for color in (RED, (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    return encode(frames[0], format, save_all=True, append_images=frames[1:], **options)


def palette_with_hole():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, *RED])
    return encode(image, transparency=0)


def gray_16_bit(value):
    return encode(Image.fromarray(np.full((4, 4), value, np.uint16)))


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

GOOD = {
    "1 pixel": (encode(solid(size=(1, 1))), RED),
    "CMYK": (encode(solid("CMYK", (0, 255, 255, 0)), "TIFF"), RED),
    "palette": (encode(solid().convert("P", palette=Image.Palette.ADAPTIVE)), RED),
    "palette with a transparent color": (palette_with_hole(), (255, 255, 255)),
    "16-bit gray": (gray_16_bit(0x8000), (128, 128, 128)),
    "16-bit white": (gray_16_bit(0xFFFF), (255, 255, 255)),
    "gray": (encode(solid("L", 7)), (7, 7, 7)),
    "gray with alpha": (encode(solid("LA", (7, 0))), (255, 255, 255)),
    "black and white": (encode(solid("1", 1)), (255, 255, 255)),
    "opaque RGBA": (encode(solid("RGBA", (*RED, 255))), RED),
    "clear RGBA": (encode(solid("RGBA", (*RED, 0))), (255, 255, 255)),
    "half clear RGBA": (encode(solid("RGBA", (0, 0, 0, 128))), (127, 127, 127)),
    "animated GIF": (animation("GIF"), RED),
    "animated WebP": (animation("WEBP"), RED),
    "BMP": (encode(solid(), "BMP"), RED),
}

BAD = {
    "zero bytes": (b"", "empty"),
    "not an image": (b"item_id,title\n1,Hat\n", "not a picture"),
    "vector format": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "corrupt": (b"\x89PNG\r\n\x1a\n" + bytes(200), "picture|damaged"),
    "corrupt pixels": (encode(NOISE)[:100] + bytes(5000) + encode(NOISE)[5100:], "damaged"),
    "truncated PNG": (encode(NOISE)[:3000], "damaged or cut off"),
    "truncated JPEG": (encode(NOISE, "JPEG")[:1500], "damaged or cut off"),
    "30,000 x 30,000": (bomb_png(), "too many pixels"),
    "10,000 x 10,000": (bomb_png(10_000), "too many pixels"),
    "nothing": (None, "NoneType"),
    "empty dictionary": ({"bytes": None, "path": None}, "NoneType"),
    "a number": (7, "int"),
    "missing file": ("no/such/file.png", "no file"),
    "folder": (os.curdir, "no file"),
    "null byte in the path": ("a\0b.png", "no file"),
    "endless path": ("a" * 10_000, "no file"),
    "picture without pixels": (Image.new("RGB", (0, 3)), "no pixel"),
}


@pytest.mark.parametrize("name", GOOD)
def test_odd_pictures_open(name):
    data, color = GOOD[name]
    image = load_image(data)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - color).max() <= 1


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_pictures_are_refused_with_a_reason(name):
    source, reason = BAD[name]
    with pytest.raises(ImageError, match=reason):
        load_image(source)


def test_a_bomb_is_refused_from_its_header():
    data = bomb_png()
    tracemalloc.start()
    with pytest.raises(ImageError):
        load_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) < 200_000
    assert peak < 10_000_000


def test_the_limit_also_holds_for_opened_pictures(monkeypatch):
    monkeypatch.setattr(images_unimp, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(ImageError, match="4 x 4"):
        load_image(solid())
    assert Image.MAX_IMAGE_PIXELS > 15


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    data = encode(NOISE)
    path = tmp_path / "noise.png"
    path.write_bytes(data)
    sources = [NOISE, data, path, str(path), {"bytes": data, "path": "gone.png"}, {"bytes": None, "path": str(path)}]
    for source in sources:
        assert np.array_equal(np.asarray(load_image(source)), np.asarray(NOISE))
    assert load_image(NOISE) is not NOISE


@pytest.mark.parametrize("empty", [None, b"", bytearray()])
def test_empty_bytes_are_no_bytes(tmp_path, empty):
    (tmp_path / "noise.png").write_bytes(encode(NOISE))
    source = {"bytes": empty, "path": str(tmp_path / "noise.png")}
    for one in (source, MappingProxyType(source)):
        assert np.array_equal(np.asarray(load_image(one)), np.asarray(NOISE))
    for path in (None, ""):
        with pytest.raises(ImageError, match="leave the picture out"):
            load_image({"bytes": empty, "path": path})


def test_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to see it upright"
    assert load_image(encode(solid(size=(8, 2)), "JPEG", exif=exif)).size == (2, 8)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "images").mkdir(parents=True)
    for path in (folder / "images" / "in.png", tmp_path / "out.png"):
        path.write_bytes(encode(solid()))
    (folder / "images" / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "images" / "inner.png").symlink_to("in.png")
    return folder


@pytest.mark.parametrize("path", ["images/in.png", "./images/in.png", "images/inner.png"])
def test_paths_inside_the_root_open(root, path):
    assert load_image({"bytes": None, "path": path}, root=root).size == (4, 4)


@pytest.mark.parametrize("path", ["../out.png", "images/../../out.png", "images/link.png", "linked/out.png", "{abs}"])
def test_paths_out_of_the_root_are_refused(root, path):
    path = path.format(abs=root.parent / "out.png")
    with pytest.raises(ImageError, match=r"`path`.*root"):
        load_image(path, root=root)


def test_without_a_root_a_path_is_opened_as_it_is(root):
    assert load_image(root.parent / "out.png").size == (4, 4)
    assert load_image(root / "images" / "link.png").size == (4, 4)
