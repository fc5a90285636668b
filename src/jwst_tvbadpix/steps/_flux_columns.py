"""What the columns of the tables of a flux calibration mean: their descriptions in ECSV."""

from collections.abc import Mapping

from astropy.table import Table

__all__ = ["describe_columns"]

# Columns that mean the same in all tables; ln is the natural logarithm.
_COMMON = {
    "name": "star",
    "srctype": "class of the star",
    "mode": "mode of observation",
    "filter": "FILTER",
    "subarray": "SUBARRAY",
    "wave": "wavelength: pivot of a filter, middle of a bin",
    "n_rows": "measurements",
    "n_stars": "stars",
    "n_visits": "visits",
    "rms": "scatter about each star's mean and f(t), relative",
    "rms_formal": "scatter that the stated errors explain",
    "rms_excess": "scatter beyond that",
    "verdict": "ok, offset, slope or variable",
    "reason": "why",
}
_BY_TABLE: Mapping[str, Mapping[str, str]] = {
    "stars": {
        "mode": "group of modes",
        "offset": "ln(observed/model) less that of the other stars",
        "offset_err": "1-sigma error of offset",
        "slope_per_um": "d ln(observed/model) / d wavelength",
        "slope_err": "1-sigma error of slope_per_um",
        "chi2": "chi square of its visits about their mean, per degree of freedom",
        "offset_scatter": "scatter of offset among the other stars",
        "slope_scatter": "scatter of slope_per_um among the other stars",
        "weight": "robust weight of its offset: 1 typical, 0 ignored",
    },
    "leave_out": {
        "by": "what was left out: a star, a class or an epoch",
        "name": "its name",
        "ln_shift": "ln factor without it less ln factor with all, mean over filters or bins",
        "ln_err": "1-sigma error of ln_shift",
        "n_sigma": "largest shift in 1-sigma errors of the fit",
        "n_rows": "measurements left out that can be predicted",
        "ln_residual": "mean of their ln(observed/predicted)",
        "predicted_err": "error predicted for a measurement of a star and visit not seen before",
    },
    "modes": {
        "factor": "calibration factor at t0, in the unit of the column unit",
        "factor_err": "1-sigma error of factor, all of the fit included",
        "unit": "unit of factor and factor_err",
        "n_stars": "stars measured in this row itself; 0: inferred from the others",
        "n_visits": "visits measured in this row itself",
    },
    "visits": {
        "given": "star as the input names it",
        "visit": "exposures that share a jitter",
        "mjd": "middle of the exposure",
        "factor": "model over observed: MJy/sr per DN/s of images, MJy per DN/s of spectra",
        "sigma": "stated relative error of factor",
        "flux_jy": "model",
        "peak": "brightest pixel",
        "well_depth": "share of the full well of the brightest pixel",
        "background": "sky per pixel",
        "exposure_s": "effective exposure time",
        "residual": "ln(observed/fitted), stars and visits left in",
        "weight": "robust weight in the fit: 1 typical, 0 ignored",
        "used": "whether it took part",
        "reason": "why it took no part",
        "source": "file, and row or exposure",
    },
    "repeatability": {
        "subset": "all, class, star or detector",
        "name": "which class, star or detector",
    },
    "dependences": {
        "group": "group of modes",
        "quantity": "what ln(observed/fitted) is compared with",
        "slope": "change of ln(observed/fitted) per unit of the quantity",
        "error": "1-sigma error of slope",
        "probability": "that chance alone gives as much",
        "verdict": "dependence or none, false ones under control",
    },
    "ratios": {
        "other": "mode that it is compared with",
        "ln_ratio": "ln of the factor of mode over that of other",
        "error": "1-sigma error of ln_ratio",
        "star_ratio": "mean over the stars in common of ln(observed/model), mode less other",
        "star_error": "1-sigma error of star_ratio",
        "n_stars": "stars in common",
    },
    "recipe": {
        "recipe": "factor of FULL at t0 by the published recipe",
        "recipe_err": "its error by the recipe",
        "joint": "factor of FULL at that t0 by the joint fit",
        "joint_err": "1-sigma error of joint",
        **{
            f"{column}_{when}": f"{text} {at}"
            for column, text in {
                "ln_recipe_over_joint": "ln of recipe over joint",
                "joint_ln_err": "1-sigma error of ln joint",
                "sum_over_product": "ln of the sum that the recipe fits over photom's product",
            }.items()
            for when, at in {
                "t0": "at t0",
                "last": "at the last date",
                "in_5_yr": "five years later",
            }.items()
        },
    },
}


def describe_columns(kind: str, table: Table) -> Table:
    """Describe the columns of a table, in place.

    Parameters
    ----------
    kind : str
        Ending of the file's name: 'stars', 'modes', ...
    table : Table

    Returns
    -------
    Table
        The same.
    """
    known = {**_COMMON, **_BY_TABLE[kind]}
    for name in table.colnames:
        table[name].description = known[name]
    return table
