"""A stage on nodes, event by event: batches to slots, nodes that are lost and come back, trainings that go on.

Nothing here knows of Ray or of a configuration. Times are seconds from the stage's beginning.
"""

import heapq
import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

_MAX_EVENTS = 100_000  # of a stage: with more batches than that, several are moved as one
_HOPELESS = 50.0  # a stage that takes so many times as long as without losses does not end
_MAX_LOSSES = 30_000  # nor does one beside which so many nodes are lost


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """`count` nodes: the first `standing` are there, the others `delay_s` later. One that is lost is missed after
    `detect_s` and replaced after another `delay_s`."""

    count: int
    standing: int
    delay_s: float = 0.0
    detect_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Batches:
    """A stage whose slots, so many a node, work on batches of `units`, each for `batch_s`.

    Slots fill the nodes that stand, then as many others as they need. `start_s` passes before the first slot works, of
    which a slot on a new node needs `slot_start_s` again. `shared_s` is, by what all share (the driver, storage, ...),
    its seconds for a batch: no faster do batches come, from the beginning on. Of what a node has done, `held_units`
    were not yet in a file and go with it. `after_s` passes when all are done.
    """

    units: float
    batch: float
    batch_s: float
    slots_per_node: int
    start_s: float
    slot_start_s: float
    max_slots: int = 10**9
    shared_s: Mapping[str, float] = field(default_factory=dict)
    held_units: float = 0.0
    after_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Steps:
    """A training of `steps` on `nodes_used` nodes, which goes on from the last of its checkpoints.

    It goes on when a lost node has been replaced, or at once with those that are left where it is `elastic`, and then
    takes as much longer; either way it takes `restart_s`. `saves_first` says that a loss is announced.
    """

    steps: int
    step_s: float
    start_s: float
    restart_s: float
    checkpoint_every: int
    nodes_used: int = 1
    elastic: bool = False
    saves_first: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How long a stage takes, how much of its work was done again, and what bounds it. `ends` is False where nodes are
    lost faster than anything is finished."""

    seconds: float
    redone: float
    bound: str
    losses: int = 0
    ends: bool = True


Losses = Iterator[tuple[float, int]]
"""When nodes are lost, and which (by number), in the order of time."""


class _TooManyError(Exception):
    """More losses than a stage outlives."""


def no_losses() -> Losses:
    """Never."""
    return iter(())


def losses_at_rate(per_hour: float, nodes: int, seed: int) -> Losses:
    """Losses that come by chance, so many an hour of a node.

    Raises:
        _TooManyError: so many have come that nothing can end; who simulates a stage answers it.
    """
    rng = random.Random(seed)
    rate = per_hour * nodes / 3600
    time = 0.0
    for _ in range(_MAX_LOSSES if rate else 0):
        time += rng.expovariate(rate)
        yield time, rng.randrange(nodes)
    if rate:
        raise _TooManyError


# Batches


def run_batches(stage: Batches, nodes: Nodes, losses: Losses) -> Outcome:
    """A stage of batches on nodes that are lost when `losses` says so."""
    return _Pool(_coarse(stage, nodes), nodes, losses).run()


def _coarse(stage: Batches, nodes: Nodes) -> Batches:
    """The same with larger batches where there would be too many events, a hundred to a slot at least."""
    slots = min(stage.max_slots, nodes.count * stage.slots_per_node)
    factor = int(min(stage.units / stage.batch / _MAX_EVENTS, stage.units / stage.batch / slots / 100))
    if factor < 2:
        return stage
    shared = {name: seconds * factor for name, seconds in stage.shared_s.items()}
    return replace(stage, batch=stage.batch * factor, batch_s=stage.batch_s * factor, shared_s=shared)


def place_slots(num_slots: int, per_node: int, nodes: Nodes) -> list[int]:
    """The node of each slot: those that stand get theirs first, and no more others are started than the rest needs."""
    at_once = min(num_slots, nodes.standing * per_node)
    started = math.ceil((num_slots - at_once) / per_node)
    return [
        slot % nodes.standing if slot < at_once else nodes.standing + (slot - at_once) % started
        for slot in range(num_slots)
    ]


class _Pool:
    """The events of a pool: slots that get free, nodes that go and come, batches that are given back."""

    _FREE, _LOST, _AGAIN = range(3)

    def __init__(self, stage: Batches, nodes: Nodes, losses: Losses) -> None:
        self._stage, self._nodes, self._losses = stage, nodes, losses
        self._order = itertools.count()
        self._events: list[tuple[float, int, int, int, float]] = []  # when, order, what, slot or node, epoch or units
        self._sizes = self._cut()
        self._given = 0
        self._again: list[float] = []
        self._busy: dict[int, float] = {}  # units by slot
        self._own: dict[int, list[float]] = {}  # what lost slots had: Ray gives it to the same actor again
        self._idle: set[int] = set()
        num_slots = min(stage.max_slots, nodes.count * stage.slots_per_node)
        self._node_of = place_slots(num_slots, stage.slots_per_node, nodes)
        self._slots_of: list[list[int]] = [[] for _ in range(nodes.count)]
        for slot, node in enumerate(self._node_of):
            self._slots_of[node].append(slot)
        self._epochs = [0] * nodes.count
        self._done = self._redone = 0.0
        self._num_losses = 0
        self._now = 0.0
        self._interval = max(stage.shared_s.values(), default=0.0)

    def _cut(self) -> list[float]:
        whole = int(self._stage.units // self._stage.batch)
        rest = self._stage.units - whole * self._stage.batch
        return [self._stage.batch] * whole + ([rest] if rest > 1e-9 else [])

    def run(self) -> Outcome:
        stage, nodes = self._stage, self._nodes
        if not self._sizes:
            return Outcome(seconds=stage.start_s + stage.after_s, redone=0.0, bound="start")
        num_slots = len(self._node_of)
        for slot, node in enumerate(self._node_of):
            there = 0.0 if node < nodes.standing else nodes.delay_s
            self._push(there + stage.start_s, self._FREE, slot, 0)
        best = self._shortest(num_slots)
        try:
            self._next_loss()
            ends = self._work(_HOPELESS * best)
        except _TooManyError:
            ends = False
        return self._outcome(self._now, num_slots, ends=ends)

    def _work(self, hopeless_s: float) -> bool:
        """Event after event; whether all units were done before it was hopeless."""
        while self._done < self._stage.units - 1e-6:
            self._now, _, kind, number, told = heapq.heappop(self._events)
            now = self._now
            if now > hopeless_s:
                return False
            if kind == self._FREE and told == self._epochs[self._node_of[number]]:
                self._finish(number)
                self._take(number, now)
            elif kind == self._LOST:
                self._lose(number, now)
                self._next_loss()
            elif kind == self._AGAIN:
                self._again.append(told)
                if self._idle:
                    self._take(self._idle.pop(), now)
        return True

    def _outcome(self, now: float, num_slots: int, *, ends: bool) -> Outcome:
        stage = self._stage
        seconds = now + stage.after_s
        redone = self._redone / stage.units
        if not ends:
            bound = "losses"
        elif self._interval * min(num_slots, len(self._sizes)) > stage.batch_s:
            bound = max(stage.shared_s, key=lambda name: stage.shared_s[name])
        elif len(self._sizes) <= num_slots:
            bound = "batches"  # no more than slots
        elif stage.start_s + stage.after_s > seconds / 2:
            bound = "start"
        else:
            bound = "losses" if redone > 0.2 else "slots"
        return Outcome(seconds=seconds, redone=redone, bound=bound, losses=self._num_losses, ends=ends)

    def _shortest(self, num_slots: int) -> float:
        stage = self._stage
        work = max(len(self._sizes) * self._interval, stage.units / stage.batch * stage.batch_s / num_slots)
        return stage.start_s + work + stage.batch_s + self._nodes.delay_s

    def _push(self, time: float, kind: int, number: int, told: float) -> None:
        heapq.heappush(self._events, (time, next(self._order), kind, number, told))

    def _next_loss(self) -> None:
        loss = next(self._losses, None)
        if loss is not None:
            self._push(loss[0], self._LOST, loss[1], 0)

    def _finish(self, slot: int) -> None:
        self._done += self._busy.pop(slot, 0.0)

    def _take(self, slot: int, now: float) -> None:
        """The next batch to a free slot: one that it lost, one that was given back, else a new one when it is there."""
        if self._own.get(slot):
            size, begin = self._own[slot].pop(), now
        elif self._again:
            size, begin = self._again.pop(), now
        elif self._given < len(self._sizes):
            size = self._sizes[self._given]
            self._given += 1
            begin = max(now, self._given * self._interval)
        else:
            self._idle.add(slot)
            return
        self._busy[slot] = size
        seconds = self._stage.batch_s * size / self._stage.batch
        self._push(begin + seconds, self._FREE, slot, self._epochs[self._node_of[slot]])

    def _lose(self, node: int, now: float) -> None:
        """A node's slots start again on the node that replaces it, with what they had: a batch in work and the next."""
        if not self._slots_of[node] or (node >= self._nodes.standing and now < self._nodes.delay_s):
            return  # not this stage's, or not there yet
        self._num_losses += 1
        self._epochs[node] += 1
        missed = now + self._nodes.detect_s
        back = missed + self._nodes.delay_s + self._stage.slot_start_s
        for slot in self._slots_of[node]:
            self._idle.discard(slot)
            size = self._busy.pop(slot, 0.0)
            if size:
                self._redone += size
                self._own.setdefault(slot, []).append(size)
                if self._given < len(self._sizes):
                    self._own[slot].append(self._sizes[self._given])
                    self._given += 1
            self._push(back, self._FREE, slot, self._epochs[node])
        held = min(self._done, self._stage.held_units)
        if held:
            self._done -= held
            self._redone += held
            self._push(missed, self._AGAIN, 0, held)


