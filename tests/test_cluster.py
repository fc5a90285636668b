"""The search on Dask: the bytes of threads, whatever becomes of the workers, and named errors."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from arrays import ArrayStack
from tasks import is_alive, started, wait_until
from test_store import AXES, MJD, RECORDS, assert_equal, make_rate

from jwst_tvbadpix import cluster as module
from jwst_tvbadpix.badpix import Settings, find_histories, update_histories
from jwst_tvbadpix.cluster import open_engine
from jwst_tvbadpix.errors import ClusterError, StoreError
from jwst_tvbadpix.store import EvidenceStore

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")


@contextmanager
def start_cluster(n_workers, **kwargs):
    with (
        dask.config.set({"distributed.scheduler.http.routes": []}),
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
            memory_limit=0,
            **kwargs,
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with start_cluster(2, local_directory=str(tmp_path_factory.mktemp("dask"))) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        yield cluster


@pytest.fixture(scope="module")
def rate():
    return make_rate()


@pytest.fixture(scope="module")
def wanted(rate, tmp_path_factory):
    return search(ArrayStack(rate), tmp_path_factory.mktemp("threads"), "threads")


def search(stack, folder, scheduler, axes=AXES["mixed"]):
    store = EvidenceStore(folder)
    with open_engine(scheduler, folder) as engine:
        return find_histories(
            stack,
            MJD,
            axes,
            open_shelf=lambda key: store.open_shelf(key, RECORDS),
            engine=engine,
            max_bytes=400_000,
        )


def read_files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["processes", "tcp"])
def test_other_schedulers_give_the_bytes_of_threads(rate, wanted, cluster, tmp_path, kind):
    """Histories, calibration block and store."""
    scheduler = cluster.scheduler_address if kind == "tcp" else kind
    search(ArrayStack(rate), tmp_path / "threads", "threads")
    found = search(ArrayStack(rate), tmp_path / "other", scheduler)
    assert found.bad.any()
    assert_equal(found, wanted)
    assert_equal(found.block, wanted.block)
    assert read_files(tmp_path / "other") == read_files(tmp_path / "threads") != {}


def test_an_update_on_a_cluster_gives_the_bytes_of_threads(rate, cluster, tmp_path):
    n, axes = 9, AXES["spectra"]
    results = []
    for name in ("threads", cluster.scheduler_address):
        store = EvidenceStore(tmp_path / name[:3])
        first = find_histories(
            ArrayStack(rate[:n]),
            MJD[:n],
            axes[:n],
            open_shelf=lambda key, own=store: own.open_shelf(key, RECORDS[:n]),
        )
        shelf = store.open_shelf(first.block.key, RECORDS)
        with open_engine(name, store.folder) as engine:
            results.append(
                update_histories(
                    ArrayStack(rate),
                    MJD,
                    axes,
                    first.block,
                    shelf,
                    settings=Settings(),
                    engine=engine,
                )
            )
    assert_equal(*results)
    assert results[0].bad[-1].any()


def test_step_and_update_give_the_products_of_threads(cluster, tmp_path, monkeypatch):
    """Paths may be relative."""
    # Workers import this file, and are to start quickly.
    from jwst_tvbadpix.cli import main
    from jwst_tvbadpix.simulate import simulate_programme
    from jwst_tvbadpix.steps import TimeVariableBadPixel

    for key in [key for key in os.environ if key.startswith(("CRDS_", "STPIPE_"))]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    monkeypatch.chdir(tmp_path)
    made = simulate_programme(Path("rates"), mode="slitless", n_exposures=7, seed=3)
    rates = [str(path) for path in made.rates]
    for folder, scheduler in (("a", "threads"), ("b", cluster.scheduler_address)):
        TimeVariableBadPixel.call(
            rates[:5],
            output_file="x",
            output_dir=f"{folder}/first",
            store=f"{folder}/store",
            save_results=True,
            report=False,
            configure_log=False,
            scheduler=scheduler,
        )
        command = ["update", f"{folder}/first/x_MIRIMAGE_badpixhistory.asdf", *rates[5:]]
        command += ["--store", f"{folder}/store", "--output-dir", f"{folder}/second"]
        assert main([*command, "--scheduler", scheduler]) == 0
    wanted = read_files(Path("a"))
    assert len([name for name in wanted if name.startswith("second/")]) > 5
    assert read_files(Path("b")) == wanted


@dataclass(frozen=True)
class DeadlyStack(ArrayStack):
    """Kills the process that reads one look: the first one that does, or each."""

    folder: Path = Path()
    deadly: int = 7
    always: bool = False

    def read_look(self, look):
        (self.folder / f"{look}-{os.getpid()}-{time.monotonic_ns()}").touch()
        mark = self.folder / "killed"
        if look == self.deadly and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read_look(look)

    def count_reads(self):
        looks = [int(path.name.partition("-")[0]) for path in self.folder.glob("*-*-*")]
        return np.bincount(looks, minlength=len(self.rate)).tolist()


def test_a_worker_that_is_killed_loses_nothing(rate, wanted, cluster, tmp_path):
    (tmp_path / "reads").mkdir()
    stack = DeadlyStack(rate, folder=tmp_path / "reads")
    found = search(stack, tmp_path / "store", cluster.scheduler_address)
    assert_equal(found, wanted)
    assert stack.count_reads() == [2 if k == stack.deadly else 1 for k in range(len(rate))]


def test_workers_that_die_again_and_again_end_the_run_which_then_goes_on(
    rate, wanted, cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 1)
    (tmp_path / "reads").mkdir()
    stack = DeadlyStack(rate, folder=tmp_path / "reads", always=True)
    with pytest.raises(ClusterError, match=r"2 workers died .* run again: what is in the store"):
        search(stack, tmp_path / "store", cluster.scheduler_address)
    assert stack.count_reads()[stack.deadly] == 2
    kept = sum(n > 0 for n in stack.count_reads()) - 1
    assert kept >= stack.deadly
    again = replace(stack, folder=tmp_path / "again", deadly=-1)
    again.folder.mkdir()
    # What was under way on the other worker when the run ended comes to its end.
    (key,) = [path.name for path in (tmp_path / "store").iterdir() if path.is_dir()]
    store = EvidenceStore(tmp_path / "store")
    wait_until(lambda: len(store.list_records(key)) == kept)
    cluster.wait_for_workers(2, timeout=60)
    assert_equal(search(again, tmp_path / "store", cluster.scheduler_address), wanted)
    assert sum(again.count_reads()) == len(rate) - kept


def test_errors_of_a_task_keep_their_name(cluster, tmp_path):
    def fail(item):
        raise StoreError(f"expected {item}") if item == "ours" else PermissionError(13, "no", "x")

    with open_engine(cluster.scheduler_address, tmp_path) as engine:
        with pytest.raises(StoreError, match="expected ours"):
            list(engine.map(fail, ["ours"]))
        with pytest.raises(ClusterError, match=r"process \d+\) to read the exposures .* 'x'"):
            list(engine.map(fail, ["disk"]))
        assert list(engine.map(abs, range(-20, 0))) == list(range(20, 0, -1))
    assert list(tmp_path.iterdir()) == []


def refuse(scheduler, folder, match):
    with pytest.raises(ClusterError, match=match), open_engine(scheduler, folder):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    "scheduler", ["", "thread", "tcp://", "tcp://host", "tcp://:8786", "http://host:1"]
)
def test_unknown_schedulers_are_refused(scheduler, tmp_path):
    refuse(scheduler, tmp_path, "expected threads, processes or tcp://HOST:PORT")


def test_a_store_is_needed():
    refuse("tcp://127.0.0.1:1", None, "expected a store .* give --store")


def test_an_unreachable_scheduler_is_said_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        start = time.monotonic()
        refuse(address, tmp_path, f"expected a Dask scheduler at {address}, found no answer")
        assert time.monotonic() - start < 5


def test_what_answers_otherwise_is_no_scheduler(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        refuse(address, tmp_path, "expected a Dask scheduler at")


def test_a_scheduler_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_S", 1)
    with start_cluster(0, processes=False, protocol="tcp") as empty:
        refuse(empty.scheduler_address, tmp_path, "expected workers .* found none")


def test_workers_that_do_not_see_the_folder(cluster, tmp_path, monkeypatch):
    """A path that leads each process to its own folder, as on a disk that is not shared."""
    monkeypatch.chdir(tmp_path)
    refuse(cluster.scheduler_address, Path("/proc/self/cwd"), "to see the folder of the store")
    assert list(tmp_path.iterdir()) == []


def test_workers_with_other_versions(cluster, tmp_path, monkeypatch):
    other = {**module._list_versions(), "jwst-tvbadpix": "9.9", "numpy": "1.0"}
    monkeypatch.setattr(module, "_list_versions", lambda: other)
    refuse(cluster.scheduler_address, tmp_path, r"jwst-tvbadpix 9\.9, numpy 1\.0 on tcp://")


def test_workers_without_this_package(cluster, tmp_path):
    def hide(hidden):
        if hidden:
            sys.modules["jwst_tvbadpix.cluster"] = None
        else:
            del sys.modules["jwst_tvbadpix.cluster"]

    with distributed.Client(cluster, set_as_default=False) as client:
        client.run(hide, True)
        refuse(cluster.scheduler_address, tmp_path, "jwst-tvbadpix .* found .*Error")
        client.run(hide, False)


def test_a_worker_that_joins_later_is_checked_too(tmp_path):
    expected = module._describe(str(tmp_path / "absent"))
    expected["folder"] = "there"
    with pytest.raises(ClusterError, match="to see the folder of the store"):
        module._call(abs, -1, str(tmp_path / "absent"), expected)


def test_dask_is_needed_only_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    refuse("processes", tmp_path, r"expected the package distributed .* 'jwst-tvbadpix\[dask\]'")
    code = "import jwst_tvbadpix.steps, sys; print('distributed' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "False"


def test_a_scheduler_that_goes_away(tmp_path):
    with (
        start_cluster(1, processes=False, protocol="tcp") as lost,
        open_engine(lost.scheduler_address, tmp_path) as engine,
    ):
        found = engine.map(abs, iter(lambda: -1, 0))
        assert next(found) == 1
        lost.close()
        with pytest.raises(ClusterError, match=r"to stay, found it gone .* run again"):
            list(found)


def test_workers_that_all_go_away(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.2)
    monkeypatch.setattr(module, "_PATIENCE_S", 1)
    with (
        start_cluster(1, processes=False, protocol="tcp") as empty,
        open_engine(empty.scheduler_address, tmp_path) as engine,
    ):
        empty.scale(0)
        wait_until(lambda: not empty.scheduler.workers)
        with pytest.raises(ClusterError, match=r"found none for \d s; start some and run again"):
            list(engine.map(abs, [1]))


RUN = """
import logging, os, signal, sys, time
from pathlib import Path
import distributed, numpy
from threadpoolctl import threadpool_info
from jwst_tvbadpix.cluster import open_engine

