//! A dual encoder as code uses it: pictures and sentences in, vectors and streams out.
//!
//! Owns the preparation of pictures and sentences for a forward pass, and [`Encoder`], which runs
//! a frozen backbone or what stands beside it. Training and tasks are elsewhere; the walk over
//! the towers is [`sdk::tuned`](crate::sdk::tuned)'s.

use candle_core::Tensor;
use image::RgbImage;

use crate::named;
use crate::sdk::backbone::Backbone;
use crate::sdk::hub::Progress;
use crate::sdk::parameter::Params;
use crate::sdk::pass::Pass;
use crate::sdk::plugin::{Opt, Plugin};
use crate::sdk::preparation::Preparation;
use crate::sdk::recipe::{Recipe, TrainOptions, WeightsChoice};
use crate::sdk::registry::Configured;
use crate::sdk::site::{At, Tap, Tower};
use crate::sdk::stream::{Form, Stream};
use crate::sdk::task::{Batch, DataSource, Dataset, Head, Kit, Task};
use crate::sdk::topology::Topology;
use crate::sdk::tuned::{Compute, Inputs, Tuned};
use crate::sdk::{Error, Result, weights};
use crate::tasks::batches::{all_pairs, prepared};

/// A backbone, opened, with whatever adapters a recipe puts beside it.
///
/// ```
/// use twinspan::{Encoder, Indices};
/// let encoder = Encoder::open("pocket")?;
/// let picture = image::RgbImage::new(80, 60);
/// let pictures = encoder.encode_image(std::slice::from_ref(&picture))?;
/// let sentences = encoder.encode_text(&["a red disc", "the square"])?;
/// let patches = encoder.encode_patches(std::slice::from_ref(&picture))?;
/// assert_eq!(patches.dims(), [1, 128, 8, 8]);
/// let blocks = Indices { vision: &[0, 2], text: &[1] };
/// let streams = encoder.forward_intermediates(&[picture], &["a red disc"], blocks)?;
/// assert_eq!((streams.vision.len(), streams.text.len()), (2, 1));
/// assert_eq!(streams.vision[0].grid()?.dims()[2..], [8, 8]);
/// assert_eq!((pictures.dims(), sentences.dims()), (&[1, 128][..], &[2, 128][..]));
/// # Ok::<(), twinspan::sdk::Error>(())
/// ```
pub struct Encoder {
    pub(crate) tuned: Tuned,
    pub(crate) kit: Kit,
}

/// Which streams [`Encoder::forward_intermediates`] gives: blocks of each tower, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Indices<'a> {
    /// Blocks of the vision tower.
    pub vision: &'a [usize],
    /// Blocks of the text tower.
    pub text: &'a [usize],
}

/// The streams after some blocks.
#[derive(Clone, Debug, Default)]
pub struct Intermediates {
    /// Of the pictures: patches and special tokens `[B, N, D]`, or maps `[B, C, H, W]`.
    pub vision: Vec<Stream>,
    /// Of the sentences: words `[B, L, D]`.
    pub text: Vec<Stream>,
}

impl Encoder {
    /// A frozen dual encoder by the name of a backbone whose weights are built in (`pocket`), or
    /// by its weights: a model of the hub (`openai/clip-vit-base-patch16`), a folder or a file.
    /// What it is made of is read from the files beside the weights. In f32 on the CPU.
    ///
    /// # Errors
    /// There is no such backbone and there are no such weights; nothing says what the weights are
    /// of ([`from_toml`](Self::from_toml) then takes backbone and preset).
    pub fn open(what: &str) -> Result<Self> {
        Self::open_with(what, toml::Table::new(), Compute::default(), &())
    }

    /// The same with options of the backbone, among them perhaps `use`, `weights` aside; computed
    /// as `compute` says, and with `progress` told of downloads.
    ///
    /// # Errors
    /// As [`open`](Self::open); an option is unknown.
    pub fn open_with(
        what: &str,
        options: toml::Table,
        compute: Compute,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let recipe = named::recipe(what, options, progress)?;
        Self::from_recipe(&looking(recipe)?, compute, progress)
    }

    /// A frozen backbone from the text of a recipe's `[backbone]` table: `use`, `weights`,
    /// `tokenizer` and the backbone's own options.
    ///
    /// # Errors
    /// The text is not such a table, or names what does not exist.
    pub fn from_toml(text: &str) -> Result<Self> {
        let backbone: toml::Table = text.parse().map_err(|e: toml::de::Error| Error::Recipe {
            origin: "[backbone]".into(),
            message: e.message().to_string(),
        })?;
        let recipe = weights::described(&named::of_backbone(backbone)?, &())?;
        Self::from_recipe(&looking(recipe)?, Compute::default(), &())
    }

