"""Imports point down: the layers of the package, held by walking every import."""

import ast
import sys
from pathlib import Path

import pytest

import rationale

ROOT = Path(rationale.__file__).parent
# A part may import itself and what stands in an earlier line; within a line parts do not know each other.
CORE = [
    {"schema", "hashes", "provenance", "operators", "earlier", "settings", "markdown", "stopping"},
    {"images", "prompts", "artifacts", "journal", "objectives"},
    {"scoring", "replies", "shards"},
    {"question_checks", "pairing"},
    {"models"},
    {"training"},
    {"stages"},
]
EXTRAS = [
    {"worlds", "endpoints", "planning"},
    {"sources", "reporting"},
    {"tools"},
    {"command"},
    {"__main__", "__init__"},
]
LAYERS = CORE + EXTRAS
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imported(tree):
    """Dotted names of every module that a file imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it in full"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of(file):
    return set(imported(ast.parse((ROOT / file).read_text(encoding="utf-8"))))


def package_of(file):
    return file.parts[0].removesuffix(".py")


def own(file):
    """The parts of `rationale` that a file imports, as tuples: ("worlds", "WORLDS")."""
    found = {tuple(name.split(".")[1:]) for name in imports_of(file) if name.startswith("rationale.")}
    return {parts for parts in found if (ROOT / parts[0]).is_dir() or (ROOT / f"{parts[0]}.py").exists()}


def test_every_part_of_the_package_has_a_layer():
    assert {package_of(file) for file in FILES} == set(RANK)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_point_down_or_sideways_within_a_package(file):
    here = package_of(file)
    upward = {parts[0] for parts in own(file) if parts[0] != here and RANK[parts[0]] >= RANK[here]}
    assert not upward, f"{file} imports {upward}, which stand no lower than {here}"


def test_the_core_is_what_the_README_says_and_imports_no_extra():
    core, extras = set().union(*CORE), set().union(*EXTRAS)
    for file in (f for f in FILES if package_of(f) in core):
        assert not {parts[0] for parts in own(file)} & extras, file


@pytest.mark.parametrize("file", [f for f in FILES if package_of(f) in ("stages", "tools")], ids=str)
def test_stages_meet_through_artifacts_only(file):
    others = {f"{parts[0]}/{parts[1]}" for parts in own(file) if parts[0] in ("stages", "tools") and len(parts) > 1}
    assert others <= {"stages/inputs", "tools/small_llava"}, f"{file} imports {others}"


@pytest.mark.parametrize(("one", "other"), [("objectives", "scoring"), ("scoring", "objectives")])
def test_objectives_and_scoring_never_import_each_other(one, other):
    files = [f for f in FILES if package_of(f) == one]
    assert files
    assert not any(parts[0] == other for f in files for parts in own(f))


def test_only_the_command_imports_hydra():
    users = {str(f) for f in FILES if {name.split(".")[0] for name in imports_of(f)} & {"hydra", "omegaconf"}}
    assert users == {"command/cli.py", "command/runs.py"}


@pytest.mark.parametrize("package", ["objectives", "scoring"])
def test_what_is_mathematical_knows_no_framework(package):
    known = {"torch", "numpy", "rapidfuzz", "rationale"} | set(sys.stdlib_module_names)
    for file in (f for f in FILES if package_of(f) == package):
        assert {name.split(".")[0] for name in imports_of(file)} <= known


def test_an_import_inside_a_function_is_seen():
    source = "def f():\n    from rationale.stages import dpo\n    import rationale.command.cli\n"
    assert set(imported(ast.parse(source))) == {"rationale.stages", "rationale.stages.dpo", "rationale.command.cli"}
