"""GetJobMetrics: every kind of metric, the SDK's own and the user's, attempted and committed."""

import time

import apache_beam as beam
import pytest
from apache_beam import coders
from apache_beam.internal.metrics.metric import Metrics as InternalMetrics
from apache_beam.metrics import Metrics, MetricsFilter, monitoring_infos
from apache_beam.metrics.cells import BoundedTrieData, HistogramCell, MetricCell
from apache_beam.metrics.execution import MetricUpdater
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.portability.api import metrics_pb2
from apache_beam.utils.histogram import LinearBucket

import harness
import wire

SPACE = 'beamline.tests.metrics'
FAIL_FIRST = '--inject_bundle_failures=first_attempt'
INFOS = common_urns.monitoring_info_specs
URNS = {
    name: getattr(INFOS, name).spec.urn
    for name in ('ELEMENT_COUNT', 'SAMPLED_BYTE_SIZE', 'START_BUNDLE_MSECS', 'PROCESS_BUNDLE_MSECS',
                 'FINISH_BUNDLE_MSECS', 'TOTAL_MSECS', 'USER_HISTOGRAM', 'USER_BOUNDED_TRIE',
                 'USER_SUM_DOUBLE')
}


@pytest.fixture
def stub(endpoint):
  with wire.job_service(endpoint) as service:
    yield service


def run(endpoint, build, *options):
  """Runs what `build` adds to a pipeline, and returns its result."""
  pipeline = beam.Pipeline(
      options=PipelineOptions(harness.portable_options(endpoint, extra=options)))
  build(pipeline)
  return harness.run_pipeline(pipeline)


def metrics_of(stub, result):
  return stub.GetJobMetrics(
      jobs.GetJobMetricsRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).metrics


def pipeline_of(stub, result):
  return stub.GetPipeline(
      jobs.GetJobPipelineRequest(job_id=result._job_id),  # pylint: disable=protected-access
      timeout=wire.CALL_SECONDS).pipeline


def infos(metrics, urn, **labels):
  """The MonitoringInfos of a URN whose labels are, or contain, these."""
  return [
      info for info in metrics
      if info.urn == urn and all(text in info.labels.get(name, '') for name, text in labels.items())
  ]


def one(metrics, urn, **labels):
  found = infos(metrics, urn, **labels)
  assert len(found) == 1, (urn, labels, found)
  return found[0]


class _ReportedHistogram(HistogramCell):
  """The SDK keeps its histograms to itself; this one is reported as the protocol says."""
  def __init__(self):
    super().__init__(LinearBucket(0, 10, 10))

  def to_runner_api_monitoring_info(self, name, transform_id):
    return monitoring_infos.user_histogram(
        name.namespace, name.name, self.get_cumulative(), transform_id)


class _DoubleSum(MetricCell):
  """A metric of the protocol that the SDK has no class for."""
  def __init__(self):
    super().__init__()
    self.reset()

  def reset(self):
    self.total = 0.0

  def update(self, value):
    self.total += value

  def get_cumulative(self):
    return self.total

  def to_runner_api_monitoring_info(self, name, transform_id):
    labels = monitoring_infos.create_labels(
        ptransform=transform_id, namespace=name.namespace, name=name.name)
    return monitoring_infos.create_monitoring_info(
        URNS['USER_SUM_DOUBLE'], common_urns.monitoring_info_types.SUM_DOUBLE_TYPE.urn,
        coders.FloatCoder().encode(self.total), labels)


_SPREAD = MetricUpdater(_ReportedHistogram, MetricName(SPACE, 'spread'))
_HALVES = MetricUpdater(_DoubleSum, MetricName(SPACE, 'halves'))


class _Measure(beam.DoFn):
  def process(self, element):
    Metrics.counter(SPACE, 'total').inc(element)
    Metrics.distribution(SPACE, 'sizes').update(element)
    Metrics.gauge(SPACE, 'last').set(7)
    Metrics.string_set(SPACE, 'names').add('even' if element % 2 == 0 else 'odd')
    Metrics.bounded_trie(SPACE, 'paths').add(('root', 'even' if element % 2 == 0 else 'odd'))
    _SPREAD(element)
    _HALVES(element / 2)
    yield element


def _measured(pipeline):
  # Several bundles, so that there is something to merge.
  return pipeline | beam.Create(range(100)) | beam.Reshuffle() | 'Measured' >> beam.ParDo(_Measure())


