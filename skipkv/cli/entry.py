"""Where the command line starts: the streams made safe, and Ctrl-C answered from the beginning."""

import io
import os
import sys


def main() -> None:
    """Run the command line; what `skipkv` and `python -m skipkv` start."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process: skipkv ... >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as we run)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that its encoding lacks is no crash
            stream.reconfigure(errors="backslashreplace")
    try:
        from skipkv.cli.app import app
    except KeyboardInterrupt:
        print("\nskipkv: interrupted.", file=sys.stderr)
        sys.exit(130)
    app()  # from here on `clean_exit` answers
