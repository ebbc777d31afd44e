"""Import what moved to :mod:`t2i_pipelines.jobs.ray`."""

from t2i_pipelines.jobs.ray import embed_batch as embed_batch
from t2i_pipelines.jobs.ray import insert_distributed as insert_distributed
