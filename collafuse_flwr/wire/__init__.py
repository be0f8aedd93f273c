"""Every message that crosses between server and clients: one typed schema each, validated on arrival.

There is no field for an image, for a client's noise or its seed: what leaves a client is what is listed here. A reply
is either of its own kind or a `Refusal`. Records that the schema does not name are refused, so that nothing travels
unnoticed. CollaFuse's messages have no field for a client's weights either; the strategies that average weights have
messages of their own, and each strategy accepts its own alone.

| message      | down                                    | up                                                   |
|--------------|-----------------------------------------|------------------------------------------------------|
| query.hello  | (empty)                                 | Hello: who it is, its cut, the shape of its images   |
| train        | TrainRequest: round, backbone weights   | TrainReply: numbers, and the upload x_k if asked for |
| evaluate     | HandOver: samples x_k for it to finish  | EvaluateReply: numbers about its own samples         |

| fedavg, ...  | down                                    | up                                                   |
|--------------|-----------------------------------------|------------------------------------------------------|
| train        | WeightsRequest: round, weights          | WeightsReply: numbers, the weights asked for         |
| evaluate     | WeightsHandOver: noise, averaged weights | EvaluateReply                                       |

The hybrid strategy's messages are TrainRequest and WeightsRequest in one, and so for the others.
"""

from collafuse_flwr.wire.records import (
    Refusal,
    count_bytes,
    pack_numbers,
    pack_refusal,
    unpack_numbers,
    unpack_refusal,
)
from collafuse_flwr.wire.split import (
    EvaluateReply,
    HandOver,
    Hello,
    TrainNumbers,
    TrainReply,
    TrainRequest,
    pack_hand_over,
    pack_train_reply,
    pack_train_request,
    unpack_evaluate_reply,
    unpack_hand_over,
    unpack_hello,
    unpack_train_reply,
    unpack_train_request,
)
from collafuse_flwr.wire.weights import (
    Weights,
    WeightsHandOver,
    WeightsReply,
    WeightsRequest,
    merge,
    pack_weights_hand_over,
    pack_weights_reply,
    pack_weights_request,
    split_reply,
    unpack_weights_hand_over,
    unpack_weights_reply,
    unpack_weights_request,
)

__all__ = [
    "EvaluateReply",
    "HandOver",
    "Hello",
    "Refusal",
    "TrainNumbers",
    "TrainReply",
    "TrainRequest",
    "Weights",
    "WeightsHandOver",
    "WeightsReply",
    "WeightsRequest",
    "count_bytes",
    "merge",
    "pack_hand_over",
    "pack_numbers",
    "pack_refusal",
    "pack_train_reply",
    "pack_train_request",
    "pack_weights_hand_over",
    "pack_weights_reply",
    "pack_weights_request",
    "split_reply",
    "unpack_evaluate_reply",
    "unpack_hand_over",
    "unpack_hello",
    "unpack_numbers",
    "unpack_refusal",
    "unpack_train_reply",
    "unpack_train_request",
    "unpack_weights_hand_over",
    "unpack_weights_reply",
    "unpack_weights_request",
]
