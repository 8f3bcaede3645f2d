//! Pictures as files: opening them as upright RGB, and writing masks and
//! overlays. Owns what is accepted and every message about it; does not
//! resize or normalise (see [`letterbox`](crate::letterbox)) and does not say
//! which pixels are an object (see [`mask`](crate::mask)).

use std::error::Error;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use image::error::{DecodingError, ImageFormatHint};
use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    Rgb, RgbImage,
};

use crate::whole_file;

/// Most bytes a picture may have once decoded, before its conversion to
/// 8-bit RGB: 1 GiB, which admits 12,000 x 12,000 pixels at up to 7 bytes each.
pub const MOST_BYTES: u64 = 1 << 30;

/// Why a picture could not be read or written. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file could not be read at all.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// The file has no content.
    #[error("{}: is empty; fetch it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file's content is that of no picture format.
    #[error(
        "{}: is not a picture; PNG, JPEG, BMP, GIF and WebP are read, recognised by their content and not by the file's name",
        path.display()
    )]
    NotAPicture {
        /// The file.
        path: PathBuf,
    },
    /// The file is a picture of a format that is not read.
    #[error(
        "{}: is a picture of the kind {format}, which is not read; convert it to PNG, JPEG, BMP, GIF or WebP",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: String,
    },
    /// The file ends before the picture does.
    #[error(
        "{}: the file ends before its picture does (an interrupted copy or download?); fetch it again",
        path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
    },
    /// The file's content breaks the rules of its format.
    #[error("{}: is damaged, it cannot be decoded as {format}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: String,
        /// What the decoder said.
        reason: String,
    },
    /// The picture would need more than [`MOST_BYTES`] in memory.
    #[error(
        "{}: {width} x {height} pixels need {bytes} bytes decoded, more than the {MOST_BYTES} allowed; make the picture smaller",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Pixels across, as stored.
        width: u32,
        /// Pixels down, as stored.
        height: u32,
        /// Bytes the decoded picture would take.
        bytes: u64,
    },
    /// A mask handed over does not have one value for each pixel.
    #[error("a mask of {given} values does not fit {width} x {height} pixels")]
    Pixels {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Values in the mask.
        given: usize,
    },
    /// Pictures are written as PNG, and the name says otherwise.
    #[error("{}: pictures are written as PNG; give it a name that ends in .png", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be written; nothing is left of it.
    #[error("{}: cannot be written: {reason}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: io::Error,
    },
}

/// Opens a picture as 8-bit RGB, upright.
///
/// PNG, JPEG, BMP, GIF and WebP are recognised by content. An EXIF orientation
/// is applied, so width and height are those one sees in a viewer. Grey and
/// palette pictures become RGB, 16 bits are rounded to 8, transparency is laid
/// on white, and an animation gives its first frame.
///
/// # Errors
/// Any reading variant of [`PictureError`]. A file that is cut short is
/// refused, never filled up with grey. One that some program has cut and then
/// ended properly cannot be told from a whole one, and is not.
pub fn open(path: impl AsRef<Path>) -> Result<RgbImage, PictureError> {
    Ok(onto_white(decode(path.as_ref())?.pixels))
}

/// A decoded, upright picture as it was stored: any number of channels and bits.
pub(crate) struct Decoded {
    pub format: ImageFormat,
    pub pixels: DynamicImage,
}

/// Reads and decodes a file, and turns it upright.
pub(crate) fn decode(path: &Path) -> Result<Decoded, PictureError> {
    decoded(path, |bytes, format, orientation, decoder| {
        let mut pixels = match format {
            ImageFormat::Jpeg => jpeg(bytes, decoder.color_type())?,
            _ => DynamicImage::from_decoder(decoder)?,
        };
        pixels.apply_orientation(orientation);
        Ok(Decoded { format, pixels })
    })
}

/// Width and height of a picture as [`open`] gives them. Reads the file and
/// decodes its head only.
///
/// # Errors
/// As [`open`], but for damage behind the head.
pub fn size(path: impl AsRef<Path>) -> Result<(u32, u32), PictureError> {
    decoded(path.as_ref(), |_, _, orientation, decoder| {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let (width, height) = decoder.dimensions();
        Ok(match orientation {
            Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH => (height, width),
            _ => (width, height),
        })
    })
}

