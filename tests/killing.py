"""Run commands in forks of one process that has imported everything, and kill some of them.

``python killing.py`` reads one job per line, as JSON: argv (``tvbadpix`` or ``strun`` first), cwd,
log, and what ends it: `seconds` from the start, or `change` and `folder`, at the n-th change of a
file beneath that folder. It prints, for each, its exit status (-9: killed), the seconds it ran and
the changes it made. `times` starts it so often at once, `largest` limits its files [byte],
`humble` takes from root the right to files that their modes deny.
"""

import ctypes
import gc
import importlib
import json
import locale
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")


# What the commands import, so that a fork begins with its work.
MODULES = (
    "bokeh.embed",
    "jwst.stpipe",
    "jwst_tvbadpix.demo",
    "jwst_tvbadpix.imaging",
    "jwst_tvbadpix.programmes",
    "jwst_tvbadpix.reprocess",
    "jwst_tvbadpix.steps.abs_flux_ratio",
    "jwst_tvbadpix.steps.apply_time_variable_mask",
    "jwst_tvbadpix.steps.external_flat_builder",
    "jwst_tvbadpix.steps.time_variable_bad_pixel",
    "matplotlib.figure",
    "photutils.aperture",
    "scipy.optimize",
    "stpipe._cli.strun",
)


def run(job):
    """Run a command as its script does; its exit status."""
    program, *argv = job["argv"]
    sys.argv = [program, *argv]
    if program == "strun":
        from stpipe._cli.strun import main
    else:
        from jwst_tvbadpix.cli import main
    return main()


def is_change(event, arguments, folder):
    """Whether an event changes a file or folder beneath a folder."""
    if event == "open":
        path, mode, flags = arguments
        writes = (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if not (writes or (mode and set(str(mode)) & set("wax+"))):
            return False
    elif event in CHANGES:
        path = arguments[1] if event in ("os.rename", "os.symlink") else arguments[0]
    else:
        return False
    if not isinstance(path, str | bytes | os.PathLike):
        return False
    return os.path.abspath(os.fsdecode(path)).startswith(folder + os.sep)


def count_changes(job):
    """Count changes beneath the folder of a job; kill the group just before the n-th."""
    folder, last, count = os.path.abspath(job["folder"]), job.get("change"), [0]

    def hook(event, arguments):
        if is_change(event, arguments, folder):
            count[0] += 1
            if count[0] == last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)
    return count


def be_humble():
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, as in <linux/capability.h>."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for k in range(3):
        data[k] &= ~0b110
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def end_with_parent():
    """Have this process killed when its parent ends: PR_SET_PDEATHSIG of <linux/prctl.h>."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl")


def fork(job):
    """Start a job in a process group of its own; the process and the pipe of its count."""
    reader, writer = os.pipe()
    pid = os.fork()
    # Both do it, so that the group is there whoever comes first.
    with suppress(OSError):
        os.setpgid(pid, pid)
    if pid:
        os.close(writer)
        return pid, reader
    os.close(reader)
    end_with_parent()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    for stream in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stream == 0 else log, stream)
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    time.tzset()
    locale.setlocale(locale.LC_ALL, job.get("locale", "C"))
    if "largest" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], job["largest"]))
    if job.get("humble"):
        be_humble()
    count = count_changes(job)
    try:
        status = run(job)
    except SystemExit as error:
        status = error.code
    sys.stdout.flush()
    os.write(writer, str(count[0]).encode())
    os.close(writer)
    sys.exit(status)


def watch(pid, reader, seconds):
    """Wait for the end of a job, or kill its group after some time."""
    start = time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if seconds is not None and time.monotonic() - start > seconds:
            os.killpg(pid, signal.SIGKILL)
            seconds = None
        time.sleep(0.002)
    count = os.read(reader, 20)
    os.close(reader)
    status = os.waitstatus_to_exitcode(status)
    return {"status": status, "seconds": time.monotonic() - start, "changes": int(count or -1)}


def serve():
    end_with_parent()
    for name in MODULES:
        importlib.import_module(name)
    # Processes of `reprocess` begin with their work, too; they hold the ends of their own pipes.
    workers = importlib.import_module("jwst_tvbadpix.reprocess.workers")
    workers._START, workers._PATIENCE_S = "fork", 0.1
    gc.freeze()
    say("ready")
    for line in sys.stdin:
        job = json.loads(line)
        Path(job["cwd"]).mkdir(parents=True, exist_ok=True)
        started = [fork(job) for _ in range(job.get("times", 1))]
        ended = [watch(*one, job.get("seconds")) for one in started]
        say(json.dumps({**ended[0], "all": [one["status"] for one in ended]}))


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
