"""The loss, the pace and the batches of fine-tuning, each beside another implementation."""

import numpy as np
import pytest
import torch
from clips import open_clip
from transformers import get_cosine_schedule_with_warmup

from t2i_pipelines.errors import ConfigError, SourceError
from t2i_pipelines.finetune.clip import contrast
from t2i_pipelines.finetune.material import Mark, Material, Order, Truth
from t2i_pipelines.finetune.output import choose_alpha
from t2i_pipelines.finetune.trainer import HEAD_RATE, LARGE_RATE, SMALL_RATE, rate_at, safe_rate


def vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def by_hand(pictures, captions, truth, scale):
    """UniCL's equations 3 to 5 as loops over numbers, in float64."""
    u, v = np.float64(captions), np.float64(pictures)
    lengths = np.outer(np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1))
    logits = float(scale) * (u @ v.T) / lengths
    total = 0.0
    for some, true in ((logits, truth), (logits.T, truth.T)):
        rows = []
        for row, right in zip(some, true, strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            rows.append(
                -np.mean([np.log(share) for share, is_right in zip(shares, right, strict=True) if is_right])
            )
        total += np.mean(rows) / 2
    return total


def test_without_duplicates_it_is_the_loss_of_open_clip():
    pictures, captions, scale = vectors(6, 1), vectors(6, 2), torch.tensor(14.3)
    unit = [torch.nn.functional.normalize(one, dim=-1) for one in (pictures, captions)]
    wanted = open_clip.ClipLoss()(*unit, scale)
    torch.testing.assert_close(contrast(pictures, captions, torch.eye(6).bool(), scale), wanted)


def test_with_several_positives_it_is_what_the_equations_say():
    pictures, captions, scale = vectors(5, 3), vectors(3, 4), torch.tensor(7.0)
    truth = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]).bool()
    found = contrast(pictures, captions, truth, scale).item()
    assert found == pytest.approx(by_hand(pictures, captions, truth, scale), rel=1e-5)


def test_the_gradient_is_that_of_the_loss():
    pictures, captions = vectors(4, 5).double().requires_grad_(), vectors(3, 6).double().requires_grad_()
    truth = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda p, c: contrast(p, c, truth, torch.tensor(3.0).double()), (pictures, captions)
    )


def rows(*pairs) -> Material:
    return Material("pairs", np.array(pairs, np.int64))


def test_a_caption_that_occurs_twice_in_a_batch_is_true_of_both_pictures():
    material = rows((0, 0), (1, 0), (2, 1), (3, 2))
    (batch,) = Order(material, None, 4, 0.5, seed=0).batches(0, 1)
    assert (batch.images.tolist(), batch.captions.tolist()) == ([0, 1, 2, 3], [0, 1, 2])
    truth = Truth(material.rows)(batch.captions, batch.images)
    assert truth.tolist() == [
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    # what a perfect model gives, whose vectors of images are those of their captions, is no loss
    captions = torch.eye(16)[:3]
    perfect = contrast(captions[[0, 0, 1, 2]], captions, torch.from_numpy(truth), torch.tensor(100.0))
    as_negatives = torch.eye(4)[[0, 1, 2, 3]].bool()  # what a loss takes that knows one image a caption
    wrong = contrast(captions[[0, 0, 1, 2]], captions[[0, 0, 1, 2]], as_negatives, torch.tensor(100.0))
    # half of a caption's right images each: log 2, for one caption of three, in one of two directions
    assert perfect.item() == pytest.approx(np.log(2) / 6, abs=1e-4)
    assert wrong.item() == pytest.approx(np.log(2) / 2, abs=1e-4)


def test_a_pair_is_true_although_it_is_in_another_batch():
    truth = Truth(np.array([(0, 0), (1, 1), (1, 0), (7, 1)]))
    assert truth(np.array([0, 1]), np.array([0, 1, 7])).tolist() == [[True, True, False], [False, True, True]]


@pytest.mark.parametrize(("steps", "ratio"), [(1, 0.0), (1, 0.1), (10, 0.0), (40, 0.1), (37, 0.25), (5, 1.0)])
def test_the_pace_is_that_of_transformers(steps, ratio):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=0.02)
    rise = int(np.ceil(ratio * steps))
    theirs = get_cosine_schedule_with_warmup(optimiser, rise, steps + 1)
    for step in range(1, steps + 1):
        optimiser.step()
        theirs.step()
        ours = rate_at(step, steps, warmup_ratio=ratio, top=0.02)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        assert ours > 0


