"""Run a script: its start, interrupts, threads and processes, TensorFlow's import."""
