"""What the server tells monitoring about itself, while a real job runs and after it."""

import contextlib
import re
import threading
import time
import urllib.request

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beamline_server import BeamlineServer
from conftest import BINARY, said_port
from harness import portable_options

ELEMENTS = 5_000
HELD, GO_ON = threading.Event(), threading.Event()
SECONDS = 60


def hold(element):
  HELD.set()
  assert GO_ON.wait(SECONDS)
  return element


@contextlib.contextmanager
def serving(log, *arguments):
  """A server, and where it tells about itself."""
  with BeamlineServer(BINARY, ['--http-port=0', *arguments], log=str(log)) as server:
    yield server, said_port(server.process, log, 'metrics at http://127.0.0.1:')


def samples(port):
  """Value by name and labels, as they are written."""
  with urllib.request.urlopen('http://127.0.0.1:%d/metrics' % port, timeout=SECONDS) as answer:
    assert answer.headers['Content-Type'].startswith('text/plain; version=0.0.4')
    text = answer.read().decode('utf-8')
  found = {}
  for line in text.splitlines():
    if not line.startswith('#'):
      name, value = re.fullmatch(r'([a-z_]+(?:\{[a-z]+="[^"]*"\})?) (\S+)', line).groups()
      assert name not in found, name
      found[name] = float(value)
  return found


def wait_for(port, name, value):
  deadline = time.monotonic() + SECONDS
  while samples(port)[name] != value:
    assert time.monotonic() < deadline, '%s never was %s: %s' % (name, value, samples(port))
    time.sleep(0.1)


def test_what_does_not_fit_in_memory_is_seen_in_the_metrics(tmp_path):
  limit, blocks, block, size = 256 << 10, 10, 500, 200
  args = ['--memory-limit=%d' % limit, '--spill-dir', str(tmp_path / 'spill')]
  with serving(tmp_path / 'server.log', *args) as (server, port):
    # A quarter is left to what is not counted.
    assert samples(port)['beamline_memory_limit_bytes'] == limit - limit // 4
    with beam.Pipeline(options=PipelineOptions(portable_options(server.endpoint))) as p:
      _ = (
          p
          | beam.Create(range(0, blocks * block, block))
          | beam.FlatMap(lambda start: ((n, b'%d' % n * (size // 4)) for n in range(start, start + block)))
          | beam.GroupByKey()
          | beam.Map(lambda kv: len(list(kv[1]))))
    # The last blocks go when the job's tasks have.
    wait_for(port, 'beamline_spill_disk_bytes', 0)
    wait_for(port, 'beamline_memory_used_bytes', 0)
    after = samples(port)
  written = after['beamline_spill_written_bytes_total']
  assert written > blocks * block * size - limit
  assert after['beamline_spill_writes_total'] > 1
  assert after['beamline_spill_reads_total'] > 1
  # What the GroupByKey has put away it reads again; what waits elsewhere may be done before it is.
  assert after['beamline_spill_read_bytes_total'] > limit
  assert after['beamline_memory_peak_bytes'] > after['beamline_memory_limit_bytes']


def test_a_job_is_seen_in_the_metrics(tmp_path):
  with serving(tmp_path / 'server.log') as (server, port):
    HELD.clear()
    GO_ON.clear()
    p = beam.Pipeline(options=PipelineOptions(portable_options(server.endpoint)))
    _ = (
        p
        | beam.Create([0])
        | beam.Map(hold)
        | beam.FlatMap(lambda _: ((i % 10, b'x' * 100) for i in range(ELEMENTS)))
        | beam.GroupByKey()
        | beam.Map(lambda kv: len(list(kv[1]))))
    before = samples(port)
    assert before['beamline_jobs{state="RUNNING"}'] == before['beamline_workers'] == 0
    result = p.run()
    try:
      # Before that, no bundle need be running on the worker at the moment.
      assert HELD.wait(SECONDS), result.state
      during = samples(port)
      assert during['beamline_jobs{state="RUNNING"}'] == during['beamline_workers'] == 1
      assert during['beamline_bundles_started_total'] > during['beamline_bundles_committed_total']
    finally:
      GO_ON.set()
    result.wait_until_finish()
    wait_for(port, 'beamline_workers', 0)
    after = samples(port)

  assert after['beamline_jobs{state="DONE"}'] == 1
  assert after['beamline_bundles_started_total'] == after['beamline_bundles_committed_total'] >= 2
  assert after['beamline_bundles_failed_total'] == 0
  # All elements come from the worker; they go back to it grouped, by ten keys.
  assert after['beamline_data_bytes_total{direction="from_worker"}'] > 100 * ELEMENTS
  assert after['beamline_data_bytes_total{direction="to_worker"}'] > 100 * ELEMENTS
  assert after['beamline_data_elements_total{direction="from_worker"}'] >= ELEMENTS
  assert 10 <= after['beamline_data_elements_total{direction="to_worker"}'] < ELEMENTS
  bundles = after['beamline_bundles_committed_total']
  assert after['beamline_bundle_seconds_count'] == bundles
  assert after['beamline_bundle_seconds_bucket{le="+Inf"}'] == bundles
  assert after['beamline_bundle_seconds_sum'] > 0
  # One worker had them all, and may have waited before each but the first.
  assert 0 < after['beamline_worker_wait_seconds_count'] < bundles
  assert after['beamline_waiting_blocks'] == after['beamline_waiting_bytes'] == 0
  assert after['beamline_bundles_running'] == after['beamline_collecting_bytes'] == 0
  # There was memory for all of it.
  assert ELEMENTS * 100 < after['beamline_memory_peak_bytes'] < after['beamline_memory_limit_bytes']
  assert after['beamline_spill_writes_total'] == after['beamline_spill_reads_total'] == 0
  assert after['process_cpu_seconds_total'] > 0
  assert after['process_resident_memory_bytes'] > 1_000_000
