//! Parts of the runner, each by itself: skipping elements, grouping them, planning a pipeline.

use std::hint::black_box;
use std::path::Path;

use beam_model::coders::windowed_value::{read_header, write_header};
use beam_model::coders::{Coder, PaneInfo, varint};
use beam_model::pipeline::Pipeline;
use beam_model::time::{EventTime, ProcessingTime};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use runner_core::plan::{Firing, Grain, Grouping, Merging, OutputTime, PlanGrain, plan_pipeline};
use runner_core::ports::memory::MemoryStorage;
use runner_core::runner_transforms::group_by_key::GroupByKey;

const ELEMENTS: usize = 100_000;
const KEYS: usize = 10_000;

/// Pairs of 100 bytes in the global window, as a worker writes them.
fn pairs() -> Bytes {
    let mut block = Vec::new();
    for index in 0..ELEMENTS {
        let window: &[u8] = &[];
        if write_header(&mut block, EventTime(0), [window], PaneInfo::NO_FIRING_ENCODED).is_ok() {
            varint::write_prefixed(&mut block, format!("{:08}", index % KEYS).as_bytes());
            varint::write_prefixed(&mut block, &[b'x'; 92]);
        }
    }
    block.into()
}

fn prefixed() -> Coder {
    Coder::LengthPrefix(Box::new(Coder::Bytes))
}

fn skip(criterion: &mut Criterion) {
    let block = pairs();
    let kv = Coder::Kv(Box::new(prefixed()), Box::new(prefixed()));
    let mut group = criterion.benchmark_group("skip");
    group.throughput(Throughput::Elements(ELEMENTS as u64));
    group.bench_function("windowed pairs of 100 B", |bencher| {
        bencher.iter(|| {
            let mut rest: &[u8] = &block;
            let mut count = 0;
            while let Ok(header) = read_header(&Coder::GlobalWindow, rest) {
                let Ok(len) = kv.skip(&rest[header.header_len..]) else { break };
                rest = &rest[header.header_len + len..];
                count += 1;
            }
            black_box(count)
        });
    });
    group.finish();
}

fn group_by_key(criterion: &mut Criterion) {
    let block = pairs();
    let grouping = Grouping {
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
            let added = groups.add(&block, ProcessingTime(0));
            let grouped = groups.advance_watermark(EventTime::MAX);
            let blocks = groups.take_panes(Grain::Block).filter_map(Result::ok);
            black_box((added.is_ok(), grouped.is_ok(), blocks.map(|pane| pane.data.len()).sum::<usize>()))
        });
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
}

criterion_group!(benches, skip, group_by_key, planning);
criterion_main!(benches);
