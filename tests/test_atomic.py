"""Hidden folders of processes that were killed go; those of living ones stay."""

import os
import subprocess
import sys

import pytest

from jwst_tvbadpix import atomic
from jwst_tvbadpix.atomic import make_hidden_folder, open_hidden_folder, replace_whole

KILLED = """
import os, pathlib, sys
from jwst_tvbadpix.atomic import replace_whole
with replace_whole(sys.argv[1]) as path:
    path.write_text("half")
    os.kill(os.getpid(), 9)
"""


def leave_hidden(folder):
    """What a process that is killed leaves."""
    command = [sys.executable, "-c", KILLED, str(folder / "x.txt")]
    assert subprocess.run(command, timeout=300).returncode == -9
    (left,) = folder.iterdir()
    assert left.name.startswith(".tvbadpix-")
    assert (left / "x.txt").read_text() == "half"
    return left


def test_the_next_run_removes_what_a_killed_one_left(tmp_path):
    leave_hidden(tmp_path)
    with replace_whole(tmp_path / "x.txt") as path:
        path.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]
    assert (tmp_path / "x.txt").read_text() == "whole"


def test_folders_of_living_processes_stay(tmp_path):
    own = make_hidden_folder(tmp_path)
    parent = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    parent.mkdir()
    with open_hidden_folder(tmp_path):
        assert own.is_dir()
        assert parent.is_dir()


def test_folders_of_another_machine_stay(tmp_path, monkeypatch):
    left = leave_hidden(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(atomic.socket, "gethostname", lambda: "another")
        with open_hidden_folder(tmp_path):
            assert left.is_dir()
    with open_hidden_folder(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("name", ["", "x", "x-y", "-1-x", "9" * 40 + "-x", "²-x"])
def test_names_of_others_stay(tmp_path, name):
    prefix = make_hidden_folder(tmp_path).name.split(f"{os.getpid()}-")[0]
    (tmp_path / f"{prefix}{name}").mkdir(exist_ok=True)
    with open_hidden_folder(tmp_path):
        assert (tmp_path / f"{prefix}{name}").is_dir()
