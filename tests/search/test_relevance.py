"""What makes a score relevant: the fit to the background, and the number that people see."""

from statistics import NormalDist

import numpy as np
import pytest

from t2i_pipelines.config.search import SearchOptions
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.search import relevance
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.relevance import Calibration, background, calibrate
from t2i_pipelines.types import Hit

LABELS = {"rows": 100, "background": "b", "weights": "w"}


def made_for(level=(0.2, 0.1), spread=(0.03, -0.02), general=(0.0, 1.0)) -> Calibration:
    """A calibration whose generality is the first number of a query."""
    return Calibration(100, "b", "w", np.array([1, 0], np.float32), general, level, spread, floor=0.005)


def asked(generality: float) -> np.ndarray:
    return np.array([generality, np.sqrt(1 - generality**2)], np.float32)


def world(*, there: float, everyday=200, elsewhere=300, above=0.35, seed=0):
    """A background with known lines, of which some everyday concepts are in the collection.

    Queries differ in their generality alone: every vector is (g, sqrt(1 - g^2)) turned into a random plane.
    """
    rng = np.random.default_rng(seed)
    count = everyday + elsewhere
    generality = rng.uniform(0.1, 0.8, count)
    rest = rng.normal(size=(count, 400))
    rest -= rest.mean(axis=0)  # then the mean of all vectors lies along the first axis
    rest *= np.sqrt(1 - generality**2)[:, None] / np.linalg.norm(rest, axis=1, keepdims=True)
    texts = np.column_stack([generality, rest]).astype(np.float32)
    at = texts @ texts.mean(axis=0)
    tops = 0.2 + 0.3 * at + rng.normal(size=count) * (0.05 - 0.06 * at)
    tops[: round(there * everyday)] += above
    return texts[:everyday], texts[everyday:], tops, at


def test_relevance_is_the_odds_of_the_tail_against_one_query_in_twenty():
    calibration = made_for()
    normal = NormalDist()
    rare = 1 - normal.cdf(1.645)
    assert 1 / rare == pytest.approx(20, abs=0.05)
    level, spread = 0.2 + 0.1 * 0.5, 0.03 - 0.02 * 0.5
    for z in (-3, -1, 0, 0.5, 1.645, 2, 4):
        beyond = 1 - normal.cdf(z)
        odds = (1 - beyond) / beyond * rare / (1 - rare)
        (found,) = calibration.relevance(asked(0.5), [level + z * spread])
        assert found == pytest.approx(odds / (1 + odds), rel=1e-4)
        if z == 1.645:
            assert found == pytest.approx(0.5)


def test_relevance_is_in_0_to_1_and_never_falls_as_the_score_rises():
    scores = np.linspace(-1, 1, 1001)
    relevance = made_for().relevance(asked(0.3), scores)
    assert relevance == sorted(relevance)
    assert (relevance[0], relevance[-1]) == (0, 1)


@pytest.fixture
def rated(monkeypatch):
    """Hits of these scores, found by words of generality 0.5, as they are given relevance."""
    monkeypatch.setattr(relevance, "calibration_of", lambda collection, encoder: made_for())

    def rate(scores, length=1.0, **options):
        hits = Hits([Hit(str(score), score, "a.jpg") for score in scores], query="words")
        relevance.rate([hits], length * asked(0.5)[None], SearchOptions(**options), None, lambda: None)
        return hits

    return rate


def test_of_a_later_page_nobody_knows_that_nothing_matches(rated):
    assert rated([0.4, 0.2]).no_match is False
    assert rated([0.4, 0.2], offset=1).no_match is False
    assert rated([0.2, 0.1]).no_match is True
    assert rated([0.2, 0.1], offset=1).no_match is None


def test_whether_something_matches_is_told_before_hits_are_left_out(rated):
    hits = rated([0.29, 0.2], min_relevance=0.99)
    assert (list(hits), hits.no_match) == ([], False)
    assert 0.5 < rated([0.29])[0].relevance < 0.99


def test_a_vector_of_any_length_is_judged_by_its_direction(rated):
    known, longer = rated([0.29, 0.27, 0.2]), rated([0.29, 0.27, 0.2], length=10)
    assert [hit.relevance for hit in longer] == pytest.approx([hit.relevance for hit in known], abs=1e-6)


