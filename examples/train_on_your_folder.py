"""
Train on your own shop: a folder with items.csv, interactions.csv and, if you like, images/ (see the README).

    python examples/train_on_your_folder.py

In one line, with evaluation and a model card: unimp train --dataset store --output_dir my-model
"""

from transformers import pipeline

from unimp import UniMPTrainer, UniMPTrainingConfig
from unimp.processing.splits import make_split
from unimp.processing.store import read_store
from unimp.training.recipe import ModelArguments, build

DATASET, MODEL = "store", "my-model"

store = read_store(DATASET)
print(store.report)  # what was skipped or changed, and why
split = make_split(store, "leave_one_out")  # everybody's last choice is kept for testing

# A tiny new model; `vision="google/siglip-base-patch16-224"` and so on would start from pretrained parts.
model, processor = build(store, ModelArguments(), split.train)
config = UniMPTrainingConfig(MODEL, num_passes=10, learning_rate=2e-3, task_rates={"recommend": 1, "search": 1})
trainer = UniMPTrainer(model, config, processing_class=processor, train_dataset=split.train)
trainer.train()
trainer.save_model()  # weights, code, processor and catalogue: the folder can be moved, or pushed to the Hub

# Does it find what they chose last? Each row of a split is a person's events, the held-out one last.
recommend = pipeline("unimp-recommend", model=MODEL, trust_remote_code=True)
requests = [{"history": row["item_id"][:-1]} for row in split.test]
found = [
    row["item_id"][-1] in [answer["item_id"] for answer in answers]
    for row, answers in zip(split.test, recommend(requests, top_k=10, batch_size=32), strict=True)
]
print(f"HR@10 {sum(found) / len(found):.3f} for {len(found)} people")
