"""Rows of photom references: from factors, from tables and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from stdatamodels.jwst import datamodels

from ..errors import ProductError

if TYPE_CHECKING:
    from ..fluxcal import Factor, Throughput

__all__ = [
    "FORMS",
    "LAYOUTS",
    "MISSION_MJD",
    "Layout",
    "PhotomRow",
    "evaluate_times",
    "list_nircam_subarrays",
    "list_times",
    "make_row",
    "make_tables",
    "read_rows",
    "rebase",
    "require_throughput",
]

# When a conversion may be asked for [MJD]: from the start of science operations, 2022-07-12, to
# ten and a half years after launch, the mission goal.
MISSION_MJD = (59772.0, 63410.0)

# Time tables, their columns beside the key, and the values that change nothing.
FORMS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "linear": {"lossperyear": 0.0},
        "exponential": {"amplitude": 0.0, "tau": 200.0, "const": 1.0},
        "powerlaw": {"year1value": 1.0, "tsoft": 1.0, "alpha": 0.0},
    }
)

_VECTORS = ("wavelength", "relresponse", "reluncertainty")

# Wavelengths below this are in m, not um, as the photom step takes them.
_LONGEST_IN_METRES = 1e-4

# nelem is a 16-bit integer.
_MOST_ELEMENTS = 32767


@dataclass(frozen=True, slots=True)
class Layout:
    """What the photom reference of a mode looks like.

    Attributes
    ----------
    model : str
        Class of stdatamodels.
    label : str
        For file names.
    keys : tuple of str
        Columns by which photom finds a row.
    value : str
        Column of the conversion.
    exp_types : tuple of str
        EXP_TYPE that it serves, the usual one first.
    spectral : bool
        Whether rows hold a response that depends on wavelength.
    unit : str
        PHOTUNIT, '' where the model has none.
    """

    model: str
    label: str
    keys: tuple[str, ...]
    value: str
    exp_types: tuple[str, ...]
    spectral: bool = False
    unit: str = ""

    def create(self) -> Any:
        """Create an empty model."""
        return getattr(datamodels, self.model)(strict_validation=True)

    @property
    def has_subarray(self) -> bool:
        """Whether photom looks for the subarray (for NIRCam where the column is there)."""
        return "subarray" in self.keys or self.model == "NrcImgPhotomModel"


_MIRI = Layout(
    "MirImgPhotomModel",
    "imaging",
    ("filter", "subarray"),
    "photmjsr",
    (
        "MIR_IMAGE",
        "MIR_4QPM",
        "MIR_LYOT",
        "MIR_TACQ",
        "MIR_TACONFIRM",
        "MIR_CORONCAL",
        "MIR_FLATIMAGE-EXT",
    ),
)
_NIRCAM = Layout(
    "NrcImgPhotomModel",
    "imaging",
    ("filter", "pupil"),
    "photmjsr",
    ("NRC_IMAGE", "NRC_CORON", "NRC_TSIMAGE", "NRC_TACQ", "NRC_TACONFIRM", "NRC_FOCUS"),
)
_WFSS_UNIT = "MJy um s / (DN sr)"

# Which model a mode's factors go to: (INSTRUME, kind of `Mode`); MIRI MRS has no rows.
LAYOUTS: Mapping[tuple[str, str], Layout] = MappingProxyType(
    {
        ("MIRI", "imaging"): _MIRI,
        ("MIRI", "coronagraphy"): _MIRI,
        ("MIRI", "lrs"): Layout(
            "MirLrsPhotomModel",
            "lrs",
            ("filter", "subarray"),
            "photmjsr",
            ("MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS"),
            spectral=True,
        ),
        ("MIRI", "wfss"): Layout(
            "MirWfssPhotomModel",
            "wfss",
            ("filter", "subarray"),
            "photmjsr",
            ("MIR_WFSS",),
            spectral=True,
            unit=_WFSS_UNIT,
        ),
        ("NIRCAM", "imaging"): _NIRCAM,
        ("NIRCAM", "coronagraphy"): _NIRCAM,
        ("NIRCAM", "wfss"): Layout(
            "NrcWfssPhotomModel",
            "wfss",
            ("filter", "pupil", "order"),
            "photmjsr",
            ("NRC_WFSS", "NRC_TSGRISM"),
            spectral=True,
            unit=_WFSS_UNIT,
        ),
        ("NIRISS", "imaging"): Layout(
            "NisImgPhotomModel",
            "imaging",
            ("filter", "pupil"),
            "photmjsr",
            ("NIS_IMAGE", "NIS_AMI", "NIS_TACQ", "NIS_TACONFIRM"),
        ),
        ("NIRISS", "wfss"): Layout(
            "NisWfssPhotomModel",
            "wfss",
            ("filter", "pupil", "order"),
            "photmjsr",
            ("NIS_WFSS",),
            spectral=True,
            unit=_WFSS_UNIT,
        ),
        ("NIRISS", "soss"): Layout(
            "NisSossPhotomModel",
            "soss",
            ("filter", "pupil", "order"),
            "photmj",
            ("NIS_SOSS",),
            spectral=True,
        ),
        ("NIRSPEC", "fixed_slit"): Layout(
            "NrsFsPhotomModel",
            "fixedslit",
            ("filter", "grating", "slit"),
            "photmj",
            ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"),
            spectral=True,
        ),
        ("NIRSPEC", "ifu"): Layout(
            "NrsMosPhotomModel",
            "ifu",
            ("filter", "grating"),
            "photmj",
            ("NRS_IFU",),
            spectral=True,
        ),
        ("FGS", "imaging"): Layout(
            "FgsImgPhotomModel", "imaging", (), "photmjsr", ("FGS_IMAGE", "FGS_FOCUS")
        ),
    }
)


@dataclass(frozen=True, slots=True)
class PhotomRow:
    """One row of a photom reference with its rows of the time tables.

    Attributes
    ----------
    keys : tuple
        Values of the key columns, in their order.
    value, uncertainty : float
        Conversion and its 1-sigma error.
    wavelength, relresponse, reluncertainty : ndarray or None
        Of spectra, (nelem,) float64 [um] and relative to `value`.
    times : mapping
        Form of time dependence -> its columns, t0 [MJD] among them; a form that is absent
        changes nothing.
    factor : Factor or None
        What the row was made of; None for rows taken from a template.
    """

    keys: tuple[Any, ...]
    value: float
    uncertainty: float
    wavelength: np.ndarray | None = None
    relresponse: np.ndarray | None = None
    reluncertainty: np.ndarray | None = None
    times: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    factor: Factor | None = None


def rebase(throughput: Throughput) -> tuple[Throughput, float]:
    """Count the time from a whole day, without changing what it says.

    Parameters
    ----------
    throughput : Throughput

    Returns
    -------
    throughput : Throughput
        The same function of time but for a constant, `t0_mjd` integral: columns of photom
        references are float32, in which no other day survives exactly.
    norm : float
        What the old one is of the new one.
    """
    day = float(np.round(throughput.t0_mjd))
    days = day - throughput.t0_mjd
    if not days:
        return throughput, 1.0
    kept = 1.0 - throughput.loss_per_year * days / 365.0
    decayed = throughput.amplitude * np.exp(-days / throughput.tau_days)
    level = decayed + 1.0 - throughput.amplitude
    soft = throughput.tsoft_days + days
    grown = (365.0 + soft) / (365.0 + throughput.tsoft_days)
    moved = replace(
        throughput,
        t0_mjd=day,
        loss_per_year=throughput.loss_per_year / kept,
        amplitude=float(decayed / level),
        tsoft_days=soft,
        year1value=float(throughput.year1value * grown**throughput.alpha),
    )
    return moved, float(kept * level)


def make_row(factor: Factor, keys: Sequence[str], *, spectral: bool) -> PhotomRow:
    """Make the row of a factor, refusing what photom would apply without a word.

    Parameters
    ----------
    factor : Factor
    keys : sequence of str
        Key columns.
    spectral : bool
        Whether the row needs a response.

    Returns
    -------
    PhotomRow

    Raises
    ------
    ProductError
        The conversion is not positive and finite, its throughput is not within the mission, or
        the response is absent, not one value per wavelength, or not positive.
    """
    name = f"{factor.mode.label} {factor.subarray}"
    _require_positive(name, "a positive finite conversion", factor.value)
    if not 0 <= factor.uncertainty < np.inf:
        raise ProductError(
            f"expected a finite uncertainty of {name}, found {factor.uncertainty}; fit it again "
            "with more stars, or leave the mode out"
        )
    require_throughput(name, factor.throughput)
    throughput, norm = rebase(factor.throughput)
    vectors: dict[str, np.ndarray] = _sort_vectors(name, factor) if spectral else {}
    values = {
        column: factor.subarray if column == "subarray" else getattr(factor.mode, column)
        for column in keys
    }
    return PhotomRow(
        keys=tuple(v if isinstance(v, int) else str(v).upper() for v in values.values()),
        value=factor.value / norm,
        uncertainty=factor.uncertainty / norm,
        times=list_times(throughput),
        factor=factor,
        **vectors,
    )


def require_throughput(name: str, throughput: Throughput) -> None:
    """Refuse a throughput that is not positive from the start to the end of the mission."""
    days = np.linspace(*MISSION_MJD, 200)
    with np.errstate(all="ignore"):
        wrong = ~((f := throughput.evaluate(days)) > 0) | (f == np.inf)
    if wrong.any():
        k = int(np.argmax(wrong))
        raise ProductError(
            f"expected the throughput of {name} to be positive from MJD {MISSION_MJD[0]:.0f} to "
            f"{MISSION_MJD[1]:.0f}, found {f[k]:.4g} at {days[k]:.0f}; photom would divide by "
            "it: choose another form of time dependence"
        )


def list_times(throughput: Throughput) -> dict[str, dict[str, float]]:
    """List the forms in which a throughput changes: form -> columns."""
    t0 = {"t0": throughput.t0_mjd}
    times = {}
    if throughput.loss_per_year:
        times["linear"] = t0 | {"lossperyear": throughput.loss_per_year}
    if throughput.amplitude:
        constant = 1.0 - throughput.amplitude
        columns = {"amplitude": throughput.amplitude, "tau": throughput.tau_days}
        times["exponential"] = t0 | columns | {"const": constant}
    if throughput.alpha or throughput.year1value != 1.0:
        times["powerlaw"] = t0 | {
            "year1value": throughput.year1value,
            "tsoft": throughput.tsoft_days,
            "alpha": throughput.alpha,
        }
    return times


def _require_positive(name: str, what: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise ProductError(
            f"expected {what} of {name}, found {value}; leave the mode out or fit it again"
        )


def _sort_vectors(name: str, factor: Factor) -> dict[str, np.ndarray]:
    """Sort the response by wavelength and check it."""
    if factor.wave is None or factor.relresponse is None:
        raise ProductError(
            f"expected the response of {name} at each wavelength, found none; give wave and "
            "relresponse"
        )
    wave, response = (np.asarray(a, np.float64) for a in (factor.wave, factor.relresponse))
    error = factor.reluncertainty
    error = np.zeros_like(wave) if error is None else np.asarray(error, np.float64)
    if not (0 < wave.size <= _MOST_ELEMENTS and wave.shape == response.shape == error.shape):
        raise ProductError(
            f"expected one response and error per wavelength of {name}, at most {_MOST_ELEMENTS}, "
            f"found shapes {wave.shape}, {response.shape} and {error.shape}; make them the same"
        )
    order = np.argsort(wave)
    wave, response, error = wave[order], response[order], error[order]
    good = (wave > 0.1) & (wave < 100) & (response > 0) & (response < np.inf)
    good &= (error >= 0) & (error < np.inf)
    good[1:] &= np.diff(wave.astype(np.float32)) > 0
    if not good.all():
        k = int(np.argmin(good))
        raise ProductError(
            f"expected wavelengths of {name} in um, each once, and a positive response with a "
            f"finite error, found {response[k]} +- {error[k]} at {wave[k]} um; leave that bin out"
        )
    return {"wavelength": wave, "relresponse": response, "reluncertainty": error}


def make_tables(
    layout: Layout, rows: Sequence[PhotomRow], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Make the tables of a model from its rows.

    Parameters
    ----------
    layout : Layout
    rows : sequence of PhotomRow
    keys : sequence of str
        Key columns; ``subarray`` is added where the schema has none.

    Returns
    -------
    dict of str to ndarray
        Name of the table -> structured array, all in the order of `rows`.

    Raises
    ------
    ProductError
        A key is too long for its column.
    """
    model = layout.create()
    n_elements = max((len(row.wavelength) for row in rows if row.wavelength is not None), default=1)
    schema = model.get_dtype("phot_table")
    dtype: list[tuple[Any, ...]] = []
    for name in schema.names:
        kind = schema[name]
        if name == layout.value and "subarray" in keys and "subarray" not in layout.keys:
            dtype.append(("subarray", "S17"))
        dtype.append((name, kind, (n_elements,)) if name in _VECTORS else (name, kind))
    table = np.zeros(len(rows), dtype)
    for number, row in enumerate(rows):
        _fill(table[number], dict(zip(keys, row.keys, strict=True)))
        table[number][layout.value], table[number]["uncertainty"] = row.value, row.uncertainty
        if row.wavelength is not None:
            table[number]["nelem"] = len(row.wavelength)
            for name in _VECTORS:
                table[number][name][: len(row.wavelength)] = getattr(row, name)
    tables = {"phot_table": table}
    for form, neutral in FORMS.items():
        if not any(form in row.times for row in rows):
            continue
        times = np.zeros(len(rows), model.get_dtype(f"timecoeff_{form}"))
        day = next(row.times[form]["t0"] for row in rows if form in row.times)
        for number, row in enumerate(rows):
            known = {k: v for k, v in zip(keys, row.keys, strict=True) if k in times.dtype.names}
            _fill(times[number], known | {"t0": day, **neutral} | dict(row.times.get(form, {})))
        tables[f"timecoeff_{form}"] = times
    return tables


