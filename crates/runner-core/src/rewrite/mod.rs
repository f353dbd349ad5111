//! 2 · Lowers what no worker executes as it stands.
//!
//! In this order, as each may make work for the next: TestStreams whose elements are encoded unlike
//! their PCollections are transcoded by a worker ([`test_stream`]); splittable ParDos become pair, split
//! and process ([`splittable_pardo`]); combines are lifted before their shuffle ([`combine_lifting`]);
//! producers whose coder is not the one that a runner transform hands on are transcoded by a worker
//! ([`transcode`]); values of groups that may be too many for memory get a coder that knows tokens
//! ([`state_backed`]).
//!
//! Before all of that, what spreads work to no purpose may be left out ([`creates`]).

mod combine_lifting;
mod creates;
mod splittable_pardo;
mod state_backed;
mod test_stream;
mod transcode;

pub(crate) use combine_lifting::can_lift;
pub use creates::spread_no_more_than;

use crate::fault::Fault;
use crate::graph::QueryablePipeline;

/// Applies every rewrite. The pipeline has been validated.
pub fn rewrite(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    test_stream::transcode_outputs(pipeline)?;
    splittable_pardo::expand(pipeline)?;
    combine_lifting::lift(pipeline)?;
    sort(pipeline)?;
    transcode::transcode(pipeline)?;
    state_backed::back_by_state(pipeline)?;
    sort(pipeline)
}

fn sort(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    pipeline.sort().map_err(|names| Fault::runner(format!("rewriting made a cycle of {}", names.join(", "))))
}