def check_user_metrics(stub, result):
  def of(name, kind):
    found, = result.metrics().query(
        MetricsFilter().with_namespace(SPACE).with_name(name))[kind]
    assert 'Measured' in found.key.step, found
    return found.committed

  assert of('total', 'counters') == 4950
  sizes = of('sizes', 'distributions')
  assert (sizes.count, sizes.sum, sizes.min, sizes.max) == (100, 4950, 0, 99)
  assert of('last', 'gauges').value == 7
  assert of('names', 'string_sets') == {'even', 'odd'}
  committed = metrics_of(stub, result).committed
  # The SDK's own client has no place for these: they are read as they come.
  trie = metrics_pb2.BoundedTrie.FromString(one(committed, URNS['USER_BOUNDED_TRIE']).payload)
  assert set(BoundedTrieData.from_proto(trie).as_trie().flattened()) == {
      ('root', 'even', False), ('root', 'odd', False)}, trie
  spread = metrics_pb2.HistogramValue.FromString(one(committed, URNS['USER_HISTOGRAM']).payload)
  assert spread.count == 100 and list(spread.bucket_counts) == [10] * 10, spread
  halves = one(committed, URNS['USER_SUM_DOUBLE'], PTRANSFORM='Measured')
  assert coders.FloatCoder().decode(halves.payload) == 2475.0, halves


@pytest.mark.parametrize(
    'options', [(), ('--bundle_size=element',), ('--bundle_size=element', FAIL_FIRST)])
def test_user_metrics(options, endpoint, stub):
  check_user_metrics(stub, run(endpoint, _measured, *options))


def _count(pipeline):
  pairs = pipeline | beam.Create(range(30)) | 'Pair' >> beam.Map(lambda i: (i % 3, b'x' * 10))
  return pairs | beam.GroupByKey() | 'Sum' >> beam.MapTuple(lambda k, vs: len(list(vs)))


@pytest.mark.parametrize('options', [(), (FAIL_FIRST,)])
def test_elements_are_counted(options, endpoint, stub):
  """Each PCollection's committed count is the number of its elements, whatever was tried twice."""
  result = run(endpoint, _count, *options)
  pipeline = pipeline_of(stub, result)
  committed = metrics_of(stub, result).committed
  for ending, count in (('Pair', 30), ('Sum', 3)):
    _, transform = wire.transform(pipeline, ending)
    made = one(committed, URNS['ELEMENT_COUNT'], PCOLLECTION=wire.only(transform.outputs))
    assert coders.VarIntCoder().decode(made.payload) == count, ending
  _, transform = wire.transform(pipeline, 'Pair')
  size = one(committed, URNS['SAMPLED_BYTE_SIZE'], PCOLLECTION=wire.only(transform.outputs))
  count, total, least, most = monitoring_infos.extract_distribution(size)
  assert 0 < count <= 30 and least <= most and total >= 10 * count, (count, total, least, most)


def _sleepy(x):
  time.sleep(0.05)
  return x


def test_time_is_counted(endpoint, stub):
  """Samples of what a worker's thread does: not exact, but far from nothing."""
  began = time.monotonic()
  result = run(
      endpoint, lambda p: p | beam.Create(range(20)) | 'Sleepy' >> beam.Map(_sleepy)
      | 'Quick' >> beam.Map(lambda x: x))
  took = 1000 * (time.monotonic() - began)
  committed = metrics_of(stub, result).committed

  def msecs(name, step):
    info = one(committed, URNS[name], PTRANSFORM=step)
    return coders.VarIntCoder().decode(info.payload)

  process = msecs('PROCESS_BUNDLE_MSECS', 'Sleepy')
  # Of a second; and a worker has one thread for it.
  assert 300 <= process <= took, (process, took)
  assert msecs('TOTAL_MSECS', 'Sleepy') >= process
  assert msecs('PROCESS_BUNDLE_MSECS', 'Quick') < process
  for name in ('START_BUNDLE_MSECS', 'FINISH_BUNDLE_MSECS'):
    assert msecs(name, 'Sleepy') < process, name


def test_attempted_and_committed(endpoint):
  """With every first attempt failing at its end, everything is done twice and counts once."""
  result = run(
      endpoint, lambda p: p | beam.Create(range(10)) | 'Count' >> beam.Map(
          lambda x: Metrics.counter(SPACE, 'done').inc()), FAIL_FIRST)
  found, = result.metrics().query(MetricsFilter().with_name('done'))['counters']
  assert (found.committed, found.attempted) == (10, 20), found


_FAILED = set()