def _fill(record: np.void, values: Mapping[str, Any]) -> None:
    """Fill columns of one row; text must fit."""
    for name, value in values.items():
        record[name] = value
        if isinstance(value, str) and record[name].decode() != value:
            raise ProductError(
                f"expected {name} of at most {record.dtype[name].itemsize} characters, found "
                f"{value!r}; correct it"
            )


def read_rows(model: Any, layout: Layout, keys: Sequence[str]) -> list[PhotomRow]:
    """Read the rows of a photom reference.

    Parameters
    ----------
    model : photom model
    layout : Layout
    keys : sequence of str
        Key columns to read.

    Returns
    -------
    list of PhotomRow
        In their order.
    """
    table = model.phot_table
    columns = {name.lower(): np.asarray(table[name]) for name in table.dtype.names}
    times = {
        form: getattr(model, f"timecoeff_{form}")
        for form in FORMS
        if model.hasattr(f"timecoeff_{form}")
    }
    rows = []
    for number in range(len(table)):
        vectors = {}
        if layout.spectral:
            nelem = int(columns["nelem"][number])
            vectors = {name: columns[name][number][:nelem].astype(np.float64) for name in _VECTORS}
            if 0 < vectors["wavelength"].max(initial=0.0) < _LONGEST_IN_METRES:
                vectors["wavelength"] *= 1e6
        rows.append(
            PhotomRow(
                keys=tuple(_read_key(columns[name][number]) for name in keys),
                value=float(columns[layout.value][number]),
                uncertainty=float(columns["uncertainty"][number]),
                times={
                    form: {name: float(part[name][number]) for name in ("t0", *FORMS[form])}
                    for form, part in times.items()
                },
                **vectors,
            )
        )
    return rows


