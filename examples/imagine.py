"""
Imagine: draw what was asked, in the taste of who asks.

    unimp quickstart --imagine        # once: outputs/quickstart learns to draw
    python examples/imagine.py
"""

import torch

from unimp import UniMPImagePipeline

imagine = UniMPImagePipeline.from_pretrained("outputs/quickstart/imagine")

result = imagine(
    history=["item-0012", "item-0034", "item-0056"],
    query="striped bag",
    alpha=0.5,  # from 0, true to the request, to 1, true to their taste
    num_candidates=5,
    generator=torch.Generator().manual_seed(0),  # the same seed draws the same
)
result.image.save("imagined.png")

print("asked for:", ", ".join(result.target_keywords))
print("they like:", ", ".join(result.preference_keywords))
print("found for them:", ", ".join(answer["item_id"] for answer in result.retrieved))
for candidate, score in zip(result.candidates, result.scores(0.5), strict=True):
    print(f"{candidate.weighting:.0%} taste, changed from {candidate.start}, score {score:.2f}")

# Another alpha chooses anew among what is drawn already.
result.choose(alpha=1.0).image.save("imagined-in-their-taste.png")
