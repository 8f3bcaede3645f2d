//! Adapters in one line: the grammar, the way back, and what is said to a slip of the pen.

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use twinspan_sdk::adapter::{Adapter, Idle, Installed, Slot, Want};
use twinspan_sdk::expression::{self, Term};
use twinspan_sdk::hooks::Hooks;
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::site::{Branch, Projection, Sites, Tower};
use twinspan_sdk::{Result, register};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Low {
    rank: usize,
    strength: f64,
    words: Vec<String>,
    kind: String,
    sites: Sites,
}

impl Default for Low {
    fn default() -> Self {
        Self {
            rank: 8,
            strength: 1.0,
            words: Vec::new(),
            kind: "plain".into(),
            sites: Sites::default(),
        }
    }
}

impl Plugin for Low {
    const NAME: &'static str = "low-rank";
    const ABOUT: &'static str = "for tests";
    const OPTIONS: &'static [Opt] = &[Opt::sites("everywhere")];
}

impl Adapter for Low {
    fn wants(&self) -> Vec<Want> {
        Vec::new()
    }

    fn install(&self, _: &[Slot], _: &mut Params, _: &mut Hooks) -> Result<Installed> {
        Ok(Box::new(Idle))
    }
}

register!(adapter: Low);

fn read(text: &str) -> Vec<Low> {
    let adapters = expression::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let options = adapters.iter().map(|a| Low::from_options(&a.options));
    options.map(|low| low.unwrap()).collect()
}

#[test]
fn every_form_reads_as_its_recipe_would() {
    assert_eq!(read(" "), []);
    assert_eq!(read("low-rank"), [Low::default()]);
    let [low, two] = &read(
        r#" low-rank [ rank = 4, strength=0.5, words=["a, b", 'c]'], kind="a \" b" ] @ text.blocks=0,6..8.last=4.query,value+low-rank[kind=plainer]@mlp"#
            .replace("@ ", "@")
            .as_str(),
    )[..] else {
        panic!("two terms")
    };
    assert_eq!((low.rank, low.strength), (4, 0.5));
    assert_eq!(low.words, ["a, b", "c]"]);
    assert_eq!(low.kind, "a \" b");
    let sites = Sites {
        towers: vec![Tower::Text],
        blocks: vec![0, 6, 7, 8],
        last: 4,
        projections: vec![Projection::Query, Projection::Value],
        branches: vec![],
    };
    assert_eq!(low.sites, sites);
    assert_eq!(two.kind, "plainer");
    assert_eq!(two.sites.branches, [Branch::Mlp]);
}

#[test]
fn what_is_at_its_default_is_left_out() {
    let text =
        "low-rank + low-rank[kind=other, rank=2]@vision,text.blocks=0,2,5..9.last=2.query,mlp";
    let adapters = expression::parse(text).unwrap();
    assert_eq!(expression::write(&adapters), text);
}