    /// A frozen backbone made in code.
    ///
    /// # Errors
    /// The options do not fit together, or the weights are not the backbone's.
    pub fn of(
        backbone: Configured<dyn Backbone>,
        weights: WeightsChoice,
        compute: Compute,
    ) -> Result<Self> {
        let recipe = Recipe {
            backbone,
            weights,
            adapters: Vec::new(),
            task: Configured::<dyn Task>::of(Looking {})?,
            train: TrainOptions::default(),
        };
        Self::from_recipe(&recipe, compute, &())
    }

    /// The backbone of a recipe with its adapters, new.
    pub(crate) fn from_recipe(
        recipe: &Recipe,
        compute: Compute,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let base = weights::open_telling(recipe, progress)?;
        let kit = kit(recipe, &compute, progress)?;
        let mut tuned = Tuned::new(recipe, base, compute)?;
        tuned.prepare(Some(kit.tokenizer.as_ref()), None)?;
        Ok(Self { tuned, kit })
    }

    /// One vector a picture in the joint space, `[B, E]`, not normalised. Pictures of any size
    /// are brought to the backbone's square input as its preparation says.
    ///
    /// # Errors
    /// There is no picture, or one is empty; an adapter makes pictures depend on sentences.
    pub fn encode_image(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        Ok(self.look(At::Pooled, pictures)?.data.detach())
    }

    /// A vector for every patch, `[B, E, h, w]` on the grid of the tower's last features, not
    /// normalised: in the joint space where the backbone projects densely, as those of this
    /// project do, so that they compare with [`encode_text`](Self::encode_text). The grid is that
    /// of the square input: of a letterboxed picture it has the border too.
    ///
    /// # Errors
    /// As [`encode_image`](Self::encode_image); or the tower's last features lie on no grid.
    pub fn encode_patches(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        Ok(self.look(At::Final, pictures)?.grid()?.detach())
    }

    /// One vector a sentence in the joint space, `[B, E]`, not normalised. What is longer than
    /// the backbone's context is cut.
    ///
    /// # Errors
    /// There is no sentence; an adapter makes sentences depend on pictures.
    pub fn encode_text(&self, sentences: &[&str]) -> Result<Tensor> {
        let inputs = Inputs {
            tokens: Some(self.tokens(sentences)?),
            ..Inputs::default()
        };
        Ok(self.walk(Tap::text(At::Pooled), &inputs)?.data.detach())
    }

    /// The similarity of every picture with every sentence, `[pictures, sentences]`, as the model
    /// was trained with it: scaled, and with its bias where it has one. Among all sentences their
    /// softmax, or of each pair for itself the sigmoid
    /// ([`Contrast`](crate::sdk::topology::Contrast)), is a probability.
    ///
    /// # Errors
    /// There is no picture or no sentence, or a picture is empty.
    pub fn similarities(&self, pictures: &[RgbImage], sentences: &[&str]) -> Result<Tensor> {
        let inputs = Inputs {
            images: Some(self.pictures(pictures)?),
            tokens: Some(self.tokens(sentences)?),
            pairs: all_pairs(pictures.len(), sentences.len()),
        };
        Ok(self.walk(Tap::vision(At::Logits), &inputs)?.data.detach())
    }

    /// The streams after the blocks that `indices` name. A tower none of them needs does not run,
    /// and may be given nothing. Where an adapter makes the towers look at each other, picture
    /// and sentence `i` are a pair.
    ///
    /// # Errors
    /// There is no such block; a tower that is needed is given nothing; an adapter asks for pairs
    /// and there are not as many pictures as sentences.
    pub fn forward_intermediates(
        &self,
        pictures: &[RgbImage],
        sentences: &[&str],
        indices: Indices,
    ) -> Result<Intermediates> {
        let vision = indices.vision.iter().map(|i| Tap::vision(At::Block(*i)));
        let text = indices.text.iter().map(|i| Tap::text(At::Block(*i)));
        let taps: Vec<Tap> = vision.chain(text).collect();
        let route = self.tuned.route(&taps)?;
        let mut inputs = Inputs::default();
        if !pictures.is_empty() {
            inputs.images = Some(self.pictures(pictures)?);
        }
        if !sentences.is_empty() {
            inputs.tokens = Some(self.tokens(sentences)?);
        }
        let both = inputs.images.is_some() && inputs.tokens.is_some();
        if both && !route.crossing().is_empty() {
            if pictures.len() != sentences.len() {
                return Err(Error::Shape {
                    what: format!(
                        "a batch of pairs, which `{}` asks for,",
                        route.crossing().join("` and `")
                    ),
                    expected: vec![pictures.len()],
                    got: vec![sentences.len()],
                });
            }
            inputs.pairs = (0..pictures.len() as u32).map(|i| (i, i)).collect();
        }
        let mut streams = route.walk(&inputs, &mut Pass::predict())?;
        let text = streams.split_off(indices.vision.len());
        Ok(Intermediates {
            vision: streams,
            text,
        })
    }

