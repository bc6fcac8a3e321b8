//! An import repairs what it finds damaged.

use super::{Store, remove_unused, unique};
use crate::digest::Digest;
use crate::error::{Context, Reason, Result};
use crate::ids::Owners;
use crate::tree::Tree;
use crate::unpacked::Model;

impl Store {
    /// Throws away what is unpacked of an image and differs from it.
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
