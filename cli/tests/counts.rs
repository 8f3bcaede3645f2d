//! What published comparisons count, and the reading of each that the plugins give the same count
//! for: which options, which sites. Where none does, the nearest.

use twinspan as _;
use twinspan::sdk::expression;
use twinspan::sdk::plan::plan;
use twinspan::sdk::recipe::Recipe;

/// ETRIS on RN101 (arXiv 2307.11545), whose table compares methods in one frame.
const RN101: &str = r#"
[backbone]
use = "clip"
preset = "RN101"
connect = true
input_size = 416
[task]
use = "referring-segmentation"
"#;

/// A row of the paper's table, its count, adapters that may be it, and what that reading is.
type Row = (&'static str, &'static str, &'static str, &'static str);

const ROWS: [Row; 12] = [
    (
        "adapter, reduction 4",
        "2.39M",
        "adapter[reduction=4]@vision.blocks=0..32.conv1,conv2",
        "1x1 bottlenecks behind the first two convolutions of every residual block",
    ),
    (
        "conv adapter",
        "1.20M",
        "adapter[reduction=4]@vision.blocks=0..32.conv2",
        "the same behind the second alone: half of it",
    ),
    (
        "conv adapter",
        "1.20M",
        "conv-adapter[reduction=2]@vision.blocks=0..32",
        "Conv-Adapter as published, around the second convolution, at the nearest reduction",
    ),
    (
        "Compacter",
        "0.19M",
        "compacter[n=16, rank=4, reduction=4]@vision.blocks=0..32.conv1,conv2",
        "where the adapters are and as narrow; one reading of several",
    ),
    (
        "Compacter",
        "0.19M",
        "compacter@vision.blocks=0..32.conv1,conv2",
        "there, with the published n 4, rank 1, reduction 32",
    ),
    (
        "LoRA",
        "0.03M",
        "lora[rank=4]@vision",
        "query and value of the attention pool",
    ),
    (
        "LoRA",
        "0.03M",
        "lora[rank=1]",
        "query and value of both towers",
    ),
    (
        "CoOp, 8 tokens",
        "4.10K",
        "coop[tokens=8]",
        "8 vectors as wide as the text tower",
    ),
    ("bridge", "1.94M", "bridger", "as released: 64 channels"),
    (
        "adapter + bridge",
        "4.33M",
        "adapter[reduction=4]@vision.blocks=0..32.conv1,conv2 + bridger",
        "their sum",
    ),
    (
        "conv adapter + bridge",
        "3.14M",
        "adapter[reduction=4]@vision.blocks=0..32.conv2 + bridger",
        "their sum",
    ),
    (
        "full tuning",
        "120.74M",
        "unfreeze[roles=[\"all\"]]",
        "all that the task reaches, the residual of the dense pool included",
    ),
];

fn count(adapters: &str) -> usize {
    let mut recipe = Recipe::parse(RN101, "rn101").unwrap();
    recipe.adapters = expression::parse(adapters).unwrap();
    plan(&recipe).unwrap().adapter_parameters
}

/// `count` with as many decimals and in the unit of the paper's `like`.
fn rounded(count: usize, like: &str) -> String {
    let (number, unit) = like.split_at(like.len() - 1);
    let decimals = number.split_once('.').map_or(0, |(_, after)| after.len());
    let of = match unit {
        "M" => 1e6,
        "K" => 1e3,
        other => panic!("no unit: {other}"),
    };
    format!("{:.decimals$}{unit}", count as f64 / of)
}

fn row((method, paper, adapters, reading): &Row) -> String {
    let count = count(adapters);
    let ours = rounded(count, paper);
    let verdict = match ours == *paper {
        true => "met".to_string(),
        false => format!("{ours}, not met"),
    };
    let count = grouped(count);
    format!("| {method} | {paper} | `{adapters}` | {count} | {verdict} | {reading} |")
}

/// 1234567 as 1,234,567.
fn grouped(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", grouped(count / 1000), count % 1000),
    }
}

#[test]
fn readings_give_the_counts_of_the_etris_comparison() {
    let rows: Vec<String> = ROWS.iter().map(row).collect();
    insta::assert_snapshot!(rows.join("\n"), @r#"
    | adapter, reduction 4 | 2.39M | `adapter[reduction=4]@vision.blocks=0..32.conv1,conv2` | 2,391,904 | met | 1x1 bottlenecks behind the first two convolutions of every residual block |
    | conv adapter | 1.20M | `adapter[reduction=4]@vision.blocks=0..32.conv2` | 1,195,952 | met | the same behind the second alone: half of it |
    | conv adapter | 1.20M | `conv-adapter[reduction=2]@vision.blocks=0..32` | 1,279,264 | 1.28M, not met | Conv-Adapter as published, around the second convolution, at the nearest reduction |
    | Compacter | 0.19M | `compacter[n=16, rank=4, reduction=4]@vision.blocks=0..32.conv1,conv2` | 186,976 | met | where the adapters are and as narrow; one reading of several |
    | Compacter | 0.19M | `compacter@vision.blocks=0..32.conv1,conv2` | 50,392 | 0.05M, not met | there, with the published n 4, rank 1, reduction 32 |
    | LoRA | 0.03M | `lora[rank=4]@vision` | 32,768 | met | query and value of the attention pool |
    | LoRA | 0.03M | `lora[rank=1]` | 32,768 | met | query and value of both towers |
    | CoOp, 8 tokens | 4.10K | `coop[tokens=8]` | 4,096 | met | 8 vectors as wide as the text tower |
    | bridge | 1.94M | `bridger` | 1,942,080 | met | as released: 64 channels |
    | adapter + bridge | 4.33M | `adapter[reduction=4]@vision.blocks=0..32.conv1,conv2 + bridger` | 4,333,984 | met | their sum |
    | conv adapter + bridge | 3.14M | `adapter[reduction=4]@vision.blocks=0..32.conv2 + bridger` | 3,138,032 | met | their sum |
    | full tuning | 120.74M | `unfreeze[roles=["all"]]` | 120,737,632 | met | all that the task reaches, the residual of the dense pool included |
    "#);
}

#[test]
fn the_readme_shows_these_rows() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    for row in ROWS.iter().map(row) {
        assert!(readme.contains(&row), "README.md lacks: {row}");
    }
}

#[test]
fn a_count_is_rounded_as_the_paper_does() {
    assert_eq!(rounded(2_391_904, "2.39M"), "2.39M");
    assert_eq!(rounded(1_195_952, "1.20M"), "1.20M");
    assert_eq!(rounded(4096, "4.10K"), "4.10K");
    assert_eq!(rounded(32_768, "0.03M"), "0.03M");
    assert_eq!(grouped(1_002_034), "1,002,034");
    assert_eq!(grouped(999), "999");
}
