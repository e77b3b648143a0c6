"""A few steps on a tiny denoiser: what trains, what does not, and that a resumed run is the run it was."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image

from unimp import UniMPImagePipeline, UniMPPreference
from unimp.processing import Columns
from unimp.processing.imagine_unimp import to_pixels
from unimp.training.imagine import (
    CHECKPOINT,
    ImagineTrainer,
    ImagineTrainingConfig,
    build_tiny_denoiser,
    build_tiny_pipeline,
)
from unimp.training.imagine_data import EndlessOrder, ImaginePairs

from ..processing.test_image_pipeline import WIDTH, make_unet


@pytest.fixture(scope="session")
def recommender(store):
    """Trained by nobody; not to be changed, which is what these tests are about."""
    from unimp.training.recipe import ModelArguments, build

    from .conftest import TINY

    return build(store, ModelArguments(**TINY))


@pytest.fixture
def make_trainer(recommender, split, tmp_path):
    def make(channels=12, num_prefix_tokens=0, pairs=None, prediction_type="v_prediction", parts=None, **fields):
        torch.manual_seed(0)
        model, processor = recommender
        preference = UniMPPreference.from_model(model, WIDTH, 2, num_prefix_tokens)
        scheduler = DDIMScheduler(num_train_timesteps=50, prediction_type=prediction_type)
        pipe = UniMPImagePipeline(model, processor, make_unet(channels), scheduler, preference, **(parts or {}))
        fields = {"max_steps": 6, "batch_size": 4, "warmup_steps": 2, "taste_after": 0, "disable_tqdm": True, **fields}
        config = ImagineTrainingConfig(**{"output_dir": str(tmp_path / "out"), **fields})
        return ImagineTrainer(pipe, config, pairs or ImaginePairs(split.train, processor.catalog))

    return make


def weights(pipe):
    parts = {"unet": pipe.unet, "preference": pipe.preference, "model": pipe.model}
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def moved(before, pipe):
    return {name for name, tensor in weights(pipe).items() if not torch.equal(tensor, before[name])}


# What trains


@pytest.mark.parametrize("train_denoiser", [True, False])
@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_what_should_train_moves_and_the_recommender_is_the_same_to_the_bit(
    make_trainer, train_denoiser, num_prefix_tokens
):
    trainer = make_trainer(train_denoiser=train_denoiser, num_prefix_tokens=num_prefix_tokens, batch_size=8)
    before = weights(trainer.pipeline)
    assert trainer.train()
    changed = moved(before, trainer.pipeline)
    assert not [name for name in changed if name.startswith("model.")]
    assert any(name.startswith("unet.") for name in changed) == train_denoiser
    assert {name for name in before if name.startswith("preference.")} <= changed
    assert ("preference.prefix.embedding.weight" in changed) == bool(num_prefix_tokens)


def test_training_lowers_the_loss_of_a_step_it_has_seen(make_trainer):
    trainer = make_trainer(max_steps=40, learning_rate=3e-3, batch_size=8)
    with torch.no_grad():
        before = [trainer.loss(step).item() for step in range(4)]
        assert before == [trainer.loss(step).item() for step in range(4)]  # a step's draws are its own
        assert len(set(before)) == 4
    trainer.train()
    with torch.no_grad():
        assert np.mean([trainer.loss(step).item() for step in range(4)]) < 0.85 * np.mean(before)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_that_of_what_the_scheduler_predicts(make_trainer, prediction_type):
    trainer = make_trainer(prediction_type=prediction_type)
    pairs = [trainer.pairs[number] for number in trainer.order.batch(0)]
    pixels = torch.stack([trainer.pictures[pair["item_id"]] for pair in pairs])
    clean = torch.nn.functional.pixel_unshuffle(pixels.float() / 127.5 - 1, 2)
    noise, timesteps, _ = trainer._draw(0, 4, clean.shape[1:])
    signal_share = trainer.noise_scheduler.alphas_cumprod[timesteps][:, None, None, None]
    wanted = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": signal_share.sqrt() * noise - (1 - signal_share).sqrt() * clean,
    }[prediction_type]

    class Silent(torch.nn.Module):
        def forward(self, noisy, *others):
            expected = signal_share.sqrt() * clean + (1 - signal_share).sqrt() * noise
            torch.testing.assert_close(noisy, expected)
            return torch.zeros_like(noisy)

    trainer.network = Silent()
    weights = torch.ones(4, 1, 1, 1)
    if prediction_type == "sample":  # as much as the same error of a velocity, but at most 5 times
        weights = (1 / (1 - signal_share)).clamp(max=5.0)
    torch.testing.assert_close(trainer.loss(0), (weights * wanted.square()).mean())


def test_the_denoiser_is_told_as_often_as_the_rates_say(make_trainer):
    rates = {"target_dropout": 0.1, "attribute_dropout": 0.5, "keyword_dropout": 0.2, "soft_dropout": 0.4}
    trainer = make_trainer(nothing_rate=0.25, word_dropout=0.3, max_steps=10, taste_after=0.5, **rates)
    told = trainer._draw(5, 20_000, (1,))[2].float()
    half = [0.3 / 2] * 5  # of 5 target keywords
    expected = torch.tensor([0.75 * (1 - rate) for rate in [*rates.values(), *half]])
    torch.testing.assert_close(told.mean(0), expected, atol=0.02, rtol=0)
    assert (told.sum(1) == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)  # nothing at all: all at once
    told = trainer._draw(4, 20_000, (1,))[2].float()
    expected = torch.tensor([0.75, 0.75 * 0.5, 0.0, 0.0, *[0.75] * 5])  # first half: all that was asked, no taste
    torch.testing.assert_close(told.mean(0), expected, atol=0.02, rtol=0)


def test_what_is_left_out_is_not_told(make_trainer):
    """All rates at 1: the denoiser hears nothing of any pair, and learns nothing for soft tokens or keywords."""
    trainer = make_trainer(nothing_rate=1.0, weight_decay=0.0)
    before = weights(trainer.pipeline)
    trainer.training_step()
    changed = {name for name in moved(before, trainer.pipeline) if name.startswith("preference.")}
    assert changed == {"preference.kinds.weight"}


def test_a_latent_denoiser_trains_on_what_its_vae_makes(make_trainer):
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    trainer = make_trainer(channels=4, parts={"vae": vae}, max_steps=2)
    assert trainer.pipeline.picture_size == (16, 16)
    assert trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


# Going on


class Interrupting(ImaginePairs):
    """Ctrl-C while the pairs of a step are read."""

    def __init__(self, *args, after=10**9):
        super().__init__(*args)
        self.left = after

    def __getitem__(self, number):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)
        return super().__getitem__(number)


@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_a_resumed_run_is_the_run_that_was_interrupted(make_trainer, recommender, split, tmp_path, num_prefix_tokens):
    catalog = recommender[1].catalog
    whole = make_trainer(output_dir=str(tmp_path / "whole"), num_prefix_tokens=num_prefix_tokens)
    assert whole.train()
    assert not (tmp_path / "whole" / CHECKPOINT).exists()
    broken = make_trainer(num_prefix_tokens=num_prefix_tokens, pairs=Interrupting(split.train, catalog, after=10))
    assert not broken.train()
    assert broken.step == 3  # 4 pairs a step: interrupted in the third, which is finished
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {CHECKPOINT}
    torch.manual_seed(5)  # of no matter
    resumed = make_trainer(num_prefix_tokens=num_prefix_tokens)
    for parameter in resumed.parameters.values():
        parameter.data.normal_()  # whatever it starts from
    assert resumed.train(resume=True)
    assert moved(weights(whole.pipeline), resumed.pipeline) == set()


def test_checkpoints_are_written_on_the_way(make_trainer, tmp_path):
    trainer = make_trainer(save_steps=2, max_steps=4)
    steps = []
    save = trainer._save
    trainer._save = lambda: (steps.append(trainer.step), save())
    assert trainer.train()
    assert steps == [2, 4]


def test_a_resumed_run_must_be_the_same_run(make_trainer):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        make_trainer().train(resume=True)
    make_trainer()._save()
    with pytest.raises(ValueError, match="`batch_size` was 4 when the run was interrupted and is 2 now"):
        make_trainer(batch_size=2).train(resume=True)
    assert make_trainer(logging_steps=1).train(resume=True)


def test_the_result_is_a_pipeline_without_pickles(make_trainer, tmp_path):
    make_trainer(max_steps=1).train()
    folder = tmp_path / "out"
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    loaded = UniMPImagePipeline.from_pretrained(folder)
    history = loaded.processor.catalog.item_ids[:3]
    loaded.set_progress_bar_config(disable=True)
    assert loaded(history, "red hat", num_inference_steps=2, use_answer=False).image.size == (16, 16)


# Pairs


def test_pairs_are_histories_and_what_came_next(split, recommender):
    catalog = recommender[1].catalog
    pairs = ImaginePairs(split.train, catalog, history_window=2)
    pictured = {item_id for code, item_id in enumerate(catalog.item_ids) if catalog.has_image(code)}
    row = split.train[0]
    positions = [n for n, item_id in enumerate(row[Columns.ITEM_ID]) if item_id in pictured]
    assert [position for person, position in pairs.pairs if person == 0] == positions
    for number, position in enumerate(positions):
        pair = pairs[number]
        shown = row[Columns.ITEM_ID][max(0, position - 2) : position]
        assert [event[Columns.ITEM_ID] for event in pair["history"]] == shown
        assert (pair["item_id"], pair["query"]) == (row[Columns.ITEM_ID][position], row[Columns.QUERY][position])
    assert set(pairs.item_ids) <= pictured
    assert len(pairs.item_ids) == len(set(pairs.item_ids))


def test_pairs_need_pictures(split, recommender):
    bare = recommender[1].catalog.__class__(recommender[1].catalog.table.drop_columns(["image"]))
    with pytest.raises(ValueError, match="no event of an item with a picture"):
        ImaginePairs(split.train, bare)


def test_every_pass_has_every_pair_once_in_another_order():
    order = EndlessOrder(number=10, batch_size=4, seed=3)
    seen = [number for step in range(5) for number in order.batch(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert EndlessOrder(10, 4, 3).batch(3) == seen[12:16]  # wherever one begins
    assert EndlessOrder(10, 4, 4).batch(0) != seen[:4]


def test_pictures_are_brought_to_size():
    pixels = to_pixels(Image.new("L", (30, 10), 7), (8, 4))
    assert pixels.shape == (3, 8, 4)
    assert (pixels == 7).all()


# The small denoiser


@pytest.mark.parametrize("size", [48, (96, 64)])
def test_the_small_denoiser_draws_at_its_size(recommender, size):
    pipe = build_tiny_pipeline(*recommender, image_size=size)
    pipe.set_progress_bar_config(disable=True)
    history = pipe.processor.catalog.item_ids[:2]
    generator = torch.Generator().manual_seed(0)
    result = pipe(history, "red hat", num_candidates=1, num_inference_steps=1, use_answer=False, generator=generator)
    height, width = (size, size) if isinstance(size, int) else size
    assert result.image.size == (width, height)
    assert sum(parameter.numel() for parameter in pipe.unet.parameters()) < 6e6


@torch.no_grad()
def test_the_small_denoiser_hears_every_word(recommender):
    """It has no attention to them: they reach it pooled."""
    pipe = build_tiny_pipeline(*recommender)
    words = [["dotted", "red", "hat"], ["zigzag", "red", "hat"], ["dotted", "red", "hat"]]
    states, mask = pipe.conditioning(words, [[], [], ["green"]])
    noise = torch.randn(1, 12, 24, 24, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    drawn = pipe.unet(noise, 900, encoder_hidden_states=states, encoder_attention_mask=mask).sample
    assert all((drawn[0] - other).abs().max() > 1e-3 for other in drawn[1:])


def test_the_same_seed_builds_the_same_denoiser(recommender):
    first, second, other = (build_tiny_pipeline(*recommender, seed=seed) for seed in (1, 1, 2))
    assert moved(weights(first), second) == set()
    assert moved(weights(first), other)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"image_size": 50}, "image_size"),
        ({"image_size": (48, 0)}, "image_size"),
        ({"conditioning_size": 30}, "conditioning_size"),
    ],
)
def test_sizes_that_cannot_work_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        build_tiny_denoiser(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("soft_dropout", 1.5),
        ("taste_after", 2.0),
        ("nothing_rate", -0.1),
    ],
)
def test_settings_that_cannot_work_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        replace(ImagineTrainingConfig(output_dir="out"), **{name: value})


def test_without_a_preference_there_is_nothing_to_train(make_trainer):
    trainer = make_trainer()
    trainer.pipeline.register_modules(preference=None)
    with pytest.raises(ValueError, match="`preference`"):
        ImagineTrainer(trainer.pipeline, trainer.config, trainer.pairs)