/// A JPEG's pixels, grey or RGB.
///
/// Decoded as libjpeg-turbo does, byte for byte, because published encoders
/// saw these bytes: the decoder of the `image` crate is up to a few grey
/// levels off, which the resized picture shows.
fn jpeg(bytes: &[u8], colours: ColorType) -> image::ImageResult<DynamicImage> {
    use libjpeg_turbo_rs::{DecodeLimits, Decoder, PixelFormat};
    let limits = DecodeLimits {
        max_memory: Some(2 * MOST_BYTES),
        ..DecodeLimits::default()
    };
    let damaged = |reason: Box<dyn Error + Send + Sync>| {
        let hint = ImageFormatHint::Exact(ImageFormat::Jpeg);
        ImageError::Decoding(DecodingError::new(hint, reason))
    };
    let grey = matches!(colours, ColorType::L8);
    let format = match grey {
        true => PixelFormat::Grayscale,
        false => PixelFormat::Rgb,
    };
    let decode = || {
        let mut decoder = Decoder::new_with_limits(bytes, limits)?;
        decoder.set_output_format(format);
        decoder.decode_image()
    };
    // The decoder keeps nothing that a panic could leave half done. Of six
    // million broken files with a sound head, 188 made it panic.
    let decoded = std::panic::catch_unwind(decode)
        .map_err(|_| damaged("its decoder gave up".into()))?
        .map_err(|error| damaged(error.into()))?;
    let (width, height) = (decoded.width as u32, decoded.height as u32);
    let pixels = match grey {
        true => GrayImage::from_raw(width, height, decoded.data).map(DynamicImage::from),
        false => RgbImage::from_raw(width, height, decoded.data).map(DynamicImage::from),
    };
    pixels.ok_or_else(|| damaged("its pixels are not as many as its head says".into()))
}

