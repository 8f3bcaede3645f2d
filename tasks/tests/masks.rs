//! Masks from files and polygons, as users meet them.

use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat};
use serde::Deserialize;
use twinspan_tasks::mask::Mask;

fn saved(folder: &Path, name: &str, pixels: impl Into<DynamicImage>) -> PathBuf {
    let path = folder.join(name);
    let pixels: DynamicImage = pixels.into();
    pixels.save(&path).unwrap();
    path
}

fn refusal(folder: &Path, path: &Path, size: (u32, u32)) -> String {
    let said = Mask::open(path, size).unwrap_err().to_string();
    said.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn everything_but_zero_is_inside() {
    let folder = tempfile::tempdir().unwrap();
    let soft = image::GrayImage::from_raw(4, 1, vec![0, 1, 127, 255]).unwrap();
    let mask = Mask::open(saved(folder.path(), "soft.png", soft), (4, 1)).unwrap();
    assert_eq!(mask.values, [0, 255, 255, 255]);
    let faint = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 1, vec![0, 1]).unwrap();
    let mask = Mask::open(saved(folder.path(), "faint.png", faint), (2, 1)).unwrap();
    assert_eq!(mask.values, [0, 255]);
    let colour = image::RgbaImage::from_raw(3, 1, vec![0, 0, 0, 255, 0, 0, 9, 255, 0, 0, 9, 0]);
    let mask = Mask::open(saved(folder.path(), "colour.png", colour.unwrap()), (3, 1)).unwrap();
    assert_eq!(mask.inside(), [false, true, false]);
}

#[test]
fn an_empty_mask_is_a_mask() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), "empty.png", image::GrayImage::new(3, 2));
    assert_eq!(Mask::open(path, (3, 2)).unwrap().area(), 0);
}

#[test]
fn another_size_than_the_picture_s_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = saved(folder.path(), "mask.png", image::GrayImage::new(3, 2));
    assert_eq!(
        refusal(folder.path(), &path, (30, 20)),
        "mask.png: the mask has 3 x 2 pixels, its picture has 30 x 20"
    );
    assert_eq!(
        refusal(folder.path(), &path, (2, 3)),
        "mask.png: the mask has 3 x 2 pixels, its picture has 2 x 3 (the two sides are swapped: draw the mask on the picture as its EXIF orientation turns it)"
    );
}

#[test]
fn a_jpeg_is_no_mask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.jpg");
    let grey = DynamicImage::from(image::GrayImage::new(3, 2));
    grey.save_with_format(&path, ImageFormat::Jpeg).unwrap();
    assert_eq!(
        refusal(folder.path(), &path, (3, 2)),
        "mask.jpg: is a mask in a format whose compression changes pixels; save it as PNG"
    );
}

#[derive(Deserialize)]
struct Drawn {
    width: u32,
    height: u32,
    polygons: Vec<Vec<f64>>,
    runs: Vec<usize>,
}

/// The pixels that run lengths down the columns stand for, row by row.
fn unrolled(drawn: &Drawn) -> Vec<bool> {
    let inside = [false, true].into_iter().cycle();
    let runs = drawn.runs.iter().zip(inside);
    let columns: Vec<bool> = runs
        .flat_map(|(&run, inside)| std::iter::repeat_n(inside, run))
        .collect();
    let (width, height) = (drawn.width as usize, drawn.height as usize);
    let places = (0..height).flat_map(|y| (0..width).map(move |x| x * height + y));
    places.map(|place| columns[place]).collect()
}

#[test]
fn polygons_cover_the_pixels_that_coco_s_tools_give() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/polygons.json");
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<Drawn> = serde_json::from_str(&text).unwrap();
    for (index, drawn) in cases.iter().enumerate() {
        let size = (drawn.width, drawn.height);
        let ours = Mask::from_polygons(Path::new("a.jpg"), &drawn.polygons, size).unwrap();
        assert!(ours.inside() == unrolled(drawn), "case {index}");
    }
}

/// The outlines of a real picture: pixels covered against COCO's own `area`.
#[test]
fn real_outlines_cover_their_published_area() {
    let shared = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/coco/cats_39769/coco_annotations.txt"
    );
    let Ok(text) = std::fs::read_to_string(shared) else {
        println!("skipped: there is no {shared}");
        return;
    };
    #[derive(Deserialize)]
    struct Annotation {
        segmentation: Vec<Vec<f64>>,
        area: f64,
    }
    let annotations: Vec<Annotation> = serde_json::from_str(&text).unwrap();
    for annotation in annotations {
        let polygons = &annotation.segmentation;
        let mask = Mask::from_polygons(Path::new("cats.png"), polygons, (640, 480)).unwrap();
        let off = mask.area() as f64 / annotation.area - 1.0;
        println!("{} pixels, {} published", mask.area(), annotation.area);
        assert!(off.abs() < 0.01, "{off}");
    }
}
