//! What is said of a scene: sentences that each mean one thing, and captions of the whole.
//!
//! Owns what a sentence means ([`Saying::meant`]) and how it reads. A sentence is given only
//! where it is certain: what it turns on (a place, a size) differs by a margin that the eye
//! sees. `tests/scenes.rs` reads the sentences back and proves from the scene that each means
//! one thing.

use serde::Serialize;

use super::{Colour, Draw, Material, Scene, Shape, Size, Thing};
use twinspan_sdk::random;

/// Two places differ to the eye by this part of the side.
pub const MARGIN: f64 = 0.06;
/// The larger of two things is larger by this factor.
pub const LARGER: f64 = 1.2;
/// Where a corner begins, and how far from it others must stay, as parts of the side.
const CORNER: (f64, f64) = (0.42, 0.53);
/// Sentences of one thing in [`Scene::sayings`].
const MOST: usize = 4;

/// Kinds of sentences, by what they turn on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Colour, material, shape: "the red striped star".
    Attribute,
    /// Size: "the small circle", "the largest shape".
    Size,
    /// A place in the picture: "the leftmost ring", "the shape in the top left corner".
    Position,
    /// Another thing: "the circle below the blue cross".
    Relation,
    /// A place in an order: "the second star from the left".
    Ordinal,
    /// What hides what: "the partly hidden square", "the ring in front of the star".
    Hidden,
}

impl Kind {
    /// Every kind, in order.
    pub const ALL: [Kind; 6] = [
        Kind::Attribute,
        Kind::Size,
        Kind::Position,
        Kind::Relation,
        Kind::Ordinal,
        Kind::Hidden,
    ];

    /// Its name in data sets and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Attribute => "attribute",
            Kind::Size => "size",
            Kind::Position => "position",
            Kind::Relation => "relation",
            Kind::Ordinal => "ordinal",
            Kind::Hidden => "hidden",
        }
    }
}

/// Words for a thing: what is named of it. Without a shape it is "shape", which all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phrase {
    size: Option<Size>,
    material: Option<Material>,
    colour: Option<Colour>,
    shape: Option<Shape>,
}

impl Phrase {
    fn fits(&self, thing: &Thing) -> bool {
        self.size.is_none_or(|s| s == thing.size)
            && self.material.is_none_or(|m| m == thing.material)
            && self.colour.is_none_or(|c| c == thing.colour)
            && self.shape.is_none_or(|s| s == thing.shape)
    }

    fn of(thing: &Thing, named: [bool; 4]) -> Self {
        let [size, material, colour, shape] = named;
        Self {
            size: size.then_some(thing.size),
            material: material.then_some(thing.material),
            colour: colour.then_some(thing.colour),
            shape: shape.then_some(thing.shape),
        }
    }

    fn text(&self) -> String {
        let words = [
            self.size.map(Size::word),
            self.material.map(Material::word),
            self.colour.map(Colour::word),
            Some(self.shape.map_or("shape", Shape::word)),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        words.join(" ")
    }
}

/// A direction in the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards x = 0.
    Left,
    /// Towards x = 1.
    Right,
    /// Towards y = 0.
    Top,
    /// Towards y = 1.
    Bottom,
}

impl Side {
    const ALL: [Side; 4] = [Side::Left, Side::Right, Side::Top, Side::Bottom];

    fn word(self) -> &'static str {
        match self {
            Side::Left => "left",
            Side::Right => "right",
            Side::Top => "top",
            Side::Bottom => "bottom",
        }
    }

    /// How far a thing is from this side.
    fn away(self, thing: &Thing) -> f64 {
        match self {
            Side::Left => thing.centre.0,
            Side::Right => 1.0 - thing.centre.0,
            Side::Top => thing.centre.1,
            Side::Bottom => 1.0 - thing.centre.1,
        }
    }
}

/// What a sentence says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Saying {
    /// "the red star"
    Plain(Phrase),
    /// "the largest star", "the smallest star"
    Extreme(Phrase, bool),
    /// "the leftmost star"
    Outermost(Phrase, Side),
    /// "the star in the top left corner"
    Corner(Phrase, Side, Side),
    /// "the star left of the ring": towards that side of the other.
    Beside(Phrase, Side, Phrase),
    /// "the star nearest to the ring"
    Nearest(Phrase, Phrase),
    /// "the second star from the left"; counted from 1.
    Ordinal(Phrase, usize, Side),
    /// "the partly hidden star"
    PartlyHidden(Phrase),
    /// "the star behind the ring"
    Behind(Phrase, Phrase),
    /// "the star in front of the ring"
    InFront(Phrase, Phrase),
}

const ORDINALS: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "sixth"];

