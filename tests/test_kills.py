"""kill -9 at any moment: whole files or none, and a rerun gives what an undisturbed run does."""

import logging
from unittest.mock import Mock

import pytest
from writers import BY_NAME, CHEAP, WRITERS, Inputs, Trial, plan_kills

log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"), server)


def kill_often(server, inputs, folder, name, count):
    """Kill a command many times; how many of the kills came before its end."""
    trial = Trial(server, BY_NAME[name], inputs, folder / name.replace(" ", "_"))
    ends = [
        trial.kill(fresh=k % 2 == 0, **end)
        for k, end in enumerate(plan_kills(trial, count, seed=7831))
    ]
    log.info(
        "%s: %d of %d killed before the end, %d changes, at most %d hidden files left",
        name,
        sum(killed for killed, _ in ends),
        count,
        trial.changes,
        max(left for _, left in ends),
    )
    return sum(killed for killed, _ in ends)


@pytest.mark.parametrize("name", CHEAP)
def test_a_killed_command_leaves_whole_files_and_can_be_run_again(server, inputs, tmp_path, name):
    assert kill_often(server, inputs, tmp_path, name, 3) >= 1


def test_a_run_that_is_cut_short_answers_no_later_one(server, tmp_path, monkeypatch):
    """As the time limit of a test does: job and server end, and the next run has its own."""
    argv = ["tvbadpix", "parameters", "spec2_mrs", "--output-dir", tmp_path]
    with monkeypatch.context() as patch:
        patch.setattr("writers.json.loads", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            server.run(argv, tmp_path)
    assert server.process is None
    assert server.run(argv, tmp_path)["status"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [writer.name for writer in WRITERS])
def test_every_command_survives_200_kills_over_all(server, inputs, tmp_path, name):
    count = BY_NAME[name].kills
    assert kill_often(server, inputs, tmp_path, name, count) >= count // 3


def test_200_kills_are_planned():
    assert sum(writer.kills for writer in WRITERS) >= 200
