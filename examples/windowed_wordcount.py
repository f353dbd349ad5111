"""Counts the words of each ten minutes of a text whose lines carry the time they were written at.

    python -m examples.windowed_wordcount --input examples/data/ship_log.txt --output_folder /tmp/words

Each line of the input is an ISO 8601 date-time, a space, and text:

    2031-04-09T06:02:11Z Fog until the second bell.

The time in the line becomes the element's timestamp, the timestamp decides the window, and every
grouping after `WindowInto` is by window too. Each window has a file of its own.
"""

import argparse
import datetime
import logging
import re

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from examples.beam_options import pipeline_options


class ParseLineFn(beam.DoFn):
  """Gives the text of a line the time that it begins with; lines that have none are counted."""
  def __init__(self):
    self.unreadable = Metrics.counter('examples', 'unreadable_lines')

  def process(self, line):
    written_at, _, text = line.partition(' ')
    try:
      moment = datetime.datetime.fromisoformat(written_at.replace('Z', '+00:00'))
    except ValueError:
      self.unreadable.inc()
      return
    if moment.tzinfo is None:
      moment = moment.replace(tzinfo=datetime.timezone.utc)
    yield TimestampedValue(text, moment.timestamp())


class WindowedWordCount(beam.PTransform):
  """(word, count) of each window, from text with timestamps."""
  def __init__(self, window_seconds):
    super().__init__()
    self.window_seconds = window_seconds

  def expand(self, texts):
    return (
        texts
        | 'Words' >> beam.FlatMap(lambda text: re.findall(r"[\w']+", text.lower()))
        | 'Window' >> beam.WindowInto(FixedWindows(self.window_seconds))
        | 'Count' >> beam.combiners.Count.PerElement())


def name_file(window, unused_pane, shard, shards, unused_compression, unused_destination):
  """words-2031-04-09T06-00-00--06-10-00-0-of-1.txt"""
  start, end = window.start.to_utc_datetime(), window.end.to_utc_datetime()
  return 'words-%s--%s-%d-of-%d.txt' % (
      start.strftime('%Y-%m-%dT%H-%M-%S'), end.strftime('%H-%M-%S'), shard, shards)


def run(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--input', default='examples/data/ship_log.txt', help='file pattern')
  parser.add_argument('--output_folder', required=True)
  parser.add_argument('--window_minutes', type=float, default=10)
  arguments, others = parser.parse_known_args(argv)

  with beam.Pipeline(options=pipeline_options(others)) as pipeline:
    (  # pylint: disable=expression-not-assigned
        pipeline
        | 'Read' >> beam.io.ReadFromText(arguments.input)
        | 'Parse' >> beam.ParDo(ParseLineFn())
        | 'WordCount' >> WindowedWordCount(arguments.window_minutes * 60)
        | 'Format' >> beam.MapTuple(lambda word, count: '%s: %d' % (word, count))
        | 'Write' >> fileio.WriteToFiles(
            arguments.output_folder, file_naming=name_file, sink=fileio.TextSink()))


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
