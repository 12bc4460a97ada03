"""The promises of the contract, the test that fails when one is broken, and one way to break it.

`python -m tests.faults.promises` breaks each in a copy of the project, sees its test fail, and
lists them in docs/reliability.md. A test that passes on the broken code, or a break that no longer
fits the code, is an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tempfile

from .table import DOCUMENT, replaced

ROOT = pathlib.Path(__file__).parents[2]
HEAD = "| promise | test | how it was broken |\n| --- | --- | --- |\n"
BEGIN, END = "<!-- promises -->\n", "<!-- /promises -->"


@dataclasses.dataclass(frozen=True)
class Promise:
    """A promise; `test` is pytest's name below tests/; `file`, below trainer/, has `old` once."""

    promise: str
    test: str
    file: str
    old: str
    new: str
    how: str


PROMISES = (
    Promise(
        "a wrong flag is exit code 2 and one line on standard error",
        "test_task.py::test_a_wrong_flag_is_one_line_and_exit_code_2_without_tensorflow[no epochs]",
        "errors.py",
        "    exit_code = 2",
        "    exit_code = 1",
        "UsageError leaves with 1",
    ),
    Promise(
        "a wrong flag is answered before TensorFlow is imported",
        "test_task.py::test_a_wrong_flag_is_one_line_and_exit_code_2_without_tensorflow[no epochs]",
        "task.py",
        "            config = parse(argv)\n",
        "            import tensorflow\n            config = parse(argv)\n",
        "the entry imports TensorFlow first",
    ),
    Promise(
        "a message is one line, whatever a name contains",
        "test_task.py::test_a_message_stays_one_line_whatever_a_name_contains",
        "entry.py",
        'return "".join(c if c.isprintable() else',
        'return text or "".join(c if c.isprintable() else',
        "names are printed as they are",
    ),
    Promise(
        "`--help` documents every flag; `--flagfile` works",
        "test_task.py::test_help_documents_every_flag",
        "task.py",
        '        lines += [f"  --{field.name} ',
        '        lines += [f"  {field.name} ',
        "flags stand there without their dashes",
    ),
    Promise(
        "corrupt data is exit code 3 and leaves no run behind",
        "test_task.py::test_corrupt_data_is_exit_code_3_and_leaves_no_run_behind[label]",
        "data/idx.py",
        "    if labels.max() >= CLASSES:",
        "    if labels.max() > CLASSES:",
        "a label of 10 passes",
    ),
    Promise(
        "`auto` is MNIST, else synthetic digits with a warning",
        "test_data_search.py::test_auto_falls_back_to_synthetic_digits_with_a_warning_that_stands_out",
        "data/__init__.py",
        "        notify(_box(",
        "        str(_box(",
        "the warning is not shown",
    ),
    Promise(
        "what a person named counts alone; a fault there is an error",
        "test_data_search.py::test_what_a_person_names_goes_before_the_caches",
        "data/search.py",
        "    if data_dir is not None:\n        return",
        "    if data_dir is not None and not environ.get(variable):\n        return",
        "the variable goes before the flag",
    ),
    Promise(
        "what is downloaded has the published SHA-256",
        "test_data_download.py::test_a_beginning_of_something_else_is_thrown_away",
        "data/download.py",
        "                if file.matches(partial):",
        "                if partial.exists():",
        "the checksum is not looked at",
    ),
    Promise(
        "a gzip bomb costs no memory",
        "test_data_formats.py::test_a_gzip_bomb_costs_no_memory",
        "data/idx.py",
        "    if stream.read(1):",
        "    if stream.read():",
        "all of the stream is read",
    ),
    Promise(
        "nothing in an npz is unpickled",
        "test_hostile_input.py::test_mutants_are_refused_in_one_line_or_read_as_they_say[npz]",
        "data/npz.py",
        "            with zipfile.ZipFile(file) as archive:",
        "            dict(np.load(path, allow_pickle=True))\n"
        "            with zipfile.ZipFile(file) as archive:",
        "members go through numpy.load with pickle",
    ),
    Promise(
        "a damaged record in the directory is named, with exit code 2",
        "test_hostile_input.py::test_mutants_are_refused_in_one_line_or_read_as_they_say[config.json]",
        "run_directory.py",
        "    except (OSError, ValueError, RecursionError) as error:",
        "    except (OSError, RecursionError) as error:",
        "JSON that does not parse is not caught",
    ),
    Promise(
        "a damaged image is refused in one line",
        "test_images.py::test_damage_anywhere_in_a_file_is_an_error_or_a_digit_but_never_another_exception",
        "images.py",
        "        except Exception as error:  # so do damaged bodies",
        "        except KeyError as error:  # so do damaged bodies",
        "what a damaged body raises is not caught",
    ),
    Promise(
        "the same directory again resumes the run; a finished run is left as it is",
        "test_task.py::test_a_finished_run_is_left_as_it_is_without_tensorflow",
        "run_directory.py",
        'self.metrics["epochs"] >= epochs',
        'self.metrics["epochs"] > epochs',
        "an equal number of epochs does not count as finished",
    ),
    Promise(
        "a run of another configuration is refused with what differs",
        "test_task.py::test_a_directory_of_another_run_is_refused_with_what_differs[--seed=2-1]",
        "config.py",
        '            if not field.metadata["same_run"]\n',
        '            if not field.metadata["same_run"] and field.name != "seed"\n',
        "another seed passes",
    ),
    Promise(
        "a run is refused other data than it began with",
        "test_run_directory.py::test_other_data_is_another_run",
        "run_directory.py",
        "get(name) != sha256[name]",
        "get(name) is None",
        "checksums are not compared",
    ),
    Promise(
        "`--resume=never` refuses a directory that holds a run",
        "test_task.py::test_resume_never_refuses_a_directory_that_holds_a_run",
        "run_directory.py",
        'if config.resume == "never":',
        'if config.resume == "none":',
        "never is not looked at",
    ),
    Promise(
        "two jobs do not write one directory; a dead one blocks nobody",
        "test_lock.py::test_the_second_job_says_who_holds_the_directory_and_leaves_with_2",
        "lock.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        "the lock is a shared one",
    ),
    Promise(
        "`--batch_size` is global, and divisible by the replicas",
        "test_task.py::test_a_wrong_flag_is_one_line_and_exit_code_2_without_tensorflow"
        "[batch that does not divide]",
        "config.py",
        "        if batch % replicas:",
        "        if batch < replicas:",
        "any batch passes",
    ),
    Promise(
        "batch n is a function of (seed, n), wherever the run was resumed",
        "test_pipeline.py::test_a_batch_does_not_depend_on_the_length_of_the_loop_or_the_start",
        "pipeline.py",
        "tf.data.Dataset.range(first * local, last * local)",
        "tf.data.Dataset.range(0, (last - first) * local)",
        "batches are counted from the resumed step",
    ),
    Promise(
        "each epoch shows each example once",
        "test_pipeline.py::test_every_epoch_shows_each_example_once_though_batches_reach_over_its_end",
        "pipeline.py",
        "    epochs = tf.cast(flat // examples, tf.int32)",
        "    epochs = tf.cast((flat + 7) // examples, tf.int32)",
        "the order changes seven examples early",
    ),
    Promise(
        "the same examples are seen whatever the number of replicas and workers",
        "test_pipeline.py::test_replicas_and_workers_share_the_very_same_batch",
        "pipeline.py",
        "offset = (local_replicas[0] + element % local) * batch",
        "offset = (element % local) * batch",
        "each worker takes the first slices",
    ),
    Promise(
        "N devices give the weights of one",
        "test_training.py::test_the_number_of_devices_does_not_matter[4]",
        "training.py",
        "- smoothed) / batch\n",
        "- smoothed) / float(images.shape[0])\n",
        "each replica takes the mean of its own share",
    ),
    Promise(
        "`--seed` decides all randomness",
        "test_training.py::test_two_trainers_of_one_seed_are_bit_identical_and_of_two_seeds_are_not",
        "training.py",
        "                seed=config.seed,",
        "                seed=1,",
        "the initial weights have a seed of their own",
    ),
    Promise(
        "the loop is AdamW on the smoothed cross-entropy, compiled or not",
        "test_training.py::test_the_loop_is_adamw_on_the_smoothed_cross_entropy",
        "training.py",
        "smoothed = target * (1 - smoothing) + smoothing / 10",
        "smoothed = target * (1 - smoothing)",
        "the smoothed share is lost",
    ),
    Promise(
        "a killed run ends with the same `weights_sha256`",
        "test_resume.py::test_a_run_killed_twice_ends_as_if_nothing_had_happened",
        "training.py",
        '            "velocity": self.velocity,\n',
        "",
        "the squared gradients are not in the checkpoint",
    ),
    Promise(
        "a damaged checkpoint is told and the one before it used",
        "test_checkpoints.py::test_damaged_ones_are_told_and_passed_over",
        "checkpoints.py",
        "            damaged.append(problem)\n",
        "            break\n",
        "the first damaged one ends the search",
    ),
    Promise(
        "`--keep_checkpoints` bounds the disk",
        "test_checkpoints.py::test_only_the_newest_are_kept",
        "checkpoints.py",
        "if other <= step][: self._keep]",
        "if other <= step][:9]",
        "all are kept",
    ),
    Promise(
        "SIGTERM and Ctrl-C save the progress and leave with 143 and 130",
        "test_resume.py::test_a_signal_saves_the_progress_and_leaves_with_its_code",
        "errors.py",
        "self.exit_code = 128 + signal_number",
        "self.exit_code = 1",
        "Interrupted leaves with 1",
    ),
    Promise(
        "a second Ctrl-C leaves at once",
        "test_runtime.py::test_a_second_ctrl_c_leaves_at_once_whatever_is_going_on",
        "runtime.py",
        "if self.received is not None and number == signal.SIGINT:",
        "if self.received is None and number == 0:",
        "it is noted like the first",
    ),
    Promise(
        "a lost peer is named, with exit code 138",
        "test_peers.py::test_a_killed_worker_is_named_by_all_others_within_15_s",
        "errors.py",
        "    exit_code = 138",
        "    exit_code = 1",
        "ClusterError leaves with 1",
    ),
    Promise(
        "only the chief writes",
        "test_workers.py::test_only_the_chief_writes",
        "job.py",
        "    if is_chief:\n        directory =",
        "    if True:\n        directory =",
        "every worker writes events",
    ),
    Promise(
        "every test example counts once, for any batch",
        "test_training.py::test_logits_answer_every_example_once_in_its_place",
        "training.py",
        "batches = range(0, len(images), _EVALUATION_BATCH)",
        "batches = range(0, len(images) - _EVALUATION_BATCH + 1, _EVALUATION_BATCH)",
        "the last, partial batch is dropped",
    ),
    Promise(
        "what has a final name is complete, also after a kill",
        "test_storage.py::test_a_process_killed_while_it_writes_leaves_the_old_file",
        "storage.py",
        "    temporary, old = _beside(path), _beside(path)\n",
        "    temporary, old = path, _beside(path)\n",
        "files are written under their own names",
    ),
    Promise(
        "a checkpoint that can be seen is whole",
        "test_checkpoints.py::test_a_checkpoint_that_can_be_seen_is_whole",
        "checkpoints.py",
        "with storage.publishing(path, _PARTS) as temporary:",
        "for temporary in (path,):",
        "TensorFlow writes it under its own name",
    ),
    Promise(
        "what a killed process left is cleared away",
        "test_storage.py::test_leftovers_are_removed_and_nothing_else",
        "storage.py",
        "if _TEMPORARY.match(name) or _UNFINISHED.match(name):",
        "if _UNFINISHED.match(name):",
        "what has a temporary name stays",
    ),
    Promise(
        "a finished run has every promised file",
        "test_run_directory.py::test_a_finished_run_leaves_every_promised_file",
        "run_directory.py",
        'PREDICTIONS, FIGURES, REPORT = "predictions.png"',
        'PREDICTIONS, FIGURES, REPORT = "prediction.png"',
        "the picture has another name",
    ),
    Promise(
        "`metrics.json` has the promised names and types",
        "test_run_directory.py::test_metrics_have_the_promised_names_and_types",
        "job.py",
        '"jit_compile": trained_on["jit_compile"] != "off",',
        '"jit_compile": trained_on["jit_compile"],',
        "jit_compile is a word",
    ),
    Promise(
        "`history.csv` has one row an epoch",
        "test_run_directory.py::test_history_has_the_epochs_of_the_run",
        "run_directory.py",
        "        writer.writerows(rows)",
        "        writer.writerows(rows[-1:])",
        "only the last row is written",
    ),
    Promise(
        "event files neither overlap nor have gaps after a resume",
        "test_summaries.py::test_a_resumed_run_drops_what_came_after_its_checkpoint",
        "summaries.py",
        "<= last_step:",
        "<= last_step + 1:",
        "a step too many is kept",
    ),
    Promise(
        "a run can live on any file system of `tf.io.gfile`",
        "test_run_directory.py::test_a_run_can_live_anywhere_that_tensorflow_reads",
        "storage.py",
        'return "://" not in path',
        "return True",
        "every path counts as local",
    ),
    Promise(
        "a SavedModel is published only after its answers matched",
        "test_export.py::test_what_answers_differently_is_not_published",
        "export.py",
        "        if not difference <= _TOLERANCE[precision]:",
        "        if difference < 0:",
        "nothing is compared",
    ),
    Promise(
        "the signatures answer arrays and files alike, preprocessing inside",
        "test_export.py::test_files_of_other_kinds_and_sizes_are_answered",
        "export.py",
        "scaled = tf.image.resize(image, (28, 28), antialias=True)",
        "scaled = tf.image.resize_with_crop_or_pad(image, 28, 28)",
        "larger images are cut, not scaled",
    ),
    Promise(
        "training that diverges stops, names step and remedy, keeps its checkpoint",
        "test_run_directory.py::test_a_diverged_run_is_told_and_keeps_its_last_checkpoint",
        "loop.py",
        "    if result.failed_step is not None:",
        "    if result.failed_step == 0:",
        "the loop goes on",
    ),
    Promise(
        "float16 overflow is skipped with a smaller loss scale",
        "test_training.py::test_float16_skips_an_overflow_and_halves_the_scale[off]",
        "training.py",
        "tf.maximum(scale / 2, 1.0)",
        "tf.maximum(scale, 1.0)",
        "the scale stays",
    ),
    Promise(
        "float16 overflow that no scale mends stops the run",
        "test_faults.py::test_an_overflow_that_no_loss_scale_mends_stops_the_run",
        "training.py",
        "healthy |= self.loss_scale > 1.0",
        "healthy |= self.loss_scale > 0.0",
        "it is skipped for ever",
    ),
    Promise(
        "a full disk is one line and loses nothing",
        "test_faults.py::test_a_run_whose_disk_is_full_says_so_and_ends_as_if_nothing_had_happened",
        "job.py",
        "if unwritten := storage.failure(error, config.model_dir):",
        "if unwritten := None:",
        "it is an unexpected failure",
    ),
    Promise(
        "no environment variable is stored or shown",
        "test_faults.py::test_no_environment_variable_gets_into_what_a_run_says_or_leaves",
        "plan.py",
        '        "platform": platform.platform(),',
        '        "platform": platform.platform(), "environment": dict(__import__("os").environ),',
        "config.json gets the environment",
    ),
    Promise(
        "`trainer.predict` answers good files and gives a line to each bad one",
        "test_predict.py::test_a_process_answers_good_files_in_an_aligned_table_and_bad_ones"
        "_with_one_line_each",
        "predict.py",
        "    return DataError.exit_code if refused else 0",
        "    return 0",
        "exit code 0 with refused files",
    ),
    Promise(
        "`trainer.draw` answers this machine's own page alone",
        "test_draw.py::test_bad_requests_are_refused_with_one_line_of_json",
        "draw.py",
        "if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0]):",
        "if len(hosts) != 1:",
        "any host name passes",
    ),
    Promise(
        "thread pools follow the container's CPU limit",
        "test_runtime.py::test_thread_pools_follow_the_quota_of_the_container",
        "runtime.py",
        "    return max(1, min(cpus, math.ceil(quota))) if quota else cpus",
        "    return cpus",
        "the quota is not read",
    ),
    Promise(
        "a reader that left, or a full disk behind the log, does not end the run",
        "test_console.py",
        "console.py",
        "        except (OSError, ValueError):  # ValueError: the stream is closed",
        "        except ZeroDivisionError:",
        "the error is not caught",
    ),
)


