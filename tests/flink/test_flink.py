"""Jobs on a real Flink cluster, through Beamline."""

import signal
import subprocess
import sys
import time
import zipfile

import apache_beam as beam
import grpc
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.transforms import window
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.userstate import (
    BagStateSpec, CombiningValueStateSpec, OrderedListStateSpec, SetStateSpec, TimerSpec, on_timer)

import cases  # pylint: disable=unused-import
import harness
import wire
import wordcount
from beamline_server import BeamlineServer, ServerError
from conftest import BINARY, ROOT

JOB_SECONDS = 150
TEXT = str(ROOT / 'tests' / 'data' / 'kinglear.txt')
ON_FLINK = '--backend=flink'
ENVIRONMENTS = ['LOOPBACK', 'EXTERNAL']


@pytest.fixture(params=ENVIRONMENTS)
def environment(request):
  if request.param == 'LOOPBACK':
    return 'LOOPBACK', None
  return request.getfixturevalue('external')


@pytest.fixture(autouse=True)
def nothing_is_left(cluster):
  """Whatever a test did: the cluster has no jar, and no job that still runs."""
  yield
  assert cluster.get('/jars')['files'] == []
  cluster.wait(
      lambda: all(job['state'] in ('FINISHED', 'FAILED', 'CANCELED')
                  for job in cluster.get('/jobs/overview')['jobs']), 30)


def test_wordcount(endpoint, environment, tmp_path):
  """As any user runs it, in a process of its own."""
  prefix = str(tmp_path / 'counts')
  arguments = harness.portable_options(endpoint, environment, [ON_FLINK])
  began = time.monotonic()
  subprocess.run(
      [sys.executable, '-m', 'apache_beam.examples.wordcount', '--input', TEXT, '--output', prefix,
       *arguments], check=True, timeout=JOB_SECONDS)
  print('%.1f s in all' % (time.monotonic() - began))
  counts, files = wordcount.written_count(prefix)
  assert wordcount.compare(wordcount.plain_count(TEXT), counts, files)


class _Count(beam.DoFn):
  """Numbers the elements of each key, and tells the last number when the window ends."""
  COUNT = CombiningValueStateSpec('count', sum)
  SEEN = BagStateSpec('seen', beam.coders.VarIntCoder())
  LAST_DIGITS = SetStateSpec('last_digits', beam.coders.VarIntCoder())
  END = TimerSpec('end', beam.TimeDomain.WATERMARK)

  def process(self, element, end=beam.DoFn.WindowParam, count=beam.DoFn.StateParam(COUNT),
              seen=beam.DoFn.StateParam(SEEN), digits=beam.DoFn.StateParam(LAST_DIGITS),
              timer=beam.DoFn.TimerParam(END)):
    count.add(1)
    seen.add(element[1])
    digits.add(element[1] % 10)
    timer.set(end.end)

  @on_timer(END)
  def at_the_end(self, key=beam.DoFn.KeyParam, count=beam.DoFn.StateParam(COUNT),
                 seen=beam.DoFn.StateParam(SEEN), digits=beam.DoFn.StateParam(LAST_DIGITS)):
    yield key, count.read(), sum(seen.read()), sorted(digits.read())


def _everything(pipeline, written):
  """Windows, a side input, state and timers; what comes of it is in the lines of a file."""
  numbers = pipeline | beam.Create(range(60)) | 'Stamp' >> beam.Map(
      lambda n: window.TimestampedValue(('key%d' % (n % 3), n), n))
  windowed = numbers | beam.WindowInto(window.FixedWindows(20))
  mean = numbers | beam.Values() | beam.combiners.Mean.Globally()
  sums = windowed | 'Sum' >> beam.CombinePerKey(sum) | 'Against' >> beam.Map(
      lambda pair, mean: '%s %d of a mean of %.1f' % (*pair, mean),
      beam.pvalue.AsSingleton(mean)).with_output_types(str)
  states = windowed | 'State' >> beam.ParDo(_Count()) | 'Show' >> beam.Map(str).with_output_types(str)
  both = (sums, states) | beam.Flatten() | 'Whole' >> beam.WindowInto(window.GlobalWindows())
  both | beam.io.WriteToText(written, shard_name_template='')  # pylint: disable=expression-not-assigned


def _words(pipeline, written):
  words = pipeline | beam.io.ReadFromText(TEXT) | beam.FlatMap(str.split)
  counts = words | beam.combiners.Count.PerElement() | beam.MapTuple('{}: {}'.format).with_output_types(str)
  counts | beam.io.WriteToText(written, shard_name_template='')  # pylint: disable=expression-not-assigned


