"""Self-test: defects of known class, size and date put into the user's own exposures."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import bottleneck as bn
import numpy as np
from scipy.ndimage import binary_dilation

from .find import PixelHistories, Settings, find_histories
from .intervals import Intervals, extract_intervals

__all__ = ["SelfTest", "pool_histories", "run_self_test"]

log = logging.getLogger(__name__)

# Sizes in sigma of one look, pattern included; for UNRELIABLE_SLOPE of the extra scatter. None
# lies at the limit between WARM and HOT, where the class is a matter of chance.
_SIZES = {
    "WARM": (2.0, 3.0, 4.0),
    "HOT": (6.0, 10.0, 30.0, 100.0),
    "TELEGRAPH": (5.0, 10.0, 30.0),
    "UNRELIABLE_SLOPE": (5.0, 10.0, 30.0),
}
_RESPONSES = {"LOW_QE": 0.3, "DEAD": 0.0}
_CLASSES = (*_SIZES, *_RESPONSES)
# Looks with evidence that a change (two on either side), a scatter and switching need.
_CHANGE_LOOKS, _SCATTER_LOOKS, _SWITCH_LOOKS = 5, 4, 8
# Share of the pixels that is injected at most, and pixels of each class (known to 2 % by then).
_SHARE, _PER_CLASS = 0.003, 600
# Distance kept from flagged pixels and from each other [pixel].
_DISTANCE = 3
# Share of the largest number of looks that a place must have been seen in.
_SEEN = 0.8
# Half-widths of the neighbourhood that gives the noise, and of the medians that give the level.
_REACH, _LEVEL_REACH = 7, 5


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How a run does on defects that are known.

    One row per class, history and size; arrays of shape (n_rows,). Errors are half the width of
    Wilson's 68 % interval for that number of pixels; NaN = nothing to count.

    Attributes
    ----------
    name : ndarray of str
        True class, one of `CLASSES`.
    history : ndarray of str
        ``always`` bad, ``onset`` or ``recovery`` at a date, or ``switching``.
    amplitude : ndarray of float32
        Median size [sigma of one look]; for a response, of the signal that is lost.
    response : ndarray of float32
        Relative response while bad (1 = normal).
    n_injected : ndarray of int32
        Pixels.
    completeness, completeness_err : ndarray of float32
        Share of the bad pixel-looks that is flagged.
    found, found_err : ndarray of float32
        Share of the pixels that is flagged at some look at which it is bad.
    purity, purity_err : ndarray of float32
        Of all injected pixels that the run gives this class, the share that is truly of it; the
        same in all rows of a class.
    dated, dated_err : ndarray of float32
        Share of the found pixels whose change is dated within one look.
    new_flags : float
        Flags per look that the injection alone brought about, on pixels that are neither
        injected nor neighbours of such.
    left_out : tuple of str
        Kinds that the exposures are too few for.
    """

    name: np.ndarray
    history: np.ndarray
    amplitude: np.ndarray
    response: np.ndarray
    n_injected: np.ndarray
    completeness: np.ndarray
    completeness_err: np.ndarray
    found: np.ndarray
    found_err: np.ndarray
    purity: np.ndarray
    purity_err: np.ndarray
    dated: np.ndarray
    dated_err: np.ndarray
    new_flags: float
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Class, history and size [sigma] of a defect; `size` is 0 where the response fails."""

    name: str
    history: str
    size: float
    response: float = 1.0


@dataclass(frozen=True, slots=True)
class _Injection:
    """Defects to put in; axis 0 = look, last axis = pixel.

    `kind` is the index into the kinds, `bad` the truth (False without evidence), `signal` what
    is added [DN/s], `amplitude` its size [sigma of one look].
    """

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    evidence: np.ndarray
    bad: np.ndarray
    signal: np.ndarray
    amplitude: np.ndarray


@dataclass(frozen=True, slots=True)
class _InjectedStack:
    """A stack that adds the signal of the defects to the rows it reads."""

    stack: Any
    injection: _Injection

    @property
    def window(self) -> tuple[int, int, int, int]:
        return self.stack.window

    @property
    def row_ranges(self) -> tuple[tuple[int, int], ...]:
        return self.stack.row_ranges

    def read_rows(self, start: int, stop: int, looks: Sequence[int] | None = None) -> np.ndarray:
        rate = self.stack.read_rows(start, stop, looks).copy()
        own = _find_rows(self.injection.y, start, stop)
        y, x = self.injection.y[own] - start, self.injection.x[own] - self.window[2]
        signal = self.injection.signal if looks is None else self.injection.signal[looks]
        rate[:, y, x] += signal[:, own]
        return rate

    def read_look(
        self, look: int, rows: slice | None = None, core: slice | None = None
    ) -> tuple[np.ndarray, int]:
        # What a mask hides is told of the exposures as they are.
        rows = rows or slice(*self.window[:2])
        return self.read_rows(rows.start, rows.stop, [look])[0], 0


def run_self_test(
    stack: Any,
    histories: PixelHistories,
    *,
    dispersion_axes: Sequence[int | None],
    identity: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> SelfTest:
    """Put known defects into the exposures of a run, and run again.

    Parameters
    ----------
    stack : object
        As `find_histories` was given.
    histories : PixelHistories
        What it found; its times and settings are used again.
    dispersion_axes : sequence of int or None, length n_looks
        As `find_histories` was given.
    identity : sequence of str
        Checksums of the exposures in order of time. With the settings they seed the places, so
        that the same run gives the same result.
    progress : callable, optional
        Called with (rows done, rows in all), both passes over the exposures together.

    Returns
    -------
    SelfTest

    Notes
    -----
    The places are drawn among pixels that were seen in most looks and were no candidates, three
    pixels away from any that is bad, so that the defects meet the structure, the sources and
    the cosmic rays of the exposures. They are 0.3 % of the pixels at most, which leaves the
    noise and the medians as they are. The size is in units of the noise of one look, measured
    on the differences from the neighbours; a response takes its share of the median of the pixel's
    column or row, whichever is nearer its own value. Nothing but the rates is changed: no
    array is kept, and the memory is that of one more search.

    References
    ----------
    Wilson 1927, J. Am. Stat. Assoc. 22, 209 (intervals).
    """
    rng = np.random.default_rng(_make_seed(histories.settings, identity))
    n_seen = int(np.ceil(_SEEN * histories.n_evidence.max(initial=0)))
    mid_mjd = histories.mid_mjd
    dated = bool(np.ptp(mid_mjd) > 0)
    kinds, left_out = _list_kinds(n_seen, dated, histories.settings)
    y, x = _choose_places(histories, n_seen, len({kind.name for kind in kinds}), rng)
    height = histories.window[1] - histories.window[0]

    def report(done: int, total: int) -> None:
        if progress:
            progress(done, total)

    level, sigma = _measure(stack, y, x, len(mid_mjd), lambda done: report(done, 2 * height))
    injection = _draw_defects(y, x, level, sigma, kinds, histories.settings, rng)
    found = find_histories(
        _InjectedStack(stack, injection),
        mid_mjd,
        dispersion_axes,
        settings=histories.settings,
        progress=lambda done, _: report(height + done, 2 * height),
    )
    result = _score(injection, kinds, left_out, histories, found)
    log.info("Self-test with %d defects:\n%s", injection.y.size, _format(result))
    return result


def pool_histories(rows: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pool the rows of a self-test that differ in their history alone.

    Parameters
    ----------
    rows : mapping of str to ndarray, shape (n_rows,)
        The group `self_test` of a history.

    Returns
    -------
    list of dict
        `class`, `amplitude` [sigma of one look], `n_injected`, `completeness`, `purity` and
        their errors, in order of class and size.
    """
    names = np.asarray(rows["class"])
    # A lost response has a size of its own in each row.
    size = np.where(rows["response"] == 1, rows["amplitude"], -rows["response"])
    pooled = []
    for name in dict.fromkeys(names.tolist()):
        for value in np.unique(size[names == name]):
            own = np.flatnonzero((names == name) & (size == value))
            weight = rows["n_injected"][own]
            share = np.average(rows["completeness"][own], weights=weight)
            row = {"class": name, "n_injected": int(weight.sum())}
            row["amplitude"] = float(np.average(rows["amplitude"][own], weights=weight))
            row |= _share("completeness", float(share), int(weight.sum()))
            row |= {key: float(rows[key][own[0]]) for key in ("purity", "purity_err")}
            pooled.append(row)
    return pooled


