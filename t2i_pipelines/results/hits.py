"""The hits of one query."""

from __future__ import annotations

from t2i_pipelines.hit import Hit


class Hits(list[Hit]):
    """The hits of one query, best first. A list of :class:`~t2i_pipelines.hit.Hit`.

    :ivar query: what was searched for, as it was given.
    :ivar no_match: nothing stands out from what any query would find; None where nothing was calibrated.
    """

    query: object = None
    no_match: bool | None = None
