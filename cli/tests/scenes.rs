//! That a sentence means one thing, proven from the scene: the sentences are read back here by a
//! grammar of their own, which knows nothing of how they were made.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use twinspan::scenes::language::Kind;
use twinspan::scenes::{SIDE, Scene, Thing, files};

/// Every thing that could be meant by a sentence, as a careless reader understands it: no
/// margins, so that nothing that could be meant is left out.
fn could_be_meant(sentence: &str, things: &[Thing]) -> BTreeSet<usize> {
    let words: Vec<&str> = sentence.split(' ').collect();
    let all: Vec<usize> = (0..things.len()).collect();
    read(&words, things, &all)
}

fn read(words: &[&str], things: &[Thing], all: &[usize]) -> BTreeSet<usize> {
    let Some((first, rest)) = words.split_first() else {
        panic!("a sentence ended too early");
    };
    if *first == "the" {
        return read(rest, things, all);
    }
    // What follows the noun, if something does.
    let relations = [
        ("in front of the", "front"),
        ("nearest to the", "nearest"),
        ("left of the", "left"),
        ("right of the", "right"),
        ("behind the", "behind"),
        ("above the", "above"),
        ("below the", "below"),
        ("in the", "corner"),
        ("from the", "order"),
    ];
    let text = words.join(" ");
    for (phrase, relation) in relations {
        let Some((left, right)) = text.split_once(&format!(" {phrase} ")) else {
            continue;
        };
        let (left, right): (Vec<_>, Vec<_>) =
            (left.split(' ').collect(), right.split(' ').collect());
        return related(&left, relation, &right, things, all);
    }
    simple(words, things, all)
}

fn related(
    left: &[&str],
    relation: &str,
    right: &[&str],
    things: &[Thing],
    all: &[usize],
) -> BTreeSet<usize> {
    let at = |i: usize| things[i].centre;
    if relation == "corner" {
        let found = simple(left, things, all).into_iter();
        return found
            .filter(|i| {
                let (x, y) = at(*i);
                (y < 0.5) == (right[0] == "top") && (x < 0.5) == (right[1] == "left")
            })
            .collect();
    }
    if relation == "order" {
        let ordinals = ["first", "second", "third", "fourth", "fifth", "sixth"];
        let number = ordinals.iter().position(|o| *o == left[0]).unwrap();
        let mut found: Vec<usize> = simple(&left[1..], things, all).into_iter().collect();
        found.sort_by(|a, b| from(right[0], &things[*a]).total_cmp(&from(right[0], &things[*b])));
        return found.get(number).copied().into_iter().collect();
    }
    // The other thing must be one, too.
    let anchors = simple(right, things, all);
    assert_eq!(anchors.len(), 1, "{right:?} could be several things");
    let anchor = *anchors.first().unwrap();
    let found = simple(left, things, all)
        .into_iter()
        .filter(|i| *i != anchor);
    let (x, y) = at(anchor);
    match relation {
        "left" => found.filter(|i| at(*i).0 < x).collect(),
        "right" => found.filter(|i| at(*i).0 > x).collect(),
        "above" => found.filter(|i| at(*i).1 < y).collect(),
        "below" => found.filter(|i| at(*i).1 > y).collect(),
        "nearest" => {
            let apart = |i: &usize| (at(*i).0 - x).hypot(at(*i).1 - y);
            found
                .min_by(|a, b| apart(a).total_cmp(&apart(b)))
                .into_iter()
                .collect()
        }
        // In front is what was drawn later and overlaps.
        "front" => found
            .filter(|i| *i > anchor && overlap(&things[*i], &things[anchor]))
            .collect(),
        "behind" => found
            .filter(|i| *i < anchor && overlap(&things[*i], &things[anchor]))
            .collect(),
        _ => unreachable!("{relation}"),
    }
}

fn overlap(a: &Thing, b: &Thing) -> bool {
    let (dx, dy) = (a.centre.0 - b.centre.0, a.centre.1 - b.centre.1);
    dx.hypot(dy) < a.radius + b.radius
}

fn from(side: &str, thing: &Thing) -> f64 {
    match side {
        "left" => thing.centre.0,
        "right" => -thing.centre.0,
        "top" => thing.centre.1,
        "bottom" => -thing.centre.1,
        other => panic!("from the {other}?"),
    }
}

/// Adjectives and a noun, with a superlative in front or not.
fn simple(words: &[&str], things: &[Thing], all: &[usize]) -> BTreeSet<usize> {
    let last = |found: BTreeSet<usize>, by: &dyn Fn(&Thing) -> f64| -> BTreeSet<usize> {
        let best = found
            .into_iter()
            .min_by(|a, b| by(&things[*a]).total_cmp(&by(&things[*b])));
        best.into_iter().collect()
    };
    let (first, rest) = words.split_first().unwrap();
    match *first {
        "largest" => last(simple(rest, things, all), &|t| -t.radius),
        "smallest" => last(simple(rest, things, all), &|t| t.radius),
        "partly" => {
            assert_eq!(rest[0], "hidden");
            let found = simple(&rest[1..], things, all).into_iter();
            // Anything that something later overlaps at all.
            let later = |i: &usize| (i + 1..things.len()).any(|j| overlap(&things[*i], &things[j]));
            found.filter(later).collect()
        }
        side if side.ends_with("most") => {
            let side = side.trim_end_matches("most");
            last(simple(rest, things, all), &|t| from(side, t))
        }
        adjective if !rest.is_empty() => {
            let found = simple(rest, things, all).into_iter();
            found
                .filter(|i| {
                    let t = &things[*i];
                    [t.size.word(), t.material.word(), t.colour.word()].contains(&adjective)
                })
                .collect()
        }
        noun => all
            .iter()
            .copied()
            .filter(|i| noun == "shape" || things[*i].shape.word() == noun)
            .collect(),
    }
}