/// Gives `take` the bytes, the format, the orientation and the decoder of a
/// picture whose head is as it should be.
fn decoded<T>(
    path: &Path,
    take: impl FnOnce(
        &[u8],
        ImageFormat,
        Orientation,
        Box<dyn ImageDecoder + '_>,
    ) -> image::ImageResult<T>,
) -> Result<T, PictureError> {
    let unreadable = |reason| PictureError::Unreadable {
        path: path.into(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(unreadable)?;
    if bytes.is_empty() {
        return Err(PictureError::Empty { path: path.into() });
    }
    let mut reader = ImageReader::new(Cursor::new(&bytes))
        .with_guessed_format()
        .map_err(unreadable)?;
    let Some(format) = reader.format() else {
        return Err(PictureError::NotAPicture { path: path.into() });
    };
    if format == ImageFormat::Jpeg && !jpeg_reaches_its_end(&bytes) {
        return Err(PictureError::CutShort { path: path.into() });
    }

    // The decoders' own working memory, beside the picture's.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(2 * MOST_BYTES);
    reader.limits(limits);
    let failed = |error| failure(path, format, error);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    let needed = decoder.total_bytes();
    if needed > MOST_BYTES {
        return Err(PictureError::TooLarge {
            path: path.into(),
            width,
            height,
            bytes: needed,
        });
    }
    if width == 0 || height == 0 {
        return Err(PictureError::Damaged {
            path: path.into(),
            format: name(format),
            reason: format!("it has {width} x {height} pixels"),
        });
    }
    // EXIF is a side note: a broken one is no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    take(&bytes, format, orientation, Box::new(decoder)).map_err(failed)
}

/// Sorts a decoder's error into one of ours.
fn failure(path: &Path, format: ImageFormat, error: ImageError) -> PictureError {
    let path = path.into();
    match error {
        ImageError::IoError(reason) if reason.kind() == io::ErrorKind::UnexpectedEof => {
            PictureError::CutShort { path }
        }
        ImageError::Unsupported(_) if !format.reading_enabled() => PictureError::Format {
            path,
            format: name(format),
        },
        other => PictureError::Damaged {
            path,
            format: name(format),
            reason: other.to_string().replace(['\r', '\n'], " "),
        },
    }
}

fn name(format: ImageFormat) -> String {
    match format {
        ImageFormat::WebP => "WebP".into(),
        other => format!("{other:?}").to_uppercase(),
    }
}

/// Whether the walk over a JPEG's segments meets the end-of-image marker.
///
/// The decoder fills what is missing with grey and reports success, so a cut
/// file has to be found here. Looking for the marker's two bytes would not do:
/// the thumbnail inside an EXIF segment has an end marker of its own.
fn jpeg_reaches_its_end(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    let mut at = 2; // behind the start-of-image marker
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != 0xFF {
            continue; // compressed data
        }
        match bytes.get(at).copied() {
            None => return false,
            Some(END) => return true,
            Some(0xFF) => {} // fill byte: the next round looks at it again
            // An escaped 0xFF, or a marker without a segment.
            Some(0x00 | 0x01 | 0xD0..=0xD8) => at += 1,
            Some(_) => match bytes.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
    false
}

fn onto_white(decoded: DynamicImage) -> RgbImage {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        *to = Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    rgb
}

/// Writes a mask as a grey PNG, 255 where `mask` is true and 0 elsewhere.
///
/// `mask` is row by row, `width * height` long. The file appears whole or not
/// at all.
///
/// # Errors
/// [`PictureError::Pixels`], [`PictureError::Name`] or
/// [`PictureError::Unwritable`].
pub fn save_mask(
    path: impl AsRef<Path>,
    width: u32,
    height: u32,
    mask: &[bool],
) -> Result<(), PictureError> {
    check_pixels(width, height, mask)?;
    let grey = mask.iter().map(|&inside| if inside { 255 } else { 0 });
    let grey = image::GrayImage::from_raw(width, height, grey.collect());
    let grey = grey.ok_or(PictureError::Pixels {
        width,
        height,
        given: mask.len(),
    })?;
    save(path.as_ref(), &grey.into())
}

/// Writes a picture as PNG; the file appears whole or not at all.
///
/// # Errors
/// [`PictureError::Name`] or [`PictureError::Unwritable`].
pub fn save_picture(path: impl AsRef<Path>, picture: &RgbImage) -> Result<(), PictureError> {
    save(path.as_ref(), &picture.clone().into())
}

fn save(path: &Path, pixels: &DynamicImage) -> Result<(), PictureError> {
    let is_png = |end: &std::ffi::OsStr| end.eq_ignore_ascii_case("png");
    if !path.extension().is_some_and(is_png) {
        return Err(PictureError::Name { path: path.into() });
    }
    let mut png = Vec::new();
    pixels
        .write_to(&mut Cursor::new(&mut png), ImageFormat::Png)
        .map_err(io::Error::other)
        .and_then(|()| whole_file::write(path, &png))
        .map_err(|reason| PictureError::Unwritable {
            path: path.into(),
            reason,
        })
}

fn check_pixels(width: u32, height: u32, mask: &[bool]) -> Result<(), PictureError> {
    if u64::from(width) * u64::from(height) == mask.len() as u64 {
        return Ok(());
    }
    Err(PictureError::Pixels {
        width,
        height,
        given: mask.len(),
    })
}

/// The picture with the mask's pixels tinted half and its inner edge drawn in
/// the full tint, as wide as 1/200 of the shorter side and at least one pixel.
///
/// `mask` is row by row, one value for each pixel of `picture`.
///
/// # Errors
/// [`PictureError::Pixels`] if the mask's length is not the picture's.
pub fn overlay(picture: &RgbImage, mask: &[bool], tint: [u8; 3]) -> Result<RgbImage, PictureError> {
    let (width, height) = picture.dimensions();
    check_pixels(width, height, mask)?;
    let edge = (width.min(height) / 200).max(1) as usize;
    let core = eroded(mask, width as usize, height as usize, edge);
    let mut painted = picture.clone();
    for ((pixel, &inside), core) in painted.pixels_mut().zip(mask).zip(core) {
        if inside && core {
            for (value, tint) in pixel.0.iter_mut().zip(tint) {
                *value = u16::from(*value).midpoint(u16::from(tint)) as u8;
            }
        } else if inside {
            *pixel = Rgb(tint);
        }
    }
    Ok(painted)
}

/// The pixels whose neighbours up to `by` away, in a square, are all in the
/// mask; outside the picture counts as outside the mask.
fn eroded(mask: &[bool], width: usize, height: usize, by: usize) -> Vec<bool> {
    let mut core = mask.to_vec();
    for y in 0..height {
        erode_line(&mut core, y * width, 1, width, by);
    }
    for x in 0..width {
        erode_line(&mut core, x, width, height, by);
    }
    core
}

/// Takes `by` pixels off both ends of every run in one row or column.
fn erode_line(core: &mut [bool], start: usize, step: usize, length: usize, by: usize) {
    let mut from = 0;
    for at in 0..=length {
        if at < length && core[start + at * step] {
            continue;
        }
        let run = from..at;
        for (place, k) in run.clone().enumerate() {
            core[start + k * step] = place >= by && place + by < run.len();
        }
        from = at + 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_s_end_marker_is_not_the_picture_s() {
        let thumbnail = [0xFF, 0xE1, 0x00, 0x06, 0xFF, 0xD8, 0xFF, 0xD9];
        let mut jpeg = vec![0xFF, 0xD8];
        jpeg.extend(thumbnail);
        jpeg.extend([0xFF, 0xDA, 0x00, 0x02, 1, 2, 0xFF, 0x00, 3, 0xFF, 0xD0, 4]);
        assert!(!jpeg_reaches_its_end(&jpeg));
        jpeg.extend([0xFF, 0xFF, 0xD9]);
        assert!(jpeg_reaches_its_end(&jpeg));
        for cut in 0..jpeg.len() {
            assert!(!jpeg_reaches_its_end(&jpeg[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn erosion_takes_the_edge_off() {
        let mask = [
            1, 1, 1, 0, //
            1, 1, 1, 1, //
            1, 1, 1, 0,
        ]
        .map(|v| v == 1);
        let core: Vec<_> = eroded(&mask, 4, 3, 1).into_iter().map(u8::from).collect();
        assert_eq!(core, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn alpha_is_laid_on_white() {
        let rgba = image::RgbaImage::from_raw(3, 1, vec![10, 20, 30, 255, 0, 0, 0, 0, 0, 0, 0, 51]);
        let rgb = onto_white(rgba.unwrap().into());
        assert_eq!(rgb.into_raw(), [10, 20, 30, 255, 255, 255, 204, 204, 204]);
    }
}
