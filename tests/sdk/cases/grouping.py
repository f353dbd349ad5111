"""GroupByKey and what moves elements between workers."""

import enum
import typing

import apache_beam as beam
from apache_beam.portability import common_urns
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from harness import case, check, check_with


def values_sorted(key, values):
  return key, sorted(values)


@case(matrix=True)
def group_by_key(p):
  pairs = [('k%d' % (i % 7), i) for i in range(100)]
  check(
      p | beam.Create(pairs) | beam.GroupByKey() | beam.MapTuple(values_sorted),
      [('k%d' % k, list(range(k, 100, 7))) for k in range(7)])


@case()
def group_by_keys_of_many_types(p):
  for name, keys, kind in [
      ('int', [0, -1, 1 << 40], int), ('bytes', [b'', b'\x00', b'a'], bytes),
      ('text', ['', 'a', 'ż'], str), ('bool', [True, False], bool),
      ('tuple', [(1, 'a'), (1, 'b')], typing.Tuple[int, str]),
      ('optional', [None, 3], typing.Optional[int]), ('any', [None, 'x', (1, 2)], typing.Any),
  ]:
    pairs = [(key, n) for key in keys for n in range(3)]
    grouped = (
        p | name >> beam.Create(pairs).with_output_types(typing.Tuple[kind, int])
        | name + ' grouped' >> beam.GroupByKey()
        | name + ' sorted' >> beam.MapTuple(values_sorted))
    check(grouped, [(key, [0, 1, 2]) for key in keys], 'Check ' + name)


@case(matrix=True)
def group_again_and_again(p):
  """Several shuffles in a row, each needing all of the one before."""
  counts = p | beam.Create(range(60)) | beam.Map(lambda x: (x % 10, 1))
  for i, n in enumerate((10, 5, 1)):
    counts = (
        counts | 'Group%d' % i >> beam.GroupByKey()
        | 'Sum%d' % i >> beam.MapTuple(lambda k, vs: (k, sum(vs)))
        | 'Coarser%d' % i >> beam.MapTuple(lambda k, v, n=n: (k % n, v)))
  check(counts | beam.CombinePerKey(sum), [(0, 60)])


@case()
def hot_key(p):
  """One key holds nearly everything: more than a worker takes in one message."""
  grouped = (
      p | beam.Create(range(40), reshuffle=False)
      | beam.FlatMap(lambda i: (('hot', 'v' * 1000 + str(i * 500 + j)) for j in range(500)))
      | beam.GroupByKey())
  check(
      grouped | beam.MapTuple(lambda k, vs: (k, len(set(vs)))), [('hot', 20000)])


@case()
def values_read_twice(p):
  check(
      p | beam.Create([('a', 1), ('a', 2)]) | beam.GroupByKey()
      | beam.MapTuple(lambda k, vs: (k, sum(vs), sum(vs))), [('a', 3, 3)])


@case(matrix=True)
def co_group_by_key(p):
  names = p | 'Names' >> beam.Create([(1, 'one'), (2, 'two'), (3, 'three')])
  roots = p | 'Roots' >> beam.Create([(1, 1.0), (2, 1.41), (2, -1.41), (4, 2.0)])
  joined = {'names': names, 'roots': roots} | beam.CoGroupByKey()
  check(
      joined | beam.MapTuple(lambda k, both: (k, sorted(both['names']), sorted(both['roots']))),
      [(1, ['one'], [1.0]), (2, ['two'], [-1.41, 1.41]), (3, ['three'], []), (4, [], [2.0])])


@case(matrix=True)
def reshuffle(p):
  def seen(x, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
    return x, timestamp, window

  stamped = (
      p | beam.Create(range(20)) | beam.Map(lambda x: TimestampedValue(x, x))
      | beam.WindowInto(beam.window.FixedWindows(5)) | beam.Reshuffle() | beam.Map(seen))
  check(stamped, [
      (x, Timestamp(x), beam.window.IntervalWindow(x // 5 * 5, x // 5 * 5 + 5))
      for x in range(20)])


class Colour(enum.Enum):
  RED = 1
  BLUE = 2


@case()
def reshuffle_unlike_coders(p):
  """The keys' coder after it is a deterministic one, because a GroupByKey follows."""
  pairs = p | beam.Create([(Colour.RED, 'a'), (3, 'c'), (Colour.RED, 'b'), (Colour.BLUE, 'd')])
  check(
      pairs | beam.Reshuffle() | beam.GroupByKey() | beam.MapTuple(values_sorted),
      [(Colour.RED, ['a', 'b']), (Colour.BLUE, ['d']), (3, ['c'])])


class _RedistributeArbitrarily(beam.Reshuffle):
  """Beam's Redistribute, which the Python SDK does not have yet, by its URN."""
  def to_runner_api_parameter(self, unused_context):
    return common_urns.composites.REDISTRIBUTE_ARBITRARILY.urn, None


class _RedistributeByKey(beam.transforms.util.ReshufflePerKey):
  def to_runner_api_parameter(self, unused_context):
    return common_urns.composites.REDISTRIBUTE_BY_KEY.urn, None


@case(matrix=True)
def redistribute(p):
  check(p | beam.Create(range(30)) | _RedistributeArbitrarily(), range(30))
  pairs = [(i % 3, i) for i in range(30)]
  check(p | 'Pairs' >> beam.Create(pairs) | _RedistributeByKey(), pairs, 'ByKey')


@case()
def distinct(p):
  check(p | beam.Create([1, 2, 2, 3, 1]) | beam.Distinct(), [1, 2, 3])


@case()
def batched(p):
  batches = p | beam.Create(range(100)) | beam.BatchElements(min_batch_size=3, max_batch_size=9)
  check_with(batches, _batches_of_a_hundred)


def _batches_of_a_hundred(batches):
  assert sorted(x for batch in batches for x in batch) == list(range(100)), batches
  assert all(len(batch) <= 9 for batch in batches), batches


class _BatchesOf:
  """Batches of `size`, of each key apart; the last of a key may be smaller."""
  def __init__(self, size, key_of):
    self.size, self.key_of = size, key_of

  def __call__(self, batches):
    values = sorted((self.key_of(key), v) for key, some in batches for v in some)
    assert values == sorted((k, i) for k in 'ab' for i in range(10)), batches
    assert all(len(some) <= self.size for _, some in batches), batches


def _pairs(p):
  return p | beam.Create([(k, i) for k in 'ab' for i in range(10)])


@case(matrix=True)
def group_into_batches(p):
  check_with(_pairs(p) | beam.GroupIntoBatches(4), _BatchesOf(4, lambda key: key))


@case(matrix=True)
def group_into_batches_with_sharded_key(p):
  check_with(
      _pairs(p) | beam.GroupIntoBatches.WithShardedKey(4), _BatchesOf(4, lambda key: key.key))


@case(matrix=True)
def reshuffle_keeps_panes(p):
  """An element's pane is metadata of its own, which no redistribution may touch."""
  def pane_of(x, pane=beam.DoFn.PaneInfoParam):
    return x, pane.index, pane.is_first, pane.is_last, pane.timing

  grouped = p | beam.Create([('a', 1)]) | beam.GroupByKey() | beam.Keys()
  before = grouped | 'Before' >> beam.Map(pane_of)
  after = grouped | beam.Reshuffle() | 'After' >> beam.Map(pane_of)
  check_with(
      (before, after) | beam.Flatten(), _two_alike)


def _two_alike(panes):
  assert len(panes) == 2 and panes[0] == panes[1] and panes[0][1] == 0, panes
