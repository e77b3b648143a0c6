"""`pipeline("unimp-imagine")`: [`UniMPImagePipeline`] behind the same door as the other requests."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download

from .catalog_unimp import shown
from .imagine_unimp import UniMPImageOutput
from .pipelines_unimp import UniMPPipeline

if TYPE_CHECKING:
    from .image_pipeline_unimp import UniMPImagePipeline

# Where, beside a recommender's weights, the pipeline that draws for it is saved.
IMAGINE_FOLDER = "imagine"

_REQUEST_KEYS = ("history", "query", "target")


class UniMPImaginePipeline(UniMPPipeline):
    """
    `{"history": [...], "query": "...", "target": ...}`, none of them needed if there is another, to a
    [`UniMPImageOutput`]: the picture and its story.

    Parameters: those of [`UniMPImagePipeline.__call__`], such as `alpha`, `num_candidates` and `generator`.

    Args:
        image_pipeline ([`UniMPImagePipeline`], *optional*): what draws; the folder `imagine` of the model's checkpoint
            by default, in which only what is not the recommender's is read. It needs the packages `unimp` and
            `diffusers`: unlike the other pipelines it does not travel with a checkpoint.

    Raises:
        `ValueError`: the checkpoint has no such folder.
    """

    task_name = "imagine"
    parameters = (
        "alpha",
        "num_candidates",
        "weightings",
        "guidance_scale",
        "num_inference_steps",
        "strength",
        "num_retrieved",
        "preference_keywords",
        "target_keywords",
        "use_answer",
        "use_soft",
        "scorer",
        "generator",
    )

    def __init__(self, *args: Any, image_pipeline: "UniMPImagePipeline | None" = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.image_pipeline = self._load() if image_pipeline is None else image_pipeline
        self.image_pipeline.set_progress_bar_config(disable=True)

    def _load(self) -> "UniMPImagePipeline":
        from .image_pipeline_unimp import UniMPImagePipeline

        name = self.model.name_or_path
        folder = Path(name)
        if name and not folder.is_dir():
            folder = Path(snapshot_download(name, allow_patterns=[f"{IMAGINE_FOLDER}/*"]))
        if not name or not (folder / IMAGINE_FOLDER / "model_index.json").is_file():
            raise ValueError(
                f"`model` {name!r} has no denoiser: there is no folder `{IMAGINE_FOLDER}` with a `UniMPImagePipeline` "
                "in it. Train one with `ImagineTrainer` (the quickstart's: `unimp quickstart --imagine --resume`), "
                "save it there, or give `image_pipeline`."
            )
        parts = {"model": self.model, "processor": self.processor}
        return UniMPImagePipeline.from_pretrained(folder / IMAGINE_FOLDER, **parts).to(self.device)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {name: kwargs.pop(name) for name in self.parameters if name in kwargs}
        super()._sanitize_parameters(**kwargs)
        return {}, given, {}

    def preprocess(self, samples: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Requests, checked."""
        samples = list(samples)
        for sample in samples:
            if not isinstance(sample, Mapping) or not set(sample) <= set(_REQUEST_KEYS):
                known = ", ".join(f"`{key}`" for key in _REQUEST_KEYS)
                raise ValueError(f"An imagine request must be a dictionary of {known}, got {shown(sample)}.")
        return {"samples": samples}

    def _forward(self, inputs: dict[str, Any], **parameters: Any) -> list[UniMPImageOutput]:
        return [self.image_pipeline(**sample, **parameters) for sample in inputs["samples"]]

    def postprocess(self, results: list[UniMPImageOutput]) -> list[UniMPImageOutput]:
        """As they are."""
        return results
