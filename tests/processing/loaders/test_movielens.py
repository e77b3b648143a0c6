"""MovieLens, in the format of its csv editions and of 1M."""

import pytest

from unimp.processing.loaders.movielens import read_movielens
from unimp.processing.loaders.prepare import build_store

from .conftest import put_picture, rows_of

MOVIES = """movieId,title,genres
1,"Usual Suspects, The (1995)",Crime|Thriller
2,Death Note: Desu nôto (2006–2007) ,(no genres listed)
3,Babylon 5,Sci-Fi
4,Nobody saw it (2000),Drama
"""
# The 2-core is users 1 and 2 with movies 1 and 2, once user 3 and movie 3 have gone.
RATINGS = """userId,movieId,rating,timestamp
1,1,3.5,101
1,2,3.5,102
2,1,4.0,101
2,2,3.5,102
2,3,3.5,103
3,3,0.5,103
"""
DETAILS = '{"movieId": 1, "keywords": ["heist"], "tagline": "?"}\n{"movieId": 2}\n'
TAGS = 'userId,movieId,tag,timestamp\n2,1," Kevin, Spacey",7\n2,1,twist,8\n1,3,space,9\n'


@pytest.fixture
def folder(raw):
    (raw / "movies.csv").write_text(MOVIES, encoding="utf-8")
    (raw / "ratings.csv").write_text(RATINGS)
    (raw / "details.jsonl").write_text(DETAILS)
    put_picture(raw / "images" / "1.jpg")
    put_picture(raw / "images" / "3.jpg")
    return raw


def test_columns(folder):
    store = build_store(read_movielens(folder), min_events=0)
    assert store.items.remove_columns("image").to_list() == [
        {
            "item_id": "1",
            "title": "Usual Suspects, The",
            "year": 1995,
            "genres": ["Crime", "Thriller"],
            "keywords": ["heist"],
        },
        {"item_id": "2", "title": "Death Note: Desu nôto", "year": 2006, "genres": [], "keywords": None},
        {"item_id": "3", "title": "Babylon 5", "year": None, "genres": ["Sci-Fi"], "keywords": None},
        {"item_id": "4", "title": "Nobody saw it", "year": 2000, "genres": ["Drama"], "keywords": None},
    ]
    assert [picture is not None for picture in store.items["image"]] == [True, False, True, False]
    event = store.interactions.remove_columns("query")[2]
    assert event == {"user_id": "2", "item_id": "1", "timestamp": 101, "rating": 4.0}
    assert not store.report


