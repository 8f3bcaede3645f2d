//! Run lengths against COCO's own files, where they are at hand.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use twinspan_tasks::mask::Mask;
use twinspan_tasks::run_length::RunLengths;

/// A folder of COCO's files, or `None` with a word about it.
fn coco(name: &str) -> Option<PathBuf> {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/coco");
    let path = PathBuf::from(shared).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: there is no {}", path.display());
    None
}

fn read<T: for<'de> Deserialize<'de>>(path: PathBuf) -> T {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn coco_s_packed_results_unpack_draw_and_pack_to_the_letter() {
    #[derive(Deserialize)]
    struct Segment {
        image_id: u64,
        segmentation: Packed,
    }
    #[derive(Deserialize)]
    struct Packed {
        size: [u32; 2],
        counts: String,
    }
    #[derive(Deserialize)]
    struct Boxed {
        image_id: u64,
        bbox: [f64; 4],
    }
    let Some(folder) = coco("cocoapi_results") else {
        return;
    };
    let segments: Vec<Segment> = read(folder.join("instances_val2014_fakesegm100_results.json"));
    let boxes: Vec<Boxed> = read(folder.join("instances_val2014_fakebbox100_results.json"));
    assert_eq!(segments.len(), boxes.len());
    let mut near = 0;
    for (segment, boxed) in segments.iter().zip(&boxes) {
        let [height, width] = segment.segmentation.size;
        let packed = &segment.segmentation.counts;
        let runs = RunLengths::unpack(height, width, packed).unwrap();
        assert_eq!(&runs.packed(), packed, "image {}", segment.image_id);
        let mask = runs.mask();
        assert_eq!(mask.area() as u64, runs.area());
        assert_eq!(RunLengths::of(&mask).unwrap(), runs);

        assert_eq!(segment.image_id, boxed.image_id);
        let [left, top, width, height] = runs.bounds().map(f64::from);
        let [x, y, w, h] = boxed.bbox;
        let off = [
            left - x,
            top - y,
            left + width - x - w,
            top + height - y - h,
        ];
        near += usize::from(off.iter().all(|off| off.abs() <= 2.0));
    }
    println!("{near} of {} boxes agree to two pixels", segments.len());
    // The boxes are those of objects that the fake masks were made from, not of the masks.
    assert!(near * 100 >= segments.len() * 95);
}

#[test]
fn coco_s_panoptic_masks_have_their_areas_and_boxes() {
    #[derive(Deserialize)]
    struct Panoptic {
        annotations: Vec<Picture>,
    }
    #[derive(Deserialize)]
    struct Picture {
        file_name: String,
        segments_info: Vec<Segment>,
    }
    #[derive(Deserialize)]
    struct Segment {
        id: u32,
        area: u64,
        bbox: [u32; 4],
        iscrowd: u8,
    }
    let Some(folder) = coco("annotations") else {
        return;
    };
    let panoptic: Panoptic = read(folder.join("panoptic_val2017.json"));
    let (mut segments, mut crowds) = (0, 0);
    for picture in panoptic.annotations {
        let path = folder.join("panoptic_val2017").join(&picture.file_name);
        if !path.exists() {
            continue;
        }
        let colours = image::open(path).unwrap().into_rgb8();
        for segment in picture.segments_info {
            let [r, g, b, _] = segment.id.to_le_bytes();
            let values = colours.pixels().map(|p| 255 * u8::from(p.0 == [r, g, b]));
            let mask = Mask {
                width: colours.width(),
                height: colours.height(),
                values: values.collect(),
            };
            let runs = RunLengths::of(&mask).unwrap();
            let said = format!("{} {}", picture.file_name, segment.id);
            assert_eq!(runs.area(), segment.area, "{said}");
            assert_eq!(runs.bounds(), segment.bbox, "{said}");
            let again = RunLengths::unpack(runs.height(), runs.width(), &runs.packed()).unwrap();
            assert_eq!(again.mask(), mask, "{said}");
            segments += 1;
            crowds += usize::from(segment.iscrowd);
        }
    }
    println!("{segments} segments, {crowds} of them crowds");
    assert!(segments > 100 && crowds > 0);
}

#[test]
fn coco_s_polygons_have_their_areas_as_run_lengths() {
    #[derive(Deserialize)]
    struct Annotation {
        id: u64,
        segmentation: Vec<Vec<f64>>,
        area: f64,
        bbox: [f64; 4],
    }
    let Some(folder) = coco("cats_39769") else {
        return;
    };
    let picture = folder.join("000000039769.png");
    let annotations: Vec<Annotation> = read(folder.join("coco_annotations.txt"));
    assert!(!annotations.is_empty());
    for annotation in annotations {
        let mask = Mask::from_polygons(&picture, &annotation.segmentation, (640, 480)).unwrap();
        let runs = RunLengths::of(&mask).unwrap();
        assert_eq!(runs.mask(), mask);
        let (drawn, said) = (runs.area() as f64, annotation.area);
        assert!(
            (drawn - said).abs() <= 0.03 * said + 10.0,
            "annotation {}: {drawn} pixels, {said} by its corners",
            annotation.id
        );
        let bounds = runs.bounds().map(f64::from);
        for (bound, said) in bounds.iter().zip(annotation.bbox) {
            assert!((bound - said).abs() <= 2.0, "annotation {}", annotation.id);
        }
    }
}
