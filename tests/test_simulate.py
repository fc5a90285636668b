"""Simulated exposures: do they hold what their truth says, and does the pipeline take them?"""

import json
import os
import pprint
import re
import subprocess
import sys

import numpy as np
import pytest
from astropy.time import Time
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.errors import DateError, DetectorError, EvidenceError, InputError
from jwst_tvbadpix.simulate import (
    KINDS,
    MODES,
    CoronagraphWindows,
    CosmicRays,
    DarkPedestal,
    Defects,
    DriftingPedestal,
    ExposureSpec,
    FieldStars,
    PersistenceStreak,
    PixelPattern,
    Region,
    RenderContext,
    Scene,
    ShutterTraces,
    SkyField,
    SlicedChannel,
    SlitStrip,
    SourceField,
    SourceTrace,
    UndispersedSky,
    build_lrs_scene,
    compute_true_rate,
    draw_defects,
    draw_specs,
    find_region,
    make_defects,
    make_imaging_setup,
    make_nircam_setup,
    read_truth,
    render_ramps,
    render_rate,
    render_rateints,
    simulate_programme,
    write_ramp,
    write_rate,
    write_rateints,
    write_references,
    write_truth,
)

START, END = 59761.0, 61221.0
REFERENCE = 4  # reference columns at the left of SLITLESSPRISM
LAYERS = (
    SkyField(),
    CoronagraphWindows(),
    SlitStrip(),
    SourceTrace(),
    FieldStars(n_failed=300),
    PersistenceStreak(share=1),
    DarkPedestal(),
)


def spec_of(mjd=60000.25, **kwargs):
    settings = {"subarray": "SLITLESSPRISM", "ngroups": 60, "nints": 1, "seed": 5} | kwargs
    return ExposureSpec(mjd, **settings)


def quiet_scene():
    """Perfect pixels without crosstalk or cosmic rays: for exact expectations."""
    return Scene().add(CoronagraphWindows(), DarkPedestal())


def one_defect(**columns):
    """One TURN_ON pixel of 50 DN/s at the middle of the slitless subarray, unless told."""
    n = len(columns.get("y", [700]))
    values = {
        "y": np.array([700], np.int16),
        "x": np.array([40], np.int16),
        "kind": np.full(n, "TURN_ON"),
        "amplitude": np.full(n, 50, np.float32),
        "response": np.ones(n, np.float32),
        "noise_factor": np.ones(n, np.float32),
        "initially_bad": np.zeros(n, bool),
        "switch_mjd": np.full((n, 1), 60500.0),
    }
    return Defects(**(values | columns))


@pytest.fixture(scope="module")
def population():
    return draw_defects("MIRIMAGE", "FULL", start_mjd=START, end_mjd=END, seed=3)


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    calls = []
    made = simulate_programme(
        tmp_path_factory.mktemp("programme"),
        mode="slitless",
        n_exposures=8,
        seed=11,
        ramp_dates=["2025-01-01T06:00:00"],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(k, 9) for k in range(1, 10)]
    return made


# ---------------------------------------------------------------------------------- layers


def test_empty_scene_is_zeros():
    for subarray in ("FULL", "SLITLESSPRISM"):
        assert not compute_true_rate(spec_of(subarray=subarray), Scene()).any()


@pytest.mark.parametrize("failed", [True, False])
def test_layers_add_up_whatever_their_order(failed):
    ctx = spec_of(subarray="FULL", failed=failed).context
    parts = [layer.render(ctx) for layer in LAYERS]
    for part in parts:
        assert part.dtype == np.float32
        assert part.shape == (1024, 1032)
    light, dark = Scene().add(*LAYERS).render(ctx)
    np.testing.assert_allclose(light + dark, sum(parts), rtol=1e-5, atol=1e-4)
    light_r, dark_r = Scene().add(*LAYERS[::-1]).render(ctx)
    np.testing.assert_allclose(light_r + dark_r, sum(parts), rtol=1e-5, atol=1e-4)


def test_add_leaves_the_scene_alone():
    scene = Scene()
    assert scene.add(DarkPedestal()).layers == (DarkPedestal(),)
    assert scene.layers == ()


# All but the source: the aperture decides where that lies.
@pytest.mark.parametrize("layer", LAYERS[:3] + LAYERS[4:], ids=lambda layer: type(layer).__name__)
def test_subarray_is_a_cut_of_the_full_frame(layer):
    full = spec_of(subarray="FULL", failed=True).context
    part = spec_of(failed=True).context
    expected = layer.render(full)[part.region.slices]
    np.testing.assert_allclose(layer.render(part), expected, atol=1e-4)


def test_source_appears_only_in_failed_pointings():
    for subarray in ("FULL", "SLITLESSPRISM"):
        assert not SourceTrace().render(spec_of(subarray=subarray).context).any()
        trace = SourceTrace().render(spec_of(subarray=subarray, failed=True).context)
        rows = (trace > 0.1 * trace.max()).any(axis=1)
        assert rows.sum() > 300  # dispersed along y


