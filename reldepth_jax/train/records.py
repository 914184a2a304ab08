"""What a run writes about itself: JSON lines as the source of truth, TensorBoard beside them."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np
from tensorboardX import SummaryWriter


class Records:
    """Appends to `metrics.jsonl` and to `tensorboard/` in the run directory."""

    def __init__(self, workdir: pathlib.Path):
        self._lines = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"))

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`; `group` is `train` or `val`."""
        line = {"step": step, "group": group, **values}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 (h, w, 3) picture to TensorBoard."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both."""
        self._lines.close()
        self._board.close()
