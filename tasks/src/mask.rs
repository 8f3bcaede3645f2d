//! Masks: which pixels of a picture are the object, from a picture file, from
//! polygons or from run lengths (whose forms are
//! [`run_length`](crate::run_length)'s). Does not scale them (see [`letterbox`](crate::letterbox))
//! and does not score them (see [`metrics`](crate::metrics)).

use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageFormat, Rgba};

use crate::picture::{self, PictureError};
use crate::run_length::RunLengths;

/// Why a mask cannot be had. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// The mask's file could not be opened.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The mask's file is of a format whose compression changes pixels.
    #[error(
        "{}: is a mask in a format whose compression changes pixels; save it as PNG",
        path.display()
    )]
    Lossy {
        /// The mask's file.
        path: PathBuf,
    },
    /// The mask does not have its picture's size.
    #[error(
        "{}: the mask has {} x {} pixels, its picture has {} x {}{}",
        path.display(), mask.0, mask.1, picture.0, picture.1, turned(*mask, *picture)
    )]
    Size {
        /// The mask's file, or the picture of run lengths.
        path: PathBuf,
        /// The mask's width and height.
        mask: (u32, u32),
        /// The picture's width and height.
        picture: (u32, u32),
    },
    /// A polygon cannot be drawn.
    #[error("{}: polygon {number} of this picture {reason}", picture.display())]
    Polygon {
        /// The picture it belongs to.
        picture: PathBuf,
        /// Which of the picture's polygons, from 1.
        number: usize,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

fn turned(mask: (u32, u32), picture: (u32, u32)) -> &'static str {
    if mask == (picture.1, picture.0) {
        " (the two sides are swapped: draw the mask on the picture as its EXIF orientation turns it)"
    } else {
        ""
    }
}

/// The pixels of one object, row by row: 255 inside, 0 outside. No pixel at
/// all may be inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `width * height` values, 0 or 255.
    pub values: Vec<u8>,
}

impl Mask {
    /// Opens the mask of a picture of `size` (width, height).
    ///
    /// Every pixel that is not 0 is inside, however faint: 0/1, 0/255, object
    /// numbers and soft edges all do. Of a coloured mask, every pixel that is
    /// not black is inside; what is fully transparent is outside. PNG, BMP and
    /// GIF are read.
    ///
    /// # Errors
    /// [`MaskError::Picture`], [`MaskError::Lossy`] for JPEG and WebP, and
    /// [`MaskError::Size`].
    pub fn open(path: impl AsRef<Path>, size: (u32, u32)) -> Result<Self, MaskError> {
        let path = path.as_ref();
        let decoded = picture::decode(path)?;
        if matches!(decoded.format, ImageFormat::Jpeg | ImageFormat::WebP) {
            return Err(MaskError::Lossy { path: path.into() });
        }
        let (width, height) = (decoded.pixels.width(), decoded.pixels.height());
        if (width, height) != size {
            return Err(MaskError::Size {
                path: path.into(),
                mask: (width, height),
                picture: size,
            });
        }
        let values = match decoded.pixels {
            // Nearly every mask; the general way takes eight bytes a pixel.
            DynamicImage::ImageLuma8(grey) => {
                let mut values = grey.into_raw();
                values.iter_mut().for_each(|v| *v = value(*v > 0));
                values
            }
            // 16 bits, because 8 would round the faint ones down to 0.
            other => other.into_rgba16().pixels().map(faintest).collect(),
        };
        Ok(Self {
            width,
            height,
            values,
        })
    }