def test_slit_spectrum_rises_towards_long_wavelengths():
    strip = SlitStrip().render(spec_of(subarray="FULL").context)[:, 325]
    assert strip[60] > 3 * strip[300] > 0
    assert not strip[410:].any()


def test_light_scales_with_the_sky_and_dark_does_not():
    scene = quiet_scene()
    once, dark_once = scene.render(spec_of(zodi=0.8).context)
    twice, dark_twice = scene.render(spec_of(zodi=1.6).context)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)
    np.testing.assert_array_equal(dark_once, dark_twice)


def test_pattern_belongs_to_the_detector():
    pattern, full = PixelPattern(seed=2), spec_of(subarray="FULL").region
    part = spec_of().region
    response = pattern.response(full)
    assert response.std() == pytest.approx(np.hypot(0.01, 0.004), rel=0.01)
    np.testing.assert_array_equal(response[part.slices], pattern.response(part))
    np.testing.assert_array_equal(pattern.dark(full)[part.slices], pattern.dark(part))
    assert not np.array_equal(response, PixelPattern(seed=3).response(full))


def context_of(detector, element="", region=None, **kwargs):
    region = region or find_region("FULL", detector=detector)
    return RenderContext(region, detector=detector, element=element, **kwargs)


@pytest.mark.parametrize(
    ("layer", "detector", "element"),
    [
        (UndispersedSky(20.0, field=(361.0, 1023.0, 8.0, 1020.0)), "MIRIMAGE", "F770W"),
        (SourceField(1, 2.3, 3000, 1.0), "NRCALONG", "F444W"),
        (SlicedChannel(518, 1022, 17, 0.6), "MIRIFUSHORT", "LONG"),
        (DriftingPedestal(), "MIRIFULONG", "SHORT"),
        (ShutterTraces(1, n_slitlets=200), "NRS2", "PRISM"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_other_layers_are_cut_from_the_full_frame_too(layer, detector, element):
    window = Region("FULL", 650, 900, 200, 130)
    settings = {"seed": 3, "field": 2, "dither": (12.4, -7.7)}
    full = layer.render(context_of(detector, element, **settings))
    part = layer.render(context_of(detector, element, window, **settings))
    assert full.dtype == np.float32
    assert part.any()
    np.testing.assert_allclose(part, full[window.slices], atol=1e-4)


def test_sources_follow_the_dither_and_the_field():
    stars = SourceField(1, 2.45, 200, 100.0, galaxies=0)
    here = stars.render(context_of("MIRIMAGE", field=1))
    moved = stars.render(context_of("MIRIMAGE", field=1, dither=(20.0, -30.0)))
    assert here.max() > 20
    np.testing.assert_allclose(moved[120:900, 120:900], here[100:880, 150:930], atol=0.05)
    other = stars.render(context_of("MIRIMAGE", field=2))
    assert np.corrcoef(here.ravel(), other.ravel())[0, 1] < 0.1


def test_stars_have_the_width_and_the_flux_they_are_given():
    # All sources of one flux: (uniform draw)^(-1 / slope) is 1 within 1 %.
    fwhm, flux = 2.45, 1000.0
    image = SourceField(1, fwhm, 5, flux, slope=1000.0, galaxies=0).render(context_of("MIRIMAGE"))
    y, x = np.unravel_index(image.argmax(), image.shape)
    stamp = image[y - 70 : y + 71, x - 70 : x + 71]
    assert stamp.sum() == pytest.approx(flux, rel=0.05)
    # The area above half of the maximum, seen on whole pixels.
    assert np.sqrt(4 / np.pi * (stamp > stamp.max() / 2).sum()) == pytest.approx(fwhm, abs=0.5)


def test_slices_are_bent_and_leave_gaps_and_the_bands_differ():
    channel = SlicedChannel(10, 501, 21, 0.3, fringe_depth=0.0)
    short, long = (channel.render(context_of("MIRIFUSHORT", band)) for band in ("SHORT", "LONG"))
    assert (short[512] < 0.01).sum() > 500  # right of the channel
    lit = short[512, 20:490] > 0.15
    assert (np.diff(lit.astype(int)) == 1).sum() == pytest.approx(21, abs=1)
    assert 0.6 < lit.mean() < 0.95
    assert not np.array_equal(lit, short[10, 20:490] > 0.05)
    assert not np.array_equal(short, long)
    fringes = SlicedChannel(10, 501, 21, 0.3).render(context_of("MIRIFUSHORT", "SHORT"))
    ratio = fringes[short > 0.1] / short[short > 0.1]
    assert ratio.std() == pytest.approx(0.08 / np.sqrt(2), rel=0.1)
    no_light = get_detector("MIRIFUSHORT").pedestal
    assert not (short > 0.01)[no_light[0] : no_light[1], no_light[2] : no_light[3]].any()


def test_pedestal_drifts_from_exposure_to_exposure():
    levels = [
        float(DriftingPedestal().render(context_of("MIRIFULONG", seed=seed))[500, 490])
        for seed in range(200)
    ]
    assert np.std(levels) == pytest.approx(0.05, rel=0.2)


def test_traces_run_along_x_on_a_dark_frame():
    image = ShutterTraces(1).render(context_of("NRS1", "G395M", field=1))
    assert 0.02 < (image > 0.01).mean() < 0.3
    y = image[:, 1000].argmax()
    assert (image[y, 800:1200] > 0.2 * image[y, 1000]).mean() > 0.8
    assert not (image > 0.001)[:, :300].any()


# --------------------------------------------------------------------------------- defects


def test_population_is_where_it_may_be(population):
    detector = get_detector("MIRIMAGE")
    assert set(population.kind) == set(KINDS)
    assert not detector.reference_pixels()[population.y, population.x].any()
    pixel = population.y.astype(int) * 1032 + population.x
    assert len(np.unique(pixel)) == len(population)
    assert (population.switch_mjd[:, 1:] >= population.switch_mjd[:, :-1]).all()


def test_kinds_behave_as_named(population):
    kind = population.kind
    before, after = population.state(START - 1), population.state(END + 1000)
    static = np.char.startswith(kind.astype(str), "STATIC")
    assert before[static].all()
    assert after[static].all()
    turn_on = kind == "TURN_ON"
    assert not before[turn_on].any()
    assert after[turn_on].all()
    low = turn_on & (population.response < 1)
    assert low.sum() == round(0.2 * turn_on.sum())
    assert not population.amplitude[low].any()
    assert not after[kind == "RECOVER"].any()
    flips = np.isfinite(population.switch_mjd[kind == "TELEGRAPH"]).sum(axis=1)
    assert np.median(flips) >= 4
    assert (population.response[kind == "STATIC_LOW"] < 1).all()
    # Most, not all, well above the noise of a rate.
    strong = population.amplitude[kind == "STATIC_HOT"] > 5 * 0.4
    assert 0.7 < strong.mean() < 1


@pytest.mark.parametrize(
    ("mjd", "expected"),
    [
        (0.0, [0, 1, 1]),
        (99.999, [0, 1, 1]),
        (100.0, [1, 0, 1]),
        (200.0, [0, 0, 1]),
        (9e9, [1, 0, 1]),
    ],
)
def test_state_flips_at_each_switch(mjd, expected):
    defects = one_defect(
        y=np.array([10, 11, 12]),
        x=np.array([20, 21, 22]),
        initially_bad=np.array([False, True, True]),
        switch_mjd=np.array([[100.0, 200, 300], [100, np.inf, np.inf], [np.inf] * 3]),
    )
    state = defects.state(mjd)
    np.testing.assert_array_equal(state, np.array(expected, bool))
    bad = defects.bad_map(mjd, (1024, 1032))
    assert bad.sum() == state.sum()
    np.testing.assert_array_equal(bad[[10, 11, 12], [20, 21, 22]], state)


def test_population_sizes_can_be_given():
    sizes = {f"n_{kind.lower()}": k for k, kind in enumerate(KINDS)}
    drawn = draw_defects("MIRIMAGE", "SLITLESSPRISM", start_mjd=START, end_mjd=END, seed=1, **sizes)
    assert [(drawn.kind == kind).sum() for kind in KINDS] == list(range(6))
    assert ((drawn.y >= 528) & (drawn.y < 944) & (drawn.x < 72)).all()
    some = drawn.select(drawn.kind == "TELEGRAPH")
    assert len(some) == 5
    assert some.seed == 1


def test_defects_can_be_put_at_given_places_and_dates():
    made = make_defects(
        "NRCALONG",
        np.array([2000, 10, 1000]),
        np.array([5, 2040, 1000]),
        amplitude=np.array([1.0, 2.0, 3.0]),
        onset_mjd=np.array([-np.inf, 60500.0, 60100.0]),
        recovery_mjd=np.array([np.inf, np.inf, 60200.0]),
    )
    assert made.kind.tolist() == ["STATIC_HOT", "TURN_ON", "RECOVER"]
    assert made.amplitude.tolist() == [1, 2, 3]
    for mjd, expected in ((60000, [1, 0, 0]), (60150, [1, 0, 1]), (60300, [1, 0, 0])):
        assert made.state(mjd).tolist() == [bool(one) for one in expected]
    assert made.state(60500).tolist() == [True, True, False]
    early = make_defects("NRS1", [7], [8], amplitude=1.0, recovery_mjd=60000.0)
    assert (early.state(59999).item(), early.state(60001).item()) == (True, False)
    with pytest.raises(EvidenceError, match="once"):
        make_defects("NRS1", [7, 7], [8, 8], amplitude=1.0)
    with pytest.raises(EvidenceError, match="2048 x 2048"):
        make_defects("NRS1", [2048], [8], amplitude=1.0)
    with pytest.raises(DateError, match="after"):
        make_defects("NRS1", [7], [8], amplitude=1.0, onset_mjd=2.0, recovery_mjd=1.0)


def test_truth_survives_a_round_trip(tmp_path, population):
    for defects in (population, one_defect(switch_mjd=np.empty((1, 0)))):
        back = read_truth(write_truth(tmp_path / "truth.ecsv", defects))
        for name in ("y", "x", "kind", "amplitude", "response", "noise_factor"):
            values = getattr(defects, name)
            np.testing.assert_array_equal(getattr(back, name), values)
        np.testing.assert_array_equal(back.initially_bad, defects.initially_bad)
        np.testing.assert_array_equal(back.switch_mjd, defects.switch_mjd)
        assert (back.detector, back.seed) == (defects.detector, defects.seed)


def test_wrong_truth_is_named(tmp_path):
    with pytest.raises(InputError, match="absent"):
        read_truth(tmp_path / "absent.ecsv")
    (tmp_path / "text.ecsv").write_text("no table\n")
    with pytest.raises(InputError, match="ECSV"):
        read_truth(tmp_path / "text.ecsv")


def test_wrong_requests_are_named(tmp_path):
    dates = {"start_mjd": START, "end_mjd": END, "seed": 1}
    with pytest.raises(DetectorError, match="SUBARRAY"):
        draw_defects("MIRIMAGE", "SUBPRISM", **dates)
    with pytest.raises(DateError, match="after"):
        draw_defects("MIRIMAGE", "FULL", start_mjd=END, end_mjd=START, seed=1)
    with pytest.raises(EvidenceError, match="fewer"):
        draw_defects("MIRIMAGE", "SLITLESSPRISM", n_turn_on=10**6, **dates)
    with pytest.raises(DetectorError, match="subarray"):
        ExposureSpec(START, "SUB64")
    with pytest.raises(EvidenceError, match="nints"):
        ExposureSpec(START, nints=0)
    with pytest.raises(EvidenceError, match="groups"):
        render_rate(spec_of(ngroups=3), Scene())
    with pytest.raises(DetectorError, match="mode"):
        simulate_programme(tmp_path, mode="wfss")
    with pytest.raises(DetectorError, match="NRS1, NRS2"):
        simulate_programme(tmp_path, mode="nirspec", detector="NRCALONG")
    with pytest.raises(DetectorError, match="frame time"):
        make_imaging_setup(find_region("MASKLYOT"))
    with pytest.raises(DetectorError, match="leave it out"):
        ExposureSpec(START, "SLITLESSPRISM", setup=make_imaging_setup())
    with pytest.raises(DetectorError, match="not simulated"):
        write_references(tmp_path, detector="GUIDER1")
    with pytest.raises(EvidenceError, match="n_exposures"):
        simulate_programme(tmp_path, n_exposures=0)
    with pytest.raises(DateError, match="ISO"):
        simulate_programme(tmp_path, start="yesterday")
    with pytest.raises(DateError, match="2 days"):
        simulate_programme(tmp_path, start="2024-01-02", end="2024-01-01")


# ------------------------------------------------------------------------------- exposures


def test_same_seed_same_arrays():
    scene, defects = build_lrs_scene(seed=1), one_defect()
    spec = spec_of(nints=3, failed=True)
    one, other = (render_rate(spec, scene, defects) for _ in range(2))
    assert one.rate.tobytes() == other.rate.tobytes()
    assert one.err.tobytes() == other.err.tobytes()
    apart = render_rate(spec_of(nints=3, failed=True, seed=6), scene, defects)
    assert not np.array_equal(one.rate, apart.rate, equal_nan=True)
    ramp_spec = spec_of(ngroups=4)
    ramps = [render_ramps(ramp_spec, scene, defects).tobytes() for _ in range(2)]
    assert ramps[0] == ramps[1]


def test_noise_is_what_err_says():
    spec, scene = spec_of(nints=2), quiet_scene()
    result = render_rate(spec, scene)
    pull = ((result.rate - compute_true_rate(spec, scene)) / result.err)[:, REFERENCE:]
    # Row noise adds (0.1)^2 of the read variance, common to a row: mean scatters with n rows.
    assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * pull.size) + 0.01)
    assert abs(pull.mean()) < 5 * np.sqrt(1 / pull.size + 0.01 / pull.shape[0])
    np.testing.assert_allclose(result.err**2, result.var_poisson + result.var_rnoise, rtol=1e-5)


def test_reference_pixels_are_flagged_and_nothing_else():
    result = render_rate(spec_of(), build_lrs_scene(seed=1), one_defect())
    assert (result.dq[:, :REFERENCE] == (2**31 | 1)).all()
    assert not result.dq[:, REFERENCE:].any()
    assert np.isnan(result.rate[:, :REFERENCE]).all()
    assert np.isfinite(result.rate[:, REFERENCE:]).all()


def test_saturated_pixel_is_flagged():
    defects = one_defect(amplitude=np.float32([3e5]), initially_bad=np.array([True]))
    result = render_rate(spec_of(nints=2), quiet_scene(), defects)
    assert result.dq[700 - 528, 40] == 2 | 1
    assert np.isnan(result.rate[700 - 528, 40])
    # One that saturates on the way is measured with fewer groups, hence larger errors.
    defects = one_defect(amplitude=np.float32([1e4]), initially_bad=np.array([True]))
    result = render_rate(spec_of(nints=2), quiet_scene(), defects)
    assert result.dq[700 - 528, 40] == 0
    assert result.var_rnoise[700 - 528, 40] > 2 * np.median(result.var_rnoise[:, REFERENCE:])


def test_rate_is_the_mean_of_its_integrations():
    spec, scene = spec_of(nints=4), build_lrs_scene(seed=1)
    ints = list(render_rateints(spec, scene))
    result = render_rate(spec, scene)
    np.testing.assert_allclose(result.rate, np.mean([one.rate for one in ints], axis=0), rtol=1e-4)
    expected = np.sqrt(sum(one.err**2 for one in ints)) / 4
    np.testing.assert_allclose(result.err, expected, rtol=1e-4)


def test_injected_amplitude_is_recovered():
    rng = np.random.default_rng(1)
    n = 200
    pixel = rng.choice(416 * 64, n, replace=False)
    defects = one_defect(
        y=528 + pixel // 64,
        x=6 + pixel % 64,
        amplitude=rng.uniform(2, 30, n).astype(np.float32),
    )
    scene = quiet_scene()
    off = render_rate(spec_of(60499.0, seed=1, nints=10), scene, defects)
    on = render_rate(spec_of(60501.0, seed=2, nints=10), scene, defects)
    at = defects.y - 528, defects.x
    pull = (on.rate - off.rate)[at] - defects.amplitude
    pull /= np.hypot(on.err, off.err)[at]
    assert abs(pull.mean()) < 5 / np.sqrt(n)
    assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * n))


