//! `scripted`: how fast a server is when its workers cost next to nothing, beside gRPC alone.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use beamline_benches::loopback::{LARGE_FRAMES, Loopback, USUAL_FRAMES};
use beamline_benches::scripted::{ELEMENT_BYTES, Jobs, Workload, script};
use beamline_tests::scripted_harness::ScriptedHarness;
use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

type Failed = Box<dyn Error + Send + Sync>;

/// Elements per second through Beamline, with workers in Rust that do as little as they can
#[derive(Parser)]
struct Arguments {
    /// The server's program
    #[arg(long)]
    beamline: PathBuf,
    /// Elements of each job, in millions
    #[arg(long, default_value_t = 4)]
    millions: u64,
    /// Of which the median is shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only pass-through or group-by-key
    #[arg(long)]
    only: Option<String>,
    #[arg(long, default_value_t = 2)]
    workers: u32,
}

/// One round of a job.
#[derive(Clone, Copy)]
struct Round {
    wall: Duration,
    /// CPU seconds of the server, and of this process: the workers and the job's author.
    server: f64,
    workers: f64,
    /// Pages that the server had the kernel give it, in thousands.
    faults: f64,
    /// Seconds that workers had nothing to do because of the server, of all workers together.
    waited: f64,
    /// Streaming the same bytes.
    streaming: Duration,
    streaming_cpu: f64,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    let elements = arguments.millions * 1_000_000;
    let counted = Arc::new(AtomicU64::new(0));
    let harness = ScriptedHarness::start(script(elements, counted.clone())).await;
    let server = Server::start(&arguments.beamline)?;
    let jobs = Jobs::connect(&server.endpoint).await?;
    let loopback = Loopback::start(LARGE_FRAMES).await?;
    println!(
        "{} M elements of {ELEMENT_BYTES} bytes, {} workers, medians of {} rounds, {} cores\n",
        arguments.millions,
        arguments.workers,
        arguments.rounds,
        std::thread::available_parallelism()?,
    );
    println!(
        "| job | elements/s | wall s | runner CPU s | its page faults, k | workers' CPU s | they waited for it s | gRPC streaming of the same bytes: wall s | CPU s | job ÷ streaming: wall |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let all = [("pass-through", Workload::PassThrough), ("group-by-key", Workload::GroupByKey)];
    for (_, workload) in
        all.iter().filter(|(name, _)| arguments.only.as_deref().is_none_or(|only| only == *name))
    {
        let bytes = elements * (ELEMENT_BYTES + HEADER_BYTES) as u64;
        // Elements are made once and counted once; those that pass through cross the data plane once more each way.
        let crossings = match workload {
            Workload::PassThrough => 2,
            Workload::GroupByKey => 1,
        };
        let mut rounds = Vec::new();
        // The first one warms up.
        for number in 0..=arguments.rounds {
            counted.store(0, Ordering::Relaxed);
            let (server_before, own_before) = (server.used()?, own_cpu());
            let submitted = jobs.run(workload.pipeline(harness.environment()), arguments.workers).await?;
            let (used, workers) = (server.used()? - server_before, own_cpu() - own_before);
            let arrived = counted.load(Ordering::Relaxed);
            if arrived != elements {
                return Err(format!("{arrived} of {elements} elements arrived").into());
            }
            let own_before = own_cpu();
            let streaming = loopback.stream(crossings * bytes, crossings * bytes).await?;
            let streaming_cpu = own_cpu() - own_before;
            if number > 0 {
                let wall = submitted.wall;
                let Used { cpu: server, faults, waited } = used;
                rounds.push(Round { wall, server, workers, faults, waited, streaming, streaming_cpu });
            }
        }
        print(*workload, elements, &rounds);
    }
    println!("\nServer's peak: {} MB", server.peak_megabytes()?);
    for (name, frames) in [("usual", USUAL_FRAMES), ("large", LARGE_FRAMES)] {
        let loopback = Loopback::start(frames).await?;
        let before = own_cpu();
        let took = loopback.stream(STREAMED, STREAMED).await?.as_secs_f64();
        println!(
            "gRPC streaming of 1 GiB there and back, {name} HTTP/2 frames of {} KiB: {took:.2} s, {:.2} s of CPU",
            frames >> 10,
            own_cpu() - before
        );
    }
    Ok(())
}

/// For the comparison of frame sizes.
const STREAMED: u64 = 1 << 30;
/// Of a windowed value in the global window.
const HEADER_BYTES: usize = 13;

fn print(workload: Workload, elements: u64, rounds: &[Round]) {
    let wall = median(rounds, |round| round.wall.as_secs_f64());
    let streaming = median(rounds, |round| round.streaming.as_secs_f64());
    println!(
        "| {} | {:.0} | {wall:.3} | {:.2} | {:.0} | {:.2} | {:.3} | {streaming:.3} | {:.2} | {:.2} |",
        workload.name(),
        elements as f64 / wall,
        median(rounds, |round| round.server),
        median(rounds, |round| round.faults),
        median(rounds, |round| round.workers),
        median(rounds, |round| round.waited),
        median(rounds, |round| round.streaming_cpu),
        wall / streaming,
    );
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// CPU seconds of this process so far.
fn own_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A Beamline server, ended when dropped.
struct Server {
    process: Child,
    endpoint: String,
    /// Where it serves metrics.
    http_port: u16,
}

/// What a server has used so far.
struct Used {
    /// Seconds.
    cpu: f64,
    /// Thousands.
    faults: f64,
    /// Seconds that workers had nothing to do because of it.
    waited: f64,
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            faults: self.faults - before.faults,
            waited: self.waited - before.waited,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Server {
    fn start(beamline: &Path) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let ready = folder.path().join("ready");
        let mut command = Command::new(beamline);
        command.args(["serve", "--job-port", "0", "--log-level", "warn", "--ready-file"]).arg(&ready);
        command.arg("--artifacts-dir").arg(folder.path());
        let http_port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        command.args(["--http-port", &http_port.to_string()]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(endpoint) = std::fs::read_to_string(&ready) {
                return Ok(Self { process, endpoint: endpoint.trim().to_owned(), http_port });
            }
            if Instant::now() > deadline || process.try_wait()?.is_some() {
                process.kill().ok();
                process.wait().ok();
                return Err(format!("{} did not start", beamline.display()).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn proc(&self, file: &str) -> Result<String, Failed> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.process.id()))?)
    }

    fn used(&self) -> Result<Used, Failed> {
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no stat")?;
        let fields = fields.split_whitespace().skip(1).take(12);
        let fields = fields.map(str::parse::<i64>).collect::<Result<Vec<_>, _>>()?;
        // By proc(5): minflt, utime and stime are the fields 10, 14 and 15, and the first of these is 4.
        let field = |number: usize| fields.get(number - 4).map(|value| *value as f64).ok_or("a short stat");
        let ticks = field(14)? + field(15)?;
        Ok(Used {
            cpu: ticks / rustix::param::clock_ticks_per_second() as f64,
            faults: field(10)? / 1e3,
            waited: self.metric("beamline_worker_wait_seconds_sum")?,
        })
    }

    /// One that has no labels.
    fn metric(&self, name: &str) -> Result<f64, Failed> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("the server has no metric {name}"))?.trim().parse()?)
    }

    fn peak_megabytes(&self) -> Result<u64, Failed> {
        let status = self.proc("status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no peak")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? >> 10)
    }
}
