"""Settings that all tests share: hypothesis draws the same examples each time."""

import gc
import sys

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


_seen = [0]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Keep what is imported out of the garbage collections of crds and stpipe, 0.3 s each."""
    if len(sys.modules) > _seen[0] + 20:
        gc.collect()
        gc.freeze()
        _seen[0] = len(sys.modules)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The process that runs commands in forks of itself, for the tests of faults."""
    from writers import Server

    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()
