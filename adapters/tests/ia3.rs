//! IA3 against scaled weights, wherever it can act.

mod whole;

use twinspan_adapters::ia3::Ia3;
use twinspan_sdk::site::{Projection, Sites, Tower};
use twinspan_sdk::testkit::Look;
use whole::*;

const ENDS: [Look; 4] = [
    Look::VisionFinal,
    Look::VisionPooled,
    Look::TextFinal,
    Look::TextPooled,
];

fn on(projections: &[Projection]) -> Ia3 {
    Ia3 {
        sites: Sites {
            projections: projections.to_vec(),
            ..Default::default()
        },
    }
}

#[test]
fn it_keeps_the_laws() {
    keeps_the_laws(Ia3::default(), &[]);
    keeps_the_laws(on(&[Projection::Patch, Projection::Token]), &[]);
}

#[test]
fn by_default_it_has_a_scale_for_key_value_and_down() {
    let model = model(Ia3::default(), &ENDS).unwrap();
    let block = ["key", "value", "down"].map(|p| format!("ia3.text.blocks.2.{p}.scale"));
    for (name, width) in block.iter().zip([8, 8, 16]) {
        let scale = trained(&model, name);
        assert_eq!(scale.to_vec1::<f64>().unwrap(), vec![1.0; width], "{name}");
    }
    // Two towers of three blocks.
    assert_eq!(model.overlay.count("ia3"), 2 * 3 * (8 + 8 + 16));
}

#[test]
fn forward_is_that_of_scaled_weights() {
    use Projection::*;
    let chosen = [Token, Patch, Query, Key, Value, Up, Down, Joint];
    let with = model(on(&chosen), &ENDS).unwrap();
    shake(&with);
    let mut weights = frozen(&with);
    for p in with.topology.projections() {
        if !chosen.contains(&p.projection) {
            continue;
        }
        let scale = trained(&with, &format!("ia3.{}.scale", p.name));
        let weight = weights.get_mut(&format!("{}.weight", p.name)).unwrap();
        let beside = match p.projection {
            // A table is [in, out], every other weight [out, ..]; `down` has its columns scaled.
            Token | Down => scale.unsqueeze(0),
            Patch => scale.reshape((p.output, 1, 1, 1)),
            _ => scale.unsqueeze(1),
        };
        *weight = weight.broadcast_mul(&beside.unwrap()).unwrap();
        if let Some(bias) = weights.get_mut(&format!("{}.bias", p.name))
            && p.projection != Down
        {
            *bias = (&*bias * &scale).unwrap();
        }
    }
    let plain = over(weights, &ENDS);
    let bare = over(frozen(&with), &ENDS);
    assert!(apart(&features(&with), &features(&bare)) > 1e-2);
    assert!(apart(&features(&with), &features(&plain)) < 1e-12);
}

#[test]
fn sites_restrict_it() {
    let text = Ia3 {
        sites: Sites {
            towers: vec![Tower::Text],
            blocks: vec![1],
            ..Default::default()
        },
    };
    let model = model(text, &ENDS).unwrap();
    let names = model.overlay.trained.keys();
    let own: Vec<&String> = names.filter(|name| name.starts_with("ia3.")).collect();
    assert_eq!(
        own,
        [
            "ia3.text.blocks.1.down.scale",
            "ia3.text.blocks.1.key.scale",
            "ia3.text.blocks.1.value.scale",
        ]
    );
}
