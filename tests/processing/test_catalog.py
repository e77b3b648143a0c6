"""The catalogue keeps its items, their order and their pictures, wherever it goes."""

import copy
import datetime
import io
import logging

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unimp import Catalog
from unimp.processing import ImageError
from unimp.processing.catalog_unimp import AVAILABLE

from .conftest import ITEMS, draw_picture, make_catalog


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def same_picture(first, second):
    return np.array_equal(np.asarray(first), np.asarray(second))


def test_items_keep_their_order(catalog):
    assert catalog.item_ids == [item["item_id"] for item in ITEMS]
    assert len(catalog) == 8
    assert [catalog.position(item_id) for item_id in catalog.item_ids] == list(range(8))
    assert "hat" in catalog
    assert "cap" not in catalog
    with pytest.raises(KeyError):
        catalog.position("cap")


def test_an_item_has_the_attributes_that_have_a_value(catalog):
    shirt = {"item_id": "shirt", "title": "Red shirt", "price": 19.5, "colours": ["red", "white"]}
    assert catalog.item(0) == shirt
    assert catalog.item(1) == {"item_id": "hat", "title": "Straw hat 🎩"}
    assert catalog.item(6) == {"item_id": "belt"}
    assert catalog.attributes(6) == {}


def test_attributes_that_only_later_items_have_are_kept():
    catalog = Catalog.from_items([{"item_id": "a"}, {"item_id": "b", "title": "Hat"}])
    assert catalog.item(1) == {"item_id": "b", "title": "Hat"}


@pytest.mark.parametrize(
    "value",
    [
        "text",
        3,
        2.5,
        True,
        ["a", "b"],
        {"a": 1},
        [{"a": 1}],
        datetime.date(2024, 5, 1),
        datetime.datetime(2024, 5, 1, 12),
    ],
    ids=repr,
)
def test_attributes_of_any_type_survive_saving(tmp_path, value):
    catalog = Catalog.from_items([{"item_id": "a", "it": value}, {"item_id": "b"}])
    catalog.save(tmp_path / "catalog.parquet")
    loaded = Catalog.load(tmp_path / "catalog.parquet")
    assert loaded.attributes(0) == {"it": value}
    assert loaded.attributes(1) == {}


def test_bytes_say_nothing():
    catalog = Catalog.from_items([{"item_id": "a", "raw": b"\x00"}])
    assert catalog.item(0) == {"item_id": "a"}


@pytest.mark.parametrize("kind", ["picture", "bytes", "path", "struct of bytes", "struct of path"])
def test_pictures_of_any_kind(tmp_path, kind):
    image = draw_picture(1)
    image.save(tmp_path / "hat.png")
    source = {
        "picture": image,
        "bytes": png(image),
        "path": "hat.png",
        "struct of bytes": {"bytes": png(image), "path": None},
        "struct of path": {"bytes": None, "path": "hat.png"},
    }[kind]
    catalog = Catalog.from_items([{"item_id": "hat", "image": source}, {"item_id": "cap"}], root=tmp_path)
    assert [catalog.has_image(0), catalog.has_image(1)] == [True, False]
    assert same_picture(catalog.image(0), image)
    assert catalog.image(1) is None


def test_a_file_is_kept_as_it_is(tmp_path):
    """A photograph written as PNG would be several times its size."""
    draw_picture(0).save(tmp_path / "hat.jpg", quality=50)
    data = (tmp_path / "hat.jpg").read_bytes()
    for source in ("hat.jpg", data):
        catalog = Catalog.from_items([{"item_id": "hat", "image": source}], root=tmp_path)
        assert catalog.table["image"][0].as_py() == {"bytes": data, "path": None}


def test_of_empty_bytes_and_a_path_the_path_counts(tmp_path):
    draw_picture(1).save(tmp_path / "hat.png")
    source = {"bytes": b"", "path": "hat.png"}
    given = Catalog.from_items([{"item_id": "a", "image": source}], root=tmp_path)
    stored = Catalog(pa.table({"item_id": ["a"], "image": [source]}), root=tmp_path)
    for catalog in (given, stored):
        assert catalog.has_image(0)
        assert same_picture(catalog.image(0), draw_picture(1))
    assert stored.embed_images() == {}
    assert stored.table["image"][0]["bytes"].as_py()


