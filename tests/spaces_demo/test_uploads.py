"""Uploads are hostile."""

import io
import struct
import zipfile
import zlib

import pytest
from PIL import Image

from unimp import Catalog
from unimp.spaces_demo import cards, uploads
from unimp.spaces_demo.sample import write_sample
from unimp.spaces_demo.uploads import clean_text, read_item, read_picture, read_upload

CATALOG = Catalog.from_items([{"item_id": "yours-1", "title": "Hat", "price": 2.5, "size": 3}])


def png(size=(20, 30), color=(10, 120, 60)):
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side):
    """A file of a few bytes whose header promises very many pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def archive(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return str(path)


def test_a_table_with_pictures(tmp_path):
    table = (
        "\ufeffitem_id,Title,price,image,rating\n1,Green  coat,12.5,GREEN.png,5\n2,Scarf,cheap,,\n3,Bag,1,gone.png,\n"
    )
    upload = read_upload([write(tmp_path / "items.csv", table), write(tmp_path / "green.png", png())], CATALOG)
    first, second, third = upload.items
    assert first["item_id"] == "yours-1+"  # that id is taken
    assert (first["title"], first["price"]) == ("Green coat", 12.5)
    assert "rating" not in first
    assert Image.open(io.BytesIO(first["image"])).size == (20, 30)
    assert second == {"item_id": "yours-2", "title": "Scarf"}
    assert "image" not in third
    assert [note[:6] for note in upload.notes] == ["Row 2:", "Row 3 "]
    Catalog.from_items([{"item_id": "a", "title": "b", "price": 1.0}]).add(upload.items)


def test_a_table_with_semicolons_as_spreadsheets_write_it(tmp_path):
    upload = read_upload([write(tmp_path / "a.csv", 'item_id;title\n1;"Coat, long"\n2;Hat\n')], CATALOG)
    assert [item["title"] for item in upload.items] == ["Coat, long", "Hat"]
    upload = read_upload([write(tmp_path / "b.csv", "title,note\nCoat;long,x\n")], CATALOG)
    assert upload.items[0]["title"] == "Coat;long"


def test_the_sample_is_read_whole(tmp_path, shop):
    paths = write_sample(tmp_path, shop)
    upload = read_upload(paths, shop.catalog)
    assert upload.notes == []
    assert [item["item_id"] for item in upload.items] == ["yours-sample-1", "yours-sample-2", "yours-sample-3"]
    assert ["image" in item for item in upload.items] == [True] * (len(paths) - 1) + [False] * (4 - len(paths))
    first = shop.title(next(item_id for item_id in shop.find() if shop.thumbnail(item_id)))
    assert upload.items[0]["title"] == f"My {first}"
    pixels = [Image.open(paths[1]).getpixel((0, 0)), read_pixel(shop, first)]
    assert pixels[0] == (pixels[1][2], pixels[1][0], pixels[1][1])  # in other colours


def read_pixel(shop, title):
    item_id = next(item_id for item_id in shop.find() if shop.title(item_id) == title)
    return shop.catalog.image(shop.catalog.position(item_id)).getpixel((0, 0))


def test_pictures_alone_and_in_an_archive(tmp_path):
    path = archive(tmp_path / "shop.zip", {"shop/red_wool-scarf.png": png(), "__MACOSX/x.png": b"?", "a/.png": b"?"})
    assert [item["title"] for item in read_upload([path], CATALOG).items] == ["Red wool scarf"]


def test_paths_that_lead_out_and_links_are_left_out(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in ("../../out.png", "/etc/x.png", "C:\\x.png", "good.png"):
            file.writestr(name, png())
        file.writestr(link, "/etc/passwd")
    upload = read_upload([str(path)], CATALOG)
    assert [item["title"] for item in upload.items] == ["Good"]
    assert sum("leads out" in note for note in upload.notes) == 3
    assert sum("is a link" in note for note in upload.notes) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["evil.zip"]


def test_pictures_have_only_so_many_pixels_together(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_UPLOAD_PIXELS", 2500)
    path = archive(tmp_path / "many.zip", {f"{n}.png": png((30, 40)) for n in range(4)})
    upload = read_upload([path], CATALOG)
    assert ["image" in item for item in upload.items] == [True, True, False, False]
    assert [note[:6] for note in upload.notes] == ["Row 3 ", "Row 4 "]


def test_an_archive_that_grows_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_UNPACKED_BYTES", 5000)
    path = archive(tmp_path / "bomb.zip", {f"{n}.png": b"\0" * 3000 for n in range(3)})
    with pytest.raises(ValueError, match="unpacks to more"):
        read_upload([path], CATALOG)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.zip", b"PK\x03\x04 not really", "damaged"),
        ("a.csv", b"\xff\xfe\x00", "UTF-8"),
        ("a.csv", "title,title\na,b\n", "different column names"),
        ("a.csv", "title,price\nonly one\n", "Row 2"),
        ("a.csv", "title\n", "no item"),
        ("a.csv", 'title\n"open', "cannot be read"),
        ("a.csv", ",".join(f"c{n}" for n in range(30)) + "\n", "at most 20"),
        ("a.exe", b"MZ", "no item"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message):
        read_upload([write(tmp_path / name, data)], CATALOG)


def test_too_many_files_and_too_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    monkeypatch.setattr(uploads, "MAX_FILE_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="3 files"):
        read_upload(["a.png"] * 3, CATALOG)
    with pytest.raises(ValueError, match="larger than 1 MB"):
        read_upload([write(tmp_path / "big.png", b"\0" * (2 << 20))], CATALOG)
    with pytest.raises(ValueError, match="has 3 files"):
        read_upload([archive(tmp_path / "a.zip", {f"{n}.png": b"" for n in range(3)})], CATALOG)


def test_only_so_many_items_join(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_ITEMS", 2)
    upload = read_upload([write(tmp_path / "a.csv", "title\na\nb\nc\n")], CATALOG)
    assert [item["title"] for item in upload.items] == ["a", "b"]
    assert upload.notes == ["Only the first 2 of 3 items were taken."]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bomb(30_000), "far more than 24 million pixels"),
        (bomb(6_000), "6000 x 6000"),
        (b"GIF89a", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        (png((200, 200))[:120], "damaged"),
        (b"\0" * (9 << 20), "8 MB"),
    ],
    ids=["bomb", "large header", "cut", "eps", "svg", "damaged", "large"],
)
def test_bad_pictures_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        read_picture(data)


def test_a_picture_is_made_anew():
    kept = read_picture(png((2000, 1000)) + b"<script>alert(1)</script>")
    assert b"script" not in kept
    assert Image.open(io.BytesIO(kept)).size == (512, 256)


def test_an_item_needs_something(tmp_path):
    assert read_item(None, " Red\u0000 \u202escarf ") == {"title": "Red scarf"}
    assert set(read_item(write(tmp_path / "a.png", png()), "")) == {"image"}
    with pytest.raises(ValueError, match="a title, or both"):
        read_item(None, " ")


def test_titles_are_escaped_as_html_and_as_a_template():
    evil = "<img src=x onerror=alert(1)> ${1} {{value}} `\"'"
    shown = cards.escape(evil)
    assert not set("<>{}$`\"'") & set(shown)
    assert len(clean_text("a" * 5000)) == 300
