"""Evidence on disk: what is damaged is made again, and the search out of core is that in memory."""

import os
import shutil
import tracemalloc
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from arrays import ArrayStack, find

from jwst_tvbadpix.atomic import make_hidden_folder, replace_whole
from jwst_tvbadpix.badpix import Settings, find_histories
from jwst_tvbadpix.badpix.columns import Columns
from jwst_tvbadpix.badpix.find import make_solver
from jwst_tvbadpix.badpix.outofcore import search_shelf, shelve_looks, survey_surroundings
from jwst_tvbadpix.badpix.shelved import ShelvedLooks
from jwst_tvbadpix.errors import StoreError
from jwst_tvbadpix.headers import ExposureRecord
from jwst_tvbadpix.store import EvidenceStore

MJD = 59800.0 + 40 * np.arange(12)
SHAPE = (12, 72, 60)
VALUES = np.random.default_rng(5).normal(size=(3, 40, 1100)).astype(np.float32)


def make_record(k):
    times = dict.fromkeys(("start_mjd", "expstart_mjd", "mid_mjd", "end_mjd"), MJD[0] + k)
    texts = ("exp_type", "filter", "subarray", "readpatt", "r_mask", "cal_ver")
    return ExposureRecord(
        filename=f"jw{k}_rate.fits",
        sha256=f"{k:064x}",
        detector="MIRIMAGE",
        **dict.fromkeys(texts, "N/A"),
        corner=(100, 8),
        shape=SHAPE[1:],
        **times,
        exposure_s=np.pi,
        ngroups=5,
        nints=1,
        dispersion_axis=2,
        unit="DN/s",
        photmjsr=1 / 3,
        fallbacks=("a", "b"),
    )


RECORDS = tuple(make_record(k) for k in range(12))


@pytest.fixture
def shelf(tmp_path):
    shelf = EvidenceStore(tmp_path / "store").open_shelf("key", RECORDS[:2])
    shelf.put(0, {"values": VALUES}, {"n_hidden": 3})
    return shelf


def reopen(shelf):
    return EvidenceStore(shelf.folder.parent).open_shelf(shelf.key, shelf.records)


def test_values_records_and_facts_come_back_bit_for_bit(shelf):
    again = reopen(shelf)
    np.testing.assert_array_equal(again.read(0, slice(5, 35)), VALUES[:, 5:35])
    assert again.read_facts(0)["n_hidden"] == 3
    assert EvidenceStore(shelf.folder.parent).list_records("key") == {RECORDS[0].sha256: RECORDS[0]}
    assert again.read(1, slice(None)) is None
    assert again.read_facts(1) is None
    assert EvidenceStore(shelf.folder.parent).list_records("other") == {}
    assert os.listdir(shelf.folder) == [RECORDS[0].sha256]


def test_an_array_of_many_looks_is_of_one_origin(shelf):
    blocks = [VALUES[..., :600], VALUES[..., 600:]]
    for origin in ("a", "b"):
        shelf.put_joint("kept", origin, iter(blocks), 1100)
        for one in (shelf, reopen(shelf)):
            np.testing.assert_array_equal(one.read_joint("kept", origin), VALUES)
            assert one.read_joint("kept", "c") is None
            # Turned round, in a run across the two blocks, and one that is not wanted.
            pixels = np.array([7, 2, 598, 599, 600, 601, -1, 900, 901])
            found = np.zeros((*VALUES.shape[:2], pixels.size), np.float32)
            calls = []

            def put(own, part, found=found, calls=calls):
                found[..., own] = part
                calls.append(own)

            assert one.visit_joint("kept", origin, pixels, put)
            wanted = np.where(pixels >= 0, VALUES[..., pixels], 0)
            np.testing.assert_array_equal(found, wanted)
            assert len(calls) == 5
            assert not one.visit_joint("kept", "c", pixels, put)
    assert shelf.read_joint("other", "a") is None
    assert list(EvidenceStore(shelf.folder.parent).list_records("key")) == [RECORDS[0].sha256]


@pytest.mark.parametrize("name", ["flipped bit", "half", "lost"])
def test_damage_to_many_looks_counts_as_absent(shelf, name):
    shelf.put_joint("kept", "a", [VALUES[..., :600], VALUES[..., 600:]], 1100)
    DAMAGE[name](shelf.folder / "kept" / "c" / "0" / "0" / "1")
    assert reopen(shelf).read_joint("kept", "a") is None
    sizes = []
    assert not reopen(shelf).visit_joint("kept", "a", np.arange(1100), lambda _, v: sizes.append(v))
    assert sum(part.shape[-1] for part in sizes) <= 600
    shelf.put_joint("kept", "a", [VALUES], 1100)
    np.testing.assert_array_equal(shelf.read_joint("kept", "a"), VALUES)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip,
    "zero length": lambda path: os.truncate(path, 0),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "three bytes": lambda path: os.truncate(path, 3),
    "lost": os.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", ["c/0/0/0", "c/0/1/0", "zarr.json"])
