"""How well a model finds the right images, and what an index loses of that.

::

    print(evaluate("data/gallery.csv", model_name="t2i_mini"))          # R@k, MRR, nDCG, mAP, with intervals
    evaluate(pairs, uri="milvus.db")                                    # and the same through Milvus
    evaluate_many(pairs, [{"precision": "fp32"}, {"precision": "int8"}]).plot()
    compare_to_published("clip_vit_base_patch32", "flickr30k")

Figures need the extra ``eval``; :class:`Pairs`, :func:`read_pairs` and :func:`first_ranks` do not.
"""

from t2i_pipelines.evaluate.index import IndexFigures
from t2i_pipelines.evaluate.metrics import METRICS, Metric, first_ranks
from t2i_pipelines.evaluate.pairs import Pairs
from t2i_pipelines.evaluate.publications import PublishedComparison, compare_to_published, published
from t2i_pipelines.evaluate.reading import Direction, read_pairs
from t2i_pipelines.evaluate.report import Evaluation, Speed
from t2i_pipelines.evaluate.run import evaluate, evaluate_vectors
from t2i_pipelines.evaluate.table import EvaluationTable, compare, evaluate_many

__all__ = [
    "METRICS",
    "Direction",
    "Evaluation",
    "EvaluationTable",
    "IndexFigures",
    "Metric",
    "Pairs",
    "PublishedComparison",
    "Speed",
    "compare",
    "compare_to_published",
    "evaluate",
    "evaluate_many",
    "evaluate_vectors",
    "first_ranks",
    "published",
    "read_pairs",
]
