//! `twinspan bench base`: how soon, and in how much memory, a frozen base is ready.
//!
//! Owns the generated weight file and the measurement. Every number comes from a process of its
//! own, this program started anew, so that peaks are clean; reading the file and making it ready
//! take turns, so that both see the same machine.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};

use twinspan::sdk::pass::Pass;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::site::{At, Tap};
use twinspan::sdk::tuned::{Compute, Inputs, Tuned};
use twinspan::sdk::{Error, weights};

use super::super::failure::{Failure, print, print_json};

/// `twinspan bench base`.
#[derive(Args)]
pub struct BaseArgs {
    /// The model of CLIP
    #[arg(long, default_value = "ViT-L/14")]
    preset: String,
    /// The element type of the generated file
    #[arg(long, default_value = "f32")]
    stored: Precision,
    /// What the values are rounded to and held in
    #[arg(long, default_value = "f32")]
    precision: Precision,
    /// A weight file of the model in place of a generated one
    #[arg(long, conflicts_with = "stored")]
    file: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeats: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What a process of its own measures once
    #[arg(long, hide = true, requires = "file")]
    part: Option<Part>,
}

/// An element type of weights.
#[derive(Clone, Copy, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::F16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        }
    }

    fn stored(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::Bf16 => Dtype::BF16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// Reads the file once, from its begin to its end.
    Read,
    /// Makes the base ready, then passes one picture and one sentence twice.
    Ready,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Read => "read",
            Part::Ready => "ready",
        }
    }
}

/// What one process tells, a line each.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Line {
    /// How long it took.
    seconds: f64,
    /// The most memory that the process ever had resident.
    peak_bytes: Option<u64>,
}

/// The middle of some measurements, and how far they lie apart.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = values.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let at = |i: usize| all.get(i).copied().unwrap_or(f64::NAN);
        Self {
            median: at(all.len() / 2),
            least: at(0),
            most: at(all.len().saturating_sub(1)),
        }
    }
}

/// One turn: the file read once, and the base made ready.
struct Turn {
    read: Line,
    ready: Line,
    /// From the start of the process until it was ready.
    start: f64,
    first_pass: Line,
    second_pass: Line,
}

/// All turns at one state of the system's cache of files.
#[derive(Debug, Serialize)]
struct Turns {
    /// `cold`: the file is not in memory; `warm`: it is.
    cache: &'static str,
    seconds_to_read: Spread,
    seconds_to_ready: Spread,
    /// Of each turn's two times.
    ready_over_read: Spread,
    seconds_from_start_to_ready: Spread,
    seconds_of_first_pass: Spread,
    seconds_of_second_pass: Spread,
    peak_bytes_at_ready: Spread,
    peak_bytes_after_pass: Spread,
    /// The peak after a pass over the bytes of all values in the working precision.
    peak_over_size: Spread,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    preset: String,
    /// None for a file that was given.
    stored: Option<Precision>,
    precision: Precision,
    values: usize,
    file_bytes: u64,
    /// Bytes of all values in the working precision.
    size_bytes: u64,
    threads: usize,
    repeats: u64,
    turns: Vec<Turns>,
}

/// Measures, or is one of the measured processes.
pub fn run(args: &BaseArgs) -> Result<(), Failure> {
    match (args.part, &args.file) {
        (Some(Part::Read), Some(file)) => read(file),
        (Some(Part::Ready), Some(file)) => ready(args, file),
        (_, Some(file)) => measure(args, file, None),
        (_, None) => {
            let folder = tempfile::tempdir().map_err(failed("a temporary folder"))?;
            let file = folder.path().join("base.safetensors");
            generate(args, &file)?;
            measure(args, &file, Some(args.stored))
        }
    }
}

fn failed(what: &str) -> impl Fn(std::io::Error) -> Failure + use<> {
    let what = what.to_string();
    move |source| Failure::Io {
        what: what.clone(),
        source,
    }
}

/// The frozen model, with the smallest head that a recipe can have.
fn recipe(args: &BaseArgs, weights: &Path) -> Result<Recipe, Failure> {
    let head = "use = 'referring-segmentation'\nwidth = 32\nlayers = 1\nheads = 2\nffn = 32";
    let text = format!(
        "[backbone]\nuse = 'clip'\npreset = {:?}\ntokenizer = 'bytes'\nprecision = {:?}\nweights = {:?}\n[task]\n{head}",
        args.preset,
        args.precision.name(),
        weights.to_string_lossy()
    );
    Ok(Recipe::parse(&text, "bench base")?)
}

/// A tensor of made-up values, made when it is written.
struct Made {
    shape: Vec<usize>,
    dtype: Dtype,
    seed: u64,
}