fn proven(scene: &Scene) -> Result<(), TestCaseError> {
    let mut said = BTreeMap::new();
    for (thing, saying) in scene.sentences() {
        let text = saying.text();
        let meant = could_be_meant(&text, &scene.things);
        prop_assert_eq!(&meant, &BTreeSet::from([thing]), "{}", text);
        let before = said.insert(text.clone(), thing);
        prop_assert!(before.is_none(), "{} is said twice", text);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Each sentence means the thing it is said of and no other.
    #[test]
    fn a_sentence_means_one_thing(seed in 0u64..1 << 40, number in 0u64..1 << 40) {
        proven(&Scene::new(seed, number, SIDE))?;
    }

    /// It still does where everything stands a little elsewhere: nothing is close.
    #[test]
    fn a_sentence_is_not_a_near_thing(
        seed in 0u64..1 << 40,
        shifts in prop::collection::vec((-0.012f64..0.012, -0.012f64..0.012), 6),
    ) {
        let mut scene = Scene::new(seed, 0, SIDE);
        let sayings = scene.sentences();
        for (thing, shift) in scene.things.iter_mut().zip(shifts) {
            thing.centre.0 += shift.0;
            thing.centre.1 += shift.1;
        }
        for (thing, saying) in sayings {
            if saying.kind() != Kind::Hidden {
                let meant = could_be_meant(&saying.text(), &scene.things);
                prop_assert_eq!(&meant, &BTreeSet::from([thing]), "{}", saying.text());
            }
        }
    }

    /// What is said to be seen is seen: masks do not overlap, and every thing has pixels.
    #[test]
    fn masks_show_what_is_seen(seed in 0u64..1 << 40) {
        let scene = Scene::new(seed, 1, SIDE);
        let masks = scene.masks();
        for pixel in 0..(SIDE * SIDE) as usize {
            prop_assert!(masks.iter().filter(|m| m[pixel]).count() <= 1);
        }
        for (thing, mask) in scene.things.iter().zip(&masks) {
            let area = mask.iter().filter(|m| **m).count() as f64;
            let whole = thing.radius * f64::from(SIDE);
            prop_assert!(area > 0.1 * whole * whole, "{thing:?} has {area} pixels");
            prop_assert_eq!(thing.partly_hidden(), thing.hidden_by.is_some());
        }
    }
}

/// Data sets add relations to what is said of a scene, and nothing else.
#[test]
fn data_sets_relate_things_to_each_other() {
    let mut most = 0;
    for number in 0..200 {
        let scene = Scene::new(6, number, SIDE);
        let (few, all) = (scene.sayings(), scene.sentences());
        assert!(few.iter().all(|saying| all.contains(saying)));
        for thing in 0..scene.things.len() {
            let kinds: Vec<Kind> = few
                .iter()
                .filter(|(of, _)| *of == thing)
                .map(|(_, saying)| saying.kind())
                .collect();
            let different: BTreeSet<&Kind> = kinds.iter().collect();
            assert!(kinds.len() <= 4 && different.len() == kinds.len());
            let added = all.iter().filter(|s| s.0 == thing && !few.contains(s));
            let added: Vec<Kind> = added.map(|(_, saying)| saying.kind()).collect();
            assert!(added.iter().all(|kind| *kind == Kind::Relation));
            assert!(added.len() < scene.things.len());
            most = most.max(added.len());
        }
    }
    assert!(most >= 2, "no thing is related to two others");
}

#[test]
fn every_kind_is_said_often() {
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for number in 0..200 {
        for (_, saying) in Scene::new(5, number, SIDE).sentences() {
            *kinds.entry(saying.kind()).or_default() += 1;
        }
    }
    for kind in Kind::ALL {
        let count = kinds.get(&kind).copied().unwrap_or(0);
        assert!(
            count > 60,
            "{} is said {count} times in 200 scenes",
            kind.name()
        );
    }
}

#[test]
fn train_and_test_share_no_scene() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..2000 {
        let things = format!("{:?}", Scene::new(9, number, SIDE).things);
        if let Some(before) = seen.insert(things, number) {
            panic!("scenes {before} and {number} are one");
        }
    }
    let splits: BTreeSet<_> = (0..20).map(files::split).collect();
    assert_eq!(splits, BTreeSet::from(["train", "val", "test"]));
}

#[test]
fn a_scene_is_a_function_of_its_seed_and_number() {
    let scene = Scene::new(1, 2, SIDE);
    assert_eq!(scene, Scene::new(1, 2, SIDE));
    assert_eq!(scene.picture(), Scene::new(1, 2, SIDE).picture());
    assert_eq!(scene.caption(3), Scene::new(1, 2, SIDE).caption(3));
    assert_ne!(scene.picture(), Scene::new(2, 2, SIDE).picture());
}
