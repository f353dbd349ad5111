"""Writes the pipelines whose plans are golden: what a Python client submits, one .pb file each.

Run by hand, in this folder, when a pipeline is added or the SDK is upgraded, with a Python that has
the apache-beam of tests/requirements.txt:

    python make_pipelines.py [NAME ...]
    UPDATE=1 cargo test -p beamline-tests --test golden

Each pipeline is prepared as PortableRunner prepares it: NAME.pb by default, NAME.unoptimized.pb with
--experiments=pre_optimize=none. These pipelines are planned and never run, so that what only an SDK
reads, its pickled code, is replaced by a digest: equal code stays equal, and the files stay small.
"""

import hashlib
import sys

import apache_beam as beam
from apache_beam import typehints
from apache_beam.coders.coders import IntervalWindowCoder, StrUtf8Coder, VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability.fn_api_runner import translations
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import userstate, window
from apache_beam.transforms.combiners import CountCombineFn, MeanCombineFn

PIPELINES = {}


def pipeline(function):
  PIPELINES[function.__name__] = function
  return function


@pipeline
def wordcount(p):
  (
      p
      | beam.Create(['a b', 'b'])
      | 'Split' >> beam.FlatMap(str.split).with_output_types(str)
      | 'PairWithOne' >> beam.Map(lambda word: (word, 1)).with_output_types(tuple[str, int])
      | 'Count' >> beam.CombinePerKey(sum)
      | 'Format' >> beam.MapTuple('{}: {}'.format))


@pipeline
def side_inputs(p):
  """As list, as dict, as singleton; 'Same' asks for what its own producer's stage makes."""
  main = p | 'Main' >> beam.Create([1, 2, 3])
  pairs = p | 'Pairs' >> beam.Create([('a', 1)]) | 'Pair' >> beam.Map(lambda kv: kv)
  squares = main | 'Square' >> beam.Map(lambda x: x * x)
  (
      squares
      | 'Ask' >> beam.Map(
          lambda x, everything, by_key, one: x,
          beam.pvalue.AsList(pairs),
          beam.pvalue.AsMultiMap(pairs),
          beam.pvalue.AsSingleton(pairs))
      | 'AfterAsk' >> beam.Map(lambda x: x))
  squares | 'Same' >> beam.Map(lambda x, all: x, beam.pvalue.AsIter(squares))
  squares | 'Sibling' >> beam.Map(lambda x: x)


@pipeline
def side_input_cycle(p):
  """Two readers of one input, each asked for by the other's successor: they cannot all be one stage."""
  main = p | beam.Create([1, 2]) | beam.Reshuffle()
  left = main | 'Left' >> beam.Map(lambda x: x)
  right = main | 'Right' >> beam.Map(lambda x: x)
  left | 'LeftAsksRight' >> beam.Map(lambda x, y: x, beam.pvalue.AsIter(right))
  right | 'RightAsksLeft' >> beam.Map(lambda x, y: x, beam.pvalue.AsIter(left))


@pipeline
def flatten_same_stage(p):
  numbers = p | beam.Create([1, 2])
  odd = numbers | 'Odd' >> beam.Filter(lambda x: x % 2)
  even = numbers | 'Even' >> beam.Filter(lambda x: not x % 2)
  (odd, even) | beam.Flatten() | 'After' >> beam.Map(lambda x: x)


@pipeline
def flatten_stages(p):
  one = p | 'One' >> beam.Create([('a', 1)])
  two = one | 'Group' >> beam.GroupByKey() | 'Ungroup' >> beam.FlatMapTuple(
      lambda k, vs: [(k, v) for v in vs]).with_output_types(tuple[str, int])
  (one, two) | beam.Flatten() | 'After' >> beam.GroupByKey() | 'Last' >> beam.Map(print)


@pipeline
def flatten_twice_the_same(p):
  one = p | beam.Create([1]) | 'Map' >> beam.Map(lambda x: x)
  (one, one) | beam.Flatten() | 'After' >> beam.Map(lambda x: x)


@pipeline
def flatten_unlike_coders(p):
  ints = p | 'Ints' >> beam.Create([1])
  texts = p | 'Texts' >> beam.Create(['a'])
  (ints, texts) | beam.Flatten() | beam.Reshuffle() | 'After' >> beam.Map(lambda x: x)


@pipeline
def co_group_by_key(p):
  left = p | 'Left' >> beam.Create([('a', 1)])
  right = p | 'Right' >> beam.Create([('a', 'x')])
  {'left': left, 'right': right} | beam.CoGroupByKey() | 'After' >> beam.Map(print)


@pipeline
def combine_globally(p):
  p | beam.Create([1, 2]) | beam.CombineGlobally(sum) | 'After' >> beam.Map(print)


