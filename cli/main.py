"""The `infermesh` command: reads arguments, calls the subcommand, turns its result into an exit."""

import argparse
import io
import sys
from collections.abc import Sequence

from cli import chat, ingest, up
from cli.models import listing, pull


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    parser = argparse.ArgumentParser(prog="infermesh", description="An LLM inference mesh.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module, name, summary in (
        (up, "up", "start everything on this machine, in the foreground"),
        (ingest, "ingest", "make documents findable in a collection"),
        (chat, "chat", "chat in the terminal"),
        (pull, "pull", "have a model by its name"),
        (listing, "models", "list the models that are here, and the catalogue"),
    ):
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a character shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
