"""A function in a fork beside this process: its result, its end, and what happens without."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from jwst_tvbadpix.processes import run_beside

alone = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) == 1,
    reason="nothing is forked on one processor, or beside Linux",
)


def run_alone(code):
    """Run a test in a process without the threads that other tests have left in this one."""
    header = "import os, signal\nfrom jwst_tvbadpix.processes import run_beside\n"
    command = [sys.executable, "-c", header + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@alone
def test_the_function_runs_in_another_process():
    run_alone("""
        with run_beside(os.getpid) as wait:
            assert wait() != os.getpid()
    """)


def test_an_error_of_the_function_is_raised_here():
    def fail():
        raise ValueError("no")

    with run_beside(fail) as wait, pytest.raises(ValueError, match="no"):
        wait()


def test_what_a_killed_fork_did_not_make_is_made_here():
    here = os.getpid()

    def make():
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return "made"

    with run_beside(make) as wait:
        assert wait() == "made"


@alone
def test_a_fork_ends_with_its_context():
    run_alone("""
        reader, writer = os.pipe()

        def sleep():
            os.write(writer, str(os.getpid()).encode())
            signal.pause()

        with run_beside(sleep):
            process = int(os.read(reader, 20))
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            pass
        else:
            raise AssertionError("it lives")
    """)


def test_beside_threads_at_work_nothing_is_forked():
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with run_beside(os.getpid) as wait:
            assert wait() == os.getpid()
    finally:
        end.set()
        thread.join(60)
