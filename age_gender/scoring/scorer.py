"""Run the exported LiteRT model: face embeddings in, ages and genders out."""

import contextlib
import math
from collections import deque
from dataclasses import replace

import numpy as np

from age_gender.embedding_space import is_out_of_distribution
from age_gender.errors import InputError, printable
from age_gender.processes.library_output import quiet_stderr
from age_gender.readers import chunks, tables
from age_gender.readers.bad_rows import BadRow
from age_gender.trained_models import TRAIN_COMMAND

OUTPUTS = ("age", "age_low", "age_high", "female_probability", "distance", "rounding_years")
DISTANCE, ROUNDING = OUTPUTS.index("distance"), OUTPUTS.index("rounding_years")
BATCH_ROWS = 256  # rows whose activations stay in the processor's cache
LOADED_BYTES = 32 << 20  # greatest memory that a loaded model takes
_xnnpack_has_written = False  # whether XNNPACK has written its line, which it does once per process
OOD_REASON = "an embedding of another network than the model's, or rounded too coarsely"
OOD_REMEDY = (
    "embed it with that network, skip such rows with --skip-bad-rows, or score them with --force; "
    f"for another network train a model: {TRAIN_COMMAND}"
)


class Scorer:
    """Score embeddings by an exported model, in a thread, a process or on another machine.

    Called with a chunk of input, or a batch that was parsed from it, it returns the batch with
    scores; out-of-distribution rows are then bad rows, unless `force`. Any number of threads may
    call it. Raises InputError that names the `path` for bytes that are no such model. The first
    scorer of a process must be made before other threads write messages: it silences standard
    error.
    """

    def __init__(self, model: bytes, path: str, force: bool = False) -> None:
        self.model, self.path, self.force = model, path, force
        try:
            self.idle_models = deque([_LiteRTModel(model)])  # each thread takes one while it scores
        except (ValueError, RuntimeError, TypeError, KeyError, IndexError):
            # LiteRT gives the same errors when out of memory: this line then raises MemoryError
            bytearray(LOADED_BYTES)
            raise InputError(
                f"{path}: not a model that train.py of this version exported; train again"
            ) from None
        self.width = self.idle_models[0].width  # numbers of an embedding that the model takes

    def __reduce__(self):  # pickles what another process or machine loads the model from
        return type(self), (self.model, self.path, self.force)

    def score(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, float32 (n, 6) with the columns OUTPUTS, of features (n, width)."""
        try:
            model = self._take_idle() or _LiteRTModel(self.model)
            scores = model.run(features)
        except RuntimeError as error:  # a model that was loaded once fails only when out of memory
            raise MemoryError(str(error)) from error
        self.idle_models.append(model)
        if not np.isfinite(scores).all():
            raise InputError(f"{self.path}: this model returns NaN; train again")
        return scores

    def _take_idle(self) -> "_LiteRTModel | None":
        """Return a model that no thread uses, or None."""
        with contextlib.suppress(IndexError):
            return self.idle_models.pop()
        return None

    def score_by_name(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of the OUTPUTS, (n,), of features (n, width)."""
        return dict(zip(OUTPUTS, self.score(features).T, strict=True))

    def __call__(self, item: chunks.Chunk | chunks.Batch) -> chunks.Batch:
        batch = tables.parse(item) if isinstance(item, chunks.Chunk) else item
        scores = self.score(batch.features)
        no_features = scores[:, :0]  # the result may be sent to another process: leave them out
        batch = replace(batch, features=no_features, scores=scores)
        is_ood = is_out_of_distribution(scores[:, DISTANCE])
        return reject_rows(batch, is_ood) if is_ood.any() and not self.force else batch


class _LiteRTModel:
    """Run an exported model in LiteRT's interpreter, which serves one thread at a time."""

    def __init__(self, model: bytes) -> None:
        """Load a model.

        Raises ValueError, RuntimeError, TypeError, KeyError or IndexError for other bytes.
        """
        global _xnnpack_has_written
        from ai_edge_litert.interpreter import Interpreter

        with contextlib.nullcontext() if _xnnpack_has_written else quiet_stderr():
            # Load the model, and find its input and outputs
            self._interpreter = Interpreter(model_content=model)
            signature = self._interpreter.get_signature_runner()
            features = signature.get_input_details()["features"]
            outputs = signature.get_output_details()
            self._input, self.width = features["index"], int(features["shape"][-1])
            self._outputs = [outputs[output]["index"] for output in OUTPUTS]
            del signature  # resize_tensor_input fails while a signature runner exists

            # Score two rows: this fails for an unknown operation or a model that takes only one row
            self._rows = 0  # the input's size
            self.run(np.ones((2, self.width), np.float32))
            _xnnpack_has_written = True

    def run(self, features: np.ndarray) -> np.ndarray:
        """Return the scores, float32 (n, 6), of features (n, width)."""
        scores = np.empty((len(features), len(OUTPUTS)), np.float32)
        batches = max(1, math.ceil(len(features) / BATCH_ROWS))
        # Steps of one size: resizing the input takes time
        step = max(1, math.ceil(len(features) / batches))
        for start in range(0, len(features), step):
            rows = features[start : start + step]
            # A tensor that is a little too large takes less time than the allocation of another
            if not 0.9 * self._rows <= len(rows) <= self._rows:
                self._resize(min(BATCH_ROWS, len(rows) + len(rows) // 16))
            # Write to the input itself: set_tensor would copy read-only rows twice
            self._interpreter.tensor(self._input)()[: len(rows)] = rows
            self._interpreter.invoke()
            for column, output in enumerate(self._outputs):
                values = self._interpreter.get_tensor(output)[: len(rows)]
                scores[start : start + step, column] = values
        return scores

    def _resize(self, rows: int) -> None:
        """Allocate an input of so many rows, of which some may be unused."""
        self._rows = rows
        self._interpreter.resize_tensor_input(self._input, (rows, self.width))
        self._interpreter.allocate_tensors()
        self._interpreter.tensor(self._input)().fill(1)


def reject_rows(batch: chunks.Batch, is_ood: np.ndarray) -> chunks.Batch:
    """Return a batch with its out-of-distribution rows (n,) among the bad ones."""
    names, path = batch.metadata.get("name"), batch.chunk.path
    bad_rows = [*batch.bad_rows]
    for index in np.flatnonzero(is_ood):
        name = names[index] if names else None
        called = "" if name is None else f" ({printable(name)})"
        row = int(batch.row_indices[index]) + 1
        line = batch.line_numbers[index] if batch.line_numbers else 0
        bad_rows.append(BadRow(path, row, line, f"{OOD_REASON}{called}", OOD_REMEDY))
    return replace(batch, bad_rows=sorted(bad_rows)).keep(np.flatnonzero(~is_ood))
