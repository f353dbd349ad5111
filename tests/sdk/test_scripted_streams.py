"""Unbounded input that comes by a script: the same results however bundles are cut."""

import time

import apache_beam as beam
import pytest
from apache_beam.coders import StrUtf8Coder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger, userstate
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import FixedWindows, GlobalWindows, Sessions, TimestampedValue

import harness

DISCARDING = trigger.AccumulationMode.DISCARDING
ACCUMULATING = trigger.AccumulationMode.ACCUMULATING
# Results are the same under all of these.
WAYS = {
    'default': (),
    'elements': ('--bundle_size=element', ),
    'two_workers': ('--sdk_workers=2', ),
    'failing_first': ('--inject_bundle_failures=first_attempt', ),
}


def at(*pairs):
  return [TimestampedValue(value, time_) for value, time_ in pairs]


def pane_of(element, window=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
  key, values = element
  return key, int(window.start), sorted(values), pane.index, pane.timing


def early_on_time_and_late(p):
  """A pane each time two are there, one at the end of the window, one for what comes late."""
  events = (
      TestStream().advance_watermark_to(0).add_elements(at((('k', 1), 1), (('k', 2), 2)))
      .add_elements(at((('k', 3), 3))).advance_watermark_to(10).add_elements(at((('k', 4), 4)))
      .advance_watermark_to(16).add_elements(at((('k', 5), 5))).advance_watermark_to_infinity())
  fires = trigger.AfterWatermark(early=trigger.AfterCount(2), late=trigger.AfterCount(1))
  panes = (
      p | events | beam.WindowInto(
          FixedWindows(10), trigger=fires, accumulation_mode=ACCUMULATING, allowed_lateness=5)
      | beam.GroupByKey() | beam.Map(pane_of))
  early, on_time, late = 0, 1, 2
  # 5 comes when the window has expired.
  harness.check(panes, [
      ('k', 0, [1, 2], 0, early), ('k', 0, [1, 2, 3], 1, on_time), ('k', 0, [1, 2, 3, 4], 2, late)])


def sessions_merge_as_the_watermark_goes_on(p):
  events = (
      TestStream().add_elements(at((('k', 1), 1), (('k', 2), 20)))
      .advance_watermark_to(12).add_elements(at((('k', 3), 12))).advance_watermark_to(19)
      .add_elements(at((('k', 4), 29))).advance_watermark_to_infinity())
  groups = (
      p | events | beam.WindowInto(Sessions(10)) | beam.GroupByKey()
      | beam.Map(lambda e, w=beam.DoFn.WindowParam: (int(w.start), int(w.end), sorted(e[1]))))
  harness.check(groups, [(1, 11, [1]), (12, 39, [2, 3, 4])])


class SumUntilTheEnd(beam.DoFn):
  """Sums by key and window; what is there is given out at a processing time and at the end."""
  SUM = userstate.CombiningValueStateSpec('sum', VarIntCoder(), CountCombineFn())
  SOON = userstate.TimerSpec('soon', userstate.TimeDomain.REAL_TIME)
  END = userstate.TimerSpec('end', userstate.TimeDomain.WATERMARK)

  def process(
      self, element, sum_=beam.DoFn.StateParam(SUM), soon=beam.DoFn.TimerParam(SOON),
      end=beam.DoFn.TimerParam(END), window=beam.DoFn.WindowParam):
    sum_.add(element[1])
    soon.set(15)
    end.set(window.end)

  @userstate.on_timer(SOON)
  def when_soon(self, key=beam.DoFn.KeyParam, sum_=beam.DoFn.StateParam(SUM)):
    yield key, 'soon', sum_.read()

  @userstate.on_timer(END)
  def at_the_end(self, key=beam.DoFn.KeyParam, sum_=beam.DoFn.StateParam(SUM)):
    yield key, 'end', sum_.read()


def timers_of_both_times(p):
  """The timer for the very end of the window, a millisecond after its last one, finds the state."""
  events = (
      TestStream().add_elements(at((('a', 1), 1), (('b', 1), 2))).advance_processing_time(10)
      .add_elements(at((('a', 1), 3))).advance_processing_time(10)
      .add_elements(at((('a', 1), 4))).advance_watermark_to_infinity())
  sums = p | events | beam.WindowInto(FixedWindows(10)) | beam.ParDo(SumUntilTheEnd())
  # The second 'soon' of a was due when it was set.
  harness.check(sums, [
      ('a', 'soon', 2), ('b', 'soon', 1), ('a', 'soon', 3), ('a', 'end', 3), ('b', 'end', 1)])


def two_outputs_have_watermarks_of_their_own(p):
  events = (
      TestStream().add_elements(at(('fast', 1)), tag='fast').add_elements(at(('slow', 1)), tag='slow')
      .advance_watermark_to(20, tag='fast').advance_watermark_to(5, tag='slow')
      .add_elements(at(('slow again', 6)), tag='slow').add_elements(at(('too late', 2)), tag='fast')
      .advance_watermark_to_infinity(tag='fast').advance_watermark_to_infinity(tag='slow'))
  outputs = p | events
  for tag, expected in (('fast', [['fast']]), ('slow', [['slow', 'slow again']])):
    grouped = (
        outputs[tag] | tag >> beam.WindowInto(FixedWindows(10)) | tag + ' keyed' >> beam.WithKeys('k')
        | tag + ' grouped' >> beam.GroupByKey() | tag + ' values' >> beam.Map(lambda e: sorted(e[1])))
    harness.check(grouped, expected, label='Check ' + tag)


def processing_time_triggers(p):
  events = TestStream(coder=StrUtf8Coder())
  for text in 'abc':
    events.add_elements([text]).advance_processing_time(4)
  events.advance_watermark_to_infinity()
  panes = (
      p | events | beam.WindowInto(
          FixedWindows(10), trigger=trigger.Repeatedly(trigger.AfterProcessingTime(6)),
          accumulation_mode=DISCARDING)
      | beam.WithKeys(0) | beam.GroupByKey() | beam.Map(lambda e: sorted(e[1])))
  harness.check(panes, [['a', 'b'], ['c']])


SCRIPTED = [
    early_on_time_and_late, sessions_merge_as_the_watermark_goes_on, timers_of_both_times,
    two_outputs_have_watermarks_of_their_own, processing_time_triggers
]


def streaming(endpoint, *options):
  return beam.Pipeline(options=PipelineOptions(
      harness.portable_options(endpoint, extra=('--streaming', '--allow_unsafe_triggers') + options)))


@pytest.mark.parametrize('way', sorted(WAYS))
@pytest.mark.parametrize('build', SCRIPTED, ids=lambda build: build.__name__)
def test_scripted_streams_come_to_the_same_however_bundles_are_cut(build, way, endpoint):
  p = streaming(endpoint, *WAYS[way])
  build(p)
  result = harness.run_pipeline(p)
  assert result.state == 'DONE'
  assert harness.checks_passed(result) == p.beamline_checks


def test_periodic_impulses_come_in_real_time(endpoint):
  p = streaming(endpoint)
  began = time.time()
  start = began + 1
  counts = (
      p | PeriodicImpulse(start, start + 3, 0.1) | beam.WindowInto(FixedWindows(1))
      | beam.WithKeys('k') | beam.combiners.Count.PerKey() | beam.Values())
  total = counts | 'Whole' >> beam.WindowInto(GlobalWindows()) | beam.CombineGlobally(sum)
  harness.check(total, [30])
  result = harness.run_pipeline(p)
  assert harness.checks_passed(result) == 1
  assert time.time() - began >= 3.5