def test_low_response_takes_light_but_not_dark():
    defects = one_defect(amplitude=np.float32([0]), response=np.float32([0.25]))
    scene = quiet_scene()
    before = compute_true_rate(spec_of(60499.0), scene, defects)[700 - 528, 40]
    after = compute_true_rate(spec_of(60501.0), scene, defects)[700 - 528, 40]
    dark = DarkPedestal().level
    assert after - dark == pytest.approx(0.25 * (before - dark), rel=1e-5)


def test_crosstalk_moves_counts_and_loses_none():
    defects = one_defect(initially_bad=np.array([True]), amplitude=np.float32([1000]))
    rate = compute_true_rate(spec_of(), Scene(crosstalk=0.01), defects)
    assert rate[172, 40] == pytest.approx(960)
    assert rate[171, 40] == rate[173, 40] == rate[172, 39] == pytest.approx(10)
    assert rate.sum() == pytest.approx(1000)


def test_cosmic_rays_hit_few_pixels():
    spec, scene = spec_of(subarray="FULL", ngroups=120), Scene(cosmic_rays=CosmicRays())
    excess = render_rate(spec, scene).rate - render_rate(spec, Scene()).rate
    share = np.mean(np.abs(excess[:, REFERENCE:-REFERENCE]) > 0.3)
    assert 0 < share < 0.01


