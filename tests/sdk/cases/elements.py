"""Element-wise transforms, their outputs, coders, timestamps and life cycle; Flatten."""

import collections
import typing

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.portability import common_urns
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from harness import case, check, check_with

# pylint: disable=expression-not-assigned


@case(matrix=True)
def create_map_filter_flatmap(p):
  found = (
      p | beam.Create(range(50))
      | beam.Map(lambda x: x * x)
      | beam.Filter(lambda x: x % 2 == 0)
      | beam.FlatMap(lambda x: [x, -x]))
  check(found, [y for x in range(50) if x % 2 == 0 for y in (x * x, -x * x)])


@case()
def create_without_reshuffle(p):
  check(p | beam.Create(['a', 'b', 'c'], reshuffle=False), ['a', 'b', 'c'])


@case()
def create_nothing(p):
  empty = p | beam.Create([])
  check(empty | beam.Map(lambda x: x + 1), [])
  check(empty | beam.GroupBy(lambda x: x), [], 'CheckGrouped')


class _Split(beam.DoFn):
  def process(self, element):
    yield element
    yield pvalue.TaggedOutput('even' if element % 2 == 0 else 'odd', element)
    if element == 3:
      yield pvalue.TaggedOutput('three', 'three')
    yield pvalue.TaggedOutput('nobody reads it', element)


@case(matrix=True)
def several_outputs(p):
  outputs = p | beam.Create(range(10)) | beam.ParDo(_Split()).with_outputs(
      'even', 'odd', 'three', 'nobody reads it', main='all')
  check(outputs['all'], range(10), 'All')
  check(outputs.even, range(0, 10, 2), 'Even')
  check(outputs.odd, range(1, 10, 2), 'Odd')
  check(outputs.three, ['three'], 'Three')


