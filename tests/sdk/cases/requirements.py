"""What a ParDo may require of its runner, set in the proto where the Python SDK has no word for it."""

import os

import apache_beam as beam
from apache_beam import coders
from apache_beam.portability import common_urns
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import on_timer
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from harness import case, check, check_with


class Requiring(beam.ParDo):
  """A ParDo whose payload is changed on its way into the proto."""
  def __init__(self, fn, requirement, change):
    super().__init__(fn)
    self.requirement, self.change = requirement, change

  def to_runner_api_parameter(self, context, **extra_kwargs):
    urn, payload = super().to_runner_api_parameter(context, **extra_kwargs)
    self.change(payload)
    context.add_requirement(self.requirement)
    return urn, payload


class _FirstTimes(beam.DoFn):
  """Hands on the greatest time of its key so far: sorted input makes it the element's own."""
  LATEST = userstate.ReadModifyWriteStateSpec('latest', coders.VarIntCoder())

  def process(self, element, latest=beam.DoFn.StateParam(LATEST)):
    most = max(latest.read() or 0, element[1])
    latest.write(most)
    yield element[1], most


def _sort(payload):
  payload.requires_time_sorted_input = True


def sorted_by_time():
  """Of (key, time): each time with the greatest of its key so far, whose input is to be sorted."""
  return Requiring(
      _FirstTimes(), common_urns.requirements.REQUIRES_TIME_SORTED_INPUT.urn, _sort)


@case(matrix=True)
def time_sorted_input(p):
  times = [(i * 7) % 20 + 1 for i in range(20)]
  seen = p | beam.Create(times) | beam.Map(
      lambda t: TimestampedValue(('k', t), t)) | sorted_by_time()
  check(seen, [(t, t) for t in range(1, 21)])


class _AtTheEnd(beam.DoFn):
  """Holds what it is given until its window expires."""
  BAG = userstate.BagStateSpec('bag', coders.VarIntCoder())
  EXPIRY = userstate.TimerSpec('expiry', TimeDomain.WATERMARK)

  # The SDK declares only timers that are a parameter here; nobody sets this one.
  def process(
      self, element, bag=beam.DoFn.StateParam(BAG), unused=beam.DoFn.TimerParam(EXPIRY)):
    bag.add(element[1])

  @on_timer(EXPIRY)
  def expired(
      self, key=beam.DoFn.KeyParam, window=beam.DoFn.WindowParam, bag=beam.DoFn.StateParam(BAG)):
    yield key, float(window.end), sorted(bag.read())


def expire(payload):
  payload.on_window_expiration_timer_family_spec, = payload.timer_family_specs


@case(matrix=True)
def on_window_expiration(p):
  seen = p | beam.Create([('a', 1), ('a', 2), ('b', 3), ('a', 11)]) | beam.Map(
      lambda kv: TimestampedValue(kv, kv[1])) | beam.WindowInto(FixedWindows(10)) | Requiring(
          _AtTheEnd(), common_urns.requirements.REQUIRES_ON_WINDOW_EXPIRATION.urn, expire)
  check(seen, [('a', 10.0, [1, 2]), ('b', 10.0, [3]), ('a', 20.0, [11])])


class _FailOnce(beam.DoFn):
  """Fails the first time it sees an element, and tells what it saw then, and later."""
  def __init__(self, folder):
    self.folder = folder

  def process(self, element):
    path = os.path.join(self.folder, 'seen-%d' % element[0])
    if not os.path.exists(path):
      with open(path, 'w', encoding='utf-8') as f:
        f.write(element[1])
      raise RuntimeError('the first attempt of %d fails' % element[0])
    with open(path, encoding='utf-8') as f:
      yield f.read() == element[1]


def _stable(payload):
  payload.requires_stable_input = True


def _all_the_same(seen):
  assert len(seen) == 3 and all(seen), seen


@case(folder=True)
def stable_input(p, folder):
  """A retry sees the element that the failed attempt saw, though its producer is random."""
  random = p | beam.Create(range(3)) | 'Random' >> beam.Map(lambda i: (i, os.urandom(8).hex()))
  check_with(
      random | Requiring(
          _FailOnce(folder), common_urns.requirements.REQUIRES_STABLE_INPUT.urn, _stable),
      _all_the_same)


@case()
def resource_hints(p):
  """Each combination of hints makes an environment of its own; they may be more than a runner has."""
  source = p | beam.Create([1, 2])
  large = source | 'Large' >> beam.Map(lambda x: x + 1).with_resource_hints(min_ram='1MB')
  many = large | 'Many' >> beam.Map(lambda x: x * 2).with_resource_hints(
      cpu_count='1', max_active_bundles_per_worker='1')
  check(many, [4, 6])