def _sessions(pipeline, written):
  """Windows that merge, joined with a side input of several keys, and a Reshuffle."""
  clicks = pipeline | beam.Create([('a', 0), ('a', 4), ('a', 30), ('b', 2), ('b', 9), ('b', 16), ('c', 99)]) | (
      beam.MapTuple(lambda user, at: window.TimestampedValue((user, at), at)))
  names = pipeline | 'Names' >> beam.Create([('a', 'Ada'), ('b', 'Bob')])
  sessions = clicks | beam.WindowInto(window.Sessions(8)) | beam.GroupByKey()
  lines = sessions | 'Name' >> beam.Map(
      lambda session, names, at=beam.DoFn.WindowParam: '%s %s %s' % (
          names.get(session[0], '?'), sorted(session[1]), at),
      beam.pvalue.AsDict(names)).with_output_types(str)
  whole = lines | beam.Reshuffle() | 'Whole' >> beam.WindowInto(window.GlobalWindows())
  whole | beam.io.WriteToText(written, shard_name_template='')  # pylint: disable=expression-not-assigned


def _joined(pipeline, written):
  """Several outputs, a CoGroupByKey, a combine in windows that overlap, and a Flatten."""
  def split(number):
    yield beam.pvalue.TaggedOutput('even' if number % 2 == 0 else 'odd', (number % 5, number))

  numbers = pipeline | beam.Create(range(40))
  both = numbers | beam.ParDo(split).with_outputs('even', 'odd')
  joined = {'even': both.even, 'odd': both.odd} | beam.CoGroupByKey() | 'Join' >> beam.MapTuple(
      lambda key, of: '%d: %s %s' % (key, sorted(of['even']), sorted(of['odd']))).with_output_types(str)
  sliding = numbers | beam.Map(lambda n: window.TimestampedValue(n, n)) | (
      beam.WindowInto(window.SlidingWindows(10, 5))) | beam.CombineGlobally(sum).without_defaults()
  sums = sliding | 'Stamp' >> beam.Map(
      lambda n, at=beam.DoFn.WindowParam: '%s %d' % (at, n)).with_output_types(str)
  all_lines = (joined, sums | 'Whole' >> beam.WindowInto(window.GlobalWindows())) | beam.Flatten()
  all_lines | beam.io.WriteToText(written, shard_name_template='')  # pylint: disable=expression-not-assigned


# How many lines each pipeline writes.
@pytest.mark.parametrize('build, expected', [(_words, 7160), (_everything, 18), (_sessions, 4), (_joined, 14)])
def test_both_backends_agree(endpoint, external, tmp_path, build, expected):
  """The same pipeline with nothing else changed."""
  lines = {}
  for backend in ('native', 'flink'):
    written = str(tmp_path / backend)
    options = harness.portable_options(endpoint, external, ['--backend=' + backend])
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
      build(pipeline, written)
    with open(written, encoding='utf-8') as f:
      lines[backend] = sorted(f)
  assert len(lines['native']) == expected
  assert lines['flink'] == lines['native']


class _Counted(beam.DoFn):
  def process(self, element):
    Metrics.counter('flink', 'elements').inc()
    Metrics.distribution('flink', 'sizes').update(element)
    Metrics.gauge('flink', 'last').set(7)
    yield element


def test_metrics(endpoint, environment):
  options = PipelineOptions(harness.portable_options(endpoint, environment, [ON_FLINK]))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create([1, 2, 3, 4]) | 'Count' >> beam.ParDo(_Counted())  # pylint: disable=expression-not-assigned
  result = harness.run_pipeline(pipeline)
  found = result.metrics().query(MetricsFilter().with_namespace('flink'))
  [counter] = found['counters']
  assert (counter.committed, counter.attempted, counter.key.step) == (4, 4, 'Count')
  [distribution] = found['distributions']
  sizes = distribution.committed
  assert (sizes.sum, sizes.count, sizes.min, sizes.max) == (10, 4, 1, 4)
  [gauge] = found['gauges']
  assert gauge.committed.value == 7


class _Bundles(beam.DoFn):
  def start_bundle(self):
    Metrics.counter('flink', 'bundles').inc()

  def process(self, element):
    yield element


