"""The most used hashtags of the last minute, every ten seconds, while the posts are still coming in.

    python -m examples.hashtag_trends --source=replay --output_folder /tmp/trends
    python -m examples.hashtag_trends --source=folder --output_folder /tmp/trends

`replay` feeds made-up posts through a TestStream, which moves event time and the clock by script: the
same panes come out each time, on any runner that has TestStream. `folder` watches a folder to which
a thread of this program adds files; when all of them have been read, the job is drained: the
source stops, the windows that are open close, and the job ends DRAINED. Runners that cannot drain can
be told to stop watching instead: `--end=stop`.

A post is in several windows at once, because windows of sixty seconds begin every ten. Each window
first shows its trends early, again and again, and once more when it is complete.
"""

import argparse
import collections
import logging
import os
import random
import re
import tempfile
import threading
import time

import apache_beam as beam
from apache_beam.coders import StrUtf8Coder
from apache_beam.io import fileio
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import GoogleCloudOptions, PortableOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import trigger
from apache_beam.transforms.window import SlidingWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from examples import job_api, panes
from examples.beam_options import pipeline_options

# When the first post of a replay was written: 2031-04-09T06:00:00Z.
REPLAY_START = 1933480800
TAGS = ('harbour', 'whales', 'fog', 'regatta', 'lighthouse', 'tide', 'oysters', 'ferry')


def make_post(number):
  """The text of the n-th post, the same each time. What is popular moves on with the number."""
  chance = random.Random(number)
  favourite = number // 40 % len(TAGS)
  tags = {TAGS[favourite], chance.choice(TAGS)} if chance.random() < 0.7 else {chance.choice(TAGS)}
  return 'Post %d about %s' % (number, ' and '.join('#' + tag for tag in sorted(tags)))


def hashtags(post):
  return re.findall(r'#(\w+)', post.lower())


class TopTagsFn(beam.CombineFn):
  """The `n` most frequent tags as [tag, count], the more frequent first, then by the alphabet.

  One combine over all tags rather than a count for each tag and a top of the counts: behind a
  trigger, the counts of a tag would reach the top once for each early firing, and be taken
  for different tags' counts. Here only one grouping fires, and its result is right by itself.
  """
  def __init__(self, n):
    self.n = n

  def create_accumulator(self):
    return collections.Counter()

  def add_input(self, counts, tag):
    counts[tag] += 1
    return counts

  def merge_accumulators(self, accumulators):
    merged = collections.Counter()
    for counts in accumulators:
      merged.update(counts)
    return merged

  def extract_output(self, counts):
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [list(item) for item in ranked[:self.n]]


class TrendingTags(beam.PTransform):
  """The top tags of each sliding window, from posts with timestamps.

  size, period: seconds. early: whole seconds after the first post of a pane until it is shown early.
  Panes accumulate: each holds all that its window has seen, so the newest is the one to show.
  """
  def __init__(self, size, period, early, top):
    super().__init__()
    self.size, self.period, self.early, self.top = size, period, early, top

  def expand(self, posts):
    return (
        posts
        | 'Hashtags' >> beam.FlatMap(hashtags)
        | 'SlidingWindows' >> beam.WindowInto(
            SlidingWindows(self.size, self.period),
            trigger=trigger.AfterWatermark(early=trigger.AfterProcessingTime(self.early)),
            accumulation_mode=trigger.AccumulationMode.ACCUMULATING)
        | 'Top' >> beam.CombineGlobally(TopTagsFn(self.top)).without_defaults())


class CountedFn(beam.DoFn):
  """Passes posts on and counts them, so that it can be seen from outside how many were read."""
  NAMESPACE, NAME = 'examples', 'posts_read'

  def __init__(self):
    self.read = Metrics.counter(self.NAMESPACE, self.NAME)

  def process(self, post):
    self.read.inc()
    yield post


def show(keyed_top, window=beam.DoFn.WindowParam):
  _, top = keyed_top
  logging.info(
      'trends of %s: %s', panes.window_name(window),
      ', '.join('#%s %d' % (tag, count) for tag, count in top))


def add_trends(posts, arguments):
  """The part of the pipeline that does not mind where its posts come from."""
  return (
      posts
      | 'Trends' >> TrendingTags(
          arguments.size, arguments.period, arguments.early, arguments.top)
      | 'Keyed' >> beam.Map(lambda top: ('trends', top))
      | 'Write' >> panes.WritePanes(arguments.output_folder)
      | 'Show' >> beam.Map(show))


