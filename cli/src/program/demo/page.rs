//! The demonstration as a page: scores, and every picture of the sheet at its own size.

use std::path::Path;

use twinspan::sdk::file::write_whole;
use twinspan::tasks::picture;

use super::super::failure::Failure;
use super::super::plan::grouped;
use super::sheet::Tile;
use super::{Outcome, rows};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:right}td:first-child,th:first-child{text-align:left}\
tr:nth-child(even){background:#f3f3f3}figure{margin:1.5rem 0}figure div{display:flex;gap:.6rem;flex-wrap:wrap}\
figure span{font-size:.8rem;color:#666;text-align:center}figure img{display:block;width:176px;image-rendering:pixelated}\
figcaption b{font-weight:600}figcaption i{color:#888;font-style:normal;font-size:.8rem}";

/// Writes `index.html` and the pictures it shows, `overlays/*.png`, into `folder`.
pub fn write(folder: &Path, outcome: &Outcome, tiles: &[Tile]) -> Result<(), Failure> {
    let overlays = folder.join("overlays");
    std::fs::create_dir_all(&overlays).map_err(|source| Failure::Io {
        what: overlays.display().to_string(),
        source,
    })?;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>twinspan demo</title>\n\
         <style>{STYLE}</style>\n<h1>A bridge beside a frozen encoder</h1>\n\
         <p>Which pixels does the sentence mean? The frozen pocket encoder with a Bridger \
         ({} parameters trained, the head among them) and with the head alone ({}), both trained on \
         the same scenes for as many steps. Seed {}, {:.0} seconds in all; mIoU on scenes that \
         training never saw:</p>\n<table>\n<tr><th>sentences<th>number<th>Bridger<th>head alone\n",
        grouped(outcome.bridger.parameters),
        grouped(outcome.head_alone.parameters),
        outcome.seed,
        outcome.seconds
    );
    for (name, count, with, without) in rows(outcome) {
        html += &format!("<tr><td>{name}<td>{count}<td>{with:.1}<td>{without:.1}\n");
    }
    html += &format!(
        "</table>\n<p>With its sentences shuffled among the pictures the Bridger falls to {:.1}; \
         the best mask that never changes has {:.1}. The first sentences of each kind, whatever \
         came out; the number below an answer is its IoU:</p>\n",
        outcome.shuffled, outcome.constant
    );
    for (number, tile) in tiles.iter().enumerate() {
        html += &format!(
            "<figure><figcaption><b>{}</b> <i>{}</i></figcaption><div>\n",
            tile.sentence, tile.kind
        );
        for (column, (what, image)) in tile.pictures.iter().enumerate() {
            let file = format!("{number:02}-{column}.png");
            picture::save_picture(overlays.join(&file), image)?;
            html += &format!(
                "<span><img src=\"overlays/{file}\" alt=\"{what}: {}\">{what}</span>\n",
                tile.sentence
            );
        }
        html += "</div></figure>\n";
    }
    write_whole(&folder.join("index.html"), |file| {
        file.write_all(html.as_bytes())
    })?;
    Ok(())
}
