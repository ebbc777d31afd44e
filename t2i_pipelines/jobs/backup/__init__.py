"""A collection as a folder of Parquet files, and back: backups, and moves from one Milvus to another.

::

    collection -> pages -> t2i-00000.parquet, t2i-00001.parquet, ...   then _manifest.json, at once
    _manifest.json -> files, each checked -> upsert -> every row read again and compared

``pandas.read_parquet(folder)`` reads it, and so does Milvus's own importer; see
:mod:`t2i_pipelines.jobs.backup.parquet` for the columns and :mod:`t2i_pipelines.jobs.backup.folder` for the
rest.
"""

from t2i_pipelines.jobs.backup.folder import Manifest
from t2i_pipelines.jobs.backup.run import export_collection, import_collection

__all__ = ["Manifest", "export_collection", "import_collection"]
