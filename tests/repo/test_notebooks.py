"""The notebooks are what they claim: short, public, clean, and true when they are run again."""

import ast
import base64
import getpass
import importlib
import re
import shlex
import sys
from io import BytesIO
from pathlib import Path

import pytest
from hub import serving
from nbformat.v4 import new_output
from onnx_folders import immich_folder
from PIL import Image
from running_notebooks import FOLDER, NOTEBOOKS, ROOT, code_cells, outputs, read, run, shape, shapes, texts

PUBLIC = {"evaluate", "finetune", "hub", "testing", "ui"}
COMMANDS = {"tools.drawings.charts"}
"""What may be run by ``python -m``."""

LIBRARIES = {"towhee", "pymilvus", "PIL", "numpy", "pandas", "matplotlib", "IPython"}

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path):
    return [ast.parse(cell.source) for cell in code_cells(read(path))]


def nodes(path, *kinds):
    return [node for tree in code(path) for node in ast.walk(tree) if isinstance(node, kinds)]


def prose(path):
    return "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def all_outputs(path):
    return [where[key] for output in outputs(read(path)) for where, key in texts(output)]


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["01_text_image_search", "02_deep_dive", "03_compose"]


@every_notebook
def test_only_what_is_public_is_imported(path):
    for node in nodes(path, ast.Import, ast.ImportFrom):
        for alias in node.names:
            module = alias.name if isinstance(node, ast.Import) else node.module
            top, *inner = module.split(".")
            assert top in {"t2i_pipelines", *LIBRARIES} or top in sys.stdlib_module_names, module
            if top != "t2i_pipelines":
                continue
            assert len(inner) < 2
            assert not inner or inner[0] in PUBLIC, f"{module} is not public"
            if isinstance(node, ast.ImportFrom):
                assert alias.name in importlib.import_module(module).__all__, f"{module}.{alias.name}"


@every_notebook
def test_towhee_is_imported_after_the_library_which_silences_its_warnings(path):
    found = [
        name
        for node in nodes(path, ast.Import, ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
        if name.partition(".")[0] in ("towhee", "t2i_pipelines")
    ]
    assert found[0].startswith("t2i_pipelines")


@every_notebook
def test_no_private_name_is_touched(path):
    for node in nodes(path, ast.Attribute):
        assert not node.attr.startswith("_"), node.attr


@every_notebook
def test_no_function_is_longer_than_five_lines(path):
    for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda):
        name = getattr(node, "name", "lambda")
        assert node.end_lineno - node.lineno + 1 <= 5, f"{name} is longer than five lines"


@every_notebook
def test_one_variable_at_the_top_names_the_model(path):
    first = code_cells(read(path))[0].source
    assert re.search(r'^MODEL = "t2i_mini"  # or "clip_vit_base_patch32"', first, re.MULTILINE)
    named = [node for node in nodes(path, ast.Constant) if node.value == "t2i_mini"]
    assert len(named) == 1, "the model is named in one place only"


@every_notebook
def test_databases_are_in_a_folder_that_goes_away(path):
    named = [node.value for node in nodes(path, ast.Constant) if str(node.value).endswith(".db")]
    source = "\n".join(cell.source for cell in code_cells(read(path)))
    assert named
    for name in named:
        assert f'Path(scratch.name, "{name}")' in source
    assert "scratch = TemporaryDirectory()" in source


