"""Where an example runs: on a Beamline server at localhost:8099, unless its command line says otherwise."""

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

BEAMLINE = (
    '--runner=PortableRunner', '--job_endpoint=localhost:8099', '--environment_type=LOOPBACK')


def pipeline_options(arguments, streaming=False):
  """The options of a pipeline from the arguments that the example itself did not understand.

  A command line that names a runner is taken as it is. Any other is for a Beamline server, and may
  still say which one (`--job_endpoint`) and where its workers are (`--environment_type`).
  """
  arguments = list(arguments)
  if PipelineOptions(arguments).view_as(StandardOptions).runner is None:
    # The last of two equal flags counts, so what the user wrote wins over these.
    arguments = [*BEAMLINE, *arguments]
  options = PipelineOptions(arguments)
  if streaming:
    options.view_as(StandardOptions).streaming = True
  return options
