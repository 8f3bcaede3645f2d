//! Pictures as users bring them: every kind that is read, every way a file is
//! broken, and what is written.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use twinspan_tasks::picture::{self, PictureError};

/// Smooth, so that JPEG keeps it, and different in every corner.
fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([
            (255 * x / width.max(1)) as u8,
            (255 * y / height.max(1)) as u8,
            60,
        ])
    })
}

fn encoded(pixels: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels: DynamicImage = pixels.into();
    pixels
        .write_to(&mut Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// What opening says, with the folder's own name left out.
    fn refusal(&self, name: &str, bytes: &[u8]) -> String {
        let error = picture::open(self.file(name, bytes)).unwrap_err();
        let said = error.to_string();
        assert!(!said.contains('\n'), "{said}");
        said.replace(&format!("{}/", self.0.path().display()), "")
    }
}

const FORMATS: [ImageFormat; 5] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::WebP,
];

#[test]
fn every_format_is_recognised_by_content() {
    let folder = Folder::new();
    for format in FORMATS {
        let path = folder.file("picture.txt", &encoded(scene(40, 30), format));
        let opened = picture::open(&path).unwrap();
        assert_eq!(opened.dimensions(), (40, 30), "{format:?}");
        // GIF has 256 colours, JPEG compresses.
        let wanted = scene(40, 30).into_raw();
        let pairs = opened.as_raw().iter().zip(&wanted);
        let sum: u32 = pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        let mean = f64::from(sum) / wanted.len() as f64;
        assert!(mean < 8.0, "{format:?}: {mean} grey levels off");
    }
}

#[test]
fn a_cut_file_is_refused_in_every_format() {
    let folder = Folder::new();
    for format in FORMATS {
        let whole = encoded(scene(120, 90), format);
        for part in 1..40 {
            let cut = &whole[..whole.len() * part / 40];
            let opened = picture::open(folder.file("cut", cut));
            assert!(opened.is_err(), "{format:?} cut to {part}/40");
        }
    }
}

#[test]
fn a_jpeg_that_lacks_only_its_last_byte_is_refused() {
    let folder = Folder::new();
    let whole = encoded(scene(64, 48), ImageFormat::Jpeg);
    assert_eq!(
        folder.refusal("a.jpg", &whole[..whole.len() - 1]),
        "a.jpg: the file ends before its picture does (an interrupted copy or download?); fetch it again"
    );
    // A download that reserved its room before it broke off.
    let mut padded = whole[..whole.len() / 2].to_vec();
    padded.resize(whole.len(), 0);
    assert!(picture::open(folder.file("a.jpg", &padded)).is_err());
    // What follows the end (a phone's second picture, say) does not matter.
    let mut longer = whole;
    longer.extend([0; 100]);
    assert!(picture::open(folder.file("a.jpg", &longer)).is_ok());
}

#[test]
fn refusals_say_what_is_wrong_and_what_is_possible() {
    let folder = Folder::new();
    assert_eq!(
        folder.refusal("notes.png", b"these are notes\n"),
        "notes.png: is not a picture; PNG, JPEG, BMP, GIF and WebP are read, recognised by their content and not by the file's name"
    );
    assert_eq!(
        folder.refusal("nothing.png", b""),
        "nothing.png: is empty; fetch it again"
    );
    assert_eq!(
        folder.refusal("scan.tif", b"II*\0\x08\0\0\0\0\0\0\0\0\0\0\0"),
        "scan.tif: is a picture of the kind TIFF, which is not read; convert it to PNG, JPEG, BMP, GIF or WebP"
    );
    let png = encoded(scene(30, 30), ImageFormat::Png);
    assert_eq!(
        folder.refusal("cut.png", &png[..png.len() / 2]),
        "cut.png: the file ends before its picture does (an interrupted copy or download?); fetch it again"
    );
    let mut flipped = png;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xFF;
    let said = folder.refusal("flipped.png", &flipped);
    assert!(
        said.starts_with("flipped.png: is damaged, it cannot be decoded as PNG: "),
        "{said}"
    );
    let missing = folder.0.path().join("none.png");
    assert!(matches!(
        picture::open(missing),
        Err(PictureError::Unreadable { .. })
    ));
    assert!(picture::open(folder.0.path()).is_err(), "a folder");
}

#[test]
fn a_picture_beyond_the_bound_is_refused_by_its_header() {
    let folder = Folder::new();
    // A bitmap whose header promises 40,000 x 40,000 pixels.
    let mut bmp = encoded(scene(2, 2), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&40_000u32.to_le_bytes());
    bmp[22..26].copy_from_slice(&40_000u32.to_le_bytes());
    assert_eq!(
        folder.refusal("huge.bmp", &bmp),
        "huge.bmp: 40000 x 40000 pixels need 4800000000 bytes decoded, more than the 1073741824 allowed; make the picture smaller"
    );
}

/// Puts an EXIF segment with an orientation behind a JPEG's start marker.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut tiff = b"MM\0*\0\0\0\x08".to_vec();
    tiff.extend([0, 1]); // one entry:
    tiff.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0]);
    tiff.extend([0; 4]); // no further directory
    let mut segment = b"Exif\0\0".to_vec();
    segment.extend(tiff);
    let mut turned = jpeg[..2].to_vec();
    turned.extend([0xFF, 0xE1]);
    turned.extend((segment.len() as u16 + 2).to_be_bytes());
    turned.extend(segment);
    turned.extend(&jpeg[2..]);
    turned
}

