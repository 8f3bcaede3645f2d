//! Which existing parameters train, from which values.

mod toy;
mod whole;

use toy::*;
use twinspan_adapters::unfreeze::{Group, Unfreeze};
use twinspan_sdk::parameter::Init;
use twinspan_sdk::pass::Pass;
use twinspan_sdk::plan::plan;
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::testkit::Look;
use twinspan_sdk::topology::{Origin, Topology};
use twinspan_sdk::tuned::Tuned;

const GRID: (usize, usize) = (2, 3);

fn tokens() -> Topology {
    topology(&[token_stream(4, GRID), token_stream(4, GRID)], 5)
}

fn unfreeze(roles: &[Group]) -> Unfreeze {
    Unfreeze {
        roles: roles.to_vec(),
        ..Default::default()
    }
}

fn model(topology: &Topology, adapter_of: Unfreeze) -> twinspan_sdk::Result<Tuned> {
    let recipe = recipe(Toy::new(topology.clone()), adapter(adapter_of), ends());
    tuned(&recipe, base(topology))
}

fn names(model: &Tuned) -> Vec<&str> {
    model.overlay.trained.keys().map(String::as_str).collect()
}

#[test]
fn groups_name_what_trains() {
    let topology = tokens();
    let bias = model(&topology, Unfreeze::default()).unwrap();
    assert_eq!(
        names(&bias),
        [
            "text.blocks.0.query.bias",
            "text.blocks.1.query.bias",
            "text.norm.bias",
            "vision.blocks.0.query.bias",
            "vision.blocks.1.query.bias",
            "vision.norm.bias",
        ]
    );
    let norm = model(&topology, unfreeze(&[Group::Norm])).unwrap();
    assert_eq!(names(&norm).len(), 4);
    let both = model(
        &topology,
        unfreeze(&[Group::Norm, Group::Bias, Group::Norm]),
    )
    .unwrap();
    assert_eq!(names(&both).len(), 8);
    let position = model(&topology, unfreeze(&[Group::Position])).unwrap();
    assert_eq!(names(&position), ["text.positions"]);
}

#[test]
fn all_is_full_fine_tuning() {
    let topology = tokens();
    let recipe = recipe(
        Toy::new(topology.clone()),
        adapter(unfreeze(&[Group::Position, Group::All])),
        ends(),
    );
    let plan = plan(&recipe).unwrap();
    assert_eq!(plan.adapter_parameters, topology.parameter_count());
}

#[test]
fn sites_restrict_it() {
    let model = model(
        &tokens(),
        Unfreeze {
            sites: Sites {
                towers: vec![Tower::Vision],
                blocks: vec![1],
                ..Default::default()
            },
            ..Default::default()
        },
    );
    assert_eq!(names(&model.unwrap()), ["vision.blocks.1.query.bias"]);
}

#[test]
fn it_starts_from_the_base_and_gets_all_gradients() {
    let topology = tokens();
    let all = model(&topology, unfreeze(&[Group::All])).unwrap();
    let without = recipe(Toy::new(topology.clone()), vec![], ends());
    let without = tuned(&without, base(&topology)).unwrap();
    let batch = batch(GRID);
    let got = features(&all, &batch, &mut Pass::predict());
    let expected = features(&without, &batch, &mut Pass::predict());
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(largest_difference(got, expected), 0.0);
    }
    check_gradients(&all, &batch, || Pass::train(1));
}

#[test]
fn what_the_base_lacks_keeps_its_fresh_start() {
    let mut topology = tokens();
    for parameter in &mut topology.vision.parameters {
        if parameter.name == "vision.class" {
            parameter.origin = Origin::Fresh(Init::Constant(0.25));
        }
    }
    let model = model(&topology, unfreeze(&[Group::All])).unwrap();
    let class = model.overlay.trained["vision.class"]
        .var
        .as_detached_tensor();
    assert_eq!(class.to_vec1::<f64>().unwrap(), [0.25; 4]);
    assert!(model.overlay.constants.is_empty());
}

