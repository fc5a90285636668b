"""Whether what the user settled about the throughput agrees with the measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, sparse, stats

from .forms import FormChoice
from .rows import Rows
from .solver import (
    Problem,
    Solution,
    compute_precision,
    count_information,
    make_inverse,
    make_normal,
)

__all__ = ["LEAST_CHANCE", "MUCH_WORSE", "ShareTest", "check_share", "describe_forms"]

# AIC from which on a form has next to no support (Burnham & Anderson 2002, section 2.6).
MUCH_WORSE = 10.0
# Chance below which a common loss is called wrong.
LEAST_CHANCE = 1e-3
# Parameters that may differ between modes, and groups of wavelengths of a detector at most.
_LOSSES = ("loss_per_year", "ln_amplitude", "alpha")
_MOST_GROUPS = 12
# Share of the information, or eigenvalue of a correlation matrix, that counts for something.
_SMALLEST = 1e-6


@dataclass(frozen=True, slots=True)
class ShareTest:
    """Score test of one loss for all modes against a loss of each.

    Attributes
    ----------
    chi2 : float
    n_degrees : int
    probability : float
        That chance alone gives as much.
    """

    chi2: float
    n_degrees: int
    probability: float

    def describe(self) -> str:
        """Say what is wrong; '' where nothing is."""
        if self.probability >= LEAST_CHANCE:
            return ""
        return (
            f"share=common gives all modes one loss, but theirs differ: chi2 {self.chi2:.1f} for "
            f"{self.n_degrees} degrees of freedom (probability {self.probability:.1g}); C(t) "
            "may be off by more than its error says; take share=smooth"
        )


def describe_forms(choices: Sequence[FormChoice]) -> list[str]:
    """Say for each detector if the form that was taken is much worse than another."""
    said = []
    for taken in (c for c in choices if c.chosen and c.aic > MUCH_WORSE):
        best = next(c for c in choices if c.detector == taken.detector and c.aic == 0)
        said.append(
            f"{taken.detector}: the throughput that was given, {_name(taken)}, describes the "
            f"measurements much worse than {_name(best)} (AIC larger by {taken.aic:.1f}); C(t) "
            "may be off by more than its error says; take time_form=auto"
        )
    return said


def _name(choice: FormChoice) -> str:
    return " x ".join(choice.forms) or "constant"


def check_share(rows: Rows, problem: Problem, solution: Solution) -> ShareTest | None:
    """Test whether the loss that all modes share is that of each.

    Parameters
    ----------
    rows : Rows
    problem : Problem
        With one loss for all.
    solution : Solution
        Of it.

    Returns
    -------
    ShareTest or None
        None where there is no loss, or fewer than two modes that tell of one.

    Notes
    -----
    Rao's score test: with Z the derivatives by what each mode (or each of twelve groups of
    wavelengths of a detector) would have of its own, W the weights of the rows and r what is left
    of them, ``g = Z^T W r``, of variance ``Z^T W Z - Z^T W J N^-1 J^T W Z`` where N is the normal
    matrix of all else. Nothing is fitted anew.
    """
    own = _separate(rows, problem, solution)
    if not own.shape[1]:
        return None
    score = own.T @ (compute_precision(problem, solution.widths) * solution.residual)
    honest = count_information(problem, solution.widths)
    weighted = sparse.diags(compute_precision(problem, honest)) @ own
    crossed = (solution.jacobian.T @ weighted).toarray()
    inverse = make_inverse(make_normal(problem, honest, solution.jacobian))
    whole = (own.T @ weighted).toarray()
    variance = whole - crossed.T @ inverse(crossed)
    # A mode that was seen once tells of no loss of its own: all but rounding is its factor's.
    told = np.diag(variance) > _SMALLEST * np.diag(whole)
    if not told.any():
        return None
    variance, score = variance[np.ix_(told, told)], score[told]
    scale = 1.0 / np.sqrt(np.diag(variance))
    values, vectors = linalg.eigh(variance * np.outer(scale, scale))
    kept = values > _SMALLEST
    chi2 = float(np.sum((vectors[:, kept].T @ (scale * score)) ** 2 / values[kept]))
    n_degrees = int(kept.sum())
    return ShareTest(chi2, n_degrees, float(stats.chi2.sf(chi2, n_degrees)))


def _separate(rows: Rows, problem: Problem, solution: Solution) -> sparse.csc_matrix:
    """Differentiate by the loss of each group of modes beyond the first, (n_rows, n) float64."""
    group = _group_modes(rows)
    begin = problem.linear.shape[1]
    columns = []
    for k, kind in enumerate(problem.time.kinds):
        if kind not in _LOSSES:
            continue
        slope = solution.jacobian[:, [begin + k]].toarray().ravel()
        each = [slope * (group == g) for g in np.unique(group[slope != 0])]
        # All together move as the one loss does, which is fitted.
        columns += each[1:]
    return sparse.csc_matrix(np.array(columns).reshape(len(columns), len(group)).T)


def _group_modes(rows: Rows) -> np.ndarray:
    """Group the modes of each detector by wavelength, a dozen groups at most, (n_rows,) int64."""
    out = np.zeros(len(rows.unit), np.int64)
    for k, detector in enumerate(np.unique(rows.detector)):
        mine = rows.detector == detector
        waves, which = np.unique(rows.time_wave[mine], return_inverse=True)
        n_groups = min(len(waves), _MOST_GROUPS)
        out[mine] = k * _MOST_GROUPS + which * n_groups // len(waves)
    return out
