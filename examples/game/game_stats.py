"""Finds the robots, counts the teams' points without them, and measures how long people play.

    python -m examples.game.game_stats --output_folder=/tmp/stats
    python -m examples.game.game_stats --output_folder=/tmp/stats --source=live --fixed_window_duration=0.1

The steps are those of the SDK's `game_stats`, on local events and with results in files.

The robots of an hour are known when the hour is over, and are a side input to the teams' scores of that same
hour: the main input waits until the side input's window is ready. So the pipeline reads the
events twice, once to find who is not human, and once to count those who are.
"""

import argparse
import logging
import os

import apache_beam as beam
from apache_beam.examples.complete.game import game_stats
from apache_beam.transforms.window import FixedWindows, Sessions, TimestampCombiner

from examples import job_api, panes
from examples.beam_options import pipeline_options
from examples.game import events


def add_team_scores(game, user_scores, seconds, folder):
  """The robots of each window, and the points of each team in it without theirs."""
  robots = (
      user_scores
      | 'UserWindows' >> beam.WindowInto(FixedWindows(seconds))
      | 'Robots' >> game_stats.CalculateSpammyUsers())
  robots | 'WriteRobots' >> panes.WritePanes(os.path.join(folder, 'robots'))  # pylint: disable=expression-not-assigned
  robots_of_window = (
      robots
      | 'RobotsOfWindow' >> beam.CombineGlobally(
          beam.combiners.ToDictCombineFn()).as_singleton_view())
  (  # pylint: disable=expression-not-assigned
      game
      | 'TeamWindows' >> beam.WindowInto(FixedWindows(seconds))
      | 'WithoutRobots' >> beam.Filter(
          lambda event, robots: event['user'] not in robots, robots_of_window)
      | 'TeamScores' >> game_stats.ExtractAndSumScore('team')
      | 'WriteTeams' >> panes.WritePanes(os.path.join(folder, 'teams')))


def add_session_lengths(user_scores, gap_seconds, seconds, folder):
  """The mean length, in seconds, of the sessions that ended in each window."""
  (  # pylint: disable=expression-not-assigned
      user_scores
      | 'Sessions' >> beam.WindowInto(
          Sessions(gap_seconds), timestamp_combiner=TimestampCombiner.OUTPUT_AT_EOW)
      | 'OnePerSession' >> beam.CombinePerKey(lambda _: None)
      | 'Length' >> beam.ParDo(game_stats.UserSessionActivity())
      | 'MeanWindows' >> beam.WindowInto(FixedWindows(seconds))
      | 'Mean' >> beam.CombineGlobally(beam.combiners.MeanCombineFn()).without_defaults()
      | 'Keyed' >> beam.Map(lambda mean: ('mean_session_seconds', float(mean)))
      | 'WriteSessions' >> panes.WritePanes(os.path.join(folder, 'sessions')))


def run(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  events.add_source_arguments(parser)
  parser.add_argument('--output_folder', required=True, help='takes a JSON file for each result')
  parser.add_argument('--fixed_window_duration', type=float, default=60, help='minutes')
  parser.add_argument('--session_gap', type=float, default=5, help='minutes')
  parser.add_argument('--user_activity_window_duration', type=float, default=30, help='minutes')
  arguments, others = parser.parse_known_args(argv)
  pipeline = beam.Pipeline(options=pipeline_options(others, streaming=True))
  game = events.parsed(
      pipeline | 'Events' >> events.source(arguments), game_stats.ParseGameEventFn())
  user_scores = game | 'UserScores' >> beam.Map(lambda event: (event['user'], event['score']))
  add_team_scores(
      game, user_scores, arguments.fixed_window_duration * 60, arguments.output_folder)
  add_session_lengths(
      user_scores, arguments.session_gap * 60, arguments.user_activity_window_duration * 60,
      arguments.output_folder)
  # Not `with beam.Pipeline()`, which takes a drained job for a failed one.
  state = job_api.wait_until_ended(pipeline.run())
  print('The job ended %s.' % state)
  return state


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
