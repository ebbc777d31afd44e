"""What a search found: a list that can be looked at, kept, and gone on from."""

from t2i_pipelines.results.comparison import Comparison
from t2i_pipelines.results.hits import Hits

__all__ = ["Comparison", "Hits"]
