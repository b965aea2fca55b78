"""What a training leaves: adapter (where there is one), merged model and metrics."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from stic_ray import storage, vlm
from stic_ray.config import Lora, to_tree
from stic_ray.report.model_card import render_card
from stic_ray.train.job import ADAPTER, CARD, EXPORTED, MERGED, METRICS, Job


def export(
    job: Job,
    scorer: vlm.AnswerScorer,
    metrics: str,
    exported: Mapping[str, float],
    *,
    processor: Any,
    start: Callable[[], Any],
    rank: int,
) -> None:
    """Gather the trained weights and, on rank 0, put them into the model that `start` gives and write it.

    `metrics` are of all steps, as JSON lines; `exported` of the one that the weights are of.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = get_model_state_dict(scorer, options=options)
    if rank != 0:
        return
    model = start()
    whole = vlm.AnswerScorer(model)
    trained = {name for name, parameter in whole.named_parameters() if parameter.requires_grad}
    unknown = whole.load_state_dict(weights, strict=False).unexpected_keys
    if unknown or not trained <= weights.keys():
        raise RuntimeError(f"trained weights would be lost: {unknown or sorted(trained - weights.keys())}")
    model.eval()
    with tempfile.TemporaryDirectory() as directory:
        if isinstance(job.training.weights, Lora):
            for adapter in model.peft_config.values():
                adapter.base_model_name_or_path = job.model_uri  # not the copy that this worker loaded
            model.save_pretrained(str(Path(directory) / ADAPTER))
            exported = {**exported, "kept_by_merging": _kept(model)}
            model = model.merge_and_unload()
        model = model.to(vlm.DTYPES[job.dtype])
        vlm.save_checkpoint(model, processor, str(Path(directory) / MERGED))
        (Path(directory) / METRICS).write_text(metrics)
        for part in (ADAPTER, MERGED):
            if (Path(directory) / part).exists():
                (Path(directory) / part / CARD).write_text(_card(job, exported, is_adapter=part == ADAPTER))
        (Path(directory) / EXPORTED).write_text(json.dumps(exported))
        storage.upload_directory(directory, job.output)


def _kept(model: Any) -> float:
    """The share of the adapters' change that is left when their sum with the weights is rounded to the weights' type:
    1 in float32, 0 where every step is too small for bfloat16."""
    wanted = left = 0.0
    for layer in model.modules():
        if not (hasattr(layer, "get_delta_weight") and getattr(layer, "lora_A", None)):
            continue
        weight = layer.get_base_layer().weight.detach()
        change = layer.get_delta_weight(layer.active_adapters[0]).detach().float()
        rounded = (weight.float() + change).to(weight.dtype).float() - weight.float()
        wanted += float(change.square().sum())
        left += float((change * rounded).sum())
    return left / wanted if wanted else 1.0


def _card(job: Job, exported: Mapping[str, float], *, is_adapter: bool) -> str:
    training = to_tree(job.training)
    return render_card(base=job.model_uri, is_adapter=is_adapter, origin=job.origin, training=training, step=exported)
