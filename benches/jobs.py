"""The jobs that are measured, by name.

A job is a function of pipeline arguments. It returns nothing, or the seconds that count if not all of its
time does. Each checks its own result inside the pipeline.
"""

import atexit
import contextlib
import dataclasses
import glob
import os
import shutil
import tempfile
import time
import typing
import unittest.mock
import uuid

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder, VarIntCoder
from apache_beam.io import filebasedsink, iobase
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import userstate, window
from apache_beam.transforms.combiners import CountCombineFn

PAIRS = 1_000_000
HOT_VALUES = 200_000
ELEMENTS = 200_000
WINDOW_SECONDS = 60
# Event times are spread over so many seconds.
HOUR = 3_600
SLIDES = 4
WINDOWED_KEYS = 100
SIDE_INPUT_KEYS = 10_000
STATE_KEYS = 2_000
MAPS = 10
BYTES_BY_KEY = typing.Tuple[bytes, bytes]
TEXT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'data', 'kinglear.txt')


@dataclasses.dataclass
class Job:
  """run: the function. rounds: of which the median is taken. small: what the runner costs is most of it, so
  everything is run once before it is measured. one_process: also run with one worker process and in peers
  that have no other; False if only the worker pool, Prism and Beamline's own one process are of interest.
  pool: also run on a pool of worker processes.
  """
  run: typing.Callable
  rounds: int = 5
  small: bool = False
  one_process: bool = True
  pool: bool = True


def pipeline(arguments):
  return beam.Pipeline(options=PipelineOptions(arguments))


# Else the client runs `pip freeze` before every job, which takes longer than the smallest job and says
# nothing of any runner.
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
  """Ranges of 0 to `count`, on all workers."""
  step = min(10_000, count // 20)
  ranges = [(i, min(step, count - i)) for i in range(0, count, step)]
  return beam.Create(ranges) | beam.Reshuffle()


def in_ranges(function, output_type=int):
  """One element made of each number of each range."""
  made = beam.FlatMap(lambda r: (function(i) for i in range(r[0], r[0] + r[1])))
  return made.with_output_types(output_type)


def check_sum(counts, expected):
  assert_that(counts | 'Sum' >> beam.CombineGlobally(sum).without_defaults(), equal_to([expected]))


def group(arguments):
  """1 M pairs of 100 bytes through a GroupByKey."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = (
        p
        | numbers(PAIRS)
        | in_ranges(lambda i: (b'%08d' % (i % 100_000), b'x' * 92), BYTES_BY_KEY)
        | beam.GroupByKey()
        | beam.Map(lambda kv: sum(1 for _ in kv[1])))
    check_sum(counts, PAIRS)


def hot_key(arguments):
  """200 k values of 1 kB under one key."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = (
        p
        | numbers(HOT_VALUES)
        | in_ranges(lambda i: (b'k', b'x' * 1000), BYTES_BY_KEY)
        | beam.GroupByKey()
        | beam.Map(lambda kv: sum(1 for _ in kv[1])))
    check_sum(counts, HOT_VALUES)


def windowed(arguments, window_fn, expected):
  """200 k elements over an hour, grouped by key and window."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = (
        p
        | numbers(ELEMENTS)
        | in_ranges(
            lambda i: window.TimestampedValue((i % WINDOWED_KEYS, i), i % HOUR),
            typing.Tuple[int, int])
        | beam.WindowInto(window_fn)
        | beam.GroupByKey()
        | beam.Map(lambda kv: sum(1 for _ in kv[1]))
        | 'Unwindowed' >> beam.WindowInto(window.GlobalWindows()))
    check_sum(counts, expected)


def fixed_windows(arguments):
  windowed(arguments, window.FixedWindows(WINDOW_SECONDS), ELEMENTS)


def sliding_windows(arguments):
  """Each element is in four windows."""
  windowed(
      arguments, window.SlidingWindows(WINDOW_SECONDS, WINDOW_SECONDS // SLIDES), SLIDES * ELEMENTS)


def side_input_dict(arguments):
  """200 k elements, each looked up in a dict of 10 k."""
  with pipeline(arguments + NO_FREEZE) as p:
    names = p | 'Keys' >> numbers(SIDE_INPUT_KEYS) | 'Pairs' >> in_ranges(
        lambda i: (i, 1), typing.Tuple[int, int])
    counts = (
        p
        | numbers(ELEMENTS)
        | in_ranges(lambda i: i % SIDE_INPUT_KEYS)
        | beam.Map(lambda i, ones: ones[i], ones=beam.pvalue.AsDict(names)))
    check_sum(counts, ELEMENTS)


class CountInState(beam.DoFn):
  """The number of each key's elements, given out by a timer at the end of time."""
  COUNT = userstate.CombiningValueStateSpec('count', VarIntCoder(), CountCombineFn())
  KEY = userstate.ReadModifyWriteStateSpec('key', StrUtf8Coder())
  END = userstate.TimerSpec('end', beam.TimeDomain.WATERMARK)

  def process(
      self,
      element,
      count=beam.DoFn.StateParam(COUNT),
      key=beam.DoFn.StateParam(KEY),
      end=beam.DoFn.TimerParam(END)):
    if not key.read():
      key.write(element[0])
    count.add(1)
    end.set(window.GlobalWindow().max_timestamp())

  @userstate.on_timer(END)
  def at_the_end(self, count=beam.DoFn.StateParam(COUNT), key=beam.DoFn.StateParam(KEY)):
    assert key.read()
    yield count.read()
    count.clear()