# Steps


def run_steps(training: Steps, nodes: Nodes, losses: Losses) -> Outcome:
    """A training whose nodes are lost when `losses` says so; losses of other nodes do not touch it."""
    try:
        return _train(training, nodes, losses)
    except _TooManyError:
        hopeless_s = _HOPELESS * (training.start_s + training.steps * training.step_s)
        return _of_training(training, hopeless_s, 0, _MAX_LOSSES, ends=False)


def _train(training: Steps, nodes: Nodes, losses: Losses) -> Outcome:
    waits = nodes.delay_s if training.nodes_used > nodes.standing else 0.0
    time, done, step_s = waits + training.start_s, 0, training.step_s
    best = time + training.steps * training.step_s
    redone, num_losses, whole_again = 0, 0, 0.0
    mine = ((when, node) for when, node in losses if node < training.nodes_used)
    loss = next(mine, None)
    while True:
        end = _until(time, training.steps - done, step_s, training.step_s, whole_again)
        if loss is None or loss[0] >= end:
            return _of_training(training, end, redone, num_losses, ends=True)
        if end > _HOPELESS * best:
            return _of_training(training, end, redone, num_losses, ends=False)
        reached = done
        if loss[0] > time:
            reached = done + _steps_in(loss[0] - time, step_s, training.step_s, whole_again - time)
        saved = reached if training.saves_first else reached // training.checkpoint_every * training.checkpoint_every
        done, before = max(done, saved), reached
        redone += before - done
        num_losses += 1
        missed = max(loss[0], time - training.restart_s) + nodes.detect_s
        left = training.nodes_used - 1
        if training.elastic and left:
            time, step_s, whole_again = (
                missed + training.restart_s,
                training.step_s * training.nodes_used / left,
                missed + nodes.delay_s,
            )
        else:
            time, step_s, whole_again = missed + nodes.delay_s + training.restart_s, training.step_s, 0.0
        loss = next(mine, None)


def _until(time: float, steps: int, slow_s: float, fast_s: float, whole_again: float) -> float:
    """When so many steps are done, which are slow until a node is there again."""
    slow = min(steps, max(0, int((whole_again - time) / slow_s)))
    return time + slow * slow_s + (steps - slow) * fast_s


def _steps_in(seconds: float, slow_s: float, fast_s: float, slow_for: float) -> int:
    slow = min(seconds, max(0.0, slow_for))
    return int(slow / slow_s + (seconds - slow) / fast_s)


def _of_training(training: Steps, seconds: float, redone: int, losses: int, *, ends: bool) -> Outcome:
    share = redone / max(1, training.steps)
    bound = "losses" if not ends or share > 0.2 else "start" if training.start_s > seconds / 2 else "steps"
    return Outcome(seconds=seconds, redone=share, bound=bound, losses=losses, ends=ends)