    /// Draws polygons, each `[x0, y0, x1, y1, …]` in pixels, on a picture of
    /// `size` (width, height); `picture` is named in errors.
    ///
    /// As COCO has it: x and y are those of pixel corners, so `[0,0, 2,0, 2,2,
    /// 0,2]` covers four pixels; a polygon that crosses itself is inside where
    /// it winds an odd number of times; several polygons are the parts of one
    /// object, and overlap without cancelling. The pixels are those that
    /// COCO's own tools give: the outline is traced on a grid five times as
    /// fine, and each column is filled between the places where the outline
    /// crosses the column's middle. No polygon at all is an empty mask.
    ///
    /// # Errors
    /// [`MaskError::Polygon`] for a polygon of fewer than three points or of
    /// an odd number of values, for points that are not finite or lie more
    /// than the picture's size outside it, and for coordinates that look
    /// normalised.
    pub fn from_polygons(
        picture: &Path,
        polygons: &[Vec<f64>],
        size: (u32, u32),
    ) -> Result<Self, MaskError> {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let refused = |number, reason| MaskError::Polygon {
            picture: picture.into(),
            number,
            reason,
        };
        for (index, polygon) in polygons.iter().enumerate() {
            check_polygon(polygon)
                .and_then(|()| check_place(polygon, size))
                .map_err(|reason| refused(index + 1, reason))?;
        }
        let normalised = |v: &f64| (0.0..=1.0).contains(v);
        if !polygons.is_empty()
            && width.min(height) > 1
            && polygons.iter().flatten().all(normalised)
        {
            let reason = "has coordinates between 0 and 1 only; give pixels, not fractions";
            return Err(refused(1, reason.into()));
        }
        let mut values = vec![0; width * height];
        for polygon in polygons {
            for [from, to] in crossings(polygon, width, height).as_chunks().0 {
                // Both ends of a pair lie in one column: the outline is closed.
                for y in from.1..to.1 {
                    values[y * width + from.0] = 255;
                }
            }
        }
        Ok(Self {
            width: size.0,
            height: size.1,
            values,
        })
    }

    /// Draws run lengths on a picture of `size` (width, height); `picture` is
    /// named in errors.
    ///
    /// # Errors
    /// [`MaskError::Size`].
    pub fn from_runs(
        picture: &Path,
        runs: &RunLengths,
        size: (u32, u32),
    ) -> Result<Self, MaskError> {
        match (runs.width(), runs.height()) == size {
            true => Ok(runs.mask()),
            false => Err(MaskError::Size {
                path: picture.into(),
                mask: (runs.width(), runs.height()),
                picture: size,
            }),
        }
    }

    /// How many pixels are inside.
    pub fn area(&self) -> usize {
        self.values.iter().filter(|&&value| value > 0).count()
    }

    /// One truth for each pixel, row by row.
    pub fn inside(&self) -> Vec<bool> {
        self.values.iter().map(|&value| value > 0).collect()
    }
}

fn faintest(pixel: &Rgba<u16>) -> u8 {
    let [r, g, b, alpha] = pixel.0;
    value(alpha > 0 && (r > 0 || g > 0 || b > 0))
}

fn value(inside: bool) -> u8 {
    if inside { 255 } else { 0 }
}

/// What can be said of polygons without their picture.
pub(crate) fn check_polygons(polygons: &[Vec<f64>]) -> Result<(), String> {
    for (index, polygon) in polygons.iter().enumerate() {
        check_polygon(polygon).map_err(|said| format!("polygon {} {said}", index + 1))?;
    }
    Ok(())
}

/// What can be said of a polygon without its picture; the error is the end of
/// a sentence that begins with "polygon 1".
fn check_polygon(polygon: &[f64]) -> Result<(), String> {
    let count = polygon.len();
    if !count.is_multiple_of(2) {
        Err(format!(
            "has {count} values, an odd number; give x and y of each point in turn"
        ))
    } else if count < 6 {
        Err(format!("has {} points; it takes three or more", count / 2))
    } else if !polygon.iter().all(|value| value.is_finite()) {
        Err("has a coordinate that is not a finite number".into())
    } else {
        Ok(())
    }
}

fn check_place(polygon: &[f64], (width, height): (u32, u32)) -> Result<(), String> {
    let near = |at: f64, length: u32| (-f64::from(length)..=2.0 * f64::from(length)).contains(&at);
    for [x, y] in polygon.as_chunks().0 {
        if !near(*x, width) || !near(*y, height) {
            return Err(format!(
                "has the point ({x}, {y}), far outside the picture's {width} x {height} pixels"
            ));
        }
    }
    Ok(())
}

/// How many steps of the outline's grid make a pixel.
const FINE: i64 = 5;
/// The step that lies on a pixel's middle.
const MIDDLE: i64 = FINE / 2;