class Statistics(beam.PTransform):
  """Combines that the client may pack into one."""
  def annotations(self):
    return {python_urns.APPLY_COMBINER_PACKING: b''}

  def expand(self, pairs):
    return {
        'count': pairs | 'Count' >> beam.CombinePerKey(CountCombineFn()),
        'mean': pairs | 'Mean' >> beam.CombinePerKey(MeanCombineFn()),
    }


@pipeline
def packed_combiners(p):
  statistics = p | beam.Create([('a', 1), ('a', 2)]) | Statistics()
  statistics['count'] | 'AfterCount' >> beam.Map(print)
  statistics['mean'] | 'AfterMean' >> beam.Map(print)


@pipeline
def combine_not_lifted(p):
  """Accumulators would lose the elements' times, which the output's time is taken from."""
  (
      p
      | beam.Create([('a', 1)])
      | beam.WindowInto(
          window.FixedWindows(10), timestamp_combiner=window.TimestampCombiner.OUTPUT_AT_EARLIEST)
      | beam.CombinePerKey(sum)
      | 'After' >> beam.Map(print))


@pipeline
def reshuffle_unlike_coders(p):
  reshuffled = p | beam.Create([1, 2]) | 'Map' >> beam.Map(lambda x: x).with_output_types(int) | beam.Reshuffle()
  reshuffled.element_type = typehints.Any
  reshuffled | 'After' >> beam.Map(lambda x: x)


class CountTo(beam.DoFn):
  """Splittable: yields the numbers below its element."""
  class Restrictions(beam.transforms.core.RestrictionProvider):
    def initial_restriction(self, element):
      return OffsetRange(0, element)

    def create_tracker(self, restriction):
      return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element, restriction):
      return restriction.size()

  def process(self, element, side=None, tracker=beam.DoFn.RestrictionParam(Restrictions())):
    while tracker.try_claim(tracker.current_restriction().start):
      yield element


@pipeline
def sdf(p):
  p | beam.Create([3, 4]) | 'CountTo' >> beam.ParDo(CountTo()) | 'After' >> beam.Map(print)


@pipeline
def sdf_side_input(p):
  side = p | 'Side' >> beam.Create(['x'])
  p | beam.Create([3, 4]) | 'CountTo' >> beam.ParDo(CountTo(), side=beam.pvalue.AsList(side))


@pipeline
def sdf_expanded(p):
  """The client itself has made pair, split, reshuffle and process of the splittable ParDo."""
  sdf(p)


def only_parts(proto):
  """Leaves the splittable ParDo as a composite, so that its parts are all there is to run."""
  for transform in proto.components.transforms.values():
    if transform.spec.urn == 'beam:transform:pardo:v1' and transform.subtransforms:
      transform.ClearField('spec')


sdf_expanded.pre_optimize = 'expand_sdf'
sdf_expanded.edit = only_parts


@pipeline
def sessions(p):
  (
      p
      | beam.Create([('a', 1)])
      | beam.Map(lambda kv: window.TimestampedValue(kv, kv[1])).with_output_types(tuple[str, int])
      | beam.WindowInto(window.Sessions(10))
      | beam.GroupByKey()
      | 'After' >> beam.Map(print))


class MergeAll(window.WindowFn):
  """Merges in a way that only this class knows."""
  def assign(self, context):
    return [window.IntervalWindow(context.timestamp, context.timestamp + 5)]

  def merge(self, merge_context):
    everything = merge_context.windows
    merge_context.merge(
        everything,
        window.IntervalWindow(min(w.start for w in everything), max(w.end for w in everything)))

  def get_window_coder(self):
    return IntervalWindowCoder()


@pipeline
def custom_merging_windows(p):
  (
      p
      | beam.Create([('a', 1)])
      | beam.WindowInto(MergeAll())
      | beam.GroupByKey()
      | 'After' >> beam.Map(print))


@pipeline
def multiple_environments(p):
  """The ParDos of a chain alternate between two environments."""
  (
      p
      | beam.Create([('a', 1)])
      | 'First' >> beam.Map(lambda x: x)
      | 'Second' >> beam.Map(lambda x: x)
      | 'Third' >> beam.Map(lambda x: x).with_output_types(tuple[str, int])
      | 'Sum' >> beam.CombinePerKey(sum)
      | 'Fourth' >> beam.Map(lambda x: x))


def alternate(proto):
  first, = proto.components.environments
  other = first + '_other'
  proto.components.environments[other].CopyFrom(proto.components.environments[first])
  proto.components.environments[other].payload = b'the other'
  for transform in proto.components.transforms.values():
    if transform.unique_name.split('/')[0] in ('Second', 'Fourth') and transform.environment_id:
      transform.environment_id = other


multiple_environments.edit = alternate


class HandOn(beam.PTransform):
  def expand(self, pcollection):
    return pcollection


@pipeline
def hands_on_input(p):
  p | beam.Create([1]) | 'HandOn' >> HandOn() | 'After' >> beam.Map(lambda x: x)


