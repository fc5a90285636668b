"""Inputs that are damaged or made to do harm: an error that says so, or a correct product."""

import json
import string
import warnings
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from references import make_history, write_masks

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import InputError, TvBadPixError
from jwst_tvbadpix.events import read_events
from jwst_tvbadpix.exposures import open_exposures
from jwst_tvbadpix.files import open_asdf, read_association
from jwst_tvbadpix.headers import KEYWORDS
from jwst_tvbadpix.parameters import find_shipped, read_parameters
from jwst_tvbadpix.programmes.find import _read_table
from jwst_tvbadpix.refmodels import read_history, read_mask_dq
from jwst_tvbadpix.refmodels.photom import read_template
from jwst_tvbadpix.report.products import read_product
from jwst_tvbadpix.reprocess.plan import read_exposures
from jwst_tvbadpix.standards.files import list_items, read_columns
from jwst_tvbadpix.standards.models import read_fluxes, read_spectrum
from jwst_tvbadpix.steps import TimeVariableBadPixel

# astropy leaves a file open that it cannot read.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

# Examples of each kind: in CI, and in the long form (2,000 and more over all).
SHORT, LONG = 8, 200


def fuzz(check, examples, *strategies):
    """Draw the same examples each time, so that a failure can be run again."""
    tuned = settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    tuned(given(*strategies)(check))()


@contextmanager
def judged():
    """Let pass what a user is told in our own words, or by the system."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(TvBadPixError, OSError, MemoryError):
            yield


def require_error(read, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((TvBadPixError, OSError), match=r"expected|directory"):
            read(path)


def run_command(*words):
    """Run a command; 70 would be a defect."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([str(word) for word in words]) in (0, 1)


# --- damaged files ------------------------------------------------------------------------------


class Place:
    """One whole file of each kind."""

    def __init__(self, folder):
        self.folder = folder
        masks = write_masks(folder / "masks", make_history(2))
        self.mask_fits, self.mask_asdf = masks[0], masks[0].with_suffix(".asdf")
        (self.history,) = (folder / "masks").glob("*_badpixhistory.asdf")
        self.rate = write_rate(folder / "jw01_rate.fits")
        self.parameters = find_shipped("spec2_lrs_slit")
        self.events = folder / "events.ecsv"
        Table({"date": ["2023-01-01"], "label": ["anneal"]}).write(self.events)
        self.csv = folder / "events.csv"
        Table({"date": ["2023-01-01"], "label": ["anneal"]}).write(self.csv)
        self.bintable = folder / "star.fits"
        wave = np.linspace(1e4, 2e5, 50)
        Table({"WAVELENGTH": wave, "FLUX": wave**-2}).write(self.bintable)
        self.fluxes = folder / "fluxes.ecsv"
        Table({"name": ["a"], "F770W": [1.0]}).write(self.fluxes)
        self.asn = folder / "x_asn.json"
        member = {"expname": self.rate.name, "exptype": "science"}
        self.asn.write_text(json.dumps({"products": [{"name": "p", "members": [member]}]}))


