"""These tests need vLLM, which has an environment of its own: `make test-vllm`. Elsewhere none of them is collected."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]
