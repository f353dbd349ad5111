"""The points of each user, from a file of events: the SDK's `user_score` example as it is.

    python -m examples.game.events --output=/tmp/game.csv
    python -m examples.game.user_score --input=/tmp/game.csv --output=/tmp/user_score

The SDK's pipeline reads and writes local files, so nothing is added here but where it runs.
"""

import logging
import sys

from apache_beam.examples.complete.game import user_score

from examples.beam_options import BEAMLINE


def run(argv=None):
  argv = sys.argv[1:] if argv is None else list(argv)
  if not any(argument.split('=')[0] == '--runner' for argument in argv):
    argv = [*BEAMLINE, *argv]
  user_score.run(argv, save_main_session=False)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
