"""The `ray up` files by Ray's own validation, and their nodes by what the clouds' interfaces want."""

import copy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import jsonschema
import pytest
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_USER_NODE_TYPE,
)

from tests.cluster.cluster_files import ROOT, check, execution, pins, pools, pools_problem, read

_CLOUDS = ["aws", "gcp"]
Tree = dict[str, Any]


def _file(cloud: str) -> Tree:
    return read(f"ray-up/{cloud}.yaml")


def _validated(config: Tree) -> Tree:
    """What `ray up` makes of a file before it asks a cloud; raises ValidationError on a wrong one."""
    prepared: Tree = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("cloud", _CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    prepared = _validated(_file(cloud))
    assert prepared["provider"]["type"] == cloud
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0} and head["max_workers"] == 0
    assert prepared["idle_timeout_minutes"] >= 0.5


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idle_timeout_minute",), 5),
        (("max_workers",), "20"),
        (("available_node_types", "gpu", "min_worker"), 0),
        (("available_node_types", "gpu", "max_workers"), "4"),
        (("available_node_types", "gpu", "resources", "GPU"), 0.5),
        (("available_node_types", "cpu", "labels"), {"ray.io/market-type": 1}),
        (("head_node_type",), "heads"),
        (("setup_commands",), "bash install.sh"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("cloud", _CLOUDS)
def test_ray_refuses_a_damaged_file(cloud: str, path: tuple[str, ...], value: object) -> None:
    config = copy.deepcopy(_file(cloud))
    *parents, name = path
    part = config
    for parent in parents:
        part = part[parent]
    part[name] = value
    with pytest.raises((jsonschema.ValidationError, ValueError, TypeError)):
        _validated(config)


@pytest.mark.parametrize("cloud", _CLOUDS)
def test_pools_have_room_for_the_run(cloud: str) -> None:
    prepared = _validated(_file(cloud))
    assert pools_problem(prepared, execution()) == ""
    spot, lasting = (prepared["available_node_types"][name] for name in ("gpu_spot", "gpu"))
    assert spot["priority"] > lasting.get("priority", 0)
    assert sum(pool["max"] for pool in pools(prepared).values()) == prepared["max_workers"]


@pytest.mark.parametrize("cloud", _CLOUDS)
@pytest.mark.parametrize(("kind", "fewest"), [("gpu", 1), ("gpu_spot", 1), ("cpu", 0)])
def test_pools_that_cost_or_lack_nodes_are_found(cloud: str, kind: str, fewest: int) -> None:
    config = copy.deepcopy(_file(cloud))
    config["available_node_types"][kind]["min_workers"] = fewest
    assert pools_problem(_validated(config), execution()) != ""


# Nodes


@pytest.fixture
def amazon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An EC2 of moto's with the instance profiles that the file names; keys go into an empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        profiles = {kind["node_config"]["IamInstanceProfile"]["Name"] for kind in _kinds("aws").values()}
        for profile in sorted(profiles):
            boto3.client("iam", region_name="us-west-2").create_instance_profile(InstanceProfileName=profile)
        yield


def _kinds(cloud: str) -> Tree:
    kinds: Tree = _file(cloud)["available_node_types"]
    return kinds


def _launch(config: Tree) -> dict[str, Any]:
    """The instances that Ray starts, one of each kind, by kind."""
    bootstrapped = bootstrap_aws(_validated(config))
    provider = AWSNodeProvider(bootstrapped["provider"], bootstrapped["cluster_name"])
    started = {}
    for name, kind in bootstrapped["available_node_types"].items():
        role = NODE_KIND_HEAD if name == bootstrapped["head_node_type"] else NODE_KIND_WORKER
        tags = {TAG_RAY_NODE_KIND: role, TAG_RAY_NODE_NAME: name, TAG_RAY_USER_NODE_TYPE: name}
        ((_, instance),) = provider.create_node(kind["node_config"], tags, 1).items()
        started[name] = instance
    return started


@pytest.mark.slow
def test_aws_ray_starts_a_node_of_every_kind(amazon: None) -> None:
    started = _launch(_file("aws"))
    assert {name: instance.instance_type for name, instance in started.items()} == {
        name: kind["node_config"]["InstanceType"] for name, kind in _kinds("aws").items()
    }
    assert {name for name, instance in started.items() if instance.instance_lifecycle == "spot"} == {"gpu_spot"}
    profiles = {name: instance.iam_instance_profile["Arn"].rpartition("/")[2] for name, instance in started.items()}
    assert profiles.pop("head") == "stic-ray-head"
    assert set(profiles.values()) == {"stic-ray-worker"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("InstanceMarketOption", {"MarketType": "spot"}),
        ("InstanceMarketOptions", {"Market": "spot"}),
        ("BlockDeviceMappings", [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "200"}}]),
        ("IamInstanceProfile", {"Name": "no-such-profile"}),
    ],
)
def test_aws_a_damaged_node_is_not_started(amazon: None, field: str, value: object) -> None:
    config = copy.deepcopy(_file("aws"))
    config["available_node_types"]["gpu_spot"]["node_config"][field] = value
    with pytest.raises((botocore.exceptions.ParamValidationError, NodeLaunchException)):
        _launch(config)


def test_gcp_nodes_are_what_compute_engine_documents() -> None:
    for kind in _kinds("gcp").values():
        check(kind["node_config"], "compute_instance.json")
    spot = {
        name
        for name, kind in _kinds("gcp").items()
        if kind["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
    }
    assert spot == {"gpu_spot"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("scheduling", [{"preemptible": True}]), ("machinetype", "n2-standard-4"), ("disks", [{"boot": "true"}])],
)
def test_gcp_a_damaged_node_is_refused(field: str, value: object) -> None:
    node = copy.deepcopy(_kinds("gcp")["gpu"]["node_config"])
    node[field] = value
    with pytest.raises(jsonschema.ValidationError):
        check(node, "compute_instance.json")


# Commands


def _commands(config: Tree) -> list[str]:
    names = [name for name in config if name.endswith("_commands")]
    return [command for name in names for command in config[name]]


@pytest.mark.parametrize("cloud", _CLOUDS)
def test_commands_name_files_of_the_checkout(cloud: str) -> None:
    config = _file(cloud)
    assert config["file_mounts"]["~/stic_ray"] == "."
    named = [word for command in _commands(config) for word in shlex.split(command) if "~/stic_ray/" in word]
    assert named
    for word in named:
        assert (ROOT / word.rstrip(";").partition("~/stic_ray/")[2]).is_file(), word


@pytest.mark.parametrize("cloud", _CLOUDS)
def test_commands_start_one_ray_with_a_token_on_pinned_packages(cloud: str) -> None:
    config = _file(cloud)
    assert "~/.ray/auth_token" in config["file_mounts"]
    (setup,) = config["setup_commands"]
    assert "cluster/ray-up/install.sh " in setup
    assert {"aws": "s3", "gcp": "gcs"}[cloud] in setup.split()[-1].split(",")
    for start in (config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]):
        assert f"environment.sh {cloud};" in start
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in config["head_start_ray_commands"][-1]
    for command in config["head_setup_commands"]:
        assert "==" in command or "-c ~/stic_ray/constraints.txt boto3" in command
    assert "boto3" in pins(ROOT / "constraints.txt")
