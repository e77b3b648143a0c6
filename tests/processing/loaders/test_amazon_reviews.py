"""Amazon reviews as published in 2014, 2018 and 2023."""

import gzip
import json

import pytest

from unimp.processing.loaders.amazon_reviews import download_amazon_reviews, read_amazon_reviews
from unimp.processing.loaders.prepare import build_store

from .conftest import put_picture, rows_of

META_2014 = [
    "{'asin': '0001', 'related': {'also_bought': ['0002']}, 'title': \"Dr. Scholl's Bath &amp; Spa\", 'price': 9.5, "
    "'salesRank': {'Beauty': 5}, 'imUrl': 'http://ecx.images-amazon.com/images/I/1.jpg', 'brand': \"Dr. Scholl's\", "
    "'categories': [['Beauty', 'Skin Care', 'Paraffin Baths'], ['Health']]}",
    "{'asin': '0002', 'description': 'Say \"hi\"', 'title': 'Nail Lacquer', 'categories': [['Beauty']]}",
]
REVIEWS_2014 = [
    {
        "reviewerID": "A1",
        "asin": "0001",
        "reviewerName": "Ann",
        "helpful": [2, 3],
        "reviewText": "Warm  and\nlovely &quot;bath&quot;.",
        "overall": 5.0,
        "summary": "A great paraffin bath",
        "unixReviewTime": 1370044800,
        "reviewTime": "06 1, 2013",
    },
    {"reviewerID": "A2", "asin": "0002", "reviewText": "", "overall": 1.0, "summary": "Bad", "unixReviewTime": 7},
    {"reviewerID": "A2", "asin": "9999", "reviewText": "?", "overall": 1.0, "summary": "", "unixReviewTime": 8},
]


