"""Settings that all tests share: examples of hypothesis, the end of what hangs, a common start."""

import faulthandler
import gc
import os
import sys
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fixed")


_imported = [0]


def freeze_modules(phase, info):
    """Keep what is imported out of later collections: crds and stpipe ask for many, 0.3 s each."""
    if phase == "stop" and info["generation"] == 2 and len(sys.modules) > _imported[0] + 20:
        gc.freeze()
        _imported[0] = len(sys.modules)


gc.callbacks.append(freeze_modules)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Do so before the first test, and where one has imported much; let the slow ones go on."""
    if len(sys.modules) > _imported[0] + 20:
        gc.collect()
    if item.get_closest_marker("slow"):
        faulthandler.cancel_dump_traceback_later()


def pytest_collection_modifyitems(items):
    """Give the slow tests an hour."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="module", autouse=True)
def _environment():
    """What a file leaves in the environment (Dask, for its workers) is none to the next one."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The process that runs commands in forks of itself, for the tests of faults."""
    from writers import Server

    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()