impl Saying {
    /// What the sentence turns on.
    pub fn kind(&self) -> Kind {
        match self {
            Saying::Plain(phrase) if phrase.size.is_some() => Kind::Size,
            Saying::Plain(_) => Kind::Attribute,
            Saying::Extreme(..) => Kind::Size,
            Saying::Outermost(..) | Saying::Corner(..) => Kind::Position,
            Saying::Beside(..) | Saying::Nearest(..) => Kind::Relation,
            Saying::Ordinal(..) => Kind::Ordinal,
            Saying::PartlyHidden(_) | Saying::Behind(..) | Saying::InFront(..) => Kind::Hidden,
        }
    }

    /// The sentence.
    pub fn text(&self) -> String {
        match self {
            Saying::Plain(p) => format!("the {}", p.text()),
            Saying::Extreme(p, largest) => {
                let word = if *largest { "largest" } else { "smallest" };
                format!("the {word} {}", p.text())
            }
            Saying::Outermost(p, side) => format!("the {}most {}", side.word(), p.text()),
            Saying::Corner(p, a, b) => {
                format!("the {} in the {} {} corner", p.text(), a.word(), b.word())
            }
            Saying::Beside(p, side, q) => {
                let place = match side {
                    Side::Left => "left of",
                    Side::Right => "right of",
                    Side::Top => "above",
                    Side::Bottom => "below",
                };
                format!("the {} {place} the {}", p.text(), q.text())
            }
            Saying::Nearest(p, q) => format!("the {} nearest to the {}", p.text(), q.text()),
            Saying::Ordinal(p, n, side) => {
                let place = n.checked_sub(1).and_then(|place| ORDINALS.get(place));
                let number = place.unwrap_or(&"last");
                format!("the {number} {} from the {}", p.text(), side.word())
            }
            Saying::PartlyHidden(p) => format!("the partly hidden {}", p.text()),
            Saying::Behind(p, q) => format!("the {} behind the {}", p.text(), q.text()),
            Saying::InFront(p, q) => format!("the {} in front of the {}", p.text(), q.text()),
        }
    }

    /// The one thing of the scene that is meant; none where nothing is, or more than one could
    /// be.
    pub fn meant(&self, scene: &Scene) -> Option<usize> {
        let things = &scene.things;
        let fitting = |p: &Phrase| -> Vec<usize> {
            (0..things.len()).filter(|i| p.fits(&things[*i])).collect()
        };
        let only = |p: &Phrase| match fitting(p)[..] {
            [one] => Some(one),
            _ => None,
        };
        match self {
            Saying::Plain(p) => only(p),
            Saying::Extreme(p, largest) => {
                let mut found = fitting(p);
                found.sort_by(|a, b| things[*a].radius.total_cmp(&things[*b].radius));
                if *largest {
                    found.reverse();
                }
                let [first, second, ..] = found[..] else {
                    return None;
                };
                let (a, b) = (things[first].radius, things[second].radius);
                (a.max(b) > LARGER * a.min(b)).then_some(first)
            }
            Saying::Outermost(p, side) => in_order(things, fitting(p), *side, 1),
            Saying::Ordinal(p, n, side) => in_order(things, fitting(p), *side, *n),
            Saying::Corner(p, a, b) => {
                let far = |i: &usize| a.away(&things[*i]).max(b.away(&things[*i]));
                sharply(&fitting(p), |i| far(i) < CORNER.0, |i| far(i) > CORNER.1)
            }
            Saying::Beside(p, side, q) => {
                let anchor = only(q)?;
                let others: Vec<_> = fitting(p).into_iter().filter(|i| *i != anchor).collect();
                let ahead = |i: &usize| side.away(&things[anchor]) - side.away(&things[*i]);
                sharply(&others, |i| ahead(i) > MARGIN, |i| ahead(i) < -MARGIN / 2.0)
            }
            Saying::Nearest(p, q) => {
                let anchor = only(q)?;
                let mut others: Vec<_> = fitting(p).into_iter().filter(|i| *i != anchor).collect();
                let apart = |i: &usize| things[*i].distance(&things[anchor]);
                others.sort_by(|a, b| apart(a).total_cmp(&apart(b)));
                let [first, second, ..] = others[..] else {
                    return None;
                };
                (apart(&second) - apart(&first) > 1.5 * MARGIN).then_some(first)
            }
            Saying::PartlyHidden(p) => {
                let found = fitting(p).into_iter();
                let mut hidden = found.filter(|i| things[*i].partly_hidden());
                let one = hidden.next()?;
                hidden.next().is_none().then_some(one)
            }
            Saying::Behind(p, q) => {
                let front = only(q)?;
                let found = fitting(p).into_iter();
                let mut behind = found.filter(|i| things[*i].hidden_by == Some(front));
                let one = behind.next()?;
                behind.next().is_none().then_some(one)
            }
            Saying::InFront(p, q) => {
                let behind = only(q)?;
                let front = things[behind].hidden_by?;
                p.fits(&things[front]).then_some(front)
            }
        }
    }
}

