"""The proof on a spectrum: what is counted, what is simulated, and a small run of the chain."""

import gc
import os
import types
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from stdatamodels.jwst.datamodels import CubeModel, ImageModel

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.proof import chain, run
from jwst_tvbadpix.proof.field import add_field_defects
from jwst_tvbadpix.proof.measure import (
    count_added,
    count_features,
    find_features,
    measure_noise,
    measure_quality,
)
from jwst_tvbadpix.proof.prepare import write_mask
from jwst_tvbadpix.proof.scene import (
    CHANGES,
    MODES,
    join_defects,
    make_plan,
    select_on_trace,
)
from jwst_tvbadpix.simulate import get_trace, make_defects, write_references
from jwst_tvbadpix.simulate import write_spectral_references as write_spectral

SEED = 5
N_BINS = 300
USED = np.ones(N_BINS, bool)


def make_draws(sigma=0.01, n=20):
    return 1 + sigma * np.random.default_rng(1).standard_normal((n, N_BINS))


def test_noise_is_that_of_the_draws():
    noise = measure_noise(make_draws(sigma=0.01, n=400))
    np.testing.assert_allclose(noise, 0.01, rtol=0.03)
    np.testing.assert_allclose(measure_noise(make_draws(0.02, 400)), 2 * noise, rtol=1e-9)


def test_runs_of_one_sign_are_one_feature():
    ratio = np.ones(10)
    ratio[[2, 3]] += 0.1
    ratio[[4, 8]] -= 0.1
    ratio[9] = np.nan
    sign = find_features(ratio, np.full(10, 0.01))
    np.testing.assert_array_equal(sign, [0, 0, 1, 1, -1, 0, 0, 0, -1, -1])
    assert count_features(sign, np.ones(10, bool)) == 3
    assert count_features(sign, np.arange(10) == 3) == 1
    assert count_features(sign, np.arange(10) == 6) == 0


def judge(ratio, bins):
    return measure_quality(ratio, draws=make_draws(), defect_bins=np.array(bins), used=USED)


def test_features_count_where_defects_are():
    clean = np.ones(N_BINS)
    spiked = clean.copy()
    spiked[[50, 100, 200]] = 1.1, 0.8, 1.3
    near = judge(spiked, [51, 98])
    assert (near.n_features, near.n_elsewhere) == (2, 1)
    assert near.largest == pytest.approx(0.2, abs=0.01)
    assert judge(spiked, [53]).n_features == 0
    assert near.excess == 2 - near.n_expected
    assert near.rms == pytest.approx(np.sqrt((0.1**2 + 0.2**2 + 0.3**2) / N_BINS), rel=0.1)
    assert judge(clean, [51]).n_features == 0
    assert count_added(near, judge(clean, [51])) == 2
    assert count_added(near, near) == 0


def test_features_and_the_noise_rate_have_one_sigma():
    """Noisier draws raise the threshold; draws with wild bins raise the rate that is taken off."""
    ratio = np.ones(N_BINS)
    ratio[100] = 1.05
    settings = {"defect_bins": np.array([100]), "used": USED}
    assert measure_quality(ratio, draws=make_draws(0.01), **settings).n_features == 1
    assert measure_quality(ratio, draws=make_draws(0.02), **settings).n_features == 0
    wild = make_draws(0.01)
    wild[::4, 100] = 1.05
    quality = measure_quality(ratio, draws=wild, **settings)
    assert quality.n_expected >= 0.25
    assert quality.excess == 1 - quality.n_expected


def test_bins_that_are_never_extracted_harm_no_others():
    draws = make_draws()
    draws[:, :2] = np.nan
    assert np.isfinite(measure_noise(draws)).all()


def test_noise_alone_gives_the_expected_number():
    """Over all bins 0.27 % of each draw are beyond three sigma."""
    quality = judge(np.ones(N_BINS), np.arange(N_BINS))
    assert 0.2 < quality.n_expected < 2.5


@pytest.mark.parametrize("seed", [1, 2, 3, 7831])
def test_plan_has_what_the_proof_needs(seed):
    plan = make_plan(seed)
    defects, star, change = plan.defects, plan.star_mjd, plan.change_mjd
    assert len(change) == CHANGES
    for k, date in enumerate(change):
        assert star[k] < date < star[k + 1]
    dated = np.isin(defects.switch_mjd, change).any(axis=1)
    states = np.array([defects.state(mjd) for mjd in star])
    for mode in MODES:
        here = select_on_trace(mode, defects.y, defects.x) & dated
        assert here.sum() >= 40
        changed = (states[1:, here] != states[:-1, here]).sum(axis=1)
        assert (changed >= 5).all()
    position = defects.y.astype(int) * 2000 + defects.x
    assert len(np.unique(position)) == len(defects) > 4000
    assert make_plan(seed).defects.y.tolist() == defects.y.tolist()


