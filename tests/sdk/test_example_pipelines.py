"""The pipelines of `examples/`, with small inputs, against plain Python computations.

They run in this process by the same `run(argv)` that their command lines call, but for one of
each kind, which is started as its user would.
"""

import collections
import datetime
import itertools
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import threading
import time

import pytest

import harness
from conftest import ROOT

sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from examples import hashtag_trends, job_api, panes, windowed_wordcount
from examples.game import events, game_stats, hourly_team_score, leader_board, user_score
# pylint: enable=wrong-import-position

# Longer than a slow machine takes: for what hangs.
COMMAND_SECONDS = 200
SECONDS = 90


def as_command(module, *arguments):
  """`python -m examples.…`, from the folder above `examples`; what it said."""
  done = subprocess.run(
      [sys.executable, '-m', 'examples.' + module, *arguments], cwd=str(ROOT),
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
      timeout=COMMAND_SECONDS, check=False)
  said = done.stdout.decode(errors='replace')
  assert done.returncode == 0, said[-4000:]
  return said


def utc_name(start, seconds):
  """The name of the window from `start` in file names and records."""
  return '--'.join(
      datetime.datetime.fromtimestamp(edge, datetime.timezone.utc).strftime('%Y-%m-%dT%H-%M-%S')
      for edge in (start, start + seconds))