@case()
def partition(p):
  low, middle, high = p | beam.Create(range(9)) | beam.Partition(lambda x, n: x // 3, 3)
  check(low, [0, 1, 2], 'Low')
  check(middle, [3, 4, 5], 'Middle')
  check(high, [6, 7, 8], 'High')


@case()
def dead_letters(p):
  def invert(x):
    return 12 // x

  good, bad = p | beam.Create([0, 1, 2, 3]) | beam.Map(invert).with_exception_handling()
  check(good, [12, 6, 4], 'Good')
  check(bad | beam.Map(lambda failure: (failure[0], failure[1][0].__name__)),
        [(0, 'ZeroDivisionError')], 'Bad')


@case(matrix=True)
def flatten_two(p):
  one, two = p | 'One' >> beam.Create([1, 2]), p | 'Two' >> beam.Create([3, 4])
  check((one, two) | beam.Flatten(), [1, 2, 3, 4])


@case(matrix=True)
def flatten_one_input_twice(p):
  one = p | beam.Create(['x', 'y'])
  check((one, one) | beam.Flatten(), ['x', 'x', 'y', 'y'])
  check((one, one, one | beam.Map(str.upper)) | 'Thrice' >> beam.Flatten()
        | beam.combiners.Count.PerElement(), [('x', 2), ('y', 2), ('X', 1), ('Y', 1)], 'Counted')


@case(matrix=True)
def flatten_unlike_coders(p):
  ints = p | 'Ints' >> beam.Create([1, 2]).with_output_types(int)
  texts = p | 'Texts' >> beam.Create(['a']).with_output_types(str)
  pairs = p | 'Pairs' >> beam.Create([('k', 1.5)]).with_output_types(typing.Tuple[str, float])
  flat = (ints, texts, pairs) | beam.Flatten()
  check(flat, [1, 2, 'a', ('k', 1.5)])
  check(
      flat | beam.Map(lambda x: (str(x), x)) | beam.GroupByKey()
      | beam.MapTuple(lambda k, vs: (k, list(vs))),
      [('1', [1]), ('2', [2]), ('a', ['a']), ("('k', 1.5)", [('k', 1.5)])], 'Grouped')


@case()
def flatten_nothing(p):
  nothing = () | beam.Flatten(pipeline=p)
  check(nothing, [])
  check((nothing, p | beam.Create([7])) | 'Again' >> beam.Flatten(), [7], 'Seven')


class _Row(typing.NamedTuple):
  name: str
  size: int


beam.coders.registry.register_coder(_Row, beam.coders.RowCoder)


@case()
def many_coders(p):
  """Values of many types, each through a shuffle, so that every coder writes and reads them."""
  values = collections.OrderedDict([
      ('none', (None, None)), ('bool', (True, bool)), ('int', (-(1 << 40), int)),
      ('float', (2.5, float)), ('text', ('zażółć', str)), ('bytes', (b'\x00\xff', bytes)),
      ('tuple', ((1, 'a', b'b'), typing.Tuple[int, str, bytes])),
      ('list', ([1, 2], typing.List[int])), ('dict', ({'a': 1}, typing.Dict[str, int])),
      ('optional', (None, typing.Optional[int])), ('any', ({'x': [1, (2, 3)]}, typing.Any)),
      ('row', (_Row('n', 3), _Row)), ('timestamp', (Timestamp(5, 6), Timestamp)),
      ('empty', ('', str)),
  ])
  for name, (value, kind) in values.items():
    through = (
        p | name >> beam.Create([value, value]).with_output_types(kind)
        | name + ' shuffled' >> beam.Reshuffle())
    check(through, [value, value], 'Check ' + name)


@case()
def schema_rows(p):
  rows = p | beam.Create([('a', 1), ('b', 2), ('a', 3)]) | beam.MapTuple(
      lambda k, v: beam.Row(key=str(k), value=int(v))).with_output_types(
          beam.row_type.RowTypeConstraint.from_fields([('key', str), ('value', int)]))
  totals = rows | beam.GroupBy('key').aggregate_field('value', sum, 'total')
  check(totals | beam.Map(lambda row: (row.key, row.total)), [('a', 4), ('b', 2)])


@case(matrix=True)
def timestamps_kept(p):
  def stamped(x, timestamp=beam.DoFn.TimestampParam):
    return x, timestamp

  times = [0, 1, -5, 1.5, 1700000000.123]
  check(
      p | beam.Create(times) | beam.Map(lambda t: TimestampedValue(str(t), t))
      | beam.Map(stamped), [(str(t), Timestamp.of(t)) for t in times])
  ends = p | 'Ends' >> beam.Create(['min', 'max']) | 'StampEnds' >> beam.Map(
      lambda x: TimestampedValue(x, MIN_TIMESTAMP if x == 'min' else MAX_TIMESTAMP))
  check_with(ends | 'SeeEnds' >> beam.Map(stamped), _ends, 'CheckEnds')


def _ends(actual):
  # The wire carries milliseconds: what the SDK keeps below them is lost on the way.
  assert {k: int(t.micros // 1000) for k, t in actual} == {
      'min': int(MIN_TIMESTAMP.micros // 1000), 'max': int(MAX_TIMESTAMP.micros // 1000)}, actual


class _LifeCycle(beam.DoFn):
  """Emits a bundle's elements when it finishes, and fails if a method was left out."""
  def setup(self):
    self.ready = True

  def start_bundle(self):
    assert self.ready
    self.seen = []

  def process(self, element):
    self.seen.append(element)

  def finish_bundle(self):
    for element in self.seen:
      yield WindowedValue(element, Timestamp(3), [beam.window.GlobalWindow()])
    self.seen = None


@case(matrix=True)
def bundle_life_cycle(p):
  check(p | beam.Create(range(20)) | beam.ParDo(_LifeCycle()), range(20))


@case()
def large_elements(p):
  """Three megabytes in an element, past every default gRPC message and chunk size but the last."""
  sizes = [3 << 20, 1 << 20, 10]
  large = p | beam.Create(sizes) | beam.Map(lambda n: (n, b'x' * n))
  check(
      large | beam.GroupByKey() | beam.MapTuple(lambda n, vs: (n, [len(v) for v in vs])),
      [(n, [n]) for n in sizes])


@case()
def long_chain(p):
  """Enough steps in a row to notice a runner that is slow, or recursive, in the chain's length."""
  chain = p | beam.Create([0])
  for i in range(60):
    chain = chain | 'Step%d' % i >> beam.Map(lambda x: x + 1)
  check(chain, [60])


class _Nothing(beam.PTransform):
  """A composite that does nothing: its output is its input."""
  def expand(self, pcollection):
    return pcollection


class _Inner(beam.PTransform):
  def expand(self, pcollection):
    return pcollection | beam.Map(lambda x: x + 1) | _Nothing()


class _Outer(beam.PTransform):
  def expand(self, pcollection):
    return pcollection | 'First' >> _Inner() | 'Second' >> _Inner() | 'Third' >> _Nothing()


@case()
def nested_composites(p):
  check(p | beam.Create([1, 2]) | _Outer(), [3, 4])


@case(options=('--experiments=pre_optimize=none',))
def nested_composites_unoptimized(p):
  nested_composites(p)


@case()
def diamond(p):
  """One PCollection read by several consumers that meet again."""
  source = p | beam.Create(range(6))
  doubled = source | 'Double' >> beam.Map(lambda x: x * 2)
  tripled = source | 'Triple' >> beam.Map(lambda x: x * 3)
  check((source, doubled, tripled) | beam.Flatten(),
        [*range(6), *range(0, 12, 2), *range(0, 18, 3)])


class _ToString(beam.PTransform):
  """Beam's to_string, by its URN: the text of each value, as its SDK would print it."""
  def expand(self, pairs):
    return pvalue.PCollection.from_(pairs)

  def to_runner_api_parameter(self, unused_context):
    return common_urns.primitives.TO_STRING.urn, None


@case(matrix=True)
def to_string(p):
  check(p | beam.Create([('a', 1.5), ('b', (2, 'x'))]) | _ToString(), [('a', '1.5'), ('b', "(2, 'x')")])