#[test]
fn exif_orientations_are_applied() {
    let folder = Folder::new();
    let upright = scene(48, 32);
    use image::imageops::{flip_horizontal, rotate90, rotate180, rotate270};
    // What a camera stores, and the orientation that undoes it.
    let stored = [
        (1, upright.clone()),
        (2, flip_horizontal(&upright)),
        (3, rotate180(&upright)),
        (6, rotate270(&upright)),
        (8, rotate90(&upright)),
    ];
    for (orientation, stored) in stored {
        let jpeg = encoded(stored, ImageFormat::Jpeg);
        let path = folder.file("turned.jpg", &with_orientation(&jpeg, orientation));
        let opened = picture::open(path).unwrap();
        assert_eq!(opened.dimensions(), (48, 32), "orientation {orientation}");
        let pairs = opened.as_raw().iter().zip(upright.as_raw());
        let most = pairs.map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most < Some(16), "orientation {orientation}: {most:?}");
    }
}

#[test]
fn grey_alpha_and_sixteen_bits_become_rgb() {
    let folder = Folder::new();
    let open = |pixels: DynamicImage| {
        let path = folder.file("a.png", &encoded(pixels, ImageFormat::Png));
        picture::open(path).unwrap().into_raw()
    };
    let grey = image::GrayImage::from_raw(2, 1, vec![0, 200]).unwrap();
    assert_eq!(open(grey.into()), [0, 0, 0, 200, 200, 200]);
    let deep = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(3, 1, vec![0, 0x8000, 0xFFFF]);
    assert_eq!(
        open(deep.unwrap().into()),
        [0, 0, 0, 128, 128, 128, 255, 255, 255]
    );
    let clear = image::RgbaImage::from_raw(2, 1, vec![9, 8, 7, 0, 9, 8, 7, 255]).unwrap();
    assert_eq!(open(clear.into()), [255, 255, 255, 9, 8, 7]);
    let half = image::GrayAlphaImage::from_raw(1, 1, vec![0, 128]).unwrap();
    assert_eq!(open(half.into()), [127, 127, 127]);
    let deep = vec![0u16, 0, 0, 0x8080];
    let deep = image::ImageBuffer::<image::Rgba<u16>, _>::from_raw(1, 1, deep).unwrap();
    assert_eq!(open(deep.into()), [127, 127, 127]);
}

#[test]
fn the_smallest_and_a_long_picture_are_served() {
    let folder = Folder::new();
    for format in FORMATS {
        let path = folder.file("a", &encoded(scene(1, 1), format));
        assert_eq!(
            picture::open(path).unwrap().dimensions(),
            (1, 1),
            "{format:?}"
        );
        let path = folder.file("b", &encoded(scene(12_000, 40), format));
        let opened = picture::open(path).unwrap();
        assert_eq!(opened.dimensions(), (12_000, 40), "{format:?}");
    }
}

#[test]
fn a_mask_comes_back_as_it_was_saved() {
    let folder = Folder::new();
    let path = folder.0.path().join("mask.PNG");
    let inside: Vec<bool> = (0..12).map(|i| i % 5 == 0).collect();
    picture::save_mask(&path, 4, 3, &inside).unwrap();
    picture::save_mask(&path, 4, 3, &inside).unwrap();
    let mask = twinspan_tasks::mask::Mask::open(&path, (4, 3)).unwrap();
    assert_eq!(mask.inside(), inside);
    assert_eq!(mask.values[5], 255);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let folder = Folder::new();
    let said = |path: &Path, mask: &[bool]| {
        let error = picture::save_mask(path, 2, 2, mask).unwrap_err();
        error
            .to_string()
            .replace(&format!("{}/", folder.0.path().display()), "")
    };
    assert_eq!(
        said(&folder.0.path().join("mask.jpg"), &[true; 4]),
        "mask.jpg: pictures are written as PNG; give it a name that ends in .png"
    );
    assert_eq!(
        said(&folder.0.path().join("mask.png"), &[true; 3]),
        "a mask of 3 values does not fit 2 x 2 pixels"
    );
    let nowhere = said(&folder.0.path().join("no/mask.png"), &[true; 4]);
    assert!(
        nowhere.starts_with("no/mask.png: cannot be written: "),
        "{nowhere}"
    );
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 0);
}

#[test]
fn an_overlay_tints_the_inside_and_draws_its_edge() {
    let grey = RgbImage::from_pixel(5, 5, Rgb([100; 3]));
    let mask: Vec<bool> = (0..25).map(|i| i % 5 < 3 && i / 5 < 3).collect();
    let painted = picture::overlay(&grey, &mask, [200, 0, 0]).unwrap();
    assert_eq!(painted.get_pixel(1, 1).0, [150, 50, 50]);
    assert_eq!(painted.get_pixel(2, 1).0, [200, 0, 0]);
    assert_eq!(painted.get_pixel(3, 1).0, [100; 3]);
    assert!(picture::overlay(&grey, &mask[1..], [0; 3]).is_err());
}

/// Photographs from the wild, most of them JPEG, some grey.
#[test]
fn real_photographs_are_opened() {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/coco");
    let mut count = 0;
    for part in ["val2017", "train2017"] {
        let Ok(entries) = fs::read_dir(Path::new(shared).join(part)) else {
            println!("skipped: there is no {shared}/{part}");
            continue;
        };
        for entry in entries {
            picture::open(entry.unwrap().path()).unwrap();
            count += 1;
        }
    }
    println!("{count} photographs");
}

/// Found by fuzzing: the decoder panics on it.
#[test]
fn a_jpeg_that_its_decoder_gives_up_on_is_refused() {
    let folder = Folder::new();
    let broken = include_bytes!("data/broken.jpg");
    assert_eq!(
        folder.refusal("a.jpg", broken),
        "a.jpg: is damaged, it cannot be decoded as JPEG: Format error decoding Jpeg: its decoder gave up"
    );
}
