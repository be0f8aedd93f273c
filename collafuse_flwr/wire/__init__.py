"""Every message that crosses between server and clients: one dataclass each, by one codec, validated on arrival.

There is no field for an image, for a client's noise or its seed: what leaves a client is what is listed here. A reply
is either of its own kind or a `ClientError`. Records that the schema does not name are refused, so that nothing travels
unnoticed. CollaFuse's messages have no field for a client's weights either; the strategies that average weights have
messages of their own, and each strategy accepts its own alone.

| message           | down                                  | up                                               |
| ----------------- | ------------------------------------- | ------------------------------------------------ |
| query.client_info | (empty)                               | ClientInfo: its cut, its images' shape           |
| train             | TrainRequest: round, backbone weights | TrainReply: metrics, the upload x_k, its new cut |
| evaluate          | SampleHandoff: samples x_k to finish  | EvaluateReply: metrics of its own samples        |

| fedavg, ... | down                                    | up                                           |
| ----------- | --------------------------------------- | -------------------------------------------- |
| train       | WeightsRequest: round, weights          | WeightsReply: metrics, the requested weights |
| evaluate    | WeightsHandoff: noise, averaged weights | EvaluateReply                                |

| huscf_gan       | down                                     | up                                   |
| --------------- | ---------------------------------------- | ------------------------------------ |
| train.split     | SplitRequest: a phase of a batch         | ActivationsReply: the phase's answer |
| train           | EndRoundRequest: the last gradient       | EndRoundReply: metrics, its blocks   |
| evaluate.latent | GenerateHeadRequest: number, its blocks  | ActivationsReply: the head's output  |
| evaluate        | GenerateTailRequest: the middle's output | EvaluateReply                        |

| fedgan, hfl_gan | down                                   | up                              |
| --------------- | -------------------------------------- | ------------------------------- |
| train           | GanWorkRequest: batches, weights       | EndRoundReply: metrics, weights |
| evaluate        | GanWorkRequest: samples, the generator | EvaluateReply                   |

| mdgan, fsl_gan | down                                              | up                              |
| -------------- | ------------------------------------------------- | ------------------------------- |
| train.feedback | DiscriminatorFeedbackRequest: fake images, labels | ActivationsReply: a gradient    |
| train          | GanWorkRequest: the round is over                 | EndRoundReply: metrics, weights |
| evaluate       | GanWorkRequest: samples, the generator            | EvaluateReply                   |

| pfl_gan  | down                                            | up                                       |
| -------- | ----------------------------------------------- | ---------------------------------------- |
| train    | SyntheticWorkRequest: batches, synthetic images | EndRoundReply: metrics, its generator    |
| evaluate | GanWorkRequest: samples of its own generator    | EvaluateReply                            |

The hybrid strategy's messages, HybridRequest and HybridReply, have the fields of CollaFuse's and of FedAvg's.
"""
