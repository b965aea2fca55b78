"""Generation with vLLM: one engine in processes of its own, which answers the requests of all threads as they come.

The engine's requests never drain between two calls of `generate`: a call hands over what it has and waits for its own
answers only. Images are prepared in the calling threads, answers are collected in one background event loop.
"""

import asyncio
import itertools
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # reports nothing to anyone
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
# Never forked: a fork would keep the pipe open that tells the guard of this process's end.
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
# On CPUs: as many threads as Ray gives the actor (OMP_NUM_THREADS). vLLM would bind every engine to the same cores.
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from stic_ray import storage, vlm
from stic_ray.checkpoint import implementation_in_vllm
from stic_ray.config import Sampling, Vllm
from stic_ray.engines import adapters
from stic_ray.engines.counters import Counters
from stic_ray.engines.protocol import Completion, Request, refused
from stic_ray.images import hash_pixels

logger = logging.getLogger(__name__)
_STARTS = 3  # of which one must succeed: its processes may be killed while they load the weights
_WATCH_S = 0.05
# What an image processor may do, turned off for pixels that have been processed.
_PROCESSING = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def engine_arguments(path: str, dtype: str, settings: Vllm) -> dict[str, Any]:
    """What vLLM is started with, by the names of its own settings."""
    device: dict[str, Any] = {"gpu_memory_utilization": settings.gpu_memory_share}
    if current_platform.is_cpu():
        device = {
            "kv_cache_memory_bytes": int(settings.cpu_cache_gib * 2**30),
            "enable_chunked_prefill": False,
            "scheduler_cls": "stic_ray.engines.vllm_scheduler.WholePrompts",
        }
    lora = {"enable_lora": True, "max_lora_rank": settings.max_lora_rank} if settings.max_lora_rank else {}
    return {
        "model": path,
        "dtype": dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_concurrent,
        "tensor_parallel_size": settings.tensor_parallel,
        "distributed_executor_backend": "mp" if settings.tensor_parallel > 1 else "uni",
        "enforce_eager": settings.eager,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": 1},
        "mm_processor_cache_gb": 1,  # an image's requests come together: what was prepared long ago is of no use
        "model_impl": implementation_in_vllm(path),
        "generation_config": "vllm",  # a checkpoint's penalties would bend what is drawn
        **device,
        **lora,
    }


class _Adapters:
    """LoRA adapters in an engine, by the version of their files: vLLM takes the same name for the same adapter."""

    def __init__(self, max_rank: int) -> None:
        self._max_rank = max_rank
        self._known: dict[str, LoRARequest] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def find(self, uri: str, load: Callable[[LoRARequest], None]) -> LoRARequest | None:
        """The adapter at `uri` as it is now, None for ""; `load` has the engine read one that it does not know.

        Raises:
            ValueError: it is not there, or the engine cannot take it.
        """
        if not uri:
            return None
        path, version = adapters.locate(uri)
        with self._lock:
            if version not in self._known:
                self._check(uri, path)
                request = LoRARequest(lora_name=version, lora_int_id=next(self._numbers), lora_path=path)
                try:
                    load(request)
                except EngineDeadError:
                    raise
                except Exception as error:  # vLLM hands on what its process has met as a bare one
                    raise ValueError(f"adapter {uri} does not fit the model: {error}") from error
                self._known[version] = request
            return self._known[version]

    def _check(self, uri: str, path: str) -> None:
        settings = json.loads((Path(path) / "adapter_config.json").read_text())
        if settings.get("modules_to_save"):
            raise ValueError(f"adapter {uri} replaces whole modules, which vLLM cannot: use the merged model instead")
        if settings["r"] > self._max_rank:
            raise ValueError(
                f"adapter {uri} has rank {settings['r']}, engine.max_lora_rank is {self._max_rank}: raise it"
            )


class _Turns:
    """One adapter at a time: on CPUs, vLLM 0.32 applies an adapter of a batch to the batch's other requests too."""

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._adapter = ""
        self._inside = 0

    @contextmanager
    def of(self, adapter: str) -> Iterator[None]:
        """Wait until no request with another adapter is in the engine, and keep them out until the block ends."""
        with self._turn:
            self._turn.wait_for(lambda: self._inside == 0 or self._adapter == adapter)
            self._adapter = adapter
            self._inside += 1
        try:
            yield
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()


