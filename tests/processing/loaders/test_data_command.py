"""`unimp data prepare`, from raw files to a folder with a card."""

import gzip
import hashlib
import io
import json
import zipfile

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard

from unimp.data import main
from unimp.processing.loaders import LOADERS, amazon_reviews, movielens, write_dataset_card
from unimp.processing.store import make_store, read_store

from .conftest import jpeg, put_picture


@pytest.fixture
def folder(raw):
    """Four films, one of which has one rating only, the posters of three."""
    (raw / "movies.csv").write_text(
        "movieId,title,genres\n" + "".join(f"{n},Film number {'abcd'[n]} (199{n}),Drama|War\n" for n in range(4))
    )
    pairs = [(user, movie) for user in range(3) for movie in range(3)] + [(0, 3)]
    (raw / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},4.5,{978300760 + m}\n" for u, m in pairs)
    )
    for movie in (0, 1, 3):
        put_picture(raw / "images" / f"{movie}.jpg")
    return raw


def prepare(name, raw, output, *options):
    return main(["prepare", name, f"--raw={raw}", f"--output_dir={output}", *options])


def test_prepare(folder, tmp_path):
    output = tmp_path / "out"
    assert prepare("movielens", folder, output, "--min_events=2", "--edition=latest-small") == 0
    store = read_store(output)
    assert (len(store.items), len(store.interactions)) == (3, 9)
    assert set(store.interactions["query"]) <= {"drama war", "war drama", "drama 1990s", "war 1990s", "film", "number"}
    again = tmp_path / "again"
    prepare("movielens", folder, again, "--min_events=2", "--edition=latest-small")
    for name in ("items.parquet", "interactions.parquet", "README.md"):
        assert (output / name).read_bytes() == (again / name).read_bytes()


def test_the_card(folder, tmp_path):
    output = tmp_path / "out"
    prepare("movielens", folder, output, "--min_events=2", "--edition=latest-small")
    card = DatasetCard.load(output / "README.md")
    assert card.data.license == "other"
    assert card.data.task_categories == ["other"]
    assert card.data.size_categories == "n<1K"
    for line in (
        "# MovieLens latest-small",
        "| people | 3 |",
        "| items | 3 |",
        "| items with a picture | 2 |",
        "| events | 9 |",
        "| first event | 2000-12-31 |",
        "| items | `year` | of release |",
        "| left out | 1 | items: fewer than 2 events |",
        "| left out | 1 | interactions: of an item or person with fewer than 2 events |",
    ):
        assert line in card.text
    assert "GroupLens" in card.text
    assert str(folder) not in card.text  # folders of this machine mean nothing on another


def test_the_hub_shows_both_tables(folder, tmp_path):
    prepare("movielens", folder, tmp_path / "out", "--min_events=2")
    for name, rows in (("items", 3), ("interactions", 9)):
        data = load_dataset(str(tmp_path / "out"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert len(data) == rows


def test_pictures_only(folder, tmp_path):
    prepare("movielens", folder, tmp_path / "out", "--min_events=2", "--pictures_only")
    assert read_store(tmp_path / "out").items["item_id"][:] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make"], "knows `prepare`, got 'make'"),
        (["prepare", "movielense"], r"followed by one of movielens, amazon-reviews, .*'movielense'"),
        (["prepare", "--raw=x"], "followed by one of"),
        (["prepare", "movielens", "--raw=x"], "output_dir"),
    ],
)
def test_wrong_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)


