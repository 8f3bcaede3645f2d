//! Made-up scenes: shapes on a textured ground, with sentences of several kinds that each mean
//! one of them.
//!
//! Owns what is in a scene and where ([`Scene::new`]); what it looks like is in [`draw`], what is
//! said of it in [`language`], the data set on disk in [`files`]. Everything is a function of
//! the seed and the scene's number: no state, no thread, no order.

pub mod draw;
pub mod files;
pub mod language;

use std::ops::RangeInclusive;

use serde::Serialize;
use twinspan_sdk::random;

/// Side of a scene in pixels unless one is asked for; the pocket encoder's input.
pub const SIDE: u32 = 128;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $(#[doc = $word] $variant,)* }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word for it in sentences.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}

words! {
    /// What a thing is.
    Shape { Circle = "circle", Square = "square", Triangle = "triangle", Star = "star", Ring = "ring", Cross = "cross", }
}
words! {
    /// A thing's colour.
    Colour { Red = "red", Yellow = "yellow", Green = "green", Blue = "blue", White = "white", Black = "black", }
}
words! {
    /// What a thing's surface is like.
    Material { Plain = "plain", Striped = "striped", Dotted = "dotted", }
}
words! {
    /// How large a thing is. Two sizes differ by a quarter at least.
    Size { Small = "small", Medium = "medium", Large = "large", }
}
words! {
    /// What the ground is like.
    Ground { Smooth = "smooth", Cloudy = "cloudy", Striped = "striped", Checkered = "checkered", Dotted = "dotted", }
}

impl Size {
    /// The smallest and the largest radius, as parts of the scene's side.
    pub fn radii(self) -> (f64, f64) {
        match self {
            Size::Small => (0.10, 0.115),
            Size::Medium => (0.145, 0.165),
            Size::Large => (0.21, 0.24),
        }
    }
}

/// One thing of a scene.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Thing {
    /// What it is.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its surface.
    pub material: Material,
    /// Its size.
    pub size: Size,
    /// Its middle, x to the right and y down, as parts of the scene's side.
    pub centre: (f64, f64),
    /// Its radius, as a part of the scene's side.
    pub radius: f64,
    /// How far it is turned, in radians.
    pub turn: f64,
    /// The part of it that is to be seen: 1 unless another stands in front.
    pub visible: f64,
    /// The thing in front of it.
    pub hidden_by: Option<usize>,
}

/// A scene. Of two things that overlap, the later one is in front.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scene {
    /// Side in pixels.
    pub side: u32,
    /// What the ground is like.
    pub ground: Ground,
    /// What stands on it.
    pub things: Vec<Thing>,
    key: u64,
}

/// A thing that is seen less than this is partly hidden; one that is not is seen whole.
pub const PARTLY: f64 = 0.85;
/// How much of a partly hidden thing is seen.
const SEEN: std::ops::Range<f64> = 0.45..0.8;
/// Between things that do not overlap, and at the edge, as a part of the side.
const GAP: f64 = 0.02;

/// Draws in order from one key.
pub(crate) struct Draw {
    key: u64,
    next: u64,
}

impl Draw {
    pub fn new(key: u64) -> Self {
        Self { key, next: 0 }
    }

    /// In [0, 1).
    pub fn part(&mut self) -> f64 {
        self.next += 1;
        random::uniform(self.key, self.next)
    }

    /// In `[low, high)`.
    pub fn within(&mut self, (low, high): (f64, f64)) -> f64 {
        low + (high - low) * self.part()
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.part() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// One of `all`.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Whether something of this chance comes true.
    pub fn chance(&mut self, chance: f64) -> bool {
        self.part() < chance
    }

    /// `all` in another order.
    pub fn shuffled<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        self.next += 1;
        let order = random::permutation(random::mix(self.key, self.next), all.len());
        order.into_iter().map(|i| all[i].clone()).collect()
    }
}

impl Scene {
    /// Scene `number` of a seed, `side` pixels wide and high; scenes of different numbers differ.
    ///
    /// Three to five things, of few shapes and colours so that one word seldom tells them apart;
    /// in half of the scenes one is partly hidden behind another.
    pub fn new(seed: u64, number: u64, side: u32) -> Self {
        Self::of(seed, number, side, 3..=5)
    }

    /// The same with so many things, as far as there is room; a range that is empty takes its
    /// start.
    pub fn of(seed: u64, number: u64, side: u32, things: RangeInclusive<usize>) -> Self {
        let key = random::mix(random::key(seed, "scenes"), number);
        let mut draw = Draw::new(random::mix(key, 1));
        let shapes = &draw.shuffled(Shape::ALL)[..3];
        let colours = &draw.shuffled(Colour::ALL)[..3];
        let materials = &draw.shuffled(Material::ALL)[..2];
        let (least, most) = (*things.start(), *things.end());
        let wanted = least + draw.below(most.saturating_sub(least).saturating_add(1));
        let occlusion = draw.chance(0.5) && wanted > 1;
        let mut things: Vec<Thing> = Vec::new();
        // A crowded scene stays smaller than it was wanted.
        for _ in 0..200 {
            if things.len() == wanted {
                break;
            }
            let hides = occlusion && things.len() + 1 == wanted;
            let mut thing = Thing::draw(&mut draw, shapes, colours, materials);
            if hides {
                let behind = draw.below(things.len());
                let other = &things[behind];
                let angle = draw.within((0.0, std::f64::consts::TAU));
                let apart = (other.radius + thing.radius) * draw.within((0.45, 0.85));
                thing.centre = (
                    other.centre.0 + apart * angle.cos(),
                    other.centre.1 + apart * angle.sin(),
                );
                let fits = thing.inside()
                    && things
                        .iter()
                        .enumerate()
                        .all(|(i, t)| i == behind || thing.apart(t));
                let seen = draw::seen(other, &thing);
                if fits && SEEN.contains(&seen) {
                    things[behind].visible = seen;
                    things[behind].hidden_by = Some(things.len());
                    things.push(thing);
                }
            } else if thing.inside() && things.iter().all(|t| thing.apart(t)) {
                things.push(thing);
            }
        }
        Self {
            side,
            ground: draw.of(Ground::ALL),
            things,
            key,
        }
    }
}

impl Thing {
    fn draw(draw: &mut Draw, shapes: &[Shape], colours: &[Colour], materials: &[Material]) -> Self {
        let size = draw.of(Size::ALL);
        Self {
            shape: draw.of(shapes),
            colour: draw.of(colours),
            material: draw.of(materials),
            size,
            centre: (draw.part(), draw.part()),
            radius: draw.within(size.radii()),
            turn: draw.within((-0.3, 0.3)),
            visible: 1.0,
            hidden_by: None,
        }
    }

    fn inside(&self) -> bool {
        let range = self.radius + GAP..=1.0 - self.radius - GAP;
        range.contains(&self.centre.0) && range.contains(&self.centre.1)
    }

    fn apart(&self, other: &Thing) -> bool {
        self.distance(other) > self.radius + other.radius + GAP
    }

    /// Between the middles of two things.
    pub fn distance(&self, other: &Thing) -> f64 {
        (self.centre.0 - other.centre.0).hypot(self.centre.1 - other.centre.1)
    }

    /// Whether another stands in front.
    pub fn partly_hidden(&self) -> bool {
        self.visible < PARTLY
    }
}