@pytest.mark.parametrize("missing", [None, float("nan"), {"bytes": None, "path": None}, {"bytes": b"", "path": ""}])
def test_missing_pictures(missing):
    catalog = Catalog.from_items([{"item_id": "a", "image": missing}, {"item_id": "b", "image": draw_picture(0)}])
    assert [catalog.has_image(0), catalog.has_image(1)] == [False, True]
    assert catalog.image(0) is None


# Adding and removing


def test_add(catalog):
    codes = catalog.add(
        [{"item_id": "cap", "brand": "Acme", "price": 5}, {"item_id": "bag", "image": draw_picture(9)}]
    )
    assert codes == range(8, 10)
    assert catalog.item_ids[8:] == ["cap", "bag"]
    assert catalog.item(8) == {"item_id": "cap", "brand": "Acme", "price": 5.0}
    assert catalog.item(0)["title"] == "Red shirt"
    assert same_picture(catalog.image(9), draw_picture(9))
    assert catalog.available == [True] * 10


def test_numbers_join_texts_as_texts():
    """As a csv file has them."""
    catalog = Catalog.from_items([{"item_id": "a", "price": "9.90", "size": "40"}])
    catalog.add([{"item_id": "b", "price": 12.5, "size": 41}, {"item_id": "c"}])
    catalog.replace([{"item_id": "a", "price": 9}])
    found = [catalog.attributes(position) for position in range(3)]
    assert found == [{"price": "9"}, {"price": "12.5", "size": "41"}, {}]


def test_add_pictures_to_a_catalog_without_any():
    catalog = Catalog.from_items([{"item_id": "a"}])
    catalog.add([{"item_id": "b", "image": draw_picture(0)}])
    assert [catalog.has_image(0), catalog.has_image(1)] == [False, True]


@pytest.mark.parametrize("change", [Catalog.add, Catalog.replace])
def test_the_callers_own_pictures_are_opened_as_given(tmp_path, monkeypatch, change):
    """A loaded catalogue opens the paths of its table in its own folder alone; who adds an item names any file."""
    for name in ("work", "model", "photos"):
        (tmp_path / name).mkdir()
    draw_picture(1).save(tmp_path / "work" / "coat.png")
    draw_picture(2).save(tmp_path / "photos" / "coat.png")
    Catalog.from_items([{"item_id": "a"}, {"item_id": "b"}]).save(tmp_path / "model" / "catalog.parquet")
    monkeypatch.chdir(tmp_path / "work")
    item_id = "c" if change is Catalog.add else "b"
    for path, root, seed in (
        ("coat.png", None, 1),
        ("../photos/coat.png", None, 2),
        (str(tmp_path / "photos" / "coat.png"), None, 2),
        ("coat.png", tmp_path / "photos", 2),
    ):
        catalog = Catalog.load(tmp_path / "model" / "catalog.parquet")
        change(catalog, [{"item_id": item_id, "image": path}], root=root)
        assert same_picture(catalog.image(catalog.position(item_id)), draw_picture(seed))
    for path in ("../work/coat.png", str(tmp_path / "work" / "coat.png")):
        with pytest.raises(ImageError, match="`path` must be relative and stay inside"):
            change(catalog, [{"item_id": item_id, "image": path}], root=tmp_path / "photos")
    with pytest.raises(ImageError, match="names no file"):
        change(catalog, [{"item_id": item_id, "image": "gone.png"}])


@pytest.mark.parametrize(
    "items", [[{"item_id": "hat"}], [{"item_id": "cap"}, {"item_id": "cap"}], [], [{"item_id": 3}]]
)
def test_a_failed_add_changes_nothing(catalog, items):
    with pytest.raises(ValueError, match="`item"):
        catalog.add(items)
    assert catalog.item_ids == make_catalog().item_ids
    assert catalog.table.num_rows == 8


def test_remove(catalog):
    catalog.remove(["hat", "belt"])
    assert catalog.available == [True, False, True, True, True, True, False, True]
    assert len(catalog) == 8
    assert catalog.position("hat") == 1
    catalog.remove("shirt")
    assert catalog.available[0] is False
    catalog.add([{"item_id": "cap"}])
    assert catalog.available[0] is False
    assert catalog.available[8] is True


