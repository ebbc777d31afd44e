"""A first load of a Milvus server by its own importer: images become Parquet files, which it reads.

::

    source -> read_source -> skip_unchanged -> prefetch -> image_decode -> clip -> normalize
                                                    ├─ new ids -> LocalBulkWriter -> files -> destination
                                                    └─ stored ids, changed -> upsert
    each file -> the server imports it -> its ids are looked up -> one outcome an input
"""

from t2i_pipelines.jobs.bulk.run import insert_bulk

__all__ = ["insert_bulk"]
