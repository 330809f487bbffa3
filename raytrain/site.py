"""Where a stage trains and who follows it: what does not change the result, only how it comes about."""

from dataclasses import dataclass, field

from raytrain.hardware import HardwareSettings
from raytrain.tracking import TrackingSettings


@dataclass(frozen=True)
class Site:
    """The kind of machine, and the trackers beside TensorBoard."""

    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)


DEFAULT_SITE = Site()