def work(item):
    Path(sys.argv[1], f"pid-{os.getpid()}").touch()
    time.sleep(item)
    return max(pool["num_threads"] for pool in threadpool_info())

if __name__ == "__main__":
    # Ignored, and so inherited, where a shell has started the suite in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before, level = dict(os.environ), logging.getLogger("distributed").level
    with open_engine("processes", Path(sys.argv[1])) as engine:
        print(*set(engine.map(work, [0.1] * 4 + [float(sys.argv[2])] * 4)))
    assert os.environ == before
    assert logging.getLogger("distributed").level == level
"""


def test_processes_end_with_the_run_however_it_ends(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    ends = {"whole": ("0", None), "ctrl-c": ("60", signal.SIGINT), "kill": ("60", signal.SIGKILL)}
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "2")
    with ExitStack() as stack:
        runs, pids = {}, []
        for name, (seconds, _) in ends.items():
            (tmp_path / name).mkdir()
            argv = [sys.executable, tmp_path / "run.py", tmp_path / name, seconds]
            own = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
            runs[name] = stack.enter_context(started(argv, start_new_session=True, **own))
        for name, (_, end) in ends.items():
            wait_until(lambda own=tmp_path / name: list(own.glob("pid-*")))
            if end == signal.SIGINT:
                os.killpg(runs[name].pid, end)  # as a terminal does
            elif end:
                runs[name].send_signal(end)
            said, complaint = runs[name].communicate(timeout=60)
            assert (said, runs[name].returncode) == ("" if end else "1\n", -(end or 0)), complaint
            pids += [int(path.name[4:]) for path in (tmp_path / name).glob("pid-*")]
    wait_until(lambda: not any(map(is_alive, pids)), 10)
    assert len(pids) >= 3
    assert list((tmp_path / "whole").glob(".run-*")) == []
    assert list((tmp_path / "ctrl-c").glob(".run-*")) == []


SBATCH = """#!/bin/bash
cp "$1" {folder}/job.sh  # as it is removed when this ends
setsid bash {folder}/job.sh > /dev/null 2>&1 < /dev/null &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
for job in "$@"; do kill -- -$job; done 2> /dev/null
"""


@pytest.mark.slow
def test_the_script_for_slurm(tmp_path, monkeypatch):
    """That of the documentation, with stand-ins for the commands of SLURM."""
    pytest.importorskip("dask_jobqueue")
    from jwst_tvbadpix.simulate import simulate_programme

    page = (Path(__file__).parents[1] / "docs" / "scaling.rst").read_text(encoding="utf-8")
    block = page.partition(".. code-block:: python\n\n")[2].partition("\n\nA job that")[0]
    script = textwrap.dedent(block)
    assert 'JOBS, CORES, MEMORY = 4, 8, "32GB"' in script
    script = script.replace('4, 8, "32GB"', '1, 2, "4GB"')
    (tmp_path / "search.py").write_text(script)
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        path = tmp_path / name
        path.write_text(text.format(folder=tmp_path))
        path.chmod(0o755)
    made = simulate_programme(tmp_path / "rates", mode="slitless", n_exposures=4, seed=3)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CRDS_", "STPIPE_"))}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "search.py", made.association, tmp_path / "store", tmp_path / "masks"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "masks").glob("*_mask_*.fits"))
    assert ": 2 workers, 2 tasks at a time" in done.stderr + done.stdout
    jobs = [int(pid) for pid in (tmp_path / "jobs").read_text().split()]
    wait_until(lambda: not any(map(is_alive, jobs)))
