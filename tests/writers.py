"""The commands and steps that write files, for the tests that kill them.

A new command is one line of `WRITERS`. Its words may hold ``{out}``, the folder that it writes to,
and the name of any method of `Inputs`.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter

import asdf
import numpy as np
from astropy.io import fits
from pipeline import make_bare_environment

from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.refmodels import build_mask, build_neutral_mask, write_twins
from jwst_tvbadpix.simulate import (
    ExposureSpec,
    build_lrs_scene,
    find_region,
    make_distortion,
    simulate_flat_programme,
    simulate_programme,
    write_distortion,
    write_ramp,
    write_references,
)

TESTS = Path(__file__).parent
SEED = 7831


@dataclass(frozen=True)
class Writer:
    """A command line; `kills`: how many the long form gives it (dear commands get few).

    `volatile`: endings of the files that the pipeline's writers date, so that their bytes differ.
    `passing`: part of the names of files that are made, and removed before the end.
    """

    name: str
    words: str
    kills: int = 20
    volatile: tuple[str, ...] = ()
    passing: str = "\0"


REPROCESS = "tvbadpix reprocess {ramps} --parameters {stage} --context {context}"
# What the stages of the pipeline write.
PIPELINE = tuple(f"_{name}.fits" for name in ("ramp", "rate", "rateints", "cal", "x1d", "i2d"))
WRITERS = (
    Writer("neutral-mask", "tvbadpix neutral-mask --output-dir {out}"),
    Writer("mask-at", "tvbadpix mask-at {history} --date 2023-03-06 --output-dir {out}"),
    Writer("parameters", "tvbadpix parameters detector1_neutral spec2_mrs --output-dir {out}"),
    Writer("simulate", "tvbadpix simulate {out} --mode slitless --exposures 2"),
    Writer("simulate flats", "tvbadpix simulate {out} --mode flats --exposures 2", 4),
    Writer("download", "tvbadpix download 4497 --mode LRS --output-dir {out}", 12),
    Writer("find in the archive", "tvbadpix find --mode LRS --output-dir {out}", 6),
    Writer(
        "find",
        "tvbadpix find {rates} --mode LRS --association lrs --output {out}/lrs.ecsv "
        "--output-dir {out}",
    ),
    Writer("associate", "tvbadpix associate {rates} --output-dir {out}"),
    Writer("update", "tvbadpix update {stored} {later} --store {store} --output-dir {out}", 16),
    Writer(
        "update and store",
        "tvbadpix update {stored} {later} {known} --store {out}/store --output-dir {out}",
        8,
    ),
    Writer("report", "tvbadpix report {products} --output-dir {out} --figures png", 10),
    Writer("deliver", "tvbadpix deliver {masks} --output-dir {out}", 12),
    Writer(
        "reprocess",
        REPROCESS + " --output-dir {out} --processes 1",
        8,
        ("_rate.fits", "_rateints.fits"),
    ),
    Writer("badpix step", "strun time_variable_bad_pixel {asn} --output_dir={out}", 20),
    Writer(
        "badpix step and store",
        "strun time_variable_bad_pixel {asn} --store={out}/store --output_dir={out}",
        16,
        passing="/values/",
    ),
    Writer(
        "apply step",
        "strun apply_time_variable_mask {rate} --history={products} --output_dir={out}",
        20,
        ("_rate.fits",),
    ),
    Writer(
        "flux step",
        "strun abs_flux_ratio {photometry} --model_fluxes={fluxes} --instrument=MIRI "
        "--detector=MIRIMAGE --mode=imaging --output_file=stars --output_dir={out}",
        12,
    ),
    Writer(
        "flat step",
        "strun external_flat_builder {flats} --distortion={distortion} --report=False "
        "--output_dir={out}",
        12,
    ),
    Writer("demo", "tvbadpix demo --output-dir {out}", 4, PIPELINE),
    Writer("prove", "tvbadpix prove --output-dir {out}", 2, PIPELINE),
)
BY_NAME = {writer.name: writer for writer in WRITERS}
CHEAP = ("neutral-mask", "parameters")


class Inputs:
    """What the commands take, made when it is asked for."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server

    def fill(self, writer, out):
        """The words of a command line."""
        names = {name for _, name, _, _ in Formatter().parse(writer.words) if name}
        values = {name: getattr(self, name) for name in names - {"out"}}
        return writer.words.format(out=out, **values).split()

    @cached_property
    def _programme(self):
        return simulate_programme(self.folder / "rates", mode="slitless", n_exposures=6, seed=SEED)

    @property
    def asn(self):
        return self._programme.association

    @property
    def rates(self):
        return self.asn.parent

    @property
    def rate(self):
        return self._programme.rates[2]

    @cached_property
    def products(self):
        """What the step makes of the rates."""
        folder = self.folder / "products"
        argv = ["strun", "time_variable_bad_pixel", str(self.asn), f"--output_dir={folder}"]
        assert self.server.run([*argv, "--report=False"], folder)["status"] == 0
        return folder

    @property
    def history(self):
        (path,) = self.products.glob("*_badpixhistory.asdf")
        return path

    @cached_property
    def stored(self):
        """A history of all exposures but the last, whose evidence is in a store."""
        out, files = self.folder / "stored", self._programme.rates[:-1]
        argv = ["strun", "time_variable_bad_pixel", *files, f"--output_dir={out}"]
        argv += [f"--store={self.store}", "--output_file=stored", "--report=False"]
        assert self.server.run(argv, out)["status"] == 0, self.server.log.read_text()
        (path,) = out.glob("*_badpixhistory.asdf")
        return path

    @property
    def store(self):
        return self.folder / "store"

    @property
    def known(self):
        return " ".join(str(path) for path in self._programme.rates[:-1])

    @property
    def later(self):
        return self._programme.rates[-1]

    @cached_property
    def masks(self):
        """A history and masks that can be delivered."""
        from references import make_history, write_masks

        write_masks(self.folder / "masks", make_history())
        return self.folder / "masks"

    @cached_property
    def _tables(self):
        from fluxtables import write_photometry

        return write_photometry(self.folder)

    @property
    def photometry(self):
        return self._tables[0]

    @property
    def fluxes(self):
        return self._tables[1]

    @cached_property
    def flats(self):
        programme = simulate_flat_programme(
            self.folder / "flats",
            region=find_region("SUB256"),
            n_exposures=16,
            density=2500,
            scattered=0.02,
            distortion=make_distortion(),
        )
        return programme.association

    @cached_property
    def distortion(self):
        (self.folder / "optics").mkdir()
        return write_distortion(self.folder / "optics", make_distortion())

    @cached_property
    def ramps(self):
        (self.folder / "ramps").mkdir()
        spec = ExposureSpec(
            59800.0, subarray="SLITLESSPRISM", ngroups=4, nints=2, seed=1, observation=701
        )
        ramp = write_ramp(self.folder / "ramps", spec, build_lrs_scene(seed=1))
        association = ramp.with_name("ramps_asn.json")
        member = {"expname": ramp.name, "exptype": "science"}
        association.write_text(json.dumps({"products": [{"name": "p", "members": [member]}]}))
        return association

    @cached_property
    def stage(self):
        path = self.folder / "quick.asdf"
        tree = {"class": "quick_stages.QuickDetector1", "name": "QuickDetector1", "parameters": {}}
        asdf.AsdfFile(tree).write_to(path)
        return path

    @cached_property
    def context(self):
        static = build_mask(
            np.zeros((1024, 1032), np.uint32),
            detector="MIRIMAGE",
            useafter="2021-12-25T00:00:00",
            description="No bad pixel",
            history=["Made by a test."],
            pedigree="SIMULATION",
        )
        mask = write_twins(static, self.folder / "static")[1]
        references = write_references(self.folder / "references")
        made = build_context(self.folder / "crds", {"mask": [mask], **references})
        return made.env["CRDS_PATH"]

    @cached_property
    def neutral(self):
        return write_twins(build_neutral_mask("MIRIMAGE"), self.folder / "neutral")[1]