class VllmEngine:
    """An engine on vLLM. If its processes die, so does this one, so that Ray starts both anew."""

    def __init__(self, model_uri: str, dtype: str, settings: Vllm) -> None:
        path = storage.local_copy(model_uri)
        self._processor = vlm.load_processor(path)
        self._ends = vlm.end_token_ids(self._processor, vlm.load_generation_config(path))
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        guard, ended = _Guard(), threading.Event()
        with guard.told_of_children():
            self._engine = self._start(model_uri, engine_arguments(path, dtype, settings))
        processes = multiprocessing.active_children()
        threading.Thread(target=_die_with, args=(processes, ended), name="vllm-watch", daemon=True).start()
        # When nobody holds this engine any more, and when its process ends as it should.
        self._end = weakref.finalize(self, _end, self._engine, self._loop, guard, ended)
        self._limit = int(self._engine.model_config.max_model_len)
        self._adapters = _Adapters(settings.max_lora_rank)
        self._turns = _Turns() if current_platform.is_cpu() and settings.max_lora_rank else None
        self._counters = Counters()
        self._numbers = itertools.count()
        self._preparing = threading.Lock()

    def _start(self, model_uri: str, arguments: dict[str, Any]) -> AsyncLLM:
        """The engine with its processes.

        Raises:
            ValueError: it does not start, however often it is tried.
        """
        settings = AsyncEngineArgs(**arguments, disable_log_stats=True)
        for attempt in range(_STARTS):
            try:
                return asyncio.run_coroutine_threadsafe(_start(settings), self._loop).result()
            except Exception as error:  # noqa: BLE001 - vLLM says that its process ended, not why: that is in its log
                reason = " ".join(str(error).split())[:300]
                logger.error("vLLM does not start (%d of %d tries): %s", attempt + 1, _STARTS, reason)
        raise ValueError(
            f"vLLM does not start on {model_uri}: {reason}; what its process wrote is in Ray's logs, worker-*.err; "
            "mend it (memory: engine.gpu_memory_share, engine.max_model_len), or set engine.type=Transformers"
        )

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order. Those on one image go to the engine side by side, the image first."""
        try:
            completions = self._generate(requests)
        except EngineDeadError:
            _die()
        self._counters.add(completions)
        return completions

    def figures(self) -> dict[str, float]:
        """Counts since the start; cached tokens are those that the engine says it took from its prefix cache."""
        return self._counters.read()

    def shut_down(self) -> None:
        """End the engine's processes; nothing can be asked of it any more."""
        self._end()

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        if self._turns is None:
            return self._answer_all(requests)
        completions: dict[int, Completion] = {}
        for adapter in dict.fromkeys(request.adapter for request in requests):
            indices = [index for index, request in enumerate(requests) if request.adapter == adapter]
            with self._turns.of(adapter):
                completions.update(zip(indices, self._answer_all([requests[i] for i in indices]), strict=True))
        return [completions[index] for index in range(len(requests))]

    def _answer_all(self, requests: Sequence[Request]) -> list[Completion]:
        found = {uri: self._adapters.find(uri, self._load) for uri in {request.adapter for request in requests}}
        keys = {id(r.image): r.image_hash or (hash_pixels(r.image) if r.image is not None else "") for r in requests}
        texts = [vlm.render_prompt(self._processor, r.prompt, has_image=r.image is not None) for r in requests]
        tokens = vlm.tokenize(self._processor, texts)
        first: dict[tuple[str, str], int] = {}
        places = [first.setdefault((r.adapter, keys[id(r.image)]), index) for index, r in enumerate(requests)]
        marker = self._processor.image_token
        answers: dict[int, Completion | Future[Completion]] = {}
        for index in sorted(range(len(requests)), key=places.__getitem__):
            request = requests[index]
            if texts[index].count(marker) != (request.image is not None):
                answers[index] = refused(f"the prompt holds {marker}, which stands for an image")
                continue
            answers[index] = self._submit(request, tokens[index], keys[id(request.image)], found[request.adapter])
        return [a if isinstance(a, Completion) else a.result() for a in (answers[i] for i in range(len(requests)))]

    def _submit(
        self, request: Request, tokens: list[int], key: str, adapter: LoRARequest | None
    ) -> Completion | Future[Completion]:
        """Hand one request to the engine, or refuse it.

        `key` stands for the image in vLLM's caches, so that its pixels are hashed and prepared once. What is prepared
        goes to the engine with every request (`skip_mm_cache`): left out where the engine should have it already, it
        would be missing there after a refusal of the image's first request.
        """
        room = self._limit - request.sampling.max_new_tokens
        reason = f"prompt and answer need more than the model's {self._limit} positions"
        if len(tokens) > room:  # to an engine without its image tokens, too
            return refused(reason, num_prompt_tokens=len(tokens))
        prompt = TokensPrompt(prompt_token_ids=tokens)
        if request.image is not None and request.noise is not None:
            pixels_CHW = vlm.noised_pixels(self._processor, request.image, request.noise)
            prompt["multi_modal_data"] = {"image": pixels_CHW.numpy()}  # a tensor it would take for embeddings
            prompt["multi_modal_uuids"] = {"image": f"{key}-{request.noise.step}-{request.noise.seed}"}
            prompt["mm_processor_kwargs"] = dict.fromkeys(_PROCESSING, False)
        elif request.image is not None:
            prompt["multi_modal_data"] = {"image": request.image}
            prompt["multi_modal_uuids"] = {"image": key}
        try:
            parsed = parse_model_prompt(self._engine.model_config, prompt)
            with self._preparing:
                (rendered,) = self._engine.renderer.render_cmpl([parsed], skip_mm_cache=True)
        except (VLLMClientError, ValueError) as error:
            return refused(f"vLLM refuses it: {error}", num_prompt_tokens=len(tokens))
        length = len(rendered["prompt_token_ids"])
        if length > room:
            return refused(reason, num_prompt_tokens=length)
        answer = self._answer(rendered, request.sampling, request.seed, adapter)
        return asyncio.run_coroutine_threadsafe(answer, self._loop)

    async def _answer(self, rendered: Any, sampling: Sampling, seed: int, adapter: LoRARequest | None) -> Completion:
        settings = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self._ends,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        number = str(next(self._numbers))
        try:
            async for output in self._engine.generate(rendered, settings, number, lora_request=adapter):
                answered = output
        except VLLMClientError as error:
            return refused(f"vLLM refuses it: {error}", num_prompt_tokens=len(rendered["prompt_token_ids"]))
        return self._completion(answered)

    def _completion(self, output: Any) -> Completion:
        ids = list(output.outputs[0].token_ids)
        end = next((position for position, token in enumerate(ids) if token in self._ends), None)
        answer = ids if end is None else ids[:end]
        return Completion(
            text=self._processor.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            num_prompt_tokens=len(output.prompt_token_ids),
            num_tokens=len(answer),
            finish_reason="length" if end is None else "stop",
            num_cached_tokens=output.num_cached_tokens or 0,
        )

    def _load(self, adapter: LoRARequest) -> None:
        asyncio.run_coroutine_threadsafe(self._engine.add_lora(adapter), self._loop).result()