@pipeline
def no_names(p):
  p | beam.Create([1]) | 'Map' >> beam.Map(lambda x: x) | beam.Reshuffle() | 'After' >> beam.Map(lambda x: x)


def forget_names(proto):
  for transform in proto.components.transforms.values():
    transform.unique_name = ''


no_names.edit = forget_names


@pipeline
def test_stream(p):
  """Of outputs that are to have other coders than the elements, one is grouped, one only asked for."""
  stream = (
      TestStream(output_tags=['unread'])
      .add_elements(['side'], tag='side')
      .advance_watermark_to(5)
      .add_elements([window.TimestampedValue(('a', 1), 7), ('b', 2)])
      .advance_processing_time(3)
      .advance_watermark_to_infinity(tag='side')
      .advance_watermark_to_infinity())
  outputs = p | stream
  outputs['unread'].element_type = int
  pairs = outputs[None]
  pairs.element_type = typehints.KV[str, int]
  (
      pairs
      | beam.WindowInto(window.FixedWindows(10))
      | beam.GroupByKey()
      | 'Ask' >> beam.Map(lambda group, side: group, beam.pvalue.AsList(outputs['side'])))


@pipeline
def test_stream_keyed(p):
  """Straight to a ParDo with state, whose keys are known only once a worker has transcoded them."""
  pairs = p | TestStream().add_elements([('a', 1)]).advance_watermark_to_infinity()
  pairs.element_type = typehints.KV[str, int]
  pairs | 'Remember' >> beam.ParDo(Remember())


class Remember(beam.DoFn):
  STATE = userstate.BagStateSpec('state', VarIntCoder())

  def process(self, element, state=beam.DoFn.StateParam(STATE)):
    state.add(element[1])


@pipeline
def test_stream_endpoint(p):
  """The events are told by a service. Strings as they are in the payload do not tell their end."""
  outputs = p | TestStream(StrUtf8Coder(), output_tags=['letters', 'numbers'], endpoint='localhost:50001')
  for output in outputs.values():
    output.element_type = str
  outputs['letters'] | 'Letters' >> beam.Map(print)
  outputs['numbers'] | beam.Reshuffle() | 'Numbers' >> beam.Map(print)


def digest(spec):
  """Replaces what only a Python SDK reads."""
  if 'python' in spec.urn or 'pickle' in spec.urn or spec.urn == python_urns.GENERIC_COMPOSITE_TRANSFORM:
    spec.payload = hashlib.sha256(spec.payload).digest()[:6]


def digest_payload(spec):
  digest(spec)
  kind = (
      api.ParDoPayload if spec.urn in translations.PAR_DO_URNS else
      api.CombinePayload if spec.urn in translations.COMBINE_URNS else
      api.WindowIntoPayload if spec.urn == 'beam:transform:window_into:v1' else None)
  if not kind:
    return
  payload = kind.FromString(spec.payload)
  for _, field in payload.ListFields():
    if isinstance(field, api.FunctionSpec):
      digest(field)
  for side in getattr(payload, 'side_inputs', {}).values():
    digest(side.view_fn)
    digest(side.window_mapping_fn)
  spec.payload = payload.SerializeToString(deterministic=True)


def slim(proto):
  for transform in proto.components.transforms.values():
    digest_payload(transform.spec)
    transform.ClearField('display_data')
    kind = transform.annotations.get('python_type', b'')
    transform.annotations.clear()
    # The one that the runner looks for.
    if kind == b'apache_beam.transforms.core.Create':
      transform.annotations['python_type'] = kind
  for coder in proto.components.coders.values():
    digest(coder.spec)
  for strategy in proto.components.windowing_strategies.values():
    digest(strategy.window_fn)
  for environment in proto.components.environments.values():
    environment.ClearField('dependencies')
    environment.ClearField('display_data')
  proto.ClearField('display_data')


def make(name, function, pre_optimize):
  options = PipelineOptions([
      '--environment_type=EXTERNAL',
      '--environment_config=localhost:50000',
      '--experiments=pre_optimize=' + pre_optimize,
  ])
  p = beam.Pipeline(runner=PortableRunner(), options=options)
  function(p)
  proto = PortableRunner.get_proto_pipeline(p, options)
  getattr(function, 'edit', lambda proto: None)(proto)
  slim(proto)
  data = proto.SerializeToString(deterministic=True)
  assert len(data) < 60_000, (name, len(data))
  with open(name + '.pb', 'wb') as file:
    file.write(data)
  print(name, len(data))


def main(names):
  for name, function in PIPELINES.items():
    if names and name not in names:
      continue
    if hasattr(function, 'pre_optimize'):
      make(name, function, function.pre_optimize)
    else:
      make(name, function, 'default')
      make(name + '.unoptimized', function, 'none')


if __name__ == '__main__':
  main(sys.argv[1:])
