"""Clusters as the environment describes them, and the flags that do not fit them."""

from __future__ import annotations

import json

import pytest

from trainer.cluster.environment import Cluster, cluster_from_environment
from trainer.errors import UsageError

INDEXED_JOB = {
    "WORKER_COUNT": "3",
    "JOB_COMPLETION_INDEX": "2",
    "JOB_NAME": "digits",
    "WORKER_SERVICE": "digits-workers",
}
TWO = Cluster(("a:1", "b:1"), 1)


def described(**settings: object) -> Cluster:
    return cluster_from_environment({"TF_CONFIG": json.dumps(settings)})


def test_no_description_and_one_worker_are_plain_training() -> None:
    assert cluster_from_environment({}) == Cluster()
    assert cluster_from_environment({"TF_CONFIG": "", "WORKER_COUNT": " "}) == Cluster()
    assert cluster_from_environment({"WORKER_COUNT": "1"}) == Cluster()
    assert described() == described(task={"type": "worker", "index": 0}) == Cluster()
    assert Cluster().is_chief


def test_the_chief_comes_first_and_the_workers_behind_it() -> None:
    cluster = {"worker": ["b:1", "[::1]:2"], "chief": ["a:1"]}
    chief = described(cluster=cluster, task={"type": "chief", "index": 0})
    last = described(cluster=cluster, task={"type": "worker", "index": "1"})
    assert chief.workers == last.workers == ("a:1", "b:1", "[::1]:2")
    assert (chief.index, last.index) == (0, 2)
    assert (chief.is_chief, last.is_chief) == (True, False)
    del cluster["chief"]
    assert described(cluster=cluster, task={"type": "worker", "index": 0}).is_chief


def test_an_indexed_job_describes_its_pods() -> None:
    cluster = cluster_from_environment(INDEXED_JOB)
    assert cluster == Cluster(tuple(f"digits-{i}.digits-workers:2222" for i in range(3)), 2)
    assert cluster_from_environment(INDEXED_JOB | {"WORKER_PORT": "99"}).workers[0].endswith(":99")
    settings = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    assert cluster_from_environment({"TF_CONFIG": json.dumps(settings)} | INDEXED_JOB) == TWO


@pytest.mark.parametrize(
    "settings",
    [
        {"cluster": {"worker": ["a:65536"]}},
        {"cluster": {"worker": ["grpc://a:1"]}},
        {"cluster": {"worker": ["a:1", "a:1"]}},
        {"cluster": {"worker": []}},
        {"cluster": {"worker": ["a:1"], "chief": ["b:1", "c:1"]}},
        {"cluster": {"worker": ["a:1"], "evaluator": ["b:1"]}},
        {"cluster": {"worker": ["a:1"]}, "task": 1},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": float("inf")}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}},
    ],
)
def test_a_tf_config_that_cannot_be_is_refused(settings: dict[str, object]) -> None:
    task = {"task": {"type": "worker", "index": 0}}
    with pytest.raises(UsageError, match=r"^TF_CONFIG .*[^:] *\S$"):
        described(**task | settings)


@pytest.mark.parametrize(
    "environ",
    [{"TF_CONFIG": text} for text in ("{", "[1]", "[" * 100_000)]
    + [INDEXED_JOB | {"WORKER_COUNT": count} for count in ("many", "0")]
    + [INDEXED_JOB | {"JOB_COMPLETION_INDEX": index} for index in ("", "3")]
    + [INDEXED_JOB | {"WORKER_PORT": "70000"}, {"WORKER_COUNT": "2"}],
)
def test_another_description_that_cannot_be_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"TF_CONFIG|WORKER_COUNT"):
        cluster_from_environment(environ)