def test_a_pixel_belongs_to_the_first_population_that_has_it():
    one = make_defects("MIRIMAGE", [10, 20], [30, 40], amplitude=[1.0, 2.0])
    two = make_defects("MIRIMAGE", [20, 5], [40, 50], amplitude=[3.0, 4.0], onset_mjd=59000.0)
    joined = join_defects(one, two)
    assert sorted(zip(joined.y.tolist(), joined.amplitude.tolist(), strict=True)) == [
        (5, 4.0),
        (10, 1.0),
        (20, 2.0),
    ]


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """The slitless star after the last change, with both masks, and noise draws with neither."""
    folder = tmp_path_factory.mktemp("proof")
    plan = make_plan(SEED)
    references = write_references(folder / "refs")
    references |= write_spectral(folder / "refs", pattern=plan.pattern)
    defects = plan.defects
    bad = {
        "static": defects.state(plan.first_mjd),
        "dated": defects.state(plan.star_mjd[-1]),
        "none": np.zeros(len(defects), bool),
    }
    contexts, names = {}, {}
    for number, (mask, chosen) in enumerate(bad.items(), start=1):
        path = write_mask(folder / mask, defects.select(chosen))
        contexts[mask] = build_context(
            folder / "crds", {"mask": [path], **references}, name=f"jwst_000{number}.pmap"
        )
        names[mask] = contexts[mask].names[path]
    none = {"none": contexts.pop("none")}
    idle = types.SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.step.gc", idle)
        settings = (folder / "spectra", plan, "slitless")
        spec = plan.make_spec("slitless", CHANGES)
        found = chain.run_star(*settings, spec, defects, contexts, ("off", "fit_profile"))
        spec = plan.make_spec("slitless", 0, number=10, n_draws=4)
        draws = chain.run_star(*settings, spec, None, none, ("fit_profile",))
    assert not list((folder / "spectra").glob(".tvbadpix-*"))
    assert len(list((folder / "spectra").iterdir())) == 5
    assert [(one.draw, one.mask_name) for one in draws] == [(k, names["none"]) for k in range(4)]
    return plan, found, np.array([one.ratio for one in draws]), names


def test_dated_mask_with_pixel_replace_clears_the_spectrum(spectra):
    plan, found, draws, names = spectra
    assert draws.shape[0] == 4
    defects = plan.defects
    here = select_on_trace("slitless", defects.y, defects.x)
    here &= defects.state(plan.star_mjd[-1]) | defects.state(plan.first_mjd)
    where = get_trace(MODES["slitless"]).wavelength(defects.y[here])
    quality = {}
    for one in found:
        assert one.mask_name == names[one.mask]
        wavelength = one.wavelength_um
        assert (np.diff(wavelength) > 0).all()
        quality[one.mask, one.replacement] = measure_quality(
            one.ratio,
            draws=draws,
            defect_bins=np.abs(wavelength[:, None] - where).argmin(axis=0),
            used=(wavelength > 5) & (wavelength < 12),
        )
    static, dated = quality["static", "fit_profile"], quality["dated", "fit_profile"]
    assert static.excess > 12
    assert dated.excess < 0.15 * static.excess
    assert dated.rms < 0.6 * static.rms
    assert dated.level == pytest.approx(1, abs=0.002)
    # Without replacement the gaps are worse than what they hide.
    assert quality["dated", "off"].excess > static.excess
    assert quality["dated", "off"].largest > 0.15


def test_each_integration_in_the_slit_becomes_a_rate_of_its_own(tmp_path):
    rng = np.random.default_rng(3)
    arrays = {name: rng.random((3, 4, 5), np.float32) for name in ("data", "err")}
    arrays |= {f"var_{name}": rng.random((3, 4, 5), np.float32) for name in ("poisson", "rnoise")}
    cube = CubeModel(**arrays, dq=np.arange(60, dtype=np.uint32).reshape(3, 4, 5))
    cube.meta.exposure.nints = 3
    cube.meta.target.catalog_name = "PROOF-STAR"
    path = tmp_path / "jw07831801001_rateints.fits"
    cube.save(path)
    assert chain._split_rate(path, "slitless") == [path]
    found = chain._split_rate(path, "slit")
    assert [one.name for one in found] == ["jw07831801001_rate.fits"] * 3
    for k, one in enumerate(found):
        with ImageModel(one) as rate:
            for name in ("data", "err", "dq", "var_poisson", "var_rnoise"):
                np.testing.assert_array_equal(getattr(rate, name), getattr(cube, name)[k])
            assert rate.meta.exposure.nints == 1
            assert rate.meta.target.catalog_name == "PROOF-STAR"
    assert chain._split_rate(found[0], "slit") == [found[0]]


