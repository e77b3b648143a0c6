"""SASRec and BERT4Rec: what they see, what they are taught, and that they learn."""

import numpy as np
import pytest
import torch
from baselines.ranking import fit, rank
from baselines.sequential import BERT4Rec, SASRec, SASRecHybrid, cut_windows
from baselines.stopping import BestState
from baselines.transformer import ItemTransformer, catalogue_cross_entropy

SMALL = {"width": 16, "dropout": 0.0, "learning_rate": 1e-2, "batch_tokens": 64}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ItemTransformer(num_items=7, width=8, layers=2, heads=2, dropout=0.0, window=6).eval()


def test_a_causal_network_cannot_see_the_future(network):
    items = torch.tensor([[1, 2, 3, 4, 5]])
    real = torch.ones_like(items, dtype=torch.bool)
    before = network(items, real, causal=True)
    items[0, 3] = 6
    after = network(items, real, causal=True)
    torch.testing.assert_close(after[:, :3], before[:, :3], rtol=0, atol=0)
    assert (after[:, 3:] - before[:, 3:]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("ranker", [SASRec(window=6), BERT4Rec(window=6)], ids=["sasrec", "bert4rec"])
def test_padding_changes_no_score(network, make_events, ranker):
    ranker.network, ranker.num_items = network, 7
    together = ranker.score(make_events([[1], [1, 2, 3, 4, 5], [], [5, 6, 5, 4, 3, 2, 1, 0]]))
    for row, history in enumerate(([1], [1, 2, 3, 4, 5], [])):
        np.testing.assert_allclose(ranker.score(make_events([history]))[0], together[row], atol=1e-5)
    longest_read = [5, 4, 3, 2, 1, 0] if isinstance(ranker, SASRec) else [4, 3, 2, 1, 0]
    np.testing.assert_allclose(ranker.score(make_events([longest_read]))[0], together[3], atol=1e-5)


def test_the_fused_loss_is_cross_entropy():
    torch.manual_seed(0)
    states = [torch.randn(300, 4), torch.randn(9, 4), torch.randn(9)]  # more rows than are in memory at a time
    targets, weights = torch.randint(9, (300, 3)), torch.rand(300, 3)
    weights[::2, 1:] = 0
    results = []
    for loss_of in (catalogue_cross_entropy, _naive_loss):
        leaves = [tensor.clone().requires_grad_() for tensor in states]
        loss = loss_of(*leaves, targets, weights)
        results.append([loss, *torch.autograd.grad(3 * loss, leaves)])
    for fused, naive in zip(*results, strict=True):
        torch.testing.assert_close(fused, naive, rtol=1e-4, atol=1e-6)


def _naive_loss(hidden, weight, bias, targets, weights):
    logs = (hidden @ weight.T + bias).log_softmax(1)
    return -(weights * logs.gather(1, targets)).sum() / weights.sum()


def test_short_rows_train_the_place_that_requests_ask_in(make_events):
    ranker = SASRec(window=50, dropout=0.0)
    ranker.num_items = 9
    ranker.network = ItemTransformer(num_items=9, width=8, layers=1, heads=2, dropout=0.0, window=50)
    events = make_events([[user, 3, 5, (user + 1) % 9] for user in range(6)])
    start, stop = cut_windows(events, 50, np.random.default_rng(0))
    ranker._loss(events, start, stop, np.random.default_rng(0)).backward()
    trained = ranker.network.positions.weight.grad.any(dim=1)
    assert trained[:3].all()
    assert not trained[3:].any()


def test_the_loss_of_the_next_three(make_events):
    weights = (1.0, 0.4, 0.16)
    ranker = SASRec(window=6, loss_weights=weights, dropout=0.0)
    ranker.num_items = 7
    ranker.network = ItemTransformer(num_items=7, width=8, layers=1, heads=2, dropout=0.0, window=6)
    rows = [[0, 1, 2, 3, 4], [5, 6, 5]]
    events = make_events(rows)
    # The first row is cut after two items: the third is still what comes after the next of the first.
    start, stop = np.array([0, 2, 5]), np.array([2, 5, 8])
    total = divisor = 0.0
    for row, window in ((rows[0], (0, 2)), (rows[0], (2, 5)), (rows[1], (0, 3))):
        window = (window[0], min(window[1], len(row) - 1))  # after a row's last item comes nothing: it is not read
        items = torch.tensor([row[slice(*window)]])
        hidden = ranker.network(items, torch.ones_like(items, dtype=torch.bool), causal=True)[0]
        logs = ranker.network.logits(hidden).log_softmax(1)
        for place in range(*window):
            for step, weight in enumerate(weights, start=1):
                if place + step < len(row):
                    total = total - weight * logs[place - window[0], row[place + step]]
                    divisor += weight
    loss = ranker._loss(events, start, stop, np.random.default_rng(0))
    torch.testing.assert_close(loss, total / divisor)


def test_bert4rec_hides_what_it_asks_for(make_events):
    ranker = BERT4Rec(window=6, hidden_share=0.0)  # one a window, none by chance
    ranker.num_items = 7
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, items, real, causal):
            seen.append((items, real, causal))
            return torch.zeros(*items.shape, 1)

        def loss(self, hidden, targets, weights):
            seen.append((targets, weights))

    ranker.network = Spy()
    events = make_events([[0, 1, 2], [3, 4]])
    ranker._loss(events, np.array([0, 3]), np.array([3, 5]), np.random.default_rng(0))
    (items, real, causal), (targets, weights) = seen
    assert not causal
    assert real.tolist() == [[True] * 3, [True, True, False]]
    assert weights.tolist() == [[1], [1]]
    for row, (target, original) in enumerate(zip(targets[:, 0].tolist(), ([0, 1, 2], [3, 4]), strict=True)):
        hidden = [7 if item == target else item for item in original]
        assert items[row, : len(original)].tolist() == hidden


