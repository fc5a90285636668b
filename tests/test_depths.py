import numpy as np
import pytest

from jwst_tvbadpix.badpix import DEPTHS, group_depths
from jwst_tvbadpix.errors import InputError


def describe(classes):
    return [(c.depth, c.readpatt, *c.ngroups) for c in classes]


@pytest.mark.parametrize(
    ("readpatt", "ngroups", "expected"),
    [
        (["FASTR1"] * 3, [20, 49, 30], [("SHALLOW", "FASTR1", 1, 100000)]),
        (["FASTR1"] * 2, [50, 400], [("MEDIUM", "FASTR1", 1, 100000)]),
        (
            ["SLOWR1", "FASTR1", "FASTR1"],
            [5, 49, 50],
            [
                ("SHALLOW", "FASTR1", 1, 50),
                ("MEDIUM", "FASTR1", 50, 100000),
                ("DEEP", "SLOWR1", 1, 100000),
            ],
        ),
        (["NRSRAPID"] * 2, [10, 10], [("MEDIUM", "NRSRAPID", 1, 100000)]),
        (
            ["NRSIRS2"] * 3,
            [5, 20, 60],
            [
                ("SHALLOW", "NRSIRS2", 1, 20),
                ("MEDIUM", "NRSIRS2", 20, 60),
                ("DEEP", "NRSIRS2", 60, 100000),
            ],
        ),
        (
            ["RAPID"] * 2,
            [5, 60],
            [("SHALLOW", "RAPID", 1, 60), ("DEEP", "RAPID", 60, 100000)],
        ),
    ],
)
def test_classes(readpatt, ngroups, expected):
    assert describe(group_depths(readpatt, ngroups)) == expected
    assert describe(group_depths(readpatt[::-1], ngroups[::-1])) == expected


@pytest.mark.parametrize("seed", range(5))
def test_each_exposure_and_every_ngroups_has_one_class(seed):
    rng = np.random.default_rng(seed)
    readpatt = rng.choice(["FASTR1", "SLOWR1", "FAST", "NRS"], 30).tolist()
    ngroups = rng.integers(2, 200, 30).tolist()
    classes = group_depths(readpatt, ngroups)
    for pattern in set(readpatt):
        own = [c for c in classes if c.readpatt == pattern]
        for number in (1, 2, 49, 50, 51, 5000, *ngroups):
            assert sum(c.ngroups[0] <= number < c.ngroups[1] for c in own) == 1
        order = [DEPTHS.index(c.depth) for c in own]
        assert order == sorted(set(order))
    for c in classes:
        if c.readpatt != "FASTR1":
            assert any(
                p == c.readpatt and c.ngroups[0] <= n < c.ngroups[1]
                for p, n in zip(readpatt, ngroups, strict=True)
            )


@pytest.mark.parametrize(("readpatt", "ngroups"), [("", 5), ("N/A", 5), ("FASTR1", 0)])
def test_unknown_depth_is_an_error(readpatt, ngroups):
    with pytest.raises(InputError, match="expected READPATT and NGROUPS"):
        group_depths(["FASTR1", readpatt], [20, ngroups])
