//! A small disk of its own that can be full: a tmpfs, which only Linux has and only root, or the owner of a namespace,
//! may mount.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// A mounted disk. Dropping it loses everything on it.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A disk of so many bytes at `path`, a folder that is created where it is missing.
    ///
    /// # Errors
    /// When this process may not mount, or this system cannot.
    pub fn mount(path: impl Into<PathBuf>, bytes: u64) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        mount(&path, bytes).with_context(|| format!("cannot mount a disk at {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills it to the last byte.
    ///
    /// # Errors
    /// When writing fails for another reason than that it is full.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler()).context("cannot create the file that fills the disk")?;
        let mut chunk = vec![0_u8; 1 << 20];
        loop {
            match filler.write_all(&chunk) {
                Ok(()) => {}
                // What is left may still take less than a chunk.
                Err(error) if error.kind() == ErrorKind::StorageFull && chunk.len() > 1 => {
                    chunk.truncate(chunk.len() / 2);
                }
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("cannot fill the disk"),
            }
        }
    }

    /// Gives the space back that [`fill`](Self::fill) has taken.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn free(&self) -> Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("cannot free the disk"),
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

#[cfg(target_os = "linux")]
fn mount(path: &Path, bytes: u64) -> Result<()> {
    let options = std::ffi::CString::new(format!("size={bytes}"))?;
    Ok(rustix::mount::mount("tmpfs", path, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())?)
}

#[cfg(target_os = "linux")]
fn unmount(path: &Path) {
    // Detached: it goes away when the last file on it is closed.
    let _ = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
}

#[cfg(not(target_os = "linux"))]
fn mount(_: &Path, _: u64) -> Result<()> {
    anyhow::bail!("only Linux has tmpfs")
}

#[cfg(not(target_os = "linux"))]
fn unmount(_: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        let folder = tempfile::tempdir().unwrap();
        // Where mounting is not allowed there is nothing to test.
        let Ok(disk) = Disk::mount(folder.path().join("disk"), 1 << 20) else { return };
        let write = || fs::write(disk.path().join("file"), [1; 5000]);
        disk.fill().unwrap();
        assert_eq!(write().unwrap_err().kind(), ErrorKind::StorageFull);
        disk.free().unwrap();
        write().unwrap();
    }
}
