"""Run the headline of each benchmark and remake the table in the docs.

    python benchmarks/table.py --output docs/measured_speed.inc [--bench ../shared/bench]

Takes about twelve minutes on two idle cores, most of them those of the 1,000 exposures of
``bench_scale.py``, which take 13 GB of disk and their store twice as much. A benchmark that fails
is a row that says so, and the exit status is 1; so it is where a limit is not kept. Where a peer
takes less time, a remark under the table says why.
"""

import argparse
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from headline import WHY_LESS, Headline

HERE = Path(__file__).parent
# Script, its folder within that of the benchmarks with truth, what else it is told.
_SCRIPTS = (
    ("bench_badpix.py", "badpix", ()),
    ("bench_stack.py", "flat", ()),
    ("bench_starflat.py", "", ()),
    ("bench_absflux.py", "", ()),
    ("bench_wfi.py", "", ()),
    ("bench_scale.py", "", ("--n", "100", "300", "1000", "--update")),
)
# Told to a script in place of the above by ``--small``, which tries all in a few minutes.
_SMALL = {
    "bench_starflat.py": ("--large", "2000"),
    "bench_absflux.py": ("--rows", "5000"),
    "bench_wfi.py": ("--size", "256", "--exposures", "12"),
    "bench_scale.py": ("--n", "8", "--update"),
}
_MOST_SECONDS = 1200
COLUMNS = (
    "Benchmark",
    "Tool",
    "Wall [s]",
    "CPU [s]",
    "Peak [GB]",
    "Accuracy",
    "Read once [s]",
    "Copy once [s]",
    "Wall over read",
    "Limit",
)
PACKAGES = (
    *("jwst-tvbadpix", "jwst", "stcal", "stdatamodels", "stpipe", "crds", "numpy", "scipy"),
    *("astropy", "photutils", "bottleneck", "ccdproc"),
)


class BenchmarkError(RuntimeError):
    """A benchmark did not run to its end, or says nothing that is understood."""


def main() -> int:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the file that the docs include")
    parser.add_argument("--bench", type=Path, help="folder of the benchmarks with truth")
    parser.add_argument("--data", type=Path, help="where the data go (default: a temporary folder)")
    parser.add_argument("--small", action="store_true", help="less data: a trial, not a measure")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows, remarks, kept = [], [], True
    with tempfile.TemporaryDirectory(prefix="bench_") as temporary:
        data = (options.data or Path(temporary)).resolve()
        data.mkdir(parents=True, exist_ok=True)
        for script, folder, arguments in _SCRIPTS:
            if options.small:
                arguments = _SMALL.get(script, arguments)
            command = [script, "--json", "--data", str(data / Path(script).stem), *arguments]
            if folder and options.bench is not None:
                command += ["--bench", str((options.bench / folder).resolve())]
            try:
                headlines = read_headlines(run(command))
            except BenchmarkError as error:
                rows.append(describe_failure(script, error))
                kept = False
                continue
            for headline in headlines:
                rows += describe(headline)
                remarks += remark(headline)
                kept &= keeps_limits(headline)
    write_table(options.output, rows, load, remarks)
    print(f"{'PASS' if kept else 'FAIL'}: {len(rows)} rows in {options.output}")
    return 0 if kept else 1


def run(command: Sequence[str]) -> str:
    """Run a script of this folder; what it prints."""
    print(f"{command[0]} ...", file=sys.stderr, flush=True)
    process = subprocess.Popen(
        [sys.executable, str(HERE / command[0]), *command[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, errors = process.communicate(timeout=_MOST_SECONDS)
    except BaseException as error:
        # The tools that it runs too.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise BenchmarkError(f"not done after {_MOST_SECONDS} s") from error
        raise
    if process.returncode:
        last = (errors.strip() or f"exit status {process.returncode}").splitlines()[-1]
        raise BenchmarkError(last)
    return printed


def read_headlines(printed: str) -> list[Headline]:
    """Read the headlines that a script printed, one a line, its last line being one."""
    try:
        *before, last = printed.splitlines()
        found = [line for line in before if line.startswith("{")]
        return [Headline.from_json(line) for line in (*found, last)]
    except (KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(f"its last line is no headline: {error}") from error


def keeps_limits(headline: Headline) -> bool:
    """Tell whether we keep the limits."""
    ours = headline.ours
    return ours.seconds <= headline.limit_seconds and ours.peak_gb <= headline.limit_gb


def describe(headline: Headline) -> list[list[str]]:
    """Rows of a headline: ours, then the peers."""
    limits = [
        f"{limit:g} {unit}"
        for limit, unit in ((headline.limit_seconds, "s"), (headline.limit_gb, "GB"))
        if math.isfinite(limit)
    ]
    rows = []
    for took in (headline.ours, *headline.peers):
        ours = took is headline.ours
        rows.append(
            [
                f"{headline.name}: {headline.data} ({headline.input_gb:.2g} GB)" if ours else "",
                took.tool,
                *(f"{value:.3g}" for value in (took.seconds, took.cpu_seconds, took.peak_gb)),
                took.accuracy,
                f"{headline.read_seconds:.2g}" if ours else "",
                f"{headline.copy_seconds:.2g}" if ours else "",
                f"{took.seconds / headline.read_seconds:.3g}",
                f"{', '.join(limits)}: {'kept' if keeps_limits(headline) else 'not kept'}"
                if ours and limits
                else "",
            ]
        )
    return rows


def remark(headline: Headline) -> list[str]:
    """Say which peers take less time than we do, and why."""
    ours = headline.ours.seconds
    return [
        f"{headline.name}: {took.tool} takes {took.seconds / ours:.2g} of our time. "
        + next((why for tool, why in WHY_LESS.items() if tool in took.tool), "Why is not known.")
        for took in headline.peers
        if took.seconds < ours
    ]


def describe_failure(script: str, error: BenchmarkError) -> list[str]:
    """Row of a benchmark that failed."""
    return [script, f"failed: {error}", *[""] * (len(COLUMNS) - 2)]


def describe_machine() -> str:
    """Name processor, cores and memory."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB"


def list_versions() -> list[str]:
    """List the packages that are installed, with their versions."""
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # a peer; its benchmark says so itself
            found.append(f"{package} {version(package)}")
    return found


def escape(text: str) -> str:
    """Put on one line what must not be taken for markup, as in an error."""
    return re.sub(r"([\\*`|_])", r"\\\1", " ".join(text.split()))


def write_table(
    path: Path, rows: Sequence[Sequence[str]], load: float, remarks: Sequence[str] = ()
) -> None:
    """Write the table, and under it the remarks, as reStructuredText, all or nothing."""
    lines = [
        ".. Made by benchmarks/table.py; do not edit.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {describe_machine()}; load average {load:.1f} before the "
        "first run.",
        "",
        "Python " + ", ".join([platform.python_version(), *list_versions()]) + ".",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    for row in (COLUMNS, *rows):
        for k, cell in enumerate(row):
            lines.append(f"   {'* ' if k == 0 else '  '}- {escape(cell)}".rstrip())
    lines += ["", *(f"* {escape(text)}" for text in remarks)] if remarks else []
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
