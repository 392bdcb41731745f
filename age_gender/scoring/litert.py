"""The exported model, as LiteRT runs it: face embeddings in, ages and genders out."""

import contextlib
from collections import deque
from dataclasses import replace

import numpy as np

from age_gender.cli import InputError, quiet_stderr
from age_gender.readers import chunks, tables

OUTPUTS = ("age", "age_low", "age_high", "female_probability", "distance")
BATCH_ROWS = 256  # what the network makes of them stays in the processor's cache
_has_spoken = False  # XNNPACK's line comes once a process


class Model:
    """An exported model, loaded: maps features, float32 (n, width), to scores, float32 (n, 5).

    The columns are the OUTPUTS. One thread at a time may call it.

    Raises InputError, naming it `name`, for bytes that are not such a model. The first of a
    process must be loaded before other threads write messages: it silences standard error.
    """

    def __init__(self, model: bytes, name: str) -> None:
        global _has_spoken
        from ai_edge_litert.interpreter import Interpreter

        try:
            with contextlib.nullcontext() if _has_spoken else quiet_stderr():
                self._interpreter = Interpreter(model_content=model)
                signature = self._interpreter.get_signature_runner()
                features = signature.get_input_details()["features"]
                self._input, self.width = features["index"], int(features["shape"][-1])
                found = signature.get_output_details()
                self._outputs, self._size = [found[name]["index"] for name in OUTPUTS], 0
                del signature  # no size can be set while it is there
                self(np.ones((1, self.width), np.float32))
                _has_spoken = True
        except (ValueError, RuntimeError, TypeError, KeyError, IndexError):
            raise InputError(
                f"{name}: not a model that train.py of this version exported; train again"
            ) from None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scores = np.empty((len(features), len(OUTPUTS)), np.float32)
        batches = max(1, -(-len(features) // BATCH_ROWS))
        step = max(1, -(-len(features) // batches))  # of one size: to set another takes time
        for start in range(0, len(features), step):
            rows = features[start : start + step]
            if not 0.9 * self._size <= len(rows) <= self._size:
                self._size = min(BATCH_ROWS, len(rows) + len(rows) // 16)
                self._interpreter.resize_tensor_input(self._input, (self._size, self.width))
                self._interpreter.allocate_tensors()
                self._interpreter.tensor(self._input)().fill(1)
            # Written where the network reads; set_tensor would copy what is read-only twice.
            self._interpreter.tensor(self._input)()[: len(rows)] = rows
            self._interpreter.invoke()
            for column, output in enumerate(self._outputs):
                found = self._interpreter.get_tensor(output)[: len(rows)]
                scores[start : start + step, column] = found
        return scores

    def outputs(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """The scores by their names, each (n,)."""
        return dict(zip(OUTPUTS, self(features).T, strict=True))


class Scorer:
    """Parses a chunk of input and scores its rows, in a thread, a process, on another machine.

    It maps a chunk to its block, the features replaced by their scores, float32 (n, 5). Any
    number of threads may call it; each takes a loaded model for itself meanwhile.
    """

    def __init__(self, model: bytes, name: str) -> None:
        self.model, self.name = model, name
        self.idle: deque[Model] = deque()

    def __reduce__(self):  # what is sent to another machine
        return type(self), (self.model, self.name)

    def load(self) -> int:
        """Have a model ready; its width. Raises InputError for a file that is not one."""
        self.idle.append(Model(self.model, self.name))
        return self.idle[0].width

    def __call__(self, chunk: chunks.Chunk) -> chunks.Batch:
        block = tables.parse(chunk)
        try:
            model = self.idle.pop()
        except IndexError:
            model = Model(self.model, self.name)
        scores = model(block.features)
        self.idle.append(model)
        if not np.isfinite(scores).all():
            raise InputError(f"{self.name}: this model's estimates are no numbers; train again")
        return replace(block, features=scores)
