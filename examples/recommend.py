"""
Recommend, ask for a rating and its reason, and follow someone who clicks.

    unimp quickstart        # once: makes outputs/quickstart
    python examples/recommend.py
"""

from transformers import pipeline

MODEL = "outputs/quickstart"  # or your own folder, or a Hub id

recommend = pipeline("unimp-recommend", model=MODEL, trust_remote_code=True)

# A history, oldest first. An entry is an item's id, what someone did with it, or an item the catalogue has never seen.
history = [
    "item-0012",
    {"item_id": "item-0034", "rating": 5},
    {"title": "Wool scarf with stripes", "price": 30},  # with "image": "photo.jpg", if there is one
]
answers = recommend({"history": history}, top_k=5)
for answer in answers:
    print(f"{answer['score']:6.2f}  {answer['item_id']}  {answer['item']['title']}")

# Why the first?
explain = pipeline("unimp-explain", model=MODEL, trust_remote_code=True)
print(explain({"history": history, "item": answers[0]["item_id"]}))

# A live session reads only what is new; the answers are those of the pipeline.
session = recommend.start_session(history)
session.append(answers[0]["item_id"])
print([answer["item_id"] for answer in session.recommend(top_k=5)])

# Many people at once, each among what a shop has on offer today.
people = [{"history": [item_id]} for item_id in ("item-0001", "item-0002", "item-0003")]
on_offer = ["item-0005", "item-0006", "item-0007", "item-0008"]
for answers in recommend(people, batch_size=3, top_k=2, candidates=on_offer):
    print([answer["item_id"] for answer in answers])