/// The one of `among` for which `yes` holds, if for all others `no` does.
fn sharply(
    among: &[usize],
    yes: impl Fn(&usize) -> bool,
    no: impl Fn(&usize) -> bool,
) -> Option<usize> {
    let one = among.iter().copied().find(|i| yes(i))?;
    among.iter().all(|i| *i == one || no(i)).then_some(one)
}

/// Number `n` from a side, counted from 1, of two things or more that lie well apart.
fn in_order(things: &[Thing], mut found: Vec<usize>, side: Side, n: usize) -> Option<usize> {
    let away = |i: &usize| side.away(&things[*i]);
    found.sort_by(|a, b| away(a).total_cmp(&away(b)));
    let apart = |pair: &[usize]| away(&pair[1]) - away(&pair[0]) > MARGIN;
    let counted = found.windows(2).take(n).all(apart);
    let place = n.checked_sub(1)?;
    (found.len() > 1 && counted).then(|| found.get(place).copied())?
}

/// What may be named of a thing, from little to much: size, material, colour, shape.
const NAMED: [[bool; 4]; 8] = [
    [false, false, false, true],
    [false, false, true, false],
    [false, true, false, false],
    [false, false, true, true],
    [false, true, false, true],
    [false, true, true, false],
    [false, true, true, true],
    [false, false, false, false],
];

/// Every choice of words for a thing, from few to many.
fn phrases(thing: &Thing) -> impl Iterator<Item = Phrase> {
    NAMED.iter().map(|named| Phrase::of(thing, *named))
}

/// What may single out a thing of `phrase` by where it is from the one of `anchor`.
fn relations(
    phrase: Phrase,
    sides: impl IntoIterator<Item = Side>,
    anchor: Phrase,
) -> impl Iterator<Item = Saying> {
    let beside = sides.into_iter();
    let beside = beside.map(move |side| Saying::Beside(phrase, side, anchor));
    beside.chain([Saying::Nearest(phrase, anchor)])
}

impl Scene {
    /// What a data set has of this scene: [`sayings`](Self::sayings), and for each thing and each
    /// other one more relation between the two, where one is certain and not said already; as
    /// (thing, saying), things in order and kinds in order. Nothing is said twice.
    pub fn sentences(&self) -> Vec<(usize, Saying)> {
        let mut draw = Draw::new(random::mix(self.key, 8));
        let mut all = self.sayings();
        for thing in 0..self.things.len() {
            for anchor in self.anchors(thing, &mut draw) {
                let found = self.relation(thing, anchor, &mut draw);
                let new = found.map(|saying| (thing, saying));
                all.extend(new.filter(|new| !all.contains(new)));
            }
        }
        all.sort_by_key(|(thing, saying)| (*thing, saying.kind()));
        all
    }

    /// Sentences that each mean one thing: at most four of a thing and one of each kind, as
    /// (thing, saying), things in order.
    pub fn sayings(&self) -> Vec<(usize, Saying)> {
        let mut draw = Draw::new(random::mix(self.key, 5));
        let mut all = Vec::new();
        for thing in 0..self.things.len() {
            let kinds = draw.shuffled(&Kind::ALL);
            let found = kinds
                .into_iter()
                .filter_map(|kind| self.saying(thing, kind, &mut draw));
            let mut found: Vec<_> = found.take(MOST).map(|saying| (thing, saying)).collect();
            found.sort_by_key(|(_, saying)| saying.kind());
            all.extend(found);
        }
        all
    }

    /// Words for `thing` that fit others too: what a place or a relation singles out must not be
    /// singled out by its words alone.
    fn shared(&self, thing: usize) -> Vec<Phrase> {
        let several = |p: &Phrase| self.things.iter().filter(|t| p.fits(t)).count() > 1;
        phrases(&self.things[thing]).filter(several).collect()
    }

