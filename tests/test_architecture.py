"""What the source must stay: small modules, one door to processes, nobody but the command prints or exits."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src/roost"
MODULES = sorted(SOURCE.rglob("*.py"))
NAMES = [str(path.relative_to(SOURCE)) for path in MODULES]
STARTS_PROCESSES = {
    "fork",
    "forkpty",
    "posix_spawn",
    "posix_spawnp",
    "system",
    "popen",
    "spawnv",
    "spawnvp",
    "spawnve",
    "spawnl",
    "spawnlp",
}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    assert ast.get_docstring(ast.parse(text)), "what is this module for?"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name}, line {node.lineno}"


def test_no_drawer_for_everything() -> None:
    assert not {path.stem for path in MODULES} & {"utils", "util", "helpers", "misc", "tools"}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_one_door_to_processes(path: Path) -> None:
    if path == SOURCE / "host/runner.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"subprocess", "multiprocessing", "pty"}, (
                f"line {node.lineno}"
            )
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("subprocess", "multiprocessing", "concurrent.futures"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in STARTS_PROCESSES, f"os.{node.attr}, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_only_the_command_prints_and_exits(path: Path) -> None:
    if path.is_relative_to(SOURCE / "cli") or path.name == "__main__.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in ("print", "exit", "quit", "sys.exit", "input"), f"{name}, line {node.lineno}"
        assert not name.startswith(("sys.stdout.", "sys.stderr.")), f"{name}, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_module_has_a_state(path: Path) -> None:
    """A dict or list of a module may be a table; nothing may change it, and no `global` either."""
    tree = ast.parse(path.read_text())
    tables = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict | ast.List | ast.Set)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Global), f"global, line {node.lineno}"
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            changes = node.func.attr in ("append", "extend", "update", "setdefault", "pop", "clear", "add", "insert")
            assert not (changes and node.func.value.id in tables), f"{ast.unparse(node.func)}, line {node.lineno}"


def test_every_system_call_is_a_named_point() -> None:
    """What changes something outside the process raises an audit event first; Python's own calls do so by themselves."""
    within = {"prctl", "set_name", "set_fs_ids", "seccomp_filter_of"}  # this process alone, or by a call that does
    tree = ast.parse((SOURCE / "host/syscalls.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and node.name not in within:
            calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
            assert "sys.audit" in calls, f"{node.name}, line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_what_python_does_not_tell_is_told(path: Path) -> None:
    """os.fsync and signal.pidfd_send_signal raise no audit event: one is raised just before."""
    before = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if "os.fsync(" in line or "pidfd_send_signal(" in line:
            assert "sys.audit(" in before, f"line {number}"
        before = before + line if line.strip().startswith("with ") else line
