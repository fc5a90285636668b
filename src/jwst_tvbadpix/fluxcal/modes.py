"""What a calibration factor belongs to: an instrument's mode, for spectra at one wavelength."""

from dataclasses import dataclass

__all__ = ["KINDS", "Band", "Mode"]

# Kinds of modes that have a photom reference of their own.
KINDS = (
    "imaging",
    "coronagraphy",
    "lrs",
    "mrs",
    "wfss",
    "soss",
    "fixed_slit",
    "ifu",
    "unknown",
)


@dataclass(frozen=True, slots=True, order=True)
class Mode:
    """Optical elements that share one calibration factor; 'N/A' where there is no such element.

    Attributes
    ----------
    instrument, detector : str
        As in INSTRUME and DETECTOR.
    kind : str
        One of `KINDS`.
    filter, pupil, grating, slit, band : str
        As in FILTER, PUPIL, GRATING, FXD_SLIT and BAND.
    order : int
        Spectral order; 0 where it has no meaning.
    """

    instrument: str
    detector: str
    kind: str
    filter: str = "N/A"
    pupil: str = "N/A"
    grating: str = "N/A"
    slit: str = "N/A"
    band: str = "N/A"
    order: int = 0

    @property
    def label(self) -> str:
        """Name for tables and figures: 'MIRIMAGE imaging F770W'."""
        elements = (self.filter, self.pupil, self.grating, self.slit, self.band)
        parts = [self.detector, self.kind, *(e for e in elements if e != "N/A")]
        return " ".join([*parts, *([f"order {self.order}"] if self.order else [])])


@dataclass(frozen=True, slots=True, order=True)
class Band:
    """A mode at a wavelength [um]: the pivot of an image's filter, the centre of a spectral bin."""

    mode: Mode
    wave: float
