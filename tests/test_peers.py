"""The line between workers: who is there, who differs, who is lost, and what does not disturb it.

Each worker is a process of its own; none of them needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator

import pytest
import runs
from cluster import free_addresses

# Meets, says so, then does what it is told on standard input.
WORKER = textwrap.dedent("""
    import json, os, sys
    from trainer.cluster.devices import Cluster
    from trainer.errors import TrainerError
    from trainer.cluster.rendezvous import FinishedError, Peers

    told = json.loads(sys.argv[1])
    peers = Peers(Cluster(tuple(told["workers"]), told["index"]), silence_s=told["silence_s"])
    try:
        peers.meet(
            told["statement"],
            timeout_s=told["timeout_s"],
            finished=lambda: os.path.exists(told["finished"]),
        )
    except TrainerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except FinishedError:
        print("finished")
        sys.exit(0)
    print("met", flush=True)
    for line in sys.stdin:
        name, *more = line.strip().split(" ", 1)
        try:
            getattr(peers, name)(*map(json.loads, more))
        except TrainerError as error:
            print(error, file=sys.stderr)
            sys.exit(error.exit_code)
        print(name, flush=True)
""")

# A worker counts as lost after this; the heartbeat is a second, so fewer would be a close call on
# a machine that is busy with other things.
SILENCE_S = 4.0
# For what is promised to happen, but not when: a start of Python on a busy machine.
PATIENCE_S = 60.0


class Workers:
    """Processes that meet on loopback, started one by one."""

    def __init__(self, count: int, directory: pathlib.Path):
        self.addresses = free_addresses(count)
        self.finished = directory / "finished"
        self.started: list[subprocess.Popen] = []

    def start(
        self, index: int, *, timeout_s: float = PATIENCE_S, **statement: object
    ) -> subprocess.Popen:
        told = {
            "workers": self.addresses,
            "index": index,
            "silence_s": SILENCE_S,
            "timeout_s": timeout_s,
            "finished": str(self.finished),
            "statement": statement,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(told)],
            cwd=runs.ROOT,
            env=runs.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def start_all(self, **options: object) -> list[subprocess.Popen]:
        return [self.start(index, **options) for index in range(len(self.addresses))]

    def connect(self, index: int) -> socket.socket:
        """Returns a connection to a worker's port, once it listens."""
        host, port = self.addresses[index].split(":")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return socket.create_connection((host, int(port)), timeout=PATIENCE_S)
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[type[Workers]]:
    """Makes `Workers`, and leaves none of them behind."""
    made: list[Workers] = []

    def make(count: int) -> Workers:
        made.append(Workers(count, tmp_path))
        return made[-1]

    yield make
    for process in (process for workers in made for process in workers.started):
        process.kill()
        process.communicate()


