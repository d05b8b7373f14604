//! A disk of a few megabytes in memory, to be filled and freed. It takes root; elsewhere [`Disk::possible`] says why not.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Whether this machine lets us mount one.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn possible() -> Result<(), String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Self::mount(folder.path(), 1).map(drop)
    }

    /// Over a folder, which is empty or whose files nobody uses now: they move to the disk, with their owners and modes.
    ///
    /// # Errors
    /// Where this machine does not let us, in words.
    pub fn mount(at: &Path, megabytes: u32) -> Result<Self, String> {
        let was = at.metadata().map_err(|error| format!("{}: {error}", at.display()))?;
        let aside = at.with_extension("aside");
        run(Command::new("cp").arg("-a").arg(at).arg(&aside))?;
        let options = format!("size={megabytes}m,mode={:o},uid={},gid={}", was.mode() & 0o7777, was.uid(), was.gid());
        let mounted =
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at)).map(|()| Self { at: at.to_owned() });
        let filled = mounted.and_then(|disk| run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(at)).map(|()| disk));
        let _ = std::fs::remove_dir_all(&aside);
        filled
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
    /// Fills it to the last byte.
    pub fn fill(&self) {
        let Ok(mut file) = File::create(self.ballast()) else { return };
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0; size];
            while file.write_all(&piece).is_ok() {}
        }
    }
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a last reader may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_there_moves_to_the_disk_which_fills_and_heals() {
        if let Err(why) = Disk::possible() {
            println!("skipped: {why}");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("data");
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("kept"), "kept").unwrap();
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o750)).unwrap();
        let disk = Disk::mount(&at, 1).unwrap();
        assert_eq!((std::fs::read_to_string(at.join("kept")).unwrap().as_str(), at.metadata().unwrap().mode() & 0o777), ("kept", 0o750));
        disk.fill();
        let full = std::fs::write(at.join("more"), [1; 4096]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        disk.free();
        std::fs::write(at.join("more"), [1; 4096]).unwrap();
        drop(disk);
        assert!(!at.join("more").exists() && !folder.path().join("data.aside").exists());
    }
}
