"""Runs of two workers on a Ray of their own, with a small random policy. `make ray-test` installs Ray and runs them."""

import pytest

from tests.ray_cluster import ray_cluster
from tests.short_runs import output_of, recorded, short_run, torchrun
from tests.soak.workers import KILLED_RUN, killed_worker
from trainer.run_folder import read_run

pytest.importorskip("ray", reason="pip install 'remote-rewards[trainer,ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster() as cluster:
        yield cluster


def test_killed_worker(cluster, policy, rules_url, tmp_path):
    """If a worker is killed, the run continues from its last checkpoint with the rewards it would have had."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    output_of(torchrun(short_run(policy, rules_url, whole, **KILLED_RUN)))
    killed_worker(cluster, policy, rules_url, folder)
    assert [step["step"] for step in read_run(folder).metrics] == [1, 2, 3]
    assert recorded(folder) == recorded(whole)
    assert len({reward for *_, reward in recorded(folder)}) >= 3  # so that equality means something


def test_wrong_settings(cluster, policy, rules_url, tmp_path):
    """What is wrong with a run stops all workers for good, with one sentence."""
    log = tmp_path / "log"
    process = cluster.train(1, log, *short_run(policy, rules_url, tmp_path / "run", rewards="unknown"))
    assert process.wait(timeout=400) == 1
    assert log.read_text().count("serves no reward 'unknown'") == 1
