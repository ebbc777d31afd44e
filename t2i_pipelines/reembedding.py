"""Import what moved to :mod:`t2i_pipelines.jobs.reembed`."""

from t2i_pipelines.jobs.reembed import Checks as Checks
from t2i_pipelines.jobs.reembed import Reembedding as Reembedding
from t2i_pipelines.jobs.reembed import drop_old as drop_old
from t2i_pipelines.jobs.reembed import reembed as reembed
from t2i_pipelines.jobs.reembed import roll_back as roll_back
