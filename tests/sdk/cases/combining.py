"""Combine: lifted by the client (the default), not lifted by it, global, packed, with defaults."""

import apache_beam as beam
from apache_beam import combiners, pvalue
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from harness import case, check

UNOPTIMIZED = ('--experiments=pre_optimize=none', )
PAIRS = [('abc'[i % 3], i) for i in range(30)]
MEANS = [('a', 13.5), ('b', 14.5), ('c', 15.5)]


@case(matrix=True)
def combine_per_key(p):
  source = p | beam.Create(PAIRS)
  check(source | beam.CombinePerKey(sum), [('a', 135), ('b', 145), ('c', 155)])
  check(source | combiners.Mean.PerKey(), MEANS, 'Mean')


@case(options=UNOPTIMIZED)
def combine_per_key_not_lifted_by_the_client(p):
  combine_per_key(p)


class _Digits(beam.CombineFn):
  """Its accumulator, its input and its output are of different types."""
  def create_accumulator(self):
    return []

  def add_input(self, accumulator, element):
    return sorted(accumulator + [element])

  def merge_accumulators(self, accumulators):
    return sorted(x for a in accumulators for x in a)

  def extract_output(self, accumulator):
    return ','.join(map(str, accumulator))


@case(matrix=True)
def combine_fn_of_three_types(p):
  check(
      p | beam.Create([('a', 3), ('b', 1), ('a', 2)]) | beam.CombinePerKey(_Digits()),
      [('a', '2,3'), ('b', '1')])


@case(options=UNOPTIMIZED)
def combine_fn_of_three_types_not_lifted_by_the_client(p):
  combine_fn_of_three_types(p)


@case(matrix=True)
def combine_globally(p):
  source = p | beam.Create(range(100))
  check(source | beam.CombineGlobally(sum), [4950])
  check(source | combiners.Count.Globally(), [100], 'Count')
  check(source | combiners.Top.Largest(3), [[99, 98, 97]], 'Top')


@case()
def combine_globally_of_nothing(p):
  nothing = p | beam.Create([])
  check(nothing | 'Default' >> beam.CombineGlobally(sum), [0], 'CheckDefault')
  check(nothing | 'None' >> beam.CombineGlobally(sum).without_defaults(), [], 'CheckNone')


@case(options=UNOPTIMIZED)
def combine_globally_not_lifted_by_the_client(p):
  combine_globally(p)
  nothing = p | 'Nothing' >> beam.Create([])
  check(nothing | 'OfNothing' >> beam.CombineGlobally(sum), [0], 'CheckNothing')


@case()
def combine_globally_in_windows(p):
  windowed = (
      p | beam.Create(range(10)) | beam.Map(lambda t: TimestampedValue(t, t))
      | beam.WindowInto(FixedWindows(5)))
  check(windowed | beam.CombineGlobally(sum).without_defaults(), [10, 35])


@case()
def combine_as_view(p):
  source = p | beam.Create([1, 2, 3])
  total = source | beam.CombineGlobally(sum).as_singleton_view()
  check(source | beam.Map(lambda x, t: x + t, total), [7, 8, 9])


@case()
def combine_values(p):
  check(
      p | beam.Create([('a', [1, 2]), ('b', [3])]) | beam.CombineValues(sum), [('a', 3), ('b', 3)])


@case()
def combiners_packed(p):
  """Several combiners of one PCollection, which the client packs into one."""
  source = p | beam.Create(PAIRS)
  check(source | 'Min' >> beam.CombinePerKey(min), [('a', 0), ('b', 1), ('c', 2)], 'CheckMin')
  check(source | 'Max' >> beam.CombinePerKey(max), [('a', 27), ('b', 28), ('c', 29)], 'CheckMax')
  check(source | 'Mean' >> combiners.Mean.PerKey(), MEANS, 'CheckMean')
  check(source | 'Count' >> combiners.Count.PerKey(), [('a', 10), ('b', 10), ('c', 10)],
        'CheckCount')


@case()
def combiners_packed_globally(p):
  source = p | beam.Create(range(1, 11))
  check(source | 'Min' >> beam.CombineGlobally(min), [1], 'CheckMin')
  check(source | 'Max' >> beam.CombineGlobally(max), [10], 'CheckMax')
  check(source | 'Mean' >> combiners.Mean.Globally(), [5.5], 'CheckMean')


@case(options=UNOPTIMIZED)
def combiners_not_packed(p):
  combiners_packed(p)


@case(matrix=True)
def combine_with_fanout(p):
  check(
      p | beam.Create([('hot', i) for i in range(100)] + [('cold', 1)])
      | beam.CombinePerKey(sum).with_hot_key_fanout(lambda key: 4 if key == 'hot' else 1),
      [('hot', 4950), ('cold', 1)])


@case()
def combine_to_collections(p):
  source = p | beam.Create([('a', 1), ('b', 2)])
  check(source | combiners.ToDict(), [{'a': 1, 'b': 2}], 'Dict')
  check(source | beam.Keys() | combiners.ToSet(), [{'a', 'b'}], 'Set')
  check(
      source | beam.Values() | combiners.ToList() | beam.Map(sorted), [[1, 2]], 'List')


@case()
def combine_with_a_side_input(p):
  side = p | 'Side' >> beam.Create([10])
  check(
      p | beam.Create([('a', 1), ('a', 2)]) | beam.CombinePerKey(
          lambda values, most: min(most, sum(values)), most=pvalue.AsSingleton(side)), [('a', 3)])


class _ToAccumulators(beam.PTransform):
  """What an SDK may submit in place of lifting: each value becomes an accumulator of its own."""
  def expand(self, pairs):
    return pvalue.PCollection.from_(pairs)

  def to_runner_api_parameter(self, context):
    return (
        common_urns.combine_components.COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS.urn,
        beam_runner_api_pb2.CombinePayload(
            combine_fn=_Digits().to_runner_api(context),
            accumulator_coder_id=context.coders.get_id(_Digits().get_accumulator_coder())))


@case(matrix=True)
def combine_converted_to_accumulators(p):
  accumulators = p | beam.Create([('a', 3), ('b', 1), ('a', 2)]) | _ToAccumulators()
  check(accumulators, [('a', [3]), ('a', [2]), ('b', [1])])
