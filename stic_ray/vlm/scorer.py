"""Log-probabilities of answers, and the attention that they pay to the image.

Legend: T = positions, N = answer tokens of a row, H = hidden size, V = vocabulary, L = layers, K = heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stic_ray.vlm.attention import SEGMENTED
from stic_ray.vlm.examples import Example
from stic_ray.vlm.families import body_of, language_model, projector_parameters, row_positions, sharding_units
from stic_ray.vlm.rows import Row

_TOKENS_AT_ONCE = 256  # that meet the language-model head: their logits are 33 MB in float32 at a vocabulary of 32k


class _FrozenHeadLogp(torch.autograd.Function):
    """log p(target | hidden) of a head that does not train; its gradient is formed with it, while the logits are there.

    That is two products with the head's weights a token where autograd keeps the logits and makes three.
    """

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, targets_N: Tensor) -> Tensor:
        """Float32 [N]."""
        logp_N = torch.empty(len(targets_N), device=hidden_NH.device)
        gradient_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        for start in range(0, len(targets_N), _TOKENS_AT_ONCE):
            part = slice(start, start + _TOKENS_AT_ONCE)
            targets = targets_N[part]
            low = nn.functional.linear(hidden_NH[part], weight_VH)
            logits = low.float()
            total = logits.logsumexp(dim=1)
            logp_N[part] = logits.gather(1, targets[:, None])[:, 0] - total
            if gradient_NH is not None:
                shares = logits.sub_(total[:, None]).exp_().to(low.dtype)
                gradient_NH[part] = (weight_VH[targets] - shares @ weight_VH.to(low.dtype)).to(gradient_NH.dtype)
        if gradient_NH is not None:
            ctx.save_for_backward(gradient_NH)
        return logp_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the hidden states."""
        (gradient_NH,) = ctx.saved_tensors
        return gradient_NH * gradients[0][:, None].to(gradient_NH.dtype), None, None


def _logp(head: nn.Module, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(head(hidden_NH).float(), targets_N, reduction="none")


def _as_projected(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
    """Embeddings in the type that autocast gives the image's: SmolVLM puts the one into the other as they are, and
    embeddings that train are held in float32."""
    return embedded.bfloat16()


class AnswerScorer(nn.Module):
    """Log-probabilities of answers: only the positions that predict their tokens meet the language-model head.

    A module of its own so that sharding wraps the whole forward. It computes in bfloat16 where any weight is; those
    that train are held in float32 all the same, since bfloat16 would round their small steps away. From then on the
    model attends to rows alone.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._low = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
        language_model(model).config._attn_implementation = SEGMENTED
        if self._low:
            if body_of(model).config.model_type == "smolvlm":
                body_of(model).get_input_embeddings().register_forward_hook(_as_projected)
            for module in model.modules():
                if hasattr(module, "cast_input_dtype_enabled"):  # autocast gives adapters their inputs as they are
                    module.cast_input_dtype_enabled = False

    def forward(self, row: Row) -> Tensor:
        """Log-probability (nats) of each answer token, float32 [N]."""
        body = body_of(self.model)
        with torch.autocast(row.input_ids.device.type, dtype=torch.bfloat16, enabled=self._low):
            hidden_1TH = body.model(
                **self._with_projector(body, row),
                attention_mask=None,
                position_ids=row_positions(self.model, row),
                use_cache=False,
                segments=row.segments,
            ).last_hidden_state
            hidden_NH = hidden_1TH[0, row.predictors]
            if not (torch.is_grad_enabled() and body.lm_head.weight.requires_grad):
                logp_N: Tensor = _FrozenHeadLogp.apply(hidden_NH, body.lm_head.weight, row.targets)  # type: ignore[no-untyped-call]
                return logp_N
            parts = zip(hidden_NH.split(_TOKENS_AT_ONCE), row.targets.split(_TOKENS_AT_ONCE), strict=True)
            return torch.cat([checkpoint(_logp, body.lm_head, *part, use_reentrant=False) for part in parts])

    def _with_projector(self, body: Any, row: Row) -> dict[str, Tensor]:
        """The inputs of a forward; without an image, a projector that trains still takes part, with a gradient of 0.

        Workers that shard it reduce gradients in the order of their backward passes: it must be the same on all.
        """
        trained = [parameter for parameter in projector_parameters(self.model) if parameter.requires_grad]
        if not trained or row.images:
            return {"input_ids": row.input_ids, **row.images}
        embedded_1TH = body.get_input_embeddings()(row.input_ids)
        for parameter in trained:
            embedded_1TH = embedded_1TH + 0.0 * parameter.sum()
        return {"inputs_embeds": embedded_1TH}


def image_attention(model: Any, image_token_id: int, example: Example) -> Tensor:
    """How much attention each layer pays to the image where an answer's tokens are predicted, float32 [L, N].

    It is the sum of the weights on image tokens, 0 to 1, mean over heads. Weights are summed up layer by layer: those
    of all layers are 18 GB of a LLaVA-NeXT with 2880 image tokens. The model must be loaded with `attention="eager"`:
    no other implementation says its weights.
    """
    ids_T = torch.tensor(example.input_ids, device=model.device)
    is_image_T = ids_T == image_token_id
    asking_N = torch.tensor(example.trained, device=model.device).nonzero()[:, 0] - 1
    found: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        weights_KTT = output[1][0]
        found.append(weights_KTT[:, asking_N][:, :, is_image_T].float().sum(dim=2).mean(dim=0).cpu())

    hooks = [layer.get_submodule("self_attn").register_forward_hook(note) for layer in sharding_units(model)]
    inputs = {name: value.to(model.device) for name, value in example.image_inputs.items()}
    try:
        with torch.inference_mode():
            model.model(input_ids=ids_T[None], attention_mask=torch.ones_like(ids_T)[None], use_cache=False, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)
