"""Pictures of a data set's folder: where they are found, and where they are not looked for."""

import pytest
from datasets import Image
from PIL import Image as PILImage

from unimp.processing.images_unimp import load_image
from unimp.processing.loaders.card import num_present
from unimp.processing.store import make_store, read_store

from .tables import EVENT_ROWS, events, items, png, write


@pytest.mark.parametrize("suffix", ["gif", "TIFF", "bmp"])
def test_pictures_of_every_format_are_found(store_folder, suffix):
    (store_folder / "images").mkdir(exist_ok=True)
    PILImage.new("RGB", (2, 2)).save(store_folder / "images" / f"12.{suffix}")
    assert num_present(read_store(store_folder).items, "image") == 1


def red_of(picture):
    return load_image(picture).getpixel((0, 0))[0]


@pytest.mark.parametrize("path", ["images/x.png", "x.png", "photos/x.png", "images/deep/x.png", "deep/x.png"])
def test_picture_paths_are_relative_to_the_folder_or_to_images(store_folder, path):
    for place in ("images/x.png", "photos/x.png", "images/deep/x.png"):
        (store_folder / place).parent.mkdir(exist_ok=True, parents=True)
        (store_folder / place).write_bytes(png())
    write(store_folder / "items.jsonl", [{"item_id": "007", "image": path}, {"item_id": "12", "image": None}])
    store = read_store(store_folder)
    assert store.items.features["image"] == Image(decode=False)
    assert store.items[0]["image"]["bytes"] is None
    assert red_of(store.items[0]["image"]) == 255
    assert store.items[1]["image"] is None
    assert not store.report


@pytest.mark.parametrize("path", ["../secret.png", "images/../../secret.png", "link.png", "{outside}", "gone.png"])
def test_pictures_outside_the_folder_are_left_out(tmp_path, path):
    outside, inside = tmp_path / "secret.png", tmp_path / "data"
    (inside / "images").mkdir(parents=True)
    outside.write_bytes(png())
    (inside / "images" / "link.png").symlink_to(outside)
    write(inside / "items.jsonl", [{"item_id": "007", "image": path.format(outside=outside)}])
    write(inside / "interactions.jsonl", EVENT_ROWS[:1])
    store = read_store(inside)
    assert store.items[0]["image"] is None
    assert list(store.report.changed.values()) == [1]
    assert list(store.report.examples.values()) == [[path.format(outside=outside)]]


def test_pictures_are_found_by_item_id(store_folder):
    (store_folder / "images").mkdir()
    (store_folder / "images" / "007.png").write_bytes(png())
    (store_folder / "images" / "notes.txt").write_text("no picture")
    store = read_store(store_folder)
    assert red_of(store.items[0]["image"]) == 255
    assert store.items[1]["image"] is None


def test_without_pictures_there_is_no_column(store_folder):
    (store_folder / "images").mkdir()
    assert read_store(store_folder).items.column_names == ["item_id", "title"]


def test_every_kind_of_picture_column(tmp_path):
    file = tmp_path / "hat.png"
    file.write_bytes(png())
    columns = {
        "paths": [str(file), None],
        "bytes": [png(), None],
        "structs": [{"bytes": png(), "path": "any name"}, None],
        "struct with a path": [{"bytes": None, "path": str(file)}, {"bytes": None, "path": None}],
    }
    for values in columns.values():
        store = make_store(items(image=values), events())
        assert red_of(store.items[0]["image"]) == 255
        assert store.items[1]["image"] is None
    nothing = make_store(items(image=[None, None]), events())
    assert nothing.items["image"][:] == [None, None]
    decoded = items(image=[png(), None]).cast_column("image", Image())
    assert red_of(make_store(decoded, events()).items[0]["image"]) == 255


def test_pictures_are_not_opened_when_reading(store_folder):
    (store_folder / "images").mkdir()
    (store_folder / "images" / "007.png").write_bytes(b"not a picture")
    assert read_store(store_folder).items[0]["image"]["path"].endswith("007.png")
