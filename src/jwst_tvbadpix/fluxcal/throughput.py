"""The fraction of its first throughput that a mode has kept, in the product photom evaluates."""

from dataclasses import dataclass

import numpy as np

__all__ = ["YEAR_DAYS", "Throughput"]

# A year in the time tables of photom references [day] (jwst.photom.time_dependence).
YEAR_DAYS = 365.0


@dataclass(frozen=True, slots=True)
class Throughput:
    """Product of a line, an exponential and a power law of time, 1 throughout by default.

    Attributes
    ----------
    t0_mjd : float
        Time from which all three count [MJD].
    loss_per_year : float
        Linear loss [1/yr], of years of 365 days; positive is a loss.
    amplitude, tau_days : float
        The exponential is ``amplitude exp(-(t - t0)/tau) + 1 - amplitude``, so 1 at t0.
    alpha, tsoft_days, year1value : float
        The power law is ``year1value ((t - t0 + tsoft)/(365 + tsoft))^alpha``.
    """

    t0_mjd: float
    loss_per_year: float = 0.0
    amplitude: float = 0.0
    tau_days: float = 200.0
    alpha: float = 0.0
    tsoft_days: float = 1.0
    year1value: float = 1.0

    def evaluate(self, mjd: np.ndarray | float) -> np.ndarray:
        """Evaluate f(t).

        Parameters
        ----------
        mjd : ndarray or float
            Times [MJD]; the middle of an exposure, as photom uses EXPMID.

        Returns
        -------
        ndarray
            Throughput relative to that of the factor's epoch; NaN before t0 - tsoft for a power
            law, as in photom.

        Notes
        -----
        ``C(t) = C / f(t)``: photom divides its conversion by the product of its time tables.
        """
        days = np.asarray(mjd, np.float64) - self.t0_mjd
        f = 1.0 - self.loss_per_year * days / YEAR_DAYS
        if self.amplitude:
            f = f * (self.amplitude * np.exp(-days / self.tau_days) + 1.0 - self.amplitude)
        if self.alpha or self.year1value != 1.0:
            with np.errstate(invalid="ignore"):
                base = (days + self.tsoft_days) / (YEAR_DAYS + self.tsoft_days)
                f = f * self.year1value * np.where(base > 0, base, np.nan) ** self.alpha
        return f
