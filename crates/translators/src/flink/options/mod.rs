//! The pipeline options that the Flink backend reads, and those that it hands on to Beam's runner in the cluster.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use runner_core::backend::{OptionKind, PipelineOption};
use runner_core::options::PipelineOptions;

mod handed_on;

use handed_on::CHECKPOINTING_INTERVAL;

use super::rest::Master;
use super::{FlinkConfig, JobsOnFlink};

const FLINK_MASTER: &str = "flink_master";
const SAVEPOINT_PATH: &str = "savepoint_path";
const ALLOW_NON_RESTORED_STATE: &str = "allow_non_restored_state";
const SAVEPOINT_TARGET: &str = "flink_savepoint_target";
const DRAIN: &str = "flink_drain";
const FINISH_BUNDLES: &str = "finish_bundle_before_checkpointing";
const DETACHED: &str = "detached";
const STREAMING: &str = "streaming";
/// What SDKs send if nobody chose a cluster.
const NO_MASTER: [&str; 3] = ["[auto]", "[local]", "[collection]"];

pub(super) fn describe() -> Vec<PipelineOption> {
    let option = |name, kind, description, default| PipelineOption { name, kind, description, default };
    let read_here = [
        option(
            FLINK_MASTER,
            OptionKind::String,
            "HOST:PORT, or the URL, of the REST endpoint of the Flink cluster. Not given: the server's own.",
            "[auto]",
        ),
        option(
            SAVEPOINT_PATH,
            OptionKind::String,
            "The savepoint or checkpoint that the job is to go on from.",
            "",
        ),
        option(
            ALLOW_NON_RESTORED_STATE,
            OptionKind::Boolean,
            "Go on from a savepoint although the job has no place for some of its state.",
            "false",
        ),
        option(
            SAVEPOINT_TARGET,
            OptionKind::String,
            "Where the savepoint of a drained job goes. Not given: the cluster's state.savepoints.dir.",
            "",
        ),
        option(
            DRAIN,
            OptionKind::String,
            "What a drain does: savepoint leaves what is not done in the savepoint, for another job to go on from by \
             --savepoint_path; end closes all windows and fires all timers before, and waits until splittable sources \
             have read to their end.",
            "savepoint",
        ),
        option(
            FINISH_BUNDLES,
            OptionKind::String,
            "true or false: a checkpoint waits for the bundles that have begun. With false it does not wait, and what such a \
             bundle gives out stays in the checkpoint until its stage has another bundle, which may be never.",
            "true",
        ),
        option(
            DETACHED,
            OptionKind::Boolean,
            "Leave the job to Flink: it is DONE here as soon as it runs there.",
            "false",
        ),
    ];
    read_here.into_iter().chain(handed_on::describe()).collect()
}

/// The options of one job, understood.
#[derive(Debug)]
pub(super) struct FlinkSettings {
    pub(super) master: Master,
    pub(super) savepoint_path: Option<String>,
    pub(super) allow_non_restored_state: bool,
    pub(super) savepoint_target: Option<String>,
    pub(super) drain: DrainTo,
    pub(super) jobs: JobsOnFlink,
    /// Whether the user says so; Beam's runner also streams what has no end.
    pub(super) streaming: bool,
    pub(super) has_checkpoints: bool,
}

/// What is left of a job that is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainTo {
    /// Nothing: its windows close and its timers fire. Beam's runner in the cluster does not truncate restrictions, so
    /// that a splittable source without an end keeps such a job from ending.
    End,
    /// A savepoint with all that is not done yet.
    Savepoint,
}

