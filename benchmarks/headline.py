"""One headline of a benchmark: what we take, the floor and public peers, side by side."""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from measuring import judge, run_command, tell, tell_load

# Packages of the tools.
_PACKAGES = {
    "ours": "jwst_tvbadpix",
    "badpix_selfcal": "jwst",
    "medfilt": "stcal",
    "ccdproc": "ccdproc",
    "joint lsqr": "scipy",
}
# What a peer leaves out where it is faster.
WHY_LESS = {
    "badpix_selfcal": "It makes one mask without dates, from the minimum of all exposures.",
    "medfilt": "It is one filter of each exposure, and keeps no histories.",
    "ccdproc": "It rejects no sources and states no errors.",
    "joint lsqr": "It is told the form and all scatters, and finds no outliers and no errors.",
}
# What is copied at once for the bandwidth of the memory [byte].
_PIECE = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Took:
    """What one tool took, in a process of its own, imports included.

    Attributes
    ----------
    tool : str
    seconds, cpu_seconds : float
        Wall time, and time on all processors.
    peak_gb : float
        Peak resident memory [1e9 byte].
    accuracy : str
        What its result is worth.
    """

    tool: str
    seconds: float
    cpu_seconds: float
    peak_gb: float
    accuracy: str


@dataclass(frozen=True, slots=True)
class Headline:
    """A benchmark's result.

    Attributes
    ----------
    name, data : str
        What is done, to what.
    input_gb : float
        Size of the arrays [1e9 byte].
    read_seconds, copy_seconds : float
        To read them once from disk, and to copy them once in memory.
    limit_seconds, limit_gb : float
        For us; inf = none.
    ours : Took
    peers : tuple of Took
    load : float
        Load average before the first run.
    """

    name: str
    data: str
    input_gb: float
    read_seconds: float
    copy_seconds: float
    limit_seconds: float
    limit_gb: float
    ours: Took
    peers: tuple[Took, ...]
    load: float

    def to_json(self) -> str:
        """Write on one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Headline":
        """Read what `to_json` wrote."""
        values = json.loads(line)
        ours, *peers = (Took(**took) for took in (values.pop("ours"), *values.pop("peers")))
        return cls(**values, ours=ours, peers=tuple(peers))


def add_options(parser: argparse.ArgumentParser, data: str) -> None:
    """Add the options that all headlines have."""
    parser.add_argument("--bench", type=Path, help="folder of the benchmark with truth")
    parser.add_argument("--data", type=Path, help=f"where {data} go (default: a temporary folder)")
    parser.add_argument(
        "--json", action="store_true", help="only the headline, as JSON on the last line"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)


def make_folder(options: argparse.Namespace) -> "tempfile.TemporaryDirectory[str] | None":
    """Give `options.data` a temporary folder where there is none; keep what is returned."""
    if options.data is not None:
        options.data.mkdir(parents=True, exist_ok=True)
        return None
    folder = tempfile.TemporaryDirectory(prefix="bench_")
    options.data = Path(folder.name)
    return folder


def run_tool(tool: str, data: Path, score: Callable[[Path], str]) -> Took:
    """Run the calling script with ``--work TOOL`` on a folder, in a process of its own.

    It leaves ``TOOL.npz`` there, which is scored here.
    """
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "--work", tool]
    took = run_command([*command, "--data", str(data)], data / f"{tool}.log")
    return Took(name_tool(tool), *took, score(data / f"{tool}.npz"))


def name_tool(tool: str) -> str:
    """Name a tool with its package, and the version."""
    package = _PACKAGES[tool]
    label = "" if tool in ("ours", package) else f", {tool}"
    return f"{package} {version(package)}{label}"


def measure_floor(files: Sequence[Path]) -> tuple[float, float, float]:
    """Size of files [1e9 byte], seconds to read them once from disk, to copy them in memory."""
    size = sum(path.stat().st_size for path in files)
    for path in files:
        with path.open("rb") as file:
            # What is in the system's cache is not read from disk.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    piece, other = bytearray(_PIECE), bytearray(_PIECE)
    begin = time.monotonic()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    middle = time.monotonic()
    for start in range(0, size, _PIECE):
        n = min(_PIECE, size - start)
        memoryview(other)[:n] = memoryview(piece)[:n]
    return size / 1e9, middle - begin, time.monotonic() - middle


def show(headline: Headline, *, as_json: bool) -> None:
    """Print a headline: a few lines, or JSON."""
    if as_json:
        print(headline.to_json())
        return
    print(f"{headline.name}: {headline.data}")
    for took in (headline.ours, *headline.peers):
        limits = (headline.limit_seconds, headline.limit_gb)
        for what, value, limit in zip(
            ("wall seconds", "peak memory [GB]"), (took.seconds, took.peak_gb), limits, strict=True
        ):
            if took is headline.ours and math.isfinite(limit):
                judge(f"{took.tool}: {what}", value, high=limit)
            else:
                tell(f"{took.tool}: {what}", value)
        tell(f"{took.tool}: processor seconds", took.cpu_seconds)
        tell(f"{took.tool}: accuracy", took.accuracy)
    tell(f"seconds to read {headline.input_gb:.2f} GB once from disk", headline.read_seconds)
    tell("seconds to copy them once in memory", headline.copy_seconds)
    tell("our wall seconds over reading once", headline.ours.seconds / headline.read_seconds)


def measure(
    name: str,
    data: str,
    files: Sequence[Path],
    tools: Sequence[str],
    folder: Path,
    score: Callable[[Path], str],
    *,
    limits: tuple[float, float],
    ours: Took | None = None,
    as_json: bool,
) -> Headline:
    """Measure the floor, ourselves and the peers; print it.

    Parameters
    ----------
    name, data : str
        What is done, to what.
    files : sequence of Path
        The arrays.
    tools : sequence of str
        Peers, and ``ours`` first where `ours` is not given; see `run_tool`.
    folder : Path
        Of the data.
    score : callable
        Says what the result of a tool is worth.
    limits : tuple of float
        Wall seconds and 1e9 byte that we may take.
    ours : Took, optional
        What was measured already.
    as_json : bool
    """
    load = os.getloadavg()[0]
    if not as_json:
        tell_load()
    floor = measure_floor(files)
    took = [*([] if ours is None else [ours]), *(run_tool(tool, folder, score) for tool in tools)]
    headline = Headline(name, data, *floor, *limits, took[0], tuple(took[1:]), load)
    show(headline, as_json=as_json)
    return headline
