//! Classification: which of some classes a picture shows.
//!
//! Owns the options and what they mean. Data is in `dataset`, its division in
//! `division`, the two heads in `head`, scores in `scores`, use of a model in
//! [`predict`].

mod dataset;
mod division;
mod head;
pub mod predict;
mod scores;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twinspan_sdk::parameter::Params;
use twinspan_sdk::plugin::{Opt, Plugin};
use twinspan_sdk::register;
use twinspan_sdk::site::{At, Tap};
use twinspan_sdk::task::{DataSource, Dataset, Head, Kit, Task};
use twinspan_sdk::topology::{Contrast, Topology};
use twinspan_sdk::{Error, Result};

use crate::batches::words_fit;
use crate::folders::Labelled;
use dataset::LabelledData;
use head::{LinearHead, SimilarityHead};

/// The task.
///
/// ```
/// use twinspan_tasks::classification::Classification;
///
/// let task = Classification {
///     classes: vec!["cat".into(), "guinea pig".into()],
///     ..Default::default()
/// };
/// assert_eq!(task.prompts(), ["a photo of a cat.", "a photo of a guinea pig."]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Classification {
    /// What tells the classes apart.
    pub head: HeadChoice,
    /// Names of the classes; taken from the data where there are none.
    pub classes: Vec<String>,
    /// Sentences about a class, `{}` in the place of its name; several are
    /// averaged.
    pub templates: Vec<String>,
    /// Ids a prompt is cut or padded to; 0 for as many as the backbone takes.
    pub words: usize,
    /// Pictures of each class to train on; 0 for all.
    pub shots: usize,
    /// Seed of the division into splits and of the shots.
    pub seed: u64,
}

/// What tells the classes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadChoice {
    /// The similarity of the picture with sentences about each class (CLIP,
    /// arXiv 2103.00020): nothing to train but what adapters bring.
    #[default]
    Similarity,
    /// A linear map of the picture's vector, trained; the text tower does not
    /// run.
    Linear,
}

impl Default for Classification {
    fn default() -> Self {
        Self {
            head: HeadChoice::default(),
            classes: Vec::new(),
            templates: vec!["a photo of a {}.".into()],
            words: 0,
            shots: 0,
            seed: 0,
        }
    }
}

impl Plugin for Classification {
    const NAME: &'static str = "classification";
    const ABOUT: &'static str = "which class a picture shows: zero-shot, few-shot or by a linear probe (CLIP, arXiv 2103.00020)";
    const OPTIONS: &'static [Opt] = &[
        Opt::new(
            "head",
            "\"similarity\" or \"linear\"",
            "what tells the classes apart: similarity with prompts, which is zero-shot and is trained through adapters, or a linear map of the picture's vector, trained",
        ),
        Opt::new(
            "classes",
            "list of strings",
            "names of the classes, two or more; taken from the data where there are none",
        ),
        Opt::new(
            "templates",
            "list of strings",
            "sentences about a class, {} in the place of its name; several are averaged",
        ),
        Opt::new(
            "words",
            "integer",
            "tokens a prompt is cut or padded to, start and end among them; 0 for as many as the backbone takes, which leaves no room for prompts that an adapter puts in",
        ),
        Opt::new(
            "shots",
            "integer",
            "pictures of each class to train on, drawn by `seed`; 0 for all",
        ),
        Opt::new(
            "seed",
            "integer",
            "seed of the draw of shots, and of splits where the data has none",
        ),
    ];
}

register!(task: Classification);

impl Classification {
    /// The sentences about the classes, all of a class behind each other.
    pub fn prompts(&self) -> Vec<String> {
        let of = |class: &String| {
            let filled = |template: &String| template.replace("{}", class);
            self.templates.iter().map(filled).collect::<Vec<_>>()
        };
        self.classes.iter().flat_map(of).collect()
    }

    /// The same task with the classes of `data` where it has none itself.
    fn of(&self, data: &Labelled) -> Result<Self> {
        let mut this = self.clone();
        if this.classes.is_empty() {
            division::all_are_trained(data)?;
            this.classes = data.classes();
        }
        this.check()?;
        Ok(this)
    }

    /// Refuses options that make no sense.
    fn check(&self) -> Result<()> {
        let wrong = |message: String| {
            Err(Error::Options {
                kind: "task",
                name: Self::NAME.into(),
                message,
            })
        };
        if self.templates.is_empty() {
            return wrong(
                "`templates` is empty; give at least one, as \"a photo of a {}.\"".into(),
            );
        }
        if let Some(template) = self.templates.iter().find(|t| !t.contains("{}")) {
            return wrong(format!(
                "the template `{template}` lacks {{}}, the place of the class's name"
            ));
        }
        if let [class] = self.classes.as_slice() {
            return wrong(format!(
                "there is one class, `{class}`; it takes two to tell apart"
            ));
        }
        if self.classes.iter().any(|class| class.trim().is_empty()) {
            return wrong("`classes` has a blank name".into());
        }
        let mut seen = BTreeSet::new();
        match self.classes.iter().find(|class| !seen.insert(*class)) {
            Some(twice) => wrong(format!("`classes` has `{twice}` twice")),
            None => Ok(()),
        }
    }

    fn fits(&self, topology: &Topology) -> Result<()> {
        self.check()?;
        words_fit(Self::NAME, self.words, topology)
    }
}

impl Task for Classification {
    /// The similarities, and with several templates the sentences' vectors;
    /// or the picture's vector alone.
    fn reads(&self, topology: &Topology) -> Result<Vec<Tap>> {
        self.fits(topology)?;
        let averaged = self.templates.len() > 1 && topology.contrast == Contrast::Softmax;
        Ok(match self.head {
            HeadChoice::Linear => vec![Tap::vision(At::Pooled)],
            HeadChoice::Similarity if averaged => {
                vec![Tap::vision(At::Logits), Tap::text(At::Pooled)]
            }
            HeadChoice::Similarity => vec![Tap::vision(At::Logits)],
        })
    }

    fn per_pair(&self) -> bool {
        false
    }

    fn head(&self, topology: &Topology, params: &mut Params) -> Result<Box<dyn Head>> {
        self.fits(topology)?;
        Ok(match self.head {
            HeadChoice::Linear => Box::new(LinearHead::make(self, topology, params)?),
            HeadChoice::Similarity => Box::new(SimilarityHead::new(self, topology)),
        })
    }

    fn words(&self) -> usize {
        self.words
    }

    /// With the classes of the data, where the options name none.
    fn fitted(&self, source: &DataSource) -> Result<Option<toml::Table>> {
        if !self.classes.is_empty() {
            return Ok(None);
        }
        let fitted = self.of(&opened(source)?)?;
        toml::Table::try_from(&fitted)
            .map(Some)
            .map_err(Error::plugin)
    }

    /// Opens a folder of folders or a JSONL file, as
    /// [`folders`](crate::folders) describes them.
    fn open(&self, source: &DataSource, kit: Kit) -> Result<Arc<dyn Dataset>> {
        let labelled = opened(source)?;
        let task = self.of(&labelled)?;
        Ok(Arc::new(LabelledData::new(&task, labelled, kit)?))
    }
}

fn opened(source: &DataSource) -> Result<Labelled> {
    let named = [("dataset", &source.dataset), ("split-by", &source.split_by)];
    if let Some((option, Some(name))) = named.iter().find(|(_, name)| name.is_some()) {
        return Err(Error::wrong_use(format!(
            "{}: is one data set; `{option}` ({name}) is for folders of the RefCOCO family",
            source.path.display()
        )));
    }
    Labelled::open(&source.path).map_err(Error::plugin)
}
