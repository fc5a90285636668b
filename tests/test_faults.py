"""Disks that are full or read-only, two runs at once, other clocks and locales, hostile text."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path

import pytest
from pipeline import make_bare_environment
from references import make_history, write_masks
from writers import (
    BY_NAME,
    REPROCESS,
    WRITERS,
    Inputs,
    Trial,
    Writer,
    list_hidden,
    take_sums,
)

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.refmodels import read_history, write_asdf
from jwst_tvbadpix.report import build_report, write_page

QUICK = [
    pytest.param(w.name, marks=() if w.name == "neutral-mask" else pytest.mark.slow)
    for w in WRITERS
    if w.name != "prove"  # minutes each time
]


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory):
    return Inputs(tmp_path_factory.mktemp("inputs"), server)


@pytest.fixture(scope="module")
def trials(server, inputs, tmp_path_factory):
    """The undisturbed run of each command, made once."""
    folder, made = tmp_path_factory.mktemp("trials"), {}

    def make(name):
        if name not in made:
            made[name] = Trial(server, BY_NAME[name], inputs, folder / name.replace(" ", "_"))
        shutil.rmtree(made[name].out, ignore_errors=True)
        return made[name]

    return make


@contextmanager
def mounted(folder, options):
    """A file system of its own, where this user may have one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(command, capture_output=True, timeout=300).returncode
    ):
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=300)


def require_told(trial, ended):
    """Whole files and no other; where the command failed, it says so and why."""
    log = trial.server.log.read_text(errors="replace")
    assert ended["status"] in (0, 1), log[-3000:]
    # reprocess shows what the pipeline itself logs of its stages.
    assert "Traceback" not in log or trial.writer.name == "reprocess", log[-3000:]
    trial._require_whole(take_sums(trial.out))
    assert list_hidden(trial.out) <= trial.hidden
    if ended["status"]:
        assert "space" in log or "File too large" in log, log[-2000:]


@pytest.mark.parametrize("name", QUICK)
def test_a_full_disk_is_told_and_leaves_whole_files(trials, name):
    trial = trials(name)
    size = sum(path.stat().st_size for path in trial.whole.rglob("*") if path.is_file())
    failed = 0
    for share in (0.0, 0.6):
        with mounted(trial.out, f"size={max(4096, int(share * size))}"):
            ended = trial._run()
            require_told(trial, ended)
            failed += ended["status"]
        trial.out.rmdir()
    assert failed or size < 20_000


