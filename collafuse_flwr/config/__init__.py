"""The settings of a run: frozen dataclasses, validated once, flat on the command line.

Every default lives here and nowhere else. Hydra reads this schema directly; the copy that Flower needs in
`pyproject.toml` is compared with it by a test. A name maps to Flower's run config by `_` -> `-`.
"""

from collafuse_flwr.config.devices import FLEETS, PROFILES, Device, parse_devices
from collafuse_flwr.config.gans import middle, most_extra
from collafuse_flwr.config.sections import (
    ENDS,
    FEDERATED,
    GANS,
    MIXED,
    MODELS,
    SPLIT,
    TARGETS,
    DataConfig,
    DeviceConfig,
    EvaluationConfig,
    FederationConfig,
    GanConfig,
    ModelConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
)
from collafuse_flwr.config.shares import dropped_classes, size_shares
from collafuse_flwr.config.whole import Config, check_guidance, setting_help, setting_names

__all__ = [
    "ENDS",
    "FEDERATED",
    "FLEETS",
    "GANS",
    "MIXED",
    "MODELS",
    "PROFILES",
    "SPLIT",
    "TARGETS",
    "Config",
    "DataConfig",
    "Device",
    "DeviceConfig",
    "EvaluationConfig",
    "FederationConfig",
    "GanConfig",
    "ModelConfig",
    "RunConfig",
    "SplitConfig",
    "TrainConfig",
    "check_guidance",
    "dropped_classes",
    "middle",
    "most_extra",
    "parse_devices",
    "setting_help",
    "setting_names",
    "size_shares",
]
