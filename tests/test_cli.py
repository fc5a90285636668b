"""What a person sees of ``tvbadpix``: help, messages, exit status, dry runs, completion."""

import argparse
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from references import make_history, write_masks
from tasks import started

from jwst_tvbadpix.cli import _shared, build_parser, demo, main
from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.programmes import mast
from jwst_tvbadpix.refmodels import build_mask, write_twins
from jwst_tvbadpix.simulate import write_references

COMMANDS = next(
    action.choices
    for action in build_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)
# These write nothing that lasts.
READERS = {"context", "completion"}


def list_examples(epilog):
    """The command lines below 'examples:', continued lines joined, as lists of words."""
    text = epilog.partition("examples:\n")[2].partition("\n\n")[0].replace("\\\n", "")
    lines = [re.sub(r'^eval "\$\((.*)\)"$', r"\1", line.strip()) for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line]


EXAMPLES = [
    example
    for epilog in (build_parser().epilog, *(each.epilog for each in COMMANDS.values()))
    for example in list_examples(epilog)
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    write_masks(folder / "masks", make_history())
    ramp_date = ["--ramp-date", "2024-01-01"]
    simulated = ["simulate", str(folder / "field"), "--mode", "slitless", "--exposures", "2"]
    assert main([*simulated, *ramp_date]) == 0
    shutil.copy(next(folder.glob("field/*_rate.fits")), folder / "x_rate.fits")
    ramp = next(folder.glob("field/*_uncal.fits")).rename(folder / "x_uncal.fits")
    members = [{"expname": ramp.name, "exptype": "science"}]
    asn = {"products": [{"name": "p", "members": members}]}
    (folder / "ramps_asn.json").write_text(json.dumps(asn))
    static = build_mask(
        np.zeros((1024, 1032), np.uint32),
        detector="MIRIMAGE",
        useafter="2021-12-25T00:00:00",
        description="No bad pixel",
        history=["Made by a test."],
        pedigree="SIMULATION",
    )
    mask = write_twins(static, folder / "jwst_miri_mask_0067")[1]
    references = {"mask": [mask], **write_references(folder / "references")}
    build_context(folder / "crds_cache", references, name="jwst_1303.pmap")
    (folder / "delivery").symlink_to("crds_cache")
    return folder


@pytest.fixture
def place(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    row = {"filename": "a_rate.fits", "fileSize": 5}
    monkeypatch.setattr(mast, "run_query", lambda query: [row])


def snapshot(folder):
    """All that is beneath a folder, links followed, and when it was written."""
    paths = [Path(top, name) for top, dirs, files in os.walk(folder) for name in (*dirs, *files)]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def run_example(example, monkeypatch, capsys, *more):
    """Run one, with the variables before it; status and lines of stdout."""
    variables = [word for word in example if re.match(r"[A-Z_]+=", word)]
    for variable in variables:
        monkeypatch.setenv(*variable.split("=", 1))
    status = main([*example[len(variables) + 1 :], *more])
    return status, capsys.readouterr().out.splitlines()


# --- help ----------------------------------------------------------------------------------------


def test_every_command_has_examples():
    assert len(list_examples(build_parser().epilog)) == 2
    for name, command in COMMANDS.items():
        examples = list_examples(command.epilog)
        assert 1 <= len(examples) <= 2, name
        assert all("tvbadpix" in example and name in example for example in examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_is_there(name, capsys, monkeypatch):
    """Each option that takes a value says its default, or must be given; lines fit a terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    command = COMMANDS[name]
    assert command.description
    alternatives = {a for group in command._mutually_exclusive_groups for a in group._group_actions}
    for action in command._actions:
        flag = action.nargs == 0
        if action.option_strings and not (flag or action.required or action in alternatives):
            assert "default" in action.help, action.dest
        assert action.help
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert {"--log-level LEVEL", "--debug"} <= set(re.findall(r"--[a-z-]+(?: LEVEL)?", text))


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - READERS))
def test_what_writes_can_be_asked_beforehand(name):
    assert "--dry-run" in COMMANDS[name]._option_string_actions


def test_exit_statuses_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^  (\d+) +\w", capsys.readouterr().out, re.MULTILINE)
    assert listed == ["0", "1", "2", "70", "130", "141"]


# --- dry runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_dry_run_of_each_example_writes_nothing(example, prepared, place, monkeypatch, capsys):
    before = snapshot(prepared)
    name = example[example.index("tvbadpix") + 1]
    more = () if name in READERS else ("--dry-run",)
    status, lines = run_example(example, monkeypatch, capsys, *more)
    assert status == 0, lines
    assert snapshot(prepared) == before
    planned = [line for line in lines if line.startswith(("would write ", "would replace "))]
    lists = name in READERS or example[1:] == ["parameters"] or "--program" in example
    lists |= name == "check" and "--output" not in example
    assert bool(planned) is not lists, lines


@pytest.mark.parametrize(
    "words",
    [
        "simulate new --mode slitless --exposures 2 --ramp-date 2024-01-01",
        "simulate new --mode flats --exposures 2",
        "simulate new --mode standards --exposures 2",
        "find --mode LRS --output-dir new",
        "find --mode LRS field --association lrs --output new/lrs.ecsv --output-dir new",
        "associate field --output-dir new",
        "parameters spec2_lrs_slit image2_flats --output-dir new",
        "mask-at masks/lrs_MIRIMAGE_badpixhistory.asdf --date 2025-03-06 --output-dir new",
        "neutral-mask --detector NRS1 --readpatt NRSIRS2 --output-dir new",
        "check x_rate.fits --history masks/lrs_MIRIMAGE_badpixhistory.asdf --output new/t.ecsv",
        "report masks --figures png --output-dir new",
        pytest.param("deliver masks --output-dir new", marks=pytest.mark.slow),
    ],
)
def test_what_a_dry_run_says_is_what_is_written(words, prepared, place, tmp_path, capsys):
    words = [word.replace("new", str(tmp_path / "new")) for word in words.split()]
    assert main([*words, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    lines = capsys.readouterr().out.splitlines()
    said = [line.removeprefix("would write ") for line in lines if line.startswith("would write ")]
    assert main(words) == 0
    written = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    folders = [name for name in said if name.endswith("/")]
    missing = {name for name in said if name not in written} - set(folders)
    assert not missing
    assert [n for n in written if n not in said and not n.startswith(tuple(folders))] == []
    assert all(any(n.startswith(folder) for n in written) for folder in folders)
    capsys.readouterr()
    # A second run finds its own files; what download keeps is tested elsewhere.
    assert main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("would replace ") for line in lines) == len(said)


def test_dry_run_shows_the_errors_of_the_run(place, tmp_path, capsys):
    """A folder that cannot be made, a date too early, a mask that was edited, no such stage."""
    (tmp_path / "file").write_text("")
    history = "masks/lrs_MIRIMAGE_badpixhistory.asdf"
    (tmp_path / "spec2_lrs_slit.asdf").write_text("#ASDF 1.0.0\n")
    for words, text in (
        (["demo", "--output-dir", tmp_path / "file" / "x"], "expected a folder"),
        (["simulate", tmp_path / "file"], "expected a folder"),
        (["mask-at", history, "--date", "2020-01-01"], "2020-01-01"),
        (["parameters", "spec2_lrs_slit", "--output-dir", tmp_path], "differs"),
        (["reprocess", "ramps_asn.json", "--parameters", "spec2_mrs"], "CRDS set-up"),
        (["deliver", "field", "--output-dir", tmp_path / "out"], "expected"),
    ):
        assert main([*map(str, words), "--dry-run"]) == 1, words
        assert text in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_space_is_looked_at_first(monkeypatch, tmp_path, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    for name, size in (("demo", "0.6"), ("prove", "1")):
        assert main([name, "--output-dir", str(tmp_path / "new")]) == 1
        assert f"expected {size} GB free" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- errors and messages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("expected x, found y; do z"), 1, "error: expected x, found y; do z\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
        (MemoryError(), 1, "error: not enough memory\n"),
        (KeyError("no luck"), 70, "defect: KeyError: 'no luck'\nThis is a defect of jwst_tvbadpix"),
        (SystemExit(-1), 70, "defect: SystemExit: -1\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("debug", [(), ("--debug", "demo"), ("demo", "--debug")])
def test_errors_come_without_tracebacks(monkeypatch, capsys, error, status, text, debug):
    def fail(options):
        raise error

    monkeypatch.setattr(demo, "_run", fail)
    assert main(debug or ["demo"]) == status
    said = capsys.readouterr()
    assert f"tvbadpix demo: {text}" in said.err
    assert ("Traceback" in said.err) is bool(debug)
    assert said.err.startswith("Traceback" if debug else "tvbadpix demo: ")
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["demo"], "iwe"),
        (["--log-level", "error", "demo"], "e"),
        (["demo", "--log-level", "WARNING"], "we"),
        (["demo", "--log-level=DEBUG"], "diwe"),
    ],
)
def test_messages_go_to_stderr_by_level(monkeypatch, capsys, words, seen):
    def tell(options):
        for level, text in zip((10, 20, 30, 40), "diwe", strict=True):
            logging.getLogger("jwst_tvbadpix.any").log(level, "ours-%s", text)
            logging.getLogger("jwst.any").log(level, "other-%s", text)
        return 0

    monkeypatch.setattr(demo, "_run", tell)
    loggers = logging.getLogger(), logging.getLogger("jwst_tvbadpix")
    before = [(each.level, list(each.handlers)) for each in loggers]
    assert main(words) == 0
    assert [(each.level, list(each.handlers)) for each in loggers] == before
    said = capsys.readouterr()
    assert said.out == ""
    assert "".join(re.findall(r"ours-(\w)", said.err)) == seen
    others = {"iwe": "we", "diwe": "iwe"}.get(seen, seen)
    assert "".join(re.findall(r"other-(\w)", said.err)) == others


def test_lines_of_the_log_stand_above_a_progress_bar(capsys, monkeypatch):
    from tqdm import tqdm

    def work(options):
        with tqdm(total=2, desc="Working", disable=False, file=sys.stderr, mininterval=0) as bar:
            bar.update(1)
            logging.getLogger("jwst_tvbadpix.any").info("half done")
            bar.update(1)
            raise InputError("this is the end")

    monkeypatch.setattr(demo, "_run", work)
    assert main(["demo"]) == 1
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    assert sum("Working" in line for line in lines) >= 2
    said = [line for line in lines if "half" in line or "end" in line]
    assert len(said) == 2
    assert not any("Working" in line for line in said)


def run_process(*words, **keywords):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "jwst_tvbadpix.cli", *words]
    return started(command, env=env, stderr=subprocess.PIPE, **keywords)


@pytest.mark.parametrize("words", [["--help"], ["parameters"]])
def test_a_reader_that_leaves_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    with run_process(*words, stdout=writer) as process:
        os.close(writer)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (141, "")


def test_a_closed_output_is_no_error():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = f"{sys.executable} -m jwst_tvbadpix.cli parameters >&-"
    done = subprocess.run(
        ["sh", "-c", line], env=env, stderr=subprocess.PIPE, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_date_that_is_none_is_told_in_one_line(tmp_path, capsys):
    assert main(["simulate", str(tmp_path), "--ramp-date", "2024-13-45", "--dry-run"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "such as 2024-07-01T12:00:00" in line
    assert "2024-13-45" in line


def test_wrong_usage_is_2(capsys):
    for words in ([], ["nothing"], ["demo", "--seed", "1"], ["demo", "--log-level", "LOUD"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        assert "usage: tvbadpix" in capsys.readouterr().err


def test_results_are_all_that_goes_to_stdout(place, tmp_path, capsys):
    words = ["simulate", str(tmp_path), "--mode", "slitless", "--exposures", "4"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(next(tmp_path.glob("*_asn.json")))
    assert len(said.out.splitlines()) == 2
    assert "INFO: Simulating: 2 of 4 files" in said.err


def test_a_table_has_one_kind_of_name(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.ecsv"):
        _shared.write_table(None, tmp_path / "table.csv", dry_run=True)


def test_strun_shows_the_message_of_our_steps_alone(tmp_path):
    """One line of the message in its box; below it no traceback."""
    code = "from stpipe._cli.strun import main; main()"
    words = ["time_variable_bad_pixel", "absent_rate.fits"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "found absent_rate.fits" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_citation_is_of_this_version():
    root = Path(__file__).parents[1]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [one["name"] for one in citation["authors"]] == [p["name"] for p in project["authors"]]


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path):
    """By the function that bash calls, found as bash finds it."""
    (tmp_path / "file_rate.fits").write_text("")
    (tmp_path / "folder").mkdir()
    script = r"""
        tvbadpix() { "$PYTHON" -m jwst_tvbadpix.cli "$@"; }
        eval "$(tvbadpix completion bash)"
        function=$(complete -p tvbadpix | sed 's/.*-F \([^ ]*\).*/\1/')
        while read -r -a words; do
            COMP_WORDS=("${words[@]//@/}")
            COMP_CWORD=$((${#words[@]} - 1)) COMP_LINE="${COMP_WORDS[*]}" COMPREPLY=()
            COMP_POINT=${#COMP_LINE}
            $function tvbadpix "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            echo "$(printf '%s\n' "${COMPREPLY[@]}" | sort | tr '\n' ' ')"
        done
    """
    # @ = nothing is typed yet.
    asked = {
        "tvbadpix ma": "mask-at",
        "tvbadpix mask-at --d": "--date --debug --depth --dry-run",
        "tvbadpix mask-at --depth @": "DEEP MEDIUM SHALLOW",
        "tvbadpix mask-at f": "file_rate.fits folder",
        "tvbadpix mask-at x.asdf --output-dir f": "folder",
        "tvbadpix simulate --mode sl": "slit slitless",
        "tvbadpix --log-level @": "DEBUG ERROR INFO WARNING",
        "tvbadpix --debug sim": "simulate",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        input="\n".join(asked) + "\n",
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    found = [line.strip() for line in done.stdout.splitlines()]
    assert dict(zip(asked, found, strict=True)) == asked


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_each_shell_gets_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, timeout=60)