# Stands in for astroquery.mast: three files, each written bit by bit.
ARCHIVE = """
from astropy.table import Table


class Mast:
    def service_request(service, params):
        names = [f"{name}_rate.fits" for name in "abc"]
        return Table({"filename": names, "fileSize": [300_000] * 3})


class Observations:
    def download_file(uri, *, local_path, **_):
        for mode in "waa":
            with open(local_path, mode + "b") as file:
                file.write(uri[-11:-10].encode() * 100_000)
        return "COMPLETE", None, uri
"""


class Server:
    """The process of killing.py; see there."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = make_bare_environment()
        environment["PYTHONPATH"] += f"{os.pathsep}{TESTS}{os.pathsep}{folder}"
        (folder / "astroquery").mkdir()
        (folder / "astroquery" / "__init__.py").touch()
        (folder / "astroquery" / "mast.py").write_text(ARCHIVE)
        environment |= {"SOURCE_DATE_EPOCH": "1700000000", "OMP_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "MPLCONFIGDIR": str(folder / "mpl")}
        self.log, self.errors = folder / "log", folder / "errors"
        self.environment, self.process = environment, None

    def _start(self):
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(TESTS / "killing.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.environment,
                text=True,
            )
        assert self.process.stdout.readline() == "ready\n", self.errors.read_text()

    def run(self, argv, out, *, cwd=None, env=None, **end):
        """Run a command line that writes to a folder, to its end or until it is killed."""
        job = {"argv": [str(word) for word in argv], "folder": str(out), "log": str(self.log)}
        job |= {"cwd": str(cwd or self.folder), "env": env or {}, **end}
        try:
            if self.process is None:
                self._start()
            print(json.dumps(job), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except BaseException:  # the time limit of a test: the next one must not read this answer
            self.close()
            raise

    def close(self):
        """End the process, and with it the job that it may be waiting for."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def is_hidden(path):
    return any(part.startswith(".") for part in path.parts)


