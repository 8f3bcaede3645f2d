//! What a scene looks like: outlines, surfaces, ground, and which pixels a thing has.

use image::{Rgb, RgbImage};
use twinspan_sdk::random;

use super::{Colour, Draw, Ground, Material, Scene, Shape, Thing};

/// Points of a pixel that are looked at, along each side: edges are as soft as a camera's.
const POINTS: u32 = 2;

impl Colour {
    fn pixel(self) -> [f64; 3] {
        match self {
            Colour::Red => [205.0, 44.0, 48.0],
            Colour::Orange => [240.0, 138.0, 36.0],
            Colour::Yellow => [242.0, 215.0, 60.0],
            Colour::Green => [52.0, 152.0, 72.0],
            Colour::Blue => [48.0, 92.0, 200.0],
            Colour::Purple => [140.0, 66.0, 170.0],
            Colour::White => [240.0, 240.0, 238.0],
            Colour::Black => [28.0, 28.0, 32.0],
        }
    }
}

impl Thing {
    /// A point of the scene as the thing has it: its middle is 0, its radius 1.
    fn own(&self, x: f64, y: f64) -> (f64, f64) {
        let (dx, dy) = (x - self.centre.0, y - self.centre.1);
        let (sin, cos) = self.turn.sin_cos();
        (
            (dx * cos + dy * sin) / self.radius,
            (dy * cos - dx * sin) / self.radius,
        )
    }

    /// Whether a point of the scene, in parts of its side, lies within the outline.
    pub fn covers(&self, x: f64, y: f64) -> bool {
        let (u, v) = self.own(x, y);
        let square = u * u + v * v;
        if square > 1.0 {
            return false;
        }
        match self.shape {
            Shape::Circle => square <= 0.92,
            Shape::Square => u.abs().max(v.abs()) <= 0.7,
            Shape::Triangle => v <= 0.5 && u.abs() <= 0.577 * (v + 1.0),
            Shape::Ring => (0.3..=0.95).contains(&square),
            Shape::Cross => u.abs().min(v.abs()) <= 0.27 && u.abs().max(v.abs()) <= 0.92,
            Shape::Star => {
                // The outline between a tip and the notch beside it is a straight line.
                let fifth = std::f64::consts::TAU / 5.0;
                let angle = u.atan2(-v).rem_euclid(fifth);
                let angle = angle.min(fifth - angle);
                let (tip, notch) = (1.0, 0.45);
                let half: f64 = fifth / 2.0;
                let (nx, ny) = (notch * half.cos(), notch * half.sin());
                // The line from (tip, 0) to (nx, ny), met in the direction of the angle.
                let (px, py) = (angle.cos(), angle.sin());
                let reach = tip * ny / (px * ny + py * (tip - nx));
                square.sqrt() <= reach
            }
        }
    }

    /// The colour of a point of the thing.
    fn pixel(&self, x: f64, y: f64) -> [f64; 3] {
        let (u, v) = self.own(x, y);
        // Marks are as fine on every thing, so that small things show them too.
        let (a, b) = (u * self.radius / 0.04, v * self.radius / 0.04);
        let marked = match self.material {
            Material::Plain => false,
            Material::Striped => a.rem_euclid(1.6) < 0.7,
            Material::Dotted => {
                let (a, b) = (a.rem_euclid(1.5) - 0.75, b.rem_euclid(1.5) - 0.75);
                a * a + b * b < 0.2
            }
            Material::Checkered => (a.div_euclid(1.1) + b.div_euclid(1.1)).rem_euclid(2.0) < 0.5,
        };
        let light = 1.0 - 0.12 * (u + v);
        let colour = self.colour.pixel();
        let dark = self.colour == Colour::Black;
        colour.map(|c| match (marked, dark) {
            (false, _) => c * light,
            (true, false) => c * 0.5 * light,
            (true, true) => c + 110.0,
        })
    }
}

/// The part of `behind` that is seen with `front` before it.
pub(super) fn seen(behind: &Thing, front: &Thing) -> f64 {
    const STEPS: i32 = 24;
    let (mut all, mut left) = (0u32, 0u32);
    for i in -STEPS..=STEPS {
        for j in -STEPS..=STEPS {
            let at = |c: f64, k: i32| c + behind.radius * f64::from(k) / f64::from(STEPS);
            let (x, y) = (at(behind.centre.0, j), at(behind.centre.1, i));
            if behind.covers(x, y) {
                all += 1;
                left += u32::from(!front.covers(x, y));
            }
        }
    }
    f64::from(left) / f64::from(all.max(1))
}

