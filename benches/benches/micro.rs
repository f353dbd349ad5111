//! Parts of the runner, each by itself: skipping elements, grouping them, planning a pipeline. "Memory copy" is
//! that of the same bytes: what looks at them or moves them cannot take less.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::coders::{Coder, IntervalWindow, PaneInfo, varint};
use beam_model::pipeline::{Environment, Pipeline};
use beam_model::time::{EventTime, ProcessingTime};
use beamline_benches::scripted::Builder;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use runner_core::plan::{
    Asked, Collection, Firing, Grain, Grouping, Merging, OutputTime, PlanGrain, plan_pipeline,
};
use runner_core::ports::memory::MemoryStorage;
use runner_core::runner_transforms::elements;
use runner_core::runner_transforms::group_by_key::GroupByKey;

const ELEMENTS: usize = 100_000;
const KEYS: usize = 10_000;

/// Pairs of 100 bytes in the global window, as a worker writes them.
fn pairs() -> Bytes {
    pairs_in(&[b""])
}

/// The same in these windows.
fn pairs_in(windows: &[&[u8]]) -> Bytes {
    let mut block = Vec::new();
    for index in 0..ELEMENTS {
        let windows = windows.iter().copied();
        if write_header(&mut block, EventTime(0), windows, PaneInfo::NO_FIRING_ENCODED).is_ok() {
            varint::write_prefixed(&mut block, format!("{:08}", index % KEYS).as_bytes());
            varint::write_prefixed(&mut block, &[b'x'; 92]);
        }
    }
    block.into()
}

fn prefixed() -> Coder {
    Coder::LengthPrefix(Box::new(Coder::Bytes))
}

/// How many elements there are.
fn skip_all(block: &[u8], window: &Coder, value: &Coder) -> usize {
    let mut rest = block;
    let mut count = 0;
    while !rest.is_empty()
        && let Ok(header) = read_header(window, rest)
        && let Ok(len) = value.skip(&rest[header.header_len..])
    {
        rest = &rest[header.header_len + len..];
        count += 1;
    }
    count
}

fn skip(criterion: &mut Criterion) {
    let kv = Coder::Kv(Box::new(prefixed()), Box::new(prefixed()));
    let mut interval = Vec::new();
    IntervalWindow { start: EventTime(0), end: EventTime(60_000) }.write(&mut interval);
    let sliding = vec![&*interval; 4];
    let cases = [
        ("pairs of 100 B, global window", pairs(), Coder::GlobalWindow),
        ("pairs of 100 B, four interval windows", pairs_in(&sliding), Coder::IntervalWindow),
    ];
    let mut group = criterion.benchmark_group("skip");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    for (name, block, window) in &cases {
        group.bench_function(*name, |bencher| {
            bencher.iter(|| assert_eq!(skip_all(black_box(block), window, &kv), ELEMENTS));
        });
        group.bench_function(format!("memory copy of {name}"), |bencher| {
            bencher.iter(|| black_box(black_box(block).to_vec()));
        });
    }
    group.finish();
}

/// What a stage with state has the runner do: a block of each share of the keys.
fn partition(criterion: &mut Criterion) {
    let keyed = Collection {
        id: "pairs".to_owned(),
        element_coder: Arc::new(Coder::Kv(Box::new(prefixed()), Box::new(prefixed()))),
        window_coder: Arc::new(Coder::GlobalWindow),
        grain: Grain::Block,
        by_key: true,
        timed: false,
        side_input_patterns: Vec::new(),
        live: None,
    };
    let block = pairs();
    let storage = MemoryStorage::unlimited();
    let mut group = criterion.benchmark_group("divide by key");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("pairs of 100 B", |bencher| {
        bencher.iter(|| black_box(elements::cut(&keyed, [block.clone()], storage.as_ref()).is_ok()));
    });
    group.finish();
}

fn group_by_key(criterion: &mut Criterion) {
    let block = pairs();
    let grouping = Grouping {
        asked: Asked::AfterEachBundle,
        key_coder: prefixed(),
        value_coder: prefixed(),
        window_coder: Coder::GlobalWindow,
        output_time: OutputTime::EndOfWindow,
        merging: Merging::Never,
        firing: Firing::default(),
        bounded: true,
    };
    let mut group = criterion.benchmark_group("group by key");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("100 k pairs of 100 B, 10 k keys", |bencher| {
        bencher.iter(|| {
            let mut groups =
                GroupByKey::new(grouping.clone(), "bench".to_owned(), MemoryStorage::unlimited(), None);
            let added = groups.add(&block, ProcessingTime::from_millis(0));
            let grouped = groups.advance_watermark(EventTime::MAX);
            let blocks = groups.take_panes(Grain::Block).filter_map(Result::ok);
            black_box((added.is_ok(), grouped.is_ok(), blocks.map(|pane| pane.data.len()).sum::<usize>()))
        });
    });
    group.bench_function("memory copy, in and out", |bencher| {
        bencher.iter(|| black_box(black_box(&block).to_vec().as_slice().to_vec()));
    });
    group.finish();
}

fn planning(criterion: &mut Criterion) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/wordcount.pb");
    let Ok(pipeline) = std::fs::read(&file).map_err(drop).and_then(|b| Pipeline::decode(&*b).map_err(drop))
    else {
        eprintln!("no pipeline in {}", file.display());
        return;
    };
    criterion.bench_function("plan of WordCount", |bencher| {
        bencher.iter(|| black_box(plan_pipeline(&pipeline, PlanGrain::Default).is_ok()));
    });
    let large = large_pipeline();
    assert!(plan_pipeline(&large, PlanGrain::Default).is_ok());
    criterion.bench_function("plan of 1,000 transforms", |bencher| {
        bencher.iter(|| black_box(plan_pipeline(&large, PlanGrain::Default).is_ok()));
    });
    let encoded = large.encode_to_vec();
    criterion.bench_function("decoding of 1,000 transforms", |bencher| {
        bencher.iter(|| black_box(Pipeline::decode(encoded.as_slice()).is_ok()));
    });
}

/// Ten branches, each of twenty times three ParDos, a GroupByKey, and what makes pairs of groups again.
fn large_pipeline() -> Pipeline {
    let environment = Environment { urn: "bench:environment".to_owned(), ..Default::default() };
    let mut builder = Builder::new(environment);
    for branch in 0..10 {
        let mut last = builder.impulse(&format!("impulse {branch}"));
        // With the Impulse, and without the last of the Maps, these are a hundred.
        for round in 0..20 {
            for step in 0..3 {
                let name = format!("map {branch}.{round}.{step}");
                last = builder.par_do(&name, "bench:dofn:map", &last, Some("pair")).unwrap_or_default();
            }
            last = builder.group_by_key(&format!("group {branch}.{round}"), &last, "group");
            if round < 19 {
                let name = format!("ungroup {branch}.{round}");
                last = builder.par_do(&name, "bench:dofn:map", &last, Some("pair")).unwrap_or_default();
            }
        }
    }
    builder.build()
}

criterion_group!(benches, skip, partition, group_by_key, planning);
criterion_main!(benches);
