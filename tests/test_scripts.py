"""The set-up scripts, run for real in a copy of the project with a lock of one tiny wheel.

The copy has a `trainer.task` of its own that says how it was started: the real one would need
TensorFlow in every .venv made here, which takes minutes.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCKS = ("cpu", "gpu", "dev")

# Bounds a wait for something that takes a second or two, so that a failure is not a hang.
TIMEOUT_S = 300
COMPILED = ".venv/lib/python3*/site-packages/__pycache__/never_imported.*.pyc"

TASK = """
import os, signal, sys, time
import tiny
print("version", tiny.VERSION)
print("arguments", sys.argv[1:])
print("directory", os.getcwd())
print("process", os.getpid())
if "--wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready")
    time.sleep(600)
if "--fail" in sys.argv:
    sys.exit(138)
"""


def without_uv(path: str) -> str:
    """Returns the directories of a PATH that have no uv in them."""
    return os.pathsep.join(d for d in path.split(os.pathsep) if not os.path.exists(f"{d}/uv"))


class Project:
    """A copy of the scripts with a lock of its own, in a directory whose name has spaces."""

    def __init__(self, directory: pathlib.Path):
        self.root = directory / "my number recognition"
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        (self.root / "trainer").mkdir(parents=True)
        (self.root / "requirements").mkdir()
        (self.root / "scripts").mkdir()
        for script in ("train.sh", "test.sh", "venv.sh"):
            shutil.copy(ROOT / "scripts" / script, self.root / "scripts")
        (self.root / "trainer/__init__.py").touch()
        (self.root / "trainer/task.py").write_text(TASK)
        self.lock("1.0")

    def lock(self, version: str, digest: str | None = None) -> None:
        """Locks every requirements file to one version of the wheel, and makes the wheel."""
        wheel = self.wheels / f"tiny-{version}-py3-none-any.whl"
        info = f"tiny-{version}.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("tiny.py", f"VERSION = '{version}'\n")
            archive.writestr("never_imported.py", "")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n"
            )
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
        digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
        for name in LOCKS:
            self.requirements(name).write_text(
                f"tiny=={version} --hash=sha256:{digest}\n# {name}\n"
            )

    def requirements(self, name: str) -> pathlib.Path:
        return self.root / "requirements" / f"{name}.txt"

    def start(
        self,
        *flags: str,
        script: str = "train.sh",
        cwd: pathlib.Path | None = None,
        **environment: str,
    ):
        """Starts a script, offline, in a process group of its own."""
        described = ("PIP_", "UV_", "PYTHON", "REQUIREMENTS")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(described)}
        offline = {
            "PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "REQUIREMENTS": "cpu",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "UV_OFFLINE": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
            "UV_CACHE_DIR": str(self.wheels / "cache"),
            "PATH": without_uv(os.environ["PATH"]),
        }
        return subprocess.Popen(
            [self.root / "scripts" / script, *flags],
            cwd=cwd,
            env=inherited | offline | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *flags: str, **options):
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
    """A project and what two first starts at the same moment said."""
    project = Project(tmp_path_factory.mktemp("project"))
    both = [project.start(), project.start()]
    outputs = [process.communicate(timeout=TIMEOUT_S) for process in both]
    return project, [process.returncode for process in both], outputs


@pytest.fixture
def installed(first_starts) -> Project:
    """A project whose .venv is complete, but for the last test that uses it."""
    return first_starts[0]


def test_two_first_starts_at_once_install_once_and_both_train(first_starts):
    project, codes, outputs = first_starts
    assert codes == [0, 0], outputs
    assert list(project.root.glob(COMPILED))  # whatever PYTHONDONTWRITEBYTECODE says
    assert all("version 1.0" in out for out, _ in outputs)
    assert sum(err.count("Installing requirements/cpu.txt") for _, err in outputs) == 1


def test_a_second_start_needs_neither_python_nor_pip_nor_network(installed):
    nowhere = {"PYTHON": "/nowhere/python3", "PIP_FIND_LINKS": "/nowhere"}
    code, out, err = installed.run(**nowhere)
    assert (code, err) == (0, "")
    assert "version 1.0" in out


def test_flags_and_exit_codes_are_passed_on_as_they_are(installed):
    assert "arguments ['--epochs', '5']" in installed.run()[1]
    flags = ["--model_dir", "a b", "", "*", "--fail"]
    code, out, _ = installed.run(*flags)
    assert (code, f"arguments {flags}" in out) == (138, True)


def test_a_signal_reaches_the_trainer(installed):
    process = installed.start("--wait")
    for line in process.stdout:
        if line.startswith("process"):
            assert int(line.split()[1]) == process.pid
        if line == "ready\n":
            break
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143


def test_it_starts_in_any_directory_even_one_that_has_a_trainer_of_its_own(installed, tmp_path):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer/__init__.py").write_text("raise SystemExit('the wrong trainer')")
    code, out, err = installed.run(cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert code == 0, err
    assert f"directory {tmp_path.resolve()}\n" in out


def test_a_changed_lock_is_installed(installed):
    installed.lock("2.0")
    code, out, err = installed.run()
    assert code == 0, err
    assert "version 2.0" in out
    assert "Removing" not in err


def test_an_nvidia_driver_selects_the_gpu_lock_which_holds_the_cpu_lock_too(installed, tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'GPU 0: some device'\n")
    driver.chmod(0o755)
    if sys.platform != "linux":
        pytest.skip("there is no NVIDIA driver for this system")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    code, _, err = installed.run(REQUIREMENTS="", PATH=path)
    assert (code, err.count("Installing requirements/gpu.txt")) == (0, 1)
    assert installed.run(REQUIREMENTS="cpu")[2] == ""


def test_uv_installs_the_same_where_it_is(fresh, tmp_path):
    uv = shutil.which("uv", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not uv:
        pytest.skip("needs uv")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").symlink_to(uv)
    path = f"{tmp_path / 'bin'}{os.pathsep}{without_uv(os.environ['PATH'])}"
    code, out, err = fresh.run(PATH=path, PIP_FIND_LINKS="/nowhere")  # pip alone would fail
    assert code == 0, err
    assert "version 1.0" in out
    assert list(fresh.root.glob(COMPILED))


def test_an_installation_killed_in_the_middle_is_made_anew(installed):
    installed.lock("3.0")
    process = installed.start()
    mark = installed.root / ".venv.lock"
    until = time.monotonic() + TIMEOUT_S
    while not mark.stat().st_size and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)

    code, out, err = installed.run()
    assert (code, err.count("Removing")) == (0, 1), err
    assert "version 3.0" in out
    assert installed.run()[2] == ""


def test_a_package_with_another_hash_is_refused_and_never_started(installed):
    installed.lock("4.0", digest="0" * 64)
    code, out, err = installed.run()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: could not install requirements/cpu.txt")
    # What was interrupted is made anew, as the test above shows; here its mark alone, to save time.
    assert (installed.root / ".venv.lock").stat().st_size


@pytest.mark.slow
def test_a_moved_project_gets_a_new_environment(fresh):
    assert fresh.run()[0] == 0
    fresh.root = fresh.root.rename(fresh.root.with_name("moved"))
    code, _, err = fresh.run()
    assert (code, err.count("Removing")) == (0, 1), err


def test_a_virtual_environment_of_ones_own_is_kept(fresh):
    venv.create(fresh.root / ".venv", with_pip=True)
    (fresh.root / ".venv/mine").touch()
    code, out, err = fresh.run()
    assert code == 0, err
    assert "version 1.0" in out
    assert (fresh.root / ".venv/mine").exists()


def assert_refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    for word in words:
        assert word in err


def only(directory: pathlib.Path, *programs: str) -> str:
    """Makes a PATH in which there are no other programs."""
    directory.mkdir()
    for program in programs:
        (directory / program).symlink_to(shutil.which(program))
    return str(directory)


def test_no_python_is_one_line_that_says_what_to_install(fresh, tmp_path):
    path = only(tmp_path / "bin", "bash", "cat", "cmp", "dirname", "env", "grep")
    assert_refused(fresh.run(PATH=path, PYTHON=""), "Python 3.10 to 3.13", "PYTHON=")


def test_a_python_that_cannot_be_used_is_named(fresh, tmp_path):
    assert_refused(fresh.run(PYTHON="/nowhere/my python3"), "/nowhere/my python3")
    # What Debian's python3 is without python3-venv.
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    assert_refused(fresh.run(PYTHON=str(python)), str(python), "apt-get install python3-venv")


def test_an_unknown_lock_is_refused(fresh):
    assert_refused(fresh.run(REQUIREMENTS="tpu"), "REQUIREMENTS must be cpu or gpu, not 'tpu'")


def pins(name: str) -> dict[tuple[str, str], str]:
    """Returns the lock's versions by package and marker."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    lines = re.findall(r"^([\w.-]+)==(\S+)(?: ; (.*?))? \\$", text, re.MULTILINE)
    return {(package, marker): version for package, version, marker in lines}


@pytest.mark.parametrize("name", ["gpu", "dev"])
def test_the_other_locks_contain_the_cpu_lock(name):
    assert pins("cpu").items() <= pins(name).items()


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_address(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins(name))
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_satisfy_setup_cfg(name):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    wanted = config["options"]["install_requires"].splitlines()
    wanted += config["options.extras_require"].get(name, "").splitlines()
    for requirement in map(Requirement, filter(None, wanted)):
        versions = [v for (package, _), v in pins(name).items() if package == requirement.name]
        assert versions, requirement
        assert all(requirement.specifier.contains(version) for version in versions), requirement
