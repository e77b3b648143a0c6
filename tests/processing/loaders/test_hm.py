"""H&M's three csv files and its folder of pictures."""

import pytest

from unimp.processing.loaders.hm import read_hm
from unimp.processing.loaders.prepare import build_store

from .conftest import put_picture

ARTICLE_COLUMNS = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
    "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,"
    "perceived_colour_value_name,perceived_colour_master_id,perceived_colour_master_name,department_no,"
    "department_name,index_code,index_name,index_group_no,index_group_name,section_no,section_name,garment_group_no,"
    "garment_group_name,detail_desc"
)
ARTICLES = f"""{ARTICLE_COLUMNS}
0108775015,0108775,Strap top,253,Vest top,Garment Upper body,1010016,Solid,09,Black,4,Dark,5,Black,1676,Jersey Basic,\
A,Ladieswear,1,Ladieswear,16,Womens Everyday Basics,1002,Jersey Basic,"Jersey top, narrow straps."
0110065001,0110065,OP T-shirt (Idro),306,Bra,Underwear,1010016,Solid,10,White,4,Dark,5,Black,1339,Clean Lingerie,B,\
Lingeries/Tights,1,Ladieswear,61,Womens Lingerie,1017,"Under-, Nightwear",
"""
PERSON = "000058a12d5b43e67d225668fa1f8d618c13dc232df0cad8ffe7ad4a1091e318"
TRANSACTIONS = f"""t_dat,customer_id,article_id,price,sales_channel_id
2018-09-20,{PERSON},0108775015,0.0508305084745763,2
2018-09-20,{PERSON},0108775015,0.0508305084745763,2
2018-09-21,{PERSON},0110065001,0.0304915254237288,1
2018-09-21,{PERSON},0999999999,0.0304915254237288,1
"""


@pytest.fixture
def folder(raw):
    (raw / "articles.csv").write_text(ARTICLES)
    (raw / "transactions_train.csv").write_text(TRANSACTIONS)
    (raw / "customers.csv").write_text(
        "customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code\n"
    )
    put_picture(raw / "images" / "010" / "0108775015.jpg")
    return raw


def test_hm(folder):
    store = build_store(read_hm(folder), min_events=0)
    assert store.items.remove_columns("image").to_list() == [
        {
            "item_id": "0108775015",
            "title": "Strap top",
            "product_type": "Vest top",
            "appearance": "Solid",
            "colour": "Black",
            "section": "Womens Everyday Basics",
            "description": "Jersey top, narrow straps.",
        },
        {
            "item_id": "0110065001",
            "title": "OP T-shirt (Idro)",
            "product_type": "Bra",
            "appearance": "Solid",
            "colour": "White",
            "section": "Womens Lingerie",
            "description": None,
        },
    ]
    assert [picture is not None for picture in store.items["image"]] == [True, False]
    assert store.interactions.remove_columns("query").to_list() == [
        {"user_id": PERSON, "item_id": "0108775015", "timestamp": 1537401600},
        {"user_id": PERSON, "item_id": "0110065001", "timestamp": 1537488000},
    ]
    assert store.report.skipped == {
        "interactions: `item_id` is not in `items`": 1,
        "interactions: the same user, item and time were there before": 1,
    }


def test_a_day_that_is_none(folder):
    (folder / "transactions_train.csv").write_text(TRANSACTIONS.replace("2018-09-21", "soon"))
    with pytest.raises(ValueError, match=r"transactions_train\.csv` cannot be read.*soon"):
        read_hm(folder)


def test_missing_files(folder):
    (folder / "articles.csv").write_text("article_id,prod_name\n1,a\n")
    with pytest.raises(ValueError, match=r"`articles\.csv` has no column `product_type_name`"):
        read_hm(folder)
    (folder / "articles.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"articles\.csv"):
        read_hm(folder)
