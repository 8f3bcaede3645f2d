//! COCO's `instances.json`: pictures and annotations by number. Owns which
//! fields are read and written; what a segmentation draws is
//! [`mask`](crate::mask)'s and [`run_length`](crate::run_length)'s.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::RefcocoError;
use crate::run_length::Written;

/// A picture.
#[derive(Serialize, Deserialize)]
pub(super) struct Image {
    pub id: i64,
    pub file_name: String,
    #[serde(default)]
    pub width: Option<u32>,
    #[serde(default)]
    pub height: Option<u32>,
}

impl Image {
    /// Width and height, where the file says.
    pub fn size(&self) -> Option<(u32, u32)> {
        self.width.zip(self.height)
    }
}

/// An object of a picture.
#[derive(Serialize, Deserialize)]
pub(super) struct Annotation {
    pub id: i64,
    pub image_id: i64,
    #[serde(default)]
    pub category_id: i64,
    pub segmentation: Segmentation,
    #[serde(default)]
    pub area: f64,
    #[serde(default)]
    pub bbox: Vec<f64>,
    #[serde(default)]
    pub iscrowd: u8,
}

/// Where an object is, unchecked.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    RunLengths(Written),
}

impl<'de> Deserialize<'de> for Segmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Segmentation;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of polygons or run lengths {\"size\": …, \"counts\": …}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Segmentation, A::Error> {
                let mut polygons = Vec::new();
                while let Some(polygon) = seq.next_element()? {
                    polygons.push(polygon);
                }
                Ok(Segmentation::Polygons(polygons))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Segmentation, A::Error> {
                let written = Written::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Segmentation::RunLengths(written))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The file's parts that are read.
#[derive(Deserialize)]
struct Contents {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

/// Pictures and annotations by their numbers.
pub(super) struct Instances {
    pub images: HashMap<i64, Image>,
    pub annotations: HashMap<i64, Annotation>,
    /// Bytes of the file.
    pub size: usize,
}

/// Reads the file.
pub(super) fn read(file: &Path) -> Result<Instances, RefcocoError> {
    let bytes = std::fs::read(file).map_err(|reason| RefcocoError::Unreadable {
        path: file.into(),
        reason,
    })?;
    let contents: Contents =
        serde_json::from_slice(&bytes).map_err(|error| RefcocoError::Form {
            file: file.into(),
            reason: format!("is not as COCO's instances are: {error}"),
        })?;
    let images = contents.images.into_iter().map(|image| (image.id, image));
    let annotations = contents.annotations.into_iter();
    Ok(Instances {
        images: images.collect(),
        annotations: annotations
            .map(|annotation| (annotation.id, annotation))
            .collect(),
        size: bytes.len(),
    })
}