def test_damage_counts_as_absent(shelf, damage, file):
    path = shelf.folder / RECORDS[0].sha256 / "values" / file
    if file == "zarr.json" and damage is flip:
        pytest.skip("text may mean the same")
    damage(path)
    again = reopen(shelf)
    assert again.read(0, slice(None)) is None
    again.put(0, {"values": VALUES}, {})
    np.testing.assert_array_equal(again.read(0, slice(None)), VALUES)


def test_facts_that_do_not_fit_their_checksum_count_as_absent(shelf):
    path = shelf.folder / RECORDS[0].sha256 / "zarr.json"
    text = path.read_text()
    path.write_text(text.replace('"n_hidden": 3', '"n_hidden": 4'))
    assert path.read_text() != text
    assert shelf.read_facts(0) is None


def test_a_run_that_was_killed_leaves_nothing_that_is_taken(shelf):
    half = shelf.folder / ".00000-half" / "made"
    shutil.copytree(shelf.folder / RECORDS[0].sha256, half)
    assert list(EvidenceStore(shelf.folder.parent).list_records("key")) == [RECORDS[0].sha256]


def test_other_folders_and_layouts_are_refused(tmp_path, shelf):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match=r"expected a store .* found .*mine"):
        EvidenceStore(tmp_path / "mine")
    marker = shelf.folder.parent / "zarr.json"
    marker.write_text(marker.read_text().replace('"layout": 2', '"layout": 1'))
    with pytest.raises(StoreError, match=r"'layout': 1"):
        EvidenceStore(shelf.folder.parent)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"found .*file"):
        EvidenceStore(tmp_path / "file")


def test_runs_started_together_keep_what_the_others_wrote(tmp_path, monkeypatch):
    """Another run makes the store, and writes to it, after this one has found no store."""
    folder = tmp_path / "store"

    @contextmanager
    def come_second(path):
        monkeypatch.undo()
        other = EvidenceStore(folder).open_shelf("key", RECORDS[:1])
        other.put(0, {"values": VALUES}, {})
        with replace_whole(path) as temporary:
            yield temporary

    monkeypatch.setattr("jwst_tvbadpix.store.replace_whole", come_second)
    store = EvidenceStore(folder)
    shelf = store.open_shelf("key", RECORDS[:1])
    np.testing.assert_array_equal(shelf.read(0, slice(None)), VALUES)
    assert sorted(os.listdir(folder)) == ["key", "zarr.json"]


def test_a_look_that_another_run_replaces_or_takes_away_is_not_read_as_zeros(shelf, monkeypatch):
    np.testing.assert_array_equal(shelf.read(0, slice(None)), VALUES)
    reopen(shelf).put(0, {"values": 2 * VALUES}, {})
    np.testing.assert_array_equal(shelf.read(0, slice(None)), 2 * VALUES)
    where = shelf.folder / RECORDS[0].sha256

    def take_away(values):
        shutil.rmtree(where)
        return values

    with monkeypatch.context() as patch:
        patch.setattr("jwst_tvbadpix.store.np", SimpleNamespace(asarray=take_away))
        assert shelf.read(0, slice(None)) is None
    assert shelf.read(0, slice(None)) is None


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "half"])
def test_what_a_killed_or_a_living_run_is_making_is_no_other_folder(tmp_path, whole):
    if whole:
        EvidenceStore(tmp_path)
    living, dead = make_hidden_folder(tmp_path), make_hidden_folder(tmp_path)
    dead = dead.rename(str(dead).replace(f"-{os.getpid()}-", f"-{2**22 + 1}-"))
    EvidenceStore(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "zarr.json"]


def test_other_units_have_another_key(tmp_path):
    store = EvidenceStore(tmp_path)
    keys = {store.make_shelf("parts", RECORDS, unit).key for unit in ("DN/s", "MJy/sr")}
    assert len({*keys, store.make_shelf("other", RECORDS, "DN/s").key}) == 3


# Out of core ----------------------------------------------------------------------------------


