"""Dependencies point one way, Towhee has one door, and the public names are the ones we mean."""

import ast
import importlib
import re
import tokenize
from importlib.util import find_spec
from pathlib import Path

import t2i_pipelines
from t2i_pipelines import errors
from t2i_pipelines.operators import OPERATORS
from tools import house

PACKAGE = Path(t2i_pipelines.__file__).parent

# a module may import only from layers below its own, and from its own package
LAYERS = [
    {"errors", "types"},
    {"_towhee", "config"},
    {"collection", "images"},
    {"encoders", "search"},
    {"operators", "testing"},
    {"evaluate", "pipelines"},
    {"finetune", "jobs", "serve", "ui"},
    {"__init__", "cli", "distributed", "hub", "reembedding"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(file: Path) -> str:
    """The top-level module or package that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_imports_point_down():
    wrong = []
    for file in FILES:
        own = unit(file)
        assert own in LEVEL, f"{own} has no layer yet: give it one"
        for name in imports(file):
            if name.startswith("t2i_pipelines."):
                other = name.split(".")[1]
                if other not in LEVEL:  # a name of the root package, such as __version__
                    other = "__init__"
                if other != own and LEVEL[other] >= LEVEL[own]:
                    wrong.append(f"{own} imports {name}")
    assert wrong == []


def test_one_module_is_the_door_to_towhee():
    through = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        if any(name.split(".")[0] == "towhee" for name in imports(file))
    }
    assert through == {"_towhee/door.py"}


REACHES_IN = {"collection/lite.py", "jobs/bulk/shipment.py"}
"""The first repairs Milvus Lite, the second calls servers as old as pymilvus has no method for any more."""

PUBLIC = {"_replace", "_fields", "_asdict", "_make", "_repr_html_", "_exit"}
"""Documented names that begin with an underscore: of named tuples, IPython and os."""


def test_no_module_reaches_into_what_is_private_to_others():
    found = []
    for file in FILES:
        name = str(file.relative_to(PACKAGE))
        if name in REACHES_IN or unit(file) == "_towhee":
            continue
        code = ast.parse(file.read_text(encoding="utf-8"))
        attributes = [node for node in ast.walk(code) if isinstance(node, ast.Attribute)]
        defined = {node.attr for node in attributes if ast.unparse(node.value) in ("self", "cls")}
        defined |= {node.name for node in ast.walk(code) if isinstance(node, ast.FunctionDef)}
        classes = [node for node in ast.walk(code) if isinstance(node, ast.ClassDef)]
        defined |= {
            name.id
            for one in classes
            for line in one.body
            for name in ast.walk(line)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        found += [
            f"{name}:{node.lineno}: {ast.unparse(node)}"
            for node in attributes
            if node.attr.startswith("_") and not node.attr.startswith("__")
            if node.attr not in PUBLIC | defined
        ]
    assert found == []


def test_only_the_command_line_prints_or_exits():
    for file in FILES:
        if unit(file) == "cli":
            continue
        code = ast.parse(file.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(code) if isinstance(node, ast.Call)}
        if "__main__" in file.read_text(encoding="utf-8"):  # a command of its own: python -m ...
            continue
        assert not called & {"print", "sys.exit", "exit"}, file


def test_the_house_grows_neither_wider_nor_deeper():
    found = house.measure()
    assert (found.names, found.loose, found.floors) <= (20, 5, 8)
    assert found.floors <= len(LAYERS) == 8
    assert found.circles == 0
    assert found.files <= 176  # 160 before uploads, keys, logs, stored data, embeddings and assistants
    assert found.small <= 18
    assert found.largest <= 500


def test_the_command_line_loads_no_more_than_it_needs():
    assert house.loaded("import t2i_pipelines.cli") <= 70


def test_floors_and_circles_are_counted_right():
    assert house.count_floors({"a": {"b"}, "b": {"c"}, "d": {"c"}}) == 3
    assert house.count_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d2"}, "d2": {"d"}}) == 2
    assert house.count_circles({"a": {"b"}, "b": set()}) == 0


def test_the_public_names_are_sorted_and_there():
    assert t2i_pipelines.__all__ == sorted(t2i_pipelines.__all__)
    for name in t2i_pipelines.__all__:
        assert getattr(t2i_pipelines, name)


def test_the_paths_that_users_import_from_stay():
    public = {
        "collection": ["Collection", "close", "open_collection"],
        "config": ["Settings"],
        "distributed": ["embed_batch", "insert_distributed"],
        "encoders": ["load_encoder", "models", "recommend", "register_encoder", "unload"],
        "evaluate": ["compare", "evaluate", "evaluate_many", "published", "read_pairs"],
        "finetune": ["finetune"],
        "hub": [],
        "images": ["decode", "read", "records"],
        "operators": [],
        "pipelines": ["InsertReport", "Searcher", "build_insert_pipeline", "build_search_pipeline"],
        "reembedding": ["drop_old", "reembed", "roll_back"],
        "serve": [],
        "testing": ["ColourEncoder", "MemoryCollection", "forget_memory"],
        "ui": ["build_ui"],
    }
    for name, wanted in public.items():
        assert find_spec(f"t2i_pipelines.{name}"), name
        if not wanted:  # importing the hub's operators changes what Towhee does
            continue
        module = importlib.import_module(f"t2i_pipelines.{name}")
        assert [one for one in wanted if not hasattr(module, one)] == [], name


def test_the_operators_that_users_compose_stay():
    assert {name.replace("-", "_") for name in OPERATORS} == {
        *("t2i/clip", "t2i/image_decode", "t2i/milvus_follow", "t2i/milvus_insert", "t2i/milvus_search"),
        *("t2i/normalize", "t2i/outcomes", "t2i/prefetch", "t2i/read_query", "t2i/read_source"),
        "t2i/skip_unchanged",
    }


BANNED = re.compile(
    r"\b(passed by|passes by|pass by|lets? go|stood for|anew|heeded|overlooked|sets? about|puts up with"
    r"|afresh|told|nobody|somebody|anybody|whoever|taken for d\w+|what there is|of the one that|pictures?)\b",
    re.IGNORECASE,
)
"""ReadWriteLock that a reader has to decode; plain ones are skipped, released, again, ignored, image."""


def test_comments_and_docstrings_are_in_plain_words():
    found = []
    for file in FILES:
        with tokenize.open(file) as source:
            for token in tokenize.generate_tokens(source.readline):
                is_docstring = token.type == tokenize.STRING and token.string.startswith('"""')
                if token.type == tokenize.COMMENT or is_docstring:
                    text = re.sub(r"``.*?``|:(?:param|ivar) \w+:", "", token.string, flags=re.DOTALL)
                    found += [f"{file.name}:{token.start[0]}: {turn[0]}" for turn in BANNED.finditer(text)]
    assert found == []


def test_every_error_is_drawn_in_the_tree_with_its_parent():
    drawn = errors.__doc__
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.T2IError):
            line = next(line for line in drawn.splitlines() if line.strip("│├└─ ").split(" ")[0] == name)
            mixed_in = [base.__name__ for base in error.__bases__ if not issubclass(base, errors.T2IError)]
            if error is not errors.T2IError and mixed_in:
                assert f"({mixed_in[0]})" in line, f"{name} is also a {mixed_in[0]}"
