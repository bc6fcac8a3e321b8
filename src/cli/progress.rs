//! Progress of a pull: bars on a terminal, lines elsewhere.

use crate::base::error::say;
use crate::store::import::{FoundImage, Step};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar for each layer, or a line for each stored layer, on standard error.
pub struct Progress {
    bars: Vec<ProgressBar>,
    /// Texts of the layers, if there are no bars.
    lines: Option<Vec<String>>,
}

impl Progress {
    /// Returns the progress of an image's layers.
    pub fn new(found: &FoundImage) -> Progress {
        let layers = found.layers();
        if !std::io::stderr().is_terminal() {
            let name = |layer: &crate::store::import::SourceLayer| {
                format!("{}  {}", layer.what(), HumanBytes(layer.size()))
            };
            return Progress {
                bars: Vec::new(),
                lines: Some(layers.iter().map(name).collect()),
            };
        }
        let style =
            ProgressStyle::with_template("{prefix} [{bar:30}] {bytes:>10}/{total_bytes:10} {msg}");
        let style = style.expect("the template is a constant");
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let bar = |layer: &crate::store::import::SourceLayer| {
            // The first digits of a digest distinguish layers.
            let prefix: String = layer
                .what()
                .chars()
                .take("layer sha256:".len() + 12)
                .collect();
            let bar = ProgressBar::new(layer.size())
                .with_style(style.clone())
                .with_prefix(prefix);
            all.add(bar)
        };
        Progress {
            bars: layers.iter().map(bar).collect(),
            lines: None,
        }
    }

    /// Shows a step of one layer.
    pub fn update(&self, layer: usize, step: Step) {
        if let Some(lines) = &self.lines {
            match step {
                Step::Read(_) => {}
                Step::Present(_) => say(&format!("{}  there already\n", lines[layer])),
                Step::Stored => say(&format!("{}  stored\n", lines[layer])),
            }
            return;
        }
        let bar = &self.bars[layer];
        match step {
            Step::Read(bytes) => bar.inc(bytes),
            Step::Present(bytes) => {
                bar.set_position(bytes);
                bar.finish_with_message("there already");
            }
            Step::Stored => bar.finish_with_message("stored"),
        }
    }
}
