"""Relevance on every engine: a calibration is stored, and read again."""

from worded import THINGS, WordedEncoder, finder, rows_of, stored

from t2i_pipelines.collection import close

pytest_plugins = ["milvus_backends"]


def test_a_calibration_is_stored_with_the_collection_and_read_again(milvus_backend):
    collection = milvus_backend.open("relevance")
    collection.drop()
    collection.prepare(WordedEncoder.space)
    collection.upsert(list(rows_of(THINGS, 2)))
    collection.flush()
    place = {"uri": milvus_backend.uri, "token": milvus_backend.token, "collection_name": "relevance"}
    search = finder({**place, "model_name": "worded"})
    assert (search("anchor").no_match, search("marmot").no_match) == (False, True)
    made = stored(collection)
    assert made.rows == collection.count() == 2 * len(THINGS)
    close()
    assert (search("anchor").no_match, search("marmot").no_match) == (False, True)
    assert stored(collection).to_json() == made.to_json()
    collection.drop()