    /// The model itself.
    pub fn tuned(&self) -> &Tuned {
        &self.tuned
    }

    /// How pictures are prepared for it.
    pub fn preparation(&self) -> &Preparation {
        &self.kit.preparation
    }

    /// What the backbone is made of: its blocks, stages and widths.
    pub fn topology(&self) -> &Topology {
        &self.tuned.topology
    }

    fn look(&self, at: At, pictures: &[RgbImage]) -> Result<Stream> {
        let inputs = Inputs {
            images: Some(self.pictures(pictures)?),
            ..Inputs::default()
        };
        self.walk(Tap::vision(at), &inputs)
    }

    fn walk(&self, tap: Tap, inputs: &Inputs) -> Result<Stream> {
        let route = self.tuned.route(&[tap])?;
        let mut streams = route.walk(inputs, &mut Pass::predict())?;
        let last = streams.pop();
        last.ok_or(Error::NothingGiven { tower: tap.tower })
    }

    /// `[B, 3, S, S]`.
    fn pictures(&self, pictures: &[RgbImage]) -> Result<Tensor> {
        if pictures.is_empty() {
            return Err(Error::NothingGiven {
                tower: Tower::Vision,
            });
        }
        prepared(pictures, &self.kit)
    }

    /// Sentences as ids `u32 [B, L]`, as long as the backbone's context.
    ///
    /// # Errors
    /// There is no sentence.
    pub fn tokens(&self, sentences: &[&str]) -> Result<Tensor> {
        if sentences.is_empty() {
            return Err(Error::NothingGiven { tower: Tower::Text });
        }
        let words = self.tuned.topology.text.context;
        let encoded = sentences
            .iter()
            .map(|sentence| self.kit.tokenizer.encode(sentence, words).ids);
        let ids: Vec<u32> = encoded.flatten().collect();
        Ok(Tensor::from_vec(
            ids,
            (sentences.len(), words),
            &self.kit.device,
        )?)
    }
}

/// What data needs of a recipe's backbone, computed with as `compute` says; `progress` is told if
/// the vocabulary has to be downloaded.
///
/// # Errors
/// The vocabulary is not there, or is another model's.
pub fn kit(recipe: &Recipe, compute: &Compute, progress: &dyn Progress) -> Result<Kit> {
    Ok(Kit {
        preparation: recipe.backbone.plugin.preparation(),
        tokenizer: weights::tokenizer_telling(recipe, progress)?,
        context: recipe.backbone.plugin.topology()?.text.context,
        dtype: compute.dtype,
        device: compute.device.clone(),
    })
}

/// The same recipe for who only looks.
fn looking(recipe: Recipe) -> Result<Recipe> {
    let task = Configured::<dyn Task>::of(Looking {})?;
    Ok(Recipe { task, ..recipe })
}

/// The task of who only looks: everything is read, and nothing is trained.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Looking {}

impl Plugin for Looking {
    const NAME: &'static str = "looking";
    const ABOUT: &'static str = "reads the features of a backbone";
    const OPTIONS: &'static [Opt] = &[];
}

impl Task for Looking {
    fn reads(&self, _: &Topology) -> Result<Vec<Tap>> {
        let ends = [At::Final, At::Pooled];
        let towers = ends
            .into_iter()
            .flat_map(|at| [Tap::vision(at), Tap::text(at)]);
        Ok(towers.chain([Tap::vision(At::Logits)]).collect())
    }

    fn head(&self, _: &Topology, _: &mut Params) -> Result<Box<dyn Head>> {
        Ok(Box::new(Looking {}))
    }

    fn words(&self) -> usize {
        0
    }

    fn open(&self, _: &DataSource, _: Kit) -> Result<std::sync::Arc<dyn Dataset>> {
        Err(Error::wrong_use("an encoder without a task has no data"))
    }
}

impl Head for Looking {
    fn forward(&self, features: &[Stream], _: &mut Pass) -> Result<Tensor> {
        let logits = features.iter().rfind(|f| matches!(f.form, Form::Pooled));
        logits
            .map(|f| f.data.clone())
            .ok_or_else(|| Error::wrong_use("an encoder without a task has no logits"))
    }

    fn loss(&self, _: &Tensor, _: &Batch) -> Result<Tensor> {
        Err(Error::wrong_use("an encoder without a task has no loss"))
    }
}
