"""Beam's interactive runner, by which notebooks look at what their cells have made, on this one."""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.interactive import interactive_beam, interactive_environment, interactive_runner
from apache_beam.runners.portability.portable_runner import PortableRunner

import harness


def test_a_pipeline_grows_cell_by_cell(endpoint):
  runner = interactive_runner.InteractiveRunner(underlying_runner=PortableRunner(), blocking=True)
  pipeline = beam.Pipeline(runner, options=PipelineOptions(harness.portable_options(endpoint)[1:]))
  try:
    squares = pipeline | beam.Create([1, 2, 3]) | 'Square' >> beam.Map(lambda x: x * x)
    interactive_beam.watch({'pipeline': pipeline, 'squares': squares})
    assert sorted(pipeline.run().get(squares)) == [1, 4, 9]

    total = squares | beam.CombineGlobally(sum)
    interactive_beam.watch({'pipeline': pipeline, 'squares': squares, 'total': total})
    result = pipeline.run()
    assert (sorted(result.get(squares)), list(result.get(total))) == ([1, 4, 9], [14])
  finally:
    interactive_environment.current_env().cleanup()
