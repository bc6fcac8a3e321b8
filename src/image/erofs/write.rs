//! Writes the planned image from front to back.

use super::format::{
    self, BLOCK, Layout, NID_UNIT, SUPER_OFFSET, Super, chunk_format, device_number, xattrs_bytes,
};
use super::plan::{Plan, Shape, file_type};
use super::{Device, chunks, identity};
use crate::base::error::{Context, Error, Result};
use crate::image::layer::{self, Source};
use crate::image::tree::{Content, InodeId, Tree};
use std::io::{self, BufWriter, Write};

/// Maximum number of layers in one image. The device table precedes the root, whose number has 16 bits.
const DEVICES: usize = 8192;

/// Writes the image of a tree; `devices` are its layers' tars, lowest first.
///
/// The bytes depend only on the arguments. Memory: a few bytes per inode, and the contents of one
/// directory at a time.
pub fn write(tree: &Tree, devices: &[Device], out: &mut impl Write) -> Result<()> {
    if devices.len() > DEVICES {
        return Err(Error::policy(
            "tree image",
            format_args!("more than {DEVICES} layers"),
        ));
    }
    let blocks = devices
        .iter()
        .map(device_blocks)
        .collect::<Result<Vec<_>>>()?;
    let plan = Plan::new(tree, devices.len())?;
    let mut writer = Writer {
        plan,
        out: BufWriter::with_capacity(64 << 10, out),
        at: 0,
        next: 0,
    };
    writer.next = writer.plan.data;
    writer
        .image(devices, &blocks)
        .context(|| "write the tree image")
}

fn device_blocks(device: &Device) -> Result<u32> {
    u32::try_from(device.size.div_ceil(BLOCK)).map_err(|_| {
        Error::policy(
            format_args!("layer {}", device.digest),
            "its tar is larger than 2 TiB",
        )
    })
}

struct Writer<'t, W: Write> {
    plan: Plan<'t>,
    out: BufWriter<W>,
    /// Number of bytes written.
    at: u64,
    /// Next free block behind the inodes.
    next: u64,
}

impl<W: Write> Writer<'_, W> {
    fn image(&mut self, devices: &[Device], blocks: &[u32]) -> io::Result<()> {
        self.head(devices, blocks)?;
        for at in 0..self.plan.order.len() {
            let (inode, parent) = self.plan.order[at];
            self.inode(inode, parent)?;
        }
        self.pad(self.plan.data * BLOCK)?;
        for at in 0..self.plan.order.len() {
            let (inode, parent) = self.plan.order[at];
            self.blocks(inode, parent)?;
        }
        self.out.flush()
    }

    /// Writes the superblock and the device table.
    fn head(&mut self, devices: &[Device], blocks: &[u32]) -> io::Result<()> {
        let diff_ids: Vec<_> = devices.iter().map(|device| device.digest).collect();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&identity(&diff_ids).as_bytes()[..16]);
        let head = Super {
            root: self.plan.nid(InodeId::ROOT) as u16,
            inodes: self.plan.order.len() as u64,
            blocks: self.plan.blocks as u32,
            uuid,
            devices: devices.len() as u16,
        };
        self.pad(SUPER_OFFSET)?;
        self.put(&head.bytes())?;
        for (device, blocks) in devices.iter().zip(blocks) {
            self.put(&format::slot(&device.digest.hex(), *blocks))?;
        }
        Ok(())
    }

    /// Writes an inode with its xattrs and the data stored behind them.
    fn inode(&mut self, id: InodeId, parent: InodeId) -> io::Result<()> {
        let contents = self.plan.contents(id, parent);
        let shape = self.plan.shape(id, &contents);
        let inode = self.plan.tree.inode(id);
        let record = format::Inode {
            layout: shape.layout,
            file_type: file_type(&inode.content),
            meta: &inode.meta,
            size: shape.size,
            address: self.address(&inode.content, &shape),
            number: id.index() as u32 + 1,
            links: self.plan.tree.links(id),
        };
        let start = self.plan.nid(id) * NID_UNIT;
        self.pad(start)?;
        self.put(&record.bytes())?;
        self.put(&xattrs_bytes(&inode.meta.xattrs))?;
        self.behind(id, &contents, &shape)?;
        self.next += shape.blocks;
        Ok(())
    }

    /// Returns the inode's `i_u`.
    fn address(&self, content: &Content, shape: &Shape) -> u32 {
        match content {
            Content::Device { major, minor } => device_number(*major, *minor),
            Content::File { size, .. } if *size > 0 => chunk_format(layer::whole_bits(*size)),
            Content::Sparse { file, .. } if file.size > 0 => chunk_format(file.chunk_bits()),
            _ if shape.blocks > 0 => self.next as u32,
            _ => 0,
        }
    }

    fn behind(&mut self, id: InodeId, contents: &[u8], shape: &Shape) -> io::Result<()> {
        match (shape.layout, &self.plan.tree.inode(id).content) {
            (Layout::Inline, _) => self.put(&contents[(shape.blocks * BLOCK) as usize..]),
            (
                _,
                Content::File {
                    layer,
                    size,
                    offset,
                },
            ) => {
                let places = chunks::whole(layer + 1, *size, *offset, layer::whole_bits(*size));
                self.chunks(places)
            }
            (_, Content::Sparse { layer, file }) => {
                self.chunks(chunks::sparse(layer + 1, file, self.next))
            }
            _ => Ok(()),
        }
    }

    fn chunks(&mut self, places: impl Iterator<Item = chunks::Place>) -> io::Result<()> {
        self.pad(self.at.next_multiple_of(format::CHUNK_INDEX))?;
        for (device, block) in places {
            self.put(&format::chunk_index(device, block))?;
        }
        Ok(())
    }

    /// Writes an inode's blocks.
    fn blocks(&mut self, id: InodeId, parent: InodeId) -> io::Result<()> {
        if let Content::Sparse { file, .. } = &self.plan.tree.inode(id).content {
            for extent in &file.extents {
                if let Source::Copy(bytes) = &extent.source {
                    self.put(bytes)?;
                }
            }
            return Ok(());
        }
        let contents = self.plan.contents(id, parent);
        let shape = self.plan.shape(id, &contents);
        if shape.blocks > 0 {
            let end = contents.len().min((shape.blocks * BLOCK) as usize);
            self.put(&contents[..end])?;
            self.pad(self.at.next_multiple_of(BLOCK))?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes zeros up to an offset.
    fn pad(&mut self, to: u64) -> io::Result<()> {
        const ZEROS: [u8; SUPER_OFFSET as usize] = [0; SUPER_OFFSET as usize];
        while self.at < to {
            let count = (to - self.at).min(SUPER_OFFSET) as usize;
            self.put(&ZEROS[..count])?;
        }
        Ok(())
    }
}
