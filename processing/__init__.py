"""Everything between raw data and tensors, both ways: catalogue, chunks, tasks, processor, pipelines, data sets."""

from .catalog_unimp import Catalog
from .columns_unimp import Columns
from .images_unimp import ImageError, load_image
from .processing_unimp import UniMPProcessor
from .tasks_unimp import TASKS

__all__ = ["TASKS", "Catalog", "Columns", "ImageError", "UniMPProcessor", "load_image"]