def seen_to_fail(promise: Promise, copy: pathlib.Path) -> str:
    """Breaks a promise in the copy of the project; returns what is wrong, nothing if it failed."""
    path = copy / "trainer" / promise.file
    sound = path.read_text()
    if sound.count(promise.old) != 1:
        return f"{promise.file} has {sound.count(promise.old)} times {promise.old!r}"
    path.write_text(sound.replace(promise.old, promise.new))
    try:
        code, said = _pytest(promise.test, copy)
    finally:
        path.write_text(sound)
    # 1: tests failed; 2 would be an error of collection, 4 or 5 no such test.
    return "" if code == 1 else f"pytest ended with {code}: {said[-300:]}"


def _pytest(test: str, copy: pathlib.Path) -> tuple[int, str]:
    options = ("-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow")
    command = [sys.executable, "-m", "pytest", *options, f"tests/{test}"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def _line(promise: Promise, wrong: str) -> str:
    file, _, name = promise.test.partition("::")
    verdict = promise.how if not wrong else f"NOT SEEN TO FAIL: {wrong}"
    return f"| {promise.promise} | {f'`{file}` {name}'.strip()} | `{promise.file}`: {verdict} |\n"


def main() -> int:
    """Breaks all, or those whose test or text has the word given; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.promises", description=__doc__)
    parser.add_argument("word", nargs="?", default="")
    parser.add_argument("--write", action="store_true", help="list them in docs/reliability.md")
    flags = parser.parse_args()
    chosen = [each for each in PROMISES if flags.word in f"{each.promise} {each.test}"]
    lines, failed = [], 0
    with tempfile.TemporaryDirectory(prefix="promises-") as place:
        copy = pathlib.Path(place, "copy")
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs")
        shutil.copytree(ROOT, copy, ignore=ignored)
        for promise in chosen:
            wrong = seen_to_fail(promise, copy)
            failed += bool(wrong)
            print(f"{promise.test}: {wrong or 'fails, as it should'}", flush=True)
            lines.append(_line(promise, wrong))
    if flags.write:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), BEGIN, END, HEAD + "".join(lines)))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
