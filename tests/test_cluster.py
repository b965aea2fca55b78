"""Joining a cluster, and saying at once that there is none."""

import socket
import threading

import pytest
import ray

from stic_ray import cluster


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
