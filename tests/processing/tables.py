"""Two small tables, in memory and as files."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from PIL import Image as PILImage

FORMATS = ("parquet", "jsonl", "csv")
INF, NAN = float("inf"), float("nan")


def items(**columns):
    return Dataset.from_dict({"item_id": ["a", "b"], "title": ["Hat", "Coat"]} | columns)


def events(**columns):
    return Dataset.from_dict(
        {"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]} | columns
    )


def png(color="red"):
    buffer = io.BytesIO()
    PILImage.new("RGB", (2, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, rows):
    """Writes rows as the file format that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


ITEM_ROWS = [{"item_id": "007", "title": "Hat"}, {"item_id": "12", "title": "Coat"}]
EVENT_ROWS = [
    {"user_id": "01", "item_id": "007", "timestamp": 10, "rating": 4.5},
    {"user_id": "01", "item_id": "12", "timestamp": 11, "rating": None},
]
