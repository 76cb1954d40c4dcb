"""Stands for the engine of a home: takes vLLM's arguments, answers with the first line of the first passage.

A script that starts this module is the `engine.python` of the week. So the gateway starts, guards, restarts and
replaces it exactly as it does with vLLM, in a second instead of half a minute.
"""

import argparse
import os
import sys

import uvicorn

from tests.support.fake_engine import application


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds before each word")
    options, _ = parser.parse_known_args(sys.argv[1:])
    app = application(options.served_model_name, os.environ["VLLM_API_KEY"], options.pause)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
