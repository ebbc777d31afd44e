"""``gradio.inputs`` and ``gradio.outputs``, as old notebooks call them, on the Gradio of today."""

import importlib
import sys
from types import SimpleNamespace

import pytest
from test_import import run

pytest_plugins = ["old_notebooks"]

THE_TUTORIAL = """
    import t2i_pipelines.hub
    {imported}
    interface = gradio.Interface(
        lambda text: [text] * 5,
        gradio.inputs.Textbox(lines=1),
        [gradio.outputs.Image(type="filepath", label=None) for _ in range(5)],
    )
    print([type(one).__name__ for one in (*interface.input_components, *interface.output_components)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("imported", ["import gradio", "import gradio.blocks, gradio.inputs; import gradio"])
def test_the_cell_of_the_tutorial_builds_its_page(imported):
    assert run(THE_TUTORIAL.format(imported=imported)) == str(["Textbox", *["Image"] * 5])


@pytest.fixture
def gradio(hub, monkeypatch):
    """In place of Gradio: components that say what they were made of."""

    def component(name):
        return lambda *given, **more: (name, given, more)

    made = SimpleNamespace(Textbox=component("Textbox"), Image=component("Image"))
    for name in ("gradio.inputs", "gradio.outputs"):
        monkeypatch.setitem(sys.modules, name, None)  # so that what is put there is taken away again
    hub.name_old_components(made)
    return made


def test_arguments_have_the_names_of_today(gradio):
    assert gradio.inputs.Textbox(2, "a dog", "a cat", label="words") == (
        "Textbox",
        ("a cat",),
        {"lines": 2, "placeholder": "a dog", "label": "words"},
    )
    assert gradio.inputs.Image(type="pil", source="upload") == (
        "Image",
        (),
        {"image_mode": "RGB", "sources": ["upload"], "type": "pil", "label": None},
    )
    assert gradio.inputs.Image(type="file")[2]["type"] == "filepath"
    assert gradio.outputs.Image("file", label="hit") == ("Image", (), {"label": "hit"})
    assert gradio.outputs.Textbox() == ("Textbox", (), {"label": None})
    assert sys.modules["gradio.inputs"] is gradio.inputs


def test_a_gradio_that_has_the_names_keeps_them(hub):
    old = SimpleNamespace(inputs="its own", outputs="its own, too")
    hub.name_old_components(old)
    assert vars(old) == {"inputs": "its own", "outputs": "its own, too"}


def test_a_gradio_that_was_imported_before_is_named_at_once(towhee_as_it_is, monkeypatch):
    before = SimpleNamespace(outputs="its own")
    monkeypatch.setitem(sys.modules, "gradio", before)
    monkeypatch.setitem(sys.modules, "gradio.inputs", None)
    importlib.import_module("t2i_pipelines.hub")
    assert (before.outputs, hasattr(before.inputs, "Textbox")) == ("its own", True)


def test_gradio_is_left_alone_without_the_hub(tmp_path):
    (tmp_path / "gradio.py").write_text("Textbox = Image = dict")
    for package, named in (("t2i_pipelines", "False"), ("t2i_pipelines.hub", "True")):
        assert named == run(f"""
            import sys
            sys.path.insert(0, {str(tmp_path)!r})
            import {package}, gradio
            print(hasattr(gradio, "inputs"))
        """)


def test_the_hub_is_imported_without_gradio_and_twice():
    assert run("""
        import importlib, sys
        sys.modules["gradio"] = None
        import t2i_pipelines.hub
        importlib.reload(t2i_pipelines.hub)
        print(sum("Gradio" in type(finder).__name__ for finder in sys.meta_path))
    """) == "1"  # fmt: skip
