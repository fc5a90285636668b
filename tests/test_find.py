"""``tvbadpix find``: the query, and the ranking of exposures by header and by pixels."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pipeline import REAL_RATES

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import DateError, InputError
from jwst_tvbadpix.exposures import open_exposures
from jwst_tvbadpix.programmes.find import (
    ACCEPTED,
    associate_candidates,
    build_find_query,
    list_observations,
    rank_candidates,
)
from jwst_tvbadpix.simulate import FieldStars, build_scene, draw_specs, render_rate, write_rate
from jwst_tvbadpix.traces import find_trace, measure_coverage, select_field

REAL_STAR = REAL_RATES.parents[1] / "miri_slitless" / "ngts10_p750l_slitless_rateints.fits"
SHAPE = (416, 72)
DNU = 1


def make_sky(seed=0, *, shape=SHAPE, noise=0.5):
    return 20 + np.random.default_rng(seed).normal(0, noise, shape)


def add_star(image, *, peak, column=38.0, sigma=1.5):
    x = np.arange(image.shape[1])
    return image + peak * np.exp(-0.5 * ((x - column) / sigma) ** 2)


def write(folder, image=None, *, number=1, stage="rate", **cards):
    """An exposure of SLITLESSPRISM with few cards; None removes one."""
    cards = {
        "TELESCOP": "JWST",
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIMAGE",
        "EXP_TYPE": "MIR_LRS-SLITLESS",
        "FILTER": "P750L",
        "SUBARRAY": "SLITLESSPRISM",
        "SUBSTRT1": 1,
        "SUBSTRT2": 529,
        "SUBSIZE1": SHAPE[1],
        "SUBSIZE2": SHAPE[0],
        "PROGRAM": "07831",
        "OBSERVTN": f"{number:03d}",
        "VISIT": "001",
        "DATE-OBS": f"2024-01-{number:02d}",
        "TIME-OBS": "00:00:00",
        "EFFEXPTM": 100.0,
        **{key.replace("_", "-") if key in ("DATE_OBS",) else key: v for key, v in cards.items()},
    }
    primary = fits.PrimaryHDU()
    for key, value in cards.items():
        if value is not None:
            primary.header[key] = value
    hdus = [primary]
    if image is not None:
        dq = np.zeros(image.shape, np.int32)
        hdus += [
            fits.ImageHDU(image.astype(np.float32), name="SCI"),
            fits.ImageHDU(dq, name="DQ"),
        ]
    path = folder / f"jw07831{number:03d}001_02101_00001_mirimage_{stage}.fits"
    fits.HDUList(hdus).writeto(path)
    return path


def rank(*paths, mode="LRS"):
    return rank_candidates(list_observations(paths), mode)


# The trace test -------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2])
def test_a_trace_is_found_where_it_was_put(axis):
    image = add_star(make_sky(), peak=1.0, column=30.3)
    trace = find_trace(image if axis == 2 else image.T, axis)
    assert trace.seen
    assert trace.position == pytest.approx(30.3, abs=1)
    # The mean of the three central pixels of the profile.
    assert trace.peak == pytest.approx(
        np.exp(-0.5 * (np.array([-1, 0, 1]) / 1.5) ** 2).mean(), rel=0.2
    )
    doubled = find_trace(2 * image if axis == 2 else 2 * image.T, axis)
    assert doubled.snr == pytest.approx(trace.snr)
    assert doubled.position == trace.position


def test_bad_pixels_single_columns_and_gaps_are_no_trace():
    image = make_sky(1)
    rng = np.random.default_rng(2)
    hot = rng.random(image.shape) < 0.03
    image[hot] += 1000
    image[:, 20] += 3  # one column reads high
    image[rng.random(image.shape) < 0.05] = np.nan
    image[:, 50:53] = np.nan
    assert not find_trace(image, 2).seen
    assert find_trace(add_star(image, peak=3.0), 2).seen


@pytest.mark.parametrize("shape", [(0, 0), (1, 72), (416, 4), (2, 2)])
def test_images_too_small_for_a_trace_hold_none(shape):
    assert find_trace(np.zeros(shape), 2).snr == 0
    assert find_trace(np.full(shape, np.nan), 1).snr == 0


def test_slices_of_an_integral_field_unit_are_no_traces():
    """Slices of 20 pixels with gaps; a star lies in three of them."""
    x = np.arange(500)
    slices = np.where(x % 24 < 20, 5 + np.sin(x // 24), 0.0)
    image = slices + np.random.default_rng(0).normal(0, 0.3, (500, 500))
    assert not find_trace(image, 2, across=11).seen
    star = sum(np.exp(-0.5 * ((x - c) / 1.5) ** 2) for c in (202, 226, 250))
    trace = find_trace(image + 1.0 * star, 2, across=11)
    assert trace.seen
    assert min(abs(trace.position - c) for c in (202, 226, 250)) < 2


def test_coverage_counts_stars_and_no_bad_pixels():
    image = make_sky(3, shape=(200, 200))
    image[np.random.default_rng(1).random(image.shape) < 0.01] += 1000
    assert measure_coverage(image) < 0.002
    y, x = np.indices(image.shape)
    star = 500 * np.exp(-0.5 * ((x - 100) ** 2 + (y - 90) ** 2) / 2.0**2)
    # Where the star is more than 5 sigma of a median over nine pixels.
    assert measure_coverage(image + star) == pytest.approx((star > 1.5).mean(), rel=0.5)
    assert measure_coverage(np.full((5, 5), np.nan)) == 0


def test_the_slit_is_the_field_of_the_slit_alone():
    good = np.ones((1024, 1032), bool)
    good[:, :4] = False
    slit = select_field("MIR_LRS-FIXEDSLIT", (0, 0), (1024, 1032), good)
    assert (slit.any(axis=1).sum(), slit.any(axis=0).sum()) == (390, 37)
    whole = select_field("MIR_IMAGE", (10, 0), (20, 30), good)
    assert whole.sum() == 20 * 26


def measure_simulated(mode, seed, n):
    """Significance of the trace of blank and of failed exposures; the latter hold a source."""
    start, end = 59761.0, 61221.0
    scene = build_scene(mode, seed=seed)
    # Stars of the field may cross a slitless subarray: here blank is blank.
    layers = tuple(one for one in scene.layers if not isinstance(one, FieldStars))
    scene = replace(scene, layers=layers)
    found = {False: [], True: []}
    for spec in draw_specs(mode=mode, n_exposures=n, start_mjd=start, end_mjd=end, seed=seed):
        exp_type = spec.setup.exp_type
        rate = render_rate(spec, scene).rate
        good = np.ones((1024, 1032), bool)
        good[:, :4] = good[:, -4:] = False
        corner = (spec.region.y_start, spec.region.x_start)
        field = select_field(exp_type, corner, rate.shape, good)
        found[spec.failed].append(find_trace(np.where(field, rate, np.nan), 2))
    return found


@pytest.mark.parametrize(("mode", "n"), [("slit", 6), ("slitless", 20)])
def test_simulated_sources_are_told_from_blank_sky(mode, n):
    found = measure_simulated(mode, seed=21, n=n)
    assert len(found[True]) >= 1
    assert not any(trace.seen for trace in found[False])
    assert all(trace.seen for trace in found[True])


@pytest.mark.skipif(not REAL_STAR.is_file(), reason="needs the public data beside the project")
def test_real_exposures():
    star, ground = rank(REAL_STAR), rank(REAL_RATES)
    assert star[0].kind == ""
    assert "a trace of" in star[0].reason
    # A ground test, without EXP_TYPE: the absent card does not exclude it.
    assert ground[0].kind == "blank"


# The ranking ----------------------------------------------------------------------------------


def test_headers_and_pixels_decide_together(tmp_path):
    sky, star = make_sky(), add_star(make_sky(), peak=20.0)
    cases = {
        # TARGPROP and the like -> kind, and the order of scores.
        1: ({"TARGPROP": "BLANK-SKY"}, sky, "blank"),
        2: ({"BKGDTARG": True}, sky, "blank"),
        3: ({"VISITSTA": "UNSUCCESSFUL"}, sky, "failed"),
        4: ({"TARGPROP": "HD2811"}, sky, "blank"),
        5: ({"VISITSTA": "UNSUCCESSFUL"}, star, "failed"),
        6: ({"TARGPROP": "HD2811"}, star, ""),
        7: ({}, star, ""),
        8: ({"DATAPROB": True}, sky, "failed"),
        9: ({"EXP_TYPE": "MIR_IMAGE"}, sky, ""),
    }
    paths = [write(tmp_path, image, number=n, **cards) for n, (cards, image, _) in cases.items()]
    ranked = rank(*paths)
    found = {int(c.observation.observation): c for c in ranked}
    assert {n: c.kind for n, c in found.items()} == {n: kind for n, (_, _, kind) in cases.items()}
    scores = [c.score for c in ranked]
    assert scores == sorted(scores, reverse=True)
    assert found[1].score == found[2].score == 1
    assert 1 > found[3].score > found[4].score > found[5].score >= ACCEPTED > found[6].score
    assert "no trace is seen" in found[4].reason
    assert "a trace of" in found[5].reason
    assert "VISITSTA = UNSUCCESSFUL" in found[5].reason
    assert "another mode" in found[9].reason
    assert rank(*reversed(paths)) == ranked


@pytest.mark.parametrize(
    "cards",
    [
        {"VISITSTA": None},
        {"EXP_TYPE": None},
        {"SUBSTRT1": None, "SUBSTRT2": None},
        {"TARGPROP": ""},
        {"DATE-OBS": None, "TIME-OBS": None, "EFFEXPTM": None},
        {"PROGRAM": None, "OBSERVTN": None, "VISIT": None},
        {"FILTER": None, "SUBARRAY": None},
    ],
)
def test_absent_keywords_exclude_nothing(tmp_path, cards):
    (found,) = rank(write(tmp_path, make_sky(), **cards))
    assert found.kind == "blank"
    assert found.score == 0.7


def test_doubts_and_a_missed_acquisition_speak_for_a_failure(tmp_path):
    star_field = 5 + np.random.default_rng(0).normal(0, 0.1, (64, 72))
    with_star = star_field.copy()
    with_star[30:33, 40:43] += 50
    tacq = {"EXP_TYPE": "MIR_TACQ", "SUBARRAY": "SUB64", "SUBSTRT2": 779, "SUBSIZE2": 64}
    for number, image in ((1, star_field), (2, with_star)):
        for stage, cards in (("rate", {}),):
            write(tmp_path, make_sky(), number=number, stage=stage, TARGPROP="HD2811", **cards)
        path = write(tmp_path, image, number=number, stage="cal", **tacq)
        path.rename(path.with_name(path.name.replace("02101", "02102")))
    found = {c.observation.observation: c for c in rank(tmp_path)}
    assert set(found) == {"001", "002"}  # an acquisition is no exposure
    assert (found["001"].kind, found["002"].kind) == ("failed", "blank")
    assert "acquisition of its visit shows no star" in found["001"].reason
    assert found["001"].score > found["002"].score
    coarse = write(tmp_path, make_sky(), number=3, TARGPROP="HD2811", PCS_MODE="COARSE")
    (doubtful,) = rank(coarse)
    assert doubtful.score == pytest.approx(0.8)
    assert "PCS_MODE = COARSE" in doubtful.reason


def test_darks_are_evidence_of_the_dark_alone(tmp_path):
    dark = write(tmp_path, EXP_TYPE="MIR_DARKIMG")
    (found,) = rank(dark)
    assert (found.kind, found.score) == ("dark", 0.8)
    assert "dark current alone" in found.reason
    assert rank(dark, mode="imaging")[0].kind == "dark"
    (other,) = rank(dark, mode="MRS")
    assert other.kind == ""
    assert "another detector" in other.reason


def test_without_pixels_only_what_the_header_says_counts(tmp_path):
    blank = write(tmp_path, number=1, stage="uncal", TARGPROP="BLANK-SKY")
    science = write(tmp_path, number=2, stage="uncal", TARGPROP="HD2811")
    found = {c.observation.observation: c for c in rank(blank, science)}
    assert (found["001"].kind, found["001"].score) == ("blank", 0.8)
    assert (found["002"].kind, found["002"].score) == ("", 0)
    assert "give the _rate, not _uncal" in found["002"].reason


def test_pixels_that_cannot_be_read_are_no_candidate(tmp_path):
    path = write(tmp_path, make_sky(), TARGPROP="BLANK-SKY")
    path.write_bytes(path.read_bytes()[:60000])
    (found,) = rank(path)
    assert (found.kind, found.score) == ("", 0)
    assert "truncated" in found.reason
    empty = write(tmp_path, np.full(SHAPE, np.nan), number=2)
    assert "no" in rank(empty)[0].reason
    assert rank(empty)[0].kind == ""
    beyond = write(tmp_path, make_sky(), number=3, SUBSTRT1=5000, SUBSTRT2=1)
    assert "within MIRIMAGE" in rank(beyond)[0].reason
    assert rank(beyond)[0].kind == ""


def test_integrations_count_by_their_median_and_stages_once(tmp_path):
    cube = np.stack([make_sky(k) for k in range(4)])
    cube[0] = add_star(cube[0], peak=50.0) + 100  # has not settled
    write(tmp_path, cube, stage="rateints")
    (found,) = rank(tmp_path)
    assert found.kind == "blank"
    write(tmp_path, add_star(make_sky(), peak=50.0), stage="rate")
    (best,) = rank(tmp_path)
    assert best.observation.stage == "rate"
    assert best.kind == ""


def test_stars_of_an_image_cost_their_share(tmp_path):
    cards = {"EXP_TYPE": "MIR_IMAGE", "FILTER": "F770W"}
    image = make_sky(noise=0.2)
    y, x = np.indices(SHAPE)
    stars = image + sum(
        500 * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 2.0**2)
        for a, b in ((20, 50), (40, 150), (50, 300))
    )
    paths = [write(tmp_path, one, number=k + 1, **cards) for k, one in enumerate((image, stars))]
    ranked = rank(*paths, mode="imaging")
    assert [c.observation.observation for c in ranked] == ["001", "002"]
    assert ranked[0].score > ranked[1].score >= ACCEPTED
    assert "sources cover" in ranked[1].reason


# Tables and associations ----------------------------------------------------------------------


def make_row(number, exp_type="MIR_LRS-FIXEDSLIT", **more):
    """A row as the archive answers it; None = no value."""
    row = {"targprop": None, "visitsta": None, "expstart": 60000.0 + number, "bkgdtarg": None}
    name = f"jw01234{number:03d}001_02101_00001_mirimage_rate.fits"
    return {"filename": name, "exp_type": exp_type, **row, **more}


ROWS = [
    make_row(1, targprop="BLANK-SKY", visitsta="SUCCESSFUL", bkgdtarg="f"),
    make_row(2, targprop="HD2811", visitsta="SKIPPED", bkgdtarg="f"),
    make_row(3, targprop="HD2811", bkgdtarg="t"),
    make_row(4, targprop="HD2811", visitsta="SUCCESSFUL", expstart=None),
    make_row(5, "MIR_DARKIMG"),
]


def write_table(folder, kind):
    path = folder / f"found.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"status": "COMPLETE", "data": ROWS}))
        return path
    names = list(ROWS[0])
    mask = [[row[name] is None for row in ROWS] for name in names]
    table = Table(
        [
            np.ma.array([row[n] or "" if n != "expstart" else row[n] or 0 for row in ROWS], mask=m)
            for n, m in zip(names, mask, strict=True)
        ],
        names=names,
        masked=True,
    )
    table.write(path, format=f"ascii.{kind}")
    return path


@pytest.mark.parametrize("kind", ["csv", "ecsv", "json"])
def test_a_table_of_headers_is_ranked_without_files(tmp_path, kind):
    ranked = rank(write_table(tmp_path, kind))
    found = {c.observation.path.name[9:10]: (c.kind, c.score) for c in ranked}
    assert found == {
        "1": ("blank", 0.8),
        "3": ("blank", 0.8),
        "5": ("dark", 0.8),
        "2": ("failed", 0.6),
        "4": ("", 0.0),
    }
    with pytest.raises(InputError, match="expected candidates with files"):
        associate_candidates(ranked, "lrs", "LRS")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.json", "{", "a.json"),
        ("b.json", '{"products": []}', "expected rows in .*b.json"),
        ("c.csv", "exp_type\nMIR_LRS-FIXEDSLIT\n", "column filename in .*c.csv"),
        ("d.csv", "filename,telescop\nx_rate.fits,HST\n", "files of JWST in .*d.csv"),
        (
            "e.csv",
            "filename,effexptm\nx_rate.fits,long\n",
            r"EFFEXPTM as number in row 1 of .*e\.csv, found 'long'",
        ),
        ("f.ecsv", "filename\nx_rate.fits\n", "f.ecsv"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=match):
        list_observations([tmp_path / name])


def test_the_association_is_one_the_step_takes(tmp_path, capsys):
    specs = draw_specs(mode="slitless", n_exposures=4, start_mjd=59761.0, end_mjd=61221.0, seed=5)
    scene = build_scene("slitless", seed=5)
    for spec in specs:
        write_rate(tmp_path, spec, scene)
    write(tmp_path, add_star(make_sky(), peak=50.0), number=1, TARGPROP="HD2811")
    out = tmp_path / "ranking.ecsv"
    words = ["find", "--mode", "LRS", str(tmp_path), "--output", str(out)]
    assert main([*words, "--association", "my lrs", "--output-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    association = tmp_path / "my-lrs_asn.json"
    assert lines[-2] == str(association)
    assert lines[-1].startswith("find: 4 candidates of 5 exposures (")
    stack = open_exposures(association)
    assert {r.filename for r in stack.records} == {s.filename("rate") for s in specs}
    table = Table.read(out, format="ascii.ecsv")
    assert len(table) == 5
    assert list(table["kind"]).count("") + np.ma.count_masked(table["kind"]) == 1


def test_candidates_that_enter_no_association_are_told(tmp_path, capsys):
    write(tmp_path, make_sky(), number=1)
    write(tmp_path, make_sky(), number=2, stage="uncal", TARGPROP="BLANK-SKY")
    words = ["find", "--mode", "LRS", str(tmp_path), "--association", "x"]
    assert main([*words, "--output-dir", str(tmp_path)]) == 0
    *_, told, last = capsys.readouterr().out.splitlines()
    assert told.startswith("1 candidates are in no association")
    assert last.startswith("find: 2 candidates of 2 exposures")


# The query ------------------------------------------------------------------------------------


def test_the_query_asks_for_all_public_exposures_of_the_mode():
    query = build_find_query("LRS", after="2022-07-01", before="2025-01-01", public_at="2025-06-01")
    assert query.service == "Mast.Jwst.Filtered.Miri"
    filters = {f["paramName"]: f["values"] for f in query.params["filters"]}
    assert filters["exp_type"][:3] == ["MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS", "MIR_DARKIMG"]
    assert filters["productLevel"] == ["2a"]
    assert filters["expstart"] == [{"min": 59761.0, "max": 60676.0}]
    assert filters["publicReleaseDate_mjd"][0]["max"] == 60827.0
    for wanted in ("visitsta", "bkgdtarg", "pcs_mode", "engqlptg", "dataprob", "targprop"):
        assert wanted in query.params["columns"].split(",")
    nirspec = build_find_query("NIRSpec", after=None, before=None, public_at="2025-06-01")
    assert nirspec.service.endswith("Nirspec")
    mrs = dict(build_find_query("MRS", after=None, before=None, public_at="2025-06-01").filters)
    assert mrs["exp_type"] == ("MIR_MRS", "MIR_DARKMRS", "MIR_DARKALL")
    with pytest.raises(InputError, match="expected a mode"):
        build_find_query("LRSS", after=None, before=None, public_at="2025-06-01")
    with pytest.raises(DateError, match="2022-13-01"):
        build_find_query("LRS", after="2022-13-01", before=None, public_at="2025-06-01")


FAKE = """
from astropy.table import Table
class Mast:
    @staticmethod
    def service_request(service, params):
        assert service == "Mast.Jwst.Filtered.Miri", service
        names = params["columns"].split(",")
        rows = {name: [""] * 3 for name in names}
        rows["filename"] = [f"jw01234{k:03d}001_02101_00001_mirimage_{s}.fits" for k, s in
                            enumerate(("rate", "rateints", "uncal"), start=1)]
        rows["exp_type"] = ["MIR_LRS-FIXEDSLIT"] * 3
        rows["targprop"] = ["BLANK-SKY"] * 3
        return Table(rows)
