"""Side inputs without an end: an element waits until its window of them is ready, then sees what is
newest in it."""

import time

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger
from apache_beam.transforms.periodicsequence import PeriodicImpulse, RebaseMode
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from harness import case, check, check_with

DISCARDING = trigger.AccumulationMode.DISCARDING
ACCUMULATING = trigger.AccumulationMode.ACCUMULATING
STREAMING = ('--streaming', )


def again_and_again(mode):
  return beam.WindowInto(
      GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(1)), accumulation_mode=mode)


def script(p, *events):
  """Events of the outputs 'main' and 'side': (tag, element), or (tag, time) to move a watermark."""
  stream = TestStream()
  for tag, what in events:
    if isinstance(what, int):
      stream = stream.advance_watermark_to(what, tag=tag)
    else:
      stream = stream.add_elements([what], tag=tag)
  stream = stream.advance_watermark_to_infinity(tag='main').advance_watermark_to_infinity(tag='side')
  outputs = p | stream
  return outputs['main'], outputs['side']


@case(options=STREAMING)
def live_side_newest_of_a_singleton(p):
  """The first element comes too early, and waits; the rest see what has come before them."""
  main, side = script(
      p, ('main', 'a'), ('side', '1'), ('main', 'b'), ('side', '2'), ('side', '3'), ('main', 'c'))
  total = side | beam.Map(int) | again_and_again(ACCUMULATING) | beam.CombineGlobally(
      sum).without_defaults()
  check(
      main | 'Look' >> beam.Map(lambda x, s: (x, s), pvalue.AsSingleton(total)), [('a', 1), ('b', 1),
                                                                                 ('c', 6)])


@case(options=STREAMING)
def live_side_newest_of_what_was_never_grouped(p):
  """Each firing of a discarding trigger takes the place of the one before."""
  main, side = script(p, ('side', '1'), ('main', 'a'), ('side', '2'), ('main', 'b'))
  side = side | again_and_again(DISCARDING)
  check(
      main | 'Look' >> beam.Map(lambda x, s: (x, s), pvalue.AsSingleton(side)), [('a', '1'),
                                                                                ('b', '2')])


@case(options=STREAMING)
def live_side_newest_of_each_key(p):
  main, side = script(
      p, ('side', 'x1'), ('side', 'y2'), ('main', 'a'), ('side', 'x3'), ('main', 'b'))
  totals = (
      side | 'Pairs' >> beam.Map(lambda x: (x[0], int(x[1]))).with_output_types(tuple[str, int])
      | again_and_again(ACCUMULATING) | beam.CombinePerKey(sum))
  seen = main | 'Look' >> beam.Map(
      lambda x, d, m: (x, d, sorted(m['x']), sorted(m['y'])), pvalue.AsDict(totals),
      pvalue.AsMultiMap(totals))
  check(seen, [('a', {'x': 1, 'y': 2}, [1], [2]), ('b', {'x': 4, 'y': 2}, [4], [2])])


@case(options=STREAMING)
def live_side_windows_are_waited_for(p):
  """A window has all its elements, and one that stays empty is not waited for in vain. The windows differ:
  the SDK maps those of the main input."""
  main, side = script(
      p, ('main', TimestampedValue('a', 1)), ('main', TimestampedValue('b', 12)),
      ('side', TimestampedValue('s1', 3)), ('side', TimestampedValue('s2', 8)), ('side', 30))
  main = main | 'MainWindows' >> beam.WindowInto(FixedWindows(2))
  side = side | 'SideWindows' >> beam.WindowInto(FixedWindows(10))
  check(
      main | 'Look' >> beam.Map(lambda x, s: (x, sorted(s)), pvalue.AsList(side)), [('a', ['s1', 's2']),
                                                                                   ('b', [])])


class _Remember(beam.DoFn):
  LAST = ReadModifyWriteStateSpec('last', beam.coders.StrUtf8Coder())

  def process(self, element, side, last=beam.DoFn.StateParam(LAST)):
    key, value = element
    yield key, value, last.read(), side
    last.write(value)


@case(options=STREAMING)
def live_side_of_a_stateful_dofn(p):
  main, side = script(
      p, ('main', 'a1'), ('side', '1'), ('main', 'b1'), ('side', '2'), ('main', 'a2'))
  side = side | again_and_again(DISCARDING)
  pairs = main | 'Pairs' >> beam.Map(lambda x: (x[0], x[1])).with_output_types(tuple[str, str])
  check(
      pairs | 'Look' >> beam.ParDo(_Remember(), pvalue.AsSingleton(side)), [('a', '1', None, '1'),
                                                                           ('b', '1', None, '1'),
                                                                           ('a', '2', '1', '2')])


@case(options=STREAMING)
def live_side_of_a_side(p):
  """What reads one is itself read as one."""
  main, side = script(p, ('main', 'a'), ('side', '1'), ('side', '2'), ('main', 'b'))
  # An element and what is counted of it race each other.
  first = side | again_and_again(ACCUMULATING) | beam.combiners.Count.Globally().without_defaults()
  second = side | 'First' >> beam.Map(lambda x, s: (x, s > 0), pvalue.AsSingleton(first))
  seen = second | 'Again' >> again_and_again(DISCARDING)
  check(
      main | 'Second' >> beam.Map(lambda x, s: (x, s), pvalue.AsSingleton(seen)), [('a', ('1', True)),
                                                                                  ('b', ('2', True))])


class _InStep:
  """Elements see values that only ever grow, and grow at least once."""
  def __call__(self, actual):
    values = [value for _, value in sorted(actual)]
    assert values == sorted(values), actual
    assert values[0] < values[-1], actual


@case(options=STREAMING)
def live_side_slowly_changing(p):
  # What is over before the workers are up would come all at once: both begin when they are.
  side = (
      p | 'Lookups' >> PeriodicImpulse(0, 7, fire_interval=1, rebase=RebaseMode.REBASE_ALL)
      | beam.WindowInto(
          GlobalWindows(),
          trigger=trigger.Repeatedly(trigger.AfterProcessingTime(0)),
          accumulation_mode=DISCARDING)
      | beam.combiners.Latest.Globally().without_defaults())
  main = p | 'Elements' >> PeriodicImpulse(0, 8, fire_interval=0.5, rebase=RebaseMode.REBASE_ALL)
  check_with(
      main | 'Look' >> beam.Map(lambda x, s: (float(x), float(s)), pvalue.AsSingleton(side)), _InStep())


@case(options=STREAMING)
def live_side_slowly_changing_by_window(p):
  """Each second has a lookup of its own."""
  start = int(time.time()) + 1
  side = (
      p | 'Lookups' >> PeriodicImpulse(start, start + 3, fire_interval=1)
      | 'SideWindows' >> beam.WindowInto(FixedWindows(1)))
  main = (
      p | 'Elements' >> PeriodicImpulse(start, start + 3, fire_interval=0.5)
      | 'MainWindows' >> beam.WindowInto(FixedWindows(1)))
  seen = main | 'Look' >> beam.Map(
      lambda x, s, start: (float(x) - start, float(s) - start), pvalue.AsSingleton(side), start)
  check(seen, [(0, 0), (0.5, 0), (1, 1), (1.5, 1), (2, 2), (2.5, 2)])