def make_rate(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    level = 20 + 5 * np.sin(np.arange(shape[0]))[:, None, None]
    rate = level + rng.normal(0, 0.3, shape)
    y, x = rng.integers(0, shape[1:], (30, 2)).T
    rate[:, y, x] += 8
    y, x = rng.integers(0, shape[1:], (30, 2)).T
    rate[shape[0] // 2 :, y, x] += 8
    rate[rng.random(shape) < 0.01] = np.nan
    return rate.astype(np.float32)


def list_arrays(result, name=""):
    for f in fields(result):
        value = getattr(result, f.name)
        if is_dataclass(value):
            yield from list_arrays(value, f"{name}{f.name}.")
        elif f.name != "block":
            yield f"{name}{f.name}", value


def assert_equal(found, wanted):
    for (name, one), (_, other) in zip(list_arrays(found), list_arrays(wanted), strict=True):
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            assert one.tobytes() == other.tobytes(), name
        else:
            assert one == other, name


@pytest.fixture(scope="module")
def rate():
    rate = make_rate()
    rate[3] += np.random.default_rng(1).normal(0, 50, SHAPE[1:])  # a look that is not used
    return rate


AXES = {"spectra": [2] * 12, "images": [None] * 12, "mixed": [2, None, 1] * 4}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_the_search_out_of_core_is_that_in_memory(tmp_path, rate, axes):
    hidden = np.random.default_rng(2).random(SHAPE) < 0.01
    stack = ArrayStack(rate, 32, hidden)
    wanted = find_histories(stack, MJD, axes)
    assert wanted.bad.any(axis=0).sum() > 30
    assert not wanted.usability.used[3]
    # In little memory the residuals of the looks that stand for all are made twice.
    assert_equal(find_histories(stack, MJD, axes, max_bytes=100_000), wanted)
    for max_bytes in (100_000, 2_000_000_000):
        store = EvidenceStore(tmp_path / str(max_bytes))
        for _ in range(2):
            found = search(stack, store, axes, max_bytes)[0]
            assert_equal(replace(found, block=None), wanted)


def search(stack, store, axes=AXES["spectra"], max_bytes=2_000_000_000, **keys):
    """Search with a store: histories, and the folder of their calibration."""
    found = find_histories(
        stack,
        MJD,
        axes,
        open_shelf=lambda key: store.open_shelf(key, RECORDS),
        max_bytes=max_bytes,
        **keys,
    )
    return found, store.folder / found.block.key


class CountingStack(ArrayStack):
    """Looks of which it is known how many were read whole."""

    read: ClassVar[list[int]] = []

    def read_look(self, look, rows=None, core=None):
        if rows is None:
            self.read.append(look)
        return super().read_look(look, rows, core)


# Rows of 11 looks have 7920 bytes: 8 chunks a row, the last one filled up; a row, and 32 rows.
@pytest.mark.parametrize("size", [1000, 9000, 1_000_000])
def test_what_looks_say_is_kept_pixel_by_pixel(tmp_path, rate, monkeypatch, size):
    monkeypatch.setattr("jwst_tvbadpix.badpix.columns._CHUNK_BYTES", size)
    stack, store = CountingStack(rate), EvidenceStore(tmp_path)
    monkeypatch.setattr(CountingStack, "read", [])
    wanted, folder = search(stack, store, max_bytes=100_000)
    used = np.flatnonzero(wanted.usability.used).tolist()
    assert not any((folder / RECORDS[k].sha256 / "values").exists() for k in used)
    assert all(path.stat().st_size < 1.1 * size for path in folder.glob("columns/c/0/0/*"))
    n_whole = len(stack.read)
    # Made again of the exposures, look by look, they are the same.
    one = store.open_shelf(folder.name, RECORDS)
    axes = {"dispersion_axes": AXES["spectra"], "window_along": 11, "window_across": 11}
    settings = {name: getattr(Settings(), name) for name in ("window_along", "window_across")}
    looks = shelve_looks(stack, one, wanted.noise, wanted.block.surroundings, {**axes, **settings})
    columns = Columns(looks, used[2:5], range(2, 5), tuple(RECORDS[k].sha256 for k in used))
    pixels = np.array([0, 59, 60, 61, 62, 700, 703, 72 * 60 - 1])
    found = columns.gather(pixels)
    assert len(stack.read) == n_whole
    shutil.rmtree(folder / "columns")
    np.testing.assert_array_equal(columns.gather(pixels), found)
    assert len(stack.read) == n_whole + 3
    assert np.isfinite(found).any(axis=(0, 2)).all()


def test_damaged_evidence_is_made_again(tmp_path, rate, monkeypatch):
    monkeypatch.setattr("jwst_tvbadpix.badpix.columns._CHUNK_BYTES", 9000)
    stack, store = CountingStack(rate), EvidenceStore(tmp_path)
    wanted, folder = search(stack, store)
    flip(folder / "columns" / "c" / "0" / "0" / "7")
    os.truncate(folder / RECORDS[5].sha256 / "evidence" / "c" / "0" / "0" / "0", 7)
    shutil.rmtree(folder / RECORDS[6].sha256)
    assert_equal(search(stack, store)[0], wanted)
    # What was damaged was mended, and nothing need be made once more.
    for damage in (None, DAMAGE["lost"], None, DAMAGE["half"], None):
        monkeypatch.setattr(CountingStack, "read", [])
        if damage:
            damage(folder / "columns" / "c" / "0" / "0" / "7")
        assert_equal(search(stack, store)[0], wanted)
        assert bool(stack.read) == bool(damage)


def test_a_search_that_was_stopped_goes_on(tmp_path, rate, monkeypatch):
    stack, store = CountingStack(rate), EvidenceStore(tmp_path)
    monkeypatch.setattr(CountingStack, "read", [])

    def stop(done, n_rows):
        if done > n_rows // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(stack, store, max_bytes=100_000, progress=stop)
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not (folder / "columns").exists()
    assert sorted(stack.read) == list(range(12))
    found, again = search(stack, store)
    assert again == folder
    assert len(stack.read) == 12
    assert_equal(replace(found, block=None), find_histories(stack, MJD, AXES["spectra"]))
    assert not list(folder.glob(".*"))


def test_without_room_for_it_twice_evidence_stays_as_it_is(tmp_path, rate, monkeypatch, caplog):
    stack, store = CountingStack(rate), EvidenceStore(tmp_path)
    needed = 1.2 * 12 * rate.size
    wanted = find_histories(stack, MJD, AXES["spectra"])
    for free in (needed - 1e5, needed + 1):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr("jwst_tvbadpix.store.shutil.disk_usage", lambda _, u=usage: u)
        found, folder = search(stack, store)
        assert_equal(replace(found, block=None), wanted)
        has_room = free > needed
        assert (folder / "columns").exists() == has_room
        assert (folder / RECORDS[0].sha256 / "values").exists() != has_room
        assert ("updates will take longer" in caplog.text) != has_room
        caplog.clear()


def test_evidence_of_other_settings_is_kept_apart(tmp_path, rate):
    store, keys = EvidenceStore(tmp_path), []

    def open_shelf(key):
        keys.append(key)
        return store.open_shelf(key, RECORDS)

    for window in (11, 13):
        wanted = find(rate, MJD, settings=replace(find_settings(), window_along=window))
        found = find(
            rate,
            MJD,
            settings=replace(find_settings(), window_along=window),
            open_shelf=open_shelf,
        )
        assert_equal(replace(found, block=None), wanted)
    assert len(set(keys)) == 2


def find_settings():
    from jwst_tvbadpix.badpix import Settings

    return Settings()


def test_memory_is_that_of_the_tiles(tmp_path):
    """Twice the looks, as much memory: tiles have fewer rows."""
    peaks = []
    for n_looks in (40, 80):
        rate = np.random.default_rng(0).normal(20, 0.3, (n_looks, 256, 64)).astype(np.float32)
        records = [make_record(k) for k in range(n_looks)]
        found = find(
            rate,
            MJD[0] + np.arange(n_looks),
            open_shelf=lambda key, own=records: EvidenceStore(tmp_path).open_shelf(key, own),
        )
        shelf = EvidenceStore(tmp_path).open_shelf(found.block.key, records)
        looks = ShelvedLooks(ArrayStack(rate), shelf, lambda *_: None)
        solver = make_solver(MJD[0] + np.arange(n_looks), found.usability, Settings())
        own = found.usability.used, found.noise, found.block.surroundings, solver
        tracemalloc.start()
        search_shelf(looks, *own, max_bytes=4_000_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 6_000_000
    assert peaks[1] < 1.25 * peaks[0]


def test_surroundings_do_not_depend_on_the_blocks(monkeypatch, rate):
    stack = ArrayStack(rate)
    histories = find(rate, MJD)
    axes = {"dispersion_axes": AXES["mixed"], "window_along": 11, "window_across": 9}
    own = histories.noise, histories.usability.used, 12, axes
    whole = survey_surroundings(stack, *own)
    monkeypatch.setattr("jwst_tvbadpix.badpix.outofcore._BLOCK_BYTES", 1000)
    assert_equal(survey_surroundings(stack, *own), whole)