def test_core_is_reached_step_by_step(folder):
    # User 3 has one rating and goes, which leaves movie 3 with one.
    store = build_store(read_movielens(folder), min_events=2)
    assert store.items["item_id"][:] == ["1", "2"]
    assert rows_of(store.interactions, "user_id", "item_id") == [("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]
    assert store.report.skipped == {
        "items: fewer than 2 events": 2,
        "interactions: of an item or person with fewer than 2 events": 2,
    }


def test_pictures_only(folder):
    store = build_store(read_movielens(folder), min_events=0, pictures_only=True)
    assert store.items["item_id"][:] == ["1", "3"]
    assert len(store.interactions) == 4
    assert store.report.skipped == {
        "items: no picture": 2,
        "interactions: of an item or person with no picture": 2,
    }


def test_core_is_reached_again_without_the_items_that_have_no_picture(folder):
    # Every user and movie 1 to 3 have 2 events here; without movie 2, users 1 and 3 are left with one each.
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,1,1\n1,2,1,1\n2,1,1,1\n2,3,1,1\n3,2,1,1\n3,3,1,1\n4,1,1,1\n4,3,1,1\n"
    )
    store = build_store(read_movielens(folder), min_events=2, pictures_only=True)
    assert rows_of(store.interactions, "user_id", "item_id") == [("2", "1"), ("2", "3"), ("4", "1"), ("4", "3")]


def test_the_two_original_files_alone(folder):
    (folder / "details.jsonl").unlink()
    for path in (folder / "images").iterdir():
        path.unlink()
    store = build_store(read_movielens(folder), min_events=2)
    assert store.items.column_names == ["item_id", "title", "year", "genres"]
    with pytest.raises(ValueError, match=r"`pictures_only`.*raw/images/ITEM_ID\.jpg.*drop"):
        build_store(read_movielens(folder), min_events=2, pictures_only=True)
    with pytest.raises(ValueError, match=r"No event is left.*fewer than 5 events"):
        build_store(read_movielens(folder))


def test_tags_become_queries(folder):
    (folder / "tags.csv").write_text(TAGS)
    raw = read_movielens(folder)
    assert raw.interactions["query"][:] == [None, None, "Kevin, Spacey", None, None, None]
    assert raw.report.skipped == {
        "tags: not the first of this person for this movie": 1,
        "tags: of a movie that this person has not rated": 1,
    }
    assert raw.report.examples["tags: of a movie that this person has not rated"] == ["space"]
    assert build_store(raw, min_events=0).interactions["query"][2] == "Kevin, Spacey"


def test_no_tags_in_the_file(folder):
    (folder / "tags.csv").write_text("userId,movieId,tag,timestamp\n")
    assert read_movielens(folder).interactions["query"][:] == [None] * 6


@pytest.fixture
def one_million(raw):
    """The three files of 1M, with its encoding and its line ends."""
    (raw / "movies.dat").write_bytes(
        "1::Toy Story (1995)::Animation|Children's|Comedy\n73::Misérables, Les (1995)::Drama|Musical\n".encode(
            "latin-1"
        )
    )
    (raw / "ratings.dat").write_bytes(b"1::73::5::978300760\n2::1::3::978302109\n2::73::4::978302110\n")
    (raw / "users.dat").write_bytes(b"1::F::1::10::48067\n2::M::56::16::70072\n")
    return raw


def test_one_million(one_million):
    store = build_store(read_movielens(one_million), min_events=0)
    assert rows_of(store.items, "item_id", "title", "year") == [
        ("1", "Toy Story", 1995),
        ("73", "Misérables, Les", 1995),
    ]
    assert store.items["genres"][0] == ["Animation", "Children's", "Comedy"]
    assert rows_of(store.interactions, "user_id", "item_id", "rating", "timestamp") == [
        ("1", "73", 5.0, 978300760),
        ("2", "1", 3.0, 978302109),
        ("2", "73", 4.0, 978302110),
    ]


def test_the_edition_chooses_between_files(one_million, folder):
    assert len(read_movielens(folder).interactions) == 3
    assert len(read_movielens(folder, "20m").interactions) == 6


def test_wrong_files(folder):
    (folder / "ratings.csv").write_text("user,movieId,rating,timestamp\n1,1,1.0,1\n")
    with pytest.raises(ValueError, match=r"`ratings\.csv` has no column `userId`.*rename `user`"):
        read_movielens(folder)
    (folder / "movies.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"movies\.csv"):
        read_movielens(folder)


UNREADABLE = {
    "ratings in Latin-1": ("ratings.csv", "userId,movieId\né,1\n".encode("latin-1"), "ratings.csv` is not UTF-8"),
    "movies in UTF-16": ("movies.csv", "movieId,title,genres\n1,é,\n".encode("utf-16"), "movies.csv` is not UTF-8"),
    "empty ratings": ("ratings.csv", b"", "ratings.csv` cannot be read"),
    "ragged movies": ("movies.csv", b"movieId,title,genres\n1,a,b\n1,a,b,c,d\n", "movies.csv` cannot be read"),
    "a rating in words": (
        "ratings.csv",
        b"userId,movieId,rating,timestamp\n1,1,good,1\n",
        "ratings.csv` cannot be read.*good",
    ),
    "details that are not JSON": ("details.jsonl", b"oops", "details.jsonl:1` is not JSON"),
    "details without a movie": ("details.jsonl", b'{"keywords": []}', "details.jsonl` .*`movieId`"),
    "keywords in one text": (
        "details.jsonl",
        b'{"movieId": 1, "keywords": "heist"}',
        "`keywords` of .*details.jsonl` .*got string",
    ),
    "a number among keywords": (
        "details.jsonl",
        b'{"movieId": 1, "keywords": ["a", 3]}',
        "`keywords` of .*details.jsonl` mixes types",
    ),
    "keywords of no character": (
        "details.jsonl",
        rb'{"movieId": 1, "keywords": ["\ud800"]}',
        "`keywords` .*details.jsonl` .*surrogate",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files(folder, name):
    file, content, message = UNREADABLE[name]
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_movielens(folder)


def test_byte_order_marks(folder):
    expected = read_movielens(folder)
    for file in ("movies.csv", "ratings.csv", "details.jsonl"):
        (folder / file).write_bytes(b"\xef\xbb\xbf" + (folder / file).read_bytes())
    tables = read_movielens(folder)
    assert tables.items.to_list() == expected.items.to_list()
    assert tables.interactions.to_list() == expected.interactions.to_list()


def test_a_picture_is_never_taken_from_outside(folder):
    (folder / "movies.csv").write_text("movieId,title,genres\n../secret,A (1999),Drama\n1,B (1999),Drama\n")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,../secret,1,1\n1,1,1,1\n")
    put_picture(folder / "secret.jpg")
    store = build_store(read_movielens(folder), min_events=0)
    assert [picture is not None for picture in store.items["image"]] == [False, True]
