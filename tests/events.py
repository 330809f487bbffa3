"""Reading TensorBoard's event files back, without TensorBoard."""

import struct
from pathlib import Path


def scalars(folder: Path) -> dict[str, list[int]]:
    """Steps of every scalar in a folder's event files: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("events.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append(event.step)
    return found