def test_cosmic_rays_come_at_the_rate_they_are_given():
    spec = spec_of(subarray="FULL", ngroups=120)
    quiet = render_rate(spec, Scene()).rate
    hit = []
    for rate in (10.0, 40.0):
        rays = CosmicRays(hits_per_s=rate, showers_per_s=0.0)
        excess = render_rate(spec, Scene(cosmic_rays=rays)).rate - quiet
        hit.append((np.nan_to_num(excess) > 0.01).sum())
        # Some 2 pixels for each of the hits that survive.
        expected = 2 * rate * rays.residual_share * spec.exposure_s
        assert hit[-1] == pytest.approx(expected, rel=0.3)
    showers = CosmicRays(hits_per_s=0.0, showers_per_s=0.05, shower_dn=1000.0)
    excess = render_rate(spec, Scene(cosmic_rays=showers)).rate - quiet
    assert (np.nan_to_num(excess) > 0.01).sum() > 1000


@pytest.mark.parametrize(("detector", "axis"), [("MIRIMAGE", 1), ("NRCALONG", 1), ("NRS1", 0)])
def test_stripes_run_along_the_fast_axis(detector, axis):
    mode = {"MIRIMAGE": "imaging", "NRCALONG": "nircam", "NRS1": "nirspec"}[detector]
    spec = draw_specs(mode=mode, n_exposures=2, start_mjd=START, end_mjd=END, seed=1)[1]
    rate = render_rate(spec, Scene()).rate[4:-4, 4:-4]
    assert rate.mean(axis=axis).std() > 2 * rate.mean(axis=1 - axis).std()