"""


def test_the_script_asks_and_its_answer_can_be_ranked(tmp_path, capsys):
    assert (
        main(["find", "--mode", "LRS", "--output-dir", str(tmp_path), "--after", "2023-01-01"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [str(tmp_path / "find_lrs.json"), str(tmp_path / "find_lrs.py")]
    assert lines[-1].startswith("find: query to Mast.Jwst.Filtered.Miri written for MIR_LRS")
    request = json.loads((tmp_path / "find_lrs.json").read_text())
    assert request["service"] == "Mast.Jwst.Filtered.Miri"
    package = tmp_path / "astroquery"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mast.py").write_text(FAKE)
    done = subprocess.run(
        [sys.executable, "find_lrs.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.strip() == "2 files of 3: find_lrs.csv"
    assert main(["find", "--mode", "LRS", str(tmp_path / "find_lrs.csv")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "find: 2 candidates of 2 exposures (2 blank sky, 0 failed, 0 dark)"


def test_dates_choose_among_files_too(tmp_path, capsys):
    for number in (1, 2, 3):
        write(tmp_path, make_sky(), number=number)
    words = ["find", "--mode", "lrs", str(tmp_path)]
    assert main([*words, "--after", "2024-01-02", "--before", "2024-01-03"]) == 0
    out = capsys.readouterr().out
    assert "find: 1 candidates of 1 exposures (1 blank sky" in out
    assert "2024-01-02" in out
    assert main([*words, "--after", "2025-01-01"]) == 1
    assert capsys.readouterr().out.startswith("find: 0 candidates of 0 exposures")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--mode", "LRS", "absent"], "absent"),
        (["--mode", "nothing"], "expected a mode"),
        (["--mode", "LRS", "--association", "x"], "expected FILES"),
        (["--mode", "LRS", "--after", "soon"], "soon"),
        (["--mode", "LRS", "--after", "2025-01-01", "--before", "2024-01-01"], "--after before"),
        (["--mode", "LRS", "a_rate.fits", "--association", "../"], "--association, found '../'"),
        (["--mode", "LRS", "a_rate.fits", "--association", ""], "--association, found ''"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, monkeypatch, words, text):
    monkeypatch.chdir(tmp_path)
    assert main(["find", *words]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("tvbadpix find: error: expected")
    assert text in printed.err
    assert not list(tmp_path.iterdir())
