"""
Start from a pretrained picture encoder and language model, and train adapters on your own shop.

    python examples/finetune_with_lora.py

The encoder stays as it is, the language model gets adapters, and what UniMP adds (resampler, gated cross-attention,
item rows) trains in full.
"""

from peft import LoraConfig
from transformers import pipeline

from unimp import UniMPTrainer, UniMPTrainingConfig
from unimp.processing.splits import make_split
from unimp.processing.store import read_store
from unimp.training.recipe import ModelArguments, build

DATASET, MODEL = "store", "my-lora-model"

store = read_store(DATASET)
split = make_split(store, "leave_one_out")
backbones = ModelArguments(vision="google/siglip-base-patch16-224", text="HuggingFaceTB/SmolLM2-135M", full_chunks=3)
model, processor = build(store, backbones, split.train)

# In the decoder only: "all-linear" would adapt the picture encoder, too.
lora = LoraConfig(r=16, lora_alpha=32, target_modules=r".*language_model.*\.(q_proj|v_proj)", task_type="CAUSAL_LM")
config = UniMPTrainingConfig(MODEL, num_passes=3, learning_rate=2e-4, per_device_train_batch_size=4)
trainer = UniMPTrainer(model, config, processor, split.train, peft_config=lora)
trainer.model.print_trainable_parameters()
trainer.train()

# Merged into the weights, it is a folder like any other: no PEFT is needed to open it.
trainer.model.merge_and_unload().save_pretrained(MODEL)
processor.save_pretrained(MODEL)
person = split.test[0]
recommend = pipeline("unimp-recommend", model=MODEL, trust_remote_code=True)
print([answer["item_id"] for answer in recommend({"history": person["item_id"][:-1]}, top_k=5)])