@pytest.mark.parametrize("detector", ["NRCALONG", "NRS1", "MIRIFULONG"])
def test_noise_of_each_instrument_is_what_err_says(detector):
    dn_per_s = 5.0
    mode = next(name for name, facts in MODES.items() if detector in facts.detectors)
    spec = draw_specs(
        mode=mode, detector=detector, n_exposures=1, start_mjd=START, end_mjd=END, seed=1
    )[0]
    result = render_rate(spec, Scene().add(DarkPedestal(dn_per_s)))
    pull = (result.rate - dn_per_s) / result.err
    assert np.nanstd(pull) == pytest.approx(1, abs=0.03)
    n_fit = spec.ngroups - spec.setup.electronics.groups_lost
    seconds = (n_fit - 1) * spec.group_time_s * spec.nints
    poisson = dn_per_s / (spec.setup.electronics.gain_e_per_dn * seconds)
    assert np.nanmedian(result.var_poisson) == pytest.approx(poisson, rel=0.02)


def test_frame_times_are_those_of_the_documentation():
    full = make_nircam_setup("NRCALONG", "MEDIUM8")
    assert full.frame_time_s == pytest.approx(10.73677, abs=1e-5)
    assert full.group_time_s == pytest.approx(107.3677, abs=1e-4)
    small = make_nircam_setup("NRCALONG", "SHALLOW4", Region("SUB64P", 100, 100, 64, 64))
    # 49.4 ms with overheads in the documentation's text; its formula gives 50.2.
    assert small.frame_time_s == pytest.approx(0.0494, rel=0.02)


