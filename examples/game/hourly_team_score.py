"""The points of each team in each hour, from a file of events.

    python -m examples.game.events --output=/tmp/game.csv
    python -m examples.game.hourly_team_score --input=/tmp/game.csv --output=/tmp/team_score

The transforms are those of the SDK's `hourly_team_score`, whose own main program writes to BigQuery; this one
writes a line of JSON for each team and hour. A file is bounded, so events may be in any order: the watermark
goes to the end at once, when all are read, and none is late.
"""

import argparse
import json
import logging

import apache_beam as beam
from apache_beam.examples.complete.game.hourly_team_score import HourlyTeamScore

from examples.beam_options import pipeline_options
from examples.panes import window_name


def as_line(team_score, window=beam.DoFn.WindowParam):
  team, score = team_score
  return json.dumps({'window': window_name(window), 'team': team, 'total_score': score})


def run(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--input', required=True)
  parser.add_argument('--output', required=True, help='prefix of the files to write')
  parser.add_argument('--window_duration', type=int, default=60, help='minutes')
  parser.add_argument('--start_min', default='1970-01-01-00-00', help='events before are left out')
  parser.add_argument('--stop_min', default='2100-01-01-00-00', help='events after are left out')
  arguments, others = parser.parse_known_args(argv)
  with beam.Pipeline(options=pipeline_options(others)) as pipeline:
    (  # pylint: disable=expression-not-assigned
        pipeline
        | 'Read' >> beam.io.ReadFromText(arguments.input)
        | 'HourlyTeamScore' >> HourlyTeamScore(
            arguments.start_min, arguments.stop_min, arguments.window_duration)
        | 'AsLine' >> beam.Map(as_line)
        | 'Write' >> beam.io.WriteToText(arguments.output))


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
