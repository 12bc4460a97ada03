"""The plan: what `auto` becomes, where epochs end, how steps are divided into calls."""

from __future__ import annotations

import itertools

import pytest

from trainer import plan as plans
from trainer.config import Config
from trainer.errors import UsageError
from trainer.plan import Hardware

CPU, AMX = Hardware("CPU"), Hardware("CPU", bfloat16=True)


def gpu(major: int, minor: int = 0) -> Hardware:
    return Hardware("GPU", bfloat16=major >= 8, compute_capability=(major, minor))


def plan(examples: int = 1000, hardware: Hardware = CPU, replicas: int = 1, **flags) -> plans.Plan:
    config = Config(**{"batch_size": 64, "epochs": 3, "steps_per_loop": 10} | flags).resolved()
    return plans.make(config, examples, hardware, replicas, None)


@pytest.mark.parametrize("start", [0, 1, 17, 46])
@pytest.mark.parametrize("flags", [{}, {"checkpoint_every": 7}, {"profile": "5,23"}])
def test_the_calls_cover_every_step_once_and_cross_no_edge(start, flags) -> None:
    made = plan(**flags)
    calls = list(made.calls(start))
    assert [call.first for call in calls] == [start, *(call.last for call in calls[:-1])]
    assert calls[-1].last == made.total_steps == 47
    assert list(made.calls(47)) == []
    ends = {call.last for call in calls}
    edges = {made.epoch_end(epoch) for epoch in (1, 2, 3)}
    edges |= set(range(0, 47, flags.get("checkpoint_every", 47)))
    edges |= {4, 23} if "profile" in flags else set()
    assert {edge for edge in edges if edge > start} <= ends
    for call in calls:
        assert call.base % 10 == 0
        assert call.base <= call.first < call.last <= call.base + 10


def test_epochs_end_where_their_examples_do() -> None:
    """The last batch of an epoch may reach into the next one; none is shorter."""
    made = plan()
    assert [made.epoch_end(epoch) for epoch in range(4)] == [0, 16, 32, 47]
    assert [made.epoch_of(step) for step in (0, 15, 16, 31, 32, 46)] == [1, 1, 2, 2, 3, 3]
    even = plan(examples=640)
    assert [even.epoch_of(step) for step in (9, 10)] == [1, 2]


def test_a_checkpoint_is_due_at_the_end_of_an_epoch_and_as_often_as_asked() -> None:
    assert [step for step in range(1, 48) if plan().saves_at(step)] == [16, 32, 47]
    due = [step for step in range(1, 48) if plan(checkpoint_every=20).saves_at(step)]
    assert due == [16, 20, 32, 40, 47]


def test_examples_have_to_remain_for_training() -> None:
    config = Config(batch_size=50, validation_examples=100).resolved()
    assert plans.training_examples(config, 150) == 50
    with pytest.raises(UsageError, match="--validation_examples=100"):
        plans.training_examples(config, 100)
    with pytest.raises(UsageError, match="--batch_size=50"):
        plans.training_examples(config, 149)


@pytest.mark.parametrize(
    ("hardware", "accurate", "expected"),
    [
        (CPU, True, "float32"),
        (AMX, True, "bfloat16"),
        (AMX, False, "float32"),
        (gpu(6), True, "float32"),
        (gpu(7, 0), True, "float16"),
        (gpu(7, 5), True, "float16"),
        (gpu(7, 5), False, "float16"),
        (gpu(8), True, "bfloat16"),
        (gpu(9), True, "bfloat16"),
        (gpu(9), False, "float32"),
    ],
)
def test_half_precision_is_taken_where_it_is_fast_and_accurate(hardware, accurate, expected):
    assert plans.resolve_precision("auto", hardware, bfloat16=accurate) == expected
    for flag in ("float32", "bfloat16", "float16"):
        assert plans.resolve_precision(flag, hardware, bfloat16=accurate) == flag


@pytest.mark.parametrize(
    ("flag", "hardware", "replicas", "on_cpu", "expected"),
    [
        ("auto", CPU, 1, "loop", "loop"),
        ("auto", CPU, 1, "step", "step"),
        ("auto", AMX, 1, "loop", "loop"),
        ("auto", AMX, 1, "step", "off"),
        ("on", AMX, 1, "step", "step"),
        ("auto", CPU, 2, "loop", "off"),
        ("on", CPU, 2, "loop", "step"),
        ("auto", CPU, 2, "step", "step"),
        ("auto", gpu(8), 1, "step", "loop"),
        ("auto", gpu(9), 4, "loop", "step"),
        ("auto", gpu(12), 1, "loop", "off"),
        ("auto", gpu(12), 4, "step", "off"),
        ("auto", gpu(10), 1, "loop", "loop"),
        ("on", gpu(12), 1, "loop", "loop"),
    ],
)
def test_xla_compiles_what_is_faster_and_what_it_can(flag, hardware, replicas, on_cpu, expected):
    assert plans.resolve_jit_compile(flag, hardware, replicas, on_cpu=on_cpu) == expected
    assert plans.resolve_jit_compile("off", hardware, replicas, on_cpu=on_cpu) == "off"


def test_a_resumed_run_keeps_its_precision_on_any_machine() -> None:
    config = Config(model="cnn").resolved()
    for before, hardware in itertools.product(("float32", "bfloat16"), (CPU, AMX)):
        assert plans.make(config, 1000, hardware, 1, before).precision == before
