//! Repairs damaged unpacked files during an import.

use super::{Store, remove_unused, unique};
use crate::base::digest::Digest;
use crate::base::error::{Context, Reason, Result};
use crate::base::ids::Owners;
use crate::image::tree::Tree;
use crate::image::unpacked::Model;

impl Store {
    /// Removes an image's unpacked files if they differ from it.
    pub(in crate::store) fn mend_unpacked(
        &self,
        identity: &Digest,
        diff_ids: &[Digest],
        tree: &Tree,
    ) -> Result<()> {
        let tars = diff_ids.iter().map(|id| self.open_blob("layer", id));
        let model = Model {
            tree,
            tars: &tars.collect::<Result<Vec<_>>>()?,
            owners: Owners::own()?,
        };
        match self.compare_unpacked(identity, &model) {
            Err(error) if error.reason == Reason::Digest => {
                let path = self.unpacked_path(identity, model.owners);
                let old = path.with_file_name(unique(".old"));
                std::fs::rename(&path, &old).context(|| format!("rename({path:?}, {old:?})"))?;
                remove_unused(&old).map(drop)
            }
            other => other,
        }
    }
}