#[test]
fn errors_name_the_column_and_the_choices() {
    let said = |text: &str| match expression::parse(text) {
        Err(error) => {
            assert!(error.is_wrong_use());
            error.to_string()
        }
        Ok(_) => panic!("`{text}` is read"),
    };
    let all = [
        "low-rank + low-rnak",
        "low-rank + low-rank[rnak=8]",
        "low-rank[rank]",
        "low-rank[rank=8",
        "low-rank[rank=]",
        "low-rank[kind=two words]",
        "low-rank[rank=8, rank=9]",
        "low-rank@txt",
        "low-rank@text.blocks=x",
        "low-rank@text.blocks=3..1",
        "low-rank@text..query",
        "low-rank[sites={}]@text",
        "low-rank, low-rank",
        "+ low-rank",
        "low-rank +",
        "ünd",
    ];
    let said: Vec<String> = all.iter().map(|text| said(text)).collect();
    insta::assert_snapshot!(said.join("\n"), @"
    `low-rank + low-rnak`, column 12: there is no adapter `low-rnak` (did you mean `low-rank`?); there are: low-rank
    `low-rank + low-rank[rnak=8]`, column 12: adapter `low-rank`: unknown field `rnak`, expected one of `rank`, `strength`, `words`, `kind`, `sites`
    `low-rank[rank]`, column 14: write KEY=VALUE, as in rank=8; found `]`
    `low-rank[rank=8`, column 15: a value does not end: a `]` or a quote is missing
    `low-rank[rank=]`, column 15: a value is missing
    `low-rank[kind=two words]`, column 15: `two words` is no TOML value; write text with spaces or signs in quotes
    `low-rank[rank=8, rank=9]`, column 18: `rank` is given twice
    `low-rank@txt`, column 10: expected a site, found `txt` (did you mean `text`?); there are: vision, text, blocks=FIRST..LAST, last=COUNT, token, patch, query, key, value, output, up, down, conv1, conv2, conv3, conv4, shortcut, connect, joint, attention, mlp, convolution
    `low-rank@text.blocks=x`, column 22: expected a number, as in blocks=6..11 or last=4
    `low-rank@text.blocks=3..1`, column 22: 3..1 is no range of blocks: write the first and the last
    `low-rank@text..query`, column 15: expected a site, found `.`; there are: vision, text, blocks=FIRST..LAST, last=COUNT, token, patch, query, key, value, output, up, down, conv1, conv2, conv3, conv4, shortcut, connect, joint, attention, mlp, convolution
    `low-rank[sites={}]@text`, column 19: `@` names sites, which are given in brackets already
    `low-rank, low-rank`, column 9: expected `[`, `@`, `+` or the end, found `,`
    `+ low-rank`, column 1: expected the name of an adapter, found `+`
    `low-rank +`, column 11: expected the name of an adapter, found the end
    `ünd`, column 1: expected the name of an adapter, found `ü`
    ");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[\\x00-\\x7f]{0,6}".prop_map(Value::from),
        "[a-z-]{1,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("\\PC{0,4}", inner, 0..4)
                .prop_map(|map| Value::Table(map.into_iter().collect())),
        ]
    })
}

fn some_of<T: Copy + std::fmt::Debug>(all: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop::collection::vec(0..all.len(), 0..4)
        .prop_map(|places| places.into_iter().map(|i| all[i]).collect())
}

fn sites() -> impl Strategy<Value = Sites> {
    let blocks = prop::collection::vec(0..12usize, 0..6);
    (
        some_of(&Tower::BOTH),
        blocks,
        0..12usize,
        some_of(Projection::ALL),
        some_of(Branch::ALL),
    )
        .prop_map(|(towers, blocks, last, projections, branches)| Sites {
            towers,
            blocks,
            last,
            projections,
            branches,
        })
}

proptest! {
    #[test]
    fn terms_of_any_options_come_back(
        options in prop::collection::btree_map("[a-z][a-z_]{0,6}", value(), 0..5),
        more in prop::collection::btree_map("[a-z][a-z_]{0,6}", value(), 0..2),
    ) {
        let term = |name: &str, options: std::collections::BTreeMap<String, Value>| Term {
            name: name.into(),
            options: options.into_iter().filter(|(k, _)| k != "sites").collect::<Table>(),
        };
        let terms = [term("one", options), term("two-2", more)];
        let text = format!("{} + {}", terms[0], terms[1]);
        prop_assert_eq!(Term::parse_all(&text).unwrap(), terms, "{}", text);
    }

    #[test]
    fn adapters_come_back(rank in 0..99usize, strength in any::<f64>(), kind in "\\PC{0,8}", sites in sites()) {
        prop_assume!(!strength.is_nan());
        let low = Low { rank, strength, kind, sites, ..Low::default() };
        let written = expression::write(&[twinspan_sdk::registry::Configured::<dyn Adapter>::of(low.clone()).unwrap()]);
        prop_assert_eq!(read(&written), [low], "{}", written);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        let _ = expression::parse(&text);
    }

    #[test]
    fn no_near_miss_panics(text in "(low-rank|[\\[\\]@+.,=\"'{} ]|text|blocks|[0-9]|rank){0,12}") {
        let _ = expression::parse(&text);
    }
}