def test_a_query_beyond_the_background_is_judged_as_its_nearest():
    calibration = made_for(general=(0.2, 0.6))
    for outside, nearest in ((0.05, 0.2), (0.9, 0.6), (-0.5, 0.2)):
        assert calibration.standing_out(outside, 0.3) == calibration.standing_out(nearest, 0.3)


def test_the_spread_has_a_floor_where_its_line_falls_too_low():
    falling = made_for(level=(0.2, 0), spread=(0.03, -0.1))
    assert falling.standing_out(0.1, 0.22) == pytest.approx(1)
    assert falling.standing_out([0.27, 0.9], 0.205) == pytest.approx([1, 1])


def test_the_lines_are_those_that_the_scores_were_made_from():
    everyday, elsewhere, tops, _ = world(there=0)
    calibration = calibrate(everyday, elsewhere, tops, **LABELS)
    assert calibration.level == pytest.approx((0.2, 0.3), abs=0.02)
    assert calibration.spread == pytest.approx((0.05, -0.06), abs=0.015)
    assert calibration.general == pytest.approx((0.045, 0.36), abs=0.02)


def test_a_few_queries_that_are_answered_after_all_change_little():
    everyday, elsewhere, tops, _ = world(there=0)
    tops[200::15] += 0.5
    calibration = calibrate(everyday[:0], elsewhere, tops[200:], **LABELS)
    assert calibration.level == pytest.approx((0.2, 0.3), abs=0.03)
    middle = calibration.spread[0] + 0.2 * calibration.spread[1]
    assert 0.03 < middle < 0.05


@pytest.mark.parametrize("there", [0.1, 0.5, 1.0])
def test_that_the_collection_shows_what_the_background_names_makes_nothing_no_match(there):
    everyday, elsewhere, tops, at = world(there=there)
    calibration = calibrate(everyday, elsewhere, tops, **LABELS)
    shown = round(there * len(everyday))
    scores = calibration.standing_out(at, tops)
    assert scores[:shown].min() > 1.645
    assert (scores[shown:] > 1.645).mean() == pytest.approx(0.05, abs=0.03)


def test_everyday_concepts_that_are_not_there_count():
    """Nonsense scores lower with some models; a word that could have been there is the fairer measure."""
    everyday, elsewhere, tops, _ = world(there=1, above=0.03)
    known = calibrate(everyday[:0], elsewhere, tops[200:], **LABELS)
    assert calibrate(everyday, elsewhere, tops, **LABELS).level[0] > known.level[0] + 0.005


def test_a_model_that_tells_nothing_apart_is_not_calibrated():
    texts = np.tile(np.array([[0.6, 0.8]], np.float32), (60, 1))
    assert calibrate(texts[:20], texts[20:], [0.3] * 60, **LABELS) is None


def test_what_is_stored_is_what_is_read():
    everyday, elsewhere, tops, _ = world(there=0.2)
    calibration = calibrate(everyday, elsewhere, tops, **LABELS)
    again = Calibration.from_json(calibration.to_json())
    assert again.to_json() == calibration.to_json()
    query = everyday[7]
    assert again.relevance(query, [0.1, 0.4]) == calibration.relevance(query, [0.1, 0.4])
    assert (again.rows, again.background, again.weights) == (100, "b", "w")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 1}',
        made_for().to_json().replace('"version": 1', '"version": 2'),
        made_for().to_json().replace('"rows"', '"lines"'),
    ],
)
def test_what_another_version_stored_is_not_taken(text):
    assert Calibration.from_json(text) is None


def test_the_background_is_several_hundred_different_queries():
    everyday, elsewhere = background()
    assert len(everyday) >= 100
    assert len(elsewhere) >= 150
    assert len({*everyday, *elsewhere}) == len(everyday) + len(elsewhere)
    assert not [text for text in (*everyday, *elsewhere) if text != text.strip() or text.startswith("[")]


@pytest.mark.filterwarnings("error")
def test_no_query_of_the_background_is_too_long_for_a_model():
    """The bundled model reads 32 tokens, CLIP 77."""
    everyday, elsewhere = background()
    vectors = load_encoder("t2i_mini").encode_texts([*everyday, *elsewhere])
    assert np.linalg.norm(vectors, axis=1).min() > 0
