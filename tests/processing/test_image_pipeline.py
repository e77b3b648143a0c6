"""`UniMPImagePipeline` on tiny random parts: a built-in style denoiser of pixels, and a Stable-Diffusion-style one."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from unimp import UniMPImagePipeline, UniMPPreference
from unimp.processing import taste_unimp
from unimp.processing.contact_sheet import SheetRow, contact_sheet, sheet_rows
from unimp.processing.image_pipeline_unimp import mixing
from unimp.processing.imagine_unimp import PictureSimilarity, to_pixels

from .conftest import byte_tokenizer, draw_picture, make_model, make_processor

WIDTH = 8
HISTORY = ["shirt", "hat", {"item_id": "socks", "query": "warm wool", "rating": 5}]
QUICK = {"num_inference_steps": 2, "use_answer": False}


def make_unet(channels=3, width=WIDTH, **config):
    torch.manual_seed(1)
    config = {"sample_size": 8, **config}
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
        norm_num_groups=4,
        **config,
    ).eval()


def make_preference(model, width=WIDTH):
    torch.manual_seed(2)
    return UniMPPreference.from_model(model, width, num_soft_tokens=2).eval()


def make_scheduler(kind=DDIMScheduler, **config):
    return kind(num_train_timesteps=100, **config)


@pytest.fixture
def parts(shared):
    model, processor = shared
    return {
        "model": model,
        "processor": processor,
        "unet": make_unet(12, addition_embed_type="text", addition_embed_type_num_heads=2),
        "scheduler": make_scheduler(prediction_type="v_prediction"),
        "preference": make_preference(model),
    }


@pytest.fixture
def pipe(parts):
    pipe = UniMPImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def stable_diffusion():
    """Text encoder, denoiser of latents and VAE, as such checkpoints have them."""
    torch.manual_seed(3)
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 16
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text_config).eval(),
        tokenizer=tokenizer,
        unet=make_unet(4),
        scheduler=make_scheduler(PNDMScheduler, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(pipe, **arguments):
    arguments = {"history": HISTORY, "query": "warm hat", "generator": seeded(), **QUICK, **arguments}
    return pipe(**arguments)


def pixels(result):
    return np.stack([np.asarray(candidate.image) for candidate in result.candidates]).astype(int)


# What a request gets


def test_the_result_tells_its_story(pipe):
    result = draw(pipe, num_candidates=3, num_retrieved=2)
    assert [candidate.weighting for candidate in result.candidates] == [0.0, 0.375, 0.75]
    assert {candidate.image.size for candidate in result.candidates} == {(16, 16)}
    assert {candidate.start for candidate in result.candidates} <= set(pipe.processor.catalog.item_ids)
    assert {candidate.start for candidate in draw(pipe, strength=1.0).candidates} == {None}
    assert all(0 <= score <= 1 for candidate in result.candidates for score in (candidate.d_p, candidate.d_t))
    assert result.target_keywords == ["warm", "hat"]
    assert result.preference_keywords[:4] == ["warm", "wool", "socks", "straw"]
    assert len(result.retrieved) == 2
    assert {"item_id", "score", "item"} <= set(result.retrieved[0])
    assert result.answer is None
    assert result.image in [candidate.image for candidate in result.candidates]


def test_the_same_seed_gives_the_same_picture(pipe):
    first = pixels(draw(pipe))
    assert (first == pixels(draw(pipe))).all()
    assert (first != pixels(draw(pipe, generator=seeded(1)))).any()


@pytest.mark.parametrize(
    "change",
    [
        {"query": "black shoes"},
        {"history": ["coat", "gloves"]},
        {"guidance_scale": 5.0},
        {"use_soft": False},
        {"preference_keywords": ["red"]},
        {"target_keywords": ["red"]},
    ],
)
def test_everything_asked_or_known_changes_the_picture(pipe, change):
    arguments = {"num_candidates": 1, "weightings": [0.5]}
    assert (pixels(draw(pipe, **arguments)) != pixels(draw(pipe, **arguments, **change))).any()


def test_the_request_alone_does_not_depend_on_the_history(pipe):
    alone = {"num_candidates": 1, "weightings": [0.0]}
    assert (pixels(draw(pipe, **alone)) == pixels(draw(pipe, **alone, history=["coat", "gloves"]))).all()


def test_what_was_asked_is_what_is_found_first_for_anybody(pipe):
    """`d_p` compares with the history, `d_t` with what a candidate without taste begins with, whoever asks."""
    references = []

    def scorer(pictures, others):
        references.append([picture.tobytes() for picture in others])
        return [0.5] * len(pictures)

    histories = HISTORY, ["coat", "gloves"]
    starts = [draw(pipe, history=h, weightings=[0.5, 0.0], scorer=scorer).candidates[1].start for h in histories]
    assert starts[0] == starts[1]
    assert references[0] != references[2]
    assert references[1] == references[3] == [pipe.picture_of(starts[0]).tobytes()]


def test_taste_is_compared_anywhere_and_what_was_asked_by_position(pipe):
    result = draw(pipe)
    pictures = [candidate.image for candidate in result.candidates]
    asked = [pipe.picture_of(draw(pipe, history=None).choose().start)]
    liked = list(filter(None, map(pipe.picture_of, HISTORY)))
    anywhere, by_position = (PictureSimilarity(pipe.model, pipe.processor, by_position=flag) for flag in (False, True))
    assert [candidate.d_p for candidate in result.candidates] == pytest.approx(anywhere(pictures, liked))
    assert [candidate.d_t for candidate in result.candidates] == pytest.approx(by_position(pictures, asked))
    assert anywhere(pictures, liked) != pytest.approx(by_position(pictures, liked))


def test_what_was_found_is_changed_and_not_drawn_anew(pipe):
    """A denoiser that is told nothing more than nothing changes nothing, however much noise there is."""
    arguments = {"query": None, "target": "hat", "num_candidates": 1, "weightings": [0.0], "strength": 0.9}
    result = draw(pipe, **arguments, target_keywords=[])
    found = to_pixels(pipe.picture_of("hat"), pipe.picture_size).permute(1, 2, 0).numpy()
    assert (pixels(result)[0] == found).all()
    assert (pixels(draw(pipe, **arguments))[0] != found).any()


class Told(torch.nn.Module):
    """A denoiser that sees at once what it is told: flat pictures, of the first number of the condition."""

    def __init__(self, scheduler):
        super().__init__()
        self.config = make_unet(12).config
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.scheduler = scheduler

    def forward(self, noisy, timestep, encoder_hidden_states, encoder_attention_mask):
        picture = encoder_hidden_states[:, :1, :1, None].expand_as(noisy)
        share = self.scheduler.alphas_cumprod[timestep]
        noise = (noisy - share.sqrt() * picture) / (1 - share).sqrt()
        velocity = share.sqrt() * noise - (1 - share).sqrt() * picture
        kinds = {"sample": picture, "epsilon": noise, "v_prediction": velocity}
        return UNet2DConditionOutput(sample=kinds[self.scheduler.config.prediction_type])


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_change_is_what_it_makes_of_what_it_is_told(parts, prediction_type, steps):
    """Nothing 0.1, the request 0.3, both 0.35: a weighting of w adds 0.2 and 4 w times 0.05 to a picture."""
    pipe = UniMPImagePipeline(**{**parts, "scheduler": make_scheduler(prediction_type=prediction_type)})
    pipe.set_progress_bar_config(disable=True)
    pipe.unet = Told(pipe.scheduler)
    states = torch.tensor([0.1, 0.3, 0.35])[:, None, None].expand(3, 1, WIDTH)
    start, weightings = Image.new("RGB", (16, 16), (40, 100, 160)), [0.0, 0.25, 0.5]
    drawn = pipe.generate(states, torch.ones(3, 1), weightings, 1.0, steps, seeded(), [start] * 3, strength=0.8)
    changes = np.stack([np.asarray(picture, dtype=float) - np.asarray(start) for picture in drawn]) / 127.5
    np.testing.assert_allclose(changes.mean((1, 2, 3)), [0.2, 0.25, 0.3], atol=0.01)
    assert changes.std((1, 2, 3)).max() < 0.01


def test_a_scheduler_without_levels_of_noise_draws_from_noise_alone(pipe):
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="A `strength` below 1 needs a `scheduler` with levels of noise"):
        draw(pipe)


@pytest.mark.parametrize("strength", [0, 1.1, -0.5, float("nan"), "half"])
def test_a_strength_that_is_none(pipe, strength):
    with pytest.raises(ValueError, match="`strength` must be above 0 and at most 1"):
        draw(pipe, strength=strength)


def test_without_a_picture_to_begin_with_it_begins_with_noise(pipe):
    arguments = {"history": ["coat"], "target": {"title": "red hat"}, "num_candidates": 1}
    assert (pixels(draw(pipe, **arguments)) == pixels(draw(pipe, **arguments, strength=1.0))).all()


def test_candidates_take_their_weightings_in_turn_each_turn_from_new_noise(pipe):
    result = draw(pipe, num_candidates=4, weightings=[0.0, 1.0])
    assert [candidate.weighting for candidate in result.candidates] == [0.0, 1.0, 0.0, 1.0]
    pictures = pixels(result)
    assert (pictures[0] != pictures[2]).any()
    assert (
        pictures[:2] == pixels(draw(pipe, num_candidates=2, weightings=[0.0, 1.0]))
    ).mean() > 0.9  # a smaller batch


@pytest.mark.parametrize(
    ("weighting", "factors"), [(0.0, [-1, 2, 0]), (0.25, [-1, 1, 1]), (0.5, [-1, 0, 2]), (1.0, [-1, -2, 4])]
)
def test_a_weighting_adds_what_the_taste_changes_about_the_request(weighting, factors):
    assert mixing(weighting, 2.0) == factors
    assert sum(mixing(weighting, 7.3)) == pytest.approx(1)
    assert mixing(weighting, 1.0)[0] == 0  # no guidance


def test_what_the_denoiser_is_told_does_not_depend_on_its_batch(pipe):
    targets, tastes = [["red", "hat"], [], ["blue"]], [[], ["wool"], ["grey", "coat", "warm"]]
    soft = torch.randn(3, 2, WIDTH)
    with torch.no_grad():
        states, mask = pipe.conditioning(targets, tastes, soft, [True, False, True])
        for row in range(3):
            one, one_mask = pipe.conditioning(
                targets[row : row + 1], tastes[row : row + 1], soft[row : row + 1], [row != 1]
            )
            torch.testing.assert_close(one[0], states[row])
            assert torch.equal(one_mask[0], mask[row])
    assert mask.sum(-1).tolist() == [1 + 2 + 2, 1 + 1, 1 + 1 + 3 + 2]
    assert not states[mask == 0].any()


def test_a_target_is_drawn_and_nothing_searched(pipe):
    result = draw(pipe, query=None, target="gloves")
    assert result.retrieved == []
    assert {candidate.start for candidate in result.candidates} == {"gloves"}
    assert result.target_keywords == ["leather", "gloves"]
    described = draw(pipe, target={"title": "Silk tie", "image": draw_picture(9)})
    assert described.target_keywords == ["warm", "hat", "silk", "tie"]
    assert all(candidate.d_t is not None for candidate in described.candidates)
    assert {candidate.start for candidate in described.candidates} == {None}  # of no item


def test_never_seen_items_of_a_history_count(pipe):
    result = draw(pipe, history=[{"title": "Green kilt", "image": draw_picture(11)}])
    assert result.preference_keywords == ["green", "kilt"]
    assert all(candidate.d_p is not None for candidate in result.candidates)


def test_the_models_own_words_come_first(pipe, monkeypatch):
    class Says:
        def __init__(self, **kwargs):
            pass

        def __call__(self, request):
            assert set(request) == {"history", "item"}
            return {"rating": self.rating, "explanation": "I love wool and stripes."}

    monkeypatch.setattr(taste_unimp, "UniMPExplainPipeline", Says)
    Says.rating = 5.0
    result = draw(pipe, use_answer=True)
    assert result.answer == "I love wool and stripes."
    assert result.preference_keywords[:3] == ["wool", "stripes", "warm"]
    Says.rating = 1.0  # why they would not like it is no taste to paint by
    assert draw(pipe, use_answer=True).answer is None


def test_the_model_is_asked_and_may_say_nothing(pipe):
    result = draw(pipe, use_answer=True)  # random weights: hardly an answer, and always a picture
    assert result.preference_keywords


# Bad input


def test_without_a_history_it_is_nobodys_taste(pipe):
    for history in (None, []):
        result = draw(pipe, history=history, num_candidates=3)
        assert {candidate.weighting for candidate in result.candidates} == {0.0}
        assert result.preference_keywords == []
        assert all(candidate.d_p is None for candidate in result.candidates)
        assert len({picture.tobytes() for picture in pixels(result)}) == 3


def test_without_a_request_it_is_what_they_may_like_next(pipe):
    for query in (None, "", "  "):
        result = draw(pipe, query=query)
        assert result.retrieved
        assert result.target_keywords


def test_where_nothing_is_left_to_retrieve_the_request_alone_counts(pipe):
    result = draw(pipe, history=pipe.processor.catalog.item_ids, query=None, use_answer=True)
    assert result.retrieved == result.target_keywords == []
    assert all(candidate.d_t is None and candidate.d_p is not None for candidate in result.candidates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": None, "query": None}, "`history`, `query` and `target` are all missing"),
        ({"history": [], "query": ""}, "`history`, `query` and `target` are all missing"),
        ({"history": "shirt"}, "`history` must be a list"),
        ({"history": ["nothing of the kind"]}, "`item_id`"),
        ({"history": ["nothing of the kind"], "target": "hat", "use_soft": False}, "`item_id`"),
        ({"target": "nothing of the kind"}, "`item_id`"),
        ({"target": {}}, "`item_id`"),
        ({"preference_keywords": "red"}, "`preference_keywords`"),
        ({"target_keywords": ["red", 3]}, "`target_keywords`"),
        ({"alpha": 1.5}, "`alpha`"),
        ({"alpha": -0.5}, "`alpha`"),
        ({"num_candidates": 0}, "`num_candidates`"),
        ({"num_candidates": 2.5}, "`num_candidates`"),
        ({"weightings": []}, "`weightings`"),
        ({"weightings": [0.5, 1.5]}, "`weightings`"),
        ({"num_inference_steps": 0}, "`num_inference_steps`"),
        ({"num_retrieved": 0}, "`num_retrieved`"),
        ({"scorer": lambda pictures, references: [2.0] * len(pictures)}, "`scorer`"),
    ],
)
def test_bad_requests_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(pipe, **arguments)


def test_parts_that_do_not_fit_are_refused(parts, stable_diffusion):
    model = parts["model"]
    encoder, other = stable_diffusion.text_encoder, make_preference(model, 16)
    text, vae = {"text_encoder": encoder, "tokenizer": stable_diffusion.tokenizer}, stable_diffusion.vae
    sdxl = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
    sdxl["projection_class_embeddings_input_dim"] = 32
    for change, message in (
        ({"preference": other}, "`cross_attention_dim`.*`conditioning_size`"),
        ({"unet": make_unet(3, 16)}, "`cross_attention_dim`.*`conditioning_size`"),
        ({"unet": make_unet(3, 16), "preference": other, **text}, "`text_encoder`.*`hidden_size`"),
        ({"preference": None}, "`preference` is needed"),
        ({"text_encoder": encoder}, "`tokenizer`"),
        ({"unet": make_unet(4)}, "`in_channels`"),
        ({"vae": vae}, "`latent_channels`"),
        ({"unet": make_unet(**sdxl)}, "`addition_embed_type` 'text_time'"),
        ({"processor": make_processor(item_text_length=9)}, "`item_text_length`"),
    ):
        with pytest.raises(ValueError, match=message):
            UniMPImagePipeline(**{**parts, **change})


def test_a_preference_of_another_model_is_refused(parts):
    parts["preference"] = UniMPPreference(
        parts["preference"].config.__class__(hidden_size=48, conditioning_size=WIDTH)
    )
    with pytest.raises(ValueError, match="`preference` was made for a model of width 48"):
        UniMPImagePipeline(**parts)


# Other denoisers


@pytest.mark.parametrize("with_preference", [True, False])
def test_a_stable_diffusion_checkpoint_fits_in(shared, stable_diffusion, with_preference):
    model, processor = shared
    preference = make_preference(model) if with_preference else None
    pipe = UniMPImagePipeline.from_pipe(stable_diffusion, model=model, processor=processor, preference=preference)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.text_encoder is stable_diffusion.text_encoder
    result = draw(pipe)
    assert result.image.size == (16, 16)
    assert np.ptp(pixels(result)) > 0
    assert (pixels(draw(pipe, target_keywords=["other"])) != pixels(result)).any()
    assert (pixels(draw(pipe, use_soft=False)) != pixels(result)).any() == with_preference


@pytest.mark.parametrize("kind", [DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_any_scheduler_works(parts, kind):
    pipe = UniMPImagePipeline(**{**parts, "scheduler": make_scheduler(kind)})
    pipe.set_progress_bar_config(disable=True)
    steps = {"num_inference_steps": 13 if kind is PNDMScheduler else 3}
    assert (pixels(draw(pipe, **steps)) == pixels(draw(pipe, **steps))).all()


def test_pixels_and_latents_are_the_same_picture(pipe):
    picture = torch.from_numpy(np.array(draw_picture(5, (16, 16)))).permute(2, 0, 1)[None]
    latents = pipe.to_latents(picture.float() / 127.5 - 1)
    assert latents.shape == (1, 12, 8, 8)
    assert (np.asarray(pipe.to_pictures(latents)[0]) == picture[0].permute(1, 2, 0).numpy()).all()


def test_a_picture_of_no_numbers_is_refused_and_not_black(pipe):
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"`DDIMScheduler` in torch\.float32: try another one"):
        draw(pipe)


def test_pictures_need_not_be_square(parts):
    parts["unet"] = make_unet(12, sample_size=(12, 8))
    pipe = UniMPImagePipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.picture_size == (24, 16)
    assert draw(pipe).image.size == (16, 24)


# Saving

ELSEWHERE = """
import sys
import numpy as np, torch
torch.set_num_threads(1)
from unimp import UniMPImagePipeline
pipe = UniMPImagePipeline.from_pretrained(sys.argv[1])
result = pipe(
    history=["shirt", "hat", {"item_id": "socks", "query": "warm wool", "rating": 5}], query="warm hat",
    num_inference_steps=2, use_answer=False, generator=torch.Generator().manual_seed(0),
)
np.save(sys.argv[2], np.stack([np.asarray(candidate.image) for candidate in result.candidates]))
"""


def test_saved_and_loaded_elsewhere_it_makes_the_same_picture(pipe, tmp_path):
    folder = tmp_path / "saved"
    pipe.save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"model_index.json", "model", "processor", "unet", "scheduler", "preference"}
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), str(tmp_path / "pictures.npy")],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (np.load(tmp_path / "pictures.npy") == pixels(draw(pipe))).all()


def test_all_of_stable_diffusion_is_saved(shared, stable_diffusion, tmp_path):
    model, processor = shared
    pipe = UniMPImagePipeline.from_pipe(
        stable_diffusion, model=model, processor=processor, preference=make_preference(model)
    )
    pipe.save_pretrained(tmp_path)
    loaded = UniMPImagePipeline.from_pretrained(tmp_path)
    for each in (pipe, loaded):
        each.set_progress_bar_config(disable=True)
    assert (pixels(draw(loaded)) == pixels(draw(pipe))).all()


def test_a_model_from_a_checkpoints_own_code_cannot_be_saved_with_it(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(type(pipe.model), "__module__", "transformers_modules.demo.modeling_unimp")
    with pytest.raises(ValueError, match=r"unimp\.UniMPForConditionalGeneration\.from_pretrained"):
        pipe.save_pretrained(tmp_path)


def test_parts_are_named_as_the_signature_says():
    assert {"preference", "vae", "text_encoder", "tokenizer"} == set(UniMPImagePipeline._optional_components)
    assert set(UniMPImagePipeline._optional_components) < set(inspect.signature(UniMPImagePipeline).parameters)


def test_the_recommender_is_left_as_it_was():
    processor = make_processor()
    model = make_model(processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pipe = UniMPImagePipeline(model, processor, make_unet(), make_scheduler(), make_preference(model))
    pipe.set_progress_bar_config(disable=True)
    draw(pipe, use_answer=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


# The contact sheet


def test_a_contact_sheet_is_drawn(pipe, tmp_path):
    rows = [
        SheetRow("Ada: warm hat", [draw_picture(seed) for seed in range(10)], draw(pipe)),
        SheetRow("Bo: anything", [draw_picture(1, (20, 40))], draw(pipe, query=None)),
    ]
    contact_sheet(rows, tmp_path / "sheet.png", alphas=(0.0, 1.0))
    contact_sheet(rows[:1], tmp_path / "one.png")
    two, one = (Image.open(tmp_path / name) for name in ("sheet.png", "one.png"))
    assert two.width < one.width
    assert two.height > one.height
    for arguments in ({"rows": [], "alphas": (0.0,)}, {"rows": rows, "alphas": ()}):
        with pytest.raises(ValueError, match="`rows` and `alphas`"):
            contact_sheet(path=tmp_path / "no.png", **arguments)


def test_rows_of_a_sheet_are_the_answers_to_requests(pipe):
    requests = [{"history": HISTORY, "query": "warm hat", "item_id": "hat"}, {"history": [], "query": "coat"}]
    first, second = sheet_rows(pipe, requests, seed=0, **QUICK)
    assert (first.title, second.title) == ("asked for: warm hat", "asked for: coat")
    assert [len(row.history) for row in (first, second)] == [2, 0]  # the shirt has no picture
    assert (pixels(first.result) == pixels(draw(pipe))).all()
