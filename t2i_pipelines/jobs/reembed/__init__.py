"""``reembed``: a collection's images embedded by another model, while searches go on.

::

    old collection -> rows -> Record -> run_insert -> new collection      all, then what changed meanwhile
    counts, self-search, recall on pairs -> the alias is moved -> what changed until then

:func:`roll_back` switches it back, and :func:`drop_old` deletes its earlier targets.
"""

from t2i_pipelines.jobs.reembed.run import Reembedding, drop_old, reembed, roll_back
from t2i_pipelines.jobs.reembed.work import Checks

__all__ = ["Checks", "Reembedding", "drop_old", "reembed", "roll_back"]