def _fail_once(x):
  Metrics.counter(SPACE, 'tried').inc()
  if x not in _FAILED:
    _FAILED.add(x)
    raise RuntimeError('the first attempt of %d fails' % x)
  return x


def test_a_failure_of_the_users_own(endpoint):
  """Over LOOPBACK, where the worker remembers what has failed."""
  _FAILED.clear()
  result = run(
      endpoint, lambda p: p | beam.Create([1, 2]) | beam.Reshuffle() | 'Try' >> beam.Map(_fail_once),
      '--bundle_size=element')
  found, = result.metrics().query(MetricsFilter().with_name('tried'))['counters']
  assert found.committed == 2 and found.attempted >= 2, found


def _materialized(pipeline):
  """The output of Made leaves its stage, and is read by others: it must not be counted by each."""
  made = pipeline | beam.Create(range(30)) | 'Made' >> beam.Map(lambda x: x)
  shuffled = made | beam.Reshuffle() | 'After' >> beam.Map(lambda x: x)
  return made | 'Main' >> beam.Map(
      lambda x, a, b: x, beam.pvalue.AsList(made), beam.pvalue.AsList(shuffled))


def test_a_collection_is_counted_once(endpoint, stub):
  result = run(endpoint, _materialized)
  pipeline = pipeline_of(stub, result)
  committed = metrics_of(stub, result).committed
  for ending in ('Made', 'After', 'Main'):
    _, transform = wire.transform(pipeline, ending)
    made = one(committed, URNS['ELEMENT_COUNT'], PCOLLECTION=wire.only(transform.outputs))
    assert coders.VarIntCoder().decode(made.payload) == 30, ending


class _Latencies(_ReportedHistogram):
  def to_runner_api_monitoring_info(self, name, transform_id):
    info = super().to_runner_api_monitoring_info(name, transform_id)
    info.urn = INFOS.API_REQUEST_LATENCIES.spec.urn
    info.labels['SERVICE'] = 'Store'
    return info


_LATENCIES = MetricUpdater(_Latencies, MetricName(SPACE, 'latencies'))


def _request(x):
  """Counts a request of a source or sink, as the SDK's own do; theirs count for a whole worker, this for a
  bundle."""
  labels = {monitoring_infos.SERVICE_LABEL: 'Store', monitoring_infos.METHOD_LABEL: 'get',
            monitoring_infos.RESOURCE_LABEL: 'shelf', monitoring_infos.STATUS_LABEL: 'ok' if x % 4 else 'not_found'}
  InternalMetrics.counter(INFOS.API_REQUEST_COUNT.spec.urn, labels).inc()
  _LATENCIES(x)


def test_requests_are_counted(endpoint, stub):
  result = run(
      endpoint, lambda p: p | beam.Create(range(20)) | beam.Reshuffle() | 'Ask' >> beam.Map(_request),
      '--bundle_size=element')
  committed = metrics_of(stub, result).committed
  urn = INFOS.API_REQUEST_COUNT.spec.urn
  for status, count in (('ok', 15), ('not_found', 5)):
    found = one(committed, urn, STATUS=status, SERVICE='Store', METHOD='get', RESOURCE='shelf')
    assert coders.VarIntCoder().decode(found.payload) == count, found
  latencies = one(committed, INFOS.API_REQUEST_LATENCIES.spec.urn, SERVICE='Store')
  assert metrics_pb2.HistogramValue.FromString(latencies.payload).count == 20, latencies


def test_more_metrics_than_clients_take(endpoint, stub):
  """Names of transforms are in the metrics of each; the SDK's client takes four megabytes."""
  def many(pipeline):
    elements = pipeline | beam.Create([1])
    for number in range(250):
      elements | '%d%s' % (number, 'long' * 1000) >> beam.Map(_counted)  # pylint: disable=expression-not-assigned

  result = run(endpoint, many)
  found = result.metrics().query(MetricsFilter().with_namespace(SPACE).with_name('one of many'))
  assert [counter.committed for counter in found['counters']] == [1] * 250
  committed = metrics_of(stub, result).committed
  assert infos(committed, URNS['ELEMENT_COUNT']) and not infos(committed, URNS['TOTAL_MSECS'])
  told = wire.messages(stub, result._job_id)  # pylint: disable=protected-access
  told = [response.message_response.message_text for response in told]
  assert any('GetJobMetrics leaves out' in text for text in told), told


def _counted(x):
  Metrics.counter(SPACE, 'one of many').inc()
  return x