impl FlinkSettings {
    /// The error says which option cannot be understood and what it may be.
    pub(super) fn read(options: &PipelineOptions, config: &FlinkConfig) -> Result<Self, String> {
        let given = options.string(FLINK_MASTER).filter(|given| !NO_MASTER.contains(given));
        let Some(master) = given.or(config.master.as_deref()) else {
            return Err(format!(
                "no Flink cluster is named: give --{FLINK_MASTER}=HOST:PORT or a URL, or start the server with --flink-master"
            ));
        };
        for name in handed_on::whole_numbers() {
            options.integer(name)?;
        }
        let drain = match options.string(DRAIN).unwrap_or("savepoint") {
            "end" => DrainTo::End,
            "savepoint" => DrainTo::Savepoint,
            other => return Err(format!("--{DRAIN} is end or savepoint, not {other:?}")),
        };
        Ok(Self {
            master: Master::parse(master).map_err(|error| error.to_string())?,
            savepoint_path: options.string(SAVEPOINT_PATH).map(str::to_owned),
            allow_non_restored_state: options.boolean(ALLOW_NON_RESTORED_STATE),
            savepoint_target: options.string(SAVEPOINT_TARGET).map(str::to_owned),
            drain,
            jobs: if options.boolean(DETACHED) { JobsOnFlink::Detached } else { config.jobs },
            streaming: options.boolean(STREAMING),
            has_checkpoints: options.integer(CHECKPOINTING_INTERVAL)?.is_some_and(|interval| interval > 0),
        })
    }
}

/// The options as Beam's runner in the cluster is told them.
///
/// With the address of a cluster it would try to submit the job to that cluster once more. What a stage gives out while
/// a checkpoint is taken is kept back by Beam's runner until the stage has another bundle (BEAM-10558): what reads one
/// impulse never has, and the job would stand still. So bundles end before, unless the user wants it otherwise.
pub(super) fn for_runner(options: &PipelineOptions, job_name: &str) -> Struct {
    let mut all = options.as_struct().clone();
    let mut set = |name: &str, value: &str| {
        all.fields.remove(name);
        let value = Value { kind: Some(Kind::StringValue(value.to_owned())) };
        all.fields.insert(format!("beam:option:{name}:v1"), value);
    };
    set(FLINK_MASTER, "[auto]");
    set("job_name", job_name);
    if options.get(FINISH_BUNDLES).is_none() {
        set(FINISH_BUNDLES, "true");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[(&str, &str)]) -> PipelineOptions {
        let mut all = Struct::default();
        for (name, value) in given {
            let value = Value { kind: Some(Kind::StringValue((*value).to_owned())) };
            all.fields.insert(format!("beam:option:{name}:v1"), value);
        }
        PipelineOptions::new(all)
    }

    fn config(master: Option<&str>) -> FlinkConfig {
        FlinkConfig { master: master.map(str::to_owned), ..FlinkConfig::default() }
    }

    #[test]
    fn the_jobs_cluster_goes_before_the_servers() {
        let master = |given: &[(&str, &str)], own| {
            FlinkSettings::read(&options(given), &config(own)).map(|settings| settings.master)
        };
        let [one, two] = ["one:1", "two:2"].map(|address| Master::parse(address).unwrap());
        assert_eq!(master(&[(FLINK_MASTER, "one:1")], Some("two:2")).unwrap(), one);
        assert_eq!(master(&[(FLINK_MASTER, "[auto]")], Some("two:2")).unwrap(), two);
        assert_eq!(master(&[], Some("two:2")).unwrap(), two);
        assert!(master(&[(FLINK_MASTER, "[local]")], None).unwrap_err().contains("--flink-master"));
        assert!(master(&[(FLINK_MASTER, "nowhere")], None).unwrap_err().contains("HOST:PORT"));
    }

    #[test]
    fn options_that_make_no_sense_are_told() {
        let read = |name| FlinkSettings::read(&options(&[(name, "many")]), &config(Some("a:1")));
        for name in handed_on::whole_numbers() {
            assert!(read(name).unwrap_err().contains(name));
        }
        assert!(read(DRAIN).unwrap_err().contains("end or savepoint"));
    }

    #[test]
    fn checkpoints_wait_for_bundles_unless_told_otherwise() {
        let told = |given: &[(&str, &str)]| {
            PipelineOptions::new(for_runner(&options(given), "count")).boolean(FINISH_BUNDLES)
        };
        assert!(told(&[]));
        assert!(!told(&[(FINISH_BUNDLES, "false")]));
    }

    #[test]
    fn the_runner_is_told_no_cluster() {
        let given = options(&[(FLINK_MASTER, "one:1"), ("parallelism", "3")]);
        let told = PipelineOptions::new(for_runner(&given, "count"));
        assert_eq!(told.string(FLINK_MASTER), Some("[auto]"));
        assert_eq!(told.string("job_name"), Some("count"));
        assert_eq!(told.integer("parallelism"), Ok(Some(3)));
    }
}
