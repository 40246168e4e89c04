"""Nested settings: flat names of groups, old tables, and what a resumed run may change."""

import json
from dataclasses import fields

import pytest

from seqformer.config import (
    DemoConfig,
    TrainConfig,
    changeable,
    config_from_dict,
    config_to_dict,
    grouped,
    override,
    presets,
)
from seqformer.config.fields import groups, nested_class

FLAT = "parallel precision tf32 recompute log_every checkpoint_every resume weights from_scratch"


def leaves(kind, prefix=""):
    for one in fields(kind):
        inner = nested_class(one)
        yield from leaves(inner, f"{prefix}{one.name}.") if inner else [prefix + one.name]


@pytest.mark.parametrize("name", presets())
def test_every_preset_survives_json(name):
    config = presets()[name][1]
    state = json.loads(json.dumps(config_to_dict(config)))
    assert config_from_dict(type(config), state) == config
    assert config_from_dict(type(config), grouped(type(config), state)) == config


def test_flat_names_are_unique_and_meet_no_group():
    places = groups(DemoConfig)
    own = [one.name for one in fields(DemoConfig)]
    inner = [leaf for leaf in leaves(DemoConfig) if leaf.split(".")[0] in set(places.values())]
    assert len(places) == len(inner) and not set(places) & set(own)
    assert set(FLAT.split()) <= set(places)


def test_override_finds_the_group_and_keeps_the_rest():
    config = override(TrainConfig(), precision="bf16", tf32=False, seed=7, parallel="fsdp")
    assert (config.compute.precision, config.compute.tf32, config.seed) == ("bf16", False, 7)
    assert config.distributed.parallel == "fsdp" and config.compute.recompute == ()
    assert override(config, precision="fp32", tf32=True, seed=42, parallel="ddp") == TrainConfig()
    with pytest.raises(ValueError, match=r"log_every must be at least 1, got 0"):
        override(config, log_every=0)
    with pytest.raises(TypeError, match="bogus"):
        override(config, bogus=1)


def test_a_flat_table_with_a_wrong_value_is_refused():
    for state in ({"precision": "fp8"}, {"compute": 3, "precision": "fp32"}, {"log_every": "1"}):
        with pytest.raises(ValueError, match=r"ComputeConfig|LoggingConfig"):
            config_from_dict(TrainConfig, state)
    with pytest.raises(ValueError, match=r"TrainConfig has no fields \['bogus'\]"):
        config_from_dict(TrainConfig, {"bogus": 1})


def test_what_may_change_is_said_by_the_fields():
    may = changeable(DemoConfig)
    assert may < set(leaves(DemoConfig))
    assert {"compute.precision", "output", "eval.short_side", "model.num_classes"} <= may
    assert {"data.num_workers", "processes", "data.val_images"} <= may
    fixed = set(leaves(DemoConfig)) - may
    assert {"seed", "optim.lr", "model.num_queries", "data.num_frames", "loss.dice_weight"} <= fixed
    assert {"start.from_scratch", "data.class_layout", "data_seed", "frame_size"} <= fixed
    assert len(may) == 62  # a change of this number is a decision about resumed runs
