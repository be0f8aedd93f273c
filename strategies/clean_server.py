"""What training from x_k alone costs: CollaFuse whose server sees (x_0, noise) above the cut, in simulations only."""

from __future__ import annotations

import torch

from collafuse_flwr.core.errors import UserError
from collafuse_flwr.data.conditioning import conditioning_labels
from collafuse_flwr.data.federated import federation_data
from collafuse_flwr.data.images import ImageSource, normalize
from strategies.collafuse import CollaFuse
from strategies.server_model import ServerWork


class CleanServer(CollaFuse):
    """CollaFuse, except that the backbone is trained on the clients' clean images for t = k + 1..T.

    Clients do, and send, what they do in CollaFuse. The server takes the images of those that have uploaded from the
    data set that it has in common with them, so no further message is needed, and it cannot be deployed.
    """

    def _train_backbone(self, round_: int, steps: int) -> ServerWork:
        if not self.pool.sizes():
            return super()._train_backbone(round_, steps)
        config, device = self.config, self.runtime.device
        data = federation_data(config.data, config.run.num_supernodes, config.run.seed)
        for client in self.pool.sizes():
            if len(data.client(client).train) != self.client_manager.client_infos[client].num_images:
                raise UserError("`strategy` = clean_server reads the clients' images: it is for simulations only")
        own = [data.client(client).train for client in self.pool.sizes()]
        conditions = (conditioning_labels(config.data.conditioning, images) for images in own)
        label_tensors = [labels for labels in conditions if labels is not None]
        labels = torch.cat(label_tensors).to(device) if self.backbone.conditional else None
        clean = ImageSource(normalize(torch.cat([images.images for images in own])).to(device), labels)
        (cut,) = {self.client_manager.client_infos[client].cut_step for client in self.pool.sizes()}
        return self.backbone.train(clean, round_, config.run.num_rounds, steps, self.progress, above=cut)
