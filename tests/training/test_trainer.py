"""A few steps: what is trained, how the loss is put together, and that nothing is lost on the way."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from unimp.processing import TASKS
from unimp.processing.chunks_unimp import ITEM_ROLE, QUERY_ANSWER_ROLE
from unimp.training.card import write_model_card
from unimp.training.loss import token_weighted_loss
from unimp.training.recipe import load
from unimp.training.trainer import UniMPTrainer, UniMPTrainingConfig, new_module_names

from .conftest import WAYS

SHARED_RUN = Path(__file__).with_name("distributed_run.py")


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(before, model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


def part(name: str) -> str:
    """`model.cross_attention.0.norm.weight` to `cross_attention`."""
    return name.removeprefix("model.").partition(".")[0]


def open_gates(model) -> None:
    """A closed gate passes no gradient on to what lies behind it."""
    for name, parameter in model.named_parameters():
        if name.endswith("_gate"):
            parameter.data.fill_(0.5)


def prepared(trainer, number=8) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[n] for n in range(number)])


# What trains


def loss_of(trainer, task: str) -> float:
    """Of one and the same batch of a task: batches of different tasks differ in loss however well they are known."""
    rows = [row for row, name in enumerate(trainer.train_dataset.with_format(None)["task"]) if name == task][:12]
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    with torch.no_grad():
        return trainer.compute_loss(trainer.model.eval(), batch).item()


@pytest.mark.parametrize(("dropout", "later_weights"), [(0.0, []), (0.1, [0.4, 0.16])])
def test_a_few_steps_lower_the_loss(make_trainer, dropout, later_weights):
    rates = {"recommend": 1.0, "rate": 1.0}
    trainer = make_trainer(
        model={"dropout": dropout},
        max_steps=25,
        learning_rate=3e-3,
        task_rates=rates,
        later_weights=later_weights,
    )
    before = {task: loss_of(trainer, task) for task in rates}
    trainer.train()
    assert loss_of(trainer, "recommend") < 0.95 * before["recommend"]
    assert loss_of(trainer, "rate") < 0.7 * before["rate"]
    assert {"surprise_item", "surprise_rating"} <= {name for entry in trainer.state.log_history for name in entry}


PARTS = {"resampler", "key_values", "cross_attention", "markers", "behaviors"}
PARTS |= {"item_rows", "item_norm", "query_weight"}


@pytest.mark.parametrize(("policy", "parts"), [("all", PARTS | {"language_model"}), ("new", PARTS)])
def test_what_should_train_moves_and_what_is_frozen_does_not(make_trainer, built, policy, parts):
    open_gates(built[0])
    before = weights(built[0])
    make_trainer(built, train_policy=policy, max_steps=6).train()
    changed = moved(before, built[0])
    assert {part(name) for name in changed} == parts
    should = {name for name in before if part(name) in parts}
    assert {name for name in should - changed if "bias" not in name} == set()
    assert not any(part(name) == "vision_encoder" for name in changed)


# The loss


def test_the_loss_is_the_weighted_one(make_trainer, built):
    trainer = make_trainer(built, focal_gamma=2.0, task_weights={"recommend": 3.0}, role_weights={"rating": 0.5})
    batch = prepared(trainer)
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=10)
        inputs = {key: value for key, value in batch.items() if key not in ("roles", "loss_weights")}
        outputs = trainer.model(**inputs)
    expected = token_weighted_loss(outputs.log_probs, batch["loss_weights"], 2.0, 10)
    for place, weight in enumerate(trainer.args.later_weights):
        later = outputs.later_log_probs[..., place]
        expected += weight * token_weighted_loss(later, batch["loss_weights"], 2.0, 10)
    assert loss.item() == pytest.approx(expected.item())
    assert loss.item() != pytest.approx(outputs.loss.item() * (batch["labels"] != -100).sum().item() / 10)
    assert "roles" in batch  # nothing was taken out of the caller's batch


def test_the_one_answer_of_a_query_weighs_more_than_its_history(make_trainer, built):
    trainer = make_trainer(built, task_rates={"search": 1.0}, role_weights={"item": 0.5, "query_answer": 4.0})
    batch = prepared(trainer, 4)
    pairs = zip(batch["labels"], batch["loss_weights"], strict=True)
    rows = [weights[labels != -100].tolist() for labels, weights in pairs]
    assert {weight for row in rows for weight in row[:-1]} == {0.5}
    assert {row[-1] for row in rows} == {4.0}
    assert UniMPTrainingConfig(output_dir="x").role_weights == {"query_answer": 8.0}


def gradients(trainer, batch) -> torch.Tensor:
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, dict(batch), num_items_in_batch=torch.tensor(10))
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_weights_change_the_gradient(make_trainer, built):
    trainer = make_trainer(built, focal_gamma=0.0, task_weights={}, task_rates={"explain": 1.0})
    batch = prepared(trainer)
    plain = gradients(trainer, batch)
    twice = gradients(trainer, {**batch, "loss_weights": 2 * batch["loss_weights"]})
    torch.testing.assert_close(twice, 2 * plain)
    ratings = gradients(trainer, {**batch, "loss_weights": batch["loss_weights"] * (batch["roles"] == 2)})
    words = gradients(trainer, {**batch, "loss_weights": batch["loss_weights"] * (batch["roles"] == 3)})
    torch.testing.assert_close(ratings + words, plain, rtol=1e-4, atol=1e-6)
    assert ratings.norm() > 0
    assert words.norm() > 0
    trainer.args.focal_gamma = 2.0
    assert not torch.allclose(gradients(trainer, batch), plain, rtol=1e-2)


# Later items


def naive_loss(trainer, batch, count: int) -> torch.Tensor:
    """The loss, one labelled position after the other, from the logits that the model gives without labels."""
    beside = ("labels", "later_labels", "roles", "loss_weights")
    logits = trainer.model(**{key: value for key, value in batch.items() if key not in beside}).logits
    gamma, total = trainer.args.focal_gamma, 0.0

    def surprise(row, position, label):
        log_prob = logits[row, position - 1].log_softmax(-1)[label]
        return -log_prob * (1 - log_prob.exp()) ** gamma

    for row, labels in enumerate(batch["labels"].tolist()):
        roles = batch["roles"][row].tolist()
        items = [p for p, role in enumerate(roles) if role in (ITEM_ROLE, QUERY_ANSWER_ROLE)]
        for position, label in enumerate(labels):
            if label == -100:
                continue
            weight = batch["loss_weights"][row, position]
            total = total + weight * surprise(row, position, label)
            if position in items and trainer.train_dataset[row]["task"] != "select":
                following = items[items.index(position) + 1 :]
                for later_weight, later in zip(trainer.args.later_weights, following, strict=False):
                    total = total + weight * later_weight * surprise(row, position, labels[later])
    return total / count


@pytest.mark.parametrize("later_weights", [[], [0.5], [0.4, 0.16], [0.0, 0.3, 0.2]])
def test_the_loss_and_its_gradient_are_those_of_a_naive_one(make_trainer, built, later_weights):
    settings = {"task_weights": {"recommend": 3.0, "select": 0.5}, "role_weights": {"item": 0.7}}
    trainer = make_trainer(built, later_weights=later_weights, focal_gamma=1.5, **settings)
    batch = prepared(trainer, 10)  # of two people, every task
    assert {trainer.train_dataset[n]["task"] for n in range(10)} == set(TASKS)
    results = []
    for loss in (trainer.compute_loss(trainer.model.eval(), dict(batch), num_items_in_batch=7), None):
        loss = naive_loss(trainer, batch, 7) if loss is None else loss
        trainer.model.zero_grad()
        loss.backward()
        grads = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
        results.append((loss.item(), grads))
    (loss, grads), (expected, expected_grads) = results
    assert loss == pytest.approx(expected, rel=1e-4)
    for name in expected_grads:
        torch.testing.assert_close(grads[name], expected_grads[name], rtol=1e-3, atol=1e-5, msg=name)


def test_without_later_weights_there_are_no_later_items(make_trainer, build_model):
    """Neither in the batch nor in the loss; and with weights of 0 the loss is the same as without."""
    losses, batches = [], []
    for weights_of_later in ([], [0.0, 0.0], [0.4, 0.16]):
        trainer = make_trainer(build_model(), later_weights=weights_of_later)
        batches.append(prepared(trainer))
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model.eval(), dict(batches[-1])).item())
    assert "later_labels" not in batches[0]
    assert batches[2]["later_labels"].shape == (*batches[2]["labels"].shape, 2)
    assert losses[0] == losses[1] < losses[2]


@pytest.mark.parametrize("task", ["select", "rate", "explain"])
def test_later_weights_change_nothing_where_no_order_of_items_is_predicted(make_trainer, build_model, task):
    losses = []
    for weights_of_later in ([], [0.4, 0.16]):
        trainer = make_trainer(build_model(), later_weights=weights_of_later, task_rates={task: 1.0})
        with torch.no_grad():
            losses.append(trainer.compute_loss(trainer.model.eval(), prepared(trainer)).item())
    assert losses[0] == losses[1]


# No weight decay: of what a batch has no use for (no picture in it) weights decay with several processes only, where
# gradients are 0 and not missing.
SGD = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "max_steps": 2,
    "use_cpu": True,
}


def test_gradient_accumulation_is_exact(make_trainer, build_model):
    results = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        trainer = make_trainer(
            build_model(), per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, **SGD
        )
        before = weights(trainer.model)
        trainer.train()
        results.append((weights(trainer.model), trainer.state.log_history[0]["loss"]))
    (one, loss), (four, accumulated) = results
    assert any((one[name] - before[name]).abs().max() > 1e-3 for name in one)
    torch.testing.assert_close(one, four, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(accumulated, rel=1e-5)


def test_two_processes_give_what_one_with_the_doubled_batch_gives(make_trainer, tmp_path):
    trainer = make_trainer(per_device_train_batch_size=8, **SGD)
    trainer.train()
    # Not `accelerate launch --cpu`: without MPI it starts a single process.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SHARED_RUN)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    settings = json.dumps({"per_device_train_batch_size": 4, **SGD})
    done = subprocess.run(
        [*launch, str(tmp_path / "two"), settings], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two, log = torch.load(tmp_path / "two" / "weights.pt")
    torch.testing.assert_close(weights(trainer.model), two, rtol=1e-4, atol=1e-6)
    assert log["processes"] == 2
    assert log["loss"] == pytest.approx(trainer.state.log_history[0]["loss"], rel=1e-4)
    surprises = {name: value for name, value in trainer.state.log_history[0].items() if name.startswith("surprise")}
    assert {name: log[name] for name in surprises} == pytest.approx(surprises, rel=1e-4)


def test_evaluation_loss(make_trainer, split, built):
    settings = {"focal_gamma": 0.0, "task_weights": {}, "role_weights": {}, "later_weights": []}
    trainer = make_trainer(built, eval_dataset=split.test, max_steps=20, **settings)
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(6, abs=1.5)  # about log(400), the size of the vocabulary
    assert before["eval_surprise_item"] == pytest.approx(3.7, abs=1)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before["eval_loss"]


# Saving and resuming


def test_a_resumed_run_is_the_same_run(make_trainer, tmp_path):
    dropouts = {"dropout": 0.2, "item_dropout": 0.3}
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    settings |= {"lr_scheduler_type": "cosine", "warmup_steps": 2}
    straight = make_trainer(model=dropouts, **settings)
    straight.train()
    checkpoint = str(tmp_path / "out" / "checkpoint-3")
    assert not torch.equal(load(checkpoint)[0].model.markers.weight, straight.model.model.markers.weight)
    torch.manual_seed(123)
    resumed = make_trainer(load(checkpoint), **settings, output_dir=str(tmp_path / "again"))
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.state.global_step == 6
    torch.testing.assert_close(weights(straight.model), weights(resumed.model), rtol=0, atol=0)
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (straight, resumed)]
    assert losses[0] == losses[1]


def test_checkpoints_are_complete_and_safe(make_trainer, tmp_path):
    trainer = make_trainer(save_strategy="steps", save_steps=4)
    trainer.train()
    folder, checkpoint = tmp_path / "out", tmp_path / "out" / "checkpoint-4"
    (folder / "picture_latents.safetensors").write_bytes(b"made with the weights of an earlier training")
    trainer.save_model()
    assert not (folder / "picture_latents.safetensors").exists()
    for place in (folder, checkpoint):
        names = {path.name for path in place.iterdir() if path.is_file()}
        assert {"model.safetensors", "config.json", "processor_config.json", "catalog.parquet"} <= names
        assert {"modeling_unimp.py", "processing_unimp.py"} <= names
        state = {"optimizer.pt", "scheduler.pt", "rng_state.pth"}
        assert not {name for name in names - state if name.endswith((".bin", ".pt", ".pth", ".pkl"))}
    assert (folder / "README.md").is_file()
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True)
    assert AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True).catalog.item_ids
    assert not moved(weights(trainer.model), model)


def test_the_card_has_the_metrics_once_there_are_some(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results is None
    assert "Not evaluated yet." in card.text
    trainer.evaluation_metrics = {
        "recommend": {"model": {"hr@10": 0.25, "ndcg@10": 0.125, "hr@1": 0.1}, "popularity": {"hr@10": 0.05}},
        "rate": {"model": {"rmse": 1.0}},
    }
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    results = {(entry.task_type, entry.metric_type): entry.metric_value for entry in card.data.eval_results}
    assert results == {
        ("unimp-recommend", "hr@10"): 0.25,
        ("unimp-recommend", "ndcg@10"): 0.125,
        ("unimp-rate", "rmse"): 1,
    }
    assert card.data.to_dict()["model-index"][0]["name"] == "out"
    assert "| recommend | hr@10 | model | 0.2500 |" in card.text
    assert "| recommend | hr@10 | popularity | 0.0500 |" in card.text
    trainer.evaluation_split = "user_holdout: people never trained on"
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "On user_holdout: people never trained on." in card.text
    assert {entry.dataset_name for entry in card.data.eval_results} == {"user_holdout: people never trained on"}


def test_the_card_says_which_tasks_had_no_example(make_trainer, tmp_path):
    trainer = make_trainer(task_rates={"recommend": 1.0, "explain": 1.0, "search": 0.0})
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "Tasks recommend, explain;" in card
    assert "No event had an answer" not in card
    trainer.train_dataset = trainer.train_dataset.filter(lambda example: example["task"] != "explain")
    trainer.create_model_card()
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "Tasks recommend;" in card
    assert "No event had an answer to explain: what it answers then means nothing." in card


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_passes": 1}, "; 1 pass, learning"),
        ({"num_passes": 3}, "; 3 passes, learning"),
        ({"num_passes": 3, "max_steps": 5}, "; 5 steps over the examples of 3 passes, learning"),
    ],
)
def test_the_card_says_how_long_the_training_was(built, tmp_path, settings, said):
    write_model_card(tmp_path, built[0], UniMPTrainingConfig(str(tmp_path), learning_rate=1e-3, **settings), {})
    assert said in ModelCard.load(tmp_path / "README.md").text


def test_a_card_of_a_folder_with_a_plain_name(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = UniMPTrainingConfig(output_dir=".", learning_rate=1e-3)
    write_model_card(Path("."), built[0], args, {"rate": {"model": {"rmse": 1.0}}})
    assert ModelCard.load("README.md").data.to_dict()["model-index"][0]["name"] == tmp_path.name


# Adapters


def lora() -> LoraConfig:
    return LoraConfig(
        r=4,
        target_modules=r".*language_model.*\.(query_key_value|dense)",
        task_type="CAUSAL_LM",
        modules_to_save=None,
    )


def test_every_new_module_is_named(built):
    model = built[0]
    names = new_module_names(model)
    model.set_trainable("new")
    for name, parameter in model.named_parameters():
        module = name.rpartition(".")[0]
        covered = any(f"{module}.".find(f"{new}.") >= 0 for new in names)
        assert covered == parameter.requires_grad, name


@pytest.mark.parametrize("way", WAYS)
def test_adapters_and_new_modules_train_and_come_back(make_trainer, build_model, tmp_path, way):
    built = build_model(**WAYS[way])
    open_gates(built[0])
    config, before = lora(), weights(built[0])
    trainer = make_trainer(built, peft_config=config, max_steps=6)
    assert config.modules_to_save is None  # the caller's configuration stays as it was
    trainer.train()
    after = {name.removeprefix("base_model.model."): p for name, p in trainer.model.named_parameters()}
    for name, old in before.items():
        place = next(f"{prefix}" for prefix in (name, *_saved_names(name)) if prefix in after)
        trained = part(name) in PARTS | {"visual_prompt"}
        if trained and not name.endswith("bias"):
            assert not torch.equal(after[place], old), name
        elif not trained:
            assert torch.equal(after[place], old), name
    adapters = {name for name in after if "lora_B" in name}
    assert len(adapters) == 4
    assert all(after[name].any() for name in adapters)

    trainer.save_model()
    folder = tmp_path / "out"
    assert (folder / "adapter_model.safetensors").is_file()
    assert not list(folder.glob("adapter*.bin"))
    assert AutoProcessor.from_pretrained(folder, trust_remote_code=True).catalog.item_ids
    base = build_model(**WAYS[way])[0]
    open_gates(base)
    loaded = PeftModel.from_pretrained(base, folder).eval()
    batch = prepared(trainer, 4)
    inputs = {key: value for key, value in batch.items() if key not in ("roles", "loss_weights")}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).log_probs, trainer.model.eval()(**inputs).log_probs)


@pytest.mark.parametrize("way", WAYS)
def test_merged_adapters_make_a_folder_that_a_pipeline_opens(make_trainer, build_model, tmp_path, way):
    built = build_model(**WAYS[way])
    open_gates(built[0])
    trainer = make_trainer(built, peft_config=lora(), max_steps=3)
    trainer.train()
    samples = [trainer.train_dataset[n]["sample"] for n in range(20)]
    [sample] = [sample for sample in samples if set(sample) == {"history", "answer", "instruction"}][:1]
    scored = {"recommend": trainer.model.eval().base_model.model.score_items(**built[1]([sample]))}
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    built[1].save_pretrained(tmp_path / "merged")
    recommend = pipeline("unimp-recommend", model=str(tmp_path / "merged"), trust_remote_code=True)
    assert not any("lora" in name or "modules_to_save" in name for name, _ in recommend.model.named_parameters())
    scores = recommend.model.score_items(**recommend.processor([sample]))
    torch.testing.assert_close(scores, scored["recommend"], rtol=1e-4, atol=1e-4)
    assert len(recommend({"history": sample["history"]}, top_k=5)) == 5


def _saved_names(name: str) -> list[str]:
    """Where PEFT puts the trained copy of a parameter, or the original of one that it adapts."""
    steps = name.split(".")
    places = [".".join([*steps[:n], "modules_to_save.default", *steps[n:]]) for n in range(1, len(steps))]
    return [*places, ".".join([*steps[:-1], "base_layer", steps[-1]])]


# Settings


@pytest.mark.parametrize(
    "fields", [{"activation_checkpointing": True}, {"bf16": True, "use_cpu": True}, {"cache_pictures": False}]
)
def test_ways_of_running_give_about_the_same_loss(make_trainer, build_model, fields):
    losses = []
    for extra in ({}, fields):
        trainer = make_trainer(build_model(), max_steps=2, **extra)
        trainer.train()
        losses.append(trainer.state.log_history[1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2 if "bf16" in fields else 1e-5)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="`use_cpu` is the default without an accelerator only")
def test_mixed_precision_works_without_an_accelerator(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=3, model={"dropout": 0.1})
    assert trainer.args.use_cpu
    before = weights(trainer.model)
    hidden = []
    trainer.model.model.language_model.register_forward_hook(
        lambda module, args, output: hidden.append(output.last_hidden_state.dtype)
    )
    linear = trainer.model.model.language_model.layers[0].attention.query_key_value
    computed = []
    linear.register_forward_hook(lambda module, args, output: computed.append(output.dtype))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert all(0 < loss < 100 for loss in losses)  # finite
    assert set(computed) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert moved(before, trainer.model)
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_nothing_warns(make_trainer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer(max_steps=2).train()


def test_weights_may_be_json():
    config = UniMPTrainingConfig(output_dir="x", task_rates='{"rate": 2}', role_weights=None)
    assert (config.task_rates, config.role_weights, config.task_weights) == ({"rate": 2}, {}, {"recommend": 2.0})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_length": 512}, "`max_length` has no effect here .* got 512: use `prompt_length`"),
        ({"loss_type": "dft"}, "`loss_type` has no effect here and must stay 'nll', got 'dft'"),
        ({"loss_type": "chunked_nll"}, "`loss_type` has no effect"),
        ({"num_train_epochs": 3}, "`num_train_epochs` has no effect here and must stay 1.0, got 3: use `num_passes`"),
        ({"packing": True}, "`packing` has no effect"),
        ({"padding_free": True}, "`padding_free` has no effect"),
        ({"assistant_only_loss": True}, "`assistant_only_loss` has no effect .* `role_weights`"),
        ({"completion_only_loss": False}, "`completion_only_loss` has no effect"),
        ({"task_rates": {"recomend": 1}}, "`task_rates` must give numbers to some of recommend, .*recomend"),
        ({"task_weights": "rate"}, "`task_weights` must be JSON such as"),
        ({"role_weights": {"item": -1}}, "`role_weights` must be numbers of at least 0, got -1"),
        ({"role_weights": "[1]"}, "`role_weights` must give numbers"),
        ({"train_policy": "some"}, "`train_policy` must be 'all' or 'new'"),
        ({"focal_gamma": -1.0}, "`focal_gamma` must not be negative"),
        ({"later_weights": [0.4, -0.1]}, "`later_weights` must be numbers of at least 0, got .*-0.1"),
        ({"later_weights": [float("nan")]}, "`later_weights` must be numbers of at least 0"),
        ({"later_weights": [float("inf")]}, "`later_weights` must be numbers of at least 0"),
        ({"behavior_dropout": 1.5}, "`behavior_dropout` must lie between 0 and 1"),
        ({"num_passes": 0}, "`num_passes` must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UniMPTrainingConfig(output_dir="x", **fields)


def test_a_model_without_the_catalogue_is_refused(build_model, split):
    model, processor = build_model()
    model.config.num_items -= 1
    with pytest.raises(ValueError, match=r"39 item codes, .* 40 items: call `processor.index_catalog"):
        UniMPTrainer(model, UniMPTrainingConfig(output_dir="x"), processor, split.train)


def test_data_without_examples_is_refused(built, split):
    args = UniMPTrainingConfig(output_dir="x", task_rates={"search": 1.0})
    with pytest.raises(ValueError, match="`train_dataset` has no example of search"):
        UniMPTrainer(*built[:1], args, built[1], split.train.remove_columns("query"))
    with pytest.raises(ValueError, match="`eval_dataset` has no example of search"):
        UniMPTrainer(*built[:1], args, built[1], split.train, split.validation.remove_columns("query"))


def test_a_processor_that_writes_pictures_as_other_tokens_is_refused(make_trainer, built):
    built[1].tokens_per_image = 2
    with pytest.raises(ValueError, match=r"shows a picture as 1 tokens .* the `processor` writes 2"):
        make_trainer(built)
