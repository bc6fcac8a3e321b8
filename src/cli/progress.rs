//! How the layers of a pull come along: bars on a terminal, lines elsewhere.

use crate::error::say;
use crate::store::import::{Found, Step};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// One bar for each layer, or one line once it is there; on standard error.
pub struct Progress {
    bars: Vec<ProgressBar>,
    /// By layer, where there are no bars.
    lines: Option<Vec<String>>,
}

impl Progress {
    /// Of the layers of an image.
    pub fn new(found: &Found) -> Progress {
        let layers = found.layers();
        if !std::io::stderr().is_terminal() {
            let name = |layer: &crate::store::import::Packed| {
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
        let bar = |layer: &crate::store::import::Packed| {
            // The digest's first digits are enough to tell layers apart.
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

    /// A step of one layer.
    pub fn tell(&self, layer: usize, step: Step) {
        if let Some(lines) = &self.lines {
            match step {
                Step::Read(_) => {}
                Step::There(_) => say(&format!("{}  there already\n", lines[layer])),
                Step::Stored => say(&format!("{}  stored\n", lines[layer])),
            }
            return;
        }
        let bar = &self.bars[layer];
        match step {
            Step::Read(bytes) => bar.inc(bytes),
            Step::There(bytes) => {
                bar.set_position(bytes);
                bar.finish_with_message("there already");
            }
            Step::Stored => bar.finish_with_message("stored"),
        }
    }
}
