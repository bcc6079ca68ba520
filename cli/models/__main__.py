"""`python -m cli.models NAME`: `infermesh pull` alone, for an image that has nothing else."""

import argparse
import sys

from cli.models import pull

parser = argparse.ArgumentParser(prog="python -m cli.models")
pull.add_arguments(parser)
sys.exit(pull.run(parser.parse_args()))
