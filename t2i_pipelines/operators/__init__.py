"""The steps of the pipelines, registered with Towhee as ``ops.t2i.*``.

:mod:`t2i_pipelines.operators.base` holds what all of them keep to.
"""

from t2i_pipelines._towhee.door import register
from t2i_pipelines.operators.base import Outcomes, Prefetch
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.operators.milvus import MilvusInsert, MilvusSearch, SkipUnchanged
from t2i_pipelines.operators.normalize import Normalize
from t2i_pipelines.operators.read import ReadQuery, ReadSource
from t2i_pipelines.operators.search import MilvusFollow

OPERATORS = {
    "t2i/read-source": ReadSource,
    "t2i/skip-unchanged": SkipUnchanged,
    "t2i/prefetch": Prefetch,
    "t2i/image-decode": ImageDecode,
    "t2i/read-query": ReadQuery,
    "t2i/clip": Clip,
    "t2i/normalize": Normalize,
    "t2i/milvus-insert": MilvusInsert,
    "t2i/milvus-search": MilvusSearch,
    "t2i/milvus-follow": MilvusFollow,
    "t2i/outcomes": Outcomes,
}

for _name, _operator in OPERATORS.items():
    register(name=_name)(_operator)

__all__ = ["OPERATORS"]