@pytest.mark.parametrize("name", QUICK)
def test_a_file_that_grows_too_large_is_told(trials, name):
    """The same without a disk of one's own."""
    trial = trials(name)
    largest = max(path.stat().st_size for path in trial.whole.rglob("*") if path.is_file())
    if largest < 20_000:
        pytest.skip("the log would not fit either")
    require_told(trial, trial._run(largest=largest // 2))


@pytest.mark.parametrize("name", QUICK)
def test_two_runs_at_once_give_what_one_does_or_one_is_refused(trials, name):
    trial = trials(name)
    ended = trial._run(times=2)
    assert sorted(ended["all"]) in ([0, 0], [0, 1]), trial.server.log.read_text()[-3000:]
    found = take_sums(trial.out)
    assert sorted(found) == sorted(trial.expected)
    trial._require_whole(found)
    assert list_hidden(trial.out) <= trial.hidden


def test_inputs_and_home_on_a_read_only_disk(server, tmp_path):
    with mounted(tmp_path / "disk", "size=60m"):
        masks = write_masks(tmp_path / "disk" / "masks", make_history(2))
        (history,) = masks[0].parent.glob("*history.asdf")
        words = ["tvbadpix", "mask-at", history, "--date", "2023-01-01"]
        words += ["--output-dir", tmp_path / "out"]
        subprocess.run(
            ["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True, timeout=300
        )
        with pytest.raises(OSError, match="ead-only"):
            (tmp_path / "disk" / "x").touch()
        home = {"HOME": str(tmp_path / "disk"), "MPLCONFIGDIR": str(tmp_path / "disk")}
        ended = server.run(words, tmp_path / "out", env=home)
        assert ended["status"] == 0, server.log.read_text()
        assert len(take_sums(tmp_path / "out")) == 2
        # And where the products should go there.
        words[-1] = tmp_path / "disk" / "out"
        ended = server.run(words, tmp_path / "out", env=home)
        assert ended["status"] == 1
        assert "Read-only" in server.log.read_text()


@contextmanager
def read_only(folder):
    """Take the right to write to all that is in a folder."""
    paths = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.parametrize("name", QUICK)
def test_a_folder_that_is_not_ours_is_told(trials, name):
    trial = trials(name)
    trial.out.mkdir()
    with read_only(trial.out):
        ended = trial._run(humble=True)
    log = " ".join(trial.server.log.read_text().split())  # strun breaks lines
    assert ended["status"] == 1, log[-3000:]
    assert "Traceback" not in log, log[-3000:]
    assert "ermission denied" in log or "can be written to" in log, log[-3000:]
    assert list(trial.out.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("tvbadpix mask-at {history} --date 2023-03-06 --output-dir {out}", "history"),
        pytest.param(BY_NAME["update"].words, "later", marks=pytest.mark.slow),
        ("strun time_variable_bad_pixel {asn} --output_dir={out}", "rate"),
    ],
)
def test_a_file_that_may_not_be_read_is_named(server, inputs, tmp_path, words, what):
    argv = inputs.fill(Writer("", words), tmp_path / "out")
    path = getattr(inputs, what)
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        ended = server.run(argv, tmp_path / "out", humble=True)
    finally:
        path.chmod(mode)
    log = server.log.read_text()
    assert ended["status"] == 1, log[-3000:]
    assert "Permission denied" in log
    assert path.name in log
    assert "Traceback" not in log
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


CACHED = {
    "base mask": "strun time_variable_bad_pixel {asn} --base_mask=crds --report=False "
    "--output_dir={out}",
    "reprocess": f"{REPROCESS} --output-dir {{out}} --processes 1",
    "deliver": "tvbadpix deliver {masks} --derive-from jwst_0001.pmap --output-dir {out}",
}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=() if k == "base mask" else pytest.mark.slow) for k in CACHED]
)
def test_a_cache_on_read_only_storage(server, inputs, tmp_path, name):
    cache = Path(inputs.context)
    argv = inputs.fill(Writer("", CACHED[name]), tmp_path / "out")
    before = take_sums(cache), list_hidden(cache)
    env = {"CRDS_PATH": str(cache), "CRDS_CONTEXT": "jwst_0001.pmap", "CRDS_READONLY_CACHE": "1"}
    env = {} if name == "reprocess" else env
    with read_only(cache):
        ended = server.run(argv, tmp_path / "out", env=env, humble=True)
    assert ended["status"] == 0, server.log.read_text()[-3000:]
    assert take_sums(tmp_path / "out")
    assert (take_sums(cache), list_hidden(cache)) == before


def test_crds_that_would_write_to_such_a_cache_is_told(server, inputs, tmp_path):
    argv = inputs.fill(Writer("", CACHED["base mask"]), tmp_path / "out")
    cache = Path(inputs.context)
    with read_only(cache):
        env = {"CRDS_PATH": str(cache), "CRDS_CONTEXT": "jwst_0001.pmap"}
        ended = server.run(argv, tmp_path / "out", env=env, humble=True)
    log = " ".join(server.log.read_text().split())  # strun breaks lines
    assert ended["status"] == 1
    assert "Permission denied" in log
    assert "; set CRDS_READONLY_CACHE=1," in log
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.slow
def test_a_store_on_read_only_storage_is_told(server, inputs, tmp_path):
    argv = inputs.fill(BY_NAME["update"], tmp_path / "out")
    with read_only(inputs.store):
        ended = server.run(argv, tmp_path / "out", humble=True)
    log = server.log.read_text()
    assert ended["status"] == 1
    assert "expected a store that can be written" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("name", QUICK)
