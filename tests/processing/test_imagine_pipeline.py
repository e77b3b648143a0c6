"""`pipeline("unimp-imagine")`."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from unimp import UniMPImagePipeline
from unimp.processing.imagine_pipeline_unimp import UniMPImaginePipeline

from .test_image_pipeline import make_preference, make_scheduler, make_unet

QUICK = {"num_inference_steps": 2, "num_candidates": 2, "use_answer": False}


@pytest.fixture
def image_pipeline(shared):
    model, processor = shared
    return UniMPImagePipeline(model, processor, make_unet(), make_scheduler(), make_preference(model))


@pytest.fixture
def folder(image_pipeline, tmp_path):
    image_pipeline.model.save_pretrained(tmp_path)
    image_pipeline.processor.save_pretrained(tmp_path)
    image_pipeline.save_pretrained(tmp_path / "imagine")
    return tmp_path


def seeded():
    return torch.Generator().manual_seed(0)


def test_a_checkpoint_with_a_denoiser_imagines(folder, image_pipeline):
    imagine = pipeline("unimp-imagine", model=str(folder), device="cpu")
    assert imagine.image_pipeline.model is imagine.model  # read once
    request = {"history": ["shirt", "hat"], "query": "warm hat"}
    result = imagine(request, alpha=1.0, generator=seeded(), **QUICK)
    expected = image_pipeline(**request, alpha=1.0, generator=seeded(), **QUICK)
    assert (np.asarray(result.image) == np.asarray(expected.image)).all()
    assert result.target_keywords == expected.target_keywords == ["warm", "hat"]
    results = imagine([request, {"query": "coat"}, {"history": ["belt"]}], **QUICK)
    assert [result.target_keywords[:1] for result in results[:2]] == [["warm"], ["coat"]]
    assert len(results) == 3


def test_a_checkpoint_without_one_says_what_is_missing(shared, tmp_path):
    model, processor = shared
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no denoiser: there is no folder `imagine`"):
        pipeline("unimp-imagine", model=str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("request_", "parameters", "message"),
    [
        ({"history": ["hat"], "item": "hat"}, {}, "An imagine request"),
        ("hat", {}, "An imagine request"),
        ({"history": ["hat"]}, {"top_k": 3}, "`top_k` is not a parameter of unimp-imagine"),
        ({"history": []}, {}, "all missing"),
        ({"history": ["hat"]}, {"alpha": 2}, "`alpha`"),
    ],
)
def test_bad_requests_are_refused(image_pipeline, request_, parameters, message):
    imagine = UniMPImaginePipeline(
        model=image_pipeline.model, processor=image_pipeline.processor, image_pipeline=image_pipeline, device="cpu"
    )
    with pytest.raises(ValueError, match=message):
        imagine(request_, **parameters)


def test_without_diffusers_everything_else_works():
    code = (
        "import sys; sys.modules['diffusers'] = None; import unimp, transformers\n"
        "from unimp.processing.imagine_unimp import UniMPImageOutput\n"
        "unimp.UniMPPreference(unimp.UniMPPreference.config_class())\n"
        "try: unimp.UniMPImagePipeline\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "`pip install diffusers`" in run.stdout
