"""Factors of every mode for the tests of photom references."""

import numpy as np
from stdatamodels.jwst.datamodels import MirMrsPhotomModel

from jwst_tvbadpix.fluxcal import Factor, Mode, Throughput
from jwst_tvbadpix.refmodels import PhotomHeader

HEADER = PhotomHeader(
    useafter="2021-12-25T00:00:00",
    pedigree="INFLIGHT 2022-06-01 2025-06-01",
    description="Calibration factors of a test",
    history=("Made by a test.",),
    pixel_area_sr={"MIRIMAGE": 2.86e-13, "NRCA1": 2.2e-14, "NRCBLONG": 9.3e-14, "NIS": 1e-13},
)
STILL = Throughput(59720)
LINE = Throughput(59720.4, loss_per_year=0.003)
DECAY = Throughput(59720.3, loss_per_year=0.003, amplitude=0.21, tau_days=120.0)
POWER = Throughput(59721.7, alpha=-0.11, tsoft_days=5.5, year1value=0.93)
ALL = Throughput(
    59720.3,
    loss_per_year=0.002,
    amplitude=0.1,
    tau_days=220.0,
    alpha=-0.05,
    tsoft_days=9.0,
    year1value=0.97,
)


def make_factor(mode, value, throughput=STILL, subarray="FULL", **vectors):
    return Factor(mode, subarray, value, 0.01 * value, throughput, **vectors)


def vectors(start, stop, n=40, reverse=False):
    wave = np.linspace(start, stop, n)[:: -1 if reverse else 1]
    response = np.exp(-(((wave - wave.mean()) / (stop - start)) ** 2)) + 0.2
    return {"wave": wave, "relresponse": response, "reluncertainty": 0.01 * response}


def _miri(kind, name, *rest, **more):
    return make_factor(Mode("MIRI", "MIRIMAGE", kind, name), *rest, **more)


def _nircam(detector, *optics):
    return Mode("NIRCAM", detector, "imaging", *optics)


def _nirspec(kind, detector, *optics, slit="N/A"):
    return Mode("NIRSPEC", detector, kind, optics[0], grating=optics[1], slit=slit)


# What programmes 1539, 4497 and 7487 observe, MRS apart, and FGS: name -> factors of its file.
MODES = {
    "MIRIMAGE_imaging": [
        _miri("imaging", "F770W", 0.26, DECAY),
        _miri("imaging", "F770W", 0.27, DECAY, "SUB256"),
        _miri("imaging", "F2550W", 0.8, ALL),
        _miri("imaging", "FND", 900.0, LINE),
        _miri("coronagraphy", "F1065C", 1.1, POWER),
        _miri("coronagraphy", "F1065C", 1.2, POWER, "MASK1065"),
        _miri("coronagraphy", "F1140C", 1.1),
        _miri("coronagraphy", "F1140C", 1.2, STILL, "MASK1140"),
        # FULL with the template of external flats, and behind the mask.
        _miri("imaging", "F1550C", 1.3, DECAY),
        _miri("coronagraphy", "F1550C", 1.3, DECAY),
        _miri("coronagraphy", "F1550C", 1.4, DECAY, "MASK1550"),
        _miri("imaging", "F2300C", 0.9, ALL),
        _miri("coronagraphy", "F2300C", 1.0, ALL, "MASKLYOT"),
    ],
    "MIRIMAGE_lrs": [
        _miri("lrs", "P750L", 31.0, DECAY, **vectors(5, 12)),
        _miri("lrs", "P750L", 30.0, ALL, "SLITLESSPRISM", **vectors(4.5, 13.5, 60, reverse=True)),
    ],
    "NRCA1_imaging": [
        make_factor(_nircam("NRCA1", "F212N", "CLEAR"), 2.0, LINE),
        make_factor(_nircam("NRCA1", "F212N", "CLEAR"), 2.02, LINE, "SUB160"),
        make_factor(
            Mode("NIRCAM", "NRCA1", "coronagraphy", "F212N", "MASKRND"), 2.1, LINE, "SUB640A210R"
        ),
        make_factor(Mode("NIRCAM", "NRCA1", "coronagraphy", "F212N", "MASKRND"), 2.2, LINE),
        make_factor(
            Mode("NIRCAM", "NRCA1", "coronagraphy", "F212N", "MASKRND"), 900.0, LINE, "SUBNDA210R"
        ),
    ],
    "NRCBLONG_imaging": [make_factor(_nircam("NRCBLONG", "F444W", "CLEAR"), 0.4, ALL)],
    "NIS_imaging": [
        make_factor(Mode("NIRISS", "NIS", "imaging", "CLEAR", "F150W"), 0.3, LINE),
        make_factor(Mode("NIRISS", "NIS", "imaging", "F430M", "CLEARP"), 0.5, ALL),
        make_factor(Mode("NIRISS", "NIS", "imaging", "CLEAR", "F200W"), 0.2),
    ],
    "NIS_soss": [
        make_factor(
            Mode("NIRISS", "NIS", "soss", "CLEAR", "GR700XD", order=order),
            2e-12 * order,
            throughput,
            "SUBSTRIP256",
            **vectors(0.9 / order, 2.8 / order),
        )
        for order, throughput in ((1, LINE), (2, ALL))
    ],
    "NRS_fixedslit": [
        make_factor(
            _nirspec("fixed_slit", "NRS1", "CLEAR", "PRISM", slit="S1600A1"),
            2e-12,
            ALL,
            **vectors(0.6, 5.3),
        ),
        *(
            make_factor(
                _nirspec("fixed_slit", detector, "F170LP", "G235H", slit="S200A1"),
                value,
                LINE,
                **vectors(*span),
            )
            for detector, value, span in (("NRS1", 3e-12, (1.7, 2.4)), ("NRS2", 4e-12, (2.5, 3.2)))
        ),
    ],
    "NRS1_ifu": [
        make_factor(_nirspec("ifu", "NRS1", "CLEAR", "PRISM"), 2e-12, **vectors(0.6, 5.3))
    ],
    "GUIDER1_imaging": [make_factor(Mode("FGS", "GUIDER1", "imaging"), 0.2, ALL)],
    "MIRIMAGE_wfss": [_miri("wfss", "P750L", 31.0, DECAY, **vectors(5, 12))],
    "NIS_wfss": [
        make_factor(
            Mode("NIRISS", "NIS", "wfss", "GR150C", "F200W", order=1),
            2.0,
            LINE,
            **vectors(1.7, 2.2),
        )
    ],
    "NRCBLONG_wfss": [
        make_factor(
            Mode("NIRCAM", "NRCBLONG", "wfss", "F444W", "GRISMR", order=1),
            2.0,
            LINE,
            **vectors(3.8, 5.0),
        )
    ],
}

