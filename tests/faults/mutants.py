"""Mutants of everything that is read: each is an error of the contract, or read as it says.

A process of its own tries them, with a limit on its memory. Formats without a checksum (plain IDX,
images) cannot tell a changed pixel from a meant one, so what is accepted has to be what a plain
second reading of the same bytes gives.
"""

from __future__ import annotations

import abc
import contextlib
import gzip
import io
import json
import os
import pathlib
import random
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from .bench import Bench
from .table import Row

SLOWEST_S = 5.0
# Above what the process has when it begins.
MEMORY = 1 << 30
# Numbers and bytes at which readers break.
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = (
    *("NaN", "-1", "1e999", "-Infinity", "null", "true", "[]", "{}", '""', "9" * 5000, "[" * 3000),
    *('"\\u0000"', '"\\ud800"', "0x10", "1.5", "99999999999999999999", '"../../etc"', '"a\\nb"'),
    *("\n", "\r\n", "\0", "=", "--", "--flagfile=", "%s", "é", "\u202e", "\x1b[31m", '"auto"'),
)


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Returns `content` with one to four things wrong."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        to = min(len(changed), at + chance.choice((1, 1, 2, 4, 16, 200)))
        match chance.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(changed):
                changed[at] = chance.choice((0, 0xFF, chance.randrange(256)))
            case 2:
                del changed[at:]
            case 3:
                del changed[at:to]
            case 4:
                changed[at:at] = changed[at:to] * chance.choice((1, 2, 50))
            case 5:
                number = chance.choice(_EDGES)
                changed[at : at + 4] = struct.pack(chance.choice((">I", "<I")), number)
            case 6:
                changed[at:at] = chance.choice(_WORDS).encode()
            case _:
                changed[at:to] = chance.randbytes(to - at)
    return bytes(changed)


def mutate_words(text: bytes, chance: random.Random) -> bytes:
    """Returns a text, as JSON or flags, in which a value or two became another."""
    if chance.random() < 0.4:
        return mutate(text, chance)
    for _ in range(chance.randint(1, 3)):
        values = list(re.finditer(rb'"[^"]*"|-?[0-9][0-9.e+-]*|null|true|false|(?<==)\S+', text))
        if values:
            one = chance.choice(values)
            text = text[: one.start()] + chance.choice(_WORDS).encode() + text[one.end() :]
    return text


class Format(abc.ABC):
    """One format: `mutant` makes one, `judge` reads it as the program does.

    `judge` returns whether it was accepted, and raises `Wrong` for what must not be; any other
    exception is a traceback that a person would have seen.
    """

    def __init__(self, place: pathlib.Path):
        self.place = place

    @abc.abstractmethod
    def mutant(self, chance: random.Random) -> bytes:
        """Returns a mutant."""

    @abc.abstractmethod
    def judge(self, content: bytes) -> bool:
        """Reads a mutant."""

    def close(self) -> None:  # noqa: B027, most have nothing to let go of
        """Lets go of what judging needed."""


class Wrong(Exception):
    """What a reader must not do."""


def _agree(found: np.ndarray, expected: np.ndarray) -> bool:
    if found.dtype != expected.dtype or not np.array_equal(found, expected):
        raise Wrong("accepted as something else than it says")
    return True