def test_large_models_learn_slowly_and_heads_fast():
    assert safe_rate(151_000_000, "all") == safe_rate(50_000_000, "image") == LARGE_RATE
    assert safe_rate(7_600_000, "text") == SMALL_RATE
    assert safe_rate(151_000_000, "heads") == HEAD_RATE


def test_an_epoch_passes_every_pair_once_in_batches_of_nearly_one_size():
    pairs = [(number, number % 5) for number in range(23)]
    order = Order(rows(*pairs), None, 10, 0.5, seed=3)
    assert order.steps_an_epoch == 3
    epochs = {1: [], 2: []}
    for batch in order.batches(0, 6):
        assert len(batch.images) in (7, 8)
        epochs[batch.epoch] += batch.images.tolist()
    assert sorted(epochs[1]) == sorted(epochs[2]) == list(range(23))
    assert epochs[1] != epochs[2]


def test_batches_follow_from_the_seed_and_the_step_alone():
    pairs = rows(*[(number, number) for number in range(30)])
    replay = rows(*[(number, number) for number in range(30, 90)])

    def told(seed, after=0):
        return [
            (one.step, one.images.tolist()) for one in Order(pairs, replay, 8, 0.5, seed).batches(after, 20)
        ]

    assert told(1) == told(1)
    assert told(1)[13:] == told(1, after=13)
    assert told(1) != told(2)


def test_replayed_pairs_have_their_share_of_each_batch():
    pairs, replay = rows(*[(n, n) for n in range(30)]), rows(*[(n, n) for n in range(30, 1000)])
    for batch in Order(pairs, replay, 12, 0.25, seed=0).batches(0, 8):
        assert (batch.images >= 30).sum() == 3
    with pytest.raises(ConfigError, match=r"replay_share=1\.0 leaves no room for the pairs in batches of 8"):
        Order(pairs, replay, 8, 1.0, seed=0)


@pytest.mark.parametrize(
    ("pairs", "what"), [([(0, 0), (0, 1)], "image"), ([(0, 0), (1, 0), (2, 0)], "caption")]
)
def test_one_picture_or_one_caption_teaches_nothing(pairs, what):
    with pytest.raises(
        SourceError, match=f"there is only one {what} to learn from.*different {what}s, or add some by"
    ):
        Order(rows(*pairs), None, 8, 0.5, seed=0)


class Told:
    """A stand-in for the scoring of pairs, whose model is told by one weight: alpha itself."""

    def __init__(self, clip, lost=None, recall=None):
        self.clip, self.lost, self.recall = clip, lost, recall

    def metrics(self, at):
        alpha = round(self.clip.weight, 6)
        return {"R@1": 0.9 - self.lost(alpha), "R@5": 1.0, "image to text R@1": 0.0}

    def mark(self, at):
        return Mark(self.recall(round(self.clip.weight, 6)), 0.0)


class OneWeight:
    def set(self, weights):
        self.weight = float(weights["one"])


@pytest.mark.parametrize(
    ("lost", "recall", "alpha"),
    [
        (lambda a: 0.0, lambda a: a, 1.0),  # nothing is lost
        (lambda a: 0.02, lambda a: a, 1.0),  # two points are allowed
        (lambda a: 0.1 * a, lambda a: a, 0.2),  # the first that loses no more
        (lambda a: 0.03 * a, lambda a: 1 - abs(a - 0.4), 0.4),  # less is better inside, too
        (lambda a: 0.1 + 0.1 * a, lambda a: a, 0.1),  # all lose too much: that which loses least
        (lambda a: 0.1 + 0.1 * abs(a - 0.5), lambda a: a, 0.5),
    ],
)
def test_alpha_is_the_largest_that_keeps_what_is_outside(lost, recall, alpha):
    clip = OneWeight()
    start, tuned = {"one": torch.zeros(())}, {"one": torch.ones(())}
    inside, outside = Told(clip, recall=recall), Told(clip, lost=lost)
    before = {"R@1": 0.9, "R@5": 1.0, "image to text R@1": 1.0}
    assert choose_alpha(clip, start, tuned, inside, outside, 5, before=before) == alpha


def test_loss_decides_where_recall_is_the_same():
    assert Mark(0.8, -1.0) > Mark(0.8, -1.2) > Mark(0.7, -0.1)
