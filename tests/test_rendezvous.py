"""The rendezvous: who is there, who differs, and what does not disturb it.

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
import time
from collections.abc import Iterator

import pytest
import runs
from cluster import free_addresses

from trainer.cluster.environment import Cluster
from trainer.cluster.rendezvous import meet

# For what is promised to happen, but not when: a start of Python on a busy machine.
PATIENCE_S = 60.0

WORKER = textwrap.dedent("""
    import json, os, socket, sys
    from trainer.cluster.environment import Cluster
    from trainer.cluster.rendezvous import RunFinishedError, meet
    from trainer.errors import TrainerError

    asked = json.loads(sys.argv[1])
    cluster = Cluster(tuple(asked["workers"]), asked["index"])
    try:
        meet(
            cluster,
            asked["fingerprint"],
            timeout_s=asked["timeout_s"],
            finished=lambda: os.path.exists(asked["finished"]),
        )
    except TrainerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except RunFinishedError:
        print("finished")
        sys.exit(0)
    port = int(cluster.workers[cluster.index].split(":")[1])
    socket.create_server(("127.0.0.1", port)).close()  # it has to be free for TensorFlow
    assert "tensorflow" not in sys.modules
    print("met")
""")


class Workers:
    """Processes that meet on loopback, started one by one."""

    def __init__(self, count: int, directory: pathlib.Path):
        self.addresses = free_addresses(count)
        self.finished = directory / "finished"
        self.started: list[subprocess.Popen] = []

    def start(
        self, index: int, *, timeout_s: float = PATIENCE_S, **fingerprint: object
    ) -> subprocess.Popen:
        asked = {
            "workers": self.addresses,
            "index": index,
            "timeout_s": timeout_s,
            "finished": str(self.finished),
            "fingerprint": fingerprint,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(asked)],
            cwd=runs.ROOT,
            env=runs.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

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


def left(process: subprocess.Popen) -> tuple[int, str]:
    """Returns how a worker left, which it has to do by itself: exit code and output."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, (out + err).strip()


def met(*processes: subprocess.Popen) -> bool:
    return [left(process) for process in processes] == [(0, "met")] * len(processes)


def test_workers_meet_in_any_order_and_leave_their_ports(cluster: type[Workers]) -> None:
    workers = cluster(3)
    last, first = workers.start(2), workers.start(0)
    time.sleep(1)
    assert last.poll() is first.poll() is None
    assert met(workers.start(1), first, last)


def test_one_worker_waits_for_nobody() -> None:
    meet(Cluster(), {}, timeout_s=0, finished=lambda: False)


@pytest.mark.parametrize("absent", [(1, 3), (0, 3)])
def test_whoever_never_comes_is_named_by_all(
    cluster: type[Workers], absent: tuple[int, ...]
) -> None:
    workers = cluster(4)
    present = [workers.start(i, timeout_s=4) for i in range(4) if i not in absent]
    for process in present:
        code, words = left(process)
        assert code == 138
        assert f"worker {absent[0]} ({workers.addresses[absent[0]]})" in words
        named = f"worker 3 ({workers.addresses[3]})" in words
        assert named == (0 not in absent)  # nobody but the chief knows who else is there
        assert "worker 2" not in words
        assert words.count("\n") == 0


@pytest.mark.parametrize("odd", [0, 2])
def test_all_workers_refuse_when_one_differs(cluster: type[Workers], odd: int) -> None:
    workers = cluster(3)
    same = {"--seed": "17", "code": "abc"}
    for index in (1, odd, 2 - odd):  # whoever comes last
        more = {"--seed": "23", "extra": "1"} if index == odd else {}
        workers.start(index, **same | more)
    for process in workers.started:
        code, words = left(process)
        assert code == 2
        assert f"23 on worker {odd} ({workers.addresses[odd]})" in words
        assert "--seed" in words
        assert "extra" in words  # what only one worker has is a difference
        assert "abc" not in words
        assert "17" in words


def test_whoever_waits_for_a_run_that_others_finish_leaves(cluster: type[Workers]) -> None:
    workers = cluster(3)
    waiting = [workers.start(0), workers.start(1)]
    time.sleep(1)
    workers.finished.touch()
    assert [left(process) for process in waiting] == [(0, "finished")] * 2


def greeting(worker: object, fingerprint: object) -> bytes:
    return json.dumps({"worker": worker, "fingerprint": fingerprint}).encode() + b"\n"


NOT_A_WORKER = {
    "nothing, and stays": b"",
    "web browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": bytes(range(256)) * 20 + b"\n",
    "a line without end": b"x" * (1 << 22),
    "half a greeting": greeting(1, {})[:9],
    "endless depth": b"[" * 50_000 + b"\n",
    "no such worker": greeting(7, {}),
    "the chief itself": greeting(0, {}),
    "worker -1": greeting(-1, {}),
    "worker by name": greeting("1", {}),
    "no fingerprint": greeting(1, None),
    "no greeting": b"[1, 2]\n",
}


def test_strangers_at_the_port_do_not_disturb(cluster: type[Workers]) -> None:
    workers = cluster(2)
    chief = workers.start(0)
    with contextlib.ExitStack() as strangers:
        for words in NOT_A_WORKER.values():
            stranger = strangers.enter_context(workers.connect(0))
            with contextlib.suppress(OSError):  # closed before it has sent it all
                stranger.sendall(words)
        scanner = workers.connect(0)  # resets the connection, as a port scanner does
        scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        scanner.close()
        time.sleep(1)
        assert chief.poll() is None
        assert met(workers.start(1), chief)


@pytest.mark.parametrize(
    "words",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b'{"missing": [7]}\n',
        b'{"error": []}\n',
        b"[]\n",
        b"7\n",
    ],
)
def test_a_stranger_at_the_chiefs_address_is_not_taken_for_it(
    cluster: type[Workers], words: bytes
) -> None:
    workers = cluster(2)
    port = int(workers.addresses[0].split(":")[1])
    with socket.create_server(("127.0.0.1", port)) as stranger:
        worker = workers.start(1, timeout_s=0.5)
        stranger.settimeout(PATIENCE_S)
        while worker.poll() is None:
            with contextlib.suppress(OSError):
                connection, _ = stranger.accept()
                connection.sendall(words)
                connection.close()
                stranger.settimeout(1)
        code, said = left(worker)
    assert code == 138
    assert f"worker 0 ({workers.addresses[0]})" in said


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_that_is_taken_is_named(cluster: type[Workers], index: int) -> None:
    workers = cluster(2)
    address = workers.addresses[index]
    with socket.create_server(("127.0.0.1", int(address.split(":")[1]))):
        code, words = left(workers.start(index))
    assert code == 138
    assert address in words


@pytest.mark.parametrize("early", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_whoever_is_lost_while_the_others_wait_may_come_again(
    cluster: type[Workers], early: int, number: signal.Signals
) -> None:
    workers = cluster(3)
    waiting, lost = workers.start(1 - early), workers.start(early)
    time.sleep(1)  # most likely they have connected; it holds either way
    lost.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(4)  # a worker that is silent for 3 s is not there
        last = workers.start(2)
        time.sleep(2)
        assert waiting.poll() is last.poll() is None
        lost.send_signal(signal.SIGCONT)
        assert met(waiting, last, lost)
    else:
        lost.wait()
        assert met(waiting, workers.start(2), workers.start(early))
