"""The jobs that are measured: name -> (function of pipeline arguments, rounds).

A function returns nothing, or the seconds that count if not all of its time does.
"""

import glob
import os
import tempfile
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

PAIRS = 1_000_000
HOT_VALUES = 200_000
TEXT_MEGABYTES = 20
TEXT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'data', 'kinglear.txt')


def pipeline(arguments):
  return beam.Pipeline(options=PipelineOptions(arguments))


# Else the client runs `pip freeze` before every job, which takes longer than the job and says nothing
# of any runner.
NO_FREEZE = ['--experiments=disable_logging_submission_environment']


def run_smallest(arguments):
  """Create, Map, assert: seconds from `run()` to its return, and from there to DONE."""
  p = pipeline(arguments)
  assert_that(p | beam.Create([1, 2, 3]) | beam.Map(lambda x: x + 1), equal_to([2, 3, 4]))
  started = time.monotonic()
  result = p.run()
  submitted = time.monotonic()
  result.wait_until_finish()
  return submitted - started, time.monotonic() - submitted


def smallest(arguments):
  """What the runner costs when there is nothing to do: `run()` to DONE."""
  return sum(run_smallest(arguments + NO_FREEZE))


def smallest_submitted(arguments):
  """The same without what the client does before it hands the job over."""
  return run_smallest(arguments + NO_FREEZE)[1]


def smallest_by_default(arguments):
  """As a user has it who sets nothing: with `pip freeze`, which takes longer than all the rest."""
  return sum(run_smallest(arguments))


def numbers(count):
  return beam.Create([(i, min(10_000, count - i)) for i in range(0, count, 10_000)]) | beam.Reshuffle()


def group(arguments):
  """1 M pairs of 100 bytes through a GroupByKey."""
  with pipeline(arguments) as p:
    counted = (
        p
        | numbers(PAIRS)
        | beam.FlatMap(lambda r: ((b'%08d' % (i % 100_000), b'x' * 92) for i in range(r[0], r[0] + r[1])))
        | beam.GroupByKey()
        | beam.Map(lambda kv: sum(1 for _ in kv[1]))
        | beam.CombineGlobally(sum))
    assert_that(counted, equal_to([PAIRS]))


def hot_key(arguments):
  """200 k values of 1 kB under one key."""
  with pipeline(arguments) as p:
    counted = (
        p
        | numbers(HOT_VALUES)
        | beam.FlatMap(lambda r: ((b'k', b'x' * 1000) for _ in range(r[1])))
        | beam.GroupByKey()
        | beam.Map(lambda kv: sum(1 for _ in kv[1])))
    assert_that(counted, equal_to([HOT_VALUES]))


def word_count(arguments):
  """20 MB of text, file to file, as in the SDK's example."""
  with tempfile.TemporaryDirectory(prefix='beamline-bench-') as folder:
    with open(TEXT, encoding='utf-8') as f:
      text = f.read()
    source = os.path.join(folder, 'in.txt')
    with open(source, 'w', encoding='utf-8') as f:
      for _ in range(TEXT_MEGABYTES * 1_000_000 // len(text)):
        f.write(text)
    with pipeline(arguments) as p:
      _ = (
          p
          | beam.io.ReadFromText(source)
          | beam.FlatMap(str.split)
          | beam.combiners.Count.PerElement()
          | beam.MapTuple(lambda word, count: '%s: %d' % (word, count))
          | beam.io.WriteToText(os.path.join(folder, 'out')))
    assert glob.glob(os.path.join(folder, 'out*'))


SMALLEST = {
    'smallest, run() to DONE': (smallest, 20),
    'smallest, submitted to DONE': (smallest_submitted, 20),
    'smallest with pip freeze, run() to DONE': (smallest_by_default, 20),
}

JOBS = {
    **SMALLEST,
    'group by key, 1 M × 100 B': (group, 5),
    'hot key, 200 k × 1 kB': (hot_key, 5),
    'WordCount, 20 MB': (word_count, 3),
}

# The file sink gives its files names by chance, and a replay is told the names of the recorded run.
NOT_REPLAYED = {'WordCount, 20 MB'}
