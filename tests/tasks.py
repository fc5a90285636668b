"""Tasks for other processes, their start and whether they live; apart, to be imported quickly."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

# The longest that a command may take [s]; less than a test may.
LIMIT_S = 300


def act(task):
    """Do what a task says, in another process."""
    if task == "fail":
        raise ValueError("no\nluck")
    if task == "leave":
        raise SystemExit(-1)
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "threads":
        return os.environ["OMP_NUM_THREADS"]
    return os.getpid()


def wait(path):
    """Write the number of the process to a file, then do nothing for a minute."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@contextmanager
def started(command, **keywords):
    """Start a process, which is killed at the end of the block unless it has ended."""
    with subprocess.Popen(command, text=True, **keywords) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition, seconds=60):
    """Require that something comes true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(pid):
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may be there to reap it.
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