/// Where the outline crosses the middle of a pixel column, as (column, first
/// row below), sorted: an even number in every column.
fn crossings(polygon: &[f64], width: usize, height: usize) -> Vec<(usize, usize)> {
    // The cast cuts towards zero, also below zero: so do COCO's tools.
    let fine = |at: f64| (FINE as f64 * at + 0.5) as i64;
    let points: Vec<(i64, i64)> = polygon
        .as_chunks()
        .0
        .iter()
        .map(|[x, y]| (fine(*x), fine(*y)))
        .collect();
    let mut crossings = Vec::new();
    for (index, &from) in points.iter().enumerate() {
        let to = points[(index + 1) % points.len()];
        trace(from, to, |before, after| {
            if before.0 == after.0 {
                return;
            }
            let left = before.0.min(after.0) - MIDDLE;
            let column = left / FINE;
            if left < 0 || left % FINE != 0 || column >= width as i64 {
                return;
            }
            let upper = before.1.min(after.1) - MIDDLE;
            let row = (upper + FINE - 1).div_euclid(FINE).clamp(0, height as i64);
            crossings.push((column as usize, row as usize));
        });
    }
    crossings.sort_unstable();
    crossings
}

/// Walks the grid points of one edge, a step along its longer side at a time,
/// and calls `step` with each two neighbours. The walk runs in the direction
/// in which the longer side grows, so that an edge shared by two polygons has
/// the same points in both.
fn trace(from: (i64, i64), to: (i64, i64), mut step: impl FnMut((i64, i64), (i64, i64))) {
    let (dx, dy) = ((to.0 - from.0).abs(), (to.1 - from.1).abs());
    let wide = dx >= dy;
    let backwards = if wide { from.0 > to.0 } else { from.1 > to.1 };
    let (start, end) = if backwards { (to, from) } else { (from, to) };
    let (length, rise) = if wide {
        (dx, end.1 - start.1)
    } else {
        (dy, end.0 - start.0)
    };
    let slope = rise as f64 / length.max(1) as f64;
    let point = |t: i64| {
        let across = |start: i64| (start as f64 + slope * t as f64 + 0.5) as i64;
        if wide {
            (start.0 + t, across(start.1))
        } else {
            (across(start.0), start.1 + t)
        }
    };
    let mut before = point(0);
    for t in 1..=length {
        let after = point(t);
        step(before, after);
        before = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(polygons: &[&[f64]], size: (u32, u32)) -> usize {
        let polygons: Vec<_> = polygons.iter().map(|p| p.to_vec()).collect();
        Mask::from_polygons(Path::new("a.jpg"), &polygons, size)
            .unwrap()
            .area()
    }

    #[test]
    fn a_rectangle_has_its_area() {
        let rectangle = [2.0, 3.0, 7.0, 3.0, 7.0, 5.0, 2.0, 5.0];
        assert_eq!(area(&[&rectangle], (10, 10)), 10);
        let whole = [0.0, 0.0, 10.0, 0.0, 10.0, 6.0, 0.0, 6.0];
        assert_eq!(area(&[&whole], (10, 6)), 60);
    }

    #[test]
    fn parts_unite_and_a_double_winding_cancels() {
        let left = [0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0];
        let right = [2.0, 0.0, 6.0, 0.0, 6.0, 4.0, 2.0, 4.0];
        assert_eq!(area(&[&left, &right], (8, 8)), 24);
        let twice: Vec<f64> = left.iter().chain(&left).copied().collect();
        assert_eq!(area(&[&twice], (8, 8)), 0);
    }

    #[test]
    fn no_polygon_is_an_empty_mask() {
        assert_eq!(area(&[], (3, 3)), 0);
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let said = |polygon: &[f64]| {
            Mask::from_polygons(Path::new("a.jpg"), &[polygon.to_vec()], (10, 8))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            said(&[1.0, 2.0, 3.0]),
            "a.jpg: polygon 1 of this picture has 3 values, an odd number; give x and y of each point in turn"
        );
        assert_eq!(
            said(&[1.0, 2.0, 3.0, 4.0]),
            "a.jpg: polygon 1 of this picture has 2 points; it takes three or more"
        );
        assert_eq!(
            said(&[f64::NAN; 6]),
            "a.jpg: polygon 1 of this picture has a coordinate that is not a finite number"
        );
        assert_eq!(
            said(&[0.0, 0.0, 1e18, 0.0, 5.0, 5.0]),
            "a.jpg: polygon 1 of this picture has the point (1000000000000000000, 0), far outside the picture's 10 x 8 pixels"
        );
        assert_eq!(
            said(&[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]),
            "a.jpg: polygon 1 of this picture has coordinates between 0 and 1 only; give pixels, not fractions"
        );
    }
}
