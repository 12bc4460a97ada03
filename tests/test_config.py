"""The configuration: recipes fill what no flag gave, and what makes another run is told apart."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from trainer.config import Config, Scope, flag_values, from_flags
from trainer.errors import UsageError
from trainer.recipes import AUGMENTATIONS, RECIPES
from trainer.run.identity import fingerprint


@pytest.mark.parametrize("model", RECIPES)
def test_the_recipe_fills_exactly_what_no_flag_gave(model: str) -> None:
    recipe = RECIPES[model]
    resolved = Config(model=model, learning_rate=0.123, augment="none").resolved()
    assert resolved.learning_rate == 0.123
    assert resolved.augment == "none"
    assert resolved.batch_size == recipe.batch_size
    assert resolved.warmup == recipe.warmup
    assert resolved.weight_decay == recipe.weight_decay
    assert resolved.label_smoothing == recipe.label_smoothing
    assert resolved.outliers == recipe.outliers
    assert resolved.resolved() == resolved


@pytest.mark.parametrize("model", RECIPES)
def test_every_recipe_is_a_valid_configuration(model: str) -> None:
    assert Config(model=model).resolved().augment in AUGMENTATIONS
    assert Config(model=model, virtual_devices=2).resolved()
    assert Config(model=model, virtual_devices=4).resolved()


def test_a_zero_given_by_a_flag_is_not_taken_for_nothing_given() -> None:
    config = Config(model="cnn", weight_decay=0.0, label_smoothing=0.0, warmup=0.0).resolved()
    assert (config.weight_decay, config.label_smoothing, config.warmup) == (0, 0, 0)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 3


def test_it_survives_the_way_through_json() -> None:
    config = Config(model="cnn", seed=3, profile="10,20").resolved()
    assert Config(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_places_devices_and_epochs_may_differ_within_a_run() -> None:
    here = Config(epochs=9, model_dir="a", strategy="mirrored", virtual_devices=2, profile="1,2")
    there = Config(model_dir="b", checkpoint_every=7, keep_checkpoints=1, steps_per_loop=3)
    assert here.resolved().differences(dataclasses.asdict(there.resolved())) == []


def test_what_changes_the_weights_may_not_differ_within_a_run() -> None:
    decides = {
        *("model", "dataset", "batch_size", "learning_rate", "warmup", "weight_decay", "seed"),
        *("label_smoothing", "augment", "outliers", "precision", "validation_examples"),
    }
    assert decides <= Config().within(Scope.RUN).keys()


def test_workers_agree_in_all_but_what_is_each_ones_own() -> None:
    agreed = Config().within(Scope.RUN, Scope.PART)
    assert {field.name for field in dataclasses.fields(Config)} - agreed.keys() == {
        *("data_dir", "resume")
    }


def test_a_difference_names_the_flag_and_both_values() -> None:
    recorded = dataclasses.asdict(Config(seed=1).resolved())
    assert Config(seed=2).resolved().differences(recorded) == ["--seed=2 (the run has 1)"]


def test_values_of_a_run_that_an_older_version_did_not_record_are_told() -> None:
    recorded = dataclasses.asdict(Config().resolved())
    del recorded["seed"]
    assert Config().resolved().differences(recorded) == ["--seed=1 (the run has None)"]


@pytest.mark.parametrize(("batch", "replicas", "near"), [(128, 3, 129), (7, 8, 8), (100, 7, 98)])
def test_a_batch_that_does_not_divide_comes_with_one_that_does(
    batch: int, replicas: int, near: int
) -> None:
    with pytest.raises(UsageError, match=f"try --batch_size={near}$"):
        Config(batch_size=batch).check_batch(replicas)
    Config(batch_size=near).check_batch(replicas)


def test_a_profile_is_a_range_of_steps() -> None:
    assert Config(profile="10,20").profile == (10, 20)
    assert Config(profile=(5, 5)).profile == (5, 5)


@pytest.mark.parametrize(
    "flags",
    [
        {"epochs": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"model": "resnet"},
        {"profile": "20,10"},
        {"virtual_devices": 2, "strategy": "cpu"},
        {"dataset": "synthetic", "data_dir": "here"},
        {"model_dir": ""},
        {"data_dir": ""},
    ],
)
def test_a_record_that_cannot_be_is_never_made(flags: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(flags))}|--data_dir"):
        Config(**flags)


def test_numbers_are_compared_by_value_however_they_are_written() -> None:
    """Python's `int` takes `1_0` and the digits of all scripts; so do all workers."""
    for text in ("10", "1_0", " 10", "\u0661\u0660"):
        values = flag_values()
        values(["task", f"--epochs={text}"])
        assert from_flags(values) == Config(epochs=10)
        assert fingerprint(from_flags(values), {}) != fingerprint(Config(), {})


def test_a_path_may_be_written_as_a_file_url() -> None:
    assert Config(model_dir="file:///a/b", data_dir="file:///c").model_dir == "/a/b"


def test_a_home_directory_may_be_written_as_a_tilde() -> None:
    """The shell leaves one after `=` as it is."""
    config = Config(model_dir="~/run", data_dir="~/mnist")
    assert (config.model_dir, config.data_dir) == tuple(
        os.path.expanduser(path) for path in ("~/run", "~/mnist")
    )