def window_of(at, seconds):
  return utc_name(at // seconds * seconds, seconds)


def lines_of(folder, pattern):
  return [line for path in sorted(pathlib.Path(folder).glob(pattern))
          for line in path.read_text(encoding='utf-8').splitlines()]


# Windowed word count.


def words_by_window(lines, minutes):
  expected = collections.defaultdict(collections.Counter)
  for line in lines:
    written_at, text = line.split(' ', 1)
    at = datetime.datetime.fromisoformat(written_at.replace('Z', '+00:00'))
    start = at.replace(minute=at.minute // minutes * minutes, second=0)
    expected[start.strftime('%Y-%m-%dT%H-%M-%S')].update(re.findall(r"[\w']+", text.lower()))
  return {window: dict(counts) for window, counts in expected.items()}


def counted_by_window(folder):
  found = collections.defaultdict(dict)
  for path in pathlib.Path(folder).glob('words-*.txt'):
    counts = found[path.name[len('words-'):].split('--')[0]]
    for line in path.read_text(encoding='utf-8').splitlines():
      word, count = line.split(': ')
      assert word not in counts, 'counted twice in %s: %s' % (path, word)
      counts[word] = int(count)
  return found


def test_windowed_wordcount_of_the_log_in_the_repository(endpoint, tmp_path):
  as_command(
      'windowed_wordcount', '--output_folder', str(tmp_path), *harness.portable_options(endpoint))
  lines = (ROOT / 'examples' / 'data' / 'ship_log.txt').read_text(encoding='utf-8').splitlines()
  found = counted_by_window(tmp_path)
  assert found == words_by_window(lines, 10)
  assert len(found) == 4 and found['2031-04-09T06-00-00']['fog'] == 3


def test_windowed_wordcount_of_lines_in_any_order(endpoint, tmp_path):
  chance = random.Random(4)
  lines = [
      '2031-04-09T%02d:%02d:%02dZ %s' % (
          chance.randrange(5, 7), chance.randrange(60), chance.randrange(60), ' '.join(
              chance.choices(['salt', 'oak', 'rope', "o'clock"], k=chance.randrange(1, 6))))
      for _ in range(300)]
  source = tmp_path / 'log.txt'
  # A line without a time is left out, and does not end the job.
  source.write_text('\n'.join([*lines, 'torn page']) + '\n', encoding='utf-8')
  windowed_wordcount.run([
      '--input', str(source), '--output_folder', str(tmp_path / 'out'), '--window_minutes', '15',
      *harness.portable_options(endpoint)])
  found = counted_by_window(tmp_path / 'out')
  assert found == words_by_window(lines, 15)
  assert len(found) == 8


# The game.


def written_game(folder, lines):
  path = folder / 'game.csv'
  path.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
  return str(path), lines


@pytest.fixture
def game(tmp_path):
  """(path, lines) of a game of about 70 minutes, some of whose events come late."""
  return written_game(tmp_path, events.make_game(600))


def parsed(line):
  user, team, score = line.split(',')[:3]
  return user, team, int(score), int(events.happened_at(line))


def on_time(lines, seconds):
  """The events of a replay that are not dropped: their window is not over when they arrive."""
  kept, before = [], 0
  for step, watermark in events.replay_steps(lines):
    kept += [
        line for line in step if parsed(line)[3] // seconds * seconds + seconds > before]
    before = watermark
  return kept


def team_scores(lines, seconds):
  expected = collections.Counter()
  for _, team, score, at in map(parsed, lines):
    expected[window_of(at, seconds), team] += score
  return dict(expected)


def test_user_score(endpoint, game, tmp_path):
  path, lines = game
  user_score.run([
      '--input', path, '--output', str(tmp_path / 'scores'), *harness.portable_options(endpoint)])
  expected = collections.Counter()
  for user, _, score, _ in map(parsed, lines):
    expected[user] += score
  assert sorted(lines_of(tmp_path, 'scores-*')) == sorted(
      'user: %s, total_score: %d' % item for item in expected.items())


def test_hourly_team_score(endpoint, game, tmp_path):
  path, lines = game
  hourly_team_score.run([
      '--input', path, '--output', str(tmp_path / 'scores'), '--stop_min', '2031-04-09-07-05',
      *harness.portable_options(endpoint)])
  stop = events.START + 65 * 60
  found = [json.loads(line) for line in lines_of(tmp_path, 'scores-*')]
  assert len(found) == len({(one['window'], one['team']) for one in found})
  assert {(one['window'], one['team']): one['total_score'] for one in found} == team_scores(
      [line for line in lines if parsed(line)[3] < stop], 3600)
  assert any(parsed(line)[3] >= stop for line in lines)


def check_counted_panes(records, scores):
  """Each pane holds all of the ones before and at least ten events more; the last one holds all."""
  sums = [sum(scores[:n]) for n in range(len(scores) + 1)]
  held = [sums.index(record['value']) for record in records]
  assert [record['pane'] for record in records] == list(range(len(records)))
  assert held[-1] == len(scores), (held, len(scores))
  fresh = [after - before for before, after in zip([0, *held], held)]
  assert all(n >= 10 for n in fresh[:-1]) and len(fresh) >= len(scores) // 20, fresh


def test_leader_board_of_a_replay(endpoint, game, tmp_path):
  path, lines = game
  leader_board.run([
      '--input', path, '--output_folder', str(tmp_path), '--team_window_duration', '20',
      *harness.portable_options(endpoint)])
  kept = on_time(lines, 20 * 60)
  assert 0 < len(lines) - len(kept) < 30, 'late enough to be dropped'
  teams = panes.read_panes(tmp_path / 'teams')
  assert panes.newest(teams) == team_scores(kept, 20 * 60)
  timings = collections.Counter(record['timing'] for record in teams)
  assert timings['EARLY'] > 0 and timings['ON_TIME'] == len(panes.newest(teams)), timings
  users = collections.defaultdict(list)
  for record in panes.read_panes(tmp_path / 'users'):
    users[record['key']].append(record)
  scores = collections.defaultdict(list)
  for user, _, score, _ in map(parsed, lines):
    scores[user].append(score)
  assert set(users) == set(scores)
  for user, mine in scores.items():
    check_counted_panes(users[user], mine)


def test_leader_board_of_live_events(endpoint, tmp_path):
  leader_board.run([
      '--source', 'live', '--rate', '25', '--seconds', '3', '--output_folder', str(tmp_path),
      '--team_window_duration', '1', *harness.portable_options(endpoint)])
  expected = collections.Counter()
  for number in range(75):
    _, team, score, _ = parsed(events.make_event(number, events.START, late_share=0))
    expected[team] += score
  found = collections.Counter()
  for (_, team), score in panes.newest(panes.read_panes(tmp_path / 'teams')).items():
    found[team] += score
  assert found == expected


def test_leader_board_of_live_events_that_is_drained(endpoint, tmp_path):
  """All events until some moment are in the results, and none after it."""
  ended = []
  arguments = [
      '--source', 'live', '--rate', '25', '--seconds', '0', '--output_folder', str(tmp_path),
      '--team_window_duration', '1', '--job_name', 'board-to-drain',
      *harness.portable_options(endpoint)]
  board = threading.Thread(target=lambda: ended.append(leader_board.run(arguments)), daemon=True)
  board.start()
  deadline = time.monotonic() + SECONDS
  while not list((tmp_path / 'teams').glob('*.json')):
    assert board.is_alive() and time.monotonic() < deadline, 'no early result'
    time.sleep(0.1)
  assert job_api.drain(endpoint, 'board-to-drain', SECONDS) == 'DRAINED'
  board.join(SECONDS)
  assert ended == ['DRAINED']
  found = collections.Counter()
  for (_, team), score in panes.newest(panes.read_panes(tmp_path / 'teams')).items():
    found[team] += score
  until = collections.Counter()
  for number in itertools.count():
    _, team, score, _ = parsed(events.make_event(number, events.START, late_share=0))
    until[team] += score
    if sum(until.values()) >= sum(found.values()):
      break
  assert found == until


def robots_by_window(lines, seconds):
  """{(window, user): score} of users who have more than 2.5 times the mean user's."""
  scores = collections.defaultdict(collections.Counter)
  for user, _, score, at in map(parsed, lines):
    scores[window_of(at, seconds)][user] += score
  return {
      (window, user): score for window, users in scores.items()
      for user, score in users.items() if score > 2.5 * statistics.mean(users.values())
  }


def mean_sessions(lines, gap, seconds):
  """{(window, key): mean length} of the sessions that end in each window."""
  moments = collections.defaultdict(list)
  for user, _, _, at in map(parsed, lines):
    moments[user].append(at)
  lengths = collections.defaultdict(list)
  for times in moments.values():
    times.sort()
    first = times[0]
    for at, after in zip(times, [*times[1:], float('inf')]):
      if after >= at + gap:
        # A session's last moment is just before its end.
        lengths[window_of(at + gap - 1, seconds), 'mean_session_seconds'].append(at + gap - first)
        first = after
  return {window: statistics.mean(each) for window, each in lengths.items()}


def test_game_stats_of_a_replay(endpoint, tmp_path):
  """In a game where none is late: behind a side input, what is late depends on the runner."""
  path, lines = written_game(tmp_path, events.make_game(600, late_share=0))
  game_stats.run([
      '--input', path, '--output_folder', str(tmp_path), '--fixed_window_duration', '20',
      '--session_gap', '2', '--user_activity_window_duration', '15',
      *harness.portable_options(endpoint)])
  robots = robots_by_window(lines, 20 * 60)
  assert {user for _, user in robots} == set(events.ROBOTS) and len(robots) > 4
  assert panes.newest(panes.read_panes(tmp_path / 'robots')) == robots
  human = [
      line for line in lines
      if (window_of(parsed(line)[3], 20 * 60), parsed(line)[0]) not in robots]
  assert panes.newest(panes.read_panes(tmp_path / 'teams')) == team_scores(human, 20 * 60)
  sessions = panes.newest(panes.read_panes(tmp_path / 'sessions'))
  assert sessions == pytest.approx(mean_sessions(lines, 2 * 60, 15 * 60))


# Hashtag trends.


def test_hashtag_trends_of_a_replay(endpoint, tmp_path):
  hashtag_trends.run([
      '--posts', '150', '--output_folder', str(tmp_path), *harness.portable_options(endpoint)])
  counts = collections.defaultdict(collections.Counter)
  for number in range(150):
    at = hashtag_trends.REPLAY_START + number
    for start in range(at // 10 * 10, at // 10 * 10 - 60, -10):
      counts[utc_name(start, 60), 'trends'].update(
          hashtag_trends.hashtags(hashtag_trends.make_post(number)))
  records = panes.read_panes(tmp_path)
  assert panes.newest(records) == {
      window: [list(item) for item in sorted(
          tags.items(), key=lambda item: (-item[1], item[0]))[:3]]
      for window, tags in counts.items()
  }
  timings = collections.Counter(record['timing'] for record in records)
  # After every ten posts the clock moves by ten seconds, and early results are due after five.
  assert timings['EARLY'] > len(counts) and timings['ON_TIME'] == len(counts), timings


def test_hashtag_trends_of_a_growing_folder_that_is_drained(endpoint, tmp_path):
  """A post is in two windows, so the windows together hold each tag twice, whatever the time is."""
  said = as_command(
      'hashtag_trends', '--source', 'folder', '--size', '4', '--period', '2', '--early', '1',
      '--posts', '60', '--every', '0.3', '--top', '100', '--output_folder', str(tmp_path / 'out'),
      '--watch_folder', str(tmp_path / 'posts'), *harness.portable_options(endpoint))
  assert 'The job ended DRAINED.' in said, said[-4000:]
  expected = collections.Counter()
  for number in range(60):
    expected.update(2 * hashtag_trends.hashtags(hashtag_trends.make_post(number)))
  found = collections.Counter()
  for tags in panes.newest(panes.read_panes(tmp_path / 'out')).values():
    found.update(dict(tags))
  assert found == expected
