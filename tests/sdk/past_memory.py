"""What test_past_memory.py has workers do; they import this, and nothing that only tests need."""

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec
from apache_beam.transforms.userstate import TimerSpec
from apache_beam.transforms.userstate import on_timer

import many_values


def elements(start, count, size):
  for number in range(start, start + count):
    yield number, many_values.filled(number, size)


def count(name, number=1):
  Metrics.counter('memory', name).inc(number)


class CheckElement(beam.DoFn):
  def process(self, element):
    number, value = element
    assert value == many_values.filled(number, len(value)), number
    count('elements')
    count('sum', number)


def look_through(_, values):
  """How many values of a list, and the sum of their numbers; read twice."""
  first = sum(number for number, _ in values)
  number = 0
  for number_of, value in values:
    assert value == many_values.filled(number_of, len(value))
    number += 1
  return number, first


def look_up(number, values):
  found = values[number]
  assert found == many_values.filled(number, len(found)), number
  count('found')


def look_up_all(number, values):
  found = list(values[number])
  assert found == [many_values.filled(number + n, 500) for n in range(3)], number
  count('found')


class KeepAll(beam.DoFn):
  """Keeps all values of a key until the end, and looks now and then at what there is."""
  VALUES = BagStateSpec('values', BytesCoder())
  END = TimerSpec('end', TimeDomain.WATERMARK)

  def process(
      self, element, values=beam.DoFn.StateParam(VALUES), end=beam.DoFn.TimerParam(END),
      window=beam.DoFn.WindowParam):
    key, (round_, value) = element
    if round_ % 4 == 3:
      # As many as there were rounds, or fewer if they come in another order: never another key's.
      assert all(known[:8] == b'%08d' % key for known in values.read())
    values.add(b'%08d' % key + value)
    end.set(window.max_timestamp())

  @on_timer(END)
  def at_end(self, key=beam.DoFn.KeyParam, values=beam.DoFn.StateParam(VALUES)):
    found = list(values.read())
    assert all(value[:8] == b'%08d' % key for value in found), 'a value of another key'
    assert len(set(found)) == len(found)
    count('keys')
    count('values', len(found))


def of_round(round_, keys, size):
  for key in range(keys):
    yield key, (round_, b'%04d' % round_ + many_values.filled(key * 1000 + round_, size))