impl Scene {
    /// The picture, `side` pixels wide and high.
    pub fn picture(&self) -> RgbImage {
        let ground = self.ground();
        let mut pixels: Vec<[f64; 3]> = (0..self.side)
            .flat_map(|y| (0..self.side).map(move |x| (x, y)))
            .map(|(x, y)| ground.pixel(self.part(x), self.part(y)))
            .collect();
        let step = 1.0 / f64::from(self.side * POINTS);
        for thing in &self.things {
            for (x, y) in self.around(thing) {
                let mut sum = [0.0; 3];
                let mut inside = 0.0;
                for point in 0..POINTS * POINTS {
                    let px = f64::from(x * POINTS + point % POINTS) + 0.5;
                    let py = f64::from(y * POINTS + point / POINTS) + 0.5;
                    let (px, py) = (px * step, py * step);
                    if thing.covers(px, py) {
                        inside += 1.0;
                        let pixel = thing.pixel(px, py);
                        sum.iter_mut().zip(pixel).for_each(|(s, p)| *s += p);
                    }
                }
                let all = f64::from(POINTS * POINTS);
                let under = &mut pixels[(y * self.side + x) as usize];
                for (under, sum) in under.iter_mut().zip(sum) {
                    *under = (sum + (all - inside) * *under) / all;
                }
            }
        }
        let key = random::mix(self.key, 3);
        RgbImage::from_fn(self.side, self.side, |x, y| {
            let i = y * self.side + x;
            // One draw a pixel, cut in three: noise of a camera.
            let bits = random::mix(key, u64::from(i));
            let pixel = pixels[i as usize];
            Rgb(std::array::from_fn(|c| {
                let noise = (bits >> (8 * c) & 0xFF) as f64 / 255.0 - 0.5;
                (pixel[c] + 10.0 * noise).clamp(0.0, 255.0) as u8
            }))
        })
    }

    /// Which pixels of the picture each thing has, row by row: those whose middle shows it.
    pub fn masks(&self) -> Vec<Vec<bool>> {
        let none = vec![false; (self.side * self.side) as usize];
        let mut masks: Vec<Vec<bool>> = vec![none; self.things.len()];
        for (i, thing) in self.things.iter().enumerate() {
            for (x, y) in self.around(thing) {
                if thing.covers(self.part(x), self.part(y)) {
                    let pixel = (y * self.side + x) as usize;
                    masks[..i].iter_mut().for_each(|m| m[pixel] = false);
                    masks[i][pixel] = true;
                }
            }
        }
        masks
    }

    /// The middle of a pixel, as a part of the side.
    fn part(&self, pixel: u32) -> f64 {
        (f64::from(pixel) + 0.5) / f64::from(self.side)
    }

    /// The pixels that a thing may have.
    fn around(&self, thing: &Thing) -> impl Iterator<Item = (u32, u32)> + use<> {
        let side = f64::from(self.side);
        let range = |centre: f64| {
            let low = ((centre - thing.radius) * side - 1.0).clamp(0.0, side);
            let high = ((centre + thing.radius) * side + 1.0).clamp(0.0, side);
            low as u32..high as u32
        };
        let (columns, rows) = (range(thing.centre.0), range(thing.centre.1));
        rows.flat_map(move |y| columns.clone().map(move |x| (x, y)))
    }

    fn ground(&self) -> Surface {
        let mut draw = Draw::new(random::mix(self.key, 2));
        let grey = draw.within((90.0, 175.0));
        let tint: [f64; 3] = std::array::from_fn(|_| draw.within((-14.0, 14.0)));
        let angle = draw.within((0.0, std::f64::consts::TAU));
        Surface {
            kind: self.ground,
            tone: tint.map(|t| grey + t),
            contrast: draw.within((14.0, 26.0)),
            direction: angle.sin_cos(),
            period: draw.within((0.07, 0.16)),
            key: random::mix(self.key, 4),
        }
    }
}

/// The ground: a grey of some tint with a texture of little contrast.
struct Surface {
    kind: Ground,
    tone: [f64; 3],
    contrast: f64,
    direction: (f64, f64),
    period: f64,
    key: u64,
}

impl Surface {
    fn pixel(&self, x: f64, y: f64) -> [f64; 3] {
        let (sin, cos) = self.direction;
        let (a, b) = (x * cos + y * sin, y * cos - x * sin);
        let (p, q) = (a / self.period, b / self.period);
        let level = match self.kind {
            Ground::Smooth => 2.0 * a - 1.0,
            Ground::Cloudy => 2.0 * self.cloud(x, y) - 1.0,
            Ground::Striped => f64::from(p.rem_euclid(1.0) < 0.5) - 0.5,
            Ground::Checkered => f64::from((p.floor() + q.floor()).rem_euclid(2.0) < 0.5) - 0.5,
            Ground::Dotted => {
                let (u, v) = (p.rem_euclid(1.0) - 0.5, q.rem_euclid(1.0) - 0.5);
                f64::from(u * u + v * v < 0.06) - 0.3
            }
        };
        self.tone.map(|t| t + self.contrast * level)
    }

    /// Values at the corners of a grid, joined smoothly.
    fn cloud(&self, x: f64, y: f64) -> f64 {
        const CELLS: f64 = 6.0;
        let (u, v) = (x * CELLS, y * CELLS);
        let corner = |i: f64, j: f64| {
            random::uniform(self.key, ((v.floor() + j) * 16.0 + u.floor() + i) as u64)
        };
        let ease = |t: f64| t * t * (3.0 - 2.0 * t);
        let (s, t) = (ease(u.fract()), ease(v.fract()));
        let upper = corner(0.0, 0.0) * (1.0 - s) + corner(1.0, 0.0) * s;
        let lower = corner(0.0, 1.0) * (1.0 - s) + corner(1.0, 1.0) * s;
        upper * (1.0 - t) + lower * t
    }
}
