"""
Search: the same words for anyone, and with a person's taste in mind; then let the model choose.

    unimp quickstart        # once: makes outputs/quickstart
    python examples/search.py
"""

from transformers import pipeline

MODEL = "outputs/quickstart"
QUERY = "striped scarf"

search = pipeline("unimp-search", model=MODEL, trust_remote_code=True)
history = ["item-0012", "item-0034", "item-0056"]

for_anyone = search({"history": [], "query": QUERY}, top_k=5)
for_them = search({"history": history, "query": QUERY}, top_k=5)
for name, answers in (("for anyone", for_anyone), ("for them", for_them)):
    print(name)
    for answer in answers:
        print(f"{answer['score']:6.2f}  {answer['item_id']}  {answer['item']['title']}")

# Which of what was found would they take?
select = pipeline("unimp-select", model=MODEL, trust_remote_code=True)
candidates = [answer["item_id"] for answer in for_anyone[:3]]
for answer in select({"history": history, "candidates": candidates}):
    print("They would take", answer["item_id"])