def test_slope_of_a_ramp_is_the_rate():
    spec = spec_of(60501.0, ngroups=40, nints=2)
    scene = Scene(pattern=PixelPattern(seed=1)).add(CoronagraphWindows(), DarkPedestal())
    defects = one_defect()
    ramps = render_ramps(spec, scene, defects)
    assert ramps.shape == (2, 40, 416, 72)
    assert ramps.dtype == np.uint16
    # First to last read: (n-1) intervals of light, read noise twice.
    seconds = 39 * spec.group_time_s
    difference = (ramps[:, -1].astype(float) - ramps[:, 0]).mean(axis=0)
    true = compute_true_rate(spec, scene, defects)
    variance = (true * seconds / 3.1 + 2 * 6.0**2 + 2 / 12) / 2
    pull = (difference - true * seconds) / np.sqrt(variance)
    assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * pull.size))
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    assert abs(pull[700 - 528, 40]) < 5
    assert true[700 - 528, 40] > 50


# ----------------------------------------------------------------------------------- files


@pytest.mark.parametrize("subarray", ["FULL", "SLITLESSPRISM"])
def test_headers_are_complete(tmp_path, subarray):
    spec = spec_of(subarray=subarray, ngroups=20, observation=7)
    path = write_rate(tmp_path, spec, Scene().add(DarkPedestal()))
    assert path.name == "jw07831007001_02101_00001_mirimage_rate.fits"
    slit = subarray == "FULL"
    with datamodels.open(path) as model:
        meta = model.meta
        assert isinstance(model, datamodels.ImageModel)
        assert (meta.telescope, meta.instrument.name) == ("JWST", "MIRI")
        assert (meta.instrument.detector, meta.instrument.filter) == ("MIRIMAGE", "P750L")
        assert meta.exposure.type == ("MIR_LRS-FIXEDSLIT" if slit else "MIR_LRS-SLITLESS")
        assert (meta.exposure.readpatt, meta.exposure.ngroups) == ("FASTR1", 20)
        assert meta.exposure.frame_time == (2.77504 if slit else 0.15904)
        start = Time(f"{meta.observation.date}T{meta.observation.time}", scale="utc").mjd
        assert start == pytest.approx(meta.exposure.start_time, abs=1e-8)
        assert meta.exposure.start_time < meta.exposure.mid_time < meta.exposure.end_time
        corner = meta.subarray.xstart, meta.subarray.ystart
        assert corner == ((1, 1) if slit else (1, 529))
        assert model.shape == (meta.subarray.ysize, meta.subarray.xsize)
        assert (meta.subarray.fastaxis, meta.subarray.slowaxis) == (1, 2)
        assert meta.wcsinfo.dispersion_direction == 2
        assert meta.observation.visit_id == "07831007001"
        assert meta.ref_file.mask.name is None
        assert meta.cal_step.ramp_fit == "COMPLETE"
        assert meta.bunit_data == "DN/s"
        assert model.dq.dtype == np.uint32


HEADERS = {
    ("imaging", "MIRIMAGE"): ("MIR_IMAGE", {"filter": "F770W"}, "FASTR1"),
    ("mrs", "MIRIFULONG"): ("MIR_MRS", {"band": "SHORT", "channel": "34"}, "FASTR1"),
    ("nirspec", "NRS2"): ("NRS_MSASPEC", {"grating": "G395M", "filter": "F290LP"}, "NRSIRS2"),
    ("nircam", "NRCALONG"): (
        "NRC_IMAGE",
        {"filter": "F444W", "pupil": "CLEAR", "channel": "LONG", "module": "A"},
        "MEDIUM8",
    ),
    ("nircam", "NRCB3"): (
        "NRC_IMAGE",
        {"filter": "F200W", "pupil": "CLEAR", "channel": "SHORT", "module": "B"},
        "MEDIUM8",
    ),
}


