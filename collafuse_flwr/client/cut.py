"""Where a client cuts: as the settings say, or where its own images disclose no more than these allow."""

from __future__ import annotations

import json

from collafuse_flwr.client.store import ClientStore
from collafuse_flwr.config import Config
from collafuse_flwr.data import ImageSet, to_model_space
from collafuse_flwr.diffusion import Schedule
from collafuse_flwr.errors import SettingError
from collafuse_flwr.files import write_json


def own_cut(config: Config, schedule: Schedule, images: ImageSet, client: int, store: ClientStore) -> int:
    """The cut step of a client, chosen once: it is kept on the client's disk before anything is uploaded.

    A second release at another cut would add to the first, so a cut that was chosen for another target is refused.

    Raises:
        SettingError: this client chose its cut for another target before.
        DataError: no cut discloses so little.
    """
    target = config.cut_target()
    if target is None:
        return config.cut_steps()[client]
    path, asked = store.folder / "cut.json", [*target, schedule.timesteps, config.model.schedule]
    if not path.exists():
        # Slow to import, for a deployed client at every message.
        from collafuse_flwr.privacy.choice import choose_cut  # noqa: PLC0415

        cut = choose_cut(config, schedule, to_model_space(images.images), client)
        write_json(path, {"asked": asked, "cut_step": cut})
    kept = json.loads(path.read_text())
    if kept["asked"] != asked:
        raise SettingError(target[0], target[1], f"as before, {kept['asked']}: client {client} has chosen its cut")
    return int(kept["cut_step"])