def _make_seed(settings: Settings, identity: Sequence[str]) -> int:
    text = repr((sorted(asdict(settings).items()), list(identity)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _list_kinds(n_looks: int, dated: bool, settings: Settings) -> tuple[list[_Kind], list[str]]:
    """List the kinds that so many looks can show, and say which they cannot."""
    left_out = []
    histories, classes = ["always"], list(_SIZES)
    seen = f"{n_looks} looks" if dated else f"{n_looks} looks without dates"
    if dated and n_looks >= _CHANGE_LOOKS:
        histories += ["onset", "recovery"]
    else:
        left_out.append(f"onset and recovery ({seen}; {_CHANGE_LOOKS} dated ones needed)")
    needed = max(_SWITCH_LOOKS, settings.telegraph_transitions + 3)
    if not dated or n_looks < needed:
        classes.remove("TELEGRAPH")
        left_out.append(f"TELEGRAPH ({seen}; {needed} dated ones needed)")
    if n_looks < _SCATTER_LOOKS:
        classes.remove("UNRELIABLE_SLOPE")
        left_out.append(f"UNRELIABLE_SLOPE ({seen}; {_SCATTER_LOOKS} needed)")
    kinds = [
        _Kind(name, history, size)
        for name in classes
        for history in (["switching"] if name == "TELEGRAPH" else histories)
        for size in _SIZES[name]
    ]
    kinds += [
        _Kind(name, history, 0.0, response)
        for name, response in _RESPONSES.items()
        for history in histories
    ]
    return kinds, left_out


def _choose_places(
    histories: PixelHistories, n_seen: int, n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose quiet pixels, far from flagged ones and from each other: full-frame (y, x)."""
    y0, _, x0, _ = histories.window
    y, x = histories.candidates.y - y0, histories.candidates.x - x0
    seen = histories.n_evidence
    bad = np.zeros(seen.shape, bool)
    flagged = histories.bad.any(axis=0)
    bad[y[flagged], x[flagged]] = True
    around = np.ones((2 * _DISTANCE - 1,) * 2, bool)
    allowed = (seen >= max(n_seen, 2)) & ~binary_dilation(bad, around)
    allowed[y, x] = False
    wanted = min(int(_SHARE * (seen > 0).sum()), _PER_CLASS * n_classes)
    chosen: list[tuple[int, int]] = []
    free = np.ones(seen.shape, bool)
    for place in rng.permutation(np.flatnonzero(allowed)):
        if len(chosen) == wanted:
            break
        row, column = divmod(int(place), seen.shape[1])
        if not free[row, column]:
            continue
        chosen.append((row, column))
        top, left = max(row - _DISTANCE + 1, 0), max(column - _DISTANCE + 1, 0)
        free[top : row + _DISTANCE, left : column + _DISTANCE] = False
    places = np.array(chosen, int).reshape(-1, 2)
    return places[:, 0] + y0, places[:, 1] + x0


def _find_rows(y: np.ndarray, first: int, last: int) -> np.ndarray:
    return np.flatnonzero((y >= first) & (y < last))


def _measure(
    stack: Any, y: np.ndarray, x: np.ndarray, n_looks: int, progress: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Local level and noise of each look at some pixels [DN/s]: float32, NaN = no evidence."""
    level, sigma = np.full((2, n_looks, y.size), np.nan, np.float32)
    offsets = np.arange(2 * _REACH + 1)
    margin = ((0, 0), (_REACH, _REACH), (_REACH, _REACH))
    for block in stack.row_blocks(halo=_REACH):
        first, last = block.y + block.core.start, block.y + block.core.stop
        own = _find_rows(y, first, last)
        if own.size:
            padded = np.pad(block.rate, margin, constant_values=np.nan)
            rows = (y[own] - block.y)[:, None, None] + offsets[:, None]
            columns = (x[own] - block.x)[:, None, None] + offsets
            level[:, own], sigma[:, own] = _measure_boxes(padded[:, rows, columns])
        progress(last - stack.window[0])
    return level, sigma


def _measure_boxes(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level and noise at the centre of boxes (n_looks, n_pixels, height, width)."""
    value = box[..., _REACH, _REACH]
    near = np.arange(-_LEVEL_REACH, _LEVEL_REACH + 1)
    near = _REACH + near[near != 0]
    along_y = bn.nanmedian(box[..., near, _REACH], axis=-1)
    along_x = bn.nanmedian(box[..., _REACH, near], axis=-1)
    nearer_x = np.isnan(along_y) | (np.abs(value - along_x) < np.abs(value - along_y))
    level = np.where(nearer_x, along_x, along_y)
    # Each pixel less the mean of its four neighbours: no gradient, and 5/4 of the variance.
    sides = box[..., 1:-1, :-2] + box[..., 1:-1, 2:] + box[..., :-2, 1:-1] + box[..., 2:, 1:-1]
    rough = (box[..., 1:-1, 1:-1] - sides / 4).reshape(*value.shape, -1)
    spread = np.abs(rough - bn.nanmedian(rough, axis=-1)[..., None])
    sigma = 1.4826 / np.sqrt(1.25) * bn.nanmedian(spread, axis=-1)
    usable = np.isfinite(value) & np.isfinite(level) & (sigma > 0)
    return np.where(usable, level, np.nan), np.where(usable, sigma, np.nan)


def _draw_defects(
    y: np.ndarray,
    x: np.ndarray,
    level: np.ndarray,
    sigma: np.ndarray,
    kinds: Sequence[_Kind],
    settings: Settings,
    rng: np.random.Generator,
) -> _Injection:
    """Give each place a kind, classes in turn and their kinds in turn, and draw its signal."""
    by_class = [[k for k, kind in enumerate(kinds) if kind.name == name] for name in _CLASSES]
    by_class = [own for own in by_class if own]
    n = len(by_class)
    turns = [by_class[i % n][i // n % len(by_class[i % n])] for i in range(y.size)]
    evidence = np.isfinite(level)
    bad = np.zeros(level.shape, bool)
    signal = np.zeros(level.shape, np.float32)
    amplitude = np.zeros(y.size)
    for i, index in enumerate(turns):
        kind, looks = kinds[index], np.flatnonzero(evidence[:, i])
        if looks.size < 2:
            continue
        needed = _SCATTER_LOOKS if kind.name == "UNRELIABLE_SLOPE" else 2
        if kind.history == "switching":
            state = _draw_switches(looks.size, settings.telegraph_transitions, rng)
        else:
            state = _draw_state(kind.history, looks.size, min(needed, looks.size - 2), rng)
        bad[looks, i] = state
        hit = looks[state]
        noise = np.median(sigma[looks, i])
        if kind.size == 0:
            signal[hit, i] = (kind.response - 1) * level[hit, i]
            amplitude[i] = (1 - kind.response) * np.median(level[looks, i]) / noise
        elif kind.name == "UNRELIABLE_SLOPE":
            draw = rng.normal(size=hit.size)
            signal[hit, i] = kind.size * (draw - draw.mean()) * sigma[hit, i]
            amplitude[i] = kind.size
        else:
            signal[hit, i] = kind.size * noise
            amplitude[i] = kind.size
    return _Injection(y, x, np.array(turns, int), evidence, bad, signal, amplitude)


def _draw_state(history: str, n_looks: int, n_bad: int, rng: np.random.Generator) -> np.ndarray:
    """Draw when a defect begins or ends, at least so many bad and two good looks: bool (n_looks,).

    The defect that is always there takes no draw.
    """
    if history == "always":
        return np.ones(n_looks, bool)
    state = np.arange(n_looks) < rng.integers(n_bad, n_looks - 1)
    return state if history == "recovery" else state[::-1]


def _draw_switches(n_looks: int, n_transitions: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the looks at which a switching defect is there: bool (n_looks,)."""
    # One more than needed, so that a switch that goes unseen does not decide.
    fewest = min(n_transitions + 1, n_looks - 1)
    number = int(rng.integers(fewest, max(fewest, n_looks // 3) + 1))
    switches = np.zeros(n_looks, int)
    switches[1 + rng.choice(n_looks - 1, size=number, replace=False)] = 1
    return (np.cumsum(switches) + rng.integers(2)) % 2 == 1


def _flag_looks(histories: PixelHistories, intervals: Intervals) -> np.ndarray:
    """Mark the looks at which the masks have each candidate: bool (n_looks, n_pixels)."""
    flagged = np.zeros(histories.bad.shape, bool)
    for row in np.flatnonzero(~intervals.pending):
        whole = intervals.name[row] == "TELEGRAPH"
        looks = slice(None) if whole else slice(intervals.first[row], intervals.last[row] + 1)
        flagged[looks, intervals.pixel[row]] = True
    return flagged


def _index(histories: PixelHistories) -> np.ndarray:
    """Tell the number of the candidate at each pixel of the window, -1 = none."""
    y0, _, x0, _ = histories.window
    index = np.full(histories.n_evidence.shape, -1)
    y, x = histories.candidates.y - y0, histories.candidates.x - x0
    index[y, x] = np.arange(y.size)
    return index


def _score(
    injection: _Injection,
    kinds: Sequence[_Kind],
    left_out: Sequence[str],
    before: PixelHistories,
    after: PixelHistories,
) -> SelfTest:
    """Compare what was found with what was put in."""
    intervals = extract_intervals(after)
    flagged = _flag_looks(after, intervals)
    names = np.full(flagged.shape[1] + 1, "", "U16")  # the last is that of no candidate
    names[intervals.pixel[~intervals.pending]] = intervals.name[~intervals.pending]
    y0, _, x0, _ = after.window
    number = _index(after)[injection.y - y0, injection.x - x0]
    given = names[number]
    seen = np.pad(flagged, ((0, 0), (0, 1)))[:, number]
    true = np.array([kind.name for kind in kinds])[injection.kind]
    in_time = _compare_dates(injection, seen)
    rows = []
    for index, kind in enumerate(kinds):
        own = (injection.kind == index) & injection.bad.any(axis=0)
        if own.any():
            alike = true[given == kind.name] == kind.name
            row: dict[str, Any] = {
                "name": kind.name,
                "history": kind.history,
                "response": kind.response,
            }
            row |= {"amplitude": np.median(injection.amplitude[own]), "n_injected": own.sum()}
            bad, hit = injection.bad[:, own], (seen & injection.bad)[:, own]
            found = hit.any(axis=0)
            changes = kind.history in ("onset", "recovery")
            row |= _share("completeness", hit.sum() / bad.sum(), own.sum())
            row |= _share("found", found.mean(), found.size)
            row |= _share("purity", alike.mean() if alike.size else np.nan, alike.size)
            dated = in_time[own][found & changes]
            row |= _share("dated", dated.mean() if dated.size else np.nan, dated.size)
            rows.append(row)
    if len(rows) < len(kinds):
        missing = len(kinds) - len(rows)
        left_out = [*left_out, f"{missing} of {len(kinds)} kinds (too few quiet pixels)"]
    dtypes: dict[str, Any] = {"name": "U16", "history": "U16", "n_injected": np.int32}
    columns = [f.name for f in fields(SelfTest) if f.name not in ("new_flags", "left_out")]
    return SelfTest(
        **{key: np.array([r[key] for r in rows], dtypes.get(key, np.float32)) for key in columns},
        new_flags=_count_new(injection, before, after, flagged),
        left_out=tuple(left_out),
    )


def _share(name: str, share: float, n: int) -> dict[str, float]:
    """Name a share, and half the width of Wilson's interval for one sigma as its error."""
    if not n:
        return {name: np.nan, f"{name}_err": np.nan}
    error = np.sqrt(share * (1 - share) / n + 0.25 / n**2) / (1 + 1 / n)
    return {name: share, f"{name}_err": error}


def _compare_dates(injection: _Injection, seen: np.ndarray) -> np.ndarray:
    """Whether the first and the last look flagged are within one of the truth: bool (n_pixels,).

    Looks without evidence do not count.
    """
    right = np.zeros(injection.y.size, bool)
    for i, evidence in enumerate(injection.evidence.T):
        true, found = (np.flatnonzero(part[evidence, i]) for part in (injection.bad, seen))
        if true.size and found.size:
            right[i] = max(abs(true[0] - found[0]), abs(true[-1] - found[-1])) <= 1
    return right


def _count_new(
    injection: _Injection, before: PixelHistories, after: PixelHistories, flagged: np.ndarray
) -> float:
    """Count the flags per look which were not there before, away from the injected pixels."""
    y0, _, x0, _ = after.window
    near = np.zeros(after.n_evidence.shape, bool)
    near[injection.y - y0, injection.x - x0] = True
    near = binary_dilation(near, np.ones((3, 3), bool))
    y, x = after.candidates.y - y0, after.candidates.x - x0
    old = _flag_looks(before, extract_intervals(before))
    was = np.pad(old, ((0, 0), (0, 1)))[:, _index(before)[y, x]]
    return float((flagged & ~was & ~near[y, x]).sum() / len(flagged))


def _format(result: SelfTest) -> str:
    """Table of the result, as text."""
    lines = [
        f"{'class':16s} {'history':9s} {'sigma':>6s} {'pixels':>6s} {'looks flagged':>13s} "
        f"{'pixels found':>13s} {'class right':>13s} {'dated':>13s}"
    ]
    for k, name in enumerate(result.name):
        shares = (
            f"{getattr(result, key)[k]:.2f} +- {getattr(result, f'{key}_err')[k]:.2f}"
            for key in ("completeness", "found", "purity", "dated")
        )
        lines.append(
            f"{name:16s} {result.history[k]:9s} {result.amplitude[k]:6.1f} "
            f"{result.n_injected[k]:6d} " + " ".join(f"{share:>13s}" for share in shares)
        )
    lines.append(f"new flags elsewhere: {result.new_flags:.2f} per look")
    lines += [f"left out: {text}" for text in result.left_out]
    return "\n".join(lines)
