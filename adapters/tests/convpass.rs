//! Convpass against its equation, its start and its refusals.

mod by_hand;

use by_hand::*;
use candle_core::{Device, Tensor};
use twinspan_adapters::convpass::Convpass;
use twinspan_sdk::site::{Sites, Tower};
use twinspan_sdk::testkit::Toy;

#[test]
fn it_keeps_the_laws() {
    assert_eq!(laws(Convpass::default()), ["merged"]);
}

#[test]
fn patches_are_convolved_on_the_grid_and_the_class_token_by_itself() {
    let convpass = Convpass {
        width: 3,
        scale: 0.6,
        ..Default::default()
    };
    is_as_by_hand(convpass, |values, slot, view, y| {
        let name = |part: &str| format!("convpass.{slot}.{part}");
        let narrow = quick_gelu(&linear(values, &name("down"), view.normed));
        let (kernel, bias) = (&values[&name("conv.weight")], &values[&name("conv.bias")]);
        let (b, n, d) = narrow.dims3().unwrap();
        let (rows, columns) = Toy::GRID;
        assert_eq!(n, 1 + rows * columns);
        let map = |first, rows, columns| {
            let tokens = narrow.narrow(1, first, rows * columns).unwrap();
            let map = tokens
                .transpose(1, 2)
                .unwrap()
                .reshape((b, d, rows, columns))
                .unwrap();
            let map = convolved(&map, kernel, bias, 1, (1, 1));
            map.flatten_from(2).unwrap().transpose(1, 2).unwrap()
        };
        let mixed = Tensor::cat(&[map(0, 1, 1), map(1, rows, columns)], 1).unwrap();
        (y + linear(values, &name("up"), &quick_gelu(&mixed)) * 0.6).unwrap()
    });
}

#[test]
fn the_kernel_starts_as_the_identity_at_its_centre() {
    let model = model(Convpass {
        width: 2,
        ..Default::default()
    })
    .unwrap();
    let name = |part: &str| format!("convpass.vision.blocks.2.mlp.{part}");
    let value = |part: &str| model.overlay.trained[&name(part)].var.as_detached_tensor();
    let mut kernel = vec![0.0; 36];
    (kernel[4], kernel[31]) = (1.0, 1.0);
    let kernel = Tensor::from_vec(kernel, (2, 2, 3, 3), &Device::Cpu).unwrap();
    assert_eq!(off(&value("conv.weight"), &kernel), 0.0);
    let down = largest(&value("down.weight"));
    assert!(down > 0.3 && down <= (6.0f64 / 10.0).sqrt());
    assert_eq!(largest(&value("up.weight")), 0.0);
    // d: down 8·2 + 2, convolution 2·2·9 + 2, up 2·8 + 8; at two branches of three blocks.
    assert_eq!(model.overlay.count("convpass"), 6 * (18 + 38 + 24));
}

#[test]
fn text_lies_on_no_grid() {
    let text = Sites {
        towers: vec![Tower::Text],
        ..Default::default()
    };
    assert_eq!(
        refusal(Convpass {
            sites: text,
            ..Default::default()
        }),
        "convpass: text.blocks.0.attention is no branch of tokens on a grid; sites are attention and mlp of a vision transformer"
    );
}

#[test]
fn impossible_options_are_refused() {
    let start = Convpass::default;
    assert_eq!(
        refusal(Convpass {
            width: 0,
            ..start()
        }),
        "convpass: width must be above 0"
    );
    assert_eq!(
        refusal(Convpass {
            scale: f64::NAN,
            ..start()
        }),
        "convpass: scale = NaN must be a number other than 0"
    );
    assert_eq!(
        refusal(Convpass {
            dropout: -0.1,
            ..start()
        }),
        "convpass: dropout = -0.1 must lie in [0, 1)"
    );
}
