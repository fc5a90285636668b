"""Photom references and CRDS: certify, selection by date and mode, delivery."""

import dataclasses
import subprocess
import sys

import pytest
from crds.core import log
from fluxfactors import (
    HEADER,
    MODES,
    make_factor,
    make_mrs_factors,
    make_mrs_template,
    make_mrs_wavelengths,
)

from jwst_tvbadpix.delivery import build_context, deliver, use_context
from jwst_tvbadpix.delivery.allowed import find_allowed
from jwst_tvbadpix.delivery.certify import certify_fits
from jwst_tvbadpix.fluxcal import Mode
from jwst_tvbadpix.refmodels import build_photom_models, write_twins

# Selected by the stock rules: keywords of an exposure -> file.
SELECTED = [
    (("MIRI", "MIRIMAGE", "MIR_IMAGE"), "MIRIMAGE_imaging"),
    (("MIRI", "MIRIMAGE", "MIR_4QPM"), "MIRIMAGE_imaging"),
    (("MIRI", "MIRIMAGE", "MIR_LYOT"), "MIRIMAGE_imaging"),
    (("MIRI", "MIRIMAGE", "MIR_CORONCAL"), "MIRIMAGE_imaging"),
    (("MIRI", "MIRIMAGE", "MIR_FLATIMAGE-EXT"), "MIRIMAGE_imaging"),
    (("MIRI", "MIRIMAGE", "MIR_LRS-FIXEDSLIT"), "MIRIMAGE_lrs"),
    (("MIRI", "MIRIMAGE", "MIR_LRS-SLITLESS"), "MIRIMAGE_lrs"),
    (("MIRI", "MIRIFUSHORT", "MIR_MRS"), "MIRIFUSHORT_mrs_SHORT"),
    (("NIRCAM", "NRCBLONG", "NRC_IMAGE"), "NRCBLONG_imaging"),
    (("NIRCAM", "NRCBLONG", "NRC_CORON"), "NRCBLONG_imaging"),
    (("NIRISS", "NIS", "NIS_IMAGE"), "NIS_imaging"),
    (("NIRISS", "NIS", "NIS_SOSS"), "NIS_soss"),
    (("NIRSPEC", "NRS1", "NRS_FIXEDSLIT"), "NRS_fixedslit"),
    (("NIRSPEC", "NRS2", "NRS_FIXEDSLIT"), "NRS_fixedslit"),
    (("NIRSPEC", "NRS2", "NRS_IFU"), "NRS1_ifu"),
    (("FGS", "GUIDER1", "FGS_IMAGE"), "GUIDER1_imaging"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All references with their twins: of MIRI imaging two epochs."""
    path = tmp_path_factory.mktemp("photom")
    names = sorted({name for _, name in SELECTED} - {"MIRIFUSHORT_mrs_SHORT"})
    models = {}
    for name in names:
        models |= build_photom_models(MODES[name], HEADER)
    wave = make_mrs_wavelengths(ny=1024)
    models |= build_photom_models(
        make_mrs_factors(),
        HEADER,
        templates=[make_mrs_template(ny=1024)],
        wavelengths={("MIRIFUSHORT", "SHORT"): wave},
    )
    later = dataclasses.replace(HEADER, useafter="2024-01-01T00:00:00")
    new = [make_factor(Mode("MIRI", "MIRIMAGE", "imaging", "F770W"), 0.3)]
    models["later"] = build_photom_models(new, later)["MIRIMAGE_imaging"]
    for name, model in models.items():
        write_twins(model, path / f"{name}_photom")
    return path


@pytest.mark.parametrize("suffix", [".fits", ".asdf"])
def test_crds_selects_by_mode_and_date(folder, suffix, tmp_path):
    import crds

    context = build_context(tmp_path, {"photom": sorted(folder.glob(f"*{suffix}"))})
    names = {given.stem.removesuffix("_photom"): name for given, name in context.names.items()}
    cases = [(keys, name, "2023-12-31") for keys, name in SELECTED]
    cases += [(keys, "later", "2024-01-01") for keys, name in SELECTED if "MIR_IMAGE" in keys]
    with use_context(context):
        for (instrument, detector, exp_type), name, date in cases:
            header = {
                "META.INSTRUMENT.NAME": instrument,
                "META.INSTRUMENT.DETECTOR": detector,
                "META.INSTRUMENT.BAND": "SHORT" if "MRS" in exp_type else "N/A",
                "META.EXPOSURE.TYPE": exp_type,
                "META.OBSERVATION.DATE": date,
                "META.OBSERVATION.TIME": "00:00:00",
            }
            found = crds.getrecommendations(header, ["photom"], observatory="jwst", fast=True)
            assert found["photom"] == names[name], exp_type


@pytest.mark.parametrize(
    "name",
    [
        "MIRIMAGE_imaging",
        "NRS_fixedslit",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("MIRIMAGE_lrs", "NRCBLONG_imaging", "NIS_soss", "NIS_imaging", "NRS1_ifu")
        ),
    ],
)
def test_certify_finds_nothing(folder, name, tmp_path):
    path = folder / f"{name}_photom.fits"
    context = build_context(tmp_path, {"photom": [path]})
    with use_context(context):
        log.reset()
        certify_fits(str(path), context.env["CRDS_CONTEXT"])
        assert (log.errors(), log.warnings()) == (0, 0)


@pytest.mark.slow
def test_the_folder_can_be_delivered(folder, tmp_path):
    verdict = deliver(folder, tmp_path, derive_from=None, source=None, datasets=[])
    assert verdict.passed, verdict.format_checks()


def test_repeated_keys_are_allowed_in_time_tables_alone():
    start = "Duplicate definitions in new reference 'x.fits[2]' for mode: "
    mode = "(('FILTER', 'F212N'), ('PUPIL', 'CLEAR')) :"
    row = " (0, (('FILTER', 'F212N'), ('PUPIL', 'CLEAR'), ('{}', 1.0)))"
    assert find_allowed(start + mode + row.format("T0"), "photom")
    assert not find_allowed(start + mode + row.format("PHOTMJSR"), "photom")
    assert not find_allowed(start + mode + row.format("T0"), "mask")
    assert find_allowed("Differing HDU counts in 'a' and 'b' : 1 vs. 3", "photom")
    assert not find_allowed("Differing HDU counts in 'a' and 'b' : 3 vs. 1", "photom")


def test_tables_in_asdf_read_where_only_asdf_is_imported(folder):
    """The entry point suffices: nothing of this package need be imported."""
    code = (
        "import asdf, sys\n"
        f"with asdf.open({str(folder / 'MIRIMAGE_imaging_photom.asdf')!r}) as file:\n"
        "    table = file['phot_table']\n"
        "    print(type(table).__name__, table.field('filter')[0])\n"
        "print('jwst_tvbadpix.refmodels' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == ["FITS_rec", "F770W", "False"]
