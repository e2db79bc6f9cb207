"""What a linter does not know of this project: its words, its docstrings, its tree (CONTRIBUTING.md, "Conventions")."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("empatheia_jax", "converters", "benchmarks", "configs", "train.py")
VAGUE = {"found", "one", "said", "feel", "felt", "told"}  # names that say nothing of what they hold
MAX_POSITIONAL = 4
MAX_LINES = 400
COMPILED_CALLS = {"step"}  # (trainable, optimizer, frozen, batch, key): jitted with donated positions
MAX_README_WORDS = 1200


def _sources(*places: str) -> list[Path]:
    paths = (ROOT / place for place in places)
    return sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path]))


def _trees(*places: str):
    return [(path.relative_to(ROOT), ast.parse(path.read_text())) for path in _sources(*places)]


def _definitions(tree: ast.AST):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def _identifiers(tree: ast.AST):
    fields = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr", ast.FunctionDef: "name", ast.ClassDef: "name"}
    for node in ast.walk(tree):
        if type(node) in fields:
            yield node.lineno, getattr(node, fields[type(node)])


def test_identifiers_say_what_they_hold():
    vague = [
        f"{path}:{line} {name}"
        for path, tree in _trees(*CODE, "tests")
        if "goldens" not in path.parts
        for line, name in _identifiers(tree)
        if name in VAGUE or re.match(r"_?of_", name)
    ]
    assert not vague


def test_docstrings_begin_with_a_verb_or_a_noun_and_have_an_argument_a_line():
    wrong = []
    for path, tree in _trees(*CODE):
        for node in _definitions(tree):
            text = ast.get_docstring(node) or ""
            arguments = re.search(r"^Args:\n((?:  .*\n?|\n)*)", text, re.MULTILINE)
            several = arguments and re.search(r"[.;] +[a-z_]\w*(, [a-z_]\w*)*: ", arguments.group(1))
            if re.match(r"Of |Args:|Returns:", text) or several:
                wrong.append(f"{path}:{getattr(node, 'lineno', 1)}")
    assert not wrong


def test_what_is_public_in_the_library_is_documented():
    silent = []
    for path, tree in _trees("empatheia_jax", "converters"):
        public = [tree, *(node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))]
        silent += [
            f"{path}:{getattr(node, 'lineno', 1)}"
            for node in public
            if not getattr(node, "name", "").startswith("_") and ast.get_docstring(node) is None
        ]
    assert not silent


def test_more_than_four_arguments_are_named_where_they_are_given():
    long = []
    for path, tree in _trees(*CODE):
        for node in _definitions(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
                if len(names) - (names[:1] in (["self"], ["cls"])) > MAX_POSITIONAL and node.name not in COMPILED_CALLS:
                    long.append(f"{path}:{node.lineno} {node.name}")
    assert not long


def test_a_file_holds_one_idea():
    long = [str(path) for path in _sources(*CODE) if len(path.read_text().splitlines()) > MAX_LINES]
    assert not long


def test_no_line_is_exempt_from_the_formatter_and_no_module_sets_its_parts_by_name():
    for path in _sources(*CODE, "tests"):
        text = path.read_text()
        assert not re.search(r"#\s*fmt:\s*(skip|off)", text), path
        if path.is_relative_to(ROOT / "empatheia_jax"):
            assert not re.search(r"setattr\(self\b|object\.__new__\(", text), path


def test_the_package_root_holds_the_command_line_alone():
    files = {path.name for path in (ROOT / "empatheia_jax").glob("*.py")}
    assert files == {"__init__.py", "__main__.py", "cli.py"}


def test_the_readme_is_short_and_shows_the_whole_tree():
    text = (ROOT / "README.md").read_text()
    assert len(re.findall(r"\S+", text)) <= MAX_README_WORDS
    folders = [path.name for path in (ROOT / "empatheia_jax").iterdir() if (path / "__init__.py").exists()]
    assert [name for name in folders if not re.search(rf"\b{name}/", text)] == []


def _pages() -> list[Path]:
    ours = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "empatheia_jax").rglob("README.md")]
    return sorted(page for page in ours if page.name != "CHANGELOG.md")  # the changelog names what was


@pytest.mark.parametrize("page", _pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_documents_name_are_there(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    bases = (ROOT, ROOT / "empatheia_jax", page.parent, ROOT / "tests", *(ROOT / "empatheia_jax").glob("*/"))
    named = re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`", text)
    inside = {path.name for path in _sources(*CODE)}
    assert [name for name in named if not any((base / name).exists() for base in bases) and name not in inside] == []
