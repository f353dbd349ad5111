"""The events of the game, and three ways to get them into a pipeline.

    python -m examples.game.events --count=2000 --output=/tmp/game.csv

An event is a line of text as the SDK's game examples want it:

    user3_Otters,Otters,17,1933480803000,2031-04-09 06:00:03

that is the user, the team, the points, and when it happened: in milliseconds since 1970, and once more for people.
An event is made from its number alone, so that each run has the same game. Two things make it worth
studying: some players are offline and send their events minutes late, and two "players" are
robots that score far too much.
"""

import argparse
import datetime
import random

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

# 2031-04-09T06:00:00Z
START = 1933480800
TEAMS = ('Otters', 'Herons', 'Badgers')
USERS_IN_TEAM = 4
ROBOTS = ('robot0_Otters', 'robot1_Herons')
LATE_SECONDS = (60, 900)


def make_event(number, at, late_share=0.05):
  """The n-th event, as it arrives at `at` (seconds since 1970). Some happened much earlier."""
  chance = random.Random(number)
  if chance.random() < 0.1:
    user = chance.choice(ROBOTS)
    team, score = user.split('_')[1], chance.randint(300, 500)
  else:
    team = chance.choice(TEAMS)
    user = 'user%d_%s' % (chance.randrange(USERS_IN_TEAM), team)
    score = chance.randint(1, 20)
  if chance.random() < late_share:
    at -= chance.randint(*LATE_SECONDS)
  readable = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
  return '%s,%s,%d,%d,%s' % (
      user, team, score, at * 1000, readable.strftime('%Y-%m-%d %H:%M:%S'))


def happened_at(line):
  """Seconds since 1970."""
  return int(line.split(',')[3]) / 1000


def make_game(count, late_share=0.05, seconds_between=7):
  """`count` events in the order in which they arrive."""
  return [
      make_event(number, START + number * seconds_between, late_share) for number in range(count)]


def read_game(path):
  with open(path, encoding='utf-8') as f:
    return f.read().splitlines()


def replay_steps(lines, events_in_step=10):
  """(events, watermark after them) of each step of a replay.

  The watermark is the time of the newest event so far. It does not wait for players that are
  offline: their events are late, and what is later than its window allows is dropped.
  """
  watermark = 0
  for first in range(0, len(lines), events_in_step):
    step = lines[first:first + events_in_step]
    watermark = max(watermark, *map(happened_at, step))
    yield step, watermark


def replay(lines):
  """A TestStream of these events: each step, and then the watermark and the clock move."""
  stream = TestStream(coder=StrUtf8Coder())
  before = None
  for step, watermark in replay_steps(lines):
    stream.add_elements([TimestampedValue(line, happened_at(line)) for line in step])
    if watermark != before:
      stream.advance_watermark_to(watermark)
      before = watermark
    stream.advance_processing_time(10)
  return stream.advance_watermark_to_infinity()


class LiveEvents(beam.PTransform):
  """Events as they happen, `rate` of them each second, for so many seconds, or for ever if None."""
  def __init__(self, rate, seconds):
    super().__init__()
    self.rate, self.seconds = rate, seconds

  def expand(self, begin):
    start, rate = Timestamp.now(), self.rate
    bound = {} if self.seconds is None else {'stop_timestamp': start + self.seconds}

    def event(at):
      # `late_share=0`: PeriodicImpulse moves its watermark with its ticks, so that a late event is lost.
      number = round((at - start.micros / 1e6) * rate)
      return make_event(number, int(at), late_share=0)

    return (
        begin
        | 'Tick' >> PeriodicImpulse(start_timestamp=start, fire_interval=1 / rate, **bound)
        | 'Event' >> beam.Map(lambda at: event(float(at))))


def add_source_arguments(parser):
  """The arguments that choose where the events of a streaming example come from."""
  parser.add_argument(
      '--source', choices=('replay', 'live'), default='replay',
      help='replay: from a file, by a TestStream, so that each run gives the same; live: made now')
  parser.add_argument('--input', help='for replay: the CSV file; default: a game of 600 events')
  parser.add_argument('--rate', type=float, default=20, help='for live: events in a second')
  parser.add_argument(
      '--seconds', type=float, default=20, help='for live: how long; 0: until cancelled or drained')


def source(arguments):
  """The PTransform of lines that the arguments name."""
  if arguments.source == 'live':
    return LiveEvents(arguments.rate, arguments.seconds or None)
  return replay(read_game(arguments.input) if arguments.input else make_game(600))


def parsed(lines, parse_fn):
  """The SDK's own next steps: a dictionary for each line, with the time at which it happened."""
  return (
      lines
      | 'Parse' >> beam.ParDo(parse_fn)
      | 'AddEventTimestamps' >> beam.Map(
          lambda event: TimestampedValue(event, event['timestamp'])))


if __name__ == '__main__':
  flags = argparse.ArgumentParser(description='Writes the events of a game to a file.')
  flags.add_argument('--count', type=int, default=2000)
  flags.add_argument('--output', required=True)
  given = flags.parse_args()
  with open(given.output, 'w', encoding='utf-8') as out:
    out.writelines(line + '\n' for line in make_game(given.count))