@every_notebook
def test_it_was_run_from_top_to_bottom(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    counted = [one.execution_count for one in outputs(read(path)) if one.output_type == "execute_result"]
    assert counted == sorted(counted)


@every_notebook
def test_it_is_small(path):
    assert path.stat().st_size < 2_000_000


@every_notebook
def test_no_error_warning_or_log_is_shown(path):
    for output in outputs(read(path)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
    for text in all_outputs(path):
        assert not re.search(r"\bwarning|traceback|deprecat", re.sub(r"base64,\S+", "", text), re.IGNORECASE)


@every_notebook
def test_nothing_tells_on_which_machine_it_was_run(path):
    absolute = r"(?<![\w.:/])/(?:home|root|tmp|work|var|Users|mnt|opt|private|usr)/"
    for text in [*all_outputs(path), prose(path)]:
        shown = re.sub(r"base64,[\w+/=]+", "", text)
        assert not re.search(absolute, shown), re.search(absolute + r".{0,60}", shown)
        assert not re.search(r"\b[A-Z]:\\", shown)
        assert not re.search(r"0x[0-9a-f]{6,}", shown), "the address of an object"
        if len(getpass.getuser()) > 4:
            assert getpass.getuser() not in shown
    assert "git" not in read(path).metadata
    assert set(read(path).metadata) == {"kernelspec", "language_info"}


@every_notebook
def test_no_number_of_a_result_is_typed_into_the_prose(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", prose(path), flags=re.DOTALL)
    assert not re.findall(r"\b0\.\d+|\d+(?:\.\d+)?\s?(?:%|ms\b|points\b|x\b)", text)


@every_notebook
def test_pictures_are_stored_and_whole(path):
    embedded = [one for text in all_outputs(path) for one in re.findall(r"base64,([\w+/=]+)", text)]
    drawn = [out.data["image/png"] for out in outputs(read(path)) if "image/png" in out.get("data", {})]
    assert len(embedded + drawn) >= 20
    for content in embedded + drawn:
        assert Image.open(BytesIO(base64.b64decode(content))).size > (8, 8)


@every_notebook
def test_prose_stands_between_the_cells(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown"
    kinds = "".join(cell.cell_type[0] for cell in cells)
    assert "ccc" not in kinds, "three cells of code without a sentence"


@every_notebook
def test_the_pipeline_is_drawn(path):
    drawn = [out for out in outputs(read(path)) if "image/svg+xml" in out.get("data", {})]
    assert drawn or path.stem == "02_deep_dive"


def first_titles(path, words):
    """The names of the best images of each list that the cell with these words shows."""
    (cell,) = [one for one in code_cells(read(path)) if words in one.source]
    pages = [out.data["text/html"] for out in cell.outputs if "text/html" in out.get("data", {})]
    found = re.findall(r't2i-rank">1<.*?title="([^"]+)"', "".join(pages), re.DOTALL)
    return [Path(one).name for one in found]


def test_the_pipeline_is_written_out_before_it_is_built():
    sources = [cell.source for cell in code_cells(read(NOTEBOOKS[0]))]
    written = next(number for number, source in enumerate(sources) if "pipe.input" in source)
    built = next(number for number, source in enumerate(sources) if "= build_insert_pipeline(" in source)
    assert written < built
    for step in ("image_decode", "clip", "normalize", "milvus_insert"):
        assert f"ops.t2i.{step}(" in sources[written]
    assert "harden(" in sources[written]


def test_built_by_the_library_a_folder_becomes_pictures_in_less_than_fifteen_lines():
    cells = code_cells(read(NOTEBOOKS[0]))
    start = next(number for number, cell in enumerate(cells) if "= build_insert_pipeline(" in cell.source)
    first = next(
        number for number, cell in enumerate(cells) if number > start and "t2i-hit" in str(cell.outputs)
    )
    lines = [line for cell in cells[start : first + 1] for line in cell.source.splitlines() if line.strip()]
    assert len(lines) < 15


def test_an_insert_shows_its_counts_and_the_file_that_failed():
    (cell,) = [one for one in code_cells(read(NOTEBOOKS[0])) if "broken.write_bytes" in one.source]
    (shown,) = [out.data["text/plain"] for out in cell.outputs]
    assert re.match(r"\d+ images: \d+ inserted, 0 unchanged, 1 failed\n  decode: .*broken", shown)


def test_a_service_runs_answers_and_ends():
    shown = {cell.source: str(cell.outputs) for cell in code_cells(read(NOTEBOOKS[1]))}
    (answer,) = [text for source, text in shown.items() if "answer = ask(" in source]
    assert answer.count("charts/") >= 5
    (picture,) = [text for source, text in shown.items() if '["links"]["thumbnail"]' in source]
    assert "image/png" in picture
    (end,) = [text for source, text in shown.items() if "server.terminate()" in source]
    assert "exit code 0" in end


def test_what_is_taken_away_and_asked_for_is_what_comes_first():
    assert first_titles(NOTEBOOKS[0], '- "a penguin" + "a bear"') == ["polar-bear.webp"]


def test_five_languages_find_the_same_picture():
    first = first_titles(NOTEBOOKS[0], "un pingüino")
    assert len(first) == 5
    assert len(set(first)) == 1


@every_notebook
def test_every_command_that_is_named_exists(path):
    from typer.main import get_command

    from t2i_pipelines.cli import app

    commands = get_command(app).commands
    blocks = re.findall(r"```console\n(.*?)```", prose(path), re.DOTALL)
    for line in "".join(blocks).splitlines():
        program, name, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
        assert program in ("t2i", "pip", "make"), line
        if program == "t2i":
            commands[name].make_context(name, arguments)
    for name in re.findall(r"`t2i (\w+)", prose(path)):
        assert name in commands


@every_notebook
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|attachment:)([^)#]+)\)", prose(path)):
        assert (path.parent / target).exists(), target


@every_notebook
def test_only_known_modules_are_run_as_commands(path):
    named = {
        node.value
        for node in nodes(path, ast.Constant)
        if re.match(r"(t2i_pipelines|tools)\.", str(node.value))
    }
    assert named <= COMMANDS
    for module in named:
        assert importlib.import_module(module).main


@pytest.mark.slow
@every_notebook
def test_run_afresh_its_results_have_the_stored_shapes(path):
    stored = read(path)
    again = run(path)
    assert shapes(again) == shapes(stored)
    assert any(map(len, shapes(again)))


@pytest.mark.slow
@pytest.mark.parametrize("path", [NOTEBOOKS[0], NOTEBOOKS[2]], ids=lambda path: path.stem)
def test_one_variable_changes_to_openais_clip(path, tmp_path):
    """The hub is one of our own, and its CLIP one of the same form that knows three words."""
    with serving() as (hub, address):
        hub.repos["immich-app/ViT-B-32__openai"] = immich_folder(tmp_path / "clip", dim=512)
        places = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        again = run(path, "clip_vit_base_patch32", {**places, "HF_HUB_DISABLE_XET": "1"})
    assert any(name.endswith("visual/model.onnx") for _, name, _ in hub.seen)
    assert [len(some) for some in shapes(again)] >= [len(some) for some in shapes(read(path))]


def test_the_shapes_tell_hits_rows_and_kinds_apart():
    def html(page):
        return shape(new_output("display_data", {"text/html": page}))

    hit = '<li class="t2i-hit"></li>'
    assert html(hit * 4) == html(hit * 4 + "<p>a caption</p>")
    assert html(hit * 4) != html(hit * 3)
    assert html("<tr><td>1</td></tr>") == html("<tr><td>2</td></tr>")
    assert html("<tr><td>1</td></tr>") != html("<tr><td>1</td><td>2</td></tr>")
    assert html("") != shape(new_output("execute_result", {"text/html": ""}))
    assert shape(new_output("stream", text="a\nb")) != shape(new_output("stream", text="a"))


def test_the_readme_has_a_line_for_each():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in readme


def test_the_folder_holds_nothing_else():
    assert [one.name for one in sorted(FOLDER.iterdir())] == [path.name for path in NOTEBOOKS]
