"""How much a score means: relevance in [0, 1], for one model on one collection.

A cosine says little by itself. CLIP's are low even where words and image agree, there is a best hit for
nonsense too, and both depend on the model, on the collection and on the kind of query. So a background of
queries (``background.txt``) is searched for in the collection, and the score of each one's best hit kept.
Those tell what the best hit of a query scores that nothing in the collection answers; relevance tells how
far a hit is above that.

- The more is said, the lower such scores: ``a lion`` comes closer to some image than ``a lion with an
  accordion on a ferry``. How general a query is, is its mean cosine to the background's texts; level and
  spread of the background's best scores are fitted as straight lines over it.
- The background may name what the collection shows. What cannot be there, because it is nonsense, cannot be
  seen, or is hardly ever seen together, is fitted first; of the everyday concepts those count that do not
  stand out against these.
- A hit ``z`` spreads above the level has the relevance whose odds are ``(1 - p) / p`` times those of one
  unrelated query in twenty, ``p`` being the normal tail beyond ``z``. At 0.5 it is as good as the best hit
  of that one in twenty. When the best hit is below 0.1, as two thirds of those of unrelated queries are,
  nothing matches.

It is a heuristic. It knows nothing but scores, so what the model takes for something else is relevant to it,
and what the model does not recognise is not. The idea of judging a score by those of a bank of other queries
is that of QB-Norm (Bogolin et al. 2022, arXiv:2112.12777) and CSLS (Conneau et al. 2018, arXiv:1710.04087);
they correct each image by it, where here the query is judged, so that the order of hits stays that of
their scores.
"""

from t2i_pipelines.search.relevance.calibration import Calibration
from t2i_pipelines.search.relevance.rating import rate

__all__ = ["Calibration", "rate"]
