"""``import t2i_pipelines.hub``, undone after each test: it changes Towhee for the whole process."""

import importlib
import sys
from contextlib import contextmanager

import pytest
import towhee
from towhee.runtime.operator_manager import OperatorRegistry

from t2i_pipelines._towhee.door import AutoConfig, AutoPipes, Pipeline


@contextmanager
def forgotten():
    """Undo, at the end of the block, what the import and registrations have changed."""
    output, registered = Pipeline.output, dict(OperatorRegistry.REGISTRY)
    triton_client, finders = towhee.triton_client, list(sys.meta_path)
    pipes, configs = dict(AutoPipes._PIPES_DEF), dict(AutoConfig._REGISTERED_CONFIG)
    try:
        yield
    finally:
        Pipeline.output = output
        towhee.triton_client = triton_client
        sys.meta_path[:] = finders
        for kept, now in (
            (registered, OperatorRegistry.REGISTRY),
            (pipes, AutoPipes._PIPES_DEF),
            (configs, AutoConfig._REGISTERED_CONFIG),
        ):
            now.clear()
            now.update(kept)
        for name in [name for name in sys.modules if name.startswith(("t2i_pipelines.hub", "towhee.dc2"))]:
            del sys.modules[name]


@pytest.fixture
def towhee_as_it_is():
    """Towhee without the hub's names; what a test registers is gone after it."""
    with forgotten():
        yield


@pytest.fixture
def hub(towhee_as_it_is):
    """The module, freshly imported."""
    return importlib.import_module("t2i_pipelines.hub")
