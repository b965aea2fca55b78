"""Joining a cluster, and saying at once that there is none."""

import socket
import threading

import pytest
import ray

from stic_ray import cluster
from stic_ray.config import Execution, Pool


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-host.invalid"])
def test_join_address_where_nobody_answers_is_one_line_without_asking_ray(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    address = f"{host}:{_free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # another test's may still be
    monkeypatch.delattr(ray, "init")
    with (
        pytest.raises(ValueError, match=f"^RAY_ADDRESS {address}: no cluster can be joined there .*HOST:6379"),
        cluster.connected(),
    ):
        pass


@pytest.mark.parametrize("address", ["auto", "local", "http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_join_other_kinds_of_address_are_rays_to_judge(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.delattr(socket, "create_connection")
    cluster._knock(address)


@pytest.mark.parametrize(("family", "form"), [(socket.AF_INET, "127.0.0.1:{}"), (socket.AF_INET6, "[::1]:{}")])
def test_join_knocks_at_the_hosts_port(family: socket.AddressFamily, form: str) -> None:
    with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as server:
        answered = threading.Thread(target=server.accept)
        answered.start()
        cluster._knock(form.format(server.getsockname()[1]))
        answered.join(5)
        assert not answered.is_alive()


# Room


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "memory": 1e9})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}] * 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (
            Execution(pool=Pool(num_gpus=1)),
            r"execution\.pool\.min_size x num_gpus asks for 1 GPUs .* are 0 on",
        ),
        (Execution(train_gpus=0.5, num_train_workers=2), r"num_train_workers x train_gpus asks for 1 GPUs"),
        (
            Execution(pool=Pool(min_size=2, max_size=2, num_cpus=1)),
            r"num_cpus \+ task_cpus asks for 2\.5 CPUs",
        ),
        (Execution(num_train_workers=3), r"num_train_workers x train_cpus asks for 3 CPUs at once, and there are 2 on"),
        (Execution(pool=Pool(num_cpus=1.25)), r"execution\.pool asks for 1\.25 CPUs on one node, and no node has them"),
        (Execution(train_cpus=2.0), r"execution\.train_\* asks for 2 CPUs on one node, and no node has them"),
    ],
)
def test_check_room_what_this_machine_never_has_is_one_line(
    two_cores: None, execution: Execution, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cluster.check_pool(execution)
        cluster.check_training(execution)


def test_check_room_what_fits_or_may_still_come_passes(
    two_cores: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.check_training(Execution(num_train_workers=2))
    cluster.check_pool(Execution(train_gpus=8.0))  # nothing trains
    assert caplog.text == ""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    cluster.check_pool(Execution(pool=Pool(num_gpus=4)))
    assert "asks for 4 GPUs at once, and there are 0 in the cluster now: waiting" in caplog.text
