"""ExternalFlatBuilder on level-2 images of Roman."""

import re

import numpy as np
import pytest

rdm = pytest.importorskip("roman_datamodels.datamodels")
from pipeline import idle_collector  # noqa: E402
from roman_datamodels.dqflags import pixel  # noqa: E402
from roman_small import shrink_wfi, write_field  # noqa: E402
from skyfield import make_field  # noqa: E402

from jwst_tvbadpix.errors import EvidenceError  # noqa: E402
from jwst_tvbadpix.refmodels import read_star_flat  # noqa: E402
from jwst_tvbadpix.steps import ExternalFlatBuilder  # noqa: E402

SHAPE = (160, 192)
FLAT = "wide_WFI01_{}_flat_20211225T000000.asdf"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_wfi(monkeypatch, SHAPE)


def build(inputs, folder, **parameters):
    with idle_collector():
        ExternalFlatBuilder.call(
            [str(path) for path in inputs],
            save_results=True,
            output_dir=str(folder),
            output_file="wide",
            **parameters,
        )
    return sorted(path.name for path in folder.iterdir())


def test_a_flat_for_each_element_is_the_truth_within_its_error(tmp_path):
    fields = {
        element: make_field(shape=SHAPE, n_exp=8, seed=seed)
        for element, seed in (("F129", 1), ("F158", 2))
    }
    # A pixel that does not work in any image.
    inputs = []
    for day, (element, field) in enumerate(fields.items(), 1):
        field.rate[:, 70, 80] = np.nan
        inputs += write_field(tmp_path, field, element=element, day=day)
    names = build(inputs, tmp_path / "out")
    page = (tmp_path / "out" / "wide_report.html").read_text(encoding="utf-8")
    checks = re.findall(r"flats, each P times L of its parts</td>\s*<td>([^<]*)<", page)
    assert checks == ["1 of 1", "1 of 1"]
    for element, field in fields.items():
        assert FLAT.format(element) in names
        with rdm.FlatRefModel(tmp_path / "out" / FLAT.format(element), memmap=False) as flat:
            flat.validate()
            assert flat.meta.instrument.optical_element == element
            assert str(flat.meta.pedigree).startswith("INFLIGHT 2027-01-0")
            data, err, dq = (np.array(flat[name]) for name in ("data", "err", "dq"))
        assert dq[70, 80] & pixel.NO_FLAT_FIELD
        used = (dq & pixel.DO_NOT_USE) == 0
        assert used.mean() > 0.99
        truth = field.flat / field.flat[used].mean()
        pull = (data[used] / data[used].mean() - truth[used]) / err[used]
        assert 0.7 < 1.48 * np.median(np.abs(pull)) < 1.3
        parts = read_star_flat(tmp_path / "out" / f"wide_WFI01_{element}_starflat.asdf")
        assert (parts.meta.telescope, parts.meta.instrument.detector) == ("ROMAN", "WFI01")


def test_images_that_cannot_be_used_say_why(tmp_path):
    field = make_field(shape=SHAPE, n_exp=3, n_stars=5)
    done = write_field(tmp_path, field, flat_field="COMPLETE")
    with pytest.raises(EvidenceError, match=r"roman_elp with --steps\.flatfield\.skip=True"):
        build(done, tmp_path / "out")
    bare = write_field(tmp_path, field, wcs="INCOMPLETE")
    with pytest.raises(EvidenceError, match="the WCS that assign_wcs of romancal makes"):
        build(bare, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
