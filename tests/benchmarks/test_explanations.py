"""What is most often said, and who said it."""

import numpy as np
import pytest
from baselines.explanations import NearestReview, Template


@pytest.fixture
def reviews(make_data):
    def make(features=None):
        texts = ["Good. Soft wool.", "Soft wool. Warm!", None, "Too dear.", "Good."]
        return make_data([[0, 0, 0], [1, 1]], 3, features, texts=texts, ratings=[5, 3, 4, 1, np.nan])

    return make


def test_the_most_frequent_sentence(reviews):
    template = Template()
    template.fit(reviews())
    # Item 1 has two sentences once each: "Good." is the one that is said elsewhere too. Nobody wrote of item 2.
    assert template.explain(np.array([0, 1, 2]), np.zeros(3)) == ["Soft wool.", "Good.", "Good."]


def test_the_review_of_the_nearest_rating(reviews):
    nearest = NearestReview()
    nearest.fit(reviews())
    texts = nearest.explain(np.array([0, 0, 1, 2]), np.array([4.6, 3.9, 5.0, 1.2]))
    assert texts == ["Good. Soft wool.", "Soft wool. Warm!", "Too dear.", "Too dear."]


def test_an_item_nobody_wrote_of_takes_the_most_similar(reviews):
    nearest = NearestReview()
    nearest.fit(reviews({"text": np.array([[1.0, 0], [0, 1], [3, 1]])}))
    assert nearest.explain(np.array([2]), np.array([1.0])) == ["Soft wool. Warm!"]


@pytest.mark.parametrize("explainer", [Template(), NearestReview()])
def test_nobody_explains(make_data, explainer):
    with pytest.raises(ValueError, match="`train` has no explanation"):
        explainer.fit(make_data([[0]], 1))