impl View for &Made {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Every bit of a number is drawn, its sign too, but the exponent, which keeps it near 0.02.
        let high = match self.dtype {
            Dtype::F16 => 0x24,
            _ => 0x3c,
        };
        let mut state = self.seed | 1;
        let mut bytes = Vec::with_capacity(self.data_len() + 8);
        while bytes.len() < self.data_len() {
            // Marsaglia, "Xorshift RNGs", 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(self.data_len());
        for number in bytes.chunks_exact_mut(self.width()) {
            if let Some(last) = number.last_mut() {
                *last = high | *last & 0x80;
            }
        }
        Cow::Owned(bytes)
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.width()
    }
}

impl Made {
    /// Bytes of a number.
    fn width(&self) -> usize {
        if self.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

/// Writes made-up weights of the model under its canonical names.
fn generate(args: &BaseArgs, to: &Path) -> Result<(), Failure> {
    let recipe = recipe(args, to)?;
    let topology = recipe.backbone.plugin.topology()?;
    let made: Vec<(String, Made)> = topology
        .parameters()
        .enumerate()
        .map(|(i, info)| {
            let made = Made {
                shape: info.shape.clone(),
                dtype: args.stored.stored(),
                seed: 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 + 1),
            };
            (info.name.clone(), made)
        })
        .collect();
    let views = made.iter().map(|(name, made)| (name, made));
    safetensors::serialize_to_file(views, None, to).map_err(Error::plugin)?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(failed(&to.display().to_string()))
}

/// Takes turns at both states of the cache, and prints what came of it.
fn measure(args: &BaseArgs, file: &Path, stored: Option<Precision>) -> Result<(), Failure> {
    let topology = recipe(args, file)?.backbone.plugin.topology()?;
    let values: usize = topology.parameters().map(|p| p.count()).sum();
    let size = values as u64 * args.precision.dtype().size_in_bytes() as u64;
    let name = file.display().to_string();
    let file_bytes = std::fs::metadata(file).map_err(failed(&name))?.len();
    let mut turns = Vec::new();
    for cache in ["cold", "warm"] {
        if cache == "cold" && !forget(file) {
            eprintln!("this system does not drop {name} from memory: no cold start is measured");
            continue;
        }
        let mut all = Vec::new();
        for i in 0..args.repeats {
            eprintln!("{cache} cache, turn {} of {}", i + 1, args.repeats);
            all.push(turn(args, file, cache == "cold")?);
        }
        turns.push(summary(cache, &all, size));
    }
    let report = Report {
        preset: args.preset.clone(),
        stored,
        precision: args.precision,
        values,
        file_bytes,
        size_bytes: size,
        threads: rayon::current_num_threads(),
        repeats: args.repeats,
        turns,
    };
    if args.json {
        return print_json(&report);
    }
    show(&report)
}

fn turn(args: &BaseArgs, file: &Path, cold: bool) -> Result<Turn, Failure> {
    if cold {
        forget(file);
    }
    let (_, read) = child(args, file, Part::Read, 1)?;
    if cold {
        forget(file);
    }
    let (start, ready) = child(args, file, Part::Ready, 3)?;
    match (read.as_slice(), ready.as_slice()) {
        (&[read], &[ready, first_pass, second_pass]) => Ok(Turn {
            read,
            ready,
            start,
            first_pass,
            second_pass,
        }),
        _ => Err(Error::plugin("a measured process stopped early").into()),
    }
}

/// Starts this program for one part; gives the seconds until its first line, and its lines.
fn child(
    args: &BaseArgs,
    file: &Path,
    part: Part,
    lines: usize,
) -> Result<(f64, Vec<Line>), Failure> {
    let failed = failed("a process to measure");
    let program = std::env::current_exe().map_err(&failed)?;
    let begin = Instant::now();
    let mut process = Command::new(program)
        .args(["bench", "base", "--part", part.name()])
        .args(["--preset", &args.preset])
        .args(["--precision", args.precision.name()])
        .arg("--file")
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(&failed)?;
    let mut first = f64::NAN;
    let mut all = Vec::new();
    if let Some(out) = process.stdout.take() {
        for line in BufReader::new(out).lines().take(lines) {
            if all.is_empty() {
                first = begin.elapsed().as_secs_f64();
            }
            all.push(serde_json::from_str(&line.map_err(&failed)?).map_err(Error::plugin)?);
        }
    }
    let status = process.wait().map_err(&failed)?;
    match status.success() {
        true => Ok((first, all)),
        false => Err(Error::plugin(format!("a measured process failed: {status}")).into()),
    }
}

fn tell(seconds: f64) -> Result<(), Failure> {
    let line = Line {
        seconds,
        peak_bytes: peak(),
    };
    print(&serde_json::to_string(&line).map_err(Error::plugin)?)
}

fn read(path: &Path) -> Result<(), Failure> {
    let failed = failed(&path.display().to_string());
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    let mut file = File::open(path).map_err(&failed)?;
    while file.read(&mut buffer).map_err(&failed)? > 0 {}
    tell(begin.elapsed().as_secs_f64())
}

fn ready(args: &BaseArgs, file: &Path) -> Result<(), Failure> {
    let begin = Instant::now();
    let recipe = recipe(args, file)?;
    let base = weights::open(&recipe)?;
    let tuned = Tuned::new(&recipe, base, Compute::default())?;
    tuned.warm()?;
    tell(begin.elapsed().as_secs_f64())?;

    let side = recipe.backbone.plugin.preparation().size;
    let words = tuned.topology.text.context;
    let inputs = Inputs {
        images: Some(Tensor::ones((1, 3, side, side), DType::F32, &Device::Cpu)?),
        tokens: Some(Tensor::ones((1, words), DType::U32, &Device::Cpu)?),
        ..Inputs::default()
    };
    let route = tuned.route(&[Tap::vision(At::Pooled), Tap::text(At::Pooled)])?;
    for _ in 0..2 {
        let begin = Instant::now();
        route.walk(&inputs, &mut Pass::predict())?;
        tell(begin.elapsed().as_secs_f64())?;
    }
    Ok(())
}

/// The most memory that this process ever had resident, mapped files included.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Drops a file from the system's memory; whether it can be asked to.
#[cfg(target_os = "linux")]
fn forget(path: &Path) -> bool {
    use rustix::fs::{Advice, fadvise};
    File::open(path).is_ok_and(|file| fadvise(&file, 0, None, Advice::DontNeed).is_ok())
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &Path) -> bool {
    false
}

fn summary(cache: &'static str, all: &[Turn], size: u64) -> Turns {
    let of = |f: &dyn Fn(&Turn) -> f64| Spread::of(all.iter().map(f));
    let bytes = |line: &Line| line.peak_bytes.map_or(f64::NAN, |bytes| bytes as f64);
    Turns {
        cache,
        seconds_to_read: of(&|t| t.read.seconds),
        seconds_to_ready: of(&|t| t.ready.seconds),
        ready_over_read: of(&|t| t.ready.seconds / t.read.seconds),
        seconds_from_start_to_ready: of(&|t| t.start),
        seconds_of_first_pass: of(&|t| t.first_pass.seconds),
        seconds_of_second_pass: of(&|t| t.second_pass.seconds),
        peak_bytes_at_ready: of(&|t| bytes(&t.ready)),
        peak_bytes_after_pass: of(&|t| bytes(&t.first_pass)),
        peak_over_size: of(&|t| bytes(&t.first_pass) / size as f64),
    }
}

fn show(report: &Report) -> Result<(), Failure> {
    let giga = |bytes: f64| bytes / 1e9;
    print(&format!(
        "{}: {} values, a file of {:.3} GB, {:.3} GB in {}; {} threads, median (least to most) of {}",
        report.preset,
        report.values,
        giga(report.file_bytes as f64),
        giga(report.size_bytes as f64),
        report.precision.name(),
        report.threads,
        report.repeats,
    ))?;
    for turns in &report.turns {
        let line = |what: &str, unit: &str, s: Spread, scale: f64| {
            print(&format!(
                "{:5} {what:28} {:8.3} {unit:2} ({:.3} to {:.3})",
                turns.cache,
                s.median * scale,
                s.least * scale,
                s.most * scale
            ))
        };
        line("to read the file once", "s", turns.seconds_to_read, 1.)?;
        line("from opening to ready", "s", turns.seconds_to_ready, 1.)?;
        line("ready over read", "x", turns.ready_over_read, 1.)?;
        line(
            "from start to ready",
            "s",
            turns.seconds_from_start_to_ready,
            1.,
        )?;
        line("first pass", "s", turns.seconds_of_first_pass, 1.)?;
        line("second pass", "s", turns.seconds_of_second_pass, 1.)?;
        line(
            "peak memory at ready",
            "GB",
            turns.peak_bytes_at_ready,
            1e-9,
        )?;
        line(
            "peak memory after a pass",
            "GB",
            turns.peak_bytes_after_pass,
            1e-9,
        )?;
        line("peak over size", "x", turns.peak_over_size, 1.)?;
    }
    Ok(())
}
