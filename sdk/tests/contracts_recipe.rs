//! Recipes: what they fill in, and what they say when something is wrong.

use serde::{Deserialize, Serialize};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::hooks::{Affine, Hooks};
use twinspan_sdk::parameter::{Init, Params};
use twinspan_sdk::plan::plan;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::recipe::Recipe;
use twinspan_sdk::site::{Projection, Sites};
use twinspan_sdk::testkit::{Toy, ToyTask};
use twinspan_sdk::{Result, register};

/// A scale on chosen projections.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Gain {
    start: f64,
    sites: Sites,
}

impl Default for Gain {
    fn default() -> Self {
        Self {
            start: 1.0,
            sites: Sites::default(),
        }
    }
}

impl Plugin for Gain {
    const NAME: &'static str = "gain";
    const ABOUT: &'static str = "a learned scale";
    const OPTIONS: &'static [Opt] = &[
        Opt::new("start", "number", "first value"),
        Opt::sites("all values"),
    ];
}

impl Adapter for Gain {
    fn wants(&self) -> Vec<Want> {
        vec![Want::Projections {
            sites: self.sites.clone(),
            default: &[Projection::Value],
        }]
    }

    fn install(&self, slots: &[Slot], params: &mut Params, hooks: &mut Hooks) -> Result<Installed> {
        for slot in slots.iter().filter_map(Slot::projection) {
            let mut params = params.within(&slot.name);
            let scale =
                Some(params.trained("scale", &[slot.output], Init::Constant(self.start))?);
            let channels = slot.channels();
            hooks.output(
                slot,
                Affine {
                    scale,
                    shift: None,
                    channels,
                },
            );
        }
        Ok(Box::new(Idle))
    }
}

register!(adapter: Gain);
register!(backbone: Toy);
register!(task: ToyTask);

const SMALL: &str = r#"
[backbone]
use = "toy"
[[adapter]]
use = "gain"
sites = { towers = ["text"], blocks = [0, 1] }
[[adapter]]
use = "gain"
start = 2.0
[task]
use = "toy"
"#;

fn parse(text: &str) -> Recipe {
    Recipe::parse(text, "recipe").unwrap()
}

/// The message, which is one line.
fn wrong(text: &str) -> String {
    one_line(Recipe::parse(text, "recipe").err().unwrap())
}

/// The message of a plan that cannot be.
fn unplanned(adapter: &str) -> String {
    let text = format!(
        "[backbone]\nuse=\"toy\"\n[[adapter]]\nuse=\"gain\"\n{adapter}\n[task]\nuse=\"toy\""
    );
    one_line(plan(&parse(&text)).unwrap_err())
}

