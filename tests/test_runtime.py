"""The process: CPUs as the container grants them, TensorFlow without noise, signals as errors."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
import runs

from trainer.errors import Interrupted
from trainer.process.startup import StopSignals, as_typed, available_cpus


def cpus(root: pathlib.Path, cgroup: str, files: dict[str, str]) -> int:
    """The CPUs of a machine whose control groups are these files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return available_cpus(root)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """An affinity mask of eight CPUs, whatever the machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


V2, V1 = "0::/pod/box\n", "5:memory:/x\n4:cpu,cpuacct:/pod\n0::/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    {
        "v2, two CPUs": (V2, {"pod/box/cpu.max": "200000 100000\n"}, 2),
        "v2, part of a CPU": (V2, {"pod/box/cpu.max": "50000 100000\n"}, 1),
        "v2, rounded up": (V2, {"pod/box/cpu.max": "250000 100000\n"}, 3),
        "v2, no limit": (V2, {"pod/box/cpu.max": "max 100000\n"}, 8),
        "v2, limit of the pod": (
            V2,
            {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"},
            4,
        ),
        "v2, own name space": ("0::/\n", {"cpu.max": "300000 100000\n"}, 3),
        "v2, path of the host": ("0::/../other\n", {"cpu.max": "300000 100000\n"}, 3),
        "v2, more than there is": (V2, {"pod/box/cpu.max": "6400000 100000\n"}, 8),
        "v2, nonsense": (V2, {"pod/box/cpu.max": "lots\n"}, 8),
        "v1, two CPUs": (
            V1,
            {
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "200000\n",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        "v1, mounted as cpu": (
            V1,
            {"cpu/pod/cpu.cfs_quota_us": "150000\n", "cpu/pod/cpu.cfs_period_us": "50000\n"},
            3,
        ),
        "v1, no limit": (
            V1,
            {"cpu/pod/cpu.cfs_quota_us": "-1\n", "cpu/pod/cpu.cfs_period_us": "100000\n"},
            8,
        ),
        "v1, path of the host": (
            "4:cpu,cpuacct:/docker/0123\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        "no files": (V2, {}, 8),
    }.values(),
)
def test_thread_pools_follow_the_quota_of_the_container(
    tmp_path: pathlib.Path, cgroup: str, files: dict[str, str], expected: int
) -> None:
    assert cpus(tmp_path, cgroup, files) == expected


def test_without_control_groups_the_affinity_counts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 6}, raising=False)
    assert available_cpus(tmp_path) == 3
    assert cpus(tmp_path, V2, {"pod/box/cpu.max": "200000 100000\n"}) == 2


def test_a_machine_that_knows_no_affinity_has_all_its_cpus(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cpus(tmp_path) == os.cpu_count()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_becomes_an_error_with_its_exit_code(number: signal.Signals, code: int) -> None:
    with StopSignals(), pytest.raises(Interrupted, match=number.name) as caught:
        signal.raise_signal(number)
    assert caught.value.exit_code == code


def test_a_deferred_signal_is_noted_and_does_not_disturb() -> None:
    with StopSignals() as stop:
        with stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert stop.received == signal.SIGTERM
        assert stop.error("saved").exit_code == 143


def test_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def python(program: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=runs.ROOT,
        env=runs.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_ctrl_c_leaves_at_once_whatever_is_going_on(first: str) -> None:
    done = python(f"""
        import signal
        from trainer.process.startup import StopSignals
        with StopSignals() as stop, stop.deferred():
            signal.raise_signal(signal.{first})
            print("still here", flush=True)
            signal.raise_signal(signal.SIGINT)
            print("not here", flush=True)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (130, "still here\n", "")


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_leaves_at_once_during_a_long_call_outside_python(
    first: signal.Signals,
) -> None:
    program = """
        import hashlib
        from trainer.process.startup import StopSignals
        with StopSignals() as stop, stop.deferred():
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(first)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 130
        finally:
            process.kill()


@pytest.fixture
def environment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The programs of an environment that is not on the PATH, as those of this process."""
    bin_dir = tmp_path / "my env" / "bin"
    bin_dir.mkdir(parents=True)
    for program in ("python", "tensorboard"):
        (bin_dir / program).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(bin_dir / "python"))
    monkeypatch.setenv("PATH", os.path.dirname(os.path.realpath(sys.executable)))
    return bin_dir