def test_a_plan_makes_exposures_of_several_draws():
    plan = make_plan(SEED)
    assert plan.make_spec("slit", 1, n_draws=3).nints == 3
    one, four = (plan.make_spec("slitless", 2, n_draws=n) for n in (1, 4))
    assert four.nints == 4 * one.nints
    assert (one.mjd, one.observation) == (four.mjd, four.observation)
    values = np.arange(four.nints)[:, None] // one.nints
    parts = plan.split_integrations("slitless", values)
    assert [part.mean() for part in parts] == [0, 1, 2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_twenty_noise_draws_go_through_the_stages_of_the_verdict(mode, tmp_path):
    submitted = {}

    def submit(*call):
        submitted[job := Future()] = call
        return job

    pool = types.SimpleNamespace(submit=submit)
    contexts = dict.fromkeys(("static", "dated", "perfect"))
    plan = make_plan(SEED)
    field = add_field_defects(plan)
    jobs = dict(run._submit_noise(tmp_path, plan, None, pool))
    jobs |= run._submit_all(tmp_path, plan, field, contexts, pool)
    one = plan.make_spec(mode, 0).nints
    n_noise, observations = 0, set()
    calls = [(epoch, submitted[job]) for job, (name, epoch) in jobs.items() if name == mode]
    for epoch, call in calls:
        *_, spec, defects, masks, replacements = call
        assert chain.RECOMMENDED in replacements
        # What is run with one setting only gives each of its draws.
        assert len(replacements) == 1 or epoch >= 0
        assert (defects is None) == (epoch is None or epoch < 0)
        assert set(masks) == ({"none"} if epoch is None else {"static", "dated"})
        n_noise += spec.nints // one if epoch is None else 0
        observations.add(spec.observation)
        assert epoch is None or spec.nints >= (2 * one if epoch >= 0 else one)
    assert n_noise == 20
    assert len(observations) == len(calls)
    assert [epoch for epoch, _ in calls if epoch is not None] == [0, 1, 2, 3, -1]


def make_spectrum(mode, epoch, mask, draw, *, spikes=0, name=None):
    """A spectrum of 0.4 % noise on which so many defects leave spikes."""
    wavelength = np.linspace(4, 13, N_BINS)
    bins = np.linspace(60, 240, 10).astype(int)
    rng = np.random.default_rng([len(mode), epoch + 1, draw])
    ratio = 1 + 0.004 * rng.standard_normal(N_BINS)
    ratio[bins[:spikes]] += 0.1
    one = chain.Extracted(
        mask, name or f"{mask}.fits", chain.RECOMMENDED, "box", draw, wavelength, ratio
    )
    used = (wavelength > 5) & (wavelength < 12)
    quality = measure_quality(ratio, draws=make_draws(0.01), defect_bins=bins, used=used)
    return run.Spectrum(mode, epoch, "2024-01-01", 10, wavelength[bins], one, quality)


def find_failed(plan, left, **changes):
    """Checks that do not hold when so many of ten spikes are left, by mode and draw."""
    spectra = tuple(
        make_spectrum(mode, epoch, mask, draw, spikes=spikes * (epoch >= 0), **changes)
        for mode in MODES
        for epoch in (-1, 0, 1)
        for mask in ("static", "dated")
        for draw, few in enumerate(left[mode] if epoch >= 0 else [0])
        for spikes in [few if mask == "dated" else 10]
    )
    totals = tuple(run._add_up(spectra))
    expected = {mask: [f"{mask}.fits"] * 4 for mask in ("static", "dated")}
    checks = tuple(run._check(plan, spectra, totals, expected))
    return totals, checks, [check.name for check in checks if not check.holds]


def test_counts_are_means_over_the_draws_of_a_date():
    plan = make_plan(SEED)
    totals, checks, failed = find_failed(plan, {"slitless": (0, 0), "slit": (0, 2)})
    slitless, slit = totals
    assert (slitless.n_draws, slit.n_draws) == (2, 2)
    # Two dates of ten spikes; in the slit two are left in one draw of two.
    offset = slitless.expected
    assert slitless.static == pytest.approx(20 - offset)
    assert slitless.dated == pytest.approx(0 - offset)
    assert slit.dated == pytest.approx(2 - offset)
    assert slit.added == slitless.added == 0
    (removed,) = (check for check in checks if "removes" in check.name)
    # Each of two dates: half the difference of two draws.
    assert removed.found.endswith(f"+- {np.sqrt(2):.1f})")
    assert not failed


def test_each_requirement_on_spectra_can_fail():
    plan = make_plan(SEED)
    removal = "features of the static mask that the series removes"
    assert find_failed(plan, {"slitless": (2, 2), "slit": (1, 2)})[2] == [removal]
    assert (
        "spectra whose" in find_failed(plan, {"slitless": (0, 0), "slit": (0, 0)}, name="x")[2][0]
    )
    few = replace(plan, change_mjd=())
    names = find_failed(few, {"slitless": (0, 0), "slit": (0, 0)})[2]
    assert names == [f"{mode}: defects of known dates on the trace" for mode in MODES]


@pytest.mark.slow
def test_the_command_passes_whatever_the_crds_variables_say(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/nowhere")
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_9999.pmap")
    before = dict(os.environ)
    assert main(["prove", "--output-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "prove: PASS"
    assert dict(os.environ) == before
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "proof_slit.png",
        "proof_slitless.png",
        "proof_imaging.png",
    }
    table = Table.read(tmp_path / "proof_spectra.ecsv")
    assert set(table["mode"]) == {"slit", "slitless", "imaging"}


def test_an_output_folder_that_is_a_file_is_an_error(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["prove", "--output-dir", str(tmp_path / "taken")]) == 1
    assert "taken" in capsys.readouterr().err
