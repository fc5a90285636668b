"""Which product of an exposure each step takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from .modes import Mode
from .scan import Observation

__all__ = ["Choice", "choose_file"]

# The first that is there is taken. Of each step and kind of mode: what it takes, and what must be
# reprocessed to that first.
_WANTED = {
    ("time_variable_bad_pixel", "image"): (("rate", "rateints", "cal", "calints"), ("uncal",)),
    ("time_variable_bad_pixel", "spectrum"): (("rate", "rateints", "cal", "calints"), ("uncal",)),
    ("external_flat_builder", "image"): (("rate", "cal"), ("uncal",)),
    ("abs_flux_ratio", "image"): (("cal", "calints", "rate", "rateints", "i2d"), ("uncal",)),
    ("abs_flux_ratio", "spectrum"): (
        ("x1d", "x1dints"),
        ("cal", "calints", "rate", "rateints", "uncal"),
    ),
}
# Integrations from which on the settled ones can be told from the first.
_MANY_INTEGRATIONS = 3
# Modes whose calibrated products are cut-outs of slits or traces: their place is lost.
_CUT_OUT = (
    "nirspec-fixed-slit",
    "nirspec-bright-object",
    "nirspec-mos",
    "miri-wfss",
    "nircam-wfss",
    "nircam-tsgrism",
    "niriss-wfss",
    "niriss-soss",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The product of an exposure that a step takes.

    Attributes
    ----------
    observation : Observation
        The file.
    form : str
        What must be the same within an association.
    ready : bool
        Whether the step takes it as it is.
    doubts : tuple of str
        What to mind.
    """

    observation: Observation
    form: str
    ready: bool
    doubts: tuple[str, ...]


def choose_file(step: str, mode: Mode | None, files: Sequence[Observation]) -> Choice | None:
    """Choose the product of an exposure that a step takes.

    Parameters
    ----------
    step : str
        `class_alias` of the step.
    mode : Mode or None
        Of the exposure.
    files : sequence of Observation
        The products at hand.

    Returns
    -------
    Choice or None
        None where the step takes none of them.

    Notes
    -----
    * ``time_variable_bad_pixel``: _rate; _rateints where there are three integrations or more,
      for then the unsettled first is told apart; without both, calibrated products whose place on
      the detector is known.
    * ``external_flat_builder``: _rate, else _cal.
    * ``abs_flux_ratio``: images _cal, _calints, _rate, _rateints, _i2d; spectra _x1d, _x1dints,
      or whatever there is to be extracted first.

    _uncal is taken where there is nothing else; it goes through ``calwebb_detector1`` first.
    """
    kind = mode.kind if mode is not None else "image"
    ready, raw = _WANTED.get((step, kind), ((), ()))
    by_stage = {one.stage: one for one in files}
    if step == "time_variable_bad_pixel":
        nints = max((one.nints or 0 for one in files), default=0)
        if nints >= _MANY_INTEGRATIONS:
            ready = ("rateints", "rate", "calints", "cal")
        if mode is not None and mode.name in _CUT_OUT:
            ready = tuple(stage for stage in ready if stage.startswith("rate"))
    for stage in (*ready, *raw):
        if stage in by_stage:
            doubts = []
            if stage in raw:
                doubts.append(f"_{stage} must be reprocessed first")
            elif (
                step == "external_flat_builder"
                and stage == "cal"
                and by_stage[stage].flat_field not in ("INCOMPLETE", "SKIPPED")
            ):
                doubts.append("_cal is taken only where it was not flat-fielded")
            form = _name_form(step, kind, stage)
            return Choice(by_stage[stage], form, stage in ready, tuple(doubts))
    return None


def _name_form(step: str, kind: str, stage: str) -> str:
    """Name what must be the same: for masks the unit, for the others the product."""
    if step != "time_variable_bad_pixel" or stage == "uncal":
        return stage
    # Calibrated images are turned back into DN/s.
    return "rate" if kind == "image" or stage.startswith("rate") else "cal"
