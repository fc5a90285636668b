"""The fit as a product: what was fitted is what is read."""

import dataclasses

import asdf
import numpy as np
import pytest

from jwst_tvbadpix.errors import DateError, InputError, ProductError
from jwst_tvbadpix.fluxcal import (
    Band,
    Measurements,
    Mode,
    compare_modes,
    fit_factors,
    measure_repeatability,
)
from jwst_tvbadpix.refmodels import (
    AbsFluxModel,
    AbsFluxNotes,
    build_absflux_model,
    read_absflux,
    write_asdf,
)

ABOUT = AbsFluxNotes(
    useafter="2021-12-25T00:00:00",
    pedigree="INFLIGHT 2022-06-01 2025-06-01",
    description="Fit of a test",
    files=[("photometry", "stars.ecsv", "0" * 64)],
    references=["test_MIRIMAGE_imaging_photom"],
    settings={"time_form": "linear", "saturation": None},
    notes=["One star is variable."],
)
FILTERS = (("F560W", 5.6), ("F770W", 7.7), ("F2550W", 25.2))


def measure(seed=0, dated=True):
    """Three filters, five stars and four visits, of which two in a subarray."""
    rng = np.random.default_rng(seed)
    band, star, visit = (a.ravel() for a in np.meshgrid(range(3), range(5), range(4)))
    n = len(band)
    nothing = np.full(n, np.nan)
    return Measurements(
        bands=tuple(Band(Mode("MIRI", "MIRIMAGE", "imaging", f), w) for f, w in FILTERS),
        band=band.astype(np.int32),
        star=np.array([f"star {k}" for k in star]),
        star_class=np.array([("hot", "adwarf")[k % 2] for k in star]),
        visit=np.array([f"{s}-{v}" for s, v in zip(star, visit, strict=True)]),
        subarray=np.where(visit > 1, "SUB256", "FULL"),
        mjd=59800.0 + 200 * visit if dated else nothing,
        factor=(0.3 + 0.1 * band) * np.exp(rng.normal(0, 0.01, n)),
        sigma=np.full(n, 0.002),
        flux_jy=np.full(n, 0.1),
        peak=nothing,
        well_depth=nothing,
        background=nothing,
        exposure_s=nothing,
        used=np.ones(n, bool),
        reason=np.full(n, ""),
        source=np.full(n, "stars.ecsv"),
    )


@pytest.fixture(scope="module")
def fit():
    return fit_factors(measure(), time_form="linear")


def test_what_was_fitted_is_read_back(fit, tmp_path):
    ratios, repeats = compare_modes(fit), measure_repeatability(fit)
    model = build_absflux_model(fit, ABOUT, ratios=ratios, repeatability=repeats)
    read = read_absflux(write_asdf(model, tmp_path / "test_absflux.asdf"))
    units = read.units.instance
    assert units["filter"] == sorted(f for f, _ in FILTERS)
    assert units["unit"] == ["(MJy/sr) / (DN/s)"] * 3
    np.testing.assert_array_equal(units["factor"], fit.factor)
    np.testing.assert_array_equal(units["factor_err"], fit.error)
    part = read.parameters.instance
    covariance = np.diag(part["independent"]) + part["factor"] @ part["factor"].T
    np.testing.assert_allclose(covariance, fit.covariance, rtol=1e-12)
    # The error of a factor is that of its logarithm in the covariance.
    np.testing.assert_allclose(np.sqrt(np.diag(covariance))[:3] * fit.factor, fit.error, rtol=1e-6)
    curve = read.curve.instance
    assert curve["mjd"][0] == 59772
    assert curve["mjd"][-1] > fit.last_mjd + 1790
    assert curve["extrapolated"][[0, 5, -1]].tolist() == [True, False, True]
    np.testing.assert_array_equal(curve["factor"], fit.predict(curve["mjd"]).factor)
    assert (curve["factor_err"][:, -1] > curve["factor_err"][:, 10]).all()
    assert read.stars.instance["name"] == [f"star {k}" for k in range(5)]
    np.testing.assert_array_equal(read.ratios.instance["covariance"], ratios.covariance)
    assert read.repeatability.instance["rms"][0] == repeats[0].rms
    assert read.settings.instance["saturation"] == "none"
    assert read.files.instance["sha256"] == ["0" * 64]
    assert set(read.budget.instance) == set(fit.budget)
    assert read.meta.instrument.detector == "MIRIMAGE"


def test_the_test_of_a_common_loss_is_kept(fit, tmp_path):
    assert not build_absflux_model(fit, ABOUT).hasattr("share_test")
    common = fit_factors(measure(), time_form="linear", share="common")
    path = write_asdf(build_absflux_model(common, ABOUT), tmp_path / "common_absflux.asdf")
    assert read_absflux(path).share_test.instance == dataclasses.asdict(common.share_test)


def test_dates_are_as_asked(fit):
    model = build_absflux_model(fit, ABOUT, mjd=np.array([60000.0, 61000.0]))
    assert model.curve.instance["factor"].shape == (3, 2)
    undated = fit_factors(measure(dated=False), time_form="none")
    curve = build_absflux_model(undated, ABOUT).curve.instance
    np.testing.assert_array_equal(curve["factor"][:, 0], undated.factor)
    assert curve["factor"].shape == (3, 1)


def test_what_is_no_product_is_refused(fit, tmp_path):
    with pytest.raises(DateError):
        build_absflux_model(fit, dataclasses.replace(ABOUT, useafter="2022"))
    with pytest.raises(ProductError, match="PEDIGREE"):
        build_absflux_model(fit, dataclasses.replace(ABOUT, pedigree="INFLIGHT"))
    with pytest.raises(ProductError, match="setting"):
        build_absflux_model(fit, dataclasses.replace(ABOUT, settings={"a": [1]}))
    model = build_absflux_model(fit, ABOUT)
    path = write_asdf(model, tmp_path / "test_absflux.asdf")
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
    for name, change, words in (
        ("none", {"schema_version": "2.0.0"}, "layout 1.0.0"),
        ("short", {"units": {}}, "abs_flux_ratio wrote"),
    ):
        asdf.AsdfFile(tree | change).write_to(tmp_path / f"{name}.asdf")
        with pytest.raises(InputError, match=words):
            read_absflux(tmp_path / f"{name}.asdf")
    (tmp_path / "no.asdf").write_text("no")
    with pytest.raises(InputError, match=r"found \w+Error"):
        read_absflux(tmp_path / "no.asdf")


def test_a_broken_product_is_not_written(fit, tmp_path):
    model = build_absflux_model(fit, ABOUT)
    model._instance["units"]["factor"] = np.array(["no"])
    with pytest.raises(ProductError, match="follows the schema of AbsFluxModel"):
        write_asdf(model, tmp_path / "test_absflux.asdf")
    assert not list(tmp_path.iterdir())
    assert AbsFluxModel.schema_url.endswith("absflux.schema")
