//! The small functions that run for every frame, state change and request, one by one.
//!
//! `cargo bench --bench micro`, or `make bench-micro`; `-- NAME` picks some.

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sandpen::actors::output_stream::OutputStream;
use sandpen::actors::spec::{Rootfs, SandboxName, SandboxSpec};
use sandpen::actors::state::{Event, ExitStatus, SandboxState, next};
use sandpen::api::frame::Frame;
use sandpen::driver::acceleration::Accelerator;
use sandpen::driver::qemu::args::{Monitor, QemuArgs};
use sandpen_guest::protocol::{ExitReport, FrameReader, Garbage, GuestMessage, WorkloadEnd, encode};

/// Bytes of one frame of the HTTP API, as a follower sends them.
const CHUNK: usize = 64 << 10;

fn spec() -> SandboxSpec {
    let name = SandboxName::new("web-1").unwrap_or_else(|error| panic!("{error}"));
    let mut spec = SandboxSpec::new(name, Rootfs::Native("/srv/root".into()), vec!["/bin/sh".into(), "-c".into()]);
    spec.env = (0..20).map(|number| (format!("VARIABLE_{number}").into(), "a value of some length".into())).collect();
    spec
}

fn state(c: &mut Criterion) {
    let running = SandboxState::Running;
    let ended = Event::WorkloadExited(ExitStatus::Code(0));
    c.bench_function("state: the next one", |b| b.iter(|| next(black_box(&running), black_box(&ended))));
}

fn control_frames(c: &mut Criterion) {
    let report =
        GuestMessage::Exit(ExitReport { end: WorkloadEnd::Code(0), stdout_bytes: 1 << 40, stderr_bytes: 1 << 30 });
    c.bench_function("control port: an exit report written", |b| b.iter(|| encode(black_box(&report))));
    let frame = encode(&report).unwrap_or_default();
    c.bench_function("control port: an exit report read", |b| {
        b.iter_batched(
            || FrameReader::<GuestMessage>::new(Garbage::Refuse),
            |mut reader| (reader.push(black_box(&frame)), reader.next()),
            BatchSize::SmallInput,
        );
    });
}

fn http_frames(c: &mut Criterion) {
    let frame = Frame::Bytes {
        stream: OutputStream::Stdout,
        at: DateTime::<Utc>::from(SystemTime::UNIX_EPOCH + Duration::from_hours(480_000)),
        position: 1 << 40,
        bytes: Bytes::from(vec![b'x'; CHUNK]),
    };
    let mut group = c.benchmark_group("HTTP: 64 KiB of a log");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("written", |b| {
        let mut out = BytesMut::with_capacity(2 * CHUNK);
        b.iter(|| {
            out.clear();
            black_box(&frame).encode(&mut out);
        });
    });
    let mut encoded = BytesMut::new();
    frame.encode(&mut encoded);
    group.bench_function("read", |b| {
        b.iter_batched(|| encoded.clone(), |mut bytes| Frame::decode(&mut bytes), BatchSize::LargeInput);
    });
    group.finish();
}

fn specifications(c: &mut Criterion) {
    let spec = spec();
    c.bench_function("specification: values checked", |b| b.iter(|| black_box(&spec).check_values()));
    c.bench_function("specification: to JSON", |b| b.iter(|| serde_json::to_string(black_box(&spec))));
    let json = serde_json::to_string(&spec).unwrap_or_default();
    c.bench_function("specification: from JSON", |b| {
        b.iter(|| serde_json::from_str::<SandboxSpec>(black_box(&json)));
    });
}

fn command_lines(c: &mut Criterion) {
    let (kernel, initramfs) = ("/var/lib/sandpen/kernel/vmlinux", "/var/lib/sandpen/initramfs");
    let args = QemuArgs {
        cpus: 2,
        tsc_khz: Some(2_500_000),
        shares: vec!["root".to_owned(), "volume0".to_owned()],
        monitor: Monitor::Fifos,
        ..QemuArgs::plain("state/default/web-1/1", Accelerator::Tcg, kernel, initramfs)
    };
    c.bench_function("QEMU: command line", |b| b.iter(|| black_box(&args).to_argv()));
}

criterion_group!(micro, state, control_frames, http_frames, specifications, command_lines);
criterion_main!(micro);
