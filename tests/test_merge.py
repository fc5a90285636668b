from dataclasses import replace

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import (
    StackedFlat,
    StackSettings,
    StarResponse,
    find_transients,
    make_flags,
    merge_flats,
)
from jwst_tvbadpix.flatfield.sources import make_profile
from jwst_tvbadpix.refmodels import dq_value

SHAPE = (120, 160)
V, U = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
STAR = np.exp(0.02 * U - 0.01 * V + 0.01 * U * V)
SCATTERED = np.exp(0.015 * U**2 - 0.01 * V)
AREA = 1 - 0.02 * U**2 - 0.01 * V
NOISE, SLOW = 1e-3, 5e-4


def make_stack(*, pixel=None, lit=None, seed=0):
    """The flat that a sky of star light times scattered light would give, without noise."""
    if pixel is None:
        pixel = 1 + 0.013 * np.random.default_rng(seed).normal(size=SHAPE)
    flat = pixel * STAR * SCATTERED * AREA
    flat /= flat.mean()
    lit = np.ones(SHAPE, bool) if lit is None else lit
    flat = np.where(lit, flat, np.nan).astype(np.float32)
    empty = np.zeros(0)
    random, slow = flat * np.float32(NOISE), flat * np.float32(SLOW)
    return pixel, StackedFlat(
        flat=flat,
        err=np.hypot(random, slow),
        err_formal=random,
        err_random=random,
        err_jackknife=random,
        err_systematic=slow,
        coverage=np.where(lit, 9, 0).astype(np.int32),
        region=lit.copy(),
        backgrounds=(),
        error_scale=empty,
        masked=empty,
        stars=(),
        profile=make_profile([], 2.0, SHAPE),
        transients=find_transients(empty, empty, empty.astype(int)),
        excluded=(),
        n_used=9,
        n_tiles=3,
        n_pointings=9,
        settings=StackSettings(2.0),
    )


def make_star(*, scale=1.0, order=3):
    return StarResponse(scale * STAR, np.full(SHAPE, 4e-4), order)


def test_reference_is_pixel_times_star_times_area():
    pixel, stack = make_stack()
    merged = merge_flats(stack, make_star(), AREA)
    truth = pixel * STAR * AREA
    np.testing.assert_allclose(merged.flat, truth / truth.mean(), rtol=2e-3)
    # Only the pixels' own mean over the field may differ: smooth errors are far below theirs.
    assert np.std(merged.flat / truth) < 6e-4
    np.testing.assert_allclose(merged.flat, merged.p_flat * merged.l_flat, rtol=1e-5)
    assert merged.flat.mean() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(merged.area, AREA / AREA.mean(), rtol=1e-6)
    assert merged.order == 3


def test_ratio_is_the_scattered_light_within_its_error():
    _, stack = make_stack()
    merged = merge_flats(stack, make_star(), AREA)
    truth = SCATTERED / SCATTERED.mean()
    assert merged.ratio.mean() == pytest.approx(1, abs=1e-6)
    pull = (merged.ratio - truth) / merged.ratio_err
    assert np.abs(pull).max() < 3
    np.testing.assert_array_less(np.hypot(4e-4, SLOW) * 0.99, merged.ratio_err / merged.ratio)
    assert merged.ratio_err.max() < 2e-3


def test_errors_are_kept_apart():
    _, stack = make_stack()
    merged = merge_flats(stack, make_star(), AREA)
    np.testing.assert_allclose(merged.err_random / merged.flat, NOISE, rtol=1e-4)
    share = merged.err_systematic / merged.flat
    # The stars' error, and what the pixels leave undetermined in the sky's smooth response.
    assert (share > 3.9e-4).all()
    assert np.median(share) < 8e-4
    np.testing.assert_allclose(
        merged.err, np.hypot(merged.err_random, merged.err_systematic), rtol=1e-5
    )


def test_normalisations_do_not_matter():
    _, stack = make_stack()
    merged = merge_flats(stack, make_star(), AREA)
    other = merge_flats(stack, make_star(scale=7.0), 0.012 * AREA)
    for name in ("flat", "err", "ratio", "p_flat", "l_flat"):
        np.testing.assert_allclose(getattr(other, name), getattr(merged, name), rtol=1e-5)