    /// A sentence of one kind that means `thing`, if there is one.
    fn saying(&self, thing: usize, kind: Kind, draw: &mut Draw) -> Option<Saying> {
        let here = &self.things[thing];
        let shared = self.shared(thing);
        let sides = draw.shuffled(&Side::ALL);
        let mut sayings = Vec::new();
        match kind {
            Kind::Attribute => sayings.extend(phrases(here).map(Saying::Plain)),
            Kind::Size => {
                for phrase in &shared {
                    let size = Some(here.size);
                    sayings.push(Saying::Plain(Phrase { size, ..*phrase }));
                    sayings.push(Saying::Extreme(*phrase, true));
                    sayings.push(Saying::Extreme(*phrase, false));
                }
            }
            Kind::Position => {
                for phrase in &shared {
                    sayings.extend(sides.iter().map(|s| Saying::Outermost(*phrase, *s)));
                    for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                        let (a, b) = (Side::ALL[2 + a], Side::ALL[b]);
                        sayings.push(Saying::Corner(*phrase, a, b));
                    }
                }
            }
            Kind::Ordinal => {
                for phrase in &shared {
                    for n in 2..=3 {
                        sayings.extend(sides.iter().map(|s| Saying::Ordinal(*phrase, n, *s)));
                    }
                }
            }
            Kind::Relation => {
                for anchor in self.anchors(thing, draw) {
                    for phrase in &shared {
                        sayings.extend(relations(*phrase, sides.iter().copied(), anchor));
                    }
                }
            }
            Kind::Hidden => {
                sayings.extend(shared.iter().map(|p| Saying::PartlyHidden(*p)));
                for anchor in self.anchors(thing, draw) {
                    for phrase in &shared {
                        sayings.push(Saying::Behind(*phrase, anchor));
                        sayings.push(Saying::InFront(*phrase, anchor));
                    }
                }
            }
        }
        let sayings = draw.shuffled(&sayings);
        sayings.into_iter().find(|s| s.meant(self) == Some(thing))
    }

    /// A sentence that means `thing` by where it is from the thing that `anchor` fits.
    fn relation(&self, thing: usize, anchor: Phrase, draw: &mut Draw) -> Option<Saying> {
        let sayings: Vec<_> = self
            .shared(thing)
            .iter()
            .flat_map(|phrase| relations(*phrase, Side::ALL, anchor))
            .collect();
        let sayings = draw.shuffled(&sayings);
        sayings.into_iter().find(|s| s.meant(self) == Some(thing))
    }

    /// For each thing but `thing`, words that fit it alone, if there are any.
    fn anchors(&self, thing: usize, draw: &mut Draw) -> Vec<Phrase> {
        let others = (0..self.things.len()).filter(|i| *i != thing);
        let found = others.filter_map(|other| {
            let named = draw.shuffled(&NAMED);
            let phrases = named.iter().map(|n| Phrase::of(&self.things[other], *n));
            phrases
                .filter(|p| Saying::Plain(*p).meant(self) == Some(other))
                .find(|p| *p != Phrase::default())
        });
        found.collect()
    }

    /// Caption `number` of the whole scene: every thing with its attributes and place, in some
    /// order, and what sentences of the other kinds say.
    pub fn caption(&self, number: u64) -> String {
        let mut draw = Draw::new(random::mix(random::mix(self.key, 6), number));
        let mut facts = Vec::new();
        let order: Vec<usize> = (0..self.things.len()).collect();
        for i in draw.shuffled(&order) {
            let thing = &self.things[i];
            let keep = [0.7, 0.8, 0.9, 0.9].map(|chance| draw.chance(chance));
            let phrase = Phrase::of(thing, keep).text();
            let place = if draw.chance(0.8) { place(thing) } else { "" };
            facts.push(format!("a {phrase}{place}"));
        }
        let turning = |s: &Saying| s.kind() > Kind::Size;
        let sayings: Vec<_> = self.sayings();
        let sayings: Vec<_> = sayings.iter().filter(|(_, s)| turning(s)).collect();
        for (thing, saying) in draw.shuffled(&sayings).into_iter().take(2) {
            let named = [
                [false, false, true, false],
                [false, true, true, false],
                [false, false, true, true],
            ];
            let thing = &self.things[*thing];
            let is = match draw.of(&named) {
                named if named[3] => format!("a {}", Phrase::of(thing, named).text()),
                named => {
                    let text = Phrase::of(thing, named).text();
                    text.trim_end_matches(" shape").to_string()
                }
            };
            facts.push(format!("{} is {is}", saying.text()));
        }
        if draw.chance(0.3) {
            facts.push(format!("a {} ground", self.ground.word()));
        }
        draw.shuffled(&facts).join(", ")
    }
}

/// In which of nine fields a thing stands.
fn place(thing: &Thing) -> &'static str {
    let third = |at: f64| ((at * 3.0) as usize).min(2);
    const PLACES: [[&str; 3]; 3] = [
        [" at the top left", " at the top", " at the top right"],
        [" on the left", " in the middle", " on the right"],
        [
            " at the bottom left",
            " at the bottom",
            " at the bottom right",
        ],
    ];
    PLACES[third(thing.centre.1)][third(thing.centre.0)]
}