def test_windows_cover_every_row_once(make_events):
    events = make_events([list(range(10)), [1], [1, 2], list(range(4))])
    firsts = set()
    for seed in range(30):
        start, stop = cut_windows(events, 4, np.random.default_rng(seed))
        assert (stop - start).max() <= 4
        covered = np.concatenate([np.arange(low, high) for low, high in zip(start, stop, strict=True)])
        assert covered.tolist() == [*range(10), *range(11, 17)]  # the row of one event teaches no order
        firsts.add(int(stop[0]))
    assert firsts == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "ranker",
    [
        SASRec(**SMALL, epochs=15),
        SASRec(**SMALL, epochs=15, loss_weights=(1.0, 0.4, 0.16)),
        BERT4Rec(**SMALL, epochs=45),
    ],
    ids=["sasrec", "sasrec_next_three", "bert4rec"],
)
def test_a_cycle_is_learned(cycle, ranker):
    fit(ranker, cycle, seed=0)
    assert (rank(ranker, cycle.test) == 1).mean() > 0.9


def test_the_same_seed_gives_the_same_scores(cycle):
    scores = []
    for seed in (3, 3, 4):
        ranker = SASRec(**SMALL | {"dropout": 0.1}, epochs=2)
        fit(ranker, cycle, seed)
        scores.append(ranker.score(cycle.test.rows(0, 5)))
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_likeness_of_texts_and_choices_stands_beside_what_is_learned(make_data, make_events):
    features = {"text": np.array([[2.0, 0.0], [0.0, 2.0], [0.0, -2.0], [0.0, 0.0]])}  # deviations from [2/3, 0]
    data = make_data([[0, 1, 2, 3], [1, 2, 3, 0]], 4, features)
    settings = SMALL | {"epochs": 1, "window": 4}
    scores, histories = {}, make_events([[1, 0], [3]])
    for weight, neighbours in ((0.0, 0.0), (3.0, 0.0), (0.0, 5.0)):
        ranker = SASRecHybrid(**settings, similarity=weight, decay=0.5, neighbours=neighbours)
        ranker.fit(data)
        scores[weight or neighbours] = ranker.score(histories)
    apart = -1 / 10**0.5  # the cosine of [4/3, 0] and [-2/3, +-2]
    likeness = [1 + 0.5 * apart, apart + 0.5, apart - 0.5 * 0.8, 0.0]
    np.testing.assert_allclose((scores[3.0] - scores[0.0])[0], [3 * value for value in likeness], atol=1e-5)
    np.testing.assert_allclose(scores[3.0][1], scores[0.0][1])  # an item of which nothing is known
    chosen = ranker.item_knn.score(histories)
    assert chosen.any()
    np.testing.assert_allclose(scores[5.0] - scores[0.0], 5 * chosen, atol=1e-5)


def test_nobody_with_two_events(make_data):
    with pytest.raises(ValueError, match="no user of two events"):
        SASRec().fit(make_data([[0], [1]], 2))


def test_the_best_weights_stay():
    module = torch.nn.Linear(1, 1, bias=False)
    figures = iter([1.0, 3.0, 2.0, 3.0, 9.0])
    best = BestState(module, lambda: next(figures), patience=2)
    stops = []
    for value in (1.0, 2.0, 3.0, 4.0):
        torch.nn.init.constant_(module.weight, value)
        stops.append(best.stop())
    best.restore()
    assert stops == [False, False, False, True]
    assert module.weight.item() == 2.0
