"""Run the headline of each benchmark and remake the table in the docs.

    python benchmarks/table.py --output docs/measured_speed.inc [--bench ../shared/bench]

Takes about ten minutes on two idle cores. A benchmark that fails is a row that says so, and the
exit status is 1; so it is where a limit is not kept. ``bench_scale.py`` prints no headline of one
run but lines for each number of exposures: its rows are made of these.
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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from headline import Headline

HERE = Path(__file__).parent
# Script, its folder within that of the benchmarks with truth, what else it is told.
_SCRIPTS = (
    ("bench_badpix.py", "badpix", ()),
    ("bench_stack.py", "flat", ()),
    ("bench_starflat.py", "", ()),
    ("bench_absflux.py", "", ()),
)
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
# A line of `judge` or `tell` of bench_scale.py.
_SCALE_LINE = re.compile(
    r"(?:PASS|FAIL)?\s+(?:(\d+) exposures|one more on (\d+)): (.+?)"
    r"\s+([\d.e+-]+)(?:\s+limit <= (\S+))?"
)


class BenchmarkError(RuntimeError):
    """A benchmark did not run to its end, or says nothing that is understood."""


def main() -> int:
    """Run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="the file that the docs include")
    parser.add_argument("--bench", type=Path, help="folder of the benchmarks with truth")
    parser.add_argument("--data", type=Path, help="where the data go (default: a temporary folder)")
    parser.add_argument(
        "--scale", type=int, nargs="*", default=[100, 300], help="exposures of bench_scale.py"
    )
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows, kept = [], True
    with tempfile.TemporaryDirectory(prefix="bench_") as temporary:
        data = (options.data or Path(temporary)).resolve()
        data.mkdir(parents=True, exist_ok=True)
        for script, folder, arguments in _SCRIPTS:
            command = [script, "--json", "--data", str(data), *arguments]
            if folder and options.bench is not None:
                command += ["--bench", str((options.bench / folder).resolve())]
            try:
                headline = read_headline(run(command))
            except BenchmarkError as error:
                rows.append(describe_failure(script, error))
                kept = False
            else:
                rows += describe(headline)
                kept &= keeps_limits(headline)
        if options.scale and (HERE / "bench_scale.py").is_file():
            command = ["bench_scale.py", "--data", str(data / "scale")]
            try:
                lines = run([*command, "--n", *map(str, options.scale), "--update"])
                rows += describe_scale(lines)
                kept &= "FAIL" not in lines
            except BenchmarkError as error:
                rows.append(describe_failure("bench_scale.py", error))
                kept = False
    write_table(options.output, rows, load)
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


def read_headline(printed: str) -> Headline:
    """Read the last line of a script."""
    try:
        return Headline.from_json(printed.splitlines()[-1])
    except (IndexError, KeyError, TypeError, ValueError) as error:
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


def describe_scale(printed: str) -> list[list[str]]:
    """Rows of bench_scale.py: one for each number of exposures, and one for the update."""
    found: dict[str, dict[str, tuple[float, str]]] = {}
    for line in printed.splitlines():
        match = _SCALE_LINE.fullmatch(line.rstrip())
        if match:
            n, more, what, value, limit = match.groups()
            name = f"Masks: {n} full frames" if n else f"Update: one more full frame on {more}"
            found.setdefault(name, {})[what] = (float(value), limit or "")
    if not found:
        raise BenchmarkError("it prints no line that is understood")
    rows = []
    for name, values in found.items():

        def say(what: str, values: dict[str, tuple[float, str]] = values) -> str:
            return f"{values[what][0]:.3g}" if what in values else ""

        limits = [
            f"{values[what][1]} {unit}"
            for what, unit in (("wall seconds", "s"), ("peak memory [GB]", "GB"))
            if values.get(what, (0.0, ""))[1]
        ]
        kept = all(value <= float(limit) for value, limit in values.values() if limit)
        rows.append(
            [
                name,
                f"jwst_tvbadpix {version('jwst-tvbadpix')}",
                *(say(w) for w in ("wall seconds", "processor seconds", "peak memory [GB]")),
                "",
                say("seconds to read SCI once"),
                "",
                say("wall seconds over those"),
                f"{', '.join(limits)}: {'kept' if kept else 'not kept'}" if limits else "",
            ]
        )
    return rows


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


def write_table(path: Path, rows: Sequence[Sequence[str]], load: float) -> None:
    """Write the table as reStructuredText, all or nothing."""
    lines = [
        ".. Made by benchmarks/table.py; do not edit.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {describe_machine()}; load average {load:.1f} before the "
        "first run.",
        "",
        "Python "
        + ", ".join([platform.python_version(), *(f"{p} {version(p)}" for p in PACKAGES)])
        + ".",
        "",
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    for row in (COLUMNS, *rows):
        for k, cell in enumerate(row):
            # What an error says must not be taken for markup.
            text = re.sub(r"([\\*`|_])", r"\\\1", " ".join(cell.split()))
            lines.append(f"   {'* ' if k == 0 else '  '}- {text}".rstrip())
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
