#!/usr/bin/env python3
"""A streaming job that runs for minutes, is drained, and has to account for every element.

    python benches/endurance.py --beamline target/release/beamline [--minutes 10] [--rate 1000]

PeriodicImpulse makes elements at the rate; they are counted by key and window twice: in user state, which
an event-time timer gives out at the end of the window, and by a combine that fires early every second and
discards what it has fired. After the time is over the job is drained by the Job API. It has to end as DRAINED,
both counts have to be that of the elements made, and neither the server's memory nor this process's, which is
the worker's too, may have grown by more than GROWTH since the first quarter.
"""

import argparse
import datetime
import json
import logging
import os
import pathlib
import platform
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'scripts'))

import apache_beam as beam  # pylint: disable=wrong-import-position
from apache_beam.coders import VarIntCoder  # pylint: disable=wrong-import-position
from apache_beam.metrics import Metrics, MetricsFilter  # pylint: disable=wrong-import-position
from apache_beam.options.pipeline_options import PipelineOptions  # pylint: disable=wrong-import-position
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc  # pylint: disable=wrong-import-position
from apache_beam.transforms.combiners import CountCombineFn  # pylint: disable=wrong-import-position
from apache_beam.transforms import trigger, userstate, window  # pylint: disable=wrong-import-position
from apache_beam.transforms.periodicsequence import PeriodicImpulse  # pylint: disable=wrong-import-position
from beamline_server import BeamlineServer  # pylint: disable=wrong-import-position
import grpc  # pylint: disable=wrong-import-position

KEYS = 100
WINDOW_SECONDS = 5
# Of the resident size after the first quarter: room for what allocators and Python keep.
GROWTH = 1.25
SAMPLE_SECONDS = 10
DRAIN_SECONDS = 60


def counter(name):
  return Metrics.counter('endurance', name)


class Made(beam.DoFn):
  def __init__(self):
    self.made = counter('made')

  def process(self, impulse):
    self.made.inc()
    yield int(float(impulse) * 1000) % KEYS, 1


class CountInState(beam.DoFn):
  """Hands elements on, and their number when their window ends."""
  COUNT = userstate.CombiningValueStateSpec('count', VarIntCoder(), CountCombineFn())
  END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)

  def __init__(self):
    self.in_state = counter('in_state')

  def process(
      self, element, count=beam.DoFn.StateParam(COUNT), end=beam.DoFn.TimerParam(END),
      of=beam.DoFn.WindowParam):
    count.add(1)
    end.set(of.end)
    yield element

  @userstate.on_timer(END)
  def at_the_end(self, count=beam.DoFn.StateParam(COUNT)):
    self.in_state.inc(count.read())
    count.clear()


class Fired(beam.DoFn):
  def __init__(self):
    self.fired = counter('fired')

  def process(self, element):
    self.fired.inc(element[1])


def start(endpoint, rate):
  p = beam.Pipeline(options=PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=' + endpoint, '--environment_type=LOOPBACK',
      '--streaming', '--experiments=disable_logging_submission_environment'
  ]))
  early = trigger.AfterWatermark(early=trigger.AfterProcessingTime(1))
  (p | PeriodicImpulse(fire_interval=1 / rate) | beam.ParDo(Made())
   | 'Windows' >> beam.WindowInto(window.FixedWindows(WINDOW_SECONDS)) | beam.ParDo(CountInState())
   | 'Early' >> beam.WindowInto(
       window.FixedWindows(WINDOW_SECONDS), trigger=early,
       accumulation_mode=trigger.AccumulationMode.DISCARDING)
   | beam.CombinePerKey(sum) | beam.ParDo(Fired()))
  return p.run()


def resident_megabytes(pid):
  for line in pathlib.Path('/proc/%d/status' % pid).read_text().splitlines():
    if line.startswith('VmRSS:'):
      return int(line.split()[1]) / 1024
  return float('nan')


def counters(result):
  counted = result.metrics().query(MetricsFilter().with_namespace('endurance'))['counters']
  return {counter.key.metric.name: counter.committed for counter in counted}


def wait_until_drained(jobs, job_id):
  deadline = time.monotonic() + DRAIN_SECONDS
  while True:
    state = jobs.GetState(beam_job_api_pb2.GetJobStateRequest(job_id=job_id)).state
    name = beam_job_api_pb2.JobState.Enum.Name(state)
    if name not in ('RUNNING', 'DRAINING'):
      return name
    if time.monotonic() > deadline:
      return name + ' after %d s' % DRAIN_SECONDS
    time.sleep(0.1)


def watch(server, seconds):
  """Resident megabytes of (server, this process), every SAMPLE_SECONDS."""
  samples = []
  deadline = time.monotonic() + seconds
  while time.monotonic() < deadline:
    time.sleep(min(SAMPLE_SECONDS, max(0.1, deadline - time.monotonic())))
    samples.append((resident_megabytes(server.process.pid), resident_megabytes(os.getpid())))
  return samples


def growth(samples):
  """Last by first-quarter size, of server and worker."""
  first = samples[len(samples) // 4]
  return [last / before for last, before in zip(samples[-1], first)]


def main():
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--beamline', required=True)
  parser.add_argument('--minutes', type=float, default=10)
  parser.add_argument('--rate', type=int, default=1000, help='elements per second')
  arguments = parser.parse_args()
  logging.getLogger().setLevel(logging.CRITICAL)
  with BeamlineServer(arguments.beamline) as server:
    jobs = beam_job_api_pb2_grpc.JobServiceStub(grpc.insecure_channel(server.endpoint))
    result = start(server.endpoint, arguments.rate)
    [info] = jobs.GetJobs(beam_job_api_pb2.GetJobsRequest()).job_info
    job_id = info.job_id
    samples = watch(server, arguments.minutes * 60)
    if result.state != 'RUNNING':
      result.wait_until_finish()  # Raises what the job has failed with.
    jobs.Drain(beam_job_api_pb2.DrainJobRequest(job_id=job_id))
    began = time.monotonic()
    state = wait_until_drained(jobs, job_id)
    drained = time.monotonic() - began
    counted = counters(result)
  report = {
      'date': datetime.date.today().isoformat(),
      'machine': '%d cores, %s' % (os.cpu_count(), platform.machine()),
      'minutes': arguments.minutes,
      'rate': arguments.rate,
      'state': state,
      'drain_seconds': round(drained, 2),
      'counted': counted,
      'server_mb': [round(server_mb) for server_mb, _ in samples],
      'worker_mb': [round(worker_mb) for _, worker_mb in samples],
      'growth_of_server_and_worker': [round(factor, 3) for factor in growth(samples)],
  }
  print(json.dumps(report, indent=1))
  expected = arguments.rate * arguments.minutes * 60
  complete = counted.get('made') == counted.get('in_state') == counted.get('fired')
  enough = counted.get('made', 0) >= 0.98 * expected
  flat = all(factor <= GROWTH for factor in growth(samples))
  if not (state == 'DRAINED' and complete and enough and flat):
    sys.exit('FAILED: drained %s, complete %s, enough %s, flat %s' % (
        state == 'DRAINED', complete, enough, flat))
  print('OK')


if __name__ == '__main__':
  main()
