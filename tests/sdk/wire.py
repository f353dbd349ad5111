"""The Job API without the SDK's runner: what a client sends, message by message."""

import contextlib

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PortableOptions
from apache_beam.portability.api import beam_artifact_api_pb2_grpc, beam_job_api_pb2_grpc
from apache_beam.portability.api import beam_job_api_pb2 as jobs
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.job import utils as job_utils
from apache_beam.runners.portability import artifact_service
from apache_beam.transforms import environments

TERMINAL = (
    jobs.JobState.DONE, jobs.JobState.FAILED, jobs.JobState.CANCELLED, jobs.JobState.DRAINED,
    jobs.JobState.UPDATED)
# No call of these tests may take longer: that is for hangs, and a machine under load is slow.
CALL_SECONDS = 90


@contextlib.contextmanager
def job_service(endpoint):
  with grpc.insecure_channel(endpoint) as channel:
    yield beam_job_api_pb2_grpc.JobServiceStub(channel)


def pipeline_proto(build, environment='127.0.0.1:1'):
  """The proto of what `build` adds to a pipeline, with an EXTERNAL environment."""
  pipeline = beam.Pipeline()
  build(pipeline)
  return pipeline.to_runner_api(
      default_environment=environments.ExternalEnvironment.from_options(
          PortableOptions(
              ['--environment_type=EXTERNAL', '--environment_config=' + environment])))


def small_proto():
  """Impulse, two ParDos and a GroupByKey between them."""
  return pipeline_proto(
      lambda p: p | beam.Impulse() | 'Pair' >> beam.Map(lambda x: (x, x)) | beam.GroupByKey()
      | 'Last' >> beam.Map(lambda x: x))


def impulse_proto():
  """A pipeline that needs no worker."""
  return pipeline_proto(lambda p: p | beam.Impulse())


def transform(proto, ending):
  """The (id, PTransform) of the leaf whose unique name ends so."""
  found = [
      (key, t) for key, t in proto.components.transforms.items()
      if t.unique_name.endswith(ending) and not t.subtransforms
  ]
  assert len(found) == 1, (ending, [t.unique_name for t in proto.components.transforms.values()])
  return found[0]


def only(mapping):
  """The one value of a proto map."""
  value, = mapping.values()
  return value


def prepare(stub, proto, **options):
  return stub.Prepare(
      jobs.PrepareJobRequest(
          job_name='job', pipeline=proto, pipeline_options=job_utils.dict_to_struct(
              {'beam:option:%s:v1' % name: value for name, value in options.items()})),
      timeout=CALL_SECONDS)


def stage(prepared, retrieval=None):
  """Stages as the SDK does it; `retrieval` answers the server's questions instead of the SDK."""
  url = prepared.artifact_staging_endpoint.url
  with grpc.insecure_channel(url) as channel:
    artifact_service.offer_artifacts(
        beam_artifact_api_pb2_grpc.ArtifactStagingServiceStub(channel),
        retrieval or artifact_service.ArtifactRetrievalService(
            artifact_service.BeamFilesystemHandler(None).file_reader),
        prepared.staging_session_token)


def run(stub, preparation_id):
  return stub.Run(
      jobs.RunJobRequest(preparation_id=preparation_id), timeout=CALL_SECONDS).job_id


def submit(stub, proto, **options):
  prepared = prepare(stub, proto, **options)
  stage(prepared)
  return run(stub, prepared.preparation_id)


def states(stub, job_id, seconds=CALL_SECONDS):
  """All states of a job until its stream ends."""
  stream = stub.GetStateStream(jobs.GetJobStateRequest(job_id=job_id), timeout=seconds)
  return [event.state for event in stream]


def messages(stub, job_id, seconds=CALL_SECONDS):
  return list(stub.GetMessageStream(jobs.JobMessagesRequest(job_id=job_id), timeout=seconds))


def errors(responses):
  return [
      r.message_response.message_text for r in responses if r.HasField('message_response') and
      r.message_response.importance == jobs.JobMessage.JOB_MESSAGE_ERROR
  ]


def dependency(name, content, sha256=''):
  """An artifact of type FILE whose path is `content`, staged under `name`."""
  return api.ArtifactInformation(
      type_urn='beam:artifact:type:file:v1',
      type_payload=api.ArtifactFilePayload(path=str(content), sha256=sha256).SerializeToString(),
      role_urn='beam:artifact:role:staging_to:v1',
      role_payload=api.ArtifactStagingToRolePayload(staged_name=name).SerializeToString())
