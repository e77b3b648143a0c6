"""UniMP: one model that knows what someone likes, from pictures and text."""

from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling_unimp import UniMPConfig, UniMPForConditionalGeneration, UniMPModel, UniMPPreference
from .processing import Catalog, UniMPProcessor, pipelines_unimp
from .processing.imagine_pipeline_unimp import UniMPImaginePipeline

__version__ = "0.1.0"

QUICKSTART_DIR = Path("outputs", "quickstart")


class _QuickstartDefault(dict):
    """The default model of every UniMP pipeline: what `unimp quickstart` left in the current folder."""

    def __getitem__(self, key: str) -> Any:
        if not (QUICKSTART_DIR / "config.json").is_file():
            raise FileNotFoundError(
                f"`model` was not given, and there is no quickstart result in {QUICKSTART_DIR.absolute()}: name a "
                "model folder or Hub id, or make one with `unimp quickstart`."
            )
        return str(QUICKSTART_DIR), "main"


AutoProcessor.register(UniMPConfig, UniMPProcessor)
for pipeline_class in (
    pipelines_unimp.UniMPRecommendPipeline,
    pipelines_unimp.UniMPSearchPipeline,
    pipelines_unimp.UniMPRatePipeline,
    pipelines_unimp.UniMPExplainPipeline,
    pipelines_unimp.UniMPSelectPipeline,
    UniMPImaginePipeline,
):
    PIPELINE_REGISTRY.register_pipeline(
        f"unimp-{pipeline_class.task_name}",
        pipeline_class,
        pt_model=AutoModelForImageTextToText,
        default=_QuickstartDefault(model=None),
        type="multimodal",
    )

# Imported on first use: they bring TRL and diffusers, which whoever only recommends need not wait for, or have.
_ON_FIRST_USE = {
    "UniMPImagePipeline": ".processing.image_pipeline_unimp",
    "UniMPTrainer": ".training.trainer",
    "UniMPTrainingConfig": ".training.trainer",
}


def __getattr__(name: str) -> Any:
    """What brings other libraries."""
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Catalog",
    "UniMPConfig",
    "UniMPForConditionalGeneration",
    "UniMPImagePipeline",
    "UniMPModel",
    "UniMPPreference",
    "UniMPProcessor",
    "UniMPTrainer",
    "UniMPTrainingConfig",
]