def _read_key(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode()
    return value.strip().upper() if isinstance(value, str) else int(value)


def evaluate_times(times: Mapping[str, Mapping[str, float]], mjd: float) -> float:
    """Evaluate the product that photom divides by, in float64."""
    f = 1.0
    for form, c in times.items():
        days = mjd - c["t0"]
        if form == "linear":
            f *= 1.0 - c["lossperyear"] * days / 365.0
        elif form == "exponential":
            f *= c["amplitude"] * np.exp(-days / c["tau"]) + c["const"]
        else:
            base = (days + c["tsoft"]) / (365.0 + c["tsoft"])
            f *= c["year1value"] * (base ** c["alpha"] if base > 0 or not c["alpha"] else np.nan)
    return float(f)


def list_nircam_subarrays() -> tuple[str, ...]:
    """List the subarrays of NIRCam that the schema of exposures has, FULL first."""
    from asdf.schema import load_schema

    schema = load_schema("http://stsci.edu/schemas/jwst_datamodel/subarray.schema")
    groups: Iterable[Mapping[str, Any]] = schema["properties"]["meta"]["properties"]["subarray"][
        "properties"
    ]["name"]["anyOf"]
    # The present names and the obsolete ones each stand in a group of their own.
    names = [set(group["enum"]) for group in groups]
    ours = set().union(*(group for group in names if group & {"FULLP", "MASKA210R"}))
    return ("FULL", *sorted(ours))