def test_without_stars_the_reference_is_the_sky():
    _, stack = make_stack()
    merged = merge_flats(stack, None, AREA, order=4)
    np.testing.assert_allclose(merged.flat, stack.flat, rtol=1e-5)
    np.testing.assert_allclose(merged.l_flat, merged.l_sky, rtol=1e-5)
    assert np.isnan(merged.ratio).all()
    np.testing.assert_allclose(merged.err_systematic, stack.err_systematic, rtol=1e-4)
    assert merged.order == 4


def test_pixels_that_stars_do_not_reach_keep_the_sky():
    _, stack = make_stack()
    star = make_star()
    left = np.zeros(SHAPE, bool)
    left[:, :40] = True
    star = StarResponse(np.where(left, np.nan, star.response), star.err, star.order)
    area = np.where(left, np.nan, AREA)
    merged = merge_flats(stack, star, area)
    ratio = merged.flat[left] / stack.flat[left]
    assert np.std(ratio) < 1e-6
    assert np.isnan(merged.ratio[left]).all()
    assert np.isfinite(merged.err[left]).all()
    assert merged.err_systematic[left].min() > 5 * merged.err_systematic[~left].min()


def test_star_flat_with_wrong_area_convention_shows_in_the_ratio():
    """Without the area in between, its shape would be taken for scattered light."""
    _, stack = make_stack()
    merged = merge_flats(stack, make_star(), np.ones(SHAPE))
    expected = SCATTERED * AREA
    np.testing.assert_allclose(merged.ratio, expected / expected.mean(), rtol=3e-3)


def test_nothing_harmful_is_left():
    pixel, _ = make_stack()
    pixel = pixel.copy()
    pixel[5, 5], pixel[6, 6], pixel[7, 7] = 0.0, -0.5, 0.03
    lit = np.ones(SHAPE, bool)
    lit[:, :10] = False
    _, stack = make_stack(pixel=pixel, lit=lit)
    stack.flat[8, 18] = np.inf
    stack.err_random[9, 19] = 0.05 * stack.flat[9, 19]
    stack.err_random[10, 20] = np.nan
    slit = np.zeros(SHAPE, bool)
    slit[50:60, 5:30] = True
    merged = merge_flats(stack, make_star(), AREA, non_science=slit)
    lost = merged.flags["DO_NOT_USE"]
    for y, x in ((6, 6), (8, 18), (10, 20), (0, 0)):
        assert lost[y, x]
    assert np.array_equal(lost, merged.flags["NO_FLAT_FIELD"])
    assert np.isnan(merged.flat[lost]).all()
    assert np.isnan(merged.err[lost]).all()
    kept = merged.flat[~lost]
    assert (kept >= 0.1).all()
    assert np.isfinite(kept).all()
    assert np.isfinite(merged.err[~lost]).all()
    assert (merged.err[~lost] > 0).all()
    assert merged.flags["UNRELIABLE_FLAT"][9, 19]
    assert merged.flags["UNRELIABLE_FLAT"].sum() == 1
    # The slit carries NON_SCIENCE alone, measured or not.
    for name, flag in merged.flags.items():
        assert flag[slit].all() == (name == "NON_SCIENCE")
        assert flag[slit].any() == (name == "NON_SCIENCE")
    assert (merged.flat[50:60, 5:10] == 1).all()
    assert not merged.flags["NON_SCIENCE"][~slit].any()


def test_flags_have_names_of_the_pipeline():
    flags = make_flags(np.ones(SHAPE), np.full(SHAPE, 0.01), np.ones(SHAPE, int))
    assert dq_value(*flags) > 0
    assert not any(flag.any() for flag in flags.values())


def test_maps_must_fit():
    _, stack = make_stack()
    with pytest.raises(EvidenceError, match=r"area as a map of \(120, 160\)"):
        merge_flats(stack, None, AREA[:50])
    with pytest.raises(EvidenceError, match="star response as a map"):
        merge_flats(stack, StarResponse(STAR[:9], STAR[:9], 2), AREA)
    with pytest.raises(EvidenceError, match="give maps that overlap"):
        merge_flats(stack, make_star(), np.full(SHAPE, np.nan))
    tiny = replace(stack, region=stack.region & (U > 0.9) & (V > 0.9))
    with pytest.raises(EvidenceError, match="or a lower order"):
        merge_flats(tiny, None, AREA, order=8)