def said(process: subprocess.Popen) -> str:
    """Returns the next line of a worker, which is killed if it says nothing."""
    watchdog = threading.Timer(PATIENCE_S, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline().strip()
    finally:
        watchdog.cancel()


def met(*processes: subprocess.Popen) -> bool:
    return all(said(process) == "met" for process in processes)


def tell(process: subprocess.Popen, what: str) -> None:
    process.stdin.write(f"{what}\n")
    process.stdin.flush()


def left(process: subprocess.Popen, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
    """Returns exit code and last words of a worker, which has to leave by itself."""
    process.wait(timeout_s)
    return process.returncode, process.stderr.read()


def test_workers_meet_in_any_order(cluster: type[Workers]) -> None:
    workers = cluster(3)
    last, first = workers.start(2), workers.start(0)
    time.sleep(1)
    assert last.poll() is first.poll() is None
    middle = workers.start(1)
    assert met(first, middle, last)


def test_a_worker_that_never_comes_is_named(cluster: type[Workers]) -> None:
    workers = cluster(4)
    present = [workers.start(index, timeout_s=8) for index in (0, 2)]
    for process in present:
        code, words = left(process)
        assert code == 138
        assert f"worker 1 ({workers.addresses[1]}), worker 3 ({workers.addresses[3]})" in words
        assert "worker 0" not in words
        assert "worker 2" not in words
        assert "never came" in words


@pytest.mark.parametrize("odd", [0, 2])
def test_all_workers_refuse_when_one_states_something_else(
    cluster: type[Workers], odd: int
) -> None:
    workers = cluster(3)
    same = {"--seed": "1", "code": "abc"}
    for index in (1, odd, 2 - odd):  # whoever comes last
        workers.start(index, **same | ({"--seed": "2"} if index == odd else {}))
    for process in workers.started:
        code, words = left(process)
        assert code == 2
        assert "--seed" in words
        assert "code" not in words.partition(";")[0]
        assert f"worker {odd}" in words


def test_what_only_one_worker_states_is_a_difference(cluster: type[Workers]) -> None:
    workers = cluster(2)
    workers.start(0, data="abc")
    workers.start(1)
    assert [left(process)[0] for process in workers.started] == [2, 2]


def test_whoever_waits_for_a_run_that_finished_leaves(cluster: type[Workers]) -> None:
    workers = cluster(2)
    waiting = workers.start(1)
    workers.finished.touch()
    code, _ = left(waiting)
    assert (code, waiting.stdout.read()) == (0, "finished\n")


def greeting(worker: object, statement: object) -> bytes:
    return json.dumps({"worker": worker, "statement": statement}).encode() + b"\n"


NOT_A_WORKER = {
    "nothing, and stays": b"",
    "web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": bytes(range(256)) * 20 + b"\n",
    "a line without end": b"x" * (1 << 22),
    "half a greeting": greeting(1, {})[:9],
    "endless depth": b"[" * 50_000 + b"\n",
    "no such worker": greeting(7, {}),
    "this worker itself": greeting(0, {}),
    "worker -1": greeting(-1, {}),
    "worker by name": greeting("1", {}),
    "no statement": greeting(1, None),
    "a statement of no text": greeting(1, {"--seed": 1}),
    "no greeting": b"[1, 2]\n",
}


def test_strangers_at_the_port_do_not_disturb(cluster: type[Workers]) -> None:
    workers = cluster(2)
    chief = workers.start(0)
    strangers = []
    for said in NOT_A_WORKER.values():
        stranger = workers.connect(0)
        with contextlib.suppress(OSError):  # closed before it has said it all
            stranger.sendall(said)
        strangers.append(stranger)
    scanner = workers.connect(0)  # resets the connection, as a port scanner does
    scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scanner.close()
    worker = workers.start(1)
    assert met(chief, worker)
    for stranger in strangers:
        stranger.close()
    time.sleep(2)  # two heartbeats
    assert chief.poll() is worker.poll() is None


def test_a_stranger_at_a_workers_address_is_not_taken_for_it(cluster: type[Workers]) -> None:
    workers = cluster(2)
    port = int(workers.addresses[0].split(":")[1])
    with socket.create_server(("127.0.0.1", port)) as stranger:
        worker = workers.start(1, timeout_s=2)
        connection, _ = stranger.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        code, words = left(worker)
        connection.close()
    assert code == 138
    assert "worker 0" in words


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken_is_named(cluster: type[Workers], index: int) -> None:
    workers = cluster(2)
    address = workers.addresses[index]
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        code, words = left(workers.start(index))
    assert code == 138
    assert address in words
    assert "still has the port" in words


def test_a_worker_that_left_while_the_others_gather_may_come_again(
    cluster: type[Workers],
) -> None:
    workers = cluster(3)
    chief, early = workers.start(0), workers.start(1)
    time.sleep(1)  # most likely they have met; it holds either way
    early.kill()
    early.wait()
    late, again = workers.start(2), workers.start(1)
    assert met(chief, late, again)


def test_a_killed_worker_is_named_by_all_others_within_15_s(cluster: type[Workers]) -> None:
    workers = cluster(3)
    assert met(*workers.start_all())
    workers.started[1].kill()
    for index in (0, 2):
        code, words = left(workers.started[index], 15)
        assert code == 138
        assert words.count("\n") == 1
        assert f"worker 1 ({workers.addresses[1]}) was lost" in words


def test_a_frozen_worker_is_named_within_the_timeout_and_leaves_once_it_thaws(
    cluster: type[Workers],
) -> None:
    workers = cluster(3)
    assert met(*workers.start_all())
    frozen = workers.started[2]
    frozen.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + SILENCE_S
    for index in (0, 1):
        code, words = left(workers.started[index], deadline - time.monotonic())
        assert code == 138
        assert f"worker 2 ({workers.addresses[2]}) was lost" in words
        assert "silent" in words
    frozen.send_signal(signal.SIGCONT)
    code, words = left(frozen)
    assert code == 138
    assert "gave up on this worker" in words


def test_a_worker_that_freezes_while_the_others_gather_holds_up_nobody(
    cluster: type[Workers],
) -> None:
    workers = cluster(3)
    chief, frozen = (workers.start(index, timeout_s=6) for index in (0, 1))
    time.sleep(1.5)  # most likely they have met; it holds either way
    frozen.send_signal(signal.SIGSTOP)
    late = workers.start(2, timeout_s=6)
    for process in (chief, late):
        code, words = left(process)
        assert code == 138
        assert f"worker 1 ({workers.addresses[1]})" in words
    frozen.send_signal(signal.SIGCONT)
    assert left(frozen)[0] == 138


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_what_is_known_later_is_compared_on_all_workers(cluster: type[Workers], odd: int) -> None:
    workers = cluster(3)
    assert met(*workers.start_all())
    for process in workers.started:
        tell(process, 'agree {"devices": "1 GPU"}')
    assert [said(process) for process in workers.started] == ["agree"] * 3

    workers = cluster(3)
    assert met(*workers.start_all())
    for index in (2, 1, 0):
        kind = "CPU" if index == odd else "GPU"
        tell(workers.started[index], f'agree {{"devices": "1 {kind}"}}')
        if index == 2:  # it hears of the difference when the others have left already
            time.sleep(0.5)
            workers.started[2].send_signal(signal.SIGSTOP)
    for process in workers.started[:2]:
        process.wait(PATIENCE_S)
    workers.started[2].send_signal(signal.SIGCONT)
    for process in workers.started:
        code, words = left(process)
        assert code == 2, words
        assert "devices (1 " in words


def test_a_short_freeze_costs_nothing(cluster: type[Workers]) -> None:
    workers = cluster(2)
    assert met(*workers.start_all())
    workers.started[1].send_signal(signal.SIGSTOP)
    time.sleep(SILENCE_S / 2)
    workers.started[1].send_signal(signal.SIGCONT)
    time.sleep(SILENCE_S)  # from here heartbeats alone keep them together
    assert [process.poll() for process in workers.started] == [None, None]


def test_all_leave_together_once_the_chief_has_written(cluster: type[Workers]) -> None:
    workers = cluster(3)
    chief, *others = workers.start_all()
    assert met(chief, *others)
    for process in others:
        tell(process, "leave_together")
    time.sleep(1)
    assert [process.poll() for process in others] == [None, None]  # the chief still writes
    tell(chief, "leave_together")
    for process in (*others, chief):  # the chief leaves last
        assert said(process) == "leave_together"
        process.kill()


def test_waiting_for_a_chief_that_dies_ends(cluster: type[Workers]) -> None:
    workers = cluster(3)
    chief, *others = workers.start_all()
    assert met(chief, *others)
    for process in others:
        tell(process, "wait_until_done")
    time.sleep(0.5)  # that says nothing until it is done
    chief.kill()
    for process in others:
        code, words = left(process, 15)
        assert code == 138
        assert "worker 0" in words


def test_waiting_for_the_chief_does_not_depend_on_others(cluster: type[Workers]) -> None:
    workers = cluster(3)
    chief, worker, dying = workers.start_all()
    assert met(chief, worker, dying)
    tell(chief, "needs_nobody")
    tell(worker, "wait_until_done")
    assert said(chief) == "needs_nobody"
    time.sleep(0.5)  # the worker says nothing until it is done
    dying.kill()
    time.sleep(1)
    assert chief.poll() is worker.poll() is None
    tell(chief, "say_done")
    assert said(worker) == "wait_until_done"


def test_a_cluster_of_one_waits_for_nobody(cluster: type[Workers]) -> None:
    workers = cluster(1)
    with socket.create_server(("127.0.0.1", int(workers.addresses[0].split(":")[1]))):
        alone = workers.start(0)  # and needs no port
        assert met(alone)
        tell(alone, "leave_together")
        assert said(alone) == "leave_together"
