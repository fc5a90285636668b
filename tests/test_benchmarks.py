"""The benchmarks run by themselves, and their table in the docs is what `table.py` writes."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TABLE = Path(__file__).parents[1] / "docs" / "measured_speed.inc"
HEADLINE = {
    "name": "Stack",
    "data": "2 frames",
    "input_gb": 0.5,
    "read_seconds": 0.25,
    "copy_seconds": 0.125,
    "limit_seconds": 10.0,
    "limit_gb": float("inf"),
    "ours": {"tool": "us 1", "seconds": 5.0, "cpu_seconds": 8.0, "peak_gb": 0.5, "accuracy": "a"},
    "peers": [{"tool": "x 2", "seconds": 7.0, "cpu_seconds": 7, "peak_gb": 2, "accuracy": "b_"}],
    "load": 0.0,
}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def read_cells(path):
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("   * -"):
            rows.append([])
        if line.startswith(("   * -", "     -")):
            rows[-1].append(line[6:].strip())
    return rows


def test_the_table_in_the_docs_has_its_columns_versions_and_numbers(load):
    table = load("table")
    header, *rows = read_cells(TABLE)
    assert tuple(header) == table.COLUMNS
    assert len(rows) >= 8
    for row in rows:
        assert len(row) == len(header)
        assert not row[1].startswith("failed")
        assert all(float(cell) > 0 for cell in (*row[2:5], *(c for c in row[6:9] if c)))
    peers = " ".join(row[1] for row in rows)
    for name in ("badpix\\_selfcal", "medfilt", "ccdproc", "joint lsqr"):
        assert name in peers
    text = TABLE.read_text(encoding="utf-8")
    assert re.search(r"^\d{4}-\d\d-\d\d; .+, \d+ cores, \d+ GB; load average [\d.]+ ", text, re.M)
    for package in table.PACKAGES:
        assert re.search(rf"{package} \d+(\.\w+)+", text), package


def test_rows_of_a_headline(load):
    table, headline = load("table"), load("headline")
    (read,) = table.read_headlines("said before\n" + json.dumps(HEADLINE))
    assert headline.Headline.from_json(read.to_json()) == read
    ours, peer = table.describe(read)
    assert ours == [
        *("Stack: 2 frames (0.5 GB)", "us 1", "5", "8", "0.5", "a"),
        *("0.25", "0.12", "20", "10 s: kept"),
    ]
    assert peer == ["", "x 2", "7", "7", "2", "b_", "", "", "28", ""]
    assert table.keeps_limits(read)
    (late,) = table.read_headlines(json.dumps(HEADLINE | {"limit_seconds": 4}))
    assert not table.keeps_limits(late)


def test_each_line_that_is_a_headline_is_read(load):
    table = load("table")
    second = HEADLINE | {"name": "Update"}
    lines = ["seen before", json.dumps(HEADLINE), "      of no account", json.dumps(second)]
    assert [h.name for h in table.read_headlines("\n".join(lines))] == ["Stack", "Update"]
    for text in ("", "\n".join([*lines, "and so on"]), "{}"):
        with pytest.raises(table.BenchmarkError, match="no headline"):
            table.read_headlines(text)


def test_a_peer_that_is_faster_is_told_with_the_reason(load, tmp_path):
    table, headline = load("table"), load("headline")
    peers = [
        {**HEADLINE["peers"][0], "tool": tool, "seconds": seconds}
        for tool, seconds in (("scipy 1, joint lsqr", 2.5), ("x_2", 4.0), ("slow 3", 7.0))
    ]
    (read,) = table.read_headlines(json.dumps(HEADLINE | {"peers": peers}))
    first, second = table.remark(read)
    assert first == (
        "Stack: scipy 1, joint lsqr takes 0.5 of our time. " + headline.WHY_LESS["joint lsqr"]
    )
    assert second == "Stack: x_2 takes 0.8 of our time. Why is not known."
    table.write_table(tmp_path / "t.inc", table.describe(read), 0.0, [first, second])
    text = (tmp_path / "t.inc").read_text(encoding="utf-8")
    assert text.endswith(f"\n\n* {first}\n* {second.replace('_', chr(92) + '_')}\n")
    assert set(headline.WHY_LESS) == set(headline._PACKAGES) - {"ours"}


def test_a_benchmark_that_fails_is_a_row_and_the_status(load, tmp_path, monkeypatch, capsys):
    table = load("table")
    bad, odd = tmp_path / "bench_bad.py", tmp_path / "bench_odd.py"
    bad.write_text("raise SystemExit('no *such* thing')")
    odd.write_text("print('not JSON')")
    good = tmp_path / "bench_good.py"
    good.write_text(f"print({json.dumps(HEADLINE)!r})")
    monkeypatch.setattr(table, "HERE", tmp_path)
    scripts = [(path.name, "", ()) for path in (bad, odd, good)]
    monkeypatch.setattr(table, "_SCRIPTS", scripts)
    output = tmp_path / "table.inc"
    monkeypatch.setattr(sys, "argv", ["table.py", "--output", str(output)])
    assert table.main() == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL: 4 rows")
    _, first, second, third, fourth = read_cells(output)
    assert first[:2] == ["bench\\_bad.py", "failed: no \\*such\\* thing"]
    assert second[1].startswith("failed: its last line is no headline")
    assert (third[1], fourth[1]) == ("us 1", "x 2")
    assert not list(tmp_path.glob(".*"))
    monkeypatch.setattr(table, "_SCRIPTS", scripts[2:])
    assert table.main() == 0
    monkeypatch.setattr(table, "_MOST_SECONDS", 0.2)
    good.write_text("import time; time.sleep(60)")
    assert table.main() == 1
    assert "not done after 0.2 s" in output.read_text(encoding="utf-8")


def test_the_cut_of_a_wfi_is_as_dense_as_the_whole(load, monkeypatch):
    bench = load("bench_wfi")
    monkeypatch.setattr(bench.detectors, "DETECTORS", bench.detectors.DETECTORS)
    whole = [
        np.count_nonzero(bench.draw_cosmic_rays(np.random.default_rng(1), 300.0)),
        len(bench.draw_field(np.random.default_rng(1))[0]) / (bench.N_PIXELS + 400) ** 2,
    ]
    for name in ("N_PIXELS", "MEGAPIXELS"):
        monkeypatch.setattr(bench, name, getattr(bench, name))
    bench.cut_detector(1022)
    assert bench.detectors.get_detector("WFI01").shape == (1030, 1030)
    rays = np.count_nonzero(bench.draw_cosmic_rays(np.random.default_rng(1), 300.0))
    assert 16 * rays == pytest.approx(whole[0], rel=0.2)
    density = len(bench.draw_field(np.random.default_rng(1))[0]) / 1422**2
    assert density == pytest.approx(whole[1], rel=0.01)


@pytest.mark.parametrize(
    ("script", "argument"),
    [("bench_starflat.py", "--large=400"), ("bench_absflux.py", "--rows=2000")],
)
def test_a_headline_runs_alone(load, tmp_path, script, argument):
    command = [sys.executable, str(BENCHMARKS / script), "--json", f"--data={tmp_path}", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    headline = load("headline").Headline.from_json(done.stdout.splitlines()[-1])
    assert headline.ours.tool.startswith("jwst_tvbadpix ")
    for took in (headline.ours, *headline.peers):
        error = float(re.search(r"([\d.]+) %$", took.accuracy).group(1))
        assert 0 < error < 1
        assert 0 < took.peak_gb < 5


def test_f1_counts_what_counts(load):
    bench = load("bench_badpix")
    bad = np.zeros((2, 3, 3), bool)
    bad[:, 0, 0] = bad[0, 1, 1] = True
    counts = np.ones(bad.shape, bool)
    assert bench.score_f1(bad[0], bad, counts) == "F1 0.857"
    counts[1, 1, 1] = False
    assert bench.score_f1(bad[0], bad, counts) == "F1 1.000"