@pytest.mark.parametrize('most, expected', [(1, 20), (1000, 1)])
def test_an_option_that_only_beams_runner_knows_reaches_it(endpoint, external, most, expected):
  options = PipelineOptions(
      harness.portable_options(endpoint, external, [ON_FLINK, '--streaming', '--max_bundle_size=%d' % most]))
  pipeline = beam.Pipeline(options=options)
  _ = pipeline | beam.Create(range(20)) | beam.Reshuffle() | 'Count' >> beam.ParDo(_Bundles())
  result = harness.run_pipeline(pipeline)
  [bundles] = result.metrics().query(MetricsFilter().with_name('bundles'))['counters']
  assert bundles.committed == expected


def _explode(element):
  raise ArithmeticError('a mistake with %r' % element)


def test_the_users_error_is_told(endpoint, environment):
  options = PipelineOptions(harness.portable_options(endpoint, environment, [ON_FLINK]))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create(['here']) | 'Explode' >> beam.Map(_explode)  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  with pytest.raises(RuntimeError) as raised:
    result.wait_until_finish()
  text = str(raised.value)
  assert result.state == 'FAILED'
  assert "a mistake with 'here'" in text and 'in _explode' in text and "[while running 'Explode" in text
  # Without the frames of Java.
  assert '\tat ' not in text


class _Sleep(beam.DoFn):
  def process(self, element):
    time.sleep(600)
    yield element


def test_cancel(endpoint, external, cluster):
  options = PipelineOptions(harness.portable_options(endpoint, external, [ON_FLINK]))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create([1]) | beam.ParDo(_Sleep())  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  cluster.wait(lambda: result.state == 'RUNNING', 60)
  result.cancel()
  cluster.wait(lambda: result.state == 'CANCELLED', 60)


class _Sorted(beam.DoFn):
  SEEN = OrderedListStateSpec('seen', beam.coders.VarIntCoder())

  def process(self, element, seen=beam.DoFn.StateParam(SEEN)):
    seen.add((0, element[1]))
    yield element


def test_refused_with_the_place_where_it_runs(endpoint):
  options = PipelineOptions(harness.portable_options(endpoint, extra=[ON_FLINK]))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create([('a', 1)]) | 'Sorted' >> beam.ParDo(_Sorted())  # pylint: disable=expression-not-assigned
  with pytest.raises(Exception) as raised:
    pipeline.run()
  assert 'Sorted' in str(raised.value) and 'runs on backend native' in str(raised.value)


# --- The cluster's faults


def _messages(stub, job_id):
  """Text and importance of all messages until the job ends."""
  stream = stub.GetMessageStream(jobs.JobMessagesRequest(job_id=job_id), timeout=JOB_SECONDS)
  for response in stream:
    if response.HasField('message_response'):
      yield response.message_response


def test_no_slots_are_told(endpoint, new_cluster):
  empty = new_cluster(0)
  try:
    with wire.job_service(endpoint) as stub:
      proto = wire.impulse_proto()
      job_id = wire.submit(stub, proto, backend='flink', flink_master=empty.master)
      words = next(m.message_text for m in _messages(stub, job_id) if 'no slots' in m.message_text)
      assert '0 TaskManagers' in words
      state = stub.GetState(jobs.GetJobStateRequest(job_id=job_id)).state
      assert state == jobs.JobState.STARTING
      # A TaskManager that comes is all that was missing.
      empty.add_taskmanager()
      assert wire.states(stub, job_id)[-1] == jobs.JobState.DONE
  finally:
    empty.stop()


def _sleeping(endpoint, environment, cluster):
  """A job that runs on that cluster, and goes on running."""
  options = PipelineOptions(
      harness.portable_options(endpoint, environment, [ON_FLINK, '--flink_master=' + cluster.master]))
  pipeline = beam.Pipeline(options=options)
  pipeline | beam.Create([1]) | beam.ParDo(_Sleep())  # pylint: disable=expression-not-assigned
  result = pipeline.run()
  cluster.wait(lambda: result.state == 'RUNNING', 60)
  return result


def test_a_jobmanager_that_forgets_fails_the_job(endpoint, external, new_cluster):
  forgetful = new_cluster(1)
  try:
    result = _sleeping(endpoint, external, forgetful)
    forgetful.jobmanager.kill()
    forgetful.jobmanager.wait()
    time.sleep(10)
    forgetful.start_jobmanager()
    with pytest.raises(RuntimeError) as raised:
      result.wait_until_finish()
    assert 'no longer knows job' in str(raised.value)
  finally:
    forgetful.stop()


