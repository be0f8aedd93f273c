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

| huscf_gan    | down                                    | up                                                   |
|--------------|-----------------------------------------|------------------------------------------------------|
| train.split  | SplitRequest: a phase of a batch        | activations or gradients at the client's cuts        |
| train        | CloseRequest: the last gradient         | CloseReply: numbers, the client's own blocks         |
| evaluate.latent | LatentRequest: number, its blocks    | what the generator's head makes of codes and labels  |
| evaluate     | FinishRequest: the middle's output      | EvaluateReply                                        |

| fedgan, mdgan | down                                   | up                                                   |
|--------------|-----------------------------------------|------------------------------------------------------|
| train.feedback | FeedbackRequest: fake images, labels  | mdgan: the gradient of the client's loss at them     |
| train        | GanRequest: batches, weights            | CloseReply: numbers, the client's weights            |
| evaluate     | GanRequest: samples, the generator      | EvaluateReply                                        |

The hybrid strategy's messages are TrainRequest and WeightsRequest in one, and so for the others.
"""

from collafuse_flwr.wire.activations import (
    CloseReply,
    CloseRequest,
    FinishRequest,
    GanNumbers,
    LatentRequest,
    SplitRequest,
    pack_activations,
    pack_close_reply,
    pack_close_request,
    pack_finish_request,
    pack_latent_request,
    pack_split_request,
    unpack_activations,
    unpack_close_reply,
    unpack_close_request,
    unpack_finish_request,
    unpack_latent_request,
    unpack_split_request,
)
from collafuse_flwr.wire.players import (
    FeedbackRequest,
    GanRequest,
    pack_feedback_request,
    pack_gan_request,
    unpack_feedback_request,
    unpack_gan_request,
)
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
    "CloseReply",
    "CloseRequest",
    "EvaluateReply",
    "FeedbackRequest",
    "FinishRequest",
    "GanNumbers",
    "GanRequest",
    "HandOver",
    "Hello",
    "LatentRequest",
    "Refusal",
    "SplitRequest",
    "TrainNumbers",
    "TrainReply",
    "TrainRequest",
    "Weights",
    "WeightsHandOver",
    "WeightsReply",
    "WeightsRequest",
    "count_bytes",
    "merge",
    "pack_activations",
    "pack_close_reply",
    "pack_close_request",
    "pack_feedback_request",
    "pack_finish_request",
    "pack_gan_request",
    "pack_hand_over",
    "pack_latent_request",
    "pack_numbers",
    "pack_refusal",
    "pack_split_request",
    "pack_train_reply",
    "pack_train_request",
    "pack_weights_hand_over",
    "pack_weights_reply",
    "pack_weights_request",
    "split_reply",
    "unpack_activations",
    "unpack_close_reply",
    "unpack_close_request",
    "unpack_evaluate_reply",
    "unpack_feedback_request",
    "unpack_finish_request",
    "unpack_gan_request",
    "unpack_hand_over",
    "unpack_hello",
    "unpack_latent_request",
    "unpack_numbers",
    "unpack_refusal",
    "unpack_split_request",
    "unpack_train_reply",
    "unpack_train_request",
    "unpack_weights_hand_over",
    "unpack_weights_reply",
    "unpack_weights_request",
]