# Both channels of MIRI MRS in one band [um], NaN in the reference columns.
MRS_SPANS = {
    "MIRIFUSHORT": ((4.9, 5.74), (7.51, 8.77)),
    "MIRIFULONG": ((17.7, 20.95), (11.55, 13.47)),
}


def make_mrs_wavelengths(detector="MIRIFUSHORT", ny=6):
    wave = np.full((ny, 1032), np.nan)
    left, right = MRS_SPANS[detector]
    wave[:, 4:512] = np.linspace(*left, ny)[:, None]
    wave[:, 512:1028] = np.linspace(*right[::-1], ny)[:, None]
    wave[2, 500:520] = np.nan
    return wave


def make_mrs_template(detector="MIRIFUSHORT", band="SHORT", ny=6):
    rng = np.random.default_rng(5)
    shape = (ny, 1032)
    model = MirMrsPhotomModel(
        data=rng.uniform(5, 9, shape).astype(np.float32), err=np.full(shape, 0.1, np.float32)
    )
    model.dq = np.zeros(shape, np.uint32)
    model.pixsiz = np.full(shape, 0.04, np.float32)
    model.meta.instrument.name, model.meta.instrument.detector = "MIRI", detector
    model.meta.instrument.band, model.meta.instrument.channel = band, "12"
    model.meta.photometry.pixelarea_steradians = 1e-12
    model.meta.photometry.pixelarea_arcsecsq = 0.04
    model.meta.photometry.conversion_megajanskys = 7.0
    model.meta.filename = "jwst_miri_photom_0000.fits"
    return model


def make_mrs_factors(detector="MIRIFUSHORT", throughputs=(POWER, STILL, POWER, POWER)):
    """Ratios to the template at two wavelengths of each channel."""
    mode = Mode("MIRI", detector, "mrs", band="SHORT")
    waves = [w for a, b in MRS_SPANS[detector] for w in (a + 0.2 * (b - a), b - 0.2 * (b - a))]
    return [
        Factor(mode, "FULL", ratio, 0.01, f, np.array([wave]), np.ones(1), np.zeros(1))
        for wave, ratio, f in zip(waves, (1.02, 0.98, 1.3, 1.1), throughputs, strict=True)
    ]
