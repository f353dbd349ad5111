//! A splittable ParDo becomes three transforms: pair each element with its restriction, split and size
//! the restrictions, process them (`StandardPTransforms.SplittableParDoComponents`).
//!
//! Fusion starts a stage at the last, so that restrictions spread over workers.

use std::collections::BTreeMap;

use beam_model::pipeline::{Coder, FunctionSpec, PCollection, PTransform};
use beam_model::urns::standard_coders;
use beam_model::urns::standard_p_transforms::{primitives, splittable_par_do_components as parts};

use crate::fault::Fault;
use crate::graph::{QueryablePipeline, main_input, pardo_payload};

pub(super) fn expand(pipeline: &mut QueryablePipeline) -> Result<(), Fault> {
    for id in pipeline.primitives().to_vec() {
        let transform = pipeline.transform(&id)?.clone();
        let is_pardo = transform.spec.as_ref().is_some_and(|spec| spec.urn == primitives::PAR_DO);
        let payload = pardo_payload(&transform).ok().flatten().filter(|_| is_pardo);
        if let Some(payload) = payload.filter(|payload| !payload.restriction_coder_id.is_empty()) {
            expand_one(pipeline, &id, &transform, &payload.restriction_coder_id)?;
        }
    }
    Ok(())
}

fn expand_one(
    pipeline: &mut QueryablePipeline,
    id: &str,
    transform: &PTransform,
    restriction_coder: &str,
) -> Result<(), Fault> {
    let (tag, input) = main_input(transform)
        .ok_or_else(|| Fault::runner(format!("splittable transform {id} has no main input")))?;
    let (tag, input) = (tag.to_owned(), pipeline.pcollection(input)?.clone());

    let paired_coder = kv_coder(pipeline, &format!("{id}_paired"), [&input.coder_id, restriction_coder]);
    let double = pipeline.add_coder("double", coder(standard_coders::DOUBLE, []));
    let sized_coder = kv_coder(pipeline, &format!("{id}_sized"), [&paired_coder, &double]);

    let like_input = |hint: &str, coder_id: &str| PCollection {
        unique_name: format!("{}/{hint}", transform.unique_name),
        coder_id: coder_id.to_owned(),
        ..input.clone()
    };
    let paired = pipeline.add_pcollection(&format!("{id}_paired"), like_input("Paired", &paired_coder));
    let sized = pipeline.add_pcollection(&format!("{id}_sized"), like_input("Sized", &sized_coder));

    let pair = Part { name: "PairWithRestriction", urn: parts::PAIR_WITH_RESTRICTION, input: None };
    let split = Part {
        name: "SplitAndSizeRestrictions",
        urn: parts::SPLIT_AND_SIZE_RESTRICTIONS,
        input: Some(&paired),
    };
    let process = Part {
        name: "ProcessSizedElementsAndRestrictions",
        urn: parts::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS,
        input: Some(&sized),
    };
    let new = [
        pair.of(transform, &tag, Some(&paired)),
        split.of(transform, &tag, Some(&sized)),
        process.of(transform, &tag, None),
    ];
    let hints = ["pair", "split", "process"];
    let ids = new.into_iter().zip(hints).map(|(t, hint)| pipeline.add_transform(&format!("{id}_{hint}"), t));
    let ids = ids.collect();
    pipeline.replace(id, ids);
    Ok(())
}

/// One of the three, as it differs from the transform that it is a part of.
struct Part<'a> {
    name: &'a str,
    urn: &'a str,
    /// Its main input; `None`: the whole transform's.
    input: Option<&'a str>,
}

impl Part<'_> {
    fn of(&self, whole: &PTransform, main_tag: &str, output: Option<&str>) -> PTransform {
        let mut part = whole.clone();
        part.unique_name = format!("{}/{}", whole.unique_name, self.name);
        if let Some(spec) = &mut part.spec {
            spec.urn = self.urn.to_owned();
        }
        if let Some(input) = self.input {
            part.inputs.insert(main_tag.to_owned(), input.to_owned());
        }
        if let Some(output) = output {
            part.outputs = BTreeMap::from([("out".to_owned(), output.to_owned())]);
        }
        part
    }
}

fn kv_coder(pipeline: &mut QueryablePipeline, hint: &str, components: [&str; 2]) -> String {
    let coder = coder(standard_coders::KV, components);
    pipeline.add_coder(hint, coder)
}

pub(super) fn coder<const N: usize>(urn: &str, components: [&str; N]) -> Coder {
    Coder {
        spec: Some(FunctionSpec { urn: urn.to_owned(), payload: Default::default() }),
        component_coder_ids: components.map(str::to_owned).to_vec(),
    }
}