def test_a_taskmanager_that_dies_fails_a_job_without_restarts(endpoint, external, new_cluster):
  mortal = new_cluster(1)
  try:
    result = _sleeping(endpoint, external, mortal)
    mortal.taskmanagers[0].kill()
    with pytest.raises(RuntimeError) as raised:
      result.wait_until_finish()
    assert result.state == 'FAILED'
    assert 'TaskManager' in str(raised.value) or 'TaskExecutor' in str(raised.value), raised.value
  finally:
    mortal.stop()


def test_a_jar_of_another_flink_is_told(cluster, tmp_path):
  """No cluster of that version is to be had here: the jar says that it is of another one, which is all that is read."""
  other = tmp_path / 'other.jar'
  with zipfile.ZipFile(other, 'w') as jar:
    jar.writestr('org/apache/beam/runners/flink/FlinkPipelineRunner.class', b'')
    jar.writestr('.flink-runtime.version.properties', 'project.version=1.18.1\n')
  arguments = [
      '--backend', 'flink', '--flink-master', cluster.master, '--flink-runner-jar', str(other),
      '--flink-jar-dir', str(tmp_path), '--maven-repository='
  ]
  with BeamlineServer(BINARY, arguments) as server:
    with wire.job_service(server.endpoint) as stub:
      job_id = wire.submit(stub, wire.impulse_proto())
      assert wire.states(stub, job_id)[-1] == jobs.JobState.FAILED
      [error] = wire.errors(wire.messages(stub, job_id))
  assert 'runs Flink 1.19' in error and '1.18.1' in error and '--flink-runner-jar' in error, error


def test_a_broken_runner_is_told(cluster, tmp_path):
  """A jar that looks right, until Flink is asked to start what is in it."""
  broken = tmp_path / 'broken.jar'
  with zipfile.ZipFile(broken, 'w') as jar:
    jar.writestr('org/apache/beam/runners/flink/FlinkPipelineRunner.class', b'no class')
  arguments = ['--backend', 'flink', '--flink-master', cluster.master, '--flink-runner-jar', str(broken)]
  with BeamlineServer(BINARY, arguments) as server:
    with wire.job_service(server.endpoint) as stub:
      job_id = wire.submit(stub, wire.impulse_proto())
      assert wire.states(stub, job_id)[-1] == jobs.JobState.FAILED
      [error] = wire.errors(wire.messages(stub, job_id))
  assert 'FlinkPipelineRunner' in error and 'refuses POST /jars/' in error, error


def test_a_server_does_not_start_with_what_is_no_jar(cluster):
  arguments = ['--flink-master', cluster.master, '--flink-runner-jar', TEXT]
  with pytest.raises(ServerError) as raised:
    BeamlineServer(BINARY, arguments).start()
  assert 'kinglear.txt is no Flink runner jar' in str(raised.value), raised.value


# --- Streaming


class _CountTo(beam.DoFn):
  """Appends to a file how many elements there have been."""
  COUNT = CombiningValueStateSpec('count', sum)

  def __init__(self, path):
    self.path = path

  def process(self, unused_element, count=beam.DoFn.StateParam(COUNT)):
    count.add(1)
    with open(self.path, 'a', encoding='utf-8') as f:
      f.write('%d\n' % count.read())


# The first one comes while the first bundle runs, whose output must not wait for another.
CHECKPOINTS_MS = 1000


def _counting(endpoint, environment, path, *options):
  options = PipelineOptions(
      harness.portable_options(
          endpoint, environment, [ON_FLINK, '--streaming', '--checkpointing_interval=%d' % CHECKPOINTS_MS, *options]))
  pipeline = beam.Pipeline(options=options)
  _ = (
      pipeline | PeriodicImpulse(fire_interval=0.2) | beam.Map(lambda _: ('all', 1))
      | 'Count' >> beam.ParDo(_CountTo(path)))
  return pipeline.run()


def _counted(path):
  try:
    with open(path, encoding='utf-8') as f:
      return [int(line) for line in f.read().split()]
  except FileNotFoundError:
    return []


