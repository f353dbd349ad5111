"""Every case of cases/, each as a job of its own, over LOOPBACK."""

import pytest

import cases  # pylint: disable=unused-import
import harness


@pytest.mark.parametrize('name', sorted(harness.CASES))
def test_pipeline(name, endpoint, tmp_path):
  harness.run_cases([harness.CASES[name]], harness.portable_options(endpoint), tmp_path)
