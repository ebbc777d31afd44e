"""``sync``: a collection that equals its source, with the collection as the only state.

::

    collection -> Inventory ─┐
    source -> records -> Plan ─┬─ unchanged, or failed
                               ├─ new, changed -> run_insert, with Twins that share vectors
                               └─ gone -> deleted, last
"""

from t2i_pipelines.jobs.sync.run import sync

__all__ = ["sync"]