def test_removing_the_unknown_changes_nothing(catalog):
    with pytest.raises(ValueError, match=r"`item_ids` must be in the catalogue, got \['cap', 3\]"):
        catalog.remove(["hat", "cap", 3])
    assert all(catalog.available)


def test_items_can_come_as_not_available():
    catalog = Catalog.from_items([{"item_id": "a", "available": False}, {"item_id": "b"}])
    assert catalog.available == [False, True]
    assert catalog.item(0) == {"item_id": "a"}


def test_the_fingerprint_is_of_the_ids_in_order(tmp_path, catalog):
    same = Catalog.from_items([{"item_id": item_id, "title": "Other"} for item_id in catalog.item_ids])
    assert same.fingerprint == catalog.fingerprint
    assert len(catalog.fingerprint) == 16
    catalog.save(tmp_path / "catalog.parquet")
    assert Catalog.load(tmp_path / "catalog.parquet").fingerprint == catalog.fingerprint
    others = ([*catalog.item_ids[1:], catalog.item_ids[0]], catalog.item_ids[:-1], ["ab", "c"], ["a", "bc"], ["a,b"])
    prints = [Catalog.from_items([{"item_id": item_id} for item_id in ids]).fingerprint for ids in others]
    assert len({catalog.fingerprint, *prints}) == 1 + len(others)
    catalog.remove(["hat"])
    assert catalog.fingerprint == same.fingerprint