@pytest.mark.parametrize(("mode", "detector"), HEADERS)
def test_headers_of_each_mode(tmp_path, mode, detector):
    exp_type, optics, readpatt = HEADERS[mode, detector]
    spec = draw_specs(
        mode=mode, detector=detector, n_exposures=1, start_mjd=START, end_mjd=END, seed=1
    )[0]
    path = write_rate(tmp_path, spec, Scene())
    assert path.name.endswith(f"_{detector.lower()}_rate.fits")
    facts = get_detector(detector)
    with datamodels.open(path) as model:
        meta = model.meta
        assert (meta.instrument.name, meta.instrument.detector) == (facts.instrument, detector)
        assert (meta.exposure.type, meta.exposure.readpatt) == (exp_type, readpatt)
        assert {name: getattr(meta.instrument, name) for name in optics} == optics
        assert meta.wcsinfo.dispersion_direction is None  # before assign_wcs
        assert (meta.subarray.fastaxis, meta.subarray.slowaxis) == (facts.fastaxis, facts.slowaxis)
        assert meta.subarray.name == "FULL"
        assert model.shape == facts.shape
        assert meta.exposure.group_time == pytest.approx(
            meta.exposure.frame_time * (meta.exposure.nframes + meta.exposure.groupgap)
        )
        assert np.isnan(model.data[facts.reference_pixels()]).all()


def test_modes_vary_as_observations_do():
    drawn = {
        mode: draw_specs(mode=mode, n_exposures=6, start_mjd=START, end_mjd=END, seed=1)
        for mode in MODES
    }
    assert {spec.setup.element for spec in drawn["mrs"]} == {"SHORT", "MEDIUM", "LONG"}
    assert {"IRS2" in spec.setup.readpatt for spec in drawn["nirspec"]} == {True, False}
    assert {spec.setup.element for spec in drawn["nirspec"]} == {"PRISM", "G235M", "G395M"}
    for mode in ("imaging", "nircam"):
        assert len({spec.field for spec in drawn[mode]}) == 3
        assert len({spec.dither for spec in drawn[mode]}) == 6
    # IRS2 reads no subarrays.
    slits = Region("ALLSLITS", 870, 0, 256, 2048)
    cut = draw_specs(
        mode="nirspec", region=slits, n_exposures=6, start_mjd=START, end_mjd=END, seed=1
    )
    assert {spec.setup.exp_type for spec in cut} == {"NRS_FIXEDSLIT"}
    assert not any("IRS2" in spec.setup.readpatt for spec in cut)
    with pytest.raises(DetectorError, match="IRS2"):
        render_ramps(drawn["nirspec"][0], Scene())


def test_command_line_knows_every_mode_and_no_other(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["simulate", "--help"])
    text = capsys.readouterr().out
    assert all(mode in text for mode in (*MODES, "flats", "standards"))
    with pytest.raises(SystemExit):
        main(["simulate", str(tmp_path / "no"), "--mode", "other"])
    listed = capsys.readouterr().err.partition("choose from ")[2]
    assert re.findall(r"\w+", listed) == [*MODES, "flats", "standards"]
    command = ["simulate", str(tmp_path / "d"), "--mode", "mrs", "--detector", "MIRIFULONG"]
    assert main([*command, "--exposures", "2"]) == 0
    path = capsys.readouterr().out.splitlines()[-1]
    assert path.endswith("jw09002-simulated_mirifulong-mrs_asn.json")
    assert main(["simulate", str(tmp_path), "--mode", "mrs", "--detector", "NRS1"]) == 1
    assert "MIRIFUSHORT, MIRIFULONG" in capsys.readouterr().err


def test_rateints_and_rate_agree(tmp_path):
    spec, scene = spec_of(nints=3), build_lrs_scene(seed=1)
    with (
        datamodels.open(write_rateints(tmp_path, spec, scene)) as cube,
        datamodels.open(write_rate(tmp_path / "named_rate.fits", spec, scene)) as image,
    ):
        assert isinstance(cube, datamodels.CubeModel)
        assert cube.shape == (3, 416, 72)
        np.testing.assert_allclose(cube.data.mean(axis=0), image.data, rtol=1e-4)
        assert len(cube.int_times) == 3
        assert image.meta.filename == "named_rate.fits"


def test_programme_is_complete(programme):
    assert len(programme.rates) == 8
    assert all(path.is_file() for path in (*programme.rates, *programme.ramps))
    dates = np.array([spec.mjd for spec in programme.specs])
    assert (np.diff(dates) > 0).all()
    assert (np.diff(dates) < 2).sum() >= 1
    assert sum(spec.failed for spec in programme.specs) == 2
    truth = read_truth(programme.truth)
    np.testing.assert_array_equal(truth.switch_mjd, programme.defects.switch_mjd)
    names = [path.name for path in (*programme.rates, *programme.ramps)]
    assert len(set(names)) == 9


def test_association_loads(programme):
    from jwst.associations import load_asn
    from jwst.datamodels import ModelLibrary

    with programme.association.open() as stream:
        product = load_asn(stream)["products"][0]
    assert [m["expname"] for m in product["members"]] == [p.name for p in programme.rates]
    library = ModelLibrary(programme.association)
    assert len(library) == 8
    assert json.loads(programme.association.read_text())["program"] == "07831"