def replayed(posts):
  """A post each second of event time; the watermark and the clock follow after every ten."""
  stream = TestStream(coder=StrUtf8Coder())
  for first in range(0, posts, 10):
    numbers = range(first, min(first + 10, posts))
    stream.add_elements([
        TimestampedValue(make_post(number), REPLAY_START + number) for number in numbers])
    stream.advance_watermark_to(REPLAY_START + numbers[-1] + 1)
    stream.advance_processing_time(10)
  return stream.advance_watermark_to_infinity()


def run_replay(arguments, options):
  with beam.Pipeline(options=options) as pipeline:
    add_trends(pipeline | 'Replay' >> replayed(arguments.posts), arguments)


def write_files(folder, posts, posts_in_file, seconds_between):
  """Adds files of posts to the folder. A file gets its matching name when it is whole, not before."""
  for first in range(0, posts, posts_in_file):
    unfinished = os.path.join(folder, 'unfinished')
    with open(unfinished, 'w', encoding='utf-8') as f:
      for number in range(first, min(first + posts_in_file, posts)):
        f.write(make_post(number) + '\n')
    os.rename(unfinished, os.path.join(folder, 'posts-%06d.txt' % first))
    time.sleep(seconds_between)


def watched(folder, poll_seconds, stop_after):
  """The lines of the files that appear in the folder, at the time that they were noticed."""
  # Two cares for a run that is stopped: it starts now, not when the SDK was imported (that is the
  # default of MatchContinuously), and it knows its last poll from the beginning.
  now = Timestamp.now()
  bound = {} if stop_after is None else {'stop_timestamp': now + stop_after}
  match = fileio.MatchContinuously(
      os.path.join(folder, 'posts-*.txt'), interval=poll_seconds, start_timestamp=now, **bound)
  return 'Match' >> match | 'Open' >> fileio.ReadMatches() | 'Lines' >> beam.FlatMap(
      lambda file: file.read_utf8().splitlines())


def run_folder(arguments, options):
  watch = arguments.watch_folder or tempfile.mkdtemp(prefix='hashtag-posts-')
  os.makedirs(watch, exist_ok=True)
  draining = arguments.end == 'drain'
  job_name = options.view_as(GoogleCloudOptions).job_name or 'hashtag-trends-%d' % os.getpid()
  options.view_as(GoogleCloudOptions).job_name = job_name
  stop_after = None if draining else arguments.posts / arguments.posts_in_file * arguments.every + 5

  pipeline = beam.Pipeline(options=options)
  posts = (
      pipeline
      | 'Watch' >> watched(watch, arguments.poll, stop_after)
      | 'Counted' >> beam.ParDo(CountedFn()))
  add_trends(posts, arguments)

  writer = threading.Thread(
      target=write_files, daemon=True,
      args=(watch, arguments.posts, arguments.posts_in_file, arguments.every))
  writer.start()
  result = pipeline.run()
  writer.join()
  if draining:
    endpoint = options.view_as(PortableOptions).job_endpoint
    # A drained source is not asked again, so what it has not noticed by then would be left out.
    job_api.wait_for_counter(
        endpoint, job_name, CountedFn.NAMESPACE, CountedFn.NAME, arguments.posts)
    logging.info('all %d posts are read: draining %s', arguments.posts, job_name)
    job_api.drain(endpoint, job_name)
  state = job_api.wait_until_ended(result)
  print('The job ended %s.' % state)
  return state


def run(argv=None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--source', choices=('replay', 'folder'), default='replay')
  parser.add_argument('--output_folder', required=True, help='takes a JSON file for each pane')
  parser.add_argument('--posts', type=int, default=300, help='how many posts to make up')
  parser.add_argument('--size', type=float, default=60, help='seconds that a window is long')
  parser.add_argument('--period', type=float, default=10, help='seconds from window to window')
  parser.add_argument('--early', type=int, default=5, help='whole seconds until an early result')
  parser.add_argument('--top', type=int, default=3, help='tags in a result')
  folder = parser.add_argument_group('for --source=folder')
  folder.add_argument('--watch_folder', help='default: a new temporary folder')
  folder.add_argument('--poll', type=float, default=0.5, help='seconds from look to look')
  folder.add_argument('--posts_in_file', type=int, default=10)
  folder.add_argument('--every', type=float, default=0.5, help='seconds from file to file')
  folder.add_argument('--end', choices=('drain', 'stop'), default='drain')
  arguments, others = parser.parse_known_args(argv)
  options = pipeline_options(others, streaming=True)
  return {'replay': run_replay, 'folder': run_folder}[arguments.source](arguments, options)


if __name__ == '__main__':
  logging.getLogger().setLevel(logging.INFO)
  run()
