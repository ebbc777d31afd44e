"""The vectors of queries, against plain NumPy; those of the model `colour` are known by heart."""

import numpy as np
import pytest
from conftest import paint
from hypothesis import assume, given
from hypothesis import strategies as st

from t2i_pipelines import Img, Q, Searcher
from t2i_pipelines.errors import QueryError
from t2i_pipelines.testing import COLOURS


def unit(*parts: float) -> np.ndarray:
    return np.array(parts) / np.sqrt(sum(part * part for part in parts))


def by_hand(terms) -> np.ndarray | None:
    """normalize(sum_i w_i * normalize(x_i)) of colours, in float64; None where hardly anything is left."""
    total = sum(weight * unit(*COLOURS[name]) for weight, name in terms)
    length = np.sqrt((total**2).sum())
    return total / length if length > 1e-3 * sum(abs(weight) for weight, _ in terms) else None


class TestAlgebra:
    """Of words and images."""

    searcher = Searcher(model_name="colour", uri="never-opened.db")
    weights = st.floats(-100, 100).filter(lambda weight: abs(weight) > 1e-3)
    terms = st.lists(st.tuples(weights, st.sampled_from(sorted(COLOURS))), min_size=1, max_size=5)

    @staticmethod
    def query(terms, picture=lambda name: False):
        def operand(name):
            return (
                Img(np.full((2, 3, 3), COLOURS[name], np.uint8) * np.uint8(255)) if picture(name) else Q(name)
            )

        first, *rest = terms
        query = operand(first[1]) * first[0]
        for weight, name in rest:
            query = query + operand(name) * weight
        return query

    @given(terms, st.booleans())
    def test_the_vector_is_that_of_the_formula(self, terms, mixed):
        wanted = by_hand(terms)
        assume(wanted is not None)
        vector = self.searcher.embed(self.query(terms, lambda name: mixed and len(name) % 2))
        assert vector.dtype == np.float32
        assert vector == pytest.approx(wanted, abs=1e-5)

    @given(terms, st.randoms())
    def test_the_order_of_the_operands_does_not_matter(self, terms, random):
        assume(by_hand(terms) is not None)
        shuffled = random.sample(terms, len(terms))
        one, other = self.searcher.embed([self.query(terms), self.query(shuffled)])
        assert one == pytest.approx(other, abs=1e-5)

    @given(terms, st.floats(1e-3, 1e3))
    def test_a_weight_on_the_whole_changes_nothing_and_minus_turns_it_round(self, terms, weight):
        assume(by_hand(terms) is not None)
        query = self.query(terms)
        plain, weighed, turned = self.searcher.embed([query, query * weight, -query])
        assert weighed == pytest.approx(plain, abs=1e-5)
        assert turned == pytest.approx(-plain, abs=1e-5)

    @given(terms, terms, weights)
    def test_it_is_linear_before_the_last_normalization(self, left, right, weight):
        """Sums of sums are sums of the terms: (a + b) w = a w + b w."""
        together = [(w * weight, name) for w, name in left + right]
        assume(by_hand(together) is not None)
        one, other = self.searcher.embed(
            [(self.query(left) + self.query(right)) * weight, self.query(together)]
        )
        assert one == pytest.approx(other, abs=1e-5)

    def test_each_operand_is_normalised_before_it_is_weighed(self):
        """A white image's vector is longer than a red one's by the root of 3; in the query it is not."""
        vector = self.searcher.embed(Q("red") + "white")
        assert vector == pytest.approx(by_hand([(1, "red"), (1, "white")]), abs=1e-6)
        assert vector != pytest.approx(unit(2, 1, 1), abs=0.05)

    def test_huge_and_tiny_weights_keep_their_ratio(self):
        for scale in (1e300, 1e-300):
            vector = self.searcher.embed(Q("red") * scale - Q("blue") * (scale / 2))
            assert vector == pytest.approx(unit(1, 0, -0.5), abs=1e-6)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (Q("red") - "red", "the query red - red has no direction: the operands cancel each other out"),
            (Q("yellow") - Q("red") * 0.5**0.5 - Q("green") * 0.5**0.5, "cancel each other out"),
            (Q("red") * 0, r"the query red\^0 has no direction: all weights are 0"),
        ],
    )
    def test_what_cancels_out_is_refused(self, query, message):
        with pytest.raises(QueryError, match=message):
            self.searcher.embed(query)


def test_templates_average_the_unit_vectors_of_a_text_in_each(tmp_path):
    def embed(templates, query="red"):
        return Searcher(model_name="colour", uri=tmp_path / "none.db", templates=templates).embed(query)

    assert embed("blue and {}") == pytest.approx(unit(1, 0, 1), abs=1e-6)
    both = unit(1, 0, 1) + unit(1, 2, 2)
    assert embed(["blue and {}", "two cyan cyan {}"]) == pytest.approx(both / np.linalg.norm(both), abs=1e-6)
    assert embed((), "{} red {0} {x}") == pytest.approx(unit(1, 0, 0), abs=1e-6)
    assert embed("blue {}", Q("red") - "green") == pytest.approx(unit(1, -1, 0), abs=1e-6)
    paint(tmp_path / "red.png", "red")
    assert embed("blue {}", tmp_path / "red.png") == pytest.approx(unit(1, 0, 0), abs=1e-6), "texts alone"
