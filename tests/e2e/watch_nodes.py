"""Adds a line of JSON to a file whenever the cluster at RAY_ADDRESS has other nodes with GPUs than before."""

import json
import logging
import sys
import time

import ray


def main(path: str) -> None:
    """Look until this process is ended."""
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    start, before = time.monotonic(), None
    with open(path, "a", buffering=1) as file:
        while True:
            alive = [node for node in ray.nodes() if node["Alive"] and "GPU" in node["Resources"]]
            nodes = {node["NodeID"]: node["RayletSocketName"] for node in alive}
            if nodes != before:
                file.write(json.dumps({"seconds": time.monotonic() - start, "nodes": nodes}) + "\n")
                before = nodes
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
