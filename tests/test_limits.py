"""No test waits without end: pytest-timeout can end a wait, but not the one that comes after it."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("*.py"))
WAITS = {"acquire", "communicate", "get", "join", "recv", "result", "wait"}
# Where processes are started, and killed at the end.
STARTERS = ("tasks.py", "writers.py")


def find_endless(text, name=""):
    """Lines of calls that may wait for ever."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return sorted(node.lineno for node in calls if is_endless(node, name))


def is_endless(node, name):
    called, given = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
    if called in ("subprocess.run", "subprocess.check_call", "subprocess.check_output"):
        return "timeout" not in given
    if called == "subprocess.Popen":
        return name not in STARTERS
    waits = isinstance(node.func, ast.Attribute) and node.func.attr in WAITS
    return waits and not node.args and "timeout" not in given and name not in STARTERS


def test_what_may_wait_for_ever_is_seen():
    lines = (
        "subprocess.run(['x'], check=True)",
        "subprocess.run(['x'], timeout=9)",
        "subprocess.Popen(['x'])",
        "process.communicate(input='x')",
        "process.communicate(timeout=9)",
        "thread.join()",
        "' '.join(words)",
    )
    assert find_endless("\n".join(lines)) == [1, 3, 4, 6]
    assert find_endless(lines[2], "tasks.py") == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_wait_has_a_limit(path):
    assert find_endless(path.read_text(encoding="utf-8"), path.name) == []
