"""A leader board that is up to date while the game goes on: teams by the hour, users over all time.

    python -m examples.game.leader_board --output_folder=/tmp/board
    python -m examples.game.leader_board --output_folder=/tmp/board --source=live --team_window_duration=1

The two calculations are those of the SDK's `leader_board`. Its main program takes events from Pub/Sub and writes to
BigQuery; here they come from a replay or are made live, and each pane is written to a file.

- Teams: windows of an hour, an early result after every ten events of a team, one when the hour is over.
  The SDK's transform allows no lateness, so an event that comes after the end of its hour is dropped.
- Users: no windows, a new total after ten more events of a user, or a few more if they come in one bundle. The last
  few come when the job ends, on runners that show what is left in a window that ends.
"""

import argparse
import logging
import os

import apache_beam as beam
from apache_beam.examples.complete.game import leader_board

from examples import job_api, panes
from examples.beam_options import pipeline_options
from examples.game import events


def run(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  events.add_source_arguments(parser)
  parser.add_argument('--output_folder', required=True, help='takes a JSON file for each pane')
  parser.add_argument('--team_window_duration', type=int, default=60, help='minutes')
  arguments, others = parser.parse_known_args(argv)
  # The SDK warns that a trigger of counts may leave elements behind; which are meant is said above.
  options = pipeline_options([*others, '--allow_unsafe_triggers'], streaming=True)
  pipeline = beam.Pipeline(options=options)
  game = events.parsed(
      pipeline | 'Events' >> events.source(arguments), leader_board.ParseGameEventFn())
  (  # pylint: disable=expression-not-assigned
      game
      | 'TeamScores' >> leader_board.CalculateTeamScores(
          arguments.team_window_duration, allowed_lateness=0)
      | 'WriteTeams' >> panes.WritePanes(os.path.join(arguments.output_folder, 'teams')))
  (  # pylint: disable=expression-not-assigned
      game
      | 'UserScores' >> leader_board.CalculateUserScores(allowed_lateness=0)
      | 'WriteUsers' >> panes.WritePanes(os.path.join(arguments.output_folder, 'users')))
  # Not `with beam.Pipeline()`, which takes a drained job for a failed one.
  state = job_api.wait_until_ended(pipeline.run())
  print('The job ended %s.' % state)
  return state


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
