"""Every message that crosses between server and clients: one typed schema each, validated on arrival.

There is no field for an image, for a client's noise or its seed: what leaves a client is what is listed here. A reply
is either of its own kind or a `ClientError`. Records that the schema does not name are refused, so that nothing travels
unnoticed. CollaFuse's messages have no field for a client's weights either; the strategies that average weights have
messages of their own, and each strategy accepts its own alone.

| message     | down                                        | up                                                      |
| ----------- | ------------------------------------------- | ------------------------------------------------------- |
| query.hello | (empty)                                     | ClientInfo: who it is, its cut, the shape of its images |
| train       | TrainRequest: round, backbone weights       | TrainReply: numbers, and the upload x_k if asked for    |
| evaluate    | SampleHandoff: samples x_k for it to finish | EvaluateReply: numbers about its own samples            |

| fedavg, ... | down                                    | up                                           |
| ----------- | --------------------------------------- | -------------------------------------------- |
| train       | WeightsRequest: round, weights          | WeightsReply: numbers, the weights asked for |
| evaluate    | WeightsHandoff: noise, averaged weights | EvaluateReply                                |

| huscf_gan       | down                                     | up                                                  |
| --------------- | ---------------------------------------- | --------------------------------------------------- |
| train.split     | SplitRequest: a phase of a batch         | activations or gradients at the client's cuts       |
| train           | EndRoundRequest: the last gradient       | EndRoundReply: numbers, the client's own blocks     |
| evaluate.latent | GenerateHeadRequest: number, its blocks  | what the generator's head makes of codes and labels |
| evaluate        | GenerateTailRequest: the middle's output | EvaluateReply                                       |

| fedgan, mdgan  | down                                              | up                                              |
| -------------- | ------------------------------------------------- | ----------------------------------------------- |
| train.feedback | DiscriminatorFeedbackRequest: fake images, labels | mdgan: the gradient of its loss at them  |
| train          | GanWorkRequest: batches, weights                  | EndRoundReply: numbers, the client's weights    |
| evaluate       | GanWorkRequest: samples, the generator            | EvaluateReply                                   |

The hybrid strategy's messages are TrainRequest and WeightsRequest in one, and so for the others.
"""