fn one_line(error: twinspan_sdk::Error) -> String {
    assert!(error.is_wrong_use(), "{error}");
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

/// `SMALL` with one line in place of another.
fn with(old: &str, new: &str) -> String {
    assert!(SMALL.contains(old));
    SMALL.replacen(old, new, 1)
}

#[test]
fn defaults_are_filled_in_and_read_back() {
    let recipe = parse(SMALL);
    assert_eq!(recipe.labels(), ["gain", "gain-2"]);
    let full = recipe.to_toml().unwrap();
    for line in [
        "blocks = 3",
        "weights = \"random:0\"",
        "batch_norm = \"frozen\"",
        "start = 1.0",
        "per_pair = true",
        "epochs = 50",
        "kind = \"constant\"",
    ] {
        assert!(full.contains(line), "{line} in\n{full}");
    }
    let again = parse(&full);
    assert_eq!(again.to_table().unwrap(), recipe.to_table().unwrap());
    assert_eq!(again.to_toml().unwrap(), full);
    assert_eq!(again.train, recipe.train);
    assert_eq!(
        again.adapters[0].options["sites"],
        recipe.adapters[0].options["sites"]
    );
    let (a, b) = (plan(&recipe).unwrap(), plan(&again).unwrap());
    assert_eq!(a, b);
    // Values of two text blocks, and of every block of both towers.
    assert_eq!(
        a.adapters.iter().map(|a| a.parameters).collect::<Vec<_>>(),
        [16, 48]
    );
}

#[test]
fn misspelt_names_come_with_the_choices() {
    let all = [
        wrong(&with("use = \"gain\"", "use = \"gian\"")),
        wrong(&with("use = \"toy\"", "use = \"clip\"")),
        wrong(&with("start = 2.0", "strat = 2.0")),
        wrong(&with("start = 2.0", "start = \"two\"")),
        wrong(&with("towers = [\"text\"]", "towers = [\"txt\"]")),
        wrong(&with("towers = [\"text\"]", "tower = \"text\"")),
        wrong(&with("start = 2.0", "sites = { projections = [\"q\"] }")),
        wrong(&with("[task]", "[taks]")),
        wrong(&with("[task]", "[train]\nsteps = 1\nepoch = 2\n[task]")),
        wrong(&with("[task]", "[train]\noptimizer = \"sgd\"\n[task]")),
        wrong(&with("[task]", "[train.groups.gian]\nrate = 1\n[task]")),
        wrong(&with(
            "[task]\nuse = \"toy\"",
            "[task]\nuse = \"toy\"\nlooks = [\"left\"]",
        )),
    ];
    assert_eq!(all.join("\n"), "\
there is no adapter `gian` (did you mean `gain`?); there are: gain
there is no backbone `clip`; there are: toy
adapter `gain`: unknown field `strat`, expected `start` or `sites`
adapter `gain`: invalid type: string \"two\", expected f64, in `start`
adapter `gain`: unknown variant `txt`, expected `vision` or `text`, in `sites.towers`
adapter `gain`: unknown field `tower`, expected one of `towers`, `blocks`, `last`, `projections`, `branches`, in `sites`
adapter `gain`: unknown variant `q`, expected one of `token`, `patch`, `query`, `key`, `value`, `output`, `up`, `down`, `conv1`, `conv2`, `conv3`, `conv4`, `shortcut`, `connect`, `joint`, in `sites.projections`
recipe: unknown section `taks` (did you mean `task`?); there are: backbone, adapter, task, train
recipe: [train]: unknown field `epoch`, expected one of `steps`, `epochs`, `batch`, `accumulate`, `seed`, `optimizer`, `rate`, `weight_decay`, `betas`, `epsilon`, `clip`, `schedule`, `groups`, `split`, `workers`, `evaluate_split`, `evaluate_every`, `metric`, `patience`, `ema`, `save_every`
recipe: [train]: unknown variant `sgd`, expected `adam` or `adamw`, in `optimizer`
recipe: train.groups names `gian` (did you mean `gain`?); there are: gain, gain-2, head
task `toy`: unknown variant `left`, expected one of `vision-early`, `vision-late`, `vision-final`, `vision-pooled`, `text-final`, `text-pooled`, `logits`, in `looks`");
}

#[test]
fn missing_parts_are_named() {
    let all = [
        wrong("[task]\nuse = \"toy\""),
        wrong("[backbone]\nuse = \"toy\""),
        wrong(&with("[backbone]\nuse = \"toy\"", "[backbone]")),
        wrong(&with("use = \"gain\"\nstart", "start")),
        wrong(&with("[task]\nuse = \"toy\"", "[task]\nuse = 3")),
        wrong("backbone = \"toy\""),
        wrong(
            &with("[[adapter]]\nuse = \"gain\"\nstart = 2.0", "")
                .replace("[[adapter]]", "[adapter]"),
        ),
        wrong(&format!("train = 3\n{SMALL}")),
        wrong("[backbone"),
    ];
    assert_eq!(all.join("\n"), "\
recipe: there is no [backbone]
recipe: there is no [task]
recipe: [backbone] lacks `use = \"NAME\"`; there are: toy
recipe: [[adapter]] lacks `use = \"NAME\"`; there are: gain
recipe: [task] lacks `use = \"NAME\"`; there are: toy
recipe: `backbone` must be a table: write [backbone]
recipe: write [[adapter]], with two brackets: there can be several
recipe: `train` must be a table: write [train]
recipe: not TOML: TOML parse error at line 1, column 10, |, 1 | [backbone, |          ^, unclosed table, expected `]`");
}

#[test]
fn training_options_out_of_range_are_refused() {
    let train = |line: &str| wrong(&with("[task]", &format!("[train]\n{line}\n[task]")));
    let all = [
        train("batch = 0"),
        train("accumulate = 0"),
        train("epsilon = 0.0"),
        train("epochs = 0"),
        train("rate = -1e-4"),
        train("rate = nan"),
        train("clip = inf"),
        train("betas = [0.9, 1.0]"),
        train("groups = { head = { rate = -1.0 } }"),
        train("schedule = { kind = \"step\", at = [1.5], factor = 0.1 }"),
        train("schedule = { kind = \"cosine\", warmup = -0.1 }"),
        train("batch = -1"),
    ];
    assert_eq!(
        all.join("\n"),
        "\
recipe: train.batch must be a number above 0
recipe: train.accumulate must be a number above 0
recipe: train.epsilon must be a number above 0
recipe: train.steps or train.epochs must be above 0
recipe: train.rate must be a number from 0 up
recipe: train.rate must be a number from 0 up
recipe: train.clip must be a number from 0 up
recipe: train.betas must lie in [0, 1)
recipe: train.groups.head.rate must be a number from 0 up
recipe: train.schedule: `at` and `factor` must lie in [0, 1]
recipe: train.schedule: `warmup` and `floor` must lie in [0, 1]
recipe: [train]: invalid value: integer `-1`, expected usize, in `batch`"
    );
}

#[test]
fn sites_that_the_backbone_lacks_are_refused() {
    let all = [
        unplanned("sites = { blocks = [3] }"),
        unplanned("sites = { towers = [\"text\"], blocks = [0, 7] }"),
        unplanned("sites = { projections = [\"conv1\"] }"),
        unplanned("sites = { towers = [\"text\"], projections = [\"patch\"] }"),
        unplanned("sites = { blocks = [0], projections = [\"joint\"] }"),
        unplanned("sites = { branches = [\"mlp\"] }"),
    ];
    assert_eq!(all.join("\n"), "\
`gain` matches no site: it asks for block 3; the backbone offers blocks 0 to 2 of vision, blocks 0 to 2 of text
`gain` matches no site: it asks for block 7; the backbone offers blocks 0 to 2 of text
`gain` matches no site: it asks for projection conv1; the backbone offers token, patch, query, key, value, output, up, down, joint
`gain` matches no site: it asks for projection patch; the backbone offers token, query, key, value, output, up, down, joint
`gain` matches no site: it asks for projections [joint] at blocks [0], projections [joint]; the backbone offers token, patch, query, key, value, output, up, down, joint
adapter `gain`: it acts on no branches: leave `sites.branches` out");
}

#[test]
fn settings_change_a_recipe_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.toml");
    std::fs::write(&path, SMALL).unwrap();
    let open = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::open_with(&path, &settings)
    };
    let recipe = open(&[
        "train.steps=7",
        "adapter.1.start=3.5",
        "backbone.weights=w.safetensors",
        "train.schedule.kind=constant",
    ])
    .unwrap();
    assert_eq!(recipe.train.steps, 7);
    assert_eq!(recipe.adapters[1].options["start"].as_float(), Some(3.5));
    assert_eq!(
        std::path::Path::new(&recipe.weights.weights),
        folder.path().join("w.safetensors")
    );
    let wrong = |setting: &str| one_line(open(&[setting]).err().unwrap());
    let all = [
        wrong("train.steps"),
        wrong("=3"),
        wrong("adapter.start=3"),
        wrong("adapter.5.start=3"),
        wrong("train..rate=3"),
    ]
    .join("\n");
    assert_eq!(
        all,
        "\
--set train.steps: write KEY=VALUE, as in train.steps=100
--set =3: write KEY=VALUE, as in train.steps=100
--set adapter.start=3: `adapter` is a list of 2; write adapter.0.… for its first
--set adapter.5.start=3: `adapter` is a list of 2; write adapter.0.… for its first
--set train..rate=3: write KEY=VALUE, as in train.steps=100"
    );
    let late = wrong("train.stpes=3");
    assert!(
        late.contains("unknown field `stpes`") && late.contains("`steps`"),
        "{late}"
    );
    let missing = Recipe::open(&folder.path().join("none.toml"))
        .err()
        .unwrap();
    assert!(one_line(missing).contains("none.toml: cannot be read: "));
}

#[test]
fn a_path_is_relative_to_the_recipe_and_a_hub_id_to_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, SMALL).unwrap();
    std::fs::create_dir_all(folder.path().join("org/here")).unwrap();
    let weights = |text: &str| {
        let setting = format!("backbone.weights={text}");
        let recipe = Recipe::open_with(&path, &[setting]);
        recipe.map(|recipe| recipe.weights.weights)
    };
    let inside = |path: &str| folder.path().join(path).display().to_string();
    for there in ["org/here", "w.safetensors", "random/w.pt"] {
        assert_eq!(weights(there).unwrap(), inside(there));
    }
    for id in ["org/name", "org/name@v1", "hf-hub:org/here"] {
        assert_eq!(weights(id).unwrap(), id);
    }
    // A folder of that name where the program runs is not the recipe's.
    assert!(std::path::Path::new("src/hub").is_dir());
    assert_eq!(weights("src/hub").unwrap(), "hf-hub:src/hub");
    assert!(weights("clip").unwrap_err().is_wrong_use());
}

#[test]
fn weights_may_be_of_several_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, SMALL).unwrap();
    let open = |settings: &[&str]| {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::open_with(&path, &settings).unwrap()
    };
    let more = "backbone.more_weights=[\"b.safetensors\", \"org/name\"]";
    let recipe = open(&["backbone.weights=a.safetensors", more]);
    let inside = |path: &str| folder.path().join(path).display().to_string();
    assert_eq!(recipe.weights.weights, inside("a.safetensors"));
    assert_eq!(
        recipe.weights.more_weights,
        [inside("b.safetensors"), "org/name".into()]
    );
    let sources = recipe.weights.sources().unwrap();
    let names: Vec<String> = sources.iter().map(|s| s.marked()).collect();
    assert_eq!(
        names,
        [
            inside("a.safetensors"),
            inside("b.safetensors"),
            "hf-hub:org/name".into()
        ]
    );
    let table = recipe.to_table().unwrap();
    let again = Recipe::from_table(table, "again").unwrap();
    assert_eq!(again.weights, recipe.weights);
    // Alone, nothing is written of it.
    let table = open(&[]).to_table().unwrap();
    assert!(
        !table["backbone"]
            .as_table()
            .unwrap()
            .contains_key("more_weights")
    );

    let random = open(&["backbone.weights=random:3", more]);
    assert_eq!(
        twinspan_sdk::weights::open(&random)
            .unwrap_err()
            .to_string(),
        "[backbone]: more_weights stand beside weights from a file; these are `random:3`"
    );
}