def test_programme_does_not_depend_on_the_order(programme):
    scene = build_lrs_scene(seed=11)
    last = render_rate(programme.specs[-1], scene, programme.defects)
    with datamodels.open(programme.rates[-1]) as model:
        np.testing.assert_array_equal(model.data, last.rate)
        np.testing.assert_array_equal(model.dq, last.dq)


def test_modes_do_not_share_file_names():
    names = {
        spec.filename("rate")
        for mode in MODES
        for spec in draw_specs(mode=mode, n_exposures=400, start_mjd=START, end_mjd=END, seed=1)
    }
    assert len(names) == 400 * len(MODES)


def write_stub_crds(folder):
    """Let jwst run on overrides alone: a cache that knows a context's name and nothing else."""
    config = folder / "config" / "jwst"
    config.mkdir(parents=True)
    context = "jwst_0000.pmap"
    contexts = dict.fromkeys(("operational_context", "latest_context", "edit_context"), context)
    server = {
        "observatory": "jwst",
        "bad_files": "",
        "bad_files_list": [],
        "force_remote_mode": False,
        "last_synced": "never",
        "crds_version": {"str": "14.0.0"},
        "mappings": [],
        **contexts,
    }
    (config / "server_config").write_text(pprint.pformat(server))
    return {
        **os.environ,
        "CRDS_PATH": str(folder),
        "CRDS_SERVER_URL": "https://jwst-serverless-mode.stsci.edu",
        "CRDS_CONTEXT": context,
        "CRDS_OBSERVATORY": "jwst",
        "CRDS_READONLY_CACHE": "1",
        "STPIPE_DISABLE_CRDS_STEPPARS": "true",
    }


RUN_DETECTOR1 = """
import sys
from jwst.pipeline import Detector1Pipeline
ramp, folder, mask, gain, readnoise, saturation = sys.argv[1:]
absent = {"override_" + name: "N/A" for name in ("dark", "linearity", "reset", "rscd")}
noise = {"override_gain": gain, "override_readnoise": readnoise}
Detector1Pipeline.call(ramp, save_results=True, output_dir=folder, steps={
    "dq_init": {"override_mask": mask},
    "saturation": {"override_saturation": saturation, "override_superbias": "N/A"},
    "ipc": {"override_ipc": "N/A"},
    "refpix": {"override_refpix": "N/A", "override_sirskernel": "N/A"},
    "rscd": {"override_rscd": "N/A"}, "linearity": {"override_linearity": "N/A"},
    "dark_current": {"override_dark": "N/A"}, "reset": {"override_reset": "N/A"},
    "jump": noise, "ramp_fit": noise, "gain_scale": {"override_gain": gain},
})
"""


def write_neutral_mask(path):
    dq = np.where(get_detector("MIRIMAGE").reference_pixels(), 2**31, 0).astype(np.uint32)
    mask = datamodels.MaskModel(dq=dq)
    mask.dq_def = np.array(
        [(0, 1, "DO_NOT_USE", ""), (31, 2**31, "REFERENCE_PIXEL", "")], mask.get_dtype("dq_def")
    )
    subarray = mask.meta.subarray
    subarray.name, subarray.xstart, subarray.ystart = "GENERIC", 1, 1
    subarray.xsize, subarray.ysize, subarray.fastaxis, subarray.slowaxis = 1032, 1024, 1, 2
    mask.save(path)
    return path


def test_detector1_measures_the_simulated_rate(tmp_path):
    references = write_references(tmp_path / "references")
    assert sorted(references) == ["gain", "readnoise", "saturation"]
    mask = write_neutral_mask(tmp_path / "mask.fits")
    spec, scene = spec_of(60501.0, ngroups=20, nints=2), build_lrs_scene(seed=1)
    defects = one_defect(amplitude=np.float32([400]))
    ramp = write_ramp(tmp_path, spec, scene, defects)
    files = [str(references[name][0]) for name in ("gain", "readnoise", "saturation")]
    subprocess.run(
        [sys.executable, "-c", RUN_DETECTOR1, str(ramp), str(tmp_path), str(mask), *files],
        env=write_stub_crds(tmp_path / "crds"),
        check=True,
        capture_output=True,
        timeout=300,
    )
    with datamodels.open(tmp_path / spec.filename("rate")) as model:
        true = compute_true_rate(spec, scene, defects)
        pull = ((model.data - true) / model.err)[:, REFERENCE:]
        assert (model.dq[:, REFERENCE:] & 1).sum() == 0
        hot = model.data[700 - 528, 40] - true[700 - 528, 40]
        assert abs(hot) < 5 * model.err[700 - 528, 40]
    # Robust width: a few hits survive jump detection, as they do in flight.
    assert 1.4826 * np.median(np.abs(pull)) == pytest.approx(1, abs=0.1)
    assert abs(np.median(pull)) < 0.1
