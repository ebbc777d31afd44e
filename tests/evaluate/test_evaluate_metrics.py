"""Every figure against numbers worked out by hand, and against scikit-learn."""

import importlib.util
import math
from itertools import permutations

import numpy as np
import pytest

from t2i_pipelines.errors import ConfigError, MissingExtraError, VectorError
from t2i_pipelines.evaluate import METRICS, Pairs, evaluate_vectors, first_ranks
from t2i_pipelines.evaluate.metrics import Bootstrap, check_metric, judged, shown
from t2i_pipelines.evaluate.reading import Embedded, measure

FEW = Bootstrap(resamples=10)


def pairs_of(shown: list[list[int]], pictures: int, classes: list[str] | None = None) -> Pairs:
    names = tuple(f"/{number}.png" for number in range(pictures))
    texts = tuple(f"text {number}" for number in range(len(shown)))
    return Pairs(
        names, texts, tuple(map(tuple, shown)), None if classes is None else tuple(classes), name="made"
    )


def vectors_of(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts and images of length 1 whose cosines are these scores, each below 1 / sqrt(N)."""
    pictures = scores.shape[1]
    rest = np.sqrt(1 - (scores**2).sum(axis=1))
    texts = np.hstack([scores, rest[:, None]])
    return texts.astype(np.float32), np.eye(pictures, pictures + 1, dtype=np.float32)


def text_to_image(scores: np.ndarray, shown: list[list[int]]):
    texts, pictures = vectors_of(scores)
    pairs = pairs_of(shown, scores.shape[1])
    return measure("text->image", pairs, Embedded.whole(texts), Embedded.whole(pictures), FEW)


def test_figures_are_those_worked_out_by_hand():
    # 12 images in the order of their numbers; right are the 2nd, 5th and 12th, the 11th, and the 1st
    scores = np.tile(np.linspace(0.24, 0.02, 12), (3, 1))
    found = text_to_image(scores, [[1, 4, 11], [10], [0]])
    assert found.ranks.tolist() == [2, 11, 1]
    by_hand = {
        "R@1": [0, 0, 1],
        "R@5": [1, 0, 1],
        "R@10": [1, 0, 1],
        "P@10": [0.2, 0, 0.1],
        "MRR": [1 / 2, 1 / 11, 1],
        "nDCG@10": [
            (1 / math.log2(3) + 1 / math.log2(6)) / (1 + 1 / math.log2(3) + 1 / math.log2(4)),
            0,
            1,
        ],
        "mAP@10": [(1 / 2 + 2 / 5) / 3, 0, 1],
        "median rank": [2, 11, 1],
    }
    assert tuple(found.metrics) == METRICS
    for name, values in by_hand.items():
        assert found.per_query[name] == pytest.approx(values), name
    assert found["R@5"].value == pytest.approx(2 / 3)
    assert found["median rank"].value == 2
    assert found.queries == 3


def test_average_precision_of_a_large_class_can_reach_one():
    # 20 right ones, the best ten all right: TREC's map_cut_10 would be a half
    assert judged([list(range(10))], [list(range(20))])["mAP@10"].tolist() == [1.0]
    assert judged([[0, 90, 1]], [list(range(20))])["mAP@10"].tolist() == pytest.approx([(1 + 2 / 3) / 10])


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_scikit_learn(seed):
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    # steps far above the six decimals to which cosines count
    scores = rng.permuted(np.tile(np.linspace(-0.15, 0.15, 40), (60, 1)), axis=1)
    shown = [sorted(rng.choice(40, rng.integers(1, 15), replace=False).tolist()) for _ in range(60)]
    right = np.zeros((60, 40), int)
    for row, numbers in enumerate(shown):
        right[row, numbers] = 1
    found = text_to_image(scores, shown)
    order = np.argsort(-scores, axis=1)[:, :10]
    for row in range(60):
        best = right[row, order[row]]
        assert found.per_query["nDCG@10"][row] == pytest.approx(
            metrics.ndcg_score(right[[row]], scores[[row]], k=10)
        )
        precision = metrics.average_precision_score(best, np.arange(10, 0, -1)) if best.any() else 0
        assert found.per_query["mAP@10"][row] == pytest.approx(
            precision * best.sum() / min(10, right[row].sum())
        )
        assert found.per_query["P@10"][row] == pytest.approx(best.mean())


def test_recall_and_reciprocal_rank_are_those_of_scikit_learn():
    from sklearn import metrics

    rng = np.random.default_rng(7)
    scores = rng.permuted(np.tile(np.linspace(-0.15, 0.15, 40), (100, 1)), axis=1)
    own = rng.integers(0, 40, 100)
    found = text_to_image(scores, [[int(one)] for one in own])
    for k in (1, 5, 10):
        asked = metrics.top_k_accuracy_score(own, scores, k=k, labels=range(40))
        assert found[f"R@{k}"].value == pytest.approx(asked)
    right = np.eye(40)[own]
    assert found["MRR"].value == pytest.approx(metrics.label_ranking_average_precision_score(right, scores))


@pytest.mark.slow
def test_of_equal_cosines_the_right_ones_come_last():
    from sklearn import metrics

    # whatever order equals are put in, no figure is lower than ours
    levels = np.array([0.2, 0.2, 0.1, 0.1, 0.1, 0.0, 0.0])
    right = [1, 3, 6]
    found = text_to_image(levels[None], [right])
    truth = np.isin(np.arange(7), right).astype(int)
    worst = {"MRR": [], "nDCG@10": [], "mAP@10": []}
    for first in permutations(range(7)):
        broken = levels - np.array(first) * 1e-4
        worst["nDCG@10"].append(metrics.ndcg_score(truth[None], broken[None]))
        worst["mAP@10"].append(metrics.average_precision_score(truth, broken))
        worst["MRR"].append(1 / (1 + np.flatnonzero(truth[np.argsort(-broken)])[0]))
    for name, values in worst.items():
        assert found.per_query[name][0] == pytest.approx(min(values)), name
        assert max(values) > min(values)


def test_a_model_that_sees_no_difference_finds_nothing_first():
    same = np.tile(np.float32([0.3, 0.4, 0.5]), (50, 1))
    assert first_ranks(same, same, [[number] for number in range(50)]).tolist() == [50] * 50


def test_bits_of_a_matrix_product_decide_nothing():
    # equal but for the seventh decimal
    gallery = np.float32([[1, 0, 0], [1, 5e-4, 0], [0, 1, 0]])
    cosines = gallery / np.linalg.norm(gallery, axis=1, keepdims=True) @ np.float32([1, 0, 0])
    assert cosines[0] != cosines[1]
    assert first_ranks(np.float32([[1, 0, 0]]), gallery, [[0]]).tolist() == [2]


def test_length_means_nothing_and_any_right_one_counts():
    gallery = np.float32([[0, 9], [3, 3], [0.1, 0]])
    queries = np.float32([[5, 0], [0, 0.2]])
    assert first_ranks(queries, gallery, [[0, 1], [0]]).tolist() == [2, 1]


def test_ranks_do_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(30, 8)), rng.normal(size=(20, 8))
    right = [[number % 20] for number in range(30)]
    once = first_ranks(queries, gallery, right)
    monkeypatch.setattr("t2i_pipelines.evaluate.metrics.BLOCK", 45)
    assert first_ranks(queries, gallery, right).tolist() == once.tolist()


def test_pictures_of_one_class_are_right_for_each_other_and_none_for_itself():
    vectors = np.float32([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]])
    pairs = pairs_of([[0]], 5, ["a", "a", "b", "a", "c"])
    pictures = Embedded.whole(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    found = measure("image->image", pairs, pictures, pictures, FEW)
    assert found.numbers.tolist() == [0, 1, 3]  # nothing is right for the only one of its class
    assert found.ranks.tolist() == [1, 1, 3]
    assert all(number not in row for number, row in zip(found.numbers, found.found, strict=True))
    assert found.per_query["mAP@10"] == pytest.approx([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 3 + 2 / 4) / 2])


def test_for_a_picture_any_of_its_texts_is_right():
    texts = np.float32([[1, 0], [0, 1], [0.5, 1]])
    pictures = np.float32([[1, 0.1], [0, 1]])
    found = evaluate_vectors(pairs_of([[0], [1], [0]], 2), texts, pictures, resamples=10)
    assert found["image->text", "R@1"].value == 1
    assert found.directions["image->text"].right == [[0, 2], [1]]


def test_what_failed_counts_as_not_found():
    # of three images the first has no vector: its text finds nothing, and it finds no text
    pairs = pairs_of([[0], [1], [0, 2]], 3)
    pictures = Embedded(np.float32([[1, 0], [0, 1]]), np.array([1, 2]), 3)
    texts = Embedded(np.float32([[1, 0], [1, 0]]), np.array([0, 1]), 3)
    found = measure("text->image", pairs, texts, pictures, FEW)
    assert found.ranks.tolist() == [4, 1, 4]
    assert found.per_query["MRR"].tolist() == [0, 1, 0]
    assert found.per_query["R@10"].tolist() == [0, 1, 0]
    assert found.best.tolist() == [-1, 1, -1]
    assert found.found[1, :3].tolist() == [1, 2, -1]
    assert found.per_query["R@1"].tolist() == [0, 1, 0]
    back = measure("image->text", pairs, texts, pictures, FEW)
    assert back.per_query["R@10"].tolist() == [0, 1, 0]


def test_intervals_are_as_wide_as_theory_says():
    values = np.repeat([0.0, 1.0], 500)
    low, high = Bootstrap(resamples=5000).interval(values)
    width = 2 * 1.96 * math.sqrt(0.25 / 1000)
    assert high - low == pytest.approx(width, rel=0.05)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.005)
    narrow = Bootstrap(confidence=0.5, resamples=5000).interval(values)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.6745 * math.sqrt(0.25 / 1000), rel=0.05)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    assert Bootstrap(seed=3).interval(values) == Bootstrap(seed=3).interval(values)
    assert Bootstrap(seed=3).interval(values) != Bootstrap(seed=4).interval(values)


def test_one_query_has_no_interval():
    one = Bootstrap().metric("R@1", np.array([1.0]))
    assert math.isnan(one.low)
    assert shown(one) == "100.0 %"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"confidence": 1}, "confidence must be between 0 and 1, as 0.95, got 1"),
        ({"resamples": 3}, "resamples must be between 10 and 100000, got 3"),
        ({"seed": -1}, "seed must be between 0 and 4294967295, got -1"),
    ],
)
def test_wrong_settings_of_the_bootstrap_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        Bootstrap(**setting)


@pytest.mark.parametrize(
    ("queries", "gallery", "right", "error", "message"),
    [
        (
            [[0.0, 0.0]],
            [[1, 0]],
            [[0]],
            VectorError,
            "the vector of query 0 has no direction: its length is 0.0",
        ),
        ([[1, 0]], [[np.nan, 0]], [[0]], VectorError, "the vector of image 0 has no direction: .* nan"),
        ([[1, 0]], [[1, 0, 0]], [[0]], VectorError, "queries have 2 dimensions, and images 3"),
        ([[1, 0]], [[1, 0]], [[]], ConfigError, "each of 1 queries needs at least one right image"),
        ([1, 0], [[1, 0]], [[0]], VectorError, r"query vectors are an \(N, D\) matrix .* shape \(2,\)"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(queries, gallery, right, error, message):
    with pytest.raises(error, match=message):
        first_ranks(np.float32(queries), np.float32(gallery), right)


def test_a_figure_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match="metric must be one of R@1, R@5, .* median rank, got 'R@7'"):
        check_metric("R@7", through_index=False)
    with pytest.raises(
        ConfigError, match="metric of what an index finds must be one of .* mAP@10, got 'MRR'"
    ):
        check_metric("MRR", through_index=True)


def test_without_the_extra_one_sentence_names_it(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "t2i_pipelines.evaluate.metrics.find_spec",
        lambda name: None if name == "ir_measures" else found(name),
    )
    with pytest.raises(
        MissingExtraError, match=r"ir_measures is not installed; run: pip install 't2i-.*\[eval\]'"
    ):
        evaluate_vectors(pairs_of([[0]], 1), np.ones((1, 2)), np.ones((1, 2)))
    assert first_ranks(np.ones((1, 2)), np.ones((1, 2)), [[0]]).tolist() == [1]
