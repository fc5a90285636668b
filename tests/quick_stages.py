"""Stages of a second, for the tests of reprocessing: what they run is not what is tested."""

import time

import numpy as np
from jwst.dq_init.dq_init_step import DQInitStep
from jwst.pipeline import Detector1Pipeline, Spec2Pipeline
from stdatamodels.jwst import datamodels


class QuickDetector1(Detector1Pipeline):
    """Slopes between the first and the last group, flags by dq_init."""

    class_alias = "quick_detector1"

    spec = """
        scale = float(default=1.0)  # Factor of the rates
        pause = float(default=0.0)  # Time to wait [s]
        fail_on = string(default='')  # Observation number that fails
        leave_on = string(default='')  # Observation number at which to leave by SystemExit
        keep_ints = boolean(default=True)  # Whether to save integrations
    """

    step_defs = {"dq_init": DQInitStep}  # noqa: RUF012

    def process(self, input_data):
        ramp = self.dq_init.run(self.prepare_output(input_data, open_as_ramp=True))
        if ramp.meta.observation.observation_number == self.fail_on:
            raise ValueError("a stage that fails")
        if ramp.meta.observation.observation_number == self.leave_on:
            raise SystemExit(-1)
        time.sleep(self.pause)
        data = ramp.data[:, -1] - ramp.data[:, 0]
        ints = datamodels.CubeModel(data=np.float32(self.scale * data))
        rate = datamodels.ImageModel(data=np.float32(self.scale * data.mean(axis=0)))
        for model in (rate, ints):
            model.update(ramp)
            model.err = np.ones_like(model.data)
        rate.dq = ramp.pixeldq
        ints.dq = np.broadcast_to(ramp.pixeldq, ints.data.shape).copy()
        if self.keep_ints:
            self.save_model(ints, "rateints")
        self.suffix = "rate"
        return rate


class QuickSpec2(Spec2Pipeline):
    """Science less the mean of the backgrounds."""

    class_alias = "quick_spec2"

    step_defs = {}  # noqa: RUF012

    def process(self, data):
        (product,) = self.load_as_level2_asn(data)["products"]
        by_type = {"science": [], "background": []}
        for member in product["members"]:
            with datamodels.open(member["expname"]) as model:
                by_type[member["exptype"]].append(model.copy())
        (science,) = by_type["science"]
        levels = [float(np.nanmean(model.data)) for model in by_type["background"]]
        science.data = science.data - np.float32(np.mean(levels) if levels else 0.0)
        suffix = "calints" if science.data.ndim == 3 else "cal"
        science.meta.filename = self.make_output_path(basepath=product["name"], suffix=suffix)
        self.output_use_model, self.suffix = True, False
        return [science]
