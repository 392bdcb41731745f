"""An embedder exported to LiteRT (.tflite), whatever network it is."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from age_gender.script import InputError, error_line, quiet_stderr, say

WIDTHS = range(16, 4097)  # numbers of an embedding, as in the tables of prepare.py


def read_embedder(path: Path) -> tuple[bytes, int]:
    """The file at `path`, and the side of the chips that it takes, in pixels."""
    model = path.read_bytes()
    with quiet_stderr():
        interpreter, size, _ = open_model(model, path)
    width = interpreter.get_output_details()[0]["shape"][-1]
    digest = hashlib.sha256(model).hexdigest()
    say(f"{path}: {size} pixels to {width} numbers, SHA-256 {digest}")
    return model, size


def open_model(model: bytes, path: Path):
    """An interpreter, the side of its chips, and the faces it takes at once (0: any number).

    Raises InputError unless it makes one row of numbers of each square RGB chip.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        signature, size = taken["shape_signature"], int(taken["shape"][1])
        batch = max(0, int(signature[0]))
        if list(signature[1:]) != [size, size, 3] or size < 8:
            raise ValueError(f"its input is {list(signature)}")
        if taken["dtype"] != np.float32 or given["dtype"] != np.float32:
            raise ValueError("its numbers are not float32")
        width = int(given["shape"][-1])
        if width not in WIDTHS or given["shape"].prod() != max(1, batch) * width:
            raise ValueError(f"its output is {given['shape'].tolist()}")
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: not an embedder in LiteRT's format, (faces, side, side, 3) to (faces, "
            f"16 to {WIDTHS[-1]}) in float32 ({error_line(error)}); give another --embedder"
        ) from None
    return interpreter, size, batch


def load_embedder(model: bytes, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function from chips, RGB (n, side, side, 3), to float32 (n, width).

    Each thread has an interpreter of its own. A network that was frozen for some faces at a time
    gets as many, the last one again where there are fewer.
    """
    thread = threading.local()
    with quiet_stderr():  # LiteRT speaks once a process
        thread.opened = open_model(model, path)

    def embed_chips(chips: np.ndarray) -> np.ndarray:
        if not hasattr(thread, "opened"):
            thread.opened = open_model(model, path)
        interpreter, _, batch = thread.opened
        (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows, step = [], batch or len(chips)
        for start in range(0, len(chips), step):
            block = (chips[start : start + step].astype(np.float32) - 127.5) / 128
            full = np.concatenate([block, np.repeat(block[-1:], step - len(block), axis=0)])
            if not batch:
                interpreter.resize_tensor_input(taken["index"], full.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(taken["index"], full)
            interpreter.invoke()
            rows.append(interpreter.get_tensor(given["index"]).reshape(step, -1)[: len(block)])
        return np.concatenate(rows)

    return embed_chips