async def _start(arguments: AsyncEngineArgs) -> AsyncLLM:
    """Inside the loop that the engine's sockets are read in. As with `LLM`, what is left open is for throughput."""
    return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)


def _end(engine: AsyncLLM, loop: asyncio.AbstractEventLoop, guard: "_Guard", ended: threading.Event) -> None:
    ended.set()
    guard.dismiss()
    asyncio.run_coroutine_threadsafe(_stop(engine), loop).result()
    loop.call_soon_threadsafe(loop.stop)


async def _stop(engine: AsyncLLM) -> None:
    engine.shutdown()


def _die_with(processes: "list[multiprocessing.process.BaseProcess]", ended: threading.Event) -> None:
    """vLLM 0.32 lets requests wait for ever whose engine was killed while it worked on them."""
    multiprocessing.connection.wait([process.sentinel for process in processes])
    if not ended.is_set():
        _die()


def _die() -> NoReturn:
    logger.error("the engine's process is dead: this one ends too, so that another takes its place")
    sys.stderr.flush()
    os._exit(1)


class _Guard:
    """A process that ends the engine's processes once this one is gone, killed without a word: they would stay on.

    It is told their numbers through a pipe, from the first moment of their start, which the system closes with this
    process. On a GPU what stays would hold the memory that the next engine needs.
    """

    def __init__(self) -> None:
        script = 'while read pid; do all="$all $pid"; done; [ -z "$all" ] || kill -9 $all'
        self._process = subprocess.Popen(
            ["sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._told: set[int] = set()

    @contextmanager
    def told_of_children(self) -> Iterator[None]:
        """Inside the block, every child of this process is one that the guard ends."""
        before = {child.pid for child in multiprocessing.active_children()}
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_WATCH_S):
                self._tell(before)

        watching = threading.Thread(target=watch, name="vllm-guard", daemon=True)
        watching.start()
        try:
            yield
        finally:
            done.set()
            watching.join()
            self._tell(before)

    def dismiss(self) -> None:
        """End it without another deed."""
        self._process.kill()
        self._process.wait()

    def _tell(self, before: set[int | None]) -> None:
        fresh = {c.pid for c in multiprocessing.active_children() if c.pid is not None} - before - self._told
        pipe = self._process.stdin
        assert pipe is not None
        for pid in fresh:
            pipe.write(f"{pid}\n".encode())
        pipe.flush()
        self._told |= fresh
