//! Values of a group may be more than fit in memory. Where all who read a GroupByKey's output know what to do with a token
//! for them (`beam:coder:state_backed_iterable:v1` among their `Environment.capabilities`), its elements get a coder that
//! has room for one. Groups without a token are encoded as ever.

use beam_model::urns::standard_coders;

use super::splittable_pardo::coder;
use crate::fault::Fault;
use crate::graph::{Network, PrimitiveKind, QueryablePipeline, main_input};

pub(super) fn back_by_state(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    // Nothing here changes who reads what.
    let network = pipeline.network();
    for id in pipeline.primitives().to_vec() {
        if pipeline.kind(&id)? != PrimitiveKind::GroupByKey {
            continue;
        }
        let Some(output) = pipeline.transform(&id)?.outputs.values().next().cloned() else { continue };
        if !all_readers_know_tokens(pipeline, &network, &output)? {
            continue;
        }
        if let Some(coder) = with_tokens(pipeline, &output)?
            && let Some(pcollection) = pipeline.components.pcollections.get_mut(&output)
        {
            pcollection.coder_id = coder;
        }
    }
    Ok(())
}

/// Whether only workers read the PCollection, none as a side input, and each understands tokens.
fn all_readers_know_tokens(
    pipeline: &QueryablePipeline,
    network: &Network,
    pcollection: &str,
) -> Result<bool, Fault> {
    let readers = network.consumers.get(pcollection).map(Vec::as_slice).unwrap_or_default();
    for (reader, tag) in readers {
        let reads_main_input = main_input(pipeline.transform(reader)?).is_some_and(|(main, _)| main == tag);
        if pipeline.kind(reader)? != PrimitiveKind::Sdk
            || !reads_main_input
            || !knows_tokens(pipeline, reader)
        {
            return Ok(false);
        }
    }
    Ok(!readers.is_empty())
}

fn knows_tokens(pipeline: &QueryablePipeline, transform: &str) -> bool {
    let environment = pipeline.environment_id(transform).ok();
    let environment = environment.and_then(|id| pipeline.components.environments.get(&id));
    environment.is_some_and(|environment| {
        environment.capabilities.iter().any(|capability| capability == standard_coders::STATE_BACKED_ITERABLE)
    })
}

/// For a PCollection of `KV<K, Iterable<V>>`, the coder whose iterables may be tokens.
fn with_tokens(pipeline: &mut QueryablePipeline, pcollection: &str) -> Result<Option<String>, Fault> {
    let coder_id = pipeline.pcollection(pcollection)?.coder_id.clone();
    let [key, values] = pipeline.coder(&coder_id)?.component_coder_ids.as_slice() else { return Ok(None) };
    let key = key.clone();
    let values = pipeline.coder(values)?;
    let urn = values.spec.as_ref().map_or("", |spec| spec.urn.as_str());
    let (standard_coders::ITERABLE, [value]) = (urn, values.component_coder_ids.as_slice()) else {
        return Ok(None);
    };
    let backed = coder(standard_coders::STATE_BACKED_ITERABLE, [value.as_str()]);
    let backed = pipeline.add_coder(&format!("{coder_id}_values_state_backed"), backed);
    let kv = coder(standard_coders::KV, [key.as_str(), backed.as_str()]);
    Ok(Some(pipeline.add_coder(&format!("{coder_id}_state_backed"), kv)))
}
