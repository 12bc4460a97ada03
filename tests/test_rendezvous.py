"""The rendezvous: who is there, who differs, and what does not disturb it.

Each worker is a process of its own; none of them needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import time

import pytest
from cluster import PATIENCE_S, Workers, free_addresses

from trainer.cluster.environment import Cluster
from trainer.cluster.rendezvous import differences

WORKER = """
import pathlib, socket, sys
from trainer.cluster.environment import cluster_from_environment
from trainer.cluster.rendezvous import meet
from trainer.errors import TrainerError

finished, timeout_s, *items = sys.argv[1:]
cluster = cluster_from_environment()
try:
    fingerprint = dict(item.split("=") for item in items)
    meet(cluster, fingerprint, float(timeout_s), pathlib.Path(finished).exists)
except TrainerError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
port = int(cluster.workers[cluster.index].split(":")[1])
socket.create_server(("127.0.0.1", port)).close()  # it has to be free for TensorFlow
assert "tensorflow" not in sys.modules
"""


def meeting(count: int, *start: int, finished: object = "/none", timeout_s: float = 60) -> Workers:
    program = ("-c", WORKER, str(finished), str(timeout_s))
    return Workers(count, start=start, program=program)


def met(workers: Workers) -> bool:
    return {(left.code, left.err) for left in workers.left().values()} == {(0, "")}


def test_workers_meet_in_any_order_and_leave_their_ports() -> None:
    with meeting(3, 2, 0) as workers:
        time.sleep(1)
        assert {process.poll() for process in workers.running.values()} == {None}
        workers.start(1)
        assert met(workers)


@pytest.mark.parametrize("absent", [(1, 3), (0, 3)])
def test_whoever_never_comes_is_named_by_all(absent: tuple[int, ...]) -> None:
    with meeting(4, *{0, 1, 2, 3} - {*absent}, timeout_s=4) as workers:
        for left in workers.left().values():
            assert left.code == 138
            assert f"worker {absent[0]} ({workers.addresses[absent[0]]})" in left.err
            named = f"worker 3 ({workers.addresses[3]})" in left.err
            assert named == (0 not in absent)  # nobody but the chief knows who else is there
            assert "worker 2" not in left.err
            assert left.err.count("\n") == 1


@pytest.mark.parametrize("odd", [0, 2])
def test_all_workers_refuse_when_one_differs(odd: int) -> None:
    with meeting(3) as workers:
        for index in (1, odd, 2 - odd):  # whoever comes last
            own = ("--seed=23", "extra=1") if index == odd else ("--seed=17",)
            workers.start(index, "code=abc", *own)
        for left in workers.left().values():
            assert left.code == 2
            assert f"--seed is 23 on worker {odd} ({workers.addresses[odd]}), 17" in left.err
            assert "extra" in left.err  # what only one worker has is a difference


def test_whoever_waits_for_a_run_that_others_finish_leaves(tmp_path: pathlib.Path) -> None:
    with meeting(3, 0, 1, finished=tmp_path / "finished") as workers:
        time.sleep(1)
        (tmp_path / "finished").touch()
        assert met(workers)


NOT_A_WORKER = {
    "nothing, and stays": b"",
    "web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": bytes(range(256)) * 20 + b"\n",
    "a line without end": b"x" * (1 << 22),
    "endless depth": b"[" * 50_000 + b"\n",
    "no such worker": b'{"worker": 7, "fingerprint": {}}\n',
    "no fingerprint": b'{"worker": 1, "fingerprint": null}\n',
}


def connect(address: str) -> socket.socket:
    """Returns a connection to a port, once somebody listens there."""
    host, port = address.split(":")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_strangers_at_the_port_do_not_disturb() -> None:
    with meeting(2, 0) as workers, contextlib.ExitStack() as strangers:
        for words in NOT_A_WORKER.values():
            stranger = strangers.enter_context(connect(workers.addresses[0]))
            with contextlib.suppress(OSError):  # closed before it has sent it all
                stranger.sendall(words)
        time.sleep(1)
        assert workers.running[0].poll() is None
        workers.start(1)
        assert met(workers)


def test_a_stranger_that_sends_byte_after_byte_stops_no_clock() -> None:
    with meeting(2, 0, timeout_s=3) as workers, connect(workers.addresses[0]) as stranger:
        deadline = time.monotonic() + 60  # ten times what it needs
        while workers.running[0].poll() is None:
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):  # closed
                stranger.sendall(b"x")
            time.sleep(0.1)
        assert workers.left(0)[0].code == 138


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 \r\n", b'{"missing": [7]}\n', b'{"error": 1}\n'])
def test_a_stranger_at_the_chiefs_address_is_not_taken_for_it(words: bytes) -> None:
    with meeting(2, timeout_s=1) as workers:
        port = int(workers.addresses[0].split(":")[1])
        with socket.create_server(("127.0.0.1", port)) as stranger:
            stranger.settimeout(1)
            workers.start(1)
            while workers.running[1].poll() is None:
                with contextlib.suppress(OSError):
                    connection, _ = stranger.accept()
                    connection.sendall(words)
                    connection.close()
        left = workers.left(1)[1]
        assert left.code == 138
        assert f"worker 0 ({workers.addresses[0]})" in left.err


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken_is_named(index: int) -> None:
    with meeting(2) as workers:
        address = workers.addresses[index]
        with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
            workers.start(index)
            left = workers.left(index)[index]
        assert left.code == 138
        assert address in left.err


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (signal.SIGKILL, 0),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.slow),
    ],
)
def test_whoever_is_lost_while_the_others_wait_may_come_again(lost, number) -> None:
    with meeting(3, 0, 1) as workers:
        time.sleep(1)  # most likely they have met; it holds either way
        workers.send(lost, number)
        time.sleep(4)  # a worker that is silent for 3 s is not there
        workers.start(2)
        time.sleep(1)
        assert {workers.running[index].poll() for index in {0, 1, 2} - {lost}} == {None}
        if number == signal.SIGKILL:
            workers.left(lost)
            workers.start(lost)
        workers.send(lost, signal.SIGCONT)
        assert met(workers)


def test_long_values_that_end_differently_differ() -> None:
    values = {index: {"--model_dir": "/" + "a" * 60 + str(index)} for index in range(2)}
    assert "--model_dir" in differences(Cluster(("a:1", "b:1")), values)


def test_workers_of_clusters_of_different_sizes_refuse() -> None:
    """As when a job was scaled, and a pod of before is still there."""
    with meeting(2, 0) as workers:
        workers.addresses += free_addresses(1)
        workers.start(1)
        for left in workers.left().values():
            assert left.code == 2
            assert "number of workers" in left.err