# Pictures in a folder


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    draw_picture(0).save(folder / "good.png")
    draw_picture(1).save(tmp_path / "outside.png")
    (folder / "cut.png").write_bytes(png(draw_picture(2))[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    return folder


def by_path(folder, *paths):
    images = pa.array([{"bytes": None, "path": path} for path in paths])
    return Catalog(pa.table({"item_id": [str(number) for number in range(len(paths))], "image": images}), root=folder)


@pytest.mark.parametrize(
    "path", ["../outside.png", "link.png", "{outside}", "missing.png", "cut.png", "text.png", "."]
)
def test_only_pictures_inside_the_folder_are_opened(folder, path):
    path = path.format(outside=folder.parent / "outside.png")
    with pytest.raises(ImageError, match="`image` of item '0'"):
        by_path(folder, path).image(0)
    with pytest.raises(ImageError, match="`image` of item 'a'"):
        Catalog.from_items([{"item_id": "a", "image": path}], root=folder)


def test_embed_images_leaves_out_counts_and_logs(folder, caplog):
    catalog = by_path(folder, "good.png", "cut.png", "missing.png", "../outside.png")
    with caplog.at_level(logging.WARNING):
        unreadable = catalog.embed_images()
    assert list(unreadable) == ["1", "2", "3"]
    assert "3 pictures could not be read and are left out" in caplog.text
    assert "missing.png" in caplog.text
    assert [catalog.has_image(position) for position in range(4)] == [True, False, False, False]
    (folder / "good.png").unlink()
    assert same_picture(catalog.image(0), draw_picture(0))
    caplog.clear()
    assert catalog.embed_images() == {}
    assert caplog.text == ""


def test_saving_embeds(folder):
    by_path(folder, "good.png").save(folder.parent / "catalog.parquet")
    (folder / "good.png").unlink()
    assert same_picture(Catalog.load(folder.parent / "catalog.parquet").image(0), draw_picture(0))


def test_a_picture_that_is_gone_is_told_before_anything_is_saved(folder):
    catalog = by_path(folder, "good.png", "cut.png")
    target = folder.parent / "catalog.parquet"
    with pytest.raises(ImageError, match=r"of item .1.: .*cannot be saved without it.*`catalog.embed_images"):
        catalog.save(target)
    assert not target.exists()
    assert catalog.has_image(1)
    catalog.embed_images()
    catalog.save(target)
    assert same_picture(Catalog.load(target).image(0), draw_picture(0))


def test_a_catalog_of_paths_opens_them_in_its_own_folder_only(folder):
    """Whoever wrote the file, it cannot make us read other files."""
    table = pa.table({"item_id": ["a"], "image": pa.array([{"bytes": None, "path": "../outside.png"}])})
    pq.write_table(table, folder / "catalog.parquet")
    with pytest.raises(ImageError, match="`path` must be relative and stay inside"):
        Catalog.load(folder / "catalog.parquet").image(0)


# Saving, loading, copying


def test_saved_and_loaded_it_is_the_same(tmp_path, catalog):
    catalog.remove(["hat"])
    catalog.save(tmp_path / "catalog.parquet")
    loaded = Catalog.load(tmp_path / "catalog.parquet")
    assert loaded.item_ids == catalog.item_ids
    assert loaded.available == catalog.available
    for position in range(len(catalog)):
        assert loaded.item(position) == catalog.item(position)
        assert loaded.has_image(position) == catalog.has_image(position)
        if catalog.has_image(position):
            assert same_picture(loaded.image(position), catalog.image(position))
    loaded.save(tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(tmp_path / "catalog.parquet"))


def test_datasets_reads_it_with_pictures(tmp_path, catalog):
    catalog.save(tmp_path / "catalog.parquet")
    table = datasets.Dataset.from_parquet(str(tmp_path / "catalog.parquet"), cache_dir=str(tmp_path / "cache"))
    assert isinstance(table.features["image"], datasets.Image)
    assert isinstance(table[1]["image"], Image.Image)
    assert same_picture(table[1]["image"], catalog.image(1))
    assert table[0]["image"] is None
    assert table["item_id"][:] == catalog.item_ids
    again = Catalog(table.with_format("arrow")[:])
    assert again.item_ids == catalog.item_ids
    assert same_picture(again.image(1), catalog.image(1))


def test_a_copy_shares_the_table_and_changes_alone(catalog):
    """`ProcessorMixin.to_dict` copies every attribute: a catalogue can be gigabytes."""
    twin = copy.deepcopy(catalog)
    assert twin.table is catalog.table
    assert twin.item_ids is catalog.item_ids
    twin.remove(["hat"])
    twin.add([{"item_id": "cap"}])
    assert len(catalog) == 8
    assert all(catalog.available)
    assert len(twin) == 9


def test_large_catalogs_are_quick():
    """Whether an item has a picture is asked for every event: without reading the picture."""
    data = b"x" * 1000
    images = pa.array([{"bytes": data if number % 2 else None, "path": None} for number in range(5000)])
    catalog = Catalog(pa.table({"item_id": [str(number) for number in range(5000)], "image": images}))
    assert sum(map(catalog.has_image, range(5000))) == 2500
    assert catalog.table.column_names == ["item_id", "image", AVAILABLE]


def test_replaced_items_keep_their_codes_and_what_is_said_of_them_alone_changes(catalog):
    before, ids = list(catalog.item_ids), catalog.item_ids
    kept = catalog.item(0)
    catalog.remove([ids[2]])
    with pytest.raises(ValueError, match="`replace` what the catalogue has"):
        catalog.add([{"item_id": ids[2], "title": "Moon boots"}])
    codes = catalog.replace([{"item_id": ids[2], "title": "Moon boots"}, {"item_id": ids[1], "title": "Cap"}])
    assert codes == [2, 1]
    assert catalog.item_ids == before
    assert catalog.item(2) == {"item_id": ids[2], "title": "Moon boots"}
    assert catalog.item(1) == {"item_id": ids[1], "title": "Cap"}
    assert not catalog.has_image(2)
    assert catalog.available[1]
    assert not catalog.available[2]  # a better title does not put on sale what is sold out
    catalog.replace([{"item_id": ids[2], "title": "Moon boots", AVAILABLE: True}])
    assert catalog.available[2]
    catalog.replace([{"item_id": ids[2], AVAILABLE: False}, {"item_id": ids[1], "title": "Cap"}])
    assert catalog.available[1]
    assert not catalog.available[2]
    assert catalog.item(0) == kept
    for wrong, message in (
        ([{"item_id": "other"}], "`add` those"),
        ([{"item_id": ids[1]}] * 2, "once"),
        (None, "must be a list of dictionaries"),
        ({"item_id": ids[1]}, "must be a list of dictionaries"),
    ):
        with pytest.raises(ValueError, match=f"`items`.*{message}"):
            catalog.replace(wrong)
