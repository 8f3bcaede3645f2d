//! A tuned model as code uses it: made from a recipe or opened, its adapters on, off or in part.
//!
//! Owns [`Model`], which keeps a recipe, the model made from it, and what prepares its inputs
//! together. Training is [`sdk::train`](crate::sdk::train)'s.

use std::ops::Deref;
use std::path::Path;

use image::RgbImage;

use crate::encoder::{Encoder, kit};
use crate::sdk::hub::Progress;
use crate::sdk::plugin::Plugin;
use crate::sdk::recipe::Recipe;
use crate::sdk::task::Kit;
use crate::sdk::tuned::{Compute, Tuned};
use crate::sdk::{Error, Result, artifact, weights};
use crate::tasks::referring_segmentation::ReferringSegmentation;
use crate::tasks::referring_segmentation::predict::{Prediction, segment};

/// A frozen dual encoder with adapters and a task's head. It is an [`Encoder`] too: what that
/// gives, it gives with the adapters.
///
/// ```
/// use twinspan::Model;
/// use twinspan::sdk::recipe::Recipe;
///
/// let recipe = r#"
///     backbone = { use = "pocket" }
///     adapter = [{ use = "bridger", dim = 16, heads = 2 }, { use = "lora", rank = 2 }]
///     task = { use = "referring-segmentation", width = 32, layers = 1, heads = 2, ffn = 32 }
/// "#;
/// let mut model = Model::from_recipe(Recipe::parse(recipe, "example")?)?;
/// let picture = image::RgbImage::new(80, 60);
/// let masks = model.segment(&picture, &["the red disc"])?;
/// assert_eq!(masks[0].mask.len(), 80 * 60);
///
/// // A bridge makes a sentence depend on the picture; without it the text runs alone.
/// assert!(model.encode_text(&["a red disc"]).is_err());
/// model.disable("bridger")?;
/// model.scale("lora", 0.5)?;
/// assert_eq!(model.encode_text(&["a red disc"])?.dims(), [1, 128]);
/// model.unload("lora")?;
/// assert!(model.tuned().labels().eq(["bridger"]));
///
/// let folder = tempfile::tempdir().map_err(twinspan::sdk::Error::plugin)?;
/// model.save(&folder.path().join("model"))?;
/// let other = model.load_artifact(&folder.path().join("model"))?;
/// assert_eq!(other.recipe().labels(), ["bridger"]);
/// # Ok::<(), twinspan::sdk::Error>(())
/// ```
pub struct Model {
    recipe: Recipe,
    encoder: Encoder,
}

impl Model {
    /// A new model in f32 on the CPU, from a recipe read
    /// ([`Recipe::open`]) or made in code; its adapters start from weights and tokenizer.
    ///
    /// # Errors
    /// The recipe does not fit its backbone, or its weights are not there.
    pub fn from_recipe(recipe: Recipe) -> Result<Self> {
        let recipe = weights::described(&recipe, &())?;
        let encoder = Encoder::from_recipe(&recipe, Compute::default(), &())?;
        Ok(Self { recipe, encoder })
    }

    /// The model in a folder, in f32 on the CPU, on the weights its recipe names.
    ///
    /// # Errors
    /// The folder is not a model, its weights are not there or are others, or it is damaged.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(folder, Compute::default(), &())
    }

    /// The same, computed as `compute` says, and with `progress` told of downloads.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        folder: impl AsRef<Path>,
        compute: Compute,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let folder = folder.as_ref();
        let recipe = artifact::recipe(folder, None)?;
        let base = weights::open_telling(&recipe, progress)?;
        let kit = kit(&recipe, &compute, progress)?;
        let tuned = artifact::open_on(folder, &recipe, base, compute)?;
        let encoder = Encoder { tuned, kit };
        Ok(Self { recipe, encoder })
    }

    /// The model in a folder on this model's base, which both then share: no weight is read
    /// anew.
    ///
    /// # Errors
    /// The folder is not a model, is damaged, or was made on weights of another digest.
    pub fn load_artifact(&self, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let compute = self.encoder.tuned.compute();
        let recipe = artifact::recipe(folder, None)?;
        let base = self.encoder.tuned.base.clone();
        let kit = kit(&recipe, &compute, &())?;
        let tuned = artifact::open_on(folder, &recipe, base, compute)?;
        let encoder = Encoder { tuned, kit };
        Ok(Self { recipe, encoder })
    }

    /// Writes the model as a folder, without measurements. What is disabled or scaled is written
    /// whole: strengths are not part of a model.
    ///
    /// # Errors
    /// The folder cannot be written, or holds something else.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        artifact::check(folder)?;
        let metrics = serde_json::Value::Object(serde_json::Map::new());
        artifact::save(folder, &self.recipe, &self.encoder.tuned, &metrics, &|_| {
            Ok(())
        })
    }

    /// The pixels of a picture that each sentence means.
    ///
    /// # Errors
    /// The task is another; there is no sentence, or one is blank; the picture is empty.
    pub fn segment(&self, picture: &RgbImage, sentences: &[&str]) -> Result<Vec<Prediction>> {
        if self.recipe.task.name != ReferringSegmentation::NAME {
            return Err(Error::wrong_use(format!(
                "this model's task is `{}`; `segment` needs `{}`",
                self.recipe.task.name,
                ReferringSegmentation::NAME
            )));
        }
        let task = ReferringSegmentation::from_options(&self.recipe.task.options)?;
        let sentences: Vec<String> = sentences.iter().map(|s| s.to_string()).collect();
        let Encoder { tuned, kit } = &self.encoder;
        let (predictions, _) = segment(tuned, &task, kit, picture, &sentences)?;
        Ok(predictions)
    }

    /// Lets an adapter act again; see [`Tuned::enable`].
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn enable(&mut self, label: &str) -> Result<()> {
        self.encoder.tuned.enable(label)
    }

    /// Lets an adapter stand by, as if it were not there; see [`Tuned::disable`].
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn disable(&mut self, label: &str) -> Result<()> {
        self.encoder.tuned.disable(label)
    }

    /// Lets `scale` times what an adapter changes count; see [`Tuned::scale`].
    ///
    /// # Errors
    /// No adapter has this label, or a part of what it changes makes no sense.
    pub fn scale(&mut self, label: &str, scale: f64) -> Result<()> {
        self.encoder.tuned.scale(label, scale)
    }

    /// Takes an adapter out of the model and its recipe; see [`Tuned::without`]. Labels behind it
    /// close up: with two of a name, `lora-2` becomes `lora`.
    ///
    /// # Errors
    /// No adapter has this label.
    pub fn unload(&mut self, label: &str) -> Result<()> {
        let (recipe, tuned) = self.encoder.tuned.without(&self.recipe, label)?;
        self.recipe = recipe;
        self.encoder.tuned = tuned;
        Ok(())
    }

    /// The recipe, with every default filled in.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The model itself.
    pub fn tuned(&self) -> &Tuned {
        &self.encoder.tuned
    }

    /// The model itself, to train.
    pub fn tuned_mut(&mut self) -> &mut Tuned {
        &mut self.encoder.tuned
    }

    /// What data needs of it.
    pub fn kit(&self) -> &Kit {
        &self.encoder.kit
    }
}

impl Deref for Model {
    type Target = Encoder;

    fn deref(&self) -> &Encoder {
        &self.encoder
    }
}