def write_rate(path, cards=(), *, science=None, n=64):
    """An exposure of the SUB64 of the MIRI imager; cards given as None are left out."""
    header = fits.Header()
    every = {
        "TELESCOP": "JWST",
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIMAGE",
        "EXP_TYPE": "MIR_IMAGE",
        "FILTER": "F770W",
        "READPATT": "FASTR1",
        "SUBARRAY": "SUB64",
        "SUBSTRT1": 1,
        "SUBSTRT2": 779,
        "SUBSIZE1": 72,
        "SUBSIZE2": n,
        "DATE-OBS": "2023-01-01",
        "TIME-OBS": "00:00:00",
        "EXPSTART": 59945.0,
        "EXPMID": 59945.01,
        "EXPEND": 59945.02,
        "EFFEXPTM": 100.0,
        "NGROUPS": 10,
        "NINTS": 1,
        "BUNIT": "DN/s",
        **dict(cards),
    }
    for name, value in every.items():
        if value is not None:
            header[name] = value
    data = np.ones((n, 72), np.float32) if science is None else science
    hdus = [fits.PrimaryHDU(header=header), fits.ImageHDU(data, name="SCI")]
    hdus.append(fits.ImageHDU(np.zeros(np.shape(data), np.uint32), name="DQ"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


def read_stem(path):
    """What the command does first with a history."""
    run_command("mask-at", path, "--date", "2022-05-10", "--dry-run")


# A reader of files: what it reads of `Place`, and how. A new one is one line.
READERS = {
    "history": ("history", read_history),
    "history of a command": ("history", read_stem),
    "product of a page": ("history", read_product),
    "mask in ASDF": ("mask_asdf", read_mask_dq),
    "mask in FITS": ("mask_fits", read_mask_dq),
    "parameters": ("parameters", read_parameters),
    "photom": ("mask_asdf", read_template),
    "exposure": ("rate", lambda path: open_exposures([path])),
    "association": ("asn", lambda path: read_exposures(path, [2])),
    "events in ECSV": ("events", read_events),
    "events in CSV": ("csv", read_events),
    "table of headers": ("csv", _read_table),
    "columns in FITS": ("bintable", read_columns),
    "spectrum": ("bintable", read_spectrum),
    "model fluxes": ("fluxes", read_fluxes),
}

# What happens to bytes: where (as a share of the length), what, and what with.
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["flip", "cut", "zero", "insert", "repeat", "text"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def damage(content, changes):
    """Damage bytes; most of the places lie in the header or the tree, where much is to be hit."""
    content = bytearray(content)
    for share, kind, new in changes:
        at = int(share**3 * max(0, len(content) - 1))
        if kind == "flip" and content:
            content[at] ^= 1 << (new[0] % 8)
        elif kind == "cut":
            del content[at + 1 :]
        elif kind == "zero":
            content[at : at + 512] = bytes(min(512, len(content) - at))
        elif kind == "insert":
            content[at:at] = new
        elif kind == "repeat":
            content[at:at] = content[at : at + 400]
        elif kind == "text":
            content[at : at + len(new)] = bytes(33 + byte % 90 for byte in new)
    return bytes(content)


def damage_reader(place, folder, name, examples):
    what, read = READERS[name]
    whole = getattr(place, what)
    content = whole.read_bytes()
    path = folder / whole.name

    def check(changes):
        path.write_bytes(damage(content, changes))
        with judged():
            read(path)

    fuzz(check, examples, DAMAGE)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_named_in_an_error(place, tmp_path, name):
    damage_reader(place, tmp_path, name, SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(place, tmp_path, name):
    damage_reader(place, tmp_path, name, LONG)


@pytest.mark.parametrize("name", READERS)
def test_empty_and_absent_files_are_errors(place, tmp_path, name):
    what, read = READERS[name]
    path = tmp_path / getattr(place, what).name
    # The command has its own words on stderr; an empty table has no rows.
    told = name in ("history of a command", "table of headers")
    for prepare in (lambda: None, path.touch, lambda: (path.unlink(), path.mkdir())):
        prepare()
        if told:
            with judged():
                read(path)
        else:
            require_error(read, path)


def test_a_changed_array_is_seen(place, tmp_path):
    """Also where nothing is compressed: the checksum of ASDF is compared."""
    path = tmp_path / "mask.asdf"
    with asdf.open(place.mask_asdf, lazy_load=False, memmap=False) as file:
        asdf.AsdfFile(dict(file.tree)).write_to(path, all_array_compression=None)
    read_mask_dq(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        read_mask_dq(path)


# --- headers ------------------------------------------------------------------------------------

# Cards that are looked at, most of all those that place an exposure in space and time.
CARDS = sorted(set(KEYWORDS) | {"VISITSTA", "TARGPROP", "PROGRAM", "INSTRUME", "EXPSTART"})
PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(PRINTABLE, max_size=70),
    st.sampled_from(["", "N/A", "UNKNOWN", "NaN", "1e999", "2023-13-45", "24:61:61", "1,5", "0x1"]),
    st.just(fits.card.Undefined()),
    st.complex_numbers(max_magnitude=1e9, allow_nan=False, allow_infinity=False),
)
HEADERS = st.dictionaries(st.sampled_from(CARDS), VALUES, min_size=1, max_size=5)


def fuzz_headers(place, folder, examples):
    def check(cards):
        path = write_rate(folder / "jw09999001001_02101_00001_mirimage_rate.fits", cards)
        with judged():
            open_exposures([path, place.rate])
        run_command("find", path, "--mode", "imaging", "--output-dir", folder / "found")
        run_command("associate", path, "--output-dir", folder / "found")
        run_command("check", path, "--history", place.history)
        exposure = ("--exposure", path, "--dry-run")
        run_command("mask-at", place.history, *exposure)

    fuzz(check, examples, HEADERS)


def test_headers_of_any_values_end_in_an_error_or_a_record(place, tmp_path):
    fuzz_headers(place, tmp_path, 12)


@pytest.mark.slow
def test_many_headers(place, tmp_path):
    fuzz_headers(place, tmp_path, 2 * LONG)


# --- associations -------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["science", "../x.fits", "/etc/passwd", "~/x", "x\0y", "a" * 5000, ".", "\ud800"]
    ),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
NAMES = st.sampled_from(["jw01_rate.fits", "", ".", "..", "/", "x_asn.json"]) | SCALARS
MEMBERS = st.fixed_dictionaries(
    {"expname": NAMES, "exptype": st.sampled_from(["science", "background", "dark", 3]) | JSON}
)
PRODUCTS = st.fixed_dictionaries(
    {"name": st.just("p") | SCALARS, "members": st.lists(MEMBERS, max_size=3) | JSON}
)
ASSOCIATIONS = st.fixed_dictionaries({"products": st.lists(PRODUCTS, max_size=3) | JSON}) | JSON


def fuzz_associations(place, folder, examples):
    write_rate(folder / "jw01_rate.fits")
    path = folder / "x_asn.json"
    readers = (
        read_association,
        open_exposures,
        partial(read_exposures, levels=[1]),
        lambda path: list(list_items(path)),
        lambda path: TimeVariableBadPixel().make_product_name((path,)),
    )

    def check(content):
        path.write_text(json.dumps(content))
        for read in readers:
            with judged():
                read(path)

    fuzz(check, examples, ASSOCIATIONS)


def test_associations_of_any_content_end_in_an_error_or_products(place, tmp_path):
    fuzz_associations(place, tmp_path, 40)


@pytest.mark.slow
def test_many_associations(place, tmp_path):
    fuzz_associations(place, tmp_path, 2 * LONG)


def test_the_message_holds_no_file(place):
    with pytest.raises(InputError) as caught:
        read_association(place.rate)
    assert len(str(caught.value)) < 500


def write_members(folder, *names):
    members = [{"expname": str(name), "exptype": "science"} for name in names]
    path = folder / "x_asn.json"
    path.write_text(json.dumps({"products": [{"name": "p", "members": members}]}))
    return path


@pytest.mark.parametrize(
    "name", ["../x_rate.fits", "a/../../x_rate.fits", "./../x_rate.fits", ".."]
)
def test_members_do_not_climb_out_of_the_folder(tmp_path, name):
    write_rate(tmp_path / "x_rate.fits")
    (tmp_path / "asn" / "a").mkdir(parents=True)
    path = write_members(tmp_path / "asn", name)
    for read in (read_association, open_exposures, partial(read_exposures, levels=[2])):
        with pytest.raises(InputError, match="beneath it"):
            read(path)


@pytest.mark.parametrize("name", ["x_rate.fits", "a/x_rate.fits", "a/../x_rate.fits", "absolute"])
def test_members_beside_beneath_or_absolute_are_found(tmp_path, name):
    (tmp_path / "asn" / "a").mkdir(parents=True)
    if name == "absolute":
        name = tmp_path / "x_rate.fits"
    write_rate((tmp_path / "asn" / name).resolve())
    path = write_members(tmp_path / "asn", name)
    assert read_association(path)[0].members[0]["expname"] == str(name)
    assert len(read_exposures(path, [2])) == 1


def test_a_deeply_nested_association_is_an_error(tmp_path):
    path = tmp_path / "x_asn.json"
    path.write_text('{"products": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InputError, match="association"):
        read_association(path)


# --- ASDF that is meant to do harm --------------------------------------------------------------

HEAD = """#ASDF 1.0.0
#ASDF_STANDARD 1.6.0
%YAML 1.1
%TAG ! tag:stsci.edu:asdf/
--- !core/asdf-1.1.0
meta: {reftype: BADPIXHISTORY, instrument: {detector: MIRIMAGE}, useafter: "2021-12-25T00:00:00"}
schema_version: 1.0.0
"""


def make_bomb(levels):
    lines = ["a0: &a0 [x, x]"]
    return "\n".join(lines + [f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, levels)])


ARRAY = "x: !core/ndarray-1.1.0 {{source: {}, datatype: uint8, byteorder: little, shape: [10]}}"
REFUSED = {
    "file": ARRAY.format("file:///etc/passwd"),
    "beside": ARRAY.format("other.asdf"),
    "net": ARRAY.format("http://127.0.0.1:9/x.asdf"),
    "bomb": make_bomb(40),
    "small bomb": make_bomb(20),
    "circle": "x: &x [*x]",
    "deep": f"x: {'[' * 200_000}{']' * 200_000}",
    "python": "x: !!python/object/apply:pathlib.Path.touch ['pwned']",
    "python class": "x: !!python/object:pathlib.Path {}",
    "huge shape": "x: !core/ndarray-1.1.0 {source: 0, datatype: float64, byteorder: little, "
    "shape: [100000, 10000000]}",
    "huge inline": "x: !core/ndarray-1.1.0 {data: [1], datatype: float64, "
    "shape: [100000, 1000000]}",
    "half": "x: [1, 2",
    "tab": "x:\n\t- 1",
}


@pytest.mark.parametrize("name", REFUSED)
def test_asdf_that_does_harm_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x_MIRIMAGE_badpixhistory.asdf"
    path.write_text(f"{HEAD}{REFUSED[name]}\n...\n")
    for read in (read_history, read_mask_dq, read_template, read_parameters):
        require_error(read, path)
    with judged():
        read_product(path)
    run_command("report", path, "--output-dir", tmp_path / "out")
    assert not (tmp_path / "pwned").exists()


def test_aliases_that_save_space_are_no_bomb(tmp_path):
    path = tmp_path / "x.asdf"
    path.write_text(HEAD + "a: &a [1, 2, 3]\nb: [*a, *a, *a]\n...\n")
    with open_asdf(path) as file:
        assert file["b"][2] == [1, 2, 3]


# --- tables -------------------------------------------------------------------------------------

ECSV = """# %ECSV 1.0
# ---
# datatype:
# - {{name: date, datatype: {}, subtype: {}}}
# - {{name: label, datatype: string}}
{}# schema: astropy-2.0
date label
{} x
"""
TAG = "# meta: !!python/object/apply:pathlib.Path.touch ['pwned']\n"
TABLES = {
    "object": ECSV.format("string", "json", "", '"{""a"": 1}"'),
    "python": ECSV.format("string", "null", TAG, "2023-01-01"),
    "type": ECSV.format("object", "null", "", "2023-01-01"),
    "huge": ECSV.format("string", "float64[100000,100000]", "", "[1]"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_objects_do_no_harm(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "events.ecsv"
    path.write_text(TABLES[name])
    for read in (read_events, read_columns, read_fluxes, _read_table):
        with judged():
            read(path)
    assert not (tmp_path / "pwned").exists()


def test_pickles_are_not_read(tmp_path, monkeypatch):
    """Neither under their own name nor as a table or an array."""
    monkeypatch.chdir(tmp_path)
    harm = b"cpathlib\nPath.touch\n(cpathlib\nPath\n(Vpwned\ntRtR."
    for name in ("x.pkl", "x.npy", "x.ecsv", "x.hdf5", "x.fits", "x.asdf", "x.json"):
        path = tmp_path / name
        path.write_bytes(harm)
        for read in (read_events, read_columns, read_history, read_mask_dq, open_exposures):
            require_error(read, path)
    assert not Path("pwned").exists()