WRONG = {
    "no such edition": ("--edition=2m", r"`edition` of movielens must be one of latest-small, 1m, .*'2m'"),
    "no category": ("--category=Beauty", "`category` is nothing to choose for movielens"),
    "no sense": ("--min_events=-1", "`min_events` must be 0 or more"),
    "no such option": ("--picture_only", r"`--picture_only` is not an option.*`pictures_only`"),
    "nothing left": ("--min_events=5", "No event is left"),
    "output is a file": ("--min_events=0", "`output_dir` must be a folder, but .*out is a file"),
    "negative": ("--seed=-1", r"`seed` must be from 0 to 2\^63 - 1, got -1"),
    "beyond 64 bits": (f"--seed={2**63}", r"`seed` must be from 0 to 2\^63 - 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(folder, tmp_path, case):
    option, message = WRONG[case]
    if case == "output is a file":
        (tmp_path / "out").write_text("")
    with pytest.raises((ValueError, OSError), match=message):
        prepare("movielens", folder, tmp_path / "out", option)


def test_the_raw_files_are_not_overwritten(folder):
    (folder / "README.md").write_text("of the publisher")
    with pytest.raises(ValueError, match="`output_dir` must be another folder than `raw`"):
        prepare("movielens", folder, folder / "images" / "..")
    assert (folder / "README.md").read_text() == "of the publisher"


def test_a_folder_with_tables_of_another_kind_is_refused(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "items.csv").write_text("item_id\n")
    (output / "interactions.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"has items\.csv and interactions\.jsonl already"):
        prepare("movielens", tmp_path / "nowhere", output)  # before anything is read
    assert len(list(output.iterdir())) == 2


def test_names_stay_in_their_cell(tmp_path):
    items = Dataset.from_dict({"item_id": ["a"], "a|b\n<img src=x>": ["1"]})
    events = Dataset.from_dict({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]})
    write_dataset_card(make_store(items, events), tmp_path, "Title", movielens.SOURCE, {})
    assert "\n| items | `a\\|b &lt;img src=x>` | as in the raw files |\n" in (tmp_path / "README.md").read_text()


def test_help(capsys):
    assert main([]) == main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in LOADERS)
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "--help"])
    assert stop.value.code == 0
    assert "--pictures_only" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hm", "netflix", "sequences"])
def test_what_cannot_be_downloaded(raw, tmp_path, name):
    with pytest.raises(ValueError, match=f"`download` cannot get {name}: take the files"):
        prepare(name, raw, tmp_path / "out", "--download")


def test_download(host, folder, tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("movies.csv", "ratings.csv"):
            archive.write(folder / name, f"ml-20m/{name}")
    host.files["ml-20m.zip"] = packed.getvalue()
    host.files["ml-20m.zip.md5"] = f"{hashlib.md5(packed.getvalue()).hexdigest()}  ml-20m.zip\n".encode()
    monkeypatch.setattr(movielens, "HOST", host.address)
    prepare("movielens", tmp_path / "new", tmp_path / "out", "--download", "--edition=20m", "--min_events=2")
    assert len(read_store(tmp_path / "out").interactions) == 9
    with pytest.raises(ValueError, match="`edition` is needed to download MovieLens"):
        prepare("movielens", tmp_path / "other", tmp_path / "out", "--download")


def test_download_of_pictures(host, tmp_path, monkeypatch):
    pictures = {
        "A1": f"'imUrl': '{host.url('1.jpg')}'",
        "A2": f"'imUrl': '{host.url('gone.jpg')}'",
        "A3": "'price': 1",
    }
    meta = "".join(f"{{'asin': '{item}', 'title': 'Red hat', {rest}}}\n" for item, rest in pictures.items())
    reviews = "".join(
        json.dumps({"reviewerID": "u", "asin": item, "unixReviewTime": 1, "overall": 5.0}) + "\n" for item in pictures
    )
    host.files |= {
        "reviews_Hats.json.gz": gzip.compress(reviews.encode()),
        "meta_Hats.json.gz": gzip.compress(meta.encode()),
        "1.jpg": jpeg(),
    }
    monkeypatch.setitem(amazon_reviews.URLS, "2014", (host.address, host.address))
    options = ("--download", "--edition=2014", "--category=Hats", "--min_events=0")
    prepare("amazon-reviews", tmp_path / "raw", tmp_path / "out", *options)
    images = read_store(tmp_path / "out").items["image"][:]
    assert [picture is not None for picture in images] == [True, False, False]
    assert images[0]["bytes"] == jpeg()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| altered | 1 | items: nothing says where their picture is |" in card
    assert "| altered | 1 | items: picture not downloaded: the host answered 404 Not Found |" in card
