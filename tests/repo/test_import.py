"""What `import t2i_pipelines` does, and above all what it does not."""

import os
import subprocess
import sys
import textwrap

import pytest

HEAVY = (
    "torch",
    "onnxruntime",
    "pymilvus",
    "milvus_lite",
    "tokenizers",
    "transformers",
    "typer",
    "gradio",
    "pyarrow",
    "pandas",
    "fsspec",
    "braceexpand",
    "ray",
)

WITHOUT_PKG_RESOURCES = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pkg_resources":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "pkg_resources" else found(name, *a)
sys.meta_path.insert(0, Hidden())
"""


def run(code: str) -> str:
    """Run code in a fresh interpreter with no way to a network; give what it prints."""
    offline = (
        "import socket\ndef refuse(*_): raise AssertionError('network')\nsocket.socket.connect = refuse\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", offline + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_torch_no_model_and_opens_no_network():
    loaded = run(f"""
        import sys, t2i_pipelines
        print([name for name in {HEAVY} if name in sys.modules])
    """)
    assert loaded == "[]"


@pytest.mark.slow
def test_importing_takes_under_a_second_of_cpu():
    seconds = [float(run("import time, t2i_pipelines; print(time.process_time())")) for _ in range(3)]
    assert min(seconds) < 1


def test_importing_leaves_the_root_logger_and_the_warning_filters_alone():
    assert (
        run("""
        import logging, numpy, warnings
        before = list(logging.root.handlers), list(warnings.filters)
        import t2i_pipelines
        print((list(logging.root.handlers), list(warnings.filters)) == before)
    """)
        == "True"
    )


@pytest.mark.slow
def test_importing_is_silent_even_where_warnings_are_errors():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import t2i_pipelines"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_towhee_imported_after_it_prints_nothing():
    code = "from t2i_pipelines import harden\nfrom towhee import DataCollection, ops, pipe"
    shown = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], check=False, capture_output=True, text=True, env=shown
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_it_runs_without_pkg_resources():
    assert (
        run(
            WITHOUT_PKG_RESOURCES
            + textwrap.dedent("""
        from t2i_pipelines._towhee.door import pipe
        assert sys.modules["pkg_resources"].__doc__.startswith("A stand-in")
        print(pipe.input("x").map("x", "y", lambda x: x + 1).output("y")(1).get())
    """)
        )
        == "[2]"
    )


@pytest.mark.slow
def test_clip_is_reached_without_torchvision_and_without_pkg_resources():
    pytest.importorskip("torch")
    assert (
        run(
            WITHOUT_PKG_RESOURCES
            + textwrap.dedent("""
        import warnings
        from t2i_pipelines._towhee.door import clip_models
        before = list(warnings.filters)
        model = clip_models().CLIP(8, 32, 1, 64, 16, context_length=4, vocab_size=9, transformer_width=64,
                                   transformer_heads=1, transformer_layers=1)
        assert list(warnings.filters) == before and "torchvision" not in sys.modules
        print(type(model).__module__)
    """)
        )
        == "towhee.models.clip.clip"
    )


def test_a_missing_extra_is_one_sentence_that_names_it():
    assert (
        run("""
        import importlib.util
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == "torch" else found(name, *a)
        from t2i_pipelines._towhee.door import clip_models
        from t2i_pipelines.errors import MissingExtraError
        try:
            clip_models()
        except MissingExtraError as err:
            print(err)
    """)
        == "torch is not installed; run: pip install 't2i-pipelines[torch]'"
    )


def test_towhee_never_installs_packages():
    from towhee.utils.dependency_control import prompt_install

    import t2i_pipelines  # noqa: F401
    from t2i_pipelines.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match="never installs packages at run time"):
        prompt_install("nobody-needs-this")
