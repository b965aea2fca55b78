"""vLLM's scheduler for CPUs, which runs inside the engine's own process: a prompt is read whole or not at all.

Without chunked prefill, vLLM 0.32 still cuts a prompt in front of its image where a step's images have used up the
room for the vision tower's output, as with many images whose text is in the prefix cache. The first part then draws a
token that is taken back, and a CPU's random generator cannot: the engine would die of it.
"""

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class WholePrompts(Scheduler):  # type: ignore[misc]  # vLLM's types are not read
    """Lets a prompt wait for the next step whose image does not fit into this one."""

    def _try_schedule_encoder_inputs(
        self,
        request: Request,
        num_computed_tokens: int,
        num_new_tokens: int,
        encoder_compute_budget: int,
        shift_computed_tokens: int = 0,
    ) -> tuple[list[int], int, int, list[int], list[int]]:
        """The images to encode, how many tokens to read, the budget left, and images that come from elsewhere."""
        found = super()._try_schedule_encoder_inputs(
            request, num_computed_tokens, num_new_tokens, encoder_compute_budget, shift_computed_tokens
        )
        return found if found[1] == num_new_tokens else ([], 0, encoder_compute_budget, [], [])
