"""One stage of one exposure, in a process of its own."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.io import fits

from ..errors import InputError, ProductError
from ..files import compute_sha256
from ..parameters import read_parameters
from .plan import open_whole

__all__ = ["PRODUCTS", "Task", "run_stage"]

# Without one of these a stage has not done its work.
PRODUCTS = {1: ("rate",), 2: ("cal", "calints")}


@dataclass(frozen=True, slots=True)
class Task:
    """What to run, and where.

    Attributes
    ----------
    exposure, key : str
        Name of the exposure, and of the run in the ledger.
    level : int
        1 or 2.
    parameters : Path
        Parameter file.
    parameters_sha256 : str
        Its checksum when the run was planned.
    members : tuple of (Path, str)
        The exposure, and what accompanies it: file and exptype.
    overrides : mapping
        Step -> parameters that win over those of the file.
    work, log : Path
        Folder to work in, and file for all that is said.
    """

    exposure: str
    key: str
    level: int
    parameters: Path
    parameters_sha256: str
    members: tuple[tuple[Path, str], ...]
    overrides: Mapping[str, Mapping[str, str]]
    work: Path
    log: Path


def run_stage(task: Task) -> dict[str, str]:
    """Run a stage and read its products back.

    Parameters
    ----------
    task : Task

    Returns
    -------
    dict of str to str
        Product, in the folder ``products`` of the task's work folder -> sha256.

    Raises
    ------
    InputError
        The parameter file has changed meanwhile.
    ProductError
        There is no main product, or one cannot be read back.
    Exception, SystemExit
        Whatever the stage raises.
    """
    products, temporary = task.work / "products", task.work / "tmp"
    products.mkdir()
    temporary.mkdir()
    with _say_to(task.log), _temporary_files_in(temporary):
        parameters = read_parameters(task.parameters)
        if parameters.sha256 != task.parameters_sha256:
            raise InputError(f"expected {task.parameters} unchanged, found another; run again")
        step_class: Any = parameters.step_class
        settings = {"steps": {step: dict(one) for step, one in task.overrides.items()}}
        step_class.call(
            str(task.members[0][0] if task.level == 1 else _write_association(task)),
            config_file=str(task.parameters),
            save_results=True,
            output_dir=str(products),
            **(settings if task.overrides else {}),
        )
        found = {path.name: _read_back(path) for path in sorted(products.iterdir())}
        names = [f"{task.exposure}_{suffix}.fits" for suffix in PRODUCTS[task.level]]
        if not set(names) & set(found):
            raise ProductError(
                f"expected {' or '.join(names)}, found {', '.join(found) or 'nothing'}; see what "
                f"the stage says in {task.log}"
            )
    return found


def _write_association(task: Task) -> Path:
    """Write the association of one exposure and its companions, as stage 2 takes it."""
    (path, _), *others = task.members
    members = [{"expname": str(path), "exptype": "science"}]
    members += [{"expname": str(other), "exptype": kind} for other, kind in others]
    content = {
        "asn_type": "None",
        "asn_rule": "DMSLevel2bBase",
        "asn_id": "a3001",
        "asn_pool": "none",
        "program": "noprogram",
        "target": "none",
        "products": [{"name": task.exposure, "members": members}],
    }
    target = task.work / f"{task.exposure}_asn.json"
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return target


def _read_back(path: Path) -> str:
    """Read a product in full; its checksum."""
    if path.suffix == ".fits":
        try:
            with open_whole(path) as hdus:
                for hdu in hdus:
                    _ = hdu.data
        except (OSError, ValueError, TypeError, fits.VerifyError) as error:
            raise ProductError(
                f"expected {path.name} to be readable after it was written, found: {error}; "
                "run again"
            ) from error
    return compute_sha256(path)


@contextmanager
def _say_to(path: Path) -> Iterator[None]:
    """Send all that this process says to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with path.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            yield
        except BaseException:
            with suppress(OSError):  # no space for it
                traceback.print_exc()
            raise
        finally:
            for number, copy in enumerate(saved, start=1):
                with suppress(OSError):
                    (sys.stdout, sys.stderr)[number - 1].flush()
                os.dup2(copy, number)
                os.close(copy)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let temporary files of this process be made in a folder."""
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable
