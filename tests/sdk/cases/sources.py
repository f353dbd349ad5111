"""Splittable DoFns, sources and files."""

import glob
import gzip
import os

import apache_beam as beam
from apache_beam.io import fileio, iobase
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.range_trackers import OffsetRangeTracker
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from harness import case, check

# pylint: disable=expression-not-assigned


class _Letters(RestrictionProvider):
  """The restriction of a word is the range of its letters."""
  def initial_restriction(self, element):
    return OffsetRange(0, len(element))

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def split(self, element, restriction):
    return restriction.split(desired_num_offsets_per_split=5)

  def restriction_size(self, element, restriction):
    return restriction.size()


class _Spell(beam.DoFn):
  def process(self, element, tracker=beam.DoFn.RestrictionParam(_Letters())):
    at = tracker.current_restriction().start
    while tracker.try_claim(at):
      yield element[at]
      at += 1


@case(matrix=True)
def splittable(p):
  words = ['beamline', 'a', '', 'splittable']
  check(p | beam.Create(words) | beam.ParDo(_Spell()), ''.join(words))


class _SpellTwoAtATime(beam.DoFn):
  """Leaves the rest for another bundle after each two letters."""
  def process(self, element, tracker=beam.DoFn.RestrictionParam(_Letters())):
    at = tracker.current_restriction().start
    for _ in range(2):
      if not tracker.try_claim(at):
        return
      yield element[at]
      at += 1
    tracker.defer_remainder()


@case(matrix=True)
def splittable_that_checkpoints_itself(p):
  words = ['beamline', 'abc', 'z']
  letters = p | beam.Create(words) | beam.ParDo(_SpellTwoAtATime())
  check(letters, ''.join(words))
  # What follows a shuffle must wait for the deferred parts, too.
  check(letters | beam.combiners.Count.Globally(), [12], 'Count')


class _Numbers(iobase.BoundedSource):
  """A source of the older kind, which the SDK wraps into a splittable DoFn."""
  def __init__(self, count):
    self.count = count

  def estimate_size(self):
    return self.count * 8

  def get_range_tracker(self, start, stop):
    return OffsetRangeTracker(start or 0, self.count if stop is None else stop)

  def read(self, tracker):
    for i in range(tracker.start_position(), tracker.stop_position()):
      if not tracker.try_claim(i):
        return
      yield i

  def split(self, desired_bundle_size, start_position=None, stop_position=None):
    start = start_position or 0
    stop = self.count if stop_position is None else stop_position
    step = max(1, (stop - start) // 4)
    for at in range(start, stop, step):
      yield iobase.SourceBundle(step, self, at, min(stop, at + step))


@case(matrix=True)
def bounded_source(p):
  check(p | beam.io.Read(_Numbers(100)), range(100))


def read_lines(pattern):
  lines = []
  for path in glob.glob(pattern):
    with open(path, encoding='utf-8') as f:
      lines += f.read().splitlines()
  return sorted(lines)


def _after_shards(unused_result, folder):
  files = sorted(os.path.basename(path) for path in glob.glob(os.path.join(folder, 'out*')))
  assert files == ['out-%05d-of-00003.txt' % i for i in range(3)], files
  assert read_lines(os.path.join(folder, 'out*')) == sorted('line %d' % i for i in range(100))


@case(folder=True, after=_after_shards, matrix=True)
def text_in_and_out(p, folder):
  """Three files in, one of them compressed; three shards out."""
  lines = ['line %d' % i for i in range(100)]
  for name, some in (('a.txt', lines[:50]), ('b.txt', lines[50:90])):
    with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
      f.write('\n'.join(some) + '\n')
  with gzip.open(os.path.join(folder, 'c.txt.gz'), 'wt', encoding='utf-8') as f:
    f.write('\n'.join(lines[90:]))  # no newline at the end
  read = p | beam.io.ReadFromText(os.path.join(folder, '[a-c].txt*'))
  check(read, lines)
  read | beam.io.WriteToText(
      os.path.join(folder, 'out'), file_name_suffix='.txt', num_shards=3)


def _after_one_file(unused_result, folder):
  path, = glob.glob(os.path.join(folder, 'one-*'))
  with gzip.open(path, 'rt') as f:
    assert f.read().splitlines() == ['a header', 'only']


@case(folder=True, after=_after_one_file)
def text_with_header_and_compression(p, folder):
  p | beam.Create(['only']) | beam.io.WriteToText(
      os.path.join(folder, 'one'), num_shards=1, header='a header',
      compression_type=CompressionTypes.GZIP)
  check(p | 'Something' >> beam.Create([1]), [1])


@case(folder=True)
def read_all_from_text(p, folder):
  paths = []
  for i in range(5):
    paths.append(os.path.join(folder, '%d.txt' % i))
    with open(paths[-1], 'w', encoding='utf-8') as f:
      f.write('first of %d\nsecond of %d\n' % (i, i))
  check(
      p | beam.Create(paths) | beam.io.ReadAllFromText(),
      [which + ' of %d' % i for i in range(5) for which in ('first', 'second')])


def _after_fileio(unused_result, folder):
  assert read_lines(os.path.join(folder, 'out', '*')) == [str(i) for i in range(10)]


@case(folder=True, after=_after_fileio)
def fileio_write(p, folder):
  numbers = p | beam.Create([str(i) for i in range(10)])
  numbers | fileio.WriteToFiles(
      path=os.path.join(folder, 'out'), sink=lambda _: fileio.TextSink(), shards=2)
  check(numbers, [str(i) for i in range(10)])
