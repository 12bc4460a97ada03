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
    given = {"learning_rate": 0.123, "warmup": 0.0, "label_smoothing": 0.0}  # 0 is a value, too
    resolved = Config(model=model, virtual_devices=4, **given).resolved()
    assert resolved.augment in AUGMENTATIONS
    for name in ("batch_size", "weight_decay", "augment", "outliers"):
        assert getattr(resolved, name) == getattr(recipe, name)
    assert {name: getattr(resolved, name) for name in given} == given
    assert resolved.resolved() == resolved


def test_it_survives_the_way_through_json() -> None:
    config = Config(model="cnn", seed=3, profile="10,20").resolved()
    assert config.profile == (10, 20)
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


def test_values_of_a_run_that_an_older_version_did_not_record_are_told() -> None:
    recorded = dataclasses.asdict(Config().resolved())
    del recorded["seed"]
    assert Config().resolved().differences(recorded) == ["--seed=1 (the run has None)"]


@pytest.mark.parametrize(("batch", "replicas", "near"), [(128, 3, 129), (7, 8, 8), (100, 7, 98)])
def test_a_batch_that_does_not_divide_comes_with_one_that_does(batch, replicas, near) -> None:
    with pytest.raises(UsageError, match=f"try --batch_size={near}$"):
        Config(batch_size=batch).check_batch(replicas)
    Config(batch_size=near).check_batch(replicas)


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


def test_a_path_may_be_written_as_a_file_url_or_from_the_home_directory() -> None:
    """The shell leaves a tilde after `=` as it is."""
    config = Config(model_dir="file:///a/b", data_dir="~/mnist")
    assert (config.model_dir, config.data_dir) == ("/a/b", os.path.expanduser("~/mnist"))
