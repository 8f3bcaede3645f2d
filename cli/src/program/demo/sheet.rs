//! The contact sheet: picture, sentence, truth and both answers, as one PNG.

use std::path::Path;

use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_6X10, FONT_7X13};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::text::Text;
use embedded_graphics::{Drawable, Pixel};
use image::{Rgb, RgbImage, imageops};
use twinspan::scenes::language::{Kind, Saying};
use twinspan::scenes::{SIDE, Scene, files};
use twinspan::sdk::plugin::Plugin;
use twinspan::sdk::recipe::Recipe;
use twinspan::sdk::task::Kit;
use twinspan::tasks::metrics::overlap;
use twinspan::tasks::picture;
use twinspan::tasks::referring_segmentation::ReferringSegmentation;
use twinspan::tasks::referring_segmentation::predict::segment;

use super::super::failure::Failure;
use super::trial::Trial;

/// Sentences shown of each kind.
const OF_KIND: usize = 2;
const TINT: [u8; 3] = [255, 64, 200];
const GAP: u32 = 6;
/// Above a row, for its sentence.
const LINE: u32 = 18;
/// Rows of the sheet stand in so many columns.
const COLUMNS: u32 = 2;

/// A sentence that is shown.
pub struct Shown {
    scene: Scene,
    thing: usize,
    /// What is said.
    pub saying: Saying,
}

/// A sentence with its pictures.
pub struct Tile {
    /// What is said.
    pub sentence: String,
    /// What the sentence turns on.
    pub kind: &'static str,
    /// The picture, the truth on it, and each side's answer on it.
    pub pictures: Vec<(String, RgbImage)>,
}

/// Sentences of every kind, the first of the test's scenes: nobody picks them by how they turn
/// out.
pub fn choose(seed: u64, scenes: u64) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for number in (0..scenes).filter(|n| files::split(*n) == "test") {
        let scene = Scene::new(seed, number, SIDE);
        let wanted = scene.sentences().into_iter().find(|(_, saying)| {
            let same = shown.iter().filter(|s| s.saying.kind() == saying.kind());
            same.count() < OF_KIND
        });
        if let Some((thing, saying)) = wanted {
            shown.push(Shown {
                scene,
                thing,
                saying,
            });
        }
    }
    shown.sort_by_key(|s| s.saying.kind());
    shown.truncate(OF_KIND * Kind::ALL.len());
    shown
}

/// The pictures of each sentence: as it is, the truth, and what each of `sides` answers.
pub fn tiles(
    shown: &[Shown],
    sides: &[&Trial],
    recipe: &Recipe,
    kit: &Kit,
) -> Result<Vec<Tile>, Failure> {
    let task = ReferringSegmentation::from_options(&recipe.task.options)?;
    let mut tiles = Vec::new();
    for Shown {
        scene,
        thing,
        saying,
    } in shown
    {
        let image = scene.picture();
        let sentence = saying.text();
        let truth = scene.masks().swap_remove(*thing);
        let mut pictures = vec![
            ("picture".to_string(), image.clone()),
            ("truth".to_string(), picture::overlay(&image, &truth, TINT)?),
        ];
        for side in sides {
            let asked = std::slice::from_ref(&sentence);
            let (answers, _) = segment(&side.model, &task, kit, &image, asked)?;
            for answer in answers {
                let (both, either) = overlap(&answer.mask, &truth).unwrap_or((0, 0));
                let iou = 100.0 * both as f64 / either.max(1) as f64;
                let tinted = picture::overlay(&image, &answer.mask, TINT)?;
                pictures.push((format!("{} {iou:.0}", side.name), tinted));
            }
        }
        tiles.push(Tile {
            sentence,
            kind: saying.kind().name(),
            pictures,
        });
    }
    Ok(tiles)
}

/// Writes the sheet.
pub fn write(path: &Path, tiles: &[Tile]) -> Result<(), Failure> {
    let across = tiles.iter().map(|t| t.pictures.len()).max().unwrap_or(0) as u32;
    let step = SIDE + GAP;
    let (width, height) = (across * step + 2 * GAP, SIDE + 2 * LINE + GAP);
    let rows = (tiles.len() as u32).div_ceil(COLUMNS);
    let size = (COLUMNS * width, rows * height + GAP);
    let mut sheet = Canvas(RgbImage::from_pixel(size.0, size.1, Rgb([255; 3])));
    for (tile, number) in tiles.iter().zip(0u32..) {
        let (x, y) = (
            GAP + number % COLUMNS * width,
            GAP + number / COLUMNS * height,
        );
        let at = |x: u32, y: u32| Point::new(x as i32, y as i32);
        let style = MonoTextStyle::new(&FONT_7X13, Rgb888::BLACK);
        let Ok(_) = Text::new(&tile.sentence, at(x, y + 11), style).draw(&mut sheet);
        for ((what, image), column) in tile.pictures.iter().zip(0u32..) {
            let left = x + column * step;
            imageops::replace(&mut sheet.0, image, i64::from(left), i64::from(y + LINE));
            let style = MonoTextStyle::new(&FONT_6X10, Rgb888::new(90, 90, 90));
            let below = at(left, y + LINE + SIDE + 10);
            let Ok(_) = Text::new(what, below, style).draw(&mut sheet);
        }
    }
    picture::save_picture(path, &sheet.0)?;
    Ok(())
}

/// A picture that text is drawn on.
struct Canvas(RgbImage);

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Self::Error> {
        for Pixel(at, colour) in pixels {
            let inside = u32::try_from(at.x).ok().zip(u32::try_from(at.y).ok());
            if let Some(pixel) = inside.and_then(|(x, y)| self.0.get_pixel_mut_checked(x, y)) {
                *pixel = Rgb([colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}
