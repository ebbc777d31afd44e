"""Insert on a Ray cluster, and embed inside a Ray or Spark job of your own.

::

    from t2i_pipelines.jobs.ray import embed_batch, insert_distributed

    insert_distributed("s3://bucket/photos", uri="http://milvus:19530", address="10.0.0.1:6379")
    dataset.map_batches(embed_batch)

Needs the extra ``ray``, and :func:`embed_batch` nothing; importing this does not import Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from t2i_pipelines.config.args import SettingsArgs
from t2i_pipelines.jobs.ray.work import embed_batch
from t2i_pipelines.pipelines.build import shows_settings
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Outcome

__all__ = ["embed_batch", "insert_distributed"]


@shows_settings
def insert_distributed(
    source: object,
    *,
    address: str | None = None,
    encoders: int | tuple[int, int] | None = None,
    gpus: float | None = None,
    writers: int = 2,
    readers: int = 4,
    report: InsertReport | None = None,
    progress: Callable[[Outcome], object] | None = None,
    **settings: Unpack[SettingsArgs],
) -> InsertReport:
    """Insert images on Ray: what :func:`~t2i_pipelines.build_insert_pipeline` does, on many machines.

    The same operators, divided among processes by Ray Data, which holds back those that are ahead::

        readers -> tasks: look up, read, decode -> encoders -> writers -> outcomes, here

    Every input ends with one outcome, in any order; ``report.failed`` is in the order of the source. What is
    stored and unchanged is not read. A task or an actor whose process dies is restarted, and a run that
    is killed is ended by the next: ids depend on nothing but the source, and a row replaces that of the same
    id, so what is done twice is there once. What was stored and then done again after a crash may end as
    ``unchanged``. Where several rows of a source have one id, one of them is stored.

    Memory here: the failures, all of which the report keeps, and of a list or an iterator some 260,000
    items at a time. Paths must mean the same on all machines; relative ones start here.

    :param source: as for :func:`~t2i_pipelines.build_insert_pipeline`. The tables or tars of many are read
        at the same time.
    :param address: of a Ray cluster, as ``ray.init`` takes it; None for ``RAY_ADDRESS``, else a Ray on this
        machine for this run. Where Ray runs in this process already, that is used.
    :param encoders: processes that hold the model, or (at least, at most) between which their number
        follows the load; None is one a machine at most, or with GPUs, one a GPU.
    :param gpus: of each encoder, 0.5 for two on one; None is 1 with ``device="cuda"``, else 0.
    :param writers: processes that write to Milvus; one where ``milvus-lite server`` answers.
    :param readers: parts of the source that are read at the same time.
    :param report: to be filled, in place of a new one.
    :param progress: called with each :class:`~t2i_pipelines.types.Outcome` as soon as it is known.
    :param settings: see :class:`t2i_pipelines.config.Settings`; ``decode_workers`` are those of each task,
        1 if None.
    :raises ConfigError: If a setting is wrong, or ``uri`` is a local file.
    :raises SourceError: If there is nothing to read.
    :raises MissingExtraError: If Ray Data is not installed.
    :raises ClusterError: If there is no Ray at ``address``, or it gives up.
    :raises StoreError: If Milvus does not answer, or refuses.
    """
    from t2i_pipelines.jobs.ray.run import run

    return run(
        source,
        address=address,
        encoders=encoders,
        gpus=gpus,
        writers=writers,
        readers=readers,
        report=report,
        progress=progress,
        settings=settings,
    )
