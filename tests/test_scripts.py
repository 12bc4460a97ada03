"""The set-up scripts, run for real in a copy of the project with a lock of one tiny wheel.

The copy has a `trainer.task` of its own that says how it was started: the real one would need
TensorFlow in every .venv made here, which takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile

import pytest
import runs

# Bounds a wait for something that takes a second or two, so that a failure is not a hang.
TIMEOUT_S = 300
COMPILED = ".venv/lib/python3*/site-packages/__pycache__/never_imported.*.pyc"

PATH = os.environ["PATH"].split(os.pathsep)
WITHOUT_UV = os.pathsep.join(each for each in PATH if not os.path.exists(f"{each}/uv"))

TASK = """
import os, signal, sys, time
import tiny
print("version", tiny.VERSION)
print("arguments", sys.argv[1:])
print("directory", os.getcwd(), __file__)
print("process", os.getpid())
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready")
    time.sleep(600)
if "--fail" in sys.argv:
    sys.exit(138)
"""


class Project:
    """A copy of the scripts with a lock of its own, in a directory whose name has spaces."""

    def __init__(self, directory: pathlib.Path):
        self.root = directory / "my number recognition"
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        for name in ("trainer", "requirements", "scripts"):
            (self.root / name).mkdir(parents=True)
        for script in ("train.sh", "test.sh", "venv.sh"):
            shutil.copy(runs.ROOT / "scripts" / script, self.root / "scripts")
        (self.root / "trainer/__init__.py").touch()
        (self.root / "trainer/task.py").write_text(TASK)
        self.lock("1.0")

    def lock(self, version: str, digest: str | None = None) -> None:
        """Locks every requirements file to one version of the wheel, and makes the wheel."""
        wheel = self.wheels / f"tiny-{version}-py3-none-any.whl"
        files = {
            "tiny.py": f"VERSION = '{version}'\n",
            "never_imported.py": "",
            "METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in files.items():
                prefix = "" if name.endswith(".py") else f"tiny-{version}.dist-info/"
                archive.writestr(prefix + name, text)
        digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
        for name in ("cpu", "gpu", "dev"):
            text = f"tiny=={version} --hash=sha256:{digest}\n# {name}\n"
            (self.root / f"requirements/{name}.txt").write_text(text)

    def start(self, *flags: str, cwd: pathlib.Path | None = None, **environment: str):
        """Starts train.sh, offline, in a process group of its own."""
        described = ("PIP_", "UV_", "PYTHON", "REQUIREMENTS")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(described)}
        offline = {
            "PYTHON": sys.executable,
            "REQUIREMENTS": "cpu",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "UV_OFFLINE": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
            "UV_CACHE_DIR": str(self.wheels / "cache"),
            "PATH": WITHOUT_UV,
        }
        return subprocess.Popen(
            [self.root / "scripts/train.sh", *flags],
            cwd=cwd,
            env=inherited | offline | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *flags: str, **options: str):
        """Runs what `start` does to its end; returns exit code, standard output and error."""
        process = self.start(*flags, **options)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err


@pytest.fixture
def fresh(tmp_path: pathlib.Path) -> Project:
    """A project that was never started."""
    return Project(tmp_path)


@pytest.fixture(scope="module")
def first_starts(tmp_path_factory: pytest.TempPathFactory):
    """A project and what two first starts at the same moment printed."""
    project = Project(tmp_path_factory.mktemp("project"))
    both = [project.start(), project.start()]
    return project, [process.communicate(timeout=TIMEOUT_S) for process in both]


@pytest.fixture
def installed(first_starts) -> Project:
    """A project whose .venv is complete, but for the last test that uses it."""
    return first_starts[0]


def test_two_first_starts_at_once_install_once_and_both_train(first_starts):
    project, outputs = first_starts
    assert ["version 1.0" in out for out, _ in outputs] == [True, True], outputs
    assert sum(err.count("requirements/cpu.txt into") for _, err in outputs) == 1
    assert list(project.root.glob(COMPILED))


def test_a_second_start_needs_neither_python_nor_pip_nor_network(installed):
    nowhere = {"PYTHON": "/nowhere/python3", "PIP_FIND_LINKS": "/nowhere"}
    code, out, err = installed.run(**nowhere)
    assert (code, err) == (0, "")
    assert "arguments ['--epochs', '5']" in out


def test_flags_and_exit_codes_are_passed_on_as_they_are(installed):
    flags = ["--model_dir", "a b", "", "*", "--fail"]
    code, out, _ = installed.run(*flags)
    assert (code, f"arguments {flags}" in out) == (138, True)


def test_a_signal_reaches_the_trainer(installed):
    process = installed.start("--wait")
    lines = list(iter(process.stdout.readline, "ready\n"))
    assert f"process {process.pid}\n" in lines
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143


def test_it_starts_in_any_directory_even_one_that_has_a_trainer_of_its_own(installed, tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("raise SystemExit('the wrong trainer')")
    code, out, err = installed.run(cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 0, err
    assert f"directory {tmp_path.resolve()} {installed.root.resolve()}" in out


def test_a_changed_lock_is_installed(installed):
    installed.lock("2.0")
    code, out, err = installed.run()
    assert code == 0, err
    assert "version 2.0" in out


@pytest.mark.skipif(sys.platform != "linux", reason="there is no NVIDIA driver for this system")
def test_an_nvidia_driver_selects_the_gpu_lock_which_holds_the_cpu_lock_too(installed, tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: some device'\n")
    driver.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    code, _, err = installed.run(REQUIREMENTS="", PATH=path)
    assert (code, err.count("requirements/gpu.txt into")) == (0, 1)
    assert installed.run(REQUIREMENTS="cpu")[2] == ""


def test_uv_installs_into_an_environment_of_ones_own_which_is_kept(fresh, tmp_path):
    uv = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not uv:
        pytest.skip("needs uv")
    (tmp_path / "uv").symlink_to(uv)
    venv.create(fresh.root / ".venv", symlinks=True)  # without pip
    (fresh.root / ".venv/mine").touch()
    code, out, err = fresh.run(PATH=f"{tmp_path}{os.pathsep}{WITHOUT_UV}")
    assert code == 0, err
    assert "version 1.0" in out
    assert list(fresh.root.glob(COMPILED))
    assert (fresh.root / ".venv/mine").exists()


def test_an_installation_killed_in_the_middle_is_made_anew(installed):
    installed.lock("3.0")
    process = installed.start()
    mark = installed.root / ".venv/installed/root"
    until = time.monotonic() + TIMEOUT_S
    while mark.exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)

    (installed.root / ".venv/lib/rest").touch()
    code, out, err = installed.run()
    assert code == 0, err
    assert "version 3.0" in out
    assert not (installed.root / ".venv/lib/rest").exists()


def test_a_package_with_another_hash_is_refused_and_never_started(installed):
    installed.lock("4.0", digest="0" * 64)
    code, out, err = installed.run()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: could not install ")
    # What was interrupted is made anew, as the test above shows; here its mark alone, to save time.
    assert not (installed.root / ".venv/installed/root").exists()


@pytest.mark.slow
def test_a_moved_project_gets_a_new_environment(fresh):
    assert fresh.run()[0] == 0
    fresh.root = fresh.root.rename(fresh.root.with_name("moved"))
    code, out, err = fresh.run()
    assert (code, err.count("Installing")) == (0, 1), err
    assert str(fresh.root) in out


def assert_refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in ("error: ", *words)), err


def test_no_python_is_one_line_that_says_what_to_install(fresh, tmp_path):
    for program in ("bash", "cat", "cmp", "dirname", "env", "grep"):
        (tmp_path / program).symlink_to(shutil.which(program))
    assert_refused(fresh.run(PATH=str(tmp_path), PYTHON=""), "Python 3.10 to 3.13", "PYTHON=")


def test_a_lock_or_a_python_that_cannot_be_used_is_named(fresh, tmp_path):
    assert_refused(fresh.run(REQUIREMENTS="tpu"), "REQUIREMENTS must be cpu or gpu, not 'tpu'")
    assert_refused(fresh.run(PYTHON="/nowhere/my python3"), "/nowhere/my python3")
    # What Debian's python3 is without python3-venv.
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert_refused(fresh.run(PYTHON=str(python)), str(python), "apt-get install python3-venv")
