"""The line between workers, beside TensorFlow's own: who is there, who agrees, who is lost.

TensorFlow finds out slowly or not at all that a worker never came, differs or froze, and does not
say which. So every two workers keep a connection of their own. It is made on the address that the
worker's gRPC server takes afterwards, so it needs no other port, and it carries lines:

  {"worker": 1, "statement": {...}}   the greeting: who it is, and what has to be equal on all
  .                                   a heartbeat, once a second
  agree {...}                         what else has to be equal, once that is known
  lost 2 <how>                        the sender gives up on worker 2, and ends
  bye                                 the sender ends, and nothing of it is needed any more
  done                                the chief has written everything; whoever waits may leave
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from trainer.cluster.devices import Cluster
from trainer.errors import ClusterError, UsageError

HEARTBEAT_S = 1.0
_LOST = re.compile(rb"lost (\d{1,5}) ([ -~]{1,200})")
# A greeting is a few kilobytes; more is no worker of ours.
_GREETING_LIMIT = 1 << 16
_GREETING_TIMEOUT_S = 5.0
_RETRY_S = 0.3
# What the others get, once the chief let them go, before it leaves without seeing them gone.
_GOODBYE_GRACE_S = 10.0


class FinishedError(Exception):
    """While this worker waited for the others, the run was finished without it."""


class Peers:
    """Connections to all other workers; none, and nothing to do, if there is one worker alone.

    Args:
      cluster: the workers, this one among them.
      silence_s: after this many seconds without a heartbeat a worker counts as lost.
    """

    def __init__(self, cluster: Cluster, *, silence_s: float):
        self._cluster, self._silence_s = cluster, silence_s
        self._changed = threading.Condition()  # notified when what follows grows
        self._sockets: dict[int, socket.socket] = {}  # by worker, once it has greeted
        self._statements: dict[int, Mapping[str, str]] = {}  # of the greetings
        self._later: dict[int, Mapping[str, str]] = {}  # of `agree`
        self._meeting = True
        self._needed: set[int] = set()  # the workers whose loss ends this process
        self._done = threading.Event()

    def meet(
        self, statement: Mapping[str, str], *, timeout_s: float, finished: Callable[[], bool]
    ) -> None:
        """Waits for all workers, compares what each states, and starts to watch over them.

        Args:
          statement: what has to be equal on all workers, by the name to call it in an error.
          timeout_s: how long to wait for the last one.
          finished: asked now and then whether the run has finished meanwhile.

        Raises:
          ClusterError: a worker did not come in time.
          UsageError: a worker states something else; every worker raises this then.
          FinishedError: the run has finished.
        """
        others = set(range(len(self._cluster.workers))) - {self._cluster.index}
        greeting = {"worker": self._cluster.index, "statement": dict(statement)}
        line = json.dumps(greeting).encode() + b"\n"
        # Nobody connects to the last worker; it listens to see whether its port is free.
        listener = self._listen() if others else None
        threads = [
            threading.Thread(target=self._connect, args=(other, line), daemon=True)
            for other in others
            if other < self._cluster.index
        ]
        if listener:
            threads.append(
                threading.Thread(target=self._accept, args=(listener, line), daemon=True)
            )
        for thread in threads:
            thread.start()
        try:
            self._wait_for(others, statement, time.monotonic() + timeout_s, finished)
        finally:
            self._meeting = False
            for thread in threads:
                thread.join()
            if listener:
                listener.close()
        self._needed = set(others)
        threading.Thread(target=self._watch, daemon=True).start()

    def _wait_for(self, others, statement, deadline, finished) -> None:
        next_look = 0.0
        while True:
            with self._changed:
                self._drop_closed()
                if others <= self._statements.keys():
                    self._compare(
                        statement,
                        self._statements,
                        "start all workers with the same flags, code and data",
                    )
                if others <= self._sockets.keys():
                    return
                missing = sorted(others - self._sockets.keys())
                self._changed.wait(_RETRY_S)
            now = time.monotonic()
            if now > next_look:
                next_look = now + 1
                if finished():
                    raise FinishedError
            if now > deadline:
                raise ClusterError(
                    f"the cluster did not form: {self._names(missing)} never came; start them, or"
                    " see why they cannot be reached, and start this worker again"
                )

    def _names(self, workers) -> str:
        names = [f"worker {i} ({self._cluster.workers[i]})" for i in workers]
        return ", ".join(names)

    def _drop_closed(self) -> None:
        """Forgets, while the workers still meet, those that went away again."""
        for other, connection in list(self._sockets.items()):
            readable, _, _ = select.select([connection], [], [], 0)
            if readable:
                try:
                    closed = not connection.recv(1, socket.MSG_PEEK)
                except OSError:
                    closed = True
                if closed:
                    connection.close()
                    del self._sockets[other]

    def _compare(
        self, statement: Mapping[str, str], others: Mapping[int, Mapping[str, str]], advice: str
    ) -> None:
        for other, theirs in sorted(others.items()):
            names = sorted(
                name
                for name in statement.keys() | theirs.keys()
                if statement.get(name) != theirs.get(name)
            )
            if names:
                differing = ", ".join(
                    f"{name} ({_shown(theirs.get(name))} there, {_shown(statement.get(name))} here)"
                    for name in names
                )
                raise UsageError(
                    f"{self._names([other])} differs from worker {self._cluster.index} in"
                    f" {differing}; {advice}"
                )

    def agree(self, statement: Mapping[str, str]) -> None:
        """Compares what became known after the workers met; a worker that is lost ends the process.

        Args:
          statement: what has to be equal on all workers, by the name to call it in an error.

        Raises:
          UsageError: a worker states something else; every worker raises this then.
        """
        others = set(range(len(self._cluster.workers))) - {self._cluster.index}
        self._send(b"agree " + json.dumps(dict(statement)).encode() + b"\n")
        with self._changed:
            self._changed.wait_for(lambda: others <= self._later.keys())
        try:
            self._compare(
                statement, self._later, "give a flag that settles it, or start equal machines"
            )
        except UsageError:
            # Whoever has not read all statements yet must not take this worker's end for a loss.
            self.needs_nobody()
            self._send(b"bye\n")
            raise

    def _listen(self) -> socket.socket:
        address = self._cluster.workers[self._cluster.index]
        port = int(address.rpartition(":")[2])
        dual = socket.has_dualstack_ipv6()
        try:
            listener = socket.create_server(
                ("", port),
                family=socket.AF_INET6 if dual else socket.AF_INET,
                dualstack_ipv6=dual,
            )
        except OSError as error:
            raise ClusterError(
                f"this worker cannot listen on its address {address}: {error.strerror}; another"
                " process, or this worker's last one, still has the port"
            ) from None
        listener.settimeout(_RETRY_S)
        return listener

    def _accept(self, listener: socket.socket, line: bytes) -> None:
        while self._meeting:
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            threading.Thread(target=self._answer, args=(connection, line), daemon=True).start()

    def _answer(self, connection: socket.socket, line: bytes) -> None:
        with self._greeting(connection):
            other, statement = _read_greeting(connection)
            if self._cluster.index < other < len(self._cluster.workers):
                connection.sendall(line)
                self._keep(connection, other, statement)

    def _connect(self, other: int, line: bytes) -> None:
        host, _, port = self._cluster.workers[other].rpartition(":")
        while self._meeting:
            if other not in self._sockets:
                try:
                    connection = socket.create_connection(
                        (host.strip("[]"), int(port)), timeout=_GREETING_TIMEOUT_S
                    )
                except OSError:
                    connection = None
                if connection:
                    with self._greeting(connection):
                        connection.sendall(line)
                        name, statement = _read_greeting(connection)
                        if name == other:
                            self._keep(connection, other, statement)
            time.sleep(_RETRY_S)

    @contextlib.contextmanager
    def _greeting(self, connection: socket.socket) -> Iterator[None]:
        """Closes a connection that is not kept; one that fails, or is no worker's, is no error."""
        connection.settimeout(_GREETING_TIMEOUT_S)
        try:
            with contextlib.suppress(OSError, ValueError):
                yield
        finally:
            with self._changed:
                kept = connection in self._sockets.values()
            if not kept:
                connection.close()

    def _keep(self, connection: socket.socket, other: int, statement: Mapping[str, str]) -> None:
        connection.setblocking(False)
        with self._changed:
            if not self._meeting:
                return
            old = self._sockets.pop(other, None)
            if old:
                old.close()
            self._sockets[other], self._statements[other] = connection, statement
            self._changed.notify_all()

    def _watch(self) -> None:
        """Sends heartbeats and ends the process when a worker that is needed is lost."""
        now = time.monotonic()
        heard = dict.fromkeys(self._sockets, now)
        unread = dict.fromkeys(self._sockets, b"")
        next_beat = 0.0
        # The last heartbeat before a worker froze may be a second older than that.
        limit_s = self._silence_s - HEARTBEAT_S
        while self._sockets:
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                self._send(b".\n")
            by_socket = {connection: other for other, connection in self._sockets.items()}
            readable, _, _ = select.select(list(by_socket), [], [], HEARTBEAT_S / 4)
            for connection in readable:
                other = by_socket[connection]
                try:
                    received = connection.recv(4096)
                except BlockingIOError:
                    continue
                except OSError:
                    received = b""
                heard[other] = time.monotonic()
                *lines, unread[other] = (unread[other] + received).split(b"\n")
                for line in lines:
                    self._heed(other, line)
                if not received:
                    del self._sockets[other]
                    connection.close()
                    self._lost(other, "its connection closed")
            for other, last in heard.items():
                if other in self._sockets and now - last > limit_s:
                    self._lost(other, f"it has been silent for {self._silence_s:g} s")

    def _heed(self, other: int, line: bytes) -> None:
        if line == b"done":
            self.needs_nobody()
            self._done.set()
        elif line == b"bye":
            self._needed.discard(other)
        elif line.startswith(b"agree "):
            with self._changed:
                self._later[other] = json.loads(line[6:])
                self._changed.notify_all()
        elif match := _LOST.fullmatch(line):
            self._told_lost(other, int(match[1]), match[2].decode())

    def _told_lost(self, teller: int, lost: int, how: str) -> None:
        if lost == self._cluster.index:
            self._lost(teller, f"it gave up on this worker, as {how}")
        elif lost in range(len(self._cluster.workers)):
            self._lost(lost, how)

    def _lost(self, other: int, how: str) -> None:
        if other not in self._needed:
            return
        # Else a third worker might take the loss of this one, which follows, for the first.
        self._send(f"lost {other} {how}\n".encode())
        print(
            f"error: {self._names([other])} was lost: {how}; progress is in the last checkpoint,"
            " and starting the workers again goes on from there",
            file=sys.stderr,
        )
        # The main thread may wait for the lost worker in native code, so nothing gentler ends it.
        os._exit(ClusterError.exit_code)

    def _send(self, line: bytes) -> None:
        for connection in list(self._sockets.values()):
            try:
                connection.send(line)
            except OSError:  # full or closed: reading tells
                continue

    def needs_nobody(self) -> None:
        """From now on no worker's loss matters to this one."""
        self._needed.clear()

    def leave_together(self) -> None:
        """Returns once the chief calls this too: it has saved, and this worker may leave.

        Whoever left before would look lost to the chief.
        """
        if self._cluster.is_chief:
            self.say_done()
        else:
            self.wait_until_done()

    def say_done(self) -> None:
        """Lets the others go, as the chief has nothing left to write, and waits until they have."""
        self.needs_nobody()
        self._send(b"done\n")
        deadline = time.monotonic() + _GOODBYE_GRACE_S
        while self._sockets and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait_until_done(self) -> None:
        """Waits for the chief's `say_done`; a chief that is lost before ends this process."""
        self._needed &= {0}
        try:
            self._done.wait()
        finally:  # a signal may end the wait
            self._send(b"bye\n")

    def say_goodbye(self) -> None:
        """Tells the others, before the end, that nothing of this worker's is needed any more."""
        self._send(b"bye\n")

    def explain(self, error: Exception) -> ClusterError:
        """Returns what to raise for a failed collective, once the watch had time to see why.

        A worker that is lost ends this process meanwhile, and says which it was.
        """
        time.sleep(self._silence_s + 2 * HEARTBEAT_S)
        first_line = str(error).splitlines()[0]
        return ClusterError(f"the workers lost touch: {first_line}; start them again")


def _read_greeting(connection: socket.socket) -> tuple[int, Mapping[str, str]]:
    """Returns who greets and what it states, leaving what follows unread.

    Raises:
      ValueError: if it is no greeting.
      OSError: if the connection fails.
    """
    received = b""
    deadline = time.monotonic() + _GREETING_TIMEOUT_S
    while not received.endswith(b"\n"):
        waiting = connection.recv(4096, socket.MSG_PEEK)
        end = waiting.find(b"\n") + 1 or len(waiting)
        received += connection.recv(end)
        if not waiting or len(received) > _GREETING_LIMIT or time.monotonic() > deadline:
            raise ValueError("not a greeting")
    try:
        greeting = json.loads(received)
        worker, statement = greeting["worker"], greeting["statement"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("not a greeting") from None
    if not isinstance(worker, int) or not isinstance(statement, dict):
        raise ValueError("not a greeting")
    if not all(isinstance(value, str) for value in statement.values()):
        raise ValueError("not a greeting")
    return worker, statement


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value[:40]
