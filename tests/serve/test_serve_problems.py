"""Each of our errors has its own code over HTTP, and the codes stay."""

import pytest

from t2i_pipelines import errors
from t2i_pipelines.errors import T2IError
from t2i_pipelines.serve.problems import MEANINGS, Refusal, meaning_of, refusal_of, schema_of
from t2i_pipelines.serve.roots import Roots
from t2i_pipelines.serve.schemas import SearchRequest

# what clients may have written down; a name that changes here breaks them
CODES = {
    "T2IError": (500, "internal_error"),
    "ConfigError": (422, "invalid_option"),
    "UnknownModelError": (500, "unknown_model"),
    "UnknownOperatorError": (500, "unknown_operator"),
    "QueryError": (422, "invalid_query"),
    "SourceError": (422, "invalid_source"),
    "ImageDecodeError": (422, "unreadable_image"),
    "EncodeError": (500, "cannot_embed"),
    "CheckpointError": (500, "model_unavailable"),
    "FinetuneError": (500, "training_failed"),
    "DeletionRefusedError": (409, "deletion_refused"),
    "SwapRefusedError": (409, "swap_refused"),
    "CopyError": (500, "copy_failed"),
    "ClusterError": (500, "cluster_failed"),
    "MissingExtraError": (500, "not_installed"),
    "StoreError": (500, "store_failed"),
    "StoreUnavailableError": (503, "store_unavailable"),
    "StoreAuthError": (503, "store_refuses_service"),
    "StoreTimeoutError": (503, "store_timeout"),
    "StoreLockedError": (503, "store_locked"),
    "StoreFormatError": (500, "store_unreadable"),
    "CollectionNotFoundError": (404, "collection_not_found"),
    "ModelMismatchError": (500, "model_mismatch"),
    "VectorError": (422, "no_vector"),
}
OURS = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, T2IError)]


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_every_error_has_a_code_of_its_own_that_stays(error):
    assert tuple(MEANINGS[error])[:2] == CODES[error.__name__]
    assert len({meaning.code for meaning in MEANINGS.values()}) == len(MEANINGS)


def test_an_error_without_a_code_has_that_of_its_base():
    class NewError(errors.StoreTimeoutError):
        pass

    assert meaning_of(NewError("x")).code == "store_timeout"


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_no_error_shows_where_the_server_keeps_things(error, caplog):
    told = refusal_of(error("at /srv/private/milvus.db with http://u:p@10.0.0.1/x failed"), Roots({}))
    assert "/srv" not in told.detail
    assert "u:p" not in told.detail
    assert ("/srv" in caplog.text) == bool(MEANINGS[error].said)  # what clients are not told is logged
    assert ("Retry-After" in told.headers) == (told.status == 503)


def test_a_refusal_stays_as_it_is():
    refusal = Refusal(429, "wait", retry_after=2.4)
    assert refusal_of(refusal, Roots({})) is refusal
    assert refusal.headers == {"Retry-After": "2"}


def test_schemas_refer_to_nothing_outside_themselves():
    text = repr(schema_of(SearchRequest))
    assert "$ref" not in text
    assert "contains" in text  # the operators of conditions are there
