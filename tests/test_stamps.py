"""Masks made from the bytes of the first of their series: the same files, or none."""

from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from dated import make_history as make_dated
from references import make_history

from jwst_tvbadpix.errors import ProductError
from jwst_tvbadpix.refmodels import MaskWriter, plan_mask_series, read_mask_dq, stamps, write_twins

IRS2 = ("NRSIRS2", "NRS", "NRSIRS2")
HISTORIES = {
    "MIRI": lambda: make_history(4, detector="MIRIMAGE"),
    "no base, long warnings": lambda: make_history(
        3, base=False, warnings=['Warning: it\'s "so" ' + "long that lines break " * 20, "# no"]
    ),
    "several filters": lambda: make_history(3, mask_filter="F560W|F770W"),
    "classes that come later": make_dated,
    "NIRSpec, two frames": lambda: make_dated(detector="NRS1", readpatts=IRS2),
}


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


def count_models(monkeypatch):
    """Count the masks that are written from their models."""
    calls = []

    def write(model, path):
        calls.append(path)
        return write_twins(model, path)

    monkeypatch.setattr(stamps, "write_twins", write)
    return calls


@pytest.mark.parametrize("name", HISTORIES)
def test_stamped_files_are_those_of_the_models_byte_by_byte(tmp_path, monkeypatch, name):
    planned = plan_mask_series(HISTORIES[name](), "a b")
    folders = [tmp_path / kind for kind in ("models", "stamped")]
    for folder in folders:
        folder.mkdir()
    for mask in planned:
        write_twins(mask.build(), folders[0] / mask.filename.removesuffix(".asdf"))
    from_models, writer = count_models(monkeypatch), MaskWriter()
    for mask in planned:
        writer.write(mask, folders[1])
    models, stamped = ({p.name: p.read_bytes() for p in f.iterdir()} for f in folders)
    assert models.keys() == stamped.keys()
    assert [key for key, data in models.items() if data != stamped[key]] == []
    assert len(from_models) == len({mask.series for mask in planned}) < len(planned)


def test_dates_are_those_of_writing(tmp_path, monkeypatch):
    planned, writer = plan_mask_series(make_history(4)), MaskWriter()
    dates = []
    for k, mask in enumerate(planned):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(1_700_000_000 + 60 * k))
        writer.write(mask, tmp_path)
        with asdf.open(tmp_path / mask.filename) as file:
            assert file["meta"]["useafter"] == mask.useafter
            dates.append(file["meta"]["date"])
        header = fits.getheader((tmp_path / mask.filename).with_suffix(".fits"))
        found = [header[key] for key in ("DATE", "USEAFTER", "FILENAME")]
        assert found == [dates[-1], mask.useafter, mask.filename.replace(".asdf", ".fits")]
    assert len(set(dates)) == len(planned) == 4


def test_a_flag_that_was_never_decoded_is_written_from_its_model(tmp_path, monkeypatch):
    from_models, writer = count_models(monkeypatch), MaskWriter()
    planned = plan_mask_series(make_history(4))
    writer.write(planned[0], tmp_path)
    monkeypatch.setattr(stamps, "was_decoded", lambda kind, dq: False)
    writer.write(planned[1], tmp_path)
    assert len(from_models) == 2


@pytest.mark.parametrize("name", ["compose_asdf", "compose_fits"])
def test_where_a_stamp_gives_other_bytes_models_are_written(tmp_path, monkeypatch, name):
    """Such as after a release of asdf or astropy that writes otherwise."""
    compose = getattr(stamps._Stamp, name)

    def compose_otherwise(self, dq, more):
        return (*compose(self, dq, more), b"!") if name == "compose_fits" else b"!"

    monkeypatch.setattr(stamps._Stamp, name, compose_otherwise)
    from_models, writer = count_models(monkeypatch), MaskWriter()
    planned = plan_mask_series(make_history(3))
    for mask in planned:
        writer.write(mask, tmp_path)
    assert len(from_models) == len(planned) == 3


def write_spoilt(path, content):
    """Write a file on a bad disk: the last bit of a byte in its middle is another."""
    middle = len(content) // 2
    with path.open("wb") as stream:
        stream.write(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def flip(dq):
    """Change the lowest flag of each pixel."""
    return dq ^ np.uint32(1)


SPOILS = {
    "flags in ASDF": (
        stamps._Stamp,
        "compose_asdf",
        lambda write: lambda self, dq, texts: write(self, flip(dq), texts),
    ),
    "flags in FITS": (
        stamps._Stamp,
        "compose_fits",
        lambda write: lambda self, dq, header: write(self, flip(dq), header),
    ),
    "header in FITS": (
        stamps._Stamp,
        "compose_fits",
        lambda write: lambda self, dq, header: write(self, dq, header.replace(b"'MASK", b"'FLAT")),
    ),
    "byte of ASDF": (Path, "write_bytes", lambda write: spoil_files(write, ".asdf")),
    "byte of FITS": (Path, "write_bytes", lambda write: spoil_files(write, ".fits")),
    "date in ASDF": (
        stamps._Stamp,
        "compose_asdf",
        lambda write: lambda self, dq, texts: write(self, dq, {**texts, "useafter": "2000-01-01"}),
    ),
    "date in FITS": (
        stamps._Stamp,
        "compose_header",
        lambda write: lambda self, texts: write(self, {**texts, "useafter": "2000-01-01"}),
    ),
}


def spoil_files(write, suffix):
    return lambda path, content: (write_spoilt if path.suffix == suffix else write)(path, content)


@pytest.mark.parametrize("name", SPOILS)
def test_what_reads_back_differently_is_not_left(tmp_path, monkeypatch, name):
    writer = MaskWriter()
    planned = plan_mask_series(make_history(3))
    writer.write(planned[0], tmp_path)
    before, (owner, method, spoil) = sorted(tmp_path.iterdir()), SPOILS[name]
    monkeypatch.setattr(owner, method, spoil(getattr(owner, method)))
    with pytest.raises(ProductError, match="read back as they were written"):
        writer.write(planned[1], tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    writer = MaskWriter()
    planned = plan_mask_series(make_history(3))
    writer.write(planned[0], tmp_path)
    before = sorted(tmp_path.iterdir())

    def refuse(self, dq, header):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stamps._Stamp, "compose_fits", refuse)
    with pytest.raises(ProductError, match="No space left"):
        writer.write(planned[1], tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_stamped_masks_read_as_masks(tmp_path):
    writer = MaskWriter()
    planned = plan_mask_series(make_dated(detector="NRS1", readpatts=IRS2))
    for mask in planned:
        writer.write(mask, tmp_path)
        for path in (tmp_path / mask.filename, (tmp_path / mask.filename).with_suffix(".fits")):
            np.testing.assert_array_equal(read_mask_dq(path)[0], mask.paint())
