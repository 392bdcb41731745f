"""Import TensorFlow within a script's main(), so that --help does not wait for it."""

import os

from age_gender.processes.library_output import environment, quiet_stderr
from age_gender.processes.memory_limit import address_space_limit

TENSORFLOW_MB = 3400  # address space of the smallest training on two processors


def require_memory() -> None:
    """Raise MemoryError where the limit of address space (ulimit -v) is too low for TensorFlow.

    With less, TensorFlow would abort the process, or OpenBLAS would wait for memory forever.
    """
    limit = address_space_limit()
    if limit < TENSORFLOW_MB:
        raise MemoryError(
            f"the limit is {limit:.0f} MB of addresses, TensorFlow needs {TENSORFLOW_MB}"
        )


def import_tensorflow() -> None:
    """Import TensorFlow and Keras and run a first operation, without their start-up messages.

    Ctrl-C raises KeyboardInterrupt as soon as TensorFlow's C++ code returns to Python. Where the
    import turns it into another error, `cli.report_error` still says "interrupted".
    """
    require_memory()
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    with environment(TF_CPP_MIN_LOG_LEVEL=level, KERAS_BACKEND="tensorflow"), quiet_stderr():
        import keras  # noqa: F401  (it takes its backend from the environment)
        import tensorflow as tf

        tf.constant(0.0)