def test_a_time_zone_changes_no_byte(trials, name):
    trial = trials(name)
    assert trial._run(env={"TZ": "Pacific/Kiritimati"})["status"] == 0
    trial._require_whole(take_sums(trial.out))


def test_a_clock_of_1970_will_do(trials):
    trial = trials("neutral-mask")
    assert trial._run(env={"SOURCE_DATE_EPOCH": "0"})["status"] == 0
    assert take_sums(trial.out).keys() == trial.expected.keys()
    assert take_sums(trial.out) != trial.expected


@pytest.mark.parametrize("epoch", ["", "x", "1e9", "99999999999999999999"])
def test_no_clock_is_told(tmp_path, monkeypatch, capsys, epoch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
    assert main(["neutral-mask", "--output-dir", str(tmp_path)]) == 1
    assert "expected SOURCE_DATE_EPOCH as whole seconds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """Locales of our own: a decimal comma, and the Turkish i."""
    if not shutil.which("localedef"):
        pytest.skip("no localedef")
    folder = tmp_path_factory.mktemp("locales")
    for name in LOCALES:
        made = folder / f"{name}.UTF-8"
        command = ["localedef", "-i", name, "-f", "UTF-8", str(made)]
        if subprocess.run(command, capture_output=True, timeout=300).returncode:
            pytest.skip(f"no {name} to make a locale of")
    return folder


LOCALES = ("tr_TR", "de_DE")


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("language", LOCALES)
def test_locales_change_no_byte(trials, locales, name, language):
    trial, language = trials(name), f"{language}.UTF-8"
    env = {"LOCPATH": str(locales), "LC_ALL": language}
    assert trial._run(locale=language, env=env)["status"] == 0, trial.server.log.read_text()
    trial._require_whole(take_sums(trial.out))
    assert take_sums(trial.out).keys() == trial.expected.keys()


def test_names_outside_ascii_where_the_locale_has_none(tmp_path):
    """Python in the C locale without its UTF-8 mode: names of files are bytes to it."""
    env = make_bare_environment()
    env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = ["parameters", "spec2_mrs", "--output-dir", "ölçü İ"]
    command = [sys.executable, "-m", "jwst_tvbadpix.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ölçü İ" / "spec2_mrs.asdf").is_file()
    assert done.stdout == os.fsencode("ölçü İ/spec2_mrs.asdf\n")


# --- hostile text in headers --------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7*7 }}${7*7}",
    "$\\frac{1$",
)


class Elements(HTMLParser):
    """What a browser would run: elements made by the text, and handlers."""

    def __init__(self):
        super().__init__()
        self.found, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script"
        for name, value in attributes:
            if name.startswith("on") or (value or "").startswith("javascript:"):
                self.found.append((tag, name, value))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside and data.strip().startswith("alert("):
            self.found.append(("script", data))


def test_the_reader_of_elements_sees_what_is_hostile():
    seen = Elements()
    seen.feed("".join(f"<p>{text}</p>" for text in HOSTILE) + f'<a href="{HOSTILE[4]}">x</a>')
    assert len(seen.found) == 5


def test_text_of_headers_is_text_in_the_page(tmp_path):
    write_masks(tmp_path / "masks", make_history(2, warnings=HOSTILE))
    (path,) = (tmp_path / "masks").glob("*history.asdf")
    history = read_history(path)
    texts = cycle(HOSTILE)
    for column in ("filename", "filter", "subarray", "reason", "exp_type"):
        n = len(history.exposures.instance[column])
        history.exposures.instance[column] = [next(texts) for _ in range(n)]
    history.settings.instance["mask_filter"] = HOSTILE[0]
    write_asdf(history, path)
    assert HOSTILE[0] in read_history(path).exposures.instance["filename"]
    page = tmp_path / "page.html"
    write_page(build_report([path]), page)
    content = page.read_text()
    seen = Elements()
    seen.feed(content)
    assert not seen.found
    assert "{{ 7*7 }}" in content
