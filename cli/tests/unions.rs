//! Methods together: the laws of a seeded sample of pairs and triples of adapters, with their
//! default options. All pairs: `cargo run --release -p twinspan-examples --example unions`.

use std::collections::BTreeSet;

use twinspan as _;
use twinspan::sdk::adapter::Adapter;
use twinspan::sdk::backbone::Backbone;
use twinspan::sdk::random;
use twinspan::sdk::registry::{self, AdapterEntry, BackboneEntry, Configured};
use twinspan::sdk::testkit::Toy;
use twinspan::sdk::testkit::laws::{Law, Outcome, of_union, table};

const SEED: u64 = 5;

/// So many different sets of `size` linked adapters.
fn sample(count: usize, size: usize) -> BTreeSet<Vec<&'static str>> {
    let names = registry::names::<AdapterEntry>().unwrap();
    let mut sets = BTreeSet::new();
    for draw in 0..4096 {
        if sets.len() == count {
            break;
        }
        let place = |i: u64| random::mix(SEED, draw * 8 + i) as usize % names.len();
        let set: BTreeSet<&str> = (0..size as u64).map(|i| names[place(i)]).collect();
        if set.len() == size {
            sets.insert(set.into_iter().collect());
        }
    }
    sets
}

fn adapters(names: &[&str]) -> Vec<Configured<dyn Adapter>> {
    let made = |name: &&str| registry::configured::<AdapterEntry>(name, toml::Table::new());
    names.iter().map(|name| made(name).unwrap()).collect()
}

/// The laws of every set hold, on a backbone; gives the contradictions, with the error of each.
fn refused(sets: &BTreeSet<Vec<&'static str>>, backbone: &Configured<dyn Backbone>) -> String {
    let verdicts: Vec<_> = sets
        .iter()
        .flat_map(|names| of_union(&adapters(names), backbone))
        .collect();
    println!("{}", table(&verdicts));
    let broken = verdicts
        .iter()
        .filter(|v| matches!(v.outcome, Outcome::Broken(_)));
    let broken: Vec<_> = broken.cloned().collect();
    assert!(broken.is_empty(), "{}", table(&broken));
    let saved = verdicts.iter().filter(|v| v.law == Law::Saved);
    let refused = saved.filter_map(|v| match &v.outcome {
        Outcome::Skipped(why) => Some(format!("{}: {why}", v.plugin)),
        _ => None,
    });
    refused.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_laws_hold_for_adapters_together() {
    let toy = Configured::<dyn Backbone>::of(Toy::default()).unwrap();
    insta::assert_snapshot!(refused(&sample(24, 2), &toy), @"
    adapter + conv-adapter: `conv-adapter` matches no site: it asks for projections [conv2] at towers [vision]; the backbone offers patch, query, key, value, output, up, down, joint
    ");
    insta::assert_snapshot!(refused(&sample(16, 3), &toy), @"
    bridger + compacter + tip-adapter: tip-adapter: with `bridger` a picture's vector depends on the sentence; keys are of pictures alone
    ");
}

#[test]
fn the_laws_hold_for_adapters_together_on_a_real_backbone() {
    let pocket = registry::configured::<BackboneEntry>("pocket", toml::Table::new()).unwrap();
    insta::assert_snapshot!(refused(&sample(4, 3), &pocket), @"");
}
