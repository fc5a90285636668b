"""Tasks for other processes; apart, so that these start quickly."""

import os
import signal


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
