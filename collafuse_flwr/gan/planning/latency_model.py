"""How long one iteration takes, by a model: every client's compute and transfers, and the server's blocks.

A net is cut into a head on the client, a middle on the server and a tail on the client. A pass waits for all clients
before the middle block and after the net, so that an iteration takes

    sum over nets and directions of  S + M + R,    S = max_i (s_i + server's blocks from i's cut to the middle),
                                                   R = max_i (server's blocks from the middle to i's cut + r_i),

where s_i is client i's compute and upload, r_i its download and compute, and the server computes a block at once for
all clients that leave it that block. S of the forward and R of the backward pass depend on the heads alone, the other
two on the tails alone: the ends of the nets are four independent problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from collafuse_flwr.config.devices import Device
from collafuse_flwr.config.gan_checks import max_extra_blocks, server_block_index
from collafuse_flwr.gan.networks import Cuts
from collafuse_flwr.gan.planning.block_cost import COPIES, GanCost, LatencyVariant, NetCost

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

#: The nets, and of each: passes of an iteration forward, and backward in multiples of a pass to weights and inputs,
#: messages of a client on either way, and tapes kept at a time. The discriminator sees fake and real images in its own
#: step, and the fake ones again in the generator's, when nothing goes back to its weights.
PASSES = {"generator": (1, 1.0, 1, 1), "discriminator": (3, 2.5, 2, 2)}
#: The ends of the nets, in the order of a cut's digits.
ENDS = ("g_head", "g_tail", "d_head", "d_tail")


@dataclass(frozen=True, eq=False)
class NetEnd:
    """A head or a tail, for kinds of clients that are alike and extra blocks from 0 (levels).

    `send` and `receive` are s and r, (kinds, levels); `before` and `after` what the server needs for one client and
    each block that may be extra, outermost first, on the way to the middle and from it, (levels - 1,); `count` is the
    number of clients of each kind, (kinds,); `memory` the bytes that the end takes on a client, (levels,).
    """

    send: FloatArray
    receive: FloatArray
    before: FloatArray
    after: FloatArray
    count: IntArray
    memory: FloatArray

    @property
    def levels(self) -> int:
        """The most extra blocks, and one."""
        return len(self.memory)

    def reach(self, extra: IntArray) -> tuple[FloatArray, FloatArray]:
        """When each kind would be served at each level, if all have `extra` (..., kinds): two of (..., kinds, levels).

        That is s and r with the time of the server's blocks between the cut and the middle.
        """
        left = self.left(extra)
        return self.send + _beyond(left * self.before), self.receive + _beyond(left * self.after)

    def left(self, extra: IntArray) -> IntArray:
        """How many clients leave each block that may be extra to the server, (..., kinds) -> (..., levels - 1)."""
        result: IntArray = ((extra[..., None] < np.arange(1, self.levels)) * self.count[:, None]).sum(-2)
        return result

    def times(self, extra: IntArray) -> tuple[FloatArray, FloatArray]:
        """S and R, with extra blocks for each kind, (..., kinds) -> (...,) each."""
        own = [np.take_along_axis(reach, extra[..., None], -1)[..., 0] for reach in self.reach(extra)]
        return own[0].max(-1), own[1].max(-1)


def _beyond(blocks: FloatArray) -> FloatArray:
    """Sums over the blocks beyond each level, (..., levels - 1) -> (..., 1, levels)."""
    sums = np.cumsum(blocks[..., ::-1], -1)[..., ::-1]
    return np.concatenate([sums, np.zeros((*sums.shape[:-1], 1))], -1)[..., None, :]


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """The four ends, in the order of a cut's digits; seconds of the middle blocks; the kinds, and each client's."""

    ends: tuple[NetEnd, NetEnd, NetEnd, NetEnd]
    middle: float
    kinds: tuple[Device, ...]
    kind_of: tuple[int, ...]

    def seconds(self, extra: IntArray) -> FloatArray:
        """The modelled time of an iteration with extra blocks for each end and kind, (..., 4, kinds) -> (...,)."""
        seconds: FloatArray = np.full(extra.shape[:-2], self.middle)
        for index, end in enumerate(self.ends):
            start, finish = end.times(extra[..., index, :])
            seconds = seconds + start + finish
        return seconds

    def memory(self, extra: IntArray) -> FloatArray:
        """The bytes that each kind of client needs, (..., 4, kinds) -> (..., kinds)."""
        needed: FloatArray = np.sum([end.memory[extra[..., index, :]] for index, end in enumerate(self.ends)], 0)
        return needed

    def capacity(self) -> FloatArray:
        """The bytes that each kind of client has, (kinds,)."""
        return np.array([device.memory for device in self.kinds])

    def server(self, extra: IntArray) -> float:
        """Seconds that the server computes, with extra blocks for each end and kind, (4, kinds)."""
        blocks = 0.0
        for end, own in zip(self.ends, extra, strict=True):
            blocks += float(end.left(own) @ (end.before + end.after))
        return self.middle + blocks

    def passes(self, extra: IntArray) -> FloatArray:
        """Seconds of each kind's own compute and transfers, (4, kinds) -> (4, kinds): G forward, backward, then D's."""
        rows = np.arange(extra.shape[1])
        send = [end.send[rows, own] for end, own in zip(self.ends, extra, strict=True)]
        receive = [end.receive[rows, own] for end, own in zip(self.ends, extra, strict=True)]
        # Forward is sent from the head and received by the tail of the same net; backward is the reverse.
        return np.stack([send[index] + receive[index ^ 1] for index in range(4)])

    def extra(self, cuts: Sequence[Cuts]) -> IntArray:
        """Cuts of all kinds as the array that `seconds` takes."""
        return np.array([[getattr(cut, end) for end in ENDS] for cut in cuts]).T


def build_latency_model(
    cost: GanCost,
    devices: Sequence[Device],
    server: Device,
    *,
    model: LatencyVariant = "corrected",
    message_latency: float = 0.0,
    alike: bool = True,
) -> LatencyModel:
    """The model of an iteration of clients with these devices; with `alike` equal devices are one kind.

    `paper` follows the authors' code, faults included: every client has the server's link for itself, and on the way
    down its own does not matter; the server computes the discriminator once, not three times; all passes go back to
    weights; and the backward pass of the generator's second block is charged as its fourth (so for all blocks in heads,
    by mirror image). `corrected` mends these, shares the server's link equally among all clients, and adds
    `message_latency` seconds a message.
    The faulty operation counts are those of `measure(..., "paper")`.
    """
    paper = model == "paper"
    kinds = tuple(dict.fromkeys(devices)) if alike else tuple(devices)
    kind_of = tuple(map(kinds.index, devices)) if alike else tuple(range(len(devices)))
    count = np.bincount(kind_of, minlength=len(kinds))
    flops = np.array([[device.flops] for device in kinds])
    own_link = np.array([[device.link] for device in kinds])
    shared = np.minimum(own_link, server.link / len(devices))
    up, down = (own_link, np.full_like(own_link, server.link)) if paper else (shared, shared)
    delay = 0.0 if paper else message_latency
    ends, between = [], 0.0
    for net, (passes, back_passes, messages, tapes) in PASSES.items():
        blocks = cost.of(net)
        mid, most = server_block_index(len(blocks)), max_extra_blocks(len(blocks))
        times = {"forward": passes, "backward": passes if paper else back_passes}
        own = dict.fromkeys(times, 1) if paper else times
        work = sum(own[way] * getattr(blocks[mid], way) for way in own)
        between += work * len(devices) / server.flops
        mirrored = blocks[::-1]
        for side, kept in enumerate((blocks, mirrored)):
            levels = most[side] + 1
            # A tail is sent gradients and sends gradients of what the block before it puts out.
            crossing = np.array([(kept[e] if side == 0 else kept[e + 1]).output for e in range(levels)])
            there, back = ("forward", "backward") if side == 0 else ("backward", "forward")
            charged = mirrored if paper and side == 0 else kept
            ends.append(
                NetEnd(
                    send=times[there] * _sums(kept, there, levels) / flops + passes * crossing / up + messages * delay,
                    receive=times[back] * _sums(kept, back, levels) / flops
                    + passes * crossing / down
                    + messages * delay,
                    before=own[there] * np.array([getattr(block, there) for block in kept[1:levels]]) / server.flops,
                    after=own[back] * np.array([getattr(block, back) for block in charged[1:levels]]) / server.flops,
                    count=count,
                    memory=COPIES * _sums(kept, "weights", levels) + tapes * _sums(kept, "kept", levels),
                )
            )
    return LatencyModel((ends[0], ends[1], ends[2], ends[3]), between, kinds, kind_of)


def _sums(blocks: NetCost, name: str, levels: int) -> FloatArray:
    """A cost added up over the outermost block and 0, 1, ... extra ones, (levels,)."""
    return np.cumsum([getattr(block, name) for block in blocks[:levels]], dtype=np.float64)


def batch_bytes(cost: GanCost, cuts: Cuts) -> float:
    """Bytes of a batch that cross a client's cuts on either way: gh + gt + 3 dh + 3 dt, activations or gradients."""
    total = 0.0
    for net, (passes, *_) in PASSES.items():
        blocks = cost.of(net)
        total += passes * (blocks[cuts.head(net)[-1]].output + blocks[cuts.tail(net, len(blocks))[0] - 1].output)
    return total