def test_a_stream_stops_with_a_savepoint_and_goes_on(endpoint, external, cluster, tmp_path):
  path = str(tmp_path / 'counts')
  first = _counting(endpoint, external, path)
  cluster.wait(lambda: len(_counted(path)) >= 10, 90)
  with wire.job_service(endpoint) as stub:
    stub.Drain(jobs.DrainJobRequest(job_id=first._job_id))
    assert wire.states(stub, first._job_id, 60)[-1] == jobs.JobState.DRAINED
    told = [m.message_text for m in _messages(stub, first._job_id)]
  [savepoint] = [text.split()[-1] for text in told if 'the savepoint is' in text]
  before = _counted(path)

  second = _counting(endpoint, external, path, '--savepoint_path=' + savepoint)
  cluster.wait(lambda: len(_counted(path)) >= len(before) + 10, 90)
  second.cancel()
  cluster.wait(lambda: second.state == 'CANCELLED', 60)
  # No number is missing and none comes twice: state and what was under way are both in the savepoint.
  counts = _counted(path)
  assert counts == list(range(1, len(counts) + 1))


# Flink starts a job again after a second, as often as it takes.
RESTARTS = {'restart-strategy.type': 'fixed-delay', 'restart-strategy.fixed-delay.attempts': '100',
            'restart-strategy.fixed-delay.delay': '1 s'}


def _texts(stub, job_id):
  """What the job has told so far: its messages, without waiting for more."""
  texts = []
  stream = stub.GetMessageStream(jobs.JobMessagesRequest(job_id=job_id), timeout=5)
  try:
    for response in stream:
      texts.append(response.message_response.message_text)
  except grpc.RpcError as e:
    assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED, e
  return texts


def _goes_on(cluster, path):
  """Waits until there are higher counts than before, and checks that they follow those of a checkpoint."""
  highest = max(_counted(path))
  cluster.wait(lambda: _counted(path)[-1] > highest, 150)
  counts = _counted(path)
  # A restart repeats what came after the last checkpoint. It leaves nothing out, and does not begin anew.
  assert all(now <= last + 1 for last, now in zip(counts, counts[1:])), counts
  assert counts.count(1) == 1, counts


def _cancelled(result):
  """The client that waits is told, and ends."""
  result.cancel()
  with pytest.raises(RuntimeError) as raised:
    result.wait_until_finish()
  assert 'CANCELLED' in str(raised.value)


@pytest.mark.timeout(400)
def test_a_job_with_restarts_outlives_its_taskmanager(endpoint, external, new_cluster, tmp_path):
  cluster = new_cluster(1, RESTARTS)
  try:
    path = str(tmp_path / 'counts')
    result = _counting_with_checkpoints(endpoint, external, path, cluster)
    cluster.taskmanagers[0].kill()
    cluster.add_taskmanager()
    _goes_on(cluster, path)
    assert result.state == 'RUNNING'
    with wire.job_service(endpoint) as stub:
      assert any('Flink restarts the job after a failure' in text for text in _texts(stub, result._job_id))
    _cancelled(result)
  finally:
    cluster.stop()


def _counting_with_checkpoints(endpoint, environment, path, cluster):
  """A job that counts on that cluster, and has something to go on from."""
  result = _counting(endpoint, environment, path, '--flink_master=' + cluster.master)
  cluster.wait(lambda: _counted(path), 90)
  # One that is under way may not have what has just been counted.
  before = _checkpoints(cluster)
  cluster.wait(lambda: _checkpoints(cluster) >= before + 2, 90)
  return result


def _checkpoints(cluster):
  """How many the one job has."""
  return cluster.get('/jobs/%s/checkpoints' % _flink_job(cluster))['counts']['completed']


def _flink_job(cluster):
  [job] = cluster.get('/jobs/overview')['jobs']
  return job['jid']


STOPPED_SECONDS = 60


@pytest.mark.timeout(400)
def test_a_jobmanager_that_stands_still_for_a_minute(endpoint, external, new_cluster, tmp_path):
  cluster = new_cluster(1, RESTARTS)
  try:
    path = str(tmp_path / 'counts')
    result = _counting_with_checkpoints(endpoint, external, path, cluster)
    cluster.jobmanager.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    assert result.state == 'RUNNING'
    cluster.jobmanager.send_signal(signal.SIGCONT)
    cluster.wait(lambda: any(job['state'] == 'RUNNING' for job in cluster.get('/jobs/overview')['jobs']), 120)
    _goes_on(cluster, path)
    with wire.job_service(endpoint) as stub:
      texts = _texts(stub, result._job_id)
    assert any('does not answer' in text and 'asking again' in text for text in texts), texts
    assert any('answers again' in text for text in texts), texts
    _cancelled(result)
  finally:
    cluster.stop()