def state_and_timers(arguments):
  """200 k elements with 2 k keys, each counted in state, with a timer set."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = (
        p
        | numbers(ELEMENTS)
        | in_ranges(lambda i: (str(i % STATE_KEYS), i), typing.Tuple[str, int])
        | beam.ParDo(CountInState()))
    check_sum(counts, ELEMENTS)


def reshuffle(arguments):
  """200 k elements of 200 bytes, reshuffled twice."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = (
        p
        | numbers(ELEMENTS)
        | in_ranges(lambda i: b'%08d' % i + b'x' * 192, bytes)
        | 'Once' >> beam.Reshuffle()
        | 'Same' >> beam.Map(lambda element: element)
        | 'Twice' >> beam.Reshuffle()
        | beam.Map(lambda _: 1))
    check_sum(counts, ELEMENTS)


def maps(arguments):
  """200 k numbers through a chain of ten Maps."""
  with pipeline(arguments + NO_FREEZE) as p:
    counts = p | numbers(ELEMENTS) | in_ranges(lambda i: i)
    for step in range(MAPS):
      counts |= 'Map %d' % step >> beam.Map(lambda i: i + 1)
    check_sum(counts | beam.Map(lambda _: 1), ELEMENTS)


class CountedNames:
  """Stands for the module `uuid` where the file sink names files: the same names in every run.

  By chance as they are, a replay would be told the names of files that the recorded run wrote.
  """
  def __init__(self):
    self.names = 0

  def uuid4(self):
    self.names += 1
    return uuid.UUID(int=self.names)

  uuid1 = uuid4


@contextlib.contextmanager
def counted_names():
  names = CountedNames()
  with unittest.mock.patch.object(iobase, 'uuid', names):
    with unittest.mock.patch.object(filebasedsink, 'uuid', names):
      yield


TEXT_FOLDERS = {}


def text_folder(megabytes):
  """A folder with so much text in it; for all runs the same, since bundles name it."""
  if megabytes not in TEXT_FOLDERS:
    folder = tempfile.mkdtemp(prefix='beamline-bench-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with open(TEXT, encoding='utf-8') as f:
      text = f.read()
    with open(os.path.join(folder, 'in.txt'), 'w', encoding='utf-8') as f:
      for _ in range(megabytes * 1_000_000 // len(text)):
        f.write(text)
    TEXT_FOLDERS[megabytes] = folder
  return TEXT_FOLDERS[megabytes]


def word_count(megabytes):
  def run(arguments):
    """Text, file to file, as in the SDK's example."""
    folder = text_folder(megabytes)
    for old in glob.glob(os.path.join(folder, 'out*')):
      os.unlink(old)
    started = time.monotonic()
    with counted_names(), pipeline(arguments + NO_FREEZE) as p:
      _ = (
          p
          | beam.io.ReadFromText(os.path.join(folder, 'in.txt'))
          | beam.FlatMap(str.split)
          | beam.combiners.Count.PerElement()
          | beam.MapTuple(lambda word, count: '%s: %d' % (word, count))
          | beam.io.WriteToText(os.path.join(folder, 'out')))
    wall = time.monotonic() - started
    lines = 0
    for written in glob.glob(os.path.join(folder, 'out*')):
      with open(written, encoding='utf-8') as f:
        lines += sum(1 for _ in f)
    assert lines == WORDS, lines
    return wall

  return run


def distinct_words():
  with open(TEXT, encoding='utf-8') as f:
    return len(set(f.read().split()))


WORDS = distinct_words()

JOBS = {
    'smallest, run() to DONE': Job(smallest, rounds=20, small=True, pool=False),
    'smallest, submitted to DONE': Job(smallest_submitted, rounds=20, small=True, pool=False),
    'smallest with pip freeze, run() to DONE': Job(
        smallest_by_default, small=True, pool=False),
    'group by key, 1 M × 100 B': Job(group),
    'hot key, 200 k × 1 kB': Job(hot_key),
    'fixed windows, 200 k': Job(fixed_windows),
    'sliding windows × 4, 200 k': Job(sliding_windows),
    'side input dict of 10 k, 200 k': Job(side_input_dict),
    'state and timers, 200 k with 2 k keys': Job(state_and_timers),
    'Reshuffle × 2, 200 k × 200 B': Job(reshuffle),
    'chain of 10 Maps, 200 k': Job(maps),
    'WordCount, 20 MB': Job(word_count(20)),
    'WordCount, 100 MB': Job(word_count(100), rounds=3, one_process=False),
}
