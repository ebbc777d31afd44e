"""What a search found: a list that can be looked at, kept, and gone on from."""

from t2i_pipelines.search.results.comparison import Comparison
from t2i_pipelines.search.results.hits import Hits
from t2i_pipelines.search.results.many import ManyHits

__all__ = ["Comparison", "Hits", "ManyHits"]
