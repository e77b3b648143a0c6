"""The speed comparison compares like with like: same batches, same loss, every way takes its steps."""

from itertools import islice

import numpy as np
import pytest
import speed_training
import torch
from speed_training import CACHED, CHANGES, ONCE, REST, STOCK, UNSORTED, kind_of, make_trainer, prepare, time_by_kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare("tiny", None, folder)
    return folder


def first_batches(trainer, number=2):
    """The first ones with pictures."""
    return list(islice((batch for batch in trainer.get_train_dataloader() if has_pictures(batch)), number))


def has_pictures(batch):
    return "pixel_values" in batch or "image_features" in batch


def test_stock_gets_the_very_same_batches_with_a_picture_for_every_marker(folder):
    stock, ours = (make_trainer(name, folder, 1) for name in (STOCK, ONCE))
    for one, other in zip(first_batches(stock), first_batches(ours), strict=True):
        for name in ("input_ids", "attention_mask", "labels", "behavior_ids"):
            assert torch.equal(one[name], other[name])
        shown = other["image_index"][other["image_index"] >= 0]
        assert torch.equal(one["pixel_values"], other["pixel_values"][shown])
        assert len(shown) == (one["input_ids"] == ours.model.config.image_token_id).sum()


def test_stock_scores_the_labels_in_one_vocabulary_of_the_same_rows(folder):
    trainer = make_trainer(STOCK, folder, 1)
    model, batch = trainer.model.eval(), first_batches(trainer, 1)[0]
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(batch))
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        states = model.model(**inputs).last_hidden_state[:, :-1]
        items, _ = model.compute_item_rows()
        logits = states @ torch.cat([model.lm_head.weight, model.model.markers.weight, items]).T
    assert not model.model.item_rows.bias.any()  # not yet trained
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", [STOCK, *CHANGES])
def test_every_way_trains(folder, name):
    trainer = make_trainer(name, folder, 2)
    before = trainer.model.model.item_rows.learned.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 2
    assert not torch.equal(before, trainer.model.model.item_rows.learned)


def test_ours_has_the_same_loss_however_pictures_come(folder):
    losses = []
    for name in (ONCE, CACHED):
        trainer = make_trainer(name, folder, 1)
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model.eval(), first_batches(trainer, 1)[0]).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_process_reports_each_of_its_steps(folder, monkeypatch):
    monkeypatch.setattr(speed_training, "WARM_UP", 1)
    measured = speed_training.measure({"operations": (CACHED, True)}, folder, 2)["operations"]
    assert len(measured.figures) == 2
    assert (measured.figures > 1e6).all()
    assert measured.peak > 0
    assert 0 <= measured.padding < 1


def test_the_report_has_a_line_for_every_way(capsys):
    def way(*figures):
        return speed_training.Measured(np.array(figures), 100.0, 0.25)

    names = (STOCK, *CHANGES)
    measured = {name: way(1.0, 1.0) for name in names} | {CACHED: way(0.5, 0.5), "operations": way(1e9, 1e9)}
    speed_training.report(measured, "operations", 16)
    lines = capsys.readouterr().out.splitlines()
    assert f"| {CACHED} | 32.0 | 2.00 [2.00, 2.00] | 100 | 25.0% |" in lines
    assert {name for name in names if any(line.startswith(f"| {name} |") for line in lines)} == set(names)


def test_time_is_told_by_kind(folder):
    assert kind_of("aten::mm") == kind_of("aten::addmm") == "matrix products"
    assert kind_of("aten::mul") == REST
    shares = time_by_kind(make_trainer(UNSORTED, folder, speed_training.WARM_UP + 1))
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares["matrix products"], shares["making batches"]) > 0