class Idx(Format):
    """Plain IDX images."""

    ending = ""

    def mutant(self, chance: random.Random) -> bytes:
        return self._pack(mutate(self._file(chance), chance))

    def _file(self, chance: random.Random) -> bytes:
        from data_mirror import digits, idx_bytes

        self.labels = chance.random() < 0.3
        return idx_bytes(digits(1)[int(self.labels)])

    def _pack(self, content: bytes) -> bytes:
        return content

    def _unpack(self, content: bytes) -> bytes:
        return content

    def judge(self, content: bytes) -> bool:
        from trainer.data import idx

        path = self.place / f"file{self.ending}"
        path.write_bytes(content)
        found = (idx.read_labels if self.labels else idx.read_images)(path)
        plain = self._unpack(content)
        dimensions = plain[3]
        shape = struct.unpack_from(f">{dimensions}I", plain, 4)
        return _agree(
            found, np.frombuffer(plain, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
        )


class Gzip(Idx):
    """IDX in gzip: half of them damaged inside, half outside, where a checksum tells."""

    ending = ".gz"

    def mutant(self, chance: random.Random) -> bytes:
        content = self._file(chance)
        if chance.random() < 0.5:
            return gzip.compress(mutate(content, chance), 1)
        return mutate(gzip.compress(content, 1), chance)

    def _unpack(self, content: bytes) -> bytes:
        return gzip.decompress(content)


class Npz(Format):
    """`mnist.npz`: members damaged, then packed; or the archive damaged; names that lead away."""

    def mutant(self, chance: random.Random) -> bytes:
        from data_mirror import digits

        from trainer.data import npz

        inside = chance.random() < 0.6
        names = list(npz.MEMBERS)
        chosen = chance.choice(names)
        content = io.BytesIO()
        packing = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(content, "w", packing) as archive:
            for name, array in zip(names, digits(2), strict=True):
                member = io.BytesIO()
                if inside and name == chosen and chance.random() < 0.2:
                    np.save(member, np.array([_Trap(self.place / "trap")]), allow_pickle=True)
                else:
                    np.save(member, array)
                packed = member.getvalue()
                if inside and name == chosen:
                    packed = mutate(packed[:128], chance) + packed[128:]
                archive.writestr(f"{name}.npy", packed)
            if chance.random() < 0.2:
                archive.writestr(chance.choice(("../away.npy", "/away.npy", "a\nb.npy")), b"x")
        return content.getvalue() if inside else mutate(content.getvalue(), chance)

    def judge(self, content: bytes) -> bool:
        from trainer.data import npz

        path = self.place / "mnist.npz"
        path.write_bytes(content)
        try:
            found = npz.read(path)
        finally:
            if set(os.listdir(self.place)) != {"mnist.npz"}:
                raise Wrong("ran code or unpacked a member")
        with np.load(path, allow_pickle=False) as archive:
            return all(_agree(f, archive[name]) for f, name in zip(found, npz.MEMBERS, strict=True))


class _Trap:
    """Leaves a file if it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return pathlib.Path.touch, (self.path,)


class Png(Format):
    """Pictures for `trainer.predict`."""

    kind = "PNG"

    def mutant(self, chance: random.Random) -> bytes:
        from PIL import Image, ImageDraw

        image = Image.new(chance.choice(("L", "RGB")), (90, 70), "white")
        ImageDraw.Draw(image).line([(20, 20), (60, 20), (35, 60)], "black", 6)
        content = io.BytesIO()
        image.save(content, self.kind)
        return mutate(content.getvalue(), chance)

    def judge(self, content: bytes) -> bool:
        from trainer.picture.digits import read_digit

        path = self.place / "image"
        path.write_bytes(content)
        found = read_digit(str(path))
        if found.shape != (28, 28) or found.dtype != np.uint8:
            raise Wrong(f"read as {found.dtype} {found.shape}")
        return True


class Jpeg(Png):
    """The same as JPEG."""

    kind = "JPEG"


def _answer(main: Callable[..., int], *arguments: str) -> int:
    """Runs an entry; returns its exit code, and raises `Wrong` unless it speaks as it should."""
    from trainer.process.console import Console  # noqa: F401, imported before its streams are taken

    with (
        contextlib.redirect_stderr(io.StringIO()) as err,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        code = main(["program", *arguments])
    said = err.getvalue()
    if (code and not re.fullmatch(r"(error: [^\n]+\n)+", said)) or (
        not said.isascii() and "\x1b" in said
    ):
        raise Wrong(f"exit code {code}, and said {said[:500]!r}")
    if code not in (0, 2, 3):
        raise Wrong(f"exit code {code}")
    return code


class Flagfile(Format):
    """Files for --flagfile; what is accepted ends at a data directory that is not there."""

    def mutant(self, chance: random.Random) -> bytes:
        return mutate_words(
            b"# a run\n--epochs=3\n--model=mlp\n--learning_rate=0.01\n--seed=4\n"
            b"--precision=float32\n--batch_size=128\n--profile=3,9\n--dataset=mnist\n",
            chance,
        )

    def judge(self, content: bytes) -> bool:
        from trainer import task

        path = self.place / "flags"
        path.write_bytes(content)
        more = (f"--data_dir={self.place}/none", f"--model_dir={self.place}/run")
        code = _answer(task.main, f"--flagfile={path}", *more)
        if set(os.listdir(self.place)) != {"flags"}:
            raise Wrong("left something behind")
        return code != 2


class TfConfig(Format):
    """`TF_CONFIG`."""

    def mutant(self, chance: random.Random) -> bytes:
        cluster = {"chief": ["a.b:2222"], "worker": ["c:1", "[::1]:65535"]}
        good = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
        return mutate_words(json.dumps(good).encode(), chance)

    def judge(self, content: bytes) -> bool:
        from trainer.cluster import devices as distribution
        from trainer.config import Config

        environ = {"TF_CONFIG": content.decode(errors="surrogateescape")}
        cluster = distribution.cluster_from_environment(environ)
        distribution.check(Config(model_dir="x"), cluster)
        if not 0 <= cluster.index < len(cluster.workers):
            raise Wrong("a worker that is not there")
        return True


class ConfigJson(Format):
    """`config.json` of a run that is to be resumed."""

    name = "config.json"

    def mutant(self, chance: random.Random) -> bytes:
        return mutate_words(_record(self.place, metrics=False)[self.name], chance)

    def judge(self, content: bytes) -> bool:
        from trainer import task
        from trainer.config import Config
        from trainer.run import directory as run_directory

        run = self.place / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        for name, good in _record(self.place, metrics=self.name == "metrics.json").items():
            (run / name).write_bytes(content if name == self.name else good)
        code = _answer(task.main, f"--model_dir={run}", f"--data_dir={self.place}/none")
        if code == 3:  # as far as one comes without data: what the job asks next
            recorded = run_directory.read(str(run))
            config = Config(model_dir=str(run), dataset="mnist").resolved()
            run_directory.check_data(config, recorded, {"train_images": "a"})
        return code != 2


class MetricsJson(ConfigJson):
    """`metrics.json` of a finished run, for the next start and for a comparison."""

    name = "metrics.json"
    _number = 0

    def mutant(self, chance: random.Random) -> bytes:
        return mutate_words(_record(self.place, metrics=True)[self.name], chance)

    def judge(self, content: bytes) -> bool:
        from trainer import compare

        accepted = super().judge(content)
        run, good = self.place / "run", self.place / "good"
        good.mkdir(exist_ok=True)
        for name, sound in _record(self.place, metrics=True).items():
            (good / name).write_bytes(sound)
        self._number += 1
        if self._number % 50 == 0:  # drawing takes half a second
            code = _answer(compare.main, str(good), str(run), f"--output={self.place}/out.svg")
            return accepted and code == 0
        found = [compare.load(str(path)) for path in (good, run)]
        return bool(compare.table(found)) and accepted


class HistoryCsv(MetricsJson):
    """`history.csv`, for a comparison."""

    name = "history.csv"


def _record(place: pathlib.Path, *, metrics: bool) -> dict[str, bytes]:
    """What a run directory holds, in bytes by name."""
    from trainer.config import Config

    config = Config(dataset="mnist").resolved()
    files = {
        "config.json": {
            "config": config.to_dict(),
            "settled": {"precision": "float32", "strategy": "default", "replicas": 1},
            "data": {"name": "mnist", "sha256": {"train_images": "a"}},
            "versions": {"python": "3.12"},
        }
    }
    if metrics:
        files["metrics.json"] = {
            **{"finished": True, "epochs": 5, "steps": 10, "test_accuracy": 0.9, "test_loss": 0.3},
            **{"validation_accuracy": None, "parameters": 7, "examples_per_second": 3},
            "train_seconds": 1.5,
        }
    content = {name: json.dumps(value).encode() for name, value in files.items()}
    if metrics:
        head = b"epoch,step,train_loss,train_accuracy,validation_loss,validation_accuracy\n"
        content["history.csv"] = head + b"1,10,0.5,0.9,,\n2,20,0.25,0.95,0.3,0.91\n"
    return content


class Events(Format):
    """Event files, cut and damaged, with and without sound checksums around nonsense."""

    def __init__(self, place: pathlib.Path):
        super().__init__(place)
        import tensorflow as tf

        made = place / "made"
        with tf.summary.create_file_writer(str(made)).as_default():
            for step in range(6):
                tf.summary.scalar("loss", 0.5, step)
        self._good = next(made.iterdir()).read_bytes()
        self._whole = list(tf.data.TFRecordDataset([str(next(made.iterdir()))]).as_numpy_iterator())
        shutil.rmtree(made)

    def mutant(self, chance: random.Random) -> bytes:
        if chance.random() < 0.6:
            return mutate(self._good, chance)
        import tensorflow as tf

        path = str(self.place / "packed")
        records = list(self._whole)
        at = chance.randrange(len(records))
        records[at] = mutate(records[at], chance)
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        content = pathlib.Path(path).read_bytes()
        os.remove(path)
        return content

    def judge(self, content: bytes) -> bool:
        import tensorflow as tf

        from trainer.results import event_files

        path = self.place / "events.out.tfevents.1.x"
        path.write_bytes(content)
        event_files.keep_events(str(self.place), 3)
        if not path.exists():
            return False
        left = list(tf.data.TFRecordDataset([str(path)]).as_numpy_iterator())
        if any(tf.compat.v1.Event.FromString(record).step > 3 for record in left):
            raise Wrong("kept what is to be dropped")
        return True


class Requests(Format):
    """What a browser, or somebody else, sends to the drawing page."""

    def __init__(self, place: pathlib.Path):
        super().__init__(place)
        from trainer import draw

        self._server = draw.Server(0, deadline_s=2.0)
        shares = np.full((1, 10), 0.1)
        answer = (lambda images: (np.zeros(1, int), shares),)
        threading.Thread(target=self._server.serve, args=answer, daemon=True).start()
        self._picture = Png(place)

    def mutant(self, chance: random.Random) -> bytes:
        body = self._picture.mutant(chance)
        if chance.random() < 0.7:
            head = (
                "POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
        else:
            head = "GET /style.css HTTP/1.1\r\nHost: 127.0.0.1:8028\r\nAccept: */*\r\n\r\n"
        return mutate_words(head.encode(), chance) + body

    def judge(self, content: bytes) -> bool:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            answer = self._ask(content)
            page = self._ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if err.getvalue():
            raise Wrong(f"said {err.getvalue()[-800:]}")
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)
        if answer and (not status or status[1] == b"500"):
            raise Wrong(f"answered {answer[:200]!r}")
        if not page.startswith(b"HTTP/1.0 200 ") and not page.startswith(b"HTTP/1.1 200 "):
            raise Wrong("does not serve the page any more")
        return bool(status and status[1] == b"200")

    def _ask(self, content: bytes) -> bytes:
        with socket.create_connection(self._server.server_address[:2], timeout=SLOWEST_S) as there:
            with contextlib.suppress(OSError):  # it has answered and left
                there.sendall(content)
                there.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(OSError):
                while chunk := there.recv(1 << 16):
                    answer += chunk
        return answer

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


FORMATS: dict[str, type[Format]] = {
    "IDX": Idx,
    "gzip": Gzip,
    "npz": Npz,
    "PNG": Png,
    "JPEG": Jpeg,
    "flagfile": Flagfile,
    "TF_CONFIG": TfConfig,
    "config.json": ConfigJson,
    "metrics.json": MetricsJson,
    "history.csv": HistoryCsv,
    "event files": Events,
    "requests to trainer.draw": Requests,
}


def mutants(bench: Bench | None, tries: int, seed: int, *formats: str) -> list[Row]:
    """Reads `tries` mutants of each format, of all by default, in a process of its own."""
    formats = formats or tuple(FORMATS)
    command = [sys.executable, "-m", "tests.faults.mutants", str(tries), str(seed), *formats]
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True)
    found = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    rows = [_row(name, each) for name, each in zip(formats, found, strict=False)]
    if len(rows) < len(formats) or process.returncode:
        said = f"the process ended with {process.returncode}: {process.stderr[-600:]}"
        rows += [Row(f"mutants of {name}", 0, "", (said,)) for name in formats[len(rows) :]]
    return rows


def _row(name: str, found: dict[str, Any]) -> Row:
    outcome = (
        f"{found['accepted']:,} accepted, as they say; {found['tries'] - found['accepted']:,}"
        " refused in one line, 0 with a traceback, 0 over 5 s of CPU (the slowest"
        f" {found['slowest_s']:.2f} s); {found['peak_mb']:.0f} MB at most"
    )
    return Row(f"mutants of {name}", found["tries"], outcome, tuple(found["wrong"]))


def _try_all(name: str, tries: int, seed: int) -> dict[str, object]:
    from trainer.errors import DataError, UsageError

    chance = random.Random(f"{name} {seed}")
    accepted, slowest, wrong = 0, 0.0, []
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        empty = pathlib.Path(place, "place")
        empty.mkdir()
        format = FORMATS[name](empty)
        limit = _memory() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for number in range(tries):
            content = format.mutant(chance)
            started = time.perf_counter(), time.process_time()
            try:
                accepted += format.judge(content)
                problem = ""
            except (DataError, UsageError) as error:
                problem = "" if "\n" not in str(error) and str(error) else f"message {error}"
            except Wrong as error:
                problem = str(error)
            except BaseException:
                problem = traceback.format_exc(limit=-3)
            waited, seconds = time.perf_counter() - started[0], time.process_time() - started[1]
            slowest = max(slowest, seconds)
            # The machine may be busy with something else; it is not, a minute long.
            if seconds > SLOWEST_S or waited > 60:
                problem += f" took {seconds:.1f} s of CPU in {waited:.1f} s"
            if problem and len(wrong) < 5:
                wrong.append(f"number {number} of seed {seed}: {problem}")
                pathlib.Path(tempfile.gettempdir(), f"mutant-{number}").write_bytes(content)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        format.close()
    unit = 1 << 10 if sys.platform == "linux" else 1 << 20  # of ru_maxrss, in a megabyte
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return {
        **{"tries": tries, "accepted": accepted, "slowest_s": slowest, "peak_mb": peak},
        "wrong": wrong,
    }


def _memory() -> int:
    """The address space this process has taken, in bytes; 1 TB where nobody tells."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 1 << 40
    return pages * resource.getpagesize()


if __name__ == "__main__":
    for format_name in sys.argv[3:]:
        found = _try_all(format_name, int(sys.argv[1]), int(sys.argv[2]))
        print(json.dumps(found), flush=True)
