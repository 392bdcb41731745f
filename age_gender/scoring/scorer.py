"""What scores a piece of input, wherever that is done: in a thread, a process, another machine."""

from collections import deque
from dataclasses import replace

import numpy as np

from age_gender.scoring import litert
from age_gender.script import InputError
from age_gender.tables import pieces, reading


class Scorer:
    """Parses a piece of input and scores its rows: (n, width) to (n, 5), the litert.OUTPUTS.

    Any number of threads may call it; each takes a loaded model for itself meanwhile. It holds
    the model's bytes, so that it can be sent to another machine.
    """

    def __init__(self, model: bytes, name: str) -> None:
        self.model, self.name = model, name
        self.idle: deque[litert.Model] = deque()

    def __reduce__(self):
        return type(self), (self.model, self.name)

    def load(self) -> int:
        """Have a model ready; its width. Raises InputError for a file that is not one."""
        self.idle.append(litert.Model(self.model, self.name))
        return self.idle[0].width

    def __call__(self, piece: pieces.Piece) -> pieces.Block:
        """The block of the piece, its features replaced by their scores, float32 (n, 5)."""
        block = reading.parse(piece)
        try:
            model = self.idle.pop()
        except IndexError:
            model = litert.Model(self.model, self.name)
        scores = model(block.features)
        self.idle.append(model)
        if not np.isfinite(scores).all():
            raise InputError(f"{self.name}: this model's estimates are no numbers; train again")
        return replace(block, features=scores)