def test_a_program_is_named_as_a_shell_finds_it(
    environment: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name alone finds is the Python that the environment was made of: not this one."""
    assert as_typed("python") == f"'{environment / 'python'}'"
    monkeypatch.chdir(environment.parent.parent)
    assert as_typed("tensorboard") == "'my env/bin/tensorboard'"
    assert subprocess.run(f"{as_typed('python')} -c ''", shell=True, check=False).returncode == 0

    monkeypatch.chdir(environment)
    assert as_typed("tensorboard") == "./tensorboard"

    monkeypatch.setenv("PATH", str(environment), prepend=os.pathsep)
    assert as_typed("python") == "python"


def test_python_is_named_as_it_was_started(
    environment: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian has only a python3; and another python may stand beside it."""
    (environment / "python").rename(environment / "python3")
    (environment / "python").symlink_to("/usr/bin/env")
    monkeypatch.setattr(sys, "executable", str(environment / "python3"))
    monkeypatch.setenv("PATH", str(environment), prepend=os.pathsep)
    assert as_typed("python") == "python3"


def test_a_program_can_be_named_where_the_working_directory_is_gone(
    environment: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("PATH", "", prepend=os.pathsep)
    assert as_typed("tensorboard") == f"'{environment / 'tensorboard'}'"


def test_a_program_that_the_environment_lacks_is_named_all_the_same(
    environment: pathlib.Path,
) -> None:
    (environment / "tensorboard").unlink()
    assert as_typed("tensorboard") == "tensorboard"


def test_tensorflow_is_imported_without_a_word() -> None:
    done = python("""
        import sys
        from trainer.process.startup import import_tensorflow
        assert import_tensorflow() is import_tensorflow() is sys.modules["tensorflow"]
        print("heard", file=sys.stderr)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "heard\n")


def test_after_the_import_python_looks_for_garbage_again_but_not_in_tensorflow() -> None:
    done = python("""
        import gc
        from trainer.process.startup import import_tensorflow
        import_tensorflow()
        print(gc.isenabled(), gc.get_freeze_count() > 100_000)
    """)
    assert (done.returncode, done.stdout) == (0, "True True\n")


def test_what_is_held_back_is_shown_if_the_import_fails() -> None:
    done = python("""
        import os
        from trainer.process.startup import quiet_stderr
        with quiet_stderr():
            os.write(2, b"native words\\n")
            raise ImportError("no such library")
    """)
    assert done.returncode == 1
    assert done.stderr.startswith("native words\n")
    assert done.stderr.endswith("ImportError: no such library\n")


def test_a_signal_that_an_import_takes_for_something_else_is_still_one() -> None:
    done = python("""
        import os, signal, sys
        from trainer.process import command_line, startup

        def run(argv):
            with startup.StopSignals(), startup.quiet_stderr():
                os.write(2, b"native words\\n")
                try:
                    signal.raise_signal(signal.SIGTERM)
                except Exception as error:
                    raise TypeError("unsupported callable") from error

        sys.exit(command_line.main(run))
    """)
    assert done.returncode == 143
    assert done.stderr.startswith("stopped by SIGTERM")
    assert done.stderr.count("\n") == 1


def test_standard_error_that_is_closed_is_no_error() -> None:
    done = python("""
        import os
        from trainer.process.startup import quiet_stderr
        os.close(2)
        with quiet_stderr():
            print("fine")
    """)
    assert (done.returncode, done.stdout) == (0, "fine\n")


def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Each page that a process gets anew is a fault, which `getrusage` counts."""
    script = """
        import ctypes, resource
        from trainer.process.startup import keep_freed_memory
        libc, size = ctypes.CDLL(None), 64 << 20
        if not hasattr(libc, "mallopt"):
            raise SystemExit("no mallopt")
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                place = libc.malloc(size)
                ctypes.memset(place, 1, size)
                libc.free(place)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        given_back = faults()
        keep_freed_memory()
        faults()  # once, to get it
        print(given_back, faults())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, check=False)
    if done.stderr == "no mallopt\n":
        pytest.skip("the C library is not glibc")
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 100
    assert kept < given_back / 20
