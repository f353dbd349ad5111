"""A sink for streaming results: one small JSON file for each pane.

A window with a trigger has many results, each newer than the last. The SDK's file sinks name a file by
its window alone, so that a later pane would take the place of an earlier one. Here the pane's index is a part of the
name. A bundle that is run twice writes the same files twice, with the same content: nothing is ever
counted double, whatever the runner does after a failure.

The files go to a local folder, which suits workers on one machine.
"""

import json
import os
import urllib.parse
import uuid

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import PaneInfoTiming


def window_name(window):
  """'global', or the window's start and end as UTC dates that may stand in a file name."""
  if window == GlobalWindow():
    return 'global'
  return '--'.join(
      edge.to_utc_datetime().strftime('%Y-%m-%dT%H-%M-%S') for edge in (window.start, window.end))


class WritePanes(beam.PTransform):
  """Writes (key, value) pairs that come out of a grouping to files of `folder`, and passes them on.

  Keys are strings, values are what JSON can hold.
  """
  def __init__(self, folder):
    super().__init__()
    self.folder = folder

  def expand(self, results):
    return results | 'WritePane' >> beam.ParDo(_WritePaneFn(self.folder))


class _WritePaneFn(beam.DoFn):
  def __init__(self, folder):
    self.folder = folder

  def setup(self):
    os.makedirs(self.folder, exist_ok=True)

  def process(self, result, window=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
    key, value = result
    record = {
        'window': window_name(window), 'key': key, 'pane': pane.index,
        'timing': PaneInfoTiming.to_string(pane.timing), 'last': pane.is_last, 'value': value
    }
    name = '%s_%s_pane-%04d.json' % (
        record['window'], urllib.parse.quote(key, safe=''), pane.index)
    # Readers of the folder see whole files only, because a rename is one step. Two attempts of a
    # bundle may write at the same time, so each has a temporary file of its own.
    unfinished = os.path.join(self.folder, '.%s.%s' % (name, uuid.uuid4().hex))
    with open(unfinished, 'w', encoding='utf-8') as f:
      json.dump(record, f)
      f.write('\n')
    os.replace(unfinished, os.path.join(self.folder, name))
    yield result


def read_panes(folder):
  """All panes written to `folder` so far: by window and key, those of one key in their order."""
  if not os.path.isdir(folder):
    return []
  records = []
  for name in os.listdir(folder):
    if name.endswith('.json') and not name.startswith('.'):
      with open(os.path.join(folder, name), encoding='utf-8') as f:
        records.append(json.load(f))
  return sorted(records, key=lambda record: (record['window'], record['key'], record['pane']))


def newest(records):
  """{(window, key): value} of the newest pane of each: what a reader of the results would show."""
  return {(record['window'], record['key']): record['value'] for record in records}
