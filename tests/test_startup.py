"""The start of a process: TensorFlow without noise and from any thread, streams, CPUs."""

import os
import pathlib
import signal
import time

import pytest
import runs

from trainer.process.startup import available_cpus


def test_tensorflow_is_imported_without_a_word_and_whole_for_all_threads() -> None:
    """One imports; the others ask for it over and over meanwhile, and use it at once."""
    done = runs.python("""
        import concurrent.futures, gc, sys
        from trainer.process import startup

        def ask():
            while "tensorflow" not in sys.modules:
                pass
            return startup.import_tensorflow().io.gfile.exists("/")

        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            asked = [pool.submit(ask) for _ in range(8)]
            pool.submit(startup.import_tensorflow).result()
            assert [answer.result() for answer in asked] == [True] * 8
        assert gc.isenabled()
        print("heard", file=sys.stderr)
    """)
    assert (*done.communicate(), done.returncode) == ("", "heard\n", 0)


def test_python_is_heard_while_the_native_side_is_not() -> None:
    done = runs.python("""
        import os, sys
        from trainer.process.startup import open_standard_streams, quiet_stderr
        open_standard_streams()
        with quiet_stderr():
            os.write(2, b"native\\n")
            print("python", file=sys.stderr)
        os.write(2, b"native again\\n")
    """)
    assert done.communicate() == ("", "python\nnative again\n")


CPU_QUOTAS = {
    "two CPUs": ("200000 100000\n", 2),
    "part of a CPU": ("50000 100000\n", 1),
    "rounded up": ("250000 100000\n", 3),
    "no limit": ("max 100000\n", 4),
    "more than there is": ("6400000 100000\n", 4),
    "nonsense": ("lots\n", 4),
}


@pytest.mark.parametrize(("quota", "expected"), CPU_QUOTAS.values(), ids=CPU_QUOTAS)
def test_a_process_has_the_cpus_of_its_mask_and_of_its_containers_quota(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3, 5, 6}, raising=False)
    assert available_cpus(tmp_path) == 4
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cpus(tmp_path) == expected
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert available_cpus(tmp_path) <= os.cpu_count()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs Linux's /proc")
@pytest.mark.parametrize("more_s", [0.0, 0.5])
def test_sigterm_during_the_import_is_one_line_and_exit_code_143(tiny_dir, tmp_path, more_s):
    process = runs.task(f"--data_dir={tiny_dir}", f"--model_dir={tmp_path}/run", "--epochs=500")
    libraries = pathlib.Path(f"/proc/{process.pid}/maps")
    while "libtensorflow" not in libraries.read_text():  # after that the import takes a second
        time.sleep(0.01)
    time.sleep(more_s)
    process.send_signal(signal.SIGTERM)
    err = process.communicate()[1]
    assert process.returncode == 143
    assert err.startswith("stopped by SIGTERM")
    assert err.count("\n") == 1