#[test]
fn impossible_roles_are_refused() {
    let empty = model(&tokens(), unfreeze(&[])).err().unwrap();
    assert!(empty.is_wrong_use());
    assert_eq!(
        empty.to_string(),
        "unfreeze: roles is empty; name what trains: bias, norm, position, class, all"
    );
    let maps = topology(&[map_stream(4, GRID), map_stream(4, GRID)], 5);
    let vision = Unfreeze {
        roles: vec![Group::Position],
        sites: Sites {
            towers: vec![Tower::Vision],
            ..Default::default()
        },
    };
    let absent = model(&maps, vision).err().unwrap().to_string();
    assert!(absent.contains("roles [position]"), "{absent}");
    assert!(
        absent.contains("offers weight, bias, norm-weight"),
        "{absent}"
    );
}

/// What trains of the testkit's toy, which has every role, under a task that looks at these.
fn of_whole(adapter: Unfreeze, looks: &[Look]) -> Vec<String> {
    let model = whole::model(adapter, looks).unwrap();
    let trained = model.overlay.trained.iter();
    let own = trained.filter(|(_, t)| t.owner == "unfreeze");
    own.map(|(name, _)| name.clone()).collect()
}

#[test]
fn each_named_choice_trains_what_it_says() {
    let of = |roles: &[Group]| of_whole(unfreeze(roles), &[Look::Logits]);
    let ends = |names: &[String], allowed: &[&str]| {
        let fits = |name: &String| allowed.iter().any(|end| name.ends_with(end));
        assert!(names.iter().all(fits), "{names:?}");
    };
    // Six projections and two norms with a bias in each of six blocks; the batch norm and the
    // first of the vision tower, and the last of both.
    let bias = of(&[Group::Bias]);
    ends(&bias, &[".bias"]);
    assert_eq!(bias.len(), 6 * 8 + 4);
    let norm = of(&[Group::Norm]);
    let kinds = ["norm1", "norm2", "norm", "first", "batch"];
    let of_norms = kinds.map(|kind| [format!("{kind}.weight"), format!("{kind}.bias")]);
    let of_norms = of_norms.concat();
    ends(
        &norm,
        &of_norms.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    assert_eq!(norm.len(), 2 * (6 * 2 + 4));
    assert_eq!(
        of(&[Group::Position]),
        ["text.positions", "vision.positions"]
    );
    assert_eq!(of(&[Group::Class]), ["vision.class"]);
    let all = of(&[Group::All]);
    for name in ["logit_scale", "text.token.weight", "vision.blocks.0.scale1"] {
        assert!(all.iter().any(|n| n == name), "{name}");
    }
}

#[test]
fn the_last_blocks_train_with_what_follows_them() {
    let last = |roles: &[Group], towers: &[Tower], n: usize| Unfreeze {
        roles: roles.to_vec(),
        sites: Sites {
            last: n,
            towers: towers.to_vec(),
            ..Default::default()
        },
    };
    let looks = [Look::Logits];
    let one = of_whole(last(&[Group::All], &[Tower::Text], 1), &looks);
    let (block, behind): (Vec<_>, Vec<_>) = one
        .iter()
        .partition(|name| name.starts_with("text.blocks.2."));
    assert_eq!(
        behind,
        ["text.joint.weight", "text.norm.bias", "text.norm.weight"]
    );
    // Six projections with a bias, two norms, two layer scales.
    assert_eq!(block.len(), 6 * 2 + 2 * 2 + 2);
    let both = of_whole(last(&[Group::All], &[], 2), &looks);
    assert_eq!(both.len(), 2 * (2 * block.len() + behind.len()));
    assert!(both.iter().all(|name| !name.contains("blocks.0")));
    let norms = of_whole(last(&[Group::Norm], &[Tower::Vision], 1), &looks);
    assert_eq!(
        norms,
        [
            "vision.blocks.2.norm1.bias",
            "vision.blocks.2.norm1.weight",
            "vision.blocks.2.norm2.bias",
            "vision.blocks.2.norm2.weight",
            "vision.norm.bias",
            "vision.norm.weight",
        ]
    );
    // As many as there are, and more, is all blocks; the embedding stays.
    let many = of_whole(last(&[Group::All], &[Tower::Text], 9), &looks);
    assert_eq!(many.len(), 3 * block.len() + behind.len());
}

#[test]
fn it_keeps_the_laws() {
    for roles in [
        Group::Bias,
        Group::Norm,
        Group::Position,
        Group::Class,
        Group::All,
    ] {
        whole::keeps_the_laws(unfreeze(&[roles]), &[]);
    }
    let last = Unfreeze {
        roles: vec![Group::All],
        sites: Sites {
            last: 1,
            ..Default::default()
        },
    };
    whole::keeps_the_laws(last, &[]);
}
