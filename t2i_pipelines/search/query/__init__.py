"""What can be searched for: words, an image, a stored vector, and weighted sums of these.

::

    Q("golden retriever") * 2 + Img("pool.jpg") - "fruit"

The vector of a query with the weights w_i and the operands x_i is

    n(w_1 n(x_1) + w_2 n(x_2) + ...),    n(x) = x / ||x||

so that a weight means the same for words and images, whatever the lengths of a model's vectors, and the
result can be compared by cosine like any other. It is 3CosAdd of Levy and Goldberg 2014, "Linguistic
Regularities in Sparse and Explicit Word Representations", with weights; Kiros, Salakhutdinov and Zemel
2014 (arXiv:1411.2539) showed that it works across words and images.
"""

from t2i_pipelines.config.templates import PHOTO, filled, templates_of
from t2i_pipelines.search.query.algebra import Img, Like, Q, Query, query_of
from t2i_pipelines.search.query.blend import Blend, each_operand, replaced
from t2i_pipelines.search.query.line import parse
from t2i_pipelines.search.query.texts import check_text

__all__ = [
    "PHOTO",
    "Blend",
    "Img",
    "Like",
    "Q",
    "Query",
    "check_text",
    "each_operand",
    "filled",
    "parse",
    "query_of",
    "replaced",
    "templates_of",
]