def take_sums(folder):
    """Checksums of all files that are not hidden, by their names; links by where they lead."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    return {
        str(name): hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files
        if not is_hidden(name) and (folder / name).exists()
    }


def list_hidden(folder):
    """All hidden files and folders, temporary ones among them."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if is_hidden(path.relative_to(folder))
    }


def is_torn(path):
    """Whether a FITS file is shorter than its headers say, or an ASDF file cannot be read."""
    if path.suffix == ".asdf":
        with asdf.open(path, memmap=False, lazy_load=False):
            return False
    with fits.open(path, memmap=False) as hdus:
        ends = [hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus]
    return path.stat().st_size < max(ends)


@dataclass
class Trial:
    """One command, its undisturbed run, and what became of the kills."""

    server: Server
    writer: Writer
    inputs: Inputs
    folder: Path

    def __post_init__(self):
        self.folder.mkdir(parents=True)
        self.out, self.whole = self.folder / "out", self.folder / "whole"
        # To the same path as all others, which files may name.
        ended = self._run()
        assert ended["status"] == 0, self.server.log.read_text()[-3000:]
        self.changes, self.seconds = ended["changes"], ended["seconds"]
        self.expected, self.hidden = take_sums(self.out), list_hidden(self.out)
        assert self.expected
        self.out.rename(self.whole)

    def _run(self, **end):
        words = self.inputs.fill(self.writer, self.out)
        return self.server.run(words, self.out, cwd=self.folder, **end)

    def kill(self, *, fresh, **end):
        """Kill a run into an empty folder or over an earlier one; whether it came to that."""
        shutil.rmtree(self.out, ignore_errors=True)
        if not fresh:
            shutil.copytree(self.whole, self.out, symlinks=True)
        ended = self._run(**end)
        assert ended["status"] in (0, -9), self.server.log.read_text()[-3000:]
        found = take_sums(self.out).items()
        self._require_whole({k: v for k, v in found if self.writer.passing not in k})
        left = len(list_hidden(self.out) - self.hidden)
        again = self._run()
        assert again["status"] == 0, self.server.log.read_text()[-3000:]
        found = take_sums(self.out)
        assert sorted(found) == sorted(self.expected)
        self._require_whole(found)
        # What the killed run has left half done is gone.
        assert list_hidden(self.out) == self.hidden
        return ended["status"] == -9, left

    def _require_whole(self, found):
        changed = [name for name, sum_ in found.items() if self.expected.get(name) != sum_]
        torn = [
            name
            for name in changed
            if not name.endswith(self.writer.volatile or "/") or is_torn(self.out / name)
        ]
        assert not torn, f"{self.writer.name}: {torn}"


def plan_kills(trial, count, seed):
    """Where to kill: at changes of files, spread over all, and at random moments."""
    moments = random.Random(seed)
    n = max(1, min(count - count // 4, trial.changes))
    at = np.unique(np.linspace(1, trial.changes, n).astype(int)).tolist()
    plan = [{"change": change} for change in at]
    while len(plan) < count:
        plan.append({"seconds": moments.uniform(0, trial.seconds)})
    return plan