def write_lines(path, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def y2014(raw):
    write_lines(raw / "meta_Beauty.json.gz", META_2014)
    write_lines(raw / "reviews_Beauty_5.json.gz", REVIEWS_2014)
    return raw


def test_2014(y2014):
    tables = read_amazon_reviews(y2014)
    assert tables.title == "Amazon Reviews 2014, Beauty"
    assert tables.picture_urls == {"0001": "http://ecx.images-amazon.com/images/I/1.jpg"}
    store = build_store(tables, min_events=0)
    assert store.items.to_list() == [
        {
            "item_id": "0001",
            "title": "Dr. Scholl's Bath & Spa",
            "brand": "Dr. Scholl's",
            "categories": ["Beauty", "Skin Care", "Paraffin Baths"],
            "price": 9.5,
        },
        {"item_id": "0002", "title": "Nail Lacquer", "brand": None, "categories": ["Beauty"], "price": None},
    ]
    assert store.interactions[0] == {
        "user_id": "A1",
        "item_id": "0001",
        "timestamp": 1370044800,
        "rating": 5.0,
        "explanation": 'A great paraffin bath. Warm and lovely "bath".',
        "query": "paraffin bath",
    }
    assert store.interactions[1]["explanation"] == "Bad"
    assert store.report.skipped == {"interactions: `item_id` is not in `items`": 1}


def test_metadata_is_data_and_not_a_program(y2014, tmp_path):
    victim = tmp_path / "victim"
    write_lines(y2014 / "meta_Beauty.json.gz", [META_2014[0], f"__import__('pathlib').Path({str(victim)!r}).touch()"])
    with pytest.raises(ValueError, match=r"meta_Beauty\.json\.gz:2` cannot be read"):
        read_amazon_reviews(y2014)
    assert not victim.exists()


def test_the_larger_file_comes_first(y2014):
    write_lines(y2014 / "reviews_Beauty.json", REVIEWS_2014[:1])
    assert len(read_amazon_reviews(y2014).interactions) == 1


META_2018 = [
    {
        "category": ["All Beauty", "Hair &amp; Nails"],
        "tech1": "",
        "description": ["Long"],
        "fit": "",
        "title": "<span>Clipper</span> Pro",
        "also_buy": ["B02"],
        "image": [],
        "tech2": "",
        "brand": "Andis",
        "feature": [],
        "rank": "2,938,573 in Beauty (",
        "also_view": [],
        "details": {"ASIN: ": "B01"},
        "main_cat": "All Beauty",
        "similar_item": "",
        "date": "",
        "price": "$1,009.99",
        "asin": "B01",
        "imageURL": ["https://images-na.ssl-images-amazon.com/images/I/1._SS40_.jpg"],
        "imageURLHighRes": ["https://images-na.ssl-images-amazon.com/images/I/1.jpg"],
    },
    {"category": [], "title": "var aPageStart = (new Date()).getTime();", "price": ".a-box-inner{", "asin": "B02"},
    {"title": "Comb", "price": "$5.00 - $7.00", "asin": "B03"},
]
REVIEWS_2018 = [
    {
        "overall": 4.0,
        "verified": True,
        "reviewTime": "09 1, 2016",
        "reviewerID": "U1",
        "asin": "B01",
        "style": {"Size:": " 1"},
        "reviewerName": "Ann",
        "reviewText": "Nice one, really.",
        "summary": "Nice one...",
        "unixReviewTime": 1472688000,
        "vote": "3",
        "image": ["https://images-na.ssl-images-amazon.com/images/I/review.jpg"],
    },
    {
        "overall": 2.0,
        "reviewerID": "U1",
        "asin": "B03",
        "summary": "Broke!",
        "reviewText": "Soon.",
        "unixReviewTime": 9,
    },
]


def test_2018(raw):
    write_lines(raw / "meta_All_Beauty.json.gz", META_2018)
    write_lines(raw / "All_Beauty.json.gz", REVIEWS_2018)
    tables = read_amazon_reviews(raw)
    assert tables.title == "Amazon Reviews 2018, All Beauty"
    assert rows_of(tables.items, "item_id", "title", "brand", "price") == [
        ("B01", "Clipper Pro", "Andis", 1009.99),
        ("B02", None, None, None),
        ("B03", "Comb", None, None),
    ]
    assert tables.items["categories"][0] == ["All Beauty", "Hair & Nails"]
    assert tables.picture_urls == {"B01": "https://images-na.ssl-images-amazon.com/images/I/1.jpg"}
    assert tables.report.changed == {
        "items: `title` is no title and is now missing": 1,
        "items: `price` is no single amount and is now missing": 2,
    }
    assert tables.interactions["explanation"][:] == ["Nice one, really.", "Broke! Soon."]


META_2023 = [
    {
        "main_category": "All Beauty",
        "title": "Howard LC0008 Leather Conditioner",
        "average_rating": 4.8,
        "rating_number": 10,
        "features": [],
        "description": [],
        "price": 12.5,
        "images": [
            {
                "thumb": "https://m.media-amazon.com/t.jpg",
                "large": "https://m.media-amazon.com/b.jpg",
                "variant": "PT01",
            },
            {
                "thumb": "https://m.media-amazon.com/t.jpg",
                "large": "https://m.media-amazon.com/l.jpg",
                "variant": "MAIN",
                "hi_res": None,
            },
        ],
        "videos": [],
        "store": "Howard Products",
        "categories": [],
        "details": {"Brand": "Howard"},
        "parent_asin": "P1",
        "bought_together": None,
    },
    {
        "main_category": None,
        "title": "Towel",
        "price": None,
        "images": [],
        "categories": ["Bath"],
        "parent_asin": "P2",
    },
]
REVIEWS_2023 = [
    {
        "rating": 5.0,
        "title": "Great on leather",
        "text": "Soft<br />again",
        "images": [],
        "asin": "C1",
        "parent_asin": "P1",
        "user_id": "AGKH",
        "timestamp": 1588687728923,
        "helpful_vote": 0,
        "verified_purchase": True,
    }
]


def test_2023(raw):
    write_lines(raw / "meta_All_Beauty.jsonl.gz", META_2023)
    write_lines(raw / "All_Beauty.jsonl", REVIEWS_2023)
    tables = read_amazon_reviews(raw, edition="2023", category="All_Beauty")
    assert tables.items.to_list() == [
        {
            "item_id": "P1",
            "title": "Howard LC0008 Leather Conditioner",
            "brand": "Howard Products",
            "categories": ["All Beauty"],
            "price": 12.5,
        },
        {"item_id": "P2", "title": "Towel", "brand": None, "categories": ["Bath"], "price": None},
    ]
    assert tables.interactions.to_list() == [
        {
            "user_id": "AGKH",
            "item_id": "P1",
            "timestamp": 1588687728,
            "rating": 5.0,
            "explanation": "Great on leather. Soft again",
            "query": "leather",
        }
    ]
    assert tables.picture_urls == {"P1": "https://m.media-amazon.com/l.jpg"}


ODD_ITEMS = {
    "pictures by kind": ({"images": {"hi_res": ["https://a/1.jpg"]}}, "items: `images` is no list and is now missing"),
    "pictures as text": ({"images": ["https://a/1.jpg"]}, None),
    "a number of categories": ({"categories": 7}, "items: `categories` is no list and is now missing"),
    "one category": ({"categories": "Bath"}, "items: `categories` is no list and is now missing"),
    "an endless price": ({"price": 10**400}, None),
    "no price": ({"price": float("nan")}, "items: `price` is no single amount and is now missing"),
}


@pytest.mark.parametrize("name", ODD_ITEMS)
def test_odd_items_stay_without_what_is_odd(raw, name):
    change, reason = ODD_ITEMS[name]
    write_lines(raw / "meta_All_Beauty.jsonl.gz", [META_2023[0] | change, META_2023[1]])
    write_lines(raw / "All_Beauty.jsonl", REVIEWS_2023)
    tables = read_amazon_reviews(raw)
    assert tables.items["item_id"][:] == ["P1", "P2"]
    assert tables.report.changed == ({} if reason is None else {reason: 1})
    assert tables.items["categories"][0] == ["All Beauty"]
    assert tables.picture_urls == ({} if "images" in change else {"P1": "https://m.media-amazon.com/l.jpg"})


def test_odd_items_of_the_older_editions(y2014):
    odd = ["{'asin': '0003', 'categories': ['Beauty'], 'imageURL': 'http://a/1.jpg'}", "{'asin': ['0004']}"]
    write_lines(y2014 / "meta_Beauty.json.gz", [*META_2014, *odd])
    tables = read_amazon_reviews(y2014)
    assert rows_of(tables.items, "item_id", "categories")[2:] == [("0003", [])]
    assert tables.picture_urls.keys() == {"0001"}
    assert tables.report.skipped == {"items: their id is no text": 1}
    assert tables.report.changed == {
        "items: `categories` is no list and is now missing": 1,
        "items: `imageURL` is no list and is now missing": 1,
    }


def test_odd_reviews_are_left_out_and_counted(y2014):
    odd = [REVIEWS_2014[0] | change for change in ({"asin": ["0001"]}, {"reviewerID": {"a": 1}}, {"asin": 1})]
    write_lines(y2014 / "reviews_Beauty_5.json.gz", [*odd, REVIEWS_2014[0] | {"asin": None}, REVIEWS_2014[0]])
    store = build_store(read_amazon_reviews(y2014), min_events=0)
    assert len(store.interactions) == 1
    assert store.report.skipped == {
        "interactions: an id is no text": 3,
        "interactions: `item_id` is missing": 1,
    }


def test_metadata_with_a_list_as_key(y2014):
    write_lines(y2014 / "meta_Beauty.json.gz", [META_2014[0], "{['asin']: '0002'}"])
    with pytest.raises(ValueError, match=r"meta_Beauty\.json\.gz:2` cannot be read"):
        read_amazon_reviews(y2014)


def test_pictures_lie_in_images(y2014):
    put_picture(y2014 / "images" / "0001.jpg")
    store = build_store(read_amazon_reviews(y2014), min_events=0, pictures_only=True)
    assert store.items["item_id"][:] == ["0001"]


def test_which_files(y2014):
    with pytest.raises(FileNotFoundError, match=r"needs reviews and items.*of 2018"):
        read_amazon_reviews(y2014, edition="2018")
    write_lines(y2014 / "Beauty.json.gz", REVIEWS_2018)
    with pytest.raises(ValueError, match="2014 Beauty, 2018 Beauty; choose with `--edition`"):
        read_amazon_reviews(y2014)
    assert len(read_amazon_reviews(y2014, edition="2014").interactions) == 3


DAMAGED = {
    "half an archive": (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cut off or damaged"),
    "no archive": (lambda path: path.write_bytes(b"<html>"), "cut off or damaged"),
    "no JSON": (lambda path: write_lines(path, [REVIEWS_2014[0], "{'asin': 1}"]), "json.gz:2` cannot be read"),
    "no object": (lambda path: write_lines(path, ["[1]"]), r"json.gz:1` cannot be read: expected an object"),
    "a time in words": (
        lambda path: write_lines(path, [{**REVIEWS_2014[0], "unixReviewTime": "today"}]),
        "json.gz` has a value of the wrong type",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_reviews(y2014, name):
    damage, message = DAMAGED[name]
    damage(y2014 / "reviews_Beauty_5.json.gz")
    with pytest.raises(ValueError, match=message):
        read_amazon_reviews(y2014)


def test_download_needs_to_know_what(raw):
    with pytest.raises(ValueError, match=r"`edition`.*`category` are needed"):
        download_amazon_reviews(raw, edition="2014")
    with pytest.raises(ValueError, match=r"`category` must be.*\.\./x"):
        download_amazon_reviews(raw, edition="2014", category="../x")
