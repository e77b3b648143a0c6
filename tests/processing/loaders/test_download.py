"""Downloads: whole, once, from the web alone; what goes wrong is counted or one line."""

import hashlib
import zipfile

import pytest

from unimp.processing.loaders import download
from unimp.processing.loaders.download import DownloadError, fetch, fetch_pictures, published_md5, unpack
from unimp.processing.loaders.raw import safe_name

from .conftest import CONTENT, jpeg


def test_a_file_comes_whole_and_once(host, tmp_path):
    path = tmp_path / "new" / "a.zip"
    fetch(host.url("a.zip"), path, hashlib.md5(CONTENT).hexdigest().upper())
    fetch(host.url("a.zip"), path)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["a.zip"]
    assert host.ranges == [None]


def test_a_broken_transfer_goes_on_where_it_stopped(host, tmp_path):
    host.cut = [1000, 500]
    fetch(host.url("a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert host.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_later_call_goes_on(host, tmp_path):
    host.cut = [100] * download.TRIES
    with pytest.raises(DownloadError, match=r"a\.zip` could not be downloaded: it broke off 4 times; run .* again"):
        fetch(host.url("a.zip"), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    fetch(host.url("a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert host.ranges[-1] == f"bytes={100 * download.TRIES}-"


def test_a_host_that_always_sends_everything(host, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    host.knows_ranges = False
    fetch(host.url("a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [CONTENT, CONTENT + b"of another file"])
def test_a_part_that_is_already_long_enough(host, tmp_path, part):
    (tmp_path / "a.zip.part").write_bytes(part)
    fetch(host.url("a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(host, tmp_path):
    with pytest.raises(ValueError, match=r"a\.zip` has the checksum .* but 0{32} was published"):
        fetch(host.url("a.zip"), tmp_path / "a.zip", "0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_refusals_are_one_line(host, nowhere, tmp_path):
    with pytest.raises(DownloadError, match="the host answered 404 Not Found") as refused:
        fetch(host.url("b.zip"), tmp_path / "b.zip")
    assert refused.value.answered
    with pytest.raises(DownloadError, match=r"no answer \(.*refused") as refused:
        fetch(f"{nowhere}/a.zip", tmp_path / "a.zip")
    assert not refused.value.answered
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["file://{}", "ftp://localhost{}", "data:,{}", "{}", "http://[{}"])
def test_only_the_web_is_opened(tmp_path, scheme):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with pytest.raises(DownloadError, match="no usable address"):
        fetch(scheme.format(secret), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("scheme", ["file://{}", "ftp://localhost{}"])
def test_nobody_is_sent_elsewhere(host, tmp_path, scheme):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    host.redirects["a"] = scheme.format(secret)
    with pytest.raises(DownloadError):
        fetch(host.url("a"), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    host.redirects["a"] = host.url("a.zip")
    fetch(host.url("a"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT


def test_published_checksums(host, nowhere):
    digest = "c4d9eecfca2ab87c1945afe126590906"
    host.files |= {"1.md5": f"MD5 (ml-1m.zip) = {digest}\n".encode(), "2.md5": f"{digest.upper()}  ml.zip".encode()}
    host.files["3.md5"] = b"<html>"
    found = [published_md5(host.url(f"{n}.md5")) for n in (1, 2, 3, 4)]
    assert found == [digest, digest, None, None]
    with pytest.raises(DownloadError):
        published_md5(f"{nowhere}/1.md5")


def test_unpacking_takes_the_wanted_files_alone(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "r")
        archive.writestr("../movies.dat", "m")
        archive.writestr("ml-1m/other.txt", "o")
    folder = tmp_path / "folder"
    folder.mkdir()
    unpack(tmp_path / "a.zip", folder, ("ratings.dat", "movies.dat"))
    assert sorted(path.name for path in folder.iterdir()) == ["movies.dat", "ratings.dat"]
    assert not (tmp_path / "movies.dat").exists()
    (folder / "ratings.dat").write_text("of another edition")
    unpack(tmp_path / "a.zip", folder, ("ratings.dat",))
    assert (folder / "ratings.dat").read_text() == "r"
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"a\.zip` is damaged.*delete it"):
        unpack(tmp_path / "a.zip", folder, ("ratings.dat",))


def test_pictures(host, nowhere, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_PICTURE_BYTES", 2000)
    host.files |= {"1.jpg": jpeg(), "huge.jpg": jpeg() + b"0" * 2000, "text.jpg": b"<html>", "cut.jpg": jpeg()[:200]}
    urls = {name: host.url(f"{name}.jpg") for name in ("1", "huge", "text", "cut", "gone", "gone2")}
    urls |= {"there": host.url("nothing"), "dead": f"{nowhere}/1.jpg", "odd": "file:///etc/passwd"}
    (tmp_path / "there.jpg").write_bytes(b"kept")
    report = fetch_pictures(urls, lambda item: tmp_path / f"{item}.jpg")
    assert {reason.removeprefix("items: picture not downloaded: "): n for reason, n in report.changed.items()} == {
        "larger than 2,000 bytes": 1,
        "not a readable picture": 2,
        "the host answered 404 Not Found": 2,
        "no answer": 1,
        "no usable address": 1,
    }
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"1.jpg": jpeg(), "there.jpg": b"kept"}


def test_a_picture_that_breaks_off_is_not_kept(host, tmp_path):
    host.files["1.jpg"] = jpeg()
    host.cut = [len(jpeg()) - 1]
    report = fetch_pictures({"1": host.url("1.jpg")}, lambda item: tmp_path / f"{item}.jpg")
    assert report.changed == {"items: picture not downloaded: the transfer broke off": 1}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [1, 100])
def test_hosts_that_cannot_be_reached_are_an_error(nowhere, tmp_path, number):
    urls = {str(n): f"{nowhere}/{n}.jpg" for n in range(number)}
    with pytest.raises(DownloadError, match=r"0\.jpg|31\.jpg"):
        fetch_pictures(urls, lambda item: tmp_path / f"{item}.jpg")


def test_a_file_name_is_no_path(tmp_path):
    for odd in ("..", ".", "../x", "/etc/x", "a/b", "a\\b", "nul\0", "ä"):
        assert (tmp_path / f"{safe_name(odd)}.jpg").resolve().parent == tmp_path.resolve()
    assert safe_name("B00-a_1") == "B00-a_1"
